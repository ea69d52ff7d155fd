/*
 * What a queue does by itself, over a log that is only remembered here: limits, times to live,
 * counts of returns, and what becomes of the dead.
 */
#include "queue/queue_private.h"
#include "queue/test_log.h"

#include "base/memory.h"
#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define SEQUENCES_MAX 4096u

/* ---- the log that is only remembered ---- */

struct remembered {
    struct log log;
    struct message *stored[SEQUENCES_MAX]; /* by position, which is the sequence here */
    bool live[SEQUENCES_MAX];
    enum settle_reason settled[SEQUENCES_MAX];
    uint8_t state[4096];
    size_t state_size;
    struct timer timer;
    struct loop *loop;
    unsigned reads_done;
};

static struct queue_host host;

static struct remembered *remembered_of(struct log *log)
{
    return CONTAINER_OF(log, struct remembered, log);
}

static void log_turn(struct timer *timer)
{
    struct remembered *r = CONTAINER_OF(timer, struct remembered, timer);

    for (struct list *link; (link = list_take_first(&r->log.reads));) {
        struct log_read *read = CONTAINER_OF(link, struct log_read, link);
        for (size_t i = 0; i < read->count; i++) {
            bool live = r->live[read->positions[i]];
            read->messages[i] = live ? message_ref(r->stored[read->positions[i]]) : NULL;
            read->results[i] = live ? 0 : E_CORRUPT;
        }
        r->reads_done++;
        read->done(read);
    }
    queue_host_durable(&host, r->log.block);
}

static void settled(struct log *log, uint64_t first, uint64_t last, enum settle_reason why)
{
    for (uint64_t s = first; s <= last; s++) {
        assert_int_equal(remembered_of(log)->settled[s], 0);
        remembered_of(log)->settled[s] = why;
    }
}

static void released(struct log *log, uint64_t position)
{
    assert_true(remembered_of(log)->live[position]);
    remembered_of(log)->live[position] = false;
}

static void state_written(struct log *log, struct slice bytes, bool more)
{
    assert_false(more);
    memcpy(remembered_of(log)->state, bytes.data, bytes.size);
    remembered_of(log)->state_size = bytes.size;
}

static void hurried(struct log *log)
{
    struct remembered *r = remembered_of(log);
    timer_set(&r->timer, loop_now_ns(r->loop) + 1000);
}

static const struct test_log_hooks hooks = {
    .settled = settled, .released = released, .state = state_written, .hurried = hurried};

/* ---- a queue, its consumer, and what was seen of it ---- */

struct bench {
    struct loop *loop;
    struct remembered *log;
    struct account account;
    struct queue queue;
    struct consumer consumer;
    uint64_t delivered[SEQUENCES_MAX];
    unsigned delivered_count, died, got;
};

static int deliver(void *context, struct consumer *consumer, const struct queue_item *item)
{
    struct bench *b = context;

    (void)consumer;
    b->delivered[b->delivered_count++] = item->sequence;
    return 0;
}

static void get(void *context, struct queue *queue)
{
    struct bench *b = context;

    queue->getters_wait = false;
    b->got++;
}

static void died(void *context, struct queue *queue)
{
    (void)queue;
    ((struct bench *)context)->died++;
}

static const struct queue_events events = {.deliver = deliver, .get = get, .died = died};

static void pass_ms(struct bench *b, uint64_t ms)
{
    simulated_run_for(b->loop, ms * NANOSECONDS_PER_MS);
}

static struct bench *bench_new(const struct queue_rules *rules)
{
    struct bench *b = memory_new(sizeof *b);

    b->loop = loop_new_simulated(1);
    b->log = memory_new(sizeof *b->log);
    b->log->loop = b->loop;
    test_log_init(&b->log->log, &hooks);
    timer_init(&b->log->timer, b->loop, log_turn);
    account_init(&b->account, NULL, 0);
    host = (struct queue_host){.loop = b->loop,
                               .log = &b->log->log,
                               .events = &events,
                               .context = b,
                               .memory = &b->account,
                               .hot_bytes_max = 1u << 20};
    queue_host_init(&host);
    queue_init(&b->queue, &host, TEST_LOG_QUEUE, &b->log->log);
    if (rules)
        queue_set_rules(&b->queue, rules);
    queue_host_begin(&host);
    return b;
}

