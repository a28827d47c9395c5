-- Submit one turn as task_submit_plain.sql does, when it comes alone: who waits for it pays for each
-- node of the plan, for between two rare submits all that it touches has left the caches. No row:
-- ask task_submit.sql. With $8 the hint that something is ready rides along.
-- $1 text agent  $2 bigint second half of the id  $3 text input (JSON)  $4 int priority
-- $5 text metadata (JSON) or null  $6 int max_attempts or null  $7 text tenant  $8 boolean hint
with c as materialized (
    select z.at, (extract(epoch from z.at) * 1000000)::bigint * 512 / 125 as tick
    from (select clock_timestamp() as at, pg_current_xact_id() as xid offset 0) z
    where z.xid is not null -- before the first seq of `ready`: turn_claim relies on that
), w as materialized (
    select c.at, x.revision, coalesce($6::int, x.max_attempts) as attempts,
           encode(int8send((c.tick >> 12 << 16) | 28672 | (c.tick & 4095))
                  || int8send($2::bigint), 'hex')::uuid as id
    from c cross join nocturne.agent x
    where x.tenant = $7::text and x.name = $1::text and x.deleted_at is null
      and $4::int between 0 and 9
), t as (
    insert into nocturne.task
    select w.id, $7::text, $1::text, w.revision, w.id::text, null, $4::int, w.attempts,
           $3::text::json, null, $5::text::json, null, null, w.at
    from w
), s as (
    insert into nocturne.session (tenant, session_id, agent, running, created_at, updated_at)
    select $7::text, w.id::text, $1::text, w.id, w.at, w.at from w
), r as (
    insert into nocturne.ready (priority, task_id, fresh) select $4::int, w.id, true from w
)
select w.id, nocturne.stamp(w.at),
       case when $8::boolean then pg_notify('nocturne', 'r') end
from w;
