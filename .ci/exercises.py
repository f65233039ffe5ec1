"""The exercises of a page: what stands there for each, and what its check says of answers that are not right.

    python .ci/exercises.py 05 11      feed the checks of these pages (all, without a prefix), say what each answered
"""
import functools, numbers, re, sys
from dataclasses import dataclass

@dataclass
class Exercise:
    "One exercise, as it stands on its page."
    name: str          # of the function to write
    title: str         # what it is called
    stars: str         # how hard it is
    minutes: int       # how long it takes
    stub: str          # code of the stub
    called: bool       # does a cell below call the check on the answer?
    hint: str          # folded hint, '' without
    solution: str      # folded code, '' without

def folded(text, what):
    "What stands folded under this heading."
    m = re.search(rf'<details>\s*<summary>{what}</summary>(.*?)</details>', text, re.S)
    return m[1].strip() if m else ''

def python_of(text): return '\n\n'.join(re.findall(r'```python\n(.*?)```', text, re.S))

def exercises(cells):
    "The exercises of the cells of a notebook, (type, source) each."
    out, k = [], 0
    while k<len(cells):
        kind, s = cells[k]
        found = re.search(r'^(?:def|class) (\w+)', s, re.M)
        if kind=='code' and '#| eval: false' in s and '...' in s and found:
            text = next(t for q,t in reversed(cells[:k]) if q=='markdown')
            title, stars, minutes = (re.findall(r'^\*\*\d+\. ([^*]*?)\.?\*\*(?: \((★+), (\d+) minutes\))?', text, re.M) or [('', '', '')])[-1]
            rest = cells[k+1:]
            end = next((i for i,(q,t) in enumerate(rest) if q=='code' and '#| eval: false' in t and '...' in t), len(rest))
            below = '\n\n'.join(t for q,t in rest[:end] if q=='markdown')
            name = found[1]
            called = any(q=='code' and re.search(rf'^check_{name}\({name}\)', t, re.M) for q,t in rest[:end])
            out.append(Exercise(name, title, stars, int(minutes or 0), s, called, folded(below, 'Hint'), python_of(folded(below, 'Solution'))))
        k += 1
    return out

# ---- answers that are not right ----
def spoil(x, how):
    "A result that is not the one asked for."
    import numpy as np, torch
    if isinstance(x, torch.Tensor):
        if x.dtype==torch.bool: return ~x
        y = how(x.detach().clone()) if x.numel() else x
        return y
    if isinstance(x, np.ndarray):
        if x.dtype.kind in 'fiub': return spoil(torch.from_numpy(np.ascontiguousarray(x)), how).numpy()
        return None
    if isinstance(x, (bool, np.bool_)): return not x
    if isinstance(x, numbers.Integral): return int(x)+1
    if isinstance(x, numbers.Real): return float(how(torch.tensor([float(x)], dtype=torch.float64)))
    if isinstance(x, str): return x+'?'
    return None

def is_leaf(x): return not isinstance(x, (list, tuple, dict)) or len(x)==0

def scaled(t): return t*1.02+.02*(t.abs().max()==0) if t.is_floating_point() else t+1
def entry(t):
    "One entry off: the largest one that is a number."
    t = t.contiguous()
    flat = t.view(-1)
    k = int(flat.abs().nan_to_num(0, 0, 0).argmax()) if t.is_floating_point() else t.numel()-1
    flat[k] = flat[k]*1.05+.05*(flat[k]==0) if t.is_floating_point() else flat[k]+1
    return t

def everywhere(x, how):
    "All numbers of a result changed."
    if is_leaf(x): return spoil(x, how)
    if isinstance(x, dict): return {k: everywhere(v, how) for k,v in x.items()}
    parts = [everywhere(v, how) for v in x]
    return type(x)(*parts) if hasattr(x, '_fields') else type(x)(parts)

def last(x, how):
    "Only the last part of a result changed."
    if is_leaf(x): return spoil(x, how)
    if isinstance(x, dict): return {**x, (k := list(x)[-1]): last(x[k], how)}
    parts = [*x[:-1], last(x[-1], how)]
    return type(x)(*parts) if hasattr(x, '_fields') else type(x)(parts)

def first(x, how):
    "Only the first part of a result changed."
    if is_leaf(x): return spoil(x, how)
    if isinstance(x, dict): return {**x, (k := next(iter(x))): first(x[k], how)}
    parts = [first(x[0], how), *x[1:]]
    return type(x)(*parts) if hasattr(x, '_fields') else type(x)(parts)

def other(x):
    "The same result by another route: a number as a tensor of no dimensions, and the other way round; arrays as copies."
    import numpy as np, torch
    if isinstance(x, torch.Tensor): return x.item() if x.ndim==0 and not x.requires_grad else x if x.requires_grad or not x.is_contiguous() else x.clone()
    if isinstance(x, np.ndarray): return x.copy()
    if isinstance(x, float): return torch.tensor(x, dtype=torch.float64)
    return x

def wrapped(f, then):
    @functools.wraps(f)
    def g(*args, **kwargs): return then(f(*args, **kwargs))
    return g

def answers(f, stub):
    "{what is wrong: an answer, what the message must hold}"
    def broken(*args, **kwargs): return undefined_name # noqa: F821
    def no_parameters(): return 0
    broken.__name__ = no_parameters.__name__ = getattr(f, '__name__', 'f')
    return {'stub': (stub, 'stub'), 'scaled': (wrapped(f, lambda x: everywhere(x, scaled)), ''),
        'an entry off': (wrapped(f, lambda x: everywhere(x, entry)), ''),
        'the last part off': (wrapped(f, lambda x: last(x, entry)), ''), 'the first part off': (wrapped(f, lambda x: first(x, entry)), ''),
        'returns None': (wrapped(f, lambda x: None), ''), 'returns a string': (wrapped(f, lambda x: 'nonsense'), 'nonsense'),
        'returns a list of one': (wrapped(f, lambda x: [x]), ''),
        'raises': (broken, 'undefined_name'), 'wrong arity': (no_parameters, 'argument'),
        'a string': ('nonsense', 'nonsense'), 'None': (None, 'None'), 'a number': (3.5, '3.5')}

def verdict(check, answer):
    "'' if the check accepts an answer, what it says otherwise; other errors pass."
    try: check(answer)
    except AssertionError as e: return ' '.join(str(e).split()) or 'an AssertionError without words'
    return ''

def feed(check, f, stub):
    "{answer: (what the check said, is that as it must be?)}"
    import time
    out = {}
    for what,(answer,word) in answers(f, stub).items():
        t = time.perf_counter()
        try: said, ok = verdict(check, answer), None
        except BaseException as e: said, ok = f'{type(e).__name__}: {e}', False
        if ok is None: ok = word in said and len(said)>len(f.__name__)+15
        out[what] = said, ok, time.perf_counter()-t
    t = time.perf_counter()
    try: said = verdict(check, wrapped(f, other))
    except BaseException as e: said = f'{type(e).__name__}: {e}'
    out['another route'] = said, said=='', time.perf_counter()-t
    return out
