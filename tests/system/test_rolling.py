"""A rolling restart: each program is told to stop (SIGTERM) while turns, subscribers and waiters are
under way, and another one goes on. Nothing is lost or charged, and it takes a second."""
import collections
import os
import shutil
import threading

import fakes
import harness
from fakes import lines_of, logging_tool
from harness import wait_until, within


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def in_background(function, *args):
    """(thread, list that gets what it returns)"""
    got = []
    thread = threading.Thread(target=lambda: got.append(function(*args)), daemon=True)
    thread.start()
    return thread, got


def test_a_worker_hands_its_turns_on_within_a_second():
    path = os.path.join(folder, 'worker')
    with harness.Env() as env:
        env.modelsim()
        env.scheduler()
        env.api()
        # one attempt: whatever charged one would fail the turn
        env.llm_agent('a', [logging_tool('log', path, nap=3, idempotent=True)], max_attempts=1)
        env.put_agent('p', {'kind': 'process', 'command': ['sh', '-c', 'sleep 3; cat'],
                            'max_attempts': 1})
        old = env.worker(drain='200ms')
        asking = [env.submit('a', 'stream 200 tokens 20ms') for _ in range(20)]
        calling = [env.submit('a', 'call log {} then say done {{tool}}')
                   for _ in range(20)]
        working = [env.submit('p', 'x') for _ in range(5)]
        parked = [env.submit('a', 'say next', session_id='s') for _ in range(3)]
        tasks = asking + calling + working + parked
        streams = [env.events(t, timeout=60) for t in asking[:5] + calling[:5]]
        threads = [s.in_background() for s in streams]
        wait_until(lambda: len(lines_of(path)) == 20, 20, 'all tools run')
        wait_until(lambda: env.value("select count(distinct task_id) from nocturne.chunk where"
                                     " events like '%content.delta%'") >= 20, 20, 'all models speak')
        env.worker()
        old.term()
        for task_id in tasks:
            task = env.wait_task(task_id, 60, status='completed')
            ended_by = [a['outcome'] for a in task['attempts']]
            assert ended_by in (['completed'], ['released', 'completed']), task
        old.end()
        gaps = [row['s'] for row in env.sql("""
            select extract(epoch from b.started_at - a.ended_at)::float as s
            from nocturne.attempts a join nocturne.attempts b using (task_id)
            where a.outcome = 'released' and b.outcome = 'completed' order by 1""")]
        assert len(gaps) >= 40, gaps  # the models that were speaking, and the tools
        assert gaps[-1] < within(1, 'start'), gaps
        steps = collections.Counter(r['step'] for r in env.sim.requests())
        assert steps[0] <= 2 * 20 + 20 + 3, steps  # only a call that was cut is paid again
        assert steps[1] == 20, steps
        for thread, stream in zip(threads, streams):
            thread.join(30)
            assert stream.ended is True, stream.error
        for task_id, stream in zip(asking[:5] + calling[:5], streams):
            assert [e.data for e in stream.events] == env.stored_events(task_id)
        env.check_invariants()


def test_a_scheduler_hands_the_lead_on():
    with harness.Env() as env:
        env.modelsim()
        first, second = env.scheduler(), env.scheduler(wait=False)
        second.wait_log('version', 10)
        env.api()
        env.worker()
        env.put_agent('a', {'kind': 'echo'})
        tasks = [env.submit('a', 'x', run_at='%dms' % (100 * i)) for i in range(60)]
        first.wait_log('leading')
        wait_until(lambda: env.value('select count(*) from nocturne.done') > 5, 20, 'some are done')
        first.end(10)
        second.wait_log('leading', 4)  # its next round: leader_every is 2 s
        for task_id in tasks:
            task = env.wait_task(task_id, 30, status='completed')
            assert len(task['attempts']) == 1, task
        late = env.value("""
            select max(extract(epoch from a.started_at - t.run_at))::float
            from nocturne.attempts a join nocturne.task t using (task_id)""")
        assert late < within(4, 'start'), late
        env.check_invariants()


def follow(env, task_id, apis):
    """The events as a client sees them that goes to the next api when it is cut off."""
    seen = []
    for n in range(200):
        try:
            stream = env.events(task_id, last_event_id=seen[-1].seq if seen else None,
                                http=apis[n % len(apis)].http, timeout=20)
        except (OSError, AssertionError):  # refused, or 503 while it stops
            continue
        seen += stream.read_all()
        if seen and seen[-1].type == 'turn.ended':
            return [e.data for e in seen]
    raise AssertionError('no end of %s after %r' % (task_id, seen[-3:]))


def wait_anywhere(task_id, apis):
    for n in range(200):
        try:
            answer = apis[n % len(apis)].http.get('/v1/tasks/%s?wait=20s' % task_id)
        except OSError:
            continue
        if answer.status == 200 and answer.json['status'] in harness.TERMINAL:
            return answer.json['status']
        assert answer.status in (200, 503), answer
    raise AssertionError('no answer for ' + task_id)


def submit_anywhere(key, apis, stop):
    """Submit with one key after the other until told to stop; key -> ids that were answered."""
    got = {}
    for n in range(100000):
        if stop.is_set():
            return got
        for api in apis:
            try:
                answer = api.http.post('/v1/agents/e/tasks', {'input': 'x'}, headers={
                    'Idempotency-Key': '%s-%d' % (key, n)})
            except OSError:
                continue  # maybe accepted: the same key goes to the next one
            if answer.status == 202:
                got.setdefault('%s-%d' % (key, n), set()).add(answer.json['task_id'])
                break
            assert answer.status == 503, answer
    return got


def test_apis_are_replaced_under_subscribers_and_waiters():
    with harness.Env() as env:
        env.modelsim()
        env.scheduler()
        env.worker()
        apis = [env.api(), env.api()]
        env.llm_agent('a')
        env.put_agent('e', {'kind': 'echo'})
        tasks = [env.submit('a', 'stream 300 tokens 10ms') for _ in range(10)]
        stop = threading.Event()
        following = [(t, in_background(follow, env, t, apis)) for t in tasks for _ in range(4)]
        waiting = [in_background(wait_anywhere, t, apis) for t in tasks]
        submitting = [in_background(submit_anywhere, 'k%d' % n, apis, stop) for n in range(3)]
        wait_until(lambda: all(len(env.stored_events(t)) > 10 for t in tasks), 20, 'streams flow')
        ports = [api.http.port for api in apis]
        for n in range(2):
            apis[n].end(10)
            apis[n] = env.api(port=ports[n])
            before = env.value('select count(*) from nocturne.done')
            wait_until(lambda: env.value('select count(*) from nocturne.done') > before, 10,
                       'it goes on')
        stop.set()
        for task_id, (thread, got) in following:
            thread.join(60)
            assert got and got[0] == env.stored_events(task_id), (task_id, got)
        for thread, got in waiting:
            thread.join(60)
            assert got == ['completed'], got
        for thread, _ in submitting:
            thread.join(30)
        kept = {row['key']: {row['task_id']} for row in
                env.sql('select key, task_id from nocturne.idempotency')}
        for _, got in submitting:
            assert got and len(got[0]) > 10, got
            assert all(kept[key] == ids for key, ids in got[0].items()), (got, kept)
        env.check_invariants()
