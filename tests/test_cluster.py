"Runs as jobs of a queue: submitit's, with processes on this machine in place of a cluster. Skipped where submitit is missing."
import os, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import pytest
from hardcl_nb.runs.cluster import MachineOptions, RunJob, submit
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.folder import run
from hardcl_nb.runs.storage import read_csv

submitit = pytest.importorskip('submitit')
pytestmark = [pytest.mark.slow, pytest.mark.nightly]

def job(out, **settings): return RunJob(asdict(RunConfig(**{**dict(method='scl', steps=4, eval_every=2), **settings})), str(out))
def rows(out): return (Path(out)/'metrics.csv').read_bytes()

def until(what, seconds=300):
    "Wait for something; its value."
    end = time.time()+seconds
    while time.time()<end:
        if got := what(): return got
        time.sleep(.05)
    raise AssertionError('it did not come')

def test_jobs_of_a_queue_are_runs_and_a_killed_one_is_named(tmp_path):
    "One that ends, and one that is killed: the other is kept, and the same call finishes it."
    long = dict(steps=400, batch_size=32, eval_every=20)
    jobs = [job(tmp_path/'a'), job(tmp_path/'b', **long)]
    pid = os.fork()
    if pid==0: # kill the long run once it has a checkpoint
        try:
            until(lambda: (tmp_path/'b/metrics.csv').exists() and ',40,' in (tmp_path/'b/metrics.csv').read_text())
            os.kill(int((tmp_path/'b/.lock').read_text().split()[0]), signal.SIGKILL)
        finally: os._exit(0)
    with pytest.raises(ChildProcessError, match='1 of 2 jobs that failed, the first b: see .*err'):
        submit(jobs, tmp_path/'jobs', MachineOptions('local'), wait=.1)
    os.waitpid(pid, 0)
    run(RunConfig(method='scl', steps=4, eval_every=2), tmp_path/'direct')
    assert rows(tmp_path/'a')==rows(tmp_path/'direct')
    before = rows(tmp_path/'b')
    submit(jobs[1:], tmp_path/'jobs', MachineOptions('local'), wait=.1)
    assert len(rows(tmp_path/'b'))>len(before) and rows(tmp_path/'b').startswith(before)
    assert read_csv(tmp_path/'b/metrics.csv')[-1]['step']==400
    notes = read_csv(tmp_path/'b/machine.csv')
    assert len(notes)==2 and notes[0]['step']==0 and notes[1]['step']>0 and notes[0]['job']!=notes[1]['job']

def test_a_job_that_gets_notice_saves_and_goes_on(tmp_path):
    "The notice comes between two records; the run saves after its next step, is queued again, and ends as if nothing had been."
    steps = dict(steps=400, eval_every=200)
    executor = submitit.AutoExecutor(tmp_path/'jobs', cluster='local')
    executor.update_parameters(timeout_min=5)
    queued = executor.submit(job(tmp_path/'a', **steps))
    until((tmp_path/'a/checkpoint.safetensors').exists)
    time.sleep(.3)
    os.kill(int((tmp_path/'a/.lock').read_text().split()[0]), signal.SIGUSR2)
    assert queued.result()=='a'
    log = queued.paths.stderr.read_text()+queued.paths.stdout.read_text()
    assert 'Caught signal SIGUSR2' in log
    run(RunConfig(method='scl', **steps), tmp_path/'b')
    assert rows(tmp_path/'a')==rows(tmp_path/'b')
    notes = read_csv(tmp_path/'a/machine.csv')
    assert [n['step'] for n in notes][0]==0 and len(notes)==2

@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_the_jobs_back(tmp_path, signum):
    "To the program alone: its jobs save where they are, and are gone when it is."
    args = [sys.executable, '-m', 'hardcl_nb.runs.compare', '--methods', 'scl,ucl', '--steps', '100000', '--eval_every', '20', '--launcher', 'local', '--out', 'c']
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True)
    names = [tmp_path/f'c/runs/digits-{m}-b0-ball-s0' for m in ('scl', 'ucl')]
    until(lambda: all((n/'checkpoint.safetensors').exists() for n in names))
    p.send_signal(signum)
    try: _,err = p.communicate(timeout=120)
    finally: p.kill()
    assert p.returncode==128+signum and '--resume goes on' in err, err
    until(lambda: not any((n/'.lock').exists() for n in names), 60)
    before = [rows(n) for n in names]
    time.sleep(1)
    assert [rows(n) for n in names]==before
