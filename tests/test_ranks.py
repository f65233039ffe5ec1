"A ranking among several devices, and learned temperatures that learn from all ranks: two gloo processes against one."
import math
from datetime import timedelta
import pytest, torch
import torch.nn.functional as F
from torch import distributed as dist, multiprocessing as mp
from torch.testing import assert_close
from hardcl_nb import CrossLoss, DistributedLoss, HardNegativeRankingLoss, HSCL, LearnedTau
from hardcl_nb.losses.towers import DistributedCrossLoss

forms = [dict(), dict(hardness_mode='in_batch_negatives', hardness_strength=9.), dict(hardness_mode='all_negatives', hardness_strength=5.),
    dict(beta=.4, on='explicit', shared=False), dict(beta=(.3, .6), raw=False, directions=('query_to_doc', 'doc_to_query'), partition_mode='per_direction'),
    dict(beta=.5, detach=False, raw=False)]

def rows():
    "Columns of 10 texts: anchors, positives, two negatives; embeddings of 11 labelled rows."
    g = torch.Generator().manual_seed(3)
    return torch.randn(4, 10, 6, generator=g, dtype=torch.float64), torch.randn(11, 6, generator=g, dtype=torch.float64), torch.arange(11)%3

def refused(call):
    try: call()
    except ValueError as e: return str(e)

def with_tau(loss, *args):
    "Value, slope of log τ, slopes of the first tensor."
    x = args[0].clone().requires_grad_()
    value = loss(x, *args[1:])
    value.backward()
    return value.detach(), loss.loss.tau.log_tau.grad if hasattr(loss, 'loss') else loss.tau.log_tau.grad, x.grad

def job(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2, timeout=timedelta(seconds=90))
    columns, z, y = rows()
    mine, at = columns.split(5, 1)[rank], slice(0, 7) if rank==0 else slice(7, 11)
    seen = dict(forms=[])
    for kw in forms:
        x = mine.clone().requires_grad_()
        loss = HardNegativeRankingLoss(None, gather_across_devices=True, **kw).compute_loss_from_embeddings(list(x))
        loss.backward()
        seen['forms'].append((loss.detach(), x.grad))
    gather = HardNegativeRankingLoss(None, gather_across_devices=True)
    seen['sizes'] = refused(lambda: gather.compute_loss_from_embeddings(list(mine[:,:5-rank])))
    for name,tau in (('warm', .4), ('cold', .01)): # in cold float32 the precision is chosen, alike on both
        for kind in (torch.float64, torch.float32):
            w = z[at].to(kind)*(1 if rank==0 else 30)
            seen[name,kind] = with_tau(DistributedLoss(HSCL(2., tau=LearnedTau(tau)), combine='sum'), w, y[at])
            seen[name,kind,'cross'] = with_tau(DistributedCrossLoss(CrossLoss(2., tau=LearnedTau(tau)), combine='sum'), w, y[at], w.flip(1), y[at])
    seen['differs'] = refused(lambda: DistributedLoss(HSCL(2., tau=LearnedTau(.5+rank)))(z[at], y[at]))
    seen['wrong'] = refused(lambda: DistributedLoss(HSCL(2., tau=LearnedTau(.5)))(z[at]*(math.nan if rank else 1), y[at]))
    out[rank] = seen
    dist.barrier()
    dist.destroy_process_group()

@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    with mp.get_context('spawn').Manager() as m:
        out = m.dict()
        mp.spawn(job, (str(tmp_path_factory.mktemp('ranks')/'store'), out), nprocs=2)
        return [out[0], out[1]]

@pytest.mark.parametrize('k', range(len(forms)), ids=lambda k: str(forms[k]))
def test_devices_rank_as_one(seen, k):
    "The mean of both losses is the loss of the whole; summed slopes are twice the slope of that mean."
    columns = rows()[0].requires_grad_()
    whole = HardNegativeRankingLoss(None, **forms[k]).compute_loss_from_embeddings(list(columns))
    slope, = torch.autograd.grad(whole, columns)
    (one, d1), (two, d2) = (s['forms'][k] for s in seen)
    assert_close((one+two)/2, whole.detach(), rtol=0, atol=1e-12)
    assert_close(torch.cat([d1, d2], 1)/2, slope, rtol=0, atol=1e-12)

def test_unequal_batches_are_refused_on_all(seen):
    for s in seen: assert s['sizes']=='gather_across_devices: expected as many on each, got [5, 4] rows on the devices'

@pytest.mark.parametrize('cross', [False, True])
@pytest.mark.parametrize('name, tau', [('warm', .4), ('cold', .01)])
def test_a_learned_temperature_learns_from_all_ranks(seen, name, tau, cross):
    _, z, y = rows()
    scale = torch.where(torch.arange(11)<7, 1., 30.)[:,None]
    for kind,tol in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        w = (z.to(kind)*scale.to(kind)).double()
        loss = CrossLoss(2., tau=LearnedTau(tau)) if cross else HSCL(2., tau=LearnedTau(tau))
        value, slope, dz = with_tau(loss, *((w, y, w.flip(1), y) if cross else (w, y)))
        parts = [s[(name, kind, 'cross') if cross else (name, kind)] for s in seen]
        for v,_,_ in parts: assert_close(v.double(), value.double(), rtol=tol, atol=0)
        assert_close(sum(p[1] for p in parts).double(), slope.double(), rtol=10*tol, atol=1e-6*abs(float(slope)))
        assert_close(torch.cat([p[2] for p in parts]).double(), dz, rtol=0, atol=tol*float(dz.abs().max()))

def test_ranks_agree_on_the_temperature_and_refuse_together(seen):
    for s in seen:
        assert s['differs'].startswith('learned: expected the same learned on every rank, got 0.5') and '1.5' in s['differs']
        assert s['wrong'].startswith('z: expected finite embeddings') and '(on rank 1)' in s['wrong']
