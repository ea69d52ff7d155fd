/*
 * Opening: what was durable is found and told, in bounded memory and in slices of a turn.
 *
 *   metadata -> list of files -> metadata with the next epoch -> LOOK at each segment (its footer,
 *   or all of it) -> judge -> catalog -> states -> TELL each segment -> seal what was open ->
 * opened
 *
 * Judging (docs/log-format.md, "Torn or corrupt"): K is the highest number known durable, from
 * every sound block header, footer and the metadata. A block that is missing or broken at or below
 * K is corrupt: reported, its segment quarantined, everything sound around it served. The first one
 * above K ends the log: it and all behind it are a torn tail that nobody was told of.
 */
#include "log/log_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW_BYTES (256u << 10)

_Static_assert(WINDOW_BYTES >= SCAN_WINDOW_MIN, "a window brings a scan on");

struct bad_block {
    size_t segment; /* its index */
    uint64_t first, last;
    uint64_t offset;
    bool is_listed; /* its header is sound: other chunks of it may be, too */
};

struct found_state {
    struct list link;
    uint64_t queue, position;
    size_t mark, count; /* its parts, in recovery->marks */
};

struct recovery {
    struct log *log;
    struct log_recovery functions;
    void (*opened)(void *context, int result, const struct log_opened *summary,
                   const struct failure *failure);
    struct log_opened summary;
    struct failure failure;
    struct task task;
    void (*step)(struct recovery *recovery); /* what the task does */
    void (*next)(struct recovery *recovery); /* after a scan, an open, a close */
    struct store_request request;
    struct metadata metadata;
    struct buffer *metadata_bytes;
    char **names;
    size_t names_count, names_at;
    bool is_ended, waits_for_metadata;
    int result;
    struct timer timer;

    size_t at; /* segment */
    struct scan scan;
    bool has_scan;
    struct buffer *window;
    bool footer_is_bad, footer_has_blocks;

    uint64_t known_durable; /* K */
    uint64_t last;          /* the log's last block */
    struct bad_block *bad;
    size_t bad_count, bad_capacity;
    struct index_mark *marks;
    size_t marks_count, marks_capacity, marks_before;

    struct fetch fetch;
    uint64_t snapshot; /* the newest complete one; 0: none */
    struct map states; /* of struct found_state by queue */
    struct list states_order;
    uint8_t *state_bytes;
    size_t state_size, state_capacity, state_part;

    struct block *collected; /* index entries of the block being told */
    uint64_t block;
    bool is_telling; /* this block counts */
};

static void step_list(struct recovery *r);
static void step_epoch(struct recovery *r);
static void step_look(struct recovery *r);
static void step_judge(struct recovery *r);
static void step_catalog(struct recovery *r);
static void step_states(struct recovery *r);
static void step_tell(struct recovery *r);
static void step_seal(struct recovery *r);
static void step_end(struct recovery *r);

/* ---- the course of it ---- */

static void run_step(struct task *task)
{
    struct recovery *r = CONTAINER_OF(task, struct recovery, task);

    if (!r->is_ended)
        r->step(r);
}

static void go(struct recovery *r, void (*step)(struct recovery *r))
{
    r->step = step;
    loop_defer(r->log->loop, &r->task, LOOP_DISPATCH);
}

static void free_memory(struct recovery *r)
{
    struct map_cursor cursor = {0};
    struct found_state *state;

    while ((state = map_next(&r->states, &cursor))) {
        map_remove_number(&r->states, state->queue);
        free(state);
    }
    list_init(&r->states_order);
    if (r->has_scan)
        scan_fini(&r->scan);
    r->has_scan = false;
    buffer_unref(r->metadata_bytes);
    buffer_unref(r->window);
    free(r->names);
    free(r->bad);
    free(r->marks);
    free(r->state_bytes);
    r->metadata_bytes = r->window = NULL;
    r->names = NULL;
    r->bad = NULL;
    r->marks = NULL;
    r->state_bytes = NULL;
}

static void tell_opened(struct recovery *r)
{
    free_memory(r);
    r->opened(r->log->context, r->result, &r->summary, r->result < 0 ? &r->failure : NULL);
}

/* After an error: what is still under way is waited for, files are closed. */
static void wind_up(struct timer *timer)
{
    struct recovery *r = CONTAINER_OF(timer, struct recovery, timer);
    struct log *log = r->log;

    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        if (segment->file && !segment->is_closing && !segment->is_opening)
            segment_close_file(segment);
    }
    if (log->outstanding > 0 || log->files_open > 0) {
        timer_set(timer, loop_now_ns(log->loop) + NANOSECONDS_PER_MS);
        return;
    }
    tell_opened(r);
}

