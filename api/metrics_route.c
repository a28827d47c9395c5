/*
 * GET /metrics, in Prometheus' text format. What this process knows itself is there also when the
 * database is not. Numbers of workers come with their heartbeats: a flat object of numbers, and
 * histograms under "hist"; a new one shows up here by itself.
 */
#include "cache.h"
#include "health.h"

#include "hub.h"
#include "park.h"
#include "reply.h"
#include "routes.h"
#include "store_task.h"
#include "waiters.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

static void put(struct buf *out, const char *name, const char *type, const char *help, double value)
{
    (void)metrics_put_help(out, name, type, help);
    (void)metrics_put_value(out, name, "", value);
}

/* ---- this process ---- */

static void put_process(struct buf *out)
{
    struct rusage usage;
    size_t rss = 0;

    (void)uv_resident_set_memory(&rss);
    (void)getrusage(RUSAGE_SELF, &usage);
    put(out, "process_resident_memory_bytes", "gauge", "Memory in use.", (double)rss);
    put(out, "process_cpu_seconds_total", "counter", "User and system time.",
        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

static void put_httpd(struct buf *out, const struct api *api)
{
    struct httpd_counters c;

    httpd_count(api->httpd, &c);
    put(out, "nocturne_http_connections", "gauge", "Connections open.", (double)c.conns);
    put(out, "nocturne_http_accepted_total", "counter", "Connections accepted.",
        (double)c.accepted);
    put(out, "nocturne_http_requests_total", "counter", "Whole requests received.",
        (double)c.requests);
    put(out, "nocturne_http_refused_total", "counter", "Requests refused below the routes.",
        (double)c.refused);
    put(out, "nocturne_http_gone_total", "counter", "Clients that left while waiting.",
        (double)c.gone);
    put(out, "nocturne_http_slow_total", "counter", "Clients dropped because they did not read.",
        (double)c.slow);
    put(out, "nocturne_http_sent_bytes_total", "counter", "Bytes sent.", (double)c.bytes_out);
}

static void put_routes(struct buf *out, const struct api *api)
{
    static const char *const classes[STATUS_CLASSES] = {"cut", "1xx", "2xx", "3xx", "4xx", "5xx"};
    char labels[96];

    (void)metrics_put_help(out, "nocturne_http_answers_total", "counter", "Answers by route.");
    for (int i = 0; i <= route_count; i++) {
        for (int k = 0; k < STATUS_CLASSES; k++) {
            if (api->routes[i].answers[k] == 0)
                continue;
            snprintf(labels, sizeof(labels), "route=\"%s\",status=\"%s\"",
                     i < route_count ? routes[i].name : "none", classes[k]);
            (void)metrics_put_value(out, "nocturne_http_answers_total", labels,
                                    (double)api->routes[i].answers[k]);
        }
    }
    (void)metrics_put_help(out, "nocturne_http_request_ms", "histogram",
                           "Milliseconds from a whole request to the head of its answer.");
    for (int i = 0; i <= route_count; i++) {
        if (api->routes[i].ms.count == 0)
            continue;
        snprintf(labels, sizeof(labels), "route=\"%s\"", i < route_count ? routes[i].name : "none");
        (void)metrics_put_histogram(out, "nocturne_http_request_ms", labels, &api->routes[i].ms);
    }
}

static void put_streams(struct buf *out, const struct api *api)
{
    struct hub_counts c;

    hub_count(api->hub, &c);
    put(out, "nocturne_waiters", "gauge", "Requests that wait for the end of a task.",
        (double)api->parked[PARK_WAITER]);
    put(out, "nocturne_waiters_tasks", "gauge", "Tasks they wait for.",
        (double)waiters_tasks(api->waiters));
    put(out, "nocturne_subscribers", "gauge", "Event streams open.", (double)c.subscribers);
    put(out, "nocturne_subscribers_tasks", "gauge", "Tasks they follow.", (double)c.tasks);
    put(out, "nocturne_subscribers_readers", "gauge", "Different cursors they stand at.",
        (double)c.readers);
    put(out, "nocturne_stream_queries_total", "counter", "Queries for events.", (double)c.queries);
    put(out, "nocturne_stream_chunks_total", "counter", "Chunks read.", (double)c.chunks);
    put(out, "nocturne_stream_events_total", "counter", "Events built, once a cursor.",
        (double)c.events);
    put(out, "nocturne_stream_bytes_total", "counter", "Bytes of events given to clients.",
        (double)c.bytes);
    put(out, "nocturne_stream_cuts_total", "counter", "Streams cut off.", (double)c.cuts);
    put(out, "nocturne_hints_total", "counter", "Hints heard.", (double)api->hints_heard);
}

static void put_own(struct buf *out, const struct api *api)
{
    put_process(out);
    put_httpd(out, api);
    put_routes(out, api);
    put_streams(out, api);
    put(out, "nocturne_submits_total", "counter", "Tasks accepted here.", (double)api->submitted);
    (void)metrics_put_help(out, "nocturne_submit_ms", "histogram",
                           "Milliseconds from a whole submit request to its durable commit.");
    (void)metrics_put_histogram(out, "nocturne_submit_ms", "", &api->submit_ms);
    put(out, "nocturne_task_cache_bytes", "gauge", "Terminal tasks kept in memory.",
        (double)cache_bytes(api->cache));
    put(out, "nocturne_pool_connections", "gauge", "Connections of the pool.",
        (double)api->conf.pool);
    put(out, "nocturne_pool_connections_up", "gauge", "Those that are up.",
        (double)pgpool_up(api->pool));
    put(out, "nocturne_pool_calls", "gauge", "Statements queued or in flight.",
        (double)pgpool_load(api->pool));
    put(out, "nocturne_hints_up", "gauge", "Is the connection for hints up?",
        api_hears(api) ? 1 : 0);
}

/* ---- the database's numbers ---- */

static void put_status(struct buf *out, const char *status, double value)
{
    char labels[64];

    snprintf(labels, sizeof(labels), "status=\"%.32s\"", status);
    (void)metrics_put_value(out, "nocturne_tasks", labels, value);
}

static void put_tasks(struct buf *out, const struct stats_row *row)
{
    struct err ignored;
    JSON_AUTO(unusual) = json_parse(row->unusual, strlen(row->unusual), &ignored);
    double completed = (double)row->ended;
    const cJSON *n;

    (void)metrics_put_help(out, "nocturne_tasks", "gauge",
                           "Tasks by status; completed is the planner's estimate.");
    put_status(out, "queued", (double)(row->ready + row->behind));
    put_status(out, "scheduled", (double)row->due);
    put_status(out, "running", (double)row->running);
    put_status(out, "aborting", (double)row->aborting);
    cJSON_ArrayForEach (n, unusual) {
        put_status(out, n->string, n->valuedouble);
        completed -= n->valuedouble;
    }
    put_status(out, "completed", completed > 0 ? completed : 0);
    put(out, "nocturne_ready", "gauge", "Tasks that a worker may claim now.", (double)row->ready);
    put(out, "nocturne_tasks_quarantined", "gauge",
        "Failed tasks that took three workers with them and were not retried.",
        (double)row->quarantined);
    put(out, "nocturne_leader_present", "gauge", "Does a scheduler lead?",
        row->leaders > 0 ? 1 : 0);
}

/* The first worker that has a number or histogram of this name stands for its help line. */
static bool is_first(const cJSON *workers, const cJSON *worker, bool hist, const char *name)
{
    const cJSON *other;

    cJSON_ArrayForEach (other, workers) {
        const cJSON *stats = json_get(other, "stats");

        if (other == worker)
            return true;
        if (json_get(hist ? json_get(stats, "hist") : stats, name))
            return false;
    }
    return true;
}

static bool is_metric_name(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");

    return len > 0 && len < 64 && !name[len];
}

/* All samples of one metric must stand together, so go by its name through all workers. */
static void put_metric(struct buf *out, const cJSON *workers, bool hist, const char *name)
{
    char metric[96];
    const cJSON *worker;

    snprintf(metric, sizeof(metric), "nocturne_worker_%s", name);
    (void)metrics_put_help(out, metric, hist ? "histogram" : "untyped",
                           "As counted by the workers.");
    cJSON_ArrayForEach (worker, workers) {
        const cJSON *stats = json_get(worker, "stats");
        const cJSON *value = json_get(hist ? json_get(stats, "hist") : stats, name);
        BUF_AUTO(labels, 1024);

        (void)buf_puts(&labels, "worker=");
        (void)metrics_put_quoted(&labels, json_str_or(worker, "worker", ""));
        if (hist && value)
            (void)metrics_put_json_histogram(out, metric, labels.data, value);
        else if (value && cJSON_IsNumber(value))
            (void)metrics_put_value(out, metric, labels.data, value->valuedouble);
    }
}

static void put_worker(struct buf *out, const cJSON *workers, const cJSON *worker)
{
    const cJSON *stats = json_get(worker, "stats"), *value;

    cJSON_ArrayForEach (value, stats)
        if (value->string && cJSON_IsNumber(value) && is_metric_name(value->string) &&
            is_first(workers, worker, false, value->string))
            put_metric(out, workers, false, value->string);
    cJSON_ArrayForEach (value, json_get(stats, "hist"))
        if (value->string && cJSON_IsObject(value) && is_metric_name(value->string) &&
            is_first(workers, worker, true, value->string))
            put_metric(out, workers, true, value->string);
}

static void put_workers(struct buf *out, const char *text)
{
    struct err ignored;
    JSON_AUTO(workers) = json_parse(text, strlen(text), &ignored);
    const cJSON *worker;

    put(out, "nocturne_workers", "gauge", "Workers alive.", cJSON_GetArraySize(workers));
    (void)metrics_put_help(out, "nocturne_worker_slots", "gauge", "Most turns at once.");
    cJSON_ArrayForEach (worker, workers) {
        BUF_AUTO(labels, 1024);

        (void)buf_puts(&labels, "worker=");
        (void)metrics_put_quoted(&labels, json_str_or(worker, "worker", ""));
        (void)buf_puts(&labels, ",state=");
        (void)metrics_put_quoted(&labels, json_str_or(worker, "state", ""));
        (void)metrics_put_value(out, "nocturne_worker_slots", labels.data,
                                cJSON_GetNumberValue(json_get(worker, "slots")));
    }
    cJSON_ArrayForEach (worker, workers)
        put_worker(out, workers, worker);
}

static void on_stats(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    struct stats_row row;
    BUF_AUTO(out, BUF_MAX);

    put_own(&out, r->api);
    put(&out, "nocturne_database_up", "gauge", "Did the database answer?", err->code == ERR_OK);
    if (err->code == ERR_OK && store_rows(res) > 0) {
        store_read_stats(res, &row);
        put_tasks(&out, &row);
        put_workers(&out, row.workers);
    }
    reply_text(r, 200, CONTENT_TYPE, out.data, out.len);
}

void metrics_get(struct request *r)
{
    store_stats_read(pgpool_pick(r->api->pool), &r->call, on_stats, r);
}
