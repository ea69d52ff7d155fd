#include "log/format.h"

#include "base/checksum.h"
#include "base/memory.h"
#include "log/block.h"
#include "log/log.h"
#include "log/scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* The bytes below are those of docs/log-format.md, written by hand: data of this version must be
 * readable for ever. */

static void positions_pack(void **state)
{
    uint64_t p = position_of(5, 6, 7);

    (void)state;
    assert_int_equal(p, 5ull << 20 | 6 << 12 | 7);
    assert_int_equal(position_block(p), 5);
    assert_int_equal(position_chunk(p), 6);
    assert_int_equal(position_index(p), 7);
    p = position_of(POSITION_BLOCK_MAX, 255, 4095);
    assert_int_equal(p, UINT64_MAX);
}

static void metadata_has_its_bytes(void **state)
{
    static const uint8_t expected[] = {'S', 'L', 'U', 'I', 'C', 'E', 'L', 'G', 1, 0, 0, 0};
    struct metadata_segment segments[2] = {{1, 2, 3, 4, 5, 6, 0, {0}},
                                           {7, 8, 9, 10, 11, 12, 0, {0}}};
    struct metadata metadata = {.epoch = 21,
                                .replay_block = 22,
                                .durable_block = 23,
                                .segment_next = 24,
                                .segments_count = 2,
                                .clean = true,
                                .damaged = true};
    uint8_t bytes[METADATA_HEAD_SIZE + 2 * METADATA_ENTRY_SIZE];
    struct metadata_segment segment;
    struct metadata back;
    struct failure failure;

    (void)state;
    metadata_encode(&metadata, segments, bytes, sizeof bytes);
    assert_memory_equal(bytes, expected, sizeof expected);
    assert_int_equal(load_le64(bytes + 16), 21);
    assert_int_equal(load_le32(bytes + 52), 3);
    assert_int_equal(load_le64(bytes + 96 + 48 + 32), 11);
    assert_int_equal(metadata_decode(slice_of(bytes, sizeof bytes), &back, &failure), 0);
    assert_int_equal(back.replay_block, 22);
    assert_true(back.clean);
    assert_true(back.damaged);
    metadata_segment_decode(&back, 1, &segment);
    assert_int_equal(segment.id, 7);
    assert_int_equal(segment.flags, 12);
    for (size_t i = 0; i < sizeof bytes; i++) { /* every byte is checked */
        bytes[i] ^= 0x10;
        int result = metadata_decode(slice_of(bytes, sizeof bytes), &back, &failure);
        assert_int_equal(result, i >= 8 && i < 12 ? E_VERSION : E_CORRUPT);
        bytes[i] ^= 0x10;
    }
    assert_int_equal(metadata_decode(slice_of(bytes, 95), &back, &failure), E_CORRUPT);
}

/* With a key anywhere all entries are longer, and the version says so. */
static void metadata_has_keys(void **state)
{
    struct metadata_segment segments[2] = {{.id = 1, .flags = 2}, {.id = 3, .master_key = 77}};
    struct metadata metadata = {.epoch = 21, .segments_count = 2};
    uint8_t bytes[METADATA_HEAD_SIZE + 2 * METADATA_KEYS_SIZE];
    struct metadata_segment segment;
    struct metadata back;
    struct failure failure;

    (void)state;
    memset(segments[1].wrapped_key, 0xab, WRAPPED_KEY_SIZE);
    assert_int_equal(metadata_size(segments, 1), METADATA_HEAD_SIZE + METADATA_ENTRY_SIZE);
    assert_int_equal(metadata_size(segments, 2), sizeof bytes);
    metadata_encode(&metadata, segments, bytes, sizeof bytes);
    assert_int_equal(load_le32(bytes + 8), 2);
    assert_int_equal(load_le32(bytes + 96 + 88 + 44), 77);
    assert_int_equal(bytes[96 + 88 + 48], 0xab);
    assert_int_equal(bytes[96 + 88 + 87], 0xab);
    assert_int_equal(metadata_decode(slice_of(bytes, sizeof bytes), &back, &failure), 0);
    assert_true(back.has_keys);
    metadata_segment_decode(&back, 0, &segment);
    assert_int_equal(segment.flags, 2);
    assert_int_equal(segment.master_key, 0);
    metadata_segment_decode(&back, 1, &segment);
    assert_int_equal(segment.id, 3);
    assert_int_equal(segment.master_key, 77);
    assert_memory_equal(segment.wrapped_key, segments[1].wrapped_key, WRAPPED_KEY_SIZE);
    for (size_t i = 16; i < sizeof bytes; i++) {
        bytes[i] ^= 0x10;
        assert_int_equal(metadata_decode(slice_of(bytes, sizeof bytes), &back, &failure),
                         E_CORRUPT);
        bytes[i] ^= 0x10;
    }
}

