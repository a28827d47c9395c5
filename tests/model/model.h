/*
 * The protocol of claims and leases, small enough to be looked at in every state.
 *
 * A state is what the tables hold and what each worker's process believes. A transition is a
 * statement of sql/ (it has its name), an answer that arrives or is lost, or a decision of a
 * process. What PostgreSQL does as one is one step: a guard that is checked again under the row's
 * lock needs no second one. Two steps are made of what looks with a snapshot and acts later.
 *
 * Kept small without leaving anything out: epochs and places in a stream are known relative to
 * each other alone, dead rows that nobody refers to are forgotten, and workers are alike. Time is
 * not modelled: a worker's row may run out at any moment, which includes stopped processes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { TASKS = 3, SESSIONS = 2, PROCS = 2, INCS = 4, SLOTS = 2, ORPHANS = 2, NOBODY = 15 };

enum row { ROW_NONE, ROW_LIVE, ROW_DRAINING, ROW_DEAD }; /* of the table worker */
enum end { END_OPEN, END_COMPLETED, END_FAILED, END_ABORTED, END_QUARANTINED };
enum ledger { LEDGER_NONE, LEDGER_CLAIMED, LEDGER_SETTLED };

struct task {
    uint8_t there, ready, due, leased, end, control, aborting;
    uint8_t epoch, inc;      /* of the lease */
    uint8_t fails, crashes;  /* they go with the task through ready, lease and due */
    uint8_t failed, crashed; /* how often that was so; the two must agree */
    uint8_t end_epoch;       /* 0: nobody refers to it */
    uint8_t seq_epoch;       /* of the last chunk */
    uint8_t ledger, ran;     /* the tool's row; whether it has run */
    uint8_t asked;           /* abort() has said `aborting` */
};

struct session {
    uint8_t running, queue[2];
};

/* With a retry, task 1 is not submitted: it is task 0 once more, if that ends badly. */
enum retry { RETRY_NONE, RETRY_MAY, RETRY_DONE };

struct inc { /* an incarnation of a worker: one row */
    uint8_t row, expired;
};

enum stage {
    STAGE_NONE,
    STAGE_CLAIMED, /* the answer is on its way, or it is being loaded */
    STAGE_RUNNING,
    STAGE_SAVING,   /* waits until its record is durable */
    STAGE_ENDING,   /* the same, and that record ends it */
    STAGE_DROPPING, /* fenced with a record in flight */
};
enum tool { TOOL_TO_SAVE, TOOL_TO_RUN, TOOL_DONE };

struct turn {
    uint8_t stage, task, epoch, told, wrote, tool, fails;
    int8_t off; /* where its next chunk goes: 1 is right behind the last one in the table */
};

enum record { RECORD_APPEND, RECORD_SAVE, RECORD_COMPLETE, RECORD_RETRY, RECORD_RELEASE };
enum phase { PHASE_IDLE, PHASE_TO_SEND, PHASE_SEEN, PHASE_ASK };

struct flush { /* of a process: one record at a time */
    uint8_t phase, turn, record, end;
    uint8_t inc;   /* that it was sent by */
    uint8_t seen;  /* the lease was there when the statement began */
    uint8_t alive; /* and the worker's row: read by a mutant alone */
    uint8_t held;
};

enum up { UP_DOWN, UP_RUNNING, UP_DRAINING, UP_LEAVING };
enum beat { BEAT_NONE, BEAT_LIVE, BEAT_DEAD }; /* the answer on its way */

struct proc {
    uint8_t up, inc, fenced;
    uint8_t stranded; /* newest epoch among leases that may be unknown here; 0: none are */
    uint8_t beat, count, newest;
    uint8_t leave_leases, leave_row; /* worker_leave has begun: what it saw */
    struct flush flush;
    struct turn turn[SLOTS];
};

enum kind { ORPHAN_NONE, ORPHAN_CLAIM, ORPHAN_RECONCILE, ORPHAN_WRITE };

/* A statement whose connection was given up: the server may execute it still. */
struct orphan {
    uint8_t kind, inc, task, record, end, epoch, begun, seen, alive, known, bound;
    int8_t off;
};

struct state {
    struct task task[TASKS];
    struct session session[SESSIONS];
    struct inc inc[INCS];
    struct proc proc[PROCS];
    struct orphan orphan[ORPHANS];
    uint8_t retry;
    uint8_t picked;                 /* by the reaper of a mutant */
    uint8_t faults, drains, aborts; /* that may come still */
};

