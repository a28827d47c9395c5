/* The tool calls of one step: checked, claimed in the ledger, run at the same time, answered. */
#include "clock.h"
#include "mem.h"
#include "patch.h"
#include "schema.h"
#include "turn_state.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STDERR_SHOWN_BYTES 2000 /* in an event */
#define ARTIFACT_NAME_MAX  500  /* it is part of a key */

static struct buf *call_event(struct call *call, const char *type)
{
    struct buf *event = turn_event(call->turn, type);

    (void)json_put_member_int(event, "step", call->turn->step);
    (void)json_put_member_str(event, "call_id", call->ref);
    (void)json_put_member_str(event, "name", call->name);
    return event;
}

static void put_stderr(struct buf *event, const char *stderr_tail)
{
    size_t len = stderr_tail ? strlen(stderr_tail) : 0;

    if (len == 0)
        return;
    if (len > STDERR_SHOWN_BYTES)
        stderr_tail += len - STDERR_SHOWN_BYTES;
    (void)json_put_member_str(event, "stderr", stderr_tail);
}

static void call_succeed(struct call *call, const char *output, const char *stderr_tail)
{
    struct buf *event;

    call->status = CALL_DONE;
    call->output = xstrdup(output);
    if (call->turn->replaying)
        return;
    event = call_event(call, "tool.result");
    (void)json_put_member_raw(event, "output", output);
    put_stderr(event, stderr_tail);
    turn_event_end(call->turn);
}

static void call_fail(struct call *call, const char *code, const char *message,
                      const char *stderr_tail)
{
    struct buf *event;

    call->status = CALL_FAILED;
    call->code = xstrdup(code);
    call->message = xstrdup(message);
    if (call->turn->replaying)
        return;
    call->turn->env->stats->tool_errors++;
    event = call_event(call, "tool.error");
    (void)json_put_key(event, "error");
    (void)json_open(event, '{');
    (void)json_put_member_str(event, "code", code);
    (void)json_put_member_str(event, "message", message);
    (void)json_close(event, '}');
    put_stderr(event, stderr_tail);
    turn_event_end(call->turn);
}

static void call_interrupt(struct call *call, const char *why)
{
    struct buf *event;

    call->status = CALL_INTERRUPTED;
    call->interrupt = xstrdup(why);
    if (call->turn->replaying)
        return;
    event = call_event(call, "interrupt");
    (void)json_put_member_raw(event, "input", call->arguments);
    (void)json_put_member_raw(event, "metadata", why);
    turn_event_end(call->turn);
}

/* ---- types without an outside effect ---- */

static void run_state(struct call *call, const cJSON *arguments)
{
    struct turn *turn = call->turn;
    cJSON *next = patch_merge_shallow(turn->custom, arguments);
    struct buf *event;

    if (!turn->replaying) {
        event = turn_event(turn, "state.patch");
        (void)json_put_key(event, "patch");
        /* The first patch of a turn replaces the whole document: a client may have none. */
        (void)patch_diff(turn->custom_told ? turn->custom : NULL, next, event);
        turn_event_end(turn);
    }
    turn->custom_told = true;
    cJSON_Delete(turn->custom);
    turn->custom = next;
    call_succeed(call, "{\"status\":\"ok\"}", NULL);
}

/* Put `item`, which has a name, into the array, in the place of the one of that name. */
static void put_named(cJSON **array, cJSON *item)
{
    const char *name = json_str_or(item, "name", "");
    int at = 0;
    const cJSON *old;

    if (!*array)
        *array = cJSON_CreateArray();
    cJSON_ArrayForEach (old, *array) {
        if (!strcmp(json_str_or(old, "name", ""), name)) {
            cJSON_ReplaceItemInArray(*array, at, item);
            return;
        }
        at++;
    }
    cJSON_AddItemToArray(*array, item);
}

