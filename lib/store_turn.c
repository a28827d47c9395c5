#include "store_turn.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS 5000
/* What a claim took is stranded until it is given up: below a heartbeat. */
#define CLAIM_TIMEOUT_MS 1500

void store_worker_register(struct pg *pg, struct pg_call *call, const char *name, int64_t slots,
                           uint64_t ttl_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_WORKER_REGISTER);
    pg_param_text(call, name);
    pg_param_text(call, NOCTURNE_VERSION);
    pg_param_int(call, slots);
    pg_param_int(call, (int64_t)ttl_ms);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

int64_t store_worker_id(PGresult *res)
{
    return column_int(res, 0, 0);
}

void store_worker_beat(struct pg *pg, struct pg_call *call, int64_t worker_id, uint64_t ttl_ms,
                       const char *stats, bool count, uint64_t timeout_ms, pg_done_fn *done,
                       void *owner)
{
    pg_call_init(call, SQL_WORKER_BEAT);
    pg_param_int(call, worker_id);
    pg_param_int(call, (int64_t)ttl_ms);
    pg_param_text(call, stats);
    pg_param_text(call, count ? "true" : "false");
    pg_exec(pg, call, timeout_ms, done, owner);
}

int store_read_beat(PGresult *res, struct beat_row *ret_row, struct err *err)
{
    if (PQntuples(res) == 0)
        return err_set(err, ERR_CONFLICT, "this worker was declared dead");
    *ret_row = (struct beat_row){
        .draining = !strcmp(PQgetvalue(res, 0, 0), "draining"),
        .leases = column_int(res, 0, 1),
        .newest_epoch = column_int(res, 0, 2),
        .controls = column_text(res, 0, 3),
    };
    return 0;
}

void store_worker_session(struct pg *pg, struct pg_call *call, int64_t worker_id,
                          uint64_t silence_ms, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_WORKER_SESSION);
    pg_param_int(call, worker_id);
    pg_param_int(call, pg_backend_id(pg));
    pg_param_int(call, (int64_t)silence_ms);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

int store_read_session(PGresult *res)
{
    return PQntuples(res) ? column_bool(res, 0, 0) : -1;
}

