/*
 *   FETCHING ---> ASKING ---> SAVING ---> CALLING ---> ASKING ... ---> ENDING ---> ENDED
 *       |           |            |           |                          ^
 *       |           +------------+-----------+--------------------------+
 *       +---> WORKING (process and http agents) ------------------------+
 *
 *   before ASKING, CALLING, WORKING: SUSPENDED while this worker may start no call
 *   any state --- turn_drop() ---> DROPPING ---> ENDED
 *
 * FETCHING  the definition; what earlier attempts committed is then replayed (turn_start.c)
 * ASKING    one model call streams; its deltas are events
 * SAVING    the step and the claims of its tool calls become durable before any of them runs
 * CALLING   the calls run at the same time, each a flow of its own (turn_calls.c)
 * ENDING    the end becomes durable: done, snapshot, the session's next task (turn_end.c)
 * PARKED    a decision made at the start is carried out from the loop, so that no flow of ours
 *           ends inside the call that started it
 * SUSPENDED  the database has not answered for too long: calls that were in flight go on and what
 *           they tell is kept, but none is started (gate.h)
 * DROPPING  the lease is another's: our calls are being closed
 *
 * If this process dies in ASKING the model call is paid again; after SAVING it is not. In CALLING
 * the outcome of a tool call is unknown to the next worker, and its policy decides. Nothing else
 * is done twice. A database that is away costs waiting in SAVING, SUSPENDED and ENDING, nothing
 * more.
 *
 * What is told and not written yet has a limit (flusher.h). A turn that reaches it reads no more
 * of its model, program or tools until there is room: a producer that is faster than the database
 * is held up, not failed.
 */
#include "turn.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"
#include "turn_state.h"
#include "work.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[] = {"fetching", "asking",    "saving", "calling",  "working",
                                          "parked",   "suspended", "ending", "dropping", "ended"};

/* The only writer of `state`: one place to log and, in tests, to crash. */
void turn_enter(struct turn *turn, enum turn_state state)
{
    char context[128];

    turn->state = state;
    hook_state("turn", (int)state);
    if (!log_takes(LOG_DEBUG))
        return;
    snprintf(context, sizeof(context), "task=%s epoch=%lld state=%s", turn->out.task_id,
             (long long)turn->epoch, state_names[state]);
    log_line(LOG_DEBUG, context, "enter");
}

bool turn_is_told(const struct turn *turn)
{
    return turn->aborting || turn->leaving || turn->poisoned;
}

static void turn_free(struct turn *turn)
{
    agents_give_back(turn->env->agents, turn->agent);
    flush_client_release(turn->env->flusher, &turn->out);
    model_call_release(&turn->model);
    calls_free(turn);
    work_free(turn->work);
    cJSON_Delete(turn->custom);
    cJSON_Delete(turn->artifacts);
    cJSON_Delete(turn->new_artifacts);
    buf_release(&turn->messages);
    buf_release(&turn->wire);
    buf_release(&turn->end_output);
    buf_release(&turn->end_usage);
    buf_release(&turn->end_abort);
    buf_release(&turn->end_interrupts);
    buf_release(&turn->end_messages);

    char *const texts[] = {
        turn->tenant,        turn->agent_name,  turn->session_id, turn->parent,
        turn->started_at,    turn->input,       turn->options,    turn->history,
        turn->steps_done,    turn->calls_done,  turn->asked,      turn->abort_status,
        turn->abort_reason,  turn->abort_actor, turn->end_error,  turn->end_custom,
        turn->end_artifacts, turn->origin,      turn->unreadable};

    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        free(texts[i]);
    free(turn);
}

static void turn_unmap(struct turn *turn)
{
    if (turn->mapped)
        map_remove(turn->env->by_task, &turn->by_task);
    turn->mapped = false;
}

/* The answer to our letting a task go may come after it was claimed here again. */
static void turn_map(struct turn *turn)
{
    struct turn *before = turn_of_task(turn->env, turn->out.task_id);

    if (before)
        turn_unmap(before);
    map_add(turn->env->by_task, &turn->by_task, turn->out.task_id);
    turn->mapped = true;
}

/* Nothing is in flight any more. */
static void turn_over(struct turn *turn)
{
    turn_enter(turn, TURN_ENDED);
    delay_cancel(&turn->deadline);
    delay_cancel(&turn->parked);
    list_remove(&turn->node);
    turn_unmap(turn);
    turn->env->on_end(turn->env->owner, turn);
    turn_free(turn);
}

