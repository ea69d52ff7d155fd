/*
 * Messages that wait for their time: not before a moment that their publisher chose, or back after
 * a delay.
 *
 * Such a message is *delayed*: live, and leased to nobody. When it is due stands in its page, one
 * word for each message of a page that has any. What is due next is at the top of a heap of (due,
 * sequence), 16 bytes each; one timer of the queue is set for it. An entry of the heap counts as
 * long as the page says the same of that message; when most count no more, since many messages were
 * settled before their time, a sweep takes them out, some in a turn.
 *
 * The message's record in the log says when it is due, for ever. Where a return has said something
 * else since then (DUE_POSTPONED), that stands in a record of its own, and in the queue's state.
 */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

#define LOOK_AGAIN_MS 60000u /* the wall clock may jump */
#define CLOCK_ENTRIES 16u    /* between two looks at the clock */
#define SWEEP_ENTRIES 256u
#define HEAP_AT_START 16u
#define HEAP_KEPT     1024u /* entries, when it is empty */

struct delay_entry {
    uint64_t due_ms, sequence;
};

struct queue_delay {
    struct queue *queue;
    struct list link; /* host.delays */
    struct timer timer;
    struct delay_entry *heap;
    size_t count, capacity;
    size_t sweep; /* entries below are still to be looked at; 0: none */
};

static void on_timer(struct timer *timer)
{
    delay_look(CONTAINER_OF(timer, struct queue_delay, timer)->queue);
}

static struct queue_delay *delay_of(struct queue *queue)
{
    if (queue->delay)
        return queue->delay;
    struct queue_delay *delay = memory_new(sizeof *delay);
    delay->queue = queue;
    timer_init(&delay->timer, queue->host->loop, on_timer);
    list_init(&delay->link);
    queue->delay = delay;
    return delay;
}

static void heap_free(struct queue_delay *delay)
{
    account_release(delay->queue->host->memory, delay->capacity * sizeof *delay->heap);
    free(delay->heap);
    delay->heap = NULL;
    delay->count = delay->capacity = delay->sweep = 0;
}

void delay_end(struct queue *queue)
{
    struct queue_delay *delay = queue->delay;

    if (!delay)
        return;
    timer_stop(&delay->timer);
    list_remove(&delay->link);
    heap_free(delay);
    free(delay);
    queue->delay = NULL;
}

/* ---- the heap ---- */

static bool is_before(const struct delay_entry *a, const struct delay_entry *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->sequence < b->sequence;
}

