"""The exercises of the pages: what stands there for each, and what its check says to answers that are not right.

    python .ci/exercises.py 05 11      feed the checks of these pages (all, without a prefix), and show what each one said
"""
import contextlib, functools, inspect, io, json, numbers, re, sys, time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

root = Path(__file__).resolve().parent.parent
heading = re.compile(r'^\*\*\d+\. (.+?)\*\*(?: \((★+), (\d+) minutes\)\.)?', re.M)

@dataclass
class Exercise:
    "One exercise, as it stands on its page."
    title:str          # What it is called
    stars:str          # How hard it is
    minutes:int        # How long it takes
    name:str = ''      # Of the function to write
    stub:str = ''      # Code of the stub
    called:bool = False # Does a cell below call the check on the answer?
    text:str = ''      # Its prose, folded parts included
    def folded(self, what):
        "What stands folded under this word, '' if nothing does."
        m = re.search(rf'<details>\s*<summary>{what}</summary>(.*?)</details>', self.text, re.S)
        return m[1].strip() if m else ''
    @property
    def hint(self): return self.folded('Hint')
    @property
    def solution(self): return '\n\n'.join(re.findall(r'```python\n(.*?)```', self.folded('Solution'), re.S))

def exercises(path):
    "The exercises of a notebook."
    out = []
    for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells']:
        s = ''.join(c['source'])
        if c['cell_type']=='markdown':
            at = [m.start() for m in heading.finditer(s)]
            if out: out[-1].text += '\n'+s[:at[0] if at else len(s)]
            for a,b in zip(at, [*at[1:], len(s)]):
                title, stars, minutes = heading.match(s, a).groups()
                out.append(Exercise(title, stars or '', int(minutes or 0), text=s[a:b]))
        elif out and '#| eval: false' in s:
            if '...' in s: out[-1].name, out[-1].stub = re.search(r'^(?:def|class) (\w+)', s, re.M)[1], s
            elif re.search(rf'^check_{out[-1].name}\({out[-1].name}\)', s, re.M): out[-1].called = True
    return [e for e in out if e.name]

# ---- answers that are not right ----
def scaled(t): return t*1.02+.02*(t.abs().max()==0) if t.is_floating_point() or t.is_complex() else t+1

def entry(t):
    "One entry off: the largest that is a number."
    flat = t.contiguous().view(-1)
    k = int(flat.abs().nan_to_num(0, 0, 0).argmax()) if t.is_floating_point() else t.numel()-1
    flat[k] = flat[k]*1.05+.05*(flat[k]==0) if t.is_floating_point() else flat[k]+1
    return flat.view(t.shape)

def spoil(x, how):
    "A result that is not the one that was asked for; None if nothing is known of it."
    import numpy as np, torch
    if isinstance(x, torch.Tensor):
        if x.dtype==torch.bool: return ~x
        if x.is_complex() or not x.numel(): return x
        return how(x) if x.requires_grad and how is scaled else how(x.detach().clone())
    if isinstance(x, np.ndarray): return spoil(torch.from_numpy(np.ascontiguousarray(x)), how).numpy() if x.dtype.kind in 'fiub' else None
    if isinstance(x, (bool, np.bool_)): return not x
    if isinstance(x, numbers.Integral): return int(x)+1
    if isinstance(x, numbers.Real): return float(how(torch.tensor([float(x)], dtype=torch.float64)))
    if isinstance(x, str): return x+'?'
    if isinstance(x, set): return x|{'one more'}
    if inspect.isgenerator(x): return (everywhere(v, how) for v in x)
    if callable(x) and not isinstance(x, type): return lambda *args, **kwargs: everywhere(x(*args, **kwargs), how)
    return None

def parts(x, change):
    "A list, tuple or dictionary with its parts changed by `change(number of the part, part)`."
    if isinstance(x, dict): return {k: change(i, v) for i,(k,v) in enumerate(x.items())}
    new = [change(i, v) for i,v in enumerate(x)]
    return type(x)(*new) if hasattr(x, '_fields') else type(x)(new)

def whole(x): return not isinstance(x, (list, tuple, dict)) or len(x)==0
def everywhere(x, how): return spoil(x, how) if whole(x) else parts(x, lambda i, v: everywhere(v, how))
def first(x, how): return spoil(x, how) if whole(x) else parts(x, lambda i, v: first(v, how) if i==0 else v)
def last(x, how): return spoil(x, how) if whole(x) else parts(x, lambda i, v: last(v, how) if i==len(x)-1 else v)

def other(x, args):
    "The same result by another route: a number as a tensor without dimensions, or the other way round; arrays as copies."
    import numpy as np, torch
    if any(x is a for a in args) or isinstance(x, torch.Tensor) and (x.requires_grad or not x.is_contiguous()): return x
    if isinstance(x, torch.Tensor): return x.item() if x.ndim==0 else x.clone()
    if isinstance(x, np.ndarray): return x.copy()
    return torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else x

