"NT-Xent, SupCon and the variants of public code: references, orders, invariances, precision, bad input."
import itertools, math
from pathlib import Path
import numpy as np
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.losses.contrastive import contrastive_loss
from hardcl_nb.losses.relatives import NTXent, SupCon, nt_xent, official_loss, recipes, supcon_loss, stack_views, variant_loss

few = settings(max_examples=25, deadline=None)
seeds, betas, bools, taus = st.integers(0, 10**6), st.floats(0, 10), st.booleans(), st.floats(.05, 10)
rng = lambda seed=0: torch.Generator().manual_seed(seed)
ref = {k: torch.tensor(v) for k,v in np.load(Path(__file__).parent/'official_losses.npz').items()}

def batch(seed, n=12, d=5):
    "Unit vectors with random labels that has two positive pairs and two classes at least."
    g = rng(seed)
    z = F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1)
    return z, torch.cat([torch.tensor([0,0,1,1]), torch.randint(6, (n-4,), generator=g)]), g

def plain_variant(z, y, beta=0., supervised=True, tau=1., beta_on='s', own_positive=False, own_negative=False, times='mean', mean='anchors', detach=True, tau_plus=0.):
    "Loops over anchors and positives; plain exponentials."
    n, per_anchor = len(z), []
    c = z@z.T
    for i in range(n):
        N = [j for j in range(n) if (y[j]!=y[i] if supervised else (j!=i or own_negative))]
        P = [p for p in range(n) if y[p]==y[i] and (p!=i or own_positive)]
        w = torch.exp((beta*c[i,N]).div(tau if beta_on=='s' else 1.))
        w = w.detach() if detach else w
        E = (w*(c[i,N]/tau).exp()).sum()/w.sum()
        pull = [(c[i,p]/tau).exp() for p in P]
        g = [torch.clamp((E-tau_plus*e)/(1-tau_plus), min=math.exp(-1/tau) if tau_plus else 0.) for e in pull]
        if P: per_anchor.append(torch.stack([-(e/(e+(n-2 if times=='sum' else 1)*x)).log() for e,x in zip(pull, g)]))
    return torch.cat(per_anchor).mean() if mean=='pairs' else torch.stack([l.mean() for l in per_anchor]).mean()

def value_grad(f, z):
    z = z.detach().clone().requires_grad_()
    l = f(z)
    return l.detach(), torch.autograd.grad(l, z)[0]

options = [dict(), dict(supervised=False), dict(tau=.5), dict(tau=.5, beta_on='inner'), dict(own_positive=True), dict(own_negative=True), dict(supervised=False, own_negative=True),
           dict(times='sum'), dict(mean='pairs'), dict(detach=False), dict(tau_plus=.1), dict(tau_plus=.3, supervised=False, detach=False, times='sum', mean='pairs', own_positive=True)]

@pytest.mark.parametrize('kw', options, ids=str)
def test_each_option_against_loops(kw):
    z,_,_ = batch(1)
    y = torch.tensor([0,0,0,0,1,1,1,2,2,3,3,4]) # unequal classes, one sample without a positive
    f = lambda z: variant_loss(z, y, beta=2., **kw)
    assert_close(value_grad(f, z), value_grad(lambda z: plain_variant(z, y, beta=2., **kw), z), rtol=0, atol=1e-12)
    if kw.get('detach') is False: assert torch.autograd.gradcheck(f, z.clone().requires_grad_())

@pytest.mark.parametrize('name, labels', [('robinson2021', None), ('jiang2022', 'view_labels')])
def test_second_view_has_its_gradient_too(name, labels):
    "The notebook compares stacked views; here the views are separate leaves."
    y = None if labels is None else ref[labels]
    for (beta,o),grad in zip(ref[name+'_options'].tolist(), ref[name+'_grad']):
        a, b = ref['view1'].clone().requires_grad_(), ref['view2'].clone().requires_grad_()
        z, ids = stack_views(a, b, y)
        official_loss(z, ids, name, beta=beta, **(dict(tau_plus=o) if y is None else dict(detach=bool(o)))).backward()
        assert_close(torch.cat([a.grad, b.grad])[:len(grad)], grad, rtol=0, atol=1e-9)

