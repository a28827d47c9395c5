/*
 * Who does what when: worker/claim.c, flusher.c, heartbeat.c, turn.c and worker.c in small, the
 * scheduler, and what goes wrong between them.
 *
 * A statement and its answer are one step where nothing that its process could do meanwhile
 * depends on the answer; claims and heartbeats have an answer that arrives later, or never.
 */
#include "model.h"

#include <string.h>

static void (*emit)(const struct state *next, int step, int who, int what);
static bool faults; /* false: only what a fair run does */

/* Use up one of the faults to come. */
static bool spend(struct state *n)
{
    if (!faults || n->faults == 0)
        return false;
    n->faults--;
    return true;
}

static int turns_of(const struct proc *proc)
{
    int n = 0;

    for (int i = 0; i < SLOTS; i++)
        n += proc->turn[i].stage != STAGE_NONE;
    return n;
}

static bool claim_is_busy(const struct proc *proc)
{
    for (int i = 0; i < SLOTS; i++)
        if (proc->turn[i].stage == STAGE_CLAIMED)
            return true;
    return false;
}

static unsigned leases_of(const struct state *s, int inc, uint8_t *ret_newest)
{
    unsigned n = 0;

    *ret_newest = 0;
    for (int i = 0; i < TASKS; i++) {
        if (!s->task[i].leased || s->task[i].inc != inc)
            continue;
        n++;
        if (s->task[i].epoch > *ret_newest)
            *ret_newest = s->task[i].epoch;
    }
    return n;
}

static struct orphan *free_orphan(struct state *s)
{
    for (int i = 0; i < ORPHANS; i++)
        if (s->orphan[i].kind == ORPHAN_NONE)
            return &s->orphan[i];
    return NULL;
}

static bool is_owned(const struct state *s, int inc)
{
    for (int p = 0; p < PROCS; p++)
        if (s->proc[p].inc == inc)
            return true;
    return false;
}

static int free_inc(const struct state *s)
{
    for (int i = 0; i < INCS; i++) {
        bool used = s->inc[i].row != ROW_NONE || is_owned(s, i);

        for (int t = 0; t < TASKS; t++)
            used = used || (s->task[t].leased && s->task[t].inc == i);
        for (int p = 0; p < PROCS; p++)
            used = used || (s->proc[p].flush.phase == PHASE_SEEN && s->proc[p].flush.inc == i);
        for (int o = 0; o < ORPHANS; o++)
            used = used || (s->orphan[o].kind && s->orphan[o].inc == i);
        if (!used)
            return i;
    }
    return NOBODY;
}

/* ---- a turn and the record it waits for ---- */

static void turn_over(struct proc *proc, int slot)
{
    proc->turn[slot] = (struct turn){0};
    if (proc->flush.phase != PHASE_IDLE && proc->flush.turn == slot)
        proc->flush = (struct flush){0};
}

/* What is in flight is sent until its fate is known, also when the turn is given up. */
static void turn_drop(struct proc *proc, int slot)
{
    bool flying = proc->flush.phase != PHASE_IDLE && proc->flush.turn == slot &&
                  !proc->flush.held && mutant != MUTANT_DROP_FORGETS;

    if (proc->turn[slot].stage == STAGE_CLAIMED)
        return; /* the claim sees it itself */
    if (flying)
        proc->turn[slot].stage = STAGE_DROPPING;
    else
        turn_over(proc, slot);
}

static void put_record(struct proc *proc, int slot, int record, int end)
{
    proc->flush = (struct flush){.phase = PHASE_TO_SEND,
                                 .turn = (uint8_t)slot,
                                 .record = (uint8_t)record,
                                 .end = (uint8_t)end};
    if (record == RECORD_SAVE)
        proc->turn[slot].stage = STAGE_SAVING;
    else if (record != RECORD_APPEND)
        proc->turn[slot].stage = STAGE_ENDING;
}

