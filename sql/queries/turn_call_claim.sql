-- Claim tool calls in the ledger before they run. A call claimed by an earlier epoch is taken
-- over (its policy allowed that). Fenced as turn_append.
-- $1 bigint worker_id  $2 uuid[] tasks  $3 bigint[] epochs  $4 int[] steps  $5 int[] idx
-- $6 text[] call ids   $7 text[] tool names
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
)
insert into nocturne.tool_call as c (task_id, epoch, step, idx, call_id, name, status)
select u.task_id, u.epoch, u.step, u.idx, u.call_id, u.name, 'claimed'
from unnest($2::uuid[], $3::bigint[], $4::int[], $5::int[], $6::text[], $7::text[])
    as u(task_id, epoch, step, idx, call_id, name)
where exists (select 1 from me)
  and (select l.epoch from nocturne.lease l
       where l.task_id = u.task_id and l.worker_id + 0 = $1::bigint) = u.epoch
on conflict (task_id, step, idx) do update set epoch = excluded.epoch
    where c.status = 'claimed' and c.epoch <= excluded.epoch
returning task_id;