static void end(struct recovery *r, int result)
{
    struct log *log = r->log;

    if (r->is_ended)
        return;
    r->is_ended = true;
    r->result = result;
    fetch_fini(&r->fetch);
    if (result == 0) {
        tell_opened(r);
        return;
    }
    log->has_failed = true;
    log->phase = LOG_CLOSED;
    timer_stop(&log->metadata.retry);
    timer_set(&r->timer, loop_now_ns(log->loop));
}

static void end_with(struct recovery *r, const struct store_request *request, const char *what)
{
    int code = request->result == E_FULL ? E_FULL : E_IO;

    fail(&r->failure, code, "%s: %s", what, request->failure.text);
    end(r, code);
}

void recovery_failed(struct log *log, const struct failure *why)
{
    log->recovery->failure = *why;
    end(log->recovery, why->code);
}

static void submit(struct recovery *r, void (*done)(struct store_request *request))
{
    r->request.done = done;
    store_do(r->log, &r->request);
}

static struct recovery *recovery_of(struct store_request *request)
{
    struct recovery *r = CONTAINER_OF(request, struct recovery, request);

    store_did(r->log);
    return r;
}

static struct segment *segment_now(const struct recovery *r)
{
    return r->log->segments[r->at];
}

static void report(struct recovery *r, const char *format, ...) PRINTF_LIKE(2, 3);

static void report(struct recovery *r, const char *format, ...)
{
    struct failure failure = {.code = E_CORRUPT};
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(failure.text, sizeof failure.text, format, arguments);
    va_end(arguments);
    log_error(r->log->options.logger, "log", "corrupt: %s", failure.text);
    r->log->statistics.quarantined++;
    if (r->functions.corrupt)
        r->functions.corrupt(r->log->context, &failure);
}

/* ---- metadata and files ---- */

static void metadata_read(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct log *log = r->log;

    if (request->result == E_NOT_FOUND) {
        r->metadata = (struct metadata){.segment_next = 1, .replay_block = 1, .clean = true};
        go(r, step_list);
        return;
    }
    if (request->result < 0) {
        end_with(r, request, "the metadata cannot be read");
        return;
    }
    r->metadata_bytes = request->into;
    log->metadata.version = request->version;
    int result = metadata_decode(slice_of(r->metadata_bytes->data, r->metadata_bytes->size),
                                 &r->metadata, &r->failure);
    if (result < 0) {
        end(r, result);
        return;
    }
    go(r, step_list);
}

static bool is_listed(const struct log *log, uint64_t id)
{
    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->info.id == id)
            return true;
    return false;
}

static int compare_ids(const void *a, const void *b)
{
    const struct segment *x = *(struct segment *const *)a, *y = *(struct segment *const *)b;

    return x->info.id < y->info.id ? -1 : x->info.id > y->info.id;
}

static void load_segments(struct recovery *r)
{
    struct log *log = r->log;
    struct metadata_segment info;

    for (size_t i = 0; i < r->metadata.segments_count; i++) {
        metadata_segment_decode(&r->metadata, i, &info);
        struct segment *segment = segment_new(log, &info);
        segment->phase = SEGMENT_DONE;
        segment->listed = 1;
        if (info.flags & SEGMENT_ENDED && info.last_block > r->known_durable)
            r->known_durable = info.last_block;
    }
    if (log->segments_count)
        qsort(log->segments, log->segments_count, sizeof *log->segments, compare_ids);
    log->epoch = r->metadata.epoch + 1;
    log->segment_next = r->metadata.segment_next;
    log->metadata.replay_block = log->metadata.replay_durable = r->metadata.replay_block;
    if (r->metadata.durable_block > r->known_durable)
        r->known_durable = r->metadata.durable_block;
    log->synced = log->durable = r->known_durable;
    r->summary.clean = r->metadata.clean;
}

static void listed(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    uint64_t id;

    if (request->result < 0) {
        end_with(r, request, "the files cannot be listed");
        return;
    }
    r->names = request->names;
    r->names_count = request->count;
    load_segments(r);
    for (size_t i = 0; i < r->names_count && !r->metadata_bytes; i++)
        if (segment_name_parse(r->names[i], &id)) {
            fail(&r->failure, E_CORRUPT, "there is %s, but no metadata", r->names[i]);
            end(r, E_CORRUPT);
            return;
        }
    go(r, step_epoch);
}

static void step_list(struct recovery *r)
{
    r->request = (struct store_request){.operation = STORE_LIST};
    submit(r, listed);
}

/* The epoch moves first: whoever had the log before can change nothing any more. */
static void step_epoch(struct recovery *r)
{
    r->waits_for_metadata = true;
    metadata_touch(r->log);
}

static void orphan_removed(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    if (request->result < 0)
        log_warning(r->log->options.logger, "log", "%s, which no list names, stays: %s",
                    r->names[r->names_at], request->failure.text);
    r->names_at++;
    go(r, step_look);
}