static void bench_free(struct bench *b)
{
    queue_check(&b->queue);
    queue_abandon(&b->queue);
    queue_fini(&b->queue);
    timer_stop(&b->log->timer);
    for (size_t i = 0; i < SEQUENCES_MAX; i++) {
        if (b->log->stored[i])
            message_unref(b->log->stored[i]);
    }
    account_fini(&b->account);
    queue_host_fini(&host);
    loop_free(b->loop);
    free(b->log);
    free(b);
}

/* A message of its own time to live, 0 for none; its sequence. Persistent: it may go cold. */
static uint64_t push_one(struct bench *b, size_t size, uint64_t lives_ms, bool persistent)
{
    static const uint8_t body[128];
    uint64_t now_ms = loop_wall_ms(b->loop);
    struct message *message = message_new(
        &b->account, &(struct message_parts){.format = FORMAT_AMQP091,
                                             .key = slice_text("k"),
                                             .body = slice_of(body, size),
                                             .published_at_ms = now_ms,
                                             .expires_at_ms = lives_ms ? now_ms + lives_ms : 0});

    assert_non_null(message);
    uint64_t sequence = queue_sequence(&b->queue, message);
    if (persistent) {
        b->log->stored[sequence] = message_ref(message);
        b->log->live[sequence] = true;
    }
    queue_push(&b->queue, message, persistent ? sequence : 0);
    message_unref(message);
    return sequence;
}

static void push(struct bench *b, unsigned count)
{
    while (count-- > 0)
        push_one(b, 1, 0, true);
}

static void consume(struct bench *b, uint32_t credit)
{
    b->consumer = (struct consumer){
        .queue = &b->queue, .credit_messages = credit, .credit_bytes = INT64_MAX / 8};
    consumer_add(&b->consumer);
}

static void expect_gone(struct bench *b, uint64_t first, uint64_t last, enum settle_reason why)
{
    for (uint64_t s = first; s <= last; s++)
        assert_int_equal(b->log->settled[s], why);
}

/* These are the dead, in this order and of this; they are buried. */
static void expect_dead(struct bench *b, uint64_t first, uint64_t last, enum settle_reason why)
{
    struct message *message;
    uint64_t position;

    assert_int_equal(queue_dead_count(&b->queue), last - first + 1);
    for (uint64_t s = first; s <= last; s++) {
        struct queue_dead dead = queue_dead_take(&b->queue, &message, &position);
        assert_true(dead.sequence == s && dead.why == why && position == s);
        if (message)
            message_unref(message);
        assert_int_equal(b->log->settled[s], 0);
        queue_settle(&b->queue, s, SETTLE_BURIED);
    }
    expect_gone(b, first, last, SETTLE_BURIED);
}

static uint64_t take(struct bench *b)
{
    struct queue_item item;

    for (unsigned i = 0; i < 100; i++) {
        int result = queue_take(&b->queue, &item);
        if (result == 0) {
            message_unref(item.message);
            return item.sequence;
        }
        if (result == E_NOT_FOUND)
            return 0;
        assert_int_equal(result, E_AGAIN);
        b->queue.getters_wait = true;
        pass_ms(b, 1);
    }
    fail();
    return 0;
}

static struct queue_rules rules_with(void (*set)(struct queue_rules *rules))
{
    struct queue_rules rules = queue_no_rules();

    set(&rules);
    return rules;
}

/* ---- limits ---- */

static void three_at_most(struct queue_rules *rules)
{
    rules->length_max = 3;
}

