#include "intake.h"

#include "js.h"

char *intake_json(const cJSON *value)
{
    BUF_AUTO(b, BUF_MAX);

    js_stringify(&b, value);
    return buf_detach(&b);
}

/* httpd has no list of all headers: these are the ones a client of a model may send. */
char *intake_headers(const struct httpd_req *req)
{
    static const char *const names[] = {
        "host",         "connection",       "content-type",   "content-length",
        "accept",       "accept-encoding",  "user-agent",     "authorization",
        "api-key",      "x-api-key",        "traceparent",    "tracestate",
        "x-request-id", "idempotency-key",  "openai-project", "openai-organization",
        "expect",       "transfer-encoding"};
    BUF_AUTO(b, BUF_MAX);

    (void)json_open(&b, '{');
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        (void)json_put_member_str(&b, names[i], httpd_header(req, names[i]));
    (void)json_close(&b, '}');
    return buf_detach(&b);
}

char *intake_tools(const cJSON *body)
{
    const cJSON *tools = json_get(body, "tools");
    BUF_AUTO(b, BUF_MAX);

    if (!cJSON_IsArray(tools))
        return NULL;
    (void)json_open(&b, '[');
    for (const cJSON *tool = tools->child; tool; tool = tool->next)
        (void)json_put_str(&b, json_str_or(json_get(tool, "function"), "name", NULL));
    (void)json_close(&b, ']');
    return buf_detach(&b);
}
