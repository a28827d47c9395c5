"""`nocturne dev`: one command, a ready line, a clean end; and what happens to a killed one."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile

import cluster
import harness
from harness import wait_until

NOCTURNE = os.path.join(harness.BUILD, 'bin/nocturne')


class Dev:
    """One `nocturne dev` in a folder of its own."""

    def __init__(self, folder=None, listen='127.0.0.1:0', args=(), env=None, wait=True, data=None):
        self.made = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix='nocturne-dev-', dir='/tmp')
        os.chmod(self.folder, 0o755)
        self.data = data or self.folder + '/data'
        self.out, self.err = self.folder + '/out', self.folder + '/err'
        with open(self.out, 'wb') as out, open(self.err, 'ab') as err:
            self.popen = subprocess.Popen(
                [NOCTURNE, 'dev', '--data', self.data, '--listen', listen, *args],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=harness.ROOT,
                env=harness.sanitizer_env(env), start_new_session=True)
        self.pid = self.popen.pid
        if wait:
            wait_until(lambda: self.ready() or self.popen.poll() is not None, 60, 'the ready line')
            assert self.popen.poll() is None, self.log()

    def ready(self):
        with open(self.out) as f:
            return re.search(r'^ready (http://\S+)\n', f.read())

    @property
    def url(self):
        return self.ready().group(1)

    def log(self):
        with open(self.err) as f:
            return f.read()

    def cli(self, *args, timeout=60, check=True):
        done = subprocess.run([NOCTURNE, *args], capture_output=True, text=True, timeout=timeout,
                              cwd=harness.ROOT, env=harness.sanitizer_env({'NOCTURNE_URL': self.url}))
        assert not check or done.returncode == 0, (args, done)
        return done

    def conninfo(self):
        with open(self.data + '/database') as f:
            return f.read().strip()

    def sql(self, text):
        done = subprocess.run([cluster.bindir() + '/psql', '-X', '-q', '-At', self.conninfo(), '-c',
                               text], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def children(self, name):
        """Pids of our children with this program."""
        found = []
        for stat in glob.glob('/proc/[0-9]*/stat'):
            try:
                with open(stat) as f:
                    text = f.read()
                pid, _, rest = text.partition(' (')
                comm, _, rest = rest.rpartition(') ')
                if int(rest.split()[1]) == self.pid and comm == name[:15]:
                    found.append(int(pid))
            except (OSError, ValueError):
                pass
        return found

    def stop(self, number=signal.SIGTERM, expected=0, timeout=40):
        self.popen.send_signal(number)
        assert self.popen.wait(timeout) == expected, self.log()
        assert not harness.SANITIZER.search(self.log()), self.log()
        assert self.left() == [], self.left()

    def left(self):
        """What still runs on our folder."""
        found = []
        for cwd in glob.glob('/proc/[0-9]*/cwd'):
            try:
                with open(os.path.dirname(cwd) + '/cmdline') as f:
                    line = f.read().replace('\0', ' ')
                if os.readlink(cwd).startswith(self.folder) or self.folder in line:
                    found.append(line)
            except OSError:
                pass
        return found

    def close(self):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(40)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        for pid in glob.glob(self.data + '/postgres/postmaster.pid'):
            with open(pid) as f:
                os.kill(int(f.readline()), signal.SIGQUIT)
        if self.made:
            shutil.rmtree(self.folder, ignore_errors=True)


def with_dev(**kw):
    def wrap(function):
        def test():
            dev = Dev(**kw)
            try:
                function(dev)
            except Exception:
                print(dev.log())
                raise
            finally:
                dev.close()
        return test
    return wrap


def is_dead(pid):
    try:
        with open('/proc/%d/stat' % pid) as f:
            return f.read().rpartition(') ')[2].startswith('Z')
    except OSError:
        return True


def agents_folder(parent, **definitions):
    folder = parent + '/agents'
    os.makedirs(folder, exist_ok=True)
    for name, definition in definitions.items():
        with open('%s/%s.json' % (folder, name), 'w') as f:
            f.write(definition if isinstance(definition, str) else json.dumps(definition))
    return folder


@with_dev(args=('--workers', '2', '--schedulers', '2', '--agents', 'examples/agents'))
def test_it_comes_up_works_and_goes_away(dev):
    with open(dev.out) as f:
        assert re.fullmatch(r'ready http://127\.0\.0\.1:\d+\n', f.read())
    assert 'librarian' in dev.cli('agents', 'list').stdout
    assert len(dev.children('nocturne-worker')) == 2
    assert len(dev.children('nocturne-scheduler')) == 2
    assert dev.sql('show fsync') == 'on' and dev.sql('show listen_addresses') == ''
    doctor = subprocess.run([NOCTURNE, 'doctor', '--json', '--database', dev.conninfo()],
                            capture_output=True, text=True, env=harness.sanitizer_env())
    report = json.loads(doctor.stdout)
    assert (doctor.returncode, report['level']) == (0, 'ok'), report
    dev.stop(signal.SIGINT)
    with open(dev.out) as f:
        assert len(f.readlines()) == 1
    assert not os.path.exists(dev.data + '/database')
    assert not os.path.exists(dev.data + '/postgres/postmaster.pid')


@with_dev()
def test_a_second_one_on_the_folder_or_the_port_says_so(dev):
    port = dev.url.rpartition(':')[2]
    os.mkdir(dev.folder + '/second')
    same_folder = Dev(dev.folder + '/second', data=dev.data, wait=False)
    assert same_folder.popen.wait(10) == 1
    assert 'another nocturne dev (pid %d)' % dev.pid in same_folder.log()
    other_folder = Dev(listen='127.0.0.1:' + port, wait=False)
    try:
        assert other_folder.popen.wait(10) == 1
        assert '127.0.0.1:%s: Address already in use' % port in other_folder.log()
    finally:
        other_folder.close()
    assert dev.popen.poll() is None
    dev.cli('list')


@with_dev(args=('--agents', 'examples/agents'))
def test_a_killed_one_leaves_a_folder_that_starts_again(dev):
    agents_folder(dev.folder, echo={'kind': 'echo'})
    dev.cli('agents', 'apply', dev.folder + '/agents')
    task = dev.cli('submit', 'echo', 'before', '--wait', '--json').stdout
    daemons = dev.children('nocturne-worker') + dev.children('nocturne-scheduler') + \
        dev.children('nocturne-api')
    assert len(daemons) == 3
    port = dev.url.rpartition(':')[2]
    dev.popen.kill()
    dev.popen.wait()
    wait_until(lambda: all(is_dead(pid) for pid in daemons), 20, 'the daemons follow their parent')
    again = Dev(dev.folder, listen='127.0.0.1:' + port)
    try:
        assert 'an earlier postgres is still there' in again.log()
        kept = json.loads(again.cli('show', json.loads(task)['task_id'], '--json').stdout)
        assert kept['status'] == 'completed'
        again.cli('submit', 'echo', 'after', '--wait')
        again.stop()
    finally:
        again.close()


@with_dev()
def test_killed_in_the_middle_of_everything_it_starts_again(dev):
    """kill -9 of dev, of PostgreSQL's postmaster, and a stale postmaster.pid of somebody alive."""
    postmaster = dev.children('postgres')[0]
    dev.popen.kill()
    os.kill(postmaster, signal.SIGKILL)
    dev.popen.wait()
    wait_until(lambda: is_dead(postmaster), 10)
    path = dev.data + '/postgres/postmaster.pid'
    with open(path) as f:
        lines = f.readlines()
    with open(path, 'w') as f:
        f.writelines(['%d\n' % os.getpid()] + lines[1:])
    again = Dev(dev.folder)
    try:
        again.cli('list')
        again.stop()
    finally:
        again.close()


