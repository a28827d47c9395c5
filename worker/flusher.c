/*
 *   IDLE ---> WAITING ---> SENDING ---> ASKING ---> IDLE
 *               |  ^       |   ^  |                  ^
 *               v  |   BACKOFF-+  +------------------+
 *            SUSPENDED <---+
 *
 * IDLE     nothing to write
 * WAITING  `timer` runs to the tick
 * SENDING  one transaction is in flight; a database that is away sends it to BACKOFF and back,
 *          which costs time: the record is sent as it was until its fate is known
 * ASKING   turn_fate for those that were not accepted
 * BACKOFF  `timer` runs to the next try
 * SUSPENDED  this worker may not write now; it goes on where it was when the gate opens
 *
 * When the database refuses a transaction for what is in it, the turns of that batch wait in
 * `alone` and are sent by halves until the one that is refused is found and told so: one among n
 * costs some 2 log n transactions. What it skips, because a transaction of somebody else holds the
 * lease or the session locked, waits in `held` and goes again with a later batch; the others do not
 * wait for it. What is sent again locks its rows before it looks at them (turn_complete.sql).
 */
#include "flusher.h"

#include "backoff.h"
#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MIN_MS     5
#define TICK_MAX_MS     300
#define URGENT_MS       2  /* for what a turn waits: others may come */
#define SETTLE_MS       1  /* what a turn does at once is one row: its start and, often, its end */
#define TURNS_PER_MS    10 /* the tick grows by a millisecond for so many writing turns, */
#define MANY_TURNS      950
#define MANY_PER_MS     25 /* and for so many of those above MANY_TURNS */
#define BATCH_MAX_TURNS 1024
#define BATCH_MAX_BYTES (8 << 20)
#define SEND_TIMEOUT_MS 10000
#define HELD_MS         50

enum flush_state {
    FLUSH_IDLE,      /* nothing */
    FLUSH_WAITING,   /* timer to the tick */
    FLUSH_SENDING,   /* store_batch_send() */
    FLUSH_ASKING,    /* store_turn_fate() */
    FLUSH_BACKOFF,   /* timer to the next try of the same batch */
    FLUSH_SUSPENDED, /* gate_wait() */
};

struct flusher {
    enum flush_state state;
    uv_timer_t timer;
    struct pg *pg;
    struct notify *notify;
    struct worker_stats *stats;
    struct flusher_conf conf;
    struct gate_wait gate_wait;
    size_t bytes;     /* that wait to be written, of all clients */
    struct list full; /* struct flush_client.full_node */
    int64_t worker_id;
    const char *worker;
    struct list dirty, urgent, alone; /* struct flush_client.node, waiting */
    size_t piece;                     /* how many of `alone` go together */
    struct list flying;               /* in the batch */
    struct list doubtful;             /* not accepted, fate being asked */
    struct list held;                 /* skipped, because somebody holds a row locked */
    struct store_batch batch;
    struct pg_call fate_call;
    struct pg_array fate_tasks, fate_epochs;
    uint64_t tick_at_ms; /* when `dirty` is due */
    uint64_t held_at_ms; /* when `held` is due */
    uint64_t sent_at_us;
    unsigned failures;
    bool yielded; /* the timer has run out, and now the others' that have */
    bool closing;
};

static void on_timer(uv_timer_t *timer);
static void on_sent(void *owner, PGresult *res, const struct err *err);
static void on_fate(void *owner, PGresult *res, const struct err *err);

static void flush_enter(struct flusher *f, enum flush_state state)
{
    f->state = state;
    hook_state("flush", (int)state);
    if (state != FLUSH_WAITING && state != FLUSH_BACKOFF)
        uv_timer_stop(&f->timer);
}

/* How long all of so many turns may wait for their next transaction. What streams tell has waited
 * in their sockets already (http.h). */
static uint64_t tick_ms(const struct flusher *f, size_t turns)
{
    uint64_t lull_ms = http_lull_ms(f->conf.http);
    uint64_t least_ms = TICK_MIN_MS > lull_ms / 4 ? TICK_MIN_MS : lull_ms / 4;
    size_t many = turns > MANY_TURNS ? turns - MANY_TURNS : 0;
    uint64_t ms = TICK_MIN_MS + (turns - many) / TURNS_PER_MS + many / MANY_PER_MS;

    if (ms > TICK_MAX_MS)
        ms = TICK_MAX_MS;
    return ms > least_ms + lull_ms ? ms - lull_ms : least_ms;
}

static struct flush_client *client_of(struct list *node)
{
    return container_of(node, struct flush_client, node);
}

