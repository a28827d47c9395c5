-- From now on this worker claims nothing.
-- $1 bigint worker_id
update nocturne.worker set state = 'draining'
where worker_id = $1::bigint and state = 'live'
returning worker_id;
