-- What a worker needs to run the tasks $1: the request, the conversation so far, and what
-- earlier attempts have committed.
-- $1 uuid[] tasks, claimed by the caller
select t.task_id, t.tenant, t.agent, t.revision, t.session_id,
       p.task_id as parent, coalesce(p.depth, 0) as parent_depth,
       t.input, t.options, t.max_attempts,
       (extract(epoch from t.created_at) * 1000)::bigint as created_ms,
       (extract(epoch from t.deadline - clock_timestamp()) * 1000)::bigint as deadline_in_ms,
       nocturne.messages_json(p.task_id) as messages, p.custom, p.artifacts,
       (select json_agg(json_build_object('step', s.step, 'message', s.message,
                   'finish', s.finish, 'usage', s.usage, 'last_seq', s.last_seq) order by s.step)
        from nocturne.step s where s.task_id = t.task_id) as steps,
       (select json_agg(json_build_object('step', c.step, 'idx', c.idx, 'status', c.status,
                   'result', c.result, 'seq', c.seq) order by c.step, c.idx)
        from nocturne.tool_call c where c.task_id = t.task_id) as calls,
       nocturne.last_seq(t.task_id) as last_seq,
       (select min(a.started_at) from nocturne.attempt a where a.task_id = t.task_id) as started_at,
       (select json_build_object('status', c.status, 'reason', c.reason, 'actor', c.actor,
                   'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint)
        from nocturne.control c where c.task_id = t.task_id) as control
from nocturne.task t
left join nocturne.session s on s.tenant = t.tenant and s.session_id = t.session_id
left join nocturne.snapshot p on p.task_id = coalesce(t.snapshot_id, s.head)
where t.task_id = any($1::uuid[]);
