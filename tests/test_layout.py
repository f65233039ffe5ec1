"The repository, seen from outside the notebooks."
import ast, configparser, importlib, inspect, json, os, re, shlex, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
nbs = sorted((root/'nbs').glob('*.ipynb'))
numbered = [p for p in nbs if p.name[0].isdigit()]
reference = [p for p in nbs if p.name!='index.ipynb' and p not in numbered] # pages to look things up in: beside the course, not in it
cfg = configparser.ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

by_hand = ('__init__.py', '_modidx.py', 'start.py') # no page makes them; the last must run before anything else is imported

def cells(p): return json.loads(p.read_text(encoding='utf-8'))['cells']
def src(c): return ''.join(c['source'])
def code(p): return [src(c) for c in cells(p) if c['cell_type']=='code']
def prose(p): return [src(c) for c in cells(p) if c['cell_type']=='markdown']
def module_of(p): return next((m[1] for s in code(p) for m in [re.match(r'#\| default_exp ([\w.]+)', s)] if m), None)
each = pytest.mark.parametrize('p', nbs, ids=lambda p: p.stem)
each_numbered = pytest.mark.parametrize('p', numbered, ids=lambda p: p.stem)

@pytest.mark.parametrize('f', 'settings.ini setup.py README.md LICENSE CHANGELOG.md CONTRIBUTING.md Makefile MANIFEST.in _quarto.yml .gitignore .gitattributes .ci/run nbs/sidebar.yml nbs/index.ipynb hardcl_nb/py.typed .github/workflows/ci.yml'.split())
def test_file_is_there(f): assert (root/f).is_file()

def test_quarto_config_is_the_top_level_one():
    assert (root/'nbs/_quarto.yml').is_symlink() and (root/'nbs/_quarto.yml').read_text() == (root/'_quarto.yml').read_text()

def test_page_names_are_unique():
    names = [p.stem.split('_', 1)[-1] for p in nbs]
    assert len(names) == len(set(names))

def test_sidebar_lists_every_notebook_once():
    listed = re.findall(r'[\w]+\.ipynb', (root/'nbs/sidebar.yml').read_text())
    assert sorted(listed) == [p.name for p in nbs]
    assert all(f'section: {s}' in (root/'nbs/sidebar.yml').read_text() for s in ('Theory', 'Losses', 'Practice'))

def test_reference_is_its_own_section():
    "Pages without a number stand in the last section, the others in none of its lines; all are one click from the home page."
    course, last = (root/'nbs/sidebar.yml').read_text().split('section: Reference')
    assert sorted(re.findall(r'\w+\.ipynb', last))==[p.name for p in reference] and 'section:' not in last
    home = '\n'.join(prose(root/'nbs/index.ipynb'))
    assert all(f'({p.name})' in home for p in reference)

@pytest.mark.parametrize('p', reference, ids=lambda p: p.stem)
def test_reference_is_no_course(p):
    "It makes no module and sets no exercise, so nothing can need it; and it sends the reader back into the course."
    assert module_of(p) is None and not any('export' in s.split('\n')[0] or '#| eval: false' in s for s in code(p))
    text = '\n'.join(prose(p))
    assert '## Exercises' not in text and len(set(re.findall(r'\]\((\d\d_\w+\.ipynb)', text)))>=10

def test_every_module_has_its_notebook():
    modules = {'.'.join(p.relative_to(root/'hardcl_nb').with_suffix('').parts) for p in (root/'hardcl_nb').rglob('*.py') if p.name not in by_hand}
    made = [m for p in numbered if (m := module_of(p))]
    assert len(made) == len(set(made)) and modules == set(made)

wings = ('theory', 'losses', 'measures', 'training', 'runs')
below = dict(theory=(), losses=('theory',), measures=('theory',), training=('theory', 'losses', 'measures'), runs=wings[:-1])
modules = {m: p for p in numbered if (m := module_of(p))}
sources = [p for p in (root/'hardcl_nb').rglob('*.py') if p.name not in by_hand]
def name_of(path): return '.'.join(path.relative_to(root/'hardcl_nb').with_suffix('').parts)

def imported(code, here=''):
    "Modules of the package that some code imports, also inside functions, by whatever form of import."
    out, parts = set(), ['hardcl_nb', *here.split('.')][:-1]
    for n in ast.walk(ast.parse(code)):
        if isinstance(n, ast.Import): out |= {a.name for a in n.names}
        elif isinstance(n, ast.ImportFrom):
            base = '.'.join([*parts[:len(parts)-n.level+1], *([n.module] if n.module else [])]) if n.level else n.module
            out |= {f'{base}.{a.name}' for a in n.names}|{base}
        elif isinstance(n, ast.Constant) and isinstance(n.value, str) and re.fullmatch(r'hardcl_nb(\.\w+)+', n.value): out.add(n.value)
    return {m for x in out for m in modules if x==f'hardcl_nb.{m}'}

