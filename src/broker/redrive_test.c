/*
 * Redrives over the shards of one to three workers, in virtual time: whatever is moved is in its
 * old place or the new one, once, whenever everything crashes, moves, fills up or stops.
 */
#include "broker/move.h"
#include "broker/redrive.h"
#include "broker/test_world.h"

#include <inttypes.h>

#define NUMBERS_MAX 200u

/* ---- what there is to do ---- */

/* Arguments: NULL or {name, text, name, text, ...} with numbers as texts of digits. */
static void declare_with(struct world *w, unsigned worker, const char *name,
                         const char *const *arguments)
{
    struct actor *a = open_actor(w, worker);
    uint8_t bytes[256];
    struct writer writer = writer_of(bytes, sizeof bytes);

    for (; arguments && *arguments; arguments += 2) {
        if (arguments[1][0] >= '0' && arguments[1][0] <= '9')
            fields_put_integer(&writer, arguments[0], strtol(arguments[1], NULL, 10));
        else
            fields_put_text(&writer, arguments[0], slice_text(arguments[1]));
    }
    struct queue_spec spec = {.name = slice_text(name),
                              .durable = true,
                              .arguments = slice_of(bytes, writer_size(&writer))};
    DO(w, a, broker_declare_queue(a->client, &a->request, &spec));
}

static const char *const to_dead[] = {"x-dead-letter-exchange", "", "x-dead-letter-routing-key",
                                      "dead", NULL};

static void pass_ms(struct world *w, uint64_t ms)
{
    simulated_run_for(w->loops[0], ms * NANOSECONDS_PER_MS);
}

static void bind_to(struct world *w, const char *queue, const char *exchange, const char *key)
{
    struct actor *a = open_actor(w, 0);
    struct binding_spec spec = {
        .source = slice_text(exchange), .destination = slice_text(queue), .key = slice_text(key)};

    DO(w, a, broker_bind(a->client, &a->request, &spec));
}

static void publish_numbers(struct world *w, const char *exchange, const char *key, unsigned first,
                            unsigned last)
{
    struct actor *a = open_actor(w, 0);

    for (unsigned number = first; number <= last; number++) {
        char body[16];
        snprintf(body, sizeof body, "%u", number);
        struct message_parts parts = {
            .format = FORMAT_AMQP091,
            .flags = MESSAGE_PERSISTENT,
            .priority = (uint8_t)(number % 6),
            .exchange = slice_text(exchange),
            .key = slice_text(key),
            .properties = slice_of("\0\0", 2),
            .body = slice_text(body),
            .published_at_ms = loop_wall_ms(w->loops[0]),
        };
        struct message *message = message_new(broker_message_account(a->client), &parts);
        struct publish publish = {.message = message};
        DO(w, a, broker_transact(a->client, &a->request, &publish, 1, NULL, 0));
        assert_int_equal(publish.queues, 1);
        message_unref(message);
    }
}

static uint64_t ready_in(struct world *w, const char *queue)
{
    struct actor *a = open_actor(w, 0);
    struct queue_spec spec = {.name = slice_text(queue), .passive = true};

    DO(w, a, broker_declare_queue(a->client, &a->request, &spec));
    return a->request.result.queue.counts.ready;
}

static void reject_all(struct world *w, const char *queue)
{
    struct actor *a = open_actor(w, 0);
    struct lease lease;
    char body[16];

    while (get(w, a, queue, &lease, body))
        broker_settle(a->client, &lease, 1, OUTCOME_REJECT);
    pass_ms(w, 200);
}

/* Numbers 1 to `last` are dead letters of "work", which is on one worker, in "dead" on another. */
static void begin_with(struct world *w, unsigned workers, unsigned last, uint64_t seed)
{
    world_init(w, workers, workers, seed);
    world_start(w);
    declare_with(w, 0, "work", to_dead);
    declare_with(w, workers - 1, "dead", NULL);
    publish_numbers(w, "", "work", 1, last);
    reject_all(w, "work");
    assert_int_equal(ready_in(w, "dead"), last);
}

static struct redrive_spec spec_of(const char *queue)
{
    return (struct redrive_spec){.queue = slice_text(queue)};
}

