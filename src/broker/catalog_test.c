/* The catalog's events: each applied, told again by a snapshot, and applied to an empty one. */
#include "broker/catalog.h"

#include "base/memory.h"
#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <stdlib.h>

struct fixture {
    struct loop *loop;
    struct account memory;
    struct queue_host host;
    struct catalog catalog;
    struct list dropped;
    unsigned added;
};

static void expired(struct timer *timer)
{
    (void)timer;
}

static void added(void *context, struct catalog_queue *queue)
{
    struct fixture *f = context;

    f->added++;
    timer_init(&queue->expiry, f->loop, expired);
}

static void dropped(void *context, struct catalog_queue *queue)
{
    struct fixture *f = context;
    list_append(&f->dropped, &queue->discard_link);
}

static void setup(struct fixture *f, struct loop *loop)
{
    *f = (struct fixture){.loop = loop};
    account_init(&f->memory, NULL, 0);
    list_init(&f->dropped);
    f->host = (struct queue_host){.loop = loop, .memory = &f->memory};
    queue_host_init(&f->host);
    catalog_init(&f->catalog, loop, &f->host);
    f->catalog.queue_added = added;
    f->catalog.queue_dropped = dropped;
    f->catalog.context = f;
}

static void teardown(struct fixture *f)
{
    struct map_cursor cursor = {0};

    for (struct catalog_queue *q; (q = map_next(&f->catalog.queues_by_id, &cursor));)
        list_append(&f->dropped, &q->discard_link);
    for (struct list *link; (link = list_take_first(&f->dropped));) {
        struct catalog_queue *q = CONTAINER_OF(link, struct catalog_queue, discard_link);
        queue_abandon(&q->queue);
        catalog_free_queue(q);
    }
    catalog_fini(&f->catalog);
    queue_host_fini(&f->host);
}

static void apply(struct fixture *f, const struct writer *w)
{
    assert_false(w->failed);
    assert_int_equal(catalog_apply(&f->catalog, slice_of(w->start, writer_size(w))), 0);
}

#define EVENT(f, call)                                                                             \
    do {                                                                                           \
        uint8_t bytes_[1024];                                                                      \
        struct writer w = writer_of(bytes_, sizeof bytes_);                                        \
        call;                                                                                      \
        apply(f, &w);                                                                              \
    } while (0)

#define NONE slice_of(NULL, 0)

/* A virtual host, a user, two exchanges, two queues (one exclusive), bindings between all. */
static void fill(struct fixture *f)
{
    EVENT(f, catalog_encode_vhost(&w, 1, slice_text("/")));
    EVENT(f, catalog_encode_user(&w, slice_text("ann"), slice_text("$hash"),
                                 slice_text("monitoring")));
    EVENT(f, catalog_encode_permission(&w, slice_text("ann"), 1, slice_text("^a"), slice_text(".*"),
                                       slice_text("")));
    EVENT(f, catalog_encode_exchange(&w, 2, 1, CATALOG_DURABLE, EXCHANGE_DIRECT, NONE, NONE));
    EVENT(f, catalog_encode_exchange(&w, 3, 1, CATALOG_DURABLE, EXCHANGE_HEADERS, slice_text("h"),
                                     NONE));
    EVENT(f, catalog_encode_exchange(&w, 4, 1, CATALOG_DURABLE | CATALOG_AUTO_DELETE,
                                     EXCHANGE_TOPIC, slice_text("t"), NONE));
    EVENT(f, catalog_encode_queue(&w, 5, 1, 0, slice_text("transient"), NONE));
    EVENT(f, catalog_encode_binding(&w, CATALOG_BINDING, 3, 4, slice_text(""), NONE));
    EVENT(f, catalog_encode_binding(&w, CATALOG_BINDING, 4, 5, slice_text("a.#"), NONE));
}

static size_t copy_by_snapshot(struct fixture *from, struct fixture *to)
{
    struct catalog_cursor cursor = {0};
    uint8_t bytes[4096];
    size_t size, count = 0;

    while ((size = catalog_snapshot_next(&from->catalog, &cursor, bytes, sizeof bytes)) > 0) {
        assert_int_equal(catalog_apply(&to->catalog, slice_of(bytes, size)), 0);
        count++;
    }
    catalog_snapshot_end(&cursor);
    return count;
}

