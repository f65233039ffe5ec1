"The command line, from outside: console scripts, exit codes, what is written and what is not."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import pytest
from safetensors import safe_open
from hardcl_nb.runs.cli import hardcl_train
from hardcl_nb.runs.compare import hardcl_compare
from hardcl_nb.runs.experiments import hardcl_experiment
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.folder import run

def here(program, *args, capfd):
    "A command line in this process: exit code and stderr."
    code = 0
    try: program([*args])
    except SystemExit as e: code = e.code
    return SimpleNamespace(returncode=code, stderr=capfd.readouterr().err)

def sh(mod, *args, cwd=None): return subprocess.run([sys.executable, '-m', f'hardcl_nb.runs.{mod}', *args], capture_output=True, text=True, cwd=cwd)

@pytest.mark.parametrize('args, says', [
    ('--methods scl,foo', "method: expected one of scl, hscl, ucl, hucl, supcon, ntxent, sampled ... , got 'foo'"), # ...: what else a program has registered
    ('--data digits,mnist', "data: expected one of digits, latent100, cifar10, cifar100, stl10, tinyimagenet ... , an .npz file or a folder of class folders, got 'mnist'"),
    ('--data digits,docstrings', 'data: expected labelled samples, got docstrings, pairs of texts (hardcl_experiment --name retrieval trains on them)'),
    pytest.param('--data digits --augment simclr', 'augment: expected none for a data set without images, got simclr', marks=pytest.mark.slow),
    ('--hardness 3', 'unrecognized arguments: --hardness 3'),
    ('--qqq 3', 'unrecognized arguments: --qqq 3; expected what hardcl_compare --help shows'),
    ('--config none.json', 'config: expected a JSON or YAML file, got none.json'),
    ('--overlay nowhere --steps 1 --methods scl', 'overlay: expected folders of runs or comparisons, got nowhere'),
    ('--threads -1', 'threads: expected a whole number >= 0, got -1'),
    ('--norms ball,cube', "norm: expected one of ball, sphere, none, got 'cube'"),
    ('--betas 0,-2', 'beta: expected a finite number >= 0, got -2'),
    ('--betas 0,nan', 'beta: expected a finite number >= 0, got nan'),
    ('--betas 0,inf', 'beta: expected a finite number >= 0, got inf'),
    ('--betas 0,x', "betas: expected a number, got 'x'"),
    ('--betas ,', "betas: expected values between commas, got ','"),
    ('--methods hscl,scl --betas 0 --seeds -1', 'seed: expected a whole number >= 0, got -1'),
    ('--seeds 1.5', "seeds: expected a whole number, got '1.5'"),
    ('--batch_size 1', 'batch_size: expected a whole number >= 2, got 1'),
    pytest.param('--batch_size 2000', 'batch_size: expected at most 1211', marks=pytest.mark.slow),
    pytest.param('--data latent100 --steps 5 --warmup 5', 'warmup: expected less than 5', marks=pytest.mark.slow),
    ('--workers -1', 'workers: expected a whole number >= 0, got -1'),
    ('--lr 0', 'lr: expected a finite number > 0, got 0'),
    ('--resume --overwrite', 'resume: expected one of'),
])
def test_compare_refuses(tmp_path, args, says, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e: hardcl_compare([*args.split(), '--out', 'new'])
    out, err = capfd.readouterr()
    assert e.value.code==2 and all(part in err for part in says.split(' ... ')) and err.count('\n')==1 and out=='', err
    assert not list(tmp_path.iterdir())

def test_folder_that_is_a_file_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'f').write_text('mine')
    for program in (hardcl_train, hardcl_compare):
        r = here(program, '--out', 'f', capfd=capfd)
        assert r.returncode==2 and 'out: expected a folder' in r.stderr and r.stderr.count('\n')==1, r.stderr
    assert (tmp_path/'f').read_text()=='mine'

def test_small_dim_is_allowed_with_a_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    r = here(hardcl_train, '--dim', '5', '--steps', '2', '--out', 'x', capfd=capfd)
    assert r.returncode==0 and 'hardcl_train: warning: dim: 5 is below C-1 = 9' in r.stderr and 'Theorem' in r.stderr

