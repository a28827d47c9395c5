-- Which of the tasks $1 are terminal.
-- $1 uuid[] tasks
select d.task_id from nocturne.done d where d.task_id = any($1::uuid[]);
