import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.measures.chunks import as_float64
from hardcl_nb.measures.spectrum import (alignment, alpha_req, class_means, class_stats, decay_exponent, effective_rank, lidar, num_alive, rankme,
    spectrum, stable_rank, stats_spectrum, uniformity)

few = settings(max_examples=40, deadline=None)
sizes = st.tuples(st.integers(2, 30), st.integers(1, 12), st.integers(0, 10**6))

def points(n, d, seed, scale=1.):
    return scale*torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

@few
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40), st.integers(0, 5))
def test_three_counts_stand_in_order(sv, zeros):
    "1 <= stable <= effective <= number of eigenvalues that are not 0; zeros change nothing."
    a = torch.tensor(sv, dtype=torch.float64)
    b = torch.cat([a, a.new_zeros(zeros)])
    assert 1-1e-12<=stable_rank(b)<=effective_rank(b)*(1+1e-12)<=len(sv)*(1+1e-11)
    assert abs(effective_rank(a)-effective_rank(b))<1e-9 and num_alive(a)==num_alive(b)<=len(sv)

@few
@given(sizes)
def test_spectrum_adds_up(s):
    "Eigenvalues sum to the mean squared distance from the mean, on either side of n = d, and descend."
    x = points(*s)
    lam = spectrum(x)
    assert len(lam)==min(s[0]-1, s[1]) and bool((lam.diff()<=0).all()) and bool((lam>=0).all())
    assert_close(lam.sum(), (x-x.mean(0)).square().sum(1).mean(), rtol=1e-11, atol=1e-14)
    assert_close(spectrum(x, center=False).sum(), x.square().sum(1).mean(), rtol=1e-11, atol=0)

@few
@given(sizes, st.integers(1, 6))
def test_class_stats_against_loop(s, C):
    "Means, spreads and scatter as a loop over classes gives them, for labels that are not 0..C-1."
    z = points(*s); y = torch.arange(s[0])%C*7-11
    got = class_stats(z, y)
    assert got.classes.tolist()==sorted(set(y.tolist())) and got.counts.sum()==s[0]
    scatter = 0
    for c,m,v in zip(got.classes, got.mu, got.variance):
        x = z[y==c]
        assert_close(m, x.mean(0), rtol=1e-12, atol=1e-13)
        assert_close(v, (x-x.mean(0)).square().sum(1).mean(), rtol=1e-12, atol=1e-13)
        scatter += (x-x.mean(0)).T@(x-x.mean(0))
    assert_close(got.scatter, scatter, rtol=1e-11, atol=1e-12)

@few
@given(sizes, st.integers(1, 4), st.floats(.1, 5))
def test_alignment_and_uniformity_against_pairs(s, C, t):
    z = points(*s); y = torch.arange(s[0])%C
    sq = torch.cdist(z, z, compute_mode='donot_use_mm_for_euclid_dist').square()
    off = ~torch.eye(s[0], dtype=torch.bool)
    assert_close(uniformity(z, t), torch.logsumexp(-t*sq[off], 0).sub(math.log(off.sum())).item(), rtol=1e-9, atol=1e-10)
    pos = (y[:,None]==y) & off; k = pos.sum(1)
    if not k.any(): return
    assert_close(alignment(z, y), ((sq*pos).sum(1)[k>0]/k[k>0]).mean().item(), rtol=1e-10, atol=1e-12)

def test_uniformity_in_blocks():
    "The same with one block and with several, and with a block that is not full."
    z = points(1500, 3, 0)
    whole = torch.logsumexp(-2*torch.pdist(z).square(), 0).item()-math.log(1500*1499/2)
    assert_close(uniformity(z), whole, rtol=1e-11, atol=0)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_of_the_input_only(dtype):
    "Whatever the dtype, computed as from the same numbers in float64."
    z = points(40, 6, 1).to(dtype); y = torch.arange(40)%4
    for f in (rankme, uniformity, lambda v: alignment(v, y), lambda v: lidar(v, y), lambda v: alpha_req(v, 1)): assert f(z)==f(z.double())
    assert as_float64(z).dtype==torch.float64

@pytest.mark.parametrize('ydtype', [np.int8, np.uint16, np.int32, np.uint64])
def test_numpy(ydtype):
    z,y = points(20, 3, 2), np.arange(20)%3
    assert_close(class_means(z.numpy(), y.astype(ydtype)), class_means(z, torch.tensor(y)), rtol=0, atol=0)

def test_requires_grad_is_dropped():
    z = points(20, 3, 2).requires_grad_()
    assert not spectrum(z).requires_grad and isinstance(rankme(z), float)