static void told_durable(struct proc *proc)
{
    struct flush flush = proc->flush;
    struct turn *turn = &proc->turn[flush.turn];

    if (turn->stage == STAGE_DROPPING || flush.record > RECORD_SAVE) {
        turn_over(proc, flush.turn);
        return;
    }
    proc->flush = (struct flush){0};
    turn->off++;
    turn->wrote = 1;
    if (flush.record == RECORD_SAVE) {
        turn->stage = STAGE_RUNNING;
        if (turn->tool == TOOL_TO_SAVE)
            turn->tool = TOOL_TO_RUN;
    }
}

static void run_tool(struct state *n, struct turn *turn)
{
    n->task[turn->task].ran++;
    turn->tool = TOOL_DONE;
}

static void step_send(const struct state *s, int p);

static void decide(const struct state *s, int p, int slot, int record, int end)
{
    struct state n = *s;

    put_record(&n.proc[p], slot, record, end);
    step_send(&n, p);
}

static void step_turn(const struct state *s, int p, int slot)
{
    const struct proc *proc = &s->proc[p];
    const struct turn *turn = &proc->turn[slot];
    bool to_save = turn->tool == TOOL_TO_SAVE && !turn->told;
    struct state n = *s;
    struct turn *next = &n.proc[p].turn[slot];

    if (turn->stage != STAGE_RUNNING || proc->fenced)
        return;
    if ((turn->tool == TOOL_TO_RUN || (mutant == MUTANT_TOOL_EARLY && to_save)) && !turn->told) {
        run_tool(&n, next);
        emit(&n, STEP_tool, p, turn->task);
        n = *s;
    }
    if (proc->flush.phase != PHASE_IDLE)
        return;
    if (to_save)
        decide(s, p, slot, RECORD_SAVE, 0);
    else if (turn->told || turn->tool == TOOL_DONE)
        decide(s, p, slot, RECORD_COMPLETE, turn->told ? END_ABORTED : END_COMPLETED);
    if (turn->told || !faults)
        return;
    if (!turn->wrote && !state_has_tool(turn->task))
        decide(s, p, slot, RECORD_APPEND, 0);
    if (proc->up == UP_DRAINING)
        decide(s, p, slot, RECORD_RELEASE, 0);
    n = *s;
    if (turn->tool != TOOL_TO_RUN && spend(&n))
        decide(&n, p, slot, turn->fails ? RECORD_COMPLETE : RECORD_RETRY, END_FAILED);
}

/* ---- the flusher ---- */

static int statement_of(int record)
{
    static const int steps[] = {STEP_turn_append, STEP_turn_step, STEP_turn_complete,
                                STEP_turn_retry, STEP_turn_release};

    return steps[record];
}

/* The answer: accepted, or turn_fate is to be asked. */
static void answered(const struct state *s, struct state *n, int p, bool accepted, int step)
{
    struct proc *proc = &n->proc[p];
    int task = proc->turn[proc->flush.turn].task;
    struct state lost = *n;

    if (accepted)
        told_durable(proc);
    else
        proc->flush.phase = PHASE_ASK;
    emit(n, step, p, task);
    if (step == STEP_turn_step && accepted) /* the same transaction */
        emit(n, STEP_turn_call_claim, p, task);
    if (step == STEP_turn_complete && accepted && s->task[task].ledger == LEDGER_CLAIMED)
        emit(n, STEP_turn_call_settle, p, task);
    if (!spend(&lost))
        return;
    lost.proc[p].flush.phase = PHASE_TO_SEND;
    lost.proc[p].flush.seen = lost.proc[p].flush.alive = 0;
    emit(&lost, STEP_lost, p, task);
}

static void give_up_write(const struct state *s, int p, bool begun)
{
    struct state n = *s;
    struct flush *flush = &n.proc[p].flush;
    const struct turn *turn = &n.proc[p].turn[flush->turn];
    struct orphan *o = free_orphan(&n);

    if (!o || !spend(&n))
        return;
    *o = (struct orphan){.kind = ORPHAN_WRITE,
                         .inc = begun ? flush->inc : n.proc[p].inc,
                         .task = turn->task,
                         .record = flush->record,
                         .end = flush->end,
                         .epoch = turn->epoch,
                         .off = turn->off,
                         .begun = begun,
                         .seen = flush->seen,
                         .alive = flush->alive};
    flush->phase = PHASE_TO_SEND;
    flush->seen = flush->alive = 0;
    emit(&n, STEP_given_up, p, turn->task);
}