/* In DROPPING: over as soon as the last operation has called back. */
static void turn_check_dropped(struct turn *turn)
{
    if (model_call_is_busy(&turn->model) || turn->running > 0 || work_is_busy(turn->work))
        return;
    if (flusher_forget(turn->env->flusher, &turn->out))
        turn_over(turn);
}

/* One of the operations of a dropped turn has called back. */
void turn_dropped(struct turn *turn)
{
    turn_enter(turn, TURN_DROPPING);
    turn_check_dropped(turn);
}

static void on_parked(void *owner)
{
    struct turn *turn = owner;

    if (turn->lost) {
        turn_dropped(turn);
    } else if (turn_is_told(turn)) {
        turn_finish_early(turn);
    } else {
        turn->after_park(turn);
    }
}

void turn_park(struct turn *turn, void (*next)(struct turn *turn))
{
    turn_enter(turn, TURN_PARKED);
    turn->after_park = next;
    delay_start(turn->env->delays, &turn->parked, 0, on_parked, turn);
}

/* ---- asking ---- */

static void on_text(void *owner, const char *text, size_t len)
{
    struct turn *turn = owner;
    struct buf *event = turn_event(turn, "content.delta");

    (void)json_put_key(event, "text");
    (void)json_put_strn(event, text, len);
    turn_event_end(turn);
}

static void on_reasoning(void *owner, const char *text, size_t len)
{
    struct turn *turn = owner;
    struct buf *event = turn_event(turn, "reasoning.delta");

    (void)json_put_key(event, "text");
    (void)json_put_strn(event, text, len);
    turn_event_end(turn);
}

static void on_call_delta(void *owner, int index, const char *id, const char *name,
                          const char *arguments, size_t len)
{
    struct turn *turn = owner;
    struct buf *event = turn_event(turn, "tool_call.delta");

    (void)json_put_member_int(event, "index", index);
    (void)json_put_member_str(event, "call_id", id);
    (void)json_put_member_str(event, "name", name);
    (void)json_put_key(event, "arguments");
    (void)json_put_strn(event, arguments, len);
    turn_event_end(turn);
}

static void on_void(void *owner, const char *why)
{
    struct turn *turn = owner;
    struct buf *event = turn_event(turn, "reset");

    (void)json_put_member_int(event, "to_seq", turn->kept_seq);
    (void)json_put_member_str(event, "reason", why);
    turn_event_end(turn);
    event = turn_event(turn, "step.started");
    (void)json_put_member_int(event, "step", turn->step);
    turn_event_end(turn);
}

void turn_add_usage(struct turn *turn, const struct answer *answer)
{
    int64_t in = answer->input_tokens, out = answer->output_tokens;

    if (!answer->has_usage) {
        in = (int64_t)(turn->model.request.len / 4);
        out = (int64_t)((answer->bytes + 3) / 4);
        turn->estimated = true;
    }
    turn->input_tokens += in;
    turn->output_tokens += out;
    turn->env->stats->input_tokens += (uint64_t)in;
    turn->env->stats->output_tokens += (uint64_t)out;
}

/* `message` says what tools were asked for; without any the deltas have told all of it. */
static void emit_step_ended(struct turn *turn, const struct answer *answer, const char *message)
{
    struct buf *event = turn_event(turn, "step.ended");

    (void)json_put_member_int(event, "step", turn->step);
    (void)json_put_member_str(event, "finish_reason", answer->finish);
    if (answer->has_usage) {
        (void)json_put_key(event, "usage");
        (void)json_open(event, '{');
        (void)json_put_member_int(event, "input_tokens", answer->input_tokens);
        (void)json_put_member_int(event, "output_tokens", answer->output_tokens);
        (void)json_close(event, '}');
    }
    if (answer->ncalls > 0)
        (void)json_put_member_raw(event, "message", message);
    turn_event_end(turn);
}

