/*
 *   WAITING <-----> ASKING ------> LEAVING ------> END
 *      +-----------------------------^      leader_stop()
 *
 * WAITING  `timer` runs until the next hold
 * ASKING   leader_hold
 * LEAVING  leader_leave, or a hold whose answer is not worth waiting for
 * END      `timer` and `expiry` are being closed
 *
 * Leading is not a state but a time, `leads_until_ms`: each hold that is granted moves it, and
 * `expiry` ends it. A hold that fails or gets no answer costs nothing until then; after it a
 * standby acts within one more round. Should two act at once all the same (a stopped process, a
 * jumping clock), the statements take care: whatever they move is locked, moved once and gone.
 */
#include "leader.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_plan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#define MARGIN_MS 1000
#define LEAVE_MS  1000

enum leader_state {
    LEADER_WAITING, /* timer */
    LEADER_ASKING,  /* leader_hold */
    LEADER_LEAVING, /* leader_leave */
    LEADER_END,     /* the handles are being closed */
};

struct leader {
    enum leader_state state;
    struct pg *pg;
    struct pg_call call;
    uv_timer_t timer, expiry;
    int open_handles;
    const char *holder;
    uint64_t every_ms, ttl_ms;
    uint64_t asked_ms;       /* when the last hold was asked for */
    uint64_t leads_until_ms; /* 0: not leading */
    int64_t term;
    bool in_flight, told, complained;
    void (*on_role)(void *owner, bool leads);
    void (*on_end)(void *owner);
    void *owner;
};

static void on_timer(uv_timer_t *timer);
static void leader_leave(struct leader *leader);

static void leader_enter(struct leader *leader, enum leader_state state)
{
    uint64_t since_ms;

    leader->state = state;
    hook_state("leader", (int)state);
    uv_timer_stop(&leader->timer);
    if (state == LEADER_WAITING) {
        since_ms = clock_mono_ms() - leader->asked_ms;
        uv_timer_start(&leader->timer, on_timer,
                       since_ms < leader->every_ms ? leader->every_ms - since_ms : 0, 0);
    }
}

bool leader_leads(const struct leader *leader)
{
    return clock_mono_ms() < leader->leads_until_ms;
}

/* Tell the owner, once for each change. */
static void tell(struct leader *leader, const char *why)
{
    bool leads = leader_leads(leader);

    if (leads == leader->told)
        return;
    leader->told = leads;
    if (leads)
        log_line(LOG_INFO, "", "leading, term %" PRId64, leader->term);
    else
        log_line(LOG_WARN, "", "no longer leading: %s", why);
    leader->on_role(leader->owner, leads);
}

static void on_expiry(uv_timer_t *expiry)
{
    struct leader *leader = expiry->data;

    leader->leads_until_ms = 0;
    tell(leader, "no answer from the database in time");
}

/* The hold counts from when we asked: the database's clock started later. */
static void granted(struct leader *leader, int64_t term)
{
    uint64_t now_ms = clock_mono_ms(), until_ms = leader->asked_ms + leader->ttl_ms - MARGIN_MS;

    if (until_ms <= now_ms)
        return; /* it came too late to be of use */
    leader->leads_until_ms = until_ms;
    leader->term = term;
    uv_timer_start(&leader->expiry, on_expiry, until_ms - now_ms, 0);
    tell(leader, "");
}

static void refused(struct leader *leader)
{
    leader->leads_until_ms = 0;
    uv_timer_stop(&leader->expiry);
    tell(leader, "another scheduler leads");
}

static void on_hold(void *owner, PGresult *res, const struct err *err)
{
    struct leader *leader = owner;
    int64_t term;

    leader->in_flight = false;
    if (leader->state == LEADER_LEAVING) {
        leader_leave(leader);
        return;
    }
    if (err->code != ERR_OK) {
        if (!leader->complained)
            log_line(LOG_WARN, "", "cannot ask to lead: %s", err->msg);
        leader->complained = true; /* once per outage */
    } else {
        leader->complained = false;
        term = store_read_term(res);
        if (term > 0)
            granted(leader, term);
        else
            refused(leader);
    }
    leader_enter(leader, LEADER_WAITING);
}

static void leader_ask(struct leader *leader)
{
    leader_enter(leader, LEADER_ASKING);
    leader->asked_ms = clock_mono_ms();
    leader->in_flight = true;
    store_leader_hold(leader->pg, &leader->call, leader->holder, leader->ttl_ms, leader->every_ms,
                      on_hold, leader);
}

static void on_timer(uv_timer_t *timer)
{
    struct leader *leader = timer->data;

    assert(leader->state == LEADER_WAITING);
    leader_ask(leader);
}

struct leader *leader_new(uv_loop_t *loop, struct pg *pg, const char *holder, uint64_t every_ms,
                          uint64_t ttl_ms, void (*on_role)(void *owner, bool leads), void *owner)
{
    struct leader *leader = xcalloc(1, sizeof(*leader));

    leader->pg = pg;
    leader->holder = holder;
    leader->every_ms = every_ms;
    leader->ttl_ms = ttl_ms;
    leader->on_role = on_role;
    leader->owner = owner;
    uv_timer_init(loop, &leader->timer);
    uv_timer_init(loop, &leader->expiry);
    leader->timer.data = leader->expiry.data = leader;
    leader->open_handles = 2;
    leader_ask(leader);
    return leader;
}

static void on_closed(uv_handle_t *handle)
{
    struct leader *leader = handle->data;

    if (--leader->open_handles > 0)
        return;
    leader->on_end(leader->owner);
    free(leader);
}

static void leader_end(struct leader *leader)
{
    leader_enter(leader, LEADER_END);
    uv_close((uv_handle_t *)&leader->timer, on_closed);
    uv_close((uv_handle_t *)&leader->expiry, on_closed);
}

/* A row that we did not give back costs the standby the rest of its time. */
static void on_left(void *owner, PGresult *res, const struct err *err)
{
    (void)res;
    if (err->code != ERR_OK)
        log_line(LOG_WARN, "", "cannot step down: %s", err->msg);
    leader_end(owner);
}

/* Also when we do not lead: a hold may have been granted whose answer was lost. */
static void leader_leave(struct leader *leader)
{
    store_leader_leave(leader->pg, &leader->call, leader->holder, LEAVE_MS, on_left, leader);
}

void leader_stop(struct leader *leader, void (*on_end)(void *owner))
{
    assert(leader->state == LEADER_WAITING || leader->state == LEADER_ASKING);
    leader->on_end = on_end;
    leader_enter(leader, LEADER_LEAVING);
    if (!leader->in_flight) /* else on_hold() goes on */
        leader_leave(leader);
}
