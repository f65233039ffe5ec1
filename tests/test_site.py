"The site without Quarto: links and anchors of the prepared pages, what a search finds first, and the pages that are made from the rest."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'.ci'))
import reference as ref # noqa: E402

nbs = sorted((root/'nbs').glob('*.ipynb'))
host = 'https://hardcl.github.io/hardcl_nb/'
def html(name): return re.sub(r'^\d+_', '', name.removesuffix('.ipynb'))+'.html'

@pytest.fixture(scope='module')
def site():
    "{page.html: cells} of the pages as they are prepared for Quarto; `make test` has made them before, alone it takes a minute."
    code = 'import sys; sys.path.insert(0, ".ci"); from nbdev.quarto import refresh_quarto_yml as r; from nbdev.serve import proc_nbs as p; r(); p()'
    made = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
    assert made.returncode==0, made.stdout+made.stderr
    return {html(p.name): json.loads((root/'_proc'/p.name).read_text(encoding='utf-8'))['cells'] for p in nbs}

def texts(cells):
    "All Markdown of a page, from prose and from what signatures print; cells of code are none."
    for c in cells:
        if c['cell_type']=='markdown': yield ''.join(c['source'])
        for o in c.get('outputs', []):
            if '#| output: asis' in ''.join(c['source']): yield ''.join(o.get('data', {}).get('text/markdown', ''))

def without_code(s): return re.sub(r'`[^`\n]*`', '', re.sub(r'^```.*?^```', '', s, flags=re.M|re.S))

def headings(cells):
    "(level, id) of the headings of a page, as pandoc numbers those that occur twice."
    out, seen = [], {}
    for s in texts(cells):
        for level,t in re.findall(r'^(#+) (.*)$', re.sub(r'^```.*?^```', '', s, flags=re.M|re.S), re.M):
            k = seen[ref.slug(t)] = seen.get(ref.slug(t), -1)+1
            out.append((len(level), ref.slug(t)+f'-{k}'*bool(k)))
    return out

def spans(cells):
    "The ids that are written out: those of the glossary's entries."
    return re.findall(r'\]\{#([\w-]+)\}', '\n'.join(texts(cells)))

def dead(site):
    "(page, target) of each link with an anchor that is not there."
    ids = {page: {i for _,i in headings(cells)} | {*spans(cells)} for page,cells in site.items()}
    for page,cells in site.items():
        for s in texts(cells):
            for target,anchor in re.findall(r'\]\(([^)#\s]*)#([^)\s]+)\)', s):
                to = page if not target else target.removeprefix(host) if target.startswith(host) else html(target) if target.endswith('.ipynb') else None
                if to is not None and anchor not in ids.get(to, ()): yield page, f'{to}#{anchor}'

def unsound(cells):
    "Links that a reader sees as Markdown: around a link that nbdev has made, or inside of code."
    for s in texts(cells):
        yield from re.findall(r'\[[^\[\]]*\[`[^`]*`\]\([^)]*\)[^\[\]]*\]\([^)]*\)', s)
        for block in re.findall(r'^```.*?^```', s, flags=re.M|re.S): yield from re.findall(r'\[`[^`]+`\]\(http[^)]*\)', block)

def without_alt(cells):
    "Pictures that say nothing to those who cannot see them."
    for c in cells:
        s = ''.join(c['source'])
        if c['cell_type']=='markdown': yield from re.findall(r'!\[\s*\]\([^)]*\)', s)
        shown = [s]*(c['cell_type']=='markdown')+[''.join(o.get('data', {}).get('text/html', '')) for o in c.get('outputs', [])]
        for h in shown: yield from (tag[:80] for tag in re.findall(r'<img\b[^>]*>', h) if not re.search(r'\balt="[^"]+"', tag))

def quoted(cells):
    "Examples that Markdown shows as quotations: lines with >>> outside of a block of code."
    for s in texts(cells): yield from re.findall(r'^>>>.*', re.sub(r'^```.*?^```', '', s, flags=re.M|re.S), re.M)

def jumps(cells):
    "Headings that leave a level out; the title is level 1."
    level = 1
    for to,i in headings(cells):
        if to>level+1 or to==1: yield i
        level = to

