"""What a system test needs: real daemons on a real PostgreSQL, and ways to look at them.

    import harness
    from harness import wait_until

    def setup():                       # optional, once before the tests of the module
        global env
        env = harness.Env()            # a fresh, migrated database
        env.modelsim(); env.scheduler(); env.worker(slots=100); env.api()

    def test_a_turn_ends():            # plain functions; `test_x.timeout = 300` for slow ones
        env.put_agent('a', {'kind': 'echo'})
        task = env.wait_task(env.submit('a', 'hi'))
        assert task['status'] == 'completed', task

    def teardown():                    # optional; the runner closes every Env that is left
        env.check_invariants()

`env.close()` stops the daemons and fails when one did not exit with 0 or its sanitizers had
something to say. Programs come from $BUILD (build/san). Settings are the programs' own: env.worker(
slots=100) is nocturne-worker --slots 100.

NOCTURNE_TEST_MODE=poll runs everything without LISTEN and NOTIFY, =pgbouncer through PgBouncer in
transaction mode; a test whose bound presumes hints says within(SECONDS, 'event').
"""
import atexit
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import cluster
import invariants
from cluster import MODE, ROOT, SqlError  # noqa: F401  (for tests)

BUILD = os.path.abspath(os.path.join(ROOT, os.environ.get('BUILD', 'build/san')))
TERMINAL = ('completed', 'incomplete', 'failed', 'aborted', 'expired')
SANITIZER = re.compile(r'(ERROR: (Address|Leak|Undefined)\w*Sanitizer|SUMMARY: \w*Sanitizer'
                       r'|runtime error: )')
# Settings that make the mode, of every daemon that has them.
MODE_SETTINGS = {'': {}, 'poll': {'hints': 'off', 'notify': 'off'},
                 'pgbouncer': {'hints': 'off', 'prepare': 'off'}}[MODE]
# What polls promise, in seconds: ARCHITECTURE.md, "Without hints". A start is a claim, after
# what the scheduler needs; an abort is that of a running turn.
POLLED = {'event': 0.4, 'start': 1.5, 'abort': 2.5}
open_envs = []  # for the runner: to print logs of, and to close


@atexit.register
def leave_nothing():
    """Of a run that was interrupted."""
    for env in open_envs:
        for process in env.processes:
            process.kill()


