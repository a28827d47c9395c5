/*
 * One request on its way from the route to its answer.
 *
 * A handler ends it exactly once, with one of the functions of reply.h or, after
 * request_stream(), with request_over(); then `r` is gone.
 */
#pragma once

#include "api.h"
#include "json.h"
#include "query.h"

#define REQUEST_MAX_PARAMS 2
#define REQUEST_ID_BYTES   129

struct request;
struct route;

typedef void request_fn(struct request *r);

struct request {
    struct api *api;
    struct httpd_req *http;
    const struct route *route;        /* NULL: none fits */
    char *params[REQUEST_MAX_PARAMS]; /* of the path, decoded */
    struct query query;
    cJSON *body;    /* after body_read() */
    const char *id; /* X-Request-Id */
    char **owned;
    int n_owned;
    uint64_t started_us;
    struct peer *peer; /* parked under this address, NULL when not parked */
    int park_kind;
    bool answered;       /* the head is out and counted */
    struct pg_call call; /* of the handler */
    void *ud;            /* the handler's */
};

/* Keep `text` for as long as the request; returns it. */
char *request_own(struct request *r, char *text);

/* Read the body as JSON into r->body; `optional`: an empty one is {}. -1: answered, `r` is gone. */
int request_read_body(struct request *r, bool optional);

/* The Idempotency-Key, NULL when there is none. -1: answered, `r` is gone. */
int request_read_key(struct request *r, const char **ret_key);

/* The head of a stream is out: count it. */
void request_stream(struct request *r, int status, const char *type);

/* The answer is given, or nobody is there to take it: forget the request. */
void request_over(struct request *r);

/* Count and log an answer; once a request. */
void request_answered(struct request *r, int status);

/* Headers that every answer has. */
void request_set_headers(struct request *r);

/* httpd's callback */
void request_start(struct httpd_req *http, void *owner);
