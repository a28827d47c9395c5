"""The statements of sql/queries by name, for tests that play a worker in psql."""
import glob
import os
import re

from cluster import ROOT
from harness import literal

UTILITY = ('notify_listen',)  # LISTEN is no statement that PREPARE takes
EVERYTHING = 'array[0], array[0], array[10], true, true'  # the ranges of turn_claim, and all it may tell


def texts():
    found = {}
    for path in sorted(glob.glob(os.path.join(ROOT, 'sql/queries/*.sql'))):
        with open(path) as f:
            found[os.path.basename(path)[:-4]] = f.read()
    return found


def parameters(text):
    """How many $n a statement has."""
    code = re.sub(r'--[^\n]*', '', text)
    return max([int(n) for n in re.findall(r'\$(\d+)', code)], default=0)


def prepare_script(names=None):
    return '\n'.join('prepare %s as\n%s' % (name, text) for name, text in texts().items()
                     if name not in UTILITY and (names is None or name in names))


def prepare(session, *names):
    session.run(prepare_script(names or None))
    return session


def register(session, name='w', ttl_ms=60000):
    return int(session.run("execute worker_register('%s', '0', 100, %d)" % (name, ttl_ms))[0])


def claim(session, worker, limit=10):
    """[(task, epoch)]"""
    rows = [line.split('|') for line in
            session.run('execute turn_claim(%d, %d, %s)' % (worker, limit, EVERYTHING))]
    turns = sorted((int(r[2]), int(r[3]), r[0], int(r[1])) for r in rows if r[0])
    return [(task, epoch) for _, _, task, epoch in turns]


def complete_text(worker, turns, status='completed', reason='stop', seq=1, head=True, lock=False):
    """An `execute turn_complete` for [(task, epoch, session)]: one event each, from `seq`."""
    n = len(turns)
    nulls = "array_fill(null::text, array[%d])" % n

    def same(value, kind):
        return "array_fill(%s::%s, array[%d])" % (literal(value), kind, n)
    args = [
        str(worker),
        literal([t[0] for t in turns]) + '::uuid[]', literal([t[1] for t in turns]),
        same(status, 'text'), same(reason, 'text'), same('{"text":"x"}', 'text'), nulls, nulls,
        nulls, nulls, same(seq, 'bigint'), same('default', 'text'),
        literal([t[2] for t in turns]), same('[]', 'text'), nulls, nulls,
        'array_fill(null::uuid, array[%d])' % n, same(0, 'int'), same(head, 'bool'), nulls,
        same(seq, 'bigint'), same(1, 'int'), same(1700000000000, 'bigint'),
        same('0 {"type":"turn.ended","status":"%s"}\n' % status, 'text'), "'w'", str(lock).lower(),
    ]
    return 'execute turn_complete(%s)' % ', '.join(args)


def complete(session, worker, turns, **kw):
    """The tasks that were ended."""
    return [line.split('|')[0] for line in session.run(complete_text(worker, turns, **kw))]


def retry(session, worker, task, epoch, delay_ms=0):
    return session.run("execute turn_retry(%d, array['%s']::uuid[], array[%d], array[%d], "
                       "array['{}'], 'w')" % (worker, task, epoch, delay_ms))
