import numpy as np, pytest, torch
from torch import distributed as dist, multiprocessing as mp
from hypothesis import given, settings, strategies as st
from hardcl_nb.measures.collapse import collapse_report
from hardcl_nb.measures.meter import CollapseMeter

C,D = 5, 6

def data(n, seed, shift=0.):
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(C).repeat(2), torch.randint(C, (n,), generator=g)])
    centres = torch.randn(C, D, generator=g, dtype=torch.float64)
    return centres[y]+.2*torch.randn(len(y), D, generator=g, dtype=torch.float64)+shift, y

def assert_same(got, want):
    "Field by field to 1e-10, but for the two that a stream cannot have."
    for k,w in want.as_dict().items():
        g = getattr(got, k)
        if k in ('within_class', 'uniformity'): assert g is None
        elif k=='absent': continue
        else: assert g==(pytest.approx(w, rel=1e-10, abs=1e-12) if isinstance(w, (float, tuple)) else w), k

@settings(max_examples=30, deadline=None)
@given(st.integers(20, 120), st.integers(0, 10**6), st.lists(st.integers(0, 120), max_size=8), st.sampled_from([0., 10.]))
def test_any_cut_equals_the_batch(n, seed, cuts, shift):
    z,y = data(n, seed, shift)
    meter, edges = CollapseMeter(C, D), sorted({0, len(z), *(c for c in cuts if c<len(z))})
    for a,b in zip(edges, edges[1:]): meter.update(z[a:b], y[a:b])
    assert_same(meter.compute(), collapse_report(z, y, C))

@settings(max_examples=15, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 10**6))
def test_order_of_merging_is_free(order, seed):
    z,y = data(60, seed)
    parts = []
    for i in order:
        m = CollapseMeter(C, D); m.update(z[i::6], y[i::6]); parts.append(m)
    total = CollapseMeter(C, D)
    for m in parts: total.merge(m)
    total.merge(CollapseMeter(C, D)) # an empty one
    assert_same(total.compute(), collapse_report(z, y, C))

def test_far_from_the_origin_and_collapsed():
    "Spread 2e-3 at distance 1e3: textbook sums of squares would leave few digits for the variances."
    z,y = data(300, 0)
    z = 1e3+2e-3*z
    meter = CollapseMeter(C, D)
    for part in torch.arange(len(z)).split(7): meter.update(z[part], y[part])
    got,want = meter.compute(), collapse_report(z, y, C)
    for k in ('within_class_rms', 'alignment', 'nc1'): assert getattr(got, k)==pytest.approx(getattr(want, k), rel=1e-7), k

def test_half_precision_and_numpy():
    z,y = data(50, 1)
    meter = CollapseMeter(C, D); meter.update(z.half().numpy(), y.numpy())
    assert_same(meter.compute(), collapse_report(z.half(), y, C))

def split(rank):
    "Unequal parts: rank 0 has few samples and none of the classes 3 and 4."
    z,y = data(200, 2)
    mine = (y<3) & (torch.arange(len(y))%3==0)
    return z[mine if rank==0 else ~mine], y[mine if rank==0 else ~mine]

def process(rank, where, out):
    "One of two: update with unequal batches, compute twice (with a batch in between), and again after a reset with nothing on rank 0."
    dist.init_process_group('gloo', init_method=f'file://{where}', rank=rank, world_size=2)
    z,y = split(rank)
    meter, size, reports = CollapseMeter(C, D), (5, 32)[rank], []
    for part in torch.arange(len(z)).split(size): meter.update(z[part], y[part])
    reports += [meter.compute(), meter.compute()]
    meter.reset()
    if rank==1: meter.update(z, y)
    reports.append(meter.compute())
    meter.reset()
    if rank==0: meter.update(z, y) # classes 3 and 4 seen by nobody: an error on both, if all are asked for
    try: meter.compute(complete=True)
    except ValueError as e: reports.append(str(e))
    reports.append(meter.compute()) # else the report of what there is, on both
    torch.save(reports, f'{out}{rank}.pt')
    dist.destroy_process_group()

