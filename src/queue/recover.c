/*
 * The queue's state as a log record, and the queue rebuilt from state and log.
 *
 *   state     version u8 = 2 for a queue with one lane: next varint, mark varint; or
 *             version u8 = 3: lanes varint, then per lane that there is: gap varint (its number
 * less that of the lane before - 1; the first is lane 0), next varint, mark varint (both as places
 * in the lane); then for both: runs varint, then per run of live, logged sequences: gap varint
 * (from the end of the run before; the first from 0), length varint - 1; returned varint, then per
 * returned sequence: gap varint (from the one before), count varint; postponed varint, then per
 * sequence that waits for another time than its record says: gap varint (from the one before), due
 * varint (wall clock, ms). Version 1 is 2 without what is postponed.
 *
 * A sequence below the mark of its lane that is live comes back as redelivered. A run is in one
 * lane. States longer than LOG_STATE_MAX go as parts.
 */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

enum { STATE_WITHOUT_DUES = 1, STATE_ONE_LANE, STATE_LANES };

struct growing {
    uint8_t *bytes;
    size_t size, capacity;
};

static void put(struct growing *g, uint64_t value)
{
    if (g->capacity - g->size < VARINT_SIZE_MAX) {
        g->capacity = g->capacity ? 2 * g->capacity : 128;
        g->bytes = memory_resize(g->bytes, g->capacity, 1);
    }
    struct writer w = writer_of(g->bytes + g->size, g->capacity - g->size);
    write_varint(&w, value);
    g->size += writer_size(&w);
}

/* Runs of live, logged sequences; with g NULL only counts them. */
struct runs {
    struct growing *g;
    uint64_t first, end; /* of the run that may go on; end 0: there is none */
    uint64_t written, count;
};

static void put_run(struct runs *runs)
{
    if (!runs->end)
        return;
    runs->count++;
    if (runs->g) {
        put(runs->g, runs->first - runs->written);
        put(runs->g, runs->end - runs->first - 1);
    }
    runs->written = runs->end;
    runs->end = 0;
}

static void put_page(struct runs *runs, const struct queue_page *page, uint64_t start)
{
    for (uint64_t live = page->live; live; live &= live - 1) {
        unsigned index = (unsigned)__builtin_ctzll(live);
        uint64_t sequence = start + index;
        if (!page->positions[index])
            continue;
        if (sequence != runs->end) {
            put_run(runs);
            runs->first = sequence;
        }
        runs->end = sequence + 1;
    }
}

static uint64_t put_runs(const struct queue *queue, struct growing *g)
{
    struct runs runs = {.g = g};
    const struct queue_lane *lane;

    LANES_LOOK_EACH (queue, lane, number) {
        for (uint32_t i = 0; i < lane->pages_count; i++) {
            const struct page_entry *entry = page_entry(lane, i);
            if (entry->page)
                put_page(&runs, entry->page, entry->number * QUEUE_PAGE);
        }
    }
    put_run(&runs);
    return runs.count;
}

/* Of one page; *before is the one before. */
static uint64_t put_counts_of(const struct queue_page *page, uint64_t start, uint64_t *before,
                              struct growing *g)
{
    uint64_t count = 0;

    for (uint64_t live = page->counts ? page->live : 0; live; live &= live - 1) {
        unsigned index = (unsigned)__builtin_ctzll(live);
        if (!page->counts[index] || !page->positions[index])
            continue;
        count++;
        if (g) {
            put(g, start + index - *before);
            put(g, page->counts[index]);
        }
        *before = start + index;
    }
    return count;
}

static uint64_t put_counts(const struct queue *queue, struct growing *g)
{
    uint64_t count = 0, before = 0;
    const struct queue_lane *lane;

    LANES_LOOK_EACH (queue, lane, number) {
        for (uint32_t i = 0; i < lane->pages_count; i++) {
            const struct page_entry *entry = page_entry(lane, i);
            if (entry->page)
                count += put_counts_of(entry->page, entry->number * QUEUE_PAGE, &before, g);
        }
    }
    return count;
}

static uint64_t put_dues_of(const struct queue_page *page, uint64_t start, uint64_t *before,
                            struct growing *g)
{
    uint64_t count = 0;

    for (uint64_t live = page->dues ? page->live : 0; live; live &= live - 1) {
        unsigned index = (unsigned)__builtin_ctzll(live);
        if (!(page->dues[index] & DUE_POSTPONED) || !page->positions[index])
            continue;
        count++;
        if (g) {
            put(g, start + index - *before);
            put(g, page->dues[index] & DUE_MS_MAX);
        }
        *before = start + index;
    }
    return count;
}

