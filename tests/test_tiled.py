"Properties of the tiled engine over random batches, queues, chunk sizes, precision, compiled steps, and bad input."
import itertools, math
from functools import partial
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from hardcl_nb.losses import panels, tiled as engine
from hardcl_nb.losses.contrastive import contrastive_loss
from hardcl_nb.losses.panels import tiled_rows
from hardcl_nb.losses.tiled import tiled_loss

few = settings(max_examples=40, deadline=None)
seeds, bools, chunks = st.integers(0, 10**6), st.booleans(), st.sampled_from([None, 1, 2, 3, 5, 8, 17, 40])
options = st.fixed_dictionaries(dict(beta=st.sampled_from([0., .5, 5., 40.]), supervised=bools, detach=bools,
    alpha=st.sampled_from([0., 1., .3]), q=st.sampled_from([1., 2.5, 'sum']), tau=st.sampled_from([.2, 1., 3.]),
    tau_plus=st.sampled_from([0., 0., .1, .4])))

def batch(seed, n, classes):
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.tensor([0,0,-7]), torch.randint(classes, (n-3,), generator=g)])
    return torch.randn(n, 5, generator=g, dtype=torch.float64), y, g

def value_grad(f, z, y, factor=None, **kw):
    z = z.clone().requires_grad_(); loss = f(z, y, **kw)
    total = loss if factor is None else (loss*factor).nansum()
    return loss.detach(), torch.autograd.grad(total, z)[0]

def plain(z, y, **kw): return contrastive_loss(z, y, engine='plain', **kw)

def look_nowhere(m, look=lambda x: False):
    "As on a GPU: reading a value would make somebody wait."
    for module in (engine, panels): m.setattr(module, 'free_look', look)

@few
@given(seeds, st.integers(4, 35), st.integers(1, 20), chunks, options, bools)
def test_mean_equals_plain_form(seed, n, classes, chunk, kw, weighted):
    z,y,g = batch(seed, n, classes)
    if weighted: kw = dict(kw, weight=torch.rand(n, generator=g, dtype=z.dtype)+.01)
    for look in (engine.free_look, lambda x: False):
        with pytest.MonkeyPatch.context() as m:
            look_nowhere(m, look)
            ours, ref = value_grad(tiled_loss, z, y, chunk=chunk, **kw), value_grad(plain, z, y, **kw)
            for a,b in zip(ours, ref): assert_close(a, b, rtol=1e-10, atol=1e-11)

@few
@given(seeds, st.integers(4, 35), st.integers(1, 20), chunks, options)
def test_weighted_rows_equal_plain_form(seed, n, classes, chunk, kw):
    z,y,g = batch(seed, n, classes); w = torch.randn(n, generator=g, dtype=z.dtype)
    ours, ref = (value_grad(f, z, y, w, reduction='none', **kw) for f in (partial(tiled_loss, chunk=chunk), plain))
    for a,b in zip(ours, ref): assert_close(a, b, rtol=1e-10, atol=1e-11, equal_nan=True)

@few
@given(seeds, st.integers(4, 30), st.integers(1, 20), chunks, options)
def test_slices_of_rows_add_up_to_the_batch(seed, n, cut, chunk, kw):
    z,y,_ = batch(seed, n, 4); cut = min(cut, n-1); i = torch.arange(n)
    whole = tiled_rows(z, y, z, y, own=i, chunk=chunk, **kw)
    parts = [tiled_rows(z[r], y[r], z, y, own=i[r], chunk=3, **kw) for r in (slice(0, cut), slice(cut, n))]
    for k in (0, 1): assert_close(torch.cat([p[k] for p in parts]), whole[k], rtol=1e-10, atol=1e-11)
    assert_close(parts[0][2]+parts[1][2], whole[2], rtol=1e-10, atol=1e-11)