def test_killed_while_it_creates_the_cluster():
    dev = Dev(wait=False)
    try:
        wait_until(lambda: glob.glob(dev.data + '/postgres.new.*/PG_VERSION'), 20)
        dev.popen.kill()
        dev.popen.wait()
        again = Dev(dev.folder)
        again.cli('list')
        again.stop()
        again.close()
    finally:
        dev.close()


def test_what_initdb_leaves_is_removed():
    dev = Dev(wait=False)
    try:
        os.makedirs(dev.data, exist_ok=True)
        os.makedirs(dev.data + '/postgres.new.1/base', exist_ok=True)
        wait_until(dev.ready, 30)
        dev.stop()
        again = Dev(dev.folder)
        again.stop()
        assert glob.glob(dev.data + '/postgres.new.*') == []
        again.close()
    finally:
        dev.close()


@with_dev(args=('--workers', '1'))
def test_a_child_that_dies_is_started_again(dev):
    for name in ('nocturne-worker', 'nocturne-api', 'nocturne-scheduler', 'postgres'):
        old = dev.children(name)[0]
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: [p for p in dev.children(name) if p != old], 30, 'a new ' + name)
        assert dev.popen.poll() is None
    agents = agents_folder(dev.folder, echo={'kind': 'echo'})
    wait_until(lambda: dev.cli('agents', 'apply', agents, check=False).returncode == 0, 30, 'an api')
    assert dev.cli('submit', 'echo', 'x', '--wait', '--timeout', '30s').stdout == 'x\n'
    dev.stop()


