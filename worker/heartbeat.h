/*
 * A flow: this process's incarnation in the worker table, kept alive.
 */
#pragma once

#include "gate.h"
#include "pg.h"
#include "store_turn.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct heartbeat; /* opaque */

struct heartbeat_conf {
    const char *name; /* host:pid */
    int64_t slots;
    uint64_t every_ms, ttl_ms;
    uint64_t silence_ms; /* see worker_session.sql; 0: only the TTL counts */
    struct gate *gate;   /* borrowed; opened and shut here alone */
};

struct heartbeat_callbacks {
    /* A new incarnation: nothing it finds leased is its own doing but what it claims from now. */
    void (*on_registered)(void *owner, int64_t worker_id);
    void (*on_beat)(void *owner, const struct beat_row *row); /* the answer to a beat */
    /* Declared dead, or stopped for so long that we must be: drop all turns. Claim nothing until
     * on_registered() or on_beat() comes again. */
    void (*on_fenced)(void *owner);
    /* The counters to send along; valid until the next call. */
    const char *(*stats)(void *owner);
    void *owner;
};

/* `spare` carries the beats while `pg` has no connection. */
struct heartbeat *heartbeat_new(uv_loop_t *loop, struct pg *pg, struct pg *spare,
                                const struct heartbeat_conf *conf,
                                const struct heartbeat_callbacks *cbs);
void heartbeat_close(struct heartbeat *hb); /* after the connection */

bool heartbeat_is_fenced(const struct heartbeat *hb); /* or not registered yet */
/* A lease may be left that no turn is for: let the next beats count them. */
void heartbeat_count(struct heartbeat *hb);
/* The same, and beat now and twice more. */
void heartbeat_soon(struct heartbeat *hb);
void heartbeat_stop(struct heartbeat *hb); /* beat no more */
