"""One turn from submit to final output through all parts, with a model over HTTP."""
import harness


def setup():
    global env
    env = harness.Env()
    env.modelsim()
    env.scheduler()
    env.worker()
    env.api()
    env.llm_agent('teller')
    env.put_agent('parrot', {'kind': 'echo'})


def teardown():
    env.check_invariants()


def test_an_echo_comes_back():
    task = env.wait_task(env.submit('parrot', 'hello'), status='completed')
    assert task['output']['text'] == 'hello', task


def test_a_turn_of_a_model_streams_and_ends():
    task_id = env.submit('teller', 'stream 20 tokens 5ms', session_id='s')
    stream = env.events(task_id)
    stream.read_all()
    assert stream.ended and stream.types()[0] == 'turn.started' and \
        stream.types()[-1] == 'turn.ended', stream.types()
    task = env.wait_task(task_id, status='completed')
    assert stream.text() == task['output']['text']
    assert stream.text().split() == ['tok%d' % i for i in range(20)]
    assert [e.seq for e in stream.events] == list(range(1, task['last_seq'] + 1))
    assert [a['outcome'] for a in task['attempts']] == ['completed']
    assert [e['seq'] for e in env.stored_events(task_id)] == [e.seq for e in stream.events]


def test_every_cursor_leads_to_the_same_events():
    task_id = env.submit('teller', 'stream 40 tokens 5ms')
    live = env.events(task_id)
    cut = env.events(task_id)
    cut.until('content.delta', 3)
    cut.cut()
    live.read_all()
    seen = [(e.seq, e.text) for e in live.events]
    last = cut.events[-1].seq
    for again in (env.events(task_id, last_event_id=last), env.events(task_id, after=last)):
        again.read_all()
        assert [(e.seq, e.text) for e in cut.events + again.events] == seen
    env.wait_task(task_id, status='completed')


def test_an_abort_stops_the_model_and_keeps_what_was_said():
    env.sim.reset()
    task_id = env.submit('teller', 'stream 10000 tokens 10ms')
    stream = env.events(task_id)
    stream.until('content.delta', 3)
    assert env.abort(task_id, 'enough')['status'] in ('aborting', 'aborted')
    stream.read_all()
    task = env.wait_task(task_id, status='aborted')
    assert task['abort']['reason'] == 'enough' and task['abort']['latency_ms'] < 2000, task
    assert stream.events[-1].type == 'turn.ended'
    harness.wait_until(lambda: [r['status'] for r in env.sim.requests()] == ['client-closed'], 5)


def test_a_killed_worker_costs_nothing():
    with harness.Env() as other:
        other.modelsim()
        other.scheduler(worker_ttl='2s', rescue_every='200ms')
        first = other.worker(beat_every='400ms', beat_ttl='2s')
        other.api()
        other.llm_agent('teller')
        task_id = other.submit('teller', 'stream 200 tokens 20ms')
        stream = other.events(task_id)
        stream.until('content.delta', 5)
        first.kill()
        other.worker(beat_every='400ms', beat_ttl='2s')
        task = other.wait_task(task_id, status='completed')
        stream.read_all()
        assert [a['outcome'] for a in task['attempts']] == ['lost', 'completed'], task
        assert 'reset' in stream.types()
        assert stream.text() == task['output']['text']
        assert stream.text().split() == ['tok%d' % i for i in range(200)]
        other.check_invariants()
