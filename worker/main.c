/* nocturne-worker: settings, wiring, exit code. */
#include "config.h"
#include "log.h"
#include "loop.h"
#include "mem.h"
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define KEY(field, kind, fallback, help) CONFIG_KEY(struct worker_conf, field, kind, fallback, help)

static const struct config_key keys[] = {
    CONFIG_SECRET(struct worker_conf, database, CONFIG_STR, NULL,
                  "PostgreSQL, as a URL or keywords for libpq"),
    KEY(name, CONFIG_STR, "", "shown to people; host:pid when empty"),
    KEY(slots, CONFIG_INT, "1000", "most turns at once"),
    KEY(beat_every, CONFIG_MS, "2s", "time between heartbeats"),
    KEY(beat_ttl, CONFIG_MS, "10s", "without a heartbeat for so long, others take the turns over"),
    KEY(poll, CONFIG_MS, "1s", "look for ready turns this often, hints or not"),
    KEY(drain, CONFIG_MS, "10s", "on SIGTERM, time for running turns to end"),
    KEY(buffer, CONFIG_BYTES, "64MiB",
        "kept in memory until the database takes it, then models and programs wait"),
    KEY(buffer_turn, CONFIG_BYTES, "8MiB", "the same, of one turn"),
    KEY(hints, CONFIG_BOOL, "on", "LISTEN for hints of other processes; off: poll only"),
    KEY(notify, CONFIG_BOOL, "on", "NOTIFY the processes that listen; off when none does"),
    KEY(prepare, CONFIG_BOOL, "on", "statements once a connection; PgBouncer is noticed"),
    KEY(log_level, CONFIG_STR, "info", "debug, info, warn or error"),
    CONFIG_END,
};

static void help(void)
{
    fputs("usage: nocturne-worker [--SETTING VALUE]...\n\n"
          "Claims turns from the database and runs them. Start as many as you like.\n"
          "SIGTERM drains it: nothing is claimed, running turns may end, the rest is handed back.\n"
          "\nsettings (command line, environment, default):\n",
          stdout);
    config_help(stdout, keys);
}

/* Each model call, tool and pipe costs a descriptor, and the soft limit is often 1024. */
static void raise_limits(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files); /* calls that find no descriptor fail and are retried */
}

static void on_stop(void *owner)
{
    worker_stop(*(struct worker **)owner);
}

/* host:pid, unless a name was given. */
static void name_worker(struct worker_conf *conf)
{
    char host[128] = "";

    if (*conf->name)
        return;
    (void)gethostname(host, sizeof(host) - 1);
    free(conf->name);
    conf->name = xasprintf("%s:%d", *host ? host : "worker", (int)getpid());
}

static int check(const struct worker_conf *conf, struct err *err)
{
    if (conf->slots < 1 || conf->slots > 100000)
        return err_set(err, ERR_INVALID, "slots must be from 1 to 100000");
    if (conf->beat_ttl < 2 * conf->beat_every)
        return err_set(err, ERR_INVALID, "beat_ttl must be at least twice beat_every");
    if (conf->buffer < 65536 || conf->buffer_turn < 65536)
        return err_set(err, ERR_INVALID, "buffer and buffer_turn must be at least 64KiB");
    if (conf->poll < 10)
        return err_set(err, ERR_INVALID, "poll must be at least 10ms");
    return 0;
}

int main(int argc, char **argv)
{
    struct worker_conf conf = {0};
    struct worker *worker = NULL;
    enum log_level level = LOG_INFO;
    struct loop loop;
    struct err err = {0};
    int rc;

    if (argc == 2 && !strcmp(argv[1], "--help")) {
        help();
        return 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        fputs("nocturne-worker " NOCTURNE_VERSION "\n", stdout);
        return 0;
    }
    if (config_load(&conf, keys, argc - 1, argv + 1, &err) < 0) {
        fprintf(stderr, "nocturne-worker: %s (see --help)\n", err.msg);
        return 2;
    }
    if (log_parse_level(conf.log_level, &level) < 0)
        err_set(&err, ERR_INVALID, "log_level: \"%s\" is not debug, info, warn or error",
                conf.log_level);
    if (err.code == ERR_OK)
        (void)check(&conf, &err);
    if (err.code != ERR_OK) {
        fprintf(stderr, "nocturne-worker: %s (see --help)\n", err.msg);
        config_release(&conf, keys);
        return 2;
    }
    log_init("worker", level);
    raise_limits();
    name_worker(&conf);
    loop_init(&loop, on_stop, &worker);
    worker = worker_start(&loop, &conf);
    rc = loop_run(&loop);
    config_release(&conf, keys);
    log_line(LOG_INFO, "", "stopped");
    return rc;
}