static uint64_t start(struct world *w, struct actor *a, const struct redrive_spec *spec)
{
    DO(w, a, broker_redrive(a->client, &a->request, spec));
    assert_true(a->request.result.redrive > 0);
    return a->request.result.redrive;
}

/* Of that id; false: it is not known. */
static bool look(struct world *w, struct actor *a, uint64_t id, struct redrive_facts *facts)
{
    struct redrives *redrives = redrives_open(a->client);
    bool found = false;

    DO(w, a, redrives_ask(redrives, &a->request));
    for (size_t i = 0; i < redrives_count(redrives); i++) {
        if (redrives_at(redrives, i)->id == id) {
            *facts = *redrives_at(redrives, i);
            assert_false(found);
            found = true;
        }
    }
    redrives_close(redrives);
    return found;
}

static struct redrive_facts await(struct world *w, struct actor *a, uint64_t id)
{
    struct redrive_facts facts = {.state = REDRIVE_RUNS};

    for (unsigned i = 0; i < 2000 && facts.state == REDRIVE_RUNS; i++) {
        pass_ms(w, 5);
        assert_true(look(w, a, id, &facts));
        if (facts.state == REDRIVE_RUNS || facts.ended_ms == 0)
            facts.state = REDRIVE_RUNS;
    }
    assert_int_not_equal(facts.state, REDRIVE_RUNS);
    return facts;
}

/* Takes out all of a queue, in the order in which it stands there. */
static unsigned drain(struct world *w, const char *queue, unsigned numbers[NUMBERS_MAX])
{
    struct actor *a = open_actor(w, 0);
    struct lease lease;
    char body[16];
    unsigned count = 0;

    while (get(w, a, queue, &lease, body)) {
        numbers[count++] = (unsigned)strtoul(body, NULL, 10);
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
    }
    pass_ms(w, 50);
    return count;
}

static void expect_numbers(struct world *w, const char *queue, unsigned first, unsigned last)
{
    unsigned numbers[NUMBERS_MAX];

    assert_int_equal(drain(w, queue, numbers), last + 1 - first);
    for (unsigned i = 0; i <= last - first; i++)
        assert_int_equal(numbers[i], first + i);
}

/* Nothing is lost or doubled; whoever has moved most. */
static void expect_all_once(struct world *w, unsigned last)
{
    unsigned counts[NUMBERS_MAX] = {0}, numbers[NUMBERS_MAX];
    static const char *const queues[] = {"work", "dead"};

    for (unsigned q = 0; q < 2; q++) {
        unsigned count = drain(w, queues[q], numbers);
        for (unsigned i = 0; i < count; i++)
            counts[numbers[i]]++;
    }
    for (unsigned number = 1; number <= last; number++)
        assert_int_equal(counts[number], 1);
}

/* ---- tests ---- */

static void back_to_where_they_died(void **state)
{
    (void)state;
    for (unsigned workers = 1; workers <= 3; workers++) {
        for (unsigned from = 0; from < workers; from++) {
            struct world w;
            begin_with(&w, workers, 150, workers);
            struct redrive_spec spec = spec_of("dead");
            struct actor *a = open_actor(&w, from);
            struct redrive_facts facts = await(&w, a, start(&w, a, &spec));
            assert_int_equal(facts.state, REDRIVE_DONE);
            assert_int_equal(facts.total, 150);
            assert_int_equal(facts.looked, 150);
            assert_int_equal(facts.moved, 150);
            assert_int_equal(facts.target_count, 1);
            assert_string_equal(facts.targets[0].name, "work");
            assert_int_equal(facts.targets[0].moved, 150);
            assert_int_equal(facts.worker, workers - 1);
            assert_int_equal(ready_in(&w, "dead"), 0);
            expect_numbers(&w, "work", 1, 150);
            world_end(&w);
        }
    }
}

