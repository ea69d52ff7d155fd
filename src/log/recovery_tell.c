/* Telling the layer above what there is: the catalog, states, messages, and what happened since. */
#include "log/recovery_private.h"

#include <stdlib.h>

#define READ_AHEAD_BYTES (128u << 10)

static void step_states(struct recovery *r);

/* ---- catalog and states, read by position ---- */

void recovery_fetched(struct fetch *fetch, int result)
{
    struct recovery *r = CONTAINER_OF(fetch, struct recovery, fetch);

    if (result < 0) {
        fail(&r->failure, result == E_MEMORY ? E_MEMORY : E_IO, "the log cannot be read at %llu",
             (unsigned long long)fetch->offset);
        recovery_end(r, r->failure.code);
        return;
    }
    recovery_go(r, r->step);
}

static bool catalog_counts(const struct recovery *r, const struct index_mark *mark)
{
    return mark->position >= r->log->catalog_start &&
           (mark->type == RECORD_CATALOG ||
            (mark->type == RECORD_SNAPSHOT_ITEM && mark->number == r->snapshot));
}

/* 0, or E_AGAIN: this step is called again. A record that cannot be read is reported. */
static int read_mark(struct recovery *r, const struct index_mark *mark, struct slice *bytes,
                     struct buffer **assembled)
{
    struct record record;
    struct failure failure;
    struct state_record state;
    uint64_t number;

    r->fetch.ahead = READ_AHEAD_BYTES;
    int result = fetch_record(&r->fetch, mark->position, &record, assembled, &failure);
    if (result == E_AGAIN)
        return result;
    if (result == 0 && record.type != mark->type)
        result = fail(&failure, E_CORRUPT, "not the record that was marked");
    *bytes = record.payload;
    if (result == 0 && mark->type == RECORD_STATE) {
        result = state_record_decode(record.payload, &state);
        *bytes = state.bytes;
    } else if (result == 0 && mark->type == RECORD_SNAPSHOT_ITEM) {
        result = number_record_decode(record.payload, &number, bytes);
    }
    if (result < 0) {
        struct segment *segment = segment_of_block(r->log, position_block(mark->position));
        if (segment)
            segment->info.flags |= SEGMENT_QUARANTINED;
        r->summary.corrupt_blocks++;
        recovery_report(r, "a record of the %s: %s",
                        mark->type == RECORD_STATE ? "queues" : "catalog", failure.text);
    }
    return result;
}

void recovery_catalog(struct recovery *r)
{
    struct log *log = r->log;
    uint64_t until_ns = loop_precise_ns(log->loop) + TURN_SLICE_NS;

    for (; r->at < r->marks_count; r->at++) {
        struct slice bytes;
        struct buffer *assembled;
        if (!catalog_counts(r, &r->marks[r->at]))
            continue;
        if (loop_precise_ns(log->loop) >= until_ns) {
            recovery_go(r, recovery_catalog);
            return;
        }
        int result = read_mark(r, &r->marks[r->at], &bytes, &assembled);
        if (result == E_AGAIN)
            return;
        r->summary.records_replayed++;
        if (result == 0 && r->functions.catalog)
            r->functions.catalog(log->context, bytes);
        buffer_unref(assembled);
    }
    r->at = 0;
    recovery_go(r, step_states);
}

static void tell_state(struct recovery *r, const struct found_state *state)
{
    struct log *log = r->log;
    uint64_t last = position_block(r->marks[state->mark + state->count - 1].position);

    states_set(log, states_get(log, state->queue), position_block(state->position), last);
    if (r->functions.state)
        r->functions.state(log->context, state->queue, slice_of(r->state_bytes, r->state_size),
                           state->position);
}

static void step_states(struct recovery *r)
{
    struct log *log = r->log;
    uint64_t until_ns = loop_precise_ns(log->loop) + TURN_SLICE_NS;
    struct list *link;

    while ((link = list_first(&r->states_order))) {
        struct found_state *state = CONTAINER_OF(link, struct found_state, link);
        int result = 0;
        if (loop_precise_ns(log->loop) >= until_ns) {
            recovery_go(r, step_states);
            return;
        }
        for (; r->state_part < state->count && result == 0; r->state_part++) {
            struct slice bytes;
            struct buffer *assembled;
            result = read_mark(r, &r->marks[state->mark + r->state_part], &bytes, &assembled);
            if (result == E_AGAIN)
                return;
            if (result == 0) {
                VECTOR_RESERVE(r->state_bytes, r->state_capacity, r->state_size + bytes.size + 1);
                memcpy(r->state_bytes + r->state_size, bytes.data, bytes.size);
                r->state_size += bytes.size;
            }
            buffer_unref(assembled);
        }
        list_remove(&state->link);
        if (result == 0)
            tell_state(r, state);
        else
            state->position = 0; /* covers nothing */
        r->state_part = r->state_size = 0;
    }
    fetch_fini(&r->fetch);
    fetch_init(&r->fetch, log, recovery_fetched);
    cache_forget(log, NULL);
    recovery_go(r, recovery_tell);
}