/* The entry goes to that place, or nearer to the top. */
static void sift_up(struct queue_delay *delay, size_t at, struct delay_entry entry)
{
    while (at > 0 && is_before(&entry, &delay->heap[(at - 1) / 2])) {
        delay->heap[at] = delay->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    delay->heap[at] = entry;
}

static void sift_down(struct queue_delay *delay, size_t at, struct delay_entry entry)
{
    for (size_t child; (child = 2 * at + 1) < delay->count; at = child) {
        if (child + 1 < delay->count && is_before(&delay->heap[child + 1], &delay->heap[child]))
            child++;
        if (!is_before(&delay->heap[child], &entry))
            break;
        delay->heap[at] = delay->heap[child];
    }
    delay->heap[at] = entry;
}

static void heap_add(struct queue_delay *delay, struct delay_entry entry)
{
    if (delay->count == delay->capacity) {
        size_t capacity = delay->capacity ? 2 * delay->capacity : HEAP_AT_START;
        delay->heap = memory_resize(delay->heap, capacity, sizeof *delay->heap);
        account_add(delay->queue->host->memory, (capacity - delay->capacity) * sizeof *delay->heap);
        delay->capacity = capacity;
    }
    sift_up(delay, delay->count++, entry);
}

static void heap_remove(struct queue_delay *delay, size_t at)
{
    struct delay_entry last = delay->heap[--delay->count];

    if (at == delay->count)
        return;
    if (at > 0 && is_before(&last, &delay->heap[(at - 1) / 2]))
        sift_up(delay, at, last);
    else
        sift_down(delay, at, last);
}

/* ---- into and out of waiting ---- */

static void set_due(struct queue *queue, struct queue_page *page, uint64_t sequence, uint64_t due)
{
    if (!page->dues) {
        page->dues = memory_new(QUEUE_PAGE * sizeof *page->dues);
        account_add(queue->host->memory, QUEUE_PAGE * sizeof *page->dues);
    }
    page->dues[sequence % QUEUE_PAGE] = due;
}

void page_drop_dues(struct queue *queue, struct queue_page *page)
{
    if (!page->dues)
        return;
    free(page->dues);
    page->dues = NULL;
    account_release(queue->host->memory, QUEUE_PAGE * sizeof *page->dues);
}

void delay_start(struct queue *queue, struct queue_page *page, uint64_t sequence, uint64_t due)
{
    uint64_t bit = page_bit(sequence), due_ms = due & DUE_MS_MAX;

    ASSERT(page->live & bit && !(page->delayed & bit) && due_ms > 0);
    set_due(queue, page, sequence, due);
    page->leased |= bit;
    page->delayed |= bit;
    queue->delayed++;
    queue->delayed_bytes += page->sizes[sequence % QUEUE_PAGE];
    if (queue->closed)
        return; /* it waits for nothing any more */
    struct queue_delay *delay = delay_of(queue);
    heap_add(delay, (struct delay_entry){due_ms, sequence});
    if (delay->heap[0].sequence == sequence)
        delay_look(queue);
}

void delay_stop(struct queue *queue, struct queue_page *page, uint64_t sequence)
{
    uint64_t bit = page_bit(sequence);

    ASSERT(page->delayed & bit);
    page->delayed &= ~bit;
    queue->delayed--;
    queue->delayed_bytes -= page->sizes[sequence % QUEUE_PAGE];
}

uint64_t delay_left(const struct queue *queue, const struct queue_page *page, uint64_t sequence)
{
    uint64_t due = page->dues ? page->dues[sequence % QUEUE_PAGE] : 0;

    return (due & DUE_MS_MAX) > loop_wall_ms(queue->host->loop) ? due : 0;
}

static uint64_t retry_step_ms(const struct queue_retry *retry, uint64_t n)
{
    if (retry->steps > 0)
        return retry->steps_ms[(n < retry->steps ? n : retry->steps) - 1];
    uint64_t times = !retry->doubles ? n : n < 64 ? 1ull << (n - 1) : UINT64_MAX;
    return retry->min_ms <= retry->max_ms / times ? retry->min_ms * times : retry->max_ms;
}

uint64_t delay_retry_ms(const struct queue *queue, const struct queue_page *page, uint64_t sequence,
                        bool counted)
{
    const struct queue_retry *retry = queue->upkeep ? &queue->upkeep->rules.retry : NULL;

    if (!retry || !(counted ? retry->counted : retry->uncounted))
        return 0;
    struct loop *loop = queue->host->loop;
    uint64_t n = page->counts ? page->counts[sequence % QUEUE_PAGE] : 0;
    uint64_t wait_ms = retry_step_ms(retry, n > 0 ? n : 1);
    if (wait_ms > retry->max_ms)
        wait_ms = retry->max_ms;
    uint64_t most_less =
        wait_ms / 100 * retry->less_percent + wait_ms % 100 * retry->less_percent / 100;
    if (most_less > 0)
        wait_ms -= loop_random(loop) % (most_less + 1);
    return wait_ms > 0 ? loop_wall_ms(loop) + wait_ms : 0;
}

void delay_recover(struct queue *queue, struct queue_page *page, uint64_t sequence, uint64_t due)
{
    uint32_t size = page->sizes[sequence % QUEUE_PAGE];
    struct queue_lane *lane = lane_of(queue, sequence);
    bool waits = (due & DUE_MS_MAX) > loop_wall_ms(queue->host->loop);

    if (page->delayed & page_bit(sequence)) {
        delay_stop(queue, page, sequence);
        page->leased &= ~page_bit(sequence);
        page->dues[sequence % QUEUE_PAGE] = 0;
        ready_more(queue, lane, size);
    }
    if (!waits)
        return;
    ready_less(queue, lane, size);
    delay_start(queue, page, sequence, due);
}

/* ---- when they are due ---- */

/* NULL: the page says something else of that message now. */
static struct queue_page *page_at(const struct queue *queue, const struct delay_entry *entry)
{
    struct queue_page *page = page_of(queue, entry->sequence);

    if (!page || !(page->delayed & page_bit(entry->sequence)) ||
        (page->dues[entry->sequence % QUEUE_PAGE] & DUE_MS_MAX) != entry->due_ms)
        return NULL;
    return page;
}

static void take_first(struct queue_delay *delay)
{
    struct queue *queue = delay->queue;
    struct delay_entry entry = delay->heap[0];
    struct queue_page *page = page_at(queue, &entry);

    heap_remove(delay, 0);
    if (!page)
        return;
    delay_stop(queue, page, entry.sequence);
    page->dues[entry.sequence % QUEUE_PAGE] = 0;
    queue_now_ready(queue, page, entry.sequence);
}

/* From the end, since who takes the place of a removed one comes from there, and has been looked
 * at. */
static void sweep(struct queue_delay *delay)
{
    if (delay->sweep == 0 && delay->count > HEAP_AT_START &&
        delay->count > 2 * delay->queue->delayed)
        delay->sweep = delay->count;
    if (delay->sweep > delay->count)
        delay->sweep = delay->count;
    for (unsigned i = 0; i < SWEEP_ENTRIES && delay->sweep > 0; i++) {
        delay->sweep--;
        if (!page_at(delay->queue, &delay->heap[delay->sweep]))
            heap_remove(delay, delay->sweep);
    }
}

/* False: there is more to do at once. */
static bool run(struct queue_delay *delay)
{
    struct loop *loop = delay->queue->host->loop;
    uint64_t since_ns = loop_precise_ns(loop), now_ms = loop_wall_ms(loop);

    if (delay->queue->rests)
        return true;
    for (unsigned done = 1; delay->count > 0 && delay->heap[0].due_ms <= now_ms; done++) {
        take_first(delay);
        if (done % CLOCK_ENTRIES == 0 && loop_precise_ns(loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    if (delay->queue->delayed == 0 && delay->capacity > HEAP_KEPT)
        heap_free(delay);
    sweep(delay);
    if (delay->count > 0) {
        uint64_t wait_ms = delay->heap[0].due_ms - now_ms;
        timer_set(&delay->timer,
                  loop_now_ns(loop) +
                      (wait_ms < LOOK_AGAIN_MS ? wait_ms : LOOK_AGAIN_MS) * NANOSECONDS_PER_MS);
    }
    return delay->sweep == 0;
}

void delay_look(struct queue *queue)
{
    struct queue_delay *delay = queue->delay;
    struct queue_host *host = queue->host;

    if (!delay || queue->rests || list_linked(&delay->link))
        return;
    list_append(&host->delays, &delay->link);
    if (host->has_begun)
        loop_defer(host->loop, &host->delay_task, LOOP_DISPATCH);
}

void delay_settled(struct queue *queue)
{
    if (queue->delay && queue->delay->sweep == 0 &&
        queue->delay->count > 2 * queue->delayed + HEAP_KEPT)
        delay_look(queue);
}

void delay_task_run(struct task *task)
{
    struct queue_host *host = CONTAINER_OF(task, struct queue_host, delay_task);
    uint64_t since_ns = loop_precise_ns(host->loop);

    for (struct list *link; (link = list_take_first(&host->delays));) {
        bool is_done = run(CONTAINER_OF(link, struct queue_delay, link));
        if (!is_done)
            list_append(&host->delays, link);
        if (!is_done || loop_precise_ns(host->loop) - since_ns > TURN_SLICE_NS)
            break;
    }
    if (!list_empty(&host->delays))
        loop_defer(host->loop, task, LOOP_DISPATCH);
}

uint64_t queue_next_due_ms(const struct queue *queue)
{
    const struct queue_delay *delay = queue->delay;

    return delay && delay->count > 0 ? delay->heap[0].due_ms : UINT64_MAX;
}

void delay_check(const struct queue *queue, uint64_t delayed)
{
    const struct queue_delay *delay = queue->delay;
    uint64_t found = 0;

    ASSERT(queue->delayed == delayed && (delay || queue->closed || delayed == 0));
    for (size_t i = 0; delay && i < delay->count; i++) {
        ASSERT(i == 0 || !is_before(&delay->heap[i], &delay->heap[(i - 1) / 2]));
        found += page_at(queue, &delay->heap[i]) != NULL;
    }
    ASSERT(!delay || found >= delayed); /* twice, where it was held meanwhile */
    if (delay && delay->count > 0 && queue->host->has_begun && !queue->rests)
        ASSERT(timer_is_set(&delay->timer) || list_linked(&delay->link));
}
