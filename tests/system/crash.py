"""The crash matrix: a program dies (kill -9) on entering each state of each of its flows, is started
again as init would, and nothing is lost by it.

The states are read from the enums in the sources: whoever adds one adds a crash. A flow is an enum
of states with one `x_enter()` that writes them and calls hook_state() (lib/hook.h). A state that the
workload of its program does not reach fails its test: then give it a workload, in TRIGGERS of the
program's module.
"""
import functools
import glob
import os
import re
import signal
import threading
import time

import fakes
import harness
from cluster import ROOT
from harness import wait_until

# Which programs a flow of lib/ is looked at in.
LIB = {'pg': ('worker', 'scheduler', 'api'), 'notify': ('worker', 'scheduler', 'api'),
       'process': ('worker',), 'conn': ('api',)}
# What does not happen: without hints nobody's session is known; without NOTIFY nothing is sent; behind a
# pool nothing is prepared.
NO_HINTS = {'worker': ('presence.unknown', 'presence.recording', 'presence.known'), 'api': (),
            'scheduler': ('vanish.declaring',)}
ABSENT = {'': {}, 'pgbouncer': {p: s + ('pg.preparing',) for p, s in NO_HINTS.items()},
          'poll': {p: s + ('notify.idle', 'notify.gathering', 'notify.sending', 'notify.closing')
                   for p, s in NO_HINTS.items()}}
REACH_SECONDS = 25  # in which a program must have come to the state, on a busy machine


def read(path):
    with open(os.path.join(ROOT, path)) as f:
        return re.sub(r'/\*.*?\*/', '', f.read(), flags=re.S)


def sources():
    for folder in ('worker', 'scheduler', 'api', 'lib'):
        for path in glob.glob(os.path.join(ROOT, folder, '**/*.[ch]'), recursive=True):
            path = os.path.relpath(path, ROOT)
            if not path.startswith('api/cli/'):  # the command line holds no turn
                yield path


@functools.lru_cache(maxsize=None)
def flows():
    """{flow: (file that writes it, [states], [those that some code enters])}"""
    texts = {path: read(path) for path in sources()}
    enums, found = {}, {}
    for text in texts.values():
        for name, body in re.findall(r'enum (\w+)_state \{(.*?)\}', text, re.S):
            enums[name] = re.findall(r'\w+', body)
    for path, text in texts.items():
        for name in re.findall(r'_enter\([^)]*enum (\w+)_state state[^)]*\)\s*\{', text):
            whole = '\n'.join(t for p, t in texts.items()
                              if os.path.dirname(p).split('/')[0] == path.split('/')[0])
            calls = '\n'.join(re.findall(r'\w+_(?:enter|new)\([^;{]*;', whole))
            assert 'hook_state("%s", (int)state)' % name in text, \
                '%s: the flow `%s` does not tell its states to hook_state()' % (path, name)
            found[name] = (path, enums[name], [s for s in enums[name]
                                               if re.search(r'\b%s\b' % s, calls)])
    return found


def states(program):
    """['flow.state'] of a program, and {'flow.state': number}."""
    names, numbers = [], {}
    for flow, (path, enum, entered) in sorted(flows().items()):
        owner = path.split('/')[0]
        if program not in (LIB[flow] if owner == 'lib' else (owner,)):
            continue
        prefix = os.path.commonprefix(enum).rpartition('_')[0] + '_'
        for number, state in enumerate(enum):
            if number == 0 and state not in entered:
                continue  # it is made in its first state and never comes back to it
            name = '%s.%s' % (flow, state[len(prefix):].lower())
            names.append(name)
            numbers[name] = '%s.%d' % (flow, number)
    return names, numbers


def crash_env(program, state, after=0):
    return {'TEST_CRASH_AT': states(program)[1][state], 'TEST_CRASH_AFTER': str(after)}


class Subscriber(threading.Thread):
    """Follows a task to its end, from where it was, through whichever api answers."""

    def __init__(self, matrix, task_id):
        super().__init__(daemon=True)
        self.matrix, self.task_id = matrix, task_id
        self.seqs, self.ended = [], False
        self.start()

    def run(self):
        tries = 0
        while not self.ended and not self.matrix.over:
            tries += 1
            http_ = self.matrix.apis[tries % len(self.matrix.apis)]
            try:
                stream = harness.EventStream(
                    http_, '/v1/tasks/%s/events?after=%d' % (self.task_id, len(self.seqs)),
                    timeout=20)
                for event in stream if stream.status == 200 else ():
                    if event.seq is None:
                        continue
                    self.seqs.append(event.seq)
                    self.ended = self.ended or event.type == 'turn.ended'
            except (OSError, AssertionError, ValueError, harness.http.client.HTTPException):
                pass
            if not self.ended:
                time.sleep(0.1)


