"""An api dies on entering each state of each of its flows, another one lives; see crash.py."""
import http.client
import json
import shutil
import socket
import threading
import time

import crash
import fakes
import harness

BIG = 'x' * 700000
# More than the kernel takes for a client that does not read.
FLOOD = '''cat >/dev/null
line=$(head -c 100000 /dev/zero | tr '\\0' x)
for i in $(seq 60); do echo "{\\"chunk\\":\\"$line\\"}"; done
echo '{"result":1}'
'''
# No route speaks WebSocket yet.
EXEMPT = ('conn.ws', 'conn.ws_closing')


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def quietly(function, *args, **kw):
    """A request to the one that dies: any answer, or none."""
    try:
        return function(*args, **kw)
    except (OSError, AssertionError, ValueError, http.client.HTTPException):
        return None


def in_background(function, *args, **kw):
    threading.Thread(target=quietly, args=(function,) + args, kwargs=kw, daemon=True).start()


def body(text, **data):
    return {'data': {'message': {'role': 'user', 'content': [{'text': text}]}, **data}, 'init': {}}


def work(matrix):
    dying = matrix.apis[-1]
    n = len(matrix.tasks)
    if matrix.open_tasks() < 6:
        submit_twice(matrix, dying, 'key-%d' % n)
        matrix.submit('a', 'call log {} then say x', watch=True)
        in_background(dying.post, '/genkit/a', body('say y'), timeout=10)
        in_background(dying.post, '/genkit/a', body('say z'), timeout=10,
                      headers={'Accept': 'text/event-stream'})
    in_background(dying.get, '/v1/tasks/%s?wait=2s' % matrix.tasks[-1], timeout=10)
    quietly(dying.get, '/v1/tasks?limit=3', timeout=5)


def submit_twice(matrix, dying, key):
    """The same key gives the same task, whichever api took it."""
    asked = {'input': 'hi'}
    first = quietly(dying.post, '/v1/agents/e/tasks', asked, headers={'Idempotency-Key': key},
                    timeout=5)
    matrix.tasks.append(matrix.post('e', asked, key))
    if first is not None and first.status in (200, 202):
        assert first.json['task_id'] == matrix.tasks[-1], (first, matrix.tasks[-1])


# ---- what the workload alone does not reach ----

def raw(matrix, text):
    """A client that says this and reads nothing."""
    conn = socket.socket()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    conn.settimeout(20)
    dying = matrix.apis[-1]

    def talk():
        conn.connect((dying.host, dying.port))
        conn.sendall(text.replace('\n', '\r\n').encode())
    quietly(talk)
    matrix.sockets.append(conn)


def half_head(matrix, _process):
    raw(matrix, 'GET /v1/tas')


def half_body(matrix, _process):
    raw(matrix, 'POST /v1/agents/e/tasks HTTP/1.1\nHost: x\nContent-Type: application/json\n'
                'Content-Length: 40\n\n{"in')


def last_words(matrix, _process):
    raw(matrix, 'POST /v1/agents/e/tasks HTTP/1.1\nHost: x\nContent-Type: application/json\n'
                'Content-Length: 999999999\n\nthis is not read')


def big_task(matrix):
    if not matrix.big:
        matrix.big = [matrix.submit('e', BIG) for _ in range(8)]
        for task_id in matrix.big:
            matrix.env.wait_task(task_id)


def slow_page(matrix, _process):
    big_task(matrix)
    raw(matrix, 'GET /v1/tasks?limit=50&agent=e&status=completed HTTP/1.1\nHost: x\n\n')


def slow_subscriber(matrix, _process):
    if not matrix.flood:
        matrix.flood = matrix.submit('flood', 'go')
        matrix.env.wait_task(matrix.flood)
    for _ in range(2):
        raw(matrix, 'GET /v1/tasks/%s/events HTTP/1.1\nHost: x\nAccept: text/event-stream\n\n'
            % matrix.flood)


def floods_ended(matrix):
    return matrix.env.value("select count(*) from nocturne.done d join nocturne.task t using (task_id) where t.agent = 'flood'")


