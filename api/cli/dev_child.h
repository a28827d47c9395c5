/*
 * A child process of `nocturne dev`: started, told about when it ends, started again after a pause
 * that grows when it dies young. It leads a session of its own, so that Ctrl-C on the terminal
 * reaches `nocturne dev` alone, which then stops things in their order.
 */
#pragma once

#include "err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#define CHILD_MAX_ARGS 32

enum child_state {
    CHILD_DOWN,    /* nothing */
    CHILD_UP,      /* the process */
    CHILD_CLOSING, /* it has ended: uv_close() */
    CHILD_PAUSING, /* the timer, before the next start */
};

struct child;
typedef void child_end_fn(void *owner, struct child *child);

/* Zeroed before child_init(). */
struct child {
    enum child_state state;
    const char *name;                 /* for people; borrowed */
    const char *args[CHILD_MAX_ARGS]; /* NULL at the end; borrowed */
    const char *cwd;                  /* NULL: ours */
    uid_t uid;                        /* 0: as we are */
    gid_t gid;
    int log_fd; /* for its stdout and stderr; our own stderr when 0 */
    uv_process_t process;
    uv_timer_t timer;
    uint64_t started_ms;
    unsigned failures; /* in a row: it lived for less than a minute */
    int64_t exit_status;
    int term_signal;
    child_end_fn *on_end; /* it has ended, whatever the reason; the handle is closed */
    void *owner;
    uv_loop_t *loop;
};

void child_init(struct child *child, uv_loop_t *loop, const char *name, child_end_fn *on_end,
                void *owner);

/* When the program cannot be run, -1, and `on_end` comes all the same. */
int child_start(struct child *child, struct err *err);

/* Start it after a pause of 1 to 30 s. */
void child_start_later(struct child *child);

/* Send a signal; one that is pausing is just not started. */
void child_signal(struct child *child, int signum);

bool child_is_up(const struct child *child); /* or its end has not been told yet */

/* How it ended: "exited with 1", "was killed by signal 9". Valid until the next call. */
const char *child_fate(const struct child *child);

/* Close the timer; it must be down. */
void child_close(struct child *child);
