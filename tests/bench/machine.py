"""What the machine is and does: for the record of a run, and CPU and memory of processes."""
import os
import platform
import re
import subprocess
import time

TICK = os.sysconf('SC_CLK_TCK')


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ''


def busy(seconds=0.3):
    """Fraction of all CPUs that is in use now."""
    def snap():
        f = [int(x) for x in read('/proc/stat').split('\n', 1)[0].split()[1:9]]
        return sum(f), f[3] + f[4]
    total, idle = snap()
    time.sleep(seconds)
    total2, idle2 = snap()
    return 1 - (idle2 - idle) / max(1, total2 - total)


def cpu(pid):
    """Seconds of CPU of one process, without its children."""
    text = read('/proc/%d/schedstat' % pid)
    return int(text.split()[0]) / 1e9 if text else 0.0


def postgres_cpu(postmaster):
    """Seconds of CPU of a whole server, ended backends included."""
    def fields(pid):
        return read('/proc/%d/stat' % pid).rsplit(')', 1)[-1].split()
    own = fields(postmaster)
    total = sum(int(x) for x in own[11:15]) / TICK
    for name in os.listdir('/proc'):
        if name.isdigit():
            f = fields(int(name))
            if len(f) > 12 and int(f[1]) == postmaster:
                total += (int(f[11]) + int(f[12])) / TICK
    return total


def rss(pid):
    """Resident bytes."""
    found = re.search(r'VmRSS:\s+(\d+)', read('/proc/%d/status' % pid))
    return int(found.group(1)) * 1024 if found else 0


def line(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True).stdout.strip()
    except OSError:
        return None


def describe(root):
    model = re.search(r'model name\s*:\s*(.*)', read('/proc/cpuinfo'))
    dirty = line('git', '-C', root, 'status', '--porcelain', '--untracked-files=no')
    memory = re.search(r'MemTotal:\s+(\d+)', read('/proc/meminfo'))
    return {
        'commit': line('git', '-C', root, 'rev-parse', '--short', 'HEAD'), 'dirty': bool(dirty),
        'at': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), 'cpus': os.cpu_count(),
        'cpu': model.group(1) if model else platform.machine(),
        'memory_gib': round(int(memory.group(1)) / 2**20, 1) if memory else None,
        'kernel': platform.release(), 'compiler': line('cc', '-dumpfullversion'),
        'load_average': os.getloadavg()[0],
    }