/* Planted defects, one at a time. */
#define MUTANTS(X)                                                                                 \
    X(COMPLETE_EPOCH, "complete", "the lease's epoch is not checked at the end")                   \
    X(COMPLETE_ABORT, "complete-abort", "the end does not see that an abort came first")           \
    X(APPEND_LOCK, "append-lock", "the worker's row is read, not locked, when events are written") \
    X(APPEND_EPOCH, "append-epoch", "events of an old epoch are taken")                            \
    X(APPEND_TWICE, "append-twice", "a chunk sent twice is there twice")                           \
    X(REAP_CHECK, "reap", "the time is not checked again when a worker is declared dead")          \
    X(RESCUE_DEAD, "rescue", "leases are taken from workers that are not declared dead")           \
    X(RESCUE_CHARGE, "rescue-charge", "a rescue is not counted as a crash")                        \
    X(RELEASE_CHARGE, "release", "a turn handed back is charged")                                  \
    X(RECONCILE_BOUND, "reconcile", "leases are handed back whatever their epoch")                 \
    X(RECONCILE_BUSY, "reconcile-busy", "leases are handed back while a claim is under way")       \
    X(CLAIM_GATE, "claim", "a worker that is leaving or dead may claim")                           \
    X(LEAVE_GATE, "leave", "a row goes although claims were not stopped first")                    \
    X(LOAD_CONTROL, "load", "a turn that starts does not see that it was aborted before")          \
    X(LOAD_LEDGER, "ledger", "a tool whose outcome is unknown is run again")                       \
    X(TOOL_EARLY, "tool-early", "a tool runs before its claim is durable")                         \
    X(DROP_FORGETS, "drop", "a dropped turn forgets the record it has in flight")                  \
    X(ADVANCE, "advance", "a session goes on at the end of a turn that did not run in it")         \
    X(RETRY_LEDGER, "retry", "a retry does not carry on the ledger")                               \
    X(RETRY_OPEN, "retry-open", "a turn that has not ended is tried again")
enum mutant {
    MUTANT_NONE,
#define X(id, name, what) MUTANT_##id,
    MUTANTS(X)
#undef X
        MUTANT_MAX,
};
extern enum mutant mutant;

/* Transitions. Those before STEP_STATEMENTS are statements and functions of sql/. */
#define STEPS(X)                                                                                   \
    X(task_submit)                                                                                 \
    X(task_abort)                                                                                  \
    X(task_retry)                                                                                  \
    X(worker_register)                                                                             \
    X(worker_beat)                                                                                 \
    X(worker_controls) X(worker_drain) X(worker_leave) X(worker_reap) X(worker_vanish)             \
        X(worker_reconcile) X(lease_rescue) X(due_release) X(turn_claim) X(turn_load)              \
            X(turn_append) X(turn_step) X(turn_call_claim) X(turn_call_settle) X(turn_complete)    \
                X(turn_retry) X(turn_release) X(turn_fate) X(STATEMENTS) X(lost) X(given_up)       \
                    X(late) X(begins) X(broken_off) X(crash) X(fence) X(runs_out) X(tool) X(drain)
enum step {
#define X(name) STEP_##name,
    STEPS(X)
#undef X
        STEP_MAX,
};
extern const char *const step_names[STEP_MAX];

/* ---- model.c ---- */
extern const char *broken; /* the invariant that the last transition has broken */
void break_at(const char *why);
struct size {
    unsigned tools;  /* mask of the tasks that run one */
    unsigned faults; /* at most so many of any kind, anywhere */
    unsigned drains, aborts;
    bool retry;
};
void state_start(struct state *s, const struct size *size);
bool state_has_tool(int task);
uint8_t state_next_epoch(const struct state *s);
void state_check(const struct state *s); /* what holds at any moment */
bool state_is_quiet(const struct state *s);
/* The same state with the smallest names for epochs, incarnations and workers. */
void state_canonize(struct state *s);
uint64_t state_hash(const struct state *s);

/* ---- statements.c: what each does to the tables ---- */
bool sql_lease_is(const struct state *s, int inc, int task, int epoch);
bool sql_row_writes(const struct state *s, int inc); /* the worker's row is there, not dead */
void sql_submit(struct state *s, int task);
void sql_abort(struct state *s, int task);
bool sql_may_retry(const struct state *s, int task);
void sql_retry(struct state *s, int task, int next);
unsigned sql_claimable(const struct state *s, int inc, int room); /* mask of tasks */
void sql_claim(struct state *s, int inc, unsigned tasks);
/* Events of `record`, and with RECORD_SAVE the claim of the tool. `seen`, `alive`: by the
 * statement's snapshot. True: the row is there. */
bool sql_append(struct state *s, int inc, int task, int epoch, int off, int record, bool seen,
                bool alive);
bool sql_end(struct state *s, int inc, int task, int epoch, int off, int record, int end);
void sql_reconcile(struct state *s, int inc, unsigned known, int bound);
void sql_leave(struct state *s, int inc, bool saw_leases, int saw_row);
void sql_rescue(struct state *s, int task);
void sql_due(struct state *s, int task);

/* ---- steps.c: who does what when ---- */
/* Call `emit` with every state that may come next. */
void steps_all(const struct state *s,
               void (*emit)(const struct state *next, int step, int who, int what));
/* One step towards the end without any fault, as a fair run makes it. False: nothing is left. */
bool steps_fair(const struct state *s, struct state *next, int *step);
