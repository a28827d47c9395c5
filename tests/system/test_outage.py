"""The database is away: turns go on in memory, start nothing and write nothing, and are whole when
it is back. A worker that was declared dead meanwhile, or that did not run itself, lets go of them.
What is told faster than it can be written is held up, not refused."""
import json
import os
import shutil
import socket
import time

import cluster
import fakes
import harness
import proxy
from fakes import frame, head, lines_of, logging_tool, of_type, text_of
from harness import wait_until

TTL = 2.0
# Reconnecting may take a second, which must be short against the time to live.
QUICK = {'poll': '50ms', 'beat_every': '300ms', 'beat_ttl': '2s'}


def quick_scheduler(env):
    return env.scheduler(worker_ttl='2s', rescue_every='200ms')


def setup():
    global folder, raw
    folder = fakes.folder()
    raw = fakes.RawServer()


def teardown():
    raw.close()
    shutil.rmtree(folder, ignore_errors=True)


def outcomes(task):
    return [a['outcome'] for a in task['attempts']]


def dense(events):
    return [e['seq'] for e in events] == list(range(1, len(events) + 1))


class Partition:
    """Cuts one worker off from the database, the others not: it has a role of its own."""

    def __init__(self, env, name='cut'):
        self.env, self.role = env, '%s_%s' % (name, env.db)
        env.cluster.psql('postgres', 'create role %s login superuser' % self.role)
        self.conninfo = env.conninfo.replace('user=' + env.cluster.user, 'user=' + self.role)

    def cut(self):
        self.env.cluster.psql('postgres', """alter role %s nologin;
            select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = '%s';
            """ % (self.role, self.role))

    def heal(self):
        self.env.cluster.psql('postgres', 'alter role %s login' % self.role)

    def drop(self):
        self.env.cluster.psql('postgres', 'drop role if exists ' + self.role)


# ---- turns go on in memory ----

def test_a_stream_goes_on_through_an_outage_of_three_ttl():
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a')
        worker = env.worker(**QUICK)
        task_id = env.submit('a', 'stream 200 tokens 40ms')
        wait_until(lambda: len(env.stored_events(task_id)) > 5, 5, 'its first events')
        env.outage()
        worker.wait_log('is suspended', 5)
        time.sleep(2 * TTL)
        env.outage_over()
        task = env.wait_task(task_id, 15, 'completed')
        worker.wait_log('goes on', 5)
        assert outcomes(task) == ['completed'], task
        events = env.stored_events(task_id)
        assert dense(events) and not of_type(events, 'reset'), events
        assert text_of(events) == task['output']['text'], task
        assert len(env.sim.requests()) == 1, env.sim.requests()
        env.check_invariants()


def test_nothing_is_started_while_the_database_is_away():
    """A tool ends in the outage: its result waits, and so does the model call behind it."""
    path = os.path.join(folder, 'started')
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [logging_tool('log', path, 2.5)])
        worker = env.worker(**QUICK)
        ids = [env.submit('a', 'call log {} then call log {} then say done') for _ in range(5)]
        wait_until(lambda: len(lines_of(path)) == 5, 10, 'the tools run')
        env.outage()
        worker.wait_log('is suspended', 5)
        asked = len(env.sim.requests())
        time.sleep(3)  # the tools have ended by then
        assert len(env.sim.requests()) == asked, env.sim.requests()
        assert len(lines_of(path)) == 5, lines_of(path)
        env.outage_over()
        for task_id in ids:
            task = env.wait_task(task_id, 20, 'completed')
            assert outcomes(task) == ['completed'], task
        assert len(lines_of(path)) == 10 and len(set(lines_of(path))) == 10, lines_of(path)
        assert len(env.sim.requests()) == 15
        env.check_invariants()


def test_an_abort_of_a_suspended_turn_waits_for_nothing_but_the_database():
    with harness.Env() as env:
        env.modelsim()
        env.llm_agent('a', [logging_tool('log', os.path.join(folder, 'abort'), 1.5)])
        worker = env.worker(**QUICK)
        task_id = env.submit('a', 'call log {} then say never')
        wait_until(lambda: of_type(env.stored_events(task_id), 'tool.started'), 5, 'the tool runs')
        env.execute("insert into nocturne.control (task_id, kind, reason) values ('%s','abort','x')"
                    "; update nocturne.lease set aborting = true" % task_id)
        env.outage()
        worker.wait_log('is suspended', 5)
        env.outage_over()
        assert env.wait_task(task_id, 10)['status'] == 'aborted'
        env.check_invariants()


