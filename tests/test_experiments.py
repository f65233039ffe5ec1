"Experiments: what tells their settings apart, what is kept of a run, and what the command line says."
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import pytest
import hardcl_nb.runs.experiments as module
from hardcl_nb.runs.compare import run_folders
from hardcl_nb.runs.experiments import ExperimentOptions, configs, digest_of, experiments, hardcl_experiment, load_results, run_experiment
from hardcl_nb.runs.folder import run
from hardcl_nb.runs.questions import Experiment, settings_of
from hardcl_nb.runs.storage import read_csv

toy = Experiment('toy', 'Does a toy learn?', 'Yes.', tuple(settings_of(data='digits', steps=4, eval_every=1, batch_size=64, method__beta=[('scl', 0.), ('hscl', 5.)])), seeds=2)

@pytest.fixture
def here(monkeypatch):
    "Runs are made here, one after another, instead of in processes of their own."
    made = []
    def run_all(cfgs, out, **how):
        for c,p in run_folders(cfgs, out).items():
            if not p.exists(): made.append(run(c, p))
    monkeypatch.setattr(module, 'run_all', run_all)
    monkeypatch.setattr(module, 'experiments', {'toy': toy})
    return made

def test_a_digest_is_of_what_decides_the_numbers():
    "Not of the device or of where the data lies; any other setting is another question."
    a = digest_of(configs(toy))
    assert a==digest_of(configs(toy, device='cpu', root='elsewhere')) and len(a)==64
    others = [digest_of(configs(toy, **kw)) for kw in (dict(lr=2e-3), dict(seeds=3), dict(steps=5), dict(tau=.5), dict(chunk=8))]
    assert len({a, *others})==6
    assert [(c.seed, c.method) for c in configs(toy)]==[(0, 'scl'), (0, 'hscl'), (1, 'scl'), (1, 'hscl')]
    with pytest.raises(ValueError, match='^colour: expected a setting of toy: data'): configs(toy, colour=1)

def test_every_experiment_can_be_made():
    "Its settings are settings, and no two runs of it are the same."
    for exp in experiments.values():
        cfgs = configs(exp)
        assert len(cfgs)==exp.seeds*len(exp.runs)==len({repr(c) for c in cfgs}), exp.name

def test_the_page_lists_the_experiments_that_there_are():
    "What page 69 shows is stored; experiments of later pages change it."
    page = Path(__file__).parent.parent/'nbs'/'69_experiments.ipynb'
    shown = [o for c in json.loads(page.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    lines = [l.split(maxsplit=3) for o in shown for l in ''.join(o.get('text', '')).splitlines()]
    listed = {l[0]: (int(l[1]), l[3]) for l in lines if len(l)==4 and l[0] in experiments and l[2]=='runs'}
    assert listed=={e.name: (len(e.runs)*e.seeds, e.question) for e in experiments.values()}, 'python .ci/refresh.py --path nbs/69_experiments.ipynb'

def test_results_are_those_of_the_folders(here, tmp_path):
    "Final numbers with six digits, what tells the runs apart, the last spectrum; a second call makes nothing, and the file is read again."
    store = tmp_path/'results/toy.json'
    got = run_experiment(toy, tmp_path/'o', store=store, progress=False)
    assert len(here)==4 and [(r['method'], r['beta'], r['seed']) for r in got['runs']]==[('scl', 0., 0), ('hscl', 5., 0), ('scl', 0., 1), ('hscl', 5., 1)]
    for r,p in zip(got['runs'], run_folders(configs(toy), tmp_path/'o').values()):
        rows = read_csv(p/'metrics.csv')
        assert r['curves']['step']==[0, 1, 2, 3, 4] and r['final']['loss']==float(f"{rows[-1]['loss']:.6g}") and r['curves']['test_acc'][:-1]==[None]*4
        assert r['spectrum']==[float(f"{s['value']:.6g}") for s in read_csv(p/'spectrum.csv') if s['step']==4]
    again = run_experiment(toy, tmp_path/'o', store=store, progress=False)
    assert len(here)==4 and again['runs']==got['runs'] and load_results(toy, store.parent)['runs']==got['runs']
    assert store.read_text(encoding='utf-8').count('\n')==1+4+1 # a run in a line
    with pytest.raises(ValueError, match='made with other settings'): load_results(replace(toy, runs=toy.runs[:1]), store.parent)
    with pytest.raises(FileNotFoundError, match='hardcl_experiment --name toy --store'): load_results(toy, tmp_path)

def test_seconds_are_those_of_all_calls(here, tmp_path, monkeypatch):
    "What a stopped call spent is not lost: the next one adds to it, and a refused one leaves no file."
    made = module.run_all
    def stopped(cfgs, out, **how):
        made(cfgs[:2], out)
        raise KeyboardInterrupt
    def refused(cfgs, out, **how): raise FileNotFoundError('no data')
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=iter([0., 5., 0., 100., 0., 40.]).__next__))
    monkeypatch.setattr(module, 'run_all', refused)
    with pytest.raises(FileNotFoundError): run_experiment(toy, tmp_path/'o', progress=False)
    assert not (tmp_path/'o').exists()
    monkeypatch.setattr(module, 'run_all', stopped)
    with pytest.raises(KeyboardInterrupt): run_experiment(toy, tmp_path/'o', progress=False)
    monkeypatch.setattr(module, 'run_all', made)
    assert run_experiment(toy, tmp_path/'o', progress=False)['seconds']==140.
    (tmp_path/'o/seconds.txt').write_text('a while')
    monkeypatch.setattr(module, 'time', SimpleNamespace(perf_counter=lambda: 0.))
    with pytest.raises(ValueError, match="seconds.txt: expected a number of seconds, got 'a while'"): run_experiment(toy, tmp_path/'o', progress=False)

