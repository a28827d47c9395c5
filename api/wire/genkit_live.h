/*
 * Who reads the stream of a turn through this process, and what it means when the last one leaves:
 * nothing, or, for a turn in the foreground of an agent that wants it, its end.
 *
 * A client that comes back within GENKIT_GRACE_MS has not left. Streams that are cut because this
 * process stops or the client is too slow do not count: the client will come again.
 */
#pragma once

#include "request.h"

#define GENKIT_GRACE_MS 150

struct genkit_live; /* opaque: one task */

struct genkit_lives; /* opaque: one a process */

struct genkit_lives *genkit_lives_new(struct api *api);
void genkit_lives_close(struct genkit_lives *lives); /* as genkit_close() */

/* One reader more. `ends`: the turn is in the foreground, and ends with its last reader. */
struct genkit_live *genkit_live_enter(struct genkit_lives *lives, const char *task_id, bool ends);

bool genkit_lives_are_idle(const struct genkit_lives *lives); /* no turn is being ended */

/* One reader less. `gone`: by its own will. */
void genkit_live_leave(struct genkit_live *live, bool gone);
