"""Run one notebook as `nbdev_test` does, and with it the solution of each exercise: the code that stands folded on the page.

    python .ci/notebook.py nbs/41_collapse.ipynb [flags of cells to leave out]
"""
import ast, os, re, sys
from functools import wraps
from pathlib import Path
import matplotlib.pyplot as plt
from execnb.nbio import mk_cell
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.process import NBProcessor

def solution(text):
    "The code of a folded solution, and the names that it defines; None without code."
    folded = ''.join(re.findall(r'<details>.*?</details>', text, re.S))
    code = '\n\n'.join(re.findall(r'```python\n(.*?)```', folded, re.S))
    if not code: return None
    body = ast.parse(code).body
    names = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return code, names+[t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]

def with_solutions(cells):
    "The cells, each folded solution run and judged by the check that the page has for it."
    out, checks = [], set()
    for c in cells:
        out.append(c)
        if c.cell_type=='code': checks |= set(re.findall(r'^def check_(\w+)', c.source, re.M))
        elif (found := solution(c.source)) is not None:
            code, names = found
            calls = [f'check_{n}({n})' for n in names if n in checks]
            out.append(mk_cell('\n'.join([code, *calls]), solves=True))
    return out

def three_frames():
    "Films draw all their frames, but only the first, the one shown at first and the last are written out; `make verify` writes them all."
    from hardcl_nb import figures
    film, frame, todo, last = figures.film, figures._frame, [], []
    def written(fig):
        if not todo or todo.pop(0): last[:] = [frame(fig)]
        else: plt.close(fig)
        return last[0]
    def short(draw, values, name, start=0, **options):
        vals = list(values)
        todo[:] = [k in (0, start, len(vals)-1) for k in range(len(vals))]
        return film(draw, vals, name, start, **options)
    figures.film, figures._frame = wraps(film)(short), written

def run(path, skip, after=None):
    "Run the notebook, and `after(its names)`; False, and what was wrong, if a cell or a solution fails."
    os.environ['IN_TEST'] = '1'
    three_frames()
    nb = NBProcessor(path, process=True).nb
    nb.cells = with_solutions(nb.cells)
    def leave_out(cell):
        d = getattr(cell, 'directives_', None) or {}
        return cell.cell_type!='code' or 'nbdev_export'+'(' in cell.source or d.get('eval:', [''])[0].lower()=='false' or bool(skip & d.keys())
    shell = CaptureShell(path)
    at = max((k+1 for k,c in enumerate(nb.cells) if c.get('solves')), default=0) if after else len(nb.cells) # behind it a page tidies up
    parts = nb.cells[:at], nb.cells[at:]
    with working_directory(path.parent):
        for k,nb.cells in enumerate(parts):
            try: shell.run_all(nb, exc_stop=True, preproc=leave_out)
            except Exception:
                print(shell.prettytb(fname=path))
                return False
            if after and k==0: after(shell.user_ns)
    return True

if __name__=='__main__': sys.exit(not run(Path(sys.argv[1]).absolute(), set(sys.argv[2:])))