static uint64_t put_dues(const struct queue *queue, struct growing *g)
{
    uint64_t count = 0, before = 0;
    const struct queue_lane *lane;

    LANES_LOOK_EACH (queue, lane, number) {
        for (uint32_t i = 0; i < lane->pages_count; i++) {
            const struct page_entry *entry = page_entry(lane, i);
            if (entry->page)
                count += put_dues_of(entry->page, entry->number * QUEUE_PAGE, &before, g);
        }
    }
    return count;
}

/* Nothing live in the lane at or above this was ever seen. */
static uint64_t seen_end(const struct queue_lane *lane)
{
    uint64_t end = lane->fresh;

    for (uint32_t i = lane->pages_count; i > 0; i--) {
        const struct page_entry *entry = page_entry(lane, i - 1);
        if ((entry->number + 1) * QUEUE_PAGE <= end)
            break;
        if (entry->page && entry->page->returned) {
            uint64_t last = (entry->number + 1) * QUEUE_PAGE - 1 -
                            (unsigned)__builtin_clzll(entry->page->returned);
            return last + 1 > end ? last + 1 : end;
        }
    }
    return end;
}

bool queue_is_inexact(const struct queue *queue)
{
    const struct queue_lane *lane;

    LANES_LOOK_EACH (queue, lane, number) {
        if (lane->mark_logged > lane->fresh)
            return true;
    }
    return false;
}

/* Marks were never moved where nothing was given out. */
static void put_lane(const struct queue_lane *lane, bool exact, struct growing *g)
{
    put(g, lane->next % QUEUE_LANE_SPAN);
    put(g, (exact ? seen_end(lane) : lane->mark_logged) % QUEUE_LANE_SPAN);
}

static void put_lanes(const struct queue *queue, bool exact, struct growing *g)
{
    uint64_t count = 0;
    unsigned before = 0;
    const struct queue_lane *lane;

    LANES_LOOK_EACH (queue, lane, number)
        count++;
    put(g, count);
    LANES_LOOK_EACH (queue, lane, number) {
        if (number > 0)
            put(g, number - before - 1);
        before = number;
        put_lane(lane, exact, g);
    }
}

void queue_write_state(struct queue *queue, bool exact)
{
    struct growing g = {0};

    ASSERT(queue->log && !queue->is_given_up);
    put(&g, queue->lanes ? STATE_LANES : STATE_ONE_LANE);
    if (queue->lanes)
        put_lanes(queue, exact, &g);
    else
        put_lane(&queue->lane, exact, &g);
    put(&g, put_runs(queue, NULL));
    put_runs(queue, &g);
    put(&g, put_counts(queue, NULL));
    put_counts(queue, &g);
    put(&g, put_dues(queue, NULL));
    put_dues(queue, &g);

    size_t at = 0;
    do {
        size_t part = g.size - at < LOG_STATE_MAX ? g.size - at : LOG_STATE_MAX;
        log_append_state(queue->log, queue->id, slice_of(g.bytes + at, part), at + part < g.size);
        at += part;
    } while (at < g.size);
    free(g.bytes);
    queue->is_dirty = false;
    list_remove(&queue->closed_link);
}

/* ---- recovery ----
 *
 * What the state says is kept as it stands there, in runs, until the log has told its messages: so
 * that a state takes memory for its own bytes, whatever it promises, and pages are made for
 * messages that there are. */

/* Nobody comes there in a lane; what says so is broken. */
#define PLACE_MAX (QUEUE_LANE_SPAN - 1)

/* Can there be such a sequence? */
static bool is_possible(uint64_t sequence)
{
    uint64_t place = sequence % QUEUE_LANE_SPAN;

    return lane_number(sequence) < QUEUE_LANES_MAX && place > 0 && place < PLACE_MAX;
}

struct promised_run {
    uint64_t first, length;
    uint64_t before; /* how many are in the runs before it */
};

struct promised_count {
    uint64_t sequence;
    uint32_t count;
};

struct promised_due {
    uint64_t sequence, due_ms;
};

struct queue_promise {
    uint64_t *next, *marks; /* of the lanes that the state knows, by number; next 0: not this one */
    unsigned lanes;
    struct promised_run *runs;
    struct promised_count *counts;
    struct promised_due *dues; /* by growing sequence */
    size_t runs_count, runs_capacity, counts_count, counts_capacity, dues_count, dues_capacity;
    uint64_t missing; /* promised, and neither told nor settled since */
};

static void promise_free(struct queue_promise *promise)
{
    if (!promise)
        return;
    free(promise->next);
    free(promise->marks);
    free(promise->runs);
    free(promise->counts);
    free(promise->dues);
    free(promise);
}

