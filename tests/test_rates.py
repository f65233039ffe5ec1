"One distribution, many rates: properties of pulls, ranges and bounds on random worlds, and constants that are wrong by one per cent."
import math
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.losses.exact import plain_loss
from hardcl_nb.theory.etf import simplex_etf
from hardcl_nb.theory.free import descend, onto
from hardcl_nb.theory.rates import hard_pull, log_factor, rate_range, raw_bound, towers_bound

fast = settings(max_examples=60, deadline=None)
inner = st.floats(-1, 1)
world = st.tuples(st.lists(inner, min_size=1, max_size=6), inner)
hardness, temperature = st.floats(0, 30), st.floats(.05, 2)
f64 = dict(dtype=torch.float64)

def tensors(world, tau): return torch.tensor(world[0], **f64)/tau, torch.tensor(world[1], **f64)/tau


@fast
@given(world, hardness, temperature, st.floats(-200, 200), st.sampled_from([0., .1, 1., 5.]))
def test_pulls_are_what_the_formula_says(world, beta, tau, log_c, alpha):
    "Term by term, with the logarithms of sums taken by hand; no factor overflows."
    neg, pos = tensors(world, tau)
    got = hard_pull(neg, pos, beta, log_c=log_c, alpha=alpha)
    logs = [(1+beta)*u/tau for u in world[0]]
    top = max(logs)
    total = math.fsum(math.exp(l-top) for l in logs)
    x = log_c+top+math.log(total)-world[1]/tau
    if alpha: loss = max(x, math.log(alpha))+math.log1p(math.exp(-abs(x-math.log(alpha))))
    else: loss = x
    e = math.exp(-abs(x-math.log(alpha))) if alpha else 0.
    rate = 1. if not alpha else 1/(1+e) if x>math.log(alpha) else e/(1+e)
    assert math.isclose(got.loss, loss, rel_tol=1e-11, abs_tol=1e-11)
    assert math.isclose(got.rate, rate, rel_tol=1e-10, abs_tol=1e-300)
    for share,l in zip(got.share.tolist(), logs): assert math.isclose(share, math.exp(l-top)/total, rel_tol=1e-10, abs_tol=1e-300)


@fast
@given(world, hardness, temperature, st.floats(.01, 10))
def test_pulls_of_two_factors_are_proportional(world, beta, tau, c):
    neg, pos = (x.requires_grad_() for x in tensors(world, tau))
    grads = [torch.autograd.grad(hard_pull(neg, pos, beta, log_c=k).loss, (neg, pos))
        for k in (log_factor(neg, beta), torch.tensor(math.log(c), **f64))]
    (a, pa), (b, pb) = grads
    torch.testing.assert_close(a*pb, b*pa, rtol=1e-10, atol=0)


@fast
@given(world, hardness, hardness, temperature, st.sampled_from([.3, 1., 'sum']))
def test_harder_never_slows_an_anchor_down(world, b1, b2, tau, q):
    "With normalised weights rate and loss do not fall as hardness grows, and the hardest negative does not lose."
    neg, pos = tensors(world, tau)
    low, high = sorted((b1, b2))
    a, b = (hard_pull(neg, pos, x, log_c=log_factor(neg, x, q)) for x in (low, high))
    assert b.rate>=a.rate*(1-1e-12) and b.loss>=a.loss-1e-12
    assert b.share[neg.argmax()]>=a.share[neg.argmax()]-1e-12


@fast
@given(world, hardness, temperature, st.sampled_from([0., .2, 1., 3.]), st.sampled_from([.3, 1., 7.]))
def test_rates_stay_in_their_range(world, beta, tau, alpha, q):
    neg, pos = tensors(world, tau)
    low, high = rate_range(tau, alpha=alpha, q=q)
    rate = hard_pull(neg, pos, beta, log_c=log_factor(neg, beta, q), alpha=alpha).rate
    assert low*(1-1e-9)<=rate<=high*(1+1e-9)
    low, high = rate_range(tau, alpha=alpha, q=len(neg), raw_beta=beta)
    assert low*(1-1e-9)<=hard_pull(neg, pos, beta, alpha=alpha).rate<=high*(1+1e-9)