/* Note in the references that this task holds the newest artifact of that name. */
static void refer_artifact(struct turn *turn, const char *name)
{
    cJSON *ref = cJSON_CreateObject();

    cJSON_AddStringToObject(ref, "name", name);
    cJSON_AddStringToObject(ref, "task_id", turn->out.task_id);
    put_named(&turn->artifacts, ref);
}

static void run_artifact(struct call *call, const cJSON *arguments)
{
    struct turn *turn = call->turn;
    const char *name = json_str_or(arguments, "name", "");
    BUF_AUTO(artifact, BUF_MAX);
    BUF_AUTO(result, BUF_MAX);
    struct buf *event;

    if (strlen(name) > ARTIFACT_NAME_MAX) {
        call_fail(call, "INVALID_ARGUMENTS", "name: must have at most 500 bytes", NULL);
        return;
    }
    struct err err;

    (void)json_open(&artifact, '{');
    (void)json_put_member_str(&artifact, "name", name);
    (void)json_put_key(&artifact, "parts");
    (void)json_open(&artifact, '[');
    (void)json_open(&artifact, '{');
    (void)json_put_member_str(&artifact, "text", json_str_or(arguments, "text", ""));
    (void)json_close(&artifact, '}');
    (void)json_close(&artifact, ']');
    (void)json_close(&artifact, '}');
    if (turn->agent->state_at == AGENT_STATE_CLIENT)
        turn_keep_artifact(turn, name, artifact.data);
    else
        refer_artifact(turn, name);
    record_artifact(&turn->out.now, name, artifact.data);
    put_named(&turn->new_artifacts, json_parse(artifact.data, artifact.len, &err));
    if (!turn->replaying) {
        event = turn_event(turn, "artifact");
        (void)json_put_member_str(event, "name", name);
        (void)json_put_member_raw(event, "artifact", artifact.data);
        turn_event_end(turn);
    }
    (void)json_open(&result, '{');
    (void)json_put_member_str(&result, "status", "saved");
    (void)json_put_member_str(&result, "name", name);
    (void)json_close(&result, '}');
    call_succeed(call, result.data, NULL);
}

/* ---- checking ---- */

static void fail_with_problems(struct call *call, const struct problem_list *problems)
{
    BUF_AUTO(text, 4096);

    for (size_t i = 0; i < problems->n; i++) {
        if (i > 0 && buf_puts(&text, "; ") < 0)
            break;
        if (problem_put_text(&problems->items[i], &text) < 0)
            break;
    }
    call_fail(call, "INVALID_ARGUMENTS", text.data, NULL);
}

void calls_prepare(struct turn *turn, struct call *call)
{
    PROBLEMS_AUTO(problems);
    char message[160];
    struct err err = {0};
    JSON_AUTO(arguments) =
        call->arguments ? json_parse(call->arguments, strlen(call->arguments), &err) : NULL;

    call->tool = agent_find_tool(turn->agent, call->name);
    if (!call->tool) {
        snprintf(message, sizeof(message), "there is no tool \"%.100s\"", call->name);
        call_fail(call, "UNKNOWN_TOOL", message, NULL);
    } else if (!arguments) {
        call_fail(call, "INVALID_ARGUMENTS", "the arguments are not JSON", NULL);
    } else if (schema_check(call->tool->schema, arguments, NULL, &problems) < 0) {
        fail_with_problems(call, &problems);
    } else if (call->tool->type == TOOL_STATE) {
        run_state(call, arguments);
    } else if (call->tool->type == TOOL_ARTIFACT) {
        run_artifact(call, arguments);
    } else if (call->tool->type == TOOL_INTERRUPT) {
        call_interrupt(call, "true");
    } else if (call->tool->confirm && !call->resumed) {
        call_interrupt(call, "{\"confirm\":true}");
    }
}

