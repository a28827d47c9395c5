#include "tasks.h"

#include "cache.h"
#include "clock.h"
#include "fetches.h"
#include "fields.h"
#include "id.h"
#include "mem.h"
#include "page.h"
#include "reply.h"
#include "store_task.h"
#include "submits.h"
#include "waiters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_METADATA_BYTES (16 << 10)
#define MAX_REASON_BYTES   1000
#define MAX_ANSWERS        128
#define MAX_NAME_BYTES     256
#define MAX_KEY_BYTES      255 /* as in the header */
#define MAX_TASKS          1000
#define MAX_WAIT_MS        600000
#define DEFAULT_PRIORITY   5

int task_take_id(struct request *r)
{
    if (path_take_uuid(r->params[0]))
        return 0;
    reply_fault(r, FAULT_NOT_FOUND, "there is no task %.60s", r->params[0]);
    return -1;
}

/* ---- submit and resume ---- */

struct submit_body {
    const cJSON *input, *metadata;
    const char *agent, *key; /* of one of many; else in the path and in a header */
    const char *session_id, *snapshot_id, *parent, *run_at, *deadline;
    int64_t priority, max_attempts;
};

/* clang-format off */
#define SUBMIT_FIELDS                                                                              \
    FIELD(struct submit_body, "input", FIELD_ANY, input, .required = true),                        \
    FIELD(struct submit_body, "session_id", FIELD_STR, session_id),                                \
    FIELD(struct submit_body, "snapshot_id", FIELD_STR, snapshot_id),                              \
    FIELD(struct submit_body, "parent", FIELD_STR, parent),                                        \
    FIELD(struct submit_body, "run_at", FIELD_STR, run_at),                                        \
    FIELD(struct submit_body, "deadline", FIELD_STR, deadline),                                    \
    FIELD(struct submit_body, "priority", FIELD_INT, priority, .min = 0, .max = 9),                \
    FIELD(struct submit_body, "max_attempts", FIELD_INT, max_attempts, .min = 1, .max = 50),       \
    FIELD(struct submit_body, "metadata", FIELD_OBJECT, metadata)
/* clang-format on */

static const struct field submit_fields[] = {SUBMIT_FIELDS, FIELD_END};

static const struct field one_of_many_fields[] = {
    SUBMIT_FIELDS,
    FIELD(struct submit_body, "agent", FIELD_STR, agent, .required = true, .min = 1,
          .max = MAX_NAME_BYTES),
    FIELD(struct submit_body, "idempotency_key", FIELD_STR, key, .min = 1, .max = MAX_KEY_BYTES),
    FIELD_END,
};

/* The text of a member as the client wrote it in `text`, so that its numbers survive. */
static const char *raw_member(struct request *r, const char *text, const char *key,
                              const cJSON *value)
{
    const char *start;
    size_t len;

    if (!value)
        return NULL;
    if (text && json_member_span(text, key, &start, &len))
        return request_own(r, xmemdup(start, len));
    return request_own(r, json_print(value)); /* its key was written with escapes */
}

/* An RFC 3339 time or a duration from now, as a stamp. NULL when `text` is NULL or wrong. */
static const char *read_moment(struct request *r, const struct pointer *at, const char *key,
                               const char *text, struct problem_list *problems)
{
    char stamp[CLOCK_STAMP_BYTES];
    int64_t at_us;
    uint64_t ms;

    if (!text)
        return NULL;
    if (clock_parse_duration(text, &ms) == 0) {
        at_us = clock_wall_us() + (int64_t)ms * 1000;
    } else if (clock_parse_stamp(text, &at_us) < 0) {
        (void)problem_add(problems, POINTER_KEY(at, key),
                          "must be an RFC 3339 time such as \"2026-01-02T03:04:05Z\", or a "
                          "duration from now such as \"5m\"");
        return NULL;
    }
    return request_own(r, xstrdup(clock_stamp(at_us, stamp)));
}

/* A time from now is another one when the client asks again, so then its text stands for it. */
static const char *fingerprint(struct request *r, const struct submit_body *body, const char *agent,
                               const char *text, size_t len)
{
    uint64_t ignored;
    bool relative = (body->run_at && clock_parse_duration(body->run_at, &ignored) == 0) ||
                    (body->deadline && clock_parse_duration(body->deadline, &ignored) == 0);

    if (!relative)
        return NULL;
    return request_own(r, xasprintf("%s\n%.*s", agent, (int)len, text));
}

