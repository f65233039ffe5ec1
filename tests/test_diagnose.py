"Diagnosis of embeddings: what may not change it, what is refused, and the command line from outside."
import json, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.measures.collapse import collapse_report
from hardcl_nb.measures.centres import hardest_pairs
from hardcl_nb.runs.diagnose import diagnose, hardcl_diagnose, html_report, text_report, write_diagnosis
from hardcl_nb.runs.verdict import limits
from hardcl_nb.theory.etf import simplex_etf

def clouds(seed, n=60, d=6, C=4, spread=.5):
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(C).repeat(2), torch.randint(C, (n-2*C,), generator=g)])
    return torch.randn(C, d, generator=g, dtype=torch.float64)[y]+spread*torch.randn(n, d, generator=g, dtype=torch.float64), y, g

def flat(dx):
    "All numbers of a diagnosis that scale does not change."
    keys = ('spread', 'spectrum', 'effective_rank', 'stable_rank', 'rankme', 'alpha_req', 'uniformity', 'alignment', 'centred', 'equal_length', 'equiangular', 'width', 'centre_acc')
    return [x for k in keys for v in [getattr(dx, k)] for x in (v if isinstance(v, tuple) else [v])]

seeds = st.integers(0, 10**6)

@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([1e-3, 1., 1e3]))
def test_scale_rotation_order_and_class_names_change_nothing(seed, scale):
    z,y,g = clouds(seed, d=12)
    rot = torch.linalg.qr(torch.randn(12, 12, generator=g, dtype=torch.float64))[0]
    order = torch.randperm(len(z), generator=g)
    a,b = diagnose(z, y), diagnose(scale*(z@rot)[order], 5*y[order]-3)
    assert flat(b)==pytest.approx(flat(a), rel=1e-6, abs=1e-9) and b.verdict==a.verdict and b.num_alive==a.num_alive
    for p,q in zip(a.closest+a.confused, b.closest+b.confused): assert p[2:]==pytest.approx(q[2:], abs=1e-9)
    assert [p[:2] for p in b.closest]==[(5*p.first-3, 5*p.second-3) for p in a.closest]

@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 12))
def test_rank_is_found(seed, r):
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(12, r, generator=g, dtype=torch.float64))[0]
    z = torch.randn(4000, r, generator=g, dtype=torch.float64)@q.T
    dx = diagnose(z, max_rows=50)
    assert dx.num_alive==r and dx.verdict.startswith(f'{r} of 12 directions alive')
    word = 'dimensional collapse, unless' if r<=6 else 'partial' if r<=10 else 'no dimensional'
    assert dx.verdict.split(': ')[1].startswith(word)

@settings(max_examples=20, deadline=None)
@given(seeds)
def test_leave_one_out_is_the_slow_one(seed):
    z,y,_ = clouds(seed, n=30)
    right = 0
    for i in range(30):
        rest = torch.arange(30)!=i
        mu = torch.stack([z[rest & (y==c)].mean(0) for c in range(4)])
        right += int((z[i]-mu).norm(dim=1).argmin()==y[i])
    assert hardest_pairs(z, y)[2]==right/30

def test_single_samples_are_left_out_and_named():
    z,y,_ = clouds(0)
    y[-1] = 77
    dx = diagnose(z, y)
    assert dx.collapse.one_sample==(77,) and 'one_sample       1 classes' in text_report(dx)
    assert dx.centre_acc*(len(y)-1)==pytest.approx(round(dx.centre_acc*(len(y)-1)), abs=1e-9) # of 59 samples

def test_a_class_mean_in_the_middle_has_cosine_zero():
    mu = torch.tensor([[1., 0.], [-1., 0.], [0., 0.]])
    pairs = hardest_pairs(mu.repeat(2, 1), torch.arange(3).repeat(2))[0]
    assert [p[:3] for p in pairs]==[(0, 2, 0.), (1, 2, 0.), (0, 1, -1.)]

