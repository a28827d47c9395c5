/*
 * At most one statement is in flight, and one every QUIET_MS: a hint that comes alone goes at once,
 * and what comes on its heels is gathered for the next, so that a busy or slow database gets fewer
 * and longer ones.
 *
 *   IDLE ---> GATHERING ---> SENDING ---> IDLE | GATHERING
 *     +-----------+-------------+-------> CLOSING ---> freed
 */
#include "notify.h"

#include "clock.h"
#include "hook.h"
#include "mem.h"
#include "store_task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_MS        5  /* between two statements */
#define RIDE_MS         20 /* between two hints that ride along with somebody's transaction */
#define SEND_TIMEOUT_MS 2000
#define LAST_TIMEOUT_MS 500
#define MAX_HINTS       4096 /* at once; a process with more than that has its readers polling */
#define SLOTS           8192 /* of the hash table, a power of two above MAX_HINTS */
#define PACK_BYTES      7500 /* of tasks in one payload; PostgreSQL takes 7999 */

enum notify_state {
    NOTIFY_IDLE,
    NOTIFY_GATHERING, /* timer, until QUIET_MS after the last */
    NOTIFY_SENDING,   /* notify_send.sql */
    NOTIFY_CLOSING,   /* the last notify_send.sql, if any, then uv_close() */
};

struct notify {
    enum notify_state state;
    uv_timer_t timer;
    struct pg *pg;
    struct pg_call call;
    struct pg_array sending;
    struct buf packed; /* hints of one kind, being put together */
    char (*hints)[NOTIFY_MAX_BYTES + 1];
    uint16_t slots[SLOTS]; /* index into `hints`, from 1; 0: free */
    int count, cap;
    uint64_t sent_ms; /* when the last one went */
    bool in_flight;
};

static void on_timer(uv_timer_t *timer);
static void on_sent(void *owner, PGresult *res, const struct err *err);

static void notify_enter(struct notify *n, enum notify_state state)
{
    uint64_t since_ms = clock_mono_ms() - n->sent_ms;

    n->state = state;
    hook_state("notify", (int)state);
    uv_timer_stop(&n->timer);
    if (state == NOTIFY_GATHERING)
        uv_timer_start(&n->timer, on_timer, since_ms < QUIET_MS ? QUIET_MS - since_ms : 0, 0);
}

static bool is_of(const char *hint, char kind)
{
    return hint[0] == kind && hint[1] == ':';
}

/* A payload costs the server and each listener more than the id in it, so tasks share them:
 * "c:TASK,TASK,...". */
static void pack(struct notify *n, char kind)
{
    buf_reset(&n->packed);
    for (int i = 0; i < n->count; i++) {
        if (!is_of(n->hints[i], kind))
            continue;
        if (n->packed.len > 0)
            (void)buf_putc(&n->packed, ',');
        (void)buf_puts(&n->packed, n->hints[i] + (n->packed.len > 0 ? 2 : 0));
        if (n->packed.len < PACK_BYTES)
            continue;
        pg_array_put_text(&n->sending, n->packed.data);
        buf_reset(&n->packed);
    }
    if (n->packed.len > 0)
        pg_array_put_text(&n->sending, n->packed.data);
}

static void notify_send(struct notify *n, uint64_t timeout_ms)
{
    pg_array_reset(&n->sending);
    pack(n, 'c');
    pack(n, 'd');
    for (int i = 0; i < n->count; i++)
        if (!is_of(n->hints[i], 'c') && !is_of(n->hints[i], 'd'))
            pg_array_put_text(&n->sending, n->hints[i]);
    n->count = 0;
    memset(n->slots, 0, sizeof(n->slots));
    n->sent_ms = clock_mono_ms();
    n->in_flight = true;
    store_notify_send(n->pg, &n->call, &n->sending, timeout_ms, on_sent, n);
}

