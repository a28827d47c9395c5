-- What has been applied, in order.
select version, name, checksum from nocturne.migration order by version;