static size_t list_len(const struct list *head)
{
    size_t n = 0;

    list_foreach (node, head)
        n++;
    return n;
}

static uint64_t min_ms(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t ms_until(uint64_t at_ms, uint64_t now_ms)
{
    return at_ms > now_ms ? at_ms - now_ms : 0;
}

/* Count what the client has waiting; once full it stays so until half of it is written. */
static void flush_count(struct flusher *f, struct flush_client *c)
{
    size_t bytes = record_bytes(&c->now) + record_bytes(&c->sent);

    f->bytes += bytes - c->bytes;
    c->bytes = bytes;
    if (c->full || (bytes <= f->conf.max_turn_bytes && f->bytes <= f->conf.max_bytes))
        return;
    c->full = true;
    list_append(&f->full, &c->full_node);
}

static void flush_tell_room(struct flusher *f)
{
    list_foreach_safe (node, &f->full) {
        struct flush_client *c = container_of(node, struct flush_client, full_node);

        if (c->bytes > f->conf.max_turn_bytes / 2 || f->bytes > f->conf.max_bytes / 2)
            continue;
        c->full = false;
        list_remove(&c->full_node);
        c->on_room(c->owner);
    }
}

static void flush_wait(struct flusher *f, struct flush_client *c, bool urgent)
{
    list_remove(&c->node);
    list_append(urgent ? &f->urgent : &f->dirty, &c->node);
    c->urgent = urgent;
    c->since_ms = clock_mono_ms();
}

/* Decide when the next transaction goes. */
static void flush_schedule(struct flusher *f)
{
    uint64_t now_ms = clock_mono_ms(), wait_ms;

    if (f->state != FLUSH_IDLE && f->state != FLUSH_WAITING)
        return; /* the answer in flight comes back here */
    if (!list_is_empty(&f->alone))
        wait_ms = 0;
    else if (!list_is_empty(&f->urgent))
        wait_ms = ms_until(client_of(f->urgent.next)->since_ms + URGENT_MS, now_ms);
    else if (!list_is_empty(&f->dirty))
        wait_ms = f->tick_at_ms > now_ms ? f->tick_at_ms - now_ms : SETTLE_MS;
    else
        wait_ms = UINT64_MAX;
    if (!list_is_empty(&f->held))
        wait_ms = min_ms(wait_ms, ms_until(f->held_at_ms, now_ms));
    if (wait_ms == UINT64_MAX)
        return;
    if (f->state == FLUSH_WAITING && uv_timer_get_due_in(&f->timer) <= wait_ms)
        return;
    flush_enter(f, FLUSH_WAITING);
    uv_timer_start(&f->timer, on_timer, wait_ms, 0);
}

/* Put the record in `sent` into the batch. */
static void flush_fly(struct flusher *f, struct flush_client *c)
{
    list_remove(&c->node);
    list_append(&f->flying, &c->node);
    c->held = false;
    record_put(&c->sent, c->task_id, c->epoch, &f->batch);
}

/* Move clients of `from` into the batch until it is full. */
static void flush_take(struct flusher *f, struct list *from)
{
    size_t n = list_len(&f->flying);

    while (!list_is_empty(from) && n < BATCH_MAX_TURNS && f->batch.bytes < BATCH_MAX_BYTES) {
        struct flush_client *c = client_of(from->next);
        struct record swap = c->sent;

        c->sent = c->now;
        c->now = swap;
        c->in_flight = true;
        c->urgent = false;
        flush_fly(f, c);
        f->stats->events += (uint64_t)c->sent.count;
        n++;
    }
}

static void on_gate(void *owner);

static void flush_suspend(struct flusher *f)
{
    flush_enter(f, FLUSH_SUSPENDED);
    gate_wait(f->conf.gate, &f->gate_wait, on_gate, f);
}

static void flush_send(struct flusher *f)
{
    if (!gate_is_open(f->conf.gate)) {
        flush_suspend(f);
        return;
    }
    flush_enter(f, FLUSH_SENDING);
    f->sent_at_us = clock_mono_us();
    store_batch_send(f->pg, &f->batch, f->worker_id, f->worker, SEND_TIMEOUT_MS, on_sent, f);
}

static void flush_accept(struct flusher *f);

/* More turns than one transaction takes go by turns: as many transactions in a tick. */
static void flush_collect(struct flusher *f)
{
    uint64_t now_ms = clock_mono_ms();
    size_t written, turns;

    store_batch_reset(&f->batch);
    if (!list_is_empty(&f->alone)) {
        f->batch.lock_first = true;
        for (size_t n = 0;
             n < f->piece && !list_is_empty(&f->alone) && f->batch.bytes < BATCH_MAX_BYTES; n++)
            flush_fly(f, client_of(f->alone.next));
    } else {
        while (!list_is_empty(&f->held) && now_ms >= f->held_at_ms &&
               f->batch.bytes < BATCH_MAX_BYTES) {
            f->batch.lock_first = true;
            flush_fly(f, client_of(f->held.next));
        }
        flush_take(f, &f->urgent);
        if (now_ms >= f->tick_at_ms) {
            flush_take(f, &f->dirty);
            written = list_len(&f->flying);
            turns = written + list_len(&f->dirty);
            f->tick_at_ms = now_ms + (turns ? tick_ms(f, turns) * written / turns : 0);
        }
    }
    if (list_is_empty(&f->flying)) {
        flush_enter(f, FLUSH_IDLE);
        flush_schedule(f);
        return;
    }
    if (store_batch_is_empty(&f->batch)) { /* turns that wait with nothing to write */
        flush_enter(f, FLUSH_SENDING);
        flush_accept(f);
        return;
    }
    flush_send(f);
}

static void flush_go_on(struct flusher *f)
{
    if (!list_is_empty(&f->flying))
        flush_send(f);
    else if (!gate_is_open(f->conf.gate))
        flush_suspend(f); /* what is written meanwhile goes with it */
    else
        flush_collect(f);
}

static void on_gate(void *owner)
{
    flush_go_on(owner);
}

/* What turns have put off until the loop comes round (turn_park) is done before, also when we are
 * late: the end of many of them then goes with their start. */
static void on_timer(uv_timer_t *timer)
{
    struct flusher *f = timer->data;

    if (f->state == FLUSH_WAITING && !f->yielded) {
        f->yielded = true;
        uv_timer_start(&f->timer, on_timer, 0, 0);
        return;
    }
    f->yielded = false;
    flush_go_on(f);
}

/* Tell a turn what became of its record; it may free itself in on_flushed(). */
static void flush_tell(struct flusher *f, struct flush_client *c, enum flush_result result,
                       const char *control)
{
    bool barrier = c->sent.barrier;

    list_remove(&c->node);
    if (result == FLUSH_DURABLE) {
        if (c->sent.count > 0)
            notify_task(f->notify, 'c', c->task_id);
        if (c->sent.how == RECORD_COMPLETE)
            notify_task(f->notify, 'd', c->task_id);
        if (c->sent.how == RECORD_RELEASE)
            notify_put(f->notify, "r");
    }
    c->in_flight = false;
    if (result == FLUSH_DURABLE)
        record_reset(&c->sent);
    flush_count(f, c);
    if (!record_is_empty(&c->now)) /* written meanwhile */
        flush_wait(f, c, c->now.barrier);
    c->on_flushed(c->owner, result, barrier, control);
}

static int compare_clients(const void *a, const void *b)
{
    return strcmp((*(struct flush_client *const *)a)->task_id,
                  (*(struct flush_client *const *)b)->task_id);
}

static struct flush_client *find_client(struct flush_client **sorted, size_t n, const char *task_id)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t mid = (low + high) / 2;
        int cmp = strcmp(sorted[mid]->task_id, task_id);

        if (cmp == 0)
            return sorted[mid];
        if (cmp < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* The batch in flight sorted by task; to be freed by the caller. */
static struct flush_client **sort_clients(struct list *clients, size_t *ret_n)
{
    size_t n = list_len(clients), i = 0;
    struct flush_client **sorted = xcalloc(n, sizeof(struct flush_client *));

    list_foreach (node, clients)
        sorted[i++] = client_of(node);
    qsort(sorted, n, sizeof(struct flush_client *), compare_clients);
    *ret_n = n;
    return sorted;
}

static enum batch_part last_part(const struct record *r)
{
    static const enum batch_part parts[] = {[RECORD_COMPLETE] = BATCH_COMPLETE,
                                            [RECORD_RETRY] = BATCH_RETRY,
                                            [RECORD_RELEASE] = BATCH_RELEASE};

    if (r->how != RECORD_OPEN)
        return parts[r->how];
    if (r->count > 0)
        return BATCH_APPEND;
    if (r->step)
        return BATCH_STEP;
    for (int i = 0; i < r->ncalls; i++)
        if (!r->calls[i].settle)
            return BATCH_CLAIM;
    return BATCH_PARTS;
}

/* Mark the clients whose decisive row was accepted. */
static void mark_accepted(struct flusher *f, struct flush_client **sorted, size_t n)
{
    const char *task_id;

    for (size_t i = 0; i < n; i++) /* a result alone is not asked about: nothing starts by it */
        sorted[i]->accepted = last_part(&sorted[i]->sent) == BATCH_PARTS;
    for (int p = 0; p < BATCH_PARTS; p++) {
        for (int row = 0; (task_id = store_batch_accepted(&f->batch, p, row)); row++) {
            struct flush_client *c = find_client(sorted, n, task_id);

            if (c && last_part(&c->sent) == (enum batch_part)p)
                c->accepted = 1;
        }
    }
}

static void flush_ask(struct flusher *f)
{
    flush_enter(f, FLUSH_ASKING);
    pg_array_reset(&f->fate_tasks);
    pg_array_reset(&f->fate_epochs);
    list_foreach (node, &f->doubtful) {
        pg_array_put_uuid(&f->fate_tasks, client_of(node)->task_id);
        pg_array_put_int(&f->fate_epochs, client_of(node)->epoch);
    }
    store_turn_fate(f->pg, &f->fate_call, &f->fate_tasks, &f->fate_epochs, on_fate, f);
}

static void flush_done(struct flusher *f)
{
    f->failures = 0;
    flush_enter(f, FLUSH_IDLE);
    flush_tell_room(f);
    flush_schedule(f);
}

static void flush_accept(struct flusher *f)
{
    size_t n;
    struct flush_client **sorted = sort_clients(&f->flying, &n);

    mark_accepted(f, sorted, n);
    f->piece = 2 * n; /* what is left of `alone` is likely good */
    if (store_batch_made_ready(&f->batch))
        notify_put(f->notify, "r");
    for (size_t i = 0; i < n; i++) {
        list_remove(&sorted[i]->node);
        if (!sorted[i]->accepted)
            list_append(&f->doubtful, &sorted[i]->node);
    }
    for (size_t i = 0; i < n; i++)
        if (sorted[i]->accepted)
            flush_tell(f, sorted[i], FLUSH_DURABLE, NULL);
    free(sorted);
    if (list_is_empty(&f->doubtful))
        flush_done(f);
    else
        flush_ask(f);
}

static void flush_again(struct flusher *f, const struct err *err)
{
    if (f->failures++ == 0)
        log_line(LOG_WARN, "", "cannot write, trying again: %s", err->msg);
    f->batch.lock_first = true;
    flush_enter(f, FLUSH_BACKOFF);
    uv_timer_start(&f->timer, on_timer, backoff_ms(f->failures, 20, 1000, id_random32()), 0);
}

/* The database refuses the batch for what is in it: find out which turn. */
static void flush_split(struct flusher *f, const struct err *err)
{
    size_t n = list_len(&f->flying);

    if (n == 1) {
        struct flush_client *c = client_of(f->flying.next);

        log_line(LOG_ERROR, "", "task %s cannot be written: %s", c->task_id, err->msg);
        flush_tell(f, c, FLUSH_POISONED, NULL);
    } else {
        f->piece = n / 2;
        list_splice(&f->flying, &f->alone); /* these first */
        list_splice(&f->alone, &f->flying);
    }
    flush_done(f);
}

static void on_sent(void *owner, PGresult *res, const struct err *err)
{
    struct flusher *f = owner;

    (void)res;
    f->stats->flushes++;
    histogram_add(&f->stats->flush_ms, (double)(clock_mono_us() - f->sent_at_us) / 1000);
    if (f->closing)
        flush_enter(f, FLUSH_IDLE);
    else if (err->code == ERR_OK)
        flush_accept(f);
    else if (err->code == ERR_UNAVAILABLE || err->code == ERR_TIMEOUT)
        flush_again(f, err);
    else
        flush_split(f, err);
}

/* Somebody holds the lease or the session locked, or this incarnation is dead and we do not know
 * it yet: send it again as it was. */
static void flush_hold(struct flusher *f, struct flush_client *c)
{
    list_remove(&c->node);
    list_append(&f->held, &c->node);
    c->held = true;
    f->held_at_ms = clock_mono_ms() + HELD_MS;
}

static void flush_judge(struct flusher *f, struct flush_client *c, enum turn_fate fate,
                        const char *control)
{
    bool aborts = c->sent.how == RECORD_COMPLETE && c->sent.end->abort;

    if (fate == FATE_ABORTING && (c->sent.how == RECORD_OPEN || aborts))
        fate = FATE_LEASED; /* that is not why it was refused */
    switch (fate) {
    case FATE_ENDED:
        flush_tell(f, c, FLUSH_DURABLE, NULL);
        break;
    case FATE_ABORTING:
        flush_tell(f, c, FLUSH_ABORTING, control);
        break;
    case FATE_LEASED:
        if (c->forgotten)
            flush_tell(f, c, FLUSH_GONE, NULL);
        else
            flush_hold(f, c);
        break;
    case FATE_GONE:
        flush_tell(f, c, FLUSH_GONE, NULL);
        break;
    }
}

static void on_fate(void *owner, PGresult *res, const struct err *err)
{
    struct flusher *f = owner;
    const char *task_id, *control;
    size_t n;

    if (f->closing) {
        flush_enter(f, FLUSH_IDLE);
        return;
    }
    if (err->code != ERR_OK) {
        /* Unknown still. Sending the batch again answers it: every statement bears that. */
        list_splice(&f->alone, &f->doubtful);
        flush_enter(f, FLUSH_WAITING);
        uv_timer_start(&f->timer, on_timer, 200, 0);
        return;
    }
    struct flush_client **sorted = sort_clients(&f->doubtful, &n);

    struct flush_client **of_row = xcalloc((size_t)store_rows(res) + 1, sizeof(*of_row));

    for (int row = 0; row < store_rows(res); row++) {
        (void)store_read_fate(res, row, &task_id, &control);
        of_row[row] = find_client(sorted, n, task_id);
    }
    for (int row = 0; row < store_rows(res); row++) { /* who is told may be gone: no search then */
        enum turn_fate fate = store_read_fate(res, row, &task_id, &control);

        if (of_row[row])
            flush_judge(f, of_row[row], fate, control);
    }
    free(of_row);
    free(sorted);
    flush_done(f);
}

struct flusher *flusher_new(uv_loop_t *loop, struct pg *pg, struct notify *notify,
                            struct worker_stats *stats, const struct flusher_conf *conf)
{
    struct flusher *f = xcalloc(1, sizeof(*f));

    f->pg = pg;
    f->notify = notify;
    f->stats = stats;
    f->worker = "";
    f->conf = *conf;
    list_init(&f->full);
    list_init(&f->dirty);
    list_init(&f->urgent);
    list_init(&f->alone);
    list_init(&f->flying);
    list_init(&f->doubtful);
    list_init(&f->held);
    store_batch_init(&f->batch);
    pg_array_init(&f->fate_tasks, PG_UUID);
    pg_array_init(&f->fate_epochs, PG_INT8);
    uv_timer_init(loop, &f->timer);
    f->timer.data = f;
    return f;
}

static void on_closed(uv_handle_t *handle)
{
    struct flusher *f = handle->data;

    store_batch_release(&f->batch);
    pg_array_release(&f->fate_tasks);
    pg_array_release(&f->fate_epochs);
    free(f);
}

/* The connection is closed before, so nothing is in flight any more. */
void flusher_close(struct flusher *f)
{
    if (!f)
        return;
    f->closing = true;
    gate_leave(&f->gate_wait);
    uv_close((uv_handle_t *)&f->timer, on_closed);
}

void flusher_set_worker(struct flusher *f, int64_t worker_id, const char *name)
{
    f->worker_id = worker_id;
    f->worker = name;
}

void flush_client_init(struct flush_client *c, const char *task_id, int64_t epoch,
                       void (*on_flushed)(void *owner, enum flush_result result, bool barrier,
                                          const char *control),
                       void (*on_room)(void *owner), void *owner)
{
    *c = (struct flush_client){
        .epoch = epoch, .on_flushed = on_flushed, .on_room = on_room, .owner = owner};
    snprintf(c->task_id, sizeof(c->task_id), "%s", task_id);
    list_init(&c->node);
    list_init(&c->full_node);
    record_init(&c->now);
    record_init(&c->sent);
}

void flush_client_release(struct flusher *f, struct flush_client *c)
{
    assert(!c->in_flight);
    list_remove(&c->node);
    list_remove(&c->full_node);
    f->bytes -= c->bytes;
    flush_tell_room(f);
    record_release(&c->now);
    record_release(&c->sent);
}

void flush_put(struct flusher *f, struct flush_client *c, bool urgent)
{
    c->now.barrier = c->now.barrier || urgent;
    flush_count(f, c);
    if (c->in_flight)
        return; /* flush_tell() puts it on a list again */
    if (list_is_empty(&c->node) || (urgent && !c->urgent))
        flush_wait(f, c, urgent);
    flush_schedule(f);
}

bool flusher_forget(struct flusher *f, struct flush_client *c)
{
    record_reset(&c->now);
    flush_count(f, c);
    c->forgotten = true;
    if (c->in_flight && !c->held)
        return false;
    c->in_flight = c->held = false;
    list_remove(&c->node);
    return true;
}
