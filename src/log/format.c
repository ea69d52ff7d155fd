#include "log/format.h"

#include "base/assert.h"
#include "base/checksum.h"
#include "log/log.h"

_Static_assert(BLOCK_CHUNKS_MAX == 1u << POSITION_CHUNK_BITS, "a position names a chunk");
_Static_assert(CHUNK_PAYLOAD_MAX / RECORD_ADDRESSABLE_MIN == 1u << POSITION_INDEX_BITS,
               "a position names an addressable record of a chunk");

/* ---- metadata ---- */

static const char metadata_magic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'L', 'G'};

enum { METADATA_CLEAN = 1, METADATA_DAMAGED = 2 };

static bool have_keys(const struct metadata_segment *segments, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (segments[i].master_key != 0)
            return true;
    return false;
}

static size_t entry_size(bool has_keys)
{
    return has_keys ? METADATA_KEYS_SIZE : METADATA_ENTRY_SIZE;
}

size_t metadata_size(const struct metadata_segment *segments, size_t count)
{
    return METADATA_HEAD_SIZE + count * entry_size(have_keys(segments, count));
}

static void entry_encode(const struct metadata_segment *segment, bool has_keys, uint8_t *entry)
{
    store_le64(entry, segment->id);
    store_le64(entry + 8, segment->epoch);
    store_le64(entry + 16, segment->first_block);
    store_le64(entry + 24, segment->last_block);
    store_le64(entry + 32, segment->end);
    store_le32(entry + 40, segment->flags);
    store_le32(entry + 44, segment->master_key);
    if (has_keys)
        memcpy(entry + 48, segment->wrapped_key, WRAPPED_KEY_SIZE);
}

void metadata_encode(const struct metadata *metadata, const struct metadata_segment *segments,
                     uint8_t *bytes, size_t size)
{
    bool has_keys = have_keys(segments, metadata->segments_count);

    ASSERT(size == metadata_size(segments, metadata->segments_count));
    memset(bytes, 0, METADATA_HEAD_SIZE);
    memcpy(bytes, metadata_magic, 8);
    store_le32(bytes + 8, has_keys ? FORMAT_VERSION_KEYS : FORMAT_VERSION);
    store_le64(bytes + 16, metadata->epoch);
    store_le64(bytes + 24, metadata->replay_block);
    store_le64(bytes + 32, metadata->durable_block);
    store_le64(bytes + 40, metadata->segment_next);
    store_le32(bytes + 48, metadata->segments_count);
    store_le32(bytes + 52, (metadata->clean ? METADATA_CLEAN : 0u) |
                               (metadata->damaged ? METADATA_DAMAGED : 0u));
    for (uint32_t i = 0; i < metadata->segments_count; i++)
        entry_encode(&segments[i], has_keys, bytes + METADATA_HEAD_SIZE + i * entry_size(has_keys));
    store_le32(bytes + 12, checksum_of(slice_of(bytes + 16, size - 16)));
}

int metadata_decode(struct slice bytes, struct metadata *metadata, struct failure *failure)
{
    if (bytes.size < METADATA_HEAD_SIZE || memcmp(bytes.data, metadata_magic, 8) != 0)
        return fail(failure, E_CORRUPT, "the metadata is not that of a log");
    uint32_t version = load_le32(bytes.data + 8);
    if (version != FORMAT_VERSION && version != FORMAT_VERSION_KEYS)
        return fail(failure, E_VERSION, "the log has format version %u; this program knows %u",
                    version, FORMAT_VERSION_KEYS);
    if (load_le32(bytes.data + 12) != checksum_of(slice_of(bytes.data + 16, bytes.size - 16)))
        return fail(failure, E_CORRUPT, "the metadata does not match its checksum");
    metadata->has_keys = version == FORMAT_VERSION_KEYS;
    metadata->epoch = load_le64(bytes.data + 16);
    metadata->replay_block = load_le64(bytes.data + 24);
    metadata->durable_block = load_le64(bytes.data + 32);
    metadata->segment_next = load_le64(bytes.data + 40);
    metadata->segments_count = load_le32(bytes.data + 48);
    metadata->clean = load_le32(bytes.data + 52) & METADATA_CLEAN;
    metadata->damaged = load_le32(bytes.data + 52) & METADATA_DAMAGED;
    if (bytes.size !=
        METADATA_HEAD_SIZE + metadata->segments_count * entry_size(metadata->has_keys))
        return fail(failure, E_CORRUPT, "the metadata is %zu bytes with %u segments", bytes.size,
                    metadata->segments_count);
    metadata->entries = slice_of(bytes.data + METADATA_HEAD_SIZE, bytes.size - METADATA_HEAD_SIZE);
    return 0;
}

