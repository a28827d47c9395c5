-- A clean end: the row of a worker without leases goes; with leases it is dead at once. It goes only
-- when it was draining before this statement began: then no claim of it is under way. One that is,
-- sent on a connection given up, would commit a lease that this snapshot does not see, of a worker
-- that nobody could declare dead any more.
-- $1 bigint worker_id
with gone as (
    delete from nocturne.worker w
    where w.worker_id = $1::bigint and w.state = 'draining'
      and not exists (select 1 from nocturne.lease l where l.worker_id = w.worker_id)
    returning 1
), s as (
    delete from nocturne.worker_stats s
    where s.worker_id = $1::bigint and exists (select 1 from gone)
)
update nocturne.worker set state = 'dead', expires_at = clock_timestamp()
where worker_id = $1::bigint and not exists (select 1 from gone);
