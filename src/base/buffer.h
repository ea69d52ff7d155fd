/*
 * Reference counted memory that is written once and then only read: bodies, chunks read from disk.
 *
 * Counts are not atomic: a buffer belongs to one worker (or is handed whole to a helper and back).
 */
#ifndef SLUICE_BASE_BUFFER_H
#define SLUICE_BASE_BUFFER_H

#include "base/bytes.h"

struct buffer {
    uint32_t references;
    uint32_t size; /* bytes of data in use */
    uint32_t capacity;
    uint8_t data[];
};

/* Returned with one reference and size 0; NULL when the system refuses. Not zeroed. */
struct buffer *buffer_new(size_t capacity) MUST_CHECK;

static inline struct buffer *buffer_ref(struct buffer *buffer)
{
    buffer->references++;
    return buffer;
}

/* NULL is allowed. */
void buffer_unref(struct buffer *buffer);

#endif
