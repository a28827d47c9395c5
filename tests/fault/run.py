#!/usr/bin/python3
"""Run the fault matrix: run.py [--quick] [--seed N] [--update] [ROW...]; a row is a number or part of
a name.

--quick runs the rows of `make test`. Without rows and --quick the table goes into README.md as well;
with --update those rows of it that were run.
Programs come from $BUILD. The last line is `N passed, N failed`."""
import argparse
import glob
import importlib
import os
import platform
import random
import signal
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import matrix  # noqa: E402
import stage  # noqa: E402

README = os.path.join(HERE, 'README.md')
ROW_SECONDS = 900  # after which a row is given up

HEAD = """# The fault matrix

Written by `make fault` (`tests/fault/run.py`): do not edit. Faults are those of a machine room, injected into
real daemons on a real PostgreSQL with default settings, unless a row says otherwise; each row ends
with the invariants of ARCHITECTURE.md, checked from the tables and from what subscribers, tools and
the model have logged (`check.py`). A figure in bold missed its target.

| file | holds |
|---|---|
| `rows_*.py` | the rows, by area; `matrix.py` says what a row is made of |
| `stage.py` | PostgreSQL, daemons with a proxy each (`tests/fake/pgproxy.c`), the end of a run |
| `load.py` | clients, subscribers and tools that record what they see |
| `check.py` | the judge of recorded histories; `test_check.py` shows it forged ones |
| `soak.py` | random faults for as long as you like: `make soak MINUTES=60` |

`make fault` runs all rows, `tests/fault/run.py ROW...` some, `make test` the quick ones.
"""


def order(number):
    digits = ''.join(c for c in number if c.isdigit())
    return int(digits or 0), number


def on_alarm(*_):
    raise TimeoutError('the row took more than %d s' % ROW_SECONDS)


def run(row, seed, quick):
    """(Figures, why it failed or None, seconds)"""
    started = time.monotonic()
    figures = matrix.Figures('%s-%s' % (row.number, row.name), seed, quick)
    why = None
    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(ROW_SECONDS)
    try:
        row.function(figures)
        if not figures.judged:
            why = 'the row never judged its stage'
    except Exception as e:
        why = ''.join(traceback.format_exception(type(e), e, e.__traceback__))
    finally:
        signal.alarm(0)
    if why is None and figures.missed:
        why = 'missed: ' + '; '.join(figures.missed)
    return figures, why, time.monotonic() - started


def machine(started_load):
    with open('/proc/meminfo') as f:
        memory = int(f.readline().split()[1]) >> 20
    return '%s, %d cores, %d GB, %s; load average %.1f when it began and %.1f when it ended' % (
        platform.machine(), os.cpu_count(), memory, os.uname().release, started_load,
        os.getloadavg()[0])


def line(row, figures, why):
    measured = '; '.join(figures.shown) or '-'
    verdict = 'holds' if why is None else \
        'missed' if figures.judged and why.startswith('missed') else '**broken**'
    return '| %s | %s | %s | %s | %s |' % (row.number, row.fault, row.target, measured, verdict)


def table(results):
    lines = ['| # | fault | target | measured | verdict |', '|---|---|---|---|---|']
    return '\n'.join(lines + [line(row, figures, why) for row, figures, why, _ in results]) + '\n'


def update(results):
    """Put these rows in the place of the old ones."""
    with open(README) as f:
        text = f.read().rstrip('\n').split('\n')
    for row, figures, why, _ in results:
        text = [old for old in text if not old.startswith('| %s |' % row.number)]
        places = [i for i, old in enumerate(text) if old.startswith('| ') and old[2].isdigit()
                  and order(old.split('|')[1].strip()) < order(row.number)]
        after = places[-1] if places else text.index('|---|---|---|---|---|')
        text.insert(after + 1, line(row, figures, why))
    with open(README, 'w') as f:
        f.write('\n'.join(text) + '\n')


def write(results, seed, load, seconds):
    text = HEAD + '\n%s\n\nOn %s; %s; build `%s`, seed %d, %d minutes.\n\n%s' % (
        '## Results', time.strftime('%Y-%m-%d', time.gmtime()), machine(load),
        os.path.relpath(stage.harness.BUILD, stage.cluster.ROOT), seed, round(seconds / 60),
        table(results))
    with open(README, 'w') as f:
        f.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--update', action='store_true')
    parser.add_argument('--seed', type=int, default=random.randrange(10 ** 6))
    parser.add_argument('rows', nargs='*')
    options = parser.parse_args()
    for path in sorted(glob.glob(os.path.join(HERE, 'rows_*.py'))):
        importlib.import_module(os.path.basename(path)[:-3])
    chosen = [r for r in matrix.ROWS if (r.quick or not options.quick) and (
        not options.rows or any(w == r.number or (w in r.name and not w.isdigit())
                                for w in options.rows))]
    chosen.sort(key=lambda r: order(r.number))
    load, started, results = os.getloadavg()[0], time.monotonic(), []
    print('seed %d' % options.seed, flush=True)
    for row in chosen:
        figures, why, seconds = run(row, options.seed, options.quick)
        results.append((row, figures, why, seconds))
        print('%s fault %s %s %.0f s: %s' % ('PASS' if why is None else 'FAIL', row.number, row.name,
                                             seconds, '; '.join(figures.shown)))
        if why is not None:
            print('    ' + '\n    '.join(why.rstrip().splitlines()))
        sys.stdout.flush()
    if not options.quick:
        print(table(results))
        if options.update:
            update(results)
        elif not options.rows:
            write(results, options.seed, load, time.monotonic() - started)
    failed = sum(why is not None for _, _, why, _ in results)
    print('%d passed, %d failed' % (len(results) - failed, failed))
    return 1 if failed or not results else 0


if __name__ == '__main__':
    sys.exit(main())
