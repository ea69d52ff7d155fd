/* Messages that wait: when they come, in which order, what they cost, and what else happens to them
 * meanwhile. queue_test has them in its model, with a log and restarts. */
#include "queue/queue_private.h"
#include "queue/test_log.h"

#include "base/memory.h"
#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define SEEN_MAX 100000u

struct bench {
    struct loop *loop;
    struct log log; /* keeps nothing, and cannot be read */
    struct account account;
    struct queue_host host;
    struct queue queue;
    struct consumer consumer;
    struct {
        uint64_t sequence, at_ms;
        bool redelivered;
        uint32_t count;
    } seen[SEEN_MAX];
    size_t seen_count;
};

static int deliver(void *context, struct consumer *consumer, const struct queue_item *item)
{
    struct bench *b = context;

    (void)consumer;
    assert_true(b->seen_count < SEEN_MAX);
    b->seen[b->seen_count].sequence = item->sequence;
    b->seen[b->seen_count].at_ms = loop_wall_ms(b->loop);
    b->seen[b->seen_count].redelivered = item->redelivered;
    b->seen[b->seen_count++].count = item->count;
    return 0;
}

static void get(void *context, struct queue *queue)
{
    (void)context;
    (void)queue;
}

static const struct queue_events events = {.deliver = deliver, .get = get};
static const struct test_log_hooks hooks;

static struct bench *bench_new(void)
{
    struct bench *b = memory_new(sizeof *b);

    b->loop = loop_new_simulated(1);
    test_log_init(&b->log, &hooks);
    account_init(&b->account, NULL, 0);
    b->host = (struct queue_host){.loop = b->loop,
                                  .log = &b->log,
                                  .events = &events,
                                  .context = b,
                                  .memory = &b->account,
                                  .hot_bytes_max = UINT64_MAX};
    queue_host_init(&b->host);
    queue_init(&b->queue, &b->host, TEST_LOG_QUEUE, NULL);
    queue_host_begin(&b->host);
    return b;
}

static void consume(struct bench *b)
{
    b->consumer = (struct consumer){
        .queue = &b->queue, .credit_messages = CONSUMER_UNLIMITED, .credit_bytes = INT64_MAX / 8};
    consumer_add(&b->consumer);
}

static void bench_free(struct bench *b)
{
    queue_check(&b->queue);
    queue_abandon(&b->queue);
    queue_fini(&b->queue);
    account_fini(&b->account);
    queue_host_fini(&b->host);
    loop_free(b->loop);
    free(b);
}

static void pass_ms(struct bench *b, uint64_t ms)
{
    simulated_run_for(b->loop, ms * NANOSECONDS_PER_MS);
}

/* Times from now on; 0: it does not wait, or lives for ever. */
static uint64_t push(struct bench *b, uint64_t wait_ms, uint64_t lives_ms)
{
    uint64_t now_ms = loop_wall_ms(b->loop);
    struct message *message = message_new(
        &b->account,
        &(struct message_parts){.format = FORMAT_AMQP091,
                                .key = slice_text("k"),
                                .body = slice_text("body"),
                                .published_at_ms = now_ms,
                                .not_before_ms = wait_ms ? now_ms + wait_ms : 0,
                                .expires_at_ms = lives_ms ? now_ms + wait_ms + lives_ms : 0});

    assert_non_null(message);
    queue_push(&b->queue, message, 0);
    message_unref(message);
    return b->queue.lane.next - 1;
}

/* All that was there when it began; how many that were. */
static uint64_t purge(struct bench *b, struct queue_purge_job *job)
{
    while (!queue_purge(job, &b->queue, SETTLE_PURGED))
        queue_check(&b->queue);
    queue_purge_fini(job);
    return job->removed;
}

static void expect_seen(const struct bench *b, size_t index, uint64_t sequence, uint64_t at_ms)
{
    assert_true(index < b->seen_count);
    assert_int_equal(b->seen[index].sequence, sequence);
    assert_in_range(b->seen[index].at_ms, at_ms, at_ms + 1);
}

/* ---- in time ---- */

