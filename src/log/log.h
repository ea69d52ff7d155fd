/*
 * The log of one shard: everything that must survive is a record in one append-only sequence.
 * docs/log-format.md has the bytes, invariants and states; this header is what the layers above may
 * know.
 *
 * Terms. Records are appended to the open *block*, in memory. A block is written and synced as a
 * whole (group commit): while one is on its way the next fills. Blocks are numbered from 1, without
 * gaps, and belong to *segments* (files). A record's *position* is its block, chunk and place in
 * the chunk packed into 64 bits; positions grow, never change, and do not depend on the file in
 * which the block ends up. 0 is no position.
 *
 * What a record speaks of are *queues* by 64-bit id with a sequence each (1, 2, ...), given by the
 * layer above. The log does not know what they are; it counts, per segment, what is still live, and
 * removes segments in which nothing is. An id may also be that of something else that has a state
 * and changes: transactions, mail between shards.
 *
 * Life of a message in the log: log_append_message() -> (durable) -> log_settle() + log_release().
 * Appending reserves the room on disk of its own settlement, so settling never fails for lack of
 * room.
 *
 * Failure. A failed write or sync abandons the segment at its last durable block and carries the
 * blocks since, which are still in memory, to a new one; if that fails too, the log is FAILED:
 * appends answer E_FAILED, reads go on.
 */
#ifndef SLUICE_LOG_LOG_H
#define SLUICE_LOG_LOG_H

#include "base/logging.h"
#include "log/keyring.h"
#include "message/message.h"
#include "store/store.h"

struct log;

enum log_sync { LOG_SYNC_ALWAYS, LOG_SYNC_INTERVAL, LOG_SYNC_NEVER };

struct log_options {
    struct loop *loop;
    struct store *store; /* borrowed; outlives the log */
    const struct logger *logger;
    struct account *account; /* messages that log_read() makes are charged here */
    enum log_sync sync;
    uint32_t sync_interval_ms;            /* for LOG_SYNC_INTERVAL */
    uint32_t segment_bytes_min;           /* 8 MiB; tests take less */
    uint32_t segment_bytes_max;           /* 128 MiB */
    uint32_t checkpoint_bytes;            /* of log between checkpoints: 256 MiB */
    uint32_t unsynced_bytes_max;          /* then log_has_room() is false: 32 MiB */
    uint32_t lazy_commit_ms;              /* records nobody waits for are written after this: 20 */
    uint64_t disk_reserve_bytes;          /* kept free for settlements, checkpoints and reclaim */
    const struct keyring *keys;           /* copied; NULL: there are none */
    bool encrypts;                        /* new segments, under the first of these keys */
    const struct cipher_witness *witness; /* tests: borrowed; NULL */
};

void log_options_default(struct log_options *options);

/* What the log tells the layer above, always from a turn of its own, never from inside a call. */
struct log_events {
    /* All blocks up to this one are durable (or, with another sync policy, written). */
    void (*durable)(void *context, uint64_t block);

    /* The log is FAILED: no block after the last durable one will ever be. */
    void (*failed)(void *context, const struct failure *why);

    /* log_has_room() has become true again. */
    void (*room)(void *context);

    /* A checkpoint is due: the layer above writes, in slices of a turn, log_append_state() for
     * every queue that changed since it last did so, plus those of log_state_is_wanted(); the
     * catalog's snapshot when `catalog` says so; then calls log_checkpoint_end(). */
    void (*checkpoint)(void *context, bool catalog);
};

/* What recovery finds, in this order: catalog (from the newest complete snapshot on, in log order),
 * then the newest state of each queue, then messages and the rest in log order, each only when no
 * state that was told covers it (settlements, returns, times, marks and changes) or for a segment
 * that still exists (messages, which may be settled long since: the layer above compares with the
 * state, and answers log_release() for each one it does not keep). */
struct log_recovery {
    void (*catalog)(void *context, struct slice bytes);
    void (*state)(void *context, uint64_t queue, struct slice bytes, uint64_t position);
    /* size: bytes of body; lane and due_ms: as appended */
    void (*message)(void *context, uint64_t queue, uint64_t sequence, uint64_t position,
                    uint64_t size, uint16_t lane, uint64_t due_ms);
    void (*settled)(void *context, uint64_t queue, uint64_t first, uint64_t last, unsigned why);
    void (*returned)(void *context, uint64_t queue, uint64_t first, uint64_t last, uint32_t count);
    void (*postponed)(void *context, uint64_t queue, uint64_t sequence, uint64_t due_ms);
    void (*delivered)(void *context, uint64_t queue, uint64_t sequence);
    void (*change)(void *context, uint64_t queue, struct slice bytes);
    /* Something is wrong with what was durable: named, set aside, the rest goes on. This outlives
     * the start that found it: it is told again, first of all, at each later one, until an operator
     * accepts it (log_accept_damage()). */
    void (*corrupt)(void *context, const struct failure *what);
    /* All has been told, and nothing in the store was changed yet. An error refuses the log: it
     * does not open, and the store stays as it was found. */
    int (*told)(void *context, struct failure *failure);
};

