"What is shown: the size of pictures and pages, the size of their letters, films that a reader can steer, and the contrast of the site's text."
import base64, json, re, struct, zlib
from html import unescape
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
nbs = sorted((root/'nbs').glob('*.ipynb'))
cells = {p.name: json.loads(p.read_text(encoding='utf-8'))['cells'] for p in nbs}

def source(c): return ''.join(c['source'])
def shown(page, kind): return [''.join(o['data'][kind]) for c in cells[page] for o in c.get('outputs', []) if kind in o.get('data', {})]
def films(page): return [h for h in shown(page, 'text/html') if 'class="film"' in h]
def frames(film): return json.loads(zlib.decompress(base64.b64decode(re.search('data-frames="([^"]*)"', film)[1])))

@pytest.mark.parametrize('page', cells)
def test_pages_are_light_and_pictures_wide(page):
    assert (root/'nbs'/page).stat().st_size<300_000
    for png in shown(page, 'image/png'):
        width, = struct.unpack('>I', base64.b64decode(png)[16:20])
        assert width>=600
    for film in films(page): assert all(float(re.search('width="([0-9.]+)pt"', f)[1])*96/72>=590 for f in frames(film))

def test_pictures_of_the_home_page_are_light():
    files = [root/'nbs/images'/f for c in cells['index.ipynb'] for f in re.findall(r'\]\(images/([\w.]+)\)', source(c))]
    assert len(files)==3 and sum(f.stat().st_size for f in files)+(root/'nbs/index.ipynb').stat().st_size<600_000
    for f in files: assert struct.unpack('>I', f.read_bytes()[16:20])[0]>=600

def test_the_picture_of_hucl_is_the_one_on_its_page():
    assert (root/'nbs/images/hucl.png').read_bytes() in [base64.b64decode(p) for p in shown('73_hucl_measured.ipynb', 'image/png')]

def test_the_demo_table_has_left_the_home_page():
    assert 'text_table' not in str(cells['index.ipynb']) and any("'results/demo.csv'" in source(c) for c in cells['66_compare.ipynb'])

sizes = re.compile(r'(?:fontsize|labelsize|font__size|title_fontsize)\s*=\s*(\d+(?:\.\d+)?)')

@pytest.mark.parametrize('page', cells)
def test_letters_have_nine_points(page):
    "As they are asked for, and as the frames of films have them; exponents are smaller by Matplotlib's .7."
    for c in cells[page]:
        if c['cell_type']=='code': assert all(float(s)>=9 for s in sizes.findall(source(c))), source(c)
    for film in films(page):
        for f in frames(film):
            found = {float(s) for s in re.findall(r'font(?:-size)?:[^;"]*?([\d.]+)px', f)}
            assert all(s>=9 or any(abs(s-.7*t)<.01 for t in found) for s in found), found

@pytest.mark.parametrize('page', [p for p in cells if films(p)])
def test_a_film_has_controls_that_speak(page):
    "A button, a slider that says name and value, targets of 24 pixels, no play button for those who want no motion; a picture in words."
    for film in films(page):
        labels = json.loads(unescape(re.search('data-labels="([^"]*)"', film)[1]))
        assert len(labels)==len(frames(film))>1 and all(' = ' in l for l in labels)
        assert unescape(re.search('aria-valuetext="([^"]*)"', film)[1]) in labels and re.search('<img alt="[^"]{20,}"', film)
        assert int(re.search(r'min-height:(\d+)px', film)[1])>=24 and int(re.search(r'min-width:(\d+)px', film)[1])>=24
        assert 'prefers-reduced-motion:reduce' in film and 'aria-label="Play"' in film

@pytest.mark.parametrize('page', [p for p in cells if films(p) and p!='index.ipynb'])
def test_a_film_can_be_stopped_in_between(page):
    "In a cell that the reader sees, at most one line below the film's words."
    calls = [source(c) for c in cells[page] if c['cell_type']=='code' and re.match(r'by_hand\(', source(c))]
    assert len(calls)==len(films(page)) and all(len(s.splitlines())==1 for s in calls)

# ---- contrast, as WCAG 2.2 defines it ----
def luminance(colour):
    c = [int(colour[k:k+2], 16)/255 for k in (1, 3, 5)]
    return sum(w*(v/12.92 if v<=.04045 else ((v+.055)/1.055)**2.4) for w,v in zip((.2126, .7152, .0722), c))

def contrast(a, b): return (max(luminance(a), luminance(b))+.05)/(min(luminance(a), luminance(b))+.05)

papers = dict(light=('#ffffff', '#f1f3f5'), dark=('#222222', '#303030')) # the page, and what stands behind code

@pytest.mark.parametrize('look', papers)
def test_text_stands_out(look):
    named = dict(re.findall(r'\$([\w-]+): (#\w{6})', (root/f'nbs/{look}.scss').read_text()))
    assert {'link-color', 'code-color', 'sidebar-fg', 'toc-color'}<=named.keys()
    for name,colour in named.items():
        for paper in papers[look]: assert contrast(colour, paper)>=4.5, (name, paper)
    bar = (root/'_quarto.yml').read_text()
    assert contrast(*(re.search(rf'{k}: "(#\w{{6}})"', bar)[1] for k in ('background', 'foreground')))>=4.5
    doors = (root/'nbs/theme.scss').read_text()
    assert contrast(re.search(r'\.doors a:hover, .*?background: (#\w{6}); color: #fff', doors)[1], '#ffffff')>=4.5
    assert contrast(re.search(r'\.quarto-dark \.doors a \{.*?[^-]color: (#\w{6})', doors)[1], papers['dark'][0])>=4.5

def turned_over(colour):
    "What the theme's filter makes of a colour in the dark: invert(.907), then hue-rotate(180deg)."
    v = [.907-(2*.907-1)*int(colour[k:k+2], 16)/255 for k in (1, 3, 5)]
    turn = ((-.574, 1.43, .144), (.426, .43, .144), (.426, 1.43, -.856)) # the matrix of the Filter Effects module at 180 degrees
    out = [min(1, max(0, sum(a*x for a,x in zip(row, v)))) for row in turn]
    return '#'+''.join(f'{round(255*x):02x}' for x in out)

def test_lines_stand_out_in_the_dark_too():
    "Every colour of hardness, and of the cycle, on the paper that white turns into."
    assert 'filter: invert(.907) hue-rotate(180deg)' in (root/'nbs/theme.scss').read_text()
    from hardcl_nb.figures import _cycle, beta_colors
    paper = turned_over('#ffffff')
    for colour in (*_cycle, *beta_colors([0, 1, 2, 5, 10, 30, 100]).values()): assert contrast(turned_over(colour), paper)>=3, colour

def test_the_contrast_is_that_of_the_guidelines():
    assert contrast('#ffffff', '#000000')==pytest.approx(21) and contrast('#777777', '#ffffff')==pytest.approx(4.48, abs=.01)
