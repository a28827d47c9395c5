-- End many turns. For each whose lease still carries the epoch, and which no abort has claimed:
-- the lease goes; last events, done and snapshot come; the session moves on and its next task is
-- ready. Returns the tasks ended, each with the number of tasks made ready by the whole statement;
-- for the others ask turn_fate. Sent twice, changes nothing. A turn whose lease or session somebody
-- holds locked is skipped, to be sent again: submit() and abort() are called inside transactions of
-- users, and one of them must not stop all turns of a worker.
-- A lock before each write is a tenth of the time and of the WAL, and hardly ever does somebody else
-- want these rows. So the first time rows are looked at ($26 false): what is locked shows in `xmax`.
-- Who comes between the look and the write is waited for 50 ms; then all of this is sent once more,
-- with locks ($26 true), as is what was skipped. What happened meanwhile is seen by the conditions
-- on the newest version of the row: `aborting` of the lease, `queue` of the session.
-- $1 bigint worker_id      $2 uuid[] tasks        $3 bigint[] epochs     $4 text[] statuses
-- $5 text[] finish reasons $6 text[] output       $7 text[] usage        $8 text[] error
-- $9 text[] abort          $10 text[] interrupts  $11 bigint[] last_seq  $12 text[] tenants
-- $13 text[] sessions      $14 text[] messages (null: no snapshot)       $15 text[] custom
-- $16 text[] artifact references  $17 uuid[] parents  $18 int[] depths
-- $19 bool[] becomes the head of its session   $20 text[] first start (timestamptz or null)
-- $21 bigint[] seq_from    $22 int[] counts       $23 bigint[] at_ms     $24 text[] last events
-- $25 text  worker's name  $26 bool lock first
-- An only attempt stands in done, see the view nocturne.attempts.
-- The arrays are unnested in a select list, which needs no tuplestore each. The laterals with `limit 1`
-- are probes of an index each, and the series makes the planner expect many rows, so that what
-- follows is never a loop over a loop, whatever it knows of the tables. `+ 0`: not by the index of
-- the worker.
with alive as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
), me as materialized (
    select set_config('lock_timeout', case when $26::bool then current_setting('lock_timeout')
                                      else '50ms' end, true) from alive
), k as materialized (
    select u.*, x.*, s.*
    from (select unnest($2::uuid[]) as task_id, unnest($3::bigint[]) as epoch,
                 unnest($4::text[]) as status, unnest($5::text[]) as finish_reason,
                 unnest($6::text[]) as output, unnest($7::text[]) as usage,
                 unnest($8::text[]) as error, unnest($9::text[]) as abort,
                 unnest($10::text[]) as interrupts, unnest($11::bigint[]) as last_seq,
                 unnest($12::text[]) as tenant, unnest($13::text[]) as session_id,
                 unnest($14::text[]) as messages, unnest($15::text[]) as custom,
                 unnest($16::text[]) as artifacts, unnest($17::uuid[]) as parent_id,
                 unnest($18::int[]) as depth, unnest($19::bool[]) as head,
                 unnest($20::text[]) as started_at, unnest($21::bigint[]) as seq_from,
                 unnest($22::int[]) as count, unnest($23::bigint[]) as at_ms,
                 unnest($24::text[]) as events, generate_series(1, cardinality($2::uuid[]))) u
    cross join lateral (
        (select y.ctid as place, y.aborting, y.claimed_at from nocturne.lease y
         where not $26::bool and y.task_id = u.task_id and y.epoch = u.epoch
           and y.worker_id + 0 = $1::bigint and exists (select 1 from me)
           and (not y.aborting or u.status in ('aborted', 'expired'))
           and not nocturne.is_held(y.xmax)
         limit 1)
        union all
        select * from (
            select y.ctid, y.aborting, y.claimed_at from nocturne.lease y
            where $26::bool and y.task_id = u.task_id and y.epoch = u.epoch
              and y.worker_id + 0 = $1::bigint and exists (select 1 from me)
              and (not y.aborting or u.status in ('aborted', 'expired'))
            limit 1 for update skip locked) locked) x
    left join lateral (
        (select not nocturne.is_held(y.xmax) as known, y.running as was from nocturne.session y
         where not $26::bool and y.tenant = u.tenant and y.session_id = u.session_id limit 1)
        union all
        select * from (
            select true, y.running from nocturne.session y
            where $26::bool and y.tenant = u.tenant and y.session_id = u.session_id
            limit 1 for update skip locked) locked) s on true
    where s.known or (s.known is null and (
        select true from nocturne.session y where y.tenant = u.tenant
          and y.session_id = u.session_id limit 1) is null)
), l as (
    delete from nocturne.lease x
    where x.ctid = any(array(select k.place from k))
      and (not x.aborting
           or x.task_id = any(array(select k.task_id from k where k.status in ('aborted', 'expired'))))
    returning x.task_id
), v as (
    select k.* from k join l using (task_id)
), e as (
    insert into nocturne.chunk (task_id, epoch, seq_from, count, at_ms, events)
    select task_id, epoch, seq_from, count, at_ms, events from v
), d as (
    insert into nocturne.done (task_id, epoch, status, finish_reason, output, usage, error, abort,
                               interrupts, last_seq, started_at, worker)
    select task_id, epoch, status, finish_reason, output::json, usage::json, error::json,
           abort::json, interrupts::json, last_seq,
           least(coalesce(started_at::timestamptz, claimed_at), claimed_at),
           case when started_at is null then $25::text end
    from v
), a as (
    insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome, error)
    select task_id, epoch, $25::text, claimed_at, status, error::json from v
    where started_at is not null
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
    returning o.moves, s.running as next
), r as (
    insert into nocturne.ready (priority, task_id)
    select nocturne.task_priority(h.next), h.next from h where h.moves and h.next is not null
    returning 1
)
select v.task_id, (select count(*) from r) from v;
