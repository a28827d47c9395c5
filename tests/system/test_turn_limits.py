"""How a turn may end: limits, finish reasons, usage, deadlines, priorities, aborts."""
import datetime
import time

import fakes
import harness
from fakes import of_type, state, submit_all
from harness import wait_until


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms')
    env.api()
    env.llm_agent('a')
    env.llm_agent('loops', [{'type': 'process', 'name': 'spin', 'command': ['echo', 'round']}],
                  limits={'max_steps': 3})
    env.llm_agent('twenty', [{'type': 'process', 'name': 'spin', 'command': ['echo', 'round']}])
    env.llm_agent('hasty', [{'type': 'process', 'name': 'spin', 'command': ['sleep', '60']}],
                  limits={'timeout': '700ms'})
    env.llm_agent('small', limits={'max_output_bytes': 1000})
    env.llm_agent('once', max_attempts=1, model=model(retries=0))
    env.llm_agent('twice', max_attempts=2, model=model(retries=0))
    env.llm_agent('patient', model=model(retries=3))


def model(**more):
    return {'provider': 'openai', 'base_url': env.sim.url, 'name': 'sim', **more}


def teardown():
    env.check_invariants()


def turn(text, agent='a', status='completed', **kw):
    return env.wait_task(env.submit(agent, text, **kw), status=status)


def abort(task_id, reason=None):
    return env.abort(task_id, reason)['status']