void metadata_segment_decode(const struct metadata *metadata, size_t index,
                             struct metadata_segment *segment)
{
    ASSERT(index < metadata->segments_count);
    const uint8_t *entry = metadata->entries.data + index * entry_size(metadata->has_keys);
    *segment = (struct metadata_segment){0};
    segment->id = load_le64(entry);
    segment->epoch = load_le64(entry + 8);
    segment->first_block = load_le64(entry + 16);
    segment->last_block = load_le64(entry + 24);
    segment->end = load_le64(entry + 32);
    segment->flags = load_le32(entry + 40);
    if (!metadata->has_keys)
        return;
    segment->master_key = load_le32(entry + 44);
    memcpy(segment->wrapped_key, entry + 48, WRAPPED_KEY_SIZE);
}

/* ---- segment ---- */

static const char segment_magic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'S', 'G'};
enum { SEGMENT_HEADER_ENCRYPTED = 1 };

static const char trailer_magic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'T', 'R'};

void segment_header_encode(const struct segment_header *header, uint8_t bytes[SEGMENT_HEADER_SIZE])
{
    memset(bytes, 0, SEGMENT_HEADER_SIZE);
    memcpy(bytes, segment_magic, 8);
    store_le32(bytes + 8, FORMAT_VERSION);
    store_le64(bytes + 16, header->id);
    store_le64(bytes + 24, header->epoch);
    store_le64(bytes + 32, header->created_ms);
    store_le32(bytes + 40, header->is_encrypted ? SEGMENT_HEADER_ENCRYPTED : 0);
    store_le32(bytes + 12, checksum_of(slice_of(bytes + 16, SEGMENT_HEADER_SIZE - 16)));
}

int segment_header_decode(struct slice bytes, struct segment_header *header,
                          struct failure *failure)
{
    if (bytes.size < SEGMENT_HEADER_SIZE || memcmp(bytes.data, segment_magic, 8) != 0)
        return fail(failure, E_CORRUPT, "it does not begin like a segment");
    uint32_t version = load_le32(bytes.data + 8);
    if (version != FORMAT_VERSION)
        return fail(failure, E_VERSION, "the segment has format version %u; this program knows %u",
                    version, FORMAT_VERSION);
    if (load_le32(bytes.data + 12) !=
        checksum_of(slice_of(bytes.data + 16, SEGMENT_HEADER_SIZE - 16)))
        return fail(failure, E_CORRUPT, "the segment's header does not match its checksum");
    header->id = load_le64(bytes.data + 16);
    header->epoch = load_le64(bytes.data + 24);
    header->created_ms = load_le64(bytes.data + 32);
    header->is_encrypted = load_le32(bytes.data + 40) & SEGMENT_HEADER_ENCRYPTED;
    return 0;
}

void trailer_encode(const struct trailer *trailer, uint8_t bytes[TRAILER_SIZE])
{
    memset(bytes, 0, TRAILER_SIZE);
    memcpy(bytes, trailer_magic, 8);
    store_le64(bytes + 16, trailer->segment);
    store_le64(bytes + 24, trailer->epoch);
    store_le64(bytes + 32, trailer->footer);
    store_le64(bytes + 40, trailer->first_block);
    store_le64(bytes + 48, trailer->last_block);
    store_le64(bytes + 56, trailer->salt);
    store_le32(bytes + 12, checksum_of(slice_of(bytes + 16, TRAILER_SIZE - 16)));
}

