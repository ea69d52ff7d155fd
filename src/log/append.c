/* Records into the open block; room on disk and in memory. */
#include "log/log_private.h"

#include <stdlib.h>

#define RECORD_BYTES_MAX LOG_GROUP_BYTES_MAX

/* ---- room ---- */

/* Would the disk still have its reserves after that many bytes more? */
static int check_room(struct log *log, uint64_t bytes)
{
    uint64_t free_bytes = store_bytes_free(log->store);

    if (free_bytes == UINT64_MAX)
        return 0;
    uint64_t needed = log_unsynced(log) + bytes + log->live * SETTLE_RESERVE + log->promised +
                      2 * log->segment_bytes + log->options.disk_reserve_bytes;
    if (free_bytes >= needed)
        return 0;
    checkpoint_when_full(log);
    return E_FULL;
}

bool log_has_room(const struct log *log)
{
    return log_unsynced(log) <= log->options.unsynced_bytes_max;
}

/* A block that takes this, too, within what a block may be. */
static void make_space(struct log *log, uint64_t bytes)
{
    ASSERT(bytes <= BLOCK_RECORDS_MAX - BLOCK_CLOSE_BYTES);
    if (log->in_group)
        return;
    if (block_bytes(log->open) >= BLOCK_CLOSE_BYTES ||
        log->open->header.record_bytes + bytes > BLOCK_RECORDS_MAX - BLOCK_CLOSE_BYTES) {
        writer_close_open(log);
        writer_defer_commit(log);
    }
}

/* Something is in the open block: it goes out some time, soon if it is large. */
static void appended(struct log *log)
{
    log->last = log->open->header.block;
    if (!timer_is_set(&log->lazy) && !log->commit_wanted)
        timer_set(&log->lazy,
                  loop_now_ns(log->loop) + log->options.lazy_commit_ms * NANOSECONDS_PER_MS);
    if (block_bytes(log->open) >= BLOCK_LARGE_BYTES)
        writer_defer_commit(log);
}

/* ---- settlements and what else is about ranges ---- */

void append_flush_settled(struct log *log)
{
    uint8_t bytes[RANGE_RECORD_MAX];

    if (log->settled.queue == 0)
        return;
    size_t size = range_record_encode_payload(&log->settled, bytes);
    log->settled.queue = 0;
    block_append(log->open, RECORD_SETTLED, slice_of(bytes, size), slice_of(NULL, 0), false);
}

void log_settle(struct log *log, uint64_t queue, uint64_t first, uint64_t last, unsigned why)
{
    struct range_record *settled = &log->settled;

    ASSERT(queue > 0 && first > 0 && first <= last);
    if (log->has_failed)
        return;
    if (settled->queue == queue && settled->detail == why && first == settled->last + 1) {
        settled->last = last;
        return;
    }
    if (settled->queue == queue && settled->detail == why && last + 1 == settled->first) {
        settled->first = first;
        return;
    }
    append_flush_settled(log);
    make_space(log, RANGE_RECORD_MAX);
    *settled = (struct range_record){queue, first, last, why};
    appended(log);
}

static void append_small(struct log *log, uint8_t type, const uint8_t *bytes, size_t size)
{
    append_flush_settled(log);
    make_space(log, size);
    block_append(log->open, type, slice_of(bytes, size), slice_of(NULL, 0), false);
    appended(log);
}

void log_append_returned(struct log *log, uint64_t queue, uint64_t first, uint64_t last,
                         uint32_t count)
{
    struct range_record range = {queue, first, last, count};
    uint8_t bytes[RANGE_RECORD_MAX];

    ASSERT(queue > 0 && first > 0 && first <= last);
    if (!log->has_failed)
        append_small(log, RECORD_RETURNED, bytes, range_record_encode_payload(&range, bytes));
}

void log_append_delivered(struct log *log, uint64_t queue, uint64_t sequence)
{
    struct delivered_record delivered = {queue, sequence};
    uint8_t bytes[RANGE_RECORD_MAX];

    ASSERT(queue > 0);
    if (!log->has_failed)
        append_small(log, RECORD_DELIVERED, bytes, delivered_record_encode(&delivered, bytes));
}

void log_append_postponed(struct log *log, uint64_t queue, uint64_t sequence, uint64_t due_ms)
{
    struct postponed_record postponed = {queue, sequence, due_ms};
    uint8_t bytes[RANGE_RECORD_MAX];

    ASSERT(queue > 0 && sequence > 0);
    if (!log->has_failed)
        append_small(log, RECORD_POSTPONED, bytes, postponed_record_encode(&postponed, bytes));
}

/* ---- messages ---- */

static bool is_attached(const struct message *message)
{
    return message->body_size > LOG_PART_BYTES;
}

/* Of the record's payload without the body. */
static size_t message_head_bytes_max(const struct message *message, size_t targets)
{
    return 1 + 3 * VARINT_SIZE_MAX + targets * (3 * VARINT_SIZE_MAX + 3) +
           message_head_size(message);
}

