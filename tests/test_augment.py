"Augmentation of batches against torchvision's laws, image by image and in distribution; what is refused."
import math, pickle
import pytest, torch
from hypothesis import given, settings, strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from hardcl_nb.tables import augmentations
from hardcl_nb.training import augment
from hardcl_nb.training.augment import (Compose, colour_jitter, contrast, crop_boxes, make_augment, random_crop, random_flip, random_grey,
    random_resized_crop, resample, shift_hue)
from hardcl_nb.training.batches import two_views

def gen(seed=0): return torch.Generator().manual_seed(seed)
def pics(n=6, c=3, h=12, w=10, seed=0, dtype=torch.float64): return torch.rand(n, c, h, w, generator=gen(seed), dtype=dtype)
def close(a, b, tol=1e-12): torch.testing.assert_close(a, b, atol=tol, rtol=0)

@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 20), st.integers(1, 20), st.integers(1, 24), st.integers(2, 24), st.sampled_from([1, 3]))
def test_any_window_is_resized_as_torchvision_does(data, h, w, oh, ow, c):
    bh,bw = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    top,left = data.draw(st.integers(0, h-bh)), data.draw(st.integers(0, w-bw))
    x = pics(1, c, h, w)
    close(resample(x, torch.tensor([[top, left, bh, bw]]), (oh, ow))[0], F.resized_crop(x[0], top, left, bh, bw, [oh, ow], antialias=True))

def test_one_column_is_resized_like_the_rest():
    "Not compared with PyTorch, whose antialiased interpolation (2.15) gives results one column wide no vertical pass."
    x = torch.arange(2.).view(1, 1, 2, 1)
    close(resample(x, torch.tensor([[0, 0, 2, 1]]), (3, 1)).flatten(), torch.tensor([0., .5, 1.]), 1e-7)

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(.01, 1.), st.floats(0., 1.), st.integers(0, 10**6))
def test_boxes_stay_inside(h, w, low, width, seed):
    b = crop_boxes(torch.zeros(20, 1, h, w), gen(seed), scale=(low, low+(1-low)*width))
    top,left,bh,bw = b.unbind(1)
    assert (b==b.round()).all() and (top>=0).all() and (left>=0).all() and (bh>=1).all() and (bw>=1).all()
    assert (top+bh<=h).all() and (left+bw<=w).all()

