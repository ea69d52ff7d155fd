/*
 * Pages of messages, from every worker of queues on every worker: in memory and in the log alone,
 * ready and leased, while they come and go, move, are deleted, and the process crashes.
 */
#include "broker/browse.h"
#include "broker/test_world.h"

#include <inttypes.h>

#define ALL 200u

static const char *const names[] = {"here", "there", "yonder"};

/* Number n, with the header n and its body. */
static void publish_one(struct world *w, struct actor *a, const char *queue, uint64_t n)
{
    uint8_t bytes[64];
    char body[16];
    struct writer writer = writer_of(bytes, sizeof bytes);

    write_be16(&writer, 1 << 13); /* headers alone */
    size_t mark = writer_size(&writer);
    write_be32(&writer, 0);
    fields_put_integer(&writer, "n", (int64_t)n);
    fields_put_integer(&writer, "half", (int64_t)(n / 2));
    store_be32(bytes + mark, (uint32_t)(writer_size(&writer) - mark - 4));
    snprintf(body, sizeof body, "%" PRIu64, n);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = n % 3 ? MESSAGE_PERSISTENT : 0,
        .key = slice_text(queue),
        .properties = slice_of(bytes, writer_size(&writer)),
        .body = slice_text(body),
        .published_at_ms = n,
    };
    struct message *message = message_new(broker_message_account(a->client), &parts);
    struct publish publish = {.message = message};
    (void)w;
    assert_int_equal(broker_publish(a->client, &publish), 0);
    message_unref(message);
}

static void publish_all(struct world *w, const char *queue, uint64_t first, uint64_t last)
{
    struct actor *a = open_actor(w, 0);

    for (uint64_t n = first; n <= last; n++) {
        publish_one(w, a, queue, n);
        if (n % 50 == 0)
            run(w);
    }
    DO(w, a, broker_transact(a->client, &a->request, NULL, 0, NULL, 0));
    for (unsigned i = 0; i < 100; i++)
        run(w);
}

static uint64_t number_of(const struct browsed *found)
{
    char text[16];
    struct slice body = message_body(found->message);

    snprintf(text, sizeof text, "%.*s", (int)body.size, (const char *)body.data);
    return strtoull(text, NULL, 10);
}

static struct browse_spec spec_of(const char *queue)
{
    return (struct browse_spec){
        .queue = slice_text(queue), .ready = true, .leased = true, .delayed = true};
}

static struct browsing *begin(struct actor *a, const struct browse_spec *spec)
{
    struct failure failure = {0};
    struct browsing *browsing = browsing_open(a->client, spec, &failure);

    assert_string_equal(failure.text, "");
    assert_non_null(browsing);
    return browsing;
}

/* All pages; the numbers of what is found. */
static size_t browse_all(struct world *w, struct actor *a, const struct browse_spec *spec,
                         uint32_t limit, uint64_t *numbers)
{
    struct browsing *browsing = begin(a, spec);
    uint64_t sequence = 0;
    size_t count = 0;

    while (!browsing_is_over(browsing)) {
        DO(w, a, browsing_next(browsing, &a->request, limit));
        assert_true(browsing_count(browsing) <= limit);
        for (size_t i = 0; i < browsing_count(browsing); i++) {
            const struct browsed *found = browsing_message(browsing, i);
            assert_true(found->sequence > sequence && found->sequence < browsing_cursor(browsing));
            sequence = found->sequence;
            numbers[count++] = number_of(found);
        }
    }
    assert_int_equal(browsing_unreadable(browsing), 0);
    browsing_close(browsing);
    return count;
}

static void expect_all(struct world *w, struct actor *a, const char *queue, uint64_t first,
                       uint64_t last)
{
    struct browse_spec spec = spec_of(queue);
    uint64_t numbers[ALL + 1];

    assert_int_equal(browse_all(w, a, &spec, 7, numbers), last - first + 1);
    for (uint64_t n = first; n <= last; n++)
        assert_int_equal(numbers[n - first], n);
}

static void from_everywhere(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 3, 3, 1);
    world_start(&w);
    for (unsigned i = 0; i < 3; i++) {
        declare(&w, i, names[i], true);
        publish_all(&w, names[i], 1, ALL);
    }
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned from = 0; from < 3; from++)
            expect_all(&w, open_actor(&w, from), names[i], 1, ALL);
    }
    world_end(&w);
}

