"""Write the pages of reference that are made from the rest: the API by task, the index of theorems, the bibliography.

    python .ci/reference.py            write nbs/api.ipynb, nbs/theorems.ipynb, nbs/bibliography.ipynb, nbs/llms.txt
    python .ci/reference.py --check    are they what the rest says?
"""
import ast, functools, json, re, sys, unicodedata
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
course = sorted(p for p in nbs.glob('*.ipynb') if p.name[0].isdigit())

# ---- what the pages say ----
@functools.cache
def cells(p): return [(c['cell_type'], ''.join(c['source'])) for c in json.loads(p.read_text(encoding='utf-8'))['cells']]
def prose(p): return [s for kind,s in cells(p) if kind=='markdown']
def title(p): return prose(p)[0].splitlines()[0].removeprefix('# ')
def link(p, anchor='', text=''): return f'[{text or title(p)}]({p.name}{"#"*bool(anchor)}{anchor})'

def slug(heading):
    "The id that pandoc gives a heading."
    s = re.sub(r'\s+', '-', ''.join(c for c in heading.lower() if c.isalnum() or c in ' _-.').strip())
    while s and not s[0].isalpha(): s = s[1:]
    return s or 'section'

def public(tree): return next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id=='__all__'), [])

@functools.cache
def headings(p):
    "(level, text, id) of each heading of a page as the site has it, those of exported definitions included; the title is none."
    out, seen = [], {}
    for kind,s in cells(p)[1:]:
        if kind=='markdown' and s.startswith('# '): continue
        if kind=='markdown': found = [(len(a), t) for a,t in re.findall(r'^(#+) (.*)$', re.sub(r'^```.*?^```', '', s, flags=re.M|re.S), re.M)]
        elif re.match(r'#\| exports?\b', s): found = [(3, n.name) for n in ast.parse(s).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]
        else: found = []
        for level,text in found:
            k = seen[slug(text)] = seen.get(slug(text), -1)+1
            out.append((level, text, slug(text)+f'-{k}'*bool(k)))
    return out

# ---- the API, by task ----
tasks = [ # title, modules, one sentence, the name whose example is shown
    ('A loss', ['losses'], 'A loss is called as `loss(z, y)`, with embeddings (n, d) and labels (n,).', 'HSCL'),
    ('Bounds and theory', ['theory'], 'How low a loss can be, who attains it, and how far a given model is.', 'scl_bound'),
    ('Measure embeddings', ['measures'], 'What a representation looks like: spectra, Neural Collapse, class centres.', 'collapse_report'),
    ('Train', ['training'], 'Data, encoders, batches, the loop.', 'train'),
    ('Run and compare', ['runs'], 'Runs in folders that say what they did and go on where they stopped.', 'run'),
    ('Diagnose', ['runs.'+m for m in ('diagnose', 'arrays', 'embeddings', 'findings', 'verdict')], "Anybody's embeddings: a spectrum, the metrics, a verdict in words.", 'diagnose'),
    ('Extend', ['tables', 'checks', 'figures'], 'A loss, a hardening, a data set, an encoder, a metric of your own: one definition each, known everywhere by its name.', None),
    ('Learn', ['routes'], 'The pages of this course, the routes through it, and which exercises are done.', None)]

def modules():
    "{module: its page}"
    found = {p: re.search(r'^#\| default_exp ([\w.]+)', '\n'.join(s for _,s in cells(p)), re.M) for p in course}
    return {m[1]: p for p,m in found.items() if m}

def task_of(module):
    "The title of the task with the longest name of a module, or of a part of one, that fits."
    fits = [(len(m), t[0]) for t in tasks for m in t[1] if module==m or module.startswith(m.rstrip('.')+'.')]
    return max(fits)[1]

def definitions(module):
    "{name: docstring} of the public functions and classes of a module."
    tree = ast.parse((root/'hardcl_nb'/f"{module.replace('.', '/')}.py").read_text(encoding='utf-8'))
    return {n.name: ast.get_docstring(n) or '' for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name in public(tree)}

def spot(p, name):
    "A link to the definition of a name."
    return link(p, next(i for level,t,i in headings(p) if level==3 and t==name), name)

def face():
    "{name: module} of the names at the top of the package."
    tree = ast.parse((root/'hardcl_nb/__init__.pyi').read_text(encoding='utf-8'))
    return {a.name: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}

def example(doc):
    "The example of a docstring, as it stands there."
    lines = doc.splitlines()
    first = next(i for i,l in enumerate(lines) if l.lstrip().startswith('>>>'))
    return '\n'.join(lines[first:]).strip()

