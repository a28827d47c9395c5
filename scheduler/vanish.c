/*
 *   IDLE ----> SLEEPING ----> WATCHING ----> DECLARING
 *    ^            | ^            |               |
 *    |            | +------------+---------------+
 *    +------------+                                   vanish_lead(false)
 *
 * IDLE       we do not lead
 * SLEEPING   `timer` runs until the next look
 * WATCHING   worker_watch: whose backend is there?
 * DECLARING  worker_vanish: death is one transition of the worker's row, and a beat prevents it
 *
 * Why no live worker that reaches the database is declared dead: it beats every `beat_every`, by
 * another connection while that of its session is away, and its row asks for a longer silence than
 * that; and it opens a new session within a fraction of the grace, which makes it unsuspected. One
 * that does not reach it knows what its row says and starts nothing more by then
 * (worker/heartbeat.c).
 *
 * Nothing is concluded from what we have not seen ourselves: only a backend that was there in one
 * of our looks can be missed, and a look that failed or came late forgets (the database or we were
 * away, which is nobody's death). So a restart of PostgreSQL, a take-over of the lead and a backend
 * that somebody terminates cost no lease. What is missed here is found by its time to live.
 *
 * While no worker holds a lease nobody's turn waits for a death, so a look every IDLE_MS is enough,
 * and one when a session is new. A lease that appears brings back the close watch within a round of
 * rescue; so does a session that is missed, or a look that failed.
 */
#include "vanish.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVERY_MS   250
#define IDLE_MS    5000
#define LATE_MS    750 /* behind the time: somebody stood still */
#define TIMEOUT_MS 2000

enum vanish_state {
    VANISH_IDLE,      /* nothing */
    VANISH_SLEEPING,  /* timer */
    VANISH_WATCHING,  /* worker_watch */
    VANISH_DECLARING, /* worker_vanish */
};

/* A session whose backend we have seen. */
struct seen {
    int64_t worker_id;
    char session[STORE_SESSION_BYTES];
    uint64_t missed_ms; /* since when it is away, 0: it is there */
};

struct vanish {
    enum vanish_state state;
    struct pg *pg;
    struct rescue *rescue;
    struct pg_call call;
    uv_timer_t timer;
    bool closing; /* gone when what is in flight has been answered */
    uint64_t grace_ms, answered_ms;
    uint64_t every_ms; /* between the last answer and the next look, at most */
    int64_t latest_us; /* when the latest session that we know of began */
    bool busy;
    bool blind;        /* since the last good look */
    struct seen *seen; /* by worker_id, as the database sorts them */
    int nseen;
    struct pg_array ids, sessions;
    bool leads;
};

static void on_timer(uv_timer_t *timer);

static bool any_missed(const struct vanish *v)
{
    for (int i = 0; i < v->nseen; i++)
        if (v->seen[i].missed_ms)
            return true;
    return false;
}

static void vanish_enter(struct vanish *v, enum vanish_state state)
{
    v->state = state;
    hook_state("vanish", (int)state);
    if (state != VANISH_SLEEPING) {
        uv_timer_stop(&v->timer);
        return;
    }
    v->every_ms = v->busy || v->blind || any_missed(v) ? EVERY_MS : IDLE_MS;
    uv_timer_start(&v->timer, on_timer, v->every_ms, 0);
}

static void forget(struct vanish *v)
{
    free(v->seen);
    v->seen = NULL;
    v->nseen = 0;
    v->blind = true;
}

static void end_round(struct vanish *v)
{
    if (!v->leads)
        forget(v);
    vanish_enter(v, v->leads ? VANISH_SLEEPING : VANISH_IDLE);
}

static void on_closed(uv_handle_t *handle)
{
    struct vanish *v = handle->data;

    pg_array_release(&v->ids);
    pg_array_release(&v->sessions);
    free(v->seen);
    free(v);
}

/* A call has been answered, and it matters still. */
static bool wanted(struct vanish *v, const struct err *err)
{
    if (v->closing) {
        uv_close((uv_handle_t *)&v->timer, on_closed);
        return false;
    }
    if (err->code == ERR_OK)
        return true;
    log_line(LOG_DEBUG, "", "cannot watch sessions: %s", err->msg);
    forget(v);
    end_round(v);
    return false;
}

/* ---- declaring ---- */

static void on_declared(void *owner, PGresult *res, const struct err *err)
{
    struct vanish *v = owner;
    char context[40];
    int n;

    if (!wanted(v, err))
        return;
    n = store_vanished(res);
    for (int row = 0; row < n; row++) {
        snprintf(context, sizeof(context), "worker=%" PRId64, store_read_vanished(res, row));
        log_line(LOG_WARN, context, "this worker is dead: its session ended and it is silent");
    }
    if (n > 0)
        rescue_soon(v->rescue);
    end_round(v);
}

