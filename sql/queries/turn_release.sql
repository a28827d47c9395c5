-- Hand turns back, uncharged: this worker is leaving. Returns the tasks handed back;
-- one whose lease somebody holds locked is skipped, and sent again.
-- $1 bigint worker_id  $2 uuid[] tasks  $3 bigint[] epochs  $4 text worker's name
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
), u as materialized (
    select * from unnest($2::uuid[], $3::bigint[]) as u(task_id, epoch)
), l as (
    delete from nocturne.lease x
    where x.task_id = any(array(
        select y.task_id from u cross join lateral (
            select z.task_id from nocturne.lease z
            where z.task_id = u.task_id and z.epoch = u.epoch and z.worker_id + 0 = $1::bigint
              and exists (select 1 from me)
            limit 1 for update skip locked) y))
    returning x.*
), a as (
    insert into nocturne.attempt (task_id, epoch, worker, started_at, outcome)
    select task_id, epoch, $4::text, claimed_at, 'released' from l
), r as (
    insert into nocturne.ready (priority, task_id, fails, crashes)
    select priority, task_id, fails, crashes from l
)
select task_id from l;
