-- Declare workers dead whose time has run out, while the database is being watched. Returns one row
-- with its time in microseconds and whether it judged, then one row for each of the dead.
-- $1 bigint that time as of the last look, null: look only  $2 bigint most milliseconds since then
-- $3 bigint time to live of a heartbeat in milliseconds
select now_us, judged, worker_id
from nocturne.reap_watched($1::bigint, $2::bigint, $3::bigint);
