-- The chunks of many tasks after the events their subscribers have, oldest first.
-- $1 uuid[] tasks  $2 bigint[] seq already seen, one a task  $3 bool[] it ends a chunk, so that the
-- next begins right behind it: one probe instead of two      $4 int most rows a task
select c.task_id, c.seq_from, c.count, c.at_ms, c.events
from unnest($1::uuid[], $2::bigint[], $3::bool[]) as u(task_id, after, at_end)
cross join lateral (
    select x.* from nocturne.chunk x
    where x.task_id = u.task_id
      and x.seq_from >= case when u.at_end then u.after + 1
                             else coalesce((select y.seq_from from nocturne.chunk y
                                            where y.task_id = u.task_id and y.seq_from <= u.after + 1
                                            order by y.seq_from desc limit 1), 0) end
      and x.seq_from + x.count - 1 > u.after
    order by x.seq_from limit $4::int) c
order by c.task_id, c.seq_from;
