import dataclasses, json, math
import numpy as np, pytest, torch
from hypothesis import example, given, settings, strategies as st
from hardcl_nb.measures.collapse import (CollapseReport, collapse_report, equal_inner, mean_spectrum, nc1, nc2_angle, nc2_norm, nc4, unit_norm, within_class, zero_sum)
from hardcl_nb.theory.etf import simplex_etf

few = settings(max_examples=40, deadline=None)
cases = st.tuples(st.integers(2, 8), st.integers(1, 10), st.integers(2, 6), st.integers(0, 10**6))

def labelled(C, d, m, seed):
    "C classes of m or m+1 samples, well spread."
    g = np.random.default_rng(seed)
    y = np.concatenate([np.full(m+c%2, c) for c in range(C)])
    return g.normal(size=(C, d))[y]+.3*g.normal(size=(len(y), d)), y

def plain(z, y):
    "The definitions, written out class by class and pair by pair in NumPy."
    cs = np.unique(y); C = len(cs)
    mu = np.array([z[y==c].mean(0) for c in cs]); m = mu-mu.mean(0)
    cos = lambda a: np.array([a[i]@a[j]/np.linalg.norm(a[i])/np.linalg.norm(a[j]) for i in range(C) for j in range(i)])
    r = [np.linalg.norm(z[y==c]-mu[k], axis=1) for k,c in enumerate(cs)]
    sw = sum((z[y==c]-mu[k]).T@(z[y==c]-mu[k]) for k,c in enumerate(cs))/len(z)
    length = np.linalg.norm(m, axis=1)
    p = np.linalg.pinv(m, rcond=1e-6) # that of m.T@m would square a condition number that reaches 1e5
    return dict(zero_sum=np.linalg.norm(mu.mean(0)), unit_norm=np.abs(np.linalg.norm(mu, axis=1)-1).mean(), equal_inner=np.abs(cos(mu)+1/(C-1)).mean(),
        equal_inner_max=np.abs(cos(mu)+1/(C-1)).max(), within_class=np.mean([v.mean() for v in r]), within_class_rms=np.mean([np.sqrt((v**2).mean()) for v in r]),
        nc1=np.trace(sw@p@p.T), nc2_norm=length.std()/length.mean(), nc2_angle=cos(m).std())

@few
@given(cases)
@example((8, 7, 5, 376198))
def test_report_against_definitions(case):
    z,y = labelled(*case)
    rep = collapse_report(z, y)
    for k,v in plain(z, y).items(): assert getattr(rep, k)==pytest.approx(v, rel=1e-8, abs=1e-12), k

@few
@given(cases)
def test_functions_agree_with_report(case):
    z,y = labelled(*case)
    r = collapse_report(z, y); mu = np.array([z[y==c].mean(0) for c in range(case[0])])
    same = [(zero_sum(mu), r.zero_sum), (unit_norm(mu), r.unit_norm), (equal_inner(mu), r.equal_inner), (equal_inner(mu, 'max'), r.equal_inner_max),
        (within_class(z, y), r.within_class), (within_class(z, y, rms=True), r.within_class_rms), (nc1(z, y), r.nc1), (nc2_norm(mu), r.nc2_norm), (nc2_angle(mu), r.nc2_angle)]
    for a,b in same: assert a==pytest.approx(b, rel=1e-10, abs=1e-13)
    assert mean_spectrum(mu).tolist()==pytest.approx(r.singular_values, abs=1e-12)

@few
@given(cases)
def test_ranges(case):
    r = collapse_report(*labelled(*case), full=True); C,d = case[:2]
    assert 0<=r.equal_inner<=r.equal_inner_max<=1+1/(C-1)+1e-12
    assert r.within_class<=r.within_class_rms+1e-12 and 0<=r.nc2_norm<=math.sqrt(C-1)+1e-12 and 0<=r.nc2_angle<=1
    assert 1-1e-9<=r.stable_rank<=r.effective_rank+1e-9<=min(C-1, d)+1e-8 and 1<=r.num_alive<=len(r.singular_values)==min(C-1, d)
    assert r.uniformity<=0<=r.alignment and (r.etf_distance is None)==(d<C-1)

@few
@given(st.integers(2, 12), st.integers(0, 4), st.integers(1, 5))
def test_neural_collapse_is_recognised(C, extra, m):
    r = collapse_report(simplex_etf(C, C-1+extra, dtype=torch.float64).repeat(m+1, 1), torch.arange(C).repeat(m+1))
    for k in ('zero_sum', 'unit_norm', 'equal_inner_max', 'within_class', 'within_class_rms', 'nc1', 'nc2_norm', 'nc2_angle', 'etf_distance', 'alignment'): assert getattr(r, k)<1e-7, k
    assert r.num_alive==C-1 and r.effective_rank==pytest.approx(C-1) and r.zero_means==0

