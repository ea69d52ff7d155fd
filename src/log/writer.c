/*
 * The way of blocks to the store: group commit, segments that roll, are closed with a footer and
 * are made ahead, and what happens when a write fails.
 *
 *   open --writer_close_open()--> closed --submit()--> flight --confirm()--> durable, freed
 *                                   ^                    |
 *                                   +---- write_failed --+   (once; the second time: FAILED)
 */
#include "log/log_private.h"

#include <stdlib.h>

/* A segment that fills faster than this makes the next one twice as large, slower than that half.
 */
#define FILL_FAST_NS (10000u * NANOSECONDS_PER_MS)
#define FILL_SLOW_NS (600000u * NANOSECONDS_PER_MS)

uint64_t log_unsynced(const struct log *log)
{
    return log->bytes_in_memory + (log->open ? block_bytes(log->open) : 0);
}

struct block *block_in_memory(const struct log *log, uint64_t number)
{
    if (log->open && log->open->header.block == number)
        return log->open;
    if (log->flight && log->flight->header.block == number)
        return log->flight;
    LIST_EACH (&log->closed, link) {
        struct block *block = CONTAINER_OF(link, struct block, link);
        if (block->header.block == number)
            return block;
    }
    return NULL;
}

static bool open_is_empty(const struct log *log)
{
    return block_is_empty(log->open) && log->settled.queue == 0;
}

bool writer_is_idle(const struct log *log)
{
    return !log->flight && list_empty(&log->closed) && open_is_empty(log);
}

void store_do(struct log *log, struct store_request *request)
{
    log->outstanding++;
    store_submit(log->store, request);
}

void store_did(struct log *log)
{
    ASSERT(log->outstanding > 0);
    log->outstanding--;
    log_step_close(log);
}

/* ---- failing for good ---- */

static void tell_failed(struct task *task)
{
    struct log *log = CONTAINER_OF(task, struct log, failed_task);

    if (log->events.failed)
        log->events.failed(log->context, &log->failure);
}

void writer_fail(struct log *log, const struct failure *why)
{
    if (log->has_failed)
        return;
    log->has_failed = true;
    log->failure = *why;
    log_error(log->options.logger, "log", "no more is written: %s", why->text);
    timer_stop(&log->lazy);
    timer_stop(&log->mark);
    timer_stop(&log->sync_timer);
    timer_stop(&log->spare_retry);
    timer_stop(&log->metadata.retry);
    if (log->phase == LOG_RECOVERING)
        recovery_failed(log, why);
    else if (log->phase == LOG_CLOSING)
        log_step_close(log);
    else
        loop_defer(log->loop, &log->failed_task, LOOP_DISPATCH);
}

/* ---- a write of many slices, in as many requests as the store wants ---- */

/* As many slices from `at` on as fit one request; their bytes. */
static void slices_window(const struct log *log, struct iovec *slices, size_t count, size_t *at,
                          struct store_request *request, uint64_t *bytes)
{
    uint64_t max = store_capabilities(log->store)->write_max;
    int taken = 0;

    *bytes = 0;
    while (*at + (size_t)taken < count && taken < (int)STORE_SLICES_MAX &&
           (taken == 0 || *bytes + slices[*at + (size_t)taken].iov_len <= max))
        *bytes += slices[*at + (size_t)taken++].iov_len;
    request->slices = slices + *at;
    request->slices_count = taken;
    *at += (size_t)taken;
}

/* The same of what is encrypted on the way. */
static void sealed_window(struct sealing *sealing, struct store_request *request, uint64_t *bytes)
{
    sealing_next(sealing);
    request->slices = &sealing->window;
    request->slices_count = 1;
    *bytes = sealing->size;
}

/* ---- segments: made ahead ---- */