@fast
@given(temperature, temperature, hardness)
def test_a_lower_temperature_has_a_wider_range(t1, t2, beta):
    cold, warm = sorted((t1, t2))
    a, b = (rate_range(t, q=3., raw_beta=beta) for t in (cold, warm))
    assert a[0]<=b[0] and b[1]<=a[1]


def test_tiny_temperatures_do_not_overflow(): assert rate_range(1e-4)==(0., 1.) and math.isfinite(raw_bound(3, 2, 50., 1e-4))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 12), st.sampled_from([.4, 1.]), st.sampled_from([1., 'sum']))
def test_losses_of_the_package_obey_it(seed, beta, tau, q):
    "Row by row the gradient of HSCL, one positive each, is that of the decoupled loss times a rate, which is in the range."
    gen = torch.Generator().manual_seed(seed)
    z = onto(torch.randn(8, 3, generator=gen, **f64)).requires_grad_()
    y = torch.arange(4).repeat(2)
    hard = plain_loss(z, y, beta=beta, tau=tau, q=q, reduction='none')
    plain = plain_loss(z, y, tau=tau/(1+beta), alpha=0., reduction='none')
    low, high = rate_range(tau, q=6. if q=='sum' else q)
    for i in range(8):
        (a,), (b,) = (torch.autograd.grad(x[i], z, retain_graph=True) for x in (hard, plain))
        rate = (1+beta)*(a*b).sum()/(b*b).sum()
        torch.testing.assert_close(a, rate/(1+beta)*b, rtol=1e-8, atol=1e-10)
        assert low-1e-9<=rate<=high+1e-9


def raw_loss(z, y, beta, tau, alpha):
    "Pair by pair."
    s = z@z.T/tau
    rows = []
    for i in range(len(y)):
        total = ((1+beta)*s[i][y!=y[i]]).exp().sum()
        pairs = [torch.log(alpha+total*(-s[i, p]).exp()) for p in range(len(y)) if p!=i and y[p]==y[i]]
        rows.append(sum(pairs)/len(pairs))
    return sum(rows)/len(rows)

def towers_loss(a, b, beta, tau):
    u = a@b.T/tau
    rows = [torch.log1p(sum(((1+beta)*u[i, j]-u[i, i]).exp() for j in range(len(a)) if j!=i)) for i in range(len(a))]
    return sum(rows)/len(rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(2, 3), st.floats(0, 6), st.floats(.3, 2), st.sampled_from([0., .5, 1.]), st.integers(0, 10**6))
def test_raw_bound_holds_and_neural_collapse_attains_it(C, m, beta, tau, alpha, seed):
    y, bound = torch.arange(C).repeat(m), raw_bound(C, m, beta, tau, alpha=alpha)
    noise = torch.randn(C*m, C, generator=torch.Generator().manual_seed(seed), **f64)
    etf = simplex_etf(C, C, **f64)[y]
    assert math.isclose(raw_loss(etf, y, beta, tau, alpha), bound, rel_tol=1e-11, abs_tol=1e-11)
    for size in (1e-2, .3, 3.): assert raw_loss(onto(etf*math.pi/2+size*noise), y, beta, tau, alpha)>=bound-1e-11


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.floats(0, 6), st.floats(.3, 2), st.integers(0, 10**6))
def test_towers_bound_holds_and_is_attained(n, beta, tau, seed):
    bound, etf, pole = towers_bound(n, beta, tau), simplex_etf(n, n, **f64), torch.eye(n, **f64)[:1].expand(n, n)
    both = [towers_loss(etf, etf, beta, tau), towers_loss(pole, -pole, beta, tau)]
    assert math.isclose(min(both), bound, rel_tol=1e-11) and (both[1]<=both[0]*(1+1e-12) or beta*(n-2)<=n*(1+1e-9))
    gen = torch.Generator().manual_seed(seed)
    for base in (etf, pole):
        a, b = (onto(x*math.pi/2+.2*torch.randn(n, n, generator=gen, **f64)) for x in (base, base if base is etf else -base))
        assert towers_loss(a, b, beta, tau)>=bound-1e-12


