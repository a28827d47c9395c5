/*
 *   REGISTERING ---> RESTING <---> BEATING
 *        ^              |             |
 *        +--------------+-------------+    declared dead: a new incarnation
 *
 * REGISTERING  worker_register is in flight, or `timer` runs to the next try
 * RESTING      `timer` runs to the next beat
 * BEATING      worker_beat is in flight; its answer carries controls
 *
 * How long may we act? The database declares us dead at the earliest TTL after it has executed our
 * last beat, so the gate (gate.h) is open until TTL − 2 s (half the TTL when that is less than 4 s)
 * after the moment when the last answered beat was *sent*, by the clock that goes on while we or
 * the machine sleep. An answer that comes late opens nothing. Then we are suspended: calls in
 * flight go on, nothing is started or written, until a beat says that we are alive still, or dead.
 * Without any connection the database may see that our session has ended, and declares us dead when
 * we have been silent for `silence_ms` (scheduler/vanish.c): then the gate shuts a little before
 * that.
 *
 * Dead, the owner is told to drop everything (`on_fenced`). So it is, without asking, when we
 * ourselves did not run for longer than the TTL, which `look` finds within its 100 ms: others go on
 * with our turns most likely, and our calls are closed before anything else is done.
 */
#include "heartbeat.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define RETRY_MS   200
#define LOOK_MS    100
#define CUT_OFF_MS 1900 /* below the 2 s for which scheduler/vanish.c must miss a session */

/* What was sent on a connection that is gone may be executed a little later still. */
#define HURRY_MS    250
#define HURRY_BEATS 2

/* Beats that count our leases after whatever may have left one that we do not know of, and one in
 * so many that does in any case. */
#define COUNT_BEATS 15

enum beat_state {
    BEAT_REGISTERING, /* store_worker_register() */
    BEAT_RESTING,     /* the timer */
    BEAT_BEATING,     /* store_worker_beat() */
    BEAT_STOPPED,     /* nothing */
};

struct heartbeat {
    enum beat_state state;
    uv_timer_t timer, look;
    int open_handles;
    struct pg *pg, *spare;
    struct heartbeat_conf conf;
    struct heartbeat_callbacks cbs;
    struct pg_call call;
    int64_t worker_id;
    uint64_t sent_ms;   /* of the beat in flight; clock_boot_ms(), as all here */
    uint64_t alive_ms;  /* when the last one that was answered was sent */
    uint64_t looked_ms; /* when we last ran, at the latest */
    uint64_t reach_ms;  /* when we last had a connection */
    int hurry;          /* beats to come soon */
    int count;          /* beats to come that count */
    int uncounted;      /* since one did */
    bool fenced;        /* nothing runs that the database knows as ours */
    bool suspended;     /* and it has been logged */
    bool complained;
};

static void on_timer(uv_timer_t *timer);

static void beat_enter(struct heartbeat *hb, enum beat_state state)
{
    hb->state = state;
    hook_state("beat", (int)state);
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
    gate_shut(hb->conf.gate);
    if (hb->fenced)
        return;
    hb->fenced = true;
    heartbeat_count(hb);
    log_line(LOG_WARN, "", "worker %lld fences itself: %s", (long long)hb->worker_id, why);
    hb->cbs.on_fenced(hb->cbs.owner);
}

static uint64_t pause_ms(struct heartbeat *hb)
{
    uint64_t every_ms = hb->conf.every_ms;

    if (hb->hurry == 0 || every_ms < HURRY_MS)
        return every_ms;
    hb->hurry--;
    return HURRY_MS;
}

static uint64_t act_for_ms(const struct heartbeat *hb)
{
    return hb->conf.ttl_ms >= 4000 ? hb->conf.ttl_ms - 2000 : hb->conf.ttl_ms / 2;
}

