"The loop against records of its predecessor, what it refuses, what it does with a broken loss, a clock that stands still, an encoder that fails."
import inspect, json, math, platform, time, warnings, weakref
from functools import partial
from itertools import islice
from pathlib import Path
import pytest, torch
from torch import nn
from hardcl_nb.losses.contrastive import HSCL, HUCL
from hardcl_nb.measures.spectrum import alpha_req, class_means, rankme
from hardcl_nb.tables import metrics
from hardcl_nb.training.augment import random_crop
from hardcl_nb.training.batches import batches
from hardcl_nb.training.data import Data, digits
from hardcl_nb.training.encoders import embed, make_encoder
from hardcl_nb.training.chunked import Chunked, cached_backward
from hardcl_nb.training.loop import probe_subset, recorder, schedule, train

reference = json.loads((Path(__file__).parent/'loop_reference.json').read_text())

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def hard_loss(z, y, beta=5.):
    "HSCL in plain words, with the weights held fixed."
    s, same = z@z.T, y[:,None]==y
    pos, neg = same&~torch.eye(len(y), dtype=torch.bool), ~same
    w = torch.softmax((beta*s.detach()).masked_fill(~neg, -math.inf), 1)
    r = (w*s.exp()).sum(1, keepdim=True)
    return (((r*(-s).exp()).log1p()*pos).sum(1)/pos.sum(1)).mean()

def measures_then(z, y):
    "Three metrics with the order of sums that they had when the reference was made."
    m = class_means(z, y)
    m = m-m.mean(0)
    u = m/m.norm(dim=1, keepdim=True)
    i,j = torch.triu_indices(len(m), len(m), 1)
    return dict(rankme=rankme(z), alpha_req=alpha_req(z), nc2_angle=(u@u.T)[i,j].std(correction=0).item())

def run(loss, steps, every, seed, dtype='float32', per_class=None, batch_size=256, lr=None, beta=None, clip=None, views=1, positives='class', start=0):
    "The records of a case of the reference."
    d, dt = digits(), getattr(torch, dtype)
    x,tx = (v.to(dt).view(-1, 1, 8, 8) if views==2 else v.to(dt) for v in (d.train_x, d.test_x))
    d = Data('digits', x, d.train_y, tx, d.test_y, 10)
    enc = make_encoder(64, 10, seed=seed).to(dt)
    opt = torch.optim.Adam(enc.parameters(), 1e-3)
    # the engines of the reference: all pairs in one matrix for a batch, tiles for the probe
    loss_fn, measured = (HSCL(beta=5., engine=e) if loss=='hscl' else hard_loss for e in ('plain', 'tiled'))
    record = recorder(enc, d, measured, bound=reference['bound'])
    def both(step): return record(step) | {k+'_then': v for k,v in measures_then(embed(enc, d.train_x), d.train_y).items()}
    kw = dict(every=every, clip=clip, record=both)
    if lr: kw['lr'] = schedule(lr[0], steps, lr[1])
    if beta: kw['beta'] = lambda step: 5.*schedule(beta, steps)(step)
    pairs = dict(seed=seed, per_class=per_class, views=views, positives=positives)
    if views==2: pairs |= dict(augment=partial(random_crop, padding=1), generator=torch.Generator().manual_seed(seed))
    recs = []
    for a,b in ((0, start), (start, steps)): # an interrupted run goes on with batches of its own
        if b>a: recs += list(train(enc, batches(d, batch_size, start=a, **pairs), loss_fn, opt, steps=b, start=a, **kw))
    return recs

def here():
    "This machine, as the reference names its own."
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), '') if platform.system()=='Linux' else ''
    return f'{platform.system()} {platform.machine()} {cpu} {torch.backends.cpu.get_cpu_capability()}'

