"""Each command of `nocturne` against the real daemons. How it bears a bad server: test_cli_client."""
import json
import os
import re
import signal
import subprocess
import tempfile

import harness
from harness import wait_until

ASK = {'type': 'interrupt', 'name': 'askUser', 'parameters': {
    'type': 'object', 'properties': {'question': {'type': 'string'}}, 'required': ['question']}}
DELETE = {'type': 'process', 'name': 'deleteFile', 'command': ['cat'], 'confirm': True,
          'parameters': {'type': 'object', 'properties': {'path': {'type': 'string'}}}}


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker()
    env.api()
    env.put_agent('echo', {'kind': 'echo', 'description': 'says it back'})
    env.llm_agent('model', tools=[ASK, DELETE])


def teardown():
    env.check_invariants()


def submit(*args, **kw):
    return env.cli('submit', *args, **kw).stdout.strip()


def test_submit_show_wait_and_list():
    task = submit('echo', 'Grüße 😀', '--session', 'cli-1', '--metadata', '{"k": 1}')
    assert env.cli('wait', task).stdout == 'Grüße 😀\n'
    shown = env.cli('show', task).stdout
    for line in ('task       ' + task, 'agent      echo, revision 1', 'session    cli-1',
                 'status     completed (stop)', 'metadata   {"k":1}'):
        assert line in shown, (line, shown)
    assert shown.endswith('\nGrüße 😀\n')
    whole = json.loads(env.cli('show', task, '--json').stdout)
    assert whole == env.task(task)
    assert task in env.cli('list', '--agent', 'echo', '--session', 'cli-1').stdout
    listed = json.loads(env.cli('list', '--session', 'cli-1', '--json').stdout)['tasks']
    assert listed == [whole]
    assert json.loads(env.cli('list', '--session', 'none', '--json').stdout) == {'tasks': []}


def test_list_goes_over_pages():
    ids = [submit('echo', str(i), '--session', 'pages') for i in range(5)]
    listed = json.loads(env.cli('list', '--session', 'pages', '--limit', '3', '--json').stdout)
    assert [t['task_id'] for t in listed['tasks']] == ids[:1:-1]
    bodies = [{'input': 'x', 'session_id': 'many'} for _ in range(210)]
    for body in bodies:
        env.http.post('/v1/agents/echo/tasks', body).ok(202)
    listed = json.loads(env.cli('list', '--session', 'many', '--limit', '1000', '--json').stdout)
    assert len({t['task_id'] for t in listed['tasks']}) == 210
    assert len(env.cli('list', '--session', 'many', '--limit', '205').stdout.splitlines()) == 206


def test_submit_and_wait_and_follow():
    assert submit('echo', 'one', '--wait') == 'one'
    done = env.cli('submit', 'model', 'stream 5 tokens 20ms', '--follow')
    assert done.stdout == 'tok0 tok1 tok2 tok3 tok4\n', done
    assert re.search(r'task [0-9a-f-]{36}', done.stderr)
    lines = [json.loads(line) for line in
             env.cli('submit', 'model', 'say hi', '--follow', '--json').stdout.splitlines()]
    assert lines[0]['status'] in ('queued', 'running') and lines[1]['type'] == 'turn.started'
    assert lines[-1]['type'] == 'turn.ended'
    assert [e['seq'] for e in lines[1:]] == list(range(1, len(lines)))
    assert submit('echo', '-', '--wait', input='from stdin\nsecond') == 'from stdin\nsecond'
    task = json.loads(submit('model', '--wait', '--json', '--input',
                             '{"message":{"role":"user","content":[{"text":"say m"}]}}'))
    assert task['output']['text'] == 'm', task


def test_an_idempotency_key_gives_the_same_task():
    first = submit('echo', 'x', '--idempotency-key', 'cli-key')
    assert submit('echo', 'x', '--idempotency-key', 'cli-key') == first
    other = env.cli('submit', 'echo', 'y', '--idempotency-key', 'cli-key', check=False)
    assert other.returncode in (1, 2) and other.stderr, other
    assert submit('echo', 'x') != submit('echo', 'x')


def test_run_at_waits_and_a_deadline_expires():
    task = submit('echo', 'later', '--run-at', '1h')
    assert env.task(task)['status'] == 'scheduled'
    assert env.cli('wait', task, '--timeout', '100ms', check=False).returncode == 9
    assert env.cli('abort', task, '--reason', 'no need').stderr == 'aborted\n'
    assert env.cli('wait', task, check=False).returncode == 5
    assert env.cli('abort', task).stderr == 'was over already: aborted\n' or \
        env.cli('abort', task).stderr == 'aborted\n'
    soon = submit('echo', 'soon', '--run-at', '300ms')
    assert env.cli('wait', soon).stdout == 'soon\n'
    late = submit('model', 'hang', '--deadline', '500ms')
    assert env.cli('wait', late, check=False).returncode == 6


