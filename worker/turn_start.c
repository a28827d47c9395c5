/*
 * How a turn begins: the conversation so far, the answers of a resume, the new message, and what
 * earlier attempts of this very turn have committed. Nothing that is committed is done again.
 */
#include "clock.h"
#include "log.h"
#include "mem.h"
#include "turn_state.h"
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void turn_add_message(struct turn *turn, const char *json)
{
    struct err err;
    JSON_AUTO(message) = json_parse(json, strlen(json), &err);

    (void)json_put_raw(&turn->messages, json, strlen(json));
    if (message)
        openai_put_message(&turn->wire, message);
}

/* ---- time ---- */

static void on_deadline(void *owner)
{
    static const struct turn_abort expired = {"expired", "deadline", NULL, 0};
    static const struct turn_abort too_long = {"failed", "limits.timeout", NULL, 0};
    struct turn *turn = owner;
    uint64_t ran_ms = clock_mono_ms() - turn->claimed_ms;

    if (ran_ms >= turn->agent->turn_timeout_ms)
        turn_abort(turn, &too_long);
    else
        turn_abort(turn, &expired);
}

static void start_deadline(struct turn *turn)
{
    uint64_t ms = turn->agent->turn_timeout_ms;

    if (turn->deadline_in_ms < 0)
        ms = 0;
    else if ((uint64_t)turn->deadline_in_ms < ms)
        ms = (uint64_t)turn->deadline_in_ms;
    delay_start(turn->env->delays, &turn->deadline, ms, on_deadline, turn);
}

/* ---- the first event ---- */

static int64_t number_of(const cJSON *obj, const char *key)
{
    const cJSON *value = json_get(obj, key);

    return cJSON_IsNumber(value) ? (int64_t)value->valuedouble : 0;
}

#define STARTED_SEQ 1 /* of turn.started */

/* Seq of the last event that belongs to something committed. */
static int64_t committed_seq(const cJSON *steps, const cJSON *calls)
{
    int64_t seq = STARTED_SEQ;
    const cJSON *row;

    cJSON_ArrayForEach (row, steps)
        if (number_of(row, "last_seq") > seq)
            seq = number_of(row, "last_seq");
    cJSON_ArrayForEach (row, calls)
        if (number_of(row, "seq") > seq)
            seq = number_of(row, "seq");
    return seq;
}

static void emit_start(struct turn *turn, const cJSON *steps, const cJSON *calls)
{
    struct buf *event;
    int64_t keep;

    turn->first = turn->seq == 0;
    if (turn->first) {
        int64_t now_ms = clock_wall_us() / 1000;

        histogram_add(&turn->env->stats->start_ms, (double)(now_ms - turn->created_ms));
        event = turn_event(turn, "turn.started");
        (void)json_put_member_str(event, "agent", turn->agent_name);
        (void)json_put_member_int(event, "revision", turn->revision);
        (void)json_put_member_str(event, "session_id", turn->session_id);
        turn_event_end(turn);
        return;
    }
    keep = committed_seq(steps, calls);
    turn->first = keep == STARTED_SEQ; /* what else was told is void now */
    if (turn->seq <= keep)
        return;
    event = turn_event(turn, "reset");
    (void)json_put_member_int(event, "to_seq", keep);
    (void)json_put_member_str(event, "reason", turn->fails ? "retry" : "takeover");
    turn_event_end(turn);
}

/* ---- the conversation ---- */

/* Put the history into the provider's form. If its last message asks for tools, its calls are
 * the turn's calls then. */
static int read_history(struct turn *turn, struct err *err)
{
    JSON_AUTO(history) =
        turn->history ? json_parse(turn->history, strlen(turn->history), err) : NULL;
    const cJSON *message, *last = NULL;

    if (turn->history && !history)
        return -1;
    cJSON_ArrayForEach (message, history) {
        openai_put_message(&turn->wire, message);
        last = message;
    }
    if (!last)
        return 0;
    calls_from_message(turn, last);
    if (turn->ncalls > 0)
        turn->asked = json_print(last);
    return 0;
}

