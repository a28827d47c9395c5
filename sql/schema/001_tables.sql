-- The tables of Nocturne. Hot ones are narrow; what grows is append-only. No enum types, no
-- triggers, no foreign keys between hot tables (design, §4). The schema itself and its migration
-- table are made by `nocturne migrate`.

-- UUIDv7 (RFC 9562): milliseconds, then 12 bits of the microsecond so that ids of one process
-- sort in creation order, then random bits. By the clock of the database alone.
create function nocturne.uuid7() returns uuid language sql volatile parallel safe as $$
    select encode(overlay(uuid_send(gen_random_uuid())
                          placing int8send(((us / 1000) << 16) | 28672 | ((us % 1000) * 4096 / 1000))
                          from 1 for 8), 'hex')::uuid
    from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as us) t
$$;

-- The smallest UUIDv7 of a moment: a bound for ranges over ids.
create function nocturne.uuid7_floor(at timestamptz) returns uuid language sql immutable as $$
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0')
            || '70008000000000000000')::uuid
$$;

create table nocturne.agent (
    tenant       text not null default 'default',
    name         text not null,
    revision     int not null,             -- the newest; earlier ones stay for running tasks
    managed      text not null check (managed in ('server', 'client')), -- who keeps the state
    max_attempts smallint not null,
    deleted_at   timestamptz,
    updated_at   timestamptz not null default clock_timestamp(),
    primary key (tenant, name)
);

create table nocturne.agent_revision (
    tenant      text not null,
    name        text not null,
    revision    int not null,
    definition  json not null,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (tenant, name, revision)
);

-- What was asked for. Immutable.
create table nocturne.task (
    task_id      uuid primary key,
    tenant       text not null,
    agent        text not null,
    revision     int not null,
    session_id   text not null,
    snapshot_id  uuid,          -- the parent named by the client: a branch; null: the session's head
    priority     smallint not null, -- 0..9, smaller runs first
    max_attempts smallint not null,
    input        json not null,
    options      json,          -- resume, state: see lib/task.h
    metadata     json,
    run_at       timestamptz,
    deadline     timestamptz,
    created_at   timestamptz not null
);
create index task_session on nocturne.task (session_id, task_id);
create index task_agent on nocturne.task (agent, task_id);

