/*
 * The private PostgreSQL of `nocturne dev`: where it is, whose it is, and what an earlier one left
 * behind. DIR/postgres is the cluster, DIR/run (or a folder under /tmp when that is too long for a
 * socket's name) holds the socket, DIR/postgres.log what the server says.
 */
#pragma once

#include "err.h"

#include <stdbool.h>
#include <sys/types.h>

struct postgres {
    char *dir; /* as an absolute path */
    char *bin; /* of the programs */
    char *initdb, *postgres;
    char *data;    /* the cluster */
    char *fresh;   /* a cluster in the making, renamed to `data` when whole */
    char *sockets; /* the socket's folder */
    char *log;
    char *url;
    char *sockets_option; /* argument of -c */
    uid_t uid;            /* who runs it; 0: we do */
    gid_t gid;
};

/*
 * Find the programs, make the folders. ERR_INVALID when this cannot work: no PostgreSQL, a cluster
 * of another major version, a folder that the user postgres cannot reach.
 */
int postgres_prepare(struct postgres *pg, const char *dir, struct err *err);
void postgres_release(struct postgres *pg);

bool postgres_is_new(const struct postgres *pg); /* there is no cluster yet */

/* The new cluster is whole: give it its name. */
int postgres_adopt(const struct postgres *pg, struct err *err);

/* Fill argv (NULL at the end, `max` long) for making a cluster, and for running it. */
void postgres_init_args(const struct postgres *pg, const char **ret_args, int max);
void postgres_run_args(const struct postgres *pg, const char **ret_args, int max);

/*
 * How many processes of an earlier server on this cluster are there, after sending `signum` (0:
 * none) to its postmaster. With 0 left, a stale postmaster.pid is out of the way.
 */
int postgres_remains(const struct postgres *pg, int signum);

/* Does it answer? */
bool postgres_answers(const struct postgres *pg);

/* It is down for good: remove the socket's folder when it is not in DIR. */
void postgres_tidy(const struct postgres *pg);