/* Into `row`, but for agent and key. `text` is the body as it came, or NULL. */
static void read_submit(struct request *r, const struct pointer *at, const struct submit_body *body,
                        const char *text, struct submit_row *row, struct problem_list *problems)
{
    if (body->session_id && !session_id_is_valid(body->session_id))
        (void)problem_add(problems, POINTER_KEY(at, "session_id"),
                          "must be 1 to 128 of A-Z a-z 0-9 . _ : -");
    if (body->snapshot_id && !id_is_uuid(body->snapshot_id))
        (void)problem_add(problems, POINTER_KEY(at, "snapshot_id"), "must be a UUID");
    if (body->parent && !id_is_uuid(body->parent))
        (void)problem_add(problems, POINTER_KEY(at, "parent"), "must be a UUID");
    else if (body->parent)
        row->options = request_own(r, xasprintf("{\"parent\":\"%s\"}", body->parent));
    row->run_at = read_moment(r, at, "run_at", body->run_at, problems);
    row->deadline = read_moment(r, at, "deadline", body->deadline, problems);
    row->metadata = raw_member(r, text, "metadata", body->metadata);
    if (row->metadata && strlen(row->metadata) > MAX_METADATA_BYTES)
        (void)problem_add(problems, POINTER_KEY(at, "metadata"), "must be at most %d bytes",
                          MAX_METADATA_BYTES);
    row->input = raw_member(r, text, "input", body->input);
    row->session_id = body->session_id;
    row->snapshot_id = body->snapshot_id;
    row->priority = (int)body->priority;
    if (body->max_attempts)
        row->max_attempts = request_own(r, xasprintf("%d", (int)body->max_attempts));
}

static void put_accepted(struct buf *out, const struct accepted_row *row)
{
    json_put_member_str(out, "task_id", row->task_id);
    json_put_member_str(out, "session_id", row->session_id);
    json_put_member_str(out, "status", row->status);
    json_put_member_str(out, "created_at", row->created_at);
}

static void reply_accepted(struct request *r, const struct accepted_row *row)
{
    char location[64];
    BUF_AUTO(out, BUF_MAX);

    json_open(&out, '{');
    put_accepted(&out, row);
    json_close(&out, '}');
    snprintf(location, sizeof(location), "/v1/tasks/%s", row->task_id);
    (void)httpd_set(r->http, "Location", location);
    if (row->replayed)
        (void)httpd_set(r->http, "Idempotency-Replayed", "true");
    reply_json(r, 202, out.data, out.len);
}

static void count_accepted(struct request *r, const struct accepted_row *row)
{
    if (row->replayed)
        return;
    r->api->submitted++;
    if (strcmp(row->status, "queued") == 0 && !row->hinted)
        notify_put(r->api->notify, "r");
}

static void on_accepted(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    struct accepted_row row;
    struct err bad = *err;

    if (bad.code != ERR_OK || store_read_accepted(res, &row, &bad) < 0) {
        reply_err(r, &bad);
        return;
    }
    count_accepted(r, &row);
    reply_accepted(r, &row);
}

static void on_submitted(void *owner, const struct accepted_row *row, const struct err *err,
                         const char *sqlstate)
{
    struct request *r = owner;

    if (!row) {
        reply_err_of(r, err, sqlstate);
        return;
    }
    histogram_add(&r->api->submit_ms, (double)(clock_mono_us() - r->started_us) / 1000);
    count_accepted(r, row);
    reply_accepted(r, row);
}

void task_submit(struct request *r)
{
    struct submit_body body = {.priority = DEFAULT_PRIORITY};
    struct submit *submit = xcalloc(1, sizeof(*submit));
    PROBLEMS_AUTO(problems);

    (void)request_own(r, (char *)submit);
    submit->row.agent = r->params[0];
    if (request_read_body(r, false) < 0 || request_read_key(r, &submit->row.key) < 0)
        return;
    (void)fields_read(r->body, NULL, submit_fields, &body, &problems);
    read_submit(r, NULL, &body, r->http->body, &submit->row, &problems);
    if (problems.n > 0) {
        reply_problems(r, &problems);
        return;
    }
    submit->row.print = fingerprint(r, &body, r->params[0], r->http->body, strlen(r->http->body));
    submits_put(r->api->submits, submit, on_submitted, r);
}

