"""What a turn needs cannot be read, on any worker: a page of the database is broken, or a conversation
has outgrown what it can hold. Such a turn is charged and fails; others and its own later are not held
up."""
import fakes
import harness
from fakes import break_conversation, of_type, quick_scheduler, submit_all
from harness import wait_until

QUICK = {'poll': '50ms', 'beat_every': '300ms', 'beat_ttl': '1s'}


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    quick_scheduler(env)
    env.api()
    env.llm_agent('a', max_attempts=2)
    env.put_agent('e', {'kind': 'echo'})
    fakes.make_breakable(env)
    start_worker()


def start_worker():
    global worker
    worker = env.worker(**QUICK)


def teardown():
    env.execute("""drop function nocturne.messages_json(uuid);
        alter function nocturne.messages_whole(uuid) rename to messages_json;
        drop table nocturne.test_broken""")
    env.check_invariants()


def outcomes(task):
    return [a['outcome'] for a in task['attempts']]


def dense(events):
    return [e['seq'] for e in events] == list(range(1, len(events) + 1))


def talk(session, text='say hello', **kw):
    return env.submit('a', text, session_id=session, **kw)


def heals(task_id):
    env.execute("delete from nocturne.test_broken where task_id = '%s'" % task_id)


def running(task_id):
    return env.value("select count(*) from nocturne.lease where task_id = '%s'" % task_id)


def broken_session(name, *code):
    task_id = talk(name)
    env.wait_task(task_id, status='completed')
    break_conversation(env, task_id, *code)
    return task_id


def test_it_fails_after_its_attempts():
    broken_session('lost')
    task_id = talk('lost', 'say never')
    others = submit_all(env, [('e', str(i)) for i in range(200)])
    task = env.wait_task(task_id, status='failed')
    assert task['error']['code'] == 'UNREADABLE' and 'toast' in task['error']['message'], task
    assert outcomes(task) == ['retry', 'failed'], task
    events = env.stored_events(task_id)
    assert dense(events) and events[-1]['type'] == 'turn.ended', events
    for other in others:
        env.wait_task(other, status='completed')
    assert not [r for r in env.sim.requests() if 'never' in str(r)]


def test_one_that_is_too_large_holds_nobody_up():
    """The server has no memory, or not the time, for it; but for others."""
    for name, code in ('memory', '53200'), ('time', '57014'):
        broken_session(name, code)
        task_id = talk(name, 'say never')
        wait_until(lambda: running(task_id), 10, 'it is claimed')
        env.wait_task(env.submit('e', 'x'), 5, 'completed')
        task = env.wait_task(task_id, status='failed')
        assert outcomes(task) == ['retry', 'failed'] and code in task['error']['message'], task


def test_it_goes_on_when_it_can_be_read_again():
    broken = broken_session('healed')
    task_id = talk('healed', 'say again')
    wait_until(lambda: outcomes(env.task(task_id))[:1] == ['retry'], 10, 'its first attempt')
    heals(broken)
    task = env.wait_task(task_id, status='completed')
    assert outcomes(task) == ['retry', 'completed'] and task['output']['text'] == 'again', task


def test_its_stream_stays_one_when_it_had_begun():
    broken = broken_session('begun')
    heals(broken)
    task_id = talk('begun', 'stream 400 tokens 50ms')
    wait_until(lambda: len(env.stored_events(task_id)) > 5, 10, 'its first events')
    worker.kill()
    break_conversation(env, broken)
    start_worker()
    task = env.wait_task(task_id, status='failed')
    assert outcomes(task) == ['lost', 'retry', 'failed'] and task['error']['code'] == 'UNREADABLE', task
    events = env.stored_events(task_id)
    assert dense(events) and events[-1]['type'] == 'turn.ended', events
    assert len(of_type(events, 'turn.ended')) == 1, events


def test_an_abort_beats_it():
    broken_session('aborted')
    task_id = talk('aborted', 'say never', max_attempts=9)
    wait_until(lambda: outcomes(env.task(task_id))[:1] == ['retry'], 10, 'its first attempt')
    env.abort(task_id)
    env.wait_task(task_id, status='aborted')


def test_a_model_and_its_tool_may_nest_as_deep_as_they_like():
    """The next turn has forgotten nothing of it, nor what came before."""
    deep = '[' * 997 + ']' * 997
    calls = [{'index': i, 'id': 'c%d' % i, 'function': {'name': 'nest', 'arguments': arguments}}
             for i, arguments in enumerate((deep, '{}'))]
    server = fakes.RawServer()
    server.scripts['deep'] = [
        fakes.send(fakes.head(), fakes.frame({'tool_calls': calls}), fakes.frame({}, 'tool_calls'),
                   fakes.DONE), fakes.spoken('done'), fakes.spoken('more')]
    env.llm_agent('deep', [{'type': 'process', 'name': 'nest', 'command': ['echo', deep]}],
                  model={'provider': 'openai', 'base_url': server.url('deep'), 'name': 'm'})
    for _ in range(2):
        env.wait_task(env.submit('deep', 'hello', session_id='deep'), status='completed')
    messages = server.requests['deep'][-1].json['messages']
    server.close()
    assert [m['role'] for m in messages] == ['user', 'assistant', 'tool', 'tool', 'assistant', 'user']
    assert messages[1]['tool_calls'][0]['function']['arguments'].count('[') == 997, messages[1]
    assert messages[3]['content'].count('[') == 997, messages[3]


def test_what_is_stored_is_never_forgotten():
    """A conversation, or a ledger, that is there and cannot be read ends the turn."""
    deep = '[' * 1001 + ']' * 1001
    task_id = talk('too-deep')
    env.wait_task(task_id, status='completed')
    env.execute("""update nocturne.snapshot set messages = '[{"role":"user","content":[{"data":%s}]}]'
                   where task_id = '%s'""" % (deep, task_id))
    task = env.wait_task(talk('too-deep'), status='failed')
    assert task['error']['code'] == 'UNREADABLE' and outcomes(task) == ['failed'], task


def test_nobody_is_charged_for_a_table_that_is_missing():
    env.execute('alter function nocturne.messages_whole(uuid) rename to messages_gone')
    task_id = talk('healed', 'say patience')
    worker.wait_log('task %s cannot be loaded and is left out' % task_id, 10)
    env.execute('alter function nocturne.messages_gone(uuid) rename to messages_whole')
    task = env.wait_task(task_id, status='completed')
    assert set(outcomes(task)) == {'released', 'completed'}, task
