"Widgets without a browser: what a click or a slider does, and that drawing keeps to its budget."
import base64, os, random, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb import RunConfig, explore, monitor, playground, run, simplex_etf
from hardcl_nb.runs.frames import Budget
from hardcl_nb.runs.monitor import Monitor, end_run, follow, wait

def shown(w): return bytes(w.picture.value)

@pytest.fixture
def p(): return playground(C=3, per_class=4, d=2)

def test_play_asks_for_frames_and_pause_ends_them(p):
    frames = []
    p.play.playing = True
    for _ in range(3):
        p.play.value += 1
        frames.append(shown(p))
    assert len(set(frames))==3
    p.play.playing = False
    steps = len(p.free.losses)
    p.play.value += 1
    assert shown(p)==frames[-1] and len(p.free.losses)==steps

@pytest.mark.parametrize('name, value', [('beta', 17.), ('tau', .3), ('method', 'hucl'), ('norm', 'sphere'), ('d', 3), ('C', 4), ('per_class', 7), ('start', 'collapsed')])
def test_each_control_changes_the_picture(p, name, value):
    before, points = shown(p), p.free.x
    p.controls[name].value = value
    assert shown(p)!=before
    assert (p.free.x is points)==(name in ('beta', 'tau', 'method', 'norm')) # points stay where only the loss is another

def test_buttons_step_and_restart(p):
    n, before = len(p.free.losses), shown(p)
    p.buttons[0].click()
    assert len(p.free.losses)==n+1 and shown(p)!=before
    old = p.free
    p.buttons[1].click()
    assert p.free is not old and len(p.free.losses)==1

def test_a_method_without_hardness_has_no_hardness_to_move(p):
    for method, off in (('scl', True), ('hscl', False), ('ucl', True), ('hucl', False)):
        p.controls['method'].value = method
        assert p.controls['beta'].disabled==off

def test_too_many_points_are_refused_in_the_widget_until_they_fit():
    p = playground(C=20, per_class=30)
    p.controls['per_class'].value = 31
    assert '20 x 31 = 620' in p.line.value and p.free is None
    old = shown(p)
    p.buttons[0].click(); p.controls['beta'].value = 1.
    assert shown(p)==old
    p.controls['C'].value = 2
    assert p.free is not None and 'Loss' in p.text and shown(p)!=old

def test_without_a_front_end_a_picture_is_shown_and_with_one_the_controls(p, monkeypatch):
    data = p._repr_mimebundle_()
    assert base64.b64decode(data['image/png'])==shown(p) and len(data)==2
    monkeypatch.setattr('hardcl_nb.runs.frames.listening', lambda: True)
    assert 'application/vnd.jupyter.widget-view+json' in p._repr_mimebundle_()

@settings(max_examples=30, deadline=None)
@given(st.floats(.001, .2), st.lists(st.floats(.01, .3), min_size=5, max_size=20))
def test_drawing_keeps_to_its_share(step, costs):
    "Frames that cost as much as the dearest so far, or less, never take more than 5 % of the work."
    now = 0.
    b = Budget(clock=lambda: now)
    with b.drawing(): now += max(costs)
    b.begin()
    drawn = 0
    for k in range(4000):
        now += step
        if b.allows():
            cost = max(costs) if drawn==0 else b.cost*random.Random(k).random()
            with b.drawing(): now += cost
            drawn += 1
        assert b.spent<=.05*b.work+1e-9
    assert drawn>0 or step*4000*.05<max(costs)

def test_a_monitor_draws_no_frame_while_its_budget_is_spent():
    now = 0.
    m = Monitor(steps=1000, budget=Budget(clock=lambda: now))
    first = shown(m)
    m.budget.cost = 1.
    m.add(dict(step=0, loss=1., gap=.5))
    now = 19.9
    m.stop(1)
    assert shown(m)==first
    now = 20.
    m.stop(2)
    assert shown(m)!=first and 'left' in m.text

def test_stop_from_another_thread_ends_a_run_that_is_followed():
    m = Monitor(steps=10**9)
    def loop():
        for step in range(10**9):
            yield dict(step=step)
            if m.stop(step): return
            time.sleep(.001)
    saved = []
    follow(m, loop(), saved.append, thread=True)
    m.button.click()
    m.thread.join(10)
    assert not m.thread.is_alive() and m.over and saved==[wait(m)[-1]['step']] and m.text.endswith('stopped')

def test_a_torn_row_is_said_and_passes(tmp_path):
    run(RunConfig(steps=2, eval_every=1, batch_size=64), tmp_path/'r')
    m = monitor(tmp_path/'r')
    table = tmp_path/'r/metrics.csv'
    whole = table.read_bytes()
    table.write_bytes(whole[:-40])
    m.poll()
    table.write_bytes(whole)
    m.poll()
    assert m.text.endswith('done') and [r['step'] for r in m.records]==[0, 1, 2]

def test_no_process_is_ended_by_a_lock_that_it_does_not_hold(tmp_path):
    import platform
    other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])
    try:
        (tmp_path/'.lock').write_text(f'{other.pid} {platform.node()}')
        with pytest.raises(ValueError, match='has left'): end_run(tmp_path)
        assert other.poll() is None
    finally:
        other.kill(); other.wait()

def test_explore_looks_at_the_pair_of_the_menus():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(4).repeat(6)
    e = explore(simplex_etf(4, 5)[y].float()+.1*torch.randn(24, 5, generator=g), y, names=['a', 'b', 'c', 'd'])
    e.choose(0, 1)
    one = shown(e)
    e.choose(2, 3)
    assert shown(e)!=one and 'of c:' in e.text and 'of d:' in e.text
    e.choose(0, 1)
    assert shown(e)==one

@pytest.mark.slow
@pytest.mark.parametrize('page', ['68_frames', '68_live', '68_monitor', '68_pairs'])
def test_pages_run_in_a_kernel(page, tmp_path):
    "Where a front end may listen, runs go in threads; all cells are run, those that `make test` leaves out too."
    nbclient, nbformat = (pytest.importorskip(m) for m in ('nbclient', 'nbformat'))
    nb = nbformat.read(Path(__file__).resolve().parent.parent/f'nbs/{page}.ipynb', 4)
    nb.cells = [c for c in nb.cells if 'nbdev_export()' not in c.source]
    where = {'metadata': {'path': str(tmp_path)}}
    nbclient.NotebookClient(nb, timeout=300, kernel_name='python3', allow_errors=True, resources=where).execute()
    said = [(c.source[:60], o.ename, o.evalue) for c in nb.cells for o in c.get('outputs', []) if o.output_type=='error']
    assert said and all(name=='NotYet' for _,name,_ in said), said # exercises that nobody has done

def test_ten_classes_of_twenty_points_move_at_ten_frames_a_second():
    "In time of one core, a step and its picture; the least of several, as others may use the machine."
    p, spent = playground(C=10, per_class=20), []
    for _ in range(8):
        start = time.process_time()
        p.step()
        spent.append(time.process_time()-start)
    assert min(spent)<.1, f'{min(spent):.3f} seconds a frame'

def test_a_folder_that_vanishes_is_said_in_the_monitor(tmp_path):
    import shutil
    run(RunConfig(steps=2, eval_every=1, batch_size=64), tmp_path/'r')
    m = monitor(tmp_path/'r')
    shutil.rmtree(tmp_path/'r')
    m.poll()
    assert 'is gone' in m.text and m.over
