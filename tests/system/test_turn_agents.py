"""The kinds of agents that are no model: echo, process and http."""
import json
import os
import shutil
import time

import fakes
import harness
from fakes import of_type, submit_all
from harness import wait_until

JSONL = """#!/usr/bin/python3
import json, os, sys
given = json.load(sys.stdin)
print(json.dumps({'chunk': {'percent': 50}}), flush=True)
print(json.dumps({'chunk': 'half'}), flush=True)
print(json.dumps({'result': {'got': given, 'task': os.environ['NOCTURNE_TASK_ID'],
                             'key': os.environ['NOCTURNE_IDEMPOTENCY_KEY'],
                             'names': sorted(os.environ)}}))
"""
FLAKY = """#!/bin/sh
read -r line
n=$(cat {0} 2>/dev/null || echo 0); echo $((n + 1)) > {0}
echo '{{"chunk":"try"}}'
[ "$n" = 0 ] && {{ echo "no luck" >&2; exit 1; }}
echo '{{"result":"lucky"}}'
"""


def setup():
    global env, endpoint, folder
    env, endpoint, folder = harness.Env(), fakes.Endpoint(), fakes.folder()
    env.scheduler()
    env.worker(poll='20ms', env={'TOOL_TOKEN': 'tok-1', 'OPENAI_API_KEY': 'sk-secret'})
    env.put_agent('echo', {'kind': 'echo'})
    endpoint.answers.update({
        '/json': lambda r: (200, {'got': r.json}),
        '/text': lambda r: (200, 'just text', {'Content-Type': 'text/plain'}),
        '/lines': lambda r: (200, '{"chunk":1}\n{"chunk":{"a":[2]}}\n{"result":"end"}\n'),
        '/sse': lambda r: (200, ': hello\r\n\r\ndata: {"chunk":"a"}\r\n\r\ndata: {"result":{"b":1}}',
                           {'Content-Type': 'text/event-stream; charset=utf-8'}),
        '/error': lambda r: (200, '{"chunk":1}\n{"error":{"message":"broken","retryable":false}}\n'),
        '/bad': lambda r: (400, 'no'), '/busy': lambda r: (503, 'later'),
        '/once': lambda r: (503, 'later') if len(endpoint.of('/once')) < 2 else (200, '"ok"'),
        '/half': lambda r: (200, '{"chunk":1}\n'),
        '/large': lambda r: (200, 'x' * 3000),
        '/slow': lambda r: time.sleep(2) or (200, 'late'),
    })


def teardown():
    endpoint.close()
    env.check_invariants()
    shutil.rmtree(folder, ignore_errors=True)


def run(definition, value='x', status='completed', name=None, **kw):
    name = name or 'agent-%d' % env.counts.setdefault('agents', 0)
    env.counts['agents'] = env.counts.get('agents', 0) + 1
    env.put_agent(name, {'max_attempts': 1, **definition})
    return env.wait_task(env.submit(name, value, **kw), status=status)


def shell(script, **more):
    return {'kind': 'process', 'command': ['sh', '-c', script], **more}


def http(path, **more):
    return {'kind': 'http', 'url': endpoint.url + path, **more}


def progress(task):
    return [e['data'] for e in of_type(env.stored_events(task['task_id']), 'progress')]


def failed(definition, code, part='', retryable=None, **kw):
    task = run(definition, status='failed', **kw)
    assert task['error']['code'] == code and part in task['error']['message'], task['error']
    assert retryable is None or task['error']['retryable'] is retryable, task['error']
    return task


# ---- echo ----

def test_echo_gives_back_what_it_gets():
    values = ['text', {'a': [1, 2.5, None], 'b': 'Grüße 😀'}, [1], 7, True, None, '', '  \n "x" \\']
    for value, task_id in zip(values, submit_all(env, [('echo', v) for v in values])):
        task = env.wait_task(task_id, status='completed')
        assert task['output']['data'] == value and task['finish_reason'] == 'stop', task
        assert task['output']['text'] == (value if isinstance(value, str) else ''), task
        types = [e['type'] for e in env.stored_events(task_id)]
        assert types == ['turn.started', 'turn.ended'], types