int trailer_decode(struct slice bytes, struct trailer *trailer)
{
    if (bytes.size < TRAILER_SIZE || memcmp(bytes.data, trailer_magic, 8) != 0 ||
        load_le32(bytes.data + 12) != checksum_of(slice_of(bytes.data + 16, TRAILER_SIZE - 16)))
        return E_CORRUPT;
    trailer->segment = load_le64(bytes.data + 16);
    trailer->epoch = load_le64(bytes.data + 24);
    trailer->footer = load_le64(bytes.data + 32);
    trailer->first_block = load_le64(bytes.data + 40);
    trailer->last_block = load_le64(bytes.data + 48);
    trailer->salt = load_le64(bytes.data + 56);
    return trailer->first_block <= trailer->last_block ? 0 : E_CORRUPT;
}

/* ---- blocks ---- */

static const char block_magic[4] = {'S', 'L', 'B', 'K'};

void block_header_encode(const struct block_header *header, uint8_t bytes[BLOCK_HEADER_SIZE])
{
    memset(bytes, 0, BLOCK_HEADER_SIZE);
    memcpy(bytes, block_magic, 4);
    store_le64(bytes + 8, header->segment);
    store_le64(bytes + 16, header->epoch);
    store_le64(bytes + 24, header->block);
    store_le64(bytes + 32, header->durable);
    store_le64(bytes + 40, header->written_ms);
    store_le32(bytes + 48, header->record_bytes);
    bytes[52] = header->flags;
    store_le64(bytes + 56, header->attachment_bytes);
    store_le32(bytes + 4, checksum_of(slice_of(bytes + 8, BLOCK_HEADER_SIZE - 8)));
}

#define ATTACHMENT_BYTES_MAX (1ull << 48) /* far above what can be; keeps offsets from wrapping */

int block_header_decode(struct slice bytes, struct block_header *header)
{
    if (bytes.size < BLOCK_HEADER_SIZE || memcmp(bytes.data, block_magic, 4) != 0 ||
        load_le32(bytes.data + 4) != checksum_of(slice_of(bytes.data + 8, BLOCK_HEADER_SIZE - 8)))
        return E_CORRUPT;
    header->segment = load_le64(bytes.data + 8);
    header->epoch = load_le64(bytes.data + 16);
    header->block = load_le64(bytes.data + 24);
    header->durable = load_le64(bytes.data + 32);
    header->written_ms = load_le64(bytes.data + 40);
    header->record_bytes = load_le32(bytes.data + 48);
    header->flags = bytes.data[52];
    header->attachment_bytes = load_le64(bytes.data + 56);
    bool footer = header->flags & BLOCK_FOOTER;
    if (header->attachment_bytes > (footer ? 0 : ATTACHMENT_BYTES_MAX) ||
        (header->record_bytes > BLOCK_RECORDS_MAX && !footer) || header->flags & ~BLOCK_FOOTER ||
        header->block > POSITION_BLOCK_MAX || (header->block == 0 && !footer))
        return E_CORRUPT;
    return 0;
}

uint32_t block_chunk_payload(const struct block_header *header, uint64_t chunk)
{
    uint64_t records = chunks_for(header->record_bytes);
    uint64_t bytes = chunk < records ? header->record_bytes : header->attachment_bytes;

    ASSERT(chunk < block_chunks(header));
    if (chunk >= records)
        chunk -= records;
    bytes -= chunk * CHUNK_PAYLOAD_MAX;
    return bytes < CHUNK_PAYLOAD_MAX ? (uint32_t)bytes : CHUNK_PAYLOAD_MAX;
}

uint64_t block_chunk_offset(const struct block_header *header, uint64_t chunk)
{
    uint64_t records = chunks_for(header->record_bytes);

    if (chunk <= records) {
        uint64_t payload = chunk * CHUNK_PAYLOAD_MAX;
        if (payload > header->record_bytes)
            payload = header->record_bytes;
        return BLOCK_HEADER_SIZE + chunk * CHUNK_HEADER_SIZE + payload;
    }
    uint64_t payload = (chunk - records) * CHUNK_PAYLOAD_MAX;
    if (payload > header->attachment_bytes)
        payload = header->attachment_bytes;
    return BLOCK_HEADER_SIZE + chunk * CHUNK_HEADER_SIZE + header->record_bytes + payload;
}

