"""What every page of the course has in common, kept in step: its name, its time, and which cells stand collapsed.

    python .ci/pages.py            write it into the notebooks
    python .ci/pages.py --check    is it there?

A page is called by its number and its title, in its title, in the sidebar (which shows titles), and in the lines Needs and Next. The time
to read it is measured in words and lines (page 01, Routes). Hidden cells, the code of pictures and the judges of exercises
stand collapsed in JupyterLab (`jupyter.source_hidden`), and folded on the site (.ci/prepared.py).
"""
import json, re, sys
from functools import cache
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'

# ---- collapsed cells ----
def aside(source):
    "Is this code that a reader opens only if they want to?"
    if re.match(r'#\|\s*(export|default_exp)', source): return False
    hidden = re.search(r'^#\|\s*(hide\b|echo:\s*false)', source, re.M)
    picture = re.search(r'^#\|\s*fig-alt\b', source, re.M) or 'plt.subplots(' in source
    judge = re.search(r'^@judge', source, re.M)
    return bool(hidden or picture and len(source.splitlines())>5 or judge)

def fold(cell):
    "Collapse a cell of code, or open it."
    meta = {k: v for k,v in cell['metadata'].items() if k!='jupyter'}
    return {**cell, 'metadata': {**meta, 'jupyter': {'source_hidden': True}} if aside(''.join(cell['source'])) else meta}

# ---- names and times ----
@cache
def name(stem):
    "What a page is called: number and title."
    cells = json.loads((nbs/f'{stem}.ipynb').read_text(encoding='utf-8'))['cells']
    title = next(m[1] for c in cells if (m := re.match(r'# (?:\d\d )?(.*)', ''.join(c['source']))))
    return f'{stem[:2]} {title}' if stem[0].isdigit() else title

def named(line): return re.sub(r'\[[^\]]*\]\((\w+)\.ipynb\)', lambda m: f'[{name(m[1])}]({m[1]}.ipynb)', line)

def timed(text, page):
    "The line of times below the line Needs; one that is nearly right stays."
    known = re.search(r'^\*Reading: (\d+) minutes?; exercises: (\d+)\.\*$', text, re.M)
    if known and abs(int(known[1])-page.reading)<=max(2, .1*page.reading) and int(known[2])==page.exercises: return text
    line = f'*Reading: {page.reading} minutes; exercises: {page.exercises}.*'
    if known: return text.replace(known[0], line)
    return re.sub(r'^Needs .*$', lambda m: f'{m[0]}\n\n{line}', text, count=1, flags=re.M)

def dress(path):
    "The text of a notebook, with all that pages have in common."
    nb = json.loads(path.read_text(encoding='utf-8'))
    numbered = path.name[0].isdigit()
    if numbered:
        sys.path.insert(0, str(root))
        from hardcl_nb.routes import read_page
        page = read_page(path)
    for k,c in enumerate(nb['cells']):
        s = ''.join(c['source'])
        if c['cell_type']=='code': nb['cells'][k] = fold(c)
        elif c['cell_type']=='markdown' and numbered:
            new = re.sub(r'\A# .*', f'# {name(path.stem)}', s)
            new = re.sub(r'^(Needs|Next:) .*$', lambda m: named(m[0]), new, flags=re.M)
            if re.search(r'^Needs ', new, re.M): new = timed(new, page)
            if new!=s: c['source'] = new.splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False)+'\n'

def undressed():
    "Pages that are not as they should be, and their text as it should be."
    return {p: t for p in sorted(nbs.glob('*.ipynb')) if (t := dress(p))!=p.read_text(encoding='utf-8')}

if __name__=='__main__':
    bad = undressed()
    if '--check' in sys.argv:
        if bad: sys.exit(f'run python .ci/pages.py: {", ".join(p.stem for p in bad)}')
    else:
        for p,t in bad.items(): p.write_text(t, encoding='utf-8')
        print(f'{len(bad)} pages changed')
