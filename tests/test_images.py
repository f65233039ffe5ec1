"Archives, folders, single files and streams of images: what they hold, and what they answer when damaged, odd or hostile."
import io, pickle, stat, struct, warnings, zipfile, zlib
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageOps
from hardcl_nb.training.streams import image_stream
from hardcl_nb.training.data import Data, hold_out
from hardcl_nb.training.datasets import safe_extract
from hardcl_nb.training.images import Pixels, check_sha256, load_folder, load_npz, pixel_stats, read_image, save_npz

def gen(seed=0): return torch.Generator().manual_seed(seed)

def arrays(n=6, shape=(8, 9, 3), column=False):
    r = np.random.default_rng(0)
    y = np.arange(n)%3
    a = {}
    for p in ('train', 'test'): a[p+'_images'],a[p+'_labels'] = r.integers(0, 256, (n, *shape), dtype=np.uint8), y[:,None] if column else y
    return a

def put(path, **over):
    np.savez(path, **{**arrays(), **over})
    return path

@pytest.mark.parametrize('column', [False, True])
@pytest.mark.parametrize('shape,chw', [((8, 9), (1, 8, 9)), ((8, 9, 1), (1, 8, 9)), ((8, 9, 3), (3, 8, 9))])
def test_npz_forms(tmp_path, shape, chw, column):
    a = arrays(shape=shape, column=column)
    np.savez(tmp_path/'a.npz', **a)
    d = load_npz(tmp_path/'a.npz')
    assert tuple(d.train_x.shape)==(6, *chw) and d.train_x.is_contiguous() and d.train_y.tolist()==[0,1,2]*2 and d.num_classes==3
    want = a['test_images'].reshape(6, 8, 9, -1)
    assert torch.equal(d.test_x.permute(0, 2, 3, 1), torch.from_numpy(want))
    save_npz(d, tmp_path/'b.npz')
    assert torch.equal(load_npz(tmp_path/'b.npz').test_x, d.test_x) and not list(tmp_path.glob('*.part'))

def test_npz_validation_part_and_small_label_types(tmp_path):
    a = arrays()
    a |= {'val_images': 255-a['test_images'], 'val_labels': a['test_labels'].astype(np.uint8)}
    np.savez_compressed(tmp_path/'a.npz', **a)
    assert torch.equal(load_npz(tmp_path/'a.npz', part='val').test_x, 255-load_npz(tmp_path/'a.npz').test_x)

@pytest.mark.parametrize('over,err,text', [
    (dict(train_images=np.zeros((6, 8, 9, 3), np.float32)), TypeError, 'train_images: expected uint8'),
    (dict(train_images=np.zeros((6, 8, 9, 4), np.uint8)), ValueError, 'train_images: expected shape'),
    (dict(train_images=np.zeros((6, 8, 8, 8, 3), np.uint8)), ValueError, 'train_images: expected shape'),
    (dict(train_labels=np.zeros((6, 2), int)), ValueError, 'train_labels: expected shape'),
    (dict(train_labels=np.zeros(6)), TypeError, 'train_labels: expected'),
    (dict(train_labels=np.zeros(5, int)), ValueError, 'train_y: expected 6 labels'),
    (dict(test_labels=np.array([0, 1, 2, 0, 1, 3])), ValueError, 'test_y: expected labels in 0..2, got labels from 0 to 3'),
    (dict(train_labels=np.array([-1, 1, 2, 0, 1, 2])), ValueError, 'train_y: expected labels in 0..2'),
    (dict(classes=np.array(['a', 'b'])), ValueError, 'train_y: expected labels in 0..1'),
    (dict(train_labels=np.array([0, None, 1, 1, 1, 1], object)), ValueError, 'expected a sound npz'),
    (dict(test_images=np.zeros((6, 9, 9, 3), np.uint8)), ValueError, 'test_x: expected images of shape (3, 8, 9)'),
    (dict(train_images=np.zeros((0, 8, 9, 3), np.uint8), train_labels=np.zeros(0, int)), ValueError, 'train_x: expected images')])
