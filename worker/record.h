/*
 * What a turn has to write: its events and the rows that must commit with them. A turn fills one
 * record while the flusher has another in flight.
 */
#pragma once

#include "buf.h"
#include "store_turn.h"

#include <stdbool.h>
#include <stdint.h>

enum record_end {
    RECORD_OPEN,     /* the turn goes on */
    RECORD_COMPLETE, /* terminal: `end` */
    RECORD_RETRY,    /* another attempt after `retry_ms` */
    RECORD_RELEASE,  /* handed back, uncharged */
};

/* A change of the tool ledger. */
struct record_call {
    bool settle; /* else: claim */
    int step, idx;
    char *call_id, *name;  /* claim */
    char *status, *result; /* settle; result is JSON */
    int64_t seq;           /* settle: of the event that tells */
};

struct record_artifact {
    char *name, *content; /* content is JSON */
};

struct record {
    struct buf events; /* lines, see the chunk table */
    int64_t seq_from, at_ms;
    int count;
    int step; /* 0: no step row */
    char *step_message, *step_finish, *step_usage;
    int64_t step_last_seq;
    struct record_call *calls;
    int ncalls;
    struct record_artifact *artifacts;
    int nartifacts;
    enum record_end how;
    const struct turn_end *end; /* borrowed from the turn until it is durable */
    uint64_t retry_ms;
    char *retry_error; /* JSON */
    bool barrier;      /* the turn waits for this one */
    size_t row_bytes;  /* of the texts of the rows */
};

void record_init(struct record *r);
void record_release(struct record *r);
void record_reset(struct record *r); /* empty it, keep the memory of the events */
bool record_is_empty(const struct record *r);
size_t record_bytes(const struct record *r); /* of all that waits to be written */

/* Strings are copied. */
void record_set_step(struct record *r, int step, const char *message, const char *finish,
                     const char *usage, int64_t last_seq);
void record_claim(struct record *r, int step, int idx, const char *call_id, const char *name);
void record_settle(struct record *r, int step, int idx, const char *status, const char *result,
                   int64_t seq);
void record_artifact(struct record *r, const char *name, const char *content);

/* Put all of it into `batch` for one transaction. */
void record_put(const struct record *r, const char *task_id, int64_t epoch,
                struct store_batch *batch);
