/* Levels of priority: what queue_test.c's model does not come by, or not for sure. */
#include "queue/test_log.h"

#include "base/memory.h"
#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define NONE (-1) /* as a priority */

struct bench {
    struct loop *loop;
    struct account account;
    struct log log;
    struct queue_host host;
    struct queue queue;
    uint64_t position;
};

static const struct queue_levels nine = {.max = 9};
static const struct queue_levels quorum = {.max = 31, .absent = 4, .returned_first = true};

static const struct test_log_hooks no_hooks;

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

static void died(void *context, struct queue *queue)
{
    (void)context;
    (void)queue;
}

static const struct queue_events events = {.deliver = deliver, .get = get, .died = died};

static void queue_begin(struct bench *b, const struct queue_levels *levels, bool durable)
{
    queue_init(&b->queue, &b->host, TEST_LOG_QUEUE, durable ? &b->log : NULL);
    queue_set_levels(&b->queue, levels);
}

static void queue_end(struct bench *b)
{
    queue_check(&b->queue);
    queue_abandon(&b->queue);
    queue_fini(&b->queue);
}

static struct bench *bench_new(const struct queue_levels *levels, bool durable)
{
    struct bench *b = memory_new(sizeof *b);

    b->loop = loop_new_simulated(1);
    account_init(&b->account, NULL, 0);
    test_log_init(&b->log, &no_hooks);
    b->host = (struct queue_host){.loop = b->loop,
                                  .log = &b->log,
                                  .events = &events,
                                  .memory = &b->account,
                                  .hot_bytes_max = 1u << 30};
    queue_host_init(&b->host);
    queue_host_begin(&b->host);
    queue_begin(b, levels, durable);
    return b;
}

static void bench_free(struct bench *b)
{
    queue_end(b);
    assert_int_equal(b->account.used, 0);
    account_fini(&b->account);
    queue_host_fini(&b->host);
    loop_free(b->loop);
    free(b);
}

static struct message *message_of(struct bench *b, int priority, uint64_t lives_ms)
{
    uint64_t now_ms = loop_wall_ms(b->loop);
    struct message *message = message_new(
        &b->account, &(struct message_parts){.format = FORMAT_AMQP091,
                                             .flags = priority == NONE ? 0 : MESSAGE_HAS_PRIORITY,
                                             .priority = priority == NONE ? 0 : (uint8_t)priority,
                                             .key = slice_text("k"),
                                             .published_at_ms = now_ms,
                                             .expires_at_ms = lives_ms ? now_ms + lives_ms : 0});
    assert_non_null(message);
    return message;
}

static uint64_t push_mortal(struct bench *b, int priority, uint64_t lives_ms)
{
    struct message *message = message_of(b, priority, lives_ms);
    uint64_t sequence = queue_sequence(&b->queue, message);

    queue_push(&b->queue, message, b->queue.log ? ++b->position : 0);
    message_unref(message);
    assert_true(queue_has_come_to(&b->queue, sequence));
    assert_false(queue_has_come_to(&b->queue, sequence + 1));
    return sequence;
}

static uint64_t push(struct bench *b, int priority)
{
    return push_mortal(b, priority, 0);
}

/* The next; 0: there is none. */
static uint64_t take(struct bench *b)
{
    struct queue_item item;
    int result = queue_take(&b->queue, &item);

    if (result == E_AGAIN) { /* a mark has to become durable */
        queue_host_durable(&b->host, b->log.block);
        result = queue_take(&b->queue, &item);
    }
    if (result != 0) {
        assert_int_equal(result, E_NOT_FOUND);
        return 0;
    }
    message_unref(item.message);
    return item.sequence;
}

static void higher_ones_come_first(void **state)
{
    struct bench *b = bench_new(&nine, true);

    (void)state;
    uint64_t low = push(b, 1), none = push(b, NONE), zero = push(b, 0);
    uint64_t most = push(b, 9), more = push(b, 200), low_too = push(b, 1);
    assert_int_equal(take(b), most);
    assert_int_equal(take(b), more); /* no higher than the highest */
    assert_int_equal(take(b), low);
    uint64_t middle = push(b, 5);
    assert_int_equal(take(b), middle);
    assert_int_equal(take(b), low_too);
    assert_int_equal(take(b), none);
    assert_int_equal(take(b), zero);
    assert_int_equal(take(b), 0);
    bench_free(b);
}