@pytest.mark.parametrize('row', range(6))
def test_sampled_recipe_within_three_standard_errors(row):
    (beta,sup), (want,err) = ref['jiang2023_options'][row].tolist(), ref['jiang2023_loss'][row].tolist()
    ours = torch.stack([official_loss(ref['z'], ref['y'], 'jiang2023', beta=beta, supervised=bool(sup), generator=g) for g in [rng(row)] for _ in range(12)])
    assert abs(ours.mean()-want)<3*math.hypot(err, ours.std()/12**.5)

@few
@given(seeds, betas, bools, bools, taus)
def test_defaults_are_the_loss_of_the_course(seed, beta, supervised, detach, tau):
    z,y,_ = batch(seed); kw = dict(beta=beta, supervised=supervised, detach=detach, tau=tau)
    for a,b in zip(value_grad(lambda z: variant_loss(z, y, **kw), z), value_grad(lambda z: contrastive_loss(z, y, **kw), z)): assert_close(a, b, rtol=1e-11, atol=1e-11)

@few
@given(seeds, taus)
def test_supcon_order_and_relations(seed, tau):
    z,y,_ = batch(seed)
    out, inn, scl = supcon_loss(z, y, tau=tau), supcon_loss(z, y, tau=tau, where='in'), contrastive_loss(z, y, tau=tau, q='sum')
    assert 0<=inn+1e-12 and inn<=out+1e-12 and scl<=out+1e-12

@few
@given(seeds, taus, st.integers(2, 7))
def test_views_may_be_swapped_and_shuffled(seed, tau, n):
    g = rng(seed)
    a, b, p = (*torch.randn(2, n, 4, generator=g, dtype=torch.float64), torch.randperm(n, generator=g))
    want = nt_xent(a, b, tau=tau)
    assert_close(nt_xent(b, a, tau=tau), want, rtol=1e-12, atol=1e-12)
    assert_close(nt_xent(a[p], b[p], tau=tau), want, rtol=1e-12, atol=1e-12)

def test_no_positive_is_no_part_of_the_mean():
    z,_,_ = batch(2)
    y = torch.tensor([0,0,0,1,1,1,2,3,4,5,6,7])
    for f in (lambda z, y: supcon_loss(z, y), lambda z, y: supcon_loss(z, y, where='in')):
        per = [f(z, torch.where(torch.arange(12)<3, 0, torch.arange(12)+10)), f(z, torch.where((torch.arange(12)>2)&(torch.arange(12)<6), 0, torch.arange(12)+10))]
        assert_close(f(z, y), sum(per)/2, rtol=0, atol=1e-13)

