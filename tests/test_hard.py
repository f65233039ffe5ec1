"Published forms by name, and the loss for sentence-transformers' trainer: against plain lines, with no library there."
import math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hardcl_nb.losses.hard import HardNegativeRankingLoss, ranking_preset, ranking_presets
from hardcl_nb.losses.explicit import ranking_loss

def batch(seed, n=5, k=2, d=4): return [F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(31*seed+i)).double()) for i in range(2+k)]
def model(features): return {'sentence_embedding': features['x']}

@settings(max_examples=30)
@given(st.integers(0, 100), st.floats(.05, 2), st.floats(0, 10))
def test_raw_hardness_on_each_pool_in_one_line(seed, tau, h):
    "h times the cosine, held fixed, on the logits that the mode names."
    a, p, *negatives = batch(seed)
    n = len(a)
    u = a@torch.cat([p, *negatives]).T
    own = torch.eye(n).repeat(1, 3).bool()
    explicit = own.clone()
    explicit[:,:n] = False
    for mode,hard in dict(in_batch_negatives=~own, hard_negatives=explicit, all_negatives=~own|explicit).items():
        want = ((u/tau+h*u*hard).logsumexp(1)-u.diagonal()/tau).mean()
        got = ranking_loss(a, p, torch.stack(negatives, 1), **ranking_preset(mode, tau, strength=h))
        torch.testing.assert_close(got, want)
        loss = HardNegativeRankingLoss(model, scale=1/tau, hardness_mode=mode, hardness_strength=h)
        torch.testing.assert_close(loss([{'x': x} for x in (a, p, *negatives)]), want)

@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100), shared=st.booleans(), beta=st.sampled_from([0., .5, 4.]), tau=st.sampled_from([.1, .5, 2.]),
    tau_plus=st.sampled_from([.02, .1, .6]), detach=st.booleans(), alpha=st.sampled_from([0., 1.]), q=st.sampled_from(['sum', 1., 3.]))
def test_debiased_ranking_is_the_definition(seed, shared, beta, tau, tau_plus, detach, alpha, q):
    "Hidden positives are taken out of the mean, which stays above e^{-1/τ} (arXiv 2010.04592, section 3); by autograd."
    a, p, *mined = (x.requires_grad_() for x in batch(seed))
    n, k = len(a), len(mined)
    s = a@torch.cat([p, *mined]).T/tau
    own = torch.eye(n, dtype=torch.bool).repeat(1, 1+k)
    negative = ~own
    negative[:,n:] = True if shared else own[:,n:]
    w = (beta*(s.detach() if detach else s)).masked_fill(~negative, -math.inf).log_softmax(1)
    mean = (w+s).logsumexp(1).exp()
    g = ((mean-tau_plus*s.diagonal().exp())/(1-tau_plus)).clamp(min=math.exp(-1/tau))
    N = negative.sum(1) if q=='sum' else q
    want = (alpha+N*g/s.diagonal().exp()).log().mean()
    got = ranking_loss(a, p, torch.stack(mined, 1), beta=beta, shared=shared, raw=False, detach=detach, alpha=alpha, q=q,
        tau=tau, tau_plus=tau_plus)
    torch.testing.assert_close(got, want, rtol=2e-13, atol=2e-13)
    for x,y in zip(*(torch.autograd.grad(l, (a, p, *mined)) for l in (got, want))): torch.testing.assert_close(x, y, rtol=2e-13, atol=2e-13)

def test_presets_leave_what_they_say_and_fix_the_rest():
    "A strength on cosines is β = strength·τ; SimCSE's logit is a weight."
    assert ranking_preset('llave', .05)['beta']==pytest.approx(.45) and ranking_preset('embeddinggemma', .1)['beta']==pytest.approx(.5)
    assert ranking_preset('simcse', .1, log_weight=1.5)['pool_weight']==pytest.approx(math.exp(1.5))
    both = ranking_preset('hn-nce', .1, beta=(.5, 1.))
    assert (both['sides'], both['beta'], both['detach'], both['raw'])==('both', (.5, 1.), False, False)
    assert ranking_preset('robinson', .1, beta=1., on='all')==ranking_preset('robinson', .1, beta=1.) # what is fixed may be said
    for name,p in ranking_presets.items(): assert not p.fixed.keys()&p.free.keys(), name

@pytest.mark.parametrize('call, said', [
    (lambda: ranking_preset('other', .1), '^name: expected one of robinson'), (lambda: ranking_preset('llave', 0.), '^tau: expected'),
    (lambda: ranking_preset('llave', .1, on='all'), "^on: expected 'in_batch', which 'llave' fixes, got all"),
    (lambda: ranking_preset('llave', .1, colour=1), "^colour: expected one of strength with 'llave'"),
    (lambda: ranking_preset('robinson', .1), "^beta: expected a value, which 'robinson' leaves to you"),
    (lambda: ranking_preset('llave', .1, strength=-1.), '^strength: expected'),
    (lambda: HardNegativeRankingLoss(model, directions=()), '^directions: expected'),
    (lambda: HardNegativeRankingLoss(model, directions=('doc_to_query',)), "^directions: expected 'query_to_doc' among them"),
    (lambda: HardNegativeRankingLoss(model, directions=('query_to_query',)), '^directions: expected one of'),
    (lambda: HardNegativeRankingLoss(model, directions=('query_to_doc', 'doc_to_query')), "^partition_mode: expected 'per_direction' with two"),
    (lambda: HardNegativeRankingLoss(model, hardness_strength=1.), '^hardness_strength: expected 0 where hardness_mode is None'),
    (lambda: HardNegativeRankingLoss(model, hardness_mode='all_negatives', beta=1.), '^beta: expected None where hardness_mode is given'),
    (lambda: HardNegativeRankingLoss(model, hardness_mode='all_negatives', raw=False), '^raw: expected True where hardness_mode is given'),
    (lambda: HardNegativeRankingLoss(model, on='some'), '^on: expected one of'),
])
def test_refused(call, said):
    with pytest.raises(ValueError, match=said): call()

def test_texts_embedded_a_few_at_a_time_give_the_same_loss_and_gradient():
    "Also where a feature is one number for all texts; features that are not a row for each text are refused."
    xs, slopes, values = batch(3), [], []
    layer = torch.nn.Linear(4, 4).double()
    def encoder(features): return {'sentence_embedding': layer(features['x'])*features.get('gain', 1)}
    for size in (None, 2, 100):
        layer.zero_grad()
        loss = HardNegativeRankingLoss(encoder, scale=5., beta=1., mini_batch_size=size)
        values.append(loss([{'x': x, 'gain': 2} for x in xs]))
        values[-1].backward()
        slopes.append(layer.weight.grad.clone())
    for v,g in zip(values[1:], slopes[1:]):
        torch.testing.assert_close(v, values[0])
        torch.testing.assert_close(g, slopes[0])
    with pytest.raises(ValueError, match='^mini_batch_size: expected None where features are not a row for each text'):
        HardNegativeRankingLoss(model, mini_batch_size=2)([{'x': x, 'offsets': torch.arange(3)} for x in xs])
