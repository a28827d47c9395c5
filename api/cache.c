#include "cache.h"

#include "clock.h"
#include "id.h"
#include "list.h"
#include "map.h"
#include "mem.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define SHARE 16 /* no entry takes more than this part of the cache */

struct entry {
    struct map_node node; /* cache->by_task */
    struct list link;     /* cache->used */
    char task_id[ID_BYTES];
    char *json;
    size_t len;
    uint64_t read_ms;
};

struct cache {
    struct map by_task;
    struct list used; /* struct entry.link, the least recently used first */
    size_t bytes, max_bytes;
};

static size_t cost_of(size_t len)
{
    return sizeof(struct entry) + len;
}

static void entry_free(struct cache *cache, struct entry *entry)
{
    map_remove(&cache->by_task, &entry->node);
    list_remove(&entry->link);
    cache->bytes -= cost_of(entry->len);
    free(entry->json);
    free(entry);
}

static struct entry *find(const struct cache *cache, const char *task_id)
{
    struct map_node *node = map_find(&cache->by_task, task_id);

    return node ? container_of(node, struct entry, node) : NULL;
}

const char *cache_get(struct cache *cache, const char *task_id, size_t *ret_len)
{
    struct entry *entry = find(cache, task_id);

    if (!entry)
        return NULL;
    if (clock_mono_ms() - entry->read_ms >= CACHE_MS) {
        entry_free(cache, entry);
        return NULL;
    }
    list_remove(&entry->link);
    list_append(&cache->used, &entry->link);
    *ret_len = entry->len;
    return entry->json;
}

void cache_put(struct cache *cache, const char *task_id, const char *json, size_t len)
{
    struct entry *entry;

    cache_drop(cache, task_id);
    if (cost_of(len) > cache->max_bytes / SHARE)
        return;
    entry = xcalloc(1, sizeof(*entry));
    snprintf(entry->task_id, sizeof(entry->task_id), "%s", task_id);
    entry->json = xmemdup(json, len);
    entry->len = len;
    entry->read_ms = clock_mono_ms();
    map_add(&cache->by_task, &entry->node, entry->task_id);
    list_append(&cache->used, &entry->link);
    cache->bytes += cost_of(len);
    while (cache->bytes > cache->max_bytes)
        entry_free(cache, container_of(cache->used.next, struct entry, link));
}

void cache_drop(struct cache *cache, const char *task_id)
{
    struct entry *entry = find(cache, task_id);

    if (entry)
        entry_free(cache, entry);
}

size_t cache_bytes(const struct cache *cache)
{
    return cache->bytes;
}

struct cache *cache_new(size_t max_bytes)
{
    struct cache *cache = xcalloc(1, sizeof(*cache));

    map_init(&cache->by_task);
    list_init(&cache->used);
    cache->max_bytes = max_bytes;
    return cache;
}

void cache_free(struct cache *cache)
{
    if (!cache)
        return;
    while (!list_is_empty(&cache->used))
        entry_free(cache, container_of(cache->used.next, struct entry, link));
    map_release(&cache->by_task);
    free(cache);
}
