"What the notebook does not assert already: properties over random sizes and inputs, and bad input."
import math
import pytest, torch
from hypothesis import assume, example, given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.dimensional import (escape_rate, fit_rank, floor_certificate, harmonic_frame, price_of_rank, second_order_price, similarity_law,
    similarity_variance, sure_price)
from hardcl_nb.theory.linear import distance_nce, flow_covariances, train_linear
from hardcl_nb.theory.free import collapsed_loss

betas = st.floats(0, 20)
fast = settings(max_examples=40, deadline=None)

@st.composite
def sizes(draw, low=1, most=60):
    C = draw(st.integers(low+1, most))
    return draw(st.integers(low, C-1)), C

def normal(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
def excess(mu, beta): return collapsed_loss(mu, beta=beta).item()-math.log1p(math.exp(-len(mu)/(len(mu)-1)))

@fast
@given(sizes())
def test_harmonic_frames_are_tight_centred_and_unit(rC):
    r,C = rC
    assume(r%2==0 or C%2==0)
    mu = harmonic_frame(C, r)
    assert_close(mu.T@mu, C/r*torch.eye(r, dtype=torch.float64), rtol=0, atol=1e-11)
    assert_close(mu.sum(0), torch.zeros(r, dtype=torch.float64), rtol=0, atol=1e-11)
    assert_close(mu.square().sum(1), torch.ones(C, dtype=torch.float64), rtol=0, atol=1e-12)

@fast
@given(sizes(), st.integers(0, 99))
def test_no_unit_vectors_have_less_mean_square(rC, seed):
    r,C = rC
    x = normal(seed, C, r)
    s = (lambda m: m@m.T)(x/x.norm(dim=1, keepdim=True))
    mean_square = (s.square().sum()-C)/(C*(C-1))
    assert mean_square>=similarity_variance(r, C)+1/(C-1)**2-1e-12

@fast
@given(sizes(), st.integers(0, 99), betas)
def test_floor_holds_where_all_classes_see_the_same(rC, seed, beta):
    r,C = rC
    r -= r%2
    assume(r>=2)
    w = normal(seed, r//2).abs()+1e-3 # any weights on the harmonics: turning the circle maps every class to every other
    mu = harmonic_frame(C, r)*(w/w.norm()*math.sqrt(r/2)).repeat_interleave(2)
    assert excess(mu, beta)>=price_of_rank(r, C, beta)-1e-9

@fast
@given(sizes(2, 300))
@example((2, 25))
def test_similarity_law_is_a_quadrature(rC):
    r,C = rC
    s,w = similarity_law(r, C)
    # no point of an odd polygon is at -1: the weight there is a difference of equal sums, -1.7e-12 at worst (r = 2)
    assert (w>-2e-11).all() and (s>=-1-1e-9).all() and (s<1).all()
    for m,e in enumerate([1, 0, 1/r]): # every C allows degree 1, C >= r+1 allows degree 2
        assert_close((w*s**m).sum().item(), e-1/C, rtol=0, atol=1e-10)

@fast
@given(sizes(2), betas, betas)
def test_price_grows_with_hardness_and_falls_with_rank(rC, b, c):
    r,C = rC
    lo,hi = sorted((b, c))
    assert -1e-12<=price_of_rank(r, C, lo)<=price_of_rank(r, C, hi)+1e-12
    if r<C-1: assert price_of_rank(r+1, C, lo)<=price_of_rank(r, C, lo)+1e-12
    assert price_of_rank(r, C, hi)<=math.log(2)-math.log1p(math.exp(-C/(C-1))) # all classes on top of each other

@fast
@given(sizes(2, 40), st.floats(0, 10))
def test_certificate_over_sizes(rC, beta):
    r,C = rC
    assume(r>2 or C<12) # the degree, and with it rounding, grows fast in the plane
    coefficient,gap = floor_certificate(r, C, beta)
    assert coefficient>-1e-40 and gap>-1e-40 # relative, in 60 digits

@pytest.mark.parametrize('C', [2, 3, 6, 11])
@pytest.mark.parametrize('rank', [1])
def test_rank_one_is_two_points(C, rank):
    s,w = similarity_law(rank, C)
    assert s.tolist()==[-1, 1] and math.isclose(w.sum(), 1-1/C)
    if C%2==0: assert math.isclose(excess(harmonic_frame(C, 1), 3.), price_of_rank(1, C, 3.), abs_tol=1e-12)

@settings(max_examples=15, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(1, 4), st.floats(0, 10), st.integers(0, 99))
def test_flow_covariances_give_the_gradient(n, p, d, beta, seed):
    x,e,W = normal(seed, n, p),normal(seed+1, n, p),normal(seed+2, d, p)
    s0,s1 = flow_covariances(x, x+e, W, beta)
    grad = torch.func.grad(lambda w: distance_nce(x@w.T, (x+e)@w.T, beta))(W)
    assert_close(grad, -W@(s0-s1), rtol=1e-10, atol=1e-11)
    t0,t1 = flow_covariances(x+5, x+e+5, W, beta) # only differences of inputs matter
    assert_close(t0, s0, rtol=1e-9, atol=1e-9)
    assert_close(t1, s1, rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('beta', [0., 5., 1000.])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_distance_nce_stays_finite(beta, dtype):
    for z in (torch.zeros(4, 3, dtype=dtype), 1e3*normal(0, 4, 3).to(dtype)):
        z = z.requires_grad_()
        loss = distance_nce(z, 1.1*z, beta)
        g, = torch.autograd.grad(loss, z)
        assert loss.isfinite() and g.isfinite().all() and loss.dtype==dtype

@pytest.mark.parametrize('depth', [1, 2, 3])
def test_training_a_linear_network_lowers_its_loss(depth):
    x = normal(0, 40, 6)
    x_plus,ws = x+.2*normal(1, 40, 6),[.3*normal(2+i, 6, 6) for i in range(depth)]
    def loss(ws):
        v = torch.eye(6, dtype=torch.float64)
        for w in ws: v = w@v
        return distance_nce(x@v.T, x_plus@v.T)
    new = train_linear(x, x_plus, ws, steps=100)
    assert loss(new)<loss(ws)-.1 and [w.shape for w in new]==[w.shape for w in ws]

@fast
@given(sizes(2), betas)
def test_linear_in_hardness(rC, beta):
    r,C = rC
    assert math.isclose(second_order_price(r, C, beta), (1+2*beta)*second_order_price(r, C), abs_tol=1e-15)
    if r<C-1:
        for detach in (True, False): assert math.isclose(escape_rate(r, C, beta, detach), (1+(1 if detach else 2)*beta)*escape_rate(r, C), rel_tol=1e-12)

@fast
@given(sizes(2, 30), st.integers(0, 99), betas, st.floats(.1, 3))
def test_everybody_in_the_ball_pays_the_sure_price(rC, seed, beta, reach):
    r,C = rC
    x = reach*normal(seed, C, r)
    assert excess(x/x.norm(dim=1, keepdim=True).clamp(min=1), beta)>=sure_price(r, C)

x = torch.zeros(3, 2)
bad = [
    (sure_price, (0, 5), ValueError, 'rank'), (sure_price, (5, 5), ValueError, 'rank'), (sure_price, (2, 5.), TypeError, 'num_classes'),
    (harmonic_frame, (1, 1), ValueError, 'num_classes'), (harmonic_frame, (5, 0), ValueError, 'rank'), (harmonic_frame, (5, 2.), TypeError, 'rank'), (harmonic_frame, (5, 1), ValueError, 'even rank'),
    (similarity_variance, (0, 5), ValueError, 'rank'), (similarity_variance, (5, 5), ValueError, 'rank'), (similarity_variance, (1, 1), ValueError, 'num_classes'),
    (second_order_price, (3, 5, math.nan), ValueError, 'beta'), (second_order_price, (5, 5), ValueError, 'rank'), (second_order_price, (3, 5, True), TypeError, 'beta'),
    (price_of_rank, (3, 5, math.inf), ValueError, 'beta'), (price_of_rank, (3, 5, '1'), TypeError, 'beta'), (price_of_rank, (True, 5), TypeError, 'rank'), (price_of_rank, (5, 5), ValueError, 'rank'),
    (similarity_law, (0, 5), ValueError, 'rank'), (similarity_law, (2, 5.), TypeError, 'num_classes'), (floor_certificate, (3, 5, -1), ValueError, 'beta'),
    (fit_rank, (5, 5), ValueError, 'rank'), (fit_rank, (2, 5, -1.), ValueError, 'beta'),
    (escape_rate, (4, 5), ValueError, 'rank'), (escape_rate, (2, 5, -1.), ValueError, 'beta'),
    (distance_nce, (x[:1], x[:1]), ValueError, 'z'), (distance_nce, (x, x[:, :1]), ValueError, 'z_plus'), (distance_nce, (x, x, -1.), ValueError, 'beta'), (distance_nce, (x.long(), x), TypeError, 'z'),
    (distance_nce, (x/0, x), ValueError, 'z'), (flow_covariances, (x, x, torch.zeros(2, 3)), ValueError, 'weight'), (flow_covariances, (x, x, None), TypeError, 'weight'), (flow_covariances, (x, x[:2], torch.zeros(2, 2)), ValueError, 'x_plus'),
    (train_linear, (x, x, []), ValueError, 'weights'), (train_linear, (x, x, [torch.zeros(2, 3)]), ValueError, 'weights'), (train_linear, (x, x, [torch.zeros(3, 2), torch.zeros(2, 2)]), ValueError, 'weights'),
]

@pytest.mark.parametrize('f,args,err,message', bad)
def test_bad_input_names_the_argument(f, args, err, message):
    with pytest.raises(err, match=message): f(*args)
