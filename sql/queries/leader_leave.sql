-- Step down, so that a standby takes over at once.
-- $1 text holder
update nocturne.leader set expires_at = clock_timestamp()
where name = 'scheduler' and holder = $1::text;
