#!/usr/bin/python3
"""Judge a recorded history: check.py FOLDER. It looks at logs alone, never at a live system, so that
forged histories can test it (test_check.py does).

A history is a folder of JSON lines, times in seconds since 1970 of one machine's clock:

    submits  {at, key, status, task, session, expect, script}
             one line an answer (or its lack: status null); `expect`: the output's text
    waits    {at, task, status}                      a terminal status that an api told
    subs     {at, sub, task, what, after, api}       what: open, end (by the api), cut (by us or by a
                                                     fault), finished (turn.ended was seen);
                                                     after: the cursor then
    seen     {at, sub, seq, data}                    an event as a subscriber got it
    tools    {at, key, name, once}                   a tool ran, logged by itself; once: not idempotent
    models   {at, ended, script, step, status}       a request, logged by the model
    done     {at, task, status, epoch, output}       a terminal row seen meanwhile; status null: it was
                                                     there before, and then was not
    tables   {table, row}                            all rows at the end; times in seconds
    meta     {quiet, clock}                          quiet: all work had ended; clock: false when the
                                                     database's clock was tampered with

Each violation is (kind, what).
"""
import collections
import json
import os
import sys

TERMINAL = ('completed', 'incomplete', 'failed', 'aborted', 'expired')
LOGS = ('submits', 'waits', 'subs', 'seen', 'tools', 'models', 'done', 'tables', 'meta')
# Logs of several processes of one machine are compared by time; a line is written a moment after
# what it tells of.
SLACK = 0.25


class History:
    """The logs as lists, and the tables by name."""

    def __init__(self, logs):
        for name in LOGS:
            setattr(self, name, logs.get(name, []))
        self.table = collections.defaultdict(list)
        for line in self.tables:
            self.table[line['table']].append(line['row'])
        self.options = {'quiet': True, 'clock': True}
        for line in self.meta:
            self.options.update(line)
        self.ended = {r['task_id']: r for r in self.table['done']}
        self.attempts = grouped(self.table['attempts'], 'task_id', 'epoch')
        self.leases = {r['task_id']: r for r in self.table['lease']}
        self.chunks = grouped(self.table['chunk'], 'task_id', 'seq_from')
        self.stored = {t: [e for c in chunks for e in events_of(c)]
                       for t, chunks in self.chunks.items()}


def grouped(rows, by, order):
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row[by]].append(row)
    for group in groups.values():
        group.sort(key=lambda r: r[order])
    return groups


def read(folder):
    logs = {}
    for name in LOGS:
        path = os.path.join(folder, name + '.jsonl')
        if os.path.exists(path):
            with open(path) as f:
                logs[name] = [json.loads(line) for line in f if line.endswith('\n')]
    return History(logs)


def events_of(chunk):
    """[{seq, epoch, at, ...the event}] of a row."""
    found = []
    for i, line in enumerate(chunk['events'].split('\n')[:-1]):
        offset, _, text = line.partition(' ')
        event = json.loads(text)
        event['seq'] = chunk['seq_from'] + i
        event['epoch'] = chunk['epoch']
        event['at'] = (chunk['at_ms'] + int(offset)) / 1000
        found.append(event)
    return found


def body(event):
    """What subscribers must agree on."""
    return {k: v for k, v in event.items() if k not in ('epoch', 'at', 'task_id')}


def kept(events):
    out = []
    for event in events:
        if event['type'] == 'reset':
            out = [e for e in out if e['seq'] <= event['to_seq']]
        else:
            out.append(event)
    return out


def text_of(events):
    """Of the model's last answer: what the output of the turn says."""
    text = ''
    for event in kept(events):
        if event['type'] == 'step.started':
            text = ''
        elif event['type'] == 'content.delta':
            text += event['text']
    return text


# ---- tasks ----

def lost(h):
    """An id was told, and the task is not there or has no end."""
    there = {r['task_id'] for r in h.table['task']}
    for line in h.submits:
        task = line['task']
        if task and task not in there:
            yield 'not durable', '%s was told to key %s' % (task, line['key'])
    if h.options['quiet']:
        for task in there - set(h.ended):
            yield 'lost task', task


