#!/usr/bin/python3
"""The judge is judged: check.py finds nothing in a good history, and in each forged one what was
forged. The last line is `N passed, N failed`."""
import copy
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import check  # noqa: E402

A, B = 'task-a', 'task-b'  # two turns of one session; a worker dies in the first
T = 1000.0


def chunk(task, seq_from, epoch, at, *events):
    return {'table': 'chunk', 'row': {
        'task_id': task, 'seq_from': seq_from, 'epoch': epoch, 'count': len(events),
        'at_ms': int(at * 1000), 'events': ''.join('0 %s\n' % json.dumps(e) for e in events)}}


def row(table, **columns):
    return {'table': table, 'row': columns}


def delta(text):
    return {'type': 'content.delta', 'text': text}


def good():
    """The logs of a history without a fault: A is claimed by epoch 1, commits a step and two tool calls
    of which one is under way, dies, is taken over by epoch 2, ends. B follows."""
    started, step = {'type': 'turn.started'}, {'type': 'step.started', 'step': 1}
    a = [chunk(A, 1, 1, T + 1, started, step, {'type': 'tool_call.delta'}),
         chunk(A, 4, 1, T + 2, {'type': 'tool.started'}, {'type': 'tool.result'},
               {'type': 'tool.started'}),
         chunk(A, 7, 2, T + 12, {'type': 'reset', 'to_seq': 5}, {'type': 'tool.started'},
               {'type': 'tool.result'}),
         chunk(A, 10, 2, T + 13, {'type': 'step.started', 'step': 2}, delta('hel'), delta('lo')),
         chunk(A, 13, 2, T + 14, {'type': 'turn.ended'})]
    b = [chunk(B, 1, 3, T + 20, started, step, delta('bye'), {'type': 'turn.ended'})]
    tables = a + b
    for task, epoch, text, at in ((A, 2, 'hello', 14), (B, 3, 'bye', 20)):
        tables += [
            row('task', task_id=task, tenant='default', agent='a', session_id='s',
                snapshot_id=None, created_at=T),
            row('idempotency', key='key-' + task, task_id=task),
            row('done', task_id=task, epoch=epoch, status='completed', output={'text': text},
                last_seq=13, finished_at=T + at)]
    tables += [
        row('attempts', task_id=A, epoch=1, started_at=T + 1, ended_at=T + 10, outcome='lost'),
        row('attempts', task_id=A, epoch=2, started_at=T + 11, ended_at=T + 14,
            outcome='completed'),
        row('attempts', task_id=B, epoch=3, started_at=T + 15, ended_at=T + 20,
            outcome='completed'),
        row('step', task_id=A, step=1, epoch=1, last_seq=3, created_at=T + 2),
        row('step', task_id=A, step=2, epoch=2, last_seq=12, created_at=T + 14),
        row('step', task_id=B, step=1, epoch=3, last_seq=3, created_at=T + 20),
        row('tool_call', task_id=A, step=1, idx=0, epoch=1, name='once', status='done', seq=5,
            started_at=T + 2, ended_at=T + 3),
        row('tool_call', task_id=A, step=1, idx=1, epoch=2, name='note', status='done', seq=9,
            started_at=T + 3, ended_at=T + 12.5),
        row('session', session_id='s', running=None, queue=[])]
    logs = {
        'submits': [
            {'at': T, 'key': 'key-' + A, 'status': None, 'task': None, 'expect': 'hello'},
            {'at': T, 'key': 'key-' + A, 'status': 202, 'task': A, 'expect': 'hello',
             'script': 'one'},
            {'at': T, 'key': 'key-' + B, 'status': 202, 'task': B, 'expect': 'bye',
             'script': 'two'}],
        'waits': [{'at': T + 15, 'task': A, 'status': 'completed'}],
        'done': [{'at': T + 15, 'task': A, 'status': 'completed', 'epoch': 2,
                  'output': {'text': 'hello'}}],
        'tools': [{'at': T + 2, 'key': A + '/1/0', 'name': 'once', 'once': True},
                  {'at': T + 3, 'key': A + '/1/1', 'name': 'note', 'once': False},
                  {'at': T + 12, 'key': A + '/1/1', 'name': 'note', 'once': False}],
        'models': [{'at': T + 1, 'script': 'one', 'step': 0, 'status': 'done'},
                   {'at': T + 12.6, 'script': 'one', 'step': 1, 'status': 'done'},
                   {'at': T + 19, 'script': 'two', 'step': 0, 'status': 'done'}],
        'tables': tables, 'subs': [], 'seen': [], 'meta': [{'quiet': True, 'clock': True}]}
    # one watches A from the start and is cut after 6, one begins in the middle, one watches B
    watch(logs, 1, A, 0, 6, 13)
    watch(logs, 2, A, 4, 13)
    watch(logs, 3, B, 0, 4)
    return logs


