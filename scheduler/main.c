/*
 * nocturne-scheduler: settings, wiring, exit status.
 *
 * Any number of these may run; one leads and does the work, the others are ready to. The hold on
 * the leader's row has a connection of its own, so that no slow statement can cost it; so has
 * housekeeping, which deletes much and waits for locks.
 */
#include "config.h"
#include "due.h"
#include "id.h"
#include "leader.h"
#include "log.h"
#include "loop.h"
#include "mem.h"
#include "rescue.h"
#include "retain.h"
#include "vanish.h"
#include "watchdog.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROG "nocturne-scheduler"

struct settings {
    char *database, *name, *log_level;
    bool notify, prepare;
    uint64_t leader_every, leader_ttl, poll, rescue_every, worker_ttl, vanish, stuck, retention,
        retain_every;
};

static const struct config_key keys[] = {
    CONFIG_SECRET(struct settings, database, CONFIG_STR, NULL,
                  "PostgreSQL, a URL or key=value pairs"),
    CONFIG_KEY(struct settings, name, CONFIG_STR, "", "of this process, for people (host:pid)"),
    CONFIG_KEY(struct settings, log_level, CONFIG_STR, "info", "debug, info, warn or error"),
    CONFIG_KEY(struct settings, leader_every, CONFIG_MS, "2s", "between two holds of the lead"),
    CONFIG_KEY(struct settings, leader_ttl, CONFIG_MS, "6s", "what a hold is good for"),
    CONFIG_KEY(struct settings, poll, CONFIG_MS, "1s", "longest wait for what is due"),
    CONFIG_KEY(struct settings, rescue_every, CONFIG_MS, "1s",
               "between two looks for dead workers"),
    CONFIG_KEY(struct settings, worker_ttl, CONFIG_MS, "10s",
               "of a worker's heartbeat: nobody is declared dead earlier after an outage"),
    CONFIG_KEY(
        struct settings, vanish, CONFIG_MS, "2s",
        "how long a silent worker's connection is away before it is dead; 0: wait for its TTL"),
    CONFIG_KEY(struct settings, stuck, CONFIG_MS, "10s",
               "how long a daemon may take no answer before its session is ended; 0: for ever"),
    CONFIG_KEY(struct settings, notify, CONFIG_BOOL, "on",
               "NOTIFY the processes that listen; off when none does"),
    CONFIG_KEY(struct settings, prepare, CONFIG_BOOL, "on",
               "statements once a connection; PgBouncer is noticed"),
    CONFIG_KEY(struct settings, retention, CONFIG_MS, "30d", "how long ended tasks are kept"),
    CONFIG_KEY(struct settings, retain_every, CONFIG_MS, "1m", "between two removals of old tasks"),
    CONFIG_END,
};

struct scheduler {
    struct loop loop;
    struct settings conf;
    char *holder;
    struct pg *leader_pg, *pg, *retain_pg;
    struct leader *leader;
    struct notify *notify;
    struct due *due;
    struct rescue *rescue;
    struct vanish *vanish;
    struct watchdog *watchdog;
    struct retain *retain;
    bool stopping;
};

static void on_round(void *owner, bool busy, int64_t latest_us)
{
    struct scheduler *s = owner;

    if (!s->stopping)
        vanish_heed(s->vanish, busy, latest_us);
}

static void on_role(void *owner, bool leads)
{
    struct scheduler *s = owner;

    if (s->stopping)
        return;
    due_lead(s->due, leads);
    rescue_lead(s->rescue, leads);
    vanish_lead(s->vanish, leads);
    watchdog_lead(s->watchdog, leads);
    retain_lead(s->retain, leads);
}

/* Stepping down took a round trip: in that time the last hints went out, too. */
static void on_left(void *owner)
{
    struct scheduler *s = owner;

    pg_close(s->pg);
    pg_close(s->retain_pg);
    pg_close(s->leader_pg);
    loop_finish(&s->loop);
}

