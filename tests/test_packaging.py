"The wheel: what it holds, what it needs, and that it works without the tools of its makers."
import configparser, os, re, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

root = Path(__file__).parent.parent

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from a copy of what is tracked: nothing is left in the repository."
    src,out = tmp_path_factory.mktemp('src'),tmp_path_factory.mktemp('out')
    for f in ('settings.ini', 'setup.py', 'README.md', 'LICENSE', 'MANIFEST.in'): (src/f).write_bytes((root/f).read_bytes())
    shutil.copytree(root/'hardcl_nb', src/'hardcl_nb', ignore=shutil.ignore_patterns('__pycache__'))
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(out), str(src)], check=True)
    return next(out.glob('*.whl'))

def test_wheel_holds_every_module_and_the_type_marker(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for f in (root/'hardcl_nb').rglob('*'):
        if f.is_file() and '__pycache__' not in f.parts: assert str(f.relative_to(root)) in names, f
    assert not any(n.startswith(('nbs', 'tests')) for n in names)

def test_wheel_metadata(wheel):
    z = zipfile.ZipFile(wheel)
    meta = z.read(next(n for n in z.namelist() if n.endswith('METADATA'))).decode()
    need = [l for l in meta.splitlines() if l.startswith('Requires-Dist') and 'extra ==' not in l]
    assert any('torch' in l for l in need) and not any(re.search('nbdev|execnb|ghapi|jupyter', l) for l in need)
    scripts = z.read(next(n for n in z.namelist() if n.endswith('entry_points.txt'))).decode()
    cfg = configparser.ConfigParser(delimiters=['=']); cfg.read(root/'settings.ini', encoding='utf-8')
    for line in cfg['DEFAULT']['console_scripts'].split(): assert re.sub('=', ' = ', line) in scripts or line in scripts

def test_installed_package_trains_without_nbdev(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path/'site')
    code = ("import sys\nfor m in ('nbdev', 'execnb', 'ghapi'): sys.modules[m] = None\n"
        "import hardcl_nb.runs.cli as c; assert 'site' in c.__file__, c.__file__\nc.hardcl_train(['--steps', '2', '--out', 'x'])")
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path/'site')}, capture_output=True, text=True)
    assert r.returncode==0 and (tmp_path/'x/metrics.csv').exists(), r.stderr

def test_constraints_and_oldest_versions_are_within_what_is_declared():
    "Each declared package has one pin, in its range; the job of the oldest has each lower limit."
    ini = configparser.ConfigParser(interpolation=None); ini.read(root/'settings.ini')
    declared = [Requirement(r) for k in ('requirements', 'dev_requirements') for r in ini['DEFAULT'][k].split()]
    pins = {canonicalize_name(k): v for k,v in (l.split('==') for l in (root/'constraints.txt').read_text().splitlines() if l[0]!='#')}
    assert [r.name for r in declared if not r.specifier.contains(pins.get(canonicalize_name(r.name), '0'))]==[]
    oldest = subprocess.run([sys.executable, '.ci/oldest.py'], cwd=root, capture_output=True, text=True).stdout.split()
    assert len(oldest)==ini['DEFAULT']['requirements'].count('>=')>5
    for o,r in zip(map(Requirement, oldest), (r for r in declared if '>=' in str(r))):
        low = next(s.version for s in r.specifier if s.operator=='>=')
        assert o.name==r.name and o.specifier.contains(low) and not o.specifier.contains('99')