/* ---- TELL: messages, and what happened to them since the last checkpoint ---- */

static void tell_message(struct recovery *r, const struct index_entry *entry)
{
    struct log *log = r->log;

    segment_now(r)->live++;
    log->live++;
    if (r->functions.message)
        r->functions.message(log->context, entry->queue, entry->sequence, entry->position,
                             entry->size, entry->lane, entry->due_ms);
    else
        log_release(log, entry->position);
}

static bool is_covered(const struct recovery *r, uint64_t queue, uint64_t order)
{
    const struct found_state *state = map_get_number(&r->states, queue);

    return state && order <= state->position;
}

static void tell_block(void *context, const struct block_header *header, uint64_t offset)
{
    struct recovery *r = context;

    (void)offset;
    r->block = header->block;
    /* of two copies of a block one counts */
    r->is_telling = segment_of_block(r->log, header->block) == segment_now(r);
    if (header->block >= r->log->metadata.replay_block)
        r->summary.blocks_replayed++;
    if (!segment_now(r)->footer)
        r->collected = block_new(&r->log->pool, header->epoch, header->block, 0);
}

static void report_record(struct recovery *r, const char *what)
{
    recovery_report(r, "%s: a %s in block %llu", segment_now(r)->name, what,
                    (unsigned long long)r->block);
}

static void tell_message_record(struct recovery *r, const struct record *record, uint64_t position)
{
    struct message_record message;
    struct target target;

    if (message_record_decode(record->payload, &message) < 0) {
        report_record(r, "message");
        return;
    }
    struct reader targets = reader_of(message.targets);
    for (uint64_t i = 0; i < message.targets_count; i++) {
        target_decode(&targets, &target);
        struct index_entry entry = {target.queue,      target.sequence, position,
                                    message.body_size, target.lane,     target.due_ms};
        if (r->collected)
            block_add_index(r->collected, &entry);
        tell_message(r, &entry);
    }
}

static void tell_range(struct recovery *r, const struct record *record, uint64_t order)
{
    struct range_record range;
    void *context = r->log->context;

    if (range_record_decode(record->payload, &range) < 0)
        report_record(r, "settlement");
    else if (is_covered(r, range.queue, order))
        return;
    else if (record->type == RECORD_SETTLED && r->functions.settled)
        r->functions.settled(context, range.queue, range.first, range.last, range.detail);
    else if (record->type == RECORD_RETURNED && r->functions.returned)
        r->functions.returned(context, range.queue, range.first, range.last, range.detail);
}

static void tell_delivered(struct recovery *r, const struct record *record, uint64_t order)
{
    struct delivered_record delivered;

    if (delivered_record_decode(record->payload, &delivered) < 0)
        report_record(r, "mark of deliveries");
    else if (r->functions.delivered && !is_covered(r, delivered.queue, order))
        r->functions.delivered(r->log->context, delivered.queue, delivered.sequence);
}

static void tell_postponed(struct recovery *r, const struct record *record, uint64_t order)
{
    struct postponed_record postponed;

    if (postponed_record_decode(record->payload, &postponed) < 0)
        report_record(r, "time of a message");
    else if (r->functions.postponed && !is_covered(r, postponed.queue, order))
        r->functions.postponed(r->log->context, postponed.queue, postponed.sequence,
                               postponed.due_ms);
}

static void tell_change(struct recovery *r, const struct record *record, uint64_t order)
{
    struct slice bytes;
    uint64_t queue;

    if (number_record_decode(record->payload, &queue, &bytes) < 0 || queue == 0)
        report_record(r, "change");
    else if (r->functions.change && !is_covered(r, queue, order))
        r->functions.change(r->log->context, queue, bytes);
}

/* One that counts only from the replay block on. False: it is not of those. */
static bool tell_replayed(struct recovery *r, const struct record *record, uint64_t order)
{
    static void (*const tellers[RECORD_TYPES])(struct recovery *, const struct record *,
                                               uint64_t) = {
        [RECORD_SETTLED] = tell_range,       [RECORD_RETURNED] = tell_range,
        [RECORD_DELIVERED] = tell_delivered, [RECORD_CHANGE] = tell_change,
        [RECORD_POSTPONED] = tell_postponed,
    };

    if (record->type >= RECORD_TYPES || !tellers[record->type])
        return false;
    if (r->block >= r->log->metadata.replay_block) {
        r->summary.records_replayed++;
        tellers[record->type](r, record, order);
    }
    return true;
}