def wait_until(condition, deadline=10.0, what='', every=0.02):
    """Call `condition` until it returns something true, and return that."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError('not within %g s: %s (last value: %r)'
                                 % (deadline, what or getattr(condition, '__name__', '?'), value))
        time.sleep(every)


def within(seconds, what):
    """A bound that presumes hints; without them it has the time of the poll behind them, too."""
    return seconds + POLLED[what] if MODE else seconds


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def program(name, build=BUILD):
    """Path of a program of the build: 'nocturne-worker' or 'tests/fake/modelsim'."""
    path = os.path.join(build, name if '/' in name else 'bin/' + name)
    if not os.access(path, os.X_OK):
        raise AssertionError('%s is not built (make SAN=1 BUILD=%s all fakes)' % (path, BUILD))
    return path


def sanitizer_env(extra=None):
    env = dict(os.environ)
    env['ASAN_OPTIONS'] = 'detect_leaks=1:abort_on_error=0:exitcode=99'
    env['UBSAN_OPTIONS'] = 'print_stacktrace=1'
    for name in [n for n in env if n.startswith('NOCTURNE_')]:
        del env[name]
    env.update(extra or {})
    return env


class Process:
    """A daemon. stdout and stderr go to files that are kept until the Env is closed."""

    def __init__(self, folder, name, argv, env=None, cwd=None):
        self.name, self.argv = name, argv
        self.path = os.path.join(folder, name)
        self.killed = False   # by us, so its exit status means nothing
        self.expected = 0     # the exit status that counts as clean
        self.checked = False
        with open(self.path + '.out', 'ab') as out, open(self.path + '.err', 'ab') as err:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          env=sanitizer_env(env), cwd=cwd or ROOT,
                                          start_new_session=True)
        self.pid = self.popen.pid

    def __repr__(self):
        return '<%s pid %d>' % (self.name, self.pid)

    @property
    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        if self.alive:
            os.kill(self.pid, number)

    def kill(self):
        """kill -9, and wait."""
        self.killed = True
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self):
        self.signal(signal.SIGSTOP)

    def cont(self):
        self.signal(signal.SIGCONT)

    def term(self):
        self.signal(signal.SIGTERM)

    def wait(self, timeout=20):
        """The exit status."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError('%s does not exit\n%s' % (self.name, self.tail())) from None

    def end(self, timeout=20):
        """SIGTERM and the check that it went well."""
        self.cont()
        self.term()
        self.wait(timeout)
        self.check()

    def check(self):
        """After its end: was it clean?"""
        self.checked = True
        text = self.log()
        if SANITIZER.search(text):
            raise AssertionError('%s: the sanitizer says\n%s' % (self.name, text[-6000:]))
        if not self.killed and self.popen.returncode != self.expected:
            raise AssertionError('%s exited with %s\n%s' % (self.name, self.popen.returncode,
                                                            self.tail()))

    def log(self):
        """All of stderr."""
        with open(self.path + '.err', errors='replace') as f:
            return f.read()

    def out(self):
        with open(self.path + '.out', errors='replace') as f:
            return f.read()

    def tail(self, lines=40):
        return '--- %s (pid %d)\n%s' % (self.name, self.pid,
                                        ''.join(self.log().splitlines(True)[-lines:]))

    def wait_log(self, pattern, deadline=10):
        """Wait for a line of stderr that the regular expression finds; the match."""
        return wait_until(lambda: re.search(pattern, self.log()), deadline,
                          '"%s" in the log of %s' % (pattern, self.name))


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self):
        return '<%d %r>' % (self.status, self.body[:500])

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()

    def header(self, name):
        return self.headers.get(name)

    def problem(self, status, code=None):
        """Check that this is such a problem (RFC 9457); its members."""
        assert self.status == status, self
        kind = (self.headers.get('Content-Type') or '').split(';')[0]
        assert kind == 'application/problem+json', (kind, self)
        body = self.json
        for member in ('type', 'title', 'status', 'code'):
            assert member in body, (member, body)
        assert body['status'] == status, body
        assert code is None or body['code'] == code, body
        return body

    def ok(self, *statuses):
        assert self.status in (statuses or (200, 201, 202, 204)), self
        return self