static void each_comes_when_it_is_due(void **state)
{
    static const uint64_t wait_ms[] = {500, 20, 0, 1, 3000, 21, 20};
    static const uint64_t order[] = {3, 4, 2, 7, 6, 1, 5};
    struct bench *b = bench_new();
    uint64_t start_ms = loop_wall_ms(b->loop);

    (void)state;
    consume(b);
    for (size_t i = 0; i < 7; i++)
        push(b, wait_ms[i], 0);
    assert_int_equal(b->queue.delayed, 6);
    assert_int_equal(b->queue.ready, 1);
    assert_int_equal(b->queue.delayed_bytes, 6 * 4);
    pass_ms(b, 4000);
    assert_int_equal(b->seen_count, 7);
    for (size_t i = 0; i < 7; i++) {
        expect_seen(b, i, order[i], start_ms + wait_ms[order[i] - 1]);
        assert_false(b->seen[i].redelivered);
    }
    assert_int_equal(b->queue.redelivered, 0);
    bench_free(b);
}

/* Those that are ready at a time go out in the order in which they were published. */
static void the_due_stand_in_their_place(void **state)
{
    struct bench *b = bench_new();

    (void)state;
    push(b, 30, 0);
    push(b, 0, 0);
    push(b, 10, 0);
    push(b, 0, 0);
    pass_ms(b, 100);
    consume(b);
    pass_ms(b, 1);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(b->seen[i].sequence, i + 1);
    bench_free(b);
}

static void one_that_was_due_already_does_not_wait(void **state)
{
    struct bench *b = bench_new();
    uint64_t now_ms = loop_wall_ms(b->loop);
    struct message *message = message_new(
        &b->account, &(struct message_parts){.format = FORMAT_AMQP091, .not_before_ms = now_ms});

    (void)state;
    queue_push(&b->queue, message, 0);
    message_unref(message);
    assert_int_equal(b->queue.ready, 1);
    assert_null(b->queue.delay);
    bench_free(b);
}

/* ---- back after a delay ---- */

static void a_return_may_wait(void **state)
{
    struct bench *b = bench_new();
    struct queue_item item;

    (void)state;
    push(b, 0, 0);
    push(b, 0, 0);
    assert_int_equal(queue_take(&b->queue, &item), 0);
    message_unref(item.message);
    uint64_t now_ms = loop_wall_ms(b->loop);
    queue_return_later(&b->queue, 1, true, now_ms + 50);
    assert_int_equal(b->queue.delayed, 1);
    assert_int_equal(b->queue.leased, 0);
    consume(b);
    pass_ms(b, 100);
    expect_seen(b, 0, 2, now_ms);
    expect_seen(b, 1, 1, now_ms + 50);
    assert_true(b->seen[1].redelivered);
    assert_int_equal(b->seen[1].count, 1);

    queue_return_later(&b->queue, 1, true, now_ms); /* which is over */
    assert_int_equal(b->queue.ready, 1);
    pass_ms(b, 1);
    assert_int_equal(b->seen_count, 3);
    assert_int_equal(b->seen[2].count, 2);
    bench_free(b);
}

static void who_returns_too_often_does_not_wait(void **state)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();
    struct queue_item item;

    (void)state;
    rules.returns_max = 1;
    queue_set_rules(&b->queue, &rules);
    push(b, 0, 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(queue_take(&b->queue, &item), 0);
        message_unref(item.message);
        queue_return_later(&b->queue, 1, true, loop_wall_ms(b->loop) + 10);
        pass_ms(b, 20);
    }
    assert_int_equal(queue_take(&b->queue, &item), E_NOT_FOUND);
    assert_int_equal(b->queue.delayed + b->queue.leased + b->queue.ready, 0);
    bench_free(b);
}

/* Returns it again and again; what it waited each time. */
static void expect_waits(const struct queue_retry *retry, bool counted, const uint64_t *waits_ms,
                         size_t count)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();
    struct queue_item item;

    rules.retry = *retry;
    queue_set_rules(&b->queue, &rules);
    push(b, 0, 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(queue_take(&b->queue, &item), 0);
        message_unref(item.message);
        uint64_t now_ms = loop_wall_ms(b->loop);
        queue_return(&b->queue, 1, true, counted);
        assert_int_equal(b->queue.delayed, waits_ms[i] > 0);
        if (waits_ms[i] > 0)
            assert_int_equal(queue_next_due_ms(&b->queue), now_ms + waits_ms[i]);
        pass_ms(b, waits_ms[i] + 1);
        assert_int_equal(b->queue.ready, 1);
    }
    bench_free(b);
}