@pytest.mark.parametrize('z, says', [
    (torch.zeros(6, 3), 'complete collapse'),
    (torch.ones(6, 3), 'complete collapse'),
    (1e-20+torch.zeros(6, 3, dtype=torch.float64), 'complete collapse'),
    (torch.tensor([[1., 0], [1, 0], [-1, 0], [-1, 0], [0, 0], [0, 0]]), 'dimensional collapse'),
])
def test_degenerate_embeddings_are_diagnosed(z, says):
    for y in (None, torch.tensor([0, 0, 1, 1, 2, 2])):
        dx = diagnose(z, y)
        assert says in dx.verdict
        json.dumps(dx.as_dict(), allow_nan=False)

def test_all_class_means_zero():
    z = torch.tensor([[1., 0], [-1, 0], [0, 1], [0, -1]])
    dx = diagnose(z, torch.tensor([0, 0, 1, 1]))
    assert dx.centred is None and 'all class means are zero' in dx.verdict and 'undefined' in text_report(dx)

def test_limits_are_what_decides():
    e = simplex_etf(6, 6, dtype=torch.float64)
    y = torch.arange(6).repeat(2)
    def word(width): # two points at +-width from each mean, in a direction of their own
        z = torch.cat([torch.cat([e, e]), width*torch.tensor([1.]*6+[-1.]*6, dtype=torch.float64)[:,None]], 1)
        return diagnose(z, y).verdict.split(f'of width {width:.2f}: ')[1]
    w = limits['width']
    assert [word(x) for x in (.99*w, 1.01*w, 1.99*w)]==['Neural Collapse', 'near Neural Collapse', 'near Neural Collapse']
    assert word(2.01*w)=='not Neural Collapse (too far: width)'

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder of files that are wrong, each in its own way."
    d = tmp_path_factory.mktemp('bad'); z,y,_ = clouds(0); z,y = z.numpy(), y.numpy()
    np.save(d/'z.npy', z); np.savez(d/'zy.npz', z=z, y=y); np.savez(d/'two.npz', a=z, b=z); np.savez(d/'none.npz', ids=y); np.savez(d/'empty.npz')
    np.save(d/'cube.npy', np.zeros((3, 3, 3))); np.save(d/'int.npy', y[:,None]); np.save(d/'void.npy', np.zeros((0, 4))); np.save(d/'one.npy', z[:1])
    np.save(d/'complex.npy', z+1j); np.save(d/'text.npy', np.array(['a', 'b'])); np.save(d/'objects.npy', np.array([{}]), allow_pickle=True)
    np.save(d/'nan.npy', np.where(np.arange(60)[:,None]<2, np.nan, z)); np.save(d/'short.npy', y[:-1]); np.save(d/'floaty.npy', y+.5); np.save(d/'same.npy', 0*y); np.save(d/'unique.npy', np.arange(60))
    (d/'y.txt').write_text('0\n1.5\n'); (d/'zero.npy').write_bytes(b''); (d/'junk.npz').write_bytes(b'PK\x03\x04junk'); (d/'junk.safetensors').write_bytes(b'\xff'*20); (d/'junk.pt').write_bytes(b'hello'); (d/'z.csv').write_text('1,2'); (d/'z.xls').write_text('1,2'); (d/'text.npz').write_text('0 1'); (d/'text.parquet').write_text('0 1')
    whole = (d/'zy.npz').read_bytes(); (d/'cut.npz').write_bytes(whole[:len(whole)//2])
    flip = bytearray(whole); flip[300] ^= 255; (d/'flip.npz').write_bytes(bytes(flip))
    torch.save(torch.nn.Linear(2, 2), d/'model.pt'); torch.save({'z': z}, d/'numpy.pt'); torch.save(3, d/'three.pt'); torch.save({'z': [1.]}, d/'list.pt')
    return d

cases = [
    ('nowhere.npy', {}, 'file: expected a file, got'), ('', {}, 'a folder'), ('z.xls', {}, 'file: expected a file that ends in .npy'), ('z.csv', {}, 'at least 2 row(s)'), ('text.npz', {}, 'first bytes'), ('text.parquet', {}, 'file: expected a readable .parquet file'), ('y.txt', {}, 'file: expected'),
    ('two.npz', {}, 'two.npz with a: float64 (60, 6), b: float64 (60, 6)'), ('none.npz', {}, 'none.npz with ids: int64 (60,)'), ('empty.npz', {}, 'with nothing'),
    ('cube.npy', {}, 'embeddings: expected a matrix (n, d), not empty, got shape (3, 3, 3)'), ('int.npy', {}, 'embeddings: expected floating-point numbers, got dtype int64'),
    ('void.npy', {}, 'not empty, got shape (0, 4)'), ('one.npy', {}, 'at least 2 row(s)'), ('complex.npy', {}, 'dtype complex128'), ('text.npy', {}, 'dtype <U1'),
    ('objects.npy', {}, 'could run code'), ('model.pt', {}, 'could run code'), ('numpy.pt', {}, 'could run code'), ('three.pt', {}, 'got int'), ('list.pt', {}, 'floating-point numbers, got list'),
    ('nan.npy', {}, 'got 2 of 60 rows with NaN or inf'), ('zero.npy', {}, 'damaged'), ('junk.npz', {}, 'damaged'), ('cut.npz', {}, 'damaged'), ('flip.npz', {}, 'damaged'), ('junk.safetensors', {}, 'damaged'), ('junk.pt', {}, 'damaged'),
    ('z.npy', dict(key='w'), "key: expected one of the arrays in z.npy, got 'w'"), ('zy.npz', dict(key='y'), 'floating-point numbers, got dtype int64'),
    ('zy.npz', dict(labels='c'), "labels: expected an array in zy.npz or a file, got 'c'; found z: float64 (60, 6), y: int64 (60,)"),
    ('z.npy', dict(labels='short.npy'), 'labels: expected 60 labels, one for each row of the embeddings, got shape (59,)'), ('z.npy', dict(labels='z.npy'), 'labels: expected integers, got dtype float64'),
    ('z.npy', dict(labels='floaty.npy'), 'labels: expected integers'), ('z.npy', dict(labels='y.txt'), 'labels: expected a readable .txt file'), ('z.npy', dict(labels='two.npz'), 'labels: expected an array named y'),
    ('z.npy', dict(labels='same.npy'), 'y: expected at least 2 classes'), ('z.npy', dict(labels='unique.npy'), 'a class with at least two samples'), ('zy.npz', dict(top='x'), "top: expected a whole number, got 'x'"), ('zy.npz', dict(top=0), 'top: expected a whole number >= 1'),
    ('zy.npz', dict(out='z.npy'), 'out: expected a folder'), ('zy.npz', dict(out='z.npy/x'), 'z.npy'), ('zy.npz', dict(label='y'), 'did you mean --labels?'),
]
@pytest.mark.parametrize('file, kw, says', cases, ids=[f'{f}-{"-".join(map(str, kw.values()))}' for f,kw,_ in cases])
def test_program_refuses_in_one_line_and_writes_nothing(bad, capsys, file, kw, says):
    kw = {k: str(bad/v) if k in ('labels', 'out') and ('.' in str(v)) else v for k,v in kw.items()}
    before = sorted(bad.rglob('*'))
    with pytest.raises(SystemExit) as e: hardcl_diagnose([str(bad/file), *(str(w) for k,v in {'out': bad/'new', **kw}.items() for w in (f'--{k}', v))])
    out,err = capsys.readouterr()
    assert e.value.code==2 and out=='' and err.count('\n')==1 and err.startswith('hardcl_diagnose: error: ') and says in err, err
    assert sorted(bad.rglob('*'))==before

def test_files_are_overwritten_only_if_asked(tmp_path):
    z,y,_ = clouds(0)
    (tmp_path/'report.html').write_text('mine')
    write_diagnosis(diagnose(z), tmp_path)
    with pytest.raises(ValueError, match='without a diagnosis'): write_diagnosis(diagnose(z, y), tmp_path)
    write_diagnosis(diagnose(z, y), tmp_path, overwrite=True)
    assert 'num_classes' in (tmp_path/'diagnosis.txt').read_text() and (tmp_path/'report.html').read_text()=='mine'
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(('diagnosis', 'report'))]

@pytest.mark.parametrize('words, says', [((), 'file: expected a file of embeddings'), (('a.npy', 'a.npy'), 'file: expected each file once, got a.npy twice'), (('a.npy', 'b.npy'), 'a.npy: file: expected a file, got a.npy, which does not exist'), (('a.npy', '--top'), 'top'), (('a.npy', '--out', ''), 'out: expected the name of a folder'), (('a.npy', '--out', '  '), 'out: expected the name of a folder')])
def test_words_that_make_no_command(capsys, words, says):
    with pytest.raises(SystemExit) as e: hardcl_diagnose(words)
    out,err = capsys.readouterr()
    assert e.value.code==2 and out=='' and err.count('\n')==1 and says in err, err

def test_file_may_stand_anywhere(tmp_path, capsys):
    z,y,_ = clouds(0)
    np.save(tmp_path/'z.npy', z.numpy()); (tmp_path/'y.txt').write_text('\n'.join('abcd'[c] for c in y.tolist()))
    want = text_report(diagnose(z, y, names='abcd', top=2))
    z,y = tmp_path/'z.npy', tmp_path/'y.txt'
    for words in ([z, '--labels', y, '--top', 2], ['--labels', y, z, '--top', 2], ['--labels', y, '--top', 2, '--overwrite', z], ['--file', z, '--labels', y, '--top', 2]):
        hardcl_diagnose(words)
        assert capsys.readouterr().out==want+'\n'
    assert ' / ' in want and 'a / ' in want

def test_report_survives_names_that_are_html(tmp_path):
    z,y,_ = clouds(0)
    page = html_report(diagnose(z, y, names=['<b>', '&', '"', "'"]), '<script>')
    assert '<script>' not in page and '<b>' not in page and '&lt;b&gt;' in page

def test_nothing_half_written(tmp_path, monkeypatch):
    "A disk that fills up leaves the old diagnosis whole, or new files, but no part of one."
    z,y,_ = clouds(0)
    write_diagnosis(diagnose(z), tmp_path)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError): write_diagnosis(diagnose(z, y), tmp_path, overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()}==old