@few
@given(seeds, st.integers(4, 20), st.integers(1, 25), chunks, options)
def test_a_queue_is_a_batch_with_fewer_anchors(seed, n, k, chunk, kw):
    z,y,_ = batch(seed, n+k, 5); z, q = z[:n].requires_grad_(), z[n:].requires_grad_()
    loss = tiled_loss(z, y[:n], queue=q, y_queue=y[n:], chunk=chunk, **kw)
    ref = plain(torch.cat([z, q]), y, reduction='none', **kw)[:n].nanmean()
    assert_close(loss, ref, rtol=1e-10, atol=1e-11)
    ours, theirs = (torch.autograd.grad(f, (z, q)) for f in (loss, ref))
    for a,b in zip(ours, theirs): assert_close(a, b, rtol=1e-10, atol=1e-11)

def unit_balls(n):
    "Embeddings in the unit ball: spread out, in it, in tight classes, in single points, in a narrow cone."
    g = torch.Generator().manual_seed(1); y = torch.arange(n)%20
    x, mu = (F.normalize(torch.randn(k, 64, generator=g), dim=1) for k in (n, 20))
    mu = mu[y]
    return y, dict(sphere=x, ball=x*torch.rand(n, 1, generator=g), near=F.normalize(mu+.02*x, dim=1), collapsed=mu,
        cone=F.normalize(x[:1]+.05*x, dim=1))

def errors(f, z, y, **kw):
    "Relative errors of value and gradient against float64; a gradient below 1e-5 counts as 1e-5."
    (a, da), (b, db) = value_grad(f, z, y, **kw), value_grad(plain, z.double(), y, **kw)
    return abs(a.double()/b-1).item(), ((da.double()-db).norm()/max(db.norm(), 1e-5)).item()

@pytest.mark.parametrize('kind', ['sphere', 'ball', 'near', 'collapsed', 'cone'])
@pytest.mark.parametrize('form', ['host', 'accelerator', 'plain', 'auto'])
def test_precision_against_float64(kind, form, monkeypatch):
    y,zs = unit_balls(300)
    f = dict(plain=plain, auto=contrastive_loss).get(form, tiled_loss)
    if form=='accelerator': look_nowhere(monkeypatch)
    for beta,tau,detach,sup in itertools.product((0., 1., 5., 30., 300.), (.05, .5, 1.), (True, False), (True, False)):
        kw = dict(beta=beta, tau=tau, detach=detach, supervised=sup)
        value, grad = errors(f, zs[kind], y, **kw)
        # a cone is seen only by looking at the embeddings: without, float32 costs 3e-6 there
        assert value<1e-6 and grad<(4e-6 if kind=='cone' and form=='accelerator' else 1e-6), (kw, value, grad)

@pytest.mark.parametrize('form', [plain, tiled_loss, contrastive_loss])
def test_precision_in_ever_narrower_cones(form):
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(200, 16, generator=g, dtype=torch.float64), torch.arange(200)%10
    for width,tau,sup in itertools.product((.1, .01, 1e-3), (.2, 1., 100.), (True, False)):
        z = F.normalize(1+width*F.normalize(x, dim=1), dim=1).float()
        kw = dict(beta=1., tau=tau, supervised=sup)
        (_, a), (_, b) = value_grad(form, z, y, **kw), value_grad(plain, z.double(), y, **kw)
        assert (a.double()-b).norm()<1e-6*b.norm(), (width, tau, sup)

@pytest.mark.parametrize('kw', [dict(beta=5.), dict(beta=5., supervised=False), dict(beta=30., tau=.05),
    dict(beta=300., tau=.5, detach=False)])
def test_precision_of_a_large_batch(kw):
    y,zs = unit_balls(2048)
    for kind in ('sphere', 'near'): assert max(errors(tiled_loss, zs[kind], y, **kw))<1e-6

@pytest.mark.parametrize('form', [tiled_loss, contrastive_loss])
@pytest.mark.parametrize('tau', [1., 1000.])
def test_precision_of_debiased_and_attached_weights(form, tau):
    y,zs = unit_balls(300)
    for kind,sup in itertools.product(('sphere', 'near', 'cone'), (True, False)):
        kw = dict(beta=1., tau=tau, tau_plus=.9, detach=False, supervised=sup)
        (a, da), (b, db) = value_grad(form, zs[kind], y, **kw), value_grad(plain, zs[kind].double(), y, **kw)
        assert abs(a.double()/b-1)<1e-6 and (da.double()-db).norm()<1e-6*db.norm(), (kind, sup)

