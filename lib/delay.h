/*
 * Many short waits on one timer. A wait is a struct in its owner; most are canceled before they
 * run out (time-outs), so starting and canceling cost a list operation. Resolution 10 ms; a wait
 * of 0 is over when the loop comes round.
 */
#pragma once

#include "list.h"

#include <stdint.h>
#include <uv.h>

struct delays; /* opaque: one per loop */

/* `on_due` is called once, from the loop, unless canceled before. */
struct delay { /* zeroed before its first use */
    struct list node;
    uint64_t due_ms; /* clock_mono_ms() */
    void (*on_due)(void *owner);
    void *owner;
    struct delays *delays; /* NULL while it does not run */
};

struct delays *delays_new(uv_loop_t *loop);
void delays_close(struct delays *delays); /* nothing may be waiting; NULL is allowed */

/* Not while it runs: cancel it first. */
void delay_start(struct delays *delays, struct delay *delay, uint64_t ms,
                 void (*on_due)(void *owner), void *owner);
void delay_cancel(struct delay *delay); /* harmless when not running, also on a zeroed one */
