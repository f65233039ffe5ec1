"""What nbdev does with a page before Quarto sees it, mended: `procs` in settings.ini names it, PYTHONPATH=.ci finds it.

nbdev links every name in backticks to its definition. Inside a block of code, such as a signature, a link is printed as it is written;
and a private name, a method or an attribute has no heading that a link could lead to.
"""
import re

made = re.compile(r'\[(`[^`]+`)\]\((https?://[^)\s]*\.html#([^)\s]*))\)')

def mend(text):
    "Markdown without the links that nbdev should not have made."
    out, inside = [], False
    for line in text.split('\n'):
        if line.startswith('```'): inside = not inside
        elif inside: line = made.sub(lambda m: m[1].strip('`'), line)
        else: line = made.sub(lambda m: m[1] if re.search(r'(^|\.)_|\.', m[3]) else m[0], line)
        out.append(line)
    return '\n'.join(out)

def plain_links(cell):
    "Mend the links of a cell, in prose and in what a signature prints."
    if cell.cell_type=='markdown': cell.source = mend(cell.source)
    for o in cell.get('outputs', []):
        text = o.get('data', {}).get('text/markdown')
        if text is not None: o['data']['text/markdown'] = mend(text if isinstance(text, str) else ''.join(text)).splitlines(True)

def fold_code(cell):
    "What stands collapsed in Jupyter is folded on the site."
    if cell.cell_type!='code' or not cell.metadata.get('jupyter', {}).get('source_hidden'): return
    if 'hide' in cell.directives_ or 'echo:' in cell.directives_: return
    cell.source = '#| code-fold: true\n'+cell.source