class Column:
    "What pandas (isna) and pyarrow (null_count) have in common: it becomes an array."
    def __init__(self, v, **more): self.v = v; vars(self).update(more)
    def __array__(self, dtype=None, copy=None): return np.array(self.v, dtype=dtype)

@pytest.mark.parametrize('make', [list, tuple, lambda y: Column(y), lambda y: np.array(y, object), lambda y: np.array(y, 'S3'), lambda y: Column(np.array(y, object), null_count=0)])
def test_labels_in_any_container(make):
    "Names or numbers: the same diagnosis, and names are shown."
    z, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12)%3
    want, words = diagnose(z, y), ['ant', 'bee', 'cow']
    got = diagnose(Column(z.numpy()), make([words[c] for c in y]))
    assert got.names==dict(enumerate(words)) and got.collapse==want.collapse and got.verdict==want.verdict
    got = make(y.tolist())
    if getattr(got, 'dtype', None)!='S3': assert diagnose(z, got).collapse==want.collapse

@pytest.mark.parametrize('y, says', [
    (Column([0, 1]*3, null_count=2), 'y: expected one for each row, got 2 that are missing'), (Column([0, 1]*3, isna=lambda: [True]+[False]*5), 'got 1 that are missing'),
    ([0., 1.]*3, 'got an array of dtype float64'), (['a', 'b', None]*2, 'got an array of dtype object'), ([[0], [1, 2]]*3, 'got list'), ({0, 1}, 'got set'),
])
def test_labels_that_are_none(y, says):
    with pytest.raises((ValueError, TypeError), match=says): diagnose(torch.eye(6, 3), y)

