"Run folders: resume, overwrite, damaged files."
import errno, json, math, os, resource, shutil, signal, subprocess, sys, warnings
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.runs.config import RunConfig, run_name
from hardcl_nb.training.data import Data
from hardcl_nb.training.datasets import load_dataset
from hardcl_nb.training.images import save_npz
from hardcl_nb.training.processes import Interrupted
from hardcl_nb.runs.build import build_bound, build_data
from hardcl_nb.runs.checkpoints import load_checkpoint, save_checkpoint
from hardcl_nb.runs.storage import read_all, read_csv, write_csv
from hardcl_nb.runs.folder import run

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-10**9, 10**9)

@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5))
def test_csv_keeps_every_bit(tmp_path_factory, rows):
    p = tmp_path_factory.mktemp('csv')/'t.csv'
    rows = [dict(a=a, b=b) for a,b in rows]
    write_csv(p, rows)
    assert read_csv(p)==rows

@pytest.mark.parametrize('stop', [0, 10, 15])
def test_resume_gives_the_same_bytes(tmp_path, stop):
    cfg = RunConfig(method='hucl', beta=3., steps=15, eval_every=5, batch_size=64)
    class Stop(Exception): pass
    def halt(rec):
        if rec['step']==stop: raise Stop
    run(cfg, tmp_path/'a')
    with pytest.raises(Stop): run(cfg, tmp_path/'b', on_record=halt)
    run(cfg, tmp_path/'b', resume=True)
    for f in ('metrics.csv', 'spectrum.csv', 'config.json', 'checkpoint.safetensors'): assert (tmp_path/'a'/f).read_bytes()==(tmp_path/'b'/f).read_bytes(), f

def test_resume_of_a_run_that_never_reached_a_checkpoint_starts_it(tmp_path):
    cfg = RunConfig(method='scl', steps=5, eval_every=5)
    def halt(rec): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): run(cfg, tmp_path/'a', on_record=halt)
    (tmp_path/'a/checkpoint.safetensors').unlink()
    rows = run(cfg, tmp_path/'a', resume=True)
    assert [r['step'] for r in rows]==[0, 5]

def test_a_finished_run_without_its_checkpoint_is_not_trained_again(tmp_path):
    cfg = RunConfig(method='scl', steps=5, eval_every=5)
    run(cfg, tmp_path)
    (tmp_path/'checkpoint.safetensors').unlink()
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(ValueError, match='expected the checkpoint to go on from, or overwrite, got none, while metrics.csv has 2 rows'): run(cfg, tmp_path, resume=True)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()}==before
    assert [r['step'] for r in run(cfg, tmp_path, overwrite=True)]==[0, 5]

@pytest.fixture(scope='session')
def pics(tmp_path_factory):
    "The digits as 8x8 pictures in an npz file."
    d = load_dataset('digits'); x = lambda v: (v*255).byte().view(-1, 1, 8, 8)
    p = tmp_path_factory.mktemp('pics')/'pics.npz'
    save_npz(Data('pics', x(d.train_x), d.train_y, x(d.test_x), d.test_y, 10), p)
    return str(p)

@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('kw', [dict(augment='light', views=2, batch_size=32), dict(k=8), dict(per_class=4, batch_size=40, optimiser='sgd', lr_schedule='cosine', beta_schedule='rise'), dict(init='nc')])
def test_a_signal_between_evaluations_leaves_the_same_bytes(tmp_path, pics, kw, signum, monkeypatch):
    "Generators of augmentation and draws, schedules and near-NC starts go on where they stopped."
    cfg = RunConfig(data=pics if 'augment' in kw else 'digits', arch='mlp', steps=9, eval_every=4, **kw)
    run(cfg, tmp_path/'a')
    step, count = torch.optim.Optimizer.zero_grad, iter(range(1, 1000))
    def at_six(self, *a, **k):
        if cfg.init=='random' and next(count)==6: signal.raise_signal(signum)
        return step(self, *a, **k)
    if cfg.init=='nc': # its regression takes steps too: stop at an evaluation
        with pytest.raises(Interrupted): run(cfg, tmp_path/'b', on_record=lambda r: signal.raise_signal(signum) if r['step']==4 else None)
    else:
        monkeypatch.setattr(torch.optim.Optimizer, 'zero_grad', at_six)
        with pytest.raises(Interrupted, match='after step 6') as e: run(cfg, tmp_path/'b')
        assert e.value.signum==signum
        monkeypatch.undo()
    run(cfg, tmp_path/'b', resume=True)
    for f in ('metrics.csv', 'spectrum.csv', 'checkpoint.safetensors'): assert (tmp_path/'a'/f).read_bytes()==(tmp_path/'b'/f).read_bytes(), f