def keys(h):
    told = collections.defaultdict(set)
    for line in h.submits:
        if line['task'] and line['key']:
            told[line['key']].add(line['task'])
    for row in h.table['idempotency']:
        told[row['key']].add(row['task_id'])
    for key, tasks in told.items():
        if len(tasks) > 1:
            yield 'one key, two tasks', '%s: %s' % (key, sorted(tasks))


def ends(h):
    """Exactly one end, and it never changes."""
    for task, n in collections.Counter(r['task_id'] for r in h.table['done']).items():
        if n > 1:
            yield 'two ends', '%s has %d rows' % (task, n)
    for task, attempts in h.attempts.items():
        ending = [a for a in attempts if a['outcome'] in TERMINAL]
        done = h.ended.get(task)
        if len(ending) > 1:
            yield 'two ends', '%s: attempts %s' % (task, [a['epoch'] for a in ending])
        if ending and done and (ending[0]['epoch'], ending[0]['outcome']) != \
                (done['epoch'], done['status']):
            yield 'two ends', '%s: attempt %s, done %s' % (task, ending[0], done['status'])
        if done and done['epoch'] and attempts[-1]['epoch'] > done['epoch']:
            yield 'two ends', '%s was run again after its end' % task
    for line in h.waits:
        done = h.ended.get(line['task'])
        if done is None or done['status'] != line['status']:
            yield 'end changed', '%s: an api told %s, the table has %s' % (
                line['task'], line['status'], done and done['status'])
    for line in h.done:
        row = h.ended.get(line['task'])
        if row is None or any(row[k] != line[k] for k in ('status', 'epoch', 'output')):
            yield 'end changed', '%s: was %s, is %s' % (line['task'], line, row)


def outputs(h):
    """The output is what the script says, and what the stream said."""
    expected = {line['task']: line['expect'] for line in h.submits
                if line['task'] and line.get('expect') is not None}
    for task, row in h.ended.items():
        if row['status'] != 'completed' or not isinstance(row['output'], dict):
            continue
        told = row['output'].get('text')
        if task in expected and told != expected[task]:
            yield 'wrong output', '%s: %r, not %r' % (task, told, expected[task])
        asked = any(e['type'] == 'step.started' for e in h.stored.get(task, ()))  # a model
        if asked and told is not None and text_of(h.stored[task]) != told:
            yield 'reset missing', '%s: the stream says %r, the output %r' % (
                task, text_of(h.stored[task])[-200:], told[-200:])


def leaks(h):
    if not h.options['quiet']:
        return
    for name in ('lease', 'ready', 'control', 'due'):
        for row in h.table[name]:
            if row.get('kind') != 'deadline':
                yield 'leaked ' + name, str(row)
    for row in h.table['session']:
        if row['running'] or row['queue']:
            yield 'leaked session', str(row)


# ---- leases ----

def spans(h, task):
    """[(from, to, epoch)] of the leases of a task, as far as they are told."""
    out = [(a['started_at'], a['ended_at'], a['epoch']) for a in h.attempts.get(task, ())]
    if task in h.leases:
        lease = h.leases[task]
        out.append((lease['claimed_at'], float('inf'), lease['epoch']))
    return sorted(out, key=lambda s: s[2])


def overlaps(h):
    if not h.options['clock']:
        return
    sessions = collections.defaultdict(list)
    for row in h.table['task']:
        own = spans(h, row['task_id'])
        for a, b in zip(own, own[1:]):
            if b[0] < a[1]:
                yield 'leases overlap', '%s: epoch %d from %.3f, epoch %d to %.3f' % (
                    row['task_id'], b[2], b[0], a[2], a[1])
        if row['session_id'] and not row['snapshot_id']:
            sessions[row['tenant'], row['session_id']] += own
    for (_, name), all_ in sessions.items():
        all_.sort()
        for a, b in zip(all_, all_[1:]):
            if b[0] < a[1]:
                yield 'session runs twice', '%s: epochs %d and %d' % (name, a[2], b[2])


# ---- events ----

