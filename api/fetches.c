/*
 * Each trip to the database:
 *
 *   FETCH_FREE ---> FETCH_SENDING ---> FETCH_FREE
 *
 * FETCH_FREE     nothing; `kick` fills it when something waits
 * FETCH_SENDING  task_get.sql. What it left for another time, because the texts were large, waits
 *                again, before the others; so does all of it, now one by one, when the server
 *                refused it. When the connection is lost every client is told so
 *
 * Two trips at a time, so that the database works while we answer. What comes while both are on
 * their way waits.
 */
#include "fetches.h"

#include "clock.h"
#include "hook.h"
#include "mem.h"
#include "store_task.h"

#include <stdlib.h>
#include <string.h>

#define TRIPS    2
#define TRIP_MAX 64

enum fetch_state {
    FETCH_FREE,    /* nothing */
    FETCH_SENDING, /* store_task_get() */
};

struct trip {
    enum fetch_state state;
    struct fetches *fetches;
    struct pg_call call;
    struct pg_array tasks;
    struct fetch *members[TRIP_MAX]; /* NULL: answered */
    int n;
};

struct fetches {
    struct api *api;
    struct list waiting; /* struct fetch.node */
    uv_timer_t kick;
    struct trip trips[TRIPS];
};

static void on_kick(uv_timer_t *timer);

static void fetch_enter(struct trip *trip, enum fetch_state state)
{
    trip->state = state;
    hook_state("fetch", (int)state);
}

static struct fetch *fetch_of(struct list *node)
{
    return container_of(node, struct fetch, node);
}

/* Runs once the loop has read what else has come. */
static void fetches_kick(struct fetches *f)
{
    if (!list_is_empty(&f->waiting) && !uv_is_active((uv_handle_t *)&f->kick))
        uv_timer_start(&f->kick, on_kick, 0, 0);
}

static void fetch_fail(struct fetch *fetch, const struct err *err, const char *sqlstate)
{
    fetch->done(fetch->owner, NULL, false, err, sqlstate);
}

static void trip_fail(struct trip *trip, const struct err *err)
{
    for (int i = 0; i < trip->n; i++)
        fetch_fail(trip->members[i], err, trip->call.sqlstate);
}

static void fetch_answer(struct fetch *fetch, const struct task_row *row)
{
    struct err err = {0};

    if (!row->json)
        err_set(&err, ERR_NOT_FOUND, "there is no such task");
    fetch->done(fetch->owner, row->json, row->terminal, &err, "");
}

/* Back to the head of the line, in their order: those that are not answered. */
static void trip_put_back(struct trip *trip, bool alone)
{
    for (int i = trip->n - 1; i >= 0; i--) {
        struct fetch *fetch = trip->members[i];

        if (!fetch)
            continue;
        fetch->alone = alone;
        list_append(trip->fetches->waiting.next, &fetch->node);
    }
}

static void trip_answer(struct trip *trip, PGresult *res)
{
    struct task_row row;

    for (int i = 0; i < store_rows(res); i++) {
        int at = store_read_task(res, i, &row);
        struct fetch *fetch = trip->members[at];

        trip->members[at] = NULL;
        fetch_answer(fetch, &row);
    }
}

static void on_trip(void *owner, PGresult *res, const struct err *err)
{
    struct trip *trip = owner;

    if (err->code == ERR_OK) {
        trip_answer(trip, res);
        trip_put_back(trip, false);
    } else if (*trip->call.sqlstate && trip->n > 1) {
        trip_put_back(trip, true);
    } else {
        trip_fail(trip, err);
    }
    fetch_enter(trip, FETCH_FREE);
    fetches_kick(trip->fetches);
}

static void trip_send(struct trip *trip)
{
    struct fetches *f = trip->fetches;
    const struct fetch *oldest = fetch_of(f->waiting.next);
    uint64_t timeout_ms = store_task_left_ms(oldest->since_ms);
    bool alone = false;

    trip->n = 0;
    pg_array_reset(&trip->tasks);
    while (!list_is_empty(&f->waiting) && trip->n < TRIP_MAX && !alone) {
        struct fetch *fetch = fetch_of(f->waiting.next);

        alone = fetch->alone;
        if (alone && trip->n > 0)
            break;
        list_remove(&fetch->node);
        pg_array_put_uuid(&trip->tasks, fetch->task_id);
        trip->members[trip->n++] = fetch;
    }
    fetch_enter(trip, FETCH_SENDING);
    store_task_get(pgpool_pick(f->api->pool), &trip->call, &trip->tasks, timeout_ms, on_trip, trip);
}

static void on_kick(uv_timer_t *timer)
{
    struct fetches *f = container_of(timer, struct fetches, kick);

    for (int i = 0; i < TRIPS && !list_is_empty(&f->waiting); i++)
        if (f->trips[i].state == FETCH_FREE)
            trip_send(&f->trips[i]);
}

void fetches_put(struct fetches *f, struct fetch *fetch, const char *task_id, fetch_done_fn *done,
                 void *owner)
{
    fetch->task_id = task_id;
    fetch->alone = false;
    fetch->since_ms = clock_mono_ms();
    fetch->done = done;
    fetch->owner = owner;
    list_append(&f->waiting, &fetch->node);
    fetches_kick(f);
}

struct fetches *fetches_new(struct api *api)
{
    struct fetches *f = xcalloc(1, sizeof(*f));

    f->api = api;
    list_init(&f->waiting);
    uv_timer_init(&api->loop.uv, &f->kick);
    for (int i = 0; i < TRIPS; i++) {
        f->trips[i].fetches = f;
        pg_array_init(&f->trips[i].tasks, PG_UUID);
    }
    return f;
}

static void on_closed(uv_handle_t *handle)
{
    struct fetches *f = container_of((uv_timer_t *)handle, struct fetches, kick);

    for (int i = 0; i < TRIPS; i++)
        pg_array_release(&f->trips[i].tasks);
    free(f);
}

void fetches_close(struct fetches *f)
{
    struct err err;

    if (!f)
        return;
    err_set(&err, ERR_CANCELED, "this process is stopping");
    while (!list_is_empty(&f->waiting)) {
        struct fetch *fetch = fetch_of(f->waiting.next);

        list_remove(&fetch->node);
        fetch_fail(fetch, &err, "");
    }
    uv_close((uv_handle_t *)&f->kick, on_closed);
}
