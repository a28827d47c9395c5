/* The life of a connection: reading, queued output, deadlines, closing. See httpd_conn.h. */
#include "httpd_conn.h"

#include "hook.h"
#include "mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct flight {
    uv_write_t write;
    struct conn *conn;
    char *data;
};

static const enum conn_due due_of[] = {
    [CONN_IDLE] = DUE_IDLE,     [CONN_HEAD] = DUE_HEAD,   [CONN_BODY] = DUE_BODY,
    [CONN_BUSY] = DUE_NONE,     [CONN_STREAM] = DUE_NONE, [CONN_FLUSH] = DUE_FLUSH,
    [CONN_LINGER] = DUE_LINGER, [CONN_WS] = DUE_PING,     [CONN_WS_CLOSING] = DUE_LINGER,
    [CONN_CLOSED] = DUE_NONE,
};

static void conn_arm(struct conn *c)
{
    enum conn_due due = due_of[c->state];

    list_remove(&c->due);
    if (due == DUE_NONE)
        return;
    c->due_at = uv_now(c->httpd->loop) + c->httpd->span_ms[due];
    list_append(&c->httpd->due[due], &c->due);
}

void conn_enter(struct conn *c, enum conn_state state)
{
    assert(c->state != CONN_CLOSED);
    c->state = state;
    hook_state("conn", (int)state);
    conn_arm(c);
}

void conn_soon(struct conn *c)
{
    struct httpd *httpd = c->httpd;

    if (!list_is_empty(&c->soon))
        return;
    list_append(&httpd->soon, &c->soon);
    httpd_later(httpd);
}

static void conn_forget_head(struct conn *c)
{
    free(c->head_memory);
    c->head_memory = NULL;
    c->head = (struct httpd_head){0};
    buf_release(&c->body);
    buf_release(&c->extra);
}

static void conn_try_free(struct conn *c)
{
    if (!c->closed || c->held || c->ws || c->pinned)
        return;
    list_remove(&c->all);
    list_remove(&c->due);
    list_remove(&c->soon);
    conn_forget_head(c);
    buf_release(&c->in);
    buf_release(&c->out);
    free(c);
}

void conn_forget(struct conn *c)
{
    c->held = false;
    c->gone = c->writable = NULL;
    conn_try_free(c);
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;
    struct httpd *httpd = c->httpd;

    c->closed = true;
    httpd->counters.conns--;
    list_remove(&c->all);
    list_append(&httpd->orphans, &c->all);
    conn_try_free(c);
    httpd_check_drained(httpd);
}

void conn_drop(struct conn *c, bool reset)
{
    if (c->state == CONN_CLOSED)
        return;
    conn_enter(c, CONN_CLOSED);
    if (!reset || uv_tcp_close_reset(&c->tcp, on_closed) < 0)
        uv_close((uv_handle_t *)&c->tcp, on_closed);
    if ((c->held && c->gone) || c->ws)
        conn_soon(c);
}

/* The peer has left: with FIN, RST, or in silence. A half-closed one may still want its answer. */
static void conn_peer_left(struct conn *c, bool half)
{
    c->eof = true;
    switch (c->state) {
    case CONN_BUSY:
    case CONN_STREAM:
        if (half && !c->gone)
            return;
        break;
    case CONN_FLUSH:
        if (half)
            return;
        break;
    default:
        break;
    }
    conn_drop(c, false);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    struct conn *c = handle->data;

    (void)suggested;
    *ret_buf = uv_buf_init(c->httpd->read, CONN_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = stream->data;

    if (n > 0)
        conn_input(c, buf->base, (size_t)n);
    else if (n < 0)
        conn_peer_left(c, n == UV_EOF);
}

/* Reading stops while too much waits behind a request in hand; a FIN is not seen meanwhile. */
static void conn_set_reading(struct conn *c)
{
    bool full = c->in.len >= CONN_PIPELINE_BYTES &&
                (c->state == CONN_BUSY || c->state == CONN_STREAM || c->state == CONN_FLUSH);

    if (c->state == CONN_CLOSED || c->eof)
        return;
    if (full)
        uv_read_stop((uv_stream_t *)&c->tcp);
    else
        (void)uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read); /* UV_EALREADY is fine */
}

void conn_settle(struct conn *c)
{
    if (c->pumping)
        return; /* comes when the pump has stopped; until then `in` is being read */
    switch (c->state) {
    case CONN_IDLE:
    case CONN_HEAD:
    case CONN_BODY:
    case CONN_WS:
    case CONN_WS_CLOSING:
        if (c->eof)
            conn_drop(c, false); /* the rest will never come */
        break;
    case CONN_LINGER:
        buf_release(&c->in);
        break;
    default:
        break;
    }
    conn_set_reading(c);
}

void conn_open(struct httpd *httpd, int fd, const char *peer, bool refuse)
{
    struct conn *c = xcalloc(1, sizeof(*c));
    int result;

    c->httpd = httpd;
    list_init(&c->all);
    list_init(&c->due);
    list_init(&c->soon);
    buf_init(&c->in, httpd->conf.max_head_bytes + CONN_PIPELINE_BYTES + CONN_READ_BYTES);
    buf_init(&c->body, httpd->conf.max_body_bytes);
    buf_init(&c->extra, CONN_EXTRA_BYTES);
    buf_init(&c->out, BUF_MAX);
    memccpy(c->peer, peer, '\0', sizeof(c->peer) - 1);
    list_append(&httpd->conns, &c->all);
    httpd->counters.conns++;
    httpd->counters.accepted++;
    uv_tcp_init(httpd->loop, &c->tcp);
    c->tcp.data = c;
    result = uv_tcp_open(&c->tcp, fd);
    if (result < 0)
        close(fd);
    conn_enter(c, CONN_IDLE);
    if (result < 0) {
        conn_drop(c, false);
        return;
    }
    if (refuse) {
        (void)buf_puts(&c->extra, "Retry-After: 1\r\n");
        conn_refuse(c, 429, "too many connections");
    }
    conn_set_reading(c);
}

