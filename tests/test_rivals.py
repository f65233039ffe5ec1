"Worlds that are made harder, and losses that people would use instead: against plain lines and by invariances."
from types import SimpleNamespace
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hardcl_nb.losses.contrastive import contrastive_loss
from hardcl_nb.losses.methods import make_loss
from hardcl_nb.tables import datasets
from hardcl_nb.training.data import Data, latent_hard
from hardcl_nb.training.datasets import load_dataset
from hardcl_nb.training.encoders import make_encoder
from hardcl_nb.training.images import Pixels, pixel_stats, save_npz
from hardcl_nb.training.rivals import (bare_mlp, coarser, fewer, levels, mislabel, own_negative_loss, quartered, smoothed_cross_entropy,
    split_classes, superclasses, triplet_loss, unseen, veiled_world)

def gen(seed=0): return torch.Generator().manual_seed(seed)
def world(C=5, m=8): return Data('w', x := torch.randn(C*m, 3, generator=gen()), y := torch.arange(C).repeat_interleave(m), x[::2], y[::2], C, tuple('abcdefghij'[:C]))

@given(st.integers(2, 6), st.floats(0, .9), st.integers(0, 100))
def test_mislabelled_are_as_many_as_said(C, share, seed):
    d = world(C)
    m = mislabel(d, share, seed)
    assert int((m.train_y!=d.train_y).sum())==round(share*len(d.train_y)) and int(m.train_y.max())<C
    assert torch.equal(m.train_x, d.train_x) and torch.equal(m.test_y, d.test_y) and torch.equal(m.train_y, mislabel(d, share, seed).train_y)

def test_parts_by_class():
    d = world()
    few = fewer(d, 3)
    assert torch.equal(few.train_x, d.train_x.view(5, 8, 3)[:,:3].flatten(0, 1)) and few.test_x is d.test_x
    a, b = split_classes(d, 3)
    assert (a.classes, b.classes, a.num_classes, b.num_classes)==(('a', 'b', 'c'), ('d', 'e'), 3, 2)
    assert torch.equal(torch.cat([a.train_x, b.train_x]), d.train_x) and torch.equal(torch.cat([a.test_y, b.test_y+3]), d.test_y)
    for call,said in ((lambda: fewer(d, 9), 'at most 8'), (lambda: fewer(d, 1), '>= 2'), (lambda: split_classes(d, 4), 'at most 3')):
        with pytest.raises(ValueError, match=said): call()

def test_a_veil_hides_classes_from_the_eye_and_not_from_the_centres():
    "The smaller the signal, the smaller the part of the variance that lies between the classes."
    def between(d): return float(torch.stack([d.train_x[d.train_y==c].mean(0) for c in range(d.num_classes)]).var(0).sum()/d.train_x.var(0).sum())
    parts = [between(veiled_world(a, num_classes=20)) for a in (.1, .3, 1.)]
    assert parts==sorted(parts) and parts[0]<.05<.3<parts[-1]
    d = load_dataset('veiled40')
    assert d.name=='veiled40' and torch.equal(d.train_x, veiled_world(.4).train_x) and d.train_x.abs().max()<=1
    noisy = load_dataset('latent_noisy20')
    assert int((noisy.train_y!=latent_hard().train_y).sum())==2000 and datasets.facts('latent80').classes==load_dataset('latent80').num_classes==80

def test_an_encoder_that_knows_tells_unseen_classes_apart():
    "The identity, on a world where nearest centres do."
    got = unseen(torch.nn.Sequential(torch.nn.Linear(128, 128)))
    assert set(got)=={'unseen_acc', 'unseen_knn'} and all(.3<v<=1 for v in got.values())

