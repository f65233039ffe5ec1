"The page of theorems: each link, section and function that it names exists, and every label is used once."
import importlib, json, pkgutil, re
from pathlib import Path
import pytest
import hardcl_nb.theory

nbs = Path(__file__).parent.parent/'nbs'
def prose(name): return [''.join(c['source']) for c in json.loads((nbs/name).read_text(encoding='utf-8'))['cells'] if c['cell_type']=='markdown']
page = '\n'.join(prose('16_proved.ipynb'))
rows = [l for l in page.splitlines() if l.startswith('| **')]
labels = [re.match(r'\| \*\*(\w+)\*\*', r)[1] for r in rows]
names = {n for m in pkgutil.iter_modules(hardcl_nb.theory.__path__) for n in importlib.import_module(f'hardcl_nb.theory.{m.name}').__all__}

def test_labels_are_unique(): assert len(labels)==len(set(labels)) and len(labels)>=30

def test_labels_in_the_text_exist():
    for l in re.findall(r'\b([DGBHMLRKO]\d)\b', page): assert l in labels, l

@pytest.mark.parametrize('row', rows, ids=labels)
def test_row_can_be_followed(row):
    for name in re.findall(r'`(\w+)`', row): assert name in names, name
    links = re.findall(r'\]\((\w+\.ipynb)\), “([^”]+)”', row)
    if not row.startswith('| **O'): assert links, 'no place'
    for file,section in links: assert f'## {section}' in [l for p in prose(file) for l in p.splitlines()], (file, section)

@pytest.mark.parametrize('file', sorted(set(re.findall(r'\]\((\w+\.ipynb)', page))))
def test_pages_exist(file): assert (nbs/file).is_file()