def slow_stream(matrix, _process):
    if matrix.reading and matrix.reading.is_alive():
        return
    before = floods_ended(matrix)
    raw(matrix, 'POST /genkit/flood HTTP/1.1\nHost: x\nAccept: text/event-stream\n'
                'Content-Type: application/json\nContent-Length: 13\n\n{"data":"go"}')
    matrix.reading = threading.Thread(target=quietly, daemon=True,
                                      args=(read_slowly, matrix, matrix.sockets[-1], before))
    matrix.reading.start()


def read_slowly(matrix, conn, before):
    """Nothing until the turn has ended, so that the kernel's buffer stays small and much is left; then
    slowly: the last frames are queued while the end is asked for."""
    harness.wait_until(lambda: floods_ended(matrix) > before, 20, 'the end of the flood')
    while conn.recv(8192):
        time.sleep(0.002)


def come_back(matrix, _process):
    """To a stream."""
    in_background(matrix.apis[-1].post, '/genkit/a', body('x'), timeout=10,
                  headers={'Accept': 'text/event-stream', 'X-Genkit-Stream-Id': matrix.tasks[-1]})


def misuse(matrix, _process):
    in_background(matrix.apis[-1].post, '/genkit/a', {'data': {'message': 5}}, timeout=10,
                  headers={'Accept': 'text/event-stream'})


def leave_stream(matrix, _process):
    """A foreground turn whose client goes away."""
    text = json.dumps(body('wait 20s then say never'))
    raw(matrix, 'POST /genkit/a HTTP/1.1\nHost: x\nAccept: text/event-stream\n'
                'Content-Type: application/json\nContent-Length: %d\n\n%s' % (len(text), text))
    threading.Timer(0.7, matrix.sockets[-1].close).start()


def burst(matrix, _process):
    """Many submits at once share a statement: the plain ones, and those that name a session."""
    for i in range(24):
        in_background(matrix.apis[-1].post, '/v1/agents/e/tasks',
                      {'input': 'burst', **({'session_id': 'burst-%d' % i} if i % 2 else {})}, timeout=5)


def look(matrix, _process):
    task_id = matrix.submit('a', 'wait 1s then say looked')
    for verb in ('getSnapshot', 'waitForSnapshot'):
        in_background(matrix.apis[-1].post, '/genkit/a/' + verb,
                      {'data': {'snapshotId': task_id}}, timeout=10)


def cut(matrix, _process):
    crash.backends(matrix.env, '^nocturne-api')


def cut_looks(matrix, process):
    look(matrix, process)
    for _ in range(10):
        cut(matrix, process)
        look(matrix, process)


def end(matrix, process):
    if quietly(process.http.get, '/readyz', timeout=3):
        process.term()


TRIGGERS = {
    'notify.closing': end, 'pg.closed': end, 'pg.down': cut, 'conn.head': half_head,
    'conn.body': half_body, 'conn.linger': last_words, 'conn.flush': slow_page,
    'reader.stalled': slow_subscriber, 'run.blocked': slow_stream, 'run.finding': come_back,
    'run.keeping': misuse, 'live.read': leave_stream, 'live.left': leave_stream, 'live.asking': leave_stream,
    'live.ending': leave_stream, 'lane.free': burst, 'lane.sending': burst, 'look.checking': look, 'look.reading': look,
    'look.following': look, 'look.resting': cut_looks,
}


def test_an_api_dies_in_every_state():
    with harness.Env() as env:
        env.modelsim()
        env.scheduler()
        env.worker(slots=50, poll='50ms')
        clean = env.api().http
        endpoint = crash.standard(env, folder)
        env.put_agent('flood', {'kind': 'process', 'command': ['sh', '-c', FLOOD],
                                'on_disconnect': 'continue'})
        matrix = crash.Matrix(env, 'api')
        matrix.sockets, matrix.big, matrix.flood, matrix.reading = [], [], None, None
        matrix.apis = [clean, clean]
        matrix.submit('e', 'first')

        def start(crash_at):
            process = env.api(wait=False, env=crash_at)
            matrix.apis[-1], env.http = process.http, clean
            return process

        problems = matrix.run(start, work, TRIGGERS, EXEMPT)
        for conn in matrix.sockets:
            conn.close()
        env.api()
        matrix.settle()
        endpoint.close()
        assert not problems, '\n'.join(problems)


test_an_api_dies_in_every_state.timeout = 400