static void the_oldest_goes(void **state)
{
    struct queue_rules rules = rules_with(three_at_most);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 10);
    assert_int_equal(b->queue.ready, 10); /* nothing happens inside a call */
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 3);
    expect_gone(b, 1, 7, SETTLE_DROPPED);
    assert_int_equal(take(b), 8);
    push(b, 1);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 3); /* what is leased does not count */
    queue_return(&b->queue, 8, true, false);
    pass_ms(b, 1);
    expect_gone(b, 8, 8, SETTLE_DROPPED); /* it is the oldest again */
    bench_free(b);
}

static void ten_bytes_at_most(struct queue_rules *rules)
{
    rules->bytes_max = 10;
}

static void the_oldest_goes_by_bytes(void **state)
{
    struct queue_rules rules = rules_with(ten_bytes_at_most);
    struct bench *b = bench_new(&rules);

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        push_one(b, 5, 0, true);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready_bytes, 10);
    expect_gone(b, 1, 1, SETTLE_DROPPED);
    push_one(b, 0, 0, true);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 3);
    push_one(b, 11, 0, true); /* more than all there may be */
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 0);
    bench_free(b);
}

static void consumers_come_before_limits(void **state)
{
    struct queue_rules rules = rules_with(three_at_most);
    struct bench *b = bench_new(&rules);

    (void)state;
    consume(b, 6);
    push_one(b, 1, 0, false); /* goes out at once, the others when the mark is durable */
    push(b, 9);
    pass_ms(b, 1);
    assert_int_equal(b->delivered_count, 6);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(b->delivered[i], i + 1);
    assert_int_equal(b->queue.ready, 3);
    expect_gone(b, 7, 7, SETTLE_DROPPED);
    assert_int_equal(take(b), 8);
    assert_false(consumer_remove(&b->consumer));
    bench_free(b);
}

static void a_consumer_that_leaves_while_it_waits(void **state)
{
    struct queue_rules rules = rules_with(three_at_most);
    struct bench *b = bench_new(&rules);

    (void)state;
    consume(b, 6);
    push(b, 10);
    simulated_run_turns(b->loop, 1); /* the mark is on its way */
    assert_int_equal(b->queue.ready, 10);
    assert_false(consumer_remove(&b->consumer));
    pass_ms(b, 1);
    assert_int_equal(b->delivered_count, 0);
    assert_int_equal(b->queue.ready, 3);
    bench_free(b);
}

static void a_new_limit_holds_soon(void **state)
{
    struct queue_rules rules = rules_with(three_at_most);
    struct bench *b = bench_new(NULL);

    (void)state;
    push(b, 200);
    pass_ms(b, 1);
    assert_null(b->queue.upkeep); /* costs nothing before */
    queue_set_rules(&b->queue, &rules);
    pass_ms(b, 10);
    assert_int_equal(b->queue.ready, 3);
    rules = queue_no_rules();
    queue_set_rules(&b->queue, &rules);
    push(b, 5);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 8);
    bench_free(b);
}

static void two_and_refuse(struct queue_rules *rules)
{
    rules->length_max = 2;
    rules->bytes_max = 10;
    rules->overflow = OVERFLOW_REFUSE;
}

static void refusing(void **state)
{
    struct queue_rules rules = rules_with(two_and_refuse);
    struct bench *b = bench_new(&rules);

    (void)state;
    assert_false(queue_refuses(&b->queue, 10));
    assert_true(queue_refuses(&b->queue, 11));
    push_one(b, 6, 0, true);
    assert_false(queue_refuses(&b->queue, 4));
    assert_true(queue_refuses(&b->queue, 5));
    push_one(b, 1, 0, true);
    assert_true(queue_refuses(&b->queue, 0));
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 2); /* nothing is dropped */
    assert_false(queue_buries_refused(&b->queue));
    assert_int_equal(take(b), 1);
    assert_false(queue_refuses(&b->queue, 1));
    bench_free(b);
}

