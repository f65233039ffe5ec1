"A loss by its name: every name of the tables, every refusal in one line, and one definition for a new one."
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.losses.contrastive import HSCL, HUCL, SCL, UCL, contrastive_loss
from hardcl_nb.losses.estimators import SampledLoss, sampled_loss
from hardcl_nb.losses.general import general_loss
from hardcl_nb.losses.methods import HardenedLoss, LossFunction, Nearest, make_loss, soft, threshold, top
from hardcl_nb.tables import hardenings, methods
from hardcl_nb.theory.hardening import Custom, Exponential, Polynomial, Threshold, effective_negatives, tilted_weights

z = F.normalize(torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
y = torch.arange(24)%4
exact = [m for m,e in methods.items() if e.general]
hard = [m for m in exact if methods[m].hard]

def seeded(): return torch.Generator().manual_seed(5)

@pytest.mark.parametrize('name', list(methods))
def test_every_method_is_a_module_called_with_embeddings_and_labels(name):
    "It backpropagates, takes what a run says to every loss, and a hardness at the call if it has one."
    facts = methods.facts(name)
    loss = make_loss(name, 2. if facts.hard else 0., tau=.5, detach=True,
        **({} if name=='sampled' else {'validate': False}))
    x = z.clone().requires_grad_()
    value = loss(x, torch.arange(12).repeat(2) if name=='ntxent' else y) # image ids, which come in pairs
    value.backward()
    assert isinstance(loss, torch.nn.Module) and value.ndim==0 and value.isfinite()
    assert x.grad.isfinite().all() and x.grad.any()
    if facts.hard: assert loss(z, y, beta=3.).isfinite() and loss.beta==2.

@pytest.mark.parametrize('name, kind, beta', [('scl', SCL, 0.), ('hscl', HSCL, 5.), ('ucl', UCL, 0.),
    ('hucl', HUCL, 5.)])
@pytest.mark.parametrize('options', [{}, dict(tau=.5, detach=False), dict(alpha=0., q='sum', tau_plus=.1)])
def test_exact_methods_are_the_classes(name, kind, beta, options):
    loss = make_loss(name, beta, **options)
    assert type(loss) is kind
    assert_close(loss(z, y), contrastive_loss(z, y, beta=beta, supervised=name.endswith('scl'), **options), rtol=0,
        atol=0)

@pytest.mark.parametrize('name', exact)
def test_drawn_methods_draw_from_their_law(name):
    beta, sup = 3.*methods[name].hard, methods[name].supervised
    loss = make_loss(name, beta, k=4, generator=seeded(), tau=.5)
    assert type(loss) is SampledLoss and loss.k==4
    assert_close(loss(z, y), sampled_loss(z, y, k=4, beta=beta, supervised=sup, tau=.5, generator=seeded()), rtol=0,
        atol=0)

def test_the_drawn_method_takes_its_own_number():
    assert make_loss('sampled', 2.).k==256 and make_loss('sampled', 2., k=7).k==7
    g = seeded()
    assert make_loss('sampled', 2., generator=g).generator is g

@pytest.mark.parametrize('name', hard)
@pytest.mark.parametrize('h', [h for h in hardenings if h!='exp'])
def test_hardened_methods_are_the_general_loss(name, h):
    how = dict(supervised=methods[name].supervised, tau=.7, detach=False)
    loss = make_loss(name, 2., hardening=h, tau=.7, detach=False)
    assert type(loss) is HardenedLoss
    for beta in (2., 0., 4.):
        assert_close(loss(z, y, beta=beta), general_loss(z, y, eta=hardenings.load(h)(beta), **how), rtol=0, atol=0)
    assert_close(loss(z, y), loss(z, y, beta=2.), rtol=0, atol=0)
    loss.beta = 4.
    assert_close(loss(z, y), loss(z, y, beta=4.), rtol=0, atol=0)

@pytest.mark.parametrize('name', hard)
def test_exponential_hardening_by_the_general_engine(name):
    "The two engines agree where both can compute."
    sup = methods[name].supervised
    want = make_loss(name, 3., tau=.5)(z, y)
    assert_close(HardenedLoss(Exponential, 3., supervised=sup, tau=.5)(z, y), want, rtol=1e-12, atol=0)

@pytest.mark.parametrize('h', list(hardenings))
def test_strength_zero_hardens_nothing_and_more_never_softens(h):
    "The law is uniform at 0; its mean similarity grows with the strength, and so does the loss."
    s = torch.randn(7, 30, generator=seeded(), dtype=torch.float64).clamp(-1, 1)
    f = hardenings.load(h)
    assert_close(tilted_weights(s, f(0.)), torch.full_like(s, 1/30), rtol=0, atol=1e-15)
    means = torch.stack([(tilted_weights(s, f(b))*s).sum(1) for b in (0., .3, 1., 2., 5., 20.)])
    assert (means.diff(dim=0)>=-1e-12).all()
    losses = torch.stack([make_loss('hscl', b, hardening=h)(z, y) for b in (0., 1., 5.)])
    assert (losses.diff()>=-1e-12).all()

@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.floats(0, 1e6))
def test_a_threshold_keeps_something(s, beta):
    s = torch.tensor(s, dtype=torch.float64)
    w, at = tilted_weights(s, threshold(beta)), 1-2/(1+beta)
    kept = s>=at if (s>=at).any() else s==s.max()
    assert_close(w, kept.double()/kept.sum(), rtol=1e-12, atol=0)

@given(st.integers(1, 60), st.floats(0, 100))
@settings(max_examples=50)
def test_top_keeps_its_share(n, beta):
    w = tilted_weights(torch.randn(n, generator=seeded(), dtype=torch.float64), top(beta))
    assert n/(1+beta)-1e-6<=effective_negatives(w)<=n/(1+beta)+1+1e-6

