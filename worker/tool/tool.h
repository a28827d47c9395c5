/*
 * A flow: one call of an `http` or `process` tool. The other types have no outside effect and are
 * done by the turn itself.
 */
#pragma once

#include "agent.h"
#include "delay.h"
#include "http.h"
#include "process.h"

#include <stdbool.h>

struct tool_env {
    uv_loop_t *loop;
    struct http *http;
    struct delays *delays;
};

/* What the call is, for the tool's environment or headers. Borrowed until `done`. */
struct tool_ids {
    const char *task_id, *call_id;
    const char *idempotency_key; /* the same each time this call is made, by whoever */
};

struct tool_outcome {
    bool ok;
    const char *output;      /* JSON; NULL when not ok */
    const char *code;        /* not ok: TOOL_FAILED, TOOL_TIMEOUT, TOOL_UNAVAILABLE, CANCELED ... */
    const char *message;     /* not ok */
    const char *stderr_tail; /* process; "" when there was none */
};

/* The outcome's texts are valid until `done` returns. */
typedef void tool_done_fn(void *owner, const struct tool_outcome *outcome);

/* Lives inside its owner; zeroed before. */
struct tool_run {
    int state; /* enum tool_state */
    const struct agent_tool *tool;
    struct process process;
    struct http_call http;
    struct buf output; /* process: stdout */
    bool too_large;
    tool_done_fn *done;
    void *owner;
};

/* `arguments` is JSON, borrowed until `done`. */
void tool_run_start(struct tool_run *run, const struct tool_env *env, const struct agent_tool *tool,
                    const char *arguments, const struct tool_ids *ids, tool_done_fn *done,
                    void *owner);
/* Read no more of the result, or read on; harmless when not running. */
void tool_run_pause(struct tool_run *run, bool paused);
void tool_run_cancel(struct tool_run *run);  /* `done` still comes; harmless when not running */
void tool_run_release(struct tool_run *run); /* nothing in flight; harmless on a zeroed one */

/*
 * The environment of a program we start, as "NAME=value" texts to be freed by the caller, NULL at
 * the end; returns how many. Of ours it gets only where programs and time zones are: no secrets.
 */
#define TOOL_MAX_ENV (AGENT_MAX_PAIRS + 16)
size_t tool_put_env(char **vars, const struct agent_pairs *env, const struct tool_ids *ids);

/* The headers of a request we make, as "Name: value" texts, in the same way. */
#define TOOL_MAX_HEADERS (AGENT_MAX_PAIRS + 8)
size_t tool_put_headers(char **lines, const struct agent_pairs *headers,
                        const struct tool_ids *ids);

/* Why a request of ours failed, as models and clients may read it: names of hosts are logged, and
 * not told. */
const char *tool_reason(const struct err *err);

/* Replace each ${NAME} of `text` by the environment's NAME (nothing when unset). */
void tool_expand(struct buf *out, const char *text);
