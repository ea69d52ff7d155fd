/* The catalog's events: each applied, told again by a snapshot, and applied to an empty one. */
#include "broker/catalog.h"

#include "base/memory.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <stdlib.h>

struct fixture {
    struct catalog catalog;
    unsigned added, dropped, moved;
};

static void added(void *context, struct catalog_queue *queue)
{
    struct fixture *f = context;

    f->added++;
    assert_false(queue->dropped);
}

static void moved(void *context, struct catalog_queue *queue)
{
    struct fixture *f = context;

    (void)queue;
    f->moved++;
}

static void dropped(void *context, struct catalog_queue *queue)
{
    struct fixture *f = context;

    f->dropped++;
    assert_true(queue->dropped);
}

static void setup(struct fixture *f)
{
    *f = (struct fixture){0};
    catalog_init(&f->catalog, 1);
    f->catalog.queue_added = added;
    f->catalog.queue_dropped = dropped;
    f->catalog.queue_moved = moved;
    f->catalog.context = f;
}

static void teardown(struct fixture *f)
{
    catalog_fini(&f->catalog);
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

static void exchange(struct writer *w, uint64_t id, uint8_t flags, enum exchange_type type,
                     const char *name, struct slice arguments)
{
    catalog_encode_exchange(w, &(struct exchange_event){.id = id,
                                                        .vhost = 1,
                                                        .flags = flags,
                                                        .type = type,
                                                        .name = slice_text(name),
                                                        .arguments = arguments});
}

/* A virtual host, a user, two exchanges, two queues (one exclusive), bindings between all. */
static void fill(struct fixture *f)
{
    EVENT(f, catalog_encode_vhost(&w, 1, slice_text("/")));
    EVENT(f, catalog_encode_user(&w, slice_text("ann"), slice_text("$hash"),
                                 slice_text("monitoring")));
    EVENT(f, catalog_encode_permission(&w, slice_text("ann"), 1, slice_text("^a"), slice_text(".*"),
                                       slice_text("")));
    EVENT(f, exchange(&w, 2, CATALOG_DURABLE, EXCHANGE_DIRECT, "", NONE));
    EVENT(f, exchange(&w, 3, CATALOG_DURABLE, EXCHANGE_HEADERS, "h", NONE));
    EVENT(f, exchange(&w, 4, CATALOG_DURABLE | CATALOG_AUTO_DELETE, EXCHANGE_TOPIC, "t", NONE));
    EVENT(f, catalog_encode_queue(
                 &w, &(struct queue_event){
                         .id = 5, .vhost = 1, .shard = 2, .name = slice_text("transient")}));
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

    (void)state;
    setup(&a);
    setup(&b);
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
}

static void drops(void **state)
{
    struct fixture f;

    (void)state;
    setup(&f);
    fill(&f);
    struct vhost *vhost = catalog_vhost(&f.catalog, slice_text("/"));
    EVENT(&f, catalog_encode_binding(&w, CATALOG_BINDING_DROP, 3, 4, slice_text(""), NONE));
    assert_int_equal(vhost->headers_bindings, 0);
    struct catalog_queue *queue = vhost_queue(vhost, slice_text("transient"));
    assert_int_equal(queue->shard, 2);
    catalog_queue_ref(queue); /* a lease: it stays as memory */
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 5));
    assert_true(queue->dropped);
    catalog_queue_unref(queue);
    assert_null(vhost_queue(vhost, slice_text("transient")));
    assert_int_equal(f.dropped, 1);
    assert_int_equal(vhost->binding_count, 0);
    EVENT(&f, catalog_encode_drop(&w, CATALOG_EXCHANGE_DROP, 4));
    assert_null(vhost_exchange(vhost, slice_text("t")));
    /* what is not there is dropped, and its id is not used again */
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 77));
    assert_int_equal(f.catalog.next_id, 78);
    /* what speaks of what is not there is counted */
    EVENT(&f, catalog_encode_queue(
                  &w, &(struct queue_event){
                          .id = 80, .vhost = 99, .shard = 1, .name = slice_text("q")}));
    EVENT(&f, catalog_encode_binding(&w, CATALOG_BINDING, 3, 99, slice_text(""), NONE));
    assert_int_equal(f.catalog.unknown_records, 2);
    teardown(&f);
}

