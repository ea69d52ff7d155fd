#include "log/block.h"

#include "base/assert.h"
#include "base/checksum.h"
#include "base/memory.h"

#include <stdlib.h>

/* What an idle log keeps; the rest goes back to the system. */
#define SLABS_KEPT     8
#define BLOCKS_KEPT    4
#define ELEMENTS_KEPT  16384 /* of an array of a kept block */
#define CHUNK_NO_FIRST UINT32_MAX

static const uint8_t zeros[SECTOR_SIZE];

/* ---- the pool ---- */

void block_pool_init(struct block_pool *pool)
{
    *pool = (struct block_pool){0};
    list_init(&pool->blocks);
}

static void block_release_memory(struct block *block)
{
    free(block->extents);
    free(block->chunks);
    free(block->attachments);
    free(block->messages);
    free(block->marks);
    free(block->index);
    free(block->slices);
    free(block->attachment_headers);
    free(block);
}

void block_pool_fini(struct block_pool *pool)
{
    struct list *link;

    while ((link = list_take_first(&pool->blocks)))
        block_release_memory(CONTAINER_OF(link, struct block, link));
    while (pool->slabs) {
        struct slab *slab = pool->slabs;
        pool->slabs = slab->next;
        free(slab);
    }
}

static struct slab *slab_take(struct block_pool *pool)
{
    struct slab *slab = pool->slabs;

    if (slab) {
        pool->slabs = slab->next;
        pool->slabs_free--;
        return slab;
    }
    slab = malloc(sizeof *slab);
    ASSERT(slab);
    return slab;
}

static void slab_give(struct block_pool *pool, struct slab *slab)
{
    if (pool->slabs_free >= SLABS_KEPT) {
        free(slab);
        return;
    }
    slab->next = pool->slabs;
    pool->slabs = slab;
    pool->slabs_free++;
}

struct block *block_new(struct block_pool *pool, uint64_t epoch, uint64_t number, uint8_t flags)
{
    struct list *link = list_take_first(&pool->blocks);
    struct block *block;

    if (link) {
        pool->blocks_free--;
        block = CONTAINER_OF(link, struct block, link);
    } else {
        block = memory_new(sizeof *block);
        list_init(&block->link);
    }
    block->pool = pool;
    block->header = (struct block_header){.epoch = epoch, .block = number, .flags = flags};
    block->is_closed = block->is_encrypted = false;
    block->slabs = NULL;
    block->at = block->end = block->copied = NULL;
    block->extents_count = block->chunks_count = block->attachments_count = 0;
    block->messages_count = block->marks_size = block->index_size = block->slices_count = 0;
    block->chunk_bytes = CHUNK_PAYLOAD_MAX; /* the first record opens the first chunk */
    block->coder = (struct index_coder){0};
    block->live = block->catalog_last = block->released_block = 0;
    return block;
}

static bool block_is_modest(const struct block *block)
{
    return block->extents_capacity <= ELEMENTS_KEPT && block->messages_capacity <= ELEMENTS_KEPT &&
           block->slices_capacity <= ELEMENTS_KEPT && block->index_capacity <= 16 * ELEMENTS_KEPT &&
           block->marks_capacity <= 16 * ELEMENTS_KEPT &&
           block->attachments_capacity <= ELEMENTS_KEPT;
}

void block_free(struct block *block)
{
    struct block_pool *pool = block->pool;

    ASSERT(!list_linked(&block->link));
    for (size_t i = 0; i < block->messages_count; i++)
        message_unref(block->messages[i].message);
    for (size_t i = 0; i < block->attachments_count; i++)
        message_unref(block->attachments[i]);
    while (block->slabs) {
        struct slab *slab = block->slabs;
        block->slabs = slab->next;
        slab_give(pool, slab);
    }
    free(block->attachment_headers);
    block->attachment_headers = NULL;
    if (pool->blocks_free >= BLOCKS_KEPT || !block_is_modest(block)) {
        block_release_memory(block);
        return;
    }
    list_prepend(&pool->blocks, &block->link);
    pool->blocks_free++;
}

/* ---- the stream of bytes, cut into chunks ---- */

static void extent_add(struct block *block, const uint8_t *data, size_t size)
{
    VECTOR_RESERVE(block->extents, block->extents_capacity, block->extents_count + 1);
    block->extents[block->extents_count++] =
        (struct block_extent){data, (uint32_t)size, (uint32_t)block->chunks_count - 1};
}

/* What was copied since the last extent becomes one. */
static void extent_end(struct block *block)
{
    if (block->at > block->copied)
        extent_add(block, block->copied, (size_t)(block->at - block->copied));
    block->copied = block->at;
}

static void chunk_begin(struct block *block)
{
    ASSERT(block->chunks_count < BLOCK_CHUNKS_MAX || block->header.flags & BLOCK_FOOTER);
    extent_end(block);
    VECTOR_RESERVE(block->chunks, block->chunks_capacity, block->chunks_count + 1);
    struct block_chunk *chunk = &block->chunks[block->chunks_count++];
    chunk->first = CHUNK_NO_FIRST;
    chunk->addressable = 0;
    block->chunk_bytes = 0;
}

