"""Lightning, torchmetrics, sentence-transformers, Trainer and timm with the recipes of page 58, run for real where they are installed (`make frameworks`).

What is run is what the page shows: `recipes` executes its definitions. Public reports whose behaviour is tested here: torchmetrics #174 (a class
that was not there is no zero) and #2279 (an update with no rows), SupContrast #141 (an anchor without a positive), pytorch-metric-learning #744 (no
positive pair in a batch)."""
import ast, copy, functools, json, math, os, warnings
from pathlib import Path
import numpy as np, pytest, torch
from torch.testing import assert_close
from hardcl_nb import HSCL, HardNegativeRankingLoss, SupCon, batches, collapse_report, load_dataset, make_encoder, train
from hardcl_nb.checks import Refused
from hardcl_nb.measures.collapse import report_metrics
from hardcl_nb.tables import encoders

os.environ['HF_HUB_OFFLINE'] = '1'
root = Path(__file__).parent.parent
page = json.loads((root/'nbs/58_recipes.ipynb').read_text(encoding='utf-8'))['cells']
streamed = lambda rep: {k: v for k,v in report_metrics(rep).items() if k not in ('within_class', 'uniformity')}

def slow(*libraries):
    "A test that needs these libraries."
    def mark(test):
        @pytest.mark.slow
        @pytest.mark.filterwarnings('ignore')
        @functools.wraps(test)
        def run(*args, **kw):
            for m in libraries: pytest.importorskip(m)
            return test(*args, **kw)
        return run
    return mark

@functools.cache
def recipes(section):
    "What the page defines in a section and in the cells that need no library, as a dictionary of names."
    names, here = {}, ''
    for c in page:
        text = ''.join(c['source'])
        if c['cell_type']=='markdown': here = next((l[3:] for l in text.splitlines()[::-1] if l.startswith('## ')), here)
        elif 'eval: false' not in text and ('#| frameworks' not in text or here==section or 'def quiet' in text or 'import contextlib' in text):
            kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
            body = [n for n in ast.parse(text).body if isinstance(n, kinds) or isinstance(n, ast.Assign) and ast.unparse(n.targets[0])=='same']
            exec(compile(ast.Module([n for n in body if not getattr(n, 'name', '').startswith('check_')], []), here, 'exec'), names)
    return names

def rows(seed, n=60, classes=6, d=5, dtype=torch.float64):
    "Rows of all lengths with uneven classes: every class has two rows, some many; one row has a class of its own."
    g = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.arange(classes).repeat(2), (torch.rand(n-2*classes-1, generator=g)**2*classes).long(), torch.tensor([99])])
    return torch.randn(n, d, generator=g, dtype=dtype)*torch.rand(n, 1, generator=g, dtype=dtype).exp(), y

def same_numbers(got, rep, prefix='', rel=1e-9):
    for k,v in streamed(rep).items(): assert float(got[prefix+k])==pytest.approx(v, rel=rel, abs=1e-9, nan_ok=True), k

# --- the same number

@slow('lightly', 'pytorch_metric_learning', 'sentence_transformers')
@pytest.mark.parametrize('name', ['pml NTXentLoss', 'pml SupConLoss', 'pml SelfSupervisedLoss', 'lightly NTXentLoss', 'lightly DCLLoss', 'MNRL, two directions'])
@pytest.mark.parametrize('seed', range(3))
def test_a_translation_holds_in_single_precision(name, seed):
    "Ours in single precision against theirs in double, to a millionth of the value and of the largest slope."
    p = recipes("From your library's call to ours")
    theirs, ours = p['same'][name]
    z, y = rows(seed)
    xs = (z, y) if ours in (p['over_pairs'], p['supcon']) else (z[:30], z[30:])
    for t in (.1, .5):
        want = p['value_and_grads'](theirs(t), *xs)
        got = p['value_and_grads'](lambda *xs: ours(*xs, tau=t), *(x.float() if x.is_floating_point() else x for x in xs))
        for a,b in zip(got, want, strict=True): assert_close(a.double(), b, rtol=0, atol=1e-6*max(1., float(b.abs().max())))

