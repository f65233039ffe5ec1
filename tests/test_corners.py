"Corners that a user reaches rarely: another front end, another system, a missing package, one process that asks another to end."
import signal, subprocess, sys, time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from PIL import Image
from torch import distributed as dist
import hardcl_nb.figures as figures
import hardcl_nb.runs.experiments as experiments
import hardcl_nb.runs.monitor as monitoring
import hardcl_nb.runs.search as code_search
import hardcl_nb.training.topics as topics_module
from hardcl_nb import RunConfig, monitor, run
from hardcl_nb.checks import NotYet, judge
from hardcl_nb.losses.hard import HardNegativeRankingLoss
from hardcl_nb.runs.cli import read_settings
from hardcl_nb.runs.compare import run_folders
from hardcl_nb.runs.monitor import end_run
from hardcl_nb.runs.questions import Experiment
from hardcl_nb.runs.storage import read_csv
from hardcl_nb.theory.bounds import ucl_bound
from hardcl_nb.theory.psi import MeanForm
from hardcl_nb.training.docstrings import TextPairs
from hardcl_nb.training.processes import pick_device
from hardcl_nb.training.streams import file_batches, stream_folder

# ---- front ends ----
def test_controls_by_hand_where_somebody_listens(monkeypatch):
    "A range stays a range, a list is chosen from; a figure is shown and closed at each move."
    shown, asked = [], {}
    monkeypatch.setattr(figures, 'listening', lambda: True)
    monkeypatch.setattr(figures, 'display', shown.append)
    monkeypatch.setattr(figures, 'interact', lambda show, **controls: (asked.update(controls), show(a=2, b='y')))
    before = plt.get_fignums()
    figures.by_hand(lambda a, b: plt.figure(), a=(1, 5, 2), b=['x', 'y'])
    assert asked['a']==(1, 5, 2) and list(asked['b'].options)==['x', 'y'] and len(shown)==1 and plt.get_fignums()==before

def test_a_folder_is_watched_where_somebody_listens(tmp_path, monkeypatch):
    "A run that stands still is looked at again and again; once it goes on to its end, the monitor ends."
    cfg = RunConfig(method='scl', steps=4, eval_every=1)
    def stop(rec):
        if rec['step']==2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run(cfg, tmp_path/'a', on_record=stop)
    monkeypatch.setattr(monitoring, 'listening', lambda: True)
    m = monitoring.FolderMonitor(tmp_path/'a', every=.01)
    assert not m.over and m.step==2 and 'nobody trains here now' in m.text
    run(cfg, tmp_path/'a', resume=True)
    for _ in range(500):
        if m.over: break
        time.sleep(.05)
    assert m.over and m.step==4 and len(m.records)==5
    m.ask()
    assert 'where none is' in m.text # nobody to ask

holder = """if True:
    import fcntl, os, platform, sys, time
    f = open(sys.argv[1], 'w')
    fcntl.flock(f, fcntl.LOCK_EX)
    f.write(f'{os.getpid()} {platform.node()}')
    f.flush()
    print('held', flush=True)
    time.sleep(60)"""

@pytest.mark.parametrize('proc', [True, False])
def test_one_process_asks_another_to_end(tmp_path, monkeypatch, proc):
    "By the number in its lock, once it is sure whose lock it is: from /proc, or where there is none, by the lock itself."
    pytest.importorskip('fcntl')
    run(RunConfig(method='scl', steps=2, eval_every=1), tmp_path/'a')
    if not proc:
        is_dir = Path.is_dir
        monkeypatch.setattr(Path, 'is_dir', lambda self: str(self)!='/proc/self/fd' and is_dir(self))
    m = monitor(tmp_path/'a')
    with subprocess.Popen([sys.executable, '-c', holder, str(tmp_path/'a/.lock')], stdout=subprocess.PIPE, text=True) as p:
        try:
            assert p.stdout.readline()=='held\n'
            m.ask()
            assert f'asked process {p.pid} to end with a checkpoint' in m.text and p.wait(30)==-signal.SIGTERM
        finally: p.kill()
    with pytest.raises(ValueError, match=f'which process {p.pid} has left'): end_run(tmp_path/'a')

