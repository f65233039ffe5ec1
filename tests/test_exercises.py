"""Exercises, working copies and routes: what a student meets.

Every check is fed the unfilled stub, wrong numbers, wrong kinds of answers, mistakes, and the solution by another route (.ci/exercises.py)."""
import json, os, re, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest, torch # noqa: F401 # not while a judge counts seconds

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'.ci'))
import exercises as ex, pages as common, slides, student # noqa: E402
from hardcl_nb.routes import progress, read_page, routes # noqa: E402

numbered = sorted((root/'nbs').glob('[0-9]*.ipynb'))
pages = [p for p in numbered if ex.exercises(p)]
each = pytest.mark.parametrize('p', pages, ids=lambda p: p.stem)
def cells(p): return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(p.read_text(encoding='utf-8'))['cells']]

# ---- what stands on the page ----
@each
def test_an_exercise_is_complete(p):
    "A title, stars, minutes, a stub that says what goes in and out, a call of its check, a hint and a solution, both folded."
    for e in ex.exercises(p):
        assert e.title and 1<=len(e.stars)<=3 and 3<=e.minutes<=60, e
        assert e.called and e.hint and e.solution, e
        doc = re.search(r'^\s+("""|["\'])(.{15,}?)\1\n\s+\.\.\.', e.stub, re.M|re.S)
        assert doc and re.search(r'return|yield', doc[2], re.I) or 'number of' in e.stub, e.stub
        assert re.search(rf'^(def|class) {e.name}\b', e.solution, re.M), e.solution

def test_names_of_exercises_are_unique():
    "What is done is noted by name."
    names = [e.name for p in pages for e in ex.exercises(p)]
    assert sorted(n for n in set(names) if names.count(n)>1)==[]

@each
def test_no_open_cell_holds_a_solution(p):
    "Jupyter shows every cell: what an exercise asks for is written in its stub and in its folded solution alone."
    names = {e.name for e in ex.exercises(p)}
    for kind,s in cells(p):
        if kind!='code': continue
        called = [n for n,a in re.findall(r'^check_(\w+)\((.*)\)', s, re.M) if n in names and a!=n]
        written = [n for n in re.findall(r'^(?:def|class) (\w+)', s, re.M) if n in names and '#| eval: false' not in s]
        assert not called and not written, s

def test_pages_have_in_common_what_they_should():
    "Names, times and collapsed cells, which `python .ci/pages.py` writes; settings.ini lets the mark of a cell through."
    assert [p.stem for p in common.undressed()]==[]
    assert re.search(r'^allowed_cell_metadata_keys = jupyter$', (root/'settings.ini').read_text(), re.M)

def test_what_stands_collapsed():
    for s in ('#| hide\nx', '#| echo: false\nx', '@judge\ndef check_f(f): ...', '#| fig-alt: "a"\n'+'x\n'*5, 'fig,ax = plt.subplots()\n'+'x\n'*5): assert common.aside(s), s
    for s in ('x = 1', '#| export\nfig,ax = plt.subplots()\n'+'x\n'*9, '#| eval: false\ndef f(x): ...', '#| fig-alt: "a"\nfilm(draw, v)', '#| exports\ndef judge(check): ...'): assert not common.aside(s), s

# ---- what the checks say ----
silent = {'preset', 'atomic_write'} # there for what they do
typed = {'compensated'} # the type of the answer is part of the exercise: no other route
def times(k): return lambda f: lambda *a: ex.everywhere(f(*a), lambda t: t*k)
def asked(change): return lambda f: lambda *a: f(*change(*a)) # the right answer to another question
def always(make): return lambda f: lambda *a: make(*a)
own = { # exercises with many right answers, of which scaled ones are some, or with answers that are no numbers: two that are wrong
    'best_angles': [always(lambda: [0, 90, 180]), always(lambda: [0, 120, 241])],
    'draw_loss': [asked(lambda tau: (2*tau,)), asked(lambda tau: (tau+.1,))],
    'soft_max_price': [asked(lambda b: (2*b,)), asked(lambda b: (b/2,))],
    'saddle': [lambda f: lambda: f()[:1]*2, times(.3)],
    'mended': [asked(lambda low, high: (low-.3, high)), asked(lambda low, high: (high, high))],
    'two_views': [asked(lambda px, share: (px, 1-share)), asked(lambda px, share: (px, 0.))],
    'saving': [always(lambda: lambda s: s.sum(-1)*0+1), always(lambda: lambda s: -s.sum(-1))],
    'easy_dual': [always(lambda W: 0*W[0]), always(lambda W: 3*W.sum(1))],
    'bound': [times(.5), times(2.)],
    'smooth_max': [asked(lambda r: (2*r,)), asked(lambda r: (r/2,))],
    'late': [asked(lambda beta: (beta+1,)), asked(lambda beta: (0.,))],
    'fool': [always(lambda z, y: z), lambda f: lambda z, y: f(z, y)+1],
    'leak': [times(2.), lambda f: lambda z, y: f(z, y)+3.6],
    'as_linear': [lambda f: lambda mu: (f(mu)[0], -f(mu)[1]), lambda f: lambda mu: (f(mu)[0], 0*f(mu)[1])],
    'predicted_ratio': [times(1.2), times(.8)], # against a sample, and two approximations are right
    'lonely': [times(1.1), times(.9)],
    'parity': [lambda f: lambda: replace(f(), classes=('odd', 'even')), lambda f: lambda: replace(f(), test_y=0*f().test_y)],

    'once': [always(lambda f: f), always(lambda f: lambda: None)],
    'imports': [always(lambda code: set()), always(lambda code: {'torch', 'dataclasses'})],
    'hostile': [asked(lambda path, message: (path, '')), asked(lambda path, message: (path, message[:3]))],
    'patient': [asked(lambda share: (1.,)), asked(lambda share: (share/2,))],
    'at_etf': [lambda f: lambda C, n: f(C, n).roll(1, 0), lambda f: lambda C, n: 0*f(C, n)+1]}

