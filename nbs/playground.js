// Points of C classes descend a contrastive loss while one watches. One file, no framework, nothing fetched.
// The loss is the exact loss of the batch (alpha = q = tau = 1); `tests/test_playground.py` holds value and gradient against the package.
(function (root) {
'use strict';

// ---------------------------------------------------------------- mathematics
const dot = (a, b) => a.reduce((s, x, k) => s + x * b[k], 0);
const softplus = x => x > 30 ? x : Math.log1p(Math.exp(x));
const sigmoid = x => 1 / (1 + Math.exp(-x));

// Loss of a batch and its gradient by the rows z. Negatives: other classes, or (unsupervised) everything but the anchor.
function lossAndGrad(z, y, o) {
  const beta = o.beta || 0, supervised = o.supervised !== false, detach = o.detach !== false;
  const n = z.length, d = z[0].length, s = new Float64Array(n), hard = new Float64Array(n), easy = new Float64Array(n);
  const grad = z.map(() => new Array(d).fill(0));
  let loss = 0, anchors = 0;
  for (let i = 0; i < n; i++) {
    let top = -Infinity, m = 0, a = 0, b = 0, rate = 0;
    for (let j = 0; j < n; j++) {
      let t = 0;
      for (let k = 0; k < d; k++) t += z[i][k] * z[j][k];
      s[j] = t;
      if (j !== i && y[j] === y[i]) m++;
      if (j !== i && (!supervised || y[j] !== y[i]) && t > top) top = t;
    }
    if (!m || top === -Infinity) continue; // no positive, or no negative
    anchors++;
    for (let j = 0; j < n; j++) { // both softmaxes over the negatives, shifted by the largest similarity
      const use = j !== i && (!supervised || y[j] !== y[i]);
      a += hard[j] = use ? Math.exp((1 + beta) * (s[j] - top)) : 0;
      b += easy[j] = use ? Math.exp(beta * (s[j] - top)) : 0;
    }
    const A = top + Math.log(a) - Math.log(b); // log of the weighted mean of e^s
    for (let p = 0; p < n; p++) if (p !== i && y[p] === y[i]) {
      const pull = sigmoid(A - s[p]) / m;
      loss += softplus(A - s[p]) / m;
      rate += pull;
      for (let k = 0; k < d; k++) { grad[i][k] -= pull * z[p][k]; grad[p][k] -= pull * z[i][k]; }
    }
    for (let j = 0; j < n; j++) if (hard[j] || easy[j]) {
      const push = rate * (detach ? hard[j] / a : (1 + beta) * hard[j] / a - beta * easy[j] / b);
      for (let k = 0; k < d; k++) { grad[i][k] += push * z[j][k]; grad[j][k] += push * z[i][k]; }
    }
  }
  if (!anchors) return {loss: 0, grad};
  return {loss: loss / anchors, grad: grad.map(v => v.map(x => x / anchors))};
}

// The least loss of C balanced classes of m in the unit ball, and whether d dimensions are enough to reach it.
function bound(C, m, o) {
  if (C < 2) return 0;
  const far = C / (C - 1), beta = o.beta || 0;
  if (o.supervised !== false) return Math.log1p(Math.exp(-far));
  const M = m * (C - 1) / (m - 1), g = u => (1 + M * Math.pow(u, 1 + beta)) / (1 + M * Math.pow(u, beta));
  let lo = 0, hi = 1; // M u^(1+beta) + (1+beta) u = beta
  for (let k = 0; k < 100; k++) { const u = (lo + hi) / 2; M * Math.pow(u, 1 + beta) + (1 + beta) * u < beta ? lo = u : hi = u; }
  return Math.log1p(g(Math.exp(-Math.min(-Math.log(lo), far))));
}

function onto(v, sphere) {
  const r = Math.hypot(...v);
  return sphere || r > 1 ? v.map(x => x / (r || 1)) : v;
}

function random(seed) { // mulberry32: the same start for the same seed
  let a = seed >>> 0;
  const u = () => { a = a + 0x6D2B79F5 | 0; let t = Math.imul(a ^ a >>> 15, 1 | a); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t; return ((t ^ t >>> 14) >>> 0) / 4294967296; };
  return () => Math.sqrt(-2 * Math.log(1 - u())) * Math.cos(2 * Math.PI * u());
}

function start(o) {
  const g = random(o.seed || 1), z = [], y = [];
  const centre = Array.from({length: o.C}, (_, c) => o.start === 'optimal' ? best(c, o) : onto(Array.from({length: o.d}, g), true));
  for (let c = 0; c < o.C; c++) for (let k = 0; k < o.m; k++) {
    const noise = Array.from({length: o.d}, g);
    let v = o.start === 'random' ? noise : o.start === 'collapsed' ? noise.map((x, i) => (i ? 0 : 1) + .08 * x) : centre[c].map((x, i) => x + .15 * noise[i]);
    z.push(onto(v, o.sphere || o.start !== 'random')); y.push(c);
  }
  return {z, y};
}

function best(c, o) { // near the best place of class c that fits: a regular polygon, or points spread over the sphere
  const t = 2 * Math.PI * c / o.C;
  if (o.d === 2) return [Math.cos(t), Math.sin(t)];
  if (o.C === 4) return [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]][c].map(x => x / Math.sqrt(3));
  const h = 1 - 2 * (c + .5) / o.C, r = Math.sqrt(1 - h * h), f = c * Math.PI * (3 - Math.sqrt(5));
  return o.C <= 3 ? [Math.cos(t), Math.sin(t), 0] : [r * Math.cos(f), r * Math.sin(f), h];
}

function step(state, o, rate) {
  const {loss, grad} = lossAndGrad(state.z, state.y, o), n = state.z.length;
  state.z = state.z.map((v, i) => onto(v.map((x, k) => x - rate * n * grad[i][k]), o.sphere));
  return loss;
}

function means(state, o) {
  const mu = Array.from({length: o.C}, () => new Array(o.d).fill(0));
  state.z.forEach((v, i) => v.forEach((x, k) => { mu[state.y[i]][k] += x / o.m; }));
  return mu;
}

const api = {lossAndGrad, bound, start, step, means, onto};
root.hardclPlayground = api;
if (typeof module !== 'undefined') module.exports = api;
if (typeof document === 'undefined') return;

// ---------------------------------------------------------------- what one sees
const onLight = ['#0072b2', '#d55e00', '#00855f', '#b5508a', '#8c6d00', '#2a86c4', '#7f3c8d', '#5a5a5a', '#d3191b', '#2c8a26']; // each 3:1 on white or more
const onDark = ['#3fa7e8', '#f58235', '#19c795', '#e79ac6', '#d0a93a', '#8fd0f7', '#c48bd2', '#b5b5b5', '#ff7a7c', '#6fd166']; // and on #222
const methods = {SCL: {supervised: true, hard: false}, HSCL: {supervised: true, hard: true}, UCL: {supervised: false, hard: false}, HUCL: {supervised: false, hard: true}};

// Is the ink light, so the paper dark? The answer of the page, whatever its theme is called.
const dark = ink => { const [a, b, c] = (ink.match(/[\d.]+/g) || [0, 0, 0]).map(Number); return a + b + c > 382; };

function element(tag, attrs, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) k.startsWith('on') ? e.addEventListener(k.slice(2), v) : e.setAttribute(k, v);
  e.append(...children);
  return e;
}

