/*
 * Ends sessions of our daemons that take no answers and so hold up the horizon of vacuum.
 */
#pragma once

#include "pg.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct watchdog; /* opaque */

/* Idle until watchdog_lead(). `stuck_ms`: how long a daemon may leave an answer untaken; 0: for
 * ever. */
struct watchdog *watchdog_new(uv_loop_t *loop, struct pg *pg, uint64_t stuck_ms);
void watchdog_lead(struct watchdog *dog, bool leads);

/* The last word; freed when what is in flight has been answered, at the latest by pg_close(). */
void watchdog_close(struct watchdog *dog);
