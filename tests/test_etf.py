"Simplex ETFs, Procrustes and the nearest ETF over random sizes, turns and precisions."
import math
import pytest, torch
from hypothesis import assume, given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.etf import etf_distance, nearest_etf, procrustes, random_rotation, simplex_etf, welch_bound

quick = settings(max_examples=30, deadline=None)
f64 = torch.float64
seeds = st.integers(0, 2**31)
def rng(seed): return torch.Generator().manual_seed(seed)

@quick
@given(st.integers(2, 60), st.integers(0, 20))
def test_gram_and_closed_forms_in_any_dimension(C, extra):
    mu = simplex_etf(C, C-1+extra, dtype=f64)
    assert_close(mu@mu.T, (C*torch.eye(C, dtype=f64)-1)/(C-1), rtol=0, atol=1e-14)
    assert (mu[:,C-1:]==0).all()
    assert torch.equal(simplex_etf(C, C-1+extra, dtype=torch.float32), mu.float())

@quick
@given(st.integers(1, 12), seeds)
def test_a_rotation_comes_from_its_generator_alone(d, seed):
    q = random_rotation(d, rng(seed), dtype=f64)
    assert torch.equal(q, random_rotation(d, rng(seed), dtype=f64)) and abs(torch.linalg.det(q)-1)<1e-12
    state = torch.random.get_rng_state()
    random_rotation(d, rng(seed))
    assert torch.equal(state, torch.random.get_rng_state())

@quick
@given(st.integers(1, 30), st.integers(1, 12), seeds)
def test_welch_holds_for_random_vectors(n, d, seed):
    assume(n>=2)
    x = torch.nn.functional.normalize(torch.randn(n, d, generator=rng(seed), dtype=f64), dim=1)
    off = (x@x.T)[~torch.eye(n, dtype=torch.bool)].square()
    assert welch_bound(n, d)**2 <= off.mean()+1e-12

@quick
@given(st.integers(2, 8), st.integers(0, 5), seeds, st.booleans())
def test_the_nearest_turns_with_the_points(C, extra, seed, scale):
    d = C-1+extra
    g = rng(seed)
    x = torch.randn(C, d, generator=g, dtype=f64)
    q = random_rotation(d, g, dtype=f64)
    sv = torch.linalg.svdvals(simplex_etf(C, dtype=f64).T@x)
    assume(sv[-1]>1e-3)  # else the nearest is not unique
    assert_close(nearest_etf(x@q, scale), nearest_etf(x, scale)@q, rtol=0, atol=1e-9)
    perm = torch.randperm(C, generator=g)
    assert_close(nearest_etf(x[perm], scale), nearest_etf(x, scale)[perm], rtol=0, atol=1e-9)
    assert_close(etf_distance(x@q, scale), etf_distance(x, scale), rtol=1e-9, atol=1e-12)
    near = nearest_etf(x, scale)
    assert_close(nearest_etf(near, scale), near, rtol=0, atol=1e-9)
    assert etf_distance(x, True) <= etf_distance(x, False)+1e-12

@quick
@given(st.integers(2, 8), st.integers(0, 3), seeds)
def test_distance_is_one_lipschitz_per_class(C, extra, seed):
    g = rng(seed)
    x,y = torch.randn(2, C, C-1+extra, generator=g, dtype=f64)
    assert abs(etf_distance(x)-etf_distance(y)) <= (x-y).norm()/math.sqrt(C)+1e-12

@quick
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 3), seeds)
def test_procrustes_undoes_an_orthogonal_map(n, p, more, seed):
    g = rng(seed)
    a = torch.randn(n, p, generator=g, dtype=f64)
    b = a@random_rotation(p+more, g, dtype=f64)[:p]
    R = procrustes(a, b)
    assert_close(R@R.T, torch.eye(p, dtype=f64), rtol=0, atol=1e-12)
    assert_close(a@R, b, rtol=0, atol=1e-7) # fewer points than dimensions: R is free elsewhere

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_precision(dtype):
    x = torch.randn(6, 7, generator=rng(0)).to(dtype).requires_grad_()
    assert nearest_etf(x).dtype==dtype and not nearest_etf(x).requires_grad
    assert procrustes(x, x).dtype==dtype
    d = etf_distance(x)
    assert d.dtype==f64 and torch.equal(d.detach(), etf_distance(x.detach().double()))
    d.backward()
    assert x.grad.dtype==dtype and x.grad.isfinite().all()

def test_collapsed_points_have_a_distance_and_a_finite_gradient():
    for x in (torch.zeros(5, 4), torch.ones(5, 4)/2, simplex_etf(5)):
        x = x.clone().requires_grad_()
        etf_distance(x).backward()
        assert x.grad.isfinite().all()

x = torch.randn(4, 3, generator=rng(0))
bad = [
    (lambda: simplex_etf('4'), TypeError, "num_classes: expected a whole number >= 2, got '4'"),
    (lambda: simplex_etf(4, 0), ValueError, 'dim: expected a whole number >= 1, got 0'),
    (lambda: simplex_etf(4, 2), ValueError, 'dim: expected at least num_classes - 1 = 3'),
    (lambda: simplex_etf(4, 3.), TypeError, 'dim: expected a whole number'),
    (lambda: simplex_etf(4, dtype='float32'), TypeError, 'dtype: expected a floating-point type'),
    (lambda: random_rotation(-1), ValueError, 'dim: expected a whole number >= 1, got -1'),
    (lambda: random_rotation(2, dtype=torch.int32), TypeError, 'dtype: expected a floating-point type'),
    (lambda: welch_bound(2.5, 2), TypeError, 'num_vectors: expected a whole number'),
    (lambda: procrustes(x[0], x), ValueError, 'a: expected a tensor of shape (n, d)'),
    (lambda: procrustes(x, x.long()), TypeError, 'b: expected floating-point'),
    (lambda: procrustes(x, x[:2]), ValueError, 'b: expected 4 rows'),
    (lambda: procrustes(x, x[:,:2]), ValueError, 'b: expected at least 3 columns'),
    (lambda: nearest_etf(x*math.nan), ValueError, 'mu: expected finite embeddings'),
    (lambda: nearest_etf(x[:,:2]), ValueError, 'mu: expected at least 3 columns'),
    (lambda: etf_distance(x[:1]), ValueError, 'mu: expected at least 2 row(s)'),
    (lambda: etf_distance([[1.], [-1.]]), TypeError, 'mu: expected a torch tensor'),
    (lambda: etf_distance(x.long()), TypeError, 'mu: expected floating-point'),
]
@pytest.mark.parametrize('call, err, message', bad)
def test_bad_input(call, err, message):
    with pytest.raises(err) as e: call()
    assert message in str(e.value)
