"""Each route of the api with its documented answers and errors; the test itself plays the worker."""
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time

import harness
from harness import EventStream, wait_until, within
from player import Player

MISSING = '01890000-0000-7000-8000-000000000000'
STAMP = re.compile(r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$')


def setup():
    global env, player, api
    env = harness.Env()
    api = env.api(log_level='debug', max_body='64KiB', keep_alive='1s')
    player = Player(env)
    for name in ('a', 'b'):
        env.put_agent(name, {'kind': 'echo'})


def teardown():
    player.end_all()
    env.check_invariants(unfinished=[t['task_id'] for t in tasks(status='scheduled')])


def tasks(**filters):
    return env.http.get('/v1/tasks?limit=200&' + '&'.join('%s=%s' % f for f in filters.items())
                        ).ok(200).json['tasks']


def post_task(body, agent='a', **kw):
    return env.http.post('/v1/agents/%s/tasks' % agent, body, **kw)


def pointers(problem):
    return {e['pointer'] for e in problem['errors']}


def stream(task, headers=None, http_=None, **query):
    path = '/v1/tasks/%s/events' % task
    if query:
        path += '?' + '&'.join('%s=%s' % q for q in query.items())
    return EventStream(http_ or env.http, path, headers)


def metric(pattern, http_=None):
    """The value of the first sample whose line the regular expression finds."""
    for line in (http_ or env.http).get('/metrics').ok(200).text.splitlines():
        if re.search(pattern, line) and not line.startswith('#'):
            return float(line.rsplit(' ', 1)[1])
    return None


# ---- submit ----

def test_a_submit_is_durable_and_answered_as_designed():
    r = post_task({'input': 'hi', 'session_id': 'sub.1:a-b_c', 'priority': 3, 'metadata': {'n': 1},
                   'max_attempts': 7, 'deadline': '2999-01-02T03:04:05Z'})
    assert r.status == 202, r
    body = r.json
    assert set(body) == {'task_id', 'session_id', 'status', 'created_at'}, body
    assert body['status'] == 'queued' and body['session_id'] == 'sub.1:a-b_c', body
    assert STAMP.match(body['created_at']), body
    assert r.header('Location') == '/v1/tasks/' + body['task_id']
    task = env.http.get(r.header('Location')).ok(200).json
    assert task['input'] == 'hi' and task['priority'] == 3 and task['max_attempts'] == 7, task
    assert task['metadata'] == {'n': 1} and task['agent'] == 'a' and task['revision'] == 1, task
    assert task['deadline'] == '2999-01-02T03:04:05.000Z', task
    assert task['attempts'] == [] and task['last_seq'] == 0, task
    player.play(body['task_id'])


def test_input_is_kept_as_it_was_written():
    for text in ('"x"', 'null', '1.50', '12345678901234567890123', '{"b":1,"a":[ 1e2,{}]}', '[]',
                 'false', '{"message":{"role":"user","content":[{"text":"hi"}]}}', r'"\u00e9\n"',
                 '"' + 'é' * 1000 + '"'):
        r = post_task('{"session_id":"raw", "input" : %s }' % text).ok(202)
        raw = env.http.get('/v1/tasks/' + r.json['task_id']).ok(200).text
        assert '"input":%s,' % text in raw, (text, raw)
        player.play(r.json['task_id'])
    r = post_task('{"\\u0069nput":{"a":1}}').ok(202)  # a key written with escapes is the same key
    assert player.play(r.json['task_id']) and env.task(r.json['task_id'])['input'] == {'a': 1}


def test_every_mistake_of_a_body_is_told_at_once():
    p = post_task({'session_id': 'a b', 'snapshot_id': 'x', 'run_at': 'soon', 'deadline': 5,
                   'priority': 10, 'max_attempts': 0, 'metadata': [], 'nonsense': 1,
                   'other/~': 2}).problem(400, 'INVALID_REQUEST')
    assert pointers(p) == {'/input', '/session_id', '/snapshot_id', '/run_at', '/deadline',
                           '/priority', '/max_attempts', '/metadata', '/nonsense',
                           '/other~1~0'}, p
    assert p['retryable'] is False and p['title'] and p['type'] and p['request_id'], p
    assert all(e['detail'] for e in p['errors']), p


def test_bodies_that_are_refused():
    rows = [('', 'empty'), ('{', 'not JSON'), ('{"input":1}x', 'more than one'), ('[]', 'object'),
            ('"x"', 'object'), ('{"input":"\\u0000"}', 'u0000'), (b'{"input":"\xff"}', 'UTF-8'),
            ('{"input":1,"input":2}', 'twice'), ('{"input":01}', ''), ('{"input":"a\nb"}', ''),
            ('{"input":1.}', ''), ('{"input":' + '[' * 2000 + ']' * 2000 + '}', ''),
            ('{"input":1,"metadata":{"x":"%s"}}' % ('y' * 16384), '16384'),
            ('{"input":1,"session_id":"%s"}' % ('y' * 129), ''),
            ('{"input":1,"session_id":""}', ''), ('{"input":1,"priority":1.5}', ''),
            ('{"input":1,"priority":"1"}', ''), ('{"input":1,"max_attempts":51}', ''),
            ('{"input":1,"run_at":""}', ''), ('{"input":1,"run_at":"2026-02-30T00:00:00Z"}', ''),
            ('{"input":1,"run_at":"5 minutes"}', ''), ('{"input":1,"run_at":"-5m"}', '')]
    for body, part in rows:
        p = post_task(body).problem(400, 'INVALID_REQUEST')
        assert part in p['detail'], (body[:50], p)
    post_task('{"input":"%s"}' % ('x' * 70000)).problem(413, 'PAYLOAD_TOO_LARGE')
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'application/jsonx'):
        post_task('{"input":1}', headers={'Content-Type': kind}
                  ).problem(415, 'UNSUPPORTED_MEDIA_TYPE')
    for kind in ('application/json; charset=utf-8', 'application/vnd.x+json', 'Application/JSON'):
        player.play(post_task('{"input":1}', headers={'Content-Type': kind}).ok(202).json['task_id'])


def test_a_submit_to_nobody():
    post_task({'input': 1}, 'nobody').problem(404, 'NOT_FOUND')
    post_task({'input': 1}, 'no%20body').problem(404, 'NOT_FOUND')
    post_task({'input': 1, 'snapshot_id': MISSING}).problem(404, 'NOT_FOUND')


def test_a_branch_from_a_snapshot_belongs_to_its_session():
    first = player.play(env.submit('a', 'x', session_id='branch'))
    post_task({'input': 1, 'snapshot_id': first, 'session_id': 'other'}).problem(409, 'CONFLICT')
    branch = post_task({'input': 1, 'snapshot_id': first.upper()}).ok(202).json
    assert branch['session_id'] == 'branch', branch
    assert env.task(player.play(branch['task_id']))['snapshot_id'] == first


def test_run_at_takes_times_and_durations():
    now = time.time()
    for run_at, low, high in (('1h', 3590, 3610), ('2999-01-01T00:00:00+01:00', 1e9, 1e12),
                              ('7d', 604790, 604810)):
        body = post_task({'input': 1, 'run_at': run_at}).ok(202).json
        assert body['status'] == 'scheduled', body
        at = env.value("select extract(epoch from run_at) from nocturne.task where task_id = '%s'"
                       % body['task_id'])
        assert low < float(at) - now < high, (run_at, at)
        assert STAMP.match(env.task(body['task_id'])['run_at'])
        env.abort(body['task_id'])
    past = post_task({'input': 1, 'run_at': '2020-01-01T00:00:00Z'}).ok(202).json
    assert past['status'] == 'queued', past
    player.play(past['task_id'])