def test_exit_status_of_each_end():
    for text, code, said in (('say fine', 0, ''), ('fail 400', 1, 'failed'),
                             ('say cut then finish length', 4, 'incomplete'),
                             ('call askUser {"question":"ok?"}', 7, 'askUser {"question":"ok?"}')):
        done = env.cli('submit', 'model', text, '--wait', check=False)
        assert done.returncode == code and said in done.stderr, (text, done)
        followed = env.cli('submit', 'model', text, '--follow', check=False)
        assert followed.returncode == code and said in followed.stderr, (text, followed)


def test_questions_are_answered_by_the_command_that_is_shown():
    text = 'call askUser {"question":"ok?"} and call deleteFile {"path":"/x"} then say {{tools}}'
    asked = env.cli('submit', 'model', text, '--follow', check=False)
    assert asked.returncode == 7, asked
    task, options = re.search(r'nocturne resume (\S+) (.*)', asked.stderr).groups()
    assert options == "--respond askUser='\"...\"' --restart deleteFile", options
    done = env.cli('resume', task, '--respond', 'askUser="yes"', '--restart', 'deleteFile', '--wait')
    assert done.stdout == 'askUser=yes;deleteFile={"path":"/x"}\n', done
    again = env.cli('resume', task, '--respond', 'askUser="no"', '--restart', 'deleteFile',
                    check=False)
    assert again.returncode in (0, 1, 2), again


def test_two_questions_of_one_tool_are_told_apart():
    text = 'call askUser {"question":"1"} and call askUser {"question":"2"} then say {{tools}}'
    asked = env.cli('submit', 'model', text, '--wait', check=False)
    task, one, two = re.search(r"resume (\S+) --respond askUser/(\S+)='\"...\"' "
                               r"--respond askUser/(\S+)=", asked.stderr).groups()
    done = env.cli('resume', task, '--respond', 'askUser/%s="b"' % two,
                   '--respond', 'askUser/%s="a"' % one, '--follow')
    assert done.stdout == 'askUser=a;askUser=b\n', done
    assert env.cli('resume', task, '--respond', 'nobody=1', check=False).returncode in (1, 2)


def test_tail_replays_and_continues_from_any_point():
    task = submit('model', 'stream 8 tokens then say end', '--wait', '--json')
    task_id = json.loads(task)['task_id']
    events = env.stored_events(task_id)
    whole = [json.loads(line) for line in env.cli('tail', task_id, '--json').stdout.splitlines()]
    assert [e['seq'] for e in whole] == list(range(1, len(events) + 1))
    for after in (0, 3, len(events) - 1, len(events)):
        rest = env.cli('tail', task_id, '--after', str(after), '--json').stdout.splitlines()
        assert [json.loads(line) for line in rest] == whole[after:]
    assert env.cli('tail', task_id).stdout.startswith('tok0 tok1 ')


def test_tail_follows_through_restarts_of_the_api():
    task = submit('model', 'stream 60 tokens 50ms')
    with tempfile.TemporaryFile('w+') as out:
        tail = subprocess.Popen([harness.program('nocturne'), 'tail', task, '--json', '--url',
                                 env.http.base_url], stdout=out, stderr=subprocess.PIPE,
                                env=harness.sanitizer_env())
        port = int(env.http.base_url.rpartition(':')[2])
        for _ in range(2):
            seen = env.task(task)['last_seq']
            wait_until(lambda: env.task(task)['last_seq'] > seen + 5)
            api = [p for p in env.processes if p.name.startswith('nocturne-api') and p.alive][-1]
            api.kill()
            env.api(port=port)
        _, err = tail.communicate(timeout=60)
        out.seek(0)
        events = [json.loads(line) for line in out]
    assert tail.returncode == 0, err
    assert [e['seq'] for e in events] == list(range(1, len(events) + 1))
    text = ''.join(e['text'] for e in events if e['type'] == 'content.delta')
    assert text.split() == ['tok%d' % i for i in range(60)], text


def test_ctrl_c_leaves_the_turn_running():
    env.sim.reset()
    follow = subprocess.Popen([harness.program('nocturne'), 'submit', 'model', 'say begun then gate g',
                               '--follow', '--url', env.http.base_url], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env=harness.sanitizer_env())
    got = ''
    while 'begun' not in got:
        got += follow.stdout.read(1)
    follow.send_signal(signal.SIGINT)
    _, err = follow.communicate(timeout=20)
    assert follow.returncode == 130, err
    task, after = re.search(r'nocturne tail (\S+) --after (\d+)', err).groups()
    assert env.task(task)['status'] == 'running'
    aborted = env.cli('abort', task, '--reason', 'test')
    assert aborted.stderr in ('aborting\n', 'aborted\n')
    rest = env.cli('tail', task, '--after', after, check=False)
    assert rest.returncode == 5 and re.search(r'aborted after \d+ ms: test', rest.stderr), rest


