/*
 * What is wrong with a document someone gave us: all of it at once, each mistake with the place
 * it is at and what was expected there. Shown to clients as errors: [{"pointer", "detail"}].
 *
 * A detail is the end of a sentence about the value: lower case, no full stop ("must be a string").
 * The list is bounded; what does not fit is dropped, because the first mistakes are the ones
 * that get corrected.
 */
#pragma once

#include "buf.h"
#include "pointer.h"

#include <stdbool.h>
#include <stddef.h>

#define PROBLEM_MAX       32  /* problems in a list */
#define PROBLEM_MAX_BYTES 512 /* of a pointer and of a detail; longer ones are cut */

struct problem {
    char *pointer; /* RFC 6901 text, "" for the whole document */
    char *detail;
};

struct problem_list {
    struct problem items[PROBLEM_MAX];
    size_t n;
};

/* PROBLEMS_AUTO(problems): an empty list, released at end of scope. */
#define PROBLEMS_AUTO(name)                                                                        \
    __attribute__((cleanup(problem_release))) struct problem_list name = {.n = 0}

/* Add one; always returns -1, so that a caller can `return problem_add(...)`. */
int problem_add(struct problem_list *list, const struct pointer *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

bool problem_is_full(const struct problem_list *list); /* looking further is a waste */

/* Empty the list and free its texts; it is usable again. */
void problem_release(struct problem_list *list);

/* Write the list as a JSON array [{"pointer","detail"}]. 0, or -1 when `out` is full. */
int problem_put_json(const struct problem_list *list, struct buf *out);

/* One problem as a line for people: "/tools/0/name: must be a string". -1 when `out` is full. */
int problem_put_text(const struct problem *problem, struct buf *out);
