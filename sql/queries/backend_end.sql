-- End the sessions of our own daemons, of this role on this database, whose client has taken no
-- answer for long: it is stopped, or gone without a word. Such a session holds its transaction open,
-- and with it the horizon of vacuum, until TCP gives up, which the kernel of a stopped process never
-- does. One that delivers hints to a listener has a transaction too, but no query. Returns process
-- id, program, and the age of the transaction in milliseconds; not those that were gone meanwhile.
-- $1 bigint how old such a transaction may become, in milliseconds
with stuck as materialized (
    select a.pid, a.application_name as program,
           (extract(epoch from clock_timestamp() - a.xact_start) * 1000)::bigint as age_ms
    from pg_stat_get_activity(null) a
    where a.wait_event = 'ClientWrite' and a.application_name like 'nocturne-%'
      and a.usesysid = quote_ident(current_user)::regrole
      and a.datid = (select d.oid from pg_database d where d.datname = current_database())
      and a.xact_start < clock_timestamp() - $1::bigint * interval '1 ms'
)
select pid, program, age_ms from stuck where pg_terminate_backend(pid);
