-- Turns that two workers have died of start one at a time (turn_claim): found apart from the others.

create index ready_suspect on nocturne.ready (priority, seq) where crashes >= 2;
