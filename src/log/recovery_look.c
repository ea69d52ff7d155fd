/* Where the blocks of each segment are, what is marked in them, and what is broken. */
#include "log/recovery_private.h"

#include <stdlib.h>

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

void recovery_footer_bad(void *context, const struct block_header *header, uint64_t chunk,
                         uint64_t offset)
{
    (void)header;
    (void)chunk;
    (void)offset;
    ((struct recovery *)context)->footer_is_bad = true;
}

void recovery_footer_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    (void)next;
    (void)found;
    (void)offset;
    ((struct recovery *)context)->footer_is_bad = true;
}

void recovery_ignore_block(void *context, const struct block_header *header, uint64_t offset)
{
    (void)context;
    (void)header;
    (void)offset;
}

static const struct scan_visitor look_footer = {recovery_ignore_block, footer_record,
                                                recovery_footer_bad, recovery_footer_gap,
                                                recovery_ignore_block};

static void look_next(struct recovery *r)
{
    r->at++;
    recovery_go(r, recovery_look);
}

static void looked(struct recovery *r)
{
    recovery_close(r, look_next);
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
    segment->scan_end = scan_end;
    recovery_scan(r, &look, SEGMENT_HEADER_SIZE, scan_end, false, looked);
}

static void footer_looked(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (r->footer_is_bad || !r->footer_has_blocks) {
        if (segment->info.flags & SEGMENT_SEALED) /* else it was never whole */
            recovery_report(r, "the footer of %s at %llu; its blocks are read instead",
                            segment->name, (unsigned long long)segment->footer);
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
        recovery_end_with(r, request, "a segment cannot be read");
        return;
    }
    if (trailer_decode(slice_of(r->window->data, r->window->size), &trailer) < 0 ||
        trailer.segment != segment->info.id || trailer.epoch != segment->info.epoch ||
        trailer.footer >= segment->file_size - TRAILER_SIZE) {
        if (segment->info.flags & SEGMENT_SEALED)
            recovery_report(r, "the trailer of %s; its blocks are read instead", segment->name);
        look_at_blocks(r, segment->file_size);
        return;
    }
    if (segment->was_open) { /* without a sync a footer may stay where blocks are lost */
        look_at_blocks(r, trailer.footer);
        return;
    }
    segment->footer = trailer.footer;
    segment->salt = trailer.salt;
    r->footer_is_bad = r->footer_has_blocks = false;
    r->marks_before = r->marks_count;
    recovery_scan(r, &look_footer, trailer.footer, segment->file_size - TRAILER_SIZE, true,
                  footer_looked);
}

static void look_at_file(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        recovery_report(r, "%s is gone", segment->name);
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
    recovery_submit(r, trailer_read);
}

void recovery_look(struct recovery *r)
{
    struct log *log = r->log;

    if (r->at == log->segments_count) {
        recovery_go(r, recovery_judge);
        return;
    }
    struct segment *segment = segment_now(r);
    segment->was_open = !(segment->info.flags & SEGMENT_ENDED);
    segment->first_hint = segment->info.first_block;
    segment->was_unsealed = !(segment->info.flags & SEGMENT_SEALED);
    recovery_open(r, segment->was_unsealed, look_at_file);
}

/* ---- JUDGE ---- */

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Blocks of the segment from there on do not count. */
static void trim(const struct recovery *r, struct segment *segment, uint64_t block)
{
    if (segment->info.first_block == 0 || segment->info.last_block < block)
        return;
    if (segment->info.first_block >= block) {
        segment->offsets_count = 0;
        segment->info.first_block = segment->info.last_block = 0;
        segment->end = SEGMENT_HEADER_SIZE;
        return;
    }
    do {
        uint64_t offset = (uint64_t)segment->offsets[--segment->offsets_count] * SECTOR_SIZE;
        if (offset) /* of those that cannot be read the gap knows the begin, below */
            segment->end = offset;
        segment->info.last_block--;
    } while (segment->info.last_block >= block ||
             segment->offsets[segment->offsets_count - 1] == 0);
    for (size_t i = 0; i < r->bad_count; i++)
        if (r->bad[i].first == segment->info.last_block + 1 &&
            r->log->segments[r->bad[i].segment] == segment && r->bad[i].offset < segment->end)
            segment->end = r->bad[i].offset;
}

/* The block with which the segment should begin; 0: not known. For one that was open: the metadata
 * knows when it was written since the first block was there. Otherwise it goes on where an open
 * segment before it ends (`open_from`; 0: there is none), or behind what was durable when the
 * metadata was written. */
static uint64_t should_begin(const struct recovery *r, const struct segment *segment,
                             uint64_t open_from)
{
    if (!segment->was_open)
        return segment->info.first_block;
    if (segment->first_hint)
        return segment->first_hint;
    return open_from ? open_from : r->metadata.durable_block + 1;
}

static void add_missing(struct recovery *r, size_t segment, uint64_t first, uint64_t next)
{
    if (first == 0 || first >= next)
        return;
    r->at = segment;
    add_bad(r, first, next - 1, SEGMENT_HEADER_SIZE);
}

/* Where one segment goes over into the next: written twice, or with something missing. */
static void judge_seams(struct recovery *r)
{
    struct log *log = r->log;
    struct segment *before = NULL;
    uint64_t open_from = 0;

    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        uint64_t first = should_begin(r, segment, open_from);
        add_missing(r, i, open_from, first);
        if (segment->info.first_block == 0) {
            open_from = first ? first : open_from;
            continue;
        }
        if (before)
            trim(r, before, segment->info.first_block);
        add_missing(r, i, first, segment->info.first_block);
        before = segment;
        open_from = segment->was_open ? segment->info.last_block + 1 : 0;
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
    recovery_report(r, "%s: block %llu to %llu at %llu, %s", segment->name,
                    (unsigned long long)first, (unsigned long long)last,
                    (unsigned long long)bad->offset, bad->is_listed ? "in part" : "as a whole");
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
    recovery_report(r, "block %llu to %llu are in no segment", (unsigned long long)r->last + 1,
                    (unsigned long long)r->known_durable);
    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->was_open && log->segments[i]->info.first_block == 0 &&
            log->segments[i]->file_size > SEGMENT_HEADER_SIZE)
            log->segments[i]->info.flags |= SEGMENT_QUARANTINED;
}

/* What is not addressable stands before the record whose position it has as its order. */
static int compare_marks(const void *a, const void *b)
{
    const struct index_mark *x = a, *y = b;

    if (x->position != y->position)
        return x->position < y->position ? -1 : 1;
    return record_is_addressable(x->type) - record_is_addressable(y->type);
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
        recovery_report(r, "the begin of the catalog's snapshot %llu", (unsigned long long)newest);
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

void recovery_judge(struct recovery *r)
{
    struct log *log = r->log;

    judge_seams(r);
    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->info.first_block && log->segments[i]->info.last_block > r->last)
            r->last = log->segments[i]->info.last_block;
    judge_bad(r);
    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        trim(r, segment, r->last + 1);
        if (segment->was_open && segment->scan_end > segment->end)
            r->summary.torn_bytes += segment->scan_end - segment->end;
    }
    if (r->last < r->known_durable)
        r->last = r->known_durable; /* numbers are not used again */
    segments_sort(log);
    judge_marks(r);
    judge_snapshot(r);
    judge_states(r);
    r->at = 0;
    r->footer_is_bad = false;
    recovery_go(r, recovery_catalog);
}