def test_masked_and_huge_numbers_are_refused():
    z,y,_ = clouds(0)
    with pytest.raises(TypeError, match='masked'): diagnose(np.ma.masked_array(z.numpy(), False))
    with pytest.raises(TypeError, match='masked'): diagnose(z, np.ma.masked_array(y.numpy(), False))
    with pytest.raises(ValueError, match='below 2'): diagnose(z, y.numpy().astype(np.uint64)+2**63)

def test_more_dimensions_than_samples():
    z,y,g = clouds(0)
    wide = torch.cat([z, torch.zeros(60, 500, dtype=torch.float64)], 1)
    a,b = diagnose(z, y), diagnose(wide, y)
    same = lambda dx: [v for k in ('centred', 'equal_length', 'equiangular', 'width', 'effective_rank', 'alignment', 'uniformity', 'centre_acc') for v in [getattr(dx, k)]]
    assert same(b)==pytest.approx(same(a), rel=1e-6, abs=1e-9) and b.dim==506

def sh(*args, cwd=None): return subprocess.run([sys.executable, '-m', 'hardcl_nb.runs.diagnose', *map(str, args)], capture_output=True, text=True, cwd=cwd)

def test_program_from_the_shell(tmp_path):
    z,y,_ = clouds(0)
    np.savez(tmp_path/'e.npz', feats=z.numpy(), fine=y.numpy())
    r = sh('e.npz', '--labels', 'fine', '--out', 'a/b', cwd=tmp_path)
    assert r.returncode==0 and r.stderr=='', r.stderr
    dx = diagnose(z, y)
    assert r.stdout.startswith(dx.verdict) and json.loads((tmp_path/'a/b/diagnosis.json').read_text())==json.loads(json.dumps(dx.as_dict()))
    r = sh('e.npz', '--labels', 'coarse', cwd=tmp_path)
    assert r.returncode==2 and r.stdout=='' and r.stderr.count('\n')==1 and 'fine: int64 (60,)' in r.stderr

