/*
 * nocturne-api: what one process of it holds. Nothing here matters when the process dies: clients
 * come back to any other one.
 */
#pragma once

#include "httpd.h"
#include "loop.h"
#include "map.h"
#include "metrics.h"
#include "notify.h"
#include "pgpool.h"

#include <stdbool.h>
#include <stdint.h>

struct cache;   /* api/cache.h */
struct fetches; /* api/fetches.h */
struct genkit;  /* api/wire/genkit.h */
struct hub;     /* api/hub.h */
struct submits; /* api/submits.h */
struct waiters; /* api/waiters.h */

struct api_conf {
    char *database, *listen, *cors_origin, *genkit_prefix, *log_level;
    bool hints, notify, prepare;
    int64_t pool, max_conns, max_waiters, max_subscribers, max_parked_per_peer;
    uint64_t task_cache;                  /* bytes */
    uint64_t max_head, max_body, max_out; /* bytes */
    uint64_t head_timeout, body_timeout, idle_timeout, keep_alive, drain,
        genkit_wait; /* milliseconds */
};

enum { STATUS_CLASSES = 6 }; /* 0: cut off, 1xx..5xx */

struct route_stats {
    struct histogram ms; /* up to the head of the answer */
    uint64_t answers[STATUS_CLASSES];
};

struct api {
    struct loop loop;
    struct api_conf conf;
    struct httpd *httpd;
    struct pgpool *pool;
    struct pg *hint_pg;    /* LISTEN and NOTIFY; NULL: both are off */
    struct notify *notify; /* NULL: off */
    struct hub *hub;
    struct submits *submits;
    struct fetches *fetches;
    struct waiters *waiters;
    struct cache *cache; /* terminal tasks */
    struct genkit *genkit;
    struct map peers;           /* struct peer: who has parked how much */
    size_t parked[2];           /* by enum park_kind */
    struct route_stats *routes; /* one a route, and one for what fits none */
    struct histogram submit_ms; /* of the statement */
    uint64_t submitted, hints_heard;
    uint64_t warned_ms; /* when an outage was logged last */
    bool draining;
    uint64_t cut_ms; /* when draining: what is open then is cut */
};

/* Should hints come now? */
static inline bool api_hears(const struct api *api)
{
    return api->conf.hints && pg_is_up(api->hint_pg);
}
