"""What a worker talks to, made by the test itself: an HTTP endpoint for tools and agents, and a
TCP server that sends any bytes, for the shapes that modelsim is too well-behaved to send. Also
short ways to say what most tests of the worker say."""
import http.server
import json
import os
import socket
import struct
import tempfile
import threading
import time

from harness import literal

# A worker whose death is noticed soon.
QUICK = {'poll': '50ms', 'beat-every': '300ms', 'beat-ttl': '1s'}
TOOL_EVENTS = ('tool.started', 'tool.result', 'tool.error', 'interrupt')


class Request:
    def __init__(self, method, path, headers, body):
        self.method, self.path, self.body, self.at = method, path, body, time.monotonic()
        self.headers = {k.lower(): v for k, v in headers.items()}

    @property
    def json(self):
        return json.loads(self.body)


class Endpoint:
    """HTTP on a port of its own. `answers`: path -> function(request) that returns what to answer
    as (status, body) or (status, body, headers); body bytes, str or anything for JSON."""

    def __init__(self):
        self.answers, self.requests = {}, []
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
                request = Request(self.command, self.path, self.headers, body)
                endpoint.requests.append(request)
                answer = endpoint.answers[self.path](request)
                status, body, headers = (tuple(answer) + ({},))[:3]
                if not isinstance(body, (bytes, str)):
                    body = json.dumps(body)
                body = body.encode() if isinstance(body, str) else body
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header('Content-Length', str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # it did not wait for the answer, which some tests want

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.url = 'http://127.0.0.1:%d' % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, path):
        return [r for r in self.requests if r.path == path]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def reset_on_close(conn):
    """Its close() becomes a RST."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))


class RawServer:
    """A TCP server that speaks HTTP by hand. Each of its `scripts`, by name, is a list of
    functions(conn): the n-th request to /NAME/... is answered by the n-th, later ones by the
    last. The connection is closed when the function returns. `requests`: name -> [Request]."""

    def __init__(self):
        self.scripts, self.requests, self.lock = {}, {}, threading.Lock()
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.open = threading.Event()  # set at the end: those that stall go on
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, name):
        return 'http://127.0.0.1:%d/%s/v1' % (self.port, name)

    def count(self, name):
        return len(self.requests.get(name, ()))

    def _accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        try:
            conn.settimeout(60)
            request = read_request(conn)
            if request is None:
                return
            name = request.path.split('/')[1]
            with self.lock:
                seen = self.requests.setdefault(name, [])
                seen.append(request)
                script = self.scripts[name][min(len(seen), len(self.scripts[name])) - 1]
            script(conn)
        except OSError:
            pass  # the worker hung up
        finally:
            conn.close()

    def close(self):
        self.open.set()
        self.listener.close()


def read_request(conn):
    data = b''
    while b'\r\n\r\n' not in data:
        piece = conn.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b'\r\n\r\n')
    lines = head.decode('latin-1').split('\r\n')
    headers = dict(line.split(': ', 1) for line in lines[1:] if ': ' in line)
    length = int(headers.get('Content-Length', 0))
    while len(body) < length:
        piece = conn.recv(65536)
        if not piece:
            return None
        body += piece
    method, path, _ = lines[0].split(' ')
    return Request(method, path, headers, body)


def head(status=200, kind='text/event-stream', **more):
    lines = ['HTTP/1.1 %d X' % status, 'Content-Type: ' + kind, 'Connection: close']
    lines += ['%s: %s' % (k.replace('_', '-'), v) for k, v in more.items()]
    return ('\r\n'.join(lines) + '\r\n\r\n').encode()


def frame(delta=None, finish=None, end='\n\n', **more):
    """One chunk of a stream, as bytes."""
    body = {'id': 'x', 'object': 'chat.completion.chunk', 'model': 'm', **more}
    if delta is not None or finish is not None:
        body['choices'] = [{'index': 0, 'delta': delta or {}, 'finish_reason': finish}]
    return ('data: %s%s' % (json.dumps(body), end)).encode()


DONE = b'data: [DONE]\n\n'


def send(*pieces):
    """A script: these bytes, then close."""
    data = b''.join(pieces)
    return lambda conn: conn.sendall(data)


def spoken(text, *more):
    """A script: a good answer of this text."""
    return send(head(), frame({'role': 'assistant', 'content': text}), frame({}, 'stop'), *more,
                DONE)


# ---- what tests say often ----

def submit_all(env, rows, **kw):
    """Submit many [(agent, input)] in one round trip through SQL; their ids in order. `kw`: as
    Env.submit(); a function gets the place of the row."""
    names = {'session_id': 'p_session', 'priority': 'p_priority', 'max_attempts': 'p_max_attempts',
             'deadline': 'p_deadline', 'run_at': 'p_run_at'}
    lines = []
    for i, (agent, text) in enumerate(rows):
        args = [literal(agent), literal(json.dumps(text))]
        args += ['%s => %s' % (names[k], literal(v(i) if callable(v) else v))
                 for k, v in kw.items()]
        lines.append('select task_id from nocturne.submit(%s);' % ', '.join(args))
    ids = env.execute('begin;\n%s\ncommit;' % '\n'.join(lines)).split()
    assert len(ids) == len(rows), ids
    return ids


def make_breakable(env):
    env.execute("""
        create table nocturne.test_broken (task_id uuid, code text);
        alter function nocturne.messages_json(uuid) rename to messages_whole;
        create function nocturne.messages_json(p_task uuid) returns text language plpgsql stable as
        $$ declare why text := (select code from nocturne.test_broken where task_id = p_task);
        begin
            if why is not null then
                raise 'missing chunk number 0 for toast value 16384' using errcode = why;
            end if;
            return nocturne.messages_whole(p_task);
        end $$""")


def break_conversation(env, task_id, code='XX001'):
    """From now on nobody can read the one that ends with this snapshot. After make_breakable()."""
    env.execute("insert into nocturne.test_broken values ('%s', '%s')" % (task_id, code))


def resume(env, task_id, respond=None, restart=None):
    """The id of the next turn."""
    body = {}
    if respond is not None:
        body['respond'] = respond
    if restart is not None:
        body['restart'] = restart
    if env.http:
        return env.http.post('/v1/tasks/%s/resume' % task_id, body).ok(202).json['task_id']
    return env.value("select task_id from nocturne.resume('%s', %s)"
                     % (task_id, literal(json.dumps(body))))


def state(env, task_id):
    """The session's state after the turn: {"messages", "custom"?, "artifacts"?}."""
    return env.value("select nocturne.state_json('%s')::json" % task_id)


