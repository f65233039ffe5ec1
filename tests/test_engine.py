"Properties of the tiled engine over random batches, queues, chunk sizes, and bad input."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.engine import tiled_loss, tiled_rows
from hardcl_nb.losses import contrastive_loss

few = settings(max_examples=40, deadline=None)
seeds, bools, chunks = st.integers(0, 10**6), st.booleans(), st.integers(1, 40)
options = st.fixed_dictionaries(dict(beta=st.sampled_from([0., .5, 5., 40.]), supervised=bools, detach=bools,
    alpha=st.sampled_from([0., 1., .3]), q=st.sampled_from([1., 2.5, 'sum']), tau=st.sampled_from([.2, 1., 3.])))

def batch(seed, n, classes):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=g, dtype=torch.float64), torch.cat([torch.tensor([0,0,-7]), torch.randint(classes, (n-3,), generator=g)]), g

def value_grad(f, z, y, weight=None, **kw):
    z = z.clone().requires_grad_(); loss = f(z, y, **kw)
    total = loss if weight is None else (loss*weight).nansum()
    return loss.detach(), torch.autograd.grad(total, z)[0]

@few
@given(seeds, st.integers(4, 35), st.integers(1, 20), chunks, options)
def test_mean_equals_plain_form(seed, n, classes, chunk, kw):
    z,y,_ = batch(seed, n, classes)
    for a,b in zip(value_grad(tiled_loss, z, y, chunk=chunk, **kw), value_grad(contrastive_loss, z, y, **kw)): assert_close(a, b, rtol=1e-10, atol=1e-11)

@few
@given(seeds, st.integers(4, 35), st.integers(1, 20), chunks, options)
def test_weighted_rows_equal_plain_form(seed, n, classes, chunk, kw):
    z,y,g = batch(seed, n, classes); w = torch.randn(n, generator=g, dtype=z.dtype)
    for a,b in zip(value_grad(tiled_loss, z, y, w, reduction='none', chunk=chunk, **kw), value_grad(contrastive_loss, z, y, w, reduction='none', **kw)):
        assert_close(a, b, rtol=1e-10, atol=1e-11, equal_nan=True)

@few
@given(seeds, st.integers(4, 30), st.integers(1, 20), chunks, options)
def test_slices_of_rows_add_up_to_the_batch(seed, n, cut, chunk, kw):
    z,y,_ = batch(seed, n, 4); cut = min(cut, n-1); i = torch.arange(n)
    whole = tiled_rows(z, y, z, y, own=i, chunk=chunk, **kw)
    parts = [tiled_rows(z[r], y[r], z, y, own=i[r], chunk=3, **kw) for r in (slice(0, cut), slice(cut, n))]
    for k in (0, 1): assert_close(torch.cat([p[k] for p in parts]), whole[k], rtol=1e-10, atol=1e-11)
    assert_close(parts[0][2]+parts[1][2], whole[2], rtol=1e-10, atol=1e-11)

@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize('beta', [0., 5., 30.])
@pytest.mark.parametrize('detach', [True, False])
def test_precision_against_float64(dtype, tol, beta, detach):
    z = torch.nn.functional.normalize(torch.randn(300, 32, generator=torch.Generator().manual_seed(0)), dim=1).to(dtype); y = torch.arange(300)%20
    a,b = value_grad(tiled_loss, z, y, beta=beta, detach=detach), value_grad(contrastive_loss, z.double(), y, beta=beta, detach=detach)
    assert abs(a[0]/b[0]-1)<1e-6 and a[1].dtype==dtype
    assert (a[1].double()-b[1]).norm()<=tol*b[1].norm()

@pytest.mark.parametrize('beta', [0., 30., 300.])
def test_small_temperatures_are_exact(beta):
    "Below τ = 0.05 both forms compute in float64, and agree with it to the rounding of the result."
    z = torch.nn.functional.normalize(torch.randn(300, 32, generator=torch.Generator().manual_seed(0)), dim=1); y = torch.arange(300)%20
    for f in (tiled_loss, contrastive_loss):
        a,b = value_grad(f, z, y, beta=beta, tau=.01), value_grad(contrastive_loss, z.double(), y, beta=beta, tau=.01)
        assert a[0].dtype==torch.float32 and abs(a[0]/b[0]-1)<1e-6 and (a[1].double()-b[1]).norm()<=1e-6*b[1].norm()

@pytest.mark.parametrize('kw, err, msg', [
    (dict(chunk=0), ValueError, 'chunk: expected a whole number >= 1'),
    (dict(cols=torch.eye(4)[:,:3]), ValueError, '4 columns of torch.float32'),
    (dict(cols=torch.eye(4).double()), ValueError, 'cols: expected'),
    (dict(y_cols=torch.zeros(3, dtype=torch.long)), ValueError, 'y_cols: expected 4 labels'),
    (dict(weight=torch.ones(3)), ValueError, 'weight: expected 4 weights'),
    (dict(own=torch.ones(4)), TypeError, 'own: expected'),
    (dict(y_cols=torch.zeros(4, dtype=torch.long)), ValueError, 'got none for 2 of 4 anchors'),
    (dict(beta=-1.), ValueError, 'beta: expected')])
def test_bad_input_is_named(kw, err, msg):
    z, y = torch.eye(4), torch.tensor([0,0,1,1])
    with pytest.raises(err) as e: tiled_rows(**{**dict(z=z, y=y, cols=z, y_cols=y), **kw})
    assert msg in str(e.value)