def test_a_judge_adds_its_numbers(here, tmp_path):
    judged = replace(toy, runs=(dict(data='latent80', steps=1, eval_every=1, batch_size=64, method='scl'),), seeds=1, judge='hardcl_nb.training.rivals:unseen')
    assert 0<run_experiment(judged, tmp_path, progress=False)['runs'][0]['final']['unseen_acc']<1

def test_a_quick_try_on_the_command_line(here, tmp_path, capsys):
    hardcl_experiment(['--name', 'toy', '--quick', '--out', str(tmp_path/'o'), '--store', str(tmp_path/'s')])
    out = capsys.readouterr().out
    assert 'toy: Does a toy learn?\nPrediction: Yes.' in out and '2 runs in' in out and f'results in {tmp_path}/s/toy.json' in out
    assert len(here)==2 and json.loads((tmp_path/'s/toy.json').read_text())['changes']=={'epochs': None, 'steps': 20, 'eval_every': 20}
    hardcl_experiment(['--quick', '--out', str(tmp_path/'o')])
    assert capsys.readouterr().out.endswith('1 of 1 experiments\n') and len(here)==2

def test_the_first_word_is_the_name(here, tmp_path, capsys):
    hardcl_experiment(['toy', '--quick', '--out', str(tmp_path/'o')])
    assert capsys.readouterr().out.startswith('toy: Does a toy learn?\n') and len(here)==2
    hardcl_experiment(['all', '--quick', '--out', str(tmp_path/'o')])
    assert capsys.readouterr().out.endswith('1 of 1 experiments\n')

def test_without_a_word_nothing_is_made(here, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('sys.argv', ['hardcl_experiment'])
    hardcl_experiment()
    out = capsys.readouterr().out
    assert out.startswith('toy               4 runs  Does a toy learn?\n') and out.count('\n')==2 and not here and not list(tmp_path.iterdir())

@pytest.mark.parametrize('words, said', [(['--name', 'tyo'], 'did you mean toy'), (['tyo'], 'did you mean toy'), (['--sedes', '1'], 'sedes'), (['--name', 'toy', '--store', ''], 'store: expected the name of a folder'),
    (['--name', 'toy', '--data', 'cifar100'], 'a file of the data of toy, and called like them: digits')])
def test_refused_in_one_line(here, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit): hardcl_experiment([*words, '--out', str(tmp_path/'o')])
    err = capsys.readouterr().err
    assert said in err and err.count('\n')==1 and not here

def test_without_its_data_an_experiment_is_left_out(here, tmp_path, capsys, monkeypatch):
    "The others are made; asked for by itself it is an error that says how to come by the data."
    lost = replace(toy, name='lost', runs=(dict(data='cifar10', root=str(tmp_path), method='scl', steps=1, batch_size=64),))
    monkeypatch.setattr(module, 'experiments', {'lost': lost, 'toy': toy})
    words = ['--quick', '--out', str(tmp_path/'o')]
    hardcl_experiment(words)
    said = capsys.readouterr()
    assert '1 of 2 experiments, without lost' in said.out and 'warning: lost left out: data: expected the files of cifar10' in said.err and '--name lost --data FILE' in said.err
    with pytest.raises(SystemExit): hardcl_experiment([*words, '--name', 'lost'])
    assert 'hardcl_experiment: error: data: expected the files of cifar10' in capsys.readouterr().err
    with pytest.raises(TypeError, match="seeds: expected a whole number, got 'three'"): ExperimentOptions(seeds='three')

def test_what_is_said_of_missing_data_would_help(here, tmp_path, capsys, monkeypatch):
    "A data set that is made of another one's files does not come as a file of its own."
    made = replace(toy, name='made', runs=(dict(data='cifar16', root=str(tmp_path), method='scl', steps=1, batch_size=64),))
    monkeypatch.setattr(module, 'experiments', {'made': made})
    with pytest.raises(SystemExit): hardcl_experiment(['made', '--out', str(tmp_path/'o')])
    err = capsys.readouterr().err
    assert f'the files of cifar100 under {tmp_path}, found none or damaged ones, or as cifar100.npz' in err and '--data' not in err
