"""The api while its database is away, one way or another: 503 with Retry-After within 2 s, never
silence; live streams go on afterwards. A cut of the database: test_api."""
import threading
import time

import cluster
import harness
from harness import wait_until
from player import Player

LIMIT = 2.0 + 0.7  # and what a busy machine under sanitizers adds
ASKED = (('GET', '/v1/tasks', None), ('POST', '/v1/agents/a/tasks', {'input': 1}),
         ('GET', '/v1/agents', None), ('GET', '/readyz', None))


def ask_all(env, task, asked=ASKED):
    """All at once, so that none waits for another; the longest time."""
    answers = []

    def ask(method, path, body):
        begin = time.monotonic()
        answer = env.http.request(method, path, body, timeout=20)
        answers.append((path, answer, time.monotonic() - begin))

    threads = [threading.Thread(target=ask, args=a)
               for a in asked * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(threads)
    for path, answer, seconds in answers:
        assert answer.status == 503, (path, answer)
        assert answer.header('Retry-After'), (path, answer.headers)
        assert seconds < LIMIT, (path, seconds)


def with_server(fault):
    """fault(database, env, check): calls check() while the database is away."""
    database = cluster.Cluster()
    env = harness.Env(cluster_=database)
    try:
        env.api()
        env.put_agent('a', {'kind': 'echo'})
        played = Player(env)
        task = env.submit('a', 'x')
        played.claim(task)
        played.say(task, 'before')
        stream = harness.EventStream(env.http, '/v1/tasks/%s/events' % task).ok()
        stream.until('content.delta')
        fault(database, env, lambda asked=ASKED: ask_all(env, task, asked + (
            ('GET', '/v1/tasks/' + task, None), ('GET', '/v1/tasks/%s/events' % task, None))
            if asked is ASKED else asked))
        wait_until(lambda: env.http.get('/readyz').status == 200, 20, 'it is ready again')
        env.sessions.remove(played.session)
        again = Player(env)
        again.turns, again.worker = played.turns, played.worker
        again.say(task, 'after')
        again.end(task)
        stream.read_all()
        texts = [e.data['text'] for e in stream.events if e.type == 'content.delta']
        assert texts == ['before', 'after'] and stream.ended, (texts, stream.error)
        env.close()
    finally:
        database.close()


def test_a_server_that_hangs():
    def fault(database, env, check):
        thaw = database.freeze()
        try:
            check()
        finally:
            thaw()
    with_server(fault)


def test_a_server_that_is_down():
    def fault(database, env, check):
        database.down('immediate')
        check()
        database.up()
    with_server(fault)


def test_a_server_that_takes_no_writes():
    """Sessions that are open find out by 25006; new ones are not taken for good ones."""
    def fault(database, env, check):
        database.psql('postgres', 'alter system set default_transaction_read_only = on')
        database.psql('postgres', 'select pg_reload_conf()')
        wait_until(lambda: env.http.post('/v1/agents/a/tasks', {'input': 1}).status == 503, 10)
        wait_until(lambda: env.http.get('/readyz').status == 503, 10, 'not ready')
        check((ASKED[1], ASKED[3]))  # sessions that are still open may read
        database.psql('postgres', 'set default_transaction_read_only = off;'
                      ' alter system reset default_transaction_read_only')
        database.psql('postgres', 'select pg_reload_conf()')
    with_server(fault)
