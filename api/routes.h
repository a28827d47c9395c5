/* Which handler is for which method and path. */
#pragma once

#include "request.h"

struct route {
    const char *method;
    const char *path;  /* segments; {} takes any one */
    const char *query; /* parameters it knows, separated by blanks */
    const char *name;  /* for metrics */
    request_fn *handler;
};

extern const struct route routes[];
extern const int route_count;

/*
 * The route for `method` (HEAD is GET) and the segments of a path; what {} took goes to
 * `ret_params`, borrowed. NULL: none; then `ret_allow` (64 bytes) lists the methods that the path
 * has, or is "".
 */
const struct route *route_find(const char *method, char *const *segments, int n, char **ret_params,
                               char *ret_allow);
