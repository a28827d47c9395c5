-- Hint to the other processes. A statement of its own, after the data are committed.
-- $1 text[] payloads, at most 7999 bytes each
select pg_notify('nocturne', p) from unnest($1::text[]) p;