/* It looks as it did before it died, but for its history; and dies again as a second time. */
static void as_it_was_published(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");
    struct message_origin origin;
    struct field field;

    (void)state;
    world_init(&w, 2, 2, 7);
    world_start(&w);
    declare_with(&w, 0, "work", to_dead);
    declare_with(&w, 1, "dead", NULL);
    bind_to(&w, "work", "amq.topic", "#");
    publish_numbers(&w, "amq.topic", "some.key", 1, 1);
    struct actor *a = open_actor(&w, 0);
    for (unsigned times = 1; times <= 3; times++) {
        reject_all(&w, "work");
        assert_int_equal(await(&w, a, start(&w, a, &spec)).moved, 1);
        DO(&w, a, broker_get(a->client, &a->request, slice_text("work"), false));
        struct delivery delivery = a->request.result.get.delivery;
        const struct message *message = delivery.message;
        assert_non_null(message);
        assert_true(slice_is(message_exchange(message), "amq.topic"));
        assert_true(slice_is(message_key(message), "some.key"));
        assert_false(delivery.redelivered);
        assert_true(message_format(message)->origin(message, &origin));
        assert_true(slice_is(origin.queue, "work"));
        assert_true(message_format(message)->header(message, slice_text("x-death"), &field));
        struct reader reader = reader_of(field.value.bytes);
        int64_t count = 0;
        assert_true(fields_next_value(&reader, &field));
        assert_true(fields_integer(field.value.bytes, "count", &count));
        assert_int_equal(count, times);
        assert_false(fields_next_value(&reader, &field));
        message_unref(delivery.message);
        broker_settle(a->client, &delivery.lease, 1, OUTCOME_RETURN_UNSEEN);
        pass_ms(&w, 20);
    }
    world_end(&w);
}

static void a_preview_counts(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");

    (void)state;
    begin_with(&w, 2, 60, 11);
    declare_with(&w, 1, "gone", to_dead);
    publish_numbers(&w, "", "gone", 61, 70);
    reject_all(&w, "gone");
    publish_numbers(&w, "", "dead", 71, 75);
    struct actor *a = open_actor(&w, 0);
    DO(&w, a, broker_delete_queue(a->client, &a->request, slice_text("gone"), false, false));
    spec.is_preview = true;
    struct redrive_facts facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.state, REDRIVE_DONE);
    assert_int_equal(facts.looked, 75);
    assert_int_equal(facts.matched, 60);
    assert_int_equal(facts.skipped, 15); /* ten of a queue that is gone, five that never died */
    assert_int_equal(facts.moved, 0);
    assert_int_equal(facts.targets[0].matched, 60);
    assert_int_equal(ready_in(&w, "dead"), 75);
    spec.is_preview = false;
    facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.moved, 60);
    expect_numbers(&w, "dead", 61, 75);
    expect_numbers(&w, "work", 1, 60);
    world_end(&w);
}

static void to_another_place(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");

    (void)state;
    begin_with(&w, 3, 40, 13);
    declare_with(&w, 1, "other", NULL);
    declare_with(&w, 2, "third", NULL);
    bind_to(&w, "third", "amq.direct", "k");
    struct actor *a = open_actor(&w, 0);
    spec.to = REDRIVE_TO_QUEUE;
    spec.target = slice_text("other");
    spec.limit = 10;
    struct redrive_facts facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.moved, 10);
    assert_string_equal(facts.targets[0].name, "other");
    expect_numbers(&w, "other", 1, 10);
    spec.to = REDRIVE_TO_EXCHANGE;
    spec.target = slice_text("amq.direct");
    spec.key = slice_text("k");
    facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.moved, 10);
    expect_numbers(&w, "third", 11, 20);
    spec.key = slice_text("nobody's");
    spec.limit = 0;
    facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.moved, 0);
    assert_int_equal(facts.refused, 20);
    assert_string_equal(facts.problem, "no queue wants it");
    spec.to = REDRIVE_TO_EXCHANGE;
    spec.target = slice_text("");
    spec.key = slice_of(NULL, 0); /* with which they were published: the queue's name */
    facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.moved, 20);
    expect_numbers(&w, "work", 21, 40);
    world_end(&w);
}

