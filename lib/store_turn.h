/*
 * The statements of a worker as typed C functions: the only place that knows both their
 * parameters and the order of their columns. What a statement means stands in its .sql file.
 * Strings given are borrowed until `done`, strings read point into the result.
 */
#pragma once

#include "err.h"
#include "id.h"
#include "pg.h"
#include "store_result.h"

#include <stdbool.h>
#include <stdint.h>

#define STORE_PRIORITIES 10

/* worker_register.sql; read the id with store_worker_id(). */
void store_worker_register(struct pg *pg, struct pg_call *call, const char *name, int64_t slots,
                           uint64_t ttl_ms, pg_done_fn *done, void *owner);
int64_t store_worker_id(PGresult *res);

/* worker_beat.sql. ERR_CONFLICT from the reader: this incarnation was declared dead. */
struct beat_row {
    bool draining;
    int64_t leases, newest_epoch; /* 0 when not counted */
    const char *controls;         /* JSON array, see worker_beat.sql, or NULL */
};
void store_worker_beat(struct pg *pg, struct pg_call *call, int64_t worker_id, uint64_t ttl_ms,
                       const char *stats, bool count, uint64_t timeout_ms, pg_done_fn *done,
                       void *owner);
int store_read_beat(PGresult *res, struct beat_row *ret_row, struct err *err);

/* worker_session.sql, about the session that `pg` has now. -1: there is no such worker alive, 0:
 * the backend is not its own, 1: it is recorded. */
void store_worker_session(struct pg *pg, struct pg_call *call, int64_t worker_id,
                          uint64_t silence_ms, pg_done_fn *done, void *owner);
int store_read_session(PGresult *res);
void store_worker_controls(struct pg *pg, struct pg_call *call, int64_t worker_id, pg_done_fn *done,
                           void *owner);
const char *store_read_controls(PGresult *res); /* JSON array or NULL */
void store_worker_drain(struct pg *pg, struct pg_call *call, int64_t worker_id, pg_done_fn *done,
                        void *owner);
void store_worker_leave(struct pg *pg, struct pg_call *call, int64_t worker_id, pg_done_fn *done,
                        void *owner);
void store_worker_reconcile(struct pg *pg, struct pg_call *call, int64_t worker_id,
                            struct pg_array *tasks, int64_t newest_epoch, pg_done_fn *done,
                            void *owner);

/* turn_claim.sql */
struct claim_ranges { /* of `ready`, by priority */
    struct {
        int first, below; /* priorities */
        int64_t from;     /* seq, within the first of them */
    } range[STORE_PRIORITIES];
    int count;
};
struct claim_view { /* what it says of itself; all are 0 and "" when this worker is not alive */
    int64_t newest; /* seq that was given out */
    int64_t id;     /* of its transaction */
    const char *snapshot; /* pg_snapshot as text */
    const char *first;    /* first row of each range, "priority:seq,...", if asked for */
};
struct claim_row {
    char task_id[ID_BYTES];
    int64_t epoch, seq;
    int priority, fails, crashes;
    int at; /* in the answer */
};
struct claim_params { /* storage for the parameters, to keep until `done` */
    struct pg_array first, from, below;
};
void store_claim_init(struct claim_params *params);
void store_claim_release(struct claim_params *params);
void store_turn_claim(struct pg *pg, struct pg_call *call, int64_t worker_id, int64_t limit,
                      const struct claim_ranges *ranges, bool ask_first, bool ask_requests,
                      struct claim_params *params, pg_done_fn *done, void *owner);
void store_read_view(PGresult *res, struct claim_view *ret_view);
/* At most `max` rows, smallest priority first, oldest first within one; how many. */
int store_read_claims(PGresult *res, int max, struct claim_row *ret_rows);

/* turn_load.sql. NULL where the column is. */
struct load_row {
    const char *task_id, *tenant, *agent, *session_id, *parent;
    const char *input, *options;               /* JSON text */
    const char *messages, *custom, *artifacts; /* JSON text; artifacts are references */
    const char *steps, *calls, *control;       /* JSON text */
    const char *started_at;                    /* of the first attempt, timestamptz */
    const char *origin;                        /* task that this one carries on, or NULL */
    int revision, parent_depth, max_attempts;
    int64_t created_ms, last_seq;
    int64_t deadline_in_ms; /* INT64_MAX: none */
    const char *unreadable; /* why it is bare; NULL: it is whole. No column */
};
void store_turn_load(struct pg *pg, struct pg_call *call, struct pg_array *tasks, pg_done_fn *done,
                     void *owner);
