/*
 * The statements of the scheduler, and the hints, as typed C functions: the only place that knows
 * both their parameters and the order of their columns. What a statement means stands in its
 * .sql file. Strings given are borrowed until `done`.
 */
#pragma once

#include "err.h"
#include "id.h"
#include "pg.h"
#include "store_result.h"

#include <stdbool.h>
#include <stdint.h>

/* leader_hold.sql. The term, or 0 when another one leads. */
void store_leader_hold(struct pg *pg, struct pg_call *call, const char *holder, uint64_t ttl_ms,
                       uint64_t timeout_ms, pg_done_fn *done, void *owner);
int64_t store_read_term(PGresult *res);
void store_leader_leave(struct pg *pg, struct pg_call *call, const char *holder,
                        uint64_t timeout_ms, pg_done_fn *done, void *owner);

/* due_release.sql */
struct due_row {
    int64_t moved;
    int64_t next_ms; /* to the next one, INT64_MAX: there is none */
};
void store_due_release(struct pg *pg, struct pg_call *call, int64_t limit, pg_done_fn *done,
                       void *owner);
void store_read_due(PGresult *res, struct due_row *ret_row);

/* worker_reap.sql. `seen_us`: `now_us` of the last answer; 0: look only. */
struct reap_row {
    int64_t now_us;
    bool judged;       /* else nobody was declared dead, whoever is */
    int64_t worker_id; /* 0 in the first row */
    /* the same in each row, as of before it */
    bool dead_hold, live_hold; /* leases */
    int64_t latest_us;         /* when the latest session of a worker began, 0: there is none */
};
void store_worker_reap(struct pg *pg, struct pg_call *call, int64_t seen_us, uint64_t patience_ms,
                       uint64_t ttl_ms, uint64_t timeout_ms, pg_done_fn *done, void *owner);
void store_read_reap(PGresult *res, int row, struct reap_row *ret_row); /* store_rows() of them */

/* worker_watch.sql, by worker_id. `session` is valid while the result is. */
#define STORE_SESSION_BYTES 64
struct watch_row {
    int64_t worker_id;
    const char *session;
    bool present;
};
void store_worker_watch(struct pg *pg, struct pg_call *call, uint64_t timeout_ms, pg_done_fn *done,
                        void *owner);
void store_read_watch(PGresult *res, int row, struct watch_row *ret_row);

/* worker_vanish.sql. One row a worker: its id. */
void store_worker_vanish(struct pg *pg, struct pg_call *call, struct pg_array *ids,
                         struct pg_array *sessions, uint64_t timeout_ms, pg_done_fn *done,
                         void *owner);
int store_vanished(PGresult *res); /* rows */
int64_t store_read_vanished(PGresult *res, int row);

/* lease_rescue.sql. How many leases went back. */
void store_lease_rescue(struct pg *pg, struct pg_call *call, int64_t limit, uint64_t timeout_ms,
                        pg_done_fn *done, void *owner);
int64_t store_read_rescued(PGresult *res);

/* backend_end.sql. `program` is valid while the result is. */
struct ended_row {
    int64_t pid, age_ms;
    const char *program;
};
void store_backend_end(struct pg *pg, struct pg_call *call, uint64_t stuck_ms, uint64_t timeout_ms,
                       pg_done_fn *done, void *owner);
void store_read_ended(PGresult *res, int row, struct ended_row *ret_row); /* store_rows() of them */

/* retain_remove.sql. `after` is NULL at the start; true when more is to come, from `ret_after`. */
void store_retain_remove(struct pg *pg, struct pg_call *call, uint64_t age_ms, const char *after,
                         int64_t limit, pg_done_fn *done, void *owner);
bool store_read_removed(PGresult *res, int64_t *ret_removed, char ret_after[ID_BYTES]);

/* retain_partitions.sql */
void store_retain_partitions(struct pg *pg, struct pg_call *call, uint64_t age_ms, pg_done_fn *done,
                             void *owner);
void store_read_partitions(PGresult *res, int64_t *ret_made, int64_t *ret_dropped);