static void what_is_refused_stays(void **state)
{
    static const char *const full[] = {"x-max-length", "5", "x-overflow", "reject-publish", NULL};
    struct redrive_spec spec = spec_of("dead");

    (void)state;
    for (unsigned workers = 1; workers <= 2; workers++) {
        struct world w;
        begin_with(&w, workers, 150, 17);
        declare_with(&w, 0, "full", full);
        struct actor *a = open_actor(&w, 0);
        spec.to = REDRIVE_TO_QUEUE;
        spec.target = slice_text("full");
        struct redrive_facts facts = await(&w, a, start(&w, a, &spec));
        assert_int_equal(facts.state, REDRIVE_DONE);
        /* what is prepared and not decided is not counted yet */
        assert_true(facts.moved >= 5 && facts.moved <= 5 + REDRIVE_IN_FLIGHT);
        assert_true(workers > 1 || facts.moved == 5);
        assert_int_equal(facts.moved + facts.refused, 150);
        assert_string_equal(facts.problem, "a queue is full, or has been deleted");
        assert_int_equal(ready_in(&w, "full"), facts.moved);
        assert_int_equal(ready_in(&w, "dead"), facts.refused);
        world_end(&w);
    }
}

static void filters(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");
    uint8_t bytes[64];
    struct writer conditions = writer_of(bytes, sizeof bytes);

    (void)state;
    begin_with(&w, 2, 20, 19);
    declare_with(&w, 0, "second", to_dead);
    publish_numbers(&w, "", "second", 21, 30);
    reject_all(&w, "second");
    struct actor *a = open_actor(&w, 0);
    fields_put_text(&conditions, "death.queue", slice_text("second"));
    spec.filter.conditions = slice_of(bytes, writer_size(&conditions));
    assert_int_equal(await(&w, a, start(&w, a, &spec)).moved, 10);
    expect_numbers(&w, "second", 21, 30);
    spec.filter.conditions = slice_of(NULL, 0);
    spec.filter.since_ms = loop_wall_ms(w.loops[0]) + 1;
    assert_int_equal(await(&w, a, start(&w, a, &spec)).matched, 0);
    world_end(&w);
}

/* 40 a second, in virtual time. */
static void at_a_rate(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");
    struct redrive_facts facts;

    (void)state;
    begin_with(&w, 2, 100, 23);
    spec.rate = 40;
    struct actor *a = open_actor(&w, 0);
    uint64_t id = start(&w, a, &spec);
    pass_ms(&w, 1000);
    assert_true(look(&w, a, id, &facts));
    assert_true(facts.moved >= 38 && facts.moved <= 46);
    facts = await(&w, a, id);
    uint64_t took_ms = facts.ended_ms - facts.started_ms;
    assert_true(took_ms >= 2300 && took_ms < 2700);
    assert_int_equal(facts.moved, 100);
    world_end(&w);
}

static void it_can_be_stopped(void **state)
{
    struct redrive_spec spec = spec_of("dead");
    struct redrive_facts facts;

    (void)state;
    for (unsigned from = 0; from < 2; from++) {
        struct world w;
        begin_with(&w, 2, 100, 29);
        spec.rate = 50;
        struct actor *a = open_actor(&w, from);
        uint64_t id = start(&w, a, &spec);
        pass_ms(&w, 500);
        assert_true(look(&w, a, id, &facts));
        DO(&w, a, broker_redrive_stop(a->client, &a->request, &facts));
        facts = await(&w, a, id);
        assert_int_equal(facts.state, REDRIVE_CANCELLED);
        assert_true(facts.moved > 10 && facts.moved < 50);
        assert_int_equal(ready_in(&w, "work"), facts.moved);
        assert_int_equal(ready_in(&w, "dead"), 100 - facts.moved);
        DO(&w, a, broker_redrive_stop(a->client, &a->request, &facts)); /* forgotten */
        assert_false(look(&w, a, id, &facts));
        complete(&w, a, broker_redrive_stop(a->client, &a->request, &facts));
        assert_int_equal(a->request.failure.code, E_NOT_FOUND);
        world_end(&w);
    }
}

static int code_of(struct world *w, struct actor *a, const struct redrive_spec *spec)
{
    complete(w, a, broker_redrive(a->client, &a->request, spec));
    return a->request.failure.code;
}

