"Facts, module by module: each can be reached by a user."
import base64, errno, hashlib, io, json, math, os, platform, re, zipfile, zlib
from dataclasses import replace
from html import unescape
import matplotlib.pyplot as plt, numpy as np, pytest, torch
import torch.nn.functional as F
from PIL import Image
from torch.testing import assert_close
from hardcl_nb import HSCL, CrossLoss, LearnedTau, cross_loss
from hardcl_nb.figures import beta_colors, beta_style, by_hand, film
from hardcl_nb.losses.contrastive import contrastive_loss
from hardcl_nb.losses.cost import Cost
from hardcl_nb.losses.explicit import ranking_loss
from hardcl_nb.losses.relations import relation_loss
from hardcl_nb.measures.collapse import collapse_report, nc4
from hardcl_nb.measures.centres import centre_accuracy
from hardcl_nb.measures.meter import CollapseMeter
from hardcl_nb.routes import hardcl_progress, read_page, route_minutes
from hardcl_nb.runs.arrays import read_arrays
from hardcl_nb.runs.config import RunConfig
from hardcl_nb.runs.diagnose import diagnose, text_report
from hardcl_nb.runs.folder import load_run, run
from hardcl_nb.runs.monitor import Monitor, end_run, follow
from hardcl_nb.runs.pairs import explore
from hardcl_nb.runs.storage import collect, read_csv
from hardcl_nb.tables import methods
from hardcl_nb.theory.bounds import scl_bound, ucl_bound
from hardcl_nb.theory.certificate import certificate
from hardcl_nb.theory.dimensional import fit_rank
from hardcl_nb.theory.free import fit_means
from hardcl_nb.theory.hardening import Exponential
from hardcl_nb.theory.psi import InfoNCE
from hardcl_nb.theory.rates import hard_pull
from hardcl_nb.theory.worlds import block_world
from hardcl_nb.training.data import bayes_accuracy, digits, take_classes
from hardcl_nb.training.datasets import tinyimagenet
from hardcl_nb.training.images import check_sha256
from hardcl_nb.training.probes import seed_intervals

def gen(seed=0): return torch.Generator().manual_seed(seed)
def ball(n, d, seed=0): return (x := torch.randn(n, d, generator=gen(seed)).double())/x.norm(dim=1, keepdim=True).clamp(min=1)

# ---- figures ----
def test_colours_and_dashes_go_by_value():
    "The same in every figure, whatever else is in it; harder lines are darker."
    many = beta_colors([40., 0., 5., 0.])
    assert list(many)==[0., 5., 40.] and many[5.]==beta_colors([5.])[5.]==beta_style(5.)['color'] and beta_style(0.)['linestyle']=='-'
    dark = [sum(int(c[i:i+2], 16) for i in (1, 3, 5)) for c in many.values()]
    assert dark[-1]<dark[0] and len({str(beta_style(b)['linestyle']) for b in (0., 1., 2., 5., 10., 20., 50.)})==7
    assert beta_colors([math.inf]) and pytest.raises(ValueError, beta_colors, [-1.])

def test_a_film_holds_all_its_frames():
    "Packed into the page: one SVG for each value, in their order, with a label each; all figures are closed."
    def draw(v):
        fig, ax = plt.subplots()
        ax.set_title(f'<value {v}>')
        return fig
    before = plt.get_fignums()
    html = film(draw, [.5, 2, 3.], 'β', start=1, alt='A title').data
    packed = re.search('data-frames="([^"]*)"', html)[1]
    frames = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert len(frames)==3 and all('<svg' in f for f in frames) and plt.get_fignums()==before
    assert json.loads(unescape(re.search('data-labels="([^"]*)"', html)[1]))==['β = 0.5', 'β = 2', 'β = 3']
    assert 'alt="A title: β = 2"' in html and base64.b64decode(re.search('base64,([^"]*)"', html)[1]).decode()==frames[1]
    for values,start,said in (([], 0, '^values: expected'), ([1], 1, '^start: expected an index below 1')):
        with pytest.raises(ValueError, match=said): film(draw, values, 'x', start=start)

def test_controls_by_hand_draw_once_where_nobody_listens():
    seen = []
    def draw(**now):
        seen.append(now)
        return plt.figure()
    before = plt.get_fignums()
    by_hand(draw, a=(1, 5, 2), b=['x', 'y'])
    assert seen==[dict(a=1, b='x')] and plt.get_fignums()==before
    for bad in ({}, dict(a=3), dict(a=[])):
        with pytest.raises(ValueError, match='expected'): by_hand(draw, **bad)

