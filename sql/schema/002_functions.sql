-- The functions of Nocturne. submit, abort, task_status and task_events are its public interface
-- in SQL; the rest belongs to the daemons.
-- SQLSTATEs of ours: NT400 invalid, NT404 not found, NT409 conflict, NT422 key reused, NT429 full.
--
-- Who locks several rows takes them in this order, so that nobody waits in a circle: leases, then
-- rows of ready and due, then sessions by (tenant, session_id). Rows of ready and due are waited
-- for by abort() alone, one task at a time; all others skip them when locked.

-- What reads tables is plpgsql, also where one query is all: its plan is kept by the session, while
-- a function in language sql is planned anew by every statement (task_json: 10 ms against 1 ms).

-- RFC 3339, UTC, milliseconds.
create function nocturne.stamp(at timestamptz) returns text language sql stable as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- ',"key":value', or nothing when the value is null: JSON objects without null members.
create function nocturne.member(key text, value json) returns text language sql immutable as $$
    select coalesce(',"' || key || '":' || value::text, '')
$$;
create function nocturne.member(key text, value text) returns text language sql immutable as $$
    select coalesce(',"' || key || '":' || to_json(value)::text, '')
$$;

-- Seq of the last durable event of a task, 0 when there is none.
create function nocturne.last_seq(p_task uuid) returns bigint language plpgsql stable as $$
begin
    return (select coalesce((select seq_from + count - 1 from nocturne.chunk where task_id = p_task
                     order by seq_from desc limit 1), 0));
end $$;

-- Priority of a task. Volatile, to look with a snapshot of its own: a statement that waited for a
-- session's row meets tasks in its queue that were submitted after the statement's snapshot.
create function nocturne.task_priority(p_task uuid) returns smallint language plpgsql volatile as $$
begin
    return (select t.priority from nocturne.task t where t.task_id = p_task);
end $$;

-- Queue a task that is due: behind its session's running task, or as ready.
-- Locks the session's row.
create function nocturne.enqueue(p_task uuid) returns boolean language plpgsql as $$
declare
    t nocturne.task;
    first boolean := true;
begin
    select * into t from nocturne.task where task_id = p_task;
    if not found then
        return false;
    end if;
    if t.snapshot_id is null then
        insert into nocturne.session as s (tenant, session_id, agent, running)
        values (t.tenant, t.session_id, t.agent, p_task)
        on conflict (tenant, session_id) do update set
            running = coalesce(s.running, excluded.running),
            queue = case when s.running is null then s.queue else s.queue || excluded.running end,
            updated_at = clock_timestamp()
        returning s.running = p_task into first;
    end if;
    if first then
        insert into nocturne.ready (priority, task_id) values (t.priority, p_task);
    end if;
    return first;
end $$;

-- Submit one turn. Commits or rolls back with the caller's transaction. Returns the task, and
-- `replayed` when the idempotency key had been used for the same request before.
-- p_input     "text", {"message": {"role","content"}} or, for process and http agents, any JSON
-- p_snapshot  continue (branch from) this snapshot instead of the session's head
-- p_options   {"resume"?: ..., "state"?: ...}; the daemons' wires use it
-- p_print     what makes two requests of one key the same, instead of the parameters above: a
--             time that the client gave from now is another one when it asks again
create function nocturne.submit(
    p_agent text, p_input json, p_session text default null, p_snapshot uuid default null,
    p_run_at timestamptz default null, p_priority int default 5, p_metadata json default null,
    p_max_attempts int default null, p_deadline timestamptz default null,
    p_key text default null, p_options json default null, p_tenant text default 'default',
    p_print text default null,
    out task_id uuid, out session_id text, out status text, out created_at timestamptz,
    out replayed boolean) language plpgsql as $$
declare
    a nocturne.agent;
    id uuid := nocturne.uuid7();
    at timestamptz := clock_timestamp();
    print bytea;
    old nocturne.idempotency;
