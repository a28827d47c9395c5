-- A task from submit to its end, but for what its worker writes (sql/queries/turn_*.sql). submit, abort, task_status
-- and task_events are Nocturne's public interface in SQL; the rest belongs to the daemons.
-- SQLSTATEs of ours: NT400 invalid, NT404 not found, NT409 conflict, NT422 key reused, NT429 full.
--
-- Who locks several rows takes them in this order, so that nobody waits in a circle: leases, then
-- rows of ready and due, then sessions by (tenant, session_id). Rows of ready and due are waited
-- for by abort() alone, one task at a time; all others skip them when locked.

-- Seq of the last durable event of a task, 0 when there is none.
create or replace function nocturne.last_seq(p_task uuid) returns bigint language plpgsql stable as $$
begin
    return (select coalesce((select seq_from + count - 1 from nocturne.chunk where task_id = p_task
                     order by seq_from desc limit 1), 0));
end $$;

-- Priority of a task. Volatile, to look with a snapshot of its own: a statement that waited for a
-- session's row meets tasks in its queue that were submitted after the statement's snapshot.
create or replace function nocturne.task_priority(p_task uuid) returns smallint language plpgsql volatile as $$
begin
    return (select t.priority from nocturne.task t where t.task_id = p_task);
end $$;

-- As in 001_tables.sql, as one expression that is inlined: `us * 512 / 125` are milliseconds and 12
-- bits of the next, in hexadecimal behind which the version is put in; then half of a UUIDv4.
create or replace function nocturne.uuid7() returns uuid language sql volatile parallel safe as $$
    select (left(overlay(encode(int8send(((extract(epoch from clock_timestamp()) * 1000000)::bigint
                                          * 512 / 125) << 4), 'hex') placing '7' from 13 for 0), 16)
            || right(gen_random_uuid()::text, 17))::uuid
$$;

-- Does somebody hold this row locked, or has begun to change it? By its xmax, as our snapshot sees
-- it: who is below all that run is over, and asked are only the others, by their 64 bits. (Of
-- several lockers at once it is another kind of number, and the answer may be wrong.)
create or replace function nocturne.is_held(p_xmax xid) returns boolean language sql stable as $$
    select p_xmax <> '0'::xid and age(p_xmax) <= age(pg_snapshot_xmin(pg_current_snapshot())::xid)
       and not pg_visible_in_snapshot(
           ((pg_snapshot_xmax(pg_current_snapshot())::text)::bigint
            + age(pg_snapshot_xmax(pg_current_snapshot())::xid) - age(p_xmax))::text::xid8,
           pg_current_snapshot())
$$;

-- Queue a task that is due: behind its session's running task, or as ready; as `fresh` when it begins a
-- session of its own and its request is input alone. Locks the session's row.
create or replace function nocturne.enqueue(p_task uuid) returns boolean language plpgsql as $$
declare
    t nocturne.task;
    first boolean := true;
    fresh boolean := false;
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
        returning s.running = p_task, s.head is null and s.session_id = p_task::text
                                      and t.options is null and t.deadline is null
        into first, fresh;
    end if;
    if first then
        insert into nocturne.ready (priority, task_id, fresh) values (t.priority, p_task, fresh);
    end if;
    return first;
end $$;

-- What two requests of one idempotency key must have in common; for p_print see submit().
create or replace function nocturne.fingerprint(p_print text, p_agent text, p_input text,
    p_session text, p_snapshot uuid, p_run_at timestamptz, p_priority int, p_metadata text,
    p_max_attempts int, p_deadline timestamptz, p_options text) returns bytea language sql stable as $$
    select sha256(convert_to(coalesce(p_print, row(p_agent, p_input, p_session, p_snapshot,
        extract(epoch from p_run_at), p_priority, p_metadata, p_max_attempts,
        extract(epoch from p_deadline), p_options)::text), 'UTF8'))
$$;

-- Make `p_task` a child of `p_parent`: an abort of the parent aborts it, too. The lock keeps an abort
-- and a new child from crossing: whoever comes second sees what the first has done.
create or replace function nocturne.adopt(p_parent uuid, p_task uuid, p_tenant text)
returns void language plpgsql as $$
begin
    perform nocturne.lock_children(p_parent);
    if not exists (select 1 from nocturne.task t
                   where t.task_id = p_parent and t.tenant = p_tenant) then
        raise exception 'there is no task %, to be the parent', p_parent using errcode = 'NT404';
    elsif exists (select 1 from nocturne.done d where d.task_id = p_parent) then
        raise exception 'task % is over and starts no more turns', p_parent using errcode = 'NT409';
    elsif exists (select 1 from nocturne.lease l where l.task_id = p_parent and l.aborting) then
        raise exception 'task % is being aborted and starts no more turns', p_parent
            using errcode = 'NT409';
    end if;
    insert into nocturne.child values (p_parent, p_task);
