#include "sse.h"

#include <string.h>

#define BOM          "\xEF\xBB\xBF"
#define BOM_BYTES    3
#define SSE_BOM_OVER ((size_t)-1)

void sse_init(struct sse *sse, size_t max_event_bytes, sse_event_fn *on_event, void *owner)
{
    *sse = (struct sse){
        .max_event_bytes = max_event_bytes,
        .on_event = on_event,
        .owner = owner,
    };
    buf_init(&sse->line, max_event_bytes);
    buf_init(&sse->data, max_event_bytes + 1); /* its last '\n' is taken off again */
    buf_init(&sse->event, max_event_bytes);
    buf_init(&sse->id, max_event_bytes);
}

void sse_release(struct sse *sse)
{
    if (!sse->line.data)
        return;
    buf_release(&sse->line);
    buf_release(&sse->data);
    buf_release(&sse->event);
    buf_release(&sse->id);
}

static int too_large(struct sse *sse, struct err *err)
{
    sse->stopped = true;
    return err_set(err, ERR_INVALID, "sse: an event is larger than %zu bytes",
                   sse->max_event_bytes);
}

/* A blank line: the event is whole. */
static int dispatch(struct sse *sse, struct err *err)
{
    int rc = 0;

    if (sse->data.len > 0) {
        buf_truncate(&sse->data, sse->data.len - 1);
        rc = sse->on_event(sse->owner, sse->event.len ? sse->event.data : "message", sse->id.data,
                           sse->data.data, sse->data.len);
    }
    buf_reset(&sse->data);
    buf_reset(&sse->event);
    if (rc == 0)
        return 0;
    sse->stopped = true;
    return err_set(err, ERR_CANCELED, "sse: stopped by its owner");
}

static bool name_is(const char *name, const char *line, size_t len)
{
    return strlen(name) == len && !memcmp(name, line, len);
}

/* The text of `b` becomes `value`; it fits, as the whole line does. */
static void assign(struct buf *b, const char *value, size_t len)
{
    buf_reset(b);
    (void)buf_append(b, value, len);
}

static int take_line(struct sse *sse, const char *line, size_t len, struct err *err)
{
    const char *colon = memchr(line, ':', len), *value = line + len;
    size_t name_len = colon ? (size_t)(colon - line) : len, value_len = 0;

    if (len == 0)
        return dispatch(sse, err);
    if (colon) {
        value = colon + 1;
        if (value < line + len && *value == ' ')
            value++;
        value_len = len - (size_t)(value - line);
    }
    if (name_is("data", line, name_len)) {
        if (buf_append(&sse->data, value, value_len) < 0 || buf_putc(&sse->data, '\n') < 0)
            return too_large(sse, err);
    } else if (name_is("event", line, name_len)) {
        assign(&sse->event, value, value_len);
    } else if (name_is("id", line, name_len) && !memchr(value, '\0', value_len)) {
        assign(&sse->id, value, value_len);
    }
    return 0; /* a comment has the empty name */
}

/* `len` bytes that end a line; what came of it before is in `sse->line`. */
static int end_line(struct sse *sse, const char *bytes, size_t len, struct err *err)
{
    int rc;

    if (sse->line.len + len + sse->data.len > sse->max_event_bytes)
        return too_large(sse, err);
    if (sse->line.len == 0)
        return take_line(sse, bytes, len, err); /* nearly always: nothing is copied */
    (void)buf_append(&sse->line, bytes, len);   /* its limit was checked above */
    rc = take_line(sse, sse->line.data, sse->line.len, err);
    buf_reset(&sse->line);
    return rc;
}

static const char *find_line_end(const char *at, const char *end)
{
    const char *lf = memchr(at, '\n', (size_t)(end - at));
    const char *cr = memchr(at, '\r', (size_t)((lf ? lf : end) - at));

    return cr ? cr : lf;
}

/* Skip a byte order mark at the start of the stream, however it is cut. */
static const char *skip_bom(struct sse *sse, const char *at, const char *end)
{
    while (at < end && sse->bom_bytes < BOM_BYTES && *at == BOM[sse->bom_bytes])
        at++, sse->bom_bytes++;
    if (at == end && sse->bom_bytes < BOM_BYTES)
        return at;
    if (sse->bom_bytes < BOM_BYTES)
        (void)buf_append(&sse->line, BOM, sse->bom_bytes); /* it was none: text after all */
    sse->bom_bytes = SSE_BOM_OVER;
    return at;
}

int sse_feed(struct sse *sse, const char *bytes, size_t len, struct err *err)
{
    const char *at = bytes, *end = bytes + len, *line_end;

    if (sse->stopped)
        return err_set(err, ERR_CANCELED, "sse: stopped");
    if (sse->bom_bytes != SSE_BOM_OVER)
        at = skip_bom(sse, at, end);
    while (at < end) {
        if (sse->after_cr && *at == '\n')
            at++;
        sse->after_cr = false;
        if (at == end)
            break;
        if (!(line_end = find_line_end(at, end))) {
            if (sse->data.len + sse->line.len + (size_t)(end - at) > sse->max_event_bytes)
                return too_large(sse, err);
            (void)buf_append(&sse->line, at, (size_t)(end - at));
            break;
        }
        sse->after_cr = *line_end == '\r';
        if (end_line(sse, at, (size_t)(line_end - at), err) < 0)
            return -1;
        at = line_end + 1;
    }
    return 0;
}

int sse_finish(struct sse *sse)
{
    struct err err;

    if (sse->stopped)
        return -1;
    if (sse->line.len > 0 && end_line(sse, "", 0, &err) < 0)
        return -1;
    return dispatch(sse, &err);
}
