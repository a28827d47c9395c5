-- Settings of a connection of the daemons. All their statements are probes and walks of indexes,
-- planned once a connection: a plan made while a table is empty must do when it is full, so none
-- reads a whole table or sorts what an index has in order, and none is worth compiling. Nobody waits long for a lock: a flush that waits for a
-- table holds its worker's row locked, which the heartbeat must not wait for; it is sent again.
select set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('lock_timeout', '2s', false);
