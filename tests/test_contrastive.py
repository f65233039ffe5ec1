"Properties of the exact loss over random batches, extreme numbers, and bad input."
import copy, itertools, math, subprocess, sys
from pathlib import Path
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.free import collapsed_loss
from hardcl_nb.losses.contrastive import ContrastiveLoss, HSCL, SCL, UCL, contrastive_loss
from hardcl_nb.losses.exact import anchors

few = settings(max_examples=30, deadline=None)
seeds, betas, bools = st.integers(0, 10**6), st.floats(0, 50), st.booleans()

def batch(seed, n=14, d=5, dtype=torch.float64):
    "A random batch with random labels that has two positive pairs and two classes at least."
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.tensor([0,0,1,1]), torch.randint(6, (n-4,), generator=g)])
    return torch.randn(n, d, generator=g, dtype=dtype), y, g

def value_grad(z, y, **kw):
    z = z.clone().requires_grad_()
    loss = contrastive_loss(z, y, **kw)
    return loss.detach(), torch.autograd.grad(loss, z)[0]

@few
@given(seeds, betas, bools, bools, st.sampled_from([0., .2]))
def test_order_and_names_of_labels_do_not_matter(seed, beta, supervised, detach, tau_plus):
    z,y,g = batch(seed); p = torch.randperm(len(z), generator=g)
    kw = dict(beta=beta, supervised=supervised, detach=detach, tau_plus=tau_plus)
    loss,grad = value_grad(z, y, **kw)
    loss2,grad2 = value_grad(z[p], torch.randperm(6, generator=g)[y[p]]*7-20, **kw)
    assert_close(loss2, loss, rtol=1e-12, atol=1e-12); assert_close(grad2, grad[p], rtol=1e-10, atol=1e-11)

@few
@given(seeds, betas, bools, bools)
def test_rotation(seed, beta, supervised, detach):
    z,y,g = batch(seed); R = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=z.dtype)).Q
    kw = dict(beta=beta, supervised=supervised, detach=detach)
    loss,grad = value_grad(z, y, **kw); loss2,grad2 = value_grad(z@R, y, **kw)
    assert_close(loss2, loss, rtol=1e-11, atol=1e-12); assert_close(grad2, grad@R, rtol=1e-9, atol=1e-10)

@few
@given(seeds, betas, st.floats(.1, 10), st.sampled_from([1., 'sum']))
def test_temperature_is_a_squared_radius(seed, beta, r, q):
    z,y,_ = batch(seed)
    ref = contrastive_loss(z, y, beta=beta, tau=.3, q=q)
    assert_close(contrastive_loss(r*z, y, beta=beta, tau=.3*r*r, q=q), ref, rtol=1e-11, atol=1e-12)

@few
@given(seeds, betas, st.floats(0, 50), bools, st.sampled_from([0., 1., 2.]), st.sampled_from([0., .1]))
def test_T1_no_anchor_loses_when_negatives_get_harder(seed, beta, more, supervised, alpha, tau_plus):
    z,y,_ = batch(seed); kw = dict(supervised=supervised, alpha=alpha, tau_plus=tau_plus, reduction='none')
    easy, hard = contrastive_loss(z, y, beta=beta, **kw), contrastive_loss(z, y, beta=beta+more, **kw)
    a = anchors(y)
    assert (hard[a]>=easy[a]-1e-12*(1+easy[a].abs())).all()

@few
@given(seeds, st.floats(0, 20), bools, st.integers(2, 4))
def test_collapsed_classes_are_the_population(seed, beta, detach, m):
    g = torch.Generator().manual_seed(seed); mu = torch.randn(5, 3, generator=g, dtype=torch.float64)
    kw = dict(beta=beta, detach=detach, alpha=.7, q=2.)
    loss = contrastive_loss(mu.repeat(m, 1), torch.arange(5).repeat(m), **kw)
    assert_close(loss, collapsed_loss(mu, **kw), rtol=1e-12, atol=1e-12)

@few
@given(seeds, betas, bools, bools)
def test_the_mean_is_over_anchors_alone(seed, beta, supervised, detach):
    z,y,_ = batch(seed); y[-1] = 99
    rows = contrastive_loss(z, y, beta=beta, supervised=supervised, reduction='none')
    assert rows.isnan().equal(~anchors(y)) and rows.isnan().any()
    loss,grad = value_grad(z, y, beta=beta, supervised=supervised, detach=detach)
    assert_close(rows.nanmean(), loss); assert grad.isfinite().all()