def test_help_is_light_and_says_what_files():
    r = sh('--help')
    assert r.returncode==0 and all(w in r.stdout for w in ('--labels', '--key', '--out', '--overwrite', '.safetensors'))
    code = "import sys, hardcl_nb.runs.diagnose; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'sklearn', 'numpy')))"
    assert subprocess.run([sys.executable, '-c', code]).returncode==0

@pytest.fixture
def callback(monkeypatch):
    "The callback as it stands on the page, with a stand-in for Lightning."
    page = json.loads((Path(__file__).parent.parent/'nbs/68_diagnose.ipynb').read_text(encoding='utf-8'))
    text, = [s for c in page['cells'] if c['cell_type']=='code' and 'class CollapseCallback' in (s := ''.join(c['source']))]
    assert text.startswith('#| eval: false')
    monkeypatch.setitem(sys.modules, 'lightning', SimpleNamespace(Callback=object))
    space = {}
    exec(text, space)
    return space['CollapseCallback'](num_classes=4, dim=6)

def drive(cb, batches, sanity=False):
    "Call the hooks in the order and with the arguments of Lightning's validation loop; return what was logged."
    logged = {}
    trainer,module = SimpleNamespace(sanity_checking=sanity),SimpleNamespace(device=torch.device('cpu'), log_dict=logged.update)
    cb.on_validation_epoch_start(trainer, module)
    for i,(z,y) in enumerate(batches): cb.on_validation_batch_end(trainer, module, {'z': z, 'y': y}, (None, y), i, 0)
    cb.on_validation_epoch_end(trainer, module)
    return logged

def test_callback_logs_the_report_of_the_whole_epoch(callback):
    for seed in (0, 1): # the second epoch must not remember the first
        z,y,_ = clouds(seed)
        want = collapse_report(z, y)
        got = drive(callback, zip(z.split(7), y.split(7)))
        assert got.keys()=={f'val/{k}' for k in callback.metrics} and all(isinstance(v, float) for v in got.values())
        assert got=={f'val/{k}': pytest.approx(getattr(want, k), rel=1e-9) for k in callback.metrics}

def test_callback_is_silent_in_the_sanity_check_where_classes_are_missing(callback):
    z,y,_ = clouds(0)
    few = [(z[y<2], y[y<2])]
    assert drive(callback, few, sanity=True)=={}
    with pytest.raises(ValueError, match='no sample of class 2, 3'): drive(callback, few)

@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([0., .1, 3.]))
def test_numbers_lie_in_the_ranges_that_a_report_names(seed, spread):
    from hardcl_nb.runs.findings import ranges
    z,y,_ = clouds(seed, d=12, spread=spread)
    dx = diagnose(z, y)
    known = dict(n=len(z), d=12, C=len(y.unique()), min=min)
    for k,text in ranges.items():
        v = getattr(dx, k, None) if hasattr(dx, k) else getattr(dx.collapse, k)
        if not isinstance(v, (int, float)) or text=='any': continue
        low,_,high = text.removeprefix('≥ ').partition(' … ')
        top = eval(high.replace('√(C-1)', '(C-1)**.5'), known) if high else float('inf')
        assert float(low)-1e-6<=v<=top*(1+1e-5)+1e-6, (k, v, text)
