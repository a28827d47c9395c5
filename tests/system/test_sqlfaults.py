"""Every statement fails, twice, with every state that a healthy program may meet: each is tried again
and nothing is lost. The list of statements is sql/queries: a new one is in it by itself, and the
test says so until the work done here makes a daemon use it."""
import glob
import os
import re
import shutil
import time

import fakes
import harness
from cluster import MODE, ROOT
from fakes import logging_tool
from harness import wait_until

TIMES = 2
STATES = ['40P01', '40001', '57P01', '08006', '25006', '53300', '53100']
NOT_BY_DAEMONS = {  # why they are not tried again
    'doctor_live', 'doctor_oldest', 'doctor_quarantine', 'doctor_server', 'doctor_settings',
    'doctor_tables',                     # asked once by a person, who is told
    'schema_check', 'session_settings',  # part of connecting, which is tried again as a whole
}
HINTS = {'notify_listen', 'worker_controls', 'worker_session', 'worker_vanish'}
ABSENT = {'': set(), 'pgbouncer': HINTS, 'poll': HINTS | {'notify_send'}}[MODE]  # nobody listens
QUICK = {'poll': '100ms', 'beat_every': '300ms', 'beat_ttl': '3s', 'log_level': 'warn'}


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def names():
    return {os.path.basename(p)[:-4] for p in glob.glob(ROOT + '/sql/queries/*.sql')}


