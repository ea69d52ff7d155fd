/*
 * Checkpoints, and which segments can go.
 *
 * begin: replay_block = the open block; the layer above writes states -> log_checkpoint_end():
 * the record -> durable -> the new states take the place of the old ones, in slices -> the
 * metadata with replay_block -> durable -> reclaim.
 */
#include "log/log_private.h"

#include <stdlib.h>

/* ---- states ---- */

struct queue_state *states_get(struct log *log, uint64_t queue)
{
    struct queue_state *state = map_get_number(&log->states, queue);

    if (!state) {
        state = memory_new(sizeof *state);
        state->queue = queue;
        map_put_number(&log->states, queue, state);
    }
    return state;
}

void states_add(struct log *log, uint64_t queue, uint64_t first, uint64_t last)
{
    struct state_write *write = pool_take(&log->state_writes);

    *write = (struct state_write){.queue = queue, .first = first, .last = last};
    list_init(&write->link);
    list_append(&log->states_new, &write->link);
    struct queue_state *state = states_get(log, queue);
    state->writes++;
    state->is_dropped = first == 0;
}

static void hold(const struct log *log, uint64_t first, uint64_t last, int by)
{
    if (first == 0)
        return;
    struct segment *segment = segment_of_block(log, first);
    while (segment) {
        ASSERT(by > 0 || segment->states > 0);
        segment->states = by > 0 ? segment->states + 1 : segment->states - 1;
        if (segment->info.last_block >= last)
            break;
        segment = segment_of_block(log, segment->info.last_block + 1);
    }
}

void states_set(struct log *log, struct queue_state *state, uint64_t first, uint64_t last)
{
    hold(log, state->first, state->last, -1);
    state->first = first;
    state->last = last;
    hold(log, first, last, 1);
    if (first == 0 && state->writes == 0) {
        map_remove_number(&log->states, state->queue);
        free(state);
    }
}

static void state_write_free(struct log *log, struct state_write *write)
{
    list_remove(&write->link);
    pool_give(&log->state_writes, write);
}

void states_fini(struct log *log)
{
    struct map_cursor cursor = {0};
    struct queue_state *state;

    LIST_EACH (&log->states_new, link)
        state_write_free(log, CONTAINER_OF(link, struct state_write, link));
    LIST_EACH (&log->states_ending, link)
        state_write_free(log, CONTAINER_OF(link, struct state_write, link));
    while ((state = map_next(&log->states, &cursor)))
        free(state);
    map_fini(&log->states);
    pool_fini(&log->state_writes);
}

bool log_has_state(const struct log *log, uint64_t queue)
{
    const struct queue_state *state = map_get_number(&log->states, queue);
    return state && !state->is_dropped;
}

size_t log_state_count(const struct log *log)
{
    struct map_cursor cursor = {0};
    size_t count = 0;

    for (const struct queue_state *state; (state = map_next(&log->states, &cursor));)
        count += !state->is_dropped;
    return count;
}

bool log_state_is_wanted(const struct log *log, uint64_t queue)
{
    const struct queue_state *state = map_get_number(&log->states, queue);

    if (!state || state->first == 0 || state->writes > 0)
        return false;
    struct segment *segment = segment_of_block(log, state->first);
    while (segment) {
        if (segment->is_wanted)
            return true;
        if (segment->info.last_block >= state->last)
            break;
        segment = segment_of_block(log, segment->info.last_block + 1);
    }
    return false;
}

/* ---- what can go ---- */

static bool catalog_holds(const struct log *log, const struct segment *segment)
{
    return segment->catalog_last > 0 && segment->catalog_last >= log->catalog_start;
}

/* But for states and the catalog, and with replay from that block on. */
static bool is_dead(const struct log *log, const struct segment *segment, uint64_t replay_block)
{
    return segment->phase == SEGMENT_DONE && segment->live == 0 &&
           segment->info.last_block < replay_block && segment->released_block <= log->synced &&
           !(segment->info.flags & SEGMENT_QUARANTINED);
}

static void reclaim(struct task *task)
{
    struct log *log = CONTAINER_OF(task, struct log, reclaim_task);

    /* a segment of which the metadata cannot say yet where it ends tells by what follows it */
    if (log->segments_closing > 0 && log->options.sync != LOG_SYNC_ALWAYS)
        return;
    for (size_t i = log->segments_count; i-- > 0;) {
        struct segment *segment = log->segments[i];
        if (is_dead(log, segment, log->metadata.replay_durable) && segment->states == 0 &&
            !catalog_holds(log, segment) && segment->readers == 0)
            segment_drop(segment);
    }
}