def test_an_anchor_without_a_positive_dilutes_theirs_and_not_ours():
    "SupContrast #141: with one view a lone label gave NaN; since then it counts as zero in their mean. Ours leaves it out."
    ref = {k: torch.tensor(v) for k,v in np.load(root/'tests/supcontrast.npz').items()}
    y, share = ref['labels'], 7/9 # two of nine labels occur once
    for t,loss,grad in zip(ref['taus'].tolist(), ref['one_loss'], ref['one_grad']):
        z = ref['features'][:,0].clone().requires_grad_()
        got = SupCon(t)(z, y)
        assert_close(t/.07*share*got, loss, rtol=0, atol=1e-12)
        assert_close(t/.07*share*torch.autograd.grad(got, z)[0], grad[:,0], rtol=0, atol=1e-12)

@slow('pytorch_metric_learning')
def test_no_positive_pair_is_refused_where_theirs_is_zero():
    "pytorch-metric-learning #744: their zero looks like a loss that has been minimised."
    z, y = rows(0)[0][:6], torch.arange(6)
    from pytorch_metric_learning.losses import SupConLoss
    assert float(SupConLoss()(z, y))==0
    with pytest.raises(Refused, match='^y: expected .*positive'): SupCon()(z, y)

# --- Lightning

def digits(n=512):
    data = load_dataset('digits')
    return data, torch.utils.data.TensorDataset(data.train_x[:n], data.train_y[:n])

def fit(p, module, epochs, ckpt=None, callbacks=(), val=None, **kw):
    "Train without bars and loggers, always in the same order."
    lightning = p['lightning']
    _, part = digits()
    loader = p['DataLoader'](part, 128, drop_last=True)
    off = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, accelerator='cpu')
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=list(callbacks), **off|kw)
    trainer.fit(module, loader, val, ckpt_path=ckpt)
    return trainer

@slow('lightning')
@pytest.mark.parametrize('precision', ['bf16-mixed', 'bf16-true', '16-true', '64-true'])
def test_lightning_in_any_precision(precision):
    p = recipes('Lightning')
    data, _ = digits()
    class Careful(p['Contrast']):
        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), .05) # Adam's 1e-8 is zero in 16 bits
    module, seen = Careful(), p['Collapse'](10, 9)
    val = p['DataLoader'](torch.utils.data.TensorDataset(data.test_x, data.test_y), 150)
    trainer = fit(p, module, 2, callbacks=[seen], val=val, precision=precision)
    assert math.isfinite(trainer.callback_metrics['loss']) and seen.report.num_samples==len(data.test_y)

@slow('lightning')
def test_lightning_resumes_as_if_nothing_had_happened(tmp_path):
    "A loss module leaves nothing in the state, and the checkpoint runs no code on loading."
    p = recipes('Lightning')
    whole, half, rest = p['Contrast'](), p['Contrast'](), p['Contrast']()
    fit(p, whole, 4)
    fit(p, half, 2).save_checkpoint(tmp_path/'a.ckpt')
    saved = torch.load(tmp_path/'a.ckpt', weights_only=True)
    assert saved['state_dict'] and not [k for k in saved['state_dict'] if not k.startswith('encoder.')]
    fit(p, rest, 4, ckpt=str(tmp_path/'a.ckpt'))
    for a,b in zip(whole.state_dict().values(), rest.state_dict().values(), strict=True): assert_close(a, b, rtol=0, atol=0)

@slow('lightning')
def test_lightning_may_change_the_hardness_between_epochs():
    p = recipes('Lightning')
    class Ramp(p['lightning'].Callback):
        seen = []
        def on_train_epoch_start(self, trainer, module):
            module.loss.beta = 2.*trainer.current_epoch
            self.seen.append(module.loss.beta)
    module = p['Contrast']()
    fit(p, module, 3, callbacks=[Ramp()])
    assert Ramp.seen==[0, 2, 4] and module.loss.beta==4

