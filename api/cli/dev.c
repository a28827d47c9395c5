/*
 * nocturne dev: everything in one terminal.
 *
 *   CLEARING -> CREATING -> WAKING -> MIGRATING -> STARTING -> APPLYING -> RUNNING
 *      |  (new folder only)             ^ (--database: from here)  (--agents only)
 *      +---- a failure or a signal, anywhere ----> STOPPING -> CLOSING -> END
 *
 * Nothing here is worth keeping: all state is in PostgreSQL. When we are killed, the daemons get
 * SIGTERM from the kernel (lib/loop.h) and PostgreSQL lives on; the next start finds it in CLEARING
 * and stops it first. A child that dies is started again; before the first `ready`, one that dies
 * three times in a row ends us, because then a setting is wrong.
 */
#include "dev.h"

#include "clock.h"
#include "database.h"
#include "exit.h"
#include "log.h"
#include "mem.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS        50
#define CLEAR_QUIT_MS  20000 /* then SIGQUIT to an earlier PostgreSQL */
#define CLEAR_MS       30000 /* then give up */
#define WAKE_MS        60000 /* recovery after a crash takes its time */
#define GRACE_MS       15000 /* of a drain; more than a worker's own */
#define EARLY_DEATHS   3
#define LOG_TAIL_BYTES 2000

static void dev_advance(struct dev *dev);
static void after_clearing(struct dev *dev);

static void dev_enter(struct dev *dev, enum dev_state state)
{
    dev->state = state;
    dev->since_ms = clock_mono_ms();
    uv_timer_stop(&dev->timer);
}

static void on_timer(uv_timer_t *timer)
{
    dev_advance(timer->data);
}

/* Look now and every moment, until the state changes. */
static void dev_poll(struct dev *dev)
{
    uv_timer_start(&dev->timer, on_timer, 0, POLL_MS);
}

static bool dev_lasts(const struct dev *dev, uint64_t ms)
{
    return clock_mono_ms() - dev->since_ms >= ms;
}

/* ---- the end ---- */

static void signal_all(struct dev *dev, int signum)
{
    child_signal(&dev->task, signum);
    for (int i = 0; i < dev->n_daemons; i++)
        child_signal(&dev->daemons[i], signum);
}

static bool is_alone(const struct dev *dev)
{
    for (int i = 0; i < dev->n_daemons; i++)
        if (child_is_up(&dev->daemons[i]))
            return false;
    return !child_is_up(&dev->task) && !dev->probing;
}

static void dev_end(struct dev *dev)
{
    dev_enter(dev, DEV_END);
    uv_close((uv_handle_t *)&dev->timer, NULL);
    for (unsigned i = 0; i < sizeof(dev->signals) / sizeof(*dev->signals); i++)
        uv_close((uv_handle_t *)&dev->signals[i], NULL);
    child_close(&dev->server);
    child_close(&dev->task);
    for (int i = 0; i < dev->n_daemons; i++)
        child_close(&dev->daemons[i]);
    http_call_release(&dev->probe);
    http_close(dev->http);
}

static void dev_close_server(struct dev *dev)
{
    dev_enter(dev, DEV_CLOSING);
    child_signal(&dev->server, SIGINT); /* what PostgreSQL calls a fast shutdown */
    if (child_is_up(&dev->server))
        uv_timer_start(&dev->timer, on_timer, GRACE_MS, 0);
    else
        dev_end(dev);
}

static void dev_stop(struct dev *dev)
{
    dev_enter(dev, DEV_STOPPING);
    if (dev->probing)
        http_cancel(&dev->probe);
    signal_all(dev, SIGTERM);
    if (is_alone(dev))
        dev_close_server(dev);
    else
        uv_timer_start(&dev->timer, on_timer, GRACE_MS, 0);
}

