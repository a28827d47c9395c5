"""A private PostgreSQL for tests: one cluster per run, a database per Env, made from a migrated
template. As root it runs as the user postgres. Unix socket only, fsync on."""
import atexit
import glob
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

MODE = os.environ.get('NOCTURNE_TEST_MODE', '')  # '', poll or pgbouncer
BOUNCER_PORT = 6432
BOUNCER_SETTINGS = """
[databases]
* = host={0} port=5432

[pgbouncer]
listen_addr =
listen_port = {1}
unix_socket_dir = {0}
auth_type = trust
auth_file = {0}/users
auth_user = {2}
pool_mode = transaction
max_client_conn = 4000
default_pool_size = 20
server_login_retry = 0.2
server_idle_timeout = 15
logfile = {0}/pgbouncer.log
log_connections = 0
log_disconnections = 0
"""
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))
TEMPLATE = 'nocturne_template'
SETTINGS = """
listen_addresses = ''
max_connections = 200
shared_buffers = 128MB
fsync = on
log_min_messages = warning
log_lock_waits = on
log_line_prefix = '%m [%p] %d '
autovacuum_naptime = 15s
"""


def signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


AS_POSTGRES = {'user': 'postgres', 'group': 'postgres', 'extra_groups': []}


def bindir():
    found = sorted(glob.glob('/usr/lib/postgresql/*/bin/initdb'),
                   key=lambda p: int(p.split('/')[4]) if p.split('/')[4].isdigit() else 0)
    if found:
        return os.path.dirname(found[-1])
    return os.path.dirname(shutil.which('initdb') or '/usr/bin/initdb')


def migrations():
    """(version, name, text) of sql/schema, as the programs embed them."""
    rows = []
    for path in sorted(glob.glob(os.path.join(ROOT, 'sql/schema/*.sql'))):
        version, _, name = os.path.basename(path)[:-4].partition('_')
        with open(path) as f:
            rows.append((int(version), name, f.read()))
    return rows


def functions():
    """The text of sql/functions, as the programs embed it."""
    text = ''
    for path in sorted(glob.glob(os.path.join(ROOT, 'sql/functions/*.sql'))):
        with open(path) as f:
            text += f.read()
    return text


def program_version():
    with open(os.path.join(ROOT, 'Makefile')) as f:
        return re.search(r'^VERSION *:= *(\S+)', f.read(), re.M).group(1)


def migration_script():
    """What `nocturne migrate` does, for psql: tests do not depend on the program they test."""
    def read(name):
        with open(os.path.join(ROOT, 'sql/migrate', name)) as f:
            return f.read()
    text = read('begin.sql')
    for version, name, sql in migrations():
        text += sql + "\ninsert into nocturne.migration (version, name, checksum) values (%d, '%s', '%s');\n" \
            % (version, name, hashlib.sha256(sql.encode()).hexdigest())
    text += functions()
    text += "\ninsert into nocturne.functions (program, checksum) values ('{%s}', '%s');\n" \
        % (program_version().replace('.', ','), hashlib.sha256(functions().encode()).hexdigest())
    return text + read('commit.sql')


