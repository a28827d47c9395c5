"""nocturne migrate: forward only, checked, one at a time."""
import concurrent.futures
import json

import cluster
import harness

VERSIONS = [version for version, _, _ in cluster.migrations()]
FUNCTIONS = 0  # the version that stands for sql/functions
ALL = VERSIONS + [FUNCTIONS]
CLI_FAILED, CLI_USAGE, CLI_UNREACHABLE = 1, 2, 8


def empty():
    return harness.Env(migrated=False)


def states(env):
    done = env.cli('migrate', '--status', '--json', check=False)
    return {m['version']: m['state'] for m in json.loads(done.stdout)['migrations']}


def test_an_empty_database_gets_everything_once():
    with empty() as env:
        assert states(env) == {v: 'pending' for v in ALL}
        assert env.value("select to_regnamespace('nocturne')") is None  # asking changes nothing
        done = env.cli('migrate')
        assert 'applied %d migrations' % len(ALL) in done.stdout, done
        assert states(env) == {v: 'applied' for v in ALL}
        assert 'nothing to do' in env.cli('migrate').stdout
        assert json.loads(env.cli('migrate', '--json').stdout) == {'applied': 0}
        assert env.cli('migrate', '--status').returncode == 0


def test_the_checksums_are_those_of_the_files():
    """So the template that the other tests start from is what `nocturne migrate` makes."""
    query = 'select version, name, checksum from nocturne.migration order by version'
    with empty() as made, harness.Env() as copied:
        made.cli('migrate')
        assert made.sql(query) == copied.sql(query)
        query = 'select program, checksum from nocturne.functions'
        assert made.sql(query) == copied.sql(query)
        columns = """select table_name, column_name, data_type, is_nullable, column_default
                     from information_schema.columns where table_schema = 'nocturne'
                     and table_name !~ '^chunk_[0-9]' order by 1, 2"""  # those are of the day
        assert made.sql(columns) == copied.sql(columns)


def test_long_values_are_compressed_by_lz4():
    """A turn's end stores its text four times; by pglz a thousand ends hold up everybody (009_lz4.sql)."""
    with empty() as env:
        if 'lz4' not in env.value("select array_to_string(enumvals, ' ') from pg_settings where name = 'default_toast_compression'"):
            return
        env.cli('migrate')
        env.execute('select nocturne.make_partitions(9)')
        others = env.execute("""select attrelid::regclass || '.' || attname from pg_attribute join pg_class c on c.oid = attrelid
            where relnamespace = 'nocturne'::regnamespace and relkind in ('r', 'p') and attnum > 0 and not attisdropped
            and atttypid in ('json'::regtype, 'jsonb'::regtype, 'text'::regtype) and attcompression <> 'l'""")
        assert not others, others
        assert env.value("select count(*) from pg_class where relname like 'chunk_20%'") >= 9


def test_two_at_once_both_succeed_and_one_works():
    with empty() as env:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            runs = list(pool.map(lambda _: env.cli('migrate', '--json'), range(4)))
        applied = [json.loads(run.stdout)['applied'] for run in runs]
        assert sum(applied) == len(ALL), applied
        assert env.value('select count(*) from nocturne.migration') == len(VERSIONS)


