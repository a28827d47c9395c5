#!/usr/bin/python3
"""Random faults over 8 workers, 2 schedulers and 2 apis: soak.py [--minutes 60] [--seed N].

Thousands of turns with tools, watched by several subscribers each; two lanes of faults, one for
processes and one for the database and the network. Every ten minutes all is healed, the turns end, and
the history is judged. Prints what must be 0, the rescue and the throughput that was kept. A run
that fails keeps its logs. Programs come from $BUILD."""
import argparse
import collections
import os
import random
import sys
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import check  # noqa: E402
import matrix  # noqa: E402
from load import Turn  # noqa: E402
from rows_database import statements  # noqa: E402
from rows_workers import name_of  # noqa: E402
from stage import Stage  # noqa: E402

ROUND = 600      # seconds
CALM = 20        # of them without a fault, to know the throughput
WIDTH = 40       # turns under way
# What the report is made of: kinds of check.py, and the tables' invariants.
LINES = (('lost', ('lost task', 'not durable', 'lost end')),
         ('finished twice', ('two ends', 'end changed', 'one key, two tasks')),
         ('tool repeats without ledger reason', ('tool repeated', 'tool without a claim')),
         ('model calls paid twice', ('model paid twice',)),
         ('gaps', ('gap', 'ended early', 'reset missing')),
         ('duplicates', ('duplicate', 'order')),
         ('stranded', ('leaked lease', 'leaked ready', 'leaked control', 'leaked due',
                       'leaked session')),
         ('other', ()))
STATES = ('40P01', '40001', '57P01', '08006')


def make_turns(chance):
    """A function of what to submit next."""
    def make(n):
        tag, kind = '"n":%d' % n, chance.random()
        watch = chance.choice((('live',), ('live', 'cutter'), ('middle', 'after'), ('late',)))
        session = 's%d' % chance.randrange(30) if chance.random() < 0.2 else None
        if kind < 0.5:
            return Turn('call note {"ms":30,%s} then stream 20 tokens 40ms' % tag,
                        expect=matrix.words(20), watch=watch, session=session)
        if kind < 0.75:
            return Turn('call once {"ms":100,%s} and call note {%s} then call note {} '
                        'then say end' % (tag, tag), expect='end', watch=watch, session=session)
        if kind < 0.95:
            return Turn('say first then call once {%s} then stream 80 tokens 100ms' % tag,
                        expect=matrix.words(80), watch=watch)
        return Turn('call note {%s} then flaky 1 then say again' % tag, expect='again',
                    watch=watch, run_at='1s')
    return make


class Faults:
    def __init__(self, stage, chance):
        self.stage, self.chance = stage, chance
        self.died, self.counts = {}, collections.Counter()
        self.stop = threading.Event()
        self.error = None
        self.threads = [threading.Thread(target=self.lane, args=(lane,), daemon=True) for lane in (
            (self.worker_killed, self.worker_killed, self.worker_told, self.worker_frozen,
             self.api_killed, self.scheduler_killed, self.scheduler_frozen, self.abort_some),
            (self.restart, self.freeze, self.black_hole, self.lose, self.fail, self.slow,
             self.deaf, self.reset, self.terminate))]
        for thread in self.threads:
            thread.start()

    def lane(self, faults):
        chance = random.Random(self.chance.random())
        try:
            while not self.stop.wait(chance.uniform(0.5, 4)):
                fault = chance.choice(faults)
                self.counts[fault.__name__] += 1
                fault(chance)
        except Exception:
            self.error = traceback.format_exc()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.error, self.error

    # ---- processes; only this lane changes who there is ----

    def again(self, process):
        self.stage.replace(process)
        process.proxy.process.end()

    def worker_killed(self, chance):
        worker = chance.choice(self.stage.workers)
        self.died[name_of(worker)] = time.time()
        worker.kill()
        self.again(worker)

    def worker_told(self, chance):
        worker = chance.choice(self.stage.workers)
        worker.term()
        try:
            worker.wait(40)
            worker.expected = worker.popen.returncode  # 1 when it could not hand back in a fault
        finally:
            self.again(worker)

    def frozen(self, process, seconds):
        process.stop()
        self.stop.wait(seconds)
        process.cont()

    def worker_frozen(self, chance):
        self.frozen(chance.choice(self.stage.workers), chance.choice((1, 5, 15)))

    def api_killed(self, chance):
        api = chance.choice(self.stage.apis)
        api.kill()
        self.stop.wait(chance.uniform(0, 3))
        self.again(api)

    def scheduler_killed(self, chance):
        scheduler = chance.choice(self.stage.schedulers)
        scheduler.kill()
        self.again(scheduler)

    def scheduler_frozen(self, chance):
        self.frozen(chance.choice(self.stage.schedulers), 10)

    def abort_some(self, chance):
        turns = [t for t in self.stage.load.turns if t.task_id and t.status is None]
        chosen = chance.sample(turns, min(3, len(turns)))
        self.stage.load.ask([('POST', '/v1/tasks/%s/abort' % t.task_id, {}) for t in chosen], 3)

    # ---- the database and the way to it ----

    def restart(self, chance):
        self.stage.cluster.down('immediate')
        self.stop.wait(chance.choice((0, 0, 3, 12)))
        self.stage.cluster.up()

    def freeze(self, chance):
        thaw = self.stage.cluster.freeze()
        self.stop.wait(chance.choice((1, 3, 12)))
        thaw()

    def rules(self, processes, seconds, **rules):
        try:
            for process in processes:
                process.proxy.rules(**rules)
            self.stop.wait(seconds)
        except OSError:
            pass  # its proxy went with it
        for process in processes:
            try:
                process.proxy.heal()
            except OSError:
                pass

    def all(self):
        return list(self.stage.workers + self.stage.schedulers + self.stage.apis)

    def black_hole(self, chance):
        way = chance.choice(('hold', 'drop'))
        self.rules([chance.choice(self.all())], chance.choice((1, 4, 14)), to_client=way,
                   **({'to_server': way} if chance.random() < 0.5 else {}))

    def lose(self, chance):
        self.rules(self.all(), 3, lose=chance.choice(statements() + ['*', '*']), lose_times=2,
                   lose_then=chance.choice(('cut', 'hang')))

    def fail(self, chance):
        self.rules(self.all(), 3, fail=chance.choice(statements() + ['*', '*']), fail_times=3,
                   sqlstate=chance.choice(STATES))

    def slow(self, chance):
        self.rules(self.all(), 5, delay_ms=chance.choice((5, 50, 200)))

    def deaf(self, _):
        self.rules(self.all(), 5, eat_notify=True)

    def reset(self, _):
        for process in self.all():
            try:
                process.proxy.reset()
            except OSError:
                pass

    def terminate(self, _):
        self.stage.cluster.psql('postgres', "select count(pg_terminate_backend(pid)) from "
                                "pg_stat_activity where application_name like 'nocturne-%' "
                                'and random() < 0.5')


