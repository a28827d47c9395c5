"""Models that are slow, broken or say no."""
import time

import fakes
from harness import wait_until
from load import Turn
from matrix import percentile, row, wait_for, words
from rows_workers import name_of

SHORT = 'stream 20 tokens 20ms'


def latencies(stage, n):
    turns = [Turn(SHORT, expect=words(20)) for _ in range(n)]
    stage.load.start(turns, every=0.05)
    stage.settle(60, turns)
    return [t.ended_at - t.answered_at for t in turns]


def threads(worker):
    with open('/proc/%d/status' % worker.pid) as file:
        return next(int(line.split()[1]) for line in file if line.startswith('Threads'))


def resident(worker):
    """MB"""
    with open('/proc/%d/status' % worker.pid) as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith('VmRSS'))


@row('18', 'slow model: 300 turns wait 20 s for a first token, then get one each 2 s',
     'threads constant; the median of other turns + < 5 %; nothing repeated')
def slow_model(f):
    with f.stage() as stage:
        stage.standard(workers=1, apis=1)
        latencies(stage, 20)
        before, n = latencies(stage, 150), threads(stage.workers[0])
        slow = [Turn('wait 20000ms then stream 3 tokens 2000ms', expect=words(3), watch=())
                for _ in range(300)]
        stage.load.start(slow)
        wait_until(lambda: stage.sim.stats()['open'] >= 300, 30, 'open calls')
        during, m = latencies(stage, 150), threads(stage.workers[0])
        stage.settle(90)
        f.judge(stage)
        f.count('more threads', m - n)
        grown = 100 * (percentile(during, 0.5) / percentile(before, 0.5) - 1)
        f._judge('median of others %+.1f %%' % grown, grown < 5, not f.quick)
        f.show('p99 %.0f ms to %.0f ms' % (1000 * percentile(before, 0.99),
                                           1000 * percentile(during, 0.99)))
        f.count('takeovers', stage.value("select count(*) from nocturne.attempt where outcome = 'lost'"))


# name -> (what it sends, how the turn ends with max_attempts 2)
STREAMS = {
    'half a stream': (fakes.send(fakes.head(), fakes.frame({'content': 'half'})), 'failed'),
    'malformed JSON': (fakes.send(fakes.head(), b'data: {"choices":[{\n\n'), 'failed'),
    'truncated UTF-8': (fakes.send(fakes.head(), b'data: {"choices":[{"index":0,"delta":{"content":"\xe2\x82"}}]}\n\n',
                                   fakes.frame({}, 'stop'), fakes.DONE), None),
    'NUL bytes': (fakes.send(fakes.head(), b'data: \0\0\0\n\n'), 'failed'),
    'NUL in a string': (fakes.send(fakes.head(), fakes.frame({'content': 'a\0b'}),
                                   fakes.frame({}, 'stop'), fakes.DONE), None),
    'a 10 MB line': (fakes.send(fakes.head(), b'data: ' + b'x' * (10 << 20) + b'\n\n'), 'failed'),
    'no frames': (fakes.send(fakes.head()), 'failed'),
    'no HTTP': (fakes.send(b'\x16\x03\x01 what?\r\n\r\n'), 'failed'),
    'an array': (fakes.send(fakes.head(), b'data: [[[[1]]]]\n\n'), 'failed'),
    'depth': (fakes.send(fakes.head(), b'data: ' + b'[' * 100000 + b'\n\n'), 'failed'),
    'negative index': (fakes.send(fakes.head(), b'data: {"choices":[{"index":-7,"delta":{"tool_calls":'
                                  b'[{"index":-1,"function":{"name":7}}]}}]}\n\n', fakes.DONE), None),
    'HTML': (fakes.send(fakes.head(200, 'text/html'), b'<html>proxy error</html>'), 'failed'),
}


@row('19', 'broken streams: %d kinds (half, malformed, truncated UTF-8, NUL, 10 MB line, ...), 20 turns of each'
     % len(STREAMS), 'no crash; classified; memory + ≤ 16 MB')
