/* States: the first one, what must hold in each, and their canonical form. */
#include "model.h"

#include <stddef.h>
#include <string.h>

const char *broken;
enum mutant mutant;
const char *const step_names[STEP_MAX] = {
#define X(name) #name,
    STEPS(X)
#undef X
};

static unsigned with_tool; /* mask of tasks */

void break_at(const char *why)
{
    if (!broken)
        broken = why;
}

void state_start(struct state *s, const struct size *size)
{
    memset(s, 0, sizeof(*s));
    with_tool = size->tools;
    for (int i = 0; i < SESSIONS; i++)
        s->session[i] = (struct session){
            NOBODY, {NOBODY, NOBODY}
        };
    for (int p = 0; p < PROCS; p++)
        s->proc[p].inc = NOBODY;
    s->picked = NOBODY;
    s->faults = (uint8_t)size->faults;
    s->drains = (uint8_t)size->drains;
    s->aborts = (uint8_t)size->aborts;
    s->retry = size->retry ? RETRY_MAY : RETRY_NONE;
    sql_submit(s, 0);
    sql_submit(s, TASKS - 1);
}

bool state_has_tool(int task)
{
    return with_tool & 1u << task;
}

/* ---- what holds ---- */

static bool is_queued(const struct state *s, int task)
{
    const struct session *session = &s->session[task == TASKS - 1];

    return session->queue[0] == task || session->queue[1] == task;
}

void state_check(const struct state *s)
{
    int running[SESSIONS] = {0};

    for (int i = 0; i < TASKS; i++) {
        const struct task *t = &s->task[i];
        int places = t->ready + t->due + t->leased + (t->end != END_OPEN) + is_queued(s, i);

        if (places != t->there)
            break_at(places ? "invariant 1: a task stands in two places"
                            : "invariant 1: an accepted task stands nowhere");
        if (t->control && t->end)
            break_at("invariant 6: a control row of a task that has ended");
        if (t->ran > 1)
            break_at("invariant 5: a tool ran twice");
        if (t->ran && t->ledger == LEDGER_NONE)
            break_at("invariant 5: a tool ran that the ledger does not know");
        running[i == TASKS - 1] += t->ready + t->due + t->leased;
        if ((t->ready || t->due || t->leased) && s->session[i == TASKS - 1].running != i)
            break_at("invariant 2: a task runs that is not its session's");
    }
    for (int i = 0; i < SESSIONS; i++)
        if (running[i] > 1)
            break_at("invariant 2: two tasks of a session run");
    if (s->retry == RETRY_DONE && s->task[0].ran + s->task[1].ran > 1)
        break_at("invariant 5: a tool ran in a turn and once more in its retry");
}

bool state_is_quiet(const struct state *s)
{
    for (int i = 0; i < TASKS; i++) {
        const struct task *t = &s->task[i];
        bool expected = i != 1 || s->retry != RETRY_MAY;

        if (t->there ? !t->end || t->control : expected)
            return false;
    }
    return true;
}

/* ---- canonical form ---- */

#define EPOCHS 32

/* Every place that holds an epoch which can be compared with another. */
static int epoch_places(struct state *s, uint8_t **out)
{
    int n = 0;

    for (int i = 0; i < TASKS; i++)
        if (s->task[i].leased)
            out[n++] = &s->task[i].epoch;
    for (int p = 0; p < PROCS; p++) {
        for (int i = 0; i < SLOTS; i++)
            if (s->proc[p].turn[i].stage)
                out[n++] = &s->proc[p].turn[i].epoch;
        if (s->proc[p].beat == BEAT_LIVE)
            out[n++] = &s->proc[p].newest;
        if (s->proc[p].stranded)
            out[n++] = &s->proc[p].stranded;
    }
    for (int i = 0; i < ORPHANS; i++) {
        if (s->orphan[i].kind == ORPHAN_WRITE)
            out[n++] = &s->orphan[i].epoch;
        if (s->orphan[i].kind == ORPHAN_RECONCILE)
            out[n++] = &s->orphan[i].bound;
    }
    return n;
}

