#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

void queue_init(struct queue *queue, struct queue_host *host, uint64_t id, struct log *log)
{
    memset(queue, 0, sizeof *queue);
    queue->host = host;
    queue->id = id;
    queue->log = log;
    queue->references = 1;
    queue->lane.next = queue->lane.fresh = 1;
    queue->lane.returned_first = UINT64_MAX;
    list_init(&queue->loads);
    list_init(&queue->active);
    list_init(&queue->idle);
    list_init(&queue->ready_link);
    list_init(&queue->mark_link);
    list_init(&queue->closed_link);
}

void queue_fini(struct queue *queue)
{
    ASSERT(queue->references == 0);
    ASSERT(queue->loads_count == 0 && queue->consumers == 0);
    ASSERT(queue->lane.pages_count == 0);
    upkeep_end(queue);
    delay_end(queue);
    list_remove(&queue->ready_link);
    list_remove(&queue->mark_link);
    list_remove(&queue->closed_link);
    lanes_free(queue);
    free(queue->lane.pages);
    queue->lane.pages = NULL;
}

void queue_touch(struct queue *queue)
{
    if (!queue->log || queue->is_given_up)
        return;
    queue->is_dirty = true;
    if (queue->closed && !list_linked(&queue->closed_link))
        list_append(&queue->host->closed_dirty, &queue->closed_link);
}

/* ---- pages ---- */

#define PAGES_AT_START 2u

