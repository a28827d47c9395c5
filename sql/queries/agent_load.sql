-- One revision of an agent's definition. No row: there is none.
-- $1 text tenant  $2 text name  $3 int revision
select definition from nocturne.agent_revision
where tenant = $1::text and name = $2::text and revision = $3::int;