static void declare(struct vanish *v)
{
    uint64_t now_ms = clock_mono_ms();

    pg_array_reset(&v->ids);
    pg_array_reset(&v->sessions);
    for (int i = 0; i < v->nseen; i++) {
        const struct seen *s = &v->seen[i];

        if (!s->missed_ms || now_ms - s->missed_ms < v->grace_ms)
            continue;
        pg_array_put_int(&v->ids, s->worker_id);
        pg_array_put_text(&v->sessions, s->session);
    }
    if (v->ids.count == 0 || !v->leads) {
        end_round(v);
        return;
    }
    vanish_enter(v, VANISH_DECLARING);
    store_worker_vanish(v->pg, &v->call, &v->ids, &v->sessions, TIMEOUT_MS, on_declared, v);
}

/* ---- watching ---- */

/* What we know of the session; `*at` goes along with the rows, which are sorted alike. */
static const struct seen *find_seen(const struct vanish *v, const struct watch_row *row, int *at)
{
    while (*at < v->nseen && v->seen[*at].worker_id < row->worker_id)
        ++*at;
    if (*at == v->nseen || v->seen[*at].worker_id != row->worker_id ||
        strcmp(v->seen[*at].session, row->session) != 0)
        return NULL;
    return &v->seen[*at];
}

/* Take in one look. `late`: whoever is away has been so only since now, as far as we can tell. */
static void take_look(struct vanish *v, PGresult *res, bool late)
{
    int rows = store_rows(res), n = 0, at = 0;
    struct seen *next = rows ? xcalloc((size_t)rows, sizeof(*next)) : NULL;
    uint64_t now_ms = clock_mono_ms();

    for (int i = 0; i < rows; i++) {
        struct watch_row row;
        const struct seen *before;

        store_read_watch(res, i, &row);
        before = find_seen(v, &row, &at);
        if (!row.present && !before)
            continue;
        next[n].worker_id = row.worker_id;
        snprintf(next[n].session, sizeof(next[n].session), "%s", row.session);
        if (!row.present)
            next[n].missed_ms = before->missed_ms && !late ? before->missed_ms : now_ms;
        n++;
    }
    free(v->seen);
    v->seen = next;
    v->nseen = n;
}

static void on_watched(void *owner, PGresult *res, const struct err *err)
{
    struct vanish *v = owner;
    uint64_t now_ms = clock_mono_ms();
    bool late = now_ms - v->answered_ms > v->every_ms + LATE_MS;

    if (!wanted(v, err))
        return;
    v->answered_ms = now_ms;
    v->blind = false;
    take_look(v, res, late);
    declare(v);
}

static void on_timer(uv_timer_t *timer)
{
    struct vanish *v = timer->data;

    vanish_enter(v, VANISH_WATCHING);
    store_worker_watch(v->pg, &v->call, TIMEOUT_MS, on_watched, v);
}

/* ---- from outside ---- */

void vanish_lead(struct vanish *v, bool leads)
{
    v->leads = leads && v->grace_ms > 0;
    if (v->leads && v->state == VANISH_IDLE)
        vanish_enter(v, VANISH_SLEEPING);
    else if (!v->leads && v->state == VANISH_SLEEPING)
        end_round(v);
}

void vanish_heed(struct vanish *v, bool busy, int64_t latest_us)
{
    bool now = (busy && !v->busy) || latest_us > v->latest_us;

    v->busy = busy;
    v->latest_us = latest_us;
    if (now && v->state == VANISH_SLEEPING)
        uv_timer_start(&v->timer, on_timer, 0, 0);
}

struct vanish *vanish_new(uv_loop_t *loop, struct pg *pg, struct rescue *rescue, uint64_t grace_ms)
{
    struct vanish *v = xcalloc(1, sizeof(*v));

    v->pg = pg;
    v->rescue = rescue;
    v->grace_ms = grace_ms;
    v->blind = true;
    pg_array_init(&v->ids, PG_INT8);
    pg_array_init(&v->sessions, PG_TEXT);
    uv_timer_init(loop, &v->timer);
    v->timer.data = v;
    return v;
}

void vanish_close(struct vanish *v)
{
    v->leads = false;
    v->closing = true;
    if (v->state == VANISH_IDLE || v->state == VANISH_SLEEPING)
        uv_close((uv_handle_t *)&v->timer, on_closed);
}