uint32_t page_search(const struct queue_lane *lane, uint64_t number)
{
    uint32_t low = 0, high = lane->pages_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (page_entry(lane, middle)->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Room for one more entry at the end: what is empty goes, what was taken from the front is used
 * again, and only then the array grows. */
static void pages_make_room(struct queue_lane *lane)
{
    uint32_t count = 0;

    if (lane->pages_start + lane->pages_count < lane->pages_capacity)
        return;
    for (uint32_t i = 0; i < lane->pages_count; i++) {
        if (page_entry(lane, i)->page)
            lane->pages[count++] = *page_entry(lane, i);
    }
    lane->pages_start = 0;
    lane->pages_count = count;
    lane->pages_empty = 0;
    if (count <= lane->pages_capacity / 2 && lane->pages_capacity > 0)
        return;
    lane->pages_capacity = count ? 2 * lane->pages_capacity : PAGES_AT_START;
    lane->pages = memory_resize(lane->pages, lane->pages_capacity, sizeof *lane->pages);
}

struct queue_page *page_make(struct queue *queue, struct queue_lane *lane, uint64_t number)
{
    pages_make_room(lane);
    uint32_t index = page_index(lane, number);
    struct page_entry *entry = page_entry(lane, index);

    if (index == lane->pages_count || entry->number != number) {
        memmove(entry + 1, entry, (lane->pages_count - index) * sizeof *entry);
        *entry = (struct page_entry){.number = number};
        lane->pages_count++;
        lane->pages_empty++;
    }
    if (!entry->page) {
        entry->page = memory_new(sizeof *entry->page);
        account_add(queue->host->memory, sizeof *entry->page);
        lane->pages_empty--;
    }
    return entry->page;
}

void page_heat(struct queue *queue, struct queue_page *page)
{
    if (page->messages)
        return;
    page->messages = memory_new(QUEUE_PAGE * sizeof *page->messages);
    account_add(queue->host->memory, QUEUE_PAGE * sizeof *page->messages);
}

void page_cool(struct queue *queue, struct queue_page *page)
{
    if (!page->messages)
        return;
    free(page->messages);
    page->messages = NULL;
    account_release(queue->host->memory, QUEUE_PAGE * sizeof *page->messages);
}

static void page_free(struct queue *queue, struct queue_page *page)
{
    page_cool(queue, page);
    page_drop_dues(queue, page);
    free(page->counts);
    free(page);
    account_release(queue->host->memory, sizeof *page);
}

/* Empty entries at the front go at once. */
static void pages_trim_front(struct queue_lane *lane)
{
    while (lane->pages_count > 0 && !page_entry(lane, 0)->page) {
        lane->pages_start++;
        lane->pages_count--;
        lane->pages_empty--;
    }
}

void page_trim(struct queue *queue, struct queue_lane *lane, uint64_t number)
{
    uint32_t index = page_index(lane, number);

    if (index == lane->pages_count || page_entry(lane, index)->number != number)
        return;
    struct page_entry *entry = page_entry(lane, index);
    struct queue_page *page = entry->page;
    /* one that is being read stays: its load looks for it */
    if (page && page->live == 0 && !page->loading && (number + 1) * QUEUE_PAGE <= lane->next) {
        page_free(queue, page);
        entry->page = NULL;
        lane->pages_empty++;
        pages_trim_front(lane);
    }
}

/* ---- what is next ---- */

uint64_t lane_find_ready(const struct queue_lane *lane, uint64_t from)
{
    for (uint32_t i = page_index(lane, page_number(from)); i < lane->pages_count; i++) {
        const struct page_entry *entry = page_entry(lane, i);
        uint64_t mask = entry->number == page_number(from) ? page_bits_from(from) : ~0ull;
        uint64_t ready = entry->page ? entry->page->live & ~entry->page->leased & mask : 0;
        if (ready)
            return entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(ready);
    }
    return lane->next;
}

/* The first ready one at or above the cursor, which moves there. */
static struct queue_place lane_head(struct queue_lane *lane, uint64_t *cursor)
{
    struct queue_page *page = page_get(lane, page_number(*cursor));

    if (!page || !(page->live & ~page->leased & page_bit(*cursor))) {
        *cursor = lane_find_ready(lane, *cursor);
        page = page_get(lane, page_number(*cursor));
    }
    return (struct queue_place){lane, page, *cursor};
}

struct queue_place queue_head(struct queue *queue)
{
    ASSERT(queue->ready > 0);
    uint64_t first = queue->returns ? returns_first(queue) : 0;
    if (first)
        return (struct queue_place){lane_of(queue, first), page_of(queue, first), first};
    struct queue_lane *lane = lane_next(queue);
    bool has_returned = lane->returned_ready > 0;
    struct queue_place head = lane_head(lane, has_returned ? &lane->returned_first : &lane->fresh);
    ASSERT(head.sequence < (has_returned ? lane->fresh : lane->next));
    return head;
}

/* A returned one is not ready any more. */
static void returned_less(struct queue_lane *lane)
{
    if (--lane->returned_ready == 0)
        lane->returned_first = UINT64_MAX;
}

/* Above the cursor, if it was held before its turn, and came back to go out first. */
static void lease_returned(struct queue *queue, const struct queue_place *head)
{
    if (head->sequence == head->lane->returned_first)
        head->lane->returned_first++;
    if (head->sequence < head->lane->fresh)
        returned_less(head->lane);
    if (queue->returns)
        returns_leased(queue, head->page, head->sequence);
    queue->redelivered += head->page->returned & page_bit(head->sequence) ? 1 : 0;
}

void queue_lease(struct queue *queue, const struct queue_place *head)
{
    struct queue_lane *lane = head->lane;
    struct queue_page *page = head->page;
    uint64_t sequence = head->sequence;
    uint32_t size = page->sizes[sequence % QUEUE_PAGE];

    ASSERT(page->live & ~page->leased & page_bit(sequence));
    page->leased |= page_bit(sequence);
    if (sequence == lane->fresh)
        lane->fresh++;
    else
        lease_returned(queue, head);
    ready_less(queue, lane, size);
    queue->leased++;
    queue->leased_bytes += size;
    queue->delivered++;
}

/* ---- in and out ---- */

struct log_target queue_target(const struct queue *queue, const struct message *message)
{
    uint64_t due_ms = due_ms_least(message_not_before_ms(message));
    unsigned lane = (message->expires_at_ms ? QUEUE_LANE_MORTAL : 0) | (due_ms ? LOG_LANE_DUE : 0);

    return (struct log_target){queue->id, queue_sequence(queue, message), (uint16_t)lane, due_ms};
}

/* Under pressure, what can be read back and is not about to be delivered stays in the log. */
static bool stays_cold(struct queue *queue, const struct queue_lane *lane, uint64_t sequence,
                       bool waits)
{
    if (queue->host->memory->used <= queue->host->hot_bytes_max)
        return false;
    if (waits || (queue->lanes && lane_next(queue) != lane))
        return true;
    uint64_t bytes = queue->lanes ? lane->ready_bytes : queue->ready_bytes;
    return sequence - lane->fresh > QUEUE_HOT_PAGES * QUEUE_PAGE || bytes > QUEUE_HOT_BYTES;
}

void queue_push(struct queue *queue, struct message *message, uint64_t position)
{
    uint64_t sequence = queue_sequence(queue, message);
    uint64_t due_ms = due_ms_least(message_not_before_ms(message));
    bool waits = due_ms > 0 && due_ms > loop_wall_ms(queue->host->loop);
    struct queue_lane *lane = lane_of(queue, sequence);
    unsigned index = sequence % QUEUE_PAGE;

    ASSERT(!queue->is_given_up);
    if (!lane)
        lane = lane_make(queue, lane_number(sequence));
    struct queue_page *page = page_get(lane, page_number(sequence));
    if (!page)
        page = page_make(queue, lane, page_number(sequence));
    if (!waits)
        ready_more(queue, lane, message->body_size);
    if (!position || !stays_cold(queue, lane, sequence, waits)) {
        page_heat(queue, page);
        page->messages[index] = message_ref(message);
    }
    page->positions[index] = position;
    page->sizes[index] = message->body_size;
    page->live |= page_bit(sequence);
    lane->next++;
    queue->pushed++;
    if (waits)
        delay_start(queue, page, sequence, due_ms);
    if (position)
        queue_touch(queue);
    upkeep_pushed(queue, message);
    queue_activate(queue);
}

static void forget_ready(struct queue *queue, uint64_t sequence, uint32_t size)
{
    struct queue_lane *lane = lane_of(queue, sequence);

    ready_less(queue, lane, size);
    if (sequence < lane->fresh)
        returned_less(lane);
}

void queue_remove(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    unsigned index = sequence % QUEUE_PAGE;
    uint64_t bit = page_bit(sequence);
    uint32_t size = page->sizes[index];

    if (page->delayed & bit) {
        delay_stop(queue, page, sequence);
    } else if (page->leased & bit) {
        queue->leased--;
        queue->leased_bytes -= size;
    } else {
        forget_ready(queue, sequence, size);
    }
    page->live &= ~bit;
    page->leased &= ~bit;
    page->returned &= ~bit;
    if (page->positions[index]) {
        log_release(queue->log, page->positions[index]);
        page->positions[index] = 0;
    }
    if (page->messages && page->messages[index]) {
        message_unref(page->messages[index]);
        page->messages[index] = NULL;
    }
    if (page->counts)
        page->counts[index] = 0;
    if (page->dues)
        page->dues[index] = 0;
}

void queue_settle(struct queue *queue, uint64_t sequence, enum settle_reason why)
{
    if (queue->is_given_up || (why == SETTLE_REJECTED && queue->buried))
        return;
    if (why == SETTLE_REJECTED && queue->upkeep)
        queue_die(queue, sequence, why);
    else
        queue_gone(queue, sequence, why);
}

void queue_gone(struct queue *queue, uint64_t sequence, enum settle_reason why)
{
    struct queue_page *page = page_of(queue, sequence);

    ASSERT(page && (page->leased & page_bit(sequence)));
    if (page->positions[sequence % QUEUE_PAGE]) {
        log_settle(queue->log, queue->id, sequence, sequence, why);
        queue_touch(queue);
    }
    queue_remove(queue, page, sequence);
    queue->settled++;
    if (page->live == 0)
        page_trim(queue, lane_of(queue, sequence), page_number(sequence));
}

/* Those of these sequences of a page that are in the log. */
static uint64_t logged_bits(const struct queue_page *page, uint64_t bits)
{
    uint64_t logged = 0;

    for (; bits; bits &= bits - 1)
        logged |= page->positions[__builtin_ctzll(bits)] ? bits & -bits : 0;
    return logged;
}

/* Of one page. The log is told first: what it is to release has to be behind the cause. */
static void settle_in_page(struct queue *queue, uint64_t number, uint64_t bits,
                           enum settle_reason why)
{
    struct queue_lane *lane = lane_of(queue, number * QUEUE_PAGE);
    struct queue_page *page = page_get(lane, number);
    uint64_t start = number * QUEUE_PAGE;
    uint64_t logged = queue->log ? logged_bits(page, bits) : 0;

    if (logged)
        queue_touch(queue);
    while (logged) {
        uint64_t first = (unsigned)__builtin_ctzll(logged);
        uint64_t others = ~(logged >> first);
        uint64_t last = others ? first + (unsigned)__builtin_ctzll(others) - 1 : QUEUE_PAGE - 1;
        log_settle(queue->log, queue->id, start + first, start + last, why);
        logged &= ~page_bits_to(last) & page_bits_from(first);
    }
    queue->settled += (unsigned)__builtin_popcountll(bits);
    for (; bits; bits &= bits - 1)
        queue_remove(queue, page, start + (unsigned)__builtin_ctzll(bits));
    if (page->live == 0)
        page_trim(queue, lane, number);
}

void queue_settle_range(struct queue *queue, uint64_t first, uint64_t last, enum settle_reason why)
{
    if (queue->is_given_up || (why == SETTLE_REJECTED && queue->buried))
        return; /* of a closed queue nobody buries the dead */
    if (why == SETTLE_REJECTED && queue->upkeep) {
        for (uint64_t sequence = first; sequence <= last; sequence++)
            queue_die(queue, sequence, why);
        return;
    }
    for (uint64_t number = page_number(first); number <= page_number(last); number++) {
        const struct queue_page *page = page_of(queue, number * QUEUE_PAGE);
        uint64_t bits = number == page_number(first) ? page_bits_from(first) : ~0ull;
        bits &= number == page_number(last) ? page_bits_to(last) : ~0ull;
        ASSERT(page && (page->leased & bits) == bits);
        settle_in_page(queue, number, bits, why);
    }
}

void queue_now_ready(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    struct queue_lane *lane = lane_of(queue, sequence);

    page->leased &= ~page_bit(sequence);
    ready_more(queue, lane, page->sizes[sequence % QUEUE_PAGE]);
    if (sequence < lane->fresh) { /* else the cursor comes by */
        lane->returned_ready++;
        if (sequence < lane->returned_first)
            lane->returned_first = sequence;
    }
    if (queue->levels.returned_first && (page->returned & page_bit(sequence)))
        returns_add(queue, page, sequence);
    if (queue->upkeep)
        upkeep_look(queue);
    queue_activate(queue);
}

static void count_return(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    unsigned index = sequence % QUEUE_PAGE;

    if (!page->counts)
        page->counts = memory_new(QUEUE_PAGE * sizeof *page->counts);
    page->counts[index]++;
    if (page->positions[index]) {
        log_append_returned(queue->log, queue->id, sequence, sequence, 1);
        queue_touch(queue);
    }
}

/* due: when it is to be ready, 0: now. */
static void give_back(struct queue *queue, struct queue_page *page, uint64_t sequence, uint64_t due)
{
    queue->leased--;
    queue->leased_bytes -= page->sizes[sequence % QUEUE_PAGE];
    if (due) {
        delay_start(queue, page, sequence, due);
        return;
    }
    if (page->dues)
        page->dues[sequence % QUEUE_PAGE] = 0;
    queue_now_ready(queue, page, sequence);
}

/* NULL: nothing is left to do; the queue is given up, or the message has died of it. */
static struct queue_page *page_of_returned(struct queue *queue, uint64_t sequence, bool counted)
{
    if (queue->is_given_up)
        return NULL;
    struct queue_page *page = page_of(queue, sequence);
    unsigned index = sequence % QUEUE_PAGE;

    ASSERT(page && (page->leased & ~page->delayed & page_bit(sequence)));
    if (counted && queue_returned_enough(queue, 1 + (page->counts ? page->counts[index] : 0))) {
        queue_die(queue, sequence, SETTLE_RETURNED);
        return NULL;
    }
    if (counted)
        count_return(queue, page, sequence);
    return page;
}

/* A leased one, which was seen, until that time. */
static void put_off(struct queue *queue, struct queue_page *page, uint64_t sequence,
                    uint64_t due_ms)
{
    due_ms = due_ms_least(due_ms);
    if (due_ms <= loop_wall_ms(queue->host->loop)) {
        give_back(queue, page, sequence, 0);
        return;
    }
    if (page->positions[sequence % QUEUE_PAGE]) {
        log_append_postponed(queue->log, queue->id, sequence, due_ms);
        queue_touch(queue);
    }
    give_back(queue, page, sequence, due_ms | DUE_POSTPONED);
}

void queue_return(struct queue *queue, uint64_t sequence, bool seen, bool counted)
{
    struct queue_page *page = page_of_returned(queue, sequence, counted);

    if (!page)
        return;
    uint64_t retry_ms = seen ? delay_retry_ms(queue, page, sequence, counted) : 0;
    if (seen)
        page->returned |= page_bit(sequence);
    if (retry_ms > 0)
        put_off(queue, page, sequence, retry_ms);
    else
        give_back(queue, page, sequence, delay_left(queue, page, sequence));
}

void queue_return_later(struct queue *queue, uint64_t sequence, bool counted, uint64_t due_ms)
{
    struct queue_page *page = page_of_returned(queue, sequence, counted);

    if (!page)
        return;
    page->returned |= page_bit(sequence);
    put_off(queue, page, sequence, due_ms);
}

bool queue_hold(struct queue *queue, uint64_t sequence)
{
    struct queue_page *page = queue->is_given_up ? NULL : page_of(queue, sequence);

    if (!page || !(page->live & (~page->leased | page->delayed) & page_bit(sequence)))
        return false;
    struct queue_lane *lane = lane_of(queue, sequence);
    uint32_t size = page->sizes[sequence % QUEUE_PAGE];
    queue->leased++;
    queue->leased_bytes += size;
    if (page->delayed & page_bit(sequence)) {
        delay_stop(queue, page, sequence);
        return true;
    }
    page->leased |= page_bit(sequence);
    if (sequence < lane->fresh)
        returned_less(lane);
    ready_less(queue, lane, size);
    return true;
}

bool queue_is_logged(const struct queue *queue, uint64_t sequence)
{
    const struct queue_page *page = page_of(queue, sequence);

    return page && page->positions[sequence % QUEUE_PAGE] != 0;
}

/* A resumable walk looks at the clock once a page. */
static bool slice_is_over(struct queue *queue, uint64_t since_ns)
{
    return loop_precise_ns(queue->host->loop) - since_ns > JOB_SLICE_NS;
}

/* Those of a page that nobody has. */
static uint64_t free_bits(const struct queue_page *page)
{
    return page->live & (~page->leased | page->delayed);
}

/* The first of them in the lane from that sequence on, or `next`. */
static uint64_t find_free(const struct queue_lane *lane, uint64_t from)
{
    for (uint32_t i = page_index(lane, page_number(from)); i < lane->pages_count; i++) {
        const struct page_entry *entry = page_entry(lane, i);
        uint64_t mask = entry->number == page_number(from) ? page_bits_from(from) : ~0ull;
        uint64_t bits = entry->page ? free_bits(entry->page) & mask : 0;
        if (bits)
            return entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(bits);
    }
    return lane->next;
}

void queue_purge_begin(struct queue_purge_job *purge, const struct queue *queue)
{
    const struct queue_lane *lane;

    *purge = (struct queue_purge_job){.lanes = queue->lanes ? queue->lanes->count : 1};
    purge->ends = memory_new(purge->lanes * sizeof *purge->ends);
    LANES_LOOK_EACH (queue, lane, number)
        purge->ends[number] = lane->next;
}

void queue_purge_fini(struct queue_purge_job *purge)
{
    free(purge->ends);
}

/* True when all of the lane below that end is settled. */
static bool purge_lane(struct queue_purge_job *purge, struct queue *queue, struct queue_lane *lane,
                       enum settle_reason why, uint64_t since_ns)
{
    uint64_t end = purge->ends[lane_number(lane->next)];

    while (queue->ready + queue->delayed > 0 && purge->position < end) {
        uint64_t sequence = find_free(lane, purge->position);
        if (sequence >= end)
            break;
        uint64_t number = page_number(sequence);
        const struct queue_page *page = page_get(lane, number);
        uint64_t bits = free_bits(page) & page_bits_from(sequence);
        if (number == page_number(end))
            bits &= ~page_bits_from(end);
        settle_in_page(queue, number, bits, why);
        purge->removed += (unsigned)__builtin_popcountll(bits);
        purge->position = (number + 1) * QUEUE_PAGE;
        if (slice_is_over(queue, since_ns))
            return false;
    }
    return true;
}

bool queue_purge(struct queue_purge_job *purge, struct queue *queue, enum settle_reason why)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);
    unsigned number = lane_number(purge->position);
    struct queue_lane *lane;
    bool done = true;

    for (; done && !queue->closed && (lane = lane_from(queue, &number)) && number < purge->lanes;
         number++) {
        if (purge->position < lane_start(number))
            purge->position = lane_start(number);
        done = purge_lane(purge, queue, lane, why, since_ns);
    }
    delay_settled(queue);
    return done;
}