static void step_commit(const struct state *s, int p);

static void step_send(const struct state *s, int p)
{
    const struct flush *flush = &s->proc[p].flush;
    const struct turn *turn = &s->proc[p].turn[flush->turn];
    struct state n = *s;
    struct flush *next = &n.proc[p].flush;
    int inc = s->proc[p].inc;

    next->held = 0;
    if (flush->record <= RECORD_SAVE) {
        next->phase = PHASE_SEEN;
        next->inc = (uint8_t)inc;
        next->seen = sql_lease_is(s, inc, turn->task, turn->epoch);
        next->alive = mutant == MUTANT_APPEND_LOCK && sql_row_writes(s, inc);
        step_commit(&n, p);
        if (spend(&n)) /* it takes long */
            emit(&n, STEP_begins, p, turn->task);
    } else {
        bool ok = sql_end(&n, inc, turn->task, turn->epoch, turn->off, flush->record, flush->end);

        answered(s, &n, p, ok, statement_of(flush->record));
    }
    give_up_write(s, p, false);
}

static void step_commit(const struct state *s, int p)
{
    const struct flush *flush = &s->proc[p].flush;
    const struct turn *turn = &s->proc[p].turn[flush->turn];
    struct state n = *s;
    bool ok = sql_append(&n, flush->inc, turn->task, turn->epoch, turn->off, flush->record,
                         flush->seen, flush->alive);

    answered(s, &n, p, ok, statement_of(flush->record));
    give_up_write(s, p, true);
    n = *s;
    if (spend(&n)) { /* rolled back */
        n.proc[p].flush.phase = PHASE_TO_SEND;
        n.proc[p].flush.seen = n.proc[p].flush.alive = 0;
        emit(&n, STEP_broken_off, p, turn->task);
    }
}

static void step_ask(const struct state *s, int p)
{
    const struct flush *flush = &s->proc[p].flush;
    const struct turn *turn = &s->proc[p].turn[flush->turn];
    const struct task *t = &s->task[turn->task];
    bool leased = t->leased && t->epoch == turn->epoch;
    bool aborts = flush->record == RECORD_COMPLETE && flush->end == END_ABORTED;
    struct state n = *s;
    struct proc *proc = &n.proc[p];

    if (t->end && t->end_epoch == turn->epoch) {
        told_durable(proc);
    } else if (!leased) {
        turn_over(proc, flush->turn);
    } else if (turn->stage == STAGE_DROPPING) {
        turn_over(proc, flush->turn);
    } else if (t->aborting && !aborts && flush->record > RECORD_SAVE) {
        proc->flush = (struct flush){0};
        proc->turn[flush->turn].stage = STAGE_RUNNING;
        proc->turn[flush->turn].told = 1;
    } else {
        proc->flush.phase = PHASE_TO_SEND;
        proc->flush.held = 1;
    }
    emit(&n, STEP_turn_fate, p, turn->task);
}

static void step_flush(const struct state *s, int p)
{
    switch (s->proc[p].flush.phase) {
    case PHASE_TO_SEND:
        if (!s->proc[p].fenced)
            step_send(s, p);
        break;
    case PHASE_SEEN:
        step_commit(s, p);
        break;
    case PHASE_ASK:
        step_ask(s, p);
        break;
    default:
        break;
    }
}

/* ---- claims ---- */

static void step_claim(const struct state *s, int p)
{
    const struct proc *proc = &s->proc[p];
    unsigned tasks;
    struct state n = *s;

    if (proc->up != UP_RUNNING || proc->fenced || claim_is_busy(proc))
        return;
    tasks = sql_claimable(s, proc->inc, SLOTS - turns_of(proc));
    if (tasks) {
        sql_claim(&n, proc->inc, tasks);
        for (int t = 0; t < TASKS; t++)
            for (int i = 0; i < SLOTS && tasks & 1u << t; i++) {
                if (n.proc[p].turn[i].stage)
                    continue;
                n.proc[p].turn[i] = (struct turn){.stage = STAGE_CLAIMED,
                                                  .task = (uint8_t)t,
                                                  .epoch = n.task[t].epoch,
                                                  .fails = n.task[t].fails};
                tasks &= ~(1u << t);
            }
        emit(&n, STEP_turn_claim, p, 0);
    }
    n = *s;
    struct orphan *o = free_orphan(&n);

    if (turns_of(proc) < SLOTS && o && spend(&n)) {
        *o = (struct orphan){
            .kind = ORPHAN_CLAIM, .inc = proc->inc, .known = (uint8_t)(SLOTS - turns_of(proc))};
        emit(&n, STEP_given_up, p, 0);
    }
}

