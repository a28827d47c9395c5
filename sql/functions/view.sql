-- What is shown of tasks, events, snapshots and sessions.
-- What reads tables is plpgsql, also where one query is all: its plan is kept by the session, while
-- a function in language sql is planned anew by every statement (task_json: 10 ms against 1 ms).

-- All attempts that are over. The only one of a task that has ended stands in done.
create or replace view nocturne.attempts (task_id, epoch, worker, started_at, ended_at, outcome, error) as
    select task_id, epoch, worker, started_at, ended_at, outcome, error from nocturne.attempt
    union all
    select task_id, epoch, worker, started_at, finished_at, status, error from nocturne.done
    where worker is not null;

-- One word: scheduled, queued, running, aborting or the terminal status. Null: no such task.
create or replace function nocturne.task_status(p_task uuid) returns text language plpgsql stable as $$
begin
    return (select coalesce(
        (select d.status from nocturne.done d where d.task_id = p_task),
        (select case when l.aborting then 'aborting' else 'running' end
         from nocturne.lease l where l.task_id = p_task),
        (select 'scheduled' from nocturne.due u where u.task_id = p_task and u.kind in ('start', 'retry')),
        (select 'queued' from nocturne.task t where t.task_id = p_task)));
end $$;

-- Tasks as the API shows them (design, §7), as JSON text, by their place in `p_tasks` from 1. Null: no
-- such task. Ends behind the one that passes `p_bytes` in all: ask again for the others.
create or replace function nocturne.tasks_json(p_tasks uuid[], p_tenant text, p_bytes bigint,
    out place int, out task text, out terminal boolean) returns setof record
language plpgsql stable as $$
declare
    total bigint := 0;
    rows cursor for
        select u.n, case when t.task_id is not null then concat( -- not `||`: a large text is copied once
            '{"task_id":"' || t.task_id || '","session_id":' || to_json(t.session_id),
            ',"agent":' || to_json(t.agent) || ',"revision":' || t.revision,
            ',"status":"' || coalesce(d.status,
                   case when l.aborting then 'aborting' when l.epoch is not null then 'running' end,
                   (select 'scheduled' from nocturne.due x
                    where x.task_id = t.task_id and x.kind in ('start', 'retry') limit 1), 'queued') || '"',
            nocturne.member('finish_reason', d.finish_reason),
            ',"input":' || t.input,
            nocturne.member('snapshot_id', t.snapshot_id::text),
            nocturne.member('output', d.output) || nocturne.member('usage', d.usage),
            nocturne.member('error', d.error) || nocturne.member('abort', d.abort),
            nocturne.member('interrupts', d.interrupts),
            ',"attempts":[' || coalesce(a.list, ''),
            case when l.epoch is null then '' else
                   case when a.list is null then '' else ',' end
                   || '{"epoch":' || l.epoch || ',"worker":' || to_json(coalesce(w.name, ''))
                   || ',"started_at":"' || nocturne.stamp(l.claimed_at) || '","outcome":"running"}' end,
            '],"last_seq":' || coalesce(d.last_seq, c.last_seq, 0),
            ',"priority":' || t.priority || ',"max_attempts":' || t.max_attempts,
            ',"created_at":"' || nocturne.stamp(t.created_at) || '"',
            nocturne.member('run_at', nocturne.stamp(t.run_at)),
            nocturne.member('deadline', nocturne.stamp(t.deadline)),
            nocturne.member('started_at', nocturne.stamp(coalesce(d.started_at, a.first, l.claimed_at))),
            nocturne.member('finished_at', nocturne.stamp(d.finished_at)),
            nocturne.member('parent', t.options ->> 'parent'),
            nocturne.member('retry_of', ro.task_id::text),
            nocturne.member('retried_by', rb.next_id::text),
            ',"metadata":' || coalesce(t.metadata::text, '{}'), '}') end, d.task_id is not null
        from unnest(p_tasks) with ordinality u(id, n)
        left join lateral (select * from nocturne.task x
                           where x.task_id = u.id and x.tenant = p_tenant limit 1) t on true
        left join lateral (select * from nocturne.done x
                           where x.task_id = t.task_id limit 1) d on true
        left join lateral (select * from nocturne.retry x
                           where x.next_id = t.task_id limit 1) ro on true
        left join lateral (select * from nocturne.retry x
                           where x.task_id = d.task_id limit 1) rb on true
        left join lateral (select * from nocturne.lease x
                           where x.task_id = t.task_id limit 1) l on true
        left join lateral (select * from nocturne.worker x
                           where x.worker_id = l.worker_id limit 1) w on true
        left join lateral (
            select x.seq_from + x.count - 1 as last_seq from nocturne.chunk x
            where x.task_id = t.task_id and d.task_id is null
            order by x.seq_from desc limit 1) c on true
        cross join lateral (
            select string_agg('{"epoch":' || x.epoch || ',"worker":' || to_json(x.worker)
                || ',"started_at":"' || nocturne.stamp(x.started_at)
                || '","ended_at":"' || nocturne.stamp(x.ended_at)
                || '","outcome":' || to_json(x.outcome) || nocturne.member('error', x.error) || '}',
                ',' order by x.epoch) as list, min(x.started_at) as first
            from nocturne.attempts x where x.task_id = t.task_id) a;
