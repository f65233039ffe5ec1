"The fused kernels: under Triton's interpreter in processes of their own, and through its compiler for absent GPUs."
import os, re, subprocess, sys, textwrap
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from hardcl_nb.losses import kernel
from hardcl_nb.losses.contrastive import contrastive_loss, pick_engine
from hardcl_nb.losses.exact import LossOptions
from hardcl_nb.losses.kernel import kernel_loss, kernel_ready

root = Path(__file__).parent.parent
needs_triton = pytest.mark.skipif(find_spec('triton') is None, reason='Triton is not installed')

def interpreter_runs():
    "Not with NumPy 2.5 before Triton took numbers out of arrays by `squeeze`: seen with 3.6, no longer with 3.8."
    if find_spec('triton') is None or tuple(map(int, np.__version__.split('.')[:2]))<(2, 5): return True
    return 'int(self.handle.data.squeeze())' in Path(find_spec('triton').origin).with_name('runtime').joinpath('interpreter.py').read_text()

runs = interpreter_runs()

head = '''
import itertools, json, math, warnings
import torch, torch.nn.functional as F
from torch.testing import assert_close
from hardcl_nb.losses import kernel
from hardcl_nb.losses.kernel import kernel_loss, kernel_ready
from hardcl_nb.losses.contrastive import contrastive_loss
def batch(n, d, classes=4, seed=0, shift=0.):
    "Unequal classes, two labels that occur once, a negative label, in random order."
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64)+shift, dim=1)
    y = torch.cat([torch.tensor([99, -5]), torch.full((n//3,), 7), torch.randint(classes, (n-2-n//3,), generator=g)])
    return z, y[torch.randperm(n, generator=g)]
def both(f, z, y, up=None, **kw):
    z = z.clone().requires_grad_(); l = f(z, y, **kw)
    return l.detach().double(), torch.autograd.grad(l.nansum() if up is None else (l*up).nansum(), z)[0].double()
def errors(z, y, precision='auto', up=None, plain=None, **kw):
    "Relative errors of loss and gradient against the plain form in float64."
    a, da = both(kernel_loss, z, y, up, precision=precision, **kw)
    kw = kw if plain else dict(kw, engine='plain')
    b, db = both(plain or contrastive_loss, z.double(), y, up, **kw)
    assert a.isnan().equal(b.isnan())
    return float(((a-b).abs()/b.abs().clamp(min=1e-30)).nan_to_num().max()), float((da-db).norm()/db.norm())
'''

def interpreted(code):
    "Run `code` under the interpreter; what it prints."
    if not runs: pytest.skip("this Triton's interpreter fails with this NumPy")
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    call = [sys.executable, '-W', 'ignore', '-c', head+textwrap.dedent(code)]
    o = subprocess.run(call, capture_output=True, text=True, cwd=root, env=env)
    assert o.returncode==0, o.stdout[-2000:]+o.stderr[-4000:]
    return o.stdout

@needs_triton
@pytest.mark.parametrize('n, d, betas, rest', [
    pytest.param(37, 5, (0., 1., 5., 30.), ((1., 1., 1.), (0., 'sum', .5), (.3, 2.5, .5), (1., 'sum', 1.)), marks=pytest.mark.slow),
    pytest.param(70, 99, (0., 5.), ((1., 1., .5),), marks=pytest.mark.slow), (53, 130, (30.,), ((.3, 'sum', 1.),))])
def test_every_option_equals_plain_form(n, d, betas, rest):
    "Float32 against float64: loss to 1e-6, gradient to 2e-7 (3+β)/τ; measured over all: 1.5e-7, 6.4e-8 (3+β)/τ."
    interpreted(f'''
        z, y = batch({n}, {d}); z = z.float()
        for beta,sup,det,(alpha,q,tau) in itertools.product({betas}, (True, False), (True, False), {rest}):
            e = errors(z, y, beta=beta, supervised=sup, detach=det, alpha=alpha, q=q, tau=tau)
            assert e[0]<1e-6 and e[1]<2e-7*(3+beta)/tau, (beta, sup, det, alpha, q, tau, e)''')

