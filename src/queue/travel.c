/* Moving to another shard: what is told of a queue there (walk.c tells its messages), put into the
 * queue that is made of it. */
#include "queue/queue_private.h"

#include "base/memory.h"

void queue_arrive_lane(struct queue *queue, const struct queue_standing *standing)
{
    struct queue_lane *lane = lane_make(queue, lane_number(standing->next));

    ASSERT(lane->pages_count == 0 && lane->next == lane->fresh);
    lane->next = standing->next;
    lane->fresh = standing->fresh;
    lane->mark_logged = lane->mark_durable = standing->mark;
    queue->set_aside += standing->set_aside;
}

bool queue_standing(const struct queue *queue, unsigned *number, struct queue_standing *standing)
{
    const struct queue_lane *lane = lane_look_from(queue, number);

    if (!lane)
        return false;
    /* a log that has failed does not keep the mark */
    uint64_t mark = lane->mark_logged > lane->fresh ? lane->mark_logged : lane->fresh;
    uint64_t set_aside = *number == 0 ? queue->set_aside : 0;
    *standing = (struct queue_standing){lane->next, lane->fresh, mark, set_aside};
    return true;
}

static void arrive_leased(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    page->leased |= page_bit(sequence);
    queue->leased++;
    queue->leased_bytes += page->sizes[sequence % QUEUE_PAGE];
}

/* In which order they had come back is not told. */
static void arrive_ready(struct queue *queue, struct queue_lane *lane, struct queue_page *page,
                         uint64_t sequence)
{
    ready_more(queue, lane, page->sizes[sequence % QUEUE_PAGE]);
    if (sequence >= lane->fresh)
        return;
    lane->returned_ready++;
    if (sequence < lane->returned_first)
        lane->returned_first = sequence;
    if (queue->levels.returned_first)
        returns_add(queue, page, sequence);
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
    struct queue_lane *lane = lane_of(queue, sequence);
    ASSERT(lane && sequence < lane->next);
    struct queue_page *page = page_make(queue, lane, page_number(sequence));
    bool cold = position && queue->host->memory->used > queue->host->hot_bytes_max;

    ASSERT(!(page->live & page_bit(sequence)));
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
        arrive_ready(queue, lane, page, sequence);
    if (position)
        queue_touch(queue);
    upkeep_pushed(queue, traveller->message);
}
