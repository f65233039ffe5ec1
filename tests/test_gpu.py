"""On a GPU: every loss, with every option, equals float64 on the CPU; what is measured and mined there is what is measured here; a run repeats.

    python -m pytest tests/test_gpu.py            (skipped where there is no CUDA device)
"""
import itertools
import numpy as np
import pytest, torch
import torch.nn.functional as F
from hardcl_nb import (CollapseMeter, GeneralLoss, LearnedTau, RunConfig, collapse_report, contrastive_loss, cross_loss,
    mine_negatives, ranking_loss, retrieval_scores, run)
from hardcl_nb.losses.estimators import SampledLoss
from hardcl_nb.runs.storage import read_csv

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
n, d, C = 96, 16, 6

def rows(seed, n=n, d=d):
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1), torch.arange(n)%C

def graded(f, *zs):
    zs = [z.detach().clone().requires_grad_() for z in zs]
    l = f(*zs)
    return [l.detach().double().cpu(), *(g.double().cpu() for g in torch.autograd.grad(l, zs))]

def near(got, want, reach):
    "Float32 keeps six digits, less what exponents as large as `reach` cost."
    for a,b in zip(got, want): assert (a-b).norm()<=2e-7*reach*max(1., float(b.norm())), (float((a-b).norm()), float(b.norm()))

cases = [dict(beta=b, tau=t, supervised=s, detach=e, raw=r, alpha=a, q=q) for b,t,s,e,r,a,q in itertools.product(
    (0., 5., 30.), (.1, 1.), (True, False), (True, False), (False, True), (0., 1.), (1., 'sum'))]

@pytest.mark.parametrize('engine', ['plain', 'tiled', 'kernel'])
def test_contrastive_loss_on_a_card(engine):
    z, y = rows(0)
    for kw in cases:
        if engine=='kernel' and kw['raw']: continue # refused there
        want = graded(lambda x: contrastive_loss(x, y, engine='plain', **kw), z)
        got = graded(lambda x: contrastive_loss(x, y.cuda(), engine=engine, **kw), z.float().cuda())
        near(got, want, 10*(1+kw['beta'])/kw['tau'])

@pytest.mark.parametrize('how', ['mask', 'queue', 'ignored', 'several', 'weight', 'learned'])
def test_rows_that_count_on_a_card(how):
    z, y = rows(1)
    g = torch.Generator().manual_seed(2)
    kw, ys = dict(beta=5., tau=.5), y
    if how=='mask': kw['mask'] = torch.rand(n, n, generator=g)<.7
    if how=='queue': kw['queue'] = rows(3, 40)
    if how=='ignored': ys, kw['ignore_index'] = torch.where(torch.arange(n)%5==0, -1, y), -1
    if how=='several': ys = torch.rand(n, C, generator=g)<.3
    if how=='weight': kw['weight'] = torch.rand(n, generator=g, dtype=torch.float64)
    to = lambda v: tuple(map(to, v)) if isinstance(v, tuple) else v.to('cuda', torch.float32 if v.is_floating_point() else v.dtype) if isinstance(v, torch.Tensor) else v
    learned = [LearnedTau(.5).double(), LearnedTau(.5).cuda()] if how=='learned' else [.5, .5]
    want = graded(lambda x: contrastive_loss(x, ys, **kw | dict(tau=learned[0])), z)
    got = graded(lambda x: contrastive_loss(x, ys.cuda(), **{k: to(v) for k,v in kw.items()} | dict(tau=learned[1])), z.float().cuda())
    near(got, want, 120.)

def test_towers_and_pairs_on_a_card():
    (a, ya), (b, yb), e = rows(4), rows(5), rows(6, 2*n)[0].view(n, 2, d)
    for kw in (dict(beta=b, tau=t, sides=s, raw=r) for b in (0., 9.) for t in (.05, 1.) for s in ('rows', 'both') for r in (False, True)):
        reach = 10*(1+kw['beta'])/kw['tau']
        near(graded(lambda x, w: cross_loss(x, ya.cuda(), w, yb.cuda(), **kw), a.float().cuda(), b.float().cuda()),
            graded(lambda x, w: cross_loss(x, ya, w, yb, **kw), a, b), reach)
        kw['sides'] = 'rows'
        near(graded(lambda x, w, v: ranking_loss(x, w, v, **kw), a.float().cuda(), b.float().cuda(), e.float().cuda()),
            graded(lambda x, w, v: ranking_loss(x, w, v, **kw), a, b, e), reach)

def test_other_losses_on_a_card():
    z, y = rows(7)
    near(graded(lambda x: GeneralLoss()(x, y.cuda()), z.float().cuda()), graded(lambda x: GeneralLoss()(x, y), z), 10.)
    loss = SampledLoss(beta=5., k=4000)
    exact = contrastive_loss(z, y, beta=5.)
    assert abs(float(loss(z.float().cuda(), y.cuda()))/float(exact)-1)<.02 # 4,000 draws for each pair

def test_numbers_about_embeddings_on_a_card():
    z, y = rows(8, 600)
    here, there = collapse_report(z.float(), y), collapse_report(z.float().cuda(), y.cuda())
    meter = CollapseMeter(C, d, device='cuda')
    for k in range(0, 600, 100): meter.update(z[k:k+100].float().cuda(), y[k:k+100].cuda())
    for name in ('zero_sum', 'equal_inner', 'within_class_rms', 'effective_rank'):
        a = float(getattr(here, name))
        assert abs(a-float(getattr(there, name)))<=1e-5*max(1., abs(a)), name
        assert abs(a-float(getattr(meter.compute(), name)))<=1e-4*max(1., abs(a)), name

def test_mining_and_ranks_on_a_card():
    (a, _), (b, _) = rows(9, 500), rows(10, 500)
    here, there = mine_negatives(a, b, 7), mine_negatives(a.cuda(), b.cuda(), 7)
    assert torch.equal(here.index, there.index.cpu())
    for way,scores in retrieval_scores(a, b).items():
        there = retrieval_scores(a.cuda(), b.cuda())[way]
        for name,rate in scores.items(): assert np.allclose(rate, there[name], atol=1e-12), (way, name)

def test_a_run_on_a_card_repeats(tmp_path):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randint(0, 256, (600, 3, 32, 32), generator=g, dtype=torch.uint8).numpy(), (torch.arange(600)%10).numpy()
    np.savez(tmp_path/'d.npz', train_images=x.transpose(0, 2, 3, 1), train_labels=y, test_images=x[:100].transpose(0, 2, 3, 1), test_labels=y[:100])
    cfg = dict(data=str(tmp_path/'d.npz'), arch='small', method='hscl', beta=5., batch_size=128, steps=12, eval_every=4, device='cuda', amp=True, channels_last=True)
    for k in 'ab': run(RunConfig(**cfg), tmp_path/k)
    a, b = (read_csv(tmp_path/k/'metrics.csv') for k in 'ab')
    for u,v in zip(a, b):
        for name in ('loss', 'gap'): assert abs(u[name]-v[name])<=2e-2, (name, u[name], v[name]) # kernels of a card add in any order