static void dev_fail(struct dev *dev, int exit)
{
    if (dev->state >= DEV_STOPPING)
        return;
    dev->exit = exit;
    dev_stop(dev);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct dev *dev = handle->data;

    if (dev->asked_to_stop++ == 0 && dev->state < DEV_STOPPING) {
        log_line(LOG_INFO, "", "stopping on %s", strsignal(signum));
        dev_stop(dev);
    } else if (dev->state >= DEV_STOPPING) {
        log_line(LOG_WARN, "", "asked twice: not waiting any longer");
        signal_all(dev, SIGKILL);
        child_signal(&dev->server, SIGQUIT); /* at once; it recovers at the next start */
    }
}

/* The grace time is over. */
static void dev_press(struct dev *dev)
{
    if (dev->state == DEV_STOPPING) {
        log_line(LOG_WARN, "", "not drained in time: killing what is left");
        signal_all(dev, SIGKILL);
    } else {
        log_line(LOG_WARN, "", "postgres does not stop: making it");
        child_signal(&dev->server, SIGQUIT);
    }
}

/* ---- PostgreSQL ---- */

/* The end of the server's log, when it would not start. */
static void print_log(const struct dev *dev)
{
    FILE *file = fopen(dev->pg.log, "re");
    char text[LOG_TAIL_BYTES + 1];
    size_t len;

    if (!file)
        return;
    if (fseek(file, -LOG_TAIL_BYTES, SEEK_END) < 0)
        rewind(file);
    len = fread(text, 1, LOG_TAIL_BYTES, file);
    text[len] = '\0';
    fprintf(stderr, "%s:\n%s", dev->pg.log, text);
    (void)fclose(file); /* only read */
}

static void fail_with_log(struct dev *dev, const char *what)
{
    log_line(LOG_ERROR, "", "%s", what);
    print_log(dev);
    dev_fail(dev, CLI_FAILED);
}

/* The URL of the API for us: one that listens everywhere is reached here. */
static void make_base(struct dev *dev)
{
    const char *port = strrchr(dev->listen, ':');
    int len = (int)(port - dev->listen);

    free(dev->base);
    if (!strncmp(dev->listen, "0.0.0.0:", 8))
        dev->base = xasprintf("http://127.0.0.1%s", port);
    else if (!strncmp(dev->listen, "[::]:", 5))
        dev->base = xasprintf("http://[::1]%s", port);
    else
        dev->base = xasprintf("http://%.*s%s", len, dev->listen, port);
}

/* Is the way free? What a killed `nocturne dev` left behind goes away by itself. */
static void dev_look_around(struct dev *dev)
{
    struct err err = {0};
    char *listen;
    int left = 0;

    if (dev->has_pg)
        left = postgres_remains(&dev->pg, dev_lasts(dev, CLEAR_QUIT_MS) ? SIGQUIT : 0);
    if (left > 0)
        err_set(&err, ERR_CONFLICT, "an earlier postgres does not stop");
    else if (dev_listen_check(dev->listen, &listen, &err) == 0) {
        free(dev->listen);
        dev->listen = listen;
        make_base(dev);
    }
    if (err.code == ERR_OK) {
        after_clearing(dev);
    } else if (!dev->lock.unclean || dev_lasts(dev, CLEAR_MS) || err.code != ERR_CONFLICT) {
        fprintf(stderr, "nocturne dev: %s\n", err.msg);
        dev_fail(dev, CLI_FAILED);
    }
}

static void start_task(struct dev *dev, const char *name)
{
    struct err err = {0};

    dev->task.name = name;
    if (child_start(&dev->task, &err) < 0)
        log_line(LOG_ERROR, "", "%s", err.msg); /* its end comes, and is a failure */
}

static void dev_create(struct dev *dev)
{
    dev_enter(dev, DEV_CREATING);
    log_line(LOG_INFO, "", "creating a PostgreSQL in %s", dev->pg.dir);
    postgres_init_args(&dev->pg, dev->task.args, CHILD_MAX_ARGS);
    dev->task.cwd = "/"; /* its user may not enter ours */
    dev->task.uid = dev->pg.uid;
    dev->task.gid = dev->pg.gid;
    dev->task.log_fd = dev->log_fd;
    start_task(dev, "initdb");
}

