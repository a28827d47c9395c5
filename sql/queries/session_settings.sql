-- Settings of a connection of the daemons. All their statements are probes and walks of indexes,
-- planned once a connection: a plan made while a table is empty must do when it is full, so none
-- reads a whole table, and none is worth compiling.
select set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false),
       set_config('plan_cache_mode', 'force_generic_plan', false);
