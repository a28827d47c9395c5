-- Which task tries one again that had ended badly.

create table nocturne.retry (
    task_id uuid primary key,      -- that had ended
    next_id uuid not null unique,  -- that tries it again
    origin  uuid                   -- of the tools' idempotency keys; null: it begins anew
);

-- Few: those that took three workers with them, for doctor and for whoever lets them go.
create index done_quarantined on nocturne.done (task_id) where error ->> 'code' = 'QUARANTINED';
