/*
 *   STREAMING --cut--> PAUSING --> LOOKING --> STREAMING
 *       |                             |
 *       +--turn.ended, refused--> END <--the task is over and nothing was missed
 *       any --Ctrl-C--> END
 *
 * The cursor is the last event shown; a stream is always asked for what comes after it. An event
 * that is not the next one is dropped when it is old and cuts the stream when one is missing, so
 * nothing is shown twice and nothing left out. A crash of the server, of the network or of us
 * costs time: the event log is durable.
 */
#include "follow.h"

#include "backoff.h"
#include "id.h"
#include "json.h"
#include "mem.h"
#include "sse.h"
#include "task.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_MAX_BYTES   ((size_t)64 << 20)
#define PROBLEM_MAX_BYTES ((size_t)1 << 20)
#define STREAM_MAX_BYTES  SIZE_MAX
#define CONNECT_MS        5000
#define FIRST_BYTE_MS     30000
#define IDLE_MS           45000 /* three keep-alive comments */
#define BACKOFF_BASE_MS   100
#define BACKOFF_CAP_MS    5000
#define TICK_MS           100
#define TRIES_UNREACHED   3 /* before the server has answered once */
#define GAPS_MAX          3 /* streams in a row that leave the same events out */

enum follow_state {
    FOLLOW_STREAMING, /* http_start() of the events */
    FOLLOW_PAUSING,   /* the timer */
    FOLLOW_LOOKING,   /* http_start() of the task */
    FOLLOW_END,       /* nothing */
};

struct follow {
    enum follow_state state;
    struct client *client;
    const char *task_id;
    struct view view;
    int64_t seq;     /* the last event shown */
    int64_t gap_seq; /* the event that was missing last, and how often */
    int gaps;
    bool reached;   /* the server has sent events or said that there are none */
    bool ended;     /* turn.ended was seen */
    unsigned fails; /* streams in a row that gave nothing */
    struct http_call call;
    struct sse sse;
    struct buf problem; /* an answer that is no stream */
    uv_timer_t pause, tick;
    int open_handles;
    struct err err;
    int exit;
};

static void follow_advance(struct follow *f);

static void follow_enter(struct follow *f, enum follow_state state)
{
    f->state = state;
    if (state == FOLLOW_END)
        uv_stop(&f->client->loop);
}

static void follow_end(struct follow *f, int exit)
{
    f->exit = exit;
    follow_enter(f, FOLLOW_END);
}

/* ---- events ---- */

static void on_turn_ended(struct follow *f, const char *data, size_t len)
{
    struct err ignored;
    JSON_AUTO(event) = json_parse(data, len, &ignored);

    f->ended = true;
    f->exit = task_exit_of(event);
    if (f->exit < 0)
        f->exit = CLI_FAILED;
}

/* Is `seq` the next one? 0: show it, 1: seen already, -1: something is missing. */
static int check_order(struct follow *f, int64_t seq)
{
    if (seq <= f->seq)
        return 1;
    if (seq == f->seq + 1)
        return 0;
    if (f->gap_seq != f->seq + 1) {
        f->gap_seq = f->seq + 1;
        f->gaps = 0;
    }
    if (++f->gaps < GAPS_MAX)
        return -1;
    term_say(&f->client->term, "nocturne: the server no longer has events %" PRId64 " to %" PRId64,
             f->seq + 1, seq - 1);
    return 0;
}

static int on_event(void *owner, const char *event, const char *id, const char *data, size_t len)
{
    struct follow *f = owner;
    char *end;
    int64_t seq = strtoll(id, &end, 10);
    int order;

    if (end == id || *end || seq <= 0)
        return 0; /* not one of the turn's */
    if ((order = check_order(f, seq)) != 0)
        return order < 0 ? -1 : 0;
    f->seq = seq;
    f->fails = 0;
    view_event(&f->view, event, data, len);
    if (strcmp(event, "turn.ended") != 0)
        return 0;
    on_turn_ended(f, data, len);
    return -1; /* there is nothing behind it */
}

static int on_bytes(void *owner, const char *bytes, size_t len)
{
    struct follow *f = owner;
    struct err ignored;

    if (f->call.status != 200)
        return buf_append(&f->problem, bytes, len);
    f->reached = f->client->reached = true;
    return sse_feed(&f->sse, bytes, len, &ignored);
}

static void on_done(void *owner, const struct err *err)
{
    struct follow *f = owner;

    f->err = *err;
    follow_advance(f);
}

/* ---- operations ---- */

static void follow_stream(struct follow *f)
{
    char *path = client_task_path(f->task_id, "/events"), *url, *cursor;
    const char *headers[] = {"Accept: text/event-stream", "Cache-Control: no-cache", NULL, NULL};

    url = xasprintf("%s%s", f->client->base, path);
    headers[2] = cursor = xasprintf("Last-Event-ID: %" PRId64, f->seq);
    sse_release(&f->sse);
    sse_init(&f->sse, EVENT_MAX_BYTES, on_event, f);
    buf_reset(&f->problem);
    http_call_release(&f->call);
    follow_enter(f, FOLLOW_STREAMING);
    http_start(f->client->http, &f->call,
               &(struct http_request){
                   .url = url,
                   .headers = headers,
                   .max_reply_bytes = STREAM_MAX_BYTES,
                   .on_data = on_bytes,
                   .timeouts = {.connect_ms = CONNECT_MS,
                                .first_byte_ms = FIRST_BYTE_MS,
                                .idle_ms = IDLE_MS},
    },
               on_done, f);
    free(cursor);
    free(url);
    free(path);
}

static void on_pause(uv_timer_t *timer)
{
    struct follow *f = timer->data;

    f->err = (struct err){0};
    follow_advance(f);
}