uint64_t block_size(const struct block_header *header)
{
    return sector_round(block_chunk_offset(header, block_chunks(header)));
}

/* ---- chunks ---- */

static void chunk_header_fields(const struct chunk_header *header, uint8_t bytes[CHUNK_HEADER_SIZE])
{
    memset(bytes, 0, CHUNK_HEADER_SIZE);
    store_le32(bytes + 4, header->payload_size);
    store_le32(bytes + 8, header->first);
    store_le16(bytes + 12, header->addressable);
    bytes[14] = header->flags;
}

static uint32_t checksum_of_place(uint64_t epoch, uint64_t block, uint64_t chunk)
{
    uint8_t place[24];

    store_le64(place, epoch);
    store_le64(place + 8, block);
    store_le64(place + 16, chunk);
    return checksum_of(slice_of(place, sizeof place));
}

uint32_t chunk_checksum_begin(uint64_t epoch, uint64_t block, uint64_t chunk,
                              const struct chunk_header *header)
{
    uint8_t bytes[CHUNK_HEADER_SIZE];

    chunk_header_fields(header, bytes);
    return checksum_add(checksum_of_place(epoch, block, chunk),
                        slice_of(bytes + 4, CHUNK_HEADER_SIZE - 4));
}

void chunk_header_encode(const struct chunk_header *header, uint32_t checksum,
                         uint8_t bytes[CHUNK_HEADER_SIZE])
{
    ASSERT(header->payload_size > 0 && header->payload_size <= CHUNK_PAYLOAD_MAX);
    ASSERT(header->first <= header->payload_size);
    chunk_header_fields(header, bytes);
    store_le32(bytes, checksum);
}

static uint32_t checksum_of_chunk(uint64_t epoch, uint64_t block, uint64_t number,
                                  const uint8_t *bytes, size_t size)
{
    return checksum_add(checksum_of_place(epoch, block, number), slice_of(bytes + 4, size - 4));
}

void chunk_checksum_set(uint64_t epoch, uint64_t block, uint64_t chunk, uint8_t *bytes, size_t size)
{
    ASSERT(size > CHUNK_HEADER_SIZE);
    store_le32(bytes, checksum_of_chunk(epoch, block, chunk, bytes, size));
}

/* What no program of this version writes is corrupt, as is what should be the other of plain and
 * encrypted: nobody can put plain bytes in the place of encrypted ones. */
static int decode(struct slice bytes, uint64_t epoch, uint64_t block, uint64_t number,
                  uint8_t sealed, struct chunk *chunk)
{
    if (bytes.size < CHUNK_HEADER_SIZE)
        return E_MORE;
    struct chunk_header *header = &chunk->header;
    header->payload_size = load_le32(bytes.data + 4);
    header->first = load_le32(bytes.data + 8);
    header->addressable = load_le16(bytes.data + 12);
    header->flags = bytes.data[14];
    if (header->payload_size == 0 || header->payload_size > CHUNK_PAYLOAD_MAX ||
        header->first > header->payload_size)
        return E_CORRUPT;
    if (bytes.size < CHUNK_HEADER_SIZE + header->payload_size)
        return E_MORE;
    uint32_t checksum = checksum_of_chunk(epoch, block, number, bytes.data,
                                          CHUNK_HEADER_SIZE + header->payload_size);
    if (checksum != load_le32(bytes.data))
        return E_CORRUPT;
    if ((header->flags & ~CHUNK_ATTACHMENT) != sealed)
        return E_CORRUPT;
    chunk->payload = slice_of(bytes.data + CHUNK_HEADER_SIZE, header->payload_size);
    return 0;
}

int chunk_decode(struct slice bytes, uint64_t epoch, uint64_t block, uint64_t number,
                 struct chunk *chunk)
{
    return decode(bytes, epoch, block, number, 0, chunk);
}

