"""Write the key figures of the course as slides: one file, one figure a slide, with what to see and where it is from.

    python .ci/slides.py [FILE]      (default: work/slides.html; arrow keys turn them, printing gives a PDF with a slide a page)

The pictures are those that stand in the notebooks, with their text for those who cannot see them; nothing is drawn again.
"""
import html, json, re, sys
from pathlib import Path
from pages import name

root = Path(__file__).resolve().parent.parent
site = 'https://hardcl.github.io/hardcl_nb/'
key = [ # page, words of the picture's text, a line for the lecturer's slide
    ('02_game', 'Six points on the unit circle', 'The game: an anchor, its positive, its negatives, and what each negative costs'),
    ('03_psi', 'Prices of one negative', 'Prices: non-decreasing and convex'),
    ('04_hardening', 'Four non-decreasing curves', 'Hardening functions never fall'),
    ('06_domination', 'Hard loss against plain loss', 'Theorem 1: the hard loss is the larger one'),
    ('08_bounds', 'Bounds against the number of classes', 'Theorems 2 and 4: the least losses'),
    ('09_free', 'Two panels: defect against time', 'Free features arrive at the simplex ETF'),
    ('10_hucl', 'HUCL loss against the gap', 'HUCL: where the ETF overshoots'),
    ('10_hucl', 'Optimal radius', 'HUCL: the shrunken ETF'),
    ('12_optimum', 'The loss as a function of s', 'Unequal classes: rare ones merge'),
    ('13_dimensional', 'Left: price of rank', 'Dimensional Collapse: what a lost dimension costs'),
    ('14_batching', 'histogram of the least losses', 'Batches dip, their mean does not'),
    ('21_estimators', 'Bias and standard deviation', 'Sampled negatives: bias and spread'),
    ('24_kernel', 'Relative error of the gradient', 'Where precision goes'),
    ('66_compare', 'Normalised singular values', 'A hundred classes: directions that stay alive'),
    ('70_cifar100', 'Two panels against', 'CIFAR-100: hardness is not a low temperature'),
    ('72_random_start', 'Singular values of 100 class means', 'From a random start: every step in hardness keeps more'),
    ('73_hucl_measured', 'Left, radius about the centre', 'HUCL, predicted and measured')]

style = '''body{margin:0;font:22px/1.4 system-ui,sans-serif;color:#1d232b;background:#fff}
section{box-sizing:border-box;width:100vw;height:100vh;padding:3vh 5vw;display:none;flex-direction:column;gap:1.5vh}
section.on{display:flex}h1,h2{margin:0;font-size:34px}img{flex:1;min-height:0;object-fit:contain;object-position:left}p{margin:0;max-width:60em}
footer{font-size:16px;color:#4a5563}a{color:#2a56c6}@media print{@page{size:landscape;margin:0}section{display:flex;break-after:page}}'''
script = '''let k=0;const s=[...document.querySelectorAll('section')];
function show(i){k=Math.max(0,Math.min(s.length-1,i));s.forEach((e,j)=>e.classList.toggle('on',j===k));location.hash=k+1}
addEventListener('keydown',e=>{if(['ArrowRight','PageDown',' '].includes(e.key))show(k+1);if(['ArrowLeft','PageUp'].includes(e.key))show(k-1)});
addEventListener('click',e=>{if(!e.target.closest('a'))show(k+1)});show((+location.hash.slice(1)||1)-1)'''

def figure(page, words):
    "(picture as base64, its text, the paragraph below it) of the one figure of a page whose text has these words."
    cells = json.loads((root/f'nbs/{page}.ipynb').read_text(encoding='utf-8'))['cells']
    found = []
    for c,below in zip(cells, [*cells[1:], {}]):
        text = re.search(r'^#\| fig-alt:\s*(.*)$', ''.join(c['source']), re.M)
        if not text or words not in text[1]: continue
        pictures = [''.join(o['data']['image/png']) for o in c['outputs'] if 'image/png' in o.get('data', {})]
        says = ''.join(below['source']).split('\n\n')[0] if below.get('cell_type')=='markdown' else ''
        found += [(p.replace('\n', ''), text[1].strip('"'), says) for p in pictures]
    if len(found)!=1: raise SystemExit(f'{page}: expected one figure whose text has "{words}", got {len(found)}')
    return found[0]


def plain(text):
    "Prose without Markdown; formulas keep their dollars."
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', text)
    return re.sub(r'\*\*?([^*\n]+)\*\*?|`([^`]+)`', lambda m: m[1] or m[2], text)

def slides():
    "The text of the file."
    out = ['<section><h1>Hard negatives in contrastive learning</h1><p>Key figures of the course hardcl_nb. The theory: Jiang, Nguyen, Aeron and Ishwar, '
        '<a href="https://arxiv.org/abs/2311.05139">arXiv 2311.05139</a>; statements that go past it are labelled on the page '
        f'<a href="{site}proved.html">What is proved</a>. Arrow keys turn the slides.</p></section>']
    for page,words,line in key:
        picture, text, says = figure(page, words)
        at = f'{site}{re.sub(r"^[0-9]+_", "", page)}.html'
        out.append(f'<section><h2>{html.escape(line)}</h2><img alt="{html.escape(text)}" src="data:image/png;base64,{picture}">'
            f'<p>{html.escape(plain(says), quote=False)}</p><footer>From <a href="{at}">{html.escape(name(page))}</a></footer></section>')
    math = "<script>MathJax={tex:{inlineMath:[['$','$']]}}</script><script async src=\"https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-svg.js\"></script>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Hard negatives: key figures</title>{math}<style>{style}</style>{"".join(out)}<script>{script}</script></html>\n'

if __name__=='__main__':
    path = Path(sys.argv[1]) if len(sys.argv)>1 else root/'work/slides.html'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(slides(), encoding='utf-8')
    print(f'{len(key)+1} slides in {path}')
