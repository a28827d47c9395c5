/*
 * Terminal tasks as this process has read them last, for clients that ask again and again. Such a
 * task changes in two ways only, by being retried and by being removed; what is older than
 * CACHE_MS is read anew, so that other processes' changes show by then.
 */
#pragma once

#include <stddef.h>

#define CACHE_MS 2000

struct cache; /* opaque */

struct cache *cache_new(size_t max_bytes); /* 0: keeps nothing */
void cache_free(struct cache *cache);

/* The task as JSON, NULL when it is not here; valid until the next cache_put() or cache_drop(). */
const char *cache_get(struct cache *cache, const char *task_id, size_t *ret_len);

/* The least recently used go when it is full. */
void cache_put(struct cache *cache, const char *task_id, const char *json, size_t len);
void cache_drop(struct cache *cache, const char *task_id);

size_t cache_bytes(const struct cache *cache);
