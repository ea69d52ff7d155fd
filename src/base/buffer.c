#include "base/buffer.h"

#include "base/assert.h"

#include <stdlib.h>

struct buffer *buffer_new(size_t capacity)
{
    ASSERT(capacity <= UINT32_MAX);
    struct buffer *buffer = malloc(sizeof *buffer + capacity);
    if (!buffer)
        return NULL;
    buffer->references = 1;
    buffer->size = 0;
    buffer->capacity = (uint32_t)capacity;
    return buffer;
}

void buffer_unref(struct buffer *buffer)
{
    if (!buffer)
        return;
    ASSERT(buffer->references > 0);
    if (--buffer->references == 0)
        free(buffer);
}