def streams(h):
    """What is stored: dense, in order, fenced, one end."""
    for task, chunks in h.chunks.items():
        next_seq = 1
        for chunk in chunks:
            n = chunk['events'].count('\n')
            if n != chunk['count']:
                yield 'gap', '%s: chunk %d counts %d events and has %d' % (
                    task, chunk['seq_from'], chunk['count'], n)
            if chunk['seq_from'] > next_seq:
                yield 'gap', '%s: %d is missing' % (task, next_seq)
            elif chunk['seq_from'] < next_seq:
                yield 'duplicate', '%s: %d is there twice' % (task, chunk['seq_from'])
            next_seq = chunk['seq_from'] + n
        yield from fence(h, task, chunks)
    for task in set(h.chunks) | set(h.ended):
        yield from ended_once(h, task, h.stored.get(task, []))


def fence(h, task, chunks):
    known = {epoch: (start, end) for start, end, epoch in spans(h, task)}
    top = 0
    for chunk in chunks:
        epoch = chunk['epoch']
        if epoch == 0:
            continue  # by the database itself: an end without a worker
        if epoch < top:
            yield 'fenced write', '%s: seq %d of epoch %d after epoch %d' % (
                task, chunk['seq_from'], epoch, top)
        if epoch not in known:
            yield 'fenced write', '%s: seq %d of epoch %d, which never held it' % (
                task, chunk['seq_from'], epoch)
        elif h.options['clock']:
            last = events_of(chunk)[-1]
            if last['at'] > known[epoch][1] + SLACK:
                yield 'fenced write', '%s: seq %d happened %.3f s after the lease of epoch %d' % (
                    task, last['seq'], last['at'] - known[epoch][1], epoch)
        top = max(top, epoch)


def ended_once(h, task, events):
    n = sum(e['type'] == 'turn.ended' for e in events)
    if n > 1:
        yield 'two ends', '%s: %d turn.ended' % (task, n)
    if n and events[-1]['type'] != 'turn.ended':
        yield 'order', '%s: %s after turn.ended' % (task, events[-1]['type'])
    if (task in h.ended) != (n > 0):
        yield 'lost end', '%s: %d turn.ended, done: %s' % (task, n, h.ended.get(task))
    started = sum(e['type'] == 'turn.started' for e in events)
    if started > 1:
        yield 'duplicate', '%s: %d turn.started' % (task, started)


def resets(h):
    """Where a new epoch begins, what was told beyond the last commit is made void."""
    marks = collections.defaultdict(list)
    for row in h.table['step']:
        marks[row['task_id']].append(row['last_seq'])
    for row in h.table['tool_call']:
        if row['seq']:
            marks[row['task_id']].append(row['seq'])
    for task, events in h.stored.items():
        for before, event in zip(events, events[1:]):
            if event['epoch'] == before['epoch'] or event['type'] == 'turn.ended':
                continue
            keep = max([1] + [s for s in marks[task] if s <= before['seq']])
            if before['seq'] > keep and (event['type'] != 'reset' or event['to_seq'] != keep):
                yield 'reset missing', '%s: epoch %d begins at seq %d with %s, committed was %d' % (
                    task, event['epoch'], event['seq'], event['type'], keep)


