"Weighted kNN, linear probe, features around the head, intervals over seeds: laws, other people's implementations, bad input."
import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from hardcl_nb.measures.centres import accuracy
from hardcl_nb.training.probes import evaluate_features, linear_probe, predict_knn, seed_intervals, split_embed, t_interval

def clouds(seed, n=80, d=5, C=3, spread=1.):
    "Labels in which each class occurs twice at least, and embeddings around random centres."
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(C).repeat(2), torch.randint(C, (n-2*C,), generator=g)])
    c = torch.randn(C, d, generator=g, dtype=torch.float64)
    return c[y]+spread*torch.randn(n, d, generator=g, dtype=torch.float64), y, g

seeds = st.integers(0, 10**6)

@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 80), st.sampled_from([.01, .07, .1, 1.]), st.integers(1, 30))
def test_knn_is_scikit_learns_with_these_weights(seed, k, t, chunk):
    from sklearn.neighbors import KNeighborsClassifier
    z,y,g = clouds(seed)
    q = torch.randn(20, 5, generator=g, dtype=torch.float64)
    ref = KNeighborsClassifier(k, metric='cosine', weights=lambda dist: np.exp(-dist/t)).fit(z.numpy(), y.numpy())
    p = torch.from_numpy(ref.predict_proba(q.numpy()))
    mine = predict_knn(z, y, q, k=k, tau=t, batch_size=chunk)
    assert (p.max(1).values-p.gather(1, mine[:,None])[:,0]).max()<1e-9 # the same class, or a tie

@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 40))
def test_knn_ignores_lengths_rotation_order_and_names(seed, k):
    z,y,g = clouds(seed)
    q = torch.randn(20, 5, generator=g, dtype=torch.float64)
    want = predict_knn(z, y, q, k=k)
    rot = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64))[0]
    order = torch.randperm(len(z), generator=g)
    got = predict_knn((z*torch.rand(len(z), 1, generator=g, dtype=torch.float64).clamp(min=.01)@rot)[order], -7*y[order], 1e3*q@rot, k=k)
    assert torch.equal(got, -7*want)

def test_knn_in_half_precision_and_with_zero_rows():
    z,y,g = clouds(0, spread=.1)
    assert torch.equal(predict_knn(z.bfloat16(), y, z.bfloat16(), k=10), y)
    assert torch.equal(predict_knn(z, y, z.half(), k=10), y)
    assert predict_knn(torch.cat([z, 0*z[:1]]), torch.cat([y, y[:1]]), 0*z[:3], k=3).shape==(3,)
    assert torch.equal(predict_knn(z.requires_grad_(), y, z, k=1), y)

z0,y0,_ = clouds(1)
@pytest.mark.parametrize('change, err, says', [
    (dict(k=0), ValueError, 'k: expected a whole number >= 1, got 0'),
    (dict(k=81), ValueError, 'k: expected at most 80'),
    (dict(k=2.), TypeError, 'k: expected a whole number'),
    (dict(tau=-1), ValueError, 'tau: expected a finite number > 0'),
    (dict(tau=math.nan), ValueError, 'tau'),
    (dict(batch_size=0), ValueError, 'batch_size'),
    (dict(z=z0[0]), ValueError, 'z: expected a tensor of shape (n, d)'),
    (dict(z=z0.long()), TypeError, 'z: expected floating-point'),
    (dict(test_z=z0*math.inf), ValueError, 'test_z: expected finite embeddings'),
    (dict(test_z=z0[:,:3]), ValueError, 'test_z: expected 5 columns'),
    (dict(test_z=z0[:0]), ValueError, 'test_z: expected at least 1 row'),
    (dict(y=y0[1:]), ValueError, 'y: expected 80 labels'),
    (dict(y=y0.double()), TypeError, 'y: expected integer labels'),
])
def test_knn_refuses(change, err, says):
    with pytest.raises(err) as e: predict_knn(**{**dict(z=z0, y=y0, test_z=z0, k=5), **change})
    assert says in str(e.value)

@settings(max_examples=8, deadline=None)
@given(seeds)
def test_probe_ignores_scale_and_shift_of_each_feature_and_the_test_labels(seed):
    z,y,g = clouds(seed)
    a,b = torch.rand(5, generator=g, dtype=torch.float64)+.1, torch.randn(5, generator=g, dtype=torch.float64)
    tz,ty = z[::2],y[::2]
    kw = dict(strengths=(.1, 10.), seed=seed)
    one,two,three = linear_probe(z, y, tz, ty, **kw), linear_probe(z*a+b, y, tz*a+b, ty, **kw), linear_probe(z, y, tz, ty.flip(0), **kw)
    assert one.tried==pytest.approx(two.tried, abs=.1) and abs(one.test_acc-two.test_acc)<=.05 # the solver stops at 1e-4, so a sample on the border may change sides
    assert (one.strength, one.tried, one.converged)==(three.strength, three.tried, three.converged)
    assert one==linear_probe(z, y, tz, ty, **kw)

def test_probe_takes_the_strongest_penalty_among_equals():
    z,y,_ = clouds(0, spread=1e-3)
    p = linear_probe(z, y, z, y)
    assert p.test_acc==1 and p.strength==min(s for s,a in p.tried.items() if a==max(p.tried.values()))
    assert linear_probe(z, y, z, y, strengths=[3.]).tried=={}
    assert linear_probe(z.bfloat16(), y, z.half(), y).test_acc==1

