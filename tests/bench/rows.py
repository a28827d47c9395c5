"""The targets of the project, and the table that says how far we are."""
import statistics

STREAM_P99 = 150  # ms: the latency at which streams are compared
PG_PEERS = ('graphile', 'pgboss', 'absurd', 'dbos', 'bullmq_pg')


class Absent(Exception):
    """There is no figure; why."""


class Results:
    def __init__(self, record):
        self.record = record

    def median(self, phase, name, *path):
        """The median over the rounds of figures[path[0]][path[1]]..."""
        runs = self.record['results'].get(phase, {}).get(name)
        if not runs:
            errors = self.record['errors'].get(phase, {})
            raise Absent('%s: %s' % (name, (errors.get(name) or errors.get('ours') or 'not run').splitlines()[0][:90]))
        values = []
        for run in runs:
            for key in path:
                if key not in run:
                    raise Absent('%s: no %s' % (name, key))
                run = run[key]
            values.append(run)
        return statistics.median(values)

    def best(self, phase, names, *path, pick=max):
        """(figure, peer) of the best peer."""
        found = []
        for name in names:
            try:
                found.append((self.median(phase, name, *path), name))
            except Absent:
                pass
        if not found:
            raise Absent('no peer was measured')
        return pick(found)


def number(value):
    return '{:,.0f}'.format(value) if abs(value) >= 100 else '%.3g' % value


def faster(phase, names, times, what, unit):
    """Ours at least `times` the best of `names`."""
    def row(r):
        mine = r.median(phase, 'ours', 'per_s')
        theirs, who = r.best(phase, names, 'per_s')
        return number(mine) + unit, '%s %s%s' % (who, number(theirs), unit), mine / theirs, '>= %g' % times, mine >= times * theirs
    return what, row


def lower(percentile):
    def row(r):
        mine = r.median('latency', 'ours', percentile)
        theirs, who = r.best('latency', PG_PEERS + ('bullmq_redis',), percentile, pick=min)
        bare = r.median('latency', 'bare', percentile)
        return ('%.2f ms' % mine, '%s %.2f ms (bare statements, no HTTP: %.2f)' % (who, theirs, bare), mine / theirs, '< 1 of each',
                mine < theirs)
    return 'submit to running at 20/s, ' + percentile, row


def genkit_stream(r):
    mine, theirs = r.median('stream', 'ours', 'rate'), r.median('stream', 'genkit', 'rate')
    p99, held = r.median('stream', 'ours', 'age_ms', 'p99'), r.median('stream', 'ours', 'held')
    return ('%s/s, p99 %.0f ms' % (number(mine), p99),
            'genkit %s/s, p99 %.0f ms' % (number(theirs), r.median('stream', 'genkit', 'age_ms', 'p99')),
            mine / theirs, '>= 5 at p99 <= %d ms' % STREAM_P99, bool(held) and mine >= 5 * theirs and p99 <= STREAM_P99)


def dbos_stream(r):
    """At the load of the target's own reference figure: 100 streams of 50/s."""
    mine, theirs = r.median('stream', 'ours', 'rate'), r.median('stream', 'dbos', 'first', 'rate')
    return number(mine) + '/s', 'dbos %s/s of 5,000' % number(theirs), mine / theirs, '>= 15', mine >= 15 * theirs


def dbos_pushed(r):
    mine, theirs = r.median('stream', 'ours', 'rate'), r.median('stream', 'dbos', 'rate')
    p99, their_p99 = r.median('stream', 'ours', 'age_ms', 'p99'), r.median('stream', 'dbos', 'age_ms', 'p99')
    return ('%s/s, p99 %.0f ms' % (number(mine), p99), 'dbos %s/s, p99 %.0f ms' % (number(theirs), their_p99), mine / theirs, '-', None)


def equal_stream(r):
    mine, theirs = r.median('stream', 'ours at 50/s', 'age_ms', 'p99'), r.median('stream', 'dbos', 'first', 'age_ms', 'p99')
    return 'p99 %.1f ms' % mine, 'dbos p99 %.0f ms' % theirs, mine / theirs, '<= 0.1', mine <= 0.1 * theirs


