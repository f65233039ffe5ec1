"""The checks before the tests: notebooks are clean, modules are their notebooks' exports, every notebook runs, the pages can be built.

    python .ci/check.py            all of it
    python .ci/check.py 05 11      run only the notebooks with these prefixes
"""
import hashlib, os, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
os.chdir(root)
env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg', 'PYTHONWARNINGS': 'ignore::SyntaxWarning'}

def python(code, *args): return subprocess.run([sys.executable, '-c', code, *args], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

def state():
    "A digest of every notebook and module."
    fs = [*root.glob('nbs/*.ipynb'), *root.glob('hardcl_nb/**/*.py')]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in fs}

def unchanged(what, code):
    "Run nbdev's command; nothing may change."
    before = state()
    r = python(code)
    after = state()
    bad = sorted(f for f in before.keys()|after.keys() if before.get(f)!=after.get(f))
    if r.returncode or bad: sys.exit(f"{what} failed or changed files: {', '.join(bad)}\n{r.stdout}")
    print(f'{what}: nothing changed')

def notebook(path):
    "Run one notebook in a process of its own, with the solutions of its exercises."
    t = time.perf_counter()
    r = subprocess.run([sys.executable, str(root/'.ci/notebook.py'), str(path), 'gpu', 'slow', 'notest'], env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(f"{path.stem}: {'ok' if not r.returncode else 'FAILED'} ({time.perf_counter()-t:.0f} s)", flush=True)
    return None if not r.returncode else f'{path}\n{r.stdout}'

def main(prefixes):
    if not prefixes:
        unchanged('nbdev_clean', 'from nbdev.clean import nbdev_clean; nbdev_clean()')
        unchanged('nbdev_export', 'from nbdev.doclinks import nbdev_export; nbdev_export()')
    nbs = [p for p in sorted(root.glob('nbs/*.ipynb')) if not prefixes or p.name.startswith(tuple(prefixes))]
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 8))) as pool: bad = [b for b in pool.map(notebook, nbs) if b]
    if bad: sys.exit('\n'.join(bad))
    if not prefixes:
        r = python('from nbdev.quarto import refresh_quarto_yml; from nbdev.serve import proc_nbs; refresh_quarto_yml(); proc_nbs(force=True)')
        made = len([*root.glob('_proc/*.ipynb')])
        if r.returncode or made!=len(nbs): sys.exit(f'the pages could not be prepared: {made} of {len(nbs)}\n{r.stdout}')
        print(f'{made} pages prepared')

if __name__=='__main__': main(sys.argv[1:])
