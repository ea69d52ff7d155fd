/*
 * The guarded metadata: one value that lists the segments, says where replay starts, and whether
 * the log was closed cleanly. Changes are counted in generations; one write is under way at a time
 * and brings whatever was changed until it was made.
 */
#include "log/log_private.h"

#include <stdlib.h>

static void write_now(struct log *log);

bool metadata_has(const struct log *log, uint64_t generation)
{
    return log->metadata.durable >= generation;
}

static void done(struct store_request *request)
{
    struct log_metadata *metadata = CONTAINER_OF(request, struct log_metadata, request);
    struct log *log = CONTAINER_OF(metadata, struct log, metadata);

    store_did(log);
    metadata->in_flight = false;
    free(metadata->bytes);
    metadata->bytes = NULL;
    if (request->result < 0) {
        if (request->result == E_FENCED || ++metadata->failures > RETRIES_MAX) {
            writer_fail(log, &request->failure);
            return;
        }
        timer_set(&metadata->retry, loop_now_ns(log->loop) + RETRY_DELAY_MS * NANOSECONDS_PER_MS);
        return;
    }
    metadata->failures = 0;
    metadata->version = request->version;
    metadata->durable = metadata->written;
    metadata->replay_durable = metadata->replay_written;
    if (metadata->generation > metadata->durable)
        write_now(log);
    segments_metadata_done(log);
    recovery_metadata_done(log);
    checkpoint_metadata_done(log);
    writer_metadata_done(log);
    log_step_close(log);
}

static bool is_listed(const struct segment *segment)
{
    return segment->phase != SEGMENT_REMOVING && segment->listed != 0;
}

static void write_now(struct log *log)
{
    struct log_metadata *m = &log->metadata;
    struct metadata_segment *entries = memory_new((log->segments_count + 1) * sizeof *entries);
    struct metadata value = {
        .epoch = log->epoch,
        .replay_block = m->replay_block,
        .durable_block = log->synced,
        .segment_next = log->segment_next,
        .clean = m->clean,
        .damaged = m->damaged,
    };

    ASSERT(!m->in_flight && !m->bytes);
    for (size_t i = 0; i < log->segments_count; i++) {
        const struct segment *segment = log->segments[i];
        if (is_listed(segment))
            entries[value.segments_count++] = segment->info;
    }
    size_t size = metadata_size(entries, value.segments_count);
    m->bytes = memory_new(size);
    metadata_encode(&value, entries, m->bytes, size);
    free(entries);
    m->slice = (struct iovec){m->bytes, size};
    m->written = m->generation;
    m->replay_written = m->replay_block;
    m->in_flight = true;
    m->request = (struct store_request){.operation = STORE_META_WRITE,
                                        .slices = &m->slice,
                                        .slices_count = 1,
                                        .version = m->version,
                                        .done = done};
    store_do(log, &m->request);
}

void metadata_retry(struct timer *timer)
{
    struct log_metadata *metadata = CONTAINER_OF(timer, struct log_metadata, retry);
    struct log *log = CONTAINER_OF(metadata, struct log, metadata);

    if (!metadata->in_flight && !log->has_failed)
        write_now(log);
}

void log_set_damaged(struct log *log)
{
    if (log->metadata.damaged)
        return;
    log->metadata.damaged = true;
    if (log->phase == LOG_RUNNING) /* while it opens, that comes at the end */
        metadata_touch(log);
}

uint64_t metadata_touch(struct log *log)
{
    struct log_metadata *metadata = &log->metadata;

    metadata->generation++;
    if (!metadata->in_flight && !timer_is_set(&metadata->retry) && !log->has_failed)
        write_now(log);
    return metadata->generation;
}