@few
@given(seeds, st.floats(0, 5), bools)
def test_a_vanishing_prior_debiases_nothing(seed, beta, supervised):
    z,y,_ = batch(seed); z = F.normalize(z, dim=1)
    kw = dict(beta=beta, supervised=supervised, detach=False)
    for a,b in zip(value_grad(z, y, tau_plus=1e-12, **kw), value_grad(z, y, **kw)):
        assert_close(a, b, rtol=0, atol=1e-10)

@few
@given(seeds, betas, bools, st.floats(.1, 100), st.sampled_from(['plain', 'tiled']))
def test_weights_are_a_weighted_mean_of_anchors(seed, beta, supervised, scale, engine):
    z,y,g = batch(seed); y[-1] = 99; w = torch.rand(len(z), generator=g, dtype=z.dtype); w[0] = 0
    kw = dict(beta=beta, supervised=supervised, engine=engine)
    rows, a = contrastive_loss(z, y, reduction='none', **kw), anchors(y)
    assert_close(contrastive_loss(z, y, weight=scale*w, **kw), (rows*w)[a].sum()/w[a].sum(), rtol=1e-10, atol=1e-12)
    for u,v in zip(value_grad(z, y, weight=torch.full_like(w, scale), **kw), value_grad(z, y, **kw)):
        assert_close(u, v, rtol=1e-10, atol=1e-12)

@pytest.mark.filterwarnings('error')
def test_weights_are_held_fixed():
    z,y,_ = batch(0); w = torch.rand(len(z), dtype=z.dtype).requires_grad_()
    for engine in ('auto', 'plain', 'tiled'):
        assert not contrastive_loss(z, y, weight=w, engine=engine).requires_grad

@pytest.mark.parametrize('tau', [.5, .1, 1e-3])
def test_aligned_positives_at_the_floor_of_debiasing(tau):
    z = F.normalize(torch.tensor([[1.,0],[1,0],[-1,.1],[-1,.1]], dtype=torch.float64), dim=1)
    y, other = torch.tensor([0,0,1,1]), [1,0,3,2]
    rows = contrastive_loss(z, y, tau=tau, tau_plus=.3, reduction='none')
    assert_close(rows, torch.full((4,), math.log1p(math.exp(-2/tau)), dtype=torch.float64), rtol=0, atol=1e-12)
    a = z.clone().requires_grad_() # there the loss is log(1 + e^(-1/τ - s_ip)): negatives get no gradient
    plain, = torch.autograd.grad(F.softplus(-1/tau-(a*a[other]).sum(1)/tau, threshold=50).mean(), a)
    assert_close(value_grad(z, y, tau=tau, tau_plus=.3)[1], plain, rtol=0, atol=1e-12)

def two_lse(z, y, beta, supervised, tau):
    "The closed form in float64, without shifts."
    s = z.double()@z.double().T/tau; same = y[:,None]==y; eye = torch.eye(len(y), dtype=torch.bool)
    b = (beta*s).masked_fill(same if supervised else eye, -math.inf)
    x = ((s+b).logsumexp(1)-b.logsumexp(1))[:,None]-s
    pos = same&~eye; k = pos.sum(1)
    return (torch.logaddexp(x, torch.zeros_like(x))*pos).sum(1)[k>0].div(k[k>0]).mean()

def hard_batches():
    g = torch.Generator().manual_seed(1); y = torch.cat([torch.arange(40)%9, torch.tensor([50])])
    x, means = (F.normalize(torch.randn(n, 16, generator=g), dim=1) for n in (41, 51))
    means = means[y]
    return y, dict(random=x, long=20*x, cone=F.normalize(x[:1]+.01*x, dim=1), collapsed=means,
        near=F.normalize(means+.02*x, dim=1))

