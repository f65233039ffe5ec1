"Jobs of a queue, with a queue that runs them here at once: what is handed over, what is waited for, and which end is told."
import shutil, signal, sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import SimpleNamespace
import pytest
import hardcl_nb.runs.cluster as cluster
from hardcl_nb.runs.cluster import MachineOptions, RunJob, finished, fits, machines_of, submit
from hardcl_nb.runs.compare import run_all, run_folders
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.storage import read_csv
from hardcl_nb.training.processes import Interrupted
submitit = pytest.importorskip('submitit')

def job(out, **settings): return RunJob(asdict(RunConfig(**{**dict(method='scl', steps=2, eval_every=2), **settings})), str(out))

class Queue:
    "In place of submitit's executor: a job runs when it is looked at for the second time."
    def __init__(self): self.jobs, self.cancelled = [], []
    def batch(self): return nullcontext()
    def submit(self, job):
        state = SimpleNamespace(looks=0, error=None, over=False)
        def done():
            state.looks += 1
            if state.looks>1 and not state.over:
                state.over = True
                try: job()
                except Exception as e: state.error = e
            return state.over
        def exception():
            if isinstance(state.error, MemoryError): raise submitit.core.utils.UncompletedJobError('killed') # no result at all
            return state.error
        made = SimpleNamespace(done=done, exception=exception, paths=SimpleNamespace(stderr=f'{job.out}.err'), cancel=lambda check: self.cancelled.append(job.out), job_id=str(len(self.jobs)))
        self.jobs.append(made)
        return made

@pytest.fixture
def queue(monkeypatch):
    q = Queue()
    monkeypatch.setattr(cluster, '_executor', lambda options, folder, most: q)
    return q

def test_jobs_are_made_counted_and_not_made_again(queue, tmp_path):
    "A comparison through a queue: finished runs are not handed over, grown ones go on."
    cfgs, seen = [RunConfig(method='scl', steps=2, eval_every=2, seed=s) for s in (0, 1)], []
    jobs = [RunJob(asdict(c), str(p)) for c,p in run_folders(cfgs, tmp_path).items()]
    submit(jobs[:1], tmp_path/'jobs', MachineOptions('local'), show=lambda *n: seen.append(n), wait=0)
    assert seen==[(0, 1), (1, 1)] and finished(jobs[0]) and not finished(jobs[1]) and not finished(replace(jobs[0], overwrite=True))
    run_all(cfgs, tmp_path, progress=False, machines=MachineOptions('local'))
    assert len(queue.jobs)==2 and all(map(finished, jobs)) and not queue.cancelled
    assert not finished(replace(jobs[0], settings={**jobs[0].settings, 'steps': 4}))
    notes = [read_csv(f'{j.out}/machine.csv') for j in jobs]
    assert [len(n) for n in notes]==[1, 1] and machines_of([j.out for j in jobs]+[tmp_path/'none'])==f"{notes[0][0]['machine']}"
    submit([], tmp_path/'jobs', MachineOptions('local'))
    assert len(queue.jobs)==2

def test_the_first_job_that_failed_is_named_with_its_log(queue, tmp_path):
    "Those that ended well are kept; one that was killed leaves no result."
    jobs = [job(tmp_path/'a'), job(tmp_path/'b', batch_size=5000), job(tmp_path/'c', batch_size=5000)]
    with pytest.raises(ChildProcessError, match=f'^launcher: expected runs that end, got 2 of 3 jobs that failed, the first b: see {tmp_path}/b.err'): submit(jobs, tmp_path/'jobs', MachineOptions('local'), wait=0)
    assert finished(jobs[0])
    class Killed:
        out = str(tmp_path/'d')
        def __call__(self): raise MemoryError
    with pytest.raises(ChildProcessError, match='1 of 1 jobs that failed, the first d'): submit([Killed()], tmp_path/'jobs', MachineOptions('local'), wait=0)

def test_jobs_that_are_left_are_cancelled(queue, tmp_path):
    def stop(done, n): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): submit([job(tmp_path/'a'), job(tmp_path/'b')], tmp_path/'jobs', MachineOptions('local'), show=stop)
    assert queue.cancelled==[str(tmp_path/'a'), str(tmp_path/'b')]

