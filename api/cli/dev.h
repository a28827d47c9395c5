/* The inside of `nocturne dev`, shared by cmd_dev.c, dev.c and dev_probe.c. */
#pragma once

#include "args.h"
#include "dev_child.h"
#include "dev_lock.h"
#include "dev_postgres.h"
#include "http.h"

#define DEV_MAX_WORKERS    64
#define DEV_MAX_SCHEDULERS 8
#define DEV_MAX_CHILDREN   (DEV_MAX_WORKERS + DEV_MAX_SCHEDULERS + 1)

enum dev_state {
    DEV_CLEARING,  /* the timer: an earlier server or API is going away */
    DEV_CREATING,  /* task: initdb */
    DEV_WAKING,    /* the timer: PostgreSQL does not answer yet */
    DEV_MIGRATING, /* task: nocturne migrate */
    DEV_STARTING,  /* the timer, or a probe: the daemons are not ready yet */
    DEV_APPLYING,  /* task: nocturne agents apply */
    DEV_RUNNING,   /* the children alone */
    DEV_STOPPING,  /* SIGTERM to all but PostgreSQL; the timer: the grace time */
    DEV_CLOSING,   /* SIGINT to PostgreSQL; the timer: the grace time */
    DEV_END,       /* nothing */
};

struct dev {
    enum dev_state state;
    const struct args *args;
    uv_loop_t loop;
    uv_signal_t signals[3];
    uv_timer_t timer;
    char *bin;       /* folder of our programs */
    char *self;      /* this program */
    char *listen;    /* HOST:PORT as the API gets it */
    char *base;      /* URL to reach it at; made when the port is known */
    const char *url; /* of the database */
    struct dev_lock lock;
    struct postgres pg;
    bool has_pg;         /* a private one */
    int log_fd;          /* what it says */
    struct child server; /* PostgreSQL */
    struct child task;   /* one program after the other, until all is up */
    struct child daemons[DEV_MAX_CHILDREN];
    int n_daemons;
    int n_workers, n_schedulers;
    char *programs[3]; /* api, scheduler, worker */
    struct http *http;
    struct http_call probe;
    bool probing;
    void (*on_probed)(struct dev *dev, bool ready);
    int asked_to_stop;
    uint64_t since_ms; /* of the state */
    int exit;
};

/*
 * Begin: all the settings above are filled in. Runs on `dev->loop` until nothing is left; then
 * `dev->exit` is an enum cli_exit.
 */
void dev_begin(struct dev *dev);

/* The private PostgreSQL is down: nothing points to it any more. */
void dev_forget(const struct dev *dev);

/*
 * Look whether the API is ready and the workers are live; `done` gets the answer, once, never
 * before this returns.
 */
void dev_probe(struct dev *dev, void (*done)(struct dev *dev, bool ready));