/* The model's answer is whole: record it, then make its calls or end. */
static void turn_take_answer(struct turn *turn)
{
    const struct answer *answer = &turn->model.answer;
    BUF_AUTO(message, BUF_MAX);
    BUF_AUTO(usage, 128);
    struct err err;

    turn_add_usage(turn, answer);
    turn_put_answer(turn, answer, true, &message);
    emit_step_ended(turn, answer, message.data);
    turn->kept_seq = turn->seq;
    (void)json_open(&usage, '{');
    (void)json_put_member_int(&usage, "input_tokens", turn->input_tokens);
    (void)json_put_member_int(&usage, "output_tokens", turn->output_tokens);
    (void)json_put_member_raw(&usage, "estimated", turn->estimated ? "true" : NULL);
    (void)json_close(&usage, '}');
    record_set_step(&turn->out.now, turn->step, message.data, answer->finish, usage.data,
                    turn->seq);
    turn->env->stats->steps++;
    free(turn->asked);
    turn->asked = NULL;
    if (turn->as_genkit && !strcmp(answer->finish, "content_filter")) {
        turn_fail(turn, "CONTENT_FILTER", false, -1, "Generation blocked.");
        return;
    }
    turn->asked = xstrdup(message.data);

    JSON_AUTO(root) = json_parse(message.data, message.len, &err);

    calls_from_message(turn, root);
    if (turn->ncalls == 0) {
        bool cut = !strcmp(answer->finish, "length") || !strcmp(answer->finish, "max_tokens");
        bool filtered = !strcmp(answer->finish, "content_filter");

        turn_finish(turn, cut || filtered ? "incomplete" : "completed",
                    cut        ? "length"
                    : filtered ? "content_filter"
                               : "stop");
        return;
    }
    for (int i = 0; i < turn->ncalls; i++)
        calls_prepare(turn, &turn->calls[i]);
    /* what that told stands in the same record: a takeover does not tell it again */
    turn->kept_seq = turn->out.now.step_last_seq = turn->seq;
    calls_claim(turn);
    turn_save(turn);
}

static void on_answered(void *owner, const struct model_error *error)
{
    struct turn *turn = owner;

    if (turn->lost)
        turn_dropped(turn);
    else if (turn_is_told(turn))
        turn_finish_early(turn);
    else if (error)
        turn_fail(turn, error->code, error->retryable, error->retry_after_ms, error->message);
    else
        turn_take_answer(turn);
}

/* The model call of the next step. */
static void turn_call_model(struct turn *turn)
{
    const struct model_callbacks cbs = {
        .delta = {on_text, on_reasoning, on_call_delta, turn},
        .on_void = on_void,
        .done = on_answered,
        .owner = turn,
    };
    struct buf *event;

    turn->kept_seq = turn->seq;
    turn->step++;
    event = turn_event(turn, "step.started");
    (void)json_put_member_int(event, "step", turn->step);
    turn_event_end(turn);
    turn_enter(turn, TURN_ASKING);
    model_call_start(&turn->model, &turn->env->model, turn->agent, &turn->wire, &cbs);
    if (turn->out.full)
        turn_pause(turn, true);
}

void turn_ask(struct turn *turn)
{
    calls_free(turn);
    free(turn->asked);
    turn->asked = NULL;
    if (turn->step >= turn->agent->max_steps &&
        turn->agent->on_tool_error == AGENT_TOOL_ERROR_FAIL) {
        turn_fail(turn, "MAX_STEPS", false, -1,
                  "the model asked for tools more than limits.max_steps times");
        return;
    }
    if (turn->step >= turn->agent->max_steps) {
        turn_finish(turn, "incomplete", "max_steps");
        return;
    }
    turn_when_open(turn, turn_call_model);
}

/* Close what is in flight; each operation still calls back. */
static void turn_cancel(struct turn *turn)
{
    switch (turn->state) {
    case TURN_ASKING:
        model_call_cancel(&turn->model);
        break;
    case TURN_CALLING:
        calls_cancel(turn);
        break;
    case TURN_WORKING:
        work_cancel(turn->work);
        break;
    case TURN_SUSPENDED:
        gate_leave(&turn->gate_wait);
        if (!turn->lost)
            turn_park(turn, NULL); /* it is seen there that we were told */
        break;
    default: /* what is in flight ends by itself, and then it is seen that we were told */
        break;
    }
}

/* ---- waiting for the database ---- */

static void on_gate(void *owner)
{
    struct turn *turn = owner;

    turn_when_open(turn, turn->after_park);
}

void turn_when_open(struct turn *turn, void (*next)(struct turn *turn))
{
    if (gate_is_open(turn->env->gate)) {
        next(turn);
        return;
    }
    turn_enter(turn, TURN_SUSPENDED);
    turn->after_park = next;
    gate_wait(turn->env->gate, &turn->gate_wait, on_gate, turn);
}

