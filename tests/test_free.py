"Properties of the free-feature loss, its optimiser and its flow."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from hardcl_nb.theory.bounds import scl_bound
from hardcl_nb.theory.etf import etf_distance, simplex_etf
from hardcl_nb.theory.free import collapsed_loss, etf_rate, fit_means, flow_means

fast = settings(max_examples=40, deadline=None)
betas = st.floats(0, 50)


@st.composite
def means(draw, radius=1.):
    "Random class means in the ball of this radius, float64."
    C,d,seed = draw(st.integers(2, 7)), draw(st.integers(1, 6)), draw(st.integers(0, 10**6))
    x = torch.randn(C, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return radius*x/x.norm(dim=1, keepdim=True).clamp_min(1)


@fast
@given(means(), betas)
def test_scl_bound_holds(mu, beta):
    assert collapsed_loss(mu, beta=beta) >= scl_bound(len(mu))-1e-12


@fast
@given(means(3.), betas, betas, st.booleans())
def test_loss_grows_with_hardness(mu, a, b, supervised):
    lo,hi = (collapsed_loss(mu, beta=x, supervised=supervised) for x in sorted((a, b)))
    assert hi >= lo-1e-12


@fast
@given(means(2.), betas, st.booleans(), st.integers(0, 99))
def test_order_of_classes_is_irrelevant(mu, beta, supervised, seed):
    p = torch.randperm(len(mu), generator=torch.Generator().manual_seed(seed))
    kw = dict(beta=beta, supervised=supervised)
    assert_close(collapsed_loss(mu[p], **kw), collapsed_loss(mu, **kw), rtol=0, atol=1e-12)


@pytest.mark.parametrize('supervised', [True, False])
@pytest.mark.parametrize('beta', [0., 2., 30.])
def test_gradcheck(beta, supervised):
    mu = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: collapsed_loss(m, beta=beta, supervised=supervised, detach=False, alpha=.3, q=2.), mu)


@pytest.mark.parametrize('detach', [True, False])
@pytest.mark.parametrize('supervised', [True, False])
@pytest.mark.parametrize('scale', [0., 1., 30.])
def test_finite_at_extremes_in_float32(scale, supervised, detach):
    x = scale*torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for beta in (0., 1000.):
        mu = x.clone().requires_grad_()
        loss = collapsed_loss(mu, beta=beta, supervised=supervised, detach=detach)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(mu.grad).all()
        want = collapsed_loss(x.double(), beta=beta, supervised=supervised)
        assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)


def test_identical_means_give_log_alpha_plus_q():
    assert_close(collapsed_loss(torch.ones(6, 3), beta=7., alpha=2., q=5.).item(), math.log(7), rtol=1e-6, atol=0)


@pytest.mark.parametrize('norm', ['ball', 'sphere', 'none'])
def test_fit_is_reproducible_and_does_not_touch_its_start(norm):
    start = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kept = start.clone()
    (a,la),(b,lb) = (fit_means(5, 4, beta=1., norm=norm, steps=20, start=start) for _ in range(2))
    assert torch.equal(a, b) and torch.equal(la, lb) and torch.equal(start, kept)
    assert not a.requires_grad and la[-1]<la[0]


def test_fit_can_come_back_from_outside_the_ball():
    start = 4*torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mu,_ = fit_means(6, 5, beta=3., start=start)
    assert etf_distance(mu)<1e-5


def test_fit_reaches_the_bound_for_a_hundred_classes():
    mu,losses = fit_means(100, 100, beta=5., generator=torch.Generator().manual_seed(0))
    assert abs(losses[-1].item()-scl_bound(100))<1e-9 and mu.norm(dim=1).max()<1+1e-12


@pytest.mark.parametrize('norm', ['ball', 'sphere', 'none'])
def test_flow_can_be_continued(norm):
    x = simplex_etf(5, dtype=torch.float64)@torch.diag(torch.tensor([1., .8, .6, .9], dtype=torch.float64))
    if norm=='sphere': x = x/x.norm(dim=1, keepdim=True)
    kept = x.clone()
    _,whole = flow_means(x, beta=2., norm=norm, steps=30, every=10)
    _,first = flow_means(x, beta=2., norm=norm, steps=20, every=20)
    _,rest = flow_means(first[-1], beta=2., norm=norm, steps=10, every=10)
    assert_close(rest[-1], whole[-1], rtol=0, atol=1e-13)
    assert torch.equal(x, kept) and not whole.requires_grad


def test_the_etf_rests():
    mu = simplex_etf(6, dtype=torch.float64)
    for norm in ('ball', 'sphere'):
        _,X = flow_means(mu, beta=5., norm=norm, steps=50, every=50)
        assert_close(X[-1], mu, rtol=0, atol=1e-12)


@pytest.mark.parametrize('f, kw, err, message', [
    (collapsed_loss, dict(mu=torch.ones(3)), ValueError, 'mu: expected a tensor of shape (n, d)'),
    (collapsed_loss, dict(mu=[[1.], [2.]]), TypeError, 'mu: expected a torch tensor'),
    (collapsed_loss, dict(mu=torch.ones(3, 2, dtype=torch.long)), TypeError, 'mu: expected floating-point'),
    (collapsed_loss, dict(mu=torch.full((3, 2), math.nan)), ValueError, 'mu: expected finite embeddings'),
    (collapsed_loss, dict(mu=torch.ones(3, 2), beta=math.inf), ValueError, 'beta: expected a finite number'),
    (collapsed_loss, dict(mu=torch.ones(3, 2), q=-1), ValueError, 'q: expected a finite number > 0'),
    (fit_means, dict(num_classes=2.5, dim=2), TypeError, 'num_classes: expected a whole number'),
    (fit_means, dict(num_classes=3, dim=0), ValueError, 'dim: expected a whole number >= 1'),
    (fit_means, dict(num_classes=3, dim=2, beta=-1), ValueError, 'beta: expected a finite number >= 0'),
    (fit_means, dict(num_classes=3, dim=2, steps=0), ValueError, 'steps: expected a whole number >= 1'),
    (fit_means, dict(num_classes=3, dim=2, tol=-1), ValueError, 'tol: expected a finite number >= 0'),
    (fit_means, dict(num_classes=3, dim=2, start=torch.full((3, 2), math.inf)), ValueError, 'start: expected finite'),
    (flow_means, dict(start=torch.eye(3), every=0), ValueError, 'every: expected a whole number >= 1'),
    (flow_means, dict(start=torch.eye(3), norm='disc'), ValueError, 'norm: expected one of ball, sphere, none'),
    (flow_means, dict(start=torch.eye(3)[:1]), ValueError, 'mu: expected at least 2 row(s)'),
    (etf_rate, dict(num_classes=10, beta=-2), ValueError, 'beta: expected a finite number >= 0'),
    (etf_rate, dict(num_classes=10, alpha=0), ValueError, 'alpha: expected a finite number > 0'),
])
def test_bad_input(f, kw, err, message):
    with pytest.raises(err) as e: f(**kw)
    assert message in str(e.value)
