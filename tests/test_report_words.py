"A report in words, in a terminal and as a page: what it says is in its rows."
import csv, math, re
import matplotlib.pyplot as plt, pytest
from hypothesis import given, settings, strategies as st
from hardcl_nb.measures.curves import standard_figures
from hardcl_nb.runs.report import findings, nc_limits, reaches_nc, table, text_table, write_report

def row(method='scl', beta=0., seed=0, nc=0., rank=9., acc=.9, **kw):
    return {'data': 'digits', 'norm': 'ball', 'method': method, 'beta': beta, 'seed': seed, 'step': 5, 'loss': 1.+seed, 'gap': .1*(1+seed),
        **{k: v*nc for k,v in nc_limits.items()}, 'within_class': .1, 'effective_rank': rank, 'train_acc': acc, 'val_acc': acc, 'test_acc': acc, **kw}

@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(list(nc_limits)), st.floats(0, 2), min_size=3))
def test_neural_collapse_is_all_three(times):
    assert reaches_nc({k: v*times[k] for k,v in nc_limits.items()})==all(t<=1 for t in times.values())

@pytest.mark.parametrize('rows, said', [
    ([row(), row('hscl', 5.)], 'On digits, all 2 settings reach Neural Collapse.'),
    ([row(nc=2.), row('hscl', 5.)], 'On digits, 1 of 2 settings reach Neural Collapse: HSCL, β = 5.'),
    ([row(nc=3.), row('hscl', 5., nc=2.)], 'On digits, no setting reaches Neural Collapse; HSCL, β = 5 comes closest.'),
    ([row(nc=3.)], 'On digits, no setting reaches Neural Collapse.'),
    ([row(rank=6.), row('hscl', 5., rank=9.)], 'The effective rank of the class means is highest for HSCL, β = 5: 9.0, 1.50 times that of SCL (6.0).'),
    ([row('ucl', rank=3.), row(rank=6.), row('hscl', 5., rank=9.)], 'The effective rank of the class means is highest for HSCL, β = 5: 9.0, 1.50 times that of SCL (6.0).'), # of its side
    ([row(rank=9.), row('hscl', 5., rank=9.01)], 'The effective rank of the class means is highest for HSCL, β = 5: 9.0, hardly more than that of SCL (9.0).'),
    ([row(rank=8.5)], 'The effective rank of the class means is 8.5.'),
    ([row(acc=.5), row('hscl', 5., acc=.75)], 'Test accuracy is highest at 0.750 for HSCL, β = 5, lowest 0.500 for SCL (1 seed).'),
    ([row(acc=.5, seed=s) for s in (0, 1)]+[row('hscl', 5., acc=.5, seed=s) for s in (0, 1)], 'Test accuracy is 0.500 for all 2 (2 seeds).'),
    ([row(test_acc=math.nan)], 'Validation accuracy is highest at 0.900 for SCL (1 seed).'),
    ([row(test_acc=math.nan, val_acc=math.nan, train_acc=math.nan)], 'Accuracy was not measured.'),
    ([row('mine', 2., acc=.5)], 'Test accuracy is highest at 0.500 for mine, β = 2 (1 seed).')])
def test_what_was_found(rows, said): assert said in findings(rows)

def test_each_normalisation_by_itself():
    got = findings([row(), row(norm='none', nc=2.)])
    assert len(got)==6 and got[0].startswith('On digits (ball), ') and got[3].startswith('On digits (none), no setting')

def test_a_table_of_means_and_spreads():
    "Over seeds at the last step that all have; axes beside the usual five; what is no number is a dash."
    rows = [row(seed=0, gap=.1), row(seed=1, gap=.3), row(seed=0, gap=.9, step=6), row('hscl', 5., gap=math.nan, nc=2.)]
    head, lines = table(rows, ['gap'])
    assert head==['data', 'norm', 'method', 'β', 'seeds', 'gap', 'NC']
    assert lines==[['digits', 'ball', 'SCL', '0', '2', '0.200 ±0.141', 'yes'], ['digits', 'ball', 'HSCL', '5', '1', '–', 'no']]
    head, lines = table([{'tau': t, **row()} for t in (1., .5)], ['gap'])
    assert head[4]=='tau' and [l[4] for l in lines]==['0.5', '1']
    assert 'mine' in table([{**row(), 'mine': 3.}])[0] # a column of one's own

@settings(max_examples=30)
@given(st.integers(36, 200))
def test_a_terminal_of_any_width(width):
    "No line is longer; what does not fit is counted; what tells the lines apart is there."
    rows = [row(beta=b, method='hscl') for b in (2., 5.)]
    lines = text_table(rows, width=width).splitlines()
    assert max(map(len, lines))<=width and len({len(l) for l in lines[:3]})==1 and 'β' in lines[0]
    left = re.search(r'(\d+) more columns', lines[-1])
    assert len(table(rows)[0])==len(re.split(r'\s{2,}', lines[0].strip()))+int(left[1] if left else 0)

def test_a_page_holds_its_rows_and_figures(tmp_path):
    "Figures beside it as PNG and CSV and closed; what was made up is escaped; the contents lead somewhere; nothing is fetched."
    rows = [{**r, 'step': t} for r in (row(), row('hscl', 5., nc=2.)) for t in (0, 5)]
    spectra = [{**r, 'index': i, 'value': .5**i} for r in rows for i in (1, 2)]
    page = write_report(tmp_path/'new/r', rows, standard_figures(rows, spectra), 'A <made-up> title', 'How to read & what.', [dict(seed=s, lr=.01, steps=5) for s in (0, 1)])
    text = page.read_text(encoding='utf-8')
    assert text.count('<img ')==5 and text.count('<tr class="yes">')==1 and '&lt;made-up&gt;' in text and '<made-up>' not in text and 'http' not in text
    assert all(f'id="{i}"' in text for i in re.findall(r'href="#([^"]+)"', text)) and 'In which the 2 runs differ' in text and 'What was found' in text
    names = {'acc', 'gap', 'loss', 'nc', 'spectra'}
    assert {p.name for p in page.parent.iterdir()}=={'report.html', *(f'{n}-digits-ball.{e}' for n in names for e in ('png', 'csv'))} and not plt.get_fignums()
    with open(page.parent/'gap-digits-ball.csv', newline='', encoding='utf-8') as f: head, *points = csv.reader(f)
    assert head==['panel', 'quantity', 'line', 'x', 'y', 'std'] and {float(p[4]) for p in points}=={.1}