static void headers_have_their_bytes(void **state)
{
    struct segment_header header = {1, 2, 3, true}, header_back;
    struct trailer trailer = {1, 2, 3, 4, 5, 6}, trailer_back;
    struct block_header block = {1, 2, 3, 2, 5, 6, 7, 0}, block_back;
    uint8_t bytes[SEGMENT_HEADER_SIZE];
    struct failure failure;

    (void)state;
    segment_header_encode(&header, bytes);
    assert_memory_equal(bytes, "SLUICESG\1\0\0\0", 12);
    assert_int_equal(segment_header_decode(slice_of(bytes, sizeof bytes), &header_back, &failure),
                     0);
    assert_int_equal(header_back.created_ms, 3);
    assert_true(header_back.is_encrypted);
    bytes[8] = 9;
    assert_int_equal(segment_header_decode(slice_of(bytes, sizeof bytes), &header_back, &failure),
                     E_VERSION);
    trailer_encode(&trailer, bytes);
    assert_memory_equal(bytes, "SLUICETR", 8);
    assert_int_equal(load_le64(bytes + 32), 3);
    assert_int_equal(trailer_decode(slice_of(bytes, TRAILER_SIZE), &trailer_back), 0);
    assert_int_equal(trailer_back.last_block, 5);
    assert_int_equal(trailer_back.salt, 6);
    for (size_t i = 16; i < TRAILER_SIZE; i++) {
        bytes[i] ^= 1;
        assert_int_equal(trailer_decode(slice_of(bytes, TRAILER_SIZE), &trailer_back), E_CORRUPT);
        bytes[i] ^= 1;
    }
    block_header_encode(&block, bytes);
    assert_memory_equal(bytes, "SLBK", 4);
    assert_int_equal(load_le64(bytes + 24), 3);
    assert_int_equal(load_le32(bytes + 48), 7);
    assert_int_equal(block_header_decode(slice_of(bytes, BLOCK_HEADER_SIZE), &block_back), 0);
    assert_int_equal(block_back.durable, 2);
    for (size_t i = 0; i < BLOCK_HEADER_SIZE; i++) {
        bytes[i] ^= 1;
        assert_int_equal(block_header_decode(slice_of(bytes, BLOCK_HEADER_SIZE), &block_back),
                         E_CORRUPT);
        bytes[i] ^= 1;
    }
}

static void chunks_have_their_places(void **state)
{
    struct block_header header = {.record_bytes = 2 * 65536 + 10, .attachment_bytes = 65537};

    (void)state;
    assert_int_equal(block_chunks(&header), 5);
    assert_int_equal(block_chunk_offset(&header, 0), 64);
    assert_int_equal(block_chunk_offset(&header, 2), 64 + 2 * 65568);
    assert_int_equal(block_chunk_payload(&header, 2), 10);
    assert_int_equal(block_chunk_offset(&header, 3), 64 + 2 * 65568 + 42);
    assert_int_equal(block_chunk_payload(&header, 3), 65536);
    assert_int_equal(block_chunk_payload(&header, 4), 1);
    assert_int_equal(block_size(&header) % SECTOR_SIZE, 0);
    header.record_bytes = 0;
    header.attachment_bytes = 0;
    assert_int_equal(block_size(&header), SECTOR_SIZE); /* a mark */
}