/* ---- many at once ---- */

/* Hangs on its request as `ud`. */
struct many {
    size_t n, left, refused;
    struct one *ones;
    struct buf answers; /* JSON objects, as they come */
};

struct one {
    struct request *request;
    struct submit submit;
    size_t answer, len; /* where it is among the answers */
};

static void reply_many(struct request *r, struct many *many)
{
    BUF_AUTO(out, BUF_MAX);

    json_open(&out, '{');
    json_put_key(&out, "tasks");
    json_open(&out, '[');
    for (size_t i = 0; i < many->n; i++)
        (void)json_put_raw(&out, many->answers.data + many->ones[i].answer, many->ones[i].len);
    json_close(&out, ']');
    json_close(&out, '}');
    buf_release(&many->answers);
    reply_json(r, many->refused ? 207 : 202, out.data, out.len);
}

static void on_one(void *owner, const struct accepted_row *row, const struct err *err,
                   const char *sqlstate)
{
    struct one *one = owner;
    struct request *r = one->request;
    struct many *many = r->ud;
    struct buf *out = &many->answers;

    one->answer = out->len + (out->len > 0); /* behind the comma */
    json_open(out, '{');
    if (row) {
        count_accepted(r, row);
        put_accepted(out, row);
        if (row->replayed)
            json_put_member_raw(out, "replayed", "true");
    } else {
        many->refused++;
        json_put_key(out, "error");
        reply_put_err(r, err, sqlstate, out);
    }
    json_close(out, '}');
    one->len = out->len - one->answer;
    if (--many->left == 0)
        reply_many(r, many);
}

/* `text` is the element as it came, or NULL. */
static void read_one(struct request *r, const cJSON *element, size_t at, const char *text,
                     size_t len, struct problem_list *problems)
{
    struct many *many = r->ud;
    struct one *one = &many->ones[at];
    struct submit_body body = {.priority = DEFAULT_PRIORITY};
    const struct pointer *place = POINTER_INDEX(POINTER_KEY(NULL, "tasks"), at);

    one->request = r;
    (void)fields_read(element, place, one_of_many_fields, &body, problems);
    read_submit(r, place, &body, text, &one->submit.row, problems);
    one->submit.row.agent = body.agent;
    one->submit.row.key = body.key;
    if (text && body.agent)
        one->submit.row.print = fingerprint(r, &body, body.agent, text, len);
}

static void read_many(struct request *r, const cJSON *tasks, struct problem_list *problems)
{
    const cJSON *element;
    const char *at, *text = NULL;
    size_t i = 0, len = 0;
    bool spans = json_member_span(r->http->body, "tasks", &at, &len);

    cJSON_ArrayForEach (element, tasks) {
        if (problem_is_full(problems))
            break;
        spans = spans && json_element_span(&at, &text, &len);
        read_one(r, element, i++, spans ? text : NULL, len, problems);
    }
}

struct many_body {
    const cJSON *tasks;
};

static const struct field many_fields[] = {
    FIELD(struct many_body, "tasks", FIELD_ARRAY, tasks, .required = true, .min = 1,
          .max = MAX_TASKS),
    FIELD_END,
};

void task_submit_many(struct request *r)
{
    struct many_body body = {0};
    struct many *many;
    PROBLEMS_AUTO(problems);

    if (request_read_body(r, false) < 0)
        return;
    if (fields_read(r->body, NULL, many_fields, &body, &problems) < 0) {
        reply_problems(r, &problems);
        return;
    }
    r->ud = many = xcalloc(1, sizeof(*many));
    (void)request_own(r, (char *)many);
    buf_init(&many->answers, BUF_MAX);
    many->n = many->left = (size_t)cJSON_GetArraySize(body.tasks);
    many->ones = xcalloc(many->n, sizeof(*many->ones));
    (void)request_own(r, (char *)many->ones);
    read_many(r, body.tasks, &problems);
    if (problems.n > 0) {
        reply_problems(r, &problems);
        return;
    }
    for (size_t i = 0; i < many->n; i++)
        submits_put(r->api->submits, &many->ones[i].submit, on_one, &many->ones[i]);
}

