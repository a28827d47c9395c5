/* From bytes to a request: head scan, llhttp for the body's framing, hand-over to the handler. */
#include "httpd_conn.h"

#include "mem.h"

#include <assert.h>
#include <string.h>

static struct conn *conn_of(llhttp_t *parser)
{
    return parser->data;
}

/*
 * A refusal found in here is only noted: answering would free what the parser stands on. It is
 * acted upon when llhttp_execute() has returned.
 */
static int refuse_later(llhttp_t *parser, int status, const char *reason)
{
    struct conn *c = conn_of(parser);

    if (!c->refused) {
        c->refused = status;
        c->reason = reason;
    }
    llhttp_set_error_reason(parser, reason);
    return HPE_USER;
}

static int on_headers_complete(llhttp_t *parser)
{
    conn_of(parser)->keep = llhttp_should_keep_alive(parser);
    parser->upgrade = 0; /* granted by the handler or not at all; until then it is plain HTTP */
    return 0;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct conn *c = conn_of(parser);

    if (buf_append(&c->body, at, len) < 0)
        return refuse_later(parser, 413, "the request body is too large");
    return 0;
}

static int on_trailer(llhttp_t *parser, const char *at, size_t len)
{
    (void)at, (void)len;
    if (parser->flags & F_TRAILING)
        return refuse_later(parser, 400, "trailers are not accepted");
    return 0;
}

static int on_extension(llhttp_t *parser, const char *at, size_t len)
{
    (void)at, (void)len;
    return refuse_later(parser, 400, "chunk extensions are not accepted");
}

static int on_message_complete(llhttp_t *parser)
{
    conn_of(parser)->complete = true;
    return HPE_PAUSED; /* what follows is the next request */
}

static const llhttp_settings_t settings = {
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_header_field = on_trailer,
    .on_chunk_extension_name = on_extension,
    .on_chunk_extension_value = on_extension,
    .on_message_complete = on_message_complete,
};

/* Feed the parser. Returns how many bytes belong to this request, or -1 when it was refused. */
static long conn_parse(struct conn *c, const char *bytes, size_t len)
{
    llhttp_errno_t result = llhttp_execute(&c->parser, bytes, len);

    if (result == HPE_OK)
        return (long)len;
    if (result == HPE_PAUSED && c->complete)
        return llhttp_get_error_pos(&c->parser) - bytes;
    if (c->refused)
        conn_refuse(c, c->refused, c->reason);
    else if (result == HPE_INVALID_METHOD)
        conn_refuse(c, 501, "an unknown method");
    else
        conn_refuse(c, 400, llhttp_get_error_reason(&c->parser));
    return -1;
}

static void conn_dispatch(struct conn *c)
{
    struct httpd *httpd = c->httpd;

    c->req = (struct httpd_req){
        .method = c->head.method,
        .path = c->head.path,
        .query = c->head.query,
        .body = c->body.data,
        .body_len = c->body.len,
    };
    c->held = true;
    conn_enter(c, CONN_BUSY);
    httpd->counters.requests++;
    httpd->conf.on_request(&c->req, httpd->conf.owner);
}

/* The fields of the head and a copy of its text, in one block. 0, or the status to refuse with. */
static int conn_copy_head(struct conn *c, const char *bytes)
{
    size_t fields_size = c->scan.fields * sizeof(struct httpd_field);
    char *block = xcalloc(1, fields_size + c->scan.pos + 1);

    memcpy(block + fields_size, bytes, c->scan.pos);
    c->head_memory = block;
    return httpd_head_read(&c->head, block + fields_size, c->scan.pos,
                           (struct httpd_field *)(void *)block, &c->reason);
}

/* 100 only when the client really waits; one that already sends needs no invitation. */
static int conn_invite(struct conn *c)
{
    static char invite[] = "HTTP/1.1 100 Continue\r\n\r\n";
    uv_buf_t buf = uv_buf_init(invite, sizeof(invite) - 1);

    return conn_send(c, &buf, 1);
}