@pytest.mark.parametrize('signum', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_keeps_what_was_done_and_says_how_to_go_on(tmp_path, signum):
    args = [sys.executable, '-m', 'hardcl_nb.runs.cli', '--steps', '4000', '--eval_every', '20', '--out', str(tmp_path/'x')]
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (tmp_path/'x/checkpoint.safetensors').exists(): break
        time.sleep(.1)
    p.send_signal(signum)
    _,err = p.communicate(timeout=60)
    assert p.returncode==128+signum and f'stopped by {signum.name} after step' in err.splitlines()[-1] and '--resume goes on' in err.splitlines()[-1]
    done = (tmp_path/'x/metrics.csv').read_text().splitlines()
    assert len(done)>=2

def test_console_scripts_are_installed():
    bin = Path(sys.executable).parent
    for name in ('hardcl_train', 'hardcl_compare'):
        r = subprocess.run([str(bin/name), '--help'], capture_output=True, text=True)
        assert r.returncode==0 and '--out' in r.stdout

@pytest.mark.parametrize('args, says', [(['--out', ''], "out: expected the name of a folder, got ''"), (['--store', ' '], "store: expected the name of a folder, got ' '")])
def test_an_experiment_without_a_folder_is_refused(tmp_path, args, says, monkeypatch, capfd):
    "As with `--out $UNSET`: nothing is trained into the folder that one stands in."
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e: hardcl_experiment(args)
    assert e.value.code==2 and capfd.readouterr()==('', f'hardcl_experiment: error: {says}\n') and not list(tmp_path.iterdir())

def test_a_wrong_option_is_like_another_by_its_letters_not_by_its_dashes(capfd):
    with pytest.raises(SystemExit): hardcl_train(['--bogus', '3'])
    assert capfd.readouterr().err=='hardcl_train: error: unrecognized arguments: --bogus 3; expected what hardcl_train --help shows\n'

def test_the_folder_says_which_machine_made_the_run_and_nothing_else_is_changed(tmp_path):
    "A line for each time that records begin: on a machine, with so many processes; a new run begins the notes anew."
    words, whole, cut = ['--method', 'scl', '--eval_every', '2'], tmp_path/'whole', tmp_path/'cut'
    notes = lambda: [(l.split(',')[0], l.split(',')[-1]) for l in (cut/'machine.csv').read_text().splitlines()[1:]]
    for steps in (2, 4): run(RunConfig(method='scl', steps=steps, eval_every=2), whole, resume=True)
    hardcl_train([*words, '--steps', '2', '--out', str(cut)])
    assert notes()==[('0', '1')]
    hardcl_train([*words, '--steps', '4', '--out', str(cut), '--resume'])
    assert notes()==[('0', '1'), ('4', '1')]
    for f in ('metrics.csv', 'spectrum.csv', 'config.json', 'checkpoint.safetensors'): assert (cut/f).read_bytes()==(whole/f).read_bytes(), f
    assert {p.name for p in cut.iterdir()}-{p.name for p in whole.iterdir()}=={'machine.csv'}
    hardcl_train([*words, '--steps', '2', '--out', str(cut), '--overwrite'])
    assert notes()==[('0', '1')]

@pytest.mark.slow
def test_compare_resumes_and_grows(tmp_path):
    args = ['--methods', 'scl', '--steps', '4', '--eval_every', '2', '--workers', '1', '--out', 'c']
    assert sh('compare', *args, cwd=tmp_path).returncode==0
    first = (tmp_path/'c/runs/digits-scl-b0-ball-s0/metrics.csv')
    before = first.stat().st_mtime_ns, first.read_bytes()
    r = sh('compare', *args[2:], '--methods', 'scl,hscl', '--betas', '5', '--resume', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert first.read_bytes()==before[1]
    assert (tmp_path/'c/metrics.csv').read_text().count('hscl,5.0')==3
    r = sh('compare', *args, '--lr', '0.1', '--resume', cwd=tmp_path)
    assert r.returncode==2 and 'lr: expected 0.001, as in the run to resume' in r.stderr

def test_config_file_is_overridden_by_flags_and_a_typing_error_in_it_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'c.json').write_text('{"method": "ucl", "steps": 2, "eval_every": 1, "norm": "sphere"}')
    r = here(hardcl_train, '--config', 'c.json', '--norm', 'none', '--out', 'x', capfd=capfd)
    assert r.returncode==0, r.stderr
    c = json.loads((tmp_path/'x/config.json').read_text())['config']
    assert (c['method'], c['steps'], c['norm'])==('ucl', 2, 'none')
    (tmp_path/'d.json').write_text('{"stepz": 2}')
    r = here(hardcl_train, '--config', 'd.json', '--out', 'y', capfd=capfd)
    assert r.returncode==2 and 'got stepz in d.json' in r.stderr and r.stderr.count('\n')==1 and not (tmp_path/'y').exists()
    (tmp_path/'e.json').write_text('{"steps": "many", "betas": [5]}')
    r = here(hardcl_compare, '--config', 'e.json', '--out', 'z', capfd=capfd)
    assert r.returncode==2 and "steps: expected a whole number, got 'many'" in r.stderr and r.stderr.count('\n')==1

@pytest.mark.slow
def test_sigterm_to_a_comparison_saves_its_runs(tmp_path):
    args = [sys.executable, '-m', 'hardcl_nb.runs.compare', '--methods', 'scl,ucl', '--steps', '100000', '--eval_every', '20', '--out', 'c']
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    names = [f'c/runs/digits-{m}-b0-ball-s0' for m in ('scl', 'ucl')]
    for _ in range(600):
        if all((tmp_path/n/'metrics.csv').exists() and ',20,' in (tmp_path/n/'metrics.csv').read_text() for n in names): break
        time.sleep(.1)
    p.send_signal(signal.SIGTERM)
    try: _,err = p.communicate(timeout=120)
    finally: p.kill()
    assert p.returncode==143 and '--resume goes on' in err, err
    steps = [json.loads(safe_open(str(tmp_path/n/'checkpoint.safetensors'), 'pt').metadata()['run'])['step'] for n in names]
    assert all(s>=20 for s in steps)

@pytest.mark.slow
def test_workers_end_with_the_program_that_was_killed(tmp_path):
    args = [sys.executable, '-m', 'hardcl_nb.runs.compare', '--methods', 'scl', '--steps', '100000', '--eval_every', '20', '--workers', '1', '--out', 'c']
    p = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    folder = tmp_path/'c/runs/digits-scl-b0-ball-s0'
    def wait(what):
        for _ in range(1200):
            if what(): return True
            time.sleep(.1)
    assert wait((folder/'checkpoint.safetensors').exists) and (folder/'.lock').exists()
    p.kill(); p.wait()
    assert wait(lambda: not (folder/'.lock').exists()) # the run has saved itself and left
    before = (folder/'metrics.csv').read_bytes()
    time.sleep(1)
    assert (folder/'metrics.csv').read_bytes()==before

@pytest.mark.slow
def test_any_setting_may_be_a_list(tmp_path):
    small = ['--steps', '2', '--eval_every', '2', '--workers', '1', '--out', 'c']
    r = sh('compare', *small, '--methods', 'scl', '--tau', '.5,1', '--alpha', '0,1', cwd=tmp_path)
    assert r.returncode==0 and '4 runs' in r.stdout and r.stdout.splitlines()[0].split()[:7]==['data', 'norm', 'method', 'β', 'tau', 'alpha', 'seeds'], r.stderr
    names = {f'digits-scl-b0-ball-s0-tau{t}-alpha{a}' for t in ('0.5', '1') for a in (0, 1)}
    assert {p.name for p in (tmp_path/'c/runs').iterdir()}==names
    (tmp_path/f'c/runs/{min(names)}/checkpoint.safetensors').unlink()
    r = sh('compare', *small, '--methods', 'scl', '--tau', '.5', '--alpha', '0', '--resume', cwd=tmp_path)
    assert r.returncode==2 and r.stderr.count('\n')==1 and 'the checkpoint to go on from, or overwrite' in r.stderr, r.stderr

def on_terminal(*words):
    "What a program shows on a terminal of 140 columns, and its exit status; bars show every step, however fast the machine is."
    import fcntl, pty, struct, termios
    pid, fd = pty.fork()
    if not pid: os.execve(sys.executable, [sys.executable, '-m', *words], {**os.environ, 'TQDM_MININTERVAL': '0', 'TQDM_MINITERS': '1'})
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 140, 0, 0))
    text = b''
    while True:
        try: part = os.read(fd, 2**16)
        except OSError: break # its end
        if not part: break
        text += part
    return os.waitpid(pid, 0)[1], text.decode()