static void dev_wake(struct dev *dev)
{
    struct err err = {0};

    dev_enter(dev, DEV_WAKING);
    postgres_run_args(&dev->pg, dev->server.args, CHILD_MAX_ARGS);
    dev->server.cwd = "/";
    dev->server.uid = dev->pg.uid;
    dev->server.gid = dev->pg.gid;
    if (child_start(&dev->server, &err) < 0)
        log_line(LOG_ERROR, "", "%s", err.msg); /* its end comes */
    dev_poll(dev);
}

/* For doctor, migrate and psql, as long as we run. */
static void write_url(const struct dev *dev, bool there)
{
    char *path = xasprintf("%s/" DATABASE_FILE, dev->pg.dir);
    int fd;

    if (!there) {
        (void)unlink(path);
    } else if ((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) >= 0) {
        dprintf(fd, "%s\n", dev->pg.url);
        close(fd);
    }
    free(path);
}

/* ---- ours ---- */

/* One of our own commands as a task. */
static void run_self(struct dev *dev, const char *name, const char *const *args)
{
    int n = 0;

    dev->task.args[n++] = dev->self;
    while (*args)
        dev->task.args[n++] = *args++;
    dev->task.args[n] = NULL;
    dev->task.cwd = NULL;
    dev->task.uid = 0;
    dev->task.log_fd = 0;
    start_task(dev, name);
}

static void dev_migrate(struct dev *dev)
{
    static const char *const args[] = {"migrate", NULL};

    if (dev->has_pg)
        write_url(dev, true);
    dev_enter(dev, DEV_MIGRATING);
    run_self(dev, "nocturne migrate", args);
}

static void on_daemon_end(void *owner, struct child *child)
{
    struct dev *dev = owner;

    if (dev->state >= DEV_STOPPING) {
        dev_advance(dev);
        return;
    }
    log_line(LOG_WARN, "", "%s %s", child->name, child_fate(child));
    if (dev->state != DEV_RUNNING && child->failures >= EARLY_DEATHS)
        dev_fail(dev, CLI_FAILED);
    else
        child_start_later(child);
}

static void start_daemon(struct dev *dev, const char *program, const char *name)
{
    struct child *child = &dev->daemons[dev->n_daemons++];
    struct err err = {0};

    child_init(child, &dev->loop, name, on_daemon_end, dev);
    child->args[0] = program;
    if (!strcmp(name, "api")) {
        child->args[1] = "--listen";
        child->args[2] = dev->listen;
    }
    if (child_start(child, &err) < 0)
        log_line(LOG_ERROR, "", "%s", err.msg); /* its end comes */
}

static void dev_start(struct dev *dev)
{
    dev_enter(dev, DEV_STARTING);
    for (int i = 0; i < dev->n_schedulers; i++)
        start_daemon(dev, dev->programs[1], "scheduler");
    for (int i = 0; i < dev->n_workers; i++)
        start_daemon(dev, dev->programs[2], "worker");
    start_daemon(dev, dev->programs[0], "api");
    dev_poll(dev);
}

static void dev_apply(struct dev *dev)
{
    const char *const args[] = {"agents", "apply", dev->args->agents, "--url", dev->base, NULL};

    dev_enter(dev, DEV_APPLYING);
    run_self(dev, "nocturne agents apply", args);
}

static void dev_run(struct dev *dev)
{
    dev_enter(dev, DEV_RUNNING);
    printf("ready http://%s\n", dev->listen);
    (void)fflush(stdout); /* a closed stdout does not stop us */
}

static void on_probed(struct dev *dev, bool ready)
{
    if (dev->state == DEV_STOPPING)
        dev_advance(dev);
    else if (dev->state == DEV_STARTING && ready && dev->args->agents)
        dev_apply(dev);
    else if (dev->state == DEV_STARTING && ready)
        dev_run(dev);
}

