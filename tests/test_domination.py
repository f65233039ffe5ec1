"T1 over random worlds, representations, prices and hardenings; its proof step by step; dependent negatives."
import math
import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.domination import chebyshev_terms, covariance, dependent_game, distinct_law, domination_gap, harris_steps
from hardcl_nb.theory.psi import InfoNCE, Linear, Softplus, Triplet
from hardcl_nb.theory.worlds import block_world, random_world, tuple_law, tuples
from hardcl_nb.theory.hardening import Exponential, MaxExponential, Polynomial, SoftThreshold, Threshold

seeds, ks, sides = st.integers(0, 2**31), st.integers(1, 3), st.booleans()
hardness = st.floats(0, 50)
psis = st.one_of(
    st.builds(InfoNCE, st.floats(.01, 10), st.floats(.01, 10)), st.builds(Triplet, st.floats(0, 2)), st.builds(Softplus, st.floats(.01, 2)), st.just(Linear()),
    st.sampled_from([lambda t: t.tanh().sum(-1), lambda t: t.amin(-1), lambda t: (t>-.3).double().prod(-1), lambda t: t[...,0]+2*t[...,-1]])) # neither convex nor all symmetric
etas = st.one_of(
    st.builds(Exponential, hardness), st.builds(MaxExponential, hardness), st.builds(Polynomial, st.floats(0, 20)), st.builds(SoftThreshold, st.floats(-1, 1), st.floats(.01, 2)),
    st.builds(Threshold, st.floats(-1, 0)), st.just(lambda s: (s[...,0]>0).double()+.1), st.just(lambda s: s.amin(-1).exp()))

def rows(m, d, g):
    "Points in the unit ball, the last at the origin: there every anchor has a negative of similarity 0."
    z = torch.nn.functional.normalize(torch.randn(m, d, dtype=torch.float64, generator=g))
    z = z*torch.rand(m, 1, dtype=torch.float64, generator=g)
    z[-1] = 0
    return z

@st.composite
def games(draw):
    g = torch.Generator().manual_seed(draw(seeds))
    w = random_world(draw(st.integers(2, 4)), draw(st.integers(2, 4)), g, balanced=draw(st.booleans()))
    return w, rows(w.num_points, draw(st.integers(1, 3)), g)

@settings(max_examples=300, deadline=None)
@given(games(), psis, etas, ks, sides)
def test_t1(game, psi, eta, k, supervised):
    w, f = game
    d = domination_gap(w, f, psi, eta, k, supervised)
    tol = 1e-12*(1+d.plain.abs().item()+d.hard.abs().item())
    assert d.pairs.min() >= -tol and d.hard >= d.plain-tol
    assert abs(d.gap-(d.hard-d.plain)) <= tol

@settings(max_examples=30, deadline=None)
@given(games(), psis, etas, ks, sides)
def test_a_falling_price_turns_the_sign(game, psi, eta, k, supervised):
    w, f = game
    assert domination_gap(w, f, lambda t: -psi(t), eta, k, supervised).pairs.max() <= 1e-11

@settings(max_examples=30, deadline=None)
@given(games(), psis, hardness, hardness, ks, sides)
def test_loss_rises_with_hardness(game, psi, a, b, k, supervised):
    w, f = game
    low, high = (w.loss(f, psi, Exponential(v), k, supervised) for v in sorted((a, b)))
    assert high >= low-1e-11

@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(1, 3))
def test_harris_steps_of_random_monotone_functions(seed, m, k):
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(m, dtype=torch.float64, generator=g)+.01; p = p/p.sum()
    def monotone():
        v = torch.rand((m,)*k, dtype=torch.float64, generator=g)
        for dim in range(k): v = v.cumsum(dim)
        return v
    a, b = monotone(), monotone()
    steps = harris_steps(p, a, b)
    assert len(steps)==k and (steps>=-1e-12).all()
    assert_close(steps.sum(), covariance(tuple_law(p, k), a.flatten(), b.flatten()), rtol=0, atol=1e-11)
    assert_close(harris_steps(p, b, a), steps, rtol=0, atol=1e-11)
    mixed = torch.rand((m,)*k, dtype=torch.float64, generator=g)  # the identity needs no monotonicity
    assert_close(harris_steps(p, a, mixed).sum(), covariance(tuple_law(p, k), a.flatten(), mixed.flatten()), rtol=0, atol=1e-11)

@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 8))
def test_chebyshev_identity(seed, m):
    g = torch.Generator().manual_seed(seed)
    p, a, b = torch.rand(3, m, dtype=torch.float64, generator=g)
    p = p/p.sum()
    terms = chebyshev_terms(p, a, b)
    assert_close(terms.sum(), (p*a*b).sum()-(p*a).sum()*(p*b).sum(), rtol=0, atol=1e-12)
    assert_close(terms, terms.T, rtol=0, atol=0)
    assert (chebyshev_terms(p, a.sort().values, b.sort().values)>=0).all()

symmetric = st.sampled_from([(InfoNCE(), Exponential(4.)), (Triplet(.2), MaxExponential(5.)), (lambda t: t.amin(-1), lambda s: s.amax(-1).exp()),
    (lambda t: t.amax(-1), lambda s: (s.sort(-1).values[...,0]>-.2).double()+.01), (Softplus(.1), Polynomial(4.)), (lambda t: t.median(-1).values, lambda s: s.amin(-1).exp())])
