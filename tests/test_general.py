"Properties of the general loss: a naive triple loop over random batches, options, precision, memory, bad input."
import math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from hardcl_nb.theory.psi import InfoNCE, Linear, MeanForm, Softplus, Triplet
from hardcl_nb.losses.general import GeneralLoss, general_loss
from hardcl_nb.theory.hardening import Custom, Exponential, MaxExponential, Polynomial, SemiHard, SoftThreshold, Threshold, TopFraction
from hardcl_nb.losses.contrastive import contrastive_loss

few = settings(max_examples=30, deadline=None)
seeds, bools, chunks = st.integers(0, 10**6), st.booleans(), st.integers(1, 20)
prices = {'InfoNCE': (InfoNCE(.5, 2.), torch.exp, lambda m: torch.log(.5+2*m)), 'Triplet': (Triplet(.3), lambda t: (t+.3).clamp(min=0), None),
    'Linear': (Linear(), lambda t: t, None), 'Softplus': (Softplus(.4), lambda t: .4*F.softplus(t/.4), None),
    'smooth max': (MeanForm(lambda t: (3*t).exp(), lambda m: m.log()/3), lambda t: (3*t).exp(), lambda m: m.log()/3)}
laws = {'none': (Exponential(0.), torch.ones_like), 'exp': (Exponential(4.), lambda s: (4*s).exp()), 'poly': (Polynomial(2.), lambda s: (1+s).clamp(min=0)**2),
    'soft': (SoftThreshold(.1, .2), lambda s: ((s-.1)/.2).sigmoid()), 'threshold': (Threshold(-50.), lambda s: (s>=-50.).to(s)), 'own': (Custom(lambda s: (s+99)**3, -50., 50.), lambda s: (s+99)**3)}

def batch(seed, n=9, d=3):
    "Points of the unit ball; two positive pairs, two labels, some labels alone."
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    return z/z.norm(dim=1, keepdim=True).clamp(min=1), torch.cat([torch.tensor([0,0,-7,-7]), torch.randint(4, (n-4,), generator=g)]), g

def naive(z, y, inner, outer, h, supervised, detach, tau):
    "Rows by three loops, (n,); NaN without a positive."
    rows = []
    for i in range(len(z)):
        sim = lambda j: z[i]@z[j]/tau
        N = [j for j in range(len(z)) if (y[j]!=y[i] if supervised else j!=i)]
        P = [p for p in range(len(z)) if p!=i and y[p]==y[i]]
        w = torch.stack([h(sim(j).detach() if detach else sim(j)) for j in N]); w = w/w.sum()
        means = [sum(w[a]*inner(sim(j)-sim(p)) for a,j in enumerate(N)) for p in P]
        rows.append(torch.stack([m if outer is None else outer(m) for m in means]).mean() if P else z.new_tensor(math.nan))
    return torch.stack(rows)

@few
@given(seeds, st.sampled_from(list(prices)), st.sampled_from(list(laws)), bools, bools, st.sampled_from([.5, 1., 2.]), chunks)
def test_rows_equal_three_loops(seed, price, law, supervised, detach, tau, chunk):
    z,y,g = batch(seed)
    (psi, inner, outer), (eta, h) = prices[price], laws[law]
    v, kw = torch.randn(len(z), generator=g, dtype=z.dtype), dict(supervised=supervised, detach=detach, tau=tau)
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    got, want = general_loss(a, y, psi=psi, eta=eta, reduction='none', chunk=chunk, **kw), naive(b, y, inner, outer, h, **kw)
    assert_close(got, want, rtol=1e-11, atol=1e-12, equal_nan=True)
    assert_close(torch.autograd.grad((got*v).nansum(), a)[0], torch.autograd.grad((want*v).nansum(), b)[0], rtol=1e-10, atol=1e-11)

@few
@given(seeds, st.sampled_from(list(prices)), st.sampled_from(list(laws)), bools, chunks)
def test_mean_is_the_weighted_mean_of_rows(seed, price, law, detach, chunk):
    z,y,g = batch(seed, 14); v = torch.rand(14, generator=g, dtype=z.dtype)+.1
    kw = dict(psi=prices[price][0], eta=laws[law][0], detach=detach)
    for weight in (None, v):
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        rows = general_loss(b, y, reduction='none', **kw); u = (torch.ones(14) if weight is None else v)*~rows.isnan()
        got, want = general_loss(a, y, weight=weight, chunk=chunk, **kw), (u*rows).nansum()/u.sum()
        assert_close(got, want, rtol=1e-12, atol=1e-12)
        assert_close(torch.autograd.grad(got, a)[0], torch.autograd.grad(want, b)[0], rtol=1e-10, atol=1e-11)

