"""The invariants of the design (§6) that can be read off the tables. Each query returns the rows
that break one, with the reason to show."""
import time

# Hold at any moment, whatever runs.
ALWAYS = {
    'one running task per session': """
        select t.tenant, t.session_id, count(*) from (
            select task_id from nocturne.lease union all select task_id from nocturne.ready
            union all select task_id from nocturne.due where kind = 'retry') x
        join nocturne.task t using (task_id) where t.snapshot_id is null
        group by 1, 2 having count(*) > 1""",
    'a terminal task is nowhere else': """
        select d.task_id from nocturne.done d
        where exists (select 1 from nocturne.lease l where l.task_id = d.task_id)
           or exists (select 1 from nocturne.ready r where r.task_id = d.task_id)
           or exists (select 1 from nocturne.due u where u.task_id = d.task_id
                      and u.kind <> 'deadline')""",
    'every task stands somewhere': """
        select t.task_id from nocturne.task t
        where not exists (select 1 from nocturne.done d where d.task_id = t.task_id)
          and not exists (select 1 from nocturne.lease l where l.task_id = t.task_id)
          and not exists (select 1 from nocturne.ready r where r.task_id = t.task_id)
          and not exists (select 1 from nocturne.due u where u.task_id = t.task_id
                          and u.kind <> 'deadline')
          and not exists (select 1 from nocturne.session s where s.tenant = t.tenant
                          and s.session_id = t.session_id and t.task_id = any(s.queue))""",
    'the running task of a session is open': """
        select s.session_id, s.running from nocturne.session s
        where s.running is not null
          and not exists (select 1 from nocturne.lease l where l.task_id = s.running)
          and not exists (select 1 from nocturne.ready r where r.task_id = s.running)
          and not exists (select 1 from nocturne.due u where u.task_id = s.running
                          and u.kind = 'retry')""",
    'seq is dense from 1': """
        select task_id, seq_from, expected from (
            select task_id, seq_from, 1 + coalesce(sum(count) over (
                       partition by task_id order by seq_from
                       rows between unbounded preceding and 1 preceding), 0) as expected
            from nocturne.chunk) x
        where seq_from <> expected""",
    'a chunk holds as many events as it says': r"""
        select task_id, seq_from, count from nocturne.chunk
        where count <> length(events) - length(replace(events, chr(10), ''))
           or events !~ '\n$'""",
    'turn.ended comes once, last, and only of what is terminal': """
        select c.task_id, sum(n), max(d.last_seq) from (
            select task_id, seq_from, count,
                   (select count(*) from string_to_table(events, chr(10)) line
                    where line ~ '^[0-9]+ .*"type": ?"turn\\.ended"') as n
            from nocturne.chunk) c
        left join nocturne.done d using (task_id)
        group by c.task_id, d.task_id
        having sum(n) <> (case when d.task_id is null then 0 else 1 end)
            or (d.task_id is not null and max(c.seq_from + c.count - 1) <> max(d.last_seq))""",
    'the last event of a terminal task is turn.ended': """
        select d.task_id from nocturne.done d
        left join lateral (select events from nocturne.chunk c where c.task_id = d.task_id
                           order by seq_from desc limit 1) c on true
        where c.events is null
           or c.events !~ '"type": ?"turn\\.ended"[^\\n]*\\n$'""",
    'what a worker ended has an attempt that says so': """
        select d.task_id, d.epoch, d.status, a.outcome from nocturne.done d
        left join nocturne.attempts a on a.task_id = d.task_id and a.epoch = d.epoch
        where d.epoch > 0 and a.outcome is distinct from d.status""",
    'the last attempt is the one that ended it': """
        select d.task_id from nocturne.done d join nocturne.attempts a using (task_id)
        where d.epoch > 0 and a.epoch > d.epoch""",
    'an attempt that ends a task is the only such one': """
        select task_id from nocturne.attempts
        where outcome in ('completed', 'incomplete', 'failed', 'aborted', 'expired')
        group by task_id having count(*) > 1""",
    'every event is of an epoch that held the task': """
        select c.task_id, c.seq_from, c.epoch from nocturne.chunk c
        where c.epoch > 0
          and not exists (select 1 from nocturne.attempts a
                          where a.task_id = c.task_id and a.epoch = c.epoch)
          and not exists (select 1 from nocturne.lease l
                          where l.task_id = c.task_id and l.epoch = c.epoch)""",
    'epochs of the events of a task never go back': """
        select task_id, seq_from from (
            select task_id, seq_from, epoch,
                   max(epoch) over (partition by task_id order by seq_from) as top
            from nocturne.chunk) x
        where epoch < top and epoch > 0""",
    'snapshots have the epoch of the end': """
        select s.task_id from nocturne.snapshot s join nocturne.done d using (task_id)
        where s.epoch <> d.epoch""",
    'the head of a session is a snapshot': """
        select s.session_id, s.head from nocturne.session s
        where s.head is not null
          and not exists (select 1 from nocturne.snapshot p where p.task_id = s.head)""",
    'rows of a task have their task': """
        select 'done' as kind, task_id from nocturne.done d
        where not exists (select 1 from nocturne.task t where t.task_id = d.task_id)
        union all select 'ready', task_id from nocturne.ready r
        where not exists (select 1 from nocturne.task t where t.task_id = r.task_id)
        union all select 'lease', task_id from nocturne.lease l
        where not exists (select 1 from nocturne.task t where t.task_id = l.task_id)""",
}

# Hold when nothing runs and nothing waits to.
QUIET = {
    'no lease is left': 'select * from nocturne.lease',
    'no ready row is left': 'select * from nocturne.ready',
    'no control row is left': 'select * from nocturne.control',
    'no due row is left, but of what is scheduled': """
        select u.task_id, u.kind from nocturne.due u
        where u.kind in ('retry', 'abort') and not (u.task_id = any(%(open)s::uuid[]))""",
    'every task is terminal': """
        select t.task_id, nocturne.task_status(t.task_id) as status from nocturne.task t
        where not exists (select 1 from nocturne.done d where d.task_id = t.task_id)
          and not (t.task_id = any(%(open)s::uuid[]))""",
    'no session runs or waits': """
        select session_id, running, queue from nocturne.session
        where (running is not null or queue <> '{}')
          and not (running = any(%(open)s::uuid[]))""",
    'no tool call is unsettled': """
        select c.task_id, c.step, c.idx, c.name from nocturne.tool_call c
        join nocturne.done d using (task_id)
        where c.status = 'claimed' and d.status not in ('aborted', 'expired', 'failed')""",
}

BUSY = """
    select (select count(*) from nocturne.lease) + (select count(*) from nocturne.ready)
         + (select count(*) from nocturne.control)
         + (select count(*) from nocturne.due where kind = 'retry') as n"""


def check(env, quiet, deadline, unfinished):
    if quiet:
        end = time.monotonic() + deadline
        while env.value(BUSY) and time.monotonic() < end:
            time.sleep(0.1)
    open_ = 'array[' + ','.join("'%s'" % t for t in unfinished) + ']'
    broken = []
    for name, query in list(ALWAYS.items()) + (list(QUIET.items()) if quiet else []):
        if quiet and name in QUIET and name.startswith('no ') and unfinished and \
                'left' in name and 'due' not in name:
            continue  # what is open may be running
        # one snapshot a query is enough for those that hold always
        rows = env.sql(query.replace('%(open)s', open_))
        if rows:
            broken.append('%s: %d rows, first %r' % (name, len(rows), rows[:3]))
    if broken:
        raise AssertionError('invariants broken\n  ' + '\n  '.join(broken))
