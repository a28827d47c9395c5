"""The leading scheduler, and clocks."""
import os
import time

from harness import wait_until
from load import Turn
from matrix import row, wait_for, words


def leader(stage):
    holder = stage.value('select holder from nocturne.leader')
    return next((s for s in stage.schedulers
                 if holder.startswith(s.argv[s.argv.index('--name') + 1] + '/')), None)


def takeover(stage, harm):
    """Seconds until another scheduler leads."""
    old = leader(stage)
    term = stage.value('select term from nocturne.leader')
    began = time.time()
    harm(old)
    wait_until(lambda: stage.value('select term from nocturne.leader') > term, 40, 'another leader')
    return old, time.time() - began


@row('5', 'the leading scheduler: `kill -9`; SIGSTOP for 15 s, then SIGCONT; due turns meanwhile',
     'takeover ≤ 10 s; due turns start ≤ 12 s late; 0 double actions')
def leader_lost(f):
    with f.stage() as stage:
        stage.standard(workers=2, schedulers=2, apis=1)
        turns = []
        for i in range(60):
            turns.append(Turn('flaky 1 then say due %d' % i, expect='due %d' % i,
                              run_at='%dms' % (i * 500)))
        stage.load.start(turns)
        wait_until(lambda: all(t.task_id for t in turns), 20, 'submitted')
        killed, by_kill = takeover(stage, lambda s: s.kill())
        stage.replace(killed)
        wait_for(1)
        frozen, by_stop = takeover(stage, lambda s: s.stop())
        wait_for(max(0, 15 - by_stop))
        frozen.cont()
        stage.settle(90)
        history = f.judge(stage)
        f.time('after kill', by_kill, 10)
        f.time('after SIGSTOP', by_stop, 10)
        late = [history.attempts[t.task_id][0]['started_at'] - (t.submitted_at + i * 0.5)
                for i, t in enumerate(turns)]
        f.time('latest start', max(late), 12)
        # `flaky 1` fails once: two attempts, a third would be a retry that was released twice
        f.count('double actions', sum(len(history.attempts[t.task_id]) > 2 for t in turns))


FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1'


class Clock:
    """libfaketime for a process: what its wall clock says can be moved while it runs."""

    def __init__(self, stage, name):
        self.path = stage.cluster.folder + '/clock-' + name  # PostgreSQL's user may read it there
        self.env = {'LD_PRELOAD': FAKETIME, 'FAKETIME_TIMESTAMP_FILE': self.path,
                    'FAKETIME_CACHE_DURATION': '1', 'FAKETIME_DONT_FAKE_MONOTONIC': '1'}
        self.move(0)

    def move(self, seconds):
        with open(self.path + '.new', 'w') as f:
            f.write('%+d\n' % seconds)
        os.chmod(self.path + '.new', 0o644)
        os.replace(self.path + '.new', self.path)  # never half written


@row('17', 'clocks: workers, api and scheduler jump by an hour, forth and back',
     'unaffected: 0 takeovers, 0 lost')
def clocks_jump(f):
    with f.stage() as stage:
        stage.modelsim()
        clocks = {name: Clock(stage, name) for name in ('worker-a', 'worker-b', 'api', 'scheduler')}
        stage.scheduler(env=clocks['scheduler'].env)
        stage.worker(env=clocks['worker-a'].env)
        stage.worker(env=clocks['worker-b'].env)
        stage.api(env=clocks['api'].env)
        stage.agent('a')
        stage.watch()
        stage.options['clock'] = False  # events carry the workers' time
        end = stage.load.keep_busy(20, lambda n: Turn(
            'call note {"n":%d} then stream 20 tokens 50ms' % n, expect=words(20)))
        for seconds in (3600, 0, -3600, 0):
            for clock in clocks.values():
                clock.move(seconds)
            wait_for(5)
        end()
        history = f.judge(stage)
        f.show('%d turns' % len(stage.load.turns))
        told = [e['at'] - time.time() for events in history.stored.values() for e in events]
        f.sure('clocks did jump both ways', max(told) > 3000 and min(told) < -3000)
        f.count('takeovers', stage.value("select count(*) from nocturne.attempt where outcome = 'lost'"))


@row('17b', "clock: PostgreSQL's jumps 30 s forward, and back",
     'one round of rescue at most; fenced; 0 lost')
def database_clock_jumps(f):
    with f.stage() as stage:
        clock = Clock(stage, 'postgres')
        stage.cluster.down('fast')
        stage.cluster.run('pg_ctl', '-D', stage.cluster.folder + '/data', '-l',
                          stage.cluster.folder + '/log', '-w', '-s', 'start',
                          env={**clock.env, 'PATH': '/usr/bin:/bin'})
        stage.standard(workers=2, apis=1)
        stage.options['clock'] = False
        end = stage.load.keep_busy(20, lambda n: Turn(
            'call note {"n":%d} then stream 20 tokens 50ms' % n, expect=words(20)))
        wait_for(3)
        lost, jumped = [], []
        for seconds in (30, 0):
            clock.move(seconds)
            wait_for(8)
            jumped.append(stage.value('select extract(epoch from clock_timestamp())::float8')
                          - time.time())
            lost.append(stage.value("select count(*) from nocturne.attempt where outcome = 'lost'"))
        end()
        f.judge(stage)
        worst = stage.value("select coalesce(max(n), 0) from (select count(*) as n "
                            "from nocturne.attempt where outcome = 'lost' group by task_id) x")
        f.sure('the clock did jump', jumped[0] > 25 and abs(jumped[1]) < 5)
        f.show('%d takeovers forward, %d back' % (lost[0], lost[1] - lost[0]))
        f.count('takeovers of one turn', worst, 1)