/* We were alive when the beat was executed, which was after it was sent. */
static void alive(struct heartbeat *hb)
{
    hb->alive_ms = hb->sent_ms;
    gate_open(hb->conf.gate, hb->sent_ms + act_for_ms(hb));
    hb->fenced = hb->complained = false;
    if (hb->suspended && gate_is_open(hb->conf.gate)) {
        hb->suspended = false;
        log_line(LOG_INFO, "", "worker %lld goes on", (long long)hb->worker_id);
    }
    rest(hb, gate_is_open(hb->conf.gate) ? pause_ms(hb) : 0);
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
    log_line(LOG_INFO, "", "registered as worker %lld", (long long)hb->worker_id);
    alive(hb);
    hb->cbs.on_registered(hb->cbs.owner, hb->worker_id);
}

static void beat_register(struct heartbeat *hb)
{
    beat_enter(hb, BEAT_REGISTERING);
    hb->sent_ms = clock_boot_ms();
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
        heartbeat_count(hb);
        rest(hb, RETRY_MS);
        return;
    }
    alive(hb);
    hb->cbs.on_beat(hb->cbs.owner, &row);
}

static void beat(struct heartbeat *hb)
{
    bool spare = !pg_is_up(hb->pg) && pg_is_up(hb->spare);
    bool count = hb->count > 0 || hb->uncounted >= COUNT_BEATS;

    hb->count -= hb->count > 0;
    hb->uncounted = count ? 0 : hb->uncounted + 1;
    beat_enter(hb, BEAT_BEATING);
    hb->sent_ms = clock_boot_ms();
    store_worker_beat(spare ? hb->spare : hb->pg, &hb->call, hb->worker_id, hb->conf.ttl_ms,
                      hb->cbs.stats(hb->cbs.owner), count, hb->conf.ttl_ms / 2, on_beaten, hb);
}

static void on_timer(uv_timer_t *timer)
{
    struct heartbeat *hb = timer->data;

    if (hb->state == BEAT_REGISTERING)
        beat_register(hb);
    else
        beat(hb);
}

/* Our session may have ended, and silence is held against us. */
static bool is_cut_off(struct heartbeat *hb, uint64_t now_ms)
{
    if (pg_is_up(hb->pg) || pg_is_up(hb->spare))
        hb->reach_ms = now_ms;
    return hb->conf.silence_ms && now_ms - hb->reach_ms > CUT_OFF_MS &&
           now_ms - hb->alive_ms + 2 * LOOK_MS > hb->conf.silence_ms;
}

static void on_look(uv_timer_t *timer)
{
    struct heartbeat *hb = timer->data;
    uint64_t now_ms = clock_boot_ms(), away_ms = now_ms - hb->looked_ms;

    hb->looked_ms = now_ms;
    if (hb->state != BEAT_RESTING && hb->state != BEAT_BEATING)
        return;
    if (away_ms > hb->conf.ttl_ms) {
        fence(hb, "it was stopped for too long");
        return;
    }
    if (is_cut_off(hb, now_ms))
        gate_shut(hb->conf.gate);
    if (!hb->fenced && !hb->suspended && !gate_is_open(hb->conf.gate)) {
        hb->suspended = true;
        log_line(LOG_WARN, "", "worker %lld is suspended: no answer from the database in time",
                 (long long)hb->worker_id);
    }
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
    uv_timer_init(loop, &hb->look);
    hb->timer.data = hb->look.data = hb;
    hb->open_handles = 2;
    hb->fenced = true;
    hb->looked_ms = clock_boot_ms();
    uv_timer_start(&hb->look, on_look, LOOK_MS, LOOK_MS);
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
    uv_close((uv_handle_t *)&hb->look, on_closed);
}

bool heartbeat_is_fenced(const struct heartbeat *hb)
{
    return hb->fenced;
}

void heartbeat_count(struct heartbeat *hb)
{
    hb->count = COUNT_BEATS;
}

void heartbeat_soon(struct heartbeat *hb)
{
    hb->hurry = HURRY_BEATS;
    heartbeat_count(hb);
    if (hb->state == BEAT_RESTING && !hb->complained)
        uv_timer_start(&hb->timer, on_timer, 0, 0);
}

void heartbeat_stop(struct heartbeat *hb)
{
    beat_enter(hb, BEAT_STOPPED);
    uv_timer_stop(&hb->timer);
}