begin
    replayed := false;
    if p_priority not between 0 and 9 then
        raise exception 'priority must be from 0 to 9' using errcode = 'NT400';
    end if;
    if p_key is not null then
        print := sha256(convert_to(coalesce(p_print, row(p_agent, p_input::text, p_session,
                     p_snapshot, extract(epoch from p_run_at), p_priority, p_metadata::text,
                     p_max_attempts, extract(epoch from p_deadline), p_options::text)::text),
                     'UTF8'));
        insert into nocturne.idempotency values (p_tenant, p_key, id, print, at + interval '30 days')
        on conflict (tenant, key) do nothing;
        if not found then
            select * into old from nocturne.idempotency i
            where i.tenant = p_tenant and i.key = p_key;
            select t.task_id, t.session_id, nocturne.task_status(t.task_id), t.created_at, true
            into task_id, session_id, status, created_at, replayed
            from nocturne.task t where t.task_id = old.task_id;
            if found and old.fingerprint <> print then
                raise exception 'the idempotency key was used for another request'
                    using errcode = 'NT422';
            elsif found then
                return;
            end if;
            replayed := false; -- its task has been removed since: the key is free again
            update nocturne.idempotency i
            set task_id = id, fingerprint = print, expires_at = at + interval '30 days'
            where i.tenant = p_tenant and i.key = p_key and i.task_id = old.task_id;
            if not found then
                raise exception 'the idempotency key is being used by another request'
                    using errcode = 'NT409';
            end if;
        end if;
    end if;
    select * into a from nocturne.agent g
    where g.tenant = p_tenant and g.name = p_agent and g.deleted_at is null;
    if not found then
        raise exception 'there is no agent "%"', p_agent using errcode = 'NT404';
    end if;
    if p_snapshot is not null then
        select t.session_id into session_id from nocturne.snapshot s
        join nocturne.task t on t.task_id = s.task_id
        where s.task_id = p_snapshot and t.tenant = p_tenant;
        if not found then
            raise exception 'there is no snapshot %', p_snapshot using errcode = 'NT404';
        elsif p_session is not null and p_session <> session_id then
            raise exception 'snapshot % does not belong to session "%"', p_snapshot, p_session
                using errcode = 'NT409';
        end if;
    else
        session_id := coalesce(p_session, id::text);
        if (select cardinality(s.queue) >= 1000 from nocturne.session s
            where s.tenant = p_tenant and s.session_id = submit.session_id) then
            raise exception 'session "%" has 1000 turns waiting already', session_id
                using errcode = 'NT429';
        end if;
    end if;
    insert into nocturne.task values (id, p_tenant, p_agent, a.revision, session_id, p_snapshot,
        p_priority, coalesce(p_max_attempts, a.max_attempts), p_input, p_options, p_metadata,
        p_run_at, p_deadline, at);
    if p_deadline is not null then
        insert into nocturne.due (at, task_id, kind) values (p_deadline, id, 'deadline');
    end if;
    if p_run_at > at then
        insert into nocturne.due (at, task_id, kind) values (p_run_at, id, 'start');
        status := 'scheduled';
    else
        perform nocturne.enqueue(id);
        status := 'queued';
    end if;
    task_id := id;
    created_at := at;
end $$;

-- Resume an interrupted task: the next turn on its snapshot, with the answers. Once.
-- p_resume {"respond"?: [{"name","call_id"?,"output"}], "restart"?: [{"name","call_id"?}]}
create function nocturne.resume(p_task uuid, p_resume json, p_key text default null,
    p_tenant text default 'default',
    out task_id uuid, out session_id text, out status text, out created_at timestamptz,
    out replayed boolean) language plpgsql as $$
declare
    t nocturne.task;
    d nocturne.done;
