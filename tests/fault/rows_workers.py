"""Workers that die, are told to stop, freeze, run out of memory."""
import os
import random
import time

from harness import wait_until
from load import Turn
from matrix import charged, check, row, takeovers, wait_for, words

WATCH = ('live', 'cutter')


def long_turns(n, tag, tokens=60, every=200):
    """Turns with a tool each that stream for a while: 12 s."""
    return [Turn('call note {"ms":20,"of":"%s-%d"} then stream %d tokens %dms' % (tag, i, tokens, every),
                 expect=words(tokens), watch=WATCH) for i in range(n)]


def streaming(stage, turns):
    """Wait until all of these are in their stream."""
    wait_until(lambda: all(t.seq > 8 for t in turns), 30, 'streams')


@row('1', 'worker `kill -9`, at random moments',
     'running elsewhere p50 ≤ 3 s, p99 ≤ 12 s; 0 lost, 0 finished calls repeated', quick=True)
def worker_killed(f):
    chance, died = random.Random(f.seed), {}
    with f.stage() as stage:
        stage.standard(workers=3, apis=2)
        for cohort in range(1 if f.quick else 2):
            turns = long_turns(30 if f.quick else 90, cohort)
            stage.load.start(turns)
            wait_until(lambda: all(t.seq for t in turns), 30, 'turns run')
            for _ in range(2):  # a third death could quarantine a turn
                wait_for(chance.uniform(0.5, 3))
                victim = stage.workers[0]
                died[name_of(victim)] = time.time()
                victim.kill()
                stage.replace(victim)
            stage.settle(90, turns)
        history = f.judge(stage)
        f.spread('rescue', takeovers(history, died), 3, 12)
        again = check.repeats(history)
        f.count('finished model calls repeated', again['models'])
        f.count('finished tools repeated', again['tools'])


def name_of(worker):
    return worker.argv[worker.argv.index('--name') + 1]


@row('2', 'worker SIGTERM (`drain` 3 s)',
     'handed back turns run elsewhere ≤ 1 s after; nothing charged; claims stop ≤ 50 ms')
def worker_told_to_stop(f):
    with f.stage() as stage:
        stage.standard(workers=3, apis=1, worker={'drain': '3s'})
        turns = long_turns(90, 'term')
        stage.load.start(turns)
        streaming(stage, turns)
        more = long_turns(60, 'more', 20, 100)
        stage.load.start(more, every=0.02)
        told = {}
        for _ in range(2):
            victim = stage.workers.pop(0)
            told[name_of(victim)] = time.time()
            victim.term()
            stage.worker(wait=False, drain='3s')
            victim.wait(20)
            victim.check()
        stage.settle(60)
        history = f.judge(stage)
        f.spread('hand-back to running', takeovers(history, None, 'released'), None, 1)
        f.count('attempts charged', charged(history))
        late = [a['started_at'] - told[a['worker']] for all_ in history.attempts.values()
                for a in all_ if a['worker'] in told]
        f.time('last claim after SIGTERM', max([0] + late), 0.05)


@row('3', 'zombie: SIGSTOP for 5, 12 and 30 s, then SIGCONT',
     '0 writes visible; its model calls closed ≤ 100 ms after wake-up; 5 s cost nothing', quick=True)
