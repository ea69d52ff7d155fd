/*
 * Reads the blocks of one segment in order, from bytes that somebody else brings: recovery from the
 * store, fuzz targets from memory. Pure but for the memory of a record that spans chunks, and of a
 * chunk that was encrypted.
 *
 * The owner asks scan_wants() where to read, reads at least SCAN_WINDOW_MIN bytes from there (fewer
 * only when the file ends), and gives them to scan_feed(), until there is nothing wanted any more.
 *
 *   HEADER --a header that fits--> CHUNK (each in turn) --last--> HEADER
 *   HEADER --anything else--> SEARCH --a header that fits, at a later sector--> CHUNK
 */
#ifndef SLUICE_LOG_SCAN_H
#define SLUICE_LOG_SCAN_H

#include "log/sealing.h"

#define SCAN_WINDOW_MIN (2u * CHUNK_SIZE_MAX)

struct scan_visitor {
    /* A block begins. */
    void (*block)(void *context, const struct block_header *header, uint64_t offset);
    /* A record of it, whole. `order` is its position if it is addressable, and otherwise the
     * position of the next addressable record of the chunk: what stands before has a smaller or
     * equal one, what stands behind a greater. */
    void (*record)(void *context, const struct record *record, uint64_t order);
    /* A chunk of it does not match its checksum, or a record in it breaks the format. */
    void (*bad)(void *context, const struct block_header *header, uint64_t chunk, uint64_t offset);
    /* From `offset` on there is not the block that should be; the next one found is `next`, at
     * `found`; or there is none to the end (0, the end). */
    void (*gap)(void *context, uint64_t offset, uint64_t next, uint64_t found);
    void (*block_end)(void *context, const struct block_header *header, uint64_t offset);
};

struct scan {
    const struct scan_visitor *visitor;
    void *context;
    uint64_t segment, epoch;
    uint64_t offset;   /* of the next unit */
    uint64_t end;      /* of what is to be read */
    uint64_t expected; /* number of the next block; 0: any */
    enum { SCAN_HEADER, SCAN_CHUNK, SCAN_SEARCH, SCAN_DONE } state;

    struct block_header header;
    uint64_t block_offset;
    uint64_t chunk;
    uint64_t gap_offset;

    /* of an encrypted segment */
    struct cipher *cipher; /* NULL: it is not */
    uint8_t key[CIPHER_KEY_SIZE];
    uint8_t *opened; /* the chunk at hand */

    /* a record that goes on in the next chunk */
    uint8_t *partial;
    size_t partial_size, partial_total, partial_capacity; /* total 0: there is none */
    uint64_t partial_order;
    uint8_t partial_type;
};

void scan_init(struct scan *scan, const struct scan_visitor *visitor, void *context,
               uint64_t segment, uint64_t epoch, uint64_t offset, uint64_t end);

/* For a footer: one block with the flag, at the offset. */
void scan_init_footer(struct scan *scan, const struct scan_visitor *visitor, void *context,
                      uint64_t segment, uint64_t epoch, uint64_t offset, uint64_t end);

/* What it reads is encrypted with this key. The cipher is borrowed. */
void scan_decrypt(struct scan *scan, struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE]);
void scan_fini(struct scan *scan);

bool scan_wants(const struct scan *scan, uint64_t *offset);

/* The bytes at the wanted offset. They must bring it on: fewer than a whole unit means that the
 * file ends there. */
void scan_feed(struct scan *scan, struct slice bytes);

/* The record at this place of a chunk, found by walking; for readers. *offset and *size: where its
 * payload begins in the chunk's payload, and how long it is as a whole (it may go on in the next
 * chunks). E_CORRUPT: there is none. */
int chunk_find_record(const struct chunk *chunk, uint32_t index, uint8_t *type, uint32_t *offset,
                      uint64_t *size) MUST_CHECK;

#endif
