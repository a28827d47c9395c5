/*
 *   IDLE ----> SLEEPING ----> REAPING ----> RESCUING
 *    ^            | ^            |           |  ^ |
 *    |            | |            |           |  +-+  a full batch: there may be more
 *    |            | +------------+-----------+         nobody dead has any
 *    +------------+--------------------------+         rescue_lead(false)
 *
 * IDLE      we do not lead
 * SLEEPING  `timer` runs until the next round
 * REAPING   worker_reap: death is one durable transition of the worker's row
 * RESCUING  lease_rescue: leases of the dead go back to ready, are quarantined or end as aborted
 *
 * While the database was away, hung or was slow, nobody could beat, and all workers look dead when
 * it is back. So death is declared only by a leader that has watched it all the time: each round
 * says when the last one saw the database, by the clock of that, and the statement judges nobody
 * when it is executed more than `every` + half the TTL later. Such a round, one that fails, and the
 * first one as leader begin a grace of a TTL, which counts from the next answer and in which rounds
 * only look; one that is late then begins it anew. Half a TTL that passes unnoticed does no harm: a
 * worker beats at least twice in a TTL. The server's start is judged in SQL.
 *
 * A failure in any state costs a round and the grace. A crash between the two loses nothing, the
 * dead stay dead. A worker that only seemed dead is fenced: its row says so in every statement of
 * its own.
 */
#include "rescue.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_plan.h"

#include <inttypes.h>
#include <stdlib.h>

#define BATCH      500
#define TIMEOUT_MS 5000

enum rescue_state {
    RESCUE_IDLE,     /* nothing */
    RESCUE_SLEEPING, /* timer */
    RESCUE_REAPING,  /* worker_reap */
    RESCUE_RESCUING, /* lease_rescue */
};

struct rescue {
    enum rescue_state state;
    struct pg *pg;
    struct notify *notify;
    struct pg_call call;
    uv_timer_t timer;
    bool closing; /* gone when what is in flight has been answered */
    uint64_t every_ms, worker_ttl_ms;
    uint64_t grace_until_ms; /* nobody is declared dead before */
    int64_t seen_us;         /* the database's clock as of the last answer; 0: unknown */
    bool leads, failing;
    bool judging; /* the round in flight may declare someone dead */
    void (*on_round)(void *owner, bool busy, int64_t latest_us);
    void *owner;
};

static void on_timer(uv_timer_t *timer);
static void rescue_leases(struct rescue *rescue);

static void rescue_enter(struct rescue *rescue, enum rescue_state state)
{
    rescue->state = state;
    hook_state("rescue", (int)state);
    if (state == RESCUE_SLEEPING)
        uv_timer_start(&rescue->timer, on_timer, rescue->every_ms, 0);
    else
        uv_timer_stop(&rescue->timer);
}

static void end_round(struct rescue *rescue)
{
    rescue_enter(rescue, rescue->leads ? RESCUE_SLEEPING : RESCUE_IDLE);
}

