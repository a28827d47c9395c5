-- No new tasks for this agent; running ones keep their revision. No row: there is none.
-- $1 text tenant  $2 text name
update nocturne.agent set deleted_at = clock_timestamp(), updated_at = clock_timestamp()
where tenant = $1::text and name = $2::text and deleted_at is null
returning name;