def run(p):
    "What is wanting in the checks of a page, in a process of its own."
    code = ('import sys, json; sys.path.insert(0, ".ci"); import exercises as ex; from test_exercises import wants; '
        'print("RESULT", json.dumps(wants(sys.argv[1])))')
    r = subprocess.run([sys.executable, '-c', code, str(p)], cwd=root, env={**os.environ, 'PYTHONPATH': f'{root}:{root}/tests', 'MPLBACKEND': 'agg'}, capture_output=True, text=True)
    assert r.returncode==0 and 'RESULT' in r.stdout, r.stdout+r.stderr
    return json.loads(r.stdout.rsplit('RESULT', 1)[1])

def wants(p):
    "{exercise: what is wanting} of a page."
    fed = ex.fed_page(p, own)
    assert fed is not None, p
    return {n: w for n,f in fed.items() if (w := list(ex.wanting(f, n in silent, n in typed)))}

quick = ('03_psi', '42_meter')
@pytest.mark.parametrize('p', [p for p in pages if p.stem in quick], ids=lambda p: p.stem)
def test_checks_of_some_pages(p): assert run(p)=={}

@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize('p', [p for p in pages if p.stem not in quick], ids=lambda p: p.stem)
def test_checks_of_the_other_pages(p): assert run(p)=={}

def test_feeding_sees_a_check_that_accepts_nonsense():
    "One check that looks at nothing, one that looks at the first part only, one that fails without words."
    from hardcl_nb.checks import judge
    def f(a): return 1.5, 2.5*a
    def stub(a): ...
    @judge
    def check_nothing(f): f(2)
    @judge
    def check_half(f): assert abs(f(2)[0]-1.5)<1e-9
    def check_dumb(f): assert abs(f(2)[0]-1.5)+abs(f(2)[1]-5)<1e-9
    @judge
    def check_good(f):
        a, b = f(2)
        assert abs(a-1.5)+abs(b-5)<1e-9, f'got {a} and {b}, expected 1.5 and 5'
    found = [list(ex.wanting(ex.feed(c, f, stub))) for c in (check_nothing, check_half, check_dumb, check_good)]
    assert any('the stub is accepted' in w for w in found[0]) and found[1] and found[2] and found[3]==[]

def test_a_judge_waits_for_a_busy_machine_and_not_for_ever():
    "Not computing for longer than the limit is the machine's fault; not coming back at all is the answer's."
    import time
    from functools import partial
    from hardcl_nb.checks import NotYet, judge
    def check_f(f): assert f(2)==4
    strict = partial(judge, seconds=.2)
    def patient(a):
        time.sleep(.5)
        return 2*a
    def asleep(a): time.sleep(60)
    strict(check_f)(patient)
    with pytest.raises(NotYet, match='no answer after 2 seconds: is there a loop'): strict(check_f)(asleep)

# ---- working copies ----
@pytest.fixture(scope='module')
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp('course')/'work'
    assert student.write(folder, False)==len(list((root/'nbs').glob('*.ipynb')))
    return folder

def test_copies_write_nothing_back(work):
    "No export, no line for the site's tools; solutions folded, cells aside collapsed, nothing that needs more than a laptop."
    for p in sorted(work.glob('*.ipynb')):
        nb = json.loads(p.read_text(encoding='utf-8'))
        for c in nb['cells']:
            s = ''.join(c['source'])
            if c['cell_type']=='code': assert not re.search(r'nbdev_export|^#\|\s*(default_exp|export|eval|hide|gpu|slow|notest)', s, re.M), s
        assert not any('<details' in s and '</details>' not in s for _,s in cells(p))
    hidden = [c for c in json.loads((work/'07_etf.ipynb').read_text())['cells'] if c['metadata'].get('jupyter')]
    assert len(hidden)>=10

def test_a_second_call_keeps_what_a_student_wrote(work):
    page, notes = work/'02_game.ipynb', work/'.hardcl_course'
    before = page.read_text()
    page.write_text(before.replace('A round', 'A round of mine'))
    notes.write_text('round_price\n')
    assert student.write(work, False)==0
    assert 'A round of mine' in page.read_text() and notes.read_text()=='round_price\n'
    page.write_text(before)
    notes.write_text('')

