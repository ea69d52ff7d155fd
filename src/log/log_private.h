/*
 * What the files of this folder share. Read log.h and docs/log-format.md first.
 *
 *   format, scan    bytes; pure                block      a block in memory
 *   segment.c       the table of segments      metadata.c the guarded metadata
 *   writer.c        blocks to the store, rolling, sealing, failures
 *   append.c        records into the open block, room
 *   checkpoint.c    states, checkpoints, which segments can go
 *   reader.c        records back from the store
 *   recovery.c      opening: what was durable   log.c   open, close, statistics
 *   accept.c        damage that an operator accepts
 *   cipher, keyring, sealing   bytes encrypted; pure   keys.c   which keys, and their rotation
 *
 * Invariants (log_check() walks those of memory):
 *  1. Blocks in memory are consecutive: flight, closed (in order), open; the first is durable + 1.
 *  2. At most one block is being written. Its successor is submitted after it is durable.
 *  3. A block is told durable only when it, all before it, and the metadata that lists its segment
 *     and the end of any segment abandoned before it, are durable.
 *  4. A segment is removed only when: nothing in it is live and what released it is durable; no
 *     newest state and no needed record of the catalog is in it; all of it is before the replay
 *     start in the durable metadata; it is not quarantined and nobody reads it. It leaves the
 *     metadata first.
 *  5. Nothing is ever written behind an error in the same file.
 *  6. A segment is encrypted under keys that were made for it, by the process that writes its
 *     blocks; each block is sealed for it once, in order, and no other process ever adds one. Its
 *     footer has a key of its own each time that one is written.
 */
#ifndef SLUICE_LOG_LOG_PRIVATE_H
#define SLUICE_LOG_LOG_PRIVATE_H

#include "base/assert.h"
#include "base/map.h"
#include "base/memory.h"
#include "log/block.h"
#include "log/log.h"
#include "log/scan.h"
#include "log/sealing.h"

#define BLOCK_LARGE_BYTES  (1u << 20) /* goes out without being asked for */
#define BLOCK_CLOSE_BYTES  (4u << 20) /* takes nothing more, outside a group */
#define MARK_DELAY_MS      100u
#define RETRY_DELAY_MS     100u
#define RETRIES_MAX        5u
#define SETTLE_RESERVE     64u /* bytes of disk kept per message target for its settlement */
#define WRITE_FAILURES_MAX 2u  /* in a row; then the log is FAILED */
#define SEGMENT_FILES_MAX  64u /* of sealed segments, kept open for reading */
#define SEGMENT_NAME_SIZE  32u

enum segment_phase {
    SEGMENT_CREATING, /* file, header, listed in the metadata */
    SEGMENT_SPARE,
    SEGMENT_ACTIVE,
    SEGMENT_CLOSING, /* full: its footer is being written */
    SEGMENT_DONE,    /* read only */
    SEGMENT_REMOVING /* out of the metadata; its file goes */
};

struct segment {
    struct log *log;
    struct metadata_segment info;
    enum segment_phase phase;
    uint64_t target_bytes;
    uint64_t began_ns; /* when it became active */
    uint64_t end;      /* where the next block goes; of a done one, the file's size */

    uint32_t *offsets; /* of each block, in sectors; 0: it cannot be read */
    size_t offsets_count, offsets_capacity;
    struct block *index; /* the footer, growing */

    uint64_t live;
    uint64_t released_block;
    uint64_t catalog_last; /* position of the last record of the catalog in it */
    size_t states;
    bool is_wanted; /* only states or the catalog hold it */

    struct store_file *file;
    uint64_t file_size;  /* when it was opened */
    uint64_t footer;     /* its offset, found by recovery; 0: none */
    uint64_t scan_end;   /* as far as recovery looked for blocks */
    uint64_t first_hint; /* the first block, as the metadata knew it; 0: it did not */
    bool was_open;       /* when recovery began: it may have a torn tail, */
    bool was_unsealed;   /* or at least no footer that can be trusted to stay */
    uint64_t used;       /* clock, for closing the oldest file */
    bool is_opening, is_closing;
    struct list link; /* of log->removing */
    unsigned readers;
    struct list waiting; /* fetches, while the file is being opened */

    char name[SEGMENT_NAME_SIZE];
    uint64_t listed; /* generation of the metadata that has it */
    struct store_request request, open_request;
    struct iovec *slices;
    size_t slices_count, slices_at;
    uint64_t write_offset;
    uint8_t *bytes; /* header, or trailer */

    struct segment_keys keys; /* with info.master_key */
    uint64_t salt;            /* of the key of its footer */
    uint64_t sealed_block;    /* the last block that was encrypted for it */
    struct sealing sealing;   /* of the footer that is being written */
};

static inline bool segment_is_encrypted(const struct segment *segment)
{
    return segment->info.master_key != 0;
}

/* One state of a queue on its way to replace the one before: at the end of the next checkpoint. */
struct state_write {
    struct list link;
    uint64_t queue;
    uint64_t first, last; /* blocks; 0: dropped */
};

