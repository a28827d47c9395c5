/*
 * One `struct wait` per task that is waited for, however many wait for it:
 *
 *   LOADING ---> PARKED ---> LOADING ---> ... ---> freed with its last waiter
 *
 * LOADING   fetches_put() for all of them; what changes meanwhile sets `again`
 * PARKED    nothing; a hint, the sweep, a newcomer or a deadline lead back
 *
 * A failure of the database answers those who have not seen their task yet with 503; the others
 * stay until the next sweep or their deadline.
 */
#include "waiters.h"

#include "clock.h"
#include "fetches.h"
#include "hook.h"
#include "list.h"
#include "mem.h"
#include "pace.h"
#include "park.h"
#include "reply.h"
#include "store_task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum wait_state {
    WAIT_PARKED,
    WAIT_LOADING, /* fetches_put() */
};

struct wait {
    struct waiters *waiters;
    enum wait_state state;
    struct map_node node; /* waiters->by_task */
    struct list link;     /* waiters->waits */
    struct list members;  /* struct waiter.link */
    char task_id[ID_BYTES];
    bool again;
    struct fetch fetch;
};

/* Hangs on its request as `ud`. */
struct waiter {
    struct list link; /* wait->members */
    struct list due;  /* waiters->due, in the order of due_ms */
    struct wait *wait;
    struct request *request;
    uint64_t due_ms;
    bool seen;  /* its task was there */
    bool fresh; /* came after the load in flight had begun */
};

struct waiters {
    struct api *api;
    struct map by_task;
    struct list waits, due;
    uv_timer_t poll, deadline;
    struct pace pace;
    struct pg_call call; /* task_sweep.sql */
    struct pg_array tasks;
    bool sweeping;
    int handles;
};

static void on_loaded(void *owner, const char *json, bool terminal, const struct err *err,
                      const char *sqlstate);
static void on_deadline(uv_timer_t *timer);
static void on_poll(uv_timer_t *timer);

static void wait_enter(struct wait *wait, enum wait_state state)
{
    wait->state = state;
    hook_state("wait", (int)state);
    wait->again = false;
}

static void wait_load(struct wait *wait)
{
    if (wait->state == WAIT_LOADING) {
        wait->again = true;
        return;
    }
    wait_enter(wait, WAIT_LOADING);
    list_foreach (node, &wait->members)
        container_of(node, struct waiter, link)->fresh = false;
    fetches_put(wait->waiters->api->fetches, &wait->fetch, wait->task_id, on_loaded, wait);
}

static void wait_try_free(struct wait *wait)
{
    if (wait->state == WAIT_LOADING || !list_is_empty(&wait->members))
        return;
    map_remove(&wait->waiters->by_task, &wait->node);
    list_remove(&wait->link);
    free(wait);
}

static void arm_deadline(struct waiters *w)
{
    uint64_t now_ms = clock_mono_ms(), due_ms;

    uv_timer_stop(&w->deadline);
    if (list_is_empty(&w->due))
        return;
    due_ms = container_of(w->due.next, struct waiter, due)->due_ms;
    uv_timer_start(&w->deadline, on_deadline, due_ms > now_ms ? due_ms - now_ms : 0, 0);
}

/* Sorted; most wait equally long, so the place is at or near the end. */
static void insert_due(struct waiters *w, struct waiter *waiter)
{
    struct list *after = w->due.prev;

    while (after != &w->due && container_of(after, struct waiter, due)->due_ms > waiter->due_ms)
        after = after->prev;
    list_append(after->next, &waiter->due);
}

/* Take it out; its request is the caller's to answer. */
static struct request *waiter_free(struct waiter *waiter)
{
    struct request *r = waiter->request;

    list_remove(&waiter->link);
    list_remove(&waiter->due);
    free(waiter);
    r->ud = r->http->ud = NULL;
    return r;
}

static void on_gone(struct httpd_req *http)
{
    struct waiter *waiter = http->ud;
    struct wait *wait = waiter->wait;

    request_over(waiter_free(waiter));
    wait_try_free(wait);
}

/* Whom to answer, when the task reads so. */
static bool is_served(const struct waiter *waiter, bool terminal, uint64_t now_ms)
{
    if (waiter->fresh)
        return terminal; /* terminal for ever; anything else may be old */
    return terminal || waiter->due_ms <= now_ms;
}

static void serve(struct wait *wait, const char *json, bool terminal)
{
    uint64_t now_ms = clock_mono_ms();
    size_t len = strlen(json);

    list_foreach_safe (node, &wait->members) {
        struct waiter *waiter = container_of(node, struct waiter, link);

        waiter->seen = true;
        if (is_served(waiter, terminal, now_ms))
            reply_json(waiter_free(waiter), 200, json, len);
    }
}

/* A task that does not exist is no reason to wait. */
static void fail(struct wait *wait, const struct err *err, const char *sqlstate)
{
    uint64_t now_ms = clock_mono_ms();
    bool missing = err->code == ERR_NOT_FOUND;

    list_foreach_safe (node, &wait->members) {
        struct waiter *waiter = container_of(node, struct waiter, link);

        if (missing || !waiter->seen || waiter->due_ms <= now_ms)
            reply_err_of(waiter_free(waiter), err, sqlstate);
    }
}