def test_bad_npz(tmp_path, over, err, text):
    with pytest.raises(err) as e: load_npz(put(tmp_path/'a.npz', **over))
    assert text in str(e.value) and '\n' not in str(e.value)

def test_a_flipped_byte_is_found(tmp_path):
    p = put(tmp_path/'a.npz')
    raw = bytearray(p.read_bytes()); raw[600] ^= 255
    p.write_bytes(raw)
    with pytest.raises(ValueError, match='expected a sound npz file, got a.npz .SHA-256 [0-9a-f]{64}'): load_npz(p)

@pytest.mark.parametrize('raw', [b'', b'nothing', b'\x93NUMPY\x01\x00'])
def test_not_an_npz(tmp_path, raw):
    (tmp_path/'a.npz').write_bytes(raw)
    with pytest.raises(ValueError, match='expected a sound npz'): load_npz(tmp_path/'a.npz')

def tree(root, sets=('',), sizes=((8, 8),), mode='RGB', names='ab', n=4):
    for s in sets:
        for k,c in enumerate(names):
            (root/s/c).mkdir(parents=True, exist_ok=True)
            for i in range(n): Image.new(mode, sizes[i%len(sizes)], 40*k+i if mode=='L' else (40*k+i, i, k)).save(root/s/c/f'{i}.png')
    return root

def test_folder_is_what_torchvision_reads(tmp_path):
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor
    tree(tmp_path, ('train', 'test'), names='bca')
    (tmp_path/'train/a/notes.txt').write_text('no image')
    d = load_folder(tmp_path)
    for part,x,y in (('train', d.train_x, d.train_y), ('test', d.test_x, d.test_y)):
        theirs = ImageFolder(str(tmp_path/part))
        assert theirs.classes==list(d.classes) and theirs.targets==y.tolist()
        assert torch.equal(torch.stack([pil_to_tensor(im) for im,_ in theirs]), x)

def test_folder_grey_stays_grey_and_mixed_becomes_rgb(tmp_path):
    assert load_folder(tree(tmp_path/'g', mode='L')).train_x.shape[1]==1
    tree(tmp_path/'m'); Image.new('L', (8, 8), 77).save(tmp_path/'m/a/0.png')
    d = load_folder(tmp_path/'m', test_size=.25)
    x = torch.cat([d.train_x, d.test_x])
    assert x.shape[1]==3 and int((x==77).flatten(1).all(1).sum())==1

def test_folder_val_counts_as_test_and_may_lack_classes(tmp_path):
    tree(tmp_path, ('train',), names='abc'); tree(tmp_path, ('val',), names='ac')
    assert load_folder(tmp_path).test_y.tolist()==[0]*4+[2]*4
    tree(tmp_path, ('val',), names='ad')
    with pytest.raises(ValueError, match='the classes of train in val: a, b, c, got d'): load_folder(tmp_path)

@pytest.mark.parametrize('make,text', [
    (lambda p: tree(p, sizes=((8, 8), (8, 9))), 'images of one size, 8 x 8 as in'),
    (lambda p: tree(p, names='a'), 'at least two class folders'),
    (lambda p: (tree(p), (p/'empty').mkdir()), 'at least one image in each class folder, got none in'),
    (lambda p: (tree(p), Image.new('I;16', (8, 8)).save(p/'a/x.png')), 'images of 8 bits a channel, got I'),
    (lambda p: (tree(p), (p/'a/x.jpg').write_bytes(b'\xff\xd8\xff')), 'damaged or unknown file'),
    (lambda p: (tree(p), Image.effect_noise((64, 64), 50).save(p/'a/0.png'), (p/'a/0.png').write_bytes((p/'a/0.png').read_bytes()[:1000])), 'damaged or unknown file'),
    (lambda p: tree(p, n=1), 'at least two samples in each class')])