static void follow_pause(struct follow *f)
{
    uint64_t ms;

    f->fails++;
    ms = backoff_ms(f->fails, BACKOFF_BASE_MS, BACKOFF_CAP_MS, id_random32());
    if (f->call.retry_after_ms > (int64_t)ms && f->call.retry_after_ms < BACKOFF_CAP_MS * 12)
        ms = (uint64_t)f->call.retry_after_ms;
    if (f->fails == TRIES_UNREACHED && f->err.code != ERR_OK && f->err.code != ERR_CANCELED)
        term_note(&f->client->term, "%s does not answer, trying on", f->client->base);
    follow_enter(f, FOLLOW_PAUSING);
    uv_timer_start(&f->pause, on_pause, ms, 0);
}

/* A stream may have ended because there is nothing after the cursor: ask the task itself. */
static void follow_look(struct follow *f)
{
    char *path = client_task_path(f->task_id, ""), *url;

    url = xasprintf("%s%s", f->client->base, path);
    http_call_release(&f->call);
    follow_enter(f, FOLLOW_LOOKING);
    http_start(f->client->http, &f->call,
               &(struct http_request){
                   .url = url,
                   .max_reply_bytes = CLIENT_MAX_REPLY,
                   .timeouts = {.connect_ms = CONNECT_MS,
                                .first_byte_ms = FIRST_BYTE_MS,
                                .idle_ms = IDLE_MS}
    },
               on_done, f);
    free(url);
    free(path);
}

/* ---- decisions ---- */

static bool is_refused(const struct http_call *call)
{
    return call->status >= 400 && call->status < 500 && call->status != 408 && call->status != 429;
}

static void after_stream(struct follow *f)
{
    bool is_answer = f->call.status != 0 && f->call.status != 200 && f->call.status != 204;

    if (f->ended) {
        follow_end(f, f->exit);
    } else if (is_answer && (is_refused(&f->call) || (!f->reached && !f->client->reached &&
                                                      f->fails + 1 >= TRIES_UNREACHED))) {
        f->err = (struct err){0};
        follow_end(f,
                   client_explain(f->client, &f->call, f->problem.data, f->problem.len, &f->err));
    } else if (!f->reached && !f->client->reached && f->fails + 1 >= TRIES_UNREACHED &&
               f->err.code != ERR_OK) {
        follow_end(f, client_explain(f->client, &f->call, "", 0, &f->err));
    } else {
        follow_pause(f);
    }
}

static void after_look(struct follow *f)
{
    struct err ignored;
    int exit;

    if (f->err.code != ERR_OK || f->call.status != 200) {
        if (f->err.code == ERR_OK && is_refused(&f->call))
            follow_end(f, client_explain(f->client, &f->call, f->call.reply.data, f->call.reply.len,
                                         &f->err));
        else
            follow_stream(f);
        return;
    }
    JSON_AUTO(task) = json_parse(f->call.reply.data, f->call.reply.len, &ignored);
    const cJSON *last_seq = json_get(task, "last_seq");

    exit = task_exit_of(task);
    f->reached = f->client->reached = true;
    if (exit >= 0 && cJSON_IsNumber(last_seq) && (int64_t)last_seq->valuedouble <= f->seq)
        follow_end(f, exit);
    else
        follow_stream(f);
}

static void follow_advance(struct follow *f)
{
    if (f->client->interrupted) {
        follow_end(f, f->ended ? f->exit : CLI_DETACHED);
        return;
    }
    switch (f->state) {
    case FOLLOW_STREAMING:
        after_stream(f);
        break;
    case FOLLOW_PAUSING:
        follow_look(f);
        break;
    case FOLLOW_LOOKING:
        after_look(f);
        break;
    case FOLLOW_END:
        assert(!"nothing is in flight in END");
    }
}

static void on_interrupt(void *owner)
{
    struct follow *f = owner;

    if (f->state == FOLLOW_PAUSING) {
        uv_timer_stop(&f->pause);
        follow_advance(f);
    } else {
        http_cancel(&f->call);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct follow *f = timer->data;

    view_tick(&f->view);
}

static void on_closed(uv_handle_t *handle)
{
    struct follow *f = handle->data;

    f->open_handles--;
}

static void follow_release(struct follow *f)
{
    f->open_handles = 2;
    uv_close((uv_handle_t *)&f->pause, on_closed);
    uv_close((uv_handle_t *)&f->tick, on_closed);
    while (f->open_handles > 0)
        uv_run(&f->client->loop, UV_RUN_NOWAIT);
    sse_release(&f->sse);
    http_call_release(&f->call);
    buf_release(&f->problem);
}

int follow_turn(struct client *client, const char *task_id, int64_t after)
{
    struct follow f = {
        .client = client,
        .task_id = task_id,
        .seq = after,
        .problem = BUF_INIT(PROBLEM_MAX_BYTES),
    };

    view_init(&f.view, &client->term, client->json);
    f.view.said = after > 0; /* do not repeat the whole answer at the end */
    uv_timer_init(&client->loop, &f.pause);
    uv_timer_init(&client->loop, &f.tick);
    f.pause.data = f.tick.data = &f;
    if (client->term.err_tty)
        uv_timer_start(&f.tick, on_tick, 0, TICK_MS);
    client_catch(client, on_interrupt, &f);
    follow_stream(&f);
    while (f.state != FOLLOW_END)
        uv_run(&client->loop, UV_RUN_DEFAULT);
    client_catch(client, NULL, NULL);
    view_end(&f.view);
    if (f.exit == CLI_DETACHED)
        term_say(&client->term,
                 "detached, the turn goes on; come back with:\n  nocturne tail %s --after %" PRId64,
                 task_id, f.seq);
    follow_release(&f);
    return f.exit;
}
