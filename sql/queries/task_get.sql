-- Tasks as the API shows them, and whether they are terminal: by their place in $1 from 1, null where
-- there is none. Ends early behind 8 MiB; ask again for the others.
-- $1 uuid[] tasks  $2 text tenant
select place, task, terminal from nocturne.tasks_json($1::uuid[], $2::text, 8388608);
