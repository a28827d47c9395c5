#include "store_task.h"

#include "clock.h"

#include <stdlib.h>

uint64_t store_task_left_ms(uint64_t since_ms)
{
    uint64_t age_ms = clock_mono_ms() - since_ms;

    return age_ms < STORE_TASK_MS ? STORE_TASK_MS - age_ms : 1;
}

void store_task_submit(struct pg *pg, struct pg_call *call, const struct submit_row *row, bool hint,
                       uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TASK_SUBMIT);
    pg_param_text(call, row->agent);
    pg_param_text(call, row->input);
    pg_param_text(call, row->session_id);
    pg_param_text(call, row->snapshot_id);
    pg_param_text(call, row->run_at);
    pg_param_int(call, row->priority);
    pg_param_text(call, row->metadata);
    pg_param_text(call, row->max_attempts);
    pg_param_text(call, row->deadline);
    pg_param_text(call, row->key);
    pg_param_text(call, row->options);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, row->print);
    pg_param_text(call, hint ? "t" : "f");
    pg_exec(pg, call, timeout_ms, done, owner);
}

void store_task_resume(struct pg *pg, struct pg_call *call, const char *task_id,
                       const char *answers, const char *key, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TASK_RESUME);
    pg_param_text(call, task_id);
    pg_param_text(call, answers);
    pg_param_text(call, key);
    pg_param_text(call, STORE_TENANT);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_task_retry(struct pg *pg, struct pg_call *call, const char *task_id, bool fresh,
                      const char *key, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TASK_RETRY);
    pg_param_text(call, task_id);
    pg_param_text(call, fresh ? "t" : "f");
    pg_param_text(call, key);
    pg_param_text(call, STORE_TENANT);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

/* A statement that always has a row had none. */
static int no_row(struct err *err)
{
    return err_set(err, ERR_BUG, "a statement returned no row");
}

void store_read_accepted_row(PGresult *res, int at, struct accepted_row *ret_row)
{
    *ret_row = (struct accepted_row){
        .task_id = column_text(res, at, 0),
        .session_id = column_text(res, at, 1),
        .status = column_text(res, at, 2),
        .created_at = column_text(res, at, 3),
        .replayed = column_bool(res, at, 4),
    };
}

int store_read_accepted(PGresult *res, struct accepted_row *ret_row, struct err *err)
{
    if (PQntuples(res) == 0)
        return no_row(err);
    store_read_accepted_row(res, 0, ret_row);
    return 0;
}

void store_task_abort(struct pg *pg, struct pg_call *call, const char *task_id, const char *reason,
                      const char *actor, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TASK_ABORT);
    pg_param_text(call, task_id);
    pg_param_text(call, reason);
    pg_param_text(call, actor);
    pg_param_text(call, STORE_TENANT);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

int store_read_abort(PGresult *res, struct abort_row *ret_row, struct err *err)
{
    if (PQntuples(res) == 0)
        return no_row(err);
    *ret_row = (struct abort_row){
        .before = column_text(res, 0, 0),
        .now = PQgetvalue(res, 0, 1),
        .worker_id = column_text(res, 0, 2),
    };
    return 0;
}

/* Statements about one thing by its name, in the default tenant. */
static void exec_for(struct pg *pg, struct pg_call *call, enum sql_stmt stmt, const char *first,
                     const char *second, pg_done_fn *done, void *owner)
{
    pg_call_init(call, stmt);
    pg_param_text(call, first);
    pg_param_text(call, second);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_task_get(struct pg *pg, struct pg_call *call, struct pg_array *tasks,
                    uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TASK_GET);
    pg_param_array(call, tasks);
    pg_param_text(call, STORE_TENANT);
    pg_exec(pg, call, timeout_ms, done, owner);
}

int store_read_task(PGresult *res, int row, struct task_row *ret_row)
{
    *ret_row = (struct task_row){
        .json = column_text(res, row, 1),
        .terminal = column_bool(res, row, 2),
    };
    return (int)column_int(res, row, 0) - 1;
}

void store_task_peek(struct pg *pg, struct pg_call *call, const char *task_id, pg_done_fn *done,
                     void *owner)
{
    exec_for(pg, call, SQL_TASK_PEEK, task_id, STORE_TENANT, done, owner);
}

