-- What the Genkit wire (api/wire/) shows of tasks: snapshots, outputs, errors, in Genkit's words.
-- A task is its snapshot and its stream: one id for all three.

-- Error codes -> gRPC status names, the only ones Genkit's clients know.
create or replace function nocturne.genkit_code(p_code text) returns text
language sql immutable as $$
    select case
        when p_code in ('INVALID_RESUME', 'INVALID_INPUT', 'INVALID_ARGUMENTS', 'MODEL_REJECTED',
                        'CONTEXT_OVERFLOW') then 'INVALID_ARGUMENT'
        when p_code in ('RATE_LIMITED', 'QUOTA_EXCEEDED', 'OUTPUT_TOO_LARGE')
            then 'RESOURCE_EXHAUSTED'
        when p_code in ('MODEL_TIMEOUT', 'TOOL_TIMEOUT', 'TURN_TIMEOUT') then 'DEADLINE_EXCEEDED'
        when p_code in ('MODEL_UNAVAILABLE', 'TOOL_UNAVAILABLE') then 'UNAVAILABLE'
        when p_code = 'MODEL_AUTH' then 'UNAUTHENTICATED'
        when p_code in ('UNKNOWN_TOOL', 'UNKNOWN_RESOURCE') then 'NOT_FOUND'
        when p_code = 'MAX_STEPS' then 'ABORTED'
        when p_code in ('CONTENT_FILTER', 'AGENT_UNUSABLE', 'NOT_RESUMABLE')
            then 'FAILED_PRECONDITION'
        when p_code in ('UNSTORABLE', 'UNREADABLE') then 'DATA_LOSS'
        else 'INTERNAL' end
$$;

-- What clients are told instead of a provider's own words, which may hold the request, the
-- prompt, a part of a key or the name of a host. Null: the message is ours.
create or replace function nocturne.genkit_plain(p_code text) returns text language sql immutable as $$
    select case p_code
        when 'MODEL_REJECTED' then 'the model has refused the request'
        when 'MODEL_UNAVAILABLE' then 'the model is not available'
        when 'MODEL_TIMEOUT' then 'the model did not answer in time'
        when 'MODEL_AUTH' then 'the model does not accept the credentials of this agent'
        when 'MODEL_GARBAGE' then 'the model''s answer cannot be read'
        when 'MODEL_TRUNCATED' then 'the model''s answer was cut off'
        when 'RATE_LIMITED' then 'the model is asked too often'
        when 'QUOTA_EXCEEDED' then 'the quota of the model is used up'
        when 'CONTEXT_OVERFLOW' then 'the conversation is too long for the model'
        when 'AGENT_UNUSABLE' then 'the agent cannot be used'
        when 'UNREADABLE' then 'what is stored for this turn cannot be read' end
$$;

-- {"status","message"}. In results the message starts with the status, as Genkit's do; to that of
-- an error frame the client adds it by itself.
create or replace function nocturne.genkit_error(p_error json, p_status text, p_frame boolean)
returns text language sql immutable as $$
    select '{"status":"' || s || '","message":'
        || to_json(case when p_frame then m else s || ': ' || m end) || '}'
    from (select case when p_error is not null then nocturne.genkit_code(p_error ->> 'code')
                      when p_status = 'expired' then 'DEADLINE_EXCEEDED'
                      when p_status = 'aborted' then 'CANCELLED'
                      else 'INTERNAL' end as s,
                 -- the first line: what follows may be a program's stack trace
                 coalesce(nocturne.genkit_plain(p_error ->> 'code'),
                          split_part(p_error ->> 'message', chr(10), 1),
                          'the turn was ' || p_status) as m) x
$$;

-- The status of a snapshot. A turn that is being aborted can end in no other way.
create or replace function nocturne.genkit_status(p_task uuid) returns text language sql stable as $$
    select case s when 'completed' then s when 'incomplete' then 'completed'
                  when 'failed' then s when 'aborted' then s when 'aborting' then 'aborted'
                  when 'expired' then s else 'pending' end
    from nocturne.task_status(p_task) s
$$;

