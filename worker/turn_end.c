/*
 * How a turn ends. Everything that must be there together goes into one record: the last event,
 * output, usage, snapshot, and what it means for the session.
 */
#include "backoff.h"
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "turn_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_BASE_MS      1000
#define RETRY_CAP_MS       60000
#define RETRY_AFTER_MAX_MS (3600 * 1000) /* a provider's word is believed for so long */

static const char *const terminal_words[] = {"completed", "incomplete", "failed", "aborted",
                                             "expired"};

/* ---- messages ---- */

static void put_text_part(struct buf *message, const char *key, const struct buf *text)
{
    (void)json_open(message, '{');
    (void)json_put_key(message, key);
    (void)json_put_strn(message, text->data, text->len);
    (void)json_close(message, '}');
}

/* Arguments that are no JSON, or too deep to be stored as such, stay as they came, as a string;
 * none at all are an empty object. */
static void put_arguments(struct buf *message, const struct buf *arguments)
{
    struct err err;
    JSON_AUTO(root) = json_parse(arguments->data, arguments->len, &err);

    if (arguments->len == 0)
        (void)json_put_raw(message, "{}", 2);
    else if (root && !cJSON_IsString(root) && !json_is_deep(root))
        (void)json_put_raw(message, arguments->data, arguments->len);
    else
        (void)json_put_strn(message, arguments->data, arguments->len);
}

/* The model's id of a call when it is there and no other call of this answer has it. */
static const char *ref_of(const struct turn *turn, const struct answer *answer, int at, char *own,
                          size_t size)
{
    const char *id = answer->calls[at].id;
    bool usable = id && strlen(id) <= 128;

    for (int i = 0; i < at && usable; i++)
        usable = !answer->calls[i].id || strcmp(answer->calls[i].id, id) != 0;
    if (usable)
        return id;
    snprintf(own, size, "call_%d_%d", turn->step, at);
    return own;
}

void turn_put_answer(struct turn *turn, const struct answer *answer, bool with_calls,
                     struct buf *message)
{
    char own[32];

    (void)json_open(message, '{');
    (void)json_put_member_str(message, "role", "model");
    (void)json_put_key(message, "content");
    (void)json_open(message, '[');
    if (answer->reasoning.len)
        put_text_part(message, "reasoning", &answer->reasoning);
    if (answer->text.len || answer->ncalls == 0 || !with_calls)
        put_text_part(message, "text", &answer->text);
    for (int i = 0; i < answer->ncalls && with_calls; i++) {
        (void)json_open(message, '{');
        (void)json_put_key(message, "toolRequest");
        (void)json_open(message, '{');
        (void)json_put_member_str(message, "name", answer->calls[i].name);
        (void)json_put_member_str(message, "ref", ref_of(turn, answer, i, own, sizeof(own)));
        (void)json_put_key(message, "input");
        put_arguments(message, &answer->calls[i].arguments);
        (void)json_close(message, '}');
        (void)json_close(message, '}');
    }
    (void)json_close(message, ']');
    (void)json_close(message, '}');
}

/* ---- the row ---- */

/* {"text","message"?,"artifacts"?,"data"?} */
static void put_output(struct turn *turn, const char *message, const char *data)
{
    struct buf *out = &turn->end_output;
    struct err err;
    JSON_AUTO(root) = message ? json_parse(message, strlen(message), &err) : NULL;
    JSON_AUTO(value) = data ? json_parse(data, strlen(data), &err) : NULL;
    BUF_AUTO(text, BUF_MAX);
    const cJSON *part;

    cJSON_ArrayForEach (part, json_get(root, "content"))
        (void)buf_puts(&text, json_str_or(part, "text", ""));
    if (value && cJSON_IsString(value))
        (void)buf_puts(&text, value->valuestring);
    buf_reset(out);
    (void)json_open(out, '{');
    (void)json_put_key(out, "text");
    (void)json_put_strn(out, text.data, text.len);
    (void)json_put_member_raw(out, "message", message);
    if (turn->new_artifacts) {
        char *artifacts = json_print(turn->new_artifacts);

        (void)json_put_member_raw(out, "artifacts", artifacts);
        free(artifacts);
    }
    (void)json_put_member_raw(out, "data", data);
    if (turn->agent && turn->agent->state_at == AGENT_STATE_CLIENT)
        turn_put_state(turn, out);
    (void)json_close(out, '}');
}

