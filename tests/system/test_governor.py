"""A provider that refuses everybody (429, 503): the turns of a worker wait for it together, one of
them asks, and none pays for it with a try."""
import threading
import time

import fakes
import harness
from fakes import head, send, submit_all
from harness import wait_until

FINE = fakes.spoken('fine')
TURNS = 30


class Provider:
    """Refuses until clear(); then answers."""

    def __init__(self, name, status=429, **headers):
        self.name, self.cleared = name, None
        self.refusal = send(head(status, 'application/json', Content_Length='2', **headers), b'{}')
        server.scripts[name] = [lambda conn: (FINE if self.cleared else self.refusal)(conn)]

    def clear(self):
        self.cleared = time.monotonic()

    def asked(self):
        return server.count(self.name)

    def probes(self):
        """Requests that no call had in flight when the first one was refused."""
        began = server.requests[self.name][0].at
        return sum(r.at - began > 0.9 for r in server.requests[self.name])


def setup():
    global env, server
    env, server = harness.Env(), fakes.RawServer()
    env.scheduler()
    env.api()
    start_worker()


def start_worker():
    global worker
    worker = env.worker(poll='20ms', slots=200, drain='200ms', env={'KEY_A': 'a', 'KEY_B': 'b'},
                        **{'beat-every': '300ms'})


def teardown():
    server.close()
    env.check_invariants()


def agent(agent_name, provider=None, key=None, max_attempts=3, **more):
    env.put_agent(agent_name, {'kind': 'llm', 'max_attempts': max_attempts, 'model': {
        'provider': 'openai', 'base_url': server.url(provider or agent_name), 'name': 'm',
        **({'api_key_env': key} if key else {}), **more}})


def running(ids):
    return env.value("select count(*) from nocturne.lease where task_id in ('%s')" % "','".join(ids))


def storm(name, status, seconds, warm=False, **headers):
    """Turns whose provider refuses all for so long. One each may be in flight at the first refusal,
    then one a second asks; when it clears, all go on."""
    provider = Provider(name, status, **headers)
    agent(name)
    if warm:
        provider.clear()
        env.wait_task(submit_all(env, [(name, 'hello')])[0], status='completed')
        provider.cleared = None
        server.requests[name].clear()
    ids = submit_all(env, [(name, 'hello')] * TURNS)
    wait_until(lambda: provider.asked() > 0, 10, 'the first request')
    began = time.monotonic()
    wait_until(lambda: time.monotonic() > began + seconds, seconds + 1, 'the end of the storm')
    asked, probes = provider.asked(), provider.probes()
    provider.clear()
    assert asked - probes <= TURNS + 2 * warm, (asked, probes)  # two pay with a try (governor.c)
    assert 0 < probes <= seconds + 2 * warm, (asked, probes)
    for task_id in ids:
        task = env.wait_task(task_id, status='completed')
        assert len(task['attempts']) == 1, task
    assert time.monotonic() - provider.cleared <= 4
    assert provider.asked() - asked <= TURNS + 1, (asked, provider.asked())


def test_one_asks_while_the_provider_says_when():
    storm('told', 429, 3, Retry_After='1')


def test_one_asks_while_it_only_refuses():
    storm('untold', 503, 3)


def test_one_asks_when_a_provider_begins_to_refuse():
    storm('warm', 429, 3, warm=True, Retry_After='1')


def test_nobody_waits_for_a_provider_of_which_nothing_is_known():
    """It answers nobody before all have asked."""
    together = threading.Barrier(TURNS)
    server.scripts['cold'] = [lambda conn: together.wait(20) >= 0 and FINE(conn)]
    agent('cold', retries=0, max_attempts=1)
    for task_id in submit_all(env, [('cold', 'hello')] * TURNS):
        env.wait_task(task_id, status='completed')


def test_it_is_said_in_the_metrics():
    def governed():
        lines = env.http.get('/metrics').text.split('\n')
        found = [line for line in lines if line.startswith('nocturne_worker_model_governed{')]
        return found and float(found[0].split()[-1]) >= TURNS - 1
    wait_until(governed, 10, 'calls that were governed in the metrics')


