#include "base/map.h"

#include "base/assert.h"

#include <stdlib.h>
#include <xxhash.h>

static void *allocate(size_t size)
{
    return malloc(size);
}

static void *reallocate(void *memory, size_t size, size_t size_new, bool defer)
{
    (void)size;
    (void)defer;
    return realloc(memory, size_new);
}

static void release(void *memory, size_t size, bool defer)
{
    (void)size;
    (void)defer;
    free(memory);
}

static struct ck_malloc allocator = {.malloc = allocate, .realloc = reallocate, .free = release};

static void hash_bytes(struct ck_ht_hash *hash, const void *key, size_t size, uint64_t seed)
{
    hash->value = XXH3_64bits_withSeed(key, size, seed);
}

#define CAPACITY_AT_START 8

static void init(struct map *map, unsigned mode, uint64_t seed)
{
    bool done = ck_ht_init(&map->table, mode, hash_bytes, &allocator, CAPACITY_AT_START, seed);
    ASSERT(done);
    map->removed = 0;
    map->numbers = mode == CK_HT_MODE_DIRECT;
}

void map_init_bytes(struct map *map, uint64_t seed)
{
    init(map, CK_HT_MODE_BYTESTRING, seed);
}

void map_init_numbers(struct map *map, uint64_t seed)
{
    init(map, CK_HT_MODE_DIRECT, seed);
}

void map_fini(struct map *map)
{
    ck_ht_destroy(&map->table);
}

size_t map_count(const struct map *map)
{
    /* ck_ht_count() only reads */
    return ck_ht_count((struct ck_ht *)(uintptr_t)&map->table);
}

static struct ck_ht *table_of(const struct map *map)
{
    return (struct ck_ht *)(uintptr_t)&map
        ->table; /* lookups of ck_ht take a pointer to non-const */
}

void *map_get(const struct map *map, struct slice key)
{
    struct ck_ht_hash hash;
    struct ck_ht_entry entry;

    if (key.size == 0 || key.size > UINT16_MAX)
        return NULL;
    DEBUG_ASSERT(!map->numbers);
    ck_ht_hash(&hash, table_of(map), key.data, (uint16_t)key.size);
    ck_ht_entry_key_set(&entry, key.data, (uint16_t)key.size);
    return ck_ht_get_spmc(table_of(map), hash, &entry) ? ck_ht_entry_value(&entry) : NULL;
}

void *map_get_number(const struct map *map, uint64_t key)
{
    struct ck_ht_hash hash;
    struct ck_ht_entry entry;

    DEBUG_ASSERT(map->numbers);
    ck_ht_hash_direct(&hash, table_of(map), (uintptr_t)key);
    ck_ht_entry_key_set_direct(&entry, (uintptr_t)key);
    return ck_ht_get_spmc(table_of(map), hash, &entry) ? (void *)ck_ht_entry_value_direct(&entry)
                                                       : NULL;
}

/* ck_ht keeps tombstones; probes stay short when they are swept once they are as many as the
 * entries. Sweeping moves entries, so it is done when putting, which no iteration allows. */
static void sweep(struct map *map)
{
    if (map->removed > 64 && map->removed > ck_ht_count(&map->table)) {
        ck_ht_gc(&map->table, 0, 0);
        map->removed = 0;
    }
}

void map_put(struct map *map, struct slice key, void *value)
{
    struct ck_ht_hash hash;
    struct ck_ht_entry entry;

    ASSERT(!map->numbers && key.size > 0 && key.size <= UINT16_MAX && value);
    sweep(map);
    ck_ht_hash(&hash, &map->table, key.data, (uint16_t)key.size);
    ck_ht_entry_set(&entry, hash, key.data, (uint16_t)key.size, value);
    bool done = ck_ht_put_spmc(&map->table, hash, &entry);
    ASSERT(done);
}

void map_put_number(struct map *map, uint64_t key, void *value)
{
    struct ck_ht_hash hash;
    struct ck_ht_entry entry;

    ASSERT(map->numbers && key > 0 && key < UINT64_MAX && value);
    sweep(map);
    ck_ht_hash_direct(&hash, &map->table, (uintptr_t)key);
    ck_ht_entry_set_direct(&entry, hash, (uintptr_t)key, (uintptr_t)value);
    bool done = ck_ht_put_spmc(&map->table, hash, &entry);
    ASSERT(done);
}

void *map_remove(struct map *map, struct slice key)
{
    struct ck_ht_hash hash;
    struct ck_ht_entry entry;

    if (key.size == 0 || key.size > UINT16_MAX)
        return NULL;
    ck_ht_hash(&hash, &map->table, key.data, (uint16_t)key.size);
    ck_ht_entry_key_set(&entry, key.data, (uint16_t)key.size);
    if (!ck_ht_remove_spmc(&map->table, hash, &entry))
        return NULL;
    map->removed++;
    return ck_ht_entry_value(&entry);
}

void *map_remove_number(struct map *map, uint64_t key)
{
    struct ck_ht_hash hash;
    struct ck_ht_entry entry;

    ck_ht_hash_direct(&hash, &map->table, (uintptr_t)key);
    ck_ht_entry_key_set_direct(&entry, (uintptr_t)key);
    if (!ck_ht_remove_spmc(&map->table, hash, &entry))
        return NULL;
    map->removed++;
    return (void *)ck_ht_entry_value_direct(&entry);
}

void *map_next(const struct map *map, struct map_cursor *cursor)
{
    struct ck_ht_entry *entry;

    if (!ck_ht_next(table_of(map), &cursor->iterator, &entry))
        return NULL;
    return map->numbers ? (void *)ck_ht_entry_value_direct(entry) : ck_ht_entry_value(entry);
}
