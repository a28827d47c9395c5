/*
 * Run a program: text in on stdin, bytes out on stdout, the end of stderr kept. The child leads a
 * process group of its own, and whatever is left of the group is killed when it ends, is stopped
 * or runs out of time.
 *
 * Promise: `done` runs exactly once for each process_start(), never before process_start() or
 * process_stop() returns, and all handles are closed by then. A program that cannot be started is
 * told by `done` too.
 */
#pragma once

#include "buf.h"
#include "delay.h"
#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define PROCESS_STDERR_BYTES 8192 /* kept, from the end */

struct process;

/* Bytes of stdout. Return 0, or -1 to stop the process (`done` gets ERR_CANCELED). */
typedef int process_data_fn(void *owner, const char *bytes, size_t len);

/* ERR_OK: it exited, see `exit_status` and `term_signal`. ERR_INVALID: it could not be started.
 * ERR_TIMEOUT, ERR_CANCELED: we killed it. */
typedef void process_done_fn(void *owner, const struct err *err);

struct process_spec {
    const char *const *argv; /* NULL at the end; argv[0] is looked up in PATH */
    const char *const *env;  /* "NAME=value", NULL at the end: all of the environment */
    const char *input;       /* borrowed until `done` */
    size_t input_len;
    uint64_t timeout_ms; /* 0: none */
    process_data_fn *on_stdout;
};

/* Lives inside its owner. */
struct process {
    int state; /* enum process_state */
    uv_process_t handle;
    uv_pipe_t in, out, err;
    uv_write_t write;
    int open_handles;
    int64_t exit_status;
    int term_signal;
    struct buf stderr_tail;
    struct err why; /* why we stopped it, or could not start it */
    struct delay timeout, kill, drain;
    struct delays *delays;
    bool exited, out_closed, paused;
    uint64_t left_ms; /* of the time-out, while paused */
    process_data_fn *on_stdout;
    process_done_fn *done;
    void *owner;
};

void process_start(uv_loop_t *loop, struct delays *delays, struct process *p,
                   const struct process_spec *spec, process_done_fn *done, void *owner);

/* SIGTERM to the group, SIGKILL two seconds later. Harmless when over or on a zeroed one. */
void process_stop(struct process *p);

/* Read no more of stdout until process_resume(); a program that goes on writing is held up by its
 * pipe. Its time-out does not run meanwhile. Again: no effect. Harmless when over. */
void process_pause(struct process *p);
void process_resume(struct process *p);

void process_release(struct process *p); /* after `done`; harmless on a zeroed one */
