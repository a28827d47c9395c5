"""Tools of the types process and http, and what becomes of calls that are wrong."""
import json
import os
import shutil
import time

import fakes
import harness
from fakes import of_type, tool_results
from harness import wait_until

CITY = {'type': 'object', 'properties': {'city': {'type': 'string'}, 'n': {'type': 'integer'},
                                         'unit': {'enum': ['C', 'F']}}, 'required': ['city']}


def process(name, *command, **more):
    return {'type': 'process', 'name': name, 'command': list(command), **more}


def shell(name, script, **more):
    return process(name, 'sh', '-c', script, **more)


def post(name, path, **more):
    return {'type': 'http', 'name': name, 'url': endpoint.url + path, **more}


def setup():
    global env, endpoint, folder
    env, endpoint, folder = harness.Env(), fakes.Endpoint(), fakes.folder()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms', env={'OPENAI_API_KEY': 'sk-secret', 'TOOL_TOKEN': 'tok-1',
                                 'SHELL_SECRET': 'hush'})
    counter = os.path.join(folder, 'children')
    env.llm_agent('tools', [
        process('argv', '/usr/bin/python3', '-c', 'import sys, json; print(json.dumps(sys.argv[1:]))',
                'a b', '$HOME', '*'),
        process('stdin', 'cat'),
        shell('text', 'printf "two words\\n\\n"'),
        shell('number', 'echo 1.10'),
        shell('pretty', "printf '{\\n  \"a\": [1,\\r\\n 2]\\n}\\n'"),
        shell('hour', 'printf 09'), shell('control', "printf '[\"a\\nb\"]'"),
        shell('nothing', 'true'),
        shell('bytes', r"printf 'a\377b\000c'"),
        shell('env', 'env'),
        shell('envset', 'echo "$GREETING"', env={'GREETING': 'hi there'}),
        shell('warn', 'echo careful >&2; echo fine'),
        shell('fails', 'echo first >&2; echo last >&2; exit 3'),
        shell('killed', 'kill -9 $$'),
        process('absent', '/no/such/program'),
        shell('deaf', 'exec <&-; echo ok'),
        shell('slow', 'trap "" TERM; sleep 60 & sleep 60 & echo $! > %s; wait'
              % counter, timeout='300ms'),
        shell('orphan', 'sleep 61 & echo $! > %s.orphan; echo left' % counter),
        shell('large', 'head -c 5000 /dev/zero | tr "\\0" x', max_result_bytes=4096),
        shell('fits', 'head -c 4096 /dev/zero | tr "\\0" x', max_result_bytes=4096),
        shell('endless', 'yes', max_result_bytes=4096),
        shell('noisy', 'head -c 300000 /dev/zero | tr "\\0" e >&2; echo END >&2; echo ok'),
        shell('getWeather', 'cat', parameters=CITY),
        shell('nap', 'read x; t=${x##*:}; sleep ${t%\\}}; echo "slept ${t%\\}}"'),
    ])
    env.llm_agent('posts', [
        post('plain', '/plain'),
        post('secret', '/secret', headers={'Authorization': 'Bearer ${TOOL_TOKEN}',
                                           'X-Two': '${TOOL_TOKEN}-${NOT_SET}-end'}),
        post('text', '/text'), post('empty', '/empty'),
        post('refuses', '/refuses'), post('moved', '/moved'),
        post('slow', '/slow', timeout='300ms'),
        post('large', '/large', max_result_bytes=4096),
        {'type': 'http', 'name': 'nobody', 'url': 'http://127.0.0.1:%d/' % harness.free_port()},
    ])
    endpoint.answers.update({
        '/plain': lambda r: (200, {'got': r.json}),
        '/secret': lambda r: (201, {'ok': True}),
        '/text': lambda r: (200, 'just text', {'Content-Type': 'text/plain'}),
        '/empty': lambda r: (204, b''),
        '/refuses': lambda r: (422, 'no such city'),
        '/moved': lambda r: (302, b'', {'Location': endpoint.url + '/plain'}),
        '/slow': lambda r: time.sleep(2) or (200, 'late'),
        '/large': lambda r: (200, 'y' * 5000),
    })