static void no_priority_is_not_0(void **state)
{
    struct bench *b = bench_new(&quorum, false);

    (void)state;
    uint64_t zero = push(b, 0), three = push(b, 3), none = push(b, NONE), four = push(b, 4);
    uint64_t five = push(b, 5), most = push(b, 255), top = push(b, 31);
    assert_int_equal(none, 1);
    assert_int_equal(four, 2); /* the same level */
    assert_int_equal(take(b), most);
    assert_int_equal(take(b), top);
    assert_int_equal(take(b), five);
    assert_int_equal(take(b), none);
    assert_int_equal(take(b), four);
    assert_int_equal(take(b), three);
    assert_int_equal(take(b), zero);
    bench_free(b);
}

/* As in RabbitMQ's classic queues: to their places; or, in its quorum queues, before all else. */
static void what_comes_back(void **state)
{
    struct bench *b = bench_new(&nine, false);

    (void)state;
    uint64_t a = push(b, 1), c = push(b, 1), d = push(b, 2);
    assert_int_equal(take(b), d);
    assert_int_equal(take(b), a);
    queue_return(&b->queue, a, true, false);
    queue_return(&b->queue, d, true, false);
    uint64_t high = push(b, 3);
    assert_int_equal(take(b), high);
    assert_int_equal(take(b), d);
    assert_int_equal(take(b), a);
    assert_int_equal(take(b), c);
    bench_free(b);

    b = bench_new(&quorum, false);
    a = push(b, 1), c = push(b, 1), d = push(b, 2);
    assert_int_equal(take(b), d);
    assert_int_equal(take(b), a);
    queue_return(&b->queue, a, true, false);
    queue_return(&b->queue, d, true, false);
    high = push(b, 3);
    assert_int_equal(take(b), a);
    queue_return(&b->queue, a, true, false); /* behind the other now */
    assert_int_equal(take(b), d);
    assert_int_equal(take(b), a);
    assert_int_equal(take(b), high);
    assert_int_equal(take(b), c);
    queue_return(&b->queue, c, true, false);
    queue_return(&b->queue, high, true, false);
    assert_true(queue_hold(&b->queue, c)); /* somebody has it, for a while: it keeps its place */
    queue_return(&b->queue, c, false, false);
    assert_int_equal(take(b), c);
    queue_settle(&b->queue, c, SETTLE_ACCEPTED);
    assert_true(queue_hold(&b->queue, high)); /* for good */
    queue_settle(&b->queue, high, SETTLE_EXPIRED);
    assert_int_equal(take(b), 0);
    bench_free(b);
}

static void what_is_not_used_costs_nothing(void **state)
{
    struct bench *b = bench_new(&quorum, false);

    (void)state;
    for (unsigned i = 0; i < 1000; i++)
        push(b, i % 2 ? NONE : 4);
    assert_null(b->queue.lanes);
    assert_null(b->queue.returns);
    bench_free(b);
}

/* However many wait below, and however far apart the messages of a level were pushed. */
static void a_backlog_is_no_obstacle(void **state)
{
    struct bench *b = bench_new(&nine, false);

    (void)state;
    for (unsigned i = 0; i < 100000; i++)
        push(b, i % 1000 == 0 ? 2 : 1);
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t high = push(b, 9);
        assert_int_equal(take(b), high);
        queue_settle(&b->queue, high, SETTLE_ACCEPTED);
    }
    uint64_t second = take(b);
    assert_int_equal(second >> QUEUE_LANE_SHIFT, 2);
    for (unsigned i = 1; i < 100; i++)
        assert_int_equal(take(b), second + i);
    assert_int_equal(take(b) >> QUEUE_LANE_SHIFT, 1);
    bench_free(b);
}

static void a_purge_is_for_what_is_there(void **state)
{
    struct bench *b = bench_new(&nine, false);
    struct queue_purge_job job;

    (void)state;
    for (int i = 0; i < 200; i++)
        push(b, i % 4);
    uint64_t held = take(b);
    queue_purge_begin(&job, &b->queue);
    uint64_t old_lane = push(b, 2), new_lane = push(b, 7);
    while (!queue_purge(&job, &b->queue, SETTLE_PURGED))
        queue_check(&b->queue);
    assert_int_equal(job.removed, 199);
    queue_purge_fini(&job);
    assert_int_equal(b->queue.ready, 2);
    queue_return(&b->queue, held, true, false);
    assert_int_equal(take(b), new_lane);
    assert_int_equal(take(b), held);
    assert_int_equal(take(b), old_lane);
    bench_free(b);
}

