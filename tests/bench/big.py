"""Millions of finished tasks in the tables: does what is hot stay as fast?"""
import json
import os
import statistics
import time

import harness
import ours

PER_SESSION = 10
TABLES = 'task, session, chunk, snapshot, done, attempt'
# A finished echo turn a millisecond, the last of them an hour ago; ten to a session. Sorted by id,
# as they would have come. In the transaction that truncated the tables nothing of it goes to the
# WAL (wal_level minimal), and indexes are built afterwards: that is what makes it take minutes.
ID = "(lpad(to_hex({start} + g), 12, '0') || '70008' || lpad(to_hex({key}), 15, '0'))::uuid"
ROWS = {
    'task': """(task_id, tenant, agent, revision, session_id, priority, max_attempts, input, created_at)
        select {id}, 'default', 'echo', 1, 's' || g / {per}, 5, 3, '"{input}"', to_timestamp(({start} + g) / 1000.0)""",
    'session': """(tenant, session_id, agent, head) select 'default', 's' || g / {per}, 'echo', {id}""",
    'chunk': """(task_id, seq_from, epoch, count, at_ms, events) select {id}, 1, g, 2, {start} + g,
        '0 {{"type":"turn.started"}}' || chr(10) || '0 {{"type":"turn.ended","status":"completed"}}' || chr(10)""",
    'snapshot': """(task_id, epoch, depth, messages)
        select {id}, g, 0, '[{{"role":"user","content":[{{"text":"{input}"}}]}}]'""",
    'done': """(task_id, epoch, status, output, last_seq, started_at, finished_at)
        select {id}, g, 'completed', '"{input}"', 2, to_timestamp(({start} + g) / 1000.0), to_timestamp(({start} + g) / 1000.0)""",
    'attempt': """(task_id, epoch, worker, started_at, outcome)
        select {id}, g, 'filled', to_timestamp(({start} + g) / 1000.0), 'completed'""",
}


def indexes(env, table):
    """(drop, create) statements of the indexes of a plain table, its primary key first."""
    rows = env.sql("""select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition, c.conname,
        pg_get_constraintdef(c.oid) as condef from pg_index i left join pg_constraint c on c.conindid = i.indexrelid
        where i.indrelid = 'nocturne.%s'::regclass order by not indisprimary""" % table)
    for row in rows:
        if row['conname']:
            yield ('alter table nocturne.%s drop constraint %s' % (table, row['conname']),
                   'alter table nocturne.%s add constraint %s %s' % (table, row['conname'], row['condef']))
        else:
            yield 'drop index ' + row['name'], row['definition']


def fill(env, n):
    """n finished tasks in place of what there was; the seconds it took."""
    began = time.monotonic()
    start = int(time.time() * 1000) - 3600000 - n
    id_ = ID.format(start=start, key='g')
    text = ['set maintenance_work_mem = \'512MB\'; set synchronous_commit = off; begin;',
            'truncate ' + ', '.join('nocturne.' + t.strip() for t in TABLES.split(',')) + ';']
    for table, columns in ROWS.items():
        pairs = [] if table == 'chunk' else list(indexes(env, table))
        text += [drop + ';' for drop, _ in pairs]
        series = 'generate_series(0, %d, %d) g' % (n - 1, PER_SESSION if table == 'session' else 1)
        text.append('insert into nocturne.%s %s from %s;' % (
            table, columns.format(id=id_, start=start, per=PER_SESSION, input=ours.INPUT), series))
        text += [create + ';' for _, create in pairs]
    text += ['commit;', 'vacuum analyze %s;' % ', '.join('nocturne.' + t.strip() for t in TABLES.split(','))]
    env.execute('\n'.join(text), timeout=1800)
    return round(time.monotonic() - began, 1), id_, start


def pages(env):
    """Milliseconds of list pages: the median of each, and the slowest median."""
    found = {}
    for query in ('', '?agent=echo', '?status=completed', '?status=failed', '?session_id=s17', '?limit=200'):
        times = []
        for _ in range(15):
            at = time.perf_counter()
            env.http.get('/v1/tasks' + query).ok(200)
            times.append((time.perf_counter() - at) * 1000)
        found[query or '?'] = round(statistics.median(times), 2)
    return {**found, 'worst': max(found.values())}


def measure(bench, env, paths, seconds):
    env.api(**ours.MANY)
    body = json.dumps({'input': ours.INPUT})
    submit = ours.load('requests', ours.api_port(env), clients=16, total=bench.size('big_submits'),
                       path='/v1/agents/echo/tasks', body=body)
    ours.drain_in(bench, env, 1000, queued=bench.size('big_submits'))
    drained = ours.drain_in(bench, env, bench.size('big_drain'))
    poll = ours.load('requests', ours.api_port(env), clients=64, seconds=seconds, paths=paths) if paths else None
    return {'submit': submit['per_s'], 'claim': drained['per_s'], 'poll': poll and poll['per_s'], 'pages': pages(env)}


def poll_paths(env, ids):
    path = os.path.join(env.folder, 'big.paths')
    with open(path, 'w') as f:
        f.write(''.join('/v1/tasks/%s\n' % i for i in ids))
    return path


def big(bench, n, rounds):
    """Empty and full, measured in turn; the server needs wal_level minimal, so this phase is the last."""
    bench.server.set('wal_level = minimal\nmax_wal_senders = 0')
    full = harness.Env()
    with full:
        full.put_agent('echo', ours.ECHO)
        took, id_, start = fill(full, n)
        full.scheduler()
        size = full.value('select pg_database_size(current_database())')
        step = max(1, n // 2000)
        full_paths = poll_paths(full, full.execute(
            'select %s from generate_series(0, %d, %d) g' % (id_, n - 1, step)).split())
        found = {'empty': [], 'full': []}
        for _ in range(rounds):
            with harness.Env() as empty:
                empty.scheduler()
                empty.put_agent('echo', ours.ECHO)
                ids = ours.fill(empty, 2000)
                ours.drain_in(bench, empty, 1, queued=2000)
                found['empty'].append(measure(bench, empty, poll_paths(empty, ids), bench.size('poll_seconds')))
            found['full'].append(measure(bench, full, full_paths, bench.size('poll_seconds')))
    median = {kind: {k: statistics.median(r[k] for r in rows) for k in ('submit', 'claim', 'poll')}
              for kind, rows in found.items()}
    ratios = {k: round(median['full'][k] / median['empty'][k], 3) for k in median['full']}
    worst = statistics.median(r['pages']['worst'] for r in found['full'])
    return {'tasks': n, 'fill_s': took, 'gib': round(size / 2**30, 2), **median, 'ratios': ratios,
            'worst_ratio': min(ratios.values()), 'worst_page_ms': worst, 'rounds': found}
