"""Lists of tasks: the right ones in order for every filter, in pages that end in time, by probes of indexes."""
import itertools
import json
import re

import harness
import statements
from harness import literal

STATUSES = ('scheduled', 'queued', 'running', 'aborting', 'completed', 'incomplete', 'failed', 'aborted', 'expired')
N = 3000


def setup():
    global env, plans, stored
    env = harness.Env()
    plans = env.psql()  # plans for tables that are empty, as a daemon's that was there first
    plans.run(statements.texts()['session_settings'])
    find(limit=1, misses=1)
    fill()
    env.api()
    stored = env.sql("""select task_id, tenant, agent, session_id, nocturne.task_status(task_id) as status
        from nocturne.task order by task_id desc""")
    assert {t['status'] for t in stored} == set(STATUSES)


def fill():
    """Tasks in every state: the older ones have ended, failures together and apart; deadlines at all that live."""
    env.execute("""
        insert into nocturne.agent_revision select t, a, 1, '{"kind":"echo"}'
            from unnest(array['default', 'other']) t, unnest(array['common', 'some', 'rare']) a;
        insert into nocturne.agent select tenant, name, 1, 'server', 3 from nocturne.agent_revision;
        select setseed(0.5);
        create temp table n as
            select i, ('0190000000' || lpad(to_hex(i), 6, '0') || '8000800000000000')::uuid as id, random() as r,
                   case when i %% 40 = 7 then 'other' else 'default' end as tenant,
                   case when i in (1000, 1001, %(n)d - 3, %(n)d - 2, %(n)d - 1) then 'rare' when i %% 20 = 3 then 'some'
                        else 'common' end as agent
            from generate_series(1, %(n)d) i;
        insert into nocturne.task (task_id, tenant, agent, revision, session_id, priority, max_attempts, input, created_at)
            select id, tenant, agent, 1, 's' || i %% 30, 5, 3, '"x"', now() from n;
        create temp table d as select *, case
                when i between 700 and 900 or r < 0.02 then 'failed' when r < 0.03 then 'incomplete'
                when r < 0.04 then 'aborted' when r < 0.045 then 'expired' else 'completed' end as status
            from n where i <= 0.8 * %(n)d;
        insert into nocturne.done (task_id, epoch, status, last_seq) select id, 0, status, 0 from d;
        create temp table l as select *, i %% 8 as kind from n where i > 0.8 * %(n)d;
        insert into nocturne.due (at, task_id, kind) select now(), id, 'deadline' from l where r < 0.9;
        insert into nocturne.lease (task_id, epoch, worker_id, priority, fails, crashes, aborting)
            select id, i, 1, 5, 0, 0, kind = 0 from l where kind in (0, 1, 2);
        insert into nocturne.control (task_id, kind) select id, 'abort' from l where kind = 0;
        insert into nocturne.ready (priority, task_id) select 5, id from l where kind in (3, 4);
        insert into nocturne.due (at, task_id, kind) select now(), id, 'retry' from l where kind = 5;
        insert into nocturne.due (at, task_id, kind) select now(), id, 'start' from l where kind = 6 and r < 0.1;
        insert into nocturne.session (tenant, session_id, agent, queue)
            select tenant, 's' || i %% 30, 'common', array_agg(id order by i) from l
            where kind = 7 or kind = 6 and r >= 0.1 group by tenant, i %% 30;
        """ % {'n': N})


def find(status=None, agent=None, session=None, before=None, tenant='default', limit=50, misses=1000):
    """(ids, more) as task_find() says."""
    text = lambda value: 'null' if value is None else literal(value)  # noqa: E731
    row = plans.run('select row_to_json(f) from nocturne.task_find(%s, %s, %s, %s, %s::uuid, %d, %d) f' % (
        text(tenant), text(status), text(agent), text(session), text(before), limit, misses))
    found = json.loads(row[0])
    return found['ids'], found['more']


def expected(status=None, agent=None, session=None, tenant=None):
    return [t['task_id'] for t in stored if t['tenant'] == (tenant or 'default') and agent in (None, t['agent'])
            and status in (None, t['status']) and session in (None, t['session_id'])]


def combinations():
    for status, agent, session, tenant in itertools.product(
            (None, 'waiting') + STATUSES, (None, 'common', 'some', 'rare', 'absent'), (None, 's7', 's11', 'none'),
            (None, 'other', 'nobody')):
        yield {'status': status, 'agent': agent, 'session': session, 'tenant': tenant}


