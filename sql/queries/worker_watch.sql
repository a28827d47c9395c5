-- The workers with a recorded session: id, session, and whether its backend is there. A backend
-- whose start this role may not see counts as there.
select w.worker_id, w.backend_pid || ' ' || w.backend_start,
       exists (select 1 from pg_stat_get_activity(w.backend_pid) a
               where a.pid = w.backend_pid
                 and (a.backend_start is null or a.backend_start = w.backend_start))
from nocturne.worker w
where w.state <> 'dead' and w.backend_start is not null
order by w.worker_id;
