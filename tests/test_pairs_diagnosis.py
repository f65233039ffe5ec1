"Diagnosis of pairs: what may not change it, ties and chance, parts that look, what is refused, the command line from outside."
import json, os, subprocess, sys
import numpy as np, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from hardcl_nb import diagnose_pairs
from hardcl_nb.runs.counterparts import chance, pair_text
from hardcl_nb.runs.diagnose import hardcl_diagnose
from hardcl_nb.runs.matched import examine_pairs

def two_sides(seed, n=60, d=8, noise=.6, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    things = torch.randn(n, d, generator=g, dtype=dtype)
    return *(things+noise*torch.randn(n, d, generator=g, dtype=dtype) for _ in range(2)), g

def numbers(f): return [f.matched, f.unmatched, f.alignment, f.cone_a, f.cone_b, f.gap, *(getattr(s, k) for s in (f.there, f.back) for k in ('recall_1', 'recall_10', 'tied', 'hub_share'))]

seeds = st.integers(0, 10**6)

@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([1e-3, 1., 1e3]))
def test_scale_rotation_and_order_change_nothing(seed, scale):
    a, b, g = two_sides(seed)
    turn, order = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))[0], torch.randperm(60, generator=g)
    one, two = examine_pairs(a, b), examine_pairs(scale*(a@turn)[order], (b@turn)[order]*torch.rand(60, 1, generator=g).add(.1))
    assert numbers(two)==pytest.approx(numbers(one), abs=1e-6)
    assert [(int(order[c.row]), int(order[c.wrong])) for c in two.there.hardest]==[c[:2] for c in one.there.hardest]

@settings(max_examples=15, deadline=None)
@given(seeds)
def test_sides_change_places(seed):
    a, b, _ = two_sides(seed)
    f, r = examine_pairs(a, b), examine_pairs(b, a)
    assert (r.there, r.back, r.cone_a, r.cone_b, r.a, r.b)==(f.back, f.there, f.cone_b, f.cone_a, f.b, f.a)

@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 40), st.integers(1, 5))
def test_recall_is_the_mean_over_all_ways_to_break_ties(seed, n, kinds):
    "Rows with many copies: exact ranks by sorting, ties broken by lot a thousand times, agree with the formula in the mean."
    g = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(kinds, 5, generator=g, dtype=torch.float64))[torch.randint(kinds, (n,), generator=g)]
    got, s = examine_pairs(u, u).there, (u@u.T)
    s = (s*1e9).round()/1e9
    for k,found in ((1, got.recall_1), (10, got.recall_10)):
        more, equal = (s>s.diag()[:,None]).sum(1), (s==s.diag()[:,None]).sum(1)
        ways = [[(m+place<k) for place in range(e)] for m,e in zip(more.tolist(), equal.tolist())] # each place of the partner among its equals
        assert found==pytest.approx(np.mean([np.mean(w) for w in ways]), abs=1e-9)

@pytest.mark.parametrize('n', [50, 1000])
def test_independent_sides_are_chance_and_one_point_too(n):
    g = torch.Generator().manual_seed(0)
    noise = diagnose_pairs(*torch.randn(2, n, 12, generator=g))
    point = diagnose_pairs(torch.ones(n, 4), torch.ones(n, 4))
    assert 'no better than chance' in noise.verdict and 'no better than chance' in point.verdict
    assert point.there.recall_10==pytest.approx(10/n, abs=1e-6) and any('duplicates' in t.what for t in point.advice)
    assert noise.there.recall_10<=chance(n, n, 10)<10/n+3*(10/n/n)**.5+1e-9

def test_a_search_in_pieces_is_the_whole_search(monkeypatch):
    "Chunks that do not divide the rows, and a part of the rows that looks: the same neighbours."
    a, b, _ = two_sides(1, n=500, d=16, noise=1.5, dtype=torch.float32)
    whole = examine_pairs(a, b)
    monkeypatch.setattr('hardcl_nb.measures.chunks._step', lambda width: 37)
    f = examine_pairs(a, b)
    assert numbers(f)==pytest.approx(numbers(whole), abs=1e-12) and f.there.hardest==whole.there.hardest
    s = F.normalize(a)@F.normalize(b).T
    assert f.there.recall_1==pytest.approx(((s>s.diag()[:,None]+1e-6).sum(1)<1).double().mean().item(), abs=2/500)
    some = examine_pairs(a, b, max_pairs=500*60, top=60).there
    s.fill_diagonal_(-2)
    assert some.queries==60 and all(c.wrong==int(s[c.row].argmax()) for c in some.hardest)
    assert abs(some.recall_1-f.there.recall_1)<4*.5/60**.5

