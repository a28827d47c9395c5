/* Makes runnable what is due: delayed tasks, retries, deadlines. */
#pragma once

#include "notify.h"
#include "pg.h"

#include <stdbool.h>
#include <stdint.h>

struct due; /* opaque */

/* Idle until due_lead(). Looks at least every `poll_ms`; `notify` is told when something moved. */
struct due *due_new(uv_loop_t *loop, struct pg *pg, struct notify *notify, uint64_t poll_ms);
void due_lead(struct due *due, bool leads);

/* The last word. What is in flight may still take effect; its answer, at the latest that of
 * pg_close(), is ignored. */
void due_close(struct due *due);
