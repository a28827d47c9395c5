"""The measurements of Nocturne itself. Each takes the Bench (server, peers, sizes), makes an
environment of its own (fresh database, fresh daemons) and returns a dict of figures."""
import contextlib
import datetime
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

import server as _  # noqa: F401  (finds tests/system)
import cluster
import harness
import machine

INPUT = 'noop 12345 ' + 'x' * 30          # as many bytes as the peers' payload
ECHO = {'kind': 'echo'}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MANY = {'max_parked_per_peer': 0, 'max_conns': 12000}
ALL_ENDED = ('not exists (select from nocturne.ready) and not exists (select from nocturne.lease)')


def load(kind, port, timeout=300, **options):
    """Run tests/bench/load; what it measured."""
    argv = [harness.program('tests/bench/load'), kind, '--port', str(port)]
    for name, value in options.items():
        argv += ['--' + name, str(value)]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout)
    if not done.stdout.startswith('{'):
        raise RuntimeError('load %s: %s' % (kind, done.stderr.strip()[-300:]))
    figures = json.loads(done.stdout)
    if done.returncode:
        figures['complaints'] = done.stderr.strip()[-300:]
    return figures


class Usage:
    """CPU of daemons and of PostgreSQL, and WAL, between now and read()."""

    def __init__(self, bench, **processes):
        self.bench, self.processes = bench, processes
        self.cpu = {n: machine.cpu(p.pid) for n, p in processes.items()}
        self.pg, self.wal, self.at = bench.server.cpu(), bench.server.wal(), time.monotonic()

    def read(self):
        seconds = time.monotonic() - self.at
        found = {n: round(machine.cpu(p.pid) - self.cpu[n], 3) for n, p in self.processes.items()}
        found['postgres'] = round(self.bench.server.cpu() - self.pg, 2)
        return {'wal_from': self.wal, 'wal_bytes': self.bench.server.wal() - self.wal, 'wall_s': round(seconds, 3), 'cpu_s': found}


def api_port(env):
    return env.http.port


def fill(env, n, agent='echo', text=INPUT, run_at=None, session=None):
    """Submit n turns inside the database; returns their ids in order."""
    # a parameter has to depend on g, or the function is called once for all of them
    extra = ", p_run_at => clock_timestamp() + interval '%s'" % run_at if run_at else ''
    extra += ", p_session => %s" % harness.literal(session) if session else ''
    out = env.execute("""select s.task_id from generate_series(1, %d) g,
        lateral nocturne.submit(%s, %s, p_priority => 5 + 0 * g%s) s""" % (n, harness.literal(agent),
                                                 harness.literal(json.dumps(text)), extra), timeout=600)
    return out.split()


# ---- submit and drain ----

def submit(bench, n):
    """Durable submits over HTTP by 16 keep-alive clients."""
    with harness.Env() as env:
        env.scheduler()
        api = env.api(**MANY)
        env.put_agent('echo', ECHO)
        path, body = '/v1/agents/echo/tasks', json.dumps({'input': INPUT})
        load('requests', api_port(env), clients=16, total=500, path=path, body=body)
        env.execute('analyze')
        used = Usage(bench, api=api)
        figures = load('requests', api_port(env), clients=16, total=n, path=path, body=body)
        figures.update(used.read())
        figures['stored'] = env.value('select count(*) from nocturne.task') - 500
        if figures['stored'] != n or figures['failed']:
            raise RuntimeError('%d of %d submits are stored: %s' % (figures['stored'], n, figures))
        return figures