struct log_opened {
    uint64_t blocks_replayed, records_replayed;
    uint64_t torn_bytes;     /* cut off the tail: never confirmed */
    uint64_t corrupt_blocks; /* were durable and cannot be read */
    bool clean;              /* the log had been closed cleanly */
};

/* Recovers, then calls opened(context, result, summary) once: 0, E_VERSION (another format),
 * E_CORRUPT (nothing can be trusted: the metadata), E_KEY, E_IO, E_FULL. The functions of
 * `recovery` are called before that, in slices over several turns. Events start after. On an error
 * log_free() is all that is left to do. Nothing is written before all has been told. */
struct log *log_open(const struct log_options *options, const struct log_events *events,
                     const struct log_recovery *recovery, void *context,
                     void (*opened)(void *context, int result, const struct log_opened *summary,
                                    const struct failure *failure));

/* The layer above has found damage in what it was told: as if recovery had. */
void log_set_damaged(struct log *log);

/* ---- encryption: docs/log-format.md ---- */

/* Other master keys, from now on. Data keys that are wrapped in an older one than the first are
 * wrapped in that one; when that is durable, log_statistics() says so. E_CLOSED; E_KEY, and nothing
 * changes: a key is missing that segments are still wrapped in, or is another one under the same
 * id. */
int log_set_keys(struct log *log, const struct keyring *keys, struct failure *failure) MUST_CHECK;

/* As far as is known to be durable. */
bool log_key_is_needed(const struct log *log, uint32_t id);

/* Whether all segments of a log that is not open can be read with these keys (NULL: none), and
 * changes nothing. Then done(context, result, failure): 0, also where there is no log yet; E_KEY;
 * E_IO, E_VERSION, E_CORRUPT (the metadata). The keys stay until then. */
void log_check_keys(struct store *store, const struct keyring *keys,
                    void (*done)(void *context, int result, const struct failure *failure),
                    void *context);

/* For an operator, of a log that is not open: what was found damaged is accepted as lost. Then
 * done(context, result, failure): 0; E_NOT_FOUND: no damage is known; E_IO, E_VERSION, E_CORRUPT
 * (the metadata). */
void log_accept_damage(struct store *store,
                       void (*done)(void *context, int result, const struct failure *failure),
                       void *context);

/* Commits what is open, writes the clean mark and closes; then closed(context). Nothing may be
 * appended any more. The layer above has written a last checkpoint if it wants a fast start. */
void log_close(struct log *log, void (*closed)(void *context), void *context);

/* After closed(), after a failed open, or with everything given up (simulation: the loop is gone,
 * too). */
void log_free(struct log *log);

/* ---- appending: into the open block; nothing is durable until events.durable says so ---- */

#define LOG_TARGETS_MAX     65535u       /* queues of one message record */
#define LOG_GROUP_BYTES_MAX (8u << 20)   /* of one group, bodies over LOG_PART_BYTES not counted */
#define LOG_PART_BYTES      (256u << 10) /* larger bodies are logged as parts */

#define LOG_LANE_DUE 0x8000u

struct log_target {
    uint64_t queue;
    uint64_t sequence;
    uint16_t lane;   /* priority or bucket, for whoever rebuilds an index without the body */
    uint64_t due_ms; /* a time, likewise; kept where the lane has LOG_LANE_DUE, else 0 */
};

/* One record however many queues. The message is referenced until its block is durable. E_FULL: no
 * room on disk; E_FAILED. */
int log_append_message(struct log *log, struct message *message, const struct log_target *targets,
                       size_t count, uint64_t *position) MUST_CHECK;

/* Adjacent calls of the same queue, adjacent sequences and the same reason become one record. The
 * rest of this group never fails: in a FAILED log it does nothing. */
void log_settle(struct log *log, uint64_t queue, uint64_t first, uint64_t last, unsigned why);
void log_append_returned(struct log *log, uint64_t queue, uint64_t first, uint64_t last,
                         uint32_t count);
void log_append_delivered(struct log *log, uint64_t queue, uint64_t sequence);

/* That message of the queue has another time now than the one that it was appended with. */
void log_append_postponed(struct log *log, uint64_t queue, uint64_t sequence, uint64_t due_ms);

/* One target of the message at this position is not needed any more. */
void log_release(struct log *log, uint64_t position);

/* A queue's whole state, of at most LOG_STATE_MAX bytes (longer states come as several parts: all
 * but the last with `more`, uninterrupted). It replaces the one before, whose room may be reclaimed
 * once the checkpoint is complete. */
#define LOG_STATE_MAX (48u << 10)
void log_append_state(struct log *log, uint64_t queue, struct slice bytes, bool more);
bool log_state_is_wanted(const struct log *log,
                         uint64_t queue); /* its old state holds up a segment */