/* As a log tells them, and, with the broker's callbacks, as mail does. */
static void moves(void **state)
{
    struct fixture f;

    (void)state;
    setup(&f);
    fill(&f);
    struct vhost *vhost = catalog_vhost(&f.catalog, slice_text("/"));
    const struct catalog_queue *queue = vhost_queue(vhost, slice_text("transient"));
    EVENT(&f, catalog_encode_move(&w, CATALOG_QUEUE_MOVED, 5, 7));
    assert_int_equal(queue->shard, 7);
    assert_int_equal(f.moved, 1);
    EVENT(&f, catalog_encode_move(&w, CATALOG_QUEUE_MOVED, 5, 7)); /* a snapshot had it */
    assert_int_equal(f.moved, 1);
    EVENT(&f, catalog_encode_move(&w, CATALOG_QUEUE_MOVED, 99, 1));
    assert_int_equal(f.catalog.unknown_records, 1);

    uint8_t bytes[64];
    for (int kind = CATALOG_QUEUE_MOVING; kind <= CATALOG_QUEUE_STRANDED; kind++) {
        struct writer w = writer_of(bytes, sizeof bytes);
        bool is_moved = kind == CATALOG_QUEUE_MOVED;
        /* no shard; and what no log has */
        catalog_encode_move(&w, (enum catalog_event)kind, 5, is_moved ? 0 : 1);
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
        for (size_t size = 1; size < writer_size(&w); size++)
            assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, size)), E_CORRUPT);
        w = writer_of(bytes, sizeof bytes);
        catalog_encode_move(&w, (enum catalog_event)kind, 5, CATALOG_SHARDS_MAX + 1);
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
    }
    assert_int_equal(queue->shard, 7);
    teardown(&f);
}

static void nonsense(void **state)
{
    struct fixture f;
    uint8_t bytes[64];

    (void)state;
    setup(&f);
    fill(&f);
    struct writer w = writer_of(bytes, sizeof bytes);
    exchange(&w, 9, 0, EXCHANGE_TOPIC, "name", NONE);
    for (size_t size = 0; size < writer_size(&w); size++)
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, size)), E_CORRUPT);
    bytes[0] = 200;
    assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
    teardown(&f);
}

static void alternates_find_each_other(void **state)
{
    struct fixture f;
    uint8_t arguments[128];
    struct writer a = writer_of(arguments, sizeof arguments);

    (void)state;
    setup(&f);
    fill(&f);
    fields_put_text(&a, "alternate-exchange", slice_text("later"));
    EVENT(&f, exchange(&w, 10, CATALOG_DURABLE, EXCHANGE_DIRECT, "first",
                       slice_of(arguments, writer_size(&a))));
    struct vhost *vhost = catalog_vhost(&f.catalog, slice_text("/"));
    assert_null(vhost_exchange(vhost, slice_text("first"))->alternate);
    EVENT(&f, exchange(&w, 11, CATALOG_DURABLE, EXCHANGE_DIRECT, "later", NONE));
    assert_ptr_equal(vhost_exchange(vhost, slice_text("first"))->alternate,
                     vhost_exchange(vhost, slice_text("later")));
    EVENT(&f, catalog_encode_drop(&w, CATALOG_EXCHANGE_DROP, 11));
    assert_null(vhost_exchange(vhost, slice_text("first"))->alternate);
    teardown(&f);
}

static void policy(struct writer *w, uint64_t id, const char *name, int64_t priority,
                   const char *pattern, const char *alternate)
{
    uint8_t bytes[128];
    struct writer definition = writer_of(bytes, sizeof bytes);

    fields_put_text(&definition, "alternate-exchange", slice_text(alternate));
    catalog_encode_policy(
        w, &(struct policy_event){.id = id,
                                  .vhost = 1,
                                  .target = POLICY_ALL,
                                  .priority = priority,
                                  .name = slice_text(name),
                                  .pattern = slice_text(pattern),
                                  .definition = slice_of(bytes, writer_size(&definition))});
}

static const char *applies(const struct fixture *f, const char *exchange)
{
    const struct vhost *vhost = catalog_vhost(&f->catalog, slice_text("/"));
    const struct policy *policy = vhost_exchange(vhost, slice_text(exchange))->policy;

    return policy ? policy->name : "none";
}

static void refresh_all(struct fixture *f)
{
    struct map_cursor cursor = {0};

    for (struct catalog_exchange *e; (e = map_next(&f->catalog.exchanges_by_id, &cursor));)
        catalog_exchange_refresh(&f->catalog, e);
}

/* Who comes has what applies; who is there already, when it is looked at again. */
static void policies(void **state)
{
    struct fixture a, b;

    (void)state;
    setup(&a);
    setup(&b);
    fill(&a);
    EVENT(&a, policy(&w, 10, "p", 1, "^t", "h"));
    EVENT(&a, policy(&w, 11, "q", 2, "^u", "h"));
    EVENT(&a, exchange(&w, 12, CATALOG_DURABLE, EXCHANGE_TOPIC, "t2", NONE));
    struct vhost *vhost = catalog_vhost(&a.catalog, slice_text("/"));
    const struct catalog_exchange *t = vhost_exchange(vhost, slice_text("t"));
    assert_string_equal(applies(&a, "t2"), "p");
    assert_string_equal(applies(&a, "t"), "none");
    refresh_all(&a);
    assert_string_equal(applies(&a, "t"), "p");
    assert_string_equal(applies(&a, ""), "none");
    assert_ptr_equal(t->alternate, vhost_exchange(vhost, slice_text("h")));
    assert_int_equal(vhost->alternates, 2);

    /* the same name is the same policy, with what it is now */
    EVENT(&a, policy(&w, 11, "q", 2, "^t", "t2"));
    refresh_all(&a);
    assert_string_equal(applies(&a, "t"), "q");
    assert_ptr_equal(t->alternate, vhost_exchange(vhost, slice_text("t2")));
    assert_int_equal(vhost->policy_count[POLICY_OF_USERS], 2);
    copy_by_snapshot(&a, &b);
    assert_string_equal(applies(&b, "t"), "q");
    assert_string_equal(applies(&b, "t2"), "q");
    copy_by_snapshot(&a, &b);
    assert_int_equal(map_count(&b.catalog.policies_by_id), 2);

    EVENT(&a, catalog_encode_drop(&w, CATALOG_POLICY_DROP, 11));
    EVENT(&a, catalog_encode_drop(&w, CATALOG_POLICY_DROP, 10));
    assert_ptr_equal(t->alternate, vhost_exchange(vhost, slice_text("t2"))); /* not yet */
    refresh_all(&a);
    assert_null(t->alternate);
    assert_int_equal(vhost->alternates, 0);
    teardown(&a);
    teardown(&b);
}

