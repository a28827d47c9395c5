-- Tasks newest first, as the API shows them. Every filter may be null.
-- $1 text tenant  $2 text status  $3 text agent  $4 text session  $5 uuid before  $6 int most rows
select id, nocturne.task_json(id, $1::text)
from nocturne.task_ids($1::text, $2::text, $3::text, $4::text, $5::uuid, $6::int) id;
