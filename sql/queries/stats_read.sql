-- Numbers for /metrics: where tasks stand, who leads, the counters of live workers.
select (select count(*) from nocturne.ready),
       (select count(*) from nocturne.due where kind in ('start', 'retry')),
       (select count(*) from nocturne.lease where not aborting),
       (select count(*) from nocturne.lease where aborting),
       (select coalesce(sum(cardinality(queue)), 0) from nocturne.session where queue <> '{}'),
       (select coalesce(json_object_agg(status, n), '{}') from
           (select status, count(*) as n from nocturne.done where status <> 'completed'
            group by status) x),
       (select greatest(reltuples, 0)::bigint from pg_class
        where oid = 'nocturne.done'::regclass),
       (select coalesce(json_agg(json_build_object('worker', w.name, 'state', w.state,
                                   'slots', w.slots, 'stats', coalesce(s.stats, w.stats))), '[]')
        from nocturne.worker w left join nocturne.worker_stats s using (worker_id)
        where w.state <> 'dead' and w.expires_at > clock_timestamp()),
       (select count(*) from nocturne.leader where expires_at > clock_timestamp()),
       (select count(*) from nocturne.done d where d.error ->> 'code' = 'QUARANTINED'
          and not exists (select 1 from nocturne.retry r where r.task_id = d.task_id));
