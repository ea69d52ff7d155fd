/*
 * Dead letters over the shards of one to three workers, in virtual time: each is in its queue or
 * where it goes, once, whenever everything crashes.
 */
#include "broker/move.h"
#include "broker/test_world.h"

#define MESSAGES_MAX 200u

/* ---- what there is to do ---- */

struct grave {
    const char *exchange, *key; /* key NULL: the message's own */
    int64_t length_max;         /* -1: any */
    int64_t lives_ms;           /* -1: for ever */
    bool durable;
};

static void declare_with(struct world *w, unsigned worker, const char *name,
                         const struct grave *grave)
{
    struct actor *a = open_actor(w, worker);
    uint8_t bytes[256];
    struct writer arguments = writer_of(bytes, sizeof bytes);

    fields_put_text(&arguments, "x-dead-letter-exchange", slice_text(grave->exchange));
    if (grave->key)
        fields_put_text(&arguments, "x-dead-letter-routing-key", slice_text(grave->key));
    if (grave->length_max >= 0)
        fields_put_integer(&arguments, "x-max-length", grave->length_max);
    if (grave->lives_ms >= 0)
        fields_put_integer(&arguments, "x-message-ttl", grave->lives_ms);
    struct queue_spec spec = {.name = slice_text(name),
                              .durable = grave->durable,
                              .arguments = slice_of(bytes, writer_size(&arguments))};
    DO(w, a, broker_declare_queue(a->client, &a->request, &spec));
}

static void exchange_with(struct world *w, unsigned worker, const char *name)
{
    struct actor *a = open_actor(w, worker);
    struct exchange_spec spec = {
        .name = slice_text(name), .type = slice_text("fanout"), .durable = true};

    DO(w, a, broker_declare_exchange(a->client, &a->request, &spec));
}

static void bind_to(struct world *w, unsigned worker, const char *queue, const char *exchange)
{
    struct actor *a = open_actor(w, worker);
    struct binding_spec spec = {.source = slice_text(exchange), .destination = slice_text(queue)};

    DO(w, a, broker_bind(a->client, &a->request, &spec));
}

static void publish_numbers(struct world *w, unsigned worker, const char *queue, unsigned first,
                            unsigned last)
{
    struct actor *a = open_actor(w, worker);
    struct publisher *publisher = publisher_open(a->client, NULL);
    char body[16];

    a->confirmed = 0;
    for (unsigned number = first; number <= last; number++) {
        snprintf(body, sizeof body, "%u", number);
        struct message *message = message_for(a, queue, body, true);
        message->published_at_ms = loop_wall_ms(w->loops[worker]);
        struct publish publish = {.message = message, .publisher = publisher};
        assert_int_equal(broker_publish(a->client, &publish), 0);
        message_unref(message);
    }
    RUN_UNTIL(w, a->confirmed == last - first + 1);
    assert_int_equal(a->refused, 0);
    publisher_close(publisher);
}

static void pass_ms(struct world *w, uint64_t ms)
{
    simulated_run_for(w->loops[0], ms * NANOSECONDS_PER_MS);
}

/* Takes out all that is in a queue: how often each number was there. */
static unsigned drain(struct world *w, unsigned worker, const char *queue,
                      unsigned counts[MESSAGES_MAX])
{
    struct actor *a = open_actor(w, worker);
    struct lease lease;
    char body[16];
    unsigned all = 0;

    for (; get(w, a, queue, &lease, body); all++) {
        unsigned long number = strtoul(body, NULL, 10);
        assert_true(number < MESSAGES_MAX);
        counts[number]++;
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
    }
    return all;
}

/* These numbers, each once, in any order. */
static void expect_numbers(struct world *w, unsigned worker, const char *queue, unsigned first,
                           unsigned last)
{
    unsigned counts[MESSAGES_MAX] = {0};

    assert_int_equal(drain(w, worker, queue, counts), last + 1 - first);
    for (unsigned number = first; number <= last; number++)
        assert_int_equal(counts[number], 1);
}

static void expect_empty(struct world *w, unsigned worker, const char *queue)
{
    unsigned counts[MESSAGES_MAX] = {0};

    assert_int_equal(drain(w, worker, queue, counts), 0);
}

static void reject_one(struct world *w, unsigned worker, const char *queue)
{
    struct actor *a = open_actor(w, worker);
    struct lease lease;
    char body[16];

    assert_true(get(w, a, queue, &lease, body));
    broker_settle(a->client, &lease, 1, OUTCOME_REJECT);
}