static void create_failed(struct segment *segment, const struct failure *failure)
{
    struct log *log = segment->log;
    size_t at = 0;

    if (log->spare_failures == 0) /* it is tried again and again; one line will do */
        log_warning(log->options.logger, "log", "%s cannot be made: %s", segment->name,
                    failure->text);
    log->statistics.write_failures++;
    log->is_creating = false;
    while (log->segments[at] != segment)
        at++;
    memmove(&log->segments[at], &log->segments[at + 1],
            (log->segments_count - at - 1) * sizeof *log->segments);
    log->segments_count--;
    segment->phase = SEGMENT_REMOVING;
    segment->listed = 0;
    list_append(&log->removing, &segment->link);
    segments_metadata_done(log);
    if (++log->spare_failures >= WRITE_FAILURES_MAX && !log->active) {
        writer_fail(log, failure);
        return;
    }
    if (!log->has_failed)
        timer_set(&log->spare_retry, loop_now_ns(log->loop) + RETRY_DELAY_MS * NANOSECONDS_PER_MS);
    log_step_close(log);
}

static void header_written(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, request);
    struct log *log = segment->log;

    store_did(log);
    free(segment->bytes);
    segment->bytes = NULL;
    free(segment->slices);
    segment->slices = NULL;
    if (request->result < 0) {
        create_failed(segment, &request->failure);
        return;
    }
    segment->end = SEGMENT_HEADER_SIZE;
    segment->listed = UINT64_MAX;
    segment->listed = metadata_touch(log);
}

static void created(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, request);
    struct log *log = segment->log;
    struct segment_header header = {
        .id = segment->info.id,
        .epoch = segment->info.epoch,
        .created_ms = loop_wall_ms(log->loop),
        .is_encrypted = segment_is_encrypted(segment),
    };

    store_did(log);
    if (request->result < 0) {
        create_failed(segment, &request->failure);
        return;
    }
    segment->file = request->file;
    log->files_open++;
    segment->bytes = memory_new(SEGMENT_HEADER_SIZE);
    segment_header_encode(&header, segment->bytes);
    segment->slices = memory_new(sizeof *segment->slices);
    segment->slices[0] = (struct iovec){segment->bytes, SEGMENT_HEADER_SIZE};
    segment->request = (struct store_request){.operation = STORE_WRITE_SYNC,
                                              .file = segment->file,
                                              .slices = segment->slices,
                                              .slices_count = 1,
                                              .done = header_written};
    store_do(log, &segment->request);
}

void segment_create(struct log *log)
{
    if (log->is_creating || log->spare || log->has_failed || timer_is_set(&log->spare_retry))
        return;
    struct metadata_segment info = {.id = log->segment_next++, .epoch = log->epoch};
    struct segment *segment = segment_new(log, &info);
    log->is_creating = true;
    if (log->options.encrypts)
        keys_make(segment);
    segment->target_bytes = log->segment_bytes;
    segment->request = (struct store_request){.operation = STORE_CREATE,
                                              .name = segment->name,
                                              .size = segment->target_bytes,
                                              .done = created};
    store_do(log, &segment->request);
}

static void writer_spare_retry(struct timer *timer)
{
    struct log *log = CONTAINER_OF(timer, struct log, spare_retry);

    writer_pump(log);
}

/* ---- segments: closed with a footer ---- */

static void close_ended(struct segment *segment, const struct store_request *request,
                        uint32_t flags)
{
    struct log *log = segment->log;

    if (request->result < 0) {
        log_warning(log->options.logger, "log", "%s has no footer: %s", segment->name,
                    request->failure.text);
        log->statistics.write_failures++;
    }
    free(segment->bytes);
    segment->bytes = NULL;
    free(segment->slices);
    segment->slices = NULL;
    sealing_fini(&segment->sealing);
    if (segment->index)
        block_free(segment->index);
    segment->index = NULL;
    segment->phase = SEGMENT_DONE;
    segment->info.flags |= flags;
    log->segments_closing--;
    if (request->result < 0 && log->options.sync != LOG_SYNC_ALWAYS)
        writer_fail(log, &request->failure);
    else if (log->segments_closing == 0 && log->synced < segment->info.last_block)
        log->synced = segment->info.last_block;
    checkpoint_synced(log);
    metadata_touch(log);
    if (log->phase == LOG_RECOVERING)
        recovery_segment_closed(log);
    reclaim_defer(log);
    log_step_close(log);
}

