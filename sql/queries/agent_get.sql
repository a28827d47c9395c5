-- The newest revision of an agent as JSON text. No row: there is none.
-- $1 text tenant  $2 text name
select '{"name":' || to_json(a.name) || ',"revision":' || a.revision || ',"updated_at":"'
       || nocturne.stamp(a.updated_at) || '","definition":' || r.definition || '}'
from nocturne.agent a
join nocturne.agent_revision r
  on r.tenant = a.tenant and r.name = a.name and r.revision = a.revision
where a.tenant = $1::text and a.name = $2::text and a.deleted_at is null;
