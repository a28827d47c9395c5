"""An old transaction keeps every row that was deleted since: what must not walk over them does not,
and what such a transaction brings when it commits is found."""
import harness
from harness import wait_until

TURNS = 3000


def setup():
    global env, workers
    env = harness.Env()
    env.put_agent('e', {'kind': 'echo'})
    env.scheduler()
    workers = [env.worker() for _ in range(2)]


def teardown():
    env.check_invariants()


def ended(tasks):
    """By the poll alone: no hint tells of what is committed in SQL."""
    wait_until(lambda: env.value("select count(*) from nocturne.done where status = 'completed'"
                                 ' and task_id = any(%s::uuid[])' % harness.literal(tasks))
               == len(tasks), 3, 'the end of %s' % tasks)


def run_turns(n, at_once=1000, but=0):
    """One batch after the other; all but so many rows have gone when it returns."""
    session = env.psql()
    session.run('set enable_indexscan = off; set enable_indexonlyscan = off')  # walked() counts
    while n > 0:
        session.run("select count(s.task_id) from generate_series(1, %d) g, lateral nocturne.submit("
                    "'e', '\"x\"', p_priority => 5 + 0 * g) s" % min(n, at_once))
        session.run("notify nocturne, 'r'")
        n -= at_once
        wait_until(lambda: session.run('select (select count(*) from nocturne.ready) = %d'
                                       ' and not exists (select from nocturne.lease)' % but) == ['t'],
                   30, 'the turns end', every=0.005)


def walked():
    env.execute('select pg_stat_force_next_flush()')
    return env.value("select idx_tup_read from pg_stat_user_indexes where indexrelname = 'ready_pkey'")


def claims():
    return env.value("select sum((stats ->> 'claims')::bigint) from nocturne.worker_stats")


def walked_a_claim(turns):
    began, asked = walked(), claims()
    run_turns(turns, at_once=1)
    wait_until(lambda: claims() >= asked + turns, 5, 'beats')
    return (walked() - began) / (claims() - asked)


def test_claims_do_not_walk_over_what_is_gone():
    for pin in ('select 1', 'select txid_current()'):
        session = env.psql()
        session.run('begin isolation level repeatable read')
        session.run(pin)
        run_turns(TURNS)
        wait_until(lambda: env.value("select count(*) from nocturne.worker_stats"
                                     " where (stats ->> 'turns_running')::int = 0") == 2, 5, 'beats')
        # a transaction under way is late after a third of a second in which claims look
        wait_until(lambda: walked_a_claim(20) < 100, 20, 'claims begin behind what is gone')
        entries = walked_a_claim(200)
        assert entries < 100, '%d index entries a claim' % entries
        session.run('rollback')


def test_a_turn_that_is_committed_late_starts_soon():
    """Its row appears far below all others, in a queue that had none of its priority."""
    sessions = [env.psql() for _ in range(3)]
    tasks = []
    for priority, session in enumerate(sessions):
        session.run('begin')
        tasks += session.run("select task_id from nocturne.submit('e', '\"late\"', p_priority => %d)"
                             ' union all select task_id from nocturne.submit(%s)'
                             % (priority + 4, "'e', '\"late\"'"))
    for _ in range(5):
        run_turns(300, at_once=30)
    for i, session in enumerate(sessions):
        session.run('commit')
        ended(tasks[2 * i:2 * i + 2])
        run_turns(100, at_once=50)


def test_a_turn_that_another_let_go_of_late_starts_soon():
    """Who aborts in a transaction holds the row; when it rolls back the turn goes on."""
    for worker in workers:
        worker.stop()
    session = env.psql()
    task = env.value("select task_id from nocturne.submit('e', '\"held\"')")
    session.run('begin')
    assert session.run("select nocturne.abort('%s')" % task) == ['aborted']
    for worker in workers:
        worker.cont()
    for _ in range(5):
        run_turns(300, at_once=30, but=1)
    session.run('rollback')
    ended([task])


def test_who_makes_a_turn_ready_has_an_id_before_its_seq():
    """What worker/watermark.h relies on. A sequence gives an id only with each 32nd value."""
    with harness.Env() as own:
        own.execute("""
            create sequence without_id;
            create function no_id() returns trigger language plpgsql as $$
            begin
                if pg_current_xact_id_if_assigned() is null then
                    perform nextval('without_id');
                end if;
                return new;
            end $$;
            create trigger no_id before insert on nocturne.ready
                for each row execute function no_id()""")
        own.put_agent('e', {'kind': 'echo'})
        own.modelsim()
        own.llm_agent('m')
        own.scheduler()
        own.api()
        worker = own.worker(drain='0s')
        one = {'agent': 'e', 'input': 'x'}
        tasks = []
        for more in [{}] * 3 + [{'session_id': 's'}] * 3 + [{'run_at': '1s'}, {'session_id': 's'}]:
            answer = own.http.post('/v1/tasks', {'tasks': [{**one, **more}] * 8}).ok(202).json
            tasks += [task['task_id'] for task in answer['tasks']]
            tasks.append(own.submit('e', 'y', **more))
        held = own.submit('m', 'gate g then say x')
        own.wait_status(held, 'running')
        worker.stop()
        own.worker()
        own.sim.open_gate('g')
        for task_id in tasks + [held]:
            own.wait_task(task_id)
        assert not own.value('select is_called from without_id')