void recovery_metadata_done(struct log *log)
{
    struct recovery *r = log->recovery;

    if (!r || !r->waits_for_metadata)
        return;
    r->waits_for_metadata = false;
    go(r, step_look);
}

/* Files that the metadata does not list: made and never listed, or dead and not yet gone. */
static bool remove_orphan(struct recovery *r)
{
    uint64_t id;

    for (; r->names_at < r->names_count; r->names_at++) {
        if (!segment_name_parse(r->names[r->names_at], &id) || is_listed(r->log, id))
            continue;
        r->request =
            (struct store_request){.operation = STORE_REMOVE, .name = r->names[r->names_at]};
        submit(r, orphan_removed);
        return true;
    }
    return false;
}

/* ---- opening, scanning and closing one segment; then r->next ---- */

static void opened_segment(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct segment *segment = segment_now(r);

    if (request->result == 0) {
        segment->file = request->file;
        segment->file_size = request->size;
        r->log->files_open++;
    } else if (request->result != E_NOT_FOUND) {
        end_with(r, request, "a segment cannot be opened");
        return;
    }
    go(r, r->next);
}

static void open_segment(struct recovery *r, bool direct, void (*next)(struct recovery *r))
{
    r->next = next;
    if (segment_now(r)->file) { /* left open by what read states and the catalog */
        go(r, next);
        return;
    }
    r->request = (struct store_request){
        .operation = STORE_OPEN, .name = segment_now(r)->name, .direct = direct};
    submit(r, opened_segment);
}

static void closed_segment(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    segment_now(r)->file = NULL;
    r->log->files_open--;
    go(r, r->next);
}

static void close_segment(struct recovery *r, void (*next)(struct recovery *r))
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        go(r, next);
        return;
    }
    r->next = next;
    r->request = (struct store_request){.operation = STORE_CLOSE, .file = segment->file};
    submit(r, closed_segment);
}

static void window_read(struct store_request *request);

static void scan_on(struct recovery *r)
{
    uint64_t offset;

    if (!scan_wants(&r->scan, &offset)) {
        scan_fini(&r->scan);
        r->has_scan = false;
        go(r, r->next);
        return;
    }
    uint64_t left = r->scan.end - offset;
    r->window->size = 0;
    r->request = (struct store_request){.operation = STORE_READ,
                                        .file = segment_now(r)->file,
                                        .offset = offset,
                                        .size = left < WINDOW_BYTES ? left : WINDOW_BYTES,
                                        .into = r->window};
    submit(r, window_read);
}

static void window_read(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    if (request->result < 0) {
        end_with(r, request, "a segment cannot be read");
        return;
    }
    scan_feed(&r->scan, slice_of(r->window->data, r->window->size));
    scan_on(r);
}

static void begin_scan(struct recovery *r, const struct scan_visitor *visitor, uint64_t offset,
                       uint64_t scan_end, bool footer, void (*next)(struct recovery *r))
{
    const struct segment *segment = segment_now(r);

    (footer ? scan_init_footer : scan_init)(&r->scan, visitor, r, segment->info.id,
                                            segment->info.epoch, offset, scan_end);
    r->has_scan = true;
    r->next = next;
    scan_on(r);
}

/* ---- LOOK: where the blocks are, and the marks ---- */

static void add_mark(struct recovery *r, const struct index_mark *mark)
{
    VECTOR_RESERVE(r->marks, r->marks_capacity, r->marks_count + 1);
    r->marks[r->marks_count++] = *mark;
}

static struct bad_block *add_bad(struct recovery *r, uint64_t first, uint64_t last, uint64_t offset)
{
    VECTOR_RESERVE(r->bad, r->bad_capacity, r->bad_count + 1);
    struct bad_block *bad = &r->bad[r->bad_count++];
    *bad = (struct bad_block){.segment = r->at, .first = first, .last = last, .offset = offset};
    return bad;
}

static void look_block(void *context, const struct block_header *header, uint64_t offset)
{
    struct recovery *r = context;

    (void)offset;
    if (header->durable > r->known_durable)
        r->known_durable = header->durable;
}

static void look_record(void *context, const struct record *record, uint64_t order)
{
    struct recovery *r = context;
    struct index_mark mark;

    if (index_mark_of(record, order, &mark))
        add_mark(r, &mark);
}

static void look_bad(void *context, const struct block_header *header, uint64_t chunk,
                     uint64_t offset)
{
    struct recovery *r = context;

    (void)chunk;
    if (r->bad_count && r->bad[r->bad_count - 1].first == header->block &&
        r->bad[r->bad_count - 1].segment == r->at)
        return;
    add_bad(r, header->block, header->block, offset)->is_listed = true;
}