static void retries_wait_longer_and_longer(void **state)
{
    static const uint64_t linear[] = {100, 200, 300, 350, 350}, doubling[] = {100, 200, 350, 350},
                          steps[] = {5, 1000, 70, 70}, same[] = {100, 100, 100}, none[] = {0, 0};
    struct queue_retry retry = {.counted = true, .uncounted = true, .min_ms = 100, .max_ms = 350};

    (void)state;
    expect_waits(&retry, true, linear, 5);
    expect_waits(&retry, false, same, 3);
    retry.doubles = true;
    expect_waits(&retry, true, doubling, 4);
    retry.max_ms = 1000;
    retry.steps = 3;
    memcpy(retry.steps_ms, steps, 3 * sizeof *steps);
    expect_waits(&retry, true, steps, 4);
    retry.uncounted = false;
    expect_waits(&retry, false, none, 2);
    retry = (struct queue_retry){.uncounted = true, .min_ms = 100, .max_ms = 350};
    expect_waits(&retry, true, none, 2);
    expect_waits(&retry, false, same, 3);
}

static void retries_double_without_end(void **state)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();
    struct queue_item item;

    (void)state;
    rules.retry = (struct queue_retry){.counted = true, .doubles = true, .min_ms = 1, .max_ms = 3};
    queue_set_rules(&b->queue, &rules);
    push(b, 0, 0);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(queue_take(&b->queue, &item), 0);
        message_unref(item.message);
        queue_return(&b->queue, 1, true, true);
        assert_int_equal(b->queue.delayed, 1);
        pass_ms(b, 4);
    }
    bench_free(b);
}

/* Chance takes up to so much off, and never all of it. */
static void retries_are_spread(void **state)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();
    struct queue_item item;
    uint64_t least_ms = UINT64_MAX, most_ms = 0;

    (void)state;
    rules.retry =
        (struct queue_retry){.uncounted = true, .less_percent = 50, .min_ms = 1000, .max_ms = 1000};
    queue_set_rules(&b->queue, &rules);
    push(b, 0, 0);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(queue_take(&b->queue, &item), 0);
        message_unref(item.message);
        queue_return(&b->queue, 1, true, false);
        uint64_t wait_ms = queue_next_due_ms(&b->queue) - loop_wall_ms(b->loop);
        least_ms = wait_ms < least_ms ? wait_ms : least_ms;
        most_ms = wait_ms > most_ms ? wait_ms : most_ms;
        pass_ms(b, 1100);
    }
    assert_in_range(least_ms, 500, 520);
    assert_in_range(most_ms, 980, 1000);
    bench_free(b);
}

/* What nobody has seen comes back at once, whatever the rules. */
static void who_was_not_seen_is_not_retried(void **state)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();

    (void)state;
    rules.retry = (struct queue_retry){.uncounted = true, .min_ms = 1000, .max_ms = 1000};
    queue_set_rules(&b->queue, &rules);
    push(b, 0, 0);
    assert_true(queue_hold(&b->queue, 1));
    queue_return(&b->queue, 1, false, false);
    assert_int_equal(b->queue.ready, 1);
    bench_free(b);
}

/* A transaction holds what it has published, and lets go of it before, or after, it is due. */
static void who_is_held_waits_on(void **state)
{
    struct bench *b = bench_new();
    uint64_t start_ms = loop_wall_ms(b->loop);

    (void)state;
    consume(b);
    for (uint64_t s = 1; s <= 3; s++) {
        push(b, 50, 0);
        assert_true(queue_hold(&b->queue, s));
        assert_false(queue_hold(&b->queue, s));
    }
    assert_int_equal(b->queue.delayed, 0);
    assert_int_equal(b->queue.leased, 3);
    pass_ms(b, 20);
    queue_return(&b->queue, 1, false, false);
    queue_check(&b->queue);
    pass_ms(b, 60);
    queue_return(&b->queue, 2, false, false);
    queue_settle(&b->queue, 3, SETTLE_DROPPED);
    pass_ms(b, 1000);
    assert_int_equal(b->seen_count, 2);
    expect_seen(b, 0, 1, start_ms + 50);
    expect_seen(b, 1, 2, start_ms + 80);
    assert_false(b->seen[0].redelivered);
    bench_free(b);
}

