"Write README.md from nbs/index.ipynb, or check (`--check`) that it is up to date."
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def markdown(cell):
    "A cell as GitHub Markdown; hidden cells vanish, printed text follows its code."
    s = ''.join(cell['source'])
    if cell['cell_type']=='markdown':
        s = re.sub(r'<div class="hardcl-playground">.*?</script>', '', s, flags=re.S) # lives on the site alone
        s = re.sub(r'<div class="doors">|</div>', '', s)
        s = re.sub(r'<a href="([^"]+)">(.*?) <span>(.*?)</span></a>', r'- [\2](\1): \3', s)
        return re.sub(r'\]\((?!http|#)([^)]+)\)', r'](nbs/\1)', s)
    if '#| hide' in s: return ''
    out = ''.join(''.join(o.get('text', '')) for o in cell['outputs'])
    if s.startswith('#| echo: false') and not out: return '(A film, to be played on [the site](https://hardcl.github.io/hardcl_nb).)'
    if '#| echo: false' in s: return f'```\n{out.rstrip()}\n```'
    code = '\n'.join(l for l in s.splitlines() if not l.startswith('#|'))
    return f'```python\n{code}\n```' + (f'\n\n```\n{out.rstrip()}\n```' if out else '')

def readme():
    cells = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    parts = ['<!-- Made from nbs/index.ipynb by `make readme`: edit that. -->', *map(markdown, cells)]
    return '\n\n'.join(p.strip() for p in parts if p.strip())+'\n'

if __name__=='__main__':
    path,text = root/'README.md',readme()
    if '--check' in sys.argv: sys.exit(0 if path.read_text(encoding='utf-8')==text else 'README.md is not what nbs/index.ipynb says: run `make readme`')
    path.write_text(text, encoding='utf-8')
    print(f'{path.name}: {len(text.splitlines())} lines')
