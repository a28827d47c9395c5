"""Without hints, with hints that are lost, and behind a pool: what gets slower, and by how much
(ARCHITECTURE.md, "Without hints, and behind a pool"). Settings are given here, whatever the mode of
the run."""
import datetime
import random
import threading
import time

import cluster
import harness
from harness import wait_until

NO_HINTS = {'hints': 'off', 'notify': 'off'}


def direct(env, **settings):
    """Settings for a daemon that is connected to PostgreSQL itself."""
    return {'database': env.cluster.conninfo(env.db), 'prepare': 'on', 'notify': 'on', **settings}


def started_after(env, task_ids):
    """Seconds from the submit to the start, in order."""
    return sorted(row['s'] for row in env.sql("""
        select extract(epoch from a.started_at - t.created_at)::float as s
        from nocturne.attempts a join nocturne.task t using (task_id)
        where a.task_id = any('{%s}')""" % ','.join(task_ids)))


def submit_apart(env, count=30):
    """The ids of turns that come one after the other at odd times, each waited for."""
    task_ids = []
    for _ in range(count):
        time.sleep(random.uniform(0, 0.5))  # the phase of the polls is what is sampled
        task_ids.append(env.submit('a', 'x'))
        env.wait_task(task_ids[-1], status='completed')
    return task_ids


def late_events(env):
    """Seconds from an event to its subscriber, of a turn that streams; sorted."""
    env.llm_agent('m')
    late = []
    for event in env.events(env.submit('m', 'stream 60 tokens 100ms')):
        if event.type == 'content.delta':
            late.append(time.time() - datetime.datetime.fromisoformat(
                event.data['at'].replace('Z', '+00:00')).timestamp())
    return sorted(late)


def check_latencies(env):
    env.modelsim()
    env.put_agent('a', {'kind': 'echo'})
    took = started_after(env, submit_apart(env))
    assert len(took) == 30 and took[-1] <= 2, took
    late = late_events(env)
    assert len(late) == 60 and late[-1] < 3 and late[30] < 0.6, late
    env.check_invariants()


def test_without_hints_a_turn_starts_within_two_seconds():
    with harness.Env() as env:
        env.scheduler(**direct(env, notify='off'))
        env.worker(**direct(env, **NO_HINTS))
        env.api(**direct(env, **NO_HINTS))
        check_latencies(env)
        assert env.value("select count(*) from pg_stat_activity where query ilike 'listen%' and"
                         " datname = current_database() and pid <> pg_backend_pid()") == 0


def test_hints_that_are_lost_for_ever_cost_no_more():
    """All listen, and nothing comes."""
    with harness.Env() as env:
        env.scheduler(**direct(env, notify='off'))
        env.worker(**direct(env, hints='on', notify='off'))
        env.api(**direct(env, hints='on', notify='off'))
        check_latencies(env)


def test_who_hears_no_hints_still_sends_them():
    with harness.Env() as env:
        env.worker(**direct(env, hints='on', poll='20s'))
        env.api(**direct(env, hints='off'))
        env.put_agent('a', {'kind': 'echo'})
        took = started_after(env, submit_apart(env, 10))
        assert took[-1] < 1, took


def test_without_hints_many_aborts_come_with_the_heartbeats():
    with harness.Env() as env:
        env.modelsim()
        env.scheduler(**direct(env, notify='off'))
        env.worker(**direct(env, **NO_HINTS))
        env.api(**direct(env, **NO_HINTS))
        env.llm_agent('m')
        tasks = [env.submit('m', 'stream 4000 tokens 10ms') for _ in range(100)]
        wait_until(lambda: env.value('select count(*) from nocturne.chunk') >= 100, 20, 'all speak')
        for task_id in tasks:
            env.abort(task_id)
        for task_id in tasks:
            env.wait_task(task_id, status='aborted')
        took = [row['ms'] for row in env.sql(
            "select (abort->>'latency_ms')::int as ms from nocturne.done order by 1")]
        assert len(took) == 100 and took[-1] < 2500, took
        env.check_invariants()


# ---- a pool ----

def test_a_pool_that_shares_sessions_is_noticed():
    own = cluster.Cluster()
    try:
        if not own.bouncer:
            own.start_bouncer()
        with harness.Env(cluster_=own) as env:
            pooled = {'database': own.pooled_conninfo(env.db), 'prepare': 'on', 'hints': 'off'}
            env.scheduler(database=pooled['database'], prepare='on')
            env.worker(**pooled).wait_log('statements are not prepared')
            env.api(**pooled)
            env.put_agent('a', {'kind': 'echo'})
            # turns of many at once share few sessions
            threads = [threading.Thread(target=submit_apart, args=(env, 5)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert env.value('select count(*) from nocturne.done') == 40
            sessions = env.value("select count(*) from pg_stat_activity where datname ="
                                 " current_database() and pid <> pg_backend_pid()")
            assert 0 < sessions <= 20, sessions
    finally:
        own.close()
