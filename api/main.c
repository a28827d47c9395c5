/*
 * nocturne-api: settings, wiring, exit status.
 *
 * SIGTERM: those who wait are answered 503, streams are cut (clients come again with their
 * cursor, here or elsewhere), requests in hand are answered, then everything closes.
 */
#include "api.h"
#include "cache.h"
#include "clock.h"
#include "config.h"
#include "fetches.h"
#include "hub.h"
#include "id.h"
#include "log.h"
#include "mem.h"
#include "reply.h"
#include "routes.h"
#include "submits.h"
#include "waiters.h"
#include "wire/genkit.h"

#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define PROG "nocturne-api"

#define KEY(field, type, fallback, help) CONFIG_KEY(struct api_conf, field, type, fallback, help)

static const struct config_key keys[] = {
    CONFIG_SECRET(struct api_conf, database, CONFIG_STR, NULL,
                  "PostgreSQL, a URL or key=value pairs"),
    KEY(listen, CONFIG_STR, "127.0.0.1:8700", "address and port; port 0 takes a free one"),
    KEY(hints, CONFIG_BOOL, "on", "LISTEN for hints of other processes; off: poll only"),
    KEY(notify, CONFIG_BOOL, "on", "NOTIFY the processes that listen; off when none does"),
    KEY(prepare, CONFIG_BOOL, "on", "statements once a connection; PgBouncer is noticed"),
    KEY(pool, CONFIG_INT, "4", "connections to PostgreSQL, besides the one for hints"),
    KEY(cors_origin, CONFIG_STR, "*", "origins whose pages may call: *, a list, or nothing"),
    KEY(genkit_prefix, CONFIG_STR, "/genkit",
        "path above the agents for Genkit's client; empty: none"),
    KEY(genkit_wait, CONFIG_MS, "4m", "for a snapshot to settle; then it is told as it stands"),
    KEY(max_conns, CONFIG_INT, "12000", "connections of clients"),
    KEY(max_waiters, CONFIG_INT, "10000", "requests that wait for a task's end"),
    KEY(max_subscribers, CONFIG_INT, "10000", "open event streams"),
    KEY(max_parked_per_peer, CONFIG_INT, "2000", "waiting and streaming per address; 0: any"),
    KEY(task_cache, CONFIG_BYTES, "32MiB", "of terminal tasks kept for two seconds; 0: none"),
    KEY(max_head, CONFIG_BYTES, "32KiB", "of a request's head"),
    KEY(max_body, CONFIG_BYTES, "4MiB", "of a request's body"),
    KEY(max_out, CONFIG_BYTES, "1MiB", "queued for a client that does not read"),
    KEY(head_timeout, CONFIG_MS, "10s", "for a whole head"),
    KEY(body_timeout, CONFIG_MS, "60s", "for a whole body"),
    KEY(idle_timeout, CONFIG_MS, "75s", "of a connection without a request"),
    KEY(keep_alive, CONFIG_MS, "15s", "between comments in a silent event stream"),
    KEY(drain, CONFIG_MS, "5s", "for requests in hand when stopping"),
    KEY(log_level, CONFIG_STR, "info", "debug, info, warn or error"),
    CONFIG_END,
};

/* "TASK,TASK,..." */
static void hint_each(struct api *api, const char *tasks, void (*hint)(struct api *, const char *))
{
    const char *end = tasks + strlen(tasks);
    char task_id[ID_BYTES] = "";

    for (; end - tasks >= ID_BYTES - 1; tasks += ID_BYTES) {
        memcpy(task_id, tasks, ID_BYTES - 1);
        hint(api, task_id);
    }
}

static void hint_events(struct api *api, const char *task_id)
{
    hub_hint(api->hub, task_id);
}

static void hint_end(struct api *api, const char *task_id)
{
    waiters_hint(api->waiters, task_id);
}