def test_the_first_exercise_from_a_fresh_copy(work, capsys):
    "Run the first page up to its first exercise, which says that nothing is there yet; fill it in; it is noted."
    from execnb.nbio import read_nb
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    e = ex.exercises(root/'nbs/00_notation.ipynb')[0]
    nb = read_nb(work/'00_notation.ipynb')
    call = next(i for i,c in enumerate(nb.cells) if c.source.strip()==f'check_{e.name}({e.name})')
    shell = CaptureShell(work/'00_notation.ipynb')
    nb.cells = nb.cells[:call]
    with working_directory(work):
        shell.run_all(nb, exc_stop=True)
        shell.run(f'check_{e.name}({e.name})')
        assert 'is the stub filled in?' in str(shell.exc)
        shell.exc = None
        shell.run(e.solution)
        shell.run(f'check_{e.name}({e.name})')
    assert not shell.exc
    done, rest = progress(work)['00_notation']
    assert done==[e.name] and rest==[x.name for x in ex.exercises(root/'nbs/00_notation.ipynb')[1:]]

def test_progress_counts_every_exercise_once(work):
    counted = {p: sorted(done+rest) for p,(done,rest) in progress(work).items() if done+rest}
    assert counted=={p.stem: sorted(e.name for e in ex.exercises(p)) for p in pages}

# ---- routes, times, names ----
def test_pages_follow_each_other():
    "`Next` leads to the next page of the sidebar, under the name that stands above that page; names are unique."
    names = [read_page(p).title for p in numbered]
    assert len(set(names))==len(names) and all(n.startswith(p.name[:2]+' ') for n,p in zip(names, numbered))
    order = re.findall(r'(\d\d_\w+)\.ipynb', (root/'nbs/sidebar.yml').read_text())
    assert order==[p.stem for p in numbered]
    for a,b in zip(numbered, numbered[1:]):
        found = re.findall(r'^Next: \[(.*?)\]\((\w+)\.ipynb\)', '\n'.join(s for k,s in cells(a) if k=='markdown'), re.M)
        assert len(found)==1 and found[0][1]==b.stem, (a.stem, found)
        assert found[0][0]==read_page(b).title, f'{a.stem}: Next is called "{found[0][0]}", the page "{read_page(b).title}"'

def test_times_on_the_pages_are_those_measured():
    "In words and lines, up to a tenth or two minutes."
    for p in numbered:
        said = re.search(r'^\*Reading: (\d+) minutes; exercises: (\d+)\.\*$', '\n'.join(s for k,s in cells(p) if k=='markdown'), re.M)
        page = read_page(p)
        assert said and abs(int(said[1])-page.reading)<=max(2, .1*page.reading) and int(said[2])==page.exercises, (p.stem, page)

def test_routes_lead_over_pages_that_are_there():
    known = {p.stem for p in numbered}
    for name,way in routes.items(): assert set(way)<=known and way==list(dict.fromkeys(way)), name
    assert routes['the practitioner'].index('56_loop')==5 # the loop is the sixth page
    for name in ('a taste', 'the theory'):
        way = routes[name]
        for p in way: assert not {q for q in read_page(root/f'nbs/{p}.ipynb').needs if q in way[way.index(p):]}, p

def test_a_page_can_be_read_in_an_evening():
    "Reading is measured in words and lines; a page of more than 80 minutes should be two."
    times = {p.stem: read_page(p).reading for p in numbered}
    assert max(times.values())<=80, max(times, key=times.get)
    taste = [read_page(root/f'nbs/{p}.ipynb') for p in routes['a taste']]
    assert sum(p.reading for p in taste)<=130

# ---- for lecturers ----
def test_slides_hold_the_key_figures(tmp_path):
    text = slides.slides()
    assert text.count('<section>')==len(slides.key)+1 and len(re.findall(r'<img alt="[^"]{30,}" src="data:image/png', text))==len(slides.key)
    for at in re.findall(rf'href="{slides.site}(\w+)\.html"', text): assert any(p.stem.split('_', 1)[1]==at for p in numbered), at

def test_lecturers_find_goals_and_answers():
    text = '\n'.join(s for k,s in cells(root/'nbs/lecturers.ipynb') if k=='markdown')
    questions = re.findall(r'^\*\*(\d+)\.\*\* .*?\n\n<details><summary>Answer</summary>\n\n(.*?)\n\n</details>', text, re.M|re.S)
    assert [int(n) for n,_ in questions]==list(range(1, len(questions)+1)) and len(questions)>=20
    assert all(re.search(r'\]\(\d\d_\w+\.ipynb\)', a) for _,a in questions)
    shown = json.dumps(json.loads((root/'nbs/lecturers.ipynb').read_text())['cells'])
    missing = [p.stem for p in numbered if f'({p.name}) | ' not in shown]
    assert not missing, f'python .ci/refresh.py --path nbs/lecturers.ipynb: {missing}'