def test_a_signal_while_the_last_step_is_judged_leaves_a_whole_run(tmp_path):
    cfg = RunConfig(steps=4, eval_every=2)
    run(cfg, tmp_path/'a')
    with pytest.raises(Interrupted, match='after step 4'): run(cfg, tmp_path/'b', on_record=lambda r: signal.raise_signal(signal.SIGINT) if r['step']==4 else None)
    for f in ('metrics.csv', 'spectrum.csv', 'checkpoint.safetensors'): assert (tmp_path/'a'/f).read_bytes()==(tmp_path/'b'/f).read_bytes(), f
    with pytest.raises(Interrupted, match='after step 4'): run(cfg, tmp_path/'b', resume=True, on_step=lambda *a: signal.raise_signal(signal.SIGTERM)) # nothing is left to do
    assert [r['step'] for r in run(cfg, tmp_path/'b', resume=True)]==[0, 2, 4]

@pytest.mark.parametrize('file', ['metrics.csv', 'spectrum.csv'])
def test_altered_or_lost_rows_are_found_before_going_on(tmp_path, file):
    cfg = RunConfig(steps=4, eval_every=2)
    run(cfg, tmp_path)
    text = (tmp_path/file).read_text()
    lines = text.splitlines(keepends=True)
    digit = next(c for c in reversed(text) if c.isdigit())
    for bad in (''.join(lines[:-1]), text[::-1].replace(digit, str((int(digit)+1)%10), 1)[::-1]):
        (tmp_path/file).write_text(bad)
        with pytest.raises(ValueError, match=f'{file}: expected the rows up to step 4 that the checkpoint knows'): run(cfg, tmp_path, resume=True)
        assert (tmp_path/file).read_text()==bad

def test_names_that_look_like_numbers_stay_names(tmp_path):
    folder = tmp_path/'1e5.npz'
    rows = run(RunConfig(data=npz(folder, 0), arch='mlp', steps=1, eval_every=1, batch_size=16), tmp_path/'a')
    assert {r['data'] for r in rows}=={'1e5'}

def test_no_folder_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="out: expected the name of a folder, got ''"): run(RunConfig(steps=1), '')
    assert not list(tmp_path.iterdir())

def test_the_constant_of_the_loss_is_part_of_loss_and_bound(tmp_path):
    "The gap is measured against the bound of the same constant, temperature and hardness; it is never negative."
    for kw in (dict(alpha=0.), dict(tau=.5), dict(method='ucl', alpha=2.), dict(method='hucl', beta=5.)):
        rows = run(RunConfig(steps=2, eval_every=2, **kw), tmp_path/'a', overwrite=True)
        assert all(r['gap']>=-1e-6 for r in rows), kw
    assert rows[-1]['loss']>run(RunConfig(method='hucl', beta=5., alpha=0., steps=2, eval_every=2), tmp_path/'b')[-1]['loss']

def test_signals_are_handled_as_before_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(RunConfig(steps=1, eval_every=1), tmp_path/'a')
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))==before

