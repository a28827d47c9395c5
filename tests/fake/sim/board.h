/*
 * What modelsim remembers between requests besides its log: how often a conversation was tried
 * (`ratelimit`, `flaky`) and which gates are open. Both are bounded: the counter that was touched
 * first is forgotten first, and a gate beyond the limit is refused.
 */
#pragma once

#include "list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOARD_BUCKETS 4096

struct board {
    struct list counters[BOARD_BUCKETS], gates[BOARD_BUCKETS];
    struct list oldest; /* counters, oldest first */
    size_t n_counters, n_gates;
};

/* Embedded by whoever waits. `opened` is called once, unless the waiter is removed before. */
struct board_waiter {
    struct list node;
    void (*opened)(struct board_waiter *waiter);
};

void board_init(struct board *board);
void board_reset(struct board *board); /* opens all gates and forgets everything */

/* Tries of `key` so far, this one included. */
uint64_t board_fire(struct board *board, const char *key);

/* Open the gate for now and later. -1: too many gates. */
int board_open(struct board *board, const char *name);

/* 1: the gate is open. 0: `waiter` waits. -1: too many gates. */
int board_wait(struct board *board, const char *name, struct board_waiter *waiter);