@pytest.mark.parametrize('form', [tiled_loss, contrastive_loss])
def test_precision_of_rows_of_mixed_length(form):
    g = torch.Generator().manual_seed(3)
    x, y = F.normalize(torch.randn(200, 16, generator=g), dim=1), torch.arange(200)%10
    for low,beta,sup in itertools.product((-6., -3., 0.), (0., 5.), (True, False)):
        z = x*10**(low+(1.-low)*torch.rand(200, 1, generator=g))
        assert max(errors(form, z, y, beta=beta, supervised=sup))<1e-6, (low, beta, sup)

@pytest.mark.parametrize('beta', [0., 5., 30.])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_digits(beta, dtype):
    y,zs = unit_balls(300); z = zs['sphere'].to(dtype)
    value, grad = errors(tiled_loss, z, y, beta=beta)
    assert value<1e-6 and grad<5e-3 and value_grad(tiled_loss, z, y, beta=beta)[1].dtype==dtype

def test_exponents_beyond_any_range_use_row_maxima():
    y,zs = unit_balls(300)
    for k,kw in [(30., dict(beta=5.)), (1., dict(beta=1000., tau=1e-3)), (1e-3, dict(beta=5.))]:
        assert max(errors(tiled_loss, k*zs['sphere'], y, **kw))<1e-6

def test_exponents_that_are_large_through_the_centre_alone():
    "Rows that differ little, but along a long common part: s - ‖c‖²/τ is (x·c + c·x')/τ, and x·x'/τ is small."
    g = torch.Generator().manual_seed(0)
    c = torch.zeros(8, dtype=torch.float64)
    c[0] = 100.
    z, y = c+.3*F.normalize(torch.randn(300, 8, generator=g, dtype=torch.float64), dim=1), torch.arange(300)%10
    for tau,beta in ((.1, 0.), (.1, 3.), (.03, 5.)): # exponents to ±600 and more
        assert max(errors(tiled_loss, z, y, tau=tau, beta=beta))<1e-13, (tau, beta)

@pytest.mark.parametrize('sizes', [[300, 300], [600], [2]*300, [1]*200+[400], [599, 1]])
@pytest.mark.parametrize('supervised', [True, False])
def test_large_and_small_classes(sizes, supervised):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(600, generator=g)]
    z = torch.randn(600, 4, generator=g, dtype=torch.float64)
    if supervised and len(sizes)==1: return
    ref = value_grad(plain, z, y, beta=2., supervised=supervised)
    for chunk in (None, 50, 70): # 70: the last window of a large class is its last piece
        ours = value_grad(tiled_loss, z, y, beta=2., supervised=supervised, chunk=chunk)
        for a,b in zip(ours, ref): assert_close(a, b, rtol=1e-10, atol=1e-11)

class Watch(TorchDispatchMode):
    "Sees every operation, those inside the engine's own too."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is engine._op._opoverload:
            with self: return engine._run(*args)
        self.before(func, args)
        out = func(*args, **(kwargs or {}))
        self.after(func, out)
        return out
    def before(self, func, args): pass
    def after(self, func, out): pass

class NoLook(Watch):
    "Fails where a value would be read, or a shape depend on one."
    def before(self, func, args):
        aten = torch.ops.aten
        assert func not in (aten._local_scalar_dense.default, aten.nonzero.default, aten.unique_consecutive.default,
            aten._unique2.default, aten.repeat_interleave.Tensor, aten.masked_select.default, aten.equal.default), func
        assert func is not aten.index.Tensor or all(i is None or i.dtype!=torch.bool for i in args[1])

class NoLargeMatrix(Watch):
    "Fails where something as large as 900 x 900 is made."
    def after(self, func, out): assert not isinstance(out, torch.Tensor) or out.numel()<810000, func

@pytest.mark.parametrize('kw', [dict(), dict(supervised=False, detach=False, q='sum', tau=.05), dict(tau_plus=.1),
    dict(reduction='none'), dict(weight=torch.rand(40)), dict(queue=torch.randn(9, 5), y_queue=torch.arange(9))])
