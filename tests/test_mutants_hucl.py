"The checks of 09_free, 10_hucl and 14_batching can fail: a constant that is wrong by one per cent is noticed."
import math
import pytest
import torch
from torch.func import grad, jacrev
from hardcl_nb.theory.batching import batch_floor
from hardcl_nb.theory.etf import simplex_etf
from hardcl_nb.theory.free import collapsed_loss, descend, etf_rate, onto, pulls
from hardcl_nb.theory.hucl import (hucl_bound, hucl_counts_bound, hucl_critical_beta, hucl_gap, hucl_loss, hucl_mean_bound,
    hucl_means, hucl_radius, hucl_speed)
from hardcl_nb.theory.psi import InfoNCE

def wrong(f, factor): return lambda *a, **k: factor*f(*a, **k)

def batch_loss(z, y, beta, cost=None):
    "Exact HUCL loss of a batch (InfoNCE), or that of a price that is a mean over negatives."
    s, eye = z@z.T, torch.eye(len(y), dtype=torch.bool)
    pos = (y[:,None]==y)&~eye
    if cost is None:
        lse = lambda b: (b*s).masked_fill(eye, -math.inf).logsumexp(1, keepdim=True)
        each = torch.nn.functional.softplus(lse(1+beta)-lse(beta)-s)
    else: each = ((beta*s).masked_fill(eye, -math.inf).softmax(1)[:,:,None]*cost(s[:,:,None]-s[:,None,:])).sum(1)
    return ((each*pos).sum(1)/pos.sum(1).clamp(min=1))[pos.any(1)].mean()

def rows(counts): return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

def search(counts, d, beta, cost=None):
    "The least loss that a descent over all rows finds."
    y = rows(counts)
    x = torch.randn(len(y), d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)/math.sqrt(d)
    return descend(lambda x: batch_loss(onto(x), y, beta, cost), x, 600, 1e-11)[1][-1]

@pytest.fixture(scope='module')
def found():
    "What free optimisation reaches, computed once."
    cases = [(3, 2, 2, 1.), (2, 4, 1, 4.), (3, 3, 3, 5.)]
    cost = torch.nn.functional.softplus
    return {'balanced': {c: search([c[1]]*c[0], c[2], c[3]) for c in cases}, 'counts': search([2, 3, 4], 4, 3.),
        'mean': search([2, 2, 2], 3, 2., cost)}

def balanced(f, found):
    "Theorem of the balanced batch: attained by free optimisation, and not undercut."
    for (C,m,d,beta),loss in found['balanced'].items(): assert -1e-12<loss-f(C, beta, per_class=m)<1e-8

def unequal(f, found): assert -1e-12<found['counts']-f([2, 3, 4], 3.)<1e-6

def mean_price(f, found): assert -1e-12<found['mean']-f(3, 2., InfoNCE(), per_class=2)<1e-8

def world(f, found):
    "The value at the optimal means."
    for C,beta in [(3, 2.), (10, 5.), (10, 1.)]:
        assert abs(collapsed_loss(hucl_means(C, beta, dtype=torch.float64), beta=beta, supervised=False).item()-f(C, beta))<1e-12

def gap(f, found):
    "A minimum of the loss of the family, in a world and in a batch."
    for kw in ({}, dict(per_class=2)):
        for C,beta in [(3, .5), (10, 3.)]:
            D = f(C, beta, **kw)
            for x in (1-1e-4, 1+1e-4): assert hucl_loss(D, C, beta, **kw)<hucl_loss(x*D, C, beta, **kw)

def critical(f, found):
    for C in (3, 10): assert hucl_radius(C, f(C)-1e-6)==1 and hucl_radius(C, f(C)+1e-6)<1

def speed(f, found):
    for C,r,beta in [(3, .4, 2.), (10, .9, 5.)]:
        for detach in (True, False):
            mu = r*simplex_etf(C, dtype=torch.float64)
            loss = lambda x: C*collapsed_loss(x, beta=beta, supervised=False, detach=detach)
            x = mu.clone().requires_grad_()
            g, = torch.autograd.grad(loss(x), x)
            assert abs(-(g*mu).sum(1)[0].item()*2*C/(C-1)-f(r*r*C/(C-1), C, beta, detach=detach))<1e-12

def rate(f, found):
    "An eigenvalue of the linearised flow at the ETF, C(C-3)/2 times."
    unit = lambda x: x/x.norm(dim=1, keepdim=True)
    for C,beta in [(4, 0.), (6, 3.)]:
        mu = simplex_etf(C, dtype=torch.float64)
        def loss(x):
            lse = lambda b: (b*unit(x)@unit(x).T).masked_fill(torch.eye(C, dtype=torch.bool), -math.inf).logsumexp(1)
            return torch.log1p((lse(1+beta)-lse(beta)-1).exp()).sum()
        e = torch.linalg.eigvalsh(jacrev(grad(loss))(mu).reshape(mu.numel(), -1))
        assert int(((e-f(C, beta, detach=False)).abs()<1e-9).sum())==C*(C-3)//2

def slopes(f, found):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for kw in (dict(beta=3.), dict(beta=3., detach=False), dict(beta=1., supervised=False)):
        p = f(x, **kw)
        g, = torch.autograd.grad(5*collapsed_loss(x, **kw), x)
        assert ((p+p.T)@x.detach()-g).abs().max()<1e-12

def floor(f, found):
    "The loss at Neural Collapse of unequal counts."
    mu = simplex_etf(4, dtype=torch.float64)
    for counts,beta in [((3, 2, 2, 1), 0.), ((4, 3, 2, 0), .2)]:
        loss = batch_loss(mu[rows(counts)], rows(counts), beta).item()
        assert abs(loss-f(counts, supervised=False, beta=beta))<1e-12

pairs = [(balanced, hucl_bound), (unequal, hucl_counts_bound), (mean_price, hucl_mean_bound), (world, hucl_bound), (gap, hucl_gap),
    (critical, hucl_critical_beta), (speed, hucl_speed), (rate, etf_rate), (slopes, pulls), (floor, batch_floor)]

@pytest.mark.parametrize('check,f', pairs, ids=lambda x: x.__name__)
def test_one_per_cent_is_noticed(check, f, found):
    check(f, found)
    for factor in (.99, 1.01):
        with pytest.raises(AssertionError): check(wrong(f, factor), found)

def test_a_batch_is_not_a_world(found):
    "With C-1 in the place of M the bound of a batch is missed: M matters."
    with pytest.raises(AssertionError): balanced(lambda C, beta, per_class: hucl_bound(C, beta), found)

def test_the_collision_itself_counts(found):
    "With n-1 negatives of which m, not m-1, collide, too."
    with pytest.raises(AssertionError): balanced(lambda C, beta, per_class: hucl_bound(C, beta, per_class=per_class+1), found)

def test_too_few_dimensions_are_noticed():
    "d < C-1: the bound holds, and is missed by far more than the tolerance of the checks."
    for C,m,d,beta in [(4, 2, 2, 3.), (3, 2, 1, 1.)]: assert search([m]*C, d, beta)-hucl_bound(C, beta, per_class=m)>1e-4

def test_all_orders_are_needed():
    "One order of unequal counts is not exchangeable: its least loss is below the floor by more than rounding."
    y, mu = rows([6, 6]), torch.tensor([[1.], [-1.]], dtype=torch.float64)
    assert batch_loss(mu[y], y, 0.).item()<batch_floor([6, 6, 0, 0], supervised=False)-1e-3