static void refusing_with_consumers(void **state)
{
    struct queue_rules rules = rules_with(two_and_refuse);
    struct bench *b = bench_new(&rules);

    (void)state;
    consume(b, 3);
    push(b, 4); /* of which three are about to go */
    assert_false(queue_refuses(&b->queue, 1));
    push(b, 1);
    assert_true(queue_refuses(&b->queue, 1));
    consumer_credit(&b->consumer, 1, 1);
    assert_false(queue_refuses(&b->queue, 1));
    pass_ms(b, 5);
    assert_int_equal(b->delivered_count, 4);
    assert_false(queue_refuses(&b->queue, 1));
    assert_false(consumer_remove(&b->consumer));
    bench_free(b);
}

static void refuse_and_bury(struct queue_rules *rules)
{
    rules->length_max = 1;
    rules->overflow = OVERFLOW_REFUSE_AND_BURY;
    rules->buries = true;
}

static void what_is_refused_is_buried(void **state)
{
    struct queue_rules rules = rules_with(refuse_and_bury);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 1);
    assert_true(queue_refuses(&b->queue, 1) && queue_buries_refused(&b->queue));
    assert_int_equal(b->died, 0); /* that is for the owner to do */
    rules.buries = false;
    queue_set_rules(&b->queue, &rules);
    assert_false(queue_buries_refused(&b->queue));
    bench_free(b);
}

/* ---- times to live ---- */

static void a_second(struct queue_rules *rules)
{
    rules->lives_ms = 1000;
}

static void expiring_by_queue(void **state)
{
    struct queue_rules rules = rules_with(a_second);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 2);
    pass_ms(b, 500);
    push(b, 1);
    pass_ms(b, 498);
    assert_int_equal(b->queue.ready, 3);
    pass_ms(b, 4);
    assert_int_equal(b->queue.ready, 1);
    expect_gone(b, 1, 2, SETTLE_EXPIRED);
    assert_int_equal(take(b), 3);
    pass_ms(b, 2000);
    assert_int_equal(b->log->settled[3], 0); /* leased ones live on */
    queue_return(&b->queue, 3, true, false);
    pass_ms(b, 1);
    expect_gone(b, 3, 3, SETTLE_EXPIRED);
    bench_free(b);
}

static void expiring_by_message_at_the_head_alone(void **state)
{
    struct bench *b = bench_new(NULL);

    (void)state;
    push(b, 1);
    push_one(b, 1, 100, true);
    push(b, 1);
    push_one(b, 1, 100, true);
    pass_ms(b, 300);
    assert_int_equal(b->queue.ready, 4);
    assert_int_equal(take(b), 1);
    assert_int_equal(b->queue.ready, 2); /* without the one that has expired behind it */
    expect_gone(b, 2, 2, SETTLE_EXPIRED);
    assert_int_equal(take(b), 3);
    assert_int_equal(b->queue.ready, 0);
    assert_int_equal(take(b), 0);
    expect_gone(b, 4, 4, SETTLE_EXPIRED);
    bench_free(b);
}

static void the_shorter_time_counts(void **state)
{
    struct queue_rules rules = rules_with(a_second);
    struct bench *b = bench_new(&rules);

    (void)state;
    push_one(b, 1, 100, true);
    push_one(b, 1, 5000, true);
    pass_ms(b, 102);
    expect_gone(b, 1, 1, SETTLE_EXPIRED);
    pass_ms(b, 902);
    expect_gone(b, 2, 2, SETTLE_EXPIRED);
    bench_free(b);
}

static void a_time_that_never_ends(void **state)
{
    struct queue_rules rules = rules_with(a_second);
    struct bench *b = bench_new(&rules);

    (void)state;
    rules.lives_ms = UINT64_MAX - 1; /* the sum would be more than there is */
    queue_set_rules(&b->queue, &rules);
    push(b, 1);
    pass_ms(b, 1000000);
    assert_int_equal(take(b), 1);
    bench_free(b);
}

static void no_time_at_all(struct queue_rules *rules)
{
    rules->lives_ms = 0;
}

