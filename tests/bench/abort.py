#!/usr/bin/python3
"""How fast an abort is, from the call of the api on; a table with the targets on stdout.

usage: BUILD=build tests/bench/abort.py [ROW...] [--turns N]
Rows: queued, one, process, stubborn, many, many-poll (all of them when none is named). Everything
runs on this machine: PostgreSQL (fsync on), scheduler, worker, api, the model and this program.
"""
import argparse
import asyncio
import glob
import json
import os
import statistics
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('BUILD', 'build')
sys.path.insert(0, os.path.join(ROOT, 'tests/system'))
import fakes  # noqa: E402
import harness  # noqa: E402
from harness import wait_until  # noqa: E402


class Model:
    """tests/bench/model.py and what it has told: number of the turn -> time."""

    def __init__(self):
        self.open, self.closed = {}, {}
        self.popen = subprocess.Popen([os.path.join(ROOT, 'tests/bench/model.py')], text=True,
                                      stdout=subprocess.PIPE)
        self.port = int(self.popen.stdout.readline().split()[1])
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.popen.stdout:
            what, number, at = line.split()
            (self.open if what == 'open' else self.closed)[int(number)] = float(at)

    def close(self):
        self.popen.terminate()
        self.popen.wait()


class Bench:
    def __init__(self, model, hints=True):
        self.model = model
        self.env = env = harness.Env()
        settings = {} if hints else {'hints': 'off'}
        env.scheduler()
        self.worker = env.worker(slots=2000, **settings)
        env.api(**settings)
        env.put_agent('model', {'kind': 'llm', 'model': {
            'provider': 'openai', 'base_url': 'http://127.0.0.1:%d/v1' % model.port, 'name': 'm'}})
        self.next = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.env.close()

    def run(self, n):
        """n turns that stream; [(number, task_id)]."""
        base = max([-1, *self.model.open]) + 1
        numbers = list(range(base, base + n))
        ids = fakes.submit_all(self.env, [('model', 'turn %d' % i) for i in numbers])
        wait_until(lambda: all(i in self.model.open for i in numbers), 60, 'all turns to stream')
        time.sleep(1)  # what they have said is written, and nothing else goes on
        return list(zip(numbers, ids))

    def abort(self, task_id):
        """When the call began, and what it took."""
        at = time.monotonic()
        self.env.abort(task_id)
        return at, time.monotonic() - at

    def closed(self, called, deadline=30):
        """Milliseconds from each call to the end of its socket. `called`: {number: when}."""
        wait_until(lambda: all(i in self.model.closed for i in called), deadline, 'all sockets closed')
        return [(self.model.closed[i] - at) * 1000 for i, at in called.items()]


async def abort_all(port, turns, connections=32):
    """Call for all `turns`, as fast as so many connections go; {number: when it was called}."""
    called, todo = {}, list(reversed(turns))

    async def caller():
        reader, writer = await asyncio.open_connection('127.0.0.1', port)
        while todo:
            number, task_id = todo.pop()
            called[number] = time.monotonic()
            writer.write(('POST /v1/tasks/%s/abort HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n'
                          % task_id).encode())
            head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
            assert ' 202 ' in head.split('\r\n')[0], head
            length = [int(line.split(':')[1]) for line in head.split('\r\n')
                      if line.startswith('content-length:')]
            await reader.readexactly(length[0])
        writer.close()
    await asyncio.gather(*[caller() for _ in range(connections)])
    return called


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


def row(name, values, targets):
    """One line of the table. `targets`: ((q, ms), ...)."""
    met = all(quantile(values, q) <= limit for q, limit in targets)
    print(json.dumps({
        'row': name, 'n': len(values), 'p50_ms': round(statistics.median(values), 1),
        'p99_ms': round(quantile(values, 0.99), 1), 'max_ms': round(max(values), 1),
        'target': ', '.join('p%d <= %g ms' % (q * 100, ms) for q, ms in targets), 'met': met}),
        flush=True)


def queued(model, turns):
    with Bench(model) as b:
        ids = fakes.submit_all(b.env, [('model', 'x')] * 200, run_at='2100-01-01')
        b.worker.end()
        ids += fakes.submit_all(b.env, [('model', 'x')] * 200)
        row('abort of a queued turn: call answered, terminal', [b.abort(i)[1] * 1000 for i in ids],
            ((0.99, 50),))


def one(model, turns):
    with Bench(model) as b:
        times = []
        for number, task_id in b.run(200):
            times += b.closed({number: b.abort(task_id)[0]})
        row('abort of a running turn: model socket closed', times, ((0.5, 25), (0.99, 100)))


def group_dies(b, script, n):
    """Milliseconds from the abort to the death of the tool's whole process group."""
    folder = fakes.folder()
    os.chmod(folder, 0o777)
    times = []
    b.env.modelsim()
    b.env.llm_agent('tool', [{'type': 'process', 'name': 'run', 'command': [
        'sh', '-c', 'echo $$ > %s/$NOCTURNE_TASK_ID.pid; %s' % (folder, script)]}])
    for _ in range(n):
        task_id = b.env.submit('tool', 'call run {} then say x')
        path = '%s/%s.pid' % (folder, task_id)
        group = int(wait_until(lambda: os.path.exists(path) and open(path).read().strip(), 10))
        time.sleep(0.2)  # its children are there
        at, _ = b.abort(task_id)
        wait_until(lambda: not group_lives(group), 10, 'the group %d to die' % group, every=0.002)
        times.append((time.monotonic() - at) * 1000)
        b.env.wait_task(task_id, status='aborted')
    return times


def group_lives(group):
    """Is there a process in it that is more than a zombie, which somebody else may reap late?"""
    for path in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(path) as f:
                state, _, pgrp = f.read().rsplit(')', 1)[1].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != 'Z':
            return True
    return False


def process(model, turns):
    with Bench(model) as b:
        row('abort in a process tool: its group is dead', group_dies(b, 'sleep 60 & sleep 60', 30),
            ((0.5, 100), (0.99, 250)))


def stubborn(model, turns):
    with Bench(model) as b:
        row('abort in a process tool that ignores SIGTERM: its group is dead',
            group_dies(b, 'trap "" TERM; while :; do sleep 1; done', 5), ((0.99, 3250),))


def many_turns(model, turns, hints, name, targets):
    with Bench(model, hints) as b:
        started = b.run(turns)
        first = time.monotonic()
        called = asyncio.run(abort_all(b.env.http.port, started))
        asked = time.monotonic() - first
        row(name, b.closed(called), targets)
        wait_until(lambda: b.env.value('select count(*) from nocturne.lease') == 0, 30)
        print('# %d calls in %.0f ms, last socket %.0f ms and last end %.0f ms after the first call'
              % (turns, asked * 1000, (max(model.closed[i] for i in called) - first) * 1000,
                 (time.monotonic() - first) * 1000), flush=True)
        b.env.check_invariants()


def many(model, turns):
    many_turns(model, turns, True, 'abort of %d running turns: model socket closed' % turns,
               ((0.5, 100), (0.99, 500)))


def many_poll(model, turns):
    many_turns(model, turns, False, 'the same without NOTIFY', ((0.99, 2500),))


ROWS = {'queued': queued, 'one': one, 'process': process, 'stubborn': stubborn, 'many': many,
        'many-poll': many_poll}


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('rows', nargs='*', metavar='ROW', help=', '.join(ROWS))
    p.add_argument('--turns', type=int, default=1000)
    args = p.parse_args()
    for name in args.rows or ROWS:
        model = Model()
        try:
            ROWS[name](model, args.turns)
        finally:
            model.close()


if __name__ == '__main__':
    main()