begin
    select * into t from nocturne.task x where x.task_id = p_task and x.tenant = p_tenant;
    if not found then
        raise exception 'there is no task %', p_task using errcode = 'NT404';
    end if;
    perform 1 from nocturne.session s where s.tenant = p_tenant and s.session_id = t.session_id
    for update; -- two resumes of one question must see each other
    select * into d from nocturne.done x where x.task_id = p_task;
    if d.finish_reason is distinct from 'interrupted' then
        raise exception 'task % is not waiting for an answer', p_task using errcode = 'NT409';
    end if;
    if exists (select 1 from nocturne.task x
               where x.session_id = t.session_id and x.task_id > p_task and x.tenant = p_tenant
                 and x.snapshot_id = p_task and x.options -> 'resume' is not null)
       and (p_key is null or not exists (select 1 from nocturne.idempotency i
                                         where i.tenant = p_tenant and i.key = p_key)) then
        raise exception 'task % has been resumed already', p_task using errcode = 'NT409';
    end if;
    select * into task_id, session_id, status, created_at, replayed
    from nocturne.submit(t.agent, 'null'::json, t.session_id, p_task, null, t.priority, t.metadata,
        null, null, p_key, ('{"resume":' || p_resume || '}')::json, p_tenant);
end $$;

-- The session's slot of a task that has become terminal goes to the next in its queue.
-- p_head: the new head, or null when this task does not become one. Locks the session's row.
create function nocturne.advance(p_task uuid, p_tenant text, p_session text, p_head uuid)
returns void language plpgsql as $$
declare
    s nocturne.session;
begin
    select * into s from nocturne.session x
    where x.tenant = p_tenant and x.session_id = p_session for update;
    update nocturne.session x set
        head = case when p_head is not null and (x.head is null or p_head > x.head) then p_head
                    else x.head end,
        running = case when s.running = p_task then s.queue[1] else x.running end,
        queue = case when s.running = p_task then s.queue[2:] else x.queue end,
        updated_at = clock_timestamp()
    where x.tenant = p_tenant and x.session_id = p_session;
    if s.running = p_task and s.queue[1] is not null then
        insert into nocturne.ready (priority, task_id)
        select t.priority, t.task_id from nocturne.task t where t.task_id = s.queue[1];
    end if;
end $$;

-- End a task that no worker holds: aborted or expired before it ran, or quarantined.
-- The caller has taken it out of ready, due or lease in the same transaction.
create function nocturne.finish(p_task uuid, p_status text, p_reason text, p_error json,
    p_abort json) returns void language plpgsql as $$
declare
    t nocturne.task;
    at timestamptz := clock_timestamp();
    last bigint := nocturne.last_seq(p_task);
    started timestamptz := (select min(x.started_at) from nocturne.attempt x
                            where x.task_id = p_task);
begin
    select * into t from nocturne.task where task_id = p_task;
    insert into nocturne.chunk values (p_task, last + 1, 0, 1,
        (extract(epoch from at) * 1000)::bigint,
        '0 {"type":"turn.ended","status":' || to_json(p_status)
        || nocturne.member('finish_reason', p_reason) || nocturne.member('error', p_error)
        || nocturne.member('abort', p_abort) || '}' || chr(10));
    insert into nocturne.done (task_id, epoch, status, finish_reason, error, abort, last_seq,
                               started_at, finished_at)
    values (p_task, 0, p_status, p_reason, p_error, p_abort, last + 1, started, at);
    delete from nocturne.control c where c.task_id = p_task;
    delete from nocturne.due u where u.task_id = p_task;
    perform nocturne.advance(p_task, t.tenant, t.session_id, null);
end $$;

-- Ask for the end of a task. What has not started is ended here and now; a running turn reads
-- the request with its next heartbeat (NOTIFY only hurries it).
-- Returns the status that holds now: 'aborting', or the terminal one, unchanged if there was one.
create function nocturne.abort(p_task uuid, p_reason text default null, p_actor text default null,
    p_tenant text default 'default', p_status text default 'aborted')