@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 3), symmetric, sides)
def test_distinct_negatives_keep_t1_for_symmetric_functions(seed, k, pair, supervised):
    g = torch.Generator().manual_seed(seed)
    w = random_world(2, 5, g)
    f = rows(5, 2, g)
    law = distinct_law(w.negatives(supervised), k)
    assert_close(law.sum(-1), torch.ones(2, dtype=law.dtype), rtol=0, atol=1e-12)
    t = tuples(5, k)
    assert (law[:,(t[:,:1]==t[:,1:2])[:,0]]==0).all()
    assert domination_gap(w, f, *pair, k, law=law).pairs.min() >= -1e-12

@settings(max_examples=40, deadline=None)
@given(st.floats(.01, math.log(math.cosh(1))-.01), st.floats(.01, 50))
def test_dependent_negatives_break_t1_at_every_hardness(middle, beta):
    w, f, law = dependent_game(middle)
    assert domination_gap(w, f, InfoNCE(), Exponential(beta), 2, law=law).gap < 0
    assert domination_gap(w, f, InfoNCE(), Exponential(beta), 2).gap > 0

@settings(max_examples=25, deadline=None)
@given(games(), st.floats(.1, 5), ks, sides)
def test_equality_needs_equally_similar_negatives(game, beta, k, supervised):
    w, f = game
    gap = domination_gap(w, f, InfoNCE(), Exponential(beta), k, supervised).gap
    spread = ((f@f.T).amax(1)-(f@f.T).amin(1)).max()
    assume(spread>.05) # the laws of a random world are positive everywhere
    assert gap > 0
    assert abs(domination_gap(w, f*0+f[:1], InfoNCE(), Exponential(beta), k, supervised).gap) < 1e-13

@pytest.mark.parametrize('w', [random_world(3, 4, torch.Generator().manual_seed(0)), block_world(2, 2, 'aligned')], ids=['random', 'block'])
def test_gap_has_a_gradient(w):
    f = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: domination_gap(w, f, InfoNCE(), Exponential(2.), 2).gap, f)

def test_pairs_that_never_occur_are_zero():
    w = block_world(2, 2, 'aligned')
    d = domination_gap(w, torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), InfoNCE(), Exponential(1.))
    assert (d.pairs[w.joint==0]==0).all() and (d.pairs[w.joint>0]>0).all()

third = torch.ones(3)/3
@pytest.mark.parametrize('call, error, message', [
    (lambda: domination_gap(block_world(2, 1), torch.ones(2, 1), InfoNCE(), Exponential(1.), 0), ValueError, 'k: expected a whole number >= 1'),
    (lambda: domination_gap(block_world(2, 1), torch.ones(2, 1), InfoNCE(), None), TypeError, 'eta: expected a function'),
    (lambda: domination_gap(block_world(2, 1), torch.ones(2, 1), 'InfoNCE', Exponential(1.)), TypeError, 'psi: expected a function'),
    (lambda: domination_gap(block_world(2, 1), torch.full((2, 1), math.inf), InfoNCE(), Exponential(1.)), ValueError, 'f: expected finite embeddings'),
    (lambda: domination_gap(block_world(2, 1), torch.ones(2, 1), InfoNCE(), lambda s: 0*s.sum(-1)), ValueError, 'some negative with η > 0'),
    (lambda: domination_gap(block_world(2, 1), torch.ones(2, 1), InfoNCE(), Exponential(1.), law=torch.ones(2, 2)), ValueError, 'law: expected each law to sum to 1'),
    (lambda: domination_gap('world', torch.ones(2, 1), InfoNCE(), Exponential(1.)), TypeError, 'world: expected a FiniteWorld, got str'),
    (lambda: chebyshev_terms(third, third, third[:2]), ValueError, 'a, b: expected one value for each of the 3 points'),
    (lambda: chebyshev_terms(third[None], third[None], third[None]), ValueError, 'three vectors of one length'),
    (lambda: harris_steps(third, torch.ones(3, 2), torch.ones(3, 2)), ValueError, 'one value for each tuple of 3 points'),
    (lambda: harris_steps(third, torch.ones(()), torch.ones(())), ValueError, 'one value for each tuple'),
    (lambda: covariance(third, torch.ones(2), torch.ones(2)), ValueError, 'one value for each of the 3 points'),
    (lambda: covariance(third, [1., 2., 3.], third), TypeError, 'expected floating-point tensors'),
    (lambda: covariance(third, third.double(), third), TypeError, 'of one dtype'),
    (lambda: harris_steps(third, torch.ones(3, device='meta'), torch.ones(3)), TypeError, 'on one device'),
    (lambda: distinct_law(third, 4), ValueError, 'k: expected at most as many negatives'),
    (lambda: distinct_law(third, 0), ValueError, 'k: expected a whole number >= 1'),
    (lambda: distinct_law(2*third, 2), ValueError, 'p: expected each law to sum to 1'),
    (lambda: dependent_game(math.nan), ValueError, 'middle'),
    (lambda: dependent_game('0.2'), TypeError, 'middle: expected a number'),
])
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message): call()
