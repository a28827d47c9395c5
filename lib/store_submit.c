#include "store_submit.h"

#include "id.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The parameters of task_submit_plain.sql, but for the tenant. */
enum {
    PLAIN_NAMES,
    PLAIN_AGENT,
    PLAIN_TAIL,
    PLAIN_INPUT,
    PLAIN_PRIORITY,
    PLAIN_METADATA,
    PLAIN_MAX_ATTEMPTS,
    PLAIN_COLUMNS,
};

static const enum pg_type many_types[STORE_SUBMIT_COLUMNS] = {
    PG_TEXT, PG_TEXT, PG_TEXT, PG_UUID, PG_TEXT, PG_INT4,
    PG_TEXT, PG_INT4, PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT,
};

static const enum pg_type plain_types[PLAIN_COLUMNS] = {
    PG_TEXT, PG_INT4, PG_INT8, PG_JSON, PG_INT4, PG_JSON, PG_INT4,
};

static int column_count(const struct store_submits *s)
{
    return s->plain ? PLAIN_COLUMNS : STORE_SUBMIT_COLUMNS;
}

bool store_submit_is_plain(const struct submit_row *row)
{
    return !row->session_id && !row->snapshot_id && !row->options && !row->run_at &&
           !row->deadline && !row->key;
}

void store_submits_init(struct store_submits *s, bool plain)
{
    s->plain = plain;
    s->nrandom = 0;
    for (int c = 0; c < column_count(s); c++)
        pg_array_init(&s->columns[c], plain ? plain_types[c] : many_types[c]);
    store_submits_reset(s);
}

void store_submits_release(struct store_submits *s)
{
    for (int c = 0; c < column_count(s); c++)
        pg_array_release(&s->columns[c]);
}

void store_submits_reset(struct store_submits *s)
{
    for (int c = 0; c < column_count(s); c++)
        pg_array_reset(&s->columns[c]);
    s->used = 0;
    s->rows = s->agents = 0;
    s->bytes = 0;
    s->agent = NULL;
}

static void put_text(struct store_submits *s, int column, const char *text)
{
    pg_array_put_text(&s->columns[column], text);
    if (!text)
        return;
    s->used |= 1u << column;
    s->bytes += strlen(text);
}

static void put_int(struct store_submits *s, int column, int64_t value)
{
    pg_array_put_int(&s->columns[column], value);
    s->used |= 1u << column;
}

/* `text`: the number, or NULL. */
static void put_number(struct store_submits *s, int column, const char *text)
{
    if (text)
        put_int(s, column, strtoll(text, NULL, 10));
    else
        pg_array_put_null(&s->columns[column]);
}

/* The second half of a UUID: `random`, behind the variant of RFC 9562. */
static int64_t tail_of(uint64_t random)
{
    return (int64_t)(random >> 2 | UINT64_C(1) << 63);
}

static int64_t random_tail(struct store_submits *s)
{
    if (s->nrandom == 0) {
        id_random(s->random, sizeof(s->random));
        s->nrandom = STORE_SUBMIT_RANDOM;
    }
    return tail_of(s->random[--s->nrandom]);
}

static void put_plain(struct store_submits *s, const struct submit_row *row)
{
    if (!s->agent || strcmp(s->agent, row->agent) != 0) {
        put_text(s, PLAIN_NAMES, row->agent);
        s->agent = row->agent;
        s->agents++;
    }
    put_int(s, PLAIN_AGENT, s->agents);
    put_int(s, PLAIN_TAIL, random_tail(s));
    put_text(s, PLAIN_INPUT, row->input);
    put_int(s, PLAIN_PRIORITY, row->priority);
    put_text(s, PLAIN_METADATA, row->metadata);
    put_number(s, PLAIN_MAX_ATTEMPTS, row->max_attempts);
}

static void put_any(struct store_submits *s, const struct submit_row *row)
{
    put_text(s, 0, row->agent);
    put_text(s, 1, row->input);
    put_text(s, 2, row->session_id);
    pg_array_put_uuid(&s->columns[3], row->snapshot_id);
    put_text(s, 4, row->run_at);
    put_int(s, 5, row->priority);
    put_text(s, 6, row->metadata);
    put_number(s, 7, row->max_attempts);
    put_text(s, 8, row->deadline);
    put_text(s, 9, row->key);
    put_text(s, 10, row->options);
    put_text(s, 11, row->print);
}

void store_submits_put(struct store_submits *s, const struct submit_row *row)
{
    if (s->plain)
        put_plain(s, row);
    else
        put_any(s, row);
    s->rows++;
}

void store_submits_send(struct pg *pg, struct store_submits *s, uint64_t timeout_ms,
                        pg_done_fn *done, void *owner)
{
    assert(s->rows > 0);
    pg_call_init(&s->call, s->plain ? SQL_TASK_SUBMIT_PLAIN : SQL_TASK_SUBMIT_MANY);
    for (int c = 0; c < column_count(s); c++)
        if (s->plain && !(s->used & 1u << c))
            pg_param_text(&s->call, NULL); /* nothing but nulls: not one by one */
        else
            pg_param_array(&s->call, &s->columns[c]);
    pg_param_text(&s->call, STORE_TENANT);
    pg_exec(pg, &s->call, timeout_ms, done, owner);
}

void store_submit_one(struct pg *pg, struct pg_call *call, const struct submit_row *row, bool hint,
                      uint64_t timeout_ms, pg_done_fn *done, void *owner)
{
    uint64_t random;

    id_random(&random, sizeof(random));
    pg_call_init(call, SQL_TASK_SUBMIT_ONE);
    pg_param_text(call, row->agent);
    pg_param_int(call, tail_of(random));
    pg_param_text(call, row->input);
    pg_param_int(call, row->priority);
    pg_param_text(call, row->metadata);
    pg_param_text(call, row->max_attempts);
    pg_param_text(call, STORE_TENANT);
    pg_param_text(call, hint ? "t" : "f");
    pg_exec(pg, call, timeout_ms, done, owner);
}

bool store_read_submitted_one(PGresult *res, struct accepted_row *ret_row)
{
    if (store_rows(res) == 0)
        return false;
    *ret_row = (struct accepted_row){
        .task_id = column_text(res, 0, 0),
        .session_id = column_text(res, 0, 0),
        .status = "queued",
        .created_at = column_text(res, 0, 1),
    };
    return true;
}

static int read_plain(PGresult *res, int at, struct accepted_row *ret_row)
{
    const char *id = column_text(res, at, 1);

    *ret_row = (struct accepted_row){
        .task_id = id,
        .session_id = id,
        .status = "queued",
        .created_at = column_text(res, at, 2),
    };
    return (int)column_int(res, at, 0) - 1;
}

int store_read_submitted(const struct store_submits *s, PGresult *res, int at,
                         struct accepted_row *ret_row)
{
    if (s->plain)
        return read_plain(res, at, ret_row);
    store_read_accepted_row(res, at, ret_row);
    return (int)column_int(res, at, 5) - 1;
}