static void look_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    struct recovery *r = context;
    uint64_t expected = r->scan.expected;

    (void)found;
    if (expected == 0 && next)
        expected = next - 1; /* at least that one is missing */
    if (next == 0 || next > expected)
        add_bad(r, expected, next ? next - 1 : UINT64_MAX, offset);
}

static void look_block_end(void *context, const struct block_header *header, uint64_t offset)
{
    struct recovery *r = context;

    segment_add_block(segment_now(r), header->block, offset, block_size(header));
}

static const struct scan_visitor look = {look_block, look_record, look_bad, look_gap,
                                         look_block_end};

static void footer_blocks(struct recovery *r, struct slice payload)
{
    struct segment *segment = segment_now(r);
    struct reader reader = reader_of(payload);
    uint64_t first = read_varint(&reader);

    segment->info.first_block = first;
    segment->info.last_block = first - 1;
    while (!reader.failed && reader_left(&reader) > 0) {
        uint64_t sectors = read_varint(&reader);
        if (sectors > UINT32_MAX) {
            reader.failed = true;
            break;
        }
        VECTOR_RESERVE(segment->offsets, segment->offsets_capacity, segment->offsets_count + 1);
        segment->offsets[segment->offsets_count++] = (uint32_t)sectors;
        segment->info.last_block++;
    }
    r->footer_has_blocks = !reader.failed && segment->offsets_count > 0 && first > 0;
}

static void footer_record(void *context, const struct record *record, uint64_t order)
{
    struct recovery *r = context;
    struct index_mark mark;
    struct reader reader = reader_of(record->payload);

    (void)order;
    if (record->type == RECORD_INDEX_BLOCKS)
        footer_blocks(r, record->payload);
    if (record->type != RECORD_INDEX_MARKS)
        return;
    while (index_mark_decode(&reader, &mark))
        add_mark(r, &mark);
    r->footer_is_bad |= reader.failed;
}

static void footer_bad(void *context, const struct block_header *header, uint64_t chunk,
                       uint64_t offset)
{
    (void)header;
    (void)chunk;
    (void)offset;
    ((struct recovery *)context)->footer_is_bad = true;
}

static void footer_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    (void)next;
    (void)found;
    (void)offset;
    ((struct recovery *)context)->footer_is_bad = true;
}

static void nothing_block(void *context, const struct block_header *header, uint64_t offset)
{
    (void)context;
    (void)header;
    (void)offset;
}

static const struct scan_visitor look_footer = {nothing_block, footer_record, footer_bad,
                                                footer_gap, nothing_block};

static void look_next(struct recovery *r)
{
    r->at++;
    go(r, step_look);
}

static void looked(struct recovery *r)
{
    close_segment(r, look_next);
}

/* Forgets what a broken footer said, and reads the blocks themselves. */
static void look_at_blocks(struct recovery *r, uint64_t scan_end)
{
    struct segment *segment = segment_now(r);

    segment->offsets_count = 0;
    segment->info.first_block = 0;
    segment->footer = 0;
    if (segment->info.flags & SEGMENT_ENDED && scan_end > segment->info.end)
        scan_end = segment->info.end;
    segment->end = SEGMENT_HEADER_SIZE;
    begin_scan(r, &look, SEGMENT_HEADER_SIZE, scan_end, false, looked);
}

static void footer_looked(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (r->footer_is_bad || !r->footer_has_blocks) {
        if (segment->info.flags & SEGMENT_SEALED) /* else it was never whole */
            report(r, "the footer of %s at %llu; its blocks are read instead", segment->name,
                   (unsigned long long)segment->footer);
        r->marks_count = r->marks_before;
        look_at_blocks(r, segment->footer);
        return;
    }
    /* flags say what is durable: those of a segment that was not sealed follow its sync */
    segment->end = segment->info.end = segment->footer;
    if (segment->info.last_block > r->known_durable)
        r->known_durable = segment->info.last_block;
    looked(r);
}

static void trailer_read(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct segment *segment = segment_now(r);
    struct trailer trailer;

    if (request->result < 0) {
        end_with(r, request, "a segment cannot be read");
        return;
    }
    if (trailer_decode(slice_of(r->window->data, r->window->size), &trailer) < 0 ||
        trailer.segment != segment->info.id || trailer.epoch != segment->info.epoch ||
        trailer.footer >= segment->file_size - TRAILER_SIZE) {
        if (segment->info.flags & SEGMENT_SEALED)
            report(r, "the trailer of %s; its blocks are read instead", segment->name);
        look_at_blocks(r, segment->file_size);
        return;
    }
    segment->footer = trailer.footer;
    r->footer_is_bad = r->footer_has_blocks = false;
    r->marks_before = r->marks_count;
    begin_scan(r, &look_footer, trailer.footer, segment->file_size - TRAILER_SIZE, true,
               footer_looked);
}