/* ---- with the queue's rules ---- */

static void limits_look_at_the_ready(void **state)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();
    struct queue_item item;

    (void)state;
    rules.length_max = 2;
    queue_set_rules(&b->queue, &rules);
    for (unsigned i = 0; i < 5; i++)
        push(b, 100, 0);
    push(b, 0, 0);
    push(b, 0, 0);
    pass_ms(b, 50);
    assert_int_equal(b->queue.delayed, 5);
    assert_int_equal(b->queue.ready, 2);
    pass_ms(b, 100); /* the oldest go, and that are those which waited */
    assert_int_equal(b->queue.delayed, 0);
    assert_int_equal(b->queue.ready, 2);
    assert_int_equal(queue_take(&b->queue, &item), 0);
    assert_int_equal(item.sequence, 6);
    message_unref(item.message);
    bench_free(b);
}

static void a_life_begins_when_it_is_due(void **state)
{
    struct bench *b = bench_new();
    struct queue_rules rules = queue_no_rules();

    (void)state;
    rules.lives_ms = 100;
    queue_set_rules(&b->queue, &rules);
    push(b, 0, 0);
    push(b, 200, 0);
    push(b, 200, 50);
    pass_ms(b, 150);
    assert_int_equal(b->queue.ready, 0);
    assert_int_equal(b->queue.delayed, 2);
    pass_ms(b, 95); /* 245 */
    assert_int_equal(b->queue.ready, 2);
    pass_ms(b, 50); /* 295: the second stands before the third, and lives still */
    assert_int_equal(b->queue.ready, 2);
    pass_ms(b, 10);
    assert_int_equal(b->queue.ready, 0);
    bench_free(b);
}

static void who_rests_does_nothing(void **state)
{
    struct bench *b = bench_new();

    (void)state;
    push(b, 10, 0);
    queue_rest(&b->queue, true);
    push(b, 20, 0);
    pass_ms(b, 100);
    assert_int_equal(b->queue.delayed, 2);
    queue_rest(&b->queue, false);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 2);
    queue_host_rest(&b->host);
    push(b, 10, 0);
    pass_ms(b, 100);
    assert_int_equal(b->queue.delayed, 1);
    queue_host_begin(&b->host);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 3);
    bench_free(b);
}

/* What is settled in it is settled still, since a crash may undo the deletion. */
static void a_closed_queue_waits_for_nothing(void **state)
{
    struct bench *b = bench_new();
    struct queue_item item;

    (void)state;
    push(b, 0, 0);
    push(b, 10, 0);
    assert_int_equal(queue_take(&b->queue, &item), 0);
    message_unref(item.message);
    queue_close(&b->queue);
    queue_return_later(&b->queue, 1, false, loop_wall_ms(b->loop) + 10);
    pass_ms(b, 100);
    assert_int_equal(b->queue.delayed, 2);
    queue_check(&b->queue);
    while (!queue_discard(&b->queue))
        pass_ms(b, 1);
    assert_int_equal(b->queue.delayed, 0);
    bench_free(b);
}

/* ---- many ---- */

static void many_at_one_time(void **state)
{
    struct bench *b = bench_new();
    uint64_t start_ms = loop_wall_ms(b->loop);

    (void)state;
    consume(b);
    for (unsigned i = 0; i < SEEN_MAX; i++)
        push(b, 100, 0);
    pass_ms(b, 99);
    assert_int_equal(b->seen_count, 0);
    simulated_run_turns(b->loop, 1);
    while (loop_wall_ms(b->loop) < start_ms + 101 && b->queue.delayed == SEEN_MAX)
        simulated_run_turns(b->loop, 1);
    assert_true(b->queue.delayed > 0); /* a turn does not do all of it */
    pass_ms(b, 10000);
    assert_int_equal(b->seen_count, SEEN_MAX);
    bench_free(b);
}

