-- For `nocturne doctor`: who is alive, by the database's clock. Returns live workers, their slots,
-- draining workers, worker rows that expired and were not reaped, holder of the leader's row (null:
-- nobody leads), seconds it is valid for, tasks that are ready, part of the epoch sequence used.
select (select count(*) from nocturne.worker
        where state = 'live' and expires_at > clock_timestamp()),
       (select coalesce(sum(slots), 0) from nocturne.worker
        where state = 'live' and expires_at > clock_timestamp()),
       (select count(*) from nocturne.worker
        where state = 'draining' and expires_at > clock_timestamp()),
       (select count(*) from nocturne.worker
        where state <> 'dead' and expires_at < clock_timestamp() - interval '20 seconds'),
       (select holder from nocturne.leader where expires_at > clock_timestamp() limit 1),
       (select extract(epoch from expires_at - clock_timestamp())::numeric(10, 1)
        from nocturne.leader where expires_at > clock_timestamp() limit 1),
       (select count(*) from nocturne.ready),
       (select (coalesce(last_value, 0)::float8 / max_value)::numeric(6, 4)
        from pg_sequences where schemaname = 'nocturne' and sequencename = 'epoch');