struct resume_body {
    const cJSON *respond, *restart;
};

static const struct field resume_fields[] = {
    FIELD(struct resume_body, "respond", FIELD_ARRAY, respond, .max = MAX_ANSWERS),
    FIELD(struct resume_body, "restart", FIELD_ARRAY, restart, .max = MAX_ANSWERS),
    FIELD_END,
};

struct answer_body {
    const char *name, *call_id;
    const cJSON *output;
};

static const struct field respond_fields[] = {
    FIELD(struct answer_body, "name", FIELD_STR, name, .required = true, .min = 1,
          .max = MAX_NAME_BYTES),
    FIELD(struct answer_body, "call_id", FIELD_STR, call_id, .min = 1, .max = MAX_NAME_BYTES),
    FIELD(struct answer_body, "output", FIELD_ANY, output, .required = true),
    FIELD_END,
};

static const struct field restart_fields[] = {
    FIELD(struct answer_body, "name", FIELD_STR, name, .required = true, .min = 1,
          .max = MAX_NAME_BYTES),
    FIELD(struct answer_body, "call_id", FIELD_STR, call_id, .min = 1, .max = MAX_NAME_BYTES),
    FIELD_END,
};

static void check_answers(const cJSON *answers, const char *key, const struct field *fields,
                          struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(NULL, key);
    struct answer_body ignored;
    const cJSON *answer;
    size_t i = 0;

    cJSON_ArrayForEach (answer, answers)
        (void)fields_read(answer, POINTER_INDEX(at, i++), fields, &ignored, problems);
}

void task_resume(struct request *r)
{
    struct resume_body body = {0};
    const char *key;
    PROBLEMS_AUTO(problems);

    if (task_take_id(r) < 0 || request_read_body(r, false) < 0 || request_read_key(r, &key) < 0)
        return;
    (void)fields_read(r->body, NULL, resume_fields, &body, &problems);
    check_answers(body.respond, "respond", respond_fields, &problems);
    check_answers(body.restart, "restart", restart_fields, &problems);
    if (problems.n == 0 && cJSON_GetArraySize(body.respond) + cJSON_GetArraySize(body.restart) == 0)
        (void)problem_add(&problems, NULL, "must have an answer in respond or restart");
    if (problems.n > 0) {
        reply_problems(r, &problems);
        return;
    }
    store_task_resume(pgpool_pick(r->api->pool), &r->call, r->params[0], r->http->body, key,
                      on_accepted, r);
}

/* ---- retry ---- */

struct retry_body {
    bool fresh;
};

static const struct field retry_fields[] = {
    FIELD(struct retry_body, "fresh", FIELD_BOOL, fresh),
    FIELD_END,
};

static void on_retried(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;

    cache_drop(r->api->cache, r->params[0]); /* it reads `retried_by` from here on */
    on_accepted(r, res, err);
}

void task_retry(struct request *r)
{
    struct retry_body body = {0};
    const char *key;
    PROBLEMS_AUTO(problems);

    if (task_take_id(r) < 0 || request_read_body(r, true) < 0 || request_read_key(r, &key) < 0)
        return;
    if (fields_read(r->body, NULL, retry_fields, &body, &problems) < 0) {
        reply_problems(r, &problems);
        return;
    }
    store_task_retry(pgpool_pick(r->api->pool), &r->call, r->params[0], body.fresh, key, on_retried,
                     r);
}

/* ---- abort ---- */

static void on_aborted(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    struct abort_row row;
    struct err bad = *err;
    bool running;
    BUF_AUTO(out, BUF_MAX);

    if (bad.code != ERR_OK || store_read_abort(res, &row, &bad) < 0) {
        reply_err(r, &bad);
        return;
    }
    running = strcmp(row.now, "aborting") == 0;
    notify_abort(r->api->notify, r->params[0], running, row.worker_id, !row.before);
    json_open(&out, '{');
    json_put_member_str(&out, "task_id", r->params[0]);
    json_put_member_str(&out, "status", row.now);
    json_close(&out, '}');
    reply_json(r, running || (!row.before && !strcmp(row.now, "aborted")) ? 202 : 200, out.data,
               out.len);
}

