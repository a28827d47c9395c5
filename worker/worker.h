/*
 * The worker: claims turns while there is room, runs them, tells them what came from outside.
 */
#pragma once

#include "loop.h"

#include <stdbool.h>
#include <stdint.h>

struct worker_conf {
    char *database, *name, *log_level;
    int64_t slots;
    uint64_t beat_every, beat_ttl, poll, drain; /* milliseconds */
    uint64_t buffer, buffer_turn;               /* bytes */
    bool hints, notify, prepare;
};

struct worker; /* opaque */

struct worker *worker_start(struct loop *loop, const struct worker_conf *conf);

/* Claim nothing more, give running turns `drain` to end, hand the rest back, close everything;
 * then the loop is finished. */
void worker_stop(struct worker *w);
