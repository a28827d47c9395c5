"""Tools without an outside effect: state, artifact, interrupt and what resumes it."""
import json

import fakes
import harness
from fakes import of_type, resume, state, tool_results
from harness import SqlError

STATUS = {'type': 'state', 'name': 'setStatus'}
SAVE = {'type': 'artifact', 'name': 'saveArtifact'}
ASK = {'type': 'interrupt', 'name': 'askUser'}


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms')
    env.api()
    env.llm_agent('a', [
        STATUS, SAVE, ASK, {'type': 'interrupt', 'name': 'askOther'},
        {'type': 'process', 'name': 'getWeather', 'command': ['sh', '-c', 'cat >/dev/null; echo sunny']},
        {'type': 'process', 'name': 'deleteFile', 'confirm': True, 'command': ['cat']},
        {'type': 'process', 'name': 'fails', 'command': ['false']},
    ])


def teardown():
    env.check_invariants()


def turn(text, status='completed', **kw):
    return env.wait_task(env.submit('a', text, **kw), status=status)


def end_of(task_id, status='completed'):
    return env.wait_task(task_id, status=status)


def patches(task_id):
    return [e['patch'] for e in of_type(env.stored_events(task_id), 'state.patch')]


# ---- RFC 6902, by hand: the test must not use the code it tests ----

def apply_patch(doc, patch):
    doc = json.loads(json.dumps(doc))
    for op in patch:
        keys = [k.replace('~1', '/').replace('~0', '~') for k in op['path'].split('/')[1:]]
        if not keys:
            assert op['op'] in ('replace', 'add'), op
            doc = op['value']
            continue
        at = doc
        for key in keys[:-1]:
            at = at[int(key)] if isinstance(at, list) else at[key]
        key = keys[-1]
        if isinstance(at, list):
            if op['op'] == 'add':
                at.insert(len(at) if key == '-' else int(key), op['value'])
            elif op['op'] == 'remove':
                del at[int(key)]
            else:
                at[int(key)] = op['value']
        elif op['op'] == 'remove':
            del at[key]
        else:
            assert op['op'] == 'add' or key in at, op
            at[key] = op['value']
    return doc


# ---- state ----

def test_the_first_patch_of_a_turn_replaces_the_whole_document():
    task = turn('call setStatus {"a":1,"b":{"c":[1,2]}} then say ok')
    assert patches(task['task_id']) == [[{'op': 'replace', 'path': '',
                                          'value': {'a': 1, 'b': {'c': [1, 2]}}}]]
    assert state(env, task['task_id'])['custom'] == {'a': 1, 'b': {'c': [1, 2]}}


def test_later_patches_are_differences_and_add_up_to_the_state():
    updates = [{'a': 1, 'b': {'c': [1, 2]}, 'x/y~z': 1}, {'a': 2}, {'b': {'c': [1, 3, 4], 'd': {}}},
               {'a': None}, {'x/y~z': 'new', 'b': {'c': []}}, {'b': {'c': []}}]
    first = turn(' then '.join('call setStatus %s' % json.dumps(u) for u in updates) + ' then say ok')
    second = turn('call setStatus {"k":[{"deep":1}]} and call setStatus {"k":[{"deep":2},3]} '
                  'then call setStatus {"b":null} then say ok', session_id=first['session_id'])
    for task, start in ((first, None), (second, state(env, first['task_id'])['custom'])):
        found = patches(task['task_id'])
        assert found[0][0]['path'] == '' and len(found[0]) == 1, found[0]
        assert all(op['path'] for patch in found[1:] for op in patch), found
        doc = start
        for patch in found:
            doc = apply_patch(doc, patch)
        assert doc == state(env, task['task_id'])['custom'], (doc, task['task_id'])
    assert len(patches(first['task_id'])) == len(updates)
    assert patches(first['task_id'])[-1] == []  # nothing had changed
    assert state(env, first['task_id'])['custom'] == {'b': {'c': []}, 'x/y~z': 'new'}
    assert state(env, second['task_id'])['custom'] == {'x/y~z': 'new', 'k': [{'deep': 2}, 3]}