static size_t conn_take_head(struct conn *c, const char *bytes, size_t len)
{
    int found = httpd_scan(&c->scan, bytes, len, c->httpd->conf.max_head_bytes, &c->reason);
    size_t head_bytes = c->scan.pos;

    if (found == HTTPD_SCAN_MORE)
        return 0;
    if (found == HTTPD_SCAN_WHOLE)
        found = conn_copy_head(c, bytes);
    if (found == 0 && c->head.content_length > c->httpd->conf.max_body_bytes) {
        found = 413;
        c->reason = "the request body is too large";
    }
    if (found) {
        conn_refuse(c, found, c->reason);
        return 0;
    }
    if (conn_parse(c, bytes, head_bytes) < 0)
        return 0;
    if (c->complete) {
        conn_dispatch(c);
        return head_bytes;
    }
    conn_enter(c, CONN_BODY);
    if (c->head.expect_continue && len == head_bytes)
        (void)conn_invite(c); /* a peer that left is noticed by reading */
    return head_bytes;
}

/* Framing counts too, or an endless row of tiny chunks would cost more than the limit allows. */
static size_t conn_take_body(struct conn *c, const char *bytes, size_t len)
{
    long used = conn_parse(c, bytes, len);

    if (used < 0)
        return 0;
    c->body_bytes += (size_t)used;
    if (c->complete)
        conn_dispatch(c);
    else if (c->body_bytes / 8 > c->body.len + c->httpd->conf.max_head_bytes)
        conn_refuse(c, 413, "the request body is mostly framing");
    return (size_t)used;
}

/* Empty lines before a request are skipped (RFC 9112 2.2), without starting its deadline. */
static size_t conn_take_first(struct conn *c, const char *bytes, size_t len)
{
    if (bytes[0] == '\r' && (len == 1 || bytes[1] == '\n'))
        return len == 1 ? 0 : 2;
    c->scan = (struct httpd_scan){0};
    c->body_bytes = 0;
    c->refused = 0;
    c->complete = c->keep = c->linger = false;
    llhttp_init(&c->parser, HTTP_REQUEST, &settings);
    c->parser.data = c;
    conn_enter(c, CONN_HEAD);
    return conn_take_head(c, bytes, len);
}

static size_t conn_take(struct conn *c, const char *bytes, size_t len)
{
    switch (c->state) {
    case CONN_IDLE:
        return conn_take_first(c, bytes, len);
    case CONN_HEAD:
        return conn_take_head(c, bytes, len);
    case CONN_BODY:
        return conn_take_body(c, bytes, len);
    case CONN_WS:
    case CONN_WS_CLOSING:
        return conn_ws_input(c, bytes, len);
    default:
        return 0;
    }
}

/* A loop and not recursion: 2,000 pipelined requests are answered from one read. */
static size_t conn_pump(struct conn *c, const char *bytes, size_t len)
{
    size_t used = 0, n = 1;

    assert(!c->pumping);
    c->pumping = true;
    while (used < len && n > 0) {
        n = conn_take(c, bytes + used, len - used);
        used += n;
    }
    c->pumping = false;
    return used;
}

void conn_resume(struct conn *c)
{
    if (c->in.len > 0)
        buf_drop_front(&c->in, conn_pump(c, c->in.data, c->in.len));
    if (c->in.len == 0)
        buf_release(&c->in);
    conn_settle(c);
}

/* More than a lingering peer may still send: it is not about to stop. */
static void conn_swallow(struct conn *c, size_t len)
{
    c->swallowed += len;
    if (c->swallowed > ((size_t)1 << 20) + c->httpd->conf.max_body_bytes)
        conn_drop(c, false);
}

void conn_input(struct conn *c, const char *bytes, size_t len)
{
    size_t used;

    if (c->state == CONN_LINGER) {
        conn_swallow(c, len);
        return;
    }
    if (c->in.len > 0) {
        if (buf_append(&c->in, bytes, len) < 0)
            conn_drop(c, true);
        else
            conn_resume(c);
        return;
    }
    used = conn_pump(c, bytes, len);
    if (used < len && buf_append(&c->in, bytes + used, len - used) < 0)
        conn_drop(c, true);
    conn_settle(c);
}
