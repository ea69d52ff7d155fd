/*
 * The bytes of the log: docs/log-format.md as code. Pure: no I/O, no allocation, nothing kept.
 *
 * Everything is little-endian; integers called varint are unsigned LEB128. Decoders take any bytes
 * whatever and answer E_CORRUPT (or E_VERSION) where they break the format; what they hand out
 * borrows the bytes they were given.
 */
#ifndef SLUICE_LOG_FORMAT_H
#define SLUICE_LOG_FORMAT_H

#include "base/bytes.h"

#define FORMAT_VERSION      1u
#define FORMAT_VERSION_KEYS 2u /* of metadata that has keys: of a log with encrypted segments */

#define SECTOR_SIZE         512u /* what tears as a whole; blocks begin at multiples of it */
#define SEGMENT_HEADER_SIZE SECTOR_SIZE
#define BLOCK_HEADER_SIZE   64u
#define CHUNK_HEADER_SIZE   32u
#define CHUNK_PAYLOAD_MAX   65536u
#define CHUNK_SIZE_MAX      (CHUNK_HEADER_SIZE + CHUNK_PAYLOAD_MAX)
#define BLOCK_CHUNKS_MAX    256u /* of records; attachments come on top */
#define BLOCK_RECORDS_MAX   (BLOCK_CHUNKS_MAX * CHUNK_PAYLOAD_MAX)
#define TRAILER_SIZE        64u

/* Every record's type and size stand in one chunk: where fewer bytes are left, the chunk is filled
 * with zeros. */
#define RECORD_HEAD_MAX        8u
#define RECORD_ADDRESSABLE_MIN 16u /* so that a chunk starts at most 4,096 of them */

/* ---- positions ---- */

#define POSITION_INDEX_BITS 12
#define POSITION_CHUNK_BITS 8
#define POSITION_BLOCK_MAX  ((1ull << (64 - POSITION_INDEX_BITS - POSITION_CHUNK_BITS)) - 1)

static inline uint64_t position_of(uint64_t block, uint32_t chunk, uint32_t index)
{
    return block << (POSITION_INDEX_BITS + POSITION_CHUNK_BITS) |
           (uint64_t)chunk << POSITION_INDEX_BITS | index;
}

static inline uint64_t position_block(uint64_t position)
{
    return position >> (POSITION_INDEX_BITS + POSITION_CHUNK_BITS);
}

static inline uint32_t position_chunk(uint64_t position)
{
    return (uint32_t)(position >> POSITION_INDEX_BITS) & ((1u << POSITION_CHUNK_BITS) - 1);
}

static inline uint32_t position_index(uint64_t position)
{
    return (uint32_t)position & ((1u << POSITION_INDEX_BITS) - 1);
}

/* ---- metadata: one value of the store ---- */

enum segment_flag {
    SEGMENT_SEALED = 1,      /* has its footer */
    SEGMENT_ENDED = 2,       /* `last_block` and `end` say where its valid part ends */
    SEGMENT_QUARANTINED = 4, /* something in it was durable and cannot be read: never removed */
};

#define METADATA_HEAD_SIZE  96u
#define METADATA_ENTRY_SIZE 48u
#define METADATA_KEYS_SIZE  88u /* of an entry with its key */
#define WRAPPED_KEY_SIZE    40u

struct metadata_segment {
    uint64_t id, epoch;
    uint64_t first_block, last_block; /* 0: not known yet */
    uint64_t end;                     /* file offset behind the last block; with SEGMENT_ENDED */
    uint32_t flags;
    uint32_t
        master_key; /* id of the one in which its data key is wrapped; 0: it is not encrypted */
    uint8_t wrapped_key[WRAPPED_KEY_SIZE];
};

struct metadata {
    uint64_t epoch;
    uint64_t replay_block;  /* where replay starts: of the newest completed checkpoint; or 1 */
    uint64_t durable_block; /* known durable when this was written */
    uint64_t segment_next;  /* ids below were used */
    uint32_t segments_count;
    bool has_keys; /* some segments are encrypted; set by the decoder */
    bool clean;
    bool damaged;         /* something that was durable could not be read, and nobody accepted it */
    struct slice entries; /* for metadata_segment_decode() */
};

/* Into as many bytes as metadata_size() says. */
void metadata_encode(const struct metadata *metadata, const struct metadata_segment *segments,
                     uint8_t *bytes, size_t size);
size_t metadata_size(const struct metadata_segment *segments, size_t count);
int metadata_decode(struct slice bytes, struct metadata *metadata,
                    struct failure *failure) MUST_CHECK;
void metadata_segment_decode(const struct metadata *metadata, size_t index,
                             struct metadata_segment *segment);

/* ---- segment: header, blocks, footer block, trailer ---- */

struct segment_header {
    uint64_t id, epoch, created_ms;
    bool is_encrypted;
};

void segment_header_encode(const struct segment_header *header, uint8_t bytes[SEGMENT_HEADER_SIZE]);
int segment_header_decode(struct slice bytes, struct segment_header *header,
                          struct failure *failure) MUST_CHECK;

