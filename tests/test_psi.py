"Prices: against plain formulas, mean forms and their limits, the checker, bad input."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.psi import (InfoNCE, Linear, MeanForm, Softplus, Triplet, Violation, broken, check_floats, check_psi,
    psi_violations, refuse, values_at)

@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=5), st.floats(.1, 10), st.floats(.1, 10))
def test_infonce_is_the_plain_formula(t, alpha, q):
    want = math.log(alpha+q*sum(map(math.exp, t))/len(t))
    assert InfoNCE(alpha, q)(torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(want, rel=1e-12, abs=1e-12)

def test_checker_finds_a_narrow_dent():
    dent = lambda t: (t - .2*(-(t/.1)**2).exp()).sum(-1)
    kinds = {v.kind for v in psi_violations(dent, 1)}
    assert kinds == {'monotone', 'convex'}
    v = psi_violations(dent, 1)
    assert [u.excess for u in v] == sorted((u.excess for u in v), reverse=True)
    for u in v:
        if u.kind=='monotone': assert (u.points[0]<=u.points[1]).all() and dent(u.points[0]) > dent(u.points[1])
        else: assert dent(u.points.mean(0)) > dent(u.points).mean()

family = st.one_of(st.builds(InfoNCE, st.floats(.01, 10), st.floats(.01, 10)), st.builds(Triplet, st.floats(0, 3)), st.just(Linear()),
    st.builds(Softplus, st.floats(.05, 3)), st.sampled_from([MeanForm(torch.exp, torch.log1p), MeanForm(lambda t: (t.clamp(min=-1)+1)**3)]))

@settings(max_examples=40, deadline=None)
@given(family, st.integers(1, 5), st.integers(0, 2**31))
def test_the_family_keeps_its_promises(psi, k, seed):
    assert check_psi(psi, k, trials=300, symmetric=True, generator=torch.Generator().manual_seed(seed)) is psi
    t = torch.randn(3, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    assert torch.autograd.gradcheck(psi, t)

@settings(max_examples=40, deadline=None)
@given(family, st.floats(-4, 4), st.integers(1, 6))
def test_equal_negatives_cost_what_one_costs(psi, t, k):
    one = torch.tensor([t], dtype=torch.float64)
    assert_close(psi(one.expand(k)), psi(one), rtol=1e-12, atol=1e-12)

@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.floats(.1, 5), st.floats(.1, 5))
def test_infonce_is_a_mean_form(t, alpha, q):
    t = torch.tensor(t, dtype=torch.float64)
    form = MeanForm(torch.exp, lambda v: (alpha+q*v).log())
    assert_close(form(t), InfoNCE(alpha, q)(t), rtol=1e-12, atol=1e-12)

def test_broken_reads_infinities():
    a = torch.zeros(4, 1)
    low = torch.tensor([-math.inf, 0., -math.inf, math.inf])
    high = torch.tensor([0., -math.inf, -math.inf, math.inf])
    assert [v.values.tolist() for v in broken('monotone', a, a, low, high, 1e-9)] == [[0., -math.inf]]
    assert len(broken('log', a, a, low, high, 1e-9, both=True)) == 2

def test_refuse_names_the_first():
    two = [Violation(k, torch.tensor([[1., 2.], [3., 4.]]), torch.tensor([5., 6.]), 1.) for k in ('convex', 'monotone')]
    refuse([], 'psi', 'ψ', 'anything')
    with pytest.raises(ValueError, match=r'psi: expected it, got 5 at the midpoint of \(1, 2\) and \(3, 4\), above their mean 6'): refuse(two, 'psi', 'ψ', 'it')

@pytest.mark.parametrize('make, error, message', [
    (lambda: InfoNCE(q=-1), ValueError, 'q: expected a finite number > 0'),
    (lambda: InfoNCE(alpha='1'), TypeError, 'alpha: expected a number'),
    (lambda: InfoNCE(math.inf), ValueError, 'alpha: expected a finite number'),
    (lambda: Triplet(-.1), ValueError, 'margin: expected a finite number >= 0'),
    (lambda: Softplus(0), ValueError, 'tau: expected a finite number > 0'),
    (lambda: Linear()(torch.ones(2, 0)), ValueError, 'k >= 1'),
    (lambda: Linear()(torch.ones(2, dtype=torch.long)), TypeError, 't: expected a floating-point tensor, got torch.int64'),
    (lambda: psi_violations(Linear(), 0), ValueError, 'k: expected a whole number >= 1'),
    (lambda: psi_violations(Linear(), trials=0), ValueError, 'trials'),
    (lambda: psi_violations(Linear(), scale=0), ValueError, 'scale'),
    (lambda: check_psi(lambda t: t[...,0], k=3, symmetric=True), ValueError, 'and symmetric'),
    (lambda: MeanForm(torch.exp)([1.]), TypeError, 'exp'),
    (lambda: check_psi(MeanForm(torch.sin)), ValueError, 'never decreases'),
    (lambda: check_floats(torch.ones(2).long(), 'x'), TypeError, 'x: expected a floating-point tensor, got torch.int64'),
    (lambda: values_at(torch.exp, torch.ones(2, 3), 'g'), ValueError, 'g: expected one number per point'),
    (lambda: values_at(lambda x: x.sum(-1)/0, torch.ones(2, 3), 'g'), ValueError, 'g: expected finite values'),
])
def test_bad_prices(make, error, message):
    with pytest.raises(error, match=message): make()