function choice(name, values, value, act) {
  const s = element('select', {onchange: () => act(s.value), 'aria-label': name}, ...values.map(v => element('option', {value: v}, v)));
  s.value = value;
  return element('label', {}, name + ' ', s);
}

function slider(name, min, max, by, value, act) {
  const out = element('output', {}, String(value));
  const s = element('input', {type: 'range', min, max, step: by, value, 'aria-valuetext': `${name} = ${value}`, oninput: () => { out.textContent = s.value; s.setAttribute('aria-valuetext', `${name} = ${s.value}`); act(+s.value); }});
  return element('label', {}, name + ' ', s, ' ', out);
}

const style = `.hardcl-pg{border:1px solid #8885;border-radius:.5em;padding:.75em;max-width:60em;font-size:.95rem}.hardcl-pg .row{display:flex;flex-wrap:wrap;gap:.5em 1.2em;align-items:center;margin:.3em 0}
.hardcl-pg canvas{width:100%;touch-action:none;display:block}.hardcl-pg .pics{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(16em,100%),1fr));gap:.75em}.hardcl-pg button,.hardcl-pg select{min-height:2em;min-width:2em;padding:.1em .7em}
.hardcl-pg input[type=range]{min-height:1.8em;vertical-align:middle;max-width:10em}.hardcl-pg output{display:inline-block;min-width:2em}.hardcl-pg .say{font-variant-numeric:tabular-nums;min-height:3em}`;

