"""What is wrong is refused with its documented error, by all parts under the sanitizers: requests
that are no HTTP, requests that are no requests of ours, definitions, resumes, and model answers.
Each row is one input; afterwards every daemon is alive, clean, and answers as before."""
import json
import socket

import fakes
import harness
from fakes import DONE, frame, head, resume, send

MISSING = '01a00000-0000-7000-8000-000000000000'
KEEP = object()


def setup():
    global env, server
    env, server = harness.Env(), fakes.RawServer()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms')
    env.api()
    env.llm_agent('a', [{'type': 'interrupt', 'name': 'ask'}])


def teardown():
    server.close()
    assert all(p.alive for p in env.processes), [p for p in env.processes if not p.alive]
    task = env.wait_task(env.submit('a', 'say fine'), status='completed')
    assert task['output']['text'] == 'fine', task
    env.check_invariants()


def check_rows(rows, judge):
    problems = []
    for row in rows:
        try:
            judge(*row)
        except (AssertionError, OSError, ValueError) as e:
            problems.append('%.150r: %s' % (row, str(e)[:500]))
    assert not problems, '\n'.join(problems)
    assert all(p.alive for p in env.processes), 'a daemon has died'


# ---- bytes that are no HTTP ----

def exchange(data):
    """All that the server sends until it closes the connection."""
    with socket.create_connection((env.http.host, env.http.port), timeout=10) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        got = b''
        while True:
            piece = s.recv(65536)
            if not piece:
                return got
            got += piece


def request(line, *headers, body=b''):
    text = '\r\n'.join([line, *headers]) + '\r\n\r\n'
    return (text.encode('latin-1') if isinstance(text, str) else text) + body


def post(*headers, body=b'{"input":"x"}', path='/v1/agents/a/tasks'):
    return request('POST %s HTTP/1.1' % path, 'Host: x', 'Content-Type: application/json', *headers,
                   body=body)