void queue_close(struct queue *queue)
{
    ASSERT(queue->consumers == 0);
    queue->buried = queue->upkeep && queue->upkeep->rules.buries;
    upkeep_end(queue);
    delay_end(queue);
    queue->closed = true;
    list_remove(&queue->ready_link);
    list_remove(&queue->mark_link);
    if (queue->is_dirty)
        queue_touch(queue);
}

static void give_up(struct queue *queue)
{
    queue->is_given_up = true;
    queue->is_dirty = false;
    list_remove(&queue->closed_link);
}

void queue_close_moved(struct queue *queue)
{
    queue_close(queue);
    give_up(queue);
    queue->has_no_state = true;
    if (queue->log)
        log_drop_state(queue->log, queue->id);
}

static bool discard_lane(struct queue *queue, struct queue_lane *lane, uint64_t since_ns)
{
    while (lane->pages_count > 0) {
        if (slice_is_over(queue, since_ns))
            return false;
        struct page_entry *entry = page_entry(lane, 0);
        for (uint64_t live = entry->page ? entry->page->live : 0; live; live &= live - 1)
            queue_remove(queue, entry->page,
                         entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(live));
        if (entry->page && entry->page->loading)
            return false; /* the read will find nothing live, and then the page goes */
        if (entry->page) {
            page_free(queue, entry->page);
            entry->page = NULL;
            lane->pages_empty++;
        }
        pages_trim_front(lane);
    }
    return true;
}