def test_a_worker_that_was_declared_dead_in_its_outage_lets_go():
    """Only it is cut off: another one goes on from the last commit, and there is one stream."""
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a')
        cut = Partition(env)
        first = env.worker(**{**QUICK, 'database': cut.conninfo})
        task_id = env.submit('a', 'stream 250 tokens 40ms')
        wait_until(lambda: len(env.stored_events(task_id)) > 5, 5, 'its first events')
        cut.cut()
        first.wait_log('is suspended', 5)
        second = env.worker(**QUICK)
        wait_until(lambda: env.value("select 1 from nocturne.attempt where outcome = 'lost'"), 10,
                   'rescued')
        cut.heal()
        first.wait_log('fences itself: this worker was declared dead', 10)
        wait_until(lambda: [r['status'] for r in env.sim.requests()].count('client-closed') == 1, 5,
                   'the first call is closed')
        task = env.wait_task(task_id, 20, 'completed')
        assert outcomes(task) == ['lost', 'completed'], task
        events = env.stored_events(task_id)
        assert dense(events) and len(of_type(events, 'reset')) == 1, events
        assert text_of(events) == task['output']['text'], task
        first.wait_log('registered as worker [3-9]', 5)  # and it is of use again
        env.check_invariants()
        for worker in (first, second):
            worker.end()
        cut.drop()


def test_the_same_incarnation_goes_on_after_a_cut_that_nobody_judged():
    """No scheduler: its time has run out, but nobody has said that it is dead."""
    with harness.Env() as env:
        env.modelsim()
        env.llm_agent('a')
        cut = Partition(env)
        worker = env.worker(**{**QUICK, 'database': cut.conninfo})
        task_id = env.submit('a', 'stream 120 tokens 50ms')
        wait_until(lambda: len(env.stored_events(task_id)) > 3, 5, 'its first events')
        cut.cut()
        time.sleep(2 * TTL)
        cut.heal()
        task = env.wait_task(task_id, 15, 'completed')
        assert outcomes(task) == ['completed'] and len(env.sim.requests()) == 1, task
        assert 'fences itself' not in worker.log(), worker.tail()
        env.check_invariants()
        worker.end()
        cut.drop()


# ---- a server that comes back is not stormed ----

def test_one_connection_of_a_process_looks_for_a_server_that_is_away():
    with harness.Env() as env:
        env.put_agent('e', {'kind': 'echo'})
        between = proxy.PgProxy(env)
        worker = env.worker(database=between.conninfo())
        wait_until(lambda: len(between.pairs) == 3, 10, 'its connections')
        for seconds, most in ((3, 12), (0, 3)):  # refused, at most every 400 ms; only cut
            between.refuses = seconds > 0
            before = len(between.arrivals)
            between.cut()
            time.sleep(seconds)
            assert len(between.arrivals) - before <= most, between.arrivals[before:]
            between.refuses, over = False, time.monotonic()
            env.wait_task(env.submit('e', 'x'), 15, 'completed')
            took = time.monotonic() - over
            assert took < (4 if seconds else 1.5), took
            wait_until(lambda: len(between.pairs) == 3, 5, 'all are back')
        assert 'fences itself' not in worker.log(), worker.tail()
        worker.end()
        between.close()
        env.check_invariants()


# ---- nobody is declared dead for what the database did ----

def restart(database, mode, seconds):
    database.down(mode)
    time.sleep(seconds)
    database.up()


def hang(database, seconds):
    thaw = database.freeze()
    time.sleep(seconds)
    thaw()


def on_a_server_of_its_own(fault):
    """20 streams through the fault; each is one attempt and one model call, told without a gap."""
    database = cluster.Cluster()
    env = harness.Env(cluster_=database)
    try:
        env.modelsim()
        scheduler = quick_scheduler(env)
        env.llm_agent('a')
        workers = [env.worker(**QUICK) for _ in range(2)]
        time.sleep(TTL + 1)  # the grace of the new leader is over
        ids = [env.submit('a', 'stream 200 tokens 40ms') for _ in range(20)]
        wait_until(lambda: env.value('select count(distinct task_id) from nocturne.chunk') == 20, 15,
                   'all streams')
        fault(database)
        for task_id in ids:
            task = env.wait_task(task_id, 60, 'completed')
            assert outcomes(task) == ['completed'], task
            events = env.stored_events(task_id)
            assert dense(events) and not of_type(events, 'reset'), events
            assert text_of(events) == task['output']['text'], task
        assert len(env.sim.requests()) == 20
        assert 'this worker is dead' not in scheduler.log(), scheduler.tail()
        assert not any('fences itself' in w.log() for w in workers), workers[0].tail()
        env.check_invariants()
        env.close()
    finally:
        database.close()


def test_an_immediate_restart_kills_no_turn():
    on_a_server_of_its_own(lambda database: restart(database, 'immediate', 0))


def test_a_long_restart_kills_no_turn():
    on_a_server_of_its_own(lambda database: restart(database, 'fast', 2 * TTL))


def test_a_server_that_hangs_kills_no_turn():
    on_a_server_of_its_own(lambda database: hang(database, 2 * TTL))


