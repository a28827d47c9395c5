"""`nocturne retry`: a turn that ended badly is tried again, and pays for nothing that is done."""
import collections
import os
import shutil

import fakes
import harness
from fakes import QUICK, lines_of, logging_tool, quick_scheduler
from test_crash import crash

PLAN = 'call log {} then wait 300ms then say done {{tool}}'


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


def stage(env, path=None, **agent):
    env.modelsim()
    quick_scheduler(env)
    env.api()
    env.llm_agent('a', [logging_tool('log', path or '/dev/null', idempotent=True)], **agent)


def quarantined(env, state, plan=PLAN):
    task_id = env.submit('a', plan, session_id='s')
    for _ in range(3):
        crash(env, state)
    return env.wait_task(task_id, status='failed')


def retry(env, task_id, body=None, key=None):
    return env.http.post('/v1/tasks/%s/retry' % task_id, body,
                         headers={'Idempotency-Key': key} if key else {})


def test_a_quarantined_turn_goes_on_behind_what_is_done():
    path = os.path.join(folder, 'goes-on')
    with harness.Env() as env:
        stage(env, path)
        before = quarantined(env, 'ending')
        assert before['error']['code'] == 'QUARANTINED', before
        done = env.cli('doctor', check=False).stdout
        assert '1 turns, the newest is ' + before['task_id'] in done, done
        assert 'nocturne_tasks_quarantined 1\n' in env.http.get('/metrics').text
        env.worker(**QUICK)
        shown = env.cli('retry', before['task_id'], '--wait')
        assert 'done log' in shown.stdout, shown
        old = env.task(before['task_id'])
        task = env.wait_task(old['retried_by'], status='completed')
        assert task['retry_of'] == old['task_id'] and old['status'] == 'failed', task
        assert [a['outcome'] for a in task['attempts']] == ['completed'], task
        assert lines_of(path) == [old['task_id'] + '/1/0'], lines_of(path)
        counts = collections.Counter(r['step'] for r in env.sim.requests())
        assert counts == {0: 1, 1: 4}, counts  # three that died, and ours
        events = env.stored_events(task['task_id'])
        assert fakes.text_of(events) == 'done log', events
        assert [e['type'] for e in fakes.kept(events)].count('turn.started') == 1
        assert env.events(task['task_id']).read_all()[-1].type == 'turn.ended'
        roles = [m['role'] for m in fakes.state(env, task['task_id'])['messages']]
        assert roles == ['user', 'model', 'tool', 'model'], roles
        assert 'no turns' in env.cli('doctor', check=False).stdout
        assert 'nocturne_tasks_quarantined 0\n' in env.http.get('/metrics').text
        env.check_invariants()


def test_a_tool_that_was_claimed_keeps_its_idempotency_key():
    path = os.path.join(folder, 'keeps')
    with harness.Env() as env:
        stage(env, path)
        before = quarantined(env, 'calling')
        env.worker(**QUICK)
        first = retry(env, before['task_id']).ok(202).json['task_id']
        env.wait_task(first, status='completed')
        assert lines_of(path) == [before['task_id'] + '/1/0'], lines_of(path)
        assert collections.Counter(r['step'] for r in env.sim.requests()) == {0: 1, 1: 1}
        env.check_invariants()


def test_a_retry_of_a_retry_keeps_it_too():
    path = os.path.join(folder, 'chain')
    with harness.Env() as env:
        stage(env, path)
        before = quarantined(env, 'calling')
        second = retry(env, before['task_id']).ok(202).json['task_id']
        for _ in range(3):
            crash(env, 'calling')
        env.wait_task(second, status='failed')
        env.worker(**QUICK)
        third = retry(env, second).ok(202).json['task_id']
        assert env.wait_task(third, status='completed')['retry_of'] == second
        assert lines_of(path) == [before['task_id'] + '/1/0'], lines_of(path)
        assert collections.Counter(r['step'] for r in env.sim.requests()) == {0: 1, 1: 1}
        env.check_invariants()


