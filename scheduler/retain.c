/*
 *   IDLE ----> PARTITIONING ----> REMOVING ----> SLEEPING
 *    ^              |  ^            |  ^|           |
 *    |              |  |            |  ++ batch     |
 *    |              |  +------------|---------------+   every 10 minutes; else to REMOVING
 *    +--------------+---------------+---------------+   retain_lead(false)
 *
 * IDLE          we do not lead
 * PARTITIONING  retain_partitions
 * REMOVING      retain_remove, batch after batch through the ids
 * SLEEPING      `timer` runs until the next sweep; longer after a long one, because sessions that
 *               live for years keep turns that each sweep looks at again
 *
 * A failure or a crash in any state costs a sweep; each batch is whole. Partitions are made days
 * ahead, and what finds none goes to the default one.
 */
#include "retain.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_plan.h"

#include <inttypes.h>
#include <stdlib.h>

#define BATCH              500
#define PARTITION_EVERY_MS (10 * 60 * 1000)
#define REST_SHARE         50 /* sweeps take a fiftieth of the time at most */

enum retain_state {
    RETAIN_IDLE,         /* nothing */
    RETAIN_PARTITIONING, /* retain_partitions */
    RETAIN_REMOVING,     /* retain_remove */
    RETAIN_SLEEPING,     /* timer */
};

struct retain {
    enum retain_state state;
    struct pg *pg;
    struct pg_call call;
    uv_timer_t timer;
    bool closing; /* gone when what is in flight has been answered */
    uint64_t age_ms, every_ms;
    uint64_t partition_ms; /* when to look at the partitions again */
    uint64_t began_ms;     /* the sweep */
    char after[ID_BYTES];  /* how far the sweep has come, "" at its start */
    int64_t removed;       /* in this sweep */
    bool leads, complained;
};

static void on_timer(uv_timer_t *timer);

static uint64_t rest_ms(const struct retain *retain)
{
    uint64_t rest = REST_SHARE * (clock_mono_ms() - retain->began_ms);

    return rest > retain->every_ms ? rest : retain->every_ms;
}

static void retain_enter(struct retain *retain, enum retain_state state)
{
    retain->state = state;
    hook_state("retain", (int)state);
    if (state == RETAIN_SLEEPING)
        uv_timer_start(&retain->timer, on_timer, rest_ms(retain), 0);
    else
        uv_timer_stop(&retain->timer);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void end(struct retain *retain)
{
    uv_close((uv_handle_t *)&retain->timer, on_closed);
}

/* A call has been answered. False: nobody wants to know any more. */
static bool wanted(struct retain *retain)
{
    if (retain->closing)
        end(retain);
    return !retain->closing;
}

static void end_sweep(struct retain *retain)
{
    if (retain->removed > 0)
        log_line(LOG_INFO, "", "removed %" PRId64 " tasks that have been kept long enough",
                 retain->removed);
    retain_enter(retain, retain->leads ? RETAIN_SLEEPING : RETAIN_IDLE);
}

static void note(struct retain *retain, const char *what, const struct err *err)
{
    if (err->code != ERR_OK && !retain->complained)
        log_line(err->code == ERR_BUG ? LOG_ERROR : LOG_WARN, "", "cannot %s: %s", what, err->msg);
    retain->complained = err->code != ERR_OK; /* once per outage */
}

static void on_removed(void *owner, PGresult *res, const struct err *err);

static void retain_remove(struct retain *retain)
{
    retain_enter(retain, RETAIN_REMOVING);
    store_retain_remove(retain->pg, &retain->call, retain->age_ms,
                        *retain->after ? retain->after : NULL, BATCH, on_removed, retain);
}

static void on_removed(void *owner, PGresult *res, const struct err *err)
{
    struct retain *retain = owner;
    bool more = false;
    int64_t removed = 0;

    if (!wanted(retain))
        return;
    note(retain, "remove old tasks", err);
    if (err->code == ERR_OK)
        more = store_read_removed(res, &removed, retain->after);
    retain->removed += removed;
    if (more && retain->leads)
        retain_remove(retain);
    else
        end_sweep(retain);
}

static void begin_sweep(struct retain *retain)
{
    retain->began_ms = clock_mono_ms();
    retain->after[0] = '\0';
    retain->removed = 0;
    retain_remove(retain);
}

static void on_partitioned(void *owner, PGresult *res, const struct err *err)
{
    struct retain *retain = owner;
    int64_t made, dropped;

    if (!wanted(retain))
        return;
    note(retain, "make or drop partitions", err);
    if (err->code == ERR_OK) {
        retain->partition_ms = clock_mono_ms() + PARTITION_EVERY_MS;
        store_read_partitions(res, &made, &dropped);
        if (made > 0 || dropped > 0)
            log_line(LOG_INFO, "", "partitions: %" PRId64 " made, %" PRId64 " dropped", made,
                     dropped);
    }
    retain->removed = 0;
    if (retain->leads)
        begin_sweep(retain); /* partitions that failed are tried again with the next one */
    else
        end_sweep(retain);
}

static void retain_begin(struct retain *retain)
{
    if (clock_mono_ms() < retain->partition_ms) {
        begin_sweep(retain);
        return;
    }
    retain_enter(retain, RETAIN_PARTITIONING);
    store_retain_partitions(retain->pg, &retain->call, retain->age_ms, on_partitioned, retain);
}

static void on_timer(uv_timer_t *timer)
{
    retain_begin(timer->data);
}

void retain_lead(struct retain *retain, bool leads)
{
    retain->leads = leads;
    if (leads && retain->state == RETAIN_IDLE)
        retain_begin(retain);
    else if (!leads && retain->state == RETAIN_SLEEPING)
        retain_enter(retain, RETAIN_IDLE);
}

struct retain *retain_new(uv_loop_t *loop, struct pg *pg, uint64_t age_ms, uint64_t every_ms)
{
    struct retain *retain = xcalloc(1, sizeof(*retain));

    retain->pg = pg;
    retain->age_ms = age_ms;
    retain->every_ms = every_ms;
    uv_timer_init(loop, &retain->timer);
    retain->timer.data = retain;
    return retain;
}

void retain_close(struct retain *retain)
{
    retain->leads = false;
    retain->closing = true;
    if (retain->state == RETAIN_IDLE || retain->state == RETAIN_SLEEPING)
        end(retain);
}