@pytest.mark.slow
def test_bars_know_the_steps_of_epochs_and_a_comparison_has_one_for_each_run(tmp_path):
    code, text = on_terminal('hardcl_nb.runs.cli', '--epochs', '10', '--eval_every', '20', '--out', str(tmp_path/'a'))
    assert code==0 and '0/40 [' in text and '40/40 [' in text and '/400' not in text and 'loss 0.' in text and 'gap 0.' in text and 'images ' in text
    assert {int(n) for n in re.findall(r'(\d+)/40 \[', text)}=={*range(41)} # it moves between evaluations
    code, text = on_terminal('hardcl_nb.runs.compare', '--methods', 'scl', '--seeds', '0,1', '--epochs', '100', '--eval_every', '20', '--workers', '2', '--out', str(tmp_path/'c'))
    assert code==0 and re.search(r'runs: +0%.* 0/2 \[', text), text[:500]
    for s in (0, 1): assert re.search(rf'digits-scl-b0-ball-s{s}:.*/400 \[.*loss 0\.', text), text[:2000]

@pytest.mark.slow
def test_a_run_that_is_left_out_is_named(tmp_path):
    small = ['--eval_every', '1', '--workers', '1', '--methods', 'scl', '--out', 'c']
    assert sh('compare', *small, '--steps', '2', cwd=tmp_path).returncode==0
    half = tmp_path/'c/runs/digits-scl-b0-ball-s1'
    half.mkdir()
    config = json.loads((tmp_path/'c/runs/digits-scl-b0-ball-s0/config.json').read_text())
    (half/'config.json').write_text(json.dumps({**config, 'config': {**config['config'], 'seed': 1}}))
    r = sh('compare', *small, '--steps', '2', '--resume', cwd=tmp_path)
    assert r.returncode==0 and 'left out: c/runs/digits-scl-b0-ball-s1, unfinished at step 0 of 2' in r.stderr and '1 run;' in r.stdout, r.stderr