def scripts():
    "{command: module} from settings.ini."
    return dict(re.findall(r'(hardcl_\w+)=hardcl_nb\.([\w.]+):', (root/'settings.ini').read_text(encoding='utf-8')))

def doc_line(doc): return ' '.join(doc.split('\n\n')[0].split()).replace('|', '\\|')

def names_table():
    "What each table of the package knows by name."
    sys.path.insert(0, str(root))
    from hardcl_nb import tables
    rows = [(k, v) for k,v in vars(tables).items() if isinstance(v, tables.Table)]
    return '\n'.join(['| table | a name is | names |', '|:--|:--|:--|', *(f"| {k} | {v.word} | {', '.join(v)} |" for k,v in rows)])

def api():
    where, top, docs = modules(), face(), {}
    docs = {m: definitions(m) for m in where}
    yield '''# API by task

> Every public name of the package, grouped by what you want to do'''
    yield '''Names in the first table of each part are at the top of the package (`from hardcl_nb import HSCL`); the rest is imported from its module, which the second table names. Every name leads to its signature and source; `help(name)` says the same.
Short programs are in the [cookbook](cookbook.ipynb), calls of other libraries and what they are called here in [In your own framework](58_recipes.ipynb#from-your-librarys-call-to-ours).'''
    for name,_,about,shown in tasks:
        mine = [m for m in where if task_of(m)==name]
        out = [f'## {name}', about]
        rows = [f'| {spot(where[m], n)} | {doc_line(docs[m][n])} |' for n,m in top.items() if m in mine]
        if rows: out.append('\n'.join(['| name | what it is |', '|:--|:--|', *rows]))
        if shown: out.append(f'```python\n{example(docs[top[shown]][shown])}\n```')
        commands = [spot(where[m], c) for c,m in scripts().items() if m in mine]
        if commands: out.append(f"On the command line: {', '.join(commands)}; each explains itself with `--help`.")
        if name=='Extend': out += [names_table(), 'What a new entry must say stands in [Tables](19_tables.ipynb); losses from any price and hardening are [GeneralLoss](27_general.ipynb#generalloss).']
        lines = [f"| {link(where[m])} | {m} | {', '.join(spot(where[m], n) for n in docs[m])} |" for m in mine]
        out.append('\n'.join(['| page | module | names |', '|:--|:--|:--|', *lines]))
        yield '\n\n'.join(out)

# ---- theorems ----
def theorems():
    text, found = '\n'.join(prose(nbs/'16_proved.ipynb')), {}
    for label,statement,under,place,whose in re.findall(r'^\| (\*\*\w+\*\*[^|]*) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$', text, re.M):
        page, section, check = re.match(r'\[[^\]]*\]\(([\w.]+)\), “(.*?)”(?:: (.*))?$', place).groups()
        found.setdefault(page, []).append((label, statement, section, check or '', whose))
    yield '''# Index of theorems

> Where each statement of the course is proved, page by page, and which function checks it'''
    yield '''Labels and assumptions are those of [What is proved](16_proved.ipynb), which also says what is open. T1 to T4 are the theorems of [arXiv 2311.05139](https://arxiv.org/abs/2311.05139).'''
    for page in sorted(found):
        rows = [f'| {label} | {statement} | {link(nbs/page, slug(section), section)} | {check} | {whose} |' for label,statement,section,check,whose in found[page]]
        yield '\n'.join([f'## {title(nbs/page)}', '', '| | statement | proved in | checked by | whose |', '|:--|:--|:--|:--|:--|', *rows])

# ---- bibliography ----
def works():
    "The works that may be cited."
    lines = [l for l in (root/'.ci/works.txt').read_text(encoding='utf-8').splitlines() if l and not l.startswith('#')]
    return [dict(zip(('authors', 'year', 'title', 'where', 'link'), map(str.strip, l.split('|')), strict=True)) for l in lines]

def plain(s): return re.sub(r'[^a-z0-9αé ]', '', unicodedata.normalize('NFC', s).lower().replace('-', ' '))

def cites(title, work):
    "Does a title stand for this work? The beginning is enough, or what its authors call it."
    t, w = plain(title).strip(), plain(re.sub(r' \(.*', '', work['title']))
    called = re.search(r' \((.*)\)', work['title'])
    return w.startswith(t) or t.startswith(w) or bool(called) and plain(called[1])==t

def references(p):
    "The bullets under References."
    text = '\n'.join(prose(p))
    if '## References' not in text: return []
    return [l[2:] for l in re.split(r'^Next:|^Back to', text.split('## References')[1], flags=re.M)[0].splitlines() if l.startswith('- ')]

