"Batches: which samples, in which order, in how many views, from loaders of every kind."
from itertools import islice
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset
from hardcl_nb.training.augment import make_augment
from hardcl_nb.training.batches import balanced_batches, batches, m_per_class_batches
from hardcl_nb.training.data import Data, random_batches

def gen(seed=0): return torch.Generator().manual_seed(seed)

@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 20), min_size=2, max_size=6), st.integers(2, 6), st.integers(1, 3), st.integers(0, 10**6))
def test_m_per_class_batches(counts, classes, m, seed):
    y = torch.cat([torch.full((c,), 3*k) for k,c in enumerate(counts)])
    classes = min(classes, len(counts))
    it, again = m_per_class_batches(y, classes, m, gen(seed)), m_per_class_batches(y, classes, m, gen(seed))
    for _ in range(8):
        ix = next(it)
        assert torch.equal(ix, next(again)) and len(ix.unique())==classes*m
        assert sorted(torch.bincount(y[ix]).tolist(), reverse=True)[:classes]==[m]*classes

def test_each_class_is_chosen_equally_often():
    y = torch.arange(10).repeat_interleave(torch.arange(4, 14))
    it = m_per_class_batches(y, 3, 2, gen())
    seen = torch.bincount(y[torch.cat([next(it) for _ in range(2000)])], minlength=10)/2/2000
    assert (seen-.3).abs().max()<4*(.3*.7/2000)**.5

n,C = 48, 4
labels = torch.arange(n)%C
vectors = Data('vectors', torch.arange(n).float()[:,None].expand(n, 5).contiguous(), labels, torch.zeros(2, 5), labels[:2], C)
bytes_ = (torch.arange(n)[:,None,None,None]*5%256).expand(n, 3, 6, 6).byte().contiguous()
pictures = Data('pictures', bytes_, labels, bytes_[:2], labels[:2], C)
def double(x, g): return 2.*x
kw2 = dict(augment=double, generator=gen(), views=2)

