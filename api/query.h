/* Paths and query strings, percent-decoded. A bad escape and %00 are refused, never passed on. */
#pragma once

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUERY_MAX    8
#define SEGMENTS_MAX 8

struct query {
    char *names[QUERY_MAX];
    char *values[QUERY_MAX];
    int n;
};

/*
 * Read `text`, what stands behind the '?'. `allowed` are the names separated by blanks; others and
 * ones given twice fail with ERR_INVALID. Release it in any case.
 */
int query_read(struct query *query, const char *text, const char *allowed, struct err *err);
void query_release(struct query *query);

/* NULL when absent. */
const char *query_get(const struct query *query, const char *name);

/* `*ret_value` stays as it is when the parameter is absent. */
int query_int(const struct query *query, const char *name, int64_t min, int64_t max,
              int64_t *ret_value, struct err *err);
int query_ms(const struct query *query, const char *name, uint64_t max_ms, uint64_t *ret_ms,
             struct err *err);

/* A decimal number from 0 to 2^63-1 and nothing else. */
bool query_parse_seq(const char *text, int64_t *ret_value);

/*
 * The segments of a path, decoded, each to be freed. Returns their number, 0 when there are more
 * than SEGMENTS_MAX or none, -1 when an escape is bad.
 */
int path_split(const char *path, char **ret_segments);

/* Lower case in place; false when `text` is no UUID. */
bool path_take_uuid(char *text);

/* 1..128 of A-Z a-z 0-9 . _ : - */
bool session_id_is_valid(const char *text);