def test_abort_of_one_that_waits():
    provider = Provider('stuck', 429, Retry_After='30')
    agent('stuck')
    ids = submit_all(env, [('stuck', 'hello')] * 3)
    wait_until(lambda: provider.asked() > 0 and running(ids) == 3, 10, 'one that has asked')
    for task_id in ids:
        began = time.monotonic()
        env.http.post('/v1/tasks/%s/abort' % task_id, {}).ok(200, 202)
        task = env.wait_task(task_id, status='aborted')
        assert time.monotonic() - began < 2, task
    assert provider.asked() <= 3, provider.asked()


def test_keys_and_providers_do_not_disturb_each_other():
    """The same base URL with another key, and another base URL, answer at once."""
    provider = Provider('shared', 429, Retry_After='30')
    server.scripts['shared'] = [lambda conn: provider.refusal(conn) if of_key('a') else FINE(conn)]
    server.scripts['other'] = [FINE]

    def of_key(key):
        return server.requests['shared'][-1].headers['authorization'] == 'Bearer ' + key

    agent('limited', 'shared', 'KEY_A')
    agent('free', 'shared', 'KEY_B')
    agent('other', 'other', 'KEY_A')
    limited = submit_all(env, [('limited', 'hello')] * 9)
    wait_until(lambda: provider.asked() > 0 and running(limited) == 9, 10, 'a key that is shut')
    began = time.monotonic()
    for task_id in submit_all(env, [('free', 'hello'), ('other', 'hello')]):
        env.wait_task(task_id, status='completed')
    assert time.monotonic() - began < 3
    for task_id in limited:
        env.http.post('/v1/tasks/%s/abort' % task_id, {}).ok(200, 202)
        env.wait_task(task_id, status='aborted')
    keys = [r.headers['authorization'] for r in server.requests['shared']]
    assert keys.count('Bearer a') <= 9 + time.monotonic() - began, keys


def test_one_that_is_refused_alone_stops_nobody():
    """Its prompt is larger than the limit of the key: it fails, and others are answered."""
    def script(conn):
        big = any('big' in m['content'] for m in server.requests['mixed'][-1].json['messages'])
        (Provider.refusal if big else FINE)(conn)

    Provider.refusal = send(head(429, 'application/json', Content_Length='2'), b'{}')
    server.scripts['mixed'] = [script]
    agent('mixed', max_attempts=1, retries=2)
    big, = submit_all(env, [('mixed', 'big')])
    wait_until(lambda: server.count('mixed') > 0, 10, 'its refusal')
    for _ in range(40):
        task_id, = submit_all(env, [('mixed', 'small')])
        env.wait_task(task_id, status='completed')
        if env.task(big)['status'] == 'failed':
            break
    assert env.task(big)['error']['code'] == 'RATE_LIMITED', env.task(big)


def test_a_provider_that_never_recovers():
    """Patience is what the tries would have waited; then the error is the provider's."""
    provider = Provider('never', 503)
    agent('never', max_attempts=1, retries=2)
    began = time.monotonic()
    for task_id in submit_all(env, [('never', 'hello')] * 10):
        task = env.wait_task(task_id, status='failed')
        assert task['error']['code'] == 'MODEL_UNAVAILABLE' and task['error']['retryable'], task
    took = time.monotonic() - began
    assert 1.4 < took < 8, took
    assert provider.asked() <= 10 + took, (provider.asked(), took)


def test_who_asks_may_hang_hang_up_or_be_aborted():
    """A probe that is never answered holds nobody up: another one asks a second later."""
    def hang(_conn):
        server.open.wait(60)

    refusal = send(head(429, 'application/json', Content_Length='2'), b'{}')
    server.scripts['bad'] = [refusal, hang, lambda conn: None, hang, FINE]
    agent('bad')
    first, = submit_all(env, [('bad', 'hello')])
    wait_until(lambda: server.count('bad') == 2, 10, 'a probe that hangs')
    ids = submit_all(env, [('bad', 'hello')] * 9)
    wait_until(lambda: running(ids) == 9, 10, 'they wait')
    env.abort(first)
    env.wait_task(first, status='aborted')
    wait_until(lambda: [env.task(i)['status'] for i in ids].count('completed') == 8, 15,
               'all but the one that hangs')
    for task_id in ids:
        if env.task(task_id)['status'] != 'completed':
            env.abort(task_id)
            env.wait_task(task_id, status='aborted')


