"The checks of 11_certificate and 12_optimum can fail: a constant that is wrong by one per cent is noticed."
import math, pytest, torch
from hardcl_nb.theory.certificate import batch_loss, certificate
from hardcl_nb.theory.etf import simplex_etf
from hardcl_nb.theory.hardening import Exponential
from hardcl_nb.theory.hucl import hucl_means
from hardcl_nb.theory.optimum import batch_bound, batch_optimum, gram_bound

def rows(*counts): return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
def wrong(f, factor): return lambda *a, **k: factor*f(*a, **k)
either = (.99, 1.01)

def attained(f):
    "M1: what `batch_optimum` costs."
    for y in (rows(2, 3), rows(1, 1, 4), rows(5, 5, 6, 2)):
        for sup in (True, False):
            mu = batch_optimum(y, supervised=sup)[y]
            assert -1e-12<batch_loss(mu@mu.T, y, supervised=sup).item()-f(y, supervised=sup)<1e-8

def hard_and_balanced(f):
    "M3: HUCL's means attain it."
    for C,m,beta in [(3, 2, 5.), (10, 3, 2.)]:
        y = torch.arange(C).repeat(m)
        mu = hucl_means(C, beta, per_class=m, dtype=torch.float64)[y]
        assert abs(batch_loss(mu@mu.T, y, eta=Exponential(beta), supervised=False).item()-f(y, supervised=False, beta=beta))<1e-12

def dual(f):
    "M2: exact for the matrix of T2, whose least value is -C."
    for C in (3, 10):
        W = torch.ones(C, C, dtype=torch.float64)-torch.eye(C, dtype=torch.float64)
        mu = simplex_etf(C, dtype=torch.float64)
        least = (W*(mu@mu.T)).sum().item()
        assert -1e-10<least-f(W, torch.ones(C, dtype=torch.float64))<1e-10

@pytest.mark.parametrize('check,f', [(attained, batch_bound), (hard_and_balanced, batch_bound), (dual, gram_bound)], ids=lambda x: x.__name__)
def test_one_per_cent_is_noticed(check, f):
    check(f)
    for factor in either:
        with pytest.raises(AssertionError): check(wrong(f, factor))

def test_hand_made_example():
    "Three classes in two groups: F(s) of the page, with one of its constants wrong, is no longer the least loss."
    def least(m, far=1., near=1.):
        s = torch.linspace(0, 1, 100001, dtype=torch.float64)
        a,b = far*torch.exp(-s-1),near*torch.exp(2*s*s-2)
        return (m/(m+12)*torch.log1p(a)+12/(m+12)*torch.log1p((m*a+6*b)/(m+6))).min().item()
    for m in (2, 20):
        bound = batch_bound(rows(m, 6, 6))
        assert abs(least(m)-bound)<1e-9
        for c in either: assert abs(least(m, far=c)-bound)>1e-5 and abs(least(m, near=c)-bound)>1e-5

def test_each_piece_of_the_certificate_counts():
    "B6: the pieces sum to the gap; with any one of them a per cent off they do not."
    y = torch.arange(3).repeat_interleave(4)
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = .9*z/z.norm(dim=1, keepdim=True).clamp(min=1)
    c = certificate(z, y, eta=Exponential(2.), supervised=False)
    assert abs(sum(c.lost.values())-c.gap)<1e-13
    for name,v in c.lost.items():
        if name!='dependence': assert v>1e-6 and abs(sum(c.lost.values())-.01*v-c.gap)>1e-9, name

def test_the_defects_are_what_they_say():
    "Each coefficient of the decomposition, from a representation that has this defect alone."
    C = 4
    y, e = torch.arange(C).repeat_interleave(3), simplex_etf(C, dtype=torch.float64)
    for r in (.5, .9): assert math.isclose(certificate(r*e[y], y).slack['radius'], (1-r*r)*C/(C-1), rel_tol=1e-12)
    shift = torch.cat([.8*e, torch.full((C, 1), .6, dtype=torch.float64)], 1)
    assert math.isclose(certificate(shift[y], y).slack['zero_sum'], .36*C/(C-1), rel_tol=1e-12)
