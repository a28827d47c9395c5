"""What a row of the fault matrix is made of.

    @row('1', 'worker kill -9', 'p50 <= 3 s; 0 lost', quick=True)
    def worker_killed(f):
        with f.stage() as stage:
            ...
            f.time('rescue p50', seconds, 3)      # a target that holds on a quiet machine
            f.count('repeated', n)                # one that holds always: nothing, or at most ...
            f.judge(stage)                        # the invariants; must be called

The number is that of research/queues.md 4.3; a target of issue 4 replaces the research's.
"""
import math
import time

from stage import Stage, check

ROWS = []


class Row:
    def __init__(self, number, fault, target, quick, function):
        self.number, self.fault, self.target = number, fault, target
        self.quick, self.function = quick, function

    @property
    def name(self):
        return self.function.__name__


def row(number, fault, target, quick=False):
    def keep(function):
        ROWS.append(Row(number, fault, target, quick, function))
        return function
    return keep


class Figures:
    """What a row has measured, and what of it missed its target."""

    def __init__(self, name, seed, quick):
        self.name, self.seed, self.quick = name, seed, quick
        self.shown, self.missed, self.judged = [], [], False

    def stage(self, **kw):
        return Stage(self.name, self.seed, **kw)

    def show(self, text):
        self.shown.append(text)

    def _judge(self, text, is_good, counts=True):
        self.shown.append(text if is_good else '**%s**' % text)
        if not is_good and counts:
            self.missed.append(text)

    def count(self, what, n, most=0):
        self._judge('%s %s' % (number(n), what), n <= most)

    def least(self, what, n, least, unit=''):
        self._judge('%s %s%s' % (what, number(n), unit), n >= least, not self.quick)

    def sure(self, what, is_so):
        self._judge(what if is_so else 'not so: ' + what, bool(is_so))

    def time(self, what, seconds, target):
        """Not judged in the quick selection: it runs under sanitizers, on any machine."""
        self._judge('%s %s' % (what, spoken(seconds)), seconds <= target, not self.quick)

    def spread(self, what, samples, p50=None, p99=None):
        """Median and 99th percentile of seconds."""
        if not samples:
            self._judge('%s: no sample' % what, False)
            return
        for name, share, target in (('p50', 0.5, p50), ('p99', 0.99, p99)):
            value = percentile(samples, share)
            self.time('%s %s' % (what, name), value, math.inf if target is None else target)
        self.shown[-1] += ' (n = %d)' % len(samples)

    def judge(self, stage):
        history = stage.judge()
        self.judged = True
        return history


def number(n):
    return '%d' % n if n == int(n) else '%.1f' % n


def spoken(seconds):
    if seconds == math.inf:
        return 'never'
    return '%.0f ms' % (seconds * 1000) if seconds < 1 else '%.2f s' % seconds


def percentile(samples, share):
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# ---- what several rows ask of a history ----

def takeovers(history, died, outcome='lost'):
    """Seconds from the death of a worker until each of its turns told something elsewhere.
    died: {name of the worker: time.time()}, or None: from the end of the attempt."""
    found = []
    for task, attempts in history.attempts.items():
        told = first_events(history, task)
        spans = check.spans(history, task)
        for attempt in attempts:
            if attempt['outcome'] != outcome or (died and attempt['worker'] not in died):
                continue
            later = [told.get(e, start) for start, _, e in spans if e > attempt['epoch']]
            if later:
                found.append(later[0] - (died[attempt['worker']] if died else attempt['ended_at']))
    return found


def first_events(history, task):
    """{epoch: when its first event happened}"""
    found = {}
    for event in history.stored.get(task, ()):
        found.setdefault(event['epoch'], event['at'])
    return found


def charged(history):
    """Attempts that were counted against their task."""
    return sum(a['outcome'] in ('lost', 'retry', 'failed')
               for attempts in history.attempts.values() for a in attempts)


def words(n):
    """The text of `stream N tokens`."""
    return ' '.join('tok%d' % i for i in range(n))


def wait_for(seconds):
    """When nothing can be awaited because nothing must happen."""
    time.sleep(seconds)
