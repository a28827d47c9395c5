-- Long values are compressed by lz4, where the server was built with it (Debian's is). A turn that ends
-- stores its text in four rows; by pglz, the default, that is 0.1 ms of PostgreSQL for every 4 KB, and
-- a thousand ends at once held up the events of all other turns by 0.4 s. What is stored is read as
-- it is, whichever compressed it.
do $$
declare
    col record;
begin
    -- partitions do not follow their table, those to come do
    for col in select a.attrelid::regclass as name, a.attname
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'nocturne'::regnamespace and c.relkind in ('r', 'p')
          and a.attnum > 0 and not a.attisdropped and a.atttypid in ('json'::regtype, 'text'::regtype)
    loop
        execute format('alter table %s alter column %I set compression lz4', col.name, col.attname);
    end loop;
exception when feature_not_supported then
    raise notice 'this server has no lz4: long values are compressed by pglz';
end
$$;