@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(0, 15), st.sampled_from([None, 2]), st.integers(0, 10**6))
def test_start_passes_over_what_came_before(size, start, per_class, seed):
    size = min(C*2, size//2*2 or 2) if per_class else size
    if per_class and size//per_class<2: size = 4
    one,two = batches(vectors, size, seed=seed, per_class=per_class), batches(vectors, size, seed=seed, per_class=per_class, start=start)
    for (x,y),(u,v) in zip(islice(one, start, start+4), two): assert torch.equal(x, u) and torch.equal(y, v) and torch.equal(labels[x[:,0].long()], y)

@pytest.mark.parametrize('size', [2, 3, 4])
def test_shares_are_one_batch_cut(size):
    "Of indices: what a process does not own it does not touch, and views by position stay apart."
    cut = lambda r: lambda ix: ix.tensor_split(size)[r]
    whole = list(islice(batches(vectors, 11), 3))
    parts = [list(islice(batches(vectors, 11, share=cut(r)), 3)) for r in range(size)]
    for k,(x,y) in enumerate(whole): assert torch.equal(torch.cat([p[k][0] for p in parts]), x) and torch.equal(torch.cat([p[k][1] for p in parts]), y)
    ids = [next(batches(vectors, 11, share=cut(r), positives='view', **kw2))[1] for r in range(size)]
    assert len(torch.cat(ids).unique())==11 and all(sorted(i.tolist())==sorted(2*i.unique().tolist()) for i in ids)

def test_views_are_stacked_and_labels_repeat():
    x,y = next(batches(vectors, 6, **kw2))
    plain = next(batches(vectors, 6))
    assert torch.equal(x, torch.cat([2*plain[0]]*2)) and torch.equal(y, plain[1].repeat(2))
    x,y = next(batches(vectors, 6, augment=double, generator=gen()))
    assert torch.equal(x, 2*plain[0]) and torch.equal(y, plain[1])

def test_channels_last_is_a_layout():
    a,b = next(batches(pictures, 8)), next(batches(pictures, 8, channels_last=True))
    assert torch.equal(a[0], b[0]) and b[0].is_contiguous(memory_format=torch.channels_last) and not b[0].is_contiguous()
    with pytest.raises(ValueError, match='channels_last: expected False for vectors, which has no images'): batches(vectors, 8, channels_last=True)

class Dicts(Dataset):
    def __len__(self): return n
    def __getitem__(self, i): return {'pixel_values': bytes_[i], 'labels': int(labels[i])}
class TwoCrops(Dataset):
    def __len__(self): return n
    def __getitem__(self, i): return [bytes_[i], bytes_[i].flip(2)], int(labels[i])
class NumPy(Dataset):
    def __len__(self): return n
    def __getitem__(self, i): return bytes_[i].numpy(), np.array([labels[i]], np.int32)

@pytest.mark.parametrize('make, views', [(lambda: TensorDataset(bytes_, labels), 1), (lambda: TensorDataset(bytes_, labels[:,None]), 1), (Dicts, 1), (TwoCrops, 2), (NumPy, 1)])
def test_loaders_of_common_forms(make, views):
    x,y = next(batches(pictures, stream=DataLoader(make(), 10)))
    assert x.shape==(10*views, 3, 6, 6) and x.dtype==torch.uint8 and torch.equal(x[:10], bytes_[:10]) and torch.equal(y, labels[:10].repeat(views))

def test_arrays_that_never_were_tensors():
    rows = (np.arange(20.).reshape(4, 5), np.arange(4, dtype=np.uint16)), (np.ones((4, 5), np.float16), [3, 2, 1, 0])
    for (x,y),(u,v) in zip(batches(vectors, stream=rows), rows):
        assert x.dtype==torch.float32 and torch.equal(x, torch.from_numpy(u).float()) and y.tolist()==list(v) and y.dtype==torch.int64

def test_streams_without_labels():
    x,y = next(batches(pictures, stream=[bytes_[:6]], positives='view', **kw2))
    assert len(x)==12 and y.tolist()==[*range(6)]*2
    x,y = next(batches(pictures, stream=[(bytes_[:6], bytes_[:6].flip(3))], positives='view', views=2)) # the loader brings them
    assert torch.equal(x[6:], x[:6].flip(3)) and y.tolist()==[*range(6)]*2
    x,y = next(batches(pictures, stream=[((bytes_[:6],)*3, labels[:6])])) # three views
    assert len(x)==18 and torch.equal(y, labels[:6].repeat(3))
    x,y = next(batches(pictures, stream=TensorDataset(bytes_[:6][None], labels[:6][None])))
    assert torch.equal(x, bytes_[:6])

def test_a_loader_that_ends_starts_again():
    loader = DataLoader(TensorDataset(vectors.train_x, labels), 20, shuffle=True, generator=gen())
    sizes = [len(y) for _,y in islice(batches(vectors, stream=loader), 9)]
    assert sizes==[20, 20, 8]*3
    assert [len(y) for _,y in islice(batches(vectors, stream=loader, start=2), 3)]==[8, 20, 20]

def test_a_generator_that_ends_says_so():
    with pytest.raises(ValueError, match='a loader that can be read again, got an end after 2'): list(islice(batches(vectors, stream=(b for b in [(vectors.train_x, labels)]*2)), 3))
    with pytest.raises(ValueError, match='got an end after 0'): next(batches(vectors, stream=[]))

@pytest.mark.parametrize('batch, kw, err, text', [
    ({'pic': bytes_[:4], 'label': labels[:4]}, {}, TypeError, 'or a dictionary with image and label, as tensors, got dict of pic, label'),
    ((bytes_[:4], labels[:4], labels[:4]), {}, TypeError, 'got tuple'),
    (('a', 'b'), {}, TypeError, 'got tuple'), ('text', {}, TypeError, 'got str'), (None, {}, TypeError, 'got NoneType'), ([], {}, TypeError, 'got list'),
    (bytes_[:4], {}, ValueError, "inputs and labels where positives='class', got inputs alone"),
    ({'image': bytes_[:4]}, {}, ValueError, "inputs and labels where positives='class', got inputs alone"),
    ((bytes_[:4, :1], labels[:4]), {}, ValueError, 'inputs of shape (n, 3, ...), got shape (4, 1, 6, 6)'),
    ((bytes_[:4].flatten(1), labels[:4]), {}, ValueError, 'inputs of shape (n, 3, ...), got shape (4, 108)'),
    ((bytes_[:4].long(), labels[:4]), {}, TypeError, 'uint8 images or floats, got dtype torch.int64'),
    ((bytes_[:4], labels[:4].float()), {}, TypeError, 'stream: expected integer labels, got dtype torch.float32'),
    ((bytes_[:4], labels[:4].view(2, 2)), {}, ValueError, 'stream: expected 4 labels'),
    ((bytes_[:4], np.array(['a', 'b', 'c', 'd'])), {}, TypeError, 'stream: expected integer labels'),
    ((bytes_[:4], ['a', 'b', 'c', 'd']), {}, TypeError, 'stream: expected integer labels'),
    (([bytes_[:4], bytes_[:3]], labels[:4]), {}, ValueError, 'inputs of shape'),
    ((bytes_[:4], labels[:4]), dict(views=2), ValueError, 'augment: expected an augmentation where views=2'),
    (bytes_[:4], dict(views=2, positives='view'), ValueError, 'augment: expected an augmentation where views=2')])
def test_what_is_no_batch(batch, kw, err, text):
    with pytest.raises(err) as e: next(batches(pictures, stream=[batch], **kw))
    assert text in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('kw, err, text', [
    (dict(batch_size=49), ValueError, 'batch_size: expected at most 48'), (dict(batch_size=1), ValueError, 'batch_size: expected a whole number >= 2'),
    (dict(batch_size=9, per_class=2), ValueError, 'batch_size: expected a multiple of per_class, 2, got 9'), (dict(batch_size=10, per_class=2), ValueError, 'classes: expected at most 4'),
    (dict(views=3), ValueError, 'views: expected one of 1, 2'), (dict(positives='pair'), ValueError, 'positives: expected one of class, view'),
    (dict(positives='view'), ValueError, "views: expected 2 where positives='view', got 1"), (dict(views=2), ValueError, 'augment: expected an augmentation where views=2'),
    (dict(augment=double), TypeError, 'generator: expected a torch.Generator for the augmentation, got NoneType'), (dict(start=-1), ValueError, 'start: expected'), (dict(seed=-1), ValueError, 'seed: expected'),
    (dict(stream=3), TypeError, 'stream: expected a loader, or another iterable of batches, got int'), (dict(stream=[], share=len), ValueError, 'share: expected None where a stream')])
def test_refused_before_the_first_batch(kw, err, text):
    with pytest.raises(err) as e: batches(vectors, **{**dict(batch_size=8), **kw})
    assert text in str(e.value)

@pytest.mark.parametrize('call,err,text', [
    (lambda p: m_per_class_batches(torch.tensor([0, 0, 1]), 2, 2, gen()), ValueError, 'm: expected at most 1'),
    (lambda p: balanced_batches(torch.tensor([0, 0]), 1, gen()), ValueError, 'classes: expected a whole number >= 2')])
def test_bad_arguments(call, err, text):
    with pytest.raises(err) as e: call(None)
    assert text in str(e.value)