static void put_usage(struct turn *turn)
{
    struct buf *out = &turn->end_usage;

    buf_reset(out);
    if (turn->input_tokens == 0 && turn->output_tokens == 0)
        return;
    (void)json_open(out, '{');
    (void)json_put_member_int(out, "input_tokens", turn->input_tokens);
    (void)json_put_member_int(out, "output_tokens", turn->output_tokens);
    if (turn->estimated)
        (void)json_put_member_raw(out, "estimated", "true");
    (void)json_close(out, '}');
}

/* New messages only; every 16th snapshot holds the whole conversation, so that reading a state
 * never joins more rows than that. */
static void put_snapshot(struct turn *turn)
{
    struct buf *out = &turn->end_messages;
    /* A conversation keeps a row of what failed, too: it says where the turn had begun. */
    bool keeps = turn->agent && turn->agent->state_at == AGENT_STATE_SERVER &&
                 (turn->messages.len || (turn->agent->kind == AGENT_LLM && !turn->poisoned));

    buf_reset(out);
    turn->end.messages = NULL;
    if (!keeps)
        return;
    (void)buf_putc(out, '[');
    turn->end.depth = turn->parent ? turn->parent_depth + 1 : 0;
    if (turn->history) {
        size_t len = strlen(turn->history);

        turn->end.depth = 0;
        if (len > 2) /* the elements, without the brackets */
            (void)json_put_raw(out, turn->history + 1, len - 2);
    }
    if (turn->messages.len)
        (void)json_put_raw(out, turn->messages.data, turn->messages.len);
    (void)buf_putc(out, ']');
    turn->end.messages = out->data;
    turn->end.parent_id = turn->parent;
    free(turn->end_custom);
    free(turn->end_artifacts);
    turn->end_custom = turn->custom ? json_print(turn->custom) : NULL;
    turn->end_artifacts = turn->artifacts ? json_print(turn->artifacts) : NULL;
    turn->end.custom = turn->end_custom;
    turn->end.artifacts = turn->end_artifacts;
}

void turn_count_end(const struct turn *turn)
{
    struct worker_stats *s = turn->env->stats;
    uint64_t *const counters[] = {&s->turns_completed, &s->turns_incomplete, &s->turns_failed,
                                  &s->turns_aborted, &s->turns_expired};

    for (size_t i = 0; i < sizeof(terminal_words) / sizeof(*terminal_words); i++)
        if (!strcmp(turn->end.status, terminal_words[i]))
            (*counters[i])++;
    histogram_add(&s->turn_ms, (double)(clock_mono_ms() - turn->claimed_ms));
}

static void emit_end(struct turn *turn)
{
    const struct turn_end *end = &turn->end;
    struct buf *event;

    turn->end_event_at = turn->out.now.events.len;
    event = turn_event(turn, "turn.ended");
    (void)json_put_member_str(event, "status", end->status);
    (void)json_put_member_str(event, "finish_reason", end->finish_reason);
    (void)json_put_member_raw(event, "output", end->output);
    (void)json_put_member_raw(event, "usage", end->usage);
    (void)json_put_member_raw(event, "error", end->error);
    (void)json_put_member_raw(event, "abort", end->abort);
    (void)json_put_member_raw(event, "interrupts", end->interrupts);
    turn_event_end(turn);
}

static const char *text_or_null(const struct buf *b)
{
    return b->len ? b->data : NULL;
}

/* Write the end. `message` is the model's last, NULL when it said nothing; `data` is the answer
 * of a program. Both JSON. */
static void turn_write_end(struct turn *turn, const char *status, const char *finish_reason,
                           const char *message, const char *data)
{
    bool head = !strcmp(status, "completed") || !strcmp(status, "incomplete");

    turn->end = (struct turn_end){.status = status,
                                  .finish_reason = finish_reason,
                                  .error = turn->end_error,
                                  .abort = text_or_null(&turn->end_abort),
                                  .interrupts = text_or_null(&turn->end_interrupts),
                                  .tenant = turn->tenant,
                                  .session_id = turn->session_id,
                                  .started_at = turn->started_at};
    put_usage(turn);
    turn->end.usage = text_or_null(&turn->end_usage);
    if (message || data)
        put_output(turn, message, data);
    turn->end.output = text_or_null(&turn->end_output);
    put_snapshot(turn);
    turn->end.head = head && turn->end.messages;
    emit_end(turn);
    turn->out.now.how = RECORD_COMPLETE;
    turn->out.now.end = &turn->end;
    turn_enter(turn, TURN_ENDING);
    flush_put(turn->env->flusher, &turn->out, true);
}

