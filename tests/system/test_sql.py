"""The SQL of Nocturne: it prepares, its plans are walks of indexes, and the protocol holds when
two sessions do things at the same time."""
import json
import random
import re
import threading
import time

import harness
import statements
from harness import SqlError, literal, wait_until
from statements import claim, complete, complete_text, prepare, register, retry

COLD = {'stats_read'}  # counts what there is; doctor_* looks at everything, for a person
FILLED_ROWS = 1000


def setup():
    global env
    env = harness.Env()
    env.put_agent('a', {'kind': 'echo'})


def teardown():
    env.check_invariants()


def submit(session_id, **kw):
    return env.submit('a', 'x', session_id=session_id, **kw)


def worker_session():
    """A psql session with all statements, and an incarnation of a worker."""
    session = prepare(env.psql())
    return session, register(session)


def status(task):
    return env.value("select nocturne.task_status('%s')" % task)


# ---- all statements ----

def test_every_statement_prepares_against_a_fresh_schema():
    with harness.Env() as fresh:
        fresh.execute(statements.prepare_script())
        for name in statements.UTILITY:
            fresh.execute(statements.texts()[name])


def test_every_statement_documents_its_parameters():
    for name, text in statements.texts().items():
        for n in range(1, statements.parameters(text) + 1):
            assert text.count('$%d' % n) >= 2, '%s: $%d has no comment' % (name, n)


def fill(target):
    target.execute("""
        create temp table n as
            select i, nocturne.uuid7() as id from generate_series(1, 20000) i;
        insert into nocturne.agent_revision select 'default', 'f' || i, 1, '{"kind":"echo"}'
            from generate_series(1, 3000) i;
        insert into nocturne.agent select 'default', 'f' || i, 1, 'server', 3
            from generate_series(1, 3000) i;
        insert into nocturne.task (task_id, tenant, agent, revision, session_id, priority,
                                   max_attempts, input, created_at)
            select id, 'default', 'f' || (i % 3000 + 1), 1, 's' || i, 5, 3, '"x"',
                   clock_timestamp() from n;
        insert into nocturne.session (tenant, session_id, agent, head, running, queue)
            select 'default', 's' || i, 'f1', case when i <= 14000 then id end,
                   case when i > 14000 then id end,
                   case when i > 19900 then array[nocturne.uuid7()] else '{}' end from n;
        insert into nocturne.done (task_id, epoch, status, last_seq)
            select id, i, case when i % 50 = 0 then 'failed' else 'completed' end, 20 from n
            where i <= 14000;
        insert into nocturne.chunk select id, 1 + 10 * k, i, 10, 0, repeat(E'0 {"type":"x"}\\n', 10)
            from n, generate_series(0, 1) k;
        insert into nocturne.snapshot select id, null, i, 0, '[]', null, null from n where i <= 14000;
        insert into nocturne.artifact select id, 'a', '{}' from n where i <= 14000;
        insert into nocturne.step select id, 1, i, '{}', 'stop', null, 5 from n;
        insert into nocturne.tool_call (task_id, step, idx, call_id, epoch, name, status)
            select id, 1, 0, 'c', i, 't', 'done' from n;
        insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome)
            select id, i, 'w', now(), 'completed' from n where i <= 14000;
        insert into nocturne.worker (name, version, slots, expires_at)
            select 'w', '0', 100, now() + interval '1 hour' from generate_series(1, 20);
        insert into nocturne.lease (task_id, epoch, worker_id, priority, fails, crashes, aborting)
            select id, i, 1 + i % 20, 5, 0, 0, i % 7 = 0 from n where i between 14001 and 16000;
        insert into nocturne.control (task_id, kind)
            select id, 'abort' from n where i between 14001 and 16000 and i % 7 = 0;
        insert into nocturne.ready (priority, task_id)
            select i % 10, id from n where i between 16001 and 18000;
        insert into nocturne.due (at, task_id, kind)
            select now() + (i - 18500) * interval '1 s', id, 'retry' from n where i > 18000;
        insert into nocturne.idempotency
            select 'default', 'k' || i, id, 'x', now() + interval '1 day' from n;
        analyze;
        """, timeout=120)


