"""Time and memory of a ranking loss with hard negatives, forward and backward, against sentence-transformers' own where it is installed.

    python benchmarks/ranking.py [--sizes 2048,8192] [--threads 2] [--cpu] [--out FILE.json]

Anchors and positives of 384 dimensions, tau = .05, hardness 9 in the batch. Every cell runs in a fresh process, the contestants take turns, minima over
rounds. `--cpu` measures the processor's time instead of the clock's, with one thread: for machines that others use too. `products` are the three matrix products alone, in strips, in float32. Peer: pip install 'hardcl_nb[frameworks]'."""
import argparse, json, os, resource, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

DIM, TAU, STRENGTH = 384, .05, 9.

def call(name):
    "A function of anchors and positives, forward and backward."
    import torch
    kw = dict(hardness_mode='in_batch_negatives', hardness_strength=STRENGTH)
    if name=='sentence_transformers':
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        loss = MultipleNegativesRankingLoss(None, 1/TAU, **kw)
    elif name=='hardcl_nb':
        from hardcl_nb import HardNegativeRankingLoss
        loss = HardNegativeRankingLoss(None, 1/TAU, **kw)
    if name!='products': return lambda a, b: torch.autograd.grad(loss.compute_loss_from_embeddings([a, b], None), (a, b))
    def products(a, b):
        x, y, d = a.detach(), b.detach(), torch.zeros_like(b)
        for k in range(0, len(x), 128):
            s = x[k:k+128]@y.T
            s@y
            d.addmm_(s.T, x[k:k+128])
    return products

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)

def cell(name, n, clock):
    "Least milliseconds and peak extra MB of one contestant in this process."
    import torch
    g, f = torch.Generator().manual_seed(0), call(name)
    a, b = (torch.nn.functional.normalize(torch.randn(n, DIM, generator=g), dim=1).requires_grad_() for _ in range(2))
    f(*(x.detach()[:64].requires_grad_() for x in (a, b)))
    try: Path('/proc/self/clear_refs').write_text('5') # Linux: forget the peak of the imports
    except OSError: pass
    base, times = peak(), []
    for _ in range(9 if n<=2048 else 3):
        t = clock()
        f(a, b)
        times.append(clock()-t)
    return dict(ms=round(1e3*min(times), 1), mb=round((peak()-base)/2**20, 1), torch=torch.__version__)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', default='2048,8192'); p.add_argument('--threads', type=int, default=2); p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--cpu', action='store_true'); p.add_argument('--names')
    p.add_argument('--out'); p.add_argument('--cell', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.cell: name,n = a.cell.split(','); print(json.dumps(cell(name, int(n), time.process_time if a.cpu else time.perf_counter))); return
    names = ['hardcl_nb', 'products', *(['sentence_transformers'] if find_spec('sentence_transformers') else [])]
    if a.names: names = [k for k in a.names.split(',') if k in names]
    if a.cpu: a.threads = 1
    env, out = {**os.environ, 'OMP_NUM_THREADS': str(a.threads), 'MKL_NUM_THREADS': str(a.threads), 'HF_HUB_OFFLINE': '1'}, []
    for n in map(int, a.sizes.split(',')):
        best = {}
        for _ in range(a.rounds):
            for name in names:
                r = json.loads(subprocess.run([sys.executable, __file__, '--cell', f'{name},{n}', *['--cpu']*a.cpu], env=env, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
                if name not in best or r['ms']<best[name]['ms']: best[name] = r
        for name,r in best.items():
            print(f"n = {n:6,} {name:22} {r['ms']:9.1f} ms {r['mb']:8.1f} MB {r['ms']/best['hardcl_nb']['ms']:6.2f} x ours")
            out.append(dict(name=name, n=n, **r))
    if a.out: Path(a.out).write_text(json.dumps(dict(dim=DIM, tau=TAU, strength=STRENGTH, threads=a.threads, clock='cpu' if a.cpu else 'wall', rows=out), indent=1)+'\n')

if __name__=='__main__': main()
