"""PostgreSQL that is killed, restarted, frozen, full, read-only, without connections; long
transactions beside it; errors at any statement."""
import glob
import os
import random
import subprocess
import threading
import time
import uuid

from http.client import HTTPException

import cluster
import fakes
from harness import literal, wait_until
from load import Turn
from matrix import percentile, row, wait_for, words

SHORT = 'call note {"ms":5,"n":%d} then stream 20 tokens 30ms'


def short_turn(n):
    return Turn(SHORT % n, expect=words(20), watch=('live',) if n % 4 else ('live', 'cutter'))


def long_turn(n):
    return Turn('call once {"n":%d} then stream 150 tokens 100ms' % n, expect=words(150),
                watch=('live', 'middle'))


def busy(stage, width=40, seconds=8):
    """Steady load; the function that ends it, and turns per second without a fault."""
    end = stage.load.keep_busy(width, short_turn)
    wait_for(3)
    start = time.time()
    wait_for(seconds)
    return end, stage.load.rate(start, time.time())


def outcomes(stage, outcome):
    return stage.value("select count(*) from nocturne.attempts where outcome = '%s'" % outcome)


@row('6', 'one backend is killed each 100 ms, at random', 'throughput ≥ 70 %; 0 lost')
def backends_killed(f):
    chance = random.Random(f.seed)
    with f.stage() as stage:
        stage.standard(workers=2, apis=2)
        end, before = busy(stage, 40, 5 if f.quick else 8)
        killer, start, kills = stage.psql(), time.time(), 0
        while time.time() < start + (8 if f.quick else 30):
            kills += int(killer.run("""
                select count(pg_terminate_backend(pid)) from (
                    select pid from pg_stat_activity where application_name like 'nocturne-%%'
                    order by md5(pid || '%d') limit 1) x""" % chance.getrandbits(30))[0])
            wait_for(0.1)
        during = stage.load.rate(start, time.time())
        end()
        f.judge(stage)
        f.show('%d killed' % kills)
        f.least('throughput', 100 * during / before, 70, ' %')
        f.count('takeovers', outcomes(stage, 'lost'))


@row('7', 'PostgreSQL `restart -m immediate` every 5-40 s for 10 minutes',
     '0 lost; ≥ 90 % of the throughput within 5 s of its return; no mass rescue', quick=True)
def restarted(f):
    chance = random.Random(f.seed)
    with f.stage() as stage:
        stage.standard(workers=2, apis=2)
        end, before = busy(stage, 24)
        more = stage.load.keep_busy(10, long_turn)
        stop_at = time.time() + (25 if f.quick else 600)
        returns, away = [], []
        while time.time() < stop_at:
            wait_for(chance.uniform(5, 10 if f.quick else 40))
            down = time.time()
            stage.cluster.down('immediate')
            stage.cluster.up()
            returns.append(time.time())
            away.append(time.time() - down)
        wait_for(10)
        stop_at = time.time()
        end()
        more()
        f.judge(stage)
        rates = [100 * stage.load.rate(at + 5, at + 10) / before
                 for at, until in zip(returns, returns[1:] + [stop_at]) if until >= at + 10]
        f.show('%d restarts, away %.1f s at most' % (len(returns), max(away)))
        f.least('throughput from 5 s on', percentile(rates, 0.5), 90, ' % (median)')
        f.show('worst %.0f %%' % min(rates))
        f.count('takeovers', outcomes(stage, 'lost'))


@row('8', 'PostgreSQL frozen (SIGSTOP) for 5 and for 15 s',
     'api answers 503 ≤ 2 s; recovery ≤ 5 s; 0 lost')
