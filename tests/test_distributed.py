"The loss of the whole batch between real gloo processes, and in the simulated world: values, gradients, memory."
import gc, math, weakref
from datetime import timedelta
import pytest, torch
from torch import distributed as dist, multiprocessing as mp, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from hypothesis import given, settings, strategies as st
from hardcl_nb.checks import Refused, RefusedType
from hardcl_nb.losses import distributed, sweeps
from hardcl_nb.losses.distributed import DistributedLoss, distributed_loss, simulate_ranks
from hardcl_nb.losses.contrastive import HSCL, HUCL, contrastive_loss
from hardcl_nb.losses.exact import LossOptions, class_sizes

sizes = {2: (11, 6), 4: (7, 2, 9, 4)}
cases = [dict(beta=b, supervised=sup, detach=det, ring=ring, chunk=c, tau=tau, **kw) for b,sup,det,ring,c,tau,kw in [
    (0., True, True, False, 1024, 1., {}), (5., True, True, True, 4, .5, {}),
    (5., True, False, False, 3, .3, dict(alpha=0.)),
    (2., False, True, True, 1024, .2, dict(q='sum')), (5., False, False, True, 2, 1., dict(alpha=.7, q=3.)),
    (30., True, False, None, 5, .05, {})]]

def batch(world, dtype=torch.float64):
    "Embeddings and labels of the whole; in the world of 4 nobody has rank 1's labels."
    g = torch.Generator().manual_seed(world); n = sum(sizes[world])
    y = torch.arange(n)%4
    if world==4: y[7:9] = torch.tensor([50, 51])
    return torch.randn(n, 6, generator=g, dtype=torch.float64).to(dtype), y

def net():
    g = torch.Generator().manual_seed(9)
    m = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    for p in m.parameters(): p.data = torch.randn(p.shape, generator=g, dtype=p.dtype)/2
    return m

def bad_calls(rank, world, z, y):
    "Calls that the last rank, or all, get wrong, by name."
    last, odd = rank==world-1, torch.arange(len(y))+100*rank
    return dict(
        columns=lambda: distributed_loss(z[:,:5] if last else z, y),
        dtype=lambda: distributed_loss(z.float() if last else z, y),
        beta=lambda: distributed_loss(z, y, beta=1.+last),
        ring=lambda: distributed_loss(z, y, ring=bool(last)),
        number=lambda: distributed_loss(z, y, beta=-1. if last else 0.),
        nan=lambda: distributed_loss(z*math.nan if last else z, y),
        kind=lambda: distributed_loss(None if last else z, y),
        labels=lambda: distributed_loss(z, y[1:] if last else y),
        weights=lambda: distributed_loss(z, y, weight=torch.ones(len(y)) if last else None),
        negative=lambda: distributed_loss(z, y, weight=torch.full((len(y),), -1. if last else 1.)),
        short=lambda: distributed_loss(z, y, weight=torch.ones(len(y)-last)),
        pairs=lambda: distributed_loss(z, odd),
        negatives=lambda: distributed_loss(z, 0*y),
        empty=lambda: distributed_loss(z[:0], y[:0]),
        inside=lambda: torch.func.grad(lambda x: distributed_loss(x, y))(z) if last else distributed_loss(z, y),
        prior=lambda: spoilt(last)(z, y))

def spoilt(last):
    "A loss that gets an option, on one rank only, that ranks cannot share."
    loss = DistributedLoss(HSCL(beta=1.))
    if last: loss.loss.tau_plus = .1
    return loss

def refused(call):
    try: call()
    except Exception as e:
        return next(c.__name__ for c in type(e).__mro__ if c.__module__=='builtins'), str(e) # what it is caught as

