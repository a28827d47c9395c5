-- Append one chunk of events to each of many turns. Fenced: the worker's row is locked for
-- share, so its death and this write do not cross, and the lease must be its and
-- carry the epoch. `+ 0`: the lease is found by its task, never among all of its worker.
-- Unnested in a select list, which needs no tuplestore for each array.
-- Sent twice, the second time changes nothing. Returns the tasks whose chunk is there.
-- $1 bigint worker_id   $2 uuid[] tasks     $3 bigint[] epochs  $4 bigint[] seq_from
-- $5 int[]  counts      $6 bigint[] at_ms   $7 text[] events
with me as materialized (
    select 1 from nocturne.worker where worker_id = $1::bigint and state <> 'dead' for share
)
insert into nocturne.chunk as c (task_id, epoch, seq_from, count, at_ms, events)
select u.* from (select unnest($2::uuid[]) as task_id, unnest($3::bigint[]) as epoch,
                        unnest($4::bigint[]) as seq_from, unnest($5::int[]) as count,
                        unnest($6::bigint[]) as at_ms, unnest($7::text[]) as events) u
where exists (select 1 from me)
  and (select l.epoch from nocturne.lease l
       where l.task_id = u.task_id and l.worker_id + 0 = $1::bigint) = u.epoch
on conflict (task_id, seq_from) do update set epoch = c.epoch where c.epoch = excluded.epoch
returning task_id;