size_t log_message_bytes(const struct message *message, size_t targets)
{
    uint64_t body = is_attached(message) ? 0 : message->body_size;

    return block_bytes_of(message_head_bytes_max(message, targets) + body);
}

static struct slice encode_head(struct log *log, struct message *message,
                                const struct log_target *targets, size_t count, size_t size)
{

    VECTOR_RESERVE(log->scratch, log->scratch_capacity, size);
    struct writer w = writer_of(log->scratch, size);
    write_u8(&w, is_attached(message) ? MESSAGE_ATTACHED : 0);
    write_varint(&w, message->body_size);
    write_varint(&w, count);
    for (size_t i = 0; i < count; i++) {
        ASSERT(targets[i].queue > 0 && targets[i].sequence > 0);
        write_varint(&w, targets[i].queue);
        write_varint(&w, targets[i].sequence);
        write_varint(&w, targets[i].lane);
        if (targets[i].lane & LOG_LANE_DUE)
            write_varint(&w, targets[i].due_ms);
    }
    if (is_attached(message))
        write_varint(&w, block_attach(log->open, message));
    message_encode_head(message, &w);
    ASSERT(!w.failed);
    return slice_of(log->scratch, writer_size(&w));
}

int log_append_message(struct log *log, struct message *message, const struct log_target *targets,
                       size_t count, uint64_t *position)
{
    ASSERT(count > 0 && count <= LOG_TARGETS_MAX && log->open);
    if (log->has_failed)
        return E_FAILED;
    uint64_t attached = is_attached(message) ? message->body_size : 0;
    size_t head_max = message_head_bytes_max(message, count);
    size_t bytes = block_bytes_of(head_max + message->body_size - attached);
    if (bytes > RECORD_BYTES_MAX)
        return E_LIMIT;
    if (!log->in_group && check_room(log, bytes + attached + count * SETTLE_RESERVE) < 0)
        return E_FULL;
    append_flush_settled(log);
    make_space(log, bytes);
    struct block *block = log->open;
    struct slice head = encode_head(log, message, targets, count, head_max);
    struct slice body = attached ? slice_of(NULL, 0) : message_body(message);
    *position = block_append(block, RECORD_MESSAGE, head, body, body.size > MESSAGE_INLINE_MAX);
    block_keep(block, *position, message);
    for (size_t i = 0; i < count; i++) {
        struct index_entry entry = {targets[i].queue,   targets[i].sequence, *position,
                                    message->body_size, targets[i].lane,     targets[i].due_ms};
        block_add_index(block, &entry);
    }
    block->live += count;
    log->live += count;
    appended(log);
    return 0;
}

void log_release(struct log *log, uint64_t position)
{
    uint64_t block_number = position_block(position);
    uint64_t now = log->last; /* what caused this is in it, or before */

    ASSERT(log->live > 0);
    log->live--;
    if (log->open && block_number > log->durable) {
        struct block *block = block_in_memory(log, block_number);
        ASSERT(block && block->live > 0);
        block->live--;
        block->released_block = now;
        return;
    }
    struct segment *segment = segment_of_block(log, block_number);
    ASSERT(segment && segment->live > 0);
    segment->live--;
    segment->released_block = now;
    if (segment->live == 0 && now <= log->synced)
        reclaim_defer(log);
    else if (segment->live == 0)
        log->reclaim_at = now;
}

/* ---- states and the catalog ---- */

/* A record that is found again by its mark. Returns its position. */
static uint64_t append_marked(struct log *log, uint8_t type, struct slice head, struct slice bytes)
{
    struct index_mark mark;

    append_flush_settled(log);
    make_space(log, block_bytes_of(head.size + bytes.size));
    struct block *block = log->open;
    uint64_t order = block_next_order(block);
    uint64_t position = block_append(block, type, head, bytes, false);
    /* the number stands in the head, or there is none */
    struct record record = {type, head.size ? head : bytes};
    bool marks = index_mark_of(&record, position ? position : order, &mark);
    ASSERT(marks);
    block_add_mark(block, &mark);
    appended(log);
    return position;
}

void log_append_state(struct log *log, uint64_t queue, struct slice bytes, bool more)
{
    uint8_t head[STATE_HEAD_MAX];
    struct state_record state = {.queue = queue, .first = log->state_part_first == 0, .more = more};

    ASSERT(queue > 0 && bytes.size <= LOG_STATE_MAX);
    ASSERT(state.first || queue == log->state_part_queue);
    if (log->has_failed)
        return;
    size_t size = state_record_encode_head(&state, head);
    uint64_t position = append_marked(log, RECORD_STATE, slice_of(head, size), bytes);
    if (state.first)
        log->state_part_first = position_block(position);
    log->state_part_queue = queue;
    if (more)
        return;
    states_add(log, queue, log->state_part_first, position_block(position));
    log->state_part_first = 0;
}

static struct slice number_head(uint64_t number, uint8_t bytes[VARINT_SIZE_MAX])
{
    struct writer w = writer_of(bytes, VARINT_SIZE_MAX);

