/*
 *   IDLE <---> CLAIMING ---> LOADING ---> IDLE
 *
 * IDLE      `poll` runs, with hints from the last look; a hint comes earlier. Without hints it runs
 *           faster after a find: who has sent one turn may wait for it to send the next
 * CLAIMING  turn_claim is in flight. If its answer is lost the leases exist and nobody knows of
 *           them: a heartbeat is sent at once, its count shows it, and they are handed back. Turns
 *           that begin something (`fresh`) come with their requests and need no load. When it is
 *           refused for what it reads, the next one tells no requests, and a load finds out which
 * LOADING   turn_load of a piece of what was claimed; tried again while the database is away. A
 *           piece that fails otherwise is halved; a single turn that cannot be loaded, when the
 *           database is well, is given out bare (turn_load_bare): it is charged, and fails after
 *           its attempts. One that cannot be loaded so either is left out, so that it does not
 *           stop the others, and goes back with the next reconciliation
 *
 * watermark.h says where in `ready` it looks.
 */
#include "claim.h"

#include "backoff.h"
#include "clock.h"
#include "hook.h"
#include "id.h"
#include "log.h"
#include "mem.h"
#include "watermark.h"

#include <stdlib.h>
#include <string.h>

#define BATCH        256 /* turns a statement */
#define LOAD_BATCH   64  /* turns loaded at once, fewer when they are large: */
#define LOAD_BYTES   ((size_t)4 << 20)
#define LOAD_TRIES   3
#define RETRY_MIN_MS 100
#define RETRY_MAX_MS 2000
#define BUSY_POLLS   8 /* without hints, polls per `poll_ms` after a find */

enum claim_state {
    CLAIM_IDLE,     /* nothing; the poll timer runs */
    CLAIM_CLAIMING, /* store_turn_claim() */
    CLAIM_LOADING,  /* store_turn_load(), or store_turn_load_bare(), or the timer to the next try */
};

struct claim {
    enum claim_state state;
    uv_timer_t poll, soon;
    int open_handles;
    struct pg *pg;
    uint64_t poll_ms, pace_ms; /* longest and next time between two polls */
    bool hints;
    struct worker_stats *stats;
    struct claim_callbacks cbs;
    int64_t worker_id;
    struct pg_call call;
    struct claim_params params;
    struct pg_array tasks;
    struct watermark watermark;
    struct claim_row rows[BATCH];
    int nrows, next, loading; /* claimed; given out; asked for */
    int load_max;             /* turns in the next load, adapted to their size */
    unsigned failures;        /* of this load */
    bool bare;                /* it is one of a turn that cannot be loaded otherwise: */
    struct err unreadable;    /* why */
    bool again;               /* look again as soon as idle */
    bool refused;             /* the last look was none, there was no room */
    bool apart;               /* the next claim tells no requests */
    bool stale;               /* what is in flight belongs to an old incarnation */
};

static void claim_start(struct claim *c);
static void claim_load(struct claim *c);
static void on_poll(uv_timer_t *timer);

static void claim_enter(struct claim *c, enum claim_state state)
{
    c->state = state;
    hook_state("claim", (int)state);
}

/* The next claim starts later, so the owner finds none under way. */
static void claim_rest(struct claim *c)
{
    claim_enter(c, CLAIM_IDLE);
    if (c->again) {
        c->again = false;
        claim_look(c);
    }
    c->cbs.on_idle(c->cbs.owner);
}

/* Jittered, so that many workers do not ask in step. */
static void poll_later(struct claim *c)
{
    uv_timer_start(&c->poll, on_poll, c->pace_ms * 3 / 4 + id_random32() % (c->pace_ms / 2 + 1), 0);
}

/* Find the row of a loaded task among those asked for. */
static const struct claim_row *row_of(const struct claim *c, const char *task_id)
{
    for (int i = c->next; i < c->next + c->loading; i++)
        if (!strcmp(c->rows[i].task_id, task_id))
            return &c->rows[i];
    return NULL;
}

static void on_retry_load(uv_timer_t *timer)
{
    struct claim *c = timer->data;

    if (!c->stale) {
        claim_load(c);
        return;
    }
    c->stale = false;
    claim_rest(c);
}

/* Nothing is wrong with the turn when a table or the right to read it is missing: that is no
 * turn's fault, and passes when somebody has seen to it. */
static bool is_fault_of_turn(const struct claim *c)
{
    return strncmp(c->call.sqlstate, "42", 2) != 0;
}