@few
@given(seeds, st.sampled_from(list(prices)), st.sampled_from([TopFraction(.3), Exponential(3.), Polynomial(1.)]), bools)
def test_order_and_rotation_do_not_matter(seed, price, eta, supervised):
    z,y,g = batch(seed, 12); p = torch.randperm(12, generator=g); R = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=z.dtype))[0]
    kw = dict(psi=prices[price][0], eta=eta, supervised=supervised)
    assert_close(general_loss(z[p], y[p]*7-2, **kw), general_loss(z, y, **kw), rtol=1e-11, atol=1e-12)
    if not isinstance(eta, TopFraction): assert_close(general_loss(z@R, y, **kw), general_loss(z, y, **kw), rtol=1e-11, atol=1e-12) # rounding may break ties

@few
@given(seeds, st.sampled_from(list(prices)), st.sampled_from([*(e for e,_ in laws.values()), TopFraction(.2)]), bools, st.sampled_from([.3, 1.]))
def test_hardening_never_lowers_a_row(seed, price, eta, supervised, tau):
    z,y,_ = batch(seed, 15)
    kw = dict(psi=prices[price][0], supervised=supervised, tau=tau, reduction='none')
    up = general_loss(z, y, eta=eta, validate=False, **kw)-general_loss(z, y, **kw)
    assert (up[~up.isnan()]>=-1e-10).all()

@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize('psi', [InfoNCE(), Triplet(1.), Softplus(.3)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize('detach', [True, False])
def test_precision_against_float64(dtype, tol, psi, detach):
    z = F.normalize(torch.randn(200, 16, generator=torch.Generator().manual_seed(0)), dim=1).to(dtype); y = torch.arange(200)%25
    grads = []
    for x in (z.clone().requires_grad_(), z.double().requires_grad_()):
        loss = general_loss(x, y, psi=psi, eta=Exponential(10.), detach=detach); grads.append((loss.double(), torch.autograd.grad(loss, x)[0].double()))
    (a,ga), (b,gb) = grads
    assert abs(a/b-1)<1e-6 and (ga-gb).norm()<=tol*gb.norm()

@pytest.mark.parametrize('beta, tau', [(0., 1e-3), (30., 1e-3), (1000., 1.), (1000., 10.)])
def test_finite_everywhere(beta, tau):
    for z in (F.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=1), torch.ones(12, 4)/2):
        for psi in (InfoNCE(), Triplet(1.), Softplus(.2)):
            x = z.clone().requires_grad_(); loss = general_loss(x, torch.arange(12)%4, psi=psi, eta=Exponential(beta), tau=tau, detach=False)
            assert loss.isfinite() and torch.autograd.grad(loss, x)[0].isfinite().all() and loss.dtype==torch.float32

class Live(TorchDispatchMode):
    "Peak bytes of living tensors made inside the block."
    def __init__(self): super().__init__(); self.refs, self.peak = {}, 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor): u = t.untyped_storage(); self.refs[u._cdata] = StorageWeakRef(u), u.nbytes()
        self.refs = {k: v for k,v in self.refs.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(b for _,b in self.refs.values()))
        return out

