-- Keep the frames of a stream without a task for a day; drop older ones.
-- $1 uuid stream  $2 text frames
with gone as (
    delete from nocturne.genkit_stream s where s.stream_id = any(array(
        select y.stream_id from nocturne.genkit_stream y
        where y.stream_id < nocturne.uuid7_floor(now() - interval '1 day')
        order by y.stream_id limit 100 for update skip locked))
)
insert into nocturne.genkit_stream (stream_id, frames) values ($1::uuid, $2::text);