static void load(const struct state *s, struct proc *proc, int slot)
{
    struct turn *turn = &proc->turn[slot];
    const struct task *t = &s->task[turn->task];
    bool unsure = t->ledger == LEDGER_CLAIMED && mutant == MUTANT_LOAD_LEDGER;

    if (proc->fenced) {
        turn_over(proc, slot);
        return;
    }
    turn->stage = STAGE_RUNNING;
    turn->off = 1;
    turn->told = t->control && mutant != MUTANT_LOAD_CONTROL;
    turn->tool = TOOL_DONE; /* also when its outcome is unknown: on_unknown is `fail` */
    if (state_has_tool(turn->task) && (t->ledger == LEDGER_NONE || unsure))
        turn->tool = unsure ? TOOL_TO_RUN : TOOL_TO_SAVE;
}

/* The answer to a claim arrives, and what was claimed is loaded; or it is lost. */
static void step_claimed(const struct state *s, int p)
{
    struct state n = *s, lost = *s;

    if (!claim_is_busy(&s->proc[p]))
        return;
    for (int i = 0; i < SLOTS; i++) {
        if (s->proc[p].turn[i].stage != STAGE_CLAIMED)
            continue;
        load(s, &n.proc[p], i);
        turn_over(&lost.proc[p], i);
    }
    emit(&n, STEP_turn_load, p, 0);
    if (spend(&lost))
        emit(&lost, STEP_lost, p, 0);
}

/* ---- heartbeat ---- */

/* Every turn goes; what is in flight is seen through. */
static void drop_all(struct proc *proc)
{
    proc->fenced = 1;
    for (int i = 0; i < SLOTS; i++)
        if (proc->turn[i].stage != STAGE_NONE && proc->turn[i].stage != STAGE_DROPPING)
            turn_drop(proc, i);
}

static void reconcile(struct state *n, int p)
{
    struct proc *proc = &n->proc[p];
    unsigned known = 0;
    uint8_t bound = proc->stranded;

    for (int i = 0; i < SLOTS; i++)
        if (proc->turn[i].stage > STAGE_CLAIMED)
            known |= 1u << proc->turn[i].task;
    proc->stranded = 0;
    struct state late = *n;
    struct orphan *o = free_orphan(&late);

    sql_reconcile(n, proc->inc, known, bound);
    emit(n, STEP_worker_reconcile, p, 0);
    if (o && spend(&late)) {
        *o = (struct orphan){
            .kind = ORPHAN_RECONCILE, .inc = proc->inc, .known = (uint8_t)known, .bound = bound};
        emit(&late, STEP_given_up, p, 0);
    }
}

static bool may_reconcile(const struct proc *proc)
{
    return proc->stranded && (!claim_is_busy(proc) || mutant == MUTANT_RECONCILE_BUSY);
}

static void beaten(const struct state *s, int p)
{
    struct state n = *s;
    struct proc *proc = &n.proc[p];
    int turns = 0, inc;

    proc->beat = BEAT_NONE;
    if (s->proc[p].beat == BEAT_DEAD) {
        drop_all(proc);
        for (int i = 0; i < SLOTS; i++) /* of a claim: stale */
            if (proc->turn[i].stage == STAGE_CLAIMED)
                turn_over(proc, i);
        if (proc->up == UP_DRAINING) { /* nothing to hand back */
            *proc = (struct proc){.inc = NOBODY};
            emit(&n, STEP_worker_beat, p, 0);
            return;
        }
        inc = free_inc(&n);
        if (inc == NOBODY) {
            proc->beat = BEAT_DEAD; /* registers as soon as a row is free here */
            if (!s->proc[p].fenced)
                emit(&n, STEP_fence, p, 0);
            return;
        }
        n.inc[inc] = (struct inc){ROW_LIVE, 0};
        proc->inc = (uint8_t)inc;
        proc->fenced = proc->stranded = 0;
        emit(&n, STEP_worker_register, p, 0);
        return;
    }
    proc->fenced = 0;
    for (int i = 0; i < SLOTS; i++)
        turns += proc->turn[i].stage > STAGE_CLAIMED;
    proc->stranded = s->proc[p].count > turns ? s->proc[p].newest : 0;
    if (may_reconcile(proc))
        reconcile(&n, p);
    else
        emit(&n, STEP_worker_beat, p, 0);
}

