"""A worker that dies at the worst moment of a turn; another one ends it, and pays for nothing that
was durable."""
import collections
import os
import shutil
import signal
import threading

import fakes
import harness
from crash import crash_env, states
from fakes import QUICK, lines_of, logging_tool, quick_scheduler


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def crash(env, state):
    """A worker that dies when a turn enters the state."""
    worker = env.worker(wait=False, env=crash_env('worker', 'turn.' + state), **QUICK)
    worker.killed = True
    assert worker.wait(20) == -signal.SIGKILL, worker.tail()


def test_a_turn_that_kills_its_workers_is_quarantined():
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a')
        task_id = env.submit('a', 'say never')
        for _ in range(3):
            crash(env, 'asking')
        env.worker(**QUICK)
        task = env.wait_task(task_id, status='failed')
        assert task['error']['code'] == 'QUARANTINED', task
        assert [a['outcome'] for a in task['attempts']] == ['lost'] * 3, task
        assert env.sim.requests() == []
        env.check_invariants()


def test_a_turn_that_kills_its_workers_takes_no_other_with_it():
    """Eight turns run beside it each time, and all are waiting when its workers die."""
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        fakes.short_probation(env)
        env.llm_agent('a')
        env.put_agent('killer', {'kind': 'process', 'command': ['sh', '-c', 'kill -9 $PPID']})
        innocent = [env.submit('a', 'gate poison then say ok') for _ in range(4)]
        killer = env.submit('killer', 'x')
        innocent += [env.submit('a', 'gate poison then say ok') for _ in range(4)]

        def status():
            return env.value("select nocturne.task_status('%s')" % killer)
        while status() != 'failed':
            worker = env.worker(wait=False, **QUICK)
            worker.killed = True
            harness.wait_until(lambda: not worker.alive or status() == 'failed', 40)
        assert env.task(killer)['error']['code'] == 'QUARANTINED', env.task(killer)
        env.sim.open_gate('poison')
        for task_id in innocent:
            task = env.wait_task(task_id, status='completed')
            assert [a['outcome'] for a in task['attempts']].count('lost') >= 2, task
        env.check_invariants()


# ---- in every state of a turn ----

def crash_and_finish(state, agent='a', asked=(1, 1)):
    path = os.path.join(folder, state)
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [logging_tool('log', path, idempotent=True)])
        env.put_agent('p', {'kind': 'process', 'command': ['sh', '-c', 'cat']})
        task_id = env.submit(agent, 'call log {} then wait 300ms then say done {{tool}}')
        crash(env, state)
        env.worker(**QUICK)
        task = env.wait_task(task_id, status='completed')
        if agent == 'a':
            assert task['output']['text'] == 'done log', task
            counts = collections.Counter(r['step'] for r in env.sim.requests())
            assert (counts[0], counts[1]) == asked, counts
            assert lines_of(path) == [task_id + '/1/0'], lines_of(path)
            assert fakes.text_of(env.stored_events(task_id)) == 'done log'
        ended_by = [a['outcome'] for a in task['attempts']]
        assert ended_by == (['completed'] if state == 'ended' else ['lost', 'completed']), task
        env.check_invariants()


# Model calls of each step that are paid, by the state in which the first worker dies.
STATES = {
    'fetching': {}, 'parked': {}, 'asking': {}, 'calling': {}, 'ended': {},
    'saving': {'asked': (2, 1)},  # its answer was not durable yet
    'ending': {'asked': (1, 2)},
    'working': {'agent': 'p'},
}


def test_a_crash_in_every_state_of_a_turn_costs_what_was_not_durable():
    idle = {'turn.dropping', 'turn.suspended'}  # they do nothing: test_crash_worker
    names = {name for name in states('worker')[0] if name.startswith('turn.')}
    assert names - idle == {'turn.' + state for state in STATES}, names
    threads, problems = [], []

    def run(state, more):
        try:
            crash_and_finish(state, **more)
        except Exception as e:
            problems.append('%s: %s' % (state, e))
    for state, more in STATES.items():
        threads.append(threading.Thread(target=run, args=(state, more)))
    for i in range(0, len(threads), 2):
        for thread in threads[i:i + 2]:
            thread.start()
        for thread in threads[i:i + 2]:
            thread.join()
    assert not problems, '\n'.join(problems)


