/*
 * Each lane:
 *
 *   LANE_FREE ---> LANE_SENDING ---> LANE_FREE
 *
 * LANE_FREE     nothing; `kick` fills it when something waits
 * LANE_SENDING  task_submit_plain.sql or task_submit_many.sql. What it leaves out, and all of it
 *               when the server refuses it, goes again one by one (task_submit.sql): it was rolled
 *               back, or never tried. When the connection is lost nobody knows, and every client is
 *               told so
 *
 * Plain submits meet nobody's rows and have a line of their own, so that they never wait for those
 * that may. Each line has two lanes, so that one batch is committed while the next one runs, and a
 * large one is shared by two processors. What comes while both are busy waits. A plain one that
 * comes alone goes by itself (task_submit_one.sql), and its hint may ride with it.
 */
#include "submits.h"

#include "clock.h"
#include "hook.h"
#include "mem.h"
#include "store_submit.h"

#include <stdlib.h>

#define LANES           2
#define BATCH_MIN       4 /* of task_submit_many.sql, which costs as much as four by themselves */
#define BATCH_MAX       1000
#define BATCH_WHOLE     128 /* of plain ones: more are divided among the lanes that are free */
#define BATCH_MAX_BYTES (4 << 20)

enum lane_state {
    LANE_FREE,    /* nothing */
    LANE_SENDING, /* store_submits_send() */
};

struct lane {
    enum lane_state state;
    struct line *line;
    struct store_submits batch;
    struct list members; /* struct submit.node, as they were put */
};

struct line {
    struct submits *submits;
    bool plain;
    struct list waiting; /* struct submit.node */
    int nwaiting;
    struct lane lanes[LANES];
};

struct submits {
    struct api *api;
    uv_timer_t kick;
    struct line plain, other;
};

static void on_kick(uv_timer_t *timer);

static void lane_enter(struct lane *lane, enum lane_state state)
{
    lane->state = state;
    hook_state("lane", (int)state);
}

static struct submit *submit_of(struct list *node)
{
    return container_of(node, struct submit, node);
}

/* Runs once the loop has read what else has come. */
static void submits_kick(struct submits *s)
{
    if (!uv_is_active((uv_handle_t *)&s->kick))
        uv_timer_start(&s->kick, on_kick, 0, 0);
}

/* ---- by itself ---- */

static void on_alone(void *owner, PGresult *res, const struct err *err)
{
    struct submit *submit = owner;
    struct pg_call *call = submit->call;
    struct accepted_row row;
    struct err bad = *err;

    if (bad.code != ERR_OK || store_read_accepted(res, &row, &bad) < 0) {
        submit->done(submit->owner, NULL, &bad, call->sqlstate);
    } else {
        row.hinted = submit->hinted;
        submit->done(submit->owner, &row, &bad, "");
    }
    free(call);
}

static void submit_alone(struct submit *submit)
{
    struct api *api = submit->submits->api;

    list_remove(&submit->node);
    submit->hinted = !submit->row.run_at && notify_may_ride(api->notify);
    submit->call = xcalloc(1, sizeof(*submit->call));
    store_task_submit(pgpool_pick(api->pool), submit->call, &submit->row, submit->hinted,
                      store_task_left_ms(submit->since_ms), on_alone, submit);
}

/* Was it left out, or refused and rolled back, it goes again as any other. */
static void on_one(void *owner, PGresult *res, const struct err *err)
{
    struct submit *submit = owner;
    struct pg_call *call = submit->call;
    struct accepted_row row;

    if (err->code == ERR_OK && store_read_submitted_one(res, &row)) {
        row.hinted = submit->hinted;
        submit->done(submit->owner, &row, err, "");
    } else if (err->code == ERR_OK || *call->sqlstate) {
        submit_alone(submit);
    } else {
        submit->done(submit->owner, NULL, err, "");
    }
    free(call);
}

static void submit_one(struct submit *submit)
{
    struct api *api = submit->submits->api;

    list_remove(&submit->node);
    submit->hinted = notify_may_ride(api->notify);
    submit->call = xcalloc(1, sizeof(*submit->call));
    store_submit_one(pgpool_pick(api->pool), submit->call, &submit->row, submit->hinted,
                     store_task_left_ms(submit->since_ms), on_one, submit);
}

/* ---- together ---- */

static void fail_all(struct list *members, const struct err *err)
{
    while (!list_is_empty(members)) {
        struct submit *submit = submit_of(members->next);

        list_remove(&submit->node);
        submit->done(submit->owner, NULL, err, "");
    }
}

