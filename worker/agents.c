/*
 * An entry is READY, or LOADING with one statement in flight for all who wait. A load that fails
 * because the database is away fails for those who wait; the next one asks again.
 */
#include "agents.h"

#include "mem.h"
#include "store_turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_UNUSED 256 /* revisions nobody runs; the longest unused goes first */

struct entry {
    struct list node; /* in `entries`, the last used at the end */
    char *tenant, *name;
    int revision;
    struct agent *agent; /* NULL while loading, or when it failed */
    struct err err;
    int users;
    bool loading;
    struct list waiting; /* struct agents_call.node */
    struct pg_call call;
    struct agents *agents;
};

struct agents {
    struct pg *pg;
    struct list entries;
    uv_timer_t timer;
    int unused;
};

static void entry_free(struct entry *e)
{
    list_remove(&e->node);
    agent_free(e->agent);
    free(e->tenant);
    free(e->name);
    free(e);
}

static void agents_trim(struct agents *agents)
{
    list_foreach_safe (node, &agents->entries) {
        struct entry *e = container_of(node, struct entry, node);

        if (agents->unused <= KEPT_UNUSED)
            return;
        if (e->users == 0 && !e->loading && list_is_empty(&e->waiting)) {
            agents->unused--;
            entry_free(e);
        }
    }
}

static void entry_use(struct entry *e)
{
    if (e->users++ == 0)
        e->agents->unused--;
}

/* Tell all who wait. `done` may ask for other agents. */
static void entry_answer(struct entry *e)
{
    struct agents *agents = e->agents;
    struct err err = e->err;
    struct list waiting;

    list_init(&waiting);
    list_splice(&waiting, &e->waiting);
    while (!list_is_empty(&waiting)) {
        struct agents_call *call = container_of(waiting.next, struct agents_call, node);

        list_remove(&call->node);
        if (e->agent)
            entry_use(e);
        call->done(call->owner, e->agent, &err);
    }
    if (!e->agent && list_is_empty(&e->waiting)) { /* not kept: it may be there next time */
        agents->unused--;
        entry_free(e);
    }
}

static void on_loaded(void *owner, PGresult *res, const struct err *err)
{
    struct entry *e = owner;
    const char *text;
    PROBLEMS_AUTO(problems);

    e->loading = false;
    e->err = *err;
    if (err->code == ERR_OK) {
        text = store_read_agent(res);
        if (!text)
            err_set(&e->err, ERR_NOT_FOUND, "agent \"%s\" has no revision %d", e->name,
                    e->revision);
        else if (!(e->agent = agent_parse(text, strlen(text), &problems)))
            err_set(&e->err, ERR_INVALID, "agent \"%s\": %.60s %.100s", e->name,
                    problems.n ? problems.items[0].pointer : "",
                    problems.n ? problems.items[0].detail : "");
    }
    entry_answer(e);
}

static void on_timer(uv_timer_t *timer)
{
    struct agents *agents = timer->data;

    list_foreach_safe (node, &agents->entries) {
        struct entry *e = container_of(node, struct entry, node);

        if (!e->loading && !list_is_empty(&e->waiting)) {
            entry_answer(e);
            uv_timer_start(timer, on_timer, 0, 0); /* the list may have changed: look again */
            return;
        }
    }
}

static struct entry *find(struct agents *agents, const char *tenant, const char *name, int revision)
{
    list_foreach (node, &agents->entries) {
        struct entry *e = container_of(node, struct entry, node);

        if (e->revision == revision && !strcmp(e->name, name) && !strcmp(e->tenant, tenant))
            return e;
    }
    return NULL;
}

static struct entry *load(struct agents *agents, const char *tenant, const char *name, int revision)
{
    struct entry *e = xcalloc(1, sizeof(*e));

    e->agents = agents;
    e->tenant = xstrdup(tenant);
    e->name = xstrdup(name);
    e->revision = revision;
    e->loading = true;
    list_init(&e->waiting);
    list_append(&agents->entries, &e->node);
    agents->unused++;
    store_agent_load(agents->pg, &e->call, e->tenant, e->name, revision, on_loaded, e);
    return e;
}

void agents_get(struct agents *agents, struct agents_call *call, const char *tenant,
                const char *name, int revision, agents_done_fn *done, void *owner)
{
    struct entry *e = find(agents, tenant, name, revision);

    call->done = done;
    call->owner = owner;
    list_init(&call->node);
    if (!e)
        e = load(agents, tenant, name, revision);
    list_append(&e->waiting, &call->node);
    if (!e->loading)
        uv_timer_start(&agents->timer, on_timer, 0, 0);
    agents_trim(agents);
}

void agents_give_back(struct agents *agents, const struct agent *agent)
{
    list_foreach (node, &agents->entries) {
        struct entry *e = container_of(node, struct entry, node);

        if (agent && e->agent == agent) {
            if (--e->users == 0)
                agents->unused++;
            list_remove(node); /* the last used stands at the end */
            list_append(&agents->entries, node);
            return;
        }
    }
}

struct agents *agents_new(uv_loop_t *loop, struct pg *pg)
{
    struct agents *agents = xcalloc(1, sizeof(*agents));

    agents->pg = pg;
    list_init(&agents->entries);
    uv_timer_init(loop, &agents->timer);
    agents->timer.data = agents;
    return agents;
}

static void on_closed(uv_handle_t *handle)
{
    struct agents *agents = handle->data;

    list_foreach_safe (node, &agents->entries)
        entry_free(container_of(node, struct entry, node));
    free(agents);
}

void agents_close(struct agents *agents)
{
    if (agents)
        uv_close((uv_handle_t *)&agents->timer, on_closed);
}