static void a_chunk_is_bound_to_its_place(void **state)
{
    struct chunk_header header = {.payload_size = 5, .first = 0};
    uint8_t bytes[CHUNK_HEADER_SIZE + 5];
    struct chunk chunk;

    (void)state;
    memcpy(bytes + CHUNK_HEADER_SIZE, "\3\2ab\0", 5);
    uint32_t checksum = checksum_add(chunk_checksum_begin(1, 2, 3, &header),
                                     slice_of(bytes + CHUNK_HEADER_SIZE, 5));
    chunk_header_encode(&header, checksum, bytes);
    struct slice whole = slice_of(bytes, sizeof bytes);
    assert_int_equal(chunk_decode(whole, 1, 2, 3, &chunk), 0);
    assert_int_equal(chunk.payload.size, 5);
    assert_int_equal(chunk_decode(whole, 2, 2, 3, &chunk), E_CORRUPT);
    assert_int_equal(chunk_decode(whole, 1, 3, 3, &chunk), E_CORRUPT);
    assert_int_equal(chunk_decode(whole, 1, 2, 4, &chunk), E_CORRUPT);
    assert_int_equal(chunk_decode(slice_of(bytes, 36), 1, 2, 3, &chunk), E_MORE);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(chunk_decode(whole, 1, 2, 3, &chunk) < 0);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void records_come_back(void **state)
{
    static const uint8_t message[] = {0, 3, 2, 7, 1, 0, 0x80, 1, 2, 5, 'H', 'a', 'b', 'c'};
    struct range_record range = {7, 10, 12, 3}, range_back;
    struct message_record back;
    struct target target;
    uint8_t bytes[RANGE_RECORD_MAX];

    (void)state;
    assert_int_equal(range_record_encode_payload(&range, bytes), 4);
    assert_memory_equal(bytes, "\7\12\2\3", 4);
    assert_int_equal(range_record_decode(slice_of(bytes, 4), &range_back), 0);
    assert_int_equal(range_back.last, 12);
    assert_int_equal(range_record_decode(slice_of(bytes, 3), &range_back), E_CORRUPT);
    assert_int_equal(range_record_decode(slice_of("\7\0\2\3", 4), &range_back), E_CORRUPT);
    range = (struct range_record){UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT32_MAX};
    size_t size = range_record_encode_payload(&range, bytes);
    assert_int_equal(range_record_decode(slice_of(bytes, size), &range_back), 0);
    assert_int_equal(range_back.last, UINT64_MAX);

    assert_int_equal(message_record_decode(slice_of(message, sizeof message), &back), 0);
    assert_int_equal(back.body_size, 3);
    assert_int_equal(back.targets_count, 2);
    assert_true(slice_is(back.content, "Habc"));
    struct reader targets = reader_of(back.targets);
    target_decode(&targets, &target);
    assert_int_equal(target.queue, 7);
    target_decode(&targets, &target);
    assert_int_equal(target.queue, 128);
    assert_int_equal(target.sequence, 2);
    assert_int_equal(target.lane, 5);
    for (size_t cut = 0; cut < 13; cut++)
        assert_int_equal(message_record_decode(slice_of(message, cut), &back), E_CORRUPT);
}

static void an_index_is_small_and_exact(void **state)
{
    struct index_entry entries[] = {
        {1, 1, position_of(9, 0, 0), 100, 0, 0},   {1, 2, position_of(9, 0, 1), 100, 0, 0},
        {1, 3, position_of(9, 0, 2), 100, 0, 0},   {2, 50, position_of(9, 0, 2), 100, 7, 0},
        {1, 4, position_of(9, 3, 0), 90000, 0, 0}, {1, 5, position_of(9, 255, 4095), 1, 65535, 7},
    };
    uint8_t bytes[1000];
    size_t size = 0;
    struct index_coder coder = {0};
    struct index_entry back;

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        size_t part = index_entry_encode(&coder, &entries[i], bytes + size);
        size += part;
        if (i == 1 || i == 2)
            assert_int_equal(part, 1); /* the next of its queue, of the same size */
    }
    struct reader reader = reader_of(slice_of(bytes, size));
    coder = (struct index_coder){0};
    for (size_t i = 0; i < 6; i++) {
        assert_true(index_entry_decode(&coder, &reader, 9, &back));
        assert_memory_equal(&back, &entries[i], offsetof(struct index_entry, lane) + 2);
        assert_int_equal(back.due_ms, entries[i].due_ms);
    }
    assert_false(index_entry_decode(&coder, &reader, 9, &back));
    assert_false(reader.failed);
}