static void log_end(const struct turn *turn, enum log_level level, const char *what)
{
    char context[160];

    snprintf(context, sizeof(context), "task=%s epoch=%lld agent=%.60s", turn->out.task_id,
             (long long)turn->epoch, turn->agent_name);
    log_line(level, context, "%s", what);
}

void turn_finish(struct turn *turn, const char *status, const char *finish_reason)
{
    char *message = turn->asked;

    turn->asked = NULL;
    if (message && turn->step > 0)
        turn_add_message(turn, message);
    turn_write_end(turn, status, finish_reason, turn->step > 0 ? message : NULL, NULL);
    free(message);
}

void turn_finish_replayed(struct turn *turn)
{
    turn_finish(turn, "completed", "stop");
}

void turn_finish_work(struct turn *turn, const char *data)
{
    turn_write_end(turn, "completed", "stop", NULL, data);
}

void turn_interrupt(struct turn *turn)
{
    BUF_AUTO(message, BUF_MAX);

    buf_reset(&turn->end_interrupts);
    calls_put_interrupted(turn, &message, &turn->end_interrupts);
    if (turn->resuming && turn->step == 0)
        turn_drop_question(turn);
    /* A question of the history that is asked again is a new message all the same: the snapshot
     * of this turn must end with it. */
    turn->end_question_at = turn->messages.len;
    turn_add_message(turn, message.data);
    turn_write_end(turn, "completed", "interrupted", message.data, NULL);
}

/* ---- failures ---- */

static char *error_json(const char *code, const char *message, bool retryable)
{
    struct buf out = BUF_INIT(BUF_MAX);

    (void)json_open(&out, '{');
    (void)json_put_member_str(&out, "code", code);
    (void)json_put_member_str(&out, "message", message);
    (void)json_put_member_raw(&out, "retryable", retryable ? "true" : "false");
    (void)json_close(&out, '}');
    return buf_detach(&out);
}

static void turn_retry(struct turn *turn, const char *code, uint64_t delay_ms, const char *message)
{
    struct record *r = &turn->out.now;
    char what[320];

    snprintf(what, sizeof(what), "attempt failed, next one in %llu ms: %s: %s",
             (unsigned long long)delay_ms, code, message);
    log_end(turn, LOG_WARN, what);
    turn->env->stats->turns_retried++;
    r->how = RECORD_RETRY;
    r->retry_ms = delay_ms;
    r->retry_error = error_json(code, message, true);
    turn_enter(turn, TURN_ENDING);
    flush_put(turn->env->flusher, &turn->out, true);
}

void turn_fail(struct turn *turn, const char *code, bool retryable, int64_t retry_after_ms,
               const char *message)
{
    uint64_t delay_ms =
        backoff_ms((unsigned)turn->fails + 1, RETRY_BASE_MS, RETRY_CAP_MS, id_random32());
    char what[320];

    if (retryable && turn->fails + 1 < turn->max_attempts) {
        if (retry_after_ms > (int64_t)delay_ms)
            delay_ms =
                retry_after_ms < RETRY_AFTER_MAX_MS ? (uint64_t)retry_after_ms : RETRY_AFTER_MAX_MS;
        turn_retry(turn, code, delay_ms, message);
        return;
    }
    snprintf(what, sizeof(what), "failed: %s: %s", code, message);
    log_end(turn, LOG_WARN, what);
    free(turn->end_error);
    turn->end_error = error_json(code, message, retryable);
    turn_finish(turn, "failed", "failed");
}

/* ---- as asked from outside ---- */