/* The open call that an answer is for: by its id, else by its name. */
static struct call *find_open(struct turn *turn, const cJSON *answer)
{
    const char *ref = json_str_or(answer, "call_id", NULL);
    const char *name = json_str_or(answer, "name", NULL);

    for (int i = 0; i < turn->ncalls; i++) {
        struct call *call = &turn->calls[i];

        if (call->status != CALL_INTERRUPTED || (ref && strcmp(call->ref, ref) != 0) ||
            (name && strcmp(call->name, name) != 0))
            continue;
        return call;
    }
    return NULL;
}

static int take_responses(struct turn *turn, const cJSON *responses, struct err *err)
{
    const cJSON *answer;

    cJSON_ArrayForEach (answer, responses) {
        struct call *call = find_open(turn, answer);
        const cJSON *output = cJSON_GetObjectItemCaseSensitive(answer, "output");

        if (!call)
            return err_set(err, ERR_INVALID, "no call of \"%.60s\" waits for an answer",
                           json_str_or(answer, "name", ""));
        call->status = CALL_DONE;
        call->output = output ? json_print(output) : xstrdup("null");
    }
    return 0;
}

/* The answers, in the order of their calls. What was told by the turn that asked is told again for
 * Genkit alone: its clients get the tool message as it stands in the history then. */
static void tell_responses(struct turn *turn)
{
    for (int i = 0; i < turn->ncalls; i++) {
        const struct call *call = &turn->calls[i];
        struct buf *event;

        if (call->status != CALL_DONE || (call->pending && !turn->as_genkit))
            continue;
        event = turn_event(turn, "tool.result");
        (void)json_put_member_int(event, "step", 0);
        (void)json_put_member_str(event, "call_id", call->ref);
        (void)json_put_member_str(event, "name", call->name);
        (void)json_put_member_raw(event, "output", call->output);
        (void)json_put_member_raw(event, "pending", call->pending ? "true" : NULL);
        turn_event_end(turn);
    }
}

static int take_restarts(struct turn *turn, const cJSON *restarts, struct err *err)
{
    const cJSON *answer;

    cJSON_ArrayForEach (answer, restarts) {
        struct call *call = find_open(turn, answer);

        if (!call)
            return err_set(err, ERR_INVALID, "no call of \"%.60s\" waits to be restarted",
                           json_str_or(answer, "name", ""));
        if (!turn_is_same_input(call, json_get(answer, "input")))
            return err_set(err, ERR_INVALID, "call \"%.60s\" was made with another input",
                           call->ref);
        call->resumed = !cJSON_IsFalse(json_get(answer, "resumed"));
        call_restart(call);
    }
    for (int i = 0; i < turn->ncalls; i++) {
        struct call *call = &turn->calls[i];

        if (call->status == CALL_INTERRUPTED)
            return err_set(err, ERR_INVALID,
                           "call \"%.60s\" of \"%.60s\" still waits for an answer", call->ref,
                           call->name);
    }
    return 0;
}

static void prepare_restarts(struct turn *turn)
{
    turn->replaying = !turn->first;
    for (int i = 0; i < turn->ncalls; i++)
        if (turn->calls[i].restarted)
            calls_prepare(turn, &turn->calls[i]);
    turn->replaying = false;
}

/* ---- what earlier attempts committed ---- */

static const cJSON *find_ledger(const cJSON *rows, int step, int idx)
{
    const cJSON *row;

    cJSON_ArrayForEach (row, rows) {
        if (number_of(row, "step") == step && number_of(row, "idx") == idx)
            return row;
    }
    return NULL;
}

/* Is a person asked when the outcome of this call is unknown? */
static bool asks(const struct turn *turn, const struct call *call)
{
    const struct agent_tool *tool = agent_find_tool(turn->agent, call->name);

    return tool && tool->on_unknown == TOOL_UNKNOWN_ASK;
}

