/*
 *   REGISTERING ---> RESTING <---> BEATING
 *        ^              |             |
 *        +--------------+-------------+    declared dead: a new incarnation
 *
 * REGISTERING  worker_register is in flight, or `timer` runs to the next try
 * RESTING      `timer` runs to the next beat
 * BEATING      worker_beat is in flight; its answer carries controls
 *
 * `fence` runs beside them: without an answer until TTL − 2 s (half the TTL when that is less
 * than 4 s) the owner is told to stop, because the database will declare us dead at TTL. By the
 * monotonic clock, from when the last answered beat was sent. A process that was stopped for long
 * finds itself fenced when it wakes up.
 */
#include "heartbeat.h"

#include "clock.h"
#include "log.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define RETRY_MS       200
#define FENCE_CHECK_MS 100

enum beat_state {
    BEAT_REGISTERING, /* store_worker_register() */
    BEAT_RESTING,     /* the timer */
    BEAT_BEATING,     /* store_worker_beat() */
    BEAT_STOPPED,     /* nothing */
};

struct heartbeat {
    enum beat_state state;
    uv_timer_t timer, fence;
    int open_handles;
    struct pg *pg, *spare;
    struct heartbeat_conf conf;
    struct heartbeat_callbacks cbs;
    struct pg_call call;
    int64_t worker_id;
    uint64_t sent_ms, answered_ms; /* of the beat in flight; of the last one answered */
    bool fenced;
    bool complained;
};

static void on_timer(uv_timer_t *timer);

static void beat_enter(struct heartbeat *hb, enum beat_state state)
{
    hb->state = state;
}

static void rest(struct heartbeat *hb, uint64_t ms)
{
    beat_enter(hb, BEAT_RESTING);
    uv_timer_start(&hb->timer, on_timer, ms, 0);
}

static void complain(struct heartbeat *hb, const char *what, const struct err *err)
{
    if (!hb->complained)
        log_line(LOG_WARN, "", "%s: %s", what, err->msg);
    hb->complained = true;
}

static void fence(struct heartbeat *hb, const char *why)
{
    if (hb->fenced)
        return;
    hb->fenced = true;
    log_line(LOG_WARN, "", "worker %lld fences itself: %s", (long long)hb->worker_id, why);
    hb->cbs.on_fenced(hb->cbs.owner);
}

static void on_registered(void *owner, PGresult *res, const struct err *err)
{
    struct heartbeat *hb = owner;

    if (hb->state == BEAT_STOPPED)
        return;
    if (err->code != ERR_OK) {
        complain(hb, "cannot register", err);
        uv_timer_start(&hb->timer, on_timer, RETRY_MS, 0);
        return;
    }
    hb->worker_id = store_worker_id(res);
    hb->answered_ms = hb->sent_ms;
    hb->fenced = hb->complained = false;
    log_line(LOG_INFO, "", "registered as worker %lld", (long long)hb->worker_id);
    hb->cbs.on_registered(hb->cbs.owner, hb->worker_id);
    rest(hb, hb->conf.every_ms);
}

static void beat_register(struct heartbeat *hb)
{
    beat_enter(hb, BEAT_REGISTERING);
    hb->sent_ms = clock_mono_ms();
    store_worker_register(hb->pg, &hb->call, hb->conf.name, hb->conf.slots, hb->conf.ttl_ms,
                          on_registered, hb);
}

static void on_beaten(void *owner, PGresult *res, const struct err *err)
{
    struct heartbeat *hb = owner;
    struct beat_row row;
    struct err why = *err;

    if (hb->state == BEAT_STOPPED)
        return;
    if (why.code == ERR_OK && store_read_beat(res, &row, &why) < 0) {
        fence(hb, why.msg);
        if (hb->state != BEAT_STOPPED) /* nothing runs any more, and we were leaving anyway */
            beat_register(hb);
        return;
    }
    if (why.code != ERR_OK) {
        complain(hb, "no heartbeat", &why);
        rest(hb, RETRY_MS);
        return;
    }
    hb->answered_ms = hb->sent_ms;
    hb->fenced = hb->complained = false;
    rest(hb, hb->conf.every_ms);
    hb->cbs.on_beat(hb->cbs.owner, &row);
}

static void beat(struct heartbeat *hb)
{
    bool spare = !pg_is_up(hb->pg) && pg_is_up(hb->spare);

    beat_enter(hb, BEAT_BEATING);
    hb->sent_ms = clock_mono_ms();
    store_worker_beat(spare ? hb->spare : hb->pg, &hb->call, hb->worker_id, hb->conf.ttl_ms,
                      hb->cbs.stats(hb->cbs.owner), hb->conf.ttl_ms / 2, on_beaten, hb);
}

static void on_timer(uv_timer_t *timer)
{
    struct heartbeat *hb = timer->data;

    if (hb->state == BEAT_REGISTERING)
        beat_register(hb);
    else
        beat(hb);
}

static uint64_t fence_after_ms(const struct heartbeat *hb)
{
    return hb->conf.ttl_ms >= 4000 ? hb->conf.ttl_ms - 2000 : hb->conf.ttl_ms / 2;
}

static void on_fence_check(uv_timer_t *timer)
{
    struct heartbeat *hb = timer->data;

    if (hb->state != BEAT_REGISTERING && hb->state != BEAT_STOPPED &&
        clock_mono_ms() - hb->answered_ms > fence_after_ms(hb))
        fence(hb, "no answer from the database in time");
}

struct heartbeat *heartbeat_new(uv_loop_t *loop, struct pg *pg, struct pg *spare,
                                const struct heartbeat_conf *conf,
                                const struct heartbeat_callbacks *cbs)
{
    struct heartbeat *hb = xcalloc(1, sizeof(*hb));

    hb->pg = pg;
    hb->spare = spare;
    hb->conf = *conf;
    hb->cbs = *cbs;
    uv_timer_init(loop, &hb->timer);
    uv_timer_init(loop, &hb->fence);
    hb->timer.data = hb->fence.data = hb;
    hb->open_handles = 2;
    uv_timer_start(&hb->fence, on_fence_check, FENCE_CHECK_MS, FENCE_CHECK_MS);
    beat_register(hb);
    return hb;
}

static void on_closed(uv_handle_t *handle)
{
    struct heartbeat *hb = handle->data;

    if (--hb->open_handles == 0)
        free(hb);
}

void heartbeat_close(struct heartbeat *hb)
{
    if (!hb)
        return;
    uv_close((uv_handle_t *)&hb->timer, on_closed);
    uv_close((uv_handle_t *)&hb->fence, on_closed);
}

bool heartbeat_is_live(const struct heartbeat *hb)
{
    return hb && !hb->fenced && (hb->state == BEAT_RESTING || hb->state == BEAT_BEATING);
}

void heartbeat_stop(struct heartbeat *hb)
{
    beat_enter(hb, BEAT_STOPPED);
    uv_timer_stop(&hb->timer);
}