def test_an_idempotency_key_gives_one_task():
    body = {'input': 'x', 'session_id': 'idem', 'run_at': '1h'}
    first = post_task(body, headers={'Idempotency-Key': '"k 1"'}).ok(202)
    assert first.header('Idempotency-Replayed') is None
    for key in ('"k 1"', 'k 1'):
        again = post_task(body, headers={'Idempotency-Key': key}).ok(202)
        assert again.json == first.json and again.header('Idempotency-Replayed') == 'true', again
        assert again.header('Location') == first.header('Location')
    post_task({**body, 'input': 'y'}, headers={'Idempotency-Key': 'k 1'}
              ).problem(422, 'IDEMPOTENCY_KEY_REUSED')
    post_task(body, 'b', headers={'Idempotency-Key': 'k 1'}).problem(422, 'IDEMPOTENCY_KEY_REUSED')
    env.abort(first.json['task_id'])
    again = post_task(body, headers={'Idempotency-Key': 'k 1'}).ok(202).json
    assert again == {**first.json, 'status': 'aborted'}, again
    for bad in ('', '""', '"open', '"a"b', '"a\\b"', 'x' * 256, 'a\u00e9'):
        post_task(body, headers={'Idempotency-Key': bad.encode('latin-1')}
                  ).problem(400, 'INVALID_REQUEST')
    ok = post_task(body, headers={'Idempotency-Key': '"a\\"b\\\\"'}).ok(202).json['task_id']
    assert env.value("select key from nocturne.idempotency where task_id = '%s'" % ok) == 'a"b\\'
    long = post_task(body, headers={'Idempotency-Key': 'x' * 255}).ok(202).json['task_id']
    env.abort(ok)
    env.abort(long)


