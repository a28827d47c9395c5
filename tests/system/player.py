"""Plays a worker in psql, so that tests of the api decide when which event is there."""
import statements
from harness import literal

AT_MS = 1767225600000  # 2026-01-01T00:00:00Z


class Player:
    def __init__(self, env, notify=True):
        self.env, self.notify = env, notify
        self.session = statements.prepare(env.psql(), 'worker_register', 'worker_beat', 'turn_claim',
                                          'turn_append', 'turn_complete', 'notify_send')
        self.worker = statements.register(self.session, 'player', 3600000)
        self.turns = {}  # task -> [epoch, next seq, session]

    def hint(self, payload):
        if self.notify:
            self.session.run("execute notify_send(array[%s])" % literal(payload))

    def claim(self, task=None):
        """Claim what is ready; `task` must be among it."""
        for found, epoch in statements.claim(self.session, self.worker, 1000):
            session = self.session.run("select session_id from nocturne.task where task_id = '%s'"
                                       % found)[0]
            self.turns[found] = [epoch, 1, session]
        assert task is None or task in self.turns, (task, self.turns)
        return task

    def append(self, task, *events, hint=True):
        """One chunk. An event is JSON text whose first member is type."""
        turn = self.turns[task]
        text = ''.join('%d %s\n' % (i, e) for i, e in enumerate(events))
        done = self.session.run(
            "execute turn_append(%d, array['%s']::uuid[], array[%d], array[%d], array[%d],"
            " array[%d::bigint], array[%s])" % (self.worker, task, turn[0], turn[1], len(events),
                                                AT_MS + turn[1], literal(text)))
        assert done == [task], done
        turn[1] += len(events)
        if hint:
            self.hint('c:' + task)

    def say(self, task, *words, hint=True):
        self.append(task, *['{"type":"content.delta","text":"%s"}' % w for w in words], hint=hint)

    def end(self, task, status='completed', reason='stop', hint=True):
        epoch, seq, session = self.turns.pop(task)
        done = statements.complete(self.session, self.worker, [(task, epoch, session)],
                                   status=status, reason=reason, seq=seq)
        assert done == [task], done
        if hint:
            self.hint('c:' + task)
            self.hint('d:' + task)

    def play(self, task, words=0, **kw):
        """A whole turn of that many content.deltas, ten a chunk."""
        self.claim(task)
        self.append(task, '{"type":"turn.started"}', hint=False)
        for i in range(0, words, 10):
            self.say(task, *['w%d ' % n for n in range(i, min(i + 10, words))], hint=False)
        self.end(task, **kw)
        return task

    def end_all(self):
        self.claim()
        for task in list(self.turns):
            running = self.env.value("select nocturne.task_status('%s')" % task)
            self.end(task, 'aborted' if running == 'aborting' else 'completed')