# Arguments with which each statement finds something to do. :d done :l leased :r ready :e epoch
ARGUMENTS = {
    'agent_apply': "'default', array['f1'], array['{\"kind\":\"llm\"}'], array['server'], array[3]",
    'agent_delete': "'default', 'f2'", 'agent_get': "'default', 'f3'",
    'agent_list': "'default', 'f1', 20", 'agent_load': "'default', 'f1', 1",
    'backend_end': '10000',
    'chunk_sweep': "array[:d, :l]::uuid[], array[3, 0], array[false, true], 10",
    'due_release': '500',
    'genkit_abort': ":r, 'why', 'default', :agent", 'genkit_agent': "'default', 'f1'",
    'genkit_find': ":d, 'default', 'f1'", 'genkit_keep': ":zero, 'x'",
    'genkit_output': ":d, 'default'", 'genkit_snapshot': "null, 's21', 'default', 'f22'",
    'genkit_submit': "'f1', '\"x\"', 's7', null, '{}', 'key', 'enqueue', 'default'",
    'leader_hold': "'me', 6000", 'leader_leave': "'me'",
    'lease_rescue': '500', 'notify_send': "array['r']",
    'retain_partitions': '86400000', 'retain_remove': "86400000, :zero, 500",
    'schema_check': "'0.1.0'",
    'session_get': "'default', 's5'", 'session_snapshots': "'default', 's5', null, 10",
    'snapshot_get': ":d, 'default'",
    'worker_reap': '(extract(epoch from clock_timestamp()) * 1000000)::bigint, 10000, 0',
    'task_abort': ":r, 'why', 'me', 'default'", 'task_get': "array[:l, :zero]::uuid[], 'default'",
    'task_peek': ":l, 'default'",
    'task_list': "'default', null, null, null, null, 20",
    'task_submit': "'f1', '\"x\"', 's7', null, null, 5, null, null, null, 'key', null, 'default', null, true",
    'task_submit_many': "array['f1', 'f2'], array['1', '2'], array['s9', null], array[null, null]::uuid[],"
                        " array[null, null], array[5, 5], array[null, null], array[null, null]::int[],"
                        " array[null, null], array['new', null], array[null, null], array[null, null],"
                        " 'default'",
    'task_submit_one': "'f1', -9, '1', 5, null, null, 'default', true",
    'task_submit_plain': "array['f1', 'f2'], array[1, 2, 2], array[-9, -8, -7], array['1', '2', '3']::json[],"
                         " array[5, 5, 4], null, array[null, null, 7], 'default'",
    'task_sweep': 'array[:d, :l]::uuid[]',
    'turn_append': "1, array[:l]::uuid[], array[:e], array[21], array[1], array[0], array[E'x\\n']",
    'turn_artifact': "1, array[:l]::uuid[], array[:e], array['n'], array['{}']",
    'turn_call_claim': "1, array[:l]::uuid[], array[:e], array[2], array[0], array['c'], array['t']",
    'turn_call_settle': "1, array[:l]::uuid[], array[:e], array[1], array[0], array['done'],"
                        " array['{}'], array[3]",
    'turn_claim': '1, 50, ' + statements.EVERYTHING,
    'turn_fate': 'array[:d, :l]::uuid[], array[1, :e]',
    'turn_load': 'array[:l, :r]::uuid[]', 'turn_load_bare': 'array[:l, :r]::uuid[]',
    'turn_release': "1, array[:l]::uuid[], array[:e], 'w'",
    'turn_retry': "1, array[:l]::uuid[], array[:e], array[10], array['{}'], 'w'",
    'turn_step': "1, array[:l]::uuid[], array[:e], array[2], array['{}'], array['stop'],"
                 " array[null], array[9]",
    'worker_beat': "1, 10000, '{}', true", 'worker_controls': '1', 'worker_drain': '1',
    'worker_leave': '1', 'worker_reconcile': '1, array[:l]::uuid[], 1000000',
    'worker_register': "'w', '0', 10, 10000", 'worker_session': '1, 0, 1000',
    'worker_vanish': "array[1], array['1 2026-01-01 00:00:00+00']",
}
# The same statement by another way through it.
VARIANTS = [
    ('task_list', "'default', 'failed', null, null, null, 20"),
    ('task_list', "'default', 'completed', null, null, null, 20"),
    ('task_list', "'default', null, 'f7', null, null, 20"),
    ('task_list', "'default', 'failed', 'f7', null, null, 20"),
    ('task_list', "'default', 'queued', 'f7', null, null, 20"),
    ('task_list', "'default', 'running', null, 's7', null, 20"),
    ('task_list', "'default', 'aborting', null, null, null, 20"),
    ('task_list', "'default', 'scheduled', null, null, null, 20"),
    ('task_list', "'default', null, null, 's7', null, 20"),
    ('task_abort', ":l, 'why', 'me', 'default'"),
    ('task_abort', ":due, 'why', 'me', 'default'"),
    ('task_abort', ":d, 'why', 'me', 'default'"),
    ('task_get', "array[:d]::uuid[], 'default'"),
    ('task_submit', "'f1', '\"x\"', null, null, null, 5, null, null, null, null, null, 'default', null, false"),
    ('task_submit', "'f1', '\"x\"', null, :d, null, 5, null, null, null, null, null, 'default', null, false"),
]
BEFORE = {  # so that there is something to do
    'lease_rescue': "update nocturne.worker set state = 'dead' where worker_id <= 3;",
    'worker_vanish': "update nocturne.worker set backend_pid = 1, silence_ms = 0,"
                     " backend_start = '2026-01-01 00:00:00+00' where worker_id = 1;",
    'worker_reap': "update nocturne.worker set expires_at = now() - interval '1 s'"
                   " where worker_id <= 3;",
    'task_resume': "update nocturne.done set finish_reason = 'interrupted' where task_id = :d;",
    'retain_remove': "update nocturne.done set finished_at = now() - interval '9 days';"
                     "update nocturne.session set updated_at = now() - interval '9 days';",
}
BEFORE['task_retry'] = "update nocturne.done set status = 'failed' where task_id = :d;"
ARGUMENTS['task_retry'] = ":d, false, null, 'default'"
ARGUMENTS['task_resume'] = ":d, '{}', null, 'default'"


def examples(target):
    """Text of psql's variables for ARGUMENTS."""
    row = target.sql("""
        select (select task_id from nocturne.done order by task_id offset 20 limit 1) as d,
               l.task_id as l, l.epoch as e,
               r.task_id as r, (select agent from nocturne.task t where t.task_id = r.task_id),
               (select task_id from nocturne.due order by at desc limit 1) as due
        from nocturne.lease l, nocturne.ready r where l.worker_id = 1 and not l.aborting limit 1""")[0]
    values = {k: v if k == 'e' else "'%s'" % v for k, v in row.items()}
    values['zero'] = "'00000000-0000-0000-0000-000000000000'"
    return lambda text: re.sub(r':(%s)\b' % '|'.join(values), lambda m: str(values[m[1]]), text)


