#include "wire/genkit_reply.h"

#include "id.h"
#include "log.h"
#include "mem.h"
#include "reply.h"
#include "wire/genkit_frame.h"

#include <stdlib.h>
#include <string.h>

static int http_status_of(const char *status)
{
    static const struct {
        const char *name;
        int status;
    } names[] = {
        {"INVALID_ARGUMENT",    400},
        {"FAILED_PRECONDITION", 400},
        {"OUT_OF_RANGE",        400},
        {"UNAUTHENTICATED",     401},
        {"PERMISSION_DENIED",   403},
        {"NOT_FOUND",           404},
        {"ALREADY_EXISTS",      409},
        {"ABORTED",             409},
        {"RESOURCE_EXHAUSTED",  429},
        {"CANCELLED",           499},
        {"UNIMPLEMENTED",       501},
        {"UNAVAILABLE",         503},
        {"DEADLINE_EXCEEDED",   504},
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (!strcmp(names[i].name, status))
            return names[i].status;
    return 500;
}

void genkit_put_error(struct buf *out, const char *status, const char *message)
{
    (void)json_open(out, '{');
    (void)json_put_member_str(out, "status", status);
    (void)json_put_member_str(out, "message", message);
    (void)json_close(out, '}');
}

void genkit_reply_result(struct request *r, const char *json)
{
    BUF_AUTO(out, BUF_MAX);

    (void)buf_puts(&out, "{\"result\":");
    genkit_put_ascii(&out, json, strlen(json));
    (void)buf_putc(&out, '}');
    reply_json(r, 200, out.data, out.len);
}

void genkit_reply_error(struct request *r, const char *status, const char *message)
{
    int code = http_status_of(status);
    BUF_AUTO(out, BUF_MAX);

    genkit_put_error(&out, status, message);
    if (code == 429 || code == 503)
        (void)httpd_set(r->http, "Retry-After", "1");
    reply_json(r, code, out.data, out.len);
}

const char *genkit_status_of(struct request *r, const struct err *err, const char **ret_message)
{
    static const struct {
        const char *sqlstate, *status;
    } states[] = {
        {"NT400", "INVALID_ARGUMENT"   },
        {"NT404", "NOT_FOUND"          },
        {"NT409", "FAILED_PRECONDITION"},
        {"NT422", "ALREADY_EXISTS"     },
        {"NT429", "RESOURCE_EXHAUSTED" },
        {"22",    "INVALID_ARGUMENT"   },
    };

    *ret_message = err->msg;
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        if (!strncmp(r->call.sqlstate, states[i].sqlstate, strlen(states[i].sqlstate)))
            return states[i].status;
    if (err->code == ERR_NOT_FOUND)
        return "NOT_FOUND";
    if (err->code == ERR_UNAVAILABLE || err->code == ERR_TIMEOUT || err->code == ERR_CANCELED) {
        *ret_message = "the database does not answer; try again";
        return "UNAVAILABLE";
    }
    log_line(LOG_ERROR, "", "request %s: answered INTERNAL: %s", r->id, err->msg);
    *ret_message = "Internal Error";
    return "INTERNAL";
}

void genkit_reply_err(struct request *r, const struct err *err)
{
    const char *message, *status = genkit_status_of(r, err, &message);

    genkit_reply_error(r, status, message);
}

int genkit_read_body(struct request *r, struct err *ret_err)
{
    const char *type = httpd_header(r->http, "content-type");

    if (type && *type && strncasecmp(type, "application/json", 16) != 0) {
        reply_fault(r, FAULT_UNSUPPORTED_MEDIA_TYPE, "the body must be application/json");
        return -1;
    }
    r->body = json_parse(r->http->body, r->http->body_len, ret_err);
    if (!r->body)
        return 1;
    if (cJSON_IsObject(r->body))
        return 0;
    err_set(ret_err, ERR_INVALID, "the body must be an object");
    return 1;
}
