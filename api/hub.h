/*
 * Live events: subscribers of tasks, each from its own cursor.
 *
 * Those of a task that have seen the same events share one reader, and all readers share one query
 * (chunk_sweep.sql), asked when a hint has come and by a poll behind it. Frames are built once a
 * reader. A subscriber that does not read is not written to, and reads on later from where it was.
 */
#pragma once

#include "request.h"
#include "store_task.h"

struct hub; /* opaque */

struct hub_counts {
    size_t subscribers, readers, tasks;
    uint64_t queries, chunks, events, bytes,
        cuts; /* cuts: readers too slow, or with damaged data */
};

struct hub *hub_new(struct api *api);

/* Write the events of `task_id` after `after` to `r`, whose stream has begun, and end it after
 * the last one. From now on `r` is the hub's. */
void hub_subscribe(struct hub *hub, struct request *r, const char *task_id, int64_t after);

/* A subscriber that does its own writing: another wire. */
enum { HUB_LEFT = -1, HUB_TAKEN = -2, HUB_DAMAGED = -3 };
struct hub_watch {
    /* The events of `chunk` after `after`. Returns the bytes queued for the client; HUB_LEFT: a
     * write has failed, gone() will follow; HUB_TAKEN: `r` is the watcher's again; HUB_DAMAGED:
     * these are no events. */
    long (*take)(struct request *r, const struct sweep_row *chunk, int64_t after);
    /* The client has left, or (`cut`) was cut off by us; the last call. */
    void (*left)(struct request *r, bool cut);
    const char *keep_alive; /* written into a silent stream; NULL: nothing */
};
void hub_follow(struct hub *hub, struct request *r, const char *task_id, int64_t after,
                const struct hub_watch *watch);

void hub_leave(struct request *r); /* that follows; it is the watcher's again, without left() */

void hub_hint(struct hub *hub, const char *task_id); /* there are new events */
void hub_recheck(struct hub *hub);                   /* hints may have been missed */
void hub_drain(struct hub *hub);                     /* cut native streams: clients come again */
void hub_count(const struct hub *hub, struct hub_counts *ret_counts);

/* After hub_drain() and after the connections to the database have been closed. */
void hub_close(struct hub *hub);