static void on_hint(void *owner, const char *payload)
{
    struct api *api = owner;

    api->hints_heard++;
    if (strncmp(payload, "c:", 2) == 0)
        hint_each(api, payload + 2, hint_events);
    else if (strncmp(payload, "d:", 2) == 0)
        hint_each(api, payload + 2, hint_end);
    else if (*payload == 'w')
        genkit_hint(api->genkit, payload + 1);
}

static void on_hints_up(void *owner)
{
    struct api *api = owner;

    if (api->draining)
        return;
    hub_recheck(api->hub);
    waiters_recheck(api->waiters);
}

/* Nothing is in flight any more, so what is left closes at once. */
static void on_idle(void *owner)
{
    struct api *api = owner;

    notify_close(api->notify);
    pgpool_close(api->pool);
    pg_close(api->hint_pg);
    genkit_close(api->genkit);
    submits_close(api->submits);
    fetches_close(api->fetches);
    waiters_close(api->waiters);
    cache_free(api->cache);
    hub_close(api->hub);
    loop_finish(&api->loop);
}

/* Until now requests were served as ever: their clients could not know that we are leaving. */
static void on_quiet(void *owner)
{
    struct api *api = owner;

    api->draining = true;
    waiters_drain(api->waiters);
    hub_drain(api->hub);
}

static void on_drained(void *owner)
{
    struct api *api = owner;

    if (!api->draining)
        on_quiet(api);
    genkit_when_idle(api->genkit, on_idle, api);
}

static void on_stop(void *owner)
{
    struct api *api = owner;

    api->cut_ms = clock_mono_ms() + api->conf.drain;
    httpd_drain(api->httpd, api->conf.drain, on_quiet, on_drained, api);
}

/* ---- start ---- */

/* HOST:PORT or [HOST]:PORT, where HOST may be a name; to a numeric address. */
static int parse_listen(const char *text, char *ret_host, size_t size, int *ret_port,
                        struct err *err)
{
    const char *colon = strrchr(text, ':'), *host = text;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    size_t len = colon ? (size_t)(colon - text) : 0;
    char *name, *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : -1;
    int rc;

    if (!colon || !colon[1] || *end || port < 0 || port > 65535)
        return err_set(err, ERR_INVALID, "listen: \"%s\" is not HOST:PORT", text);
    if (len > 1 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    }
    name = len ? xmemdup(host, len) : xstrdup("0.0.0.0");
    rc = getaddrinfo(name, NULL, &hints, &found);
    free(name);
    if (rc == 0)
        rc = getnameinfo(found->ai_addr, found->ai_addrlen, ret_host, (socklen_t)size, NULL, 0,
                         NI_NUMERICHOST);
    if (found)
        freeaddrinfo(found);
    if (rc != 0)
        return err_set(err, ERR_INVALID, "listen: \"%s\": %s", text, gai_strerror(rc));
    *ret_port = (int)port;
    return 0;
}

static int check(const struct api_conf *conf, struct err *err)
{
    enum log_level level;

    if (log_parse_level(conf->log_level, &level) < 0)
        return err_set(err, ERR_INVALID, "log_level: \"%s\" is not debug, info, warn or error",
                       conf->log_level);
    if (conf->pool < 1 || conf->pool > 100)
        return err_set(err, ERR_INVALID, "pool must be from 1 to 100");
    if (conf->max_head < 1024 || conf->max_head > 1 << 20)
        return err_set(err, ERR_INVALID, "max_head must be from 1KiB to 1MiB");
    if (conf->max_body < 1024 || conf->max_body > 256 << 20)
        return err_set(err, ERR_INVALID, "max_body must be from 1KiB to 256MiB");
    if (conf->max_out < 128 << 10 || conf->max_out > 256 << 20)
        return err_set(err, ERR_INVALID, "max_out must be from 128KiB to 256MiB");
    if (conf->keep_alive < 1000)
        return err_set(err, ERR_INVALID, "keep_alive must be at least 1s");
    log_init(PROG, level);
    return 0;
}

/* Each connection costs a descriptor, and the soft limit is often 1024. */
static void raise_limits(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files); /* httpd goes by what there is */
}

