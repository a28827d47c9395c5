/* One `nocturne dev` per folder, and per address. */
#pragma once

#include "err.h"

#include <stdbool.h>

struct dev_lock {
    int fd;
    bool unclean; /* the last one was killed: what it started may still be going away */
    bool kept;    /* leave it so */
};

/* ERR_CONFLICT when another one has `dir`. The lock goes with the process. */
int dev_lock_take(struct dev_lock *lock, const char *dir, struct err *err);

/* Everything is stopped: the next one need not look for leftovers, unless `kept`. */
void dev_lock_leave(struct dev_lock *lock);

/*
 * Is "HOST:PORT" free? Port 0 is replaced by one that is: `*ret_listen`, to be freed by the caller.
 * ERR_CONFLICT when somebody listens there.
 */
int dev_listen_check(const char *listen, char **ret_listen, struct err *err);