@pytest.mark.parametrize('case', reference['cases'])
def test_records_are_those_of_the_old_loop(case):
    "To the last bit on the machine and PyTorch of the reference (but for the sum that tiles make of a float32 loss); elsewhere to 1e-4, in float64, where rounding does not grow up to that."
    case = reference['cases'][case]
    same = (torch.__version__, here())==(reference['torch'], reference['machine'])
    recs = run(**case['settings'])
    assert len(recs)==len(case['records'])
    for got,want in zip(recs, case['records']):
        for k in ('rankme', 'alpha_req', 'nc2_angle'): # the same sums in another order
            assert got[k]==pytest.approx(got[k+'_then'], rel=1e-13, abs=0)
            got[k] = got[k+'_then']
        got,want = {k: got[k] for k in reference['names']}, dict(zip(reference['names'], want))
        if case['settings']['loss']=='hscl' and case['settings'].get('dtype')!='float64':
            for k in ('loss', 'gap'): # what tiles of float32 add up to: the last bit of a number below 1
                assert float(got[k])==pytest.approx(float(want[k]), rel=0, abs=2**-24 if same else 1e-4)
                if same: want[k] = repr(got[k])
        if same: assert {k: list(map(repr, v)) if isinstance(v, list) else repr(v) for k,v in got.items()}==want
        else:
            names = reference['names'] if case['settings'].get('dtype')=='float64' else ('step', 'loss')
            for k in names: assert got[k]==pytest.approx(list(map(float, want[k])) if isinstance(want[k], list) else float(want[k]), abs=1e-4, rel=1e-4, nan_ok=True), k

def small(n=60, C=3, seed=0):
    "Three clouds in 8 dimensions."
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n)%C
    x = torch.randn(C, 8, generator=g)[y]+.1*torch.randn(n, 8, generator=g)
    return Data('clouds', x, y, x[:C*4], y[:C*4], C)

def start(d, **kw):
    "A small encoder, batches of clouds, the loss and an optimiser."
    enc = make_encoder(8, d.num_classes, hidden=[16])
    return enc, batches(d, 30, **kw), HSCL(beta=5.), torch.optim.SGD(enc.parameters(), .1)

def test_steps_and_records():
    d = small(); a = start(d)
    assert [r['step'] for r in train(*a, steps=7, every=3)]==[0, 3, 6, 7]
    assert [r['step'] for r in train(*a, steps=7, start=5, every=3)]==[6, 7]
    recs = list(train(*a, steps=2, record=lambda step: {'twice': 2*step}))
    assert [set(r)=={'step', 'twice', 'images_per_s', 'memory_mb', 'empty'} for r in recs]==[True]*2 and recs[-1]['twice']==4

def test_a_record_embeds_each_part_once():
    d = small(); enc,*rest = start(d)
    seen = []
    enc.register_forward_hook(lambda m,args,out: seen.append(len(args[0])))
    rec = recorder(enc, d, rest[1], parts=lambda step: {'val': (d.test_x, d.test_y), 'test': (d.test_x[:5], d.test_y[:5])})(0)
    assert seen==[60, 12, 5] and {'train_acc', 'val_acc', 'test_acc'}<=set(rec)

def test_a_metric_of_your_own_is_a_number_of_the_record():
    @metrics.add('length')
    def length(z, y): return z.norm(dim=1).mean()
    try: rec = recorder(start(d := small())[0], d, HSCL(beta=5.))(0)
    finally: del metrics['length']
    assert 0<rec['length']<=1 and isinstance(rec['length'], float) and 'length' not in recorder(start(d)[0], d, HSCL(beta=5.))(0)

def test_an_encoder_that_fails_in_a_record_is_left_as_it_was():
    d = small(); enc = start(d)[0].train()
    record = recorder(enc, Data('narrow', d.train_x, d.train_y, d.test_x, d.test_y, 3), HSCL(beta=5.), parts=lambda step: {'odd': (d.test_x[:,:3], d.test_y)})
    with pytest.raises(RuntimeError): record(0)
    assert enc.training

def test_a_loss_that_breaks_names_its_step():
    d = small(); enc,its,_,opt = start(d)
    calls = iter(range(100))
    def breaks(z, y): return z.square().sum()*(math.inf if next(calls)==3 else 1.)
    with pytest.raises(FloatingPointError, match='nan or inf at step 4'): list(train(enc, its, breaks, opt, steps=9, every=9))
    with pytest.raises(FloatingPointError, match='nan or inf at step 2'): # found at a stop without a record, too
        calls = iter([0, 3])
        enc,its,_,opt = start(d)
        list(train(enc, its, breaks, opt, steps=9, every=9, stop=lambda step: step==2))
    with pytest.raises(FloatingPointError, match='got nan at step 0'): recorder(enc, d, lambda z,y: z.sum()*math.nan)(0)

