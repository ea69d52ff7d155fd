#include "base/map.h"

#include "base/assert.h"
#include "base/memory.h"

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

#define CAPACITY_AT_START 8u
#define PARTS_BITS        8u
#define MAP_PARTS         (1u << PARTS_BITS)
#define SPLIT_COUNT       2048u /* so many entries a map has in one piece */

static void part_init(const struct map *map, struct map_part *part, unsigned capacity)
{
    unsigned mode = map->numbers ? CK_HT_MODE_DIRECT : CK_HT_MODE_BYTESTRING;
    bool done = ck_ht_init(&part->table, mode, hash_bytes, &allocator, capacity, map->seed);
    ASSERT(done);
    part->removed = 0;
}

static void init(struct map *map, bool numbers, uint64_t seed)
{
    *map = (struct map){.numbers = numbers, .seed = seed};
    part_init(map, &map->whole, CAPACITY_AT_START);
}

void map_init_bytes(struct map *map, uint64_t seed)
{
    init(map, false, seed);
}

void map_init_numbers(struct map *map, uint64_t seed)
{
    init(map, true, seed);
}

void map_fini(struct map *map)
{
    ck_ht_destroy(&map->whole.table);
    for (unsigned i = 0; map->parts && i < MAP_PARTS; i++)
        ck_ht_destroy(&map->parts[i].table);
    free(map->parts);
}

size_t map_count(const struct map *map)
{
    return map->count;
}

/* Lookups of ck_ht take a pointer to non-const. */
static struct map *writable(const struct map *map)
{
    return (struct map *)(uintptr_t)map;
}

static struct ck_ht_hash hash_of(const struct map *map, struct slice key)
{
    struct ck_ht_hash hash;

    ck_ht_hash(&hash, &writable(map)->whole.table, key.data, (uint16_t)key.size);
    return hash;
}

static struct ck_ht_hash hash_of_number(const struct map *map, uint64_t key)
{
    struct ck_ht_hash hash;

    ck_ht_hash_direct(&hash, &writable(map)->whole.table, (uintptr_t)key);
    return hash;
}

static struct map_part *part_of(const struct map *map, struct ck_ht_hash hash)
{
    return map->parts ? &map->parts[hash.value >> (64 - PARTS_BITS)] : &writable(map)->whole;
}

void *map_get(const struct map *map, struct slice key)
{
    struct ck_ht_entry entry;

    if (key.size == 0 || key.size > UINT16_MAX)
        return NULL;
    DEBUG_ASSERT(!map->numbers);
    struct ck_ht_hash hash = hash_of(map, key);
    ck_ht_entry_key_set(&entry, key.data, (uint16_t)key.size);
    return ck_ht_get_spmc(&part_of(map, hash)->table, hash, &entry) ? ck_ht_entry_value(&entry)
                                                                    : NULL;
}

void *map_get_number(const struct map *map, uint64_t key)
{
    struct ck_ht_entry entry;

    DEBUG_ASSERT(map->numbers);
    struct ck_ht_hash hash = hash_of_number(map, key);
    ck_ht_entry_key_set_direct(&entry, (uintptr_t)key);
    return ck_ht_get_spmc(&part_of(map, hash)->table, hash, &entry)
               ? (void *)ck_ht_entry_value_direct(&entry)
               : NULL;
}

/* ck_ht keeps tombstones; probes stay short when they are swept once they are as many as the
 * entries. Sweeping moves entries, so it is done when putting, which no iteration allows. */
static void sweep(struct map_part *part)
{
    if (part->removed > 64 && part->removed > ck_ht_count(&part->table)) {
        ck_ht_gc(&part->table, 0, 0);
        part->removed = 0;
    }
}

static void put(struct map *map, struct ck_ht_hash hash, struct ck_ht_entry *entry)
{
    struct map_part *part = part_of(map, hash);

    sweep(part);
    bool done = ck_ht_put_spmc(&part->table, hash, entry);
    ASSERT(done);
}

static void put_bytes(struct map *map, struct slice key, void *value)
{
    struct ck_ht_hash hash = hash_of(map, key);
    struct ck_ht_entry entry;

    ck_ht_entry_set(&entry, hash, key.data, (uint16_t)key.size, value);
    put(map, hash, &entry);
}

static void put_number(struct map *map, uint64_t key, void *value)
{
    struct ck_ht_hash hash = hash_of_number(map, key);
    struct ck_ht_entry entry;

    ck_ht_entry_set_direct(&entry, hash, (uintptr_t)key, (uintptr_t)value);
    put(map, hash, &entry);
}

/* Into parts, each of which has room for what it gets. */
static void split(struct map *map)
{
    struct map_part whole = map->whole;
    struct ck_ht_iterator iterator = {0};

    part_init(map, &map->whole, CAPACITY_AT_START);
    map->parts = memory_new(MAP_PARTS * sizeof *map->parts);
    for (unsigned i = 0; i < MAP_PARTS; i++)
        part_init(map, &map->parts[i], 4 * SPLIT_COUNT / MAP_PARTS);
    for (struct ck_ht_entry *entry; ck_ht_next(&whole.table, &iterator, &entry);) {
        if (map->numbers)
            put_number(map, ck_ht_entry_key_direct(entry), (void *)ck_ht_entry_value_direct(entry));
        else
            put_bytes(map, slice_of(ck_ht_entry_key(entry), ck_ht_entry_key_length(entry)),
                      ck_ht_entry_value(entry));
    }
    ck_ht_destroy(&whole.table);
}

void map_put(struct map *map, struct slice key, void *value)
{
    ASSERT(!map->numbers && key.size > 0 && key.size <= UINT16_MAX && value);
    if (map->count++ == SPLIT_COUNT && !map->parts)
        split(map);
    put_bytes(map, key, value);
}

void map_put_number(struct map *map, uint64_t key, void *value)
{
    ASSERT(map->numbers && key > 0 && key < UINT64_MAX && value);
    if (map->count++ == SPLIT_COUNT && !map->parts)
        split(map);
    put_number(map, key, value);
}

static bool take(struct map *map, struct ck_ht_hash hash, struct ck_ht_entry *entry)
{
    struct map_part *part = part_of(map, hash);

    if (!ck_ht_remove_spmc(&part->table, hash, entry))
        return false;
    part->removed++;
    map->count--;
    return true;
}

void *map_remove(struct map *map, struct slice key)
{
    struct ck_ht_entry entry;

    if (key.size == 0 || key.size > UINT16_MAX)
        return NULL;
    ck_ht_entry_key_set(&entry, key.data, (uint16_t)key.size);
    return take(map, hash_of(map, key), &entry) ? ck_ht_entry_value(&entry) : NULL;
}

void *map_remove_number(struct map *map, uint64_t key)
{
    struct ck_ht_entry entry;

    ck_ht_entry_key_set_direct(&entry, (uintptr_t)key);
    return take(map, hash_of_number(map, key), &entry) ? (void *)ck_ht_entry_value_direct(&entry)
                                                       : NULL;
}

void *map_next(const struct map *map, struct map_cursor *cursor)
{
    unsigned parts = map->parts ? MAP_PARTS : 1;
    struct ck_ht_entry *entry;

    for (; cursor->part < parts; cursor->part++) {
        struct map_part *part = map->parts ? &map->parts[cursor->part] : &writable(map)->whole;
        if (ck_ht_next(&part->table, &cursor->iterator, &entry))
            return map->numbers ? (void *)ck_ht_entry_value_direct(entry)
                                : ck_ht_entry_value(entry);
        cursor->iterator = (struct ck_ht_iterator){0};
    }
    return NULL;
}
