#include "loop.h"

#include "log.h"
#include "mem.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static void on_signal(uv_signal_t *handle, int signum)
{
    struct loop *loop = handle->data;

    if (loop->signals++ > 0)
        _exit(128 + signum); /* asked twice: what is durable is durable */
    log_line(LOG_INFO, "", "stopping on %s", signum == SIGTERM ? "SIGTERM" : "SIGINT");
    loop->on_stop(loop->owner);
}

/* Whoever started us may be killed without a chance to tell us: the kernel does. */
static void follow_parent(void)
{
    const char *text = getenv("NOCTURNE_PARENT");
    long parent = text ? strtol(text, NULL, 10) : 0;

    if (parent <= 0)
        return;
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
        _exit(1);                /* it is gone already */
    unsetenv("NOCTURNE_PARENT"); /* it is not our children's parent */
}

void loop_init(struct loop *loop, loop_stop_fn *on_stop, void *owner)
{
    mem_init();
    loop->signals = 0;
    loop->on_stop = on_stop;
    loop->owner = owner;
    signal(SIGPIPE, SIG_IGN);
    follow_parent();
    if (uv_loop_init(&loop->uv) < 0)
        abort();
    uv_signal_init(&loop->uv, &loop->sigterm);
    uv_signal_init(&loop->uv, &loop->sigint);
    loop->sigterm.data = loop->sigint.data = loop;
    uv_signal_start(&loop->sigterm, on_signal, SIGTERM);
    uv_signal_start(&loop->sigint, on_signal, SIGINT);
}

void loop_finish(struct loop *loop)
{
    uv_close((uv_handle_t *)&loop->sigterm, NULL);
    uv_close((uv_handle_t *)&loop->sigint, NULL);
}

int loop_run(struct loop *loop)
{
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    if (uv_loop_close(&loop->uv) == 0)
        return 0;
    log_line(LOG_ERROR, "", "handles were left open");
    return 1;
}