uint8_t state_next_epoch(const struct state *s)
{
    struct state copy = *s;
    uint8_t *places[EPOCHS], max = 0;
    int n = epoch_places(&copy, places);

    for (int i = 0; i < n; i++)
        if (*places[i] > max)
            max = *places[i];
    return (uint8_t)(max + 1);
}

static void rank_epochs(struct state *s)
{
    uint8_t *places[EPOCHS], rank[256] = {0}, next = 1;
    int n = epoch_places(s, places);

    for (int i = 0; i < n; i++)
        rank[*places[i]] = 1;
    rank[0] = 0;
    for (int e = 1; e < 256; e++)
        if (rank[e])
            rank[e] = next++;
    for (int i = 0; i < n; i++)
        *places[i] = rank[*places[i]];
    for (int i = 0; i < TASKS; i++) {
        struct task *t = &s->task[i];

        t->end_epoch = rank[t->end_epoch];
        t->seq_epoch = rank[t->seq_epoch];
        if (!t->leased)
            t->epoch = t->inc = 0;
    }
}

static bool task_is_held(const struct state *s, int task)
{
    for (int p = 0; p < PROCS; p++)
        for (int i = 0; i < SLOTS; i++)
            if (s->proc[p].turn[i].stage && s->proc[p].turn[i].task == task)
                return true;
    for (int i = 0; i < ORPHANS; i++)
        if (s->orphan[i].kind == ORPHAN_WRITE && s->orphan[i].task == task)
            return true;
    return false;
}

/* A retry may carry it on, or did and is compared with it. */
static bool is_kept(const struct state *s, int task)
{
    return task == 0 && (s->retry == RETRY_MAY || (s->retry == RETRY_DONE && !s->task[1].end));
}

/* What can make no difference any more is forgotten. */
static void forget(struct state *s)
{
    bool used[INCS] = {false};

    for (int i = 0; i < TASKS; i++) {
        struct task *t = &s->task[i];

        if (t->leased)
            used[t->inc] = true;
        if (!t->end)
            continue;
        t->fails = t->failed = t->crashes = t->crashed = t->asked = 0;
        if (!task_is_held(s, i) && !is_kept(s, i)) {
            t->ledger = t->ran = 0;
            t->end = END_COMPLETED;
        }
    }
    for (int p = 0; p < PROCS; p++) {
        if (s->proc[p].up == UP_DOWN)
            s->proc[p] = (struct proc){.inc = NOBODY};
        for (int i = 0; i < SLOTS; i++)
            if (!s->proc[p].turn[i].stage)
                s->proc[p].turn[i] = (struct turn){0};
        if (s->proc[p].flush.phase == PHASE_IDLE)
            s->proc[p].flush = (struct flush){0};
        if (s->proc[p].beat != BEAT_LIVE)
            s->proc[p].count = s->proc[p].newest = 0;
        if (s->proc[p].inc != NOBODY)
            used[s->proc[p].inc] = true;
        if (s->proc[p].flush.phase == PHASE_SEEN)
            used[s->proc[p].flush.inc] = true;
        else
            s->proc[p].flush.inc = 0;
    }
    for (int i = 0; i < ORPHANS; i++) {
        struct orphan *o = &s->orphan[i];

        if (o->kind == ORPHAN_CLAIM && s->inc[o->inc].row != ROW_LIVE &&
            mutant != MUTANT_CLAIM_GATE)
            o->kind = ORPHAN_NONE; /* a claim of the dead does nothing */
        if (o->kind == ORPHAN_NONE)
            *o = (struct orphan){0};
        else
            used[o->inc] = true;
    }
    for (int i = 0; i < INCS; i++) {
        if (s->inc[i].row != ROW_LIVE && s->inc[i].row != ROW_DRAINING)
            s->inc[i].expired = 0;
        if (!used[i] && (s->inc[i].row == ROW_DEAD || s->inc[i].row == ROW_NONE))
            s->inc[i] = (struct inc){0};
    }
}

