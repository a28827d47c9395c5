/*
 * When a connection to PostgreSQL is tried again, in view of the others of this process: pg.c asks.
 *
 * One connection that is lost while another one is up is its own trouble: it is back at once. When
 * all of a process are down the server is away, and one leads: that which may wait least
 * (`retry_cap_ms`), then the oldest. It tries at once, for all may have been cut; refused, every
 * AWAY_RETRY_MS, and after LONG_MS every LONG_RETRY_MS. When it has found the way the others
 * follow, at once if nobody was refused, else spread over FOLLOW_MS: whatever the server serves
 * first is not stormed. Should the leading one alone be in trouble, they try by themselves,
 * OTHERS_RETRY times as rarely. 100 workers with three each are 170 attempts a second, after
 * LONG_MS 50.
 */
#pragma once

#include "list.h"

#include <stdbool.h>
#include <stdint.h>

/* Lives inside its connection. */
struct pg_peer {
    struct list node;      /* of all in this process: it has one loop */
    bool up;               /* between pg_peer_found() and pg_peer_lost() */
    bool waited;           /* for the one that leads, long enough */
    unsigned failures;     /* connection attempts since it was last up */
    uint64_t down_ms;      /* clock_mono_ms(): when it was lost, or made */
    uint64_t retry_cap_ms; /* the longest pause while others are up; may be changed at any time */
    void (*hurry)(struct pg_peer *peer, uint64_t ms);
};

/* `hurry`: another one has found the way; if the next attempt is to come later than in `ms`, let
 * it come then. It is called for those that are down, whatever they do at the moment. */
void pg_peer_init(struct pg_peer *peer, void (*hurry)(struct pg_peer *peer, uint64_t ms));
void pg_peer_release(struct pg_peer *peer);

/* What happened to it. */
uint64_t pg_peer_lost(struct pg_peer *peer); /* or refused; the pause before the next attempt, ms */
void pg_peer_trying(struct pg_peer *peer);
void pg_peer_found(struct pg_peer *peer);

/* The pause is over: milliseconds to wait still, because another one looks for the server, or 0. */
uint64_t pg_peer_wait_ms(struct pg_peer *peer);
