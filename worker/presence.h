/*
 * Lets the scheduler know which backend serves this worker's session, so that the end of it tells
 * of our death at once (scheduler/vanish.c).
 */
#pragma once

#include "pg.h"

#include <stdint.h>

struct presence; /* opaque */

/* `pg` is the connection of the session. `silence_ms`: how long a worker of ours is silent at the
 * least before it may be declared dead without its session. */
struct presence *presence_new(struct pg *pg, uint64_t silence_ms);
void presence_close(struct presence *p); /* after the connection */

/* The session is a new one, or this incarnation is: record it. */
void presence_renew(struct presence *p, int64_t worker_id);
/* A good moment to try again what has failed. */
void presence_check(struct presence *p);
