"""Write copies of the notebooks to work in: nothing in them writes the package, exercises wait to be run, helpers stand collapsed.

    python .ci/student.py [FOLDER]      (default: work; pages that are there already are kept, --fresh replaces them)
"""
import json, re, shutil, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def student_cell(c):
    "A cell as a student sees it; None if it is only for those who write the package."
    s = ''.join(c['source'])
    if c['cell_type']!='code': return c
    if re.match(r'#\|\s*default_exp', s) or 'nbdev_export(' in s: return None
    hidden = bool(re.search(r'^#\|\s*(hide|echo: false)', s, re.M))
    lines = [l for l in s.splitlines() if not re.match(r'#\|\s*(exports?|eval: false|hide|echo|fig-alt|notest|slow|gpu|frameworks)\b', l)]
    c = {**c, 'source': '\n'.join(lines).strip('\n').splitlines(keepends=True), 'metadata': {'jupyter': {'source_hidden': True}} if hidden else {}}
    if re.search(r'^#\|\s*eval: false', s, re.M): c = {**c, 'outputs': [], 'execution_count': None}
    return c

def write(folder, fresh):
    "Copy pages, pictures and results; how many pages are new."
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'.hardcl_course').write_text('', encoding='utf-8') # here the judges of exercises note what is done
    for d in ('images', 'results'): shutil.copytree(root/'nbs'/d, folder/d, dirs_exist_ok=True)
    new = 0
    for p in sorted((root/'nbs').glob('*.ipynb')):
        out = folder/p.name
        if out.exists() and not fresh: continue
        nb = json.loads(p.read_text(encoding='utf-8'))
        nb['cells'] = [s for c in nb['cells'] if (s := student_cell(c)) is not None]
        out.write_text(json.dumps(nb, indent=1, ensure_ascii=False)+'\n', encoding='utf-8')
        new += 1
    return new

if __name__=='__main__':
    places = [a for a in sys.argv[1:] if not a.startswith('-')]
    folder = root/(places[0] if places else 'work')
    n = write(folder, '--fresh' in sys.argv)
    print(f'{n} new pages in {folder.name}/: open {folder.name}/00_notation.ipynb; `hardcl_progress` says which exercises are done')