def first_token(r):
    mine, theirs = r.median('stream', 'ours', 'first_token_ms', 'p50'), r.median('stream', 'genkit', 'first_token_ms', 'p50')
    return '%.0f ms' % mine, 'genkit %.0f ms' % theirs, mine / theirs, '< 1', mine < theirs


def many(r):
    streams, p99, lost, late = (r.median('many', 'ours', *path) for path in (['streams'], ['age_ms', 'p99'], ['lost'], ['unfinished']))
    offered, got = r.median('many', 'ours', 'offered_per_s'), r.median('many', 'ours', 'steady_per_s')
    return ('%s streams, %s of %s/s, p99 %.0f ms, %d lost%s' % (
        number(streams), number(got), number(offered), p99, lost, ', %d not at their end in time' % late if late else ''), '-', None,
            '5,000, p99 <= 500 ms, 0 lost', streams >= 5000 and p99 <= 500 and not lost and not late)


def kib(name, target):
    def row(r):
        mine = r.median('memory', 'ours', name + '_kib')
        return '%.1f KiB' % mine, '-', None, '<= %d KiB' % target, mine <= target
    return {'turn': 'memory of a running turn', 'waiter': 'memory of a waiting client', 'subscriber': 'memory of a subscriber'}[name], row


def idle(r):
    cpu, transactions = r.median('idle', 'ours', 'cpu_percent'), r.median('idle', 'ours', 'transactions_per_s')
    return ('%.2f %% of a core, %.1f transactions/s' % (cpu, transactions), 'postgres beside: %.2f %%' % r.median('idle', 'ours', 'postgres_percent'),
            None, '<= 1 %, <= 5/s', cpu <= 1 and transactions <= 5)


def poll(phase, other, target):
    def row(r):
        mine, theirs = r.median(phase, 'ours', 'per_s'), r.median(phase, other, 'per_s')
        return number(mine) + '/s', '%s %s/s' % (other, number(theirs)), mine / theirs, '>= %g' % target, mine >= target * theirs
    return {'poll_terminal': 'GET a terminal task, 64 connections', 'poll_running': 'GET a running task, 64 connections'}[phase], row


def wal_turn(r):
    mine, images = r.median('drain', 'ours', 'wal_per_turn'), r.median('drain', 'ours', 'wal_images_per_turn')
    try:
        beside = 'graphile %d B a no-op (%d images)' % tuple(r.median('drain', 'graphile', 'wal_%s_per_job' % what) for what in ('bytes', 'images'))
    except Absent as e:
        beside = str(e)
    return '%d B (%d page images)' % (mine, images), beside, None, '<= 1,331 B', mine <= 1331


def wal_token(r):
    mine, bare = r.median('wal', 'ours', 'wal_bytes_per_token'), r.median('wal', 'bare', 'wal_bytes_per_token')
    return '%.0f B' % mine, 'bare insert %.0f B' % bare, mine / bare, '<= 110 B', mine <= 110


def pinned(r):
    blocks, speed = r.median('pinned', 'ours', 'blocks_ratio'), r.median('pinned', 'ours', 'throughput_ratio')
    return ('%.2f of buffers, %.0f %% of throughput' % (blocks, 100 * speed), 'fresh table', None, '<= 1.5, >= 95 %',
            blocks <= 1.5 and speed >= 0.95)


def session(r):
    ratios = {k: r.median('session', 'ours', 'ratios', k) for k in ('rows', 'buffers', 'wal', 'ms')}
    return ('rows %.2f, buffers %.2f, WAL %.2f, time %.2f' % tuple(ratios.values()), 'turns 2-17', max(ratios.values()), '<= 1.5',
            max(ratios.values()) <= 1.5)


def big(r):
    ratios = {k: r.median('big', 'ours', 'ratios', k) for k in ('submit', 'claim', 'poll')}
    page = r.median('big', 'ours', 'worst_page_ms')
    return ('submit %.2f, claim %.2f, poll %.2f; slowest page %.1f ms' % (*ratios.values(), page),
            'empty; %s tasks' % number(r.median('big', 'ours', 'tasks')), min(ratios.values()), '>= 0.9, <= 20 ms', min(ratios.values()) >= 0.9 and page <= 20)


