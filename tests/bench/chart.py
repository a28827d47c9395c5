"""The README's chart: bars of what can be compared, from result.json. Plain SVG, no library."""
from xml.sax.saxutils import escape

import rows

WIDTH, LABEL, VALUE, BAR, GAP, TOP = 860, 150, 150, 16, 5, 26
OURS, THEIRS, TEXT, FAINT = '#1f6feb', '#9aa4af', '#1f2328', '#59636e'
NAMES = {'ours': 'Nocturne', 'graphile': 'Graphile Worker', 'pgboss': 'pg-boss', 'absurd': 'Absurd', 'dbos': 'DBOS',
         'bullmq_pg': 'BullMQ (PostgreSQL)', 'bullmq_redis': 'BullMQ (Redis)', 'genkit': 'Genkit (in memory)'}
GROUPS = (  # title, phase, figure, unit, better is
    ('Submits a second, 16 clients (Nocturne: over HTTP; the others: in process)', 'submit', ('per_s',), '/s', max),
    ('Queue drained, jobs a second (Graphile Worker and BullMQ delete a job that is done)', 'drain', ('per_s',), '/s', max),
    ('Submit to running at 20 a second, p99', 'latency', ('p99',), ' ms', min),
    ('Tokens a second to live subscribers, {streams:,} streams (DBOS: {dbos_streams})', 'stream', ('rate',), '/s', max),
    ('Age of a token at its subscriber at that load, p99', 'stream', ('age_ms', 'p99'), ' ms', min),
)


def group(results, phase, figure, better):
    """[(name, figure)], the best first."""
    found = []
    for name in results.record['results'].get(phase, {}):
        if name in NAMES:
            found.append((name, results.median(phase, name, *figure)))
    return sorted(found, key=lambda pair: pair[1], reverse=better is max)


def draw(record):
    results, y, out = rows.Results(record), 20, []
    for title, phase, figure, unit, better in GROUPS:
        bars = group(results, phase, figure, better)
        if not bars:
            continue
        out.append('<text x="0" y="%d" font-weight="600" fill="%s">%s</text>' % (y, TEXT, escape(title.format(**record['sizes']))))
        out.append('<text x="%d" y="%d" text-anchor="end" fill="%s">%s is better</text>' % (
            WIDTH, y, FAINT, 'more' if better is max else 'less'))
        y += 12
        most = max(value for _, value in bars) or 1
        for name, value in bars:
            width = max(1.0, (WIDTH - LABEL - VALUE) * value / most)
            out.append('<text x="%d" y="%d" text-anchor="end" fill="%s">%s</text>' % (LABEL - 8, y + 12, TEXT, NAMES[name]))
            out.append('<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>' % (
                LABEL, y, width, BAR, OURS if name == 'ours' else THEIRS))
            out.append('<text x="%.1f" y="%d" fill="%s">%s%s</text>' % (
                LABEL + width + 6, y + 12, FAINT, rows.number(value), unit))
            y += BAR + GAP
        y += TOP
    machine = record['machine']
    out.append('<text x="0" y="%d" fill="%s">%s</text>' % (y, FAINT, escape(
        'commit %s, %s, %d CPUs, PostgreSQL %s, fsync on; medians of %d interleaved rounds%s. make bench' % (
            machine['commit'], machine['at'][:10], machine['cpus'], record['postgres']['server_version'].split()[0],
            record['sizes']['rounds'], ' (quick)' if record['quick'] else ''))))
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -4 %d %d" width="%d" height="%d" font-family="sans-serif" '
            'font-size="12">\n<rect x="-12" y="-4" width="100%%" height="100%%" fill="#ffffff"/>\n%s\n</svg>\n' % (WIDTH + 24, y + 16, WIDTH + 24, y + 16, '\n'.join(out)))
