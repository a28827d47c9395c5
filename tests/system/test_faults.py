"""A worker among faults: the database goes away, hangs, comes back; the worker is told to stop, is
killed or frozen at the worst moment; a peer says what PostgreSQL refuses. Afterwards every task has
ended once and nothing is left behind."""
import json
import random
import time

import cluster
import fakes
import harness
from harness import wait_until

FAST = {'beat_every': '300ms', 'beat_ttl': '1s', 'poll': '200ms'}


def process_tool(name, script, **more):
    return {'type': 'process', 'name': name, 'command': ['sh', '-c', script], **more}


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()


def run_one(text, tools=(), timeout=20, **agent):
    """One turn on a worker of its own Env-wide name; the task and its events."""
    name = 'a%d' % random.getrandbits(40)
    env.llm_agent(name, tools, **agent)
    task = env.wait_task(env.submit(name, text), timeout)
    return task, env.stored_events(task['task_id'])


# ---- stopping ----

def test_a_worker_that_never_had_a_database_stops_at_once():
    worker = env.worker(wait=False, database='host=/nonexistent dbname=x')
    time.sleep(0.3)  # it tries to connect and has no incarnation
    worker.end(5)


def test_an_idle_worker_stops_while_the_database_is_away():
    with harness.Env() as own:
        worker = own.worker(**FAST)
        own.outage()
        worker.term()
        assert worker.wait(8) in (0, 1)
        worker.expected = worker.popen.returncode
        own.outage_over()


def test_a_busy_worker_gives_up_when_it_cannot_hand_back():
    with harness.Env() as own:
        own.sim = env.sim
        own.llm_agent('a')
        worker = own.worker(drain='200ms')
        task = own.submit('a', 'stream 10000 tokens 10ms')
        own.wait_status(task, 'running')
        wait_until(lambda: own.stored_events(task), 5, 'its first events')
        own.outage()
        worker.term()
        assert worker.wait(12) == 1
        worker.expected = 1
        own.outage_over()


def test_a_tool_that_ignores_sigterm_does_not_keep_a_worker_from_stopping():
    with harness.Env() as own:
        own.sim = env.sim
        own.llm_agent('a', [process_tool('stubborn', 'trap "" TERM; while :; do sleep 0.1; done',
                                         on_unknown='retry', idempotent=True)])
        worker = own.worker(drain='100ms', **FAST)
        task = own.submit('a', 'call stubborn {} then say done')
        wait_until(lambda: any(e['type'] == 'tool.started' for e in own.stored_events(task)), 5,
                   'the tool runs')
        worker.end(8)
        assert own.value('select outcome from nocturne.attempt') == 'released'


# ---- what peers say ----

def with_worker(test):
    def run():
        worker = env.worker(**FAST)
        try:
            test(worker)
        finally:
            worker.end()
        env.check_invariants()
    run.__name__ = test.__name__
    return run


@with_worker
def test_a_tool_may_answer_with_json_of_many_lines(_):
    task, events = run_one('call t {} then say got {{tool}}',
                           [process_tool('t', r'printf "{\n  \"a\": [1,\n 2]\n}\n"')])
    assert task['status'] == 'completed', task
    assert [e for e in events if e['type'] == 'tool.result'][0]['output'] == {'a': [1, 2]}
    assert [e['seq'] for e in events] == list(range(1, len(events) + 1))


@with_worker
def test_what_is_almost_json_is_text(_):
    for printed, want in (('007', '007'), ('1.', '1.'), ('-01', '-01'), (r'"a\tb"', '"a\tb"'),
                          (r'[1,\f2]', '[1,\f2]'), (r'"\\u00zz"', '"\\u00zz"'),
                          (r'\357\273\277{}', '\ufeff{}'), (r'"\\ud800"', '"\\ud800"')):
        task, events = run_one('call t {} then say ok',
                               [process_tool('t', "printf -- '%s'" % printed)], max_attempts=1)
        assert task['status'] == 'completed', (printed, task)
        result = [e for e in events if e['type'] == 'tool.result'][0]['output']
        assert result == want, (printed, result)


@with_worker
def test_one_answer_may_save_an_artifact_twice(_):
    task, _ = run_one('call keep {"name":"x","text":"1"} and call keep {"name":"x","text":"2"}'
                      ' then say ok', [{'type': 'artifact', 'name': 'keep'}], max_attempts=1)
    assert task['status'] == 'completed', task
    rows = env.sql("select name, content from nocturne.artifact where task_id = '%s'"
                   % task['task_id'])
    assert [(r['name'], r['content']['parts'][0]['text']) for r in rows] == [('x', '2')], rows


