-- A snapshot with its state. No row: there is none.
-- $1 uuid task  $2 text tenant
select j from nocturne.snapshot_json($1::uuid, $2::text, true) j where j is not null;
