#include "store_plan.h"

#include <stdio.h>

#define DUE_TIMEOUT_MS    10000
#define RETAIN_TIMEOUT_MS 60000
#define ID_ZERO           "00000000-0000-0000-0000-000000000000"

void store_leader_hold(struct pg *pg, struct pg_call *call, const char *holder, uint64_t ttl_ms,
                       uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_LEADER_HOLD);
    pg_param_text(call, holder);
    pg_param_int(call, (int64_t)ttl_ms);
    pg_exec(pg, call, timeout_ms, done, owner);
}

int64_t store_read_term(PGresult *res)
{
    return PQntuples(res) > 0 ? column_int(res, 0, 0) : 0;
}

void store_leader_leave(struct pg *pg, struct pg_call *call, const char *holder,
                        uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_LEADER_LEAVE);
    pg_param_text(call, holder);
    pg_exec(pg, call, timeout_ms, done, owner);
}

void store_due_release(struct pg *pg, struct pg_call *call, int64_t limit, pg_done_fn *done,
                       void *owner)
{
    pg_call_init(call, SQL_DUE_RELEASE);
    pg_param_int(call, limit);
    pg_exec(pg, call, DUE_TIMEOUT_MS, done, owner);
}

void store_read_due(PGresult *res, struct due_row *ret_row)
{
    ret_row->moved = column_int(res, 0, 0);
    ret_row->next_ms = PQgetisnull(res, 0, 1) ? INT64_MAX : column_int(res, 0, 1);
}

void store_worker_reap(struct pg *pg, struct pg_call *call, int64_t seen_us, uint64_t patience_ms,
                       uint64_t ttl_ms, uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_WORKER_REAP);
    if (seen_us)
        pg_param_int(call, seen_us);
    else
        pg_param_text(call, NULL);
    pg_param_int(call, (int64_t)patience_ms);
    pg_param_int(call, (int64_t)ttl_ms);
    pg_exec(pg, call, timeout_ms, done, owner);
}

void store_read_reap(PGresult *res, int row, struct reap_row *ret_row)
{
    *ret_row = (struct reap_row){
        .now_us = column_int(res, row, 0),
        .judged = column_bool(res, row, 1),
        .worker_id = PQgetisnull(res, row, 2) ? 0 : column_int(res, row, 2),
        .dead_hold = column_bool(res, row, 3),
        .live_hold = column_bool(res, row, 4),
        .latest_us = column_int(res, row, 5),
    };
}

void store_worker_watch(struct pg *pg, struct pg_call *call, uint64_t timeout_ms, pg_done_fn *done,
                        void *owner)
{
    pg_call_init(call, SQL_WORKER_WATCH);
    pg_exec(pg, call, timeout_ms, done, owner);
}

void store_read_watch(PGresult *res, int row, struct watch_row *ret_row)
{
    ret_row->worker_id = column_int(res, row, 0);
    ret_row->session = PQgetvalue(res, row, 1);
    ret_row->present = column_bool(res, row, 2);
}

void store_worker_vanish(struct pg *pg, struct pg_call *call, struct pg_array *ids,
                         struct pg_array *sessions, uint64_t timeout_ms, pg_done_fn *done,
                         void *owner)
{
    pg_call_init(call, SQL_WORKER_VANISH);
    pg_param_array(call, ids);
    pg_param_array(call, sessions);
    pg_exec(pg, call, timeout_ms, done, owner);
}

int store_vanished(PGresult *res)
{
    return PQntuples(res);
}

int64_t store_read_vanished(PGresult *res, int row)
{
    return column_int(res, row, 0);
}

void store_lease_rescue(struct pg *pg, struct pg_call *call, int64_t limit, uint64_t timeout_ms,
                        pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_LEASE_RESCUE);
    pg_param_int(call, limit);
    pg_exec(pg, call, timeout_ms, done, owner);
}

int64_t store_read_rescued(PGresult *res)
{
    return column_int(res, 0, 0);
}

void store_backend_end(struct pg *pg, struct pg_call *call, uint64_t stuck_ms, uint64_t timeout_ms,
                       pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_BACKEND_END);
    pg_param_int(call, (int64_t)stuck_ms);
    pg_exec(pg, call, timeout_ms, done, owner);
}

void store_read_ended(PGresult *res, int row, struct ended_row *ret_row)
{
    *ret_row = (struct ended_row){
        .pid = column_int(res, row, 0),
        .program = PQgetvalue(res, row, 1),
        .age_ms = column_int(res, row, 2),
    };
}

void store_retain_remove(struct pg *pg, struct pg_call *call, uint64_t age_ms, const char *after,
                         int64_t limit, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_RETAIN_REMOVE);
    pg_param_int(call, (int64_t)age_ms);
    pg_param_text(call, after ? after : ID_ZERO);
    pg_param_int(call, limit);
    pg_exec(pg, call, RETAIN_TIMEOUT_MS, done, owner);
}

bool store_read_removed(PGresult *res, int64_t *ret_removed, char ret_after[ID_BYTES])
{
    *ret_removed = column_int(res, 0, 0);
    if (PQgetisnull(res, 0, 1))
        return false;
    snprintf(ret_after, ID_BYTES, "%s", PQgetvalue(res, 0, 1));
    return true;
}

void store_retain_partitions(struct pg *pg, struct pg_call *call, uint64_t age_ms, pg_done_fn *done,
                             void *owner)
{
    pg_call_init(call, SQL_RETAIN_PARTITIONS);
    pg_param_int(call, (int64_t)age_ms);
    pg_exec(pg, call, RETAIN_TIMEOUT_MS, done, owner);
}

void store_read_partitions(PGresult *res, int64_t *ret_made, int64_t *ret_dropped)
{
    *ret_made = column_int(res, 0, 0);
    *ret_dropped = column_int(res, 0, 1);
}
