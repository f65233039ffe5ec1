"Pairs of docstrings and code: what holds for any source, what is kept, what is refused; words and bags; retrieval on pairs."
import ast, gzip, json, subprocess, sys
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from hardcl_nb.measures.ranks import bootstrap_mean, pair_ranks, retrieval_scores
from hardcl_nb.runs.search import SearchConfig
from hardcl_nb.training.docstrings import docstring_pairs, first_sentence, held_out, source_pairs
from hardcl_nb.training.texts import Bags, Heads, Vocabulary, WordEncoder, make_vocabulary, split_words

words = st.lists(st.sampled_from('return the rows of one table in order'.split()), min_size=3, max_size=8).map(' '.join)

@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(words, st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_code_is_without_its_docstring_and_runs_as_before(functions):
    "Async or not, in a class or not: what is left parses, holds no docstring, and is the rest of the function."
    parts = []
    for k,(said,later,inside) in enumerate(functions):
        body = f'{"async " if later else ""}def f{k}(x):\n    """{said.capitalize()}."""\n    return x+{k}\n'
        parts.append(f'class C{k}:\n'+''.join(f'    {l}\n' for l in body.splitlines()) if inside else body)
    got = source_pairs('\n'.join(parts))
    assert [s for s,_ in got]==[said.capitalize()+'.' for said,_,_ in functions]
    for k,(_,code) in enumerate(got):
        f, = ast.parse(code).body
        assert ast.get_docstring(f) is None and f.name==f'f{k}' and ast.unparse(f.body[0])==f'return x + {k}'

@pytest.mark.parametrize('source', ['x = 1', '', 'def f():\n    pass', 'def f():\n    "Two words."\n    return 1', 'def f():\n    "Only a promise and nothing more."', '"A module that says something." '])
def test_nothing_to_find(source): assert source_pairs(source)==[]

@pytest.mark.parametrize('bad', [b'def f(:', b'\xff\xfe\x00x', b'x = "\x00"', b'# coding: nonsense\nx = 1', b'print "old"', b'('*300])
def test_what_does_not_parse_is_counted(bad, tmp_path):
    "One broken file of each kind beside a sound one; named, skipped, and no reason to stop."
    (tmp_path/'good.py').write_text('def f(x):\n    "Return what was given."\n    return x')
    (tmp_path/'bad.py').write_bytes(bad)
    got = docstring_pairs(tmp_path, cache=None, show=False)
    assert (got.skipped, got.sources, got.first)==(['bad.py'], 2, ['Return what was given.']) and '1 of 2 sources skipped' in repr(got)

def test_nothing_is_imported(tmp_path):
    (tmp_path/'loud.py').write_text('raise SystemExit(7)\ndef f(x):\n    "Return what was given."\n    return x')
    assert docstring_pairs(tmp_path, cache=None, show=False).second==['def f(x):\n    return x']

def test_declared_encoding(tmp_path):
    (tmp_path/'latin.py').write_bytes('# coding: latin-1\ndef f(x):\n    "Return the caf\u00e9 of rows."\n    return x'.encode('latin-1'))
    assert docstring_pairs(tmp_path, cache=None, show=False).first==['Return the caf\u00e9 of rows.']

def test_a_new_package_moves_nothing():
    "Which files are held out depends on their names alone, and a larger share only adds."
    names = [f'p{i}/m{j}.py' for i in range(40) for j in range(20)]
    small, large = ({n for n in names if held_out(n, s)} for s in (.1, .3))
    assert small<large and not any(held_out(n, 0.) for n in names) and all(held_out(n, 1.) for n in names)

def test_kept_file_is_whole_or_not_there(tmp_path, monkeypatch):
    "A write that breaks off leaves no file under the final name; what stands there otherwise is not trusted unless its digest fits."
    import hardcl_nb.training.docstrings as d
    src = tmp_path/'src'; src.mkdir()
    (src/'a.py').write_text('def f(x):\n    "Return what was given."\n    return x')
    with monkeypatch.context() as m:
        m.setattr(d.os, 'replace', lambda *a: (_ for _ in ()).throw(OSError('full')))
        with pytest.raises(OSError): docstring_pairs(src, cache=tmp_path/'kept', show=False)
    assert not list((tmp_path/'kept').glob('*.json.gz'))
    right = docstring_pairs(src, cache=tmp_path/'kept', show=False)
    kept, = (tmp_path/'kept').glob('*.json.gz')
    got = json.loads(gzip.decompress(kept.read_bytes()))
    kept.write_bytes(gzip.compress(json.dumps({**got, 'first': ['Something else entirely.']}).encode()))
    assert docstring_pairs(src, cache=tmp_path/'kept', show=False)==right

@pytest.mark.parametrize('share', [-.1, 1.5, 'half', float('nan')])
def test_shares_that_are_none(share, tmp_path):
    with pytest.raises((ValueError, TypeError), match='^share: expected'): docstring_pairs(tmp_path, share=share)

def test_labels_and_parts_fit():
    got = docstring_pairs(Path(json.__file__).parent, share=.5, cache=None, show=False)
    for test in (True, False): assert len(got.labels(test))==len(got.part(test)[0])==len(got.part(test)[1])
    assert len(got.part(True)[0])+len(got.part(False)[0])==len(got.first)==len(set(got.first))==len(set(got.second))

# ---- words ----
@given(st.text())
def test_words_are_lower_case_letters_or_digits(text):
    assert all(w.isascii() and (w.isdigit() or w.isalpha() and w.islower()) for w in split_words(text))
    assert ''.join(split_words(text))==''.join(c for c in text if c.isascii() and c.isalnum()).lower()

def test_hash_of_a_word_is_the_same_in_another_process():
    code = "from hardcl_nb.training.texts import Vocabulary; print(Vocabulary((), 1000).row('unheard'))"
    env = {'PYTHONHASHSEED': '7', 'PATH': '', 'PYTHONPATH': ':'.join(sys.path)}
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=env).stdout
    assert int(out)==Vocabulary((), 1000).row('unheard')