def test_a_clock_that_stands_still(monkeypatch):
    monkeypatch.setattr(time, 'perf_counter', lambda: 7.)
    assert all(math.isnan(r['images_per_s']) for r in train(*start(small()), steps=2, every=1))

def test_speed_counts_rows_of_this_process(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(time, 'perf_counter', lambda: float(next(now)))
    recs = list(train(*start(small(), share=lambda ix: ix[:10]), steps=4, every=4))
    assert recs[-1]['images_per_s']==40 # four steps of ten rows, one tick of the clock

@pytest.mark.parametrize('kw, text', [(dict(steps=0), 'steps: expected a whole number >= 1, got 0'), (dict(every=0), 'every: expected'), (dict(start=-1), 'start: expected')])
def test_refused(kw, text):
    with pytest.raises(ValueError) as e: list(train(*start(small()), **kw))
    assert text in str(e.value)

def test_batches_that_end_are_an_error():
    enc,its,*rest = start(small())
    with pytest.raises(ValueError, match='batches: expected batches for all steps, or a loader that can be read again, got an end after 2'): list(train(enc, islice(its, 2), *rest, steps=5))
    assert len(list(train(enc, list(islice(its, 5)), *rest, steps=5, every=5)))==2 # a list will do

@pytest.mark.parametrize('form', [lambda x,y: (x, y), lambda x,y: {'image': x, 'label': y}, lambda x,y: (x.double().numpy(), y.numpy().astype('uint8')[:,None]), lambda x,y: [x, y.tolist()]])
def test_loaders_of_common_forms_are_one(form):
    "Pairs, dictionaries, arrays in double precision, labels as a column: the same weights, from a loader that ends and starts again."
    d, nets = small(), []
    for f in (lambda x,y: (x, y), form):
        torch.manual_seed(0); net = nn.Linear(8, 2)
        loader = [f(d.train_x[i:i+20], d.train_y[i:i+20]) for i in (0, 20)]
        assert [r['step'] for r in train(net, loader, HSCL(beta=1.), torch.optim.SGD(net.parameters(), .1), steps=5, every=5)]==[0, 5]
        nets.append(net.weight.detach())
    assert torch.equal(*nets)

def test_views_without_labels_are_positives_of_each_other():
    d, seen = small(), []
    net = nn.Linear(8, 2)
    def loss(z, y): seen.append(y.tolist()); return z.square().sum()
    list(train(net, [[d.train_x[:3], d.train_x[3:6]]], loss, torch.optim.SGD(net.parameters(), .1), steps=1))
    assert seen==[[0, 1, 2, 0, 1, 2]]

@pytest.mark.parametrize('bad, says', [(3, 'batches: expected a loader'), ([('a', 'b')], 'batches: expected pairs of inputs and labels, or a dictionary'), ([{'pic': 1}], 'got dict of pic'), ([torch.ones(4, 8)], 'batches: expected inputs and labels'), ([], 'got an end after 0')])
def test_what_is_no_loader(bad, says):
    net = nn.Linear(8, 2)
    with pytest.raises((ValueError, TypeError), match=says): list(train(net, bad, HSCL(beta=1.), torch.optim.SGD(net.parameters(), .1), steps=1))

@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_another_precision_trains_and_is_measured(kind):
    d = small(); net = make_encoder(8, 3, hidden=[16]).to(kind)
    recs = list(train(net, batches(d, 30), HSCL(beta=5.), torch.optim.SGD(net.parameters(), .1), steps=2, every=2, record=recorder(net, d, HSCL(beta=5.))))
    assert all(math.isfinite(r['loss']) for r in recs) and {p.dtype for p in net.parameters()}=={kind}

def test_the_learning_rate_is_left_alone_or_scaled():
    enc,its,loss,opt = start(small())
    seen = []
    list(train(enc, its, loss, opt, steps=3, stop=lambda step: seen.append(opt.param_groups[0]['lr'])))
    list(train(enc, its, loss, opt, steps=4, lr=schedule('fall', 4), stop=lambda step: seen.append(opt.param_groups[0]['lr'])))
    assert seen[:2]==[.1, .1] and seen[2:]==pytest.approx([.075, .05, .025])

@pytest.mark.parametrize('sizes, total, per_class', [([30, 30, 30], 1000, 30), ([30, 30, 30], 30, 10), ([5, 40, 40], 90, 5), ([1, 9, 9], 6, 2)])
def test_the_probe_is_balanced_and_always_the_same(sizes, total, per_class):
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(y), 4)
    d = Data('toy', x, y, x[:3], y[:3], len(sizes))
    ix = probe_subset(d, total)
    assert torch.bincount(y[ix], minlength=3).tolist()==[per_class if s>1 else 0 for s in sizes] and torch.equal(ix, probe_subset(d, total))

