/* A fixed number of connections to one database; each call goes to the least busy one. */
#pragma once

#include "pg.h"

struct pgpool; /* opaque */

/* All but `size` as in pg_new(). */
struct pgpool *pgpool_new(uv_loop_t *loop, const char *conninfo, const char *name, bool prepare,
                          size_t size);
void pgpool_close(struct pgpool *pool); /* as pg_close() */

/* The connection for the next call: one that is up, if any is. */
struct pg *pgpool_pick(const struct pgpool *pool);

size_t pgpool_up(const struct pgpool *pool);           /* connections that are up */
size_t pgpool_load(const struct pgpool *pool);         /* calls queued or in flight */
const char *pgpool_trouble(const struct pgpool *pool); /* why one is not up, "" when unknown */
