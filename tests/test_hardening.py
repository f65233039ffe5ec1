"Hardening functions and the tilted law on random pools: what the notebook shows on single ones."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
from hardcl_nb.theory.hardening import (Custom, Exponential, Hardening, HardeningFunction, MaxExponential, PoolHardening, Polynomial, ProductHardening,
    SemiHard, SoftThreshold, Threshold, TopFraction, as_hardening, check_eta, effective_negatives, eta_violations, tilted_weights)

quick = settings(max_examples=25, deadline=None)
dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
betas = st.one_of(st.just(0.), st.floats(0, 1000))
etas = st.one_of(betas.map(Exponential), st.floats(0, 20).map(Polynomial), st.tuples(st.floats(-1, 1), st.floats(.01, 2)).map(lambda a: SoftThreshold(*a)),
    st.floats(1e-6, 1).map(TopFraction))

@st.composite
def pools(draw):
    "Similarities in [-1, 1] with ties, (rows, n), and a mask that leaves something in each row."
    rows, n, seed = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(0, 2**31))
    g = torch.Generator().manual_seed(seed)
    s = torch.rand(rows, n, generator=g, dtype=torch.float64)*1.98-.99
    if draw(st.booleans()): s = (4*s).round()/4.02
    if draw(st.booleans()): s = s[:,:1].expand(rows, n).clone()
    mask = torch.rand(rows, n, generator=g)<.6
    mask[torch.arange(rows), torch.randint(n, (rows,), generator=g)] = True
    return s, mask

