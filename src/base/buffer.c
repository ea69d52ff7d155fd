#include "base/buffer.h"

#include "base/assert.h"

#include <stdlib.h>

struct buffer *buffer_new(size_t capacity)
{
    ASSERT(capacity <= UINT32_MAX);
    struct buffer *buffer = malloc(sizeof *buffer + capacity);
    if (!buffer)
        return NULL;
    atomic_init(&buffer->references, 1);
    buffer->size = 0;
    buffer->capacity = (uint32_t)capacity;
    return buffer;
}

void buffer_drop(struct buffer *buffer)
{
    uint32_t references = atomic_load_explicit(&buffer->references, memory_order_acquire);
    ASSERT(references > 0);
    /* who finds one finds its own: nobody else can add or drop one, so nothing need be locked */
    if (references > 1 &&
        atomic_fetch_sub_explicit(&buffer->references, 1, memory_order_acq_rel) > 1)
        return;
    free(buffer);
}
