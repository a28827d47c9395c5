-- Lists of tasks, newest first. Two things have an order by id: what was asked for (`task`; of an agent, of a
-- session) and where tasks of a status stand (`done`, `lease`, `ready` ...). A page takes the next ids of the
-- one, asks which have the other, and if none has, goes on from there with the next ids of the other. So
-- it costs what the rarer of both has, by probes of indexes alone. Where two that are frequent hardly ever
-- meet, no index tells where: a page ends early after `p_misses` that were looked at in vain.

-- The next tasks before `p_at`; of an agent, of a session. Compared as rows, for a plan for any agent with
-- `agent = p_agent` may walk through all tasks in search of those of a rare one.
create or replace function nocturne.tasks_before(p_agent text, p_session text, p_at uuid, p_most int)
returns uuid[] language plpgsql stable as $$
begin
    if p_session is not null then
        return array(select t.task_id from nocturne.task t
                     where t.session_id >= p_session and (t.session_id, t.task_id) < (p_session, p_at)
                     order by t.session_id desc, t.task_id desc limit p_most);
    elsif p_agent is not null then
        return array(select t.task_id from nocturne.task t
                     where t.agent >= p_agent and (t.agent, t.task_id) < (p_agent, p_at)
                     order by t.agent desc, t.task_id desc limit p_most);
    end if;
    return array(select t.task_id from nocturne.task t where t.task_id < p_at
                 order by t.task_id desc limit p_most);
end $$;

-- The next tasks before `p_at` where those of this status stand, and maybe others: with a deadline, for
-- `due` holds that, too; of any end for `completed`, as nearly all are.
create or replace function nocturne.standing_before(p_status text, p_at uuid, p_most int)
returns uuid[] language plpgsql stable as $$
begin
    case p_status
    when 'completed' then
        return array(select d.task_id from nocturne.done d where d.task_id < p_at
                     order by d.task_id desc limit p_most);
    when 'running' then
        return array(select l.task_id from nocturne.lease l where l.task_id < p_at
                     order by l.task_id desc limit p_most);
    when 'aborting' then
        return array(select c.task_id from nocturne.control c where c.task_id < p_at
                     order by c.task_id desc limit p_most);
    when 'scheduled' then
        return array(select distinct on (u.task_id) u.task_id from nocturne.due u where u.task_id < p_at
                     order by u.task_id desc limit p_most);
    when 'queued' then
        return array((select r.task_id from nocturne.ready r where r.task_id < p_at
                      order by r.task_id desc limit p_most)
                     union all
                     (select q from nocturne.session s cross join unnest(s.queue) q
                      where s.queue <> '{}' and q < p_at order by q desc limit p_most)
                     order by 1 desc limit p_most);
    else
        return array(select d.task_id from nocturne.done d
                     where d.status <> 'completed' and d.status >= p_status
                       and (d.status, d.task_id) < (p_status, p_at)
                     order by d.status desc, d.task_id desc limit p_most);
    end case;
end $$;

-- Ids of a page, newest first, before `p_before`. Every filter may be null. `more`: there may be others
-- before this id, but `p_misses` were looked at in vain.
create or replace function nocturne.task_find(p_tenant text, p_status text, p_agent text, p_session text,
    p_before uuid, p_limit int, p_misses int, out ids uuid[], out more uuid) language plpgsql stable as $$
declare
    at uuid := coalesce(p_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    -- By turns, or where the status stands alone. What is queued is mostly new, and to find the others
    -- all queues of sessions have to be read.
    turns boolean := p_agent is not null or p_session is not null or p_status = 'queued';
    by_status boolean := p_status is not null and not turns; -- the next step
    over boolean := p_status in ('completed', 'incomplete', 'failed', 'aborted', 'expired');
    looked uuid[];
    hits uuid[];
    missed int := 0;
begin
    ids := '{}';
    if not exists (select from (select a.tenant, a.name from nocturne.agent a
                                where (a.tenant, a.name) >= (p_tenant, coalesce(p_agent, ''))
                                order by a.tenant, a.name limit 1) a
                   where a.tenant = p_tenant and (p_agent is null or a.name = p_agent)) then
        return; -- nobody could submit one
    end if;
    while cardinality(ids) < p_limit loop
        if missed >= p_misses then
            more := at;
            return;
        end if;
        looked := case when by_status then nocturne.standing_before(p_status, at,
                           case p_status when 'queued' then 256 else 64 end)
                       else nocturne.tasks_before(p_agent, p_session, at, 64) end;
        exit when looked = '{}';
        hits := array(
            select u.id from unnest(looked) with ordinality u(id, n)
            cross join lateral (
                select from nocturne.task t
                where t.task_id = u.id and t.tenant = p_tenant
                  and (p_agent is null or t.agent = p_agent)
                  and (p_session is null or t.session_id = p_session) limit 1) t
            where case when over then (select d.status from nocturne.done d where d.task_id = u.id) = p_status
                       else p_status is null or nocturne.task_status(u.id) = p_status end
            order by u.n limit p_limit - cardinality(ids));
        ids := ids || hits;
        missed := missed + cardinality(looked) - cardinality(hits);
        at := looked[cardinality(looked)];
        by_status := p_status is not null and (not turns or hits = '{}' and not by_status);
    end loop;
end $$;

-- Such tasks as the API shows them. What follows a page that ends early, for its bytes or for what was
-- looked at in vain, is before the id of its last row, which has no text.
create or replace function nocturne.task_list(p_tenant text, p_status text, p_agent text, p_session text,
    p_before uuid, p_limit int, p_bytes bigint, p_misses int) returns table (task_id uuid, task text)
language plpgsql stable as $$
declare
    found_ids uuid[];
    more uuid;
    shown int := 0;
begin
    select f.ids, f.more into found_ids, more
    from nocturne.task_find(p_tenant, p_status, p_agent, p_session, p_before, p_limit, p_misses) f;
    for task_id, task in
        select found_ids[j.place], j.task from nocturne.tasks_json(found_ids, p_tenant, p_bytes) j
        order by j.place
    loop
        shown := shown + 1;
        return next;
    end loop;
    if shown < cardinality(found_ids) then
        more := found_ids[shown];
    end if;
    if more is not null then
        task_id := more;
        task := null;
        return next;
    end if;
end $$;

-- For apis of the previous release, which bear no empty page that is followed by another.
create or replace function nocturne.task_page(p_tenant text, p_status text, p_agent text, p_session text,
    p_before uuid, p_limit int, p_bytes bigint) returns table (task_id uuid, task text)
language plpgsql stable as $$
begin
    return query select l.task_id, l.task
    from nocturne.task_list(p_tenant, p_status, p_agent, p_session, p_before, p_limit, p_bytes, 2000000000) l;
end $$;
