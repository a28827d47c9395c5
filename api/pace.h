/*
 * How long until the next poll: 250 ms while hints are off or not yet proven, then longer step by
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
};

static inline void pace_reset(struct pace *pace)
{
    pace->step_ms = 0;
}

/* `hints`: they are being heard. */
static inline uint64_t pace_next(struct pace *pace, bool hints)
{
    uint64_t step = hints && pace->step_ms ? 2 * pace->step_ms : PACE_MIN_MS;

    pace->step_ms = step < PACE_MAX_MS ? step : PACE_MAX_MS;
    return pace->step_ms * (75 + id_random32() % 50) / 100;
}