/* Answer those that were accepted; rows come in any order. */
static void lane_answer(struct lane *lane, PGresult *res)
{
    struct submit **members = xcalloc((size_t)lane->batch.rows, sizeof(*members));
    struct accepted_row row;
    struct err ok = {0};
    int n = 0;

    list_foreach (node, &lane->members)
        members[n++] = submit_of(node);
    for (int i = 0; i < store_rows(res); i++) {
        struct submit *submit = members[store_read_submitted(&lane->batch, res, i, &row)];

        list_remove(&submit->node);
        submit->done(submit->owner, &row, &ok, "");
    }
    free(members);
}

static void on_lane(void *owner, PGresult *res, const struct err *err)
{
    struct lane *lane = owner;

    if (err->code == ERR_OK)
        lane_answer(lane, res);
    else if (!*lane->batch.call.sqlstate)
        fail_all(&lane->members, err);
    while (!list_is_empty(&lane->members))
        submit_alone(submit_of(lane->members.next));
    lane_enter(lane, LANE_FREE);
    if (lane->line->nwaiting > 0)
        submits_kick(lane->line->submits);
}

static void lane_send(struct lane *lane, int most)
{
    struct line *line = lane->line;
    const struct submit *oldest = submit_of(line->waiting.next);
    uint64_t timeout_ms = store_task_left_ms(oldest->since_ms);

    store_submits_reset(&lane->batch);
    while (!list_is_empty(&line->waiting) && lane->batch.rows < most &&
           lane->batch.bytes < BATCH_MAX_BYTES) {
        struct submit *submit = submit_of(line->waiting.next);

        list_remove(&submit->node);
        list_append(&lane->members, &submit->node);
        line->nwaiting--;
        store_submits_put(&lane->batch, &submit->row);
    }
    lane_enter(lane, LANE_SENDING);
    store_submits_send(pgpool_pick(line->submits->api->pool), &lane->batch, timeout_ms, on_lane,
                       lane);
}

/* How many go into each of `free` lanes. Turns of one session stay together, in their order. */
static int share(const struct line *line, int free_lanes)
{
    int n = line->nwaiting;

    if (line->plain && n > BATCH_WHOLE)
        n = (n + free_lanes - 1) / free_lanes;
    return n < BATCH_MAX ? n : BATCH_MAX;
}

static void line_send(struct line *line)
{
    int free_lanes = 0;

    for (int i = 0; i < LANES; i++)
        free_lanes += line->lanes[i].state == LANE_FREE;
    for (int i = 0; i < LANES && line->nwaiting > 0; i++)
        if (line->lanes[i].state == LANE_FREE)
            lane_send(&line->lanes[i], share(line, free_lanes--));
}

static bool line_is_idle(const struct line *line)
{
    for (int i = 0; i < LANES; i++)
        if (line->lanes[i].state != LANE_FREE)
            return false;
    return true;
}

static void line_send_alone(struct line *line)
{
    while (!list_is_empty(&line->waiting))
        submit_alone(submit_of(line->waiting.next));
    line->nwaiting = 0;
}

static void on_kick(uv_timer_t *timer)
{
    struct submits *s = container_of(timer, struct submits, kick);

    if (s->plain.nwaiting == 1 && line_is_idle(&s->plain)) {
        s->plain.nwaiting = 0;
        submit_one(submit_of(s->plain.waiting.next));
    } else {
        line_send(&s->plain);
    }
    if (s->other.nwaiting < BATCH_MIN)
        line_send_alone(&s->other);
    else
        line_send(&s->other);
}

void submits_put(struct submits *s, struct submit *submit, submit_done_fn *done, void *owner)
{
    struct line *line = store_submit_is_plain(&submit->row) ? &s->plain : &s->other;

    submit->submits = s;
    submit->done = done;
    submit->owner = owner;
    submit->since_ms = clock_mono_ms();
    list_append(&line->waiting, &submit->node);
    line->nwaiting++;
    submits_kick(s);
}

static void line_init(struct line *line, struct submits *s, bool plain)
{
    line->submits = s;
    line->plain = plain;
    list_init(&line->waiting);
    for (int i = 0; i < LANES; i++) {
        line->lanes[i].line = line;
        list_init(&line->lanes[i].members);
        store_submits_init(&line->lanes[i].batch, plain);
    }
}

static void line_release(struct line *line)
{
    for (int i = 0; i < LANES; i++)
        store_submits_release(&line->lanes[i].batch);
}

struct submits *submits_new(struct api *api)
{
    struct submits *s = xcalloc(1, sizeof(*s));

    s->api = api;
    uv_timer_init(&api->loop.uv, &s->kick);
    line_init(&s->plain, s, true);
    line_init(&s->other, s, false);
    return s;
}

static void on_closed(uv_handle_t *handle)
{
    struct submits *s = container_of((uv_timer_t *)handle, struct submits, kick);

    line_release(&s->plain);
    line_release(&s->other);
    free(s);
}

void submits_close(struct submits *s)
{
    if (s)
        uv_close((uv_handle_t *)&s->kick, on_closed);
}
