-- Let go of turns for another attempt later, charged: the lease goes, a due row comes.
-- A turn that is being aborted stays; one whose lease somebody holds locked is skipped, and sent
-- again. Returns the tasks let go.
-- $1 bigint worker_id  $2 uuid[] tasks  $3 bigint[] epochs  $4 bigint[] delays in milliseconds
-- $5 text[] errors (JSON)   $6 text worker's name
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
), u as materialized (
    select * from unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::text[])
    as u(task_id, epoch, delay_ms, error)
), l as (
    delete from nocturne.lease x
    where x.task_id = any(array(
        select y.task_id from u cross join lateral (
            select z.task_id from nocturne.lease z
            where z.task_id = u.task_id and z.epoch = u.epoch and z.worker_id + 0 = $1::bigint
              and not z.aborting and exists (select 1 from me)
            limit 1 for update skip locked) y))
    returning x.*
), a as (
    insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome, error)
    select l.task_id, l.epoch, $6::text, l.claimed_at, 'retry', u.error::json
    from l join u using (task_id)
), d as (
    insert into nocturne.due (at, task_id, kind, fails, crashes)
    select clock_timestamp() + u.delay_ms * interval '1 ms', l.task_id, 'retry', l.fails + 1,
           l.crashes
    from l join u using (task_id)
)
select task_id from l;
