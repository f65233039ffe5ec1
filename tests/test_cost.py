"The cost model over random machines and sizes, against the distributed program itself, and bad input."
import json, math
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.losses.cost import Machine, _arithmetic, _nonnegative, cost, fit_machine, plan, rank_memory
from hardcl_nb.losses.distributed import simulate_ranks

results = Path(__file__).parent.parent/'nbs/results'
rate = lambda lo, hi: st.floats(math.log(lo), math.log(hi)).map(math.exp)
machines = st.builds(Machine, flops=rate(1e9, 1e15), pairs=rate(1e7, 1e12), columns=rate(1e6, 1e11), start=st.floats(0, .01),
    bandwidth=rate(1e6, 1e12), latency=st.floats(0, 1e-3), memory=rate(1e6, 1e12))
sizes = dict(n=st.integers(2, 10**7), d=st.integers(1, 4096), ranks=st.integers(1, 4096))

@given(m=machines, ring=st.booleans(), **sizes)
def test_terms_are_there_and_add_up(m, ring, n, d, ranks):
    c = cost(n, d, ranks, m, ring=ring)
    parts = c.products, c.passes, c.columns, c.traffic, c.latency
    assert all(p>=0 for p in parts) and math.isclose(c.time, sum(parts), rel_tol=1e-12)
    assert math.isclose(c.products+c.passes+c.columns, sum(_arithmetic(n, d, ranks, m, 3)), rel_tol=1e-12)
    if ranks==1: assert c.traffic==c.latency==c.received==0

@given(m=machines, ring=st.booleans(), **sizes)
def test_a_faster_machine_is_never_slower(m, ring, n, d, ranks):
    t = cost(n, d, ranks, m, ring=ring).time
    for k in ('flops', 'pairs', 'columns', 'bandwidth'): assert cost(n, d, ranks, replace(m, **{k: 3*getattr(m, k)}), ring=ring).time<=t*(1+1e-12)
    for k in ('start', 'latency'): assert cost(n, d, ranks, replace(m, **{k: getattr(m, k)/3}), ring=ring).time<=t*(1+1e-12)

@given(m=machines, **sizes)
def test_the_ring_saves_memory_and_no_time(m, n, d, ranks):
    gather, ring = (cost(n, d, ranks, m, ring=r) for r in (False, True))
    assert ring.time>=gather.time*(1-1e-9)
    if ranks>2 and n>=10*ranks: assert ring.memory<gather.memory
    best = plan(n, d, ranks, m)
    assert best.fits==(gather.fits or ring.fits) and (not gather.fits or best.time<=gather.time)
    assert best.fits or best.bottleneck.startswith('memory: ')

@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_nonnegative_least_squares_meets_the_conditions_of_an_optimum(seed):
    g = np.random.default_rng(seed); X,t = g.normal(size=(12, 4)), g.normal(size=12)
    c = _nonnegative(X, t); slope = X.T@(X@c-t)
    assert (c>=0).all() and (slope>=-1e-9).all() and np.allclose(slope*c, 0, atol=1e-9)

@settings(deadline=None)
@given(m=machines, scale=st.floats(.01, 100))
def test_slower_times_make_a_slower_machine(m, scale):
    rows = [dict(n=n, d=d, cpu=sum(_arithmetic(n, d, 1, m, 3))) for n in (512, 2048, 8192) for d in (16, 64, 256)]
    try: a = fit_machine(rows)
    except ValueError: return # rates too far apart to be told from these times
    b = fit_machine([dict(r, cpu=scale*r['cpu']) for r in rows])
    assert math.isclose(a.flops/b.flops, scale, rel_tol=1e-5) and math.isclose(a.pairs/b.pairs, scale, rel_tol=1e-4)

@pytest.mark.parametrize('ring', [False, True])
@pytest.mark.parametrize('ranks', [2, 3, 6])
def test_received_bytes_are_those_of_the_program(ring, ranks):
    "The model leaves out messages whose size does not grow with the rows."
    z,y = torch.randn(1200, 64), torch.arange(1200)%9
    for moved in simulate_ranks(z.chunk(ranks), y.chunk(ranks), ring=ring).received:
        here = cost(1200, 64, ranks, Machine(1., 1.), ring=ring).received
        assert 0<=sum(moved.values())-here<=(ranks-1)*(8*67+100)

def test_half_precision_halves_what_travels():
    a,b = (cost(10**6, 128, 64, Machine(1., 1.), itemsize=k).received-63/64*10**6*56 for k in (2, 4))
    assert math.isclose(2*a, b)

@pytest.mark.parametrize('name', ['30_distributed', '32_cost'])
def test_stored_measurements_are_complete(name):
    r = json.loads((results/f'{name}.json').read_text())
    assert all(row['s_min']<=row['s']<=row['s_max'] and row['cpu']>0 and row['tensors']>0 for row in r['rows'])
    if name=='32_cost':
        fit,held = ({(x['n'], x['d']) for x in r['rows'] if x['held']==h} for h in (False, True))
        assert len(fit)>=16 and len(held)>=3 and not fit&held and max(n for n,_ in held)>max(n for n,_ in fit)
    else: assert {(x['name'], x['ranks']) for x in r['rows']}>={('gather', 1), ('gather', 2), ('ring', 2), ('gather', 4), ('ring', 4), ('tiled', 1), ('products', 1)}

good = Machine(1e11, 1e9)
@pytest.mark.parametrize('call, err, msg', [
    (lambda: Machine('fast', 1.), TypeError, "flops: expected a number > 0, got 'fast'"),
    (lambda: Machine(1., -1.), ValueError, 'pairs: expected a finite number > 0, got -1.0'),
    (lambda: Machine(1., 1., bandwidth=0.), ValueError, 'bandwidth: expected a finite number > 0, got 0.0'),
    (lambda: Machine(1., 1., start=math.nan), ValueError, 'start: expected a finite number >= 0, got nan'),
    (lambda: cost(0, 1, 1, good), ValueError, 'n: expected a whole number >= 1, got 0'),
    (lambda: cost(10, 1.5, 1, good), TypeError, 'd: expected a whole number >= 1, got 1.5'),
    (lambda: cost(10, 1, 0, good), ValueError, 'ranks: expected a whole number >= 1, got 0'),
    (lambda: rank_memory(10, 1, chunk=0), ValueError, 'chunk: expected a whole number >= 1, got 0'),
    (lambda: plan(10, 1, 1, None), TypeError, 'machine: expected a Machine, got NoneType'),
    (lambda: fit_machine([dict(n=10, d=k, cpu=0.) for k in range(5)]), ValueError, 'rows: cpu: expected a finite number > 0, got 0.0')])
def test_bad_input_is_named(call, err, msg):
    with pytest.raises(err) as e: call()
    assert str(e.value).startswith(msg)
