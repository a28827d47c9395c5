/*
 * Submits of many clients at once: those that come while others are on their way go together in
 * one statement and one commit. Each keeps its own idempotency key and its own error.
 */
#pragma once

#include "api.h"
#include "list.h"
#include "store_task.h"

/* `row` is NULL when it was not accepted: see `err` and, if the server said so, `sqlstate`. */
typedef void submit_done_fn(void *owner, const struct accepted_row *row, const struct err *err,
                            const char *sqlstate);

/* Lives in its owner, zeroed but for `row`; do not touch until `done`. What `row` points to is
 * borrowed until then. */
struct submit {
    struct submit_row row;
    struct list node;
    struct submits *submits;
    struct pg_call *call; /* when it goes by itself */
    uint64_t since_ms;
    bool hinted; /* its transaction has told the workers, if it is queued */
    submit_done_fn *done;
    void *owner;
};

struct submits *submits_new(struct api *api);
void submits_close(struct submits *s); /* nothing is in it any more; NULL is fine */

/* `done` runs exactly once, never before this returns. */
void submits_put(struct submits *s, struct submit *submit, submit_done_fn *done, void *owner);
