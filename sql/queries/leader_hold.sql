-- Become or stay the leading scheduler. No row: another one leads.
-- $1 text holder  $2 bigint time to live in milliseconds
insert into nocturne.leader as l (name, holder, term, expires_at)
values ('scheduler', $1::text, 1, clock_timestamp() + $2::bigint * interval '1 ms')
on conflict (name) do update set
    holder = excluded.holder, expires_at = excluded.expires_at,
    term = case when l.holder = excluded.holder then l.term else l.term + 1 end
where l.holder = excluded.holder or l.expires_at < clock_timestamp()
returning term;
