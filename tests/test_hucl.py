"Properties of the HUCL optimum: the bound as a property of random representations, monotony, bad input."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn.functional import softplus

from hardcl_nb.theory.bounds import ucl_bound
from hardcl_nb.theory.free import collapsed_loss
from hardcl_nb.theory.hucl import hucl_bound, hucl_counts_bound, hucl_critical_beta, hucl_gap, hucl_loss, hucl_means, hucl_radius, hucl_speed

fast = settings(max_examples=60, deadline=None)
classes = st.integers(2, 10**6)
betas = st.floats(1e-6, 1000)


def points(n, d, seed, radius):
    "Random points in the ball of this radius, float64, of many sizes."
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=gen, dtype=torch.float64)
    return radius*torch.rand(1, generator=gen, dtype=torch.float64)*x/x.norm(dim=1, keepdim=True).clamp_min(1)


@fast
@given(st.integers(2, 8), st.integers(1, 8), st.integers(0, 10**6), st.floats(.01, 40))
def test_no_collapsed_means_in_the_ball_get_below(C, d, seed, beta):
    mu = points(C, d, seed, 1.)
    assert collapsed_loss(mu, beta=beta, supervised=False, alpha=.5, q=2.) >= hucl_bound(C, beta, alpha=.5, q=2.)-1e-12


@fast
@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(1., 20))
def test_above_the_critical_hardness_no_norm_is_needed(C, seed, factor):
    beta = factor*hucl_critical_beta(C)
    assert collapsed_loss(points(C, 5, seed, 4.), beta=beta, supervised=False) >= hucl_bound(C, beta)-1e-12


@fast
@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 10**6), st.floats(.01, 20))
def test_no_world_with_independent_positives_gets_below(C, m, seed, beta):
    s = (z := points(C*m, 4, seed, 1.))@z.T
    y = torch.arange(C*m)//m
    hard = ((1+beta)*s).logsumexp(1)-(beta*s).logsumexp(1)
    loss = softplus(hard[:,None]-s)[y[:,None]==y].mean()
    assert loss >= hucl_bound(C, beta)-1e-12


def batch_loss(z, y, beta, alpha=1., q=1., tau=1.):
    "Exact HUCL loss of a batch: every other row is a negative, every other row of the class a positive."
    s, eye = z@z.T/tau, torch.eye(len(y), dtype=torch.bool)
    pos = (y[:,None]==y)&~eye
    lse = lambda b: (b*s).masked_fill(eye, -math.inf).logsumexp(1)
    hard = lse(1+beta)-lse(beta)
    price = torch.logaddexp(hard[:,None]-s+math.log(q), torch.full_like(s, math.log(alpha)))
    return ((price*pos).sum(1)/pos.sum(1).clamp(min=1))[pos.any(1)].mean()


