-- What became of turns whose completion or release was not accepted, or whose answer was lost.
-- Returns for each: 'ended' (done has the epoch), 'aborting' (finish as aborted), 'leased' (send
-- again), or 'gone' (another epoch has it: drop it).
-- $1 uuid[] tasks  $2 bigint[] epochs
select u.task_id,
       case when d.epoch = u.epoch then 'ended'
            when l.epoch = u.epoch and l.aborting then 'aborting'
            when l.epoch = u.epoch then 'leased'
            else 'gone' end,
       json_build_object('status', c.status, 'reason', c.reason, 'actor', c.actor,
           'age_ms', (extract(epoch from clock_timestamp() - c.created_at) * 1000)::bigint)
from unnest($1::uuid[], $2::bigint[]) as u(task_id, epoch)
left join nocturne.done d on d.task_id = u.task_id
left join nocturne.lease l on l.task_id = u.task_id
left join nocturne.control c on c.task_id = u.task_id;
