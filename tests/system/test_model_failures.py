"""Every way a model may fail, and answers that are odd but good. A table: what the server does,
and what must become of the turn. `tries` are requests the server saw: the agents here have one
retry of the model call and one attempt of the turn."""
import json
import time

import fakes
import harness
from fakes import DONE, frame, head, of_type, send, submit_all
from harness import wait_until

MARK = b'data: '


class Row:
    def __init__(self, name, script, status='failed', code=None, retryable=None, tries=None,
                 text=None, part='', model=None, check=None, agent=None):
        self.name, self.status, self.code = name, status, code
        self.scripts = script if isinstance(script, list) else [script]
        self.retryable, self.text, self.part = retryable, text, part
        self.tries = tries if tries is not None else 2 if retryable else 1
        self.model, self.check, self.agent = model or {}, check, agent or {}


def good(name, script, text, **kw):
    return Row(name, script, 'completed', text=text, **kw)


def error(status, body=None, kind='application/json', **headers):
    body = body if body is not None else {'error': {'message': 'sorry', 'type': 't', 'code': None}}
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return send(head(status, kind, **headers), body)


def sorry(**error_members):
    return {'error': {'message': 'sorry', **error_members}}


def stall(*pieces):
    """Send this, then nothing more."""
    def script(conn):
        conn.sendall(b''.join(pieces))
        server.open.wait(30)
    return script


def reset(*pieces):
    def script(conn):
        conn.sendall(b''.join(pieces))
        if pieces:
            time.sleep(0.2)  # a RST may overtake what was sent before
        fakes.reset_on_close(conn)
    return script


def drip(conn):
    """Comments for ever: never idle, never done."""
    conn.sendall(head())
    while not server.open.wait(0.1):
        conn.sendall(b': thinking\n\n')


def bytewise(data):
    def script(conn):
        for i in range(len(data)):
            conn.sendall(data[i:i + 1])
    return script


def say(text, **kw):
    return frame({'content': text}, **kw)


def stop(**kw):
    return frame({}, 'stop', **kw)


def pieces(*deltas, finish='tool_calls'):
    """A stream of these deltas."""
    return send(head(), *[frame(d) for d in deltas], frame({}, finish), DONE)


def calls(*items):
    return {'tool_calls': list(items)}


def piece(index=None, ident=None, name=None, arguments=None):
    out = {} if index is None else {'index': index}
    if ident is not None:
        out['id'] = ident
    function = {}
    if name is not None:
        function['name'] = name
    if arguments is not None:
        function['arguments'] = arguments
    out['function'] = function
    return out


ANSWER = fakes.spoken('ok')
LONG = 'x' * 200000


def told(*expected):
    """A check: what the tools got, in order."""
    def check(task):
        events = of_type(env.stored_events(task['task_id']), 'tool.started')
        found = [(e['name'], e['input']) for e in events]
        assert found == list(expected), found
    return check


def no_usage(task):
    assert task['usage']['estimated'] is True, task['usage']
    assert task['usage']['input_tokens'] > 0 and task['usage']['output_tokens'] > 0, task['usage']


def usage(i, o):
    def check(task):
        assert task['usage'] == {'input_tokens': i, 'output_tokens': o}, task['usage']
    return check


def quick(seconds):
    """The retry came at once: a Retry-After of 0 was obeyed."""
    def check(task):
        times = [r.at for r in server.requests[task['agent']]]
        assert times[1] - times[0] < seconds, times
    return check


def waited(seconds):
    def check(task):
        times = [r.at for r in server.requests[task['agent']]]
        assert times[1] - times[0] >= seconds, times
    return check


def reasoning(expected):
    def check(task):
        events = of_type(env.stored_events(task['task_id']), 'reasoning.delta')
        assert ''.join(e['text'] for e in events) == expected, events
    return check


# ---- refusals by status ----

