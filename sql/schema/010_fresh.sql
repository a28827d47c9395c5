-- `fresh`: nothing was there before this turn, no conversation, no attempt, so that its row in task is all
-- there is to know, and the claim tells it.
alter table nocturne.ready add column fresh boolean not null default false;
