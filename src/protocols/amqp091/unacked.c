#include "protocols/amqp091/unacked.h"

#include "base/assert.h"

#include <stdlib.h>

struct unacked_chunk {
    uint32_t live;
    struct unacked_entry entries[UNACKED_CHUNK_TAGS];
};

_Static_assert(sizeof(struct unacked_entry) == 24, "told in the header");

#define RING_MIN 8u

void unacked_init(struct unacked *unacked, struct account *account)
{
    *unacked = (struct unacked){.account = account};
}

static void free_chunk(struct unacked *unacked, struct unacked_chunk *chunk)
{
    if (!chunk)
        return;
    account_release(unacked->account, sizeof *chunk);
    free(chunk);
}

void unacked_fini(struct unacked *unacked)
{
    ASSERT(unacked->count == 0);
    free_chunk(unacked, unacked->spare);
    if (unacked->capacity)
        account_release(unacked->account, unacked->capacity * sizeof *unacked->ring);
    free(unacked->ring);
    *unacked = (struct unacked){.account = unacked->account};
}

static struct unacked_chunk **place_of(const struct unacked *unacked, uint64_t number)
{
    return &unacked->ring[number & (unacked->capacity - 1)];
}

static struct unacked_chunk *chunk_of(const struct unacked *unacked, uint64_t number)
{
    if (number < unacked->first || number >= unacked->end)
        return NULL;
    return *place_of(unacked, number);
}

/* Makes the ring hold the numbers [first, end). */
static int grow_ring(struct unacked *unacked, uint64_t first, uint64_t end)
{
    size_t capacity = unacked->capacity ? unacked->capacity : RING_MIN;
    while (capacity < end - first)
        capacity *= 2;
    if (capacity == unacked->capacity)
        return 0;
    if (account_charge(unacked->account, capacity * sizeof *unacked->ring))
        return E_MEMORY;
    struct unacked_chunk **ring = calloc(capacity, sizeof *ring);
    if (!ring) {
        account_release(unacked->account, capacity * sizeof *ring);
        return E_MEMORY;
    }
    for (uint64_t number = unacked->first; number < unacked->end; number++)
        ring[number & (capacity - 1)] = *place_of(unacked, number);
    if (unacked->capacity)
        account_release(unacked->account, unacked->capacity * sizeof *ring);
    free(unacked->ring);
    unacked->ring = ring;
    unacked->capacity = capacity;
    return 0;
}

/* The chunk of that number, made when it is not there. */
static struct unacked_chunk *make_chunk(struct unacked *unacked, uint64_t number)
{
    struct unacked_chunk *chunk = chunk_of(unacked, number);
    if (chunk)
        return chunk;

    bool none = unacked->first == unacked->end;
    uint64_t first = none || number < unacked->first ? number : unacked->first;
    uint64_t end = none || number >= unacked->end ? number + 1 : unacked->end;
    if (grow_ring(unacked, first, end))
        return NULL;
    chunk = unacked->spare;
    unacked->spare = NULL;
    if (!chunk) {
        if (account_charge(unacked->account, sizeof *chunk))
            return NULL;
        chunk = calloc(1, sizeof *chunk);
        if (!chunk) {
            account_release(unacked->account, sizeof *chunk);
            return NULL;
        }
    }
    unacked->first = first;
    unacked->end = end;
    *place_of(unacked, number) = chunk;
    return chunk;
}

int unacked_add(struct unacked *unacked, uint64_t tag, struct lease lease,
                struct subscription *subscription)
{
    ASSERT(tag > 0 && lease.queue);
    struct unacked_chunk *chunk = make_chunk(unacked, tag / UNACKED_CHUNK_TAGS);
    if (!chunk)
        return E_MEMORY;
    struct unacked_entry *entry = &chunk->entries[tag % UNACKED_CHUNK_TAGS];
    ASSERT(!entry->lease.queue);
    *entry = (struct unacked_entry){lease, subscription};
    chunk->live++;
    unacked->count++;
    return 0;
}

struct unacked_entry *unacked_find(const struct unacked *unacked, uint64_t tag)
{
    struct unacked_chunk *chunk = chunk_of(unacked, tag / UNACKED_CHUNK_TAGS);
    if (!chunk)
        return NULL;
    struct unacked_entry *entry = &chunk->entries[tag % UNACKED_CHUNK_TAGS];
    return entry->lease.queue ? entry : NULL;
}

void unacked_remove(struct unacked *unacked, uint64_t tag)
{
    uint64_t number = tag / UNACKED_CHUNK_TAGS;
    struct unacked_chunk *chunk = chunk_of(unacked, number);
    ASSERT(chunk && chunk->entries[tag % UNACKED_CHUNK_TAGS].lease.queue);
    chunk->entries[tag % UNACKED_CHUNK_TAGS] = (struct unacked_entry){0};
    unacked->count--;
    if (--chunk->live > 0)
        return;

    /* all entries are zero again: it can be used as it is */
    *place_of(unacked, number) = NULL;
    if (unacked->spare)
        free_chunk(unacked, chunk);
    else
        unacked->spare = chunk;
    while (unacked->first < unacked->end && !*place_of(unacked, unacked->first))
        unacked->first++;
}

uint64_t unacked_next(const struct unacked *unacked, uint64_t tag)
{
    uint64_t number = tag / UNACKED_CHUNK_TAGS;
    size_t i = tag % UNACKED_CHUNK_TAGS;

    if (number < unacked->first) {
        number = unacked->first;
        i = 0;
    }
    for (; number < unacked->end; number++, i = 0) {
        struct unacked_chunk *chunk = *place_of(unacked, number);
        for (; chunk && i < UNACKED_CHUNK_TAGS; i++)
            if (chunk->entries[i].lease.queue)
                return number * UNACKED_CHUNK_TAGS + i;
    }
    return 0;
}

void unacked_check(const struct unacked *unacked)
{
    uint64_t count = 0;

    ASSERT(unacked->end - unacked->first <= unacked->capacity);
    for (uint64_t number = unacked->first; number < unacked->end; number++) {
        struct unacked_chunk *chunk = *place_of(unacked, number);
        uint32_t live = 0;
        for (size_t i = 0; chunk && i < UNACKED_CHUNK_TAGS; i++)
            live += chunk->entries[i].lease.queue != NULL;
        ASSERT(!chunk || (live > 0 && live == chunk->live));
        count += live;
    }
    ASSERT(count == unacked->count);
}
