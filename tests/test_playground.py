"The playground of the home page: its loss and gradient against the package, and its life in a browser."
import json, re, shutil, subprocess
from pathlib import Path
from urllib.parse import unquote
import pytest, torch
from hardcl_nb import contrastive_loss, hucl_bound, scl_bound

script = Path(__file__).parent.parent/'nbs/playground.js'
chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
node = shutil.which('node')
engines = ['node']*bool(node)+['chromium']*bool(chromium)

def states():
    "Twenty states: classes of points in the ball, in two and three dimensions, at several hardnesses."
    g = torch.Generator().manual_seed(0)
    for k in range(20):
        C, m, d, beta = 2+k%6, 2+k%4, 2+k%2, (0., 1., 5., 30., 1e4)[k%5]
        z = torch.randn(C*m, d, generator=g, dtype=torch.float64)
        z = z/z.norm(dim=1, keepdim=True).clamp(min=1)*(1 if k%3 else .3)
        yield z, torch.arange(C).repeat_interleave(m), dict(beta=beta, supervised=k%4<2, detach=k%2==0)

def browse(body, *flags):
    "The DOM of a page in a browser without a window, once its scripts are done."
    flags = ['--headless', '--no-sandbox', '--disable-gpu', *flags, '--dump-dom']
    return subprocess.run([chromium, *flags, body.as_uri()], capture_output=True, text=True, check=True).stdout

def evaluate(code, tmp_path, engine=engines[:1], *flags):
    "What some code after the script writes into `out`, by node, or in a browser."
    if 'node' in engine: return json.loads(subprocess.run([node, '-e', f'{script.read_text()}\n{code}\nconsole.log(JSON.stringify(out))'], capture_output=True, text=True, check=True).stdout)
    page, told = tmp_path/'page.html', "document.body.innerHTML = '<pre>'+encodeURIComponent(JSON.stringify(out))+'</pre>'"
    page.write_text(f'<!doctype html><meta charset="utf-8"><body><script>{script.read_text()}</script><script>{code}\n{told}</script></body>')
    return json.loads(unquote(re.search('<pre>(.*?)</pre>', browse(page, *flags))[1]))

needs_engine = pytest.mark.skipif(not engines, reason='neither node nor Chromium is installed')
needs_browser = pytest.mark.skipif(not chromium, reason='Chromium is not installed')

@needs_engine
@pytest.mark.parametrize('engine', engines)
def test_loss_and_gradient_are_those_of_the_package(engine, tmp_path):
    given = [dict(z=z.tolist(), y=y.tolist(), o=o) for z,y,o in states()]
    got = evaluate(f'const out = {json.dumps(given)}.map(g => hardclPlayground.lossAndGrad(g.z, g.y, g.o))', tmp_path, engine)
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

life = '''
document.body.innerHTML = '<div id="box" style="width:300px"></div>';
const box = document.getElementById('box'), p = hardclPlayground.playground(box), $ = q => box.querySelector(q), out = {};
const said = () => $('.say').textContent, press = key => $('canvas').dispatchEvent(new KeyboardEvent('keydown', {key}));
const pixels = () => $('canvas').toDataURL(), button = name => [...box.querySelectorAll('button')].find(b => b.textContent === name);
out.first = said();
out.targets = [...box.querySelectorAll('button, select, input')].map(e => e.getBoundingClientRect()).map(r => Math.min(r.width, r.height));
out.wide = [...box.querySelectorAll('*')].map(e => e.getBoundingClientRect().right).filter(x => x > box.getBoundingClientRect().right + .5).length;
let before = pixels(); press('ArrowLeft'); out.turned = pixels() !== before;
const beta = $('input'); beta.value = 12; beta.dispatchEvent(new Event('input')); out.spoken = beta.getAttribute('aria-valuetext');
press(' '); out.afterPlay = said(); out.still = button('Play') !== undefined;
out.odd = [];
for (const [k, v] of [['C', 1], ['beta', 1e4], ['C', 10], ['d', 2], ['method', 'HUCL'], ['sphere', true], ['start', 'optimal'], ['C', 1], ['m', 2]]) { p.set(k, v); p.advance(5); out.odd.push(said()); }
for (const [k, v] of [['C', 10], ['m', 10], ['d', 3], ['beta', 5], ['method', 'HSCL']]) p.set(k, v);
let least = Infinity;
for (let k = 0; k < 60; k++) { const t = performance.now(); p.advance(2); least = Math.min(least, performance.now() - t); }
out.ms = least;'''

@needs_browser
def test_its_life_in_a_browser(tmp_path):
    "On a phone of 300 pixels, by keyboard, for those who want no motion, at odd settings, and fast enough."
    out = evaluate(life, tmp_path, 'chromium', '--force-prefers-reduced-motion', '--window-size=400,900')
    assert out['first'].startswith('loss 0.') and min(out['targets'])>=24 and out['wide']==0
    assert out['turned'] and out['spoken']=='β = 12'
    assert out['still'] and out['afterPlay']!=out['first'] # a jump instead of a motion
    for text in out['odd']: assert text and not re.search('NaN|Infinity|undefined', text), text
    assert 'no negatives' in out['odd'][0]
    assert out['ms']<1000/30, 'the quickest frame of 10 x 10 points, with its drawing, on a machine that may be busy'

def luminance(colour): return sum(w*(c/12.92 if c<=.04045 else ((c+.055)/1.055)**2.4) for w,c in zip((.2126, .7152, .0722), (int(colour[k:k+2], 16)/255 for k in (1, 3, 5))))

@pytest.mark.parametrize('name, paper', [('onLight', 1.), ('onDark', luminance('#222222'))])
def test_its_colours_stand_out(name, paper):
    colours = re.findall(r"'(#\w{6})'", re.search(rf'const {name} = (.*);', script.read_text())[1])
    assert len(set(colours))==10
    for c in colours: assert max(paper+.05, luminance(c)+.05)/min(paper+.05, luminance(c)+.05)>=3, c

def test_it_is_small(): assert script.stat().st_size<30_000
