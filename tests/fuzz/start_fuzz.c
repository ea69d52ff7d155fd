/* The start of a broker over a log whose records nobody wrote so: a queue's state (two bytes of
 * size, then the bytes), and then messages, settlements, returns, marks, changes and more states,
 * of a queue that there is and of one that there is not. It starts, its invariants hold, and it
 * starts again over what it then leaves. */
#include "base/assert.h"
#include "broker/catalog.h"
#include "broker/worker.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <stdlib.h>

#define QUEUE_ID 5u

struct start {
    struct simulated_disk *disk;
    struct loop *loop;
    struct store *store;
    struct account memory;
    bool done;
    int result;
};

static void open_store(struct start *s)
{
    struct failure failure;

    s->loop = loop_new_simulated(1);
    int result = store_simulated_open(s->loop, s->disk, &s->store, &failure);
    ASSERT(result == 0);
    s->done = false;
}

static void close_store(struct start *s)
{
    store_free(s->store);
    loop_free(s->loop);
}

static void wait_done(struct start *s)
{
    for (unsigned i = 0; !s->done; i++) {
        ASSERT(i < 100000);
        simulated_run_for(s->loop, NANOSECONDS_PER_MS);
    }
    s->done = false;
}

/* ---- writing the log ---- */

static void log_opened(void *context, int result, const struct log_opened *summary,
                       const struct failure *failure)
{
    struct start *s = context;

    (void)summary;
    (void)failure;
    s->result = result;
    s->done = true;
}

static void on_done(void *context)
{
    ((struct start *)context)->done = true;
}

static void append_event(struct log *log, const struct writer *w, const uint8_t *bytes)
{
    int result = log_append_catalog(log, slice_of(bytes, writer_size(w)));
    ASSERT(result == 0);
}

static void append_catalog(struct log *log)
{
    struct queue_event event = {.id = QUEUE_ID,
                                .vhost = 1,
                                .shard = 1,
                                .flags = CATALOG_DURABLE,
                                .name = slice_text("q"),
                                .arguments = slice_of("\0\0\0\0", 4)};
    uint8_t bytes[256];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_vhost(&w, 1, slice_text("/"));
    append_event(log, &w, bytes);
    w = writer_of(bytes, sizeof bytes);
    catalog_encode_queue(&w, &event);
    append_event(log, &w, bytes);
}

static void append_message(struct start *s, struct log *log, uint64_t queue, uint64_t sequence)
{
    struct message_parts parts = {.format = FORMAT_AMQP091,
                                  .flags = MESSAGE_PERSISTENT,
                                  .key = slice_text("q"),
                                  .properties = slice_of("\0\0", 2),
                                  .body = slice_text("body")};
    struct log_target target = {queue, sequence, 0, 0};
    uint64_t position;
    struct message *message = message_new(&s->memory, &parts);

    ASSERT(message);
    int result = log_append_message(log, message, &target, 1, &position);
    ASSERT(result == 0);
    message_unref(message);
}

static void append(struct start *s, struct log *log, struct reader *r)
{
    uint8_t what = read_u8(r);
    uint64_t queue = QUEUE_ID + (what & 1);
    uint64_t first = read_varint(r), more = read_varint(r);

    if (r->failed || first == 0)
        return;
    uint64_t last = more <= UINT64_MAX - first ? first + more : UINT64_MAX;
    struct slice rest = slice_of(r->at, reader_left(r) < 40 ? reader_left(r) : 40);
    int result = 0;
    switch (what / 2 % 6) {
    case 0:
        append_message(s, log, queue, first);
        break;
    case 1:
        log_settle(log, queue, first, last, 1);
        break;
    case 2:
        log_append_returned(log, queue, first, last, 1);
        break;
    case 3:
        log_append_delivered(log, queue, first);
        break;
    case 4:
        result = log_append_change(log, queue, rest, 0);
        break;
    default:
        log_append_state(log, queue, rest, false);
    }
    ASSERT(result == 0);
}

static void write_log(struct start *s, struct slice state, struct reader *r)
{
    struct log_options options;
    const struct log_events events = {.durable = NULL};
    const struct log_recovery recovery = {.catalog = NULL};

    open_store(s);
    log_options_default(&options);
    options.loop = s->loop;
    options.store = s->store;
    options.account = &s->memory;
    options.segment_bytes_min = options.segment_bytes_max = 64u << 10;
    struct log *log = log_open(&options, &events, &recovery, s, log_opened);
    wait_done(s);
    ASSERT(s->result == 0);
    append_catalog(log);
    for (unsigned i = 0; i < 200 && !r->failed && reader_left(r) > 0; i++) {
        append(s, log, r);
        if (i == 0 && state.size > 0)
            log_append_state(log, QUEUE_ID, state, false);
    }
    log_close(log, on_done, s);
    wait_done(s);
    log_free(log);
    close_store(s);
}

/* ---- the start ---- */

static void started(void *context, const struct worker_started *what)
{
    struct start *s = context;

    s->result = what->result;
    s->done = true;
}

static void start(struct start *s)
{
    struct logger logger = {.level = LOG_ERROR, .descriptor = -1};
    struct worker_options options;

    open_store(s);
    worker_options_default(&options);
    options.loop = s->loop;
    options.stores = &s->store;
    options.store_count = 1;
    options.logger = &logger;
    options.password_cost = (struct password_cost){8, 1};
    options.log.segment_bytes_min = options.log.segment_bytes_max = 64u << 10;
    struct worker *worker = worker_start(&options, started, s);
    wait_done(s);
    ASSERT(s->result == 0);
    worker_check(worker);
    simulated_run_for(s->loop, 50 * NANOSECONDS_PER_MS);
    worker_stop(worker, on_done, s);
    wait_done(s);
    worker_free(worker);
    close_store(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct start s = {.disk = simulated_disk_new(1)};
    struct reader r = reader_of(slice_of(data, size));
    struct slice state = read_bytes(&r, read_le16(&r));

    if (r.failed || state.size > LOG_STATE_MAX)
        state = slice_of(data, size < LOG_STATE_MAX ? size : LOG_STATE_MAX);
    simulated_disk_faults(s.disk)->latency_max_ns = 1;
    account_init(&s.memory, NULL, 0);
    write_log(&s, state, &r);
    start(&s);
    start(&s);
    account_fini(&s.memory);
    simulated_disk_free(s.disk);
    return 0;
}