def job(rank, world, z, y):
    "Everything that one process tries; returns what it saw."
    r = dict(cases=[])
    for kw in cases:
        h = z.clone().requires_grad_()
        loss = distributed_loss(h, y, combine='sum', **kw); loss.backward()
        r['cases'].append((loss.detach(), h.grad))
    model = DistributedDataParallel(net()); criterion = DistributedLoss(HUCL(beta=3., tau=.5), ring=True)
    r['ddp'] = [(l := criterion(model(z), y)).detach()]; l.backward()
    r['ddp'] += [p.grad for p in model.module.parameters()]
    m = net(); distributed_loss(m(z), y, beta=2., combine='sum').backward()
    for p in m.parameters(): dist.all_reduce(p.grad)
    r['sum'] = [p.grad for p in m.parameters()]
    h = z.clone().requires_grad_()
    loss = distributed_loss(h, y, beta=2., weight=1.*torch.arange(len(y))*(rank!=1), combine='sum', ring=True)
    loss.backward()
    r['weighted'] = loss.detach(), h.grad
    h = z.clone().requires_grad_(rank==0) # one rank alone wants a gradient
    loss = distributed_loss(h, y, combine='sum')
    r['one'] = loss.requires_grad, torch.autograd.grad(loss, h)[0] if rank==0 else None
    r['half'] = distributed_loss(z.bfloat16(), y, beta=2., ring=True)
    none = rank==world-1 # a rank without samples
    h = (z[:0] if none else z).clone().requires_grad_()
    loss = distributed_loss(h, y[:0] if none else y, beta=2., combine='sum', ring=True); loss.backward()
    r['nobody'] = loss.detach(), h.grad
    if world==4: # two groups at once
        groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
        r['group'] = distributed_loss(z, torch.arange(len(y))%2, group=groups[rank%2], ring=True)
        r['stranger'] = refused(lambda: distributed_loss(z, y, group=groups[1-rank%2]))
    r['bad'] = {}
    for k,call in bad_calls(rank, world, z, y).items():
        r['bad'][k] = refused(call)
        assert distributed_loss(z, y)==r['cases'][0][0] # nobody is a message behind
    return r

def process(rank, path):
    "A world of four; then two of them go on in a world of two."
    torch.set_num_threads(1)
    for world in (4, 2) if rank<2 else (4,):
        dist.init_process_group('gloo', init_method=f'file://{path}/store{world}', rank=rank, world_size=world,
            timeout=timedelta(seconds=25))
        z,y = batch(world)
        r = job(rank, world, z.split(sizes[world])[rank], y.split(sizes[world])[rank])
        torch.save(r, f'{path}/{world}_{rank}.pt')
        gc.collect() # DDP holds the group in a cycle; left to the end of the interpreter, it may abort the process
        dist.destroy_process_group()

@pytest.fixture(autouse=True)
def one_thread():
    "Threads that wait for each other make tiles of 32 rows slow where cores are few."
    n = torch.get_num_threads()
    torch.set_num_threads(1); yield; torch.set_num_threads(n)

@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    path = tmp_path_factory.mktemp('ranks')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('OMP_NUM_THREADS', '1')
        mp.spawn(process, (str(path),), nprocs=4)
    return path

@pytest.fixture(params=[2, 4])
def run(request, ranks):
    "What each of 2 or 4 real processes saw."
    return request.param, [torch.load(ranks/f'{request.param}_{r}.pt', weights_only=False)
        for r in range(request.param)]

def whole(world, keep=None, **kw):
    "Loss and gradient in a single process."
    z,y = batch(world); z,y = z[:keep].requires_grad_(), y[:keep]
    loss = contrastive_loss(z, y, **kw)
    return loss.detach(), torch.autograd.grad(loss, z)[0]

def close(a, b): assert (a-b).norm()<=1e-12*b.norm()

@pytest.mark.parametrize('i', range(len(cases)))
def test_real_processes_have_the_loss_and_gradient_of_the_whole(run, i):
    world,seen = run
    loss,grad = whole(world, **{k: v for k,v in cases[i].items() if k not in ('ring', 'chunk')})
    assert len({s['cases'][i][0].item() for s in seen})==1 # to the last bit
    assert_close(seen[0]['cases'][i][0], loss, rtol=1e-12, atol=0)
    close(torch.cat([s['cases'][i][1] for s in seen]), grad)

def test_parameter_gradients_are_those_of_a_single_process(run):
    world,seen = run
    z,y = batch(world)
    for name,kw in (('ddp', dict(beta=3., tau=.5, supervised=False)), ('sum', dict(beta=2.))):
        m = net(); loss = contrastive_loss(m(z), y, **kw); loss.backward()
        for s in seen:
            if name=='ddp': assert_close(s['ddp'][0], loss.detach(), rtol=1e-12, atol=0)
            for a,p in zip(s[name][name=='ddp':], m.parameters(), strict=True): close(a, p.grad)