static void times_are_small_and_exact(void **state)
{
    static const uint64_t due_ms[] = {1700000000000, 1700000000001, 1699999999990, 0, UINT64_MAX};
    struct index_coder coder = {0};
    struct index_entry back;
    uint8_t bytes[1000];
    size_t size = 0;

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        struct index_entry entry = {1,   1 + i,        position_of(9, 0, (unsigned)i),
                                    100, LOG_LANE_DUE, due_ms[i]};
        size_t part = index_entry_encode(&coder, &entry, bytes + size);
        size += part;
        if (i == 1 || i == 2)
            assert_int_equal(part, 2); /* a byte for the time */
    }
    struct reader reader = reader_of(slice_of(bytes, size));
    coder = (struct index_coder){0};
    for (size_t i = 0; i < 5; i++) {
        assert_true(index_entry_decode(&coder, &reader, 9, &back));
        assert_true(back.due_ms == due_ms[i]);
    }
    reader = reader_of(slice_of(bytes, 5)); /* which ends within the first time */
    coder = (struct index_coder){0};
    assert_false(index_entry_decode(&coder, &reader, 9, &back));
    assert_true(reader.failed);
}

static void a_record_tells_a_time(void **state)
{
    struct postponed_record postponed = {7, 300, 5}, back;
    static const uint8_t message[] = {0, 0, 1, 7, 1, 0x80, 0x80, 2, 0x81, 1, 'H'};
    uint8_t bytes[RANGE_RECORD_MAX];
    struct message_record record;
    struct target target;

    (void)state;
    assert_int_equal(postponed_record_encode(&postponed, bytes), 4);
    assert_memory_equal(bytes, "\7\254\2\5", 4);
    assert_int_equal(postponed_record_decode(slice_of(bytes, 4), &back), 0);
    assert_memory_equal(&back, &postponed, sizeof back);
    for (size_t cut = 0; cut < 4; cut++)
        assert_int_equal(postponed_record_decode(slice_of(bytes, cut), &back), E_CORRUPT);
    assert_int_equal(postponed_record_decode(slice_of("\7\1\5\0", 4), &back), E_CORRUPT);
    assert_int_equal(postponed_record_decode(slice_of("\0\1\5", 3), &back), E_CORRUPT);
    assert_int_equal(postponed_record_decode(slice_of("\7\0\5", 3), &back), E_CORRUPT);

    assert_int_equal(message_record_decode(slice_of(message, sizeof message), &record), 0);
    assert_true(slice_is(record.content, "H"));
    struct reader targets = reader_of(record.targets);
    target_decode(&targets, &target);
    assert_int_equal(target.lane, LOG_LANE_DUE);
    assert_int_equal(target.due_ms, 129);
    for (size_t cut = 0; cut < 10; cut++)
        assert_int_equal(message_record_decode(slice_of(message, cut), &record), E_CORRUPT);
}

/* ---- a block, written and scanned ---- */

struct seen {
    uint64_t records, bytes, bad, gaps, last_order;
};

static void seen_block(void *context, const struct block_header *header, uint64_t offset)
{
    (void)context;
    (void)header;
    (void)offset;
}

static void seen_record(void *context, const struct record *record, uint64_t order)
{
    struct seen *seen = context;

    assert_true(order >= seen->last_order);
    seen->last_order = order;
    seen->records++;
    seen->bytes += record->payload.size;
    for (size_t i = 0; i < record->payload.size; i++)
        assert_int_equal(record->payload.data[i], (uint8_t)record->payload.size);
}