@pytest.mark.parametrize('kind', ['random', 'long', 'cone', 'collapsed', 'near'])
def test_extreme_numbers_against_the_closed_form(kind):
    y,zs = hard_batches()
    types = torch.float32, torch.bfloat16, torch.float16
    for dtype,tau,beta,sup in itertools.product(types, (1e-3, .1, 10.), (0., 5., 1000.), (True, False)):
        z = zs[kind].to(dtype, copy=True).requires_grad_()
        ref = two_lse(z.detach(), y, beta, sup, tau).item()
        for detach in (True, False):
            loss = contrastive_loss(z, y, beta=beta, tau=tau, supervised=sup, detach=detach)
            grad, = torch.autograd.grad(loss, z)
            assert loss.dtype==torch.float32 and grad.dtype==dtype and grad.isfinite().all()
            # float32 rounds similarities at 1e-7 of their size, float64 (large (1 + β)/τ) not; below 1e-37 is nothing
            square = z.detach().double().square().sum(1).max().item()
            rounding = 1e-7*square/tau if (1+beta)/tau<=(16 if sup else 2) else 0
            assert abs(loss.item()-ref)<=(1e-6+rounding)*ref+1e-37, (dtype, tau, beta, sup, loss.item(), ref)

def test_gradient_in_float32_at_high_hardness():
    y,zs = hard_batches()
    for kind,beta,sup,detach in itertools.product(('random', 'cone'), (0., 30., 1000.), (True, False), (True, False)):
        kw = dict(beta=beta, supervised=sup, detach=detach)
        a,b = value_grad(zs[kind], y, **kw)[1], value_grad(zs[kind].double(), y, **kw)[1]
        assert (a-b).norm()<=1e-5*b.norm(), (kind, kw)

def test_modules_keep_follow_and_copy_their_options():
    z,y,_ = batch(0)
    assert [p for p in SCL().parameters()]==[] and SCL().state_dict()=={}
    loss = copy.deepcopy(HSCL(4., tau=.5, reduction='none'))
    assert_close(loss(z, y), contrastive_loss(z, y, beta=4., tau=.5, reduction='none'), equal_nan=True)
    loss.beta = -1.
    with pytest.raises(ValueError, match='beta: expected'): loss(z, y)
    assert repr(UCL(q='sum'))=="UCL(beta=0.0, supervised=False, q='sum')"

z0, y0 = torch.eye(4), torch.tensor([0,0,1,1])
bad = [
    (dict(z=[[1.]]), TypeError, 'z: expected a torch tensor'),
    (dict(z=z0[0]), ValueError, 'z: expected a tensor of shape (n, d)'),
    (dict(z=z0[:0], y=y0[:0]), ValueError, 'z: expected at least 2 row(s)'),
    (dict(z=z0[:1], y=y0[:1]), ValueError, 'z: expected at least 2 row(s)'),
    (dict(z=z0.long()), TypeError, 'z: expected floating-point'),
    (dict(z=z0/torch.tensor([1.,1,1,0])), ValueError, 'z: expected finite embeddings'),
    (dict(y=[0,0,1,1]), TypeError, 'y: expected a torch tensor'),
    (dict(y=y0.double()), TypeError, 'y: expected integer labels'),
    (dict(y=y0>0), TypeError, 'y: expected integer labels'),
    (dict(y=y0[:3]), ValueError, 'y: expected 4 labels'),
    (dict(y=y0[:,None]), ValueError, 'y: expected 4 labels'),
    (dict(y=y0.to('meta')), ValueError, 'y: expected labels on cpu'),
    (dict(y=torch.arange(4)), ValueError, '4 labels, all different'),
    (dict(y=torch.arange(4), supervised=False), ValueError, '4 labels, all different'),
    (dict(y=0*y0), ValueError, '4 labels, all equal'),
    (dict(beta=-.1), ValueError, 'beta: expected a finite number >= 0, got -0.1'),
    (dict(beta=math.nan), ValueError, 'beta: expected'),
    (dict(beta=math.inf), ValueError, 'beta: expected'),
    (dict(beta=torch.ones(2)), ValueError, 'beta: expected a number, or a tensor of one number'),
    (dict(tau=torch.ones(2)), ValueError, 'tau: expected a number, or a tensor of one number'),
    (dict(tau=torch.tensor(0., requires_grad=True)), ValueError, 'tau: expected a finite number > 0, got 0'),
    (dict(beta=torch.tensor(1., requires_grad=True)), ValueError, 'beta: expected a number: no gradient'),
    (dict(raw='yes'), ValueError, 'raw: expected one of True, False'),
    (dict(tau=0.), ValueError, 'tau: expected a finite number > 0'),
    (dict(tau=-1), ValueError, 'tau: expected a finite number > 0'),
    (dict(alpha=-1.), ValueError, 'alpha: expected'),
    (dict(q=0.), ValueError, 'q: expected a finite number > 0'),
    (dict(q='mean'), ValueError, "q: expected a number > 0, or 'sum', got 'mean'"),
    (dict(tau_plus=1.), ValueError, 'tau_plus: expected a class prior in [0, 1), got 1.0'),
    (dict(tau_plus=-.1), ValueError, 'tau_plus: expected'),
    (dict(reduction='sum'), ValueError, 'reduction: expected one of mean, none'),
    (dict(supervised='yes'), ValueError, 'supervised: expected one of True, False'),
    (dict(detach=None), ValueError, 'detach: expected one of True, False'),
    (dict(engine='fast'), ValueError, 'engine: expected one of auto, plain, tiled, kernel'),
    (dict(engine='kernel', tau_plus=.1), ValueError,
        "engine: expected 'plain', 'tiled' or 'auto' where negatives are debiased"),
]