def bulk(bench, n):
    """1,000 turns a request, one request after the other."""
    with harness.Env() as env:
        api = env.api(**MANY)
        env.put_agent('echo', ECHO)
        path = bench.bulk_path
        body = json.dumps({bench.bulk_member: [{'agent': 'echo', 'input': INPUT}] * 1000})
        if env.http.post(path, body, headers={'Content-Type': 'application/json'}).status >= 300:
            raise RuntimeError('POST %s: the api has no bulk submit' % path)
        with tempfile.NamedTemporaryFile('w') as f:
            f.write(body)
            f.flush()
            env.execute('analyze')
            used = Usage(bench, api=api)
            figures = load('requests', api_port(env), clients=1, total=n // 1000, path=path, body='@' + f.name)
        figures.update(used.read())
        stored = env.value('select count(*) from nocturne.task') - 1000
        if stored != n // 1000 * 1000:
            raise RuntimeError('%d of %d submits are stored' % (stored, n))
        figures['per_s'] *= 1000
        return figures


def drain_in(bench, env, n, queued=0, **settings):
    """Queue n turns behind those that are, start a worker, wait until the last end is visible in the database."""
    last = fill(env, n)[-1]
    env.execute('analyze; checkpoint', timeout=300)
    first = env.value('select min(task_id::text) from nocturne.ready')
    psql = env.psql()
    used = Usage(bench)
    worker = env.worker(wait=False, slots=bench.slots, **settings)
    end = time.monotonic() + 240
    while not psql.run("select 1 from nocturne.done where task_id = '%s'" % last):
        if time.monotonic() > end or not worker.alive:
            raise RuntimeError('%d turns did not end\n%s' % (n, worker.tail()))
        time.sleep(0.01)
    while psql.run('select ' + ALL_ENDED)[0] != 't':
        time.sleep(0.005)
    seconds = float(psql.run("""select extract(epoch from clock_timestamp()) - extract(epoch from
        (select min(started_at) from nocturne.attempts where task_id >= '%s'))""" % first)[0])
    figures = {'n': n, 'per_s': round((n + queued) / seconds, 1), 'worker_cpu_s': machine.cpu(worker.pid),
               'worker_mib': round(machine.rss(worker.pid) / 2**20, 1), **used.read()}
    figures['wal_per_turn'] = round(figures['wal_bytes'] / n)
    figures['wal_images_per_turn'] = round(bench.server.wal_images(used.wal, used.wal + figures['wal_bytes']) / n)
    ended = env.value("select count(*) from nocturne.attempts where task_id >= '%s' and outcome = 'completed'" % first)
    if ended != n + queued:
        raise RuntimeError('%d of %d turns completed' % (ended, n + queued))
    worker.end()
    return figures


def drain(bench, n):
    """Queued `echo` turns, with session, snapshot, output and event."""
    with harness.Env() as env:
        env.scheduler()
        env.put_agent('echo', ECHO)
        figures = drain_in(bench, env, n)
        rows = env.sql("""select (select count(*) from nocturne.done where output is not null) as outputs,
            (select count(*) from nocturne.snapshot) as snapshots, (select count(distinct task_id) from nocturne.chunk) as chunks,
            (select count(*) from nocturne.session where head is not null) as heads""")[0]
        if set(rows.values()) != {n}:
            raise RuntimeError('not all was written: %r' % rows)
        return figures


BEGUN = re.compile(r'^ts=(\S+) level=debug prog=\S+ task=(\S+) epoch=\d+ state=parked ', re.M)


def begun_at(worker):
    """{task: us since 1970} at which each turn had begun: the line of the worker's log behind `turn.started`."""
    found = {}
    for stamp, task in BEGUN.findall(worker.log()):
        at = datetime.datetime.fromisoformat(stamp.replace('Z', '+00:00'))
        found.setdefault(task, (at - EPOCH) // datetime.timedelta(microseconds=1))
    return found


def latency(bench, seconds):
    """From before the POST to `turn.started`, at 20 a second; and to the model's first token."""
    with harness.Env() as env:
        env.scheduler()
        env.modelsim()
        worker, api = env.worker(log_level='debug'), env.api()
        env.llm_agent('bench')
        path, body = '/v1/agents/bench/tasks', json.dumps({'input': 'stamp 1 tokens 0ms'})
        load('requests', api_port(env), clients=4, rate=20, total=20, path=path, body=body)
        with tempfile.NamedTemporaryFile('r') as ids:
            used = Usage(bench, api=api, worker=worker)
            load('requests', api_port(env), clients=8, rate=20, seconds=seconds, path=path, body=body, ids=ids.name)
            figures = used.read()
            asked = {i: int(t) for t, i in (line.split() for line in ids.read().splitlines())}
        harness.wait_until(lambda: env.value('select ' + ALL_ENDED), 20, 'the end of all turns')
        running = begun_at(worker)
        started = [(running[i] - t) / 1000 for i, t in asked.items() if i in running]
        model = []
        for row in env.sql("""select task_id, events from nocturne.chunk order by task_id, seq_from"""):
            if row['task_id'] not in asked:
                continue
            for text in row['events'].splitlines():
                event = json.loads(text.split(' ', 1)[1])
                if event['type'] == 'content.delta':
                    model.append((int(event['text']) - asked[row['task_id']]) / 1000)
        if len(started) < len(asked) or len(model) < len(asked):
            raise RuntimeError('%d and %d of %d turns ran' % (len(started), len(model), len(asked)))
        figures.update(n=len(started), **percentiles(started), to_model=percentiles(model))
        return figures


def wake(bench, seconds):
    """What of that is left with libpq alone: a row stored with a notification, heard, and taken."""
    with harness.Env(migrated=False) as env:
        env.execute("""create table task (id uuid primary key, input text); create table ready (seq bigserial primary key, id uuid);
            create table lease (id uuid primary key, at timestamptz)""")
        out = subprocess.run(
            [harness.program('tests/bench/wake'), bench.server.conninfo(env.db), '20', str(seconds), 'listen wake',
             """with t as (insert into task values ($1, '%s') returning id), r as (insert into ready (id) select id from t)
                select pg_notify('wake', '')""" % INPUT,
             """with p as (delete from ready where ctid = any(array(select ctid from ready order by seq limit 100 for update skip locked))
                returning id) insert into lease select id, clock_timestamp() from p returning id"""],
            check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60 + seconds).stdout
        return percentiles([int(us) / 1000 for us in out.split()][20:])


def percentiles(values):
    values = sorted(values)
    at = lambda p: round(values[min(len(values) - 1, int(p / 100 * len(values)))], 3)  # noqa: E731
    return {'p50': at(50), 'p90': at(90), 'p99': at(99), 'max': at(100)}


# ---- streams ----

def stream_env(bench, streams):
    env = harness.Env()
    env.scheduler()
    env.modelsim()
    worker = env.worker(slots=streams + 100)
    api = env.api(**MANY)
    env.llm_agent('bench')
    return env, worker, api


def stream(bench, streams, tokens, every_ms, width=0, ramp=None):
    """Turns whose tokens are made durable and delivered to one subscriber each, live."""
    env, worker, api = stream_env(bench, streams)
    with env:
        def run(n, count):
            script = 'stamp %d tokens %gms' % (count, every_ms) + (' %d bytes' % width if width else '')
            return load('streams', api_port(env), clients=n, expect=count, events='yes', ramp=ramp or n,
                        path='/v1/agents/bench/tasks', body=json.dumps({'input': script}),
                        seconds=60 + count * every_ms / 1000, timeout=400)
        run(20, 20)
        used = Usage(bench, worker=worker, api=api, model=env.sim.process)
        figures = run(streams, tokens)
        figures.update(used.read())
        figures.update(every_ms=every_ms, offered_per_s=streams * 1000 / every_ms,
                       worker_mib=round(machine.rss(worker.pid) / 2**20, 1),
                       api_mib=round(machine.rss(api.pid) / 2**20, 1),
                       lost=figures['missing'])
        rows = env.sql('select count(*) as n, sum(count) as events from nocturne.chunk')[0]
        figures['events_per_row'] = round(rows['events'] / rows['n'], 2)
        return figures


def curve(bench, counts, seconds, every_ms):
    """What the flush makes of more and more streams: the age of a token, events a row, CPU a token."""
    points = []
    for n in counts:
        figures = stream(bench, n, round(seconds * 1000 / every_ms), every_ms)
        points.append({'streams': n, **{p: figures['age_ms'][p] for p in ('p50', 'p99')}, 'events_per_row': figures['events_per_row'], **{
            name + '_us': round(cpu * 1e6 / figures['tokens'], 1) for name, cpu in figures['cpu_s'].items() if name != 'model'}})
    return {'every_ms': every_ms, 'points': points}


def rate(figures):
    """Tokens a second of a run: while all streams ran, or over all of it when they never did."""
    return figures['steady_per_s'] if figures['steady_s'] >= 0.2 else figures['tokens_per_s']


def fastest_stream(bench, streams, tokens, periods, p99_max):
    """The highest rate at which the p99 holds and nothing is lost; all that was tried is kept. A stream lasts
    as long at every rate."""
    best, tried = None, []
    for every_ms in periods:
        figures = stream(bench, streams, round(tokens * periods[0] / every_ms), every_ms)
        figures['rate'] = rate(figures)
        tried.append({k: figures[k] for k in ('every_ms', 'offered_per_s', 'rate', 'lost')} |
                     {'p99': figures['age_ms']['p99']})
        good = figures['age_ms']['p99'] <= p99_max and not figures['lost'] and not figures['unfinished']
        if good and (best is None or figures['rate'] > best['rate']):
            best = figures
        if not good:
            break
    return {**(best or figures), 'tried': tried, 'held': best is not None}


def wal_per_token(bench, streams, every_ms, seconds, width=60):
    """WAL of steady streaming: between two moments in the middle, starts and ends left out."""
    env, worker, api = stream_env(bench, streams)
    with env:
        fill(env, streams, 'bench', 'stamp %d tokens %gms %d bytes' % ((seconds + 600) * 1000 / every_ms, every_ms, width))
        harness.wait_until(lambda: env.sim.stats()['open'] >= streams, 60, 'all streams to run')
        time.sleep(1)
        tokens = lambda: env.value('select coalesce(sum(count), 0) from nocturne.chunk')  # noqa: E731
        env.execute('checkpoint')
        time.sleep(1)  # the full pages behind a checkpoint are once a page, not once a token
        n, wal, at = tokens(), bench.server.wal(), time.monotonic()
        used = Usage(bench, worker=worker)
        time.sleep(seconds)
        n, wal, took = tokens() - n, bench.server.wal() - wal, time.monotonic() - at
        figures = {'tokens': n, 'tokens_per_s': round(n / took), 'wal_bytes_per_token': round(wal / n, 1), **used.read()}
        worker.kill()
        return figures


def bare_tokens(bench, streams, per_row, ticks=20, width=60):
    """The bare statement: a row of per_row tokens for each stream a tick."""
    env = harness.Env()
    with env:
        env.execute("""create table bare (task_id uuid, seq bigint, epoch bigint, count int, at_ms bigint, events text,
            primary key (task_id, seq)); create table streams as select gen_random_uuid() as id from generate_series(1, %d);
            checkpoint""" % streams)
        token = 'x' * width
        wal = bench.server.wal()
        for tick in range(ticks):
            env.execute("insert into bare select id, %d, 1, %d, 1, repeat(%s, %d) from streams"
                        % (tick * per_row, per_row, harness.literal(token), per_row))
        wal = bench.server.wal() - wal
        return {'wal_bytes_per_token': round(wal / (streams * per_row * ticks), 1)}


# ---- memory and idleness ----

class Held:
    """`load hold` in the background."""

    def __init__(self, env, port, n, **options):
        argv = [harness.program('tests/bench/load'), 'hold', '--port', str(port), '--clients', str(n)]
        for name, value in options.items():
            argv += ['--' + name, str(value)]
        self.popen = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self.popen.stdout.readline()
        if not said.startswith('held'):
            raise RuntimeError('load hold: ' + said)

    def close(self):
        self.popen.stdin.close()
        out = json.loads(self.popen.stdout.read())
        self.popen.wait()
        return out


def settled_rss(process):
    """Resident bytes once they stay the same."""
    last = machine.rss(process.pid)
    for _ in range(20):
        time.sleep(0.5)
        now = machine.rss(process.pid)
        if abs(now - last) < 64 << 10:
            return now
        last = now
    return now


def memory(bench, n):
    """KiB of a running turn (a token every 2 s), a waiting client and a subscriber."""
    env, worker, api = stream_env(bench, n)
    with env:
        base = settled_rss(worker)
        ids = fill(env, n, 'bench', 'stamp 1000 tokens 2000ms 60 bytes')
        harness.wait_until(lambda: env.sim.stats()['open'] >= n, 120, 'all turns to run')
        time.sleep(4)
        figures = {'n': n, 'turn_kib': round((settled_rss(worker) - base) / n / 1024, 1)}
        with tempfile.NamedTemporaryFile('w') as paths:
            for kind, path, options in (('waiter', '?wait=300s', {}), ('subscriber', '/events', {'events': 'yes'})):
                paths.seek(0)
                paths.truncate()
                paths.write(''.join('/v1/tasks/%s%s\n' % (i, path) for i in ids))
                paths.flush()
                api = env.api(**MANY)
                env.http.get('/readyz')
                base = settled_rss(api)
                held = Held(env, api_port(env), n, paths=paths.name, **options)
                time.sleep(3)
                figures[kind + '_kib'] = round((settled_rss(api) - base) / n / 1024, 1)
                out = held.close()
                if out['failed'] or (kind == 'waiter' and out['answered']):
                    raise RuntimeError('%s: %r' % (kind, out))
        worker.kill()
        return figures


def set_autovacuum(bench, word):
    for text in ('alter system set autovacuum = ' + word, 'select pg_reload_conf()'):
        bench.server.psql('postgres', text)


def idle(bench, parked, seconds):
    """One worker, api and scheduler with turns that are due tomorrow."""
    with harness.Env() as env:
        scheduler, worker, api = env.scheduler(), env.worker(), env.api()
        env.put_agent('echo', ECHO)
        fill(env, parked, run_at='1 day')
        env.execute('analyze')
        set_autovacuum(bench, 'off')  # its visits, some 20 transactions a minute, are in any database
        time.sleep(12)  # the server counts what a session did when it has been idle for 10 s
        count = lambda: int(bench.server.psql(  # noqa: E731
            'postgres', "select xact_commit + xact_rollback from pg_stat_database where datname = '%s'" % env.db))
        used, before = Usage(bench, scheduler=scheduler, worker=worker, api=api), count()
        time.sleep(seconds)
        figures, after = used.read(), count()
        set_autovacuum(bench, 'on')
        cpu = figures['cpu_s']
        own = sum(v for k, v in cpu.items() if k != 'postgres')
        figures.update(parked=parked, cpu_percent=round(100 * own / figures['wall_s'], 3),
                       postgres_percent=round(100 * cpu['postgres'] / figures['wall_s'], 2),
                       transactions_per_s=round((after - before) / figures['wall_s'], 2))
        return figures


# ---- polls ----

class Polls:
    """Terminal and running tasks to GET, and what they are compared with. One env for all rounds."""

    def __init__(self, bench, tasks=200):
        self.bench, self.env = bench, harness.Env()
        env = self.env
        env.scheduler()
        env.modelsim()
        self.worker = env.worker()
        self.api = env.api(**MANY)
        env.put_agent('echo', ECHO)
        env.llm_agent('bench')
        self.paths = {}
        for kind, ids in (('terminal', fill(env, tasks)), ('running', fill(env, tasks, 'bench', 'gate never'))):
            self.paths[kind] = os.path.join(env.folder, kind + '.paths')
            with open(self.paths[kind], 'w') as f:
                f.write(''.join('/v1/tasks/%s\n' % i for i in ids))
            self.one = {'terminal': ids[0]} if kind == 'terminal' else {**self.one, 'running': ids[0]}
        harness.wait_until(lambda: env.value('select count(*) from nocturne.done') == tasks and
                           env.value('select count(*) from nocturne.lease') == tasks, 30, 'the tasks')
        size = len(env.http.get('/v1/tasks/' + self.one['terminal']).ok(200).body)
        self.responder = subprocess.Popen([harness.program('tests/bench/responder'), str(size)],
                                          stdout=subprocess.PIPE, text=True)
        self.responder_port = int(self.responder.stdout.readline())
        env.execute("""create table point as select md5(g::text)::uuid as id, 'running' as state, g as epoch,
            now() as created, repeat('x', 100) as payload from generate_series(1, 100000) g;
            alter table point add primary key (id); vacuum analyze point; vacuum analyze nocturne.task;
            vacuum analyze nocturne.done""", timeout=120)
        self.script = os.path.join(env.folder, 'point.sql')
        with open(self.script, 'w') as f:
            f.write('\\set r random(1, 100000)\nselect id, state, epoch, created, payload from point'
                    ' where id = md5(:r::text)::uuid;\n')
        os.chmod(env.folder, 0o755)

    def get(self, kind, seconds):
        """64 connections to the api."""
        used = Usage(self.bench, api=self.api)
        figures = load('requests', api_port(self.env), clients=64, seconds=seconds, paths=self.paths[kind])
        if figures['failed']:
            raise RuntimeError(str(figures))
        return {**figures, **used.read()}

    def raw(self, seconds):
        return load('requests', self.responder_port, clients=64, seconds=seconds, paths=self.paths['terminal'])

    def pgbench(self, seconds):
        done = self.bench.server.psql_argv(self.env.db)  # for its conninfo
        out = subprocess.run(
            [os.path.join(cluster.bindir(), 'pgbench'), '-n', '-M', 'prepared', '-c', '64', '-j', '1', '-T', str(max(1, round(seconds))), '-f', self.script,
             done[-1]], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
        found = re.search(r'tps = ([\d.]+)', out.stdout)
        if not found:
            raise RuntimeError('pgbench: ' + out.stderr[-300:])
        return {'per_s': float(found.group(1))}

    def close(self):
        self.responder.kill()
        self.responder.wait()
        self.worker.kill()  # its turns never end
        self.env.close()


# ---- growth ----

CLAIM = "query like '%%delete from nocturne.ready r%%' and query like '%%picked%%'"


def track_statements(bench, env):
    """For the sessions that begin from here on."""
    env.execute('create extension pg_stat_statements')
    bench.server.psql('postgres', "alter database %s set pg_stat_statements.track = 'top'" % env.db)


def claim_cost(env):
    row = env.sql("""select sum(shared_blks_hit + shared_blks_read) as blocks, sum(rows) as rows, sum(calls) as calls,
        sum(total_exec_time) as ms from pg_stat_statements where dbid = (select oid from pg_database where datname = '%s')
        and %s""" % (env.db, CLAIM.replace('%%', '%')))[0]
    if not row['rows']:
        raise RuntimeError('pg_stat_statements knows no claim')
    return {'blocks_per_claim': round(row['blocks'] / row['rows'], 3), 'us_per_claim': round(row['ms'] * 1000 / row['rows'], 2),
            'claims': row['rows'], 'statements': row['calls']}


def sampled_claims(bench, env, n):
    env.execute('select pg_stat_statements_reset()')
    return {**drain_in(bench, env, n), **claim_cost(env)}


@contextlib.contextmanager
def claim_env(bench):
    with harness.Env() as env:
        track_statements(bench, env)
        env.scheduler()
        env.put_agent('echo', ECHO)
        drain_in(bench, env, 1000)
        yield env


def pinned(bench, turns, sample, rounds, pin_s=0):
    """A claim on fresh tables, and where `turns` turns ran under a transaction that stays open, in turn. They run
    as fast as they can, or in slices over pin_s seconds, while a worker waits for more as it would all day."""
    found = {'fresh': [], 'after': []}
    with claim_env(bench) as env:
        pin = env.psql()
        pin.run('begin isolation level repeatable read')
        pin.run('select txid_current()')
        since, done = time.monotonic(), 0
        while done < turns:
            began = time.monotonic()
            done += drain_in(bench, env, min(turns // 60 if pin_s else 20000, turns - done))['n']
            if pin_s:
                with_worker = env.worker()
                time.sleep(max(0, pin_s / 60 - (time.monotonic() - began)))
                with_worker.end()
        for _ in range(rounds):
            with claim_env(bench) as fresh:
                found['fresh'].append(sampled_claims(bench, fresh, sample))
            found['after'].append(sampled_claims(bench, env, sample))
        held = time.monotonic() - since
        pin.run('rollback')
    median = {kind: {k: statistics.median(r[k] for r in runs) for k in ('per_s', 'blocks_per_claim', 'us_per_claim')}
              for kind, runs in found.items()}
    return {'turns': turns, 'pinned_s': round(held, 1), **median, 'rounds': found,
            'blocks_ratio': round(median['after']['blocks_per_claim'] / median['fresh']['blocks_per_claim'], 3),
            'throughput_ratio': round(median['after']['per_s'] / median['fresh']['per_s'], 3)}


def session(bench, turns, window=16):
    """One session, one turn after the other: what turns near the tenth cost, and what the last cost.
    A window of 16 turns holds one whole snapshot."""
    with harness.Env() as env:
        track_statements(bench, env)
        env.scheduler(), env.worker(), env.api()
        env.put_agent('echo', ECHO)

        def counters():
            row = env.sql("""select sum(rows) as rows, sum(shared_blks_hit + shared_blks_read) as buffers from pg_stat_statements
                where dbid = (select oid from pg_database where datname = current_database())
                and query not like '%worker_id = $1%' and query not like '%pg_stat%'""")[0]
            return {'rows': row['rows'], 'buffers': row['buffers'], 'wal': bench.server.wal()}

        with contextlib.closing(env.http.connection(60)) as conn:
            def turn():
                at = time.perf_counter()
                task = env.http.post('/v1/agents/echo/tasks', {'input': INPUT, 'session_id': 's'}, connection=conn).ok(202).json
                got = env.http.get('/v1/tasks/%s?wait=30s' % task['task_id'], connection=conn).ok(200).json
                if got['status'] != 'completed':
                    raise RuntimeError(str(got))
                return (time.perf_counter() - at) * 1000

            def measure():
                before = counters()
                times = [turn() for _ in range(window)]
                after = counters()
                return {**{k: (after[k] - before[k]) / window for k in before}, 'ms': statistics.median(times)}
            turn()
            early = measure()                      # turns 2..17: the tenth is in the middle
            for _ in range(turns - 1 - 2 * window):
                turn()
            late = measure()
    ratios = {k: round(late[k] / early[k], 3) for k in early if early[k]}
    return {'turns': turns, 'early': early, 'late': late, 'ratios': ratios, 'worst': max(ratios.values())}