static void limits_and_refusals(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");

    (void)state;
    begin_with(&w, 2, 100, 31);
    struct actor *a = open_actor(&w, 0);
    struct redrive_spec other = spec_of("none");
    assert_int_equal(code_of(&w, a, &other), E_NOT_FOUND);
    other = spec_of("dead");
    other.to = REDRIVE_TO_QUEUE;
    other.target = slice_text("none");
    assert_int_equal(code_of(&w, a, &other), E_NOT_FOUND);
    other.target = slice_text("dead");
    assert_int_equal(code_of(&w, a, &other), E_INVALID);
    other.to = REDRIVE_TO_EXCHANGE;
    assert_int_equal(code_of(&w, a, &other), E_NOT_FOUND);
    other = spec_of("dead");
    other.filter.conditions = slice_text("x");
    assert_int_equal(code_of(&w, a, &other), E_INVALID);
    spec.rate = 1;
    for (unsigned i = 0; i < REDRIVES_MAX; i++)
        start(&w, a, &spec);
    assert_int_equal(code_of(&w, a, &spec), E_LIMIT);
    struct redrives *redrives = redrives_open(a->client);
    DO(&w, a, redrives_ask(redrives, &a->request));
    assert_int_equal(redrives_count(redrives), REDRIVES_MAX);
    redrives_close(redrives);
    pass_ms(&w, 20000);
    expect_all_once(&w, 100);
    spec.rate = 0;
    spec.is_preview = true;
    for (unsigned i = 0; i < REDRIVES_KEPT + 5; i++)
        await(&w, a, start(&w, a, &spec));
    redrives = redrives_open(a->client);
    DO(&w, a, redrives_ask(redrives, &a->request));
    assert_int_equal(redrives_count(redrives), REDRIVES_KEPT);
    redrives_close(redrives);
    world_end(&w);
}

/* After each turn of it, with a queue in each shard, or both in one. */
static void crashes(unsigned workers, unsigned step)
{
    bool is_over = false;

    for (unsigned turns = 1; !is_over; turns += step) {
        struct world w;
        struct redrive_spec spec = spec_of("dead");
        struct redrive_facts facts;
        begin_with(&w, workers, 30, 100 + turns);
        struct actor *a = open_actor(&w, 0);
        uint64_t id = start(&w, a, &spec);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        is_over = look(&w, a, id, &facts) && facts.state == REDRIVE_DONE && facts.ended_ms;
        world_crash(&w);
        world_start(&w);
        pass_ms(&w, 500);
        expect_all_once(&w, 30);
        world_stop(&w);
        world_fini(&w);
        assert_true(turns < 5000);
    }
}

static void whenever_it_crashes(void **state)
{
    (void)state;
    crashes(1, 1);
    crashes(2, 3);
    crashes(3, 7);
}

/* The source, or the target, goes from shard to shard meanwhile. */
static void while_queues_move(void **state)
{
    static const char *const queues[] = {"dead", "work"};
    unsigned done = 0, failed = 0;

    (void)state;
    for (unsigned turns = 0; turns < 40; turns++) {
        struct world w;
        struct redrive_spec spec = spec_of("dead");
        begin_with(&w, 2, 60, 200 + turns);
        spec.rate = turns % 4 < 2 ? 0 : 300;
        struct actor *a = open_actor(&w, 0), *mover = open_another(&w, 0);
        uint64_t id = start(&w, a, &spec);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        complete(&w, mover,
                 broker_move_queue(mover->client, &mover->request, slice_text(queues[turns % 2]),
                                   1 + turns % 2));
        struct redrive_facts facts = await(&w, a, id);
        done += facts.state == REDRIVE_DONE;
        failed += facts.state == REDRIVE_FAILED;
        assert_int_equal(facts.refused, 0);
        assert_true(facts.state == REDRIVE_FAILED || facts.moved == 60);
        expect_all_once(&w, 60);
        world_end(&w);
    }
    assert_true(done > 10 && failed > 0);
}

