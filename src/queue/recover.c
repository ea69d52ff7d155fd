/*
 * The queue's state as a log record, and the queue rebuilt from state and log.
 *
 *   state   version u8 = 2, next varint, mark varint, runs varint, then per run of live, logged
 * sequences: gap varint (from the end of the run before; the first from 0), length varint - 1;
 *           returned varint, then per returned sequence: gap varint (from the one before), count
 * varint; postponed varint, then per sequence that waits for another time than its record says: gap
 * varint (from the one before), due varint (wall clock, ms). Version 1 ends before `postponed`.
 *
 * A sequence below the mark that is live comes back as redelivered. States longer than
 * LOG_STATE_MAX go as parts.
 */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

#define STATE_VERSION 2

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
static uint64_t put_runs(const struct queue *queue, struct growing *g)
{
    uint64_t runs = 0, first = 0, end = 0, written = 0;

    for (uint32_t i = 0; i < queue->pages_count; i++) {
        const struct queue_page *page = page_entry(queue, i)->page;
        uint64_t n = page_entry(queue, i)->number;
        for (uint64_t live = page ? page->live : 0; live; live &= live - 1) {
            unsigned index = (unsigned)__builtin_ctzll(live);
            uint64_t sequence = n * QUEUE_PAGE + index;
            if (!page->positions[index])
                continue;
            if (end && sequence == end) {
                end++;
                continue;
            }
            if (end) {
                runs++;
                if (g) {
                    put(g, first - written);
                    put(g, end - first - 1);
                }
                written = end;
            }
            first = sequence;
            end = sequence + 1;
        }
    }
    if (end) {
        runs++;
        if (g) {
            put(g, first - written);
            put(g, end - first - 1);
        }
    }
    return runs;
}

static uint64_t put_counts(const struct queue *queue, struct growing *g)
{
    uint64_t count = 0, before = 0;

    for (uint32_t i = 0; i < queue->pages_count; i++) {
        const struct queue_page *page = page_entry(queue, i)->page;
        uint64_t n = page_entry(queue, i)->number;
        for (uint64_t live = page && page->counts ? page->live : 0; live; live &= live - 1) {
            unsigned index = (unsigned)__builtin_ctzll(live);
            uint64_t sequence = n * QUEUE_PAGE + index;
            if (!page->counts[index] || !page->positions[index])
                continue;
            count++;
            if (g) {
                put(g, sequence - before);
                put(g, page->counts[index]);
            }
            before = sequence;
        }
    }
    return count;
}

static uint64_t put_dues(const struct queue *queue, struct growing *g)
{
    uint64_t count = 0, before = 0;

    for (uint32_t i = 0; i < queue->pages_count; i++) {
        const struct queue_page *page = page_entry(queue, i)->page;
        uint64_t n = page_entry(queue, i)->number;
        for (uint64_t live = page && page->dues ? page->live : 0; live; live &= live - 1) {
            unsigned index = (unsigned)__builtin_ctzll(live);
            uint64_t sequence = n * QUEUE_PAGE + index;
            if (!(page->dues[index] & DUE_POSTPONED) || !page->positions[index])
                continue;
            count++;
            if (g) {
                put(g, sequence - before);
                put(g, page->dues[index] & DUE_MS_MAX);
            }
            before = sequence;
        }
    }
    return count;
}

