"""A disk that is full while something is kept: one line names the file, nothing of it is left, and the same call works once there is room.

A limit on the size of files stands for the disk: it, too, ends a write half-way."""
import errno, gzip, json, subprocess, sys, threading, zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
import numpy as np, pytest, torch
import hardcl_nb.runs.folder as folder
import hardcl_nb.runs.search as code_search
from hardcl_nb.checks import judge
from hardcl_nb.routes import progress
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.experiments import load_results, run_experiment
from hardcl_nb.runs.folder import run
from hardcl_nb.runs.questions import Experiment
from hardcl_nb.training.data import Data
from hardcl_nb.training.datasets import _fetch, _torchvision_part, safe_extract
from hardcl_nb.training.docstrings import docstring_pairs
from hardcl_nb.training.images import load_npz, save_npz
resource = pytest.importorskip('resource')
root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'.ci'))
import student

@contextmanager
def full(size):
    "No file grows beyond so many bytes."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

def files(at): return sorted(str(p.relative_to(at)) for p in at.rglob('*') if p.is_file())

def pictures(n):
    x, y = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)), torch.arange(n)%2
    return Data('p', x, y, x[:4], y[:4], 2)

def test_an_archive_of_images(tmp_path):
    "The one that was there before stays as it was."
    a = tmp_path/'a.npz'
    for before in ([], ['a.npz']):
        was = a.read_bytes() if before else b''
        with full(4000), pytest.raises(OSError, match=r'^\S+/a[.]npz: expected room for it, got .*File too large'): save_npz(pictures(200), a)
        assert files(tmp_path)==before and (not before or a.read_bytes()==was)
        save_npz(pictures(100), a)
    save_npz(pictures(200), a)
    assert torch.equal(load_npz(a).train_x, pictures(200).train_x) and files(tmp_path)==['a.npz']

def test_pairs_that_were_read(tmp_path):
    call = lambda: docstring_pairs(Path(json.__file__).parent, cache=tmp_path/'kept', show=False)
    with full(500), pytest.raises(OSError, match=r'^\S+/json-\w+[.]json[.]gz: expected room for it, got .*File too large'): call()
    assert not files(tmp_path)
    pairs = call()
    kept, = files(tmp_path)
    with gzip.open(tmp_path/kept, 'rt', encoding='utf-8') as f: assert json.load(f)['digest']==pairs.digest
    with full(500): assert call()==pairs # kept, so nothing is written

def test_frozen_embeddings(tmp_path, monkeypatch):
    "Made once, whole or not at all; the folder may be a new one."
    made = []
    def embed(texts):
        made.append(len(texts))
        return np.random.default_rng(len(made)).normal(size=(len(texts), 384))
    monkeypatch.setattr(code_search, '_embed', embed)
    call = lambda: code_search.frozen_embeddings((['a b']*30, ['c']*30), tmp_path/'new/e.npz')
    with full(30_000), pytest.raises(OSError, match=r'^\S+/new/e[.]npz: expected room for embeddings, got .*File too large'): call()
    assert not files(tmp_path) and made==[30, 30]
    a, b = call()
    again = call()
    assert made==[30]*4 and torch.equal(a, again[0]) and torch.equal(b, again[1]) and files(tmp_path)==['new/e.npz']

@dataclass(frozen=True)
class Toy:
    "Settings of a run whose result is known."
    seed:int=0
    def result(self): return dict(final=dict(value=self.seed/7, square=self.seed**2))

def test_results_of_an_experiment(tmp_path):
    "The runs are kept, so the second call only writes the results."
    exp = Experiment(name='toy', question='?', prediction='?', runs=(dict(seed=0),), seeds=100, kind=f'{__name__}:Toy')
    call = lambda: run_experiment(exp, tmp_path/'runs', store=tmp_path/'results/toy.json', progress=False)
    with full(4000), pytest.raises(OSError, match=r'^\S+/results/toy[.]json: expected room for it, got .*File too large'): call()
    assert not files(tmp_path/'results') and len(files(tmp_path/'runs'))==100+1 # and the seconds so far
    runs = call()['runs']
    assert load_results(exp, tmp_path/'results')['runs']==runs and files(tmp_path/'results')==['toy.json']
    assert [r['final']['square'] for r in runs]==[k**2 for k in range(100)]