def test_weighted_anchors_of_which_one_rank_has_none(run):
    world,seen = run
    z,y = batch(world); z.requires_grad_()
    w = torch.cat([1.*torch.arange(n)*(r!=1) for r,n in enumerate(sizes[world])])
    rows = contrastive_loss(z, y, beta=2., reduction='none'); has = rows.isfinite()
    loss = (rows*w)[has].sum()/w[has].sum()
    for s in seen: assert_close(s['weighted'][0], loss.detach(), rtol=1e-12, atol=0)
    close(torch.cat([s['weighted'][1] for s in seen]), torch.autograd.grad(loss, z)[0])

def test_one_rank_may_want_a_gradient_alone(run):
    world,seen = run
    assert [s['one'][0] for s in seen]==[True]+[False]*(world-1)
    close(seen[0]['one'][1], whole(world)[1][:sizes[world][0]])

def test_a_rank_without_samples_and_half_precision(run):
    world,seen = run
    loss,grad = whole(world, keep=sum(sizes[world][:-1]), beta=2.)
    for s in seen: assert_close(s['nobody'][0], loss, rtol=1e-12, atol=0)
    close(torch.cat([s['nobody'][1] for s in seen]), grad)
    z,y = batch(world, torch.bfloat16)
    assert {s['half'].item() for s in seen}=={seen[0]['half'].item()}
    assert_close(seen[0]['half'], contrastive_loss(z, y, beta=2.), rtol=1e-6, atol=0)

def test_groups_are_worlds_of_their_own(run):
    world,seen = run
    if world==2: return
    z = batch(4)[0].split(sizes[4])
    for a in (0, 1):
        want = contrastive_loss(torch.cat([z[a], z[a+2]]), torch.cat([torch.arange(len(z[k]))%2 for k in (a, a+2)]))
        for r in (a, a+2): assert_close(seen[r]['group'], want, rtol=1e-12, atol=0)
    assert all(s['stranger'][1].startswith('group: expected a process group that it belongs to') for s in seen)

@pytest.mark.parametrize('name, kind, text', [
    ('columns', 'ValueError',
        'z: expected the same number of columns on every rank, got 6 on {most}; 5 on rank {last}'),
    ('dtype', 'ValueError',
        'z: expected the same dtype on every rank, got torch.float64 on {most}; torch.float32 on rank {last}'),
    ('beta', 'ValueError', 'beta: expected the same beta on every rank, got 1.0 on {most}; 2.0 on rank {last}'),
    ('ring', 'ValueError', 'ring: expected the same ring on every rank, got False on {most}; True on rank {last}'),
    ('number', 'ValueError', 'beta: expected a finite number >= 0, got -1.0 (on rank {last})'),
    ('nan', 'ValueError', 'z: expected finite embeddings, got {n} of {n} rows with NaN or inf (on rank {last})'),
    ('kind', 'TypeError', 'z: expected a torch tensor of shape (n, d), got NoneType (on rank {last})'),
    ('labels', 'ValueError', 'y: expected {n} labels, one for each row of z, got shape ({m},) (on rank {last})'),
    ('weights', 'ValueError',
        'weight: expected the same choice on every rank, got no weights on {most}; weights on rank {last}'),
    ('negative', 'ValueError', 'weight: expected finite weights >= 0, got others (on rank {last})'),
    ('short', 'ValueError', 'weight: expected {n} weights on cpu, got shape ({m},) on cpu (on rank {last})'),
    ('pairs', 'ValueError',
        'y: expected a label that occurs twice (else there is no positive pair), got {N} labels, all different'),
    ('negatives', 'ValueError',
        'y: expected at least two labels (else there is no negative for supervised=True), got {N} labels, all equal'),
    ('empty', 'ValueError', 'z: expected at least 2 rows, got 0 row(s) on all ranks together'),
    ('inside', 'RuntimeError',
        "z: expected a call outside of them, got a torch.func transform or forward differentiation (on rank {last})"),
    ('prior', 'ValueError',
        'tau_plus: expected 0 (negatives are not debiased across processes), got 0.1 (on rank {last})')])
def test_all_ranks_refuse_in_the_same_words(run, name, kind, text):
    world,seen = run
    n = sizes[world]
    text = text.format(most='rank 0' if world==2 else 'ranks 0, 1, 2', last=world-1, n=n[-1], m=n[-1]-1, N=sum(n))
    assert [s['bad'][name] for s in seen]==[(kind, text)]*world

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 20), max_size=5), st.booleans(), st.booleans(), st.booleans(),
       st.floats(0, 60), st.sampled_from([.05, 1., 30.]), st.integers(1, 25), st.booleans())
