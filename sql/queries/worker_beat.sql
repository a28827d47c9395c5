-- Heartbeat. No row: this incarnation was declared dead, the worker must fence itself.
-- Returns own state, number of leases held, the newest epoch of them, and the pending controls of
-- its turns as JSON.
-- $1 bigint worker_id
-- $2 bigint time to live, in milliseconds
-- $3 text   counters as JSON, for /metrics
with me as (
    update nocturne.worker
    set expires_at = clock_timestamp() + $2::bigint * interval '1 ms', stats = $3::json,
        beat_at = clock_timestamp()
    where worker_id = $1::bigint and state <> 'dead'
    returning state
)
select me.state,
       (select count(*) from nocturne.lease l where l.worker_id = $1::bigint),
       (select coalesce(max(l.epoch), 0) from nocturne.lease l where l.worker_id = $1::bigint),
       (select json_agg(json_build_object('task_id', c.task_id, 'status', c.status,
                   'reason', c.reason, 'actor', c.actor,
                   'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint))
        from nocturne.lease l join nocturne.control c on c.task_id = l.task_id
        where l.worker_id = $1::bigint and l.aborting)
from me;
