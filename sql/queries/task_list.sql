-- Tasks newest first, as the API shows them. Every filter may be null. A page of more than 8 MiB
-- ends early, and one that looked at 2,000 tasks in vain: its last row is an id alone, before which the next begins.
-- $1 text tenant  $2 text status  $3 text agent  $4 text session  $5 uuid before  $6 int most rows
select task_id, task
from nocturne.task_list($1::text, $2::text, $3::text, $4::text, $5::uuid, $6::int, 8388608, 2000);
