"The prepared pages as pandoc and a browser lay them out, with the site's own rules: nothing makes a page scroll sideways on a phone of 360 pixels."
import json, re, shutil, subprocess
from pathlib import Path
from urllib.parse import unquote
import pytest

root = Path(__file__).parent.parent
chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

def find_pandoc():
    "Pandoc of the system, or that of pypandoc_binary."
    try: import pypandoc
    except ImportError: return shutil.which('pandoc')
    return pypandoc.get_pandoc_path()

pandoc = find_pandoc()
pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.skipif(not (chromium and pandoc), reason='needs Chromium and pandoc')]

def rules():
    "The rules of the theme; all of them are plain CSS but for their comments."
    return re.sub(r'^//.*$', '', (root/'nbs/theme.scss').read_text().split('/*-- scss:rules --*/')[1], flags=re.M)

base = '''body{margin:0;font:17px sans-serif} .page{width:336px;padding:0 12px;position:relative} pre{margin:0 0 1em} code,pre{font-family:monospace}'''

measure = '''
const out = {};
for (const page of document.querySelectorAll('.page')) {
  const right = page.getBoundingClientRect().right + 1, inside = e => { for (let p = e.parentElement; p !== page; p = p.parentElement) if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return true; return false; };
  const bad = [...page.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > right && !inside(e)).map(e => e.tagName + ': ' + e.textContent.slice(0, 60));
  if (bad.length) out[page.id] = bad.slice(0, 3);
}
const told = '<pre id="told">' + encodeURIComponent(JSON.stringify(out)) + '</pre>'; document.body.innerHTML = told;'''

def markdown(cells):
    "A prepared page as pandoc's Markdown: prose, code, and what the code shows."
    for c in cells:
        s = ''.join(c['source'])
        if c['cell_type']=='markdown': yield s
        elif c['cell_type']=='code':
            if not re.search(r'^#\| echo: false', s, re.M): yield '```{.sourceCode .python}\n'+re.sub(r'^#\|.*\n?', '', s, flags=re.M)+'\n```'
            for o in c.get('outputs', []):
                data = {k: ''.join(v) for k,v in o.get('data', {}).items() if isinstance(v, (str, list))}
                if 'image/png' in data: yield '<img alt="a picture of the page" width="900" height="9">'
                elif 'text/html' in data: yield '```{=html}\n'+re.sub(r'data-frames="[^"]*"|src="[^"]*"', '', data['text/html'])+'\n```'
                elif 'text/markdown' in data: yield data['text/markdown']
                else: yield '~~~\n'+(''.join(o.get('text', '')) or data.get('text/plain', ''))+'\n~~~'

def test_no_page_scrolls_sideways_on_a_phone(tmp_path):
    pages = sorted((root/'_proc').glob('*.ipynb'))
    if not pages: pytest.skip('no pages are prepared: .ci/check.py does it')
    parts = {p.stem: '\n\n'.join(markdown(json.loads(p.read_text(encoding='utf-8'))['cells'])) for p in pages}
    text = '\n\n'.join(f'```{{=html}}\n<main class="page" id="{k}">\n```\n\n{v}\n\n```{{=html}}\n</main>\n```' for k,v in parts.items())
    made = subprocess.run([pandoc, '-f', 'markdown', '-t', 'html', '--mathjax'], input=text, capture_output=True, text=True, check=True).stdout
    made = re.sub(r'<script.*?</script>', '', made, flags=re.S)
    wide = '<main class="page" id="too wide"><p style="width:900px">one that is too wide</p></main>' # what the measure must see
    page = tmp_path/'pages.html'
    page.write_text(f'<!doctype html><meta charset="utf-8"><style>{base}{rules()}</style><body>{made}{wide}<script>{measure}</script></body>', encoding='utf-8')
    flags = ['--headless', '--no-sandbox', '--disable-gpu', '--window-size=1200,900', '--dump-dom']
    dom = subprocess.run([chromium, *flags, page.as_uri()], capture_output=True, text=True, check=True).stdout
    assert json.loads(unquote(re.search('<pre id="told">(.*?)</pre>', dom)[1]))=={'too wide': ['P: one that is too wide']}
