"""The sampled loss against a Python loop over anchors, forward and backward, interleaved in one process.

`loop_pairs` draws k negatives for every positive pair, one pair after the other; `loop_anchors` draws the same number with one call for each anchor;
`loop_shared` draws k for each anchor and lets its positives share them, which is less work than `sampled_loss` does. All draw on the host with
`numpy.random.choice`, gather the drawn rows of z and differentiate through them. `exact` is the limit k → ∞, which draws nothing."""
import argparse, json, os, platform, statistics, time
from pathlib import Path

def looped(z, y, k, beta, mode):
    "Mean over anchors and positives of log(1 + mean over drawn negatives of e^t), by a loop over anchors."
    import numpy as np, torch
    labels, losses = y.numpy(), []
    for i in range(len(z)):
        with torch.no_grad(): w = (beta*(z@z[i])).double().exp().numpy()
        w[labels==labels[i]] = 0.; w /= w.sum()
        pos = [p for p in (labels==labels[i]).nonzero()[0] if p!=i]
        draw = lambda *size: torch.from_numpy(np.random.choice(len(z), size=size, p=w))
        price = lambda p, j: torch.log1p((z[j]@z[i]-(z[p]@z[i])[:,None]).exp().mean(1))
        if mode=='pairs': losses.append(torch.cat([price([p], draw(1, k)) for p in pos]).mean())
        else: losses.append(price(pos, draw(len(pos) if mode=='anchors' else 1, k)).mean())
    return torch.stack(losses).mean()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='runs/bench', help='folder for sampled.json'); p.add_argument('--json', help='a second place for the JSON file')
    p.add_argument('--n', type=int, default=512); p.add_argument('--k', type=int, default=256); p.add_argument('--dim', type=int, default=128)
    p.add_argument('--classes', type=int, default=100); p.add_argument('--beta', type=float, default=5.)
    p.add_argument('--rounds', type=int, default=15); p.add_argument('--threads', type=int, default=2); p.add_argument('--seed', type=int, default=0)
    p.add_argument('--quick', action='store_true', help='n = 64 and three rounds')
    a = p.parse_args()
    if a.quick: a.n, a.classes, a.rounds = 64, 12, 3
    os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = str(a.threads)
    import numpy as np, torch, torch.nn.functional as F
    from hardcl_nb.estimators import finite_k_loss, sampled_loss
    from hardcl_nb.losses import contrastive_loss
    torch.set_num_threads(a.threads)
    z = F.normalize(torch.randn(a.n, a.dim, generator=torch.Generator().manual_seed(a.seed)), dim=1).requires_grad_()
    y, g = torch.arange(a.n)%a.classes, torch.Generator().manual_seed(a.seed); np.random.seed(a.seed)
    fs = dict(sampled=lambda: sampled_loss(z, y, k=a.k, beta=a.beta, generator=g), exact=lambda: contrastive_loss(z, y, beta=a.beta),
        **{f'loop_{m}': lambda m=m: looped(z, y, a.k, a.beta, m) for m in ('pairs', 'anchors', 'shared')})
    w = (a.beta*z.detach()@z.detach().T).masked_fill(y[:,None]==y, -torch.inf).softmax(1); draws = a.k*(int(y.bincount().max())-1)
    def once(f):
        z.grad = None; t = time.perf_counter(); loss = f(); loss.backward()
        return 1e3*(time.perf_counter()-t), loss.item()
    for f in fs.values(): once(f)
    runs, alone = {name: [] for name in fs}, []
    for _ in range(a.rounds):
        t = time.perf_counter(); torch.multinomial(w, draws, replacement=True, generator=g); alone.append(1e3*(time.perf_counter()-t))
        for name,f in fs.items(): runs[name] += [once(f) for _ in range(1 if name.startswith('loop') else 5)]
    ms = {name: [t for t,_ in r] for name,r in runs.items()}
    rows = [dict(name=name, calls=len(t), ms=round(statistics.median(t), 3), ms_min=round(min(t), 3), ms_max=round(max(t), 3), loss=round(statistics.mean(l for _,l in runs[name]), 5)) for name,t in ms.items()]
    med = {r['name']: r['ms'] for r in rows}
    info = dict(machine=f'{os.cpu_count()} CPU cores', threads=a.threads, torch=torch.__version__, numpy=np.__version__, python=platform.python_version(), seed=a.seed, n=a.n, k=a.k, dim=a.dim,
        classes=a.classes, beta=a.beta, rounds=a.rounds, expected=round(float(finite_k_loss(z.detach(), y, k=a.k, beta=a.beta)), 5), rows=rows,
        multinomial_ms=round(statistics.median(alone), 3), ratios={f'{a} / {b}': round(med[a]/med[b], 1) for a in fs if a.startswith('loop') for b in ('sampled', 'exact')})
    for f in [Path(a.out)/'sampled.json', *([Path(a.json)] if a.json else [])]: f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(info, indent=1)+'\n')
    print('| implementation | ms (min–max) | mean loss |\n|:--|--:|--:|')
    for r in rows: print(f"| {r['name']} | {r['ms']:.2f} ({r['ms_min']:.2f}–{r['ms_max']:.2f}) | {r['loss']:.5f} |")
    print(f"\nexpected loss {info['expected']:.5f}; draws of sampled_loss alone {info['multinomial_ms']:.2f} ms; " + ', '.join(f'{n} {r:.1f}' for n,r in info['ratios'].items()))

if __name__=='__main__': main()