/* Whoever takes them afterwards sees that nobody had them. */
static void nothing_is_touched(void **state)
{
    struct world w;
    struct lease lease;
    char body[16], wanted[16];

    (void)state;
    world_init(&w, 2, 2, 2);
    world_start(&w);
    declare(&w, 1, "there", true);
    publish_all(&w, "there", 1, ALL);
    struct actor *a = open_actor(&w, 0);
    expect_all(&w, a, "there", 1, ALL);
    for (unsigned n = 1; n <= ALL; n++) {
        assert_true(get(&w, a, "there", &lease, body));
        snprintf(wanted, sizeof wanted, "%u", n);
        assert_string_equal(body, wanted);
        assert_false(a->request.result.get.delivery.redelivered);
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
    }
    world_end(&w);
}

/* What is in the log alone is read, and not kept. */
static void cold_ones_stay_cold(void **state)
{
    struct world w;
    uint64_t numbers[ALL];

    (void)state;
    world_init(&w, 2, 2, 3);
    world_start(&w);
    declare(&w, 0, "here", true);
    declare(&w, 1, "there", true);
    publish_all(&w, "here", 1, ALL);
    publish_all(&w, "there", 1, ALL);
    world_stop(&w);
    world_start(&w);
    for (unsigned i = 0; i < 2; i++) {
        struct actor *a = open_actor(&w, 0);
        struct browse_spec spec = spec_of(names[i]);
        struct worker_report before[WORKERS_MAX], after[WORKERS_MAX];
        DO(&w, a, broker_report(a->client, &a->request, before));
        assert_int_equal(browse_all(&w, a, &spec, 50, numbers), ALL - ALL / 3);
        for (unsigned n = 0; n < ALL - ALL / 3; n++)
            assert_int_equal(numbers[n], n / 2 * 3 + n % 2 + 1);
        DO(&w, a, broker_report(a->client, &a->request, after));
        assert_true(after[i].log.bytes_read > before[i].log.bytes_read);
        for (unsigned worker = 0; worker < 2; worker++)
            assert_int_equal(after[worker].message_bytes, before[worker].message_bytes);
    }
    world_end(&w);
}

static void states_and_places(void **state)
{
    struct world w;
    struct lease leases[4];
    char body[16];
    uint64_t numbers[ALL];

    (void)state;
    world_init(&w, 2, 2, 4);
    world_start(&w);
    declare(&w, 1, "there", true);
    publish_all(&w, "there", 1, 20);
    struct actor *a = open_actor(&w, 0);
    for (unsigned i = 0; i < 4; i++)
        assert_true(get(&w, a, "there", &leases[i], body));
    broker_settle(a->client, &leases[1], 1, OUTCOME_ACCEPT);
    broker_settle(a->client, &leases[2], 1, OUTCOME_RETURN_COUNTED);
    for (unsigned i = 0; i < 50; i++)
        run(&w);
    struct browse_spec spec = spec_of("there");
    spec.ready = false;
    assert_int_equal(browse_all(&w, a, &spec, 64, numbers), 2);
    assert_true(numbers[0] == 1 && numbers[1] == 4);
    spec.ready = true;
    spec.leased = false;
    assert_int_equal(browse_all(&w, a, &spec, 64, numbers), 17);
    assert_true(numbers[0] == 3 && numbers[1] == 5);
    spec.from = 6;
    assert_int_equal(browse_all(&w, a, &spec, 64, numbers), 15);
    assert_int_equal(numbers[0], 6);
    spec.from = 1000;
    assert_int_equal(browse_all(&w, a, &spec, 64, numbers), 0);
    spec = spec_of("there");
    struct browsing *browsing = begin(a, &spec);
    DO(&w, a, browsing_next(browsing, &a->request, 64));
    assert_int_equal(browsing_count(browsing), 19);
    const struct browsed *first = browsing_message(browsing, 0);
    assert_true(first->is_leased && !first->redelivered && first->count == 0);
    const struct browsed *back = browsing_message(browsing, 1);
    assert_true(!back->is_leased && back->redelivered && back->count == 1);
    assert_int_equal(back->sequence, 3);
    DO(&w, a, browsing_next(browsing, &a->request, 64));
    assert_true(browsing_is_over(browsing) && browsing_count(browsing) == 0);
    browsing_close(browsing);
    broker_settle(a->client, &leases[0], 1, OUTCOME_ACCEPT);
    broker_settle(a->client, &leases[3], 1, OUTCOME_ACCEPT);
    world_end(&w);
}