static void seal_done(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, request);

    store_did(segment->log);
    close_ended(segment, request,
                request->result < 0 ? SEGMENT_ENDED : SEGMENT_ENDED | SEGMENT_SEALED);
}

static void footer_next(struct segment *segment);

static bool footer_is_sent(const struct segment *segment)
{
    if (segment_is_encrypted(segment))
        return sealing_is_over(&segment->sealing);
    return segment->slices_at == segment->slices_count;
}

static void footer_written(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, request);
    struct log *log = segment->log;

    store_did(log);
    if (request->result < 0) {
        close_ended(segment, request, SEGMENT_ENDED);
        return;
    }
    if (!footer_is_sent(segment)) {
        footer_next(segment);
        return;
    }
    segment->request =
        (struct store_request){.operation = STORE_SEAL, .file = segment->file, .done = seal_done};
    store_do(log, &segment->request);
}

static void footer_next(struct segment *segment)
{
    uint64_t bytes;

    segment->request = (struct store_request){.operation = STORE_WRITE,
                                              .file = segment->file,
                                              .offset = segment->write_offset,
                                              .done = footer_written};
    if (segment_is_encrypted(segment))
        sealed_window(&segment->sealing, &segment->request, &bytes);
    else
        slices_window(segment->log, segment->slices, segment->slices_count, &segment->slices_at,
                      &segment->request, &bytes);
    segment->write_offset += bytes;
    store_do(segment->log, &segment->request);
}

/* Under a key that no other footer has: not one that a crash has cut off, nor one that another
 * process writes which goes on from a copy. */
static void footer_seal(struct segment *segment, uint64_t salt)
{
    uint8_t key[CIPHER_KEY_SIZE];

    segment->salt = salt;
    segment_keys_footer(&segment->keys, salt, key);
    sealing_begin(&segment->sealing, segment->log->cipher, key, &segment->index->header,
                  segment->slices, segment->slices_count);
    cipher_wipe(key, sizeof key);
}

void segment_close(struct segment *segment, uint64_t offset)
{
    struct log *log = segment->log;

    ASSERT(segment->info.first_block > 0);
    segment->phase = SEGMENT_CLOSING;
    log->segments_closing++;
    segment_finish_index(segment);
    segment->info.end = segment->end;
    if (log->options.sync == LOG_SYNC_ALWAYS || log->phase == LOG_RECOVERING)
        segment->info.flags |= SEGMENT_ENDED; /* all its blocks are durable */
    struct block *index = segment->index;
    struct trailer trailer = {segment->info.id,          segment->info.epoch,      offset,
                              segment->info.first_block, segment->info.last_block, 0};
    if (segment_is_encrypted(segment))
        trailer.salt = loop_random(log->loop);
    segment->bytes = memory_new(TRAILER_SIZE);
    trailer_encode(&trailer, segment->bytes);
    segment->slices = memory_new((index->slices_count + 1) * sizeof *segment->slices);
    memcpy(segment->slices, index->slices, index->slices_count * sizeof *segment->slices);
    segment->slices[index->slices_count] = (struct iovec){segment->bytes, TRAILER_SIZE};
    segment->slices_count = index->slices_count + 1;
    segment->slices_at = 0;
    segment->write_offset = offset;
    if (segment_is_encrypted(segment))
        footer_seal(segment, trailer.salt);
    footer_next(segment);
}

/* ---- which segment ---- */

