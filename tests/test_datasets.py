"Data sets by name: torchvision's, Tiny ImageNet, archives, folders, and those that are added."
import re
import numpy as np, pytest, torch
from PIL import Image
from hardcl_nb.runs.config import RunConfig, choices
from hardcl_nb.tables import datasets as table
from hardcl_nb.training import datasets
from hardcl_nb.training.data import Data, latent_hard
from hardcl_nb.training.datasets import load_dataset, load_torchvision, tinyimagenet
from hardcl_nb.training.docstrings import docstring_pairs
from hardcl_nb.training.images import load_npz, save_npz

def test_tiny_download_is_checked_and_only_on_request(tmp_path, monkeypatch):
    called = []
    def fake(url, dst, hash_prefix=None, progress=True):
        called.append((url, hash_prefix))
        raise RuntimeError('invalid hash value')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fake)
    with pytest.raises(FileNotFoundError): tinyimagenet(tmp_path)
    assert not called
    with pytest.raises(ValueError, match='expected SHA-256'): tinyimagenet(tmp_path, download=True)
    assert called==[(datasets.tiny_url, datasets.tiny_sha256)]

class FakeCIFAR:
    classes = ['x', 'y', 'z']
    def __init__(self, root, train, download):
        if not download: raise RuntimeError('Dataset not found or corrupted.')
        self.data = np.arange(5*4*4*3, dtype=np.uint8).reshape(5, 4, 4, 3)+train
        self.targets = [0, 1, 2, 0, 1]

class FakeSTL:
    classes = ['x', 'y', 'z']
    def __init__(self, root, split, download):
        self.data, self.labels = np.full((5, 3, 4, 4), len(split), np.uint8), np.array([0, 1, 2, 0, 1], np.int64)

def test_torchvision_sets(tmp_path, monkeypatch):
    from torchvision import datasets as tv
    monkeypatch.setattr(tv, 'CIFAR100', FakeCIFAR); monkeypatch.setattr(tv, 'STL10', FakeSTL)
    d = load_torchvision('cifar100', tmp_path, download=True)
    assert tuple(d.train_x.shape)==(5, 3, 4, 4) and d.train_x[0,1,0,0]==2 and d.test_x[0,1,0,0]==1 and d.classes==('x', 'y', 'z')
    with pytest.raises(FileNotFoundError, match='download=True'): load_dataset('cifar100', tmp_path)
    s = load_dataset('stl10', tmp_path)
    assert (s.train_x==5).all() and (s.test_x==4).all() and s.num_classes==3

def test_every_name_of_the_table_has_a_loader():
    for name in table: assert callable(table.load(name))

def test_archive_and_folder_by_path(tmp_path):
    x, y = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8), torch.arange(8)%2
    save_npz(Data('a', x, y, x[:2], y[:2], 2), tmp_path/'a.npz')
    assert torch.equal(load_dataset(tmp_path/'a.npz').train_x, load_npz(tmp_path/'a.npz').train_x)
    for i in range(8):
        (tmp_path/'set'/'ab'[i%2]).mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (10+i, 12), (i, 0, 0)).save(tmp_path/'set'/'ab'[i%2]/f'{i}.png')
    with pytest.raises(ValueError, match='images of one size'): load_dataset(tmp_path/'set')
    assert tuple(load_dataset(str(tmp_path/'set'), image_size=8).train_x.shape[1:])==(3, 8, 8)

@pytest.mark.parametrize('name', ['mnist', 'nothing', ''])
def test_what_is_no_data_set(name):
    with pytest.raises(ValueError, match="data: expected one of digits, .*cifar10.*, an .npz file or a folder of class folders, got"): load_dataset(name or '/no/such/folder')

def test_a_loader_gets_what_it_takes(tmp_path):
    "And must return a data set."
    x, y = torch.randn(6, 2), torch.arange(6)%2
    @table.add('with_root')
    def with_root(root): return Data(str(root), x, y, x, y, 2)
    table.add('nothing_at_all', lambda download: None)
    try:
        assert load_dataset('with_root', root=tmp_path).name==str(tmp_path)
        with pytest.raises(TypeError, match='data: expected a Data from'): load_dataset('nothing_at_all')
    finally: del table['with_root'], table['nothing_at_all']

# ---- pairs of texts ----
@pytest.fixture
def small_python(tmp_path, monkeypatch):
    "A Python whose library has one function, and in which nothing is installed."
    import sysconfig
    (tmp_path/'lib').mkdir()
    (tmp_path/'lib/a.py').write_text('def f(x):\n    "Return what was given."\n    return x')
    monkeypatch.setattr(sysconfig, 'get_paths', lambda: dict.fromkeys(('stdlib', 'purelib', 'platlib'), tmp_path/'lib'))
    return tmp_path

def test_pairs_by_name(small_python):
    "The same as from the function of their page, kept under the root and read from there."
    got = load_dataset('docstrings', small_python/'kept')
    assert got==docstring_pairs(cache=None, show=False) and got.first==['Return what was given.']
    kept, = (small_python/'kept').iterdir()
    before = kept.stat().st_mtime_ns
    assert load_dataset('docstrings', str(small_python/'kept'))==got and kept.stat().st_mtime_ns==before

@pytest.mark.parametrize('option, value', [('classes', 2), ('classes', 0), ('image_size', 8)])
def test_what_pairs_have_no_use_for(small_python, option, value):
    "Refused before anything is read."
    with pytest.raises(ValueError, match=f'^{option}: expected None with docstrings, .*, got {value}$'): load_dataset('docstrings', small_python/'kept', **{option: value})
    assert not (small_python/'kept').exists()

def test_pairs_of_ones_own(small_python):
    "A further set of pairs has a name too, is no choice of a run, and must be a set of pairs."
    table.add('mine', lambda root: docstring_pairs(root, cache=None, show=False), texts=True)
    table.add('not_pairs', latent_hard, texts=True)
    try:
        assert load_dataset('mine', small_python/'lib').second==['def f(x):\n    return x']
        with pytest.raises(TypeError, match='^data: expected TextPairs from latent_hard, got Data$'): load_dataset('not_pairs')
        with pytest.raises(ValueError, match='^data: expected labelled samples, got mine, pairs of texts'): RunConfig(data='mine')
        assert not {'mine', 'docstrings'}&set(choices()['data'])
    finally: del table['mine'], table['not_pairs']

def test_the_hard_world_is_the_same_every_time():
    a,b = latent_hard(), latent_hard()
    assert torch.equal(a.train_x, b.train_x) and not torch.equal(a.train_x, latent_hard(seed=1).train_x) and a.name=='latent_hard'