def frozen(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        end, _ = busy(stage, 20, 2)
        worst, other, slowest = 0.0, 0, 0.0
        for seconds in (5,) if f.quick else (5, 15):
            thaw = stage.cluster.freeze()
            began = time.time()
            try:
                task = next(t.task_id for t in stage.load.turns if t.task_id)
                while time.time() < began + seconds:
                    answers = stage.load.ask(
                        [('GET', '/v1/tasks/' + task, None),
                         ('POST', '/v1/agents/a/tasks', {'input': 'say hi'})], 2)
                    worst = max([worst] + [took for _, took, _ in answers])
                    other += sum(status != 503 for at, took, status in answers
                                 if at + took < began + seconds)
                    wait_for(0.2)
            finally:
                thaw()
            back = time.time()
            wait_until(lambda: stage.load.rate(back, back + 60) > 0, 60, 'a turn ends again')
            slowest = max(slowest, min(t.ended_at for t in stage.load.turns
                                       if t.ended_at and t.ended_at >= back) - back)
            wait_for(3)
        end()
        f.judge(stage)
        f.time('slowest answer', worst, 2)
        f.count('answers but 503', other)
        f.time('recovery', slowest, 5)
        f.show('%d takeovers' % outcomes(stage, 'lost'))


@row('14', 'a transaction that pins the horizon of vacuum, idle for 40 s, while thousands of turns pass',
     'claims p99 ≤ 20 ms; ≤ 25 buffers a claim')
def pinned(f):
    with f.stage(extra="shared_preload_libraries = 'pg_stat_statements'") as stage:
        stage.standard(workers=2, apis=1)
        stage.execute('create extension pg_stat_statements')
        stage.put_agent('e', {'kind': 'echo'})
        pin = stage.psql()
        pin.run('begin isolation level repeatable read')
        pin.run('select count(*) from nocturne.ready')
        end = stage.load.keep_busy(8, lambda n: Turn('hello', agent='e', watch=(), wait=True))
        means, started = [], time.monotonic()
        while time.monotonic() < started + 40:
            wait_for(1)
            means += claims(stage)
        end()
        pin.run('rollback')
        f.judge(stage)
        f.show('%d turns' % len(stage.load.turns))
        f.spread('claims, means of seconds,', [m['ms'] / 1000 for m in means], None, 0.02)
        last = means[len(means) // 2:]
        f.show('%.0f buffers a claim in the first second' % means[0]['buffers'])
        f.count('in the last half', sum(m['buffers'] for m in last) / len(last), 25)


def claims(stage):
    """What claims took since this was asked last."""
    return stage.sql("""
        select total_exec_time / calls as ms,
               (shared_blks_hit + shared_blks_read)::float8 / calls as buffers,
               pg_stat_statements_reset(userid, dbid, queryid) is not null as r
        from pg_stat_statements where query like '-- Claim up to%' and calls > 0""")


def submit_large(http, until):
    """Submits that need pages of their own: [(status, Retry-After, seconds)]."""
    answers = []
    while time.time() < until:
        began = time.time()
        answer = http.post('/v1/agents/a/tasks', {'input': 'say ' + os.urandom(20000).hex()})
        answers.append((answer.status, answer.header('Retry-After'), time.time() - began))
        wait_for(0.2)
    return answers


@row('15', 'disk full under the tables for 10 s',
     '0 lost; submits answered 503 ≤ 2 s; turns end ≤ 10 s after there is space')
def disk_full(f):
    with f.stage() as stage:
        folder = stage.cluster.folder + '/small'
        os.mkdir(folder)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=200m,mode=700,uid=postgres',
                        'tmpfs', folder],
                       check=True)
        try:
            stage.cluster.psql('postgres', "create tablespace small location '%s'" % folder)
            stage.cluster.psql('postgres', 'alter database %s set tablespace small' % stage.db)
            stage.standard(workers=2, apis=1)
            end, _ = busy(stage, 20, 3)
            filler = folder + '/filler'
            with open(filler, 'wb') as file:
                try:
                    while True:
                        file.write(b'x' * 65536)
                except OSError:
                    pass
            was_full = time.time()
            answers = submit_large(stage.apis[0].http, was_full + 10)
            full = time.time()
            refused = stage.load.counts['submit 503'] + stage.load.counts['submit None']
            os.remove(filler)
            wait_until(lambda: stage.load.rate(full, full + 60) > 0, 60, 'a turn ends again')
            first = min(t.ended_at for t in stage.load.turns if t.ended_at and t.ended_at >= full)
            end()
            f.judge(stage)
            f.time('recovery', first - full, 10)
            took = [seconds for status, _, seconds in answers if status == 503]
            f.least('large submits answered 503', len(took), 5)
            f.time('slowest of them', max(took, default=0), 2)
            f.count('without Retry-After, or neither 202 nor 503',
                    sum(status != 202 and not later for status, later, _ in answers))
            f.sure('PostgreSQL had no space', 'No space left' in stage.cluster.log(10000))
            f.show('%.1f turns/s while full' % stage.load.rate(was_full, full))
            f.show('%d submits refused meanwhile, %d takeovers' % (refused, outcomes(stage, 'lost')))
            lines = max(p.log().count('\n') for p in stage.workers + stage.apis + stage.schedulers)
            f.show('%d lines in the longest log' % lines)
            stage.close()
            stage.cluster.close()
        finally:
            subprocess.run(['umount', '-l', folder], check=True)