def test_deadlines_hold_for_those_who_wait():
    provider = Provider('late', 503)
    agent('late')
    ids = submit_all(env, [('late', 'hello')] * 5, deadline=env.value("select clock_timestamp() + interval '3 s'"))
    for task_id in ids:
        env.wait_task(task_id, 8, status='expired')
    assert provider.asked() > 0


def test_a_provider_with_a_limit_is_used_up_to_it():
    """Ten requests a second, and for the others a 429: no turn pays for it with an attempt."""
    taken = []

    def script(conn):
        now = time.monotonic()
        with server.lock:
            free = sum(now - t < 1 for t in taken) < 10
            if free:
                taken.append(now)
        (FINE if free else refusal)(conn)

    refusal = send(head(429, 'application/json', Content_Length='2', Retry_After='1'), b'{}')
    server.scripts['limit'] = [script]
    agent('limit')
    ids = submit_all(env, [('limit', 'hello')] * 60)
    tasks = [env.wait_task(task_id, 60, status='completed') for task_id in ids]
    assert all(len(task['attempts']) == 1 for task in tasks), tasks


def test_a_model_that_is_limited_holds_up_no_other_for_long():
    """One key, two models: one is refused always, and its calls fill the queue."""
    def script(conn):
        limited = server.requests['models'][-1].json['model'] == 'limited'
        (refusal if limited else FINE)(conn)

    refusal = send(head(429, 'application/json', Content_Length='2'), b'{}')
    server.scripts['models'] = [script]
    agent('limited', 'models', max_attempts=1, name='limited')
    agent('well', 'models', max_attempts=1, name='well')
    limited = submit_all(env, [('limited', 'hello')] * TURNS)
    wait_until(lambda: server.count('models') > 0 and running(limited) == TURNS, 10, 'all wait')
    for _ in range(3):
        began = time.monotonic()
        env.wait_task(submit_all(env, [('well', 'hello')])[0], status='completed')
        assert time.monotonic() - began < 5
    for task_id in limited:
        env.abort(task_id)


def test_a_worker_that_leaves_hands_back_those_who_wait():
    provider = Provider('left', 429, Retry_After='1')
    agent('left')
    ids = submit_all(env, [('left', 'hello')] * TURNS)
    wait_until(lambda: provider.asked() > 0 and running(ids) == TURNS, 10, 'they wait')
    worker.end()
    assert running(ids) == 0
    start_worker()
    provider.clear()
    for task_id in ids:
        task = env.wait_task(task_id, status='completed')
        assert [a['outcome'] for a in task['attempts']] == ['released', 'completed'], task


def test_a_suspended_worker_loses_no_patience():
    """Nobody asks while the database is away: those who wait go on waiting after it."""
    with harness.Env() as other:
        provider = Provider('away', 503)
        other.put_agent('away', {'kind': 'llm', 'max_attempts': 1, 'model': {
            'provider': 'openai', 'base_url': server.url('away'), 'name': 'm', 'retries': 2}})
        suspended = other.worker(**fakes.QUICK)
        ids = submit_all(other, [('away', 'hello')] * 5)
        wait_until(lambda: provider.asked() > 0, 10, 'the first request')
        other.outage()
        suspended.wait_log('is suspended', 5)
        time.sleep(6)  # longer than the patience of two retries
        asked = provider.asked()
        other.outage_over()
        wait_until(lambda: provider.asked() > asked, 15, 'they ask again')
        provider.clear()
        for task_id in ids:
            other.wait_task(task_id, status='completed')
