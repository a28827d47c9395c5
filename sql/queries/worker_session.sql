-- Record the backend that serves this worker's session, which is the one that executes this. Behind
-- a pooler it is not the worker's own: then the process id that the worker was told is another one,
-- and none is recorded. Returns whether it was.
-- $1 bigint worker_id
-- $2 int    process id of the backend as the worker knows it
-- $3 int    without this backend and without a beat for so many milliseconds it may be declared dead
update nocturne.worker w
set backend_pid = a.pid, backend_start = a.backend_start, silence_ms = $3::int,
    beat_at = clock_timestamp()
from (select pg_backend_pid() as own) o
left join pg_stat_get_activity($2::int) a on a.pid = o.own
where w.worker_id = $1::bigint and w.state <> 'dead'
returning w.backend_start is not null;
