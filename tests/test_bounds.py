"What 08_bounds does not assert itself: T3, T4 and T1 + T4 under hypothesis, order in C and k, bad input."
import pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.theory.bounds import scl_bound, ucl_bound
from hardcl_nb.theory.worlds import FiniteWorld, block_world, random_world
from hardcl_nb.theory.psi import InfoNCE, Linear, Softplus, Triplet
from hardcl_nb.theory.hardening import Exponential, MaxExponential, Polynomial, SoftThreshold

psis = st.one_of(st.builds(InfoNCE, st.floats(.01, 10), st.floats(.01, 10)), st.builds(Triplet, st.floats(0, 3)), st.just(Linear()), st.builds(Softplus, st.floats(.05, 3)))
etas = st.one_of(st.none(), st.builds(Exponential, st.floats(0, 50)), st.builds(Polynomial, st.floats(0, 5)), st.builds(SoftThreshold, st.floats(-1, 1), st.floats(.01, 1)), st.builds(MaxExponential, st.floats(0, 20)))
seeds, ks, Cs = st.integers(0, 2**31), st.integers(1, 3), st.integers(2, 4)

def ball(n, d, seed, reach):
    f = reach*torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return f/f.norm(dim=1, keepdim=True).clamp(min=1)

@settings(max_examples=60, deadline=None)
@given(seeds, Cs, ks, st.integers(1, 4), st.floats(.1, 3), psis, etas)
def test_supervised(seed, C, k, d, reach, psi, eta):
    world = random_world(C, 4, torch.Generator().manual_seed(seed), balanced=True)
    assert world.loss(ball(4, d, seed, reach), psi, eta, k).item() >= scl_bound(C, psi, k=k)-1e-12

@settings(max_examples=60, deadline=None)
@given(seeds, Cs, ks, st.integers(1, 4), st.floats(.1, 3), psis, etas)
def test_unsupervised(seed, C, k, d, reach, psi, eta):
    world = FiniteWorld(random_world(C, 4, torch.Generator().manual_seed(seed), balanced=True).px)
    assert world.loss(ball(4, d, seed, reach), psi, eta, k, supervised=False).item() >= ucl_bound(C, psi, k=k)-1e-12

@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 3), st.integers(1, 2), st.integers(1, 6), psis)
def test_instances(seed, per, k, d, psi):
    f = ball(2*per, d, seed, 3.)
    assert block_world(2, per, 'aligned').loss(f, psi, k=k, supervised=False).item() >= ucl_bound(2*per, psi, k=k)-1e-12

@settings(max_examples=40, deadline=None)
@given(st.integers(2, 1000), st.integers(1, 200), psis, st.floats(.1, 10))
def test_order(C, k, psi, tau):
    tol = 1e-12*(1+1/tau)
    assert scl_bound(C, psi, tau=tau) <= scl_bound(C+1, psi, tau=tau)+tol <= ucl_bound(C+1, psi, k=k, tau=tau)+2*tol <= ucl_bound(C, psi, k=k, tau=tau)+3*tol
    assert ucl_bound(C, psi, k=k, tau=tau) <= ucl_bound(C, psi, k=k+1, tau=tau)+tol <= ucl_bound(C, psi, tau=tau)+2*tol

@pytest.mark.parametrize('call,err,message', [
    (lambda: scl_bound('3'), TypeError, "num_classes: expected a whole number >= 2, got '3'"),
    (lambda: scl_bound(3, k=2.), TypeError, 'k: expected a whole number'),
    (lambda: scl_bound(3, tau=float('nan')), ValueError, 'tau: expected a finite number > 0, got nan'),
    (lambda: scl_bound(3, psi=7), TypeError, 'psi: expected a function'),
    (lambda: scl_bound(3, psi=lambda t: -t.mean(-1)), ValueError, 'never decreases'),
    (lambda: ucl_bound(3, k=0), ValueError, 'k: expected a whole number >= 1'),
    (lambda: ucl_bound(3, tau=-1), ValueError, 'tau: expected a finite number > 0'),
    (lambda: ucl_bound(3, lambda t: t, k=2), ValueError, 'one number per point')])
def test_bad_input(call, err, message):
    with pytest.raises(err, match=message.replace('(', r'\(')): call()
