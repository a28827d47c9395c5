/*
 * Lists in pages: the parameter `limit` (1..200, default 50) and rows of a key and JSON text each.
 * One row more than wanted is asked for, so that a last page is known to be the last. A page may
 * have fewer rows than asked for, even none, and yet be followed by another: then its last row is
 * the key alone, behind which that begins.
 */
#pragma once

#include "request.h"

#define PAGE_LIMIT 50

struct page {
    int64_t limit;
    const char *name;   /* "tasks" */
    const char *cursor; /* parameter that takes the last key: "before" */
    struct buf next;    /* path of the next page with '?' or '&' at its end */
};

/* Read `limit` and begin `page->next` with the request's path. -1: answered, `r` is gone. */
int page_init(struct page *page, struct request *r, const char *name, const char *cursor);
void page_release(struct page *page);

/* The answer of a list's statement: {"NAME":[...],"next"?: "..."}, `next` with the filters of the
 * request, or the error. Replies, `r` is gone. */
void page_answer(struct request *r, const char *name, const char *cursor, PGresult *res,
                 const struct err *err);
