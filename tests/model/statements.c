/*
 * The statements, each as one step: the guard of its text, then what it does. Where a guard of
 * the text is missing here, it is a mutant's.
 */
#include "model.h"

bool sql_lease_is(const struct state *s, int inc, int task, int epoch)
{
    const struct task *t = &s->task[task];

    return t->leased && t->inc == inc && t->epoch == epoch;
}

bool sql_row_writes(const struct state *s, int inc)
{
    return s->inc[inc].row == ROW_LIVE || s->inc[inc].row == ROW_DRAINING;
}

/* ---- sessions ---- */

static struct session *session_of(struct state *s, int task)
{
    return &s->session[task == TASKS - 1];
}

static void make_ready(struct state *s, int task)
{
    if (s->task[task].ready)
        break_at("a task is queued twice (ready_task is unique)");
    s->task[task].ready = 1;
}

static void advance(struct state *s, int task)
{
    struct session *session = session_of(s, task);
    int next = session->queue[0];

    if (session->running != task && mutant != MUTANT_ADVANCE)
        return;
    session->running = (uint8_t)next;
    session->queue[0] = session->queue[1];
    session->queue[1] = NOBODY;
    if (next != NOBODY)
        make_ready(s, next);
}

void sql_submit(struct state *s, int task)
{
    struct session *session = session_of(s, task);

    s->task[task].there = 1;
    if (session->running == NOBODY) {
        session->running = (uint8_t)task;
        make_ready(s, task);
    } else {
        session->queue[session->queue[0] == NOBODY ? 0 : 1] = (uint8_t)task;
    }
}

/* ---- streams and ends ---- */

/* One chunk at `off` behind the last one. All that is known of places moves with it. */
static void put_chunk(struct state *s, int task, int epoch, int off)
{
    if (off > 1)
        break_at("invariant 4: a hole in the stream");
    if (off < 1)
        break_at("invariant 4: two chunks at one place of the stream");
    if (s->task[task].end)
        break_at("invariant 4: an event after turn.ended");
    s->task[task].seq_epoch = (uint8_t)epoch;
    for (int p = 0; p < PROCS; p++)
        for (int i = 0; i < SLOTS; i++) {
            struct turn *turn = &s->proc[p].turn[i];

            if (turn->stage > STAGE_CLAIMED && turn->task == task && turn->off > -2)
                turn->off--;
        }
    for (int i = 0; i < ORPHANS; i++) {
        struct orphan *o = &s->orphan[i];

        if (o->kind == ORPHAN_WRITE && o->task == task && o->off > -2)
            o->off--;
    }
}

static void put_end(struct state *s, int task, int epoch, int end)
{
    struct task *t = &s->task[task];

    if (t->end)
        break_at("invariant 1: a second terminal row");
    if (t->asked && end != END_ABORTED)
        break_at("abort beats all other ends: it was accepted, and the task ended as another");
    if ((end == END_QUARANTINED) != (t->crashed >= 3))
        break_at("a task is quarantined when three workers have died with it, and only then");
    t->end = (uint8_t)end;
    t->end_epoch = (uint8_t)epoch;
    t->control = 0;
}

static void finish(struct state *s, int task, int end)
{
    put_chunk(s, task, 0, 1);
    put_end(s, task, 0, end);
    s->task[task].due = 0;
    advance(s, task);
}

void sql_abort(struct state *s, int task)
{
    struct task *t = &s->task[task];
    struct session *session = session_of(s, task);

    if (t->end)
        return;
    if (t->leased) {
        t->aborting = t->control = t->asked = 1;
    } else if (t->ready || t->due) {
        t->ready = t->due = 0;
        finish(s, task, END_ABORTED);
    } else {
        if (session->queue[0] == task)
            session->queue[0] = session->queue[1];
        session->queue[1] = NOBODY;
        finish(s, task, END_ABORTED);
    }
}

bool sql_may_retry(const struct state *s, int task)
{
    const struct task *t = &s->task[task];

    if (!t->there || s->retry != RETRY_MAY)
        return false;
    return (t->end && t->end != END_COMPLETED) || (mutant == MUTANT_RETRY_OPEN && !t->end);
}

/* Steps are not modelled, but the ledger of the one that asked for the tool is. */
static void carry_on(struct state *s, int task, int next)
{
    s->task[next].ledger = s->task[task].ledger;
}

void sql_retry(struct state *s, int task, int next)
{
    sql_submit(s, next);
    if (mutant != MUTANT_RETRY_LEDGER)
        carry_on(s, task, next);
    s->retry = RETRY_DONE;
}

/* ---- leases ---- */

static void drop_lease(struct state *s, int task)
{
    s->task[task].leased = s->task[task].aborting = 0;
}

unsigned sql_claimable(const struct state *s, int inc, int room)
{
    unsigned tasks = 0;

    if ((s->inc[inc].row != ROW_LIVE || s->inc[inc].expired) && mutant != MUTANT_CLAIM_GATE)
        return 0;
    for (int t = 0; t < TASKS && room > 0; t++) {
        if (!s->task[t].ready)
            continue;
        tasks |= 1u << t;
        room--;
    }
    return tasks;
}