def test_no_value_is_read_on_an_accelerator(kw, monkeypatch):
    look_nowhere(monkeypatch)
    z,y,_ = batch(0, 40, 5); z = z.float()
    factor = torch.ones(40) if 'reduction' in kw else None
    with NoLook(): value_grad(tiled_loss, z, y, factor, beta=5., validate=False, chunk=7, **kw)
    look_nowhere(monkeypatch, lambda x: True)
    with pytest.raises(AssertionError), NoLook(): tiled_loss(z, y, validate=False) # the mode does see a look

def test_auto_takes_large_batches_without_validation_and_with_fake_tensors():
    with FakeTensorMode():
        for n in (600, 900): # the plain form and the tiled engine
            z = torch.randn(n, 4, requires_grad=True)
            contrastive_loss(z, torch.arange(n), tau_plus=.1, validate=False).backward()
            assert z.grad.shape==(n, 4)
    z,y,_ = batch(1, 900, 9)
    with NoLargeMatrix(): contrastive_loss(z.requires_grad_(), y, validate=False).backward()
    with pytest.raises(AssertionError), NoLargeMatrix(): plain(z, y)

@pytest.mark.parametrize('n', [600, 800]) # the plain form and the tiled engine
@pytest.mark.parametrize('reduction', ['mean', 'none'])
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiled_step(backend, reduction, n):
    z,y,_ = batch(2, n, 9)
    f = lambda z, y: contrastive_loss(2*z, y, beta=5., validate=False, reduction=reduction).nansum()
    compiled = torch.compile(f, fullgraph=True, backend=backend)
    for a,b in zip(value_grad(compiled, z, y), value_grad(f, z, y)): assert_close(a, b, rtol=0, atol=1e-14)

def test_registration():
    z,y,_ = batch(3, 12, 3)
    for mean,grad in ((True, True), (False, False)):
        weight = torch.full((12,), 1/12, dtype=z.dtype) if mean else None
        args = (z.clone().requires_grad_(), y, None, None, weight, mean, grad, 5., True, True, 1., 1., 1., 0., mean, 0)
        tests = ('test_schema', 'test_faketensor', 'test_autograd_registration')
        torch.library.opcheck(engine._op._opoverload, args, test_utils=tests)

def test_autocast_changes_nothing():
    z,y,_ = batch(4, 50, 5); z = z.float()
    ref = value_grad(tiled_loss, z, y, beta=5.)
    with torch.autocast('cpu', dtype=torch.bfloat16): cast = value_grad(tiled_loss, z, y, beta=5.)
    assert all(torch.equal(a, b) for a,b in zip(ref, cast))

def test_what_is_not_available_says_so():
    z,y,_ = batch(5, 12, 3)
    for f in (tiled_loss, partial(contrastive_loss, engine='tiled')):
        g = partial(f, y=y, validate=False)
        with pytest.raises(RuntimeError, match="'plain' there; or a loop"): torch.func.vmap(g)(torch.stack([z, z]))
        with pytest.raises(RuntimeError, match="'plain' there; or a loop"): torch.func.jvp(g, (z,), (z,))
    for reduction in ('mean', 'none'):
        x = z.clone().requires_grad_()
        g, = torch.autograd.grad(tiled_loss(x, y, reduction=reduction).nansum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="'plain' where the gradient is differentiated again"): g.sum().backward()

def test_a_gradient_is_formed_only_where_it_is_needed(monkeypatch):
    z,y,_ = batch(6, 30, 3); made = []
    compute = engine._compute
    monkeypatch.setattr(engine, '_compute', lambda *a: made.append(a[5]) or compute(*a))
    tiled_loss(z, y)
    with torch.no_grad(): tiled_loss(z.clone().requires_grad_(), y)
    tiled_loss(z.clone().requires_grad_(), y)
    assert made==[False, False, True]