def test_fresh_begins_anew():
    path = os.path.join(folder, 'fresh')
    with harness.Env() as env:
        stage(env, path)
        before = quarantined(env, 'ending')
        env.worker(**QUICK)
        task_id = retry(env, before['task_id'], {'fresh': True}).ok(202).json['task_id']
        env.wait_task(task_id, status='completed')
        assert lines_of(path) == [before['task_id'] + '/1/0', task_id + '/1/0'], lines_of(path)
        assert collections.Counter(r['step'] for r in env.sim.requests()) == {0: 2, 1: 4}
        assert env.stored_events(task_id)[0]['type'] == 'turn.started'
        env.check_invariants()


def test_a_step_whose_tool_failed_is_asked_for_again():
    mark = os.path.join(folder, 'mark')
    with harness.Env() as env:
        env.modelsim()
        env.scheduler()
        env.api()
        env.worker()
        env.llm_agent('a', [
            {'type': 'process', 'name': 'ok', 'command': ['echo', 'fine']},
            {'type': 'process', 'name': 'log', 'command': ['sh', '-c', 'cat ' + mark]}],
            on_tool_error='fail')
        task_id = env.submit('a', 'call ok {} then call log {} then say got {{tool}}')
        before = env.wait_task(task_id, status='failed')
        assert before['error']['code'] == 'TOOL_FAILED', before
        with open(mark, 'w') as f:
            f.write('it')
        next_id = retry(env, task_id).ok(202).json['task_id']
        env.wait_task(next_id, status='completed')
        assert fakes.text_of(env.stored_events(next_id)) == 'got it'
        counts = collections.Counter(r['step'] for r in env.sim.requests())
        assert counts == {0: 1, 1: 2, 2: 1}, counts
        env.check_invariants()


def test_it_comes_at_the_end_of_its_session():
    with harness.Env() as env:
        stage(env)
        env.worker()
        failed = env.submit('a', 'fail 401', session_id='s', max_attempts=1)
        env.wait_task(failed, status='failed')
        env.wait_task(env.submit('a', 'say two', session_id='s'), status='completed')
        next_id = retry(env, failed).ok(202).json['task_id']
        env.wait_task(next_id, status='failed')  # the model still says no
        texts = [m['content'][0].get('text') for m in fakes.state(env, next_id)['messages']]
        assert texts == ['say two', 'two', 'fail 401'], texts
        third = retry(env, next_id).ok(202).json['task_id']
        assert env.wait_task(third)['session_id'] == 's'
        env.check_invariants()


def test_what_may_be_tried_again_and_what_not():
    with harness.Env() as env:
        stage(env)
        worker = env.worker()
        completed = env.submit('a', 'say x')
        env.wait_task(completed, status='completed')
        running = env.submit('a', 'wait 60s then say x')
        env.wait_status(running, 'running')
        for task_id in (completed, running):
            retry(env, task_id).problem(409)
        retry(env, '00000000-0000-7000-8000-000000000000').problem(404)
        retry(env, completed, {'fresh': 1}).problem(400)
        retry(env, completed, {'new': True}).problem(400)
        worker.end()
        aborted = env.submit('a', 'say again')
        env.abort(aborted)
        expired = env.submit('a', 'say again', deadline='1ms')
        env.wait_task(expired, status='expired')
        env.worker()
        for task_id in (aborted, expired):
            first = retry(env, task_id, key='k' + task_id).ok(202)
            again = retry(env, task_id, key='k' + task_id).ok(202)
            assert again.json['task_id'] == first.json['task_id']
            assert again.header('Idempotency-Replayed') == 'true'
            retry(env, task_id).problem(409)
            retry(env, task_id, {'fresh': True}, key='k' + task_id).problem(422)
            task = env.wait_task(first.json['task_id'], status='completed')
            assert task['output']['text'] == 'again' and 'deadline' not in task, task
        env.abort(running)
        env.wait_task(running)
        env.check_invariants()


def test_two_at_once_make_one():
    with harness.Env() as env:
        env.put_agent('a', {'kind': 'echo'})
        task_id = env.submit('a', 'x')
        env.abort(task_id)
        one, other = env.psql(), env.psql()
        one.run('begin')
        one.run("select nocturne.retry('%s')" % task_id)
        other.send("select nocturne.retry('%s')" % task_id)
        other.wait_blocked()
        one.run('commit')
        try:
            other.result()
            raise AssertionError('both did')
        except harness.SqlError as e:
            assert 'is being retried already' in str(e), e
        assert env.value('select count(*) from nocturne.task') == 2
        env.worker()
        env.check_invariants()