static void look_at_file(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        report(r, "%s is gone", segment->name);
        r->summary.corrupt_blocks += segment->info.first_block
                                         ? segment->info.last_block - segment->info.first_block + 1
                                         : 1;
        segment->info.first_block = segment->info.last_block = 0;
        look_next(r);
        return;
    }
    if (segment->file_size < SEGMENT_HEADER_SIZE + TRAILER_SIZE) {
        look_at_blocks(r, segment->file_size);
        return;
    }
    r->window->size = 0;
    r->request = (struct store_request){.operation = STORE_READ,
                                        .file = segment->file,
                                        .offset = segment->file_size - TRAILER_SIZE,
                                        .size = TRAILER_SIZE,
                                        .into = r->window};
    submit(r, trailer_read);
}

static void step_look(struct recovery *r)
{
    struct log *log = r->log;

    if (remove_orphan(r))
        return;
    if (r->at == log->segments_count) {
        go(r, step_judge);
        return;
    }
    struct segment *segment = segment_now(r);
    segment->was_open = !(segment->info.flags & SEGMENT_ENDED);
    segment->was_unsealed = !(segment->info.flags & SEGMENT_SEALED);
    open_segment(r, segment->was_unsealed, look_at_file);
}

/* ---- JUDGE ---- */

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Blocks of the segment from there on do not count. */
static void trim(struct segment *segment, uint64_t block)
{
    if (segment->info.first_block == 0 || segment->info.last_block < block)
        return;
    if (segment->info.first_block >= block) {
        segment->offsets_count = 0;
        segment->info.first_block = segment->info.last_block = 0;
        segment->end = SEGMENT_HEADER_SIZE;
        return;
    }
    uint64_t end_offset;
    do {
        segment->end = segment_block_offset(segment, segment->info.last_block, &end_offset);
        segment->offsets_count--;
        segment->info.last_block--;
    } while (segment->info.last_block >= block ||
             segment->offsets[segment->offsets_count - 1] == 0);
}

/* Where an open segment goes over into the next: written twice, or with something missing. */
static void judge_seams(struct recovery *r)
{
    struct log *log = r->log;
    struct segment *before = NULL;
    size_t before_index = 0;

    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        if (segment->info.first_block == 0)
            continue;
        if (before && before->info.last_block >= segment->info.first_block)
            trim(before, segment->info.first_block);
        else if (before && before->was_open &&
                 before->info.last_block + 1 < segment->info.first_block) {
            r->at = before_index;
            add_bad(r, before->info.last_block + 1, segment->info.first_block - 1, before->end);
        }
        before = segment;
        before_index = i;
    }
}

/* The first block that is missing or broken there; 0: none, since another segment goes on. */
static uint64_t first_missing(const struct log *log, const struct bad_block *bad)
{
    const struct segment *segment = log->segments[bad->segment];

    if (bad->last != UINT64_MAX)
        return bad->first;
    for (size_t i = bad->segment + 1; i < log->segments_count; i++)
        if (log->segments[i]->info.first_block)
            return 0; /* judge_seams() has looked at it */
    return segment->info.first_block ? segment->info.last_block + 1 : 0;
}

static void report_bad(struct recovery *r, const struct bad_block *bad, uint64_t first)
{
    struct segment *segment = r->log->segments[bad->segment];
    uint64_t last = smaller(bad->last, r->known_durable);

    segment->info.flags |= SEGMENT_QUARANTINED;
    r->summary.corrupt_blocks += last - first + 1;
    report(r, "%s: block %llu to %llu at %llu, %s", segment->name, (unsigned long long)first,
           (unsigned long long)last, (unsigned long long)bad->offset,
           bad->is_listed ? "in part" : "as a whole");
}

static void judge_bad(struct recovery *r)
{
    struct log *log = r->log;
    uint64_t reported = 0;

    for (size_t i = 0; i < r->bad_count; i++) {
        uint64_t first = first_missing(log, &r->bad[i]);
        if (first > r->known_durable && first <= r->last)
            r->last = first - 1;
    }
    for (size_t i = 0; i < r->bad_count; i++) {
        uint64_t first = first_missing(log, &r->bad[i]);
        if (first == 0 || first > r->known_durable)
            continue;
        report_bad(r, &r->bad[i], first);
        if (r->bad[i].last > reported)
            reported = r->bad[i].last;
    }
    if (r->last >= r->known_durable || reported >= r->known_durable)
        return;
    r->summary.corrupt_blocks += r->known_durable - r->last;
    report(r, "block %llu to %llu are in no segment", (unsigned long long)r->last + 1,
           (unsigned long long)r->known_durable);
    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->was_open && log->segments[i]->info.first_block == 0 &&
            log->segments[i]->file_size > SEGMENT_HEADER_SIZE)
            log->segments[i]->info.flags |= SEGMENT_QUARANTINED;
}

