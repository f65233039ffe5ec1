"Finite worlds: exact losses against a plain loop, invariances, gradients, bad input."
import itertools, math
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.hardening import Exponential, MaxExponential
from hardcl_nb.theory.psi import InfoNCE, Linear, Softplus, Triplet
from hardcl_nb.theory.worlds import (FiniteWorld, block_world, check_law, negative_law, pair_losses, random_world, sample_game, tilt, tuple_law,
    tuples)

psis = st.sampled_from([InfoNCE(), InfoNCE(.2, 4.), Triplet(.5), Softplus(.3), Linear()])
etas = st.sampled_from([None, lambda s: (2*s).sum(-1).exp(), lambda s: s.amax(-1).exp(), lambda s: (s>-.5).double().amax(-1)+.1])
worlds = settings(max_examples=25, deadline=None)

@st.composite
def games(draw, max_m=4):
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    w = random_world(draw(st.integers(2, 4)), draw(st.integers(1, max_m)), g, balanced=draw(st.booleans()))
    return w, torch.randn(w.num_points, draw(st.integers(1, 3)), dtype=torch.float64, generator=g), g

def loop(w, f, psi, eta, k, supervised):
    "The loss as a loop over class, pair and tuple, written without the library."
    total = 0.
    for y in range(w.num_classes):
        others = [c for c in range(w.num_classes) if c!=y or not supervised]
        neg = sum(w.prior[c]*w.px[c] for c in others)/sum(w.prior[c] for c in others)
        for x,p in itertools.product(range(w.num_points), repeat=2):
            num = den = 0.
            for n in itertools.product(range(w.num_points), repeat=k):
                s = torch.stack([f[x]@f[j] for j in n])
                mass = math.prod(neg[j].item() for j in n)*(1. if eta is None else eta(s).item())
                num, den = num+mass*psi(s-f[x]@f[p]).item(), den+mass
            total += (w.prior[y]*w.joint[y,x,p]).item()*num/den
    return total

@settings(max_examples=15, deadline=None)
@given(games(3), psis, etas, st.integers(1, 2), st.booleans())
def test_loss_is_the_loop(game, psi, eta, k, supervised):
    w, f, _ = game
    assert w.loss(f, psi, eta, k, supervised).item() == pytest.approx(loop(w, f, psi, eta, k, supervised), abs=1e-12)

@worlds
@given(games(), st.integers(1, 3), st.booleans())
def test_laws_are_laws(game, k, supervised):
    w, f, g = game
    neg = w.negatives(supervised)
    for law in (w.prior[None], w.px, neg, tuple_law(neg, k), w.joint.flatten(1)):
        assert (law>=0).all()
        assert_close(law.sum(1), torch.ones(len(law), dtype=law.dtype), rtol=0, atol=1e-12)
    for dim in (1, 2): assert_close(w.joint.sum(dim), w.px, rtol=0, atol=1e-14)
    s = (f@f.T)[:,tuples(w.num_points, k)]
    t = tilt(tuple_law(neg, k), s, lambda s: (3*s).sum(-1).exp())
    assert (t>=0).all()
    assert_close(t.sum(-1), torch.ones(t.shape[:2], dtype=t.dtype), rtol=0, atol=1e-12)

@worlds
@given(games(), psis, etas, st.integers(1, 2), st.booleans())
def test_names_of_points_and_classes_do_not_matter(game, psi, eta, k, supervised):
    w, f, g = game
    p, c = torch.randperm(w.num_points, generator=g), torch.randperm(w.num_classes, generator=g)
    v = FiniteWorld(w.px[c][:,p], w.prior[c], w.joint[c][:,p][:,:,p])
    assert_close(v.loss(f[p], psi, eta, k, supervised), w.loss(f, psi, eta, k, supervised), rtol=0, atol=1e-12)

@worlds
@given(games(), psis, st.booleans(), st.floats(.01, 100))
def test_only_the_shape_of_eta_matters(game, psi, supervised, c):
    w, f, _ = game
    class Logged:
        def log(self, s): return 3*s.sum(-1)
        def __call__(self, s): return self.log(s).exp()
    want = w.loss(f, psi, Logged(), 2, supervised)
    assert_close(w.loss(f, psi, lambda s: c*(3*s).sum(-1).exp(), 2, supervised), want, rtol=1e-12, atol=1e-12)
    assert_close(w.loss(f, psi, lambda s: c+0*s.sum(-1), 2, supervised), w.loss(f, psi, None, 2, supervised), rtol=1e-12, atol=1e-12)