@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10**6))
def test_jitter_applies_all_four_in_some_order(n, seed):
    "With one factor each, every sample is one of 24 compositions."
    x = pics(n, h=4, w=4, seed=seed)
    steps = [(f, torch.full((-(-n//24)*24,), v, dtype=torch.float64)) for f,v in zip(augment._colour_steps, (1.6, 1.5, .4, .2))]
    y = augment._in_random_order(x, gen(seed), steps)
    all_orders = []
    for order in augment._orders:
        z = x
        for k in order: z = steps[k][0](z, steps[k][1][:n])
        all_orders.append(z)
    assert ((torch.stack(all_orders)-y).abs().flatten(2).amax(2).amin(0)<1e-12).all()

def test_orders_are_dealt_evenly_and_uniformly():
    seen = []
    def spy(k): return lambda x, f: 10*x+k
    for s in range(600): seen += augment._in_random_order(torch.zeros(5, 1, 1, 1, dtype=torch.float64), gen(s), [(spy(k), torch.ones(24)) for k in range(4)]).flatten().long().tolist()
    names = {int(''.join(map(str, o))) for o in augment._orders}
    counts = torch.tensor([seen.count(v) for v in names])
    assert counts.sum()==3000 and float(((counts-125.)**2/125).sum())<49.7 # chi-square, 23 degrees of freedom, 1 in 1,000
    whole = augment._in_random_order(torch.zeros(48, 1, 1, 1, dtype=torch.float64), gen(), [(spy(k), torch.ones(48)) for k in range(4)]).flatten().long().tolist()
    assert {whole.count(v) for v in names}=={2}

@pytest.mark.parametrize('name', list(augmentations))
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('c', [1, 3])
def test_presets_keep_shape_type_range_and_input(name, dtype, c):
    x = pics(30, c, dtype=torch.float32).to(dtype)
    keep = x.clone()
    a,b = two_views(x, gen(), make_augment(name))
    assert a.shape==x.shape and a.dtype==dtype and torch.equal(x, keep)
    tol = 2**-7 if dtype==torch.bfloat16 else 1e-6
    assert a.min()>=-tol and a.max()<=1+tol and torch.equal(a, b)==(name=='none')

@pytest.mark.parametrize('name', ['light', 'simclr'])
def test_same_seed_same_views_and_global_generator_untouched(name):
    x, state = pics(300, dtype=torch.float32), torch.get_rng_state()
    aug = pickle.loads(pickle.dumps(make_augment(name)))
    assert torch.equal(aug(x, gen(3)), make_augment(name)(x, gen(3))) and torch.equal(torch.get_rng_state(), state)

@pytest.mark.parametrize('name', ['light', 'simclr'])
def test_samples_are_independent(name):
    "Copies of one image in a batch get different views, also across the pieces of a CPU batch."
    v = make_augment(name)(pics(1, h=32, w=32, dtype=torch.float32).expand(400, -1, -1, -1), gen()).flatten(1)
    kinds = len(v.unique(dim=0))
    assert kinds==400 if name=='simclr' else kinds>140 # light has 162 outcomes

def test_compose_is_its_steps():
    x = pics()
    f = Compose((lambda x,g: x+1, lambda x,g: 2*x), batch_size=4)
    close(f(x, gen()), 2*(x+1))

def test_grey_images_pass_the_colour_steps():
    x = pics(c=1)
    for f in (augment.saturation, shift_hue): close(f(x, torch.full((6,), .3)), x)
    assert torch.equal(random_grey(x, gen(), 1.), x)
    y = colour_jitter(x, gen(), brightness=.4, contrast=.4, saturation=.4, hue=.1)
    assert y.shape==x.shape and not torch.equal(y, x)

def test_hue_of_grey_and_black_pixels():
    x = torch.tensor([0., .5, 1.]).view(1, 1, 1, 3).expand(2, 3, 1, 3)
    close(shift_hue(x, torch.tensor([.3, -.5])), x.contiguous(), 0)

def test_light_against_torchvision():
    "All 162 outcomes of crop and flip, each as often as the next."
    x = torch.arange(1., 37).view(1, 1, 6, 6)/36
    v = random_flip(random_crop(x.expand(8100, -1, -1, -1), gen()), gen(1))
    kinds,counts = v.flatten(1).unique(dim=0, return_counts=True)
    p = torch.nn.functional.pad(x, (4,)*4)
    want = torch.stack([w for i in range(9) for j in range(9) for w in (p[0,:,i:i+6,j:j+6], p[0,:,i:i+6,j:j+6].flip(2))]).flatten(1)
    w,wc = want.unique(dim=0, return_counts=True) # the windows with one dark row or column left may coincide
    assert torch.equal(kinds, w) and float(((counts-50.*wc)**2/(50.*wc)).sum())<len(w)-1+4*math.sqrt(2*(len(w)-1))

def test_downscaling_keeps_the_mean_and_has_no_aliases():
    "A checkerboard shrunk by four is plain grey; without antialiasing it would be black and white."
    x = ((torch.arange(32)[:,None]+torch.arange(32))%2).double().view(1, 1, 32, 32)
    y = resample(x, torch.tensor([[0, 0, 32, 32]]), (8, 8))
    close(y[..., 1:-1, 1:-1], torch.full((1, 1, 6, 6), .5, dtype=torch.float64))

x = pics()
@pytest.mark.parametrize('call,err,text', [
    (lambda: random_resized_crop(x, gen(), size=(0, 4)), ValueError, 'size: expected a whole number >= 1'),
    (lambda: random_resized_crop(x, gen(), scale=(0., 1.)), ValueError, 'scale: expected'),
    (lambda: random_resized_crop(x, gen(), ratio=(1., math.inf)), ValueError, 'ratio: expected'),
    (lambda: random_crop(x, gen(), padding=1.5), TypeError, 'padding: expected a whole number'),
    (lambda: random_flip(x[0], gen()), ValueError, 'x: expected images of shape'),
    (lambda: random_flip(x[:0], gen()), ValueError, 'x: expected images of shape'),
    (lambda: random_flip(x[:,:2], gen()), ValueError, 'x: expected images of shape'),
    (lambda: random_flip((255*x).byte(), gen()), TypeError, 'x: expected floating-point images'),
    (lambda: random_flip(x.numpy(), gen()), TypeError, 'x: expected a torch tensor'),
    (lambda: random_flip(x, 3), TypeError, 'generator: expected a torch.Generator'),
    (lambda: random_grey(x, gen(), p=-.1), ValueError, 'p: expected'),
    (lambda: colour_jitter(x, gen(), contrast=float('nan')), ValueError, 'contrast: expected a finite number'),
    (lambda: colour_jitter(x, gen(), hue=True), TypeError, 'hue: expected a number'),
    (lambda: contrast(x, torch.ones(5)), ValueError, 'f: expected 6 factors'),
    (lambda: make_augment('SimCLR'), ValueError, 'augment: expected one of none, light, simclr')])
def test_bad_input(call, err, text):
    with pytest.raises(err) as e: call()
    assert text in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('name', ['light', 'simclr'])
def test_law_of_the_presets_on_other_images(name):
    "Pixel means of two-dimensional views against torchvision's, in standard errors."
    im = pics(1, h=16, w=16, seed=5, dtype=torch.float32)[0]
    theirs = {'light': v2.Compose([v2.RandomCrop(16, padding=4), v2.RandomHorizontalFlip()]),
              'simclr': v2.Compose([v2.RandomResizedCrop(16, antialias=True), v2.RandomHorizontalFlip(), v2.RandomApply([v2.ColorJitter(.4, .4, .4, .1)], .8), v2.RandomGrayscale(.2)])}[name]
    n = 1200
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        b = torch.stack([theirs(im) for _ in range(n)])
    a = make_augment(name)(im.expand(n, -1, -1, -1), gen())
    z = (a.mean(0)-b.mean(0))/((a.var(0)+b.var(0))/n).sqrt()
    assert z.abs().max()<4.5 and abs(float(z.pow(2).mean())-1)<.9

def test_an_augmentation_of_your_own_is_one_definition():
    @augmentations.add('dark')
    def dark(x, generator): return x/2
    try: assert torch.equal(make_augment('dark')(x, gen()), x/2)
    finally: del augmentations['dark']
