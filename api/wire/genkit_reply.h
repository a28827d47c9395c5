/* Answers in Genkit's shapes: {"result": ...}, or an error bare with an HTTP status. */
#pragma once

#include "request.h"

/* {"status","message"} of a gRPC status name. */
void genkit_put_error(struct buf *out, const char *status, const char *message);

/* {"result": JSON}; ends the request. */
void genkit_reply_result(struct request *r, const char *json);

/* The error, with the HTTP status that belongs to its name; ends the request. */
void genkit_reply_error(struct request *r, const char *status, const char *message);

/* A failure of r->call, or of a reader of its result; ends the request. */
void genkit_reply_err(struct request *r, const struct err *err);

/* The status name and message of such a failure. */
const char *genkit_status_of(struct request *r, const struct err *err, const char **ret_message);

/*
 * Read {"data", "init"} into r->body. 0, -1: answered, `r` is gone, or 1: the body is no JSON
 * object, and `ret_err` says why (for streams, where it is said in-band).
 */
int genkit_read_body(struct request *r, struct err *ret_err);
