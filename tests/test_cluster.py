"""Runs as jobs of a queue: submitit's, with processes on this machine in place of a cluster, and of Slurm where `sinfo` answers.
Skipped where submitit is missing."""
import os, shutil, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import pytest
from hardcl_nb.runs.cluster import MachineOptions, RunJob, _executor, submit
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.folder import run
from hardcl_nb.runs.storage import read_csv

submitit = pytest.importorskip('submitit')
pytestmark = [pytest.mark.slow, pytest.mark.nightly]

def ask(*words): return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
slurm = bool(shutil.which('sinfo')) and 'up' in ask('sinfo', '--noheader')
on_slurm = pytest.mark.skipif(not slurm, reason='no Slurm answers')
launchers = pytest.mark.parametrize('launcher', ['local', pytest.param('slurm', marks=on_slurm)])

def held(): return {*ask('squeue', '--noheader', '--array', '--format=%i').split()}
def at_once(job): # a job that is queued again waits for two minutes, if nobody says otherwise
    until(lambda: 'PENDING' in ask('squeue', '--noheader', '--array', '--format=%T', f'--job={job}'))
    subprocess.run(['scontrol', 'update', f'jobid={job}', 'StartTime=now'], check=True)

def job(out, **settings): return RunJob(asdict(RunConfig(**{**dict(method='scl', steps=4, eval_every=2), **settings})), str(out))
def rows(out): return (Path(out)/'metrics.csv').read_bytes()

def until(what, seconds=300):
    "Wait for something; its value."
    end = time.time()+seconds
    while time.time()<end:
        if got := what(): return got
        time.sleep(.05)
    raise AssertionError('it did not come')

@launchers
def test_jobs_of_a_queue_are_runs_and_a_killed_one_is_named(tmp_path, launcher):
    "One that ends, and one that is killed: the other is kept, and the same call finishes it."
    long = dict(steps=800, batch_size=32, eval_every=40)
    jobs = [job(tmp_path/'a'), job(tmp_path/'b', **long)]
    pid = os.fork()
    if pid==0: # kill the long run once it has a checkpoint
        try:
            until(lambda: (tmp_path/'b/metrics.csv').exists() and ',40,' in (tmp_path/'b/metrics.csv').read_text())
            os.kill(int((tmp_path/'b/.lock').read_text().split()[0]), signal.SIGKILL)
        finally: os._exit(0)
    with pytest.raises(ChildProcessError, match='1 of 2 jobs that failed, the first b: see .*err'):
        submit(jobs, tmp_path/'jobs', MachineOptions(launcher), wait=.1)
    os.waitpid(pid, 0)
    run(RunConfig(method='scl', steps=4, eval_every=2), tmp_path/'direct')
    assert rows(tmp_path/'a')==rows(tmp_path/'direct')
    before = rows(tmp_path/'b')
    submit(jobs[1:], tmp_path/'jobs', MachineOptions(launcher), wait=.1)
    assert len(rows(tmp_path/'b'))>len(before) and rows(tmp_path/'b').startswith(before)
    assert read_csv(tmp_path/'b/metrics.csv')[-1]['step']==800
    notes = read_csv(tmp_path/'b/machine.csv')
    assert len(notes)==2 and notes[0]['step']==0 and notes[1]['step']>0 and notes[0]['job']!=notes[1]['job']
    logs = {p.name for p in (tmp_path/'jobs').glob('*_log.err')}
    assert {f"{n['job']}_0_log.err" for n in notes}<=logs, 'a note names the job as its log does'

@launchers
def test_a_job_that_gets_notice_saves_and_goes_on(tmp_path, launcher):
    "The notice comes between two records; the run saves after its next step, is queued again, and ends as if nothing had been."
    steps = dict(steps=800, batch_size=32, eval_every=400)
    queued = _executor(MachineOptions(launcher, minutes=5), tmp_path/'jobs', 1).submit(job(tmp_path/'a', **steps))
    until((tmp_path/'a/checkpoint.safetensors').exists)
    time.sleep(.3)
    if launcher=='local': os.kill(int((tmp_path/'a/.lock').read_text().split()[0]), signal.SIGUSR2)
    else:
        subprocess.run(['scancel', '--signal=USR2', queued.job_id], check=True)
        at_once(queued.job_id)
    assert queued.result()=='a'
    log = queued.paths.stderr.read_text()+queued.paths.stdout.read_text()
    assert 'Caught signal SIGUSR2' in log
    run(RunConfig(method='scl', **steps), tmp_path/'b')
    assert rows(tmp_path/'a')==rows(tmp_path/'b')
    notes = read_csv(tmp_path/'a/machine.csv')
    assert [n['step'] for n in notes][0]==0 and len(notes)==2