# ---- losses ----
def test_a_temperature_that_is_learned():
    "Its parameter is log(τ - low); the loss is that of the number, and it has a slope; τ never falls to the limit."
    z, y = ball(8, 3), torch.arange(8)%2
    tau = LearnedTau(.3, low=.1).double()
    loss = HSCL(2., tau=tau)
    got = loss(z, y)
    got.backward()
    assert_close(got.detach(), contrastive_loss(z, y, beta=2., tau=.3).to(got.dtype), rtol=1e-6, atol=0)
    assert tau.log_tau.item()==pytest.approx(math.log(.2)) and tau.log_tau.grad.abs()>1e-3 and '0.3' in repr(tau) and 'low=0.1' in repr(tau)
    for bad in (dict(tau=.1, low=.1), dict(tau=-1.), dict(low=-1.)):
        with pytest.raises(ValueError): LearnedTau(**bad)
    with torch.no_grad(): tau.log_tau.fill_(-50)
    assert tau().item()>=.1

def test_rows_whose_label_does_not_count():
    "The loss of the others; among rows they are NaN."
    z, y = ball(8, 3), torch.tensor([0, 1, -1, 0, 1, -1, 0, 1])
    keep = y>=0
    assert_close(contrastive_loss(z, y, beta=3., ignore_index=-1), contrastive_loss(z[keep], y[keep], beta=3.))
    rows = contrastive_loss(z, y, beta=3., ignore_index=-1, reduction='none')
    assert torch.equal(rows.isnan(), ~keep)
    assert_close(rows[keep], contrastive_loss(z[keep], y[keep], beta=3., reduction='none'))
    with pytest.raises(ValueError, match='^y: expected 2 rows with another label than -1'): contrastive_loss(z, torch.full((8,), -1), ignore_index=-1)

def test_two_towers_as_a_module():
    "The function's numbers; a batch without pairs costs 0, moves nothing and is counted; a queue is more columns."
    a, b, y = ball(6, 3, 1).requires_grad_(), ball(6, 3, 2).requires_grad_(), torch.arange(6)%3
    loss = CrossLoss(beta=2., tau=.5)
    assert_close(loss(a, y, b, y), cross_loss(a, y, b, y, beta=2., tau=.5))
    old = ball(4, 3, 3), torch.arange(4)%3
    joined = cross_loss(a, y, torch.cat([b, old[0]]), torch.cat([y, old[1]]), beta=2., tau=.5, sides='rows')
    assert_close(CrossLoss(beta=2., tau=.5, sides='rows')(a, y, b, y, queue=old), joined)
    with pytest.warns(UserWarning, match='Such a batch costs 0 and moves nothing'): none = loss(a, y, b, y+10)
    none.backward()
    assert none.item()==0 and loss.empty==1 and not a.grad.any() and not b.grad.any() and 'beta=2.0' in repr(loss)

def test_explicit_negatives_by_their_owner():
    "A matrix (K, d) with the anchor of each is the same as (n, k, d), in any order."
    a, p, m = ball(4, 3, 1), ball(4, 3, 2), ball(8, 3, 3)
    whole, owner = ranking_loss(a, p, m.view(4, 2, 3), beta=1.), torch.arange(4).repeat_interleave(2)
    order = torch.randperm(8, generator=gen())
    assert_close(ranking_loss(a, p, m[order], owner=owner[order], beta=1.), whole)
    with pytest.raises(ValueError, match='^owner: expected the anchor of each negative'): ranking_loss(a, p, m)

def test_labels_of_several_classes_are_booleans():
    "Of one class each they are the labels; of another shape they are refused."
    z, y = ball(6, 3), torch.arange(6)%3
    assert_close(relation_loss(z, F.one_hot(y).bool(), beta=2.), contrastive_loss(z, y, beta=2.))
    with pytest.raises(TypeError, match=r'^y: expected booleans of shape \(6, labels\)'): relation_loss(z, F.one_hot(y))