def test_agents_apply_is_all_or_nothing():
    with tempfile.TemporaryDirectory() as folder:
        def write(name, definition):
            with open('%s/%s.json' % (folder, name), 'w') as f:
                json.dump(definition, f)
        write('cli-a', {'kind': 'echo'})
        write('cli-b', {'kind': 'echo', 'description': 'b'})
        assert env.cli('agents', 'apply', folder).stdout == 'cli-a: revision 1\ncli-b: revision 1\n'
        write('cli-b', {'kind': 'echo', 'description': 'changed'})
        assert env.cli('agents', 'apply', folder).stdout == \
            'cli-a: revision 1, as before\ncli-b: revision 2\n'
        write('cli-a', {'kind': 'echo', 'description': 'never'})
        write('cli-b', {'kind': 'nonsense', 'tools': 7})
        bad = env.cli('agents', 'apply', folder, check=False)
        assert bad.returncode == 2 and re.search(r'cli-b\.json: /kind: ', bad.stderr), bad
        shown = json.loads(env.cli('agents', 'show', 'cli-a').stdout)
        assert shown['revision'] == 1 and 'never' not in json.dumps(shown), shown
    assert re.search(r'^cli-b +revision 2 +echo +changed$', env.cli('agents', 'list').stdout, re.M)
    env.cli('agents', 'delete', 'cli-b')
    assert env.cli('agents', 'show', 'cli-b', check=False).returncode == 3
    assert env.cli('submit', 'cli-b', 'x', check=False).returncode == 3


def test_what_is_not_there():
    nobody = '01980000-0000-7000-8000-000000000001'
    for args in (('show', nobody), ('wait', nobody), ('tail', nobody), ('abort', nobody),
                 ('resume', nobody, '--respond', 'a=1'), ('submit', 'nobody', 'x'),
                 ('agents', 'show', 'nobody'), ('agents', 'delete', 'nobody')):
        done = env.cli(*args, check=False)
        assert done.returncode == 3 and done.stderr.startswith('nocturne: '), (args, done)
    for args in (('show', 'nonsense'), ('tail', 'no/../thing')):
        done = env.cli(*args, check=False)
        assert done.returncode in (2, 3) and done.stderr, (args, done)


def test_migrate_and_doctor():
    status = env.cli('migrate', '--status').stdout
    assert re.search(r'^001 +tables +applied$', status, re.M), status
    assert env.cli('migrate').stdout == "nothing to do: the schema is this program's\n"
    states = json.loads(env.cli('migrate', '--status', '--json').stdout)['migrations']
    assert {m['state'] for m in states} == {'applied'}
    report = json.loads(env.cli('doctor', '--json').stdout)
    levels = {f['check']: f['level'] for f in report['findings']}
    for check in ('clock offset', 'workers', 'leader', 'schema', 'oldest transaction', 'fsync',
                  'synchronous_commit', 'idle_in_transaction_session_timeout', 'queue'):
        assert check in levels, levels
    assert levels['workers'] == levels['leader'] == 'ok' and 'fail' not in levels.values(), report
    text = env.cli('doctor').stdout
    assert re.search(r'^ok +workers +1 live', text, re.M), text


def test_doctor_finds_what_is_wrong():
    sick = harness.Env(migrated=False)
    done = sick.cli('doctor', check=False)
    assert done.returncode == 1 and re.search(r'fail +schema +001 tables pending', done.stdout), done
    assert 'nocturne migrate' in done.stdout
    assert sick.cli('migrate', '--status', check=False).returncode == 1
    sick.cli('migrate')
    done = sick.cli('doctor', check=False)
    assert done.returncode == 1 and 'start nocturne-worker' in done.stdout, done
    assert re.search(r'fail +leader +nobody leads', done.stdout), done
    sick.sql('alter database %s set synchronous_commit = off' % sick.db)
    sick.execute('select pg_terminate_backend(pid) from pg_stat_activity where datname ='
                 ' current_database() and pid <> pg_backend_pid()')  # a pool keeps its sessions
    assert re.search(r'fail +synchronous_commit +off', sick.cli('doctor', check=False).stdout)
    sick.close()
    done = env.cli('doctor', '--database', 'host=/nonexistent', check=False)
    assert done.returncode == 8 and done.stderr, done
    assert os.path.exists(harness.program('nocturne'))
