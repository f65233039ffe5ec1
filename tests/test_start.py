"Ctrl-C while a command line loads: one line, exit code 130, whatever is being imported; other programs are as they were."
import configparser, os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest
from hardcl_nb import start
from hardcl_nb.runs import compare
from hardcl_nb.training.processes import Interrupted

root = Path(__file__).parent.parent
here = {**os.environ, 'PYTHONPATH': str(root)}

def heard(): signal.signal(signal.SIGINT, signal.default_int_handler) # in a test run in the background it is ignored, and a child inherits that

def program(folder, name, code, before=heard):
    "A script that runs some code, and what came of it."
    (folder/name).write_text(code)
    (folder/'greedy.py').write_text("import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException: print('swallowed')\n")
    return subprocess.run([sys.executable, str(folder/name)], capture_output=True, text=True, env=here, timeout=60, preexec_fn=before)

def test_the_programs_are_those_that_are_installed():
    ini = configparser.ConfigParser(delimiters=['=']); ini.read(root/'settings.ini', encoding='utf-8')
    assert sorted(start.programs)==sorted(l.split('=')[0] for l in ini['DEFAULT']['console_scripts'].split())

@pytest.mark.parametrize('words, asked, ours', [
    (['/usr/bin/hardcl_train', '--steps', '3'], [], True), ([r'C:\env\Scripts\hardcl_compare.exe'], [], True),
    (['hardcl_train_more.py'], [], False), (['my.py', 'hardcl_train'], [], False), ([], [], False), ([''], [], False),
    (['-m'], ['python', '-m', 'hardcl_nb.runs.cli'], True), (['-m'], ['python', '-m', 'mine'], False),
    (['/x/cli.py'], ['python', '-m', 'hardcl_nb.runs.cli'], False)]) # by then all is set
def test_what_is_a_program_of_ours(words, asked, ours): assert start._is_program(words, asked)==ours

def test_an_import_that_swallows_the_signal_does_not_keep_the_program(tmp_path):
    code = "from hardcl_nb.start import undo\nundo.append(lambda: print('in order', flush=True))\nimport greedy\nprint('went on')\n"
    r = program(tmp_path, 'hardcl_train', code)
    assert (r.returncode, r.stdout, r.stderr)==(130, 'in order\n', 'Stopped.\n')

def test_outside_of_an_import_it_is_an_exception(tmp_path):
    code = "import os, signal, hardcl_nb\ntry: os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: print('caught')\nos.kill(os.getpid(), signal.SIGINT)\n"
    r = program(tmp_path, 'hardcl_compare', code)
    assert (r.returncode, r.stdout, r.stderr)==(130, 'caught\n', 'Stopped.\n')

def test_other_errors_still_have_their_traceback(tmp_path):
    r = program(tmp_path, 'hardcl_train', 'import hardcl_nb\n1/0\n')
    assert r.returncode==1 and r.stderr.startswith('Traceback') and r.stderr.endswith('ZeroDivisionError: division by zero\n')

def test_other_programs_are_as_they_were(tmp_path):
    r = program(tmp_path, 'mine.py', "import signal, sys, hardcl_nb, greedy\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler and sys.excepthook is sys.__excepthook__\n")
    assert (r.returncode, r.stdout, r.stderr)==(0, 'swallowed\n', '')

def test_where_it_is_ignored_it_stays_so(tmp_path):
    r = program(tmp_path, 'hardcl_train', "import hardcl_nb, greedy\nprint('went on')\n", before=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (r.returncode, r.stdout)==(0, 'went on\n')

def stopped(folder, at, *words):
    "A program of ours that gets SIGINT after some seconds; its exit code, what it said, and what it left."
    args = [sys.executable, '-m', *words, '--out', str(folder/'x')]
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here, cwd=folder, start_new_session=True, preexec_fn=heard)
    time.sleep(at)
    p.send_signal(signal.SIGINT)
    try: _, err = p.communicate(timeout=60)
    finally:
        if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
    return p.returncode, [l for l in err.splitlines() if ': step ' not in l], [f.name for f in folder.glob('x/*')]

ends = ('Stopped.', 'interrupted', 'stopped by SIGINT after step')
@pytest.mark.parametrize('at', [.4, 1., 1.8])
def test_a_signal_while_a_run_loads(tmp_path, at):
    code, said, left = stopped(tmp_path, at, 'hardcl_nb.runs.cli', '--steps', '100000')
    assert code==130 and len(said)==1 and any(e in said[0] for e in ends) and left!=['.lock'], (code, said, left)

@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize('words', [('hardcl_nb.runs.cli', '--steps', '100000'), ('hardcl_nb.runs.compare', '--steps', '100000', '--methods', 'scl')], ids=lambda w: w[0])
def test_a_signal_at_any_moment(tmp_path, words):
    "Until Python listens to the site's own files, before ours are there, only it can answer: a moment of some .05 s."
    rng, odd = random.Random(0), []
    for i in range(60):
        d = tmp_path/str(i)
        d.mkdir()
        at = rng.uniform(.15, 2.5)
        code, said, left = stopped(d, at, *words)
        if not (code==130 and len(said)==1 and any(e in said[0] for e in ends) and left!=['.lock']): odd.append((at, code, said[-3:], left))
    assert not odd

@pytest.mark.parametrize('which', [1, 2])
def test_a_signal_while_workers_start_waits_until_they_are_there(tmp_path, which):
    "A worker that nobody knows of yet would be left alone, and say so at length."
    code = """
import os, signal, time
from multiprocessing import popen_forkserver as forks
from hardcl_nb.runs.compare import run_all
from hardcl_nb.runs.grid import grid
launch, started = forks.Popen._launch, []
def interrupted(self, process):
    launch(self, process)
    started.append(self.pid)
    if len(started)==%d: os.kill(os.getpid(), signal.SIGINT)
forks.Popen._launch = interrupted
if __name__=='__main__':
    try: run_all(grid(['digits'], ['scl'], [0.], ['ball'], [0, 1], steps=100_000), 'x', workers=2, progress=False)
    except KeyboardInterrupt as e: print(e, len(started))
    end = time.monotonic()+30
    for pid in started:
        while os.path.exists(f'/proc/{pid}') and time.monotonic()<end: time.sleep(.05)
        if os.path.exists(f'/proc/{pid}'): print(pid, 'lives')
"""
    (tmp_path/'it.py').write_text(code%which)
    r = subprocess.run([sys.executable, 'it.py'], capture_output=True, text=True, cwd=tmp_path, env=here, timeout=120, preexec_fn=heard)
    assert (r.returncode, r.stdout, r.stderr)==(0, f'stopped by SIGINT {which}\n', '')

def test_a_worker_that_was_told_to_end_makes_no_further_run(monkeypatch):
    "A pool hands its workers a run in advance; after a signal nobody would stop that one again."
    made = []
    def stopped():
        made.append(1)
        raise Interrupted(signal.SIGTERM, 3)
    monkeypatch.setattr(compare, '_told', [])
    with pytest.raises(Interrupted): compare._one(stopped)
    with pytest.raises(Interrupted, match='stopped by SIGTERM after step 3'): compare._one(lambda: made.append(2))
    assert made==[1]