def teardown():
    endpoint.close()
    env.check_invariants()
    shutil.rmtree(folder, ignore_errors=True)


def call(name, arguments=None, agent='tools', then='say {{tool}}', **kw):
    """Let the model call one tool; (task, the events of the call, what the model was told)."""
    text = 'call %s %s then %s' % (name, json.dumps(arguments or {}), then)
    task_id = env.submit(agent, text, **kw)
    task = env.wait_task(task_id)
    events = env.stored_events(task_id)
    results = tool_results(fakes.state(env, task_id)['messages'])
    assert len(results) == 1 and results[0][0] == name, results
    return task, of_type(events, *fakes.TOOL_EVENTS), results[0][1]


def check_result(name, expected, arguments=None, agent='tools'):
    task, events, told = call(name, arguments, agent)
    assert task['status'] == 'completed', task
    assert [e['type'] for e in events] == ['tool.started', 'tool.result'], events
    assert events[1]['output'] == expected == told, (events, told)
    return events[1]


def check_error(name, code, part='', arguments=None, agent='tools'):
    task, events, told = call(name, arguments, agent)
    assert task['status'] == 'completed', task
    assert [e['type'] for e in events] == ['tool.started', 'tool.error'], events
    error = events[1]['error']
    assert error['code'] == code and part in error['message'], error
    assert told == {'error': error}, told
    return events[1]


# ---- process ----

def test_argv_reaches_the_program_as_it_is_and_no_shell_reads_it():
    check_result('argv', ['a b', '$HOME', '*'])


def test_arguments_come_as_one_json_document_on_stdin_and_json_goes_back():
    arguments = {'text': 'Grüße "quoted" \\ \n 😀', 'list': [1, 2.5, None, True], 'o': {'k': []}}
    check_result('stdin', arguments, arguments)


def test_what_is_no_json_is_text_without_its_line_ends():
    check_result('text', 'two words')


def test_a_number_is_json():
    check_result('number', 1.1)


def test_json_on_several_lines_stays_one_event():
    check_result('pretty', {'a': [1, 2]})


def test_what_only_looks_like_json_is_text():
    check_result('hour', '09')
    check_result('control', '["a\nb"]')


def test_no_output_is_an_empty_text():
    check_result('nothing', '')


def test_bytes_that_are_no_text_are_replaced():
    check_result('bytes', 'a\ufffdb\ufffdc')


def test_a_program_gets_the_ids_and_none_of_the_workers_secrets():
    task, events, told = call('env')
    lines = dict(line.split('=', 1) for line in told.splitlines() if '=' in line)
    assert lines['NOCTURNE_TASK_ID'] == task['task_id'], lines
    assert lines['NOCTURNE_CALL_ID'] == events[0]['call_id'], lines
    assert lines['NOCTURNE_IDEMPOTENCY_KEY'] == task['task_id'] + '/1/0', lines
    known = {'PATH', 'HOME', 'LANG', 'LC_ALL', 'TZ', 'TMPDIR', 'USER', 'PWD', 'SHLVL', '_', 'OLDPWD'}
    others = {n for n in lines if not n.startswith('NOCTURNE_')} - known
    assert not others, others
    assert {n for n in lines if n.startswith('NOCTURNE_')} == {
        'NOCTURNE_TASK_ID', 'NOCTURNE_CALL_ID', 'NOCTURNE_IDEMPOTENCY_KEY'}, lines
    assert 'secret' not in told and 'tok-1' not in told and 'hush' not in told


def test_the_tools_own_env_is_added():
    check_result('envset', 'hi there')


def test_stderr_is_kept_in_the_event_and_not_told_to_the_model():
    event = check_result('warn', 'fine')
    assert event['stderr'] == 'careful\n', event


def test_only_the_end_of_a_long_stderr_is_kept():
    event = check_result('noisy', 'ok')
    assert event['stderr'].endswith('eee\nEND\n') or event['stderr'].endswith('eEND\n'), event
    assert len(event['stderr']) <= 8192, len(event['stderr'])


def test_an_exit_status_is_a_tool_error_with_the_end_of_stderr():
    event = check_error('fails', 'TOOL_FAILED', 'exit status 3: first\nlast')
    assert event['stderr'] == 'first\nlast\n', event


