-- What a worker needs to end the tasks $1, which turn_load cannot read: its columns, without the
-- request, the conversation and what was committed, for any of them may be what is broken.
-- $1 uuid[] tasks, claimed by the caller
select t.task_id, t.tenant, t.agent, t.revision, t.session_id,
       null::uuid as parent, 0 as parent_depth,
       null::json as input, null::json as options, t.max_attempts,
       (extract(epoch from t.created_at) * 1000)::bigint as created_ms,
       (extract(epoch from t.deadline - clock_timestamp()) * 1000)::bigint as deadline_in_ms,
       null::text as messages, null::json as custom, null::json as artifacts,
       null::json as steps, null::json as calls, nocturne.last_seq(t.task_id) as last_seq,
       a.first as started_at,
       (select json_build_object('status', c.status, 'reason', c.reason, 'actor', c.actor,
                   'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint)
        from nocturne.control c where c.task_id = t.task_id limit 1) as control,
       null::uuid as origin
from unnest($1::uuid[]) as u(task_id)
cross join lateral (select * from nocturne.task x where x.task_id = u.task_id limit 1) t
cross join lateral (select min(x.started_at) as first from nocturne.attempt x
                    where x.task_id = u.task_id) a;
