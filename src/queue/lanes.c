/* Lanes: which one a message goes to, which one is next, and what goes out before all of them. */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

/* ---- strict: the highest level that has a ready message ---- */

/* Lane 0 is that of messages without priority, so that a queue in which nobody uses priorities has
 * no other; the lane of level 0 has the number that is free for it. The same in both directions. */
static unsigned level_of_lane(unsigned number, unsigned home)
{
    return number == 0 ? home : number == home ? 0 : number;
}

static void strict_filled(struct queue_lanes *lanes, unsigned number)
{
    unsigned level = level_of_lane(number, lanes->home);

    lanes->filled[level / 64] |= 1ull << level % 64;
    lanes->words = (uint16_t)(lanes->words | 1u << level / 64);
}

static void strict_emptied(struct queue_lanes *lanes, unsigned number)
{
    unsigned level = level_of_lane(number, lanes->home);

    lanes->filled[level / 64] &= ~(1ull << level % 64);
    if (lanes->filled[level / 64] == 0)
        lanes->words = (uint16_t)(lanes->words & ~(1u << level / 64));
}

static unsigned strict_next(const struct queue_lanes *lanes)
{
    ASSERT(lanes->words != 0);
    unsigned word = 31 - (unsigned)__builtin_clz(lanes->words);
    unsigned level = word * 64 + 63 - (unsigned)__builtin_clzll(lanes->filled[word]);

    return level_of_lane(level, lanes->home);
}

static bool strict_knows(const struct queue_lanes *lanes, unsigned number)
{
    unsigned level = level_of_lane(number, lanes->home);

    return lanes->filled[level / 64] >> level % 64 & 1;
}

static const struct lane_chooser strict = {
    .filled = strict_filled,
    .emptied = strict_emptied,
    .next = strict_next,
    .knows = strict_knows,
};

_Static_assert(QUEUE_LANES_MAX / 64 <= 16, "a bit for each word");

/* ---- lanes ---- */

void queue_set_levels(struct queue *queue, const struct queue_levels *levels)
{
    ASSERT(levels->absent <= levels->max && queue->lane.next == 1 && !queue->lanes);
    queue->levels = *levels;
}

uint64_t queue_sequence_in_levels(const struct queue *queue, const struct message *message)
{
    unsigned level = message_has_priority(message) ? message->priority : queue->levels.absent;
    unsigned most = queue->levels.max;
    unsigned number = level_of_lane(level < most ? level : most, queue->levels.absent);
    const struct queue_lane *lane = lane_look(queue, lane_start(number));

    return lane ? lane->next : lane_start(number) + 1;
}

bool queue_has_come_to(const struct queue *queue, uint64_t sequence)
{
    const struct queue_lane *lane = lane_look(queue, sequence);

    return lane && sequence < lane->next;
}

const struct queue_lane *lane_of_several(const struct queue *queue, uint64_t sequence)
{
    unsigned number = lane_number(sequence);

    return queue->lanes && number < queue->lanes->count ? queue->lanes->lanes[number] : NULL;
}

const struct queue_lane *lane_look_from(const struct queue *queue, unsigned *number)
{
    unsigned count = queue->lanes ? queue->lanes->count : 1;

    for (; *number < count; ++*number) {
        const struct queue_lane *lane = lane_look(queue, lane_start(*number));
        if (lane)
            return lane;
    }
    return NULL;
}

struct queue_lane *lane_from(struct queue *queue, unsigned *number)
{
    return (struct queue_lane *)lane_look_from(queue, number);
}

static struct queue_lanes *lanes_of(struct queue *queue)
{
    if (queue->lanes)
        return queue->lanes;
    struct queue_lanes *lanes = memory_new(sizeof *lanes);
    account_add(queue->host->memory, sizeof *lanes);
    lanes->chooser = &strict;
    lanes->home = queue->levels.absent;
    queue->lane.ready = queue->ready;
    queue->lane.ready_bytes = queue->ready_bytes;
    if (queue->ready > 0)
        lanes->chooser->filled(lanes, 0);
    queue->lanes = lanes;
    return lanes;
}

struct queue_lane *lane_make(struct queue *queue, unsigned number)
{
    struct queue_lane *lane = lane_of(queue, lane_start(number));

