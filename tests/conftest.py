"""The random examples of the property tests: the same ones everywhere, unless the profile nightly asks for fresh ones
(`--hypothesis-profile=nightly`, or HYPOTHESIS_PROFILE=nightly).

Hypothesis loads a profile of its own where CI is set. Ours is loaded instead, so that a run at home and one in CI
draw alike; another version of Hypothesis may draw others."""
import functools, inspect, os
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

# losses, bounds and metrics: at night at least so many examples of each property
deep, deepest = ('contrastive', 'tiled', 'cross', 'general', 'hardening', 'distributed', 'relatives', 'estimators', 'psi', 'bounds', 'rates',
    'dimensional', 'domination', 'collapse', 'spectrum', 'ranks', 'meter'), 2000

common = dict(deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile('default', derandomize=True, max_examples=100, **common)
settings.register_profile('nightly', derandomize=False, max_examples=500, **common)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE') or 'default') # --hypothesis-profile is read later and wins

def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes long; left out by `make test`, run by `make slow`')
    config.addinivalue_line('markers', 'nightly: takes longer still; run by `make nightly` alone')

def pytest_collection_modifyitems(items):
    if settings().derandomize:
        # Hypothesis draws, now and then, a number it read in a local module loaded so far; which these are changes
        # with the tests asked for and with the way of installing
        providers.is_local_module_file = lambda path: False
    # a test's own number of examples stands for what one costs, so it grows as the profile's does
    usual = settings().max_examples
    times = usual/settings.get_profile('default').max_examples
    for f,name in {(getattr(i, 'obj', None), i.path.stem.removeprefix('test_')) for i in items}:
        own = getattr(f, '_hypothesis_internal_use_settings', None)
        if not own: continue
        n = own.max_examples if own.max_examples==usual else round(times*own.max_examples)
        if times>1 and name in deep: n = max(n, deepest)
        f._hypothesis_internal_use_settings = settings(own, max_examples=n)

@functools.cache
def compiles(f): return 'torch.compile' in inspect.getsource(f)

@pytest.fixture(autouse=True)
def fresh_compiler(request):
    "What a test compiles does not count towards another's limit of recompilations, in whatever order they come."
    yield
    f = getattr(request.node, 'function', None)
    if f is not None and compiles(f):
        import torch
        torch._dynamo.reset()