static void filters(void **state)
{
    struct world w;
    uint64_t numbers[ALL];
    uint8_t bytes[64];
    struct writer conditions = writer_of(bytes, sizeof bytes);
    struct failure failure = {0};

    (void)state;
    world_init(&w, 2, 2, 5);
    world_start(&w);
    declare(&w, 1, "there", true);
    publish_all(&w, "there", 1, ALL);
    struct browse_spec spec = spec_of("there");
    fields_put_text(&conditions, "header.half", slice_text("21"));
    spec.filter.conditions = slice_of(bytes, writer_size(&conditions));
    for (unsigned from = 0; from < 2; from++) {
        assert_int_equal(browse_all(&w, open_actor(&w, from), &spec, 64, numbers), 2);
        assert_true(numbers[0] == 42 && numbers[1] == 43);
    }
    spec.filter.until_ms = 43;
    assert_int_equal(browse_all(&w, open_actor(&w, 0), &spec, 64, numbers), 1);
    spec.filter.since_ms = 43;
    assert_int_equal(browse_all(&w, open_actor(&w, 0), &spec, 64, numbers), 0);
    spec.filter = (struct message_filter){.conditions = slice_text("x")};
    assert_null(browsing_open(open_actor(&w, 0)->client, &spec, &failure));
    assert_int_equal(failure.code, E_INVALID);
    spec = spec_of("nowhere");
    assert_null(browsing_open(open_actor(&w, 0)->client, &spec, &failure));
    assert_int_equal(failure.code, E_NOT_FOUND);
    world_end(&w);
}

/* A page comes back however many messages a filter does not hit, and is not larger than a page,
 * however many it hits. */
static void pages_are_bounded(void **state)
{
    struct world w;
    static const uint8_t body[300000];
    struct browse_spec spec = spec_of("there");

    (void)state;
    world_init(&w, 2, 2, 6);
    world_start(&w);
    declare(&w, 1, "there", false);
    publish_all(&w, "there", 1, BROWSE_LOOK_MAX + 10);
    struct actor *a = open_actor(&w, 0);
    spec.filter.since_ms = BROWSE_LOOK_MAX + 5;
    struct browsing *browsing = begin(a, &spec);
    DO(&w, a, browsing_next(browsing, &a->request, 64));
    assert_true(browsing_count(browsing) == 0 && !browsing_is_over(browsing));
    assert_int_equal(browsing_cursor(browsing), BROWSE_LOOK_MAX + 1);
    DO(&w, a, browsing_next(browsing, &a->request, 64));
    assert_true(browsing_count(browsing) == 6 && browsing_is_over(browsing));
    browsing_close(browsing);

    for (unsigned i = 0; i < 10; i++) {
        struct message_parts parts = {.format = FORMAT_AMQP091,
                                      .key = slice_text("there"),
                                      .properties = slice_of("\0\0", 2),
                                      .body = slice_of(body, sizeof body),
                                      .published_at_ms = UINT32_MAX};
        struct message *message = message_new(broker_message_account(a->client), &parts);
        struct publish publish = {.message = message};
        assert_int_equal(broker_publish(a->client, &publish), 0);
        message_unref(message);
    }
    for (unsigned i = 0; i < 100; i++)
        run(&w);
    spec.filter.since_ms = UINT32_MAX;
    spec.from = BROWSE_LOOK_MAX;
    browsing = begin(a, &spec);
    DO(&w, a, browsing_next(browsing, &a->request, 64));
    assert_int_equal(browsing_count(browsing), 4); /* of 300,000 bytes: more than 1 MiB */
    browsing_close(browsing);
    world_end(&w);
}

static void delete_queue(struct world *w, struct actor *a, const char *name)
{
    DO(w, a, broker_delete_queue(a->client, &a->request, slice_text(name), false, false));
}