@pytest.mark.parametrize('kw, err, msg', bad)
def test_bad_input_is_named(kw, err, msg):
    with pytest.raises(err) as e: contrastive_loss(**{'z': z0, 'y': y0, **kw})
    assert msg in str(e.value)
    options = {k: v for k,v in kw.items() if k not in ('z', 'y')}
    if set(options)==set(kw): # options are refused when the module is made, before any batch
        with pytest.raises(err) as e: ContrastiveLoss(**options)
        assert msg in str(e.value)

@pytest.mark.parametrize('engine', ['auto', 'plain', 'tiled'])
@pytest.mark.parametrize('weight, err, msg', [
    (torch.ones(3), ValueError, 'weight: expected 4 weights on cpu, got shape (3,)'),
    (1., TypeError, 'weight: expected a torch tensor of 4 weights, got float'),
    (-torch.ones(4), ValueError, 'weight: expected finite weights >= 0'),
    (torch.full((4,), math.inf), ValueError, 'got inf to inf')])
def test_bad_weights_are_named(weight, err, msg, engine):
    with pytest.raises(err) as e: contrastive_loss(z0, y0, weight=weight, engine=engine)
    assert msg in str(e.value)

def test_a_module_has_no_weights_of_its_own():
    for cls in (ContrastiveLoss, SCL, UCL):
        with pytest.raises(TypeError, match="unexpected keyword argument 'weight'"): cls(weight=torch.ones(4))
        with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"): cls(temperature=.1)

@pytest.mark.parametrize('engine', ['auto', 'plain', 'tiled'])
@pytest.mark.parametrize('kw', [dict(z=torch.full((4, 4), math.nan)), dict(y=torch.arange(4)), dict(y=0*y0)])
def test_without_validation_the_loss_is_nan_not_a_number_made_up(kw, engine):
    assert contrastive_loss(**{'z': z0, 'y': y0, **kw}, validate=False, engine=engine).isnan()

@pytest.mark.parametrize('y', [torch.ones(3), [0, 0], torch.zeros(2, 2, dtype=torch.long), 3])
def test_anchors_refuses_what_is_no_label_vector(y):
    with pytest.raises((TypeError, ValueError), match='y: expected'): anchors(y)

def test_weights_that_float32_cannot_add_are_refused():
    z,y,_ = batch(0); z = z.float()
    n = len(z)
    for w in (torch.rand(n)*1e38, torch.full((n,), 1e-40), torch.full((n,), 1e300, dtype=torch.float64)):
        for engine in ('auto', 'plain', 'tiled'):
            with pytest.raises(ValueError, match='weight: expected'): contrastive_loss(z, y, weight=w, engine=engine)

@pytest.mark.parametrize('engine', ['auto', 'plain', 'tiled'])
def test_beta_may_change_in_a_compiled_step(engine):
    z,y,_ = batch(0)
    loss = HSCL(1., engine=engine, validate=False)
    step = torch.compile(loss, fullgraph=True, backend='aot_eager')
    for loss.beta in (1., 2., 7.5): assert_close(step(z, y), contrastive_loss(z, y, beta=loss.beta))

def test_switches_are_true_or_false():
    z,y,_ = batch(0)
    for x in (1, 1., 'yes', None, torch.tensor(True), torch.ones(12)):
        with pytest.raises(ValueError, match='supervised: expected one of True, False'):
            contrastive_loss(z, y, supervised=x)

