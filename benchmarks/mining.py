"""Time and memory of mining: the ten hardest wrong answers of each of n queries among n answers, exact, with a margin.

d = 384, float32, unit rows in which each answer is near its query. Every size runs in a fresh process; the least of the
repeats and the peak of extra memory are printed and, with --store, written as JSON. `floor` is the time of the products
alone, in the same strips."""
import argparse, json, os, platform, resource, subprocess, sys, time
from pathlib import Path

def job(name, n, dim=384, top=10):
    "What is timed."
    import torch
    import torch.nn.functional as F
    from hardcl_nb.training.mining import mine_negatives
    g = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(n, dim, generator=g))
    b = F.normalize(a+torch.randn(n, dim, generator=g)/dim**.5)
    def floor():
        high = max(1, 2**23//n)
        for i in range(0, n, high): a[i:i+high]@b.T
    return floor if name=='floor' else lambda: mine_negatives(a, b, top, margin=.05)

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)/1e6

def cell(name, n, repeat):
    "Least seconds, and MB beyond imports and both towers, of one implementation at one size in this process."
    job(name, 2000)() # imports and first calls
    f = job(name, n)
    before, times = peak(), []
    for _ in range(repeat):
        t = time.perf_counter()
        f()
        times.append(time.perf_counter()-t)
    return dict(name=name, n=n, seconds=min(times), mb=peak()-before)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, nargs='*', default=[10_000, 40_000])
    p.add_argument('--repeat', type=int, default=1)
    p.add_argument('--store', type=Path, help='a JSON file to write')
    p.add_argument('--cell', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.cell:
        print(json.dumps(cell(args.cell[0], int(args.cell[1]), args.repeat)))
        return
    rows = []
    for n in args.n:
        for name in ('floor', 'mine'):
            cmd = [sys.executable, __file__, '--cell', name, str(n), '--repeat', str(args.repeat)]
            rows.append(json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout))
            print('{name:6} n = {n:6} {seconds:8.2f} s {mb:8.0f} MB'.format(**rows[-1]), flush=True)
    if not args.store: return
    import torch
    about = dict(torch=torch.__version__, threads=torch.get_num_threads(), machine=platform.machine(), cores=os.cpu_count())
    args.store.write_text(json.dumps(about|dict(rows=rows), indent=1)+'\n')

if __name__=='__main__': main()
