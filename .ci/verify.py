"""Re-run notebooks, skipping the same cells as `nbdev_test`, and fail if a text that they print is not the stored one; nothing is written.

What a page prints must be the same to the last letter, with two exceptions: times, and what a training ends at on a
processor that rounds otherwise."""
import difflib, os, re, sys
from execnb.nbio import read_nb
from fastcore.parallel import parallel
from fastcore.script import call_parse
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from refresh import rerun

timed = set('''
21_estimators 23_tiled 24_kernel 27_general 30_distributed 53_augment 56_loop
'''.split()) # pages that print times, speeds or memory: the numbers in these texts may differ, the words may not

trained = set('''
57_probes 61_build 65_cli 77_text_classes
'''.split()) # pages that train networks: processors round differently, and steps let that grow; numbers within a tenth

def texts(nb):
    "Id of each cell of code that prints, and what: streams and plain results, not pictures and pages."
    out = {}
    for c in nb.cells:
        if c.cell_type!='code': continue
        said = [o['text'] if 'text' in o else o.get('data', {}).get('text/plain', '') for o in c.get('outputs', [])]
        out[c.id] = '\n'.join(''.join(s).rstrip() for s in said)
    return out

def words(text): return re.sub(r'[\s─-]*\d[\d.,e+%-]*[\s─-]*', ' # ', text)

_number = re.compile(r'\d+(?:\.\d+)?(?:e[+-]?\d+)?|\.\d+')

def near(was, now, share=.1):
    "The same words and whole numbers, and others that differ by less than a share of them, or by two in the last place shown."
    def place(x):
        digits, _, power = x.partition('e')
        return 10.**(int(power or 0)-len(digits.partition('.')[2]))
    def close(a, b):
        if a.isdigit() or b.isdigit(): return a==b
        return abs(float(a)-float(b))<=max(share*max(float(a), float(b)), 2.001*max(place(a), place(b)))
    a, b = (' '.join(_number.sub('#', t).split()) for t in (was, now))
    return a==b and all(map(close, _number.findall(was), _number.findall(now)))

def differences(fn, skip):
    "Lines that differ between what is stored and what the page prints now."
    old, new = read_nb(fn), rerun(fn, skip)
    for nb in (old, new): clean_nb(nb, clear_all=False)
    was, now = texts(old), texts(new)
    def same(a, b): return words(a)==words(b) if fn.stem in timed else a==b or fn.stem in trained and near(a, b)
    odd = [k for k in was if not same(was[k], now.get(k, ''))]
    def lines(k): return difflib.unified_diff(was[k].splitlines(), now.get(k, '').splitlines(), f'{fn.name}#{k}, stored', 'now', n=1, lineterm='')
    return [l for k in odd for l in lines(k)]

os.environ['IN_TEST'] = '1' # as in `nbdev_test`

@call_parse
def main(
    path:str=None # notebook or folder (default: all of `nbs_path`)
):
    skip, found = set(get_config().tst_flags.split()), 0
    for fn in nbglob(path, as_path=True).sorted():
        lines, = parallel(differences, [fn.absolute()], skip=skip, n_workers=1)
        if lines: print('\n'.join(lines), flush=True)
        found += bool(lines)
    if found: sys.exit(f'{found} pages print other texts than those stored: `python .ci/refresh.py --path PAGE` stores them, if they are right')