@fast
@given(st.integers(2, 5), st.integers(2, 4), st.integers(1, 5), st.integers(0, 10**6), st.floats(.01, 20), st.floats(.1, 2))
def test_no_balanced_batch_gets_below(C, m, d, seed, beta, tau):
    loss = batch_loss(points(C*m, d, seed, 1.), torch.arange(C*m)//m, beta, .5, 2., tau)
    assert loss >= hucl_bound(C, beta, per_class=m, alpha=.5, q=2., tau=tau)-1e-12


@fast
@given(st.lists(st.integers(1, 5), min_size=2, max_size=5).filter(lambda c: max(c)>1), st.integers(1, 5), st.integers(0, 10**6), st.floats(0, 20))
def test_no_batch_gets_below_the_bound_of_its_counts(counts, d, seed, beta):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    loss = batch_loss(points(len(y), d, seed, 1.), y, beta, .5, 2., .7)
    assert loss >= hucl_counts_bound(counts, beta, alpha=.5, q=2., tau=.7)-1e-12


@pytest.mark.parametrize('kw', [{}, dict(alpha=0, q=3., tau=.4), dict(tau=.05)])
@pytest.mark.parametrize('C, m', [(2, 2), (5, 3), (100, 5)])
def test_equal_counts_have_the_balanced_bound(C, m, kw):
    for beta in (0, .1, 1., 5., 30.):
        assert math.isclose(hucl_counts_bound([m]*C, beta, **kw), hucl_bound(C, beta, per_class=m, **kw), rel_tol=1e-12, abs_tol=1e-13)


def test_many_rows_per_class_are_the_limit():
    for C,beta in [(2, 3.), (10, 1.), (10, 5.)]:
        gaps = [hucl_bound(C, beta, per_class=m)-hucl_bound(C, beta) for m in (10**3, 10**6)]
        assert abs(gaps[0])>100*abs(gaps[1])>0
    assert hucl_counts_bound([7], 3., alpha=2., q=5.)==math.log(7)


@fast
@given(classes, betas, st.floats(.5, 2))
def test_the_gap_is_a_minimum(C, beta, factor):
    D = hucl_gap(C, beta)
    assert D>0 and hucl_loss(D, C, beta) <= hucl_loss(factor*D, C, beta)+1e-14


@fast
@given(classes, betas, betas)
def test_more_hardness_never_grows_the_radius_nor_lowers_the_bound(C, a, b):
    lo,hi = sorted((a, b))
    assert hucl_radius(C, hi) <= hucl_radius(C, lo)+1e-15
    assert hucl_bound(C, hi) >= hucl_bound(C, lo)-1e-14


@fast
@given(classes, classes, betas)
def test_more_classes_never_shrink_the_radius(a, b, beta):
    lo,hi = sorted((a, b))
    assert hucl_gap(lo, beta) <= hucl_gap(hi, beta)*(1+1e-14)
    assert hucl_critical_beta(lo) <= hucl_critical_beta(hi)*(1+1e-14)


@fast
@given(st.integers(2, 50), st.floats(.01, 100), st.floats(0, 3))
def test_speed_is_the_derivative_of_the_loss(C, beta, gap):
    D = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
    g = (1+(C-1)*(-(1+beta)*D).exp())/(1+(C-1)*(-beta*D).exp())
    slope, = torch.autograd.grad(torch.log(.5+2*g), D)
    want = -4*gap*C/(C-1)*slope.item()
    assert math.isclose(hucl_speed(gap, C, beta, detach=False, alpha=.5, q=2.), want, rel_tol=1e-9, abs_tol=1e-12)
    assert hucl_speed(gap, C, beta) >= 0


def test_without_hardening_it_is_the_ucl_bound():
    for C in (2, 10, 100): assert math.isclose(hucl_bound(C, 0), ucl_bound(C), rel_tol=1e-13)
    assert hucl_radius(10, 0)==1


@pytest.mark.parametrize('f, args, kw, err, message', [
    (hucl_loss, ('1', 10, 2), {}, TypeError, "gap: expected a number"),
    (hucl_loss, (math.inf, 10, 2), {}, ValueError, 'gap: expected a finite number >= 0, got inf'),
    (hucl_loss, (1, 10, 2), dict(alpha=0), ValueError, 'alpha: expected a finite number > 0'),
    (hucl_gap, (1, 2), {}, ValueError, 'num_classes: expected a whole number >= 2, got 1'),
    (hucl_gap, (10, math.nan), {}, ValueError, 'beta: expected a finite number >= 0, got nan'),
    (hucl_radius, (10, True), {}, TypeError, 'beta: expected a number >= 0, got True'),
    (hucl_critical_beta, (0,), {}, ValueError, 'num_classes: expected a whole number >= 2'),
    (hucl_bound, (10, -1), {}, ValueError, 'beta: expected a finite number >= 0, got -1'),
    (hucl_bound, (10, 1), dict(q=0), ValueError, 'q: expected a finite number > 0'),
    (hucl_bound, (10, 1), dict(per_class=1), ValueError, 'per_class: expected a whole number >= 2, got 1'),
    (hucl_bound, (10, 1), dict(alpha=-1), ValueError, 'alpha: expected a finite number >= 0, got -1'),
    (hucl_bound, (10, 1), dict(tau=0), ValueError, 'tau: expected a finite number > 0, got 0'),
    (hucl_counts_bound, ([1, 1], 1), {}, ValueError, 'counts: expected a class with two rows or more (a positive pair), got [1, 1]'),
    (hucl_counts_bound, ([2, 0], 1), {}, ValueError, 'counts: expected a whole number >= 1, got 0'),
    (hucl_counts_bound, ([2, 2.5], 1), {}, TypeError, 'counts: expected a whole number >= 1, got 2.5'),
    (hucl_counts_bound, ([2, 3], -1), {}, ValueError, 'beta: expected a finite number >= 0, got -1'),
    (hucl_means, (10, 2, 8), {}, ValueError, 'dim: expected at least'),
    (hucl_means, (10, 2, 20), dict(norm='none'), ValueError, 'norm: expected one of ball, sphere'),
    (hucl_means, (10, 2, 9.), {}, TypeError, 'dim: expected a whole number'),
    (hucl_speed, (-1, 10, 2), {}, ValueError, 'gap: expected a finite number >= 0, got -1'),
])
def test_bad_input(f, args, kw, err, message):
    with pytest.raises(err) as e: f(*args, **kw)
    assert message in str(e.value)


def test_dtype_of_means():
    assert hucl_means(4, 2., dtype=torch.float32).dtype==torch.float32
    assert hucl_means(4, 2., norm='sphere').dtype==torch.get_default_dtype()
