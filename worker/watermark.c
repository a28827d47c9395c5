#include "watermark.h"

#include "id.h"

#include <stdlib.h>
#include <string.h>

#define STEP        4   /* rows that are walked over rather than asked where to begin */
#define PATIENCE_MS 300 /* a transaction that takes longer is late, */
#define PATIENCE_TX 100 /* and one since whose beginning so many others have begun */

void watermark_reset(struct watermark *m)
{
    unsigned apart = m->apart;

    *m = (struct watermark){.apart = apart};
}

static bool is_apart(unsigned apart, int priority)
{
    return priority == 0 || apart & 1u << priority;
}

/* Is there much to gain from beginning at `seq`? */
static bool is_far(const struct watermark *m, int64_t seq)
{
    for (int p = 0; p < STORE_PRIORITIES; p++)
        if (is_apart(m->apart, p) && seq - m->from[p] >= STEP)
            return true;
    return false;
}

bool watermark_ranges(struct watermark *m, uint64_t now_ms, struct claim_ranges *ret_ranges)
{
    bool whole = now_ms >= m->whole_ms;

    if (whole)
        m->whole_ms =
            now_ms + WATERMARK_WHOLE_MS * 3 / 4 + id_random32() % (WATERMARK_WHOLE_MS / 2);
    ret_ranges->count = 0;
    for (int p = 0; p < STORE_PRIORITIES; p++) {
        if (is_apart(m->apart, p)) {
            ret_ranges->range[ret_ranges->count].first = p;
            ret_ranges->range[ret_ranges->count++].from = whole ? 0 : m->from[p];
        }
        ret_ranges->range[ret_ranges->count - 1].below = p + 1;
    }
    m->asked = m->apart;
    m->asked_first = m->nknown > 0 && is_far(m, m->known[0].seq);
    return m->asked_first;
}

void watermark_claimed(struct watermark *m, const struct claim_row *row)
{
    m->apart |= 1u << row->priority;
    if (row->crashes < 2 && row->seq < m->from[row->priority])
        m->from[row->priority] = row->seq; /* others may be there */
}

/* Where the transaction ids of a snapshot begin, "xmin:xmax:id,id,...". */
static const char *snapshot_ids(const char *snapshot)
{
    const char *colon = strchr(snapshot, ':');

    colon = colon ? strchr(colon + 1, ':') : NULL;
    return colon ? colon + 1 : "";
}

/* The next of them, 0 at the end. */
static int64_t next_id(const char **ids)
{
    char *end;
    int64_t id = strtoll(*ids, &end, 10);

    *ids = *end == ',' ? end + 1 : end;
    return id;
}

static bool is_under_way(const char *ids, int64_t id)
{
    for (int64_t other; (other = next_id(&ids));)
        if (other == id)
            return true;
    return false;
}

/* Those that have ended are no longer late: their rows are where they said. */
static bool take_ended(struct watermark *m, const char *ids)
{
    bool ended = false;

    for (int i = 0; i < m->nlate;) {
        if (is_under_way(ids, m->late[i].id)) {
            i++;
            continue;
        }
        for (int p = 0; p < STORE_PRIORITIES; p++)
            if (m->late[i].from[p] < m->from[p])
                m->from[p] = m->late[i].from[p];
        m->late[i] = m->late[--m->nlate];
        ended = true;
    }
    return ended;
}

static bool is_late(const struct watermark *m, int64_t id)
{
    for (int i = 0; i < m->nlate; i++)
        if (m->late[i].id == id)
            return true;
    return false;
}

/* Whose id is below is late from now on. Returns whether all fit. */
static bool put_late(struct watermark *m, const char *ids, int64_t below_id)
{
    int nlate = m->nlate;

    for (int64_t id; (id = next_id(&ids));) {
        if (id >= below_id || is_late(m, id))
            continue;
        if (nlate == WATERMARK_LATE)
            return false;
        m->late[nlate].id = id;
        memcpy(m->late[nlate++].from, m->from, sizeof(m->from));
    }
    m->nlate = nlate;
    return true;
}

/* How many of `known` are settled: no row up to there can appear but of transactions that are late.
 */
static int settled(struct watermark *m, const char *ids, uint64_t now_ms)
{
    int64_t oldest = INT64_MAX;
    const char *rest = ids;
    int n = 0;

    (void)put_late(m, ids, m->known[0].below_id - PATIENCE_TX);
    for (int64_t id; (id = next_id(&rest));)
        if (id < oldest && !is_late(m, id))
            oldest = id;
    while (n < m->nknown && m->known[n].below_id <= oldest)
        n++;
    if (n == 0 && now_ms - m->known[0].since_ms >= PATIENCE_MS &&
        put_late(m, ids, m->known[0].below_id))
        n = 1;
    return n;
}

static void forget_known(struct watermark *m, int n)
{
    m->nknown -= n;
    memmove(m->known, m->known + n, (size_t)m->nknown * sizeof(m->known[0]));
}

/* Priorities of a range up to that of its first row have none up to `known`; of those behind it
 * nothing is said. */
static void advance(struct watermark *m, int64_t known, const char *first)
{
    bool open = true;

    for (int p = 0; p < STORE_PRIORITIES; p++) {
        bool found = first && *first && strtol(first, NULL, 10) == p;
        int64_t to = known + 1;

        if (is_apart(m->asked, p))
            open = true;
        if (found) {
            char *end;
            int64_t seq = strtoll(strchr(first, ':') + 1, &end, 10);

            first = *end == ',' ? end + 1 : NULL;
            to = seq < to ? seq : to;
            m->apart |= 1u << p;
        }
        if (open && to > m->from[p])
            m->from[p] = to;
        if (found)
            open = false;
    }
}

bool watermark_learn(struct watermark *m, uint64_t now_ms, const struct claim_view *view)
{
    const char *ids = snapshot_ids(view->snapshot);
    int n;

    if (view->newest < m->newest) { /* another history */
        watermark_reset(m);
        return true;
    }
    m->newest = view->newest;
    if (take_ended(m, ids))
        return true;
    if (m->asked_first && (n = settled(m, ids, now_ms)) > 0) {
        advance(m, m->known[n - 1].seq, view->first);
        forget_known(m, n);
    }
    while (m->nknown > 0 && !is_far(m, m->known[0].seq))
        forget_known(m, 1);
    if (m->nknown == WATERMARK_KNOWN)
        m->nknown--;
    m->known[m->nknown].seq = view->newest;
    m->known[m->nknown].below_id = view->id;
    m->known[m->nknown++].since_ms = now_ms;
    return false;
}
