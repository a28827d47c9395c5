"""Settings of the Genkit wire, and what its clients must not be told; the rest is in tests/wire."""
import json
import socket
import time

import harness

# Says much at once, and ends when all of that has long been read.
BURST = """import json, sys, time
sys.stdin.read()
for i in range(24):
    print(json.dumps({'chunk': 'x' * 500000}), flush=True)
time.sleep(3)
print(json.dumps({'result': 'end'}), flush=True)
"""


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms')
    env.api()
    env.llm_agent('a')
    env.llm_agent('posts', [{'type': 'http', 'name': 'post', 'timeout': '5s',
                             'url': 'http://tool.internal.invalid:9/x'}], on_tool_error='fail')
    env.put_agent('nobody', {'kind': 'llm', 'max_attempts': 1, 'model': {
        'provider': 'openai', 'name': 'm', 'retries': 0,
        'base_url': 'http://model.internal.invalid:9/v1'}})
    env.put_agent('flow', {'kind': 'http', 'url': 'http://flow.internal.invalid:9/x',
                           'max_attempts': 1})
    env.put_agent('burst', {'kind': 'process', 'command': ['/usr/bin/python3', '-c', BURST],
                            'max_attempts': 1, 'timeout': '60s'})


def teardown():
    env.check_invariants()


def body(text, **data):
    return {'data': {'message': {'role': 'user', 'content': [{'text': text}]}, **data}, 'init': {}}


def said(answer):
    return answer.ok(200).json['result']['message']['content'][0]['text']


def test_the_prefix_is_a_setting():
    plain = env.http
    env.api(genkit_prefix='/api/v2')
    moved = env.http
    env.api(genkit_prefix='')
    bare = env.http
    env.http = plain
    assert said(plain.post('/genkit/a', body('say here'))) == 'here'
    assert said(moved.post('/api/v2/a', body('say there'))) == 'there'
    result = moved.post('/api/v2/a', body('say more')).ok(200).json['result']
    found = moved.post('/api/v2/a/getSnapshot', {'data': {'snapshotId': result['snapshotId']}})
    assert found.ok(200).json['result']['status'] == 'completed'
    for http, path in ((plain, '/api/v2/a'), (moved, '/genkit/a'), (moved, '/api/a'),
                       (moved, '/api/v2'), (bare, '/genkit/a'), (bare, '/a')):
        assert http.post(path, body('say x')).status == 404, path
    moved.get('/v1/tasks').ok(200)


def test_waiting_for_a_snapshot_has_a_limit():
    plain = env.http
    env.api(genkit_wait='500ms')
    short, env.http = env.http, plain
    task = short.post('/genkit/a', body('gate later then say done', detach=True)
                      ).ok(200).json['result']['snapshotId']
    started = time.monotonic()
    found = short.post('/genkit/a/waitForSnapshot', {'data': {'snapshotId': task}}).ok(200).json
    assert time.monotonic() - started >= 0.5
    assert found['result']['status'] == 'pending', found
    env.sim.open_gate('later')
    found = plain.post('/genkit/a/waitForSnapshot', {'data': {'snapshotId': task}}).ok(200).json
    assert found['result']['status'] == 'completed', found


def test_names_of_hosts_stay_inside():
    rows = [('nobody', 'say x', 'UNAVAILABLE'), ('posts', 'call post {} then say x', 'UNAVAILABLE'),
            ('flow', None, 'INTERNAL')]
    for agent, text, status in rows:
        asked = body(text) if text else {'data': {'n': 1}}
        for accept in ('application/json', 'text/event-stream'):
            answer = env.http.post('/genkit/' + agent, asked, headers={'Accept': accept})
            assert status in answer.text, answer
            assert 'internal.invalid' not in answer.text, answer
        for task in env.http.get('/v1/tasks?limit=20&agent=' + agent).json['tasks']:
            if agent != 'nobody':  # its operator may know; a tool's failure is shown to the model
                assert 'internal.invalid' not in str(task), task


def test_a_reader_that_was_slow_gets_the_end_when_that_comes_alone():
    asked = json.dumps({'data': {}}).encode()
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(30)
        s.connect((env.http.host, env.http.port))
        s.sendall(b'POST /genkit/burst HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n'
                  b'Content-Type: application/json\r\nConnection: close\r\n'
                  b'Content-Length: %d\r\n\r\n%s' % (len(asked), asked))
        time.sleep(1)  # slow, on purpose: the api's queue fills
        tail, size = b'', 0
        while True:
            data = s.recv(1 << 16)
            if not data:
                break
            size += len(data)
            tail = (tail + data)[-200:]
    assert size > 24 * 500000, size
    assert b'data: {"result":"end"}' in tail and tail.endswith(b'0\r\n\r\n'), tail