returns text language plpgsql as $$
declare
    t nocturne.task;
    ended text;
    body json;
begin
    select * into t from nocturne.task x where x.task_id = p_task and x.tenant = p_tenant;
    if not found then
        raise exception 'there is no task %', p_task using errcode = 'NT404';
    end if;
    body := ('{"reason":' || to_json(coalesce(p_reason, 'requested')) ||
             nocturne.member('actor', p_actor) || ',"latency_ms":0}')::json;
    for i in 1..100 loop -- it may move between the tables while we look
        select d.status into ended from nocturne.done d where d.task_id = p_task;
        if found then
            return ended;
        end if;
        update nocturne.lease l set aborting = true where l.task_id = p_task;
        if found then
            insert into nocturne.control (task_id, kind, status, reason, actor)
            values (p_task, 'abort', p_status, coalesce(p_reason, 'requested'), p_actor)
            on conflict do nothing;
            return 'aborting';
        end if;
        delete from nocturne.ready r where r.task_id = p_task;
        if found then
            perform nocturne.finish(p_task, p_status, p_status, null, body);
            return p_status;
        end if;
        delete from nocturne.due u where u.task_id = p_task and u.kind <> 'deadline';
        if found then
            perform nocturne.finish(p_task, p_status, p_status, null, body);
            return p_status;
        end if;
        update nocturne.session s set queue = array_remove(s.queue, p_task)
        where s.tenant = t.tenant and s.session_id = t.session_id and p_task = any(s.queue);
        if found then
            perform nocturne.finish(p_task, p_status, p_status, null, body);
            return p_status;
        end if;
        perform pg_sleep(0.005);
    end loop;
    raise exception 'task % keeps moving', p_task using errcode = 'NT409';
end $$;

-- One word: scheduled, queued, running, aborting or the terminal status. Null: no such task.
create function nocturne.task_status(p_task uuid) returns text language plpgsql stable as $$
begin
    return (select coalesce(
        (select d.status from nocturne.done d where d.task_id = p_task),
        (select case when l.aborting then 'aborting' else 'running' end
         from nocturne.lease l where l.task_id = p_task),
        (select 'scheduled' from nocturne.due u where u.task_id = p_task and u.kind <> 'deadline'),
        (select 'queued' from nocturne.task t where t.task_id = p_task)));
end $$;

-- The task as the API shows it (design, §7), as JSON text. Null: no such task.
create function nocturne.task_json(p_task uuid, p_tenant text default 'default')
returns text language plpgsql stable as $$
begin
    return (select '{"task_id":"' || t.task_id || '","session_id":' || to_json(t.session_id)
        || ',"agent":' || to_json(t.agent) || ',"revision":' || t.revision
        || ',"status":"' || coalesce(d.status, nocturne.task_status(t.task_id)) || '"'
        || nocturne.member('finish_reason', d.finish_reason)
        || ',"input":' || t.input
        || nocturne.member('snapshot_id', t.snapshot_id::text)
        || nocturne.member('output', d.output) || nocturne.member('usage', d.usage)
        || nocturne.member('error', d.error) || nocturne.member('abort', d.abort)
        || nocturne.member('interrupts', d.interrupts)
        || ',"attempts":[' || coalesce(a.list, '')
        || case when l.epoch is null then '' else
               case when a.list is null then '' else ',' end
               || '{"epoch":' || l.epoch || ',"worker":' || to_json(coalesce(w.name, ''))
               || ',"started_at":"' || nocturne.stamp(l.claimed_at) || '","outcome":"running"}' end
        || '],"last_seq":' || coalesce(d.last_seq, nocturne.last_seq(t.task_id))
        || ',"priority":' || t.priority || ',"max_attempts":' || t.max_attempts
        || ',"created_at":"' || nocturne.stamp(t.created_at) || '"'
        || nocturne.member('run_at', nocturne.stamp(t.run_at))
        || nocturne.member('deadline', nocturne.stamp(t.deadline))
        || nocturne.member('started_at', nocturne.stamp(coalesce(d.started_at, a.first, l.claimed_at)))
        || nocturne.member('finished_at', nocturne.stamp(d.finished_at))
        || ',"metadata":' || coalesce(t.metadata::text, '{}') || '}'
    from nocturne.task t
    left join nocturne.done d on d.task_id = t.task_id
    left join nocturne.lease l on l.task_id = t.task_id
    left join nocturne.worker w on w.worker_id = l.worker_id
    cross join lateral (
        select string_agg('{"epoch":' || x.epoch || ',"worker":' || to_json(x.worker)
            || ',"started_at":"' || nocturne.stamp(x.started_at)
            || '","ended_at":"' || nocturne.stamp(x.ended_at)
            || '","outcome":' || to_json(x.outcome) || nocturne.member('error', x.error) || '}',
            ',' order by x.epoch) as list, min(x.started_at) as first
        from nocturne.attempt x where x.task_id = t.task_id) a
    where t.task_id = p_task and t.tenant = p_tenant);
