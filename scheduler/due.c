/*
 *   IDLE -----> RELEASING <-----> SLEEPING
 *     ^             |                |
 *     +-------------+----------------+     due_lead(false)
 *
 * IDLE       we do not lead
 * RELEASING  due_release; its answer says how many rows moved and when the next is due
 * SLEEPING   `timer` runs until then, at most `poll_ms`: a row may be written that is due earlier
 *
 * A failed release costs `poll_ms`: its rows are where they were or have moved, as a whole. A
 * crash after it costs the hint, and so the workers' poll interval. When leading ends with a
 * release in flight, it may still take effect; rows are locked while they move, so the new
 * leader's release skips them.
 */
#include "due.h"

#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_plan.h"

#include <inttypes.h>
#include <stdlib.h>

#define BATCH       500
#define MIN_IDLE_MS 20 /* what is due but did not move is locked by somebody: do not spin */

enum due_state {
    DUE_IDLE,      /* nothing */
    DUE_RELEASING, /* due_release */
    DUE_SLEEPING,  /* timer */
};

struct due {
    enum due_state state;
    struct pg *pg;
    struct notify *notify;
    struct pg_call call;
    uv_timer_t timer;
    bool closing; /* gone when what is in flight has been answered */
    uint64_t poll_ms;
    bool leads, complained;
};

static void on_timer(uv_timer_t *timer);

static void due_enter(struct due *due, enum due_state state, uint64_t sleep_ms)
{
    due->state = state;
    hook_state("due", (int)state);
    if (state == DUE_SLEEPING)
        uv_timer_start(&due->timer, on_timer, sleep_ms, 0);
    else
        uv_timer_stop(&due->timer);
}

/* How long to sleep after a release. */
static uint64_t sleep_after(const struct due *due, const struct due_row *row)
{
    uint64_t ms = row->next_ms < 0 ? 0 : (uint64_t)row->next_ms;

    if (row->moved == 0 && ms < MIN_IDLE_MS)
        ms = MIN_IDLE_MS;
    return ms < due->poll_ms ? ms : due->poll_ms;
}

static uint64_t note_released(struct due *due, PGresult *res)
{
    struct due_row row;

    store_read_due(res, &row);
    due->complained = false;
    if (row.moved > 0) {
        log_line(LOG_DEBUG, "", "%" PRId64 " due rows moved", row.moved);
        notify_put(due->notify, "r");
    }
    return sleep_after(due, &row);
}

static uint64_t note_failed(struct due *due, const struct err *err)
{
    if (!due->complained)
        log_line(err->code == ERR_BUG ? LOG_ERROR : LOG_WARN, "", "cannot release what is due: %s",
                 err->msg);
    due->complained = true; /* once per outage */
    return due->poll_ms;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void end(struct due *due)
{
    uv_close((uv_handle_t *)&due->timer, on_closed);
}

/* A call has been answered. False: nobody wants to know any more. */
static bool wanted(struct due *due)
{
    if (due->closing)
        end(due);
    return !due->closing;
}

static void on_released(void *owner, PGresult *res, const struct err *err)
{
    struct due *due = owner;
    uint64_t sleep_ms;

    if (!wanted(due))
        return;
    sleep_ms = err->code == ERR_OK ? note_released(due, res) : note_failed(due, err);
    due_enter(due, due->leads ? DUE_SLEEPING : DUE_IDLE, sleep_ms);
}

static void due_release(struct due *due)
{
    due_enter(due, DUE_RELEASING, 0);
    store_due_release(due->pg, &due->call, BATCH, on_released, due);
}

static void on_timer(uv_timer_t *timer)
{
    due_release(timer->data);
}

void due_lead(struct due *due, bool leads)
{
    due->leads = leads;
    if (leads && due->state == DUE_IDLE)
        due_release(due);
    else if (!leads && due->state == DUE_SLEEPING)
        due_enter(due, DUE_IDLE, 0);
}

struct due *due_new(uv_loop_t *loop, struct pg *pg, struct notify *notify, uint64_t poll_ms)
{
    struct due *due = xcalloc(1, sizeof(*due));

    due->pg = pg;
    due->notify = notify;
    due->poll_ms = poll_ms;
    uv_timer_init(loop, &due->timer);
    due->timer.data = due;
    return due;
}

void due_close(struct due *due)
{
    due->leads = false;
    due->closing = true;
    if (due->state == DUE_IDLE || due->state == DUE_SLEEPING)
        end(due);
}
