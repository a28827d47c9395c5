-- $1 int[] version of this program  $2 text checksum of its functions
insert into nocturne.functions (program, checksum) values ($1::int[], $2::text)
on conflict (only_row) do update
set program = excluded.program, checksum = excluded.checksum, applied_at = now();
