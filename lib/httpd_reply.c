/* Answers: whole ones, streams, and the error replies of the module itself. */
#include "httpd_conn.h"

#include "clock.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static struct conn *conn_of(struct httpd_req *req)
{
    return container_of(req, struct conn, req);
}

static const struct conn *conn_of_const(const struct httpd_req *req)
{
    return (const struct conn *)((const char *)req - offsetof(struct conn, req));
}

/* libuv only reads what is sent, but its type does not say so. */
static uv_buf_t buf_of(const void *bytes, size_t len)
{
    union {
        const void *in;
        char *out;
    } base = {.in = bytes};

    return (uv_buf_t){.base = base.out, .len = len};
}

static const char *status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } texts[] = {
        {200, "OK"                             },
        {201, "Created"                        },
        {202, "Accepted"                       },
        {204, "No Content"                     },
        {206, "Partial Content"                },
        {301, "Moved Permanently"              },
        {302, "Found"                          },
        {303, "See Other"                      },
        {304, "Not Modified"                   },
        {307, "Temporary Redirect"             },
        {308, "Permanent Redirect"             },
        {400, "Bad Request"                    },
        {401, "Unauthorized"                   },
        {403, "Forbidden"                      },
        {404, "Not Found"                      },
        {405, "Method Not Allowed"             },
        {406, "Not Acceptable"                 },
        {408, "Request Timeout"                },
        {409, "Conflict"                       },
        {410, "Gone"                           },
        {411, "Length Required"                },
        {412, "Precondition Failed"            },
        {413, "Content Too Large"              },
        {414, "URI Too Long"                   },
        {415, "Unsupported Media Type"         },
        {416, "Range Not Satisfiable"          },
        {417, "Expectation Failed"             },
        {422, "Unprocessable Content"          },
        {425, "Too Early"                      },
        {426, "Upgrade Required"               },
        {428, "Precondition Required"          },
        {429, "Too Many Requests"              },
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"          },
        {501, "Not Implemented"                },
        {502, "Bad Gateway"                    },
        {503, "Service Unavailable"            },
        {504, "Gateway Timeout"                },
        {505, "HTTP Version Not Supported"     },
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "Unknown";
}

static const char *date_text(struct httpd *httpd)
{
    int64_t now_s = clock_wall_us() / 1000000;
    time_t seconds = (time_t)now_s;
    struct tm utc;

    if (now_s != httpd->date_s) {
        httpd->date_s = now_s;
        gmtime_r(&seconds, &utc);
        strftime(httpd->date, sizeof(httpd->date), "%a, %d %b %Y %H:%M:%S GMT", &utc);
    }
    return httpd->date;
}

/* Every answer has a dozen: printf would cost more than all else that is done for it. */
static int put_header(struct buf *out, const char *name, const char *value)
{
    size_t before = out->len;

    if (buf_puts(out, name) == 0 && buf_append(out, ": ", 2) == 0 && buf_puts(out, value) == 0 &&
        buf_append(out, "\r\n", 2) == 0)
        return 0;
    buf_truncate(out, before);
    return -1;
}

static bool has_no_body(int status)
{
    return status < 200 || status == 204 || status == 304;
}

static bool is_head(const struct conn *c)
{
    return c->head.method && strcmp(c->head.method, "HEAD") == 0;
}

/* Everything but the framing and the empty line, into httpd->scratch. */
static struct buf *put_head(struct conn *c, int status, const char *type)
{
    struct buf *out = &c->httpd->scratch;

    if (c->httpd->draining)
        c->keep = false;
    buf_reset(out);
    (void)buf_printf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, status_text(status),
                     date_text(c->httpd));
    if (type)
        (void)put_header(out, "Content-Type", type);
    (void)buf_append(out, c->extra.data, c->extra.len);
    if (!c->keep)
        (void)buf_puts(out, "Connection: close\r\n");
    else if (c->head.minor == 0)
        (void)buf_puts(out, "Connection: keep-alive\r\n");
    return out;
}

static void conn_answer(struct conn *c, int status, const char *type, const void *body, size_t len)
{
    struct buf *out;
    uv_buf_t bufs[2];

    if (c->state == CONN_CLOSED) {
        conn_forget(c);
        return;
    }
    c->held = false;
    c->gone = c->writable = NULL;
    out = put_head(c, status, type);
    if (!has_no_body(status))
        (void)buf_printf(out, "Content-Length: %zu\r\n", len);
    (void)buf_puts(out, "\r\n");
    bufs[0] = uv_buf_init(out->data, (unsigned int)out->len);
    bufs[1] = buf_of(body, len);
    if (conn_send(c, bufs, len == 0 || is_head(c) || has_no_body(status) ? 1 : 2) == 0)
        conn_answered(c);
}

