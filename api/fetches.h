/*
 * Tasks read for many clients at once: those that are asked for in the same moment come with one
 * statement. It begins after each of them was asked for, so a client reads its own writes.
 */
#pragma once

#include "api.h"
#include "list.h"

/* `json` is NULL when there is none: see `err` (ERR_NOT_FOUND: no such task) and, if the server
 * said so, `sqlstate`. It is cleared when this returns. */
typedef void fetch_done_fn(void *owner, const char *json, bool terminal, const struct err *err,
                           const char *sqlstate);

/* Lives in its owner, zeroed; do not touch until `done`. */
struct fetch {
    struct list node;
    const char *task_id; /* borrowed until `done` */
    bool alone;          /* the statement that it shared was refused */
    uint64_t since_ms;
    fetch_done_fn *done;
    void *owner;
};

struct fetches *fetches_new(struct api *api);

/* After the connections to the database have been closed; what is left is told ERR_CANCELED. NULL
 * is fine. */
void fetches_close(struct fetches *f);

/* `done` runs exactly once, never before this returns. `task_id` is a UUID. */
void fetches_put(struct fetches *f, struct fetch *fetch, const char *task_id, fetch_done_fn *done,
                 void *owner);