int chunk_decode_sealed(struct slice bytes, uint64_t epoch, uint64_t block, uint64_t number,
                        struct chunk *chunk)
{
    return decode(bytes, epoch, block, number, CHUNK_ENCRYPTED, chunk);
}

/* ---- records ---- */

#define BIT(type) (1u << (type))

static const uint32_t addressable = BIT(RECORD_MESSAGE) | BIT(RECORD_PART) | BIT(RECORD_STATE) |
                                    BIT(RECORD_CATALOG) | BIT(RECORD_SNAPSHOT_BEGIN) |
                                    BIT(RECORD_SNAPSHOT_ITEM) | BIT(RECORD_SNAPSHOT_END);

bool record_is_addressable(uint8_t type)
{
    return type < RECORD_TYPES && (addressable & BIT(type));
}

bool record_is_known(uint8_t type)
{
    return type > RECORD_PADDING && type < RECORD_TYPES && type != RECORD_PART &&
           type != RECORD_CURSOR;
}

ssize_t record_head_decode(struct slice bytes, uint8_t *type, uint64_t *size)
{
    struct reader r = reader_of(bytes);

    *type = read_u8(&r);
    if (r.failed)
        return E_MORE;
    *size = 0;
    if (*type == RECORD_PADDING)
        return 1;
    *size = read_varint(&r);
    ssize_t taken = (ssize_t)(bytes.size - reader_left(&r));
    if (r.failed)
        return bytes.size >= RECORD_HEAD_MAX ? E_CORRUPT : E_MORE;
    return taken > (ssize_t)RECORD_HEAD_MAX ? E_CORRUPT : taken;
}

void target_decode(struct reader *targets, struct target *target)
{
    target->queue = read_varint(targets);
    target->sequence = read_varint(targets);
    target->lane = (uint16_t)read_varint(targets);
    target->due_ms = target->lane & LOG_LANE_DUE ? read_varint(targets) : 0;
}

int message_record_decode(struct slice payload, struct message_record *record)
{
    struct reader r = reader_of(payload);

    record->flags = read_u8(&r);
    record->body_size = read_varint(&r);
    record->targets_count = read_varint(&r);
    if (r.failed || record->targets_count > reader_left(&r) || record->flags & ~MESSAGE_ATTACHED)
        return E_CORRUPT;
    const uint8_t *targets = r.at;
    for (uint64_t i = 0; i < record->targets_count; i++) {
        uint64_t queue = read_varint(&r);
        uint64_t sequence = read_varint(&r);
        uint64_t lane = read_varint(&r);
        if (lane & LOG_LANE_DUE)
            read_varint(&r);
        if (lane > UINT16_MAX || queue == 0 || sequence == 0 || r.failed)
            return E_CORRUPT;
    }
    record->targets = slice_of(targets, (size_t)(r.at - targets));
    record->attachment = record->flags & MESSAGE_ATTACHED ? read_varint(&r) : 0;
    record->content = slice_of(r.at, reader_left(&r));
    if (r.failed ||
        (!(record->flags & MESSAGE_ATTACHED) && record->body_size > record->content.size))
        return E_CORRUPT;
    return 0;
}

size_t range_record_encode_payload(const struct range_record *range,
                                   uint8_t bytes[RANGE_RECORD_MAX])
{
    struct writer w = writer_of(bytes, RANGE_RECORD_MAX);

    ASSERT(range->first > 0 && range->first <= range->last);
    write_varint(&w, range->queue);
    write_varint(&w, range->first);
    write_varint(&w, range->last - range->first);
    write_varint(&w, range->detail);
    ASSERT(!w.failed);
    return writer_size(&w);
}

int range_record_decode(struct slice payload, struct range_record *range)
{
    struct reader r = reader_of(payload);

    range->queue = read_varint(&r);
    range->first = read_varint(&r);
    uint64_t more = read_varint(&r);
    uint64_t detail = read_varint(&r);
    if (r.failed || reader_left(&r) > 0 || range->queue == 0 || range->first == 0 ||
        more > UINT64_MAX - range->first || detail > UINT32_MAX)
        return E_CORRUPT;
    range->last = range->first + more;
    range->detail = (uint32_t)detail;
    return 0;
}

