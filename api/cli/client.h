/*
 * Requests to the API, one after the other: each call runs the loop until its answer is there.
 *
 * Failures are told to the user here and come back as an exit status, so that a command reads
 *   if ((rc = client_call(&client, &ask)) != CLI_OK) return rc;
 * A request that may be sent twice is tried again for a moment when the server does not answer or
 * answers 502, 503 or 504.
 */
#pragma once

#include "args.h"
#include "buf.h"
#include "exit.h"
#include "http.h"
#include "term.h"

#include <stdbool.h>
#include <stdint.h>

#define CLIENT_MAX_REPLY                                                                           \
    ((size_t)256 << 20) /* a conversation may be long; memory is the user's                        \
                         */
#define CLIENT_PATH_BYTES 4096

struct client {
    uv_loop_t loop;
    struct http *http;
    struct term term;
    char *base; /* http://HOST:PORT, no '/' at its end */
    bool json;  /* problems go to stdout as they are, too */
    struct http_call call;
    struct err err; /* of the last call */
    bool answered;
    bool reached; /* the server has answered before */
    uv_timer_t pause;
    uv_signal_t sigint, sigterm;
    bool listening;   /* for signals */
    bool interrupted; /* Ctrl-C, while client_catch() is in force */
    void (*on_interrupt)(void *owner);
    void *owner;
};

struct client_ask {
    const char *method; /* NULL: GET */
    const char *path;   /* from '/', already encoded */
    const char *body;   /* JSON; NULL: none */
    size_t body_len;
    const char *idempotency_key; /* NULL: none */
    bool once;                   /* it may not be sent twice */
    bool patient;        /* try for as long as it takes, when the server was reached before */
    uint64_t timeout_ms; /* for the answer; 0: 60 s */
};

/* Base URL from --url or NOCTURNE_URL. CLI_OK, or CLI_USAGE when it is none. */
int client_open(struct client *client, const struct args *args);
void client_close(struct client *client);

/* CLI_OK: 2xx, the body is in `client->call.reply` until the next call. */
int client_call(struct client *client, const struct client_ask *ask);

/* Tell what the server answered (not 2xx) or why it did not, and say which exit status it is. */
int client_explain(struct client *client, const struct http_call *call, const char *body,
                   size_t len, const struct err *err);

/* From now on Ctrl-C and SIGTERM do not kill us: the call in flight ends with CLI_DETACHED. */
void client_catch(struct client *client, void (*on_interrupt)(void *owner), void *owner);

/* Append `text` as one segment of a path or value of a query. */
int client_put_segment(struct buf *out, const char *text);

/* "/v1/tasks/ID" + `tail`; false and told when `id` cannot be one. To be freed by the caller. */
char *client_task_path(const char *id, const char *tail);