def subscribers(h):
    """Each gets what is stored, from its cursor to the end, in order and once."""
    tasks, cursor, finished = {}, {}, set()
    for line in h.subs:
        if line['what'] == 'open' and line['sub'] not in tasks:
            tasks[line['sub']] = line['task']
            cursor[line['sub']] = line['after'] or 0
        elif line['what'] == 'finished':
            finished.add(line['sub'])
    stored = {t: [body(e) for e in events] for t, events in h.stored.items()}
    told = {}  # (task, seq) -> data of whoever came first
    for line in h.seen:
        sub, seq = line['sub'], line['seq']
        task = tasks[sub]
        want = cursor[sub] + 1
        if seq > want:
            yield 'gap', 'subscriber %s of %s: %d after %d' % (sub, task, seq, want - 1)
        elif seq == want - 1:
            yield 'duplicate', 'subscriber %s of %s: %d twice' % (sub, task, seq)
        elif seq < want:
            yield 'order', 'subscriber %s of %s: %d after %d' % (sub, task, seq, want - 1)
        cursor[sub] = max(seq, cursor[sub])
        data = body(line['data'])
        if told.setdefault((task, seq), data) != data:
            yield 'subscribers differ', '%s seq %d: %s, %s' % (task, seq, told[task, seq], data)
        own = stored.get(task, ())
        if not 0 < seq <= len(own) or own[seq - 1] != data:
            yield 'not what is stored', '%s seq %d: %s' % (task, seq, data)
    for line in h.subs:
        if line['what'] == 'end' and line['after'] < len(stored.get(line['task'], ())):
            yield 'ended early', 'subscriber %s of %s: the api ended it at %d' % (
                line['sub'], line['task'], line['after'])
    for sub, task in tasks.items():
        if h.options['quiet'] and cursor[sub] < len(stored.get(task, ())):
            yield 'ended early', 'subscriber %s of %s saw %d of %d' % (
                sub, task, cursor[sub], len(stored[task]))
        if sub in finished and task not in h.ended:
            yield 'lost end', 'subscriber %s of %s saw the end' % (sub, task)


# ---- effects ----

def tool_runs(h):
    """A tool runs once; again only in a later lease while the ledger has it open, and never if it did
    not say that it may."""
    ledger = {'%s/%d/%d' % (r['task_id'], r['step'], r['idx']): r for r in h.table['tool_call']}
    runs = collections.defaultdict(list)
    for line in h.tools:
        runs[line['key']].append(line)
    for key, lines in runs.items():
        row = ledger.get(key)
        if row is None:
            yield 'tool without a claim', key
            continue
        lines.sort(key=lambda r: r['at'])
        if len(lines) > 1 and lines[0]['once']:
            yield 'tool repeated', '%s ran %d times and may not' % (key, len(lines))
        if h.options['clock']:
            yield from tool_reasons(h, key, lines, row)


def tool_reasons(h, key, lines, row):
    leases = spans(h, row['task_id'])
    used = set()
    for line in lines:
        within = [epoch for start, end, epoch in leases
                  if start - SLACK <= line['at'] <= end + SLACK and epoch not in used]
        if not within:
            yield 'tool repeated', '%s at %.3f has no lease of its own' % (key, line['at'])
        used.update(within[:1])
        if row['ended_at'] and line['at'] > row['ended_at'] + SLACK:
            yield 'tool repeated', '%s ran %.3f s after it was settled' % (
                key, line['at'] - row['ended_at'])


def model_calls(h):
    """Nobody asks for a step that is committed."""
    tasks = {line['script']: line['task'] for line in h.submits if line['task'] and line.get('script')}
    steps = {(r['task_id'], r['step']): r for r in h.table['step']}
    for line in h.models:
        task = tasks.get(line['script'])
        row = steps.get((task, line['step'] + 1)) if task else None
        if row and h.options['clock'] and line['at'] > row['created_at'] + SLACK:
            yield 'model paid twice', '%s: step %d asked for again %.3f s after its commit' % (
                task, line['step'] + 1, line['at'] - row['created_at'])


CHECKS = (lost, keys, ends, outputs, leaks, overlaps, streams, resets, subscribers, tool_runs,
          model_calls)


def check(history):
    """All violations: [(kind, what)]"""
    return [found for one in CHECKS for found in one(history)]


def repeats(h):
    """{'models': n, 'tools': n}: calls that had finished and were made again, whether that broke a
    promise or not (an answer may die with its worker before it is durable)."""
    asked, again = set(), 0
    for line in sorted(h.models, key=lambda r: r['at']):
        key = (line['script'], line['step'])
        again += key in asked
        if line['status'] == 'done':
            asked.add(key)
    runs = collections.Counter(line['key'] for line in h.tools)
    return {'models': again, 'tools': sum(n - 1 for n in runs.values())}


def main(folder):
    found = check(read(folder))
    for kind, what in found[:200]:
        print('%s: %s' % (kind, what))
    print('%d violations' % len(found))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1]))