-- Runnable now. Rows are inserted and deleted, never updated, so claims stay cheap.
create table nocturne.ready (
    shard    smallint not null default 0,
    priority smallint not null,
    seq      bigint generated always as identity,
    task_id  uuid not null,
    fails    smallint not null default 0, -- attempts charged so far
    crashes  smallint not null default 0, -- workers that died with it
    primary key (shard, priority, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0);
create unique index ready_task on nocturne.ready (task_id);

-- Runnable later: 'start' has not been queued yet, 'retry' waits for its next attempt and keeps
-- its place in the session, 'deadline' ends what is not terminal by then.
create table nocturne.due (
    at       timestamptz not null,
    task_id  uuid not null,
    kind     text not null check (kind in ('start', 'retry', 'deadline')),
    fails    smallint not null default 0,
    crashes  smallint not null default 0,
    primary key (at, task_id, kind)
);
create index due_task on nocturne.due (task_id);

create table nocturne.session (
    tenant     text not null,
    session_id text not null,
    agent      text not null,
    head       uuid,          -- newest snapshot that a next turn continues
    running    uuid,          -- the one task that is ready, leased or waiting for a retry
    queue      uuid[] not null default '{}', -- tasks behind it, in order
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    primary key (tenant, session_id)
) with (fillfactor = 50);
-- Only sessions that somebody waits in: their `queue` changes, the others' updates stay HOT.
create index session_waiting on nocturne.session (session_id) where queue <> '{}';

-- One row per process incarnation; an id is never used again.
create table nocturne.worker (
    worker_id  bigint generated always as identity primary key,
    name       text not null,  -- host:pid, for people
    version    text not null,
    state      text not null default 'live' check (state in ('live', 'draining', 'dead')),
    slots      int not null,
    stats      json,           -- counters for /metrics, as of the last heartbeat
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null
) with (fillfactor = 20);

create sequence nocturne.epoch cache 1;

-- task -> who runs it. No heartbeat column: death is decided on the worker's row.
create table nocturne.lease (
    task_id    uuid primary key,
    epoch      bigint not null,
    worker_id  bigint not null,
    priority   smallint not null,
    fails      smallint not null,
    crashes    smallint not null,
    aborting   boolean not null default false, -- set by abort(): completion as anything else fails
    claimed_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create index lease_worker on nocturne.lease (worker_id);

-- Durable requests to a running turn. They ride on the answer to the heartbeat.
create table nocturne.control (
    task_id    uuid not null,
    kind       text not null check (kind in ('abort')),
    status     text not null default 'aborted' check (status in ('aborted', 'expired')),
    reason     text,
    actor      text,
    created_at timestamptz not null default clock_timestamp(),
    primary key (task_id, kind)
);

-- One model call of a turn: the unit that is never paid twice.
create table nocturne.step (
    task_id    uuid not null,
    step       int not null,   -- from 1
    epoch      bigint not null,
    message    json not null,  -- the assistant's message
    finish     text not null,  -- finish reason of the model
    usage      json,
    last_seq   bigint not null, -- its last event: what a takeover keeps
    created_at timestamptz not null default clock_timestamp(),
    primary key (task_id, step)
);

-- Ledger of tool calls: claimed before the tool runs, settled with its event.
create table nocturne.tool_call (
    task_id         uuid not null,
    step            int not null,
    idx             int not null,   -- place in the step, from 0
    call_id         text not null,  -- as the model named it
    epoch           bigint not null,
    name            text not null,
    status          text not null check (status in ('claimed', 'done', 'failed', 'unknown')),
    result          json,           -- what the model is told
    seq             bigint,         -- of the event that settled it
    started_at      timestamptz not null default clock_timestamp(),
    ended_at        timestamptz,
    primary key (task_id, step, idx)
);

-- Consecutive events that a worker flushed at once. `events` holds one line per event, in order:
-- milliseconds since `at_ms`, a space, the event as JSON without seq and at.
-- Partitioned by time through the id: a task's rows share the partition of its creation day.
create table nocturne.chunk (
    task_id  uuid not null,
    seq_from bigint not null,
    epoch    bigint not null,
    count    int not null,
    at_ms    bigint not null,  -- UTC, milliseconds since 1970
    events   text not null,
    primary key (task_id, seq_from)
) partition by range (task_id);
create table nocturne.chunk_default partition of nocturne.chunk default;

-- Session state after a turn: its new messages only; every 16th holds the whole conversation.
create table nocturne.snapshot (
    task_id   uuid primary key,
    parent_id uuid,
    epoch     bigint not null,
    depth     smallint not null,  -- rows to the last whole copy; 0: this is one
    messages  json not null,
    custom    json,
    artifacts json               -- [{"name","task_id"}]: the content is in the artifact table
);

create table nocturne.artifact (
    task_id uuid not null,
    name    text not null,
    content json not null,
    primary key (task_id, name)
);

-- Terminal, write-once.
create table nocturne.done (
    task_id       uuid primary key,
    epoch         bigint not null,  -- 0: it never ran
    status        text not null
                  check (status in ('completed', 'incomplete', 'failed', 'aborted', 'expired')),
    finish_reason text,
    output        json,
    usage         json,
    error         json,
    abort         json,
    interrupts    json,
    last_seq      bigint not null,
    started_at    timestamptz,
    finished_at   timestamptz not null default clock_timestamp()
);
create index done_unusual on nocturne.done (status, task_id) where status <> 'completed';

create table nocturne.attempt (
    task_id    uuid not null,
    epoch      bigint not null,
    worker     text not null,
    started_at timestamptz not null,
    ended_at   timestamptz not null default clock_timestamp(),
    outcome    text not null,  -- completed, incomplete, failed, aborted, expired, retry, released, lost
    error      json,
    primary key (task_id, epoch)
);

create table nocturne.idempotency (
    tenant      text not null,
    key         text not null,
    task_id     uuid not null,
    fingerprint bytea not null,
    expires_at  timestamptz not null,
    primary key (tenant, key)
);
create index idempotency_expires on nocturne.idempotency (expires_at);

-- Who is the leading scheduler. A row with a time, never a session advisory lock.
create table nocturne.leader (
    name       text primary key,
    holder     text not null,
    term       bigint not null,
    expires_at timestamptz not null
);
