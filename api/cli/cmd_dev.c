/* dev: settings, what can be found wrong before anything starts, and the loop. */
#include "agents_dir.h"
#include "commands.h"
#include "dev.h"
#include "exit.h"
#include "log.h"
#include "mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_DATA     ".nocturne"
#define DEFAULT_LISTEN   "127.0.0.1:8700"
#define AGENTS_MAX_BYTES ((size_t)256 << 20)
#define PATH_BYTES       4096

/* The daemons stand beside this program. */
static int find_programs(struct dev *dev, struct err *err)
{
    static const char *const names[] = {"nocturne-api", "nocturne-scheduler", "nocturne-worker"};
    char self[PATH_BYTES];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (len < 0)
        return err_set(err, ERR_BUG, "/proc/self/exe: %s", strerror(errno));
    self[len] = '\0';
    dev->self = xstrdup(self);
    *strrchr(self, '/') = '\0';
    for (int i = 0; i < 3; i++) {
        dev->programs[i] = xasprintf("%s/%s", self, names[i]);
        if (access(dev->programs[i], X_OK) < 0)
            return err_set(err, ERR_NOT_FOUND, "%.150s: %s", dev->programs[i], strerror(errno));
    }
    return 0;
}

static int check_counts(struct dev *dev, struct err *err)
{
    const struct args *args = dev->args;

    if (args->workers == 0 || args->workers > DEV_MAX_WORKERS)
        return err_set(err, ERR_INVALID, "--workers: from 1 to %d", DEV_MAX_WORKERS);
    if (args->schedulers == 0 || args->schedulers > DEV_MAX_SCHEDULERS)
        return err_set(err, ERR_INVALID, "--schedulers: from 1 to %d", DEV_MAX_SCHEDULERS);
    dev->n_workers = args->workers < 0 ? 1 : (int)args->workers;
    dev->n_schedulers = args->schedulers < 0 ? 1 : (int)args->schedulers;
    return 0;
}

/* A mistake in a definition is better told now than after a minute. */
static int check_agents(const struct args *args, struct err *err)
{
    BUF_AUTO(body, AGENTS_MAX_BYTES);
    int n = 0;

    if (!args->agents)
        return 0;
    if (agents_dir_read(args->agents, stderr, &body, &n, err) < 0)
        return -1;
    return n > 0 ? 0 : err_set(err, ERR_NOT_FOUND, "there is no *.json in %.150s", args->agents);
}

static int open_log(struct dev *dev, struct err *err)
{
    dev->log_fd = open(dev->pg.log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    return dev->log_fd < 0 ? err_set(err, ERR_INVALID, "%.150s: %s", dev->pg.log, strerror(errno))
                           : 0;
}

/* The lock comes first: what postgres_prepare() removes could be another one's. */
static int take_folder(struct dev *dev, struct err *err)
{
    const char *dir = dev->args->data ? dev->args->data : DEFAULT_DATA;

    if (mkdir(dir, geteuid() == 0 ? 0755 : 0700) < 0 && errno != EEXIST)
        return err_set(err, ERR_INVALID, "%.150s: %s", dir, strerror(errno));
    if (dev_lock_take(&dev->lock, dir, err) < 0 || postgres_prepare(&dev->pg, dir, err) < 0)
        return -1;
    dev->has_pg = true;
    dev->url = dev->pg.url;
    return open_log(dev, err);
}

/* What all children find in their environment; see lib/loop.h for the first. */
static void set_environment(const struct dev *dev)
{
    char pid[24];

    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert(dev->url);
    setenv("NOCTURNE_PARENT", pid, 1);
    setenv("NOCTURNE_DATABASE", dev->url, 1); /* not on a command line that all can read */
}

static int prepare(struct dev *dev, struct err *err)
{
    const struct args *args = dev->args;

    dev->listen = xstrdup(args->listen ? args->listen : DEFAULT_LISTEN);
    dev->url = args->database;
    if (find_programs(dev, err) < 0 || check_counts(dev, err) < 0 || check_agents(args, err) < 0)
        return -1;
    if (!args->database && take_folder(dev, err) < 0)
        return -1;
    set_environment(dev);
    return 0;
}

static void release(struct dev *dev)
{
    if (dev->has_pg)
        dev_forget(dev);
    if (dev->log_fd > 0)
        close(dev->log_fd);
    postgres_release(&dev->pg);
    dev_lock_leave(&dev->lock);
    for (int i = 0; i < 3; i++)
        free(dev->programs[i]);
    free(dev->self);
    free(dev->listen);
    free(dev->base);
    free(dev);
}

int cmd_dev(const struct args *args)
{
    struct dev *dev = xcalloc(1, sizeof(*dev));
    struct err err = {0};
    int exit = CLI_FAILED;

    dev->args = args;
    dev->lock.fd = -1;
    log_init("dev", LOG_INFO);
    if (prepare(dev, &err) < 0) {
        fprintf(stderr, "nocturne dev: %s\n", err.msg);
        exit = err.code == ERR_NOT_FOUND ? CLI_NOT_FOUND : CLI_FAILED;
        dev->has_pg = false;
        dev->lock.kept = dev->lock.unclean; /* we have not looked for leftovers */
        release(dev);
        return exit;
    }
    if (uv_loop_init(&dev->loop) < 0)
        abort();
    dev_begin(dev);
    uv_run(&dev->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&dev->loop) < 0)
        log_line(LOG_ERROR, "", "handles were left open");
    exit = dev->exit;
    release(dev);
    return exit;
}
