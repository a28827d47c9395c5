"""A proxy in front of a PostgreSQL server's socket, for faults between a daemon and its database."""
import os
import shutil
import socket
import struct
import tempfile
import threading
import time

KEY = b'K\x00\x00\x00\x0c'  # BackendKeyData: process id and secret


class PgProxy:
    """conninfo() is that of `env`, through here. `refuses`: new connections are closed at once;
    `hole`: nothing goes through and nothing is closed; `pools`: clients are told the process id of
    nobody, as by a pooler. `arrivals`: when clients came, time.monotonic()."""

    def __init__(self, env, pools=False):
        self.env, self.pools = env, pools
        self.refuses = self.closed = False
        self.flows = threading.Event()
        self.flows.set()
        self.pairs, self.arrivals = [], []
        self.folder = tempfile.mkdtemp(prefix='nocturne-proxy-')
        os.chmod(self.folder, 0o755)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.folder + '/.s.PGSQL.5432')
        self.listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()

    def conninfo(self):
        return self.env.cluster.conninfo(self.env.db).replace(self.env.cluster.folder, self.folder)

    @property
    def hole(self):
        return not self.flows.is_set()

    @hole.setter
    def hole(self, value):
        self.flows.clear() if value else self.flows.set()

    def cut(self):
        """Close all connections, both ends."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            close(*pair)

    def close(self):
        self.closed = True
        self.listener.close()
        self.hole = False
        self.cut()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self):
        while not self.closed:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.arrivals.append(time.monotonic())
            if self.refuses:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.env.cluster.folder + '/.s.PGSQL.5432')
            except OSError:
                client.close()
                continue
            self.pairs.append((client, server))
            for source, sink, pools in ((client, server, False), (server, client, self.pools)):
                threading.Thread(target=self._pump, args=(source, sink, pools), daemon=True).start()

    def _pump(self, source, sink, pools):
        while True:
            try:
                data = source.recv(65536)
                self.flows.wait()
                if pools and KEY in data:
                    at = data.index(KEY) + len(KEY)
                    data = data[:at] + struct.pack('>i', 99999999) + data[at + 4:]
                    pools = False
                if not data:
                    break
                sink.sendall(data)
            except OSError:
                break
        close(source, sink)


def close(*sockets):
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