@few
@given(seeds, betas, bools, bools, st.sampled_from([0., 1., .3]), st.sampled_from([1., 'sum']),
    st.sampled_from([0., .2]))
def test_a_small_batch_at_full_speed_is_the_plain_form(seed, beta, supervised, detach, alpha, q, tau_plus):
    "What 'auto' does on a CPU, where it forms the gradient itself; weights, and a sample without a positive."
    z,y,g = batch(seed); y[-1] = 99
    w = torch.rand(len(z), generator=g, dtype=z.dtype)+.01
    kw = dict(beta=beta, supervised=supervised, detach=detach, alpha=alpha, q=q, tau_plus=tau_plus, weight=w)
    for a,b in zip(value_grad(z, y, **kw), value_grad(z, y, engine='plain', **kw)):
        assert_close(a, b, rtol=1e-10, atol=1e-11)

@pytest.mark.parametrize('kw', [dict(beta=2.), dict(beta=2., detach=False), dict(tau_plus=.1), dict(supervised=False)])
def test_a_small_batch_can_be_differentiated_as_you_like(kw):
    "Twice, by torch.func and forward: 'auto' takes the plain form there."
    z,y,g = batch(1); v = torch.randn(z.shape, generator=g, dtype=z.dtype)
    def twice(engine):
        x = z.clone().requires_grad_()
        d, = torch.autograd.grad(contrastive_loss(x, y, engine=engine, **kw), x, create_graph=True)
        return torch.autograd.grad((d*v).sum(), x)[0]
    assert_close(twice('auto'), twice('plain'), rtol=1e-10, atol=1e-12)
    f = lambda x: contrastive_loss(x, y, validate=False, **kw)
    loss, d = value_grad(z, y, engine='plain', **kw)
    assert_close(torch.func.vmap(f)(torch.stack([z, z])), torch.stack([loss, loss]))
    assert_close(torch.func.grad(f)(z), d, rtol=1e-10, atol=1e-12)
    assert_close(torch.func.jvp(f, (z,), (v,))[1], (d*v).sum(), rtol=1e-10, atol=1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, v)
        assert_close(torch.autograd.forward_ad.unpack_dual(f(dual)).tangent, (d*v).sum(), rtol=1e-10, atol=1e-12)

@pytest.mark.parametrize('engine', ['auto', 'plain', 'tiled'])
def test_autocast_changes_nothing(engine):
    z,y,_ = batch(4); z = z.float()
    ref = value_grad(z, y, beta=5., engine=engine)
    with torch.autocast('cpu', dtype=torch.bfloat16): cast = value_grad(z, y, beta=5., engine=engine)
    assert all(torch.equal(a, b) for a,b in zip(ref, cast))

def test_a_first_step_loads_no_compiler():
    "Loss and gradient at n = 2,048 on a CPU, in a process of its own."
    code = '''
import sys, torch
from hardcl_nb.losses.contrastive import HSCL
z = torch.randn(2048, 8, requires_grad=True)
HSCL(5.)(z, torch.arange(2048)%100).backward()
assert z.grad.isfinite().all()
print([m for m in ('torch._dynamo', 'triton') if m in sys.modules])'''
    o = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert o.returncode==0 and o.stdout.strip()=='[]', o.stdout+o.stderr[-2000:]

@pytest.mark.parametrize('supervised', [True, False])
@pytest.mark.parametrize('far', [0., 3.])
def test_raw_weights_beside_a_queue(supervised, far):
    "Rows of batch and queue together, of which only the batch's are anchors; a common part counts, as weights are not normalised."
    g = torch.Generator().manual_seed(0)
    z, old = (torch.randn(n, 5, generator=g, dtype=torch.float64)/3+far for n in (9, 14))
    y, y_old = torch.arange(9)%3, torch.arange(14)%4
    how = dict(beta=.5, supervised=supervised, tau=20., raw=True, reduction='none')
    all_rows = contrastive_loss(torch.cat([z, old]), torch.cat([y, y_old]), engine='plain', **how)
    torch.testing.assert_close(contrastive_loss(z, y, queue=(old, y_old), **how), all_rows[:9], rtol=1e-10, atol=1e-12)