static void policies_that_cannot_be(void **state)
{
    struct fixture f;
    uint8_t bytes[256];

    (void)state;
    setup(&f);
    fill(&f);
    EVENT(&f, policy(&w, 10, "p", 1, "^t", "h"));
    struct writer w = writer_of(bytes, sizeof bytes);
    policy(&w, 20, "x", 1, "^t", "h");
    for (size_t size = 0; size < writer_size(&w); size++)
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, size)), E_CORRUPT);
    w = writer_of(bytes, sizeof bytes);
    policy(&w, 20, "x", 1, "(", "h");
    assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
    for (uint64_t id = 3; id <= 10; id += 7) { /* an exchange's; another policy's */
        w = writer_of(bytes, sizeof bytes);
        policy(&w, id, "x", 1, "^t", "h");
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
    }
    w = writer_of(bytes, sizeof bytes);
    policy(&w, 20, "x", 1, "^t", "h");
    for (unsigned i = 3; i <= 4; i++) { /* of no kind; for nothing */
        uint8_t before = bytes[i];
        bytes[i] = 9;
        assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), E_CORRUPT);
        bytes[i] = before;
    }
    assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), 0);
    bytes[2] = 99; /* in no virtual host that is there */
    bytes[1] = 21;
    assert_int_equal(catalog_apply(&f.catalog, slice_of(bytes, writer_size(&w))), 0);
    assert_int_equal(f.catalog.unknown_records, 1);
    assert_int_equal(f.catalog.next_id, 22);
    teardown(&f);
}

static void put(struct fixture *f, uint64_t id)
{
    char name[16];

    snprintf(name, sizeof name, "w%u", (unsigned)id);
    EVENT(f, catalog_encode_queue(&w,
                                  &(struct queue_event){
                                      .id = id, .vhost = 1, .shard = 1, .name = slice_text(name)}));
}

static uint64_t next_id(struct fixture *f, struct catalog_walk *walk)
{
    const struct catalog_queue *queue = catalog_walk_next(&f->catalog, walk);
    return queue ? queue->id : 0;
}

/* While queues come and go. */
static void walks(void **state)
{
    struct catalog_walk one, two;
    struct fixture f;

    (void)state;
    setup(&f);
    EVENT(&f, catalog_encode_vhost(&w, 1, slice_text("/")));
    catalog_walk_begin(&f.catalog, &one);
    for (uint64_t id = 10; id < 20; id++)
        put(&f, id);
    assert_int_equal(next_id(&f, &one), 0); /* they came later */
    catalog_walk_end(&one);
    catalog_walk_begin(&f.catalog, &one);
    catalog_walk_begin(&f.catalog, &two);
    assert_int_equal(next_id(&f, &one), 10);
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 11)); /* where one stands */
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 10)); /* behind it, where two stands */
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 12));
    put(&f, 20);
    assert_int_equal(next_id(&f, &two), 13);
    for (uint64_t id = 13; id < 19; id++)
        assert_int_equal(next_id(&f, &one), id);
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 19)); /* the last that counts */
    assert_int_equal(next_id(&f, &one), 0);
    EVENT(&f, catalog_encode_drop(&w, CATALOG_QUEUE_DROP, 20));
    assert_int_equal(next_id(&f, &one), 0);
    put(&f, 21);
    assert_int_equal(next_id(&f, &one), 0);
    catalog_walk_end(&one);
    assert_int_equal(next_id(&f, &two), 14);
    catalog_walk_end(&two);
    catalog_walk_begin(&f.catalog, &one);
    for (uint64_t id = 13; id < 19; id++)
        assert_int_equal(next_id(&f, &one), id);
    assert_int_equal(next_id(&f, &one), 21);
    assert_int_equal(next_id(&f, &one), 0);
    catalog_walk_end(&one);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_and_snapshot),
        cmocka_unit_test(drops),
        cmocka_unit_test(moves),
        cmocka_unit_test(nonsense),
        cmocka_unit_test(walks),
        cmocka_unit_test(alternates_find_each_other),
        cmocka_unit_test(policies),
        cmocka_unit_test(policies_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