def test_state_stays_through_turns_that_do_not_touch_it():
    first = turn('call setStatus {"kept":"yes"} then say ok')
    second = turn('say hi', session_id=first['session_id'])
    assert state(env, second['task_id'])['custom'] == {'kept': 'yes'}


def test_the_model_is_told_that_the_state_was_set():
    task = turn('call setStatus {"a":1} then say {{tool}}')
    assert 'ok' in task['output']['text'], task


# ---- artifacts ----

def names(artifacts):
    return [(a['name'], a['parts'][0]['text']) for a in artifacts]


def test_an_artifact_is_saved_shown_and_part_of_the_output():
    task = turn('call saveArtifact {"name":"plan.md","text":"# Plan"} then say saved')
    event, = of_type(env.stored_events(task['task_id']), 'artifact')
    assert event['name'] == 'plan.md' and event['artifact']['parts'] == [{'text': '# Plan'}], event
    assert names(task['output']['artifacts']) == [('plan.md', '# Plan')], task['output']
    assert names(state(env, task['task_id'])['artifacts']) == [('plan.md', '# Plan')]


def test_an_artifact_of_the_same_name_replaces_it():
    task = turn('call saveArtifact {"name":"x","text":"1"} and call saveArtifact {"name":"y","text":"2"}'
                ' then call saveArtifact {"name":"x","text":"3"} then say saved')
    assert names(state(env, task['task_id'])['artifacts']) == [('x', '3'), ('y', '2')]
    assert sorted(names(task['output']['artifacts'])) == [('x', '3'), ('y', '2')], task['output']


def test_artifacts_stay_through_the_turns_of_a_session():
    first = turn('call saveArtifact {"name":"x","text":"1"} and call saveArtifact {"name":"y","text":"2"}'
                 ' then say saved')
    session = first['session_id']
    second = turn('call saveArtifact {"name":"y","text":"new"} then say saved', session_id=session)
    third = turn('call saveArtifact {"name":"z","text":"3"} then say saved', session_id=session)
    assert names(state(env, third['task_id'])['artifacts']) == [('x', '1'), ('y', 'new'), ('z', '3')]
    assert names(state(env, first['task_id'])['artifacts']) == [('x', '1'), ('y', '2')]
    assert names(second['output']['artifacts']) == [('y', 'new')], second['output']
    rows = env.value("select count(*) from nocturne.artifact a join nocturne.task t using (task_id) "
                     "where t.session_id = '%s'" % session)
    assert rows == 4, rows  # by reference: none is copied


def test_an_artifact_needs_its_name_and_text():
    task = turn('call saveArtifact {"name":"x"} then say {{tool}}')
    assert 'INVALID_ARGUMENTS' in task['output']['text'] and 'text' in task['output']['text'], task


# ---- interrupts ----

def asked(text='call askUser {"question":"ok?"} then iftool "true" say approved otherwise say denied',
          **kw):
    task = turn(text, **kw)
    assert task['finish_reason'] == 'interrupted', task
    return task


def test_a_question_ends_the_turn_and_holds_no_worker():
    task = asked()
    event, = of_type(env.stored_events(task['task_id']), 'interrupt')
    interrupt, = task['interrupts']
    assert interrupt['name'] == 'askUser' and interrupt['input'] == {'question': 'ok?'}, interrupt
    assert interrupt['call_id'] == event['call_id'], (interrupt, event)
    assert env.value("select count(*) from nocturne.lease where task_id = '%s'" % task['task_id']) == 0
    last = state(env, task['task_id'])['messages'][-1]
    assert last['role'] == 'model', last
    assert last['content'][-1]['metadata']['interrupt'] is True, last