/* What a beat has shown while a claim was under way. */
static void step_reconcile(const struct state *s, int p)
{
    struct state n = *s;

    if (may_reconcile(&s->proc[p]))
        reconcile(&n, p);
}

static void step_beat(const struct state *s, int p)
{
    const struct proc *proc = &s->proc[p];
    struct state n = *s;

    if (proc->up != UP_RUNNING && proc->up != UP_DRAINING)
        return;
    if (proc->beat != BEAT_NONE) {
        beaten(s, p);
        if (proc->beat == BEAT_LIVE && spend(&n)) {
            n.proc[p].beat = BEAT_NONE;
            emit(&n, STEP_lost, p, 0);
        }
    } else {
        n.proc[p].beat = sql_row_writes(s, proc->inc) ? BEAT_LIVE : BEAT_DEAD;
        if (n.proc[p].beat == BEAT_LIVE) {
            n.inc[proc->inc].expired = 0;
            n.proc[p].count = (uint8_t)leases_of(s, proc->inc, &n.proc[p].newest);
        }
        beaten(&n, p);
        if (n.proc[p].beat == BEAT_LIVE && spend(&n)) /* the answer takes long */
            emit(&n, STEP_worker_beat, p, 0);
    }
    n = *s;
    if (!faults || proc->fenced || (!s->inc[proc->inc].expired && !spend(&n)))
        return;
    n.proc[p].fenced = 1; /* no answer in time: it starts and writes nothing */
    emit(&n, STEP_fence, p, 0);
    if (s->inc[proc->inc].expired) { /* it was stopped for so long */
        drop_all(&n.proc[p]);
        emit(&n, STEP_fence, p, 0);
    }
}

/* The controls that a beat or a hint brings. */
static void step_controls(const struct state *s, int p)
{
    struct state n = *s;
    bool any = false;

    for (int i = 0; i < SLOTS; i++) {
        const struct turn *turn = &s->proc[p].turn[i];

        if (turn->stage <= STAGE_CLAIMED || turn->stage == STAGE_DROPPING || turn->told ||
            !s->task[turn->task].leased || s->task[turn->task].inc != s->proc[p].inc ||
            !s->task[turn->task].aborting)
            continue;
        n.proc[p].turn[i].told = 1;
        any = true;
    }
    if (any)
        emit(&n, STEP_worker_controls, p, 0);
}

/* ---- coming and going ---- */

static void step_up(const struct state *s, int p)
{
    const struct proc *proc = &s->proc[p];
    struct state n = *s;
    int inc = free_inc(s);

    if (proc->up == UP_DOWN && inc != NOBODY) {
        n.inc[inc] = (struct inc){ROW_LIVE, 0};
        n.proc[p] = (struct proc){.up = UP_RUNNING, .inc = (uint8_t)inc};
        emit(&n, STEP_worker_register, p, 0);
    }
    n = *s;
    if (proc->up != UP_DOWN && spend(&n)) {
        n.proc[p] = (struct proc){.inc = NOBODY};
        emit(&n, STEP_crash, p, 0);
    }
}

static void leave(const struct state *s, int p)
{
    const struct proc *proc = &s->proc[p];
    struct state n = *s;

    sql_leave(&n, proc->inc, proc->leave_leases, proc->leave_row);
    n.proc[p] = (struct proc){.inc = NOBODY};
    emit(&n, STEP_worker_leave, p, 0);
}

