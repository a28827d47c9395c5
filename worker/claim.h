/*
 * A flow: takes ready turns for this worker and loads what they need.
 */
#pragma once

#include "pg.h"
#include "store_turn.h"
#include "worker_stats.h"

#include <stdbool.h>
#include <uv.h>

struct claim; /* opaque */

struct claim_callbacks {
    int (*room)(void *owner); /* most turns to take now; 0: none */
    void (*on_turn)(void *owner, const struct claim_row *claim, const struct load_row *load);
    void (*on_idle)(void *owner); /* claim_is_busy() has become false */
    void (*on_lost)(void *owner); /* a claim had no answer: its leases may exist, and none knows */
    void (*on_left_out)(void *owner); /* a turn could not be loaded: its lease is left */
    void *owner;
};

/* Looks every `poll_ms`; without `hints` sooner as long as there was something. */
struct claim *claim_new(uv_loop_t *loop, struct pg *pg, uint64_t poll_ms, bool hints,
                        struct worker_stats *stats, const struct claim_callbacks *cbs);
void claim_close(struct claim *c); /* after the connection */

/* The incarnation to claim for; 0: claim nothing. What was claimed and not given out yet is
 * forgotten: its leases are the old incarnation's. */
void claim_set_worker(struct claim *c, int64_t worker_id);

void claim_look(struct claim *c);            /* something may be ready, or there is room again */
void claim_look_again(struct claim *c);      /* if the last look found no room */
void claim_look_everywhere(struct claim *c); /* the server may be another, or another history */
bool claim_is_busy(const struct claim *c);   /* leases may exist that are not given out yet */
