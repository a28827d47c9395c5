-- Hand back leases of this worker that it does not know of: the answer to a claim was lost.
-- Only with no claim in flight. Returns the tasks; no attempt is charged. Executed late, when the
-- connection it was sent on is long given up, it must not take what was claimed since: $3.
-- $1 bigint worker_id
-- $2 uuid[] tasks it runs
-- $3 bigint newest epoch it may hand back
with lost as (
    delete from nocturne.lease x
    where x.task_id = any(array(
        select l.task_id from nocturne.lease l
        where l.worker_id = $1::bigint and l.epoch <= $3::bigint
          and not exists (select 1 from unnest($2::uuid[]) known where known = l.task_id)
        for update of l skip locked))
    returning x.*
), attempts as (
    insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome)
    select l.task_id, l.epoch, w.name, l.claimed_at, 'released'
    from lost l join nocturne.worker w using (worker_id)
), back as (
    insert into nocturne.ready (priority, task_id, fails, crashes)
    select priority, task_id, fails, crashes from lost
)
select task_id from lost;