@settings(deadline=None, max_examples=15)
@given(st.lists(words, min_size=1, max_size=6), st.integers(0, 99))
def test_encoder_sees_neither_order_nor_number(texts, seed):
    "A text, its words the other way round, and itself twice are one bag; a part of the texts is a part of the embeddings."
    v = make_vocabulary(texts*2, shared=3)
    f = WordEncoder(v, 4, torch.Generator().manual_seed(seed))
    z = f(Bags(texts, v))
    for other in ([' '.join(reversed(t.split())) for t in texts], [f'{t} {t}' for t in texts]): assert torch.equal(f(Bags(other, v)), z)
    index = torch.arange(len(texts)).flip(0)
    torch.testing.assert_close(f(Bags(texts, v), index), z[index])

def test_text_without_words_is_refused():
    with pytest.raises(ValueError, match='^texts: expected a word of A to Z or 0 to 9 in each, got 2 without any, the first at 1'):
        Bags(['one', '', '\u4e00'], Vocabulary(('one',), 1))

def test_heads_refuse_another_kind():
    with pytest.raises(ValueError, match='^width: expected'): Heads(0)
    with pytest.raises(TypeError, match='^a: expected'): Heads(3, 2).one(torch.ones(2, 3, dtype=torch.long))

# ---- ranks ----
@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 999))
def test_ranks_are_the_definition(n, seed):
    "Small whole numbers, so that there are many ties."
    a, b = torch.randint(-1, 2, (2, n, 3), generator=torch.Generator().manual_seed(seed)).double()
    s = (a@b.T).tolist()
    there, back = pair_ranks(a, b)
    assert there.tolist()==[sum(s[i][j]>=s[i][i] for j in range(n)) for i in range(n)]
    assert back.tolist()==[sum(s[j][i]>=s[i][i] for j in range(n)) for i in range(n)]

def test_strips_do_not_matter():
    "More rows than fit one strip, 1,048."
    a, b = torch.randn(2, 2000, 5, generator=torch.Generator().manual_seed(0)).double()
    s = a@b.T
    assert torch.equal(pair_ranks(a, b)[0], (s>=s.diagonal()[:,None]).sum(1))

def test_bootstrap_covers():
    "The interval of a mean holds the true mean in about 95 of 100 samples; the deviation is 2.2."
    g = torch.Generator().manual_seed(0)
    hit = sum((r := bootstrap_mean(torch.rand(200, generator=g)**2, draws=300, seed=k)).low<=1/3<=r.high for k in range(100))
    assert 86<=hit<100

def test_scores_refuse():
    with pytest.raises(ValueError, match='^b: expected'): retrieval_scores(torch.ones(3, 2), torch.ones(3, 3))
    with pytest.raises(ValueError, match='^a: expected finite embeddings'): retrieval_scores(torch.full((3, 2), float('nan')), torch.ones(3, 2))
    with pytest.raises(ValueError, match='^top: expected'): retrieval_scores(torch.eye(3), torch.eye(3), top=(0,))

# ---- settings ----
@pytest.mark.parametrize('bad', [dict(tau=0.), dict(beta=-1.), dict(negatives='all'), dict(encoder='none'), dict(cone=1.), dict(batch_size=1), dict(lr=0.), dict(steps=0), dict(margin=-.1)])
def test_search_refuses(bad):
    with pytest.raises((ValueError, TypeError), match=f'^{[*bad][0]}: expected'): SearchConfig(**bad)