int store_read_peek(PGresult *res, bool *ret_terminal, int64_t *ret_last_seq, struct err *err)
{
    if (PQntuples(res) == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no such task");
    *ret_terminal = column_bool(res, 0, 0);
    *ret_last_seq = column_int(res, 0, 1);
    return 0;
}

void store_task_list(struct pg *pg, struct pg_call *call, const struct list_filter *filter,
                     int64_t limit, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TASK_LIST);
    pg_param_text(call, filter->tenant ? filter->tenant : STORE_TENANT);
    pg_param_text(call, filter->status);
    pg_param_text(call, filter->agent);
    pg_param_text(call, filter->session_id);
    pg_param_text(call, filter->before);
    pg_param_int(call, limit);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_task_sweep(struct pg *pg, struct pg_call *call, struct pg_array *tasks, pg_done_fn *done,
                      void *owner)
{
    pg_call_init(call, SQL_TASK_SWEEP);
    pg_param_array(call, tasks);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

const char *store_read_id(PGresult *res, int row)
{
    return PQgetvalue(res, row, 0);
}

void store_cursors_init(struct sweep_cursors *c)
{
    pg_array_init(&c->tasks, PG_UUID);
    pg_array_init(&c->after, PG_INT8);
    pg_array_init(&c->at_end, PG_BOOL);
}

void store_cursors_release(struct sweep_cursors *c)
{
    pg_array_release(&c->tasks);
    pg_array_release(&c->after);
    pg_array_release(&c->at_end);
}

void store_cursors_reset(struct sweep_cursors *c)
{
    pg_array_reset(&c->tasks);
    pg_array_reset(&c->after);
    pg_array_reset(&c->at_end);
}

void store_cursors_put(struct sweep_cursors *c, const char *task_id, int64_t after, bool at_end)
{
    pg_array_put_uuid(&c->tasks, task_id);
    pg_array_put_int(&c->after, after);
    pg_array_put_bool(&c->at_end, at_end);
}

void store_chunk_sweep(struct pg *pg, struct pg_call *call, struct sweep_cursors *cursors,
                       int64_t limit, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_CHUNK_SWEEP);
    pg_param_array(call, &cursors->tasks);
    pg_param_array(call, &cursors->after);
    pg_param_array(call, &cursors->at_end);
    pg_param_int(call, limit);
    pg_exec(pg, call, 3 * STORE_TASK_MS, done, owner);
}

void store_read_chunk(PGresult *res, int row, struct sweep_row *ret_row)
{
    *ret_row = (struct sweep_row){
        .task_id = PQgetvalue(res, row, 0),
        .seq_from = column_int(res, row, 1),
        .count = column_int(res, row, 2),
        .at_ms = column_int(res, row, 3),
        .events = PQgetvalue(res, row, 4),
        .len = (size_t)PQgetlength(res, row, 4),
    };
}

void store_session_get(struct pg *pg, struct pg_call *call, const char *session_id,
                       pg_done_fn *done, void *owner)
{
    exec_for(pg, call, SQL_SESSION_GET, STORE_TENANT, session_id, done, owner);
}

void store_session_snapshots(struct pg *pg, struct pg_call *call, const char *session_id,
                             const char *before, int64_t limit, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_SESSION_SNAPSHOTS);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, session_id);
    pg_param_text(call, before);
    pg_param_int(call, limit);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_snapshot_get(struct pg *pg, struct pg_call *call, const char *snapshot_id,
                        pg_done_fn *done, void *owner)
{
    exec_for(pg, call, SQL_SNAPSHOT_GET, snapshot_id, STORE_TENANT, done, owner);
}

void store_agent_apply(struct pg *pg, struct pg_call *call, struct pg_array *names,
                       struct pg_array *definitions, struct pg_array *managed,
                       struct pg_array *max_attempts, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_AGENT_APPLY);
    pg_param_text(call, STORE_TENANT);
    pg_param_array(call, names);
    pg_param_array(call, definitions);
    pg_param_array(call, managed);
    pg_param_array(call, max_attempts);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_read_applied(PGresult *res, int row, struct applied_row *ret_row)
{
    *ret_row = (struct applied_row){
        .name = PQgetvalue(res, row, 0),
        .revision = column_int(res, row, 1),
        .changed = column_bool(res, row, 2),
    };
}

void store_agent_get(struct pg *pg, struct pg_call *call, const char *name, pg_done_fn *done,
                     void *owner)
{
    exec_for(pg, call, SQL_AGENT_GET, STORE_TENANT, name, done, owner);
}

void store_agent_list(struct pg *pg, struct pg_call *call, const char *after, int64_t limit,
                      pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_AGENT_LIST);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, after);
    pg_param_int(call, limit);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_agent_delete(struct pg *pg, struct pg_call *call, const char *name, pg_done_fn *done,
                        void *owner)
{
    exec_for(pg, call, SQL_AGENT_DELETE, STORE_TENANT, name, done, owner);
}

const char *store_read_key(PGresult *res, int row)
{
    return PQgetvalue(res, row, 0);
}

const char *store_read_item(PGresult *res, int row)
{
    return column_text(res, row, 1);
}

const char *store_read_one(PGresult *res)
{
    return PQntuples(res) ? PQgetvalue(res, 0, 0) : NULL;
}

void store_notify_send(struct pg *pg, struct pg_call *call, struct pg_array *payloads,
                       uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_NOTIFY_SEND);
    pg_param_array(call, payloads);
    pg_exec(pg, call, timeout_ms, done, owner);
}

void store_stats_read(struct pg *pg, struct pg_call *call, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_STATS_READ);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

void store_read_stats(PGresult *res, struct stats_row *ret_row)
{
    *ret_row = (struct stats_row){
        .ready = column_int(res, 0, 0),
        .due = column_int(res, 0, 1),
        .running = column_int(res, 0, 2),
        .aborting = column_int(res, 0, 3),
        .behind = column_int(res, 0, 4),
        .unusual = column_text(res, 0, 5),
        .ended = column_int(res, 0, 6),
        .workers = column_text(res, 0, 7),
        .leaders = column_int(res, 0, 8),
        .quarantined = column_int(res, 0, 9),
    };
}

void store_health_ready(struct pg *pg, struct pg_call *call, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_HEALTH_READY);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

int64_t store_read_version(PGresult *res)
{
    return PQntuples(res) ? column_int(res, 0, 0) : 0;
}

bool store_read_writable(PGresult *res)
{
    return PQntuples(res) && column_bool(res, 0, 1);
}
