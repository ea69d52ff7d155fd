/* Opening, closing, and looking at a log as a whole. */
#include "log/log_private.h"

#include <stdlib.h>

void log_options_default(struct log_options *options)
{
    *options = (struct log_options){
        .sync = LOG_SYNC_ALWAYS,
        .sync_interval_ms = 1000,
        .segment_bytes_min = 8u << 20,
        .segment_bytes_max = 128u << 20,
        .checkpoint_bytes = 256u << 20,
        .unsynced_bytes_max = 32u << 20,
        .lazy_commit_ms = 20,
    };
}

static void run_close(struct task *task);

struct log *log_open(const struct log_options *options, const struct log_events *events,
                     const struct log_recovery *recovery, void *context,
                     void (*opened)(void *context, int result, const struct log_opened *summary,
                                    const struct failure *failure))
{
    struct log *log = memory_new(sizeof *log);

    ASSERT(options->loop && options->store && options->segment_bytes_min >= 4 * SECTOR_SIZE);
    ASSERT(options->segment_bytes_min <= options->segment_bytes_max);
    log->options = *options;
    log->loop = options->loop;
    log->store = options->store;
    log->events = *events;
    log->context = context;
    log->segment_bytes = options->segment_bytes_min;
    block_pool_init(&log->pool);
    list_init(&log->reads);
    keys_init(log);
    writer_init(log);
    checkpoint_init(log);
    timer_init(&log->metadata.retry, log->loop, metadata_retry);
    task_init(&log->close_task, run_close);
    recovery_begin(log, recovery, opened);
    return log;
}

void log_start(struct log *log)
{
    log->phase = LOG_RUNNING;
    log->mark_block = log->durable;
    log->open = block_new(&log->pool, log->epoch, log->durable + 1, 0);
    if (log->options.sync == LOG_SYNC_INTERVAL)
        timer_set(&log->sync_timer,
                  loop_now_ns(log->loop) + log->options.sync_interval_ms * NANOSECONDS_PER_MS);
    segment_create(log);
    keys_rewrap(log);
    reclaim_defer(log);
}

/* ---- closing: each step waits for the one before; called whenever something has completed ---- */

static bool end_segments(struct log *log)
{
    if (log->active && log->active->offsets_count > 0)
        segment_close(log->active, log->active->end);
    else if (log->active)
        segment_drop(log->active);
    log->active = NULL;
    if (log->spare)
        segment_drop(log->spare);
    log->spare = NULL;
    return log->segments_closing == 0 && list_empty(&log->removing) && !log->is_syncing;
}

static bool end_files(struct log *log)
{
    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        if (segment->file && !segment->is_closing && segment->readers == 0)
            segment_close_file(segment);
    }
    /* after a failure: those that wait for metadata that will never be written */
    LIST_EACH (&log->removing, link) {
        struct segment *segment = CONTAINER_OF(link, struct segment, link);
        if (segment->file && !segment->is_closing)
            segment_close_file(segment);
    }
    return log->files_open == 0;
}

static void stop_timers(struct log *log)
{
    timer_stop(&log->lazy);
    timer_stop(&log->mark);
    timer_stop(&log->sync_timer);
    timer_stop(&log->spare_retry);
    timer_stop(&log->metadata.retry);
}

static void cancel_tasks(struct log *log)
{
    task_cancel(&log->close_task);
    task_cancel(&log->commit_task);
    task_cancel(&log->room_task);
    task_cancel(&log->failed_task);
    task_cancel(&log->reclaim_task);
    task_cancel(&log->rewrap_task);
    task_cancel(&log->checkpoint.begin_task);
    task_cancel(&log->checkpoint.end_task);
}

static void closed(struct log *log)
{
    stop_timers(log);
    cancel_tasks(log);
    log->phase = LOG_CLOSED;
    log->closed_call(log->closed_context);
}

static void step_close(struct log *log)
{
    if (log->phase != LOG_CLOSING || !list_empty(&log->reads))
        return;
    if (log->has_failed) {
        if (log->outstanding == 0 && end_files(log))
            closed(log);
        return;
    }
    if (!writer_is_idle(log)) {
        writer_defer_commit(log);
        return;
    }
    if (log->is_creating || !end_segments(log))
        return;
    if (!log->metadata.clean) {
        log->metadata.clean = true;
        log->close_generation = metadata_touch(log);
    }
    if (metadata_has(log, log->close_generation) && log->outstanding == 0 && end_files(log))
        closed(log);
}

static void run_close(struct task *task)
{
    step_close(CONTAINER_OF(task, struct log, close_task));
}

/* In a task, since the last step may free the log. */
void log_step_close(struct log *log)
{
    if (log->phase == LOG_CLOSING)
        loop_defer(log->loop, &log->close_task, LOOP_DISPATCH);
}

void log_close(struct log *log, void (*closed_call)(void *context), void *context)
{
    ASSERT(log->phase == LOG_RUNNING && !log->in_group);
    log->phase = LOG_CLOSING;
    log->closed_call = closed_call;
    log->closed_context = context;
    timer_stop(&log->mark);
    loop_defer(log->loop, &log->close_task, LOOP_DISPATCH);
}

void log_free(struct log *log)
{
    struct list *link;

    stop_timers(log); /* of a log that is given up */
    cancel_tasks(log);
    recovery_free(log);
    reads_fini(log);
    while ((link = list_take_first(&log->closed)))
        block_free(CONTAINER_OF(link, struct block, link));
    if (log->flight)
        block_free(log->flight);
    if (log->open)
        block_free(log->open);
    while ((link = list_take_first(&log->removing)))
        segment_free(CONTAINER_OF(link, struct segment, link));
    for (size_t i = 0; i < log->segments_count; i++)
        segment_free(log->segments[i]);
    free(log->segments);
    free(log->metadata.bytes);
    free(log->scratch);
    states_fini(log);
    keys_fini(log);
    block_pool_fini(&log->pool);
    free(log);
}

/* ---- looking ---- */

uint64_t log_epoch(const struct log *log)
{
    return log->epoch;
}

void log_statistics(const struct log *log, struct log_statistics *statistics)
{
    *statistics = log->statistics;
    statistics->segments = log->segments_count;
    for (size_t i = 0; i < log->segments_count; i++)
        statistics->segment_bytes += log->segments[i]->end;
    statistics->live_messages = log->live;
    statistics->unsynced_bytes = log_unsynced(log);
    keys_statistics(log, statistics);
}

void log_check(const struct log *log)
{
    uint64_t live = 0, bytes = 0, next = log->durable + 1, before = 0;

    for (size_t i = 0; i < log->segments_count; i++) {
        const struct segment *segment = log->segments[i];
        live += segment->live;
        if (segment->info.first_block == 0)
            continue;
        ASSERT(segment->info.first_block > before);
        ASSERT(segment->info.last_block == segment->info.first_block + segment->offsets_count - 1);
        before = segment->info.last_block;
    }
    ASSERT(before <= log->durable);
    if (log->flight) {
        ASSERT(log->flight->header.block == next++);
        live += log->flight->live;
        bytes += block_bytes(log->flight);
        block_check(log->flight);
    }
    LIST_EACH (&log->closed, link) {
        const struct block *block = CONTAINER_OF(link, struct block, link);
        ASSERT(block->header.block == next++);
        live += block->live;
        bytes += block_bytes(block);
        block_check(block);
    }
    if (log->open) {
        ASSERT(log->open->header.block == next);
        live += log->open->live;
        block_check(log->open);
    }
    ASSERT(live == log->live);
    ASSERT(bytes == log->bytes_in_memory);
    ASSERT(log->synced <= log->durable || !log->open);
}
