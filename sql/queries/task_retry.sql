-- Try a task again that has ended badly; see nocturne.retry().
-- $1 uuid task  $2 bool from the beginning  $3 text idempotency key or null  $4 text tenant
select task_id, session_id, status, nocturne.stamp(created_at), replayed
from nocturne.retry($1::uuid, $2::bool, $3::text, $4::text);