static void zero_is_for_who_waits(void **state)
{
    struct queue_rules rules = rules_with(no_time_at_all);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 1);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 0);
    consume(b, 2);
    simulated_wall_jump(b->loop, -50); /* it was on its way for so long */
    push(b, 1);
    simulated_wall_jump(b->loop, 50);
    pass_ms(b, 5);
    assert_int_equal(b->delivered_count, 1);
    queue_return(&b->queue, 2, true, false); /* had its time */
    pass_ms(b, 1);
    assert_int_equal(b->delivered_count, 1);
    assert_int_equal(b->queue.ready + b->queue.leased, 0);
    assert_false(consumer_remove(&b->consumer));
    bench_free(b);
}

static void the_wall_clock_jumps(void **state)
{
    struct queue_rules rules = rules_with(a_second);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 1);
    simulated_wall_jump(b->loop, 5000);
    assert_int_equal(take(b), 0); /* who looks sees it at once */
    push(b, 1);
    simulated_wall_jump(b->loop, -600000);
    pass_ms(b, 2000);
    assert_int_equal(b->queue.ready, 1);
    pass_ms(b, 600000);
    assert_int_equal(b->queue.ready, 0);
    bench_free(b);
}

static void cold_heads_are_read_back(void **state)
{
    struct queue_rules rules = rules_with(a_second);
    struct bench *b = bench_new(&rules);
    uint64_t position = 0;

    (void)state;
    host.hot_bytes_max = 1;
    push(b, 64 * 40); /* more than stays in memory */
    while (!queue_cool(&b->queue, &position))
        ;
    unsigned before = b->log->reads_done;
    pass_ms(b, 1500);
    assert_int_equal(b->queue.ready, 0);
    assert_true(b->log->reads_done > before);
    bench_free(b);
}

/* ---- dying ---- */

static void one_return(struct queue_rules *rules)
{
    rules->returns_max = 1;
}

static void returned_too_often(void **state)
{
    struct queue_rules rules = rules_with(one_return);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 1);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(take(b), 1);
        queue_return(&b->queue, 1, true, false); /* does not count */
    }
    assert_int_equal(take(b), 1);
    queue_return(&b->queue, 1, true, true);
    assert_int_equal(take(b), 1);
    queue_return(&b->queue, 1, true, true);
    expect_gone(b, 1, 1, SETTLE_RETURNED);
    assert_int_equal(b->queue.ready + b->queue.leased, 0);
    bench_free(b);
}

static void all_rules_and_bury(struct queue_rules *rules)
{
    rules->length_max = 3;
    rules->lives_ms = 1000;
    rules->returns_max = 0;
    rules->buries = true;
}

static void each_way_to_die(void **state)
{
    struct queue_rules rules = rules_with(all_rules_and_bury);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 4);
    pass_ms(b, 1);
    expect_dead(b, 1, 1, SETTLE_DROPPED);
    assert_int_equal(take(b), 2);
    queue_return(&b->queue, 2, true, true);
    expect_dead(b, 2, 2, SETTLE_RETURNED);
    assert_int_equal(take(b), 3);
    queue_settle(&b->queue, 3, SETTLE_REJECTED);
    expect_dead(b, 3, 3, SETTLE_REJECTED);
    pass_ms(b, 1100);
    expect_dead(b, 4, 4, SETTLE_EXPIRED);
    assert_int_equal(b->died, 4);
    push(b, 1);
    assert_int_equal(take(b), 5);
    queue_settle(&b->queue, 5, SETTLE_ACCEPTED); /* is no death */
    assert_int_equal(queue_dead_count(&b->queue), 0);
    bench_free(b);
}

static void the_dead_come_back_but_for_the_rejected(void **state)
{
    struct queue_rules rules = rules_with(all_rules_and_bury);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 3);
    assert_int_equal(take(b), 1);
    queue_settle(&b->queue, 1, SETTLE_REJECTED);
    pass_ms(b, 1100);
    assert_int_equal(queue_dead_count(&b->queue), 3);
    assert_int_equal(queue_dead_at(&b->queue, 0).sequence, 1);
    assert_int_equal(queue_dead_at(&b->queue, 2).why, SETTLE_EXPIRED);
    queue_rest(&b->queue, true); /* as for a move */
    queue_dead_return(&b->queue);
    assert_int_equal(queue_dead_count(&b->queue), 1);
    assert_int_equal(b->queue.ready, 2);
    pass_ms(b, 1000);
    assert_int_equal(b->queue.ready, 2); /* it rests */
    push(b, 5);
    pass_ms(b, 1000);
    assert_int_equal(b->queue.ready, 7);
    queue_rest(&b->queue, false);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 0);
    assert_int_equal(queue_dead_count(&b->queue), 8);
    assert_int_equal(queue_dead_at(&b->queue, 0).sequence, 1);
    bench_free(b);
}

