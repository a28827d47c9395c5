-- Definitions of agents.

-- Apply definitions, all or none. An unchanged one keeps its revision.
create or replace function nocturne.agent_apply(p_tenant text, p_names text[], p_definitions text[],
    p_managed text[], p_max_attempts int[])
returns table (name text, revision int, changed boolean) language plpgsql as $$
declare
    old nocturne.agent;
    newest int;
begin
    perform pg_advisory_xact_lock(hashtext('nocturne.agent'), k.key)
    from (select distinct hashtext(p_tenant || '/' || n) as key from unnest(p_names) n order by 1) k;
    for i in 1 .. cardinality(p_names) loop
        name := p_names[i];
        select * into old from nocturne.agent a where a.tenant = p_tenant and a.name = p_names[i];
        newest := coalesce((select max(r.revision) from nocturne.agent_revision r
                            where r.tenant = p_tenant and r.name = p_names[i]), 0);
        changed := old.name is null or old.deleted_at is not null or not exists (
            select 1 from nocturne.agent_revision r
            where r.tenant = p_tenant and r.name = p_names[i] and r.revision = old.revision
              and r.definition::text = p_definitions[i]);
        revision := case when changed then newest + 1 else old.revision end;
        if changed then
            insert into nocturne.agent_revision (tenant, name, revision, definition)
            values (p_tenant, name, revision, p_definitions[i]::json);
            insert into nocturne.agent (tenant, name, revision, managed, max_attempts)
            values (p_tenant, name, revision, p_managed[i], p_max_attempts[i])
            on conflict on constraint agent_pkey do update set
                revision = excluded.revision, managed = excluded.managed,
                max_attempts = excluded.max_attempts, deleted_at = null,
                updated_at = clock_timestamp();
        end if;
        return next;
    end loop;
end $$;
