/*
 * Reference counted memory that is written once and then only read: bodies, chunks read from disk.
 *
 * The count is atomic, since a body may be referred to by several workers at once. While there is
 * only one reference, its holder alone may write.
 */
#ifndef SLUICE_BASE_BUFFER_H
#define SLUICE_BASE_BUFFER_H

#include "base/bytes.h"

#include <stdatomic.h>

struct buffer {
    _Atomic uint32_t references;
    uint32_t size; /* bytes of data in use */
    uint32_t capacity;
    uint8_t data[];
};

/* Returned with one reference and size 0; NULL when the system refuses. Not zeroed. */
struct buffer *buffer_new(size_t capacity) MUST_CHECK;

static inline struct buffer *buffer_ref(struct buffer *buffer)
{
    atomic_fetch_add_explicit(&buffer->references, 1, memory_order_relaxed);
    return buffer;
}

void buffer_drop(struct buffer *buffer); /* buffer_unref() of one that is there */

/* The last one frees it. NULL is allowed. */
static inline void buffer_unref(struct buffer *buffer)
{
    if (buffer)
        buffer_drop(buffer);
}

#endif
