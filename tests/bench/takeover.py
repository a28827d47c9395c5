#!/usr/bin/python3
"""How soon turns of a worker that has left run elsewhere; a table with the targets on stdout.

usage: BUILD=build tests/bench/takeover.py [ROW...] [--rounds N] [--turns N]
Rows: kill (kill -9 of a worker), term (SIGTERM; from the moment when it hands back). Default
settings; everything runs on this machine.
"""
import argparse
import os
import random
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault('BUILD', 'build')
sys.path.insert(0, os.path.join(ROOT, 'tests/system'))
import fakes  # noqa: E402
import harness  # noqa: E402
from abort import Model, row  # noqa: E402
from harness import wait_until  # noqa: E402


class Bench:
    """`turns` turns that stream on one worker after the other."""

    def __init__(self, model, turns, drain):
        self.model, self.turns = model, turns
        self.env = env = harness.Env()
        env.scheduler()
        self.drain = drain
        self.workers = [self.start()]
        env.put_agent('model', {'kind': 'llm', 'model': {
            'provider': 'openai', 'base_url': 'http://127.0.0.1:%d/v1' % model.port, 'name': 'm'}})
        self.numbers = list(range(max([-1, *model.open]) + 1, max([-1, *model.open]) + 1 + turns))

    def start(self):
        return self.env.worker(slots=2000, drain=self.drain)

    def begin(self):
        ids = fakes.submit_all(self.env, [('model', 'turn %d' % i) for i in self.numbers])
        self.wait_open()
        return ids

    def wait_open(self):
        wait_until(lambda: all(i in self.model.open for i in self.numbers), 60, 'all turns to stream')

    def round(self, leave):
        """Milliseconds until each turn runs elsewhere, from the moment that `leave` returns."""
        self.workers.append(self.start())
        time.sleep(1.5 + random.random() * 2)  # any moment between two heartbeats
        self.model.open.clear()
        at = leave(self.workers.pop(0))
        self.wait_open()
        return [(self.model.open[i] - at) * 1000 for i in self.numbers]

    def end(self):
        self.env.execute('select nocturne.abort(task_id) from nocturne.task')
        wait_until(lambda: self.env.value('select count(*) from nocturne.lease') == 0, 30)
        self.env.check_invariants()
        self.env.close()


def kill(worker):
    worker.kill()
    return time.monotonic()


def measure_kill(model, rounds, turns):
    times = []
    for start in range(0, rounds, 2):  # a third death would quarantine the turns
        b = Bench(model, turns, '10s')
        b.begin()
        for _ in range(min(2, rounds - start)):
            times += b.round(kill)
        b.end()
    row('kill -9 of a worker: its turns run elsewhere', times, ((0.5, 3000), (0.99, 12000)))


def measure_term(model, rounds, turns):
    b = Bench(model, turns, '100ms')
    ids = b.begin()
    times = []

    def term(worker):
        worker.term()
        time.sleep(0.1)  # its drain: then it hands back
        return time.monotonic()
    for _ in range(rounds):
        times += b.round(term)
    charged = b.env.value("select count(*) from nocturne.attempts where outcome <> 'released'")
    lease = b.env.sql('select distinct fails, crashes from nocturne.lease')
    assert charged == 0 and lease == [{'fails': 0, 'crashes': 0}], (charged, lease, len(ids))
    b.end()
    row('SIGTERM of a worker: its turns run elsewhere after hand-back', times, ((1.0, 1000),))


ROWS = {'kill': measure_kill, 'term': measure_term}


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('rows', nargs='*', metavar='ROW', help=', '.join(ROWS))
    p.add_argument('--rounds', type=int, default=6)
    p.add_argument('--turns', type=int, default=50)
    args = p.parse_args()
    for name in args.rows or ROWS:
        model = Model()
        try:
            ROWS[name](model, args.rounds, args.turns)
        finally:
            model.close()


if __name__ == '__main__':
    main()
