"""What nbdev does with a page before Quarto sees it, mended: `procs` in settings.ini names it, PYTHONPATH=.ci finds it.

nbdev links every name in backticks to its definition. Inside a block of code, such as a signature, a link is printed as it is written;
and a private name, a method or an attribute has no heading that a link could lead to. Beside that, what a reader of the site wants and a
reader of the notebook does not: source and the code of figures folded, figures numbered, a way into Colab and to the file.
"""
import re
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

def plain_links(cell):
    "Mend the links of a cell, in prose and in what a signature prints."
    if cell.cell_type=='markdown': cell.source = mend(cell.source)
    for o in cell.get('outputs', []):
        text = o.get('data', {}).get('text/markdown')
        if text is not None: o['data']['text/markdown'] = mend(text if isinstance(text, str) else ''.join(text)).splitlines(True)

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
        count, waiting, top = 0, [], name!='index.ipynb' # the home page has doors instead
        for c in self.nb.cells:
            if c.cell_type=='code':
                figure = is_figure(c)
                c.source = folded(c.source, figure)
                if figure: waiting.append(count := count+1)
            elif c.cell_type=='markdown' and not c.source.startswith('<!--'):
                if waiting: c.source, waiting = numbered(c.source, waiting[-1]), []
                if top: c.source, top = f'{elsewhere(name)}\n\n{c.source}', False