@slow('lightning')
def test_a_validation_that_is_cut_short_names_what_it_lacks():
    "Sorted by class, one batch of four: the classes that are there, by number."
    p = recipes('Lightning')
    data, _ = digits()
    order = data.test_y.argsort(stable=True)
    val = p['DataLoader'](torch.utils.data.TensorDataset(data.test_x[order], data.test_y[order]), 120)
    seen, module = p['Collapse'](10, 9), p['Contrast']()
    fit(p, module, 1, callbacks=[seen], val=val, limit_val_batches=1)
    there = data.test_y[order][:120].unique().tolist()
    assert list(seen.report.classes)==there and list(seen.report.absent)==[c for c in range(10) if c not in there]

@slow('lightning')
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes that begin as copies of this one')
def test_two_processes_of_lightning_report_all_validation_data():
    "Each sees half of the data, and sorted by class; the meter adds up, where the mean of two reports would say something else."
    p = recipes('Lightning')
    data, _ = digits()
    order = data.test_y.argsort(stable=True)
    val = p['DataLoader'](torch.utils.data.TensorDataset(data.test_x[order], data.test_y[order]), 75)
    module = p['Contrast']()
    trainer = fit(p, module, 1, callbacks=[p['Collapse'](10, 9)], val=val, strategy='ddp_fork', devices=2)
    with torch.no_grad(): want = collapse_report(module.eval()(data.test_x), data.test_y)
    same_numbers(trainer.callback_metrics, want, 'val_', rel=1e-4)

# --- torchmetrics

@slow('torchmetrics')
def test_an_update_with_no_rows_changes_nothing():
    "torchmetrics #2279, by update and by a call, first, in between and last."
    p = recipes('torchmetrics')
    z, y = rows(0)
    y = y%6
    m = p['CollapseMetric'](6, 5)
    m.update(z[:0], y[:0])
    assert m(z[:0], y[:0])=={} and m.compute()=={} and m.report is None
    m.update(z, y)
    state, values = {k: v.clone() for k,v in m.state_dict().items()}, m.compute()
    assert len(state)==4
    m.update(z[:0], y[:0])
    assert m(z[:0], y[:0])=={}
    for k,v in m.state_dict().items(): assert_close(v, state[k], rtol=0, atol=0)
    again = m.compute()
    assert all(a==b or a!=a and b!=b for a,b in ((float(values[k]), float(again[k])) for k in values)) and values

@slow('torchmetrics')
def test_a_class_that_was_not_there_is_no_zero():
    "torchmetrics #174: numbers are those of the classes seen; the report names the others."
    p = recipes('torchmetrics')
    z, y = rows(1)
    y, some = y%6, (y%6!=2)&(y%6!=5)
    m = p['MetricCollection'](dict(collapse=p['CollapseMetric'](6, 5)), prefix='val_')
    for part in some.nonzero()[:,0].split(7): m.update(z[part], y[part])
    same_numbers(m.compute(), collapse_report(z[some], y[some]), 'val_')
    assert m['collapse'].report.absent==(2, 5)

@slow('torchmetrics')
def test_a_collection_calls_clones_saves_and_starts_again():
    p = recipes('torchmetrics')
    z, y = rows(2)
    y = y%6
    m = p['CollapseMetric'](6, 5)
    same_numbers(m(z[:30], y[:30]), collapse_report(z[:30], y[:30])) # a call gives the batch's number ...
    m(z[30:], y[30:])
    same_numbers(m.compute(), collapse_report(z, y))                 # ... and counts the batch
    other = p['CollapseMetric'](6, 5)
    other.load_state_dict(copy.deepcopy(m.state_dict()))
    same_numbers(other.compute(), collapse_report(z, y))
    assert m.half().counts.dtype==torch.float64
    twin = m.clone()
    m.reset()
    assert m.compute()=={}
    same_numbers(twin.compute(), collapse_report(z, y))

def _rank(rank, where, out):
    p = recipes('torchmetrics')
    torch.distributed.init_process_group('gloo', init_method=f'file://{where}', rank=rank, world_size=2)
    z, y = rows(3)
    mine = torch.arange(len(y))%3==0
    mine = mine if rank==0 else ~mine
    m = p['MetricCollection'](dict(collapse=p['CollapseMetric'](6, 5)))
    for part in mine.nonzero()[:,0].split((5, 11)[rank]): m.update(z[part], y[part]%6)
    torch.save({k: float(v) for k,v in m.compute().items()}, f'{out}{rank}.pt')
    torch.distributed.destroy_process_group()

