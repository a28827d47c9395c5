/* Declares workers dead whose heartbeats have stopped, and gives back the leases of the dead. */
#pragma once

#include "notify.h"
#include "pg.h"

#include <stdbool.h>
#include <stdint.h>

struct rescue; /* opaque */

/*
 * Idle until rescue_lead(). Looks every `every_ms`. Nobody is declared dead within
 * `worker_ttl_ms` of our becoming the leader or of the database's coming back: the workers are
 * given the time to beat first. `notify` is told when leases went back. `on_round` hears after each
 * look whether workers that live hold leases, and when the latest session of a worker began.
 */
struct rescue *rescue_new(uv_loop_t *loop, struct pg *pg, struct notify *notify, uint64_t every_ms,
                          uint64_t worker_ttl_ms,
                          void (*on_round)(void *owner, bool busy, int64_t latest_us), void *owner);
void rescue_lead(struct rescue *rescue, bool leads);
void rescue_soon(struct rescue *rescue); /* somebody was declared dead: look now */

/* The last word. What is in flight may still take effect; its answer, at the latest that of
 * pg_close(), is ignored. */
void rescue_close(struct rescue *rescue);
