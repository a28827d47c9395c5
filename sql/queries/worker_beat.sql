-- Heartbeat. No row: this incarnation was declared dead, the worker must fence itself.
-- Returns own state, number of leases held and the newest epoch of them (null when not counted), and
-- the pending controls of its turns as JSON.
-- There are few controls, and the limit makes each a probe: never a walk over leases.
-- $1 bigint worker_id
-- $2 bigint time to live, in milliseconds
-- $3 text   counters as JSON, for /metrics
-- $4 bool   count the leases: it walks over those that were deleted, too, while an old transaction runs
with me as (
    update nocturne.worker
    set expires_at = clock_timestamp() + $2::bigint * interval '1 ms',
        beat_at = clock_timestamp()
    where worker_id = $1::bigint and state <> 'dead'
    returning worker_id, state
), s as (
    insert into nocturne.worker_stats (worker_id, stats) select worker_id, $3::json from me
    on conflict (worker_id) do update set stats = excluded.stats
)
select me.state, l.n, l.newest,
       (select json_agg(json_build_object('task_id', c.task_id, 'status', c.status,
                   'reason', c.reason, 'actor', c.actor,
                   'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint))
        from (select * from nocturne.control order by task_id, kind) c cross join lateral (
            select 1 from nocturne.lease l
            where l.task_id = c.task_id and l.worker_id + 0 = $1::bigint and l.aborting
            limit 1) l)
from me
left join (select count(*) as n, max(x.epoch) as newest from nocturne.lease x
           where x.worker_id = $1::bigint and $4::bool) l on $4::bool;
