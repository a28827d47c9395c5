-- Claim up to $2 ready turns, smallest priority first, oldest first within one.
-- Gated on a live incarnation: the share lock keeps death and claim from crossing. Locks the
-- rows it returns; rows locked by another worker are skipped. The array form keeps the plan a
-- walk of the index under a generic plan (research/queues.md, 2.2).
-- A turn that two workers have died of is claimed alone, and the next such after a probation, so
-- that the third death has one to blame (rescue).
-- $1 bigint   worker_id
-- $2 int      most turns to claim
-- $3 bigint[] ten watermarks, one a priority: rows below are known to be gone
with me as materialized (
    select worker_id from nocturne.worker
    where worker_id = $1::bigint and state = 'live' and expires_at > clock_timestamp()
    for share
), suspect as materialized (
    select y.ctid from nocturne.ready y
    where y.crashes >= 2 and exists (select 1 from me)
      and not exists (select 1 from nocturne.lease l
                      where l.worker_id = $1::bigint and l.crashes >= 2 and l.task_id <> y.task_id
                        and l.claimed_at > clock_timestamp() - nocturne.probation())
    order by y.priority, y.seq limit 1
    for update skip locked
), picked as (
    delete from nocturne.ready r
    where exists (select 1 from me) and r.ctid = any(array(select s.ctid from suspect s) || array(
        select x.ctid
        from unnest($3::bigint[]) with ordinality h(seq, n)
        cross join lateral (
            select y.ctid from nocturne.ready y
            where y.shard = 0 and y.priority = (h.n - 1)::smallint and y.seq >= h.seq
              and y.crashes < 2
            order by y.seq limit $2::int
            for update skip locked) x
        limit $2::int - (select count(*) from suspect)))
    returning r.task_id, r.priority, r.seq, r.fails, r.crashes
), leased as (
    insert into nocturne.lease (task_id, epoch, worker_id, priority, fails, crashes)
    select task_id, nextval('nocturne.epoch'), $1::bigint, priority, fails, crashes from picked
    returning task_id, epoch
)
select p.task_id, l.epoch, p.priority, p.seq, p.fails, p.crashes
from picked p join leased l using (task_id)
order by p.priority, p.seq;
