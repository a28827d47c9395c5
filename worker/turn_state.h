/* The inside of a turn, shared by turn*.c alone. */
#pragma once

#include "history.h"
#include "json.h"
#include "turn.h"

#include <stdint.h>

#define TURN_MAX_CALLS       ANSWER_MAX_CALLS
#define SNAPSHOT_WHOLE_EVERY 16 /* rows a reader of a state joins at most */

enum turn_state {
    TURN_FETCHING,  /* agents_get() */
    TURN_ASKING,    /* model_call_start() */
    TURN_SAVING,    /* flush_put(): the step, before its tools run */
    TURN_CALLING,   /* tool_run_start() of one or more calls */
    TURN_WORKING,   /* work_start(): an agent that is a program or an endpoint */
    TURN_PARKED,    /* a delay of 0: what was decided is done from the loop */
    TURN_SUSPENDED, /* gate_wait(): this worker may start no call now */
    TURN_ENDING,    /* flush_put(): the end */
    TURN_DROPPING,  /* what was in flight is being canceled; nothing is written */
    TURN_ENDED,     /* nothing */
};

enum call_status {
    CALL_NEW,         /* to be claimed and run */
    CALL_RUNNING,     /* tool_run_start() */
    CALL_DONE,        /* `output` */
    CALL_FAILED,      /* `code`, `message` */
    CALL_INTERRUPTED, /* waits for an answer: `interrupt` */
};

/* One tool call of the step at hand. */
struct call {
    struct turn *turn;
    int idx; /* place in the step */
    enum call_status status;
    char *name, *ref;
    char *arguments; /* JSON; NULL when it was none */
    const struct agent_tool *tool;
    bool resumed;   /* a person has said that it may run */
    bool restarted; /* it is to be made again */
    bool ledgered;  /* its row in the ledger is claimed */
    bool pending;   /* it was answered before the question that its turn ended with */
    char *output;   /* JSON */
    char *code, *message;
    char *interrupt; /* JSON */
    struct tool_run run;
    char key[64]; /* idempotency key */
    uint64_t started_us;
};

/* Why a turn ends; strings are the turn's. */
struct outcome {
    const char *status, *finish_reason;
    char *error; /* JSON or NULL */
};

struct turn {
    enum turn_state state;
    const struct turn_env *env;
    struct list node;
    struct map_node by_task; /* in turn_env.by_task while `mapped` */
    bool mapped;
    struct flush_client out;
    struct agents_call agents_call;
    const struct agent *agent;

    char *tenant, *agent_name, *session_id, *parent, *started_at;
    char *
        origin; /* whose id makes the idempotency keys: the task's, or that of the one it retries */
    int revision, parent_depth, fails, max_attempts;
    int64_t epoch, created_ms, deadline_in_ms;
    char *input, *options;         /* JSON */
    char *history;                 /* JSON array: the conversation so far */
    char *steps_done, *calls_done; /* JSON: what earlier attempts committed */
    char *unreadable;              /* why the four above are not there; NULL: they are */
    cJSON *custom;                 /* NULL: none yet */
    bool custom_told;              /* a state.patch of this turn was sent */
    cJSON *artifacts;              /* references, NULL: none */
    cJSON *new_artifacts;          /* those of this turn, whole, for the output; NULL: none */

    struct buf messages; /* new canonical messages, comma-separated */
    struct buf wire;     /* all messages in the provider's form */
    char *asked;         /* the model message whose calls are being made; NULL: none */
    int step;
    int64_t seq;      /* of the last event emitted */
    int64_t kept_seq; /* what a takeover or a new try keeps */
    struct model_call model;
    struct call *calls;
    int ncalls, running;
    int64_t input_tokens, output_tokens;
    bool estimated;
    struct work *work; /* process and http agents */

    bool aborting, leaving, lost; /* what was asked from outside; the strongest wins */
    bool resuming;                /* it began with answers: `history` has them resolved */
    bool first;                   /* nothing but its start has been told of this turn, or holds */
    bool as_genkit; /* judged as Genkit does: any message is taken, a filtered answer fails */
    bool poisoned;  /* the database refuses our rows: end without them */
    bool replaying; /* what is done was told by an earlier attempt: no events */
    char *abort_status, *abort_reason, *abort_actor;
    int64_t abort_age_ms;
    uint64_t abort_heard_ms;
    struct delay deadline, parked;
    struct gate_wait gate_wait;
    void (*after_park)(struct turn *turn);

