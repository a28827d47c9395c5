/*
 * Intrusive hash table keyed by text: the node lives inside the element, as with struct list.
 * Keys are hashed with a seed of the process, so that peers cannot choose ones that collide.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct map_node {
    struct map_node *next;
    const char *key;
    uint32_t hash;
};

struct map {
    struct map_node **slots;
    size_t size; /* of `slots`, a power of two, 0 while empty */
    size_t count;
    uint32_t seed;
};

void map_init(struct map *map);
void map_release(struct map *map); /* the table alone; elements belong to their owners */

struct map_node *map_find(const struct map *map, const char *key); /* NULL: none */

/* `key` is borrowed until the node is removed, and must not be in the map yet. */
void map_add(struct map *map, struct map_node *node, const char *key);
void map_remove(struct map *map, struct map_node *node); /* which must be in the map */