def statuses():
    yield Row('400', error(400), code='MODEL_REJECTED', retryable=False, part='sorry')
    yield Row('401', error(401), code='MODEL_AUTH', retryable=False)
    yield Row('402', error(402), code='QUOTA_EXCEEDED', retryable=False)
    yield Row('403', error(403), code='MODEL_AUTH', retryable=False)
    yield Row('404', error(404), code='MODEL_REJECTED', retryable=False)
    yield Row('408', error(408), code='MODEL_TIMEOUT', retryable=True)
    yield Row('413', error(413), code='MODEL_REJECTED', retryable=False)
    yield Row('422', error(422), code='MODEL_REJECTED', retryable=False)
    yield Row('context', error(400, sorry(code='context_length_exceeded')), code='CONTEXT_OVERFLOW',
              retryable=False)
    yield Row('429', error(429), code='RATE_LIMITED', retryable=True)
    yield good('429-after', [error(429, Retry_After='2'), ANSWER], 'ok', tries=2, check=waited(1.9))
    yield good('429-now', [error(429, Retry_After='0'), ANSWER], 'ok', tries=2, check=quick(0.4))
    yield good('429-ms', [error(429, Retry_After_Ms='700', Retry_After='5'), ANSWER], 'ok', tries=2,
               check=waited(0.69))
    yield Row('429-far', error(429, Retry_After='3600'), code='RATE_LIMITED', retryable=True,
              tries=1)  # too long to hold a slot
    yield Row('429-quota', error(429, sorry(code='insufficient_quota')), code='QUOTA_EXCEEDED',
              retryable=False)
    yield Row('429-type', error(429, sorry(type='insufficient_quota')), code='QUOTA_EXCEEDED',
              retryable=False)
    for status in (500, 502, 503, 504, 529):
        yield Row(str(status), error(status), code='MODEL_UNAVAILABLE', retryable=True)
    yield good('503-once', [error(503), ANSWER], 'ok', tries=2)
    yield Row('redirect', send(head(302, Location='http://127.0.0.1:1/')), code='MODEL_REJECTED',
              retryable=False)
    yield Row('204', send(b'HTTP/1.1 204 No Content\r\n\r\n'), code='MODEL_REJECTED',
              retryable=False)
    yield Row('plain-body', error(500, b'<html>oops</html>', 'text/html'),
              code='MODEL_UNAVAILABLE', retryable=True, part='status 500')
    yield Row('error-text', error(400, {'error': 'just text'}), code='MODEL_REJECTED',
              retryable=False, part='just text')
    yield Row('error-detail', error(422, {'detail': 'in detail'}), code='MODEL_REJECTED',
              retryable=False, part='in detail')
    yield Row('error-array', error(400, [{'error': {'message': 'in a list'}}]),
              code='MODEL_REJECTED', retryable=False, part='in a list')
    yield Row('error-bytes', error(400, b'{"error":{"message":"a\xff\x00b"}}'),
              code='MODEL_REJECTED', retryable=False)
    yield Row('error-long', error(400, sorry(code=None, param='ü' * 9000) |
                                  {'error': {'message': 'ü' * 9000}}),
              code='MODEL_REJECTED', retryable=False)
    yield Row('error-endless', error(500, b'x' * 3000000, 'text/plain'), code='MODEL_UNAVAILABLE',
              retryable=True)


# ---- broken connections and streams ----