@slow('torchmetrics')
def test_two_processes_report_the_same(tmp_path):
    torch.multiprocessing.start_processes(_rank, (tmp_path/'meet', str(tmp_path/'out')), 2, start_method='fork') # what is imported is there
    z, y = rows(3)
    for r in (0, 1): same_numbers(torch.load(tmp_path/f'out{r}.pt'), collapse_report(z, y%6))

# --- sentence-transformers

def sentences(p):
    "A model of word vectors whose vocabulary is made here."
    texts = [f'{a} {b}' for a in ('red', 'green', 'blue') for b in ('sea', 'sky', 'wood', 'stone')]
    vocabulary = p['Tokenizer'](p['models'].WordLevel(unk_token='[UNK]'))
    vocabulary.pre_tokenizer = p['pre_tokenizers'].Whitespace()
    vocabulary.train_from_iterator(texts, p['trainers'].WordLevelTrainer(special_tokens=['[UNK]']))
    torch.manual_seed(0)
    return p['SentenceTransformer'](modules=[p['StaticEmbedding'](vocabulary, embedding_dim=8)], device='cpu'), texts, torch.arange(12)//4

@slow('sentence_transformers', 'datasets')
def test_a_loss_of_sentences_is_the_loss_of_their_embeddings():
    p = recipes('sentence-transformers')
    model, texts, y = sentences(p)
    inputs = model.preprocess(texts) if hasattr(model, 'preprocess') else model.tokenize(texts)
    loss = p['HardSentences'](model, beta=3., tau=.4)([dict(inputs)], y)
    z = model(dict(inputs))['sentence_embedding']
    want = HSCL(3., tau=.4)(z/z.norm(dim=1, keepdim=True), y)
    weights = list(model.parameters())
    assert_close(loss, want, rtol=1e-6, atol=0)
    for a,b in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(want, weights), strict=True): assert_close(a, b, rtol=0, atol=1e-6)

@slow('sentence_transformers', 'datasets')
@pytest.mark.parametrize('bf16', [False, True])
def test_sentences_are_trained_and_kept(tmp_path, bf16):
    p = recipes('sentence-transformers')
    model, texts, y = sentences(p)
    with p['quiet']():
        args = p['SentenceTransformerTrainingArguments'](str(tmp_path), num_train_epochs=20, per_device_train_batch_size=12, learning_rate=.05,
            use_cpu=True, bf16=bf16, report_to='none', save_strategy='no')
        train_rows = p['Dataset'].from_dict(dict(text=texts, label=y.tolist()))
        before = model.encode(texts, normalize_embeddings=True)
        p['SentenceTransformerTrainer'](model, args, train_dataset=train_rows, loss=p['HardSentences'](model)).train()
        after = model.encode(texts, normalize_embeddings=True)
        model.save(str(tmp_path/'model'))
        again = p['SentenceTransformer'](str(tmp_path/'model'), device='cpu').encode(texts, normalize_embeddings=True)
    assert collapse_report(after, y).alignment<.5*collapse_report(before, y).alignment
    np.testing.assert_allclose(again, after, atol=1e-6)

@slow('sentence_transformers', 'datasets')
def test_sentences_without_a_pair_cost_nothing_and_say_so():
    p = recipes('sentence-transformers')
    model, texts, _ = sentences(p)
    inputs = model.preprocess(texts) if hasattr(model, 'preprocess') else model.tokenize(texts)
    with pytest.warns(UserWarning, match='pair'): loss = p['HardSentences'](model)([inputs], torch.arange(12))
    assert loss.item()==0

RANKED = [dict(), dict(scale=50.), *(dict(hardness_mode=m, hardness_strength=h) for m in ('in_batch_negatives', 'hard_negatives', 'all_negatives')
    for h in (5., 9.))]
