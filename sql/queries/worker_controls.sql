-- The pending controls of a worker's turns, as in the answer to the heartbeat.
-- $1 bigint worker_id
select json_agg(json_build_object('task_id', c.task_id, 'status', c.status,
           'reason', c.reason, 'actor', c.actor,
           'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint))
from nocturne.lease l join nocturne.control c on c.task_id = l.task_id
where l.worker_id = $1::bigint and l.aborting;