def broken_streams(f):
    server = fakes.RawServer()
    with f.stage() as stage:
        stage.standard(workers=1, apis=1)
        stage.load.start([Turn('say warm', expect='warm') for _ in range(20)])
        stage.settle(30)
        worker, before, turns = stage.workers[0], resident(stage.workers[0]), {}
        for i, (kind, (script, _)) in enumerate(STREAMS.items()):
            server.scripts['m%d' % i] = [script]
            stage.put_agent('m%d' % i, {'kind': 'llm', 'max_attempts': 2, 'model': {
                'provider': 'openai', 'base_url': server.url('m%d' % i), 'name': 'x'}})
            turns[kind] = [Turn('hello', agent='m%d' % i, watch=('live',)) for _ in range(20)]
        for group in turns.values():
            stage.load.start(group, every=0.02)
        stage.settle(100)
        wait_for(1)
        grown = resident(worker) - before
        stage.load.start([Turn('say well', expect='well')])
        stage.settle(30)
        f.judge(stage)
        f.sure('the worker lives', worker.alive)
        wrong = [kind for kind, group in turns.items() for t in group
                 if STREAMS[kind][1] not in (None, t.status)]
        f.count('ended otherwise than classified' + (' (%s)' % ', '.join(set(wrong)) if wrong else ''),
                len(wrong))
        f._judge('memory %+d MB' % grown, grown <= 16, not f.quick)
    server.close()


@row('20', 'storm: the provider says 429 with Retry-After 1 (then 503) to everything for 10 s, 50 turns '
     'at once, no answer before',
     'after the first refusal ≤ 1 probe/s, but for the calls in flight then, one a turn at most; '
     'recovery ≤ 2 s after it clears; attempts not burnt')
def storm(f):
    """A refusal is news to the calls that are in flight: to hold back those of a provider of which
    nothing bad is known would delay every healthy burst by a first token. So the probes are what
    comes later than the second for which the first refusal asks; what comes in it is counted apart."""
    server = fakes.RawServer()
    clear = []

    def answer(conn):
        if clear:
            fakes.spoken('fine')(conn)
        else:
            status = 429 if time.time() < began + 5 else 503
            fakes.send(fakes.head(status, 'application/json', Retry_After='1', Content_Length='2'),
                       b'{}')(conn)

    server.scripts['m'] = [answer]
    with f.stage() as stage:
        stage.standard(workers=1, apis=1)
        stage.put_agent('m', {'kind': 'llm', 'model': {'provider': 'openai', 'base_url': server.url('m'),
                                                       'name': 'x'}})
        began = time.time()
        turns = [Turn('hello', expect='fine', agent='m') for _ in range(50)]
        stage.load.start(turns)
        wait_for(10)
        asked = [r.at for r in server.requests['m']]
        clear.append(True)
        cleared = time.time()
        stage.settle(120)
        history = f.judge(stage)
        probes = [at for at in asked if at - asked[0] >= 1]
        f.count('requests in flight at the first refusal', len(asked) - len(probes), 50)
        f.count('probes a second in the 9 s after', len(probes) / 9, 1)
        f.show('%d in the worst' % max((sum(0 <= b - a < 1 for b in probes) for a in probes), default=0))
        ended = sorted(t.ended_at - cleared for t in turns if t.status == 'completed')
        if ended:
            f.time('first turn after it cleared', ended[0], 2)
            f.show('last %.1f s' % ended[-1])
        f.count('turns failed', sum(t.status != 'completed' for t in turns))
        f.count('attempts burnt', sum(len(history.attempts[t.task_id]) - 1 for t in turns))
    server.close()


@row('21', 'tools that hang, fork or flood (10 turns each, time-out 2 s)',
     'process groups dead ≤ 3 s after the time-out; 0 processes left; others unaffected')
def bad_tools(f):
    kinds = {'hang': 'trap "" TERM; while :; do sleep 1; done',
             'forks': 'for i in 1 2 3 4 5 6 7 8; do sleep 77777 & done; sleep 77777',
             'flood': 'while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done'}
    with f.stage() as stage:
        stage.standard(workers=1, apis=1)
        for name, script in kinds.items():
            stage.llm_agent(name, [{'type': 'process', 'name': name, 'command': ['sh', '-c', script],
                                    'timeout': '2s'}])
        turns = [Turn('call %s {} then say over' % name, expect='over', agent=name)
                 for name in kinds for _ in range(10)]
        stage.load.start(turns)
        other = latencies(stage, 50)
        stage.settle(60, turns)
        history = f.judge(stage)
        took = [r['ended_at'] - r['started_at'] for r in history.table['tool_call']]
        f.time('after the time-out, at most', max(took) - 2, 3)
        wait_for(2)
        f.count('processes left', children(stage.workers[0].pid))
        f.count('turns failed', sum(t.status != 'completed' for t in turns))
        f.show('median of others %.0f ms' % (1000 * percentile(other, 0.5)))


def children(pid):
    with open('/proc/%d/task/%d/children' % (pid, pid)) as file:
        return len(file.read().split())
