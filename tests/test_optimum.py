"What 12_optimum does not assert itself: random counts and options against `contrastive_loss`, an optimiser, hardness, bad input."
import math, pytest, torch
from hypothesis import assume, given, settings, strategies as st
from hardcl_nb.theory.bounds import scl_bound
from hardcl_nb.theory.hucl import hucl_bound, hucl_means
from hardcl_nb.theory.optimum import batch_bound, batch_optimum, gram_bound
from hardcl_nb.losses.contrastive import contrastive_loss

seeds = st.integers(0, 2**31)
counts = st.lists(st.integers(1, 9), min_size=1, max_size=7)
options = st.fixed_dictionaries(dict(supervised=st.booleans(), alpha=st.sampled_from([0., .1, 1., 3.]), q=st.sampled_from([.2, 1., 'sum']), tau=st.sampled_from([.1, .5, 1., 4.])))

def labels(counts, sup):
    assume(max(counts)>1 and (len(counts)>1 or not sup))
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

def ball(n, d, seed, reach=2.):
    f = reach*torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return f/f.norm(dim=1, keepdim=True).clamp(min=1)

@settings(max_examples=80, deadline=None)
@given(seeds, counts, options, st.integers(1, 5), st.floats(.1, 5), st.sampled_from([0., 1., 10., 1000.]))
def test_no_batch_beats_its_bound(seed, counts, opts, d, reach, beta):
    y = labels(counts, opts['supervised'])
    bound = batch_bound(y, **opts)
    mu = batch_optimum(y, **opts)
    near = mu[y]+.05*ball(len(y), len(counts), seed)
    for z in (ball(len(y), d, seed, reach), mu[y], near/near.norm(dim=1, keepdim=True).clamp(min=1)):
        loss = contrastive_loss(z, y, beta=beta, **opts).item()
        assert loss >= bound-1e-13*(1+abs(bound))
        own = batch_bound(y, beta=beta, **opts) # HUCL's own, at least as large
        assert loss >= own-1e-12*(1+abs(own)) and own >= bound

@settings(max_examples=60, deadline=None)
@given(counts, options)
def test_attained(counts, opts):
    y = labels(counts, opts['supervised'])
    loss = contrastive_loss(batch_optimum(y, **opts)[y], y, **opts).item()
    assert loss-batch_bound(y, **opts) < 1e-9/opts['tau']

@settings(max_examples=30, deadline=None)
@given(seeds, counts, st.booleans())
def test_only_counts_matter(seed, counts, sup):
    y = labels(counts, sup)
    g = torch.Generator().manual_seed(seed)
    other = torch.randperm(100, generator=g)[y][torch.randperm(len(y), generator=g)].to(torch.uint8)
    assert batch_bound(other, supervised=sup)==batch_bound(y, supervised=sup)

@pytest.mark.parametrize('counts', [(2, 3, 7), (1, 1, 2, 4), (5, 5, 6, 2, 2)])
@pytest.mark.parametrize('sup', [True, False])
def test_optimiser_meets_bound(counts, sup):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = torch.randn(len(y), len(counts)+1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    opt = torch.optim.LBFGS([x], max_iter=300, history_size=30, tolerance_grad=1e-9, tolerance_change=0, line_search_fn='strong_wolfe')
    loss = lambda: contrastive_loss(x/x.norm(dim=1, keepdim=True), y, supervised=sup)
    def closure():
        opt.zero_grad(); l = loss(); l.backward()
        return l
    opt.step(closure)
    assert -1e-14 <= loss().item()-batch_bound(y, supervised=sup) < 1e-6

@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 8), st.floats(0, 5))
def test_gram_bound(seed, K, size):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(K, K, dtype=torch.float64, generator=g)
    b = gram_bound(W+W.T, size*torch.randn(K, dtype=torch.float64, generator=g))
    assert all(((W+W.T)*(m@m.T)).sum() >= b-1e-13 for m in (ball(K, d, seed+d, 3.) for d in range(1, 9)))

@pytest.mark.parametrize('C,m,beta,tau', [(2, 2, .3, 1.), (3, 4, 5., 1.), (10, 3, 12., 1.), (5, 2, 30., .5), (4, 6, 1., .2)])
def test_balanced_and_hard(C, m, beta, tau):
    "Supervised: the closed form whatever β. Unsupervised: HUCL's least loss, which its means attain."
    y = torch.arange(C).repeat(m)
    assert abs(batch_bound(y, beta=beta, tau=tau)-scl_bound(C, tau=tau)) < 1e-13
    bound = batch_bound(y, supervised=False, beta=beta, tau=tau)
    assert bound==pytest.approx(hucl_bound(C, beta, per_class=m, tau=tau), abs=1e-13)
    mu = hucl_means(C, beta, per_class=m, tau=tau, dtype=torch.float64)
    assert abs(contrastive_loss(mu[y], y, beta=beta, supervised=False, tau=tau).item()-bound) < 1e-12

def test_sum_and_mean_agree():
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    for beta in (0., 4.):
        assert batch_bound(y, supervised=False, beta=beta, q='sum')==pytest.approx(batch_bound(y, supervised=False, beta=beta, q=5.), abs=1e-9)

y4, z4 = torch.tensor([0, 0, 1, 1]), torch.eye(4, dtype=torch.float64)
@pytest.mark.parametrize('call,err,message', [
    (lambda: batch_bound(y4.double()), TypeError, 'y: expected integer labels'),
    (lambda: batch_bound(y4[:,None]), TypeError, 'y: expected a vector of integer labels'),
    (lambda: batch_bound(y4, supervised=2), ValueError, 'supervised: expected one of True, False'),
    (lambda: batch_bound(y4, beta=-1), ValueError, 'beta: expected a finite number >= 0, got -1'),
    (lambda: batch_bound(y4, beta=math.inf), ValueError, 'beta: expected a finite number >= 0'),
    (lambda: batch_bound(y4, beta='1'), TypeError, 'beta: expected a number >= 0'),
    (lambda: batch_bound(y4, q=0), ValueError, 'q: expected a finite number > 0'),
    (lambda: batch_bound(y4, alpha=math.inf), ValueError, 'alpha: expected a finite number >= 0'),
    (lambda: batch_optimum(torch.arange(4)), ValueError, 'a label that occurs twice'),
    (lambda: gram_bound(z4*math.nan, z4[0]), ValueError, 'W: expected finite numbers'),
    (lambda: gram_bound([[1.]], z4[0]), TypeError, 'W: expected a float64 tensor')])
def test_bad_input(call, err, message):
    with pytest.raises(err, match=message.replace('(', r'\(')): call()
