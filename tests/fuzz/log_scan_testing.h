/* For fuzz targets that scan: makes checksums fit, and compares what two ways of reading find. */
#ifndef SLUICE_TESTS_LOG_SCAN_TESTING_H
#define SLUICE_TESTS_LOG_SCAN_TESTING_H

#include "base/assert.h"
#include "base/checksum.h"
#include "log/scan.h"

#include <stdlib.h>

/* What a scan found, as one number, and some things that must hold of it. */
struct found {
    uint64_t hash;
    uint64_t block, order, blocks;
    bool in_block;
};

static inline void found_add(struct found *found, uint64_t what)
{
    found->hash = (found->hash ^ what) * 0x100000001b3ull;
}

static inline void found_block(void *context, const struct block_header *header, uint64_t offset)
{
    struct found *found = context;

    ASSERT(!found->in_block);
    ASSERT(found->blocks == 0 || header->block > found->block);
    found->in_block = true;
    found->block = header->block;
    found->order = 0;
    found->blocks++;
    found_add(found, header->block);
    found_add(found, offset);
}

static inline void found_record(void *context, const struct record *record, uint64_t order)
{
    struct found *found = context;

    ASSERT(found->in_block && record->type != RECORD_PADDING && order >= found->order);
    found->order = order;
    found_add(found, record->type);
    found_add(found, order);
    found_add(found, checksum_of(record->payload));
}

static inline void found_bad(void *context, const struct block_header *header, uint64_t chunk,
                             uint64_t offset)
{
    struct found *found = context;

    ASSERT(found->in_block && chunk < block_chunks(header));
    found_add(found, chunk + offset + 1000);
}

static inline void found_gap(void *context, uint64_t offset, uint64_t next, uint64_t at)
{
    struct found *found = context;

    ASSERT(!found->in_block && at >= offset);
    found_add(found, offset ^ next << 20 ^ at << 40);
}

static inline void found_block_end(void *context, const struct block_header *header,
                                   uint64_t offset)
{
    struct found *found = context;

    ASSERT(found->in_block && header->block == found->block);
    found->in_block = false;
    found_add(found, offset);
}

static const struct scan_visitor found_visitor = {found_block, found_record, found_bad, found_gap,
                                                  found_block_end};

static const uint8_t testing_key[CIPHER_KEY_SIZE] = {1, 2, 3};

/* All of the bytes at once, or in windows; with a cipher as those of an encrypted segment. */
static inline uint64_t scan_all_with(struct cipher *cipher, struct slice bytes, uint64_t begin,
                                     size_t window, bool footer)
{
    struct found found = {.hash = 0xcbf29ce484222325ull};
    struct scan scan;
    uint64_t offset;
    size_t turns = 0;

    if (footer)
        scan_init_footer(&scan, &found_visitor, &found, 1, 1, begin, bytes.size);
    else
        scan_init(&scan, &found_visitor, &found, 1, 1, begin, bytes.size);
    if (cipher)
        scan_decrypt(&scan, cipher, testing_key);
    while (scan_wants(&scan, &offset)) {
        size_t left = offset < bytes.size ? bytes.size - (size_t)offset : 0;
        struct slice piece =
            slice_of(bytes.data + (left ? offset : 0), left < window ? left : window);
        scan_feed(&scan, piece);
        ASSERT(turns++ <= bytes.size); /* it gets on */
    }
    scan_fini(&scan);
    ASSERT(!found.in_block);
    return found.hash;
}

static inline uint64_t scan_all(struct slice bytes, uint64_t begin, size_t window, bool footer)
{
    return scan_all_with(NULL, bytes, begin, window, footer);
}

static inline void mend_chunks(uint8_t *bytes, size_t size, const struct block_header *header)
{
    for (uint64_t i = 0; i < block_chunks(header); i++) {
        uint64_t at = block_chunk_offset(header, i);
        uint32_t payload = block_chunk_payload(header, i);
        if (at + CHUNK_HEADER_SIZE + payload > size)
            return;
        uint8_t *chunk = bytes + at;
        struct chunk_header mended = {
            .payload_size = payload,
            .first = load_le32(chunk + 8) % (payload + 1),
            .addressable = load_le16(chunk + 12),
            .flags = i < chunks_for(header->record_bytes) ? 0 : CHUNK_ATTACHMENT,
        };
        uint32_t checksum = chunk_checksum_begin(header->epoch, header->block, i, &mended);
        checksum = checksum_add(checksum, slice_of(chunk + CHUNK_HEADER_SIZE, payload));
        chunk_header_encode(&mended, checksum, chunk);
    }
}

#define SEALED_CHUNKS_MAX 64u

/* What is a sound block becomes an encrypted one with the same in it. False: it is none, or is cut
 * off; then it stays. */
static inline bool seal_block(struct cipher *cipher, uint8_t *bytes, size_t size)
{
    uint8_t heads[SEALED_CHUNKS_MAX][CHUNK_HEADER_SIZE];
    struct iovec slices[1 + 2 * SEALED_CHUNKS_MAX] = {{bytes, BLOCK_HEADER_SIZE}};
    struct sealing sealing = {0};
    struct block_header header;
    size_t count = 1, at = 0;

    if (block_header_decode(slice_of(bytes, size), &header) < 0 ||
        block_chunks(&header) > SEALED_CHUNKS_MAX)
        return false;
    for (uint64_t i = 0; i < block_chunks(&header); i++) {
        uint64_t offset = block_chunk_offset(&header, i);
        struct slice left = slice_of(bytes + offset, offset < size ? size - (size_t)offset : 0);
        struct chunk chunk;
        if (left.size == 0 || chunk_decode(left, header.epoch, header.block, i, &chunk) < 0 ||
            chunk.payload.size != block_chunk_payload(&header, i))
            return false;
        chunk.header.flags |= CHUNK_ENCRYPTED;
        chunk_header_encode(&chunk.header, 0, heads[i]);
        slices[count++] = (struct iovec){heads[i], CHUNK_HEADER_SIZE};
        slices[count++] = (struct iovec){(void *)(uintptr_t)chunk.payload.data, chunk.payload.size};
    }
    uint8_t *sealed = malloc(size);
    ASSERT(sealed);
    sealing_begin(&sealing, cipher, testing_key, &header, slices, count);
    while (!sealing_is_over(&sealing)) {
        sealing_next(&sealing);
        memcpy(sealed + at, sealing.bytes, sealing.size);
        at += sealing.size;
    }
    sealing_fini(&sealing);
    memcpy(bytes, sealed, at);
    free(sealed);
    return true;
}

/* Where something like a block begins, its header and chunks are made to fit. */
static inline void mend_block(uint8_t *bytes, size_t size)
{
    struct block_header header;

    if (size < BLOCK_HEADER_SIZE || memcmp(bytes, "SLBK", 4) != 0)
        return;
    store_le64(bytes + 8, 1);
    store_le64(bytes + 16, 1);
    store_le32(bytes + 4, checksum_of(slice_of(bytes + 8, BLOCK_HEADER_SIZE - 8)));
    if (block_header_decode(slice_of(bytes, size), &header) == 0 && block_size(&header) < 1u << 24)
        mend_chunks(bytes, size, &header);
}

#endif
