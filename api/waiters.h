/*
 * Clients that wait for the end of a task: GET /v1/tasks/{id}?wait=30s.
 *
 * They are parked in memory, all those of one task together, and woken by a hint; one poll sweeps
 * all tasks that are waited for, so that a lost hint costs two seconds and no client a poll of its
 * own. Clients that leave are forgotten at once.
 */
#pragma once

#include "request.h"

struct waiters; /* opaque */

struct waiters *waiters_new(struct api *api);

/* Answer `r` when the task r->params[0] is terminal, or after `wait_ms` as it is then. */
void waiters_add(struct waiters *w, struct request *r, uint64_t wait_ms);

void waiters_hint(struct waiters *w, const char *task_id); /* it has become terminal */
void waiters_recheck(struct waiters *w);                   /* hints may have been missed */
void waiters_drain(struct waiters *w);                     /* answer all of them 503 */

size_t waiters_tasks(const struct waiters *w); /* tasks waited for */

/* After waiters_drain() and after the connections to the database have been closed. */
void waiters_close(struct waiters *w);