def test_many_submits_of_one_key_at_once_give_one_task():
    answers = []

    def submit():
        answers.append(post_task({'input': 'x'}, headers={'Idempotency-Key': 'storm'}).ok(202).json)
    threads = [threading.Thread(target=submit) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(answers) == 16 and len({a['task_id'] for a in answers}) == 1, answers
    player.play(answers[0]['task_id'])


def test_a_full_session_answers_429():
    first = env.submit('a', 'x', session_id='full')
    env.execute("update nocturne.session set queue = array_fill('%s'::uuid, array[1000])"
                " where session_id = 'full'" % MISSING)
    r = post_task({'input': 1, 'session_id': 'full'})
    assert r.problem(429, 'QUEUE_FULL')['retryable'] is True and r.header('Retry-After') == '1'
    env.execute("update nocturne.session set queue = '{}' where session_id = 'full'")
    player.play(first)


# ---- many submits at once ----

def post_many(*bodies):
    return env.http.post('/v1/tasks', {'tasks': list(bodies)})


def test_many_tasks_in_one_request():
    raw = '{"tasks": [ {"agent":"a","input": 1.50 ,"session_id":"many"} ,{"\\u0061gent":"a","input":"x"}]}'
    rows = env.http.post('/v1/tasks', raw, headers={'Content-Type': 'application/json'}
                         ).ok(202).json['tasks']
    assert [set(r) for r in rows] == [{'task_id', 'session_id', 'status', 'created_at'}] * 2, rows
    assert '"input":1.50,' in env.http.get('/v1/tasks/' + rows[0]['task_id']).text
    more = post_many(*[{'agent': 'a', 'input': i, 'session_id': 'many', 'priority': 2,
                        'metadata': {'i': i}} for i in range(20)]).ok(202).json['tasks']
    assert all(r['status'] == 'queued' and r['session_id'] == 'many' for r in more), more
    ids = [r['task_id'] for r in more]
    queue, running = env.sql("select queue, running from nocturne.session where session_id = 'many'"
                             )[0].values()
    assert running == rows[0]['task_id'] and queue == ids and ids == sorted(ids), (running, queue)
    assert env.task(ids[7])['metadata'] == {'i': 7} and env.task(ids[7])['priority'] == 2
    later = post_many({'agent': 'a', 'input': 1, 'run_at': '1h'}, {'agent': 'a', 'input': 2},
                      {'agent': 'a', 'input': 3, 'deadline': '2999-01-02T03:04:05Z'},
                      {'agent': 'a', 'input': 4, 'session_id': 'twins'},
                      {'agent': 'a', 'input': 5, 'session_id': 'twins'}).ok(202).json['tasks']
    assert [r['status'] for r in later] == ['scheduled'] + ['queued'] * 4, later
    assert env.value("select kind from nocturne.due where task_id = '%s'" % later[0]['task_id']) == 'start'
    assert env.value("select kind from nocturne.due where task_id = '%s'" % later[2]['task_id']) == 'deadline'
    env.abort(later[0]['task_id'])
    for row in rows + more + later[1:]:
        player.play(row['task_id'])


def test_each_of_many_has_its_own_error_and_key():
    first = post_task({'input': 1}, headers={'Idempotency-Key': 'many-old'}).ok(202).json
    bodies = [{'agent': 'a', 'input': 0}, {'agent': 'nobody', 'input': 1},
              {'agent': 'a', 'input': 2, 'idempotency_key': 'many-new'},
              {'agent': 'a', 'input': 3, 'idempotency_key': 'many-old'},
              {'agent': 'a', 'input': 2, 'idempotency_key': 'many-new'},
              {'agent': 'a', 'input': 5, 'idempotency_key': 'many-new'},
              {'agent': 'a', 'input': 6, 'snapshot_id': '01a0cfe2-9d64-7000-8000-000000000000'}]
    answer = post_many(*bodies)
    assert answer.status == 207, answer
    rows = answer.json['tasks']
    codes = [r.get('error', {}).get('code') for r in rows]
    assert codes == [None, 'NOT_FOUND', None, 'IDEMPOTENCY_KEY_REUSED', None,
                     'IDEMPOTENCY_KEY_REUSED', 'NOT_FOUND'], rows
    assert rows[4]['task_id'] == rows[2]['task_id'] and rows[4]['replayed'] is True, rows
    again = post_many(*bodies).json['tasks']
    assert again[2]['task_id'] == rows[2]['task_id'] and again[0]['task_id'] != rows[0]['task_id']
    # the same key by the other route is the same request
    same = post_task({'input': 2}, headers={'Idempotency-Key': 'many-new'}).ok(202)
    assert same.json['task_id'] == rows[2]['task_id'], same
    for task in {r['task_id'] for r in rows + again if 'task_id' in r} | {first['task_id']}:
        player.play(task)


def test_many_plain_tasks_keep_what_each_of_them_said():
    """Those that begin a session of their own: more than one statement takes, divided among connections."""
    env.put_agent('plain', {'kind': 'echo'})
    bodies = [{'agent': ('a', 'plain')[i // 7 % 2], 'input': i, **({'metadata': {'i': i}} if i % 3 == 0 else {}),
               **({'priority': i % 10} if i % 5 == 0 else {}), **({'max_attempts': 9} if i % 4 == 0 else {})}
              for i in range(400)]
    bodies[123]['agent'] = bodies[399]['agent'] = 'nobody'
    answer = post_many(*bodies)
    assert answer.status == 207, answer
    rows = answer.json['tasks']
    assert [i for i, r in enumerate(rows) if 'error' in r] == [123, 399], rows[123]
    assert rows[399]['error']['code'] == 'NOT_FOUND', rows[399]
    stored = {t['task_id']: t for t in env.sql("""
        select t.task_id, t.agent, t.input::text, t.priority, t.metadata, t.max_attempts, s.session_id, s.running,
               r.priority as ready, extract(epoch from t.created_at) * 1000 as at,
               ('x' || translate(left(t.task_id::text, 13), '-', ''))::bit(48)::bigint as id_ms
        from nocturne.task t join nocturne.session s on s.session_id = t.session_id
        join nocturne.ready r on r.task_id = t.task_id where t.agent in ('a', 'plain')""")}
    for body, row in zip(bodies, rows):
        if 'error' in row:
            continue
        task = stored[row['task_id']]
        assert row['session_id'] == row['task_id'] == task['session_id'] == task['running'], (row, task)
        assert row['status'] == 'queued' and STAMP.match(row['created_at']), row
        assert re.match('[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-', row['task_id']), row
        assert abs(float(task['at']) - task['id_ms']) < 3, task
        assert (task['agent'], int(task['input'])) == (body['agent'], body['input']), task
        assert task['metadata'] == body.get('metadata'), task
        assert task['priority'] == task['ready'] == body.get('priority', 5), task
        assert task['max_attempts'] == body.get('max_attempts', 3), task
    assert len({r['task_id'] for r in rows if 'task_id' in r}) == 398
    for row in rows:
        if 'task_id' in row:
            env.abort(row['task_id'])


def test_bodies_of_many_that_are_refused():
    p = post_many({'agent': 'a'}, {'input': 1}, {'agent': 'a', 'input': 1, 'priority': 99, 'x': 1}
                  ).problem(400, 'INVALID_REQUEST')
    assert pointers(p) == {'/tasks/0/input', '/tasks/1/agent', '/tasks/2/priority', '/tasks/2/x'}, p
    for body in ({}, {'tasks': []}, {'tasks': {}}, {'tasks': [1]}, {'tasks': [{}] * 1001}):
        env.http.post('/v1/tasks', body).problem(400, 'INVALID_REQUEST')
    assert env.value("select count(*) from nocturne.task where input::text = '1' and priority = 99") == 0


def test_submits_of_many_clients_go_together_and_are_told_apart():
    ids, wrong = {}, []

    def client(c):
        with contextlib.closing(env.http.connection()) as conn:
            for i in range(10):
                agent = 'a' if (c + i) % 5 else 'nobody'
                r = env.http.post('/v1/agents/%s/tasks' % agent, {'input': [c, i]},
                                  headers={'Idempotency-Key': 'to-%d-%d' % (c, i // 2)}, connection=conn)
                if r.status != (202 if agent == 'a' else 404) and not (i % 2 and r.status == 422):
                    wrong.append((c, i, r))
                if r.status == 202:
                    ids[c, i] = r.json['task_id']
    threads = [threading.Thread(target=client, args=(c,)) for c in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    assert len(set(ids.values())) == len(ids), 'two requests got one task'
    for (c, i), task in ids.items():
        assert env.value("select input::text from nocturne.task where task_id = '%s'" % task
                         ).replace(' ', '') == '[%d,%d]' % (c, i)
        player.play(task)


def test_a_locked_session_holds_up_nobody_elses_submit():
    first = post_task({'input': 1, 'session_id': 'held'}).ok(202).json['task_id']
    holder = env.psql()
    holder.run("begin; update nocturne.session set updated_at = now() where session_id = 'held'")
    slow = []
    bodies = [{'agent': 'a', 'input': i} for i in range(20)] + [
        {'agent': 'a', 'input': 'held', 'session_id': 'held'}]
    waits = threading.Thread(target=lambda: slow.append(post_many(*bodies)))
    waits.start()
    wait_until(lambda: env.value("select count(*) from nocturne.task where input::text in ('18', '19')") >= 2,
               5, 'those of other sessions are accepted')
    assert not slow
    holder.run('commit')
    waits.join()
    rows = slow[0].ok(202).json['tasks']
    assert all('task_id' in r for r in rows), rows
    player.play(first)
    for r in rows:
        player.play(r['task_id'])


# ---- get, list, wait ----

def test_a_finished_task_reads_as_designed():
    task = env.task(player.play(env.submit('a', 'x'), words=3))
    assert task['status'] == 'completed' and task['finish_reason'] == 'stop', task
    assert task['output'] == {'text': 'x'} and task['last_seq'] == 5, task
    assert len(task['attempts']) == 1 and task['attempts'][0]['outcome'] == 'completed', task
    for key in ('created_at', 'started_at', 'finished_at'):
        assert STAMP.match(task[key]), task


def test_a_finished_task_that_was_read_is_answered_from_memory_for_two_seconds():
    task = player.play(env.submit('a', 'cached'))
    first = env.http.get('/v1/tasks/' + task).ok(200).text
    env.execute("update nocturne.done set finish_reason = 'changed' where task_id = '%s'" % task)
    assert env.http.get('/v1/tasks/' + task).ok(200).text == first
    wait_until(lambda: '"finish_reason":"changed"' in env.http.get('/v1/tasks/' + task).text, 4,
               'it is read anew')
    assert metric(r'nocturne_task_cache_bytes (\d+)') > 0
    running = env.submit('a', 'not cached')  # what has not ended is read each time
    assert env.task(running)['status'] == 'queued'
    env.abort(running)
    assert env.task(running)['status'] == 'aborted'


def at_once(n, function):
    """function(i) in n threads; what they returned, in order."""
    found, threads = [None] * n, []

    def run(i):
        found[i] = function(i)
    for i in range(n):
        threads.append(threading.Thread(target=run, args=(i,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return found


def test_reads_of_many_clients_go_together_and_are_told_apart():
    ids = [env.submit('a', i, **({'run_at': '1h'} if i % 4 == 0 else {})) for i in range(12)] + [MISSING]
    player.claim(ids[1])
    wanted = {i: 'running' if n % 4 else 'scheduled' for n, i in enumerate(ids)}

    def client(c):
        wrong = []
        with contextlib.closing(env.http.connection()) as conn:
            for i in range(20):
                at = (c * 5 + i) % len(ids)
                answer = env.http.get('/v1/tasks/' + ids[at], connection=conn)
                if ids[at] == MISSING:
                    good = answer.status == 404 and answer.json['code'] == 'NOT_FOUND'
                else:
                    good = (answer.status == 200 and answer.json['input'] == at and
                            answer.json['status'] == wanted[ids[at]])
                wrong += [] if good else [answer]
        return wrong
    wrong = sum(at_once(24, client), [])
    assert not wrong, wrong[:3]
    for n, task in enumerate(ids[:-1]):
        if n % 4:
            player.end(task)
        else:
            env.abort(task)


def test_a_client_reads_its_own_writes():
    def client(c):
        seen = []
        with contextlib.closing(env.http.connection()) as conn:
            for _ in range(10):
                task = env.http.post('/v1/agents/a/tasks', {'input': c}, connection=conn).ok(202).json['task_id']
                seen.append(env.http.get('/v1/tasks/' + task, connection=conn).ok(200).json['status'])
                env.http.post('/v1/tasks/%s/abort' % task, {}, connection=conn).ok(202)
                seen.append(env.http.get('/v1/tasks/' + task, connection=conn).ok(200).json['status'])
        return seen
    for seen in at_once(12, client):
        assert seen == ['queued', 'aborted'] * 10, seen


def test_a_read_that_is_refused_costs_no_other_client_its_answer():
    task = env.submit('a', 'x')
    other = env.api(env={'TEST_FAIL_SQL': '40001:3'})  # the first three executions of each statement
    env.http = api.http
    answers = at_once(40, lambda i: other.http.get('/v1/tasks/' + (task if i % 2 else MISSING)))
    good = [a.status == (200 if i % 2 else 404) for i, a in enumerate(answers)]
    assert good.count(False) <= 3, [a.status for a in answers]
    other.end()
    env.abort(task)


def test_large_tasks_that_are_read_together():
    """More than one statement brings."""
    ids = [env.submit('a', i) for i in range(4)]

    def read(i):
        for _ in range(20):  # a busy machine may be too slow for the first
            answer = env.http.get('/v1/tasks/' + ids[i % 4], timeout=20)
            if answer.status != 503:
                return answer.ok(200).json
    env.execute("""update nocturne.task set metadata = json_build_object('i', input, 'x', repeat('y', 3 << 20))
        where task_id = any(array[%s]::uuid[])""" % ','.join("'%s'" % i for i in ids))
    for i, answer in enumerate(at_once(12, read)):
        assert answer['task_id'] == ids[i % 4] and answer['metadata']['i'] == i % 4, i
    env.execute("update nocturne.task set metadata = null where length(metadata::text) > 1e6")  # lists have others to show
    for task in ids:
        env.abort(task)


def test_what_is_not_there_is_404():
    for path in ('/', '/v1', '/v1/', '/v2/tasks', '/v1/tasks/', '/v1/tasks/x', '/v1/tasks/' + MISSING,
                 '/v1/tasks/%s/' % MISSING, '/v1/tasks/%s/x' % MISSING, '/v1/agents/nobody',
                 '/v1/agents/%2e%2e', '/v1/sessions/none', '/v1/sessions/a%20b', '/v1/snapshots/x',
                 '/v1/snapshots/' + MISSING, '/v1/tasks/%s/events' % MISSING, '/v1//tasks',
                 '/v1/tasks/%s/events' % 'x', '/v1/tasks%2fx', '/a/b/c/d/e/f/g/h/i/j/k/l',
                 '/v1/tasks/%s?wait=1s' % MISSING):
        env.http.get(path).problem(404, 'NOT_FOUND')
    for path in ('abort', 'resume'):
        body = {'respond': [{'name': 'x', 'output': 1}]} if path == 'resume' else {}
        env.http.post('/v1/tasks/%s/%s' % (MISSING, path), body).problem(404, 'NOT_FOUND')


def test_bad_escapes_are_refused():
    for path in ('/v1/agents/%', '/v1/agents/%2', '/v1/agents/%zz', '/v1/agents/a%00b',
                 '/v1/agents/%ff', '/v1/tasks?status=%', '/v1/tasks?%zz=1', '/v1/tasks?agent=%00'):
        env.http.get(path).problem(400, 'INVALID_REQUEST')
    assert env.http.get('/v1/agents/%61').ok(200).json['name'] == 'a'
    assert env.http.get('/v1/t%61sks').ok(200)


def test_unknown_parameters_are_refused():
    for path in ('/v1/tasks?x=1', '/healthz?x', '/v1/tasks?limit=1&limit=2', '/v1/agents/a?wait=1s',
                 '/v1/tasks/%s?after=1' % MISSING, '/v1/tasks/%s/events?wait=1s' % MISSING,
                 '/v1/tasks?' + '&'.join('limit=1' for _ in range(20)), '/v1/tasks?=1'):
        env.http.get(path).problem(400, 'INVALID_REQUEST')
    post = env.http.post('/v1/agents/a/tasks?wait=1s', {'input': 1})
    post.problem(400, 'INVALID_REQUEST')
    env.http.get('/v1/tasks?&limit=1&').ok(200)


def test_lists_come_in_pages_newest_first():
    ids = [player.play(env.submit('b', i, session_id='page%d' % (i % 2))) for i in range(7)]
    aborted = env.submit('b', 'x', run_at='1h')
    env.abort(aborted)
    seen, path = [], '/v1/tasks?agent=b&limit=3'
    while path:
        page = env.http.get(path).ok(200).json
        assert len(page['tasks']) <= 3
        seen += [t['task_id'] for t in page['tasks']]
        path = page.get('next')
        assert path is None or path.startswith('/v1/tasks?') and 'agent=b' in path, path
    assert seen == [aborted] + ids[::-1], (seen, ids)
    assert [t['task_id'] for t in tasks(agent='b', session_id='page1')] == ids[1::2][::-1]
    assert [t['task_id'] for t in tasks(agent='b', status='aborted')] == [aborted]
    assert tasks(agent='b', status='running') == [] and tasks(agent='b', status='waiting') == []
    assert env.http.get('/v1/tasks?limit=1').ok(200).json['next']
    assert tasks(tenant='nobody') == []
    exact = env.http.get('/v1/tasks?agent=b&limit=8').ok(200).json
    assert len(exact['tasks']) == 8 and 'next' not in exact, exact


def test_a_page_of_large_tasks_ends_early():
    ids = [env.submit('a', 'x' * 60000, session_id='large') for _ in range(2)]
    env.execute("""insert into nocturne.done (task_id, epoch, status, output, last_seq)
        select task_id, 0, 'completed', json_build_object('text', repeat('y', 5 << 20)), 0
        from nocturne.task where task_id = any(array[%s]::uuid[])""" % ','.join(
            "'%s'" % i for i in ids))
    small = [env.submit('b', i, session_id='large', run_at='1h') for i in range(2)]
    seen, path, pages = [], '/v1/tasks?session_id=large&limit=200', 0
    while path:
        page = env.http.get(path).ok(200).json
        seen += [t['task_id'] for t in page['tasks']]
        path, pages = page.get('next'), pages + 1
        assert page['tasks']
    assert seen == small[::-1] + ids[::-1] and pages == 1, (seen, pages)
    more = env.submit('a', 'z', session_id='large', run_at='1h')
    env.execute("""insert into nocturne.done (task_id, epoch, status, output, last_seq)
        select '%s', 0, 'completed', json_build_object('text', repeat('y', 5 << 20)), 0""" % more)
    first = env.http.get('/v1/tasks?session_id=large').ok(200).json
    assert [t['task_id'] for t in first['tasks']] == [more] + small[::-1] + ids[1:], first['next']
    rest = env.http.get(first['next']).ok(200).json
    assert [t['task_id'] for t in rest['tasks']] == ids[:1] and 'next' not in rest
    everything = ids + small + [more]
    env.execute("""delete from nocturne.done where task_id = any(array[%s]::uuid[])""" % ','.join(
        "'%s'" % i for i in everything))
    for task in everything:
        env.abort(task)


def test_filters_that_are_refused():
    for query in ('status=done', 'status=', 'limit=0', 'limit=201', 'limit=x', 'limit=', 'limit=-1',
                  'limit=1.5', 'before=x', 'session_id=a%20b', 'session_id=',
                  'limit=99999999999999999999'):
        env.http.get('/v1/tasks?' + query).problem(400, 'INVALID_REQUEST')
    for wait in ('x', '30', '-1s', '601s', '11m', '', '1.5s'):
        env.http.get('/v1/tasks/%s?wait=%s' % (MISSING, wait)).problem(400, 'INVALID_REQUEST')


def test_statuses_in_the_list():
    running = env.submit('a', 'r', session_id='st')
    player.claim(running)
    behind = env.submit('a', 'b', session_id='st')
    later = env.submit('a', 'l', run_at='1h')
    for status, task in (('running', running), ('queued', behind), ('scheduled', later)):
        assert task in [t['task_id'] for t in tasks(status=status)], status
        assert env.task(task)['status'] == status
    assert env.abort(running, 'why')['status'] == 'aborting'
    assert [t['task_id'] for t in tasks(status='aborting')] == [running]
    env.abort(later)
    player.end(running, 'aborted', 'aborted')
    player.play(behind)


def test_a_wait_is_answered_when_the_task_ends():
    task = env.submit('a', 'x')
    player.claim(task)
    results = []

    def wait():
        begin = time.monotonic()
        results.append((env.http.get('/v1/tasks/%s?wait=30s' % task).ok(200).json['status'],
                        time.monotonic() - begin))
    threads = [threading.Thread(target=wait) for _ in range(20)]
    for t in threads:
        t.start()
    wait_until(lambda: metric(r'^nocturne_waiters ') == 20, what='twenty waiters')
    assert metric(r'^nocturne_waiters_tasks ') == 1
    begin = time.monotonic()
    player.end(task)
    for t in threads:
        t.join()
    took = time.monotonic() - begin
    assert [r[0] for r in results] == ['completed'] * 20, results
    assert took < 1, took
    assert metric(r'^nocturne_waiters ') == 0
    begin = time.monotonic()
    assert env.http.get('/v1/tasks/%s?wait=30s' % task).ok(200).json['status'] == 'completed'
    assert time.monotonic() - begin < 1


def test_a_wait_ends_with_the_task_as_it_is():
    task = env.submit('a', 'x', run_at='1h')
    for wait, low, high in (('300ms', 0.29, 2), ('0s', 0, 1), ('1s', 0.99, 2.5)):
        begin = time.monotonic()
        assert env.http.get('/v1/tasks/%s?wait=%s' % (task, wait)).ok(200).json['status'] == 'scheduled'
        assert low <= time.monotonic() - begin < high, (wait, time.monotonic() - begin)
    env.abort(task)


def test_a_wait_without_hints_is_answered_by_the_sweep():
    task = env.submit('a', 'x')
    player.claim(task)
    threading.Timer(0.3, lambda: player.end(task, hint=False)).start()
    begin = time.monotonic()
    assert env.http.get('/v1/tasks/%s?wait=30s' % task).ok(200).json['status'] == 'completed'
    assert time.monotonic() - begin < 4
    wait_until(lambda: task not in player.turns)


def test_an_abort_here_wakes_who_waits_here():
    task = env.submit('a', 'x', run_at='1h')
    out = []
    thread = threading.Thread(target=lambda: out.append(
        env.http.get('/v1/tasks/%s?wait=30s' % task).ok(200).json['status']))
    thread.start()
    wait_until(lambda: metric(r'^nocturne_waiters ') == 1)
    begin = time.monotonic()
    env.abort(task)
    thread.join()
    assert out == ['aborted'] and time.monotonic() - begin < 1


def test_waiters_that_leave_are_forgotten_at_once():
    task = env.submit('a', 'x', run_at='1h')
    conns = []
    for _ in range(10):
        s = socket.create_connection((env.http.host, env.http.port))
        s.sendall(b'GET /v1/tasks/%s?wait=60s HTTP/1.1\r\nHost: x\r\n\r\n' % task.encode())
        conns.append(s)
    wait_until(lambda: metric(r'^nocturne_waiters ') == 10, what='ten waiters')
    for s in conns:
        s.close()
    wait_until(lambda: metric(r'^nocturne_waiters ') == 0, 2, 'no waiters')
    env.abort(task)


# ---- abort, resume ----

def test_aborts():
    queued = env.submit('a', 'x', session_id='ab')
    r = env.http.post('/v1/tasks/%s/abort' % queued)
    assert r.status == 202 and r.json == {'task_id': queued, 'status': 'aborted'}, r
    again = env.http.post('/v1/tasks/%s/abort' % queued, {'reason': 'again'})
    assert again.status == 200 and again.json == {'task_id': queued, 'status': 'aborted'}, again
    assert env.task(queued)['abort']['reason'] == 'requested', env.task(queued)

    later = env.submit('a', 'x', run_at='1h')
    r = env.http.post('/v1/tasks/%s/abort' % later.upper(), {'reason': 'no need "é"'})
    assert r.status == 202 and r.json == {'task_id': later, 'status': 'aborted'}, r
    task = env.task(later)
    assert task['status'] == 'aborted' and task['abort']['reason'] == 'no need "é"', task
    assert task['abort']['actor'] == 'api' and task['abort']['latency_ms'] == 0, task

    running = env.submit('a', 'x', session_id='ab')
    player.claim(running)
    for _ in range(2):
        r = env.http.post('/v1/tasks/%s/abort' % running, {'reason': 'stop'})
        assert r.status == 202 and r.json['status'] == 'aborting', r
    player.end(running, 'aborted', 'aborted')

    done = player.play(env.submit('a', 'x'))
    r = env.http.post('/v1/tasks/%s/abort' % done, {})
    assert r.status == 200 and r.json == {'task_id': done, 'status': 'completed'}, r
    for body in ({'reason': 5}, {'reason': ''}, {'reason': 'x' * 1001}, {'why': 'x'}, []):
        env.http.post('/v1/tasks/%s/abort' % done, body).problem(400, 'INVALID_REQUEST')


def test_an_abort_of_the_first_lets_the_next_run():
    first, second = (env.submit('a', 'x', session_id='next') for _ in range(2))
    env.abort(first)
    assert env.task(second)['status'] == 'queued'
    player.play(second)


def test_resume_is_the_next_turn_on_the_snapshot():
    asked = player.play(env.submit('a', 'x', session_id='res'), status='completed',
                        reason='interrupted')
    answers = {'respond': [{'name': 'ask', 'call_id': 'c1', 'output': {'n': 1.50}}],
               'restart': [{'name': 'other'}]}
    raw = '{"respond":[{"name":"ask","call_id":"c1","output":{"n":1.50}}],"restart":[{"name":"o"}]}'
    bad = [({}, ''), ({'respond': []}, ''), ({'respond': [{}]}, '/respond/0/name'),
           ({'respond': [{'name': 'x'}]}, '/respond/0/output'), ({'restart': [5]}, '/restart/0'),
           ({'restart': [{'name': 'x', 'output': 1}]}, '/restart/0/output'), ({'x': 1}, '/x'),
           ({'respond': {'name': 'x'}}, '/respond')]
    for body, pointer in bad:
        p = env.http.post('/v1/tasks/%s/resume' % asked, body).problem(400, 'INVALID_REQUEST')
        assert pointer in pointers(p), (body, p)
    r = env.http.post('/v1/tasks/%s/resume' % asked, raw, headers={'Idempotency-Key': 'r1'})
    assert r.status == 202 and r.json['session_id'] == 'res', r
    nxt = r.json['task_id']
    assert r.header('Location') == '/v1/tasks/' + nxt and nxt != asked
    assert env.value("select options::text from nocturne.task where task_id = '%s'" % nxt) \
        == '{"resume":%s}' % raw
    again = env.http.post('/v1/tasks/%s/resume' % asked, raw, headers={'Idempotency-Key': 'r1'})
    assert again.json['task_id'] == nxt and again.header('Idempotency-Replayed') == 'true', again
    env.http.post('/v1/tasks/%s/resume' % asked, answers).problem(409, 'CONFLICT')
    player.play(nxt)
    env.http.post('/v1/tasks/%s/resume' % nxt, answers).problem(409, 'CONFLICT')
    later = env.submit('a', 'x', run_at='1h')
    env.http.post('/v1/tasks/%s/resume' % later, answers).problem(409, 'CONFLICT')
    env.abort(later)


# ---- sessions, snapshots, agents ----

def test_sessions_and_snapshots():
    ids = [player.play(env.submit('a', i, session_id='sess')) for i in range(5)]
    session = env.http.get('/v1/sessions/sess').ok(200).json
    assert session['head'] == ids[-1] and session['agent'] == 'a' and session['queue'] == [], session
    seen, path = [], '/v1/sessions/sess/snapshots?limit=2'
    while path:
        page = env.http.get(path).ok(200).json
        seen += [s['snapshot_id'] for s in page['snapshots']]
        assert all('state' not in s for s in page['snapshots'])
        path = page.get('next')
    assert seen == ids[::-1], seen
    snapshot = env.http.get('/v1/snapshots/' + ids[0].upper()).ok(200).json
    assert snapshot['snapshot_id'] == ids[0] and snapshot['session_id'] == 'sess', snapshot
    assert snapshot['status'] == 'completed' and 'messages' in snapshot['state'], snapshot
    assert env.http.get('/v1/sessions/none/snapshots').ok(200).json == {'snapshots': []}
    env.http.get('/v1/sessions/sess/snapshots?before=x').problem(400, 'INVALID_REQUEST')


def test_agents():
    text = '{ "kind" : "echo",\n "description":"a  \\" b", "limits":{"timeout":"1h"} }'
    first = env.http.put('/v1/agents/Agent-1.x_', text).ok(200).json
    assert first == {'name': 'Agent-1.x_', 'revision': 1, 'changed': True}, first
    again = env.http.put('/v1/agents/Agent-1.x_', json.loads(text)).ok(200).json
    assert again['revision'] == 1 and again['changed'] is False, again
    second = env.http.put('/v1/agents/Agent-1.x_', {'kind': 'echo', 'state': 'client'}).ok(200).json
    assert second == {'name': 'Agent-1.x_', 'revision': 2, 'changed': True}, second
    got = env.http.get('/v1/agents/Agent-1.x_').ok(200).json
    assert got['definition'] == {'kind': 'echo', 'state': 'client'} and got['revision'] == 2, got
    r = env.http.delete('/v1/agents/Agent-1.x_')
    assert r.status == 204 and r.body == b'', r
    env.http.delete('/v1/agents/Agent-1.x_').problem(404, 'NOT_FOUND')
    env.http.get('/v1/agents/Agent-1.x_').problem(404, 'NOT_FOUND')
    post_task({'input': 1}, 'Agent-1.x_').problem(404, 'NOT_FOUND')
    assert env.put_agent('Agent-1.x_', {'kind': 'echo'})['revision'] == 3
    for name in ('_x', 'a%20b', 'x' * 129, '%C3%A9'):
        env.http.put('/v1/agents/' + name, {'kind': 'echo'}).problem(400, 'INVALID_REQUEST')
    p = env.http.put('/v1/agents/bad', {'kind': 'llm', 'model': {'provider': 'x'}, 'z': 1}
                     ).problem(400, 'INVALID_REQUEST')
    assert {'/z', '/model/provider', '/model/base_url', '/model/name'} <= pointers(p), p
    env.http.put('/v1/agents/bad', '{').problem(400, 'INVALID_REQUEST')
    env.http.get('/v1/agents/bad').problem(404, 'NOT_FOUND')


def test_agents_are_applied_all_or_none():
    good = {'kind': 'echo'}
    r = env.http.put('/v1/agents', {'agents': {'z2': good, 'z1': good, 'a': good}}).ok(200).json
    assert {(a['name'], a['revision'], a['changed']) for a in r['agents']} == {
        ('z2', 1, True), ('z1', 1, True), ('a', 1, False)}, r
    p = env.http.put('/v1/agents', {'agents': {'z3': good, 'z4': {'kind': 'x'}, 'z 5': good,
                                               'z6': {'kind': 'echo', 'a/b': 1}}}).problem(400)
    assert pointers(p) == {'/agents/z4/kind', '/agents/z 5', '/agents/z6/a~1b'}, p
    env.http.get('/v1/agents/z3').problem(404)
    for body in ({}, {'agents': []}, {'agents': {}, 'x': 1}, [], {'agents': None}):
        env.http.put('/v1/agents', body).problem(400, 'INVALID_REQUEST')
    assert env.http.put('/v1/agents', {'agents': {}}).ok(200).json == {'agents': []}
    env.http.put('/v1/agents', '{"agents":{"q":{"kind":"echo"},"q":{"kind":"echo"}}}').problem(400)
    assert env.http.put('/v1/agents', '{"agents":{"\\u0071":{"kind":"echo"}}}').ok(200).json[
        'agents'][0]['name'] == 'q'


def test_agents_are_listed_by_name():
    names, path = [], '/v1/agents?limit=2'
    while path:
        page = env.http.get(path).ok(200).json
        names += [a['name'] for a in page['agents']]
        path = page.get('next')
    assert names == sorted(names) and {'a', 'b'} <= set(names), names
    first = env.http.get('/v1/agents?limit=1').ok(200).json['agents'][0]
    assert first['kind'] == 'echo' and first['revision'] >= 1 and 'definition' not in first, first


# ---- events ----

def test_a_stream_has_the_shape_of_the_design():
    task = player.play(env.submit('a', 'x'), words=2)
    s = stream(task).ok()
    events = s.read_all()
    assert s.ended is True and s.retry == 1000
    assert s.headers['Cache-Control'] == 'no-store' and s.headers['X-Accel-Buffering'] == 'no'
    assert s.headers.get('Content-Length') is None
    assert [e.type for e in events] == ['turn.started', 'content.delta', 'content.delta',
                                        'turn.ended'], events
    for n, e in enumerate(events, 1):
        assert e.id == str(n) and list(e.data)[:3] == ['seq', 'type', 'at'], e
        assert e.data['seq'] == n and e.data['type'] == e.type and STAMP.match(e.data['at']), e
    assert events[1].data['at'] == '2026-01-01T00:00:00.002Z' and events[1].data['text'] == 'w0 '
    assert env.stored_events(task) == [e.data for e in events]


def test_a_stream_goes_on_from_every_cursor():
    task = player.play(env.submit('a', 'x'), words=35)
    whole = [e.text for e in stream(task).ok().read_all()]
    assert len(whole) == 37
    for after in range(0, 40):
        s = stream(task, after=after).ok()
        assert [e.text for e in s.read_all()] == whole[after:] and s.ended is True, after
        if after % 7 == 0:
            s = stream(task, {'Last-Event-ID': str(after)}).ok()
            assert [e.text for e in s.read_all()] == whole[after:], after
    s = stream(task, {'Last-Event-ID': '5'}, after=30).ok()
    assert [e.text for e in s.read_all()] == whole[30:]


def test_cursors_and_formats_that_are_refused():
    task = player.play(env.submit('a', 'x'))
    for after in ('x', '-1', '', '1.5', '99999999999999999999'):
        stream_status(task, 400, after=after)
    stream_status(task, 400, {'Last-Event-ID': 'x'})
    p = env.http.get('/v1/tasks/%s/events?format=chat' % task).problem(400, 'INVALID_REQUEST')
    assert 'native' in p['detail'], p
    assert stream(task, format='native').ok().read_all()
    assert stream(task, {'Last-Event-ID': ''}).ok().read_all()


def stream_status(task, status, headers=None, **query):
    s = stream(task, headers, **query)
    assert s.status == status, (s.status, query)
    s.cut()


def test_live_events_reach_everyone_once():
    task = env.submit('a', 'x')
    early = [stream(task).ok() for _ in range(5)]
    threads = [s.in_background() for s in early]
    wait_until(lambda: metric(r'^nocturne_subscribers ') == 5)
    player.claim(task)
    player.append(task, '{"type":"turn.started"}')
    for i in range(30):
        player.say(task, 'x%d' % i)
        if i % 10 == 5:
            for after in (0, i // 2, i):
                s = stream(task, after=after).ok()
                early.append(s)
                threads.append(s.in_background())
    player.end(task)
    for t in threads:
        t.join(20)
    whole = env.stored_events(task)
    for s in early:
        assert s.ended is True, s.error
        assert [e.data for e in s.events] == whole[len(whole) - len(s.events):], s.events[:3]
    assert [len(s.events) for s in early[:6]] == [32] * 6
    wait_until(lambda: metric(r'^nocturne_subscribers ') == 0)
    assert metric(r'^nocturne_subscribers_readers ') == 0


def test_live_events_come_soon_after_the_hint():
    task = env.submit('a', 'x')
    player.claim(task)
    s = stream(task).ok()
    player.append(task, '{"type":"turn.started"}')
    s.next()
    took = []
    for i in range(20):
        begin = time.monotonic()
        player.say(task, 'y')
        s.next()
        took.append(time.monotonic() - begin)
    player.end(task)
    assert [e.type for e in s.read_all()][-1] == 'turn.ended'
    assert sorted(took)[10] < within(0.2, 'event'), took


def test_live_events_come_without_hints_too():
    task = env.submit('a', 'x')
    s = stream(task).ok()
    player.claim(task)
    for i in range(3):
        player.say(task, 'z%d' % i, hint=False)
        begin = time.monotonic()
        assert s.next().data['text'] == 'z%d' % i
        assert time.monotonic() - begin < 4
    player.end(task, hint=False)
    assert [e.type for e in s][-1] == 'turn.ended' and s.ended is True


def test_a_silent_stream_is_kept_alive():
    task = env.submit('a', 'x')
    s = stream(task).ok()
    s.in_background()
    wait_until(lambda: len(s.comments) >= 2, 6, 'two comments')  # keep_alive is 1s here
    assert set(s.comments) == {'keep-alive'}, s.comments
    env.abort(task)
    wait_until(lambda: s.ended is not None)
    assert s.ended is True and s.types() == ['turn.ended'], s.events
    assert s.events[0].data['status'] == 'aborted'


def test_a_cursor_beyond_what_there_is_waits_for_what_comes():
    task = env.submit('a', 'x')
    s = stream(task, after=1000).ok()
    player.claim(task)
    player.say(task, 'first')
    assert s.next().data['text'] == 'first'
    player.end(task)
    assert s.read_all()[-1].type == 'turn.ended'


def test_a_large_replay_goes_at_the_readers_pace():
    task = env.submit('a', 'x')
    player.claim(task)
    player.append(task, '{"type":"turn.started"}', hint=False)
    for _ in range(30):  # 15 MB, 500 KB a chunk: more than all sockets hold
        player.say(task, *['%s' % ('v' * 50000) for _ in range(10)], hint=False)
    player.end(task)
    slow = socket.create_connection((env.http.host, env.http.port))
    slow.sendall(b'GET /v1/tasks/%s/events HTTP/1.0\r\n\r\n' % task.encode())
    whole = env.stored_events(task)
    assert [e.data for e in stream(task).ok().read_all()] == whole  # others are not held up
    assert metric(r'^nocturne_subscribers ') == 1
    slow.settimeout(20)
    got = b''
    while True:
        part = slow.recv(65536)
        if not part:
            break
        got += part
    ids = re.findall(rb'^id: (\d+)$', got, re.M)
    assert [int(i) for i in ids] == list(range(1, len(whole) + 1)), ids[:5]
    assert metric(r'^nocturne_stream_cuts_total ') == 0


def test_subscribers_that_leave_are_forgotten():
    task = env.submit('a', 'x')
    streams = [stream(task).ok() for _ in range(10)]
    wait_until(lambda: metric(r'^nocturne_subscribers ') == 10)
    for s in streams:
        s.cut()
    wait_until(lambda: metric(r'^nocturne_subscribers ') == 0, 2)
    wait_until(lambda: metric(r'^nocturne_subscribers_readers ') == 0, 4)
    assert metric(r'^nocturne_subscribers_tasks ') == 0
    env.abort(task)


def test_a_hundred_streams_of_different_tasks():
    ids = [env.submit('a', i) for i in range(100)]
    streams = [stream(t).ok() for t in ids]
    threads = [s.in_background() for s in streams]
    player.claim()
    for t in ids:
        player.say(t, 'one', 'two')
    for t in ids:
        player.end(t)
    for t in threads:
        t.join(20)
    for s in streams:
        assert s.types() == ['content.delta', 'content.delta', 'turn.ended'] and s.ended, s.events


# ---- HTTP ----

def test_every_answer_has_a_request_id_and_cors():
    for path, status in (('/healthz', 200), ('/v1/tasks', 200), ('/nowhere', 404), ('/metrics', 200)):
        r = env.http.get(path, headers={'X-Request-Id': 'my/id:1.2=+@-_'})
        assert r.status == status and r.header('X-Request-Id') == 'my/id:1.2=+@-_', r.headers
        assert r.header('Access-Control-Allow-Origin') == '*', r.headers
        assert 'Location' in r.header('Access-Control-Expose-Headers')
    assert env.http.get('/nowhere', headers={'X-Request-Id': 'x1'}).json['request_id'] == 'x1'
    for bad in ('a b', 'x' * 129, '"', ''):
        got = env.http.get('/healthz', headers={'X-Request-Id': bad}).header('X-Request-Id')
        assert re.match(r'^[0-9a-f-]{36}$', got), got
    task = player.play(env.submit('a', 'x'))
    s = stream(task, {'X-Request-Id': 'sse'}).ok()
    assert s.headers['X-Request-Id'] == 'sse' and s.headers['Access-Control-Allow-Origin'] == '*'
    s.read_all()


def test_preflights_and_methods():
    r = env.http.request('OPTIONS', '/v1/agents/a', headers={
        'Origin': 'http://x', 'Access-Control-Request-Method': 'PUT'})
    assert r.status == 204 and r.body == b'', r
    assert r.header('Access-Control-Allow-Methods') == 'GET, HEAD, PUT, DELETE, OPTIONS', r.headers
    assert 'Idempotency-Key' in r.header('Access-Control-Allow-Headers')
    assert env.http.request('OPTIONS', '*').status == 204
    env.http.request('OPTIONS', '/nowhere').problem(404)
    for method, path, allow in (('DELETE', '/v1/tasks', 'GET, HEAD, POST, OPTIONS'),
                                ('GET', '/v1/agents/a/tasks', 'POST, OPTIONS'),
                                ('POST', '/v1/agents', 'GET, HEAD, PUT, OPTIONS'),
                                ('PATCH', '/healthz', 'GET, HEAD, OPTIONS')):
        r = env.http.request(method, path)
        r.problem(405, 'METHOD_NOT_ALLOWED')
        assert r.header('Allow') == allow, r.headers


def test_head_is_get_without_a_body():
    task = player.play(env.submit('a', 'x'))
    for path in ('/healthz', '/v1/tasks', '/v1/tasks/' + task, '/v1/agents/a'):
        get, head = env.http.get(path), env.http.request('HEAD', path)
        assert head.status == get.status == 200 and head.body == b'', head
        assert head.header('Content-Length') == get.header('Content-Length')
    head = env.http.request('HEAD', '/v1/tasks/%s/events' % task)
    assert head.status == 200 and head.body == b'', head
    live = env.submit('a', 'x', run_at='1h')
    assert env.http.request('HEAD', '/v1/tasks/%s/events' % live).status == 200
    assert env.http.request('HEAD', '/nowhere').status == 404
    env.abort(live)


def test_pipelined_requests_are_answered_in_order():
    s = socket.create_connection((env.http.host, env.http.port))
    one = b'GET /v1/tasks?limit=%d HTTP/1.1\r\nHost: x\r\nX-Request-Id: p%d\r\n\r\n'
    s.sendall(b''.join(one % (i % 3 + 1, i) for i in range(50))
              + b'GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    got = b''
    while True:
        part = s.recv(65536)
        if not part:
            break
        got += part
    ids = re.findall(rb'X-Request-Id: p(\d+)\r', got)
    assert [int(i) for i in ids] == list(range(50)), ids


def test_malformed_requests_get_problems():
    rows = [(b'GET / HTTP/1.1\r\n\r\n', 400), (b'BREW / HTTP/1.1\r\nHost: x\r\n\r\n', 501),
            (b'GET /' + b'x' * 40000 + b' HTTP/1.1\r\nHost: x\r\n\r\n', 414),
            (b'GET / HTTP/1.1\r\nHost: x\r\nX: ' + b'x' * 40000 + b'\r\n\r\n', 431),
            (b'GET / HTTP/3.0\r\nHost: x\r\n\r\n', 505), (b'\0\0\0\0\r\n\r\n', 400),
            (b'POST /v1/agents/a/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n', 413)]
    for raw, status in rows:
        s = socket.create_connection((env.http.host, env.http.port))
        s.sendall(raw)
        answer = http.client.HTTPResponse(s)
        answer.begin()
        body = json.loads(answer.read())
        assert answer.status == status == body['status'], (raw[:60], answer.status, body)
        assert answer.headers['Content-Type'] == 'application/problem+json' and body['code'], body


# ---- health, metrics, settings, limits, outages, drain ----

def test_health_and_readiness():
    assert env.http.get('/healthz').ok(200).json == {'status': 'ok'}
    assert env.http.get('/readyz').ok(200).json == {'status': 'ready'}
    version = env.value('select max(version) from nocturne.migration')
    env.execute("insert into nocturne.migration values (%d, 'future', 'x')" % (version + 1))
    env.http.get('/readyz').ok(200)  # the next version's migration only adds
    env.execute('delete from nocturne.migration where version = %d' % (version + 1))
    env.execute('update nocturne.migration set version = -version where version = %d' % version)
    try:
        p = env.http.get('/readyz').problem(503, 'UNAVAILABLE')
        assert 'migrate' in p['detail'], p
    finally:
        env.execute('update nocturne.migration set version = -version where version < 0')
    env.http.get('/readyz').ok(200)


def test_metrics_are_prometheus_text():
    env.execute("""insert into nocturne.worker_stats
        select worker_id, '{"claims":7,"bad name":1,"odd":"x",
        "hist":{"turn_ms":{"le":[1,10],"n":[2,3,4],"sum":12.5,"count":9},"broken":{"le":[1]}}}'
        from nocturne.worker where name = 'player'
        on conflict (worker_id) do update set stats = excluded.stats""")
    later = env.submit('a', 'x', run_at='1h')
    r = env.http.get('/metrics').ok(200)
    assert r.header('Content-Type').startswith('text/plain; version=0.0.4'), r.headers
    sample = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="([^"\\\n]|\\.)*",?)*\})? '
                        r'(-?[0-9.e+-]+|\+Inf|NaN)$')
    seen, types = set(), {}
    for line in r.text.splitlines():
        if line.startswith('# TYPE '):
            name = line.split()[2]
            assert name not in types, 'twice: ' + name
            types[name] = line.split()[3]
        elif not line.startswith('# HELP '):
            assert sample.match(line), line
            assert line.rsplit(' ', 1)[0] not in seen, line
            seen.add(line.rsplit(' ', 1)[0])
    for name in ('process_resident_memory_bytes', 'process_cpu_seconds_total', 'nocturne_tasks',
                 'nocturne_waiters', 'nocturne_subscribers', 'nocturne_pool_connections_up',
                 'nocturne_http_request_ms', 'nocturne_submit_ms', 'nocturne_leader_present',
                 'nocturne_worker_claims', 'nocturne_worker_turn_ms', 'nocturne_database_up'):
        assert name in types, name
    for line in ('nocturne_worker_claims{worker="player"} 7', 'nocturne_tasks{status="scheduled"} 1',
                 'nocturne_worker_turn_ms_bucket{worker="player",le="10"} 5', 'nocturne_workers 1',
                 'nocturne_worker_turn_ms_bucket{worker="player",le="+Inf"} 9',
                 'nocturne_worker_turn_ms_sum{worker="player"} 12.5'):
        assert line in r.text.splitlines(), (line, [x for x in r.text.splitlines() if 'worker' in x])
    assert metric(r'^nocturne_submit_ms_count ') > 20
    assert metric(r'^nocturne_http_answers_total.*task_submit.*2xx') > 20
    env.abort(later)


def test_limits_answer_429():
    with harness.Env() as small:
        small.api(max_waiters=2, max_subscribers=2, max_parked_per_peer=3)
        small.put_agent('a', {'kind': 'echo'})
        task = small.submit('a', 'x', run_at='1h')
        conns = [socket.create_connection((small.http.host, small.http.port)) for _ in range(2)]
        for s in conns:
            s.sendall(b'GET /v1/tasks/%s?wait=60s HTTP/1.1\r\nHost: x\r\n\r\n' % task.encode())
        wait_until(lambda: metric(r'^nocturne_waiters ', small.http) == 2)
        r = small.http.get('/v1/tasks/%s?wait=60s' % task)
        assert r.problem(429, 'TOO_MANY_REQUESTS')['retryable'] and r.header('Retry-After') == '1', r
        one = stream(task, http_=small.http).ok()
        s = stream(task, http_=small.http)  # the fourth of this address
        assert s.status == 429, s.status
        conns.pop().close()
        wait_until(lambda: metric(r'^nocturne_waiters ', small.http) == 1)
        two = stream(task, http_=small.http).ok()
        s = stream(task, http_=small.http)
        assert s.status == 429, s.status
        small.http.get('/v1/tasks/' + task).ok(200)
        one.cut()
        two.cut()
        conns.pop().close()
        wait_until(lambda: metric(r'^nocturne_waiters ', small.http) == 0)
        wait_until(lambda: metric(r'^nocturne_subscribers ', small.http) == 0)
        small.abort(task)


def test_too_many_connections_are_refused_readably():
    with harness.Env() as small:
        small.api(max_conns=3)
        conns = [socket.create_connection((small.http.host, small.http.port)) for _ in range(3)]
        wait_until(lambda: small.http.get('/healthz').status == 429, what='a full house')
        small.http.get('/healthz').problem(429, 'TOO_MANY_REQUESTS')
        for s in conns:
            s.close()
        wait_until(lambda: small.http.get('/healthz').status == 200)


def test_an_outage_is_answered_503_and_ends():
    with harness.Env() as broken:
        broken.api()
        played = Player(broken)
        broken.put_agent('a', {'kind': 'echo'})
        task = broken.submit('a', 'x')
        played.claim(task)
        live = stream(task, http_=broken.http).ok()
        played.say(task, 'before')
        assert live.next().data['text'] == 'before'
        waits = []
        waiter = threading.Thread(target=lambda: waits.append(
            broken.http.get('/v1/tasks/%s?wait=30s' % task)))
        waiter.start()
        wait_until(lambda: metric(r'^nocturne_waiters ', broken.http) == 1)
        broken.outage()
        for method, path, body in (('GET', '/v1/tasks/' + task, None), ('GET', '/v1/tasks', None),
                                   ('POST', '/v1/agents/a/tasks', {'input': 1}),
                                   ('GET', '/v1/tasks/%s?wait=5s' % task, None),
                                   ('GET', '/v1/tasks/%s/events' % task, None),
                                   ('GET', '/readyz', None)):
            begin = time.monotonic()
            r = broken.http.request(method, path, body)
            p = r.problem(503, 'UNAVAILABLE')
            assert p['retryable'] is True and r.header('Retry-After') == '1', r.headers
            assert time.monotonic() - begin < 2.5, (path, time.monotonic() - begin)
        assert broken.http.get('/healthz').status == 200
        assert metric(r'^nocturne_database_up ', broken.http) == 0
        broken.outage_over()
        wait_until(lambda: broken.http.get('/readyz').status == 200, 10)
        broken.sessions.remove(played.session)  # its connection was cut, too
        turns = played.turns
        played.session = Player(broken).session
        played.turns = turns
        played.say(task, 'after')
        played.end(task)
        assert [e.type for e in live] == ['content.delta', 'turn.ended'] and live.ended is True
        waiter.join()
        assert waits[0].status == 200 and waits[0].json['status'] == 'completed', waits


def test_poll_only_mode():
    with harness.Env() as quiet:
        quiet.api(hints='off')
        played = Player(quiet, notify=False)
        quiet.put_agent('a', {'kind': 'echo'})
        task = quiet.submit('a', 'x')
        s = stream(task, http_=quiet.http).ok()
        s.in_background()
        threading.Timer(0.5, lambda: played.play(task, words=20)).start()
        begin = time.monotonic()
        assert quiet.wait_task(task)['status'] == 'completed'
        wait_until(lambda: s.ended is not None)
        assert s.ended is True and len(s.events) == 22 and time.monotonic() - begin < 3, s.events
        assert metric(r'^nocturne_hints_up ', quiet.http) == 0
        wait_until(lambda: not played.turns)


def test_a_drain_answers_who_waits_and_cuts_who_follows():
    with harness.Env() as e:
        process = e.api()
        e.put_agent('a', {'kind': 'echo'})
        task = e.submit('a', 'x', run_at='1h')
        s = stream(task, http_=e.http).ok()
        s.in_background()
        waits = []
        thread = threading.Thread(target=lambda: waits.append(
            e.http.get('/v1/tasks/%s?wait=60s' % task)))
        thread.start()
        wait_until(lambda: metric(r'^nocturne_waiters ', e.http) == 1)
        begin = time.monotonic()
        process.end()
        assert time.monotonic() - begin < 5
        thread.join()
        waits[0].problem(503, 'UNAVAILABLE')
        assert waits[0].header('Retry-After') == '1'
        wait_until(lambda: s.ended is not None)
        assert s.ended is False, 'a clean end would tell the client that the task is over'
        e.execute("select nocturne.abort('%s')" % task)


def test_a_kill_loses_nothing():
    with harness.Env() as e:
        process = e.api()
        played = Player(e)
        e.put_agent('a', {'kind': 'echo'})
        task = e.submit('a', 'x')
        played.claim(task)
        s = stream(task, http_=e.http).ok()
        played.say(task, 'one')
        assert s.next().seq == 1
        process.kill()
        assert s.read_all()[-1].seq == 1  # http.client does not tell a cut from an end
        played.say(task, 'two')
        e.api()
        rest = stream(task, {'Last-Event-ID': '1'}, e.http).ok()
        assert rest.next().data['text'] == 'two'
        played.end(task)
        assert rest.read_all()[-1].type == 'turn.ended'


def test_origins():
    with harness.Env() as e:
        e.api(cors_origin='https://one.example, https://two.example')
        r = e.http.get('/healthz', headers={'Origin': 'https://two.example'})
        assert r.header('Access-Control-Allow-Origin') == 'https://two.example'
        assert r.header('Vary') == 'Origin'
        r = e.http.get('/healthz', headers={'Origin': 'https://evil.example'})
        assert r.status == 200 and r.header('Access-Control-Allow-Origin') is None

        def put(headers):
            return e.http.put('/v1/agents/a', {'kind': 'echo'}, headers=headers)
        put({'Origin': 'https://evil.example'}).problem(403, 'FORBIDDEN_ORIGIN')
        put({'Origin': 'null'}).problem(403, 'FORBIDDEN_ORIGIN')
        put({'Origin': 'https://one.example'}).ok(200)
        put({'Origin': e.http.base_url}).ok(200)
        put({}).ok(200)


def test_settings():
    with harness.Env() as e:
        for settings, part in (({'listen': 'nonsense'}, 'HOST:PORT'), ({'listen': '127.0.0.1:99999'}, ''),
                               ({'listen': 'no.such.host.invalid:1'}, ''), ({'pool': 0}, 'pool'),
                               ({'log_level': 'loud'}, 'log_level'), ({'hints': 'maybe'}, 'hints'),
                               ({'colour': 'red'}, 'colour'), ({'drain': '5'}, 'drain')):
            p = e.start('nocturne-api', {'listen': '127.0.0.1:0', **settings})
            p.expected = 1 if settings.get('listen', '').startswith('no.such') else 2
            status = p.wait()
            assert status in (1, 2), (settings, status, p.tail())
            p.expected = status
            assert part in p.log(), (settings, p.log())
        first = e.api()
        second = e.start('nocturne-api', {'listen': '127.0.0.1:%d' % e.http.port})
        second.expected = 1
        assert second.wait() == 1 and 'in use' in second.log(), second.tail()
        any_port = e.start('nocturne-api', {'listen': '[::1]:0'})
        found = any_port.wait_log(r'ready http://\[::1\]:(\d+)')
        six = socket.create_connection(('::1', int(found.group(1))))
        six.sendall(b'GET /healthz HTTP/1.0\r\n\r\n')
        assert b'200 OK' in six.recv(1000)
        six.close()
        assert first.alive
    for flag in ('--help', '--version'):
        done = subprocess.run([harness.program('nocturne-api'), flag], capture_output=True, text=True)
        assert done.returncode == 0 and 'nocturne-api' in done.stdout, done


def test_no_payload_nor_secret_is_logged():
    secret = 'sesame-%d' % os.getpid()
    env.abort(env.submit('a', secret, run_at='1h', metadata={'x': secret}))
    assert secret not in api.log()
    assert env.conninfo not in api.log()