@worlds
@given(games(), psis)
def test_unsupervised_is_a_mixture_by_collision(game, psi):
    w, f, _ = game
    cond = lambda law: (w.joint*pair_losses(law, f, psi)).sum((1, 2))
    want = (w.prior*(w.prior*cond(w.px)+(1-w.prior)*cond(w.negatives()))).sum()
    assert_close(w.loss(f, psi, supervised=False), want, rtol=0, atol=1e-12)

def test_huge_hardness_is_finite():
    w, f = block_world(3, 2), torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    class Hard:
        def log(self, s): return 1000*s.sum(-1)
        def __call__(self, s): return self.log(s).exp()
    l = w.loss(f, InfoNCE(), Hard(), 2)
    assert l.isfinite() and torch.autograd.grad(l, f)[0].isfinite().all()
    with pytest.raises(ValueError, match='eta: expected finite values'): w.loss(4*f.detach(), InfoNCE(), Hard().__call__, 2)

@pytest.mark.parametrize('psi', [InfoNCE(.5, 2.), Softplus(.4), Linear(), Triplet()])
@pytest.mark.parametrize('eta', [None, lambda s: (2*s).sum(-1).exp(), lambda s: s.clamp(min=0).sum(-1)+1e-3])
def test_gradcheck(psi, eta):
    g = torch.Generator().manual_seed(1)
    w, f = random_world(3, 4, g), torch.randn(4, 2, dtype=torch.float64, generator=g).requires_grad_()
    for sup in (True, False): assert torch.autograd.gradcheck(lambda f: w.loss(f, psi, eta, 2, sup), f)

def test_zero_eta_has_a_finite_gradient():
    w, f = block_world(2, 2), torch.tensor([[1., 0], [0, 1], [1, -.5], [-.5, 1]], dtype=torch.float64, requires_grad=True) # each anchor: one negative above 0, one below
    l = w.loss(f, Linear(), lambda s: s.clamp(min=0).sum(-1))
    with pytest.raises(ValueError, match='zero for every negative'): w.loss(f, Linear(), lambda s: (s-2).clamp(min=0).sum(-1))
    assert torch.autograd.grad(l, f)[0].isfinite().all()

def test_classes_without_an_anchor_need_no_law():
    "η may be zero for an anchor that its class never has."
    w, f = block_world(2, 1), torch.tensor([[1.], [.5]], dtype=torch.float64)
    assert w.loss(f, Linear(), lambda s: (s>.4).double().prod(-1)*(s<.6)[...,0]).item() == pytest.approx(.5*(.5-1)+.5*(.5-.25))

def test_float32_keeps_its_dtype():
    w, f = random_world(3, 4, torch.Generator().manual_seed(0)), torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    assert w.loss(f, InfoNCE(), k=2).dtype==torch.float32
    assert_close(w.loss(f, InfoNCE(), k=2).double(), w.loss(f.double(), InfoNCE(), k=2), rtol=1e-5, atol=1e-6)

def test_sampling_follows_the_exact_laws():
    w = random_world(3, 4, torch.Generator().manual_seed(5))
    n = 40000
    r = sample_game(w, n, torch.Generator().manual_seed(6), k=1, supervised=True)
    got = torch.zeros(3, 4, 4, 4, dtype=torch.float64).index_put((r.y, r.anchor, r.positive, r.negatives[:,0]), torch.ones(n, dtype=torch.float64), accumulate=True)/n
    want = w.prior[:,None,None,None]*w.joint[...,None]*w.negatives()[:,None,None]
    assert ((got-want).abs() <= 5*(want*(1-want)/n).sqrt()+1e-3).all()

