"The repository, seen from outside the notebooks."
import configparser, importlib, json, os, re, shlex, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
nbs = sorted((root/'nbs').glob('*.ipynb'))
numbered = [p for p in nbs if p.name[0].isdigit()]
cfg = configparser.ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

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

def test_every_module_has_its_notebook():
    modules = {'.'.join(p.relative_to(root/'hardcl_nb').with_suffix('').parts) for p in (root/'hardcl_nb').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py')}
    made = [m for p in numbered if (m := module_of(p))]
    assert len(made) == len(set(made)) and modules == set(made)

@each_numbered
def test_module_imports_only_earlier_notebooks(p):
    order = [module_of(q) for q in numbered]
    exported = '\n'.join(s for s in code(p) if re.search(r'^#\| exports?\b', s, re.M))
    for m in re.findall(r'^from hardcl_nb\.([\w.]+) import', exported, re.M): # an import inside a function may look ahead
        if m in order: assert order.index(m) < order.index(module_of(p)), f'{p.name} imports {m}'

@each
def test_imports_stand_alone(p):
    "A docs build runs every cell holding an import, whatever its flags."
    for s in code(p):
        lines = [l for l in s.splitlines() if l.strip() and not l.lstrip().startswith('#')]
        imp = [l.startswith(('import ', 'from ')) for l in lines]
        allowed = all(imp) or '#| eval: false' in s or 'nbdev_export()' in s
        inside = re.sub(r'\((?:[^()]|\n)*\)', '', s) # a parenthesised import may span lines
        lines2 = [l for l in inside.splitlines() if l.strip() and not l.lstrip().startswith('#')]
        assert not any(imp) or allowed or all(l.startswith(('import ', 'from ')) for l in lines2), s

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