def is_cold(name):
    return name in COLD or name in statements.UTILITY or name.startswith('doctor_')


def call_text(name, arguments):
    return 'execute %s%s' % (name, '(%s)' % arguments if arguments else '')


def seq_scans(plan, found):
    if plan['Node Type'] == 'Seq Scan':
        found.append(plan['Relation Name'])
    for child in plan.get('Plans', ()):
        seq_scans(child, found)
    return found


def test_no_plan_reads_a_whole_filled_table():
    with harness.Env() as full:
        fill(full)
        filled = {r['relname'] for r in full.sql(
            "select relname from pg_class where reltuples >= %d and relkind = 'r'"
            " and relnamespace = 'nocturne'::regnamespace" % FILLED_ROWS)}
        assert {'task', 'done', 'ready', 'due', 'lease', 'session'} < filled, filled
        expand = examples(full)
        bad = []
        for name, text in statements.texts().items():
            if is_cold(name):
                continue
            args = ', '.join(['null'] * statements.parameters(text))
            plan = json.loads(full.execute(
                'set plan_cache_mode = force_generic_plan;\nprepare %s as\n%s\nexplain (format json) %s;'
                % (name, text, call_text(name, args))))
            bad += ['%s plans a Seq Scan on %s' % (name, t) for t in seq_scans(plan[0]['Plan'], [])
                    if t in filled]
        calls = {name: '' for name, text in statements.texts().items()
                 if not is_cold(name) and not statements.parameters(text)}
        calls.update(ARGUMENTS)
        calls['turn_complete'] = complete_text(1, [('LEASED', 'EPOCH', 's9')]).replace(
            "'LEASED'", ':l').replace("'EPOCH'", ':e')[len('execute turn_complete('):-1]
        bad += ['%s: give ARGUMENTS of test_sql.py values with which it finds something to do' % n
                for n in statements.texts() if not is_cold(n) and n not in calls]
        for name, arguments in list(calls.items()) + VARIANTS:
            if name in statements.texts():
                bad += scans_of(full, expand, name, arguments, filled)
        assert not bad, '\n'.join(bad)


def test_no_plan_made_while_a_table_is_empty_reads_it_whole_later():
    """A connection plans once. With the statistics of an empty table a whole read looks cheapest."""
    with harness.Env() as fresh:
        fresh.execute('analyze')
        bad = []
        for name, text in statements.texts().items():
            if is_cold(name):
                continue
            args = ', '.join(['null'] * statements.parameters(text))
            said = fresh.execute('%s\nprepare %s as\n%s\nexplain (format json) %s;' % (
                statements.texts()['session_settings'], name, text, call_text(name, args)))
            plan = json.loads(said[said.index('['):])
            bad += ['%s plans a Seq Scan on %s' % (name, t) for t in seq_scans(plan[0]['Plan'], [])]
        assert not bad, '\n'.join(bad)


def scans_of(full, expand, name, arguments, filled):
    """Whole reads that executing it causes, inside of functions, too."""
    counts = "select relname, seq_scan from pg_stat_user_tables where schemaname = 'nocturne'"
    full.execute(expand("""
        set plan_cache_mode = force_generic_plan;
        begin;
        %s
        select pg_stat_force_next_flush();
        commit;""" % BEFORE.get(name, '')).replace('commit;', 'commit; analyze;' if name in BEFORE
                                                   else 'commit;'))
    before = {r['relname']: r['seq_scan'] for r in full.sql(counts)}
    full.execute('set plan_cache_mode = force_generic_plan;\n%s\nbegin;\n%s;\nrollback;\n'
                 'select pg_stat_force_next_flush();' % (
                     statements.prepare_script([name]),
                     expand(call_text(name, arguments) + ';').rstrip(';')))
    wait_until(lambda: full.value("select count(*) from pg_stat_activity where datname = "
                                  "current_database() and pid <> pg_backend_pid()"
                                  " and backend_type = 'client backend'") == 0)
    return ['%s (%s) read all of %s' % (name, arguments, r['relname']) for r in full.sql(counts)
            if r['seq_scan'] > before[r['relname']] and r['relname'] in filled]


# ---- submit in the caller's own transaction ----

def test_a_submit_that_rolls_back_leaves_nothing():
    session = env.psql()
    session.run('begin')
    task = session.run("select task_id from nocturne.submit('a', '\"x\"', 'rb')")[0]
    assert session.run("select nocturne.task_status('%s')" % task) == ['queued']
    assert status(task) is None
    session.run('rollback')
    assert status(task) is None
    assert env.sql("select * from nocturne.ready union all select * from nocturne.ready") == []
    assert env.sql("select * from nocturne.session where session_id = 'rb'") == []


def test_a_submit_that_commits_with_foreign_data_runs():
    with harness.Env() as full:
        full.put_agent('a', {'kind': 'echo'})
        full.execute('create table public.orders (id int primary key, task uuid)')
        full.scheduler()
        full.worker()
        session = full.psql()
        session.run('begin')
        session.run("insert into orders select 1, task_id from nocturne.submit('a', '\"hello\"')")
        time.sleep(0.3)  # nobody may see it before
        assert full.value('select count(*) from nocturne.lease') == 0
        session.run('commit')
        task = full.wait_task(full.value('select task from orders'))
        assert task['status'] == 'completed', task
        full.check_invariants()


# ---- the death of a session ----