def one_round(stage, chance, seconds, totals):
    """Returns whether nothing was broken."""
    end = stage.load.keep_busy(WIDTH, make_turns(chance))
    time.sleep(5)
    start = time.time()
    time.sleep(CALM)
    calm, started = stage.load.rate(start, time.time()), time.time()
    faults = Faults(stage, chance)
    while time.time() < started + seconds - CALM - 5 and not faults.error:
        time.sleep(0.5)
    kept = stage.load.rate(started, time.time()) / calm
    faults.end()
    for process in faults.all():
        process.proxy.heal()
    try:
        end(180)
    except TimeoutError:
        print('not ended after 180 s: %s' % [t.task_id for t in stage.load.turns if not t.settled])
    history, found = stage.collect()
    report(history, found, faults, kept, totals, stage)
    return not found


def report(history, found, faults, kept, totals, stage):
    kinds, left = collections.Counter(kind for kind, _ in found), len(found)
    print('faults: ' + ', '.join('%s %d' % c for c in sorted(faults.counts.items())))
    for name, of in LINES:
        n = sum(kinds[k] for k in of) if of else left
        left -= n
        totals[name] += n
        print('%-36s %d' % (name, n))
    for kind, what in found[:20]:
        print('    %s: %s' % (kind, what))
    statuses = collections.Counter(r['status'] for r in history.ended.values())
    totals['turns'] += len(history.ended)
    rescues = matrix.takeovers(history, faults.died)
    again = check.repeats(history)
    print('turns %d: %s; %d events seen' % (
        len(history.ended), ', '.join('%d %s' % (n, s) for s, n in statuses.most_common()),
        len(history.seen)))
    print('quarantined %d' % sum((r['error'] or {}).get('code') == 'QUARANTINED'
                                 for r in history.ended.values()))
    print('finished calls made again: %(models)d of models, %(tools)d of tools' % again)
    if rescues:
        print('rescue p50 %s, p99 %s (n = %d)' % (
            matrix.spoken(matrix.percentile(rescues, 0.5)),
            matrix.spoken(matrix.percentile(rescues, 0.99)), len(rescues)))
    print('throughput kept %.0f %%' % (100 * kept))
    print('memory, MB: ' + ', '.join('%s %d' % (p.name, resident(p)) for p in faults.all()),
          flush=True)


def resident(process):
    with open('/proc/%d/status' % process.pid) as file:
        return next((int(line.split()[1]) >> 10 for line in file if line.startswith('VmRSS')), 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=60)
    parser.add_argument('--seed', type=int, default=random.randrange(10 ** 6))
    options = parser.parse_args()
    print('soak: %g minutes, seed %d, logs %s' % (options.minutes, options.seed,
                                                  os.environ.get('FAULT_LOGS', '')), flush=True)
    chance, totals, good = random.Random(options.seed), collections.Counter(), True
    stop_at = time.time() + 60 * options.minutes
    with Stage('soak-%d' % options.seed, options.seed, extra='max_connections = 400') as stage:
        stage.standard(workers=8, schedulers=2, apis=2, worker={'drain': '2s'})
        stage.agent('a', max_attempts=50)
        while good:
            good = one_round(stage, chance, min(ROUND, max(60, stop_at - time.time())), totals)
            if time.time() > stop_at - 60 or not good:
                break
            stage.next_round()
        if not good:
            stage.keep()
    broken = sum(n for name, n in totals.items() if name != 'turns')
    print('%d turns, seed %d: %s' % (totals['turns'], options.seed,
                                     'all is well' if not broken else '%d violations' % broken))
    return 1 if broken else 0


if __name__ == '__main__':
    sys.exit(main())
