-- $1 int version  $2 text name  $3 text checksum
insert into nocturne.migration (version, name, checksum) values ($1::int, $2::text, $3::text);