def test_zero_means_are_counted():
    z = torch.tensor([[1., 0], [1, 0], [0, 1], [0, 1], [.5, .5], [-.5, -.5]])
    r = collapse_report(z, torch.arange(6)//2)
    assert r.zero_means==1 and r.equal_inner==pytest.approx(.5)
    assert collapse_report(0*z, torch.arange(6)//2).zero_means==3

def test_single_precision_dust_is_not_a_direction():
    "Means that lie in a plane up to float32 rounding: two directions, not nine."
    g = torch.Generator().manual_seed(0)
    flat = torch.randn(20, 2, generator=g)@torch.randn(2, 9, generator=g)
    y = torch.arange(400)%20
    z = flat[y]+.1*torch.randn(400, 9, generator=g)
    z -= torch.stack([(z-flat[y])[y==c].mean(0) for c in range(20)])[y]
    r = collapse_report(z, y)
    assert r.num_alive==2 and r.effective_rank<=2 and r.nc1<1

def test_report_is_plain_data():
    z,y = labelled(4, 5, 3, 0)
    r = collapse_report(z, y)
    back = json.loads(json.dumps(r.as_dict()))
    assert back['num_classes']==4 and back['uniformity'] is None and back['singular_values']==list(r.singular_values)
    with pytest.raises(dataclasses.FrozenInstanceError): r.nc1 = 0
    assert r==collapse_report(z, y) and set(back)=={f.name for f in dataclasses.fields(CollapseReport)}|{'num_classes'}

z4,y4 = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6)%3

@pytest.mark.parametrize('f,err,msg', [
    (lambda: collapse_report(z4, y4, 4), ValueError, 'y: expected 4 classes, got no sample of class 3'),
    (lambda: collapse_report(z4, y4, 2), ValueError, 'y: expected 2 classes, got 3 classes'),
    (lambda: collapse_report(z4, y4+5, 4), ValueError, 'y: expected 4 classes, got no sample of class 0, 1, 2, 3'),
    (lambda: collapse_report(z4, torch.arange(6)), ValueError, 'a class with at least two samples'),
    (lambda: collapse_report(z4[:0], y4[:0]), ValueError, 'z: expected at least 1 row'),
    (lambda: collapse_report(z4/0, y4), ValueError, 'z: expected finite embeddings'),
    (lambda: collapse_report(z4, y4.float()), TypeError, 'y: expected integer labels'),
    (lambda: collapse_report(z4, y4[None]), ValueError, 'y: expected 6 labels'),
    (lambda: collapse_report(z4.tolist(), y4), TypeError, 'z: expected a torch tensor'),
    (lambda: collapse_report(z4, y4, True), TypeError, 'num_classes'),
    (lambda: nc1(z4, y4, 2.), ValueError, 'rtol'),
    (lambda: zero_sum(z4[0]), ValueError, 'mu: expected a tensor of shape'),
    (lambda: nc2_norm(z4[:1]), ValueError, 'mu: expected at least 2'),
    (lambda: nc4(z4, z4[:3], y4[:5]), ValueError, 'pred: expected 6 labels'),
    (lambda: nc4(z4, z4[:3], y4-1), ValueError, 'pred: expected rows of mu, 0 to 2, got labels -1 to 1'),
])
def test_bad_input(f, err, msg):
    with pytest.raises(err) as e: f()
    assert msg in str(e.value)

@pytest.mark.parametrize('scale', [1e-9, 1e-3, 1., 1e4, 1e9])
def test_whether_means_coincide_is_no_matter_of_scale(scale):
    "The limit is a share of the longest mean: 3e-7 of it."
    g = np.random.default_rng(0)
    apart = g.normal(size=(5, 4))
    near, same = (np.ones(4)+eps*apart for eps in (1e-5, 1e-9))
    assert nc2_angle(scale*near)==pytest.approx(nc2_angle(near), rel=1e-9) and nc2_norm(scale*near)==pytest.approx(nc2_norm(near), rel=1e-9)
    for f in (nc2_angle, nc2_norm):
        with pytest.raises(ValueError, match='mu: expected class means that differ, got class means that coincide'): f(scale*same)
    for small,zeros in ((1e-5, 0), (1e-7, 1)): # a mean as short as that is no direction
        mu = np.vstack([apart, small*apart[:1]])
        assert collapse_report(np.repeat(scale*mu, 2, axis=0), np.repeat(np.arange(6), 2)).zero_means==zeros
    r = collapse_report(np.repeat(scale*same, 2, axis=0), np.repeat(np.arange(5), 2))
    assert r.nc1 is None and r.nc2_norm is None and r.nc2_angle is None

def test_what_a_report_shows():
    "What is not defined is said, what was not asked for is left out, long lists are cut in the middle."
    z, y = np.eye(12)[np.repeat(np.arange(12), 2)], np.repeat(np.arange(12), 2)
    rows = dict(line.split(None, 1) for line in repr(collapse_report(z, y)).splitlines())
    assert rows['classes']=='0, 1, 2, …, 11 (12)' and rows['num_samples']=='24'
    assert not {'uniformity', 'absent', 'one_sample'} & set(rows)
    rows = dict(line.split(None, 1) for line in repr(collapse_report(0*z, y, full=True)).splitlines())
    assert rows['nc1']=='undefined' and rows['uniformity'].lstrip('-')=='0'

@pytest.mark.parametrize('scale', [1e-4, 1., 1e4])
def test_nc1_leaves_out_directions_by_their_share(scale):
    "Means along two axes, of singular values sqrt(2) and sqrt(.015); the noise is .1 along the diagonal."
    mu = np.array([[1, .05], [-1, .05], [0, -.1]])
    z = scale*np.concatenate([mu+.1, mu-.1])
    y = np.tile(np.arange(3), 2)
    assert nc1(z, y)==pytest.approx(.01/2+.01/.015) and nc1(z, y, rtol=.08)==pytest.approx(.01/2+.01/.015)
    assert nc1(z, y, rtol=.1)==pytest.approx(.01/2)