def breaks():
    yield Row('reset', reset(), code='MODEL_UNAVAILABLE', retryable=True)
    yield Row('closed', send(b''), code='MODEL_UNAVAILABLE', retryable=True)
    yield Row('no-http', send(b'SSH-2.0-OpenSSH\r\n'), code='MODEL_REJECTED', retryable=False)
    yield Row('half-head', send(b'HTTP/1.1 200 OK\r\nContent-Type: te'), retryable=True)
    yield Row('drop', send(head(), say('one '), say('two')), code='MODEL_TRUNCATED',
              retryable=True, text='one two')
    yield Row('drop-reset', reset(head(), say('one')), code='MODEL_TRUNCATED', retryable=True,
              text='one')
    yield Row('drop-length', send(head(Content_Length='5000'), say('one')),
              code='MODEL_TRUNCATED', retryable=True, text='one')
    yield Row('no-done', send(head(), say('all'), stop()), code='MODEL_TRUNCATED', retryable=True,
              text='all')
    yield good('drop-once', [send(head(), say('lost ')), ANSWER], 'ok', tries=2)
    yield Row('empty-body', send(head()), code='MODEL_TRUNCATED', retryable=True)
    yield Row('garbage', send(head(), say('one'), b'data: {"choices": [\n\n', DONE),
              code='MODEL_GARBAGE', retryable=True, text='one')
    yield Row('no-object', send(head(), b'data: 7\n\n', DONE), code='MODEL_GARBAGE', retryable=True)
    yield Row('html', send(head(kind='text/html'), b'<html><body>Sign in</body></html>'),
              code='MODEL_TRUNCATED', retryable=True)
    yield Row('error-in-stream', send(head(), say('one'), b'data: ' + json.dumps(
        sorry(type='server_error')).encode() + b'\n\n'), code='MODEL_UNAVAILABLE', retryable=True,
        text='one', part='sorry')
    yield Row('overflow-in-stream', send(head(), b'data: ' + json.dumps(
        sorry(code='context_length_exceeded')).encode() + b'\n\n'), code='CONTEXT_OVERFLOW',
        retryable=False)
    yield Row('rate-in-stream', send(head(), b'data: ' + json.dumps(
        sorry(type='rate_limit_error')).encode() + b'\n\n'), code='RATE_LIMITED', retryable=True)
    yield Row('error-word', send(head(), b'data: {"error":"broken"}\n\n'), part='broken',
              code='MODEL_UNAVAILABLE', retryable=True)
    yield Row('huge-line', send(head(), b'data: ' + b'x' * 3000000), code='MODEL_GARBAGE',
              retryable=True, agent={'limits': {'max_output_bytes': 100000}})
    yield Row('too-much', send(head(), *[say('y' * 1000) for _ in range(200)], DONE),
              code='OUTPUT_TOO_LARGE', retryable=False,
              agent={'limits': {'max_output_bytes': 100000}})
    yield Row('no-name', pieces(calls(piece(0, 'c1', None, '{}'))), code='MODEL_GARBAGE',
              retryable=True)
    yield Row('no-byte', stall(), code='MODEL_TIMEOUT', retryable=True, part='first byte',
              model={'timeouts': {'first_byte': '300ms'}})
    yield Row('stall', stall(head(), say('one')), code='MODEL_TIMEOUT', retryable=True, text='one',
              part='next bytes', model={'timeouts': {'idle': '300ms'}})
    yield Row('slow', drip, code='MODEL_TIMEOUT', retryable=True, part='whole answer',
              model={'timeouts': {'total': '500ms'}})
    yield Row('slow-head', stall(b'HTTP/1.1 200 OK\r\n'), code='MODEL_TIMEOUT', retryable=True,
              model={'timeouts': {'first_byte': '300ms', 'idle': '300ms'}})


# ---- odd but good ----

