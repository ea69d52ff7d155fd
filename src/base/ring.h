/*
 * A ring of equal things that grows. It keeps the places; the memory is its user's, who passes it
 * to ring_reserve() (so that the things have their type) and frees it:
 *
 *     things = ring_reserve(&ring, things, sizeof *things);
 *     things[ring_add(&ring)] = thing;
 */
#ifndef SLUICE_BASE_RING_H
#define SLUICE_BASE_RING_H

#include "base/assert.h"
#include "base/bytes.h"

struct ring {
    uint32_t head, count;
    uint32_t capacity; /* 0, or a power of 2 */
};

/* Where the index-th of those that there are stands. */
static inline uint32_t ring_at(const struct ring *ring, uint32_t index)
{
    return (ring->head + index) & (ring->capacity - 1);
}

/* Room for one more at least: the memory, or larger memory with the same in it; never NULL. */
void *ring_reserve(struct ring *ring, void *things, size_t size) MUST_CHECK;

/* Where the one goes that ring_reserve() has made room for. */
static inline uint32_t ring_add(struct ring *ring)
{
    ASSERT(ring->count < ring->capacity);
    return ring_at(ring, ring->count++);
}

static inline void ring_drop_first(struct ring *ring)
{
    ASSERT(ring->count > 0);
    ring->head = ring_at(ring, 1);
    ring->count--;
}

#endif
