/* Direct exchanges: a bucket for each key. And fanout exchanges: one set for all. */
#include "route/route_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

struct direct_bucket {
    struct binding_set set;
    uint16_t key_size;
    uint8_t key[];
};

static void direct_init(struct route_exchange *exchange)
{
    map_init_bytes(&exchange->index.direct.buckets, exchange->table->seed);
}

static void direct_fini(struct route_exchange *exchange)
{
    ASSERT(map_count(&exchange->index.direct.buckets) == 0 && !exchange->index.direct.empty);
    map_fini(&exchange->index.direct.buckets);
}

static struct direct_bucket *bucket_of(const struct route_exchange *exchange, struct slice key)
{
    const struct direct_index *index = &exchange->index.direct;
    return key.size ? map_get(&index->buckets, key) : index->empty;
}

static struct direct_bucket *bucket_new(struct route_exchange *exchange, struct slice key)
{
    struct direct_index *index = &exchange->index.direct;
    struct direct_bucket *bucket = memory_new(sizeof *bucket + key.size);

    bucket->key_size = (uint16_t)key.size;
    if (key.size) {
        memcpy(bucket->key, key.data, key.size);
        map_put(&index->buckets, slice_of(bucket->key, key.size), bucket);
    } else {
        index->empty = bucket;
    }
    return bucket;
}

static void direct_add(struct route_exchange *exchange, struct binding *binding)
{
    struct direct_bucket *bucket = bucket_of(exchange, binding_key(binding));

    if (!bucket)
        bucket = bucket_new(exchange, binding_key(binding));
    binding->place = bucket;
    binding_set_add(&bucket->set, binding);
}

static void direct_remove(struct route_exchange *exchange, struct binding *binding)
{
    struct direct_index *index = &exchange->index.direct;
    struct direct_bucket *bucket = binding->place;

    binding_set_remove(&bucket->set, binding);
    if (bucket->set.count > 0)
        return;
    if (bucket->key_size)
        map_remove(&index->buckets, slice_of(bucket->key, bucket->key_size));
    else
        index->empty = NULL;
    binding_set_fini(&bucket->set);
    free(bucket);
}

static void direct_match(struct route_exchange *exchange, struct slice key, struct match *match)
{
    const struct direct_bucket *bucket = bucket_of(exchange, key);

    if (bucket)
        match_set(match, &bucket->set);
}

static size_t bucket_check(const struct route_exchange *exchange,
                           const struct direct_bucket *bucket)
{
    ASSERT(bucket->set.count > 0);
    binding_set_check(&bucket->set, exchange);
    for (uint32_t i = 0; i < bucket->set.count; i++) {
        const struct binding *binding = bucket->set.entries[i].binding;
        ASSERT(binding->place == bucket);
        ASSERT(slice_equal(binding_key(binding), slice_of(bucket->key, bucket->key_size)));
    }
    return bucket->set.count;
}

static size_t direct_check(const struct route_exchange *exchange)
{
    const struct direct_index *index = &exchange->index.direct;
    struct map_cursor cursor = {0};
    const struct direct_bucket *bucket;
    size_t count = index->empty ? bucket_check(exchange, index->empty) : 0;

    while ((bucket = map_next(&index->buckets, &cursor)))
        count += bucket_check(exchange, bucket);
    return count;
}

const struct exchange_functions direct_functions = {
    .name = "direct",
    .by_key = true,
    .init = direct_init,
    .fini = direct_fini,
    .add = direct_add,
    .remove = direct_remove,
    .match = direct_match,
    .check = direct_check,
};

/* ---- fanout ---- */

static void fanout_init(struct route_exchange *exchange)
{
    exchange->index.fanout = (struct binding_set){0};
}

static void fanout_fini(struct route_exchange *exchange)
{
    ASSERT(exchange->index.fanout.count == 0);
    binding_set_fini(&exchange->index.fanout);
}

static void fanout_add(struct route_exchange *exchange, struct binding *binding)
{
    binding_set_add(&exchange->index.fanout, binding);
}

static void fanout_remove(struct route_exchange *exchange, struct binding *binding)
{
    binding_set_remove(&exchange->index.fanout, binding);
}

static void fanout_match(struct route_exchange *exchange, struct slice key, struct match *match)
{
    (void)key;
    match_set(match, &exchange->index.fanout);
}

static size_t fanout_check(const struct route_exchange *exchange)
{
    binding_set_check(&exchange->index.fanout, exchange);
    return exchange->index.fanout.count;
}

const struct exchange_functions fanout_functions = {
    .name = "fanout",
    .init = fanout_init,
    .fini = fanout_fini,
    .add = fanout_add,
    .remove = fanout_remove,
    .match = fanout_match,
    .check = fanout_check,
};