@pytest.mark.slow
@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_memory_does_not_grow_with_positives(reduction):
    "256 positives of an anchor take the memory of 4: turns are forgotten."
    peaks = []
    for classes in (128, 2):
        x = F.normalize(torch.randn(512, 8, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
        with Live() as live: general_loss(x, torch.arange(512)%classes, psi=Triplet(1.), eta=Exponential(2.), detach=False, chunk=16, reduction=reduction, validate=False).nansum().backward()
        peaks.append(live.peak)
    assert peaks[1]<1.3*peaks[0]

def test_under_no_grad_and_second_derivatives():
    z,y,_ = batch(0)
    with torch.no_grad(): assert not general_loss(z.requires_grad_(), y).requires_grad
    for kw in (dict(), dict(reduction='none'), dict(psi=Triplet())):
        x = z.detach().clone().requires_grad_()
        g, = torch.autograd.grad(general_loss(x, y, **kw).nansum()**2, x, create_graph=True)
        with pytest.raises(RuntimeError, match='differentiated again'): g.sum().backward()

def test_module_keeps_options():
    z,y,_ = batch(1)
    loss = GeneralLoss(Triplet(.2), TopFraction(.5), supervised=False, tau=.7)
    assert_close(loss(z, y), general_loss(z, y, psi=Triplet(.2), eta=TopFraction(.5), supervised=False, tau=.7), rtol=0, atol=0)
    loss.psi, loss.eta = InfoNCE(), Exponential(2.)
    assert_close(loss(z, y), contrastive_loss(z, y, beta=2., supervised=False, tau=.7), rtol=0, atol=1e-12)

z0, y0 = torch.eye(4), torch.tensor([0,0,1,1])
@pytest.mark.parametrize('kw, err, msg', [
    (dict(z=z0[0]), ValueError, 'z: expected a tensor of shape (n, d)'), (dict(z=z0*math.nan), ValueError, 'z: expected finite embeddings'),
    (dict(y=y0[:3]), ValueError, 'y: expected 4 labels'), (dict(y=torch.arange(4)), ValueError, 'y: expected a label that occurs twice'),
    (dict(y=0*y0), ValueError, 'y: expected at least two labels'), (dict(psi=abs), TypeError, 'psi: expected InfoNCE, Triplet'),
    (dict(psi=MeanForm(torch.neg)), ValueError, 'psi: expected a function that never decreases'), (dict(psi=MeanForm(torch.tanh)), ValueError, 'psi: expected'),
    (dict(eta=MaxExponential(1.)), TypeError, 'MaxExponential(beta=1.0), which is not known to be a product'), (dict(eta=torch.exp), TypeError, 'eta: expected a product'),
    (dict(eta=Threshold(torch.zeros(4, 1))), ValueError, 'eta: expected one number for all anchors'), (dict(eta=SemiHard(-.5, .5)), ValueError, 'eta: expected a function >= 0'),
    (dict(eta=Threshold(.5)), ValueError, 'eta: expected η > 0 in each row'), (dict(tau=0.), ValueError, 'tau: expected'), (dict(reduction='sum'), ValueError, 'reduction: expected'),
    (dict(chunk=0), ValueError, 'chunk: expected'), (dict(detach=None), ValueError, 'detach: expected'), (dict(weight=torch.ones(3)), ValueError, 'weight: expected 4 weights'),
    (dict(weight=-torch.ones(4)), ValueError, 'weight: expected finite weights >= 0'), (dict(weight=[1.]*4), TypeError, 'weight: expected a torch tensor of 4 weights')])
def test_bad_input_is_named(kw, err, msg):
    with pytest.raises(err) as e: general_loss(**{'z': z0, 'y': y0, **kw})
    assert msg in str(e.value)

def test_rows_are_weighted_as_those_of_other_losses():
    z,y,g = batch(3, 14)
    w = torch.rand(14, generator=g, dtype=z.dtype)
    kw = dict(weight=w, reduction='none')
    assert_close(general_loss(z, y, eta=Exponential(2.), **kw), contrastive_loss(z, y, beta=2., **kw), rtol=1e-12, atol=1e-12, equal_nan=True)

def test_hardness_of_one_call():
    z,y,_ = batch(4)
    loss = GeneralLoss(eta=Exponential(5.))
    assert_close(loss(z, y, beta=1.), general_loss(z, y, eta=Exponential(1.)), rtol=0, atol=0)
    assert loss.eta==Exponential(5.)
    with pytest.raises(ValueError, match='beta: expected None for TopFraction'): GeneralLoss(eta=TopFraction(.5))(z, y, beta=1.)
    with pytest.raises(TypeError, match='betas'): GeneralLoss(betas=1.)

@pytest.mark.parametrize('reduction', ['mean', 'none'])
def test_transforms_are_refused_by_name(reduction):
    f = lambda z: general_loss(z, y0, reduction=reduction).sum()
    for run in (lambda: torch.func.grad(f)(z0), lambda: torch.vmap(f)(torch.stack([z0, z0])), lambda: torch.func.jvp(f, (z0,), (z0,))):
        with pytest.raises(RuntimeError, match="engine: expected 'plain' there"): run()

@pytest.mark.parametrize('width', [.1, .01, .001])
@pytest.mark.parametrize('eta', [Exponential(3.), Polynomial(3), SoftThreshold(.9, .02)], ids=lambda e: type(e).__name__)
def test_single_precision_in_a_cone(width, eta):
    x = F.normalize(torch.ones(100, 16)+width*torch.randn(100, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    for psi in (InfoNCE(), Triplet(1.), Softplus(.2)):
        got, want = (general_loss(z, torch.arange(100)%20, psi=psi, eta=eta) for z in (x, x.double()))
        assert abs(float(got.double()/want-1))<1e-6