class Http:
    """Requests to one address, a connection each (or kept: `with http.connection() as c`)."""

    def __init__(self, host, port):
        self.host, self.port = host, port
        self.base_url = 'http://%s:%d' % (host, port)

    def connection(self, timeout=35):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=35, connection=None):
        """`body`: bytes, str, or anything else, which is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            headers.setdefault('Content-Type', 'application/json')
        if isinstance(body, str):
            body = body.encode()
        conn = connection or self.connection(timeout)
        try:
            conn.request(method, path, body=body, headers=headers)
            answer = conn.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            if connection is None:
                conn.close()

    def get(self, path, **kw):
        return self.request('GET', path, **kw)

    def post(self, path, body=None, **kw):
        return self.request('POST', path, body, **kw)

    def put(self, path, body=None, **kw):
        return self.request('PUT', path, body, **kw)

    def delete(self, path, **kw):
        return self.request('DELETE', path, **kw)


class Event:
    """One server-sent event: `id` and `type` as text, `data` parsed when it is JSON."""

    def __init__(self, ident, kind, text):
        self.id, self.type, self.text = ident, kind, text
        try:
            self.data = json.loads(text)
        except ValueError:
            self.data = None
        self.seq = self.data.get('seq') if isinstance(self.data, dict) else None

    def __repr__(self):
        return '<%s %s %s>' % (self.id, self.type, self.text[:200])


class EventStream:
    """Reads server-sent events. Iterate over it, or use its methods; all that was read stays in
    .events, .comments (": keep-alive") and .raw. Ends when the server ends it (.ended is True) or
    cut() is called (.ended is False)."""

    def __init__(self, http_, path, headers=None, timeout=35):
        self.conn = http_.connection(timeout)
        self.conn.connect()  # so that its socket can be cut
        self.sock = self.conn.sock
        headers = {'Accept': 'text/event-stream', **(headers or {})}
        self.conn.request('GET', path, headers=headers)
        self.answer = self.conn.getresponse()
        self.status, self.headers = self.answer.status, self.answer.headers
        self.events, self.comments, self.raw = [], [], b''
        self.ended = None
        self.retry = None
        self.error = None
        self._id, self._type, self._data = None, None, []

    def ok(self):
        assert self.status == 200, (self.status, self.answer.read())
        kind = (self.headers.get('Content-Type') or '').split(';')[0]
        assert kind == 'text/event-stream', kind
        return self

    def _line(self, line):
        if not line:
            if not self._data and self._type is None:
                return None
            event = Event(self._id, self._type or 'message', '\n'.join(self._data))
            self._type, self._data = None, []
            self.events.append(event)
            return event
        if line.startswith(':'):
            self.comments.append(line[1:].strip())
            return None
        name, _, value = line.partition(':')
        value = value[1:] if value.startswith(' ') else value
        if name == 'id':
            self._id = value
        elif name == 'event':
            self._type = value
        elif name == 'data':
            self._data.append(value)
        elif name == 'retry':
            self.retry = int(value)
        return None

    def next(self):
        """The next event, None at the end."""
        while self.ended is None:
            try:
                line = self.answer.readline()
            except (OSError, ValueError, AttributeError, http.client.HTTPException) as e:
                if isinstance(e, TimeoutError):
                    raise AssertionError('no event in time; so far %r' % self.events[-5:]) from None
                self.error = e
                self.ended = False
                break
            self.raw += line
            if not line:
                self.ended = True
                self.conn.close()
                break
            event = self._line(line.decode().rstrip('\r\n'))
            if event:
                return event
        return None

    def __iter__(self):
        while True:
            event = self.next()
            if event is None:
                return
            yield event

    def read_all(self):
        """To the end; all events."""
        for _ in self:
            pass
        return self.events

    def until(self, kind, n=1):
        """Read up to and with the n-th event of this type from here; it."""
        for event in self:
            if event.type == kind:
                n -= 1
                if n == 0:
                    return event
        raise AssertionError('the stream ended without %s: %r' % (kind, self.events[-5:]))

    def cut(self):
        """Close the connection abruptly. Also from another thread."""
        if self.ended is None:
            self.ended = False
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.conn.close()

    def in_background(self):
        """Read to the end in a thread; join() it."""
        thread = threading.Thread(target=self.read_all, daemon=True)
        thread.start()
        return thread

    def types(self):
        return [e.type for e in self.events]

    def text(self):
        """The content.deltas put together, as a subscriber must: `reset` voids what came after."""
        return joined_text(self.events)


def joined_text(events):
    kept = []
    for event in events:
        if event.type == 'reset':
            kept = [e for e in kept if e.seq <= event.data['to_seq']]
        else:
            kept.append(event)
    return ''.join(e.data['text'] for e in kept if e.type == 'content.delta')


class Sim(Http):
    """The scripted model, see shared/conformance/genkit/README.md. `url` is its base_url."""

    def __init__(self, process, port):
        super().__init__('127.0.0.1', port)
        self.process = process
        self.url = self.base_url + '/v1'

    def requests(self):
        body = self.get('/__sim/requests').ok().json
        return body if isinstance(body, list) else body['requests']

    def open_gate(self, name):
        self.post('/__sim/gate/' + name).ok()

    def reset(self):
        self.post('/__sim/reset').ok()

    def stats(self):
        return self.get('/__sim/stats').ok().json


class Psql:
    """One session of psql that stays open, for tests of what happens between sessions.

        a = env.psql(); a.run('begin'); a.send('select ...'); a.is_waiting(); rows = a.result()
    """

    def __init__(self, env):
        self.env = env
        self.marks = 0
        self.popen = subprocess.Popen(
            env.cluster.psql_argv(env.db, '-v', 'ON_ERROR_STOP=0', '-F', '|'), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=1)
        self.pid = int(self.run('select pg_backend_pid()')[0])

    def send(self, text):
        """Start a statement and do not wait for it."""
        self.marks += 1
        self.popen.stdin.write('%s;\n\\echo ~end~%d\n' % (text.rstrip().rstrip(';'), self.marks))
        self.popen.stdin.flush()

    def result(self):
        """Lines of what was sent last; SqlError when it failed."""
        lines = []
        for line in self.popen.stdout:
            line = line.rstrip('\n')
            if line == '~end~%d' % self.marks:
                break
            lines.append(line)
        if any(line.startswith(('ERROR:', 'FATAL:')) for line in lines):
            raise SqlError('\n'.join(lines))
        return lines

    def run(self, text):
        self.send(text)
        return self.result()

    def is_waiting(self):
        """Does it wait for a lock?"""
        return self.env.value("select wait_event_type = 'Lock' from pg_stat_activity where pid = %d"
                              % self.pid)

    def wait_blocked(self, deadline=5):
        wait_until(self.is_waiting, deadline, 'a session that waits for a lock')

    def close(self):
        self.popen.send_signal(signal.SIGCONT)  # a test that failed may have left it stopped, and all databases with it
        self.popen.stdin.close()
        self.popen.stdout.close()
        self.popen.wait()


class Env:
    """A database, daemons on it, and a folder for their logs."""

    def __init__(self, migrated=True, cluster_=None):
        self.cluster = cluster_ or cluster.shared()
        self.db = self.cluster.create_database(migrated)
        self.conninfo = self.cluster.daemons_conninfo(self.db)
        self.folder = tempfile.mkdtemp(prefix='nocturne-env-')
        self.processes, self.sessions = [], []
        self.http = None       # of the newest api
        self.sim = None
        self.counts = {}
        self.closed = False
        open_envs.append(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()

    # ---- SQL ----

    def execute(self, script, timeout=60):
        """Any script of psql; its output as text."""
        return self.cluster.psql(self.db, script, timeout=timeout)

    def sql(self, query, timeout=60):
        """One query; rows as dicts with JSON's types (times and ids are strings)."""
        if not re.match(r'\s*(select|values|with|table)\b', query, re.I) and \
                not re.search(r'\breturning\b', query, re.I):
            self.execute(query, timeout)
            return []
        # psql buffers a lone statement; a DML with RETURNING becomes a CTE at the top, which is legal
        text = 'with q as (\n%s\n) select row_to_json(q) from q;' % query.strip().rstrip(';')
        return [json.loads(line) for line in self.execute(text, timeout).split('\n') if line]

    def value(self, query):
        """The first column of the only row; None when there is no row."""
        rows = self.sql(query)
        assert len(rows) <= 1, rows
        return next(iter(rows[0].values())) if rows else None

    def psql(self):
        session = Psql(self)
        self.sessions.append(session)
        return session

    def outage(self):
        """Cut every connection to this database and let none in, until outage_over()."""
        self.cluster.psql('postgres', """
            alter database {0} with allow_connections false;
            select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{0}';
            """.format(self.db))

    def outage_over(self):
        self.cluster.psql('postgres', 'alter database %s with allow_connections true' % self.db)

    # ---- processes ----

    def spawn(self, name, argv, env=None, cwd=None):
        """Start any program as a daemon of this Env."""
        n = self.counts[name] = self.counts.get(name, 0) + 1
        process = Process(self.folder, '%s-%d' % (name, n), argv, env, cwd)
        self.processes.append(process)
        return process

    def start(self, name, settings, env=None):
        """One of our daemons, on this database. `build`: of another folder than $BUILD."""
        build = settings.pop('build', BUILD)
        settings = {'database': self.conninfo, **MODE_SETTINGS, **settings}
        if name == 'nocturne-scheduler':  # it has nothing to listen for
            settings.pop('hints', None)
        argv = [program(name, build)]
        for key, value in settings.items():
            if value is not None:
                argv += ['--' + key, str(value)]
        return self.spawn(name, argv, env)

    def _unique(self, prefix):
        n = self.counts[prefix] = self.counts.get(prefix, 0) + 1
        return '%s-%d' % (prefix, n)

    def scheduler(self, wait=True, env=None, **settings):
        settings.setdefault('name', self._unique('scheduler'))
        process = self.start('nocturne-scheduler', settings, env)
        if wait:
            wait_until(lambda: not process.alive or self.value(
                'select count(*) from nocturne.leader where expires_at > clock_timestamp()'),
                15, 'a leading scheduler', every=0.05)
        assert not wait or process.alive, process.tail()
        return process

    def worker(self, wait=True, env=None, **settings):
        name = settings.setdefault('name', self._unique('worker'))
        process = self.start('nocturne-worker', settings, env)
        if wait:
            wait_until(lambda: not process.alive or self.value(
                "select count(*) from nocturne.worker where name = '%s' and state = 'live'" % name),
                15, 'a registered worker', every=0.05)
        assert not wait or process.alive, process.tail()
        return process

    def api(self, wait=True, env=None, port=None, **settings):
        """Env.http is the newest one."""
        port = port or free_port()
        settings.setdefault('listen', '127.0.0.1:%d' % port)
        process = self.start('nocturne-api', settings, env)
        process.http = self.http = Http('127.0.0.1', port)
        if wait:
            wait_until(lambda: not process.alive or self._is_ready(process.http), 15, 'GET /readyz',
                       every=0.05)
        assert not wait or process.alive, process.tail()
        return process

    @staticmethod
    def _is_ready(http_):
        try:
            return http_.get('/readyz', timeout=5).status == 200
        except OSError:
            return False

    def modelsim(self, port=0):
        process = self.spawn('modelsim', [program('tests/fake/modelsim'), '--port', str(port)])
        found = wait_until(lambda: re.search(r'http://[^:/]+:(\d+)/v1', process.out()), 10,
                           'the address of modelsim')
        self.sim = Sim(process, int(found.group(1)))
        return self.sim

    def cli(self, *argv, input=None, env=None, timeout=60, check=True, build=BUILD):
        """Run `nocturne ...`; the CompletedProcess with text. check: exit status 0 is expected."""
        # the names of the environment are those of the command line's settings
        extra = {'NOCTURNE_DATABASE': self.conninfo}
        if self.http:
            extra['NOCTURNE_URL'] = self.http.base_url
        done = subprocess.run([program('nocturne', build), *argv], input=input, text=True, cwd=ROOT,
                              capture_output=True, timeout=timeout,
                              stdin=None if input is not None else subprocess.DEVNULL,
                              env=sanitizer_env({**extra, **(env or {})}))
        if SANITIZER.search(done.stderr):
            raise AssertionError('nocturne %s: the sanitizer says\n%s' % (argv, done.stderr))
        if check and done.returncode != 0:
            raise AssertionError('nocturne %s exited with %d\n%s%s'
                                 % (argv, done.returncode, done.stdout, done.stderr))
        return done

    # ---- the product: through the API when there is one, else through SQL ----

    def put_agent(self, name, definition):
        if self.http:
            return self.http.put('/v1/agents/' + name, definition).ok(200, 201).json
        return self.sql("select * from nocturne.agent_apply('default', array[%s], array[%s],"
                        " array[%s], array[%d])" % (
                            literal(name), literal(json.dumps(definition)),
                            literal(definition.get('state', 'server')),
                            definition.get('max_attempts', 3)))[0]

    def llm_agent(self, name, tools=(), **more):
        """An agent on the scripted model."""
        definition = {'kind': 'llm', 'model': {'provider': 'openai', 'base_url': self.sim.url,
                                               'name': 'sim'}, **more}
        if tools:
            definition['tools'] = list(tools)
        return self.put_agent(name, definition)

    def submit(self, agent, text, **kw):
        """The id of a new task. `kw`: members of the body; key='...' is the Idempotency-Key."""
        key = kw.pop('key', None)
        if self.http:
            headers = {'Idempotency-Key': key} if key else {}
            answer = self.http.post('/v1/agents/%s/tasks' % agent, {'input': text, **kw},
                                    headers=headers)
            return answer.ok(202).json['task_id']
        names = {'session_id': 'p_session', 'snapshot_id': 'p_snapshot', 'run_at': 'p_run_at',
                 'priority': 'p_priority', 'metadata': 'p_metadata', 'deadline': 'p_deadline',
                 'max_attempts': 'p_max_attempts'}
        args = [literal(agent), literal(json.dumps(text))]
        args += ['%s => %s' % (names[k], literal(json.dumps(v) if isinstance(v, dict) else v))
                 for k, v in kw.items()]
        if key:
            args.append('p_key => ' + literal(key))
        return self.value('select task_id from nocturne.submit(%s)' % ', '.join(args))

    def task(self, task_id):
        if self.http:
            return self.http.get('/v1/tasks/' + task_id).ok(200).json
        return self.value("select nocturne.task_json('%s')::json" % task_id)

    def wait_task(self, task_id, timeout=30, status=None):
        """The task when it is terminal; `status`: it must have ended so."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            if self.http:
                wait = '?wait=%ds' % max(1, min(30, int(left)))
                task = self.http.get('/v1/tasks/%s%s' % (task_id, wait), timeout=60).ok(200).json
            else:
                task = self.task(task_id)
            if task['status'] in TERMINAL:
                assert status is None or task['status'] == status, task
                return task
            if left <= 0:
                raise AssertionError('not terminal within %g s: %r' % (timeout, task))
            if not self.http:
                time.sleep(0.02)

    def wait_status(self, task_id, status, timeout=10):
        """Wait until the task reads so, for states that are not terminal."""
        return wait_until(lambda: self.task(task_id)['status'] == status, timeout,
                          'task %s %s' % (task_id, status))

    def abort(self, task_id, reason=None):
        if self.http:
            body = {'reason': reason} if reason else {}
            return self.http.post('/v1/tasks/%s/abort' % task_id, body).ok(200, 202).json
        return self.value('select nocturne.abort(%s, %s)' % (literal(task_id), literal(reason)))

    def events(self, task_id, after=None, last_event_id=None, query='', http=None, timeout=35):
        """An open EventStream of the task."""
        parts = ([query] if query else []) + (['after=%d' % after] if after is not None else [])
        headers = {} if last_event_id is None else {'Last-Event-ID': str(last_event_id)}
        path = '/v1/tasks/%s/events%s' % (task_id, '?' + '&'.join(parts) if parts else '')
        return EventStream(http or self.http, path, headers, timeout).ok()

    def stored_events(self, task_id):
        """All events of the task as they stand in the database."""
        return [row['event'] for row in
                self.sql("select event from nocturne.task_events('%s')" % task_id)]

    # ---- the end ----

    def check_invariants(self, quiet=True, deadline=20, unfinished=()):
        """Design, §6, over the tables. `quiet`: wait for the end of all work first, and look for
        what must not be left then. `unfinished`: tasks that may still be open (scheduled...)."""
        invariants.check(self, quiet, deadline, unfinished)

    def tails(self, lines=40):
        """Ends of all logs, for a failed test."""
        return '\n'.join([p.tail(lines) for p in self.processes] +
                         ['--- postgres\n' + self.cluster.log(20, self.db)])

    def close(self):
        """Stop everything; raises when a daemon did not end well."""
        if self.closed:
            return
        self.closed = True
        open_envs.remove(self)
        problems = []
        for session in self.sessions:
            try:
                session.close()
            except OSError:
                pass
        for process in self.processes:
            process.cont()
            process.term()
        for process in self.processes:
            try:
                process.wait(30)
                if not process.checked:
                    process.check()
            except AssertionError as e:
                problems.append(str(e))
                process.kill()
        self.cluster.drop_database(self.db)
        shutil.rmtree(self.folder, ignore_errors=True)
        if problems:
            raise AssertionError('\n'.join(problems))


def literal(value):
    """A Python value as an SQL literal."""
    if value is None:
        return 'null'
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return 'array[' + ', '.join(literal(v) for v in value) + ']'
    return "'" + str(value).replace("'", "''") + "'"