/* At each turn of a page. */
static void deleted_meanwhile(void **state)
{
    struct world w;
    unsigned found = 0, missing = 0;

    (void)state;
    world_init(&w, 2, 2, 7);
    world_start(&w);
    for (unsigned turns = 0; turns < 12; turns++) {
        struct browse_spec spec = spec_of("there");
        struct actor *a = open_actor(&w, turns % 2), *other = open_another(&w, 1);
        declare(&w, 1, "there", true);
        publish_all(&w, "there", 1, 100);
        struct browsing *browsing = begin(a, &spec);
        int outcome = browsing_next(browsing, &a->request, 20);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        delete_queue(&w, other, "there");
        complete(&w, a, outcome);
        if (a->request.failure.code == 0) {
            found++;
            assert_true(browsing_count(browsing) == 20 || browsing_count(browsing) == 0);
            complete(&w, a, browsing_next(browsing, &a->request, 20));
        }
        assert_int_equal(a->request.failure.code, E_NOT_FOUND);
        missing++;
        browsing_close(browsing);
    }
    assert_true(found > 0 && missing == 12);
    world_end(&w);
}

/* The queue goes from shard to shard while a walk is under way, which misses nothing. */
static void moved_meanwhile(void **state)
{
    struct world w;
    struct browse_spec spec = spec_of("here");

    (void)state;
    world_init(&w, 3, 3, 8);
    world_start(&w);
    declare(&w, 0, "here", true);
    publish_all(&w, "here", 1, ALL);
    for (unsigned turns = 0; turns < 30; turns++) {
        struct actor *a = open_actor(&w, turns % 3), *mover = open_another(&w, 0);
        struct browsing *browsing = begin(a, &spec);
        uint64_t n = 0;
        int moving = broker_move_queue(mover->client, &mover->request, slice_text("here"),
                                       1 + (turns + 1) % 3);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        while (!browsing_is_over(browsing)) {
            DO(&w, a, browsing_next(browsing, &a->request, 30));
            for (size_t i = 0; i < browsing_count(browsing); i++)
                assert_int_equal(number_of(browsing_message(browsing, i)), ++n);
        }
        assert_int_equal(n, ALL);
        browsing_close(browsing);
        DO(&w, mover, moving);
    }
    world_end(&w);
}

/* After the first turn of a page of what is in the log alone, the second, and so on. */
static void crash_meanwhile(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 9);
    world_start(&w);
    declare(&w, 0, "here", true);
    declare(&w, 1, "there", true);
    publish_all(&w, "here", 1, ALL);
    publish_all(&w, "there", 1, ALL);
    world_stop(&w);
    for (unsigned turns = 0; turns < 24; turns++) {
        world_start(&w);
        struct actor *a = open_actor(&w, 0);
        struct browse_spec spec = spec_of(names[turns % 2]);
        struct browsing *browsing = begin(a, &spec);
        (void)!browsing_next(browsing, &a->request, 64);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        browsing_close(browsing);
        world_crash(&w);
    }
    world_start(&w);
    world_end(&w);
}

/* What it asked for comes into nothing. */
static void client_goes_meanwhile(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 10);
    world_start(&w);
    declare(&w, 1, "there", true);
    publish_all(&w, "there", 1, ALL);
    for (unsigned turns = 0; turns < 12; turns++) {
        struct actor *a = open_another(&w, turns % 2);
        struct browse_spec spec = spec_of("there");
        struct browsing *browsing = begin(a, &spec);
        int outcome = browsing_next(browsing, &a->request, 64);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        client_close(a->client);
        RUN_UNTIL(&w, client_idle(a->client));
        (void)outcome;
        browsing_close(browsing);
        client_free(a->client);
        *a = (struct actor){0};
    }
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_everywhere),
        cmocka_unit_test(nothing_is_touched),
        cmocka_unit_test(cold_ones_stay_cold),
        cmocka_unit_test(states_and_places),
        cmocka_unit_test(filters),
        cmocka_unit_test(pages_are_bounded),
        cmocka_unit_test(deleted_meanwhile),
        cmocka_unit_test(moved_meanwhile),
        cmocka_unit_test(crash_meanwhile),
        cmocka_unit_test(client_goes_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