/* The first of what is left cannot be loaded. */
static void give_up_load(struct claim *c, const struct err *err)
{
    c->failures = 0;
    if (!c->bare && is_fault_of_turn(c)) {
        c->bare = true;
        c->unreadable = *err;
        return;
    }
    log_line(LOG_ERROR, "", "task %s cannot be loaded and is left out: %s",
             c->rows[c->next].task_id, err->msg);
    c->bare = false;
    c->next++;
    c->cbs.on_left_out(c->cbs.owner);
}

/* Is it the database that cannot, and no load of this size? One that has no memory or time for it
 * may be well otherwise. */
static bool is_away(const struct claim *c, const struct err *err)
{
    return err->code == ERR_UNAVAILABLE && strcmp(c->call.sqlstate, "53200") != 0 &&
           strcmp(c->call.sqlstate, "57014") != 0;
}

/* A load has failed: again later, with fewer, or without what cannot be loaded. */
static void load_failed(struct claim *c, const struct err *err)
{
    bool away = is_away(c, err);

    if (c->failures++ == 0)
        log_line(LOG_WARN, "", "cannot load what was claimed: %s", err->msg);
    if (!away && c->loading > 1)
        c->load_max = c->loading / 2;
    else if (!away && c->failures >= LOAD_TRIES)
        give_up_load(c, err);
    uv_timer_start(&c->soon, on_retry_load,
                   backoff_ms(c->failures, RETRY_MIN_MS, RETRY_MAX_MS, id_random32()), 0);
}

/* The conversations of one load are in memory at once. */
static void adapt_load(struct claim *c, size_t bytes)
{
    c->failures = 0;
    if (bytes > LOAD_BYTES)
        c->load_max = c->load_max > 1 ? c->load_max / 2 : 1;
    else if (bytes < LOAD_BYTES / 4)
        c->load_max = 2 * c->load_max < LOAD_BATCH ? 2 * c->load_max : LOAD_BATCH;
}

static void on_loaded(void *owner, PGresult *res, const struct err *err)
{
    struct claim *c = owner;
    struct load_row load;
    int n = err->code == ERR_OK ? store_rows(res) : 0;

    if (c->stale) {
        c->stale = false;
        claim_rest(c);
        return;
    }
    if (err->code != ERR_OK) {
        if (err->code != ERR_CANCELED)
            load_failed(c, err);
        return;
    }
    adapt_load(c, store_bytes(res));
    for (int i = 0; i < n; i++) {
        const struct claim_row *row;

        store_read_load(res, i, &load);
        load.unreadable = c->bare ? c->unreadable.msg : NULL;
        if ((row = row_of(c, load.task_id)))
            c->cbs.on_turn(c->cbs.owner, row, &load);
    }
    c->next += c->loading;
    c->loading = 0;
    c->bare = false;
    claim_load(c);
}

/* Load the next piece of what was claimed. */
static void claim_load(struct claim *c)
{
    int left = c->nrows - c->next;

    if (left == 0) {
        claim_rest(c);
        return;
    }
    claim_enter(c, CLAIM_LOADING);
    c->loading = c->bare ? 1 : left < c->load_max ? left : c->load_max;
    pg_array_reset(&c->tasks);
    for (int i = c->next; i < c->next + c->loading; i++)
        pg_array_put_uuid(&c->tasks, c->rows[i].task_id);
    (c->bare ? store_turn_load_bare : store_turn_load)(c->pg, &c->call, &c->tasks, on_loaded, c);
}

static void claim_found(struct claim *c)
{
    c->again = true; /* there may be more */
    if (!c->hints) {
        c->pace_ms = c->poll_ms / BUSY_POLLS;
        poll_later(c);
    }
}

/* Give out what came with its request; keep the others, to be loaded. */
static void take_rows(struct claim *c, PGresult *res)
{
    int n = store_read_claims(res, BATCH, c->rows);
    struct load_row load;

    c->nrows = c->next = c->loading = 0;
    c->bare = false;
    c->stats->turns_claimed += (uint64_t)n;
    if (n > 0)
        claim_found(c);
    for (int i = 0; i < n; i++) {
        watermark_claimed(&c->watermark, &c->rows[i]);
        if (store_read_request(res, &c->rows[i], &load))
            c->cbs.on_turn(c->cbs.owner, &c->rows[i], &load);
        else
            c->rows[c->nrows++] = c->rows[i];
    }
}

