-- What the Genkit wire keeps for itself; its functions are in sql/functions/genkit.sql.

alter table nocturne.worker add column beat_at timestamptz not null default clock_timestamp();

-- Streams of requests that never became a task: their frames, replayed as they were.
create table nocturne.genkit_stream (
    stream_id  uuid primary key,
    frames     text not null,
    created_at timestamptz not null default clock_timestamp()
);