end $$;

-- The events of a task after `p_after`, one JSON object a row, as the API streams them.
create function nocturne.task_events(p_task uuid, p_after bigint default 0)
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
-- copy, at most 16 rows.
create function nocturne.messages_json(p_task uuid) returns text language plpgsql stable as $$
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
    from (select n, btrim(substr(btrim(messages::text), 2, length(btrim(messages::text)) - 2))
                    as inner_text from walk) x
    where inner_text <> '');
end $$;

-- The state of a session after the turn `p_task`: {"messages":[...],"custom"?,"artifacts"?}.
-- Null: no such snapshot.
create function nocturne.state_json(p_task uuid) returns text language plpgsql stable as $$
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
create function nocturne.snapshot_json(p_task uuid, p_tenant text, p_with_state boolean)
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

-- Ids of tasks, newest first, before `p_before`. Every filter may be null. Statuses of tasks that
-- are not terminal are looked up where they stand, which is small; terminal ones by id.
create function nocturne.task_ids(p_tenant text, p_status text, p_agent text, p_session text,
    p_before uuid, p_limit int) returns setof uuid language plpgsql stable as $$
begin
    if p_status in ('queued', 'scheduled', 'running', 'aborting') then
        return query
            select t.task_id from (
                select l.task_id from nocturne.lease l where p_status in ('running', 'aborting')
                union select r.task_id from nocturne.ready r where p_status = 'queued'
                union select unnest(s.queue) from nocturne.session s
                      where p_status = 'queued' and s.queue <> '{}'
                union select u.task_id from nocturne.due u where p_status = 'scheduled'
            ) x join nocturne.task t on t.task_id = x.task_id
            where t.tenant = p_tenant and (p_before is null or t.task_id < p_before)
              and (p_agent is null or t.agent = p_agent)
              and (p_session is null or t.session_id = p_session)
              and nocturne.task_status(t.task_id) = p_status
            order by t.task_id desc limit p_limit;
    elsif p_status = 'completed' then
        return query
            select d.task_id from nocturne.done d
            cross join lateral (
                select 1 from nocturne.task t
                where t.task_id = d.task_id and t.tenant = p_tenant
                  and (p_agent is null or t.agent = p_agent)
                  and (p_session is null or t.session_id = p_session) limit 1) t
            where d.status = 'completed'
              and (p_before is null or d.task_id < p_before)
            order by d.task_id desc limit p_limit;
    elsif p_status is not null then -- by the index of what is unusual
        return query
            select d.task_id from nocturne.done d
            cross join lateral (
                select 1 from nocturne.task t
                where t.task_id = d.task_id and t.tenant = p_tenant
                  and (p_agent is null or t.agent = p_agent)
                  and (p_session is null or t.session_id = p_session) limit 1) t
            where d.status = p_status and d.status <> 'completed'
              and (p_before is null or d.task_id < p_before)
            order by d.task_id desc limit p_limit;
    elsif p_session is not null then
        return query
            select t.task_id from nocturne.task t
            where t.session_id = p_session and t.tenant = p_tenant
              and (p_before is null or t.task_id < p_before)
              and (p_agent is null or t.agent = p_agent)
            order by t.task_id desc limit p_limit;
    elsif p_agent is not null then
        return query
            select t.task_id from nocturne.task t
            where t.agent = p_agent and t.tenant = p_tenant
              and (p_before is null or t.task_id < p_before)
            order by t.task_id desc limit p_limit;
    else
        return query
            select t.task_id from nocturne.task t
            where t.tenant = p_tenant and (p_before is null or t.task_id < p_before)
            order by t.task_id desc limit p_limit;
    end if;