static void slab_begin(struct block *block)
{
    extent_end(block);
    struct slab *slab = slab_take(block->pool);
    slab->next = block->slabs;
    block->slabs = slab;
    block->at = block->copied = slab->bytes;
    block->end = slab->bytes + SLAB_BYTES;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void put(struct block *block, const uint8_t *data, size_t size)
{
    while (size > 0) {
        if (block->chunk_bytes == CHUNK_PAYLOAD_MAX)
            chunk_begin(block);
        if (block->at == block->end)
            slab_begin(block);
        size_t part = smaller(size, CHUNK_PAYLOAD_MAX - block->chunk_bytes);
        part = smaller(part, (size_t)(block->end - block->at));
        memcpy(block->at, data, part);
        block->at += part;
        block->chunk_bytes += (uint32_t)part;
        block->header.record_bytes += (uint32_t)part;
        data += part;
        size -= part;
    }
}

static void put_borrowed(struct block *block, const uint8_t *data, size_t size)
{
    while (size > 0) {
        if (block->chunk_bytes == CHUNK_PAYLOAD_MAX)
            chunk_begin(block);
        size_t part = smaller(size, CHUNK_PAYLOAD_MAX - block->chunk_bytes);
        extent_end(block);
        extent_add(block, data, part);
        block->chunk_bytes += (uint32_t)part;
        block->header.record_bytes += (uint32_t)part;
        data += part;
        size -= part;
    }
}

/* A record begins here: in the newest chunk, or in the next where its head would not fit. */
static uint64_t record_begin(struct block *block, uint8_t type)
{
    uint32_t left = CHUNK_PAYLOAD_MAX - block->chunk_bytes;

    if (left < RECORD_HEAD_MAX) {
        put(block, zeros, left);
        chunk_begin(block);
    }
    struct block_chunk *chunk = &block->chunks[block->chunks_count - 1];
    if (chunk->first == CHUNK_NO_FIRST)
        chunk->first = block->chunk_bytes;
    if (!record_is_addressable(type))
        return 0;
    ASSERT(chunk->addressable < CHUNK_PAYLOAD_MAX / RECORD_ADDRESSABLE_MIN);
    return position_of(block->header.block, (uint32_t)block->chunks_count - 1,
                       chunk->addressable++);
}

uint64_t block_append(struct block *block, uint8_t type, struct slice head, struct slice body,
                      bool borrow)
{
    uint8_t bytes[1 + VARINT_SIZE_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);

    ASSERT(!block->is_closed && type != RECORD_PADDING);
    uint64_t position = record_begin(block, type);
    write_u8(&w, type);
    write_varint(&w, head.size + body.size);
    size_t size = writer_size(&w) + head.size + body.size;
    put(block, bytes, writer_size(&w));
    put(block, head.data, head.size);
    if (borrow)
        put_borrowed(block, body.data, body.size);
    else
        put(block, body.data, body.size);
    if (position && size < RECORD_ADDRESSABLE_MIN)
        put(block, zeros, RECORD_ADDRESSABLE_MIN - size);
    return position;
}

uint64_t block_next_order(const struct block *block)
{
    if (CHUNK_PAYLOAD_MAX - block->chunk_bytes < RECORD_HEAD_MAX)
        return position_of(block->header.block, 0, 0) +
               ((uint64_t)block->chunks_count << POSITION_INDEX_BITS);
    return position_of(block->header.block, (uint32_t)block->chunks_count - 1, 0) +
           block->chunks[block->chunks_count - 1].addressable;
}

size_t block_bytes_of(uint64_t payload_size)
{
    uint64_t size = record_head_size(payload_size) + payload_size;
    if (size < RECORD_ADDRESSABLE_MIN)
        size = RECORD_ADDRESSABLE_MIN;
    return size + (chunks_for(size) + 1) * RECORD_HEAD_MAX;
}

/* ---- what the block remembers of its records ---- */

void block_keep(struct block *block, uint64_t position, struct message *message)
{
    VECTOR_RESERVE(block->messages, block->messages_capacity, block->messages_count + 1);
    ASSERT(block->messages_count == 0 ||
           block->messages[block->messages_count - 1].position < position);
    block->messages[block->messages_count++] =
        (struct block_message){position, message_ref(message)};
}

uint64_t block_attach(struct block *block, struct message *message)
{
    uint64_t offset = block->header.attachment_bytes;

    VECTOR_RESERVE(block->attachments, block->attachments_capacity, block->attachments_count + 1);
    block->attachments[block->attachments_count++] = message_ref(message);
    block->header.attachment_bytes += message->body_size;
    return offset;
}

struct message *block_find(const struct block *block, uint64_t position)
{
    size_t low = 0, high = block->messages_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (block->messages[middle].position < position)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == block->messages_count || block->messages[low].position != position)
        return NULL;
    return block->messages[low].message;
}