static void begin_grace(struct rescue *rescue)
{
    rescue->seen_us = 0;
    rescue->grace_until_ms = clock_mono_ms() + rescue->worker_ttl_ms;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void end(struct rescue *rescue)
{
    uv_close((uv_handle_t *)&rescue->timer, on_closed);
}

/* A call has been answered. False: nobody wants to know any more. */
static bool wanted(struct rescue *rescue)
{
    if (rescue->closing)
        end(rescue);
    return !rescue->closing;
}

/* A failed call ends the round. The grace counts from the first answer after it. */
static bool failed(struct rescue *rescue, const struct err *err)
{
    if (err->code == ERR_OK) {
        if (rescue->failing)
            begin_grace(rescue);
        rescue->failing = false;
        return false;
    }
    if (!rescue->failing)
        log_line(err->code == ERR_BUG ? LOG_ERROR : LOG_WARN, "", "cannot look for the dead: %s",
                 err->msg);
    rescue->failing = true;
    end_round(rescue);
    return true;
}

static void on_rescued(void *owner, PGresult *res, const struct err *err)
{
    struct rescue *rescue = owner;
    int64_t rescued;

    if (!wanted(rescue) || failed(rescue, err))
        return;
    rescued = store_read_rescued(res);
    if (rescued > 0) {
        log_line(LOG_WARN, "", "gave back %" PRId64 " leases of dead workers", rescued);
        notify_put(rescue->notify, "r");
    }
    if (rescued == BATCH && rescue->leads)
        rescue_leases(rescue);
    else
        end_round(rescue);
}

static void rescue_leases(struct rescue *rescue)
{
    rescue_enter(rescue, RESCUE_RESCUING);
    store_lease_rescue(rescue->pg, &rescue->call, BATCH, TIMEOUT_MS, on_rescued, rescue);
}

static bool in_grace(const struct rescue *rescue)
{
    return clock_mono_ms() < rescue->grace_until_ms;
}

static uint64_t patience_ms(const struct rescue *rescue)
{
    return rescue->every_ms + rescue->worker_ttl_ms / 2;
}

/* Has the database been watched until `now_us`? Of a round that judges the statement says so. */
static bool watched(const struct rescue *rescue, const struct reap_row *row)
{
    int64_t since_us = row->now_us - rescue->seen_us;

    if (rescue->judging)
        return row->judged;
    return since_us >= 0 && since_us <= (int64_t)patience_ms(rescue) * 1000;
}

/* The first look of a grace may have waited for its answer longer than that lasts. */
static void note_seen(struct rescue *rescue, const struct reap_row *row)
{
    if (!rescue->seen_us) {
        begin_grace(rescue);
    } else if (!watched(rescue, row)) {
        log_line(LOG_WARN, "", "the database was away or its clock jumped: nobody is dead yet");
        begin_grace(rescue);
    }
    rescue->seen_us = row->now_us;
}

static void on_reaped(void *owner, PGresult *res, const struct err *err)
{
    struct rescue *rescue = owner;
    struct reap_row row = {0};
    char context[40];
    bool died = false;

    if (!wanted(rescue) || failed(rescue, err))
        return;
    for (int i = 0; i < store_rows(res); i++) {
        store_read_reap(res, i, &row);
        if (row.worker_id == 0) {
            note_seen(rescue, &row);
            continue;
        }
        snprintf(context, sizeof(context), "worker=%" PRId64, row.worker_id);
        log_line(LOG_WARN, context, "this worker is dead");
        died = true;
    }
    rescue->on_round(rescue->owner, row.live_hold, row.latest_us);
    if (died || row.dead_hold)
        rescue_leases(rescue);
    else
        end_round(rescue);
}

static void on_timer(uv_timer_t *timer)
{
    struct rescue *rescue = timer->data;

    rescue_enter(rescue, RESCUE_REAPING);
    rescue->judging = rescue->seen_us && !rescue->failing && !in_grace(rescue);
    store_worker_reap(rescue->pg, &rescue->call, rescue->judging ? rescue->seen_us : 0,
                      patience_ms(rescue), rescue->worker_ttl_ms, TIMEOUT_MS, on_reaped, rescue);
}

void rescue_lead(struct rescue *rescue, bool leads)
{
    rescue->leads = leads;
    if (leads)
        begin_grace(rescue);
    if (leads && rescue->state == RESCUE_IDLE)
        rescue_enter(rescue, RESCUE_SLEEPING);
    else if (!leads && rescue->state == RESCUE_SLEEPING)
        rescue_enter(rescue, RESCUE_IDLE);
}

void rescue_soon(struct rescue *rescue)
{
    if (rescue->state == RESCUE_SLEEPING)
        rescue_leases(rescue);
}

struct rescue *rescue_new(uv_loop_t *loop, struct pg *pg, struct notify *notify, uint64_t every_ms,
                          uint64_t worker_ttl_ms,
                          void (*on_round)(void *owner, bool busy, int64_t latest_us), void *owner)
{
    struct rescue *rescue = xcalloc(1, sizeof(*rescue));

    rescue->pg = pg;
    rescue->notify = notify;
    rescue->every_ms = every_ms;
    rescue->worker_ttl_ms = worker_ttl_ms;
    rescue->on_round = on_round;
    rescue->owner = owner;
    uv_timer_init(loop, &rescue->timer);
    rescue->timer.data = rescue;
    return rescue;
}

void rescue_close(struct rescue *rescue)
{
    rescue->leads = false;
    rescue->closing = true;
    if (rescue->state == RESCUE_IDLE || rescue->state == RESCUE_SLEEPING)
        end(rescue);
}
