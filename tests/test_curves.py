"From rows to figures: groups, means over seeds, panels; and the numbers of a figure back again."
import math
import matplotlib.pyplot as plt, numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hardcl_nb.measures.curves import axes_of, figure_rows, final_rows, group_name, groups, nc_labels, over_seeds, plot_curves, plot_spectra, standard_figures

def rows(methods=(('scl', 0.), ('hscl', 5.), ('ucl', 0.)), seeds=(0, 1), steps=(0, 1, 2), **first):
    return [{**first, 'data': 'digits', 'norm': 'ball', 'method': m, 'beta': b, 'seed': s, 'step': t, 'loss': 2.+s-t/4, 'gap': (1+s)*.5**t,
        **{k: (1+s)*.1**t for k in nc_labels}, 'train_acc': .5+t/10, 'val_acc': .4+t/10} for m,b in methods for s in seeds for t in steps]
def spectra(**how): return [{**r, 'index': i, 'value': .5**i} for r in rows(**how) for i in (1, 2, 3)]

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True))
def test_the_order_of_rows_does_not_matter(rng, seeds):
    "Groups stand in the order of methods and hardness; means and deviations are NumPy's."
    rs = rows(seeds=seeds)
    mixed = rng.sample(rs, len(rs))
    gs = groups(mixed)
    assert list(gs)==list(groups(rs))==[('digits', 'ball', m, b) for m,b in (('scl', 0.), ('hscl', 5.), ('ucl', 0.))]
    x, mean, std = over_seeds(gs['digits', 'ball', 'scl', 0.], 'gap')
    want = np.array([[(1+s)*.5**t for s in seeds] for t in (0, 1, 2)])
    np.testing.assert_allclose(mean, want.mean(1))
    np.testing.assert_allclose(std, want.std(1, ddof=1) if len(seeds)>1 else 0)
    assert x.tolist()==[0, 1, 2]

def test_the_last_step_that_every_seed_has_reached():
    rs = rows(methods=(('scl', 0.),))
    assert [(r['seed'], r['step']) for r in final_rows(rs[:-1])]==[(0, 1), (1, 1)]

def test_names_of_groups():
    rs = rows(methods=(('scl', 0.), ('hscl', 5.), ('mine', 2.)), seeds=(0,), tau=.5, arch='mlp')
    axes = axes_of(rs)
    assert axes==('tau', 'arch')
    assert [group_name(g, axes) for g in groups(rs)]==['SCL, tau = 0.5, arch = mlp', 'HSCL, β = 5, tau = 0.5, arch = mlp', 'mine, β = 2, tau = 0.5, arch = mlp']
    assert group_name(('d', 'n', 'scl', 0.), method=False)=='β = 0'
    with pytest.raises(ValueError, match='^rows: expected at least one row'): groups([])

def test_a_figure_holds_its_rows():
    "Supervised left, unsupervised right, a row of panels for each column; every mean and deviation can be read back."
    rs = rows()
    fig = plot_curves(rs, {'gap': 'the gap', 'train_acc': 'accuracy'}, log=False)
    assert len(fig.axes)==4 and [a.get_yscale() for a in fig.axes]==['linear']*4
    pts = figure_rows(fig)
    assert {p[1] for p in pts}=={'the gap', 'accuracy'} and len(pts)==2*3*3
    got = {(p[0].split(':')[0], p[2], p[3]): (p[4], p[5]) for p in pts if p[1]=='the gap'}
    for side,m,name in (('supervised', 'scl', 'β = 0'), ('supervised', 'hscl', 'β = 5'), ('unsupervised', 'ucl', 'β = 0')):
        for x,mean,std in zip(*over_seeds([r for r in rs if r['method']==m], 'gap')): np.testing.assert_allclose(got[side, name, x], (mean, std))
    assert plot_curves(rs, {'gap': 'g'}).axes[0].get_yscale()=='log'

def test_a_line_for_each_seed_of_a_spectrum():
    fig = plot_spectra(spectra())
    assert [len(a.lines) for a in fig.axes]==[4, 2]
    pts = figure_rows(fig)
    assert sorted({p[2] for p in pts})==['β = 0', 'β = 0, seed 1', 'β = 5', 'β = 5, seed 1'] and all(math.isclose(p[4], .5**p[3]) and p[5]=='' for p in pts)
    alone = plt.figure()
    alone.add_axes([.1, .1, .8, .8]).plot([1, 2], [3, 4], label='free')
    assert figure_rows(alone)==[('', '', 'free', 1., 3., ''), ('', '', 'free', 2., 4., '')] # no grid, so nothing is shared

def test_a_figure_grows_with_its_legend():
    many = plot_curves([{'tau': t/10, **r} for t in range(1, 31) for r in rows(methods=(('scl', 0.), ('hscl', 5.)))], {'gap': 'gap'})
    many.canvas.draw()
    box = many.legends[0].get_window_extent()
    assert len(many.legends[0].get_texts())==60 and box.y0>=0 and box.y1<=many.bbox.y1 and box.x1<=many.bbox.x1

def test_standard_figures_leave_out_what_was_not_measured():
    "A figure of each kind for each data set and normalisation; a column with a gap is no panel."
    figs = standard_figures(rows()+[{**r, 'norm': 'none', 'gap': math.nan} for r in rows()], spectra()+[{**r, 'norm': 'none'} for r in spectra()])
    assert [n for n,_,_ in figs]==[f'{k}-digits-ball' for k in ('spectra', 'nc', 'gap', 'loss', 'acc')]+[f'{k}-digits-none' for k in ('spectra', 'nc', 'loss', 'acc')]
    half = standard_figures([{**r, 'val_acc': math.nan} for r in rows()], spectra())
    assert [len(f.axes) for _,_,f in half]==[2, 6, 2, 2, 2] and all(t.startswith('digits, ball: ') for _,t,_ in half)