def plain(code): return re.sub(r'^\s*[%!].*$', 'pass', code, flags=re.M)

@pytest.mark.parametrize('p', sources, ids=name_of)
def test_imports_run_down(p):
    "A module imports from the ground, from its own wing and from wings below, and only what an earlier page makes (or itself, for other processes)."
    mine = name_of(p)
    for m in imported(p.read_text(encoding='utf-8'), mine):
        wing, other = mine.split('.')[0], m.split('.')[0]
        assert '.' not in m or other==wing or other in below.get(wing, ()), f'{mine} imports {m}, which is no wing below'
        assert m==mine or modules[m].name<modules[mine].name, f'{mine} imports {m}, which a later page makes'

@each_numbered
def test_no_page_needs_a_later_one(p):
    "Hidden cells and functions included; a page may use its own module, for other processes."
    for s in code(p):
        for m in imported(plain(s)): assert modules[m].name<=p.name, f'{p.name} imports {m}'

@each_numbered
def test_needs_lead_back(p):
    "What a page says that it needs comes before it: so there is no circle."
    needs = re.findall(r'^Needs .*$', '\n'.join(prose(p)), re.M)
    assert needs, 'no line that says what the page needs'
    for t in re.findall(r'\]\((\d\d_\w+\.ipynb)', needs[0]): assert t<p.name, f'{p.name} needs {t}'

@pytest.mark.parametrize('p', sources, ids=name_of)
def test_modules_are_short(p):
    lines = p.read_text(encoding='utf-8').splitlines()
    assert len(lines)<=250 or name_of(p)=='losses.kernel', len(lines) # a Triton kernel cannot call what another module holds
    assert not [l for l in lines[1:] if len(l)>120 and not l.startswith('__all__')] # the first is the page's subtitle

@each
def test_imports_stand_alone(p):
    "A docs build runs every cell holding an import, whatever its flags."
    for s in code(p):
        lines = [l for l in s.splitlines() if l.strip() and not l.lstrip().startswith('#')]
        imp = [l.startswith(('import ', 'from ')) for l in lines
            if not l.startswith(('if TYPE_CHECKING:', 'else: ', '    import', '    from'))]
        allowed = all(imp) or '#| eval: false' in s or 'nbdev_export()' in s
        inside = re.sub(r'\((?:[^()]|\n)*\)', '', s) # a parenthesised import may span lines
        lines2 = [l for l in inside.splitlines() if l.strip() and not l.lstrip().startswith('#')]
        assert not any(imp) or allowed or all(l.lstrip().startswith(('import ', 'from ', 'if TYPE_CHECKING', 'else: ')) for l in lines2), s

@each
def test_title_cell_is_title_and_subtitle(p):
    first = prose(p)[0].splitlines()
    assert first[0].startswith('# ') and all(not l or l.startswith(('> ', '- ')) for l in first[1:]), first

@each
def test_links_lead_somewhere(p):
    for t in re.findall(r'\]\(([^)#\s]+)', '\n'.join(prose(p))):
        if not t.startswith(('http', 'mailto')): assert (p.parent/t).exists(), t

@each
def test_stored_outputs_are_real_and_clean(p):
    cs = [c for c in cells(p) if c['cell_type']=='code']
    out = json.dumps([c['outputs'] for c in cs])
    assert not re.search(r'/(?:root|home|tmp|Users|var)/', out), 'a path of a machine'
    assert '"output_type": "error"' not in out
    assert not re.search(r'\w+Warning:', out)
    assert all(c['execution_count'] is None or isinstance(c['execution_count'], int) for c in cs)

@each
def test_formulas_have_single_backslashes(p):
    "Two of them are a new line: right between rows of a matrix, and a word that stands there bare anywhere else."
    for s in prose(p):
        for m in re.findall(r'\$\$?[^$]+\$', s):
            if r'\begin{' not in m: assert not re.search(r'\\\\[A-Za-z]', m), m

@each
def test_figures_have_a_text(p):
    "Each static figure says what it shows, for readers who cannot see it."
    for c in cells(p):
        if c['cell_type']=='code' and any('image/png' in o.get('data', {}) for o in c['outputs']) and '#| hide' not in src(c):
            assert '#| fig-alt:' in src(c), src(c)

@each_numbered
def test_notebook_has_the_parts_of_a_page(p):
    text = '\n'.join(prose(p))
    for part in ('You will', 'runs on a CPU in', '## Summary', '## Exercises', '<details>', 'Next:' if p!=numbered[-1] else 'Back to'):
        assert part in text, part
    stubs = sum('#| eval: false' in s and '...' in s for s in code(p))
    assert stubs >= 3 and text.count('<details>') >= stubs

