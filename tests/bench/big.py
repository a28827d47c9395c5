"""Millions of finished tasks in the tables: does what is hot stay as fast?"""
import concurrent.futures
import json
import os
import statistics
import time

import harness
import ours

HOT = ('ready', 'due', 'lease', 'worker', 'session')  # where rows change
PER_SESSION = 10
# A finished echo turn a millisecond, the last of them an hour ago; ten to a session, which has the id of the first,
# as one without a name has. One in a thousand failed, one in a hundred thousand is of an agent hardly used. Sorted by id,
# as they would have come. In the transaction that truncated the table nothing of it goes to the
# WAL (wal_level minimal), and indexes are built afterwards: that is what makes it take minutes.
ID = "(lpad(to_hex({start} + {g}), 12, '0') || '70008' || lpad(to_hex({g}), 15, '0'))::uuid"
AT = 'to_timestamp(({start} + g) / 1000.0)'
ROWS = {
    'task': """(task_id, tenant, agent, revision, session_id, priority, max_attempts, input, created_at)
        select {id}, 'default', case when g % 100000 = 7 then 'rare' else 'echo' end, 1, {first}::text, 5, 3, '"{input}"', {at}""",
    'snapshot': """(task_id, parent_id, epoch, depth, messages)
        select {id}, case when g % {per} > 0 then {before} end, g, g % {per}, '[{{"role":"user","content":[{{"text":"{input}"}}]}}]'""",
    'chunk': """(task_id, seq_from, epoch, count, at_ms, events) select {id}, 1, g, 2, {start} + g,
        '0 {{"type":"turn.started"}}' || chr(10) || '0 {{"type":"turn.ended","status":"completed"}}' || chr(10)""",
    'done': """(task_id, epoch, status, output, last_seq, started_at, finished_at, worker)
        select {id}, g, case when g % 1000 = 1 then 'failed' else 'completed' end, '"{input}"', 2, {at}, {at}, 'host:1'""",
    'session': """(tenant, session_id, agent, head, created_at, updated_at)
        select 'default', {first}::text, 'echo', {last}, {at}, {at}""",
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


def fill_table(env, table, n, start):
    """n finished tasks' rows of a table in place of what there was."""
    pairs = [] if table == 'chunk' else list(indexes(env, table))
    ids = {name: ID.format(start=start, g=g) for name, g in (
        ('id', 'g'), ('before', '(g - 1)'), ('first', '(g - g %% %d)' % PER_SESSION), ('last', '(g + %d)' % (PER_SESSION - 1)))}
    rows = ROWS[table].format(start=start, per=PER_SESSION, input=ours.INPUT, at=AT.format(start=start), **ids)
    series = 'generate_series(0, %d, %d) g' % (n - 1, PER_SESSION if table == 'session' else 1)
    env.execute('\n'.join(
        ["set maintenance_work_mem = '512MB'; set synchronous_commit = off; begin; truncate nocturne.%s;" % table]
        + [drop + ';' for drop, _ in pairs] + ['insert into nocturne.%s %s from %s;' % (table, rows, series)]
        + [create + ';' for _, create in pairs] + ['commit; vacuum analyze nocturne.%s;' % table]), timeout=1800)


def fill(env, n):
    """n finished tasks; the seconds it took, and the time of the first."""
    began = time.monotonic()
    start = int(time.time() * 1000) - 3600000 - n
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # the largest first
        list(pool.map(lambda table: fill_table(env, table, n, start), ROWS))
    env.execute('checkpoint', timeout=600)  # what is measured next shares the disk with nothing of it
    return round(time.monotonic() - began, 1), start


def pages(env, session, middle):
    """Milliseconds of list pages: the median of each, and the slowest median."""
    found = {}
    for query in ('', '?agent=echo', '?agent=rare', '?agent=none', '?status=completed', '?status=failed', '?status=queued',
                  '?agent=rare&status=completed', '?agent=rare&status=failed', '?tenant=nobody', '?session_id=' + session,
                  '?limit=200', '?limit=200&status=completed', '?limit=200&status=failed',
                  '?limit=200&agent=echo&before=' + middle):
        times = []
        for _ in range(15):
            at = time.perf_counter()
            env.http.get('/v1/tasks' + query).ok(200)
            times.append((time.perf_counter() - at) * 1000)
        found[query or '?'] = round(statistics.median(times), 2)
    return {**found, 'worst': max(found.values())}


def measure(bench, env, ids, list_of):
    """The same in both: no dead rows from before, all is on the disk, pages change for the first time since.
    Autovacuum is off, for it comes after a few thousand rows to empty tables and to none that are full."""
    api = env.api(**ours.MANY)
    body = json.dumps({'input': ours.INPUT})
    ours.set_autovacuum(bench, 'off')
    env.execute('vacuum analyze %s; checkpoint' % ', '.join('nocturne.' + t for t in HOT), timeout=600)
    submit = ours.load('requests', ours.api_port(env), clients=16, total=bench.size('big_submits'),
                       path='/v1/agents/echo/tasks', body=body)
    ours.drain_in(bench, env, 1000, queued=bench.size('big_submits'))
    drained = ours.drain_in(bench, env, bench.size('big_drain'))
    poll = ours.load('requests', ours.api_port(env), clients=64, seconds=bench.size('poll_seconds'), paths=poll_paths(env, ids))
    found = {'submit': submit['per_s'], 'claim': drained['per_s'], 'poll': poll['per_s'], 'pages': list_of(env)}
    api.end()
    ours.set_autovacuum(bench, 'on')
    return found


def poll_paths(env, ids):
    path = os.path.join(env.folder, 'big.paths')
    with open(path, 'w') as f:
        f.write(''.join('/v1/tasks/%s\n' % i for i in ids))
    return path


def big(bench, n, rounds):
    """Empty and full, measured in turn; the server needs wal_level minimal, so this phase is the last."""
    bench.server.set('wal_level = minimal\nmax_wal_senders = 0')
    with harness.Env() as full:
        for agent in ('echo', 'rare'):
            full.put_agent(agent, ours.ECHO)
        took, start = fill(full, n)
        full.scheduler()
        size = full.value('select pg_database_size(current_database())')
        ids = full.execute('select %s from generate_series(5, %d, %d) g' % (
            ID.format(start=start, g='g'), n - 1, max(1, n // 2000))).split()
        session = full.value("select session_id from nocturne.task where task_id = '%s'" % ids[3])
        found = {'empty': [], 'full': []}
        for _ in range(rounds):
            with harness.Env() as empty:
                empty.scheduler()
                empty.put_agent('echo', ours.ECHO)
                few = ours.fill(empty, 2000)
                ours.drain_in(bench, empty, 1, queued=2000)
                found['empty'].append(measure(bench, empty, few, lambda env: {}))
            found['full'].append(measure(bench, full, ids, lambda env: pages(env, session, ids[len(ids) // 2])))
    median = {kind: {k: statistics.median(r[k] for r in rows) for k in ('submit', 'claim', 'poll')}
              for kind, rows in found.items()}
    ratios = {k: round(median['full'][k] / median['empty'][k], 3) for k in median['full']}
    worst = statistics.median(r['pages']['worst'] for r in found['full'])
    return {'tasks': n, 'fill_s': took, 'gib': round(size / 2**30, 2), **median, 'ratios': ratios,
            'worst_ratio': min(ratios.values()), 'worst_page_ms': worst, 'rounds': found}