def test_the_start_and_the_end_of_a_short_turn_are_one_row():
    """Unless the worker is stopped for longer than they settle, 1 ms, right between them."""
    tasks = [env.submit('echo', str(n)) for n in range(30)]
    found = []
    for task_id in tasks:
        task = env.wait_task(task_id, status='completed')
        found.append([r['count'] for r in env.sql("select count from nocturne.chunk where task_id = '%s'" % task_id)])
        assert [a['outcome'] for a in task['attempts']] == ['completed'], task
    assert all(sum(counts) == 2 for counts in found), found
    assert found.count([2]) >= 27, found


def test_numbers_come_back_as_they_were_written():
    text = '{"n":12345678901234567890.10,"e":1E400,"z":-0.0}'
    task_id = env.value("select task_id from nocturne.submit('echo', '%s')" % text)
    env.wait_task(task_id, status='completed')
    found = env.execute("select output::text from nocturne.done where task_id = '%s'" % task_id)
    assert '"data":' + text in found, found


# ---- process ----

def test_process_agent_streams_progress_and_ends_with_its_result():
    command = fakes.program(folder, 'jsonl', JSONL)
    task = run({'kind': 'process', 'command': [command], 'env': {'MINE': 'x'}}, {'q': [1, 'ü']})
    assert progress(task) == [{'percent': 50}, 'half'], progress(task)
    data = task['output']['data']
    assert data['got'] == {'q': [1, 'ü']} and data['task'] == task['task_id'], data
    assert data['key'] == task['task_id'] and 'MINE' in data['names'], data
    assert not {'TOOL_TOKEN', 'OPENAI_API_KEY', 'NOCTURNE_DATABASE'} & set(data['names']), data


def test_process_agent_with_plain_output():
    assert run(shell('echo plain; echo text'))['output']['text'] == 'plain\ntext'
    assert run(shell('echo \'{"a": 1}\''))['output']['data'] == {'a': 1}
    assert run(shell('cat'), {'k': 'v'})['output']['data'] == {'k': 'v'}
    assert run(shell('true'))['output']['data'] == ''
    many = run(shell('printf "[1,\\n2,\\n3]\\n"'))
    assert many['output']['data'] == [1, 2, 3], many


def test_process_agent_that_fails():
    failed(shell('echo why >&2; exit 7'), 'AGENT_FAILED', 'exit status 7: why', True)
    failed(shell('kill -9 $$'), 'AGENT_FAILED', 'signal 9', True)
    failed({'kind': 'process', 'command': ['/no/such']}, 'AGENT_FAILED', '/no/such', False)
    failed(shell('echo \'{"error":"says no"}\''), 'AGENT_FAILED', 'says no', False)
    failed(shell('echo \'{"error":{"message":"m","retryable":true}}\''), 'AGENT_FAILED', 'm', True)
    failed(shell('echo \'{"error":"says no"}\'; exit 1'), 'AGENT_FAILED', 'says no', False)
    failed(shell('echo \'{"chunk":1}\''), 'AGENT_FAILED', 'without a result', True)
    failed(shell('sleep 60', timeout='200ms'), 'AGENT_FAILED', 'out of time', True)
    failed(shell('sleep 60', limits={'timeout': '300ms'}), 'TURN_TIMEOUT', retryable=False)
    failed(shell('yes', limits={'max_output_bytes': 1000}), 'OUTPUT_TOO_LARGE', retryable=False)


def test_process_agent_is_tried_again_and_told_apart_by_reset():
    command = fakes.program(folder, 'flaky', FLAKY.format(os.path.join(folder, 'count')))
    task = run({'kind': 'process', 'command': [command], 'max_attempts': 2})
    assert task['output']['data'] == 'lucky', task
    assert [a['outcome'] for a in task['attempts']] == ['retry', 'completed'], task
    assert 'no luck' in task['attempts'][0]['error']['message'], task
    events = env.stored_events(task['task_id'])
    assert [e['type'] for e in events] == ['turn.started', 'progress', 'reset', 'progress',
                                           'turn.ended'], events
    assert len(of_type(fakes.kept(events), 'progress')) == 1, events


