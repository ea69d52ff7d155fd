/* Catalog events as the log tells them in recovery: a size byte, an event, and so on. */
#include "broker/catalog.h"

static void snapshot(const struct catalog *catalog)
{
    struct catalog_cursor cursor = {0};
    uint8_t bytes[8192];

    while (catalog_snapshot_next(catalog, &cursor, bytes, sizeof bytes) > 0) {
    }
    catalog_snapshot_end(&cursor);
}

/* As after each change of a policy. */
static void refresh(struct catalog *catalog)
{
    struct map_cursor cursor = {0};

    for (struct catalog_exchange *e; (e = map_next(&catalog->exchanges_by_id, &cursor));)
        catalog_exchange_refresh(catalog, e);
    cursor = (struct map_cursor){0};
    for (struct catalog_queue *q; (q = map_next(&catalog->queues_by_id, &cursor));)
        catalog_queue_refresh(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct catalog catalog;
    struct reader r = reader_of(slice_of(data, size));

    catalog_init(&catalog, 1);
    while (reader_left(&r) > 0 && !r.failed) {
        struct slice event = read_bytes(&r, read_u8(&r));
        int result = r.failed ? 0 : catalog_apply(&catalog, event);
        (void)result;
    }
    refresh(&catalog);
    route_table_check(catalog.routes);
    snapshot(&catalog);
    catalog_fini(&catalog);
    return 0;
}
