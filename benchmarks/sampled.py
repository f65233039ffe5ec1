"""The sampled loss against a Python loop over anchors, forward and backward, interleaved in one process.

`loop` multiplies all embeddings once, then draws k negatives per positive for one anchor after the other with
`numpy.random.choice`, and looks up their similarities; `loop_pairs` draws for one pair after the other. `exact` is the
limit k → ∞, which draws nothing. `draws` and `multinomial` are the draws alone, as in `sampled_loss` (in blocks of
anchors) and by `torch.multinomial`. `unavoidable` is a single-precision random number for each draw and the three
matrix products of any such loss and its gradient."""
import argparse, json, os, platform, statistics, time
from pathlib import Path

def looped(z, y, k, beta, pairs):
    "Mean over anchors and positives of log(1 + mean over drawn negatives of e^t), by a loop over anchors."
    import numpy as np, torch
    s, labels, losses = z@z.T, y.numpy(), []
    for i in range(len(z)):
        with torch.no_grad(): w = (beta*s[i]).double().exp().numpy()
        w[labels==labels[i]] = 0.; w /= w.sum()
        pos = [p for p in (labels==labels[i]).nonzero()[0] if p!=i]
        draw = lambda m: torch.from_numpy(np.random.choice(len(z), size=(m, k), p=w))
        j = torch.cat([draw(1) for _ in pos]) if pairs else draw(len(pos))
        losses.append(torch.log1p((s[i,j]-s[i,pos][:,None]).exp().mean(1)).mean())
    return torch.stack(losses).mean()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='runs/bench', help='folder for sampled.json')
    p.add_argument('--json', help='a second place for the JSON file')
    p.add_argument('--n', type=int, default=512); p.add_argument('--k', type=int, default=256)
    p.add_argument('--dim', type=int, default=128)
    p.add_argument('--classes', type=int, default=100); p.add_argument('--beta', type=float, default=5.)
    p.add_argument('--rounds', type=int, default=15); p.add_argument('--threads', type=int, default=2)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--quick', action='store_true', help='n = 64 and three rounds')
    a = p.parse_args()
    if a.quick: a.n, a.classes, a.rounds = 64, 12, 3
    os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = str(a.threads)
    import numpy as np, torch, torch.nn.functional as F
    from hardcl_nb.losses.estimators import _draw, finite_k_loss, sampled_loss
    from hardcl_nb.losses.contrastive import contrastive_loss
    torch.set_num_threads(a.threads)
    z = F.normalize(torch.randn(a.n, a.dim, generator=torch.Generator().manual_seed(a.seed)), dim=1).requires_grad_()
    y, g = torch.arange(a.n)%a.classes, torch.Generator().manual_seed(a.seed); np.random.seed(a.seed)
    m = y.bincount()[y]-1; draws, most = a.k*int(m.sum()), a.k*int(m.max())
    w = (a.beta*z.detach()@z.detach().T).masked_fill(y[:,None]==y, -torch.inf).softmax(1)
    def loss(f):
        def g():
            z.grad = None; l = f(); l.backward(); return l.item()
        return g
    @torch.no_grad()
    def unavoidable(): torch.rand(draws, generator=g); s = z@z.T; s@z; s.T@z
    fs = dict(sampled=loss(lambda: sampled_loss(z, y, k=a.k, beta=a.beta, generator=g)),
        exact=loss(lambda: contrastive_loss(z, y, beta=a.beta)),
        loop=loss(lambda: looped(z, y, a.k, a.beta, False)), loop_pairs=loss(lambda: looped(z, y, a.k, a.beta, True)),
        draws=lambda: [_draw(b, most, g) for b in w.split(max(1, 2**17//max(a.n, most)))],
        multinomial=lambda: torch.multinomial(w, most, replacement=True, generator=g), unavoidable=unavoidable)
    def once(f):
        t = time.perf_counter(); l = f()
        return 1e3*(time.perf_counter()-t), l
    for f in fs.values(): once(f)
    runs = {name: [] for name in fs}
    for _ in range(a.rounds):
        for name,f in fs.items(): runs[name] += [once(f) for _ in range(1 if name.startswith('loop') else 5)]
    rows = []
    for name,r in runs.items():
        ms, value = [t for t,_ in r], [l for _,l in r]
        rows.append(dict(name=name, calls=len(ms), ms=round(statistics.median(ms), 3), ms_min=round(min(ms), 3),
            ms_max=round(max(ms), 3), loss=round(statistics.mean(value), 5) if isinstance(value[0], float) else None))
    med = {r['name']: r['ms'] for r in rows}
    info = dict(machine=f'{os.cpu_count()} CPU cores', threads=a.threads, torch=torch.__version__,
        numpy=np.__version__, python=platform.python_version(), seed=a.seed, n=a.n, k=a.k, dim=a.dim,
        classes=a.classes, beta=a.beta, rounds=a.rounds, draws=draws,
        expected=round(float(finite_k_loss(z.detach(), y, k=a.k, beta=a.beta)), 5), rows=rows,
        ratios={f'{x} / {y}': round(med[x]/med[y], 1) for x,y in [('loop', 'sampled'), ('loop_pairs', 'sampled'),
        ('multinomial', 'draws'), ('loop', 'unavoidable'), ('loop', 'exact'), ('sampled', 'exact')]})
    for f in [Path(a.out)/'sampled.json', *([Path(a.json)] if a.json else [])]:
        f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(info, indent=1)+'\n')
    print('| | ms (min–max) | mean loss |\n|:--|--:|--:|')
    for r in rows:
        value = '' if r['loss'] is None else format(r['loss'], '.5f')
        print(f"| {r['name']} | {r['ms']:.2f} ({r['ms_min']:.2f}–{r['ms_max']:.2f}) | {value} |")
    print(f"\n{draws:,} draws; expected loss {info['expected']:.5f}; " + ', '.join(f'{n} {r:.1f}'
        for n,r in info['ratios'].items()))

if __name__=='__main__': main()
