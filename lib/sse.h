/*
 * Server-sent events, read as they arrive (WHATWG HTML, 9.2.6). Pure: bytes in, events out.
 *
 * Lines may end with LF, CR or CRLF, in any mix and cut anywhere; a byte order mark at the start
 * and comments are skipped, several `data` lines are joined with '\n', unknown fields and `retry`
 * are ignored. An event is given out at its blank line. One that the stream ended in is dropped,
 * as the standard wants, unless sse_finish() asks for it: some servers leave the last blank line
 * out.
 *
 *   sse_init(&sse, 1 << 20, on_event, owner);
 *   while bytes come: if (sse_feed(&sse, bytes, len, &err) < 0) ...
 *   sse_finish(&sse);     only if a last event without its blank line counts
 *   sse_release(&sse);
 */
#pragma once

#include "buf.h"
#include "err.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * One event. `event` is "message" when the stream gave none; `id` is the last one seen, which
 * holds for later events too, "" when there was none. `data` has a '\0' behind its `len` bytes.
 * All are valid until it returns. Return 0, or -1 to stop. It must not release the parser.
 */
typedef int sse_event_fn(void *owner, const char *event, const char *id, const char *data,
                         size_t len);

struct sse {
    struct buf line; /* begun, its end has not come; empty while lines come whole */
    struct buf data;
    struct buf event;
    struct buf id;
    size_t max_event_bytes;
    size_t bom_bytes; /* of the byte order mark seen so far; huge when past it */
    bool after_cr;    /* a LF that comes now belongs to the CR before it */
    bool stopped;
    sse_event_fn *on_event;
    void *owner;
};

/* `max_event_bytes` bounds the memory held for one event: its data and the line being read. */
void sse_init(struct sse *sse, size_t max_event_bytes, sse_event_fn *on_event, void *owner);

/*
 * 0, or -1: ERR_INVALID when an event is too large, ERR_CANCELED when `on_event` stopped it. After
 * that, no more events come.
 */
int sse_feed(struct sse *sse, const char *bytes, size_t len, struct err *err);

/* The stream is over: give out what is left, an unfinished last line too. 0, or -1 as above. */
int sse_finish(struct sse *sse);

/* Free the memory. Harmless on a zeroed parser. */
void sse_release(struct sse *sse);
