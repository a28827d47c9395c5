"""One PostgreSQL for ours and the peers: on TCP, durable, and large enough not to be the subject."""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
os.environ.setdefault('BUILD', os.path.join(ROOT, 'build'))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'system'))

import cluster  # noqa: E402
import harness  # noqa: E402
import machine  # noqa: E402

SETTINGS = """
listen_addresses = '127.0.0.1'
port = %d
max_connections = 300
shared_buffers = 512MB
fsync = on
synchronous_commit = on
full_page_writes = on
max_wal_size = 8GB
checkpoint_timeout = 15min
shared_preload_libraries = 'pg_stat_statements'
pg_stat_statements.track = none
%s
"""
SHOWN = ('server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level',
         'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'autovacuum', 'max_connections')


class Server(cluster.Cluster):
    def __init__(self, extra=''):
        self.port = harness.free_port()
        super().__init__(extra=SETTINGS % (self.port, extra))
        cluster._shared = self  # what harness.Env uses

    def conninfo(self, db):
        return 'host=127.0.0.1 port=%d dbname=%s user=%s' % (self.port, db, self.user)

    def url(self, db='postgres'):
        return 'postgres://%s@127.0.0.1:%d/%s' % (self.user, self.port, db)

    def pid(self):
        return int(machine.read(self.folder + '/data/postmaster.pid').split('\n')[0])

    def cpu(self):
        return machine.postgres_cpu(self.pid())

    def wal(self):
        """Bytes of WAL so far."""
        return int(self.psql('postgres', "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def wal_images(self, first, last):
        """How many of the bytes of WAL between two places are page images: a page goes into the WAL whole when it
        is changed for the first time after a checkpoint."""
        return int(self.psql('postgres', """set client_min_messages = error; create extension if not exists pg_walinspect;
            select sum(fpi_size) from pg_get_wal_stats('0/0'::pg_lsn + %d,
                least('0/0'::pg_lsn + %d, pg_current_wal_flush_lsn()))""" % (first, last)))

    def dump_wal(self, first, last, *options):
        """What pg_waldump says of the WAL between two places, in bytes as wal() counts them."""
        place = ['%X/%X' % (at >> 32, at & 0xffffffff) for at in (first, last)]
        return subprocess.run([os.path.join(cluster.bindir(), 'pg_waldump'), '-p', self.folder + '/data/pg_wal',
                               '-s', place[0], '-e', place[1], *options], capture_output=True, text=True, timeout=300).stdout

    def settings(self):
        return {name: self.psql('postgres', 'show ' + name).strip() for name in SHOWN}

    def set(self, text):
        """Settings that need a restart."""
        self.down()
        with open(self.folder + '/data/postgresql.conf', 'a') as f:
            f.write(text + '\n')
        self.up()

    def version(self):
        return re.match(r'[\d.]+', self.psql('postgres', 'show server_version')).group(0)