RANKED += [dict(directions=('query_to_doc', 'doc_to_query'), partition_mode='per_direction', **kw) for kw in RANKED[:3]]

@slow('sentence_transformers')
@pytest.mark.parametrize('kw', RANKED, ids=str)
@pytest.mark.parametrize('negatives', range(3))
def test_ranking_is_that_of_the_library(kw, negatives):
    "Ours in single precision against the library's own class in double: value and gradient of every column, to a millionth."
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    g = torch.Generator().manual_seed(negatives)
    xs = [torch.randn(200, 16, generator=g, dtype=torch.float64)+.5 for _ in range(2+negatives)]
    out = []
    for kind,dtype in ((MultipleNegativesRankingLoss, torch.float64), (HardNegativeRankingLoss, torch.float32)):
        columns = [x.to(dtype).requires_grad_() for x in xs]
        if kind is HardNegativeRankingLoss and kw.get('hardness_mode')=='hard_negatives' and not negatives:
            with pytest.raises(Refused, match='^on: .*explicit'): kind(None, **kw).compute_loss_from_embeddings(columns, None)
            return
        loss = kind(None, **kw).compute_loss_from_embeddings(columns, None)
        assert loss.dtype==dtype
        out.append([loss, *torch.autograd.grad(loss, columns)])
    for want,got in zip(*out, strict=True):
        assert_close(got.double(), want, rtol=0, atol=1e-6*float(want.abs().max()))

@slow('sentence_transformers', 'datasets')
def test_the_trainer_ranks_in_its_place(tmp_path):
    "The same run with the library's loss and with ours: the same weights; the model card has its settings."
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    p, weights = recipes('sentence-transformers'), []
    kw = dict(hardness_mode='in_batch_negatives', hardness_strength=9.)
    for kind in (MultipleNegativesRankingLoss, HardNegativeRankingLoss):
        model, texts, _ = sentences(p)
        data = p['Dataset'].from_dict(dict(anchor=texts, positive=texts[1:]+texts[:1], negative=texts[5:]+texts[:5]))
        with p['quiet']():
            args = p['SentenceTransformerTrainingArguments'](str(tmp_path), num_train_epochs=5, per_device_train_batch_size=6, learning_rate=.05,
                use_cpu=True, report_to='none', save_strategy='no', seed=1)
            loss, before = kind(model, **kw), [x.detach().clone() for x in model.parameters()]
            p['SentenceTransformerTrainer'](model, args, train_dataset=data, loss=loss).train()
            card = model.model_card_data.to_dict()
        weights.append([x.detach().clone() for x in model.parameters()])
    assert any(not torch.equal(a, b) for a,b in zip(before, weights[0]))
    for a,b in zip(*weights, strict=True): assert_close(a, b, rtol=0, atol=1e-3)
    assert 'HardNegativeRankingLoss' in str(card)

# --- Hugging Face datasets and Trainer

def trainer_of(p, folder, **kw):
    data, _ = digits()
    args = p['TrainingArguments'](str(folder), max_steps=4, per_device_train_batch_size=128, per_device_eval_batch_size=150, dataloader_drop_last=True,
        learning_rate=1e-3, use_cpu=True, report_to='none', save_strategy='no', **kw)
    hf = lambda x, y: p['Dataset'].from_dict(dict(x=x.numpy(), labels=y.numpy())).with_format('torch')
    return p['Trainer'](p['WithLoss'](make_encoder(64, 10), HSCL(5.)), args, train_dataset=hf(data.train_x, data.train_y),
        eval_dataset=hf(data.test_x, data.test_y), compute_metrics=p['collapse_metrics'])

def hugging():
    return recipes('sentence-transformers')|recipes('Hugging Face datasets and Trainer') # the page imports Dataset one section earlier