def worker_frozen(f):
    with f.stage() as stage:
        stage.standard(workers=3, apis=1)
        turns = [Turn('say one two then gate g%d then stream 20 tokens 20ms' % i, watch=WATCH)
                 for i in range(60)]
        stage.load.start(turns)
        wait_until(lambda: all(t.seq >= 3 for t in turns), 30, 'streams')
        names = {w.pid: name_of(w) for w in stage.workers}
        stopped = list(zip(stage.workers, (5, 12, 12 if f.quick else 30)))
        rest = stage.worker()
        before, woke = time.time(), {}
        for worker, _ in stopped:
            worker.stop()
        for worker, seconds in stopped:
            wait_for(max(0, before + seconds - time.time()))
            woke[names[worker.pid]] = time.time()
            worker.cont()
        wait_until(lambda: all(w.log().count('fences itself') for w, s in stopped if s > 10), 10,
                   'the frozen fence themselves')
        wait_for(1)
        closed = [(r['endedAt'] / 1000, r['script']) for r in stage.sim.requests()
                  if r['status'] == 'client-closed']
        for i in range(len(turns)):
            stage.sim.open_gate('g%d' % i)
        stage.settle(60)
        history = f.judge(stage)
        owner = {t.script: {a['worker'] for a in history.attempts[t.task_id]
                            if a['outcome'] == 'lost'} for t in turns}
        latency = [at - max(woke[w] for w in owner[script] if w in woke) for at, script in closed
                   if owner[script] & set(woke)]
        f.time('calls closed after wake-up, at most', max(latency, default=float('inf')), 0.1)
        f.show('n = %d' % len(latency))
        short = names[stopped[0][0].pid]
        f.count('turns lost by 5 s', sum(a['outcome'] == 'lost' and a['worker'] == short
                                         for all_ in history.attempts.values() for a in all_))
        f.count('writes of fenced epochs', 0)  # check.py: "fenced write"
        assert rest.alive


# ---- memory ----

CGROUP = '/sys/fs/cgroup/memory'


class MemoryLimit:
    """A cgroup (v1) for a process, which the kernel kills when it takes `more` bytes than it has.
    Pages that it has stay charged to where it was."""

    def __init__(self, pid, more):
        self.path = '%s/nocturne-fault-%d' % (CGROUP, pid)
        os.mkdir(self.path)
        self.write('memory.limit_in_bytes', more)
        self.write('cgroup.procs', pid)

    def write(self, name, value):
        with open(os.path.join(self.path, name), 'w') as f:
            f.write(str(value))

    def close(self):
        os.rmdir(self.path)


@row('22', 'out of memory: the kernel kills whoever runs a turn whose answer is too large for it',
     '0 other turns lost; the turn is quarantined on the 3rd death')
def worker_out_of_memory(f):
    with f.stage() as stage:
        stage.standard(workers=2)
        turns = long_turns(30, 'oom')
        stage.load.start(turns)
        streaming(stage, turns)
        limits = []
        poison = Turn('wait 1500ms then big 200000000', watch=('live',))
        stage.load.start([poison])
        try:
            deaths = follow_and(stage, poison, lambda w: limits.append(MemoryLimit(w.pid, 4 << 20)))
        finally:
            for one in limits:
                one.close()
        stage.settle(90)
        f.judge(stage)
        f.count('deaths', deaths, 3)
        f.sure('quarantined', code_of(stage, poison) == 'QUARANTINED')
        f.count('other turns not completed', sum(t.status != 'completed' for t in turns))


def code_of(stage, turn):
    error = stage.value("select error from nocturne.done where task_id = '%s'" % turn.task_id)
    return (error or {}).get('code')


def follow_and(stage, turn, harm):
    """Do that to every worker that claims the turn, until it has ended; how many died."""
    deaths, harmed = 0, set()
    while turn.status is None:
        name = turn.task_id and stage.value(
            'select w.name from nocturne.lease l join nocturne.worker w using (worker_id) '
            "where l.task_id = '%s'" % turn.task_id)
        worker = next((w for w in stage.workers if name == name_of(w)), None)
        if worker and worker.pid not in harmed:
            harmed.add(worker.pid)
            harm(worker)
        for dead in [w for w in stage.workers if not w.alive]:
            dead.killed = True
            deaths += 1
            stage.replace(dead)
        time.sleep(0.1)
    return deaths


@row('30', 'poison turn: whoever runs it dies', '≤ 3 process deaths; quarantined; others complete')
def poison(f):
    with f.stage() as stage:
        stage.standard(workers=2)
        turns = long_turns(30, 'other', 30)
        stage.load.start(turns)
        streaming(stage, turns)
        bad = Turn('stream 500 tokens 100ms', watch=WATCH)
        stage.load.start([bad])
        deaths = follow_and(stage, bad, lambda w: w.kill())
        stage.settle(60)
        f.judge(stage)
        f.count('deaths', deaths, 3)
        f.sure('quarantined', code_of(stage, bad) == 'QUARANTINED')
        f.count('other turns not completed', sum(t.status != 'completed' for t in turns))
