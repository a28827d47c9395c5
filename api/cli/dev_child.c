/*
 *   DOWN --> UP --> CLOSING --> DOWN
 *    ^ |                         |
 *    | +--------> PAUSING -------+-- child_start_later()
 */
#include "dev_child.h"

#include "backoff.h"
#include "clock.h"
#include "id.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define YOUNG_MS        60000
#define BACKOFF_BASE_MS 2000 /* halved by the jitter at most */
#define BACKOFF_CAP_MS  30000

static void child_enter(struct child *child, enum child_state state)
{
    child->state = state;
    if (state == CHILD_UP)
        child->started_ms = clock_mono_ms();
}

static void on_closed(uv_handle_t *handle)
{
    struct child *child = handle->data;

    child_enter(child, CHILD_DOWN);
    child->on_end(child->owner, child);
}

static void on_process_exit(uv_process_t *process, int64_t exit_status, int term_signal)
{
    struct child *child = process->data;
    bool young = clock_mono_ms() - child->started_ms < YOUNG_MS;

    child->exit_status = exit_status;
    child->term_signal = term_signal;
    child->failures = young ? child->failures + 1 : 1;
    child_enter(child, CHILD_CLOSING);
    uv_close((uv_handle_t *)process, on_closed);
}

void child_init(struct child *child, uv_loop_t *loop, const char *name, child_end_fn *on_end,
                void *owner)
{
    *child = (struct child){.loop = loop, .name = name, .on_end = on_end, .owner = owner};
    uv_timer_init(loop, &child->timer);
    child->timer.data = child->process.data = child;
}

/* argv for libuv, which does not write to it but cannot say so. */
static void copy_args(const struct child *child, char **ret_args)
{
    for (int i = 0; i < CHILD_MAX_ARGS; i++)
        memcpy(&ret_args[i], &child->args[i], sizeof(char *));
}

int child_start(struct child *child, struct err *err)
{
    int fd = child->log_fd ? child->log_fd : STDERR_FILENO, rc;
    char *args[CHILD_MAX_ARGS];
    uv_stdio_container_t stdio[] = {
        {.flags = UV_IGNORE},
        { .flags = UV_INHERIT_FD,     .data.fd = fd},
        { .flags = UV_INHERIT_FD,     .data.fd = fd},
    };
    uv_process_options_t options = {
        .file = child->args[0],
        .args = args,
        .cwd = child->cwd,
        .stdio = stdio,
        .stdio_count = 3,
        .flags = UV_PROCESS_DETACHED,
        .exit_cb = on_process_exit,
    };

    copy_args(child, args);
    if (child->uid) {
        options.flags |= UV_PROCESS_SETUID | UV_PROCESS_SETGID;
        options.uid = child->uid;
        options.gid = child->gid;
    }
    child_enter(child, CHILD_UP);
    rc = uv_spawn(child->loop, &child->process, &options);
    child->process.data = child;
    if (rc == 0)
        return 0;
    child->exit_status = 127;
    child->term_signal = 0;
    child->failures++;
    child_enter(child, CHILD_CLOSING);
    uv_close((uv_handle_t *)&child->process, on_closed);
    return err_set(err, ERR_INVALID, "%s cannot be started: %s: %s", child->name, child->args[0],
                   uv_strerror(rc));
}

static void on_pause(uv_timer_t *timer)
{
    struct err ignored; /* `on_end` comes, and whoever decides there tells it */

    (void)child_start(timer->data, &ignored);
}

void child_start_later(struct child *child)
{
    uint64_t ms = backoff_ms(child->failures, BACKOFF_BASE_MS, BACKOFF_CAP_MS, id_random32());

    child_enter(child, CHILD_PAUSING);
    uv_timer_start(&child->timer, on_pause, ms, 0);
}

void child_signal(struct child *child, int signum)
{
    if (child->state == CHILD_UP) {
        (void)uv_process_kill(&child->process, signum); /* it may be gone: its end is on the way */
    } else if (child->state == CHILD_PAUSING) {
        uv_timer_stop(&child->timer);
        child_enter(child, CHILD_DOWN);
    }
}

bool child_is_up(const struct child *child)
{
    return child->state == CHILD_UP || child->state == CHILD_CLOSING;
}

const char *child_fate(const struct child *child)
{
    static char text[64];

    if (child->term_signal)
        snprintf(text, sizeof(text), "was killed by signal %d", child->term_signal);
    else
        snprintf(text, sizeof(text), "exited with %d", (int)child->exit_status);
    return text;
}

void child_close(struct child *child)
{
    uv_close((uv_handle_t *)&child->timer, NULL);
}
