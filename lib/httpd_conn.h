/*
 * Private to lib/httpd*.c: one connection.
 *
 *            +----------------- keep-alive -----------------+
 *            v                                              |
 *   IDLE -> HEAD -> BODY -> BUSY ----- httpd_reply() ----> FLUSH -> LINGER -> CLOSED
 *            |        |     |  +-> STREAM -- httpd_end() --->^        ^
 *            |        |     +----> WS -> WS_CLOSING ---------+        |
 *            +--------+------------- refused: 4xx, 5xx ---------------+
 *
 * A state that needs nothing from the peer is passed through at once (no body: no BODY, nothing
 * refused by the kernel: no FLUSH). The peer leaving, or being too slow, leads to CLOSED from
 * everywhere; what that costs is the exchange in hand. A connection is freed when its uv handle
 * is closed and no handler holds its request.
 *
 * Callbacks into the program never run inside a call from it: what such a call causes is put on
 * the server's `soon` list and done in the next turn of the loop.
 */
#pragma once

#include "buf.h"
#include "httpd.h"
#include "httpd_scan.h"
#include "list.h"

#include <llhttp/llhttp.h>
#include <netinet/in.h>

#if LLHTTP_VERSION_MAJOR < 9 && !LLHTTP_STRICT_MODE
#error                                                                                             \
    "llhttp 8 must be compiled with -DLLHTTP_STRICT_MODE=1, it lets requests be smuggled otherwise"
#endif

#define CONN_READ_BYTES     65536 /* one read */
#define CONN_PIPELINE_BYTES 65536 /* kept unread behind a request in hand */
#define CONN_EXTRA_BYTES    16384 /* headers that a handler may add */

/* Each state is named for the operation in flight. */
enum conn_state {
    CONN_IDLE,       /* read: the first byte of a request */
    CONN_HEAD,       /* read: the rest of a head */
    CONN_BODY,       /* read: the rest of a body */
    CONN_BUSY,       /* handler: its answer */
    CONN_STREAM,     /* handler: the rest of its answer */
    CONN_FLUSH,      /* write: what the kernel has not taken yet */
    CONN_LINGER,     /* read: what the peer still sends, thrown away; our side is shut */
    CONN_WS,         /* read: frames */
    CONN_WS_CLOSING, /* read: the peer's close frame */
    CONN_CLOSED,     /* uv_close() */
};

/* Deadlines of one span each, so that each list is in order by itself. */
enum conn_due {
    DUE_IDLE,
    DUE_HEAD,
    DUE_BODY,
    DUE_FLUSH,
    DUE_LINGER,
    DUE_PING,
    DUE_COUNT,
    DUE_NONE
};

struct conn {
    uv_tcp_t tcp;
    struct httpd *httpd; /* NULL when the server was freed while a handler held the request */
    enum conn_state state;
    struct list all;  /* in httpd->conns; in httpd->orphans when closed but held */
    struct list due;  /* in httpd->due[...] of the state */
    struct list soon; /* in httpd->soon */
    uint64_t due_at;

    struct httpd_req req;
    void (*gone)(struct httpd_req *req);
    void (*writable)(struct httpd_req *req);
    struct httpd_head head;
    void *head_memory; /* fields and text of `head` */
    struct buf body;
    struct buf extra;    /* header lines for the answer */
    struct httpd_ws *ws; /* until on_close() has been told */

    llhttp_t parser;
    struct httpd_scan scan;
    struct buf in;      /* part of a head, or what came behind the request in hand */
    size_t body_bytes;  /* of the body as sent, with its framing */
    int refused;        /* status found inside the parser, 0 when none */
    const char *reason; /* of `refused` */

    struct buf out;        /* not yet given to uv_write() */
    struct flight *flight; /* given to uv_write(); NULL when none */
    size_t was_queued;     /* at the last look of DUE_FLUSH */
    size_t swallowed;      /* in LINGER */

    bool held;     /* a handler holds `req` */
    bool keep;     /* another request may follow */
    bool linger;   /* input is left unread: FIN first, close later */
    bool eof;      /* the peer has shut its side */
    bool closed;   /* uv has let go of `tcp` */
    bool pumping;  /* conn_input() is on the stack */
    bool pinned;   /* not to be freed yet */
    bool complete; /* the parser has seen the end of the request */
    bool chunked;  /* the stream */
    char peer[INET6_ADDRSTRLEN];
};

struct httpd {
    uv_loop_t *loop;
    uv_poll_t listener;
    uv_timer_t tick;
    uv_idle_t later; /* runs while `soon` has something */
    struct httpd_conf conf;
    struct list conns, orphans, soon;
    struct list due[DUE_COUNT];
    uint64_t span_ms[DUE_COUNT];
    struct httpd_counters counters;
    int fd, port;
    int handles;   /* of the three above, not closed yet */
    bool paused;   /* out of file descriptors: no accept until the next tick */
    bool draining; /* and until when */
    bool in_later; /* a round of `soon` is on the stack */
    bool closing;
    uint64_t drain_at, idle_at; /* from then on all, or idle ones, are closed */
    void (*quiet)(void *owner); /* after the drain's first moments; NULL when it was called */
    void (*drained)(void *owner);
    void *drained_owner;
    struct buf scratch; /* the head of an answer, built and sent within one call */
    char date[32];      /* for `date_s` */
    int64_t date_s;
    char read[CONN_READ_BYTES];
};

/* lib/httpd.c */
void httpd_later(struct httpd *httpd); /* run `soon` in the next turn of the loop */
void httpd_check_drained(struct httpd *httpd);

/* lib/httpd_conn.c */
void conn_open(struct httpd *httpd, int fd, const char *peer, bool refuse);
void conn_enter(struct conn *c, enum conn_state state);
void conn_soon(struct conn *c);     /* look at it again in the next turn of the loop */
void conn_run_soon(struct conn *c); /* that look */
void conn_expired(struct conn *c);
void conn_settle(struct conn *c); /* after input: close, or stop or go on reading */
size_t conn_queued(const struct conn *c);
int conn_send(struct conn *c, uv_buf_t *bufs, unsigned int n); /* -1: dropped */
void conn_answered(struct conn *c);         /* all is sent or queued: on to the next request */
void conn_drop(struct conn *c, bool reset); /* close now; whoever watches is told soon */
void conn_forget(struct conn *c);           /* the handler no longer holds the request */

/* lib/httpd_request.c */
void conn_input(struct conn *c, const char *bytes, size_t len);
void conn_resume(struct conn *c); /* go on with what was kept in `in` */

/* lib/httpd_reply.c */
void conn_refuse(struct conn *c, int status, const char *reason); /* answer and close */
void conn_error(struct conn *c, int status, const char *reason);  /* answer, go on */

/* lib/httpd_ws.c */
size_t conn_ws_input(struct conn *c, const char *bytes, size_t len);
void conn_ws_ping(struct conn *c); /* 30 s are over */
void conn_ws_over(struct conn *c); /* tell on_close(), free */