@pytest.mark.parametrize('f,err,msg', [
    (lambda: spectrum(torch.ones(3)), ValueError, 'x: expected a tensor of shape (n, d)'),
    (lambda: spectrum(torch.ones(0, 3)), ValueError, 'x: expected at least 1 row'),
    (lambda: rankme(np.ones((3, 2), int)), TypeError, 'z: expected floating-point'),
    (lambda: effective_rank(torch.ones(2, 2)), ValueError, 'sv: expected a vector'),
    (lambda: stable_rank(torch.tensor([1., np.inf])), ValueError, 'sv: expected finite numbers'),
    (lambda: effective_rank([]), ValueError, 'sv: expected a vector, not empty'),
    (lambda: num_alive(torch.ones(2), 0), ValueError, 'threshold: expected a finite number > 0 and <= 1'),
    (lambda: num_alive(torch.ones(2), 1.1), ValueError, 'threshold'),
    (lambda: rankme(torch.ones(2, 2), -1), ValueError, 'eps: expected a finite number >= 0'),
    (lambda: decay_exponent(torch.ones(9), 0), ValueError, 'first: expected a whole number >= 1'),
    (lambda: alpha_req(torch.ones(9, 9)), ValueError, 'z: expected at least 3'),
    (lambda: uniformity(torch.ones(1, 2)), ValueError, 'z: expected at least 2 row'),
    (lambda: lidar(torch.ones(4, 2), torch.zeros(4, dtype=torch.long), 0), ValueError, 'delta: expected a finite number > 0'),
    (lambda: class_means(torch.ones(4, 2), [0., 1., 0., 1.]), TypeError, 'y: expected a torch tensor or array of 4 integer labels, got an array of dtype float64'),
    (lambda: class_means(torch.ones(4, 2), np.ones(4)), TypeError, 'y: expected a torch tensor'),
    (lambda: class_means(torch.ones(4, 2), torch.arange(4), 0), ValueError, 'num_classes'),
])
def test_bad_input(f, err, msg):
    with pytest.raises(err) as e: f()
    assert msg in str(e.value)

@few
@given(st.integers(2, 40), st.integers(1, 12), st.integers(1, 5), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_the_spectrum_of_statistics_is_that_of_the_rows(n, d, C, scale, seed):
    "As many eigenvalues, and the same: rounding may differ in whether one at the limit, 1e-13 of the mean square, is 0."
    z = points(n, d, seed, scale)*torch.logspace(0, -5, d, dtype=torch.float64)+scale
    st = class_stats(z, torch.arange(n)%C)
    for center in (True, False):
        lam, ours = spectrum(z, center), stats_spectrum(st, center)
        assert len(ours)==len(lam)==min(n-center, d)
        assert_close(ours, lam, rtol=0, atol=1.1e-13*z.square().sum(1).mean().item())
        assert lam[0]>0

@pytest.mark.parametrize('rank', [1, 2, 4, 40])
def test_lidar_of_long_rows_in_few_dimensions(rank):
    "What is added to the diagonal is not lost in rounding: from lengths of 1e4 on the scale is no matter, and nothing is refused."
    y, z = torch.arange(1000)%5, points(1000, rank, 0)@points(rank, 60, 1)
    got = [lidar(z*s, y) for s in (1e4, 1e6, 1e8, 1e10, 1e20, 1e60)]
    assert got==pytest.approx([got[0]]*6, rel=1e-12) and lidar(z, y)==pytest.approx(got[0], rel=1e-6)
    assert 1<=got[0]<=min(rank, 4)+1e-5 # the shares have 1e-7 added

@pytest.mark.parametrize('n, d', [(2000, 4), (4, 2000)])
def test_small_eigenvalues_are_zero_by_their_share_of_the_mean_square(n, d):
    "A direction 1e-5 times as long is there, one 1e-9 times as long is not, however many rows or columns."
    u = torch.linalg.qr(points(n, 3, 0)-points(n, 3, 0).mean(0))[0]
    v = torch.linalg.qr(points(d, 3, 1))[0]
    x = u*torch.tensor([1., 1e-5, 1e-9], dtype=torch.float64)@v.T
    lam = spectrum(x)
    assert lam[:2].tolist()==pytest.approx([1/n, 1e-10/n], rel=1e-5) and not lam[2:].any()
    lam = stats_spectrum(class_stats(x, torch.arange(n)%2))
    assert lam[:2].tolist()==pytest.approx([1/n, 1e-10/n], rel=1e-5) and not lam[2:].any()

def test_the_fit_ends_at_rank_100():
    z = points(400, 150, 0)*torch.arange(1, 151, dtype=torch.float64)**-.5
    assert alpha_req(z)==alpha_req(z, last=100)!=alpha_req(z, last=101)

def test_no_scatter_is_none():
    st = class_stats(points(6, 3, 0), torch.arange(6)%2, scatter=False)
    assert st.scatter.shape==(0, 0) and st.mu.shape==(2, 3)
