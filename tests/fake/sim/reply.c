/*
 * An answer of the model.
 *
 *            +--> PAUSED ---+   between two tokens, in a `wait`, or to let others have a turn
 *            |              |
 *   RUNNING -+--> GATED ----+-> RUNNING --> END
 *      ^     |              |
 *      |     +--> CLOGGED --+   the client reads slower than we write
 *      |     |
 *      +-----+--> HANGING       for ever; only the client's leaving ends it
 *
 * Every state may go to END, by gone(). A failure costs the one answer. Time is kept by the
 * answer's own clock, which each pause moves by its nominal length: a late timer delays one token
 * and not all that follow.
 */
#include "reply.h"

#include "chat.h"
#include "clock.h"
#include "intake.h"
#include "mem.h"
#include "refuse.h"
#include "script.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ANSWER_BYTES ((size_t)256 << 20) /* of an answer that is not streamed */
#define MAX_QUEUED_BYTES (256 * 1024)        /* above it the client has to read first */
#define FLUSH_BYTES      ((size_t)64 * 1024)
#define FRAMES_PER_TURN  2000 /* then other answers go on */
#define STAMP_BYTES      17   /* of a stamp and its space */
#define BIG_BYTES        4096
#define ARGUMENT_UNITS   8
#define DROP_DELAY_MS    5 /* so that what was written before the cut arrives */

enum reply_state {
    REPLY_RUNNING, /* nothing in flight: within reply_advance() */
    REPLY_PAUSED,  /* the timer */
    REPLY_GATED,   /* waiting on a gate */
    REPLY_CLOGGED, /* waiting for the client to read */
    REPLY_HANGING, /* nothing */
    REPLY_END,     /* the timer is closing */
};

/* The tokens of one action, made one by one. */
struct source {
    const struct action *action; /* NULL: no tokens due */
    char *text;                  /* what is said, or the arguments of the call, expanded */
    struct span rest;            /* of `text` */
    uint64_t i, n;               /* token or call */
    bool is_named, has_half;     /* call: name is out; a half of a UTF-16 pair is due */
};

struct reply {
    struct list node;
    struct sim *sim;
    struct httpd_req *req; /* NULL when it is dead or not ours any more */
    enum reply_state state;
    uv_timer_t timer;
    struct board_waiter waiter;

    struct chat chat;
    struct script script;
    const struct action *actions; /* of the response, in `script` */
    size_t n_actions, at;
    struct source source;
    uint64_t clock_ms; /* loop time up to which all pauses have been kept */

    uint64_t log_id;
    bool is_stream, wants_usage, is_started, no_done, is_cut;
    char *head, *model; /* what each frame begins with; JSON of the model's name */
    int64_t created;
    struct buf out;             /* frames not yet written */
    struct buf text, reasoning; /* when not streamed */
    struct buf calls;           /* when not streamed: JSON of the calls */
    struct js_words said, thought;
    uint64_t n_calls;
    const char *finish; /* NULL: not decided; points into `script` */
    bool has_usage;
    double prompt_tokens, completion_tokens;
    long queued;
    unsigned frames; /* of this turn */
};

static void reply_advance(struct reply *reply);

static void reply_enter(struct reply *reply, enum reply_state state)
{
    reply->state = state;
}

/* ---- log ---- */

static void log_status(struct reply *reply, const char *status)
{
    struct reqlog_entry *entry = reqlog_find(&reply->sim->log, reply->log_id);

    if (entry)
        entry->status = status;
}

static void log_end(struct reply *reply)
{
    struct reqlog_entry *entry = reqlog_find(&reply->sim->log, reply->log_id);

    if (!entry)
        return;
    entry->ended_ms = clock_wall_us() / 1000;
    if (!strcmp(entry->status, "open"))
        entry->status = "client-closed";
}

/* ---- life ---- */

static void on_timer_closed(uv_handle_t *handle)
{
    struct reply *reply = handle->data;

    chat_release(&reply->chat);
    script_release(&reply->script);
    free(reply->source.text);
    free(reply->head);
    free(reply->model);
    buf_release(&reply->out);
    buf_release(&reply->text);
    buf_release(&reply->reasoning);
    buf_release(&reply->calls);
    free(reply);
}