# ---- missing packages, other systems ----
def test_tensorboard_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(ValueError, match=r'^tensorboard: expected the package tensorboard, got none \(pip install'): run(RunConfig(steps=1), tmp_path/'a', tensorboard=True)
    assert not (tmp_path/'a').exists()

def test_an_encoder_of_sentences_reads_64_tokens(tmp_path, monkeypatch):
    "Of the model that the package carries; its vectors are kept in half precision, of length 1."
    class Model:
        def __init__(self, path): self.path = path
        def encode(self, texts, **how):
            assert self.path=='here' and self.max_seq_length==64 and how['normalize_embeddings']
            return np.array([[len(t), 3.] for t in texts])
    for name,attribute,value in (('all_minilm_l6_v2', 'get_model_path', lambda: 'here'), ('sentence_transformers', 'SentenceTransformer', Model)):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        setattr(sys.modules[name], attribute, value)
    a, b = code_search.frozen_embeddings((['abcd'], ['x']), tmp_path/'e.npz')
    torch.testing.assert_close(a, torch.tensor([[.8, .6]]), rtol=1e-3, atol=0)
    assert b.shape==(1, 2)
    with np.load(tmp_path/'e.npz') as f: assert f['a'].dtype==np.float16

def test_the_docstrings_of_this_python_are_read_once(monkeypatch, tmp_path):
    "All runs of an experiment share them."
    made, n = [], 40
    words = [f'word{chr(97+i//26)}{chr(97+i%26)}' for i in range(n)]
    pairs = TextPairs('d', [f'the {w}' for w in words], [f'x {w}' for w in words], ['f']*n, ['g']*n, [i%4==0 for i in range(n)], [], 1, 0)
    monkeypatch.setattr('hardcl_nb.training.docstrings.docstring_pairs', lambda cache: made.append(cache) or pairs)
    cfg = code_search.SearchConfig(batch_size=8, steps=2, dim=4, data=str(tmp_path))
    got = [code_search.search(replace(cfg, seed=s)) for s in (0, 1)]
    assert made==[str(tmp_path)] and {g['pairs_digest'] for g in got}=={pairs.digest}
    code_search._data.cache_clear()

def test_topics_of_the_standard_library(monkeypatch, tmp_path):
    "Modules with enough sentences, without those about tests; kept like any pairs."
    for name,k in (('one', 30), ('two', 30), ('few', 5), ('test', 30)):
        lines = [f'def f{i}(x):\n    "{name} does thing number {chr(97+i%26)}{chr(97+i//26)} well."\n    return x+{i}+len({name!r})\n' for i in range(k)]
        (tmp_path/'lib').mkdir(exist_ok=True)
        (tmp_path/f'lib/{name}.py').write_text('\n'.join(lines))
    monkeypatch.setattr(topics_module.sysconfig, 'get_paths', lambda: dict(stdlib=str(tmp_path/'lib')))
    d = topics_module.topics(tmp_path/'kept')
    assert d.name=='topics' and d.classes==('one', 'two') and len(d.train_x)+len(d.test_x)==60 and len([*(tmp_path/'kept').iterdir()])==1

def test_an_experiment_whose_package_is_missing_is_left_out(monkeypatch, tmp_path, capsys):
    "Its words say how to come by it; a mistake of an import that is ours is none of these."
    @dataclass(frozen=True)
    class Needs:
        data:str='data'
        seed:int=0
        said:str="expected pip install 'x'"
        def result(self): raise ImportError(self.said)
    monkeypatch.setattr(experiments, 'find', lambda name: Needs)
    exp = Experiment('needs', 'Is it here?', 'No.', (dict(said="expected pip install 'x'"),), seeds=1)
    monkeypatch.setattr(experiments, 'experiments', {'needs': exp})
    experiments.hardcl_experiment(['--out', str(tmp_path)])
    said = capsys.readouterr()
    assert '0 of 1 experiments, without needs' in said.out and "needs left out: expected pip install 'x'" in said.err
    monkeypatch.setattr(experiments, 'experiments', {'needs': replace(exp, runs=(dict(said='no module of ours'),))})
    with pytest.raises(ImportError, match='no module of ours'): experiments.hardcl_experiment(['--out', str(tmp_path)])