def test_a_server_that_hangs_for_shorter_than_anybody_waits_kills_no_turn():
    """The leader's statement is answered, late, and not failed."""
    on_a_server_of_its_own(lambda database: hang(database, 0.9 * TTL))


def test_an_outage_that_only_workers_see_costs_them_their_turns_once():
    with harness.Env() as env:
        env.modelsim()
        scheduler = quick_scheduler(env)
        env.llm_agent('a')
        cut = Partition(env)
        for _ in range(3):
            env.worker(**{**QUICK, 'database': cut.conninfo})
        ids = [env.submit('a', 'stream 150 tokens 40ms') for _ in range(12)]
        wait_until(lambda: env.value('select count(distinct task_id) from nocturne.chunk') == 12, 15,
                   'all streams')
        cut.cut()
        wait_until(lambda: scheduler.log().count('this worker is dead') == 3, 15, 'they are dead')
        cut.heal()
        for task_id in ids:
            task = env.wait_task(task_id, 60, 'completed')
            assert outcomes(task) == ['lost', 'completed'], task
            assert text_of(env.stored_events(task_id)) == task['output']['text'], task
        env.check_invariants()
        for process in env.processes:
            process.end()
        cut.drop()


def test_a_clock_that_jumps_kills_no_turn():
    """The database's own, by 30 s. Whoever calls clock_timestamp() sees it jump."""
    with harness.Env() as env:
        env.execute("""
            create schema fake;
            create table fake.jump as select interval '0' as by;
            create function fake.clock_timestamp() returns timestamptz language sql volatile as
                'select pg_catalog.clock_timestamp() + (select by from fake.jump)';
            alter database %s set search_path = fake, pg_catalog, public""" % env.db)
        env.modelsim()
        scheduler = quick_scheduler(env)
        env.llm_agent('a')
        env.worker(**QUICK)
        time.sleep(TTL + 1)  # the grace of the new leader is over
        task_id = env.submit('a', 'stream 200 tokens 40ms')
        wait_until(lambda: len(env.stored_events(task_id)) > 5, 15, 'its first events')
        env.execute("update fake.jump set by = '30 s'")
        scheduler.wait_log('its clock jumped', 5)
        time.sleep(TTL)
        env.execute("update fake.jump set by = '0'")
        task = env.wait_task(task_id, 30, 'completed')
        assert outcomes(task) == ['completed'], task
        assert 'this worker is dead' not in scheduler.log(), scheduler.tail()
        env.check_invariants()


# ---- the worker itself was stopped ----

def test_the_calls_of_a_worker_that_was_stopped_are_closed_at_once():
    ended = []

    def stream_for_ever(conn):
        conn.settimeout(30)
        conn.sendall(head() + frame({'role': 'assistant', 'content': 'x'}))
        try:
            while conn.recv(1):
                pass
        except OSError:
            pass
        ended.append(time.monotonic())

    raw.scripts['stopped'] = [stream_for_ever]
    with harness.Env() as env:
        env.put_agent('a', {'kind': 'llm', 'max_attempts': 1, 'model': {
            'provider': 'openai', 'base_url': raw.url('stopped'), 'name': 'm'}})
        worker = env.worker(**QUICK)
        ids = [env.submit('a', 'x') for _ in range(10)]
        wait_until(lambda: raw.count('stopped') == 10, 10, 'all streams')
        worker.stop()
        time.sleep(2.5 * TTL)
        woken = time.monotonic()
        worker.cont()
        wait_until(lambda: len(ended) >= 10, 5, 'the streams are closed', every=0.005)
        late = max(ended[:10]) - woken
        assert late < 0.25, late  # 100 ms, and what a busy machine adds
        worker.wait_log('fences itself: it was stopped for too long')
        raw.scripts['stopped'] = [fakes.spoken('fine')]
        for task_id in ids:  # nobody else took them: it finds its leases again and gives them back
            env.wait_task(task_id, 20, 'completed')
        env.check_invariants()


def test_a_worker_that_wakes_up_late_calls_no_tool():
    """It is stopped while the claim of a call commits; the answer is there when it wakes up."""
    path = os.path.join(folder, 'late')
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [logging_tool('log', path, 0, on_unknown='retry', idempotent=True)])
        first = env.worker(**QUICK)
        lock = env.psql()
        lock.run('begin')
        lock.run('lock table nocturne.tool_call in exclusive mode')
        task_id = env.submit('a', 'call log {} then say done')
        wait_until(lambda: env.value(
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and"
            " application_name = 'nocturne-worker-flush' and datname = current_database()"), 10,
            'the claim waits')
        first.stop()
        lock.run('commit')
        wait_until(lambda: env.value('select count(*) from nocturne.tool_call'), 5, 'it is claimed')
        wait_until(lambda: env.value("select 1 from nocturne.attempt where outcome = 'lost'"), 10,
                   'rescued')
        env.worker(**QUICK)
        env.wait_task(task_id, 15, 'completed')
        first.cont()
        first.wait_log('fences itself')
        first.wait_log('registered as worker 3')
        assert lines_of(path) == [task_id + '/1/0'], lines_of(path)
        env.check_invariants()


