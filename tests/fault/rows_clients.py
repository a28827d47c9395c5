"""The api and those who listen to it: kills, a hung listener, many aborts."""
import time

from harness import program, wait_until
from load import Turn
from matrix import row, wait_for, words


@row('4', 'api `kill -9` with 1,000 subscribers', 'all resume on another api ≤ 1 s; 0 gaps, 0 duplicates',
     quick=True)
def api_killed(f):
    subscribers = 200 if f.quick else 1000
    with f.stage() as stage:
        stage.standard(workers=2, apis=2)
        turns = [Turn('stream 40 tokens 400ms', expect=words(40), watch=('live',) * 20)
                 for _ in range(subscribers // 20)]
        stage.load.start(turns)
        wait_until(lambda: all(t.seq > 10 for t in turns), 60, 'streams')
        stage.load.resumes.clear()
        victim = stage.apis[0]
        victim.kill()
        wait_for(4)
        stage.replace(victim)
        stage.settle(60)
        f.judge(stage)
        f.count('gaps or duplicates', 0)  # check.py: "gap", "duplicate"
        resumes = stage.load.resumes
        f.least('subscribers cut', len(resumes), subscribers / 4)
        f.spread('resumed', resumes, None, 1)


@row('12', 'hung listener: an api with LISTEN is stopped, 200,000 notifications',
     'the horizon of vacuum (oldest xmin) is at most 15 s old')
def listener_hangs(f):
    with f.stage() as stage:
        stage.standard(workers=1, apis=2)
        stage.apis[0].stop()
        # that of a stopped one must not be asked
        stage.load.apis.remove((stage.apis[0].http.host, stage.apis[0].http.port))
        for _ in range(20):
            stage.execute("select pg_notify('nocturne', repeat('x', 56) || i) "
                          'from generate_series(1, 10000) i')
        began, oldest = time.monotonic(), 0.0
        turns = [Turn('stream 5 tokens 10ms', expect=words(5)) for _ in range(50)]
        stage.load.start(turns, every=0.2)
        while time.monotonic() < began + 22:
            age = stage.value(
                "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0)::float8"
                " from pg_stat_activity where backend_type = 'client backend' "
                'and (backend_xmin is not null or backend_xid is not null) '
                'and pid <> pg_backend_pid()')
            oldest = max(oldest, age)
            wait_for(0.5)
        stage.apis[0].cont()
        stage.settle(60)
        f.judge(stage)
        f.time('oldest', oldest, 15)
        f.show('%.4f of the queue in use' % stage.value('select pg_notification_queue_usage()'))


# ---- aborts ----

def hanging(stage, n):
    """So many turns, each with an open call to the model."""
    turns = [Turn('say one two then gate never%d' % i, wait=True, watch=('live',) if i < 50 else ())
             for i in range(n)]
    stage.load.start(turns, every=0.002)
    wait_until(lambda: stage.sim.stats()['open'] >= n, 90, 'open calls', every=0.2)
    wait_until(lambda: all(t.task_id for t in turns), 30, 'ids')
    return turns


def closed_after(stage, turns, answers):
    """Seconds from each abort's request to the end of its model call, as the model saw it."""
    ended = {r['script']: r['endedAt'] / 1000 for r in stage.sim.requests()
             if r['status'] == 'client-closed'}
    return [ended[t.script] - started for t, (started, _, _) in zip(turns, answers)
            if t.script in ended]


def aborts(turns):
    return [('POST', '/v1/tasks/%s/abort' % t.task_id, {'reason': 'fault'}) for t in turns]


def abort_all(stage, turns, width):
    answers = stage.load.ask(aborts(turns), width)
    assert all(status in (200, 202) for _, _, status in answers), answers[:5]
    wait_until(lambda: all(t.status == 'aborted' for t in turns), 60, 'aborted')
    return closed_after(stage, turns, answers)


@row('27', 'abort: of one running turn; of 1,000; of 1,000 while every NOTIFY is lost',
     'model socket closed: one p50 ≤ 25 ms, p99 ≤ 100 ms; 1,000 p50 ≤ 100 ms, p99 ≤ 500 ms; '
     'without NOTIFY p99 ≤ 2.5 s')
def aborted(f):
    n = 1000
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        turns = hanging(stage, 100)
        one_by_one = abort_all(stage, turns, 1)
        stage.sim.reset()
        many = abort_all(stage, hanging(stage, n), 32)
        stage.sim.reset()
        turns = hanging(stage, n)
        for process in stage.workers + stage.apis + stage.schedulers:
            process.proxy.rules(eat_notify=True)
        silent = abort_all(stage, turns, 32)
        f.judge(stage)
        f.spread('one', one_by_one, 0.025, 0.1)
        f.spread('1,000', many, 0.1, 0.5)
        f.spread('without NOTIFY', silent, None, 2.5)
        f.count('calls not closed', 2 * n + 100 - len(one_by_one) - len(many) - len(silent))


@row('29', 'thundering reconnect: PostgreSQL restarts under 60 workers',
     '≤ 50 new connections a second per 100 workers, at its worst')
def thundering(f):
    workers = 60
    with f.stage(extra='max_connections = 600') as stage:
        stage.standard(workers=2)
        crowd = stage.proxy()
        for i in range(workers):
            stage.workers.append(stage.spawn('crowd', crowd_argv(stage, crowd, i)))
        wait_until(lambda: stage.value("select count(*) from nocturne.worker where state = 'live'")
                   == workers + 2, 60, 'the crowd')
        wait_for(2)
        before = len(crowd.stats()['arrivals'])
        stage.cluster.down('immediate')
        wait_for(3)
        stage.cluster.up()
        wait_until(lambda: stage.value("select count(*) from nocturne.worker where state = 'live' "
                                       'and expires_at > clock_timestamp()') == workers + 2, 60,
                   'all are back')
        wait_for(2)
        times = [at / 1000 for at in crowd.stats()['arrivals'][before:]]
        stage.load.start([Turn('say still here', expect='still here') for _ in range(50)])
        stage.settle(60)
        f.judge(stage)
        worst = max(sum(at <= other < at + 1 for other in times) for at in times)
        f.count('new connections in the worst second per 100 workers', worst * 100 / workers, 50)
        f.show('%d in all; row 11 wants what was cut back in 200 ms, and a worker that was cut cannot know'
               ' why: 100 attempts at once (ARCHITECTURE.md)' % len(times))


def crowd_argv(stage, proxy, i):
    return [program('nocturne-worker'), '--name', 'crowd-%d' % i,
            '--database', proxy.conninfo(stage.db, stage.cluster.user)]