def test_no_dead_anchor(site): assert sorted(set(dead(site)))==[]
def test_no_raw_links(site): assert {p: u for p,cells in site.items() if (u := list(unsound(cells)))}=={}
def test_pictures_have_a_text(site): assert {p: a for p,cells in site.items() if (a := list(without_alt(cells)))}=={}
def test_examples_are_code(site): assert {p: q for p,cells in site.items() if (q := list(quoted(cells)))}=={}
def test_headings_in_order(site): assert {p: j for p,cells in site.items() if (j := list(jumps(cells)))}=={}

def test_the_checks_see_what_they_look_for():
    "A page with one of each."
    def page(*sources): return [dict(cell_type='markdown', source=[s]) for s in sources]
    bad = page('## One\n\n#### Two', '[`train`](x.html) [[`train`](https://a.b)](x.ipynb) ![](a.png) <img src="b.png">', '[a](#three) [b](#one)')
    assert list(dead({'p.html': bad}))==[('p.html', 'p.html#three')]
    assert len(list(unsound(bad)))==1 and len(list(without_alt(bad)))==2 and list(jumps(bad))==['two']
    shown = [dict(cell_type='code', source=['#| output: asis'], outputs=[dict(data={'text/markdown': '### f\n\n```python\n# As [`g`](https://a.b)\n```'})])]
    assert len(list(unsound(shown)))==1 and headings(shown)==[(3, 'f')]

def test_anchors_of_the_sources_are_those_of_the_site(site):
    "The generator counts headings in the notebooks, before nbdev has prepared them."
    for p in nbs: assert sorted((l, i) for l,_,i in ref.headings(p))==sorted(headings(site[html(p.name)])), p.name

def test_links_that_nbdev_should_not_make_are_mended():
    from prepared import mend
    link = '[`train`](https://a.b/loop.html#train)'
    assert mend(f'{link}\n```python\n# {link}\n```\n{link}')==f'{link}\n```python\n# train\n```\n{link}'
    for name in ('_slopes', 'Data.to', '_A.f'): assert mend(f'[`{name}`](https://a.b/x.html#{name.lower()})')==f'`{name}`'
    assert 'procs = prepared:plain_links' in (root/'settings.ini').read_text() and 'PYTHONPATH=.ci .venv/bin/nbdev_docs' in (root/'Makefile').read_text()

def test_examples_of_docstrings_become_code():
    from prepared import examples
    assert examples('Text.\n\n>>> 1+1\n2\n\nMore.\n\n>>> 3\n3')=='Text.\n\n```python\n>>> 1+1\n2\n```\n\nMore.\n\n```python\n>>> 3\n3\n```'
    inside = '```python\n>>> 1\n1\n```\n> a quotation'
    assert examples(inside)==inside and list(quoted([dict(cell_type='markdown', source=['>>> 1\n1'])]))==['>>> 1']

# ---- what the site has and the notebooks have not ----
def figure(c): return c['cell_type']=='code' and any('image/png' in o.get('data', {}) or 'class="film"' in ''.join(o.get('data', {}).get('text/html', '')) for o in c.get('outputs', []))

def test_sources_are_folded_and_figures_numbered(site):
    for page,cells in site.items():
        assert '#| code-fold: show' not in str(cells), page
        count, waiting = 0, False
        for c in cells:
            s = ''.join(c['source'])
            if figure(c):
                count, waiting = count+1, True
                folded = re.match(r'#\| code-fold: true', s) or re.search(r'^#\| echo: false', s, re.M)
                assert folded or sum(not l.startswith('#|') for l in s.splitlines())<=4, f'{page}: {s}'
            elif c['cell_type']=='markdown' and waiting:
                assert page=='index.html' or s.startswith(f'**Figure {count}.** '), f'{page}: {s[:80]}'
                waiting = False

def test_each_page_leads_to_its_notebook(site):
    for p in nbs:
        links = [s for s in texts(site[html(p.name)]) if s.startswith('::: {.elsewhere}')]
        assert len(links)==(p.stem!='index')
        for s in links: assert s.count(f'hardcl/hardcl_nb/blob/main/nbs/{p.name})')==1 and s.count(f'hardcl/hardcl_nb/main/nbs/{p.name})')==1