create or replace function nocturne.genkit_finish(p_finish text, p_status text) returns text
language sql immutable as $$
    select case when p_status in ('failed', 'expired') then 'failed'
                when p_status = 'aborted' then 'aborted'
                when p_finish in ('stop', 'length', 'interrupted') then p_finish
                when p_finish = 'content_filter' then 'blocked'
                else 'other' end
$$;

-- The artifacts after the turn `p_task` as a JSON array.
create or replace function nocturne.genkit_artifacts(p_task uuid) returns text language sql stable as $$
    select '[' || coalesce(string_agg(f.content::text, ',' order by r.n), '') || ']'
    from nocturne.snapshot s
    cross join lateral json_array_elements(s.artifacts) with ordinality r(ref, n)
    cross join lateral (select x.content from nocturne.artifact x
                        where x.task_id = (r.ref ->> 'task_id')::uuid
                          and x.name = r.ref ->> 'name' limit 1) f
    where s.task_id = p_task
$$;

-- What a turn that has not ended adds to its parent's messages, each preceded by a comma: the
-- user's message, the steps that are committed, and the text that is being said.
create or replace function nocturne.genkit_partial(p_task uuid) returns text language sql stable as $$
    with told as (
        select t.input, t.options,
               coalesce((select max(s.last_seq) from nocturne.step s where s.task_id = p_task), 0)
                   as kept
        from nocturne.task t where t.task_id = p_task
    ), heard as (
        select e.seq, e.event ->> 'type' as type, e.event ->> 'text' as text
        from told, nocturne.task_events(p_task, told.kept) e
        where e.event ->> 'type' in ('content.delta', 'reasoning.delta', 'reset')
    ), said as (
        select string_agg(h.text, '' order by h.seq) filter (where h.type = 'reasoning.delta') as r,
               string_agg(h.text, '' order by h.seq) filter (where h.type = 'content.delta') as c
        from heard h
        where h.seq > coalesce((select max(x.seq) from heard x where x.type = 'reset'), 0)
    ), lines as (
        select 0 as n, 0 as half,
               case when json_typeof(input -> 'message') = 'object' then (input -> 'message')::text
                    else '{"role":"user","content":[{"text":' || input || '}]}' end as message
        from told where json_typeof(input) = 'string' or json_typeof(input -> 'message') = 'object'
        union all
        select s.step, 0, s.message::text from nocturne.step s where s.task_id = p_task
        union all
        select c.step, 1, '{"role":"tool","content":[' || string_agg(
                   '{"toolResponse":{"name":' || to_json(c.name) || ',"ref":' || to_json(c.call_id)
                   || ',"output":' || case when c.status = 'done' then c.result::text
                                           else '{"error":' || c.result || '}' end || '}}',
                   ',' order by c.idx) || ']}'
        from nocturne.tool_call c
        where c.task_id = p_task and c.status <> 'claimed' and c.result is not null
        group by c.step
        union all
        select 1000000, 0, '{"role":"model","content":['
               || coalesce('{"reasoning":' || to_json(r) || '}', '')
               || case when r is not null and c is not null then ',' else '' end
               || coalesce('{"text":' || to_json(c) || '}', '') || ']}'
        from said where r is not null or c is not null
    )
    select coalesce(string_agg(',' || message, '' order by n, half), '') from lines
$$;

-- {"sessionId","messages","custom"?,"artifacts"} after the turn, or as far as it has come.
create or replace function nocturne.genkit_state(p_task uuid, p_session text, p_parent uuid, p_ended boolean)
returns text language sql stable as $$
    select '{"sessionId":' || to_json(p_session) || ',"messages":'
        || case when p_ended then m
                when m = '[]' then '[' || substr(nocturne.genkit_partial(p_task), 2) || ']'
                else left(m, -1) || nocturne.genkit_partial(p_task) || ']' end
        || nocturne.member('custom', (select s.custom from nocturne.snapshot s
                                      where s.task_id = base))
        || ',"artifacts":' || nocturne.genkit_artifacts(base) || '}'
    from (select nocturne.messages_json(b) as m, b as base
          from (select case when p_ended then p_task else p_parent end as b) y) x
$$;

