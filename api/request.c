#include "request.h"

#include "clock.h"
#include "id.h"
#include "log.h"
#include "mem.h"
#include "park.h"
#include "reply.h"
#include "routes.h"
#include "wire/genkit.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWNED_STEP    8
#define MAX_KEY_BYTES 255

char *request_own(struct request *r, char *text)
{
    if (r->n_owned % OWNED_STEP == 0)
        r->owned = xrealloc(r->owned, (size_t)(r->n_owned + OWNED_STEP) * sizeof(*r->owned));
    return r->owned[r->n_owned++] = text;
}

/* ---- headers ---- */

static bool is_sane_id(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len >= REQUEST_ID_BYTES)
        return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr("._:/+=@-", *text))
            return false;
    return true;
}

static const char *choose_id(struct request *r)
{
    const char *theirs = httpd_header(r->http, "x-request-id");
    char ours[ID_BYTES];

    if (theirs && is_sane_id(theirs))
        return request_own(r, xstrdup(theirs));
    id_uuid7(ours);
    return request_own(r, xstrdup(ours));
}

/* Is `origin` among the words of the setting? */
static bool is_listed(const char *list, const char *origin)
{
    size_t len = strlen(origin);

    while (*list) {
        size_t word = strcspn(list, ", ");

        if (word == len && len > 0 && !strncmp(list, origin, len))
            return true;
        list += word;
        list += strspn(list, ", ");
    }
    return false;
}

/* A page of this very address, such as a dashboard, is no stranger. */
static bool is_own_origin(struct request *r, const char *origin)
{
    const char *host = httpd_header(r->http, "host");
    const char *at = strstr(origin, "://");

    return host && at && strcmp(at + 3, host) == 0;
}

static void set_cors(struct request *r)
{
    const char *allowed = r->api->conf.cors_origin;
    const char *origin = httpd_header(r->http, "origin");

    if (strcmp(allowed, "*") != 0) {
        (void)httpd_set(r->http, "Vary", "Origin");
        if (!origin || !is_listed(allowed, origin))
            return;
        allowed = origin;
    }
    (void)httpd_set(r->http, "Access-Control-Allow-Origin", allowed);
    (void)httpd_set(r->http, "Access-Control-Expose-Headers",
                    "Location, X-Request-Id, Idempotency-Replayed, Retry-After, "
                    "X-Genkit-Stream-Id");
}

void request_set_headers(struct request *r)
{
    (void)httpd_set(r->http, "X-Request-Id", r->id);
    set_cors(r);
}

/* ---- body ---- */

/* application/json, or any +json; without a type it is taken for JSON, too. */
static bool is_json_type(const char *type)
{
    size_t len;

    if (!type || !*type)
        return true;
    len = strcspn(type, "; \t");
    if (strncasecmp(type, "application/", 12) != 0)
        return false;
    return (len == 16 && !strncasecmp(type + 12, "json", 4)) ||
           (len > 17 && !strncasecmp(type + len - 5, "+json", 5));
}

int request_read_body(struct request *r, bool optional)
{
    struct err err;
    size_t len = r->http->body_len;

    if (optional && len == 0) {
        r->body = cJSON_CreateObject();
        return 0;
    }
    if (!is_json_type(httpd_header(r->http, "content-type"))) {
        reply_fault(r, FAULT_UNSUPPORTED_MEDIA_TYPE, "the body must be application/json");
        return -1;
    }
    r->body = json_parse(r->http->body, len, &err);
    if (r->body)
        return 0;
    reply_fault(r, FAULT_INVALID_REQUEST, "the body is %s",
                len ? err.msg : "empty, and must be JSON");
    return -1;
}

/* Take a structured string (RFC 8941) or a bare one out of `text`; false when it is neither. */
static bool unquote(const char *text, char *ret_key)
{
    size_t n = 0;
    bool quoted = *text == '"';

    for (text += quoted; *text && !(quoted && *text == '"'); text++) {
        if (quoted && *text == '\\' && (text[1] == '"' || text[1] == '\\'))
            text++;
        else if (quoted && *text == '\\')
            return false;
        if (*text < ' ' || *text > '~' || n == MAX_KEY_BYTES)
            return false;
        ret_key[n++] = *text;
    }
    ret_key[n] = '\0';
    return n > 0 && (quoted ? text[0] == '"' && !text[1] : true);
}

