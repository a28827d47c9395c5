#include "work.h"

#include "json.h"
#include "mem.h"
#include "turn_state.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES ((size_t)8 << 20)

struct work {
    struct turn *turn;
    struct process process;
    struct http_call http;
    struct sse sse;
    bool busy, is_sse;
    struct buf line; /* begun, its end has not come */
    struct buf all;  /* the answer while it is no lines of ours */
    bool structured; /* a line of ours has come */
    bool too_large;
    char *result; /* JSON */
    char *error;  /* message */
    bool error_retryable;
};

static void emit_chunk(struct turn *turn, const char *value, size_t len)
{
    struct buf *event = turn_event(turn, "progress");

    (void)json_put_key(event, "data");
    (void)json_put_raw(event, value, len);
    turn_event_end(turn);
}

/* One of our lines? Then it is taken. */
static bool take_line(struct work *w, const char *text, size_t len)
{
    struct err err;
    JSON_AUTO(root) = json_parse(text, len, &err);
    const char *value;
    size_t value_len;

    if (!cJSON_IsObject(root))
        return false;
    if (json_member_span(text, "chunk", &value, &value_len)) {
        emit_chunk(w->turn, value, value_len);
    } else if (json_member_span(text, "result", &value, &value_len)) {
        free(w->result);
        w->result = xmemdup(value, value_len);
    } else if (json_get(root, "error")) {
        const cJSON *error = json_get(root, "error");

        free(w->error);
        w->error = xstrdup(cJSON_IsString(error) ? error->valuestring
                                                 : json_str_or(error, "message", "it failed"));
        w->error_retryable = cJSON_IsTrue(json_get(error, "retryable"));
    } else {
        return false;
    }
    return true;
}

/* A whole line: ours, or a piece of an answer that is not made of lines of ours. */
static int end_line(struct work *w)
{
    if (w->line.len > 0 && take_line(w, w->line.data, w->line.len)) {
        w->structured = true;
    } else if (!w->structured && (buf_append(&w->all, w->line.data, w->line.len) < 0 ||
                                  buf_putc(&w->all, '\n') < 0)) {
        w->too_large = true;
        return -1;
    }
    buf_reset(&w->line);
    return 0;
}

static int take_bytes(void *owner, const char *bytes, size_t len)
{
    struct work *w = owner;
    const char *end;

    while ((end = memchr(bytes, '\n', len))) {
        if (buf_append(&w->line, bytes, (size_t)(end - bytes)) < 0)
            break;
        if (end_line(w) < 0)
            return -1;
        len -= (size_t)(end + 1 - bytes);
        bytes = end + 1;
    }
    if (!end && buf_append(&w->line, bytes, len) == 0)
        return 0;
    w->too_large = true;
    return -1;
}

static int on_sse(void *owner, const char *event, const char *id, const char *data, size_t len)
{
    struct work *w = owner;

    (void)event;
    (void)id;
    buf_reset(&w->line);
    if (buf_append(&w->line, data, len) < 0)
        return -1;
    return end_line(w);
}

static int on_reply(void *owner, const char *bytes, size_t len)
{
    struct work *w = owner;
    struct err err;

    if (!w->is_sse && !strncasecmp(w->http.content_type, "text/event-stream", 17)) {
        w->is_sse = true;
        sse_init(&w->sse, LINE_MAX_BYTES, on_sse, w);
    }
    return w->is_sse ? sse_feed(&w->sse, bytes, len, &err) : take_bytes(w, bytes, len);
}

/* What is left of the answer when the stream has ended. */
static void finish_lines(struct work *w)
{
    if (w->is_sse)
        (void)sse_finish(&w->sse);
    else if (w->line.len > 0)
        (void)end_line(w);
    while (w->all.len > 0 && w->all.data[w->all.len - 1] == '\n')
        buf_truncate(&w->all, w->all.len - 1);
}

static void put_plain_result(struct work *w, struct buf *data)
{
    struct err err;
    JSON_AUTO(root) = json_parse(w->all.data, w->all.len, &err);

    if (root)
        (void)json_put_raw(data, w->all.data, w->all.len);
    else
        (void)json_put_strn(data, w->all.data, w->all.len);
}

/* The call is over; `failure` says what went wrong with it, NULL for nothing. */
static void work_end(struct work *w, const char *failure, bool retryable)
{
    struct turn *turn = w->turn;
    BUF_AUTO(data, BUF_MAX);

    w->busy = false;
    if (turn->lost) {
        turn_dropped(turn);
        return;
    }
    if (turn_is_told(turn)) {
        turn_finish_early(turn);
        return;
    }
    if (!failure)
        finish_lines(w);
    if (w->too_large)
        turn_fail(turn, "OUTPUT_TOO_LARGE", false, -1, "the answer is too large");
    else if (w->error)
        turn_fail(turn, "AGENT_FAILED", w->error_retryable, -1, w->error);
    else if (failure)
        turn_fail(turn, "AGENT_FAILED", retryable, -1, failure);
    else if (w->result)
        turn_finish_work(turn, w->result);
    else if (w->structured)
        turn_fail(turn, "AGENT_FAILED", true, -1, "the agent ended without a result");
    else {
        put_plain_result(w, &data);
        turn_finish_work(turn, data.data);
    }
}