static void end(struct world *w)
{
    world_stop(w);
    world_fini(w);
}

/* ---- tests ---- */

static void to_queues_of_all_workers(void **state)
{
    static const char *const graves[] = {"a", "b", "c"};
    struct world w;

    (void)state;
    for (unsigned workers = 1; workers <= 3; workers++) {
        world_init(&w, workers, 3, 10 + workers);
        world_start(&w);
        exchange_with(&w, 0, "x");
        for (unsigned i = 0; i < 3; i++) {
            declare(&w, i % workers, graves[i], true);
            bind_to(&w, 0, graves[i], "x");
        }
        declare_with(&w, workers - 1, "q", &(struct grave){"x", NULL, 5, -1, true});
        publish_numbers(&w, 0, "q", 1, 100);
        pass_ms(&w, 500);
        for (unsigned i = 0; i < 3; i++)
            expect_numbers(&w, i % workers, graves[i], 1, 95);
        expect_numbers(&w, 0, "q", 96, 100);
        world_end(&w);
    }
}

static void nobody_wants_them(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 20);
    world_start(&w);
    exchange_with(&w, 0, "leads nowhere");
    declare_with(&w, 0, "a", &(struct grave){"missing", NULL, 1, -1, true});
    declare_with(&w, 1, "b", &(struct grave){"leads nowhere", NULL, 1, -1, true});
    for (unsigned i = 0; i < 2; i++) {
        const char *queue = i == 0 ? "a" : "b";
        publish_numbers(&w, 0, queue, 1, 10);
        pass_ms(&w, 200);
        reject_one(&w, 1, queue);
        pass_ms(&w, 200);
        expect_empty(&w, 0, queue);
        publish_numbers(&w, 0, queue, 11, 11);
        expect_numbers(&w, 0, queue, 11, 11);
    }
    world_end(&w);
}

/* Two queues that give each other what has expired: it comes back once, and that is the end. */
static void a_circle(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 30);
    world_start(&w);
    declare_with(&w, 0, "a", &(struct grave){"", "b", -1, 100, true});
    declare_with(&w, 1, "b", &(struct grave){"", "a", -1, 100, true});
    publish_numbers(&w, 0, "a", 1, 10);
    pass_ms(&w, 150);
    unsigned counts[MESSAGES_MAX] = {0};
    assert_int_equal(drain(&w, 1, "b", counts), 10);
    publish_numbers(&w, 0, "a", 11, 20);
    pass_ms(&w, 1000);
    expect_empty(&w, 0, "a");
    expect_empty(&w, 0, "b");

    /* one that somebody rejects may go round as often as it likes */
    declare_with(&w, 0, "c", &(struct grave){"", "c", -1, -1, true});
    publish_numbers(&w, 0, "c", 1, 1);
    for (unsigned turn = 0; turn < 5; turn++) {
        reject_one(&w, 1, "c");
        pass_ms(&w, 100);
    }
    expect_numbers(&w, 0, "c", 1, 1);
    world_end(&w);
}

/* Where the dead would go there is no room: they stay, and go when there is. */
static void a_full_disk(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 40);
    world_start(&w);
    declare(&w, 1, "grave", true);
    declare_with(&w, 0, "q", &(struct grave){"", "grave", -1, 1000, true});
    publish_numbers(&w, 0, "q", 1, 50);
    simulated_disk_faults(w.disks[1])->capacity = 1 + simulated_disk_used(w.disks[1]);
    pass_ms(&w, 5000);
    expect_empty(&w, 1, "grave");
    simulated_disk_faults(w.disks[1])->capacity = 0;
    pass_ms(&w, 5000);
    expect_numbers(&w, 1, "grave", 1, 50);
    expect_empty(&w, 0, "q");
    end(&w);
}

/* One of the two goes while the dead are on their way. */
static void deleted_meanwhile(void **state)
{
    struct world w;

    (void)state;
    for (unsigned turns = 0; turns < 40; turns++) {
        world_init(&w, 2, 2, 100 + turns);
        world_start(&w);
        declare(&w, 1, "grave", true);
        declare_with(&w, 0, "q", &(struct grave){"", "grave", 0, -1, true});
        struct actor *a = open_actor(&w, 1);
        publish_numbers(&w, 0, "q", 1, 30);
        for (unsigned turn = 0; turn < turns; turn++)
            run(&w);
        const char *goes = turns % 2 ? "q" : "grave";
        DO(&w, a, broker_delete_queue(a->client, &a->request, slice_text(goes), false, false));
        pass_ms(&w, 3000);
        unsigned counts[MESSAGES_MAX] = {0};
        if (turns % 2)
            drain(&w, 1, "grave", counts);
        else
            expect_empty(&w, 0, "q");
        for (unsigned number = 0; number < MESSAGES_MAX; number++)
            assert_true(counts[number] <= 1);
        end(&w);
    }
}

