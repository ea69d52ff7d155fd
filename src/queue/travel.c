/* Moving to another shard: what is told of a queue there (walk.c tells its messages), put into the
 * queue that is made of it. */
#include "queue/queue_private.h"

#include "base/memory.h"

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

struct log_target queue_arrival_target(const struct queue *queue,
                                       const struct queue_traveller *traveller)
{
    struct log_target target = queue_target(queue, traveller->message);

    target.sequence = traveller->sequence;
    target.due_ms = traveller->due_ms;
    target.lane = (uint16_t)((target.lane & ~LOG_LANE_DUE) | (target.due_ms ? LOG_LANE_DUE : 0));
    return target;
}

/* It waits, unless somebody holds it: then it does so when it comes back. */
static void arrive_due(struct queue *queue, struct queue_page *page, uint64_t sequence,
                       const struct queue_traveller *traveller)
{
    /* seen before: so it was put off, and comes back as redelivered from a crash, too */
    delay_start(queue, page, sequence,
                due_ms_least(traveller->due_ms) | (traveller->is_returned ? DUE_POSTPONED : 0));
    if (!traveller->is_leased)
        return;
    delay_stop(queue, page, sequence);
    arrive_leased(queue, page, sequence);
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
    if (traveller->due_ms)
        arrive_due(queue, page, sequence, traveller);
    else if (traveller->is_leased)
        arrive_leased(queue, page, sequence);
    else
        arrive_ready(queue, page, sequence);
    if (position)
        queue_touch(queue);
    upkeep_pushed(queue, traveller->message);
}
