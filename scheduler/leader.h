/*
 * Who of the schedulers acts: a row with a time in nocturne.leader, held by one at a time.
 *
 * leader_leads() says yes from the answer that we hold the row until one second before our hold
 * could run out, by our own clock, whether the database answers or not.
 */
#pragma once

#include "pg.h"

#include <stdbool.h>
#include <stdint.h>

struct leader; /* opaque */

/*
 * `holder` names this process and no other; borrowed. Asks every `every_ms` for a hold of
 * `ttl_ms`. `on_role` runs when leader_leads() changes, never from within a call of the owner.
 */
struct leader *leader_new(uv_loop_t *loop, struct pg *pg, const char *holder, uint64_t every_ms,
                          uint64_t ttl_ms, void (*on_role)(void *owner, bool leads), void *owner);
bool leader_leads(const struct leader *leader);

/* Step down, so that a standby takes over at once; `on_end` runs once, a second later at most,
 * and is the last word of `leader`. on_role() is not called any more. */
void leader_stop(struct leader *leader, void (*on_end)(void *owner));
