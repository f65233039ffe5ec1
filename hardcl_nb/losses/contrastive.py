import torch
from torch import nn, Tensor
from .exact import LossOptions, plain_loss
from ..checks import check_choice
def contrastive_loss(z, y, *, engine='auto', **options):
    check_choice(engine, 'engine', ('auto', 'plain', 'tiled', 'kernel'))
    return plain_loss(z, y, **options)
class ContrastiveLoss(nn.Module):
    def __init__(self, beta:float=0., supervised:bool=True, detach:bool=True, alpha:float=1., q:float|str=1., tau:float=1., tau_plus:float=0., reduction:str='mean', validate:bool=True, engine:str='auto'):
        super().__init__()
        LossOptions(beta, supervised, detach, alpha, q, tau, tau_plus).check()
        check_choice(reduction, 'reduction', ('mean', 'none')); check_choice(engine, 'engine', ('auto', 'plain', 'tiled', 'kernel'))
        self.__dict__.update({k: v for k,v in locals().items() if k not in ('self', '__class__')})
    def forward(self, z, y, weight=None, *, beta=None):
        kw = {k: getattr(self, k) for k in (*LossOptions.__dataclass_fields__, 'reduction', 'validate', 'engine')}
        if beta is not None: kw['beta'] = beta
        return contrastive_loss(z, y, weight=weight, **kw)
class SCL(ContrastiveLoss):
    def __init__(self, detach=True, alpha=1., q=1., tau=1., tau_plus=0., reduction='mean', validate=True, engine='auto'): super().__init__(0., True, detach, alpha, q, tau, tau_plus, reduction, validate, engine)
class HSCL(ContrastiveLoss):
    def __init__(self, beta, detach=True, alpha=1., q=1., tau=1., tau_plus=0., reduction='mean', validate=True, engine='auto'): super().__init__(beta, True, detach, alpha, q, tau, tau_plus, reduction, validate, engine)
class UCL(ContrastiveLoss):
    def __init__(self, detach=True, alpha=1., q=1., tau=1., tau_plus=0., reduction='mean', validate=True, engine='auto'): super().__init__(0., False, detach, alpha, q, tau, tau_plus, reduction, validate, engine)
class HUCL(ContrastiveLoss):
    def __init__(self, beta, detach=True, alpha=1., q=1., tau=1., tau_plus=0., reduction='mean', validate=True, engine='auto'): super().__init__(beta, False, detach, alpha, q, tau, tau_plus, reduction, validate, engine)
