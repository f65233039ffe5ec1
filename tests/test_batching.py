"The mean over batches: nothing gets below its bound when label counts are exchangeable, and Neural Collapse is there."
import itertools, math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hardcl_nb.theory.batching import batch_floor, batching_bound
from hardcl_nb.theory.bounds import scl_bound
from hardcl_nb.theory.etf import simplex_etf
from hardcl_nb.theory.hucl import hucl_bound, hucl_counts_bound, hucl_critical_beta

fast = settings(max_examples=40, deadline=None)
usable = st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(lambda c: max(c)>1 and sum(m>0 for m in c)>1)


def batch_loss(z, y, supervised=True, beta=0., alpha=1., q=1., tau=1.):
    "Exact loss of a batch, pair by pair."
    n, s = len(y), (z@z.T/tau).tolist()
    rows = []
    for i in range(n):
        others = [s[i][j] for j in range(n) if (y[j]!=y[i] if supervised else j!=i)]
        positives = [s[i][p] for p in range(n) if p!=i and y[p]==y[i]]
        if not positives: continue
        hard = sum(math.exp((1+beta)*t) for t in others)/sum(math.exp(beta*t) for t in others) if others else 0.
        rows.append(sum(math.log(alpha+q*hard*math.exp(-p)) for p in positives)/len(positives))
    return sum(rows)/len(rows)


def arranged(counts):
    "Batches with these counts, given to the classes in all orders."
    return [torch.arange(len(counts)).repeat_interleave(torch.tensor(p)) for p in sorted(set(itertools.permutations(counts)))]


@settings(max_examples=30, deadline=None)
@given(usable, st.integers(1, 4), st.integers(0, 10**6), st.booleans(), st.floats(0, 10))
def test_no_means_get_below_the_mean_of_all_orders(counts, d, seed, supervised, beta):
    gen = torch.Generator().manual_seed(seed)
    mu = torch.randn(len(counts), d, generator=gen, dtype=torch.float64)
    mu = mu/mu.norm(dim=1, keepdim=True).clamp(min=1)
    kw = dict(supervised=supervised, beta=beta, alpha=.5, q=2., tau=.7)
    batches = arranged(counts)
    mean = sum(batch_loss(mu[y], y.tolist(), **kw) for y in batches)/len(batches)
    assert mean >= batching_bound(torch.stack(batches), len(counts), **kw)-1e-12


@fast
@given(usable, st.booleans(), st.floats(0, 1))
def test_neural_collapse_costs_the_floor_on_every_batch(counts, supervised, share):
    least = min(hucl_critical_beta(len(counts), per_class=2), .05) # so small that no class shrinks
    kw = dict(supervised=supervised, beta=5*share if supervised else share*least)
    mu = simplex_etf(len(counts), dtype=torch.float64)
    for y in arranged(counts):
        floor = batch_floor(y.bincount(minlength=len(counts)).tolist(), **kw)
        assert math.isclose(batch_loss(mu[y], y.tolist(), **kw), floor, rel_tol=0, abs_tol=1e-12)


@fast
@given(usable, st.floats(0, 20), st.sampled_from([.3, 1., 2.]))
def test_a_batch_alone_may_have_less(counts, beta, tau):
    "The bound of the batch's own counts, of the classes that it shows, is not above what it adds to the mean."
    shown = [m for m in counts if m]
    assert hucl_counts_bound(shown, beta, tau=tau)<=batch_floor(counts, supervised=False, beta=beta, tau=tau)+1e-12


@fast
@given(usable, st.floats(0, 20))
def test_supervised_counts_do_not_matter(counts, beta):
    assert batch_floor(counts, beta=beta)==batch_floor([2]*len(counts))
    assert math.isclose(batch_floor(counts), scl_bound(len(counts)), rel_tol=1e-14)


@fast
@given(st.integers(2, 20), st.integers(2, 20), st.floats(0, 20))
def test_equal_counts_are_the_balanced_batch(C, m, beta):
    assert math.isclose(batch_floor([m]*C, supervised=False, beta=beta), hucl_bound(C, beta, per_class=m), rel_tol=1e-12)


def test_a_frequent_class_breaks_it():
    "Without exchangeability the statement is false: two opposite classes that are always drawn, and one that hardly is."
    y, mu = [0, 0, 0, 1, 1, 1], torch.tensor([[1.], [-1.], [0.]], dtype=torch.float64)
    assert batch_loss(mu[torch.tensor(y)], y)<batch_floor([3, 3, 0])-.05


@pytest.mark.parametrize('f, args, kw, err, message', [
    (batch_floor, ([3, 0],), {}, ValueError, 'counts: expected a class with two rows or more, and a second class, got [3, 0]'),
    (batch_floor, ([1, 1],), dict(supervised=False), ValueError, 'counts: expected a class with two rows or more, got [1, 1]'),
    (batch_floor, ([3],), {}, ValueError, 'counts: expected a whole number >= 2, got 1'),
    (batch_floor, ([3, -1],), {}, ValueError, 'counts: expected a whole number >= 0, got -1'),
    (batch_floor, ([3, 2],), dict(beta=-1), ValueError, 'beta: expected a finite number >= 0, got -1'),
    (batch_floor, ([3, 2],), dict(alpha=0), ValueError, 'alpha: expected a finite number > 0, got 0'),
    (batch_floor, ([3, 2],), dict(tau=0), ValueError, 'tau: expected a finite number > 0, got 0'),
    (batching_bound, (torch.tensor([0, 0, 1]), 2), {}, TypeError, 'y: expected labels of batches, (B, n)'),
    (batching_bound, ([[0, 0, 1]], 2), {}, TypeError, 'y: expected labels of batches, (B, n)'),
    (batching_bound, (torch.tensor([[0, 0, 2]]), 2), {}, ValueError, 'y: expected labels from 0 to 1, got labels from 0 to 2'),
])
def test_bad_input(f, args, kw, err, message):
    with pytest.raises(err) as e: f(*args, **kw)
    assert message in str(e.value)
