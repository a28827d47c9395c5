"""Clients of a Nocturne, all of them recorded: turns that are submitted, watched by several
subscribers each and waited for, through whichever api answers; and the tools that the turns call.

One asyncio loop in a thread of its own. A client asks again, with its key or its cursor, until it has
its answer: what it saw on the way stands in the history (check.py says in which form).
"""
import asyncio
import collections
import itertools
import json
import os
import random
import threading
import time

LOGS = ('submits', 'waits', 'subs', 'seen', 'tools')
ASK_AGAIN = 0.2   # seconds, when nobody answered or all said 503
SILENCE = 40      # seconds without a byte (keep-alives come every 15) after which a client reconnects


class Recorder:
    """A folder of JSON lines. Callable from any thread."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.folder, self.files, self.lock = folder, {}, threading.Lock()

    def text(self, name, line):
        with self.lock:
            if name not in self.files:
                self.files[name] = open(os.path.join(self.folder, name + '.jsonl'), 'a')
            self.files[name].write(line + '\n')

    def __call__(self, log, **fields):
        self.text(log, json.dumps({'at': round(time.time(), 4), **fields}))

    def flush(self):
        with self.lock:
            for file in self.files.values():
                file.flush()

    def close(self):
        with self.lock:
            for file in self.files.values():
                file.close()
            self.files = {}


class Turn:
    """What to submit, and what became of it. `watch`: ways of watching, see Load._subscriber."""

    def __init__(self, script, expect=None, agent='a', session=None, watch=('live',), wait=True,
                 **body):
        self.script, self.expect, self.agent, self.session = script, expect, agent, session
        self.watch, self.wait, self.body = watch, wait, body
        self.task_id = self.status = None
        self.submitted_at = self.answered_at = self.ended_at = None
        self.settled = False  # and every subscriber has seen the end
        self.seq = 0  # of the newest event that anybody saw
        self.first_event_at = None


async def read_head(reader):
    """(status, headers)"""
    line = await reader.readline()
    if not line:
        raise ConnectionError('no answer')
    status, headers = int(line.split(b' ', 2)[1]), {}
    while True:
        line = (await reader.readline()).rstrip(b'\r\n')
        if not line:
            return status, headers
        name, _, value = line.partition(b':')
        headers[name.decode().lower()] = value.strip().decode()


async def request(address, method, path, body=None, headers=(), timeout=40):
    """(status, headers, body) of one request on a connection of its own."""
    async def run():
        reader, writer = await asyncio.open_connection(*address)
        try:
            data = b'' if body is None else json.dumps(body).encode()
            lines = ['%s %s HTTP/1.1' % (method, path), 'Host: x', 'Connection: close', *headers]
            if body is not None:
                lines += ['Content-Type: application/json', 'Content-Length: %d' % len(data)]
            writer.write('\r\n'.join(lines + ['', '']).encode() + data)
            status, got = await read_head(reader)
            length = int(got.get('content-length', -1))
            return status, got, await (reader.readexactly(length) if length >= 0 else reader.read())
        finally:
            writer.close()
    return await asyncio.wait_for(run(), timeout)


FAILURES = (OSError, EOFError, asyncio.TimeoutError, ValueError)


class Load:
    def __init__(self, recorder, seed=0):
        self.record, self.random = recorder, random.Random(seed)
        self.apis = []          # (host, port): those to ask, also dead ones
        self.turns = []
        self.counts = collections.Counter()  # statuses of answers, reconnects
        self.resumes = []       # seconds from a cut to the next event or the answer's head
        self.subs = itertools.count(1)
        self.stopping = False
        self.loop = asyncio.new_event_loop()
        self.tool_port = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.ready = threading.Event()
        self.thread.start()
        self.ready.wait(10)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(
            asyncio.start_server(self._tool, '127.0.0.1', 0, backlog=2000))
        self.tool_port = server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    def close(self):
        if self.stopping:
            return
        self.stopping = True

        async def stop():
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self.loop)
        self.thread.join(10)

    def start(self, turns, every=0.0):
        """Submit these, `every` seconds apart; returns at once."""
        self.turns += turns

        async def run():
            clients = []
            for turn in turns:
                clients.append(asyncio.create_task(self._client(turn)))
                if every:
                    await asyncio.sleep(every)
            await asyncio.gather(*clients)

        return asyncio.run_coroutine_threadsafe(run(), self.loop)

    def keep_busy(self, width, make):
        """Have `width` turns under way, each a make(n), until the returned function is called; it
        waits for the end of those that are."""
        stop, count = threading.Event(), itertools.count()

        async def one():
            while not stop.is_set():
                turn = make(next(count))
                self.turns.append(turn)
                await self._client(turn)

        async def all_():
            await asyncio.gather(*(one() for _ in range(width)))

        future = asyncio.run_coroutine_threadsafe(all_(), self.loop)

        def end(seconds=90):
            stop.set()
            future.result(seconds)
        return end

    def ask(self, requests, width):
        """[(method, path, body)] all at once, `width` at a time; [(started, seconds, status)], where
        status is None when nothing came."""
        answers = [None] * len(requests)
        rest = iter(range(len(requests)))

        async def one():
            for i in rest:
                method, path, body = requests[i]
                started, status = time.time(), None
                try:
                    status, _, _ = await request(self._api(), method, path, body)
                except FAILURES:
                    pass
                answers[i] = (started, time.time() - started, status)

        async def all_():
            await asyncio.gather(*(one() for _ in range(width)))

        asyncio.run_coroutine_threadsafe(all_(), self.loop).result(300)
        return answers

    def rate(self, start, end):
        """Turns that ended per second in that time."""
        return sum(t.ended_at is not None and start <= t.ended_at < end
                   for t in self.turns) / (end - start)

    # ---- one turn ----

    def _api(self):
        return self.random.choice(self.apis)

    async def _client(self, turn):
        await self._submit(turn)
        watchers = [asyncio.create_task(self._subscriber(turn, way)) for way in turn.watch]
        if turn.wait:
            watchers.append(asyncio.create_task(self._wait(turn)))
        await asyncio.gather(*watchers)
        turn.settled = True

    async def _submit(self, turn):
        key = 'k-%016x' % self.random.getrandbits(64)
        body = {'input': turn.script, **turn.body}
        if turn.session:
            body['session_id'] = turn.session
        turn.submitted_at = time.time()
        while True:
            status, task = None, None
            try:
                status, _, data = await request(self._api(), 'POST',
                                                '/v1/agents/%s/tasks' % turn.agent, body,
                                                ['Idempotency-Key: ' + key], 15)
                if status == 202:
                    task = json.loads(data)['task_id']
            except FAILURES:
                pass
            self.counts['submit %s' % status] += 1
            self.record('submits', key=key, status=status, task=task, session=turn.session,
                        expect=turn.expect, script=turn.script)
            if task:
                turn.task_id, turn.answered_at = task, time.time()
                return
            if status is not None and 400 <= status < 500 and status != 429:
                raise AssertionError('submit: %s %s' % (status, data))
            await asyncio.sleep(ASK_AGAIN * self.random.uniform(0.5, 1.5))

    async def _wait(self, turn):
        while turn.status is None:
            try:
                status, _, data = await request(
                    self._api(), 'GET', '/v1/tasks/%s?wait=20s' % turn.task_id, timeout=30)
                self.counts['wait %s' % status] += 1
                task = json.loads(data)
                if status == 200 and task['status'] in ('completed', 'incomplete', 'failed',
                                                        'aborted', 'expired'):
                    self.record('waits', task=turn.task_id, status=task['status'])
                    turn.status, turn.ended_at = task['status'], time.time()
                    return
            except FAILURES:
                self.counts['wait None'] += 1
            await asyncio.sleep(ASK_AGAIN * self.random.uniform(0.2, 1))

    # ---- one subscriber ----

    async def _subscriber(self, turn, way):
        """Ways: live; cutter: hangs up again and again and asks another api; late: begins seconds
        after; middle: begins at the newest event; after: begins when the turn has ended."""
        if way == 'late':
            await asyncio.sleep(self.random.uniform(0.5, 5))
        elif way == 'middle':
            while turn.seq < 3 and turn.status is None:
                await asyncio.sleep(0.05)
        elif way == 'after':
            while turn.status is None:
                await asyncio.sleep(0.2)
        sub = Subscriber(self, turn, turn.seq if way == 'middle' else 0)
        while not sub.finished:
            patience = self.random.uniform(0.1, 2) if way == 'cutter' else None
            await sub.follow(self._api(), patience)
            if not sub.finished and not patience:
                await asyncio.sleep(ASK_AGAIN * self.random.uniform(0.05, 1) if len(self.apis) == 1
                                    else ASK_AGAIN * self.random.uniform(0, 0.3))

    # ---- tools ----

    async def _tool(self, reader, writer):
        """POST /NAME[?once]: arguments {"ms": how long it takes}."""
        try:
            while True:
                line = await reader.readline()
                if not line:
                    return
                path = line.split(b' ')[1].decode()
                headers = {}
                while True:
                    line = (await reader.readline()).rstrip(b'\r\n')
                    if not line:
                        break
                    name, _, value = line.partition(b':')
                    headers[name.decode().lower()] = value.strip().decode()
                data = await reader.readexactly(int(headers.get('content-length', 0)))
                name, _, query = path[1:].partition('?')
                self.record('tools', key=headers.get('idempotency-key'), name=name,
                            once=query == 'once')
                arguments = json.loads(data or b'{}')
                arguments = arguments.get('arguments', arguments)
                await asyncio.sleep(arguments.get('ms', 0) / 1000)
                answer = json.dumps(name)
                writer.write(('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n'
                              'Content-Length: %d\r\n\r\n%s' % (len(answer), answer)).encode())
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # a worker died, or all is over
        finally:
            writer.close()

    def tool(self, name, once=False, **more):
        """The definition of a tool that is served here."""
        return {'type': 'http', 'name': name, 'url': 'http://127.0.0.1:%d/%s%s' % (
            self.tool_port, name, '?once' if once else ''), 'idempotent': not once, **more}


class Subscriber:
    """One cursor on one task; any number of connections."""

    def __init__(self, load, turn, after):
        self.load, self.turn, self.cursor = load, turn, after
        self.id = next(load.subs)
        self.finished = False
        self.cut_at = None

    def note(self, what, address):
        self.load.record('subs', sub=self.id, task=self.turn.task_id, what=what, after=self.cursor,
                         api=address[1])

    async def follow(self, address, patience):
        """One connection, until it ends or `patience` (seconds) does."""
        self.note('open', address)
        writer, what = None, 'cut'
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 10)
            writer.write(('GET /v1/tasks/%s/events HTTP/1.1\r\nHost: x\r\n'
                          'Accept: text/event-stream\r\nLast-Event-ID: %d\r\n\r\n'
                          % (self.turn.task_id, self.cursor)).encode())
            await asyncio.wait_for(self._read(reader), patience)
            what = 'end'
        except FAILURES:
            pass
        finally:
            if writer:
                writer.transport.abort()
        if patience is None and what == 'cut' and self.cut_at is None:
            self.cut_at = time.time()
        self.load.counts['stream ' + what] += 1
        self.note(what, address)
        if what == 'end':  # also at once, for a cursor that was at the end already
            self.finished = True
            self.note('finished', address)

    async def _read(self, reader):
        """To the proper end of the answer, or an exception."""
        status, _ = await asyncio.wait_for(read_head(reader), 15)
        if status != 200:
            self.load.counts['stream %d' % status] += 1
            raise ConnectionError('status %d' % status)
        if self.cut_at is not None:
            self.load.resumes.append(time.time() - self.cut_at)
            self.cut_at = None
        text = b''
        while True:
            line = await asyncio.wait_for(reader.readline(), SILENCE)
            if not line.endswith(b'\r\n'):
                raise ConnectionError('cut')
            size = int(line, 16)
            piece = (await asyncio.wait_for(reader.readexactly(size + 2), SILENCE))[:-2]
            if size == 0:
                return
            text += piece
            *frames, text = text.split(b'\n\n')
            for frame in frames:
                self._event(frame)

    def _event(self, frame):
        ident = data = None
        for line in frame.split(b'\n'):
            if line.startswith(b'id:'):
                ident = int(line[3:])
            elif line.startswith(b'data:'):
                data = line[5:].strip().decode()
        if data is None:
            return  # a comment
        now = time.time()
        self.load.record.text('seen', '{"at":%.4f,"sub":%d,"seq":%d,"data":%s}' % (
            now, self.id, ident, data))
        self.cursor = ident
        turn = self.turn
        if turn.first_event_at is None:
            turn.first_event_at = now
        turn.seq = max(turn.seq, ident)
        if '"turn.ended"' in data:
            self.finished = True