static int api_listen(struct api *api, char *ret_url, size_t size, struct err *err)
{
    char host[NI_MAXHOST];
    struct httpd_conf conf = {
        .host = host,
        .max_head_bytes = api->conf.max_head,
        .max_body_bytes = api->conf.max_body,
        .max_out_bytes = api->conf.max_out,
        .max_conns = (size_t)api->conf.max_conns,
        .head_ms = api->conf.head_timeout,
        .body_ms = api->conf.body_timeout,
        .idle_ms = api->conf.idle_timeout,
        .on_request = request_start,
        .error_body = reply_httpd_body,
        .owner = api,
    };

    if (parse_listen(api->conf.listen, host, sizeof(host), &conf.port, err) < 0)
        return -1;
    api->httpd = httpd_open(&api->loop.uv, &conf, err);
    if (!api->httpd)
        return -1;
    snprintf(ret_url, size, strchr(host, ':') ? "http://[%s]:%d" : "http://%s:%d", host,
             httpd_port(api->httpd));
    return 0;
}

static void api_connect(struct api *api)
{
    uv_loop_t *uv = &api->loop.uv;

    api->pool = pgpool_new(uv, api->conf.database, PROG, api->conf.prepare, (size_t)api->conf.pool);
    api->hub = hub_new(api);
    api->submits = submits_new(api);
    api->fetches = fetches_new(api);
    api->waiters = waiters_new(api);
    api->cache = cache_new((size_t)api->conf.task_cache);
    api->genkit = genkit_new(api);
    if (api->conf.hints || api->conf.notify)
        api->hint_pg = pg_new(uv, api->conf.database, PROG " hints", api->conf.prepare);
    if (api->conf.notify)
        api->notify = notify_new(uv, api->hint_pg);
    if (api->conf.hints)
        pg_listen(api->hint_pg, on_hint, on_hints_up, api);
}

static int run(struct api *api)
{
    char url[NI_MAXHOST + 32];
    struct err err;
    BUF_AUTO(settings, BUF_MAX);
    int rc;

    raise_limits();
    loop_init(&api->loop, on_stop, api);
    map_init(&api->peers);
    api->routes = xcalloc((size_t)route_count + 1, sizeof(*api->routes));
    if (api_listen(api, url, sizeof(url), &err) < 0) {
        log_line(LOG_ERROR, "", "%s", err.msg);
        loop_finish(&api->loop);
        (void)loop_run(&api->loop);
        rc = 1;
    } else {
        api_connect(api);
        config_describe(&api->conf, keys, &settings);
        log_line(LOG_INFO, settings.data, "version " NOCTURNE_VERSION);
        log_line(LOG_INFO, "", "ready %s", url);
        rc = loop_run(&api->loop);
        log_line(LOG_INFO, "", "stopped");
    }
    map_release(&api->peers);
    free(api->routes);
    return rc;
}

static void help(void)
{
    fprintf(stdout, "Usage: " PROG " [--SETTING VALUE]...\n\n"
                    "Serves Nocturne's HTTP API. Settings, their environment and defaults:\n\n");
    config_help(stdout, keys);
    fprintf(stdout, "\nSIGTERM stops it after the requests in hand. Exit status: 0 after a stop, 1 "
                    "when it cannot\nlisten, 2 for wrong settings.\n");
}

int main(int argc, char **argv)
{
    static struct api api;
    struct err err;
    int rc;

    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        help();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        fprintf(stdout, PROG " " NOCTURNE_VERSION "\n");
        return 0;
    }
    log_init(PROG, LOG_INFO);
    if (config_load(&api.conf, keys, argc - 1, argv + 1, &err) < 0) {
        log_line(LOG_ERROR, "", "%s", err.msg);
        return 2;
    }
    if (check(&api.conf, &err) < 0) {
        log_line(LOG_ERROR, "", "%s", err.msg);
        rc = 2;
    } else {
        rc = run(&api);
    }
    config_release(&api.conf, keys);
    return rc;
}