end $$;

-- The parent that these options name, null when it takes no children any more.
create or replace function nocturne.open_parent(p_options json) returns text
language plpgsql stable as $$
begin
    return (select t.task_id::text from nocturne.task t
            where t.task_id = (p_options ->> 'parent')::uuid
              and nocturne.task_status(t.task_id) in ('scheduled', 'queued', 'running'));
end $$;

-- Until the end of the transaction; before any row is locked.
create or replace function nocturne.lock_children(p_task uuid) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('nocturne.child ' || p_task, 0));
end $$;

-- Submit one turn. Commits or rolls back with the caller's transaction. Returns the task, and
-- `replayed` when the idempotency key had been used for the same request before.
-- p_input     "text", {"message": {"role","content"}} or, for process and http agents, any JSON
-- p_snapshot  continue (branch from) this snapshot instead of the session's head
-- p_options   {"parent"?: the task that starts it, "resume"?: ..., "state"?: ...}; the last two are
--             for the daemons' wires
-- p_print     what makes two requests of one key the same, instead of the parameters above: a
--             time that the client gave from now is another one when it asks again
create or replace function nocturne.submit(
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
        print := nocturne.fingerprint(p_print, p_agent, p_input::text, p_session, p_snapshot,
            p_run_at, p_priority, p_metadata::text, p_max_attempts, p_deadline, p_options::text);
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
    if p_options ->> 'parent' is not null then
        perform nocturne.adopt((p_options ->> 'parent')::uuid, id, p_tenant);
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

-- Submit many turns in one go, for the api: rows of arrays, as the parameters of submit(). Returns
-- those that were accepted, by their place from 1. Whatever is not plain is left out, to be given
-- to submit() by itself: an unknown agent, a key that was used before, a parent, a snapshot, a session
-- that is locked or nearly full. So it waits for nobody: what it may meet are keys and sessions in the
-- moment of their making, in order, and lock_timeout ends that.
create or replace function nocturne.submit_many(p_agents text[], p_inputs text[], p_sessions text[],
    p_snapshots uuid[], p_run_ats timestamptz[], p_priorities int[], p_metadata text[],
    p_max_attempts int[], p_deadlines timestamptz[], p_keys text[], p_options text[],
    p_prints text[], p_tenant text)
returns table (place int, task_id uuid, session_id text, status text, created_at timestamptz)
language plpgsql set lock_timeout = '100ms' as $$
#variable_conflict use_column
begin
    perform pg_current_xact_id(); -- before the first seq of `ready`: turn_claim relies on that
    return query
    with u as materialized (
        select u.*, nocturne.uuid7() as id, clock_timestamp() as at
        from rows from (unnest(p_agents, p_inputs, p_sessions, p_snapshots, p_run_ats, p_priorities,
                 p_metadata, p_max_attempts, p_deadlines, p_keys, p_options, p_prints),
                 generate_series(1, cardinality(p_agents)))
            as u(agent, input, session, snapshot, run_at, priority, metadata, max_attempts,
                 deadline, key, options, print, n)
    ), g as materialized ( -- what is plain
        select u.*, a.revision, coalesce(u.max_attempts, a.max_attempts) as attempts
        from u cross join lateral (
            select x.revision, x.max_attempts from nocturne.agent x
            where x.tenant = p_tenant and x.name = u.agent and x.deleted_at is null limit 1) a
        left join lateral (
            select cardinality(x.queue) as waiting from nocturne.session x
            where x.tenant = p_tenant and x.session_id = u.session
            limit 1 for update skip locked) s on true
        where u.snapshot is null and u.priority between 0 and 9
          and (u.options is null or u.options::json ->> 'parent' is null)
          and (u.session is null or s.waiting <= 1000 - cardinality(p_agents)
               or (s.waiting is null and cardinality(p_agents) <= 1000
                   and (select true from nocturne.session x where x.tenant = p_tenant
                        and x.session_id = u.session limit 1) is null))
    ), i as (
        insert into nocturne.idempotency as i (tenant, key, task_id, fingerprint, expires_at)
        select p_tenant, g.key, g.id, nocturne.fingerprint(g.print, g.agent, g.input, g.session,
                   g.snapshot, g.run_at, g.priority, g.metadata, g.max_attempts, g.deadline,
                   g.options), g.at + interval '30 days'
        from g where g.key is not null order by g.key, g.n
        on conflict do nothing
        returning i.task_id
    ), w as materialized (
        select g.*, coalesce(g.session, g.id::text) as sid, coalesce(g.run_at > g.at, false) as later
        from g where g.key is null or g.id in (select i.task_id from i)
    ), t as (
        insert into nocturne.task
        select w.id, p_tenant, w.agent, w.revision, w.sid, null, w.priority, w.attempts,
               w.input::json, w.options::json, w.metadata::json, w.run_at, w.deadline, w.at
        from w order by w.n
    ), d as (
        insert into nocturne.due (at, task_id, kind)
        select w.deadline, w.id, 'deadline' from w where w.deadline is not null
        union all select w.run_at, w.id, 'start' from w where w.later
    ), own as ( -- a session for each
        insert into nocturne.session (tenant, session_id, agent, running)
        select p_tenant, w.sid, w.agent, w.id from w where w.session is null and not w.later
        order by w.n
    ), named as (
        insert into nocturne.session as s (tenant, session_id, agent, running, queue)
        select p_tenant, w.sid, (array_agg(w.agent order by w.n))[1],
               (array_agg(w.id order by w.n))[1], (array_agg(w.id order by w.n))[2:]
        from w where w.session is not null and not w.later group by w.sid order by w.sid
        on conflict (tenant, session_id) do update set
            running = coalesce(s.running, excluded.running),
            queue = case when s.running is null then s.queue || excluded.queue
                         else s.queue || excluded.running || excluded.queue end,
            updated_at = clock_timestamp()
        returning s.running
    ), r as (
        insert into nocturne.ready (priority, task_id, fresh)
        select w.priority, w.id, w.session is null and w.options is null and w.deadline is null from w
        where not w.later and (w.session is null or w.id in (select s.running from named s))
        order by w.n
    )
    select w.n, w.id, w.sid, case when w.later then 'scheduled' else 'queued' end, w.at from w;
end $$;

-- Resume an interrupted task: the next turn on its snapshot, with the answers. Once.
-- p_resume {"respond"?: [{"name","call_id"?,"output"}], "restart"?: [{"name","call_id"?}]}
create or replace function nocturne.resume(p_task uuid, p_resume json, p_key text default null,
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
        null, null, p_key,
        ('{"resume":' || p_resume
         || nocturne.member('parent', nocturne.open_parent(t.options)) || '}')::json, p_tenant);
end $$;

-- Give the new task `p_next` what `p_task` has committed, with its events, as if it were another
-- attempt of the same turn. When a failed tool call was the end of the turn, its step is left out:
-- the model is asked again. Copies are of epoch 0. Returns whether there was anything.
create or replace function nocturne.carry_on(p_task uuid, p_next uuid) returns boolean
language plpgsql as $$
declare
    last int := (select coalesce(max(s.step), 0) from nocturne.step s where s.task_id = p_task);
    keep bigint;
begin
    if exists (select 1 from nocturne.tool_call c where c.task_id = p_task and c.step = last
               and c.status in ('failed', 'unknown'))
       and exists (select 1 from nocturne.task t join nocturne.agent_revision r
                       on r.tenant = t.tenant and r.name = t.agent and r.revision = t.revision
                   where t.task_id = p_task and r.definition ->> 'on_tool_error' = 'fail') then
        last := last - 1;
    end if;
    keep := (select max(x.seq) from (
        select s.last_seq as seq from nocturne.step s where s.task_id = p_task and s.step <= last
        union all
        select c.seq from nocturne.tool_call c where c.task_id = p_task and c.step <= last) x);
    if keep is null then
        return false;
    end if;
    insert into nocturne.step (task_id, step, epoch, message, finish, usage, last_seq)
    select p_next, s.step, 0, s.message, s.finish, s.usage, s.last_seq
    from nocturne.step s where s.task_id = p_task and s.step <= last;
    insert into nocturne.tool_call (task_id, step, idx, call_id, epoch, name, status, result, seq,
                                    started_at, ended_at)
    select p_next, c.step, c.idx, c.call_id, 0, c.name, c.status, c.result, c.seq, c.started_at,
           c.ended_at
    from nocturne.tool_call c where c.task_id = p_task and c.step <= last;
    insert into nocturne.chunk (task_id, seq_from, epoch, count, at_ms, events)
    select p_next, c.seq_from, 0, k.n, c.at_ms,
           array_to_string((string_to_array(c.events, chr(10)))[1:k.n], chr(10)) || chr(10)
    from nocturne.chunk c
    cross join lateral (select least(c.count, keep - c.seq_from + 1)::int as n) k
    where c.task_id = p_task and c.seq_from <= keep;
    return true;
end $$;

-- Try again a turn that has failed (quarantined ones too), expired or was aborted: a new task with
-- the same request, at the end of its session, or on the same snapshot when it named one, still a
-- child of its parent unless that is over. It goes
-- on behind the steps that are committed, with the same idempotency keys for its tools, unless
-- `p_fresh`. Once: a turn whose retry has failed is tried again by retrying that.
create or replace function nocturne.retry(p_task uuid, p_fresh boolean default false,
    p_key text default null, p_tenant text default 'default',
    out task_id uuid, out session_id text, out status text, out created_at timestamptz,
    out replayed boolean) language plpgsql as $$
declare
    t nocturne.task;
    ended text;
    next uuid;
begin
    select * into t from nocturne.task x where x.task_id = p_task and x.tenant = p_tenant;
    if not found then
        raise exception 'there is no task %', p_task using errcode = 'NT404';
    end if;
    -- locked: two retries of one task must see each other
    select d.status into ended from nocturne.done d where d.task_id = p_task for update;
    if ended is null then
        raise exception 'task % is not over yet', p_task using errcode = 'NT409';
    elsif ended in ('completed', 'incomplete') then
        raise exception 'task % is %: go on with a new turn of its session', p_task, ended
            using errcode = 'NT409';
    end if;
    select r.next_id into next from nocturne.retry r where r.task_id = p_task;
    if found and (p_key is null or not exists (select 1 from nocturne.idempotency i
                                               where i.tenant = p_tenant and i.key = p_key)) then
        raise exception 'task % is being retried already, as %', p_task, next
            using errcode = 'NT409';
    end if;
    select * into task_id, session_id, status, created_at, replayed
    from nocturne.submit(t.agent, t.input, t.session_id, t.snapshot_id, null, t.priority, t.metadata,
        t.max_attempts, null, p_key,
        case when t.options ->> 'parent' is null or nocturne.open_parent(t.options) is not null
             then t.options else (t.options::jsonb - 'parent')::json end,
        p_tenant, 'retry ' || p_task || ' ' || p_fresh);
    if not replayed then
        insert into nocturne.retry values (p_task, task_id, case when not p_fresh then coalesce(
            (select r.origin from nocturne.retry r where r.next_id = p_task), p_task) end);
        if not p_fresh then
            perform nocturne.carry_on(p_task, task_id);
        end if;
    end if;
end $$;

-- The session's slot of a task that has become terminal goes to the next in its queue.
-- p_head: the new head, or null when this task does not become one. Locks the session's row.
create or replace function nocturne.advance(p_task uuid, p_tenant text, p_session text, p_head uuid)
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
create or replace function nocturne.finish(p_task uuid, p_status text, p_reason text, p_error json,
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

-- The children of an aborted task are aborted next, by the scheduler: each in a transaction of its
-- own, because an end takes locks of every kind.
create or replace function nocturne.abort_children(p_task uuid) returns void language plpgsql as $$
begin
    insert into nocturne.due (at, task_id, kind)
    select clock_timestamp(), c.task_id, 'abort' from nocturne.child c
    where c.parent = p_task
      and not exists (select 1 from nocturne.done d where d.task_id = c.task_id);
end $$;

-- Ask for the end of a task. What has not started is ended here and now; a running turn reads
-- the request with its next heartbeat (NOTIFY only hurries it).
-- Its children follow within a second (release_due).
-- Returns the status that holds now: 'aborting', or the terminal one, unchanged if there was one.
create or replace function nocturne.abort(p_task uuid, p_reason text default null, p_actor text default null,
    p_tenant text default 'default', p_status text default 'aborted')
returns text language plpgsql as $$
declare
    t nocturne.task;
    ended text;
    taken boolean;
    body json;
begin
    select * into t from nocturne.task x where x.task_id = p_task and x.tenant = p_tenant;
    if not found then
        raise exception 'there is no task %', p_task using errcode = 'NT404';
    end if;
    body := ('{"reason":' || to_json(coalesce(p_reason, 'requested')) ||
             nocturne.member('actor', p_actor) || ',"latency_ms":0}')::json;
    perform nocturne.lock_children(p_task);
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
            perform nocturne.abort_children(p_task);
            return 'aborting';
        end if;
        delete from nocturne.ready r where r.task_id = p_task;
        taken := found;
        if not taken then
            delete from nocturne.due u where u.task_id = p_task and u.kind in ('start', 'retry');
            taken := found;
        end if;
        if not taken then
            begin
                update nocturne.session s set queue = array_remove(s.queue, p_task)
                where s.tenant = t.tenant and s.session_id = t.session_id and p_task = any(s.queue);
                taken := found;
                if not taken then
                    -- An update that waited and found the task gone from the queue has locked the
                    -- session all the same, and rows of ready come before it: let go of it.
                    raise sqlstate 'NT000';
                end if;
            exception when sqlstate 'NT000' then
                perform pg_sleep(0.005);
            end;
        end if;
        if taken then
            perform nocturne.finish(p_task, p_status, p_status, null, body);
            perform nocturne.abort_children(p_task);
            return p_status;
        end if;
    end loop;
    raise exception 'task % keeps moving', p_task using errcode = 'NT409';
end $$;
