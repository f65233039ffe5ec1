"Re-run notebooks and store their outputs, skipping the same cells as `nbdev_test`; each notebook gets a process of its own."
import os
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.parallel import parallel
from fastcore.script import call_parse
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives

view = 'application/vnd.jupyter.widget-view+json'

def refresh(fn, skip):
    nb = read_nb(fn)
    def keep(c): # leave this cell and its stored output alone
        if c.cell_type!='code': return True
        d = extract_directives(c, remove=False)
        if d.get('eval:', [''])[0].lower()=='false' or skip & d.keys(): return True
        c.outputs = []
    def drop(c): # a widget view is a random id that means nothing without its kernel: such a cell keeps no output
        if c.cell_type=='code' and any(view in o.get('data', {}) for o in c.get('outputs', [])): c.outputs = []
    with working_directory(fn.parent): CaptureShell(fn).run_all(nb, exc_stop=True, preproc=keep, postproc=drop)
    write_nb(nb, fn)

os.environ['IN_TEST'] = '1' # as in `nbdev_test`: a notebook's closing `nbdev_export()` does nothing here

@call_parse
def main(
    path:str=None, # notebook or folder (default: all of `nbs_path`)
    flags:str='' # space-separated test flags to run as well, e.g. "gpu slow"
):
    skip = set(get_config().tst_flags.split())-set(flags.split())
    for fn in nbglob(path, as_path=True).sorted():
        parallel(refresh, [fn.absolute()], skip=skip, n_workers=1)
        nbdev_clean(fn)