@with_worker
def test_an_artifact_with_an_endless_name_is_refused_not_poison(_):
    name = ''.join(random.choice('abcdefghijklmnopqrstuvwxyz0123456789') for _ in range(6000))
    task, events = run_one('call keep {"name":"%s","text":"1"} then say ok' % name,
                           [{'type': 'artifact', 'name': 'keep'}], max_attempts=1)
    assert task['status'] == 'completed', task
    assert [e['type'] for e in events if e['type'].startswith('tool.')] == ['tool.error'], events


# ---- aborts that cross ----

@with_worker
def test_an_abort_that_crosses_a_failure_wins(_):
    env.llm_agent('crossing')
    task = env.submit('crossing', 'stream 3 tokens then gate cross then drop')
    wait_until(lambda: any(e['type'] == 'content.delta' for e in env.stored_events(task)), 5, 'text')
    lock = env.psql()
    lock.run("begin")
    lock.run("select nocturne.abort('%s')" % task)  # nobody is told before it commits
    env.sim.open_gate('cross')
    lock.run('commit')
    ended = env.wait_task(task, 20)
    assert ended['status'] == 'aborted', ended


def test_an_abort_that_crosses_a_timeout_wins():
    """Without hints and with slow beats the worker learns of the abort when it ends the turn."""
    env.llm_agent('limited', limits={'timeout': '1s'})
    worker = env.worker(hints='off', beat_every='4s', beat_ttl='20s', poll='100ms')
    task = env.submit('limited', 'hang')
    env.wait_status(task, 'running')
    env.abort(task, 'no more')
    ended = env.wait_task(task, 10)
    assert ended['status'] == 'aborted' and ended['abort']['reason'] == 'no more', ended
    assert 'error' not in ended, ended
    worker.end()
    env.check_invariants()


def test_an_abort_that_crosses_a_retry_wins():
    env.llm_agent('crossing2', max_attempts=5)
    worker = env.worker(hints='off', beat_every='5s', beat_ttl='20s', poll='100ms')
    task = env.submit('crossing2', 'stream 3 tokens then gate cross2 then drop')
    wait_until(lambda: any(e['type'] == 'content.delta' for e in env.stored_events(task)), 5, 'text')
    env.abort(task)
    env.sim.open_gate('cross2')
    ended = env.wait_task(task, 15)
    assert ended['status'] == 'aborted', ended
    worker.end()
    env.check_invariants()


def test_an_abort_that_crosses_a_question_leaves_no_question():
    env.llm_agent('asker', [{'type': 'interrupt', 'name': 'ask'}])
    worker = env.worker(hints='off', beat_every='5s', beat_ttl='20s', poll='100ms')
    task = env.submit('asker', 'gate cross3 then call ask {} then say never')
    env.wait_status(task, 'running')
    env.abort(task)
    env.sim.open_gate('cross3')
    ended = env.wait_task(task, 15)
    assert ended['status'] == 'aborted' and 'interrupts' not in ended, ended
    messages = json.loads(env.value("select nocturne.messages_json('%s')" % task))
    assert [m['role'] for m in messages] == ['user', 'model', 'tool'], messages
    worker.end()
    env.check_invariants()


# ---- somebody else's locks ----

def test_prepared_statements_that_have_gone_stale_are_prepared_anew():
    with harness.Env() as own:
        own.put_agent('echo', {'kind': 'echo'})
        own.worker(**FAST)
        own.wait_task(own.submit('echo', 'one'), 5, 'completed')
        own.execute('alter table nocturne.task alter column revision type bigint')
        own.wait_task(own.submit('echo', 'two'), 5, 'completed')
        own.check_invariants()


def test_a_slow_load_does_not_hold_up_the_heartbeat():
    env.put_agent('echo', {'kind': 'echo'})
    worker = env.worker(beat_every='300ms', beat_ttl='1s', poll='100ms')
    lock = env.psql()
    lock.run('begin')
    lock.run('lock table nocturne.snapshot in access exclusive mode')  # turn_load reads it
    task = env.submit('echo', 'hi')
    env.wait_status(task, 'running')
    time.sleep(2)
    lock.run('commit')
    env.wait_task(task, 5, 'completed')
    assert 'fences itself' not in worker.log(), worker.tail()
    worker.end()
    env.check_invariants()