def test_words_of_the_glossary_are_linked_once_a_page(site):
    "At their first use, and to an entry that is there; that the anchor exists is a matter of dead links, too."
    there, linked, total = spans(site['glossary.html']), {}, 0
    assert len(there)==len(set(there))>40
    for p in ref.course:
        found = re.findall(r'\[([^\]]+)\]\(glossary\.(?:ipynb|html)#(term-[\w-]+)\)\{\.term\}', '\n'.join(texts(site[html(p.name)])))
        assert len({i for _,i in found})==len(found), p.name
        assert {i for _,i in found}<={*there}, p.name
        total += len(found)
        for w,i in found: linked.setdefault(i, []).append(p.stem)
    assert total>4*len(ref.course) and len(linked)>30, (total, len(linked))

def test_what_is_no_prose_is_left_alone():
    from prepared import link_terms
    kept = ['# Anchor', '```\nanchor\n```', '$anchor$', '`anchor`', '[anchor](a.html)', '<details>an anchor\n\n</details>', '| anchor |', '**anchor**', 'anchor-like']
    for s in kept: assert link_terms(s, set())==s, s
    seen = set()
    assert link_terms('## Anchor\n\nAn anchor, two anchors.', seen)=='## Anchor\n\nAn [anchor](glossary.ipynb#term-anchor){.term}, two anchors.'
    assert link_terms('Anchors and negatives', seen)=='Anchors and [negatives](glossary.ipynb#term-negative){.term}' and seen=={'term-anchor', 'term-negative'}

def test_doors_open_on_a_program():
    "Each of the three leads to a page of the course, or to a heading with a program below it."
    doors = re.findall(r'<a href="([^"#]+)#?([^"]*)">', re.search(r'<div class="doors">.*?</div>', '\n'.join(ref.prose(root/'nbs/index.ipynb')), re.S)[0])
    assert len(doors)==3
    for page,anchor in doors:
        cells = ref.cells(root/'nbs'/page)
        at = next(k for k,(kind,s) in enumerate(cells) if kind=='markdown' and any(ref.slug(t)==anchor for t in re.findall(r'^##+ (.*)$', s, re.M))) if anchor else 0
        assert any(kind=='code' and '#| hide' not in s for kind,s in cells[at+1:at+(2 if anchor else 12)]), (page, anchor)

def test_the_list_of_pages_has_all_of_the_sidebar():
    listed = re.findall(r'^- \[.*\]\(\S+/([\w.]+\.html)\): \S', (root/'nbs/llms.txt').read_text(encoding='utf-8'), re.M)
    there = [html(f) for f in re.findall(r'- (\S+\.ipynb)', (root/'nbs/sidebar.yml').read_text())]
    assert ['index.html', *listed]==there

# ---- README.md ----
def test_links_and_picture_of_the_readme_are_there():
    text = (root/'README.md').read_text(encoding='utf-8')
    near = [t for t in re.findall(r'\]\(([^)#\s]+)[^)]*\)|src="([^"]+)"', text) for t in t if t and not t.startswith('http')]
    assert len(near)>20 and sum(t.endswith('.png') for t in near)>0
    assert [t for t in near if not (root/t).is_file()]==[]

quarto = '#!/bin/sh\ncase "$*" in *README.md*) mkdir -p _docs && echo broken > _docs/README.md;; *) mkdir -p _docs;; esac\n'