def test_devices_that_are_not_there():
    for name,said in (('nonsense', "expected auto, cpu, cuda"), ('meta', "^device: expected a device that is there, got 'meta'")):
        with pytest.raises(ValueError, match=said): pick_device(name)

# ---- files, words, numbers ----
def test_a_picture_that_a_reading_process_finds_damaged_is_named_in_one_line(tmp_path):
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(8): Image.new('RGB', (8, 8), (20*i, 0, 0)).save(tmp_path/f'{c}/{i}.png')
    data,_ = stream_folder(tmp_path, 8, val=0.)
    for p in tmp_path.rglob('*.png'): p.write_bytes(p.read_bytes()[:40])
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r'^data: expected an image, got a damaged or unknown file \S+[.]png: .*$') as e: next(file_batches(data, 4, workers=workers))
        assert '\n' not in str(e.value)

def test_settings_of_a_run_are_settings_for_another(tmp_path):
    "Its config.json is taken by --config."
    run(RunConfig(method='hscl', beta=2., steps=1), tmp_path/'a')
    got = read_settings(tmp_path/'a/config.json', {k: type(v) for k,v in vars(RunConfig()).items()})
    assert got['method']=='hscl' and got['beta']==2. and 'config' not in got

def test_a_table_with_words(tmp_path):
    (tmp_path/'a.csv').write_text('step,who,x\n1,somebody,2.5\n2,,16_1\n')
    (a, b) = read_csv(tmp_path/'a.csv')
    assert a==dict(step=1, who='somebody', x=2.5) and b['who']!=b['who'] and b['x']=='16_1'

def test_a_damaged_run_of_a_comparison_keeps_its_folder(tmp_path):
    "It is named when it is read; folders of others are not in its way."
    cfgs = [RunConfig(method='scl', steps=1, seed=s) for s in (0, 1)]
    before = run_folders(cfgs, tmp_path)
    for p in before.values():
        p.mkdir(parents=True)
        (p/'config.json').write_text('{')
    assert run_folders(cfgs, tmp_path)==before

def test_numbers_of_a_failed_check_in_few_digits():
    @judge
    def check_third(f): torch.testing.assert_close(f(), 1/3)
    with pytest.raises(NotYet, match=r'got 0\.25, expected 0\.333333'): check_third(lambda: .25)
    @judge
    def check_i(f): torch.testing.assert_close(f(), 1j)
    with pytest.raises(NotYet, match=r'got \(?2\+1j\)?, expected 1j'): check_i(lambda: 2+1j)

@pytest.mark.parametrize('C', [2, 5, 50])
def test_the_limit_of_a_price_of_a_mean(C):
    "Ever more negatives: a share 1/C at 0, the others at -C/(C-1)."
    psi = MeanForm(torch.exp, torch.log1p)
    t = -C/(C-1)
    assert abs(ucl_bound(C, psi)-np.log1p(1/C+(1-1/C)*np.exp(t)))<1e-12
    assert abs(ucl_bound(C, psi)-ucl_bound(C, psi, k=200))<.01

def test_one_device_has_no_others(tmp_path):
    "Gathering across devices, on a single one, changes neither loss nor gradient."
    xs = [torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)).double()).requires_grad_() for i in range(3)]
    model = lambda features: {'sentence_embedding': features['x']}
    def both(gather):
        loss = HardNegativeRankingLoss(model, beta=1., gather_across_devices=gather)([{'x': x} for x in xs])
        return loss, torch.autograd.grad(loss, xs)
    alone = both(True) # no devices are known of
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try: together, apart = both(True), both(False)
    finally: dist.destroy_process_group()
    for got in (alone, together): torch.testing.assert_close(got, apart)
