"""A place for faults: a PostgreSQL of its own, daemons that reach it through a proxy each, the
scripted model, clients and tools that record everything, and the judgement at the end.

    with Stage('1-worker-kill', seed=7) as stage:
        stage.standard(workers=3, apis=2)
        load = stage.load.start([...]); ...; stage.workers[0].kill(); ...
        stage.settle(60)               # every turn has ended and every subscriber has seen it
        stage.judge()                  # invariants from the tables, history from the logs
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'system'))

import check  # noqa: E402
import cluster  # noqa: E402
import harness  # noqa: E402
import load as load_  # noqa: E402
from harness import Http, program, wait_until  # noqa: E402

# Where failed sites keep their logs.
KEEP = os.environ.get('FAULT_LOGS', '/tmp/nocturne-fault')
TIMES = {'created_at', 'started_at', 'ended_at', 'finished_at', 'claimed_at', 'expires_at'}
TABLES = {
    'task': 'task_id, tenant, agent, session_id, snapshot_id, created_at',
    'done': 'task_id, epoch, status, output, error, abort, last_seq, started_at, finished_at',
    'attempts': 'task_id, epoch, worker, started_at, ended_at, outcome',
    'lease': 'task_id, epoch, worker_id, claimed_at',
    'ready': 'task_id', 'control': 'task_id, kind', 'due': 'task_id, kind',
    'session': 'session_id, running, queue',
    'step': 'task_id, step, epoch, last_seq, created_at',
    'tool_call': 'task_id, step, idx, epoch, name, status, seq, started_at, ended_at',
    'chunk': 'task_id, seq_from, epoch, count, at_ms, events',
    'idempotency': 'key, task_id',
}


class Proxy:
    """Rules for one daemon's connections to PostgreSQL: tests/fake/pgproxy.c lists them."""

    def __init__(self, process, port, control):
        self.process, self.port = process, port
        self.http = Http('127.0.0.1', control)

    def conninfo(self, db, user):
        return 'host=127.0.0.1 port=%d dbname=%s user=%s' % (self.port, db, user)

    def rules(self, **rules):
        self.http.post('/rules', rules).ok()

    def heal(self):
        self.rules()

    def blackhole(self):
        self.rules(to_server='drop', to_client='drop')

    def reset(self):
        self.http.post('/reset').ok()

    def close(self):
        self.http.post('/close').ok()

    def stats(self):
        return self.http.get('/stats').ok().json