static void reply_end(struct reply *reply)
{
    if (reply->req)
        reply->req->ud = NULL;
    reply->req = NULL;
    log_end(reply);
    list_remove(&reply->waiter.node);
    list_remove(&reply->node);
    reply->sim->n_open--;
    reply_enter(reply, REPLY_END);
    uv_close((uv_handle_t *)&reply->timer, on_timer_closed);
}

static void on_gone(struct httpd_req *req)
{
    struct reply *reply = req->ud;

    if (reply)
        reply_end(reply);
}

void reply_drop_all(struct sim *sim)
{
    while (!list_is_empty(&sim->replies)) {
        struct reply *reply = container_of(sim->replies.next, struct reply, node);

        reply->req = NULL;
        reply_end(reply);
    }
}

/* ---- waiting ---- */

static void on_timer(uv_timer_t *timer)
{
    struct reply *reply = timer->data;

    reply_enter(reply, REPLY_RUNNING);
    reply_advance(reply);
}

/* What was not our pause does not count as one: tokens do not come in a burst after it. */
static void reply_resume(struct reply *reply)
{
    reply->clock_ms = uv_now(reply->sim->uv);
    reply_enter(reply, REPLY_RUNNING);
    reply_advance(reply);
}

static void on_writable(struct httpd_req *req)
{
    struct reply *reply = req->ud;

    if (reply && reply->state == REPLY_CLOGGED)
        reply_resume(reply);
}

static void on_gate_opened(struct board_waiter *waiter)
{
    reply_resume(container_of(waiter, struct reply, waiter));
}

/* Hand over what is due. False: not RUNNING any more. */
static bool reply_flush(struct reply *reply)
{
    if (reply->out.len > 0) {
        reply->queued = httpd_write(reply->req, reply->out.data, reply->out.len);
        buf_reset(&reply->out);
    }
    if (reply->queued < 0)
        reply_enter(reply, REPLY_HANGING); /* gone() follows */
    else if (reply->queued > MAX_QUEUED_BYTES)
        reply_enter(reply, REPLY_CLOGGED);
    return reply->state == REPLY_RUNNING;
}

/* Until the answer's clock is reached; never at once, so that others have a turn. */
static void reply_pause(struct reply *reply)
{
    uint64_t now = uv_now(reply->sim->uv);

    if (!reply_flush(reply))
        return;
    reply_enter(reply, REPLY_PAUSED);
    uv_timer_start(&reply->timer, on_timer, reply->clock_ms > now ? reply->clock_ms - now : 0, 0);
}

/* ---- frames ---- */

static void frame_open(struct reply *reply)
{
    struct reqlog_entry *entry = reqlog_find(&reply->sim->log, reply->log_id);

    if (entry)
        entry->chunks++;
    reply->frames++;
    (void)buf_puts(&reply->out, reply->head);
    (void)buf_puts(&reply->out, "[{\"index\":0,\"delta\":{");
}

