"Rows against columns, any relation, a learned temperature: properties, and what is refused."
import copy, math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb import HSCL, CrossLoss, contrastive_loss, cross_loss
from hardcl_nb.losses import columns
from hardcl_nb.losses.contrastive import ContrastiveLoss
from hardcl_nb.losses.exact import LossOptions, plain_loss
from hardcl_nb.losses.relations import related_rows, relation_loss, shares
from hardcl_nb.losses.temperature import LearnedTau

def towers(seed, n, m, d=5, far=0., dtype=torch.float64, classes=4):
    g = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(k, d, generator=g, dtype=torch.float64), dim=1)+far for k in (n, m))
    ya, yb = (torch.randint(classes, (k,), generator=g) for k in (n, m))
    ya[0] = yb[0] = 0
    ya[1] = yb[1] = 1
    return a.to(dtype), ya, b.to(dtype), yb

def direct(a, ya, b, yb, o):
    "One direction, from masks, by autograd."
    pos = shares(ya, yb)
    neg = ~pos if o.supervised else torch.ones_like(pos)
    has = pos.any(1)&neg.any(1)
    return related_rows(a, b, pos, neg, o)[has].mean()

def graded(f, a, b):
    x, w = a.clone().requires_grad_(), b.clone().requires_grad_()
    l = f(x, w)
    return l.detach(), *torch.autograd.grad(l, (x, w))

def reach(a, b, kw):
    "How large an exponent can be, at least 1: rounding grows with it."
    top = float(a.norm(dim=1).max()*b.norm(dim=1).max())
    return max(1., (1+kw['beta'])/kw['tau']*top)

options = dict(beta=st.sampled_from([0., .5, 3., 20.]), tau=st.sampled_from([.01, .07, .5, 1., 4.]),
    supervised=st.booleans(), detach=st.booleans(), raw=st.booleans(), alpha=st.sampled_from([0., .3, 1.]),
    q=st.sampled_from([1., 'sum', 3.]))

seeds = st.integers(0, 10**6)
tiles = st.sampled_from([None, (5, 7), (16, 3), (64, 100)]) # rows of a strip, columns of a tile; None: as fits

def in_tiles(size, f, *args):
    "f(*args) with strips and tiles of this size."
    def grid(t, u, o): return columns._cuts(0, len(t.y), size[0]), columns._cuts(0, len(u.y), size[1])
    with pytest.MonkeyPatch.context() as m:
        if size: m.setattr(columns, '_grid', grid)
        return f(*args)

def is_the_definition(a, ya, b, yb, tile, kw, tol=1e-14):
    "Value and gradients of one direction, and of both."
    o = LossOptions(**kw)
    rows = graded(lambda x, w: direct(x, ya, w, yb, o), a, b)
    both = graded(lambda x, w: (direct(x, ya, w, yb, o)+direct(w, yb, x, ya, o))/2, a, b)
    for sides,ref in (('rows', rows), ('both', both)):
        ours = in_tiles(tile, graded, lambda x, w: cross_loss(x, ya, w, yb, sides=sides, **kw), a, b)
        same(ours, ref, a, b, kw, tol)

def same(ours, ref, a, b, kw, tol=1e-14):
    for u,v in zip(ours, ref): assert (u-v).norm()<=tol*reach(a, b, kw)*max(1., float(v.norm())), (u, v)

@given(seed=seeds, n=st.integers(3, 40), m=st.integers(3, 300), far=st.sampled_from([0., 1., 5.]), tile=tiles, **options)
@settings(deadline=None)
def test_strips_are_the_definition(seed, n, m, far, tile, **kw):
    is_the_definition(*towers(seed, n, m, far=far), tile, kw)

debiased = {k: v for k,v in options.items() if k!='raw'}|dict(tau=st.sampled_from([.07, .5, 1., 4.]))

