"""Turns that a turn starts: its abort aborts them, too; its other ends leave them alone."""
import shutil

import fakes
import harness
from fakes import QUICK, quick_scheduler
from harness import program, wait_until

LONG = 'stream 100000 tokens 20ms'


def setup():
    global env, folder
    env, folder = harness.Env(), fakes.folder()
    env.modelsim()
    quick_scheduler(env)
    env.api(notify='on')
    env.worker(**QUICK)
    script = ('import json, subprocess, sys, time\n'
              'a = json.load(sys.stdin)\n'
              'subprocess.run([%r, "submit", "--url", %r, a["agent"], a["text"]], check=True,\n'
              '               stdout=sys.stderr)\n'
              'time.sleep(300)\n'
              % (program('nocturne'), env.http.base_url))
    for name in ('a', 'b'):
        env.llm_agent(name, [{'type': 'process', 'name': 'start',
                              'command': ['/usr/bin/python3', '-c', script]}])
    env.llm_agent('c')


def teardown():
    env.close()
    shutil.rmtree(folder, ignore_errors=True)


def post(body, agent='c'):
    return env.http.post('/v1/agents/%s/tasks' % agent, {'input': LONG, **body})


def only_task_of(agent):
    tasks = wait_until(lambda: env.http.get('/v1/tasks?agent=' + agent).json['tasks'], 20,
                       'a turn of ' + agent)
    assert len(tasks) == 1, tasks
    return tasks[0]


def test_an_abort_reaches_children_and_their_children():
    root = env.submit('a', 'call start {"agent": "b", "text": "call start {\\"agent\\": \\"c\\", '
                      '\\"text\\": \\"%s\\"}"}' % LONG)
    child, grandchild = only_task_of('b'), only_task_of('c')
    assert (child['parent'], grandchild['parent']) == (root, child['task_id'])
    queued = post({'parent': root, 'session_id': grandchild['session_id']}).ok(202).json['task_id']
    later = post({'parent': child['task_id'], 'run_at': '1h'}).ok(202).json['task_id']
    other = env.submit('c', LONG)
    for task_id in (grandchild['task_id'], other):
        env.wait_status(task_id, 'running')
    env.abort(root)
    assert env.wait_task(root, status='aborted')['abort'].get('reason') != 'its parent was aborted'
    for task_id in (child['task_id'], grandchild['task_id'], queued, later):
        task = env.wait_task(task_id, status='aborted', timeout=10)
        assert task['abort']['reason'] == 'its parent was aborted', task
    assert env.task(other)['status'] == 'running'
    shown = env.cli('show', queued).stdout
    assert 'parent' in shown and root in shown, shown
    env.abort(other)
    env.wait_task(other, status='aborted')
    env.check_invariants()


def test_other_ends_of_the_parent_leave_its_children_alone():
    parent = env.submit('c', 'gate p then say x')
    env.wait_status(parent, 'running')
    child = post({'parent': parent, 'input': 'gate q then say y'}).ok(202).json['task_id']
    env.wait_status(child, 'running')
    env.sim.open_gate('p')
    env.wait_task(parent, status='completed')
    env.abort(parent)  # too late, for both
    assert env.value("select count(*) from nocturne.due where kind = 'abort'") == 0
    env.sim.open_gate('q')
    env.wait_task(child, status='completed')


def test_a_deadline_of_the_parent_stops_its_children():
    parent = env.submit('c', LONG, deadline='1s')
    child = post({'parent': parent}).ok(202).json['task_id']
    env.wait_task(parent, status='expired')
    env.wait_task(child, status='aborted', timeout=10)


def test_children_of_a_turn_that_its_worker_ends_at_the_deadline_are_stopped():
    """The worker knows the deadline, too, and may be first."""
    scheduler = next(p for p in env.processes if p.name.startswith('nocturne-scheduler'))
    parent = env.submit('c', LONG, deadline='3s')
    child = post({'parent': parent}).ok(202).json['task_id']
    env.wait_status(parent, 'running')
    scheduler.stop()
    try:
        env.wait_task(parent, status='expired')
    finally:
        scheduler.cont()
    env.wait_task(child, status='aborted', timeout=15)


def test_who_may_be_a_parent():
    parent = env.submit('c', 'say x')
    env.wait_task(parent, status='completed')
    over = post({'parent': parent})
    assert over.status == 409 and 'is over' in over.text, over.text
    unknown = post({'parent': '00000000-0000-7000-8000-000000000000'})
    assert unknown.status == 404 and 'to be the parent' in unknown.text, unknown.text
    assert post({'parent': 'x'}).status == 400
    many = env.http.post('/v1/tasks', {'tasks': [
        {'agent': 'c', 'input': 'say x', 'parent': parent}, {'agent': 'c', 'input': 'say x'}]})
    assert many.status == 207, many.text
    assert [sorted(t)[0] for t in many.json['tasks']] == ['error', 'created_at'], many.text
    shown = env.cli('submit', 'c', 'say x', check=False, env={'NOCTURNE_TASK_ID': parent})
    assert 'is over' in shown.stderr, shown
    env.cli('submit', 'c', 'say x', '--parent', 'none', env={'NOCTURNE_TASK_ID': parent})


def test_a_key_gives_the_child_again_after_its_parent_is_over():
    parent = env.submit('c', 'gate k then say x')
    env.wait_status(parent, 'running')
    child = env.submit('c', 'say y', parent=parent, key='child-key')
    env.sim.open_gate('k')
    env.wait_task(parent, status='completed')
    assert env.submit('c', 'say y', parent=parent, key='child-key') == child


def test_a_retry_stays_a_child_while_its_parent_lives():
    parent = env.submit('c', 'gate r then say x')
    env.wait_status(parent, 'running')
    child = post({'parent': parent}).ok(202).json['task_id']
    for kept in (True, False):
        env.abort(child)
        env.wait_task(child, status='aborted')
        if not kept:
            env.sim.open_gate('r')
            env.wait_task(parent, status='completed')
        child = env.http.post('/v1/tasks/%s/retry' % child).ok(202).json['task_id']
        assert env.task(child).get('parent') == (parent if kept else None)
    env.abort(child)
    env.wait_task(child, status='aborted')


def test_an_abort_and_a_new_child_do_not_miss_each_other():
    parent = env.submit('c', LONG)
    env.wait_status(parent, 'running')
    starts, stops = env.psql(), env.psql()
    starts.run('begin')
    child = starts.run("select task_id from nocturne.submit('c', '\"%s\"', p_options => "
                       "'{\"parent\": \"%s\"}')" % (LONG, parent))[0]
    stops.send("select nocturne.abort('%s')" % parent)
    stops.wait_blocked()
    starts.run('commit')
    assert stops.result() == ['aborting']
    env.wait_task(child, status='aborted', timeout=10)
    env.wait_task(parent, status='aborted')
    env.check_invariants()


def test_nothing_is_left_of_removed_ones():
    parent = env.submit('c', LONG)
    child = post({'parent': parent}).ok(202).json['task_id']
    env.abort(parent)
    for task_id in (parent, child):
        env.wait_task(task_id, status='aborted')
    env.value("select removed from nocturne.remove_expired(clock_timestamp() + interval '1 day', "
              "'00000000-0000-0000-0000-000000000000', 10000)")
    assert env.value('select count(*) from nocturne.child') == 0