# ---- what a turn had done before ----

def test_a_resumed_turn_that_crashes_takes_its_answers_again():
    path = os.path.join(folder, 'resumed')
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [logging_tool('log', path, confirm=True, idempotent=True),
                            {'type': 'interrupt', 'name': 'ask'}])
        worker = env.worker(**QUICK)
        task = env.wait_task(env.submit('a', 'call ask {} and call log {} then wait 300ms then '
                                             'say got {{tools}}'))
        worker.end()
        task_id = fakes.resume(env, task['task_id'], respond=[{'name': 'ask', 'output': 'yes'}],
                               restart=[{'name': 'log'}])
        crash(env, 'calling')
        crash(env, 'ending')
        env.worker(**QUICK)
        after = env.wait_task(task_id, status='completed')
        assert [a['outcome'] for a in after['attempts']] == ['lost', 'lost', 'completed'], after
        assert lines_of(path) == [task_id + '/0/1'], lines_of(path)
        messages = fakes.state(env, task_id)['messages']
        assert [m['role'] for m in messages] == ['user', 'model', 'tool', 'model'], messages
        assert fakes.tool_results(messages) == [('ask', 'yes'), ('log', 'log')], messages
        kept = fakes.kept(env.stored_events(task_id))
        results = [(e['name'], e['output']) for e in fakes.of_type(kept, 'tool.result')]
        assert results == [('ask', 'yes'), ('log', 'log')], kept
        env.check_invariants()


def test_a_question_that_was_asked_is_asked_once():
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [{'type': 'interrupt', 'name': 'ask'}])
        task_id = env.submit('a', 'wait 300ms then call ask {"q":1} then say {{tool}}')
        crash(env, 'saving')
        crash(env, 'ending')
        env.worker(**QUICK)
        task = env.wait_task(task_id, status='completed')
        assert task['finish_reason'] == 'interrupted' and len(task['interrupts']) == 1, task
        kept = fakes.kept(env.stored_events(task_id))
        assert len(fakes.of_type(kept, 'interrupt')) == 1, kept
        counts = collections.Counter(r['step'] for r in env.sim.requests())
        assert counts == {0: 2}, counts  # that of the step that was saved is the last
        env.check_invariants()


def test_state_and_artifacts_are_there_again_after_a_crash():
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [{'type': 'state', 'name': 'set'}, {'type': 'artifact', 'name': 'save'}])
        task_id = env.submit('a', 'call set {"a":1} and call save {"name":"n","text":"1"} then '
                                  'call set {"b":2} and call save {"name":"n","text":"2"} then '
                                  'wait 300ms then call set {"a":3} then wait 300ms then say x')
        crash(env, 'ending')
        env.worker(**QUICK)
        task = env.wait_task(task_id, status='completed')
        found = fakes.state(env, task_id)
        assert found['custom'] == {'a': 3, 'b': 2}, found
        assert [a['parts'] for a in found['artifacts']] == [[{'text': '2'}]], found
        assert task['output']['artifacts'] == found['artifacts'], task
        kept = fakes.kept(env.stored_events(task_id))
        patches = [e['patch'] for e in fakes.of_type(kept, 'state.patch')]
        assert patches == [[{'op': 'replace', 'path': '', 'value': {'a': 1}}],
                           [{'op': 'add', 'path': '/b', 'value': 2}],
                           [{'op': 'replace', 'path': '/a', 'value': 3}]], patches
        assert len(fakes.of_type(kept, 'artifact')) == 2, kept
        assert collections.Counter(r['step'] for r in env.sim.requests())[3] == 2
        env.check_invariants()
