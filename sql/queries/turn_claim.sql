-- Claim up to $2 ready turns, smallest priority first, oldest first within one.
-- Gated on a live incarnation: the share lock keeps death and claim from crossing. Locks the
-- rows it returns; rows locked by another worker are skipped. The array form keeps the plan a
-- walk of the index under a generic plan (research/queues.md, 2.2).
-- A turn that two workers have died of is claimed alone, and the next such after a probation, so
-- that the third death has one to blame (rescue).
-- Every row says what the next claims may skip (worker/watermark.h): the newest seq that was given out,
-- read before this transaction had an id, that id, the snapshot of the statement and, if asked for, the
-- first row that the snapshot shows in each of the ranges, as "priority:seq" behind commas. One row
-- without a task: nothing was ready. No row at all: not alive.
-- What a `fresh` turn needs to start is its request, and comes along when it is small: its worker
-- need not ask again (turn_load.sql). In no order: the plan has as few nodes as it can, for a rare claim
-- pays for each.
-- $1 bigint   worker_id
-- $2 int      most turns to claim
-- $3 int[]    ranges of `ready` by priority, the first of each,  $4 bigint[] and in that one from
--             this seq on: rows below are known to be gone,      $5 int[] up to this, exclusive
-- $6 bool     tell the first row of each range,  $7 bool tell requests
with me as materialized (
    select w.worker_id, top.seq, pg_current_xact_id()::text as id,
           pg_current_snapshot()::text as snapshot
    from (select coalesce(pg_sequence_last_value('nocturne.ready_seq_seq'), 0) as seq offset 0) top
    cross join nocturne.worker w
    where w.worker_id = $1::bigint and w.state = 'live' and w.expires_at > clock_timestamp()
    for share of w
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
    where r.ctid = any(array(select s.ctid from suspect s) || array(
        select x.ctid
        from me cross join unnest($3::int[], $4::bigint[], $5::int[]) h(priority, seq, below)
        cross join lateral (
            select y.ctid from nocturne.ready y
            where y.shard = 0 and (y.priority, y.seq) >= (h.priority::smallint, h.seq)
              and y.priority < h.below::smallint and y.crashes < 2
            order by y.priority, y.seq limit $2::int
            for update skip locked) x
        limit $2::int - (select count(*) from suspect)))
    returning r.task_id, nextval('nocturne.epoch') as epoch, r.priority, r.seq, r.fails, r.crashes,
              r.fresh
), leased as (
    insert into nocturne.lease (task_id, epoch, worker_id, priority, fails, crashes)
    select task_id, epoch, $1::bigint, priority, fails, crashes from picked
)
select p.task_id, p.epoch, p.priority, p.seq, p.fails, p.crashes, me.seq as newest, me.id, me.snapshot,
       case when $6::bool then
           (select string_agg(x.priority || ':' || x.seq, ',')
            from unnest($3::int[], $4::bigint[], $5::int[]) h(priority, seq, below)
            cross join lateral (
                select y.priority, y.seq from nocturne.ready y
                where y.shard = 0 and (y.priority, y.seq) >= (h.priority::smallint, h.seq)
                  and y.priority < h.below::smallint and y.crashes < 2
                order by y.priority, y.seq limit 1) x) end as first,
       t.tenant, t.agent, t.revision, t.session_id, t.input, t.max_attempts,
       (extract(epoch from t.created_at) * 1000)::bigint as created_ms
from me left join picked p on true
left join lateral (select * from nocturne.task x
                   where x.task_id = p.task_id and p.fresh and $7::bool
                     and pg_column_size(x.input) <= 2048 and octet_length(x.input::text) <= 16384
                   limit 1) t on true;
