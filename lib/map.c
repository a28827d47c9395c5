#include "map.h"

#include "id.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SIZE 16

void map_init(struct map *map)
{
    *map = (struct map){.seed = id_random32()};
}

void map_release(struct map *map)
{
    free(map->slots);
    map->slots = NULL;
    map->size = map->count = 0;
}

/* FNV-1a from a seed, then mixed so that the low bits depend on all others. */
static uint32_t hash_of(const struct map *map, const char *key)
{
    uint32_t hash = 2166136261u ^ map->seed;

    for (; *key; key++)
        hash = (hash ^ (unsigned char)*key) * 16777619u;
    hash ^= hash >> 15;
    hash *= 2246822519u;
    return hash ^ hash >> 13;
}

struct map_node *map_find(const struct map *map, const char *key)
{
    uint32_t hash = hash_of(map, key);
    struct map_node *node = map->size ? map->slots[hash & (map->size - 1)] : NULL;

    while (node && (node->hash != hash || strcmp(node->key, key) != 0))
        node = node->next;
    return node;
}

static void map_grow(struct map *map)
{
    size_t size = map->size ? 2 * map->size : FIRST_SIZE;
    struct map_node **slots = xcalloc(size, sizeof(struct map_node *)), *node, *next;

    for (size_t i = 0; i < map->size; i++) {
        for (node = map->slots[i]; node; node = next) {
            next = node->next;
            node->next = slots[node->hash & (size - 1)];
            slots[node->hash & (size - 1)] = node;
        }
    }
    free(map->slots);
    map->slots = slots;
    map->size = size;
}

void map_add(struct map *map, struct map_node *node, const char *key)
{
    struct map_node **slot;

    if (map->count == map->size)
        map_grow(map);
    node->key = key;
    node->hash = hash_of(map, key);
    slot = &map->slots[node->hash & (map->size - 1)];
    node->next = *slot;
    *slot = node;
    map->count++;
}

void map_remove(struct map *map, struct map_node *node)
{
    struct map_node **at = &map->slots[node->hash & (map->size - 1)];

    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    map->count--;
}