def of_type(events, *types):
    return [e for e in events if e['type'] in types]


def kept(events):
    """Without what a `reset` has voided, as a subscriber must see it."""
    out = []
    for event in events:
        if event['type'] == 'reset':
            out = [e for e in out if e['seq'] <= event['to_seq']]
        else:
            out.append(event)
    return out


def text_of(events):
    return ''.join(e['text'] for e in kept(events) if e['type'] == 'content.delta')


def tool_results(messages):
    """[(name, output)] of all tool messages."""
    return [(p['toolResponse']['name'], p['toolResponse']['output'])
            for m in messages if m['role'] == 'tool' for p in m['content']]


def quick_scheduler(env):
    return env.scheduler(**{'worker-ttl': '1s', 'rescue-every': '200ms'})


def short_probation(env):
    """Turns that two workers have died of start half a second apart."""
    env.execute("create or replace function nocturne.probation() returns interval"
                " language sql immutable as $$ select interval '500 ms' $$")


def logging_tool(name, path, nap=0, **more):
    """A tool whose effect is a line with its idempotency key in a file."""
    return {'type': 'process', 'name': name, 'command': [
        'sh', '-c', 'echo "$NOCTURNE_IDEMPOTENCY_KEY" >> %s; sleep %g; echo %s' % (path, nap, name)],
        **more}


def lines_of(path):
    try:
        with open(path) as f:
            return f.read().split('\n')[:-1]
    except FileNotFoundError:
        return []


def program(folder, name, text):
    """Write a script that a process tool may run; its path."""
    path = os.path.join(folder, name)
    with open(path, 'w') as f:
        f.write(text)
    os.chmod(path, 0o755)
    return path


def folder():
    path = tempfile.mkdtemp(prefix='nocturne-test-')
    os.chmod(path, 0o755)
    return path
