/*
 * One answer of the model, from the parsed request to the last frame. The shared parts of the
 * server that an answer touches are in `struct sim`.
 */
#pragma once

#include "board.h"
#include "httpd.h"
#include "list.h"
#include "reqlog.h"

#include <stdint.h>
#include <uv.h>

#define SIM_MODEL "sim-1"

struct sim {
    uv_loop_t *uv;
    struct board board;
    struct reqlog log;
    struct list replies; /* answers under way */
    uint64_t n_open, n_tokens;
};

/* Answer POST .../chat/completions. Everything of `req` that is needed is copied. */
void reply_start(struct sim *sim, struct httpd_req *req);

/* The server is closing: let go of what is still under way, without touching its requests. */
void reply_drop_all(struct sim *sim);
