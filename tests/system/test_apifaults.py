"""The api while its database is away, one way or another: 503 with Retry-After within 2 s, never
silence; live streams go on afterwards. A cut of the database: test_api."""
import subprocess
import threading
import time

import cluster
import harness
import proxy
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


def with_server(fault, proxied=False, extra=''):
    """fault(database, env, check): calls check() while the database is away. `extra`: settings of the
    server; `proxied`: the api reaches it through env.between."""
    database = cluster.Cluster(extra=extra)
    env = harness.Env(cluster_=database)
    env.between = proxy.PgProxy(env)
    try:
        env.api(**({'database': env.between.conninfo()} if proxied else {}))
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
        env.between.close()
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


def test_a_black_hole_before_the_server():
    """Nothing goes through and nothing is closed; what was sent arrives late."""
    def fault(database, env, check):
        env.between.hole = True
        try:
            check()
        finally:
            env.between.hole = False
    with_server(fault, True)


def test_a_server_without_a_connection_to_spare():
    """Others have taken all (53300) after ours were cut."""
    def fault(database, env, check):
        hogs = []
        env.between.refuses = True
        env.between.cut()
        try:
            while take_connection(database, env, hogs):
                assert len(hogs) < 50
            env.between.refuses = False
            wait_until(lambda: 'too many clients' in env.http.get('/readyz').text, 10, 'it is told')
            check()
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
    with_server(fault, True, 'max_connections = 20')


def take_connection(database, env, hogs):
    hog = subprocess.Popen(database.psql_argv(env.db), stdin=subprocess.PIPE, text=True, bufsize=1,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    hogs.append(hog)
    hog.stdin.write('\\echo here\n')
    return hog.stdout.readline() != ''


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
