"""A worker that dies at the worst moment of a turn; another one ends it, and pays for nothing that
was durable."""
import collections
import os
import shutil
import signal

import fakes
import harness
from fakes import QUICK, lines_of, logging_tool, quick_scheduler


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def crash(env, state):
    """A worker that dies when a turn enters the state."""
    worker = env.worker(wait=False, env={'TEST_CRASH_AT': 'turn.' + state}, **QUICK)
    worker.killed = True
    assert worker.wait(20) == -signal.SIGABRT, worker.tail()


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


def test_a_crash_in_fetching():
    crash_and_finish('fetching')


def test_a_crash_in_parked():
    crash_and_finish('parked')


def test_a_crash_in_asking():
    crash_and_finish('asking')


def test_a_crash_in_saving():
    crash_and_finish('saving', asked=(2, 1))  # its answer was not durable yet


def test_a_crash_in_calling():
    crash_and_finish('calling')


def test_a_crash_in_working():
    crash_and_finish('working', 'p')


def test_a_crash_in_ending():
    crash_and_finish('ending', asked=(1, 2))


def test_a_crash_in_ended():
    crash_and_finish('ended')
