#include "store_genkit.h"

#include "store_result.h"

#include "store_task.h"

void store_genkit_agent(struct pg *pg, struct pg_call *call, const char *agent, pg_done_fn *done,
                        void *owner)
{
    pg_call_init(call, SQL_GENKIT_AGENT);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, agent);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

int store_read_genkit_agent(PGresult *res, struct genkit_agent_row *ret_row, struct err *err)
{
    if (PQntuples(res) == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no such agent");
    *ret_row = (struct genkit_agent_row){
        .is_llm = column_bool(res, 0, 0),
        .client = column_bool(res, 0, 1),
        .abort_on_gone = column_bool(res, 0, 2),
        .busy = PQgetvalue(res, 0, 3),
    };
    return 0;
}

void store_genkit_submit(struct pg *pg, struct pg_call *call, const struct genkit_submit_row *row,
                         pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_GENKIT_SUBMIT);
    pg_param_text(call, row->agent);
    pg_param_text(call, row->input);
    pg_param_text(call, row->session_id);
    pg_param_text(call, row->snapshot_id);
    pg_param_text(call, row->options);
    pg_param_text(call, row->key);
    pg_param_text(call, row->busy);
    pg_param_text(call, STORE_TENANT);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

int store_read_genkit_accepted(PGresult *res, struct genkit_accepted_row *ret_row, struct err *err)
{
    if (PQntuples(res) == 0)
        return err_set(err, ERR_BUG, "a statement returned no row");
    *ret_row = (struct genkit_accepted_row){
        .task_id = column_text(res, 0, 0),
        .session_id = column_text(res, 0, 1),
        .status = column_text(res, 0, 2),
        .refused = column_text(res, 0, 3),
        .misuse = column_bool(res, 0, 4),
    };
    return 0;
}

void store_genkit_snapshot(struct pg *pg, struct pg_call *call, const char *agent,
                           const char *snapshot_id, const char *session_id, pg_done_fn *done,
                           void *owner)
{
    pg_call_init(call, SQL_GENKIT_SNAPSHOT);
    pg_param_text(call, snapshot_id);
    pg_param_text(call, session_id);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, agent);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

const char *store_read_genkit_snapshot(PGresult *res, bool *ret_settled)
{
    if (PQntuples(res) == 0)
        return NULL;
    *ret_settled = column_bool(res, 0, 1);
    return PQgetvalue(res, 0, 0);
}

void store_genkit_abort(struct pg *pg, struct pg_call *call, const char *agent,
                        const char *snapshot_id, const char *reason, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_GENKIT_ABORT);
    pg_param_text(call, snapshot_id);
    pg_param_text(call, reason);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, agent);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

bool store_read_genkit_abort(PGresult *res, const char **ret_found, const char **ret_now,
                             const char **ret_worker_id)
{
    if (PQntuples(res) == 0)
        return false;
    *ret_found = PQgetvalue(res, 0, 0);
    *ret_now = PQgetvalue(res, 0, 1);
    *ret_worker_id = column_text(res, 0, 2);
    return true;
}

void store_genkit_output(struct pg *pg, struct pg_call *call, const char *task_id, pg_done_fn *done,
                         void *owner)
{
    pg_call_init(call, SQL_GENKIT_OUTPUT);
    pg_param_text(call, task_id);
    pg_param_text(call, STORE_TENANT);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

int store_read_genkit_output(PGresult *res, struct genkit_output_row *ret_row, struct err *err)
{
    if (PQntuples(res) == 0)
        return err_set(err, ERR_BUG, "the task has not ended");
    *ret_row = (struct genkit_output_row){
        .is_flow = *PQgetvalue(res, 0, 0) == 'f',
        .turn_end = column_text(res, 0, 1),
        .paused = column_text(res, 0, 2),
        .result = column_text(res, 0, 3),
        .error = column_text(res, 0, 4),
    };
    return 0;
}

void store_genkit_find(struct pg *pg, struct pg_call *call, const char *agent,
                       const char *stream_id, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_GENKIT_FIND);
    pg_param_text(call, stream_id);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, agent);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}

bool store_read_genkit_find(PGresult *res, const char **ret_frames, bool *ret_foreground)
{
    if (PQntuples(res) == 0)
        return false;
    *ret_frames = column_text(res, 0, 0);
    *ret_foreground = column_bool(res, 0, 1);
    return true;
}

void store_genkit_keep(struct pg *pg, struct pg_call *call, const char *stream_id,
                       const char *frames, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_GENKIT_KEEP);
    pg_param_text(call, stream_id);
    pg_param_text(call, frames);
    pg_exec(pg, call, STORE_TASK_MS, done, owner);
}
