-- Make runnable what is due. Returns how many rows moved, and the milliseconds to the next one.
-- $1 int most rows
select nocturne.release_due($1::int),
       (select greatest(0, extract(epoch from min(d.at) - clock_timestamp()) * 1000)::bigint
        from nocturne.due d);
