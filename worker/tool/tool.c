/*
 *   IDLE ---> POSTING ---> IDLE      type http
 *   IDLE ---> RUNNING ---> IDLE      type process
 *
 * POSTING  http_start()
 * RUNNING  process_start()
 *
 * A tool that fails is an answer like any other: the model is told. Only if this worker dies in
 * POSTING or RUNNING is the outcome unknown, which the ledger shows.
 */
#include "tool.h"

#include "hook.h"
#include "json.h"
#include "log.h"
#include "mem.h"
#include "utf8.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_BODY_BYTES 400 /* of a refusal, shown to the model */

static const char too_large[] = "the result is larger than max_result_bytes";

enum tool_state {
    TOOL_IDLE,    /* nothing */
    TOOL_POSTING, /* http_start() */
    TOOL_RUNNING, /* process_start() */
};

static void tool_enter(struct tool_run *run, enum tool_state state)
{
    run->state = (int)state;
    hook_state("tool", (int)state);
}

static void tool_fail(struct tool_run *run, const char *code, const char *message,
                      const char *stderr_tail)
{
    struct tool_outcome outcome = {.code = code, .message = message, .stderr_tail = stderr_tail};

    tool_enter(run, TOOL_IDLE);
    run->done(run->owner, &outcome);
}

/* JSON when it parses and can be stored, else text (bytes that are not UTF-8 are replaced). */
static void tool_succeed(struct tool_run *run, const char *bytes, size_t len,
                         const char *stderr_tail)
{
    BUF_AUTO(output, BUF_MAX);
    struct tool_outcome outcome = {.ok = true, .stderr_tail = stderr_tail};
    struct err err;
    JSON_AUTO(root) = json_parse(bytes, len, &err);

    if (root && !json_is_deep(root)) {
        (void)json_put_raw(&output, bytes, len);
    } else {
        while (len > 0 && bytes[len - 1] == '\n')
            len--;
        (void)json_put_strn(&output, bytes, len);
    }
    outcome.output = output.data;
    tool_enter(run, TOOL_IDLE);
    run->done(run->owner, &outcome);
}

static const char *code_of(enum err_code code)
{
    switch (code) {
    case ERR_TIMEOUT:
        return "TOOL_TIMEOUT";
    case ERR_CANCELED:
        return "CANCELED";
    case ERR_INVALID:
        return "TOOL_FAILED";
    default:
        return "TOOL_UNAVAILABLE";
    }
}

/* ---- http ---- */

const char *tool_reason(const struct err *err)
{
    if (err->code == ERR_CANCELED)
        return err->msg;
    log_line(LOG_WARN, "", "an endpoint of an agent: %s", err->msg);
    switch (err->code) {
    case ERR_TIMEOUT:
        return "the endpoint did not answer in time";
    case ERR_INVALID:
        return "the endpoint cannot be asked, or its answer not be taken";
    default:
        return "the endpoint cannot be reached, or has broken off";
    }
}

static void on_posted(void *owner, const struct err *err)
{
    struct tool_run *run = owner;
    struct http_call *call = &run->http;
    char message[STATUS_BODY_BYTES + 64];
    BUF_AUTO(clean, BUF_MAX);

    if (call->received_bytes > call->max_reply_bytes) {
        tool_fail(run, "TOOL_OUTPUT_TOO_LARGE", too_large, "");
        return;
    }
    if (err->code != ERR_OK) {
        tool_fail(run, code_of(err->code), tool_reason(err), "");
        return;
    }
    if (call->status >= 200 && call->status < 300) {
        tool_succeed(run, call->reply.data, call->reply.len, "");
        return;
    }
    (void)utf8_put_clean(&clean, call->reply.data, call->reply.len);
    snprintf(
        message, sizeof(message), "status %ld: %.*s", call->status,
        (int)utf8_prefix(clean.data, clean.len < STATUS_BODY_BYTES ? clean.len : STATUS_BODY_BYTES),
        clean.data);
    tool_fail(run, "TOOL_FAILED", message, "");
}

void tool_expand(struct buf *out, const char *text)
{
    const char *open, *close;
    char name[128];

    while ((open = strstr(text, "${")) && (close = strchr(open, '}'))) {
        size_t len = (size_t)(close - open) - 2;
        const char *value;

        (void)buf_append(out, text, (size_t)(open - text));
        if (len < sizeof(name)) {
            memcpy(name, open + 2, len);
            name[len] = '\0';
            value = getenv(name);
            (void)buf_puts(out, value ? value : "");
        }
        text = close + 1;
    }
    (void)buf_puts(out, text);
}

