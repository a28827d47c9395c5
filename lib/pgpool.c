#include "pgpool.h"

#include "mem.h"

#include <stdlib.h>

struct pgpool {
    size_t size;
    struct pg *conns[];
};

struct pgpool *pgpool_new(uv_loop_t *loop, const char *conninfo, const char *name, bool prepare,
                          size_t size)
{
    struct pgpool *pool = xcalloc(1, sizeof(*pool) + size * sizeof(struct pg *));

    pool->size = size;
    for (size_t i = 0; i < size; i++)
        pool->conns[i] = pg_new(loop, conninfo, name, prepare);
    return pool;
}

void pgpool_close(struct pgpool *pool)
{
    if (!pool)
        return;
    for (size_t i = 0; i < pool->size; i++)
        pg_close(pool->conns[i]);
    free(pool);
}

struct pg *pgpool_pick(const struct pgpool *pool)
{
    struct pg *best = pool->conns[0];

    for (size_t i = 1; i < pool->size; i++) {
        struct pg *pg = pool->conns[i];

        if (pg_is_up(pg) != pg_is_up(best) ? pg_is_up(pg) : pg_load(pg) < pg_load(best))
            best = pg;
    }
    return best;
}

size_t pgpool_up(const struct pgpool *pool)
{
    size_t up = 0;

    for (size_t i = 0; i < pool->size; i++)
        up += pg_is_up(pool->conns[i]);
    return up;
}

size_t pgpool_load(const struct pgpool *pool)
{
    size_t load = 0;

    for (size_t i = 0; i < pool->size; i++)
        load += pg_load(pool->conns[i]);
    return load;
}

const char *pgpool_trouble(const struct pgpool *pool)
{
    for (size_t i = 0; i < pool->size; i++)
        if (!pg_is_up(pool->conns[i]))
            return pg_trouble(pool->conns[i]);
    return "";
}