bool queue_discard(struct queue *queue)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);
    struct queue_lane *lane;

    ASSERT(queue->closed);
    give_up(queue);
    LANES_EACH (queue, lane, number) {
        if (!discard_lane(queue, lane, since_ns))
            return false;
    }
    if (queue->loads_count > 0)
        return false;
    if (queue->log && !queue->has_no_state)
        log_drop_state(queue->log, queue->id);
    return true;
}

static void abandon_lane(struct queue *queue, struct queue_lane *lane)
{
    for (; lane->pages_count > 0; lane->pages_start++, lane->pages_count--) {
        struct queue_page *page = page_entry(lane, 0)->page;
        for (unsigned i = 0; page && page->messages && i < QUEUE_PAGE; i++) {
            if (page->messages[i])
                message_unref(page->messages[i]);
        }
        if (page)
            page_free(queue, page);
    }
    lane->pages_empty = 0;
}

void queue_abandon(struct queue *queue)
{
    struct queue_lane *lane;

    upkeep_end(queue);
    delay_end(queue);
    queue->closed = queue->is_given_up = true;
    queue->consumers = 0;
    queue->references = 0;
    loads_abandon(queue);
    queue_promise_free(queue);
    LANES_EACH (queue, lane, number)
        abandon_lane(queue, lane);
}