begin
    open rows;
    loop -- not `for ... in select`, which reads ahead
        fetch rows into place, task, terminal;
        exit when not found;
        return next;
        total := total + coalesce(octet_length(task), 0);
        exit when total >= p_bytes;
    end loop;
    close rows;
end $$;

-- One of them. Null: no such task.
create or replace function nocturne.task_json(p_task uuid, p_tenant text default 'default')
returns text language plpgsql stable as $$
begin
    return (select x.task from nocturne.tasks_json(array[p_task], p_tenant, 0) x);
end $$;

-- The events of a task after `p_after`, one JSON object a row, as the API streams them.
create or replace function nocturne.task_events(p_task uuid, p_after bigint default 0)
returns table (seq bigint, event json) language sql stable as $$
    select c.seq_from + e.n - 1,
           ('{"seq":' || (c.seq_from + e.n - 1) || ',"at":"'
            || nocturne.stamp(to_timestamp((c.at_ms + split_part(e.line, ' ', 1)::bigint) / 1000.0))
            || '",' || substr(e.line, strpos(e.line, ' ') + 2))::json
    from nocturne.chunk c
    cross join lateral string_to_table(rtrim(c.events, chr(10)), chr(10)) with ordinality e(line, n)
    where c.task_id = p_task and c.seq_from + e.n - 1 > p_after
    order by 1
$$;

-- The conversation up to and with the turn `p_task` as a JSON array. Walks to the last whole
-- copy, at most 16 rows. Cut as bytes and, by `offset 0`, once: by characters and as often as it is
-- named, a conversation of 1,000 turns took 4 ms.
create or replace function nocturne.messages_json(p_task uuid) returns text language plpgsql stable as $$
begin
    return (with recursive walk as (
        select task_id, parent_id, depth, messages, 0 as n from nocturne.snapshot
        where task_id = p_task
        union all
        select s.task_id, s.parent_id, s.depth, s.messages, walk.n + 1
        from walk join nocturne.snapshot s on s.task_id = walk.parent_id
        where walk.depth > 0
    )
    select '[' || coalesce(string_agg(inner_text, ',' order by n desc), '') || ']'
    from (select n, convert_from(substring(bytes from 2 for octet_length(bytes) - 2), 'UTF8') as inner_text
          from (select n, convert_to(case when messages::text ~ '^\s|\s$' then btrim(messages::text, E' \t\n\r')
                                     else messages::text end, 'UTF8') as bytes
                from walk offset 0) a offset 0) x
    where btrim(left(inner_text, 64), E' \t\n\r') <> '' or btrim(inner_text, E' \t\n\r') <> '');
end $$;

-- The state of a session after the turn `p_task`: {"messages":[...],"custom"?,"artifacts"?}.
-- Null: no such snapshot.
create or replace function nocturne.state_json(p_task uuid) returns text language plpgsql stable as $$
begin
    return (select '{"messages":' || nocturne.messages_json(p_task)
        || nocturne.member('custom', s.custom)
        || coalesce(',"artifacts":[' || (
            select string_agg(f.content::text, ',' order by r.n)
            from json_array_elements(s.artifacts) with ordinality r(ref, n)
            cross join lateral (select x.content from nocturne.artifact x
                                where x.task_id = (r.ref ->> 'task_id')::uuid
                                  and x.name = r.ref ->> 'name' limit 1) f) || ']', '')
        || '}'
    from nocturne.snapshot s where s.task_id = p_task);
end $$;

-- A snapshot as the API shows it. Null: no such snapshot.
create or replace function nocturne.snapshot_json(p_task uuid, p_tenant text, p_with_state boolean)
returns text language plpgsql stable as $$
begin
    return (select '{"snapshot_id":"' || s.task_id || '","session_id":' || to_json(t.session_id)
        || nocturne.member('parent_id', s.parent_id::text)
        || ',"status":"' || coalesce(d.status, 'running') || '"'
        || nocturne.member('finish_reason', d.finish_reason)
        || ',"created_at":"' || nocturne.stamp(coalesce(d.finished_at, t.created_at)) || '"'
        || case when p_with_state then ',"state":' || nocturne.state_json(s.task_id) else '' end
        || '}'
    from nocturne.snapshot s
    join nocturne.task t on t.task_id = s.task_id
    left join nocturne.done d on d.task_id = s.task_id
    where s.task_id = p_task and t.tenant = p_tenant);
end $$;