def surname(work): return re.split(r',| et al| \(', work['authors'])[0]

def cited(bullet, known):
    "Works of a bullet: by title, by link, or, where a part of it names none, by the first author and the year; and titles that are nobody's."
    if '; ' in bullet:
        each = [cited(part, known) for part in bullet.split('; ')]
        return list({w['title']: w for found,_ in each for w in found}.values()), [t for _,nobody in each for t in nobody]
    titles, found, nobody = re.findall(r'(?<!\*)\*([^*]+)\*(?!\*)', bullet), [], []
    for t in titles:
        hits = [w for w in known if cites(t, w) and (len(plain(t))>12 or surname(w) in bullet or w['link'].split('/abs/')[-1] in bullet)]
        exact = [w for w in hits if plain(w['title'])==plain(t)] or hits
        (found.append(exact[0]) if exact else nobody.append(t))
    found += [w for w in known if w['link'] and w['link'].split('/abs/')[-1].removeprefix('https://doi.org/') in bullet and w not in found]
    if not titles and not found: found = [w for w in known if re.search(rf"\b{re.escape(surname(w))}\b", bullet) and (w['year'] and w['year'] in bullet or w['title'].startswith(surname(w)+':'))]
    return found, nobody

def bibliography():
    known, pages = works(), {}
    for p in course:
        for b in references(p):
            for w in cited(b, known)[0]: pages.setdefault(w['title'], []).append(p)
    yield '''# Bibliography

> Every work that the pages refer to, and the pages that do'''
    rows = sorted((w for w in known if w['title'] in pages), key=lambda w: (plain(w['authors']), w['year']))
    linked = sum(bool(w['link']) for w in rows)
    yield f'{len(rows)} works, {linked} of them with a DOI, an arXiv number or a page of their own; books and proceedings without one stand without a link. What is said of a work stands under References on the page that cites it.'
    letters = {}
    for w in rows: letters.setdefault(unicodedata.normalize('NFD', w['authors'])[0].upper(), []).append(w)
    for letter,ws in letters.items():
        out = [f'## {letter}', '']
        for w in ws:
            name = f"[*{w['title']}*]({w['link']})" if w['link'] else f"*{w['title']}*"
            where = ', '.join(link(p) for p in dict.fromkeys(pages[w['title']]))
            out.append(f"- {w['authors']}{' ('+w['year']+')' if w['year'] else ''}: {name}{', '+w['where'] if w['where'] else ''}. In {where}.")
        yield '\n'.join(out)

# ---- the site in one file, for machines that read ----
def llms():
    "A list of all pages with what each is about, as https://llmstxt.org has it."
    site, text = 'https://hardcl.github.io/hardcl_nb/', (nbs/'sidebar.yml').read_text(encoding='utf-8')
    about = lambda p: next(l[2:] for l in prose(p)[0].splitlines() if l.startswith('> '))
    out = [f'# {title(nbs/"index.ipynb")}', f'> {about(nbs/"index.ipynb")}']
    for name,files in re.findall(r'- section: (.*)\n +contents:\n((?: +- \S+\.ipynb\n?)+)', text):
        pages = [nbs/f for f in re.findall(r'- (\S+)', files)]
        out.append('\n'.join([f'## {name}', '', *(f"- [{title(p)}]({site}{re.sub(r'^[0-9]+_', '', p.stem)}.html): {about(p)}" for p in pages)]))
    return '\n\n'.join(out)+'\n'

# ---- writing ----
def notebook(parts, name):
    made = [dict(cell_type='markdown', id=f'{name[:4]}{k:04}', metadata={}, source=s.splitlines(True)) for k,s in enumerate(parts)]
    kernel = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    return json.dumps(dict(cells=made, metadata=kernel, nbformat=4, nbformat_minor=5), indent=1, ensure_ascii=False, sort_keys=True)+'\n'

pages = dict(api=api, theorems=theorems, bibliography=bibliography)

def main():
    old, made = [], {nbs/f'{name}.ipynb': notebook(make(), name) for name,make in pages.items()}
    for path,text in (made | {nbs/'llms.txt': llms()}).items():
        if path.exists() and path.read_text(encoding='utf-8')==text: continue
        old.append(path.name)
        if '--check' not in sys.argv: path.write_text(text, encoding='utf-8')
    if '--check' in sys.argv and old: sys.exit(f"not what the rest of the project says: {', '.join(old)}; run `make readme`")
    if old: print('written:', ', '.join(old))

if __name__=='__main__': main()
