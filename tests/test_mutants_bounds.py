"The checks of 06_domination, 07_etf and 08_bounds can fail: a constant that is wrong by one per cent is noticed."
import functools, math, pytest, torch
from hardcl_nb.theory.bounds import scl_bound, ucl_bound
from hardcl_nb.theory.domination import domination_gap, harris_steps
from hardcl_nb.theory.etf import nearest_etf, random_rotation, simplex_etf, welch_bound
from hardcl_nb.theory.hardening import Exponential, MaxExponential, SemiHard
from hardcl_nb.theory.psi import InfoNCE, Linear, Softplus, Triplet
from hardcl_nb.theory.worlds import block_world, random_world, tuple_law, tuples

either = (.99, 1.01)
prices = (InfoNCE(), InfoNCE(.2, 3.), Triplet(2.), Linear(), Softplus(.3))
def wrong(f, factor): return lambda *a, **k: factor*f(*a, **k)
def at_etf(C, per=2): return block_world(C, per), simplex_etf(C, dtype=torch.float64).repeat_interleave(per, 0)

def supervised(f):
    "B1 and B3: what Neural Collapse costs, whatever the hardness."
    for C,k in [(2, 1), (4, 2)]:
        world, z = at_etf(C)
        for psi in prices:
            for eta in (None, Exponential(3.), MaxExponential(5.)): assert abs(world.loss(z, psi, eta, k=k).item()-f(C, psi, k=k))<1e-13

def unsupervised(f):
    "B4, its limit, and B5: what Neural Collapse costs, and what instance discrimination does."
    for C,k in [(2, 3), (4, 1), (4, 2)]:
        world, z = at_etf(C)
        for psi in prices: assert abs(world.loss(z, psi, k=k, supervised=False).item()-f(C, psi, k=k))<1e-13
    e = math.exp(-10/9)
    assert abs(f(10)-math.log(1+(1+9*e)/10))<1e-13
    points = simplex_etf(6, dtype=torch.float64)
    assert abs(block_world(2, 3, 'aligned').loss(points, InfoNCE(), supervised=False).item()-f(6, k=1))<1e-13

def descend(loss, n, d, seed):
    "The loss in the unit ball at which a descent ends."
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    opt = torch.optim.LBFGS([x], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn='strong_wolfe')
    ball = lambda: x/x.norm(dim=1, keepdim=True).clamp(min=1)
    def closure():
        opt.zero_grad()
        l = loss(ball())
        l.backward()
        return l
    opt.step(closure)
    return loss(ball()).item()

@functools.cache
def least(eta=None, supervised=True):
    "The least loss of three classes of two points each that a few descents find."
    world = block_world(3, 2)
    return min(descend(lambda z: world.loss(z, InfoNCE(), eta, supervised=supervised), 6, 2, seed) for seed in range(3))

def descent(f):
    "B1 and B3: going down ends on the bound, neither above nor below."
    for eta in (None, Exponential(2.)): assert abs(least(eta)-f(3))<1e-9

def descent_unsupervised(f):
    "B4, the same."
    assert abs(least(supervised=False)-f(3, k=1))<1e-9

def corners(f):
    "G1 and G2: unit rows that meet at -1/(C-1), the least mean inner product there is."
    for C,d in [(2, 1), (5, 4), (5, 9)]:
        G = f(C, d, dtype=torch.float64)@f(C, d, dtype=torch.float64).T
        assert (G-(C*torch.eye(C, dtype=torch.float64)-1)/(C-1)).abs().max()<1e-12

def frames(f):
    "G3: equality for tight frames; the polygon in the plane is one, and so is the ETF."
    for mu in (simplex_etf(6, dtype=torch.float64), torch.polar(torch.ones(7).double(), 2*torch.pi/7*torch.arange(7).double()).view(-1, 1)):
        mu = torch.view_as_real(mu)[:,0] if mu.is_complex() else mu
        n,d = mu.shape
        G = (mu@mu.T)[~torch.eye(n, dtype=torch.bool)]
        assert abs(G.square().mean().sqrt().item()-f(n, d))<1e-12