class Stage(harness.Env):
    def __init__(self, name, seed=0, extra=''):
        super().__init__(cluster_=cluster.Cluster(extra=extra))
        self.name, self.seed = name, seed
        self.history = os.path.join(self.folder, 'history')
        self.record = load_.Recorder(self.history)
        self.load = load_.Load(self.record, seed)
        self.workers, self.schedulers, self.apis = [], [], []
        self.options = {'quiet': True, 'clock': True}
        self.watching = threading.Event()
        self.watcher = None
        self.noted, self.asked_next = set(), 0  # requests of the model
        self.known_done = {}
        self.since = ''         # SQL: tasks of earlier rounds are judged already

    def __exit__(self, kind, *rest):
        try:
            if kind is None:
                self.close()
            else:
                self.keep()
                self.abandon()
        finally:
            self.cluster.close()

    # ---- processes ----

    def proxy(self):
        process = self.spawn('pgproxy', [program('tests/fake/pgproxy'), '--target',
                                         self.cluster.folder + '/.s.PGSQL.5432'])
        found = wait_until(lambda: re.search(r'proxy (\d+) control (\d+)', process.out()), 10,
                           'the ports of pgproxy')
        return Proxy(process, int(found.group(1)), int(found.group(2)))

    def start(self, name, settings, env=None):
        proxy = None
        if 'database' not in settings:
            proxy = self.proxy()
            settings = {'database': proxy.conninfo(self.db, self.cluster.user), **settings}
        process = super().start(name, settings, env)
        process.proxy = proxy
        return process

    def worker(self, *args, **kw):
        process = super().worker(*args, **kw)
        self.workers.append(process)
        return process

    def scheduler(self, *args, **kw):
        process = super().scheduler(*args, **kw)
        self.schedulers.append(process)
        return process

    def api(self, *args, **kw):
        process = super().api(*args, **kw)
        self.apis.append(process)
        address = (process.http.host, process.http.port)
        if address not in self.load.apis:
            self.load.apis.append(address)
        return process

    def replace(self, process):
        """Another one like it, e.g. after its kill. An api keeps its port."""
        for group, make in ((self.workers, self.worker), (self.schedulers, self.scheduler)):
            if process in group:
                group.remove(process)
                return make(wait=False)
        self.apis.remove(process)
        return self.api(wait=False, port=process.http.port)

    def standard(self, workers=2, schedulers=1, apis=1, worker=None):
        """A complete Nocturne with default settings, and the agent `a` with two tools."""
        self.modelsim()
        for _ in range(schedulers):
            self.scheduler(wait=False)
        for _ in range(workers):
            self.worker(wait=False, **(worker or {}))
        for _ in range(apis):
            self.api(wait=False)
        for api in self.apis:
            wait_until(lambda: self._is_ready(api.http), 20, 'GET /readyz')
        wait_until(lambda: self.value("select count(*) from nocturne.worker where state = 'live'")
                   >= workers, 20, 'workers')
        wait_until(lambda: self.value('select count(*) from nocturne.leader '
                                      'where expires_at > clock_timestamp()'), 20, 'a leader')
        self.agent('a')
        self.watch()

    def agent(self, name, **more):
        self.llm_agent(name, [self.load.tool('note'), self.load.tool('once', once=True)], **more)

    # ---- looking ----

    def watch(self):
        """Note terminal rows as they come, and what the model was asked."""
        def run():
            while not self.watching.wait(1.0):
                try:
                    self.look()
                except (cluster.SqlError, subprocess.SubprocessError, OSError, AssertionError):
                    pass  # a fault

        self.watcher = threading.Thread(target=run, daemon=True)
        self.watcher.start()

    def look(self):
        self.note_models()
        rows = {r['task']: r for r in self.sql('select task_id as task, status, epoch, output '
                                               'from nocturne.done ' + self.since, timeout=20)}
        for task, row in rows.items():
            if self.known_done.get(task) != row:
                self.record('done', **row)
        for task in set(self.known_done) - set(rows):
            self.record('done', task=task, status=None, epoch=None, output=None)
        self.known_done = rows

    def note_models(self, last=False):
        """modelsim remembers 10,000 requests, and telling them costs; so not at every look."""
        if not self.sim or not self.sim.process.alive or \
                (not last and self.sim.stats()['requests'] < self.asked_next):
            return
        for r in self.sim.requests():
            if r['id'] not in self.noted and (last or r['status'] != 'open'):
                self.noted.add(r['id'])
                self.record('models', script=r['script'], step=r['step'], status=r['status'],
                            at=r['at'] / 1000, ended=(r.get('endedAt') or 0) / 1000)
            self.asked_next = r['id'] + 3000

    # ---- the end ----

    def settle(self, seconds, turns=None):
        """Wait until every turn of the load has ended, and its subscribers have seen it."""
        wait_until(lambda: all(t.settled for t in turns or self.load.turns), seconds,
                   'the end of all turns', every=0.1)

    def dump(self):
        for name, columns in TABLES.items():
            names = [c.strip() for c in columns.split(',')]
            exprs = ['extract(epoch from %s)::float8 as %s' % (c, c) if c in TIMES else c
                     for c in names]
            since = self.since if 'task_id' in names else ''
            for row in self.sql('select %s from nocturne.%s %s' % (', '.join(exprs), name, since),
                                300):
                self.record.text('tables', json.dumps({'table': name, 'row': row}))

    def collect(self):
        """The history of all that happened, and what is wrong with it: [(kind, what)]."""
        self.watching.set()
        if self.watcher:
            self.watcher.join(60)
        found = []
        try:
            self.check_invariants(quiet=self.options['quiet'], deadline=30)
        except AssertionError as e:
            found.append(('tables', str(e)))
        self.look()
        self.note_models(last=True)
        self.dump()
        self.record('meta', **self.options)
        self.record.flush()
        history = check.read(self.history)
        return history, found + check.check(history)

    def judge(self):
        """The history; raises when it breaks an invariant."""
        history, found = self.collect()
        if found:
            raise AssertionError('%d violations\n  %s' % (
                len(found), '\n  '.join('%s: %s' % f for f in found[:20])))
        return history

    def next_round(self):
        """Go on with new logs: what has ended is judged."""
        floor = self.value('select nocturne.uuid7_floor(clock_timestamp())')
        self.since = "where task_id >= '%s'" % floor
        self.record.close()
        shutil.rmtree(self.history)
        os.mkdir(self.history)
        self.load.turns, self.known_done = [], {}
        self.watching.clear()
        self.watch()

    def keep(self):
        """Keep the logs of a stage that failed; where."""
        self.record.flush()
        os.makedirs(KEEP, exist_ok=True)
        target = tempfile.mkdtemp(prefix=self.name + '-', dir=KEEP)
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        with open(os.path.join(target, 'postgres.log'), 'w') as f:
            f.write(self.cluster.log(100000))
        print('logs of %s are kept in %s' % (self.name, target), flush=True)

    def abandon(self):
        """After a failure: nothing is asked of the processes."""
        for process in self.processes:
            process.cont()
            process.kill()
        self.load.close()
        self.record.close()
        if self in harness.open_envs:
            harness.open_envs.remove(self)
        self.closed = True
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self):
        self.watching.set()
        self.load.close()
        self.record.close()
        daemons = [p for p in self.processes if not p.name.startswith('pgproxy')]
        for process in daemons:  # they need their proxies to the end
            process.cont()
            process.term()
        for process in daemons:
            try:
                process.wait(30)
            except AssertionError:
                pass  # told by Env.close()
        super().close()
