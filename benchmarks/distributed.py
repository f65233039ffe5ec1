"""What the exact loss costs per rank: one batch on 1, 2, 4 gloo processes, gathered and round the ring; and (--cost)
one rank at many sizes.

    python benchmarks/distributed.py [--n 8192] [--d 512] [--ranks 1,2,4] [--rounds 3] [--out runs/bench]
    python benchmarks/distributed.py --cost [--rounds 3]
    python benchmarks/distributed.py --quick          a minute's check of both, at small sizes
    python benchmarks/distributed.py --store          write nbs/results/30_distributed.json (with --cost: 32_cost.json),
                                                      which the notebooks read

Every cell runs in fresh processes of one thread each, contestants taking turns; medians over rounds. A rank's extra
memory is how far its largest resident size (ru_maxrss) rises over that after a warm-up on a small batch; MB of tensors:
what is alive at most in one more call. `products` are the three matrix products alone, `tiled` is
contrastive_loss(engine='tiled').
Results: distributed.json and distributed.md (cost.json and cost.md) in --out.
"""
import argparse, gc, json, os, platform, resource, statistics, subprocess, sys, tempfile, time
from pathlib import Path

results = Path(__file__).resolve().parent.parent/'nbs'/'results'
FIT = [(n, d) for n in (1024, 2048, 4096, 8192) for d in (32, 64, 128, 256)]
HELD = [(16384, 128), (12288, 192), (8192, 96), (4096, 192), (3072, 48)] # not used for fitting

def batch(n, d):
    "Unit rows and 100 labels, the same everywhere."
    import torch, torch.nn.functional as F
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(0)), dim=1), torch.arange(n)%100

def products(z):
    "The three matrix products of a loss with its gradient, in panels of 256 rows."
    import torch
    g = torch.zeros_like(z)
    for x in z.split(256): s = x@z.T; s@z; g.addmm_(s.T, x)

def contestant(name, n, d):
    "A call to be measured, on this process's rows."
    from torch import distributed as dist
    from hardcl_nb.losses.distributed import distributed_loss
    from hardcl_nb.losses.contrastive import contrastive_loss
    z, y = batch(n, d)
    if dist.is_initialized():
        r, R = dist.get_rank(), dist.get_world_size(); z, y = z.chunk(R)[r].clone(), y.chunk(R)[r].clone()
    def run():
        x = z.clone().requires_grad_()
        if name=='tiled': contrastive_loss(x, y, beta=5., engine='tiled').backward()
        else: distributed_loss(x, y, beta=5., ring=name=='ring', chunk=512).backward()
    return (lambda: products(z)) if name=='products' else run

def count(heard):
    "Note the bytes that arrive from other ranks."
    from hardcl_nb.losses import distributed as m
    gather, shift = m._gather, m._shift
    def g(x, n, group):
        out = gather(x, n, group); heard.append((len(out)-1)*max(t.nbytes for t in out)); return out
    def s(x, n, group): heard.append(x[:1].nbytes*n if len(x) else 0); return shift(x, n, group)
    m._gather, m._shift = g, s

def tensors(run):
    "The largest number of bytes in tensors made by a call, at any time."
    import weakref, torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    class Meter(TorchDispatchMode):
        now = top = 0
        live = set()
        def drop(self, key, n): self.live.discard(key); self.now -= n
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for t in tree_leaves(out):
                if not isinstance(t, torch.Tensor): continue
                s = t.untyped_storage(); key, n = s._cdata, s.nbytes()
                if key in self.live: continue
                self.live.add(key); self.now += n; self.top = max(self.top, self.now)
                weakref.finalize(s, self.drop, key, n)
            return out
    with Meter() as meter: run()
    return meter.top

def cell(name, n, d, rank, ranks, reps, store):
    "What one rank sees: seconds, seconds of its processor, extra MB, bytes received."
    import torch
    from torch import distributed as dist
    torch.set_num_threads(1)
    if ranks>1: dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=ranks)
    contestant(name, 512, d)()
    run, times, heard = contestant(name, n, d), [], []
    count(heard)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(reps):
        if ranks>1: dist.barrier()
        heard.clear(); gc.collect(); t, c = time.perf_counter(), time.process_time(); run()
        times.append((time.perf_counter()-t, time.process_time()-c))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before
    s, cpu = (statistics.median(t) for t in zip(*times))
    received = sum(heard)
    made = tensors(run)
    if ranks>1: dist.destroy_process_group()
    return dict(s=s, cpu=cpu, mb=peak*(1 if sys.platform=='darwin' else 1024)/1e6, tensors=made/1e6, received=received)

