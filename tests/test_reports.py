"""What broke for users of libraries of this kind, in public, and the test here that would fail if ours had that fault.

| report | what broke there | tests here |
|:--|:--|:--|
| pytorch/vision #2218 | a folder of 16-bit PNGs came out white | test_images: test_palettes_alpha_and_bits, test_bad_folders |
| pytorch/vision #2831 | hidden folders (.ipynb_checkpoints) became a class | test_images: test_what_others_leave_in_a_folder_is_no_data |
| sd-scripts #1316 | the orientation in EXIF was passed over: photos lay on their side | test_images: test_photos_are_turned_as_the_camera_says |
| pytorch-metric-learning #742 | no way to say several labels a row, or who pairs with whom | test_cross: test_strips_are_the_definition; here: test_several_labels_a_row_are_a_mask_of_pairs |
| SupContrast #90 | the same, for a supervised loss | here: test_several_labels_a_row_are_a_mask_of_pairs |
| SupContrast #141 | an anchor without a positive made the loss NaN | test_relatives: test_no_positive_is_no_part_of_the_mean; test_loop: test_a_batch_without_a_pair_costs_nothing_and_is_counted |
| torchmetrics #174 | a class that was not there counted as a zero | test_meter: test_part_of_the_classes_is_the_batch_report_on_them |
| torchmetrics #2279 | an update without rows was an error | test_meter: test_an_update_without_rows_changes_nothing |
| composer #56 | a run could not go on beyond the epochs it was begun with | page 63_folder: run(longer, tmp/'term', resume=True) |
| ColossalAI #5151 | after a restart the learning rate of a scheduler was the first one again | here: test_a_scheduler_goes_on_where_it_stood |
"""
import json, re
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from hardcl_nb import cross_loss
from hardcl_nb.runs.checkpoints import load_checkpoint, save_checkpoint
from hardcl_nb.runs.embeddings import read_embeddings

here = Path(__file__)

rows = [[c.strip() for c in line.strip('|').split('|')] for line in __doc__.splitlines() if line.startswith('| ') and 'report' not in line]

@pytest.mark.parametrize('report, what, tests', rows, ids=[r[0] for r in rows])
def test_each_report_has_its_tests(report, what, tests):
    named = 0
    for part in tests.split(';'):
        file, names = (x.strip() for x in part.split(':'))
        if file.startswith('page '):
            cells = json.loads((here.parent.parent/f'nbs/{file[5:]}.ipynb').read_text(encoding='utf-8'))['cells']
            assert any(names in ''.join(c['source']) for c in cells if c['cell_type']=='code'), f'{report}: not on {file}'
            named += 1
            continue
        code = (here if file=='here' else here.with_name(f'{file}.py')).read_text(encoding='utf-8')
        for name in re.findall(r'test_\w+', names):
            assert f'def {name}(' in code, f'{report}: no {name} in {file}'
            named += 1
    assert named and what

def test_several_labels_a_row_are_a_mask_of_pairs():
    "Rows that share a label are positives, all others negatives: the mean over loops; a pair that the mask leaves out is neither."
    g = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(8, 4, generator=g, dtype=torch.float64), dim=1)
    w = torch.nn.functional.normalize(torch.randn(8, 4, generator=g, dtype=torch.float64), dim=1)
    y = torch.tensor([[1,0,1],[0,1,1],[1,1,0],[0,1,0],[1,0,0],[0,0,1],[0,1,1],[1,0,0]]).bool()
    keep = torch.rand(8, 8, generator=g)<.8
    same, s, terms = (y.double()@y.double().T)>0, z@w.T, []
    for m in (torch.ones_like(keep), keep):
        per = []
        for i in range(8):
            p, n = same[i]&m[i], ~same[i]&m[i]
            if p.any() and n.any(): per.append(torch.log1p(s[i,n].exp().sum()*(-s[i,p]).exp()).mean())
        terms.append(torch.stack(per).mean())
    got = [cross_loss(z, y, w, y, q='sum', sides='rows', **kw) for kw in ({}, {'mask': keep})]
    for a,b in zip(got, terms): torch.testing.assert_close(a, b, atol=1e-12, rtol=0)

@pytest.mark.parametrize('schedule', [lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4], gamma=.5)])
def test_a_scheduler_goes_on_where_it_stood(tmp_path, schedule):
    "Two groups, each with its own rate: after a restart weights and rates are those of a run that was not interrupted."
    def start():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        opt = torch.optim.AdamW([dict(params=net[0].parameters(), lr=.1), dict(params=net[1].parameters(), lr=.01, weight_decay=.5)])
        return net, opt, schedule(opt)
    def go(net, opt, sched, steps):
        for _ in range(steps):
            opt.zero_grad(); net(torch.linspace(-1, 1, 15).view(5, 3)).square().sum().backward(); opt.step(); sched.step()
        return [p.detach().clone() for p in net.parameters()], [g['lr'] for g in opt.param_groups]
    want, rates = go(*start(), 6)
    a = start(); go(*a, 3)
    save_checkpoint(tmp_path/'c', *a[:2], 3)
    b = start()
    load_checkpoint(tmp_path/'c', *b[:2])
    b[2].load_state_dict(a[2].state_dict())
    got, back = go(*b, 3)
    assert back==rates and all(torch.equal(x, y) for x,y in zip(got, want))

@pytest.mark.parametrize('text', ['a;b;label\n1.5;2;x\n3;4.5;y\n', '\ufeffa , b , label\n1.5, 2, x\n3, 4.5, y\n'], ids=['semicolons', 'blanks'])
def test_tables_of_spreadsheets(tmp_path, text):
    (tmp_path/'t.csv').write_text(text, encoding='utf-8')
    e = read_embeddings(tmp_path/'t.csv', labels='label')
    assert np.array_equal(e.z.numpy(), [[1.5, 2.], [3., 4.5]]) and e.names=={0: 'x', 1: 'y'} and e.y.tolist()==[0, 1]

@pytest.mark.parametrize('text', ['a;b;label\n1,5;2,0;x\n3,0;4,5;y\n', '1,5;2,0\n3,0;4,5\n', 'a,b\n"1,5",2\n"3,0",4\n'])
def test_decimal_commas_are_refused_and_never_split(tmp_path, text):
    (tmp_path/'t.csv').write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match='t.csv: decimal commas; write decimal points$'): read_embeddings(tmp_path/'t.csv')
