"""Time and memory of two towers' loss, forward and backward: strips, and PyTorch's cross entropy of the whole product.

CLIP's setting: one positive each, the sum over negatives, temperature .07, d = 128, float32. Every cell runs in a fresh
process, implementations take turns in every round; medians and peaks of extra memory over all rounds are printed and,
with --store, written as JSON. `floor` is the time of three matrix products alone (rows) or four (both), in tiles of
512 x 1024."""
import argparse, json, os, platform, resource, statistics, subprocess, sys, time
from pathlib import Path

def job(name, n, dim=128, tau=.07):
    "What is timed."
    import torch
    import torch.nn.functional as F
    from hardcl_nb import cross_loss
    g = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(n, dim, generator=g), dim=1).requires_grad_() for _ in range(2))
    which, side = name.split('_')
    ids = torch.arange(n)
    def floor():
        x, w = a.detach(), b.detach()
        dx, dw, s = torch.zeros_like(x), torch.zeros_like(w), x.new_empty(min(n, 512), min(n, 1024))
        for i in range(0, n, 512):
            for j in range(0, n, 1024):
                for _ in range(1+(side=='both')): torch.mm(x[i:i+512], w[j:j+1024].T, out=s)
                dx[i:i+512].addmm_(s, w[j:j+1024])
                dw[j:j+1024].addmm_(s.T, x[i:i+512])
    def strips(): cross_loss(a, None, b, None, q='sum', tau=tau, sides='both' if side=='both' else 'rows').backward()
    def plain():
        s = a@b.T/tau
        l = F.cross_entropy(s, ids)
        if side=='both': l = (l+F.cross_entropy(s.T, ids))/2
        l.backward()
    return dict(floor=floor, strips=strips, plain=plain)[which]

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)/1e6

def cell(name, n, repeat):
    "Milliseconds, and MB beyond what importing took, of one implementation at one size in this process."
    f = job(name, n)
    job(name, 256)() # imports and first calls
    before, times = peak(), []
    for _ in range(repeat):
        t = time.perf_counter()
        f()
        times.append(1e3*(time.perf_counter()-t))
    return dict(times=times, mb=peak()-before)

def measured(n, rounds, repeat):
    "All implementations at one size, one after the other in each round."
    names = [f'{f}_{side}' for side in ('rows', 'both') for f in ('floor', 'strips', 'plain')]
    seen = {name: dict(times=[], mb=0.) for name in names}
    for name in names*rounds:
        cmd = [sys.executable, __file__, '--cell', name, str(n), '--repeat', str(repeat)]
        out = json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout)
        seen[name] = dict(times=seen[name]['times']+out['times'], mb=max(seen[name]['mb'], out['mb']))
    return [dict(name=k, n=n, ms=statistics.median(v['times']), least=min(v['times']), mb=v['mb'])
        for k,v in seen.items()]

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, nargs='*', default=[2048, 8192, 16384])
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--repeat', type=int, default=3, help='calls in each process')
    p.add_argument('--store', type=Path, help='a JSON file to write')
    p.add_argument('--cell', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.cell:
        print(json.dumps(cell(args.cell[0], int(args.cell[1]), args.repeat)))
        return
    rows = []
    for n in args.n:
        for row in measured(n, args.rounds, args.repeat):
            print('{name:12} n = {n:6} {ms:9.1f} ms {mb:8.0f} MB'.format(**row), flush=True)
            rows.append(row)
    if not args.store: return
    import torch
    about = dict(torch=torch.__version__, threads=torch.get_num_threads(), machine=platform.machine(), cores=os.cpu_count(),
        rounds=args.rounds, repeat=args.repeat)
    args.store.write_text(json.dumps(about|dict(rows=rows), indent=1)+'\n')

if __name__=='__main__': main()
