"""Images per second of the simclr preset on a batch, against torchvision v2 applied to each sample on the CPU.

    python benchmarks/augment.py [--batch 512] [--size 32] [--threads 1] [--device cpu] [--out FILE.json]

Both start from bytes in memory and end with a batch of floats. torchvision gets the inputs that it may be given: byte tensors, float tensors
and PIL images; the fastest counts. Medians over rounds, the contestants taking turns. One thread by default: torchvision's samples are too small to share,
while ours gains from more (--threads 0: as many as PyTorch takes).
"""
import argparse, json, statistics, time
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image
from hardcl_nb.training.augment import make_augment

def pipelines(size):
    "The same augmentation in torchvision, for each kind of input."
    aug = [v2.RandomResizedCrop(size, scale=(.08, 1.), antialias=True), v2.RandomHorizontalFlip(), v2.RandomApply([v2.ColorJitter(.4, .4, .4, .1)], .8), v2.RandomGrayscale(.2)]
    unit = v2.ToDtype(torch.float32, scale=True)
    return {'uint8 tensors': v2.Compose([*aug, unit]), 'float tensors': v2.Compose([unit, *aug]), 'PIL images': v2.Compose([*aug, v2.PILToTensor(), unit])}

def seconds(f, device):
    "Time of one call, with the device's work done."
    wait = torch.cuda.synchronize if device.startswith('cuda') else lambda: None
    wait(); t = time.perf_counter(); f(); wait()
    return time.perf_counter()-t

def measure(batch, size, device, rounds):
    "Median seconds for a batch, for each contestant."
    u = (torch.rand(batch, 3, size//4, size//4, generator=torch.Generator().manual_seed(0))*255)
    u = torch.nn.functional.interpolate(u, size=size, mode='bilinear').byte()
    here,g,ours = u.to(device), torch.Generator(device).manual_seed(0), make_augment('simclr')
    pil = [to_pil_image(a) for a in u]
    runs = {'hardcl_nb': (lambda: ours(here, g), device)}
    for k,t in pipelines(size).items():
        src = pil if k.startswith('PIL') else u
        runs[k] = (lambda src=src, t=t: torch.stack([t(a) for a in src]), 'cpu')
    for f,d in runs.values(): seconds(f, d)
    times = {k: [] for k in runs}
    for _ in range(rounds):
        for k,(f,d) in runs.items(): times[k].append(seconds(f, d))
    return {k: statistics.median(v) for k,v in times.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k,v in (('batch', 512), ('size', 32), ('threads', 1), ('rounds', 9)): p.add_argument(f'--{k}', type=int, default=v)
    p.add_argument('--device', default='cpu'); p.add_argument('--out')
    a = p.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    med = measure(a.batch, a.size, a.device, a.rounds)
    best = min(v for k,v in med.items() if k!='hardcl_nb')
    rate = {k: round(a.batch/v) for k,v in med.items()}
    for k,v in med.items(): print(f'{k:14} {1e3*v:8.1f} ms {rate[k]:>9,} images/s {best/v:6.2f} x the fastest of torchvision')
    ratio = best/med['hardcl_nb']
    print(f"simclr, batch {a.batch} at {a.size} x {a.size}, {a.device}, {torch.get_num_threads()} threads, torch {torch.__version__}: {ratio:.1f} x (goal: 5 x)")
    if a.out:
        with open(a.out, 'w') as f: json.dump(dict(batch=a.batch, size=a.size, device=a.device, threads=torch.get_num_threads(), torch=torch.__version__, images_per_s=rate, ratio=round(ratio, 2)), f, indent=1)

if __name__=='__main__': main()
