-- One turn over the Genkit wire; see nocturne.genkit_submit().
-- $1 text agent  $2 text input (JSON)  $3 text session or null  $4 uuid snapshot or null
-- $5 text options (JSON)  $6 text idempotency key or null
-- $7 text enqueue | reject | interrupt: when the session is busy  $8 text tenant
select task_id, session_id, status, refused, misuse
from nocturne.genkit_submit($1::text, $2::text::json, $3::text, $4::uuid, $5::text::json, $6::text,
    $7::text, $8::text);
