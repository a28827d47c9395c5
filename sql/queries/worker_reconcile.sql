-- Hand back leases of this worker that it does not know of: the answer to a claim was lost.
-- Only with no claim in flight. Returns the tasks; no attempt is charged.
-- $1 bigint worker_id
-- $2 uuid[] tasks it runs
with lost as (
    delete from nocturne.lease l
    where l.worker_id = $1::bigint and l.task_id <> all($2::uuid[])
    returning l.*
), back as (
    insert into nocturne.ready (priority, task_id, fails, crashes)
    select priority, task_id, fails, crashes from lost
)
select task_id from lost;
