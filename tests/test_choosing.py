"What `suggest` says is what the package takes, and each rule holds where it says that it does."
import math
import pytest
from hypothesis import given, strategies as st
from hardcl_nb.losses.contrastive import small
from hardcl_nb.runs.choosing import suggest
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.theory.hucl import hucl_critical_beta

@given(st.integers(2, 5000), st.none()|st.integers(2, 20_000), st.booleans(), st.sampled_from(['cpu', 'cuda']))
def test_a_choice_holds_for_any_number_of_classes(C, n, supervised, device):
    "Settings that a run takes; the least dimension of a simplex; no row alone where rows are drawn by class."
    c = suggest(C, n, supervised=supervised, device=device)
    assert c['dim']==C-1 and c['method']==('hscl' if supervised else 'hucl') and (n is None or c['batch_size']==n)
    size, own = c['batch_size'], c['per_class']
    alone = (1-1/C)**(size-1)
    if own is not None: assert alone>.01 and size%own==0 and 2<=size//own<=C
    if n is None: assert size==8192 or alone<=.01
    rules = {r.what: r for r in c.rules}
    assert {r.basis for r in c.rules}<={'proved', 'measured', 'guess'}
    assert rules['beta'].basis=='guess' or C in (10, 100)
    assert (c['engine']=='plain')==(size<small[device=='cuda'])
    said = c.settings()
    assert 'engine' not in said
    cfg = RunConfig(**said, steps=1)
    assert {k: getattr(cfg, k) for k in said}==said

def test_hardness_without_labels_lies_above_the_critical_one():
    for C in (10, 100, 1000): assert suggest(C, supervised=False)['beta']>=hucl_critical_beta(C)
    assert (suggest(10)['beta'], suggest(50)['beta'], suggest(100)['beta'])==(2., 5., 5.)

def test_a_batch_that_no_rows_of_a_class_fill_says_so():
    c = suggest(1000, 509) # a prime
    why = {r.what: r.why for r in c.rules}['per_class']
    assert c['per_class'] is None and 'another size would do better' in why and '509' in repr(c) and repr(c).count('\n')==len(c.rules)-1
    assert math.isclose((1-1/1000)**508, .6016, abs_tol=1e-4) and '60.2%' in repr(c) # of the rows have no positive

@pytest.mark.parametrize('call, said', [(lambda: suggest(1), '^num_classes: expected'), (lambda: suggest(10, 1), '^batch_size: expected'), (lambda: suggest(10, device='tpu'), '^device: expected one of cpu, cuda')])
def test_refused(call, said):
    with pytest.raises(ValueError, match=said): call()