def test_only_a_silent_worker_without_its_session_is_declared_dead():
    own = harness.Env()
    watcher = prepare(own.psql(), 'worker_watch', 'worker_vanish', 'worker_beat')
    session = prepare(own.psql(), 'worker_register', 'worker_session', 'worker_beat')
    worker = register(session)

    def watched():
        return watcher.run('execute worker_watch')[0].split('|')

    def declared(name):
        return watcher.run("execute worker_vanish(array[%d], array['%s'])" % (worker, name))

    assert watcher.run('execute worker_watch') == [], 'nothing is recorded'
    assert session.run('execute worker_session(%d, 12345, 300)' % worker) == ['f'], 'a pooler'
    assert watcher.run('execute worker_watch') == []
    assert session.run('execute worker_session(%d, %d, 300)' % (worker, session.pid)) == ['t']
    _, name, present = watched()
    time.sleep(0.5)
    assert present == 't' and declared(name) == [], 'its session is there'
    own.sessions.remove(session)
    session.close()
    wait_until(lambda: watched()[2] == 'f', 5, 'the end of the session')
    assert declared('1 2026-01-01 00:00:00+00') == [], 'judged by another session'
    watcher.run("execute worker_beat(%d, 10000, '{}', true)" % worker)
    assert declared(name) == [], 'it has just beaten'
    time.sleep(0.5)
    assert declared(name) == [str(worker)] and declared(name) == []
    assert watcher.run('execute worker_watch') == []
    own.close()


# ---- two at once ----

def test_two_claims_at_once_never_share_a_turn():
    tasks = {submit('dc%d' % i) for i in range(20)}
    (a, wa), (b, wb) = worker_session(), worker_session()
    a.run('begin')
    first = claim(a, wa, 12)
    second = claim(b, wb, 20)  # does not wait
    a.run('commit')
    assert len(first) == 12 and len(second) == 8
    assert {t for t, _ in first} | {t for t, _ in second} == tasks
    assert len({e for _, e in first + second}) == 20
    sessions = {r['task_id']: r['session_id'] for r in env.sql('select task_id, session_id from nocturne.task')}
    for session, worker, turns in ((a, wa, first), (b, wb, second)):
        done = complete(session, worker, [(t, e, sessions[t]) for t, e in turns])
        assert sorted(done) == sorted(t for t, _ in turns)


def test_a_worker_without_a_live_row_claims_nothing():
    task = submit('dead')
    session, worker = worker_session()
    env.execute("update nocturne.worker set expires_at = now() - interval '1 s' where worker_id = %d"
                % worker)
    assert claim(session, worker) == []
    assert env.sql('select nocturne.reap() as w') == [{'w': worker}]
    assert claim(session, worker) == []
    assert session.run("execute worker_beat(%d, 10000, '{}', true)" % worker) == []
    env.abort(task)


def test_only_who_has_watched_the_database_declares_workers_dead():
    session, worker = worker_session()
    env.execute("update nocturne.worker set expires_at = now() - interval '1 s' where worker_id = %d"
                % worker)

    def reap(ago_ms, patience_ms=2000, ttl_ms=0):
        seen = 'null' if ago_ms is None else \
            '(extract(epoch from clock_timestamp()) * 1000000)::bigint - %d' % (ago_ms * 1000)
        rows = env.sql('select * from nocturne.reap_watched(%s, %d, %d)' % (seen, patience_ms, ttl_ms))
        assert rows[0]['worker_id'] is None and rows[0]['now_us'] > 10 ** 15, rows
        return rows[0]['judged'], [r['worker_id'] for r in rows[1:]]

    assert reap(None) == (False, [])               # it only looks
    assert reap(3000) == (False, [])               # executed late, or the clock jumped
    assert reap(-3000) == (False, [])              # the clock was set back
    assert reap(0, ttl_ms=10 ** 9) == (False, [])  # the server has just been started
    assert reap(1000) == (True, [worker])
    assert reap(1000) == (True, [])
    del session


def test_a_claim_in_flight_and_death_do_not_cross():
    task = submit('cross')
    session, worker = worker_session()
    session.run('begin')
    (_, epoch), = claim(session, worker)
    env.execute("select 1")
    other = env.psql()
    # the share lock of the claim keeps the reaper away
    env_worker = "update nocturne.worker set expires_at = now() - interval '1 s' where worker_id = %d"
    other.send(env_worker % worker)
    other.wait_blocked()
    assert env.sql('select nocturne.reap() as w') == []
    session.run('commit')
    other.result()
    assert env.sql('select nocturne.reap() as w') == [{'w': worker}]
    assert env.value('select nocturne.rescue(10)') == 1
    assert complete(session, worker, [(task, epoch, 'cross')]) == []
    assert status(task) == 'queued'
    env.abort(task)


def test_a_worker_that_leaves_strands_no_lease_of_a_claim_under_way():
    task = submit('leaving')
    session, worker = worker_session()
    session.run('begin')  # a connection that the worker has given up
    assert [t for t, _ in claim(session, worker)] == [task]
    other = prepare(env.psql(), 'worker_leave')
    other.send('execute worker_leave(%d)' % worker)
    other.wait_blocked()
    session.run('commit')
    other.result()
    assert env.sql('select state from nocturne.worker where worker_id = %d' % worker) == [
        {'state': 'dead'}]
    assert env.value('select nocturne.rescue(10)') == 1
    assert status(task) == 'queued'
    env.abort(task)


def one_running(session_id):
    task = submit(session_id)
    session, worker = worker_session()
    (claimed, epoch), = claim(session, worker)
    assert claimed == task
    return task, epoch, session, worker


