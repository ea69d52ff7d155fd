/*
 * A hash table from bytes or from numbers to pointers (Concurrency Kit's ck_ht inside, XXH3 as the
 * hash).
 *
 * Keys are borrowed: they live inside the values, as a rule, and must stay as long as the entry.
 * Key sizes 1..65535. The map owns neither. Each map has its own random seed, given by the caller,
 * so that names cannot be chosen to collide. A put takes at most some 100 µs, whatever the number
 * of entries, up to a million. Growing may abort when the system refuses memory; what a client can
 * make grow is charged by the caller.
 */
#ifndef SLUICE_BASE_MAP_H
#define SLUICE_BASE_MAP_H

#include "base/bytes.h"

#include <ck_ht.h>

struct map_part {
    struct ck_ht table;
    uint64_t removed; /* since the last sweep of tombstones */
};

/* A large map is in parts, by hash, so that no put has to move more than a part of it. */
struct map {
    struct map_part whole;
    struct map_part *parts; /* MAP_PARTS of them; NULL: it is whole */
    size_t count;
    uint64_t seed;
    bool numbers;
};

void map_init_bytes(struct map *map, uint64_t seed);
void map_init_numbers(struct map *map, uint64_t seed);
void map_fini(struct map *map);

size_t map_count(const struct map *map);

/* NULL where there is none. An empty key is in no map, nor is one longer than 65535 bytes. */
void *map_get(const struct map *map, struct slice key);
void *map_get_number(const struct map *map, uint64_t key);

/* The key must not be in the map yet; value not NULL. Numbers: 1 to UINT64_MAX - 1. */
void map_put(struct map *map, struct slice key, void *value);
void map_put_number(struct map *map, uint64_t key, void *value);

/* The value that was there, or NULL. */
void *map_remove(struct map *map, struct slice key);
void *map_remove_number(struct map *map, uint64_t key);

/* Each value in no particular order; start with a zeroed cursor. Returns NULL at the end. Removing
 * entries meanwhile is allowed, putting is not. */
struct map_cursor {
    struct ck_ht_iterator iterator;
    unsigned part;
};

void *map_next(const struct map *map, struct map_cursor *cursor);

#endif
