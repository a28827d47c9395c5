#!/usr/bin/python3
"""Run the load against a complete Nocturne (release build) and print one JSON object a run.

usage: bench.py [--turns N --tokens T --every MS] [--workers N] [--rounds N]
Without --turns: the standard rows. Each round is a fresh database; figures are medians of rounds.
Everything runs on this machine: PostgreSQL (fsync on), scheduler, workers, api, the simulated
model and the load itself, so ratios say more than absolutes.
"""
import argparse, json, os, platform, shutil, signal, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('BUILD', os.path.join(ROOT, 'build'))
TICKS = os.sysconf('SC_CLK_TCK')
ROWS = [  # turns, tokens, every_ms
    (200, 20, 0), (100, 200, 20), (1000, 20, 50), (1000, 100, 50),
]


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def children(pid):
    """All descendants of pid with their command lines."""
    found = {}
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                with open(f'/proc/{entry}/stat') as f:
                    stat = f.read()
                with open(f'/proc/{entry}/cmdline') as f:
                    cmd = f.read().replace('\0', ' ')
            except OSError:
                continue
            found[int(entry)] = (int(stat.rsplit(')', 1)[1].split()[1]), cmd)
    tree, grown = {pid}, True
    while grown:
        more = {p for p, (parent, _) in found.items() if parent in tree} - tree
        tree |= more
        grown = bool(more)
    return {p: found[p][1] for p in tree if p in found}


def usage(pid):
    """CPU seconds and peak memory (MiB) of one process."""
    try:
        with open(f'/proc/{pid}/stat') as f:
            fields = f.read().rsplit(')', 1)[1].split()
        with open(f'/proc/{pid}/status') as f:
            peak = [int(l.split()[1]) for l in f if l.startswith('VmHWM')]
    except OSError:
        return 0.0, 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS, (peak[0] / 1024 if peak else 0.0)


def by_role(pid):
    """{role: (cpu seconds, peak MiB)} of a `nocturne dev` and all it runs."""
    roles = {}
    for p, cmd in children(pid).items():
        role = next((r for r in ('nocturne-worker', 'nocturne-api', 'nocturne-scheduler')
                     if r in cmd), 'postgres' if 'postgres' in cmd else None)
        if role:
            cpu, peak = usage(p)
            old = roles.get(role, (0.0, 0.0))
            roles[role] = (old[0] + cpu, max(old[1], peak))
    return roles


def wal_bytes(data):
    """Bytes of WAL written so far, asked over the private cluster's socket."""
    for root, _, names in os.walk(data):
        for name in names:
            if name.startswith('.s.PGSQL.') and not name.endswith('.lock'):
                out = subprocess.run(
                    ['psql', '-XAtq', '-h', root, '-p', name.rsplit('.', 1)[1], '-U', 'nocturne',
                     '-d', 'postgres', '-c', "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"],
                    capture_output=True, text=True)
                if out.returncode == 0:
                    return int(out.stdout)
    return None


def run(turns, tokens, every, workers):
    folder = tempfile.mkdtemp(prefix='nocturne-bench-')
    os.chmod(folder, 0o755)
    port, model_port = free_port(), free_port()
    agents = os.path.join(folder, 'agents')
    os.mkdir(agents)
    with open(os.path.join(agents, 'bench.json'), 'w') as f:
        json.dump({'kind': 'llm', 'model': {
            'provider': 'openai', 'base_url': f'http://127.0.0.1:{model_port}/v1', 'name': 'sim'}}, f)
    log = open(os.path.join(folder, 'log'), 'w')
    sim = subprocess.Popen([f'{BUILD}/tests/fake/modelsim', '--port', str(model_port)],
                           stdout=subprocess.DEVNULL, stderr=log)
    dev = subprocess.Popen(
        [f'{BUILD}/bin/nocturne', 'dev', '--data', f'{folder}/data', '--listen',
         f'127.0.0.1:{port}', '--workers', str(workers), '--agents', agents],
        stdout=subprocess.PIPE, stderr=log, text=True, env=dict(os.environ, NOCTURNE_SLOTS='20000'))
    try:
        if not dev.stdout.readline().startswith('ready '):
            sys.exit('nocturne dev did not start: see ' + log.name)
        load = [f'{BUILD}/tests/bench/load', '--url', f'http://127.0.0.1:{port}', '--agent',
                'bench', '--tokens', str(tokens), '--every', str(every), '--turns']
        subprocess.run(load + ['20'], stdout=subprocess.DEVNULL, check=True)  # warm up
        before, wal = by_role(dev.pid), wal_bytes(folder)
        out = subprocess.run(load + [str(turns)], capture_output=True, text=True)
        after, wal_after = by_role(dev.pid), wal_bytes(folder)
        if not out.stdout:
            sys.exit('load failed: ' + out.stderr)
        row = json.loads(out.stdout)
        row['processes'] = {r: {'cpu_s': round(c - before.get(r, (0, 0))[0], 2),
                                'peak_mib': round(m, 1)} for r, (c, m) in sorted(after.items())}
        if wal is not None and wal_after is not None:
            row['wal_bytes'] = wal_after - wal
            row['wal_bytes_per_token'] = round((wal_after - wal) / max(1, row['tokens_seen']), 1)
        return row
    finally:
        dev.send_signal(signal.SIGTERM)
        sim.terminate()
        try:
            dev.wait(30)
        except subprocess.TimeoutExpired:
            dev.kill()
        sim.wait()
        shutil.rmtree(folder, ignore_errors=True)


def median(rows):
    """The rounds' medians, member by member."""
    first = rows[0]
    if isinstance(first, dict):
        return {k: median([r[k] for r in rows if k in r]) for k in first}
    return statistics.median(rows) if isinstance(first, (int, float)) else first


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--turns', type=int)
    p.add_argument('--tokens', type=int, default=20)
    p.add_argument('--every', type=int, default=50)
    p.add_argument('--workers', type=int, default=1)
    p.add_argument('--rounds', type=int, default=int(os.environ.get('ROUNDS', 3)))
    a = p.parse_args()
    rows = [(a.turns, a.tokens, a.every)] if a.turns else ROWS
    commit = subprocess.run(['git', '-C', ROOT, 'rev-parse', '--short', 'HEAD'],
                            capture_output=True, text=True).stdout.strip()
    for turns, tokens, every in rows:
        rounds = [run(turns, tokens, every, a.workers) for _ in range(a.rounds)]
        row = median(rounds)
        row.update(rounds=len(rounds), workers=a.workers, commit=commit, cpus=os.cpu_count(),
                   kernel=platform.release(), at=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))
        print(json.dumps(row), flush=True)


if __name__ == '__main__':
    main()
