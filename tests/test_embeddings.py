"Files of embeddings: all kinds of numbers, names and tables, and no code."
import csv, os, pickle, zipfile
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from hardcl_nb.runs.diagnose import diagnose
from hardcl_nb.runs.embeddings import load_embeddings, read_embeddings

def clouds(seed, n=60, d=6, C=4, spread=.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(C).repeat(2), torch.randint(C, (n-2*C,), generator=g)])
    return torch.randn(C, d, generator=g, dtype=torch.float64)[y]+spread*torch.randn(n, d, generator=g, dtype=torch.float64), y, g

seeds = st.integers(0, 10**6)

def save(path, z, y, how):
    if how=='npz': np.savez(path, embeddings=z, labels=y)
    elif how=='safetensors': save_file({'embeddings': torch.from_numpy(z), 'labels': torch.from_numpy(y)}, path)
    else: torch.save({'embeddings': torch.from_numpy(z), 'labels': torch.from_numpy(y), 'epoch': 3}, path)

@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from(['npz', 'safetensors', 'pt']), st.sampled_from(['float16', 'float32', 'float64']), st.sampled_from(['uint8', 'int16', 'int32', 'int64']), st.booleans())
def test_files_give_back_what_was_saved(tmp_path_factory, seed, how, ftype, itype, column):
    z,y,_ = clouds(seed, n=20)
    z,y = z.numpy().astype(ftype), y.numpy().astype(itype)
    path = tmp_path_factory.mktemp('f')/f'e.{how}'
    save(path, z, y[:,None] if column else y, how)
    a,b = load_embeddings(path)
    assert np.array_equal(a.numpy(), z) and a.numpy().dtype==z.dtype and b.dtype==torch.int64 and b.tolist()==y.tolist()
    assert load_embeddings(path, labels='none')[1] is None and load_embeddings(path, 'embeddings', 'labels')[1].tolist()==y.tolist()

def test_other_shapes_of_files(tmp_path):
    z,y,_ = clouds(0)
    np.save(tmp_path/'big.npy', z.numpy().astype('>f4')); np.save(tmp_path/'y.npy', y.numpy().astype('>i2'))
    a,b = load_embeddings(tmp_path/'big.npy', labels=tmp_path/'y.npy')
    assert torch.equal(a, z.float()) and torch.equal(b, y)
    np.savez(tmp_path/'odd.npz', w=z.numpy(), names=np.array([{}]), t=np.arange(60)); assert torch.equal(load_embeddings(tmp_path/'odd.npz')[0], z)
    torch.save(z.requires_grad_(), tmp_path/'grad.PT'); a,b = load_embeddings(str(tmp_path/'grad.PT')); assert not a.requires_grad and b is None
    torch.save(z.bfloat16(), tmp_path/'b.pth'); assert diagnose(*load_embeddings(tmp_path/'b.pth')).dim==6

def test_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'sprung'),)
    torch.save(Trap(), tmp_path/'new.pt'); torch.save(Trap(), tmp_path/'old.pt', _use_new_zipfile_serialization=False)
    np.save(tmp_path/'t.npy', np.array([Trap()]), allow_pickle=True); (tmp_path/'raw.pt').write_bytes(pickle.dumps(Trap())); (tmp_path/'raw.npy').write_bytes(pickle.dumps(Trap()))
    with zipfile.ZipFile(tmp_path/'t.npz', 'w') as f: f.write(tmp_path/'t.npy', 'z.npy')
    for n in ('new.pt', 'old.pt', 't.npy', 'raw.pt', 'raw.npy', 't.npz'):
        with pytest.raises(ValueError): load_embeddings(tmp_path/n)
    assert not (tmp_path/'sprung').exists()

words = np.array(['cat', 'dog', 'wet dog', 'éléphant'])

@pytest.mark.parametrize('kind', ['<U8', 'S16', 'list', 'txt', 'csv', 'header'])
def test_labels_may_be_names(tmp_path, kind):
    z,y,_ = clouds(0)
    said, p = words[y.numpy()], tmp_path/'y.npy'
    if kind=='list': torch.save({'z': z, 'y': said.tolist()}, tmp_path/'e.pt'); p = None
    elif kind=='S16': np.save(p, np.char.encode(said, 'utf-8'))
    elif kind=='<U8': np.save(p, said)
    else:
        p = tmp_path/f'y.{"csv" if kind=="csv" else "txt"}'
        p.write_text('\ufeff'+('' if kind=='txt' else 'label\r\n')+'\r\n'.join(said)+'\r\n', encoding='utf-8')
    np.save(tmp_path/'z.npy', z.numpy())
    e = read_embeddings(tmp_path/'e.pt') if p is None else read_embeddings(tmp_path/'z.npy', labels=p)
    assert torch.equal(e.y, y) and e.names==dict(enumerate(words.tolist())) and torch.equal(e.z, z)
    assert diagnose(e.z, e.y, names=e.names).names[3]=='éléphant'

@pytest.mark.parametrize('y', [np.arange(60)%4+0., (np.arange(60)%4).astype('f2'), (np.arange(60)%4).astype('>u8'), (np.arange(60)%4).astype(str), torch.arange(60)%4+0., (torch.arange(60)%4).to(torch.uint16)], ids=lambda y: str(y.dtype))
def test_labels_may_be_any_whole_numbers(tmp_path, y):
    z,_,_ = clouds(0)
    if isinstance(y, torch.Tensor): torch.save(y, tmp_path/'y.pt')
    else: np.save(tmp_path/'y.npy', y)
    np.save(tmp_path/'z.npy', z.numpy())
    got = read_embeddings(tmp_path/'z.npy', labels=next(tmp_path.glob('y.*')))
    assert torch.equal(got.y, torch.arange(60)%4) and got.names=={}

