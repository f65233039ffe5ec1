"Each file of a run folder cut, emptied, deleted, or with one bit flipped: the run that goes on is the same, or it is refused in words that name the fault."
import random, shutil
import pytest
from hardcl_nb.checks import Refused
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.folder import run

cfg = RunConfig(method='hucl', beta=3., steps=6, eval_every=2, batch_size=64)
files = ('config.json', 'metrics.csv', 'spectrum.csv', 'speed.csv', 'checkpoint.safetensors')
results = ('metrics.csv', 'spectrum.csv', 'checkpoint.safetensors')

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A whole run, and the same stopped at step 2."
    class Stop(Exception): pass
    def halt(rec):
        if rec['step']==2: raise Stop
    d = tmp_path_factory.mktemp('faults')
    run(cfg, d/'whole')
    with pytest.raises(Stop): run(cfg, d/'half', on_record=halt)
    return d

def faults(data, seed):
    "(what was done, what is left of the file; None: no file)."
    rng = random.Random(seed)
    yield 'deleted', None
    yield 'emptied', b''
    for at in (1, *(rng.randrange(1, len(data)) for _ in range(4)), len(data)-1): yield f'cut at {at}', data[:at]
    for at in (rng.randrange(8*len(data)) for _ in range(20)):
        flipped = bytearray(data)
        flipped[at//8] ^= 1<<at%8
        yield f'bit {at} flipped', bytes(flipped)

@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize('start', ['half', 'whole'])
@pytest.mark.parametrize('file', files)
@pytest.mark.filterwarnings('ignore')
def test_a_damaged_file_is_named_or_harmless(runs, tmp_path, file, start):
    refused = 0
    for k,(what,data) in enumerate(faults((runs/start/file).read_bytes(), file+start)):
        d = tmp_path/str(k)
        shutil.copytree(runs/start, d)
        (d/file).unlink()
        if data is not None: (d/file).write_bytes(data)
        try: run(cfg, d, resume=True)
        except Refused as e:
            assert any(f in str(e) for f in (file, 'config.json', 'checkpoint')), (what, e)
            refused += 1
        else:
            for f in results: assert (d/f).read_bytes()==(runs/'whole'/f).read_bytes(), (what, f)
        shutil.rmtree(d)
    assert refused>0