class Matrix:
    """A stage for one program. `start(env)`: a process of it that crashes; `work(matrix)` is called
    while it lives, again and again; `triggers`: state -> function(matrix, process), called once it
    lives a moment; `settings`: state -> settings of that process."""

    def __init__(self, env, program):
        self.env, self.program = env, program
        self.apis, self.tasks, self.subscribers = [], [], []
        self.over = False

    def post(self, agent, body, key):
        """The id of a new task: as a client does, asked again with its key after a 503."""
        def ask():
            answer = self.apis[0].post('/v1/agents/%s/tasks' % agent, body,
                                       headers={'Idempotency-Key': key})
            return None if answer.status == 503 else answer.ok(200, 202)
        return wait_until(ask, 20, 'an api that takes a turn', every=0.1).json['task_id']

    def submit(self, agent, text, watch=False, **kw):
        self.tasks.append(self.post(agent, {'input': text, **kw}, 'n%d' % len(self.tasks)))
        if watch:
            self.subscribers.append(Subscriber(self, self.tasks[-1]))
        return self.tasks[-1]

    def open_tasks(self):
        return self.env.value('select count(*) from nocturne.task t where not exists'
                              ' (select 1 from nocturne.done d where d.task_id = t.task_id)')

    def crash(self, start, state, work, trigger):
        """None, or why it did not die there."""
        process = start(crash_env(self.program, state))
        process.expected = -signal.SIGKILL
        end, pulled = time.monotonic() + REACH_SECONDS, 0
        while process.alive and time.monotonic() < end:
            work(self)
            if trigger and time.monotonic() > pulled + 1:
                trigger(self, process)
                pulled = time.monotonic()
            try:
                process.popen.wait(0.1)
            except harness.subprocess.TimeoutExpired:
                pass
        if process.alive:
            process.kill()
            return '%s is not reached: give it a workload' % state
        if process.popen.returncode != -signal.SIGKILL:
            return '%s: ended with %s\n%s' % (state, process.popen.returncode, process.tail())
        return None

    def run(self, start, work, triggers, exempt=()):
        names, _ = states(self.program)
        exempt = tuple(exempt) + ABSENT[harness.MODE].get(self.program, ())
        unknown = [s for s in list(triggers) + list(exempt) if s not in names]
        assert not unknown, 'these states are no more: %s' % unknown
        problems = []
        for state in names:
            if state in exempt:
                continue
            why = self.crash(start, state, work, triggers.get(state))
            if why:
                problems.append(why)
        return problems

    def settle(self, seconds=60):
        """All accepted turns have ended, once; subscribers saw all of them."""
        wait_until(lambda: self.open_tasks() == 0, seconds, 'the end of every turn', every=0.2)
        for s in self.subscribers:
            s.join(seconds)
        self.over = True
        for task_id in self.tasks:
            task = self.env.task(task_id)
            lost = [a for a in task['attempts'] if a['outcome'] == 'lost']
            quarantined = (task.get('error') or {}).get('code') == 'QUARANTINED'
            # the third death may have been charged to another turn that died with this one
            assert not quarantined or len(lost) >= 3, task
        for s in self.subscribers:
            assert s.ended, 'a subscriber of %s saw no end: %s' % (s.task_id, s.seqs[-3:])
            last = self.env.task(s.task_id)['last_seq']
            assert s.seqs == list(range(1, last + 1)), (s.task_id, s.seqs)
        self.env.check_invariants()


def standard(env, folder):
    """Agents of every kind on an Env with a model."""
    endpoint = fakes.Endpoint()
    endpoint.server.handle_error = lambda *_: None  # who dies hangs up
    endpoint.answers['/tool'] = lambda request: (200, {'ok': True})
    tools = [fakes.logging_tool('log', os.path.join(folder, 'effects'), nap=0.1, idempotent=True),
             {'type': 'http', 'name': 'post', 'url': endpoint.url + '/tool', 'idempotent': True},
             {'type': 'process', 'name': 'nap', 'command': ['sleep', '2'], 'idempotent': True}]
    env.llm_agent('a', tools)
    for name, key in ('b', 'KEY_B'), ('c', 'KEY_C'):  # what limits one of them holds up no other
        env.llm_agent(name, tools, model={'provider': 'openai', 'base_url': env.sim.url,
                                          'name': 'sim', 'api_key_env': key})
    env.llm_agent('slow', [{'type': 'process', 'name': 'hang', 'timeout': '300ms',
                            'command': ['sh', '-c', 'sleep 5']}])
    env.put_agent('p', {'kind': 'process', 'command': ['sh', '-c', 'cat; sleep 0.1']})
    env.put_agent('h', {'kind': 'http', 'url': endpoint.url + '/tool'})
    env.put_agent('e', {'kind': 'echo'})
    return endpoint


def backends(env, pattern):
    env.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'"
                " and application_name ~ '%s'" % (env.db, pattern))