def test_what_takes_longest_in_words():
    c = dict(ranks=1, ring=False, products=0., passes=0., columns=0., traffic=0., latency=0., memory=1e9, received=0., limit=2e9)
    for k,word in dict(products='matrix products', passes='the rest of the pairs', columns='preparing columns', traffic='bandwidth', latency='latency').items():
        assert Cost(**{**c, k: 1.}).bottleneck==word and Cost(**{**c, k: 1.}).time==1
    assert Cost(**{**c, 'memory': 3e9}).bottleneck=='memory: 3.0 GB of 2.0'

def test_hardness_of_each_negative_by_itself():
    "One number for all is the same number for each; a negative one among them is refused."
    neg, pos = torch.randn(3, 5, generator=gen()).double(), torch.zeros(3).double()
    assert_close(hard_pull(neg, pos, torch.full((5,), 2.).double()).loss, hard_pull(neg, pos, 2.).loss)
    with pytest.raises(ValueError, match='^beta: expected numbers >= 0, got -1 among them'): hard_pull(neg, pos, torch.tensor([1., -1, 0, 0, 0]))

# ---- theory ----
@pytest.mark.parametrize('supervised', [True, False])
@pytest.mark.parametrize('k', [1, 3])
def test_a_certificate_of_a_world(supervised, k):
    "What each step loses adds up to the gap, and nothing is gained on the way; its text has every line."
    world = block_world(3, 2)
    f = ball(len(world.px[0]), 3, k)
    for eta in (None, Exponential(2.)):
        c = certificate(f, world, InfoNCE(), eta, k=k, supervised=supervised)
        assert abs(sum(c.lost.values())-c.gap)<1e-12 and min(c.lost.values())>-1e-12
        assert abs(c.bound-(scl_bound(3) if supervised else ucl_bound(3, k=k)))<1e-12
        lines = str(c).splitlines()
        assert [l.split()[0] for l in lines]==['loss', *c.lost, 'bound'] and float(lines[-1].split()[1])==round(c.bound, 5)

def test_the_limit_of_many_negatives():
    "Of a price with its own limit: what a few thousand come near to."
    assert abs(ucl_bound(5, InfoNCE(q=2.))-ucl_bound(5, InfoNCE(q=2.), k=4096))<1e-3

def test_held_weights_are_followed_and_not_minimised():
    "With weights held fixed there is no function to descend, but the simplex is where both ways end."
    means, losses = fit_means(4, 3, beta=2., detach=True, steps=400, generator=gen())
    u = F.normalize(means, dim=1)
    off = (u@u.T)[~torch.eye(4, dtype=torch.bool)]
    assert losses[-1]<losses[0] and off.sub(-1/3).abs().max()<1e-2 and len(losses)==400

def test_the_price_of_a_rank():
    "Full rank costs nothing, fewer dimensions cost more; the means come back."
    prices = {r: fit_rank(r, 4, starts=2, generator=gen()) for r in (1, 2, 3)}
    least = [float(prices[r][0].min()) for r in (1, 2, 3)]
    assert least[0]>least[1]>least[2]>-1e-9 and least[2]<1e-4 and prices[2][1].shape==(4, 2) and len(prices[1][0])==2

# ---- measures ----
def test_a_meter_in_two_parts():
    "Merged, or gone on with from its state, it says what one meter says; others are refused."
    z, y = torch.randn(40, 3, generator=gen()).double(), torch.arange(40)%4
    whole, a, b, c = (CollapseMeter(4, 3) for _ in range(4))
    whole.update(z, y)
    a.update(z[:15], y[:15])
    b.update(z[15:], y[15:])
    c.load_state_dict(a.state_dict())
    a.merge(b)
    c.update(z[15:], y[15:])
    for m in (a, c):
        for k in ('zero_sum', 'unit_norm', 'equal_inner', 'nc1'): assert getattr(m.compute(), k)==pytest.approx(getattr(whole.compute(), k), rel=1e-9)
    assert not any(v.data_ptr()==c.state_dict()[k].data_ptr() for k,v in a.state_dict().items())
    few = CollapseMeter(4, 3)
    few.update(z[:6], y[:6]%2)
    assert few.compute().absent==(2, 3)
    with pytest.raises(ValueError, match='expected samples of all 4 classes'): few.compute(complete=True)
    with pytest.raises(TypeError, match='^other: expected a CollapseMeter'): a.merge(z)
    with pytest.raises(ValueError, match=r'^other: expected one of \(4, 3\)'): a.merge(CollapseMeter(5, 3))
    with pytest.raises(ValueError, match='^state: expected counts, mu, sq, scatter'): a.load_state_dict({})
    with pytest.raises(ValueError, match=r"^state\['mu'\]: expected"): a.load_state_dict({**a.state_dict(), 'mu': torch.zeros(2, 2)})