struct abort_body {
    const char *reason;
};

static const struct field abort_fields[] = {
    FIELD(struct abort_body, "reason", FIELD_STR, reason, .min = 1, .max = MAX_REASON_BYTES),
    FIELD_END,
};

void task_abort(struct request *r)
{
    struct abort_body body = {0};
    PROBLEMS_AUTO(problems);

    if (task_take_id(r) < 0 || request_read_body(r, true) < 0)
        return;
    if (fields_read(r->body, NULL, abort_fields, &body, &problems) < 0) {
        reply_problems(r, &problems);
        return;
    }
    store_task_abort(pgpool_pick(r->api->pool), &r->call, r->params[0], body.reason, "api",
                     on_aborted, r);
}

/* ---- get and list ---- */

static void on_got(void *owner, const char *json, bool terminal, const struct err *err,
                   const char *sqlstate)
{
    struct request *r = owner;

    if (!json) {
        reply_err_of(r, err, sqlstate);
        return;
    }
    if (terminal)
        cache_put(r->api->cache, r->params[0], json, strlen(json));
    reply_json(r, 200, json, strlen(json));
}

static void fetch_task(struct request *r)
{
    struct fetch *fetch = xcalloc(1, sizeof(*fetch));

    (void)request_own(r, (char *)fetch);
    fetches_put(r->api->fetches, fetch, r->params[0], on_got, r);
}

void task_get(struct request *r)
{
    uint64_t wait_ms = 0;
    struct err err;
    const char *json;
    size_t len;

    if (task_take_id(r) < 0)
        return;
    if (query_ms(&r->query, "wait", MAX_WAIT_MS, &wait_ms, &err) < 0) {
        reply_fault(r, FAULT_INVALID_REQUEST, "%s", err.msg);
        return;
    }
    if ((json = cache_get(r->api->cache, r->params[0], &len)))
        reply_json(r, 200, json, len);
    else if (wait_ms > 0)
        waiters_add(r->api->waiters, r, wait_ms);
    else
        fetch_task(r);
}

static bool is_status(const char *text)
{
    static const char *const words[] = {"scheduled", "queued",    "running",    "aborting",
                                        "waiting",   "completed", "incomplete", "failed",
                                        "aborted",   "expired"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (!strcmp(text, words[i]))
            return true;
    return false;
}

/* -1: answered, `r` is gone. */
static int read_filter(struct request *r, struct list_filter *ret_filter)
{
    *ret_filter = (struct list_filter){
        .tenant = query_get(&r->query, "tenant"),
        .status = query_get(&r->query, "status"),
        .agent = query_get(&r->query, "agent"),
        .session_id = query_get(&r->query, "session_id"),
        .before = query_get(&r->query, "before"),
    };
    if (ret_filter->status && !is_status(ret_filter->status))
        reply_fault(r, FAULT_INVALID_REQUEST,
                    "status must be scheduled, queued, running, aborting, waiting, completed, "
                    "incomplete, failed, aborted or expired");
    else if (ret_filter->session_id && !session_id_is_valid(ret_filter->session_id))
        reply_fault(r, FAULT_INVALID_REQUEST, "session_id must be 1 to 128 of A-Z a-z 0-9 . _ : -");
    else if (ret_filter->before && !id_is_uuid(ret_filter->before))
        reply_fault(r, FAULT_INVALID_REQUEST, "before must be the cursor of a next link");
    else
        return 0;
    return -1;
}

static void on_listed(void *owner, PGresult *res, const struct err *err)
{
    page_answer(owner, "tasks", "before", res, err);
}

void task_list(struct request *r)
{
    struct list_filter filter;
    struct page page;

    if (read_filter(r, &filter) < 0 || page_init(&page, r, "tasks", "before") < 0)
        return;
    store_task_list(pgpool_pick(r->api->pool), &r->call, &filter, page.limit + 1, on_listed, r);
    page_release(&page);
}
