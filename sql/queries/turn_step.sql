-- Record the model's answer of one step of each of many turns. Fenced as turn_append.
-- $1 bigint worker_id  $2 uuid[] tasks  $3 bigint[] epochs  $4 int[] steps
-- $5 text[] messages (JSON)  $6 text[] finish reasons  $7 text[] usage (JSON or null)
-- $8 bigint[] seq of the step's last event
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
)
insert into nocturne.step as s (task_id, epoch, step, message, finish, usage, last_seq)
select u.task_id, u.epoch, u.step, u.message::json, u.finish, u.usage::json, u.last_seq
from unnest($2::uuid[], $3::bigint[], $4::int[], $5::text[], $6::text[], $7::text[], $8::bigint[])
    as u(task_id, epoch, step, message, finish, usage, last_seq)
where exists (select 1 from me)
  and (select l.epoch from nocturne.lease l
       where l.task_id = u.task_id and l.worker_id + 0 = $1::bigint) = u.epoch
on conflict (task_id, step) do update set epoch = s.epoch where s.epoch = excluded.epoch
returning task_id;
