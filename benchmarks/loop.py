"""What a training step costs beyond its network: the loop's own share, and the loss's.

    python benchmarks/loop.py [--arch small] [--augment none] [--batch 256] [--device cpu] [--amp] [--channels-last] [--out FILE.json]

`bare` is augmentation, forward, loss, backward and optimiser on a batch that is there already; `loop` is `train` on `batches`, with sampling, gathering,
schedules and watching, on random images of 32x32 in up to 100 classes. Rounds take turns; medians. The overhead is 1 - bare/loop. On a GPU: --device cuda
--arch resnet50 --batch 512 --amp --channels-last (times by wall clock around many steps, with the device's work done).
"""
import argparse, json, statistics, time
from functools import partial
from pathlib import Path
import torch
from hardcl_nb.losses.contrastive import contrastive_loss
from hardcl_nb.training.augment import make_augment
from hardcl_nb.training.batches import batches
from hardcl_nb.training.data import Data
from hardcl_nb.training.encoders import make_encoder
from hardcl_nb.training.images import Pixels, pixel_stats
from hardcl_nb.training.loop import schedule, train

def wait(device):
    if device.type=='cuda': torch.cuda.synchronize()

def clock(f, n, device):
    "Seconds of one of n calls."
    wait(device); t = time.perf_counter()
    for _ in range(n): f()
    wait(device)
    return (time.perf_counter()-t)/n

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,v in dict(batch=256, steps=10, rounds=7, size=32, threads=0).items(): p.add_argument(f'--{k}', type=int, default=v)
    for k,v in dict(arch='small', augment='none', device='cpu', out=None).items(): p.add_argument(f'--{k}', default=v)
    for k in ('amp', 'channels-last'): p.add_argument(f'--{k}', action='store_true')
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    dev, g = torch.device(a.device), torch.Generator().manual_seed(0)
    C = max(2, min(100, a.batch//4))
    n = max(4*a.batch, 2000); y = torch.arange(n)%C
    x = torch.randint(0, 256, (n, 3, a.size, a.size), generator=g, dtype=torch.uint8)
    data = Data('random', x, y, x[:C], y[:C], C).to(dev)
    enc = make_encoder((3, a.size, a.size), C, arch=a.arch, pixels=Pixels(*pixel_stats(x))).to(dev)
    if a.channels_last: enc = enc.to(memory_format=torch.channels_last)
    opt, loss_fn = torch.optim.Adam(enc.parameters(), 1e-3), partial(contrastive_loss, validate=False)
    augment = make_augment(a.augment) if a.augment!='none' else None
    gen = torch.Generator(dev).manual_seed(0)
    bx,by = data.train_x[:a.batch], data.train_y[:a.batch]

    def embed():
        u = augment(bx, gen) if augment else bx
        if a.channels_last: u = u.contiguous(memory_format=torch.channels_last)
        with torch.autocast(dev.type, torch.bfloat16, enabled=a.amp): return enc(u)
    def bare():
        enc.train(); loss = loss_fn(embed(), by, beta=5.)
        opt.zero_grad(); loss.backward(); opt.step()
    def loop():
        its = batches(data, a.batch, augment=augment, generator=gen, channels_last=a.channels_last)
        it = train(enc, its, loss_fn, opt, steps=a.steps, every=a.steps, amp=a.amp, lr=schedule('cosine', a.steps), beta=lambda s: 5., stop=lambda s: False)
        next(it)
        return a.batch/next(it)['images_per_s'] # records do not count
    z = torch.nn.functional.normalize(torch.randn(a.batch, 99, generator=g), dim=1).to(dev).requires_grad_()
    def loss_alone(): torch.autograd.grad(loss_fn(z, by, beta=5.), z)

    for f in (bare, loop, loss_alone): f()
    times = {k: [] for k in ('bare', 'loop', 'loss')}
    for _ in range(a.rounds):
        times['bare'].append(clock(bare, a.steps, dev)); times['loop'].append(loop()); times['loss'].append(clock(loss_alone, a.steps, dev))
    t = {k: statistics.median(v) for k,v in times.items()}
    card = torch.cuda.get_device_name() if dev.type=='cuda' else None
    rec = dict(vars(a), card=card, torch=torch.__version__, threads=torch.get_num_threads(), seed=0, ms={k: round(1e3*v, 3) for k,v in t.items()},
        images_per_s=round(a.batch/t['loop']), overhead=round(1-t['bare']/t['loop'], 4), loss_share=round(t['loss']/t['loop'], 4))
    rec.pop('out')
    print(f"{a.arch}, {a.augment}, batch {a.batch}, {card or 'CPU'}: {rec['images_per_s']:,} images/s, step {1e3*t['loop']:.1f} ms, overhead of the loop {100*rec['overhead']:.1f} %, loss {100*rec['loss_share']:.1f} %")
    if a.out: keep(Path(a.out), rec)

def keep(path, rec):
    "Put a record into a file of records, in place of one of the same case."
    case = lambda r: tuple(r[k] for k in ('arch', 'augment', 'batch', 'card', 'amp'))
    old = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([r for r in old if case(r)!=case(rec)]+[rec], indent=1)+'\n')

if __name__=='__main__': main()