def test_a_signal_while_jobs_are_handed_over_cancels_them(queue, tmp_path, monkeypatch):
    "It waits until they are known: none is left in the queue."
    from hardcl_nb.runs import cluster
    hand_over = cluster._queued
    def interrupted(*args):
        queued = hand_over(*args)
        signal.raise_signal(signal.SIGTERM)
        return queued
    monkeypatch.setattr(cluster, '_queued', interrupted)
    with pytest.raises(KeyboardInterrupt, match='stopped by SIGTERM'): submit([job(tmp_path/'a'), job(tmp_path/'b')], tmp_path/'jobs', MachineOptions('local'))
    assert queue.cancelled==[str(tmp_path/'a'), str(tmp_path/'b')]

def test_a_queue_that_refuses_says_why(queue, tmp_path, monkeypatch):
    def no(job): raise submitit.core.utils.FailedJobError('sbatch: error:\ninvalid partition')
    monkeypatch.setattr(queue, 'submit', no)
    with pytest.raises(ValueError, match='^launcher: expected options that the queue takes, got local: invalid partition'): submit([job(tmp_path/'a')], tmp_path/'jobs', MachineOptions('local'))

def test_a_notice_of_the_queue_saves_and_is_passed_on(tmp_path, monkeypatch):
    "The run ends after its step with a checkpoint, then the queue's own answer is called, once; the next job goes on to the same bytes."
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda *a: heard.append(a[0]))
    monkeypatch.setenv('SUBMITIT_FOLDER', str(tmp_path))
    j = job(tmp_path/'a', steps=6, eval_every=2)
    note = cluster._listen
    def listen(notice):
        answer = note(notice)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2) # said twice, heard once
        return answer
    monkeypatch.setattr(cluster, '_listen', listen)
    try:
        with pytest.raises(Interrupted): j()
    finally: signal.signal(signal.SIGUSR2, before)
    assert heard==[signal.SIGUSR2] and not finished(j)
    again = replace(j, overwrite=True).checkpoint()
    assert again.function==j # what the queue starts next time goes on
    monkeypatch.delenv('SUBMITIT_FOLDER')
    monkeypatch.setattr(cluster, '_listen', note)
    again.function()
    job(tmp_path/'b', steps=6, eval_every=2)()
    assert finished(j) and (tmp_path/'a/metrics.csv').read_bytes()==(tmp_path/'b/metrics.csv').read_bytes()

@pytest.mark.parametrize('kw, said', [(dict(launcher='pbs'), '^launcher: expected one of pool, slurm, local'), (dict(minutes=0), '^minutes: expected'), (dict(memory=0), '^memory: expected'),
    (dict(partition='gpu', gpus=1), '^launcher: expected slurm, which these are for, got pool with partition, gpus')])
def test_options_that_cannot_work(kw, said):
    with pytest.raises(ValueError, match=said): MachineOptions(**kw)

def test_a_run_that_does_not_fit_is_refused_before_any_is_made(tmp_path):
    fits(job(tmp_path/'a'))
    with pytest.raises(ValueError, match='^batch_size: expected at most'): fits(job(tmp_path/'a', batch_size=5000))

def test_the_executor_has_the_options_of_a_job(tmp_path, monkeypatch):
    "submitit's own, for processes here; a machine without Slurm, or without submitit, says so."
    made = cluster._executor(MachineOptions('local', minutes=7), tmp_path, 2)
    assert made.parameters['timeout_min']==7 and made.parameters['name']=='hardcl'
    if not shutil.which('srun'):
        with pytest.raises(ValueError, match='^launcher: expected a machine with sbatch, or local, got slurm: '): cluster._executor(MachineOptions('slurm', partition='p'), tmp_path, 2)
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(ValueError, match=r'^launcher: expected the package submitit, got local without submitit \(pip install'): cluster._executor(MachineOptions('local'), tmp_path, 2)

def test_without_accounting_the_queue_itself_says_what_is_over():
    "A job that squeue no longer lists is gone; all jobs share one look."
    queued = [SimpleNamespace(job_id=k) for k in ('7_0', '7_1')]
    cluster._look(queued)
    watcher = queued[0].watcher
    assert watcher is queued[1].watcher and watcher._make_command()[0]=='squeue'
    assert watcher.read_info(b'7_1\n9\n')=={'7_0': dict(State='GONE'), '7_1': dict(State='RUNNING')}
