"""The checks before the tests: notebooks are clean, modules are their notebooks' exports, every notebook runs, the pages can be built.

    python .ci/check.py            all of it, but for the cells marked slow
    python .ci/check.py 05 11      run only the notebooks with these prefixes
"""
import hashlib, importlib, multiprocessing.connection, os, subprocess, sys, tempfile, time
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

def warm():
    "Import what nearly every notebook needs, none of it ours: the processes of the notebooks are copies of this one."
    os.environ.update(env)
    sys.path[:0] = [str(root/'.ci')]
    for m in ('torch', 'torch.utils.checkpoint', 'torch._dynamo', 'scipy.optimize', 'scipy.stats', 'sklearn.linear_model',
        'matplotlib.pyplot', 'matplotlib_inline.backend_inline', 'ipywidgets', 'fastcore.test', 'nbdev.showdoc', 'notebook'): importlib.import_module(m)

def child(path, skip, out):
    "Run one notebook, all that it prints to a file."
    with open(out, 'w') as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    import notebook
    good = notebook.run(path, skip)
    sys.stdout.flush()
    sys.exit(not good)

def run_notebooks(paths, skip, folder):
    "Run notebooks, each in a process of its own, as many at a time as there are cores; what the failed ones printed."
    start, left, running, bad = multiprocessing.get_context('fork').Process, list(paths), {}, []
    while left or running:
        while left and len(running)<max(1, min(os.cpu_count() or 1, 8)):
            path = left.pop(0)
            p = start(target=child, args=(path, skip, Path(folder)/path.stem))
            p.start()
            running[p.sentinel] = p, path, time.perf_counter()
        for s in multiprocessing.connection.wait(list(running)):
            p, path, t = running.pop(s)
            p.join()
            print(f"{path.stem}: {'FAILED' if p.exitcode else 'ok'} ({time.perf_counter()-t:.0f} s)", flush=True)
            if p.exitcode: bad.append(f'{path}\n{(Path(folder)/path.stem).read_text()}')
    return bad

def main(prefixes):
    if not prefixes:
        unchanged('nbdev_clean', 'from nbdev.clean import nbdev_clean; nbdev_clean()')
        unchanged('nbdev_export', 'from nbdev.doclinks import nbdev_export; nbdev_export()')
    nbs = [p for p in sorted(root.glob('nbs/*.ipynb')) if not prefixes or p.name.startswith(tuple(prefixes))]
    warm()
    with tempfile.TemporaryDirectory() as folder: bad = run_notebooks(nbs, {'gpu', 'notest', 'slow', 'frameworks'}, folder)
    if bad: sys.exit('\n'.join(bad))
    if not prefixes:
        r = python('import sys; sys.path.insert(0, ".ci"); from nbdev.quarto import refresh_quarto_yml; from nbdev.serve import proc_nbs; refresh_quarto_yml(); proc_nbs(force=True)')
        made = len([*root.glob('_proc/*.ipynb')])
        if r.returncode or made!=len(nbs): sys.exit(f'the pages could not be prepared: {made} of {len(nbs)}\n{r.stdout}')
        print(f'{made} pages prepared')

if __name__=='__main__': main(sys.argv[1:])