def start(name, n, d, ranks, reps):
    "Run one cell in fresh processes; the slowest rank's time, the mean of the rest."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    with tempfile.TemporaryDirectory() as tmp:
        ps = [subprocess.Popen([sys.executable, __file__, '--cell', f'{name},{n},{d},{r},{ranks},{reps},{tmp}/store'],
            env=env, stdout=subprocess.PIPE, text=True) for r in range(ranks)]
        out = [p.communicate()[0] for p in ps]
    if any(p.returncode for p in ps): sys.exit(f'{name} at n = {n}, {ranks} rank(s) failed')
    seen = [json.loads(o) for o in out]
    return {k: (max if k in ('s', 'mb', 'tensors', 'received') else statistics.mean)(r[k] for r in seen)
        for k in seen[0]}

def measure(cells, rounds, reps):
    "Median of every cell over rounds, cells taking turns."
    got = {c: [] for c in cells}
    for k in range(rounds):
        for c in cells:
            got[c].append(start(*c, reps))
            print(f'round {k+1}: {c}', {k: round(v, 4) for k,v in got[c][-1].items()}, file=sys.stderr, flush=True)
    rows = []
    for (name, n, d, ranks), seen in got.items():
        med = {k: statistics.median(r[k] for r in seen) for k in seen[0]}
        rows.append(dict(name=name, n=n, d=d, ranks=ranks, s=float(f"{med['s']:.4g}"),
            s_min=float(f"{min(r['s'] for r in seen):.4g}"), s_max=float(f"{max(r['s'] for r in seen):.4g}"),
            cpu=float(f"{med['cpu']:.4g}"), mb=round(med['mb'], 1), tensors=round(med['tensors'], 2),
            received=int(med['received'])))
    return rows

def write(rows, head, name, out, store):
    "JSON and a Markdown table."
    import torch
    head = dict(machine=f'{os.cpu_count()} CPU cores', threads=1, torch=torch.__version__.split('+')[0],
        python=platform.python_version(), seed=0, beta=5, chunk=512, **head)
    text = json.dumps(dict(**head, rows=rows), indent=1)+'\n'
    lines = ['| | N | d | ranks | s (min–max) | processor s a rank | extra MB | MB of tensors | MB received |',
        '|:--|--:|--:|--:|--:|--:|--:|--:|--:|']
    for r in rows:
        size, seconds = f"{r['n']} | {r['d']} | {r['ranks']}", f"{r['s']:.3f} ({r['s_min']:.3f}–{r['s_max']:.3f})"
        memory = f"{r['mb']:.1f} | {r['tensors']:.1f} | {r['received']/1e6:.2f}"
        lines.append(f"| {r['name']} | {size} | {seconds} | {r['cpu']:.3f} | {memory} |")
    out.mkdir(parents=True, exist_ok=True)
    (out/f'{name}.json').write_text(text); (out/f'{name}.md').write_text('\n'.join(lines)+'\n'); print('\n'.join(lines))
    if store: (results/f"{dict(distributed='30', cost='32')[name]}_{name}.json").write_text(text)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=int, default=8192); p.add_argument('--d', type=int, default=512)
    p.add_argument('--ranks', default='1,2,4')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--reps', type=int, default=3, help='calls in a process; their median counts')
    p.add_argument('--out', type=Path, default=Path('runs/bench'))
    p.add_argument('--cost', action='store_true', help='one rank at many sizes')
    p.add_argument('--store', action='store_true', help='store the result for the notebooks')
    p.add_argument('--quick', action='store_true', help='one round of both at small sizes')
    p.add_argument('--cell', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.cell:
        name, *k, store = a.cell.split(','); n, d, rank, ranks, reps = map(int, k)
        print(json.dumps(cell(name, n, d, rank, ranks, reps, store))); return
    if a.quick: a.n, a.d, a.ranks, a.rounds, a.reps, a.store = 1024, 64, '1,2', 1, 1, False
    ranks = [int(r) for r in a.ranks.split(',')]
    if not a.cost:
        cells = [('products', a.n, a.d, 1), ('tiled', a.n, a.d, 1), *((m, a.n, a.d, r) for r in ranks
            for m in ('gather', 'ring') if m=='gather' or r>1)]
        write(measure(cells, a.rounds, a.reps), dict(n=a.n, d=a.d, rounds=a.rounds), 'distributed', a.out, a.store)
    if a.cost or a.quick:
        sizes = [(512, 32), (1024, 64)] if a.quick else FIT+HELD
        rows = measure([(m, n, d, 1) for n,d in sizes for m in ('gather', 'tiled')], a.rounds, a.reps)
        write([dict(r, held=(r['n'], r['d']) in HELD) for r in rows], dict(rounds=a.rounds), 'cost', a.out, a.store)

if __name__=='__main__': main()