def test_bad_folders(tmp_path, make, text):
    make(tmp_path/'set')
    with pytest.raises(ValueError) as e: load_folder(tmp_path/'set')
    assert text in str(e.value) and '\n' not in str(e.value)

def evil(path, *names, link=False):
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr('fine.txt', 'x')
        for n in names:
            i = zipfile.ZipInfo(n)
            if link: i.external_attr = (stat.S_IFLNK|0o777)<<16
            z.writestr(i, '/etc' if link else 'x')
    return path

@pytest.mark.parametrize('name', ['../x', 'a/../../x', '/x', 'a/..', 'C:/x', 'a\\..\\x', '..', './../x'])
def test_no_entry_leaves_its_folder(tmp_path, name):
    (tmp_path/'in').mkdir()
    with pytest.raises(ValueError, match='entries that stay inside'): safe_extract(evil(tmp_path/'z.zip', name), tmp_path/'in')
    assert sorted(p.name for p in tmp_path.rglob('*'))==['in', 'z.zip']

def test_links_bombs_and_damage_are_refused(tmp_path):
    (tmp_path/'in').mkdir()
    with pytest.raises(ValueError, match='no links'): safe_extract(evil(tmp_path/'z.zip', 'link', link=True), tmp_path/'in')
    with pytest.raises(ValueError, match='at most 1 bytes'): safe_extract(evil(tmp_path/'z.zip', 'b'), tmp_path/'in', limit=1)
    raw = bytearray(evil(tmp_path/'z.zip', 'b').read_bytes()); raw[raw.index(b'fine.txt')+8] ^= 1
    (tmp_path/'z.zip').write_bytes(raw)
    with pytest.raises(ValueError, match='expected a sound archive, got z.zip'): safe_extract(tmp_path/'z.zip', tmp_path/'in')
    assert not list((tmp_path/'in').iterdir())
    safe_extract(evil(tmp_path/'z.zip', 'sub/b'), tmp_path/'in')
    assert sorted(p.name for p in (tmp_path/'in').iterdir())==['fine.txt', 'sub']

@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(.01, .9), st.integers(0, 10**6))
def test_hold_out_splits_each_class(counts, share, seed):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = torch.arange(len(y), dtype=torch.int32).view(torch.uint8).view(-1, 1, 2, 2) # the bytes of its number: each image differs
    d = hold_out(Data('n', x, y, x[:2], y[:2], len(counts)), share, seed)
    a,b = ({bytes(i.numpy().tobytes()) for i in v} for v in (d.train_x, d.test_x))
    assert not a&b and len(a)+len(b)==len(y)
    got = torch.bincount(d.test_y, minlength=len(counts)).tolist()
    assert got==[min(c-1, max(1, round(share*c))) for c in counts]