struct queue_state {
    uint64_t queue;
    uint64_t first, last; /* blocks of the newest state that a checkpoint covers; 0: none */
    size_t writes;        /* on their way */
    bool is_dropped;      /* the newest of these says so */
};

struct log_metadata {
    struct store_request request;
    struct iovec slice;
    uint8_t *bytes;
    uint64_t version;
    uint64_t generation, written, durable;                 /* of what is wanted, under way, done */
    uint64_t replay_block, replay_written, replay_durable; /* wanted; under way; done */
    bool in_flight, clean, damaged;
    unsigned failures;
    struct timer retry;
};

enum log_phase { LOG_RECOVERING, LOG_RUNNING, LOG_CLOSING, LOG_FAILED, LOG_CLOSED };

struct fetch;
struct recovery;

/* The chunk that was decrypted last. */
struct opened_chunk {
    const struct segment *segment; /* NULL: there is none */
    uint64_t offset;
    struct chunk chunk;
    uint8_t *bytes; /* CHUNK_PAYLOAD_MAX */
};

#define CACHE_ENTRIES 4

struct cached_bytes {
    const struct segment *segment;
    uint64_t offset;
    struct buffer *buffer;
    uint64_t used; /* clock, for choosing the oldest */
};

struct log {
    struct log_options options;
    struct loop *loop;
    struct store *store;
    struct log_events events;
    void *context;
    enum log_phase phase;
    bool has_failed;
    uint64_t epoch, segment_next;

    struct block_pool pool;
    struct block *open, *flight;
    struct list closed;
    uint64_t durable, synced; /* blocks told durable; blocks known synced */
    uint64_t last;            /* block of the last record */
    uint64_t bytes_in_memory; /* of closed and flight */
    bool in_group, commit_wanted;
    struct range_record settled; /* not yet in the open block; queue 0: none */
    uint8_t *scratch;
    size_t scratch_capacity;
    struct task commit_task, room_task, failed_task;
    struct timer lazy, mark;
    uint64_t mark_block; /* the last block that was one */

    struct segment **segments; /* by first block; those without blocks last, by id */
    size_t segments_count, segments_capacity;
    struct segment *active, *spare;
    struct list removing;
    uint64_t segment_bytes; /* what the next one is made for */
    struct timer spare_retry;
    unsigned spare_failures;

    struct store_request write; /* of flight */
    size_t write_slices_at;
    uint64_t write_offset, write_began_ns;
    bool flight_is_written;
    uint64_t confirm_generation; /* of the metadata, before flight may be told durable */
    unsigned write_failures;
    struct store_request sync;
    uint64_t sync_block;
    bool is_syncing;
    struct timer sync_timer;
    size_t segments_closing;
    bool is_creating;   /* a segment, on its way to be the spare */
    size_t outstanding; /* requests to the store, without those of readers */

    struct log_metadata metadata;
    struct failure failure;

    struct map states; /* of struct queue_state */
    struct pool state_writes;
    struct list states_new, states_ending; /* state_write, in log order */
    uint64_t catalog_start; /* position of the begin of the newest durable snapshot */
    uint64_t snapshot_id;
    uint64_t snapshot_begin;      /* position, of the one being written; 0: none */
    uint64_t snapshot_done_begin; /* of the one written last, */
    uint64_t snapshot_done_block; /* until this block, that of its end, is durable */
    uint64_t state_part_first;    /* block of the first part of a state under way; 0: none */
    uint64_t state_part_queue;
    struct {
        bool is_running, is_ending, is_applying;
        uint64_t replay_block; /* what the running one will record */
        uint64_t end_block;
        uint64_t generation;
        uint64_t bytes; /* of log since the last began */
        struct task begin_task, end_task;
    } checkpoint;
    struct task reclaim_task;
    uint64_t live;
    uint64_t promised;   /* bytes of the disk kept for changes to come */
    uint64_t reclaim_at; /* a segment may go when this block is durable; 0: none */

    struct keyring keys;
    struct cipher *cipher;  /* NULL: there are no keys */
    struct sealing sealing; /* of flight */
    struct opened_chunk decrypted;
    struct task rewrap_task;
    uint64_t rewrapped;         /* data keys, since the first master key became that, */
    uint64_t rewrap_generation; /* and the metadata that has them so */

    struct list reads; /* struct read_job */
    struct cached_bytes cache[CACHE_ENTRIES];
    uint64_t cache_clock;
    size_t files_open;

    struct recovery *recovery;
    struct task close_task;
    uint64_t close_generation;
    void (*closed_call)(void *context);
    void *closed_context;
    struct log_statistics statistics;
};

/* ---- segment.c ---- */

