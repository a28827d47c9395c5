/*
 * Reading a JSON object into a struct by a table that says all there is to know about its members.
 *
 *   struct abort_body { const char *reason; bool force; };
 *   static const struct field abort_fields[] = {
 *       FIELD(struct abort_body, "reason", FIELD_STR, reason, .max = 1000),
 *       FIELD(struct abort_body, "force", FIELD_BOOL, force),
 *       FIELD_END,
 *   };
 *   struct abort_body body = {0};
 *   if (fields_read(root, NULL, abort_fields, &body, &problems) < 0) ... 400 with the problems
 *
 * Members not in the table, members given twice and values of another type are problems, all of
 * them reported. A member that is absent or null leaves its field as it was, so defaults are what
 * the struct holds before the call. Pointers point into the tree and live as long as it does.
 */
#pragma once

#include "json.h"
#include "pointer.h"
#include "problem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type {
    FIELD_STR,    /* const char *; min..max bytes, max 0: any */
    FIELD_URL,    /* const char *; http or https with a host, no user, no fragment, <= 2048 bytes */
    FIELD_WORD,   /* an enum (int): the index in `words` */
    FIELD_INT,    /* int64_t; min..max, both 0: any whole number up to 2^53 */
    FIELD_BOOL,   /* bool */
    FIELD_MS,     /* uint64_t; a duration such as "30s"; min..max milliseconds, max 0: any */
    FIELD_STAMP,  /* int64_t; an RFC 3339 time, microseconds since 1970 */
    FIELD_OBJECT, /* const cJSON * */
    FIELD_ARRAY,  /* const cJSON *; min..max elements, max 0: any */
    FIELD_ANY,    /* const cJSON *; null is a value here */
};

#define FIELD_MAX 32 /* members in a table */

struct field {
    const char *name; /* NULL ends the table */
    enum field_type type;
    size_t offset; /* of the field in the struct */
    bool required;
    int64_t min;
    int64_t max;
    const char *const *words; /* FIELD_WORD: ends with NULL */
};

/* FIELD(struct the_target, "name", FIELD_TYPE, its_field, .required = true, .max = 9, ...) */
/* clang-format off */
#define FIELD(target, key, kind, member, ...)                                                      \
    {.name = (key), .type = (kind), .offset = offsetof(target, member), __VA_ARGS__}
#define FIELD_END {.name = NULL}
/* clang-format on */

/*
 * Fill `out` from `obj`, which stands at `at`. 0, or -1 with at least one problem added; the
 * fields that were right are filled all the same, so that a caller can go on looking for mistakes.
 */
int fields_read(const cJSON *obj, const struct pointer *at, const struct field *fields, void *out,
                struct problem_list *problems);

/* http or https, a host, no user or password, no fragment, no space, at most 2048 bytes. */
bool fields_is_url(const char *text);

/* The name of an environment variable: [A-Za-z_][A-Za-z0-9_]*, at most 128 bytes. */
bool fields_is_env_name(const char *text);
