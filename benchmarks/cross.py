"""Time and memory of two towers' loss, forward and backward: strips, and PyTorch's cross entropy of the whole product.

CLIP's setting: one positive each, the sum over negatives, temperature .07, d = 128, float32. Every cell runs in a fresh
process, implementations take turns; medians and peaks of extra memory are printed and, with --store, written as JSON.
`floor` is the time of three matrix products alone, in panels of 512 rows."""
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
        d = torch.zeros_like(w)
        for k in range(0, n, 512):
            s = x[k:k+512]@w.T
            s@w
            d.addmm_(s.T, x[k:k+512])
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
    return dict(name=name, n=n, ms=statistics.median(times), least=min(times), mb=peak()-before)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, nargs='*', default=[2048, 8192, 16384])
    p.add_argument('--repeat', type=int, default=3)
    p.add_argument('--store', type=Path, help='a JSON file to write')
    p.add_argument('--cell', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.cell:
        print(json.dumps(cell(args.cell[0], int(args.cell[1]), args.repeat)))
        return
    rows = []
    for n in args.n:
        for name in ('floor_rows', 'strips_rows', 'plain_rows', 'strips_both', 'plain_both'):
            cmd = [sys.executable, __file__, '--cell', name, str(n), '--repeat', str(args.repeat)]
            out = subprocess.run(cmd, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(out))
            print('{name:12} n = {n:6} {ms:9.1f} ms {mb:8.0f} MB'.format(**rows[-1]), flush=True)
    if not args.store: return
    import torch
    about = dict(torch=torch.__version__, threads=torch.get_num_threads(), machine=platform.machine(), cores=os.cpu_count())
    args.store.write_text(json.dumps(about|dict(rows=rows), indent=1)+'\n')

if __name__=='__main__': main()