# ---- bounded memory ----

def rss_mb(process):
    with open('/proc/%d/status' % process.pid) as f:
        return int([line for line in f if line.startswith('VmRSS')][0].split()[1]) >> 10


def flood_agent(env, name, lines, size, **more):
    env.put_agent(name, {'kind': 'process', 'max_attempts': 1, 'command': [
        'python3', '-c', 'import os, sys\n'
        'for i in range(%d):\n'
        '    os.write(1, b\'{"chunk":[%%d,"%%s"]}\\n\' %% (i, b"x" * %d))\n'
        'os.write(1, b\'{"result":"all"}\\n\')' % (lines, size)], **more})


def check_flood(env, task_id, lines, size):
    rows = env.sql("""select seq, event -> 'data' ->> 0 as i, length(event -> 'data' ->> 1) as len
                      from nocturne.task_events('%s') where event ->> 'type' = 'progress'""" % task_id)
    assert [int(r['i']) for r in rows] == list(range(lines)), len(rows)
    assert all(r['len'] == size for r in rows)


def test_a_program_is_held_up_while_the_database_hangs():
    with harness.Env() as env:
        worker = env.worker(buffer_turn='1MiB', buffer='4MiB')
        flood_agent(env, 'flood', 2000, 16000)  # 32 MB each
        before = rss_mb(worker)
        session = env.psql()
        session.run('begin; lock table nocturne.chunk in exclusive mode')
        ids = [env.submit('flood', 'go') for _ in range(8)]
        wait_until(lambda: env.value('select count(*) from nocturne.lease') == 8, 10, 'they run')
        time.sleep(3)  # as long as it may
        grown = rss_mb(worker) - before
        session.run('rollback')
        assert grown < 150, '%d MB' % grown
        for task_id in ids:
            task = env.wait_task(task_id, 60, 'completed')
            assert task['output']['data'] == 'all', task
        for task_id in ids[:2]:
            check_flood(env, task_id, 2000, 16000)
        env.check_invariants()


def test_64_mb_at_full_speed_are_delivered_whole():
    with harness.Env() as env:
        worker = env.worker()
        api = env.api()
        flood_agent(env, 'flood', 1024, 65536)
        before = rss_mb(worker)
        task_id = env.submit('flood', 'go')
        want, got, most = 0, 0, 0
        stream = env.events(task_id, timeout=100)
        for line in stream.answer:  # by hand: EventStream keeps all it has read
            if line.startswith(b'data: {') and b'"progress"' in line[:100]:
                at, text = json.loads(line[6:])['data']
                assert at == want and len(text) == 65536, (want, at)
                want += 1
                got += len(text)
                most = max(most, rss_mb(worker)) if want % 64 == 0 else most
        assert got == 64 << 20, got
        assert env.task(task_id)['status'] == 'completed'
        assert most - before < 300, (before, most)
        api.end()
        env.check_invariants()


def test_a_model_is_held_up_too():
    pieces = 2000  # more than the buffers of TCP hold
    sent = []

    def pour(conn):
        conn.settimeout(60)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        conn.sendall(head() + frame({'role': 'assistant', 'content': ''}))
        for i in range(pieces):
            conn.sendall(frame({'content': 'y' * 4000}))
            sent.append(i)
        conn.sendall(frame({}, 'stop') + fakes.DONE)

    raw.scripts['pour'] = [pour]
    with harness.Env() as env:
        env.worker(buffer_turn='256KiB')
        env.put_agent('m', {'kind': 'llm', 'max_attempts': 1, 'limits': {'max_output_bytes': 20000000},
                            'model': {'provider': 'openai', 'base_url': raw.url('pour'), 'name': 'm',
                                      'timeouts': {'idle': '1s'}}})
        session = env.psql()
        session.run('begin; lock table nocturne.chunk in exclusive mode')
        task_id = env.submit('m', 'x')
        wait_until(lambda: len(sent) > 50, 10, 'it pours')
        time.sleep(2)  # longer than the model may be idle
        stuck = len(sent)
        assert stuck < pieces, 'the model was not held up'
        time.sleep(0.3)
        assert len(sent) == stuck, (stuck, len(sent))
        session.run('rollback')
        task = env.wait_task(task_id, 60, 'completed')
        assert task['output']['text'] == 'y' * 4000 * pieces
        assert text_of(env.stored_events(task_id)) == task['output']['text']
        env.check_invariants()