/* The arguments of a request: text that is no JSON is kept in `input` as a string. */
static char *arguments_of(const cJSON *input)
{
    if (cJSON_IsString(input))
        return NULL;
    return input ? json_print(input) : xstrdup("{}");
}

void calls_from_message(struct turn *turn, const cJSON *message)
{
    struct history_call found[TURN_MAX_CALLS];
    int n = history_calls(message, found, TURN_MAX_CALLS);

    calls_free(turn);
    if (n == 0)
        return;
    turn->calls = xcalloc((size_t)n, sizeof(*turn->calls));
    turn->ncalls = n;
    for (int i = 0; i < n; i++) {
        struct call *call = &turn->calls[i];

        call->turn = turn;
        call->idx = i;
        call->status = CALL_NEW;
        call->name = xstrdup(found[i].name);
        call->ref = xstrdup(found[i].ref);
        call->arguments = arguments_of(found[i].input);
        if (found[i].pending) {
            call->status = CALL_DONE;
            call->pending = true;
            call->output = json_print(found[i].pending);
        } else if (found[i].interrupt) {
            call->status = CALL_INTERRUPTED;
            call->interrupt = json_print(found[i].interrupt);
        }
        /* task, step and place: the same for whoever makes this call, however often */
        snprintf(call->key, sizeof(call->key), "%s/%d/%d", turn->origin, turn->step, i);
    }
}

void call_restart(struct call *call)
{
    struct err err;
    JSON_AUTO(why) = json_parse(call->interrupt, strlen(call->interrupt), &err);
    const char *key = json_str_or(why, "idempotency_key", "");

    if (*key && strlen(key) < sizeof(call->key))
        snprintf(call->key, sizeof(call->key), "%s", key);
    call->status = CALL_NEW;
    call->restarted = true;
    free(call->interrupt);
    call->interrupt = NULL;
}

void calls_free(struct turn *turn)
{
    for (int i = 0; i < turn->ncalls; i++) {
        struct call *call = &turn->calls[i];

        tool_run_release(&call->run);
        free(call->name);
        free(call->ref);
        free(call->arguments);
        free(call->output);
        free(call->code);
        free(call->message);
        free(call->interrupt);
    }
    free(turn->calls);
    turn->calls = NULL;
    turn->ncalls = 0;
}

/* ---- running ---- */

void calls_claim(struct turn *turn)
{
    for (int i = 0; i < turn->ncalls; i++) {
        struct call *call = &turn->calls[i];

        if (call->status != CALL_NEW)
            continue;
        record_claim(&turn->out.now, turn->step, call->idx, call->ref, call->name);
        call->ledgered = true;
    }
}

static void settle(struct call *call, bool unknown)
{
    struct turn *turn = call->turn;
    BUF_AUTO(result, BUF_MAX);

    if (!call->ledgered)
        return;
    if (call->status == CALL_DONE) {
        (void)json_put_raw(&result, call->output, strlen(call->output));
    } else {
        (void)json_open(&result, '{');
        (void)json_put_member_str(&result, "code", call->code);
        (void)json_put_member_str(&result, "message", call->message);
        (void)json_close(&result, '}');
    }
    record_settle(&turn->out.now, turn->step, call->idx,
                  unknown                     ? "unknown"
                  : call->status == CALL_DONE ? "done"
                                              : "failed",
                  result.data, turn->seq);
    turn->kept_seq = turn->seq;
    flush_put(turn->env->flusher, &turn->out, false);
}

/* Whoever answers can look the key up where the tool has its effect; and should the call be made
 * again, it is made under the same one. */
static void ask_unknown(struct call *call)
{
    BUF_AUTO(why, 256);

    (void)json_open(&why, '{');
    (void)json_put_member_raw(&why, "unknown_outcome", "true");
    (void)json_put_member_str(&why, "idempotency_key", call->key);
    (void)json_close(&why, '}');
    call_interrupt(call, why.data);
}

