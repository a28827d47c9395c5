"""A worker dies on entering each state of each of its flows; see crash.py."""
import shutil
import time

import crash
import fakes
import harness

KEYS = {'KEY_B': 'b', 'KEY_C': 'c'}
SCRIPT = 'call log {} and call post {} then wait 200ms then say done {{tool}}'


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def work(matrix):
    if matrix.open_tasks() >= 12:
        return
    n = len(matrix.tasks)
    matrix.submit('b', SCRIPT, watch=n % 3 == 0, session_id='s%d' % (n % 5))
    matrix.submit(('p', 'h', 'e', 'slow')[n % 4], 'call hang {} then say x' if n % 4 == 3 else 'hi')
    matrix.submit('a', 'flaky 2 500 then say later %d' % n)


# ---- what the workload alone does not reach ----

def is_registered(matrix, process):
    return matrix.env.value("select count(*) from nocturne.worker where name = '%s'"
                            " and state = 'live'" % name_of(process))


def name_of(process):
    return process.argv[process.argv.index('--name') + 1]


def end(matrix, process):
    if is_registered(matrix, process):
        process.term()


def end_at_work(matrix, process):
    """It is told to leave in the middle of a tool that takes longer than it is given."""
    task_id = matrix.submit('b', 'call nap {} then say slept')
    harness.wait_until(lambda: not process.alive or matrix.env.value(
        "select count(*) from nocturne.tool_call where task_id = '%s' and status = 'claimed'" % task_id) or
        matrix.env.value("select count(*) from nocturne.done where task_id = '%s'" % task_id), 20, 'it works')
    end(matrix, process)


def stall_to_death(_matrix, process):
    process.stop()
    time.sleep(1.5)
    process.cont()


def hold_row(matrix, process):
    """Its beats find no answer for a while, and what it runs comes to its next call: pauses and
    tools that end in that time."""
    ids = [matrix.submit('c', 'ratelimit 2 after 2 then say %d' % len(matrix.tasks)) for _ in range(8)]
    ids += [matrix.submit('b', 'call nap {} then say slept') for _ in range(4)]
    harness.wait_until(lambda: not process.alive or matrix.env.value(
        "select count(c.task_id) >= 1 and count(*) filter (where t.agent = 'c') >= 2 from nocturne.lease l"
        " join nocturne.worker w using (worker_id) left join nocturne.tool_call c using (task_id)"
        " join nocturne.task t using (task_id)"
        " where w.name = '%s' and l.task_id in ('%s')"
        % (name_of(process), "','".join(ids))), 20, 'turns of the worker that is to be held')
    lock(matrix, "select 1 from nocturne.worker where name = '%s' for update" % name_of(process), 5,
         lambda: process.alive)


def limit(matrix, _process):
    """A key that refuses all at first, and has answered all before the next ones come."""
    if matrix.env.value("select not exists (select 1 from nocturne.task t where t.agent = 'c' and"
                        " not exists (select 1 from nocturne.done d where d.task_id = t.task_id))"):
        for _ in range(4):
            matrix.submit('c', 'ratelimit 1 then say %d' % len(matrix.tasks))


def lock(matrix, query, seconds, while_=lambda: True):
    session = matrix.env.psql()
    session.run('begin')
    session.run(query)
    end = time.monotonic() + seconds
    while while_() and time.monotonic() < end:
        time.sleep(0.05)
    session.run('commit')
    session.close()
    matrix.env.sessions.remove(session)


def cut(matrix, _process):
    crash.backends(matrix.env, '^nocturne-worker')


def cut_flush(matrix, _process):
    for _ in range(20):
        crash.backends(matrix.env, '^nocturne-worker-flush')
        time.sleep(0.02)


def hold(matrix, _process):
    """Somebody has the leases locked: what is written to them is skipped and asked about."""
    lock(matrix, 'select 1 from nocturne.lease for update skip locked', 0.3)


TRIGGERS = {
    'worker.draining': end, 'worker.handing_back': end_at_work, 'worker.leaving': end, 'worker.closed': end,
    'beat.stopped': end, 'notify.closing': end, 'pg.closed': end, 'pg.down': cut,
    'flush.backoff': cut_flush, 'flush.asking': hold, 'turn.dropping': stall_to_death,
    'flush.suspended': hold_row, 'model.suspended': hold_row,
    'turn.suspended': hold_row, 'model.governed': limit, 'governor.shut': limit,
    'governor.probing': limit, 'governor.ramping': limit, 'governor.open': limit,
}


def test_a_worker_dies_in_every_state():
    with harness.Env() as env:
        env.modelsim()
        env.scheduler(**{'worker-ttl': '1s', 'rescue-every': '200ms'})
        env.api()
        fakes.short_probation(env)  # all turns here come to have seen two workers die
        endpoint = crash.standard(env, folder)
        matrix = crash.Matrix(env, 'worker')
        matrix.apis.append(env.http)

        def start(crash_at):
            return env.worker(wait=False, env={**KEYS, **crash_at}, slots=40, drain='50ms',
                              **fakes.QUICK)

        problems = matrix.run(start, work, TRIGGERS)
        env.worker(env=KEYS, **fakes.QUICK)
        matrix.settle()
        endpoint.close()
        assert not problems, '\n'.join(problems)


test_a_worker_dies_in_every_state.timeout = 400