static void adapt_size(struct log *log, const struct segment *full)
{
    uint64_t took_ns = loop_now_ns(log->loop) - full->began_ns;

    if (took_ns < FILL_FAST_NS && log->segment_bytes * 2 <= log->options.segment_bytes_max)
        log->segment_bytes *= 2;
    else if (took_ns > FILL_SLOW_NS && log->segment_bytes / 2 >= log->options.segment_bytes_min)
        log->segment_bytes /= 2;
}

static void roll(struct log *log)
{
    if (log->active) {
        adapt_size(log, log->active);
        segment_close(log->active, log->active->end);
    }
    log->active = log->spare;
    log->spare = NULL;
    log->active->phase = SEGMENT_ACTIVE;
    log->active->began_ns = loop_now_ns(log->loop);
}

/* The segment for the next block, or NULL: one is being made. Without a spare the old one grows
 * beyond its size rather than let anybody wait. */
static struct segment *segment_for(struct log *log, uint64_t size)
{
    struct segment *active = log->active;
    bool fits =
        active && (active->offsets_count == 0 || active->end + size <= active->target_bytes);
    uint64_t file_max = store_capabilities(log->store)->file_max;
    bool may = active && (active->offsets_count == 0 || active->end + size <= file_max / 2);

    if (!fits && log->spare)
        roll(log);
    else if (!may) {
        segment_create(log);
        return NULL;
    }
    if (!log->spare && log->active->end + size > log->active->target_bytes / 2)
        segment_create(log);
    return log->active;
}

/* ---- blocks ---- */

void writer_close_open(struct log *log)
{
    struct block *block = log->open;

    ASSERT(!log->in_group);
    append_flush_settled(log);
    block_close(block, log->options.encrypts);
    list_append(&log->closed, &block->link);
    log->bytes_in_memory += block_bytes(block);
    log->open = block_new(&log->pool, log->epoch, block->header.block + 1, 0);
    log->commit_wanted = false;
    timer_stop(&log->lazy);
}

static void flight_done(struct store_request *request);

static bool flight_is_sent(const struct log *log)
{
    if (log->flight->is_encrypted)
        return sealing_is_over(&log->sealing);
    return log->write_slices_at == log->flight->slices_count;
}

static void flight_next(struct log *log)
{
    struct block *block = log->flight;
    uint64_t bytes;

    log->write = (struct store_request){.operation = STORE_WRITE,
                                        .file = log->active->file,
                                        .offset = log->write_offset,
                                        .done = flight_done};
    if (block->is_encrypted)
        sealed_window(&log->sealing, &log->write, &bytes);
    else
        slices_window(log, block->slices, block->slices_count, &log->write_slices_at, &log->write,
                      &bytes);
    if (flight_is_sent(log) && log->options.sync == LOG_SYNC_ALWAYS &&
        !store_capabilities(log->store)->write_is_durable)
        log->write.operation = STORE_WRITE_SYNC;
    log->write_offset += bytes;
    store_do(log, &log->write);
}

/* Once for each block and segment: after an error it goes to another segment, with other keys. */
static void flight_seal(struct log *log, struct segment *segment)
{
    const struct block *block = log->flight;

    ASSERT(segment_is_encrypted(segment) && segment->info.epoch == log->epoch);
    ASSERT(segment->sealed_block < block->header.block);
    segment->sealed_block = block->header.block;
    sealing_begin(&log->sealing, log->cipher, segment->keys.blocks, &block->header, block->slices,
                  block->slices_count);
}

static void submit(struct log *log, struct segment *segment, struct block *block)
{
    ASSERT(!log->flight && block->header.block == log->durable + 1);
    list_remove(&block->link);
    block_seal(block, segment->info.id, log->synced, loop_wall_ms(log->loop));
    log->flight = block;
    log->flight_is_written = false;
    log->write_slices_at = 0;
    log->write_offset = segment->end;
    log->write_began_ns = loop_precise_ns(log->loop);
    timer_stop(&log->mark);
    if (block->is_encrypted)
        flight_seal(log, segment);
    flight_next(log);
}