    write_varint(&w, number);
    return slice_of(bytes, writer_size(&w));
}

void log_drop_state(struct log *log, uint64_t queue)
{
    uint8_t head[VARINT_SIZE_MAX];
    struct queue_state *state = map_get_number(&log->states, queue);

    if (log->has_failed || !state)
        return;
    if (!log->open) { /* told by recovery: as long as it is on disk, the next one tells it again */
        states_set(log, state, 0, 0);
        return;
    }
    append_marked(log, RECORD_STATE_DROPPED, number_head(queue, head), slice_of(NULL, 0));
    states_add(log, queue, 0, 0);
}

size_t log_change_bytes(size_t size)
{
    return block_bytes_of(VARINT_SIZE_MAX + size);
}

static void append_change(struct log *log, uint64_t queue, struct slice bytes)
{
    uint8_t head[VARINT_SIZE_MAX];

    ASSERT(queue > 0 && bytes.size <= LOG_CHANGE_MAX);
    append_flush_settled(log);
    make_space(log, log_change_bytes(bytes.size));
    block_append(log->open, RECORD_CHANGE, number_head(queue, head), bytes, false);
    appended(log);
}

int log_append_change(struct log *log, uint64_t queue, struct slice bytes, size_t promise)
{
    if (log->has_failed)
        return E_FAILED;
    if (!log->in_group && check_room(log, log_change_bytes(bytes.size) + promise) < 0)
        return E_FULL;
    append_change(log, queue, bytes);
    log->promised += promise;
    return 0;
}

void log_append_promised(struct log *log, uint64_t queue, struct slice bytes, size_t fulfilled)
{
    ASSERT(fulfilled <= log->promised);
    log->promised -= fulfilled;
    if (!log->has_failed)
        append_change(log, queue, bytes);
}

void log_promise(struct log *log, size_t bytes)
{
    log->promised += bytes;
}

int log_append_catalog(struct log *log, struct slice bytes)
{
    ASSERT(bytes.size <= LOG_CATALOG_MAX);
    if (log->has_failed)
        return E_FAILED;
    if (!log->in_group && check_room(log, block_bytes_of(bytes.size)) < 0)
        return E_FULL;
    log->open->catalog_last = append_marked(log, RECORD_CATALOG, slice_of(NULL, 0), bytes);
    return 0;
}

void log_snapshot_begin(struct log *log)
{
    uint8_t head[VARINT_SIZE_MAX];

    if (log->has_failed)
        return;
    log->snapshot_id++;
    log->snapshot_begin = append_marked(log, RECORD_SNAPSHOT_BEGIN,
                                        number_head(log->snapshot_id, head), slice_of(NULL, 0));
    log->open->catalog_last = log->snapshot_begin;
}

void log_snapshot_item(struct log *log, struct slice bytes)
{
    uint8_t head[VARINT_SIZE_MAX];

    ASSERT(bytes.size <= LOG_CATALOG_MAX);
    if (log->has_failed)
        return;
    ASSERT(log->snapshot_begin > 0);
    log->open->catalog_last =
        append_marked(log, RECORD_SNAPSHOT_ITEM, number_head(log->snapshot_id, head), bytes);
}

void log_snapshot_end(struct log *log)
{
    uint8_t head[VARINT_SIZE_MAX];

    if (log->has_failed)
        return;
    ASSERT(log->snapshot_begin > 0);
    uint64_t position = append_marked(log, RECORD_SNAPSHOT_END, number_head(log->snapshot_id, head),
                                      slice_of(NULL, 0));
    log->open->catalog_last = position;
    log->snapshot_done_begin = log->snapshot_begin;
    log->snapshot_done_block = position_block(position);
    log->snapshot_begin = 0;
}

void append_checkpoint_end(struct log *log, uint64_t replay_block)
{
    uint8_t head[VARINT_SIZE_MAX];
    struct slice number = number_head(replay_block, head);

    append_small(log, RECORD_CHECKPOINT_END, number.data, number.size);
}

/* ---- groups ---- */

int log_group_begin(struct log *log, size_t bytes)
{
    ASSERT(!log->in_group);
    if (log->has_failed)
        return E_FAILED;
    if (bytes > LOG_GROUP_BYTES_MAX)
        return E_LIMIT;
    if (check_room(log, bytes) < 0)
        return E_FULL;
    make_space(log, bytes);
    log->in_group = true;
    return 0;
}

void log_group_end(struct log *log)
{
    ASSERT(log->in_group);
    log->in_group = false;
}

/* ---- numbers ---- */

uint64_t log_block_last(const struct log *log)
{
    return log->last;
}

uint64_t log_block_durable(const struct log *log)
{
    return log->durable;
}

void log_commit(struct log *log)
{
    if (log->has_failed || log->commit_wanted ||
        (block_is_empty(log->open) && log->settled.queue == 0))
        return;
    log->commit_wanted = true;
    writer_defer_commit(log);
}

bool log_is_failed(const struct log *log)
{
    return log->has_failed;
}