def soon(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.isoformat()


def ended(task_id):
    """The last event; it says what the task says."""
    task, event = env.task(task_id), env.stored_events(task_id)[-1]
    assert event['type'] == 'turn.ended' and event['seq'] == task['last_seq'], (event, task)
    for member in ('status', 'finish_reason', 'output', 'usage', 'error', 'abort', 'interrupts'):
        assert event.get(member) == task.get(member), (member, event, task)
    return event


# ---- the plain turn ----

def test_a_plain_turn_leaves_all_that_it_should():
    task = turn('stream 5 tokens')
    events = env.stored_events(task['task_id'])
    assert [e['seq'] for e in events] == list(range(1, len(events) + 1)), events
    assert [e['type'] for e in events] == ['turn.started', 'step.started'] + \
        ['content.delta'] * 5 + ['step.ended', 'turn.ended'], events
    assert fakes.text_of(events) == task['output']['text'] == 'tok0 tok1 tok2 tok3 tok4', task
    assert task['status'] == 'completed' and task['finish_reason'] == 'stop', task
    attempt, = task['attempts']
    assert attempt['outcome'] == 'completed' and attempt['worker'] == 'worker-1', attempt
    assert task['created_at'] <= task['started_at'] <= task['finished_at'], task
    ended(task['task_id'])
    assert events[0]['agent'] == 'a' and events[0]['revision'] == 1, events[0]


def test_usage_is_what_the_model_says():
    task = turn('usage 17 4 then say four words they are')
    assert task['usage'] == {'input_tokens': 17, 'output_tokens': 4}, task


def test_usage_of_all_steps_is_added():
    task = turn('usage 10 1 then call spin {} then usage 20 2 then say x', 'loops')
    assert task['usage'] == {'input_tokens': 30, 'output_tokens': 3}, task
    steps = of_type(env.stored_events(task['task_id']), 'step.ended')
    assert [s['usage']['input_tokens'] for s in steps] == [10, 20], steps


def test_reasoning_is_streamed_and_kept_apart_from_the_text():
    task = turn('reason let me think then say done')
    events = env.stored_events(task['task_id'])
    assert ''.join(e['text'] for e in of_type(events, 'reasoning.delta')) == 'let me think', events
    assert fakes.text_of(events) == task['output']['text'] == 'done', task


def test_an_empty_answer_is_an_answer():
    task = turn('empty')
    assert task['output']['text'] == '' and task['finish_reason'] == 'stop', task


# ---- finish reasons and limits ----

def test_max_steps_ends_the_turn_as_incomplete_with_its_history_valid():
    task = turn('loop spin {}', 'loops', 'incomplete')
    assert task['finish_reason'] == 'max_steps', task
    events = env.stored_events(task['task_id'])
    assert len(of_type(events, 'step.started')) == 3, events
    assert len(of_type(events, 'tool.result')) == 3, events
    roles = [m['role'] for m in state(env, task['task_id'])['messages']]
    assert roles == ['user'] + ['model', 'tool'] * 3, roles
    after = turn('say on {{users}}', 'loops', session_id=task['session_id'])
    assert after['output']['text'] == 'on 2', after
    ended(task['task_id'])


def test_max_steps_is_twenty_by_default():
    task = turn('loop spin {}', 'twenty', 'incomplete')
    steps = of_type(env.stored_events(task['task_id']), 'step.started')
    assert len(steps) == 20, len(steps)


def test_length_and_content_filter_end_as_incomplete():
    for reason in ('length', 'content_filter'):
        task = turn('say cut off then finish ' + reason, status='incomplete')
        assert task['finish_reason'] == reason and task['output']['text'] == 'cut off', task
        ended(task['task_id'])


def test_an_answer_over_the_limit_fails():
    task = turn('big 5000', 'small', 'failed')
    assert task['error']['code'] == 'OUTPUT_TOO_LARGE' and not task['error']['retryable'], task
    assert len(task['attempts']) == 1, task
    assert turn('big 900', 'small')['output']['text'] == 'x' * 900


def test_a_megabyte_answer():
    task = turn('big 1000000')
    assert task['output']['text'] == 'x' * 1000000
    assert fakes.text_of(env.stored_events(task['task_id'])) == 'x' * 1000000


def test_limits_timeout_ends_a_stream_and_keeps_what_was_said():
    started = time.monotonic()
    task = turn('stream 1000 tokens 20ms', 'hasty', 'failed')
    assert 0.5 < time.monotonic() - started < 4
    assert task['error']['code'] == 'TURN_TIMEOUT' and not task['error']['retryable'], task
    assert task['output']['text'].startswith('tok0 tok1 '), task['output']
    assert task['output']['text'] == fakes.text_of(env.stored_events(task['task_id']))
    assert task['usage']['estimated'] is True and task['usage']['output_tokens'] > 0, task
    assert 'abort' not in task, task
    wait_until(lambda: env.sim.requests()[-1]['status'] == 'client-closed', 5, 'the model call closed')
    ended(task['task_id'])


def test_limits_timeout_ends_a_tool():
    task = turn('call spin {} then say x', 'hasty', 'failed')
    assert task['error']['code'] == 'TURN_TIMEOUT', task
    ended(task['task_id'])


def test_a_timeout_and_an_abort_that_nobody_heard_end_the_turn_once():
    """The completion as failed is refused, because an abort is first; it must end then."""
    with harness.Env() as other:
        other.sim = env.sim
        other.worker(poll='20ms', hints='off', **{'beat-every': '5s', 'beat-ttl': '20s'})
        other.llm_agent('hasty', limits={'timeout': '700ms'})
        task_id = other.submit('hasty', 'say some then hang')
        other.wait_status(task_id, 'running')
        assert other.abort(task_id, 'enough') == 'aborting'
        task = other.wait_task(task_id, timeout=4, status='aborted')
        assert task['abort']['reason'] == 'enough', task
        assert 'error' not in task, task
        other.check_invariants()


# ---- retries of the turn ----

def test_a_failed_attempt_is_made_again_and_its_events_are_voided():
    task_id = env.submit('twice', 'flaky 1 then say ok')
    task = env.wait_task(task_id, status='completed')
    assert [a['outcome'] for a in task['attempts']] == ['retry', 'completed'], task
    assert task['attempts'][0]['error']['code'] == 'MODEL_UNAVAILABLE', task
    assert fakes.text_of(env.stored_events(task_id)) == 'ok'


def test_a_retry_voids_what_had_been_streamed():
    before = len(env.sim.requests())
    task = turn('stream 3 tokens then drop', 'twice', 'failed')
    assert [a['outcome'] for a in task['attempts']] == ['retry', 'failed'], task
    assert task['error']['code'] == 'MODEL_TRUNCATED' and task['error']['retryable'], task
    events = env.stored_events(task['task_id'])
    reset, = of_type(events, 'reset')
    assert reset['to_seq'] == 1 and reset['reason'] == 'retry', reset
    assert fakes.text_of(events) == 'tok0 tok1 tok2'
    assert len(env.sim.requests()) == before + 2
    ended(task['task_id'])


def test_a_retry_does_not_pay_again_for_what_is_done():
    env.llm_agent('twice-tool', [{'type': 'process', 'name': 'spin', 'command': ['echo', 'round']}],
                  max_attempts=2, model=model(retries=0))
    task = turn('usage 7 1 then call spin {} then flaky 1 then say ok {{tool}}', 'twice-tool')
    assert task['output']['text'] == 'ok round', task
    assert [a['outcome'] for a in task['attempts']] == ['retry', 'completed'], task
    events = env.stored_events(task['task_id'])
    assert len(of_type(events, 'tool.started')) == 1, events
    mine = [r for r in env.sim.requests() if r['script'].startswith('usage 7 1 then call spin')]
    assert [r['step'] for r in mine] == [0, 1, 1], mine


def test_a_model_call_is_tried_again_within_the_attempt():
    task = turn('flaky 2 then say ok', 'patient')
    assert task['output']['text'] == 'ok' and len(task['attempts']) == 1, task


def test_what_a_broken_stream_said_is_voided_within_the_attempt():
    task = turn('stream 3 tokens then drop', 'once', 'failed')
    assert not of_type(env.stored_events(task['task_id']), 'reset')
    env.llm_agent('again', max_attempts=1, model=model(retries=1))
    task = turn('stream 3 tokens then drop', 'again', 'failed')
    events = env.stored_events(task['task_id'])
    reset, = of_type(events, 'reset')
    assert reset['to_seq'] == 1 and reset['reason'] == 'MODEL_TRUNCATED', reset
    assert fakes.text_of(events) == 'tok0 tok1 tok2'


def test_max_attempts_of_the_submit_counts():
    task_id = env.submit('once', 'fail 500', max_attempts=2)
    assert len(env.wait_task(task_id, status='failed')['attempts']) == 2


# ---- time ----

def test_run_at_holds_a_task_back():
    at = soon(1.2)
    task_id = env.submit('a', 'say late', run_at=at)
    assert env.task(task_id)['status'] == 'scheduled'
    task = env.wait_task(task_id, status='completed')
    assert task['started_at'][:19] >= at[:19], (task['started_at'], at)


def test_a_deadline_ends_a_running_turn_as_expired():
    task = turn('stream 1000 tokens 20ms', status='expired', deadline=soon(1))
    assert task['output']['text'].startswith('tok0 '), task
    assert task['abort']['reason'] == 'deadline', task
    ended(task['task_id'])


def test_a_deadline_ends_what_has_not_started():
    held = env.submit('a', 'gate dl then say x', session_id='dl')
    env.wait_status(held, 'running')
    waits = env.submit('a', 'say y', session_id='dl', deadline=soon(0.5))
    later = env.submit('a', 'say z', run_at=soon(60), deadline=soon(0.5))
    for task_id in (waits, later):
        task = env.wait_task(task_id, status='expired')
        assert task['attempts'] == [], task
        ended(task_id)
    env.sim.open_gate('dl')
    env.wait_task(held, status='completed')


def test_a_deadline_that_is_over_ends_the_turn_before_it_pays():
    before = len(env.sim.requests())
    task = turn('say never', status='expired', deadline=soon(-5))
    assert len(env.sim.requests()) == before, task


# ---- order and revisions ----

def test_with_one_slot_the_most_urgent_goes_first():
    with harness.Env() as other:
        other.sim = env.sim
        other.worker(poll='20ms', slots=1)
        other.llm_agent('a')
        first = other.submit('a', 'gate prio then say first')
        other.wait_status(first, 'running')
        priorities = [7, 5, 0, 9, 5, 1]
        ids = submit_all(other, [('a', 'say p')] * 6, priority=lambda i: priorities[i])
        env.sim.open_gate('prio')
        tasks = [other.wait_task(t, status='completed') for t in ids]
        order = sorted(range(6), key=lambda i: tasks[i]['started_at'])
        assert [priorities[i] for i in order] == sorted(priorities), order
        assert order.index(1) < order.index(4), order  # the older of two alike
        other.check_invariants()


def test_a_running_task_keeps_its_revision():
    env.llm_agent('rev', instructions='old')
    held = env.submit('rev', 'gate rev then say x', session_id='rev')
    env.wait_status(held, 'running')
    queued = env.submit('rev', 'say {{system}}', session_id='rev')
    env.llm_agent('rev', instructions='new')
    newest = env.submit('rev', 'say {{system}}')
    env.sim.open_gate('rev')
    assert env.wait_task(newest, status='completed')['output']['text'] == 'new'
    task = env.wait_task(queued, status='completed')
    assert task['output']['text'] == 'old' and task['revision'] == 1, task


def test_a_deleted_agent_still_runs_what_it_was_asked():
    env.llm_agent('gone')
    held = env.submit('gone', 'gate gone then say still here')
    env.execute("update nocturne.agent set deleted_at = now() where name = 'gone'")
    env.sim.open_gate('gone')
    assert env.wait_task(held, status='completed')['output']['text'] == 'still here'


# ---- aborts ----

def abort_when(text, agent, is_there, reason='why'):
    task_id = env.submit(agent, text)
    wait_until(lambda: is_there(env.stored_events(task_id)), 10, 'it is under way')
    assert abort(task_id, reason) in ('aborting', 'aborted')
    task = env.wait_task(task_id, status='aborted')
    assert task['abort']['reason'] == reason and task['abort']['latency_ms'] < 3000, task
    ended(task_id)
    return task


def test_an_abort_closes_the_model_call_and_keeps_the_partial_answer():
    task = abort_when('stream 1000 tokens 10ms', 'a', lambda e: fakes.text_of(e))
    said = task['output']['text']
    assert said.startswith('tok0 ') and said == fakes.text_of(env.stored_events(task['task_id']))
    request = [r for r in env.sim.requests() if r['script'] == 'stream 1000 tokens 10ms'][-1]
    wait_until(lambda: [r for r in env.sim.requests() if r['id'] == request['id']][0]['status']
               == 'client-closed', 5, 'the socket of the model is closed')
    assert task['usage']['estimated'] is True, task


def test_an_abort_in_a_tool_kills_it_and_answers_its_call_in_the_history():
    env.llm_agent('sleeps', [{'type': 'process', 'name': 'nap', 'command': ['sleep', '60']},
                             {'type': 'process', 'name': 'quick', 'command': ['echo', 'done']}])
    task = abort_when('call nap {} and call quick {} then say x', 'sleeps',
                      lambda e: of_type(e, 'tool.result'))
    row = env.value("select status from nocturne.tool_call where idx = 0 and task_id = '%s'"
                    % task['task_id'])
    assert row == 'unknown', row
    snapshot = env.sql("select messages from nocturne.snapshot where task_id = '%s'"
                       % task['task_id'])[0]['messages']
    assert [m['role'] for m in snapshot] == ['user', 'model', 'tool'], snapshot
    results = fakes.tool_results(snapshot)
    assert [n for n, _ in results] == ['nap', 'quick'] and results[1][1] == 'done', results


def test_an_abort_before_the_first_byte():
    task = abort_when('hang', 'a', lambda e: of_type(e, 'step.started'))
    assert 'output' not in task or task['output']['text'] == '', task
    assert task['usage']['estimated'] and task['usage']['input_tokens'] > 0, task
    assert task['usage']['output_tokens'] == 0, task


def test_an_abort_while_the_model_asks_for_a_tool_settles_what_it_said():
    server = fakes.RawServer()
    asks = fakes.frame({'tool_calls': [{'index': 0, 'id': 'c', 'function': {
        'name': 'log', 'arguments': '{"x":"' + 'y' * 400}}]})
    server.scripts['asks'] = [lambda conn: (conn.sendall(fakes.head() + asks), conn.recv(1))]
    env.llm_agent('asks', model={'provider': 'openai', 'base_url': server.url('asks'), 'name': 'm'})
    task = abort_when('x', 'asks', lambda e: of_type(e, 'tool_call.delta'))
    server.close()
    assert task['usage']['estimated'] and task['usage']['output_tokens'] > 0, task


def test_an_abort_of_what_waits_is_at_once():
    held = env.submit('a', 'gate ab then say x', session_id='ab')
    env.wait_status(held, 'running')
    queued = env.submit('a', 'say y', session_id='ab')
    scheduled = env.submit('a', 'say z', run_at=soon(60))
    for task_id in (queued, scheduled):
        assert abort(task_id, 'no') == 'aborted'
        assert env.task(task_id)['abort']['reason'] == 'no'
        ended(task_id)
    env.sim.open_gate('ab')
    env.wait_task(held, status='completed')
    assert abort(held) == 'completed'  # unchanged


def test_an_abort_while_the_attempt_waits_for_its_retry():
    env.llm_agent('later', max_attempts=3, model=model(retries=0))
    task_id = env.submit('later', 'ratelimit 5 after 50 then say x')
    wait_until(lambda: env.task(task_id)['attempts'] and env.task(task_id)['status'] == 'scheduled',
               10, 'it waits for its retry')
    assert abort(task_id) == 'aborted'
    ended(task_id)


def test_an_abort_while_the_model_call_waits_for_its_retry():
    task = abort_when('ratelimit 5 after 30 then say x', 'patient',
                      lambda e: of_type(e, 'step.started'))
    assert 'usage' not in task, task


def test_an_abort_wakes_the_worker_that_runs_the_turn_alone():
    with harness.Env() as own:
        own.sim = env.sim
        own.worker()
        own.worker()
        own.api(notify='on')
        own.llm_agent('a')
        task_id = own.submit('a', 'stream 1000 tokens 50ms')
        worker = wait_until(lambda: own.value('select max(worker_id) from nocturne.lease'), 10, 'runs')
        listener = own.psql()
        listener.run('listen nocturne')
        own.abort(task_id)
        wait_until(lambda: any('payload "a:%d"' % worker in line for line in listener.run('select 1')),
                   5, 'a hint for its worker')
        own.wait_task(task_id, status='aborted')
        own.check_invariants()


def test_a_session_goes_on_after_an_abort():
    task = abort_when('stream 1000 tokens 10ms', 'a', lambda e: fakes.text_of(e))
    after = turn('say on {{users}}', session_id=task['session_id'])
    assert after['output']['text'] == 'on 1', after
