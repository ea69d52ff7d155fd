/* Catalog events as the log tells them in recovery: a size byte, an event, and so on. */
#include "broker/catalog.h"

#include "loop/simulated.h"

struct world {
    struct loop *loop;
    struct account memory;
    struct queue_host host;
    struct catalog catalog;
    struct list dropped;
};

static void expired(struct timer *timer)
{
    (void)timer;
}

static void added(void *context, struct catalog_queue *queue)
{
    struct world *w = context;
    timer_init(&queue->expiry, w->loop, expired);
}

static void dropped(void *context, struct catalog_queue *queue)
{
    struct world *w = context;
    list_append(&w->dropped, &queue->discard_link);
}

static void snapshot(struct world *w)
{
    struct catalog_cursor cursor = {0};
    uint8_t bytes[8192];

    while (catalog_snapshot_next(&w->catalog, &cursor, bytes, sizeof bytes) > 0) {
    }
    catalog_snapshot_end(&cursor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.loop = loop_new_simulated(1)};
    struct reader r = reader_of(slice_of(data, size));
    struct map_cursor cursor = {0};

    account_init(&w.memory, NULL, 0);
    list_init(&w.dropped);
    w.host = (struct queue_host){.loop = w.loop, .memory = &w.memory};
    queue_host_init(&w.host);
    catalog_init(&w.catalog, w.loop, &w.host);
    w.catalog.queue_added = added;
    w.catalog.queue_dropped = dropped;
    w.catalog.context = &w;
    while (reader_left(&r) > 0 && !r.failed) {
        struct slice event = read_bytes(&r, read_u8(&r));
        int result = r.failed ? 0 : catalog_apply(&w.catalog, event);
        (void)result;
    }
    route_table_check(w.catalog.routes);
    snapshot(&w);
    for (struct catalog_queue *q; (q = map_next(&w.catalog.queues_by_id, &cursor));)
        list_append(&w.dropped, &q->discard_link);
    for (struct list *link; (link = list_take_first(&w.dropped));) {
        struct catalog_queue *q = CONTAINER_OF(link, struct catalog_queue, discard_link);
        queue_abandon(&q->queue);
        catalog_free_queue(q);
    }
    catalog_fini(&w.catalog);
    queue_host_fini(&w.host);
    loop_free(w.loop);
    return 0;
}
