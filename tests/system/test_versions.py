"""Old and new programs together, before, across and after a migration, with turns in flight: nothing
is lost, nothing is charged. CONTRIBUTING.md, "Expand and contract"."""
import collections
import os
import re
import shutil

import fakes
import harness
import versions
from fakes import lines_of, logging_tool
from harness import wait_until

NEEDS = 'run nocturne migrate'


def setup():
    global folder
    folder = fakes.folder()


def teardown():
    shutil.rmtree(folder, ignore_errors=True)


class Fleet:
    """Turns of all kinds through any api, and what must hold for them in the end."""

    def __init__(self, env, name):
        self.env, self.path = env, os.path.join(folder, name)
        self.tasks, self.streams, self.waves = [], [], 0

    def agents(self):
        self.env.llm_agent('a', [logging_tool('log', self.path, nap=0.1, idempotent=True)])
        self.env.put_agent('p', {'kind': 'process', 'command': ['sh', '-c', 'sleep 0.3; cat']})

    def wave(self, *apis):
        """More turns, through each api, watched through all of them."""
        self.waves += 1
        for n, api in enumerate(apis):
            self.env.http = api.http
            name = '%d-%d' % (self.waves, n)
            for i in range(8):
                self.tasks.append(self.env.submit(
                    'a', 'call log {} then wait 600ms then say done {{tool}}', key='%s-%d' % (name, i),
                    **({'session_id': name} if i < 3 else {'run_at': '500ms'} if i == 3 else {})))
            self.tasks.append(self.env.submit('p', 'x'))
            for other in apis:
                stream = self.env.events(self.tasks[-2], http=other.http)
                self.streams.append((self.tasks[-2], stream, stream.in_background()))

    def some_run(self):
        wait_until(lambda: self.env.value('select count(*) from nocturne.lease') > 2, 10, 'turns run')

    def check(self, api):
        self.env.http = api.http
        handed_back = set()
        for task_id in self.tasks:
            task = self.env.wait_task(task_id, 60, status='completed')
            ended_by = [a['outcome'] for a in task['attempts']]
            assert set(ended_by[:-1]) <= {'released'} and ended_by[-1] == 'completed', task
            if len(ended_by) > 1:
                handed_back.add(task_id)
        called = collections.Counter(lines_of(self.path))
        assert len(called) == sum(self.env.task(t)['agent'] == 'a' for t in self.tasks), called
        # only a call that was under way in a turn handed back, and is idempotent, is made again
        assert {key.split('/')[0] for key, n in called.items() if n > 1} <= handed_back, called
        for task_id, stream, thread in self.streams:
            thread.join(30)
            stored = self.env.stored_events(task_id)
            seen = [e.data for e in stream.events]
            if not stream.ended:  # its api has stopped: go on where it was cut
                rest = self.env.events(task_id, after=len(seen)).read_all()
                seen += [e.data for e in rest]
            assert seen == stored, (task_id, seen, stored)
        self.env.check_invariants()


def wait_served(api):
    wait_until(lambda: harness.Env._is_ready(api.http), 15, 'readyz of ' + api.name)


def mixed(old, new, name):
    with harness.Env(migrated=False) as env:
        env.cli('migrate', build=old)
        env.modelsim()
        fleet = Fleet(env, name)
        many = {'slots': 200, 'drain': '100ms'}
        scheduler, worker = env.scheduler(build=old), env.worker(build=old, **many)
        api = env.api(build=old)
        fleet.agents()
        fleet.wave(api)

        # new programs too early: they say what they wait for, and nothing suffers
        next_worker = env.worker(wait=False, build=new, **many)
        next_scheduler = env.scheduler(wait=False, build=new)
        next_api = env.api(wait=False, build=new)
        next_worker.wait_log(NEEDS, 15)
        next_scheduler.wait_log(NEEDS, 15)
        detail = next_api.http.get('/readyz').problem(503, 'UNAVAILABLE')['detail']
        assert NEEDS in detail, detail
        fleet.wave(api)
        fleet.some_run()
        env.cli('migrate', build=new)

        # both on the new schema
        next_worker.wait_log('registered as worker', 15)
        wait_served(next_api)
        if old == harness.BUILD:  # earlier ones that had no later release called themselves unready
            wait_served(api)
        fleet.wave(api, next_api)
        fleet.some_run()

        # the old ones go one by one; one comes again, since a rollback of programs must be possible
        worker.end()
        fleet.wave(api, next_api)
        scheduler.end()
        wait_until(lambda: re.search('leading', next_scheduler.log()), 15, 'the new one leads')
        again = env.worker(build=old, **many)
        fleet.wave(api, next_api)
        fleet.some_run()
        next_worker.end()
        fleet.wave(api, next_api)
        api.end()
        next_worker = env.worker(build=new, **many)
        again.end()
        fleet.check(next_api)
        for process in env.processes:
            assert 'level=error' not in process.log(), process.tail()


def test_this_version_and_one_that_expands_the_schema():
    mixed(harness.BUILD, versions.following(), 'following')
test_this_version_and_one_that_expands_the_schema.timeout = 600


def test_the_previous_version_and_this_one():
    if harness.MODE:
        return  # it may not have the settings of the mode
    try:
        old = versions.previous()
    except versions.Cannot as e:
        print('no previous version to test with: %s' % e)
        return
    mixed(old, harness.BUILD, 'previous')
test_the_previous_version_and_this_one.timeout = 900


def test_a_program_waits_for_functions_that_are_too_old():
    with harness.Env() as env:
        env.execute("update nocturne.functions set program = '{0,0,9}'")
        worker = env.worker(wait=False)
        worker.wait_log('functions of version 0.0.9.*' + NEEDS, 15)
        env.execute("update nocturne.functions set program = '{99,0}'")
        worker.wait_log('registered as worker', 15)


def test_a_program_waits_for_any_schema():
    with harness.Env(migrated=False) as env:
        worker = env.worker(wait=False)
        scheduler = env.scheduler(wait=False)
        for process in (worker, scheduler):
            process.wait_log('no schema.*' + NEEDS, 15)
        env.cli('migrate')
        worker.wait_log('registered as worker', 15)
        scheduler.wait_log('leading', 15)


def test_a_migration_gives_up_its_locks_and_tries_again():
    """A long transaction holds what it needs; turns must not queue up behind it for long."""
    with harness.Env(migrated=False) as env:
        env.cli('migrate')
        reader = env.psql()
        reader.run('begin')
        reader.run('select count(*) from nocturne.task')
        migrate = env.spawn('migrate', [harness.program('nocturne', versions.following()), 'migrate',
                                        '--database', env.conninfo])
        wait_until(lambda: env.value("select count(*) from pg_locks where not granted"), 10,
                   'the migration waits for the reader')
        env.put_agent('a', {'kind': 'echo'})
        assert env.submit('a', 'x')  # behind it, and still done when it lets go
        assert migrate.alive
        reader.run('commit')
        assert migrate.wait() == 0, migrate.tail()
test_a_migration_gives_up_its_locks_and_tries_again.timeout = 600
