"""The network between a daemon and PostgreSQL: black holes, lost answers, resets, no notifications."""
import time

from harness import wait_until
from load import Turn
from matrix import check, first_events, row, takeovers, wait_for
from rows_database import busy, outcomes, short_turn, statements
from rows_workers import name_of


def cut_off(f, stage, turns, rules):
    """Do that to one worker's proxy until others have its turns; heal; the judged history."""
    most = stage.value('select w.name from nocturne.lease l join nocturne.worker w using '
                       '(worker_id) group by 1 order by count(*) desc limit 1')
    victim = next(w for w in stage.workers if name_of(w) == most)
    began = time.time()
    victim.proxy.rules(**rules)
    victim.wait_log('is suspended|fences itself', 30)
    suspended = time.time()
    wait_until(lambda: outcomes(stage, 'lost') and not stage.value(
        'select count(*) from nocturne.lease l join nocturne.worker w using (worker_id) '
        "where w.name = '%s'" % name_of(victim)), 40, 'others have its turns')
    wait_for(2)
    victim.proxy.heal()
    victim.wait_log('fences itself', 30)
    wait_for(0.5)  # its calls are closed before the gates open
    for i in range(len(turns)):
        stage.sim.open_gate('b%d' % i)
    stage.settle(60)
    history = f.judge(stage)
    f.time('starts and writes nothing after', suspended - began, 10)
    f.spread('taken over', takeovers(history, {name_of(victim): began}), None, 15)
    leases = [s[1][0] for t in turns for s in [check.spans(history, t.task_id)] if len(s) > 1]
    f.time('acts under the next lease for', max(0, suspended - min(leases)), 0)


def gated(n):
    return [Turn('say one two then gate b%d then stream 10 tokens 20ms' % i) for i in range(n)]


@row('9', 'black hole between a worker and PostgreSQL, both ways',
     'others take over ≤ 15 s; it acts no more ≤ 10 s; 0 ms overlap with the next lease', quick=True)
def black_hole(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        turns = gated(40)
        stage.load.start(turns)
        wait_until(lambda: all(t.seq >= 3 for t in turns), 30, 'streams')
        cut_off(f, stage, turns, {'to_server': 'drop', 'to_client': 'drop'})


@row('9b', 'black hole one way: nothing of PostgreSQL reaches a worker; what it sends arrives',
     'others take over ≤ 15 s; 0 ms overlap; 0 lost')
def black_hole_one_way(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        turns = gated(40)
        stage.load.start(turns)
        wait_until(lambda: all(t.seq >= 3 for t in turns), 30, 'streams')
        cut_off(f, stage, turns, {'to_client': 'drop'})


@row('10', 'answers are lost after the commit, at every statement under load; then of claims alone',
     '0 stranded; lost claims found ≤ 1 heartbeat (2 s)', quick=True)
def answers_lost(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        end, _ = busy(stage, 20, 1)
        for then in ('cut', 'hang')[:1 if f.quick else 2]:
            for name in statements():
                for process in stage.workers + stage.schedulers + stage.apis:
                    if name in process.proxy.stats()['statements']:
                        process.proxy.rules(lose=name, lose_times=1, lose_then=then)
                wait_for(0.05 if f.quick else 0.15)
        everybody = stage.workers + stage.schedulers + stage.apis
        for process in everybody:
            process.proxy.heal()
        end(120)
        lost = sum(p.proxy.stats()['lost'] for p in everybody)
        hit = {name for p in everybody for name, n in p.proxy.stats()['statements'].items()
               if n['lost']}
        before = outcomes(stage, 'released')
        for i in range(2 if f.quick else 5):
            for worker in stage.workers:
                worker.proxy.rules(lose='turn_claim')
            stage.load.start([short_turn(1000 + 10 * i + n) for n in range(10)])
            wait_for(3)
        for worker in stage.workers:
            worker.proxy.heal()
        stage.settle(60)
        history = f.judge(stage)
        f.show('%d answers of %d statements lost' % (lost, len(hit)))
        found = [a['ended_at'] - a['started_at'] for all_ in history.attempts.values()
                 for a in all_ if a['outcome'] == 'released']
        f.show('%d claims stranded for a while' % (outcomes(stage, 'released') - before))
        f.spread('found', found, None, 2.5)
        f.count('takeovers', outcomes(stage, 'lost'))


@row('11', 'RST to every connection of every daemon, each 2 s for 20 s', 'new connections ≤ 200 ms; 0 lost')
def reset(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=2)
        end, before = busy(stage, 30, 6)
        everybody = stage.workers + stage.schedulers + stage.apis
        start, back = time.time(), []
        for _ in range(10):
            for process in everybody:
                n, at = len(process.proxy.stats()['arrivals']), time.time()
                process.proxy.reset()
                wait_until(lambda: len(process.proxy.stats()['arrivals']) > n, 10, 'a connection')
                back.append(process.proxy.stats()['arrivals'][n] / 1000 - at)
            wait_for(2)
        during = stage.load.rate(start, time.time())
        end()
        f.judge(stage)
        f.spread('first connection back', back, None, 0.2)
        f.show('throughput %.0f %%' % (100 * during / before))
        f.count('takeovers', outcomes(stage, 'lost'))


@row('13', 'every NOTIFY is lost, for ever', 'turns start p99 ≤ 2 s; nothing else changes')
def no_notify(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=2)
        everybody = stage.workers + stage.schedulers + stage.apis
        for process in everybody:
            process.proxy.rules(eat_notify=True)
        turns = [short_turn(n) for n in range(60 if f.quick else 200)]
        stage.load.start(turns, every=0.1)
        stage.settle(90)
        history = f.judge(stage)
        starts = [min(first_events(history, t.task_id).values()) - t.answered_at for t in turns]
        f.spread('submit to start', starts, None, 2)
        f.spread('submit to first event seen', [t.first_event_at - t.answered_at for t in turns],
                 None, 4)
        f.show('%d notifications eaten' % sum(p.proxy.stats()['eaten'] for p in everybody))


@row('9c', 'slow network: 100 ms more each way, on every connection',
     '0 takeovers; every turn completes')
def slow_network(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        for process in stage.workers + stage.schedulers + stage.apis:
            process.proxy.rules(delay_ms=100)
        turns = [short_turn(n) for n in range(60)]
        stage.load.start(turns, every=0.15)
        stage.settle(90)
        f.judge(stage)
        took = [t.ended_at - t.submitted_at for t in turns]
        f.spread('submit to end (0.6 s of it is the model)', took)
        f.count('takeovers', outcomes(stage, 'lost'))
