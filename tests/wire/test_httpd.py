#!/usr/bin/python3
"""test_httpd.py PROBE: what lib/httpd promises beyond conformance/http/traps.py.

Prints one line per check and, last, `N passed, N failed`.
"""
import contextlib
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PROBE = sys.argv[1]
GET = b'GET /json HTTP/1.1\r\nHost: a\r\n\r\n'
UPGRADE = (b'GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n'
           b'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n')
passed = failed = 0


def check(name, ok, note=''):
    global passed, failed
    passed += bool(ok)
    failed += not ok
    print(('PASS ' if ok else 'FAIL ') + name + ('' if ok else f'   {note!r}'), flush=True)


def free_port(host='127.0.0.1'):
    with socket.create_server((host, 0), family=socket.AF_INET6 if ':' in host else socket.AF_INET) as s:
        return s.getsockname()[1]


@contextlib.contextmanager
def probe(host='127.0.0.1', files=None):
    """A running probe; its exit status (leaks are told there) is a check."""
    port = free_port(host)

    def limit():
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    proc = subprocess.Popen([PROBE, host, str(port)], preexec_fn=limit,
                            env=dict(os.environ, **({'KEEP_LIMITS': '1'} if files else {})))
    deadline = time.time() + 10
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            break
        except OSError:
            if time.time() > deadline or proc.poll() is not None:
                raise
            time.sleep(0.02)
    try:
        yield proc, (host, port)
    finally:
        if proc.poll() is None:
            proc.send_signal(signal.SIGTERM)
        code = proc.wait(15)
        if code != 0:
            check('the probe ends with status 0', False, code)


def read_to_end(sock, timeout=3.0):
    """Everything up to the end: (bytes, 'eof' | 'rst' | 'open')."""
    sock.settimeout(timeout)
    data = b''
    try:
        while True:
            more = sock.recv(1 << 16)
            if not more:
                return data, 'eof'
            data += more
    except socket.timeout:
        return data, 'open'
    except ConnectionError:
        return data, 'rst'


def read_until(sock, mark, timeout=5.0):
    sock.settimeout(timeout)
    data = b''
    while mark not in data:
        more = sock.recv(1 << 16)
        if not more:
            break
        data += more
    return data


def ask(address, data, timeout=3.0):
    with socket.create_connection(address, 3) as sock:
        sock.sendall(data)
        return read_to_end(sock, timeout)


def status_of(data):
    return int(data[9:12]) if data.startswith(b'HTTP/1.1 ') else None


