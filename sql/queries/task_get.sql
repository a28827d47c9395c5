-- A task as the API shows it, and whether it is terminal. No row: there is none.
-- $1 uuid task  $2 text tenant
select x.j, (select true from nocturne.done d where d.task_id = $1::uuid) is not null
from (select nocturne.task_json($1::uuid, $2::text) as j offset 0) x
where x.j is not null;