static void step_down(const struct state *s, int p)
{
    const struct proc *proc = &s->proc[p];
    struct state n = *s;
    uint8_t newest;

    if (proc->up == UP_RUNNING && faults && n.drains > 0) {
        n.drains--;
        n.proc[p].up = UP_DRAINING;
        emit(&n, STEP_drain, p, 0); /* the statement is lost, or comes to nothing */
        if (s->inc[proc->inc].row == ROW_LIVE)
            n.inc[proc->inc].row = ROW_DRAINING;
        emit(&n, STEP_worker_drain, p, 0);
    } else if (proc->up == UP_DRAINING && turns_of(proc) == 0) {
        n.proc[p].up = UP_LEAVING;
        n.proc[p].leave_row = s->inc[proc->inc].row;
        n.proc[p].leave_leases = leases_of(s, proc->inc, &newest) > 0;
        leave(&n, p);
        if (spend(&n)) /* it takes long */
            emit(&n, STEP_begins, p, 0);
    } else if (proc->up == UP_LEAVING) {
        leave(s, p);
    }
}

/* ---- the scheduler, clients and time ---- */

static void step_reap(const struct state *s)
{
    struct state n = *s;

    if (s->picked != NOBODY) {
        if (sql_row_writes(s, s->picked) && !s->inc[s->picked].expired)
            break_at("a worker was declared dead before its time had run out");
        n.inc[s->picked].row = ROW_DEAD;
        n.picked = NOBODY;
        emit(&n, STEP_worker_reap, s->picked, 0);
        return;
    }

    for (int i = 0; i < INCS; i++) {
        if (!s->inc[i].expired || !sql_row_writes(s, i))
            continue;
        if (mutant == MUTANT_REAP_CHECK) {
            n.picked = (uint8_t)i;
            emit(&n, STEP_begins, i, 0);
        } else {
            n.inc[i].row = ROW_DEAD;
            emit(&n, STEP_worker_reap, i, 0);
        }
        n = *s;
    }
}

/* Its session is gone, and it is silent: because it has died, or for longer than it may be. */
static void step_vanish(const struct state *s)
{
    for (int i = 0; i < INCS; i++) {
        struct state n = *s;

        if (!sql_row_writes(s, i) || (is_owned(s, i) && !spend(&n)))
            continue;
        n.inc[i].row = ROW_DEAD;
        emit(&n, STEP_worker_vanish, i, 0);
    }
}

static bool may_rescue(const struct state *s, int inc)
{
    return s->inc[inc].row == ROW_DEAD || (mutant == MUTANT_RESCUE_DEAD && s->inc[inc].expired);
}

static void step_tasks(const struct state *s)
{
    struct state n = *s;

    for (int t = 0; t < TASKS; t++) {
        if (!s->task[t].there) {
            if (t == 1 && (!s->task[0].there || s->retry != RETRY_NONE))
                continue;
            sql_submit(&n, t);
            emit(&n, STEP_task_submit, t, 0);
        } else if (!s->task[t].end && !s->task[t].aborting && faults && n.aborts) {
            n.aborts--;
            sql_abort(&n, t);
            emit(&n, STEP_task_abort, t, 0);
        }
        n = *s;
        if (t == 0 && faults && sql_may_retry(s, t)) {
            sql_retry(&n, t, 1);
            emit(&n, STEP_task_retry, t, 1);
            n = *s;
        }
        if (s->task[t].due) {
            sql_due(&n, t);
            emit(&n, STEP_due_release, t, 0);
            n = *s;
        }
        if (s->task[t].leased && may_rescue(s, s->task[t].inc)) {
            sql_rescue(&n, t);
            emit(&n, STEP_lease_rescue, t, 0);
            n = *s;
        }
    }
}

static void step_time(const struct state *s)
{
    struct state n = *s;

    for (int i = 0; i < INCS; i++) {
        bool alive = false;

        for (int p = 0; p < PROCS; p++)
            alive = alive ||
                    (s->proc[p].inc == i && (!s->proc[p].fenced || s->proc[p].beat == BEAT_LIVE));
        if (!sql_row_writes(s, i) || s->inc[i].expired || (alive && !spend(&n)))
            continue;
        n.inc[i].expired = 1;
        emit(&n, STEP_runs_out, i, 0);
        n = *s;
    }
}

