-- Turns that were started by a turn: an abort of the parent aborts them, too.

create table nocturne.child (
    parent  uuid not null,
    task_id uuid not null,
    primary key (parent, task_id)
);

-- 'abort': the parent was aborted (release_due). Valid for what is there, as it only widens.
alter table nocturne.due drop constraint due_kind_check,
    add constraint due_kind_check check (kind in ('start', 'retry', 'deadline', 'abort')) not valid;
