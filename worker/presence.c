/*
 *   UNKNOWN <---> RECORDING ---> KNOWN
 *      ^                           |
 *      +---------------------------+   presence_renew()
 *
 * UNKNOWN    the row does not say which backend is ours; presence_check() tries
 * RECORDING  worker_session is in flight; what is renewed meanwhile is recorded after it
 * KNOWN      it does, or there is none to tell: behind a pooler
 *
 * A failure costs the quick detection of our death until the next heartbeat, nothing else.
 */
#include "presence.h"

#include "hook.h"
#include "log.h"
#include "mem.h"
#include "store_turn.h"

#include <stdlib.h>

enum presence_state {
    PRESENCE_UNKNOWN,   /* nothing */
    PRESENCE_RECORDING, /* store_worker_session() */
    PRESENCE_KNOWN,     /* nothing */
};

struct presence {
    enum presence_state state;
    struct pg *pg;
    struct pg_call call;
    uint64_t silence_ms;
    int64_t worker_id;
    bool renewed; /* while RECORDING: what is in flight may be of the session before */
};

static void presence_enter(struct presence *p, enum presence_state state)
{
    p->state = state;
    hook_state("presence", (int)state);
}

static void on_recorded(void *owner, PGresult *res, const struct err *err)
{
    struct presence *p = owner;

    presence_enter(p, PRESENCE_UNKNOWN);
    if (err->code == ERR_CANCELED)
        return;
    if (err->code != ERR_OK)
        log_line(LOG_DEBUG, "", "session not recorded: %s", err->msg);
    else if (!p->renewed && store_read_session(res) >= 0)
        presence_enter(p, PRESENCE_KNOWN);
    if (p->renewed)
        presence_check(p);
}

void presence_check(struct presence *p)
{
    if (p->state != PRESENCE_UNKNOWN || p->worker_id == 0 || !pg_is_up(p->pg))
        return;
    p->renewed = false;
    presence_enter(p, PRESENCE_RECORDING);
    store_worker_session(p->pg, &p->call, p->worker_id, p->silence_ms, on_recorded, p);
}

void presence_renew(struct presence *p, int64_t worker_id)
{
    p->worker_id = worker_id;
    p->renewed = true;
    if (p->state == PRESENCE_KNOWN)
        presence_enter(p, PRESENCE_UNKNOWN);
    presence_check(p);
}

struct presence *presence_new(struct pg *pg, uint64_t silence_ms)
{
    struct presence *p = xcalloc(1, sizeof(*p));

    p->pg = pg;
    p->silence_ms = silence_ms;
    return p;
}

void presence_close(struct presence *p)
{
    free(p);
}
