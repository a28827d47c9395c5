-- Give back leases of dead workers. Returns how many.
-- $1 int most rows
select nocturne.rescue($1::int);
