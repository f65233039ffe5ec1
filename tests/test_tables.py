"The tables: light, complete, and one definition for a new thing."
import subprocess, sys
import pytest
from hypothesis import given, strategies as st
from hardcl_nb.tables import Table, augmentations, datasets, encoders, find, hardenings, methods, metrics

tables = dict(methods=methods, hardenings=hardenings, datasets=datasets, encoders=encoders,
    augmentations=augmentations, metrics=metrics)

def test_import_and_listing_are_light():
    "Neither torch nor numpy, also when all names and facts are shown."
    names = ', '.join(tables)
    code = f"""import sys
from hardcl_nb.tables import {names}
repr([{names}]), methods.facts('hscl')
sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"""
    assert subprocess.run([sys.executable, '-c', code]).returncode==0

@pytest.mark.parametrize('kind, name', [(k, n) for k,t in tables.items() for n in t])
def test_every_target_is_there(kind, name):
    entry = tables[kind].facts(name)
    if kind=='metrics': assert entry.target is None
    else: assert callable(tables[kind].load(name))
    if getattr(entry, 'bound', None): assert callable(find(entry.bound))

def test_metrics_are_fields_of_the_report():
    from dataclasses import fields
    from hardcl_nb.measures.collapse import CollapseReport
    assert set(metrics)<={f.name for f in fields(CollapseReport)}

@given(st.text(min_size=1))
def test_any_text_is_a_name_or_refused_in_one_line(name):
    t = Table('thing', 'losses', size=None)
    try: t.add(name, len)
    except ValueError as e: assert str(e).startswith('thing: expected a name of letters') and name not in t
    else:
        assert t.load(name) is len and list(t)==[name] and not set(name)&set(' ,\n;=')
        with pytest.raises(ValueError, match='did you mean'): t.facts(name+name[-1])

def test_a_decorator_is_one_definition():
    t = Table('thing', 'losses', size=None, hard=False)
    @t.add('toy', size=3)
    def toy(): return 7
    e = t.facts('toy')
    assert t.load('toy') is toy and toy()==7 and (e.label, e.size, e.hard)==('toy', 3, False)

@pytest.mark.parametrize('call, err, msg', [
    (lambda: methods.facts(None), ValueError, 'method: expected one of scl, hscl, '),
    (lambda: methods.load('HSCL'), ValueError, "method: expected one of scl, hscl, "),
    (lambda: datasets.load('tinyimagnet'), ValueError, "got 'tinyimagnet'; did you mean 'tinyimagenet'"),
    (lambda: methods.add('scl', len), ValueError, "method: expected a new name; scl is taken, got 'scl'"),
    (lambda: methods.add('x', len, supervized=True), ValueError,
    'facts: expected facts of a method: label, supervised, hard, general, bound, got supervized'),
    (lambda: methods.add('x y', len), ValueError, "method: expected a name of letters, digits, -, _ and ., got 'x y'"),
    (lambda: methods.add('x', 3), ValueError, "target: expected a function, or text such as 'module:attribute', got 3"),
    (lambda: metrics.load('nc1'), ValueError, "metric: expected a name with a function of its own, got 'nc1'"),
    (lambda: find('os.path'), ValueError, "target: expected text such as 'module:attribute', got 'os.path'")])
def test_bad_use_is_named(call, err, msg):
    before = {k: list(t) for k,t in tables.items()}
    with pytest.raises(err) as e: call()
    assert msg in str(e.value) and '\n' not in str(e.value)
    assert before=={k: list(t) for k,t in tables.items()}