def test_a_completion_that_came_first_beats_the_abort():
    task, epoch, session, worker = one_running('cfa')
    other = env.psql()
    session.run('begin')
    assert complete(session, worker, [(task, epoch, 'cfa')]) == [task]
    other.send("select nocturne.abort('%s')" % task)
    other.wait_blocked()
    session.run('commit')
    assert other.result() == ['completed']
    assert env.value("select count(*) from nocturne.control") == 0


def test_an_abort_that_came_first_beats_the_completion():
    task, epoch, session, worker = one_running('afc')
    other = env.psql()
    other.run('begin')
    assert other.run("select nocturne.abort('%s', 'why', 'me')" % task) == ['aborting']
    assert complete(session, worker, [(task, epoch, 'afc')]) == []  # it does not wait
    fate = session.run("execute turn_fate(array['%s']::uuid[], array[%d])" % (task, epoch))
    assert fate[0].split('|')[1] == 'leased'
    other.run('commit')
    assert complete(session, worker, [(task, epoch, 'afc')]) == []
    fate = session.run("execute turn_fate(array['%s']::uuid[], array[%d])" % (task, epoch))
    assert fate[0].split('|')[1] == 'aborting' and '"reason" : "why"' in fate[0]
    assert complete(session, worker, [(task, epoch, 'afc')], status='aborted',
                    reason='aborted') == [task]
    assert env.abort(task) == 'aborted'


def test_a_turn_submitted_while_the_one_before_it_ends_is_not_lost():
    for lock in (False, True):
        task, epoch, session, worker = one_running('gap')
        other = env.psql()
        other.run('begin')
        other.run('update nocturne.worker set slots = slots where worker_id = %d' % worker)
        session.send(complete_text(worker, [(task, epoch, 'gap')], lock=lock))
        session.wait_blocked()  # its snapshot is taken, its locks are not
        following = submit('gap')
        other.run('commit')
        ended = [line.split('|')[0] for line in session.result()]
        if not lock:  # a session that changed since the snapshot looks locked
            assert ended == []
            ended = complete(session, worker, [(task, epoch, 'gap')], lock=True)
        assert ended == [task]
        (claimed, epoch), = claim(session, worker)
        assert claimed == following
        assert complete(session, worker, [(claimed, epoch, 'gap')], lock=True) == [claimed]


def looking(session_id, patience):
    """A completion that has looked at its rows and not written yet, and how to let it go on: the others came between.
    It waits for them as long as `patience`."""
    task, epoch, session, worker = one_running(session_id)
    text = statements.texts()['turn_complete'].replace("'50ms'", "'%s'" % patience)
    paused = text.replace('), l as (', '), pause as materialized (select pg_advisory_xact_lock_shared(77)\n'
                          '    from (select count(*) from k) n), l as (').replace(
        'where x.ctid = any(', 'where exists (select 1 from pause) and x.ctid = any(')
    assert paused.count('pause') == 2 and paused.count(patience) == 1
    session.run('deallocate turn_complete; prepare turn_complete as ' + paused)
    gate = env.psql()
    gate.run('select pg_advisory_lock(77)')
    session.send(complete_text(worker, [(task, epoch, session_id)]))
    session.wait_blocked()
    return task, epoch, session, worker, lambda: gate.run('select pg_advisory_unlock(77)')


def test_a_turn_submitted_between_the_look_and_the_write_is_not_lost():
    task, epoch, session, worker, go_on = looking('btw1', '9s')
    following = submit('btw1')
    go_on()
    assert [line.split('|') for line in session.result()] == [[task, '1']]
    assert env.value("select running from nocturne.session where session_id = 'btw1'") == following
    env.abort(following)


def test_an_abort_between_the_look_and_the_write_beats_the_completion():
    task, epoch, session, worker, go_on = looking('btw2', '9s')
    assert env.abort(task, 'why') == 'aborting'
    go_on()
    assert session.result() == []
    assert env.value("select running from nocturne.session where session_id = 'btw2'") == task
    assert complete(session, worker, [(task, epoch, 'btw2')], status='aborted', reason='aborted',
                    lock=True) == [task]


def test_a_transaction_that_stays_open_elsewhere_holds_no_row():
    pin = env.psql()
    pin.run('begin')
    pin.run('select pg_current_xact_id()')
    task, epoch, session, worker = one_running('pin')
    following = submit('pin')  # leaves its mark on the session's row
    marks = env.sql("select xmax::text, nocturne.is_held(xmax) as held from nocturne.session where session_id = 'pin'")
    assert marks[0]['xmax'] != '0' and not marks[0]['held'], marks
    assert complete(session, worker, [(task, epoch, 'pin')]) == [task]
    other = env.psql()
    other.run('begin')
    other.run("update nocturne.session set agent = agent where session_id = 'pin'")
    assert env.sql("select nocturne.is_held(xmax) as held from nocturne.session where session_id = 'pin'") == [{'held': True}]
    other.run('rollback')
    assert env.sql("select nocturne.is_held(xmax) as held from nocturne.session where session_id = 'pin'") == [{'held': False}]
    pin.run('rollback')
    env.abort(following)


def test_who_locks_between_the_look_and_the_write_is_not_waited_for():
    for n, text in enumerate(("select nocturne.abort('%s')",
                              "update nocturne.session set agent = agent where running = '%s'")):
        task, epoch, session, worker, go_on = looking('btw3%d' % n, '1s')
        other = env.psql()
        other.run('begin')
        other.run(text % task)
        go_on()
        try:
            session.result()
            raise AssertionError('it did not wait')
        except SqlError as e:
            assert 'lock timeout' in str(e), e
        assert complete(session, worker, [(task, epoch, 'btw3%d' % n)], lock=True) == []  # nor then
        other.run('rollback')
        assert complete(session, worker, [(task, epoch, 'btw3%d' % n)], lock=True) == [task]