def test_any_cut_equals_the_whole(seed, cuts, supervised, detach, ring, beta, tau, chunk, weighted):
    "Whether one constant serves all rows (large tau) or not, weighted or not."
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(20, 4, generator=g, dtype=torch.float64)
    y = torch.cat([torch.tensor([0,0,1,1]), torch.randint(6, (16,), generator=g)])
    y = y[torch.randperm(20, generator=g)]
    edges = sorted([0, 20, *cuts]); n = [b-a for a,b in zip(edges, edges[1:])]
    kw = dict(beta=beta, supervised=supervised, detach=detach, tau=tau)
    w = torch.rand(20, generator=g, dtype=torch.float64)+.01 if weighted else torch.ones(20)
    sim = simulate_ranks(z.split(n), y.split(n), w.split(n) if weighted else None, combine='sum', ring=ring,
        chunk=chunk, **kw)
    h = z.clone().requires_grad_(); rows = contrastive_loss(h, y, reduction='none', **kw); has = rows.isfinite()
    loss = (rows*w)[has].sum()/w[has].sum(); loss.backward()
    assert_close(sim.loss[0], loss.detach(), rtol=1e-11, atol=1e-13)
    assert (torch.cat(sim.grad)-h.grad).norm()<=1e-10*h.grad.norm()+1e-13

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 60), st.booleans(), st.booleans(), st.sampled_from([.05, 1., 30.]))
def test_one_constant_for_all_rows_bounds_them_all(seed, beta, supervised, near, tau):
    "No similarity exceeds the upper bound, and every row has a negative above the lower one."
    g = torch.Generator().manual_seed(seed)
    z,y = torch.randn(15, 3, generator=g, dtype=torch.float64)+3*near, torch.arange(15)%4
    o, c, size = LossOptions(beta=beta, supervised=supervised, tau=tau), z.mean(0), class_sizes(y)
    f = sweeps._frame([sweeps._bounds(z, c, tau, 100)], c, size, o, 100)
    x = next(sweeps._pieces(z, 0, sweeps.Shares(0, [15], [y], size), f)).x
    s = (x[:,:-1]@x[:,:-1].T-x[:,-1:]*x[:,-1])/(1+beta)
    largest = s.masked_fill(y[:,None]==y if supervised else torch.eye(15, dtype=torch.bool), -math.inf).amax(1)
    gap, t = s-z@z.T/tau, ((z-c).square().sum(1)/tau+2*(z-c)@c/tau).amax()
    half, tol = t-f.C, 1e-11*(1+s.abs().max()) # C is in the middle between the bounds
    assert gap.max()-gap.min()<=tol and s.max()<=half+tol and largest.min()>=-half-tol

