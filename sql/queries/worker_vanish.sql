-- Declare workers dead whose session is gone and that are silent. Each must still have the session
-- it was judged by, without its backend, and must not have beaten for its `silence_ms`; a beat that
-- comes meanwhile saves it. Returns the ids of the dead.
-- $1 bigint[] workers  $2 text[] sessions, as worker_watch returned them
update nocturne.worker w set state = 'dead'
where w.worker_id = any(array(
        select x.worker_id
        from unnest($1::bigint[], $2::text[]) as u(worker_id, session)
        join nocturne.worker x using (worker_id)
        where x.state <> 'dead' and x.backend_pid || ' ' || x.backend_start = u.session
          and x.beat_at < clock_timestamp() - x.silence_ms * interval '1 ms'
          and not exists (select 1 from pg_stat_get_activity(x.backend_pid) a
                          where a.pid = x.backend_pid
                            and (a.backend_start is null or a.backend_start = x.backend_start))
        order by x.worker_id for update of x skip locked))
  and w.state <> 'dead'
returning w.worker_id;
