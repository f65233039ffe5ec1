"Run folders: resume, overwrite, damaged files."
import json
import pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.report import groups, over_seeds
from hardcl_nb.runs import RunConfig, csv_line, read_csv, run, run_name, write_csv
from hardcl_nb.training import make_loss

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
    run(cfg, tmp_path/'a')
    (tmp_path/'a/checkpoint.safetensors').unlink()
    rows = run(cfg, tmp_path/'a', resume=True)
    assert [r['step'] for r in rows]==[0, 5]

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
    assert run(cfg, tmp_path/'a')==run(cfg, tmp_path/'b')
    other = run(RunConfig(steps=3, eval_every=1, seed=5), tmp_path/'c')
    assert other[-1]['loss']!=run(cfg, tmp_path/'a', resume=True)[-1]['loss']

def test_default_method_and_names_are_unique():
    names = {run_name(RunConfig(method=m, beta=b, norm=n, seed=s)) for m,b in [('scl',0.),('hscl',0.),('hscl',.5),('hscl',5.)] for n in ('ball','none') for s in (0,1)}
    assert len(names)==16

@pytest.mark.parametrize('kw', [dict(seed=-1), dict(batch_size=1), dict(lr=float('inf')), dict(eval_every=0), dict(dim=0), dict(method='scl', beta=1.), dict(beta=float('inf'))])
def test_settings_that_cannot_work_are_refused(kw):
    with pytest.raises((ValueError, TypeError), match='expected'): RunConfig(**kw)
