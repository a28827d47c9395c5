"""The scheduler: one leads, another takes over, and nothing is done twice. Workers are rows here."""
import os
import re
import signal
import time

import harness
from harness import wait_until
from statements import claim, prepare, register

# so that a takeover takes seconds here; test_takeover_* use the defaults
QUICK = {'leader_every': '300ms', 'leader_ttl': '2s', 'poll': '200ms', 'rescue_every': '100ms',
         'worker_ttl': '1s'}


def fresh():
    env = harness.Env()
    env.put_agent('a', {'kind': 'echo'})
    return env


def leader(env):
    """Name of the one that leads now."""
    holder = env.value('select holder from nocturne.leader where expires_at > clock_timestamp()')
    return holder and holder.split('/')[0]


def wait_leader(env, name, deadline):
    started = time.monotonic()
    wait_until(lambda: leader(env) == name, deadline, 'the lead of ' + name, every=0.05)
    return time.monotonic() - started


def due_tasks(env, n, sessions=None, in_ms=0):
    """n tasks that are due in `in_ms`."""
    env.execute("""
        select nocturne.submit('a', '"x"', 's' || i %% %d, p_run_at => '2100-01-01')
        from generate_series(1, %d) i;
        update nocturne.due set at = clock_timestamp() + %d * interval '1 ms';
        """ % (sessions or n, n, in_ms), timeout=120)


def ready_history(env):
    """Count every row that is ever put into ready: a trigger of the test's own."""
    env.execute("""
        create table public.moved (task_id uuid, at timestamptz default clock_timestamp());
        create function public.note() returns trigger language plpgsql as $$
            begin insert into public.moved (task_id) values (new.task_id); return new; end $$;
        create trigger note after insert on nocturne.ready for each row execute function public.note();
        """)


def test_help_version_and_mistakes():
    env = fresh()
    import subprocess
    exe = harness.program('nocturne-scheduler')

    def run(*argv):
        return subprocess.run([exe, *argv], capture_output=True, text=True, timeout=20,
                              env=harness.sanitizer_env())
    done = run('--help')
    assert done.returncode == 0 and '--leader_ttl' in done.stdout, done
    done = run('--version')
    assert done.returncode == 0 and re.match(r'nocturne-scheduler \d+\.\d+', done.stdout), done
    for argv, text in [(['--database', 'x', '--poll', '3'], 'poll'),
                       (['--database', 'x', '--colour', 'red'], 'unknown option'),
                       (['--database', 'x', '--log-level', 'loud'], 'log_level'),
                       (['--database', 'x', '--leader-ttl', '3s'], 'leader_ttl'),
                       ([], 'database')]:
        done = run(*argv)
        assert done.returncode == 2 and text in done.stderr, (argv, done)
    env.close()


def test_due_tasks_become_ready_when_they_are_due():
    with fresh() as env:
        listener = env.psql()
        listener.run('listen nocturne')
        env.scheduler(notify='on', **QUICK)
        due_tasks(env, 3, in_ms=700)
        assert env.value('select count(*) from nocturne.ready') == 0
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 3, 5)
        late = env.value('select extract(epoch from clock_timestamp() - min(created_at)) * 1000'
                         ' from nocturne.task')
        assert late >= 700, late
        wait_until(lambda: any('payload "r"' in line for line in listener.run('select 1')), 5,
                   'the hint that something is ready')
        for row in env.sql('select task_id from nocturne.task'):
            env.abort(row['task_id'])
        env.check_invariants()


def test_a_due_task_is_not_late_although_the_poll_is_long():
    with fresh() as env:
        env.scheduler(**{**QUICK, 'poll': '1s'})
        time.sleep(0.3)  # it sleeps now
        due_tasks(env, 1, in_ms=1500)
        ready_history(env)
        due_at = env.value('select at from nocturne.due')
        wait_until(lambda: env.value('select count(*) from moved'), 5)
        late = env.value("select extract(epoch from at - '%s'::timestamptz) * 1000 from moved" % due_at)
        assert 0 <= late < 150, late
        env.execute('select nocturne.abort(task_id) from nocturne.task')
        env.check_invariants()


def test_nothing_due_is_no_reason_to_look_again_at_once():
    """greatest(0, null) is 0: the leader once asked fifty times a second when nothing was due."""
    env = fresh()
    session = prepare(env.psql(), 'due_release')
    assert session.run('execute due_release(500)') == ['0|'], 'null, when there is no next row'


def test_two_schedulers_move_each_of_2000_due_rows_once():
    with fresh() as env:
        ready_history(env)
        due_tasks(env, 2000, in_ms=3000)
        env.scheduler(wait=False, **QUICK)
        env.scheduler(wait=False, **QUICK)
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 2000, 30)
        assert env.value('select count(*) from moved') == 2000
        assert env.value('select count(distinct task_id) from moved') == 2000
        assert env.value('select count(*) from nocturne.due') == 0
        leading = [p for p in env.processes if 'leading, term' in p.log()]
        assert len(leading) == 1, leading
        env.execute('select nocturne.abort(task_id) from nocturne.task', timeout=100)
        env.check_invariants()