static void events_and_snapshot(void **state)
{
    struct fixture a, b;
    struct loop *loop = loop_new_simulated(1);

    (void)state;
    setup(&a, loop);
    setup(&b, loop);
    fill(&a);
    assert_int_equal(a.catalog.next_id, 6);
    assert_int_equal(a.catalog.unknown_records, 0);
    struct vhost *vhost = catalog_vhost(&a.catalog, slice_text("/"));
    assert_int_equal(vhost->binding_count, 2);
    assert_int_equal(vhost->headers_bindings, 1);
    assert_non_null(vhost->default_exchange);

    /* id, virtual host, user, permission, three exchanges, the one durable binding */
    assert_int_equal(copy_by_snapshot(&a, &b), 8);
    vhost = catalog_vhost(&b.catalog, slice_text("/"));
    assert_int_equal(b.catalog.next_id, 6); /* also of what is not durable */
    assert_int_equal(vhost->binding_count, 1);
    assert_null(vhost_queue(vhost, slice_text("transient")));
    const struct permission *p = catalog_permission(&b.catalog, slice_text("ann"), vhost);
    assert_true(pattern_matches(p->configure, slice_text("abc")));
    assert_false(pattern_matches(p->configure, slice_text("bc")));
    assert_false(pattern_matches(p->read, slice_text("abc")));

    /* twice is as once */
    assert_int_equal(copy_by_snapshot(&a, &b), 8);
    assert_int_equal(vhost->binding_count, 1);
    teardown(&a);
    teardown(&b);
    loop_free(loop);
}

static void drops(void **state)
{
    struct fixture f;
    struct loop *loop = loop_new_simulated(1);

    (void)state;
    setup(&f, loop);
    fill(&f);
    struct vhost *vhost = catalog_vhost(&f.catalog, slice_text("/"));
    EVENT(&f, catalog_encode_binding(&w, CATALOG_BINDING_DROP, 3, 4, slice_text(""), NONE));
    assert_int_equal(vhost->headers_bindings, 0);
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 5));
    assert_null(vhost_queue(vhost, slice_text("transient")));
    assert_int_equal(vhost->binding_count, 0);
    EVENT(&f, catalog_encode_drop(&w, CATALOG_EXCHANGE_DROP, 4));
    assert_null(vhost_exchange(vhost, slice_text("t")));
    /* what is not there is dropped, and its id is not used again */
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 77));
    assert_int_equal(f.catalog.next_id, 78);
    /* what speaks of what is not there is counted */
    EVENT(&f, catalog_encode_queue(&w, 80, 99, 0, slice_text("q"), NONE));
    EVENT(&f, catalog_encode_binding(&w, CATALOG_BINDING, 3, 99, slice_text(""), NONE));
    assert_int_equal(f.catalog.unknown_records, 2);
    teardown(&f);
    loop_free(loop);
}

static void nonsense(void **state)
{
    struct fixture f;
    struct loop *loop = loop_new_simulated(1);
    uint8_t bytes[64];

    (void)state;
    setup(&f, loop);
    fill(&f);
    struct writer w = writer_of(bytes, sizeof bytes);
    catalog_encode_exchange(&w, 9, 1, 0, EXCHANGE_TOPIC, slice_text("name"), NONE);
    for (size_t size = 0; size < writer_size(&w); size++)
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, size)), E_CORRUPT);
    bytes[0] = 200;
    assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
    teardown(&f);
    loop_free(loop);
}

static void alternates_find_each_other(void **state)
{
    struct fixture f;
    struct loop *loop = loop_new_simulated(1);
    uint8_t arguments[128];
    struct writer a = writer_of(arguments, sizeof arguments);

    (void)state;
    setup(&f, loop);
    fill(&f);
    fields_put_text(&a, "alternate-exchange", slice_text("later"));
    EVENT(&f, catalog_encode_exchange(&w, 10, 1, CATALOG_DURABLE, EXCHANGE_DIRECT,
                                      slice_text("first"), slice_of(arguments, writer_size(&a))));
    struct vhost *vhost = catalog_vhost(&f.catalog, slice_text("/"));
    assert_null(vhost_exchange(vhost, slice_text("first"))->alternate);
    EVENT(&f, catalog_encode_exchange(&w, 11, 1, CATALOG_DURABLE, EXCHANGE_DIRECT,
                                      slice_text("later"), NONE));
    assert_ptr_equal(vhost_exchange(vhost, slice_text("first"))->alternate,
                     vhost_exchange(vhost, slice_text("later")));
    EVENT(&f, catalog_encode_drop(&w, CATALOG_EXCHANGE_DROP, 11));
    assert_null(vhost_exchange(vhost, slice_text("first"))->alternate);
    teardown(&f);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_and_snapshot),
        cmocka_unit_test(drops),
        cmocka_unit_test(nonsense),
        cmocka_unit_test(alternates_find_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
