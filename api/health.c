#include "health.h"

#include "migrations.h" /* generated */
#include "reply.h"
#include "store_task.h"

#include <string.h>

void health_live(struct request *r)
{
    static const char body[] = "{\"status\":\"ok\"}";

    reply_json(r, 200, body, sizeof(body) - 1);
}

static void on_version(void *owner, PGresult *res, const struct err *err)
{
    static const char body[] = "{\"status\":\"ready\"}";
    struct request *r = owner;
    int wanted = schema_migrations[schema_migration_count - 1].version;
    int64_t version;

    if (err->code != ERR_OK) {
        reply_fault(r, FAULT_UNAVAILABLE, "%s", err->msg);
        return;
    }
    version = store_read_version(res);
    if (!store_read_writable(res))
        reply_fault(r, FAULT_UNAVAILABLE, "the database takes no writes");
    else if (version >= wanted)
        reply_json(r, 200, body, sizeof(body) - 1);
    else
        reply_fault(r, FAULT_UNAVAILABLE,
                    "the database has schema %d, this program needs %d: nocturne migrate",
                    (int)version, wanted);
}

void health_ready(struct request *r)
{
    if (r->api->draining)
        reply_fault(r, FAULT_UNAVAILABLE, "this process is stopping");
    else
        store_health_ready(pgpool_pick(r->api->pool), &r->call, on_version, r);
}