static void swap_turns(struct proc *proc)
{
    struct turn swap = proc->turn[0];

    proc->turn[0] = proc->turn[1];
    proc->turn[1] = swap;
    if (proc->flush.phase != PHASE_IDLE)
        proc->flush.turn = !proc->flush.turn;
}

/* Name incarnations anew: to[old] is the name. */
static void rename_incs(struct state *s, const uint8_t *to)
{
    struct inc old[INCS];

    memcpy(old, s->inc, sizeof(old));
    for (int i = 0; i < INCS; i++)
        s->inc[to[i]] = old[i];
    for (int i = 0; i < TASKS; i++)
        if (s->task[i].leased)
            s->task[i].inc = to[s->task[i].inc];
    for (int p = 0; p < PROCS; p++) {
        if (s->proc[p].inc != NOBODY)
            s->proc[p].inc = to[s->proc[p].inc];
        if (s->proc[p].flush.phase == PHASE_SEEN)
            s->proc[p].flush.inc = to[s->proc[p].flush.inc];
    }
    for (int i = 0; i < ORPHANS; i++)
        if (s->orphan[i].kind)
            s->orphan[i].inc = to[s->orphan[i].inc];
    if (s->picked != NOBODY)
        s->picked = to[s->picked];
}

/* A number by which incarnations of nobody are put in order. */
static unsigned inc_key(const struct state *s, int inc)
{
    unsigned key = (unsigned)(s->inc[inc].row << 1 | s->inc[inc].expired);

    for (int i = 0; i < TASKS; i++)
        key = key << 1 | (s->task[i].leased && s->task[i].inc == inc);
    for (int i = 0; i < ORPHANS; i++)
        key = key << 3 | (s->orphan[i].kind && s->orphan[i].inc == inc ? s->orphan[i].kind : 0u);
    for (int p = 0; p < PROCS; p++)
        key = key << 1 | (s->proc[p].flush.phase == PHASE_SEEN && s->proc[p].flush.inc == inc);
    return key << 1 | (s->picked == inc);
}

static void order_incs(struct state *s)
{
    uint8_t to[INCS], next = 0;
    bool named[INCS] = {false};

    for (int p = 0; p < PROCS; p++) {
        if (s->proc[p].inc == NOBODY)
            continue;
        to[s->proc[p].inc] = next++;
        named[s->proc[p].inc] = true;
    }
    while (next < INCS) {
        int best = -1;

        for (int i = 0; i < INCS; i++)
            if (!named[i] && (best < 0 || inc_key(s, i) > inc_key(s, best)))
                best = i;
        to[best] = next++;
        named[best] = true;
    }
    rename_incs(s, to);
}

static void order(struct state *s)
{
    for (int p = 0; p < PROCS; p++)
        if (memcmp(&s->proc[p].turn[0], &s->proc[p].turn[1], sizeof(struct turn)) < 0)
            swap_turns(&s->proc[p]);
    for (int i = 0; i + 1 < ORPHANS; i++)
        if (memcmp(&s->orphan[i], &s->orphan[i + 1], sizeof(struct orphan)) < 0) {
            struct orphan swap = s->orphan[i];

            s->orphan[i] = s->orphan[i + 1];
            s->orphan[i + 1] = swap;
        }
    order_incs(s);
}

void state_canonize(struct state *s)
{
    struct state other;

    forget(s);
    rank_epochs(s);
    other = *s;
    other.proc[0] = s->proc[1];
    other.proc[1] = s->proc[0];
    order(s);
    order(&other);
    if (memcmp(&other, s, sizeof(other)) < 0)
        *s = other;
}

uint64_t state_hash(const struct state *s)
{
    uint64_t words[(sizeof(*s) + 7) / 8] = {0}, h = 0x9e3779b97f4a7c15u;

    memcpy(words, s, sizeof(*s));
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        h = (h ^ words[i]) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 31;
    }
    h *= 0x94d049bb133111ebu;
    h ^= h >> 29;
    return h ? h : 1;
}