static void seen_bad(void *context, const struct block_header *header, uint64_t chunk,
                     uint64_t offset)
{
    (void)header;
    (void)chunk;
    (void)offset;
    ((struct seen *)context)->bad++;
}

static void seen_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    (void)offset;
    (void)next;
    (void)found;
    ((struct seen *)context)->gaps++;
}

static const struct scan_visitor seen_visitor = {seen_block, seen_record, seen_bad, seen_gap,
                                                 seen_block};

static void scan(struct slice bytes, struct seen *seen)
{
    struct scan s;
    uint64_t offset;

    *seen = (struct seen){0};
    scan_init(&s, &seen_visitor, seen, 1, 1, 0, bytes.size);
    while (scan_wants(&s, &offset)) {
        size_t left = bytes.size - (size_t)offset;
        scan_feed(&s,
                  slice_of(bytes.data + offset, left < SCAN_WINDOW_MIN ? left : SCAN_WINDOW_MIN));
    }
    scan_fini(&s);
}

static void blocks_are_scanned(void **state)
{
    static const uint32_t sizes[] = {0, 1, 5, 6, 7, 13, 100, 65535, 65536, 300000};
    struct block_pool pool;
    uint8_t *payload = memory_new(300000);
    uint8_t *bytes = memory_new(8u << 20);
    size_t size = 0, count = 0, total = 0;
    struct seen seen;

    (void)state;
    block_pool_init(&pool);
    for (uint64_t number = 1; number <= 3; number++) {
        struct block *block = block_new(&pool, 1, number, 0);
        uint64_t last = 0;
        for (size_t i = 0; i < 200; i++) {
            uint32_t part = sizes[i % 50 == 7 ? (i / 20) % 10 : i % 7];
            memset(payload, (int)(uint8_t)part, part);
            uint64_t position = block_append(block, i % 3 ? RECORD_MESSAGE : RECORD_SETTLED,
                                             slice_of(payload, part / 2),
                                             slice_of(payload, part - part / 2), false);
            assert_true(position == 0 || position > last);
            last = position ? position : last;
            count++;
            total += part;
        }
        block_check(block);
        block_close(block, false);
        block_seal(block, 1, number - 1, 1);
        for (size_t i = 0; i < block->slices_count; i++) {
            memcpy(bytes + size, block->slices[i].iov_base, block->slices[i].iov_len);
            size += block->slices[i].iov_len;
        }
        assert_int_equal(size % SECTOR_SIZE, 0);
        block_free(block);
    }
    scan(slice_of(bytes, size), &seen);
    assert_int_equal(seen.records, count);
    assert_int_equal(seen.bytes, total);
    assert_int_equal(seen.bad + seen.gaps, 0);
    bytes[size / 2] ^= 4; /* within the second block: the others are not touched */
    scan(slice_of(bytes, size), &seen);
    assert_int_equal(seen.bad + seen.gaps, 1);
    assert_true(seen.records >= 2 * count / 3 && seen.records < count);
    bytes[size / 2] ^= 4;
    bytes[0] ^= 1; /* the first header */
    scan(slice_of(bytes, size), &seen);
    assert_int_equal(seen.gaps, 1);
    assert_int_equal(seen.records, 2 * count / 3);
    bytes[0] ^= 1;
    scan(slice_of(bytes, size - 1000), &seen); /* torn */
    assert_true(seen.bad + seen.gaps >= 1);
    assert_true(seen.records >= 2 * count / 3);
    block_pool_fini(&pool);
    free(payload);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions_pack),
        cmocka_unit_test(metadata_has_its_bytes),
        cmocka_unit_test(metadata_has_keys),
        cmocka_unit_test(headers_have_their_bytes),
        cmocka_unit_test(chunks_have_their_places),
        cmocka_unit_test(a_chunk_is_bound_to_its_place),
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(an_index_is_small_and_exact),
        cmocka_unit_test(times_are_small_and_exact),
        cmocka_unit_test(a_record_tells_a_time),
        cmocka_unit_test(blocks_are_scanned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
