/* What the ways of loading share: options, and requests built once. */
#pragma once

#include "net.h"

#include <stdint.h>

/* As on the command line; see load.c for their meaning. */
struct options {
    int port;
    const char *method, *path, *paths, *body, *events, *ids;
    long clients, total, expect, ramp_ms;
    double seconds, rate;
};

struct request {
    char *text;
    size_t len;
};

/* The requests of --path or --paths, with the body of --body; at least one, or the program ends. */
struct request *requests_make(const struct options *o, size_t *ret_n);
/* `stream`: it accepts server-sent events only. */
struct request request_make(const char *method, const char *path, const char *body, bool stream);

int load_requests(const struct options *o);
int load_streams(const struct options *o);
int load_hold(const struct options *o);