/* ---- starting ---- */

static void nothing_goes_before_the_host_begins(void **state)
{
    struct queue_rules rules = rules_with(three_at_most);
    struct bench *b = bench_new(&rules);

    (void)state;
    queue_host_rest(&host);
    push(b, 5);
    pass_ms(b, 100);
    assert_int_equal(b->queue.ready, 5);
    queue_host_begin(&host);
    pass_ms(b, 1);
    assert_int_equal(b->queue.ready, 3);
    bench_free(b);
}

/* A message's own time is in the message, which is cold after a start: its lane tells. */
static void mortals_are_known_after_a_start(void **state)
{
    struct bench *b = bench_new(NULL);

    (void)state;
    push_one(b, 1, 500, true);
    push_one(b, 1, 0, true);
    queue_write_state(&b->queue, true);
    queue_abandon(&b->queue);
    queue_fini(&b->queue);
    queue_host_rest(&host);
    queue_init(&b->queue, &host, TEST_LOG_QUEUE, &b->log->log);
    assert_int_equal(queue_recover_state(&b->queue, slice_of(b->log->state, b->log->state_size)),
                     0);
    assert_true(queue_recover_message(&b->queue, 1, 1, 1, QUEUE_LANE_MORTAL, 0));
    assert_true(queue_recover_message(&b->queue, 2, 2, 1, 0, 0));
    assert_int_equal(queue_recover_end(&b->queue), 0);
    queue_host_begin(&host);
    pass_ms(b, 400);
    assert_int_equal(b->queue.ready, 2);
    pass_ms(b, 200);
    assert_int_equal(b->queue.ready, 1);
    expect_gone(b, 1, 1, SETTLE_EXPIRED);
    bench_free(b);
}

static void a_closed_queue_does_nothing(void **state)
{
    struct queue_rules rules = rules_with(all_rules_and_bury);
    struct bench *b = bench_new(&rules);

    (void)state;
    push(b, 5);
    queue_close(&b->queue);
    pass_ms(b, 2000);
    assert_int_equal(queue_dead_count(&b->queue), 0);
    assert_int_equal(b->died, 0);
    while (!queue_discard(&b->queue))
        pass_ms(b, 1);
    bench_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_goes),
        cmocka_unit_test(the_oldest_goes_by_bytes),
        cmocka_unit_test(consumers_come_before_limits),
        cmocka_unit_test(a_consumer_that_leaves_while_it_waits),
        cmocka_unit_test(a_new_limit_holds_soon),
        cmocka_unit_test(refusing),
        cmocka_unit_test(refusing_with_consumers),
        cmocka_unit_test(what_is_refused_is_buried),
        cmocka_unit_test(expiring_by_queue),
        cmocka_unit_test(expiring_by_message_at_the_head_alone),
        cmocka_unit_test(the_shorter_time_counts),
        cmocka_unit_test(a_time_that_never_ends),
        cmocka_unit_test(zero_is_for_who_waits),
        cmocka_unit_test(the_wall_clock_jumps),
        cmocka_unit_test(cold_heads_are_read_back),
        cmocka_unit_test(returned_too_often),
        cmocka_unit_test(each_way_to_die),
        cmocka_unit_test(the_dead_come_back_but_for_the_rejected),
        cmocka_unit_test(nothing_goes_before_the_host_begins),
        cmocka_unit_test(mortals_are_known_after_a_start),
        cmocka_unit_test(a_closed_queue_does_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
