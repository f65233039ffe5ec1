"""Time, peak memory and error of one contrastive loss with its gradient on a GPU: fused kernel, tiled engine and plain form,
beside the time of the three matrix products alone. Times by CUDA events, implementations in turn; writes JSON.
Without a CUDA device it says so and does nothing."""
import argparse, json, platform, statistics
from pathlib import Path
import torch, torch.nn.functional as F

BETA, CLASSES, DIM, SEED = 5., 100, 128, 0

def batch(n): return F.normalize(torch.randn(n, DIM, generator=torch.Generator().manual_seed(SEED)), dim=1).cuda(), (torch.arange(n)%CLASSES).cuda()

def implementations():
    "Name -> (precision, largest n, function of z and y)."
    from hardcl_nb.losses.kernel import kernel_loss
    from hardcl_nb.losses.contrastive import contrastive_loss
    from hardcl_nb.losses.tiled import tiled_loss
    fused = lambda p: lambda z, y: kernel_loss(z.bfloat16() if p=='bf16' else z, y, beta=BETA, precision='auto' if p=='bf16' else p, validate=False)
    return {**{f'kernel_{p}': (p, 2**20, fused(p)) for p in ('ieee', 'tf32', 'bf16')},
        'tiled': ('ieee', 131072, lambda z, y: tiled_loss(z, y, beta=BETA)), 'plain': ('ieee', 32768, lambda z, y: contrastive_loss(z, y, beta=BETA, engine='plain', validate=False))}

def floor(precision):
    "The three matrix products alone, in panels that fit."
    def f(z, y):
        z = z.detach().to(torch.bfloat16 if precision=='bf16' else torch.float32); d = torch.zeros_like(z)
        for x in z.split(max(256, min(8192, 2**29//len(z)))): s = x@z.T; s@z; d.addmm_(s.T, x)
    return f

def once(f, z, y, grad):
    "Milliseconds and peak extra MB of one call, with its gradient if `grad`."
    x = z.clone().requires_grad_(grad); torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats()
    before, a, b = torch.cuda.memory_allocated(), torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    a.record(); out = f(x, y)
    if grad: out.backward()
    b.record(); torch.cuda.synchronize()
    return a.elapsed_time(b), (torch.cuda.max_memory_allocated()-before)/1e6

def parity(f, n=2048):
    "Relative errors of loss and gradient against the plain form in float64."
    from hardcl_nb.losses.contrastive import contrastive_loss
    z, y = batch(n); x, r = z.clone().requires_grad_(), z.double().requires_grad_()
    a, b = f(x, y), contrastive_loss(r, y, beta=BETA, engine='plain'); a.backward(); b.backward()
    return dict(loss=abs(a.item()/b.item()-1), grad=float((x.grad.double()-r.grad).norm()/r.grad.norm()))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='runs/bench/kernel.json', help='result file'); p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--sizes', default='2048,8192,32768,131072,524288')
    a = p.parse_args()
    if not torch.cuda.is_available(): return print('No CUDA device here: the kernel is not timed.')
    todo, rows = implementations(), []
    works = {k: (prec, most, f, parity(f), True) for k,(prec,most,f) in todo.items()}
    works.update({f'floor_{prec}': (prec, 2**20, floor(prec), None, False) for prec in ('ieee', 'tf32', 'bf16')})
    for n in (int(s) for s in a.sizes.split(',')):
        z, y = batch(n); res = {}
        for r in range(1+(a.rounds if n<=131072 else 2)): # the first round warms up
            for name,(prec,most,f,_,grad) in works.items():
                if n>most: continue
                torch.backends.cuda.matmul.allow_tf32 = prec=='tf32'
                try: t = once(f, z, y, grad)
                except torch.OutOfMemoryError: torch.cuda.empty_cache(); continue
                if r: res.setdefault(name, []).append(t)
        for name,ts in res.items():
            ms = [t for t,_ in ts]
            rows.append(dict(name=name, n=n, rounds=len(ms), ms=statistics.median(ms), ms_min=min(ms), ms_max=max(ms), mb=max(m for _,m in ts)))
            print(f"{n:7} {name:12} {rows[-1]['ms']:10.2f} ms ({min(ms):.2f} to {max(ms):.2f}) {rows[-1]['mb']:9.1f} MB", flush=True)
    out = Path(a.out); out.parent.mkdir(parents=True, exist_ok=True)
    info = dict(card=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda, python=platform.python_version(), seed=SEED, dim=DIM, classes=CLASSES, beta=BETA)
    out.write_text(json.dumps(dict(**info, parity={k: w[3] for k,w in works.items() if w[3]}, rows=rows), indent=1)+'\n')

if __name__=='__main__': main()