@pytest.mark.slow
def test_overlay_shows_runs_from_elsewhere(tmp_path):
    small = ['--steps', '4', '--eval_every', '2', '--workers', '1']
    assert sh('cli', *small[:4], '--method', 'hscl', '--beta', '7', '--lr', '0.01', '--out', 'one', cwd=tmp_path).returncode==0
    r = sh('compare', *small, '--methods', 'scl', '--overlay', 'one', '--out', 'c', cwd=tmp_path)
    assert r.returncode==0 and 'HSCL' in r.stdout and '2 runs' in r.stdout and 'the runs differ in lr too' in r.stderr, r.stderr
    assert (tmp_path/'c/nc-digits-ball.csv').read_text().count('β = 7')==3*3

@pytest.mark.slow
def test_a_comparison_spares_what_is_not_its_own_and_tells_data_sets_apart(tmp_path):
    import numpy as np
    for i,folder in enumerate('ab'):
        g = np.random.default_rng(i); y = np.arange(60)%3; (tmp_path/folder).mkdir()
        x = g.integers(0, 256, (60, 6, 6, 1), dtype=np.uint8)
        np.savez(tmp_path/folder/'x.npz', train_images=x, train_labels=y, test_images=x, test_labels=y)
    (tmp_path/'moved').mkdir(); (tmp_path/'moved/x.npz').write_bytes((tmp_path/'a/x.npz').read_bytes())
    small = ['--methods', 'scl', '--steps', '2', '--eval_every', '1', '--batch_size', '16', '--arch', 'mlp', '--workers', '1']
    (tmp_path/'mine').mkdir(); (tmp_path/'mine/report.html').write_text('precious')
    r = sh('compare', *small, '--out', 'mine', cwd=tmp_path)
    assert r.returncode==2 and 'got mine, which already holds report.html' in r.stderr
    for folder,seed in (('a', 0), ('b', 1), ('moved', 2)): assert sh('compare', *small, '--data', f'{folder}/x.npz', '--seeds', str(seed), '--out', f'c{folder}', cwd=tmp_path).returncode==0
    r = sh('compare', *small, '--data', 'a/x.npz', '--out', 'ca', '--resume', '--overlay', 'cb', cwd=tmp_path)
    assert r.returncode==2 and 'data: expected one data set of the name x, got a/x.npz in ca/runs/x-scl-b0-ball-s0 and b/x.npz, which differs' in r.stderr
    r = sh('compare', *small, '--data', 'a/x.npz', '--out', 'ca', '--resume', '--overlay', 'cmoved', cwd=tmp_path)
    assert r.returncode==0 and '2 runs' in r.stdout, r.stderr
    (tmp_path/'bad/runs/z').mkdir(parents=True); (tmp_path/'bad/runs/z/config.json').write_text('{"x": 1}')
    r = sh('compare', *small, '--out', 'never', '--overlay', 'bad', cwd=tmp_path)
    assert r.returncode==2 and 'z: expected the files of a run' in r.stderr and not (tmp_path/'never').exists()

