"Encoders: shapes, stems, seeds, what the layout in memory changes, and what is refused."
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.testing import assert_close
from hardcl_nb.training.encoders import Encoder, ResidualBlock, embed, make_encoder, mlp, near_nc, projection_head, resnet, seeded, small_resnet
from hardcl_nb.training.images import Pixels

convs = ('small', 'resnet18')
def images(n=4, c=3, s=32, seed=0): return torch.rand(n, c, s, s, generator=torch.Generator().manual_seed(seed))
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('arch, size', [('small', 1), ('small', 8), ('small', 28), ('small', 33), ('small', 64), ('resnet18', 8), ('resnet18', 32), ('mlp', 8), ('auto', 8)])
@pytest.mark.parametrize('channels', [1, 3])
def test_images_of_any_size_go_in_and_embeddings_come_out(arch, size, channels):
    enc = make_encoder((channels, size, size), 10, arch=arch)
    z = enc(images(4, channels, size))
    assert z.shape==(4, 9) and z.norm(dim=1).max()<=1+1e-6
    assert enc.eval()(images(1, channels, size)).shape==(1, 9)

def test_images_need_not_be_square(): assert make_encoder((1, 9, 20), 5)(torch.rand(3, 1, 9, 20)).shape==(3, 4)

@pytest.mark.parametrize('arch', ['mlp', *convs])
def test_gradients_reach_every_weight(arch):
    enc = make_encoder((3, 16, 16), 10, arch=arch, norm='sphere')
    enc(images(8, s=16)).mul(torch.randn(8, 9, generator=torch.Generator().manual_seed(1))).sum().backward()
    for k,q in enc.named_parameters():
        assert q.grad is not None and q.grad.isfinite().all(), k
        assert q.grad.abs().sum()>0, k

@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(['mlp', 'small']))
def test_a_seed_fixes_the_weights_and_the_world_stays_as_it_is(seed, arch):
    before = torch.get_rng_state()
    a,b,c = (make_encoder((1, 8, 8), 4, arch=arch, seed=s).state_dict() for s in (seed, seed, seed+1))
    assert same(a, b) and not same(a, c) and torch.equal(torch.get_rng_state(), before)