@pytest.mark.parametrize('y, says', [(np.full(60, np.nan), 'integers'), (np.full(60, 2.**60), 'integers'), (np.full(60, 2**63, dtype='u8'), 'below 2'), (np.zeros(60, bool), 'dtype bool'), (np.zeros(60, 'c8'), 'integers'), (np.array(['a', '']*30), '30 that are empty'), (np.zeros(60, 'M8[s]'), 'integers'), (np.zeros((60, 2), int), 'shape')], ids=str)
def test_labels_that_are_none(tmp_path, y, says):
    np.savez(tmp_path/'e.npz', z=clouds(0)[0].numpy(), y=y)
    with pytest.raises(ValueError, match=f'labels: .*{says}'): load_embeddings(tmp_path/'e.npz')
    assert load_embeddings(tmp_path/'e.npz', labels='none')[1] is None

def table(path, head, rows, sep=','):
    with open(path, 'w', newline='', encoding='utf-8-sig') as f: csv.writer(f, delimiter=sep).writerows(([head] if head else [])+rows)
    return path

def test_tables(tmp_path):
    z,y,_ = clouds(0)
    x = z.tolist()
    plain = load_embeddings(table(tmp_path/'a.csv', None, x))
    assert torch.equal(plain[0], z) and plain[1] is None
    e = read_embeddings(table(tmp_path/'b.csv', ['', *map(str, range(6)), 'Label'], [[i, *r, c] for i,(r,c) in enumerate(zip(x, y.tolist()))]))
    assert torch.equal(e.z, z) and torch.equal(e.y, y) and e.names=={}
    e = read_embeddings(table(tmp_path/'c.tsv', None, [[*r, words[c]] for r,c in zip(x, y.tolist())], '\t'))
    assert torch.equal(e.z, z) and torch.equal(e.y, y) and e.names[2]=='wet dog'
    e = read_embeddings(table(tmp_path/'d.csv', ['a', 'b_0', 'b_1', 'fine', 'coarse'], [[r[0], r[1], r[2], c, words[c]] for r,c in zip(x, y.tolist())]), 'b_', 'fine')
    assert torch.equal(e.z, z[:,1:3]) and torch.equal(e.y, y)
    assert load_embeddings(tmp_path/'d.csv', labels='fine')[0].shape==(60, 3)
    with pytest.raises(ValueError, match='key: expected one of the arrays in d.csv'): load_embeddings(tmp_path/'d.csv', 'q')

@pytest.mark.parametrize('text, says', [('', 'empty'), ('a,b\n1,2\n3\n', 'damaged'), ('a,b\n1,2\n3,x\n', "'x'"), ('a,a\n1,2\n', 'each once'), ('a,b\n1\n', 'each column'), ('cat\ndog\n', 'column 0: <U3')])
def test_tables_that_are_none(tmp_path, text, says):
    (tmp_path/'t.csv').write_text(text)
    with pytest.raises(ValueError, match='file: ') as e: load_embeddings(tmp_path/'t.csv')
    assert says in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('member', [b'', b'hello', b'\x93NUMPY'])
def test_archives_with_other_things(tmp_path, member):
    z,_,_ = clouds(0)
    np.savez(tmp_path/'e.npz', z=z.numpy())
    with zipfile.ZipFile(tmp_path/'e.npz', 'a') as f: f.writestr('notes.txt', 'hello')
    assert torch.equal(load_embeddings(tmp_path/'e.npz')[0], z)
    with zipfile.ZipFile(tmp_path/'f.npz', 'w') as f: f.writestr('z.npy', member)
    with pytest.raises(ValueError) as e: load_embeddings(tmp_path/'f.npz')
    assert '\n' not in str(e.value) and str(e.value).startswith(('embeddings', 'file'))

def test_frames(tmp_path):
    pd = pytest.importorskip('pandas')
    pytest.importorskip('pyarrow')
    z,y,_ = clouds(0)
    pd.DataFrame({'id': range(60), 'embedding': list(z.numpy()), 'label': pd.Categorical(words[y.numpy()])}).to_parquet(tmp_path/'a.parquet')
    e = read_embeddings(tmp_path/'a.parquet')
    assert torch.equal(e.z, z) and torch.equal(e.y, y) and e.names[0]=='cat'
    pd.DataFrame(z.numpy().astype('f4'), columns=[f'f{i}' for i in range(6)]).assign(y=pd.array(y.tolist(), dtype='Int64')).to_feather(tmp_path/'b.feather')
    e = read_embeddings(tmp_path/'b.feather')
    assert torch.equal(e.z.float(), z.float()) and torch.equal(e.y, y)
    pd.DataFrame({'f': z.numpy()[:,0], 'y': [None, *y.tolist()[1:]]}).astype({'y': 'Int64'}).to_parquet(tmp_path/'c.parquet')
    with pytest.raises(ValueError, match='labels: expected integers, got dtype float64 with nan'): read_embeddings(tmp_path/'c.parquet')
    pd.DataFrame({'f': z.numpy()[:,0], 'y': [None, *words[y.numpy()[1:]]]}).to_parquet(tmp_path/'d.parquet')
    with pytest.raises(ValueError, match='column y has 1 gaps'): read_embeddings(tmp_path/'d.parquet')

def test_frames_without_their_library(tmp_path, monkeypatch):
    (tmp_path/'a.parquet').write_bytes(b'PAR1')
    monkeypatch.setitem(__import__('sys').modules, 'pandas', None)
    with pytest.raises(ValueError, match='pip install pandas pyarrow'): load_embeddings(tmp_path/'a.parquet')
