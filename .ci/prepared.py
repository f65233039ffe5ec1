"""What nbdev does with a page before Quarto sees it, mended: `procs` in settings.ini names it, PYTHONPATH=.ci finds it.

nbdev links every name in backticks to its definition. Inside a block of code, such as a signature, a link is printed as it is written;
and a private name, a method or an attribute has no heading that a link could lead to. Beside that, what a reader of the site wants and a
reader of the notebook does not: source and the code of figures folded, figures numbered, a way into Colab and to the file, and the
words of the glossary linked where a page first uses them.
"""
import functools, json, re
from pathlib import Path
from nbdev.config import get_config

made = re.compile(r'\[(`[^`]+`)\]\((https?://[^)\s]*\.html#([^)\s]*))\)')

def mend(text):
    "Markdown without the links that nbdev should not have made."
    out, inside = [], False
    for line in text.split('\n'):
        if line.startswith('```'): inside = not inside
        elif inside: line = made.sub(lambda m: m[1].strip('`'), line)
        else: line = made.sub(lambda m: m[1] if re.search(r'(^|\.)_|\.', m[3]) else m[0], line)
        out.append(line)
    return '\n'.join(out)

def examples(text):
    "Examples of a docstring as code: a line that begins with >>> is a quotation in Markdown."
    out, inside, example = [], False, False
    for line in [*text.split('\n'), '']:
        if line.startswith('```'): inside = not inside
        begins = line.startswith('>>>') and not (inside or example)
        ends = example and not line.strip()
        if begins or ends: out.append('```python' if begins else '```')
        example = begins or example and not ends
        out.append(line)
    return '\n'.join(out[:-1])

def plain_links(cell):
    "Mend the links of a cell, in prose and in what a signature prints, and its examples."
    if cell.cell_type=='markdown': cell.source = mend(cell.source)
    for o in cell.get('outputs', []):
        text = o.get('data', {}).get('text/markdown')
        if text is not None: o['data']['text/markdown'] = examples(mend(text if isinstance(text, str) else ''.join(text))).splitlines(True)

def fold_code(cell):
    "What stands collapsed in Jupyter is folded on the site."
    if cell.cell_type!='code' or not cell.metadata.get('jupyter', {}).get('source_hidden'): return
    if 'hide' in cell.directives_ or 'echo:' in cell.directives_: return
    cell.source = '#| code-fold: true\n'+cell.source

def is_figure(cell):
    "Does a cell show a picture or a film?"
    data = [o.get('data', {}) for o in cell.get('outputs', [])]
    return any('image/png' in d or 'class="film"' in ''.join(d.get('text/html', '')) for d in data)

def folded(source, figure):
    "A cell's source with what Quarto needs to fold it: exported source, and what draws a figure in five lines or more."
    if source.startswith('#| code-fold: show'): return source.replace('#| code-fold: show', '#| code-fold: true', 1)
    draws = figure or re.search(r'^(?!def ).*house_style\(', source, re.M)
    long = sum(not l.startswith('#|') for l in source.splitlines())>4
    if not draws or not long or re.search(r'^#\| (echo|code-fold):', source, re.M): return source
    return f'#| code-fold: true\n#| code-summary: "{"The code of this figure" if figure else "The code that draws"}"\n{source}'

def numbered(text, k):
    "The sentence below a figure, with the figure's number."
    return text if re.match(r'#|<|\||```|\*\*Figure', text) else f'**Figure {k}.** {text}'

# ---- words of the glossary ----
@functools.cache
def terms():
    "{word in lower case: id of its entry}, from the entries of the glossary; a word of few letters, or a common one, is left out."
    cells = json.loads((get_config().nbs_path/'glossary.ipynb').read_text(encoding='utf-8'))['cells']
    names = re.findall(r'^- \*\*(.*?)\*\*:', '\n'.join(''.join(c['source']) for c in cells), re.M)
    return {w.lower(): term_id(n) for n in names for w in n.split(', ') if w.lower() not in common}

common = {'rank', 'run', 'rate', 'price', 'method', 'view', 'gap', 'ring', 'detached weights', 'attached'} # everyday words, or said of other things

adjectives = {'positive', 'negative'} # the words of the glossary in the plural alone

def term_id(name): return 'term-'+re.sub(r'[^a-z0-9]+', '-', name.lower().replace('α', 'alpha')).strip('-')

def anchored(text):
    "The glossary with an id at each entry."
    return re.sub(r'^- \*\*(.*?)\*\*:', lambda m: f'- [**{m[1]}**]{{#{term_id(m[1])}}}:', text, flags=re.M)

# what no word is looked for in: fenced code, display and inline maths, code, links and pictures, tags and what details and scripts hold, headings, tables, words that are being defined
closed = re.compile(r'^(`{3,}).*?^\1|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`|!?\[[^\]]*\]\([^)]*\)|<(details|script|div).*?</\2>|<[^>\n]+>|^#+ .*?$|^[|:>].*?$|\*\*[^*]+\*\*|https?://\S+', re.M|re.S)

def link_terms(text, seen):
    "Prose with a link to the glossary at each word that is not among `seen`, which grows."
    words = sorted((w for w,i in terms().items() if i not in seen), key=len, reverse=True)
    if not words or text.startswith('## References'): return text
    find = re.compile(rf"(?<![\w-])(?:{'|'.join(re.escape(w)+('s' if w in adjectives else 's?') for w in words)})(?![\w-])", re.I)
    def link(m):
        w = m[0].lower()
        i = terms().get(w) or terms()[w.removesuffix('s')]
        if i in seen: return m[0]
        seen.add(i)
        return f'[{m[0]}](glossary.ipynb#{i}){{.term}}'
    out, at = [], 0
    for m in closed.finditer(text):
        out += [find.sub(link, text[at:m.start()]), m[0]]
        at = m.end()
    return ''.join(out+[find.sub(link, text[at:])])

def elsewhere(name):
    "A line of links: the page as a notebook to run in Colab or to keep."
    cfg = get_config()
    at = f'{cfg.branch}/{Path(cfg.nbs_path).name}/{name}'
    git = cfg.git_url.removeprefix('https://github.com/')
    return (f'::: {{.elsewhere}}\n[Open in Colab](https://colab.research.google.com/github/{git}/blob/{at}) · '
        f'[Download the notebook](https://raw.githubusercontent.com/{git}/{at}) · in Colab first `%pip install git+{cfg.git_url}`\n:::')

class Page:
    "The cells of a page, once nbdev is done with each: sources folded, figures numbered, links to the notebook on top."
    def __init__(self, nb): self.nb = nb
    def begin(self):
        name = Path(self.nb.path_).name
        count, waiting, top, seen = 0, [], name!='index.ipynb', set() # the home page has doors instead
        for c in self.nb.cells:
            if c.cell_type=='code':
                figure = is_figure(c)
                c.source = folded(c.source, figure)
                if figure: waiting.append(count := count+1)
            elif c.cell_type=='markdown' and not c.source.startswith('<!--'):
                body = '## References' not in c.source
                if name=='glossary.ipynb': c.source = anchored(c.source)
                elif name[0].isdigit() and body and not re.match('# ', c.source): c.source = link_terms(c.source, seen)
                if waiting: c.source, waiting = numbered(c.source, waiting[-1]), []
                if top: c.source, top = f'{elsewhere(name)}\n\n{c.source}', False