end $$;

-- The same as JSON text each. A task may hold megabytes, so a page ends early, with an id without
-- text, once `p_bytes` are passed.
create function nocturne.task_page(p_tenant text, p_status text, p_agent text, p_session text,
    p_before uuid, p_limit int, p_bytes bigint) returns table (task_id uuid, task text)
language plpgsql stable as $$
declare
    total bigint := 0;
begin
    for task_id in
        select i from nocturne.task_ids(p_tenant, p_status, p_agent, p_session, p_before, p_limit) i
    loop
        task := case when total < p_bytes then nocturne.task_json(task_id, p_tenant) end;
        total := total + octet_length(task);
        return next;
        exit when task is null;
    end loop;
end $$;

-- Apply definitions, all or none. An unchanged one keeps its revision.
create function nocturne.agent_apply(p_tenant text, p_names text[], p_definitions text[],
    p_managed text[], p_max_attempts int[])
returns table (name text, revision int, changed boolean) language plpgsql as $$
declare
    old nocturne.agent;
    newest int;
begin
    perform pg_advisory_xact_lock(hashtext('nocturne.agent'), k.key)
    from (select distinct hashtext(p_tenant || '/' || n) as key from unnest(p_names) n order by 1) k;
    for i in 1 .. cardinality(p_names) loop
        name := p_names[i];
        select * into old from nocturne.agent a where a.tenant = p_tenant and a.name = p_names[i];
        newest := coalesce((select max(r.revision) from nocturne.agent_revision r
                            where r.tenant = p_tenant and r.name = p_names[i]), 0);
        changed := old.name is null or old.deleted_at is not null or not exists (
            select 1 from nocturne.agent_revision r
            where r.tenant = p_tenant and r.name = p_names[i] and r.revision = old.revision
              and r.definition::text = p_definitions[i]);
        revision := case when changed then newest + 1 else old.revision end;
        if changed then
            insert into nocturne.agent_revision (tenant, name, revision, definition)
            values (p_tenant, name, revision, p_definitions[i]::json);
            insert into nocturne.agent (tenant, name, revision, managed, max_attempts)
            values (p_tenant, name, revision, p_managed[i], p_max_attempts[i])
            on conflict on constraint agent_pkey do update set
                revision = excluded.revision, managed = excluded.managed,
                max_attempts = excluded.max_attempts, deleted_at = null,
                updated_at = clock_timestamp();
        end if;
        return next;
    end loop;
end $$;

-- Move what is due: start and retry become runnable, deadlines end what is not terminal.
-- Rows another scheduler holds are skipped, so two at once never move one twice. A deadline ends
-- one task a call: each end takes locks of every kind, see the order above.
create function nocturne.release_due(p_limit int, out moved int) language plpgsql as $$
declare
    now timestamptz := clock_timestamp(); -- a variable, because an index knows no volatile bound
    head nocturne.due;
    u record;