@pytest.mark.slow
def test_files_of_settings(tmp_path):
    def train(text, *args):
        (tmp_path/'c.json').write_text(text)
        r = sh('cli', '--config', 'c.json', *args, '--overwrite', '--out', 'one', cwd=tmp_path)
        return r if r.returncode else json.loads((tmp_path/'one/config.json').read_text())['config']
    c = train('{"epochs": 2, "batch_size": 600}', '--steps', '1')
    assert (c['steps'], c['epochs'])==(1, None) # a flag wins over the file
    r = sh('cli', '--steps', '1', '--epochs', '1', '--out', 'two', cwd=tmp_path); assert r.returncode==2 and 'steps: expected one of steps and epochs, got both' in r.stderr
    for text,says in (('{"config": {"steps": 2}, "lr": 7}', 'config: expected settings among'), ('{"steps": null}', 'steps: expected a whole number, got None'), ('{"lr": 1'+'0'*400+'}', 'lr: expected a number'), ('['*10**5, 'config: expected JSON')):
        r = train(text); assert r.returncode==2 and says in r.stderr and r.stderr.count('\n')==1, r.stderr[-300:]
    (tmp_path/'c.json').write_text('{"method": "scl", "norm": "sphere", "seed": 7, "steps": 2, "eval_every": 2}')
    r = sh('compare', '--config', 'c.json', '--methods', 'hscl', '--betas', '2', '--workers', '1', '--out', 'c', cwd=tmp_path)
    assert r.returncode==0 and [p.name for p in (tmp_path/'c/runs').iterdir()]==['digits-hscl-b2-sphere-s7'], r.stderr
    (tmp_path/'c.json').write_text('{"seeds": [0.5, 1.7], "methods": ["scl"], "steps": 2}')
    r = sh('compare', '--config', 'c.json', '--out', 'd', cwd=tmp_path); assert r.returncode==2 and 'seeds: expected a whole number, got 0.5' in r.stderr
    r = sh('compare', '--betas', '', '--out', 'd', cwd=tmp_path); assert r.returncode==2 and 'betas: expected values between commas' in r.stderr

@pytest.mark.slow
def test_all_experiments_go_on_past_data_that_are_missing(tmp_path, monkeypatch, capfd):
    from hardcl_nb.runs import experiments as module
    from hardcl_nb.runs.questions import Experiment
    runs = lambda **settings: (dict(root=str(tmp_path), method='scl', batch_size=64, **settings),)
    toys = {n: Experiment(n, 'Is it there?', 'Yes.', runs(data=d), 1) for n,d in (('lost', 'cifar10'), ('there', 'digits'))}
    monkeypatch.setattr(module, 'experiments', toys)
    words = ['--quick', '--workers', '1', '--out', str(tmp_path/'o')]
    hardcl_experiment(words)
    out,err = capfd.readouterr()
    assert '1 of 2 experiments, without lost' in out and '1 runs in' in out
    assert f'warning: lost left out: data: expected the files of cifar10 under {tmp_path}' in err and '--name lost --data FILE' in err
    with pytest.raises(SystemExit) as e: hardcl_experiment([*words, '--name', 'lost'])
    assert e.value.code==2 and 'hardcl_experiment: error: data: expected the files of cifar10' in capfd.readouterr()[1]
