-- Ask for the end of a task; see nocturne.abort().
-- $1 uuid task  $2 text reason or null  $3 text actor or null  $4 text tenant
-- Returns the status before, null when it was not terminal, and the status now.
select (select d.status from nocturne.done d where d.task_id = $1::uuid),
       nocturne.abort($1::uuid, $2::text, $3::text, $4::text);