void log_drop_state(struct log *log,
                    uint64_t queue); /* the queue is deleted; also while it opens */

/* For checks: has it a state that is not dropped; and how many ids have one? */
bool log_has_state(const struct log *log, uint64_t queue);
size_t log_state_count(const struct log *log);

/* A change of the state of whatever the layer above keeps under this id: at most LOG_CHANGE_MAX
 * bytes that the log does not look into. An id with changes since its last log_append_state() is
 * for a checkpoint what a queue is that changed: its state must be written again. A dropped state
 * covers nothing, so what ends an id is a change, too; changes of an id that has ended may be told.
 *
 * A change may make others necessary that must not fail (a transaction that is prepared must be
 * decided): `promise` bytes of the disk are kept for them, the sum of log_change_bytes() of each.
 * E_FULL: no room for the change and its promise; E_FAILED. In a group, its bytes include both. */
#define LOG_CHANGE_MAX (56u << 10)
int log_append_change(struct log *log, uint64_t queue, struct slice bytes,
                      size_t promise) MUST_CHECK;

/* A change that was promised: never fails, in a FAILED log does nothing. `fulfilled` bytes of
 * promises are over with it (those of the whole transaction, with its last). */
void log_append_promised(struct log *log, uint64_t queue, struct slice bytes, size_t fulfilled);

/* Promises outlive a restart: the layer above repeats those that it finds, before it appends. */
void log_promise(struct log *log, size_t bytes);

/* What a change of this size takes of a group's bytes or a promise. */
size_t log_change_bytes(size_t size);

/* A catalog event, or, between begin and end, an item of a snapshot: events may come in between. At
 * most LOG_CATALOG_MAX bytes each. E_FULL, E_FAILED. */
#define LOG_CATALOG_MAX (56u << 10)
int log_append_catalog(struct log *log, struct slice bytes) MUST_CHECK;
void log_snapshot_begin(struct log *log);
void log_snapshot_item(struct log *log, struct slice bytes);
void log_snapshot_end(struct log *log);

void log_checkpoint_end(struct log *log);

/* Ask for a checkpoint now (before a clean stop). events.checkpoint follows, unless one is running.
 */
void log_checkpoint(struct log *log);

/* Records appended between begin and end are in one block, so they happen together or not at all.
 * `bytes` is what they need at the most, without bodies over LOG_PART_BYTES: E_LIMIT over
 * LOG_GROUP_BYTES_MAX, E_FULL, E_FAILED; after 0 the appends inside cannot fail. */
int log_group_begin(struct log *log, size_t bytes) MUST_CHECK;
void log_group_end(struct log *log);

/* What log_append_message() takes of a group's bytes. */
size_t log_message_bytes(const struct message *message, size_t targets);

/* The number of the block that the last appended record is in. Wait for events.durable with a
 * number not below it. */
uint64_t log_block_last(const struct log *log);
uint64_t log_block_durable(const struct log *log);

/* Somebody waits for the open block: it goes out at the end of this turn, or when the one on its
 * way is durable. Without this, after lazy_commit_ms or when it is large. */
void log_commit(struct log *log);

/* Grows with each time that the log is opened, and that is durable by then. */
uint64_t log_epoch(const struct log *log);

bool log_has_room(const struct log *log);
bool log_is_failed(const struct log *log);

/* ---- reading back ---- */

#define LOG_READ_MAX 64

/* Embedded by the caller, still until done. */
struct log_read {
    uint64_t positions[LOG_READ_MAX];
    size_t count;
    /* Out, one reference each for the caller; NULL where results[i] is an error: E_CORRUPT, E_IO,
     * E_MEMORY. */
    struct message *messages[LOG_READ_MAX];
    int results[LOG_READ_MAX];
    void (*done)(struct log_read *read);

    struct list link; /* the log's */
    void *internal;
};

/* Positions in growing order read best: a chunk that several are in is read once. Completes in a
 * later turn. */
void log_read(struct log *log, struct log_read *read);

/* ---- looking at it ---- */

struct log_statistics {
    uint64_t blocks, bytes_written, syncs, sync_ns_total, sync_ns_max;
    uint64_t segments, segment_bytes, live_messages;
    uint64_t checkpoints, segments_removed, reads, read_bytes, write_failures, quarantined;
    uint64_t corrupt_reads;
    uint64_t unsynced_bytes;
    struct {
        uint64_t segments, bytes; /* encrypted ones */
        uint64_t behind; /* of those, wrapped in an older master key than the first, as far as is
                            durable: until there are none, it is needed */
        uint64_t plain_segments, plain_bytes; /* what of the log is there in the clear */
        uint32_t master_key;                  /* id of the first; 0: there is none */
        uint32_t needed[KEYRING_MAX];         /* ids of those that log_key_is_needed() */
        unsigned needed_count;
    } encryption;
};

void log_statistics(const struct log *log, struct log_statistics *statistics);

void log_check(const struct log *log);

#endif