void block_add_index(struct block *block, const struct index_entry *entry)
{
    VECTOR_RESERVE(block->index, block->index_capacity, block->index_size + INDEX_ENTRY_MAX);
    block->index_size += index_entry_encode(&block->coder, entry, block->index + block->index_size);
}

void block_add_mark(struct block *block, const struct index_mark *mark)
{
    VECTOR_RESERVE(block->marks, block->marks_capacity, block->marks_size + INDEX_MARK_MAX);
    block->marks_size += index_mark_encode(mark, block->marks + block->marks_size);
}

/* ---- closing: of what is to be encrypted the checksums come with that ---- */

static void slice_add(struct block *block, const void *data, size_t size)
{
    VECTOR_RESERVE(block->slices, block->slices_capacity, block->slices_count + 1);
    block->slices[block->slices_count++] =
        (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
}

static void close_records(struct block *block)
{
    size_t extent = 0;

    for (size_t i = 0; i < block->chunks_count; i++) {
        struct block_chunk *chunk = &block->chunks[i];
        uint32_t size = block_chunk_payload(&block->header, i);
        struct chunk_header header = {
            .payload_size = size,
            .first = chunk->first == CHUNK_NO_FIRST ? size : chunk->first,
            .addressable = chunk->addressable,
            .flags = block->is_encrypted ? CHUNK_ENCRYPTED : 0,
        };
        uint32_t checksum =
            chunk_checksum_begin(block->header.epoch, block->header.block, i, &header);
        slice_add(block, chunk->header, CHUNK_HEADER_SIZE);
        for (; extent < block->extents_count && block->extents[extent].chunk == i; extent++) {
            const struct block_extent *e = &block->extents[extent];
            if (!block->is_encrypted)
                checksum = checksum_add(checksum, slice_of(e->data, e->size));
            slice_add(block, e->data, e->size);
        }
        chunk_header_encode(&header, checksum, chunk->header);
    }
    ASSERT(extent == block->extents_count);
}

static void close_attachments(struct block *block)
{
    uint64_t records = chunks_for(block->header.record_bytes);
    uint64_t count = chunks_for(block->header.attachment_bytes);
    size_t attachment = 0;
    uint64_t at = 0; /* in its body */

    if (count == 0)
        return;
    block->attachment_headers = memory_new(count * CHUNK_HEADER_SIZE);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *bytes = block->attachment_headers + i * CHUNK_HEADER_SIZE;
        uint32_t left = block_chunk_payload(&block->header, records + i);
        struct chunk_header header = {.payload_size = left,
                                      .first = left,
                                      .flags = CHUNK_ATTACHMENT |
                                               (block->is_encrypted ? CHUNK_ENCRYPTED : 0)};
        uint32_t checksum =
            chunk_checksum_begin(block->header.epoch, block->header.block, records + i, &header);
        slice_add(block, bytes, CHUNK_HEADER_SIZE);
        while (left > 0) {
            struct slice body = message_body(block->attachments[attachment]);
            size_t part = smaller(left, body.size - at);
            if (!block->is_encrypted)
                checksum = checksum_add(checksum, slice_of(body.data + at, part));
            slice_add(block, body.data + at, part);
            left -= (uint32_t)part;
            at += part;
            if (at == body.size) {
                attachment++;
                at = 0;
            }
        }
        chunk_header_encode(&header, checksum, bytes);
    }
    ASSERT(attachment == block->attachments_count);
}

void block_close(struct block *block, bool is_encrypted)
{
    ASSERT(!block->is_closed);
    block->is_encrypted = is_encrypted;
    if (block->chunks_count)
        extent_end(block);
    block->is_closed = true;
    slice_add(block, block->header_bytes, BLOCK_HEADER_SIZE);
    close_records(block);
    close_attachments(block);
    uint64_t size = block_chunk_offset(&block->header, block_chunks(&block->header));
    if (sector_round(size) > size)
        slice_add(block, zeros, (size_t)(sector_round(size) - size));
}

void block_seal(struct block *block, uint64_t segment, uint64_t durable, uint64_t wall_ms)
{
    ASSERT(block->is_closed);
    ASSERT(block->header.flags & BLOCK_FOOTER || durable < block->header.block);
    block->header.segment = segment;
    block->header.durable = durable;
    block->header.written_ms = wall_ms;
    block_header_encode(&block->header, block->header_bytes);
}

void block_check(const struct block *block)
{
    uint64_t bytes = 0;

    ASSERT(block->chunks_count == chunks_for(block->header.record_bytes));
    for (size_t i = 0; i < block->extents_count; i++)
        bytes += block->extents[i].size;
    if (block->at > block->copied)
        bytes += (uint64_t)(block->at - block->copied);
    ASSERT(bytes == block->header.record_bytes);
    for (size_t i = 1; i < block->messages_count; i++)
        ASSERT(block->messages[i - 1].position < block->messages[i].position);
}