size_t delivered_record_encode(const struct delivered_record *delivered,
                               uint8_t bytes[RANGE_RECORD_MAX])
{
    struct writer w = writer_of(bytes, RANGE_RECORD_MAX);

    write_varint(&w, delivered->queue);
    write_varint(&w, delivered->sequence);
    ASSERT(!w.failed);
    return writer_size(&w);
}

int delivered_record_decode(struct slice payload, struct delivered_record *delivered)
{
    struct reader r = reader_of(payload);

    delivered->queue = read_varint(&r);
    delivered->sequence = read_varint(&r);
    return r.failed || reader_left(&r) > 0 || delivered->queue == 0 ? E_CORRUPT : 0;
}

size_t postponed_record_encode(const struct postponed_record *postponed,
                               uint8_t bytes[RANGE_RECORD_MAX])
{
    struct writer w = writer_of(bytes, RANGE_RECORD_MAX);

    write_varint(&w, postponed->queue);
    write_varint(&w, postponed->sequence);
    write_varint(&w, postponed->due_ms);
    ASSERT(!w.failed);
    return writer_size(&w);
}

int postponed_record_decode(struct slice payload, struct postponed_record *postponed)
{
    struct reader r = reader_of(payload);

    postponed->queue = read_varint(&r);
    postponed->sequence = read_varint(&r);
    postponed->due_ms = read_varint(&r);
    return r.failed || reader_left(&r) > 0 || postponed->queue == 0 || postponed->sequence == 0
               ? E_CORRUPT
               : 0;
}

size_t state_record_encode_head(const struct state_record *state, uint8_t bytes[STATE_HEAD_MAX])
{
    struct writer w = writer_of(bytes, STATE_HEAD_MAX);

    write_varint(&w, state->queue);
    write_u8(&w, (uint8_t)((state->first ? STATE_FIRST : 0) | (state->more ? STATE_MORE : 0)));
    return writer_size(&w);
}

int state_record_decode(struct slice payload, struct state_record *state)
{
    struct reader r = reader_of(payload);

    state->queue = read_varint(&r);
    uint8_t flags = read_u8(&r);
    state->first = flags & STATE_FIRST;
    state->more = flags & STATE_MORE;
    state->bytes = slice_of(r.at, reader_left(&r));
    return r.failed || state->queue == 0 || flags & ~(STATE_FIRST | STATE_MORE) ? E_CORRUPT : 0;
}

int number_record_decode(struct slice payload, uint64_t *number, struct slice *rest)
{
    struct reader r = reader_of(payload);

    *number = read_varint(&r);
    *rest = slice_of(r.at, reader_left(&r));
    return r.failed ? E_CORRUPT : 0;
}

/* ---- index of messages ---- */

enum { ENTRY_JUMPS = 1, ENTRY_SIZE = 2, ENTRY_LANE = 4, ENTRY_STEP_SHIFT = 3, ENTRY_STEP_MAX = 31 };

/* Differences of times, small ones of either sign in few bytes. */
static uint64_t folded(uint64_t difference)
{
    return difference << 1 ^ (difference >> 63 ? ~0ull : 0);
}

static uint64_t unfolded(uint64_t value)
{
    return value >> 1 ^ (value & 1 ? ~0ull : 0);
}

#define PLACE_MASK ((1ull << (POSITION_INDEX_BITS + POSITION_CHUNK_BITS)) - 1)

