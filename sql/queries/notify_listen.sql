-- Hints from the other processes: 'r' something is ready, 'c:TASK' events, 'd:TASK' terminal,
-- 'a:WORKER' a control for a turn of that worker.
listen nocturne;
