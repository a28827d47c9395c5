#include "reply.h"

#include "clock.h"
#include "id.h"
#include "log.h"
#include "mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBLEM_TYPE  "application/problem+json"
#define RETRY_AFTER   "1" /* seconds */
#define WARN_EVERY_MS 1000

static const struct {
    const char *code, *title;
    int status;
    bool retryable;
} faults[FAULT_COUNT] = {
  /* clang-format off */
    [FAULT_INVALID_REQUEST] = {"INVALID_REQUEST", "Invalid request", 400, false},
    [FAULT_FORBIDDEN_ORIGIN] = {"FORBIDDEN_ORIGIN", "Origin not allowed", 403, false},
    [FAULT_NOT_FOUND] = {"NOT_FOUND", "Not found", 404, false},
    [FAULT_METHOD_NOT_ALLOWED] = {"METHOD_NOT_ALLOWED", "Method not allowed", 405, false},
    [FAULT_REQUEST_TIMEOUT] = {"REQUEST_TIMEOUT", "Request not received in time", 408, true},
    [FAULT_CONFLICT] = {"CONFLICT", "Conflict", 409, false},
    [FAULT_PAYLOAD_TOO_LARGE] = {"PAYLOAD_TOO_LARGE", "Body too large", 413, false},
    [FAULT_URI_TOO_LONG] = {"URI_TOO_LONG", "URI too long", 414, false},
    [FAULT_UNSUPPORTED_MEDIA_TYPE] = {"UNSUPPORTED_MEDIA_TYPE", "Unsupported media type", 415, false},
    [FAULT_EXPECTATION_FAILED] = {"EXPECTATION_FAILED", "Expectation failed", 417, false},
    [FAULT_IDEMPOTENCY_KEY_REUSED] = {"IDEMPOTENCY_KEY_REUSED", "Idempotency key reused", 422, false},
    [FAULT_UPGRADE_REQUIRED] = {"UPGRADE_REQUIRED", "Upgrade required", 426, false},
    [FAULT_TOO_MANY_REQUESTS] = {"TOO_MANY_REQUESTS", "Too many requests", 429, true},
    [FAULT_QUEUE_FULL] = {"QUEUE_FULL", "Queue full", 429, true},
    [FAULT_HEADERS_TOO_LARGE] = {"HEADERS_TOO_LARGE", "Headers too large", 431, false},
    [FAULT_INTERNAL] = {"INTERNAL", "Internal error", 500, true},
    [FAULT_NOT_SUPPORTED] = {"NOT_SUPPORTED", "Not supported", 501, false},
    [FAULT_UNAVAILABLE] = {"UNAVAILABLE", "Unavailable", 503, true},
    [FAULT_HTTP_VERSION] = {"HTTP_VERSION_NOT_SUPPORTED", "HTTP version not supported", 505, false},
  /* clang-format on */
};

void reply_text(struct request *r, int status, const char *type, const char *text, size_t len)
{
    request_set_headers(r);
    request_answered(r, status);
    httpd_reply(r->http, status, type, text, len);
    request_over(r);
}

void reply_json(struct request *r, int status, const char *json, size_t len)
{
    (void)httpd_set(r->http, "Cache-Control", "no-store"); /* tasks change behind every cache */
    reply_text(r, status, "application/json", json, len);
}

void reply_empty(struct request *r, int status)
{
    reply_text(r, status, NULL, "", 0);
}

/* The object up to `errors`, which is still open. The buffers have no limit that these meet. */
static void put_problem(struct buf *out, enum fault fault, const char *detail,
                        const char *request_id)
{
    json_open(out, '{');
    json_put_key(out, "type");
    (void)buf_printf(out, "\"urn:nocturne:problem:%s\"", faults[fault].code);
    json_put_member_str(out, "title", faults[fault].title);
    json_put_member_int(out, "status", faults[fault].status);
    json_put_member_str(out, "detail", detail);
    json_put_member_str(out, "code", faults[fault].code);
    json_put_key(out, "retryable");
    json_put_bool(out, faults[fault].retryable);
    json_put_member_str(out, "request_id", request_id);
}

static void reply_problem(struct request *r, enum fault fault, const char *detail,
                          const struct problem_list *problems)
{
    BUF_AUTO(out, BUF_MAX);

    put_problem(&out, fault, detail, r->id);
    if (problems) {
        json_put_key(&out, "errors");
        (void)problem_put_json(problems, &out);
    }
    json_close(&out, '}');
    if (faults[fault].status == 429 || faults[fault].status == 503)
        (void)httpd_set(r->http, "Retry-After", RETRY_AFTER);
    (void)httpd_set(r->http, "Cache-Control", "no-store");
    reply_text(r, faults[fault].status, PROBLEM_TYPE, out.data, out.len);
}