def test_process_agent_can_be_aborted():
    pidfile = os.path.join(folder, 'pid')
    env.put_agent('sleeper', shell('echo \'{"chunk":1}\'; sleep 60 & echo $! > %s; wait' % pidfile))
    task_id = env.submit('sleeper', 'x')
    wait_until(lambda: os.path.exists(pidfile) and open(pidfile).read().strip(), 10, 'it runs')
    env.abort(task_id, 'enough')
    env.execute("notify nocturne, 'a:*'")
    task = env.wait_task(task_id, status='aborted')
    assert task['abort']['reason'] == 'enough' and progress(task) == [1], task
    with open(pidfile) as f:
        pid = f.read().strip()
    wait_until(lambda: not os.path.exists('/proc/%s' % pid), 5, 'its child is gone')


def test_bytes_and_long_lines_of_a_process_agent():
    task = run(shell(r"printf 'a\377\000b'"))
    assert task['output']['text'] == 'a\ufffd\ufffdb', task
    task = run(shell('printf \'{"chunk":"\'; head -c 200000 /dev/zero | tr "\\0" y; '
                     'printf \'"}\\n{"result":1}\\n\''))
    assert progress(task) == ['y' * 200000], len(progress(task))


def test_nul_and_half_characters_in_json_of_a_process_agent_do_not_stick():
    """PostgreSQL takes neither; the turn must end all the same."""
    for line in (r'{"result":"a\u0000b"}', r'{"result":"\ud83d"}', r'{"chunk":"\u0000"}',
                 '{"result":"\\ud83d\\ude00"}'):
        path = os.path.join(folder, 'line')
        with open(path, 'w') as f:
            f.write(line + '\n')
        task = run(shell('cat %s' % path))
        assert 'output' in task, task


# ---- http ----

def test_http_agent_answers():
    task = run(http('/json', headers={'Authorization': 'Bearer ${TOOL_TOKEN}'}), {'q': 'ü'})
    assert task['output']['data'] == {'got': {'q': 'ü'}}, task
    request = endpoint.of('/json')[-1]
    assert request.headers['authorization'] == 'Bearer tok-1', request.headers
    assert request.headers['idempotency-key'] == task['task_id'], request.headers
    assert request.headers['x-nocturne-task-id'] == task['task_id'], request.headers
    assert request.headers['content-type'] == 'application/json', request.headers
    assert run(http('/text'))['output']['text'] == 'just text'


def test_http_agent_streams_lines_or_server_sent_events():
    task = run(http('/lines'))
    assert progress(task) == [1, {'a': [2]}] and task['output']['text'] == 'end', task
    task = run(http('/sse'))
    assert progress(task) == ['a'] and task['output']['data'] == {'b': 1}, task


def test_http_agent_that_fails():
    failed(http('/error'), 'AGENT_FAILED', 'broken', False)
    failed(http('/bad'), 'AGENT_FAILED', 'status 400', False)
    failed(http('/busy'), 'AGENT_FAILED', 'status 503', True)
    failed(http('/half'), 'AGENT_FAILED', 'without a result', True)
    failed(http('/slow', timeout='200ms'), 'AGENT_FAILED', 'did not answer in time', True)
    failed(http('/large', limits={'max_output_bytes': 1000}), 'OUTPUT_TOO_LARGE', retryable=False)
    failed({'kind': 'http', 'url': 'http://127.0.0.1:%d/' % harness.free_port()}, 'AGENT_FAILED',
           'cannot be reached', True)


def test_http_agent_is_tried_again():
    task = run(http('/once', max_attempts=2))
    assert task['output']['data'] == 'ok', task
    keys = {r.headers['idempotency-key'] for r in endpoint.of('/once')}
    assert keys == {task['task_id']}, keys  # the same, so that it can tell


def test_turns_of_programs_belong_to_sessions_too():
    held = env.submit('echo', 'x', session_id='s')
    env.wait_task(held, status='completed')
    assert json.loads(env.execute("select nocturne.state_json('%s')" % held))['messages'][0][
        'role'] == 'user'
