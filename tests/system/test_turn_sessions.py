"""Turns of one session: their order, what the model sees of earlier ones, branches, snapshots."""
import json
import time

import fakes
import harness
from fakes import state, submit_all


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms')
    env.api()
    env.llm_agent('a', instructions='Be terse.')
    env.llm_agent('tools', [{'type': 'process', 'name': 'now', 'command': ['echo', '12:00']},
                            {'type': 'state', 'name': 'setStatus'}])
    env.llm_agent('client', state='client')


def teardown():
    env.check_invariants()


def turn(text, agent='a', **kw):
    return env.wait_task(env.submit(agent, text, **kw), status='completed')


def texts(messages):
    return [(m['role'], ''.join(p.get('text', '') for p in m['content'])) for m in messages]


def test_a_task_without_a_session_makes_one_of_its_own_id():
    task = turn('say hi')
    assert task['session_id'] == task['task_id'], task


def test_fresh_is_what_begins_a_session_of_its_own():
    """Its claim brings its request along and nothing is looked up (turn_claim), so there must be nothing else."""
    with harness.Env() as env:
        env.scheduler()
        env.put_agent('e', {'kind': 'echo'})

        def submit(more=''):
            return env.value("select task_id from nocturne.submit('e', '\"hi\"'%s)" % more)

        def fresh(task_id):
            return env.value("select fresh from nocturne.ready where task_id = '%s'" % task_id)

        first = submit()
        assert fresh(first) is True
        assert fresh(submit(", p_key => 'k'")) is True
        for more in (", p_session => 's'", ", p_deadline => now() + interval '1 hour'", ", p_options => '{\"state\": {}}'"):
            assert fresh(submit(more)) is False, more
        early = submit(", p_run_at => now() + interval '4 s'")
        late = submit(", p_run_at => now() + interval '4 s'")
        before = submit(", p_session => '%s'" % late)  # in the session that `late` would have begun
        many = env.sql("""select * from nocturne.submit_many(array['e', 'e', 'e'], array['1', '1', '1'], array[null, 'm', null], null, null,
            array[5, 5, 5], null, null, array[null, null, now() + interval '1 hour'], array['k1', 'k2', 'k3'], null, array['1', '2', '3'],
            'default') order by place""")
        assert [fresh(m['task_id']) for m in many] == [True, False, False]
        worker = env.worker()
        env.wait_task(before, status='completed')
        worker.end()
        harness.wait_until(lambda: fresh(early) is not None and fresh(late) is not None, 10, 'both are due')
        assert (fresh(early), fresh(late)) == (True, False)
        env.worker()
        for task_id in (first, early, late):
            env.wait_task(task_id, status='completed')
        env.check_invariants()


def test_the_model_sees_the_conversation():
    session = turn('say one')['session_id']
    turn('say two', session_id=session)
    task = turn('say {{history}} / {{users}} / {{n}} / {{system}}', session_id=session)
    assert task['output']['text'] == 'say one|say two / 3 / 5 / Be terse.', task['output']
    messages = env.sim.requests()[-1]['messages']
    assert [(m['role'], m['content']) for m in messages] == [
        ('system', 'Be terse.'), ('user', 'say one'), ('assistant', 'one'), ('user', 'say two'),
        ('assistant', 'two'), ('user', 'say {{history}} / {{users}} / {{n}} / {{system}}')], messages


def test_calls_and_results_of_earlier_turns_are_seen_too():
    session = turn('call now {} then say {{tool}}', 'tools')['session_id']
    turn('say next', 'tools', session_id=session)
    messages = env.sim.requests()[-1]['messages']
    assert [m['role'] for m in messages] == ['user', 'assistant', 'tool', 'assistant', 'user'], messages
    assert messages[1]['tool_calls'][0]['function']['name'] == 'now', messages
    assert messages[1]['tool_calls'][0]['id'] == messages[2]['tool_call_id'], messages


