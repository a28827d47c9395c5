-- For `nocturne doctor`: the server as it is now. Returns its clock in microseconds since 1970,
-- whether we came by TCP, connections in use, connections allowed, replication slots.
select (extract(epoch from clock_timestamp()) * 1000000)::bigint,
       inet_client_addr() is not null,
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       (select count(*) from pg_replication_slots);
