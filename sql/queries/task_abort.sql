-- Ask for the end of a task; see nocturne.abort().
-- $1 uuid task  $2 text reason or null  $3 text actor or null  $4 text tenant
-- Returns the status before, null when it was not terminal, the status now, and the worker that runs
-- it (null: none when we began).
select (select d.status from nocturne.done d where d.task_id = $1::uuid),
       nocturne.abort($1::uuid, $2::text, $3::text, $4::text),
       (select l.worker_id from nocturne.lease l where l.task_id = $1::uuid);