static void frame_close(struct reply *reply)
{
    (void)buf_puts(&reply->out, "},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
}

/* The head of the answer and the frame that names the role, once, and only of a stream. */
static void reply_begin(struct reply *reply)
{
    if (reply->is_started || !reply->is_stream)
        return;
    reply->is_started = true;
    (void)httpd_set(reply->req, "cache-control", "no-cache");
    httpd_stream(reply->req, 200, "text/event-stream; charset=utf-8");
    frame_open(reply);
    (void)buf_puts(&reply->out, "\"role\":\"assistant\",\"content\":\"\"");
    frame_close(reply);
}

static void put_token(struct reply *reply, struct span piece)
{
    bool is_thought = reply->source.action->op == ACTION_REASON;

    reply->sim->n_tokens++;
    js_count_words(is_thought ? &reply->thought : &reply->said, piece);
    if (!reply->is_stream) {
        reply->frames++;
        if (buf_append(is_thought ? &reply->reasoning : &reply->text, piece.p, piece.len) < 0)
            reply->is_cut = true;
        return;
    }
    frame_open(reply);
    (void)buf_puts(&reply->out, is_thought ? "\"reasoning_content\":" : "\"content\":");
    (void)json_put_strn(&reply->out, piece.p, piece.len);
    frame_close(reply);
}

/* ---- calls ---- */

/* call_<12 digits>: the same conversation makes the same call. */
static void call_id(const struct reply *reply, uint64_t i, char *ret_id)
{
    char text[SHA1_HEX_BYTES + 48], hex[SHA1_HEX_BYTES];
    int len = snprintf(text, sizeof(text), "%s:%zu:%" PRIu64, reply->chat.key, reply->chat.step, i);

    sha1_hex(text, (size_t)len, hex);
    snprintf(ret_id, 18, "call_%.12s", hex);
}

static void put_call(struct buf *b, const struct reply *reply, const char *index, uint64_t i,
                     const char *arguments)
{
    char id[18];

    call_id(reply, i, id);
    (void)buf_printf(b, "{%s\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", index,
                     id);
    (void)json_put_str(b, reply->source.action->calls[i].name);
    (void)buf_puts(b, ",\"arguments\":");
    (void)json_put_str(b, arguments);
    (void)buf_puts(b, "}}");
}

static void name_call(struct reply *reply, struct source *source)
{
    char index[32];

    free(source->text);
    source->text = chat_expand(&reply->chat, source->action->calls[source->i].raw);
    source->rest = span_of(source->text);
    source->is_named = true;
    reply->n_calls++;
    if (reply->is_stream) {
        snprintf(index, sizeof(index), "\"index\":%" PRIu64 ",", source->i);
        frame_open(reply);
        (void)buf_puts(&reply->out, "\"tool_calls\":[");
        put_call(&reply->out, reply, index, source->i, "");
        (void)buf_putc(&reply->out, ']');
        frame_close(reply);
        return;
    }
    reply->frames++;
    if (reply->calls.len > 0)
        (void)buf_putc(&reply->calls, ',');
    put_call(&reply->calls, reply, "", source->i, source->text);
    source->rest.len = 0;
}

static void put_arguments(struct reply *reply, struct source *source)
{
    size_t bytes;

    frame_open(reply);
    (void)buf_printf(
        &reply->out,
        "\"tool_calls\":[{\"index\":%" PRIu64 ",\"function\":{\"arguments\":", source->i);
    bytes = js_put_units(&reply->out, source->rest, ARGUMENT_UNITS, &source->has_half);
    source->rest = span_skip(source->rest, bytes);
    (void)buf_puts(&reply->out, "}}]");
    frame_close(reply);
}

static void next_call(struct reply *reply, struct source *source)
{
    if (!source->is_named)
        name_call(reply, source);
    else if (source->rest.len > 0)
        put_arguments(reply, source);
    if (source->rest.len == 0) {
        source->is_named = false;
        source->i++;
    }
}

/* ---- tokens ---- */

static void next_word(struct reply *reply, struct source *source)
{
    size_t len = js_word(source->rest);

    put_token(reply, (struct span){source->rest.p, len});
    source->rest = span_skip(source->rest, len);
}

static void next_numbered(struct reply *reply, struct source *source)
{
    static const char dots[] = "................................................................";
    char text[40 + sizeof(dots)];
    double width = source->action->width; /* may be anything, NaN included */
    int len, pad = width > STAMP_BYTES && width <= 80 ? (int)width - STAMP_BYTES : 0;

    if (source->action->op == ACTION_STAMP)
        len = snprintf(text, sizeof(text), "%" PRId64 " %.*s", clock_wall_us(), pad, dots);
    else
        len = snprintf(text, sizeof(text), "%stok%" PRIu64, source->i ? " " : "", source->i);
    put_token(reply, (struct span){text, (size_t)len});
    source->i++;
}

static void next_big(struct reply *reply, struct source *source)
{
    double left = source->action->count - (double)source->i * BIG_BYTES;

    put_token(reply, (struct span){source->text, left < BIG_BYTES ? (size_t)left : BIG_BYTES});
    source->i++;
}

/* Is any token of the action still to come? */
static bool source_has_more(const struct source *source)
{
    switch (source->action->op) {
    case ACTION_SAY:
    case ACTION_SLOW:
    case ACTION_REASON:
        return source->rest.len > 0;
    default:
        return source->i < source->n;
    }
}

static void source_next(struct reply *reply, struct source *source)
{
    switch (source->action->op) {
    case ACTION_CALL:
        next_call(reply, source);
        break;
    case ACTION_STREAM:
    case ACTION_STAMP:
        next_numbered(reply, source);
        break;
    case ACTION_BIG:
        next_big(reply, source);
        break;
    case ACTION_REPEAT:
        put_token(reply, source->rest);
        source->i++;
        break;
    default:
        next_word(reply, source);
        break;
    }
    reply->clock_ms += source->action->delay_ms;
}

static void source_end(struct source *source)
{
    free(source->text);
    memset(source, 0, sizeof(*source));
}

/* Array.from({length}): a whole number of tokens, none for NaN. */
static uint64_t token_count(double count)
{
    return count >= 1 ? (count < 1e15 ? (uint64_t)count : (uint64_t)1e15) : 0;
}

static void source_begin(struct reply *reply, const struct action *action)
{
    struct source *source = &reply->source;

    source->action = action;
    switch (action->op) {
    case ACTION_CALL:
        source->n = action->n_calls;
        if (!reply->finish)
            reply->finish = "tool_calls";
        break;
    case ACTION_STREAM:
    case ACTION_STAMP:
        source->n = token_count(action->count);
        break;
    case ACTION_BIG:
        source->n = token_count(action->count / BIG_BYTES);
        source->n += action->count > (double)source->n * BIG_BYTES;
        source->text = xcalloc(1, BIG_BYTES + 1);
        memset(source->text, 'x', BIG_BYTES);
        break;
    default:
        source->n = token_count(action->count);
        source->text = chat_expand(&reply->chat, action->text);
        source->rest = span_of(source->text);
        break;
    }
    reply_begin(reply);
}

/* ---- the end of an answer ---- */

static void put_usage(const struct reply *reply, struct buf *b)
{
    double prompt = reply->prompt_tokens, completion = reply->completion_tokens;

    if (!reply->has_usage) {
        prompt = (double)reply->chat.words;
        completion =
            (double)(js_counted(&reply->said) + js_counted(&reply->thought) + reply->n_calls);
    }
    (void)buf_puts(b, "\"usage\":{\"prompt_tokens\":");
    js_put_json_number(b, prompt);
    (void)buf_puts(b, ",\"completion_tokens\":");
    js_put_json_number(b, completion);
    (void)buf_puts(b, ",\"total_tokens\":");
    js_put_json_number(b, prompt + completion);
    (void)buf_putc(b, '}');
}

static void finish_stream(struct reply *reply)
{
    struct buf *out = &reply->out;

    reply_begin(reply);
    frame_open(reply);
    (void)buf_puts(out, "},\"logprobs\":null,\"finish_reason\":");
    (void)json_put_str(out, reply->finish);
    (void)buf_puts(out, "}]}\n\n");
    if (reply->wants_usage) {
        (void)buf_printf(out, "%s[],", reply->head);
        put_usage(reply, out);
        (void)buf_puts(out, "}\n\n");
    }
    if (!reply->no_done)
        (void)buf_puts(out, "data: [DONE]\n\n");
    if (httpd_write(reply->req, out->data, out->len) >= 0)
        httpd_end(reply->req);
}

static void put_message(const struct reply *reply, struct buf *b)
{
    (void)buf_puts(b, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (reply->text.len > 0 || reply->n_calls == 0)
        (void)json_put_strn(b, reply->text.data, reply->text.len);
    else
        (void)buf_puts(b, "null");
    if (reply->reasoning.len > 0) {
        (void)buf_puts(b, ",\"reasoning_content\":");
        (void)json_put_strn(b, reply->reasoning.data, reply->reasoning.len);
    }
    if (reply->n_calls > 0)
        (void)buf_printf(b, ",\"tool_calls\":[%s]", reply->calls.data);
    (void)buf_putc(b, '}');
}

static void finish_whole(struct reply *reply)
{
    struct buf *b = &reply->out;

    (void)buf_printf(b,
                     "{\"id\":\"chatcmpl-sim-%" PRIu64 "\",\"object\":\"chat.completion\","
                     "\"created\":%" PRId64 ",\"model\":%s,\"choices\":[{\"index\":0,",
                     reply->log_id, reply->created, reply->model);
    (void)json_put_member_str(b, "finish_reason", reply->finish);
    (void)buf_puts(b, ",\"logprobs\":null,");
    put_message(reply, b);
    (void)buf_puts(b, "}],");
    put_usage(reply, b);
    if (buf_putc(b, '}') < 0)
        refuse(reply->req, 500, "sim_error", "the answer is too long");
    else
        httpd_reply(reply->req, 200, "application/json", b->data, b->len);
}

static void reply_finish(struct reply *reply)
{
    if (!reply->finish)
        reply->finish = "stop";
    log_status(reply, "done");
    reply->req->ud = NULL;
    if (reply->is_stream)
        finish_stream(reply);
    else
        finish_whole(reply);
    reply->req = NULL;
    reply_end(reply);
}

/* Cut the connection. What was written before goes first, as far as the kernel takes it. */
static void reply_cut(struct reply *reply)
{
    reply->req->ud = NULL;
    httpd_abort(reply->req);
    reply->req = NULL;
    reply_end(reply);
}

static void reply_garbage(struct reply *reply)
{
    static const char broken[] = "data: {\"choices\":[{\"delta\":{\"content\":\n\n";
    static const char cut[] = "{\"choices\":[";

    reply_begin(reply);
    log_status(reply, "garbage");
    reply->req->ud = NULL;
    (void)buf_puts(&reply->out, broken);
    if (!reply->is_stream)
        httpd_reply(reply->req, 200, "application/json", cut, strlen(cut));
    else if (httpd_write(reply->req, reply->out.data, reply->out.len) >= 0)
        httpd_end(reply->req);
    reply->req = NULL;
    reply_end(reply);
}

/* ---- failures ---- */

/* Only as an action of its own; within an iftool it does nothing. False: the tries are over. */
static bool reply_fail(struct reply *reply, const struct action *action)
{
    struct reqlog_entry *entry = reqlog_find(&reply->sim->log, reply->log_id);
    char key[SHA1_HEX_BYTES + 32];

    snprintf(key, sizeof(key), "%s:%zu", reply->chat.key, reply->at - 1);
    if (action->is_counted && (double)board_fire(&reply->sim->board, key) > action->count)
        return false;
    if (entry)
        entry->http_status = action->status;
    if (reply->is_started) {
        log_status(reply, "dropped");
        if (reply->out.len > 0)
            (void)httpd_write(reply->req, reply->out.data, reply->out.len);
        reply_cut(reply);
        return true;
    }
    log_status(reply, "failed");
    reply->req->ud = NULL;
    refuse_as_told(reply->req, action->status, action->retry_after);
    reply->req = NULL;
    reply_end(reply);
    return true;
}

/* ---- actions ---- */

static void reply_gate(struct reply *reply, const struct action *action)
{
    struct reqlog_entry *entry = reqlog_find(&reply->sim->log, reply->log_id);
    int rc;

    reply_begin(reply);
    if (!reply_flush(reply)) /* the head may be what the test waits for */
        return;
    rc = board_wait(&reply->sim->board, action->text, &reply->waiter);
    if (rc < 0) {
        reply->is_cut = true;
        return;
    }
    if (rc == 1)
        return;
    if (entry) {
        free(entry->gate);
        entry->gate = xstrdup(action->text);
    }
    reply_enter(reply, REPLY_GATED);
}

static void run_action(struct reply *reply, const struct action *action)
{
    while (action->op == ACTION_IFTOOL)
        action = chat_tools_say(&reply->chat, action->text) ? action->yes : action->no;
    switch (action->op) {
    case ACTION_WAIT:
        reply->clock_ms += action->delay_ms;
        break;
    case ACTION_GATE:
        reply_gate(reply, action);
        break;
    case ACTION_FINISH:
        reply->finish = action->text;
        break;
    case ACTION_USAGE:
        reply->has_usage = true;
        reply->prompt_tokens = action->count;
        reply->completion_tokens = action->completion;
        break;
    case ACTION_HANG:
        if (reply_flush(reply))
            reply_enter(reply, REPLY_HANGING);
        break;
    case ACTION_DROP:
        log_status(reply, "dropped");
        reply_begin(reply);
        reply->clock_ms = uv_now(reply->sim->uv) + DROP_DELAY_MS;
        reply->is_cut = true;
        break;
    case ACTION_GARBAGE:
        reply_garbage(reply);
        break;
    case ACTION_NODONE:
        reply->no_done = true;
        break;
    case ACTION_EMPTY:
    case ACTION_FAIL:
    case ACTION_IFTOOL:
        break;
    default:
        source_begin(reply, action);
        break;
    }
}

static void reply_next_action(struct reply *reply)
{
    const struct action *action = &reply->actions[reply->at++];

    if (action->op != ACTION_FAIL)
        run_action(reply, action);
    else
        (void)reply_fail(reply, action);
}

static void reply_step(struct reply *reply)
{
    if (reply->is_cut)
        reply_cut(reply);
    else if (reply->source.action && source_has_more(&reply->source))
        source_next(reply, &reply->source);
    else if (reply->source.action)
        source_end(&reply->source);
    else if (reply->at < reply->n_actions)
        reply_next_action(reply);
    else
        reply_finish(reply);
}

static void reply_advance(struct reply *reply)
{
    reply->frames = 0;
    while (reply->state == REPLY_RUNNING) {
        if (reply->clock_ms > uv_now(reply->sim->uv) || reply->frames >= FRAMES_PER_TURN)
            reply_pause(reply);
        else if (reply->out.len < FLUSH_BYTES || reply_flush(reply))
            reply_step(reply);
    }
}

/* ---- the start ---- */

static void log_request(struct reply *reply, const cJSON *body)
{
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(body, "messages");
    struct reqlog_entry entry = {
        .at_ms = clock_wall_us() / 1000,
        .step = reply->chat.step,
        .http_status = 200,
        .status = "open",
        .path = xstrdup(reply->req->path),
        .script = xstrdup(reply->chat.script),
        .headers = intake_headers(reply->req),
        .messages = messages ? intake_json(messages) : NULL,
        .tools = intake_tools(body),
        .is_stream = reply->is_stream,
    };

    reply->log_id = reqlog_add(&reply->sim->log, &entry);
}

static void read_options(struct reply *reply, const cJSON *body)
{
    const cJSON *model = json_get(body, "model"), *options = json_get(body, "stream_options");

    reply->created = clock_wall_us() / 1000000;
    reply->is_stream = js_is_truthy(cJSON_GetObjectItemCaseSensitive(body, "stream"));
    reply->wants_usage = cJSON_IsTrue(json_get(options, "include_usage"));
    reply->model = model ? intake_json(model) : xstrdup("\"" SIM_MODEL "\"");
}

/* From here on the request is answered by reply_advance(). */
static void reply_run(struct reply *reply, struct httpd_req *req, const cJSON *body)
{
    struct sim *sim = reply->sim;

    reply->req = req;
    req->ud = reply;
    read_options(reply, body);
    log_request(reply, body);
    reply->head = xasprintf("data: {\"id\":\"chatcmpl-sim-%" PRIu64
                            "\",\"object\":\"chat.completion.chunk\",\"created\":%" PRId64
                            ",\"model\":%s,\"choices\":",
                            reply->log_id, reply->created, reply->model);
    reply->actions = script_step(&reply->script, reply->chat.step, &reply->n_actions);
    httpd_watch(req, on_gone, on_writable);
    list_append(&sim->replies, &reply->node);
    sim->n_open++;
    reply_resume(reply);
}

static struct reply *reply_new(struct sim *sim)
{
    struct reply *reply = xcalloc(1, sizeof(*reply));

    reply->sim = sim;
    uv_timer_init(sim->uv, &reply->timer);
    reply->timer.data = reply;
    reply->waiter.opened = on_gate_opened;
    list_init(&reply->waiter.node);
    list_init(&reply->node);
    buf_init(&reply->out, BUF_MAX);
    buf_init(&reply->text, MAX_ANSWER_BYTES);
    buf_init(&reply->reasoning, MAX_ANSWER_BYTES);
    buf_init(&reply->calls, BUF_MAX);
    return reply;
}

void reply_start(struct sim *sim, struct httpd_req *req)
{
    struct err err;
    JSON_AUTO(body) = js_parse(req->body, req->body_len, &err);
    JSON_AUTO(none) = cJSON_CreateArray();
    const cJSON *messages = json_get(body, "messages");
    struct reply *reply;

    if (!body) {
        refuse_api(req, 400, 0);
        return;
    }
    if (cJSON_IsNull(body)) {
        refuse(req, 500, "sim_error", "Cannot read properties of null (reading 'messages')");
        return;
    }
    reply = reply_new(sim);
    if (chat_read(&reply->chat, cJSON_IsArray(messages) ? messages : none, &err) == 0 &&
        script_parse(&reply->script, reply->chat.script, &err) == 0) {
        reply_run(reply, req, body);
        return;
    }
    refuse(req, 500, "sim_error", err.msg);
    uv_close((uv_handle_t *)&reply->timer, on_timer_closed);
}
