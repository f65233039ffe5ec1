"Code search in little: what is trained, measured and kept."
import math, sys
from dataclasses import replace
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
import hardcl_nb.runs.search as code_search
from hardcl_nb.runs.search import SearchConfig, frozen_embeddings, into_cone, kept_results, search
from hardcl_nb.training.docstrings import TextPairs

n = 120
small = dict(batch_size=16, steps=30, dim=16)
words = [f'alpha{chr(97+i//26)}{chr(97+i%26)}' for i in range(n)]
pairs = TextPairs('made', [f'return the {w}' for w in words], [f'def get(x): {w}' for w in words], [str(i) for i in range(n)], ['g']*n, [i%4==0 for i in range(n)], [], n, 0)

@settings(max_examples=20)
@given(st.integers(2, 40), st.floats(0, 5), st.integers(0, 50))
def test_a_cone_has_the_cosine_of_its_formula(d, c, seed):
    "Mean cosine c²/(1+c²) of directions drawn uniformly; lengths stay 1, and c = 0 changes nothing."
    x = torch.nn.functional.normalize(torch.randn(2000, d, generator=torch.Generator().manual_seed(seed)).double())
    x = torch.cat([x, -x]) # of mean 0
    z = into_cone(x, c)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4000).double())
    torch.testing.assert_close(into_cone(x, 0.), x)
    if d>=20 and c<=1: assert abs(float((z.sum(0)@z.sum(0)-4000)/(4000*3999))-c*c/(1+c*c))<.02

def test_words_of_their_own_are_found_again():
    "A query and its code share one word, which an untrained encoder does not know of; the same seed gives the same numbers."
    got, again = (search(SearchConfig(**small), pairs) for _ in range(2))
    assert {k: v for k,v in got['final'].items() if k!='seconds'}=={k: v for k,v in again['final'].items() if k!='seconds'} and got['curve']==again['curve']
    assert (got['trained_on'], got['measured_on'], got['pairs_digest'])==(90, 30, pairs.digest)
    f = got['final']
    assert 0<=f['recall@1_low']<=f['recall@1']<=f['recall@1_high']<=1 and f['recall@1']<=f['mrr']<=1 and -1<=f['own_cosine']<=1 and 1<=f['effective_rank']<=16
    assert got['curve'][-1][1]<got['curve'][0][1] and got['curve'][-1][0]==29 and len(got['spectrum'])==16
    assert search(SearchConfig(**small, negatives='mined', margin=.5), pairs)['curve'][:10]==got['curve'][:10] # until the first are mined
    few = search(SearchConfig(**small, pairs=40, tests=10), pairs)
    assert (few['trained_on'], few['measured_on'])==(40, 10)

def test_heads_on_embeddings_that_say_it_all(tmp_path, monkeypatch):
    "Where sentence and code have one embedding each alike, heads that are trained keep it findable; embeddings are made once."
    calls = []
    def embed(texts):
        calls.append(len(texts))
        at = [words.index(next(w for w in words if w in t)) for t in texts]
        return np.random.default_rng(0).normal(size=(n, 384))[at]
    monkeypatch.setattr(code_search, '_embed', embed)
    cfg = SearchConfig(encoder='heads', data=str(tmp_path), lr=.001, **small)
    got = [search(replace(cfg, cone=c), pairs)['final'] for c in (0., 1.5)]
    assert calls==[n, n] and got[0]['recall@1']>.5 and got[1]['cosine_first']>got[0]['cosine_first']
    file, = tmp_path.glob('made-*-90-30.npz')
    with pytest.raises(ValueError, match='^data: expected frozen embeddings of these pairs, got .* made of other texts'): frozen_embeddings((['a'], ['b']), file)

def test_the_encoder_of_sentences_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'all_minilm_l6_v2', None)
    with pytest.raises(ImportError, match=r"^encoder: expected pip install 'hardcl_nb\[search\]', got no all_minilm_l6_v2"): frozen_embeddings((['a'], ['b']), tmp_path/'e.npz')

@pytest.mark.parametrize('kw, said', [(dict(batch_size=91), '^batch_size: expected at most 90'), (dict(pairs=91), '^pairs: expected at most 90'), (dict(tests=31), '^tests: expected at most 30')])
def test_more_than_there_are(kw, said):
    with pytest.raises(ValueError, match=said): search(SearchConfig(**{**small, **kw}), pairs)

@pytest.mark.parametrize('kw', [dict(encoder='bert'), dict(negatives='all'), dict(cone=1.), dict(tau=0.), dict(beta=-1.), dict(dim=1), dict(lr=0.)])
def test_settings_are_looked_at_when_they_are_made(kw):
    with pytest.raises(ValueError, match=f'^{next(iter(kw))}: expected'): SearchConfig(**kw)

def test_results_are_kept_with_six_digits(tmp_path):
    "What is there is read, not made again; nan becomes None, in lists too."
    class Toy:
        seed, made = 3, 0
        def result(self):
            self.made += 1
            return dict(final=dict(third=1/3, none=math.nan, name='x', count=7), curve=[[0, 2/3], [1, math.inf]])
    toy = Toy()
    for progress in (False, True): got = kept_results({'toy': toy}, tmp_path/'a', ['seed'], progress)
    assert got==[dict(seed=3, final=dict(third=.333333, none=None, name='x', count=7), curve=[[0, .666667], [1, None]])] and toy.made==1
    assert SearchConfig(tau=.1, beta=3.).kappa==pytest.approx(40)
