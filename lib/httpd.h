/*
 * The HTTP/1.1 and WebSocket server: uv_tcp + llhttp (grammar) + wslay (frames).
 *
 * A handler gets a whole request, keeps the `struct httpd_req *` as long as it likes and answers
 * now or from any later callback. One request at a time per connection; pipelined bytes wait.
 *
 * After httpd_reply() or httpd_end(), or once gone() has returned, the request is dead. gone()
 * comes exactly once, never from inside a call into this module, and not after httpd_reply() or
 * httpd_end(). Everything a peer sizes has a limit in `struct httpd_conf`.
 */
#pragma once

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct httpd;    /* opaque: one listener */
struct httpd_ws; /* opaque: one open WebSocket */

/* One exchange, read-only for handlers. Strings live as long as the request. */
struct httpd_req {
    const char *method; /* "GET", upper case */
    const char *path;   /* as sent, without the query; begins with '/', or is "*" */
    const char *query;  /* behind the '?', "" when there is none */
    const char *body;   /* '\0' behind `body_len` bytes */
    size_t body_len;
    void *ud; /* the handler's */
};

typedef void httpd_request_fn(struct httpd_req *req, void *owner);

struct httpd_conf {
    const char *host;      /* numeric address, IPv4 or IPv6 */
    int port;              /* 0: any free one, see httpd_port() */
    size_t max_head_bytes; /* 431 above */
    size_t max_body_bytes; /* 413 above */
    size_t max_out_bytes;  /* queued for a stream's reader; one above it is dropped */
    size_t max_conns;      /* 429 above; lowered to what RLIMIT_NOFILE leaves at httpd_open() */
    uint64_t head_ms;      /* 408: time for a whole head */
    uint64_t body_ms;      /* 408: time for a whole body */
    uint64_t idle_ms;      /* closes an idle connection, or one that stops reading */
    httpd_request_fn *on_request;
    /*
     * Body of an error reply that this module makes itself (400, 408, 413, 414, 417, 429, 431,
     * 501, 505): write at most `size` bytes of a body into `ret_body`, return its length, set
     * `*ret_type`. NULL: an empty JSON object.
     */
    size_t (*error_body)(int status, const char *reason, char *ret_body, size_t size,
                         const char **ret_type);
    void *owner;
};

struct httpd_counters {
    uint64_t conns;    /* open now */
    uint64_t accepted; /* connections since start */
    uint64_t requests; /* whole requests handed to on_request */
    uint64_t refused;  /* requests answered 4xx/5xx by this module */
    uint64_t gone;     /* watched requests whose peer left */
    uint64_t slow;     /* peers dropped because they did not read */
    uint64_t bytes_out;
};

/* NULL on failure: ERR_CONFLICT when the address is in use, ERR_INVALID when it is no address. */
struct httpd *httpd_open(uv_loop_t *loop, const struct httpd_conf *conf, struct err *err);
int httpd_port(const struct httpd *httpd);
void httpd_count(const struct httpd *httpd, struct httpd_counters *ret_counters);

/*
 * Stop accepting and let requests finish with Connection: close (WebSockets get 1001); close idle
 * connections a little later, because the next request may be on its way already and clients do
 * not send it again, and call `quiet` then, which may be NULL: no new ones are to be expected.
 * Close the rest after `grace_ms`, free the server, then call `done`.
 */
void httpd_drain(struct httpd *httpd, uint64_t grace_ms, void (*quiet)(void *owner),
                 void (*done)(void *owner), void *owner);

/* A header of the request by its lower-case name; NULL when absent, "" when empty. */
const char *httpd_header(const struct httpd_req *req, const char *lower_name);

/* The peer's address as text, for logs. */
const char *httpd_peer(const struct httpd_req *req);

/*
 * Add a header to the answer to come; -1 for a bad name, for a value with control characters (no
 * response splitting) and above 16 KiB in all. Date, Connection, Content-Type and the framing are
 * the module's own.
 */
int httpd_set(struct httpd_req *req, const char *name, const char *value);

/* Answer with a whole body (copied); `type` may be NULL for an answer without a body. */
void httpd_reply(struct httpd_req *req, int status, const char *type, const void *body, size_t len);

/*
 * Answer with a stream: chunked, or close-delimited for HTTP/1.0. The head is sent at once.
 * httpd_write() returns the bytes now queued for the peer, or -1 when it was dropped as too slow
 * or has left: gone() follows, and without one the stream is still to be ended. A peer is too
 * slow when more than `max_out_bytes` were queued before the write; one write may pass the limit.
 * httpd_end() finishes properly; httpd_abort() resets the connection, so that the client sees a
 * cut and not an early clean end. A request that is not answered at all may be aborted, too.
 */
void httpd_stream(struct httpd_req *req, int status, const char *type);
long httpd_write(struct httpd_req *req, const void *bytes, size_t len);
void httpd_end(struct httpd_req *req);
void httpd_abort(struct httpd_req *req);

/*
 * "Waiting is pointless without the client": be told when it leaves (FIN counts: a client that
 * half-closes cannot be told from one that closed) and, when `writable` is not NULL, when what
 * was queued has been taken by the kernel. Without it the answer to one that left goes nowhere.
 */
void httpd_watch(struct httpd_req *req, void (*gone)(struct httpd_req *req),
                 void (*writable)(struct httpd_req *req));

/*
 * WebSocket (RFC 6455). `on_text` gets whole messages, valid UTF-8 of at most `max_body_bytes`,
 * without a '\0' behind; a binary message closes with 1003. `on_close` comes exactly once, last,
 * never from inside a call into this module. A peer silent to a ping for 30 s is dropped.
 */
struct httpd_ws_cbs {
    void (*on_text)(struct httpd_ws *ws, const char *text, size_t len);
    void (*on_close)(struct httpd_ws *ws);
};

/*
 * NULL, and 400 or 426 answered, when `req` is no valid upgrade; dead in either case. May be called
 * later. Headers set before go into the 101. Whether the Origin may is for the caller to check.
 */
struct httpd_ws *httpd_upgrade(struct httpd_req *req, const struct httpd_ws_cbs *cbs, void *ud);
long httpd_ws_send(struct httpd_ws *ws, const char *text, size_t len); /* as httpd_write() */
void httpd_ws_close(struct httpd_ws *ws, int code);
void *httpd_ws_ud(struct httpd_ws *ws);