/* turn_load_bare.sql: what ends those that turn_load.sql cannot read. */
void store_turn_load_bare(struct pg *pg, struct pg_call *call, struct pg_array *tasks,
                          pg_done_fn *done, void *owner);
void store_read_load(PGresult *res, int row, struct load_row *ret_row); /* of both */
/* What turn_claim.sql says of `claim`: false when it is to be asked for. */
bool store_read_request(PGresult *res, const struct claim_row *claim, struct load_row *ret_row);

/* agent_load.sql. The definition's text, or NULL when there is none. */
void store_agent_load(struct pg *pg, struct pg_call *call, const char *tenant, const char *name,
                      int64_t revision, pg_done_fn *done, void *owner);
const char *store_read_agent(PGresult *res);

/* turn_fate.sql */
enum turn_fate { FATE_ENDED, FATE_ABORTING, FATE_LEASED, FATE_GONE };
void store_turn_fate(struct pg *pg, struct pg_call *call, struct pg_array *tasks,
                     struct pg_array *epochs, pg_done_fn *done, void *owner);
enum turn_fate store_read_fate(PGresult *res, int row, const char **ret_task_id,
                               const char **ret_control);

/* How a turn ends: one row of turn_complete.sql. JSON text or NULL where not said otherwise. */
struct turn_end {
    const char *status, *finish_reason; /* words */
    const char *output, *usage, *error, *abort, *interrupts;
    const char *tenant, *session_id; /* text */
    const char *messages, *custom, *artifacts;
    const char *parent_id; /* uuid */
    int depth;
    bool head;
    const char *started_at; /* timestamptz */
};

/*
 * One transaction of the flusher: what many turns have to write, one statement per kind of row.
 * Statements without rows are left out. The parts run in this order.
 */
enum batch_part {
    BATCH_APPEND,
    BATCH_STEP,
    BATCH_CLAIM,
    BATCH_SETTLE,
    BATCH_ARTIFACT,
    BATCH_COMPLETE,
    BATCH_RETRY,
    BATCH_RELEASE,
    BATCH_PARTS
};
#define BATCH_MAX_COLUMNS 23

struct store_batch {
    struct pg_call calls[BATCH_PARTS];
    struct pg_array columns[BATCH_PARTS][BATCH_MAX_COLUMNS];
    int rows[BATCH_PARTS];
    size_t bytes;    /* of the texts added */
    bool lock_first; /* ends: see turn_complete.sql */
};

struct chunk_row {
    int64_t seq_from;
    int count;
    int64_t at_ms;
    const char *events;
    size_t len;
};

void store_batch_init(struct store_batch *b);
void store_batch_release(struct store_batch *b);
void store_batch_reset(struct store_batch *b);
bool store_batch_is_empty(const struct store_batch *b);
void store_batch_chunk(struct store_batch *b, const char *task, int64_t epoch,
                       const struct chunk_row *chunk);
void store_batch_step(struct store_batch *b, const char *task, int64_t epoch, int step,
                      const char *message, const char *finish, const char *usage, int64_t last_seq);
void store_batch_claim(struct store_batch *b, const char *task, int64_t epoch, int step, int idx,
                       const char *call_id, const char *name);
void store_batch_settle(struct store_batch *b, const char *task, int64_t epoch, int step, int idx,
                        const char *status, const char *result, int64_t seq);
void store_batch_artifact(struct store_batch *b, const char *task, int64_t epoch, const char *name,
                          const char *content);
/* The turn's last events go with it, so that they are there exactly when the end is. */
void store_batch_complete(struct store_batch *b, const char *task, int64_t epoch,
                          const struct turn_end *end, const struct chunk_row *last);
void store_batch_retry(struct store_batch *b, const char *task, int64_t epoch, uint64_t delay_ms,
                       const char *error);
void store_batch_release_turn(struct store_batch *b, const char *task, int64_t epoch);

/* Send it; nothing of `b` may be touched until `done`. It must not be empty. */
void store_batch_send(struct pg *pg, struct store_batch *b, int64_t worker_id, const char *worker,
                      uint64_t timeout_ms, pg_done_fn *done, void *owner);

/* In `done`: the tasks that a part accepted. NULL behind the last row. */
const char *store_batch_accepted(const struct store_batch *b, enum batch_part part, int row);
/* In `done`: did an end make another task of its session ready? */
bool store_batch_made_ready(const struct store_batch *b);