def test_two_processes(tmp_path):
    out = str(tmp_path/'rank')
    mp.spawn(process, args=(str(tmp_path/'store'), out), nprocs=2)
    a,b = (torch.load(f'{out}{r}.pt', weights_only=False) for r in (0, 1))
    assert a==b
    z,y = data(200, 2)
    assert set(split(0)[1].tolist())=={0, 1, 2} and len(split(0)[1])!=len(split(1)[1])
    for r in a[:2]: assert_same(r, collapse_report(z, y, C))
    assert_same(a[2], collapse_report(*split(1), C))
    assert 'no sample of class 3, 4' in a[3]
    assert_same(a[4], collapse_report(*split(0)))
    assert a[4].absent==(3, 4) and a[4].classes==(0, 1, 2) and a[0].absent==()

@pytest.mark.parametrize('args,err,msg', [
    ((0, 3), ValueError, 'num_classes: expected a whole number >= 2, got 0'), ((5, 0), ValueError, 'dim: expected a whole number >= 1'),
    ((5., 3), TypeError, 'num_classes'), ((5, 3, 'mps'), ValueError, 'device: expected a device with float64'),
])
def test_bad_meter(args, err, msg):
    with pytest.raises(err) as e: CollapseMeter(*args)
    assert msg in str(e.value)

@pytest.mark.parametrize('z,y,err,msg', [
    (torch.ones(4, 3), torch.arange(4), ValueError, 'z: expected 6 columns'), (torch.ones(4, D), torch.arange(4)-1, ValueError, 'y: expected labels 0 to 4, got labels -1 to 2'),
    (torch.ones(4, D), torch.arange(3), ValueError, 'y: expected 4 labels'), (torch.ones(0, D), torch.arange(1), ValueError, 'z: expected at least 1 row'),
    (torch.ones(0, 3), torch.arange(0), ValueError, 'z: expected 6 columns'), (torch.ones(0), torch.arange(0), ValueError, 'z: expected a tensor of shape (n, d)'),
    (torch.ones(4, D), torch.ones(4), TypeError, 'y: expected integer labels'), (None, torch.arange(4), TypeError, 'z: expected a torch tensor'),
])
def test_bad_update(z, y, err, msg):
    meter = CollapseMeter(C, D)
    with pytest.raises(err) as e: meter.update(z, y)
    assert msg in str(e.value) and meter.counts.sum()==0

def test_nothing_seen():
    with pytest.raises(ValueError, match='no sample of class 0, 1, 2, 3, 4'): CollapseMeter(C, D).compute()

@pytest.mark.parametrize('none', [(torch.ones(0, D), torch.arange(0)), (np.ones((0, D), np.float32), np.arange(0)), (torch.ones(0, D).half(), torch.arange(0).int())])
def test_an_update_without_rows_changes_nothing(none):
    z,y = data(50, 3)
    meter = CollapseMeter(C, D); meter.update(*none)
    assert meter.counts.sum()==0
    meter.update(z, y)
    before = meter.compute()
    meter.update(*none)
    assert meter.compute()==before

@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, C-1), min_size=2), st.integers(0, 10**6))
def test_part_of_the_classes_is_the_batch_report_on_them(seen, seed):
    z,y = data(60, seed)
    keep = torch.tensor([int(c) in seen for c in y])
    meter = CollapseMeter(C, D)
    for part in torch.arange(len(z))[keep].split(7): meter.update(z[part], y[part])
    got = meter.compute()
    assert_same(got, collapse_report(z[keep], y[keep]))
    assert got.absent==tuple(sorted(set(range(C))-seen)) and got.num_classes==len(seen)
    if len(seen)<C:
        with pytest.raises(ValueError, match='expected samples of all 5 classes, got no sample of class'): meter.compute(complete=True)
    else: assert meter.compute(complete=True)==got

def test_one_class_is_no_report():
    z,y = data(50, 3)
    meter = CollapseMeter(C, D); meter.update(z[y==2], y[y==2])
    with pytest.raises(ValueError, match='samples of at least 2 classes, got no sample of class 0, 1, 3, 4'): meter.compute()
