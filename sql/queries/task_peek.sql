-- How far a task's events go, and whether more may come. No row: there is none.
-- $1 uuid task  $2 text tenant
select d.task_id is not null, coalesce(d.last_seq, nocturne.last_seq(t.task_id))
from nocturne.task t left join nocturne.done d on d.task_id = t.task_id
where t.task_id = $1::uuid and t.tenant = $2::text;
