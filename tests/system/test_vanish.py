"""Workers whose session ends: the dead are found in seconds, the living keep their leases. Default
settings, because their margins are what is tested; workers that hear hints on a connection of their own,
also in the modes where others do not."""
import time

import cluster
import harness
from harness import wait_until
from proxy import PgProxy

LONG = 'stream 100000 tokens 50ms'
SESSION = 'nocturne-worker-hints'


class Setting:
    """A turn that runs on `first` and would go on on `second`."""

    def __init__(self, env, pools=False, proxied=True):
        self.env = env
        self.proxy = PgProxy(env, pools) if proxied else None
        env.modelsim()
        self.scheduler = env.scheduler()
        env.llm_agent('a')
        direct = {'hints': 'on', 'prepare': 'on', 'database': env.cluster.conninfo(env.db)}
        proxied = {'database': self.proxy.conninfo()} if proxied else {}
        self.first = env.worker(**{**direct, **proxied})
        self.task_id = env.submit('a', LONG)
        self.worker = wait_until(self.runs_on, 10, 'the turn runs')
        if not pools:
            wait_until(self.session, 10, 'the session is recorded')
        self.second = env.worker(**direct)
        time.sleep(1)  # the leader has looked

    def runs_on(self):
        return self.env.value("select max(worker_id) from nocturne.lease where task_id = '%s'"
                              % self.task_id)

    def session(self):
        return self.env.value('select backend_pid from nocturne.worker where worker_id = %d'
                              % self.worker)

    def terminate_session(self):
        self.env.execute("select pg_terminate_backend(pid) from pg_stat_activity"
                         " where application_name = '%s' and pid in (select backend_pid"
                         " from nocturne.worker where worker_id = %d)" % (SESSION, self.worker))

    def wait_takeover(self, since, deadline):
        wait_until(lambda: self.runs_on() not in (None, self.worker), deadline, 'a takeover')
        return time.monotonic() - since

    def check_undisturbed(self):
        """For longer than the grace after whatever happened: nobody has died."""
        time.sleep(4)
        assert 'this worker is dead' not in self.scheduler.log(), self.scheduler.tail()
        assert self.runs_on() == self.worker, self.first.tail()
        assert self.env.value("select count(*) from nocturne.attempts") == 0

    def end(self):
        self.env.abort(self.task_id)
        self.env.wait_task(self.task_id, status='aborted')
        self.env.check_invariants()
        if self.proxy:
            if self.first.alive:
                self.first.end()  # one that has just come back may have asked for something
            self.proxy.close()


def killed(proxied):
    with harness.Env() as env:
        s = Setting(env, proxied=proxied)
        s.first.kill()
        took = s.wait_takeover(time.monotonic(), 12)
        assert 1.5 < took < 6, took  # its heartbeat alone would have held it for 8 s at least
        s.end()


def test_a_killed_worker_is_found_before_its_ttl():
    killed(proxied=False)


def test_a_session_that_is_cut_again_and_again_costs_no_lease():
    with harness.Env() as env:
        s = Setting(env, proxied=False)
        sessions = set()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            sessions.add(s.session())
            s.terminate_session()
            time.sleep(0.2)
        assert len(sessions) > 10, sessions
        s.check_undisturbed()
        assert 'suspended' not in s.first.log(), s.first.tail()
        s.end()


def test_connections_that_are_refused_for_a_second_cost_no_lease():
    with harness.Env() as env:
        s = Setting(env)
        for _ in range(5):
            s.proxy.refuses = True
            s.proxy.cut()
            time.sleep(1)
            s.proxy.refuses = False
            before = time.monotonic()
            wait_until(lambda: env.value("select count(*) from pg_stat_get_activity(%d)"
                                         % (s.session() or 0)), 5, 'a new session')
            assert time.monotonic() - before < 1
        s.check_undisturbed()
        s.end()


def test_a_black_hole_is_waited_for_as_long_as_the_ttl():
    with harness.Env() as env:
        s = Setting(env)
        s.proxy.hole = True
        took = s.wait_takeover(time.monotonic(), 20)
        assert took > 7, took
        s.proxy.hole = False
        s.end()


def test_a_leader_that_stood_still_grants_the_grace_anew():
    with harness.Env() as env:
        s = Setting(env)
        s.scheduler.stop()
        time.sleep(3)
        s.proxy.refuses = True
        s.proxy.cut()
        time.sleep(0.5)
        s.scheduler.cont()
        time.sleep(0.7)
        s.proxy.refuses = False
        s.check_undisturbed()
        s.end()


def test_a_worker_that_cannot_come_back_is_dead_although_it_lives():
    with harness.Env() as env:
        s = Setting(env)
        s.proxy.refuses = True
        s.proxy.cut()
        assert 1.5 < s.wait_takeover(time.monotonic(), 12) < 6
        dead = s.scheduler.wait_log(r'ts=(\S+) .*this worker is dead').group(1)
        suspended = s.first.wait_log(r'ts=(\S+) .*is suspended').group(1)
        assert suspended < dead, 'it knows when it may be declared dead'
        s.proxy.refuses = False
        s.first.wait_log('registered as worker (?!%d\\b)' % s.worker)
        s.end()


def test_a_backend_that_is_not_its_own_says_nothing():
    """As behind PgBouncer, whose servers come and go."""
    with harness.Env() as env:
        s = Setting(env, pools=True)
        assert env.value('select state from nocturne.worker where worker_id = %d' % s.worker) == 'live'
        assert s.session() is None
        s.end()


def restarted(how):
    database = cluster.Cluster()
    env = harness.Env(cluster_=database)
    try:
        s = Setting(env, proxied=False)
        for _ in range(2):
            how(database)
            wait_until(lambda: env.value('select count(*) from pg_stat_get_activity(%d)'
                                         % (s.session() or 0)), 30, 'a new session')
        time.sleep(4)
        # a start that took longer than it may act made it hand back by itself, uncharged
        assert 'this worker is dead' not in s.scheduler.log(), s.scheduler.tail()
        assert env.value("select count(*) from nocturne.attempts where outcome = 'lost'") == 0
        s.end()
        env.close()
    finally:
        database.close()


def test_a_restart_of_the_database_costs_no_lease():
    def how(database):
        database.down('immediate')
        time.sleep(2)
        database.up()
    restarted(how)