def watch(logs, sub, task, cursor, *until):
    stored = check.History(logs).stored[task]
    for end in until:
        logs['subs'].append({'at': T, 'sub': sub, 'task': task, 'what': 'open', 'after': cursor})
        logs['seen'] += [{'at': T, 'sub': sub, 'seq': e['seq'], 'data': check.body(e)}
                         for e in stored[cursor:end]]
        cursor = end
        what = 'end' if end == len(stored) else 'cut'
        logs['subs'].append({'at': T, 'sub': sub, 'task': task, 'what': what, 'after': cursor})
    logs['subs'].append({'at': T, 'sub': sub, 'task': task, 'what': 'finished', 'after': cursor})


# ---- forgeries: each takes good logs, spoils them, and is named by what must be found ----

def rows(logs, table, **want):
    return [line['row'] for line in logs['tables'] if line['table'] == table
            and all(line['row'][k] == v for k, v in want.items())]


def remove(logs, table, **want):
    gone = rows(logs, table, **want)
    assert gone
    logs['tables'] = [line for line in logs['tables'] if not any(line['row'] is g for g in gone)]


def seen(logs, sub, seq):
    return next(line for line in logs['seen'] if (line['sub'], line['seq']) == (sub, seq))


def a_task_without_an_end(logs):
    for table in ('done', 'attempts', 'chunk'):
        remove(logs, table, task_id=B)
    return 'lost task'


def an_id_that_was_not_durable(logs):
    logs['submits'].append({'at': T, 'key': 'k', 'status': 202, 'task': 'task-c', 'expect': None})
    return 'not durable'


def two_terminal_rows(logs):
    logs['tables'].append(row('done', task_id=A, epoch=1, status='failed', output=None,
                              last_seq=13, finished_at=T + 14))
    return 'two ends'


def two_attempts_that_end_it(logs):
    rows(logs, 'attempts', epoch=1)[0]['outcome'] = 'failed'
    return 'two ends'


def a_second_turn_ended(logs):
    logs['tables'].append(chunk(A, 14, 2, T + 14, {'type': 'turn.ended'}))
    return 'two ends'


def a_run_after_the_end(logs):
    logs['tables'].append(row('attempts', task_id=A, epoch=9, started_at=T + 30,
                              ended_at=T + 31, outcome='released'))
    return 'two ends'


def an_end_that_changes_in_the_table(logs):
    logs['done'][0]['status'] = 'aborted'
    return 'end changed'


def an_end_that_vanishes(logs):
    logs['done'].append({'at': T + 16, 'task': A, 'status': None, 'epoch': None, 'output': None})
    return 'end changed'


def an_end_told_otherwise(logs):
    logs['waits'][0]['status'] = 'failed'
    return 'end changed'


def a_gap_in_the_table(logs):
    remove(logs, 'chunk', task_id=A, seq_from=10)
    return 'gap'


def a_chunk_that_counts_wrong(logs):
    rows(logs, 'chunk', task_id=A, seq_from=4)[0]['count'] = 2
    return 'gap'


def a_gap_for_a_subscriber(logs):
    logs['seen'].remove(seen(logs, 1, 7))
    return 'gap'


def a_duplicate_in_the_table(logs):
    logs['tables'].append(chunk(A, 6, 1, T + 2, {'type': 'tool.started'}))
    return 'duplicate'


def a_duplicate_for_a_subscriber(logs):
    at = logs['seen'].index(seen(logs, 2, 7))
    logs['seen'].insert(at, copy.deepcopy(logs['seen'][at]))
    return 'duplicate'


def events_that_swap_places(logs):
    i, j = (logs['seen'].index(seen(logs, 1, seq)) for seq in (11, 12))
    logs['seen'][i], logs['seen'][j] = logs['seen'][j], logs['seen'][i]
    return 'order'


def an_event_after_the_end(logs):
    logs['tables'].append(chunk(A, 14, 2, T + 14, delta('more')))
    return 'order'


def an_event_of_a_fenced_epoch(logs):
    rows(logs, 'chunk', task_id=A, seq_from=10)[0]['epoch'] = 1
    return 'fenced write'


def an_event_of_an_epoch_nobody_held(logs):
    for r in rows(logs, 'chunk', task_id=B):
        r['epoch'] = 77
    return 'fenced write'


def an_event_that_happened_after_its_lease(logs):
    rows(logs, 'chunk', task_id=A, seq_from=4)[0]['at_ms'] = int((T + 10.8) * 1000)
    return 'fenced write'


def a_takeover_without_a_reset(logs):
    r = rows(logs, 'chunk', task_id=A, seq_from=7)[0]
    r['events'] = r['events'].replace('"reset"', '"step.note"')
    for sub in (1, 2):
        seen(logs, sub, 7)['data']['type'] = 'step.note'
    return 'reset missing'


