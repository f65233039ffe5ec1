"""Frames a second of the home page's playground in headless Chromium: 10 x 10 points on the ball in three dimensions.

Chromium asks for a frame at most 60 times a second; in each of them the playground takes two steps of descent and draws both pictures."""
import argparse, json, re, shutil, subprocess, sys, tempfile, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCRIPT = Path(__file__).parents[1]/'nbs/playground.js'
PAGE = '''<!doctype html><meta charset="utf-8"><div id="box"></div><pre id="out"></pre><script>%s</script><script>
const box = document.getElementById('box'), p = hardclPlayground.playground(box), got = [];
for (const [k, v] of [['C', 10], ['m', 10], ['d', 3], ['beta', 5], ['method', 'HSCL']]) p.set(k, v);
p.play(true);
setInterval(() => { got.push(hardclPlayground.framesPerSecond); document.getElementById('out').textContent = JSON.stringify(got); }, 1000);
</script><img src="/late" alt="">'''

def serve(seconds):
    "A server of the page, and of a picture that comes late: until then the browser does not call the page loaded."
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path=='/late': time.sleep(seconds+.5)
            body = PAGE%SCRIPT.read_text(encoding='utf-8') if self.path=='/' else ''
            self.send_response(200)
            self.send_header('Content-Type', 'text/html; charset=utf-8')
            self.end_headers()
            self.wfile.write(body.encode())
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_port}/'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seconds', type=int, default=10)
    a = p.parse_args()
    browser = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not browser:
        print('no Chromium: nothing measured')
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        cmd = [browser, '--headless', '--no-sandbox', f'--user-data-dir={profile}', '--dump-dom', serve(a.seconds)]
        dom = subprocess.run(cmd, check=True, capture_output=True, text=True, timeout=60+a.seconds).stdout
    print('frames in each second:', *json.loads(re.search('<pre id="out">(.*?)</pre>', dom)[1]))

if __name__=='__main__': main()