static void on_loaded(void *owner, const char *json, bool terminal, const struct err *err,
                      const char *sqlstate)
{
    struct wait *wait = owner;
    bool again = wait->again;

    wait_enter(wait, WAIT_PARKED);
    if (json)
        serve(wait, json, terminal);
    else
        fail(wait, err, sqlstate);
    if (again && err->code == ERR_OK && !list_is_empty(&wait->members))
        wait_load(wait);
    else
        wait_try_free(wait);
}

static struct wait *wait_of(struct waiters *w, const char *task_id)
{
    struct map_node *node = map_find(&w->by_task, task_id);
    struct wait *wait;

    if (node)
        return container_of(node, struct wait, node);
    wait = xcalloc(1, sizeof(*wait));
    wait->waiters = w;
    list_init(&wait->members);
    snprintf(wait->task_id, sizeof(wait->task_id), "%s", task_id);
    map_add(&w->by_task, &wait->node, wait->task_id);
    list_append(&w->waits, &wait->link);
    return wait;
}

void waiters_add(struct waiters *w, struct request *r, uint64_t wait_ms)
{
    struct waiter *waiter;

    if (park_enter(r, PARK_WAITER) < 0)
        return;
    waiter = xcalloc(1, sizeof(*waiter));
    waiter->request = r;
    waiter->fresh = true;
    waiter->due_ms = clock_mono_ms() + wait_ms;
    waiter->wait = wait_of(w, r->params[0]);
    list_append(&waiter->wait->members, &waiter->link);
    insert_due(w, waiter);
    arm_deadline(w);
    r->ud = r->http->ud = waiter;
    httpd_watch(r->http, on_gone, NULL);
    wait_load(waiter->wait);
    if (!uv_is_active((uv_handle_t *)&w->poll))
        uv_timer_start(&w->poll, on_poll, PACE_MIN_MS, 0);
}

/* Who is due is answered with the task as it is now, so look first. */
static void on_deadline(uv_timer_t *timer)
{
    struct waiters *w = timer->data;
    uint64_t now_ms = clock_mono_ms();

    while (!list_is_empty(&w->due)) {
        struct waiter *waiter = container_of(w->due.next, struct waiter, due);

        if (waiter->due_ms > now_ms)
            break;
        list_remove(&waiter->due);
        wait_load(waiter->wait);
    }
    arm_deadline(w);
}

/* ---- hints and the sweep ---- */

void waiters_hint(struct waiters *w, const char *task_id)
{
    struct map_node *node = map_find(&w->by_task, task_id);

    if (node)
        wait_load(container_of(node, struct wait, node));
}

static void on_swept(void *owner, PGresult *res, const struct err *err)
{
    struct waiters *w = owner;

    w->sweeping = false;
    if (err->code == ERR_OK && store_rows(res) > 0)
        pace_found(&w->pace, w->api->hints_heard);
    for (int i = 0; err->code == ERR_OK && i < store_rows(res); i++)
        waiters_hint(w, store_read_id(res, i));
}

static void sweep(struct waiters *w)
{
    if (w->sweeping || list_is_empty(&w->waits))
        return;
    pg_array_reset(&w->tasks);
    list_foreach (node, &w->waits)
        pg_array_put_uuid(&w->tasks, container_of(node, struct wait, link)->task_id);
    w->sweeping = true;
    store_task_sweep(pgpool_pick(w->api->pool), &w->call, &w->tasks, on_swept, w);
}

static void on_poll(uv_timer_t *timer)
{
    struct waiters *w = timer->data;
    uint64_t wait_ms = pace_next(&w->pace, api_hears(w->api), w->api->hints_heard);

    sweep(w);
    if (!list_is_empty(&w->waits))
        uv_timer_start(&w->poll, on_poll, wait_ms, 0);
}

void waiters_recheck(struct waiters *w)
{
    pace_reset(&w->pace);
    sweep(w);
}

/* ---- begin and end ---- */

struct waiters *waiters_new(struct api *api)
{
    struct waiters *w = xcalloc(1, sizeof(*w));

    w->api = api;
    map_init(&w->by_task);
    list_init(&w->waits);
    list_init(&w->due);
    pg_array_init(&w->tasks, PG_UUID);
    uv_timer_init(&api->loop.uv, &w->poll);
    uv_timer_init(&api->loop.uv, &w->deadline);
    w->poll.data = w->deadline.data = w;
    w->handles = 2;
    return w;
}

static void wait_drain(struct wait *wait)
{
    list_foreach_safe (node, &wait->members)
        reply_fault(waiter_free(container_of(node, struct waiter, link)), FAULT_UNAVAILABLE,
                    "this process is stopping; ask again");
    wait_try_free(wait);
}

void waiters_drain(struct waiters *w)
{
    list_foreach_safe (node, &w->waits)
        wait_drain(container_of(node, struct wait, link));
    uv_timer_stop(&w->poll);
    arm_deadline(w);
}

size_t waiters_tasks(const struct waiters *w)
{
    return w->by_task.count;
}

static void on_closed(uv_handle_t *handle)
{
    struct waiters *w = handle->data;

    if (--w->handles > 0)
        return;
    pg_array_release(&w->tasks);
    map_release(&w->by_task);
    free(w);
}

void waiters_close(struct waiters *w)
{
    uv_close((uv_handle_t *)&w->poll, on_closed);
    uv_close((uv_handle_t *)&w->deadline, on_closed);
}