@needs_triton
@pytest.mark.slow
def test_rows_and_weights():
    interpreted('''
        z, y = batch(45, 20); z = z.float(); g = torch.Generator().manual_seed(1)
        w, up = torch.rand(45, generator=g), torch.randn(45, generator=g)
        def weighted(z, y, weight, reduction, **kw):
            rows = contrastive_loss(z, y, engine='plain', reduction='none', **kw)
            return rows*weight if reduction=='none' else (rows*weight).nansum()/weight[~rows.isnan()].sum()
        for beta,det,sup in itertools.product((0., 5.), (True, False), (True, False)):
            kw = dict(beta=beta, detach=det, supervised=sup, tau=.5)
            for e in (errors(z, y, up=up, reduction='none', **kw),
                      errors(z, y, up=up, weight=w, reduction='none', plain=weighted, **kw),
                      errors(z, y, weight=w, reduction='mean', plain=weighted, **kw)): assert max(e)<4e-6, (kw, e)''')

@needs_triton
@pytest.mark.parametrize('dtype, precision, loss, grad', [('bfloat16', 'auto', 1e-6, 6e-3),
    *(pytest.param(*v, marks=pytest.mark.slow)
        for v in (('float16', 'auto', 1e-6, 5e-4), ('float32', 'bf16', 4e-4, 1e-2), ('bfloat16', 'ieee', 1e-6, 3e-3)))])
def test_half_precision(dtype, precision, loss, grad):
    "Also in a narrow cone; a gradient for half-precision embeddings is rounded to their type."
    interpreted(f'''
        for shift,beta,(det,sup) in itertools.product((0., 2.), (0., 30.), ((True, True), (False, False))):
            z, y = batch(53, 40, shift=shift)
            e = errors(z.to(torch.{dtype}), y, '{precision}', beta=beta, detach=det, supervised=sup, tau=.5)
            assert e[0]<{loss} and e[1]<{grad}, (shift, beta, det, sup, e)''')

@needs_triton
@pytest.mark.slow
def test_far_values_and_small_losses():
    "Large norms do not overflow; a loss of 1e-9 keeps its digits."
    interpreted('''
        z, y = batch(40, 6); y = y%3
        for k,beta in [(30., 300.), (100., 5.)]:
            for det in (True, False):
                rows, dz = both(kernel_loss, (k*z).float(), y, beta=beta, detach=det)
                assert rows.isfinite() and dz.isfinite().all()
        mu = 4.8*torch.eye(3, dtype=torch.float64)[torch.arange(30)%3]
        e = errors((mu+.01*z[:30,:3]).float(), torch.arange(30)%3)
        a, _ = both(kernel_loss, (mu+.01*z[:30,:3]).float(), torch.arange(30)%3)
        assert 1e-12<a<1e-8 and max(e)<1e-4, (a, e)''')

@needs_triton
@pytest.mark.slow
def test_same_bits_and_order():
    "Twice the same; a permuted batch gives permuted rows and gradients."
    interpreted('''
        z, y = batch(50, 12); z = z.float(); p = torch.randperm(50, generator=torch.Generator().manual_seed(3))
        runs = [both(kernel_loss, u, v, beta=5., reduction='none') for u,v in ((z, y), (z, y), (z[p], y[p]))]
        (a,da),(b,db),(c,dc) = runs
        assert torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(da, db)
        assert_close(c, a[p], rtol=1e-6, atol=0, equal_nan=True); assert_close(dc, da[p], rtol=1e-4, atol=1e-7)''')

@needs_triton
@pytest.mark.slow
def test_compiles_as_one_graph_and_refuses_a_second_derivative():
    interpreted('''
        z, y = batch(30, 5); z = z.float()
        for red in ('mean', 'none'):
            f = lambda z, y: kernel_loss(z, y, beta=2., validate=False, reduction=red)
            step = torch.compile(f, fullgraph=True, backend='aot_eager')
            for u,v in zip(both(step, z, y), both(f, z, y)): assert_close(u, v, rtol=0, atol=0, equal_nan=True)
            x = z.clone().requires_grad_()
            try: torch.autograd.grad(f(x, y).nansum(), x, create_graph=True)
            except RuntimeError as e: assert "'plain' where the gradient" in str(e)
            else: assert False
        options = (2., True, True, 1., 0., 1., 'auto')
        torch.library.opcheck(torch.ops.hardcl_nb.kernel_mean.default, (z.requires_grad_(), y, None, *options, True))
        torch.library.opcheck(torch.ops.hardcl_nb.kernel_rows.default, (z, torch.arange(30)%4, *options))''')

