"The checks of 13_dimensional and 17_linear can fail: a constant that is wrong by one per cent is noticed, in either direction or in the one that matters."
import math, pytest, torch
from hardcl_nb.theory.bounds import scl_bound
from hardcl_nb.theory.dimensional import escape_rate, harmonic_frame, price_of_rank, second_order_price, similarity_variance, sure_price
from hardcl_nb.theory.etf import simplex_etf
from hardcl_nb.theory.free import collapsed_loss
from hardcl_nb.theory.linear import flow_covariances

def excess(mu, beta=0.): return collapsed_loss(mu, beta=beta).item()-scl_bound(len(mu))
def off_diagonal(mu): return (mu@mu.T)[~torch.eye(len(mu), dtype=torch.bool)].view(len(mu), -1)
def wrong(f, factor): return lambda *a: factor*f(*a)
either, above = (.99, 1.01), (1.01,)

def variance(f):
    "R1: attained by a tight frame."
    for C,r in [(100, 10), (12, 4), (9, 6)]:
        assert abs(off_diagonal(harmonic_frame(C, r)).var(1, correction=0).mean().item()/f(r, C)-1)<1e-10

def second_order(f):
    "R2: exact where similarities differ little."
    for beta in (0., 2.):
        e = [excess(harmonic_frame(C, C-3), beta)/f(C-3, C, beta)-1 for C in (101, 201)]
        assert abs(e[1])<abs(e[0])/2 and abs(e[1])<1e-3

cross = torch.cat([torch.eye(50, dtype=torch.float64), -torch.eye(50, dtype=torch.float64)])
def floor(f):
    "R3: attained by ideal arrangements."
    for r,mu in [(2, harmonic_frame(100, 2)), (50, cross), (2, harmonic_frame(9, 2))]:
        for beta in (0., 2., 5.): assert abs(excess(mu, beta)/f(r, len(mu), beta)-1)<1e-7

def parabola(f):
    "R4, first half: its constant makes a parabola that touches softplus at -2 and lies below it."
    for C in (4, 10, 100):
        t0,t = -C/(C-1),torch.linspace(-2, .25, 2001, dtype=torch.float64)
        kappa = f(1, C)/(t0**2*(C-2)/(2*(C-1)))
        room = torch.nn.functional.softplus(t)-math.log1p(math.exp(t0))-(t-t0)/(1+math.exp(-t0))-kappa*(t-t0)**2
        assert room.min()>-1e-12 and abs(room[0])<1e-12

def rank_inequality(f):
    "R4, second half: a tight frame of the right radius has the least mean square."
    for C,r in [(10, 2), (10, 8), (100, 10)]:
        t0 = C/(C-1)
        mu = harmonic_frame(C, r)*math.sqrt(t0*r/(r+1))
        t = off_diagonal(mu)-mu.square().sum(1, keepdim=True)+t0
        assert abs((t**2).mean().item()*kappa(C)/f(r, C)-1)<1e-9
def kappa(C): return sure_price(1, C)/((C/(C-1))**2*(C-2)/(2*(C-1)))

def growth(mu, beta, detach, size=1e-4):
    C,r = mu.shape
    basis = torch.linalg.qr(torch.cat([mu, torch.ones(C, 1, dtype=mu.dtype), torch.eye(C, dtype=mu.dtype)], 1))[0][:,r+1:C]
    x = torch.cat([mu, size*basis], 1)
    x = (x/x.norm(dim=1, keepdim=True)).requires_grad_()
    g, = torch.autograd.grad(C*collapsed_loss(x, beta=beta, detach=detach), x)
    x = x.detach()
    g = g-(g*x).sum(1, keepdim=True)*x
    return -((g*x)[:,r:].sum()/(x*x)[:,r:].sum()).item()

def escape(f):
    "R6: exact where similarities differ little."
    for beta,detach in [(0., True), (2., True), (2., False)]:
        assert abs(growth(harmonic_frame(201, 198), beta, detach)/f(198, 201, beta, detach)-1)<2e-3

def threshold(f):
    "R7: a direction grows if its noise is below twice the data's variance."
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s0,_ = f(x, x, torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(s0, 2*torch.cov(x.T, correction=0), rtol=1e-9, atol=0)

def scaled_covariance(factor): return lambda *a: tuple(factor*s for s in flow_covariances(*a))

@pytest.mark.parametrize('check,f', [(variance, similarity_variance), (second_order, second_order_price), (floor, price_of_rank), (parabola, sure_price),
    (rank_inequality, sure_price), (escape, escape_rate)], ids=lambda x: x.__name__)
def test_one_per_cent_is_noticed(check, f):
    check(f)
    for factor in either:
        with pytest.raises(AssertionError): check(wrong(f, factor))

def test_threshold():
    threshold(flow_covariances)
    for factor in either:
        with pytest.raises(AssertionError): threshold(scaled_covariance(factor))

def test_touching_polynomial_notices_a_wrong_floor():
    "R3's certificate: a λ one per cent higher is beaten by an ideal arrangement, one per cent lower by none."
    for factor,holds in [(.99, True), (1.01, False)]:
        assert (excess(cross, 2.)>=factor*price_of_rank(50, 100, 2.))==holds

def test_two_classes_need_no_price(): assert sure_price(1, 2)==0 and abs(excess(simplex_etf(2, dtype=torch.float64)))<1e-15
