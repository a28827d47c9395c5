"""Settings of the Genkit wire, and what its clients must not be told; the rest is in tests/wire."""
import time

import harness


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker(poll='20ms')
    env.api()
    env.llm_agent('a')
    env.llm_agent('posts', [{'type': 'http', 'name': 'post', 'timeout': '5s',
                             'url': 'http://tool.internal.invalid:9/x'}], on_tool_error='fail')
    env.put_agent('nobody', {'kind': 'llm', 'max_attempts': 1, 'model': {
        'provider': 'openai', 'name': 'm', 'retries': 0,
        'base_url': 'http://model.internal.invalid:9/v1'}})
    env.put_agent('flow', {'kind': 'http', 'url': 'http://flow.internal.invalid:9/x',
                           'max_attempts': 1})


def teardown():
    env.check_invariants()


def body(text, **data):
    return {'data': {'message': {'role': 'user', 'content': [{'text': text}]}, **data}, 'init': {}}


def said(answer):
    return answer.ok(200).json['result']['message']['content'][0]['text']


def test_the_prefix_is_a_setting():
    plain = env.http
    env.api(genkit_prefix='/api/v2')
    moved = env.http
    env.api(genkit_prefix='')
    bare = env.http
    env.http = plain
    assert said(plain.post('/genkit/a', body('say here'))) == 'here'
    assert said(moved.post('/api/v2/a', body('say there'))) == 'there'
    result = moved.post('/api/v2/a', body('say more')).ok(200).json['result']
    found = moved.post('/api/v2/a/getSnapshot', {'data': {'snapshotId': result['snapshotId']}})
    assert found.ok(200).json['result']['status'] == 'completed'
    for http, path in ((plain, '/api/v2/a'), (moved, '/genkit/a'), (moved, '/api/a'),
                       (moved, '/api/v2'), (bare, '/genkit/a'), (bare, '/a')):
        assert http.post(path, body('say x')).status == 404, path
    moved.get('/v1/tasks').ok(200)


def test_waiting_for_a_snapshot_has_a_limit():
    plain = env.http
    env.api(genkit_wait='500ms')
    short, env.http = env.http, plain
    task = short.post('/genkit/a', body('gate later then say done', detach=True)
                      ).ok(200).json['result']['snapshotId']
    started = time.monotonic()
    found = short.post('/genkit/a/waitForSnapshot', {'data': {'snapshotId': task}}).ok(200).json
    assert time.monotonic() - started >= 0.5
    assert found['result']['status'] == 'pending', found
    env.sim.open_gate('later')
    found = plain.post('/genkit/a/waitForSnapshot', {'data': {'snapshotId': task}}).ok(200).json
    assert found['result']['status'] == 'completed', found


def test_names_of_hosts_stay_inside():
    rows = [('nobody', 'say x', 'UNAVAILABLE'), ('posts', 'call post {} then say x', 'UNAVAILABLE'),
            ('flow', None, 'INTERNAL')]
    for agent, text, status in rows:
        asked = body(text) if text else {'data': {'n': 1}}
        for accept in ('application/json', 'text/event-stream'):
            answer = env.http.post('/genkit/' + agent, asked, headers={'Accept': accept})
            assert status in answer.text, answer
            assert 'internal.invalid' not in answer.text, answer
        for task in env.http.get('/v1/tasks?limit=20&agent=' + agent).json['tasks']:
            if agent != 'nobody':  # its operator may know; a tool's failure is shown to the model
                assert 'internal.invalid' not in str(task), task