void turn_pause(struct turn *turn, bool paused)
{
    switch (turn->state) {
    case TURN_ASKING:
        model_call_pause(&turn->model, paused);
        break;
    case TURN_CALLING:
        calls_pause(turn, paused);
        break;
    case TURN_WORKING:
        work_pause(turn->work, paused);
        break;
    default: /* nothing is being read */
        break;
    }
}

static void on_room(void *owner)
{
    turn_pause(owner, false);
}

/* ---- saving and ending ---- */

void turn_save(struct turn *turn)
{
    turn_enter(turn, TURN_SAVING);
    flush_put(turn->env->flusher, &turn->out, true);
}

static void turn_saved(struct turn *turn)
{
    if (turn_is_told(turn))
        turn_finish_early(turn);
    else
        turn_when_open(turn, calls_run);
}

/* An abort from the database beats our own time-out: the database takes no other end then. */
static void read_control(struct turn *turn, const char *control)
{
    struct err err;
    JSON_AUTO(root) = json_parse(control, strlen(control), &err);
    const cJSON *age = json_get(root, "age_ms");
    struct turn_abort abort_now = {
        .status = json_str_or(root, "status", "aborted"),
        .reason = json_str_or(root, "reason", NULL),
        .actor = json_str_or(root, "actor", NULL),
        .age_ms = cJSON_IsNumber(age) ? (int64_t)age->valuedouble : 0,
    };

    turn->aborting = false;
    turn_abort(turn, &abort_now);
}

/* The database refuses what we wrote, whatever it is: leave it out and end without it. */
static void turn_poisoned(struct turn *turn)
{
    struct record *sent = &turn->out.sent;

    if (turn->poisoned) {
        record_reset(sent);
        turn_drop(turn);
        return;
    }
    turn->poisoned = true;
    if (sent->count > 0)
        turn->seq = sent->seq_from - 1;
    else if (turn->out.now.count > 0)
        turn->seq = turn->out.now.seq_from - 1;
    record_reset(sent);
    record_reset(&turn->out.now);
    if (turn->state == TURN_SAVING || turn->state == TURN_ENDING)
        turn_finish_early(turn);
    else
        turn_cancel(turn);
}

/* The end is durable. */
static void turn_ended(struct turn *turn)
{
    if (turn->end.status)
        turn_count_end(turn);
    turn_over(turn);
}

static void on_flushed(void *owner, enum flush_result result, bool barrier, const char *control)
{
    struct turn *turn = owner;

    if (turn->lost) {
        record_reset(&turn->out.sent);
        if (turn->state == TURN_DROPPING)
            turn_check_dropped(turn);
        return;
    }
    switch (result) {
    case FLUSH_GONE:
        record_reset(&turn->out.sent);
        turn_drop(turn);
        break;
    case FLUSH_POISONED:
        turn_poisoned(turn);
        break;
    case FLUSH_ABORTING:
        turn_unfinish(turn);
        turn->leaving = false; /* an abort beats everything else, a time-out of ours too */
        turn->aborting = false;
        read_control(turn, control);
        turn_finish_early(turn);
        break;
    case FLUSH_DURABLE:
        if (barrier && turn->state == TURN_SAVING)
            turn_saved(turn);
        else if (barrier && turn->state == TURN_ENDING)
            turn_ended(turn);
        break;
    }
}

/* ---- from outside ---- */

void turn_abort(struct turn *turn, const struct turn_abort *abort_now)
{
    if (turn->aborting || turn->lost)
        return;
    turn->aborting = true;
    free(turn->abort_status);
    free(turn->abort_reason);
    free(turn->abort_actor);
    turn->abort_status = xstrdup(abort_now->status);
    turn->abort_reason = xstrdup(abort_now->reason);
    turn->abort_actor = xstrdup(abort_now->actor);
    turn->abort_age_ms = abort_now->age_ms;
    turn->abort_heard_ms = clock_mono_ms();
    turn_cancel(turn);
}

void turn_hand_back(struct turn *turn)
{
    if (turn->leaving || turn->aborting || turn->lost || turn->state == TURN_ENDING)
        return;
    turn->leaving = true;
    turn_cancel(turn);
}