void queue_promise_free(struct queue *queue)
{
    promise_free(queue->promise);
    queue->promise = NULL;
}

/* Does the state speak of it, one way or the other? */
static bool is_covered(const struct queue_promise *p, uint64_t sequence)
{
    unsigned number = lane_number(sequence);

    return p && number < p->lanes && sequence < p->next[number];
}

static void add_run(struct queue_promise *p, uint64_t first, uint64_t length)
{
    if (p->runs_count == p->runs_capacity) {
        p->runs_capacity = p->runs_capacity ? 2 * p->runs_capacity : 8;
        p->runs = memory_resize(p->runs, p->runs_capacity, sizeof *p->runs);
    }
    p->runs[p->runs_count++] = (struct promised_run){first, length, p->missing};
    p->missing += length;
}

static void add_count(struct queue_promise *p, uint64_t sequence, uint32_t count)
{
    if (p->counts_count == p->counts_capacity) {
        p->counts_capacity = p->counts_capacity ? 2 * p->counts_capacity : 8;
        p->counts = memory_resize(p->counts, p->counts_capacity, sizeof *p->counts);
    }
    p->counts[p->counts_count++] = (struct promised_count){sequence, count};
}

static int read_runs(struct queue_promise *p, struct reader *r)
{
    uint64_t runs = read_varint(r), at = 0;

    for (uint64_t i = 0; i < runs && !r->failed; i++) {
        uint64_t gap = read_varint(r), more = read_varint(r);
        uint64_t first = at + gap, last = first + more;
        if (r->failed || first < at || last < first || !is_possible(first) ||
            lane_number(first) != lane_number(last) || !is_covered(p, last))
            return E_CORRUPT;
        add_run(p, first, more + 1);
        at = last + 1;
    }
    return r->failed ? E_CORRUPT : 0;
}

static int read_counts(struct queue_promise *p, struct reader *r)
{
    uint64_t counts = read_varint(r), sequence = 0;

    for (uint64_t i = 0; i < counts && !r->failed; i++) {
        uint64_t gap = read_varint(r), count = read_varint(r);
        if (r->failed || gap > UINT64_MAX - sequence || !is_covered(p, sequence + gap) ||
            count > UINT32_MAX)
            return E_CORRUPT;
        sequence += gap;
        add_count(p, sequence, (uint32_t)count);
    }
    return r->failed ? E_CORRUPT : 0;
}

static void add_due(struct queue_promise *p, uint64_t sequence, uint64_t due_ms)
{
    if (p->dues_count == p->dues_capacity) {
        p->dues_capacity = p->dues_capacity ? 2 * p->dues_capacity : 8;
        p->dues = memory_resize(p->dues, p->dues_capacity, sizeof *p->dues);
    }
    p->dues[p->dues_count++] = (struct promised_due){sequence, due_ms};
}

static int read_dues(struct queue_promise *p, struct reader *r)
{
    uint64_t dues = read_varint(r), sequence = 0;

    for (uint64_t i = 0; i < dues && !r->failed; i++) {
        uint64_t gap = read_varint(r), due_ms = read_varint(r);
        if (r->failed || gap == 0 || gap > UINT64_MAX - sequence ||
            !is_covered(p, sequence + gap) || due_ms > DUE_MS_MAX)
            return E_CORRUPT;
        sequence += gap;
        add_due(p, sequence, due_ms);
    }
    return r->failed ? E_CORRUPT : 0;
}

/* As the state says it was put off, with DUE_POSTPONED; 0: it was not. */
static uint64_t promised_due(const struct queue_promise *p, uint64_t sequence)
{
    size_t low = 0, high = p->dues_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->dues[middle].sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->dues_count && p->dues[low].sequence == sequence
               ? p->dues[low].due_ms | DUE_POSTPONED
               : 0;
}

static int read_lane(struct queue_promise *p, struct reader *r, unsigned number)
{
    uint64_t next = read_varint(r), mark = read_varint(r);

    if (r->failed || next == 0 || next > PLACE_MAX || mark > PLACE_MAX + QUEUE_MARK_STRIDE)
        return E_CORRUPT;
    p->next = memory_resize(p->next, number + 1, sizeof *p->next);
    p->marks = memory_resize(p->marks, number + 1, sizeof *p->marks);
    for (; p->lanes <= number; p->lanes++)
        p->next[p->lanes] = p->marks[p->lanes] = 0;
    p->next[number] = lane_start(number) + next;
    p->marks[number] = lane_start(number) + (mark < PLACE_MAX ? mark : PLACE_MAX);
    return 0;
}

