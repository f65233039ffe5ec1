"Properties of the sampled loss, its exact expectation and its error; debiasing; bad input."
import itertools, math, subprocess, sys
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.losses.estimators import (SampledLoss, debiased_mean, finite_k_loss, gradient_weights, sampled_loss,
    sampling_error)
from hardcl_nb.losses.contrastive import contrastive_loss
from hardcl_nb.losses.general import GeneralLoss
from hardcl_nb.theory.etf import simplex_etf
from hardcl_nb.theory.hardening import Exponential

few = settings(max_examples=20, deadline=None)
seeds, betas, bools, qs = st.integers(0, 10**6), st.floats(0, 10), st.booleans(), st.sampled_from([.2, 1., 5., 'sum'])
rng = lambda seed=0: torch.Generator().manual_seed(seed)

def batch(seed, n=10, d=4):
    "Unit vectors with random labels that has two positive pairs and two classes at least."
    g = rng(seed)
    z = torch.nn.functional.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1)
    return z, torch.cat([torch.tensor([0,0,1,1]), torch.randint(6, (n-4,), generator=g)]), g

def grad(f, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(f(z), z)[0]

def enumerated(z, y, k, beta, supervised, detach, alpha, q, tau):
    "E log(α + (q/k) Σ e^t) over all n^k tuples, anchor by anchor."
    n, s, anchors = len(z), z@z.T/tau, []
    eye = torch.eye(n, dtype=torch.bool)
    neg = y[:,None]!=y if supervised else ~eye
    w = (beta*(s.detach() if detach else s)).masked_fill(~neg, -math.inf).softmax(1)
    tuples = torch.tensor(list(itertools.product(range(n), repeat=k)))
    for i in range(n):
        P = [p for p in range(n) if p!=i and y[p]==y[i]]
        ok = neg[i][tuples].all(1)
        q_i = int(neg[i].sum()) if q=='sum' else q
        l = [(w[i][tuples[ok]].prod(1)*(alpha+q_i*(s[i][tuples[ok]]-s[i,p]).exp().mean(1)).log()).sum() for p in P]
        if P: anchors.append(torch.stack(l).mean())
    return torch.stack(anchors).mean()

@pytest.mark.parametrize('alpha', [0., .3, 2.])
@pytest.mark.parametrize('q', [.2, 'sum'])
@pytest.mark.parametrize('supervised, detach', [(True, True), (True, False), (False, True), (False, False)])
def test_finite_k_against_all_tuples(alpha, q, supervised, detach):
    z,_,_ = batch(1, n=7)
    y = torch.tensor([0,0,0,1,1,2,3]) # unequal classes, two samples without a positive
    kw = dict(k=3, beta=2., supervised=supervised, detach=detach, alpha=alpha, q=q, tau=.7)
    assert_close(finite_k_loss(z, y, **kw), enumerated(z, y, **kw), rtol=0, atol=1e-13)
    assert_close(grad(lambda z: finite_k_loss(z, y, **kw), z), grad(lambda z: enumerated(z, y, **kw), z), rtol=0,
        atol=1e-12)

@few
@given(seeds, betas, bools, qs, st.sampled_from([0., .5, 1.]), st.floats(.1, 5))
def test_finite_k_rises_to_the_exact_loss(seed, beta, supervised, q, alpha, tau):
    z,y,_ = batch(seed)
    kw = dict(beta=beta, supervised=supervised, alpha=alpha, q=q, tau=tau)
    vals = [finite_k_loss(z, y, k=k, **kw) for k in (1, 2, 3, 7, 50)]
    exact = contrastive_loss(z, y, **kw)
    assert all(a<=b+1e-12 for a,b in zip(vals, vals[1:]+[exact]))
    assert_close(finite_k_loss(z, y, k=10**10, **kw), exact, rtol=1e-6, atol=1e-6)

@few
@given(seeds, betas, bools, qs)
def test_delta_method_is_the_limit_of_the_bias(seed, beta, supervised, q):
    z,y,_ = batch(seed)
    kw = dict(beta=beta, supervised=supervised, q=q)
    a, sd = sampling_error(z, y, k=1, **kw)
    k = 10**4
    bias = finite_k_loss(z, y, k=k, **kw)-contrastive_loss(z, y, **kw)
    assert_close(bias*k, a, rtol=2e-3, atol=1e-8)
    assert_close(sampling_error(z, y, k=100, **kw), (a/100, sd/10))

@pytest.mark.parametrize('beta', [0., 1., 7.])
@pytest.mark.parametrize('tau', [.1, .5, 3.])
def test_error_at_collapse_is_a_number(beta, tau):
    "All negatives of an anchor are alike up to rounding, which may leave their variance below 0."
    for C in range(2, 40):
        y = torch.arange(2*C)%C
        bias, spread = sampling_error(simplex_etf(C)[y], y, k=1, beta=beta, tau=tau)
        assert -1e-12<=bias<=0 and 0<=spread<1e-6

@few
@given(seeds, betas, bools)
def test_no_error_when_all_negatives_are_alike(seed, beta, supervised):
    z = torch.nn.functional.normalize(torch.randn(1, 4, generator=rng(seed), dtype=torch.float64), dim=1).expand(6, 4)
    y = torch.tensor([0,0,0,1,1,2])
    for k in (1, 5):
        assert_close(sampled_loss(z, y, k=k, beta=beta, supervised=supervised, generator=rng()),
            torch.tensor(2., dtype=z.dtype).log(), rtol=0, atol=1e-14)
    assert_close(sampling_error(z, y, k=1, beta=beta, supervised=supervised)[1].item(), 0., rtol=0, atol=1e-12)

@few
@given(seeds, betas, bools, qs, st.integers(1, 6))
def test_same_seed_same_draws(seed, beta, supervised, q, k):
    z,y,_ = batch(seed)
    kw = dict(k=k, beta=beta, supervised=supervised, q=q)
    a,b = (sampled_loss(z, y, generator=rng(seed), **kw) for _ in range(2))
    assert a==b
    assert_close(sampled_loss(z, y+100, generator=rng(seed), **kw), a) # names of labels do not matter
    g = grad(lambda z: sampled_loss(z, y, generator=rng(seed), **kw), z)
    R = torch.linalg.qr(torch.randn(4, 4, generator=rng(seed), dtype=z.dtype)).Q
    assert g.isfinite().all()
    assert_close(finite_k_loss(z@R, y, **kw), finite_k_loss(z, y, **kw), rtol=0, atol=1e-11)

def test_the_mean_over_draws_is_the_finite_k_loss():
    z,y,_ = batch(3)
    for kw in (dict(beta=2.), dict(beta=2., supervised=False), dict(alpha=0., q='sum', tau=.5)):
        got = torch.stack([sampled_loss(z, y, k=2, generator=g, **kw) for g in [rng(1)] for _ in range(400)])
        assert abs(got.mean()-finite_k_loss(z, y, k=2, **kw))<4*got.std()/20

@pytest.mark.parametrize('kw', [dict(), dict(beta=3.), dict(supervised=False), dict(alpha=0.), dict(q='sum'),
    dict(tau=.3), dict(chunk=3), dict(k=1)])
def test_gradcheck(kw):
    z,y,_ = batch(4, n=8)
    assert torch.autograd.gradcheck(lambda z: sampled_loss(z, y, **(dict(k=4)|kw), generator=rng(2)),
        z.requires_grad_())

def test_under_no_grad_and_twice_backward():
    z,y,_ = batch(5)
    with torch.no_grad(): assert not sampled_loss(z.requires_grad_(), y, k=2, generator=rng()).requires_grad
    z = z.detach().requires_grad_()
    g, = torch.autograd.grad(sampled_loss(z, y, k=2, generator=rng())**2, z, create_graph=True)
    with pytest.raises(RuntimeError, match='differentiated again, got sampled_loss'): # it would be silently wrong
        g.sum().backward()

def test_memory_is_one_blocks():
    "All that waits for the backward pass is one matrix of z's size."
    z,y,_ = batch(6, n=200)
    loss = sampled_loss(z.requires_grad_(), y, k=64, chunk=10, generator=rng())
    node = loss.grad_fn
    assert [t.shape for t in node.saved_tensors]==[z.shape]
    assert [f.variable is z for f,_ in node.next_functions if f]==[True]

@few
@given(seeds, st.floats(0, .99), st.floats(-5, 5), st.floats(-3, 0))
def test_debias_inverts_the_mixture(seed, prior, plus, minus):
    plus, minus = torch.tensor(plus).double(), torch.tensor(minus).double()
    if prior: mix = torch.logaddexp(plus+math.log(prior), minus+math.log1p(-prior))
    else: mix = minus
    if (mix-plus-math.log(prior or 1)).item()>1e-6 or not prior:
        assert_close(debiased_mean(mix, plus, prior), minus, rtol=0, atol=1e-5)
    assert debiased_mean(mix, plus+50, max(prior, .1), floor=-4.)==-4.

@few
@given(seeds, betas, st.floats(.05, 5), bools, st.sampled_from([0., 1., 3.]))
def test_pushes_add_up_to_the_pull(seed, beta, tau, detach, alpha):
    g = rng(seed)
    c, c_pos = torch.randn(3, 6, generator=g, dtype=torch.float64), torch.randn(3, generator=g, dtype=torch.float64)
    w = gradient_weights(c, c_pos, beta=beta, tau=tau, detach=detach, alpha=alpha)
    A = ((1+beta)*c/tau).logsumexp(1)-(beta*c/tau).logsumexp(1)
    f = lambda p: (torch.logaddexp(A-p/tau, torch.full_like(A, math.log(alpha))) if alpha else A-p/tau).sum()
    assert_close(w.sum(1), -grad(f, c_pos), rtol=1e-10, atol=1e-12)
    if detach: assert (w>=0).all()

z0, y0 = torch.eye(4), torch.tensor([0,0,1,1])
bad = [
    (dict(z=[[1.]]), TypeError, 'z: expected a torch tensor'),
    (dict(z=z0[0]), ValueError, 'z: expected a tensor of shape (n, d)'),
    (dict(z=z0[:0], y=y0[:0]), ValueError, 'z: expected at least 2 row(s)'),
    (dict(z=z0.long()), TypeError, 'z: expected floating-point'),
    (dict(z=z0/torch.tensor([1.,1,1,0])), ValueError, 'z: expected finite embeddings'),
    (dict(y=y0.double()), TypeError, 'y: expected integer labels'),
    (dict(y=y0[:3]), ValueError, 'y: expected 4 labels'),
    (dict(y=y0.to('meta')), ValueError, 'y: expected labels on cpu'),
    (dict(y=torch.arange(4)), ValueError, 'y: expected'), (dict(y=0*y0), ValueError, 'y: expected'),
    (dict(k=0), ValueError, 'k: expected a whole number >= 1, got 0'), (dict(k=2.), TypeError, 'k: expected'),
    (dict(beta=-1), ValueError, 'beta: expected'), (dict(beta=math.inf), ValueError, 'beta: expected'),
    (dict(tau=0), ValueError, 'tau: expected'),
    (dict(alpha=-1.), ValueError, 'alpha: expected'), (dict(q=0.), ValueError, 'q: expected'),
    (dict(q='mean'), ValueError, "q: expected a number > 0, or 'sum'"),
    (dict(supervised='yes'), ValueError, 'supervised: expected one of True, False')]

@pytest.mark.parametrize('f', [sampled_loss, finite_k_loss, sampling_error], ids=lambda f: f.__name__)
@pytest.mark.parametrize('kw, err, msg', bad)
def test_bad_input_is_named(f, kw, err, msg):
    with pytest.raises(err) as e: f(**{'z': z0, 'y': y0, 'k': 2, **kw})
    assert msg in str(e.value)

@pytest.mark.parametrize('f, err, msg', [
    (lambda: sampled_loss(z0, y0, chunk=0), ValueError, 'chunk: expected a whole number >= 1'),
    (lambda: finite_k_loss(100*torch.tensor([[1.],[1],[-1],[-1]]), torch.tensor([0,1,0,1]), k=2), ValueError,
    'tau: expected a temperature'),
    (lambda: finite_k_loss(z0, y0, k=2, detach=None), ValueError, 'detach: expected one of'),
    (lambda: debiased_mean(0., torch.tensor(0.), .1), TypeError,
    'log_mean: expected a floating-point tensor, got float'),
    (lambda: debiased_mean(torch.tensor(0.), 0, .1), TypeError, 's_pos: expected'),
    (lambda: debiased_mean(torch.tensor(0.), torch.tensor(0.), -.1), ValueError, 'tau_plus: expected'),
    (lambda: gradient_weights([1.], torch.tensor(0.)), TypeError, 'c: expected'),
    (lambda: gradient_weights(z0, z0), ValueError, 'c_pos: expected shape (4,)'),
    (lambda: gradient_weights(z0, z0[0], tau=0), ValueError, 'tau: expected')])
def test_bad_options_are_named(f, err, msg):
    with pytest.raises(err) as e: f()
    assert msg in str(e.value)

def test_inside_a_compiled_function():
    z,y = torch.randn(30, 4, generator=rng()), torch.arange(30)%5
    f = lambda z: sampled_loss(2*z, y, k=3, beta=2.)
    a,b = z.clone().requires_grad_(), z.clone().requires_grad_()
    torch.manual_seed(0); u = f(a)
    torch.manual_seed(0); v = torch.compile(f, backend='aot_eager')(b)
    assert_close(u, v); assert_close(torch.autograd.grad(u, a), torch.autograd.grad(v, b))

@pytest.mark.parametrize('loss, op', [(SampledLoss(5., k=3), 'cumsum'), (GeneralLoss(eta=Exponential(2.)), 'softmax')], ids=['sampled', 'general'])
def test_what_depends_on_labels_is_in_no_compiled_graph(loss, op):
    "The graph breaks before the loss, which runs as it is; what stands before it and after it is compiled."
    seen = []
    def backend(graph, inputs):
        seen.extend(n.target if isinstance(n.target, str) else n.target.__name__ for n in graph.graph.nodes)
        return graph.forward
    torch._dynamo.reset()
    z,y = torch.randn(30, 4, generator=rng(), requires_grad=True), torch.arange(30)%5
    torch.compile(lambda z: loss(torch.sin(z), y)+z.cos().sum(), backend=backend)(z).backward()
    assert {'sin', 'cos'}<={*seen} and op not in seen and z.grad.isfinite().all()

def test_importing_and_using_them_loads_no_compiler():
    "Nor does a step; a compiler is loaded by whoever compiles."
    code = """
import sys, torch
from hardcl_nb.losses.estimators import SampledLoss
from hardcl_nb.losses.general import GeneralLoss
z = torch.randn(20, 8, requires_grad=True)
for loss in (SampledLoss(5., k=3), GeneralLoss()): loss(z, torch.arange(20)%4).backward()
print('torch._dynamo' in sys.modules)"""
    o = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (o.returncode, o.stdout.strip())==(0, 'False'), o.stdout+o.stderr[-2000:]

def test_transforms_are_refused():
    "A gradient that is formed on the way forward cannot follow torch.func, nor forward differentiation."
    from torch.autograd import forward_ad
    z,y = torch.randn(12, 4, generator=rng(), dtype=torch.float64), torch.arange(12)%3
    f = lambda z: sampled_loss(z, y, k=2)
    for call in (lambda: torch.func.grad(f)(z), lambda: torch.func.vmap(f)(z[None]), lambda: torch.func.jacrev(f)(z)):
        with pytest.raises(RuntimeError, match="engine: expected 'plain' there; .*, got 'sampled_loss' inside"): call()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="got 'sampled_loss' inside"):
        f(forward_ad.make_dual(z, z))

def test_module_keeps_its_options():
    "Attributes may be read and set; what is out of range is refused when it is made, and when it is called."
    z,y,_ = batch(7)
    kw = dict(beta=2., k=3, supervised=False, alpha=.5, q='sum', tau=.7)
    loss = SampledLoss(**kw, generator=rng(1), chunk=4)
    assert {k: getattr(loss, k) for k in kw}==kw and 'beta=2.0, k=3' in repr(loss)
    assert_close(loss(z, y), sampled_loss(z, y, **kw, generator=rng(1), chunk=4), rtol=0, atol=0)
    w = torch.arange(10.)
    loss.generator = rng(1)
    assert_close(loss(z, y, w, beta=0.), sampled_loss(z, y, **kw|{'beta': 0.}, weight=w, generator=rng(1), chunk=4))
    loss.tau = -1.
    with pytest.raises(ValueError, match='tau: expected a finite number > 0, got -1'): loss(z, y)
    for bad, err in ((dict(k=0), ValueError), (dict(beta=-1.), ValueError), (dict(chunk=0), ValueError)):
        with pytest.raises(err, match=next(iter(bad))+': expected'): SampledLoss(**bad)
