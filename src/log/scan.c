#include "log/scan.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

void scan_init(struct scan *scan, const struct scan_visitor *visitor, void *context,
               uint64_t segment, uint64_t epoch, uint64_t offset, uint64_t end)
{
    *scan = (struct scan){
        .visitor = visitor,
        .context = context,
        .segment = segment,
        .epoch = epoch,
        .offset = offset,
        .end = end,
        .state = offset < end ? SCAN_HEADER : SCAN_DONE,
    };
}

void scan_init_footer(struct scan *scan, const struct scan_visitor *visitor, void *context,
                      uint64_t segment, uint64_t epoch, uint64_t offset, uint64_t end)
{
    scan_init(scan, visitor, context, segment, epoch, offset, end);
    scan->header.flags = BLOCK_FOOTER;
}

void scan_decrypt(struct scan *scan, struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE])
{
    ASSERT(!scan->cipher);
    scan->cipher = cipher;
    memcpy(scan->key, key, CIPHER_KEY_SIZE);
    scan->opened = memory_new(CHUNK_PAYLOAD_MAX);
}

void scan_fini(struct scan *scan)
{
    free(scan->partial);
    free(scan->opened);
    scan->partial = scan->opened = NULL;
    scan->cipher = NULL;
    cipher_wipe(scan->key, sizeof scan->key);
}

bool scan_wants(const struct scan *scan, uint64_t *offset)
{
    *offset = scan->offset;
    return scan->state != SCAN_DONE;
}

/* ---- records ---- */

static void partial_begin(struct scan *scan, uint8_t type, uint64_t order, struct slice bytes,
                          uint64_t size)
{
    if (size > scan->partial_capacity) {
        scan->partial = memory_resize(scan->partial, size, 1);
        scan->partial_capacity = size;
    }
    scan->partial_type = type;
    scan->partial_order = order;
    scan->partial_total = size;
    scan->partial_size = bytes.size;
    if (bytes.size)
        memcpy(scan->partial, bytes.data, bytes.size);
}

/* The chunk begins with the rest of a record of the one before. Returns whether that fits. */
static bool partial_add(struct scan *scan, const struct chunk *chunk)
{
    size_t left = scan->partial_total - scan->partial_size;
    size_t part = left < chunk->payload.size ? left : chunk->payload.size;

    if (chunk->header.first < part)
        return false;
    memcpy(scan->partial + scan->partial_size, chunk->payload.data, part);
    scan->partial_size += part;
    if (scan->partial_size < scan->partial_total)
        return true;
    struct record record = {scan->partial_type, slice_of(scan->partial, scan->partial_total)};
    scan->partial_total = 0;
    scan->visitor->record(scan->context, &record, scan->partial_order);
    return true;
}

/* Bytes of records that the block's later chunks have: more than that no record may claim. */
static uint64_t bytes_behind(const struct scan *scan)
{
    return scan->header.record_bytes - (scan->chunk + 1) * CHUNK_PAYLOAD_MAX;
}

static bool records_of(struct scan *scan, const struct chunk *chunk)
{
    uint32_t at = chunk->header.first;
    uint32_t index = 0;
    bool last = scan->chunk + 1 == chunks_for(scan->header.record_bytes);

    if (scan->partial_total && !partial_add(scan, chunk))
        return false;
    while (at < chunk->payload.size) {
        struct record record;
        uint64_t size;
        struct slice left = slice_of(chunk->payload.data + at, chunk->payload.size - at);
        ssize_t head = record_head_decode(left, &record.type, &size);
        if (head < 0)
            return false;
        at += (uint32_t)head;
        if (record.type == RECORD_PADDING)
            continue;
        uint64_t order =
            position_of(scan->header.block, 0, 0) + (scan->chunk << POSITION_INDEX_BITS) + index;
        if (record_is_addressable(record.type))
            index++;
        uint64_t here = chunk->payload.size - at;
        record.payload = slice_of(chunk->payload.data + at, (size_t)(size < here ? size : here));
        if (size > here) {
            if (last || size - here > bytes_behind(scan))
                return false;
            partial_begin(scan, record.type, order, record.payload, size);
            break;
        }
        at += (uint32_t)size;
        scan->visitor->record(scan->context, &record, order);
    }
    return index == chunk->header.addressable;
}

int chunk_find_record(const struct chunk *chunk, uint32_t index, uint8_t *type, uint32_t *offset,
                      uint64_t *size)
{
    uint32_t at = chunk->header.first;

    if (index >= chunk->header.addressable)
        return E_CORRUPT;
    while (at < chunk->payload.size) {
        struct slice left = slice_of(chunk->payload.data + at, chunk->payload.size - at);
        ssize_t head = record_head_decode(left, type, size);
        if (head < 0)
            return E_CORRUPT;
        at += (uint32_t)head;
        if (*type == RECORD_PADDING)
            continue;
        if (record_is_addressable(*type) && index-- == 0) {
            *offset = at;
            return 0;
        }
        if (*size > chunk->payload.size - at)
            return E_CORRUPT;
        at += (uint32_t)*size;
    }
    return E_CORRUPT;
}

/* ---- units ---- */

/* Blocks that were skipped took a sector each at least. */
static bool number_fits(const struct scan *scan, uint64_t number)
{
    if (scan->expected == 0 || scan->header.flags & BLOCK_FOOTER)
        return true;
    uint64_t skipped =
        scan->state == SCAN_SEARCH ? (scan->offset - scan->gap_offset) / SECTOR_SIZE : 0;
    return number >= scan->expected && number - scan->expected <= skipped;
}

