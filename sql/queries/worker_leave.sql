-- A clean end: the row of a worker without leases goes; with leases it is dead at once.
-- $1 bigint worker_id
with gone as (
    delete from nocturne.worker w
    where w.worker_id = $1::bigint
      and not exists (select 1 from nocturne.lease l where l.worker_id = w.worker_id)
    returning 1
)
update nocturne.worker set state = 'dead', expires_at = clock_timestamp()
where worker_id = $1::bigint and not exists (select 1 from gone);