def odd():
    yield good('plain', ANSWER, 'ok')
    yield good('crlf', send(head(), say('a', end='\r\n\r\n'), say('b', end='\r\n\r\n'),
                            stop(end='\r\n\r\n'), b'data: [DONE]\r\n\r\n'), 'ab')
    yield good('cr', send(head(), say('a', end='\r\r'), stop(end='\r\r'), b'data: [DONE]\r\r'), 'a')
    yield good('comments', send(head(), b': PROCESSING\n\n', say('a'), b':\n: x\n\n', say('b'),
                                b'event: ping\ndata: {}\n\n', b'id: 7\nretry: 10\n\n', stop(), DONE),
               'ab')
    yield good('no-space', send(head(), say('a').replace(MARK, b'data:'), stop(), b'data:[DONE]\n\n'),
               'a')
    yield good('no-last-newline', send(head(), say('a'), stop(), b'data: [DONE]'), 'a')
    yield good('no-blank-line', send(head(), say('a'), stop(), b'data: [DONE]\n'), 'a')
    yield good('after-done', send(head(), say('a'), stop(), DONE, b'data: {"error":"late"}\n\n'), 'a')
    yield good('done-then-stall', stall(head(), say('a'), stop(), DONE), 'a',
               model={'timeouts': {'idle': '300ms'}})
    yield good('done-then-reset', reset(head(), say('a'), stop(), DONE), 'a')
    yield good('bytewise', bytewise(head() + say('Grüße 😀') + stop() + DONE), 'Grüße 😀')
    yield good('bom', send(head(), b'\xef\xbb\xbf', say('a'), stop(), DONE), 'a')
    yield good('wrong-type', send(head(kind='application/json'), say('a'), stop(), DONE), 'a')
    yield good('usage', send(head(), say('a'), stop(), frame(usage={
        'prompt_tokens': 11, 'completion_tokens': 3}, choices=[]), DONE), 'a', check=usage(11, 3))
    yield good('usage-early', send(head(), say('a', usage={'prompt_tokens': 1,
               'completion_tokens': 1}), stop(usage={'prompt_tokens': 11, 'completion_tokens': 3}),
               DONE), 'a', check=usage(11, 3))
    yield good('usage-null', send(head(), say('abcd', usage=None), stop(usage=None), DONE), 'abcd',
               check=no_usage)
    yield good('no-usage', ANSWER, 'ok', check=no_usage)
    yield good('choices', send(head(), frame(choices=[
        {'index': 1, 'delta': {'content': 'B'}}, {'index': 0, 'delta': {'content': 'A'}},
        {'index': 2, 'delta': {'content': 'C'}}]), stop(), DONE), 'A')
    yield good('no-choices', send(head(), frame(choices=[]), say('a'), frame(choices=None), stop(),
                                  DONE), 'a')
    yield good('null-delta', send(head(), frame(choices=[{'index': 0, 'delta': None}]),
                                  frame({'content': None, 'role': 'assistant', 'tool_calls': None}),
                                  say('a'), stop(), DONE), 'a')
    yield good('refusal', send(head(), frame({'refusal': 'I must not'}), stop(), DONE), 'I must not')
    yield good('message', send(head(), frame(choices=[{'index': 0, 'finish_reason': 'stop',
               'message': {'role': 'assistant', 'content': 'whole'}}]), DONE), 'whole')
    yield good('reasoning', send(head(), frame({'reasoning': 'hm '}), frame({'reasoning': 'so'}),
                                 say('a'), stop(), DONE), 'a', check=reasoning('hm so'))
    yield good('reasoning-content', send(head(), frame({'reasoning_content': 'hm'}), say('a'),
                                         stop(), DONE), 'a', check=reasoning('hm'))
    yield good('both-reasonings', send(head(), frame({'reasoning_content': 'hm', 'reasoning': 'hm'}),
                                       say('a'), stop(), DONE), 'a', check=reasoning('hm'))
    yield good('no-finish', send(head(), say('a'), DONE), 'a')
    yield Row('length', send(head(), say('cut'), frame({}, 'length'), DONE), 'incomplete',
              text='cut')
    yield good('odd-finish', send(head(), say('a'), frame({}, 'aü' * 100), DONE), 'a')
    yield good('long-line', send(head(), say(LONG), stop(), DONE), LONG)
    yield good('numbers', send(head(), frame({'content': 'a'}, created=1e300, big=10 ** 30), stop(),
                               DONE), 'a')


# ---- bytes no text may hold ----

