/*
 * Hints to the other processes: what is worth looking at now. One per process.
 *
 * Hints go out as a statement of their own, after the data they speak of are committed: the first
 * at once, those that follow within 5 ms together, each only once. They are only hints: a lost one
 * costs the time until the next poll, so nothing here can fail. The payloads are listed in
 * sql/queries/notify_listen.sql.
 */
#pragma once

#include "pg.h"

#include <uv.h>

#define NOTIFY_MAX_BYTES 63 /* of a payload */

struct notify; /* opaque */

/* `pg` is borrowed and must live longer. */
struct notify *notify_new(uv_loop_t *loop, struct pg *pg);

/* Longer payloads than NOTIFY_MAX_BYTES, and more than fit, are dropped. NULL `n`: nothing. */
void notify_put(struct notify *n, const char *payload);

/* May the caller's own transaction carry its hint (task_submit.sql)? That spares
 * a round trip, but a transaction with a NOTIFY holds a lock of the whole server while it is made
 * durable: so only one in 20 ms, when nothing else is being sent. Counts as sent. */
bool notify_may_ride(struct notify *n);

void notify_task(struct notify *n, char kind, const char *task_id); /* "c:TASK", "d:TASK" */

/* After an abort: of a running turn it waits for the worker, "a:WORKER", or "a:*" for all when it
 * is NULL, not known; when it has ended the task at once, who follows it and waits for it must
 * hear, and the next of its session may run. Neither: it was over before. */
void notify_abort(struct notify *n, const char *task_id, bool running, const char *worker_id,
                  bool ended);

/* Send what is left and free, not before it is answered; close before `pg`. The last hints are lost
 * when `pg` is closed right after. NULL is fine. */
void notify_close(struct notify *n);
