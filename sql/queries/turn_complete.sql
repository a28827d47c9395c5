-- End many turns. For each whose lease still carries the epoch, and which no abort has claimed:
-- the lease goes; last events, done, attempt and snapshot come; the session moves on and its next
-- task is ready. Returns the tasks ended, each with the number of tasks made ready by the whole
-- statement; for the others ask turn_fate. Sent twice, changes nothing. A turn whose lease or
-- session somebody holds locked is skipped, to be sent again: submit() and abort() are called
-- inside transactions of users, and one of them must not stop all turns of a worker.
-- $1 bigint worker_id      $2 uuid[] tasks        $3 bigint[] epochs     $4 text[] statuses
-- $5 text[] finish reasons $6 text[] output       $7 text[] usage        $8 text[] error
-- $9 text[] abort          $10 text[] interrupts  $11 bigint[] last_seq  $12 text[] tenants
-- $13 text[] sessions      $14 text[] messages (null: no snapshot)       $15 text[] custom
-- $16 text[] artifact references  $17 uuid[] parents  $18 int[] depths
-- $19 bool[] becomes the head of its session   $20 text[] first start (timestamptz or null)
-- $21 bigint[] seq_from    $22 int[] counts       $23 bigint[] at_ms     $24 text[] last events
-- $25 text  worker's name
-- The laterals with `limit 1` are probes of an index each, and the series makes the planner expect
-- many rows, so that what follows is never a loop over a loop, whatever it knows of the tables.
-- `+ 0`: not by the index of the worker.
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
), k as materialized (
    select u.*, x.*, s.*
    from rows from (unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[],
             $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[],
             $13::text[], $14::text[], $15::text[], $16::text[], $17::uuid[], $18::int[],
             $19::bool[], $20::text[], $21::bigint[], $22::int[], $23::bigint[], $24::text[]),
             generate_series(1, cardinality($2::uuid[])))
        as u(task_id, epoch, status, finish_reason, output, usage, error, abort, interrupts,
             last_seq, tenant, session_id, messages, custom, artifacts, parent_id, depth, head,
             started_at, seq_from, count, at_ms, events, n)
    cross join lateral (
        select y.ctid as place, y.aborting, y.claimed_at from nocturne.lease y
        where y.task_id = u.task_id and y.epoch = u.epoch and y.worker_id + 0 = $1::bigint
          and (not y.aborting or u.status in ('aborted', 'expired')) and exists (select 1 from me)
        limit 1 for update skip locked) x
    left join lateral (
        select true as known, y.running as was, y.queue[1] as next from nocturne.session y
        where y.tenant = u.tenant and y.session_id = u.session_id
        limit 1 for update skip locked) s on true
    where s.known or (select true from nocturne.session y where y.tenant = u.tenant
                      and y.session_id = u.session_id limit 1) is null
), l as (
    delete from nocturne.lease x where x.ctid = any(array(select k.place from k))
    returning x.task_id
), v as (
    select k.* from k join l using (task_id)
), e as (
    insert into nocturne.chunk (task_id, epoch, seq_from, count, at_ms, events)
    select task_id, epoch, seq_from, count, at_ms, events from v
), d as (
    insert into nocturne.done (task_id, epoch, status, finish_reason, output, usage, error, abort,
                               interrupts, last_seq, started_at)
    select task_id, epoch, status, finish_reason, output::json, usage::json, error::json,
           abort::json, interrupts::json, last_seq,
           least(coalesce(started_at::timestamptz, claimed_at), claimed_at)
    from v
), a as (
    insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome, error)
    select task_id, epoch, $25::text, claimed_at, status, error::json from v
), p as (
    insert into nocturne.snapshot (task_id, parent_id, epoch, depth, messages, custom, artifacts)
    select task_id, parent_id, epoch, depth, messages::json, custom::json, artifacts::json
    from v where messages is not null
), c as ( -- abort() marks the lease when it writes one; a lease after a hand-back has no mark
    delete from nocturne.control k
    where k.task_id = any(array(select v.task_id from v
                                where v.aborting or v.status in ('aborted', 'expired')))
), o as ( -- branches of one session may end together
    select tenant, session_id, bool_or(task_id = was) as moves,
           max(case when head then task_id::text end)::uuid as head
    from v where known group by tenant, session_id
), h as (
    update nocturne.session s set
        head = case when o.head is not null and (s.head is null or o.head > s.head) then o.head
                    else s.head end,
        running = case when o.moves then s.queue[1] else s.running end,
        queue = case when o.moves then s.queue[2:] else s.queue end,
        updated_at = clock_timestamp()
    from o where s.tenant = o.tenant and s.session_id = o.session_id
), r as (
    insert into nocturne.ready (priority, task_id)
    select nocturne.task_priority(v.next), v.next from v
    where v.next is not null and v.task_id = v.was
    returning 1
)
select v.task_id, (select count(*) from r) from v;
