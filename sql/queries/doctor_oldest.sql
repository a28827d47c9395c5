-- For `nocturne doctor`: what keeps VACUUM from removing dead rows longest, of transactions,
-- prepared ones and replication slots. Returns kind, who, age in seconds (null: not known), age of
-- its snapshot in transactions. No row: nothing does.
select kind, who, seconds::bigint, xids
from (select 'transaction' as kind,
             'pid ' || pid || coalesce(' (' || nullif(application_name, '') || ')', '') as who,
             extract(epoch from clock_timestamp() - xact_start) as seconds,
             greatest(age(backend_xmin), age(backend_xid)) as xids
      from pg_stat_activity
      where pid <> pg_backend_pid() and backend_type = 'client backend' and xact_start is not null
      union all
      select 'prepared transaction', gid, extract(epoch from clock_timestamp() - prepared),
             age(transaction)
      from pg_prepared_xacts
      union all
      select 'replication slot', slot_name, null, greatest(age(xmin), age(catalog_xmin))
      from pg_replication_slots where xmin is not null or catalog_xmin is not null) x
order by seconds desc nulls last, xids desc nulls last limit 1;