int request_read_key(struct request *r, const char **ret_key)
{
    const char *text = httpd_header(r->http, "idempotency-key");
    char key[MAX_KEY_BYTES + 1];

    if (!text) {
        *ret_key = NULL;
        return 0;
    }
    if (!unquote(text, key)) {
        reply_fault(r, FAULT_INVALID_REQUEST,
                    "Idempotency-Key must be 1 to %d printable ASCII characters", MAX_KEY_BYTES);
        return -1;
    }
    *ret_key = request_own(r, xstrdup(key));
    return 0;
}

/* ---- from start to end ---- */

static void log_answer(struct request *r, int status, double ms)
{
    log_line(LOG_DEBUG, "", "%s %s %d in %.1f ms, request %s, peer %s", r->http->method,
             r->http->path, status, ms, r->id, httpd_peer(r->http));
}

void request_answered(struct request *r, int status)
{
    int i = r->route ? (int)(r->route - routes) : route_count;
    struct route_stats *stats = &r->api->routes[i];
    double ms = (double)(clock_mono_us() - r->started_us) / 1000;

    assert(!r->answered);
    r->answered = true;
    stats->answers[status / 100 < STATUS_CLASSES ? status / 100 : 0]++;
    histogram_add(&stats->ms, ms);
    log_answer(r, status, ms);
}

void request_stream(struct request *r, int status, const char *type)
{
    request_set_headers(r);
    request_answered(r, status);
    httpd_stream(r->http, status, type);
}

void request_over(struct request *r)
{
    if (!r->answered)
        request_answered(r, 0);
    park_leave(r);
    query_release(&r->query);
    json_release(&r->body);
    while (r->n_owned > 0)
        free(r->owned[--r->n_owned]);
    free(r->owned);
    free(r);
}

/* What a browser asks before it sends what a page wants. */
static void reply_preflight(struct request *r, const char *allow)
{
    (void)httpd_set(r->http, "Allow", allow);
    (void)httpd_set(r->http, "Access-Control-Allow-Methods", allow);
    (void)httpd_set(r->http, "Access-Control-Allow-Headers",
                    "Content-Type, Accept, Idempotency-Key, Last-Event-ID, X-Request-Id, "
                    "Authorization, X-Genkit-Stream-Id");
    (void)httpd_set(r->http, "Access-Control-Max-Age", "600");
    reply_empty(r, 204);
}

/* A page of a stranger may not make its reader's browser change things here. */
static bool is_forged(struct request *r)
{
    const char *origin = httpd_header(r->http, "origin");
    const char *method = r->http->method;

    return origin && strcmp(r->api->conf.cors_origin, "*") != 0 && strcmp(method, "GET") != 0 &&
           strcmp(method, "HEAD") != 0 && !is_listed(r->api->conf.cors_origin, origin) &&
           !is_own_origin(r, origin);
}

static void dispatch(struct request *r, const char *allow)
{
    struct err err;

    if (!r->route && !*allow) {
        reply_fault(r, FAULT_NOT_FOUND, "there is no such resource");
    } else if (!r->route && strcmp(r->http->method, "OPTIONS") == 0) {
        reply_preflight(r, allow);
    } else if (!r->route) {
        (void)httpd_set(r->http, "Allow", allow);
        reply_fault(r, FAULT_METHOD_NOT_ALLOWED, "%s is not a method of this resource",
                    r->http->method);
    } else if (is_forged(r)) {
        reply_fault(r, FAULT_FORBIDDEN_ORIGIN, "pages of this origin may not do that");
    } else if (query_read(&r->query, r->http->query, r->route->query, &err) < 0) {
        reply_fault(r, FAULT_INVALID_REQUEST, "%s", err.msg);
    } else {
        r->route->handler(r);
    }
}

void request_start(struct httpd_req *http, void *owner)
{
    struct request *r = xcalloc(1, sizeof(*r));
    char *segments[SEGMENTS_MAX], *params[REQUEST_MAX_PARAMS] = {0}, allow[64] = "";
    int n;

    r->api = owner;
    r->http = http;
    r->started_us = clock_mono_us();
    r->id = choose_id(r);
    if (strcmp(http->path, "*") == 0) {
        snprintf(allow, sizeof(allow), "GET, HEAD, POST, PUT, DELETE, OPTIONS");
        dispatch(r, allow);
        return;
    }
    n = path_split(http->path, segments);
    for (int i = 0; i < n; i++)
        (void)request_own(r, segments[i]);
    if (n < 0) {
        reply_fault(r, FAULT_INVALID_REQUEST, "a bad escape in the path");
        return;
    }
    n = genkit_map_path(r->api->conf.genkit_prefix, segments, n);
    r->route = route_find(http->method, segments, n, params, allow);
    memcpy(r->params, params, sizeof(params));
    dispatch(r, allow);
}
