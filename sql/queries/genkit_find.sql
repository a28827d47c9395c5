-- A stream: the frames that were kept, or null and the task it belongs to, and whether that is a
-- turn in the foreground. No row: unknown.
-- $1 uuid stream  $2 text tenant  $3 text agent
select null::text as frames, t.options ->> 'foreground' is not null from nocturne.task t
where t.task_id = $1::uuid and t.tenant = $2::text and t.agent = $3::text
union all
select s.frames, false from nocturne.genkit_stream s where s.stream_id = $1::uuid;