@needs_triton
def test_bad_input_is_named():
    interpreted('''
        z, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
        assert kernel_ready(z)=='' and 'float64' in kernel_ready(z.double())
        for kw,text in [(dict(z=z.double()), 'z: expected embeddings that the kernel can run on, got float64'),
                (dict(beta=-1.), 'beta: expected'), (dict(precision='fp8'), 'precision: expected one of'),
                (dict(weight=torch.ones(3)), 'weight: expected 4 weights'), (dict(y=y[:3]), 'y: expected 4 labels'),
                (dict(weight=-torch.ones(4)), 'weight: expected finite weights >= 0'),
                (dict(z=z/0), 'with NaN or inf'), (dict(y=torch.arange(4)), 'a label that occurs twice'),
                (dict(y=0*y), 'at least two labels'), (dict(reduction='sum'), 'reduction: expected'),
                (dict(validate=2), 'validate: expected')]:
            try: kernel_loss(**{**dict(z=z, y=y), **kw})
            except (ValueError, RuntimeError) as e: assert text in str(e), (text, str(e))
            else: assert False, text''')

def test_without_a_gpu_it_says_so():
    assert kernel_ready(torch.eye(3))
    for f in (kernel_loss, partial(contrastive_loss, engine='kernel')):
        with pytest.raises(RuntimeError, match='z: expected embeddings that the kernel can run on'):
            f(torch.eye(4), torch.tensor([0,0,1,1]))

def test_module_imports_without_triton():
    code = """import sys; sys.modules['triton'] = None
import torch; from hardcl_nb.losses.kernel import kernel_ready; print(kernel_ready(torch.eye(3)))"""
    o = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=root)
    assert o.stdout.strip()=='Triton is not installed'

