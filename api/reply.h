/*
 * Answers. Each function ends the request. Whatever goes wrong becomes a problem
 * (application/problem+json, RFC 9457) by one table, and nothing else maps errors to statuses.
 */
#pragma once

#include "problem.h"
#include "request.h"

/* The stable codes are their names without FAULT_. */
enum fault {
    FAULT_INVALID_REQUEST,
    FAULT_FORBIDDEN_ORIGIN,
    FAULT_NOT_FOUND,
    FAULT_METHOD_NOT_ALLOWED,
    FAULT_REQUEST_TIMEOUT,
    FAULT_CONFLICT,
    FAULT_PAYLOAD_TOO_LARGE,
    FAULT_URI_TOO_LONG,
    FAULT_UNSUPPORTED_MEDIA_TYPE,
    FAULT_EXPECTATION_FAILED,
    FAULT_IDEMPOTENCY_KEY_REUSED,
    FAULT_UPGRADE_REQUIRED,
    FAULT_TOO_MANY_REQUESTS, /* first of its status: lib/httpd's own refusals are these */
    FAULT_QUEUE_FULL,
    FAULT_HEADERS_TOO_LARGE,
    FAULT_INTERNAL,
    FAULT_NOT_SUPPORTED,
    FAULT_UNAVAILABLE,
    FAULT_HTTP_VERSION,
    FAULT_COUNT
};

void reply_json(struct request *r, int status, const char *json, size_t len);
void reply_text(struct request *r, int status, const char *type, const char *text, size_t len);
void reply_empty(struct request *r, int status);

void reply_fault(struct request *r, enum fault fault, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* 400 with all of them; the first one is the detail. */
void reply_problems(struct request *r, const struct problem_list *problems);

/* A failure of r->call, or of a reader of its result; or of another call, with its sqlstate. */
void reply_err(struct request *r, const struct err *err);
void reply_err_of(struct request *r, const struct err *err, const char *sqlstate);

/* The problem as JSON, for one of many; the request goes on. */
void reply_put_err(struct request *r, const struct err *err, const char *sqlstate, struct buf *out);

/* For httpd: the body of an error that it answers by itself. */
size_t reply_httpd_body(int status, const char *reason, char *ret_body, size_t size,
                        const char **ret_type);
