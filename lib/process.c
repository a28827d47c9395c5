/*
 *   IDLE ---> RUNNING ---> DRAINING ---> CLOSING ---> IDLE
 *     |          |                          ^
 *     |          +---> STOPPING ------------+
 *     +-------------------------------------^   it could not be started
 *
 * RUNNING   the child lives; `timeout` runs
 * STOPPING  SIGTERM is sent; `kill` runs to SIGKILL
 * DRAINING  it has exited; what it wrote last is read; `drain` is the limit, because a
 *           grandchild may hold the pipe open. While reading is paused the limit does not run
 * CLOSING   uv_close() of every handle
 *
 * If this process dies, children with the pipe on their stdin see it end; nothing else stops
 * them. What such an orphan does to the world is why the tool ledger has an outcome `unknown`.
 */
#include "process.h"
#include "hook.h"

#include "clock.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define KILL_AFTER_MS  2000
#define DRAIN_LIMIT_MS 300

enum process_state {
    PROCESS_IDLE,     /* nothing */
    PROCESS_RUNNING,  /* the child */
    PROCESS_STOPPING, /* the child, which was told to end */
    PROCESS_DRAINING, /* reading stdout to its end */
    PROCESS_CLOSING,  /* uv_close() */
};

static void process_enter(struct process *p, enum process_state state)
{
    p->state = (int)state;
    hook_state("process", (int)state);
}

static void on_closed(uv_handle_t *handle)
{
    struct process *p = handle->data;
    struct err err = p->why;

    if (--p->open_handles > 0)
        return;
    process_enter(p, PROCESS_IDLE);
    p->done(p->owner, &err);
}

static void process_close(struct process *p)
{
    uv_handle_t *const handles[] = {(uv_handle_t *)&p->handle, (uv_handle_t *)&p->in,
                                    (uv_handle_t *)&p->out, (uv_handle_t *)&p->err};

    process_enter(p, PROCESS_CLOSING);
    delay_cancel(&p->timeout);
    delay_cancel(&p->kill);
    delay_cancel(&p->drain);
    for (size_t i = 0; i < sizeof(handles) / sizeof(*handles); i++)
        if (!uv_is_closing(handles[i]))
            uv_close(handles[i], on_closed);
}

static void process_signal(struct process *p, int signum)
{
    if (p->handle.pid > 0)
        (void)kill(-p->handle.pid, signum); /* ESRCH: the group is gone already */
}

static void on_drain_limit(void *owner)
{
    process_close(owner);
}

static void on_child_exit(uv_process_t *handle, int64_t exit_status, int term_signal)
{
    struct process *p = handle->data;

    p->exited = true;
    p->exit_status = exit_status;
    p->term_signal = term_signal;
    process_signal(p, SIGKILL); /* what it left running in its group */
    if (p->state == PROCESS_CLOSING)
        return;
    if (p->out_closed) {
        process_close(p);
        return;
    }
    process_enter(p, PROCESS_DRAINING);
    delay_cancel(&p->timeout);
    delay_cancel(&p->kill);
    if (!p->paused)
        delay_start(p->delays, &p->drain, DRAIN_LIMIT_MS, on_drain_limit, p);
}

static void on_kill(void *owner)
{
    process_signal(owner, SIGKILL);
}

static void process_end_with(struct process *p, enum err_code code, const char *why)
{
    if (p->why.code == ERR_OK)
        err_set(&p->why, code, "%s", why);
    process_resume(p); /* what it still writes is nobody's */
    if (p->state != PROCESS_RUNNING)
        return;
    process_enter(p, PROCESS_STOPPING);
    process_signal(p, SIGTERM);
    delay_start(p->delays, &p->kill, KILL_AFTER_MS, on_kill, p);
}

static void on_timeout(void *owner)
{
    process_end_with(owner, ERR_TIMEOUT, "it ran out of time");
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[65536]; /* used up before the next read: one loop, one thread */

    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(bytes, sizeof(bytes));
}

static void on_stdout(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct process *p = stream->data;

    if (n > 0 && p->why.code == ERR_OK) {
        if (p->on_stdout && p->on_stdout(p->owner, buf->base, (size_t)n) < 0)
            process_end_with(p, ERR_CANCELED, "it was stopped");
    } else if (n < 0) {
        p->out_closed = true;
        uv_read_stop(stream);
        if (p->exited && p->state != PROCESS_CLOSING)
            process_close(p);
    }
}