-- A task as Genkit's SessionSnapshot. Null: this agent has no such task.
create or replace function nocturne.genkit_snapshot(p_task uuid, p_tenant text, p_agent text)
returns text language sql stable as $$
    select '{"snapshotId":"' || t.task_id || '","sessionId":' || to_json(t.session_id)
        || nocturne.member('parentId', p.parent::text)
        || ',"createdAt":"' || nocturne.stamp(t.created_at)
        || '","updatedAt":"' || nocturne.stamp(coalesce(d.finished_at, t.created_at)) || '"'
        || case when d.task_id is null
                then nocturne.member('heartbeatAt', nocturne.stamp(greatest(w.beat_at, l.claimed_at, t.created_at)))
                else '' end
        || ',"status":"' || nocturne.genkit_status(t.task_id) || '"'
        || case when d.task_id is null or d.status = 'aborted' then '' -- an abort sets none
                else ',"finishReason":"' || nocturne.genkit_finish(d.finish_reason, d.status) || '"' end
        || case when d.status in ('failed', 'expired')
                then ',"error":' || nocturne.genkit_error(d.error, d.status, false) else '' end
        || ',"state":' || nocturne.genkit_state(
               case when d.task_id is not null and s.task_id is null then p.parent else t.task_id end,
               t.session_id, p.parent, d.task_id is not null) || '}'
    from nocturne.task t
    left join nocturne.done d on d.task_id = t.task_id
    left join nocturne.snapshot s on s.task_id = t.task_id
    left join nocturne.lease l on l.task_id = t.task_id
    left join nocturne.worker w on w.worker_id = l.worker_id
    left join nocturne.session z on z.tenant = t.tenant and z.session_id = t.session_id
    cross join lateral (select case when s.task_id is not null then s.parent_id
                                    else coalesce(t.snapshot_id, z.head) end as parent) p
    where t.task_id = p_task and t.tenant = p_tenant and t.agent = p_agent
$$;

-- The newest snapshot of a session: the leaf that Genkit's stores give. A turn in the foreground
-- is none before it has ended, and none at all when it was aborted.
create or replace function nocturne.genkit_leaf(p_session text, p_tenant text, p_agent text)
returns uuid language sql stable as $$
    select t.task_id from nocturne.task t
    left join nocturne.done d on d.task_id = t.task_id
    where t.session_id = p_session and t.tenant = p_tenant and t.agent = p_agent
      and (t.options ->> 'foreground' is null
           or (d.task_id is not null and d.status not in ('aborted', 'expired')))
    order by t.task_id desc limit 1
$$;

-- One turn. `refused` says why there is none: {"status","message"}; with `misuse` it is a
-- mistake of the request (an error), else an outcome of the turn (a result that failed).
create or replace function nocturne.genkit_submit(p_agent text, p_input json, p_session text,
    p_snapshot uuid, p_options json, p_key text, p_busy text, p_tenant text,
    out task_id uuid, out session_id text, out status text, out refused text, out misuse boolean)
language plpgsql as $$
declare
    t nocturne.task;
    s text;
    busy uuid;
    -- What is sent again is not judged again: the session may be busy with this very turn. Two at
    -- once are told apart by nocturne.submit().
    known boolean := p_key is not null and exists (
        select 1 from nocturne.idempotency i
        join nocturne.task x on x.task_id = i.task_id
        where i.tenant = p_tenant and i.key = p_key);