def bytes_():
    grin = [r'data: {"choices":[{"index":0,"delta":{"content":"a\ud83d"}}]}',
            r'data: {"choices":[{"index":0,"delta":{"content":"\ude00b"}}]}']
    yield good('split-emoji', send(head(), '\n\n'.join(grin).encode(), b'\n\n', stop(), DONE), 'a😀b')
    yield good('split-emoji-reasoning', send(head(), ('\n\n'.join(grin) + '\n\n').replace(
        'content', 'reasoning').encode(), say('x'), stop(), DONE), 'x', check=reasoning('a😀b'))
    one = r'data: {"choices":[{"index":0,"delta":{"tool_calls":[%s]}}]}' + '\n\n'
    yield good('split-emoji-arguments', [send(head(), (
        one % r'{"index":0,"id":"c","function":{"name":"note","arguments":"{\"x\":\"\ud83d"}}' +
        one % r'{"index":1,"id":"d","function":{"name":"note","arguments":"{\"y\":\"\ud83d"}}' +
        one % r'{"index":0,"function":{"arguments":"\ude00\"}"}}' +
        one % r'{"index":1,"function":{"arguments":"\ude01\"}"}}').encode(),
        frame({}, 'tool_calls'), DONE), ANSWER], 'ok', tries=2,
        check=told(('note', {'x': '😀'}), ('note', {'y': '😁'})))
    yield good('whole-emoji', send(head(), say('\ud83d\ude00'.encode('utf-16', 'surrogatepass')
                                               .decode('utf-16')), stop(), DONE), '😀')
    half = r'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}' + '\n\n'
    yield good('lone-high', send(head(), (half % r'a\ud83d').encode(), say('b'), stop(), DONE),
               'a\ufffdb')
    yield good('lone-high-at-end', send(head(), (half % r'a\ud83d').encode(), stop(), DONE),
               'a\ufffd')
    yield good('lone-low', send(head(), (half % r'a\ude00b').encode(), stop(), DONE), 'a\ufffdb')
    yield good('two-highs', send(head(), (half % r'\ud83d\ud83d').encode() +
                                 (half % r'\ude00').encode(), stop(), DONE), '\ufffd😀')
    yield good('lone-high-in-finish', send(head(), say('a'), frame({}, 'HALF').replace(
        b'HALF', rb'\ud83d\u0000'), DONE), 'a')
    yield good('lone-high-in-call', [send(head(), frame(calls(piece(0, 'idHALF', 'HALF', '{}')))
               .replace(b'HALF', rb'\ud83d'), frame({}, 'tool_calls'), DONE), ANSWER], 'ok',
               tries=2, check=told())
    yield good('escaped-backslash', send(head(), (half % r'\\ud83d').encode(), stop(), DONE),
               '\\ud83d')
    yield good('nul-escape', send(head(), (half % r'a\u0000b').encode(), stop(), DONE), 'a\ufffdb')
    yield good('invalid-utf8', send(head(), (half % 'aXb').encode().replace(b'X', b'\xff'), stop(),
                                    DONE), 'a\ufffdb')
    yield good('half-utf8', send(head(), (half % 'aX').encode().replace(b'X', b'\xf0\x9f'), stop(),
                                 DONE), 'a\ufffd\ufffd')
    yield good('nul-byte', send(head(), (half % 'aXb').encode().replace(b'X', b'\0'), stop(), DONE),
               'a\ufffdb')
    yield good('controls', send(head(), say('\x01\x1f\x7f\u0085\u2028'), stop(), DONE),
               '\x01\x1f\x7f\u0085\u2028')


# ---- tool calls ----