@pytest.fixture(scope='module')
def found():
    "What descents reach, computed once: losses, and ends of A - log q - s_p."
    start = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(0), **f64)/2
    y = torch.arange(3).repeat(2)
    raw = {(3, 2, 2., 1.): min(descend(lambda x: raw_loss(onto(x), y, 2., 1., 1.), start(6, 3), 300, 1e-11)[1])}
    towers = {(3, b, 1.): min(descend(lambda x: towers_loss(*onto(x).chunk(2), b, 1.), start(6, 3), 300, 1e-11)[1]) for b in (1., 4.)}
    def gap(x, beta):
        z = onto(x)
        u = z[2:]@z[0]
        return ((1+beta)*u).logsumexp(0)+log_factor(u, beta, 1.)-z[0]@z[1]
    ends = [sign*min(min(descend(lambda x: sign*gap(x, 20.), x, 100, 1e-10)[1]) for x in start(2, 4, 3)) for sign in (1, -1)]
    return dict(raw=raw, towers=towers, ends=[1/(1+math.exp(-x)) for x in ends])

def bound_of_raw(f, found):
    for args,loss in found['raw'].items(): assert -1e-12<loss-f(*args)<1e-8

def bound_of_towers(f, found):
    for args,loss in found['towers'].items(): assert -1e-12<loss-f(*args)<1e-8

def least_rate(f, found): assert math.isclose(found['ends'][0], f(1.), rel_tol=1e-6)

def largest_rate(f, found): assert math.isclose(found['ends'][1], f(1.), rel_tol=1e-6)

def normalised(f, found):
    neg = torch.tensor([.5, -.2, .1], **f64)
    assert math.isclose((f(neg, 2.)+(2*neg).logsumexp(0)).exp(), 3, rel_tol=1e-12)

checks = [(bound_of_raw, raw_bound), (bound_of_towers, towers_bound), (least_rate, lambda t: rate_range(t)[0]),
    (largest_rate, lambda t: rate_range(t)[1]), (normalised, log_factor)]

@pytest.mark.parametrize('check, f', checks, ids=[c.__name__ for c,_ in checks])
@pytest.mark.parametrize('factor', [.99, 1.01])
def test_a_wrong_constant_is_noticed(check, f, factor, found):
    check(f, found)
    with pytest.raises(AssertionError): check(lambda *a: factor*f(*a), found)


@pytest.mark.parametrize('f, args, kw, err, message', [
    (hard_pull, (torch.zeros(3, dtype=torch.long), torch.zeros(())), {}, TypeError, 'neg: expected a floating-point tensor of similarities, (..., N), got dtype torch.int64'),
    (hard_pull, (torch.zeros(()), torch.zeros(())), {}, ValueError, 'neg: expected a negative for each anchor'),
    (hard_pull, (torch.zeros(3), 0.), {}, ValueError, 'pos: expected a tensor of shape (), got float'),
    (hard_pull, (torch.zeros(3), torch.zeros(())), dict(alpha=-1), ValueError, 'alpha: expected a finite number >= 0, got -1'),
    (log_factor, (torch.zeros(3),), dict(q=0), ValueError, 'q: expected a finite number > 0, got 0'),
    (rate_range, (), dict(q=0), ValueError, 'q: expected a finite number > 0, got 0'),
    (rate_range, (), dict(raw_beta=-1), ValueError, 'raw_beta: expected a finite number >= 0, got -1'),
    (rate_range, (), dict(alpha=-1), ValueError, 'alpha: expected a finite number >= 0, got -1'),
    (raw_bound, (1, 2), {}, ValueError, 'num_classes: expected a whole number >= 2, got 1'),
    (raw_bound, (3, 2, -1), {}, ValueError, 'beta: expected a finite number >= 0, got -1'),
    (raw_bound, (3, 2, 1, 0), {}, ValueError, 'tau: expected a finite number > 0, got 0'),
    (raw_bound, (3, 2), dict(alpha=-1), ValueError, 'alpha: expected a finite number >= 0, got -1'),
    (towers_bound, (3, -1), {}, ValueError, 'beta: expected a finite number >= 0, got -1'),
    (towers_bound, (3, 1, 0), {}, ValueError, 'tau: expected a finite number > 0, got 0'),
    (towers_bound, (3,), dict(alpha=-1), ValueError, 'alpha: expected a finite number >= 0, got -1'),
])
def test_bad_input(f, args, kw, err, message):
    with pytest.raises(err) as e: f(*args, **kw)
    assert message in str(e.value)