static uint64_t cost(const struct bench *b, uint64_t before)
{
    return b->account.used - before;
}

/* What stands in the log alone costs its place, its time, and its entry in the heap. */
static void what_one_costs(void **state)
{
    struct bench *b = bench_new();
    uint64_t before = b->account.used;
    struct queue_purge_job job;

    (void)state;
    b->queue.log = &b->log;
    b->host.hot_bytes_max = 0;
    uint64_t now_ms = loop_wall_ms(b->loop);
    struct message *message = message_new(
        &b->account, &(struct message_parts){.format = FORMAT_AMQP091,
                                             .not_before_ms = now_ms + 1000000,
                                             .body = slice_text("a body of some bytes")});
    for (uint64_t s = 1; s <= SEEN_MAX; s++)
        queue_push(&b->queue, message, s);
    message_unref(message);
    assert_true(cost(b, before) / SEEN_MAX < 64);
    queue_purge_begin(&job, &b->queue);
    assert_int_equal(purge(b, &job), SEEN_MAX);
    bench_free(b);
}

/* Most are settled before they are due, and the heap forgets them. */
static void what_is_settled_early_is_forgotten(void **state)
{
    struct bench *b = bench_new();
    uint64_t start_ms = loop_wall_ms(b->loop), before;
    struct queue_purge_job job;

    (void)state;
    for (unsigned i = 0; i < 50000; i++) {
        if (i == 48999)
            queue_purge_begin(&job, &b->queue);
        push(b, 100000 - i, 0);
    }
    pass_ms(b, 1);
    assert_int_equal(purge(b, &job), 48999);
    assert_int_equal(b->queue.delayed, 1001);
    before = b->account.used;
    pass_ms(b, 1000);
    queue_check(&b->queue);
    consume(b);
    pass_ms(b, 60000);
    assert_int_equal(b->seen_count, 1001);
    for (unsigned i = 0; i < 1001; i++)
        expect_seen(b, i, 50000 - i, start_ms + 100000 - 49999 + i);
    for (unsigned i = 0; i < 1001; i++)
        queue_settle(&b->queue, 50000 - i, SETTLE_ACCEPTED);
    pass_ms(b, 100000);
    assert_int_equal(b->seen_count, 1001);
    assert_true(b->account.used < before / 20); /* the heap is gone, too */
    bench_free(b);
}

/* However many come and go, those that are there count. */
static void the_heap_does_not_grow_with_what_was(void **state)
{
    struct bench *b = bench_new();
    uint64_t before = b->account.used, count = 0;
    struct queue_purge_job job;

    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        for (unsigned i = 0; i < 1000; i++) {
            if (i == 999)
                queue_purge_begin(&job, &b->queue);
            push(b, 1000000 + i, 0);
        }
        count += purge(b, &job);
        pass_ms(b, 20);
    }
    assert_int_equal(count, 300 * 1000 - 1);
    assert_int_equal(b->queue.delayed, 1);
    assert_true(cost(b, before) < 16 * 8192 + 4096);
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_comes_when_it_is_due),
        cmocka_unit_test(the_due_stand_in_their_place),
        cmocka_unit_test(one_that_was_due_already_does_not_wait),
        cmocka_unit_test(a_return_may_wait),
        cmocka_unit_test(who_returns_too_often_does_not_wait),
        cmocka_unit_test(retries_wait_longer_and_longer),
        cmocka_unit_test(retries_double_without_end),
        cmocka_unit_test(retries_are_spread),
        cmocka_unit_test(who_was_not_seen_is_not_retried),
        cmocka_unit_test(who_is_held_waits_on),
        cmocka_unit_test(limits_look_at_the_ready),
        cmocka_unit_test(a_life_begins_when_it_is_due),
        cmocka_unit_test(who_rests_does_nothing),
        cmocka_unit_test(a_closed_queue_waits_for_nothing),
        cmocka_unit_test(many_at_one_time),
        cmocka_unit_test(what_one_costs),
        cmocka_unit_test(what_is_settled_early_is_forgotten),
        cmocka_unit_test(the_heap_does_not_grow_with_what_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