def test_soft_is_the_logistic_function():
    s = torch.linspace(-1, 1, 9, dtype=torch.float64)
    for beta in (1e-6, 1., 30.):
        h = (beta*s).sigmoid()
        assert_close(tilted_weights(s, soft(beta)), h/h.sum(), rtol=1e-12, atol=0)

def test_the_threshold_of_a_pool():
    s = torch.tensor([[.5, .1], [.1, -.3], [.9, .15]])
    at = Nearest(.2).of(s, torch.tensor([[True, True], [True, True], [False, True]]))
    assert isinstance(at, Threshold)
    assert_close(at.at, torch.tensor([[.2], [.1], [.15]]))

def test_weights_reach_the_loss():
    w = torch.arange(24.)
    for loss in (make_loss('hscl', 2., hardening='top'), make_loss('hscl', 2.)):
        rows = loss(z, y, w)
        assert rows.ndim==0 and not torch.equal(rows, loss(z, y))

@pytest.fixture
def toys():
    "A loss, a module and a hardening of one's own; gone afterwards."
    @methods.add('toy', label='Toy', hard=True)
    def toy(z, y, beta=0., tau=1.): return (1+beta)*z.square().sum()/tau
    @methods.add('toy2', general=True)
    class Toy2(torch.nn.Module):
        def __init__(self, margin:float=1.):
            super().__init__()
            self.margin = margin
        def forward(self, z, y): return z.sum()*self.margin
    hardenings.add('toy')(lambda beta: Custom(lambda s: 1+(beta*s).exp()))
    yield
    del methods['toy'], methods['toy2'], hardenings['toy']

def test_one_definition(toys):
    "A function is the loss itself; a class is made; what a run says besides is left out at its default only."
    loss = make_loss('toy', 2., tau=.5, detach=True, validate=False)
    assert isinstance(loss, LossFunction) and loss(z, y).item()==pytest.approx(3*24/.5)
    assert loss(z, y, beta=0.).item()==pytest.approx(48) and repr(loss)=='LossFunction(toy, tau=0.5, beta=2.0)'
    assert make_loss('toy2', margin=3.)(z, y).item()==pytest.approx(3*z.sum().item())
    assert make_loss('toy2', k=3).k==3
    assert make_loss('hscl', 1., hardening='toy')(z, y)>make_loss('scl')(z, y)

@pytest.mark.parametrize('ask, err, msg', [
    (dict(method='hcl'), ValueError, "method: expected one of scl, hscl, "),
    (dict(method=None), ValueError, "method: expected one of scl, hscl, "),
    (dict(method='scl', beta=5.), ValueError,
    'beta: expected 0 for scl, which has no hardness (use hscl for beta > 0), got 5.0'),
    (dict(method='supcon', beta=5.), ValueError, 'beta: expected 0 for supcon, which has no hardness, got 5.0'),
    (dict(method='hscl', beta=-1), ValueError, 'beta: expected a finite number >= 0, got -1'),
    (dict(method='hscl', beta=float('nan')), ValueError, 'beta: expected a finite number >= 0, got nan'),
    (dict(method='hscl', beta='5'), TypeError, "beta: expected a number >= 0, got '5'"),
    (dict(method='hscl', k=0), ValueError, 'k: expected a whole number >= 1, got 0'),
    (dict(method='hscl', k=2.5), TypeError, 'k: expected a whole number >= 1, got 2.5'),
    (dict(method='supcon', k=8), ValueError,
    'k: expected None for supcon (drawn negatives: scl, hscl, ucl, hucl, toy2), got 8'),
    (dict(method='hscl', hardening='tip'), ValueError, "got 'tip'; did you mean 'top'?"),
    (dict(method='ucl', hardening='top'), ValueError,
    'hardening: expected exp for ucl (another hardening: hscl, hucl), got top'),
    (dict(method='supcon', hardening='top'), ValueError, 'hardening: expected exp for supcon'),
    (dict(method='hscl', hardening='top', k=8), ValueError, 'hardening: expected exp where negatives are drawn'),
    (dict(method='hscl', hardening='top', tau_plus=.1), TypeError, 'got tau_plus'),
    (dict(method='hscl', hardening='top', q='sum'), TypeError, "q: expected a number > 0, got 'sum'"),
    (dict(method='hscl', k=8, detach=False), TypeError, 'got detach'),
    (dict(method='hscl', temperature=.5), TypeError, 'options: expected options of hscl: beta, '),
    (dict(method='toy', detach=False), TypeError, 'options: expected options of toy: beta, tau, got detach'),
    (dict(method='hscl', generator=seeded()), ValueError, 'generator: expected None where nothing is drawn'),
    (dict(method='hscl', tau=0.), ValueError, 'tau: expected a finite number > 0')])
def test_refusals_are_one_line(ask, err, msg, toys):
    with pytest.raises(err) as e: make_loss(**ask)
    assert msg in str(e.value) and '\n' not in str(e.value)

def test_attributes_survive_a_copy_and_a_pickle():
    "Losses travel to other processes with their options."
    import copy, pickle
    for loss in (make_loss('hscl', 2., tau=.5), make_loss('hucl', 2., hardening='power'),
        make_loss('hscl', 2., hardening='top')):
        for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert_close(twin(z, y), loss(z, y), rtol=0, atol=0)
    assert_close(make_loss('hucl', 2., hardening='power')(z, y), general_loss(z, y, eta=Polynomial(2.),
        supervised=False), rtol=0, atol=0)
