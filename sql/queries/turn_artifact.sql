-- Add or replace artifacts of turns. Fenced as turn_append.
-- $1 bigint worker_id  $2 uuid[] tasks  $3 bigint[] epochs  $4 text[] names  $5 text[] JSON
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
)
insert into nocturne.artifact (task_id, name, content)
select u.task_id, u.name, u.content::json
from unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[]) as u(task_id, epoch, name, content)
where exists (select 1 from me)
  and (select l.epoch from nocturne.lease l
       where l.task_id = u.task_id and l.worker_id + 0 = $1::bigint) = u.epoch
on conflict (task_id, name) do update set content = excluded.content
returning task_id;
