"Re-run notebooks and store their outputs, skipping the same cells as `nbdev_test`; each notebook gets a process of its own."
import base64, io, os
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.parallel import parallel
from fastcore.script import call_parse
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives
from PIL import Image

view = 'application/vnd.jupyter.widget-view+json'

def light(png):
    "A picture in at most 192 colours, if that is smaller: a quarter of the bytes, no difference to the eye."
    given = base64.b64decode(png)
    picture, out = Image.open(io.BytesIO(given)), io.BytesIO()
    if picture.mode=='P': return png
    picture.convert('RGB').quantize(192, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, 'PNG', optimize=True)
    return base64.b64encode(out.getvalue()).decode() if len(out.getvalue())<len(given) else png

def lighten(cell):
    "The same for every picture that a cell shows."
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'image/png' in data: data['image/png'] = light(''.join(data['image/png']))

def rerun(fn, skip):
    "A notebook with the outputs of today."
    nb = read_nb(fn)
    def keep(c): # leave this cell and its stored output alone
        if c.cell_type!='code': return True
        d = extract_directives(c, remove=False)
        if d.get('eval:', [''])[0].lower()=='false' or skip & d.keys(): return True
        c.outputs = []
    def drop(c): # a widget view is a random id that means nothing without its kernel: such a cell keeps no output
        if c.cell_type=='code' and any(view in o.get('data', {}) for o in c.get('outputs', [])): c.outputs = []
        if c.cell_type=='code': lighten(c)
    with working_directory(fn.parent): CaptureShell(fn).run_all(nb, exc_stop=True, preproc=keep, postproc=drop)
    return nb

def refresh(fn, skip): write_nb(rerun(fn, skip), fn)

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
