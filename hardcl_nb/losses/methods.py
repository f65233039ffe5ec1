from functools import partial
from hardcl_nb.tables import methods
from hardcl_nb.checks import *
from hardcl_nb.losses.exact import contrastive_loss
from hardcl_nb.losses.estimators import sampled_loss
def make_loss(method, beta=0., *, k=None, hardening='exp', generator=None, **options):
    methods.facts(method)
    check_number(beta, 'beta', 0)
    hard = method.startswith('h')
    need(hard or beta==0, 'beta', beta, f'0 for {method}, which has no hardness (use h{method} for beta > 0)')
    if k is None: return partial(contrastive_loss, beta=float(beta), supervised=method.endswith('scl'), **options)
    return partial(sampled_loss, k=check_count(k,'k'), beta=float(beta), supervised=method.endswith('scl'), generator=generator, **options)