def nearest(f):
    "G4: no other ETF of this size is nearer."
    g = torch.Generator().manual_seed(0)
    for C,d in [(3, 2), (4, 5)]:
        mu = torch.randn(C, d, dtype=torch.float64, generator=g)
        near = f(mu)
        assert (near.norm(dim=1)-1).abs().max()<1e-12
        others = [simplex_etf(C, d, dtype=torch.float64)@random_rotation(d, g, dtype=torch.float64) for _ in range(200)]
        assert all((mu-near).norm()<=(mu-o).norm() for o in others)

@pytest.mark.parametrize('check,f', [(supervised, scl_bound), (descent, scl_bound), (unsupervised, ucl_bound), (descent_unsupervised, ucl_bound),
    (corners, simplex_etf), (frames, welch_bound), (nearest, nearest_etf)], ids=lambda x: x.__name__)
def test_one_per_cent_is_noticed(check, f):
    check(f)
    for factor in either:
        with pytest.raises(AssertionError): check(wrong(f, factor))

def least_ratio(eta, k=1, seed=0):
    "The least hard loss, in units of the plain one, that a descent over representations finds."
    g = torch.Generator().manual_seed(seed)
    world, x, best = random_world(3, 5, g), torch.randn(5, 2, dtype=torch.float64, generator=g).requires_grad_(), math.inf
    opt = torch.optim.Adam([x], lr=.05)
    for _ in range(120):
        ratio = world.loss(x, InfoNCE(), eta, k)/world.loss(x, InfoNCE(), None, k)
        best = min(best, ratio.item())
        opt.zero_grad()
        ratio.backward()
        opt.step()
    return best

@pytest.mark.parametrize('eta,k', [(Exponential(2.), 1), (MaxExponential(2.), 2)], ids=str)
def test_domination_is_sharp(eta, k):
    "D1: hard >= c plain holds for c = 1, and not for a c one per cent larger."
    assert 1-1e-12<=least_ratio(eta, k)<1.01

def test_domination_needs_a_hardening():
    "D2: the search that finds nothing for a hardening function finds a violation for a window."
    assert least_ratio(lambda s: (-8*(s-.2)**2).sum(-1).exp())<.99
    world, x = random_world(3, 5, torch.Generator().manual_seed(0)), torch.tensor([[1.], [.9], [.2], [-.4], [.6]]).double()
    assert domination_gap(world, x, InfoNCE(), Exponential(2.)).pairs.min()>=0
    assert domination_gap(world, x, InfoNCE(), SemiHard(-1., .5)).pairs.min()<-1e-3

def test_each_revealed_negative_counts():
    "D1: Harris' terms sum to the covariance; with any of them a per cent off they do not."
    p, x = torch.tensor([[.2, .3, .5], [-.5, .1, .8]], dtype=torch.float64)
    s = x[tuples(3, 3)]
    a, b, q = InfoNCE()(s), MaxExponential(2.)(s), tuple_law(p, 3)
    steps, cov = harris_steps(p, a.view(3, 3, 3), b.view(3, 3, 3)), (q*a*b).sum()-(q*a).sum()*(q*b).sum()
    assert abs(steps.sum()-cov)<1e-14 and (abs(steps.sum()-.01*steps-cov)>1e-5).all()

def test_slope_in_hardness():
    "D5: the derivative in β is a covariance; one per cent more is not the derivative."
    world, f = random_world(3, 5, torch.Generator().manual_seed(1)), torch.tensor([[1.], [.9], [.2], [-.4], [.6]]).double()
    def loss(beta): return world.loss(f, InfoNCE(), Exponential(beta)).item()
    d, step = domination_gap(world, f, InfoNCE(), lambda s: (1+1e-6*s).prod(-1)).gap.item()/1e-6, 1e-4
    slope = (-3*loss(0.)+4*loss(step)-loss(2*step))/(2*step)
    assert abs(slope/d-1)<1e-5 and slope>0