def test_respond_goes_on_with_the_answer():
    task = asked()
    for output, said in ((True, 'approved'), (False, 'denied')):
        if output is False:
            task = asked()
        after = end_of(resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': output}]))
        assert after['output']['text'] == said and after['session_id'] == task['session_id'], after
        result, = of_type(env.stored_events(after['task_id']), 'tool.result')
        assert result['output'] is output and result['name'] == 'askUser', result
        messages = state(env, after['task_id'])['messages']
        assert [m['role'] for m in messages] == ['user', 'model', 'tool', 'model'], messages
        assert tool_results(messages) == [('askUser', output)]


def test_any_json_is_an_answer():
    for output in ('text', 0, None, [1, {'a': []}], {'deep': {'k': 'Grüße 😀'}}):
        task = asked('call askUser {"question":"?"} then say got {{tool}}')
        after = end_of(resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': output}]))
        assert tool_results(state(env, after['task_id'])['messages']) == [('askUser', output)], after


def test_other_calls_of_the_step_ran_once_and_their_results_wait():
    task = asked('call getWeather {} and call askUser {"question":"?"} and call fails {} '
                 'then say {{tools}}')
    events = env.stored_events(task['task_id'])
    assert len(of_type(events, 'tool.result', 'tool.error')) == 2, events
    after = end_of(resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': 'yes'}]))
    told = of_type(env.stored_events(after['task_id']), *fakes.TOOL_EVENTS)
    assert [(e['type'], e['name']) for e in told] == [('tool.result', 'askUser')], told
    results = tool_results(state(env, after['task_id'])['messages'])
    assert [n for n, _ in results] == ['getWeather', 'askUser', 'fails'], results
    assert results[0][1] == 'sunny' and results[1][1] == 'yes', results
    assert results[2][1]['error']['code'] == 'TOOL_FAILED', results


def test_a_tool_with_confirm_asks_and_runs_when_restarted():
    task = asked('call deleteFile {"path":"/x"} then say done {{tool}}')
    assert of_type(env.stored_events(task['task_id']), 'tool.started') == []
    assert task['interrupts'][0]['metadata'] == {'confirm': True}, task['interrupts']
    after = end_of(resume(env, task['task_id'], restart=[{'name': 'deleteFile'}]))
    events = of_type(env.stored_events(after['task_id']), *fakes.TOOL_EVENTS)
    assert [e['type'] for e in events] == ['tool.started', 'tool.result'], events
    assert events[1]['output'] == {'path': '/x'}, events
    assert after['output']['text'] == 'done {"path":"/x"}', after['output']
    ledger = env.sql("select step, idx, status from nocturne.tool_call where task_id = '%s'"
                     % after['task_id'])
    assert ledger == [{'step': 0, 'idx': 0, 'status': 'done'}], ledger


def test_a_confirmation_can_be_refused_with_an_answer():
    task = asked('call deleteFile {"path":"/x"} then say {{tool}}')
    after = end_of(resume(env, task['task_id'],
                          respond=[{'name': 'deleteFile', 'output': 'the user says no'}]))
    assert after['output']['text'] == 'the user says no', after
    assert of_type(env.stored_events(after['task_id']), 'tool.started') == []


def test_two_questions_are_answered_together():
    task = asked('call askUser {"question":"1"} and call askOther {"question":"2"} and '
                 'call deleteFile {"path":"p"} then say {{tools}}')
    assert [i['name'] for i in task['interrupts']] == ['askUser', 'askOther', 'deleteFile']
    after = end_of(resume(env, task['task_id'], restart=[{'name': 'deleteFile'}],
                          respond=[{'name': 'askOther', 'output': 'B'},
                                   {'name': 'askUser', 'output': 'A'}]))
    assert tool_results(state(env, after['task_id'])['messages']) == [
        ('askUser', 'A'), ('askOther', 'B'), ('deleteFile', {'path': 'p'})]


def test_two_questions_of_one_name_are_told_apart_by_call_id():
    task = asked('call askUser {"question":"1"} and call askUser {"question":"2"} then say {{tools}}')
    one, two = [i['call_id'] for i in task['interrupts']]
    after = end_of(resume(env, task['task_id'], respond=[
        {'name': 'askUser', 'call_id': two, 'output': 'second'},
        {'name': 'askUser', 'call_id': one, 'output': 'first'}]))
    assert [o for _, o in tool_results(state(env, after['task_id'])['messages'])] == ['first', 'second']


def test_a_question_asked_again_after_an_answer():
    task = asked('call askUser {"question":"1"} then call askUser {"question":"2"} then say {{tools}}')
    second = end_of(resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': 'A'}]))
    assert second['finish_reason'] == 'interrupted', second
    third = end_of(resume(env, second['task_id'], respond=[{'name': 'askUser', 'output': 'B'}]))
    assert third['finish_reason'] == 'stop', third
    assert [o for _, o in tool_results(state(env, third['task_id'])['messages'])] == ['A', 'B']


def test_a_partial_resume_is_refused_and_the_session_stays_usable():
    task = asked('call askUser {"question":"1"} and call askOther {"question":"2"} then say x')
    after = end_of(resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': 1}]), 'failed')
    assert after['error']['code'] == 'INVALID_RESUME' and not after['error']['retryable'], after
    assert 'askOther' in after['error']['message'], after
    assert turn('say fine', session_id=task['session_id'])['output']['text'] == 'fine'


def test_an_answer_to_nothing_that_was_asked_is_refused():
    task = asked()
    after = end_of(resume(env, task['task_id'], respond=[{'name': 'noSuch', 'output': 1}]), 'failed')
    assert after['error']['code'] == 'INVALID_RESUME', after


def refused(code, call_):
    try:
        call_()
    except (SqlError, AssertionError) as e:
        assert code in str(e), e
        return
    raise AssertionError('it was accepted')


def test_a_question_is_answered_once():
    task = asked()
    first = resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': True}])
    refused('already', lambda: resume(env, task['task_id'],
                                      respond=[{'name': 'askUser', 'output': False}]))
    assert end_of(first)['output']['text'] == 'approved'
    refused('already', lambda: resume(env, task['task_id'],
                                      respond=[{'name': 'askUser', 'output': False}]))


def test_what_asked_nothing_cannot_be_resumed():
    task = turn('say hi')
    refused('not waiting', lambda: resume(env, task['task_id'],
                                          respond=[{'name': 'askUser', 'output': 1}]))


def test_a_plain_message_after_an_unanswered_question_goes_on():
    task = asked('call askUser {"question":"?"} and call getWeather {} then say x')
    after = turn('say fine {{n}}', session_id=task['session_id'])
    assert after['output']['text'] == 'fine 5', after  # user, assistant, two tools, user
    results = tool_results(state(env, after['task_id'])['messages'])
    assert results[0][1]['error']['code'] == 'NOT_ANSWERED', results
    assert results[1][1] == 'sunny', results
    open_calls = env.sim.requests()[-1]['messages']
    asked_ids = {c['id'] for m in open_calls for c in m.get('tool_calls') or []}
    answered = {m['tool_call_id'] for m in open_calls if m['role'] == 'tool'}
    assert asked_ids == answered, open_calls


def test_state_and_artifacts_set_beside_a_question_are_kept():
    task = asked('call setStatus {"a":1} and call saveArtifact {"name":"n","text":"t"} and '
                 'call askUser {"question":"?"} then call setStatus {"b":2} then say {{tools}}')
    assert state(env, task['task_id'])['custom'] == {'a': 1}
    after = end_of(resume(env, task['task_id'], respond=[{'name': 'askUser', 'output': 'y'}]))
    assert state(env, after['task_id'])['custom'] == {'a': 1, 'b': 2}
    assert names(state(env, after['task_id'])['artifacts']) == [('n', 't')]
    assert patches(after['task_id']) == [[{'op': 'replace', 'path': '', 'value': {'a': 1, 'b': 2}}]]