def test_a_signal_is_a_tool_error():
    check_error('killed', 'TOOL_FAILED', 'signal 9')


def test_a_program_that_is_not_there_is_a_tool_error():
    check_error('absent', 'TOOL_FAILED', '/no/such/program')


def test_a_program_may_ignore_its_input():
    check_result('deaf', 'ok', {'x': 'y' * 200000})


def gone(pid):
    try:
        with open('/proc/%d/stat' % pid) as f:
            return f.read().rpartition(')')[2].split()[0] == 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_time_out_kills_the_whole_group_even_when_it_ignores_sigterm():
    started = time.monotonic()
    event = check_error('slow', 'TOOL_TIMEOUT')
    assert time.monotonic() - started < 8
    assert event['error']['code'] == 'TOOL_TIMEOUT'
    with open(os.path.join(folder, 'children')) as f:
        pid = int(f.read())
    wait_until(lambda: gone(pid), 5, 'the grandchild dies too')


def test_what_a_program_leaves_running_is_killed_when_it_ends():
    check_result('orphan', 'left')
    with open(os.path.join(folder, 'children.orphan')) as f:
        pid = int(f.read())
    wait_until(lambda: gone(pid), 5, 'the orphan dies')


def test_output_up_to_the_limit_is_taken():
    check_result('fits', 'x' * 4096)


def test_output_over_the_limit_is_a_tool_error():
    check_error('large', 'TOOL_OUTPUT_TOO_LARGE')


def test_a_program_that_never_stops_talking_is_stopped():
    check_error('endless', 'TOOL_OUTPUT_TOO_LARGE')


# ---- http ----

def test_http_posts_the_arguments_with_the_ids():
    arguments = {'q': 'Zürich 😀', 'n': 3}
    event = check_result('plain', {'got': arguments}, arguments, 'posts')
    request = endpoint.of('/plain')[-1]
    assert request.method == 'POST' and request.json == arguments
    assert request.headers['content-type'] == 'application/json'
    assert request.headers['idempotency-key'].endswith('/1/0'), request.headers
    assert request.headers['x-nocturne-call-id'] == event['call_id'], request.headers
    assert request.headers['idempotency-key'].startswith(request.headers['x-nocturne-task-id'])


def test_http_headers_take_variables_of_the_worker():
    check_result('secret', {'ok': True}, agent='posts')
    headers = endpoint.of('/secret')[-1].headers
    assert headers['authorization'] == 'Bearer tok-1', headers
    assert headers['x-two'] == 'tok-1--end', headers


def test_http_text_is_a_result_too():
    check_result('text', 'just text', agent='posts')


def test_http_204_is_an_empty_result():
    check_result('empty', '', agent='posts')


def test_http_other_statuses_are_tool_errors_with_the_body():
    check_error('refuses', 'TOOL_FAILED', 'status 422: no such city', agent='posts')


def test_http_redirects_are_not_followed():
    before = len(endpoint.of('/plain'))
    check_error('moved', 'TOOL_FAILED', 'status 302', agent='posts')
    assert len(endpoint.of('/plain')) == before


def test_http_time_out():
    started = time.monotonic()
    check_error('slow', 'TOOL_TIMEOUT', agent='posts')
    assert time.monotonic() - started < 2


def test_http_results_have_a_limit():
    check_error('large', 'TOOL_OUTPUT_TOO_LARGE', agent='posts')


def test_http_with_nobody_there():
    check_error('nobody', 'TOOL_UNAVAILABLE', agent='posts')


# ---- calls that are wrong ----

def check_refused(name, arguments, code, *parts):
    """A call that must not run: the model is told, and answers."""
    task, events, told = call(name, arguments)
    assert task['status'] == 'completed', task
    assert [e['type'] for e in events] == ['tool.error'], events
    assert events[0]['error']['code'] == code and told == {'error': events[0]['error']}
    for part in parts:
        assert part in events[0]['error']['message'], (part, events[0])


def test_an_unknown_tool_is_told_to_the_model():
    check_refused('noSuchTool', {}, 'UNKNOWN_TOOL', 'noSuchTool')


