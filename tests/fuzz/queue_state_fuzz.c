/* A queue rebuilt from what a log tells: a state (two bytes of size, then the bytes), and then
 * messages, settlements, returns and marks in any order. What comes out must be a queue. */
#include "loop/simulated.h"
#include "queue/test_log.h"

/* ---- a log that counts what it still keeps ---- */

struct counting_log {
    struct log log;
    uint64_t live;
};

static void released(struct log *log, uint64_t position)
{
    struct counting_log *counting = CONTAINER_OF(log, struct counting_log, log);

    (void)position;
    ASSERT(counting->live > 0);
    counting->live--;
}

/* use() writes small ones alone */
static void state_written(struct log *log, struct slice bytes, bool more)
{
    (void)log;
    (void)bytes;
    ASSERT(!more);
}

static const struct test_log_hooks log_hooks = {.released = released, .state = state_written};

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

static void tell(struct queue *queue, struct counting_log *log, struct reader *r)
{
    unsigned what = read_u8(r) % 5;
    uint64_t first = read_varint(r), more = read_varint(r);

    if (r->failed || first == 0) /* the log's decoders let no such record through */
        return;
    uint64_t last = more <= UINT64_MAX - first ? first + more : UINT64_MAX;
    switch (what) {
    case 0:
        log->live += queue_recover_message(queue, first, 1 + more % 1000, more, (uint16_t)more,
                                           more % 3 ? 0 : more);
        break;
    case 1:
        queue_recover_settled(queue, first, last);
        break;
    case 2:
        queue_recover_returned(queue, first, last, 1);
        break;
    case 3:
        queue_recover_postponed(queue, first, more);
        break;
    default:
        queue_recover_delivered(queue, first);
    }
}

/* It can be purged, and written, and nothing is left. */
static void use(struct queue *queue, struct counting_log *log)
{
    uint64_t ready = queue->ready, all = ready + queue->delayed;
    struct queue_purge_job job;
    struct queue_item item;

    ASSERT(log->live == all);
    int result = queue_take(queue, &item);
    ASSERT(result == (ready ? E_AGAIN : E_NOT_FOUND));
    if (all < 1000)
        queue_write_state(queue, true);
    queue_purge_begin(&job, queue);
    while (!queue_purge(&job, queue, SETTLE_PURGED))
        queue_check(queue);
    ASSERT(job.removed == all && log->live == 0);
    queue_purge_fini(&job);
    queue_check(queue);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(slice_of(data, size));
    struct slice state = read_bytes(&r, read_le16(&r));
    struct loop *loop = loop_new_simulated(1);
    struct counting_log log = {.live = 0};
    struct account memory;
    struct queue queue;

    if (r.failed)
        state = slice_of(data, size);
    account_init(&memory, NULL, 0);
    test_log_init(&log.log, &log_hooks);
    struct queue_host host = {.loop = loop, .log = &log.log, .events = &events, .memory = &memory};
    queue_host_init(&host);
    queue_init(&queue, &host, TEST_LOG_QUEUE, &log.log);
    int result = queue_recover_state(&queue, state);
    ASSERT(result == 0 || (queue.lane.next == 1 && queue.lane.mark_logged == 0 && !queue.lanes));
    while (!r.failed && reader_left(&r) > 0)
        tell(&queue, &log, &r);
    uint64_t missing = queue_recover_end(&queue);
    ASSERT(missing < QUEUE_LANES_MAX * QUEUE_LANE_SPAN);
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