begin
    misuse := false;
    if known then
        null;
    elsif p_snapshot is not null then
        select * into t from nocturne.task x
        where x.task_id = p_snapshot and x.tenant = p_tenant and x.agent = p_agent;
        if not found then
            refused := '{"status":"NOT_FOUND","message":"NOT_FOUND: Snapshot ' || p_snapshot
                       || ' not found"}';
            return;
        elsif p_session is not null and p_session <> t.session_id then
            misuse := true;
            refused := '{"status":"INVALID_ARGUMENT","message":"Snapshot ' || p_snapshot
                       || ' does not belong to the given session."}';
            return;
        end if;
        s := nocturne.genkit_status(p_snapshot);
        if s <> 'completed' then
            session_id := t.session_id;
            refused := '{"status":"INVALID_ARGUMENT","message":"INVALID_ARGUMENT: Snapshot '
                       || p_snapshot || ' is not resumable (its status is ' || s
                       || '). Only ''completed'' snapshots can be resumed."}';
            return;
        end if;
    elsif p_session is not null and exists (
            select 1 from nocturne.session x where x.tenant = p_tenant and x.session_id = p_session
              and x.agent <> p_agent) then -- Genkit's agents have a store each
        misuse := true;
        refused := '{"status":"FAILED_PRECONDITION","message":"The session belongs to another agent."}';
        return;
    elsif p_session is not null and p_busy <> 'enqueue' then
        select x.running into busy from nocturne.session x
        where x.tenant = p_tenant and x.session_id = p_session for update;
        if busy is not null and p_busy = 'reject' then
            misuse := true;
            refused := '{"status":"FAILED_PRECONDITION","message":"The session is busy with another turn."}';
            return;
        elsif busy is not null then
            perform nocturne.abort(busy, 'interrupted by the next turn', 'genkit', p_tenant);
        end if;
    end if;
    select x.task_id, x.session_id, x.status into task_id, session_id, status
    from nocturne.submit(p_agent => p_agent, p_input => p_input, p_session => p_session,
        p_snapshot => p_snapshot, p_key => p_key, p_options => p_options, p_tenant => p_tenant) x;
end $$;

-- What a terminal task answers. `kind`: agent or flow. `turn_end` is the last chunk of an agent's
-- stream, `paused` the model message whose questions are open, `result` or `error` its last frame.
create or replace function nocturne.genkit_output(p_task uuid, p_tenant text)
returns table (kind text, turn_end text, paused text, result text, error text)
language sql stable as $$
    select x.kind,
        '{"turnEnd":{' || case when x.client then '' else '"snapshotId":"' || p_task || '",' end
            || '"finishReason":"' || x.finish || '"}}',
        case when x.finish = 'interrupted' then (x.output -> 'message')::text end,
        case when x.kind = 'flow' and not x.good then null
             when x.kind = 'flow' then coalesce((x.output -> 'data')::text, 'null')
             else '{"sessionId":' || to_json(case when x.client
                         then coalesce(x.options -> 'state' ->> 'sessionId', x.session_id)
                         else x.session_id end)
             || case when x.client then ''
                     else nocturne.member('snapshotId',
                              case when x.good then p_task else x.parent end::text) end
             || case when x.client then ',"state":' || coalesce(
                         case when x.good then x.output -> 'state' end,
                         x.options -> 'state')::text else '' end
             || case when x.good then nocturne.member('message', x.output -> 'message') else '' end
             || case when x.client or x.artifacts = '[]' then '' else ',"artifacts":' || x.artifacts end
             || ',"finishReason":"' || x.finish || '"'
             || case when x.finish = 'failed'
                     then ',"error":' || nocturne.genkit_error(x.error, x.status, false) else '' end
             || case when x.usage is null then ''
                     else ',"usage":{"inputTokens":' || coalesce(x.usage ->> 'input_tokens', '0')
                          || ',"outputTokens":' || coalesce(x.usage ->> 'output_tokens', '0') || '}' end
             || '}' end,
        case when x.kind = 'flow' and not x.good
             then nocturne.genkit_error(x.error, x.status, true) end
    from (select case when r.definition ->> 'kind' = 'llm' then 'agent' else 'flow' end as kind,
                 r.definition ->> 'state' is not distinct from 'client' as client,
                 d.status in ('completed', 'incomplete') as good,
                 nocturne.genkit_finish(d.finish_reason, d.status) as finish,
                 d.status, d.output, d.error, d.usage, t.session_id, t.options,
                 case when s.task_id is not null then s.parent_id else t.snapshot_id end as parent,
                 nocturne.genkit_artifacts(p_task) as artifacts
          from nocturne.task t
          join nocturne.done d on d.task_id = t.task_id
          join nocturne.agent_revision r on r.tenant = t.tenant and r.name = t.agent
                                        and r.revision = t.revision
          left join nocturne.snapshot s on s.task_id = t.task_id
          where t.task_id = p_task and t.tenant = p_tenant) x
$$;