static void take_answer(struct claim *c, PGresult *res)
{
    struct claim_view view;

    c->apart = false;
    take_rows(c, res);
    store_read_view(res, &view);
    if (view.id && watermark_learn(&c->watermark, clock_mono_ms(), &view))
        c->again = true;
}

/* Its leases may exist; not if the server has refused it, but what is there to lose. */
static void claim_failed(struct claim *c, const struct err *err)
{
    log_line(LOG_WARN, "", "cannot claim: %s", err->msg);
    if (*c->call.sqlstate && !is_away(c, err) && !c->apart)
        c->apart = c->again = true;
    c->cbs.on_lost(c->cbs.owner);
}

static void on_claimed(void *owner, PGresult *res, const struct err *err)
{
    struct claim *c = owner;

    if (c->stale || err->code != ERR_OK) {
        bool failed = err->code != ERR_OK && err->code != ERR_CANCELED && !c->stale;

        watermark_reset(&c->watermark);
        if (failed)
            claim_failed(c, err);
        c->stale = false;
        claim_rest(c);
        return;
    }
    take_answer(c, res);
    claim_load(c);
}

static void claim_start(struct claim *c)
{
    int room = c->cbs.room(c->cbs.owner);
    struct claim_ranges ranges;
    bool ask_first;

    c->refused = c->worker_id == 0 || room <= 0;
    if (c->refused)
        return;
    ask_first = watermark_ranges(&c->watermark, clock_mono_ms(), &ranges);
    claim_enter(c, CLAIM_CLAIMING);
    c->stats->claims++;
    if (c->hints)
        poll_later(c); /* whatever brought us here, the next poll has the time since this look */
    store_turn_claim(c->pg, &c->call, c->worker_id, room < BATCH ? room : BATCH, &ranges, ask_first,
                     !c->apart, &c->params, on_claimed, c);
}

static void on_poll(uv_timer_t *timer)
{
    struct claim *c = timer->data;

    c->pace_ms = 2 * c->pace_ms < c->poll_ms ? 2 * c->pace_ms : c->poll_ms;
    poll_later(c);
    claim_look(c);
}

static void on_soon(uv_timer_t *timer)
{
    struct claim *c = timer->data;

    if (c->state == CLAIM_IDLE)
        claim_start(c);
}

void claim_look(struct claim *c)
{
    if (c->state != CLAIM_IDLE)
        c->again = true;
    else if (!uv_is_active((uv_handle_t *)&c->soon))
        uv_timer_start(&c->soon, on_soon, 0, 0);
}

void claim_look_again(struct claim *c)
{
    if (c->refused)
        claim_look(c);
}

void claim_look_everywhere(struct claim *c)
{
    watermark_reset(&c->watermark);
    claim_look(c);
}

bool claim_is_busy(const struct claim *c)
{
    return c->state != CLAIM_IDLE;
}

void claim_set_worker(struct claim *c, int64_t worker_id)
{
    c->worker_id = worker_id;
    c->stale = c->state != CLAIM_IDLE;
    watermark_reset(&c->watermark);
    claim_look(c);
}

struct claim *claim_new(uv_loop_t *loop, struct pg *pg, uint64_t poll_ms, bool hints,
                        struct worker_stats *stats, const struct claim_callbacks *cbs)
{
    struct claim *c = xcalloc(1, sizeof(*c));

    c->pg = pg;
    c->poll_ms = c->pace_ms = poll_ms;
    c->hints = hints;
    c->stats = stats;
    c->cbs = *cbs;
    c->load_max = LOAD_BATCH / 8;
    store_claim_init(&c->params);
    pg_array_init(&c->tasks, PG_UUID);
    uv_timer_init(loop, &c->poll);
    uv_timer_init(loop, &c->soon);
    c->poll.data = c->soon.data = c;
    c->open_handles = 2;
    uv_timer_start(&c->poll, on_poll, poll_ms, 0);
    return c;
}

static void on_closed(uv_handle_t *handle)
{
    struct claim *c = handle->data;

    if (--c->open_handles > 0)
        return;
    store_claim_release(&c->params);
    pg_array_release(&c->tasks);
    free(c);
}

void claim_close(struct claim *c)
{
    if (!c)
        return;
    uv_close((uv_handle_t *)&c->poll, on_closed);
    uv_close((uv_handle_t *)&c->soon, on_closed);
}
