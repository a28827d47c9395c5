/*
 * A flow: one claimed task, carried to its end (or let go).
 */
#pragma once

#include "agents.h"
#include "delay.h"
#include "flusher.h"
#include "http.h"
#include "map.h"
#include "model/model.h"
#include "store_turn.h"
#include "tool/tool.h"
#include "worker_stats.h"

#include <stdbool.h>

struct turn;

/* What all turns of a worker share; outlives them. */
struct turn_env {
    uv_loop_t *loop;
    struct agents *agents;
    struct gate *gate;
    struct flusher *flusher;
    struct delays *delays;
    struct model_env model;
    struct tool_env tool;
    struct worker_stats *stats;
    struct map *by_task; /* turns that hold their leases, by task id: see turn_of_task() */
    /* Called once, last; the turn frees itself when it returns. */
    void (*on_end)(void *owner, struct turn *turn);
    void *owner;
};

/* A request to end early, from the control table. Strings are copied. */
struct turn_abort {
    const char *status;         /* "aborted" or "expired" */
    const char *reason, *actor; /* NULL: none */
    int64_t age_ms;             /* since it was asked for */
};

/* The turn starts from the loop, not before this returns. */
struct turn *turn_start(const struct turn_env *env, const struct claim_row *claim,
                        const struct load_row *load, struct list *turns);

const char *turn_task_id(const struct turn *turn);
struct turn *turn_of_node(struct list *node); /* of the list given to turn_start() */

/* The turn that runs the task, NULL: none. One that has lost its lease or was let go may close its
 * calls still while the same task runs again; it is not meant. */
struct turn *turn_of_task(const struct turn_env *env, const char *task_id);

/* Close its calls and end it as `abort` says, keeping what there is. Again: no effect. */
void turn_abort(struct turn *turn, const struct turn_abort *abort);

/* Close its calls and hand it back uncharged: this worker is leaving. */
void turn_hand_back(struct turn *turn);

/* The lease is lost: close its calls, write nothing more. */
void turn_drop(struct turn *turn);
