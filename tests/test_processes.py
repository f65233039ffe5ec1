"Training across processes: the same weights as one process, one writer, the same metrics everywhere."
import json, subprocess, sys, textwrap
import pytest, torch

script = textwrap.dedent('''
    import json, sys, torch
    from torch import nn
    from functools import partial
    from hardcl_nb.losses.distributed import distributed_loss
    from hardcl_nb.losses.contrastive import HSCL, HUCL
    from hardcl_nb.training.batches import batches
    from hardcl_nb.training.data import Data, digits
    from hardcl_nb.training.encoders import Encoder, embed, mlp, seeded
    from hardcl_nb.training.loop import recorder, train
    from hardcl_nb.training.processes import gather_shares, my_share, processes, rank_and_size, sync_batchnorm
    out, batch, unsup = sys.argv[1], int(sys.argv[2]), sys.argv[3]=='hucl'
    with processes('cpu'):
        rank,size = rank_and_size()
        d = digits()
        d = Data('digits', d.train_x.double(), d.train_y, d.test_x.double(), d.test_y, 10)
        with seeded(0): enc = Encoder(mlp([64, 32, 9])).double()
        loss = (HUCL if unsup else HSCL)(beta=5.)
        model,step_loss = enc,loss
        record = recorder(enc, d, loss, gather=gather_shares, parts=lambda step: {'test': (d.test_x, d.test_y), 'one': (d.test_x[:1], d.test_y[:1])})
        if size>1:
            enc = sync_batchnorm(enc)
            model = nn.parallel.DistributedDataParallel(enc)
            step_loss = partial(distributed_loss, beta=5., supervised=not unsup)
        opt = torch.optim.SGD(enc.parameters(), .5, momentum=.9)
        recs = list(train(model, batches(d, batch, share=my_share), step_loss, opt, steps=6, every=3, record=record))
        keep = {k: v for k,v in recs[-1].items() if k not in ('images_per_s', 'memory_mb', 'gap', 'etf_distance')}
        few = [embed(enc, d.test_x[:n], gather=gather_shares) for n in (1, 2, 3)]
        torch.save((keep, enc.state_dict(), few, [embed(enc, d.test_x[:n]) for n in (1, 2, 3)]), f'{out}.{rank}')
        del model, step_loss
''')

def launch(tmp, n, *args):
    "Run the script on n processes; what each of them saved."
    (tmp/'s.py').write_text(script)
    r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n), str(tmp/'s.py'), str(tmp/f'out{n}'), *args], capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-3000:]
    return [torch.load(tmp/f'out{n}.{k}') for k in range(n)]

@pytest.mark.slow
@pytest.mark.parametrize('method, batch, sizes', [('hscl', '101', (2, 4)), ('hucl', '64', (2,))])
def test_many_processes_are_one(tmp_path, method, batch, sizes):
    "Six steps in float64; a batch of 101 does not divide by 2 or by 4."
    (rec,weights,*_), = launch(tmp_path, 1, batch, method)
    for n in sizes:
        ends = launch(tmp_path, n, batch, method)
        for r,w,together,alone in ends:
            for a,b in zip(together, alone): torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12) # fewer rows than processes
            for k in weights: torch.testing.assert_close(w[k], weights[k], rtol=1e-6, atol=1e-9)
            assert str(r)==str(ends[0][0]) # the same metrics on every rank
        for k in ('loss', 'zero_sum', 'effective_rank', 'test_acc', 'one_acc'): assert ends[0][0][k]==pytest.approx(rec[k], rel=1e-6)

@pytest.mark.slow
def test_torchrun_of_the_program_has_one_writer_and_goes_on(tmp_path):
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'hardcl_nb.runs.cli', '--steps', '6', '--eval-every', '3', '--batch-size', '65']
    one = [sys.executable, '-m', 'hardcl_nb.runs.cli', *cmd[8:]]
    r = subprocess.run([*cmd, '--out', 'two'], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0 and r.stdout.count('metrics in two/metrics.csv')==1 and 'hardcl_train: warning' not in r.stderr, r.stderr[-3000:]
    assert subprocess.run([*one, '--out', 'one'], capture_output=True, cwd=tmp_path).returncode==0
    a,b = ([list(l.split(',')) for l in (tmp_path/d/'metrics.csv').read_text().splitlines()] for d in ('one', 'two'))
    assert len(a)==len(b)==4 and [l[5] for l in a]==[l[5] for l in b]
    assert float(a[-1][7])==pytest.approx(float(b[-1][7]), rel=1e-5) # float32, another order of sums: weights differ by 2e-6
    r = subprocess.run([*cmd, '--out', 'two'], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode!=0 and r.stderr.count('hardcl_train: error: out: expected a new folder')==1
    r = subprocess.run([*cmd, '--out', 'two', '--resume'], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0, r.stderr[-3000:]
    r = subprocess.run([*cmd, '--steps', '9', '--out', 'two', '--resume'], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0 and 'warning' not in r.stderr, r.stderr[-3000:]
    r = subprocess.run([*one, '--steps', '12', '--out', 'two', '--resume'], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode==0 and r.stderr.count('warning: processes: the run had 2, it goes on with 1: sums are rounded otherwise\n')==1, r.stderr[-3000:]
    notes = [l.split(',') for l in (tmp_path/'two/machine.csv').read_text().splitlines()]
    assert [(n[0], n[-1]) for n in notes]==[('step', 'processes'), ('0', '2'), ('9', '2'), ('12', '1')]
