-- A new incarnation of a worker. Returns its id.
-- $1 text   name for people, host:pid
-- $2 text   version of the program
-- $3 int    slots: most turns at once
-- $4 bigint time to live without a heartbeat, in milliseconds
insert into nocturne.worker (name, version, slots, expires_at)
values ($1::text, $2::text, $3::int, clock_timestamp() + $4::bigint * interval '1 ms')
returning worker_id;