/* RabbitMQ's classic queues: the head is that of the highest level, for limits and ages alike. */
static void the_head_is_the_highest(void **state)
{
    struct bench *b = bench_new(&nine, false);
    struct queue_rules rules = queue_no_rules();

    (void)state;
    rules.length_max = 2;
    queue_set_rules(&b->queue, &rules);
    uint64_t low = push(b, 1);
    push(b, 5);
    uint64_t middle = push(b, 3);
    simulated_run_for(b->loop, NANOSECONDS_PER_MS);
    assert_int_equal(b->queue.ready, 2);
    assert_int_equal(take(b), middle); /* 5 has gone */
    assert_int_equal(take(b), low);
    rules = queue_no_rules();
    queue_set_rules(&b->queue, &rules);
    low = push_mortal(b, 1, 10);
    uint64_t high = push_mortal(b, 8, 1000);
    simulated_run_for(b->loop, 100 * NANOSECONDS_PER_MS);
    assert_int_equal(b->queue.ready, 2); /* too old, but behind the other */
    assert_int_equal(take(b), high);
    simulated_run_for(b->loop, 100 * NANOSECONDS_PER_MS);
    assert_int_equal(b->queue.ready, 0);
    bench_free(b);
}

/* Under pressure, what is next stays in memory, and what stands behind does not. */
static void what_is_next_is_hot(void **state)
{
    struct bench *b = bench_new(&nine, true);
    struct queue_item item;

    (void)state;
    for (unsigned i = 0; i < 10; i++)
        push(b, 1);
    b->host.hot_bytes_max = 1;
    push(b, 0);
    uint64_t high = push(b, 9);
    assert_int_equal(take(b), high);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(take(b) >> QUEUE_LANE_SHIFT, 1);
    assert_true(list_empty(&b->log.reads));
    assert_int_equal(queue_take(&b->queue, &item), E_AGAIN);
    assert_false(list_empty(&b->log.reads));
    bench_free(b);
}

/* ---- on the way to another shard ---- */

static void walk_is_ready(struct queue_walk *walk)
{
    (void)walk;
    fail();
}

static void lanes_travel(void **state)
{
    struct bench *from = bench_new(&quorum, false), *to = bench_new(&quorum, false);
    struct queue_walk walk = {.queue = &from->queue, .ready = walk_is_ready};
    struct queue_standing standing;
    struct queue_traveller traveller;
    unsigned lanes = 0;

    (void)state;
    uint64_t first = push(from, 9), low = push(from, 0), none = push(from, NONE);
    uint64_t leased = take(from), second = push(from, 9), back = take(from);
    assert_int_equal(leased, first);
    assert_int_equal(back, second);
    queue_return(&from->queue, back, true, true);
    for (unsigned lane = 0; queue_standing(&from->queue, &lane, &standing); lane++, lanes++)
        queue_arrive_lane(&to->queue, &standing);
    assert_int_equal(lanes, 3);
    while (queue_walk_next(&walk, &traveller) == 1) {
        queue_arrive(&to->queue, &traveller, 0);
        message_unref(traveller.message);
    }
    queue_walk_fini(&walk);
    queue_check(&to->queue);
    assert_int_equal(to->queue.ready, 3);
    assert_int_equal(push(to, 9), second + 1);
    queue_return(&to->queue, leased, true, false);
    assert_int_equal(take(to), back);
    assert_int_equal(take(to), leased);
    assert_int_equal(take(to), second + 1);
    assert_int_equal(take(to), none);
    assert_int_equal(take(to), low);
    assert_int_equal(take(to), 0);
    bench_free(to); /* the messages are charged to the other's account */
    bench_free(from);
}

/* ---- states that nobody wrote, and one that somebody wrote before there were lanes ---- */

static int recover_numbers(struct queue *queue, const uint64_t *numbers, size_t count)
{
    uint8_t bytes[256];
    struct writer w = writer_of(bytes, sizeof bytes);

    for (size_t i = 0; i < count; i++)
        write_varint(&w, numbers[i]);
    return queue_recover_state(queue, slice_of(bytes, writer_size(&w)));
}

