/* The readers of one chunk and of every record in it: bytes as they are, then with a checksum that
 * fits, so that the records behind it are reached. */
#include "base/assert.h"
#include "base/checksum.h"
#include "log/log.h"
#include "log/scan.h"

#include <stdlib.h>

static void read_index(struct slice payload)
{
    struct reader reader = reader_of(payload);
    struct index_coder coder = {0};
    struct index_entry entry;
    struct index_mark mark;
    uint64_t place = 0;

    while (index_entry_decode(&coder, &reader, 5, &entry)) {
        ASSERT(entry.queue > 0 && entry.sequence > 0);
        ASSERT(position_block(entry.position) == 5 && entry.position >= place);
        ASSERT(entry.due_ms == 0 || entry.lane & LOG_LANE_DUE);
        place = entry.position;
    }
    reader = reader_of(payload);
    while (index_mark_decode(&reader, &mark))
        ASSERT(!reader.failed);
}

static void read_record(uint8_t type, struct slice payload)
{
    struct message_record message;
    struct range_record range;
    struct delivered_record delivered;
    struct postponed_record postponed;
    struct state_record state;
    struct record record = {type, payload};
    struct index_mark mark;
    struct slice rest;
    uint64_t number;

    if (message_record_decode(payload, &message) == 0) {
        struct reader targets = reader_of(message.targets);
        struct target target;
        for (uint64_t i = 0; i < message.targets_count; i++) {
            target_decode(&targets, &target);
            ASSERT(!targets.failed && target.queue > 0 && target.sequence > 0);
            ASSERT(target.due_ms == 0 || target.lane & LOG_LANE_DUE);
        }
        ASSERT(reader_left(&targets) == 0);
        ASSERT(message.flags & MESSAGE_ATTACHED || message.body_size <= message.content.size);
    }
    if (range_record_decode(payload, &range) == 0) {
        uint8_t again[RANGE_RECORD_MAX];
        struct range_record same;
        size_t size = range_record_encode_payload(&range, again);
        ASSERT(range_record_decode(slice_of(again, size), &same) == 0);
        ASSERT(same.first == range.first && same.last == range.last && same.first <= same.last);
    }
    if (delivered_record_decode(payload, &delivered) == 0)
        ASSERT(delivered.queue > 0);
    if (postponed_record_decode(payload, &postponed) == 0) {
        uint8_t again[RANGE_RECORD_MAX];
        struct postponed_record same;
        size_t size = postponed_record_encode(&postponed, again);
        ASSERT(postponed_record_decode(slice_of(again, size), &same) == 0);
        ASSERT(same.sequence == postponed.sequence && same.due_ms == postponed.due_ms);
    }
    if (state_record_decode(payload, &state) == 0)
        ASSERT(state.bytes.size < payload.size);
    if (number_record_decode(payload, &number, &rest) == 0)
        ASSERT(rest.size < payload.size);
    if (index_mark_of(&record, 7, &mark))
        ASSERT(mark.type == type);
    read_index(payload);
}

static void read_chunk(const struct chunk *chunk)
{
    uint8_t type;
    uint32_t offset;
    uint64_t size;

    for (uint32_t index = 0; index < chunk->header.addressable && index < 64; index++) {
        if (chunk_find_record(chunk, index, &type, &offset, &size) < 0)
            break;
        ASSERT(record_is_addressable(type) && offset <= chunk->payload.size);
    }
    for (size_t at = chunk->header.first; at < chunk->payload.size;) {
        struct slice left = slice_of(chunk->payload.data + at, chunk->payload.size - at);
        ssize_t head = record_head_decode(left, &type, &size);
        if (head < 0)
            break;
        at += (size_t)head;
        size_t here = chunk->payload.size - at;
        read_record(type, slice_of(chunk->payload.data + at, size < here ? (size_t)size : here));
        if (size > here)
            break;
        at += (size_t)size;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct chunk chunk;

    if (chunk_decode(slice_of(data, size), 1, 2, 3, &chunk) == 0)
        read_chunk(&chunk);
    if (size < 4 || size > CHUNK_PAYLOAD_MAX)
        return 0;
    struct chunk_header header = {.payload_size = (uint32_t)size - 3,
                                  .first = data[0] < size - 3 ? data[0] : 0,
                                  .addressable = data[1],
                                  .flags = data[2] & CHUNK_ATTACHMENT};
    uint8_t *bytes = malloc(CHUNK_HEADER_SIZE + size);
    ASSERT(bytes);
    memcpy(bytes + CHUNK_HEADER_SIZE, data + 3, size - 3);
    uint32_t checksum =
        checksum_add(chunk_checksum_begin(1, 2, 3, &header), slice_of(data + 3, size - 3));
    chunk_header_encode(&header, checksum, bytes);
    struct slice whole = slice_of(bytes, CHUNK_HEADER_SIZE + size - 3);
    ASSERT(chunk_decode(whole, 1, 2, 3, &chunk) == 0);
    read_chunk(&chunk);
    ASSERT(chunk_decode(whole, 1, 2, 4, &chunk) == E_CORRUPT); /* not its place */
    ASSERT(chunk_decode(slice_of(whole.data, whole.size - 1), 1, 2, 3, &chunk) == E_MORE);
    free(bytes);
    return 0;
}
