-- One transaction a migration, one migrator at a time: who comes second waits, then sees what the
-- first has done. The lock ends with the transaction. Other locks are given up soon: everybody who
-- wants the table queues behind us while we wait.
begin;
set local statement_timeout = 0;
set local lock_timeout = 0;
set local client_min_messages = warning;
set local check_function_bodies = off; -- sql/functions is one text, in the order of the files' names
do $$
begin
    perform pg_advisory_xact_lock(hashtext('nocturne.migrate'));
    -- Looked up first: a role may own the schema without being allowed to create one.
    if to_regnamespace('nocturne') is null then
        create schema nocturne;
    end if;
    if to_regclass('nocturne.migration') is null then
        create table nocturne.migration (
            version    int primary key,
            name       text not null,
            checksum   text not null, -- SHA-256 of the migration's text, hexadecimal
            applied_at timestamptz not null default now()
        );
    end if;
    if to_regclass('nocturne.functions') is null then -- one row: sql/functions, as they stand here
        create table nocturne.functions (
            only_row   bool primary key default true check (only_row),
            program    int[] not null, -- version of the program that they came with
            checksum   text not null,
            applied_at timestamptz not null default now()
        );
    end if;
end $$;
set local lock_timeout = '2s';