struct segment *segment_new(struct log *log, const struct metadata_segment *info);
void segment_free(struct segment *segment);
struct segment *segment_of_block(const struct log *log, uint64_t block);
void segment_add_block(struct segment *segment, uint64_t block, uint64_t offset, uint64_t size);
/* File offset of the block, 0 when it cannot be read; *end: where what follows begins. */
uint64_t segment_block_offset(const struct segment *segment, uint64_t block, uint64_t *end);
void segment_index_block(struct segment *segment, const struct block *block);
/* The rest of the footer; closed and sealed, ready to be written. */
void segment_finish_index(struct segment *segment);
void segments_sort(struct log *log);
void segment_drop(struct segment *segment); /* out of the table and the metadata, then removed */
void segments_metadata_done(struct log *log);
void segment_name(uint64_t id, char name[SEGMENT_NAME_SIZE]);
bool segment_name_parse(const char *name, uint64_t *id);

/* ---- metadata.c ---- */

/* Something in it has changed: it will be written. Returns the generation that has the change. */
uint64_t metadata_touch(struct log *log);
void metadata_retry(struct timer *timer);
bool metadata_has(const struct log *log, uint64_t generation);

/* ---- keys.c ---- */

void keys_init(struct log *log);
void keys_fini(struct log *log);

/* The keys of a segment that is made, or was found (E_KEY). */
void keys_make(struct segment *segment);
int keys_find(struct segment *segment, struct failure *failure) MUST_CHECK;

/* Data keys that are wrapped in an older master key than the first are wrapped in that one. */
void keys_rewrap(struct log *log);
void keys_statistics(const struct log *log, struct log_statistics *statistics);

/* ---- writer.c ---- */

void writer_init(struct log *log);
void store_do(struct log *log, struct store_request *request);
void store_did(struct log *log); /* at the begin of each completion of that */

/* Sends a block out if one is due and none is on its way. */
void writer_pump(struct log *log);
void writer_defer_commit(struct log *log); /* the same, in the COMMIT phase */
void writer_metadata_done(struct log *log);
void writer_close_open(struct log *log); /* the open block becomes a closed one */
void writer_fail(struct log *log, const struct failure *why);
void segment_create(struct log *log);
/* Writes footer and trailer at the offset, and seals. */
void segment_close(struct segment *segment, uint64_t offset);
struct block *block_in_memory(const struct log *log, uint64_t number);
uint64_t log_unsynced(const struct log *log);
bool writer_is_idle(const struct log *log);

/* ---- append.c ---- */

void append_flush_settled(struct log *log);
void append_checkpoint_end(struct log *log, uint64_t replay_block);

/* ---- checkpoint.c ---- */

void checkpoint_init(struct log *log);
void checkpoint_synced(struct log *log); /* log->synced has grown */
void checkpoint_count(struct log *log, uint64_t size);
void checkpoint_metadata_done(struct log *log);
void states_add(struct log *log, uint64_t queue, uint64_t first, uint64_t last);
void states_set(struct log *log, struct queue_state *state, uint64_t first, uint64_t last);
void states_fini(struct log *log);
void checkpoint_when_full(struct log *log);
struct queue_state *states_get(struct log *log, uint64_t queue);
void reclaim_defer(struct log *log);

/* ---- reader.c ---- */

/* Brings bytes of a segment, through the cache. Embedded by those who read. */
struct fetch {
    struct log *log;
    struct segment *segment; /* held (readers) while set */
    struct buffer *buffer;
    uint64_t offset;
    size_t ahead;          /* read at least so much, when something must be read */
    struct chunk chunk;    /* the one checked last, */
    uint64_t chunk_offset; /* at this offset; 0: none */
    bool in_flight;
    struct store_request request;
    struct list link; /* of segment->waiting */
    void (*done)(struct fetch *fetch, int result);
};

void fetch_init(struct fetch *fetch, struct log *log,
                void (*done)(struct fetch *fetch, int result));
void fetch_fini(struct fetch *fetch);

/* 0: *bytes are there (good until the next call); E_AGAIN: done() follows, then ask again; errors
 * come through done(). Fewer than `size` where the file ends. */
int fetch_bytes(struct fetch *fetch, struct segment *segment, uint64_t offset, size_t size,
                struct slice *bytes) MUST_CHECK;

/* The addressable record at the position. When it is spread over chunks it is put together in
 * *assembled, which the caller frees (buffer_unref). E_AGAIN as above; E_CORRUPT. */
int fetch_record(struct fetch *fetch, uint64_t position, struct record *record,
                 struct buffer **assembled, struct failure *failure) MUST_CHECK;
void reads_fini(struct log *log);
void segment_open(struct segment *segment, bool direct);
void segment_close_file(struct segment *segment);
void cache_forget(struct log *log, const struct segment *segment);

/* ---- recovery.c ---- */

void recovery_begin(struct log *log, const struct log_recovery *functions,
                    void (*opened)(void *context, int result, const struct log_opened *summary,
                                   const struct failure *failure));
void recovery_free(struct log *log);
void recovery_metadata_done(struct log *log);
void recovery_segment_closed(struct log *log);
void recovery_failed(struct log *log, const struct failure *why);

/* ---- log.c ---- */

void log_start(struct log *log); /* recovered: the open block is there from now on */
void log_step_close(struct log *log);

#endif
