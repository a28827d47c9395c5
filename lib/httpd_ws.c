/*
 * WebSocket (RFC 6455): wslay reads and makes the frames, the connection carries them.
 *
 * wslay has no limits of its own on the number of fragments (it allocates for each) nor on queued
 * pongs (a peer that pings and never reads); both are limited here. What wslay wants to send is
 * collected and sent in one write.
 */
#include "httpd_conn.h"

#include "hash.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>
#include <wslay/wslay.h>

#define MAX_FRAGMENTS  1024 /* of one message */
#define SLICE_BYTES    4096 /* of input between two writes: limits the pongs made meanwhile */
#define CLOSE_TOO_BIG  1009
#define CLOSE_NOT_TEXT 1003

struct httpd_ws {
    struct conn *conn;
    wslay_event_context_ptr wslay;
    struct httpd_ws_cbs cbs;
    void *ud;
    const char *src; /* the input being read */
    size_t src_len;
    unsigned int fragments; /* of the message being read */
    bool heard;             /* something came since the last ping */
};

static ssize_t on_wslay_recv(wslay_event_context_ptr wslay, uint8_t *bytes, size_t len, int flags,
                             void *user_data)
{
    struct httpd_ws *ws = user_data;
    size_t n = len < ws->src_len ? len : ws->src_len;

    (void)flags;
    if (n == 0) {
        wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    memcpy(bytes, ws->src, n);
    ws->src += n;
    ws->src_len -= n;
    return (ssize_t)n;
}

static ssize_t on_wslay_send(wslay_event_context_ptr wslay, const uint8_t *bytes, size_t len,
                             int flags, void *user_data)
{
    struct httpd_ws *ws = user_data;

    (void)wslay, (void)flags;
    (void)buf_append(&ws->conn->httpd->scratch, bytes, len);
    return (ssize_t)len;
}

static void ws_start_close(struct httpd_ws *ws, int code)
{
    (void)wslay_event_queue_close(ws->wslay, (uint16_t)code, NULL, 0); /* or one is queued */
    if (ws->conn->state == CONN_WS)
        conn_enter(ws->conn, CONN_WS_CLOSING);
}

static void on_wslay_frame(wslay_event_context_ptr wslay,
                           const struct wslay_event_on_frame_recv_start_arg *frame, void *user_data)
{
    struct httpd_ws *ws = user_data;

    if (wslay_is_ctrl_frame(frame->opcode))
        return;
    ws->fragments = frame->opcode == WSLAY_CONTINUATION_FRAME ? ws->fragments + 1 : 0;
    if (ws->fragments < MAX_FRAGMENTS)
        return;
    wslay_event_shutdown_read(wslay);
    ws_start_close(ws, CLOSE_TOO_BIG);
}

static void on_wslay_message(wslay_event_context_ptr wslay,
                             const struct wslay_event_on_msg_recv_arg *message, void *user_data)
{
    struct httpd_ws *ws = user_data;

    (void)wslay;
    if (ws->conn->state != CONN_WS)
        return;
    if (message->opcode == WSLAY_BINARY_FRAME)
        ws_start_close(ws, CLOSE_NOT_TEXT);
    else if (message->opcode == WSLAY_TEXT_FRAME)
        ws->cbs.on_text(ws, (const char *)message->msg, message->msg_length);
}

static const struct wslay_event_callbacks wslay_callbacks = {
    .recv_callback = on_wslay_recv,
    .send_callback = on_wslay_send,
    .on_frame_recv_start_callback = on_wslay_frame,
    .on_msg_recv_callback = on_wslay_message,
};

/* Both sides have said what they had to say, or wslay has given up on the peer. */
static void ws_finish(struct httpd_ws *ws)
{
    struct conn *c = ws->conn;

    c->keep = false;
    c->linger = !wslay_event_get_close_received(ws->wslay);
    conn_soon(c); /* on_close() */
    conn_answered(c);
}

/* Send what wslay has queued. Returns -1 when the connection is no longer in a WebSocket state. */
static int ws_flush(struct httpd_ws *ws)
{
    struct conn *c = ws->conn;
    struct buf *scratch = &c->httpd->scratch;
    uv_buf_t buf;

    if (c->state != CONN_WS && c->state != CONN_WS_CLOSING)
        return -1;
    buf_reset(scratch);
    while (wslay_event_want_write(ws->wslay) && wslay_event_send(ws->wslay) == 0)
        ;
    buf = uv_buf_init(scratch->data, (unsigned int)scratch->len);
    if (buf.len > 0 && conn_queued(c) > c->httpd->conf.max_out_bytes) {
        c->httpd->counters.slow++;
        conn_drop(c, true);
        return -1;
    }
    if (buf.len > 0 && conn_send(c, &buf, 1) < 0)
        return -1;
    if (!wslay_event_want_read(ws->wslay) && !wslay_event_want_write(ws->wslay)) {
        ws_finish(ws);
        return -1;
    }
    return 0;
}

/* Takes all of it: what comes behind the end of the conversation is not wanted. */
size_t conn_ws_input(struct conn *c, const char *bytes, size_t len)
{
    struct httpd_ws *ws = c->ws;
    size_t done = 0;

    ws->heard = true;
    while (done < len && (c->state == CONN_WS || c->state == CONN_WS_CLOSING)) {
        ws->src = bytes + done;
        ws->src_len = len - done < SLICE_BYTES ? len - done : SLICE_BYTES;
        done += ws->src_len;
        if (wslay_event_recv(ws->wslay) != 0)
            conn_drop(c, true);
        else
            (void)ws_flush(ws); /* what ends it shows in the state */
    }
    return len;
}

void conn_ws_ping(struct conn *c)
{
    struct wslay_event_msg ping = {.opcode = WSLAY_PING};
    struct httpd_ws *ws = c->ws;

    if (!ws->heard) {
        conn_drop(c, true);
        return;
    }
    ws->heard = false;
    (void)wslay_event_queue_msg(ws->wslay, &ping);
    (void)ws_flush(ws);
}

void conn_ws_over(struct conn *c)
{
    struct httpd_ws *ws = c->ws;

    c->ws = NULL;
    ws->cbs.on_close(ws);
    wslay_event_context_free(ws->wslay);
    free(ws);
}

/* A key is 16 bytes in base64. */
static bool is_key(const char *key)
{
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    return key && strlen(key) == 24 && strspn(key, base64) == 22 && strcmp(key + 22, "==") == 0;
}

static const char *wrong_upgrade(const struct conn *c)
{
    const struct httpd_head *head = &c->head;

    if (strcmp(head->method, "GET") != 0 || head->minor == 0)
        return "a WebSocket begins with GET and HTTP/1.1";
    if (!httpd_has_token(httpd_head_get(head, "connection"), "upgrade") ||
        !httpd_has_token(httpd_head_get(head, "upgrade"), "websocket"))
        return "not a WebSocket upgrade";
    if (head->chunked || head->content_length > 0)
        return "a WebSocket upgrade has no body";
    if (!is_key(httpd_head_get(head, "sec-websocket-key")))
        return "a malformed Sec-WebSocket-Key";
    return NULL;
}

static int ws_send_handshake(struct conn *c, const char *key)
{
    unsigned char digest[HASH_SHA1_BYTES];
    char accept[HASH_BASE64_BYTES(HASH_SHA1_BYTES)];
    struct buf *out = &c->httpd->scratch;
    uv_buf_t buf;

    buf_reset(out);
    (void)buf_printf(out, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    hash_sha1(out->data, out->len, digest);
    hash_base64(digest, sizeof(digest), accept);
    buf_reset(out);
    (void)buf_printf(out,
                     "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                     "Upgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
                     accept, c->extra.data);
    buf = uv_buf_init(out->data, (unsigned int)out->len);
    return conn_send(c, &buf, 1);
}

static struct httpd_ws *ws_new(struct conn *c, const struct httpd_ws_cbs *cbs, void *ud)
{
    struct httpd_ws *ws = xcalloc(1, sizeof(*ws));

    *ws = (struct httpd_ws){.conn = c, .cbs = *cbs, .ud = ud, .heard = true};
    if (wslay_event_context_server_init(&ws->wslay, &wslay_callbacks, ws) != 0)
        abort(); /* out of memory */
    wslay_event_config_set_max_recv_msg_length(ws->wslay, c->httpd->conf.max_body_bytes);
    return ws;
}

struct httpd_ws *httpd_upgrade(struct httpd_req *req, const struct httpd_ws_cbs *cbs, void *ud)
{
    struct conn *c = container_of(req, struct conn, req);
    const char *wrong, *version;

    if (c->state == CONN_CLOSED) {
        conn_forget(c);
        return NULL;
    }
    wrong = wrong_upgrade(c);
    version = httpd_header(req, "sec-websocket-version");
    if (!wrong && (!version || strcmp(version, "13") != 0)) {
        (void)httpd_set(req, "Sec-WebSocket-Version", "13");
        conn_error(c, 426, "the only WebSocket version spoken is 13");
        return NULL;
    }
    if (wrong) {
        conn_error(c, 400, wrong);
        return NULL;
    }
    c->held = false;
    c->gone = c->writable = NULL;
    c->ws = ws_new(c, cbs, ud);
    conn_enter(c, CONN_WS);
    if (ws_send_handshake(c, httpd_header(req, "sec-websocket-key")) == 0 &&
        (c->in.len > 0 || c->eof))
        conn_soon(c);
    return c->ws;
}

long httpd_ws_send(struct httpd_ws *ws, const char *text, size_t len)
{
    struct wslay_event_msg message = {
        .opcode = WSLAY_TEXT_FRAME, .msg = (const uint8_t *)text, .msg_length = len};

    if (ws->conn->state != CONN_WS || wslay_event_queue_msg(ws->wslay, &message) != 0)
        return -1;
    return ws_flush(ws) < 0 ? -1 : (long)conn_queued(ws->conn);
}

void httpd_ws_close(struct httpd_ws *ws, int code)
{
    if (ws->conn->state != CONN_WS)
        return;
    ws_start_close(ws, code);
    (void)ws_flush(ws);
}

void *httpd_ws_ud(struct httpd_ws *ws)
{
    return ws->ud;
}