@given(seed=seeds, n=st.integers(3, 40), far=st.sampled_from([0., .3, 1.]), tile=tiles, tau_plus=st.sampled_from([.02, .3, .9]), **debiased)
@settings(deadline=None)
def test_debiased_towers_are_the_definition(seed, n, far, tile, **kw):
    "The floor e^{-1/τ} does not move with the centres; near τ⁺ itself a difference is taken, which costs a digit."
    is_the_definition(*towers(seed, n, n+9, far=far), tile, kw, 1e-13)

@given(seed=seeds, n=st.integers(4, 30), k=st.integers(1, 60), tile=tiles, tau_plus=st.sampled_from([0., .1]), **debiased)
@settings(deadline=None)
def test_silent_columns_are_no_negatives_in_any_tile(seed, n, k, tile, **kw):
    "With negatives='queue' the batch's columns are positives alone."
    a, ya, b, yb = towers(seed, n, n+3)
    _, _, old, y_old = towers(seed+1, 2, k+2)
    y_old[2:] += 9
    def ref(x, w):
        pos = shares(ya, torch.cat([yb, y_old]))
        neg = ~pos if kw['supervised'] else torch.ones_like(pos)
        neg[:,:len(yb)] = False
        has = pos.any(1)&neg.any(1)
        return related_rows(x, torch.cat([w, old]), pos, neg, LossOptions(**kw))[has].mean()
    def ours(x, w): return cross_loss(x, ya, w, yb, queue=(old, y_old), negatives='queue', sides='rows', **kw)
    same(in_tiles(tile, graded, ours, a, b), graded(ref, a, b), a, b, kw, 1e-13)

@given(seed=seeds, n=st.integers(4, 60), tau=st.sampled_from([.01, .05, .2, 1.]), beta=st.sampled_from([0., 5.]))
@settings(deadline=None)
def test_single_precision_keeps_six_digits(seed, n, tau, beta):
    a, ya, b, yb = towers(seed, n, n+3, d=16, dtype=torch.float32)
    f = lambda x, w: cross_loss(x, ya, w, yb, beta=beta, tau=tau, q='sum')
    for u,v in zip(graded(f, a, b), graded(f, a.double(), b.double())):
        assert u.dtype==torch.float32
        assert (u.double()-v).norm()<=5e-7*v.norm()+1e-9

@given(seed=seeds, n=st.integers(4, 30), tau=st.floats(.05, 3.), **{k: options[k] for k in ('beta', 'detach', 'raw')})
@settings(deadline=None)
def test_a_learned_temperature_has_the_slope_of_a_scale(seed, n, tau, **kw):
    "The gradient in log τ is minus half of Σ⟨z, ∂L/∂z⟩, of both towers, whatever is held fixed."
    a, ya, b, yb = towers(seed, n, n)
    learned = LearnedTau(tau)
    x, w = a.clone().requires_grad_(), b.clone().requires_grad_()
    da, db, slope = torch.autograd.grad(cross_loss(x, ya, w, yb, tau=learned, **kw), (x, w, learned.log_tau))
    assert_close(slope.double(), -((x*da).sum()+(w*db).sum()).detach()/2, rtol=1e-6, atol=1e-9)

def test_order_of_rows_and_names_of_labels_do_not_matter():
    a, ya, b, yb = towers(1, 30, 50)
    p, r = torch.randperm(30, generator=torch.Generator().manual_seed(2)), torch.arange(50).flip(0)
    ref = graded(lambda x, w: cross_loss(x, ya, w, yb, beta=3.), a, b)
    ours = graded(lambda x, w: cross_loss(x[p], 9*ya[p]-4, w[r], 9*yb[r]-4, beta=3.), a, b)
    for u,v in zip(ours, ref): assert_close(u, v)

def test_towers_may_be_half_precise_and_autocast():
    a, ya, b, yb = towers(3, 40, 30)
    for dtype in (torch.bfloat16, torch.float16):
        x, w = a.to(dtype), b.to(dtype)
        ref = cross_loss(x.float(), ya, w.float(), yb, beta=5.)
        assert torch.equal(cross_loss(x, ya, w, yb, beta=5.), ref)
        with torch.autocast('cpu', dtype=torch.bfloat16): assert torch.equal(cross_loss(x, ya, w, yb, beta=5.), ref)
        _, dx, dw = graded(lambda x, w: cross_loss(x, ya, w, yb, beta=5.), x, w)
        assert dx.dtype==dw.dtype==dtype