def test_reasoning_is_kept_but_not_sent_back():
    session = turn('reason let me think then say done')['session_id']
    task = turn('say next', session_id=session)
    messages = env.sim.requests()[-1]['messages']
    assert messages[2] == {'role': 'assistant', 'content': 'done'}, messages
    stored = state(env, task['task_id'])['messages'][1]
    assert [list(p) for p in stored['content']] == [['reasoning'], ['text']], stored


def test_parts_and_images_of_a_message_reach_the_model():
    content = [{'text': 'say look '}, {'media': {'url': 'data:image/png;base64,AA=='}},
               {'text': 'here'}]
    task = env.wait_task(env.submit('a', {'message': {'role': 'user', 'content': content}}))
    assert task['status'] == 'completed', task
    sent = env.sim.requests()[-1]['messages'][-1]['content']
    assert [p['type'] for p in sent] == ['text', 'image_url', 'text'], sent
    assert sent[1]['image_url']['url'].startswith('data:image/png'), sent
    assert state(env, task['task_id'])['messages'][0]['content'] == content


def test_any_text_survives_the_way_there_and_back():
    text = 'say "quoted" \\ back/slash Grüße 日本語 😀 \u200d \ttab <b>&amp;</b> ﷽ \x7f end'
    task = turn(text)
    assert task['output']['text'] == text[4:], task['output']
    assert env.sim.requests()[-1]['messages'][-1]['content'] == text
    assert fakes.text_of(env.stored_events(task['task_id'])) == text[4:]


def test_an_input_that_is_no_message_is_refused():
    rows = [('a', v) for v in (5, None, ['x'], {}, {'message': {}}, {'message': {'role': 'system',
            'content': 'x'}}, {'message': {'role': 'user', 'content': []}},
            {'message': {'role': 'user', 'content': [{'nothing': 1}]}},
            {'message': {'role': 'user', 'content': [{'media': {}}]}})]
    for task_id in submit_all(env, rows):
        task = env.wait_task(task_id, status='failed')
        assert task['error']['code'] == 'INVALID_INPUT', task
        assert len(task['attempts']) == 1, task  # once is enough


def test_twenty_turns_of_a_session_run_in_their_order_one_at_a_time():
    first = env.submit('a', 'gate start then say t0', session_id='serial')
    env.wait_status(first, 'running')
    rest = submit_all(env, [('a', 'say t%d' % i) for i in range(1, 20)], session_id='serial')
    assert env.value("select cardinality(queue) from nocturne.session "
                     "where session_id = 'serial'") == 19
    env.sim.open_gate('start')
    tasks = [env.wait_task(t, status='completed') for t in [first] + rest]
    for before, after in zip(tasks, tasks[1:]):
        assert before['finished_at'] <= after['started_at'], (before, after)
    messages = state(env, rest[-1])['messages']
    assert [t for _, t in texts(messages)] == [x for i in range(20) for x in (
        ('gate start then ' if i == 0 else '') + 'say t%d' % i, 't%d' % i)], texts(messages)


def test_turns_of_other_sessions_do_not_wait():
    held = env.submit('a', 'gate other then say held', session_id='held')
    started = time.monotonic()
    turn('say free', session_id='free')
    assert time.monotonic() - started < 5 and env.task(held)['status'] == 'running'
    env.sim.open_gate('other')
    env.wait_task(held, status='completed')


def test_a_failed_turn_leaves_the_session_as_it_was_and_the_next_one_runs():
    session = turn('say one')['session_id']
    failed = env.wait_task(env.submit('a', 'fail 400', session_id=session), status='failed')
    assert failed['error']['code'] == 'MODEL_REJECTED', failed
    task = turn('say {{history}}', session_id=session)
    assert task['output']['text'] == 'say one', task['output']