/* Nothing live at or above this was ever seen. */
static uint64_t seen_end(const struct queue *queue)
{
    uint64_t end = queue->fresh;

    for (uint32_t i = queue->pages_count; i > 0; i--) {
        const struct page_entry *entry = page_entry(queue, i - 1);
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

void queue_write_state(struct queue *queue, bool exact)
{
    struct growing g = {0};

    ASSERT(queue->log && !queue->is_given_up);
    put(&g, STATE_VERSION);
    put(&g, queue->next);
    put(&g, exact ? seen_end(queue) : queue->mark_logged);
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

#define SEQUENCE_MAX (1ull << 62) /* nobody comes there; what says so is broken */

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
    uint64_t next;
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
        if (r->failed || gap > p->next - at || more >= p->next - at - gap || at + gap == 0)
            return E_CORRUPT;
        add_run(p, at + gap, more + 1);
        at += gap + more + 1;
    }
    return r->failed ? E_CORRUPT : 0;
}

static int read_counts(struct queue_promise *p, struct reader *r)
{
    uint64_t counts = read_varint(r), sequence = 0;

    for (uint64_t i = 0; i < counts && !r->failed; i++) {
        uint64_t gap = read_varint(r), count = read_varint(r);
        if (r->failed || gap >= p->next - sequence || count > UINT32_MAX)
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
        if (r->failed || gap == 0 || gap >= p->next - sequence || due_ms > DUE_MS_MAX)
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

int queue_recover_state(struct queue *queue, struct slice bytes)
{
    struct reader r = reader_of(bytes);
    struct queue_promise *p;

    ASSERT(queue->next == 1 && queue->pages_count == 0 && !queue->promise);
    uint64_t version = read_varint(&r);
    if (version < 1 || version > STATE_VERSION)
        return E_VERSION;
    p = memory_new(sizeof *p);
    p->next = read_varint(&r);
    uint64_t mark = read_varint(&r);
    int result = E_CORRUPT;
    if (!r.failed && p->next > 0 && p->next <= SEQUENCE_MAX && mark <= SEQUENCE_MAX)
        result = read_runs(p, &r);
    if (result == 0)
        result = read_counts(p, &r);
    if (result == 0 && version > 1)
        result = read_dues(p, &r);
    if (result == 0 && reader_left(&r) > 0)
        result = E_CORRUPT;
    if (result < 0) {
        promise_free(p);
        return result;
    }
    queue->promise = p;
    queue->next = p->next;
    queue->mark_logged = queue->mark_durable = mark;
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
                           uint16_t lane, uint64_t due_ms)
{
    struct queue_promise *p = queue->promise;
    uint64_t put_off = p ? promised_due(p, sequence) : 0;
    uint64_t due = put_off ? put_off : due_ms_least(due_ms);
    bool is_promised = p && sequence < p->next && promised_in(p, sequence, sequence) > 0;

    if (sequence >= SEQUENCE_MAX || (p && sequence < p->next && !is_promised))
        return false; /* settled before the state was written */
    struct queue_page *page = page_get(queue, page_number(sequence));
    if (page && (page->live & page_bit(sequence)))
        return take_newer(queue, page, sequence, position, due);
    if (!page)
        page = page_make(queue, page_number(sequence));
    page->live |= page_bit(sequence);
    queue->ready++;
    if (sequence >= queue->next)
        queue->next = sequence + 1;
    page->positions[sequence % QUEUE_PAGE] = position;
    page->sizes[sequence % QUEUE_PAGE] = (uint32_t)size;
    queue->ready_bytes += (uint32_t)size;
    delay_recover(queue, page, sequence, due);
    if (lane & QUEUE_LANE_MORTAL)
        queue_has_mortals(queue);
    if (is_promised)
        not_missing(p, 1);
    return true;
}

/* The first page there is from that number on; sought anew for each step, since trimming moves what
 * is in front. */
static struct queue_page *page_from(const struct queue *queue, uint64_t *number)
{
    for (uint32_t i = page_index(queue, *number); i < queue->pages_count; i++) {
        *number = page_entry(queue, i)->number;
        if (page_entry(queue, i)->page)
            return page_entry(queue, i)->page;
    }
    return NULL;
}

void queue_recover_settled(struct queue *queue, uint64_t first, uint64_t last)
{
    struct queue_promise *p = queue->promise;
    struct queue_page *page;
    uint64_t told = 0; /* of those promised */

    if (first >= SEQUENCE_MAX)
        return;
    if (last >= SEQUENCE_MAX)
        last = SEQUENCE_MAX - 1;
    for (uint64_t n = page_number(first); (page = page_from(queue, &n)) && n <= page_number(last);
         n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            uint64_t sequence = n * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
            if (sequence < first || sequence > last)
                continue;
            queue_remove(queue, page, sequence);
            told += p && sequence < p->next;
        }
        page_trim(queue, n);
    }
    if (p)
        not_missing(p, promised_in(p, first, last) - told);
    if (last >= queue->next)
        queue->next = last + 1;
    queue_touch(queue); /* the next checkpoint may end the replay of this record */
}

void queue_recover_returned(struct queue *queue, uint64_t first, uint64_t last, uint32_t count)
{
    struct queue_page *page;

    for (uint64_t n = page_number(first); (page = page_from(queue, &n)) && n <= page_number(last);
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
    struct queue_page *page = page_get(queue, page_number(sequence));

    if (page && (page->live & page_bit(sequence))) {
        page->returned |= page_bit(sequence);
        delay_recover(queue, page, sequence, due_ms_least(due_ms) | DUE_POSTPONED);
    }
    queue_touch(queue);
}

void queue_recover_delivered(struct queue *queue, uint64_t sequence)
{
    if (sequence > queue->mark_logged && sequence <= SEQUENCE_MAX)
        queue->mark_logged = queue->mark_durable = sequence;
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

uint64_t queue_recover_end(struct queue *queue)
{
    struct queue_page *page;
    uint64_t missing = queue->promise ? queue->promise->missing : 0;

    if (queue->promise)
        apply_counts(queue);
    queue_promise_free(queue);
    for (uint64_t n = 0; (page = page_from(queue, &n)); n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            uint64_t sequence = n * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
            if (sequence < queue->mark_durable && !waits_from_the_first(page, sequence))
                page->returned |= page_bit(sequence);
        }
        page_trim(queue, n);
    }
    queue->fresh = queue_find_ready(queue, 1);
    queue->returned_first = UINT64_MAX;
    queue->returned_ready = 0;
    if (queue->upkeep)
        upkeep_look(queue);
    delay_look(queue);
    return missing;
}
