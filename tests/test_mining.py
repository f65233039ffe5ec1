"Mined negatives are those of the whole matrix, whatever the strips; margins, labels and skips keep what they say; refusals."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.training.mining import _top, mine_negatives

def plain(a, b, top, margin=None, relative=None, skip=0, labels=None):
    "The definition, a query at a time: similarities of the kept, the hardest first."
    out = []
    for i in range(len(a)):
        s = [float(a[i]@b[j]) for j in range(len(b))]
        own, kept = s[i], []
        for j,x in enumerate(s):
            if j==i or margin is not None and x>own-margin or relative is not None and x>own-relative*abs(own): continue
            if labels is None or labels[j]!=labels[i]: kept.append(x)
        out.append(sorted(kept, reverse=True)[skip:skip+top])
    return out

numbers = st.sampled_from([None, 0., 1., 3.])

@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(0, 5), st.integers(0, 999), numbers, st.sampled_from([None, 0., .5, 2.]), st.integers(0, 2), st.booleans())
def test_mined_are_the_definition(n, more, seed, margin, relative, skip, labelled):
    "Whole numbers, so that there are ties and no rounding."
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(-3, 4, (n, 3), generator=g).double(), torch.randint(-3, 4, (n+more, 3), generator=g).double()
    top = max(1, min(3, n+more-1-skip))
    if top+skip>=n+more: return
    y = torch.randint(0, 3, (n+more,), generator=g) if labelled else None
    got = mine_negatives(a, b, top, margin=margin, relative=relative, skip=skip, labels=y)
    want = plain(a, b, top, margin, relative, skip, None if y is None else y.tolist())
    assert [[x for x in r if x>-math.inf] for r in got.score.tolist()]==want
    assert [int((r>=0).sum()) for r in got.index]==[len(w) for w in want]
    for i,r in enumerate(got.index.tolist()):
        found = [j for j in r if j>=0]
        assert len(set(found))==len(found) and i not in found and [float(a[i]@b[j]) for j in found]==want[i]

@settings(deadline=None, max_examples=25)
@given(st.integers(1, 900), st.integers(1, 12), st.integers(0, 999))
def test_top_is_topk(n, k, seed):
    "Few values, so many ties; rows with nothing but -inf beside."
    s = torch.randint(0, 30, (4, n), generator=torch.Generator().manual_seed(seed)).float()
    s[3] = -math.inf
    value, at = _top(s, min(k, n))
    assert torch.equal(value, s.topk(min(k, n), 1).values) and torch.equal(s.gather(1, at), value)
    assert all(len(set(r))==len(r) for r in at.tolist())

def test_strips_do_not_matter():
    "More answers than fit one strip of many rows; half precision is compared in single."
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(700, 4, generator=g), torch.randn(15_000, 4, generator=g)
    got = mine_negatives(a, b, 5)
    for i in (0, 558, 559, 699):
        s = a[i]@b.T
        s[i] = -math.inf
        torch.testing.assert_close(got.score[i], s.topk(5).values)
    half = mine_negatives(a.half(), b[:2000].half(), 3)
    assert torch.equal(half.index, mine_negatives(a.half().float(), b[:2000].half().float(), 3).index)

def test_no_gradient_and_no_change():
    a = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = a.detach().clone()
    got = mine_negatives(a, a, 2, margin=.1)
    assert not got.score.requires_grad and torch.equal(a.detach(), before)

def test_flat_and_draw_take_what_is_there():
    a = torch.tensor([[1., 0.], [0., 1.], [-1., 0.]])
    got = mine_negatives(a, a, 2, margin=1.)
    index, owner = got.flat()
    assert sorted(zip(owner.tolist(), index.tolist()))==[(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    none = mine_negatives(a, a, 2, margin=5.)
    assert (none.draw(torch.arange(3))==-1).all() and len(none.flat()[0])==0
    some = mine_negatives(a, a, 2, margin=1.5)
    drawn = {int(some.draw(torch.tensor([0]), torch.Generator().manual_seed(k))) for k in range(20)}
    assert drawn=={2}

@pytest.mark.parametrize('change,said', [(dict(b=torch.ones(4, 3)), 'b: expected'), (dict(b=torch.ones(3, 2)), 'b: expected 4 rows'), (dict(top=0), 'top: expected'),
    (dict(top=4), 'top: expected fewer than the 4 rows'), (dict(skip=-1), 'skip: expected'), (dict(margin=-1.), 'margin: expected'), (dict(relative=float('nan')), 'relative: expected'),
    (dict(labels=torch.ones(3, dtype=torch.long)), 'labels: expected'), (dict(a=torch.full((4, 2), float('nan'))), 'a: expected finite')])
def test_refused(change, said):
    "One line that names the argument."
    given = dict(a=torch.randn(4, 2), b=torch.randn(4, 2), top=2)|change
    with pytest.raises((ValueError, TypeError), match=f'^{said}') as e: mine_negatives(**given)
    assert '\n' not in str(e.value)