static void while_queues_are_deleted(void **state)
{
    (void)state;
    for (unsigned turns = 0; turns < 40; turns++) {
        struct world w;
        struct redrive_spec spec = spec_of("dead");
        bool is_source = turns % 2;
        begin_with(&w, 2, 60, 300 + turns);
        struct actor *a = open_actor(&w, 0), *other = open_another(&w, 1);
        uint64_t id = start(&w, a, &spec);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        DO(&w, other,
           broker_delete_queue(other->client, &other->request,
                               slice_text(is_source ? "dead" : "work"), false, false));
        struct redrive_facts facts = await(&w, a, id);
        if (is_source) {
            assert_int_equal(ready_in(&w, "work"), facts.moved);
        } else {
            assert_int_equal(facts.state, REDRIVE_DONE);
            assert_int_equal(facts.moved + facts.refused + facts.skipped, 60);
            assert_int_equal(ready_in(&w, "dead"), 60 - facts.moved);
        }
        world_end(&w);
    }
}

/* They end; and nothing of it is there afterwards. */
static void while_the_broker_stops(void **state)
{
    (void)state;
    for (unsigned turns = 0; turns < 30; turns++) {
        struct world w;
        struct redrive_spec spec = spec_of("dead");
        struct redrive_facts facts;
        begin_with(&w, 2, 60, 400 + turns);
        struct actor *a = open_actor(&w, 0);
        if (turns % 3 == 0)
            spec.rate = 30;
        uint64_t id = start(&w, a, &spec);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        world_stop(&w);
        world_start(&w);
        assert_false(look(&w, open_actor(&w, 0), id, &facts));
        expect_all_once(&w, 60);
        world_end(&w);
    }
}

/* All of them, level by level; and none that comes meanwhile. */
static void levels_of_priority(void **state)
{
    static const char *const levels[] = {"x-max-priority", "5", NULL};
    struct world w;
    struct redrive_spec spec = spec_of("dead");
    unsigned counts[NUMBERS_MAX] = {0}, numbers[NUMBERS_MAX];

    (void)state;
    world_init(&w, 2, 2, 41);
    world_start(&w);
    declare_with(&w, 0, "work", to_dead);
    declare_with(&w, 1, "dead", levels);
    publish_numbers(&w, "", "work", 1, 40);
    reject_all(&w, "work");
    struct actor *a = open_actor(&w, 0);
    spec.rate = 100;
    uint64_t id = start(&w, a, &spec);
    pass_ms(&w, 50);
    publish_numbers(&w, "", "dead", 41, 60);
    struct redrive_facts facts = await(&w, a, id);
    assert_int_equal(facts.moved, 40);
    assert_int_equal(facts.looked, 40);
    assert_int_equal(drain(&w, "work", numbers), 40);
    for (unsigned i = 0; i < 40; i++)
        counts[numbers[i]]++;
    for (unsigned number = 1; number <= 40; number++)
        assert_int_equal(counts[number], 1);
    assert_int_equal(ready_in(&w, "dead"), 20);
    world_end(&w);
}

/* Messages that are in the log alone. */
static void cold_ones(void **state)
{
    struct world w;
    struct redrive_spec spec = spec_of("dead");

    (void)state;
    begin_with(&w, 2, 150, 37);
    world_stop(&w);
    world_start(&w);
    struct actor *a = open_actor(&w, 0);
    struct redrive_facts facts = await(&w, a, start(&w, a, &spec));
    assert_int_equal(facts.moved, 150);
    expect_numbers(&w, "work", 1, 150);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(back_to_where_they_died),
        cmocka_unit_test(as_it_was_published),
        cmocka_unit_test(a_preview_counts),
        cmocka_unit_test(to_another_place),
        cmocka_unit_test(what_is_refused_stays),
        cmocka_unit_test(filters),
        cmocka_unit_test(at_a_rate),
        cmocka_unit_test(it_can_be_stopped),
        cmocka_unit_test(limits_and_refusals),
        cmocka_unit_test(cold_ones),
        cmocka_unit_test(while_queues_move),
        cmocka_unit_test(while_queues_are_deleted),
        cmocka_unit_test(while_the_broker_stops),
        cmocka_unit_test(whenever_it_crashes),
        cmocka_unit_test(levels_of_priority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