static void exec_for_worker(struct pg *pg, struct pg_call *call, enum sql_stmt stmt,
                            int64_t worker_id, pg_done_fn *done, void *owner)
{
    pg_call_init(call, stmt);
    pg_param_int(call, worker_id);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

void store_worker_controls(struct pg *pg, struct pg_call *call, int64_t worker_id, pg_done_fn *done,
                           void *owner)
{
    exec_for_worker(pg, call, SQL_WORKER_CONTROLS, worker_id, done, owner);
}

const char *store_read_controls(PGresult *res)
{
    return PQntuples(res) ? column_text(res, 0, 0) : NULL;
}

void store_worker_drain(struct pg *pg, struct pg_call *call, int64_t worker_id, pg_done_fn *done,
                        void *owner)
{
    exec_for_worker(pg, call, SQL_WORKER_DRAIN, worker_id, done, owner);
}

void store_worker_leave(struct pg *pg, struct pg_call *call, int64_t worker_id, pg_done_fn *done,
                        void *owner)
{
    exec_for_worker(pg, call, SQL_WORKER_LEAVE, worker_id, done, owner);
}

void store_worker_reconcile(struct pg *pg, struct pg_call *call, int64_t worker_id,
                            struct pg_array *tasks, int64_t newest_epoch, pg_done_fn *done,
                            void *owner)
{
    pg_call_init(call, SQL_WORKER_RECONCILE);
    pg_param_int(call, worker_id);
    pg_param_array(call, tasks);
    pg_param_int(call, newest_epoch);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

void store_claim_init(struct claim_params *params)
{
    pg_array_init(&params->first, PG_INT4);
    pg_array_init(&params->from, PG_INT8);
    pg_array_init(&params->below, PG_INT4);
}

void store_claim_release(struct claim_params *params)
{
    pg_array_release(&params->first);
    pg_array_release(&params->from);
    pg_array_release(&params->below);
}

void store_turn_claim(struct pg *pg, struct pg_call *call, int64_t worker_id, int64_t limit,
                      const struct claim_ranges *ranges, bool ask_first, bool ask_requests,
                      struct claim_params *params, pg_done_fn *done, void *owner)
{
    pg_array_reset(&params->first);
    pg_array_reset(&params->from);
    pg_array_reset(&params->below);
    for (int i = 0; i < ranges->count; i++) {
        pg_array_put_int(&params->first, ranges->range[i].first);
        pg_array_put_int(&params->from, ranges->range[i].from);
        pg_array_put_int(&params->below, ranges->range[i].below);
    }
    pg_call_init(call, SQL_TURN_CLAIM);
    pg_param_int(call, worker_id);
    pg_param_int(call, limit);
    pg_param_array(call, &params->first);
    pg_param_array(call, &params->from);
    pg_param_array(call, &params->below);
    pg_param_text(call, ask_first ? "true" : "false");
    pg_param_text(call, ask_requests ? "true" : "false");
    pg_exec(pg, call, CLAIM_TIMEOUT_MS, done, owner);
}

void store_read_view(PGresult *res, struct claim_view *ret_view)
{
    *ret_view = (struct claim_view){.snapshot = "", .first = ""};
    if (PQntuples(res) == 0)
        return;
    ret_view->newest = column_int(res, 0, 6);
    ret_view->id = column_int(res, 0, 7);
    ret_view->snapshot = PQgetvalue(res, 0, 8);
    ret_view->first = PQgetvalue(res, 0, 9);
}

static int by_age(const void *a, const void *b)
{
    const struct claim_row *x = a, *y = b;

    if (x->priority != y->priority)
        return x->priority < y->priority ? -1 : 1;
    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

int store_read_claims(PGresult *res, int max, struct claim_row *ret_rows)
{
    int n = 0;

    for (int i = 0; i < PQntuples(res) && n < max; i++) {
        struct claim_row *row = &ret_rows[n];

        if (PQgetisnull(res, i, 0))
            break;
        snprintf(row->task_id, sizeof(row->task_id), "%s", PQgetvalue(res, i, 0));
        row->epoch = column_int(res, i, 1);
        row->priority = (int)column_int(res, i, 2);
        row->seq = column_int(res, i, 3);
        row->fails = (int)column_int(res, i, 4);
        row->crashes = (int)column_int(res, i, 5);
        row->at = i;
        n++;
    }
    qsort(ret_rows, (size_t)n, sizeof(*ret_rows), by_age);
    return n;
}

void store_turn_load(struct pg *pg, struct pg_call *call, struct pg_array *tasks, pg_done_fn *done,
                     void *owner)
{
    pg_call_init(call, SQL_TURN_LOAD);
    pg_param_array(call, tasks);
    pg_exec(pg, call, 3 * TIMEOUT_MS, done, owner);
}

void store_turn_load_bare(struct pg *pg, struct pg_call *call, struct pg_array *tasks,
                          pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TURN_LOAD_BARE);
    pg_param_array(call, tasks);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

void store_read_load(PGresult *res, int row, struct load_row *ret_row)
{
    *ret_row = (struct load_row){
        .task_id = column_text(res, row, 0),
        .tenant = column_text(res, row, 1),
        .agent = column_text(res, row, 2),
        .revision = (int)column_int(res, row, 3),
        .session_id = column_text(res, row, 4),
        .parent = column_text(res, row, 5),
        .parent_depth = (int)column_int(res, row, 6),
        .input = column_text(res, row, 7),
        .options = column_text(res, row, 8),
        .max_attempts = (int)column_int(res, row, 9),
        .created_ms = column_int(res, row, 10),
        .deadline_in_ms = PQgetisnull(res, row, 11) ? INT64_MAX : column_int(res, row, 11),
        .messages = column_text(res, row, 12),
        .custom = column_text(res, row, 13),
        .artifacts = column_text(res, row, 14),
        .steps = column_text(res, row, 15),
        .calls = column_text(res, row, 16),
        .last_seq = column_int(res, row, 17),
        .started_at = column_text(res, row, 18),
        .origin = column_text(res, row, 20),
        .control = column_text(res, row, 19),
    };
}

bool store_read_request(PGresult *res, const struct claim_row *claim, struct load_row *ret_row)
{
    int row = claim->at;

    if (PQgetisnull(res, row, 10))
        return false;
    *ret_row = (struct load_row){
        .task_id = claim->task_id,
        .tenant = column_text(res, row, 10),
        .agent = column_text(res, row, 11),
        .revision = (int)column_int(res, row, 12),
        .session_id = column_text(res, row, 13),
        .input = column_text(res, row, 14),
        .max_attempts = (int)column_int(res, row, 15),
        .created_ms = column_int(res, row, 16),
        .deadline_in_ms = INT64_MAX,
    };
    return true;
}

void store_agent_load(struct pg *pg, struct pg_call *call, const char *tenant, const char *name,
                      int64_t revision, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_AGENT_LOAD);
    pg_param_text(call, tenant);
    pg_param_text(call, name);
    pg_param_int(call, revision);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

const char *store_read_agent(PGresult *res)
{
    return PQntuples(res) ? PQgetvalue(res, 0, 0) : NULL;
}

void store_turn_fate(struct pg *pg, struct pg_call *call, struct pg_array *tasks,
                     struct pg_array *epochs, pg_done_fn *done, void *owner)
{
    pg_call_init(call, SQL_TURN_FATE);
    pg_param_array(call, tasks);
    pg_param_array(call, epochs);
    pg_exec(pg, call, TIMEOUT_MS, done, owner);
}

enum turn_fate store_read_fate(PGresult *res, int row, const char **ret_task_id,
                               const char **ret_control)
{
    const char *word = PQgetvalue(res, row, 1);

    *ret_task_id = PQgetvalue(res, row, 0);
    *ret_control = PQgetvalue(res, row, 2);
    if (!strcmp(word, "ended"))
        return FATE_ENDED;
    if (!strcmp(word, "aborting"))
        return FATE_ABORTING;
    return !strcmp(word, "leased") ? FATE_LEASED : FATE_GONE;
}

/* The array parameters of each part, in order behind $1; 0 ends a list. */
static const struct {
    enum sql_stmt stmt;
    enum pg_type columns[BATCH_MAX_COLUMNS + 1];
    bool takes_worker_name; /* behind them */
} parts[BATCH_PARTS] = {
    [BATCH_APPEND] = {SQL_TURN_APPEND,
                      {PG_UUID, PG_INT8, PG_INT8, PG_INT4, PG_INT8, PG_TEXT, 0},
                      false                                                                      },
    [BATCH_STEP] = {SQL_TURN_STEP,
                      {PG_UUID, PG_INT8, PG_INT4, PG_TEXT, PG_TEXT, PG_TEXT, PG_INT8, 0},
                      false                                                                      },
    [BATCH_CLAIM] = {SQL_TURN_CALL_CLAIM,
                      {PG_UUID, PG_INT8, PG_INT4, PG_INT4, PG_TEXT, PG_TEXT, 0},
                      false                                                                      },
    [BATCH_SETTLE] = {SQL_TURN_CALL_SETTLE,
                      {PG_UUID, PG_INT8, PG_INT4, PG_INT4, PG_TEXT, PG_TEXT, PG_INT8, 0},
                      false                                                                      },
    [BATCH_ARTIFACT] = {SQL_TURN_ARTIFACT,    {PG_UUID, PG_INT8, PG_TEXT, PG_TEXT, 0},        false},
    [BATCH_COMPLETE] = {SQL_TURN_COMPLETE,
                      {PG_UUID, PG_INT8, PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT,
                         PG_TEXT, PG_INT8, PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT, PG_UUID,
                         PG_INT4, PG_BOOL, PG_TEXT, PG_INT8, PG_INT4, PG_INT8, PG_TEXT, 0},
                      true                                                                       },
    [BATCH_RETRY] = {SQL_TURN_RETRY,       {PG_UUID, PG_INT8, PG_INT8, PG_TEXT, 0},        true },
    [BATCH_RELEASE] = {SQL_TURN_RELEASE,     {PG_UUID, PG_INT8, 0},                          true },
};

void store_batch_init(struct store_batch *b)
{
    for (int p = 0; p < BATCH_PARTS; p++) {
        b->rows[p] = 0;
        for (int c = 0; parts[p].columns[c]; c++)
            pg_array_init(&b->columns[p][c], parts[p].columns[c]);
    }
    b->bytes = 0;
    b->lock_first = false;
}

void store_batch_release(struct store_batch *b)
{
    for (int p = 0; p < BATCH_PARTS; p++)
        for (int c = 0; parts[p].columns[c]; c++)
            pg_array_release(&b->columns[p][c]);
}

void store_batch_reset(struct store_batch *b)
{
    for (int p = 0; p < BATCH_PARTS; p++) {
        for (int c = 0; b->rows[p] && parts[p].columns[c]; c++)
            pg_array_reset(&b->columns[p][c]);
        b->rows[p] = 0;
    }
    b->bytes = 0;
    b->lock_first = false;
}

bool store_batch_is_empty(const struct store_batch *b)
{
    for (int p = 0; p < BATCH_PARTS; p++)
        if (b->rows[p])
            return false;
    return true;
}

/* Begin a row of `part`; the other columns follow from index 2 on. */
static struct pg_array *begin_row(struct store_batch *b, enum batch_part part, const char *task,
                                  int64_t epoch)
{
    struct pg_array *columns = b->columns[part];

    b->rows[part]++;
    pg_array_put_uuid(&columns[0], task);
    pg_array_put_int(&columns[1], epoch);
    return columns;
}

static void put_text(struct store_batch *b, struct pg_array *column, const char *text)
{
    pg_array_put_text(column, text);
    b->bytes += text ? strlen(text) : 0;
}

static void put_chunk(struct store_batch *b, struct pg_array *columns,
                      const struct chunk_row *chunk)
{
    pg_array_put_int(&columns[0], chunk->seq_from);
    pg_array_put_int(&columns[1], chunk->count);
    pg_array_put_int(&columns[2], chunk->at_ms);
    pg_array_put_bytes(&columns[3], chunk->events, chunk->len);
    b->bytes += chunk->len;
}

void store_batch_chunk(struct store_batch *b, const char *task, int64_t epoch,
                       const struct chunk_row *chunk)
{
    put_chunk(b, begin_row(b, BATCH_APPEND, task, epoch) + 2, chunk);
}

void store_batch_step(struct store_batch *b, const char *task, int64_t epoch, int step,
                      const char *message, const char *finish, const char *usage, int64_t last_seq)
{
    struct pg_array *columns = begin_row(b, BATCH_STEP, task, epoch);

    pg_array_put_int(&columns[2], step);
    put_text(b, &columns[3], message);
    put_text(b, &columns[4], finish);
    put_text(b, &columns[5], usage);
    pg_array_put_int(&columns[6], last_seq);
}

void store_batch_claim(struct store_batch *b, const char *task, int64_t epoch, int step, int idx,
                       const char *call_id, const char *name)
{
    struct pg_array *columns = begin_row(b, BATCH_CLAIM, task, epoch);

    pg_array_put_int(&columns[2], step);
    pg_array_put_int(&columns[3], idx);
    put_text(b, &columns[4], call_id);
    put_text(b, &columns[5], name);
}

void store_batch_settle(struct store_batch *b, const char *task, int64_t epoch, int step, int idx,
                        const char *status, const char *result, int64_t seq)
{
    struct pg_array *columns = begin_row(b, BATCH_SETTLE, task, epoch);

    pg_array_put_int(&columns[2], step);
    pg_array_put_int(&columns[3], idx);
    put_text(b, &columns[4], status);
    put_text(b, &columns[5], result);
    pg_array_put_int(&columns[6], seq);
}

void store_batch_artifact(struct store_batch *b, const char *task, int64_t epoch, const char *name,
                          const char *content)
{
    struct pg_array *columns = begin_row(b, BATCH_ARTIFACT, task, epoch);

    put_text(b, &columns[2], name);
    put_text(b, &columns[3], content);
}

void store_batch_complete(struct store_batch *b, const char *task, int64_t epoch,
                          const struct turn_end *end, const struct chunk_row *last)
{
    struct pg_array *columns = begin_row(b, BATCH_COMPLETE, task, epoch);

    put_text(b, &columns[2], end->status);
    put_text(b, &columns[3], end->finish_reason);
    put_text(b, &columns[4], end->output);
    put_text(b, &columns[5], end->usage);
    put_text(b, &columns[6], end->error);
    put_text(b, &columns[7], end->abort);
    put_text(b, &columns[8], end->interrupts);
    pg_array_put_int(&columns[9], last->seq_from + last->count - 1);
    put_text(b, &columns[10], end->tenant);
    put_text(b, &columns[11], end->session_id);
    put_text(b, &columns[12], end->messages);
    put_text(b, &columns[13], end->custom);
    put_text(b, &columns[14], end->artifacts);
    pg_array_put_uuid(&columns[15], end->parent_id);
    pg_array_put_int(&columns[16], end->depth);
    pg_array_put_bool(&columns[17], end->head);
    put_text(b, &columns[18], end->started_at);
    put_chunk(b, columns + 19, last);
}

void store_batch_retry(struct store_batch *b, const char *task, int64_t epoch, uint64_t delay_ms,
                       const char *error)
{
    struct pg_array *columns = begin_row(b, BATCH_RETRY, task, epoch);

    pg_array_put_int(&columns[2], (int64_t)delay_ms);
    put_text(b, &columns[3], error);
}

void store_batch_release_turn(struct store_batch *b, const char *task, int64_t epoch)
{
    (void)begin_row(b, BATCH_RELEASE, task, epoch);
}

void store_batch_send(struct pg *pg, struct store_batch *b, int64_t worker_id, const char *worker,
                      uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    struct pg_call *first = NULL;

    for (int p = 0; p < BATCH_PARTS; p++) {
        struct pg_call *call = &b->calls[p];

        pg_call_init(call, parts[p].stmt);
        if (b->rows[p] == 0)
            continue;
        pg_param_int(call, worker_id);
        for (int c = 0; parts[p].columns[c]; c++)
            pg_param_array(call, &b->columns[p][c]);
        if (parts[p].takes_worker_name)
            pg_param_text(call, worker);
        if (p == BATCH_COMPLETE)
            pg_param_int(call, b->lock_first);
        if (first)
            pg_call_also(first, call);
        else
            first = call;
    }
    assert(first);
    pg_exec(pg, first, timeout_ms, done, owner);
}

const char *store_batch_accepted(const struct store_batch *b, enum batch_part part, int row)
{
    PGresult *res = b->rows[part] ? b->calls[part].res : NULL;

    return res && row < PQntuples(res) ? PQgetvalue(res, row, 0) : NULL;
}

bool store_batch_made_ready(const struct store_batch *b)
{
    PGresult *res = b->rows[BATCH_COMPLETE] ? b->calls[BATCH_COMPLETE].res : NULL;

    return res && PQntuples(res) > 0 && column_int(res, 0, 1) > 0;
}
