/*
 * The submits of many clients, or of one that brings many, in one statement: task_submit_plain.sql
 * for those that begin a session of their own, now, and task_submit_many.sql for the others.
 */
#pragma once

#include "store_task.h"

#define STORE_SUBMIT_COLUMNS 12

#define STORE_SUBMIT_RANDOM 32 /* 256 bytes: the kernel gives them at once */

struct store_submits {
    struct pg_call call;
    bool plain; /* which statement */
    struct pg_array columns[STORE_SUBMIT_COLUMNS];
    unsigned int used; /* bit of each column that has a value */
    int rows;
    size_t bytes;                         /* of the texts added */
    const char *agent;                    /* plain: of the last row */
    int agents;                           /* plain: runs of rows of one agent */
    uint64_t random[STORE_SUBMIT_RANDOM]; /* plain: asked of the kernel together, */
    int nrandom;                          /* and not used yet */
};

/* May it go with task_submit_plain.sql or task_submit_one.sql? */
bool store_submit_is_plain(const struct submit_row *row);

/* task_submit_one.sql. `hint`: NOTIFY that something is ready. */
void store_submit_one(struct pg *pg, struct pg_call *call, const struct submit_row *row, bool hint,
                      uint64_t timeout_ms, pg_done_fn *done, void *owner);
/* False: not accepted. */
bool store_read_submitted_one(PGresult *res, struct accepted_row *ret_row);

void store_submits_init(struct store_submits *s, bool plain);
void store_submits_release(struct store_submits *s);
void store_submits_reset(struct store_submits *s);

void store_submits_put(struct store_submits *s, const struct submit_row *row);

/* Send it; nothing of `s` may be touched until `done`. It must not be empty. */
void store_submits_send(struct pg *pg, struct store_submits *s, uint64_t timeout_ms,
                        pg_done_fn *done, void *owner);

/* Row `at` of the result: which one was accepted, counted from 0 as they were put. */
int store_read_submitted(const struct store_submits *s, PGresult *res, int at,
                         struct accepted_row *ret_row);