static bool header_fits(const struct scan *scan, struct slice bytes, struct block_header *header)
{
    return block_header_decode(bytes, header) == 0 && header->segment == scan->segment &&
           header->epoch == scan->epoch &&
           (header->flags & BLOCK_FOOTER) == (scan->header.flags & BLOCK_FOOTER) &&
           number_fits(scan, header->block) &&
           block_size(header) <= sector_round(scan->end) - scan->offset;
}

static void begin_block(struct scan *scan, const struct block_header *header)
{
    scan->header = *header;
    scan->block_offset = scan->offset;
    scan->chunk = 0;
    scan->partial_total = 0;
    scan->state = SCAN_CHUNK;
    scan->visitor->block(scan->context, header, scan->offset);
    scan->offset += BLOCK_HEADER_SIZE;
}

static void end_block(struct scan *scan)
{
    scan->visitor->block_end(scan->context, &scan->header, scan->block_offset);
    scan->offset = scan->block_offset + block_size(&scan->header);
    scan->expected = scan->header.block + 1;
    bool is_over = scan->offset >= scan->end || scan->header.flags & BLOCK_FOOTER;
    scan->state = is_over ? SCAN_DONE : SCAN_HEADER;
}

static size_t feed_header(struct scan *scan, struct slice bytes)
{
    struct block_header header;

    if (header_fits(scan, bytes, &header) &&
        (scan->expected == 0 || header.block == scan->expected)) {
        begin_block(scan, &header);
        return BLOCK_HEADER_SIZE;
    }
    scan->gap_offset = scan->offset;
    scan->state = SCAN_SEARCH;
    return 0;
}

/* Sector by sector; a block found right where one was expected has a later number. */
static size_t feed_search(struct scan *scan, struct slice bytes)
{
    uint64_t begin = scan->offset;
    struct block_header header;

    while (scan->offset < scan->end && bytes.size - (size_t)(scan->offset - begin) >= SECTOR_SIZE) {
        size_t at = (size_t)(scan->offset - begin);
        if (header_fits(scan, slice_of(bytes.data + at, bytes.size - at), &header)) {
            scan->visitor->gap(scan->context, scan->gap_offset, header.block, scan->offset);
            begin_block(scan, &header);
            return at + BLOCK_HEADER_SIZE;
        }
        scan->offset += SECTOR_SIZE;
    }
    return (size_t)(scan->offset - begin);
}

static int decode(struct scan *scan, struct slice bytes, struct chunk *chunk)
{
    const struct block_header *header = &scan->header;

    if (!scan->cipher)
        return chunk_decode(bytes, header->epoch, header->block, scan->chunk, chunk);
    return chunk_open(scan->cipher, scan->key, bytes, header->segment, header->epoch, header->block,
                      scan->chunk, scan->opened, chunk);
}

static bool chunk_is_sound(struct scan *scan, struct slice bytes, struct chunk *chunk)
{
    uint64_t records = chunks_for(scan->header.record_bytes);

    return decode(scan, bytes, chunk) == 0 &&
           chunk->header.payload_size == block_chunk_payload(&scan->header, scan->chunk) &&
           !(chunk->header.flags & CHUNK_ATTACHMENT) == (scan->chunk < records);
}

static void feed_chunk(struct scan *scan, struct slice bytes)
{
    struct chunk chunk;
    bool is_sound = chunk_is_sound(scan, bytes, &chunk);

    if (is_sound && scan->chunk < chunks_for(scan->header.record_bytes))
        is_sound = records_of(scan, &chunk);
    if (!is_sound) {
        scan->partial_total = 0;
        scan->visitor->bad(scan->context, &scan->header, scan->chunk, scan->block_offset);
    }
    scan->chunk++;
}

/* The file ends: what was begun is not whole. */
static void feed_end(struct scan *scan)
{
    if (scan->state == SCAN_CHUNK) {
        scan->visitor->bad(scan->context, &scan->header, scan->chunk, scan->block_offset);
        scan->visitor->block_end(scan->context, &scan->header, scan->block_offset);
    } else if (scan->state == SCAN_HEADER || scan->state == SCAN_SEARCH) {
        uint64_t offset = scan->state == SCAN_SEARCH ? scan->gap_offset : scan->offset;
        if (offset < scan->end)
            scan->visitor->gap(scan->context, offset, 0, scan->end);
    }
    scan->state = SCAN_DONE;
}

void scan_feed(struct scan *scan, struct slice bytes)
{
    bool progress = false;

    if (bytes.size > scan->end - scan->offset)
        bytes.size = (size_t)(scan->end - scan->offset);
    while (scan->state != SCAN_DONE) {
        size_t used;
        if (scan->state == SCAN_CHUNK && scan->chunk == block_chunks(&scan->header)) {
            uint64_t skip = scan->block_offset + block_size(&scan->header) - scan->offset;
            end_block(scan);
            used = skip < bytes.size ? (size_t)skip : bytes.size;
        } else if (scan->state == SCAN_CHUNK) {
            size_t need = CHUNK_HEADER_SIZE + block_chunk_payload(&scan->header, scan->chunk);
            if (bytes.size < need)
                break;
            feed_chunk(scan, slice_of(bytes.data, need));
            scan->offset += need;
            used = need;
        } else if (scan->state == SCAN_HEADER) {
            if (bytes.size < BLOCK_HEADER_SIZE)
                break;
            used = feed_header(scan, bytes);
        } else {
            used = feed_search(scan, bytes);
            if (used == 0)
                break;
        }
        progress = true;
        bytes.data += used;
        bytes.size -= used;
    }
    if (!progress && scan->state != SCAN_DONE)
        feed_end(scan);
}