def tools():
    note = ('note', {'x': 1})
    yield good('call-whole', [pieces(calls(piece(0, 'c1', 'note', '{"x":1}'))), ANSWER], 'ok',
               tries=2, check=told(note))
    yield good('call-stop', [pieces(calls(piece(0, 'c1', 'note', '{"x":1}')), finish='stop'),
                             ANSWER], 'ok', tries=2, check=told(note))
    yield good('call-pieces', [pieces(calls(piece(0, 'c1', 'note', '')), calls(piece(0, None, None,
               '{"x"')), calls(piece(0, None, None, ':1}'))), ANSWER], 'ok', tries=2,
               check=told(note))
    yield good('call-null-members', [pieces(
        {'tool_calls': [{'index': 0, 'id': 'c1', 'type': 'function',
                         'function': {'name': 'note', 'arguments': None}}]},
        {'tool_calls': [{'index': 0, 'id': None, 'function': {'name': None,
                                                              'arguments': '{"x":1}'}}]}),
        ANSWER], 'ok', tries=2, check=told(note))
    yield good('call-no-index', [pieces(calls(piece(None, 'c1', 'note', '{"x":1}')),
                                        calls(piece(None, 'c2', 'note', '{"x":2}'))), ANSWER], 'ok',
               tries=2, check=told(note, ('note', {'x': 2})))
    yield good('call-no-index-pieces', [pieces(
        calls(piece(None, 'c1', 'note', '{"x"')), calls(piece(None, None, None, ':1}')),
        calls(piece(None, 'c2', 'note', '{"x":')), calls(piece(None, 'c2', None, '2}'))), ANSWER],
        'ok', tries=2, check=told(note, ('note', {'x': 2})))
    yield good('call-no-index-no-id', [pieces(calls(
        piece(None, None, 'note', '{"x":1}'), piece(None, '', 'note', '{"x":2}'))), ANSWER], 'ok',
        tries=2, check=told(note, ('note', {'x': 2})))
    yield good('call-same-index', [pieces(calls(piece(0, 'c1', 'note', '{"x":1}')),
                                          calls(piece(0, 'c2', 'note', '{"x":2}'))), ANSWER], 'ok',
               tries=2, check=told(note, ('note', {'x': 2})))
    yield good('call-interleaved', [pieces(
        calls(piece(0, 'c1', 'note', '{"x"'), piece(1, 'c2', 'note', '{"x"')),
        calls(piece(1, None, None, ':2}'), piece(0, None, None, ':1}'))), ANSWER], 'ok', tries=2,
        check=told(note, ('note', {'x': 2})))
    yield good('call-no-id', [pieces(calls(piece(0, None, 'note', '{"x":1}'))), ANSWER], 'ok',
               tries=2, check=told(note))
    yield good('call-empty-id', [pieces(calls(piece(0, '', 'note', '{"x":1}'),
                                              piece(1, '', 'note', '{"x":2}'))), ANSWER], 'ok',
               tries=2, check=told(note, ('note', {'x': 2})))
    yield good('call-same-id', [pieces(calls(piece(0, 'c', 'note', '{"x":1}'),
                                             piece(1, 'c', 'note', '{"x":2}'))), ANSWER], 'ok',
               tries=2, check=told(note, ('note', {'x': 2})))
    yield good('call-object', [pieces(calls(piece(0, 'c1', 'note', {'x': 1}))), ANSWER], 'ok',
               tries=2, check=told(note))
    yield good('call-no-arguments', [pieces(calls(piece(0, 'c1', 'note'))), ANSWER], 'ok', tries=2,
               check=told(('note', {})))
    yield good('call-gap', [pieces(calls(piece(3, 'c1', 'note', '{"x":1}'))), ANSWER], 'ok',
               tries=2, check=told(note))
    yield good('call-long-id', [pieces(calls(piece(0, 'i' * 5000, 'note', '{"x":1}'))), ANSWER],
               'ok', tries=2, check=told(note))
    yield good('call-wild-name', [pieces(calls(piece(0, 'c1', 'n"\n\x01😀' + 'x' * 3000, '{}'))),
                                  ANSWER], 'ok', tries=2, check=told())
    yield good('call-bad-arguments', [pieces(calls(piece(0, 'c1', 'note', '{"x":'))), ANSWER], 'ok',
               tries=2, check=told())
    yield good('call-nul-arguments', [pieces(calls(piece(0, 'c1', 'note', '{"x":"a\\u0000"}'))),
                                      ANSWER], 'ok', tries=2, check=told())
    yield Row('call-many', pieces(calls(*[piece(i, 'c%d' % i, 'note', '{}') for i in range(129)])),
              code='OUTPUT_TOO_LARGE', retryable=False)
    yield good('call-not-a-list', send(head(), frame({'tool_calls': 'x'}), frame({'tool_calls': {}}),
                                       say('ok'), stop(), DONE), 'ok', check=told())


def setup():
    global env, server, tasks, refused_port
    env, server = harness.Env(), fakes.RawServer()
    tasks = {}
    env.worker(poll='20ms', slots=500, env={'MODEL_KEY': 'sk-test'})
    rows = [r for table in (statuses, breaks, odd, bytes_, tools) for r in table()]
    assert len({r.name for r in rows}) == len(rows)
    definitions = {}
    for row in rows:
        server.scripts[row.name] = row.scripts
        definitions[row.name] = definition(server.url(row.name), row)
    definitions['refused'] = definition('http://127.0.0.1:%d/v1' % harness.free_port())
    definitions['no-host'] = definition('http://does-not-exist.invalid/v1')
    definitions['key'] = definition(server.url('key'), Row('', ANSWER, model={
        'api_key_env': 'MODEL_KEY', 'options': {'temperature': 0.5, 'stop': ['END']}}))
    server.scripts['key'] = [ANSWER]
    put_all(definitions)
    ids = submit_all(env, [(name, 'hello') for name in definitions])
    tasks.update(zip(definitions, ids))


