-- Apply definitions, all or none. Returns name, revision, whether it changed.
-- $1 text tenant  $2 text[] names  $3 text[] definitions (JSON)  $4 text[] server | client
-- $5 int[] max_attempts
select name, revision, changed
from nocturne.agent_apply($1::text, $2::text[], $3::text[], $4::text[], $5::int[]);
