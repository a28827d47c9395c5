/*
 * May this worker act: start a model call or a tool, write? Only while an answered heartbeat
 * holds, see heartbeat.c. Asked right before each such act, by the clock: a process that was
 * stopped and wakes up finds the gate shut whatever it was about to do.
 */
#pragma once

#include "list.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct gate; /* opaque */

/* One who waits for the gate to open. Lives inside its owner, zeroed before its first use. */
struct gate_wait {
    struct list node;
    bool waiting;
    void (*on_open)(void *owner);
    void *owner;
};

struct gate *gate_new(uv_loop_t *loop);
void gate_close(struct gate *gate); /* nobody may be waiting; NULL is allowed */

bool gate_is_open(const struct gate *gate);
void gate_open(struct gate *gate, uint64_t until_ms); /* clock_boot_ms() */
void gate_shut(struct gate *gate);

/* `on_open` is called once, from the loop, when the gate is open. Not while it waits already. */
void gate_wait(struct gate *gate, struct gate_wait *wait, void (*on_open)(void *owner),
               void *owner);
void gate_leave(struct gate_wait *wait); /* wait no more; harmless when not waiting */
