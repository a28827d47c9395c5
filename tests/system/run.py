#!/usr/bin/python3
"""Run the system tests: run.py [NAME...]; a name is a module (test_sql), a test (test_sql.test_x)
or a part of either. JOBS modules run at once (3: they mostly wait). The last line is
`N passed, N failed`, before it one for each module."""
import faulthandler
import fcntl
import glob
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
TEST_SECONDS = 120
GRACE_SECONDS = 60  # after it the module's process is given up
# They take 40 s and more, longest first: begun first, so that no lane ends long after the others.
LONG = ['test_sqlfaults', 'test_outage', 'test_faults', 'test_vanish', 'test_modes', 'test_scheduler',
        'test_versions', 'test_crash_scheduler', 'test_crash_worker', 'test_retry', 'test_api',
        'test_load']


class Timeout(BaseException):
    """No test may catch it by accident."""


def wanted(name, filters):
    return not filters or any(f in name or name == f.partition('.')[0] for f in filters)


# ---- in the process of one module ----

def say(text):
    """In one piece, although modules run in parallel."""
    with open(os.environ['NOCTURNE_TEST_LOCK'], 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sys.stdout.write(text)
        sys.stdout.flush()


def on_alarm(*_):
    faulthandler.dump_traceback(all_threads=True)
    raise Timeout()


def call(function, seconds):
    """None, or why it failed."""
    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True)
    try:
        function()
        return None
    except Timeout:
        return 'not done within %d s\n%s' % (seconds, traceback.format_exc())
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


def logs():
    try:
        return '\n'.join(env.tails() for env in open_envs())
    except Exception:
        return traceback.format_exc()


def report(name, started, why):
    seconds = time.monotonic() - started
    if why is None:
        say('PASS %s %.2f s\n' % (name, seconds))
    else:
        text = 'FAIL %s %.2f s\n%s\n%s' % (name, seconds, why, logs())
        say('\n    '.join(text.rstrip().splitlines()) + '\n')
    return why is None


def open_envs():
    import harness
    return list(harness.open_envs)


def close_envs(keep=()):
    problems = []
    for env in open_envs():
        if env in keep:
            continue
        try:
            env.close()
        except Exception:
            problems.append(traceback.format_exc())
    if problems:
        raise AssertionError('\n'.join(problems))


def run_module(module_name, filters, result_path):
    counts = {'passed': 0, 'failed': 0}

    def step(name, function, seconds, counted=True):
        started = time.monotonic()
        before = open_envs()
        why = call(function, seconds)
        if why is not None or counted:
            counts['passed' if report(name, started, why) else 'failed'] += 1
        if why is not None and counted:  # those of a failed test are nobody's any more
            call(lambda: close_envs(before), TEST_SECONDS)
        return why is None

    started = time.monotonic()
    try:
        module = importlib.import_module(module_name)
    except Exception:
        counts['failed'] += not report(module_name, started, traceback.format_exc())
        module = None
    if module:
        tests = [(n, f) for n, f in vars(module).items()
                 if n.startswith('test_') and callable(f)
                 and wanted('%s.%s' % (module_name, n), filters)]
        ready = not hasattr(module, 'setup') or not tests or \
            step(module_name + '.setup', module.setup, TEST_SECONDS, counted=False)
        for name, function in tests if ready else []:
            step('%s.%s' % (module_name, name), function,
                 getattr(function, 'timeout', TEST_SECONDS))
        if ready and tests and hasattr(module, 'teardown'):
            step(module_name + '.teardown', module.teardown, TEST_SECONDS, counted=False)
        step(module_name + ': the daemons end well', close_envs, TEST_SECONDS, counted=False)
    with open(result_path, 'w') as f:
        json.dump(counts, f)


# ---- the run ----

def spawn(module, filters, folder):
    result = os.path.join(folder, module + '.json')
    process = subprocess.Popen([sys.executable, '-u', os.path.abspath(__file__), '--module', module,
                                result, *filters], stdin=subprocess.DEVNULL)
    status = process.wait()
    try:
        with open(result) as f:
            return json.load(f)
    except (OSError, ValueError):
        print('FAIL %s: its process ended with %d' % (module, status), flush=True)
        return {'passed': 0, 'failed': 1}


def modules_for(filters):
    modules = sorted(os.path.basename(p)[:-3] for p in glob.glob(HERE + '/test_*.py'))
    modules.sort(key=lambda m: LONG.index(m) if m in LONG else len(LONG))
    chosen = []
    for module in modules:
        with open(os.path.join(HERE, module + '.py')) as f:
            names = ['%s.%s' % (module, line[4:].partition('(')[0]) for line in f
                     if line.startswith('def test_')]
        if not names or any(wanted(n, filters) for n in names):
            chosen.append(module)
    return chosen


def main(filters):
    import cluster
    modules = modules_for(filters)
    if not modules:
        print('no test is called like that\n0 passed, 1 failed')
        return 1
    total = {'passed': 0, 'failed': 0}
    guard = threading.Lock()
    queue, lines = list(modules), []
    with tempfile.TemporaryDirectory(prefix='nocturne-run-') as folder:
        database = cluster.shared()
        os.environ['NOCTURNE_TEST_CLUSTER'] = database.folder
        os.environ['NOCTURNE_TEST_LOCK'] = os.path.join(folder, 'lock')

        def work():
            while True:
                with guard:
                    if not queue:
                        return
                    module = queue.pop(0)
                started = time.monotonic()
                counts = spawn(module, filters, folder)
                with guard:
                    lines.append('%-22s %4d passed, %d failed, %4.0f s' % (
                        module, counts['passed'], counts['failed'], time.monotonic() - started))
                    for key in total:
                        total[key] += counts[key]

        threads = [threading.Thread(target=work) for _ in range(int(os.environ.get('JOBS', '3')))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        database.close()
    print('\n'.join(sorted(lines)))
    print('%(passed)d passed, %(failed)d failed' % total)
    return 1 if total['failed'] or not total['passed'] else 0


if __name__ == '__main__':
    # as Ctrl-C, also in the background, where a shell makes Ctrl-C be ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if len(sys.argv) > 3 and sys.argv[1] == '--module':
        run_module(sys.argv[2], sys.argv[4:], sys.argv[3])
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
