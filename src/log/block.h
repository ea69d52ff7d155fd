/*
 * A block while it is in memory: filled by appending records, closed, written, and kept until it is
 * durable, so that it can be written again elsewhere and be read meanwhile.
 *
 * Small records are copied into slabs; large bodies are borrowed from their messages, of which the
 * block holds a reference. Blocks and slabs come from a pool of the log and go back to it, so that
 * nothing is allocated per record.
 *
 *   OPEN --block_close()--> CLOSED --block_seal(segment)--> written, any number of times
 *
 * Of a block for an encrypted segment, chunks are encrypted as they are written (sealing.h): with
 * the key of wherever it goes, from the same slices each time.
 */
#ifndef SLUICE_LOG_BLOCK_H
#define SLUICE_LOG_BLOCK_H

#include "base/list.h"
#include "log/format.h"
#include "message/message.h"

#include <sys/uio.h>

#define SLAB_BYTES 65536u

struct slab {
    struct slab *next;
    uint8_t bytes[SLAB_BYTES];
};

struct block_pool {
    struct slab *slabs;
    size_t slabs_free;
    struct list blocks;
    size_t blocks_free;
};

struct block_extent {
    const uint8_t *data;
    uint32_t size;
    uint32_t chunk;
};

struct block_chunk {
    uint32_t first; /* UINT32_MAX: no record starts here yet */
    uint16_t addressable;
    uint8_t header[CHUNK_HEADER_SIZE];
};

struct block_message {
    uint64_t position;
    struct message *message;
};

struct block {
    struct list link;
    struct block_pool *pool;
    struct block_header header;
    bool is_closed;
    bool is_encrypted; /* its chunks are, as they are written */

    struct slab *slabs; /* newest first */
    uint8_t *at, *end;  /* in the newest slab */
    uint8_t *copied;    /* start of what was copied since the last extent */
    struct block_extent *extents;
    struct block_chunk *chunks;
    struct message **attachments;
    struct block_message *messages; /* by position; all of them, for reading */
    uint8_t *marks;                 /* entries of an INDEX_MARKS record */
    uint8_t *index;                 /* entries of an INDEX_MESSAGES record */
    struct iovec *slices;
    uint8_t *attachment_headers; /* CHUNK_HEADER_SIZE each */
    size_t extents_count, extents_capacity, chunks_count, chunks_capacity;
    size_t attachments_count, attachments_capacity, messages_count, messages_capacity;
    size_t marks_size, marks_capacity, index_size, index_capacity;
    size_t slices_count, slices_capacity;
    uint32_t chunk_bytes; /* used of the newest chunk */
    struct index_coder coder;
    uint8_t header_bytes[BLOCK_HEADER_SIZE];

    uint64_t live;           /* targets in it that were not released */
    uint64_t catalog_last;   /* position of the last record of the catalog; 0: none */
    uint64_t released_block; /* the block that was open when the last one was released */
};

void block_pool_init(struct block_pool *pool);
void block_pool_fini(struct block_pool *pool);

struct block *block_new(struct block_pool *pool, uint64_t epoch, uint64_t number, uint8_t flags);
void block_free(struct block *block);

/* Appends one record: its head is copied, its body is copied, or borrowed until the block is freed.
 * Returns the position of addressable records, else 0. */
uint64_t block_append(struct block *block, uint8_t type, struct slice head, struct slice body,
                      bool borrow);

/* The position that an addressable record would get now, or one not above it: what stands before is
 * smaller. */
uint64_t block_next_order(const struct block *block);

/* Bytes that the record can take at most, with what chunks add. */
size_t block_bytes_of(uint64_t payload_size);

/* Remembers the message (a reference is taken) as being at the position. */
void block_keep(struct block *block, uint64_t position, struct message *message);

/* The body goes behind the records; a reference is taken. Returns its offset there. */
uint64_t block_attach(struct block *block, struct message *message);

/* The message kept for this position; borrowed; NULL. */
struct message *block_find(const struct block *block, uint64_t position);

void block_add_index(struct block *block, const struct index_entry *entry);
void block_add_mark(struct block *block, const struct index_mark *mark);

static inline bool block_is_empty(const struct block *block)
{
    return block->header.record_bytes == 0;
}

/* Size on disk, were it closed now. */
static inline uint64_t block_bytes(const struct block *block)
{
    return block_size(&block->header);
}

/* Ends appending: checksums, and the slices but for the block's header. */
void block_close(struct block *block, bool is_encrypted);

/* Fills in the header for the segment; `slices` is then what is to be written, or, of an encrypted
 * one, what sealing_begin() takes. */
void block_seal(struct block *block, uint64_t segment, uint64_t durable, uint64_t wall_ms);

void block_check(const struct block *block);

/* Room for at least `count` elements, doubling. */
#define VECTOR_RESERVE(data, capacity, count)                                                      \
    do {                                                                                           \
        if ((count) > (capacity)) {                                                                \
            size_t wanted_ = (capacity) ? (capacity)*2 : 16;                                       \
            (capacity) = wanted_ < (count) ? (count) : wanted_;                                    \
            (data) = memory_resize((data), (capacity), sizeof *(data));                            \
        }                                                                                          \
    } while (0)

#endif