def test_an_archive_that_is_fetched_and_extracted(tmp_path):
    z = tmp_path/'set.zip'
    with zipfile.ZipFile(z, 'w') as f:
        for i in range(3): f.writestr(f'set/{i}.bin', bytes(10_000))
    out = tmp_path/'out'
    out.mkdir()
    with full(5000):
        with pytest.raises(OSError, match=r'^\S+/out/a[.]zip: expected file:\S+ and room for it, got .*File too large'): _fetch(z.as_uri(), out/'a.zip', None)
        with pytest.raises(OSError, match=r'^\S+/out: expected room for 30000 bytes, got .*File too large'): safe_extract(z, out)
    assert not list(out.iterdir())
    _fetch(z.as_uri(), out/'a.zip', None)
    safe_extract(out/'a.zip', out)
    assert files(out)==['a.zip', *(f'set/{i}.bin' for i in range(3))]
    def make(*args, **how): raise OSError(errno.ENOSPC, 'No space left on device')
    with pytest.raises(OSError, match='^data: expected the files of stl10 and room for them, got .*No space left'): _torchvision_part(make, 'stl10', 'train', 'data', True)

# ---- the course ----
def test_what_is_done_is_right_even_where_it_cannot_be_noted(tmp_path, monkeypatch):
    "A right answer is right; a piece of a name is none, and takes no other name with it."
    @judge
    def check_second(f): assert f()==2
    monkeypatch.chdir(tmp_path)
    notes = tmp_path/'.hardcl_course'
    (tmp_path/'00_a.ipynb').write_text(json.dumps(dict(cells=[dict(cell_type='code', source=[f'check_{k}({k})']) for k in ('first', 'second', 'sec')])))
    for room in range(len('\nsecond\n')):
        notes.write_text('first\n')
        with full(len('first\n')+room), pytest.warns(UserWarning, match='^.hardcl_course: expected room to note that second is done, got .*File too large'): check_second(lambda: 2)
        assert 'second' not in progress(tmp_path)['00_a'][0] or room==len('\nsecond') # all but the end of the line
        check_second(lambda: 2)
        done, left = progress(tmp_path)['00_a']
        assert {'first', 'second'}<=set(done) and notes.read_text().split().count('second')==1, room
    before = notes.read_text()
    check_second(lambda: 2)
    assert notes.read_text()==before

@pytest.fixture
def course(tmp_path, monkeypatch):
    "A course of two pages, the second of them long."
    for f,data in (('images/a.png', b'picture'), ('results/b/c.json', b'{}')):
        (tmp_path/'nbs'/f).parent.mkdir(parents=True)
        (tmp_path/'nbs'/f).write_bytes(data)
    for name,words in (('00_a', 'short'), ('01_b', 'long '*2000)):
        (tmp_path/'nbs'/f'{name}.ipynb').write_text(json.dumps(dict(cells=[dict(cell_type='markdown', source=[words], metadata={}, id='x')])))
    monkeypatch.setattr(student, 'root', tmp_path)
    return tmp_path/'work'

def test_working_copies(course):
    "No half page is taken for one by the next call, and a fresh copy costs nobody their work."
    first = ['.hardcl_course', '00_a.ipynb', 'images/a.png', 'results/b/c.json']
    with full(5000), pytest.raises(OSError, match=r'^\S+/work/01_b[.]ipynb: expected room for it, got .*File too large'): student.write(course, False)
    assert files(course)==first
    assert student.write(course, False)==1 and files(course)==[*first[:2], '01_b.ipynb', *first[2:]]
    assert json.loads((course/'01_b.ipynb').read_text())['cells'][0]['source']==['long '*2000]
    (course/'01_b.ipynb').write_text('my work')
    with full(5000), pytest.raises(OSError, match='01_b'): student.write(course, True)
    assert (course/'01_b.ipynb').read_text()=='my work' and len(files(course))==5
    assert student.write(course, True)==2

