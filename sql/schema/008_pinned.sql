-- What is looked up often must not be found by walking over rows that were deleted or updated before:
-- they stay as long as any old transaction does.

-- Turns of a worker that are on probation (turn_claim).
create index lease_suspect on nocturne.lease (worker_id) where crashes >= 2;

-- Counters for /metrics, as of the last heartbeat. All statements of a worker read its row in `worker`,
-- of which each beat leaves a version behind; without these ten times as many are on a page.
-- `worker.stats` is theirs who ran before this table was there.
create table nocturne.worker_stats (
    worker_id bigint primary key,
    stats     json not null
) with (fillfactor = 20);
