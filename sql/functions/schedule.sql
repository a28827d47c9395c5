-- What the scheduler's leader does every tick. Order of locks: see task.sql.

-- Move what is due: start and retry become runnable, deadlines and aborts of a parent end what is
-- not terminal.
-- Rows another scheduler holds are skipped, so two at once never move one twice. They end one
-- task a call: each end takes locks of every kind, see the order above.
create or replace function nocturne.release_due(p_limit int, out moved int) language plpgsql as $$
declare
    now timestamptz := clock_timestamp(); -- a variable, because an index knows no volatile bound
    head nocturne.due;
    now_is text;
    u record;
begin
    moved := 0;
    select * into head from nocturne.due y where y.at <= now order by y.at limit 1;
    if head.kind in ('deadline', 'abort') then
        for u in
            delete from nocturne.due x where x.ctid = any(array(
                select y.ctid from nocturne.due y
                where y.at <= now and y.kind in ('deadline', 'abort')
                  and exists (select 1 from nocturne.done d where d.task_id = y.task_id)
                order by y.at limit p_limit for update skip locked))
            returning x.*
        loop
            moved := moved + 1;
            if u.kind = 'deadline' and exists (select 1 from nocturne.done d
                                               where d.task_id = u.task_id and d.status = 'expired') then
                perform nocturne.lock_children(u.task_id); -- its worker has ended it, and no abort
                perform nocturne.abort_children(u.task_id);
            end if;
        end loop;
        if moved = 0 then
            select case head.kind
                       when 'deadline' then
                           nocturne.abort(t.task_id, 'deadline', 'scheduler', t.tenant, 'expired')
                       else nocturne.abort(t.task_id, 'its parent was aborted', 'scheduler', t.tenant)
                   end into now_is
            from nocturne.task t where t.task_id = head.task_id;
            if now_is = 'aborting' then
                perform pg_notify('nocturne', 'a:*');
            end if;
            delete from nocturne.due x
            where x.at = head.at and x.task_id = head.task_id and x.kind = head.kind;
            moved := 1;
        end if;
        return;
    end if;
    for u in
        with x as (
            delete from nocturne.due x where x.ctid = any(array(
                select y.ctid from nocturne.due y
                where y.at <= now and y.kind in ('start', 'retry')
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

-- Death is one durable transition on the worker's row. This one judges at once: for schedulers of the
-- previous release.
create or replace function nocturne.reap() returns setof bigint language sql as $$
    update nocturne.worker w set state = 'dead'
    where w.worker_id = any(array(
            select x.worker_id from nocturne.worker x
            where x.state <> 'dead' and x.expires_at < clock_timestamp()
            order by x.worker_id for update skip locked))
      and w.state <> 'dead' and w.expires_at < clock_timestamp()
    returning w.worker_id
$$;

-- The same for a leader that must not mistake an outage for the death of many: it looks again and
-- again, and says when it last looked (the `now_us` of that answer, microseconds since 1970; null:
-- it only looks). Nobody is declared dead unless that was at most p_patience_ms ago: a statement that
-- waited for its connection, a server that stood still, a clock that jumped are all found by that.
-- Nor within p_ttl_ms of the server's start, when no worker can have beaten.
-- One row says what time it is and whether it judged; then one row for each of the dead.
create or replace function nocturne.reap_watched(p_seen_us bigint, p_patience_ms bigint,
    p_ttl_ms bigint) returns table (now_us bigint, judged boolean, worker_id bigint)
language plpgsql as $$
declare
    at timestamptz := clock_timestamp(); -- once: what stops us further down must not count either
begin
    now_us := (extract(epoch from at) * 1000000)::bigint;
    judged := coalesce(now_us between p_seen_us and p_seen_us + p_patience_ms * 1000, false)
              and at > pg_postmaster_start_time() + p_ttl_ms * interval '1 ms';
    return next;
    for worker_id in
        update nocturne.worker w set state = 'dead'
        where judged and w.worker_id = any(array(
                select x.worker_id from nocturne.worker x
                where x.state <> 'dead' and x.expires_at < at
                order by x.worker_id for update skip locked))
          and w.state <> 'dead' and w.expires_at < at
        returning w.worker_id
    loop
        return next;
    end loop;
end $$;

-- How long a turn that two workers have died of runs before another such may start beside it.
create or replace function nocturne.probation() returns interval language sql immutable as $$
    select interval '5 s'
$$;

-- Leases of dead workers go back. A turn that took three workers with it is quarantined; one that
-- was being aborted ends. When the worker died with a turn on probation, that one is to blame, and
-- no other of its turns is charged.
create or replace function nocturne.rescue(p_limit int, out rescued int) language plpgsql as $$
declare
    dead bigint[] := array(select w.worker_id from nocturne.worker w where w.state = 'dead');
    blamed nocturne.lease[] := array( -- of each of the dead, the last that began, if on probation
        select l.last from nocturne.worker w cross join lateral (
            select y as last from nocturne.lease y
            where y.worker_id = w.worker_id and y.crashes >= 2
              and y.claimed_at > w.beat_at - nocturne.probation()
            order by y.epoch desc limit 1) l
        where w.worker_id = any(dead));
    charge int;
    l record;
begin
    rescued := 0;
    for l in
        with x as (
            delete from nocturne.lease x where x.task_id = any(array(
                select z.task_id from unnest(dead) d(worker_id) cross join lateral (
                    select y.task_id from nocturne.lease y where y.worker_id = d.worker_id
                    order by y.crashes >= 2, y.epoch -- the last is found by the next batch as well
                    limit p_limit for update skip locked) z
                limit p_limit))
            returning x.*
        )
        select x.*, w.name from x
        join nocturne.worker w on w.worker_id = x.worker_id
        join nocturne.task t on t.task_id = x.task_id
        order by t.tenant, t.session_id, x.task_id
    loop
        charge := (select case when bool_and(b.epoch <> l.epoch) then 0 else 1 end
                   from unnest(blamed) b where b.worker_id = l.worker_id);
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
        elsif l.crashes + charge >= 3 then
            perform nocturne.finish(l.task_id, 'failed', 'failed',
                '{"code":"QUARANTINED","message":"three workers died while running this turn; nocturne retry goes on with it","retryable":false}',
                null);
        else
            insert into nocturne.ready (priority, task_id, fails, crashes)
            values (l.priority, l.task_id, l.fails, l.crashes + charge);
        end if;
        rescued := rescued + 1;
    end loop;
end $$;
