"""Which cells stand collapsed in JupyterLab, and folded on the site: hidden ones, the code of pictures, the judges of exercises.

    python .ci/fold.py            mark them in the notebooks (`jupyter.source_hidden` in a cell's metadata)
    python .ci/fold.py --check    are they marked?
"""
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def aside(source):
    "Is this code that a reader opens only if they want to?"
    if re.match(r'#\|\s*(export|default_exp)', source): return False
    hidden = re.search(r'^#\|\s*(hide\b|echo:\s*false)', source, re.M)
    picture = re.search(r'^#\|\s*fig-alt\b', source, re.M) or 'plt.subplots(' in source
    judge = re.search(r'^@judge', source, re.M)
    return bool(hidden or picture and len(source.splitlines())>5 or judge)

def marked(cell): return bool(cell['metadata'].get('jupyter', {}).get('source_hidden'))

def wrong(nb):
    "Cells of code whose mark is not as it should be."
    return [c for c in nb['cells'] if c['cell_type']=='code' and marked(c)!=aside(''.join(c['source']))]

def mark(path):
    "Mark the cells of a notebook; how many were wrong."
    nb = json.loads(path.read_text(encoding='utf-8'))
    bad = wrong(nb)
    for c in bad:
        if aside(''.join(c['source'])): c['metadata'] = {**c['metadata'], 'jupyter': {'source_hidden': True}}
        else: c['metadata'].pop('jupyter')
    if bad: path.write_text(json.dumps(nb, indent=1, ensure_ascii=False)+'\n', encoding='utf-8')
    return len(bad)

if __name__=='__main__':
    pages = sorted((root/'nbs').glob('*.ipynb'))
    if '--check' in sys.argv:
        bad = {p.stem: len(w) for p in pages if (w := wrong(json.loads(p.read_text(encoding='utf-8'))))}
        if bad: sys.exit(f'run python .ci/fold.py: cells that should be collapsed, or open: {bad}')
    else: print(sum(map(mark, pages)), 'cells marked')
