-- Agents by name, after $2, as JSON text each (without the definition).
-- $1 text tenant  $2 text after ('' from the start)  $3 int most rows
select a.name, '{"name":' || to_json(a.name) || ',"revision":' || a.revision || ',"kind":'
       || to_json(r.definition ->> 'kind')
       || nocturne.member('description', r.definition ->> 'description')
       || ',"updated_at":"' || nocturne.stamp(a.updated_at) || '"}'
from nocturne.agent a
join nocturne.agent_revision r
  on r.tenant = a.tenant and r.name = a.name and r.revision = a.revision
where a.tenant = $1::text and a.name > $2::text and a.deleted_at is null
order by a.name limit $3::int;