@with_worker
def test_an_open_transaction_of_a_client_stalls_only_its_session(_):
    """submit() is called inside transactions of users, who may be slow."""
    env.llm_agent('a')
    held = env.submit('a', 'gate held then say held', session_id='held')
    env.wait_status(held, 'running')
    user = env.psql()
    user.run('begin')
    user.run("select task_id from nocturne.submit('a', '\"say second\"', 'held')")
    env.sim.open_gate('held')
    time.sleep(0.3)
    for _ in range(5):
        assert env.wait_task(env.submit('a', 'say quick'), 3)['status'] == 'completed'
    assert env.task(held)['status'] == 'running'
    user.run('commit')
    assert env.wait_task(held, 5)['status'] == 'completed'


# ---- storms ----

TEXTS = ['say hello', 'stream 40 tokens 20ms', 'call t {} then say got {{tool}}',
         'stream 5 tokens 5ms then call t {} and call t {} then call t {} then say end']


def storm(own, n, prepare, fault, seconds):
    """Submit `n` turns, half of them in shared sessions, and call fault(i) again and again for some
    seconds. In the end each has completed once, and its answer is what it would have been."""
    own.llm_agent('storm', [process_tool('t', 'sleep 0.05; echo "[1]"', idempotent=True,
                                         on_unknown='retry')], max_attempts=20)
    tasks = [own.submit('storm', TEXTS[i % 4], **({'session_id': 's%d' % (i % 20)} if i % 2 else {}))
             for i in range(n)]
    prepare()
    end = time.monotonic() + seconds
    i = 0
    while time.monotonic() < end:
        fault(i)
        i += 1
    own.check_invariants(deadline=40)
    ended = own.sql('select status, count(*) as n from nocturne.done group by 1')
    assert ended == [{'status': 'completed', 'n': n}], ended
    for task in tasks[:8]:
        told = harness.joined_text([harness.Event(None, e['type'], json.dumps(e))
                                    for e in own.stored_events(task)])
        text = own.task(task)['output']['text']
        assert told.endswith(text), (told, text)


def terminate(own):
    own.cluster.psql('postgres', "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                     "where datname = '%s' and application_name like 'nocturne-worker%%' "
                     "and random() < 0.7" % own.db)


def test_connections_that_die_again_and_again():
    with harness.Env() as own:
        own.sim = env.sim
        own.scheduler()
        storm(own, 100, lambda: [own.worker(slots=8, **FAST), own.worker(slots=8, **FAST)],
              lambda i: (time.sleep(random.uniform(0.05, 0.3)), terminate(own)), 6)


def test_workers_that_are_frozen_longer_than_they_may_be():
    with harness.Env() as own:
        own.sim = env.sim
        own.scheduler()
        workers = []

        def freeze(i):
            worker = workers[i % 3]
            worker.stop()
            time.sleep(1.3)
            worker.cont()
            time.sleep(random.uniform(0, 0.3))

        storm(own, 100, lambda: workers.extend(own.worker(slots=6, **FAST) for _ in range(3)), freeze, 8)


def test_workers_that_are_killed():
    with harness.Env() as own:
        own.sim = env.sim
        own.scheduler()
        workers = []

        def kill(i):
            time.sleep(random.uniform(0.2, 0.8))
            if i < 2:  # three deaths with one turn would quarantine it
                workers.pop(0).kill()
                workers.append(own.worker(wait=False, slots=8, **FAST))

        storm(own, 60, lambda: workers.extend(own.worker(slots=8, **FAST) for _ in range(2)),
              kill, 6)


def test_outages_longer_than_a_worker_may_be_silent():
    with harness.Env() as own:
        own.sim = env.sim
        own.scheduler()

        def fault(i):
            time.sleep(0.5)
            if i < 2:
                own.outage()
                time.sleep(2)
                own.outage_over()

        storm(own, 100, lambda: [own.worker(slots=8, **FAST), own.worker(slots=8, **FAST)], fault, 7)


def test_a_database_that_crashes():
    database = cluster.Cluster()
    own = harness.Env(cluster_=database)
    try:
        own.sim = env.sim
        own.scheduler()

        def fault(i):
            time.sleep(0.7)
            if i < 3:
                database.down('immediate')
                database.up()

        storm(own, 60, lambda: [own.worker(slots=8, **FAST), own.worker(slots=8, **FAST)], fault, 6)
        own.close()
    finally:
        database.close()


def test_a_database_that_hangs_and_answers_late():
    """What was sent before is executed when the worker has long given it up."""
    database = cluster.Cluster()
    own = harness.Env(cluster_=database)
    try:
        own.sim = env.sim
        own.scheduler()

        def fault(i):
            time.sleep(0.6)
            if i < 2:
                thaw = database.freeze()
                time.sleep(1.6)
                thaw()

        storm(own, 60, lambda: [own.worker(slots=8, **FAST), own.worker(slots=8, **FAST)], fault, 7)
        own.close()
    finally:
        database.close()