/* Pages that are about to be delivered: of the lane that is next, from the cursor on. */
struct hot_pages {
    uint64_t first, end; /* numbers */
};

static struct hot_pages hot_pages(struct queue *queue)
{
    if (queue->ready == 0 || (list_empty(&queue->active) && !queue->getters_wait))
        return (struct hot_pages){0, 0};
    const struct queue_lane *lane = lane_next(queue);
    uint64_t first = page_number(lane->fresh), number = first, bytes = 0;
    for (; number < first + QUEUE_HOT_PAGES; number++) {
        const struct queue_page *page = page_get(lane, number);
        for (uint64_t live = page ? page->live : 0; live; live &= live - 1)
            bytes += page->sizes[__builtin_ctzll(live)];
        if (bytes > QUEUE_HOT_BYTES && number > first)
            break;
    }
    return (struct hot_pages){first, number};
}

static void cool(struct queue *queue, struct queue_page *page)
{
    bool empty = true;

    for (unsigned m = 0; m < QUEUE_PAGE; m++) {
        if (page->messages[m] && page->positions[m]) {
            message_unref(page->messages[m]);
            page->messages[m] = NULL;
        }
        empty = empty && !page->messages[m];
    }
    if (empty)
        page_cool(queue, page);
}

bool queue_cool(struct queue *queue, uint64_t *position)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);
    unsigned number = lane_number(*position * QUEUE_PAGE);
    struct hot_pages hot = hot_pages(queue);
    struct queue_lane *lane;

    for (; (lane = lane_from(queue, &number)); number++) {
        if (*position < page_number(lane_start(number)))
            *position = page_number(lane_start(number));
        for (uint32_t i = page_index(lane, *position); i < lane->pages_count; i++) {
            uint64_t n = page_entry(lane, i)->number;
            *position = n;
            if (slice_is_over(queue, since_ns))
                return false;
            struct queue_page *page = page_entry(lane, i)->page;
            if (page && page->messages && (n < hot.first || n >= hot.end))
                cool(queue, page);
        }
    }
    return true;
}