def test_two_that_both_believe_to_lead_still_move_each_row_once():
    """The row of the leader is only an optimization: the statements hold without it."""
    with fresh() as env:
        ready_history(env)
        due_tasks(env, 2000, sessions=200)
        a, b = env.psql(), env.psql()
        moved = 0
        while env.value('select count(*) from nocturne.due'):
            a.send('select nocturne.release_due(50)')
            b.send('select nocturne.release_due(50)')
            moved += int(a.result()[0]) + int(b.result()[0])
        assert moved == 2000
        counts = env.sql("""
            select (select count(*) from moved) as ready,
                   (select sum(cardinality(queue)) from nocturne.session) as waiting""")[0]
        assert counts == {'ready': 200, 'waiting': 1800}, counts


def takeover(how):
    with fresh() as env:
        first = env.scheduler()
        second = env.scheduler(wait=False)
        second.wait_log('version')
        time.sleep(2.5)  # both have asked
        assert leader(env) == 'scheduler-1'
        how(first)
        due_tasks(env, 10)
        took = wait_leader(env, 'scheduler-2', 11)
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 10, 3)
        assert took <= 10, took
        second.wait_log('leading, term 2')
        if first.alive:
            first.cont()
            first.wait_log('no longer leading', 5)
            assert leader(env) == 'scheduler-2'
        env.execute('select nocturne.abort(task_id) from nocturne.task')
        env.check_invariants()


def test_takeover_within_10_s_after_kill_9():
    takeover(lambda p: p.kill())


def test_takeover_within_10_s_after_sigstop():
    takeover(lambda p: p.stop())


def test_a_clean_stop_hands_over_at_once():
    with fresh() as env:
        first = env.scheduler()
        second = env.scheduler(wait=False, leader_every='200ms')
        second.wait_log('version')
        first.end()
        assert wait_leader(env, 'scheduler-2', 5) < 1.5


def test_a_leader_without_a_database_stops_leading_and_comes_back():
    with fresh() as env:
        process = env.scheduler(**QUICK)
        env.outage()
        process.wait_log('no longer leading: no answer', 5)
        env.outage_over()
        wait_until(lambda: process.log().count('leading, term 1') == 2, 10, 'the lead again')
        due_tasks(env, 5)
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 5, 5)
        env.execute('select nocturne.abort(task_id) from nocturne.task')
        env.check_invariants()


def test_it_stops_within_seconds_without_a_database():
    with fresh() as env:
        leads, stands_by = env.scheduler(**QUICK), env.scheduler(wait=False, **QUICK)
        stands_by.wait_log('version')
        env.outage()
        for process in (leads, stands_by):
            process.end(timeout=6)
        env.outage_over()


def running(env, n, ttl_ms):
    """n turns of a worker that will not beat again."""
    env.execute("select nocturne.submit('a', '\"x\"') from generate_series(1, %d)" % n)
    session = prepare(env.psql(), 'worker_register', 'turn_claim', 'worker_beat')
    worker = register(session, 'doomed', ttl_ms)
    assert len(claim(session, worker, n)) == n
    return session, worker


def test_a_session_that_takes_no_answers_is_ended():
    """A stopped listener with more hints than its socket holds; another program that hangs alike."""
    stuck = ("select count(*) from pg_stat_activity where datname = current_database()"
             " and application_name %s and wait_event = 'ClientWrite'")
    with fresh() as env:
        env.scheduler(stuck='1500ms', **QUICK)
        api = env.api(hints='on', database=env.cluster.conninfo(env.db))
        stranger = env.psql()
        stranger.run("set application_name = 'a stranger'; listen nocturne")
        os.kill(stranger.popen.pid, signal.SIGSTOP)
        wait_until(lambda: env.value("select count(*) from pg_stat_activity where datname = current_database()"
                                     " and application_name like 'nocturne-api%' and query like '%listen nocturne%'"), 10, 'it listens')
        api.stop()
        for _ in range(20):
            env.execute("select pg_notify('nocturne', repeat('x', 56) || i)"
                        ' from generate_series(1, 10000) i')
        process = env.processes[0]
        process.wait_log(r'backend=\d+ .*ended a session of nocturne-api', 15)
        age = int(process.wait_log(r'its transaction was (\d+) ms old').group(1))
        assert 1500 <= age < 6000, age
        wait_until(lambda: env.value(stuck % "like 'nocturne-%'") == 0, 5, 'it is gone')
        assert env.value(stuck % "= 'a stranger'") == 1, 'that of somebody else is left alone'
        os.kill(stranger.popen.pid, signal.SIGCONT)
        api.cont()
        task_id = env.http.post('/v1/agents/a/tasks', {'input': 'x'}).ok(202).json['task_id']
        assert env.http.post('/v1/tasks/%s/abort' % task_id).status in (200, 202)
        assert process.log().count('ended a session') == 1, process.tail()
        env.check_invariants()


