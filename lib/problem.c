#include "problem.h"

#include "json.h"
#include "mem.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A member name of the peer's choice may be part of both texts, so both are cut to size. */
static char *shortened(const char *text)
{
    static const char dots[] = "...";
    size_t len = strlen(text);

    if (len <= PROBLEM_MAX_BYTES)
        return xmemdup(text, len);
    len = utf8_prefix(text, PROBLEM_MAX_BYTES - strlen(dots));
    return xasprintf("%.*s%s", (int)len, text, dots);
}

int problem_add(struct problem_list *list, const struct pointer *at, const char *fmt, ...)
{
    BUF_AUTO(pointer, BUF_MAX);
    struct problem *problem;
    char detail[2 * PROBLEM_MAX_BYTES]; /* more than is kept: shortened() cuts between characters */
    va_list ap;

    if (problem_is_full(list))
        return -1;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    if (pointer_put(&pointer, at) < 0)
        buf_reset(&pointer);
    problem = &list->items[list->n++];
    problem->pointer = shortened(pointer.data);
    problem->detail = shortened(detail);
    return -1;
}

bool problem_is_full(const struct problem_list *list)
{
    return list->n == PROBLEM_MAX;
}

void problem_release(struct problem_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->items[i].pointer);
        free(list->items[i].detail);
    }
    list->n = 0;
}

int problem_put_json(const struct problem_list *list, struct buf *out)
{
    int rc = json_open(out, '[');

    for (size_t i = 0; i < list->n && rc == 0; i++) {
        rc |= json_open(out, '{');
        rc |= json_put_member_str(out, "pointer", list->items[i].pointer);
        rc |= json_put_member_str(out, "detail", list->items[i].detail);
        rc |= json_close(out, '}');
    }
    return rc < 0 ? -1 : json_close(out, ']');
}

int problem_put_text(const struct problem *problem, struct buf *out)
{
    const char *where = *problem->pointer ? problem->pointer : "the document";

    return buf_printf(out, "%s: %s", where, problem->detail);
}
