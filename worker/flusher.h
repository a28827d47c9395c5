/*
 * Group commit: the events and rows of all turns of this worker, one transaction a tick.
 *
 * The tick is 5 ms while few turns write and grows to 300 ms with their number, because the cost
 * is the row, not the token (research/perf.md §3). What a turn waits for (`urgent`) goes within
 * 5 ms, without the others. A record is sent until its fate is known; a turn learns it through
 * `on_flushed`. Nothing is sent while the gate is shut (gate.h).
 *
 * What waits to be written is bounded: a turn whose own part is too large, or that adds to a whole
 * that is, is full, and must not be told more until it hears `on_room`.
 */
#pragma once

#include "gate.h"
#include "http.h"
#include "id.h"
#include "list.h"
#include "notify.h"
#include "pg.h"
#include "record.h"
#include "worker_stats.h"

struct flusher; /* opaque */

struct flusher_conf {
    struct gate *gate;                /* borrowed */
    struct http *http;                /* borrowed; whose streams turns tell of */
    size_t max_bytes, max_turn_bytes; /* that wait to be written: of all turns, of one */
};

enum flush_result {
    FLUSH_DURABLE,  /* committed */
    FLUSH_ABORTING, /* the end was refused, because an abort came first: `control` */
    FLUSH_GONE,     /* the lease is another's: write nothing more */
    FLUSH_POISONED, /* the database will not take it, ever */
};

/* One turn, as the flusher sees it. Embedded in the turn. */
struct flush_client {
    struct list node; /* in one of the flusher's lists */
    char task_id[ID_BYTES];
    int64_t epoch;
    struct record now;  /* the turn writes here */
    struct record sent; /* in flight */
    bool in_flight, urgent;
    uint64_t since_ms; /* on the list of the urgent or of the others */
    bool held;         /* in flight, but not in the batch: to be sent again */
    bool forgotten;    /* flusher_forget() */
    int accepted;      /* marks of the answer being read */
    size_t bytes;      /* of `now` and `sent`, as counted in the flusher's */
    bool full;
    struct list full_node; /* in the flusher's list of the full */
    /* `barrier`: what was flushed is what the turn waits for. Unless the result is DURABLE the
     * record stands in `sent` still, for the turn to take back or reset. */
    void (*on_flushed)(void *owner, enum flush_result result, bool barrier, const char *control);
    void (*on_room)(void *owner); /* it was full and is not any more */
    void *owner;
};

struct flusher *flusher_new(uv_loop_t *loop, struct pg *pg, struct notify *notify,
                            struct worker_stats *stats, const struct flusher_conf *conf);
void flusher_close(struct flusher *f);

/* The incarnation that writes; set again after a new registration. `name` is borrowed. */
void flusher_set_worker(struct flusher *f, int64_t worker_id, const char *name);

void flush_client_init(struct flush_client *c, const char *task_id, int64_t epoch,
                       void (*on_flushed)(void *owner, enum flush_result result, bool barrier,
                                          const char *control),
                       void (*on_room)(void *owner), void *owner);
void flush_client_release(struct flusher *f, struct flush_client *c); /* not while in flight */

/* `c->now` has something to write. `urgent`: the turn waits; it is called back with `barrier`.
 * `c->full` says whether there is room for more. */
void flush_put(struct flusher *f, struct flush_client *c, bool urgent);

/* The turn lets go: what is not sent yet is dropped. False when something is in flight; then
 * on_flushed() still comes. */
bool flusher_forget(struct flusher *f, struct flush_client *c);