static void on_stderr(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct process *p = stream->data;
    const char *bytes = buf->base;
    size_t len;

    if (n < 0)
        uv_read_stop(stream);
    if (n <= 0)
        return;
    len = (size_t)n;
    if (len > PROCESS_STDERR_BYTES) {
        bytes += len - PROCESS_STDERR_BYTES;
        len = PROCESS_STDERR_BYTES;
    }
    if (p->stderr_tail.len + len > PROCESS_STDERR_BYTES)
        buf_drop_front(&p->stderr_tail, p->stderr_tail.len + len - PROCESS_STDERR_BYTES);
    (void)buf_append(&p->stderr_tail, bytes, len);
}

static void on_written(uv_write_t *write, int status)
{
    struct process *p = write->data;

    (void)status; /* EPIPE: it does not want its input, which is its affair */
    if (!uv_is_closing((uv_handle_t *)&p->in))
        uv_close((uv_handle_t *)&p->in, on_closed);
}

static int process_spawn(uv_loop_t *loop, struct process *p, const struct process_spec *spec)
{
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&p->in },
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&p->out},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&p->err},
    };
    uv_process_options_t options = {
        .exit_cb = on_child_exit,
        .file = spec->argv[0],
        .args = (char **)(uintptr_t)spec->argv, /* libuv does not write to them */
        .env = (char **)(uintptr_t)spec->env,
        .flags = UV_PROCESS_DETACHED, /* a session, so a group, of its own */
        .stdio_count = 3,
        .stdio = stdio,
    };

    return uv_spawn(loop, &p->handle, &options);
}

void process_start(uv_loop_t *loop, struct delays *delays, struct process *p,
                   const struct process_spec *spec, process_done_fn *done, void *owner)
{
    uv_buf_t input = uv_buf_init((char *)(uintptr_t)spec->input, (unsigned)spec->input_len);
    int rc;

    *p = (struct process){.delays = delays,
                          .on_stdout = spec->on_stdout,
                          .done = done,
                          .owner = owner,
                          .open_handles = 4};
    buf_init(&p->stderr_tail, PROCESS_STDERR_BYTES);
    uv_pipe_init(loop, &p->in, 0);
    uv_pipe_init(loop, &p->out, 0);
    uv_pipe_init(loop, &p->err, 0);
    p->handle.data = p->in.data = p->out.data = p->err.data = p->write.data = p;
    rc = process_spawn(loop, p, spec);
    if (rc < 0) {
        p->handle.pid = 0;
        err_set(&p->why, ERR_INVALID, "cannot start %.120s: %s", spec->argv[0], uv_strerror(rc));
        process_close(p);
        return;
    }
    process_enter(p, PROCESS_RUNNING);
    uv_read_start((uv_stream_t *)&p->out, on_alloc, on_stdout);
    uv_read_start((uv_stream_t *)&p->err, on_alloc, on_stderr);
    uv_write(&p->write, (uv_stream_t *)&p->in, &input, 1, on_written);
    if (spec->timeout_ms)
        delay_start(delays, &p->timeout, spec->timeout_ms, on_timeout, p);
}

void process_stop(struct process *p)
{
    if (p->state != PROCESS_IDLE)
        process_end_with(p, ERR_CANCELED, "it was stopped");
}

static bool is_readable(const struct process *p)
{
    return (p->state == PROCESS_RUNNING || p->state == PROCESS_STOPPING ||
            p->state == PROCESS_DRAINING) &&
           !p->out_closed;
}

void process_pause(struct process *p)
{
    uint64_t now_ms = clock_mono_ms();

    if (p->paused || !is_readable(p) || p->why.code != ERR_OK)
        return;
    p->paused = true;
    uv_read_stop((uv_stream_t *)&p->out);
    delay_cancel(&p->drain);
    p->left_ms = 0;
    if (p->timeout.delays)
        p->left_ms = p->timeout.due_ms > now_ms ? p->timeout.due_ms - now_ms : 1;
    delay_cancel(&p->timeout);
}

void process_resume(struct process *p)
{
    if (!p->paused)
        return;
    p->paused = false;
    if (!is_readable(p))
        return;
    uv_read_start((uv_stream_t *)&p->out, on_alloc, on_stdout);
    if (p->state == PROCESS_DRAINING)
        delay_start(p->delays, &p->drain, DRAIN_LIMIT_MS, on_drain_limit, p);
    else if (p->left_ms)
        delay_start(p->delays, &p->timeout, p->left_ms, on_timeout, p);
}

void process_release(struct process *p)
{
    if (p->stderr_tail.data)
        buf_release(&p->stderr_tail);
}