def test_arguments_are_checked_against_the_schema():
    check_refused('getWeather', {}, 'INVALID_ARGUMENTS', 'city')
    check_refused('getWeather', {'city': 7}, 'INVALID_ARGUMENTS', '/city')
    check_refused('getWeather', {'city': 'x', 'n': 1.5, 'unit': 'K'}, 'INVALID_ARGUMENTS', '/n',
                  '/unit')
    check_result('getWeather', {'city': 'x', 'n': 1.0, 'unit': 'C'},
                 {'city': 'x', 'n': 1.0, 'unit': 'C'})


def test_arguments_that_are_no_json_go_back_to_the_model():
    task_id = env.submit('tools', 'badargs getWeather oops] then say bad {{tool}}')
    task = env.wait_task(task_id, status='completed')
    assert 'INVALID_ARGUMENTS' in task['output']['text'], task
    request = env.sim.requests()[-1]
    calls = [m for m in request['messages'] if m.get('tool_calls')][0]['tool_calls']
    assert calls[0]['function']['arguments'] == 'oops]', calls  # as it came


def test_arguments_must_be_an_object():
    task_id = env.submit('tools', 'badargs getWeather ["a"] then say {{tool}}')
    assert 'INVALID_ARGUMENTS' in env.wait_task(task_id, status='completed')['output']['text']


# ---- several calls of one step ----

def test_calls_of_one_step_run_at_once_and_are_answered_in_their_order():
    naps = ' and '.join('call nap {"t":%g}' % t for t in (1.2, 0.8, 0.4, 0.1))
    started = time.monotonic()
    task_id = env.submit('tools', naps + ' then say {{tools}}')
    env.wait_task(task_id, status='completed')
    assert time.monotonic() - started < 2.4  # in a row: 2.5
    events = env.stored_events(task_id)
    types = [e['type'] for e in of_type(events, 'tool.started', 'tool.result')]
    assert types[:4] == ['tool.started'] * 4, types
    ended = [e['output'] for e in of_type(events, 'tool.result')]
    assert ended == ['slept %g' % t for t in (0.1, 0.4, 0.8, 1.2)], ended  # as they end
    told = [o for _, o in tool_results(fakes.state(env, task_id)['messages'])]
    assert told == ['slept %g' % t for t in (1.2, 0.8, 0.4, 0.1)], told  # as they were asked


def test_one_bad_call_does_not_stop_the_others():
    task_id = env.submit('tools', 'call fails {} and call noSuchTool {} and call text {} and '
                                  'call getWeather {} then say {{tools}}')
    env.wait_task(task_id, status='completed')
    results = tool_results(fakes.state(env, task_id)['messages'])
    assert [n for n, _ in results] == ['fails', 'noSuchTool', 'text', 'getWeather'], results
    codes = [o['error']['code'] if isinstance(o, dict) else o for _, o in results]
    assert codes == ['TOOL_FAILED', 'UNKNOWN_TOOL', 'two words', 'INVALID_ARGUMENTS'], codes
    ledger = env.sql("select idx, status, name from nocturne.tool_call where task_id = '%s' "
                     "order by idx" % task_id)
    assert [(r['idx'], r['status']) for r in ledger] == [(0, 'failed'), (2, 'done')], ledger


def test_the_model_sees_its_calls_and_their_results():
    task_id = env.submit('tools', 'say Checking then call text {} then say done')
    env.wait_task(task_id, status='completed')
    messages = env.sim.requests()[-1]['messages']
    assert [m['role'] for m in messages] == ['user', 'assistant', 'tool'], messages
    assert messages[1]['content'] == 'Checking' and messages[2]['content'] == 'two words'
    assert messages[2]['tool_call_id'] == messages[1]['tool_calls'][0]['id'], messages


def test_many_steps():
    steps = ' then '.join('call stdin {"i":%d}' % i for i in range(12))
    task_id = env.submit('tools', steps + ' then say {{tools}}')
    task = env.wait_task(task_id, status='completed')
    assert task['output']['text'].count('stdin=') == 12, task['output']
    events = env.stored_events(task_id)
    assert [e['step'] for e in of_type(events, 'step.started')] == list(range(1, 14))
    assert env.value("select count(*) from nocturne.step where task_id = '%s'" % task_id) == 13