def a_reset_to_the_wrong_place(logs):
    r = rows(logs, 'chunk', task_id=A, seq_from=7)[0]
    r['events'] = r['events'].replace('"to_seq": 5', '"to_seq": 3')
    for sub in (1, 2):
        seen(logs, sub, 7)['data']['to_seq'] = 3
    return 'reset missing'


def a_text_told_twice(logs):
    rows(logs, 'done', task_id=A)[0]['output'] = logs['done'][0]['output'] = {'text': 'lo'}
    logs['submits'][0]['expect'] = logs['submits'][1]['expect'] = 'lo'
    return 'reset missing'


def an_output_that_is_not_the_answer(logs):
    for line in logs['submits'][:2]:
        line['expect'] = 'hullo'
    return 'wrong output'


def subscribers_that_read_different_text(logs):
    seen(logs, 2, 11)['data']['text'] = 'HEL'
    return 'subscribers differ'


def subscribers_that_agree_on_what_is_not_stored(logs):
    for sub in (1, 2):
        seen(logs, sub, 11)['data']['text'] = 'HEL'
    return 'not what is stored'


def a_stream_the_api_ends_early(logs):
    logs['subs'][1]['what'] = 'end'
    return 'ended early'


def a_subscriber_that_never_sees_the_end(logs):
    logs['seen'].remove(seen(logs, 3, 4))
    return 'ended early'


def a_tool_that_may_not_runs_again(logs):
    logs['tools'].append({'at': T + 12, 'key': A + '/1/0', 'name': 'once', 'once': True})
    return 'tool repeated'


def a_tool_that_runs_twice_in_one_lease(logs):
    logs['tools'].append({'at': T + 12.2, 'key': A + '/1/1', 'name': 'note', 'once': False})
    return 'tool repeated'


def a_tool_that_runs_after_it_was_settled(logs):
    logs['tools'][2]['at'] = T + 13.5
    return 'tool repeated'


def a_tool_that_runs_without_a_claim(logs):
    logs['tools'].append({'at': T + 19, 'key': B + '/1/0', 'name': 'once', 'once': True})
    return 'tool without a claim'


def a_model_asked_for_a_committed_step(logs):
    logs['models'].append({'at': T + 11.5, 'script': 'one', 'step': 0, 'status': 'done'})
    return 'model paid twice'


def a_lease_left_behind(logs):
    logs['tables'].append(row('lease', task_id=B, epoch=4, worker_id=1, claimed_at=T + 21))
    return 'leaked lease'


def a_ready_row_left_behind(logs):
    logs['tables'].append(row('ready', task_id=B))
    return 'leaked ready'


def a_control_row_left_behind(logs):
    logs['tables'].append(row('control', task_id=B, kind='abort'))
    return 'leaked control'


def a_retry_left_behind(logs):
    logs['tables'].append(row('due', task_id=B, kind='retry'))
    return 'leaked due'


def a_session_that_still_runs(logs):
    rows(logs, 'session')[0]['running'] = B
    return 'leaked session'


def a_key_with_two_tasks(logs):
    logs['submits'].append({**logs['submits'][2], 'task': A})
    return 'one key, two tasks'


def leases_that_overlap(logs):
    rows(logs, 'attempts', epoch=2)[0]['started_at'] = T + 9
    return 'leases overlap'


def a_session_that_runs_two_turns(logs):
    rows(logs, 'attempts', epoch=3)[0]['started_at'] = T + 13
    return 'session runs twice'


def an_end_nobody_was_told_of(logs):
    r = rows(logs, 'chunk', task_id=B)[0]
    r['events'] = r['events'].replace('"turn.ended"', '"step.ended"')
    seen(logs, 3, 4)['data']['type'] = 'step.ended'
    return 'lost end'


FORGERIES = [f for name, f in list(globals().items())
             if name.startswith(('a_', 'an_', 'two_', 'events_', 'subscribers_', 'leases_'))]


def through_files(logs):
    """As check.py reads them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in logs.items():
            with open(os.path.join(folder, name + '.jsonl'), 'w') as f:
                f.writelines(json.dumps(line) + '\n' for line in lines)
        return check.check(check.read(folder))


def main():
    passed = failed = 0
    found = through_files(good())
    results = [('a good history', not found, found)]
    for forge in FORGERIES:
        logs = good()
        want = forge(logs)
        found = through_files(logs)
        results.append(('%s: %s' % (forge.__name__.replace('_', ' '), want),
                        want in {kind for kind, _ in found}, found))
    for name, is_good, found in results:
        print('%s check: %s' % ('PASS' if is_good else 'FAIL', name))
        if not is_good:
            print('    found %s' % found)
        passed += is_good
        failed += not is_good
    print('%d passed, %d failed' % (passed, failed))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