class Work:
    def __init__(self, state):
        self.state, self.path = state, os.path.join(folder, state)
        self.fault = {'TEST_FAIL_SQL': '%s:%d' % (state, TIMES)}
        self.env = env = harness.Env()
        env.modelsim()
        self.scheduler = self.daemon(env.scheduler, worker_ttl='3s', rescue_every='200ms', vanish='1s',
                                     retain_every='500ms', log_level='warn')
        self.api = self.daemon(env.api, log_level='warn', genkit_wait='20s')
        self.first = self.daemon(env.worker, **QUICK)

    def daemon(self, start, **settings):
        return start(wait=False, env=self.fault, **settings)

    def ask(self, method, path, body=None, want=(200, 201, 202), **kw):
        """Until it is answered otherwise than 503."""
        def asked():
            try:
                answer = self.env.http.request(method, path, body, **kw)
            except ConnectionError:
                return None  # it has not started yet
            if answer.status == 503:
                assert answer.header('Retry-After'), answer.headers
                return None
            return answer
        answer = wait_until(asked, 30, '%s %s' % (method, path), every=0.05)
        assert answer.status in want, answer
        return answer.json if answer.body else None

    def put(self, name, definition):
        self.ask('PUT', '/v1/agents/' + name, definition)

    def submit(self, agent, text, **kw):
        return self.ask('POST', '/v1/agents/%s/tasks' % agent, {'input': text, **kw})['task_id']

    def ended(self, task_id, status):
        task = self.env.value("select nocturne.task_json('%s')::json" % task_id)
        return task if task['status'] in harness.TERMINAL and (task['status'] == status) else None

    def wait(self, task_id, status='completed', timeout=40):
        return wait_until(lambda: self.ended(task_id, status), timeout, 'task ' + status)

    def wait_hit(self, process, *statements, times=TIMES):
        """Until each has failed as often as it shall in this process."""
        for name in set(statements) - ABSENT:
            wait_until(lambda: process.log().count('test: %s fails' % name) >= times, 30,
                       '%s in %s' % (name, process.name))

    # ---- what uses the statements ----

    def agents(self):
        self.put('a', {'kind': 'llm', 'model': {'provider': 'openai', 'base_url': self.env.sim.url,
                                                'name': 'sim'}, 'tools': [
            logging_tool('log', self.path, 0.1, idempotent=True, on_unknown='retry'),
            {'type': 'artifact', 'name': 'keep'}, {'type': 'interrupt', 'name': 'ask'}]})
        flag = self.path + '.flag'
        self.put('flaky', {'kind': 'process', 'max_attempts': 9, 'command': [
            'sh', '-c', 'echo x >> %s; test $(wc -l < %s) -gt 3 && echo ok' % (flag, flag)]})
        self.put('bad', {'kind': 'process', 'max_attempts': 1, 'command': ['sh', '-c', 'exit 1']})
        self.put('gone', {'kind': 'echo'})
        self.ask('GET', '/v1/agents')
        self.ask('GET', '/v1/agents/a')
        self.ask('DELETE', '/v1/agents/gone', want=(200, 204, 404))  # done, and the answer lost

    def turns(self):
        text = 'call log {} and call keep {"name":"n","text":"1"} then say done {{tool}}'
        ids = [self.submit('a', text) for _ in range(3)]
        self.flaky = self.submit('flaky', 'x')
        later = [self.submit('a', 'say later', run_at='300ms') for _ in range(2)]
        asked = self.submit('a', 'call ask {} then say got {{tool}}', session_id='s')
        bad = self.submit('bad', 'x')
        for task_id in ids + later:
            self.wait(task_id)
        self.wait(asked)
        resumed = self.ask('POST', '/v1/tasks/%s/resume' % asked,
                           {'respond': [{'name': 'ask', 'output': 'yes'}]}, want=(202, 409))
        assert resumed.get('task_id') or self.state == '08006', resumed  # done, and the answer lost
        self.wait(bad, 'failed')
        self.ask('POST', '/v1/tasks/%s/retry' % bad, want=(202, 409))
        for path in ('tasks', 'tasks/' + ids[0], 'sessions/s', 'sessions/s/snapshots',
                     'snapshots/' + ids[0]):
            self.ask('GET', '/v1/' + path)
        self.ask('GET', '/readyz')
        wait_until(lambda: self.submit_many() and
                   self.api.log().count('test: task_submit_many fails') >= TIMES, 20, 'many')
        wait_until(lambda: self.env.http.get('/metrics') and 'stats_read fails' in self.hits(), 10)
        return ids

    def submit_many(self):
        """Plain ones, and as many that name a session."""
        tasks = [{'agent': 'a', 'input': 'say one', **({'session_id': 'many-%d' % i} if i % 2 else {})}
                 for i in range(20)]
        answer = self.env.http.post('/v1/tasks', {'tasks': tasks})
        return answer.status in (200, 202, 207, 503)

    def watched(self):
        """A stream and a waiter, over a turn that is aborted."""
        task_id = self.submit('a', 'stream 2000 tokens 20ms')
        path = '/v1/tasks/%s/events' % task_id
        wait_until(lambda: self.env.http.get('/v1/tasks/' + task_id).status == 200, 10)
        wait_until(lambda: self.stream_opens(path), 20, 'a stream')
        self.env.http.get('/v1/tasks/%s?wait=3s' % task_id, timeout=20)
        if 'worker_controls' not in ABSENT:
            wait_until(self.hints_are_missed, 30, 'controls are asked for')
        self.ask('POST', '/v1/tasks/%s/abort' % task_id)
        self.wait(task_id, 'aborted')

    def hints_are_missed(self):
        """After each loss of the connection that listens, the worker asks what it has missed."""
        self.env.execute("select count(pg_terminate_backend(pid)) from pg_stat_activity where"
                         " datname = current_database() and application_name like '%-hints'")
        end = time.monotonic() + 2  # so long at most until it is back and has asked
        while self.first.log().count('test: worker_controls fails') < TIMES and time.monotonic() < end:
            time.sleep(0.05)
        return self.first.log().count('test: worker_controls fails') >= TIMES

    def stream_opens(self, path):
        stream = harness.EventStream(self.env.http, path)
        try:
            return stream.status == 200 and stream.until('content.delta')
        finally:
            stream.cut()

    def genkit(self):
        def call(path, data, **kw):
            return self.ask('POST', '/genkit/a' + path, {'data': data}, want=(200, 204, 404, 400), **kw)
        message = {'message': {'role': 'user', 'content': [{'text': 'say hi'}]}}
        for _ in range(2):
            call('', message)
        snapshot = self.env.value("select task_id::text from nocturne.snapshot order by 1 desc limit 1")
        call('/getSnapshot', {'snapshotId': snapshot})
        call('/abort', {'snapshotId': snapshot})
        for _ in range(TIMES + 1):
            self.env.http.request('POST', '/genkit/a', {'data': {}}, timeout=30,
                                  headers={'Accept': 'text/event-stream',
                                           'X-Genkit-Stream-Id': snapshot})
            self.env.http.request('POST', '/genkit/a', {'data': {'message': 7}}, timeout=30,
                                  headers={'Accept': 'text/event-stream'})

    def skipped(self):
        """An end that is skipped, because somebody holds the session, is asked about and sent again."""
        task_id = self.submit('a', 'gate held then say held', session_id='held')
        wait_until(lambda: self.env.value('select count(*) from nocturne.lease') == 1, 20, 'it runs')
        user = self.env.psql()
        user.run('begin')
        user.run("select 1 from nocturne.session where session_id = 'held' for update")
        self.env.sim.open_gate('held')
        self.wait_hit(self.first, 'turn_fate')
        user.run('commit')
        self.wait(task_id)

    def unreadable(self):
        """A turn whose conversation cannot be read."""
        first = self.submit('a', 'say one', session_id='broken')
        self.wait(first)
        fakes.make_breakable(self.env)
        fakes.break_conversation(self.env, first)
        self.wait(self.submit('a', 'say two', session_id='broken', max_attempts=1), 'failed')

    def lost_claim(self):
        """A lease that the newest worker does not know of."""
        worker = self.env.value("select max(worker_id) from nocturne.worker where state = 'live'")
        self.env.execute("""begin; lock table nocturne.ready in exclusive mode;
            select task_id from nocturne.submit('a', '"say found"');
            with r as (delete from nocturne.ready returning *)
            insert into nocturne.lease (task_id, epoch, worker_id, priority, fails, crashes)
            select task_id, nextval('nocturne.epoch'), %d, priority, fails, crashes from r;
            commit""" % worker)

    def handed_over(self):
        """One worker dies, one leaves in the middle of a turn."""
        doomed = self.daemon(self.env.worker, **QUICK)
        self.wait_hit(doomed, 'worker_register', 'worker_session')
        time.sleep(1.5)  # the leader has seen its session
        doomed.kill()
        self.lost_claim()  # nobody looks closely at a worker that holds nothing
        # a leader whose verdict failed trusts nothing it saw before, and leaves this one to its TTL
        self.wait_hit(self.scheduler, 'worker_vanish', times=1)
        self.wait_hit(self.scheduler, 'lease_rescue', 'worker_reap', 'worker_watch')
        task_id = self.submit('a', 'stream 100 tokens 50ms')
        wait_until(lambda: self.env.value('select count(*) from nocturne.chunk c join nocturne.lease l'
                                          ' using (task_id)'), 20, 'it streams')
        second = self.daemon(self.env.worker, **QUICK)
        self.wait_hit(second, 'worker_register')
        self.first.term()
        self.first.wait(30)
        self.first.expected = self.first.popen.returncode
        assert self.first.popen.returncode in (0, 1), self.first.tail()
        self.wait(task_id)

    def hits(self):
        return '\n'.join(p.log() for p in self.env.processes)


def run(state):
    work = Work(state)
    work.agents()
    work.turns()
    work.watched()
    work.genkit()
    work.wait(work.flaky)  # it has waited for its next attempts beside all that
    work.skipped()
    work.unreadable()
    for times in range(1, TIMES + 1):  # what is done when its answer is lost is not asked for again
        work.lost_claim()
        work.wait_hit(work.first, 'worker_reconcile', times=times)
    work.handed_over()
    work.wait_hit(work.scheduler, 'retain_remove', 'retain_partitions', 'due_release', 'leader_hold')
    work.env.check_invariants(deadline=40)
    for process in (work.scheduler, work.api):
        process.term()
        process.wait(30)
    found = set(re.findall(r'test: (\w+) fails', work.hits()))
    missing = names() - NOT_BY_DAEMONS - ABSENT - found
    assert not missing, 'not made to fail: %s' % sorted(missing)
    work.env.close()


def make(state):
    def test():
        run(state)
    test.__name__ = 'test_every_statement_bears_' + state.lower()
    test.timeout = 240
    return test


for state_ in STATES:
    globals()['test_every_statement_bears_' + state_.lower()] = make(state_)
