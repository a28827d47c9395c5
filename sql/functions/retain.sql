-- Partitions and the removal of old tasks.

-- One partition of chunk per day (UTC), from today to `p_days` ahead.
create or replace function nocturne.make_partitions(p_days int, out made int) language plpgsql
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
create or replace function nocturne.drop_partitions(p_before timestamptz, out dropped int)
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
-- A session used since, or with a turn that is scheduled, keeps its turns, so that its state can
-- be read.
create or replace function nocturne.remove_expired(p_before timestamptz, p_after uuid, p_limit int,
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
      and s.running is null and s.queue = '{}' and s.updated_at < p_before
      and not exists (select 1 from nocturne.task x join nocturne.due u on u.task_id = x.task_id
                      where x.tenant = s.tenant and x.session_id = s.session_id
                        and u.kind in ('start', 'retry'));
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
    delete from nocturne.retry where task_id = any(ids);
    delete from nocturne.retry where next_id = any(ids);
    delete from nocturne.child where parent = any(ids);
    delete from nocturne.done where task_id = any(ids);
    delete from nocturne.task where task_id = any(ids);
    removed := cardinality(ids);
    delete from nocturne.idempotency i where i.ctid = any(array(
        select y.ctid from nocturne.idempotency y where y.expires_at < now
        limit p_limit));
    delete from nocturne.worker w where w.state = 'dead'
        and w.expires_at < clock_timestamp() - interval '1 day'
        and not exists (select 1 from nocturne.lease l where l.worker_id = w.worker_id);
    delete from nocturne.worker_stats s
    where not exists (select 1 from nocturne.worker w where w.worker_id = s.worker_id);
end $$;

select nocturne.make_partitions(3);
