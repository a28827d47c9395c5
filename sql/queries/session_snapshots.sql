-- Snapshots of a session, newest first, without their state. Compared as rows, as in sql/functions/list.sql.
-- $1 text tenant  $2 text session_id  $3 uuid before or null  $4 int most rows
select p.task_id, nocturne.snapshot_json(p.task_id, $1::text, false)
from nocturne.task t join nocturne.snapshot p on p.task_id = t.task_id
where t.session_id >= $2::text and t.tenant = $1::text
  and (t.session_id, t.task_id) < ($2::text, coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
order by t.session_id desc, t.task_id desc limit $4::int;