def test_the_paper_s_encoder():
    "ResNet-50 with the small stem and the head 2048 -> 512 -> 99."
    with torch.device('meta'): enc = make_encoder((3, 32, 32), 100, arch='resnet50')
    trunk,head = enc.net.trunk, enc.net.head
    assert (trunk.conv1.kernel_size, trunk.conv1.stride, trunk.conv1.padding, trunk.conv1.bias)==((3, 3), (1, 1), (1, 1), None)
    assert isinstance(trunk.maxpool, nn.Identity) and isinstance(trunk.fc, nn.Identity)
    assert [tuple(l.weight.shape) for l in head if isinstance(l, nn.Linear)]==[(512, 2048), (99, 512)] and [type(l) for l in head]==[nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    shapes = []
    for stage in (trunk.conv1, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4): stage.register_forward_hook(lambda m,i,o: shapes.append(tuple(o.shape[1:])))
    assert enc.eval().net(torch.empty(2, 3, 32, 32, device='meta')).shape==(2, 99)
    assert shapes==[(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)]

def test_resnet_is_torchvision_s_but_for_stem_and_classifier():
    from torchvision.models import resnet18
    with torch.device('meta'): a,b = resnet('resnet18', 1).state_dict(), resnet18().state_dict()
    assert {k for k in b if k not in a}=={'fc.weight', 'fc.bias'} and {k for k in a if a[k].shape!=b[k].shape}=={'conv1.weight'} and a.keys()<=b.keys()

def test_the_stem_starts_like_the_other_convolutions():
    "fan_out: variance 2/(64*9)."
    with seeded(0): w = resnet('resnet18').conv1.weight
    assert w.std().item()==pytest.approx((2/(64*9))**.5, rel=.05) # 1,728 numbers: standard error 1.7 %

@pytest.mark.parametrize('arch', convs)
def test_channels_last_changes_the_layout_not_the_numbers(arch):
    x = images(8, s=16)
    a,b = make_encoder(x.shape[1:], 10, arch=arch, norm='none'), make_encoder(x.shape[1:], 10, arch=arch, norm='none').to(memory_format=torch.channels_last)
    xb = x.contiguous(memory_format=torch.channels_last)
    assert any(q.ndim==4 and q.is_contiguous(memory_format=torch.channels_last) and not q.is_contiguous() for q in b.parameters())
    assert_close(a.double()(x.double()), b.double()(xb.double()), rtol=1e-9, atol=1e-9)
    a,b = a.float().eval(), b.float().eval()
    assert_close(a(x), b(xb), rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('arch', ['auto', 'mlp', 'resnet18'])
def test_bytes_go_in_where_pixels_are_given(arch):
    x = (255*images(4, s=8)).byte()
    pixels = Pixels(torch.tensor([.5, .4, .3]), torch.tensor([.2, .2, .2]))
    enc = make_encoder(x.shape[1:], 10, arch=arch, pixels=pixels).eval()
    assert enc.net.pixels is pixels
    assert_close(enc(x), enc(x.float()/255))
    if arch!='mlp':
        with pytest.raises(RuntimeError, match='(?i)byte'): make_encoder(x.shape[1:], 10, arch=arch)(x)

def test_parts_make_the_whole():
    enc = make_encoder((3, 8, 8), 10).eval(); x = images(4, s=8)
    assert [k for k,_ in enc.net.named_children()]==['pixels', 'trunk', 'head']
    assert torch.equal(enc.net.head(enc.net.trunk(enc.net.pixels(x))), enc.net(x)) and enc.net.trunk(x).shape[1]==enc.net.trunk.out_features==256

def test_the_perceptron_has_the_weights_it_always_had():
    "Cutting it into trunk and head draws nothing new."
    with seeded(5): plain = mlp([64, 32, 9])
    assert all(torch.equal(a, b) for a,b in zip(plain.parameters(), make_encoder(in_features=64, num_classes=10, hidden=[32], seed=5).parameters()))
    assert make_encoder(torch.Size([64]), 10, hidden=())(torch.rand(3, 64)).shape==(3, 9)

@pytest.mark.parametrize('kw, err, says', [
    (dict(in_features=(3, 8)), ValueError, 'in_features: expected a number of features, or a shape (c, h, w), got (3, 8)'),
    (dict(in_features=()), ValueError, 'in_features'), (dict(in_features=(1, 3, 8, 8)), ValueError, 'in_features'), (dict(in_features=0), ValueError, 'in_features: expected a whole number >= 1, got 0'),
    (dict(in_features=(3, 0, 8)), ValueError, 'in_features'), (dict(in_features=64.), TypeError, 'in_features'), (dict(in_features='64'), TypeError, 'in_features'),
    (dict(arch='resnet50'), ValueError, "arch: expected auto or mlp for vectors"), (dict(arch='resnet'), ValueError, 'arch: expected one of auto, mlp'), (dict(arch=None), ValueError, 'arch: expected one of'),
    (dict(num_classes=1), ValueError, 'num_classes: expected a whole number >= 2, got 1'), (dict(dim=2.5), TypeError, 'dim'), (dict(norm='cube'), ValueError, 'norm: expected one of'), (dict(seed=-1), ValueError, 'seed'),
    (dict(in_features=(3, 8, 8), head=0), ValueError, 'hidden: expected a whole number >= 1, got 0'), (dict(hidden=(8, -1)), ValueError, 'sizes[2]'),
])
def test_make_encoder_refuses(kw, err, says):
    with pytest.raises(err) as e: make_encoder(**{**dict(in_features=64, num_classes=10), **kw})
    assert says in str(e.value)

def test_too_few_dimensions_are_said_aloud_where_the_call_is():
    with pytest.warns(UserWarning, match='dim: 3 is below C-1 = 9') as w: make_encoder((3, 8, 8), 10, dim=3)
    assert w[0].filename==__file__

@pytest.mark.parametrize('f, says', [(lambda: resnet('resnet18', 0), 'channels'), (lambda: small_resnet(0), 'channels'), (lambda: projection_head(0), 'in_features'), (lambda: projection_head(8, 0), 'hidden')])
def test_parts_refuse(f, says):
    with pytest.raises(ValueError, match=f'{says}: expected a whole number >= 1, got 0'): f()

@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2]), st.integers(1, 9), st.integers(1, 9))
def test_residual_block_shapes(channels, width, stride, h, w):
    assert ResidualBlock(channels, width, stride)(torch.randn(2, channels, h, w)).shape==(2, width, -(-h//stride), -(-w//stride))

def gen_task(n=60, C=4):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n)%C
    return torch.randn(C, 8, generator=g)[y]+.1*torch.randn(n, 8, generator=g), y

def test_near_nc_is_a_function_of_its_seed_and_restores_the_mode():
    x,y = gen_task(); before = torch.get_rng_state()
    a,b,c = (make_encoder(8, 4, hidden=[16]).eval() for _ in range(3))
    la,lb,lc = (near_nc(e, x, y, 4, 5, batch_size=16, seed=s) for e,s in ((a, 0), (b, 0), (c, 1)))
    assert la==lb!=lc and same(a.state_dict(), b.state_dict()) and torch.equal(torch.get_rng_state(), before)
    assert not a.training and near_nc(a.train(), x, y, 4, 1) and a.training

def test_near_nc_leads_to_the_etf():
    x,y = gen_task(); enc = make_encoder(8, 4, hidden=[64], norm='none')
    losses = near_nc(enc, x, y, 4, 400)
    z = enc.eval()(x); mu = torch.stack([z[y==c].mean(0) for c in range(4)])
    assert losses[-1]<.01 and all(isinstance(l, float) for l in losses)
    assert_close((mu@mu.T).detach(), torch.eye(4)*4/3-1/3, atol=.05, rtol=0)

@pytest.mark.parametrize('kw, err, says', [
    (dict(y=torch.arange(60)%5), ValueError, 'y: expected labels in 0..3, got labels from 0 to 4'), (dict(y=torch.zeros(60)), TypeError, 'y: expected integer labels'), (dict(y=torch.zeros(9).long()), ValueError, 'y: expected 60 labels'),
    (dict(steps=0), ValueError, 'steps'), (dict(lr=0), ValueError, 'lr'), (dict(batch_size=1), ValueError, 'batch_size'), (dict(seed=-1), ValueError, 'seed'), (dict(encoder=nn.Linear(8, 2)), ValueError, 'dim: expected at least num_classes - 1 = 3'),
])
def test_near_nc_refuses(kw, err, says):
    x,y = gen_task()
    with pytest.raises(err) as e: near_nc(**{**dict(encoder=nn.Linear(8, 3), x=x, y=y, num_classes=4), **kw})
    assert says in str(e.value)

class Fragile(nn.Module):
    "Fails on the second batch that it sees."
    def __init__(self): super().__init__(); self.bn,self.calls = nn.BatchNorm1d(8), 0
    def forward(self, x):
        self.calls += 1
        if self.calls==2: raise RuntimeError('out of luck')
        return self.bn(x)

@pytest.mark.parametrize('training', [True, False])
def test_embed_leaves_the_mode_as_it_was_also_after_an_error(training):
    net = Fragile().train(training)
    with pytest.raises(RuntimeError, match='luck'): embed(net, torch.randn(10, 8), 5)
    assert net.training==net.bn.training==training
    assert embed(net, torch.randn(10, 8), 5).shape==(10, 8) and net.training==net.bn.training==training

@pytest.mark.parametrize('gather', [lambda f,x: torch.cat([f(x[:3]), f(x[3:])]), None])
def test_embed_is_the_encoder_in_evaluation_mode(gather):
    enc, x = make_encoder(8, 4, hidden=[16]), torch.randn(50, 8)
    enc(x) # batch normalisation now differs between the modes
    z = embed(enc, x, 7, gather=gather)
    assert_close(z, enc.eval()(x).detach(), atol=1e-6, rtol=0)
    assert not z.requires_grad and embed(enc.bfloat16(), x.bfloat16(), gather=gather).dtype==torch.float32
    with pytest.raises(ValueError, match='batch_size: expected a whole number >= 1'): embed(enc, x, -1)

def test_a_trunk_of_your_own_is_one_definition():
    from hardcl_nb.tables import encoders
    @encoders.add('dots')
    def dots(channels):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        net.out_features = 4*channels
        return net
    try:
        assert make_encoder((3, 9, 9), 5, arch='dots')(images(4, s=9)).shape==(4, 4)
        with pytest.raises(ValueError, match='arch: expected auto or mlp for vectors'): make_encoder(9, 5, arch='dots')
    finally: del encoders['dots']

def test_a_part_that_is_frozen_stays_so():
    "Also where the encoder raises in the middle."
    enc = make_encoder(64, 10).train()
    frozen = next(m for m in enc.modules() if isinstance(m, nn.BatchNorm1d)).eval()
    before = [m.training for m in enc.modules()]
    embed(enc, torch.rand(8, 64))
    assert [m.training for m in enc.modules()]==before and not frozen.training and enc.training
    with pytest.raises(RuntimeError): embed(enc, torch.rand(8, 63))
    assert [m.training for m in enc.modules()]==before