void turn_drop(struct turn *turn)
{
    if (turn->lost)
        return;
    turn->lost = true;
    turn_unmap(turn);
    turn->env->stats->turns_lost++;
    log_line(LOG_WARN, "", "task %s epoch %lld: the lease is lost, nothing more is written",
             turn->out.task_id, (long long)turn->epoch);
    if (turn->state == TURN_FETCHING || turn->state == TURN_PARKED)
        return; /* the callback sees `lost` */
    turn_cancel(turn);
    turn_dropped(turn);
}

/* ---- start ---- */

static void on_agent(void *owner, const struct agent *agent, const struct err *err)
{
    struct turn *turn = owner;

    turn->agent = agent;
    if (turn->lost) {
        turn_dropped(turn);
    } else if (turn_is_told(turn)) {
        turn_finish_early(turn);
    } else if (!agent && (err->code == ERR_UNAVAILABLE || err->code == ERR_TIMEOUT)) {
        turn->leaving = true; /* the database is away; the task is not to blame */
        turn_finish_early(turn);
    } else if (!agent) {
        turn_fail(turn, "AGENT_UNUSABLE", false, -1, err->msg);
    } else {
        turn_begin(turn);
    }
}

/* NULL when there is none, or it cannot be read; the first that cannot is told in `unreadable`. */
static cJSON *read_stored(struct turn *turn, const char *text)
{
    struct err err;
    cJSON *value = text ? json_parse(text, strlen(text), &err) : NULL;

    if (text && !value && !turn->unreadable)
        turn->unreadable = xstrdup(err.msg);
    return value;
}

static void copy_load(struct turn *turn, const struct load_row *load)
{
    turn->tenant = xstrdup(load->tenant);
    turn->agent_name = xstrdup(load->agent);
    turn->session_id = xstrdup(load->session_id);
    turn->parent = xstrdup(load->parent);
    turn->started_at = xstrdup(load->started_at);
    turn->origin = xstrdup(load->origin ? load->origin : load->task_id);
    turn->revision = load->revision;
    turn->parent_depth = load->parent_depth;
    turn->max_attempts = load->max_attempts;
    turn->created_ms = load->created_ms;
    turn->deadline_in_ms = load->deadline_in_ms;
    turn->input = xstrdup(load->input);
    turn->options = xstrdup(load->options);
    turn->history = xstrdup(load->messages);
    turn->steps_done = xstrdup(load->steps);
    turn->calls_done = xstrdup(load->calls);
    turn->seq = load->last_seq;
    turn->unreadable = xstrdup(load->unreadable);
    turn->custom = read_stored(turn, load->custom);
    turn->artifacts = read_stored(turn, load->artifacts);
}

/* Maybe another worker, or the same one later, can read it. */
static void turn_fail_unreadable(struct turn *turn)
{
    turn_fail(turn, "UNREADABLE", true, -1, turn->unreadable);
}

struct turn *turn_start(const struct turn_env *env, const struct claim_row *claim,
                        const struct load_row *load, struct list *turns)
{
    struct turn *turn = xcalloc(1, sizeof(*turn));
    struct buf *const bufs[] = {&turn->messages,      &turn->wire,      &turn->end_output,
                                &turn->end_usage,     &turn->end_abort, &turn->end_messages,
                                &turn->end_interrupts};

    for (size_t i = 0; i < sizeof(bufs) / sizeof(*bufs); i++)
        buf_init(bufs[i], BUF_MAX);
    turn->env = env;
    turn->epoch = claim->epoch;
    turn->fails = claim->fails;
    turn->claimed_ms = clock_mono_ms();
    flush_client_init(&turn->out, claim->task_id, claim->epoch, on_flushed, on_room, turn);
    model_call_init(&turn->model);
    copy_load(turn, load);
    list_append(turns, &turn->node);
    turn_map(turn);
    if (load->control)
        read_control(turn, load->control);
    if (turn->unreadable) {
        turn_park(turn, turn_fail_unreadable);
        return turn;
    }
    turn_enter(turn, TURN_FETCHING);
    agents_get(env->agents, &turn->agents_call, turn->tenant, turn->agent_name, turn->revision,
               on_agent, turn);
    return turn;
}

const char *turn_task_id(const struct turn *turn)
{
    return turn->out.task_id;
}

struct turn *turn_of_node(struct list *node)
{
    return container_of(node, struct turn, node);
}

struct turn *turn_of_task(const struct turn_env *env, const char *task_id)
{
    struct map_node *node = map_find(env->by_task, task_id);

    return node ? container_of(node, struct turn, by_task) : NULL;
}