def test_leases_of_a_dead_worker_go_back():
    with fresh() as env:
        process = env.scheduler(**QUICK)
        running(env, 700, 1500)  # more than a batch
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 700, 10)
        rows = env.sql("select distinct crashes, fails from nocturne.ready")
        assert rows == [{'crashes': 1, 'fails': 0}], rows
        assert env.value("select count(*) from nocturne.attempt where outcome = 'lost'") == 700
        assert env.value("select state from nocturne.worker where name = 'doomed'") == 'dead'
        process.wait_log('gave back 500 leases')
        env.execute('select nocturne.abort(task_id) from nocturne.task', timeout=60)
        env.check_invariants()


def test_a_worker_that_beats_is_left_alone():
    with fresh() as env:
        session, worker = running(env, 5, 1000)
        env.scheduler(**QUICK)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert session.run("execute worker_beat(%d, 1000, '{}', true)" % worker)
            time.sleep(0.2)
        assert env.value('select count(*) from nocturne.lease') == 5
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 5, 5)
        env.execute('select nocturne.abort(task_id) from nocturne.task')


def test_nobody_is_declared_dead_right_after_an_outage():
    with fresh() as env:
        settings = {**QUICK, 'worker_ttl': '4s'}
        process = env.scheduler(**settings)
        time.sleep(4.5)  # the grace of the start is over
        running(env, 5, 1000)
        env.sessions.pop().close()
        env.outage()
        process.wait_log('cannot look for the dead', 10)
        time.sleep(1)
        env.outage_over()
        wait_until(lambda: process.log().count('leading, term') == 2, 10)
        back = time.monotonic()
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 5, 15)
        assert time.monotonic() - back >= 3, time.monotonic() - back
        env.execute('select nocturne.abort(task_id) from nocturne.task')


def test_an_outage_in_a_grace_begins_it_anew():
    """The round that was under way is answered late, and after the grace; the lead is not lost."""
    with fresh() as env:
        running(env, 5, 1000)
        env.sessions.pop().close()
        process = env.scheduler(**{**QUICK, 'worker_ttl': '2s', 'leader_ttl': '20s'})
        process.wait_log('leading, term')
        env.outage()
        time.sleep(2.2)  # longer than the grace, not so long that the round fails
        env.outage_over()
        back = time.monotonic()
        wait_until(lambda: env.value('select count(*) from nocturne.ready') == 5, 15)
        assert time.monotonic() - back >= 1.9, time.monotonic() - back
        assert process.log().count('leading, term') == 1, process.tail()
        env.execute('select nocturne.abort(task_id) from nocturne.task')


def test_deadlines_end_what_waits():
    with fresh() as env:
        env.scheduler(**QUICK)
        env.execute("""select nocturne.submit('a', '"x"', 's' || i %% 10,
                         p_deadline => clock_timestamp() + interval '500 ms')
                       from generate_series(1, 50) i""".replace('%%', '%'))
        wait_until(lambda: env.value("select count(*) from nocturne.done where status = 'expired'") == 50,
                   10)
        env.check_invariants()
        assert env.value('select count(*) from nocturne.due') == 0


MAKE_OLD = """
    update nocturne.done d set finished_at = now() - interval '2 days'
        from nocturne.task t where t.task_id = d.task_id and t.session_id like 'old%';
    update nocturne.session set updated_at = now() - interval '2 days'
        where session_id like 'old%';
    -- their ids say when they were made
    create temp table ids as select task_id as id, overlay(task_id::text placing
        left(nocturne.uuid7_floor(now() - interval '2 days')::text, 13) from 1 for 13)::uuid
        as old_id from nocturne.task where session_id like 'old%';
    update nocturne.task x set task_id = old_id from ids where x.task_id = id;
    update nocturne.done x set task_id = old_id from ids where x.task_id = id;
    update nocturne.chunk x set task_id = old_id from ids where x.task_id = id;
"""  # what ended in sessions whose names begin with old


