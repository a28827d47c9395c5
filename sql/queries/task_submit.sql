-- Submit one turn; see nocturne.submit(). With $14 the hint that something is ready rides along.
-- $1 text agent  $2 text input (JSON)  $3 text session or null  $4 uuid snapshot or null
-- $5 timestamptz run_at or null  $6 int priority  $7 text metadata (JSON) or null
-- $8 int max_attempts or null  $9 timestamptz deadline or null  $10 text idempotency key or null
-- $11 text options (JSON) or null  $12 text tenant
-- $13 text fingerprint of the request or null  $14 boolean hint, if it is queued
select task_id, session_id, status, nocturne.stamp(created_at), replayed,
       case when $14::boolean and status = 'queued' and not replayed
            then pg_notify('nocturne', 'r') end
from nocturne.submit($1::text, $2::text::json, $3::text, $4::uuid, $5::timestamptz, $6::int,
    $7::text::json, $8::int, $9::timestamptz, $10::text, $11::text::json, $12::text, $13::text);