static int compare_marks(const void *a, const void *b)
{
    const struct index_mark *x = a, *y = b;

    if (x->position != y->position)
        return x->position < y->position ? -1 : 1;
    return x->type < y->type ? -1 : x->type > y->type;
}

/* In order, each once, and only of blocks that count. */
static void judge_marks(struct recovery *r)
{
    struct log *log = r->log;
    size_t kept = 0;

    if (r->marks_count)
        qsort(r->marks, r->marks_count, sizeof *r->marks, compare_marks);
    for (size_t i = 0; i < r->marks_count; i++) {
        struct index_mark *mark = &r->marks[i];
        struct segment *segment = segment_of_block(log, position_block(mark->position));
        if (!segment || (kept && compare_marks(&r->marks[kept - 1], mark) == 0 &&
                         r->marks[kept - 1].number == mark->number))
            continue;
        r->marks[kept++] = *mark;
        if (mark->type != RECORD_STATE && mark->type != RECORD_STATE_DROPPED)
            segment->catalog_last = mark->position;
    }
    r->marks_count = kept;
}

static void judge_snapshot(struct recovery *r)
{
    struct log *log = r->log;
    uint64_t newest = 0;

    for (size_t i = 0; i < r->marks_count; i++) {
        const struct index_mark *mark = &r->marks[i];
        if (mark->type == RECORD_SNAPSHOT_BEGIN || mark->type == RECORD_SNAPSHOT_END)
            log->snapshot_id = log->snapshot_id < mark->number ? mark->number : log->snapshot_id;
        if (mark->type == RECORD_SNAPSHOT_END && mark->number > newest)
            newest = mark->number;
    }
    for (size_t i = 0; i < r->marks_count && newest; i++)
        if (r->marks[i].type == RECORD_SNAPSHOT_BEGIN && r->marks[i].number == newest) {
            r->snapshot = newest;
            log->catalog_start = r->marks[i].position;
        }
    if (newest && !r->snapshot)
        report(r, "the begin of the catalog's snapshot %llu", (unsigned long long)newest);
}

static void found_state_drop(struct recovery *r, uint64_t queue)
{
    struct found_state *state = map_remove_number(&r->states, queue);

    if (state) {
        list_remove(&state->link);
        free(state);
    }
}

/* The newest state of each queue that is there with all its parts. */
static void judge_states(struct recovery *r)
{
    size_t begin = SIZE_MAX;

    for (size_t i = 0; i < r->marks_count; i++) {
        const struct index_mark *mark = &r->marks[i];
        if (mark->type == RECORD_STATE_DROPPED)
            found_state_drop(r, mark->number);
        if (mark->type != RECORD_STATE || mark->number == 0)
            continue;
        if (mark->flags & STATE_FIRST)
            begin = i;
        else if (begin != SIZE_MAX && r->marks[begin].number != mark->number)
            begin = SIZE_MAX;
        if (mark->flags & STATE_MORE || begin == SIZE_MAX)
            continue;
        found_state_drop(r, mark->number);
        struct found_state *state = memory_new(sizeof *state);
        *state = (struct found_state){.queue = mark->number,
                                      .position = r->marks[begin].position,
                                      .mark = begin,
                                      .count = i + 1 - begin};
        list_init(&state->link);
        list_append(&r->states_order, &state->link);
        map_put_number(&r->states, state->queue, state);
        begin = SIZE_MAX;
    }
}

static void step_judge(struct recovery *r)
{
    struct log *log = r->log;

    judge_seams(r);
    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->info.first_block && log->segments[i]->info.last_block > r->last)
            r->last = log->segments[i]->info.last_block;
    judge_bad(r);
    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        trim(segment, r->last + 1);
        if (segment->was_open && !segment->footer && segment->file_size > segment->end)
            r->summary.torn_bytes += segment->file_size - segment->end;
    }
    if (r->last < r->known_durable)
        r->last = r->known_durable; /* numbers are not used again */
    segments_sort(log);
    judge_marks(r);
    judge_snapshot(r);
    judge_states(r);
    r->at = 0;
    r->footer_is_bad = false;
    go(r, step_catalog);
}

/* ---- catalog and states, read by position ---- */

static void fetched(struct fetch *fetch, int result)
{
    struct recovery *r = CONTAINER_OF(fetch, struct recovery, fetch);

    if (result < 0) {
        fail(&r->failure, result == E_MEMORY ? E_MEMORY : E_IO, "the log cannot be read at %llu",
             (unsigned long long)fetch->offset);
        end(r, r->failure.code);
        return;
    }
    go(r, r->step);
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

    r->fetch.ahead = WINDOW_BYTES / 2;
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
        report(r, "a record of the %s: %s", mark->type == RECORD_STATE ? "queues" : "catalog",
               failure.text);
    }
    return result;
}