def test_pixels_travel_with_the_network():
    x = torch.randint(0, 256, (20, 3, 5, 5), generator=gen(), dtype=torch.uint8)
    mean,std = pixel_stats(x)
    f = (x.double()/255).permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(mean.double(), f.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(std.double(), f.std(1, correction=0), atol=1e-6, rtol=0)
    p = pickle.loads(pickle.dumps(Pixels(mean, std)))
    assert torch.equal(p(x), Pixels(mean, std)(x)) and not list(p.parameters())
    other = Pixels(torch.zeros(3), torch.ones(3)); other.load_state_dict(p.state_dict())
    assert torch.equal(other(x), p(x))

def test_stream_squares_any_size_and_repeats_by_seed(tmp_path):
    tree(tmp_path, sizes=((20, 12), (9, 30), (16, 16)))
    a,b,c = (list(image_stream(tmp_path, 4, 8, seed=s)) for s in (0, 0, 1))
    assert [tuple(x.shape) for x,_ in a]==[(4, 3, 8, 8)]*2 and all(torch.equal(p[0], q[0]) for p,q in zip(a, b))
    assert not all(torch.equal(p[0], q[0]) for p,q in zip(a, c))
    w = list(image_stream(tmp_path, 4, 8, workers=1))
    assert all(torch.equal(p[0], q[0]) for p,q in zip(a, w))

@pytest.mark.parametrize('call,err,text', [
    (lambda p: load_folder(p/'no'), FileNotFoundError, 'data: expected an existing folder'),
    (lambda p: load_npz(put(p/'a.npz'), part='train'), ValueError, 'part: expected one of test, val'),
    (lambda p: load_npz(put(p/'a.npz'), part='val'), ValueError, 'arrays train_images, train_labels, val_images, val_labels'),
    (lambda p: save_npz(load_npz(put(p/'a.npz')), p/'b.zip'), ValueError, 'path: expected a name ending in .npz'),
    (lambda p: check_sha256(p/'no', '0'*64), FileNotFoundError, 'data: expected an existing file'),
    (lambda p: image_stream(p/'no', 4, 8), FileNotFoundError, 'data: expected an existing folder'),
    (lambda p: image_stream(tree(p/'s'), 4, 8, workers=-1), ValueError, 'workers: expected a whole number >= 0')])
def test_bad_arguments(tmp_path, call, err, text):
    with pytest.raises(err) as e: call(tmp_path)
    assert text in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('train, held', [('train', 'valid'), ('Train', 'Test'), ('training', 'dev')])
def test_names_of_splits(tmp_path, train, held):
    d = load_folder(tree(tmp_path, (train, held)))
    assert d.classes==('a', 'b') and len(d.train_x)==len(d.test_x)==8

def test_a_training_folder_alone_is_no_class(tmp_path):
    with pytest.raises(ValueError, match='data: expected a folder test or val beside train, or class folders alone, got other, train'): load_folder(tree(tmp_path, ('train', 'other')))

def test_nothing_in_a_class_folder_is_skipped_in_silence(tmp_path):
    tree(tmp_path); (tmp_path/'a/5.gif').touch()
    with pytest.warns(UserWarning, match='data: 1 images in .*a are passed over'): load_folder(tmp_path)
    (tmp_path/'b/6.png').symlink_to(tmp_path/'gone.png')
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='got 1 links to files that are not there, the first .*6.png'): load_folder(tmp_path)

def test_a_constant_channel_is_only_centred(tmp_path):
    x = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8, generator=gen()); x[:,2] = 7
    mean,std = pixel_stats(x)
    assert std[2]==1 and Pixels(mean, std)(x)[:,2].abs().max()<1e-6

def test_large_labels_and_odd_members(tmp_path):
    with pytest.raises(ValueError, match='train_labels: expected labels that count the classes from 0, got 1000000000'): load_npz(put(tmp_path/'a.npz', train_labels=np.array([0, 1, 2, 0, 1, 10**9])))
    with zipfile.ZipFile(tmp_path/'b.npz', 'w') as z:
        for k in arrays(): z.writestr(f'{k}.txt', 'x')
    with pytest.raises(ValueError, match='data: expected a sound npz file'): load_npz(tmp_path/'b.npz')

@pytest.mark.parametrize('name', ['train_images', 'train_labels', 'classes'])
@pytest.mark.parametrize('content', [b'text', b''])
def test_members_that_are_no_arrays(tmp_path, name, content):
    "NumPy hands out the bytes of such a member."
    p = put(tmp_path/'a.npz', classes=np.array(['a', 'b', 'c']))
    with zipfile.ZipFile(p) as z, zipfile.ZipFile(tmp_path/'b.npz', 'w') as w:
        for m in z.namelist(): w.writestr(m, content if m==f'{name}.npy' else z.read(m))
    with pytest.raises(ValueError, match=f'data: expected a sound npz file, got b.npz .SHA-256 [0-9a-f]*.: {name} is no array'): load_npz(tmp_path/'b.npz')

