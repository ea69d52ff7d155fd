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
    queue->next = queue->fresh = 1;
    queue->returned_first = UINT64_MAX;
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
    ASSERT(queue->pages_count == 0);
    upkeep_end(queue);
    delay_end(queue);
    list_remove(&queue->ready_link);
    list_remove(&queue->mark_link);
    list_remove(&queue->closed_link);
    free(queue->pages);
    queue->pages = NULL;
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

uint32_t page_search(const struct queue *queue, uint64_t number)
{
    uint32_t low = 0, high = queue->pages_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (page_entry(queue, middle)->number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Room for one more entry at the end: what is empty goes, what was taken from the front is used
 * again, and only then the array grows. */
static void pages_make_room(struct queue *queue)
{
    uint32_t count = 0;

    if (queue->pages_start + queue->pages_count < queue->pages_capacity)
        return;
    for (uint32_t i = 0; i < queue->pages_count; i++) {
        if (page_entry(queue, i)->page)
            queue->pages[count++] = *page_entry(queue, i);
    }
    queue->pages_start = 0;
    queue->pages_count = count;
    queue->pages_empty = 0;
    if (count <= queue->pages_capacity / 2 && queue->pages_capacity > 0)
        return;
    queue->pages_capacity = count ? 2 * queue->pages_capacity : PAGES_AT_START;
    queue->pages = memory_resize(queue->pages, queue->pages_capacity, sizeof *queue->pages);
}

struct queue_page *page_make(struct queue *queue, uint64_t number)
{
    pages_make_room(queue);
    uint32_t index = page_index(queue, number);
    struct page_entry *entry = page_entry(queue, index);

    if (index == queue->pages_count || entry->number != number) {
        memmove(entry + 1, entry, (queue->pages_count - index) * sizeof *entry);
        *entry = (struct page_entry){.number = number};
        queue->pages_count++;
        queue->pages_empty++;
    }
    if (!entry->page) {
        entry->page = memory_new(sizeof *entry->page);
        account_add(queue->host->memory, sizeof *entry->page);
        queue->pages_empty--;
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
static void pages_trim_front(struct queue *queue)
{
    while (queue->pages_count > 0 && !page_entry(queue, 0)->page) {
        queue->pages_start++;
        queue->pages_count--;
        queue->pages_empty--;
    }
}

void page_trim(struct queue *queue, uint64_t number)
{
    uint32_t index = page_index(queue, number);

    if (index == queue->pages_count || page_entry(queue, index)->number != number)
        return;
    struct page_entry *entry = page_entry(queue, index);
    struct queue_page *page = entry->page;
    /* one that is being read stays: its load looks for it */
    if (page && page->live == 0 && !page->loading && (number + 1) * QUEUE_PAGE <= queue->next) {
        page_free(queue, page);
        entry->page = NULL;
        queue->pages_empty++;
        pages_trim_front(queue);
    }
}

/* ---- what is next ---- */

uint64_t queue_find_ready(const struct queue *queue, uint64_t from)
{
    for (uint32_t i = page_index(queue, page_number(from)); i < queue->pages_count; i++) {
        const struct page_entry *entry = page_entry(queue, i);
        uint64_t mask = entry->number == page_number(from) ? page_bits_from(from) : ~0ull;
        uint64_t ready = entry->page ? entry->page->live & ~entry->page->leased & mask : 0;
        if (ready)
            return entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(ready);
    }
    return queue->next;
}

uint64_t queue_head(struct queue *queue)
{
    ASSERT(queue->ready > 0);
    if (queue->returned_ready > 0) {
        queue->returned_first = queue_find_ready(queue, queue->returned_first);
        ASSERT(queue->returned_first < queue->fresh);
        return queue->returned_first;
    }
    queue->fresh = queue_find_ready(queue, queue->fresh);
    ASSERT(queue->fresh < queue->next);
    return queue->fresh;
}

void queue_lease(struct queue *queue, uint64_t sequence)
{
    struct queue_page *page = page_get(queue, page_number(sequence));
    uint32_t size = page->sizes[sequence % QUEUE_PAGE];

    ASSERT(page->live & ~page->leased & page_bit(sequence));
    page->leased |= page_bit(sequence);
    if (sequence >= queue->fresh) {
        queue->fresh = sequence + 1;
    } else {
        queue->returned_ready--;
        queue->returned_first = queue->returned_ready ? sequence + 1 : UINT64_MAX;
        queue->redelivered += page->returned & page_bit(sequence) ? 1 : 0;
    }
    queue->ready--;
    queue->leased++;
    queue->ready_bytes -= size;
    queue->leased_bytes += size;
    queue->delivered++;
}

/* ---- in and out ---- */

struct log_target queue_target(const struct queue *queue, const struct message *message)
{
    uint64_t due_ms = due_ms_least(message_not_before_ms(message));
    unsigned lane = (message->expires_at_ms ? QUEUE_LANE_MORTAL : 0) | (due_ms ? LOG_LANE_DUE : 0);

    return (struct log_target){queue->id, queue->next, (uint16_t)lane, due_ms};
}

/* Under pressure, what can be read back and is not about to be delivered stays in the log. */
static bool stays_cold(const struct queue *queue, uint64_t sequence, uint64_t position, bool waits)
{
    return position && queue->host->memory->used > queue->host->hot_bytes_max &&
           (waits || sequence - queue->fresh > QUEUE_HOT_PAGES * QUEUE_PAGE ||
            queue->ready_bytes > QUEUE_HOT_BYTES);
}

void queue_push(struct queue *queue, struct message *message, uint64_t position)
{
    uint64_t sequence = queue->next;
    uint64_t due_ms = due_ms_least(message_not_before_ms(message));
    bool waits = due_ms > 0 && due_ms > loop_wall_ms(queue->host->loop);
    unsigned index = sequence % QUEUE_PAGE;
    struct queue_page *page = page_get(queue, page_number(sequence));

    ASSERT(!queue->is_given_up);
    if (!page)
        page = page_make(queue, page_number(sequence));
    if (!stays_cold(queue, sequence, position, waits)) {
        page_heat(queue, page);
        page->messages[index] = message_ref(message);
    }
    page->positions[index] = position;
    page->sizes[index] = (uint32_t)message->body_size;
    page->live |= page_bit(sequence);
    queue->next++;
    queue->pushed++;
    if (waits) {
        delay_start(queue, page, sequence, due_ms);
    } else {
        queue->ready++;
        queue->ready_bytes += message->body_size;
    }
    if (position)
        queue_touch(queue);
    upkeep_pushed(queue, message);
    queue_activate(queue);
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
        queue->ready--;
        queue->ready_bytes -= size;
        if (sequence < queue->fresh)
            queue->returned_ready--;
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
    struct queue_page *page = page_get(queue, page_number(sequence));

    ASSERT(page && (page->leased & page_bit(sequence)));
    if (page->positions[sequence % QUEUE_PAGE]) {
        log_settle(queue->log, queue->id, sequence, sequence, why);
        queue_touch(queue);
    }
    queue_remove(queue, page, sequence);
    queue->settled++;
    if (page->live == 0)
        page_trim(queue, page_number(sequence));
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
    struct queue_page *page = page_get(queue, number);
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
        page_trim(queue, number);
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
        const struct queue_page *page = page_get(queue, number);
        uint64_t bits = number == page_number(first) ? page_bits_from(first) : ~0ull;
        bits &= number == page_number(last) ? page_bits_to(last) : ~0ull;
        ASSERT(page && (page->leased & bits) == bits);
        settle_in_page(queue, number, bits, why);
    }
}

void queue_now_ready(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    page->leased &= ~page_bit(sequence);
    queue->ready++;
    queue->ready_bytes += page->sizes[sequence % QUEUE_PAGE];
    if (sequence < queue->fresh) { /* else the cursor comes by */
        queue->returned_ready++;
        if (sequence < queue->returned_first)
            queue->returned_first = sequence;
    }
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
    struct queue_page *page = page_get(queue, page_number(sequence));
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

void queue_return(struct queue *queue, uint64_t sequence, bool seen, bool counted)
{
    struct queue_page *page = page_of_returned(queue, sequence, counted);

    if (!page)
        return;
    if (seen)
        page->returned |= page_bit(sequence);
    give_back(queue, page, sequence, delay_left(queue, page, sequence));
}

void queue_return_later(struct queue *queue, uint64_t sequence, bool counted, uint64_t due_ms)
{
    struct queue_page *page = page_of_returned(queue, sequence, counted);

    if (!page)
        return;
    due_ms = due_ms_least(due_ms);
    page->returned |= page_bit(sequence);
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

bool queue_hold(struct queue *queue, uint64_t sequence)
{
    struct queue_page *page = queue->is_given_up ? NULL : page_get(queue, page_number(sequence));

    if (!page || !(page->live & (~page->leased | page->delayed) & page_bit(sequence)))
        return false;
    uint32_t size = page->sizes[sequence % QUEUE_PAGE];
    queue->leased++;
    queue->leased_bytes += size;
    if (page->delayed & page_bit(sequence)) {
        delay_stop(queue, page, sequence);
        return true;
    }
    page->leased |= page_bit(sequence);
    if (sequence < queue->fresh)
        queue->returned_ready--;
    if (queue->returned_ready == 0)
        queue->returned_first = UINT64_MAX;
    queue->ready--;
    queue->ready_bytes -= size;
    return true;
}

bool queue_is_logged(const struct queue *queue, uint64_t sequence)
{
    const struct queue_page *page = page_get(queue, page_number(sequence));

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

/* The first of them from that sequence on, or `next`. */
static uint64_t find_free(const struct queue *queue, uint64_t from)
{
    for (uint32_t i = page_index(queue, page_number(from)); i < queue->pages_count; i++) {
        const struct page_entry *entry = page_entry(queue, i);
        uint64_t mask = entry->number == page_number(from) ? page_bits_from(from) : ~0ull;
        uint64_t bits = entry->page ? free_bits(entry->page) & mask : 0;
        if (bits)
            return entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(bits);
    }
    return queue->next;
}

uint64_t queue_purge(struct queue *queue, uint64_t end, uint64_t *position, enum settle_reason why)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);
    uint64_t removed = 0;

    while (!queue->closed && queue->ready + queue->delayed > 0 && *position < end) {
        uint64_t sequence = find_free(queue, *position);
        if (sequence >= end || sequence >= queue->next)
            break;
        uint64_t number = page_number(sequence);
        const struct queue_page *page = page_get(queue, number);
        uint64_t bits = free_bits(page) & page_bits_from(sequence);
        if (number == page_number(end))
            bits &= ~page_bits_from(end);
        settle_in_page(queue, number, bits, why);
        removed += (unsigned)__builtin_popcountll(bits);
        *position = (number + 1) * QUEUE_PAGE;
        if (slice_is_over(queue, since_ns))
            goto out;
    }
    *position = end;
out:
    if (queue->returned_ready == 0)
        queue->returned_first = UINT64_MAX;
    delay_settled(queue);
    return removed;
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

bool queue_discard(struct queue *queue)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);

    ASSERT(queue->closed);
    give_up(queue);
    while (queue->pages_count > 0) {
        if (slice_is_over(queue, since_ns))
            return false;
        struct page_entry *entry = page_entry(queue, 0);
        for (uint64_t live = entry->page ? entry->page->live : 0; live; live &= live - 1)
            queue_remove(queue, entry->page,
                         entry->number * QUEUE_PAGE + (unsigned)__builtin_ctzll(live));
        if (entry->page && entry->page->loading)
            return false; /* the read will find nothing live, and then the page goes */
        if (entry->page) {
            page_free(queue, entry->page);
            entry->page = NULL;
            queue->pages_empty++;
        }
        pages_trim_front(queue);
    }
    if (queue->loads_count > 0)
        return false;
    if (queue->log && !queue->has_no_state)
        log_drop_state(queue->log, queue->id);
    return true;
}

void queue_abandon(struct queue *queue)
{
    upkeep_end(queue);
    delay_end(queue);
    queue->closed = queue->is_given_up = true;
    queue->consumers = 0;
    queue->references = 0;
    loads_abandon(queue);
    queue_promise_free(queue);
    for (; queue->pages_count > 0; queue->pages_start++, queue->pages_count--) {
        struct queue_page *page = page_entry(queue, 0)->page;
        for (unsigned i = 0; page && page->messages && i < QUEUE_PAGE; i++) {
            if (page->messages[i])
                message_unref(page->messages[i]);
        }
        if (page)
            page_free(queue, page);
    }
    queue->pages_empty = 0;
}

/* Pages below this number, from the cursor's on, are about to be delivered. */
static uint64_t hot_end(const struct queue *queue)
{
    uint64_t first = page_number(queue->fresh), number = first, bytes = 0;

    if (list_empty(&queue->active) && !queue->getters_wait)
        return first;
    for (; number < first + QUEUE_HOT_PAGES; number++) {
        const struct queue_page *page = page_get(queue, number);
        for (uint64_t live = page ? page->live : 0; live; live &= live - 1)
            bytes += page->sizes[__builtin_ctzll(live)];
        if (bytes > QUEUE_HOT_BYTES && number > first)
            break;
    }
    return number;
}

bool queue_cool(struct queue *queue, uint64_t *position)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);
    uint64_t hot_first = page_number(queue->fresh), hot_last = hot_end(queue);

    for (uint32_t i = page_index(queue, *position); i < queue->pages_count; i++) {
        uint64_t n = page_entry(queue, i)->number;
        *position = n;
        if (slice_is_over(queue, since_ns))
            return false;
        struct queue_page *page = page_entry(queue, i)->page;
        if (!page || !page->messages || (n >= hot_first && n < hot_last))
            continue;
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
    return true;
}

void queue_check(const struct queue *queue)
{
    uint64_t ready = 0, leased = 0, delayed = 0, returned_ready = 0, bytes = 0, empty = 0;

    for (uint32_t i = 0; i < queue->pages_count; i++) {
        const struct queue_page *page = page_entry(queue, i)->page;
        uint64_t n = page_entry(queue, i)->number;
        ASSERT(i == 0 || page_entry(queue, i - 1)->number < n);
        empty += !page;
        if (!page)
            continue;
        ASSERT((page->leased & ~page->live) == 0 && (page->returned & ~page->live) == 0);
        ASSERT((page->delayed & ~page->leased) == 0);
        delayed += (unsigned)__builtin_popcountll(page->delayed);
        leased += (unsigned)__builtin_popcountll(page->leased & ~page->delayed);
        for (uint64_t live = page->live; live; live &= live - 1) {
            unsigned index = (unsigned)__builtin_ctzll(live);
            uint64_t sequence = n * QUEUE_PAGE + index;
            bool is_leased = page->leased & page_bit(sequence);
            ASSERT(sequence < queue->next);
            ASSERT(page->positions[index] || (page->messages && page->messages[index]));
            ASSERT(!page->positions[index] || queue->log);
            bytes += page->sizes[index];
            ASSERT(!(page->delayed & page_bit(sequence)) || page->dues[index]);
            ready += !is_leased;
            if (!is_leased && sequence < queue->fresh) {
                returned_ready++;
                ASSERT(sequence >= queue->returned_first);
            }
        }
    }
    ASSERT(queue->pages_empty == empty);
    ASSERT(queue->ready == ready && queue->leased == leased);
    ASSERT(queue->returned_ready == returned_ready);
    ASSERT(queue->ready_bytes + queue->leased_bytes + queue->delayed_bytes == bytes);
    delay_check(queue, delayed);
}
