"""Small batches: the automatic choice of engine, the engines it chooses from, and eight plain lines without a check.

d = 128, float32, beta = 5, forward and backward, min(100, n/4) classes of equal size in turn ('even') or unsorted and uneven
('uneven': of C classes the largest has a share of about C^-1/2). Every cell runs in a fresh process, implementations take turns; the median over processes of
the median over calls, with the least call, is printed and, with --store, written as JSON. `lines` takes stable logarithms of
sums; `powers` takes the exponentials as they are, which overflow from (1 + beta)/tau = 88 on."""
import argparse, json, os, platform, statistics, subprocess, sys, time
from pathlib import Path

DIM, BETA, NAMES = 128, 5., ('auto', 'plain', 'tiled', 'lines', 'powers')

def batch(n, layout):
    "Unit embeddings and labels."
    import torch, torch.nn.functional as F
    g = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(n, DIM, generator=g)).requires_grad_()
    classes = min(100, n//4)
    if layout=='even': return z, torch.arange(n)%classes
    return z, (torch.rand(n, generator=g)**2*classes).long()

def lines(z, y):
    "The hard supervised loss in eight lines of PyTorch."
    import torch, torch.nn.functional as F
    same = y[:,None]==y
    pos = same^torch.eye(len(y), dtype=torch.bool)
    s = z@z.T
    t = s.masked_fill(same, -torch.inf)
    A = (t+(BETA*t.detach()).log_softmax(1)).logsumexp(1, keepdim=True)
    count = pos.sum(1)
    rows = (F.softplus(A-s)*pos).sum(1)/count.clamp(min=1)
    return rows.sum()/(count>0).sum()

def powers(z, y):
    "The same with exponentials as they are."
    import torch
    same = y[:,None]==y
    pos, s = same^torch.eye(len(y), dtype=torch.bool), z@z.T
    w = (BETA*s.detach()).exp()*~same
    mean = (w*s.exp()).sum(1, keepdim=True)/w.sum(1, keepdim=True)
    count = pos.sum(1)
    rows = (torch.log1p(mean*(-s).exp())*pos).sum(1)/count.clamp(min=1)
    return rows.sum()/(count>0).sum()

def cell(name, n, layout):
    "Median and least milliseconds of a call, and the loss, of one implementation in this process."
    from hardcl_nb.losses.contrastive import contrastive_loss
    z, y = batch(n, layout)
    f = dict(lines=lines, powers=powers).get(name) or (lambda z, y: contrastive_loss(z, y, beta=BETA, engine=name))
    def step():
        z.grad = None
        f(z, y).backward()
    for _ in range(10): step()
    times = []
    for _ in range(max(10, min(300, 10**8//(4*n*n)))):
        t = time.perf_counter()
        step()
        times.append(1e3*(time.perf_counter()-t))
    return dict(ms=statistics.median(times), least=min(times), loss=f(z, y).item())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--sizes', default='64,128,256,512,1024,2048,4096')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--store', type=Path, help='a JSON file to write')
    p.add_argument('--cell', nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.cell:
        print(json.dumps(cell(a.cell[0], int(a.cell[1]), a.cell[2])))
        return
    env, rows = {**os.environ, 'OMP_NUM_THREADS': str(a.threads)}, []
    for n in map(int, a.sizes.split(',')):
        for layout in ('even', 'uneven'):
            got = {k: [] for k in NAMES}
            for _ in range(a.rounds):
                for k in NAMES:
                    cmd = [sys.executable, __file__, '--cell', k, str(n), layout]
                    got[k].append(json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True, env=env).stdout))
            for k,v in got.items():
                row = dict(name=k, n=n, layout=layout, ms=round(statistics.median(r['ms'] for r in v), 3),
                    least=round(min(r['least'] for r in v), 3), loss=v[0]['loss'])
                rows.append(row)
                print('n = {n:5} {layout:7} {name:7} {ms:8.2f} ms, least {least:8.2f}'.format(**row), flush=True)
    if not a.store: return
    import torch
    about = dict(machine=platform.machine(), cores=os.cpu_count(), threads=a.threads, python=platform.python_version(), torch=torch.__version__)
    a.store.write_text(json.dumps(about|dict(dim=DIM, beta=BETA, rounds=a.rounds, rows=rows), indent=1)+'\n')

if __name__=='__main__': main()