    if (lane)
        return lane;
    ASSERT(number < QUEUE_LANES_MAX);
    struct queue_lanes *lanes = lanes_of(queue);
    if (number >= lanes->count) {
        size_t more = number + 1 - lanes->count;
        lanes->lanes = memory_resize(lanes->lanes, number + 1, sizeof(void *));
        memset(lanes->lanes + lanes->count, 0, more * sizeof(void *));
        account_add(queue->host->memory, more * sizeof(void *));
        lanes->count = number + 1;
        lanes->lanes[0] = &queue->lane;
    }
    lane = memory_new(sizeof *lane);
    account_add(queue->host->memory, sizeof *lane);
    lane->next = lane->fresh = lane_start(number) + 1;
    lane->returned_first = UINT64_MAX;
    lanes->lanes[number] = lane;
    return lane;
}

void lane_ready_more(struct queue *queue, struct queue_lane *lane, uint32_t size)
{
    lane->ready_bytes += size;
    if (lane->ready++ == 0)
        queue->lanes->chooser->filled(queue->lanes, lane_number(lane->next));
}

void lane_ready_less(struct queue *queue, struct queue_lane *lane, uint32_t size)
{
    lane->ready_bytes -= size;
    if (--lane->ready == 0)
        queue->lanes->chooser->emptied(queue->lanes, lane_number(lane->next));
}

/* ---- what has come back and goes out first ---- */

struct queue_returns {
    uint64_t *sequences; /* in the ring */
    struct ring ring;
};

void returns_add(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    struct queue_returns *returns = queue->returns;

    if (page->in_line & page_bit(sequence))
        return; /* it was held meanwhile, and has kept its place */
    if (!returns) {
        returns = queue->returns = memory_new(sizeof *returns);
        account_add(queue->host->memory, sizeof *returns);
    }
    size_t capacity = returns->ring.capacity;
    returns->sequences = ring_reserve(&returns->ring, returns->sequences, sizeof(uint64_t));
    account_add(queue->host->memory, (returns->ring.capacity - capacity) * sizeof(uint64_t));
    returns->sequences[ring_add(&returns->ring)] = sequence;
    page->in_line |= page_bit(sequence);
}

static void returns_free(struct queue *queue)
{
    struct queue_returns *returns = queue->returns;

    if (!returns)
        return;
    account_release(queue->host->memory,
                    sizeof *returns + returns->ring.capacity * sizeof(uint64_t));
    free(returns->sequences);
    free(returns);
    queue->returns = NULL;
}

void returns_leased(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    struct queue_returns *returns = queue->returns;

    if (returns->ring.count > 0 && returns->sequences[ring_at(&returns->ring, 0)] == sequence) {
        ring_drop_first(&returns->ring);
        page->in_line &= ~page_bit(sequence);
    }
}

uint64_t returns_first(struct queue *queue)
{
    struct queue_returns *returns = queue->returns;

    for (; returns->ring.count > 0; ring_drop_first(&returns->ring)) {
        uint64_t sequence = returns->sequences[ring_at(&returns->ring, 0)];
        struct queue_page *page = page_of(queue, sequence);
        if (!page)
            continue;
        if (page->live & ~page->leased & page_bit(sequence))
            return sequence;
        page->in_line &= ~page_bit(sequence);
    }
    returns_free(queue); /* so that a queue to which nothing comes back any more does not ask */
    return 0;
}

/* ---- the end, and a look at all ---- */

void lanes_free(struct queue *queue)
{
    struct queue_lanes *lanes = queue->lanes;

    returns_free(queue);
    if (!lanes)
        return;
    for (unsigned i = 1; i < lanes->count; i++) {
        struct queue_lane *lane = lanes->lanes[i];
        if (!lane)
            continue;
        ASSERT(lane->pages_count == 0);
        free(lane->pages);
        free(lane);
        account_release(queue->host->memory, sizeof *lane);
    }
    account_release(queue->host->memory, sizeof *lanes + lanes->count * sizeof(void *));
    free(lanes->lanes);
    free(lanes);
    queue->lanes = NULL;
}

void lanes_check(const struct queue *queue)
{
    const struct queue_lane *lane;

    if (!queue->lanes)
        return;
    LANES_LOOK_EACH (queue, lane, number) {
        ASSERT(lane_number(lane->next) == number && lane_number(lane->fresh) == number);
        ASSERT(lane->fresh <= lane->next);
        ASSERT(queue->lanes->chooser->knows(queue->lanes, number) == (lane->ready > 0));
    }
}