def test_completing_twice_changes_nothing():
    task, epoch, session, worker = one_running('twice')
    assert complete(session, worker, [(task, epoch, 'twice')]) == [task]
    before = env.sql("select * from nocturne.done where task_id = '%s'" % task)
    assert complete(session, worker, [(task, epoch, 'twice')]) == []
    fate = session.run("execute turn_fate(array['%s']::uuid[], array[%d])" % (task, epoch))
    assert fate[0].split('|')[1] == 'ended'
    assert env.sql("select * from nocturne.done where task_id = '%s'" % task) == before


def test_an_abort_waits_for_the_release_of_a_due_task():
    task = submit('due1', run_at='2000-01-01')  # in the past: queued at once
    assert status(task) == 'queued'
    env.abort(task)
    task = submit('due1', run_at='2100-01-01')
    assert status(task) == 'scheduled'
    env.execute("update nocturne.due set at = now() - interval '1 s'")
    session, other = env.psql(), env.psql()
    session.run('begin')
    assert session.run('select nocturne.release_due(10)') == ['1']
    other.send("select nocturne.abort('%s')" % task)
    other.wait_blocked()
    session.run('commit')
    assert other.result() == ['aborted']


def test_a_release_skips_what_is_being_aborted():
    task = submit('due2', run_at='2100-01-01')
    env.execute("update nocturne.due set at = now() - interval '1 s'")
    session, other = env.psql(), env.psql()
    other.run('begin')
    assert other.run("select nocturne.abort('%s')" % task) == ['aborted']
    assert session.run('select nocturne.release_due(10)') == ['0']
    other.run('commit')
    assert session.run('select nocturne.release_due(10)') == ['0']
    assert status(task) == 'aborted'


def test_an_abort_of_a_retry_and_the_release_of_its_session_do_not_wait_in_a_circle():
    # The retry stands at the head of the session; the release of another one of the session
    # wants the session's row, the abort of the retry wants its due row.
    task, epoch, session, worker = one_running('circle')
    retry(session, worker, task, epoch)
    later = submit('circle', run_at='2100-01-01')
    env.execute("update nocturne.due set at = now() - interval '1 s'")
    other = env.psql()
    session.run('begin')
    assert session.run('select nocturne.release_due(10)') == ['2']
    other.send("select nocturne.abort('%s')" % task)
    other.wait_blocked()
    session.run('commit')
    assert other.result() == ['aborted']
    assert status(later) == 'queued'
    assert env.value("select running from nocturne.session where session_id = 'circle'") == later
    env.abort(later)


def test_two_releases_at_once_move_each_row_once():
    tasks = [submit('r2-%d' % i, run_at='2100-01-01') for i in range(30)]
    env.execute("update nocturne.due set at = now() - interval '1 s'")
    a, b = env.psql(), env.psql()
    a.run('begin')
    assert a.run('select nocturne.release_due(20)') == ['20']
    assert b.run('select nocturne.release_due(20)') == ['10']
    a.run('commit')
    ready = [r['task_id'] for r in env.sql('select task_id from nocturne.ready')]
    assert sorted(ready) == sorted(tasks)
    for task in tasks:
        env.abort(task)


def test_due_tasks_of_a_session_run_in_the_order_they_are_due():
    # written in another order than they are due
    late = submit('order', run_at='2100-01-02')
    early = submit('order', run_at='2100-01-01')
    env.execute("update nocturne.due set at = at - interval '90 years'")
    assert env.value('select nocturne.release_due(10)') == 2
    row = env.sql("select running, queue from nocturne.session where session_id = 'order'")[0]
    assert row == {'running': early, 'queue': [late]}
    assert env.abort(early) == 'aborted' and env.abort(late) == 'aborted'


def test_a_deadline_expires_what_waits_and_asks_what_runs():
    waiting = submit('dl1', deadline='2100-01-01')
    queued = submit('dl1', deadline='2100-01-01')
    running, epoch, session, worker = None, None, None, None
    session, worker = worker_session()
    (claimed, epoch), = claim(session, worker)
    assert claimed == waiting
    env.execute("update nocturne.due set at = now() - interval '1 s'")
    while env.value('select nocturne.release_due(10)'):
        pass
    assert status(waiting) == 'aborting' and status(queued) == 'expired'
    controls = session.run("execute worker_controls(%d)" % worker)[0]
    assert '"status" : "expired"' in controls and waiting in controls
    assert complete(session, worker, [(waiting, epoch, 'dl1')], status='expired',
                    reason='expired') == [waiting]
    assert env.value('select count(*) from nocturne.due') == 0
    del running


def test_rescue_and_completion_of_the_same_turn():
    task, epoch, session, worker = one_running('rc')
    env.execute("update nocturne.worker set state = 'dead' where worker_id = %d" % worker)
    other = env.psql()
    other.run('begin')
    assert other.run('select nocturne.rescue(10)') == ['1']
    assert complete(session, worker, [(task, epoch, 'rc')]) == []  # fenced, does not wait
    other.run('commit')
    assert status(task) == 'queued'
    session, worker = worker_session()
    (again, second), = claim(session, worker)
    assert again == task and second > epoch
    assert complete(session, worker, [(task, second, 'rc')]) == [task]
    assert [a['outcome'] for a in env.task(task)['attempts']] == ['lost', 'completed']