static int read_lanes(struct queue_promise *p, struct reader *r)
{
    uint64_t lanes = read_varint(r), number = 0;
    int result = lanes == 0 ? E_CORRUPT : read_lane(p, r, 0);

    for (uint64_t i = 1; i < lanes && result == 0; i++) {
        uint64_t gap = read_varint(r);
        if (r->failed || gap >= QUEUE_LANES_MAX || number + gap + 1 >= QUEUE_LANES_MAX)
            return E_CORRUPT;
        number += gap + 1;
        result = read_lane(p, r, (unsigned)number);
    }
    return result;
}

int queue_recover_state(struct queue *queue, struct slice bytes)
{
    struct reader r = reader_of(bytes);
    uint64_t version = read_varint(&r);

    ASSERT(queue->lane.next == 1 && queue->lane.pages_count == 0 && !queue->promise);
    if (version < STATE_WITHOUT_DUES || version > STATE_LANES)
        return E_VERSION;
    struct queue_promise *p = memory_new(sizeof *p);
    int result = version == STATE_LANES ? read_lanes(p, &r) : read_lane(p, &r, 0);
    if (result == 0)
        result = read_runs(p, &r);
    if (result == 0)
        result = read_counts(p, &r);
    if (result == 0 && version != STATE_WITHOUT_DUES)
        result = read_dues(p, &r);
    if (result == 0 && reader_left(&r) > 0)
        result = E_CORRUPT;
    if (result < 0) {
        promise_free(p);
        return result;
    }
    queue->promise = p;
    for (unsigned number = 0; number < p->lanes; number++) {
        if (p->next[number] == 0)
            continue;
        struct queue_lane *lane = lane_make(queue, number);
        lane->next = p->next[number];
        lane->mark_logged = lane->mark_durable = p->marks[number];
    }
    return 0;
}

/* How many of what is promised are below that sequence. */
static uint64_t promised_below(const struct queue_promise *p, uint64_t sequence)
{
    size_t low = 0, high = p->runs_count; /* runs before `low` begin below the sequence */

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (p->runs[middle].first < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return 0;
    const struct promised_run *run = &p->runs[low - 1];
    uint64_t in_run = sequence - run->first;
    return run->before + (in_run < run->length ? in_run : run->length);
}

static uint64_t promised_in(const struct queue_promise *p, uint64_t first, uint64_t last)
{
    return promised_below(p, last + 1) - promised_below(p, first);
}

static void not_missing(struct queue_promise *p, uint64_t count)
{
    p->missing -= count < p->missing ? count : p->missing;
}

/* Told twice: the queue was in this shard before, has been in another, and came back. It is the
 * same message, and the older record was released. */
static bool take_newer(struct queue *queue, struct queue_page *page, uint64_t sequence,
                       uint64_t position, uint64_t due)
{
    uint64_t *known = &page->positions[sequence % QUEUE_PAGE];

    if (position <= *known)
        return false;
    log_release(queue->log, *known);
    *known = position;
    delay_recover(queue, page, sequence, due);
    return true;
}

bool queue_recover_message(struct queue *queue, uint64_t sequence, uint64_t position, uint64_t size,
                           uint16_t note, uint64_t due_ms)
{
    struct queue_promise *p = queue->promise;
    uint64_t put_off = p ? promised_due(p, sequence) : 0;
    uint64_t due = put_off ? put_off : due_ms_least(due_ms);
    bool is_promised = is_covered(p, sequence) && promised_in(p, sequence, sequence) > 0;

    if (!is_possible(sequence) || (is_covered(p, sequence) && !is_promised))
        return false; /* settled before the state was written */
    struct queue_lane *lane = lane_make(queue, lane_number(sequence));
    struct queue_page *page = page_get(lane, page_number(sequence));
    if (page && (page->live & page_bit(sequence)))
        return take_newer(queue, page, sequence, position, due);
    if (!page)
        page = page_make(queue, lane, page_number(sequence));
    page->live |= page_bit(sequence);
    if (sequence >= lane->next)
        lane->next = sequence + 1;
    page->positions[sequence % QUEUE_PAGE] = position;
    page->sizes[sequence % QUEUE_PAGE] = (uint32_t)size;
    ready_more(queue, lane, (uint32_t)size);
    delay_recover(queue, page, sequence, due);
    if (note & QUEUE_LANE_MORTAL)
        queue_has_mortals(queue);
    if (is_promised)
        not_missing(p, 1);
    return true;
}

/* The first page there is from that number on; sought anew for each step, since trimming moves what
 * is in front. */
static struct queue_page *page_from(const struct queue_lane *lane, uint64_t *number)
{
    for (uint32_t i = page_index(lane, *number); i < lane->pages_count; i++) {
        *number = page_entry(lane, i)->number;
        if (page_entry(lane, i)->page)
            return page_entry(lane, i)->page;
    }
    return NULL;
}

/* Cuts a range to what can be in the lane of its first sequence; false: nothing can. */
static bool cut_range(uint64_t *first, uint64_t *last)
{
    uint64_t most = lane_start(lane_number(*first)) + PLACE_MAX - 1;

    if (!is_possible(*first))
        return false;
    if (*last > most)
        *last = most;
    return *first <= *last;
}

void queue_recover_settled(struct queue *queue, uint64_t first, uint64_t last)
{
    struct queue_promise *p = queue->promise;
    struct queue_page *page;
    uint64_t told = 0; /* of those promised */

    if (!cut_range(&first, &last))
        return;
    struct queue_lane *lane = lane_make(queue, lane_number(first));
    for (uint64_t n = page_number(first); (page = page_from(lane, &n)) && n <= page_number(last);
         n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            uint64_t sequence = n * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
            if (sequence < first || sequence > last)
                continue;
            queue_remove(queue, page, sequence);
            told += is_covered(p, sequence);
        }
        page_trim(queue, lane, n);
    }
    if (p)
        not_missing(p, promised_in(p, first, last) - told);
    if (last >= lane->next)
        lane->next = last + 1;
    queue_touch(queue); /* the next checkpoint may end the replay of this record */
}