def test_more_odd_members(tmp_path):
    with pytest.raises(TypeError, match='train_labels: expected integer labels, got dtype <U3'): load_npz(put(tmp_path/'a.npz', train_labels=np.array(['cat']*6)))
    assert load_npz(put(tmp_path/'a.npz', classes=np.array([b'a', b'b', b'c']))).classes==('a', 'b', 'c')
    p = put(tmp_path/'a.npz')
    with zipfile.ZipFile(p, 'a') as z: z.writestr('classes.txt', 'cat dog'); z.writestr('__MACOSX/._train_images.npy', b'x')
    assert load_npz(p).classes==()

@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_are_turned_as_the_camera_says(tmp_path, orientation):
    "At once and streamed; PIL's own rule is the reference."
    upright = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation] # the transpose that undoes the turn
    stored = Image.fromarray(upright) if back is None else Image.fromarray(upright).transpose(Image.Transpose(back))
    notes = Image.Exif(); notes[0x0112] = orientation
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(3): stored.save(tmp_path/c/f'{i}.png', exif=notes)
    assert np.array_equal(read_image(tmp_path/'a/0.png'), upright)
    assert np.array_equal(load_folder(tmp_path).train_x[0].permute(1, 2, 0).numpy(), upright)
    x,_ = next(iter(image_stream(tmp_path, 2, 12)))
    assert np.array_equal(x[0].permute(1, 2, 0).numpy(), upright[:,4:16])

def saved(path, im, **kw):
    im.save(path, **kw)
    return path

