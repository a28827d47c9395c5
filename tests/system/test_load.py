"""Many turns at once, every daemon restarted under them, workers killed in the middle: nothing is
lost, nothing finished is done again, every stream is dense."""
import collections
import shutil
import threading
import time

import cluster
import fakes
import harness
from fakes import QUICK, lines_of, logging_tool, of_type, quick_scheduler, submit_all
from harness import wait_until

CALM = {'poll': '50ms', 'beat-every': '500ms', 'beat-ttl': '3s'}  # while it forks under sanitizers
TURNS = 1000
TWENTY = ' '.join('tok%d' % i for i in range(20))


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def path(name):
    return folder + '/' + name


def wait_all(env, ids, timeout):
    """Until all are terminal; {id: row of done}."""
    def left():
        return env.value('select count(*) from nocturne.task t where not exists '
                         '(select 1 from nocturne.done d where d.task_id = t.task_id)') == 0
    wait_until(left, timeout, 'the end of all turns', every=0.25)
    rows = {r['task_id']: r for r in env.sql('select task_id, status, output, error from nocturne.done')}
    assert set(ids) <= set(rows), len(rows)
    return rows


def check_all(env, ids, text, timeout):
    rows = wait_all(env, ids, timeout)
    bad = [r for r in rows.values() if r['status'] != 'completed' or r['output']['text'] != text]
    assert not bad, (len(bad), bad[:3])
    env.check_invariants()


def check_streams(env, ids, text):
    """Each stream says what the output says, once what a reset voids is left out."""
    for task_id in ids:
        events = env.stored_events(task_id)
        assert [e['seq'] for e in events] == list(range(1, len(events) + 1)), task_id
        assert fakes.text_of(events) == text, (task_id, fakes.text_of(events))
        assert len(of_type(events, 'turn.ended')) == 1 and len(of_type(events, 'turn.started')) == 1


def times_asked(env):
    """{(script, step): requests the model saw}"""
    return collections.Counter((r['script'], r['step']) for r in env.sim.requests())


# ---- load ----

def test_a_thousand_turns_at_once_through_one_worker():
    with harness.Env() as env:
        env.modelsim()
        env.scheduler()
        env.worker(slots=1000)
        env.llm_agent('a')
        ids = submit_all(env, [('a', 'stream 20 tokens 20ms')] * TURNS)
        check_all(env, ids, TWENTY, 60)
        check_streams(env, ids[::50], TWENTY)
        assert len(env.sim.requests()) == TURNS  # none was asked twice
        found = env.value("select max(n) from (select (select count(*) from nocturne.attempts b "
                          "where b.started_at <= a.started_at and b.ended_at > a.started_at) as n "
                          "from nocturne.attempts a order by a.started_at desc limit 50) x")
        assert found > 400, found  # they did run together


class Follower(threading.Thread):
    """Follows a task through whatever happens to the api, with its cursor."""

    def __init__(self, env, task_id):
        super().__init__(daemon=True)
        self.env, self.task_id, self.events, self.cuts = env, task_id, [], 0

    def run(self):
        end = time.monotonic() + 80
        while time.monotonic() < end:
            try:
                last = self.events[-1].seq if self.events else None
                stream = self.env.events(self.task_id, last_event_id=last)
                for event in stream:
                    self.events.append(event)
                if self.events and self.events[-1].type == 'turn.ended':
                    return
            except (OSError, AssertionError):
                pass
            self.cuts += 1
            time.sleep(0.05)


def restart_worker(env, old):
    old.term()
    new = env.worker(slots=1000, **{'beat-ttl': '30s'})  # PostgreSQL may take its time
    old.wait(20)
    old.check()
    return new


def restart_scheduler(env, old):
    old.kill()
    return env.scheduler()


def restart_api(env, old):
    old.kill()
    return env.api(port=old.http.port)


def test_every_daemon_restarted_under_load():
    own = cluster.Cluster()  # PostgreSQL is restarted too, and others use the shared one
    try:
        with harness.Env(cluster_=own) as env:
            env.modelsim()
            scheduler = env.scheduler()
            worker = env.worker(slots=1000, drain='300ms')
            api = env.api()
            env.llm_agent('a', max_attempts=20)
            ids = submit_all(env, [('a', 'stream 20 tokens 400ms')] * TURNS)
            followers = [Follower(env, t) for t in ids[::50]]
            for f in followers:
                f.start()
            wait_until(lambda: all(f.events for f in followers) and
                       len(env.sim.requests()) == TURNS, 30, 'streams have begun', every=0.2)
            restart_worker(env, worker)
            restart_scheduler(env, scheduler)
            restart_api(env, api)
            wait_until(lambda: env.value('select count(*) from nocturne.lease') == TURNS, 30,
                       'all run again')
            own.down('fast')
            own.up()
            check_all(env, ids, TWENTY, 60)
            for f in followers:
                f.join(20)
                assert f.cuts > 0, 'the api was killed'
                assert [e.data for e in f.events] == env.stored_events(f.task_id), f.task_id
            check_streams(env, ids[::50], TWENTY)
            outcomes = env.sql('select outcome, count(*) as n from nocturne.attempts group by 1')
            # handed back once; the restart of PostgreSQL cost no attempt and no model call
            assert {r['outcome']: r['n'] for r in outcomes} == {'released': TURNS,
                                                                   'completed': TURNS}
            assert len(env.sim.requests()) == 2 * TURNS, len(env.sim.requests())
    finally:
        own.close()


# ---- rescue ----