/* ---- late ---- */

static void late_write(const struct state *s, int i)
{
    const struct orphan *o = &s->orphan[i];
    struct state n = *s;

    if (o->record <= RECORD_SAVE && !o->begun) {
        n.orphan[i].begun = 1;
        n.orphan[i].seen = sql_lease_is(s, o->inc, o->task, o->epoch);
        n.orphan[i].alive = mutant == MUTANT_APPEND_LOCK && sql_row_writes(s, o->inc);
        emit(&n, STEP_begins, i, o->task);
        return;
    }
    if (o->record <= RECORD_SAVE)
        (void)sql_append(&n, o->inc, o->task, o->epoch, o->off, o->record, o->seen, o->alive);
    else
        (void)sql_end(&n, o->inc, o->task, o->epoch, o->off, o->record, o->end);
    n.orphan[i] = (struct orphan){0};
    emit(&n, STEP_late, i, o->task);
}

static void step_late(const struct state *s)
{
    for (int i = 0; i < ORPHANS; i++) {
        const struct orphan *o = &s->orphan[i];
        struct state n = *s;

        if (o->kind == ORPHAN_WRITE) {
            late_write(s, i);
        } else if (o->kind != ORPHAN_NONE) {
            n.orphan[i] = (struct orphan){0};
            if (o->kind == ORPHAN_CLAIM)
                sql_claim(&n, o->inc, sql_claimable(s, o->inc, o->known));
            else
                sql_reconcile(&n, o->inc, o->known, o->bound);
            emit(&n, STEP_late, i, 0);
        }
        n = *s;
        if (o->kind != ORPHAN_NONE && faults) { /* its backend ends without it */
            n.orphan[i] = (struct orphan){0};
            emit(&n, STEP_broken_off, i, 0);
        }
    }
}

void steps_all(const struct state *s,
               void (*emit_)(const struct state *next, int step, int who, int what))
{
    emit = emit_;
    faults = true;
    step_tasks(s);
    step_reap(s);
    step_vanish(s);
    step_time(s);
    step_late(s);
    for (int p = 0; p < PROCS; p++) {
        step_up(s, p);
        step_down(s, p);
        step_beat(s, p);
        step_controls(s, p);
        step_claim(s, p);
        step_claimed(s, p);
        step_reconcile(s, p);
        step_flush(s, p);
        for (int i = 0; i < SLOTS; i++)
            step_turn(s, p, i);
    }
}

/* ---- without faults ---- */

static struct state *first;
static int first_step;

static void keep_first(const struct state *next, int step, int who, int what)
{
    (void)who;
    (void)what;
    if (first_step >= 0)
        return;
    *first = *next;
    first_step = step;
}

/* Work comes before waiting, and claims and beats before idle workers start. */
static void steps_in_order(const struct state *s)
{
    bool up = false;

    step_late(s);
    step_reap(s);
    step_tasks(s);
    for (int p = 0; p < PROCS; p++) {
        const struct proc *proc = &s->proc[p];
        uint8_t newest;

        step_controls(s, p);
        step_flush(s, p);
        step_claimed(s, p);
        step_reconcile(s, p);
        for (int i = 0; i < SLOTS; i++)
            step_turn(s, p, i);
        step_down(s, p);
        if (proc->beat != BEAT_NONE || proc->fenced ||
            ((proc->up == UP_RUNNING || proc->up == UP_DRAINING) &&
             (!sql_row_writes(s, proc->inc) || s->inc[proc->inc].expired ||
              (int)leases_of(s, proc->inc, &newest) > turns_of(proc))))
            step_beat(s, p);
        step_claim(s, p);
    }
    step_time(s);
    for (int p = 0; p < PROCS; p++)
        up = up || s->proc[p].up == UP_RUNNING;
    for (int p = 0; p < PROCS && !up; p++)
        step_up(s, p);
}

bool steps_fair(const struct state *s, struct state *next, int *step)
{
    emit = keep_first;
    faults = false;
    first = next;
    first_step = -1;
    steps_in_order(s);
    *step = first_step;
    return first_step >= 0;
}
