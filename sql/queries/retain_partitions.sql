-- Make the partitions of the days to come and drop those of days older than $1.
-- $1 bigint age in milliseconds
select nocturne.make_partitions(3),
       nocturne.drop_partitions(clock_timestamp() - $1::bigint * interval '1 ms');