def test_a_completion_in_flight_is_not_rescued():
    task, epoch, session, worker = one_running('cr')
    session.run('begin')
    assert complete(session, worker, [(task, epoch, 'cr')]) == [task]
    other = env.psql()
    other.send("update nocturne.worker set state = 'dead' where worker_id = %d" % worker)
    other.wait_blocked()
    assert env.value('select nocturne.rescue(10)') == 0
    session.run('commit')
    other.result()
    assert env.value('select nocturne.rescue(10)') == 0
    assert status(task) == 'completed'


def test_three_dead_workers_quarantine_a_turn():
    task = submit('q3')
    for n in range(3):
        session, worker = worker_session()
        assert [t for t, _ in claim(session, worker)] == [task]
        env.execute("update nocturne.worker set state = 'dead' where worker_id = %d" % worker)
        assert env.value('select nocturne.rescue(10)') == 1
    body = env.task(task)
    assert body['status'] == 'failed' and body['error']['code'] == 'QUARANTINED', body
    assert [a['outcome'] for a in body['attempts']] == ['lost'] * 3


def test_rescue_of_a_turn_that_was_being_aborted_ends_it():
    task, epoch, session, worker = one_running('ra')
    following = submit('ra')
    assert env.abort(task, 'why') == 'aborting'
    env.execute("update nocturne.worker set state = 'dead' where worker_id = %d" % worker)
    assert env.value('select nocturne.rescue(10)') == 1
    body = env.task(task)
    assert body['status'] == 'aborted' and body['abort']['reason'] == 'why', body
    assert env.value("select running from nocturne.session where session_id = 'ra'") == following
    env.abort(following)


def test_an_abort_survives_a_hand_back_and_leaves_nothing():
    """The worker that claims the turn next hears of the abort when it loads the turn."""
    backs = ("turn_release({w}, array['{t}']::uuid[], array[{e}], 'w')",
             "worker_reconcile({w}, '{{}}'::uuid[], {e})")
    for n, back in enumerate(backs):
        task, epoch, session, worker = one_running('hb%d' % n)
        assert env.abort(task, 'why') == 'aborting'
        assert session.run('execute ' + back.format(w=worker, t=task, e=epoch)) == [task]
        (again, second), = claim(session, worker)
        assert again == task
        loaded = env.value("select reason from nocturne.control where task_id = '%s'" % task)
        assert loaded == 'why', loaded
        assert complete(session, worker, [(task, second, 'hb%d' % n)], status='aborted') == [task]
        assert env.value('select count(*) from nocturne.control') == 0, back


def interrupted(session_id):
    task, epoch, session, worker = one_running(session_id)
    assert complete(session, worker, [(task, epoch, session_id)], reason='interrupted') == [task]
    return task


def test_two_resumes_at_once_make_one_turn():
    task = interrupted('res')
    a, b = env.psql(), env.psql()
    a.run('begin')
    made = a.run("select task_id from nocturne.resume('%s', '{}')" % task)
    b.send("select task_id from nocturne.resume('%s', '{}')" % task)
    b.wait_blocked()
    a.run('commit')
    try:
        raise AssertionError(b.result())
    except SqlError as e:
        assert 'has been resumed already' in str(e)
    assert env.value("select count(*) from nocturne.task where snapshot_id = '%s'" % task) == 1
    env.abort(made[0])


def test_two_resumes_at_once_with_one_key_give_one_id():
    task = interrupted('resk')
    a, b = env.psql(), env.psql()
    text = "select task_id, replayed from nocturne.resume('%s', '{}', 'resume-key')" % task
    a.run('begin')
    made = a.run(text)[0].split('|')
    b.send(text)
    b.wait_blocked()
    a.run('commit')
    assert b.result() == [made[0] + '|t']
    assert made[1] == 'f'
    env.abort(made[0])


def test_turns_of_a_session_run_in_the_order_of_their_commits():
    a, b = env.psql(), env.psql()
    a.run('begin')
    first = a.run("select task_id from nocturne.submit('a', '1', 'ord')")[0]
    b.send("select task_id from nocturne.submit('a', '2', 'ord')")
    b.wait_blocked()
    a.run('commit')
    second = b.result()[0]
    third = submit('ord')
    session, worker = worker_session()
    for task in (first, second, third):
        turns = claim(session, worker)
        assert [t for t, _ in turns] == [task], (turns, first, second, third)
        assert complete(session, worker, [(task, turns[0][1], 'ord')]) == [task]
    assert env.value("select head from nocturne.session where session_id = 'ord'") == third


def test_one_key_gives_one_task_whoever_comes_first():
    text = "select task_id, replayed from nocturne.submit('a', '1', 'idem', p_key => '%s')"
    a, b = env.psql(), env.psql()
    a.run('begin')
    made = a.run(text % 'k1')[0].split('|')
    b.send(text % 'k1')
    b.wait_blocked()
    a.run('commit')
    assert b.result() == [made[0] + '|t']
    try:
        raise AssertionError(b.run("select nocturne.submit('a', '2', 'idem', p_key => 'k1')"))
    except SqlError as e:
        assert 'used for another request' in str(e)
    # when the first rolls back, the key is the second's
    a.run('begin')
    lost = a.run(text % 'k2')[0].split('|')
    b.send(text % 'k2')
    b.wait_blocked()
    a.run('rollback')
    found = b.result()[0].split('|')
    assert found[1] == 'f' and found[0] != lost[0]
    # the same moment written in another zone is the same request
    one = b.run("set timezone = 'UTC'; select task_id from nocturne.submit('a', '1', 'idem',"
                " p_run_at => '2100-01-01T00:00:00Z', p_key => 'k3')")
    two = a.run("set timezone = 'Asia/Tokyo'; select task_id from nocturne.submit('a', '1', 'idem',"
                " p_run_at => '2100-01-01T00:00:00Z', p_key => 'k3')")
    assert one == two
    for task in (one[0], found[0], made[0]):
        env.abort(task)


