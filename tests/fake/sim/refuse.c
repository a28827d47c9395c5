#include "refuse.h"

#include "js.h"

static const char *error_type(int status)
{
    switch (status) {
    case 400:
        return "invalid_request_error";
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return "server_error";
    }
}

void refuse_api(struct httpd_req *req, double status, double retry_after)
{
    BUF_AUTO(b, 1024);
    BUF_AUTO(after, 64);
    bool is_whole = status == (int)status;
    const char *type = error_type(is_whole ? (int)status : 0);

    js_put_number(&after, retry_after);
    if (status == 429)
        (void)httpd_set(req, "retry-after", after.data);
    (void)buf_puts(&b, "{\"error\":{\"message\":\"simulated ");
    js_put_number(&b, status);
    (void)buf_printf(&b, "\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}", type,
                     status == 429 ? "rate_limit_exceeded" : type);
    httpd_reply(req, (int)status, "application/json", b.data, b.len);
}

void refuse(struct httpd_req *req, int status, const char *type, const char *message)
{
    BUF_AUTO(b, 65536);

    (void)buf_puts(&b, "{\"error\":{\"message\":");
    (void)json_put_str(&b, message);
    (void)buf_printf(&b, ",\"type\":\"%s\"}}", type);
    httpd_reply(req, status, "application/json", b.data, b.len);
}

void refuse_as_told(struct httpd_req *req, double status, double retry_after)
{
    BUF_AUTO(message, 128);

    if (status >= 100 && status < 1000) {
        refuse_api(req, status, retry_after);
        return;
    }
    (void)buf_puts(&message, "Invalid status code: ");
    js_put_number(&message, status);
    refuse(req, 500, "sim_error", message.data);
}