def put_all(definitions):
    literal = harness.literal
    env.execute("select * from nocturne.agent_apply('default', %s, %s, %s, %s)" % (
        literal(list(definitions)), literal([json.dumps(d) for d in definitions.values()]),
        literal(['server'] * len(definitions)), literal([1] * len(definitions))))


def definition(url, row=None):
    model = {'provider': 'openai', 'base_url': url, 'name': 'm', 'retries': 1}
    model.update(row.model if row else {})
    return {'kind': 'llm', 'model': model, 'max_attempts': 1, 'tools': [
        {'type': 'process', 'name': 'note', 'command': ['cat']}], **(row.agent if row else {})}


def teardown():
    server.close()
    env.check_invariants()


def judge(row):
    task = env.wait_task(tasks[row.name], timeout=60)
    events = env.stored_events(task['task_id'])
    assert task['status'] == row.status, task
    if row.code:
        assert task['error']['code'] == row.code, task['error']
    if row.status == 'failed':
        assert task['error']['retryable'] is row.retryable, task['error']
        assert row.part in task['error']['message'], task['error']
    assert server.count(row.name) == row.tries, (server.count(row.name), task)
    assert len(task['attempts']) == 1, task
    if row.text is not None:
        said = fakes.text_of(events)
        assert said == row.text, (said[:500], row.text[:500])
        if row.status != 'failed':
            assert task['output']['text'] == row.text, task['output']
    if row.tries == 2 and row.status == 'failed' and row.text:
        assert len(of_type(events, 'reset')) == 1, events  # the first try is void
    if row.check:
        row.check(task)


def check_table(table):
    problems = []
    for row in table():
        try:
            judge(row)
        except AssertionError as e:
            problems.append('%s: %s' % (row.name, str(e)[:700]))
    assert not problems, '\n'.join(problems)


def test_statuses():
    check_table(statuses)


def test_broken_connections_and_streams():
    check_table(breaks)


def test_odd_answers_that_are_good():
    check_table(odd)


def test_bytes_no_text_may_hold():
    check_table(bytes_)


def test_tool_calls_however_they_are_spelled():
    check_table(tools)


def test_nobody_listens():
    task = env.wait_task(tasks['refused'], status='failed')
    assert task['error']['code'] == 'MODEL_UNAVAILABLE' and task['error']['retryable'], task


def test_no_such_host():
    task = env.wait_task(tasks['no-host'], status='failed')
    assert task['error']['code'] == 'MODEL_UNAVAILABLE' and task['error']['retryable'], task


def test_the_request_is_as_openai_has_it():
    env.wait_task(tasks['key'], status='completed')
    request, = server.requests['key']
    assert request.method == 'POST' and request.path == '/key/v1/chat/completions', request.path
    assert request.headers['authorization'] == 'Bearer sk-test', request.headers
    assert request.headers['content-type'] == 'application/json', request.headers
    assert 'expect' not in request.headers, request.headers
    body = request.json
    assert body['stream'] is True and body['stream_options'] == {'include_usage': True}, body
    assert body['model'] == 'm' and body['temperature'] == 0.5 and body['stop'] == ['END'], body
    assert body['messages'] == [{'role': 'user', 'content': 'hello'}], body
    assert body['tools'][0]['function']['name'] == 'note', body['tools']


def test_every_model_call_was_closed():
    """No connection is left open once all turns have ended."""
    for task_id in tasks.values():
        env.wait_task(task_id, timeout=60)
    pid = next(p.pid for p in env.processes if p.name.startswith('nocturne-worker'))
    wait_until(lambda: len(env.stored_events(tasks['plain'])) > 0 and sockets(pid) < 20, 10,
               'idle connections only')


def sockets(pid):
    """How many connections of the process reach the scripted server."""
    with open('/proc/%d/net/tcp' % pid) as f:
        remote = ':%04X' % server.port
        return sum(1 for line in f if line.split()[2].endswith(remote) and line.split()[3] == '01')