def face():
    "Names of the face, and the modules that the stub says they come from."
    tree = ast.parse((root/'hardcl_nb/__init__.pyi').read_text(encoding='utf-8'))
    return {a.name: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}

@pytest.mark.parametrize('name', face())
def test_face_and_modules_agree(name):
    import hardcl_nb
    made = importlib.import_module('hardcl_nb.'+face()[name])
    assert getattr(hardcl_nb, name) is getattr(made, name) and name in made.__all__ and name in dir(hardcl_nb)

def test_face_is_the_stub():
    import hardcl_nb
    assert set(face())<=set(hardcl_nb.__all__)
    with pytest.raises(AttributeError): hardcl_nb.no_such_name

@pytest.mark.parametrize('name', face())
def test_face_explains_itself(name):
    "What `help` and an editor show: a docstring that names shapes or units and a source, with an example that runs."
    import doctest, hardcl_nb
    thing = getattr(hardcl_nb, name)
    doc = inspect.getdoc(thing)
    assert doc and len(doc.split())>=20 and '>>>' in doc, doc
    assert 'options' not in inspect.signature(thing).parameters
    tests = doctest.DocTestFinder(recurse=False).find(thing, name, globs={'hardcl_nb': hardcl_nb})
    results = [doctest.DocTestRunner(optionflags=doctest.ELLIPSIS|doctest.NORMALIZE_WHITESPACE).run(t) for t in tests]
    assert sum(r.attempted for r in results) and not any(r.failed for r in results)

def test_import_is_light():
    code = "import sys, hardcl_nb; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

def test_help_imports_nothing_heavy():
    code = "import sys, hardcl_nb.runs.cli, hardcl_nb.runs.compare; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'sklearn', 'numpy')))"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

def test_runtime_needs_no_nbdev():
    assert not any(r.startswith(('nbdev', 'execnb', 'ghapi', 'jupyter')) for r in shlex.split(cfg['requirements']))
    for f in (root/'hardcl_nb').rglob('*.py'):
        if f.name != '_modidx.py': assert not re.search(r'^\s*(?:import|from) (?:nbdev|execnb)', f.read_text(encoding='utf-8'), re.M), f.name

def test_version_is_the_same_everywhere():
    import hardcl_nb
    assert hardcl_nb.__version__ == cfg['version']
    assert f"[{cfg['version']}]" in (root/'CHANGELOG.md').read_text(encoding='utf-8')

def test_console_scripts_exist():
    for line in cfg['console_scripts'].split():
        mod,fn = line.split('=')[1].split(':')
        assert callable(getattr(importlib.import_module(mod), fn))

@pytest.mark.parametrize('p', numbered, ids=lambda p: p.stem)
def test_public_functions_are_documented(p):
    "Every exported function has a docstring, and a comment for each parameter."
    import ast
    m = module_of(p)
    if m is None: return
    tree = ast.parse((root/'hardcl_nb'/f"{m.replace('.', '/')}.py").read_text(encoding='utf-8'))
    lines = (root/'hardcl_nb'/f"{m.replace('.', '/')}.py").read_text(encoding='utf-8').splitlines()
    for f in tree.body:
        if isinstance(f, (ast.FunctionDef, ast.ClassDef)) and not f.name.startswith('_'):
            assert ast.get_docstring(f), f.name
            if isinstance(f, ast.FunctionDef):
                for a in f.args.posonlyargs+f.args.args+f.args.kwonlyargs:
                    assert a.annotation is not None, f'{f.name}({a.arg}) has no type'
                    assert '#' in lines[a.end_lineno-1], f'{f.name}({a.arg}) has no comment'

def test_readme_is_the_home_page():
    "README.md is index.ipynb, rendered."
    r = subprocess.run([sys.executable, str(root/'.ci/readme.py'), '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout+r.stderr

def test_numbers_of_a_training_may_round_otherwise_and_no_others_may():
    "What `make verify` takes for the same text."
    code = 'import sys, json; sys.path.insert(0, ".ci"); from verify import near; print(json.dumps([near(a, b) for a,b in json.load(sys.stdin)]))'
    same = [('rank 2.42, gap .590', 'rank 2.35, gap .592'), ('[  0.47,  0.64]', '[ 0.48, 0.64]'), ('err 3e-05', 'err 4e-05'), ('step 12: 0.0', 'step 12: 0.0')]
    other = [('rank 2.42', 'rank 2.10'), ('step 5: .1', 'step 6: .1'), ('err 3e-05', 'err 3e-03'), ('rank 2.42', 'Rank 2.42'), ('2.42 2.42', '2.42')]
    r = subprocess.run([sys.executable, '-c', code], cwd=root, input=json.dumps(same+other), capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    assert json.loads(r.stdout)==[True]*len(same)+[False]*len(other)
