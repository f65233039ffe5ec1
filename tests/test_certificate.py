"What 11_certificate does not assert itself: batches against `contrastive_loss`, random counts and options, bad input."
import math, pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.theory.certificate import Certificate, certificate
from hardcl_nb.theory.optimum import batch_bound
from hardcl_nb.theory.psi import InfoNCE
from hardcl_nb.theory.worlds import block_world
from hardcl_nb.theory.hardening import Exponential, SemiHard, SoftThreshold
from hardcl_nb.losses.contrastive import contrastive_loss

seeds = st.integers(0, 2**31)

def ball(n, d, seed, reach=2.):
    f = reach*torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return f/f.norm(dim=1, keepdim=True).clamp(min=1)

@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 5), st.integers(2, 6), st.integers(1, 5), st.floats(.1, 4), st.booleans(), st.sampled_from([.2, 1., 3.]),
    st.sampled_from([None, Exponential(3.), Exponential(100.), SoftThreshold(0., .2)]), st.builds(InfoNCE, st.floats(.1, 5), st.floats(.1, 5)))
def test_batch_certificate(seed, C, m, d, reach, sup, tau, eta, psi):
    y = torch.arange(C).repeat(m)
    z = ball(C*m, d, seed, reach)
    c = certificate(z, y, psi, eta, supervised=sup, tau=tau)
    assert abs(sum(c.lost.values())-c.gap) <= 1e-12 and min(c.lost.values()) > -1e-12 and min(c.slack.values()) > -1e-13
    assert c.lost['dependence']==0 and abs(c.bound-batch_bound(y, supervised=sup, alpha=psi.alpha, q=psi.q, tau=tau)) < 1e-12
    if eta is None or isinstance(eta, Exponential):
        assert abs(c.loss-contrastive_loss(z, y, beta=eta.beta if eta else 0., supervised=sup, alpha=psi.alpha, q=psi.q, tau=tau).item()) < 1e-12

def test_window_loses_hardening():
    "A semi-hard window is no hardening function, and the certificate says so."
    y = torch.tensor([0, 0, 1, 1])
    a = torch.tensor([0., 180., 30., 210.], dtype=torch.float64).deg2rad()
    c = certificate(torch.stack([a.cos(), a.sin()], 1), y, eta=SemiHard(-.9, .5))
    assert isinstance(c, Certificate) and c.lost['hardening'] < -.1

y4, z4 = torch.tensor([0, 0, 1, 1]), torch.eye(4, dtype=torch.float64)
@pytest.mark.parametrize('call,err,message', [
    (lambda: certificate(z4*math.nan, y4), ValueError, 'f: expected finite embeddings'),
    (lambda: certificate(z4, y4[:3]), ValueError, 'given: expected 4 labels'),
    (lambda: certificate(z4, torch.arange(4)), ValueError, 'given: expected two classes or more'),
    (lambda: certificate(z4, y4, k=2), ValueError, 'psi: expected InfoNCE, and k left alone'),
    (lambda: certificate(z4[:3], block_world(2, 2)), ValueError, 'f: expected 4 rows'),
    (lambda: certificate(z4, block_world(2, 2), tau=0), ValueError, 'tau: expected a finite number > 0'),
    (lambda: certificate(z4, block_world(2, 2), lambda t: -t.mean(-1)), ValueError, 'never decreases')])
def test_bad_input(call, err, message):
    with pytest.raises(err, match=message.replace('(', r'\(')): call()