def test_hubs_and_zero_rows_are_named():
    a, b, _ = two_sides(2, n=200)
    a, b = a+3, b+.1
    b[17] = a.mean(0)
    a[5] = 0
    dx = diagnose_pairs(a, b)
    whys = ' '.join(t.why for t in dx.advice)
    assert dx.there.hub==17 and '1 of 200 rows of a' in whys and 'row 17 of b' in whys
    json.dumps(dx.as_dict(), allow_nan=False)

@pytest.mark.slow
def test_many_rows_in_bounded_memory():
    "Beside the embeddings, a few blocks of 32 MB: 200,000 x 128 (98 MB a side) within 450 MB."
    code = ('import resource, torch; from hardcl_nb import diagnose_pairs; a = torch.randn(200_000, 128); b = a+torch.randn(200_000, 128)\n'
        'diagnose_pairs(a[:100], b[:100])\nbase = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'dx = diagnose_pairs(a, b, max_pairs=2*10**8); assert dx.there.queries==1000; print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-base)/1024)')
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert float(r.stdout)<450, r.stdout

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    d = tmp_path_factory.mktemp('pairs')
    a, b, _ = (t.numpy() if isinstance(t, torch.Tensor) else t for t in two_sides(3))
    np.save(d/'a.npy', a), np.save(d/'b.npy', b), np.save(d/'short.npy', b[1:]), np.save(d/'narrow.npy', b[:,1:]), np.save(d/'one.npy', b[:1])
    np.save(d/'nan.npy', np.where(b>1, np.nan, b)), np.savez(d/'both.npz', q=a, d=b, ids=np.arange(60)), np.savez(d/'three.npz', q=a, d=b, e=b)
    np.savetxt(d/'t.csv', np.hstack([a, b]), delimiter=',', comments='', header=','.join([f'{k}_{i}' for k in ('query', 'doc') for i in range(8)]))
    return d

said = [
    (['a.npy', 'short.npy'], 'a.npy and short.npy: b: expected 60 rows, one for each row of a, got 59 rows'),
    (['a.npy', 'narrow.npy'], 'a.npy and narrow.npy: b: expected rows of 8 numbers, as those of a have, got rows of 7 numbers'),
    (['a.npy', 'nan.npy'], 'b: expected finite embeddings'), (['one.npy', 'a.npy'], 'a: expected at least 2 row(s)'),
    (['a.npy'], 'file: expected two matrices of floats, or two keys, got a.npy'), (['a.npy', 'a.npy'], 'twice'),
    (['a.npy', 'b.npy', 'one.npy'], 'got 3 files'), (['three.npz'], 'three.npz with q, d, e'), (['both.npz', '--key', 'q'], 'key: expected two names'),
    (['both.npz', '--key', 'q,w'], "key: expected one of the arrays in both.npz, got 'w'"), (['a.npy', 'b.npy', '--labels', 'y'], "labels: expected none where rows belong together, got 'y'"),
    (['a.npy', 'none.npy'], 'file: expected a file, got'), ([], 'file: expected a file of embeddings, got none'), (['a.npy', 'b.npy', '--top', '-1'], 'top: expected a whole number >= 0'),
]

@pytest.mark.parametrize('words, line', said, ids=[' '.join(w) for w,_ in said])
def test_bad_input_is_one_line(words, line, files, capsys):
    with pytest.raises(SystemExit) as e: hardcl_diagnose(['--pairs', *(str(files/w) if w.endswith(('.npy', '.npz')) else w for w in words)])
    err = capsys.readouterr().err.replace(str(files)+os.sep, '')
    assert e.value.code==2 and err.count('\n')==1 and line in err, err

def test_two_files_one_file_and_a_table_say_the_same(files, capsys, tmp_path):
    calls = (['a.npy', 'b.npy'], ['both.npz'], ['both.npz', '--key', 'q,d'], ['t.csv', '--key', 'query_,doc_'])
    texts = []
    for i,words in enumerate(calls):
        hardcl_diagnose([*(str(files/w) if '.' in w else w for w in words), '--pairs', '--out', str(tmp_path/str(i))])
        texts.append(capsys.readouterr().out)
    plain = [json.loads((tmp_path/str(i)/'diagnosis.json').read_text()) for i in range(4)]
    assert [p.pop('sides') for p in plain]==[['a.npy', 'b.npy'], ['q', 'd'], ['q', 'd'], ['query_', 'doc_']]
    assert plain[0]==plain[1]==plain[2] and plain[3]['verdict']==plain[0]['verdict']
    want = pair_text(diagnose_pairs(np.load(files/'a.npy'), np.load(files/'b.npy')), ('a.npy', 'b.npy'))
    assert texts[0].startswith(want) and all((tmp_path/'0'/f'diagnosis{e}').stat().st_size for e in ('.html', '.txt', '_spectrum.csv'))
    with pytest.raises(SystemExit): hardcl_diagnose([str(files/'a.npy'), str(files/'b.npy'), '--pairs', '--out', str(tmp_path/'0')])
    assert 'a folder without a diagnosis, or overwrite' in capsys.readouterr().err
