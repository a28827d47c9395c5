/*
 * The statements of the api, and those that all daemons use, as typed C functions: the only place
 * that knows both their parameters and the order of their columns. What a statement means stands
 * in its .sql file. Strings given are borrowed until `done`, strings read point into the result.
 *
 * Times out after STORE_TASK_MS where no time is given: a client that gets no answer is to be told
 * so within two seconds.
 */
#pragma once

#include "err.h"
#include "pg.h"
#include "store_result.h"

#include <stdbool.h>
#include <stdint.h>

#define STORE_TENANT  "default"
#define STORE_TASK_MS 1800

/* task_submit.sql. NULL where the statement allows it. */
struct submit_row {
    const char *agent, *input; /* input, metadata and options: JSON text */
    const char *session_id, *snapshot_id;
    const char *run_at, *deadline; /* timestamptz */
    int priority;
    const char *metadata;
    const char *max_attempts; /* number as text */
    const char *key, *options, *print;
};
/* What is left of STORE_TASK_MS for a client who came at `since_ms` (clock_mono_ms()): it is to be
 * answered in time, however often it is asked for. At least 1. */
uint64_t store_task_left_ms(uint64_t since_ms);

/* `hint`: NOTIFY that something is ready, if it is queued. */
void store_task_submit(struct pg *pg, struct pg_call *call, const struct submit_row *row, bool hint,
                       uint64_t timeout_ms, pg_done_fn *done, void *owner);

/* task_resume.sql */
void store_task_resume(struct pg *pg, struct pg_call *call, const char *task_id,
                       const char *answers, const char *key, pg_done_fn *done, void *owner);

/* task_retry.sql. `fresh`: from the beginning. */
void store_task_retry(struct pg *pg, struct pg_call *call, const char *task_id, bool fresh,
                      const char *key, pg_done_fn *done, void *owner);

/* What all of them answer. */
struct accepted_row {
    const char *task_id, *session_id, *status, *created_at;
    bool replayed;
    bool hinted; /* set by who submits: the workers have been told */
};
int store_read_accepted(PGresult *res, struct accepted_row *ret_row, struct err *err);
void store_read_accepted_row(PGresult *res, int at, struct accepted_row *ret_row);

/* task_abort.sql. */
struct abort_row {
    const char *before; /* NULL: it was not terminal */
    const char *now;
    const char *worker_id; /* NULL: none, or not known */
};
void store_task_abort(struct pg *pg, struct pg_call *call, const char *task_id, const char *reason,
                      const char *actor, pg_done_fn *done, void *owner);
int store_read_abort(PGresult *res, struct abort_row *ret_row, struct err *err);

/* task_get.sql. The reader tells which of `tasks` the row is of, from 0; not all have one. */
struct task_row {
    const char *json; /* NULL: no such task */
    bool terminal;
};
void store_task_get(struct pg *pg, struct pg_call *call, struct pg_array *tasks,
                    uint64_t timeout_ms, pg_done_fn *done, void *owner);
int store_read_task(PGresult *res, int row, struct task_row *ret_row);

/* task_peek.sql. ERR_NOT_FOUND from the reader: no such task. */
void store_task_peek(struct pg *pg, struct pg_call *call, const char *task_id, pg_done_fn *done,
                     void *owner);
int store_read_peek(PGresult *res, bool *ret_terminal, int64_t *ret_last_seq, struct err *err);

/* task_list.sql; NULL: not filtered. */
struct list_filter {
    const char *tenant, *status, *agent, *session_id, *before;
};
void store_task_list(struct pg *pg, struct pg_call *call, const struct list_filter *filter,
                     int64_t limit, pg_done_fn *done, void *owner);

/* task_sweep.sql: rows of one terminal task each, read with store_read_id(). */
void store_task_sweep(struct pg *pg, struct pg_call *call, struct pg_array *tasks, pg_done_fn *done,
                      void *owner);
const char *store_read_id(PGresult *res, int row);

/* chunk_sweep.sql */
struct sweep_row {
    const char *task_id;
    int64_t seq_from, count, at_ms;
    const char *events;
    size_t len;
};
struct sweep_cursors {
    struct pg_array tasks, after, at_end;
};
void store_cursors_init(struct sweep_cursors *c);
void store_cursors_release(struct sweep_cursors *c);
void store_cursors_reset(struct sweep_cursors *c);
/* A reader that has `after`, the last event of a chunk if `at_end`. */
void store_cursors_put(struct sweep_cursors *c, const char *task_id, int64_t after, bool at_end);
void store_chunk_sweep(struct pg *pg, struct pg_call *call, struct sweep_cursors *cursors,
                       int64_t limit, pg_done_fn *done, void *owner);
void store_read_chunk(PGresult *res, int row, struct sweep_row *ret_row);

/* session_get.sql, session_snapshots.sql, snapshot_get.sql */
void store_session_get(struct pg *pg, struct pg_call *call, const char *session_id,
                       pg_done_fn *done, void *owner);
void store_session_snapshots(struct pg *pg, struct pg_call *call, const char *session_id,
                             const char *before, int64_t limit, pg_done_fn *done, void *owner);
void store_snapshot_get(struct pg *pg, struct pg_call *call, const char *snapshot_id,
                        pg_done_fn *done, void *owner);

/* agent_apply.sql, agent_get.sql, agent_list.sql, agent_delete.sql */
void store_agent_apply(struct pg *pg, struct pg_call *call, struct pg_array *names,
                       struct pg_array *definitions, struct pg_array *managed,
                       struct pg_array *max_attempts, pg_done_fn *done, void *owner);
struct applied_row {
    const char *name;
    int64_t revision;
    bool changed;
};
void store_read_applied(PGresult *res, int row, struct applied_row *ret_row);
void store_agent_get(struct pg *pg, struct pg_call *call, const char *name, pg_done_fn *done,
                     void *owner);
void store_agent_list(struct pg *pg, struct pg_call *call, const char *after, int64_t limit,
                      pg_done_fn *done, void *owner);
void store_agent_delete(struct pg *pg, struct pg_call *call, const char *name, pg_done_fn *done,
                        void *owner);

/* Of a list's row its key and its JSON text (NULL: did not fit). */
const char *store_read_key(PGresult *res, int row);
const char *store_read_item(PGresult *res, int row);
/* The JSON text of the one row, NULL when there is none. */
const char *store_read_one(PGresult *res);

/* notify_send.sql */
void store_notify_send(struct pg *pg, struct pg_call *call, struct pg_array *payloads,
                       uint64_t timeout_ms, pg_done_fn *done, void *owner);

/* stats_read.sql */
struct stats_row {
    int64_t ready, due, running, aborting, behind; /* `behind`: waiting in their session's queue */
    const char *unusual; /* JSON {status: number} of terminal tasks that are not completed */
    int64_t ended;       /* all terminal tasks, as the planner believes */
    const char *workers; /* JSON [{"worker","state","slots","stats"}] */
    int64_t leaders;
    int64_t quarantined; /* of the failed, those that nobody has let go */
};
void store_stats_read(struct pg *pg, struct pg_call *call, pg_done_fn *done, void *owner);
void store_read_stats(PGresult *res, struct stats_row *ret_row);

/* health_ready.sql; the newest migration, 0 when there is none. */
void store_health_ready(struct pg *pg, struct pg_call *call, pg_done_fn *done, void *owner);
int64_t store_read_version(PGresult *res);
bool store_read_writable(PGresult *res);
