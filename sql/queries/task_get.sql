-- A task as the API shows it. No row: there is none.
-- $1 uuid task  $2 text tenant
select j, s in ('completed', 'incomplete', 'failed', 'aborted', 'expired')
from (select nocturne.task_json($1::uuid, $2::text) as j, nocturne.task_status($1::uuid) as s) x
where j is not null;
