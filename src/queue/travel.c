/* Moving to another shard: a queue's messages told one after the other, and put into the queue that
 * is made of them. */
#include "queue/queue_private.h"

#include "base/memory.h"

/* ---- leaving ---- */

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

/* What stands only in the log of this page, from that sequence on. */
static void read_page(struct queue_walk *walk, const struct queue_page *page, uint64_t sequence)
{
    drop_read(walk);
    walk->page = page_number(sequence);
    for (uint64_t live = page->live & page_bits_from(sequence); live; live &= live - 1) {
        unsigned index = (unsigned)__builtin_ctzll(live);
        if (page->messages && page->messages[index])
            continue;
        ASSERT(page->positions[index]);
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

/* The lowest live sequence from there on, ready or not; `next` if there is none. */
static uint64_t find_live(const struct queue *queue, uint64_t from)
{
    for (uint32_t i = page_index(queue, page_number(from)); i < queue->pages_count; i++) {
        const struct page_entry *entry = page_entry(queue, i);
        uint64_t mask = entry->number == page_number(from) ? page_bits_from(from) : ~0ull;
        uint64_t live = entry->page ? entry->page->live & mask : 0;
        if (live)
            return entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
    }
    return queue->next;
}

int queue_walk_next(struct queue_walk *walk, struct queue_traveller *traveller)
{
    const struct queue *queue = walk->queue;
    uint64_t sequence = find_live(queue, walk->at);
    int result = 0;

    if (walk->is_reading)
        return E_AGAIN;
    if (sequence == queue->next) {
        walk->at = sequence;
        return 0;
    }
    const struct queue_page *page = page_get(queue, page_number(sequence));
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
    traveller->sequence = sequence;
    traveller->is_logged = page->positions[index] != 0;
    traveller->is_leased = page->leased & page_bit(sequence);
    traveller->is_returned = page->returned & page_bit(sequence);
    traveller->count = page->counts ? page->counts[index] : 0;
    walk->at = sequence + 1;
    return 1;
}

/* ---- arriving ---- */

void queue_arrive_begin(struct queue *queue, const struct queue_standing *standing)
{
    ASSERT(queue->next == 1 && queue->pages_count == 0);
    queue->next = standing->next;
    queue->fresh = standing->fresh;
    queue->mark_logged = queue->mark_durable = standing->mark;
    queue->set_aside = standing->set_aside;
}

struct queue_standing queue_standing(const struct queue *queue)
{
    /* a log that has failed does not keep the mark */
    uint64_t mark = queue->mark_logged > queue->fresh ? queue->mark_logged : queue->fresh;

    return (struct queue_standing){queue->next, queue->fresh, mark, queue->set_aside};
}

static void arrive_leased(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    page->leased |= page_bit(sequence);
    queue->leased++;
    queue->leased_bytes += page->sizes[sequence % QUEUE_PAGE];
}

static void arrive_ready(struct queue *queue, const struct queue_page *page, uint64_t sequence)
{
    queue->ready++;
    queue->ready_bytes += page->sizes[sequence % QUEUE_PAGE];
    if (sequence >= queue->fresh)
        return;
    queue->returned_ready++;
    if (sequence < queue->returned_first)
        queue->returned_first = sequence;
}

void queue_arrive(struct queue *queue, const struct queue_traveller *traveller, uint64_t position)
{
    uint64_t sequence = traveller->sequence;
    unsigned index = sequence % QUEUE_PAGE;
    struct queue_page *page = page_make(queue, page_number(sequence));
    bool cold = position && queue->host->memory->used > queue->host->hot_bytes_max;

    ASSERT(sequence > 0 && sequence < queue->next && !(page->live & page_bit(sequence)));
    ASSERT((position != 0) == (traveller->is_logged && queue->log));
    page->live |= page_bit(sequence);
    page->positions[index] = position;
    page->sizes[index] = (uint32_t)traveller->message->body_size;
    if (!cold) {
        page_heat(queue, page);
        page->messages[index] = message_ref(traveller->message);
    }
    if (traveller->is_returned)
        page->returned |= page_bit(sequence);
    if (traveller->count > 0) {
        if (!page->counts)
            page->counts = memory_new(QUEUE_PAGE * sizeof *page->counts);
        page->counts[index] = traveller->count;
    }
    if (traveller->is_leased)
        arrive_leased(queue, page, sequence);
    else
        arrive_ready(queue, page, sequence);
    if (position)
        queue_touch(queue);
    upkeep_pushed(queue, traveller->message);
}
