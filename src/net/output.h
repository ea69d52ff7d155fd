/*
 * What a session wants written: bytes in order, small ones copied into chunks, large ones kept as
 * borrowed memory with a reference. Pure memory; whoever owns the socket takes the bytes out with
 * output_slices() and output_consume().
 *
 * Nothing here fails: the session looks at output_pending() and stops producing at its limit
 * (OUTPUT_HIGH_WATER is the usual one), so that a slow socket never makes the broker buffer without
 * limit.
 */
#ifndef SLUICE_NET_OUTPUT_H
#define SLUICE_NET_OUTPUT_H

#include "base/buffer.h"

#include <sys/uio.h>

#define OUTPUT_CHUNK_SIZE 16384u
#define OUTPUT_HIGH_WATER (1024u * 1024u) /* stop taking deliveries */
#define OUTPUT_LOW_WATER  (256u * 1024u)  /* ask for them again */

/* Something whose memory the output borrows until it is written. */
struct output_owner {
    void (*release)(void *object);
    void *object;
};

/* One piece of what is to be written: either bytes copied into `bytes`, or borrowed ones (then
 * there is no room). */
struct output_chunk {
    struct output_chunk *next;
    uint8_t *data;
    size_t start, end, capacity; /* data[start..end) is pending */
    struct output_owner owner;
    uint8_t bytes[];
};

/* Empty chunks shared by the outputs of a worker, the last used first: a quiet output holds none,
 * and a steady flow does not allocate. */
struct output_cache {
    struct output_chunk *first;
    size_t count;
};

void output_cache_fini(struct output_cache *cache);

struct output {
    struct output_chunk *first, *last;
    size_t pending;             /* bytes not yet consumed */
    uint64_t total;             /* bytes ever appended */
    struct output_cache *cache; /* or NULL; set after output_init() */
};

void output_init(struct output *output);
void output_fini(struct output *output); /* releases what is still borrowed */

/* A new last chunk with room for a full OUTPUT_CHUNK_SIZE. */
void output_grow(struct output *output);

/* `size` contiguous bytes (at most OUTPUT_CHUNK_SIZE) to fill in at once; they count as appended.
 */
static inline uint8_t *output_take(struct output *output, size_t size)
{
    if (!output->last || output->last->capacity - output->last->end < size)
        output_grow(output);

    struct output_chunk *chunk = output->last;
    uint8_t *place = chunk->data + chunk->end;
    chunk->end += size;
    output->pending += size;
    output->total += size;
    return place;
}

/* Gives back the last `size` of the bytes just taken. */
static inline void output_untake(struct output *output, size_t size)
{
    output->last->end -= size;
    output->pending -= size;
    output->total -= size;
}

/* Copies. Any size. */
void output_append_large(struct output *output, struct slice bytes);

static inline void output_append(struct output *output, struct slice bytes)
{
    struct output_chunk *chunk = output->last;

    if (chunk && bytes.size > 0 && chunk->capacity - chunk->end >= bytes.size)
        memcpy(output_take(output, bytes.size), bytes.data, bytes.size);
    else
        output_append_large(output, bytes);
}

/* Borrows `bytes` until written, then calls owner.release(owner.object). */
void output_borrow(struct output *output, struct slice bytes, struct output_owner owner);

/* Up to `most` slices of what comes next; returns how many. */
int output_slices(const struct output *output, struct iovec *slices, int most);
void output_consume(struct output *output, size_t size);

static inline size_t output_pending(const struct output *output)
{
    return output->pending;
}

/* Walks the chunks: together they hold what is pending. For tests. */
void output_check(const struct output *output);

#endif
