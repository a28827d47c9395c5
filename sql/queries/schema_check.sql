-- How new is the schema: the newest migration, and whose functions are there, as new as this
-- program's or not? And which process serves us. Asked when a connection opens.
-- $1 text version of this program
select (select coalesce(max(version), 0) from nocturne.migration),
       array_to_string(f.program, '.'), f.program >= string_to_array($1::text, '.')::int[],
       pg_backend_pid()
from (values (1)) one left join nocturne.functions f on f.only_row;
