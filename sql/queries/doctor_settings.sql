-- For `nocturne doctor`: server settings as this role has them. Returns name, setting in its base
-- unit, unit (empty when it has none), the same for people.
select name, setting, coalesce(unit, ''), current_setting(name)
from pg_settings
where name in ('server_version_num', 'fsync', 'full_page_writes', 'synchronous_commit',
               'autovacuum', 'idle_in_transaction_session_timeout', 'tcp_user_timeout',
               'statement_timeout', 'max_slot_wal_keep_size', 'wal_compression',
               'plan_cache_mode')
order by name;
