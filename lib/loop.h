/* The event loop of a daemon: signals in, one graceful stop out. */
#pragma once

#include <uv.h>

/* Called once on the first SIGTERM or SIGINT. A second one ends the process at once. */
typedef void loop_stop_fn(void *owner);

struct loop {
    uv_loop_t uv;
    uv_signal_t sigterm, sigint;
    int signals; /* seen so far */
    loop_stop_fn *on_stop;
    void *owner;
};

/*
 * With NOCTURNE_PARENT=PID in the environment the process gets SIGTERM when that parent dies, and
 * ends at once when it is dead already: a killed `nocturne dev` leaves no daemon behind.
 */
void loop_init(struct loop *loop, loop_stop_fn *on_stop, void *owner);

/* Run until nothing is left to do but wait for signals, and close. Returns 0, or 1 when handles
 * leaked. */
int loop_run(struct loop *loop);

/* Let go of the signals, so that loop_run() ends when everything else has closed. */
void loop_finish(struct loop *loop);
