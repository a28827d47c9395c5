/*
 * Definitions of agents by revision, kept in memory: a revision never changes.
 */
#pragma once

#include "agent.h"
#include "err.h"
#include "list.h"
#include "pg.h"

struct agents; /* opaque: the cache of a worker */

/* `agent` is NULL on failure; ERR_NOT_FOUND and ERR_INVALID are final. It is borrowed and stays
 * until agents_give_back(). */
typedef void agents_done_fn(void *owner, const struct agent *agent, const struct err *err);

/* One lookup. Lives inside its owner. */
struct agents_call {
    struct list node;
    agents_done_fn *done;
    void *owner;
};

struct agents *agents_new(uv_loop_t *loop, struct pg *pg);
void agents_close(struct agents *agents); /* after the connection; nobody may wait any more */

/* `done` runs once, from the loop. */
void agents_get(struct agents *agents, struct agents_call *call, const char *tenant,
                const char *name, int revision, agents_done_fn *done, void *owner);
void agents_give_back(struct agents *agents, const struct agent *agent); /* NULL is allowed */
