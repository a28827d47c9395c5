/*
 * Genkit's agents and durable streams, for its unmodified client:
 *
 *   POST {prefix}/{agent}                  a turn, a flow's run, or a stream joined again
 *   POST {prefix}/{agent}/getSnapshot      {"data": {"snapshotId"} | {"sessionId"}}
 *   POST {prefix}/{agent}/waitForSnapshot  the same by snapshotId, answered when it has settled, or
 *                                          as it stands after the setting genkit_wait
 *   POST {prefix}/{agent}/abort            {"data": {"snapshotId"}}
 *
 * Every turn is a task; its id is also the id of its snapshot and of its stream. The prefix is the
 * setting genkit_prefix.
 */
#pragma once

#include "request.h"

struct genkit; /* opaque */

struct genkit *genkit_new(struct api *api);

/* When all requests are answered: `done` once the turns that clients left have been told. */
void genkit_when_idle(struct genkit *gk, void (*done)(void *owner), void *owner);

/* After hub_drain() and after the connections to the database have been closed. */
void genkit_close(struct genkit *gk);

void genkit_hint(struct genkit *gk, const char *payload); /* "w" has come, and this */

void genkit_turn(struct request *r);
void genkit_get_snapshot(struct request *r);
void genkit_wait_for_snapshot(struct request *r);
void genkit_abort(struct request *r);

/*
 * Where the setting `prefix` leads: the segments of a path below it become {"genkit", ...}, as the
 * table of routes has them, and those of a path that only looks like that become no route's.
 * Returns their number.
 */
int genkit_map_path(const char *prefix, char **segments, int n);