def test_agreement_with_the_nearest_centre():
    mu = torch.eye(3).double()
    z = mu[[0, 1, 2, 2]]
    assert nc4(z, mu, torch.tensor([0, 1, 2, 0]))==.75
    with pytest.raises(ValueError, match='^pred: expected rows of mu, 0 to 2'): nc4(z, mu, torch.tensor([0, 1, 2, 3]))

def test_a_report_in_words_and_as_a_table():
    "Each field that has something to say, once; long lists are shortened."
    z = torch.randn(60, 9, generator=gen()).double()
    r = collapse_report(z, torch.arange(60)%8)
    lines = dict(l.split(maxsplit=1) for l in repr(r).splitlines())
    assert float(lines['zero_sum'])==pytest.approx(r.zero_sum, rel=1e-3) and lines['num_samples']==str(r.num_samples)
    assert all(f'>{k}<' in r._repr_html_() for k in lines) and 'num_classes' in r.as_dict() and json.dumps(r.as_dict())
    assert any('…' in v for v in lines.values())

def test_intervals_over_seeds():
    got = seed_intervals([dict(a_knn=1., rank=2., note='x'), dict(a_knn=3., rank=2., note='y')])
    assert set(got)=={'a_knn', 'rank'} and got['rank']==(2, 2, 2)
    mean, low, high = got['a_knn']
    assert mean==2 and (high-low)/2==pytest.approx(12.7062, rel=1e-5) # Student's t of one degree of freedom
    with pytest.raises(ValueError, match='^records: expected records with the same names, got one without rank'): seed_intervals([dict(rank=1.), dict(a_knn=3.)])

# ---- training ----
def test_the_best_that_anyone_can_do():
    "Nearly all right where classes are narrow, nearly a guess where they are wide."
    assert bayes_accuracy(.1, num_classes=10)==1 and abs(bayes_accuracy(100., num_classes=10, dim=4)-.1)<.1
    a = [bayes_accuracy(s, num_classes=10, dim=8) for s in (.5, 1., 2.)]
    assert a==sorted(a, reverse=True)

def test_the_first_classes_of_a_set():
    d = take_classes(digits(), 3)
    whole = digits()
    assert d.num_classes==3 and torch.equal(d.train_x, whole.train_x[whole.train_y<3]) and d.test_y.unique().tolist()==[0, 1, 2]
    with pytest.raises(ValueError, match='^classes: expected at most 10, the number of classes of digits'): take_classes(whole, 11)

def test_tiny_imagenet_from_its_zip(tmp_path):
    "Extracted once, after a look at its checksum; labels by the order of the names, grey pictures in three channels."
    names = ('n02', 'n01')
    with zipfile.ZipFile(tmp_path/'tiny-imagenet-200.zip', 'w') as z:
        def put(name, text): z.writestr(f'tiny-imagenet-200/{name}', text)
        def picture(grey):
            f = io.BytesIO()
            (Image.new('L', (64, 64), grey) if grey>100 else Image.new('RGB', (64, 64), (grey,)*3)).save(f, 'JPEG')
            return f.getvalue()
        put('wnids.txt', '\n'.join(names))
        for i,c in enumerate(names):
            for k in range(2): put(f'train/{c}/images/{c}_{k}.JPEG', picture(50+100*i))
        put('val/val_annotations.txt', 'b.JPEG\tn02\t0\t0\t1\t1\na.JPEG\tn01\t0\t0\t1\t1\n')
        for f,grey in (('a', 150), ('b', 50)): put(f'val/images/{f}.JPEG', picture(grey))
    with pytest.raises(ValueError, match='^data: .*tiny-imagenet-200.zip is damaged or another version'): tinyimagenet(tmp_path)
    assert not (tmp_path/'tiny-imagenet-200').exists()
    for _ in range(2): tinyimagenet(tmp_path, sha256=None)
    (tmp_path/'tiny-imagenet-200.zip').unlink()
    d = tinyimagenet(tmp_path) # what was extracted is enough
    assert d.classes==('n01', 'n02') and d.train_y.tolist()==[0, 0, 1, 1] and d.test_y.tolist()==[1, 0] and tuple(d.train_x.shape)==(4, 3, 64, 64)
    assert (d.train_x[0].float().mean()-150).abs()<2 and (d.test_x[0].float().mean()-50).abs()<2

