-- What the Genkit wire asks of an agent. No row: there is none.
-- $1 text tenant  $2 text name
select r.definition ->> 'kind' = 'llm', a.managed = 'client',
       r.definition ->> 'on_disconnect' is distinct from 'continue',
       coalesce(r.definition ->> 'on_busy', 'enqueue')
from nocturne.agent a
join nocturne.agent_revision r
  on r.tenant = a.tenant and r.name = a.name and r.revision = a.revision
where a.tenant = $1::text and a.name = $2::text and a.deleted_at is null;
