/*
 * Before the stream begins the task is looked up, so that a missing one is a 404 and a cursor at
 * the end of a task that is over gets a stream that ends at once.
 */
#include "events.h"

#include "hub.h"
#include "park.h"
#include "reply.h"
#include "store_task.h"
#include "tasks.h"

#include <stdlib.h>
#include <string.h>

/* The query wins over the header, which EventSource sends by itself. */
static int read_cursor(struct request *r, int64_t *ret_after)
{
    const char *after = query_get(&r->query, "after");
    const char *last = httpd_header(r->http, "last-event-id");

    *ret_after = 0;
    if (after && !query_parse_seq(after, ret_after))
        reply_fault(r, FAULT_INVALID_REQUEST, "after must be the seq of an event, or 0");
    else if (!after && last && *last && !query_parse_seq(last, ret_after))
        reply_fault(r, FAULT_INVALID_REQUEST, "Last-Event-ID must be the seq of an event");
    else
        return 0;
    return -1;
}

static int check_format(struct request *r)
{
    const char *format = query_get(&r->query, "format");

    if (!format || strcmp(format, "native") == 0)
        return 0;
    reply_fault(r, FAULT_INVALID_REQUEST, "format \"%.40s\" is not supported, only \"native\"",
                format);
    return -1;
}

static void begin(struct request *r)
{
    static const char retry[] = "retry: 1000\n\n";

    (void)httpd_set(r->http, "Cache-Control", "no-store");
    (void)httpd_set(r->http, "X-Accel-Buffering", "no");
    request_stream(r, 200, "text/event-stream");
    (void)httpd_write(r->http, retry, sizeof(retry) - 1); /* a failure shows at the next one */
}

static void on_peeked(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    struct err bad = *err;
    int64_t after = 0, last = 0;
    bool terminal;

    if (bad.code != ERR_OK || store_read_peek(res, &terminal, &last, &bad) < 0) {
        reply_err(r, &bad);
        return;
    }
    if (r->api->draining) {
        reply_fault(r, FAULT_UNAVAILABLE, "this process is stopping; ask another one");
        return;
    }
    if (read_cursor(r, &after) < 0)
        return; /* cannot be: it was read before */
    begin(r);
    if ((terminal && after >= last) || strcmp(r->http->method, "HEAD") == 0) {
        httpd_end(r->http);
        request_over(r);
        return;
    }
    /* A cursor in the future names no event that anybody has seen: go on from what there is. */
    hub_subscribe(r->api->hub, r, r->params[0], after < last ? after : last);
}

void task_events(struct request *r)
{
    int64_t after;

    if (task_take_id(r) < 0 || check_format(r) < 0 || read_cursor(r, &after) < 0 ||
        park_enter(r, PARK_SUBSCRIBER) < 0)
        return;
    store_task_peek(pgpool_pick(r->api->pool), &r->call, r->params[0], on_peeked, r);
}
