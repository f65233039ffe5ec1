"Two towers over many ranks, in one process: every rank's program in step with the others."
import math
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import distributed as dist
from torch.testing import assert_close
from hardcl_nb import CrossLoss, LearnedTau, cross_loss
from hardcl_nb.losses.distributed import _How
from hardcl_nb.losses.exact import LossOptions
from hardcl_nb.losses.sweeps import in_step
from hardcl_nb.losses.towers import DistributedCrossLoss, _rank
from hardcl_nb.measures.meter import CollapseMeter

def towers(seed, n, m, d=4):
    g = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(k, d, generator=g, dtype=torch.float64), dim=1) for k in (n, m))
    return a, torch.arange(n)%3, b, torch.arange(m)%3

@settings(max_examples=40)
@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5).filter(lambda s: all(sum(x)>=6 for x in zip(*s))),
    st.booleans(), st.booleans(), st.sampled_from([0., 3.]), st.sampled_from(['sum', 'mean']))
def test_any_split_over_ranks_is_the_whole(seed, sizes, both, supervised, beta, combine):
    "Loss on every rank, and gradients of all rows and columns; a rank may have none of either."
    na, nb = map(list, zip(*sizes))
    a, ya, b, yb = towers(seed, sum(na), sum(nb))
    kw = dict(beta=beta, tau=.5, supervised=supervised)
    x, w = a.clone().requires_grad_(), b.clone().requires_grad_()
    want = cross_loss(x, ya, w, yb, sides='both' if both else 'rows', **kw)
    slopes = torch.autograd.grad(want, (x, w))
    with torch.no_grad():
        ends, _ = in_step([_rank(*t, r, LossOptions(**kw), both, _How(combine), True) for r,t in enumerate(zip(a.split(na), ya.split(na), b.split(nb), yb.split(nb)))])
    times = len(na) if combine=='mean' else 1 # the mean over ranks is taken afterwards
    for loss,_,_ in ends: assert_close(loss, want.detach().to(loss.dtype))
    for k,slope in zip((1, 2), slopes): assert_close(torch.cat([e[k] for e in ends]).to(slope.dtype)/times, slope, rtol=1e-6, atol=1e-9)

def test_what_one_rank_refuses_all_refuse():
    "With the name of the tower: numbers that are none, and towers of different width."
    a, ya, b, yb = towers(0, 6, 6)
    bad = b.clone()
    bad[5] = math.nan
    def go(b): in_step([_rank(*t, r, LossOptions(), False, _How(), True) for r,t in enumerate(zip(a.split(3), ya.split(3), b.split(3), yb.split(3)))])
    with pytest.raises(ValueError, match='^b: expected'): go(bad)
    with pytest.raises(ValueError, match='^b: expected 4 columns of torch.float64, like a, got 3 columns'): go(b[:,:3])

@pytest.mark.parametrize('sides', ['rows', 'both'])
def test_one_process_alone(sides, tmp_path):
    "Without processes, or with a single one, it is the loss itself; a learned temperature gets its slope; a hardness may be said in the call."
    a, ya, b, yb = towers(1, 6, 7)
    def both(make):
        loss = CrossLoss(2., tau=LearnedTau(.5).double(), sides=sides)
        x = a.clone().requires_grad_()
        value = make(loss)(x, ya, b, yb)
        value.backward()
        return value.detach(), x.grad, loss.tau.log_tau.grad
    want = both(lambda loss: loss)
    for got,w in zip(both(DistributedCrossLoss), want): assert_close(got, w, rtol=1e-6, atol=1e-9)
    plain = DistributedCrossLoss(CrossLoss(sides=sides, q='sum'))
    assert_close(plain(a, None, a+0, None, beta=3.), cross_loss(a, torch.arange(6), a, torch.arange(6), beta=3., sides=sides, q='sum'))
    assert repr(plain).startswith("DistributedCrossLoss(\n  combine='mean'")
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        for got,w in zip(both(DistributedCrossLoss), want): assert_close(got, w, rtol=1e-6, atol=1e-9)
        meter = CollapseMeter(3, 4)
        meter.update(a, ya)
        with_others = meter.compute()
    finally: dist.destroy_process_group()
    assert with_others.zero_sum==pytest.approx(meter.compute().zero_sum, rel=1e-12) and with_others.nc1==pytest.approx(meter.compute().nc1, rel=1e-9)
    for call in (lambda: DistributedCrossLoss(torch.nn.Linear(2, 2)), lambda: DistributedCrossLoss(CrossLoss(), combine='max')):
        with pytest.raises((TypeError, ValueError), match='^(loss|combine): expected'): call()