@pytest.mark.parametrize('tau', [1e-3, .05, 1., 10.])
def test_single_precision_against_double(tau):
    z,y,_ = batch(3, n=40, d=16)
    for f in (lambda z: supcon_loss(z, y, tau=tau), lambda z: supcon_loss(z, y, tau=tau, where='in'), lambda z: nt_xent(z[:20], z[20:], tau=tau), lambda z: variant_loss(z, y, tau=tau, times='sum', beta=3.)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = z.to(dtype)
            want = f(x.double())
            assert_close(f(x).double(), want, rtol=1e-5, atol=1e-6)

def test_autocast_changes_nothing():
    z,y,_ = batch(4); z = z.float()
    for f in (lambda: supcon_loss(z, y), lambda: nt_xent(z[:6], z[6:]), lambda: variant_loss(z, y, beta=3.)):
        want = f()
        with torch.autocast('cpu', dtype=torch.bfloat16): assert_close(f(), want, rtol=0, atol=0)

z0, y0 = torch.eye(4), torch.tensor([0,0,1,1])
@pytest.mark.parametrize('f', [supcon_loss, variant_loss, lambda z, y: official_loss(z, y, 'jiang2022')], ids=['supcon', 'variant', 'official'])
@pytest.mark.parametrize('kw, err, msg', [
    (dict(z=[[1.]]), TypeError, 'z: expected a torch tensor'), (dict(z=z0[0]), ValueError, 'z: expected a tensor of shape (n, d)'),
    (dict(z=z0[:0], y=y0[:0]), ValueError, 'z: expected at least 2 row(s)'), (dict(z=z0/torch.tensor([1.,1,1,0])), ValueError, 'z: expected finite'),
    (dict(y=y0.double()), TypeError, 'y: expected integer labels'), (dict(y=y0[:3]), ValueError, 'y: expected 4 labels'),
    (dict(y=y0.to('meta')), ValueError, 'y: expected labels on cpu'), (dict(y=torch.arange(4)), ValueError, 'y: expected')])
def test_bad_batches_are_named(f, kw, err, msg):
    with pytest.raises(err) as e: f(**{'z': z0, 'y': y0, **kw})
    assert msg in str(e.value)

@pytest.mark.parametrize('kw, err, msg', [
    (dict(y=0*y0), ValueError, 'y: expected'), (dict(beta=-1), ValueError, 'beta: expected'), (dict(tau=0), ValueError, 'tau: expected'), (dict(beta_on='z'), ValueError, 'beta_on: expected one of s, inner'),
    (dict(times=2), ValueError, 'times: expected one of mean, sum'), (dict(mean='all'), ValueError, 'mean: expected one of anchors, pairs'), (dict(own_positive=2), ValueError, 'own_positive: expected one of'),
    (dict(own_negative=None), ValueError, 'own_negative: expected one of'), (dict(tau_plus=1), ValueError, 'tau_plus: expected a class prior'), (dict(k=0), ValueError, 'k: expected'), (dict(k=2, detach=False), ValueError, 'detach: expected True')])
def test_bad_variants_are_named(kw, err, msg):
    with pytest.raises(err) as e: variant_loss(**{'z': z0, 'y': y0, **kw})
    assert msg in str(e.value)

@pytest.mark.parametrize('f, err, msg', [
    (lambda: stack_views(z0, z0.double()), ValueError, 'z2: expected (4, 4) torch.float32'), (lambda: stack_views(z0[0], z0[0]), ValueError, 'z1: expected'),
    (lambda: stack_views(z0, z0, y0[:2]), ValueError, 'y: expected 4 labels'), (lambda: nt_xent(z0[:1], z0[:1]), ValueError, 'z1: expected two images at least'),
    (lambda: nt_xent(z0, z0, tau=-1), ValueError, 'tau: expected'), (lambda: nt_xent([1.], z0), TypeError, 'z1: expected a torch tensor'), (lambda: supcon_loss(z0, y0, tau=0), ValueError, 'tau: expected'),
    (lambda: official_loss(z0, y0, 'khosla2020'), ValueError, 'recipe: expected one of '+', '.join(recipes))])
def test_other_bad_input_is_named(f, err, msg):
    with pytest.raises(err) as e: f()
    assert msg in str(e.value)

@pytest.mark.parametrize('width', [1., .1, .01, .001])
def test_single_precision_in_a_cone(width):
    "The same float32 numbers in double precision: within a millionth, however narrow the cone."
    y, g = torch.arange(120)%20, rng(5)
    x = F.normalize(torch.ones(120, 16)+width*torch.randn(120, 16, generator=g), dim=1)
    fs = [lambda z, kw=kw: variant_loss(z, y, beta=3., **kw) for kw in options]
    fs += [lambda z, w=w: supcon_loss(z, y, tau=.5, where=w) for w in ('out', 'in')]
    for f in (*fs, lambda z: nt_xent(z[:60], z[60:], tau=1.)):
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        got, want = f(a), f(b)
        assert got.dtype==torch.float32 and abs(float((got.double()/want).detach()-1))<1e-6
        ga, gb = torch.autograd.grad(got, a)[0].double(), torch.autograd.grad(want, b)[0]
        assert (ga-gb).norm()<=1e-5*gb.norm()

@few
@given(seeds, taus, bools)
def test_weights_are_those_of_anchors(seed, tau, inside):
    z,y,g = batch(seed)
    w, kw = torch.rand(12, generator=g, dtype=torch.float64)+.1, dict(tau=tau, where='in' if inside else 'out')
    has = [i for i in range(12) if (y==y[i]).sum()>1]
    one = torch.stack([supcon_loss(z, y, weight=torch.eye(12, dtype=torch.float64)[i], **kw) for i in has])
    assert_close(supcon_loss(z, y, weight=w, **kw), (w[has]*one).sum()/w[has].sum(), rtol=1e-12, atol=1e-12)
    assert_close(SupCon(**kw)(z, y, w), supcon_loss(z, y, weight=w, **kw), rtol=0, atol=0)

def test_modules_follow_their_attributes():
    z, ids = stack_views(*torch.randn(2, 5, 4, generator=rng(6), dtype=torch.float64))
    loss, other = NTXent(), SupCon()
    loss.tau, other.tau, other.where = .3, .7, 'in'
    assert_close(loss(z, ids), nt_xent(z[:5], z[5:], tau=.3), rtol=0, atol=1e-13)
    assert_close(other(z, ids), supcon_loss(z, ids, tau=.7, where='in'), rtol=0, atol=0)
    assert repr(other)=="SupCon(tau=0.7, where='in')" and not list(loss.parameters())
    with pytest.raises(ValueError, match='y: expected image ids'): loss(z, ids%2)
    for make in (lambda: SupCon(tau=0.), lambda: NTXent(tau='1'), lambda: SupCon(where='middle')):
        with pytest.raises((ValueError, TypeError), match='tau|where'): make()

@pytest.mark.parametrize('f', [lambda z: supcon_loss(z, y0), lambda z: nt_xent(z[:2], z[2:]), lambda z: variant_loss(z, y0), lambda z: NTXent()(z, y0)])
def test_transforms(f):
    "Derivatives of functions work; a batch of batches is refused by name."
    x = z0.clone().requires_grad_()
    assert_close(torch.func.grad(f)(z0), torch.autograd.grad(f(x), x)[0], rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match='expected one batch at a time'): torch.vmap(f)(torch.stack([z0, z0]))

@pytest.mark.parametrize('tau', [.2, .5, 3.])
@pytest.mark.parametrize('supervised', [True, False])
def test_debiasing_and_its_floor_at_other_temperatures(tau, supervised):
    "Against the loss of the course, where some pairs take the floor and some do not; a common part must not matter."
    z, y, _ = batch(3, 16, 4)
    z = F.normalize(z+.8, dim=1)
    how = dict(beta=2., supervised=supervised, tau=tau, tau_plus=.5)
    assert_close(variant_loss(z, y, **how), contrastive_loss(z, y, **how), rtol=1e-10, atol=1e-12)
    floor, free = (contrastive_loss(z, y, **how|dict(tau_plus=t)) for t in (.999, 0.))
    assert_close(variant_loss(z, y, **how|dict(tau_plus=.999)), floor, rtol=1e-10, atol=1e-12)
    assert abs(floor-free)>1e-3

def test_what_is_not_said_is_the_published_value():
    z, y, _ = batch(1)
    assert supcon_loss(z, y)==supcon_loss(z, y, tau=.1)==SupCon()(z, y)
    assert variant_loss(z, y)==variant_loss(z, y, tau_plus=0., beta=0., tau=1.)
    assert recipes['jiang2023']['k']==256 # negatives of the published runs