def test_who_comes_second_waits():
    with empty() as env:
        first = env.psql()
        first.run('begin')
        first.run("select pg_advisory_xact_lock(hashtext('nocturne.migrate'))")
        second = env.spawn('migrate', [harness.program('nocturne'), 'migrate', '--database',
                                       env.conninfo])
        harness.wait_until(lambda: env.value(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted"), 10)
        assert env.value("select to_regnamespace('nocturne')") is None
        first.run('commit')
        assert second.wait() == 0, second.tail()
        assert states(env) == {v: 'applied' for v in ALL}


def refused(env, text):
    before = env.sql('select * from nocturne.migration order by version')
    done = env.cli('migrate', check=False)
    assert done.returncode == CLI_FAILED and text in done.stderr, done
    assert env.sql('select * from nocturne.migration order by version') == before


def test_a_migration_changed_after_it_was_applied_is_refused():
    with harness.Env() as env:
        env.execute("update nocturne.migration set checksum = 'other' where version = 2")
        assert states(env)[2] == 'changed'
        refused(env, 'migration 2 (genkit) was changed after it was applied')


def test_a_database_newer_than_the_program_is_refused():
    with harness.Env() as env:
        env.execute("insert into nocturne.migration values (9999, 'future', 'x')")
        assert states(env)[9999] == 'unknown'
        refused(env, 'migration 9999 (future), which is newer than this program')
        assert env.cli('migrate', '--status', check=False).returncode == CLI_FAILED


def test_a_gap_is_refused():
    with harness.Env() as env:
        env.execute('delete from nocturne.migration where version = 1')
        refused(env, 'migration 1 (tables) was not applied before %d' % VERSIONS[-1])


def test_a_migration_that_fails_leaves_nothing_of_itself():
    with empty() as env:
        # in the way of the second one, which the first does not touch
        env.execute('create schema nocturne; create table nocturne.genkit_stream (x int)')
        done = env.cli('migrate', check=False)
        assert done.returncode == CLI_FAILED and 'migration 2 (genkit): ' in done.stderr, done
        assert states(env)[1] == 'applied' and states(env)[2] == 'pending'
        assert env.value("select to_regproc('nocturne.submit')") is None
        env.execute('drop table nocturne.genkit_stream')  # and it can go on
        assert json.loads(env.cli('migrate', '--json').stdout) == {'applied': len(ALL) - 1}


def test_functions_of_another_text_are_replaced():
    with harness.Env() as env:
        env.execute("update nocturne.functions set program = '{0,0,9}', checksum = 'other';"
                    " drop function nocturne.abort")
        assert states(env)[FUNCTIONS] == 'pending'
        assert json.loads(env.cli('migrate', '--json').stdout) == {'applied': 1}
        assert states(env) == {v: 'applied' for v in ALL}
        assert env.value("select to_regproc('nocturne.abort')") is not None
        assert env.value("select program <> '{0,0,9}' from nocturne.functions")


def test_functions_of_a_newer_program_stay():
    with harness.Env() as env:
        env.execute("update nocturne.functions set program = '{99,0,0}', checksum = 'other'")
        assert states(env)[FUNCTIONS] == 'unknown'
        refused(env, 'the database has the functions of version 99.0.0')
        assert env.value("select checksum from nocturne.functions") == 'other'


def test_functions_that_cannot_be_replaced_leave_the_old_ones():
    with harness.Env() as env:
        env.execute("update nocturne.functions set checksum = 'other';"
                    " drop function nocturne.abort; drop function nocturne.task_status;"
                    " create function nocturne.task_status(p_task uuid) returns int"
                    " language sql as 'select 1'")
        done = env.cli('migrate', check=False)
        assert done.returncode == CLI_FAILED and 'functions: ' in done.stderr, done
        assert 'cannot change return type' in done.stderr, done
        assert env.value("select to_regproc('nocturne.abort')") is None
        assert states(env)[FUNCTIONS] == 'pending'


def test_a_role_that_may_not_create_schemas_can_migrate_one_it_owns():
    with empty() as env:
        role = env.db + '_owner'
        env.execute('create role %s login; create schema nocturne authorization %s' % (role, role))
        try:
            conninfo = env.conninfo.replace('user=' + env.cluster.user, 'user=' + role)
            env.cli('migrate', '--database', conninfo)
            assert states(env) == {v: 'applied' for v in ALL}
            env.execute("set role %s; select nocturne.make_partitions(5)" % role)
        finally:
            env.execute('drop owned by %s cascade; drop role %s' % (role, role))


def test_no_database_has_an_exit_status_of_its_own():
    with empty() as env:
        conninfo = env.conninfo.replace('dbname=', 'dbname=x_')
        done = env.cli('migrate', '--database', conninfo, check=False)
        assert done.returncode == CLI_UNREACHABLE and 'does not exist' in done.stderr, done
        done = env.cli('migrate', env={'NOCTURNE_DATABASE': ''}, check=False)
        assert done.returncode in (CLI_USAGE, CLI_UNREACHABLE), done
