#include "sessions.h"

#include "id.h"
#include "page.h"
#include "reply.h"
#include "store_task.h"

#include <string.h>

static void on_got(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    const char *json = err->code == ERR_OK ? store_read_one(res) : NULL;

    if (err->code != ERR_OK)
        reply_err(r, err);
    else if (!json)
        reply_fault(r, FAULT_NOT_FOUND, "there is no such %s", (const char *)r->ud);
    else
        reply_json(r, 200, json, strlen(json));
}

/* -1: answered, `r` is gone. */
static int take_session(struct request *r)
{
    static char what[] = "session";

    r->ud = what;
    if (session_id_is_valid(r->params[0]))
        return 0;
    reply_fault(r, FAULT_NOT_FOUND, "there is no such session");
    return -1;
}

void session_get(struct request *r)
{
    if (take_session(r) == 0)
        store_session_get(pgpool_pick(r->api->pool), &r->call, r->params[0], on_got, r);
}

void snapshot_get(struct request *r)
{
    static char what[] = "snapshot";

    r->ud = what;
    if (path_take_uuid(r->params[0]))
        store_snapshot_get(pgpool_pick(r->api->pool), &r->call, r->params[0], on_got, r);
    else
        reply_fault(r, FAULT_NOT_FOUND, "there is no such snapshot");
}

static void on_listed(void *owner, PGresult *res, const struct err *err)
{
    page_answer(owner, "snapshots", "before", res, err);
}

void session_snapshots(struct request *r)
{
    const char *before = query_get(&r->query, "before");
    struct page page;

    if (take_session(r) < 0)
        return;
    if (before && !id_is_uuid(before)) {
        reply_fault(r, FAULT_INVALID_REQUEST, "before must be the cursor of a next link");
        return;
    }
    if (page_init(&page, r, "snapshots", "before") < 0)
        return;
    store_session_snapshots(pgpool_pick(r->api->pool), &r->call, r->params[0], before,
                            page.limit + 1, on_listed, r);
    page_release(&page);
}