@pytest.mark.parametrize('reduction', ['mean', 'none'])
@pytest.mark.parametrize('q', [1., 'sum'])
def test_failed_launch_falls_back_to_the_tiled_engine(reduction, q, monkeypatch):
    "One warning, the same numbers, and the kernel is not tried again."
    def launch(*args): raise RuntimeError('PTX is too new for this driver\nsecond line')
    patches = dict(_launch=launch, kernel_ready=lambda z: '', _failed={}, _interpreted=False)
    for k,v in patches.items(): monkeypatch.setattr(kernel, k, v)
    z = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y, grads = torch.cat([torch.tensor([9]), torch.arange(29)%3]), []
    said = 'kernel: RuntimeError: PTX is too new for this driver; the tiled engine'
    with pytest.warns(RuntimeWarning, match=said) as seen:
        for f in (kernel_loss, kernel_loss, partial(contrastive_loss, engine='plain')):
            x = z.clone().requires_grad_()
            l = f(x, y, beta=3., q=q, reduction=reduction)
            grads.append((l.detach(), torch.autograd.grad(l.nansum(), x)[0]))
    assert len([w for w in seen if w.category is RuntimeWarning])==1
    for k in (0, 1): torch.testing.assert_close(grads[k], grads[2], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert kernel._failed=={(z.device, z.dtype): 'RuntimeError: PTX is too new for this driver'}

def compiled(name, dtype, d, precision, sm, supervised, detach, hard=True, alpha=True, total=False):
    "Compile one kernel as `_launch` would; shared memory, spilled bytes."
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    work, half, rows, cols, _ = kernel._plan(dtype, precision, d)
    opts = dict(cols if name=='_gradient' else rows, SUPERVISED=supervised, HARD=hard, ALPHA=alpha,
        ATTACHED=hard and not detach, CENTRED=not half, SUM=total)
    run = dict(num_warps=opts.pop('num_warps'), num_stages=opts.pop('num_stages'))
    fn = getattr(kernel, name)
    kinds = {**dict.fromkeys(('n', 'N', 'd'), 'i32'), **dict.fromkeys(('beta', 'scale', 'alpha', 'log_q'), 'fp32'),
        **dict.fromkeys(('lo', 'hi'), '*i32'), 'order': '*i64',
        'z': {torch.float32:'*fp32', torch.bfloat16:'*bf16', torch.float16:'*fp16'}[work]}
    sig = {a: 'constexpr' if a in opts else kinds.get(a, '*fp32') for a in fn.arg_names}
    where = {a: (k,) for k,a in enumerate(fn.arg_names)}
    attrs = {where[a]: [['tt.divisibility', 16]] for a,t in sig.items() if t[0]=='*' or a=='N'}
    const = {where[a]: v for a,v in opts.items() if a in where}
    source = ASTSource(fn=fn, signature=sig, constexprs=const, attrs=attrs)
    k = triton.compile(source, target=GPUTarget('cuda', sm, 32), options=run)
    assert k.asm['cubin'][:4]==b'\x7fELF'
    return k.metadata.shared, k.asm['ptx']

@needs_triton
@pytest.mark.parametrize('sm', [pytest.param(80, marks=pytest.mark.slow), 90])
@pytest.mark.parametrize('dtype, precision', [(torch.float32, 'ieee'), (torch.float32, 'tf32'),
    (torch.bfloat16, 'auto'), (torch.float16, 'auto')], ids=str)
def test_compiles_for_gpus(dtype, precision, sm, tmp_path):
    "Every kernel becomes machine code; shared memory fits the family's smallest chip; hardly a register is spilled."
    try: from triton.backends.nvidia.compiler import get_ptxas; ptxas = get_ptxas(sm)
    except Exception as e: pytest.skip(f"Triton's compiler is missing: {e}")
    ptxas = getattr(ptxas, 'path', ptxas[0] if isinstance(ptxas, tuple) else ptxas)
    newer = tuple(map(int, version('triton').split('.')[:2]))>=(3, 8) # 3.6 spills up to 112 bytes in _positives at d = 300
    for d,(sup,det) in [(128, (True, False)), (300, (False, False)) if sm==80 else (5, (False, True))]:
        for name in ('_stats', '_positives', '_gradient'):
            shared, ptx = compiled(name, dtype, d, precision, sm, sup, det, hard=d!=5, alpha=d!=300, total=d==300)
            assert shared<=(99 if sm==80 else 227)*1024, (name, d, shared)
            f = tmp_path/'k.ptx'; f.write_text(ptx)
            chip = 'sm_90a' if sm==90 else f'sm_{sm}'
            call = [ptxas, '-v', '--gpu-name', chip, str(f), '-o', str(tmp_path/'k.o')]
            o = subprocess.run(call, capture_output=True, text=True).stderr
            spill = int(re.search(r'(\d+) bytes spill stores', o)[1])
            assert spill<=(16 if newer else 112), (name, d, spill)

def test_benchmark_without_a_gpu_says_so():
    if torch.cuda.is_available(): pytest.skip('there is a GPU')
    o = subprocess.run([sys.executable, str(root/'benchmarks/kernel.py')], capture_output=True, text=True)
    assert o.returncode==0 and len(o.stdout.strip().splitlines())==1 and 'CUDA' in o.stdout

@needs_triton
@pytest.mark.slow
def test_long_embeddings_other_default_types_and_forward_mode():
    interpreted('''
        z, y = batch(40, 16); z = z.float()
        for scale in (5., 100., 1e4): # exponents of ten million: few digits are left, but numbers
            x = (scale*z).requires_grad_(); l = kernel_loss(x, y, beta=5., tau=.1); d, = torch.autograd.grad(l, x)
            ref = both(contrastive_loss, x.double(), y, beta=5., tau=.1, engine='plain')
            size = d.norm(), ref[1].norm()
            assert abs(l.double()/ref[0]-1)<1e-4 and d.isfinite().all() and size[0]<2*size[1]+1, (scale, *size)
        a = both(kernel_loss, z, y, beta=5.)
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype); b = both(kernel_loss, z, y, beta=5.)
            torch.set_default_dtype(torch.float32)
            assert_close(a, b, rtol=0, atol=0)
        with torch.autograd.forward_ad.dual_level():
            try: kernel_loss(torch.autograd.forward_ad.make_dual(z, z), y); raise SystemExit('no error')
            except RuntimeError as e: assert "'plain' there" in str(e)''')

@pytest.mark.parametrize('n, ready, all_of', [(2048, '', 'plain'), (2049, '', None), (2049, 'no GPU', 'tiled')])
def test_auto_takes_the_kernel_where_float32_is_enough(monkeypatch, n, ready, all_of):
    "On a GPU beyond 2,048 samples; where the kernel is not ready, the tiled engine."
    monkeypatch.setattr(kernel, 'kernel_ready', lambda z: ready)
    class Big(SimpleNamespace):
        def __len__(self): return n
    def pick(dtype, **kw): return pick_engine(Big(dtype=dtype, device=torch.device('cuda')), LossOptions(**kw))
    for kw,engine in [(dict(beta=5.), 'kernel'), (dict(tau=.07), 'kernel'), (dict(beta=5., tau=.1), 'tiled'),
            (dict(beta=5., detach=False), 'tiled'), (dict(tau_plus=.1), 'tiled')]:
        assert pick(torch.float32, **kw)==(all_of or engine), kw
    assert pick(torch.bfloat16, beta=5., tau=.1)==(all_of or 'kernel')
    assert pick(torch.bfloat16, beta=5., tau_plus=.1)==(all_of or 'tiled')