static void on_posted(void *owner, const struct err *err)
{
    struct work *w = owner;
    char failure[64];

    w->too_large = w->too_large || w->http.received_bytes > w->http.max_reply_bytes;
    if (err->code != ERR_OK) {
        work_end(w, tool_reason(err), err->code != ERR_INVALID);
    } else if (w->http.status < 200 || w->http.status > 299) {
        snprintf(failure, sizeof(failure), "the endpoint answered with status %ld", w->http.status);
        work_end(w, failure, w->http.status >= 500 || w->http.status == 429);
    } else {
        work_end(w, NULL, false);
    }
}

static void work_post(struct work *w)
{
    struct turn *turn = w->turn;
    const struct agent *agent = turn->agent;
    struct tool_ids ids = {turn->out.task_id, turn->out.task_id, turn->origin};
    char *headers[TOOL_MAX_HEADERS];
    size_t n = tool_put_headers(headers, &agent->headers, &ids);

    struct http_request request = {
        .url = agent->url,
        .headers = (const char *const *)headers,
        .body = turn->input,
        .body_len = strlen(turn->input),
        .timeouts = {.total_ms = agent->timeout_ms},
        .max_reply_bytes = (size_t)agent->max_output_bytes * 2,
        .on_data = on_reply,
    };
    http_start(turn->env->tool.http, &w->http, &request, on_posted, w);
    for (size_t i = 0; i < n; i++)
        free(headers[i]);
}

static void on_exited(void *owner, const struct err *err)
{
    struct work *w = owner;
    const struct process *p = &w->process;
    char failure[1200];
    BUF_AUTO(tail, BUF_MAX);

    if (err->code != ERR_OK) {
        work_end(w, err->msg, err->code != ERR_INVALID);
    } else if (p->exit_status != 0 || p->term_signal != 0) {
        size_t skip = p->stderr_tail.len > 1000 ? p->stderr_tail.len - 1000 : 0;

        (void)utf8_put_clean(&tail, p->stderr_tail.data + skip, p->stderr_tail.len - skip);
        snprintf(failure, sizeof(failure), "%s %lld: %.1000s",
                 p->term_signal ? "killed by signal" : "exit status",
                 p->term_signal ? (long long)p->term_signal : (long long)p->exit_status, tail.data);
        work_end(w, failure, true);
    } else {
        work_end(w, NULL, false);
    }
}

static void work_spawn(struct work *w)
{
    struct turn *turn = w->turn;
    const struct agent *agent = turn->agent;
    struct tool_ids ids = {turn->out.task_id, turn->out.task_id, turn->origin};
    char *vars[TOOL_MAX_ENV];
    size_t n = tool_put_env(vars, &agent->env, &ids);
    struct process_spec spec = {
        .argv = agent->command,
        .env = (const char *const *)vars,
        .input = turn->input,
        .input_len = strlen(turn->input),
        .timeout_ms = agent->timeout_ms,
        .on_stdout = take_bytes,
    };

    process_start(turn->env->loop, turn->env->delays, &w->process, &spec, on_exited, w);
    for (size_t i = 0; i < n; i++)
        free(vars[i]);
}

/* The no-op turn: its output is its input, and it writes what every turn writes. */
static void echo(struct turn *turn)
{
    struct err err;
    JSON_AUTO(input) = json_parse(turn->input, strlen(turn->input), &err);
    BUF_AUTO(message, BUF_MAX);

    if (cJSON_IsString(input) && history_put_user(&message, input, &err) == 0)
        turn_add_message(turn, message.data);
    turn_finish_work(turn, turn->input);
}

static void work_start(struct turn *turn)
{
    struct work *w;

    w = turn->work = xcalloc(1, sizeof(*w));
    w->turn = turn;
    w->busy = true;
    buf_init(&w->line, LINE_MAX_BYTES);
    buf_init(&w->all, (size_t)turn->agent->max_output_bytes);
    turn_enter(turn, TURN_WORKING);
    if (turn->agent->kind == AGENT_HTTP)
        work_post(w);
    else
        work_spawn(w);
    if (turn->out.full)
        work_pause(w, true);
}

void work_begin(struct turn *turn)
{
    if (turn->agent->kind == AGENT_ECHO)
        echo(turn);
    else
        turn_when_open(turn, work_start);
}

void work_pause(struct work *w, bool paused)
{
    if (!work_is_busy(w))
        return;
    if (paused) {
        http_pause(&w->http);
        process_pause(&w->process);
    } else {
        http_resume(&w->http);
        process_resume(&w->process);
    }
}

void work_cancel(struct work *w)
{
    if (!work_is_busy(w))
        return;
    http_cancel(&w->http);
    process_stop(&w->process);
}

bool work_is_busy(const struct work *w)
{
    return w && w->busy;
}

void work_free(struct work *w)
{
    if (!w)
        return;
    process_release(&w->process);
    http_call_release(&w->http);
    sse_release(&w->sse);
    buf_release(&w->line);
    buf_release(&w->all);
    free(w->result);
    free(w->error);
    free(w);
}
