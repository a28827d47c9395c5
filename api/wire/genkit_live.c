/*
 *   READ ---> LEFT ---> ASKING ---> ENDING ---> freed
 *     ^        |           |
 *     +--------+-----------+---> freed: another api has readers
 *
 * READ    somebody reads
 * LEFT    nobody does; for a moment the client may still come back
 * ASKING  the other apis were asked whether they have readers
 * ENDING  genkit_abort.sql's function, once; should it fail, the turn goes on unwatched
 */
#include "wire/genkit_live.h"

#include "clock.h"
#include "delay.h"
#include "hook.h"
#include "id.h"
#include "list.h"
#include "log.h"
#include "mem.h"
#include "store_task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum live_state { LIVE_READ, LIVE_LEFT, LIVE_ASKING, LIVE_ENDING };

struct genkit_live {
    enum live_state state;
    struct genkit_lives *lives;
    struct map_node node; /* lives->by_task */
    struct list link;     /* lives->all */
    char task_id[ID_BYTES];
    size_t readers;
    bool ends;
    struct delay grace;
    struct pg_call call;
};

struct genkit_lives {
    struct api *api;
    struct map by_task;
    struct list all;
    struct delays *delays;
    char self[9]; /* who speaks, in hints: one hears its own, too */
};

static void live_enter(struct genkit_live *live, enum live_state state)
{
    live->state = state;
    hook_state("live", (int)state);
}

static void live_free(struct genkit_live *live)
{
    delay_cancel(&live->grace);
    map_remove(&live->lives->by_task, &live->node);
    list_remove(&live->link);
    free(live);
}

static void on_aborted(void *owner, PGresult *res, const struct err *err)
{
    struct genkit_live *live = owner;
    struct abort_row row;
    struct err bad = *err;

    if (bad.code != ERR_OK || store_read_abort(res, &row, &bad) < 0) {
        log_line(LOG_WARN, "", "task %s: its client has left, but no abort: %s", live->task_id,
                 bad.msg);
    } else {
        notify_abort(live->lives->api->notify, live->task_id, !strcmp(row.now, "aborting"),
                     row.worker_id, !row.before);
    }
    live_enter(live, LIVE_READ);
    live->ends = false;
    if (live->readers == 0)
        live_free(live);
}

static void tell(const struct genkit_live *live, char what)
{
    char payload[NOTIFY_MAX_BYTES + 1];

    snprintf(payload, sizeof(payload), "w%c:%s:%s", what, live->task_id, live->lives->self);
    notify_put(live->lives->api->notify, payload);
}

static void on_not_answered(void *owner)
{
    struct genkit_live *live = owner;
    struct api *api = live->lives->api;

    live_enter(live, LIVE_ENDING);
    store_task_abort(pgpool_pick(api->pool), &live->call, live->task_id, "the client has left",
                     "genkit", on_aborted, live);
}

static void on_grace_over(void *owner)
{
    struct genkit_live *live = owner;

    live_enter(live, LIVE_ASKING);
    tell(live, '?');
    delay_start(live->lives->delays, &live->grace, GENKIT_ANSWER_MS, on_not_answered, live);
}

static bool is_left(const struct genkit_live *live)
{
    return live->state == LIVE_LEFT || live->state == LIVE_ASKING;
}

void genkit_lives_hint(struct genkit_lives *lives, const char *payload)
{
    char what, task_id[ID_BYTES], who[sizeof(lives->self)];
    struct map_node *node;
    struct genkit_live *live;

    if (sscanf(payload, "%c:%36[0-9a-f-]:%8[0-9a-f]", &what, task_id, who) != 3 ||
        strcmp(who, lives->self) == 0)
        return;
    node = map_find(&lives->by_task, task_id);
    live = node ? container_of(node, struct genkit_live, node) : NULL;
    if (live && what == '?' && live->readers > 0)
        tell(live, '!');
    else if (live && what == '!' && is_left(live))
        live_free(live);
}

struct genkit_live *genkit_live_enter(struct genkit_lives *lives, const char *task_id, bool ends)
{
    struct map_node *node = map_find(&lives->by_task, task_id);
    struct genkit_live *live = node ? container_of(node, struct genkit_live, node) : NULL;

    if (!live) {
        live = xcalloc(1, sizeof(*live));
        live->lives = lives;
        snprintf(live->task_id, sizeof(live->task_id), "%s", task_id);
        map_add(&lives->by_task, &live->node, live->task_id);
        list_append(&lives->all, &live->link);
    }
    live->readers++;
    live->ends = live->ends || ends;
    if (is_left(live)) {
        delay_cancel(&live->grace);
        live_enter(live, LIVE_READ);
    }
    return live;
}

/* Who leaves while this process stops does so by its own will, until the rest is cut. */
static bool is_cut(const struct api *api)
{
    return api->draining && clock_mono_ms() >= api->cut_ms;
}

bool genkit_lives_are_idle(const struct genkit_lives *lives)
{
    list_foreach (node, &lives->all)
        if (container_of(node, struct genkit_live, link)->state != LIVE_READ)
            return false;
    return true;
}

void genkit_live_leave(struct genkit_live *live, bool gone)
{
    if (--live->readers > 0 || live->state == LIVE_ENDING)
        return;
    if (gone && live->ends && !is_cut(live->lives->api)) {
        live_enter(live, LIVE_LEFT);
        delay_start(live->lives->delays, &live->grace, GENKIT_GRACE_MS, on_grace_over, live);
    } else {
        live_free(live);
    }
}

struct genkit_lives *genkit_lives_new(struct api *api)
{
    struct genkit_lives *lives = xcalloc(1, sizeof(*lives));

    lives->api = api;
    snprintf(lives->self, sizeof(lives->self), "%08x", (unsigned)id_random32());
    map_init(&lives->by_task);
    list_init(&lives->all);
    lives->delays = delays_new(&api->loop.uv);
    return lives;
}

void genkit_lives_close(struct genkit_lives *lives)
{
    list_foreach_safe (node, &lives->all)
        live_free(container_of(node, struct genkit_live, link));
    delays_close(lives->delays);
    map_release(&lives->by_task);
    free(lives);
}