@pytest.mark.parametrize('kw, err, msg', [
    (dict(chunk=0), ValueError, 'chunk: expected a whole number >= 1'),
    (dict(cols=torch.eye(4)[:,:3]), ValueError, '4 columns of torch.float32'),
    (dict(cols=torch.eye(4).double()), ValueError, 'cols: expected'),
    (dict(y_cols=torch.zeros(3, dtype=torch.long)), ValueError, 'y_cols: expected 4 labels'),
    (dict(weight=torch.ones(3)), ValueError, 'weight: expected 4 weights'),
    (dict(own=torch.ones(4)), TypeError, 'own: expected'),
    (dict(y_cols=torch.zeros(4, dtype=torch.long)), ValueError, 'got none for 2 of 4 anchors'),
    (dict(z=torch.full((4, 4), math.nan)), ValueError, 'z: expected finite embeddings'),
    (dict(cols=torch.full((4, 4), math.inf)), ValueError, 'cols: expected finite embeddings'),
    (dict(own=torch.tensor([0,1,2,4])), ValueError, 'own: expected columns in 0..3, or -1, got 0 to 4'),
    (dict(own=torch.tensor([-5,1,2,3])), ValueError, 'own: expected columns in 0..3, or -1, got -5 to 3'),
    (dict(weight=[1.]*4), TypeError, 'weight: expected a torch tensor of 4 weights'),
    (dict(weight=-torch.ones(4)), ValueError, 'weight: expected finite weights >= 0'),
    (dict(grad='no'), ValueError, 'grad: expected one of True, False'),
    (dict(validate='no'), ValueError, 'validate: expected one of True, False'),
    (dict(beta=-1.), ValueError, 'beta: expected')])
def test_bad_rows_are_named(kw, err, msg):
    z, y = torch.eye(4), torch.tensor([0,0,1,1])
    with pytest.raises(err) as e: tiled_rows(**{**dict(z=z, y=y, cols=z, y_cols=y), **kw})
    assert msg in str(e.value)

y4 = torch.tensor([0,0,1,1])
@pytest.mark.parametrize('kw, err, msg', [
    (dict(chunk=-1), ValueError, 'chunk: expected a whole number >= 1'),
    (dict(chunk=2.5), TypeError, 'chunk: expected a whole number >= 1'),
    (dict(weight=torch.ones(3)), ValueError, 'weight: expected 4 weights on cpu, got shape (3,)'),
    (dict(weight=[1.]*4), TypeError, 'weight: expected a torch tensor of 4 weights'),
    (dict(weight=torch.tensor([1.,1,1,-1])), ValueError, 'weight: expected finite weights >= 0'),
    (dict(weight=torch.tensor([1.,1,1,math.nan])), ValueError, 'weight: expected finite weights >= 0'),
    (dict(weight=torch.zeros(4)), ValueError, 'weight: expected finite weights >= 0, that of an anchor > 0'),
    (dict(queue=torch.eye(4)[:,:3], y_queue=y4), ValueError, 'queue: expected 4 columns of torch.float32'),
    (dict(queue=torch.eye(4).double(), y_queue=y4), ValueError, 'queue: expected 4 columns of torch.float32'),
    (dict(queue=torch.eye(4, device='meta'), y_queue=y4), ValueError,
        'queue: expected 4 columns of torch.float32 on cpu'),
    (dict(queue=torch.full((4, 4), math.nan), y_queue=y4), ValueError, 'queue: expected finite embeddings'),
    (dict(queue=torch.eye(4)), ValueError, 'y_queue: expected both or neither'),
    (dict(queue=torch.eye(4), y_queue=y4[:2]), ValueError, 'y_queue: expected 4 labels'),
    (dict(y=torch.arange(4), queue=torch.eye(4), y_queue=y4+9), ValueError, 'y: expected a label that occurs twice'),
    (dict(validate=None), ValueError, 'validate: expected one of True, False'),
    (dict(reduction='sum'), ValueError, 'reduction: expected one of mean, none')])
def test_bad_batch_is_named(kw, err, msg):
    with pytest.raises(err) as e: tiled_loss(**{**dict(z=torch.eye(4), y=y4), **kw})
    assert msg in str(e.value)

def test_forward_mode_is_refused():
    z,y,_ = batch(0, 10, 3)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="engine: expected 'plain' there"):
        tiled_loss(torch.autograd.forward_ad.make_dual(z, z), y)
    for x in (None, z.numpy()):
        with pytest.raises(TypeError, match='z: expected a torch tensor'): tiled_loss(x, y)
