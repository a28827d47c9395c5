-- Make runnable what is due. Returns how many rows moved, and the milliseconds to the next one,
-- null when there is none (greatest() alone would make 0 of that null).
-- $1 int most rows
select nocturne.release_due($1::int),
       (select case when min(d.at) is not null
                    then greatest(0, extract(epoch from min(d.at) - clock_timestamp()) * 1000)::bigint
               end
        from nocturne.due d);