/* lanes, (gap), next, mark, ...; runs (gap, length - 1), counts (gap, count), dues */
static void broken_states_are_refused(void **state)
{
    static const uint64_t lane = 1ull << QUEUE_LANE_SHIFT;
    static const uint64_t broken[][12] = {
        {3, 0, 0, 0},                                 /* no lane */
        {3, 2, 5, 1, 0, 0, 1, 0, 0},                  /* no next in the second */
        {3, 2, 5, 1, 1023, 5, 1, 0, 0},               /* a lane that there cannot be */
        {3, 2, 5, 1, UINT64_MAX, 5, 1, 0, 0},         /* a gap that goes round */
        {3, 3, 5, 1, 0, 5, 1},                        /* fewer than there should be */
        {3, 2, 5, 1, 0, lane, 1, 0, 0},               /* beyond its end */
        {3, 2, 5, 1, 0, 5, 1, 1, lane, 1, 0},         /* place 0 of a lane */
        {3, 2, 5, 1, 0, 5, 1, 1, lane + 1, 4, 0},     /* beyond next */
        {3, 2, 5, 1, 0, 5, 1, 1, 2, lane - 1, 0},     /* from lane to lane */
        {3, 2, 5, 1, 0, 5, 1, 1, 2 * lane, 1, 0},     /* in a lane that is not there */
        {3, 2, 5, 1, 0, 5, 1, 0, 1, 2 * lane + 1, 1}, /* the same of a count */
        {3, 2, 5, 1, 0, 5, 1, 0, 1, lane + 5, 1},     /* a count beyond next */
    };
    static const size_t sizes[] = {5, 10, 10, 10, 7, 10, 12, 12, 12, 12, 12, 12};
    struct bench *b = bench_new(&nine, true);

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(recover_numbers(&b->queue, broken[i], sizes[i]), E_CORRUPT);
        assert_null(b->queue.lanes);
    }
    static const uint64_t good[] = {3, 2, 5, 1, 6, 5, 4, 2, 3, 0, 7 * lane - 2, 1, 1, 3, 9, 0};
    assert_int_equal(recover_numbers(&b->queue, good, 16), 0);
    assert_true(queue_recover_message(&b->queue, 3, 1, 10, 0, 0));
    assert_false(queue_recover_message(&b->queue, 4, 2, 10, 0, 0)); /* not promised */
    assert_false(queue_recover_message(&b->queue, 7 * lane + 1, 3, 10, 0, 0));
    assert_true(queue_recover_message(&b->queue, 7 * lane + 2, 4, 10, 0, 0));
    assert_true(
        queue_recover_message(&b->queue, 7 * lane + 5, 5, 10, 0, 0)); /* newer than the state */
    assert_true(
        queue_recover_message(&b->queue, 9 * lane + 1, 6, 10, 0, 0)); /* the same of a lane */
    assert_false(queue_recover_message(&b->queue, 9 * lane, 7, 10, 0, 0));
    assert_false(queue_recover_message(&b->queue, 1024 * lane + 1, 8, 10, 0, 0));
    queue_recover_settled(&b->queue, 1024 * lane + 1, UINT64_MAX);
    queue_recover_delivered(&b->queue, 1024 * lane + 1);
    queue_recover_settled(&b->queue, 9 * lane + 1, UINT64_MAX); /* to the end of the lane */
    assert_int_equal(queue_recover_end(&b->queue), 1);
    assert_int_equal(b->queue.ready, 3);
    bench_free(b);
}

static void a_state_without_lanes(void **state)
{
    struct bench *b = bench_new(&quorum, true);
    static const uint64_t old[] = {1, 5, 10001, 1, 2, 2, 0};

    (void)state;
    assert_int_equal(recover_numbers(&b->queue, old, 7), 0);
    for (uint64_t i = 2; i < 5; i++)
        assert_true(queue_recover_message(&b->queue, i, i, 1, 0, 0));
    assert_int_equal(queue_recover_end(&b->queue), 0);
    b->position = 5;
    uint64_t low = push(b, 3), high = push(b, 5);
    assert_int_equal(push(b, NONE), 5);
    assert_int_equal(take(b), high);
    for (uint64_t i = 2; i < 6; i++) { /* what is cold is read */
        assert_true(queue_hold(&b->queue, i));
        queue_settle(&b->queue, i, SETTLE_ACCEPTED);
    }
    assert_int_equal(take(b), low);
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(higher_ones_come_first),
        cmocka_unit_test(no_priority_is_not_0),
        cmocka_unit_test(what_comes_back),
        cmocka_unit_test(what_is_not_used_costs_nothing),
        cmocka_unit_test(a_backlog_is_no_obstacle),
        cmocka_unit_test(a_purge_is_for_what_is_there),
        cmocka_unit_test(the_head_is_the_highest),
        cmocka_unit_test(what_is_next_is_hot),
        cmocka_unit_test(lanes_travel),
        cmocka_unit_test(broken_states_are_refused),
        cmocka_unit_test(a_state_without_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
