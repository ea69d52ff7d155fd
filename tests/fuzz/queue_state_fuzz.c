/* A queue rebuilt from what a log tells: a state (two bytes of size, then the bytes), and then
 * messages, settlements, returns and marks in any order. What comes out must be a queue. */
#include "base/assert.h"
#include "loop/simulated.h"
#include "queue/queue.h"

#include <stdlib.h>

/* ---- a log that counts what it still keeps ---- */

struct log {
    uint64_t live, block;
    struct list reads;
};

void log_settle(struct log *log, uint64_t queue, uint64_t first, uint64_t last, unsigned why)
{
    (void)log;
    ASSERT(queue == 7 && first > 0 && first <= last && why > 0);
}

void log_release(struct log *log, uint64_t position)
{
    ASSERT(position > 0 && log->live > 0);
    log->live--;
}

void log_append_returned(struct log *log, uint64_t queue, uint64_t first, uint64_t last,
                         uint32_t count)
{
    (void)log;
    ASSERT(queue == 7 && first > 0 && first <= last && count > 0);
}

void log_append_delivered(struct log *log, uint64_t queue, uint64_t sequence)
{
    ASSERT(queue == 7 && sequence > 0);
    log->block++;
}

void log_append_state(struct log *log, uint64_t queue, struct slice bytes, bool more)
{
    (void)log;
    ASSERT(queue == 7 && bytes.size > 0 && bytes.size <= LOG_STATE_MAX && !more);
}

void log_drop_state(struct log *log, uint64_t queue)
{
    (void)log;
    (void)queue;
}

uint64_t log_block_last(const struct log *log)
{
    return log->block;
}

bool log_is_failed(const struct log *log)
{
    (void)log;
    return false;
}

void log_commit(struct log *log)
{
    (void)log;
}

void log_read(struct log *log, struct log_read *read)
{
    list_append(&log->reads, &read->link);
}

/* ---- the target ---- */

static int deliver(void *context, struct consumer *consumer, const struct queue_item *item)
{
    (void)context;
    (void)consumer;
    (void)item;
    return E_ROOM;
}

static void get(void *context, struct queue *queue)
{
    (void)context;
    (void)queue;
}

static const struct queue_events events = {.deliver = deliver, .get = get};

static void tell(struct queue *queue, struct log *log, struct reader *r)
{
    unsigned what = read_u8(r) % 4;
    uint64_t first = read_varint(r), more = read_varint(r);

    if (r->failed || first == 0) /* the log's decoders let no such record through */
        return;
    uint64_t last = more <= UINT64_MAX - first ? first + more : UINT64_MAX;
    switch (what) {
    case 0:
        log->live += queue_recover_message(queue, first, 1 + more % 1000, more, (uint16_t)more);
        break;
    case 1:
        queue_recover_settled(queue, first, last);
        break;
    case 2:
        queue_recover_returned(queue, first, last, 1);
        break;
    default:
        queue_recover_delivered(queue, first);
    }
}

/* It can be purged, and written, and nothing is left. */
static void use(struct queue *queue, struct log *log)
{
    uint64_t position = 0, ready = queue->ready, purged = 0;
    struct queue_item item;

    ASSERT(log->live == ready);
    int result = queue_take(queue, &item);
    ASSERT(result == (ready ? E_AGAIN : E_NOT_FOUND));
    if (ready < 1000)
        queue_write_state(queue, true);
    while (position < queue->next)
        purged += queue_purge(queue, queue->next, &position, SETTLE_PURGED);
    ASSERT(purged == ready && log->live == 0);
    queue_check(queue);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(slice_of(data, size));
    struct slice state = read_bytes(&r, read_le16(&r));
    struct loop *loop = loop_new_simulated(1);
    struct log log = {.live = 0};
    struct account memory;
    struct queue queue;

    if (r.failed)
        state = slice_of(data, size);
    account_init(&memory, NULL, 0);
    list_init(&log.reads);
    struct queue_host host = {.loop = loop, .log = &log, .events = &events, .memory = &memory};
    queue_host_init(&host);
    queue_init(&queue, &host, 7, &log);
    int result = queue_recover_state(&queue, state);
    ASSERT(result == 0 || (queue.next == 1 && queue.mark_logged == 0));
    while (!r.failed && reader_left(&r) > 0)
        tell(&queue, &log, &r);
    uint64_t missing = queue_recover_end(&queue);
    ASSERT(missing < queue.next);
    queue_check(&queue);
    use(&queue, &log);
    queue_abandon(&queue);
    queue_fini(&queue);
    queue_host_fini(&host);
    ASSERT(memory.used == 0);
    account_fini(&memory);
    loop_free(loop);
    return 0;
}
