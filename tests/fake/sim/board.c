#include "board.h"

#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_COUNTERS ((size_t)1 << 16)
#define MAX_GATES    ((size_t)1 << 16)

struct counter {
    struct list node, by_age;
    uint64_t tries;
    char *key;
};

struct gate {
    struct list node, waiters;
    bool is_open;
    char *name;
};

static size_t bucket_of(const char *key)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (; *key; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    return hash % BOARD_BUCKETS;
}

void board_init(struct board *board)
{
    for (size_t i = 0; i < BOARD_BUCKETS; i++) {
        list_init(&board->counters[i]);
        list_init(&board->gates[i]);
    }
    list_init(&board->oldest);
    board->n_counters = board->n_gates = 0;
}

static void counter_free(struct board *board, struct counter *counter)
{
    list_remove(&counter->node);
    list_remove(&counter->by_age);
    free(counter->key);
    free(counter);
    board->n_counters--;
}

static struct counter *counter_of(struct board *board, const char *key)
{
    struct list *bucket = &board->counters[bucket_of(key)];
    struct counter *counter;

    list_foreach (node, bucket) {
        counter = container_of(node, struct counter, node);
        if (!strcmp(counter->key, key))
            return counter;
    }
    if (board->n_counters >= MAX_COUNTERS)
        counter_free(board, container_of(board->oldest.next, struct counter, by_age));
    counter = xcalloc(1, sizeof(*counter));
    counter->key = xstrdup(key);
    list_append(bucket, &counter->node);
    list_append(&board->oldest, &counter->by_age);
    board->n_counters++;
    return counter;
}

uint64_t board_fire(struct board *board, const char *key)
{
    return ++counter_of(board, key)->tries;
}

static struct gate *gate_of(struct board *board, const char *name)
{
    struct list *bucket = &board->gates[bucket_of(name)];
    struct gate *gate;

    list_foreach (node, bucket) {
        gate = container_of(node, struct gate, node);
        if (!strcmp(gate->name, name))
            return gate;
    }
    if (board->n_gates >= MAX_GATES)
        return NULL;
    gate = xcalloc(1, sizeof(*gate));
    gate->name = xstrdup(name);
    list_init(&gate->waiters);
    list_append(bucket, &gate->node);
    board->n_gates++;
    return gate;
}

/* One at a time from the front: a waiter may do anything, such as leaving or waiting again. */
static void gate_open(struct gate *gate)
{
    struct list waiters;

    list_init(&waiters);
    list_splice(&waiters, &gate->waiters);
    gate->is_open = true;
    while (!list_is_empty(&waiters)) {
        struct board_waiter *waiter = container_of(waiters.next, struct board_waiter, node);

        list_remove(&waiter->node);
        waiter->opened(waiter);
    }
}

int board_open(struct board *board, const char *name)
{
    struct gate *gate = gate_of(board, name);

    if (!gate)
        return -1;
    gate_open(gate);
    return 0;
}

int board_wait(struct board *board, const char *name, struct board_waiter *waiter)
{
    struct gate *gate = gate_of(board, name);

    if (!gate)
        return -1;
    if (gate->is_open)
        return 1;
    list_append(&gate->waiters, &waiter->node);
    return 0;
}

/* A waiter that is let go may run into the next gate at once, so gates go one by one, too. */
static void free_gates(struct board *board, struct list *bucket)
{
    while (!list_is_empty(bucket)) {
        struct gate *gate = container_of(bucket->next, struct gate, node);

        gate_open(gate);
        list_remove(&gate->node);
        free(gate->name);
        free(gate);
        board->n_gates--;
    }
}

void board_reset(struct board *board)
{
    while (!list_is_empty(&board->oldest))
        counter_free(board, container_of(board->oldest.next, struct counter, by_age));
    for (size_t i = 0; i < BOARD_BUCKETS; i++)
        free_gates(board, &board->gates[i]);
}
