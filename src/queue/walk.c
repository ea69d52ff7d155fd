/* A walk over a queue's messages, one after the other, which touches nothing. */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

static void read_done(struct log_read *read)
{
    struct queue_walk *walk = CONTAINER_OF(read, struct queue_walk, read);

    walk->is_reading = false;
    walk->ready(walk);
}

static void drop_read(struct queue_walk *walk)
{
    for (size_t i = 0; i < walk->read.count; i++) {
        if (walk->read.messages[i])
            message_unref(walk->read.messages[i]);
    }
    memset(&walk->read, 0, sizeof walk->read);
}

void queue_walk_fini(struct queue_walk *walk)
{
    ASSERT(!walk->is_reading);
    drop_read(walk);
}

/* Those that it is to tell, of this page. */
static uint64_t wanted_of(const struct queue_walk *walk, const struct queue_page *page)
{
    uint64_t wanted = page->live;

    if (walk->skips_delayed)
        wanted &= ~page->delayed;
    if (walk->skips_leased)
        wanted &= ~page->leased | page->delayed;
    if (walk->skips_ready)
        wanted &= page->leased;
    return wanted;
}

/* What stands only in the log of this page, from that sequence on; large bodies a few at a time. */
static void read_page(struct queue_walk *walk, const struct queue_page *page, uint64_t sequence)
{
    uint64_t bytes = 0;

    drop_read(walk);
    walk->page = page_number(sequence);
    for (uint64_t left = wanted_of(walk, page) & page_bits_from(sequence);
         left && bytes < QUEUE_WALK_BYTES; left &= left - 1) {
        unsigned index = (unsigned)__builtin_ctzll(left);
        if (page->messages && page->messages[index])
            continue;
        ASSERT(page->positions[index]);
        bytes += page->sizes[index];
        walk->index[walk->read.count] = (uint8_t)index;
        walk->read.positions[walk->read.count++] = page->positions[index];
    }
    walk->read.done = read_done;
    walk->is_reading = true;
    log_read(walk->queue->log, &walk->read);
}

/* 0 with a reference; E_NOT_FOUND: it has not been read. */
static int take_read(struct queue_walk *walk, uint64_t sequence, struct message **message)
{
    if (walk->page != page_number(sequence))
        return E_NOT_FOUND;
    for (size_t i = 0; i < walk->read.count; i++) {
        if (walk->index[i] != sequence % QUEUE_PAGE)
            continue;
        *message = walk->read.messages[i];
        walk->read.messages[i] = NULL;
        return *message ? 0 : walk->read.results[i];
    }
    return E_NOT_FOUND;
}

/* The lowest sequence of the lane that it is to tell from there on; 0: there is none. */
static uint64_t find_in_lane(const struct queue_walk *walk, const struct queue_lane *lane,
                             uint64_t from)
{
    for (uint32_t i = page_index(lane, page_number(from)); i < lane->pages_count; i++) {
        const struct page_entry *entry = page_entry(lane, i);
        uint64_t mask = entry->number == page_number(from) ? page_bits_from(from) : ~0ull;
        uint64_t wanted = entry->page ? wanted_of(walk, entry->page) & mask : 0;
        if (wanted)
            return entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(wanted);
    }
    return 0;
}

/* The same in the queue. */
static uint64_t find_wanted(const struct queue_walk *walk)
{
    const struct queue_lane *lane;

    for (unsigned number = lane_number(walk->at); (lane = lane_look_from(walk->queue, &number));
         number++) {
        uint64_t start = lane_start(number);
        uint64_t sequence = find_in_lane(walk, lane, walk->at > start ? walk->at : start);
        if (sequence > 0)
            return sequence;
    }
    return 0;
}

static uint64_t past_the_last(const struct queue_walk *walk)
{
    const struct queue_lane *lane;
    uint64_t end = walk->at;

    LANES_LOOK_EACH (walk->queue, lane, number)
        end = lane->next > end ? lane->next : end;
    return end;
}

int queue_walk_next(struct queue_walk *walk, struct queue_traveller *traveller)
{
    const struct queue *queue = walk->queue;
    uint64_t sequence = find_wanted(walk);
    int result = 0;

    if (walk->is_reading)
        return E_AGAIN;
    if (sequence == 0) {
        walk->at = past_the_last(walk);
        return 0;
    }
    traveller->sequence = sequence;
    const struct queue_page *page = page_of(queue, sequence);
    unsigned index = sequence % QUEUE_PAGE;
    if (page->messages && page->messages[index])
        traveller->message = message_ref(page->messages[index]);
    else
        result = take_read(walk, sequence, &traveller->message);
    if (result == E_NOT_FOUND) {
        read_page(walk, page, sequence);
        return E_AGAIN;
    }
    if (result < 0)
        return result;
    traveller->is_logged = page->positions[index] != 0;
    traveller->is_leased = page->leased & ~page->delayed & page_bit(sequence);
    traveller->is_returned = page->returned & page_bit(sequence);
    traveller->count = page->counts ? page->counts[index] : 0;
    traveller->due_ms = page->dues ? page->dues[index] & DUE_MS_MAX : 0;
    walk->at = sequence + 1;
    return 1;
}

/* ---- ends ---- */

void queue_ends_take(struct queue_ends *ends, const struct queue *queue)
{
    const struct queue_lane *lane;

    ends->lanes = queue->lanes ? queue->lanes->count : 1;
    ends->by_lane = memory_new(ends->lanes * sizeof *ends->by_lane);
    LANES_LOOK_EACH (queue, lane, number)
        ends->by_lane[number] = lane->next;
}

void queue_ends_free(struct queue_ends *ends)
{
    free(ends->by_lane);
}

bool queue_ends_include(const struct queue_ends *ends, uint64_t sequence)
{
    unsigned number = lane_number(sequence);

    return number < ends->lanes && sequence < ends->by_lane[number];
}