struct trailer {
    uint64_t segment, epoch;
    uint64_t footer;                  /* file offset of the footer block */
    uint64_t first_block, last_block; /* 0, 0: there are none */
    uint64_t salt;                    /* of the footer's key */
};

void trailer_encode(const struct trailer *trailer, uint8_t bytes[TRAILER_SIZE]);
int trailer_decode(struct slice bytes, struct trailer *trailer) MUST_CHECK;

/* ---- blocks ---- */

enum block_flag {
    BLOCK_FOOTER = 1, /* the index of its segment, outside the numbering; may have more chunks */
};

struct block_header {
    uint64_t segment, epoch, block;
    uint64_t durable; /* number of the last block known durable when this was written */
    uint64_t written_ms;
    uint64_t attachment_bytes;
    uint32_t record_bytes;
    uint8_t flags;
};

void block_header_encode(const struct block_header *header, uint8_t bytes[BLOCK_HEADER_SIZE]);
int block_header_decode(struct slice bytes, struct block_header *header) MUST_CHECK;

static inline uint64_t chunks_for(uint64_t bytes)
{
    return (bytes + CHUNK_PAYLOAD_MAX - 1) / CHUNK_PAYLOAD_MAX;
}

static inline uint64_t sector_round(uint64_t size)
{
    return (size + SECTOR_SIZE - 1) & ~(uint64_t)(SECTOR_SIZE - 1);
}

/* Chunks are numbered through: those of records, then those of attachments. */
static inline uint64_t block_chunks(const struct block_header *header)
{
    return chunks_for(header->record_bytes) + chunks_for(header->attachment_bytes);
}

/* Payload bytes of that chunk: all but the last of a kind are full. */
uint32_t block_chunk_payload(const struct block_header *header, uint64_t chunk);

/* Offset of a chunk from the block's start. */
uint64_t block_chunk_offset(const struct block_header *header, uint64_t chunk);

/* On disk, with header and padding. */
uint64_t block_size(const struct block_header *header);

/* ---- chunks ---- */

#define CHUNK_TAG_OFFSET 16u /* in a chunk's header */

enum chunk_flag {
    CHUNK_ENCRYPTED = 1,  /* the payload is AES-256-GCM, its tag is in the header */
    CHUNK_ATTACHMENT = 2, /* plain bytes of bodies instead of records */
};

struct chunk_header {
    uint32_t payload_size;
    uint32_t first; /* offset of the first record that starts here; the size where none does */
    uint16_t addressable; /* addressable records that start here */
    uint8_t flags;
};

struct chunk {
    struct chunk_header header;
    struct slice payload;
};

/* The checksum is of what binds the chunk to its place, the header behind the checksum, and the
 * payload: begin, add the payload's pieces, and encode. */
uint32_t chunk_checksum_begin(uint64_t epoch, uint64_t block, uint64_t chunk,
                              const struct chunk_header *header);
void chunk_header_encode(const struct chunk_header *header, uint32_t checksum,
                         uint8_t bytes[CHUNK_HEADER_SIZE]);

/* The same of a chunk that is there as a whole, header and payload, but for its checksum. */
void chunk_checksum_set(uint64_t epoch, uint64_t block, uint64_t chunk, uint8_t *bytes,
                        size_t size);

/* `bytes` begins with the chunk and may go on behind it. E_MORE: it is cut off; E_CORRUPT. One that
 * is encrypted is corrupt here, and one that is not is to chunk_decode_sealed(), whose payload is
 * still to be opened (sealing.h). */
int chunk_decode(struct slice bytes, uint64_t epoch, uint64_t block, uint64_t number,
                 struct chunk *chunk) MUST_CHECK;
int chunk_decode_sealed(struct slice bytes, uint64_t epoch, uint64_t block, uint64_t number,
                        struct chunk *chunk) MUST_CHECK;

/* ---- records ---- */

enum record_type {
    RECORD_PADDING = 0, /* a single byte */
    RECORD_MESSAGE = 1,
    RECORD_PART = 2, /* types named here and not written yet: docs/log-format.md has their bytes */
    RECORD_SETTLED = 3,
    RECORD_RETURNED = 4,
    RECORD_DELIVERED = 5,
    RECORD_STATE = 6,
    RECORD_STATE_DROPPED = 7,
    RECORD_CATALOG = 8,
    RECORD_SNAPSHOT_BEGIN = 9,
    RECORD_SNAPSHOT_ITEM = 10,
    RECORD_SNAPSHOT_END = 11,
    RECORD_CHECKPOINT_END = 12,
    RECORD_CURSOR = 13,
    RECORD_CHANGE = 14,
    RECORD_POSTPONED = 15,
    RECORD_TYPES,

    RECORD_INDEX_BLOCKS = 64, /* of footers only */
    RECORD_INDEX_MESSAGES = 65,
    RECORD_INDEX_MARKS = 66,
    RECORD_INDEX_FILTERS = 67,
};