void reply_fault(struct request *r, enum fault fault, const char *fmt, ...)
{
    char detail[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(detail, sizeof(detail), fmt, ap);
    va_end(ap);
    reply_problem(r, fault, detail, NULL);
}

void reply_problems(struct request *r, const struct problem_list *problems)
{
    BUF_AUTO(detail, BUF_MAX);

    (void)problem_put_text(&problems->items[0], &detail);
    if (problems->n > 1)
        (void)buf_printf(&detail, " (and %zu more)", problems->n - 1);
    reply_problem(r, FAULT_INVALID_REQUEST, detail.data, problems);
}

static enum fault fault_of(const struct err *err, const char *sqlstate)
{
    static const struct {
        const char *prefix;
        enum fault fault;
    } states[] = {
        {"NT400", FAULT_INVALID_REQUEST       },
        {"NT404", FAULT_NOT_FOUND             },
        {"NT409", FAULT_CONFLICT              },
        {"NT422", FAULT_IDEMPOTENCY_KEY_REUSED},
        {"NT429", FAULT_QUEUE_FULL            },
        {"22",    FAULT_INVALID_REQUEST       }, /* a value that no column takes */
    };
    static const enum fault codes[] = {
        [ERR_INVALID] = FAULT_INVALID_REQUEST, [ERR_NOT_FOUND] = FAULT_NOT_FOUND,
        [ERR_CONFLICT] = FAULT_INTERNAL, /* no statement of ours may meet one */
        [ERR_UNAVAILABLE] = FAULT_UNAVAILABLE, [ERR_TIMEOUT] = FAULT_UNAVAILABLE,
        [ERR_CANCELED] = FAULT_UNAVAILABLE,    [ERR_BUG] = FAULT_INTERNAL,
    };

    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        if (!strncmp(sqlstate, states[i].prefix, strlen(states[i].prefix)))
            return states[i].fault;
    return err->code < sizeof(codes) / sizeof(codes[0]) ? codes[err->code] : FAULT_INTERNAL;
}

/* An outage fails every request: one line a second tells enough. */
static void log_outage(struct request *r, const struct err *err)
{
    uint64_t now_ms = clock_mono_ms();

    if (r->api->warned_ms && now_ms - r->api->warned_ms < WARN_EVERY_MS)
        return;
    r->api->warned_ms = now_ms;
    log_line(LOG_WARN, "", "answered 503: %s", err->msg);
}

/* What the client is told, and the log if it is our failure. */
static enum fault judge(struct request *r, const struct err *err, const char *sqlstate,
                        const char **ret_detail)
{
    enum fault fault = fault_of(err, sqlstate);
    char context[REQUEST_ID_BYTES + 16];

    *ret_detail = err->msg;
    if (fault == FAULT_UNAVAILABLE) {
        log_outage(r, err);
        *ret_detail = "the database does not answer; try again";
    } else if (fault == FAULT_INTERNAL) {
        snprintf(context, sizeof(context), "request=%s", r->id);
        log_line(LOG_ERROR, context, "answered 500: %s", err->msg);
        *ret_detail = "something went wrong; the log has it under this request's id";
    }
    return fault;
}

void reply_err_of(struct request *r, const struct err *err, const char *sqlstate)
{
    const char *detail;
    enum fault fault = judge(r, err, sqlstate, &detail);

    reply_fault(r, fault, "%s", detail);
}

void reply_err(struct request *r, const struct err *err)
{
    reply_err_of(r, err, r->call.sqlstate);
}

void reply_put_err(struct request *r, const struct err *err, const char *sqlstate, struct buf *out)
{
    const char *detail;
    enum fault fault = judge(r, err, sqlstate, &detail);

    put_problem(out, fault, detail, r->id);
    json_close(out, '}');
}

size_t reply_httpd_body(int status, const char *reason, char *ret_body, size_t size,
                        const char **ret_type)
{
    enum fault fault = status < 500 ? FAULT_INVALID_REQUEST : FAULT_INTERNAL;
    char id[ID_BYTES];
    BUF_AUTO(out, BUF_MAX);

    for (int i = FAULT_COUNT - 1; i >= 0; i--)
        if (faults[i].status == status)
            fault = (enum fault)i;
    id_uuid7(id);
    put_problem(&out, fault, reason, id);
    json_close(&out, '}');
    if (out.len > size)
        return 0;
    memcpy(ret_body, out.data, out.len);
    *ret_type = PROBLEM_TYPE;
    return out.len;
}
