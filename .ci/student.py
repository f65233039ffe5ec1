"""Write copies of the notebooks to work in: nothing in them writes the package, exercises wait to be run, helpers stand collapsed.

    python .ci/student.py [FOLDER]      (default: work; pages that are there already are kept, --fresh replaces them)
"""
import json, os, re, sys
from pathlib import Path
from pages import aside

root = Path(__file__).resolve().parent.parent

why = dict(gpu='Needs a GPU, so it is not run in this copy:', slow='Takes long, so it is not run in this copy:',
    notest='Made the results that the next cells read, and is not run in this copy:', frameworks='Needs other frameworks, so it is not run in this copy:')

def student_cell(c):
    "A cell as a student sees it; None if it is only for those who write the package."
    s = ''.join(c['source'])
    if c['cell_type']!='code': return c
    if re.match(r'#\|\s*default_exp', s) or 'nbdev_export(' in s: return None
    hidden = aside(s)
    needs = re.search(r'^#\|\s*(gpu|slow|notest|frameworks)\b', s, re.M)
    if needs and not hidden: # would stop Run All on most machines: to read, not to run
        code = '\n'.join(l for l in s.splitlines() if not l.startswith('#|')).strip('\n')
        return dict(cell_type='markdown', id=c['id'], metadata={}, source=f'*{why[needs[1]]}*\n\n```python\n{code}\n```'.splitlines(keepends=True))
    if needs: return None
    lines = [l for l in s.splitlines() if not re.match(r'#\|\s*(exports?|eval: false|hide|echo|fig-alt|notest|slow|gpu|frameworks)\b', l)]
    c = {**c, 'source': '\n'.join(lines).strip('\n').splitlines(keepends=True), 'metadata': {'jupyter': {'source_hidden': True}} if hidden else {}}
    if re.search(r'^#\|\s*eval: false', s, re.M): c = {**c, 'outputs': [], 'execution_count': None}
    return c

def put(path, data):
    "Write a file as a whole: a page that is cut off would be kept by the next call, and a new one must not cost a student the old one."
    part = path.with_name(f'.{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as e: raise OSError(f'{path}: expected room for it, got {e}') from None
    finally: part.unlink(missing_ok=True)

def write(folder, fresh):
    "Copy pages, pictures and results; how many pages are new."
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'.hardcl_course').touch() # here the judges of exercises note what is done; what stands there stays
    for p in sorted(q for d in ('images', 'results') for q in (root/'nbs'/d).rglob('*') if q.is_file()):
        put(folder/p.relative_to(root/'nbs'), p.read_bytes())
    new = 0
    for p in sorted((root/'nbs').glob('*.ipynb')):
        out = folder/p.name
        if out.exists() and not fresh: continue
        nb = json.loads(p.read_text(encoding='utf-8'))
        nb['cells'] = [s for c in nb['cells'] if (s := student_cell(c)) is not None]
        put(out, (json.dumps(nb, indent=1, ensure_ascii=False)+'\n').encode())
        new += 1
    return new

if __name__=='__main__':
    places = [a for a in sys.argv[1:] if not a.startswith('-')]
    folder = root/(places[0] if places else 'work')
    try: n = write(folder, '--fresh' in sys.argv)
    except OSError as e: sys.exit(f'student: error: {e}. The same command goes on.')
    print(f'{n} new pages in {folder.name}/: open {folder.name}/00_notation.ipynb; `hardcl_progress` says which exercises are done')