static void on_stop(void *owner)
{
    struct scheduler *s = owner;

    s->stopping = true;
    due_close(s->due);
    vanish_close(s->vanish);
    watchdog_close(s->watchdog);
    rescue_close(s->rescue);
    retain_close(s->retain);
    notify_close(s->notify);
    leader_stop(s->leader, on_left);
}

/* Unlike the name for people, the holder must be no other process's, also in containers that all
 * have the same host name and process id. */
static void set_names(struct scheduler *s)
{
    char host[80] = "localhost";

    (void)gethostname(host, sizeof(host) - 1); /* the default will do */
    if (!*s->conf.name) {
        free(s->conf.name);
        s->conf.name = xasprintf("%s:%d", host, (int)getpid());
    }
    s->holder = xasprintf("%s/%08x", s->conf.name, id_random32());
}

static int check(const struct settings *conf, struct err *err)
{
    enum log_level level;

    if (log_parse_level(conf->log_level, &level) < 0)
        return err_set(err, ERR_INVALID, "log_level: \"%s\" is not debug, info, warn or error",
                       conf->log_level);
    if (conf->leader_every == 0 || conf->poll == 0 || conf->rescue_every == 0 ||
        conf->retain_every == 0)
        return err_set(err, ERR_INVALID,
                       "leader_every, poll, rescue_every and retain_every must not be zero");
    if (conf->leader_ttl < 2 * conf->leader_every + 1000)
        return err_set(err, ERR_INVALID,
                       "leader_ttl must be at least twice leader_every and a second");
    log_init(PROG, level);
    return 0;
}

static void start(struct scheduler *s)
{
    const struct settings *conf = &s->conf;
    uv_loop_t *uv = &s->loop.uv;
    BUF_AUTO(text, 4096);

    set_names(s);
    config_describe(conf, keys, &text);
    log_line(LOG_INFO, "", "version %s, %s", NOCTURNE_VERSION, s->conf.name);
    log_line(LOG_DEBUG, "", "%s", text.data);
    loop_init(&s->loop, on_stop, s);
    s->leader_pg = pg_new(uv, conf->database, PROG, conf->prepare);
    s->pg = pg_new(uv, conf->database, PROG, conf->prepare);
    s->retain_pg = pg_new(uv, conf->database, PROG, conf->prepare);
    s->notify = conf->notify ? notify_new(uv, s->pg) : NULL;
    s->due = due_new(uv, s->pg, s->notify, conf->poll);
    s->rescue = rescue_new(uv, s->pg, s->notify, conf->rescue_every, conf->worker_ttl, on_round, s);
    s->vanish = vanish_new(uv, s->pg, s->rescue, conf->vanish);
    s->watchdog = watchdog_new(uv, s->pg, conf->stuck);
    s->retain = retain_new(uv, s->retain_pg, conf->retention, conf->retain_every);
    s->leader =
        leader_new(uv, s->leader_pg, s->holder, conf->leader_every, conf->leader_ttl, on_role, s);
}

static int answer_option(const char *option)
{
    if (!strcmp(option, "--version")) {
        fprintf(stdout, "%s %s\n", PROG, NOCTURNE_VERSION);
        return 1;
    }
    if (strcmp(option, "--help") != 0)
        return 0;
    fprintf(stdout,
            "usage: %s [--NAME VALUE]...\n\nMakes due tasks runnable, gives back the work of "
            "dead workers, removes what is old.\nRun two or more: one leads.\n\n",
            PROG);
    config_help(stdout, keys);
    return 1;
}

int main(int argc, char **argv)
{
    struct scheduler s = {0};
    struct err err;
    int status;

    for (int i = 1; i < argc; i++)
        if (answer_option(argv[i]))
            return 0;
    log_init(PROG, LOG_INFO);
    if (config_load(&s.conf, keys, argc - 1, argv + 1, &err) < 0 || check(&s.conf, &err) < 0) {
        log_line(LOG_ERROR, "", "%s", err.msg);
        config_release(&s.conf, keys);
        return 2;
    }
    start(&s);
    status = loop_run(&s.loop);
    config_release(&s.conf, keys);
    free(s.holder);
    return status;
}
