-- Declare workers dead whose time has run out. Returns their ids.
select nocturne.reap();
