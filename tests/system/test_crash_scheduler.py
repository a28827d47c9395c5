"""A scheduler dies on entering each state of each of its flows; see crash.py."""
import shutil

import crash
import fakes
import harness

# A worker whose session tells of its death long before its time has run out.
WORKER = {'poll': '50ms', 'beat-every': '300ms', 'beat-ttl': '6s'}
SETTINGS = {'worker-ttl': '6s', 'vanish': '300ms', 'rescue-every': '200ms', 'leader-every': '200ms',
            'leader-ttl': '1400ms', 'retain-every': '300ms', 'poll': '100ms'}


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def work(matrix):
    if matrix.open_tasks() >= 6:
        return
    n = len(matrix.tasks)
    matrix.submit('e', 'soon', run_at='200ms', watch=n % 2 == 0)
    matrix.submit('a', 'wait 300ms then say x', session_id='s%d' % (n % 3))
    matrix.submit('e', 'now')


def end(_matrix, process):
    if 'leading' in process.log():
        process.term()


def cut(matrix, _process):
    crash.backends(matrix.env, '^nocturne-scheduler')


def depose(matrix, _process):
    """Another one leads."""
    matrix.env.execute("update nocturne.leader set holder = 'another', term = term + 1,"
                       " expires_at = clock_timestamp() + interval '400 ms'")


def lose_worker(matrix, _process):
    name = matrix.worker.argv[matrix.worker.argv.index('--name') + 1]
    known = 'true' if harness.MODE else 'backend_pid is not null'  # without hints its TTL tells
    if matrix.env.value("select count(*) from nocturne.worker w where name = '%s' and %s"
                        " and exists (select 1 from nocturne.lease l"
                        " where l.worker_id = w.worker_id)" % (name, known)):
        matrix.worker.kill()
        matrix.worker = matrix.env.worker(wait=False, **WORKER)


TRIGGERS = {
    'leader.leaving': end, 'leader.end': end, 'notify.closing': end, 'pg.closed': end,
    'pg.down': cut, 'due.idle': depose, 'rescue.idle': depose, 'retain.idle': depose,
    'vanish.idle': depose, 'watchdog.idle': depose, 'rescue.rescuing': lose_worker, 'vanish.declaring': lose_worker,
}


def test_a_scheduler_dies_in_every_state():
    with harness.Env() as env:
        env.modelsim()
        matrix = crash.Matrix(env, 'scheduler')
        matrix.worker = env.worker(**WORKER)
        env.api()
        endpoint = crash.standard(env, folder)
        matrix.apis.append(env.http)

        def start(crash_at):
            return env.scheduler(wait=False, env=crash_at, **SETTINGS)

        problems = matrix.run(start, work, TRIGGERS)
        env.scheduler(**SETTINGS)
        matrix.settle()
        endpoint.close()
        assert not problems, '\n'.join(problems)


test_a_scheduler_dies_in_every_state.timeout = 400