void calls_judge_unknown(struct turn *turn, struct call *call)
{
    bool replaying = turn->replaying;

    calls_prepare(turn, call);
    if (call->status != CALL_NEW)
        return;
    call->ledgered = true;
    turn->replaying = false; /* what is decided here is news */
    switch (call->tool->on_unknown) {
    case TOOL_UNKNOWN_RETRY: /* runs again, with the same idempotency key */
        break;
    case TOOL_UNKNOWN_ASK:
        /* settled before its event: should we die before the end, it is asked anew */
        record_settle(&turn->out.now, turn->step, call->idx, "unknown", "null", turn->seq);
        ask_unknown(call);
        break;
    case TOOL_UNKNOWN_FAIL:
        call_fail(call, "OUTCOME_UNKNOWN",
                  "the worker died while the tool ran; it may have taken effect", NULL);
        settle(call, true);
        break;
    }
    turn->replaying = replaying;
}

static void on_tool_done(void *owner, const struct tool_outcome *outcome)
{
    struct call *call = owner;
    struct turn *turn = call->turn;
    bool canceled = !outcome->ok && !strcmp(outcome->code, "CANCELED");

    turn->running--;
    histogram_add(&turn->env->stats->tool_ms, (double)(clock_mono_us() - call->started_us) / 1000);
    if (turn->lost) {
        turn_dropped(turn);
        return;
    }
    if (canceled && turn->leaving && !turn->aborting) {
        call->status = CALL_NEW; /* its row stays claimed: the next worker asks the tool's policy */
    } else if (outcome->ok) {
        call_succeed(call, outcome->output, outcome->stderr_tail);
        settle(call, false);
    } else {
        call_fail(call, outcome->code, outcome->message, outcome->stderr_tail);
        settle(call, canceled);
    }
    if (turn->running == 0)
        calls_finish(turn);
}

static void call_run(struct call *call)
{
    struct turn *turn = call->turn;
    struct tool_ids ids = {turn->out.task_id, call->ref, call->key};
    struct buf *event = call_event(call, "tool.started");

    (void)json_put_member_raw(event, "input", call->arguments);
    turn_event_end(turn);
    turn->env->stats->tool_calls++;
    call->status = CALL_RUNNING;
    call->started_us = clock_mono_us();
    turn->running++;
    tool_run_start(&call->run, &turn->env->tool, call->tool, call->arguments, &ids, on_tool_done,
                   call);
}

void calls_run(struct turn *turn)
{
    turn_enter(turn, TURN_CALLING);
    for (int i = 0; i < turn->ncalls; i++)
        if (turn->calls[i].status == CALL_NEW)
            call_run(&turn->calls[i]);
    if (turn->out.full)
        calls_pause(turn, true);
    if (turn->running == 0)
        turn_park(turn, calls_finish);
}

void calls_pause(struct turn *turn, bool paused)
{
    for (int i = 0; i < turn->ncalls; i++)
        if (turn->calls[i].status == CALL_RUNNING)
            tool_run_pause(&turn->calls[i].run, paused);
}

void calls_cancel(struct turn *turn)
{
    for (int i = 0; i < turn->ncalls; i++)
        if (turn->calls[i].status == CALL_RUNNING)
            tool_run_cancel(&turn->calls[i].run);
}

/* The agent does not let the model see that a tool failed. */
static void fail_with_call(struct turn *turn, const struct call *call)
{
    char code[64], message[512];

    snprintf(code, sizeof(code), "%s", call->code);
    snprintf(message, sizeof(message), "tool %.64s: %.400s", call->name, call->message);
    message[utf8_prefix(message, strlen(message))] = '\0';
    if (turn->step > 0)
        turn_add_message(turn, turn->asked);
    calls_put_tool_message(turn, NULL, NULL);
    free(turn->asked);
    turn->asked = NULL;
    turn_fail(turn, code, false, -1, message);
}