void writer_pump(struct log *log)
{
    if (log->has_failed || log->flight || (log->phase != LOG_RUNNING && log->phase != LOG_CLOSING))
        return;
    if (list_empty(&log->closed)) {
        bool due = log->commit_wanted || block_bytes(log->open) >= BLOCK_LARGE_BYTES ||
                   log->phase == LOG_CLOSING;
        if (open_is_empty(log) || !due)
            return;
        writer_close_open(log);
    }
    struct block *block = CONTAINER_OF(list_first(&log->closed), struct block, link);
    struct segment *segment = segment_for(log, block_bytes(block));
    if (segment)
        submit(log, segment, block);
}

static void writer_commit(struct task *task)
{
    writer_pump(CONTAINER_OF(task, struct log, commit_task));
}

void writer_defer_commit(struct log *log)
{
    loop_defer(log->loop, &log->commit_task, LOOP_COMMIT);
}

static void writer_lazy(struct timer *timer)
{
    struct log *log = CONTAINER_OF(timer, struct log, lazy);

    log->commit_wanted = true;
    writer_defer_commit(log);
}

/* ---- durable ---- */

static void count_write(struct log *log, uint64_t size)
{
    uint64_t took_ns = loop_precise_ns(log->loop) - log->write_began_ns;

    log->statistics.blocks++;
    log->statistics.bytes_written += size;
    log->statistics.syncs += log->options.sync == LOG_SYNC_ALWAYS;
    log->statistics.sync_ns_total += took_ns;
    if (took_ns > log->statistics.sync_ns_max)
        log->statistics.sync_ns_max = took_ns;
}

static void tell_room(struct task *task)
{
    struct log *log = CONTAINER_OF(task, struct log, room_task);

    if (log_has_room(log) && log->events.room)
        log->events.room(log->context);
}

static void arm_mark(struct log *log)
{
    if (log->durable > log->mark_block && log->options.sync != LOG_SYNC_NEVER &&
        log->phase == LOG_RUNNING)
        timer_set(&log->mark, loop_now_ns(log->loop) + MARK_DELAY_MS * NANOSECONDS_PER_MS);
}

static void confirm(struct log *log)
{
    struct block *block = log->flight;
    struct segment *segment = log->active;
    uint64_t size = block_bytes(block);
    bool had_room = log_has_room(log);
    bool is_first = segment->offsets_count == 0;
    segment_add_block(segment, block->header.block, segment->end, size);
    if (is_first)
        segments_sort(log);
    segment_index_block(segment, block);
    segment->live += block->live;
    if (segment->released_block < block->released_block)
        segment->released_block = block->released_block;
    if (block->catalog_last)
        segment->catalog_last = block->catalog_last;
    log->durable = block->header.block;
    if (log->options.sync == LOG_SYNC_ALWAYS || store_capabilities(log->store)->write_is_durable)
        log->synced = log->durable;
    log->write_failures = 0;
    log->flight = NULL;
    log->bytes_in_memory -= size;
    count_write(log, size);
    block_free(block);
    checkpoint_synced(log);
    checkpoint_count(log, size);
    arm_mark(log);
    if (log->commit_wanted || !list_empty(&log->closed) || log->phase == LOG_CLOSING)
        writer_defer_commit(log);
    if (!had_room)
        loop_defer(log->loop, &log->room_task, LOOP_DISPATCH);
    if (log->phase == LOG_RUNNING && log->events.durable)
        log->events.durable(log->context, log->durable);
    log_step_close(log);
}

static void try_confirm(struct log *log)
{
    if (log->flight && log->flight_is_written && metadata_has(log, log->confirm_generation) &&
        !log->has_failed)
        confirm(log);
}