def test_a_flush_that_waits_for_a_table_does_not_hold_up_the_heartbeat():
    """The flush has its worker's row locked for share meanwhile, and the beat is an update of it."""
    with harness.Env() as own:
        own.sim = env.sim
        own.scheduler(worker_ttl='6s')
        own.llm_agent('a')
        worker = own.worker(beat_every='1s', beat_ttl='6s')
        task_id = own.submit('a', 'stream 250 tokens 50ms')
        wait_until(lambda: own.stored_events(task_id), 10, 'its first events')
        lock = own.psql()
        lock.run('begin')
        lock.run('lock table nocturne.chunk in exclusive mode')
        time.sleep(9)  # longer than the time to live
        lock.run('commit')
        task = own.wait_task(task_id, 30, 'completed')
        assert [a['outcome'] for a in task['attempts']] == ['completed'], task
        assert 'suspended' not in worker.log() and 'fences' not in worker.log(), worker.tail()
        own.check_invariants()


def test_one_turn_that_cannot_be_written_costs_the_others_little():
    """A check on the table stands for whatever the database may refuse; the batch is halved until the
    turn is found."""
    with harness.Env() as own:
        own.put_agent('p', {'kind': 'process', 'max_attempts': 1, 'command': [
            'sh', '-c', 'read x; sleep 1; echo "{\\"chunk\\":$x}"; echo "{\\"result\\":$x}"']})
        own.execute("alter table nocturne.chunk add check (events not like '%refuse me%')")
        worker = own.worker()
        ids = fakes.submit_all(own, [('p', 'refuse me' if i == 37 else str(i)) for i in range(100)])
        wait_until(lambda: own.value('select count(*) from nocturne.done') == 100, 60, 'all ended')
        ended = own.sql("select task_id::text, status, error ->> 'code' as code from nocturne.done")
        bad = [r for r in ended if r['status'] != 'completed']
        assert [(r['task_id'], r['code']) for r in bad] == [(ids[37], 'UNSTORABLE')], bad
        refused = own.cluster.log(4000, own.db).count('violates check constraint')
        assert refused <= 12, refused
        assert worker.log().count('cannot be written') == 1, worker.tail()
        own.check_invariants()


def test_a_claim_whose_answer_is_lost_is_handed_back_at_once():
    """Long before a heartbeat would have shown it."""
    with harness.Env() as env:
        env.put_agent('e', {'kind': 'echo'})
        task_id = env.submit('e', 'x')
        worker = env.worker(env={'TEST_FAIL_SQL': '08006:1'}, beat_every='8s', beat_ttl='30s')
        task = env.wait_task(task_id, 15, 'completed')
        assert worker.log().count('test: turn_claim fails') == 1, worker.tail()
        outcomes = [a['outcome'] for a in task['attempts']]
        assert outcomes[0] == 'released' and outcomes[-1] == 'completed', task
        longest = env.value('select max(extract(epoch from ended_at - started_at))::float8'
                            ' from nocturne.attempts')
        assert longest < 3, longest
        env.check_invariants()


def spoil_one(fresh):
    """One of 40 turns; the others end."""
    with harness.Env() as own:
        own.scheduler()
        own.put_agent('echo', {'kind': 'echo'})
        ids = fakes.submit_all(own, [('echo', str(i)) for i in range(40)])
        own.execute("""
            create function nocturne.spoil(uuid) returns boolean language plpgsql as
                $$ begin perform 1 / (case when $1 = '%s' then 0 else 1 end); return true; end $$;
            alter table nocturne.task rename to task_all;
            create view nocturne.task as select * from nocturne.task_all
                where nocturne.spoil(task_id)""" % ids[17])
        own.execute('update nocturne.ready set fresh = %s' % fresh)
        worker = own.worker(**FAST)
        wait_until(lambda: own.value('select count(*) from nocturne.done') == 39, 30, 'the others')
        worker.wait_log('task %s cannot be loaded and is left out' % ids[17], 10)
        assert ('cannot claim' in worker.log()) == fresh, worker.tail()
        own.execute('drop view nocturne.task; alter table nocturne.task_all rename to task')
        own.wait_task(ids[17], 30, 'completed')  # it went back, or was charged, and came again
        own.check_invariants()


def test_a_turn_that_cannot_be_loaded_does_not_stop_the_others():
    spoil_one(fresh=False)


def test_a_turn_whose_request_cannot_be_told_does_not_stop_the_others():
    """Its claim is refused as a whole, and made again without requests."""
    spoil_one(fresh=True)