def test_modules_are_the_functions_and_can_be_kept():
    a, ya, b, yb = towers(4, 20, 20)
    loss = CrossLoss(2., q='sum', tau=LearnedTau(.2))
    again = copy.deepcopy(loss)
    again.load_state_dict(loss.state_dict())
    assert [n for n,_ in loss.named_parameters()]==['tau.log_tau']
    assert torch.equal(loss(a, ya, b, yb), again(a, ya, b, yb))
    loss = HSCL(2., tau=LearnedTau(.2), ignore_index=-1)
    assert list(loss.state_dict())==['tau.log_tau']
    assert 'ignore_index=-1' in repr(loss) and 'LearnedTau(0.2' in repr(loss)

def test_training_a_temperature_and_two_towers():
    a, ya, b, yb = towers(5, 60, 60, d=8)
    f, g = (torch.nn.Linear(8, 4).double() for _ in range(2))
    loss = CrossLoss(q='sum', tau=LearnedTau(.5))
    opt = torch.optim.Adam([*f.parameters(), *g.parameters(), *loss.parameters()], .02)
    costs = []
    for _ in range(60):
        opt.zero_grad()
        l = loss(F.normalize(f(a), dim=1), None, F.normalize(g(b), dim=1), None)
        l.backward()
        opt.step()
        costs.append(float(l.detach()))
    assert costs[-1]<.9*costs[0] and float(loss.tau().detach())!=.5

@given(seed=seeds, n=st.integers(4, 40), chunk=st.integers(0, 7), **options)
@settings(deadline=None)
def test_blocks_are_the_plain_form(seed, n, chunk, **kw):
    z, y, *_ = towers(seed, n, 3)
    y[2] = 0 # a pair
    blocks = lambda x, y, **kw: relation_loss(x, y, chunk=chunk, **kw)
    ref, ours = (graded(lambda x, w: f(x, y, **kw)+0*w.sum(), z, z) for f in (plain_loss, blocks))
    same(ours, ref, z, z, kw)

def test_a_queue_of_a_learned_temperature_is_that_of_the_number():
    z, y, old, y_old = towers(6, 30, 100)
    ref = contrastive_loss(z, y, queue=(old, y_old), tau=.3, beta=2.)
    tau = torch.tensor(.3, dtype=torch.float64, requires_grad=True)
    assert_close(contrastive_loss(z, y, queue=(old, y_old), tau=tau, beta=2.), ref)
    x, w = z.clone().requires_grad_(), old.clone().requires_grad_()
    contrastive_loss(x, y, queue=(w, y_old)).backward()
    assert w.grad is None and x.grad.abs().sum()>0

