/*
 *   IDLE ----> SLEEPING <---> ENDING
 *    ^            |              |
 *    +------------+--------------+      watchdog_lead(false)
 *
 * IDLE      we do not lead
 * SLEEPING  `timer` runs until the next look
 * ENDING    backend_end is in flight: it looks for the stuck and ends their sessions
 *
 * A daemon that is stopped (SIGSTOP, a debugger, a frozen container) keeps its connections, and the
 * kernel takes what it is sent until the buffers are full. Then its backend waits in the middle of
 * a transaction: nothing dead can be vacuumed any more, and the queue of NOTIFY cannot be cut off.
 * Every daemon bears the loss of a connection, so ending one that is only slow costs it a
 * reconnect.
 *
 * A failure costs a look, and so does a crash: whoever leads next sees the same in the server.
 */
#include "watchdog.h"

#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOKS      2 /* in the time after which a session is ended */
#define TIMEOUT_MS 5000

enum watchdog_state {
    WATCHDOG_IDLE,     /* nothing */
    WATCHDOG_SLEEPING, /* timer */
    WATCHDOG_ENDING,   /* backend_end */
};

struct watchdog {
    enum watchdog_state state;
    struct pg *pg;
    struct pg_call call;
    uv_timer_t timer;
    bool closing; /* gone when what is in flight has been answered */
    uint64_t stuck_ms;
    bool leads;
};

static void on_timer(uv_timer_t *timer);

static void watchdog_enter(struct watchdog *dog, enum watchdog_state state)
{
    dog->state = state;
    hook_state("watchdog", (int)state);
    if (state == WATCHDOG_SLEEPING)
        uv_timer_start(&dog->timer, on_timer, dog->stuck_ms / LOOKS + 1, 0);
    else
        uv_timer_stop(&dog->timer);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_ended(void *owner, PGresult *res, const struct err *err)
{
    struct watchdog *dog = owner;
    struct ended_row row;
    char context[40];

    if (dog->closing) {
        uv_close((uv_handle_t *)&dog->timer, on_closed);
        return;
    }
    if (err->code != ERR_OK)
        log_line(LOG_DEBUG, "", "cannot look for stuck sessions: %s", err->msg);
    for (int i = 0; err->code == ERR_OK && i < store_rows(res); i++) {
        store_read_ended(res, i, &row);
        snprintf(context, sizeof(context), "backend=%" PRId64, row.pid);
        log_line(LOG_WARN, context,
                 "ended a session of %s: it takes no answer, its transaction was %" PRId64
                 " ms old",
                 row.program, row.age_ms);
    }
    watchdog_enter(dog, dog->leads ? WATCHDOG_SLEEPING : WATCHDOG_IDLE);
}

static void on_timer(uv_timer_t *timer)
{
    struct watchdog *dog = timer->data;

    watchdog_enter(dog, WATCHDOG_ENDING);
    store_backend_end(dog->pg, &dog->call, dog->stuck_ms, TIMEOUT_MS, on_ended, dog);
}

void watchdog_lead(struct watchdog *dog, bool leads)
{
    dog->leads = leads && dog->stuck_ms > 0;
    if (dog->leads && dog->state == WATCHDOG_IDLE)
        watchdog_enter(dog, WATCHDOG_SLEEPING);
    else if (!dog->leads && dog->state == WATCHDOG_SLEEPING)
        watchdog_enter(dog, WATCHDOG_IDLE);
}

struct watchdog *watchdog_new(uv_loop_t *loop, struct pg *pg, uint64_t stuck_ms)
{
    struct watchdog *dog = xcalloc(1, sizeof(*dog));

    dog->pg = pg;
    dog->stuck_ms = stuck_ms;
    uv_timer_init(loop, &dog->timer);
    dog->timer.data = dog;
    return dog;
}

void watchdog_close(struct watchdog *dog)
{
    dog->leads = false;
    dog->closing = true;
    if (dog->state != WATCHDOG_ENDING)
        uv_close((uv_handle_t *)&dog->timer, on_closed);
}