def test_an_abort_closes_streams_that_rest():
    """So many streams are not read for each token; their ends and ours are heard all the same."""
    slow = ' '.join('tok%d' % i for i in range(40))
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.worker(slots=300, **CALM)
        env.llm_agent('a')
        ids = submit_all(env, [('a', 'stream 100000 tokens 10ms')] * 100 + [('a', 'stream 40 tokens 50ms')] * 100)
        wait_until(lambda: env.sim.stats()['open'] == 200, 30, 'all stream')
        for task_id in ids[:100]:
            env.abort(task_id)
        wait_until(lambda: env.sim.stats()['open'] <= 100, 10, 'the sockets of the aborted are closed')
        for task_id in ids[:100]:
            assert env.wait_task(task_id, 30)['status'] == 'aborted'
        wait_all(env, ids, 60)
        check_streams(env, ids[100:], slow)
        env.check_invariants()


def test_a_worker_killed_in_the_middle_of_streams():
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        first = env.worker(**QUICK)
        env.llm_agent('a')
        texts = ['stream 20 tokens 100ms', 'say one then wait 2000ms then say two']
        ids = submit_all(env, [('a', texts[i % 2]) for i in range(100)])
        wait_until(lambda: env.value('select count(*) from (select task_id from nocturne.chunk '
                                     'group by 1 having sum(count) > 3) x') >= 40, 15, 'streams')
        first.kill()
        env.worker(**QUICK)
        rows = wait_all(env, ids, 30)
        for i, task_id in enumerate(ids):
            row, events = rows[task_id], env.stored_events(task_id)
            assert row['status'] == 'completed', row
            assert row['output']['text'] == fakes.text_of(events), (row, events)
            reset = of_type(events, 'reset')
            assert len(reset) <= 1, events
            if reset:
                assert reset[0]['to_seq'] == 1 and reset[0]['reason'] == 'takeover', reset
        outcomes = env.sql('select distinct task_id from nocturne.attempts where outcome = '
                           "'lost'")
        assert len(outcomes) >= 90, len(outcomes)
        env.check_invariants()


def test_a_worker_killed_in_the_middle_of_tools():
    """Steps and calls that were finished are never done again; what was under way goes by its
    policy: again with the same key, a question, or a tool error."""
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        first = env.worker(**CALM)
        policies = {'again': {'idempotent': True}, 'fail': {}, 'ask': {'on_unknown': 'ask'}}
        for name, policy in policies.items():
            env.llm_agent(name, [logging_tool('done', path(name + '.done')),
                                 logging_tool('slow', path(name + '.slow'), 3, **policy)])
        script = 'call done {"n":%d} then call done {} and call slow {} then say end {{tools}}'
        rows = [(name, script % i) for i, name in enumerate(list(policies) * 4)]
        ids = submit_all(env, rows)
        wait_until(lambda: sum(len(lines_of(path(n + '.slow'))) for n in policies) == 12 and env.value(
            "select count(*) from nocturne.tool_call where status = 'done'") == 24, 20, 'in tools')
        first.kill()
        env.worker(**CALM)
        results = wait_all(env, ids, 30)
        asked = times_asked(env)
        for (name, text), task_id in zip(rows, ids):
            assert asked[text, 0] == 1 and asked[text, 1] == 1, (text, asked)
            assert asked[text, 2] == (0 if name == 'ask' else 1), (text, asked)
            keys = collections.Counter(lines_of(path(name + '.slow')))
            assert keys[task_id + '/2/1'] == (2 if name == 'again' else 1), (name, keys)
            done = collections.Counter(lines_of(path(name + '.done')))
            assert done[task_id + '/1/0'] == done[task_id + '/2/0'] == 1, (name, done)
            check_unknown(env, name, task_id, results[task_id])
        env.check_invariants()


def check_unknown(env, name, task_id, row):
    assert row['status'] == 'completed', row
    task = env.task(task_id)
    assert [a['outcome'] for a in task['attempts']] == ['lost', 'completed'], task['attempts']
    events = env.stored_events(task_id)
    kept = fakes.kept(events)
    assert len(of_type(kept, 'tool.result')) == (3 if name == 'again' else 2), events
    assert len(of_type(kept, 'tool.error')) == (name == 'fail'), events
    assert len(of_type(kept, 'interrupt')) == (name == 'ask'), events
    status = env.value("select status from nocturne.tool_call where name = 'slow' and task_id = '%s'"
                       % task_id)
    assert status == ('done' if name == 'again' else 'unknown'), status
    if name == 'ask':
        assert task['finish_reason'] == 'interrupted', task
        interrupt, = task['interrupts']
        assert interrupt['name'] == 'slow' and interrupt['metadata'] == {
            'unknown_outcome': True, 'idempotency_key': task_id + '/2/1'}, interrupt
    elif name == 'fail':
        results = dict(fakes.tool_results(fakes.state(env, task_id)['messages']))
        assert results['slow']['error']['code'] == 'OUTCOME_UNKNOWN', results


def test_a_worker_that_was_frozen_writes_nothing_after_its_time():
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        first = env.worker(**QUICK)
        env.llm_agent('a')
        ids = submit_all(env, [('a', 'stream 20 tokens 100ms')] * 30)
        wait_until(lambda: env.value('select count(*) from nocturne.chunk') > 30, 10, 'streams')
        first.stop()
        env.worker(**QUICK)
        wait_until(lambda: env.value("select count(*) from nocturne.attempts where outcome = 'lost'")
                   == 30, 10, 'rescued')
        first.cont()
        first.wait_log('fences itself')
        check_all(env, ids, TWENTY, 30)
        check_streams(env, ids, TWENTY)
        first.wait_log('registered as worker 3')  # and it is of use again