static void put_abort(struct turn *turn)
{
    int64_t latency_ms = turn->abort_age_ms + (int64_t)(clock_mono_ms() - turn->abort_heard_ms);
    struct buf *out = &turn->end_abort;

    histogram_add(&turn->env->stats->abort_ms, (double)latency_ms);
    buf_reset(out);
    (void)json_open(out, '{');
    (void)json_put_member_str(out, "reason", turn->abort_reason ? turn->abort_reason : "requested");
    (void)json_put_member_str(out, "actor", turn->abort_actor);
    (void)json_put_member_int(out, "latency_ms", latency_ms);
    (void)json_close(out, '}');
}

/* What the model had said when it was cut off, and answers for the calls that are open: the
 * history stays valid for the provider. */
static char *keep_partial(struct turn *turn)
{
    const struct answer *answer = &turn->model.answer;
    struct buf message = BUF_INIT(BUF_MAX);

    if (turn->asked) {
        char *asked = turn->asked;

        turn->asked = NULL;
        if (turn->step > 0)
            turn_add_message(turn, asked);
        if (turn->ncalls > 0)
            calls_put_tool_message(turn, "ABORTED", "the turn was aborted");
        return asked;
    }
    if (turn->state != TURN_ASKING)
        return NULL;
    if (turn->model.cut || answer->bytes > 0 || answer->has_usage)
        turn_add_usage(turn, answer);
    if (answer->text.len == 0 && answer->reasoning.len == 0)
        return NULL;
    turn_put_answer(turn, answer, false, &message);
    turn_add_message(turn, message.data);
    return buf_detach(&message);
}

static void turn_hand_over(struct turn *turn)
{
    log_end(turn, LOG_INFO, "handed back");
    turn->env->stats->turns_released++;
    turn->out.now.how = RECORD_RELEASE;
    turn_enter(turn, TURN_ENDING);
    flush_put(turn->env->flusher, &turn->out, true);
}

static void put_abort(struct turn *turn);

/* Nothing of what it wrote is kept: any of it may be what the database refuses. */
static void end_poisoned(struct turn *turn)
{
    static const char message[] = "the database refuses what this turn wrote";

    buf_reset(&turn->messages);
    buf_reset(&turn->end_output);
    buf_reset(&turn->end_interrupts);
    if (!turn->aborting && turn->fails + 1 < turn->max_attempts) {
        turn_retry(turn, "UNSTORABLE", RETRY_BASE_MS, message);
        return;
    }
    free(turn->end_error);
    turn->end_error = error_json("UNSTORABLE", message, false);
    if (turn->aborting)
        put_abort(turn);
    turn_write_end(turn, turn->aborting ? turn->abort_status : "failed",
                   turn->aborting ? turn->abort_status : "failed", NULL, NULL);
}

void turn_finish_early(struct turn *turn)
{
    char *message;

    if (turn->poisoned) {
        end_poisoned(turn);
        return;
    }
    if (!turn->aborting) {
        turn_hand_over(turn);
        return;
    }
    message = keep_partial(turn);
    put_abort(turn);
    if (!strcmp(turn->abort_status, "failed")) {
        free(turn->end_error);
        turn->end_error =
            error_json("TURN_TIMEOUT", "the turn ran longer than limits.timeout", false);
        buf_reset(&turn->end_abort);
    }
    log_end(turn, LOG_INFO, turn->abort_status);
    turn_write_end(turn, turn->abort_status, turn->abort_status, message, NULL);
    free(message);
}

/* The record stands in `sent` still; nothing was written behind it, because the turn waited. What
 * ends a turn otherwise than complete has brought its events and rows in, and only the end not. */
void turn_unfinish(struct turn *turn)
{
    struct record *now = &turn->out.now, *sent = &turn->out.sent;
    struct record swap = *now;

    if (sent->how != RECORD_COMPLETE) {
        record_reset(sent);
        return;
    }
    *now = *sent;
    *sent = swap;
    buf_truncate(&now->events, turn->end_event_at);
    now->count--;
    turn->seq--;
    now->how = RECORD_OPEN;
    now->end = NULL;
    now->barrier = false;
    turn->end.status = NULL;
    free(turn->end_error);
    turn->end_error = NULL;
    if (turn->end_interrupts.len) { /* the question is not asked: see keep_partial() */
        buf_reset(&turn->end_interrupts);
        buf_truncate(&turn->messages, turn->end_question_at);
    }
}