/* Everything crashes after the first turn, after the second, and so on: each message is in its
 * queue or in both graves, whole, and nothing twice; in the end all are in the graves. */
static void crashes(void **state)
{
    static const char *const graves[] = {"a", "b"};
    struct world w;
    unsigned in_doubt = 0;

    (void)state;
    for (unsigned turns = 1; turns <= 120; turns++) {
        world_init(&w, 1 + turns % 3, 3, 1000 + turns);
        world_start(&w);
        exchange_with(&w, 0, "x");
        for (unsigned i = 0; i < 2; i++) {
            declare(&w, (i + 1) % w.workers, graves[i], true);
            bind_to(&w, 0, graves[i], "x");
        }
        declare_with(&w, 0, "q", &(struct grave){"x", NULL, -1, 500, true});
        publish_numbers(&w, 0, "q", 1, 20);
        pass_ms(&w, 495);
        for (unsigned turn = 0; turn < 8 * turns; turn++)
            run(&w);
        world_crash(&w);
        world_start(&w);
        in_doubt += w.in_doubt_now;
        pass_ms(&w, 2000);
        world_crash(&w); /* and what has come to rest stays so */
        world_start(&w);
        pass_ms(&w, 500);
        for (unsigned i = 0; i < 2; i++)
            expect_numbers(&w, 0, graves[i], 1, 20);
        expect_empty(&w, 0, "q");
        world_end(&w);
    }
    assert_true(in_doubt > 0); /* some crashes fell between the two */
}

/* What was rejected and has not been buried is ready again after a crash: one of both, not none. */
static void rejected_and_crashed(void **state)
{
    struct world w;
    unsigned back = 0, buried = 0;

    (void)state;
    for (unsigned turns = 0; turns < 60; turns++) {
        world_init(&w, 2, 2, 2000 + turns);
        world_start(&w);
        declare(&w, 1, "grave", true);
        declare_with(&w, 0, "q", &(struct grave){"", "grave", -1, -1, true});
        publish_numbers(&w, 0, "q", 1, 1);
        reject_one(&w, 0, "q");
        for (unsigned turn = 0; turn < 2 * turns; turn++)
            run(&w);
        world_crash(&w);
        world_start(&w);
        pass_ms(&w, 1500);
        unsigned counts[MESSAGES_MAX] = {0};
        back += drain(&w, 0, "q", counts);
        buried += drain(&w, 0, "grave", counts);
        assert_int_equal(counts[1], 1);
        end(&w);
    }
    assert_true(back > 0 && buried > 0);
}

/* The queue moves to another shard while its messages die. */
static void it_moves_meanwhile(void **state)
{
    struct world w;

    (void)state;
    for (unsigned turns = 0; turns < 30; turns++) {
        world_init(&w, 1 + turns % 2, 3, 3000 + turns);
        world_start(&w);
        declare(&w, 0, "grave", true);
        declare_with(&w, 0, "q", &(struct grave){"", "grave", -1, 300, true});
        struct actor *a = open_actor(&w, 0);
        publish_numbers(&w, 0, "q", 1, 40);
        pass_ms(&w, 299);
        for (unsigned turn = 0; turn < 4 * turns; turn++)
            run(&w);
        DO(&w, a, broker_move_queue(a->client, &a->request, slice_text("q"), 2 + turns % 2));
        pass_ms(&w, 2000);
        expect_numbers(&w, 0, "grave", 1, 40);
        expect_empty(&w, 0, "q");
        world_end(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(to_queues_of_all_workers),
        cmocka_unit_test(nobody_wants_them),
        cmocka_unit_test(a_circle),
        cmocka_unit_test(a_full_disk),
        cmocka_unit_test(deleted_meanwhile),
        cmocka_unit_test(crashes),
        cmocka_unit_test(rejected_and_crashed),
        cmocka_unit_test(it_moves_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
