-- Claim up to $2 ready turns, smallest priority first, oldest first within one.
-- Gated on a live incarnation: the share lock keeps death and claim from crossing. Locks the
-- rows it returns; rows locked by another worker are skipped. The array form keeps the plan a
-- walk of the index under a generic plan (research/queues.md, 2.2).
-- $1 bigint   worker_id
-- $2 int      most turns to claim
-- $3 bigint[] ten watermarks, one a priority: rows below are known to be gone
with me as materialized (
    select worker_id from nocturne.worker
    where worker_id = $1::bigint and state = 'live' and expires_at > clock_timestamp()
    for share
), picked as (
    delete from nocturne.ready r
    where exists (select 1 from me) and r.ctid = any(array(
        select x.ctid
        from unnest($3::bigint[]) with ordinality h(seq, n)
        cross join lateral (
            select y.ctid from nocturne.ready y
            where y.shard = 0 and y.priority = (h.n - 1)::smallint and y.seq >= h.seq
            order by y.seq limit $2::int
            for update skip locked) x
        limit $2::int))
    returning r.task_id, r.priority, r.seq, r.fails, r.crashes
), leased as (
    insert into nocturne.lease (task_id, epoch, worker_id, priority, fails, crashes)
    select task_id, nextval('nocturne.epoch'), $1::bigint, priority, fails, crashes from picked
    returning task_id, epoch
)
select p.task_id, l.epoch, p.priority, p.seq, p.fails, p.crashes
from picked p join leased l using (task_id)
order by p.priority, p.seq;
