/*
 * The statements of the Genkit wire as typed C functions; see store_task.h, which says what holds
 * for strings and times here, too.
 */
#pragma once

#include "err.h"
#include "pg.h"

#include <stdbool.h>

/* genkit_agent.sql. ERR_NOT_FOUND from the reader: no such agent. */
struct genkit_agent_row {
    bool is_llm;        /* else a flow */
    bool client;        /* the client keeps the state */
    bool abort_on_gone; /* a client that leaves aborts its turn */
    const char *busy;   /* "enqueue", "reject" or "interrupt" */
};
void store_genkit_agent(struct pg *pg, struct pg_call *call, const char *agent, pg_done_fn *done,
                        void *owner);
int store_read_genkit_agent(PGresult *res, struct genkit_agent_row *ret_row, struct err *err);

/* genkit_submit.sql */
struct genkit_submit_row {
    const char *agent, *input, *options; /* input and options: JSON text */
    const char *session_id, *snapshot_id, *key;
    const char *busy;
};
void store_genkit_submit(struct pg *pg, struct pg_call *call, const struct genkit_submit_row *row,
                         pg_done_fn *done, void *owner);
struct genkit_accepted_row {
    const char *task_id; /* NULL: refused */
    const char *session_id, *status;
    const char *refused; /* JSON */
    bool misuse;
};
int store_read_genkit_accepted(PGresult *res, struct genkit_accepted_row *ret_row, struct err *err);

/* genkit_snapshot.sql; one of the ids is NULL. NULL from the reader: there is none. */
void store_genkit_snapshot(struct pg *pg, struct pg_call *call, const char *agent,
                           const char *snapshot_id, const char *session_id, pg_done_fn *done,
                           void *owner);
const char *store_read_genkit_snapshot(PGresult *res, bool *ret_settled);

/* genkit_abort.sql. False from the reader: there is no such snapshot. */
void store_genkit_abort(struct pg *pg, struct pg_call *call, const char *agent,
                        const char *snapshot_id, const char *reason, pg_done_fn *done, void *owner);
bool store_read_genkit_abort(PGresult *res, const char **ret_found, const char **ret_now,
                             const char **ret_worker_id);

/* genkit_output.sql. ERR_BUG from the reader: the task has not ended. */
struct genkit_output_row {
    bool is_flow;
    const char *turn_end, *paused, *result, *error; /* JSON; NULL: none */
};
void store_genkit_output(struct pg *pg, struct pg_call *call, const char *task_id, pg_done_fn *done,
                         void *owner);
int store_read_genkit_output(PGresult *res, struct genkit_output_row *ret_row, struct err *err);

/* genkit_find.sql. False from the reader: unknown; `*ret_frames` is NULL for a task's stream. */
void store_genkit_find(struct pg *pg, struct pg_call *call, const char *agent,
                       const char *stream_id, pg_done_fn *done, void *owner);
bool store_read_genkit_find(PGresult *res, const char **ret_frames, bool *ret_foreground);

/* genkit_keep.sql */
void store_genkit_keep(struct pg *pg, struct pg_call *call, const char *stream_id,
                       const char *frames, pg_done_fn *done, void *owner);