def test_full_disk_leaves_the_checkpoint_before(tmp_path):
    "A limit on the size of files stands for a full disk; metrics already written stay, and the run goes on once there is room."
    run(RunConfig(steps=4, eval_every=4), tmp_path/'whole')
    whole = (tmp_path/'whole/checkpoint.safetensors').read_bytes()
    code = f"""if True:
        import resource, sys
        from hardcl_nb.runs.config import RunConfig
        from hardcl_nb.runs.folder import run
        def full(rec):
            if rec['step']==0: resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole)}//2, resource.RLIM_INFINITY))
        run(RunConfig(steps=4, eval_every=4), {str(tmp_path/'a')!r}, on_record=full)"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.returncode==1 and 'expected room for a checkpoint' in r.stderr and 'is intact' in r.stderr, r.stderr
    assert sorted(p.name for p in (tmp_path/'a').iterdir())==['checkpoint.safetensors', 'config.json', 'metrics.csv', 'spectrum.csv', 'speed.csv']
    run(RunConfig(steps=4, eval_every=4), tmp_path/'a', resume=True)
    assert (tmp_path/'a/checkpoint.safetensors').read_bytes()==whole and (tmp_path/'a/metrics.csv').read_bytes()==(tmp_path/'whole/metrics.csv').read_bytes()

@pytest.mark.parametrize('k', range(6))
def test_a_disk_that_is_full_at_any_file_leaves_a_run_that_goes_on(tmp_path, monkeypatch, k):
    "config.json, the tables and the checkpoint one after another: the line names the file, no part of one stays, --resume makes the same bytes."
    cfg, replace_, count = RunConfig(method='scl', steps=2, eval_every=1), os.replace, iter(range(100))
    def full(a, b):
        if next(count)==k: raise OSError(errno.ENOSPC, 'No space left on device')
        return replace_(a, b)
    run(cfg, tmp_path/'whole')
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match=r'/a/[a-z]+[.](json|csv|safetensors): expected room for .*No space left on device'): run(cfg, tmp_path/'a')
    monkeypatch.undo()
    left = [p.name for p in (tmp_path/'a').iterdir()] if (tmp_path/'a').exists() else []
    assert not [f for f in left if f.endswith('.tmp') or f=='.lock'] and bool(left)==(k>0)
    run(cfg, tmp_path/'a', resume=True)
    for f in ('metrics.csv', 'spectrum.csv', 'config.json', 'checkpoint.safetensors'): assert (tmp_path/'a'/f).read_bytes()==(tmp_path/'whole'/f).read_bytes(), f

def test_nan_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    cfg = RunConfig(steps=20, eval_every=5, optimiser='sgd', lr=1e30, warmup=10, norm='none')
    with pytest.raises(FloatingPointError, match=r'at step \d+'): run(cfg, tmp_path/'a')
    from hardcl_nb.training.encoders import make_encoder
    enc = make_encoder(64, 10)
    step,_ = load_checkpoint(tmp_path/'a/checkpoint.safetensors', enc, torch.optim.SGD(enc.parameters(), .1, momentum=.9))
    assert step==read_csv(tmp_path/'a/metrics.csv')[-1]['step']<20 and all(v.isfinite().all() for v in enc.state_dict().values())

def test_checkpoint_of_another_run_names_what_differs(tmp_path):
    run(RunConfig(steps=2, eval_every=2), tmp_path/'a')
    c = json.loads((tmp_path/'a/config.json').read_text()); c['config']['dim'] = 12
    (tmp_path/'a/config.json').write_text(json.dumps(c))
    with pytest.raises(ValueError, match='a checkpoint of this run, with dim = 12, got one of a run with dim = None'): run(RunConfig(steps=2, eval_every=2, dim=12), tmp_path/'a', resume=True)

def test_test_part_is_looked_at_once_and_the_validation_part_is_not_in_it(tmp_path):
    rows = run(RunConfig(steps=6, eval_every=2, val=.2), tmp_path/'a')
    assert [math.isnan(r['test_acc']) for r in rows]==[True, True, True, False] and not any(math.isnan(r['val_acc']) for r in rows)
    rows = run(RunConfig(steps=2, eval_every=1, val=0.), tmp_path/'b')
    assert all(math.isnan(r['val_acc']) for r in rows) and rows[-1]['test_acc']>0

def test_a_run_goes_on_on_another_device_name_or_data_root(tmp_path):
    run(RunConfig(steps=2, eval_every=1), tmp_path/'a')
    assert run(RunConfig(steps=2, eval_every=1, device='cpu', root='elsewhere'), tmp_path/'a', resume=True)

def test_label_free_run_on_pictures(tmp_path, pics):
    rows = run(RunConfig(data=pics, method='hucl', beta=1., positives='view', augment='light', arch='mlp', steps=10, eval_every=10), tmp_path/'a')
    assert rows[-1]['test_acc']>.2 and rows[0]['data']=='pics'

def test_tensorboard_is_asked_for_or_refused(tmp_path):
    code = f"import sys; sys.modules['tensorboard'] = None\nfrom hardcl_nb.runs.config import RunConfig\nfrom hardcl_nb.runs.folder import run\nrun(RunConfig(steps=1), {str(tmp_path/'a')!r}, tensorboard=True)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'tensorboard: expected the package tensorboard' in r.stderr and not (tmp_path/'a').exists()

def test_a_run_that_goes_on_with_another_number_of_processes_says_so(tmp_path, monkeypatch):
    "In one line, from the first process; with augmentation, which each process draws for itself, it is refused."
    import hardcl_nb.runs.folder as folder
    run(RunConfig(method='scl', steps=2, eval_every=2), tmp_path/'a')
    about = folder.read_checkpoint(tmp_path/'a/checkpoint.safetensors', tensors=False)[1]
    assert about['processes']==1
    for rank,said in ((0, 1), (1, 0)):
        monkeypatch.setattr(folder, 'rank_and_size', lambda: (rank, 2))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            folder._restore({}, {}, about)
        assert [str(w.message) for w in told]==said*['processes: the run had 1, it goes on with 2: sums are rounded otherwise']
    with pytest.raises(ValueError, match='processes: expected 1, as in the run to resume, got 2'): folder._restore({'augment': None}, {}, about)

def test_damaged_checkpoint_is_named_and_nothing_is_lost(tmp_path):
    cfg = RunConfig(method='scl', steps=5, eval_every=5)
    run(cfg, tmp_path/'a')
    before = (tmp_path/'a/metrics.csv').read_bytes()
    (tmp_path/'a/checkpoint.safetensors').write_bytes(b'garbage')
    with pytest.raises(ValueError, match='checkpoint.safetensors: expected a readable checkpoint'): run(cfg, tmp_path/'a', resume=True)
    assert (tmp_path/'a/metrics.csv').read_bytes()==before

def test_damaged_config_is_named(tmp_path):
    cfg = RunConfig(method='scl', steps=5, eval_every=5)
    run(cfg, tmp_path/'a')
    (tmp_path/'a/config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json'): run(cfg, tmp_path/'a', resume=True)

def test_config_says_what_was_run(tmp_path):
    cfg = RunConfig(method='ucl', steps=2, eval_every=1, dim=12)
    run(cfg, tmp_path/'a')
    c = json.loads((tmp_path/'a/config.json').read_text())
    assert RunConfig(**c['config'])==cfg and c['versions']['torch']==torch.__version__
    assert len([r for r in read_csv(tmp_path/'a/spectrum.csv') if r['step']==2])==9

def test_two_runs_with_one_seed_are_one(tmp_path):
    cfg = RunConfig(steps=3, eval_every=1, seed=4)
    assert str(run(cfg, tmp_path/'a'))==str(run(cfg, tmp_path/'b'))
    other = run(RunConfig(steps=3, eval_every=1, seed=5), tmp_path/'c')
    assert other[-1]['loss']!=run(cfg, tmp_path/'a', resume=True)[-1]['loss']

def test_default_method_and_names_are_unique():
    names = {run_name(RunConfig(method=m, beta=b, norm=n, seed=s)) for m,b in [('scl',0.),('hscl',0.),('hscl',.5),('hscl',5.)] for n in ('ball','none') for s in (0,1)}
    assert len(names)==16

@pytest.mark.parametrize('kw', [dict(seed=-1), dict(batch_size=1), dict(lr=float('inf')), dict(eval_every=0), dict(dim=0), dict(method='scl', beta=1.), dict(beta=float('inf')), dict(k=4, attached=True),
    dict(val=.95), dict(val=True), dict(arch='vit'), dict(views=3), dict(positives='view', views=1, augment='light'), dict(clip=0.), dict(tau=0.), dict(warmup=-1), dict(steps=True), dict(beta='5'), dict(data='nowhere/x')])
def test_settings_that_cannot_work_are_refused(kw):
    with pytest.raises((ValueError, TypeError), match='expected'): RunConfig(**kw)

def test_compiled_run_is_the_same_run(tmp_path, monkeypatch):
    "With a backend that changes nothing; the wrapped model has no length, like any module."
    compile = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda m: compile(m, backend='eager'))
    cfg = dict(steps=4, eval_every=2)
    assert str(run(RunConfig(**cfg, compile=True), tmp_path/'a'))==str(run(RunConfig(**cfg), tmp_path/'b'))

def test_files_of_others_are_not_deleted(tmp_path):
    (tmp_path/'metrics.csv').write_text('precious')
    for resume in (False, True):
        with pytest.raises(ValueError, match='out: expected a new folder, or overwrite, got .*, which holds metrics.csv but no config.json'): run(RunConfig(steps=2), tmp_path, resume=resume)
    assert [p.name for p in tmp_path.iterdir()]==['metrics.csv'] and (tmp_path/'metrics.csv').read_text()=='precious'
    with pytest.raises(ValueError, match='batch_size'): run(RunConfig(steps=2, batch_size=5000), tmp_path/'new')
    assert not (tmp_path/'new').exists()

def test_one_process_at_a_time(tmp_path):
    fcntl = pytest.importorskip('fcntl')
    run(RunConfig(steps=2, eval_every=2), tmp_path)
    fd = os.open(tmp_path/'.lock', os.O_RDWR|os.O_CREAT); fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match='where a run is going on'): run(RunConfig(steps=2, eval_every=2), tmp_path, resume=True)
    os.close(fd)
    run(RunConfig(steps=2, eval_every=2), tmp_path, resume=True)

def npz(path, seed, classes=3, each=20):
    g = np.random.default_rng(seed); y = np.arange(classes*each)%classes
    x = g.integers(0, 256, (len(y), 8, 8, 3), dtype=np.uint8)
    np.savez(path, train_images=x, train_labels=y, test_images=x[:classes], test_labels=y[:classes])
    return str(path)

def test_other_data_of_the_same_name_is_refused(tmp_path):
    cfg = RunConfig(data=npz(tmp_path/'x.npz', 0), arch='mlp', steps=2, eval_every=1, batch_size=16)
    run(cfg, tmp_path/'a')
    run(cfg, tmp_path/'a', resume=True)
    npz(tmp_path/'x.npz', 1)
    with pytest.raises(ValueError, match='data: expected those of the run to resume'): run(cfg, tmp_path/'a', resume=True)

def test_a_run_in_chunks_says_what_batch_normalisation_sees(tmp_path):
    "Chunks of the whole batch change nothing; smaller ones do, for each is normalised by itself."
    rows = {}
    for chunk in (None, 64, 32):
        cfg = RunConfig(batch_size=64, steps=2, eval_every=1, chunk=chunk)
        if chunk is None: rows[chunk] = run(cfg, tmp_path/'none')
        else:
            with pytest.warns(UserWarning, match=f'chunk: batch normalisation sees {chunk} rows in place of the batch'): rows[chunk] = run(cfg, tmp_path/str(chunk))
    loss = {k: [r['loss'] for r in v] for k,v in rows.items()}
    assert loss[64]==loss[None]!=loss[32] and loss[32][0]==loss[None][0]

def pictures(root, each=12, classes=3, size=8):
    "A folder of class folders of random RGB images."
    from PIL import Image
    g = np.random.default_rng(0)
    for c in range(classes):
        (root/f'c{c}').mkdir(parents=True)
        for i in range(each): Image.fromarray(g.integers(0, 256, (size, size, 3), np.uint8)).save(root/f'c{c}'/f'{i}.png')
    return root

@pytest.mark.parametrize('how', [dict(), dict(augment='light', views=2, positives='view', workers=1), dict(per_class=4, val=0.)], ids=str)
def test_a_stream_is_the_run_in_memory(tmp_path, how):
    "As long as the sample holds everything: the same numbers, to the last bit; also where it goes on."
    root = pictures(tmp_path/'p')
    cfg = RunConfig(data=str(root), image_size=8, arch='mlp', dim=4, batch_size=8, steps=6, eval_every=2, **{k: v for k,v in how.items() if k!='workers'})
    flow = replace(cfg, stream=True, **{k: v for k,v in how.items() if k=='workers'})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        want, got = run(cfg, tmp_path/'a'), run(flow, tmp_path/'b')
        run(replace(flow, steps=2), tmp_path/'c')
        on = run(flow, tmp_path/'c', resume=True)
    def numbers(rows): return [{k: v for k,v in r.items() if isinstance(v, float) and k not in ('images_per_s', 'memory_mb', 'seconds')} for r in rows]
    assert str(numbers(got))==str(numbers(want)) and len(got)==4
    assert str(numbers(on)[2:])==str(numbers(got)[2:]) # the shorter run judged the test part at its end, step 2

def test_a_stream_whose_files_changed_does_not_go_on(tmp_path):
    root = pictures(tmp_path/'p')
    cfg = RunConfig(data=str(root), image_size=8, arch='mlp', dim=4, batch_size=8, steps=1, stream=True)
    run(cfg, tmp_path/'a')
    (root/'c0'/'3.png').rename(root/'c0'/'33.png')
    with pytest.raises(ValueError, match='data: expected those of the run to resume'): run(replace(cfg, steps=2), tmp_path/'a', resume=True)

@pytest.mark.parametrize('how,says', [
    (dict(data='digits', stream=True, image_size=8), "stream: expected a folder of class folders, got 'digits'"), (dict(stream=True), 'image_size: expected a size for all images of a stream, got None'),
    (dict(workers=2), 'workers: expected 0 without stream, got 2'), (dict(stream=True, image_size=8, workers=-1), 'workers: expected a whole number >= 0'),
    (dict(raw=True, k=5), 'raw: expected one of the two'), (dict(raw=True, method='scl'), 'raw: expected raw with a method that has hardness'), (dict(raw=True, hardening='top'), 'raw: expected raw with hardening exp')], ids=str)
def test_streams_and_raw_weights_say_what_they_need(tmp_path, how, says):
    with pytest.raises(ValueError, match=says): build_data(RunConfig(**{'data': str(pictures(tmp_path/'p', 2)), **how}))

def test_raw_weights_from_the_settings():
    "The loss of a run is that of the function, and never below its bound: with equal classes at the simplex ETF it is there."
    from hardcl_nb.losses.contrastive import contrastive_loss
    from hardcl_nb.runs.build import build_bound, build_losses
    from hardcl_nb.theory.etf import simplex_etf
    from hardcl_nb.training.loop import probe_subset
    z0, y = torch.randn(24, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(4).repeat(6)
    data = Data('d', z0, y, z0, y, 4)
    cfg = RunConfig(raw=True, beta=3., tau=.7, alpha=.4, dim=3)
    loss, bound = build_losses(cfg)[1], build_bound(cfg, data)
    z = torch.nn.functional.normalize(z0, dim=1)
    assert loss(z, y).item()==pytest.approx(contrastive_loss(z, y, beta=3., tau=.7, alpha=.4, raw=True).item(), rel=1e-12)
    best = simplex_etf(4, 3).double()[y[probe_subset(data)]]
    assert loss(best, y[probe_subset(data)]).item()==pytest.approx(bound, rel=1e-6) and loss(z, y).item()>bound
    assert math.isnan(build_bound(replace(cfg, method='hucl'), data)) and build_bound(replace(cfg, raw=False), data)!=pytest.approx(bound, rel=1e-2)

def test_many_classes_and_few_samples(tmp_path):
    cfg = RunConfig(data=npz(tmp_path/'x.npz', 0, classes=520, each=4), arch='mlp', dim=16, steps=1, eval_every=1, batch_size=64, positives='view', augment='light')
    with pytest.warns(UserWarning, match='dim: 16 is below C-1'): assert len(run(cfg, tmp_path/'a'))==2
    g = np.zeros((7, 4, 4, 1), np.uint8); g[:,0,0,0] = range(7)
    for y,says in (([0,0,0,2,2,2,2], 'training samples of each of the 3 classes, numbered from 0, got none of class 1'), ([0,1,2,3,4,5,6], 'a class with two training samples')):
        np.savez(tmp_path/'y.npz', train_images=g, train_labels=np.array(y), test_images=g, test_labels=np.array(y))
        with pytest.raises(ValueError, match=says): run(RunConfig(data=str(tmp_path/'y.npz'), arch='mlp', steps=1, batch_size=4, val=0.), tmp_path/'b')

@pytest.fixture(scope='module')
def three(tmp_path_factory):
    "A comparison of three seeds."
    out = tmp_path_factory.mktemp('three')
    for s in range(3): run(RunConfig(steps=2, eval_every=1, batch_size=64, seed=s), out/f'runs/{s}')
    return out

@pytest.mark.parametrize('file, change, says', [
    ('config.json', None, 'left out: .*runs/1, a run without its config.json'),
    ('config.json', ('"seed": 1', '"seed": 7'), "config.json: expected {'seed': 1}, as in the checkpoint, got {'seed': 7}"),
    ('config.json', ('"beta": 5.0', '"beta": 5.4'), "config.json: expected {'beta': 5.0}"),
    ('config.json', ('"steps": 2', '"steps": 1'), "config.json: expected {'steps': 2}"),
    ('checkpoint.safetensors', None, 'runs/1: its checkpoint is gone, so its rows cannot be checked'),
])
def test_a_damaged_run_of_a_comparison_is_named(three, tmp_path, file, change, says):
    "Neither lost without a word nor shown under other settings."
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    with warnings.catch_warnings(action='error'): assert len(read_all(tmp_path)[0])==3
    p = tmp_path/'runs/1'/file
    p.write_text(p.read_text().replace(*change)) if change else p.unlink()
    with pytest.warns(UserWarning, match=says) if change is None else pytest.raises(ValueError, match=says): read_all(tmp_path)

@pytest.mark.parametrize('file, text', [('speed.csv', b'step,images_per_s,memory_mb\n0,\xb7,1\n'), ('metrics.csv', ''), ('speed.csv', 'a,b\n'), ('config.json', '[1]'), ('config.json', '{"config": null}'), ('config.json', '{"config": [1]}')])
def test_damaged_files_are_named(tmp_path, file, text):
    run(RunConfig(steps=2, eval_every=2), tmp_path)
    (tmp_path/file).write_bytes(text.encode() if isinstance(text, str) else text); before = (tmp_path/'checkpoint.safetensors').read_bytes()
    with pytest.raises(ValueError, match=f"{file}: expected"): run(RunConfig(steps=2, eval_every=2), tmp_path, resume=True)
    assert (tmp_path/'checkpoint.safetensors').read_bytes()==before

def test_a_checkpoint_is_complete_and_of_this_run(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file
    cfg = RunConfig(steps=2, eval_every=2); run(cfg, tmp_path)
    file = tmp_path/'checkpoint.safetensors'
    with safe_open(str(file), 'pt') as f: t, about = {k: f.get_tensor(k).clone() for k in f.keys()}, json.loads(f.metadata()['run'])
    for change,tensors,says in ((dict(step=99), t, 'at most 2, the steps of the run, got step 99'), (dict(step='x'), t, "a number of steps, got step 'x'"), (dict(settings={**about['settings'], 'seed': 3}), t, 'a checkpoint of this run, with seed = 0, got one of a run with seed = 3'),
            ({}, {k: v for k,v in t.items() if not k.startswith('opt')}, 'the state of the optimiser after 2 steps, got none'), ({}, {k: v[:1] if k=='opt.0.exp_avg' else v for k,v in t.items()}, 'the state of this optimiser, got 1 that do not fit')):
        save_file({k: v.contiguous() for k,v in tensors.items()}, file, metadata={'run': json.dumps({**about, **change})})
        with pytest.raises(ValueError, match=says): run(cfg, tmp_path, resume=True)

@pytest.mark.parametrize('data', ['digits', 'latent100'])
def test_the_table_of_the_home_page_has_gaps_to_the_bounds_of_today(data):
    "A bound that is sharpened asks for the demo's results anew."
    _, train, _ = build_data(RunConfig(data=data))
    rows = [r for r in read_csv(Path(__file__).parent.parent/'nbs/results/demo.csv') if r['data']==data and r['norm']=='ball']
    assert len(rows)==30
    for r in rows:
        cfg = RunConfig(data=data, method=r['method'], beta=r['beta'])
        assert r['loss']-r['gap']==pytest.approx(build_bound(cfg, train), abs=1e-9), (r['method'], r['beta'])
