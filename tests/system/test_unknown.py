"""A worker killed while a tool runs: nobody knows whether it took effect, and its policy decides
(`on_unknown`). What people answer, and what an endpoint sees. See test_load for many at once."""
import os
import shutil
import time

import fakes
import harness
from fakes import QUICK, lines_of, logging_tool, quick_scheduler
from harness import wait_until


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def killed_in_tool(env, task_id, called):
    """A worker runs the task until its tool is called, and is killed."""
    worker = env.worker(**QUICK)
    wait_until(called, 20, 'the tool is called')
    worker.kill()
    wait_until(lambda: env.value("select count(*) from nocturne.attempt where outcome = 'lost'"
                                 " and task_id = '%s'" % task_id), 20, 'its death is noticed')


def with_endpoint(policy, check):
    endpoint = fakes.Endpoint()
    first = []

    def answer(request):
        first.append(request)
        if len(first) == 1:
            time.sleep(3)  # the worker does not live to see it
        return 200, '"paid"'
    endpoint.answers['/pay'] = answer
    with harness.Env() as env:
        env.modelsim()
        quick_scheduler(env)
        env.llm_agent('a', [{'type': 'http', 'name': 'pay', 'url': endpoint.url + '/pay', **policy}])
        task_id = env.submit('a', 'call pay {"sum":7} then say got {{tool}}')
        killed_in_tool(env, task_id, lambda: endpoint.of('/pay'))
        env.worker(**QUICK)
        check(env, env.wait_task(task_id, status='completed'), endpoint.of('/pay'))
        assert [r['step'] for r in env.sim.requests()].count(0) == 1, 'the step is not paid again'
        env.check_invariants()
    endpoint.close()


def test_an_endpoint_that_bears_it_is_asked_again_with_the_same_key():
    def check(env, task, requests):
        keys = [r.headers['idempotency-key'] for r in requests]
        assert keys == [task['task_id'] + '/1/0'] * 2, keys
        assert task['output']['text'] == 'got paid', task
    with_endpoint({'idempotent': True}, check)


def test_an_endpoint_is_not_asked_again_unless_it_says_that_it_bears_it():
    def check(env, task, requests):
        assert len(requests) == 1, requests
        results = fakes.tool_results(fakes.state(env, task['task_id'])['messages'])
        (_, output), = results
        assert output['error']['code'] == 'OUTCOME_UNKNOWN', output
        assert 'may have taken effect' in output['error']['message'], output
        told = env.sim.requests()[-1]
        assert told['step'] == 1, told
    with_endpoint({}, check)


def asked(env, path, task_id):
    """Up to the question; its interrupt."""
    killed_in_tool(env, task_id, lambda: len(lines_of(path)) == 1)
    worker = env.worker(**QUICK)
    task = env.wait_task(task_id, status='completed')
    worker.end()
    assert task['finish_reason'] == 'interrupted', task
    interrupt, = task['interrupts']
    assert interrupt['metadata'] == {'unknown_outcome': True,
                                     'idempotency_key': task_id + '/1/0'}, interrupt
    return interrupt


def ask_stage(env, path):
    env.modelsim()
    quick_scheduler(env)
    env.llm_agent('a', [logging_tool('pay', path, 2, on_unknown='ask')])
    return env.submit('a', 'call pay {"sum":7} then say got {{tool}}')


def test_a_person_says_what_came_of_it():
    path = os.path.join(folder, 'says')
    with harness.Env() as env:
        task_id = ask_stage(env, path)
        asked(env, path, task_id)
        env.worker(**QUICK)
        next_id = fakes.resume(env, task_id, respond=[{'name': 'pay', 'output': 'it was paid'}])
        task = env.wait_task(next_id, status='completed')
        assert task['output']['text'] == 'got it was paid', task
        assert lines_of(path) == [task_id + '/1/0'], lines_of(path)
        env.check_invariants()


def test_a_person_lets_it_run_again_under_the_same_key():
    path = os.path.join(folder, 'again')
    with harness.Env() as env:
        task_id = ask_stage(env, path)
        asked(env, path, task_id)
        env.worker(**QUICK)
        next_id = fakes.resume(env, task_id, restart=[{'name': 'pay'}])
        task = env.wait_task(next_id, status='completed')
        assert task['output']['text'] == 'got pay', task
        assert lines_of(path) == [task_id + '/1/0'] * 2, lines_of(path)
        env.check_invariants()


def test_and_is_asked_again_when_that_is_unknown_too():
    path = os.path.join(folder, 'twice')
    with harness.Env() as env:
        task_id = ask_stage(env, path)
        asked(env, path, task_id)
        next_id = fakes.resume(env, task_id, restart=[{'name': 'pay'}])
        killed_in_tool(env, next_id, lambda: len(lines_of(path)) == 2)
        env.worker(**QUICK)
        task = env.wait_task(next_id, status='completed')
        interrupt, = task['interrupts']
        assert interrupt['metadata']['idempotency_key'] == task_id + '/1/0', interrupt
        last = env.wait_task(fakes.resume(env, next_id, restart=[{'name': 'pay'}]), status='completed')
        assert last['output']['text'] == 'got pay', last
        assert lines_of(path) == [task_id + '/1/0'] * 3, lines_of(path)
        env.check_invariants()