void calls_finish(struct turn *turn)
{
    if (turn_is_told(turn)) {
        turn_finish_early(turn);
        return;
    }
    for (int i = 0; i < turn->ncalls; i++) {
        if (turn->calls[i].status == CALL_FAILED &&
            turn->agent->on_tool_error == AGENT_TOOL_ERROR_FAIL) {
            fail_with_call(turn, &turn->calls[i]);
            return;
        }
    }
    for (int i = 0; i < turn->ncalls; i++) {
        if (turn->calls[i].status == CALL_INTERRUPTED) {
            turn_interrupt(turn);
            return;
        }
    }
    if (turn->step > 0)
        turn_add_message(turn, turn->asked);
    calls_put_tool_message(turn, NULL, NULL);
    turn_ask(turn);
}

/* ---- answers ---- */

void calls_put_tool_message(struct turn *turn, const char *open_code, const char *open_message)
{
    BUF_AUTO(message, BUF_MAX);

    history_open_tool(&message);
    for (int i = 0; i < turn->ncalls; i++) {
        const struct call *call = &turn->calls[i];

        if (call->pending)
            history_put_pending(&message, call->name, call->ref, call->output);
        else if (call->status == CALL_DONE)
            history_put_response(&message, call->name, call->ref, call->output);
        else if (call->status == CALL_FAILED)
            history_put_failure(&message, call->name, call->ref, call->code, call->message);
        else
            history_put_failure(&message, call->name, call->ref, open_code ? open_code : "OPEN",
                                open_message ? open_message : "the call was not made");
    }
    if (turn->resuming && turn->step == 0)
        history_close_resumed(&message);
    else
        history_close_tool(&message);
    turn_add_message(turn, message.data);
}

static void put_interrupt(const struct call *call, struct buf *interrupts)
{
    (void)json_open(interrupts, '{');
    (void)json_put_member_str(interrupts, "name", call->name);
    (void)json_put_member_str(interrupts, "call_id", call->ref);
    (void)json_put_member_raw(interrupts, "input", call->arguments);
    (void)json_put_member_raw(interrupts, "metadata", call->interrupt);
    (void)json_close(interrupts, '}');
}

/* The metadata of one request: what is open, or the answer that the others wait for. */
static cJSON *metadata_of(const struct call *call)
{
    cJSON *metadata = cJSON_CreateObject();
    BUF_AUTO(failure, BUF_MAX);

    if (call->status == CALL_INTERRUPTED) {
        cJSON_AddItemToObject(metadata, "interrupt", cJSON_Parse(call->interrupt));
    } else if (call->status == CALL_DONE) {
        cJSON_AddItemToObject(metadata, "pendingOutput", cJSON_Parse(call->output));
    } else {
        history_put_error_value(&failure, call->code ? call->code : "OPEN",
                                call->message ? call->message : "the call was not made");
        cJSON_AddItemToObject(metadata, "pendingOutput", cJSON_Parse(failure.data));
    }
    return metadata;
}

void calls_put_interrupted(struct turn *turn, struct buf *message, struct buf *interrupts)
{
    struct err err;
    JSON_AUTO(root) = json_parse(turn->asked, strlen(turn->asked), &err);
    cJSON *part;
    char *text;
    int i = 0;

    (void)json_open(interrupts, '[');
    cJSON_ArrayForEach (part, cJSON_GetObjectItemCaseSensitive(root, "content")) {
        if (!json_get(part, "toolRequest") || i == turn->ncalls)
            continue;
        if (turn->calls[i].status == CALL_INTERRUPTED)
            put_interrupt(&turn->calls[i], interrupts);
        cJSON_DeleteItemFromObjectCaseSensitive(part, "metadata");
        cJSON_AddItemToObject(part, "metadata", metadata_of(&turn->calls[i]));
        i++;
    }
    (void)json_close(interrupts, ']');
    text = json_print(root);
    (void)buf_puts(message, text);
    free(text);
}