    struct turn_end end;
    struct buf end_output, end_usage, end_abort, end_interrupts, end_messages;
    char *end_error, *end_custom, *end_artifacts;
    size_t end_event_at;    /* where turn.ended begins in the record */
    size_t end_question_at; /* where the message that asks begins in `messages` */
    uint64_t claimed_ms;
};

/* ---- turn.c ---- */
void turn_enter(struct turn *turn, enum turn_state state);
void turn_ask(struct turn *turn);  /* the next step */
void turn_save(struct turn *turn); /* flush what is recorded, then run the calls */
void turn_park(struct turn *turn, void (*next)(struct turn *turn));
bool turn_is_told(const struct turn *turn); /* asked from outside to stop */
/* Do `next`, which starts a call, when this worker may: at once, or when the gate opens. */
void turn_when_open(struct turn *turn, void (*next)(struct turn *turn));
void turn_pause(struct turn *turn, bool paused); /* the reading of what streams */
void turn_dropped(struct turn *turn);            /* an operation of a lost turn has called back */
/* Providers leave usage out of streams that are cut, some of all: then it is estimated from
 * bytes, four to a token, and marked. */
void turn_add_usage(struct turn *turn, const struct answer *answer);

/* ---- turn_event.c ---- */
struct buf *turn_event(struct turn *turn, const char *type); /* add members, then: */
void turn_event_end(struct turn *turn);

/* ---- turn_start.c ---- */
/* Add a message to the conversation: to what is new and to what the model sees. */
void turn_add_message(struct turn *turn, const char *json);
void turn_begin(struct turn *turn);      /* the agent is there */
void turn_save_calls(struct turn *turn); /* claim the open calls, then run them */

/* ---- turn_base.c ---- */
/* The state that the client keeps: where the turn begins, and what it leaves. */
void turn_take_state(struct turn *turn);
void turn_put_state(struct turn *turn, struct buf *output); /* as the member `state` */
void turn_keep_artifact(struct turn *turn, const char *name, const char *json);
/* The question at the end of the history has been answered: it is open no more. */
void turn_resolve_question(struct turn *turn);
void turn_drop_question(struct turn *turn); /* it is asked again, in a new message */
bool turn_is_same_input(const struct call *call, const cJSON *input); /* NULL: not said */

/* ---- turn_calls.c ---- */
void calls_from_message(struct turn *turn, const cJSON *message);
void calls_prepare(struct turn *turn, struct call *call);
void call_restart(struct call *call); /* what it asked is answered by making it again */
/* A call whose worker died, or that was canceled when its worker left: did it happen? Its tool's
 * policy says what is done about it. */
void calls_judge_unknown(struct turn *turn, struct call *call);
void calls_claim(struct turn *turn); /* record the claims of those that will run */
void calls_run(struct turn *turn);   /* start them; ends in calls_finish() */
void calls_finish(struct turn *turn);
void calls_cancel(struct turn *turn);
void calls_pause(struct turn *turn, bool paused);
void calls_free(struct turn *turn);
/* The tool message that answers every call; those still open are answered with an error. */
void calls_put_tool_message(struct turn *turn, const char *open_code, const char *open_message);
/* `asked` with what is open or answered in its metadata, and the open ones as a JSON array. */
void calls_put_interrupted(struct turn *turn, struct buf *message, struct buf *interrupts);

/* ---- turn_end.c ---- */
void turn_finish(struct turn *turn, const char *status, const char *finish_reason);
void turn_fail(struct turn *turn, const char *code, bool retryable, int64_t retry_after_ms,
               const char *message);
void turn_finish_early(struct turn *turn);    /* as asked from outside */
void turn_interrupt(struct turn *turn);       /* calls wait for answers */
void turn_finish_replayed(struct turn *turn); /* its answer was committed before */
/* A program or endpoint has answered: `data` is JSON. */
void turn_finish_work(struct turn *turn, const char *data);
void turn_unfinish(struct turn *turn); /* the end was refused: take its event back */
void turn_count_end(const struct turn *turn);
/* The model message of `answer`; without its calls when they are not to be made. */
void turn_put_answer(struct turn *turn, const struct answer *answer, bool with_calls,
                     struct buf *message);