a0, y0 = torch.eye(4), torch.tensor([0, 0, 1, 1])
bad = [
    (dict(a=[[1.]]), TypeError, 'a: expected a torch tensor'),
    (dict(b=a0[:, :3]), ValueError, 'b: expected 4 columns of torch.float32 on cpu, like a, got 3 columns'),
    (dict(b=a0.double()), ValueError, 'like a, got 4 columns of torch.float64'),
    (dict(b=a0.to('meta')), ValueError, 'like a'),
    (dict(a=a0/torch.tensor([1., 1, 1, 0])), ValueError, 'a: expected finite embeddings'),
    (dict(b=a0/torch.tensor([1., 1, 1, 0])), ValueError, 'b: expected finite embeddings'),
    (dict(yb=None), ValueError, 'yb: expected labels of both towers, or None for both'),
    (dict(yb=y0[:3]), ValueError, 'yb: expected 4 labels'),
    (dict(ya=y0.float()), TypeError, 'ya: expected integer labels'),
    (dict(ya=y0[:, None]==y0), ValueError, 'yb: expected booleans'),
    (dict(tau=0.), ValueError, 'tau: expected'),
    (dict(tau=torch.ones(2)), ValueError, 'tau: expected a number, or a tensor of one number'),
    (dict(beta=-1.), ValueError, 'beta: expected'),
    (dict(raw=True, tau_plus=.1), ValueError, 'raw: expected False'),
    (dict(sides='columns'), ValueError, 'sides: expected one of both, rows'),
    (dict(negatives='queue'), ValueError, "negatives: expected 'all' where there is no queue"),
    (dict(queue=(a0, y0)), ValueError, "queue: expected None, or sides='rows'"),
    (dict(queue=a0, sides='rows'), TypeError, 'queue: expected a pair'),
    (dict(queue=(a0,), sides='rows'), TypeError, 'queue: expected a pair'),
    (dict(queue=(a0, y0, y0), sides='rows'), TypeError, 'queue: expected a pair'),
    (dict(ya=y0[:, None]==y0, yb=y0[:, None]==y0[:3]), ValueError, 'yb: expected booleans (4, labels) and (4, labels), got (4, 4) and (4, 3)'),
    (dict(ya=y0[:3, None]==y0, yb=y0[:, None]==y0), ValueError, 'yb: expected booleans (4, labels) and (4, labels), got (3, 4) and (4, 4)'),
    (dict(ya=y0[:, None]==y0, yb=y0[:3, None]==y0), ValueError, 'yb: expected booleans (4, labels) and (4, labels), got (4, 4) and (3, 4)'),
    (dict(queue=(a0.double(), y0), sides='rows'), ValueError, 'queue: expected 4 columns of torch.float32'),
    (dict(queue=(a0.to('meta'), y0), sides='rows'), ValueError, 'queue: expected 4 columns of torch.float32 on cpu'),
    (dict(mask=torch.ones(4, 3, dtype=torch.bool)), ValueError, 'mask: expected booleans of shape (4, 4)'),
    (dict(mask=torch.zeros(4, 4, dtype=torch.bool)), ValueError, 'a row with a positive and a negative'),
    (dict(ya=0*y0, yb=0*y0), ValueError, 'ya: expected a row with a positive and a negative'),
]

@pytest.mark.parametrize('kw, err, msg', bad)
def test_bad_towers_are_named(kw, err, msg):
    given = dict(a=a0, ya=y0, b=a0, yb=y0)|kw
    with pytest.raises(err) as e: cross_loss(**given)
    assert msg in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('kw, msg', [
    (dict(mask=a0), 'mask: expected booleans of shape (4, 4) on cpu'),
    (dict(mask='x'), 'mask: expected a boolean tensor'),
    (dict(mask=~torch.eye(4, dtype=torch.bool), queue=(a0, y0)), 'queue: expected None'),
    (dict(y=torch.rand(4, 3)<2, engine='kernel'), "engine: expected 'auto'"),
    (dict(y=y0[:, None]==y0, ignore_index=-1), 'y: expected integer labels'),
    (dict(y=y0-1, ignore_index=0), 'y: expected 2 rows with another label')])
def test_bad_relations_are_named(kw, msg):
    kw = dict(y=y0)|kw
    if 'another label' in msg: kw['y'] = 0*y0
    with pytest.raises((ValueError, TypeError)) as e: contrastive_loss(a0, kw.pop('y'), **kw)
    assert msg in str(e.value)

@pytest.mark.parametrize('make', [lambda: ContrastiveLoss(tau=LearnedTau(.1), tau_plus=.1), lambda: CrossLoss(tau=-1.),
    lambda: CrossLoss(sides='left'), lambda: CrossLoss(beta=math.nan)])
def test_modules_refuse_when_they_are_made(make):
    with pytest.raises((ValueError, TypeError)): make()

def test_what_differs_from_the_defaults_is_shown():
    assert repr(CrossLoss())=='CrossLoss()' and repr(CrossLoss(beta=5., tau=.1))=='CrossLoss(beta=5.0, tau=0.1)'
    assert 'tau=tensor' in repr(CrossLoss(tau=torch.ones(()))) and 'LearnedTau' in repr(CrossLoss(tau=LearnedTau(.1)))
