"The playground of the home page: its loss and gradient against the package, and its life in a browser."
import json, shutil, subprocess
from pathlib import Path
import pytest, torch
from hardcl_nb import contrastive_loss, hucl_bound, scl_bound

script = Path(__file__).parent.parent/'nbs/playground.js'
chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
node = shutil.which('node')

def states():
    "Twenty states: classes of points in the ball, in two and three dimensions, at several hardnesses."
    g = torch.Generator().manual_seed(0)
    for k in range(20):
        C, m, d, beta = 2+k%6, 2+k%4, 2+k%2, (0., 1., 5., 30., 1e4)[k%5]
        z = torch.randn(C*m, d, generator=g, dtype=torch.float64)
        z = z/z.norm(dim=1, keepdim=True).clamp(min=1)*(1 if k%3 else .3)
        yield z, torch.arange(C).repeat_interleave(m), dict(beta=beta, supervised=k%4<2, detach=k%2==0)

def evaluate(code, tmp_path):
    "What some code after the script writes into `out`, by node, or by a browser without a window."
    if node: return json.loads(subprocess.run([node, '-e', f'{script.read_text()}\n{code}\nconsole.log(JSON.stringify(out))'], capture_output=True, text=True, check=True).stdout)
    page = tmp_path/'page.html'
    page.write_text(f'<meta charset="utf-8"><body><script>{script.read_text()}</script><script>{code}\ndocument.body.textContent = JSON.stringify(out)</script></body>')
    dom = subprocess.run([chromium, '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom', page.as_uri()], capture_output=True, text=True, check=True).stdout
    return json.loads(dom[dom.index('{' if '{"' in dom else '['):dom.rindex('</body>')])

needs_engine = pytest.mark.skipif(not (node or chromium), reason='neither node nor Chromium is installed')

@needs_engine
def test_loss_and_gradient_are_those_of_the_package(tmp_path):
    given = [dict(z=z.tolist(), y=y.tolist(), o=o) for z,y,o in states()]
    got = evaluate(f'const out = {json.dumps(given)}.map(g => hardclPlayground.lossAndGrad(g.z, g.y, g.o))', tmp_path)
    for (z,y,o),r in zip(states(), got, strict=True):
        z.requires_grad_()
        loss = contrastive_loss(z, y, **o)
        grad, = torch.autograd.grad(loss, z)
        assert abs(r['loss']-loss.item())<1e-10
        torch.testing.assert_close(torch.tensor(r['grad'], dtype=torch.float64), grad, rtol=1e-9, atol=1e-10)

@needs_engine
def test_bounds_are_those_of_the_package(tmp_path):
    got = evaluate('const out = [[4, 10, {supervised: true}], [10, 5, {supervised: false, beta: 3}]].map(a => hardclPlayground.bound(...a))', tmp_path)
    assert abs(got[0]-scl_bound(4))<1e-12 and abs(got[1]-hucl_bound(10, 3., per_class=5))<1e-12

@needs_engine
def test_descent_reaches_the_optimum_and_odd_settings_stay_sensible(tmp_path):
    code = '''
    const p = hardclPlayground, o = {C: 4, m: 10, d: 3, beta: 5, supervised: true, start: 'collapsed', seed: 1}, s = p.start(o);
    for (let k = 0; k < 500; k++) p.step(s, o, .06);
    const steep = {...o, beta: 1e4, C: 10}, t = p.start(steep);
    for (let k = 0; k < 20; k++) p.step(t, steep, .06);
    const alone = p.lossAndGrad([[1, 0], [0, 1]], [0, 0], {});
    const out = [p.lossAndGrad(s.z, s.y, o).loss, t.z.flat().every(Number.isFinite), alone.loss, p.bound(1, 5, {})];'''
    loss, finite, alone, none = evaluate(code, tmp_path)
    assert abs(loss-scl_bound(4))<1e-6 and finite and alone==0 and none==0

def test_it_is_small(): assert script.stat().st_size<30_000
