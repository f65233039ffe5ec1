"""Time and memory of one contrastive loss, forward and backward: plain form, tiled engine, and peers where installed.
Every cell runs in a fresh process, implementations take turns, and medians with min-max are written as JSON, CSV, Markdown and PNG.
Peers: pip install pytorch-metric-learning lightly"""
import argparse, csv, json, os, platform, resource, statistics, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

NAMES = dict(plain=None, tiled=None, pml_supcon='pytorch_metric_learning', lightly_ntxent='lightly')

def cell(name, n, dim, classes, beta, reps):
    "Median milliseconds and peak extra MB of one implementation at one size, in this process."
    import torch, torch.nn.functional as F
    z, y = F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(0)), dim=1), torch.arange(n)%classes
    if name=='floor': return dict(ms=floor(z, reps), mb=0.)
    if name in ('plain', 'tiled'):
        from hardcl_nb.losses import contrastive_loss
        f = lambda x, y=y: contrastive_loss(x, y, beta=beta, engine=name)
    elif name=='pml_supcon':
        from pytorch_metric_learning.losses import SupConLoss
        loss = SupConLoss(temperature=1.); f = lambda x, y=y: loss(x, y)
    else:
        from lightly.loss import NTXentLoss
        loss = NTXentLoss(temperature=1.); f = lambda x, y=None: loss(x[:len(x)//2], x[len(x)//2:])
    x = z[:256].clone().requires_grad_(); f(x, y[:256]).backward() # warm the libraries
    before, times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(reps):
        x = z.clone().requires_grad_(); t = time.perf_counter(); f(x, y).backward(); times.append(time.perf_counter()-t)
    return dict(ms=1e3*statistics.median(times), mb=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024)

def floor(z, reps):
    "Milliseconds of the three matrix products alone, in panels of 256 rows."
    import torch
    times = []
    for _ in range(reps+1):
        t = time.perf_counter(); d = torch.zeros_like(z)
        for x in z.split(256): s = x@z.T; s@z; d.addmm_(s.T, x)
        times.append(time.perf_counter()-t)
    return 1e3*statistics.median(times[1:])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='runs/bench', help='folder for the results')
    p.add_argument('--sizes', default='512,2048,8192'); p.add_argument('--rounds', type=int, default=3); p.add_argument('--threads', type=int, default=2)
    p.add_argument('--plain-up-to', type=int, default=8192, help='largest size for implementations that hold n x n')
    p.add_argument('--quick', action='store_true', help='one round at 128 and 256'); p.add_argument('--cell', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.cell: name, n = a.cell.split(','); print(json.dumps(cell(name, int(n), 128, 100, 5., 7 if int(n)<=2048 else 1))); return
    sizes, rounds = ([128, 256], 1) if a.quick else ([int(n) for n in a.sizes.split(',')], a.rounds)
    names, res = [k for k,m in NAMES.items() if m is None or find_spec(m)]+['floor'], {}
    env = {**os.environ, 'OMP_NUM_THREADS': str(a.threads), 'MKL_NUM_THREADS': str(a.threads)}
    for r in range(rounds):
        for n in sizes:
            for name in names:
                if n>a.plain_up_to and name not in ('tiled', 'floor'): continue
                o = subprocess.run([sys.executable, __file__, '--cell', f'{name},{n}'], env=env, capture_output=True, text=True)
                if o.returncode: print(f'{name} at {n}: {(o.stderr.strip() or "killed").splitlines()[-1]}', file=sys.stderr); continue
                res.setdefault((name, n), []).append(json.loads(o.stdout))
    write(Path(a.out), res, sizes, names, a.threads, rounds)

def write(out, res, sizes, names, threads, rounds):
    "Result files, and the Markdown table on standard output."
    import torch
    out.mkdir(parents=True, exist_ok=True); rows = []
    for (name, n), cells in res.items():
        ms = [c['ms'] for c in cells]
        rows.append(dict(name=name, n=n, rounds=len(ms), ms=round(statistics.median(ms), 2), ms_min=round(min(ms), 2), ms_max=round(max(ms), 2), mb=round(statistics.median(c['mb'] for c in cells), 1)))
    ms = {(r['name'], r['n']): r['ms'] for r in rows}
    info = dict(machine=f'{os.cpu_count()} CPU cores', threads=threads, torch=torch.__version__, python=platform.python_version(), seed=0, dim=128, classes=100, beta=5, rounds=rounds)
    (out/'losses.json').write_text(json.dumps(dict(**info, rows=rows), indent=1)+'\n')
    with open(out/'losses.csv', 'w', newline='') as f: w = csv.DictWriter(f, rows[0]); w.writeheader(); w.writerows(rows)
    lines = ['| implementation | n | ms (min–max) | extra MB | plain / this |', '|:--|--:|--:|--:|--:|']
    for r in sorted(rows, key=lambda r: (r['n'], r['name'])):
        ratio = f"{ms['plain', r['n']]/r['ms']:.2f}" if ('plain', r['n']) in ms else ''
        lines.append(f"| {r['name']} | {r['n']} | {r['ms']:.1f} ({r['ms_min']:.1f}–{r['ms_max']:.1f}) | {r['mb']:.0f} | {ratio} |")
    (out/'losses.md').write_text('\n'.join(lines)+'\n'); print('\n'.join(lines))
    import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt
    fig, axs = plt.subplots(1, 2, figsize=(8, 3.2), layout='constrained')
    for name in names:
        pts = sorted((r['n'], r['ms'], max(r['mb'], .1)) for r in rows if r['name']==name)
        if pts:
            axs[0].loglog([p[0] for p in pts], [p[1] for p in pts], '--' if name=='floor' else 'o-', label=name)
            if name!='floor': axs[1].loglog([p[0] for p in pts], [p[2] for p in pts], 'o-')
    axs[0].set(xlabel='batch size n', ylabel='time (ms)'); axs[1].set(xlabel='batch size n', ylabel='extra memory (MB)'); axs[0].legend(); fig.savefig(out/'losses.png', dpi=120)

if __name__=='__main__': main()
