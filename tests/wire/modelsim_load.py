"""How many streams the scripted model feeds: N streams of T tokens, D ms apart, read by epoll.

Prints one line of JSON: tokens/s, CPU seconds of the model, its peak memory, and the age in ms of
the tokens when they were read (a sample; of it, what this reader is late itself is a part).
Usage: modelsim_load.py MODELSIM [STREAMS [TOKENS [MS]]]
"""
import json
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time

STAMP = re.compile(rb'"content":"(\d{16}) "')
SAMPLE = 0.02


def start(argv):
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
    return process, port


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmHWM:\s+(\d+)", f.read())[1]) / 1024


def connect(port, streams, request):
    sockets = {}
    for _ in range(streams):
        s = socket.create_connection(("127.0.0.1", port))
        s.setblocking(False)
        sockets[s.fileno()] = s
    for s in sockets.values():
        s.sendall(request)
    return sockets


def read_all(sockets):
    poll, ages, done, reads = select.epoll(), [], 0, 0
    for fd in sockets:
        poll.register(fd, select.EPOLLIN)
    while sockets:
        for fd, _ in poll.poll():
            data = sockets[fd].recv(65536)
            reads += 1
            if random.random() < SAMPLE and (stamp := STAMP.search(data)):
                ages.append(time.time() * 1000 - int(stamp[1]) / 1000)
            finished = b"[DONE]" in data
            if finished or not data:
                done += finished
                poll.unregister(fd)
                sockets.pop(fd).close()
    return ages, done, reads


def main():
    streams, tokens, ms = (int(a) for a in (sys.argv[2:] + ["5000", "200", "50"][len(sys.argv) - 2:]))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    process, port = start([sys.argv[1], "--port", "0"])
    body = json.dumps({"stream": True, "messages": [
        {"role": "user", "content": "stamp %d tokens %dms" % (tokens, ms)}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    sockets = connect(port, streams, head + body)
    began, cpu = time.monotonic(), cpu_seconds(process.pid)
    ages, done, reads = read_all(sockets)
    took = time.monotonic() - began
    ages.sort()
    print(json.dumps({
        "streams": streams, "done": done, "tokens_per_s": round(done * tokens / took), "seconds": round(took, 2),
        "ideal_seconds": tokens * ms / 1000, "reads": reads, "model_cpu_share": round((cpu_seconds(process.pid) - cpu) / took, 3),
        "model_cpu_us_per_token": round((cpu_seconds(process.pid) - cpu) / max(1, done * tokens) * 1e6, 2),
        "model_peak_mb": round(peak_mb(process.pid), 1),
        "age_ms": {p: round(ages[min(len(ages) - 1, int(len(ages) * q))], 2)
                   for p, q in (("p50", .5), ("p99", .99), ("max", 1))} if ages else None}))
    process.send_signal(signal.SIGTERM)
    return 0 if done == streams and process.wait() == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