@pytest.mark.parametrize('dtype, tol', [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_a_narrow_cone_in_low_precision(dtype, tol):
    "All embeddings within .05 of one direction of length 3: uncentred similarities would lose the digits."
    g = torch.Generator().manual_seed(0); y = torch.arange(60)%7
    z = (3*torch.eye(16)[0]+.05*torch.randn(60, 16, generator=g)).to(dtype)
    for beta,tau in ((0., .1), (30., .1), (300., 1.)):
        h = z.double().requires_grad_(); loss = contrastive_loss(h, y, beta=beta, tau=tau); loss.backward()
        sim = simulate_ranks(z.split(25), y.split(25), beta=beta, tau=tau, combine='sum', chunk=16)
        assert abs(sim.loss[0]/loss-1)<1e-6 and (torch.cat(sim.grad).double()-h.grad).norm()<=tol*h.grad.norm()

@pytest.mark.parametrize('kw', [dict(y=torch.arange(6)), dict(y=torch.zeros(6, dtype=torch.long)),
    dict(z=torch.full((6, 3), math.nan))])
def test_without_validation_the_loss_is_nan_not_a_number_made_up(kw):
    z,y = kw.get('z', torch.eye(6, 3)), kw.get('y', torch.arange(6)%2)
    sim = simulate_ranks(z.split(4), y.split(4), validate=False)
    assert sim.loss[0].isnan() and all(g.isnan().all() for g in sim.grad)

z0, y0 = torch.eye(6, 3), torch.arange(6)%2
@pytest.mark.parametrize('kw, err, msg', [
    (dict(chunk=0), ValueError, 'chunk: expected a whole number >= 1, got 0'),
    (dict(chunk=2.), TypeError, 'chunk: expected a whole number >= 1, got 2.0'),
    (dict(ring='yes'), ValueError, "ring: expected one of None, True, False, got 'yes'"),
    (dict(combine='max'), ValueError, "combine: expected one of mean, sum, got 'max'"),
    (dict(tau_plus=.1), TypeError, 'options: expected options of distributed_loss: beta, supervised, detach, alpha, q, '
        'tau, raw, combine, ring, chunk, validate, got tau_plus'),
    (dict(tau=0.), ValueError, 'tau: expected a finite number > 0'),
    (dict(reduction='mean'), TypeError, 'options: expected options of distributed_loss'),
    (dict(zs=[z0[:3], z0[3:].long()]), TypeError,
    'z: expected floating-point embeddings of 16, 32 or 64 bits, got dtype torch.int64 (on rank 1)'),
    (dict(zs=[z0[0], z0[3:]]), ValueError, 'z: expected a tensor of shape (n, d), got shape (3,) (on rank 0)'),
    (dict(ys=[y0]), ValueError, 'ys: expected one label vector per rank, got 1 tensors for 2 ranks'),
    (dict(zs=[], ys=[]), ValueError, 'ys: expected one label vector per rank')])
def test_bad_input_is_named(kw, err, msg):
    with pytest.raises(err) as e: simulate_ranks(**{'zs': z0.split(3), 'ys': y0.split(3), **kw})
    assert msg in str(e.value)

def test_alone_the_message_names_no_rank():
    with pytest.raises(ValueError) as e: distributed_loss(z0, y0, beta=-1.)
    assert str(e.value)=='beta: expected a finite number >= 0, got -1.0'
    with pytest.raises(TypeError, match='loss: expected a ContrastiveLoss'): DistributedLoss(contrastive_loss)
    with pytest.raises(ValueError, match='tau_plus: expected 0'): DistributedLoss(HSCL(1., tau_plus=.1))

def test_large_batches_choose_the_ring(monkeypatch):
    ops = lambda: set(simulate_ranks(z0.split(3), y0.split(3)).received[0])
    assert ops()=={'gather'}
    monkeypatch.setattr(distributed, 'gather_limit', z0.nbytes-1)
    assert ops()=={'gather', 'shift'}

class Peak(TorchDispatchMode):
    "The largest number of bytes in tensors made since, at any time."
    def __init__(self): super().__init__(); self.now,self.top,self.live = 0, 0, set()
    def drop(self, key, n): self.live.discard(key); self.now -= n
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if not isinstance(t, torch.Tensor): continue
            s = t.untyped_storage(); key,n = s._cdata, s.nbytes()
            if key in self.live: continue
            self.live.add(key); self.now += n; self.top = max(self.top, self.now)
            weakref.finalize(s, self.drop, key, n)
        return out

def peak(ring, ranks, n, d, chunk):
    "Peak memory of rank 0: what it hears is recorded in a simulated world, then played to it alone."
    z,y = torch.nn.functional.normalize(torch.randn(ranks*n, d, generator=torch.Generator().manual_seed(0)),
        dim=1), torch.arange(ranks*n)%10
    o, how = LossOptions(beta=2.), distributed._How(ring=ring, chunk=chunk)
    programs = [distributed._rank(a, b, r, o, how, True) for r,(a,b) in enumerate(zip(z.split(n), y.split(n)))]
    record, first = [], programs[0]
    class Tap:
        def send(self, heard): record.append(heard() if callable(heard) else heard); return first.send(heard)
    with torch.no_grad(): sweeps.in_step([Tap(), *programs[1:]])
    p, meter = distributed._rank(z[:n].clone(), y[:n].clone(), 0, o, how, True), Peak()
    with torch.no_grad(), meter:
        said = p.send(None)
        for old in record[1:]:
            if said[0]=='shift': # it is received while the block is used
                new = old.clone()
                heard = lambda x=new: x
                del new
            else: heard = [x.clone() for x in old]
            try: said = p.send(heard)
            except StopIteration: pass
            del heard
    return meter.top

def test_memory_per_rank_is_what_the_formula_says():
    n,d,chunk = 64, 512, 32
    row, tiles = n*d*4, 4*chunk*(12*chunk+5*d)
    for ranks in (3, 10):
        N = ranks*n
        # operand, gradient with the centre and without; numbers and labels with their sorting
        extra = 3*row+N*(6*8+8*8)+tiles
        # the own rows sorted, the block in use, the one arriving
        assert 3*row<=peak(True, ranks, n, d, chunk)<=3*row+extra
        assert N*d*4+row<=peak(False, ranks, n, d, chunk)<=N*d*4+row+extra

@pytest.mark.parametrize('kw', [dict(), dict(beta=5., tau=.5, supervised=False), dict(beta=30., tau=.5, detach=False),
    dict(beta=5., tau=.1)])
def test_float32_where_digits_are_few(kw):
    g = torch.Generator().manual_seed(0); y = torch.arange(64)%8
    u = torch.nn.functional.normalize(torch.randn(64, 16, generator=g), dim=1); far = u.clone(); far[0] *= 1e4
    for z in (u, torch.nn.functional.normalize(.05*u+1, dim=1), torch.nn.functional.normalize(.005*u+1, dim=1), 30*u,
        far):
        x = z.double().requires_grad_(); ref = contrastive_loss(x, y, engine='plain', **kw)
        d, = torch.autograd.grad(ref, x)
        got = simulate_ranks([z[:20], z[20:]], [y[:20], y[20:]], combine='sum', **kw)
        assert all(abs(l.double()-ref)<=1e-6*ref for l in got.loss)
        assert (torch.cat(got.grad).double()-d).norm()<=1e-6*d.norm()

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('kw', [dict(beta=b, supervised=sup, detach=det) for b in (1e-300, 1e-46, 1e-44, 1e-38, 1e-30)
    for sup,det in ((True, True), (False, False))], ids=str)
def test_hardness_below_every_precision(kw, dtype):
    "In float32 such a β is 0 or nearly so, and 0·(−∞) is NaN."
    g = torch.Generator().manual_seed(0)
    z,y = torch.nn.functional.normalize(torch.randn(20, 5, generator=g, dtype=dtype), dim=1), torch.arange(20)%4
    x = z.double().requires_grad_(); ref = contrastive_loss(x, y, **{**kw, 'beta': 0.})
    d, = torch.autograd.grad(ref, x)
    got = simulate_ranks(z.split(8), y.split(8), combine='sum', **kw)
    assert abs(got.loss[1].double()-ref)<=1e-6*ref and (torch.cat(got.grad).double()-d).norm()<=1e-6*d.norm()

@pytest.mark.parametrize('chunk', [10**6, 2**63, 10**30])
def test_a_chunk_larger_than_any_batch(chunk):
    z,y = batch(2)
    sim = simulate_ranks(z.split(5), y.split(5), chunk=chunk, combine='sum')
    close(torch.cat(sim.grad), whole(2)[1])

def test_differentiable_once_and_nowhere_else():
    z,y = batch(2); z.requires_grad_()
    g, = torch.autograd.grad(distributed_loss(z, y)**2, z, create_graph=True)
    with pytest.raises(RuntimeError, match='engine: expected .* got distributed_loss'): g.sum().backward()
    dual = torch.autograd.forward_ad
    for call in (lambda: torch.func.grad(lambda z: distributed_loss(z, y))(z),
        lambda: torch.func.vmap(lambda z: distributed_loss(z, y))(z[None]),
        lambda: torch.func.jacrev(lambda z: distributed_loss(z, y))(z)):
        with pytest.raises(RuntimeError) as e: call()
        assert str(e.value).startswith('z: expected a call outside of them') and '\n' not in str(e.value)
    with dual.dual_level(), pytest.raises(RuntimeError, match='z: expected a call outside'):
        distributed_loss(dual.make_dual(z.detach(), z.detach()), y)

def test_module_attributes_are_read_at_every_call():
    z,y = batch(2); loss = DistributedLoss(HSCL(beta=1., tau=.5), chunk=7)
    assert (loss.combine, loss.ring, loss.chunk, loss.group, loss.loss.beta)==('mean', None, 7, None, 1.)
    loss.loss.beta, loss.ring, loss.chunk = 3., True, 5
    assert_close(loss(z, y), contrastive_loss(z, y, beta=3., tau=.5), rtol=1e-12, atol=0)
    assert_close(loss(z, y, beta=0.), contrastive_loss(z, y, tau=.5), rtol=1e-12, atol=0)
    assert_close(loss(z, y, torch.ones(len(y))), loss(z, y), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match='beta: expected a finite number >= 0'): loss(z, y, beta=-1.)
    with pytest.raises(ValueError, match='chunk: expected a whole number >= 1, got 0'):
        DistributedLoss(HSCL(1.), chunk=0)
