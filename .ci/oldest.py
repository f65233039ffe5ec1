"""The oldest version of each package that settings.ini admits, as constraints for pip.

    python .ci/oldest.py             the declared versions themselves: numpy>=2 is 2.0.0
    python .ci/oldest.py --wheels    the same; where one has no wheel for this Python, the next that has, and a line on stderr says so
"""
import configparser, re, subprocess, sys
from pathlib import Path

def pip(*words): return subprocess.run([sys.executable, '-m', 'pip', *words], capture_output=True, text=True)

def has_wheel(name, version):
    "Is there a wheel of a version for this Python?"
    return pip('install', '--dry-run', '--ignore-installed', '--no-deps', '--only-binary', ':all:', f'{name}=={version}').returncode==0

def later(name, version):
    "The versions after one, oldest first."
    key = lambda v: [int(k) for k in re.findall(r'\d+', v)]
    found = re.search(r'^Available versions: (.*)$', pip('index', 'versions', name).stdout, re.M)
    versions = [v for v in found[1].split(', ') if re.fullmatch(r'[\d.]+', v)] if found else []
    return sorted((v for v in versions if key(v)>key(version)), key=key)

def oldest(name, version):
    "The declared version, or the first after it with a wheel."
    if has_wheel(name, version): return version
    for v in later(name, version):
        if has_wheel(name, v):
            print(f'{name} {version} has no wheel for this Python: {v} in its place', file=sys.stderr)
            return v
    sys.exit(f'{name}: expected a wheel of {version} or later for this Python, got none')

if __name__=='__main__':
    c = configparser.ConfigParser(interpolation=None)
    c.read(Path(__file__).resolve().parent.parent/'settings.ini')
    for r in c['DEFAULT']['requirements'].split():
        if m := re.fullmatch(r'([\w-]+)>=([\d.]+)', r): print(f"{m[1]}=={oldest(*m.groups()) if '--wheels' in sys.argv else m[2]}", flush=True)
