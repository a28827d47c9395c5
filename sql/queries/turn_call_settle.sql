-- Settle claimed tool calls with their results, once. Fenced as turn_append.
-- $1 bigint worker_id  $2 uuid[] tasks  $3 bigint[] epochs  $4 int[] steps  $5 int[] idx
-- $6 text[] done | failed | unknown   $7 text[] results (JSON)  $8 bigint[] seq of the event
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
)
insert into nocturne.tool_call as c
    (task_id, epoch, step, idx, call_id, name, status, result, seq, ended_at)
select u.task_id, u.epoch, u.step, u.idx, '', '', u.status, u.result::json, u.seq,
       clock_timestamp()
from unnest($2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::text[], $7::text[], $8::bigint[])
    as u(task_id, epoch, step, idx, status, result, seq)
where exists (select 1 from me)
  and (select l.epoch from nocturne.lease l
       where l.task_id = u.task_id and l.worker_id + 0 = $1::bigint) = u.epoch
on conflict (task_id, step, idx) do update
    set status = excluded.status, result = excluded.result, seq = excluded.seq,
        ended_at = excluded.ended_at, epoch = excluded.epoch
    where c.status = 'claimed'
returning task_id;