size_t conn_queued(const struct conn *c)
{
    return c->out.len + (c->flight ? c->tcp.write_queue_size : 0);
}

static void on_written(uv_write_t *write, int status);

static void conn_take_off(struct conn *c)
{
    struct flight *flight = xcalloc(1, sizeof(*flight));
    uv_buf_t buf = uv_buf_init(c->out.data, (unsigned int)c->out.len);

    flight->conn = c;
    flight->data = buf.base = buf_detach(&c->out);
    c->flight = flight;
    if (uv_write(&flight->write, (uv_stream_t *)&c->tcp, &buf, 1, on_written) == 0)
        return;
    c->flight = NULL;
    free(flight->data);
    free(flight);
    conn_drop(c, true);
}

static void on_written(uv_write_t *write, int status)
{
    struct flight *flight = container_of(write, struct flight, write);
    struct conn *c = flight->conn;

    free(flight->data);
    free(flight);
    c->flight = NULL;
    if (c->state == CONN_CLOSED)
        return;
    if (status < 0)
        conn_peer_left(c, false);
    else if (c->out.len > 0)
        conn_take_off(c);
    else if (c->state == CONN_FLUSH)
        conn_answered(c);
    else if (c->held && c->writable)
        c->writable(&c->req);
}

/* The kernel is asked first; only what it refuses is copied. */
int conn_send(struct conn *c, uv_buf_t *bufs, unsigned int n)
{
    int taken = 0;
    size_t skip;

    if (c->state == CONN_CLOSED)
        return -1;
    if (!c->flight && c->out.len == 0) {
        taken = uv_try_write((uv_stream_t *)&c->tcp, bufs, n);
        if (taken < 0 && taken != UV_EAGAIN) {
            conn_peer_left(c, false);
            return -1;
        }
    }
    skip = taken > 0 ? (size_t)taken : 0;
    for (unsigned int i = 0; i < n; i++) {
        size_t drop = skip < bufs[i].len ? skip : bufs[i].len;

        skip -= drop;
        c->httpd->counters.bytes_out += bufs[i].len;
        if (buf_append(&c->out, bufs[i].base + drop, bufs[i].len - drop) < 0) {
            conn_drop(c, true);
            return -1;
        }
    }
    if (!c->flight && c->out.len > 0)
        conn_take_off(c);
    return c->state == CONN_CLOSED ? -1 : 0;
}

/*
 * Nothing more will be said. Closing a socket with unread input makes the kernel send RST, which
 * can overtake the answer: therefore FIN first, and what still comes is swallowed for a while.
 */
static void conn_finish(struct conn *c)
{
    int fd;

    if (c->eof || (!c->linger && c->in.len == 0) || uv_fileno((uv_handle_t *)&c->tcp, &fd) < 0) {
        conn_drop(c, false);
        return;
    }
    (void)shutdown(fd, SHUT_WR); /* fails when the peer is gone already; reading tells */
    conn_enter(c, CONN_LINGER);
    conn_settle(c);
}

void conn_answered(struct conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    conn_forget_head(c);
    if (conn_queued(c) > 0) {
        if (c->state != CONN_FLUSH)
            conn_enter(c, CONN_FLUSH);
        c->was_queued = conn_queued(c);
        return;
    }
    if (!c->keep || c->httpd->draining) {
        conn_finish(c);
        return;
    }
    conn_enter(c, CONN_IDLE);
    if (!c->pumping && (c->in.len > 0 || c->eof))
        conn_soon(c);
}

void conn_expired(struct conn *c)
{
    switch (c->state) {
    case CONN_HEAD:
        conn_refuse(c, 408, "the request head did not come in time");
        break;
    case CONN_BODY:
        conn_refuse(c, 408, "the request body did not come in time");
        break;
    case CONN_FLUSH:
        if (conn_queued(c) < c->was_queued) {
            c->was_queued = conn_queued(c);
            conn_arm(c);
            break;
        }
        c->httpd->counters.slow++;
        conn_drop(c, true);
        break;
    case CONN_WS:
        conn_arm(c);
        conn_ws_ping(c);
        break;
    default:
        conn_drop(c, false);
        break;
    }
}

static void conn_tell_gone(struct conn *c)
{
    void (*gone)(struct httpd_req *) = c->gone;

    if (!c->held || !gone)
        return;
    c->gone = c->writable = NULL;
    c->httpd->counters.gone++;
    gone(&c->req);
    c->held = false; /* unless gone() has ended it itself */
}

void conn_run_soon(struct conn *c)
{
    c->pinned = true;
    if (c->held && c->gone && c->eof)
        conn_drop(c, false); /* watched after the peer had left */
    if (c->ws && c->state != CONN_WS && c->state != CONN_WS_CLOSING)
        conn_ws_over(c);
    if (c->state == CONN_CLOSED)
        conn_tell_gone(c);
    else
        conn_resume(c);
    c->pinned = false;
    conn_try_free(c);
}