@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which('make') and shutil.which('git')), reason='needs make and git')
def test_make_docs_leaves_the_tree_clean(tmp_path):
    "With a Quarto that draws nothing; nbdev would write README.md anew from a home page that is newer."
    files = ['Makefile', 'settings.ini', 'setup.py', 'constraints.txt', 'README.md', '.gitignore', '_quarto.yml', '.ci/prepared.py', 'hardcl_nb/_modidx.py', 'nbs/glossary.ipynb',
        *(str(p.relative_to(root)) for p in (root/'nbs').iterdir() if p.name=='index.ipynb' or p.suffix in ('.scss', '.js') or p.name=='sidebar.yml')]
    for f in files:
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/f, tmp_path/f)
    (tmp_path/'nbs/_quarto.yml').symlink_to('../_quarto.yml')
    for at,f,text in ((tmp_path/'bin', 'quarto', quarto), (tmp_path/'.venv/bin', 'nbdev_docs', f'#!/bin/sh\nexec {sys.executable} -c "from nbdev.quarto import nbdev_docs; nbdev_docs()"\n')):
        at.mkdir(parents=True)
        (at/f).write_text(text)
        (at/f).chmod(0o755)
    os.utime(tmp_path/'README.md', (0, 0))
    git = ['git', '-c', 'user.name=a', '-c', 'user.email=a@b.c', '-C', str(tmp_path)]
    (tmp_path/'.git/info').mkdir(parents=True)
    for command in (['init', '-q'], ['add', *files, 'nbs/_quarto.yml'], ['commit', '-qm', 'all']): subprocess.run([*git, *command], check=True)
    path = f"{tmp_path/'bin'}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(['make', '-o', '.venv/.ready', 'docs'], cwd=tmp_path, env={**os.environ, 'PATH': path}, capture_output=True, text=True)
    assert made.returncode==0 and (tmp_path/'_docs').is_dir(), made.stdout+made.stderr
    left = subprocess.run([*git, 'status', '--porcelain'], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [l for l in left if not l.endswith((' bin/', '_modidx.py'))]==[] # of two pages the index is another than of all

# ---- searches: as Quarto's fuse.js finds, in sections of level 2, titles and headings twice as heavy as text ----
searches = {'HSCL': '25_contrastive', 'NaN': 'faq', 'memory': 'faq', 'DDP': 'faq', 'false negatives': 'faq', 'how to choose beta': 'faq', 'glossary': 'glossary'}

def sections(p):
    "(title, heading, text) of each part of a page that a search can find."
    heading, text, out = '', [], []
    for kind,s in ref.cells(p)[1:]:
        if kind=='code' and '#| hide' in s: continue
        first, *rest = re.split(r'^## (.*)$', s, flags=re.M) if kind=='markdown' else [s]
        text.append(first)
        for h,more in zip(rest[::2], rest[1::2]):
            out.append((ref.title(p), heading, ' '.join(text)))
            heading, text = h, [more]
    return out+[(ref.title(p), heading, ' '.join(text))]

def score(words, part):
    "The less, the sooner it is shown: each field that has the words counts by its weight, and more if it has little else."
    hits = [w/max(1, len(field.split(' ')))**.5 for w,field in zip((.4, .4, .2), part) if words.lower() in field.lower()]
    return -sum(hits)

@pytest.mark.parametrize('words', searches)
def test_a_search_leads_to_its_page(words):
    found = sorted((score(words, part), p.stem, part[1]) for p in nbs for part in sections(p))
    best = found[0]
    assert best[0]<0 and best[1]==searches[words], found[:3]
    assert next(f for f in found if f[1]!=best[1])[0]>best[0]+.02, found[:3]

# ---- pages of reference ----
def test_made_pages_are_up_to_date():
    r = subprocess.run([sys.executable, str(root/'.ci/reference.py'), '--check'], capture_output=True, text=True)
    assert r.returncode==0, r.stdout+r.stderr

def test_an_old_page_is_noticed(tmp_path, monkeypatch, capsys):
    "A changed docstring of the face, a changed theorem, a new work: each shows on its page."
    made = {name: ref.notebook(make(), name) for name,make in ref.pages.items()}
    monkeypatch.setattr(ref, 'doc_line', lambda doc: 'another line')
    monkeypatch.setattr(ref, 'works', lambda known=ref.works(): [{**w, 'year': '1800'} for w in known])
    assert [name for name,make in ref.pages.items() if ref.notebook(make(), name)!=made[name]]==['api', 'bibliography']

def test_the_api_has_every_name_once():
    "Each name of the face in one first table, each public definition in one second table."
    text = '\n'.join(ref.prose(root/'nbs/api.ipynb'))
    for n,m in ref.face().items(): assert len(re.findall(rf'^\| \[{n}\]\([^)]*\) \| ', text, re.M))==1, n
    for m,p in ref.modules().items():
        rows = re.findall(rf'^\| \[[^\]]*\]\({p.name}\) \| {re.escape(m)} \| (.*) \|$', text, re.M)
        assert len(rows)==1 and re.findall(r'\[(\w+)\]', rows[0])==list(ref.definitions(m)), m

def test_the_index_has_every_theorem():
    labels = re.findall(r'^\| \*\*([A-NP-Z]\d+)\*\*', '\n'.join(ref.prose(root/'nbs/16_proved.ipynb')), re.M) # O: open questions
    assert len(labels)>40 and sorted(re.findall(r'^\| \*\*(\w+)\*\*', '\n'.join(ref.prose(root/'nbs/theorems.ipynb')), re.M))==sorted(labels)

no_link = {'Inequalities'} # a book of 1934: neither DOI nor arXiv number is known

def test_every_reference_is_a_work_and_has_its_link():
    "A reference names a work of .ci/works.txt, and links it if there is a link."
    known = ref.works()
    assert {w['title'] for w in known if not w['link']}=={w['title'] for w in known if w['title'].startswith(tuple(no_link))}
    for p in ref.course:
        for b in ref.references(p):
            found, nobody = ref.cited(b, known)
            assert found and not nobody, f'{p.name}: add to .ci/works.txt: {nobody or b}'
            for w in found: assert w['link'] in b or '](http' in b, f"{p.name}: {w['title']}: {w['link']}"

def test_every_work_is_cited():
    text = '\n'.join(ref.prose(root/'nbs/bibliography.ipynb'))
    assert [w['title'] for w in ref.works() if f"*{w['title']}*" not in text]==[]

vocabulary = '''anchor, positive, negative, hardening function, tilted distribution, class collision, simplex ETF, Neural Collapse, Dimensional Collapse,
unit ball, unit sphere, nearest class centre, linear probe, hardness, false negative, queue, mask, effective rank, gap, certificate, view'''

def test_the_glossary_has_the_words_and_the_symbols():
    text = '\n'.join(ref.prose(root/'nbs/glossary.ipynb'))
    entries = re.findall(r'^- \*\*(.*?)\*\*: (.*)$', text, re.M)
    for word in re.split(r',\s+', vocabulary): assert any(re.search(rf'\b{word}\b', e, re.I) for e,_ in entries), word
    assert all('.ipynb' in d and len(re.split(r'[.;] ', d))<=2 for _,d in entries)
    symbols = [s for row in re.findall(r'^\| (\$.*?) \|', '\n'.join(ref.prose(root/'nbs/00_notation.ipynb')), re.M) for s in re.findall(r'\\(psi|eta|beta|tau|mu)\b', row)]
    assert symbols and all(f'\\{s}' in text for s in symbols)

def test_recipes_are_short_and_run():
    "A heading, some words, a program of at most twelve lines that is run whenever the pages are."
    cells = ref.cells(root/'nbs/cookbook.ipynb')
    at = [k for k,(kind,s) in enumerate(cells) if kind=='markdown' and s.startswith('## ')]
    assert 10<=len(at)<=16
    for k in at:
        kind, s = cells[k+1]
        assert kind=='code' and not s.startswith('#|') and len(s.strip().splitlines())<=12, cells[k][1]

def test_an_answer_is_short_and_shows_its_proof():
    for kind,s in ref.cells(root/'nbs/faq.ipynb'):
        if kind=='markdown' and s.startswith('## '):
            assert '.ipynb' in s and len(s.split('\n\n', 1)[1])<900, s.splitlines()[0]

def test_what_is_promised_is_tested():
    "Each line of a table names a test that is there."
    rows = [r for s in ref.prose(root/'nbs/promised.ipynb') for r in re.findall(r'^\| (?!Promise \|)(.*) \|$', s, re.M)]
    assert len(rows)>30
    for r in rows:
        named = re.findall(r'`(test_\w+\.py)::(test_\w+)`', r.split(' | ')[-1])
        assert named and all(re.search(rf'^def {t}\(', (root/'tests'/f).read_text(encoding='utf-8'), re.M) for f,t in named), r
    assert '(nbs/promised.ipynb)' in (root/'SECURITY.md').read_text(encoding='utf-8')