def test_every_combination_of_filters_lists_what_matches():
    with_none = 0
    for filters in combinations():
        query = {k if k != 'session' else 'session_id': v for k, v in filters.items() if v}
        path, seen, pages = '/v1/tasks?limit=200' + ''.join('&%s=%s' % f for f in query.items()), [], 0
        while path:
            page = env.http.get(path).ok(200).json
            seen += [t['task_id'] for t in page['tasks']]
            assert all(t['status'] == (filters['status'] or t['status']) for t in page['tasks']), filters
            path, pages = page.get('next'), pages + 1
        assert seen == expected(**filters), (filters, len(seen))
        with_none += not seen
        assert pages <= len(seen) // 200 + 2, (filters, pages)
    assert with_none > 100


def test_a_page_ends_early_and_is_followed_until_all_was_found():
    short = 0
    for filters in combinations():
        if filters['tenant'] not in (None, 'other') or filters['session'] == 'none' or filters['agent'] == 'absent':
            continue
        want, seen, before = expected(**filters), [], None
        while True:
            ids, more = find(**{**filters, 'tenant': filters['tenant'] or 'default'}, before=before, limit=5, misses=20)
            seen += ids
            assert len(ids) <= 5
            assert more is None or not ids or more <= ids[-1], 'behind what it has'
            assert more is None or before is None or more < before, 'it does not move on'
            if more is None and len(ids) < 5:
                break
            short += more is not None
            before = more or ids[-1]
        assert seen == want, (filters, len(seen), len(want))
    assert short > 100, short


def test_an_empty_page_is_followed_over_http():
    """More than 2,000 in vain, then one."""
    env.execute("""
        insert into nocturne.agent_revision values ('third', 'common', 1, '{"kind":"echo"}');
        insert into nocturne.agent values ('third', 'common', 1, 'server', 3);
        insert into nocturne.task (task_id, tenant, agent, revision, session_id, priority, max_attempts, input, created_at)
        values ('01800000-0000-7000-8000-000000000000', 'third', 'common', 1, 'x', 5, 3, '"x"', now())""")
    for query in ('tenant=third', 'tenant=third&agent=common&limit=1'):
        page = env.http.get('/v1/tasks?' + query).ok(200).json
        assert page['tasks'] == [] and re.search(r'before=[0-9a-f-]{36}', page['next']), page
        page = env.http.get(page['next']).ok(200).json
        assert [t['session_id'] for t in page['tasks']] == ['x'] and 'next' not in page, page
    env.execute("""delete from nocturne.task where tenant = 'third'; delete from nocturne.agent where tenant = 'third';
        delete from nocturne.agent_revision where tenant = 'third'""")


def test_a_rare_filter_reads_little_though_the_plan_is_of_empty_tables():
    def blocks(**filters):
        before = touched()
        ids, _ = find(**filters)
        assert sorted(ids, reverse=True) == ids
        return touched() - before

    def touched():
        plans.run('select pg_stat_force_next_flush()')
        plans.run('select pg_stat_clear_snapshot()')
        return int(plans.run("""select sum(coalesce(heap_blks_read + heap_blks_hit, 0) + coalesce(idx_blks_read + idx_blks_hit, 0))
            from pg_statio_user_tables where schemaname = 'nocturne' and relname in ('task', 'done', 'lease', 'due')""")[0])

    for filters in ({'agent': 'rare'}, {'agent': 'absent'}, {'session': 'none'}, {'tenant': 'nobody'},
                    {'agent': 'rare', 'status': 'failed'}, {'agent': 'rare', 'status': 'running'},
                    {'agent': 'rare', 'status': 'completed'}, {'session': 'none', 'status': 'completed'},
                    {'status': 'expired', 'limit': 5}, {'agent': 'common', 'status': 'aborting', 'limit': 5}):
        found = blocks(**filters)
        assert found < 1000, (filters, found)  # 3,000 tasks are 40 pages, and a probe 3


def test_apis_of_the_previous_release_get_whole_pages():
    for filters in ({}, {'status': 'failed'}, {'tenant': 'other', 'agent': 'rare'}, {'status': 'queued'}):
        args = [filters.get(k) for k in ('tenant', 'status', 'agent')]
        rows = env.sql("""select task_id, task from nocturne.task_page(%s, %s, %s, null, null, 50, 1 << 20)""" % tuple(
            'null' if a is None else literal(a) for a in [args[0] or 'default'] + args[1:]))
        assert [r['task_id'] for r in rows] == expected(**filters)[:50]  # and none without text
        assert all(json.loads(r['task'])['task_id'] == r['task_id'] for r in rows)
    rows = env.sql("select task_id, task from nocturne.task_page('default', null, null, null, null, 50, 1000)")
    assert [r['task'] is None for r in rows].count(True) == 1 and rows[-1]['task'] is None and len(rows) < 10, rows
