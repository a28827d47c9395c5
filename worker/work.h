/*
 * Agents that are a program or an endpoint, and the echo agent: one call, no loop.
 *
 * The input's JSON goes to stdin, or is POSTed. The answer is
 *   - lines of JSON, each {"chunk": any} (an event `progress`), {"result": any} (the output) or
 *     {"error": {"message", "retryable"?}}; an endpoint may send them as NDJSON or as SSE data;
 *   - or anything else: then all of it is the output, JSON when it parses, else text.
 */
#pragma once

#include <stdbool.h>

struct turn;
struct work; /* opaque */

void work_begin(struct turn *turn); /* in the turn's flow: enters WORKING, or ends it */
void work_pause(struct work *work, bool paused); /* read no more of the answer, or read on */
void work_cancel(struct work *work);             /* NULL is allowed; the turn is still told */
bool work_is_busy(const struct work *work);      /* NULL: no */
void work_free(struct work *work);               /* not busy; NULL is allowed */