size_t index_entry_encode(struct index_coder *coder, const struct index_entry *entry,
                          uint8_t bytes[INDEX_ENTRY_MAX])
{
    struct writer w = writer_of(bytes, INDEX_ENTRY_MAX);
    uint64_t place = entry->position & PLACE_MASK;
    uint64_t step = place - coder->place; /* grows within a block */
    bool jumps = entry->queue != coder->queue || entry->sequence != coder->sequence + 1;

    ASSERT(place >= coder->place);
    uint8_t flags =
        (uint8_t)((jumps ? ENTRY_JUMPS : 0) | (entry->size != coder->size ? ENTRY_SIZE : 0) |
                  (entry->lane != coder->lane ? ENTRY_LANE : 0) |
                  (step < ENTRY_STEP_MAX ? (step + 1) << ENTRY_STEP_SHIFT : 0));
    write_u8(&w, flags);
    if (step >= ENTRY_STEP_MAX)
        write_varint(&w, step);
    if (jumps) {
        write_varint(&w, entry->queue);
        write_varint(&w, entry->sequence);
    }
    if (flags & ENTRY_SIZE)
        write_varint(&w, entry->size);
    if (flags & ENTRY_LANE)
        write_varint(&w, entry->lane);
    if (entry->lane & LOG_LANE_DUE) {
        write_varint(&w, folded(entry->due_ms - coder->due_ms));
        coder->due_ms = entry->due_ms;
    }
    ASSERT(!w.failed);
    *coder = (struct index_coder){entry->queue, entry->sequence, place,
                                  entry->size,  entry->lane,     coder->due_ms};
    return writer_size(&w);
}

bool index_entry_decode(struct index_coder *coder, struct reader *reader, uint64_t block,
                        struct index_entry *entry)
{
    if (reader_left(reader) == 0 || reader->failed)
        return false;
    uint8_t flags = read_u8(reader);
    uint64_t step = (uint64_t)flags >> ENTRY_STEP_SHIFT;
    step = step ? step - 1 : read_varint(reader);
    if (flags & ENTRY_JUMPS) {
        coder->queue = read_varint(reader);
        coder->sequence = read_varint(reader);
    } else {
        coder->sequence++;
    }
    if (flags & ENTRY_SIZE)
        coder->size = read_varint(reader);
    uint64_t lane = flags & ENTRY_LANE ? read_varint(reader) : coder->lane;
    if (lane & LOG_LANE_DUE)
        coder->due_ms += unfolded(read_varint(reader));
    if (reader->failed || lane > UINT16_MAX || step > PLACE_MASK - coder->place ||
        coder->queue == 0 || coder->sequence == 0) {
        reader->failed = true;
        return false;
    }
    coder->lane = (uint16_t)lane;
    coder->place += step;
    *entry =
        (struct index_entry){coder->queue,
                             coder->sequence,
                             block << (POSITION_INDEX_BITS + POSITION_CHUNK_BITS) | coder->place,
                             coder->size,
                             coder->lane,
                             lane & LOG_LANE_DUE ? coder->due_ms : 0};
    return true;
}

size_t index_mark_encode(const struct index_mark *mark, uint8_t bytes[INDEX_MARK_MAX])
{
    struct writer w = writer_of(bytes, INDEX_MARK_MAX);

    write_u8(&w, mark->type);
    write_u8(&w, mark->flags);
    write_varint(&w, mark->position);
    write_varint(&w, mark->number);
    ASSERT(!w.failed);
    return writer_size(&w);
}

bool index_mark_decode(struct reader *reader, struct index_mark *mark)
{
    if (reader_left(reader) == 0 || reader->failed)
        return false;
    mark->type = read_u8(reader);
    mark->flags = read_u8(reader);
    mark->position = read_varint(reader);
    mark->number = read_varint(reader);
    return !reader->failed;
}

bool index_mark_of(const struct record *record, uint64_t order, struct index_mark *mark)
{
    struct slice rest;
    struct state_record state;

    *mark = (struct index_mark){.type = record->type, .position = order};
    switch (record->type) {
    case RECORD_STATE:
        if (state_record_decode(record->payload, &state) < 0)
            return false;
        mark->number = state.queue;
        mark->flags = (uint8_t)((state.first ? STATE_FIRST : 0) | (state.more ? STATE_MORE : 0));
        return true;
    case RECORD_CATALOG:
        return true;
    case RECORD_STATE_DROPPED:
    case RECORD_SNAPSHOT_BEGIN:
    case RECORD_SNAPSHOT_ITEM:
    case RECORD_SNAPSHOT_END:
        return number_record_decode(record->payload, &mark->number, &rest) == 0;
    default:
        return false;
    }
}
