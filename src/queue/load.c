/* Reading cold messages back, some pages ahead of the cursor. */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <inttypes.h>
#include <stdlib.h>

#define RETRY_NS (1000 * NANOSECONDS_PER_MS)

struct queue_load {
    struct log_read read;
    struct list link;
    struct queue *queue;
    uint64_t page; /* number */
    uint8_t index[LOG_READ_MAX];
    struct timer retry;
};

static void load_end(struct queue_load *load)
{
    struct queue *queue = load->queue;
    struct queue_lane *lane = lane_of(queue, load->page * QUEUE_PAGE);
    struct queue_page *page = page_get(lane, load->page);

    ASSERT(page && page->loading && queue->loads_count > 0);
    page->loading = false;
    list_remove(&load->link);
    queue->loads_count--;
    if (page->live == 0)
        page_trim(queue, lane, load->page);
    free(load);
    if (queue->upkeep)
        upkeep_look(queue);
    queue_activate(queue);
}

/* What cannot be read is out of reach for consumers, but stays in the log: the disk may be
 * repaired. */
static void quarantine(struct queue *queue, struct queue_page *page, uint64_t sequence, int why)
{
    unsigned index = sequence % QUEUE_PAGE;

    log_error(queue->host->logger, "queue",
              "message %" PRIu64 " of queue %" PRIu64
              " cannot be read back (%s): set aside, not delivered",
              sequence, queue->id, error_name(why));
    page->positions[index] = 0; /* so that the log keeps it */
    queue_remove(queue, page, sequence);
    queue->host->quarantined++;
}

static void load_again(struct timer *timer)
{
    load_end(CONTAINER_OF(timer, struct queue_load, retry));
}

static void load_done(struct log_read *read)
{
    struct queue_load *load = CONTAINER_OF(read, struct queue_load, read);
    struct queue *queue = load->queue;
    struct queue_page *page = page_of(queue, load->page * QUEUE_PAGE);
    bool retry = false;

    ASSERT(page && page->loading);
    for (size_t i = 0; i < read->count; i++) {
        unsigned index = load->index[i];
        uint64_t sequence = load->page * QUEUE_PAGE + index;
        bool wanted =
            (page->live & page_bit(sequence)) && page->positions[index] == read->positions[i];
        if (read->messages[i] && wanted) {
            page_heat(queue, page);
            ASSERT(!page->messages[index]);
            page->messages[index] = read->messages[i];
        } else if (read->messages[i]) {
            message_unref(read->messages[i]);
        } else if (!wanted || (page->leased & page_bit(sequence))) {
            continue; /* settled meanwhile, or out with somebody: it is read when it comes back */
        } else if (read->results[i] == E_CORRUPT) {
            quarantine(queue, page, sequence, read->results[i]);
        } else {
            retry = true;
        }
    }
    if (retry)
        timer_set(&load->retry, loop_now_ns(queue->host->loop) + RETRY_NS);
    else
        load_end(load);
}

static void load_start(struct queue *queue, uint64_t number, struct queue_page *page)
{
    struct queue_load *load = memory_new(sizeof *load);

    load->queue = queue;
    load->page = number;
    timer_init(&load->retry, queue->host->loop, load_again);
    for (uint64_t ready = page->live & ~page->leased; ready; ready &= ready - 1) {
        unsigned index = (unsigned)__builtin_ctzll(ready);
        if (page->messages && page->messages[index])
            continue;
        load->index[load->read.count] = (uint8_t)index;
        load->read.positions[load->read.count++] = page->positions[index];
    }
    ASSERT(load->read.count > 0);
    load->read.done = load_done;
    page->loading = true;
    list_append(&queue->loads, &load->link);
    queue->loads_count++;
    log_read(queue->log, &load->read);
}

void loads_abandon(struct queue *queue)
{
    for (struct list *link; (link = list_take_first(&queue->loads));) {
        struct queue_load *load = CONTAINER_OF(link, struct queue_load, link);
        timer_stop(&load->retry);
        free(load);
        queue->loads_count--;
    }
}

static bool page_is_cold(const struct queue_page *page)
{
    if (!page || page->loading)
        return false;
    for (uint64_t ready = page->live & ~page->leased; ready; ready &= ready - 1) {
        if (!page->messages || !page->messages[__builtin_ctzll(ready)])
            return true;
    }
    return false;
}

bool queue_is_hot(struct queue *queue, const struct queue_place *place)
{
    struct queue_page *page = place->page;
    unsigned index = place->sequence % QUEUE_PAGE;

    if (!queue->log || (page->messages && page->messages[index] && index % 16 != 0))
        return true; /* what is in no log is in memory */
    /* at some places in each page: look ahead, too */
    for (uint64_t n = page_number(place->sequence), end = n + QUEUE_READ_AHEAD;
         n < end && queue->loads_count < QUEUE_READ_AHEAD; n++) {
        struct queue_page *ahead = page_get(place->lane, n);
        if (page_is_cold(ahead))
            load_start(queue, n, ahead);
    }
    return page->messages && page->messages[index];
}