def test_the_key_of_a_removed_task_is_free_again():
    text = "select task_id, replayed from nocturne.submit('a', '1', 'gone', p_key => 'kg')"
    session = env.psql()
    first = session.run(text)[0].split('|')[0]
    env.abort(first)
    env.execute("""update nocturne.session set updated_at = now() - interval '1 h'
                   where session_id = 'gone';
                   select nocturne.remove_expired(now(), '%s'::uuid, 1)
                   from nocturne.uuid7_floor('1970-01-02') f where false;""" % first)
    env.execute("delete from nocturne.done where task_id = '{0}';"
                "delete from nocturne.chunk where task_id = '{0}';"
                "delete from nocturne.task where task_id = '{0}'".format(first))
    made, replayed = session.run(text)[0].split('|')
    assert made != first and replayed == 'f'
    assert session.run(text)[0] == made + '|t'
    env.abort(made)


def test_a_storm_of_everything_ends_well_and_without_a_deadlock():
    """Workers, aborts, retries, releases, submits and rescues at random on few sessions."""
    with harness.Env() as storm:
        storm.put_agent('a', {'kind': 'echo'})
        stop = time.monotonic() + 12
        failures = []

        def session_of(task, known={}):
            if task not in known:
                known[task] = storm.value("select session_id from nocturne.task where task_id = '%s'"
                                          % task)
            return known[task]

        def guarded(role, seed):
            def run():
                try:
                    role(random.Random(seed))
                except Exception as e:
                    failures.append('%s: %r' % (role.__name__, e))
            return threading.Thread(target=run, daemon=True)

        def submits(rand):
            s = storm.psql()
            while time.monotonic() < stop:
                extra = rand.choice(['', '', ", p_run_at => clock_timestamp() + interval '30 ms'",
                                     ", p_deadline => clock_timestamp() + interval '150 ms'"])
                s.run("select nocturne.submit('a', '1', 's%d'%s)" % (rand.randrange(6), extra))
                time.sleep(rand.random() * 0.04)

        def works(rand):
            s = prepare(storm.psql())
            worker = register(s)
            while time.monotonic() < stop:
                turns = claim(s, worker, rand.randrange(1, 8))
                rand.shuffle(turns)
                time.sleep(rand.random() * 0.02)
                if turns and rand.random() < 0.05:  # dies
                    s.run("update nocturne.worker set state = 'dead' where worker_id = %d" % worker)
                    worker = register(s)
                    continue
                again = [t for t in turns if rand.random() < 0.2]
                for task, epoch in again:
                    retry(s, worker, task, epoch, rand.randrange(50))
                settle(s, worker, [t for t in turns if t not in again])
            s.run("execute worker_leave(%d)" % worker)

        def settle(s, worker, turns):
            """As the flusher does: ask what became of those not accepted, and send them again."""
            status, left = {}, dict(turns)
            while left:
                groups = {}
                for task, epoch in left.items():
                    seq = int(s.run("select nocturne.last_seq('%s') + 1" % task)[0])
                    groups.setdefault((seq, status.get(task, 'completed')), []).append(
                        (task, epoch, session_of(task)))
                for (seq, state), part in groups.items():
                    for task in complete(s, worker, part, seq=seq, status=state, reason=state):
                        del left[task]
                if not left:
                    return
                tasks, epochs = zip(*left.items())
                for line in s.run('execute turn_fate(%s::uuid[], %s)' % (
                        literal(tasks), literal(epochs))):
                    task, fate, _ = line.split('|', 2)
                    if fate in ('gone', 'ended'):
                        del left[task]
                    elif fate == 'aborting':
                        status[task] = 'aborted'

        def aborts(rand):
            s = storm.psql()
            while time.monotonic() < stop:
                s.run("select nocturne.abort(task_id) from (select task_id from nocturne.task"
                      " order by task_id desc offset %d limit 1) x" % rand.randrange(12))
                time.sleep(rand.random() * 0.02)

        def schedules(rand):
            s = storm.psql()
            while time.monotonic() < stop:
                s.run('select nocturne.release_due(%d)' % rand.choice([1, 5, 500]))
                s.run('select nocturne.rescue(%d)' % rand.choice([1, 500]))
                time.sleep(rand.random() * 0.01)

        roles = [submits, submits, works, works, works, aborts, schedules, schedules]
        threads = [guarded(role, seed) for seed, role in enumerate(roles)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        # one last worker ends what is left
        s = prepare(storm.psql())
        worker = register(s)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            s.run('select nocturne.release_due(500)')
            s.run('select nocturne.rescue(500)')
            turns = claim(s, worker, 50)
            settle(s, worker, turns)
            if not turns and not storm.value('select count(*) from nocturne.due'):
                break
        storm.check_invariants(deadline=1)
        done = storm.value('select count(*) from nocturne.done')
        assert done > 100, done
        # told by the server when the backends report
        assert 'deadlock detected' not in '\n'.join(
            line for line in storm.cluster.log(10000).splitlines() if storm.db in line)