@slow('transformers', 'datasets', 'sentence_transformers', 'accelerate')
@pytest.mark.parametrize('kw', [{}, {'bf16': True}, {'gradient_accumulation_steps': 2}], ids=str)
def test_trainer_evaluates_trains_and_keeps(tmp_path, kw):
    p = hugging()
    with p['quiet']():
        trainer = trainer_of(p, tmp_path, **kw)
        loss, found = trainer.train().training_loss, trainer.evaluate()
        trainer.save_model(str(tmp_path/'kept'))
    data, _ = digits()
    encoder = trainer.model.encoder.eval()
    with torch.no_grad(): rep = collapse_report(encoder(data.test_x), data.test_y)
    assert 0<loss<1 and found['eval_num_samples']==450
    if not kw.get('bf16'): assert found['eval_effective_rank']==pytest.approx(rep.effective_rank, rel=1e-4)
    from safetensors.torch import load_file
    other = p['WithLoss'](make_encoder(64, 10, seed=1), HSCL(5.))
    other.load_state_dict(load_file(tmp_path/'kept/model.safetensors'))
    assert_close(other.encoder.eval()(data.test_x), encoder(data.test_x), rtol=0, atol=0)

@slow('datasets')
def test_streams_of_hugging_face_feed_the_loop():
    "In memory and streamed; without the format of torch a column is a list of numbers, and refused in words."
    from datasets import Dataset
    data, _ = digits()
    plain = Dataset.from_dict(dict(image=data.train_x.numpy(), label=data.train_y.numpy()))
    for rows in (plain.with_format('torch'), plain.to_iterable_dataset().with_format('torch')):
        encoder = make_encoder(64, 10)
        stream = torch.utils.data.DataLoader(rows, 512, drop_last=True)
        opt = torch.optim.Adam(encoder.parameters(), 1e-3)
        assert [r['step'] for r in train(encoder, batches(data, stream=stream), HSCL(5.), opt, steps=4, every=2)]==[0, 2, 4]
    with pytest.raises(TypeError, match='^stream: expected pairs .* got dict of image, label'):
        next(batches(data, stream=torch.utils.data.DataLoader(plain, 64)))

# --- lightly's loaders

@slow('lightly')
def test_loaders_of_lightly_feed_the_loop(tmp_path):
    "Two views, labels and the names of the files."
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform
    from PIL import Image
    pixels = np.random.default_rng(0)
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(8): Image.fromarray(pixels.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path/c/f'{i}.png')
    loader = torch.utils.data.DataLoader(LightlyDataset(str(tmp_path), transform=SimCLRTransform(input_size=16)), 8)
    x, y = next(batches(load_dataset(tmp_path), stream=loader))
    assert x.shape==(16, 3, 16, 16) and x.is_floating_point() and y.tolist()==[0]*16
    x, y = next(batches(load_dataset(tmp_path), stream=loader, views=2, positives='view'))
    assert y.tolist()==[*range(8)]*2

# --- timm

@slow('timm')
@pytest.mark.parametrize('name', ['test_resnet', 'test_efficientnet', 'test_convnext', 'test_mambaout', 'test_vit', 'mobilenetv3_small_050'])
def test_timm_encoders_by_name(name, monkeypatch):
    "Networks with and without batch normalisation, attention, and an output wider than its features; grey images too."
    p = recipes('timm')
    monkeypatch.delitem(encoders, 'timm_one', raising=False)
    encoders.add('timm_one', p['timm_trunk'](name, **({'img_size': 32} if 'vit' in name else {})))
    y = torch.arange(40)%10
    for channels,norm in ((3, 'ball'), (1, 'sphere')):
        encoder = make_encoder((channels, 32, 32), 10, arch='timm_one', norm=norm)
        x = torch.rand(40, channels, 32, 32, generator=torch.Generator().manual_seed(0))
        opt, losses = torch.optim.Adam(encoder.parameters(), 1e-3), []
        for _ in range(2):
            loss = HSCL(5.)(z := encoder(x), y)
            opt.zero_grad(); loss.backward(); opt.step()
            losses.append(loss.item())
        length = z.detach().norm(dim=1)
        assert z.shape==(40, 9) and length.max()<=1+1e-5 and (norm=='ball' or length.min()>=1-1e-5) and all(map(math.isfinite, losses))
        assert all(w.grad is not None and w.grad.isfinite().all() for w in encoder.net.head.parameters())
    del encoders['timm_one']
