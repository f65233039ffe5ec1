"Bags of words as classes: weights and vectors by hand, a split that keeps every class, and an embedding beside its bags."
import math
import pytest, torch
from hardcl_nb.training.docstrings import TextPairs
from hardcl_nb.training.texts import Bags, Vocabulary
from hardcl_nb.training.topics import bag_vectors, beside_words, text_classes, told_apart, word_weights

def pairs(groups=('a', 'b', 'c'), n=30):
    "Sentences that hold the name of their group, and a word of all groups."
    rows = [(f'{g}word common {i%7}', g) for g in groups for i in range(n)]
    group = [g for _,g in rows]
    return TextPairs('made', [t for t,_ in rows], ['x']*len(rows), group, group, [False]*len(rows), [], 1, 0)

def test_weights_and_vectors_by_hand():
    "A word of every text says nothing; of two words of one text each, both say log n."
    texts = ['alpha shared', 'beta shared', 'alpha shared gamma']
    v = Vocabulary(('alpha', 'beta', 'gamma', 'shared'), 1)
    w = word_weights(Bags(texts, v), len(v))
    at = {word: int(Bags([word], v).rows[0]) for word in ('alpha', 'beta', 'gamma', 'shared')}
    for word,n in (('alpha', 2), ('beta', 1), ('gamma', 1), ('shared', 3)): assert abs(float(w[at[word]])-math.log(3/n))<1e-6, word
    x = bag_vectors(texts, v, w)
    assert abs(float(x[0, at['alpha']])-1)<1e-6 and float(x[0, at['shared']])==0 # the only word that says something
    torch.testing.assert_close(x.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(x[2, at['gamma']]/x[2, at['alpha']], torch.tensor(math.log(3)/math.log(1.5)))
    assert float(bag_vectors(['shared'], v, w).abs().sum())==0
    with pytest.raises(ValueError, match='^weights: expected shape'): bag_vectors(texts, v, w[:-1])

def test_classes_are_packages_and_every_one_is_held_out():
    d = text_classes(pairs(), words=50)
    assert d.classes==('a', 'b', 'c') and torch.bincount(d.test_y).tolist()==[6]*3 and torch.bincount(d.train_y).tolist()==[24]*3
    assert d.train_x.shape[1]==3+1+7+24 # each name, the common word, the numbers 0 to 6, and the rows that all others share
    assert text_classes(pairs(), without=('b',)).classes==('a', 'c') and torch.equal(text_classes(pairs()).train_x, text_classes(pairs()).train_x)
    for how in (dict(least=31), dict(without=('a', 'b'))):
        with pytest.raises(ValueError, match='^least: expected a number that at least two packages reach, of 3'): text_classes(pairs(), **how)

def test_told_apart():
    "Orthogonal classes: all right, cosine 0, and a simplex about the mean of all; shuffled labels are worth a guess."
    y = torch.arange(4).repeat_interleave(20)
    z = torch.eye(4)[y]+.01*torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    got = told_apart(z, y, z, y)
    assert got['centre']==got['knn']==1 and abs(got['cosine'])<.02 and abs(float(got['rank'])-3)<.01
    other = y[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    assert told_apart(z, other, z, y)['centre']<.7

def test_an_embedding_beside_its_bags():
    "Under a rotation nothing changes; under a map to nothing it is a guess."
    d = text_classes(pairs(), words=50)
    k = d.train_x.shape[1]
    turn = torch.nn.Linear(k, k, bias=False)
    torch.nn.init.orthogonal_(turn.weight, generator=torch.Generator().manual_seed(0))
    got = beside_words(turn, data=d)
    for name in ('centre', 'knn', 'rank', 'cosine'): assert abs(float(got[f'words_{name}'])-float(got[f'embedded_{name}']))<1e-3, name
    assert got['words_centre']==1
    torch.nn.init.zeros_(turn.weight)
    assert beside_words(turn, data=d)['embedded_centre']<.5
