-- Which backend serves the session of a worker, where hints come in and heartbeats go out: its end
-- is the first that others see of a worker's death. Null: not known, or not its own (a pooler's).

alter table nocturne.worker
    add column backend_pid int,
    add column backend_start timestamptz,
    add column silence_ms int; -- without a beat for so long and without its backend it is dead
