-- Abort a turn by its snapshot. No row: this agent has none. Returns the status that the abort
-- found, in Genkit's words, the task's status now, and the worker that runs it (null: none).
-- $1 uuid snapshot  $2 text reason  $3 text tenant  $4 text agent
select f.status, nocturne.abort(t.task_id, $2::text, 'genkit', $3::text),
       (select l.worker_id from nocturne.lease l where l.task_id = t.task_id)
from nocturne.task t
cross join lateral (select nocturne.genkit_status(t.task_id) as status offset 0) f
where t.task_id = $1::uuid and t.tenant = $3::text and t.agent = $4::text;