def test_what_has_been_kept_long_enough_goes():
    with fresh() as env:
        env.execute("""
            select nocturne.submit('a', '"x"', 'old' || i % 300, p_key => 'k' || i)
            from generate_series(1, 1200) i;
            select nocturne.submit('a', '"x"', 'young' || i) from generate_series(1, 10) i;
            select nocturne.abort(task_id) from nocturne.task;
            """ + MAKE_OLD, timeout=100)
        assert env.value('select count(*) from nocturne.task') == 1210
        process = env.scheduler(**QUICK, retention='1d', retain_every='200ms')
        wait_until(lambda: env.value('select count(*) from nocturne.task') == 10, 30)
        process.wait_log('removed')
        counts = env.sql("""
            select (select count(*) from nocturne.done) as done,
                   (select count(*) from nocturne.chunk) as chunk,
                   (select count(*) from nocturne.session) as session""")[0]
        assert counts == {'done': 10, 'chunk': 10, 'session': 10}, counts
        env.check_invariants()


def test_a_session_is_kept_for_the_turn_that_is_scheduled_in_it():
    with fresh() as env:
        env.execute("""
            select nocturne.submit('a', '"x"', 'old' || i) from generate_series(1, 3) i;
            select nocturne.abort(task_id) from nocturne.task;""" + MAKE_OLD)
        env.execute("""select nocturne.submit('a', '"x"', 'old2',
                                              p_run_at => now() + interval '30 days')""")
        process = env.scheduler(**QUICK, retention='1d', retain_every='200ms')
        process.wait_log('removed 2 tasks')
        kept = env.sql('select session_id, count(*) as n from nocturne.task group by 1')
        assert kept == [{'session_id': 'old2', 'n': 2}], kept
        assert env.value("select count(*) from nocturne.session where session_id = 'old2'") == 1


def partitions(env):
    return [r['relname'] for r in env.sql(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'nocturne.chunk'::regclass order by 1")]


def day(env, offset):
    return env.value("select 'chunk_' || to_char((clock_timestamp() at time zone 'UTC')::date + %d,"
                     " 'YYYYMMDD')" % offset)


def partitions_of_today(env):
    """The template may be of yesterday."""
    for name in partitions(env):
        if name < day(env, 0):
            env.execute('drop table nocturne.' + name)
    env.execute('select nocturne.make_partitions(3)')


def test_partitions_are_made_ahead_and_dropped_behind():
    with fresh() as env:
        partitions_of_today(env)
        # as if the scheduler had not run for long: nothing ahead, an old one behind
        env.execute('drop table nocturne.%s, nocturne.%s' % (day(env, 2), day(env, 3)))
        env.execute("""
            create table nocturne.chunk_20200101 partition of nocturne.chunk
            for values from (nocturne.uuid7_floor('2020-01-01 00:00Z'))
                         to (nocturne.uuid7_floor('2020-01-02 00:00Z'));
            create table nocturne.chunk_20200102 partition of nocturne.chunk
            for values from (nocturne.uuid7_floor('2020-01-02 00:00Z'))
                         to (nocturne.uuid7_floor('2020-01-03 00:00Z'));
            insert into nocturne.task (task_id, tenant, agent, revision, session_id, priority,
                                       max_attempts, input, created_at)
            values (nocturne.uuid7_floor('2020-01-02 12:00Z'), 'default', 'a', 1, 'old', 5, 3, '1',
                    '2020-01-02 12:00Z');""")
        process = env.scheduler(**QUICK)
        process.wait_log('partitions: 2 made, 1 dropped')
        # a day with a task that is still there stays
        assert partitions(env) == ['chunk_20200102'] + [day(env, n) for n in range(4)] + \
            ['chunk_default']


def test_a_day_whose_rows_went_to_the_default_partition_hurts_nobody():
    with fresh() as env:
        partitions_of_today(env)
        env.execute('drop table nocturne.%s, nocturne.%s' % (day(env, 0), day(env, 3)))
        env.abort(env.submit('a', 'x'))  # its event finds no partition of today
        assert env.value('select count(*) from nocturne.chunk_default') == 1
        process = env.scheduler(**QUICK)
        process.wait_log('partitions: 1 made, 0 dropped')
        assert day(env, 0) not in partitions(env) and day(env, 3) in partitions(env)
        env.check_invariants()


def test_partitions_do_not_wait_for_a_long_reader():
    with fresh() as env:
        partitions_of_today(env)
        env.execute('drop table nocturne.%s' % day(env, 3))
        reader = env.psql()
        reader.run('begin')
        reader.run('select count(*) from nocturne.chunk')  # as a dump does, for hours
        process = env.scheduler(**QUICK, retain_every='300ms')
        process.wait_log('cannot make or drop partitions: .*lock', 10)
        started = time.monotonic()
        env.abort(env.submit('a', 'x'))
        assert time.monotonic() - started < 2
        reader.run('commit')
        process.wait_log('partitions: 1 made', 10)


def test_it_starts_before_the_database_and_the_schema_are_there():
    with harness.Env(migrated=False) as env:
        process = env.scheduler(wait=False, **QUICK)
        process.wait_log('cannot ask to lead', 10)
        env.execute(harness.cluster.migration_script())
        process.wait_log('leading, term 1', 10)

