/*
 * Finds workers that died with their connection (kill -9, out of memory) sooner than their
 * heartbeat's time to live, by the end of the backend that served their session.
 */
#pragma once

#include "pg.h"
#include "rescue.h"

#include <stdbool.h>
#include <stdint.h>

struct vanish; /* opaque */

/* Idle until vanish_lead(). A worker is declared dead when its backend was seen, has been away for
 * `grace_ms` at least, and it has been silent for as long as its row says; then `rescue` gives its
 * leases back. `grace_ms` 0: never. */
struct vanish *vanish_new(uv_loop_t *loop, struct pg *pg, struct rescue *rescue, uint64_t grace_ms);
void vanish_lead(struct vanish *vanish, bool leads);

/* How closely to watch, told after each round of `rescue`: `busy` while any worker holds leases;
 * a session that began after all before, in microseconds, is looked at now. */
void vanish_heed(struct vanish *vanish, bool busy, int64_t latest_us);

/* The last word, as rescue_close(); comes before it. */
void vanish_close(struct vanish *vanish);