/* The segment ends at its last durable block. What came since is written again, elsewhere. */
static void abandon_active(struct log *log)
{
    struct segment *segment = log->active;

    log->active = NULL;
    segment->phase = SEGMENT_DONE;
    segment->info.flags |= SEGMENT_ENDED;
    segment->info.end = segment->end;
    if (segment->index)
        block_free(segment->index);
    segment->index = NULL;
    if (segment->offsets_count == 0) {
        segment_drop(segment);
        log->confirm_generation = log->metadata.generation;
    } else {
        log->confirm_generation = metadata_touch(log);
    }
}

static void flight_done(struct store_request *request)
{
    struct log *log = CONTAINER_OF(request, struct log, write);
    struct block *block = log->flight;

    store_did(log);
    if (log->has_failed) {
        log_step_close(log);
        return;
    }
    if (request->result == 0 && !flight_is_sent(log)) {
        flight_next(log);
        return;
    }
    if (request->result == 0) {
        log->flight_is_written = true;
        try_confirm(log);
        return;
    }
    log->statistics.write_failures++;
    log_warning(log->options.logger, "log", "block %llu could not be written to %s: %s",
                (unsigned long long)block->header.block, log->active->name, request->failure.text);
    if (++log->write_failures >= WRITE_FAILURES_MAX || log->options.sync != LOG_SYNC_ALWAYS) {
        writer_fail(log, &request->failure);
        return;
    }
    log->flight = NULL;
    list_prepend(&log->closed, &block->link);
    abandon_active(log);
    writer_pump(log);
}

void writer_metadata_done(struct log *log)
{
    struct segment *segment = NULL;

    for (size_t i = 0; i < log->segments_count && log->is_creating; i++) {
        segment = log->segments[i];
        if (segment->phase != SEGMENT_CREATING || segment->listed == 0 ||
            !metadata_has(log, segment->listed))
            continue;
        segment->phase = SEGMENT_SPARE;
        log->spare = segment;
        log->is_creating = false;
        log->spare_failures = 0;
        writer_defer_commit(log);
    }
    try_confirm(log);
}

/* An empty block behind the last durable one, so that a later bad read of that one is known for
 * corruption. */
static void writer_mark(struct timer *timer)
{
    struct log *log = CONTAINER_OF(timer, struct log, mark);

    if (log->has_failed || log->phase != LOG_RUNNING || !writer_is_idle(log))
        return;
    if (log->synced < log->durable) {
        arm_mark(log);
        return;
    }
    log->mark_block = log->open->header.block;
    writer_close_open(log);
    writer_pump(log);
}

/* ---- syncing by interval ---- */

static void synced(struct store_request *request)
{
    struct log *log = CONTAINER_OF(request, struct log, sync);

    store_did(log);
    log->is_syncing = false;
    log->statistics.syncs++;
    if (request->result < 0)
        writer_fail(log, &request->failure);
    else if (log->segments_closing == 0 && log->synced < log->sync_block)
        log->synced = log->sync_block;
    checkpoint_synced(log);
    log_step_close(log);
}

static void writer_sync(struct timer *timer)
{
    struct log *log = CONTAINER_OF(timer, struct log, sync_timer);

    if (log->has_failed || log->phase != LOG_RUNNING)
        return;
    timer_set(timer, loop_now_ns(log->loop) + log->options.sync_interval_ms * NANOSECONDS_PER_MS);
    if (log->is_syncing || log->synced == log->durable || !log->active)
        return;
    log->is_syncing = true;
    log->sync_block = log->durable;
    log->sync =
        (struct store_request){.operation = STORE_SYNC, .file = log->active->file, .done = synced};
    store_do(log, &log->sync);
}

void writer_init(struct log *log)
{
    list_init(&log->closed);
    list_init(&log->removing);
    task_init(&log->commit_task, writer_commit);
    task_init(&log->room_task, tell_room);
    task_init(&log->failed_task, tell_failed);
    timer_init(&log->lazy, log->loop, writer_lazy);
    timer_init(&log->mark, log->loop, writer_mark);
    timer_init(&log->sync_timer, log->loop, writer_sync);
    timer_init(&log->spare_retry, log->loop, writer_spare_retry);
}
