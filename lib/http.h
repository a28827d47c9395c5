/*
 * HTTP requests on a libuv loop, by libcurl's multi_socket interface.
 *
 * Promise to every caller: `done` runs exactly once for each http_start(), never before
 * http_start() or http_cancel() returns, and nothing is called after it. Connections are kept and
 * used again, except those of canceled requests, which are closed at once: that is what stops a
 * model from working on.
 */
#pragma once

#include "buf.h"
#include "err.h"
#include "list.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct http; /* opaque: one per loop */

/* Any HTTP status is a success here; `err` is about getting no whole answer. */
typedef void http_done_fn(void *owner, const struct err *err);

/*
 * Bytes of the answer's body as they come; `call->status` is known. Return 0, or -1 to end the
 * request (`done` then gets ERR_CANCELED). Of http_*() it may call http_pause() alone.
 */
typedef int http_data_fn(void *owner, const char *bytes, size_t len);

struct http_timeouts {
    uint64_t connect_ms;    /* 0: 10 s */
    uint64_t first_byte_ms; /* from the start to the first byte of the answer's head; 0: none */
    uint64_t idle_ms;       /* between two pieces of the answer; 0: none */
    uint64_t total_ms;      /* 0: none */
};

/* What to ask. All pointers are borrowed until http_start() returns, `body` until `done`. */
struct http_request {
    const char *method; /* NULL: GET, or POST when there is a body */
    const char *url;
    const char *const *headers; /* "Name: value", NULL at the end; may be NULL */
    const char *body;           /* NULL: none */
    size_t body_len;
    struct http_timeouts timeouts;
    size_t max_reply_bytes; /* of the body, whether kept or streamed; ERR_INVALID above */
    http_data_fn *on_data;  /* NULL: the body is kept in `call->reply` */
};

/* One request in flight. Lives inside its owner, which calls http_call_release() after `done`. */
struct http_call {
    struct list node;
    struct http *http;
    CURL *easy;
    struct curl_slist *headers;
    char reason[CURL_ERROR_SIZE];
    long status;            /* e.g. 200; 0 while no head has come */
    char content_type[80];  /* "" when there was none */
    int64_t retry_after_ms; /* from Retry-After or retry-after-ms; -1 when there was none */
    struct buf reply;       /* when there was no on_data */
    size_t received_bytes;
    size_t max_reply_bytes;
    uint64_t started_ms, last_ms; /* clock_mono_ms() */
    struct http_timeouts timeouts;
    bool paused, resuming;
    uint64_t paused_ms; /* clock_mono_ms() */
    struct err err;     /* why we ended it ourselves */
    http_data_fn *on_data;
    http_done_fn *done;
    void *owner;
};

struct http *http_new(uv_loop_t *loop);
void http_close(struct http *http); /* nothing may be in flight; NULL is allowed */

/* How long a stream's bytes may wait until they are read: nothing while few stream. */
uint64_t http_lull_ms(const struct http *http);

void http_start(struct http *http, struct http_call *call, const struct http_request *request,
                http_done_fn *done, void *owner);

/* Close the request's socket now; `done` comes later with ERR_CANCELED. Harmless when over. */
void http_cancel(struct http_call *call);

/* Read no more of the answer until http_resume(): the peer is held up by TCP. No time-out runs
 * meanwhile. What libcurl has read already (16 KiB) waits. Again: no effect. Harmless when over. */
void http_pause(struct http_call *call);
void http_resume(struct http_call *call);

/* Free what the answer left behind. Harmless on a zeroed call. */
void http_call_release(struct http_call *call);
