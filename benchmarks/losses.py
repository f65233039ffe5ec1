"""Time and memory of one contrastive loss, forward and backward: plain form, tiled engine, and peers where installed.

Every cell runs in a fresh process, implementations take turns, and medians with min-max are written as JSON, CSV, Markdown and PNG.
`floor` is the time of the loss's three matrix products alone, in panels of the best height.
Peers: pip install 'hardcl_nb[bench]'. On a GPU: --device cuda, which adds the kernel, in float32 and bfloat16."""
import argparse, csv, json, math, os, platform, resource, statistics, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

NAMES = dict(plain=None, tiled=None, pml_supcon='pytorch_metric_learning', lightly_ntxent='lightly', floor=None)
GPU = dict(kernel=None, kernel_bf16=None, floor_bf16=None)
PEERS = [k for k,m in NAMES.items() if m]
LINEAR = ('tiled', 'floor', *GPU) # the others hold n x n numbers
DIM, CLASSES, BETA = 128, 100, 5.

def loss_of(name):
    "The loss as a function of embeddings and labels."
    if name in ('plain', 'tiled', 'kernel'):
        from hardcl_nb.losses.contrastive import contrastive_loss
        return lambda x, y: contrastive_loss(x, y, beta=BETA, engine=name)
    if name=='pml_supcon':
        from pytorch_metric_learning.losses import SupConLoss
        return SupConLoss(temperature=1.)
    from lightly.loss import NTXentLoss
    loss = NTXentLoss(temperature=1.)
    return lambda x, y: loss(x[:len(x)//2], x[len(x)//2:])

def products(z, rows, upto=None):
    "The three products of every panel of `rows` rows, in buffers made once; a function."
    import torch
    n = upto or len(z)
    s, a, d = z.new_empty(min(rows, n), len(z)), torch.empty_like(z), torch.zeros_like(z)
    def run():
        for b in range(0, n, rows):
            x = z[b:min(b+rows, n)]; t = torch.mm(x, z.T, out=s[:len(x)])
            torch.mm(t, z, out=a[b:b+len(x)]); d.addmm_(t.T, x)
    return run

class Meter:
    "Milliseconds of calls and peak extra MB since `start`, on a CPU or a GPU."
    def __init__(self, device):
        import torch
        self.cuda = torch.cuda if device=='cuda' else None
    def time(self, f):
        if not self.cuda: t = time.perf_counter(); f(); return 1e3*(time.perf_counter()-t)
        a,b = (self.cuda.Event(enable_timing=True) for _ in range(2))
        a.record(); f(); b.record(); self.cuda.synchronize()
        return a.elapsed_time(b)
    def start(self):
        if self.cuda: self.cuda.synchronize(); self.cuda.reset_peak_memory_stats(); self.base = self.cuda.memory_allocated(); return
        try: Path('/proc/self/clear_refs').write_text('5') # Linux: forget the peak of the imports
        except OSError: pass
        self.base = self.peak()
    def peak(self): return self.cuda.max_memory_allocated() if self.cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)
    def mb(self): return (self.peak()-self.base)/2**20

def cell(name, n, device):
    "Median milliseconds and peak extra MB of one implementation at one size, in this process; memory includes the gradient."
    import torch, torch.nn.functional as F
    name, half = name.removesuffix('_bf16'), name.endswith('_bf16')
    z = F.normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(0)), dim=1).to(device, torch.bfloat16 if half else torch.float32)
    y, meter = (torch.arange(n)%CLASSES).to(device), Meter(device)
    reps = 20 if device=='cuda' else 7 if n<=2048 else 3 if n<=8192 else 1
    if name=='floor':
        trial = lambda r: min(meter.time(products(z, r, min(n, 4*r))) for _ in range(3))/min(n, 4*r)
        rows = min([r for r in ((512, 1024, 2048, 4096) if device=='cuda' else (64, 128, 256, 512)) if r<=n] or [n], key=trial)
        f, mb = products(z, rows), 0.
    else:
        loss = loss_of(name)
        z.requires_grad_()
        def f(): z.grad = None; loss(z, y).backward()
        small = z.detach()[:256].clone().requires_grad_(); loss(small, y[:256]).backward() # libraries start up, kernels compile
        meter.start(); f(); mb = meter.mb()
    if n<=32768 or device=='cuda': meter.time(f)
    return dict(ms=statistics.median(meter.time(f) for _ in range(reps)), mb=mb, torch=torch.__version__, gpu=torch.cuda.get_device_name() if device=='cuda' else None)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='runs/bench', help='folder for the results')
    p.add_argument('--json', help='a second place for the JSON file')
    p.add_argument('--sizes', default='512,2048,4096,8192,16384,32768,65536')
    p.add_argument('--rounds', type=int, default=3, help='rounds up to 32768; larger sizes get one'); p.add_argument('--threads', type=int, default=2)
    p.add_argument('--plain-up-to', type=int, default=8192, help='largest size for implementations that hold n x n')
    p.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    p.add_argument('--quick', action='store_true', help='one round at 128 and 256'); p.add_argument('--cell', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.cell: name,n = a.cell.split(','); print(json.dumps(cell(name, int(n), a.device))); return
    sizes, rounds = ([128, 256], 1) if a.quick else ([int(n) for n in a.sizes.split(',')], a.rounds)
    names = [k for k,m in {**NAMES, **(GPU if a.device=='cuda' else {})}.items() if m is None or find_spec(m)]
    env, res = {**os.environ, 'OMP_NUM_THREADS': str(a.threads), 'MKL_NUM_THREADS': str(a.threads)}, {}
    for r in range(rounds):
        for n in sizes:
            if n>32768 and r: continue
            for name in names:
                if n>a.plain_up_to and name not in LINEAR: continue
                o = subprocess.run([sys.executable, __file__, '--cell', f'{name},{n}', '--device', a.device], env=env, capture_output=True, text=True)
                if o.returncode: print(f'{name} at {n}: {(o.stderr.strip() or "killed").splitlines()[-1]}', file=sys.stderr); continue
                res.setdefault((name, n), []).append(json.loads(o.stdout.splitlines()[-1]))
        if not res: sys.exit('nothing could be measured')
        last = write(Path(a.out), a.json, res, names, a.threads, r+1, a.device) # after every round: a run that is cut short leaves what it has
    print(last)

def summary(rows):
    "Ratios of times at each size, and growth exponents between 4096 and 32768."
    ms, mb = ({(r['name'], r['n']): r[k] for r in rows} for k in ('ms', 'mb'))
    ratio = lambda d, a, b: round(d[a]/d[b], 3) if a in d and d.get(b) else None
    out = dict(ratios=[], growth={})
    for n in sorted({n for _,n in ms}):
        peer = min(((ms[p,n], p) for p in PEERS if (p,n) in ms), default=(0, None))[1]
        r = dict(n=n, plain_tiled=ratio(ms, ('plain',n), ('tiled',n)), peer=peer, peer_tiled=ratio(ms, (peer,n), ('tiled',n)), tiled_floor=ratio(ms, ('tiled',n), ('floor',n)),
            plain_tiled_mb=ratio(mb, ('plain',n), ('tiled',n)), peer_tiled_mb=ratio(mb, (peer,n), ('tiled',n)))
        if ('kernel', n) in ms: r.update(tiled_kernel=ratio(ms, ('tiled',n), ('kernel',n)), peer_kernel=ratio(ms, (peer,n), ('kernel',n)), kernel_floor=ratio(ms, ('kernel',n), ('floor',n)),
            kernel_bf16_floor=ratio(ms, ('kernel_bf16',n), ('floor_bf16',n)))
        out['ratios'].append(r)
    for name in ('tiled', 'floor', 'kernel', 'kernel_bf16'):
        exponent = lambda d: round(math.log(d[name,32768]/d[name,4096])/math.log(8), 3) if d.get((name,4096)) and d.get((name,32768)) else None
        if exponent(ms) is not None: out['growth'][name] = dict(time=exponent(ms), memory=exponent(mb))
    return out

def table(rows, s):
    "The measurements and the ratios as two Markdown tables."
    out = ['| implementation | n | ms (min–max) | extra MB |', '|:--|--:|--:|--:|']
    out += [f"| {r['name']} | {r['n']} | {r['ms']:.1f} ({r['ms_min']:.1f}–{r['ms_max']:.1f}) | {r['mb']:.0f} |" for r in sorted(rows, key=lambda r: (r['n'], r['name']))]
    keys = [k for k in dict.fromkeys(k for r in s['ratios'] for k in r) if k not in ('n', 'peer')]
    out += ['', '| n | fastest peer | '+' | '.join(k.replace('_mb', ' (MB)').replace('_', ' / ') for k in keys)+' |', '|--:|:--|'+'--:|'*len(keys)]
    out += [f"| {r['n']} | {r['peer'] or ''} | "+' | '.join('' if r.get(k) is None else f'{r[k]:.2f}' for k in keys)+' |' for r in s['ratios']]
    return '\n'.join(out+['', *[f"{k}, 4096 to 32768: time grows like n^{v['time']}"+(f", memory like n^{v['memory']}" if v['memory'] else '') for k,v in s['growth'].items()]])

def draw(path, rows, names):
    "Time and memory against n, with the arithmetic of the three products, 6 n² d, at the best rate that the floor reached."
    import matplotlib; matplotlib.use('Agg'); import matplotlib.pyplot as plt
    fig, axs = plt.subplots(1, 2, figsize=(8.4, 3.4), layout='constrained')
    for name in names:
        pts = sorted((r['n'], r['ms'], max(r['mb'], .1)) for r in rows if r['name']==name)
        if not pts: continue
        n,ms,mb = zip(*pts)
        axs[0].loglog(n, ms, '--' if name.startswith('floor') else 'o-', ms=4, label=name)
        if not name.startswith('floor'): axs[1].loglog(n, mb, 'o-', ms=4, color=axs[0].lines[-1].get_color())
        if name=='floor': rate = max(k*k/t for k,t in zip(n, ms)); axs[0].loglog(n, [k*k/rate for k in n], ':', color='.5', label='6 n² d at the best rate')
    axs[0].set(xlabel='batch size n', ylabel='time (ms)'); axs[1].set(xlabel='batch size n', ylabel='extra memory (MB)'); axs[0].legend(fontsize=8); fig.savefig(path, dpi=120)

def write(out, second, res, names, threads, rounds, device):
    "Write the result files; the tables as text."
    out.mkdir(parents=True, exist_ok=True); rows, seen = [], next(iter(res.values()))[0] # no torch here: a child's ru_maxrss begins at its parent's size
    for (name, n), cells in res.items():
        ms = [c['ms'] for c in cells]
        rows.append(dict(name=name, n=n, rounds=len(ms), ms=round(statistics.median(ms), 2), ms_min=round(min(ms), 2), ms_max=round(max(ms), 2), mb=round(statistics.median(c['mb'] for c in cells), 1)))
    machine = seen['gpu'] or f'{os.cpu_count()} CPU cores'
    info = dict(machine=machine, device=device, threads=threads, torch=seen['torch'], python=platform.python_version(), seed=0, dim=DIM, classes=CLASSES, beta=BETA, rounds=rounds)
    s = summary(rows)
    for f in [out/'losses.json', *([Path(second)] if second else [])]: f.write_text(json.dumps(dict(**info, rows=rows, **s), indent=1)+'\n')
    with open(out/'losses.csv', 'w', newline='') as f: w = csv.DictWriter(f, rows[0]); w.writeheader(); w.writerows(rows)
    (out/'losses.md').write_text(table(rows, s)+'\n'); draw(out/'losses.png', rows, names)
    return table(rows, s)

if __name__=='__main__': main()
