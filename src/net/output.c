#include "net/output.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

void output_init(struct output *output)
{
    *output = (struct output){.pending = 0};
}

static bool is_borrowed(const struct output_chunk *chunk)
{
    return chunk->data != chunk->bytes;
}

#define CACHE_MAX 64 /* 1 MiB */

static void drop(struct output *output, struct output_chunk *chunk)
{
    struct output_cache *cache = output->cache;
    struct output_owner owner = chunk->owner;

    if (is_borrowed(chunk)) {
        free(chunk);
        if (owner.release)
            owner.release(owner.object);
    } else if (cache && cache->count < CACHE_MAX) {
        chunk->next = cache->first;
        cache->first = chunk;
        cache->count++;
    } else {
        free(chunk);
    }
}

void output_fini(struct output *output)
{
    struct output_cache *cache = output->cache;

    while (output->first) {
        struct output_chunk *chunk = output->first;
        output->first = chunk->next;
        drop(output, chunk);
    }
    output_init(output);
    output->cache = cache;
}

void output_cache_fini(struct output_cache *cache)
{
    while (cache->first) {
        struct output_chunk *chunk = cache->first;
        cache->first = chunk->next;
        free(chunk);
    }
    cache->count = 0;
}

static void append_chunk(struct output *output, struct output_chunk *chunk)
{
    chunk->next = NULL;
    if (output->last)
        output->last->next = chunk;
    else
        output->first = chunk;
    output->last = chunk;
}

void output_grow(struct output *output)
{
    struct output_cache *cache = output->cache;
    struct output_chunk *chunk = cache ? cache->first : NULL;

    if (chunk) {
        cache->first = chunk->next;
        cache->count--;
    } else {
        chunk = malloc(sizeof *chunk + OUTPUT_CHUNK_SIZE);
        ASSERT(chunk);
        chunk->data = chunk->bytes;
        chunk->capacity = OUTPUT_CHUNK_SIZE;
    }
    chunk->start = chunk->end = 0;
    append_chunk(output, chunk);
}

void output_append_large(struct output *output, struct slice bytes)
{
    while (bytes.size > 0) {
        struct output_chunk *chunk = output->last;
        size_t room = chunk ? chunk->capacity - chunk->end : 0;
        if (room == 0) {
            output_grow(output);
            room = OUTPUT_CHUNK_SIZE;
        }
        size_t part = bytes.size < room ? bytes.size : room;
        memcpy(output_take(output, part), bytes.data, part);
        bytes.data += part;
        bytes.size -= part;
    }
}

void output_borrow(struct output *output, struct slice bytes, struct output_owner owner)
{
    if (bytes.size == 0) {
        if (owner.release)
            owner.release(owner.object);
        return;
    }
    struct output_chunk *chunk = malloc(sizeof *chunk);
    ASSERT(chunk);
    chunk->data = (uint8_t *)(uintptr_t)bytes.data; /* only read */
    chunk->start = 0;
    chunk->end = chunk->capacity = bytes.size;
    chunk->owner = owner;
    append_chunk(output, chunk);
    output->pending += bytes.size;
    output->total += bytes.size;
}

int output_slices(const struct output *output, struct iovec *slices, int most)
{
    int count = 0;

    for (struct output_chunk *chunk = output->first; chunk && count < most; chunk = chunk->next) {
        if (chunk->end > chunk->start)
            slices[count++] = (struct iovec){chunk->data + chunk->start, chunk->end - chunk->start};
    }
    return count;
}

/* The first chunk is done with. Without a cache the last one stays, to be filled again. */
static void retire_first(struct output *output)
{
    struct output_chunk *chunk = output->first;

    if (chunk == output->last && !is_borrowed(chunk) && !output->cache) {
        chunk->start = chunk->end = 0;
        return;
    }
    output->first = chunk->next;
    if (!output->first)
        output->last = NULL;
    drop(output, chunk);
}

void output_consume(struct output *output, size_t size)
{
    ASSERT(size <= output->pending);
    output->pending -= size;
    while (output->first) {
        struct output_chunk *chunk = output->first;
        size_t part = chunk->end - chunk->start;
        if (part > size) {
            chunk->start += size;
            return;
        }
        size -= part;
        bool is_last = chunk == output->last;
        retire_first(output);
        if (is_last)
            return;
    }
}

void output_check(const struct output *output)
{
    size_t pending = 0;
    const struct output_chunk *last = NULL;

    for (const struct output_chunk *chunk = output->first; chunk; chunk = chunk->next) {
        ASSERT(chunk->start <= chunk->end && chunk->end <= chunk->capacity);
        ASSERT(!is_borrowed(chunk) || chunk->start < chunk->end);
        pending += chunk->end - chunk->start;
        last = chunk;
    }
    ASSERT(pending == output->pending && last == output->last);
}