/* Give the calls of the step at hand the results that are in the ledger. */
static void replay_calls(struct turn *turn, const cJSON *rows)
{
    turn->replaying = true;
    for (int i = 0; i < turn->ncalls; i++) {
        struct call *call = &turn->calls[i];
        const cJSON *row = find_ledger(rows, turn->step, i);
        const cJSON *result = cJSON_GetObjectItemCaseSensitive(row, "result");
        const char *status = json_str_or(row, "status", "");

        if (call->status != CALL_NEW)
            continue;
        if (!strcmp(status, "done")) {
            call->status = CALL_DONE;
            call->output = result ? json_print(result) : xstrdup("null");
        } else if (!strcmp(status, "failed") || (!strcmp(status, "unknown") && !asks(turn, call))) {
            call->status = CALL_FAILED;
            call->code = xstrdup(json_str_or(result, "code", "TOOL_FAILED"));
            call->message = xstrdup(json_str_or(result, "message", ""));
        } else if (row) {
            calls_judge_unknown(turn, call);
        } else {
            calls_prepare(turn, call);
        }
    }
    turn->replaying = false;
}

static bool calls_are_answered(const struct turn *turn)
{
    for (int i = 0; i < turn->ncalls; i++)
        if (turn->calls[i].status != CALL_DONE && turn->calls[i].status != CALL_FAILED)
            return false;
    return true;
}

static void restore_usage(struct turn *turn, const cJSON *step)
{
    const cJSON *usage = json_get(step, "usage");

    turn->input_tokens = number_of(usage, "input_tokens");
    turn->output_tokens = number_of(usage, "output_tokens");
    turn->estimated = cJSON_IsTrue(json_get(usage, "estimated"));
}

/* Go on behind the steps that are committed. True when the last one leaves calls to be made, or
 * was the answer: then `next` says what to do. */
static bool replay_steps(struct turn *turn, const cJSON *steps, const cJSON *rows,
                         void (**next)(struct turn *turn))
{
    const cJSON *row;

    cJSON_ArrayForEach (row, steps) {
        const cJSON *message = json_get(row, "message");

        turn->step = (int)number_of(row, "step");
        restore_usage(turn, row);
        free(turn->asked);
        turn->asked = json_print(message);
        calls_from_message(turn, message);
        replay_calls(turn, rows);
        if (turn->ncalls == 0 || !calls_are_answered(turn))
            break; /* the last one: nothing came after it */
        turn_add_message(turn, turn->asked);
        calls_put_tool_message(turn, NULL, NULL);
        calls_free(turn);
        free(turn->asked);
        turn->asked = NULL;
    }
    if (!turn->asked)
        return false;
    *next = turn->ncalls > 0 ? turn_save_calls : turn_finish_replayed;
    return true;
}

/* ---- begin ---- */

static int begin_resume(struct turn *turn, const cJSON *resume, struct err *err)
{
    if (turn->ncalls == 0)
        return err_set(err, ERR_INVALID, "the snapshot waits for no answer");
    if (take_responses(turn, json_get(resume, "respond"), err) < 0)
        return -1;
    if (take_restarts(turn, json_get(resume, "restart"), err) < 0)
        return -1;
    if (turn->first) /* else it was told already */
        tell_responses(turn);
    prepare_restarts(turn);
    turn_resolve_question(turn);
    return 0;
}

static bool has_answers(const cJSON *resume)
{
    return cJSON_GetArraySize(json_get(resume, "respond")) > 0 ||
           cJSON_GetArraySize(json_get(resume, "restart")) > 0;
}

/* A question nobody answered: providers refuse open calls. */
static void close_question(struct turn *turn)
{
    if (turn->ncalls > 0)
        calls_put_tool_message(turn, "NOT_ANSWERED", "the user went on without answering");
    calls_free(turn);
    free(turn->asked);
    turn->asked = NULL;
}

static int begin_message(struct turn *turn, const cJSON *input, struct err *err)
{
    BUF_AUTO(message, BUF_MAX);

    close_question(turn);
    if (history_put_user(&message, input, err) < 0)
        return -1;
    turn_add_message(turn, message.data);
    return 0;
}