def stats(address):
    data, _ = ask(address, b'GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
    return json.loads(data.split(b'\r\n\r\n', 1)[1])


def until(condition, seconds=5.0):
    deadline = time.time() + seconds
    while time.time() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def refusals(address):
    table = (
        (400, b'GET json HTTP/1.1\r\nHost: a\r\n\r\n', 'relative target'),
        (400, b'GET /json#top HTTP/1.1\r\nHost: a\r\n\r\n', 'fragment in the target'),
        (400, b'GET  /json HTTP/1.1\r\nHost: a\r\n\r\n', 'two spaces in the request line'),
        (400, b'GET /json HTTP/1.1 \r\nHost: a\r\n\r\n', 'space behind the version'),
        (400, b'GET /js\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n', 'raw UTF-8 in the target'),
        (400, b'GET * HTTP/1.1\r\nHost: a\r\n\r\n', 'asterisk without OPTIONS'),
        (400, b'GET http:///json HTTP/1.1\r\nHost: a\r\n\r\n', 'absolute target without a host'),
        (400, b'GET /json HTTP/1.1\r\nHost: a/b\r\n\r\n', 'slash in Host'),
        (400, b'GET /json HTTP/1.1\r\nHost: a b\r\n\r\n', 'space in Host'),
        (400, b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx',
         'Content-Length twice'),
        (400, b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\nx\r\n0\r\n\r\n',
         'chunk extension'),
        (400, b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n',
         'trailer'),
        (413, b'POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n', 'body one byte too large'),
        (414, b'GET /' + b'a' * 20000 + b' HTTP/1.1\r\nHost: a\r\n\r\n', 'long target'),
        (417, b'POST /echo HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\nx', 'expectation'),
        (431, b'GET /json HTTP/1.1\r\nHost: a\r\n' + b'X: 1\r\n' * 200 + b'\r\n', 'many headers'),
        (431, b'GET /json HTTP/1.1\r\nHost: a\r\nX: ' + b'a' * 20000 + b'\r\n\r\n', 'large header'),
        (501, b'FROB /json HTTP/1.1\r\nHost: a\r\n\r\n', 'unknown method'),
        (501, b'CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n', 'CONNECT'),
        (501, b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n', 'transfer coding'),
        (505, b'GET /json HTTP/2.0\r\nHost: a\r\n\r\n', 'HTTP/2.0'),
        (505, b'GET /json HTTP/1.2\r\nHost: a\r\n\r\n', 'HTTP/1.2'),
    )
    for want, data, name in table:
        data, how = ask(address, data + GET)
        check(f'{name}: {want}, a problem, and close', status_of(data) == want and how == 'eof' and
              b'\r\nConnection: close\r\n' in data and b': application/problem+json' in data and
              data.endswith(b'"}') and json.loads(data.split(b'\r\n\r\n', 1)[1])['status'] == want,
              (data, how))


def answers(address):
    data, how = ask(address, b'GET http://a/json?x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
    check('absolute-form target is served', status_of(data) == 200 and how == 'eof', data[:60])
    data, _ = ask(address, b'OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n', 0.3)
    check('OPTIONS * reaches the handler', status_of(data) == 404, data[:60])
    data, how = ask(address, b'GET /json HTTP/1.0\r\nConnection: keep-alive\r\n\r\n' * 2, 0.3)
    check('HTTP/1.0 with keep-alive stays open and is told so',
          how == 'open' and data.count(b'Connection: keep-alive') == 2, (data[:90], how))
    data, _ = ask(address, GET, 0.3)
    check('answers carry a Date', re.search(rb'\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n', data), data)
    data, _ = ask(address, b'HEAD /json HTTP/1.1\r\nHost: a\r\n\r\n', 0.3)
    check('HEAD: length and no body', b'\r\nContent-Length: 200\r\n' in data and data.endswith(b'\r\n\r\n'), data)
    with socket.create_connection(address, 3) as sock:
        for piece in (GET + b'\r', b'\n', GET):
            sock.sendall(piece)
            time.sleep(0.05)
        data, _ = read_to_end(sock, 0.3)
    check('an empty line between requests, cut in two, is skipped', data.count(b'HTTP/1.1 200') == 2, data[:60])
    with socket.create_connection(address, 3) as sock:
        sock.sendall(b'POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx')
        data, _ = read_to_end(sock, 0.3)
    check('no 100 for a body that has come', status_of(data) == 200, data[:60])


def pipelining(address):
    """A client that sends for long before it reads: the server must wait, not drop nor swell."""
    count = 30000
    with socket.create_connection(address, 3) as sock:
        sender = threading.Thread(target=sock.sendall, args=(GET * count,), daemon=True)
        sender.start()
        time.sleep(1)
        rss = stats(address)['rss_kb']
        data, _ = read_to_end(sock, 2)
    check('30,000 pipelined requests, read late, are all answered', data.count(b'HTTP/1.1 200') == count,
          data.count(b'HTTP/1.1 200'))
    check('memory stays the same meanwhile', stats(address)['rss_kb'] - rss < 8000)
    tail = b'GET /wait HTTP/1.1\r\nHost: a\r\n\r\n'
    with socket.create_connection(address, 3) as sock:
        sock.sendall(tail + GET * 100)
        until(lambda: stats(address)['wait'] == 1)
        ask(address, b'GET /wake HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        data, _ = read_to_end(sock, 0.5)
    check('what was pipelined behind a parked request follows it',
          data.count(b'HTTP/1.1 200') == 101 and b'woken' in data[:200], data.count(b'HTTP/1.1 200'))
    with socket.create_connection(address, 3) as sock:
        sock.sendall(b'GET /late-nowatch?50 HTTP/1.1\r\nHost: a\r\n\r\n' * 3)
        sock.shutdown(socket.SHUT_WR)
        data, how = read_to_end(sock)
    check('three pipelined and a half-close: three answers, then the end',
          data.count(b'"late"') == 3 and how == 'eof', (data, how))


def streams(address):
    with socket.create_connection(address, 3) as sock:
        sock.sendall(b'GET /sse HTTP/1.1\r\nHost: a\r\n\r\n')
        head = read_until(sock, b'\r\n\r\n')
        ask(address, b'GET /hz?50,40 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        data = read_until(sock, b'\n\n')
        ask(address, b'GET /hz?0,40 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
    check('event stream: chunked, no length',
          b'Transfer-Encoding: chunked' in head and b'Content-Length' not in head, head)
    check('one event, one chunk', data.startswith(b'28\r\ndata: '), data[:20])
    chunks = b'/chunks HTTP/1.1\r\nHost: a\r\n\r\n'
    data, how = ask(address, b'GET ' + chunks + b'HEAD ' + chunks + GET, 0.3)
    bodies = re.split(rb'HTTP/1.1 200 OK\r\n.*?\r\n\r\n', data, flags=re.S)
    check('a stream that ends leaves the connection open; HEAD gets its head alone',
          bodies[:3] == [b'', b'3\r\nabc\r\n' * 3 + b'0\r\n\r\n', b''] and how == 'open', (bodies, how))
    data, how = ask(address, b'GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n')
    check('a stream for HTTP/1.0 ends with its connection',
          data.endswith(b'\r\n\r\nabcabcabc') and how == 'eof', (data, how))
    data, how = ask(address, b'GET /cut HTTP/1.1\r\nHost: a\r\n\r\n')
    check('an aborted stream is reset, without a last chunk', how == 'rst' and b'0\r\n\r\n' not in data, (data, how))
    with socket.create_connection(address, 3) as sock:
        sock.sendall(b'GET /big?40 HTTP/1.1\r\nHost: a\r\n\r\n' + GET)
        time.sleep(0.5)
        waiting = stats(address)
        data, _ = read_to_end(sock, 1)
    check('40 MB at the pace of the reader, and the connection goes on',
          data.count(b'HTTP/1.1 200') == 2 and len(data) > 40_000_000 and waiting['slow'] == 0, len(data))
    with socket.create_connection(address, 3) as sock:
        before = stats(address)['sgone']
        sock.sendall(b'GET /big?1000 HTTP/1.1\r\nHost: a\r\n\r\n')
        read_until(sock, b'\r\n\r\n')
    check('a reader that leaves in the middle is noticed', until(lambda: stats(address)['sgone'] == before + 1))
    with socket.create_connection(address, 3) as sock:
        sock.sendall(b'GET /sse HTTP/1.0\r\n\r\n')
        head = read_until(sock, b'\r\n\r\n')
    check('event stream for HTTP/1.0: ended by the connection',
          b'Transfer-Encoding' not in head and b'Connection: close' in head, head)
    check('streams whose peer left are told so', until(lambda: stats(address)['sse'] == 0))


def frame(opcode, payload):
    key = b'\1\2\3\4'
    body = bytes(ch ^ key[i & 3] for i, ch in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + key + body


def close_code(data):
    at = data.rfind(b'\x88\x02')
    return struct.unpack('>H', data[at + 2:at + 4])[0] if at >= 0 else None


def upgrade(address, more=b'', path=b'/ws'):
    sock = socket.create_connection(address, 3)
    sock.sendall(UPGRADE.replace(b'/ws', path) + b'\r\n' + more)
    return sock, read_until(sock, b'\r\n\r\n')


def websockets(address):
    data, _ = ask(address, UPGRADE + b'Content-Length: 1\r\n\r\nx', 0.5)
    check('an upgrade with a body: 400', status_of(data) == 400, data[:60])
    data, _ = ask(address, UPGRADE.replace(b'ZQ==', b'ZQ') + b'\r\n', 0.5)
    check('an upgrade with a short key: 400', status_of(data) == 400, data[:60])
    data, _ = ask(address, UPGRADE.replace(b': 13', b': 12') + b'\r\n', 0.5)
    check('another version: 426 and the one that is spoken',
          status_of(data) == 426 and b'\r\nSec-WebSocket-Version: 13\r\n' in data, data[:60])
    data, _ = ask(address, b'GET /ws HTTP/1.1\r\nHost: a\r\n\r\n' + GET, 0.5)
    check('no upgrade: 400, and the connection goes on',
          status_of(data) == 400 and data.count(b'HTTP/1.1 200') == 1, data[:60])
    sock, data = upgrade(address, frame(1, b'early'), b'/ws-late')
    if b'early' not in data:
        data = read_until(sock, b'early')
    check('an upgrade granted later reads what came before', b'early' in data, data)
    sock.close()
    sock, _ = upgrade(address, b'', b'/ws-late')
    sock.close()
    with socket.create_connection(address, 3) as sock:
        sock.sendall(UPGRADE.replace(b'/ws', b'/ws-late') + b'\r\n')
        sock.shutdown(socket.SHUT_WR)
        data, how = read_to_end(sock)
    check('an upgrade of one that has left ends at once', how == 'eof', (data, how))
    sock, _ = upgrade(address)
    sock.sendall(frame(2, b'x'))
    data, how = read_to_end(sock)
    check('a binary message: 1003', close_code(data) == 1003 and how == 'eof', (data, how))
    sock.close()
    sock, _ = upgrade(address)
    sock.sendall(b'\x01\x81\0\0\0\0a' + b'\x00\x81\0\0\0\0a' * 2000)
    data, how = read_to_end(sock)
    check('2,001 fragments: 1009', close_code(data) == 1009, (data, how))
    sock.close()
    check('no WebSocket is left', until(lambda: stats(address)['ws'] == 0))


def deadlines(address):
    with socket.create_connection(address, 3) as fresh, socket.create_connection(address, 3) as kept:
        kept.sendall(GET)
        read_until(kept, b'"}')
        kept.sendall(b'GET /json HT')
        fresh.sendall(b'GET /json HT')
        started = time.time()
        for name, sock in (('a kept-alive', kept), ('a fresh', fresh)):
            data, how = read_to_end(sock, 8)
            check(f'{name} connection with half a head: 408 at its deadline',
                  status_of(data) == 408 and how == 'eof' and 4.5 < time.time() - started < 6.5,
                  (data[:60], how, time.time() - started))


def full_house():
    """64 descriptors: 32 connections are served, 32 more get 429, the rest waits for room."""
    with probe(files=64) as (proc, address):
        socks = [socket.create_connection(address, 3) for _ in range(32)]
        for sock in socks:
            sock.sendall(GET)
            read_until(sock, b'"}')
        data, how = ask(address, GET)
        check('above max_conns: 429', status_of(data) == 429 and b'Retry-After: 1' in data and how == 'eof', (data[:60], how))
        surplus = [socket.create_connection(address, 3) for _ in range(120)]
        cpu = lambda: sum(map(int, open(f'/proc/{proc.pid}/stat').read().rsplit(')', 1)[1].split()[11:13]))
        ticks = cpu()
        time.sleep(1.5)
        check('out of descriptors: no spinning', cpu() - ticks < 30, cpu() - ticks)
        socks[0].sendall(GET)
        check('who is in is served meanwhile', b'200' in read_until(socks[0], b'"}'))
        for sock in socks + surplus:
            sock.close()
        served = until(lambda: status_of(ask(address, GET, 0.3)[0]) == 200, 8)
        check('when they leave, there is room again', served)


def drain():
    with probe() as (proc, address):
        ws, _ = upgrade(address)
        sse = socket.create_connection(address, 3)
        sse.sendall(b'GET /sse HTTP/1.1\r\nHost: a\r\n\r\n')
        read_until(sse, b'\r\n\r\n')
        late = socket.create_connection(address, 3)
        late.sendall(b'GET /late-nowatch?500 HTTP/1.1\r\nHost: a\r\n\r\n')
        half = socket.create_connection(address, 3)
        half.sendall(GET[:-2])
        fresh = socket.create_connection(address, 3)
        kept, silent = (socket.create_connection(address, 3) for _ in range(2))
        for sock in (kept, silent):
            sock.sendall(GET)
            read_until(sock, b'\r\n\r\n')
        until(lambda: stats(address)['sse'] == 1)
        ask(address, b'GET /drain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
        half.sendall(b'\r\n')
        fresh.sendall(GET)
        kept.sendall(GET)
        data, how = read_to_end(kept)
        check('drain: the next request of who was idle is answered, then closed',
              b'HTTP/1.1 200' in data and b'Connection: close' in data and how == 'eof', (data, how))
        data, how = read_to_end(fresh)
        check('drain: who had just connected is answered, then closed',
              status_of(data) == 200 and b'Connection: close' in data and how == 'eof', (data[:60], how))
        data, how = read_to_end(half)
        check('drain: a request half sent is answered, then closed',
              status_of(data) == 200 and b'Connection: close' in data and how == 'eof', (data[:60], how))
        data, how = read_to_end(late)
        check('drain: a request in hand is answered, then closed',
              status_of(data) == 200 and b'Connection: close' in data and how == 'eof', (data[:60], how))
        data, how = read_to_end(silent)
        check('drain: who stays idle is closed', b'HTTP/1.1' not in data and how == 'eof', (data, how))
        data, how = read_to_end(ws)
        check('drain: a WebSocket is closed with 1001', close_code(data) == 1001, (data, how))
        data, how = read_to_end(sse, 5)
        check('drain: an endless stream is cut, and it shows',
              how == 'rst' and not data.endswith(b'0\r\n\r\n'), (data, how))
        check('drain: the probe ends with status 0', proc.wait(5) == 0, proc.returncode)


def held():
    """Handlers that answer when connection, or connection and server, are gone."""
    with probe() as (proc, address):
        sock = socket.create_connection(address, 3)
        sock.sendall(b'GET /late-nowatch?300 HTTP/1.1\r\nHost: a\r\n\r\n')
        until(lambda: stats(address)['conns'] == 2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        sock.close()
        check('a connection reset in hand is closed before its answer',
              until(lambda: stats(address)['conns'] == 1, 0.25))
        late = socket.create_connection(address, 3)
        late.sendall(b'GET /late-nowatch?1500 HTTP/1.1\r\nHost: a\r\n\r\n')
        until(lambda: stats(address)['conns'] == 2)
        proc.send_signal(signal.SIGTERM)
        data, how = read_to_end(late)
        check('the end of the grace cuts what is still in hand', how == 'rst' and data == b'', (data, how))
        check('an answer after the end of the server harms nobody', proc.wait(5) == 0, proc.returncode)


def listening():
    with probe() as (_, address):
        second = subprocess.run([PROBE, address[0], str(address[1])], capture_output=True, timeout=10)
        check('a taken port is an error', second.returncode == 1 and b'in use' in second.stderr, second.stderr)
    wrong = subprocess.run([PROBE, 'localhost', '0'], capture_output=True, timeout=10)
    check('a name is no address', wrong.returncode == 1 and b'numeric' in wrong.stderr, wrong.stderr)
    try:
        free_port('::1')
    except OSError:
        return  # no IPv6 here
    with probe('::1') as (_, address):
        check('IPv6 is served', status_of(ask(address, GET, 0.3)[0]) == 200)


def silent_websocket(address):
    """61 s: a peer that does not answer a ping is dropped, one that does stays."""
    silent, _ = upgrade(address)
    good, _ = upgrade(address)
    ping = read_until(good, b'\x89', 40)
    good.sendall(frame(10, b''))
    data, how = read_to_end(silent, 45)
    check('WebSocket: pinged, then dropped when silent', data[:1] == b'\x89' and how == 'rst', (data, how))
    good.sendall(frame(1, b'hi'))
    check('WebSocket: who answers stays', b'hi' in read_until(good, b'hi'), ping)


with probe() as (_, where):
    for group in (refusals, answers, pipelining, streams, websockets, deadlines):
        group(where)
    if os.environ.get('SLOW'):
        silent_websocket(where)
full_house()
drain()
held()
listening()
print(f'{passed} passed, {failed} failed')
sys.exit(failed > 0)