static void tell_record(void *context, const struct record *record, uint64_t order)
{
    struct recovery *r = context;
    struct index_mark mark;

    if (!r->is_telling)
        return;
    if (r->collected && index_mark_of(record, order, &mark))
        block_add_mark(r->collected, &mark);
    if (record->type == RECORD_MESSAGE)
        tell_message_record(r, record, order);
    else if (!tell_replayed(r, record, order) && !record_is_known(record->type)) {
        segment_now(r)->info.flags |= SEGMENT_QUARANTINED;
        recovery_report(r, "%s: a record of type %u in block %llu is not known to this version",
                        segment_now(r)->name, record->type, (unsigned long long)r->block);
    }
}

static bool is_known_bad(const struct recovery *r, uint64_t block)
{
    for (size_t i = 0; i < r->bad_count; i++)
        if (r->bad[i].first <= block && block <= r->bad[i].last)
            return true;
    return false;
}

/* A sealed segment's blocks are checked only now, and any may have turned bad since it was looked
 * at. */
static void tell_bad(void *context, const struct block_header *header, uint64_t chunk,
                     uint64_t offset)
{
    struct recovery *r = context;
    struct segment *segment = segment_now(r);

    if (!r->is_telling || is_known_bad(r, header->block))
        return;
    segment->info.flags |= SEGMENT_QUARANTINED;
    r->summary.corrupt_blocks++;
    recovery_report(r, "%s: block %llu, chunk %llu, at %llu", segment->name,
                    (unsigned long long)header->block, (unsigned long long)chunk,
                    (unsigned long long)offset);
}

static void tell_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    struct recovery *r = context;
    struct segment *segment = segment_now(r);
    uint64_t expected = r->scan.expected ? r->scan.expected : segment->info.first_block;

    (void)found;
    if ((next && next <= expected) || is_known_bad(r, expected))
        return;
    segment->info.flags |= SEGMENT_QUARANTINED;
    r->summary.corrupt_blocks++;
    recovery_report(r, "%s: block %llu at %llu", segment->name, (unsigned long long)expected,
                    (unsigned long long)offset);
}

static void tell_block_end(void *context, const struct block_header *header, uint64_t offset)
{
    struct recovery *r = context;

    (void)header;
    (void)offset;
    if (!r->collected)
        return;
    segment_index_block(segment_now(r), r->collected);
    block_free(r->collected);
    r->collected = NULL;
}

static const struct scan_visitor tell = {tell_block, tell_record, tell_bad, tell_gap,
                                         tell_block_end};

static void tell_index(void *context, const struct record *record, uint64_t order)
{
    struct recovery *r = context;
    struct reader reader = reader_of(record->payload);
    struct index_coder coder = {0};
    struct index_entry entry;

    (void)order;
    if (record->type != RECORD_INDEX_MESSAGES)
        return;
    uint64_t block = read_varint(&reader);
    if (segment_of_block(r->log, block) != segment_now(r))
        return;
    while (index_entry_decode(&coder, &reader, block, &entry))
        tell_message(r, &entry);
    if (reader.failed)
        recovery_report(r, "%s: the index of block %llu", segment_now(r)->name,
                        (unsigned long long)block);
}

static const struct scan_visitor tell_footer = {recovery_ignore_block, tell_index,
                                                recovery_footer_bad, recovery_footer_gap,
                                                recovery_ignore_block};

static void tell_next(struct recovery *r)
{
    r->at++;
    recovery_go(r, recovery_tell);
}

static void told(struct recovery *r)
{
    if (r->footer_is_bad)
        recovery_report(r, "the footer of %s", segment_now(r)->name);
    r->footer_is_bad = false;
    recovery_close(r, tell_next);
}

static void tell_file(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        recovery_report(r, "%s is gone now", segment->name);
        tell_next(r);
        return;
    }
    if (segment->footer && segment->info.last_block < r->log->metadata.replay_block)
        recovery_scan(r, &tell_footer, segment->footer, segment->file_size - TRAILER_SIZE, true,
                      told);
    else
        recovery_scan(r, &tell, SEGMENT_HEADER_SIZE, segment->end, false, told);
}

void recovery_tell(struct recovery *r)
{
    struct log *log = r->log;

    while (r->at < log->segments_count && segment_now(r)->info.first_block == 0)
        r->at++;
    if (r->at == log->segments_count) {
        recovery_go(r, recovery_ask);
        return;
    }
    recovery_open(r, segment_now(r)->was_unsealed, tell_file);
}