begin
    moved := 0;
    select * into head from nocturne.due y where y.at <= now order by y.at limit 1;
    if head.kind = 'deadline' then
        delete from nocturne.due x where x.ctid = any(array(
            select y.ctid from nocturne.due y
            where y.at <= now and y.kind = 'deadline'
              and exists (select 1 from nocturne.done d where d.task_id = y.task_id)
            order by y.at limit p_limit for update skip locked));
        get diagnostics moved = row_count;
        if moved = 0 then
            perform nocturne.abort(t.task_id, 'deadline', 'scheduler', t.tenant, 'expired')
            from nocturne.task t where t.task_id = head.task_id;
            delete from nocturne.due x
            where x.at = head.at and x.task_id = head.task_id and x.kind = 'deadline';
            moved := 1;
        end if;
        return;
    end if;
    for u in
        with x as (
            delete from nocturne.due x where x.ctid = any(array(
                select y.ctid from nocturne.due y
                where y.at <= now and y.kind <> 'deadline'
                order by y.at limit p_limit for update skip locked))
            returning x.*
        )
        select x.*, t.priority from x join nocturne.task t on t.task_id = x.task_id
        order by t.tenant, t.session_id, x.at, x.task_id
    loop
        if u.kind = 'start' then
            perform nocturne.enqueue(u.task_id);
        else
            insert into nocturne.ready (priority, task_id, fails, crashes)
            values (u.priority, u.task_id, u.fails, u.crashes);
        end if;
        moved := moved + 1;
    end loop;
end $$;

-- Death is one durable transition on the worker's row.
create function nocturne.reap() returns setof bigint language sql as $$
    update nocturne.worker w set state = 'dead'
    where w.worker_id = any(array(
            select x.worker_id from nocturne.worker x
            where x.state <> 'dead' and x.expires_at < clock_timestamp()
            order by x.worker_id for update skip locked))
      and w.state <> 'dead' and w.expires_at < clock_timestamp()
    returning w.worker_id
$$;

-- Leases of dead workers go back. A turn that took three workers with it is quarantined; one that
-- was being aborted ends.
create function nocturne.rescue(p_limit int, out rescued int) language plpgsql as $$
declare
    dead bigint[] := array(select w.worker_id from nocturne.worker w where w.state = 'dead');
    l record;
