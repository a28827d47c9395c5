/*
 * How long until the next poll: 250 ms while hints are off or do not come, then longer step by
 * step up to 2 s, each with jitter so that the processes do not ask all at once.
 */
#pragma once

#include "id.h"

#include <stdbool.h>
#include <stdint.h>

#define PACE_MIN_MS 250
#define PACE_MAX_MS 2000

struct pace {
    uint64_t step_ms;
    uint64_t heard, heard_before; /* hints so far at the last poll, and at the one before */
};

static inline void pace_reset(struct pace *pace)
{
    pace->step_ms = 0;
}

/* A query has found something, with `heard` hints so far. Without one since the last poll but one,
 * what is found is found by polling only, although the connection for hints is up. */
static inline void pace_found(struct pace *pace, uint64_t heard)
{
    if (heard == pace->heard_before)
        pace_reset(pace);
}

/* `hints`: they should be heard; `heard`: how many were so far. */
static inline uint64_t pace_next(struct pace *pace, bool hints, uint64_t heard)
{
    uint64_t step = hints && pace->step_ms ? 2 * pace->step_ms : PACE_MIN_MS;

    pace->heard_before = pace->heard;
    pace->heard = heard;
    pace->step_ms = step < PACE_MAX_MS ? step : PACE_MAX_MS;
    return pace->step_ms * (75 + id_random32() % 50) / 100;
}