/* "Name: value" with nothing in the value, which the model chose, that could end the header. */
static char *header_of(const char *name, const char *value)
{
    char *header = xasprintf("%s: %s", name, value);

    for (char *p = header; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '_';
    return header;
}

size_t tool_put_headers(char **lines, const struct agent_pairs *headers, const struct tool_ids *ids)
{
    size_t n = 0;

    lines[n++] = xstrdup("Content-Type: application/json");
    lines[n++] = xasprintf("Idempotency-Key: %s", ids->idempotency_key);
    lines[n++] = xasprintf("X-Nocturne-Task-Id: %s", ids->task_id);
    lines[n++] = header_of("X-Nocturne-Call-Id", ids->call_id);
    for (size_t i = 0; i < headers->n; i++) {
        BUF_AUTO(value, 65536);

        tool_expand(&value, headers->items[i].value);
        lines[n++] = xasprintf("%s: %s", headers->items[i].name, value.data);
    }
    lines[n] = NULL;
    return n;
}

static void tool_post(struct tool_run *run, const struct tool_env *env, const char *arguments,
                      const struct tool_ids *ids)
{
    const struct agent_tool *tool = run->tool;
    char *headers[TOOL_MAX_HEADERS];
    size_t n = tool_put_headers(headers, &tool->headers, ids);

    struct http_request request = {
        .url = tool->url,
        .headers = (const char *const *)headers,
        .body = arguments,
        .body_len = strlen(arguments),
        .timeouts = {.total_ms = tool->timeout_ms},
        .max_reply_bytes = (size_t)tool->max_result_bytes,
    };
    tool_enter(run, TOOL_POSTING);
    http_start(env->http, &run->http, &request, on_posted, run);
    for (size_t i = 0; i < n; i++)
        free(headers[i]);
}

/* ---- process ---- */

static int on_stdout(void *owner, const char *bytes, size_t len)
{
    struct tool_run *run = owner;

    if (buf_append(&run->output, bytes, len) == 0)
        return 0;
    run->too_large = true;
    return -1;
}

static void on_ended(void *owner, const struct err *err)
{
    struct tool_run *run = owner;
    struct process *p = &run->process;
    BUF_AUTO(tail, BUF_MAX);
    char message[PROCESS_STDERR_BYTES + 64];

    (void)utf8_put_clean(&tail, p->stderr_tail.data, p->stderr_tail.len);
    if (run->too_large) {
        tool_fail(run, "TOOL_OUTPUT_TOO_LARGE", too_large, tail.data);
    } else if (err->code != ERR_OK) {
        tool_fail(run, code_of(err->code), err->msg, tail.data);
    } else if (p->exit_status == 0 && p->term_signal == 0) {
        tool_succeed(run, run->output.data, run->output.len, tail.data);
    } else if (p->term_signal) {
        snprintf(message, sizeof(message), "killed by signal %d", p->term_signal);
        tool_fail(run, "TOOL_FAILED", message, tail.data);
    } else {
        const char *end = tail.len > 1000 ? tail.data + tail.len - 1000 : tail.data;

        while (((unsigned char)*end & 0xC0) == 0x80)
            end++; /* do not begin inside a character */
        snprintf(message, sizeof(message), "exit status %lld%s%s", (long long)p->exit_status,
                 *end ? ": " : "", end);
        tool_fail(run, "TOOL_FAILED", message, tail.data);
    }
}

size_t tool_put_env(char **vars, const struct agent_pairs *env, const struct tool_ids *ids)
{
    static const char *const names[] = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"};
    size_t n = 0;

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const char *value = getenv(names[i]);

        if (value)
            vars[n++] = xasprintf("%s=%s", names[i], value);
    }
    vars[n++] = xasprintf("NOCTURNE_TASK_ID=%s", ids->task_id);
    vars[n++] = xasprintf("NOCTURNE_CALL_ID=%s", ids->call_id);
    vars[n++] = xasprintf("NOCTURNE_IDEMPOTENCY_KEY=%s", ids->idempotency_key);
    for (size_t i = 0; i < env->n; i++)
        vars[n++] = xasprintf("%s=%s", env->items[i].name, env->items[i].value);
    vars[n] = NULL;
    return n;
}

static void tool_spawn(struct tool_run *run, const struct tool_env *env, const char *arguments,
                       const struct tool_ids *ids)
{
    const struct agent_tool *tool = run->tool;
    char *vars[TOOL_MAX_ENV];
    size_t n = tool_put_env(vars, &tool->env, ids);
    struct process_spec spec = {
        .argv = tool->command,
        .env = (const char *const *)vars,
        .input = arguments,
        .input_len = strlen(arguments),
        .timeout_ms = tool->timeout_ms,
        .on_stdout = on_stdout,
    };
    tool_enter(run, TOOL_RUNNING);
    process_start(env->loop, env->delays, &run->process, &spec, on_ended, run);
    for (size_t i = 0; i < n; i++)
        free(vars[i]);
}

void tool_run_start(struct tool_run *run, const struct tool_env *env, const struct agent_tool *tool,
                    const char *arguments, const struct tool_ids *ids, tool_done_fn *done,
                    void *owner)
{
    assert(run->state == TOOL_IDLE);
    *run = (struct tool_run){.tool = tool, .done = done, .owner = owner};
    buf_init(&run->output, (size_t)tool->max_result_bytes);
    if (tool->type == TOOL_HTTP)
        tool_post(run, env, arguments, ids);
    else
        tool_spawn(run, env, arguments, ids);
}

void tool_run_pause(struct tool_run *run, bool paused)
{
    if (run->state == TOOL_POSTING && paused)
        http_pause(&run->http);
    else if (run->state == TOOL_POSTING)
        http_resume(&run->http);
    else if (run->state == TOOL_RUNNING && paused)
        process_pause(&run->process);
    else if (run->state == TOOL_RUNNING)
        process_resume(&run->process);
}

void tool_run_cancel(struct tool_run *run)
{
    if (run->state == TOOL_POSTING)
        http_cancel(&run->http);
    else if (run->state == TOOL_RUNNING)
        process_stop(&run->process);
}

void tool_run_release(struct tool_run *run)
{
    assert(run->state == TOOL_IDLE);
    process_release(&run->process);
    http_call_release(&run->http);
    if (run->output.data)
        buf_release(&run->output);
}