def test_a_checksum(tmp_path):
    (tmp_path/'a').write_bytes(b'abc')
    sha = hashlib.sha256(b'abc').hexdigest()
    assert check_sha256(tmp_path/'a', sha.upper())==tmp_path/'a'
    with pytest.raises(ValueError, match=f'^data: expected SHA-256 0, got {sha}: a is damaged'): check_sha256(tmp_path/'a', '0')
    with pytest.raises(FileNotFoundError, match='^data: expected an existing file'): check_sha256(tmp_path/'b', sha)

# ---- runs ----
def test_a_run_from_its_folder(tmp_path):
    "The encoder of the last checkpoint, ready to embed, and the data; the numbers are those of the run."
    rows = run(RunConfig(method='scl', steps=3, eval_every=3), tmp_path/'a')
    r = load_run(tmp_path/'a')
    with torch.no_grad(): z, t = r.enc(r.data.train_x), r.enc(r.full.test_x)
    assert r.step==3 and not r.enc.training and len(r.data.train_x)<len(r.full.train_x)
    assert centre_accuracy(z, r.data.train_y, t, r.full.test_y, 10)==pytest.approx(rows[-1]['test_acc'], abs=1e-6)
    with pytest.raises(FileNotFoundError, match='^out: expected a folder with the config.json of a run'): load_run(tmp_path)

def test_what_a_run_cannot_go_on_with(tmp_path):
    "Another setting is named with the one that was; a length that shapes a schedule says so; a setting that the checkpoint knows otherwise is damage."
    cfg = RunConfig(method='hscl', beta=2., steps=2, eval_every=2, lr_schedule='cosine')
    run(cfg, tmp_path/'a')
    for kw,said in ((dict(beta=3.), '^beta: expected 2.0, as in the run to resume'), (dict(steps=4), 'lr_schedule=cosine is shaped by the length')):
        with pytest.raises(ValueError, match=said): run(replace(cfg, **kw), tmp_path/'a', resume=True)
    c = tmp_path/'a/config.json'
    c.write_text(c.read_text().replace('"beta": 2.0', '"beta": 2.5'))
    with pytest.raises(ValueError, match='config.json: expected beta = 2.0, as in the checkpoint, got beta = 2.5, damaged'): run(cfg, tmp_path/'a', resume=True)

def test_a_folder_where_no_lock_can_be_had_says_so(tmp_path, monkeypatch):
    fcntl = pytest.importorskip('fcntl')
    def none(*args): raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(fcntl, 'flock', none)
    with pytest.warns(UserWarning, match='^out: no lock can be had in .*No locks available.*make sure that no other process writes there'):
        run(RunConfig(method='scl', steps=1, eval_every=1), tmp_path/'a')
    assert not (tmp_path/'a/.lock').exists()

def test_tables_of_a_comparison_are_those_of_its_runs(tmp_path):
    "Read and written back; what is no table is named."
    for s in (0, 1): run(RunConfig(method='scl', steps=1, eval_every=1, seed=s), tmp_path/f'c/runs/{s}')
    rows, spectra = collect(tmp_path/'c')
    assert len(read_csv(tmp_path/'c/metrics.csv'))==len(rows)==4
    assert read_csv(tmp_path/'c/spectra.csv')==spectra and {r['seed'] for r in rows}=={0, 1}
    (tmp_path/'x.csv').write_bytes(b'a,b\n1,\xff\n')
    with pytest.raises(ValueError, match='x.csv: expected a table, got'): read_csv(tmp_path/'x.csv')

def test_a_pair_of_a_torch_file(tmp_path):
    "Embeddings and labels; of more things, by number."
    z, y = torch.randn(4, 2, generator=gen()), torch.arange(4)
    torch.save((z, y), tmp_path/'a.pt')
    got = read_arrays(tmp_path/'a.pt')
    assert sorted(got)==['y', 'z'] and np.array_equal(got['z'], z.numpy()) and np.array_equal(got['y'], y.numpy())
    torch.save((z, y, z), tmp_path/'b.pt')
    assert sorted(read_arrays(tmp_path/'b.pt'))==['0', '1', '2']