def png16(h, w):
    "A PNG in RGB with 16 bits a channel."
    def chunk(kind, data): return struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
    head = struct.pack('>IIBBBBB', w, h, 16, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', head)+chunk(b'IDAT', zlib.compress(bytes(h*(1+6*w))))+chunk(b'IEND', b'')

def test_palettes_alpha_and_bits(tmp_path):
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    few = rgb.quantize(16)
    assert np.array_equal(read_image(saved(tmp_path/'p.png', few)), np.array(few.convert('RGB')))
    opaque = rgb.copy(); opaque.putalpha(255)
    assert np.array_equal(read_image(saved(tmp_path/'a.png', opaque)), np.array(rgb))
    grey = rgb.convert('L'); la = grey.copy(); la.putalpha(255)
    assert np.array_equal(read_image(saved(tmp_path/'la.png', la)), np.array(grey))
    assert np.array_equal(read_image(saved(tmp_path/'one.png', grey.convert('1'))), np.array(grey.convert('1').convert('L')))
    for name,im,kw in (('glass', opaque, {}), ('hole', few, dict(transparency=0)), ('cut', rgb, dict(transparency=rgb.getpixel((0, 0))))):
        if name=='glass': im.putalpha(77)
        with pytest.raises(ValueError, match=f'data: expected images without transparent pixels, got transparency in .*{name}.png'): read_image(saved(tmp_path/f'{name}.png', im, **kw))
    with pytest.raises(ValueError, match='one image in a file, got several images in .*film.tif'): read_image(saved(tmp_path/'film.tif', rgb, save_all=True, append_images=[rgb]))
    for mode in ('I;16', 'I', 'F'):
        with pytest.raises(ValueError, match=f'images of 8 bits a channel, got {mode[0]}.* of more bits'): read_image(saved(tmp_path/f'{mode[0]}.tif', Image.new(mode, (4, 4))))
    deep = {'deep.ppm': b'P6\n2 2\n65535\n'+bytes(24), 'deep.png': png16(2, 2)} # in colour, Pillow would drop eight bits of each
    for name,content in deep.items():
        (tmp_path/name).write_bytes(content)
        with pytest.raises(ValueError, match=f'images of 8 bits a channel, got RGB of more bits in .*{name}'): read_image(tmp_path/name)
    cmyk = rgb.convert('CMYK')
    assert read_image(saved(tmp_path/'c.tif', cmyk)).shape==(9, 9, 3)

clutter = ['.DS_Store', 'Thumbs.db', '._0.png', 'desktop.ini', '__MACOSX/._0.png', '__MACOSX/x.png', '.ipynb_checkpoints/0-checkpoint.png', '@eaDir/0.png']

@pytest.mark.parametrize('name', clutter)
def test_what_others_leave_in_a_folder_is_no_data(tmp_path, name):
    for where in ('', 'train', 'train/a'):
        root = tree(tmp_path/f'set{where.count("/")}{len(where)}', ('train', 'test') if where else ('',))
        want, stream = load_folder(root), list(image_stream(root, 4, 8, shuffle=False))
        f = root/where/name
        f.parent.mkdir(parents=True, exist_ok=True); f.write_bytes(b'no image')
        got = load_folder(root)
        assert got.classes==want.classes and torch.equal(got.train_x, want.train_x) and torch.equal(got.test_x, want.test_x)
        for (a,_),(b,_) in zip(stream, image_stream(root, 4, 8, shuffle=False)): assert torch.equal(a, b)

@pytest.mark.parametrize('sets', [('',), ('train', 'test'), ('Training', 'val')])
def test_folders_read_at_once_and_streamed_are_one(tmp_path, sets):
    "Splits, classes, labels and bytes, of photos of mixed size."
    root = tree(tmp_path, sets, sizes=((20, 12), (9, 30), (16, 16)), names='bca', n=6)
    with pytest.raises(ValueError, match='images of one size, .*or image_size'): load_folder(root)
    d = load_folder(root, image_size=10)
    for part,x,y in (('train', d.train_x, d.train_y), ('test', d.test_x, d.test_y)):
        (u,v), = image_stream(root, len(x), 10, shuffle=False, part=part)
        assert torch.equal(u, x) and torch.equal(v, y)
    everything = sum(len(y) for _,y in image_stream(root, 5, 10, shuffle=False))
    assert everything==(18 if sets==('',) else len(d.train_x)) # a test folder is never trained on

def test_streams_answer_like_folders(tmp_path):
    root = tree(tmp_path/'a')
    (root/'a/0.png').write_bytes(b'\x89PNG nothing')
    with pytest.raises(ValueError, match='data: expected an image, got a damaged or unknown file .*0.png'): list(image_stream(root, 4, 8))
    with pytest.raises(ValueError, match='a folder test or val beside train'): image_stream(tree(tmp_path/'b', ('train', 'other')), 4, 8)
    with pytest.raises(ValueError, match='part: expected one of'): image_stream(root, 4, 8, part='val')
    with pytest.raises(ValueError, match='image_size: expected a whole number >= 1, got 0'): load_folder(root, image_size=0)

def test_image_size_scales_the_middle_square(tmp_path):
    im = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)); im.save(tmp_path/'x.png')
    assert np.array_equal(read_image(tmp_path/'x.png', 30), np.array(im)[:,10:40])
    assert np.array_equal(read_image(tmp_path/'x.png', 15), np.array(ImageOps.fit(im, (15, 15), Image.Resampling.BILINEAR)))

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('x', [torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8), torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5, dtype=torch.float64)])
def test_pixels_have_the_precision_of_their_network(dtype, x):
    p = Pixels(torch.tensor([.5, .4, .3]), torch.tensor([.2, .3, .2]))
    z = p.to(dtype)(x)
    assert z.dtype==dtype
    torch.testing.assert_close(z.double(), Pixels(torch.tensor([.5, .4, .3]), torch.tensor([.2, .3, .2])).double()(x), atol=.05 if dtype.itemsize<4 else 1e-5, rtol=0)
    assert torch.nn.Sequential(p, torch.nn.Conv2d(3, 2, 3).to(dtype))(x).dtype==dtype