class Cluster:
    """Starts a server, or with `folder` joins the one that run.py has started."""

    def __init__(self, folder=None, extra=''):
        self.owner = folder is None
        self.user = 'postgres' if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.bouncer = None
        self.lock = threading.Lock()
        self.made = 0
        if self.owner:
            self.folder = tempfile.mkdtemp(prefix='nocturne-pg-', dir='/tmp')
            self.start(extra)
            if MODE == 'pgbouncer':
                self.start_bouncer()
        else:
            self.folder = folder

    def run(self, *argv, **kw):
        if os.getuid() == 0:
            kw.update(AS_POSTGRES)
        return subprocess.run([os.path.join(bindir(), argv[0])] + list(argv[1:]), check=True,
                              cwd='/', stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **kw)

    def start(self, extra):
        if os.getuid() == 0:
            shutil.chown(self.folder, 'postgres', 'postgres')
        os.chmod(self.folder, 0o755)
        atexit.register(self.close)
        self.run('initdb', '-D', self.folder + '/data', '-A', 'trust', '-U', self.user, '-E', 'UTF8',
                 '--locale=C.UTF-8')
        with open(self.folder + '/data/postgresql.conf', 'a') as f:
            f.write(SETTINGS + "unix_socket_directories = '%s'\n%s\n" % (self.folder, extra))
        self.up()
        self.psql('postgres', 'create database %s' % TEMPLATE)
        self.psql(TEMPLATE, migration_script())

    def start_bouncer(self):
        """PgBouncer before it, in transaction mode: Debian's, as its package sets it up."""
        with open(self.folder + '/pgbouncer.ini', 'w') as f:
            f.write(BOUNCER_SETTINGS.format(self.folder, BOUNCER_PORT, self.user))
        with open(self.folder + '/users', 'w') as f:
            f.write('"%s" ""\n' % self.user)
        path = shutil.which('pgbouncer', path='/usr/sbin:' + os.environ['PATH'])
        if not path:
            raise AssertionError('pgbouncer is not installed (make deps)')
        self.bouncer = subprocess.Popen(
            [path, '-q', self.folder + '/pgbouncer.ini'], stdin=subprocess.DEVNULL, cwd='/',
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            **(AS_POSTGRES if os.getuid() == 0 else {}))
        end = time.monotonic() + 10
        while not os.path.exists('%s/.s.PGSQL.%d' % (self.folder, BOUNCER_PORT)):
            if time.monotonic() > end or self.bouncer.poll() is not None:
                raise AssertionError('pgbouncer does not start')
            time.sleep(0.02)

    def up(self):
        self.run('pg_ctl', '-D', self.folder + '/data', '-l', self.folder + '/log', '-w', '-s', 'start')

    def down(self, mode='fast'):
        self.run('pg_ctl', '-D', self.folder + '/data', '-m', mode, '-w', '-s', 'stop')

    def freeze(self):
        """SIGSTOP the server and all of its backends; the function that lets them go on."""
        with open(self.folder + '/data/postmaster.pid') as f:
            postmaster = f.readline().strip()
        found = subprocess.run(['pgrep', '-P', postmaster], capture_output=True, text=True)
        pids = [int(pid) for pid in [postmaster] + found.stdout.split()]
        signal_all(pids, signal.SIGSTOP)
        return lambda: signal_all(pids, signal.SIGCONT)

    def close(self):
        if not self.owner or not os.path.isdir(self.folder):
            return
        if self.bouncer:
            self.bouncer.kill()
            self.bouncer.wait()
        try:
            self.down('immediate')
        except (subprocess.CalledProcessError, OSError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)

    def conninfo(self, db, more=''):
        return 'host=%s %sdbname=%s user=%s' % (self.folder, more, db, self.user)

    def pooled_conninfo(self, db):
        return self.conninfo(db, 'port=%d ' % BOUNCER_PORT)

    def daemons_conninfo(self, db):
        """What the programs under test connect to."""
        return self.pooled_conninfo(db) if MODE == 'pgbouncer' else self.conninfo(db)

    def psql_argv(self, db, *options):
        return [os.path.join(bindir(), 'psql'), '-X', '-q', '-At', '-v', 'ON_ERROR_STOP=1', *options,
                self.conninfo(db)]

    def psql(self, db, text, *options, timeout=60):
        """Run a script; its output. subprocess.CalledProcessError says what failed in .stderr."""
        done = subprocess.run(self.psql_argv(db, *options), input=text, text=True,
                              capture_output=True, timeout=timeout)
        if done.returncode != 0:
            raise SqlError(done.stderr.strip() + '\nin: ' + text[:2000])
        return done.stdout

    def create_database(self, migrated=True):
        with self.lock:
            self.made += 1
            name = 't_%d_%d' % (os.getpid(), self.made)
        template = TEMPLATE if migrated else 'template0'
        for attempt in range(50):
            try:
                self.psql('postgres', 'create database %s template %s' % (name, template))
                return name
            except SqlError as e:
                if 'being accessed' not in str(e) or attempt == 49:
                    raise
                time.sleep(0.1)

    def drop_database(self, name):
        self.psql('postgres', 'drop database if exists %s with (force)' % name)

    def log(self, lines=40, db=''):
        """The end of the server's log, or of what it says of one database."""
        try:
            with open(self.folder + '/log') as f:
                return ''.join([line for line in f if db in line][-lines:])
        except OSError:
            return ''


class SqlError(Exception):
    pass


_shared = None


def shared():
    """The cluster of this run."""
    global _shared
    if _shared is None:
        _shared = Cluster(os.environ.get('NOCTURNE_TEST_CLUSTER'))
    return _shared
