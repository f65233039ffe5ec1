"The oldest version of each package that settings.ini admits, as constraints for pip."
import configparser, re
c = configparser.ConfigParser(interpolation=None)
c.read('settings.ini')
for r in c['DEFAULT']['requirements'].split():
    if m := re.fullmatch(r'([\w-]+)>=([\d.]+)', r): print(f"{m[1]}=={m[2] if '.' in m[2] else m[2]+'.0'}.*")
