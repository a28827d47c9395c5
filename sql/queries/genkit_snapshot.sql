-- A snapshot by its id or as the newest of a session, as JSON text, and whether it is settled.
-- No row: there is none.
-- $1 uuid snapshot or null  $2 text session or null  $3 text tenant  $4 text agent
select nocturne.genkit_snapshot(x.id, $3::text, $4::text),
       nocturne.genkit_status(x.id) <> 'pending'
from (select coalesce($1::uuid, nocturne.genkit_leaf($2::text, $3::text, $4::text)) as id) x
where exists (select 1 from nocturne.task t
              where t.task_id = x.id and t.tenant = $3::text and t.agent = $4::text);