function playground(box) {
  const o = {method: 'HSCL', beta: 5, C: 4, m: 10, d: 3, sphere: false, start: 'collapsed', seed: 1, detach: true};
  const still = root.matchMedia && root.matchMedia('(prefers-reduced-motion: reduce)').matches;
  let state, seen, count, playing = false, turn = .6, tilt = .35, held = null, last = 0, frames = [];
  const picture = element('canvas', {width: 640, height: 640, tabindex: 0, role: 'img', 'aria-label': 'Points of each class in the unit ball; drag a point, or turn the ball with the arrow keys'});
  const curve = element('canvas', {width: 640, height: 640, role: 'img', 'aria-label': 'Loss against steps, with its lower bound as a dashed line'});
  const say = element('div', {class: 'say', 'aria-live': 'off'}), go = element('button', {type: 'button', onclick: () => play(!playing)}, 'Play');
  const options = () => ({...methods[o.method], beta: methods[o.method].hard ? o.beta : 0, detach: o.detach, C: o.C, m: o.m, d: o.d, sphere: o.sphere, start: o.start, seed: o.seed});
  const again = () => { state = start(options()); count = 0; seen = [[0, lossAndGrad(state.z, state.y, options()).loss]]; draw(); };
  const set = k => v => { o[k] = v; if (k === 'method' || k === 'beta' || k === 'detach') draw(); else again(); };

  function advance(times) {
    for (let k = 0; k < times; k++) { const before = step(state, options(), .06); if (k) seen.push([count, before]); count++; }
    seen.push([count, lossAndGrad(state.z, state.y, options()).loss]);
    while (seen.length > 600) seen = seen.filter((_, k) => k % 2 === 0);
    draw();
  }
  function play(on) {
    playing = on; go.textContent = on ? 'Pause' : 'Play';
    if (on && still) { advance(50); play(false); } // a jump instead of a motion
    else if (on) root.requestAnimationFrame(tick);
  }
  function tick(now) {
    if (!playing || !box.isConnected) return;
    frames.push(now); frames = frames.filter(t => now - t < 1000); api.framesPerSecond = frames.length;
    if (!held) turn += .004;
    advance(2);
    root.requestAnimationFrame(tick);
  }

  const project = v => { // to the canvas, with the depth
    const [x, y, z] = [v[0], v[1], v[2] || 0], c = Math.cos(turn), s = Math.sin(turn), a = Math.cos(tilt), b = Math.sin(tilt);
    if (o.d === 2) return [320 + 260 * x, 320 - 260 * y, 0];
    const u = c * x + s * z, w = -s * x + c * z;
    return [320 + 260 * u, 320 - 260 * (a * y - b * w), b * y + a * w];
  };
  const back = (px, py, depth) => {
    const u = (px - 320) / 260, v = (320 - py) / 260, c = Math.cos(turn), s = Math.sin(turn), a = Math.cos(tilt), b = Math.sin(tilt);
    if (o.d === 2) return [u, v];
    const y = a * v + b * depth, w = -b * v + a * depth;
    return [c * u - s * w, y, s * u + c * w];
  };

  function draw() {
    const g = picture.getContext('2d'), ink = getComputedStyle(box).color, night = dark(ink), colours = night ? onDark : onLight, middle = project([0, 0, 0]);
    g.clearRect(0, 0, 640, 640); g.lineWidth = 1.5; g.strokeStyle = '#8889';
    g.beginPath(); g.arc(320, 320, 260, 0, 7); g.stroke();
    if (o.d === 3) for (const k of [0, 1]) { // equator and a meridian
      g.beginPath();
      for (let t = 0; t <= 64; t++) { const f = t * Math.PI / 32, p = project(k ? [0, Math.cos(f), Math.sin(f)] : [Math.cos(f), 0, Math.sin(f)]); t ? g.lineTo(p[0], p[1]) : g.moveTo(p[0], p[1]); }
      g.globalAlpha = .35; g.stroke(); g.globalAlpha = 1;
    }
    g.lineWidth = 3;
    means(state, o).forEach((v, c) => { const [x, y] = project(v); g.strokeStyle = colours[c % 10]; g.globalAlpha = .7; g.beginPath(); g.moveTo(middle[0], middle[1]); g.lineTo(x, y); g.stroke(); });
    const dots = state.z.map((v, i) => [...project(v), state.y[i]]).sort((a, b) => a[2] - b[2]);
    for (const [x, y, depth, c] of dots) { g.globalAlpha = o.d === 3 ? .55 + .45 * (depth + 1) / 2 : .85; g.fillStyle = colours[c % 10]; g.beginPath(); g.arc(x, y, 9, 0, 7); g.fill(); }
    g.globalAlpha = 1; g.font = 'bold 30px sans-serif'; g.textAlign = 'center'; g.textBaseline = 'middle';
    means(state, o).forEach((v, c) => { // a number beyond each class mean
      const r = Math.hypot(...v) || 1, [x, y] = project(v.map(t => (1 + .13 / r) * t));
      g.lineWidth = 6; g.strokeStyle = night ? '#222' : '#fff'; g.strokeText(c + 1, x, y); g.fillStyle = colours[c % 10]; g.fillText(c + 1, x, y);
    });
    chart(curve.getContext('2d'), ink);
    words();
  }
  function chart(g, ink) {
    const low = bound(o.C, o.m, options()), ys = seen.map(p => p[1]), hi = Math.max(...ys, low) + .02, lo = Math.min(...ys, low) - .02, last = Math.max(count, 50);
    const X = t => 90 + 530 * t / last, Y = v => 580 - 540 * (v - lo) / (hi - lo);
    g.clearRect(0, 0, 640, 640); g.strokeStyle = g.fillStyle = ink; g.lineWidth = 1.5; g.font = '26px sans-serif';
    g.beginPath(); g.moveTo(90, 30); g.lineTo(90, 580); g.lineTo(620, 580); g.stroke();
    g.textAlign = 'right'; g.fillText(hi.toFixed(2), 82, 48); g.fillText(lo.toFixed(2), 82, 580); g.fillText(last + ' steps', 620, 615); g.textAlign = 'left'; g.fillText('loss', 98, 40);
    g.setLineDash([10, 8]); g.beginPath(); g.moveTo(90, Y(low)); g.lineTo(620, Y(low)); g.stroke(); g.setLineDash([]); g.textAlign = 'left'; g.fillText('least possible', 100, Y(low) - 14); // on the left the loss is high
    g.strokeStyle = dark(ink) ? onDark[1] : onLight[1]; g.lineWidth = 4; g.beginPath(); seen.forEach(([t, v], k) => k ? g.lineTo(X(t), Y(v)) : g.moveTo(X(t), Y(v))); g.stroke();
  }
  function words() {
    const mu = means(state, o), low = bound(o.C, o.m, options()), loss = seen[seen.length - 1][1], cos = [];
    for (let a = 0; a < o.C; a++) for (let b = 0; b < a; b++) cos.push(dot(mu[a], mu[b]) / (Math.hypot(...mu[a]) * Math.hypot(...mu[b]) || 1));
    const zero = Math.hypot(...mu[0].map((_, k) => mu.reduce((s, v) => s + v[k], 0) / o.C)), r = mu.reduce((s, v) => s + Math.hypot(...v) / o.C, 0);
    if (o.C < 2) { say.textContent = 'One class alone has no negatives: nothing pushes, and the loss is 0.'; return; }
    const gap = loss - low, small = Math.abs(gap) < 5e-5 ? 0 : gap;
    say.textContent = `loss ${loss.toFixed(4)}, least possible ${low.toFixed(4)}, gap ${small.toFixed(4)}; cosines of class means ${Math.min(...cos).toFixed(2)} to ${Math.max(...cos).toFixed(2)}`
      + ` (ETF: ${(-1 / (o.C - 1)).toFixed(2)}); mean length ${r.toFixed(2)}, zero-sum ${zero.toFixed(2)}` + (o.d < o.C - 1 ? `. ${o.C} classes need ${o.C - 1} dimensions for the optimum: here they have ${o.d}.` : '.');
  }

  const at = e => { const r = picture.getBoundingClientRect(); return [(e.clientX - r.left) * 640 / r.width, (e.clientY - r.top) * 640 / r.height]; };
  picture.addEventListener('pointerdown', e => {
    const [x, y] = at(e); let near = 26; held = {x, y, i: -1};
    state.z.forEach((v, i) => { const [a, b, depth] = project(v), r = Math.hypot(a - x, b - y); if (r < near) { near = r; held = {x, y, i, depth}; } });
    picture.setPointerCapture(e.pointerId);
  });
  picture.addEventListener('pointermove', e => {
    if (!held) return;
    const [x, y] = at(e);
    if (held.i >= 0) state.z[held.i] = onto(back(x, y, held.depth), o.sphere);
    else { turn += (x - held.x) / 160; tilt += (y - held.y) / 160; held.x = x; held.y = y; }
    seen[seen.length - 1][1] = lossAndGrad(state.z, state.y, options()).loss;
    draw();
  });
  for (const k of ['pointerup', 'pointercancel']) picture.addEventListener(k, () => { held = null; });
  picture.addEventListener('keydown', e => {
    const by = {ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, -.1], ArrowDown: [0, .1]}[e.key];
    if (by) { turn += by[0]; tilt += by[1]; draw(); e.preventDefault(); } else if (e.key === ' ') { play(!playing); e.preventDefault(); }
  });

  box.textContent = '';
  box.classList.add('hardcl-pg');
  box.append(element('style', {}, style),
    element('div', {class: 'row'}, choice('loss', Object.keys(methods), o.method, set('method')), slider('β', 0, 30, 1, o.beta, set('beta')), slider('classes', 2, 10, 1, o.C, set('C')), slider('points', 2, 20, 1, o.m, set('m')),
      choice('dimensions', ['3', '2'], '3', v => set('d')(+v)), choice('norm', ['ball', 'sphere'], 'ball', v => set('sphere')(v === 'sphere')),
      choice('start', ['random', 'collapsed', 'optimal'], o.start, set('start')), choice('weights', ['held fixed', 'attached'], 'held fixed', v => set('detach')(v === 'held fixed'))),
    element('div', {class: 'row'}, go, element('button', {type: 'button', onclick: () => advance(1)}, 'Step'), element('button', {type: 'button', onclick: () => { o.seed++; again(); }}, 'New start'), element('button', {type: 'button', onclick: again}, 'Restart')),
    element('div', {class: 'pics'}, picture, curve), say);
  again();
  return {set: (k, v) => set(k)(v), play, advance, state: () => state, loss: () => seen[seen.length - 1][1]};
}

api.playground = playground;
const all = () => document.querySelectorAll('.hardcl-playground').forEach(box => { box.hardcl = playground(box); });
document.readyState === 'loading' ? document.addEventListener('DOMContentLoaded', all) : all();
})(typeof window === 'undefined' ? globalThis : window);