begin
    rescued := 0;
    for l in
        with x as (
            delete from nocturne.lease x where x.task_id = any(array(
                select y.task_id from nocturne.lease y where y.worker_id = any(dead)
                order by y.task_id limit p_limit for update skip locked))
            returning x.*
        )
        select x.*, w.name from x
        join nocturne.worker w on w.worker_id = x.worker_id
        join nocturne.task t on t.task_id = x.task_id
        order by t.tenant, t.session_id, x.task_id
    loop
        insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome, error)
        values (l.task_id, l.epoch, l.name, l.claimed_at, 'lost',
            '{"code":"WORKER_LOST","message":"the worker died","retryable":true}');
        if l.aborting then
            perform nocturne.finish(l.task_id, c.status, c.status, null,
                ('{"reason":' || to_json(coalesce(c.reason, 'requested'))
                 || nocturne.member('actor', c.actor) || ',"latency_ms":'
                 || (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint
                 || '}')::json)
            from nocturne.control c where c.task_id = l.task_id and c.kind = 'abort';
        elsif l.crashes + 1 >= 3 then
            perform nocturne.finish(l.task_id, 'failed', 'failed',
                '{"code":"QUARANTINED","message":"three workers died while running this turn","retryable":false}',
                null);
        else
            insert into nocturne.ready (priority, task_id, fails, crashes)
            values (l.priority, l.task_id, l.fails, l.crashes + 1);
        end if;
        rescued := rescued + 1;
    end loop;
end $$;

-- One partition of chunk per day (UTC), from today to `p_days` ahead.
create function nocturne.make_partitions(p_days int, out made int) language plpgsql
set lock_timeout = '1s' -- all appends queue up behind one who waits for this lock
as $$
declare
    day date := (clock_timestamp() at time zone 'UTC')::date;
    name text;
begin
    made := 0;
    perform pg_advisory_xact_lock(hashtext('nocturne.partitions'));
    for i in 0 .. p_days loop
        name := 'chunk_' || to_char(day + i, 'YYYYMMDD');
        continue when to_regclass('nocturne.' || name) is not null;
        begin
            execute format('create table nocturne.%I partition of nocturne.chunk
                            for values from (%L) to (%L)', name,
                nocturne.uuid7_floor((day + i)::timestamp at time zone 'UTC'),
                nocturne.uuid7_floor((day + i + 1)::timestamp at time zone 'UTC'));
            made := made + 1;
        exception when check_violation then
            null; -- rows of this day are in the default partition already: so be it
        end;
    end loop;
end $$;

-- Drop the partitions of days that ended before `p_before` and hold no task that still lives.
create function nocturne.drop_partitions(p_before timestamptz, out dropped int)
language plpgsql set lock_timeout = '1s' as $$
declare
    part record;
    day date;
begin
    dropped := 0;
    perform pg_advisory_xact_lock(hashtext('nocturne.partitions'));
    for part in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'nocturne.chunk'::regclass and c.relname ~ '^chunk_[0-9]{8}$'
        order by c.relname
    loop
        day := to_date(right(part.relname, 8), 'YYYYMMDD');
        continue when (day + 1)::timestamp at time zone 'UTC' > p_before;
        continue when exists (
            select 1 from nocturne.task t
            where t.task_id >= nocturne.uuid7_floor(day::timestamp at time zone 'UTC')
              and t.task_id < nocturne.uuid7_floor((day + 1)::timestamp at time zone 'UTC'));
        execute format('drop table nocturne.%I', part.relname);
        dropped := dropped + 1;
    end loop;
end $$;

-- Remove up to `p_limit` terminal tasks that ended before `p_before`, with all that belongs to
-- them; goes through the ids from `p_after` on and returns how far it came, null at the end.
-- A session used since keeps its turns, so that its state can be read.
create function nocturne.remove_expired(p_before timestamptz, p_after uuid, p_limit int,
    out removed int, out last uuid) language plpgsql as $$
declare
    ids uuid[];
    now timestamptz := clock_timestamp(); -- a variable, because an index knows no volatile bound
begin
    select array_agg(x.task_id), (array_agg(x.task_id order by x.task_id desc))[1] into ids, last
    from (select d.task_id from nocturne.done d
          where d.task_id > p_after and d.task_id < nocturne.uuid7_floor(p_before)
            and d.finished_at < p_before
          order by d.task_id limit p_limit for update skip locked) x;
    delete from nocturne.session s using nocturne.task t
    where t.task_id = any(ids) and s.tenant = t.tenant and s.session_id = t.session_id
      and s.running is null and s.queue = '{}' and s.updated_at < p_before;
    select coalesce(array_agg(t.task_id), '{}') into ids from nocturne.task t
    where t.task_id = any(ids) and not exists (
        select 1 from nocturne.session s
        where s.tenant = t.tenant and s.session_id = t.session_id);
    delete from nocturne.snapshot where task_id = any(ids);
    delete from nocturne.artifact where task_id = any(ids);
    delete from nocturne.chunk where task_id = any(ids);
    delete from nocturne.step where task_id = any(ids);
    delete from nocturne.tool_call where task_id = any(ids);
    delete from nocturne.attempt where task_id = any(ids);
    delete from nocturne.done where task_id = any(ids);
    delete from nocturne.task where task_id = any(ids);
    removed := cardinality(ids);
    delete from nocturne.idempotency i where i.ctid = any(array(
        select y.ctid from nocturne.idempotency y where y.expires_at < now
        limit p_limit));
    delete from nocturne.worker w where w.state = 'dead'
        and w.expires_at < clock_timestamp() - interval '1 day'
        and not exists (select 1 from nocturne.lease l where l.worker_id = w.worker_id);
end $$;

select nocturne.make_partitions(3);
