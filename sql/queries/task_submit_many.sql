-- Submit many turns; see nocturne.submit_many(). Returns the place from 1 and what task_submit.sql
-- returns, of those that were accepted; the others go by themselves.
-- $1 text[] agents  $2 text[] inputs (JSON)  $3 text[] sessions  $4 uuid[] snapshots
-- $5 text[] run_at (timestamptz)  $6 int[] priorities  $7 text[] metadata (JSON)
-- $8 int[] max_attempts  $9 text[] deadlines (timestamptz)  $10 text[] idempotency keys
-- $11 text[] options (JSON)  $12 text[] fingerprints of the requests  $13 text tenant
-- Any element but of $1, $2 and $6 may be null.
select task_id, session_id, status, nocturne.stamp(created_at), false, place
from nocturne.submit_many($1::text[], $2::text[], $3::text[], $4::uuid[],
    $5::text[]::timestamptz[], $6::int[], $7::text[], $8::int[], $9::text[]::timestamptz[],
    $10::text[], $11::text[], $12::text[], $13::text);
