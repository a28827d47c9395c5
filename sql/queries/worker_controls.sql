-- The pending controls of a worker's turns, as in the answer to the heartbeat.
-- $1 bigint worker_id
select json_agg(json_build_object('task_id', c.task_id, 'status', c.status,
           'reason', c.reason, 'actor', c.actor,
           'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint))
from (select * from nocturne.control order by task_id, kind) c cross join lateral (
    select 1 from nocturne.lease l
    where l.task_id = c.task_id and l.worker_id + 0 = $1::bigint and l.aborting
    limit 1) l;