static void on_timer(uv_timer_t *timer)
{
    struct notify *n = timer->data;

    notify_enter(n, NOTIFY_SENDING);
    notify_send(n, SEND_TIMEOUT_MS);
}

static void on_closed(uv_handle_t *handle)
{
    struct notify *n = handle->data;

    pg_array_release(&n->sending);
    buf_release(&n->packed);
    free(n->hints);
    free(n);
}

static void on_sent(void *owner, PGresult *res, const struct err *err)
{
    struct notify *n = owner;

    (void)res; /* of a failure: those who were to be told poll as well */
    n->in_flight = false;
    if (n->state == NOTIFY_CLOSING && n->count > 0 && err->code == ERR_OK)
        notify_send(n, LAST_TIMEOUT_MS);
    else if (n->state == NOTIFY_CLOSING)
        uv_close((uv_handle_t *)&n->timer, on_closed);
    else
        notify_enter(n, n->count ? NOTIFY_GATHERING : NOTIFY_IDLE);
}

struct notify *notify_new(uv_loop_t *loop, struct pg *pg)
{
    struct notify *n = xcalloc(1, sizeof(*n));

    n->pg = pg;
    pg_array_init(&n->sending, PG_TEXT);
    buf_init(&n->packed, 2 * PACK_BYTES);
    uv_timer_init(loop, &n->timer);
    n->timer.data = n;
    return n;
}

/* FNV-1a */
static uint32_t hash_of(const char *text)
{
    uint32_t hash = 2166136261u;

    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}

/* The slot of `payload`, or the free one where it belongs. */
static uint16_t *slot_of(struct notify *n, const char *payload)
{
    uint32_t at = hash_of(payload) % SLOTS;

    while (n->slots[at] && strcmp(n->hints[n->slots[at] - 1], payload) != 0)
        at = (at + 1) % SLOTS;
    return &n->slots[at];
}

void notify_put(struct notify *n, const char *payload)
{
    uint16_t *slot;

    if (!n || n->state == NOTIFY_CLOSING || n->count == MAX_HINTS ||
        strlen(payload) > NOTIFY_MAX_BYTES)
        return;
    slot = slot_of(n, payload);
    if (*slot)
        return;
    if (n->count == n->cap) {
        n->cap = n->cap ? 2 * n->cap : 16;
        n->hints = xrealloc(n->hints, (size_t)n->cap * sizeof(*n->hints));
    }
    snprintf(n->hints[n->count], sizeof(*n->hints), "%s", payload);
    *slot = (uint16_t)++n->count;
    if (n->state == NOTIFY_IDLE)
        notify_enter(n, NOTIFY_GATHERING);
}

bool notify_may_ride(struct notify *n)
{
    uint64_t now_ms = clock_mono_ms();

    if (!n || n->state != NOTIFY_IDLE || now_ms - n->sent_ms < RIDE_MS)
        return false;
    n->sent_ms = now_ms;
    return true;
}

void notify_task(struct notify *n, char kind, const char *task_id)
{
    char payload[NOTIFY_MAX_BYTES + 1];

    snprintf(payload, sizeof(payload), "%c:%s", kind, task_id);
    notify_put(n, payload);
}

void notify_abort(struct notify *n, const char *task_id, bool running, const char *worker_id,
                  bool ended)
{
    char payload[NOTIFY_MAX_BYTES + 1];

    if (running) {
        snprintf(payload, sizeof(payload), "a:%s", worker_id ? worker_id : "*");
        notify_put(n, payload);
    } else if (ended) {
        notify_task(n, 'c', task_id);
        notify_task(n, 'd', task_id);
        notify_put(n, "r");
    }
}

void notify_close(struct notify *n)
{
    if (!n)
        return;
    notify_enter(n, NOTIFY_CLOSING);
    if (n->in_flight)
        return;
    if (n->count > 0)
        notify_send(n, LAST_TIMEOUT_MS);
    else
        uv_close((uv_handle_t *)&n->timer, on_closed);
}
