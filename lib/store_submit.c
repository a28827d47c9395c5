#include "store_submit.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const enum pg_type types[STORE_SUBMIT_COLUMNS] = {PG_TEXT, PG_TEXT, PG_TEXT, PG_UUID,
                                                         PG_TEXT, PG_INT4, PG_TEXT, PG_INT4,
                                                         PG_TEXT, PG_TEXT, PG_TEXT, PG_TEXT};

void store_submits_init(struct store_submits *s)
{
    for (int c = 0; c < STORE_SUBMIT_COLUMNS; c++)
        pg_array_init(&s->columns[c], types[c]);
    s->rows = 0;
    s->bytes = 0;
}

void store_submits_release(struct store_submits *s)
{
    for (int c = 0; c < STORE_SUBMIT_COLUMNS; c++)
        pg_array_release(&s->columns[c]);
}

void store_submits_reset(struct store_submits *s)
{
    for (int c = 0; c < STORE_SUBMIT_COLUMNS; c++)
        pg_array_reset(&s->columns[c]);
    s->rows = 0;
    s->bytes = 0;
}

static void put_text(struct store_submits *s, int column, const char *text)
{
    pg_array_put_text(&s->columns[column], text);
    s->bytes += text ? strlen(text) : 0;
}

void store_submits_put(struct store_submits *s, const struct submit_row *row)
{
    put_text(s, 0, row->agent);
    put_text(s, 1, row->input);
    put_text(s, 2, row->session_id);
    pg_array_put_uuid(&s->columns[3], row->snapshot_id);
    put_text(s, 4, row->run_at);
    pg_array_put_int(&s->columns[5], row->priority);
    put_text(s, 6, row->metadata);
    if (row->max_attempts)
        pg_array_put_int(&s->columns[7], strtoll(row->max_attempts, NULL, 10));
    else
        pg_array_put_null(&s->columns[7]);
    put_text(s, 8, row->deadline);
    put_text(s, 9, row->key);
    put_text(s, 10, row->options);
    put_text(s, 11, row->print);
    s->rows++;
}

void store_submits_send(struct pg *pg, struct store_submits *s, uint64_t timeout_ms,
                        pg_done_fn *done, void *owner)
{
    assert(s->rows > 0);
    pg_call_init(&s->call, SQL_TASK_SUBMIT_MANY);
    for (int c = 0; c < STORE_SUBMIT_COLUMNS; c++)
        pg_param_array(&s->call, &s->columns[c]);
    pg_param_text(&s->call, STORE_TENANT);
    pg_exec(pg, &s->call, timeout_ms, done, owner);
}

int store_read_submitted(PGresult *res, int at, struct accepted_row *ret_row)
{
    store_read_accepted_row(res, at, ret_row);
    return (int)column_int(res, at, 5) - 1;
}
