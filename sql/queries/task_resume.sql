-- Resume an interrupted task; see nocturne.resume().
-- $1 uuid task  $2 text answers (JSON)  $3 text idempotency key or null  $4 text tenant
select task_id, session_id, status, nocturne.stamp(created_at), replayed
from nocturne.resume($1::uuid, $2::text::json, $3::text, $4::text);