half, eye = torch.full((2, 2), .5), torch.eye(2)
@pytest.mark.parametrize('make, error, message', [
    (lambda: FiniteWorld([[1.]]), TypeError, 'px: expected a floating-point tensor, got list'),
    (lambda: FiniteWorld(eye.long()), TypeError, 'px: expected a floating-point tensor'),
    (lambda: FiniteWorld(torch.ones(2)/2), ValueError, r'px: expected shape \(any, any\)'),
    (lambda: FiniteWorld(torch.ones(2, 0)), ValueError, 'px: expected shape'),
    (lambda: FiniteWorld(eye*math.nan), ValueError, 'px: expected probabilities'),
    (lambda: FiniteWorld(torch.tensor([[math.inf, 0], [0, 1]])), ValueError, 'px: expected probabilities'),
    (lambda: FiniteWorld(eye*.9), ValueError, 'px: expected each law to sum to 1'),
    (lambda: FiniteWorld(eye, torch.ones(3)/3), ValueError, r'prior: expected shape \(2\)'),
    (lambda: FiniteWorld(eye, torch.ones(2)), ValueError, 'prior: expected each law to sum to 1'),
    (lambda: FiniteWorld(eye, joint='paired'), ValueError, 'joint: expected one of independent, aligned'),
    (lambda: FiniteWorld(half, joint=torch.ones(2, 2, 2)), ValueError, 'joint: expected each law to sum to 1'),
    (lambda: FiniteWorld(half, joint=torch.tensor([[.5,0],[.5,0]]).expand(2, 2, 2)), ValueError, 'marginal of the positive'),
    (lambda: FiniteWorld(half, joint=torch.tensor([[1.,-.5],[-.5,1.]]).expand(2, 2, 2)), ValueError, 'joint: expected probabilities'),
    (lambda: block_world(1, 2), ValueError, 'num_classes: expected a whole number >= 2'),
    (lambda: block_world(2, 0), ValueError, 'per_class'),
    (lambda: random_world(2, 0, torch.Generator()), ValueError, 'num_points'),
    (lambda: check_law(torch.ones(2), 'p', (2,)), ValueError, 'p: expected each law'),
    (lambda: negative_law(half.double(), torch.ones(2).double()/2, 1), TypeError, 'supervised: expected True or False'),
    (lambda: tuples(3, 0), ValueError, 'k: expected a whole number >= 1'),
    (lambda: tuples(2, 1.5), TypeError, 'k: expected a whole number'),
])
def test_bad_definitions(make, error, message):
    with pytest.raises(error, match=message): make()

@pytest.mark.parametrize('change, error, message', [
    (dict(f=torch.ones(4)), ValueError, 'f: expected a tensor of shape'),
    (dict(f=torch.ones(4, 1, dtype=torch.long)), TypeError, 'f: expected floating-point'),
    (dict(f=torch.full((4, 1), math.nan)), ValueError, 'f: expected finite embeddings'),
    (dict(f=torch.ones(0, 1)), ValueError, 'f: expected at least 1 row'),
    (dict(k=0), ValueError, 'k: expected a whole number >= 1'),
    (dict(k=11), ValueError, 'k: expected at most'),
    (dict(psi=None), TypeError, 'psi: expected a function'),
    (dict(psi=lambda t: t.sum()), ValueError, 'psi: expected one number per point'),
    (dict(psi=lambda t: t.sum(-1)*math.inf), ValueError, 'psi: expected finite values'),
    (dict(eta=1.), TypeError, 'eta: expected a function'),
    (dict(eta=lambda s: s.sum(-1)*math.nan), ValueError, 'eta: expected finite values'),
    (dict(eta=lambda s: -s.sum(-1).exp()), ValueError, 'eta: expected values >= 0'),
    (dict(law=torch.ones(2, 3)/3), ValueError, r'law: expected shape \(2, 4\)'),
    (dict(law=torch.ones(2, 4)), ValueError, 'law: expected each law to sum to 1'),
])
def test_bad_games(change, error, message):
    good = dict(f=torch.ones(4, 1), psi=Linear(), eta=None, k=1)
    with pytest.raises(error, match=message): block_world(2, 2).loss(**{**good, **change})

@worlds
@given(games(), psis, st.floats(0, 20), st.integers(1, 2), st.booleans())
def test_a_hardening_and_its_plain_function_are_the_same(game, psi, beta, k, supervised):
    "What the protocol asks for, and a bare function of s, give the same law."
    w, f, _ = game
    for eta in (Exponential(beta), MaxExponential(beta)):
        assert_close(w.loss(f, psi, eta.__call__, k, supervised), w.loss(f, psi, eta, k, supervised), rtol=1e-9, atol=1e-10)