def test_a_probe_needs_pairs_and_every_class():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match='data: expected training samples of each of the 3 classes'): probe_subset(Data('t', x, torch.tensor([0, 0, 1, 1]), x, torch.tensor([2, 2, 2, 2]), 3))
    with pytest.raises(ValueError, match='a class with two training samples'): probe_subset(Data('t', x, torch.arange(4), x, torch.arange(4), 4))

def test_any_module_can_be_trained():
    "Without normalisation, without a recorder, in double precision."
    d = small(); net = nn.Linear(8, 2).double()
    d = Data('double', d.train_x.double(), d.train_y, d.test_x.double(), d.test_y, 3)
    before = net.weight.detach().clone()
    list(train(net, batches(d, 30), HSCL(beta=1.), torch.optim.SGD(net.parameters(), .1), steps=2))
    assert not torch.equal(net.weight, before)

@pytest.mark.parametrize('chunk', [1, 7, 64, 200, 1000])
@pytest.mark.parametrize('dropout', [0., .5])
def test_cached_gradients_are_those_of_the_whole_batch(chunk, dropout):
    "In float64; with dropout the whole batch is embedded in the same chunks, so that it draws the same."
    d, loss = small(), HSCL(beta=5.)
    x, y = d.train_x.double(), d.train_y
    def net():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 4)).double()
    a, b = net(), net()
    torch.manual_seed(5)
    want = loss(torch.cat([a(part) for part in x.split(chunk)]), y)
    after = torch.rand(2)
    want.backward()
    for p in b.parameters(): p.grad = torch.ones_like(p) # gradients are added
    torch.manual_seed(5)
    got = cached_backward(b, x, y, loss, chunk)
    assert torch.equal(torch.rand(2), after) and not got.requires_grad # as many random numbers as one pass draws
    torch.testing.assert_close(got, want.detach(), rtol=1e-12, atol=0)
    for p,q in zip(a.parameters(), b.parameters()): torch.testing.assert_close(q.grad-1, p.grad, rtol=1e-10, atol=1e-12)

def test_cached_backward_keeps_the_activations_of_one_chunk():
    "What a layer puts out is gone when the loss is taken, and on the way back it lives for one chunk at a time."
    d, seen, alive = small(), [], []
    enc = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    def note(m, args, out):
        seen.append(len(out)); alive.append(weakref.ref(out.untyped_storage()))
        assert sum(r() is not None for r in alive)==1
    enc[1].register_forward_hook(note)
    def loss(z, y):
        assert len(seen)==3 and not any(r() is not None for r in alive)
        return HSCL(beta=5.)(z, y)
    cached_backward(enc, d.train_x, d.train_y, loss, 25)
    assert sorted(seen[:3])==sorted(seen[3:])==[10, 25, 25]

def test_cached_backward_refuses_what_mixes_rows():
    d = small(); enc = make_encoder(8, 3, hidden=[16])
    with pytest.raises(ValueError, match='encoder: expected a network that treats each row by itself, got batch normalisation in training mode'):
        cached_backward(enc, d.train_x, d.train_y, HSCL(beta=5.), 10)
    assert math.isfinite(cached_backward(enc.eval(), d.train_x, d.train_y, HSCL(beta=5.), 10))
    with pytest.raises(ValueError, match='got batch normalisation'): cached_backward(nn.BatchNorm1d(8, track_running_stats=False).eval(), d.train_x, d.train_y, HSCL(beta=5.), 10)