ROWS = (
    faster('submit', PG_PEERS, 5, 'durable submits over HTTP, 16 clients', '/s'),
    faster('bulk', PG_PEERS, 1.5, 'bulk submit, 1,000 a request', '/s'),
    faster('drain', ('graphile',), 1, 'drain of queued echo turns', '/s'),
    faster('drain', ('dbos',), 15, 'the same', '/s'),
    faster('drain', ('absurd',), 15, 'the same', '/s'),
    lower('p50'), lower('p99'),
    ('durable live tokens, 1,000 streams', genkit_stream),
    ('the same', dbos_stream), ('the same load, 100 streams of 50/s', equal_stream),
    ('the same, dbos with 100 streams of 100/s', dbos_pushed),
    ('first token at that load', first_token),
    ('streams at 20 tokens/s', many),
    kib('turn', 48), kib('waiter', 6), kib('subscriber', 12),
    ('idle, with parked turns', idle),
    poll('poll_terminal', 'raw', 0.6), poll('poll_running', 'pgbench', 0.5),
    ('WAL of an echo turn', wal_turn), ('WAL of a 60-byte token', wal_token),
    ('claim after turns under a pinned transaction', pinned),
    ('last turn of a long session', session),
    ('millions of finished tasks', big),
)


def evaluate(record):
    """[{what, ours, beside, ratio, target, met}]; met is None where a figure is missing."""
    results, out = Results(record), []
    for what, row in ROWS:
        try:
            ours, beside, ratio, target, met = row(results)
        except Absent as e:
            if str(e).startswith('ours') and str(e).endswith(': not run'):
                continue  # --only
            ours, beside, ratio, target, met = '-', str(e), None, '', None
        out.append({'what': what, 'ours': ours, 'beside': beside, 'ratio': ratio, 'target': target, 'met': met})
    return out


def curve(record):
    """What the flush does with more streams, as lines of markdown."""
    lines = []
    for run in record['results'].get('curve', {}).get('ours', []):
        lines += ['', '| streams, a token every %d ms | age p50, ms | p99 | events a row | CPU a token, us: worker | api | PostgreSQL |' % run['every_ms'],
                  '|--:|--:|--:|--:|--:|--:|--:|']
        lines += ['| %s | %.1f | %.1f | %.2f | %.1f | %.1f | %.1f |' % tuple([number(p['streams'])] + [
            p[k] for k in ('p50', 'p99', 'events_per_row', 'worker_us', 'api_us', 'postgres_us')]) for p in run['points']]
    return lines


def table(record):
    """Markdown, readable as it is."""
    cells = [('what', 'ours', 'beside', 'ratio', 'target', 'met')]
    for row in evaluate(record):
        cells.append((row['what'], row['ours'], row['beside'], '' if row['ratio'] is None else '%.2f' % row['ratio'], row['target'],
                      {True: 'yes', False: 'NO', None: '?' if row['target'] != '-' else ''}[row['met']]))
    widths = [max(len(c[i]) for c in cells) for i in range(6)]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths)) + ' |' for row in cells]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    lines += curve(record)
    m, sizes, busy = record['machine'], record['sizes'], record['busy_before_each']
    lines += ['', '%s, %d CPUs, %s GiB, Linux %s, PostgreSQL %s, commit %s%s, %s.' % (
        m['cpu'], m['cpus'], m['memory_gib'], m['kernel'], record['postgres']['server_version'].split()[0], m['commit'],
        ' (dirty)' if m['dirty'] else '', m['at'])]
    lines.append('Medians of %d rounds, interleaved%s; drain of %s turns; %d streams of %d tokens.' % (
        sizes['rounds'], ' (QUICK: small sizes, figures are rough)' if record['quick'] else '',
        number(sizes['drain']), sizes['streams'], sizes['stream_tokens']))
    lines.append('Others used %.0f %% of the machine in the median before a measurement (at most %.0f %%). It took %.0f minutes.' % (
        100 * busy['median'], 100 * busy['max'], record['took_s'] / 60))
    for phase, errors in record['errors'].items():
        lines += ['- %s, %s: %s' % (phase, name, ' '.join(text.split())[:200]) for name, text in errors.items()]
    return '\n'.join(lines) + '\n'