def test_probe_does_not_see_the_held_out_part_when_it_standardises():
    "Held-out samples far away: had they been in the scaler, the choice would differ from a hand-made one."
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    z,y,_ = clouds(3)
    z[::7] *= 50
    xa,xb,ya,yb = train_test_split(z.numpy(), y.numpy(), test_size=.2, random_state=0, stratify=y.numpy())
    tried = {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(xa, ya).score(xb, yb) for c in (.01, 1., 100.)}
    p = linear_probe(z, y, z, y, strengths=tried)
    assert p.tried==tried
    assert p.test_acc==make_pipeline(StandardScaler(), LogisticRegression(C=p.strength, max_iter=1000)).fit(z.numpy(), y.numpy()).score(z.numpy(), y.numpy())

@pytest.mark.parametrize('change, err, says', [
    (dict(strengths=()), ValueError, 'strengths: expected at least one'),
    (dict(strengths=(1., 0.)), ValueError, 'strengths: expected a finite number > 0'),
    (dict(held_out=0.), ValueError, 'held_out'),
    (dict(held_out=.95), ValueError, 'held_out'),
    (dict(held_out=.9, z=z0[:8], y=torch.tensor([0,0,1,1,2,2,2,2])), ValueError, 'a share with a place for each of the 3 classes'),
    (dict(max_iter=0), ValueError, 'max_iter'),
    (dict(seed=-1), ValueError, 'seed'),
    (dict(y=0*y0), ValueError, 'y: expected at least 2 classes, got 1 class'),
    (dict(y=torch.where(torch.arange(80)==4, 9, y0)), ValueError, 'one sample of class 9'),
    (dict(test_y=y0[1:]), ValueError, 'test_y: expected 80 labels'),
    (dict(test_z=z0[:,1:]), ValueError, 'test_z: expected 5 columns'),
    (dict(test_y=y0+2), ValueError, 'test_y: expected classes of y, got class 3, 4, which no training sample has'),
    (dict(z=z0/0), ValueError, 'z: expected finite embeddings'),
])
def test_probe_refuses(change, err, says):
    with pytest.raises(err) as e: linear_probe(**{**dict(z=z0, y=y0, test_z=z0, test_y=y0), **change})
    assert says in str(e.value)

class Net(nn.Module):
    "A network whose head is called in the middle of forward."
    def __init__(self):
        super().__init__()
        self.body,self.head,self.unused,self.fail = nn.Conv2d(1, 2, 3), nn.Linear(8, 3), nn.Linear(1, 1), False
    def forward(self, x):
        if self.fail: raise RuntimeError('out of luck')
        return self.head(self.body(x).flatten(1)).tanh()

def test_split_embed_around_any_head():
    net,x = Net(), torch.randn(7, 1, 4, 4)
    b,a = split_embed(net, 'head', x, batch_size=2)
    assert b.shape==(7, 8) and torch.allclose(a, net.head(b).tanh(), atol=1e-6) and not a.requires_grad
    assert torch.equal(split_embed(net, net.head, x)[0].shape and split_embed(net, net.head, x, batch_size=2)[0], b)
    with pytest.raises(ValueError, match='head: expected a part that it calls'): split_embed(net, 'unused', x)
    with pytest.raises(ValueError, match='head: expected a part of the encoder'): split_embed(net, nn.Linear(8, 3), x)

def test_split_embed_cleans_up_after_an_error():
    net = Net().train(); net.fail = True
    with pytest.raises(RuntimeError, match='luck'): split_embed(net, 'head', torch.randn(7, 1, 4, 4))
    assert net.training and not net.head._forward_pre_hooks

def test_record_of_equal_features_is_equal():
    z,y,_ = clouds(5)
    r = evaluate_features({'a': (z, z), 'b': (2*z, 2*z)}, y, y, k=7, tau=.1, strengths=[1.])
    assert r['k']==7 and r['tau']==.1 and r['num_train']==r['num_test']==80
    for k in ('dim', 'nearest', 'inner', 'knn', 'linear', 'strength', 'converged'): assert r[f'a_{k}']==r[f'b_{k}'], k
    assert r['a_rank']==pytest.approx(r['b_rank'], rel=1e-10) and r['a_knn']==accuracy(predict_knn(z, y, z, k=7, tau=.1), y)
    with pytest.raises(ValueError, match='features'): evaluate_features({}, y, y)
    with pytest.raises(ValueError, match='k: expected at most 80'): evaluate_features({'a': (z, z)}, y, y)
    with pytest.raises(ValueError, match='no sample of class'): evaluate_features({'a': (z, z)}, 2*y, y, k=7)

@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(.5, .999), st.floats(-5, 5), st.floats(.1, 10))
def test_interval_is_scipys_and_moves_with_the_values(v, level, shift, scale):
    from scipy import stats
    m,lo,hi = t_interval(v, level)
    se = np.std(v, ddof=1)/math.sqrt(len(v))
    want = stats.t.interval(level, len(v)-1, loc=np.mean(v), scale=se) if se>0 else (m, m)
    assert (lo, hi)==pytest.approx(want, rel=1e-9, abs=1e-9)
    assert t_interval([shift+scale*x for x in v], level)==pytest.approx([shift+scale*x for x in (m, lo, hi)], rel=1e-9, abs=1e-7)

@pytest.mark.parametrize('call, says', [
    (lambda: t_interval([]), 'values: expected at least 2'),
    (lambda: t_interval([1., math.nan]), 'values: expected a finite number'),
    (lambda: t_interval([1., 2.], 0.), 'level'),
    (lambda: t_interval([1., 2.], 1.), 'level'),
    (lambda: seed_intervals([]), 'records: expected at least 2'),
    (lambda: seed_intervals([{'a_knn': 1.}]), 'records: expected at least 2'),
    (lambda: seed_intervals([{'a_knn': 1.}, {}]), 'one without a_knn'),
])
def test_intervals_refuse(call, says):
    with pytest.raises(ValueError) as e: call()
    assert says in str(e.value)
