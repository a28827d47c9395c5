/* Housekeeping: partitions of the days to come, and the end of what has been kept long enough. */
#pragma once

#include "pg.h"

#include <stdbool.h>
#include <stdint.h>

struct retain; /* opaque */

/* Idle until retain_lead(). Removes terminal tasks `age_ms` after their end, every `every_ms`. */
struct retain *retain_new(uv_loop_t *loop, struct pg *pg, uint64_t age_ms, uint64_t every_ms);
void retain_lead(struct retain *retain, bool leads);

/* The last word. What is in flight may still take effect; its answer, at the latest that of
 * pg_close(), is ignored. */
void retain_close(struct retain *retain);