void sql_claim(struct state *s, int inc, unsigned tasks)
{
    for (int i = 0; i < TASKS; i++) {
        struct task *t = &s->task[i];

        if (!(tasks & 1u << i))
            continue;
        if (t->leased)
            break_at("invariant 2: a second lease of one task");
        t->ready = 0;
        t->epoch = state_next_epoch(s);
        t->leased = 1;
        t->inc = (uint8_t)inc;
    }
}

bool sql_append(struct state *s, int inc, int task, int epoch, int off, int record, bool seen,
                bool alive)
{
    struct task *t = &s->task[task];
    bool locked = mutant == MUTANT_APPEND_LOCK ? alive : sql_row_writes(s, inc);

    if (!locked || (!seen && mutant != MUTANT_APPEND_EPOCH))
        return false;
    if (off == 0 && t->seq_epoch == epoch && mutant != MUTANT_APPEND_TWICE)
        return true;
    if (off < 1 && mutant != MUTANT_APPEND_TWICE)
        return false; /* that place is another epoch's */
    if (!sql_lease_is(s, inc, task, epoch))
        break_at("invariant 3: a write of a fenced epoch is visible");
    put_chunk(s, task, epoch, mutant == MUTANT_APPEND_TWICE && off == 0 ? 1 : off);
    if (mutant == MUTANT_APPEND_TWICE && off == 0)
        break_at("invariant 4: a chunk is there twice");
    if (record == RECORD_SAVE && t->ledger == LEDGER_NONE)
        t->ledger = LEDGER_CLAIMED;
    return true;
}

static void let_go(struct state *s, int task)
{
    struct task *t = &s->task[task];

    drop_lease(s, task);
    if (t->fails != t->failed || t->crashes != t->crashed)
        break_at("a task is charged for what was not its fault, or not for what was");
}

bool sql_end(struct state *s, int inc, int task, int epoch, int off, int record, int end)
{
    struct task *t = &s->task[task];
    bool ours = mutant == MUTANT_COMPLETE_EPOCH ? t->leased : sql_lease_is(s, inc, task, epoch);

    if (!ours || !sql_row_writes(s, inc))
        return false;
    if (record == RECORD_COMPLETE) {
        if (t->aborting && end != END_ABORTED && mutant != MUTANT_COMPLETE_ABORT)
            return false;
        if (!sql_lease_is(s, inc, task, epoch))
            break_at("invariant 3: a fenced epoch has ended the task");
        drop_lease(s, task);
        put_chunk(s, task, epoch, off);
        put_end(s, task, epoch, end);
        if (t->ledger == LEDGER_CLAIMED)
            t->ledger = LEDGER_SETTLED;
        advance(s, task);
    } else if (record == RECORD_RETRY) {
        if (t->aborting)
            return false;
        t->fails++;
        t->failed++;
        let_go(s, task);
        t->due = 1;
    } else {
        t->fails = (uint8_t)(t->fails + (mutant == MUTANT_RELEASE_CHARGE));
        let_go(s, task);
        make_ready(s, task);
    }
    return true;
}

/* Does a process run this very lease? */
static bool is_run(const struct state *s, int inc, int task, int epoch)
{
    for (int p = 0; p < PROCS; p++)
        for (int i = 0; i < SLOTS; i++) {
            const struct turn *turn = &s->proc[p].turn[i];

            if (s->proc[p].up && s->proc[p].inc == inc && turn->stage > STAGE_NONE &&
                turn->stage < STAGE_DROPPING && turn->task == task && turn->epoch == epoch)
                return true;
        }
    return false;
}

void sql_reconcile(struct state *s, int inc, unsigned known, int bound)
{
    for (int i = 0; i < TASKS; i++) {
        const struct task *t = &s->task[i];

        if (!t->leased || t->inc != inc || known & 1u << i ||
            (t->epoch > bound && mutant != MUTANT_RECONCILE_BOUND))
            continue;
        if (sql_row_writes(s, inc) && is_run(s, inc, i, t->epoch))
            break_at("a live worker lost the lease of a turn that it runs");
        let_go(s, i);
        make_ready(s, i);
    }
}

void sql_leave(struct state *s, int inc, bool saw_leases, int saw_row)
{
    bool goes = !saw_leases && (saw_row == ROW_DRAINING || mutant == MUTANT_LEAVE_GATE);

    if (s->inc[inc].row != ROW_NONE)
        s->inc[inc].row = goes ? ROW_NONE : ROW_DEAD;
}

void sql_rescue(struct state *s, int task)
{
    struct task *t = &s->task[task];

    if (s->inc[t->inc].row != ROW_DEAD)
        break_at("a live worker lost a lease to the scheduler");
    t->crashes = (uint8_t)(t->crashes + (mutant != MUTANT_RESCUE_CHARGE));
    t->crashed++;
    if (t->aborting) {
        drop_lease(s, task);
        if (t->crashed >= 3) /* put_end() looks; the abort came first */
            t->crashed = t->crashes = 2;
        finish(s, task, END_ABORTED);
    } else if (t->crashes >= 3) {
        drop_lease(s, task);
        finish(s, task, END_QUARANTINED);
    } else {
        let_go(s, task);
        make_ready(s, task);
    }
}

void sql_due(struct state *s, int task)
{
    s->task[task].due = 0;
    make_ready(s, task);
}
