/*
 * One PostgreSQL connection on a libuv loop, in pipeline mode.
 *
 * Callers queue statements by name (see sql/queries/). The connection checks that the schema is
 * new enough and prepares all of them when it opens, sends what is queued without waiting for
 * earlier answers, and reconnects by itself.
 * Each call is a transaction of its own: one statement, or several chained with pg_call_also(),
 * which commit together. `done` comes when the server has said that the transaction is over
 * (ReadyForQuery), not before: what is answered is committed.
 *
 * Promise to every caller: `done` runs exactly once for each pg_exec(), never before pg_exec()
 * returns, also after a failure or pg_close(). After ERR_UNAVAILABLE or ERR_TIMEOUT the effect of
 * a call is unknown, so statements must bear to be sent twice.
 */
#pragma once

#include "err.h"
#include "list.h"
#include "pgarray.h"
#include "sql.h" /* generated: enum sql_stmt */

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct pg; /* opaque */

/* `res` is that of the call's first statement, NULL on failure; cleared when `done` returns. */
typedef void pg_done_fn(void *owner, PGresult *res, const struct err *err);

#define PG_MAX_PARAMS 26

/* One transaction in flight. Lives inside its owner, zeroed before its first use; do not touch
 * until `done`, and do not begin another one in it: that is asserted. */
struct pg_call {
    struct list node;
    bool busy; /* given to pg_exec(), not answered yet */
    enum sql_stmt stmt;
    int nparams;
    char text[PG_MAX_PARAMS][24]; /* storage for numbers */
    const char *params[PG_MAX_PARAMS];
    int lengths[PG_MAX_PARAMS];
    int formats[PG_MAX_PARAMS];
    struct pg_call *also; /* next statement of the same transaction, NULL when this is the last */
    PGresult *res;        /* of this statement, while `done` of the first one runs */
    char sqlstate[6];     /* of the failure, "" when it was not the server's */
    uint64_t deadline_ms; /* clock_mono_ms() */
    pg_done_fn *done;
    void *owner;
};

/*
 * `conninfo` is a URL or a keyword string for libpq; `name` shows in pg_stat_activity. A host
 * name is looked up while the loop waits: give an address or a socket folder. `prepare` off, or a
 * pool of connections between: each statement is parsed when it is sent, and the session holds
 * nothing. Only a server that takes writes will do: a standby is as good as away.
 */
struct pg *pg_new(uv_loop_t *loop, const char *conninfo, const char *name, bool prepare);
void pg_close(struct pg *pg); /* fails what is left with ERR_CANCELED, then frees */

/* Begin a call; add parameters in order with the pg_param_*() below, then pg_exec(). */
void pg_call_init(struct pg_call *call, enum sql_stmt stmt);
void pg_param_int(struct pg_call *call, int64_t value);
void pg_param_text(struct pg_call *call, const char *value);       /* borrowed until `done` */
void pg_param_array(struct pg_call *call, struct pg_array *array); /* borrowed; finished here */

/* Put `next` behind `call`, into the same transaction. Only the first is given to pg_exec(). */
void pg_call_also(struct pg_call *call, struct pg_call *next);

/* `timeout_ms` counts from now, waiting for a connection included. */
void pg_exec(struct pg *pg, struct pg_call *call, uint64_t timeout_ms, pg_done_fn *done,
             void *owner);

/* While others of this process are up, try again after `ms` at the most (1 s). When all are down
 * the smallest looks for the server: see pg_peer.h. */
void pg_retry_within(struct pg *pg, uint64_t ms);

bool pg_is_up(const struct pg *pg);
int pg_backend_id(const struct pg *pg);      /* process id that the server told, 0 while not up */
size_t pg_load(const struct pg *pg);         /* calls queued or in flight */
const char *pg_trouble(const struct pg *pg); /* why it is not up, "" when unknown */

/* From now on, and after each reconnect, LISTEN; `on_notify` gets each payload. `on_up` tells
 * that hints may have been missed until now. */
void pg_listen(struct pg *pg, void (*on_notify)(void *owner, const char *payload),
               void (*on_up)(void *owner), void *owner);

/* The error of a failed result; `ret_sqlstate` gets 6 bytes. */
void pg_result_err(struct err *err, const PGresult *res, char *ret_sqlstate);

/*
 * For tools that may block (migrate, doctor): run SQL text that is not among the statements.
 * Several commands may stand in `sql`; one with parameters must be alone. NULL on failure.
 */
PGconn *pg_open_blocking(const char *conninfo, const char *name, struct err *err);
PGresult *pg_query_blocking(PGconn *conn, const char *sql, int nparams, const char *const *params,
                            struct err *err);
void pg_close_blocking(PGconn *conn);