def test_coarse_classes_of_cifar(tmp_path):
    "Twenty of five each; what is right among all hundred is right among the five and among the twenty."
    names = tuple(sorted(' '.join(superclasses.values()).split()))
    assert len(set(names))==100 and all(len(v.split())==5 for v in superclasses.values())
    y = torch.arange(100).repeat(2)
    x = (y[:,None,None,None]*torch.tensor([2, 1, 2])[:,None,None]).to(torch.uint8).expand(-1, 3, 4, 4).contiguous() # a colour for each class
    save_npz(Data('c', x, y, x[:100], y[:100], 100, names), tmp_path/'cifar100.npz')
    d = load_dataset('cifar16_coarse', root=tmp_path)
    fine = load_dataset('cifar16', root=tmp_path)
    assert (d.name, d.num_classes, tuple(d.train_x.shape[1:]))==('cifar16_coarse', 20, (3, 2, 2))
    assert [d.classes[int(k)] for k in d.test_y]==[next(c for c,v in superclasses.items() if n in v.split()) for n in names]
    assert torch.equal(fine.train_x[:,:,0,0], x[:,:,0,0]) and torch.equal(fine.train_y, y) # a mean of four equal pixels
    got = levels(make_encoder((3, 2, 2), 20, pixels=Pixels(*pixel_stats(d.train_x))), SimpleNamespace(root=tmp_path))
    assert 0<=got['fine_acc']<=got['sibling_acc']<=1 and 0<=got['coarse_acc']<=1
    for call,said in ((lambda: coarser(world()), 'the class names of CIFAR-100, got a, b, c'), (lambda: quartered(world()), 'images of uint8 with even sides')):
        with pytest.raises(ValueError, match=said): call()
    with pytest.raises(FileNotFoundError, match='expected the files of cifar100'): load_dataset('cifar16', root=tmp_path/'none')

@settings(max_examples=30)
@given(st.integers(3, 10), st.integers(0, 100), st.floats(0, 1))
def test_smoothed_cross_entropy_is_a_mean_of_two(n, seed, smoothing):
    "Of the loss without smoothing and that of a uniform target; shifts of all logits change nothing."
    z, y = torch.randn(n, 4, generator=gen(seed)).double(), torch.arange(n)%3
    whole = (1-smoothing)*F.cross_entropy(z, y)-smoothing*z.log_softmax(1).mean()
    for shift in (0, 7): torch.testing.assert_close(smoothed_cross_entropy(z+shift, y, smoothing), whole)
    with pytest.raises(ValueError, match='^z: expected at least 5, one for each class'): make_loss('xent')(z, y+2)

@settings(max_examples=30)
@given(st.integers(4, 10), st.integers(0, 100), st.floats(0, 2))
def test_triplets_against_three_loops(n, seed, margin):
    "Each anchor counts alike: its mean over positives and negatives, and the mean over anchors; over all triplets where classes are of one size."
    z, y = F.normalize(torch.randn(n, 3, generator=gen(seed)).double()), torch.arange(n)%2
    s, own = z@z.T, []
    for i in range(n):
        t = [max(float(s[i,j]-s[i,p])+margin, 0) for p in range(n) for j in range(n) if p!=i and y[p]==y[i] and y[j]!=y[i]]
        own.append(sum(t)/len(t))
    assert abs(float(triplet_loss(z, y, margin))-sum(own)/n)<1e-9

@settings(max_examples=30)
@given(st.integers(4, 10), st.integers(0, 100), st.floats(0, 20), st.booleans())
def test_an_anchor_among_its_own_negatives(n, seed, beta, detach):
    "Its own similarity is the largest, so it costs more than HUCL without it; held weights change the gradient alone."
    z, y = F.normalize(torch.randn(n, 3, generator=gen(seed)).double()).requires_grad_(), torch.arange(n)%2
    own = own_negative_loss(z, y, beta, detach)
    assert own.item()>=float(contrastive_loss(z.detach(), y, beta=beta, supervised=False))-1e-9
    torch.testing.assert_close(own, own_negative_loss(z, y, beta, not detach))
    slopes = [torch.autograd.grad(own_negative_loss(z, y, beta, d), z)[0] for d in (True, False)]
    assert torch.allclose(*slopes)==(beta<1e-6) or beta<1e-3
    with pytest.raises(ValueError, match='^y: expected a positive pair'): own_negative_loss(z, torch.arange(n))

def test_a_bare_perceptron():
    "Relu between, a linear map at the end, rows by themselves."
    net, x = bare_mlp([6, 5, 4]), torch.randn(7, 2, 3, generator=gen())
    a, b = (m for m in net if isinstance(m, torch.nn.Linear))
    torch.testing.assert_close(net(x), (x.flatten(1)@a.weight.T+a.bias).relu()@b.weight.T+b.bias)
    for sizes,said in (([3], 'number of sizes'), ([3, 0], r'sizes\[1\]')):
        with pytest.raises(ValueError, match=said): bare_mlp(sizes)