def test_diagnoses_side_by_side(monkeypatch):
    "A column for each, in blocks that fit the terminal; every number stands once for each."
    monkeypatch.setenv('COLUMNS', '30')
    dxs = {f'run{i}': diagnose(torch.randn(60, 4, generator=gen(i)).double(), torch.arange(60)%3) for i in range(3)}
    text = text_report(dxs)
    assert all(f'{name}: {d.verdict}' in text for name,d in dxs.items())
    table = text.splitlines()
    assert sum(l.startswith('zero_sum') for l in table)>=2 # more than one block
    shown = [w for l in table if l.startswith('zero_sum') for w in l.split()[1:]]
    assert shown==[f'{d.collapse.zero_sum:.4g}' for d in dxs.values()]
    wide = text_report({'a': dxs['run0'], 'b': diagnose(torch.randn(60, 4, generator=gen()).double())})
    assert '–' in wide # no labels, so no number

def test_pictures_of_the_hardest_rows():
    "Channels first or last, one or three; as many as there are rows."
    z, y = ball(30, 4), torch.arange(30)%3
    seen = [explore(z, y, images=np.random.default_rng(0).random(shape)) for shape in ((30, 5, 5), (30, 1, 5, 5), (30, 3, 5, 5), (30, 5, 5, 3))]
    assert all(e is not None for e in seen)
    with pytest.raises(ValueError, match=r'^images: expected 30 images, one for each row of z'): explore(z, y, images=np.zeros((29, 5, 5)))

def test_a_loop_that_fails_while_it_is_watched():
    "What it raised is told, kept, and raised again where it ran."
    m = Monitor(steps=3)
    def records():
        yield dict(step=1, loss=2.)
        raise ZeroDivisionError('by nothing')
    with pytest.raises(ZeroDivisionError, match='by nothing'): follow(m, records(), thread=False)
    assert isinstance(m.error, ZeroDivisionError) and 'ZeroDivisionError: by nothing' in m.text and m.records==[dict(step=1, loss=2.)]
    m = Monitor(record=lambda step: dict(loss=step/2), steps=2)
    assert [m(s) for s in (1, 2)]==[dict(loss=.5), dict(loss=1.)] and m.over and [r['step'] for r in m.records]==[1, 2]

def test_nobody_is_ended_who_has_left(tmp_path):
    "A lock without a process, of another machine, of this process, of one that is gone."
    for text,said in (('', 'names no process'), (f'1 not-{platform.node()}', 'with a run on not-'), (f'{os.getpid()} {platform.node()}', 'a run of this process'),
            (f'{2**22-1} {platform.node()}', 'has left')):
        (tmp_path/'.lock').write_text(text)
        with pytest.raises(ValueError, match=f'^out: expected .*{said}'): end_run(tmp_path)
    (tmp_path/'.lock').unlink()
    with pytest.raises(ValueError, match='where none is'): end_run(tmp_path)

# ---- the course, tables ----
def test_a_table_shows_itself():
    lines = repr(methods).splitlines()
    assert len(lines)==len(methods)+1 and [l.split()[0] for l in lines[1:]]==list(methods) and lines[0].startswith('method')

@pytest.fixture
def course(tmp_path, monkeypatch):
    cells = [dict(cell_type='markdown', source=['# 00 A\n', '\n', '**1. First** (★, 5 minutes).\n', 'word '*400]), dict(cell_type='code', source=['x = 1\n']*30),
        *(dict(cell_type='code', source=[f'check_{k}({k})']) for k in ('first', 'second'))]
    (tmp_path/'work').mkdir()
    (tmp_path/'work/00_a.ipynb').write_text(json.dumps(dict(cells=cells)))
    (tmp_path/'work/.hardcl_course').write_text('first\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path/'work'

def test_progress_on_the_command_line(course, capsys):
    hardcl_progress([])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()==['00_a', '1', 'of', '2', 'next:', 'second'] and said[-1]=='1 of 2 exercises done'
    for args,word in ((['-x'], 'usage: hardcl_progress'), (['a', 'b'], 'usage'), (['nowhere'], 'hardcl_progress: error: folder: expected a folder of working copies')):
        with pytest.raises(SystemExit, match=word): hardcl_progress(args)

def test_minutes_of_a_route(course):
    p = read_page(course/'00_a.ipynb')
    assert route_minutes(['00_a', '00_a'], course)==(2*p.reading, 10) and p.exercises==5 and p.reading==round(p.words/200+p.lines/15)