/* Genkit takes a message of any role as it is, and none at all. */
static int begin_any(struct turn *turn, const cJSON *input, struct err *err)
{
    const cJSON *message = json_get(input, "message");
    const char *uri = message ? history_resource(message) : NULL;
    char *text;

    if (strcmp(json_str_or(message, "role", ""), "tool") != 0) /* else it has the answers */
        close_question(turn);
    if (!message)
        return 0;
    text = json_print(message);
    turn_add_message(turn, text);
    free(text);
    return uri ? err_set(err, ERR_NOT_FOUND, "there is no resource for %.200s", uri) : 0;
}

void turn_save_calls(struct turn *turn)
{
    calls_claim(turn);
    turn_save(turn);
}

/* Nothing that is committed is done again or forgotten: without it the turn cannot go on. */
static void fail_unreadable(struct turn *turn, const struct err *err)
{
    char what[320];

    snprintf(what, sizeof(what), "what is stored for this turn cannot be read: %s", err->msg);
    turn_fail(turn, "UNREADABLE", false, -1, what);
}

static void begin_llm(struct turn *turn, const cJSON *steps, const cJSON *rows)
{
    struct err err = {0};
    JSON_AUTO(options) =
        turn->options ? json_parse(turn->options, strlen(turn->options), &err) : NULL;
    JSON_AUTO(input) = NULL;
    const cJSON *resume = json_get(options, "resume");
    void (*next)(struct turn * turn) = turn_ask;
    int rc;

    turn->as_genkit = !strcmp(json_str_or(options, "as", ""), "genkit");
    if ((turn->options && !options) || read_history(turn, &err) < 0) {
        fail_unreadable(turn, &err);
        return;
    }
    input = json_parse(turn->input, strlen(turn->input), &err);
    if (resume && (json_get(input, "message") || (turn->ncalls == 0 && !has_answers(resume)))) {
        turn_fail(turn, "NOT_RESUMABLE", false, -1,
                  "the conversation does not end with a question that waits for an answer");
        return;
    }
    rc = resume            ? begin_resume(turn, resume, &err)
         : turn->as_genkit ? begin_any(turn, input, &err)
                           : begin_message(turn, input, &err);
    if (rc < 0) {
        turn_fail(turn,
                  resume                      ? "INVALID_RESUME"
                  : err.code == ERR_NOT_FOUND ? "UNKNOWN_RESOURCE"
                                              : "INVALID_INPUT",
                  false, -1, err.msg);
        return;
    }
    if (resume && turn->ncalls > 0) {
        replay_calls(turn, rows);
        if (calls_are_answered(turn) && cJSON_GetArraySize(steps) > 0) {
            calls_put_tool_message(turn, NULL, NULL);
            calls_free(turn);
            free(turn->asked);
            turn->asked = NULL;
        } else {
            next = turn_save_calls;
        }
    }
    if (next == turn_ask)
        (void)replay_steps(turn, steps, rows, &next);
    turn_park(turn, next);
}

void turn_begin(struct turn *turn)
{
    struct err err;
    JSON_AUTO(steps) =
        turn->steps_done ? json_parse(turn->steps_done, strlen(turn->steps_done), &err) : NULL;
    JSON_AUTO(rows) =
        turn->calls_done ? json_parse(turn->calls_done, strlen(turn->calls_done), &err) : NULL;

    start_deadline(turn);
    if ((turn->steps_done && !steps) || (turn->calls_done && !rows)) {
        fail_unreadable(turn, &err);
        return;
    }
    emit_start(turn, steps, rows);
    turn->kept_seq = turn->seq;
    if (turn->agent->state_at == AGENT_STATE_CLIENT)
        turn_take_state(turn);
    if (turn->agent->kind == AGENT_LLM)
        begin_llm(turn, steps, rows);
    else
        turn_park(turn, work_begin);
    if (!turn->resuming && turn->agent->state_at == AGENT_STATE_SERVER &&
        (!turn->parent || turn->parent_depth + 1 < SNAPSHOT_WHOLE_EVERY)) {
        free(turn->history); /* its snapshot holds new messages only */
        turn->history = NULL;
    }
}