@quick
@given(pools(), etas, dtypes)
def test_a_law_in_every_precision(pool, eta, dtype):
    s, mask = pool; s = s.to(dtype)
    w = tilted_weights(s, eta, mask)
    assert w.dtype==(dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    assert w.isfinite().all() and (w>=0).all() and (w[~mask]==0).all()
    assert_close(w.sum(-1), torch.ones(len(s), dtype=w.dtype), rtol=0, atol=1e-6)

@quick
@given(pools(), betas)
def test_half_precision_is_computed_in_float32(pool, beta):
    s, mask = pool
    for dtype in (torch.bfloat16, torch.float16):
        h = s.to(dtype)
        assert torch.equal(tilted_weights(h, Exponential(beta), mask), tilted_weights(h.float(), Exponential(beta), mask))

@quick
@given(pools(), betas)
def test_float32_against_the_plain_formula_in_float64(pool, beta):
    s, mask = pool; s = s.float()
    exact = (beta*(s.double()-s.double().masked_fill(~mask, -9).amax(-1, keepdim=True))).masked_fill(~mask, -math.inf).exp()
    exact = exact/exact.sum(-1, keepdim=True)
    # rounding β s moves the exponent by up to β |s| 2^-24
    assert_close(tilted_weights(s, Exponential(beta), mask).double(), exact, rtol=1e-5+4*beta*2**-24, atol=1e-37)

@quick
@given(pools(), etas)
def test_harder_is_never_lighter_and_the_mean_loss_rises(pool, eta):
    s, mask = pool
    w = tilted_weights(s, eta, mask)
    i = s.argsort(-1)
    s, w, mask = s.gather(-1, i), w.gather(-1, i), mask.gather(-1, i)
    for ws, m in zip(w, mask): assert (ws[m].diff()>=-1e-15).all()
    phi = torch.nn.functional.softplus(3*s)
    assert ((w*phi).sum(-1) >= (phi*mask).sum(-1)/mask.sum(-1)-1e-12).all()

@quick
@given(pools(), etas, st.floats(-3, 3))
def test_order_of_the_pool_and_shifts(pool, eta, shift):
    s, mask = pool
    perm = torch.randperm(s.shape[1], generator=torch.Generator().manual_seed(0))
    assert_close(tilted_weights(s[:,perm], eta, mask[:,perm]), tilted_weights(s, eta, mask)[:,perm], rtol=1e-12, atol=1e-15)
    if isinstance(eta, Exponential): assert_close(tilted_weights(s+shift, eta, mask), tilted_weights(s, eta, mask), rtol=1e-9, atol=1e-15)

@quick
@given(pools(), etas, dtypes)
def test_gradients_stay_finite(pool, eta, dtype):
    s, mask = pool
    s = s.masked_fill(~mask, math.nan).to(dtype).requires_grad_()
    w = tilted_weights(s, eta, mask)
    if w.requires_grad: # thresholds are constant between their jumps
        w[:,0].sum().backward()
        assert s.grad.isfinite().all()

@quick
@given(pools(), st.floats(0, 500), st.floats(0, 500))
def test_effective_number(pool, b0, b1):
    s, mask = pool
    lo,hi = (tilted_weights(s, Exponential(b), mask) for b in sorted([b0, b1]))
    N = [effective_negatives(lo, q) for q in (0, .5, 1, 2, 5, math.inf)]
    for a,b in zip(N, N[1:]): assert (b<=a*(1+1e-9)).all()
    assert (N[-1]>=1-1e-12).all() and (N[0]<=mask.sum(-1)).all()
    assert (effective_negatives(hi)<=effective_negatives(lo)*(1+1e-9)).all()

@quick
@given(st.one_of(etas.filter(lambda e: not isinstance(e, TopFraction)), betas.map(MaxExponential), st.floats(-1, 1).map(Threshold)), st.integers(1, 6), st.integers(0, 2**31))
def test_every_hardening_passes_the_checker(eta, k, seed):
    assert check_eta(eta, k, trials=200, generator=torch.Generator().manual_seed(seed)) is eta

@quick
@given(st.floats(-.6, .6), st.floats(.1, .3), st.integers(1, 3))
def test_the_checker_finds_a_dip(at, width, k):
    with pytest.raises(ValueError, match='never decreases'): check_eta(lambda s: (1.-((s-at).abs()<width).double()).prod(-1), k)

@quick
@given(st.sampled_from([Exponential, Polynomial, Threshold, SoftThreshold]), st.floats(.01, .9), st.integers(0, 2**31))
def test_one_number_makes_a_hardening(make, strength, seed):
    "What a name and a number on a command line become."
    eta = make(strength)
    assert isinstance(eta, ProductHardening) and isinstance(eta, HardeningFunction) and not isinstance(eta, PoolHardening)
    s = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert_close(eta(s), eta.each(s).exp().prod(-1), rtol=1e-12, atol=0)
    assert as_hardening(eta) is eta

def test_who_is_what():
    for eta in (Exponential(1.), Custom(torch.exp), SemiHard(-.1, .5), Hardening()): assert isinstance(eta, ProductHardening)
    assert isinstance(MaxExponential(1.), HardeningFunction) and not isinstance(MaxExponential(1.), ProductHardening)
    assert isinstance(TopFraction(.1), PoolHardening) and not isinstance(TopFraction(.1), HardeningFunction)
    assert not isinstance(lambda s: s.exp().prod(-1), HardeningFunction)

@quick
@given(st.integers(1, 4), st.integers(0, 2**31))
def test_a_plain_function_gets_its_logarithm(k, seed):
    s = torch.randn(6, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    eta = as_hardening(lambda s: s.clamp(min=0).sum(-1))
    assert_close(eta.log(s).exp(), eta(s), rtol=1e-12, atol=0)
    eta.log(s)[eta(s)>0].sum().backward()
    assert s.grad is not None and s.grad.isfinite().all()

def test_claims_are_checked():
    class Liar(MaxExponential): factorises = True
    class Wrong(Exponential):
        def __call__(self, s): return 1.0001*self.log(s).exp()
    for eta,kind in [(Liar(1.), 'product'), (Wrong(2.), 'log'), (SemiHard(-.1, .5), 'monotone')]:
        found = eta_violations(eta, 3)
        assert {v.kind for v in found} == {kind}
        assert [v.excess for v in found] == sorted((v.excess for v in found), reverse=True)
        with pytest.raises(ValueError, match='eta: expected a function >= 0 that never decreases'): check_eta(eta, 3)
    assert eta_violations(Liar(1.), 1) == [] # one negative is a product
    assert eta_violations(Exponential(1000.), 4) == [] # overflows where its logarithm does not

s, m = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
bad = [
    (lambda: tilted_weights([.1], Exponential(1)), TypeError, 's: expected a floating-point tensor, got list'),
    (lambda: tilted_weights(s.long(), Exponential(1)), TypeError, 'got torch.int64'),
    (lambda: tilted_weights(torch.tensor(.5), Exponential(1)), ValueError, 's: expected similarities of shape'),
    (lambda: tilted_weights(s[:,:0], Exponential(1)), ValueError, 'n >= 1'),
    (lambda: tilted_weights(s+math.inf, Exponential(1)), ValueError, 's: expected finite similarities, got 6 allowed'),
    (lambda: tilted_weights(s, Exponential(1), m[:,:2]), ValueError, 'mask: expected a shape that broadcasts'),
    (lambda: tilted_weights(s, Exponential(1), m[None]), ValueError, 'mask: expected a shape that broadcasts'),
    (lambda: tilted_weights(s, Exponential(1), m.to('meta')), ValueError, 'mask: expected a mask on cpu'),
    (lambda: tilted_weights(s, Exponential(1), [True]), TypeError, 'mask: expected a bool tensor'),
    (lambda: tilted_weights(s, Exponential(1), ~m), ValueError, '2 row(s) without an allowed negative'),
    (lambda: tilted_weights(s, lambda x: x), ValueError, 'eta: expected a hardening that factorises'),
    (lambda: tilted_weights(s-1, Polynomial(2)), ValueError, 'η = 0 for every allowed negative of 2 row(s)'),
    (lambda: effective_negatives([1.]), TypeError, 'w: expected floating-point weights'),
    (lambda: effective_negatives(torch.tensor([1.5, -.5])), ValueError, 'w: expected weights >= 0'),
    (lambda: effective_negatives(torch.tensor([math.nan, 1.])), ValueError, 'w: expected weights >= 0'),
    (lambda: effective_negatives(torch.ones(1), '2'), TypeError, 'order: expected a number'),
    (lambda: Exponential(math.inf), ValueError, 'beta: expected a finite number'),
    (lambda: Exponential('5'), TypeError, 'beta: expected a number'),
    (lambda: Polynomial(-1), ValueError, 'p: expected a finite number >= 0'),
    (lambda: TopFraction(1.5), ValueError, 'fraction: expected a finite number'),
    (lambda: check_eta(Exponential(1), 0), ValueError, 'k: expected a whole number >= 1'),
    (lambda: check_eta(lambda s: s.sum(-1)*math.nan), ValueError, 'eta: expected finite values'),
    (lambda: as_hardening(2.), TypeError, 'eta: expected a function of a tensor (..., k), got float'),
    (lambda: as_hardening(TopFraction(.5)), TypeError, 'eta: expected a function of a tensor (..., k), got TopFraction'),
    (lambda: as_hardening(lambda s: -s.exp().sum(-1)).log(s), ValueError, 'eta: expected values >= 0'),
    (lambda: Custom(3.), TypeError, 'not callable'),
]
@pytest.mark.parametrize('call, err, message', bad)
def test_bad_input(call, err, message):
    with pytest.raises(err) as e: call()
    assert message in str(e.value)