def wrapped(f, then):
    @functools.wraps(f)
    def g(*args, **kwargs): return then(f(*args, **kwargs), args)
    return g

def answers(f, stub):
    "{what is wrong: (the answer, a word that must be in the message)}"
    name = getattr(f, '__name__', 'f')
    def broken(*args, **kwargs): return undefined_name # noqa: F821
    def none(): return 0
    def many(a, b, c, d, e, f, g, h, i): return 0
    arity = many if not inspect.signature(f).parameters else none
    broken.__name__ = arity.__name__ = name
    numeric = {'scaled': (everywhere, scaled), 'an entry off': (everywhere, entry), 'the first part off': (first, entry), 'the last part off': (last, entry)}
    return {'stub': (stub, ''),
        **{what: (wrapped(f, lambda x, a, change=change, how=how: change(x, how)), '') for what,(change,how) in numeric.items()},
        'returns nothing': (wrapped(f, lambda x, a: None), ''), 'returns a string': (wrapped(f, lambda x, a: 'nonsense'), 'nonsense'),
        'returns a list of it': (wrapped(f, lambda x, a: [x]), ''), 'raises': (broken, 'undefined_name'), 'wrong arity': (arity, 'argument'),
        'a string': ('nonsense', 'nonsense'), 'None': (None, 'None'), 'a number': (3.5, '3.5')}

numeric = ('scaled', 'an entry off', 'the first part off', 'the last part off')
beside = ('raises', 'wrong arity', 'a string', 'None', 'a number') # not even a function that answers

def said(check, answer):
    "(what the check said, '' if it accepted; was it our own exception?)"
    try: check(answer)
    except Exception as e: return ' '.join(str(e).split()), type(e).__name__=='NotYet'
    return '', True

def feed(check, f, stub, more=()):
    "{answer: (what the check said, was it an exception of ours with the word that must be there?, seconds)}; `more` make wrong answers of a right one."
    out = {}
    for what,(answer,word) in [*answers(f, stub).items(), ('another route', (wrapped(f, other), '')),
            *((f'wrong {i+1}', (functools.wraps(f)(change(f)), '')) for i,change in enumerate(more))]:
        t = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()): text, ours = said(check, answer)
        out[what] = text, ours and (not text or word in text), time.perf_counter()-t
    return out

def wanting(fed, silent=False, typed=False):
    "What is wanting in what a check said; `silent`: the function is there for what it does, and returns nothing; `typed`: no other type will do."
    mine = [w for w in fed if w.startswith('wrong ') and w!='wrong arity']
    for what,(text,fine,_) in fed.items():
        if not fine: yield f'{what}: {text}'
        elif what=='another route':
            if text and not typed: yield f'another route is refused: {text}'
        elif text and not re.search(r'expected|must hold|is the stub filled in|raised|close|instead of', text): yield f'{what}: nothing says what is expected: {text}'
    if not fed['stub'][0]: yield 'the stub is accepted'
    for what in beside:
        if not fed[what][0]: yield f'{what} is accepted'
    shape = [] if silent else [w for w in ('returns nothing', 'returns a string', 'returns a list of it') if not fed[w][0]]
    if shape: yield f'accepted: {shape}'
    for what in mine:
        if not fed[what][0]: yield f'{what} is accepted'
    caught = [w for w in numeric if fed[w][0]]
    if not silent and not mine and ('scaled' not in caught or len(caught)<2): yield 'wrong numbers are accepted: '+', '.join(w for w in numeric if not fed[w][0])

def fed_page(path, more={}):
    "{name: what its check said to each answer} of a page, after all of the page has run; `more` wrong answers by name."
    import notebook
    out = {}
    def after(space):
        for e in exercises(path):
            own = SimpleNamespace(**space)
            exec(re.sub(r'^#\|.*\n', '', e.stub, flags=re.M), vars(own))
            out[e.name] = feed(space[f'check_{e.name}'], space[e.name], getattr(own, e.name), more.get(e.name, ()))
    good = notebook.run(Path(path), {'gpu', 'notest', 'slow', 'frameworks'}, after)
    return out if good else None

if __name__=='__main__':
    prefixes = tuple(sys.argv[1:])
    for p in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        if prefixes and not p.name.startswith(prefixes): continue
        fed = fed_page(p)
        if fed is None: sys.exit(f'{p.stem} does not run')
        for name,answers_ in fed.items():
            print(f'{p.stem}: {name}')
            for what,(text,fine,seconds) in answers_.items(): print(f"  {'' if fine else 'NOT '}{what} ({seconds:.1f} s): {text or 'accepted'}")
            for w in wanting(answers_): print('  WANTING', w)
