/*
 * Who reads the stream of a turn through this process, and what it means when the last one leaves:
 * nothing, or, for a turn in the foreground of an agent that wants it, its end.
 *
 * A client that comes back within GENKIT_GRACE_MS has not left, whichever api it comes back to: at
 * the end of that time this process asks the others (by hints, GENKIT_ANSWER_MS) whether they have
 * readers of the turn. If one has, the turn is its affair from then on. Without hints, and when
 * they take longer, only the readers of this process count. Streams that are cut because this
 * process stops or the client is too slow do not count either: the client will come again.
 */
#pragma once

#include "request.h"

/* Together with the abort's way to the worker less than the 250 ms in which Genkit's users may
 * expect a model call to be closed. */
#define GENKIT_GRACE_MS  80
#define GENKIT_ANSWER_MS 50

struct genkit_live; /* opaque: one task */

struct genkit_lives; /* opaque: one a process */

struct genkit_lives *genkit_lives_new(struct api *api);
void genkit_lives_close(struct genkit_lives *lives); /* as genkit_close() */

/* One reader more. `ends`: the turn is in the foreground, and ends with its last reader. */
struct genkit_live *genkit_live_enter(struct genkit_lives *lives, const char *task_id, bool ends);

/* A hint has come: "?:TASK:API" or "!:TASK:API", see sql/queries/notify_listen.sql. */
void genkit_lives_hint(struct genkit_lives *lives, const char *payload);

bool genkit_lives_are_idle(const struct genkit_lives *lives); /* no turn is being ended */

/* One reader less. `gone`: by its own will. */
void genkit_live_leave(struct genkit_live *live, bool gone);