void conn_error(struct conn *c, int status, const char *reason)
{
    const struct httpd_conf *conf = &c->httpd->conf;
    const char *type = "application/json";
    char body[1024] = "{}";
    size_t len = 2;

    c->httpd->counters.refused++;
    if (conf->error_body)
        len = conf->error_body(status, reason, body, sizeof(body), &type);
    assert(len <= sizeof(body));
    conn_answer(c, status, type, body, len);
}

void conn_refuse(struct conn *c, int status, const char *reason)
{
    c->keep = false;
    c->linger = true;
    conn_error(c, status, reason);
}

const char *httpd_header(const struct httpd_req *req, const char *lower_name)
{
    return httpd_head_get(&conn_of_const(req)->head, lower_name);
}

const char *httpd_peer(const struct httpd_req *req)
{
    return conn_of_const(req)->peer;
}

int httpd_set(struct httpd_req *req, const char *name, const char *value)
{
    struct conn *c = conn_of(req);

    if (!httpd_is_token(name))
        return -1;
    for (const char *p = value; *p; p++)
        if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f)
            return -1;
    return put_header(&c->extra, name, value);
}

void httpd_reply(struct httpd_req *req, int status, const char *type, const void *body, size_t len)
{
    struct conn *c = conn_of(req);

    assert(c->held && (c->state == CONN_BUSY || c->state == CONN_CLOSED));
    conn_answer(c, status, type, body, len);
}

void httpd_stream(struct httpd_req *req, int status, const char *type)
{
    struct conn *c = conn_of(req);
    struct buf *out;
    uv_buf_t buf;

    assert(c->held && (c->state == CONN_BUSY || c->state == CONN_CLOSED));
    if (c->state == CONN_CLOSED)
        return;
    c->chunked = c->head.minor > 0;
    if (!c->chunked)
        c->keep = false; /* its end is the end of the connection */
    out = put_head(c, status, type);
    (void)buf_puts(out, c->chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    conn_enter(c, CONN_STREAM);
    buf = uv_buf_init(out->data, (unsigned int)out->len);
    (void)conn_send(c, &buf, 1); /* a failure has dropped it, which httpd_write() tells */
}

/* One chunk in one write: two would meet Nagle and delayed acknowledgements somewhere. */
static int conn_send_chunk(struct conn *c, const void *bytes, size_t len)
{
    static char crlf[] = "\r\n";
    char size[24];
    uv_buf_t bufs[3];

    bufs[1] = buf_of(bytes, len);
    if (!c->chunked)
        return conn_send(c, bufs + 1, 1);
    bufs[0] = uv_buf_init(size, (unsigned int)snprintf(size, sizeof(size), "%zx\r\n", len));
    bufs[2] = uv_buf_init(crlf, 2);
    return conn_send(c, bufs, 3);
}

long httpd_write(struct httpd_req *req, const void *bytes, size_t len)
{
    struct conn *c = conn_of(req);

    assert(c->held && (c->state == CONN_STREAM || c->state == CONN_CLOSED));
    if (c->state == CONN_CLOSED)
        return -1;
    if (conn_queued(c) > c->httpd->conf.max_out_bytes) {
        c->httpd->counters.slow++;
        conn_drop(c, true);
        return -1;
    }
    if (len > 0 && !is_head(c) && conn_send_chunk(c, bytes, len) < 0)
        return -1;
    return (long)conn_queued(c);
}

void httpd_end(struct httpd_req *req)
{
    static char last[] = "0\r\n\r\n";
    struct conn *c = conn_of(req);
    uv_buf_t buf = uv_buf_init(last, sizeof(last) - 1);

    assert(c->held && (c->state == CONN_STREAM || c->state == CONN_CLOSED));
    if (c->state == CONN_CLOSED) {
        conn_forget(c);
        return;
    }
    c->held = false;
    c->gone = c->writable = NULL;
    if (!c->chunked || is_head(c) || conn_send(c, &buf, 1) == 0)
        conn_answered(c);
}

void httpd_abort(struct httpd_req *req)
{
    struct conn *c = conn_of(req);

    assert(c->held);
    if (c->state != CONN_CLOSED) {
        c->gone = NULL;
        conn_drop(c, true);
    }
    conn_forget(c);
}

void httpd_watch(struct httpd_req *req, void (*gone)(struct httpd_req *req),
                 void (*writable)(struct httpd_req *req))
{
    struct conn *c = conn_of(req);

    assert(c->held);
    c->gone = gone;
    c->writable = writable;
    if (gone && (c->eof || c->state == CONN_CLOSED) && c->httpd)
        conn_soon(c);
}
