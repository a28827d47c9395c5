-- What a worker needs to run the tasks $1: the request, the conversation so far, and what
-- earlier attempts have committed.
-- $1 uuid[] tasks, claimed by the caller
-- A task without an attempt has nothing committed: each lease that ends leaves one. One that
-- carries on another (`origin`) may have, too.
select t.task_id, t.tenant, t.agent, t.revision, t.session_id,
       p.task_id as parent, coalesce(p.depth, 0) as parent_depth,
       t.input, t.options, t.max_attempts,
       (extract(epoch from t.created_at) * 1000)::bigint as created_ms,
       (extract(epoch from t.deadline - clock_timestamp()) * 1000)::bigint as deadline_in_ms,
       case when p.task_id is not null then nocturne.messages_json(p.task_id) end as messages,
       p.custom, p.artifacts,
       case when b.begun then
       (select json_agg(json_build_object('step', s.step, 'message', s.message,
                   'finish', s.finish, 'usage', s.usage, 'last_seq', s.last_seq) order by s.step)
        from nocturne.step s where s.task_id = t.task_id) end as steps,
       case when b.begun then
       (select json_agg(json_build_object('step', c.step, 'idx', c.idx, 'status', c.status,
                   'result', c.result, 'seq', c.seq) order by c.step, c.idx)
        from nocturne.tool_call c where c.task_id = t.task_id) end as calls,
       case when b.begun then nocturne.last_seq(t.task_id) else 0 end as last_seq,
       a.first as started_at,
       (select json_build_object('status', c.status, 'reason', c.reason, 'actor', c.actor,
                   'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint)
        from nocturne.control c where c.task_id = t.task_id limit 1) as control,
       r.origin
from unnest($1::uuid[]) as u(task_id)
cross join lateral (select * from nocturne.task x where x.task_id = u.task_id limit 1) t
cross join lateral (select min(x.started_at) as first from nocturne.attempt x
                    where x.task_id = u.task_id) a
left join lateral (select x.origin from nocturne.retry x where x.next_id = u.task_id limit 1) r
    on true
cross join lateral (select a.first is not null or r.origin is not null as begun) b
left join lateral (select * from nocturne.session x
                   where x.tenant = t.tenant and x.session_id = t.session_id limit 1) s on true
left join lateral (select * from nocturne.snapshot x
                   where x.task_id = coalesce(t.snapshot_id, s.head) limit 1) p on true;
