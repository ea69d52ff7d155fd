/*
 * The queue's state as a log record, and the queue rebuilt from state and log.
 *
 *   state   version u8 = 1, next varint, mark varint, runs varint, then per run of live, logged
 * sequences: gap varint (from the end of the run before; the first from 0), length varint - 1;
 *           returned varint, then per returned sequence: gap varint (from the one before), count
 * varint
 *
 * A sequence below the mark that is live comes back as redelivered. States longer than
 * LOG_STATE_MAX go as parts.
 */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

#define STATE_VERSION 1

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

    ASSERT(queue->log && !queue->closed);
    put(&g, STATE_VERSION);
    put(&g, queue->next);
    put(&g, exact ? seen_end(queue) : queue->mark_logged);
    put(&g, put_runs(queue, NULL));
    put_runs(queue, &g);
    put(&g, put_counts(queue, NULL));
    put_counts(queue, &g);

    size_t at = 0;
    do {
        size_t part = g.size - at < LOG_STATE_MAX ? g.size - at : LOG_STATE_MAX;
        log_append_state(queue->log, queue->id, slice_of(g.bytes + at, part), at + part < g.size);
        at += part;
    } while (at < g.size);
    free(g.bytes);
    queue->is_dirty = false;
    list_remove(&queue->dirty_link);
}

/* ---- recovery: a live sequence without position and message is one that the state promises ----
 */

static int recover_runs(struct queue *queue, struct reader *r)
{
    uint64_t runs = read_varint(r), at = 0;

    for (uint64_t i = 0; i < runs && !r->failed; i++) {
        uint64_t first = at + read_varint(r);
        uint64_t length = read_varint(r) + 1;
        if (r->failed || first == 0 || first < at || length > queue->next ||
            first > queue->next - length)
            return E_CORRUPT;
        at = first + length;
        for (uint64_t s = first; s < at; s++) {
            page_make(queue, page_number(s))->live |= page_bit(s);
            queue->ready++;
        }
    }
    return r->failed ? E_CORRUPT : 0;
}

int queue_recover_state(struct queue *queue, struct slice bytes)
{
    struct reader r = reader_of(bytes);

    ASSERT(queue->next == 1 && queue->pages_count == 0);
    if (read_varint(&r) != STATE_VERSION)
        return E_VERSION;
    queue->next = read_varint(&r);
    queue->mark_logged = queue->mark_durable = read_varint(&r);
    if (r.failed || queue->next == 0)
        return E_CORRUPT;
    int result = recover_runs(queue, &r);
    if (result != 0)
        return result;
    uint64_t counts = read_varint(&r), sequence = 0;
    for (uint64_t i = 0; i < counts && !r.failed; i++) {
        sequence += read_varint(&r);
        queue_recover_returned(queue, sequence, sequence, (uint32_t)read_varint(&r));
    }
    return r.failed ? E_CORRUPT : 0;
}

bool queue_recover_message(struct queue *queue, uint64_t sequence, uint64_t position, uint64_t size)
{
    struct queue_page *page = page_get(queue, page_number(sequence));
    unsigned index = sequence % QUEUE_PAGE;

    if (sequence < queue->next && !(page && (page->live & page_bit(sequence))))
        return false; /* settled before the state was written */
    if (page && (page->live & page_bit(sequence)) && page->positions[index])
        return false; /* told twice */
    if (!page)
        page = page_make(queue, page_number(sequence));
    if (!(page->live & page_bit(sequence))) {
        page->live |= page_bit(sequence);
        queue->ready++;
    }
    if (sequence >= queue->next)
        queue->next = sequence + 1;
    page->positions[index] = position;
    page->sizes[index] = (uint32_t)size;
    queue->ready_bytes += (uint32_t)size;
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
    struct queue_page *page;

    for (uint64_t n = page_number(first); (page = page_from(queue, &n)) && n <= page_number(last);
         n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            uint64_t sequence = n * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
            if (sequence >= first && sequence <= last)
                queue_remove(queue, page, sequence);
        }
        page_trim(queue, n);
    }
    if (last >= queue->next)
        queue->next = last + 1;
    queue_touch(queue); /* the next checkpoint may end the replay of this record */
}

void queue_recover_returned(struct queue *queue, uint64_t first, uint64_t last, uint32_t count)
{
    for (uint64_t s = first; s <= last && s < queue->next; s++) {
        struct queue_page *page = page_get(queue, page_number(s));
        if (!page || !(page->live & page_bit(s)))
            continue;
        if (!page->counts)
            page->counts = memory_new(QUEUE_PAGE * sizeof *page->counts);
        page->counts[s % QUEUE_PAGE] += count;
        page->returned |= page_bit(s);
    }
    queue_touch(queue);
}

void queue_recover_delivered(struct queue *queue, uint64_t sequence)
{
    if (sequence > queue->mark_logged)
        queue->mark_logged = queue->mark_durable = sequence;
    queue_touch(queue);
}

uint64_t queue_recover_end(struct queue *queue)
{
    struct queue_page *page;
    uint64_t missing = 0;

    for (uint64_t n = 0; (page = page_from(queue, &n)); n++) {
        for (uint64_t live = page->live; live; live &= live - 1) {
            unsigned index = (unsigned)__builtin_ctzll(live);
            uint64_t sequence = n * QUEUE_PAGE + index;
            if (!page->positions[index]) {
                queue_remove(queue, page, sequence);
                missing++;
            } else if (sequence < queue->mark_durable) {
                page->returned |= page_bit(sequence);
            }
        }
        page_trim(queue, n);
    }
    queue->fresh = queue_find_ready(queue, 1);
    queue->returned_first = UINT64_MAX;
    queue->returned_ready = 0;
    return missing;
}