void reclaim_defer(struct log *log)
{
    if (log->phase == LOG_RUNNING && !log->has_failed)
        loop_defer(log->loop, &log->reclaim_task, LOOP_DISPATCH);
}

/* ---- the checkpoint ---- */

static void begin(struct task *task)
{
    struct log *log = CONTAINER_OF(task, struct log, checkpoint.begin_task);
    bool catalog = false;

    if (log->checkpoint.is_running || log->has_failed || log->phase != LOG_RUNNING)
        return;
    log->checkpoint.is_running = true;
    log->checkpoint.bytes = 0;
    log->checkpoint.replay_block = log->open->header.block;
    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        bool dead = is_dead(log, segment, log->checkpoint.replay_block);
        segment->is_wanted = dead && (segment->states > 0 || catalog_holds(log, segment));
        catalog |= dead && catalog_holds(log, segment);
    }
    if (log->events.checkpoint)
        log->events.checkpoint(log->context, catalog);
    else
        log_checkpoint_end(log);
}

void log_checkpoint(struct log *log)
{
    if (!log->has_failed && !log->checkpoint.is_running)
        loop_defer(log->loop, &log->checkpoint.begin_task, LOOP_DISPATCH);
}

/* Appends are refused for want of room: a checkpoint may free some, unless one has just been. */
void checkpoint_when_full(struct log *log)
{
    if (log->checkpoint.bytes >= log->options.segment_bytes_min / 4)
        log_checkpoint(log);
}

void log_checkpoint_end(struct log *log)
{
    if (log->has_failed)
        return;
    ASSERT(log->checkpoint.is_running && !log->checkpoint.is_ending);
    append_checkpoint_end(log, log->checkpoint.replay_block);
    log->checkpoint.is_ending = true;
    log->checkpoint.end_block = log->last;
    list_move_all(&log->states_ending, &log->states_new);
    log_commit(log);
}

static void apply(struct task *task)
{
    struct log *log = CONTAINER_OF(task, struct log, checkpoint.end_task);
    uint64_t until_ns = loop_precise_ns(log->loop) + TURN_SLICE_NS;
    struct list *link;

    while ((link = list_first(&log->states_ending))) {
        struct state_write *write = CONTAINER_OF(link, struct state_write, link);
        struct queue_state *state = states_get(log, write->queue);
        uint64_t first = write->first, last = write->last;
        state->writes--;
        state_write_free(log, write);
        states_set(log, state, first, last);
        if (loop_precise_ns(log->loop) >= until_ns) {
            loop_defer(log->loop, &log->checkpoint.end_task, LOOP_DISPATCH);
            return;
        }
    }
    log->metadata.replay_block = log->checkpoint.replay_block;
    log->checkpoint.generation = metadata_touch(log);
}

void checkpoint_synced(struct log *log)
{
    if (log->snapshot_done_block && log->snapshot_done_block <= log->synced) {
        log->catalog_start = log->snapshot_done_begin;
        log->snapshot_done_block = 0;
    }
    if (log->checkpoint.is_ending && !log->checkpoint.is_applying &&
        log->checkpoint.end_block <= log->synced) {
        log->checkpoint.is_applying = true;
        loop_defer(log->loop, &log->checkpoint.end_task, LOOP_DISPATCH);
    }
    if (log->reclaim_at && log->reclaim_at <= log->synced) {
        log->reclaim_at = 0;
        reclaim_defer(log);
    }
}

void checkpoint_count(struct log *log, uint64_t size)
{
    log->checkpoint.bytes += size;
    if (log->checkpoint.bytes >= log->options.checkpoint_bytes && log->phase == LOG_RUNNING)
        log_checkpoint(log);
}

void checkpoint_metadata_done(struct log *log)
{
    if (log->checkpoint.generation && metadata_has(log, log->checkpoint.generation)) {
        log->checkpoint.generation = 0;
        log->checkpoint.is_running = log->checkpoint.is_ending = log->checkpoint.is_applying =
            false;
        for (size_t i = 0; i < log->segments_count; i++)
            log->segments[i]->is_wanted = false;
        log->statistics.checkpoints++;
        reclaim_defer(log);
    }
}

void checkpoint_init(struct log *log)
{
    map_init_numbers(&log->states, loop_random(log->loop));
    pool_init(&log->state_writes, sizeof(struct state_write));
    list_init(&log->states_new);
    list_init(&log->states_ending);
    task_init(&log->checkpoint.begin_task, begin);
    task_init(&log->checkpoint.end_task, apply);
    task_init(&log->reclaim_task, reclaim);
}