@row('23', 'all connections taken by somebody else for 15 s; two of ours are killed meanwhile',
     '0 false deaths; 0 lost')
def connections_exhausted(f):
    with f.stage(extra='max_connections = 60') as stage:
        stage.standard(workers=2, apis=1)
        end, _ = busy(stage, 20, 2)
        hogs = []
        try:
            while len(hogs) < 100:
                hog = subprocess.Popen(stage.cluster.psql_argv(stage.db), stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                hogs.append(hog)
                hog.stdin.write(b'\\echo here\n')
                hog.stdin.flush()
                if not hog.stdout.readline():
                    break  # no connection is left
            stage.apis[0].proxy.reset()
            wait_for(15)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        end()
        f.judge(stage)
        f.show('%d hogs' % len(hogs))
        f.count('false deaths', outcomes(stage, 'lost'))


@row('25', 'PostgreSQL comes back as a read-only standby for 6 s and is promoted',
     'recovery ≤ 5 s after promotion; 0 lost')
def read_only(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        end, _ = busy(stage, 20, 2)
        data = stage.cluster.folder + '/data'
        stage.cluster.down('fast')
        with open(data + '/standby.signal', 'w'):
            pass
        os.chmod(data + '/standby.signal', 0o666)
        stage.cluster.up()
        wait_for(6)
        stage.cluster.run('pg_ctl', '-D', data, '-w', '-s', 'promote')
        back = time.time()
        wait_until(lambda: stage.load.rate(back, back + 60) > 0, 60, 'a turn ends again')
        first = min(t.ended_at for t in stage.load.turns if t.ended_at and t.ended_at >= back)
        wait_for(2)
        end()
        f.judge(stage)
        f.time('recovery', first - back, 5)
        f.show('%d takeovers' % outcomes(stage, 'lost'))


# ---- errors at every statement ----

STATES = ('40P01', '40001', '57P01', '08006')
# Of the command line; and one that has no name on the wire.
ELSEWHERE = ('doctor_', 'schema_check')


def statements():
    paths = glob.glob(os.path.join(cluster.ROOT, 'sql/queries/*.sql'))
    names = sorted(os.path.basename(p)[:-4] for p in paths)
    return [n for n in names if not n.startswith(ELSEWHERE)]


class Everything:
    """Asks for whatever the api offers, again and again, so that every statement is used."""

    def __init__(self, stage):
        self.stage, self.stop, self.failed = stage, threading.Event(), []
        self.threads = [threading.Thread(target=self.run, args=(part,), daemon=True)
                        for part in (self.agents, self.reads, self.tasks, self.genkit,
                                     self.unreadable)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def run(self, part):
        n = 0
        while not self.stop.wait(0.05):
            n += 1
            try:
                part(n)
            except (OSError, KeyError, AssertionError, ValueError, HTTPException):
                pass  # that was a fault

    def agents(self, n):
        http = self.stage.http
        http.put('/v1/agents/x%d' % (n % 3), {'kind': 'echo'}, timeout=10)
        http.get('/v1/agents', timeout=10)
        http.get('/v1/agents/x1', timeout=10)
        http.delete('/v1/agents/x%d' % ((n + 1) % 3), timeout=10)
        self.submit('hello', agent='x%d' % (n % 3))

    def reads(self, _):
        http = self.stage.http
        http.get('/v1/tasks?status=completed&limit=2', timeout=10)
        http.get('/metrics', timeout=10)
        http.get('/readyz', timeout=10)
        turn = next((t for t in self.stage.load.turns if t.status == 'completed'), None)
        if turn:
            task = http.get('/v1/tasks/%s' % turn.task_id, timeout=10).json
            http.get('/v1/sessions/%s' % task['session_id'], timeout=10)
            http.get('/v1/sessions/%s/snapshots' % task['session_id'], timeout=10)
            http.get('/v1/snapshots/%s' % turn.task_id, timeout=10)

    def tasks(self, _):
        http = self.stage.http
        asked = self.submit('call ask {"q":1} then say {{tool}}')
        http.get('/v1/tasks/%s?wait=3s' % asked, timeout=10)
        http.post('/v1/tasks/%s/resume' % asked, {'respond': [{'name': 'ask', 'output': 'y'}]},
                  timeout=10)
        http.post('/v1/tasks/%s/abort' % self.submit('wait 20000ms then say never'), {}, timeout=10)
        self.failed.append(self.submit('fail 500', max_attempts=2))
        self.submit('call keep {"name":"n","text":"1"} then say kept')
        one = {'agent': 'all', 'input': 'say one'}
        http.post('/v1/tasks', {'tasks': [one] * 3}, timeout=10)
        http.post('/v1/tasks', {'tasks': [{**one, 'session_id': 'many-%d' % i} for i in range(5)]},
                  timeout=10)
        self.submit('say later', run_at='1s')
        for failed in self.failed[:-5][-2:]:  # it has had time to
            http.post('/v1/tasks/%s/retry' % failed, {}, timeout=10)

    def unreadable(self, n):
        """A turn whose conversation cannot be read."""
        if n % 20 == 1:
            first = self.submit('say one')
            self.stage.http.get('/v1/tasks/%s?wait=5s' % first, timeout=10)
            fakes.break_conversation(self.stage, first)
            self.submit('say two', snapshot_id=first, max_attempts=1)

    def genkit(self, _):
        """The same through the other wire: a turn, its snapshot, another one that is aborted."""
        http, message = self.stage.http, {'role': 'user', 'content': [{'text': 'say hi'}]}
        turn = {'data': {'message': message}, 'init': {}}
        http.post('/genkit/all', turn, timeout=10)
        turn['data']['detach'] = True
        found = http.post('/genkit/all', turn, timeout=10).json['result']['snapshotId']
        del turn['data']['detach']
        for init in ({}, {}, {'snapshotId': str(uuid.uuid4())}):
            answer = http.post('/genkit/all?stream=true', {**turn, 'init': init}, timeout=10)
            again = {'X-Genkit-Stream-Id': answer.header('X-Genkit-Stream-Id') or ''}
            http.post('/genkit/all?stream=true', turn, headers=again, timeout=10)
        for verb in ('getSnapshot', 'waitForSnapshot', 'abort'):
            http.post('/genkit/all/' + verb, {'data': {'snapshotId': found}}, timeout=10)

    def submit(self, text, agent='all', **more):
        answer = self.stage.http.post('/v1/agents/%s/tasks' % agent, {'input': text, **more},
                                      timeout=10)
        return answer.ok(202).json['task_id']


@row('24', 'errors 40P01, 40001, 57P01 and 08006 at every statement of the daemons, under load',
     'every statement covered; 0 lost')
def statements_fail(f):
    with f.stage() as stage:
        stage.standard(workers=2, apis=1)
        stage.schedulers.pop().end()
        stage.scheduler(**{'retain-every': '1s'})
        stage.agent('a', max_attempts=50)
        stage.llm_agent('all', [{'type': 'interrupt', 'name': 'ask'},
                                {'type': 'artifact', 'name': 'keep'}], max_attempts=50)
        end = stage.load.keep_busy(10, short_turn)
        fakes.make_breakable(stage)
        everything = Everything(stage)
        everything.start()
        daemons = stage.workers + stage.schedulers + stage.apis
        wait_for(2)
        for state in STATES:
            fail_each(daemons, state, 13)
        daemons += start_each(stage) + stop_each(stage) + lose_each(stage)
        for process in daemons:
            process.proxy.heal()
        everything.end()
        end()
        f.judge(stage)
        hit = {name for process in daemons
               for name, n in process.proxy.stats()['statements'].items() if n['failed']}
        names = statements()
        f.show('%d of %d statements failed, %d times' % (
            len(hit & set(names)), len(names),
            sum(p.proxy.stats()['failed'] for p in daemons)))
        f.show('never used: ' + ', '.join(sorted(set(names) - hit)) if set(names) - hit else 'all')
        f.least('covered', 100 * len(hit & set(names)) / len(names), 100, ' %')


def start_each(stage):
    """Statements of those who start, reconnect, or have lost an answer. Returns who did."""
    started = []
    for state in STATES[1:3]:
        for name, make in (('worker_register', stage.worker), ('retain_partitions', stage.scheduler)):
            if make == stage.scheduler:  # the one that leads does not look again for long
                stage.schedulers.pop().end()
            proxy = stage.proxy()
            proxy.rules(fail=name, fail_times=2, sqlstate=state)
            process = make(database=proxy.conninfo(stage.db, stage.cluster.user))
            process.proxy = proxy
            started.append(process)
            if make == stage.worker:
                stage.workers.remove(process)
                other = process
        for name in ('notify_listen', 'session_settings', 'worker_session'):
            for process in stage.workers + stage.apis:
                process.proxy.rules(fail=name, fail_times=2, sqlstate=state)
                process.proxy.reset()
            wait_for(0.3)
        for lose, fail in (('turn_complete', 'turn_fate'), ('turn_claim', 'worker_reconcile')):
            for worker in stage.workers + [other]:
                worker.proxy.rules(lose=lose, lose_times=3, fail=fail, fail_times=2, sqlstate=state)
            wait_for(3)
        leading = stage.schedulers[0].proxy
        leading.rules(fail='worker_vanish', fail_times=2, sqlstate=state)
        failed = leading.stats()['failed']
        other.kill()
        wait_until(lambda: leading.stats()['failed'] > failed, 15, 'a worker has vanished')
    return started


def holds_leases(stage, worker):
    return stage.value('select count(*) from nocturne.lease l join nocturne.worker w using (worker_id) '
                       "where w.name = '%s'" % worker.argv[worker.argv.index('--name') + 1])


def stop_each(stage):
    """Statements of those who stop: with turns in hand, and as a leader. Returns who did."""
    stopped = []
    for state in STATES[1:3]:
        for name in ('worker_drain', 'turn_release', 'worker_leave'):
            worker = stage.worker(drain='100ms')
            wait_until(lambda: holds_leases(stage, worker), 20, 'its turn')
            worker.proxy.rules(fail=name, fail_times=1, sqlstate=state)
            worker.term()
            worker.wait(20)
            stopped.append(worker)
        stage.schedulers[0].proxy.rules(fail='leader_leave', fail_times=1, sqlstate=state)
        stage.schedulers[0].term()
        stage.schedulers[0].wait(20)
        stopped.append(stage.schedulers.pop(0))
        stage.scheduler(**{'retain-every': '1s'})
    return stopped


def lose_each(stage):
    """What follows the death of a worker with turns in hand. Returns who met it."""
    scheduler = stage.schedulers[0]
    for state in STATES[1:3]:
        worker = stage.worker()
        wait_until(lambda: holds_leases(stage, worker), 20, 'its turn')
        failed = scheduler.proxy.stats()['failed']
        scheduler.proxy.rules(fail='lease_rescue', fail_times=1, sqlstate=state)
        stage.workers.remove(worker)
        worker.kill()
        wait_until(lambda: scheduler.proxy.stats()['failed'] > failed, 30, 'its rescue fails')
    return [scheduler]


def fail_each(daemons, state, seconds):
    """Each statement that a daemon uses fails twice; all daemons at once."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=fail_of, args=(process, state, until)) for process in daemons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fail_of(process, state, until):
    left = set(statements())
    while left and time.monotonic() < until:
        stats = process.proxy.stats()
        names = sorted(n for n in left if n in stats['statements'])
        if not names:
            time.sleep(0.1)
            continue
        name = random.choice(names)
        process.proxy.rules(fail=name, fail_times=2, sqlstate=state)
        deadline = time.monotonic() + 0.6
        while time.monotonic() < deadline and process.proxy.stats()['failed'] < stats['failed'] + 2:
            time.sleep(0.03)
        if process.proxy.stats()['failed'] > stats['failed']:
            left.discard(name)