static void step_catalog(struct recovery *r)
{
    struct log *log = r->log;
    uint64_t until_ns = loop_precise_ns(log->loop) + TURN_SLICE_NS;

    for (; r->at < r->marks_count; r->at++) {
        struct slice bytes;
        struct buffer *assembled;
        if (!catalog_counts(r, &r->marks[r->at]))
            continue;
        if (loop_precise_ns(log->loop) >= until_ns) {
            go(r, step_catalog);
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
    go(r, step_states);
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
            go(r, step_states);
            return;
        }
        for (; r->state_part < state->count && result == 0; r->state_part++) {
            struct slice bytes;
            struct buffer *assembled;
            result = read_mark(r, &r->marks[state->mark + r->state_part], &bytes, &assembled);
            if (result == E_AGAIN)
                return;
            if (result < 0)
                break;
            VECTOR_RESERVE(r->state_bytes, r->state_capacity, r->state_size + bytes.size);
            memcpy(r->state_bytes + r->state_size, bytes.data, bytes.size);
            r->state_size += bytes.size;
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
    fetch_init(&r->fetch, log, fetched);
    cache_forget(log, NULL);
    go(r, step_tell);
}

/* ---- TELL: messages, and what happened to them since the last checkpoint ---- */

static void tell_message(struct recovery *r, const struct index_entry *entry)
{
    struct log *log = r->log;

    segment_now(r)->live++;
    log->live++;
    if (r->functions.message)
        r->functions.message(log->context, entry->queue, entry->sequence, entry->position,
                             entry->size, entry->lane);
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

static void tell_message_record(struct recovery *r, const struct record *record, uint64_t position)
{
    struct message_record message;
    struct target target;

    if (message_record_decode(record->payload, &message) < 0) {
        report(r, "%s: a message in block %llu", segment_now(r)->name,
               (unsigned long long)r->block);
        return;
    }
    struct reader targets = reader_of(message.targets);
    for (uint64_t i = 0; i < message.targets_count; i++) {
        target_decode(&targets, &target);
        struct index_entry entry = {target.queue, target.sequence, position, message.body_size,
                                    target.lane};
        if (r->collected)
            block_add_index(r->collected, &entry);
        tell_message(r, &entry);
    }
}

static void tell_change(struct recovery *r, const struct record *record, uint64_t order)
{
    struct range_record range;
    struct delivered_record delivered;
    void *context = r->log->context;

    r->summary.records_replayed++;
    if (record->type == RECORD_DELIVERED) {
        if (delivered_record_decode(record->payload, &delivered) == 0 && r->functions.delivered &&
            !is_covered(r, delivered.queue, order))
            r->functions.delivered(context, delivered.queue, delivered.sequence);
        return;
    }
    if (range_record_decode(record->payload, &range) < 0) {
        report(r, "%s: a settlement in block %llu", segment_now(r)->name,
               (unsigned long long)r->block);
        return;
    }
    if (is_covered(r, range.queue, order))
        return;
    if (record->type == RECORD_SETTLED && r->functions.settled)
        r->functions.settled(context, range.queue, range.first, range.last, range.detail);
    if (record->type == RECORD_RETURNED && r->functions.returned)
        r->functions.returned(context, range.queue, range.first, range.last, range.detail);
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
    else if (r->block >= r->log->metadata.replay_block &&
             (record->type == RECORD_SETTLED || record->type == RECORD_RETURNED ||
              record->type == RECORD_DELIVERED))
        tell_change(r, record, order);
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
    report(r, "%s: block %llu, chunk %llu, at %llu", segment->name,
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
    report(r, "%s: block %llu at %llu", segment->name, (unsigned long long)expected,
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
        report(r, "%s: the index of block %llu", segment_now(r)->name, (unsigned long long)block);
}

static const struct scan_visitor tell_footer = {nothing_block, tell_index, footer_bad, footer_gap,
                                                nothing_block};

static void tell_next(struct recovery *r)
{
    r->at++;
    go(r, step_tell);
}

static void told(struct recovery *r)
{
    if (r->footer_is_bad)
        report(r, "the footer of %s", segment_now(r)->name);
    r->footer_is_bad = false;
    close_segment(r, tell_next);
}

static void tell_file(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        report(r, "%s is gone now", segment->name);
        tell_next(r);
        return;
    }
    if (segment->footer && segment->info.last_block < r->log->metadata.replay_block)
        begin_scan(r, &tell_footer, segment->footer, segment->file_size - TRAILER_SIZE, true, told);
    else
        begin_scan(r, &tell, SEGMENT_HEADER_SIZE, segment->end, false, told);
}

static void step_tell(struct recovery *r)
{
    struct log *log = r->log;

    while (r->at < log->segments_count && segment_now(r)->info.first_block == 0)
        r->at++;
    if (r->at == log->segments_count) {
        r->at = 0;
        go(r, step_seal);
        return;
    }
    open_segment(r, segment_now(r)->was_unsealed, tell_file);
}

/* ---- sealing what was open ---- */

static void seal_next(struct recovery *r)
{
    r->at++;
    go(r, step_seal);
}

/* What was read must not be lost by the next power cut, whether there is room for a footer or not.
 */
static void synced(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct segment *segment = segment_now(r);

    if (request->result < 0) {
        end_with(r, request, "a segment cannot be synced");
        return;
    }
    if (segment->footer) { /* it was there already */
        segment->info.flags |= SEGMENT_ENDED | SEGMENT_SEALED;
        close_segment(r, seal_next);
        return;
    }
    segment->info.flags |= SEGMENT_ENDED;
    r->next = seal_next;
    /* right behind the last block, whose padding may not be there */
    uint64_t offset = segment->file_size;
    if (!(segment->info.flags & SEGMENT_QUARANTINED) && segment->end < offset)
        offset = segment->end;
    segment_close(segment, offset);
}

static void truncated(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    if (request->result == E_INVALID) { /* sealed, by a footer that has turned bad since */
        segment_now(r)->info.flags |= SEGMENT_ENDED | SEGMENT_SEALED;
        segment_now(r)->info.end = segment_now(r)->end;
        close_segment(r, seal_next);
        return;
    }
    if (request->result < 0) {
        end_with(r, request, "a torn tail cannot be cut off");
        return;
    }
    segment_now(r)->file_size = segment_now(r)->end;
    r->request = (struct store_request){.operation = STORE_SYNC, .file = segment_now(r)->file};
    submit(r, synced);
}

static void seal_file(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        seal_next(r);
        return;
    }
    if (segment->file_size > segment->end && !(segment->info.flags & SEGMENT_QUARANTINED) &&
        !segment->footer) {
        r->request = (struct store_request){
            .operation = STORE_TRUNCATE, .file = segment->file, .offset = segment->end};
        submit(r, truncated);
        return;
    }
    /* with its footer already there, sealing also drops what the store has reserved behind it */
    r->request = (struct store_request){.operation = segment->footer ? STORE_SEAL : STORE_SYNC,
                                        .file = segment->file};
    submit(r, synced);
}

/* The footer is written, or not: then the segment is read as a whole next time, too. */
void recovery_segment_closed(struct log *log)
{
    struct recovery *r = log->recovery;

    if (!r->is_ended)
        close_segment(r, seal_next);
}

static void step_seal(struct recovery *r)
{
    struct log *log = r->log;

    while (r->at < log->segments_count) {
        struct segment *segment = segment_now(r);
        if (segment->info.first_block == 0 && !(segment->info.flags & SEGMENT_QUARANTINED)) {
            segment_drop(segment);
            continue;
        }
        if (segment->was_unsealed && segment->info.first_block)
            break;
        r->at++;
    }
    if (r->at == log->segments_count) {
        go(r, step_end);
        return;
    }
    open_segment(r, false, seal_file);
}

static void step_end(struct recovery *r)
{
    struct log *log = r->log;

    log->durable = log->synced = log->last = r->last;
    metadata_touch(log);
    log_info(log->options.logger, "log",
             "%zu segments, last block %llu, %llu bytes torn, %llu blocks corrupt",
             log->segments_count, (unsigned long long)r->last,
             (unsigned long long)r->summary.torn_bytes,
             (unsigned long long)r->summary.corrupt_blocks);
    log_start(log);
    end(r, 0);
}

void recovery_begin(struct log *log, const struct log_recovery *functions,
                    void (*opened)(void *context, int result, const struct log_opened *summary,
                                   const struct failure *failure))
{
    struct recovery *r = memory_new(sizeof *r);

    log->recovery = r;
    r->log = log;
    r->functions = *functions;
    r->opened = opened;
    r->window = buffer_new(WINDOW_BYTES);
    ASSERT(r->window);
    task_init(&r->task, run_step);
    timer_init(&r->timer, log->loop, wind_up);
    fetch_init(&r->fetch, log, fetched);
    map_init_numbers(&r->states, loop_random(log->loop));
    list_init(&r->states_order);
    r->request = (struct store_request){.operation = STORE_META_READ};
    submit(r, metadata_read);
}

void recovery_free(struct log *log)
{
    struct recovery *r = log->recovery;

    if (!r)
        return;
    free_memory(r);
    map_fini(&r->states);
    if (r->collected)
        block_free(r->collected);
    if (r->fetch.buffer)
        buffer_unref(r->fetch.buffer);
    free(r);
    log->recovery = NULL;
}