def test_working_copies_say_it_in_one_line(tmp_path):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    r = subprocess.run([sys.executable, str(root/'.ci/student.py'), str(tmp_path/'w')], capture_output=True, text=True, preexec_fn=limit)
    assert r.returncode==1 and r.stderr.count('\n')==1 and r.stderr.startswith('student: error: ') and 'File too large' in r.stderr, r.stderr

# ---- TensorBoard ----
class Board:
    "What TensorBoard's writer does, without TensorBoard: a thread writes; its error comes back with `flush`, and ends the thread."
    made, room = [], 10**6
    def __init__(self, at, purge_step):
        self.purge, self.steps, self.error = purge_step, [], None
        Board.made.append(self)
    def add_scalar(self, name, value, step):
        if name=='loss': self.steps.append(step)
    def flush(self):
        board = self
        class Thread(threading.Thread):
            def run(self):
                if len(board.steps)<=Board.room: return
                board.error = OSError(errno.ENOSPC, 'No space left on device')
                raise board.error
        Thread.__module__ = 'tensorboard.stand_in'
        t = Thread()
        t.start()
        t.join()
        if self.error: raise self.error
    def close(self): pass

def test_what_tensorboard_shows(tmp_path, monkeypatch):
    "Refused in one line, without the traceback of TensorBoard's thread; the run goes on from the checkpoint before, and every step is shown once."
    cfg, printed = RunConfig(method='scl', steps=5, eval_every=1), []
    run(cfg, tmp_path/'whole')
    monkeypatch.setattr(folder, '_writer', lambda: Board)
    monkeypatch.setattr(Board, 'made', [])
    monkeypatch.setattr(threading, 'excepthook', hook := lambda args: printed.append(args.exc_value))
    monkeypatch.setattr(Board, 'room', 3)
    with pytest.raises(OSError, match=r'^\S+/a/tensorboard: expected room for what TensorBoard shows, got .*No space left'): run(cfg, tmp_path/'a', tensorboard=True)
    assert not printed and threading.excepthook is hook
    monkeypatch.setattr(Board, 'room', 10)
    run(cfg, tmp_path/'a', resume=True, tensorboard=True)
    for f in ('metrics.csv', 'spectrum.csv', 'checkpoint.safetensors'): assert (tmp_path/'a'/f).read_bytes()==(tmp_path/'whole'/f).read_bytes(), f
    first, second = Board.made
    assert (first.purge, first.steps, second.purge, second.steps)==(0, [0, 1, 2, 3], 3, [3, 4, 5]) # step 3 was not in a checkpoint
    run(cfg, tmp_path/'a', resume=True, tensorboard=True) # there is nothing to do, and nothing to show
    assert len(Board.made)==2

def test_errors_of_other_threads_are_printed_as_ever(tmp_path, monkeypatch):
    printed = []
    class Other(Board):
        def flush(self):
            t = threading.Thread(target=lambda: 1/0)
            t.start()
            t.join()
    monkeypatch.setattr(folder, '_writer', lambda: Other)
    monkeypatch.setattr(threading, 'excepthook', lambda args: printed.append(args.exc_value))
    run(RunConfig(method='scl', steps=1, eval_every=1), tmp_path/'a', tensorboard=True)
    assert [type(e) for e in printed]==[ZeroDivisionError]*2

def test_tensorboard_itself_shows_every_step_once(tmp_path):
    "Where it is installed: a run that is stopped twice."
    at = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    def stop(rec):
        if rec['step'] in (0, 4): raise KeyboardInterrupt
    cfg = RunConfig(method='scl', steps=8, eval_every=2)
    for go_on in (False, True):
        with pytest.raises(KeyboardInterrupt): run(cfg, tmp_path/'a', tensorboard=True, resume=go_on, on_record=stop if not go_on else lambda rec: rec['step'] and stop(rec))
    rows = run(cfg, tmp_path/'a', tensorboard=True, resume=True)
    events = at.EventAccumulator(str(tmp_path/'a/tensorboard'))
    events.Reload()
    shown = {e.step: e.value for e in events.Scalars('loss')}
    assert len(events.Scalars('loss'))==len(rows) and all(abs(shown[r['step']]-r['loss'])<1e-6 for r in rows)