RAW = [
    (b'\r\n\r\nGARBAGE\r\n\r\n', 400, 'INVALID_REQUEST'),
    (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03' + b'\0' * 50, 400, 'INVALID_REQUEST'),  # TLS
    (b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', (400, 405, 505), None),
    (request('GET /healthz'), 400, 'INVALID_REQUEST'),
    (request('GET /healthz HTTP/1.1'), 400, 'INVALID_REQUEST'),  # no Host
    (request('GET /healthz HTTP/1.1', 'Host: x', 'Host: y'), 400, 'INVALID_REQUEST'),
    (request('GET /healthz HTTP/3.1', 'Host: x'), (400, 505), None),
    (request('GE\x01T /healthz HTTP/1.1', 'Host: x'), 400, 'INVALID_REQUEST'),
    (request('FETCH /healthz HTTP/1.1', 'Host: x'), (400, 405, 501), None),
    (request('get /healthz HTTP/1.1', 'Host: x'), (400, 405, 501), None),
    (request('GET healthz HTTP/1.1', 'Host: x'), 400, 'INVALID_REQUEST'),
    (request('GET /a b HTTP/1.1', 'Host: x'), 400, 'INVALID_REQUEST'),
    (request('GET /\x00 HTTP/1.1', 'Host: x'), 400, 'INVALID_REQUEST'),
    (request('GET /%zz HTTP/1.1', 'Host: x'), 400, 'INVALID_REQUEST'),
    (request('GET /v1/tasks/%00 HTTP/1.1', 'Host: x'), (400, 404), None),
    (request('GET /v1/tasks/%ff HTTP/1.1', 'Host: x'), (400, 404), None),
    (request('GET /v1/tasks?limit=%f HTTP/1.1', 'Host: x'), 400, 'INVALID_REQUEST'),
    (request('GET /healthz HTTP/1.1', 'Host: x', 'A b: c'), 400, 'INVALID_REQUEST'),
    (request('GET /healthz HTTP/1.1', 'Host: x', 'A: b\x00c'), 400, 'INVALID_REQUEST'),
    (request('GET /healthz HTTP/1.1', 'Host: x', ' folded: c'), 400, 'INVALID_REQUEST'),
    (request('GET /healthz HTTP/1.1', 'Host: x', 'A: ' + 'b' * 100000), 431, 'HEADERS_TOO_LARGE'),
    (request('GET /healthz HTTP/1.1', 'Host: x', *['A%d: b' % i for i in range(5000)]), 431,
     'HEADERS_TOO_LARGE'),
    (request('GET /' + 'a' * 100000 + ' HTTP/1.1', 'Host: x'), (414, 431), None),
    (post('Content-Length: -1'), 400, 'INVALID_REQUEST'),
    (post('Content-Length: 1e1'), 400, 'INVALID_REQUEST'),
    (post('Content-Length: 99999999999999999999'), (400, 413), None),
    (post('Content-Length: 13', 'Content-Length: 14'), 400, 'INVALID_REQUEST'),
    (post('Content-Length: 13', 'Transfer-Encoding: chunked'), 400, 'INVALID_REQUEST'),
    (post('Transfer-Encoding: gzip'), (400, 501), None),
    (post('Transfer-Encoding: chunked', body=b'zz\r\n{}\r\n0\r\n\r\n'), 400, 'INVALID_REQUEST'),
    (post('Transfer-Encoding: chunked', body=b'ffffffffffffffffff\r\n{}'), (400, 413), None),
    (post('Transfer-Encoding: chunked', body=b'2\r\n{}XX0\r\n\r\n'), 400, 'INVALID_REQUEST'),
    (post('Content-Length: 999999999'), 413, 'PAYLOAD_TOO_LARGE'),
    (post('Content-Length: 13', 'Expect: magic'), 417, 'EXPECTATION_FAILED'),
]


def judge_raw(data, status, code):
    got = exchange(data)
    first, _, body = got.partition(b'\r\n\r\n')
    assert first.startswith(b'HTTP/1.1 '), got[:200]
    found = int(first.split()[1])
    assert found in (status if isinstance(status, tuple) else (status,)), got[:300]
    if code and found != 431:
        assert json.loads(body)['code'] == code, body


def test_bytes_that_are_no_http():
    check_rows(RAW, judge_raw)


def test_a_request_that_ends_in_the_middle_leaves_nothing_behind():
    whole = post('Content-Length: 13', 'Connection: close')
    for cut in range(0, len(whole) - 1, 7):
        with socket.create_connection((env.http.host, env.http.port), timeout=10) as s:
            s.sendall(whole[:cut])
    assert exchange(whole).startswith(b'HTTP/1.1 202')


# ---- requests that are none of ours ----

def body(text, status=400, code='INVALID_REQUEST', pointers=None, path='/v1/agents/a/tasks',
         method='POST', headers=None):
    return method, path, text, status, code, pointers, headers


def requests():
    yield body('', 400)
    yield body('{')
    yield body('null')
    yield body('[]')
    yield body('{"input":"x"} {}')
    yield body('{"input":"x",}')
    yield body("{'input':'x'}")
    yield body('{"input":"\\ud83d"}')
    yield body('{"input":"\\u0000"}')
    yield body(b'{"input":"\xff"}')
    yield body('{"input":09}')
    yield body('{"input":NaN}')
    yield body('{"input":"a\tb"}')
    yield body('[' * 100000)
    yield body('{"a":' * 5000 + '1' + '}' * 5000)
    yield body('{}', pointers={'/input'})
    yield body('{"input":"x","more":1}', pointers={'/more'})
    yield body('{"input":"x","session_id":5}', pointers={'/session_id'})
    yield body('{"input":"x","session_id":"a b"}', pointers={'/session_id'})
    yield body('{"input":"x","snapshot_id":"nope"}', pointers={'/snapshot_id'})
    yield body('{"input":"x","priority":-1,"max_attempts":0}', pointers={'/priority', '/max_attempts'})
    yield body('{"input":"x","priority":1e99}', pointers={'/priority'})
    yield body('{"input":"x","metadata":"no"}', pointers={'/metadata'})
    yield body('{"input":"x","run_at":"tomorrow","deadline":"9999999d"}',
               pointers={'/run_at', '/deadline'})
    yield body('{"input":"x","snapshot_id":"%s"}' % MISSING, 404, 'NOT_FOUND')
    yield body('{"input":"x"}', 404, 'NOT_FOUND', path='/v1/agents/nobody/tasks')
    yield body('{"input":"x"}', 404, 'NOT_FOUND', path='/v1/agents/%2e%2e/tasks')
    yield body('{"input":"x"}', 404, 'NOT_FOUND', path='/v1/agents/' + 'a' * 3000 + '/tasks')
    yield body('{"input":"x"}', 415, 'UNSUPPORTED_MEDIA_TYPE', headers={'Content-Type': 'text/xml'})
    yield body('{"input":"x"}', headers={'Idempotency-Key': ''})
    yield body('{"input":"x"}', headers={'Idempotency-Key': 'k' * 300})
    yield body('{"input":"x"}', headers={'Idempotency-Key': 'caf\xe9'})
    yield body('{"input":"x"}', headers={'Idempotency-Key': '"open'})
    yield body('{"reason":5}', pointers={'/reason'}, path='/v1/tasks/%s/abort' % MISSING)
    yield body('{"why":"x"}', pointers={'/why'}, path='/v1/tasks/%s/abort' % MISSING)
    yield body('{}', 404, 'NOT_FOUND', path='/v1/tasks/%s/abort' % MISSING)
    yield body('{}', 404, 'NOT_FOUND', path='/v1/tasks/nope/abort')
    yield body('{}', path='/v1/tasks/%s/resume' % MISSING)
    yield body('{"respond":{}}', pointers={'/respond'}, path='/v1/tasks/%s/resume' % MISSING)
    yield body('{"respond":[{"output":1}]}', pointers={'/respond/0/name'},
               path='/v1/tasks/%s/resume' % MISSING)
    yield body('{"respond":[{"name":"x"}]}', pointers={'/respond/0/output'},
               path='/v1/tasks/%s/resume' % MISSING)
    yield body('{"restart":[{"name":"x","output":1}]}', pointers={'/restart/0/output'},
               path='/v1/tasks/%s/resume' % MISSING)
    yield body('{"respond":[{"name":"x","output":1}]}', 404, 'NOT_FOUND',
               path='/v1/tasks/%s/resume' % MISSING)
    for path in ('/v1/tasks?limit=0', '/v1/tasks?limit=201', '/v1/tasks?limit=x',
                 '/v1/tasks?status=lost', '/v1/tasks?before=x', '/v1/tasks?unknown=1',
                 '/v1/tasks?limit=1&limit=2', '/v1/tasks/%s?wait=1' % MISSING,
                 '/v1/tasks/%s?wait=-1s' % MISSING, '/v1/tasks/%s?wait=1h' % MISSING,
                 '/v1/tasks/%s/events?after=-1' % MISSING,
                 '/v1/tasks/%s/events?format=xml' % MISSING, '/v1/agents?limit=%00',
                 '/v1/sessions/%s/snapshots?before=1' % MISSING):
        yield body(None, path=path, method='GET')
    for path in ('/v1/tasks/' + MISSING, '/v1/tasks/nope', '/v1/tasks/%s/events' % MISSING,
                 '/v1/agents/nobody', '/v1/sessions/none', '/v1/snapshots/' + MISSING,
                 '/v1/snapshots/x', '/v1/nothing', '/', '/v1/tasks/%s/steal' % MISSING,
                 '/v1/tasks/' + 'f' * 5000, "/v1/sessions/';drop table task;--".replace(' ', '%20')):
        yield body(None, 404, 'NOT_FOUND', path=path, method='GET')
    for method, path in (('DELETE', '/v1/tasks/' + MISSING), ('PUT', '/v1/tasks'),
                         ('GET', '/v1/agents/a/tasks'), ('PATCH', '/v1/agents/a'),
                         ('POST', '/healthz')):
        yield body(None, 405, 'METHOD_NOT_ALLOWED', path=path, method=method)


def judge_request(method, path, text, status, code, pointers, headers):
    headers = {'Content-Type': 'application/json', **(headers or {})}
    problem = env.http.request(method, path, text, headers=headers).problem(status, code)
    assert problem['detail'] and problem['request_id'], problem
    if pointers is not None:
        assert {e['pointer'] for e in problem['errors']} == pointers, problem


def test_requests_that_are_refused():
    rows = list(requests())
    assert len(rows) >= 60, len(rows)
    check_rows(rows, judge_request)


def test_a_body_over_the_limit_is_refused_while_it_comes():
    big = b'{"input":"' + b'x' * 20000000 + b'"}'
    try:
        env.http.post('/v1/agents/a/tasks', big, headers={
            'Content-Type': 'application/json'}).problem(413, 'PAYLOAD_TOO_LARGE')
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before it was sent: it need not wait for the rest


# ---- definitions ----

MODEL = {'provider': 'openai', 'base_url': 'http://127.0.0.1:1/v1', 'name': 'm'}


def llm(**more):
    return {'kind': 'llm', 'model': MODEL, **more}


def tool(**more):
    return llm(tools=[{'type': 'process', 'name': 't', 'command': ['x'], **more}])


DEFINITIONS = [
    ([], {''}), ({}, {'/kind'}), ({'kind': 'magic'}, {'/kind'}), ({'kind': 5}, {'/kind'}),
    ({'kind': 'llm'}, {'/model'}), ({'kind': 'echo', 'model': MODEL}, {'/model'}),
    (llm(state='both'), {'/state'}), (llm(max_attempts=0), {'/max_attempts'}),
    (llm(limits={'max_steps': 0}), {'/limits/max_steps'}),
    (llm(limits={'timeout': '5'}), {'/limits/timeout'}),
    (llm(limits={'more': 1}), {'/limits/more'}),
    ({'kind': 'llm', 'model': {**MODEL, 'provider': 'x'}}, {'/model/provider'}),
    ({'kind': 'llm', 'model': {**MODEL, 'base_url': 'ftp://x'}}, {'/model/base_url'}),
    ({'kind': 'llm', 'model': {**MODEL, 'api_key_env': 'sk-123'}}, {'/model/api_key_env'}),
    ({'kind': 'llm', 'model': {**MODEL, 'options': {'stream': False}}}, {'/model/options/stream'}),
    ({'kind': 'process', 'command': []}, {'/command'}),
    ({'kind': 'process', 'command': ['x', 5]}, {'/command/1'}),
    ({'kind': 'process', 'command': ['x'], 'env': {'NOCTURNE_X': '1'}}, {'/env/NOCTURNE_X'}),
    ({'kind': 'http', 'url': 'http://u:p@x/'}, {'/url'}),
    ({'kind': 'http', 'url': 'http://x/', 'headers': {'A': 'b\r\nC: d'}}, {'/headers/A'}),
    (tool(name='a b'), {'/tools/0/name'}), (tool(type='magic'), {'/tools/0/type'}),
    (tool(parameters={'type': 'array'}), {'/tools/0/parameters/type'}),
    (tool(parameters={'type': 'object', 'required': 'x'}), {'/tools/0/parameters/required'}),
    (tool(timeout='0s'), {'/tools/0/timeout'}), (tool(url='http://x/'), {'/tools/0/url'}),
    (llm(tools=[{'type': 'state', 'name': 's'}, {'type': 'interrupt', 'name': 's'}]),
     {'/tools/1/name'}),
    (llm(tools='x'), {'/tools'}), (llm(**{'a/b~c': 1}), {'/a~1b~0c'}),
]


def judge_definition(definition, pointers):
    problem = env.http.put('/v1/agents/bad', definition).problem(400, 'INVALID_REQUEST')
    assert {e['pointer'] for e in problem['errors']} == pointers, problem
    env.http.get('/v1/agents/bad').problem(404, 'NOT_FOUND')


def test_definitions_that_are_refused():
    check_rows(DEFINITIONS, judge_definition)


# ---- answers of models and of people ----

def model_rows():
    yield 'garbage', send(head(), b'data: {oops\n\n'), 'MODEL_GARBAGE'
    yield 'number', send(head(), b'data: 1\n\n'), 'MODEL_GARBAGE'
    yield 'deep', send(head(), b'data: ' + b'[' * 50000 + b'\n\n'), 'MODEL_GARBAGE'
    yield 'nothing', send(b''), 'MODEL_UNAVAILABLE'
    yield 'zeros', send(b'\0' * 10000), 'MODEL_REJECTED'
    yield 'bad-chunk', send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n'), None
    yield 'bad-length', send(b'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n'), None
    yield 'endless-head', send(b'HTTP/1.1 200 OK\r\n' + b'A: b\r\n' * 500000), None
    yield 'gzip', send(head(Content_Encoding='gzip'), b'\x1f\x8b\x08\0' + b'\xff' * 500), \
        'MODEL_TRUNCATED'
    yield 'types', send(head(), frame(choices='x'), frame(choices=[5, 'x', None, []]),
                        frame(choices=[{'delta': 'x', 'index': 'y', 'finish_reason': 5}]),
                        frame({'content': {'a': 1}, 'tool_calls': [{'function': 'x', 'index': {}}]}),
                        frame(usage='x', choices=[]), DONE), 'MODEL_GARBAGE'
    yield 'nameless', send(head(), frame({'tool_calls': [{}]}), DONE), 'MODEL_GARBAGE'
    yield 'usage', send(head(), frame(usage={'prompt_tokens': -1e308, 'completion_tokens': 1e308},
                                      choices=[]), DONE), KEEP


def judge_model(name, script, code):
    server.scripts[name] = [script]
    env.put_agent(name, {'kind': 'llm', 'max_attempts': 1, 'model': {
        **MODEL, 'base_url': server.url(name), 'retries': 0}})
    task = env.wait_task(env.submit(name, 'hi'), 30, 'completed' if code is KEEP else 'failed')
    if isinstance(code, str):
        assert task['error']['code'] == code, task['error']


def test_model_answers_that_are_refused():
    check_rows(list(model_rows()), judge_model)


def test_answers_of_people_that_are_refused():
    task = env.wait_task(env.submit('a', 'call ask {"q":1} then say {{tool}}'))
    path = '/v1/tasks/%s/resume' % task['task_id']
    for bad in ({}, {'respond': []}, {'respond': [5]}, {'respond': [{'name': '', 'output': 1}]},
                {'respond': [{'name': 'ask', 'output': 1, 'x': 1}]}, {'more': []}):
        env.http.post(path, bad).problem(400, 'INVALID_REQUEST')
    after = resume(env, task['task_id'], respond=[{'name': 'ask', 'output': 'yes'}])
    assert env.wait_task(after)['output']['text'] == 'yes'
    env.http.post(path, {'respond': [{'name': 'ask', 'output': 1}]}).problem(409, 'CONFLICT')
    env.http.post('/v1/tasks/%s/resume' % after, {'respond': [{'name': 'ask', 'output': 1}]}
                  ).problem(409, 'CONFLICT')


def test_inputs_an_agent_cannot_take_fail_the_turn():
    for value in (None, 5, [], {}, {'message': {'role': 'model', 'content': 'x'}}):
        task = env.wait_task(env.submit('a', value), status='failed')
        assert task['error']['code'] == 'INVALID_INPUT', task
