-- Declare workers dead whose time has run out, while the database is being watched. Returns one row
-- with its time in microseconds and whether it judged, then one row for each of the dead; in each
-- whether any worker that was dead before holds leases, whether any other does, and when the latest
-- session of a worker began, in microseconds.
-- $1 bigint that time as of the last look, null: look only  $2 bigint most milliseconds since then
-- $3 bigint time to live of a heartbeat in milliseconds
select r.now_us, r.judged, r.worker_id, held.dead, held.live, held.latest_us
from nocturne.reap_watched($1::bigint, $2::bigint, $3::bigint) r
cross join (
    select coalesce(bool_or(w.state = 'dead' and l.worker_id is not null), false) as dead,
           coalesce(bool_or(w.state <> 'dead' and l.worker_id is not null), false) as live,
           coalesce(extract(epoch from max(w.backend_start)) * 1000000, 0)::bigint as latest_us
    from (select * from nocturne.worker x order by x.worker_id) w
    left join lateral (select y.worker_id from nocturne.lease y where y.worker_id >= w.worker_id
                       order by y.worker_id limit 1) l using (worker_id)) held;