void queue_recover_returned(struct queue *queue, uint64_t first, uint64_t last, uint32_t count)
{
    struct queue_page *page;

    if (!cut_range(&first, &last))
        return;
    const struct queue_lane *lane = lane_make(queue, lane_number(first));
    for (uint64_t n = page_number(first); (page = page_from(lane, &n)) && n <= page_number(last);
         n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            unsigned index = (unsigned)__builtin_ctzll(live);
            uint64_t sequence = n * QUEUE_PAGE + index;
            if (sequence < first || sequence > last)
                continue;
            if (!page->counts)
                page->counts = memory_new(QUEUE_PAGE * sizeof *page->counts);
            page->counts[index] += count;
            page->returned |= page_bit(sequence);
        }
    }
    queue_touch(queue);
}

void queue_recover_postponed(struct queue *queue, uint64_t sequence, uint64_t due_ms)
{
    struct queue_page *page = page_of(queue, sequence);

    if (page && (page->live & page_bit(sequence))) {
        page->returned |= page_bit(sequence);
        delay_recover(queue, page, sequence, due_ms_least(due_ms) | DUE_POSTPONED);
    }
    queue_touch(queue);
}

void queue_recover_delivered(struct queue *queue, uint64_t sequence)
{
    if (!is_possible(sequence))
        return;
    struct queue_lane *lane = lane_make(queue, lane_number(sequence));
    if (sequence > lane->mark_logged)
        lane->mark_logged = lane->mark_durable = sequence;
    queue_touch(queue);
}

static void apply_counts(struct queue *queue)
{
    const struct queue_promise *p = queue->promise;

    for (size_t i = 0; i < p->counts_count; i++)
        queue_recover_returned(queue, p->counts[i].sequence, p->counts[i].sequence,
                               p->counts[i].count);
}

/* It was never due: nobody can have seen it. */
static bool waits_from_the_first(const struct queue_page *page, uint64_t sequence)
{
    return page->delayed & page_bit(sequence) &&
           !(page->dues[sequence % QUEUE_PAGE] & DUE_POSTPONED);
}

static void lane_recover_end(struct queue *queue, struct queue_lane *lane)
{
    uint64_t start = lane_start(lane_number(lane->next));
    struct queue_page *page;

    for (uint64_t n = page_number(start); (page = page_from(lane, &n)); n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            uint64_t sequence = n * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
            if (sequence < lane->mark_durable && !waits_from_the_first(page, sequence))
                page->returned |= page_bit(sequence);
        }
        page_trim(queue, lane, n);
    }
    lane->fresh = lane_find_ready(lane, start + 1);
    lane->returned_first = UINT64_MAX;
    lane->returned_ready = 0;
}

uint64_t queue_recover_end(struct queue *queue)
{
    uint64_t missing = queue->promise ? queue->promise->missing : 0;
    struct queue_lane *lane;

    if (queue->promise)
        apply_counts(queue);
    queue_promise_free(queue);
    LANES_EACH (queue, lane, number)
        lane_recover_end(queue, lane);
    if (queue->upkeep)
        upkeep_look(queue);
    delay_look(queue);
    return missing;
}
