-- For `nocturne doctor`: hot tables that VACUUM does not keep up with. Returns table, live rows,
-- dead rows, seconds since the last vacuum (null: never).
select relname, n_live_tup, n_dead_tup,
       extract(epoch from clock_timestamp() - greatest(last_vacuum, last_autovacuum))::bigint
from pg_stat_user_tables
where schemaname = 'nocturne' and n_dead_tup > 50000 and n_dead_tup > 5 * n_live_tup
order by n_dead_tup desc limit 5;
