-- Remove terminal tasks older than $1, from the id $2 on. Returns how many, and how far it came.
-- $1 bigint age in milliseconds  $2 uuid after  $3 int most rows
select r.removed, r.last
from nocturne.remove_expired(clock_timestamp() - $1::bigint * interval '1 ms', $2::uuid, $3::int) r;