/* ---- what comes next ---- */

static void on_server_end(void *owner, struct child *child)
{
    struct dev *dev = owner;

    if (dev->state == DEV_CLOSING) {
        dev_advance(dev);
    } else if (dev->state == DEV_WAKING) {
        fail_with_log(dev, "postgres does not start");
    } else if (dev->state != DEV_STOPPING) {
        log_line(LOG_ERROR, "", "postgres %s", child_fate(child));
        child_start_later(child);
    }
}

static void on_task_end(void *owner, struct child *task)
{
    struct dev *dev = owner;
    bool done = task->exit_status == 0 && task->term_signal == 0;

    if (done || dev->state == DEV_STOPPING) {
        dev_advance(dev);
    } else if (dev->state == DEV_CREATING) {
        fail_with_log(dev, "initdb failed");
    } else {
        log_line(LOG_ERROR, "", "%s %s", task->name, child_fate(task));
        dev_fail(dev, task->exit_status ? (int)task->exit_status : CLI_FAILED);
    }
}

static void after_clearing(struct dev *dev)
{
    if (!dev->has_pg)
        dev_migrate(dev);
    else if (postgres_is_new(&dev->pg))
        dev_create(dev);
    else
        dev_wake(dev);
}

static void after_creating(struct dev *dev)
{
    struct err err = {0};

    if (postgres_adopt(&dev->pg, &err) == 0) {
        dev_wake(dev);
        return;
    }
    log_line(LOG_ERROR, "", "%s", err.msg);
    dev_fail(dev, CLI_FAILED);
}

static void while_waking(struct dev *dev)
{
    if (child_is_up(&dev->server) && postgres_answers(&dev->pg))
        dev_migrate(dev);
    else if (dev_lasts(dev, WAKE_MS))
        fail_with_log(dev, "postgres does not answer");
}

/* What was waited for has come, or the timer. */
static void dev_advance(struct dev *dev)
{
    switch (dev->state) {
    case DEV_CLEARING:
        dev_look_around(dev);
        break;
    case DEV_CREATING:
        after_creating(dev);
        break;
    case DEV_WAKING:
        while_waking(dev);
        break;
    case DEV_MIGRATING:
        dev_start(dev);
        break;
    case DEV_STARTING:
        if (!dev->probing)
            dev_probe(dev, on_probed);
        break;
    case DEV_APPLYING:
        dev_run(dev);
        break;
    case DEV_STOPPING:
        if (is_alone(dev))
            dev_close_server(dev);
        else if (dev_lasts(dev, GRACE_MS))
            dev_press(dev);
        break;
    case DEV_CLOSING:
        if (!child_is_up(&dev->server))
            dev_end(dev);
        else
            dev_press(dev);
        break;
    case DEV_RUNNING:
    case DEV_END:
        break;
    }
}

/* ---- the beginning ---- */

void dev_begin(struct dev *dev)
{
    static const int signums[] = {SIGINT, SIGTERM, SIGHUP};

    uv_timer_init(&dev->loop, &dev->timer);
    dev->timer.data = dev;
    for (unsigned i = 0; i < sizeof(signums) / sizeof(*signums); i++) {
        uv_signal_init(&dev->loop, &dev->signals[i]);
        dev->signals[i].data = dev;
        uv_signal_start(&dev->signals[i], on_signal, signums[i]);
    }
    child_init(&dev->server, &dev->loop, "postgres", on_server_end, dev);
    child_init(&dev->task, &dev->loop, "", on_task_end, dev);
    dev->server.log_fd = dev->log_fd;
    dev->http = http_new(&dev->loop);
    dev_enter(dev, DEV_CLEARING);
    if (dev->has_pg && postgres_remains(&dev->pg, SIGINT) > 0)
        log_line(LOG_INFO, "", "an earlier postgres is still there: stopping it");
    dev_poll(dev);
}

void dev_forget(const struct dev *dev)
{
    write_url(dev, false);
    postgres_tidy(&dev->pg);
}