bool record_is_addressable(uint8_t type);

/* One that this version writes into blocks. */
bool record_is_known(uint8_t type);

struct record {
    uint8_t type;
    struct slice payload;
};

/* Reads a record's type and size. Returns the bytes they take, and the payload's size; E_CORRUPT;
 * E_MORE when the bytes end too early. */
ssize_t record_head_decode(struct slice bytes, uint8_t *type, uint64_t *size) MUST_CHECK;

static inline size_t record_head_size(uint64_t payload_size)
{
    return 1 + varint_size(payload_size);
}

enum message_record_flag {
    MESSAGE_ATTACHED = 1, /* the body is among the block's attachments */
    MESSAGE_EXTRAS = 2,   /* fields of later issues: ordering key, filter value, ... */
};

struct message_record {
    uint64_t body_size;
    uint64_t targets_count;
    struct slice targets; /* for target_decode() */
    uint64_t attachment;  /* offset among the block's attachment bytes; with MESSAGE_ATTACHED */
    struct slice content; /* head, and the body unless attached */
    uint8_t flags;
};

struct target {
    uint64_t queue, sequence;
    uint16_t lane;
    uint64_t due_ms; /* 0 where the lane has no LOG_LANE_DUE */
};

int message_record_decode(struct slice payload, struct message_record *record) MUST_CHECK;

/* From a reader over record.targets, targets_count times: cannot fail after the above. */
void target_decode(struct reader *targets, struct target *target);

struct range_record {
    uint64_t queue, first, last;
    uint32_t detail; /* settled: why; returned: count */
};

#define RANGE_RECORD_MAX 40u

size_t range_record_encode_payload(const struct range_record *range,
                                   uint8_t bytes[RANGE_RECORD_MAX]);
int range_record_decode(struct slice payload, struct range_record *range) MUST_CHECK;

struct delivered_record {
    uint64_t queue, sequence;
};

size_t delivered_record_encode(const struct delivered_record *delivered,
                               uint8_t bytes[RANGE_RECORD_MAX]);
int delivered_record_decode(struct slice payload, struct delivered_record *delivered) MUST_CHECK;

struct postponed_record {
    uint64_t queue, sequence, due_ms;
};

size_t postponed_record_encode(const struct postponed_record *postponed,
                               uint8_t bytes[RANGE_RECORD_MAX]);
int postponed_record_decode(struct slice payload, struct postponed_record *postponed) MUST_CHECK;

#define STATE_HEAD_MAX 16u

enum state_flag { STATE_FIRST = 1, STATE_MORE = 2 };

struct state_record {
    uint64_t queue;
    bool first, more; /* of several parts: the first; not the last */
    struct slice bytes;
};

/* What stands in front of the bytes. */
size_t state_record_encode_head(const struct state_record *state, uint8_t bytes[STATE_HEAD_MAX]);
int state_record_decode(struct slice payload, struct state_record *state) MUST_CHECK;

/* STATE_DROPPED: the queue; CHANGE: the queue, in front of the bytes; SNAPSHOT_BEGIN, ITEM and END:
 * the snapshot, in front of an item's bytes; CHECKPOINT_END: the block at which replay starts. */
int number_record_decode(struct slice payload, uint64_t *number, struct slice *rest) MUST_CHECK;

/* ---- index records of a footer ---- */

/* INDEX_MESSAGES: entries of messages of one block, in its order. */
struct index_entry {
    uint64_t queue, sequence, position, size;
    uint16_t lane;
    uint64_t due_ms; /* 0 where the lane has no LOG_LANE_DUE */
};

#define INDEX_ENTRY_MAX 64u

struct index_coder { /* what the next entry is told relative to; zeroed at a record's start */
    uint64_t queue, sequence, place, size;
    uint16_t lane;
    uint64_t due_ms; /* of the last one that had one */
};

size_t index_entry_encode(struct index_coder *coder, const struct index_entry *entry,
                          uint8_t bytes[INDEX_ENTRY_MAX]);
/* False at the end; reader->failed when the bytes are no entry. `block` is the record's. */
bool index_entry_decode(struct index_coder *coder, struct reader *reader, uint64_t block,
                        struct index_entry *entry);

/* INDEX_MARKS: where states and records of the catalog stand. */
struct index_mark {
    uint8_t type;      /* of the record */
    uint8_t flags;     /* of a state: STATE_FIRST, STATE_MORE */
    uint64_t position; /* of STATE_DROPPED, which is not addressable: that of what comes next */
    uint64_t number;   /* the queue of a state, the snapshot of its begin, item or end */
};

#define INDEX_MARK_MAX 24u

size_t index_mark_encode(const struct index_mark *mark, uint8_t bytes[INDEX_MARK_MAX]);
/* False at the end; reader->failed when the bytes are no mark. */
bool index_mark_decode(struct reader *reader, struct index_mark *mark);

/* Whether the record is one to be marked, and how. */
bool index_mark_of(const struct record *record, uint64_t order, struct index_mark *mark);

#endif