def test_a_snapshot_can_be_branched_from():
    first = turn('say one')
    session = first['session_id']
    second = turn('say two', session_id=session)
    branch = turn('say from {{history}}', snapshot_id=first['task_id'])
    assert branch['session_id'] == session and branch['output']['text'] == 'from say one', branch
    again = turn('say again {{history}}', snapshot_id=first['task_id'], session_id=session)
    assert again['output']['text'] == 'again say one', again['output']
    onward = turn('say on {{history}}', snapshot_id=branch['task_id'])
    assert onward['output']['text'] == 'on say one|say from {{history}}', onward['output']
    assert texts(state(env, second['task_id'])['messages'])[-1] == ('model', 'two')
    parents = dict(env.execute("select task_id || '=' || coalesce(parent_id::text, '') from "
                               "nocturne.snapshot join nocturne.task t using (task_id) where "
                               "t.session_id = '%s'" % session).split()[i].split('=')
                   for i in range(5))
    assert parents == {first['task_id']: '', second['task_id']: first['task_id'],
                       branch['task_id']: first['task_id'], again['task_id']: first['task_id'],
                       onward['task_id']: branch['task_id']}, parents


def test_the_head_of_a_session_is_its_newest_turn_that_ended_well():
    session = turn('say one')['session_id']
    last = turn('say two', session_id=session)
    env.wait_task(env.submit('a', 'fail 400', session_id=session), status='failed')
    head = env.value("select head from nocturne.session where session_id = '%s'" % session)
    assert head == last['task_id'], head


def test_branches_of_one_snapshot_run_at_once():
    base = turn('say base')['task_id']
    ids = [env.submit('a', 'gate b%d then say b%d' % (i, i), snapshot_id=base) for i in range(4)]
    for task_id in ids:
        env.wait_status(task_id, 'running')
    for i in (3, 1, 2, 0):
        env.sim.open_gate('b%d' % i)
        assert env.wait_task(ids[i], status='completed')['output']['text'] == 'b%d' % i


def test_a_conversation_is_joined_however_its_parts_were_written():
    parts = ['[{"text":"[a] ü"},{"n":1}]', ' [ {"text":"b"} ] \n', '[ ]', '[]', '[' + ' ' * 80 + ']', '[' + ' ' * 80 + '"late"]', '["\u2028é"]']
    ids = ['00000000-0000-7000-8000-%012d' % i for i in range(len(parts))]
    with harness.Env() as env:
        for i, text in enumerate(parts):
            env.execute("insert into nocturne.snapshot (task_id, parent_id, epoch, depth, messages) values ('%s', %s, 1, %d, %s)" % (
                ids[i], "'%s'" % ids[i - 1] if i else 'null', i, harness.literal(text)))
        whole = [m for text in parts for m in json.loads(text)]
        assert env.value("select nocturne.messages_json('%s')::json" % ids[-1]) == whole
        assert env.value("select nocturne.messages_json('%s')::json" % ids[0]) == json.loads(parts[0])


def test_forty_turns_reading_a_state_never_joins_more_than_sixteen_rows():
    ids = submit_all(env, [('tools', 'call setStatus {"turn":%d,"k%d":1} then say t%d {{users}}'
                            % (i, i % 5, i)) for i in range(40)], session_id='long')
    expected, custom = [], {}
    for i, task_id in enumerate(ids):
        task = env.wait_task(task_id, status='completed')
        assert task['output']['text'] == 't%d %d' % (i, i + 1), task['output']
        custom.update({'turn': i, 'k%d' % (i % 5): 1})
        expected += ['user', 'model', 'tool', 'model']
        found = state(env, task_id)
        assert [m['role'] for m in found['messages']] == expected, i
        assert found['custom'] == custom, (i, found['custom'])
    rows = env.sql("select depth, length(messages::text) as size from nocturne.snapshot s join "
                   "nocturne.task t using (task_id) where t.session_id = 'long' order by task_id")
    depths = [r['depth'] for r in rows]
    assert max(depths) <= 15 and depths.count(0) == 3, depths
    assert depths == [i % 16 for i in range(40)], depths
    assert max(r['size'] for r in rows if r['depth']) < 1500, rows  # only new messages


def test_an_agent_whose_client_keeps_the_state_leaves_no_snapshot():
    task = turn('say hi', 'client')
    assert env.value("select count(*) from nocturne.snapshot where task_id = '%s'"
                     % task['task_id']) == 0
    again = turn('say {{users}}', 'client', session_id=task['session_id'])
    assert again['output']['text'] == '1', again['output']