/* The sums of all lanes. */
struct checked {
    uint64_t ready, leased, delayed, bytes;
};

static void check_message(const struct queue *queue, const struct queue_page *page,
                          uint64_t sequence)
{
    unsigned index = sequence % QUEUE_PAGE;

    ASSERT(sequence < lane_look(queue, sequence)->next);
    ASSERT(page->positions[index] || (page->messages && page->messages[index]));
    ASSERT(!page->positions[index] || queue->log);
    ASSERT(!(page->delayed & page_bit(sequence)) || page->dues[index]);
}

static void check_lane(const struct queue *queue, const struct queue_lane *lane,
                       struct checked *sum)
{
    uint64_t ready = 0, ready_bytes = 0, returned_ready = 0, empty = 0;

    for (uint32_t i = 0; i < lane->pages_count; i++) {
        const struct queue_page *page = page_entry(lane, i)->page;
        uint64_t n = page_entry(lane, i)->number;
        ASSERT(i == 0 || page_entry(lane, i - 1)->number < n);
        empty += !page;
        if (!page)
            continue;
        ASSERT((page->leased & ~page->live) == 0 && (page->returned & ~page->live) == 0);
        ASSERT((page->delayed & ~page->leased) == 0);
        sum->delayed += (unsigned)__builtin_popcountll(page->delayed);
        sum->leased += (unsigned)__builtin_popcountll(page->leased & ~page->delayed);
        for (uint64_t live = page->live; live; live &= live - 1) {
            uint64_t sequence = n * QUEUE_PAGE + (unsigned)__builtin_ctzll(live);
            uint32_t size = page->sizes[sequence % QUEUE_PAGE];
            check_message(queue, page, sequence);
            sum->bytes += size;
            if (page->leased & page_bit(sequence))
                continue;
            ready++;
            ready_bytes += size;
            if (sequence < lane->fresh) {
                returned_ready++;
                ASSERT(sequence >= lane->returned_first);
            }
        }
    }
    ASSERT(lane->pages_empty == empty);
    ASSERT(lane->returned_ready == returned_ready);
    ASSERT(!queue->lanes || (lane->ready == ready && lane->ready_bytes == ready_bytes));
    sum->ready += ready;
}

void queue_check(const struct queue *queue)
{
    struct checked sum = {0};
    const struct queue_lane *lane;

    LANES_LOOK_EACH (queue, lane, number)
        check_lane(queue, lane, &sum);
    ASSERT(queue->ready == sum.ready && queue->leased == sum.leased);
    ASSERT(queue->ready_bytes + queue->leased_bytes + queue->delayed_bytes == sum.bytes);
    lanes_check(queue);
    delay_check(queue, sum.delayed);
}