@pytest.mark.parametrize('amp', [False, True])
def test_a_run_in_chunks_is_the_run(amp):
    "Without batch normalisation, to rounding; with autocast, whose weights in bfloat16 must not be those without a gradient."
    d, nets, seen = small(), [], []
    for chunk in (None, 20):
        torch.manual_seed(0); net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))
        net[0].register_forward_hook(lambda m,a,out: seen.append(len(out)))
        recs = list(train(Chunked(net, chunk) if chunk else net, batches(d, 50), HSCL(beta=2.), torch.optim.SGD(net.parameters(), .1), steps=5, every=5, amp=amp))
        nets.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert seen==[50]*5+[20, 20, 10, 10, 20, 20]*5 and recs[-1]['images_per_s']>0
    torch.manual_seed(0); first = torch.cat([p.detach().flatten() for p in nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)).parameters()])
    moved = (nets[0]-first).abs().max().item()
    assert moved>1e-3
    torch.testing.assert_close(*nets, rtol=0, atol=moved*2**-6 if amp else 1e-6) # sums of numbers of 8 bits, in another order

@pytest.mark.parametrize('validate', [True, False])
@pytest.mark.parametrize('supervised', [True, False])
def test_a_batch_without_a_pair_costs_nothing_and_is_counted(validate, supervised):
    "Whether the loss looks at its batch or not: weights stay, the record counts, a warning is said once, and good batches go on."
    d = small(); net = nn.Linear(8, 2)
    x, apart, good = d.train_x[:3], torch.arange(3), torch.tensor([0, 0, 1])
    its = iter([(x, apart)]*2+[(x, good)]+[(x, apart)]+[(x, torch.zeros(3, dtype=torch.int64))])
    loss_fn = (HSCL if supervised else HUCL)(beta=2., validate=validate)
    weights, opt = [], torch.optim.SGD(net.parameters(), .1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        recs = []
        for r in train(net, its, loss_fn, opt, steps=5, every=1): recs.append(r); weights.append(net.weight.detach().clone())
    moved = [not torch.equal(a, b) for a,b in zip(weights, weights[1:])]
    alone = not supervised # one class is enough without labels
    assert moved==[False, False, True, False, alone]
    if validate: assert loss_fn.empty==(3 if alone else 4)
    assert [r['empty'] for r in recs]==[0, 1, 1, 0, 1, int(supervised)]
    assert len([w for w in said if 'pair' in str(w.message)])==(2 if validate else 1) # the loss's own, and the loop's

def test_a_broken_loss_is_no_batch_without_a_pair():
    d = small(); net = nn.Linear(8, 2)
    its = [(d.train_x[:4], torch.tensor([0, 0, 1, 1]))]
    with pytest.raises(FloatingPointError, match='nan or inf at step 1'):
        list(train(net, its, lambda z, y: z.sum()*math.nan, torch.optim.SGD(net.parameters(), .1), steps=2))

def test_the_loop_is_short():
    "Its body after the docstring has at most twenty lines, and it takes at most thirteen things."
    lines = inspect.getsource(train).splitlines()
    assert len(inspect.signature(train).parameters)<=13
    assert len(lines)-1-max(i for i,l in enumerate(lines) if l.endswith('"""'))<=20

def test_a_scaler_changes_nothing():
    "The gradient of the loss is linear in what it is scaled by: the same step with and without a GradScaler, under autocast."
    d, nets = small(), []
    for scale in (1., 2.**16):
        torch.manual_seed(0); net = make_encoder(8, 3, hidden=[16])
        opt, scaler = torch.optim.SGD(net.parameters(), .1), torch.amp.GradScaler('cpu', init_scale=scale)
        for x,y in islice(batches(d, 50), 3):
            opt.zero_grad()
            with torch.autocast('cpu', torch.bfloat16): loss = HSCL(beta=5.)(net(x), y)
            assert loss.dtype==torch.float32
            scaler.scale(loss).backward(); scaler.step(opt); scaler.update()
        nets.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*nets, rtol=0, atol=1e-6)