@with_dev()
def test_it_drains_a_running_turn_and_the_next_start_finishes_it(dev):
    sim = subprocess.Popen([harness.program('tests/fake/modelsim'), '--port', '0'],
                           stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        url = re.search(r'http\S+', sim.stdout.readline()).group(0)
        agents = agents_folder(dev.folder, a={'kind': 'llm', 'model': {
            'provider': 'openai', 'base_url': url, 'name': 's'}})
        dev.cli('agents', 'apply', agents)
        short = dev.cli('submit', 'a', 'stream 20 tokens 50ms').stdout.strip()
        wait_until(lambda: json.loads(dev.cli('show', short, '--json').stdout)['last_seq'] > 3, 10)
        dev.stop()
        again = Dev(dev.folder)
        try:
            task = json.loads(again.cli('wait', short, '--json', '--timeout', '30s').stdout)
            assert task['output']['text'].split() == ['tok%d' % i for i in range(20)], task
            again.stop()
        finally:
            again.close()
    finally:
        sim.kill()
        sim.wait()
        sim.stdout.close()


def test_mistakes_are_told_before_anything_starts():
    folder = tempfile.mkdtemp(prefix='nocturne-dev-', dir='/tmp')
    os.chmod(folder, 0o755)
    bad = agents_folder(folder, bad={'kind': 'llm'})
    try:
        for args, code, text in ((('--agents', bad), 1, 'bad.json: /model'),
                                 (('--agents', folder + '/none'), 3, 'none'),
                                 (('--workers', '0'), 1, '--workers'),
                                 (('--listen', 'nonsense'), 1, 'not HOST:PORT'),
                                 (('--listen', '127.0.0.1:99999'), 1, 'not HOST:PORT'),
                                 (('--listen', '192.0.2.1:80'), 1, 'Cannot assign'),
                                 (('extra',), 2, 'too many')):
            done = subprocess.run([NOCTURNE, 'dev', '--data', folder + '/data', *args],
                                  capture_output=True, text=True, timeout=30,
                                  env=harness.sanitizer_env())
            assert done.returncode == code, (args, done)
            assert text in done.stderr and done.stdout == '', (args, done)
        assert not os.path.exists(folder + '/data/postgres')
    finally:
        shutil.rmtree(folder)


def test_a_cluster_of_another_version_is_refused():
    folder = tempfile.mkdtemp(prefix='nocturne-dev-', dir='/tmp')
    os.chmod(folder, 0o755)
    try:
        os.makedirs(folder + '/data/postgres')
        with open(folder + '/data/postgres/PG_VERSION', 'w') as f:
            f.write('9\n')
        done = subprocess.run([NOCTURNE, 'dev', '--data', folder + '/data'], capture_output=True,
                              text=True, timeout=30, env=harness.sanitizer_env())
        assert done.returncode == 1 and 'made by PostgreSQL 9' in done.stderr, done
    finally:
        shutil.rmtree(folder)


def test_a_folder_with_a_long_or_odd_name():
    top = tempfile.mkdtemp(prefix='nocturne-dev-', dir='/tmp')
    os.chmod(top, 0o755)
    folder = top + '/' + 'x' * 100 + "/it's 100% \"odd\", ä"
    os.makedirs(folder)
    dev = Dev(folder, data=folder + '/data')
    try:
        assert len(dev.conninfo()) < 200
        dev.cli('list')
        sockets = re.search(r'%2Ftmp%2F(nocturne%2D\w+)', dev.conninfo())
        assert sockets, dev.conninfo()
        dev.stop()
        assert not os.path.exists('/tmp/' + sockets.group(1).replace('%2D', '-'))
    finally:
        dev.close()
        shutil.rmtree(top)


def test_with_a_database_of_somebody_else():
    env = harness.Env()
    dev = Dev(args=('--database', env.conninfo))
    try:
        assert os.listdir(dev.folder) != [] and not os.path.exists(dev.data)
        assert env.value('select count(*) from nocturne.worker where expires_at > now()') == 1
        dev.cli('list')
        dev.stop()
    finally:
        dev.close()
    down = Dev(args=('--database', 'host=/nonexistent'), wait=False)
    try:
        assert down.popen.wait(20) == 8, down.log()
    finally:
        down.close()


@with_dev(wait=False)
def test_a_signal_while_it_starts(dev):
    wait_until(lambda: dev.children('initdb') or dev.children('postgres'), 20, every=0.005)
    dev.stop(signal.SIGTERM)