@launchers
@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_the_jobs_back(tmp_path, signum, launcher):
    "To the program alone: its jobs save where they are, and are gone when it is."
    args = [sys.executable, '-m', 'hardcl_nb.runs.compare', '--methods', 'scl,ucl', '--steps', '100000', '--eval_every', '20', '--launcher', launcher, '--out', 'c']
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
    ours = {p.name.removesuffix('_submitted.pkl') for p in (tmp_path/'c/jobs').glob('*_submitted.pkl')}
    assert len(ours)==2
    if launcher=='slurm': until(lambda: not ours & held(), 60)

@on_slurm
def test_a_job_that_slurm_takes_away_goes_on(tmp_path):
    "Preempted: the queue ends the job and starts it again."
    steps = dict(steps=400, eval_every=200)
    queued = _executor(MachineOptions('slurm', minutes=5), tmp_path/'jobs', 1).submit(job(tmp_path/'a', **steps))
    until((tmp_path/'a/checkpoint.safetensors').exists)
    subprocess.run(['scontrol', 'requeue', queued.job_id], check=True)
    at_once(queued.job_id)
    until(queued.paths.result_pickle.exists)
    run(RunConfig(method='scl', **steps), tmp_path/'b')
    assert rows(tmp_path/'a')==rows(tmp_path/'b')

@on_slurm
def test_what_sbatch_refuses_is_one_line(tmp_path):
    with pytest.raises(ValueError, match='launcher: expected options that the queue takes, got slurm: .*[Ii]nvalid partition'):
        submit([job(tmp_path/'a')], tmp_path/'jobs', MachineOptions('slurm', partition='nowhere'))

@on_slurm
def test_one_run_in_a_job_of_two_tasks(tmp_path):
    "torchrun in each: two processes share every batch; ended by a signal, the same script goes on."
    page = (Path(__file__).parent.parent/'nbs/66_cluster.ipynb').read_text()
    assert '--nnodes $SLURM_NTASKS --node_rank $SLURM_PROCID' in page
    words = f'--data digits --method scl --steps 200 --eval_every 20 --out {tmp_path}/a --resume'
    torchrun = f'{sys.executable} -m torch.distributed.run --nnodes $SLURM_NTASKS --node_rank $SLURM_PROCID --nproc_per_node 1'
    script = tmp_path/'two.sh'
    script.write_text(f"""#!/bin/bash
srun bash -c 'exec {torchrun} --master_addr localhost --master_port 29517 -m hardcl_nb.runs.cli {words}'
""")
    sbatch = ['sbatch', '--parsable', '--ntasks=2', '--time=5', f'--output={tmp_path}/log', str(script)]
    first = subprocess.run(sbatch, check=True, capture_output=True, text=True).stdout.strip()
    until(lambda: (tmp_path/'a/metrics.csv').exists() and ',40,' in (tmp_path/'a/metrics.csv').read_text())
    subprocess.run(['scancel', '--signal=TERM', first], check=True)
    until(lambda: not ask('squeue', '--noheader', f'--job={first}'))
    before = rows(tmp_path/'a')
    assert 40<=read_csv(tmp_path/'a/metrics.csv')[-1]['step']<200
    subprocess.run([*sbatch[:1], '--wait', *sbatch[1:]], check=True, capture_output=True)
    assert rows(tmp_path/'a').startswith(before) and read_csv(tmp_path/'a/metrics.csv')[-1]['step']==200, (tmp_path/'log').read_text()

@launchers
def test_what_is_finished_is_not_queued_again(tmp_path, launcher):
    "All runs made: the same comparison needs no job."
    args = [sys.executable, '-m', 'hardcl_nb.runs.compare', '--methods', 'scl', '--steps', '4', '--eval_every', '2', '--launcher', launcher, '--out', 'c']
    subprocess.run(args, check=True, capture_output=True, cwd=tmp_path)
    jobs = {*(tmp_path/'c/jobs').iterdir()}
    subprocess.run([*args, '--resume'], check=True, capture_output=True, cwd=tmp_path)
    assert jobs and {*(tmp_path/'c/jobs').iterdir()}==jobs
