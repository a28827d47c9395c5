-- Submit many turns of which each begins a session of its own, now, and has no options: what most
-- clients want, and cheap, because nothing of it can meet anybody else's row. Returns place from 1, id
-- and time of those that were accepted; for the others (an unknown agent) ask task_submit.sql. The id
-- is also the session's.
-- $1 text[] names of agents  $2 int[] which of them, from 1
-- $3 bigint[] second halves of the ids: random but for the variant  $4 json[] inputs
-- $5 int[] priorities  $6 json[] metadata  $7 int[] max_attempts  $8 text tenant
-- $6 and $7 may be null, and their elements. Agents are probed once each, the time is taken once, ids
-- count on from it as in nocturne.uuid7(): a row then costs little beside the three inserts.
with c as materialized (
    select y.at, nocturne.stamp(y.at) as stamp,
           (extract(epoch from y.at) * 1000000)::bigint * 512 / 125 as tick
    from (select clock_timestamp() as at, pg_current_xact_id() as xid offset 0) y
    where y.xid is not null -- before the first seq of `ready`: turn_claim relies on that
), a as materialized (
    select array_agg(x.revision order by u.n) as revisions,
           array_agg(x.max_attempts order by u.n) as attempts
    from unnest($1::text[]) with ordinality u(name, n)
    left join lateral (
        select y.revision, y.max_attempts from nocturne.agent y
        where y.tenant = $8::text and y.name = u.name and y.deleted_at is null limit 1) x on true
), w as materialized (
    select u.n, u.input, u.priority, u.metadata, c.at, u.id, u.id::text as sid,
           ($1::text[])[u.agent] as agent, a.revisions[u.agent] as revision,
           coalesce(u.max_attempts, a.attempts[u.agent]) as attempts
    from c cross join a cross join ( -- unnested in a select list, which needs no tuplestore
        select u.*, encode(int8send(((c.tick + u.n) >> 12 << 16) | 28672 | ((c.tick + u.n) & 4095))
                           || int8send(u.tail), 'hex')::uuid as id
        from c cross join (
            select unnest($2::int[]) as agent, unnest($3::bigint[]) as tail,
                   unnest($4::json[]) as input, unnest($5::int[]) as priority,
                   unnest($6::json[]) as metadata, unnest($7::int[]) as max_attempts,
                   generate_series(1, cardinality($2::int[])) as n) u offset 0) u
    where a.revisions[u.agent] is not null and u.priority between 0 and 9
), t as (
    insert into nocturne.task
    select w.id, $8::text, w.agent, w.revision, w.sid, null, w.priority, w.attempts, w.input,
           null, w.metadata, null, null, w.at
    from w
), s as (
    insert into nocturne.session (tenant, session_id, agent, running, created_at, updated_at)
    select $8::text, w.sid, w.agent, w.id, w.at, w.at from w
), r as (
    insert into nocturne.ready (priority, task_id, fresh)
    select w.priority, w.id, true from w order by w.n
)
select w.n, w.id, c.stamp from w cross join c;
