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
-- limit: one probe of an index each, whatever a generic plan thinks of the arrays
left join lateral (select * from nocturne.done x where x.task_id = u.task_id limit 1) d on true
left join lateral (select * from nocturne.lease x where x.task_id = u.task_id limit 1) l on true
left join lateral (select * from nocturne.control x where x.task_id = u.task_id limit 1) c on true;
