#include "base/ring.h"

#include "base/memory.h"

#include <stdlib.h>

#define CAPACITY_AT_START 4u

void *ring_reserve(struct ring *ring, void *things, size_t size)
{
    if (ring->count < ring->capacity)
        return things;
    uint32_t capacity = ring->capacity ? 2 * ring->capacity : CAPACITY_AT_START;
    uint8_t *larger = memory_new(capacity * size);
    uint32_t tail = ring->capacity - ring->head; /* it is full: from the head to the end, */
    if (ring->capacity > 0) {
        memcpy(larger, (uint8_t *)things + ring->head * size, tail * size);
        memcpy(larger + tail * size, things, ring->head * size); /* and from the start on */
    }
    free(things);
    ring->head = 0;
    ring->capacity = capacity;
    return larger;
}
