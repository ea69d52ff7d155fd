/* Consuming, settling, slices, parking, direct reply-to. */
#include "protocols/amqp091/scenario.h"

#include <stdio.h>
#include <string.h>

/* ---- consuming ---- */

static void test_consume(const struct ways *ways)
{
    struct peer peer;
    struct method m;
    static char large[300000];

    begin(&peer, ways);
    declare(&peer, 1, "a");
    m = ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    assert_true(slice_starts(m.basic_consume_ok.consumer_tag, "amq.ctag-"));
    SAY(&peer, 1, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("t"), .no_wait = true,
        .no_local = true);
    expect_nothing(&peer);
    ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = m.basic_consume_ok.consumer_tag);
    publish(&peer, 1, "", "a", "hello");
    m = expect(&peer, 1, METHOD_basic_deliver);
    assert_true(slice_is(m.basic_deliver.consumer_tag, "t"));
    assert_true(slice_is(m.basic_deliver.exchange, ""));
    assert_true(slice_is(m.basic_deliver.routing_key, "a"));
    expect_content(&peer, 1, slice_of("\0\0", 2), TEXT("hello"));
    publish(&peer, 1, "", "a", "");
    expect_delivery(&peer, 1, 2, false, "");
    SAY(&peer, 1, basic_ack, .delivery_tag = 2, .multiple = true);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 2);
    /* bodies that are copied, borrowed, and split */
    memset(large, 'l', sizeof large);
    size_t sizes[] = {8192, 8193, 20000, 131064, 131065, sizeof large};
    size_t step = peer.step;
    peer.step = step ? 10000 : 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")}, slice_of(NULL, 0),
                     slice_of(large, sizes[i]), 100000);
        peer_run(&peer);
        m = expect(&peer, 1, METHOD_basic_deliver);
        assert_true(m.basic_deliver.delivery_tag == 3 + i);
        expect_content(&peer, 1, slice_of(NULL, 0), slice_of(large, sizes[i]));
        expect_nothing(&peer);
    }
    peer.step = step;
    SAY(&peer, 1, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("t"));
    expect_connection_close(&peer, 530, "NOT_ALLOWED - attempt to reuse consumer tag 't'",
                            METHOD_basic_consume);
    end(&peer);
}

static void test_consume_errors(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    SAY(&peer, 1, basic_consume, .queue = TEXT("none"));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no queue 'none' in vhost '/'",
                         METHOD_basic_consume);
    declare(&peer, 1, "a");
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"), .exclusive = true);
    SAY(&peer, 1, basic_consume, .queue = TEXT("a"));
    expect_channel_close(&peer, 1, 403, "ACCESS_REFUSED - queue 'a' in vhost '/' in exclusive use",
                         METHOD_basic_consume);
    /* the failed channel's exclusive consumer is gone with it */
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    SAY(&peer, 1, basic_get, .queue = TEXT("none"));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no queue 'none' in vhost '/'",
                         METHOD_basic_get);
    /* a cancel-ok that was not asked for cancels */
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("u"));
    SAY(&peer, 1, basic_cancel_ok, .consumer_tag = TEXT("u"));
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("u"));
    ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = TEXT("u"));
    /* an unknown tag is cancelled, too */
    struct method m = ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = TEXT("none"));
    assert_true(slice_is(m.basic_cancel_ok.consumer_tag, "none"));
    SAY(&peer, 1, basic_cancel, .consumer_tag = TEXT("none"), .no_wait = true);
    expect_nothing(&peer);
    worker.settings.consumers_per_channel_max = 1;
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    SAY(&peer, 1, basic_consume, .queue = TEXT("a"));
    expect_connection_close(&peer, 530,
                            "NOT_ALLOWED - reached maximum (1) of consumers per channel",
                            METHOD_basic_consume);
    end(&peer);
}

static void test_cancel_notification(const struct ways *ways)
{
    for (int capable = 0; capable < 2; capable++) {
        struct peer peer;
        open_connection(&peer, ways, capable);
        ASK_EMPTY(&peer, 1, channel_open_ok, channel_open);
        declare(&peer, 1, "a");
        ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"),
            .consumer_tag = TEXT("t"));
        publish(&peer, 1, "", "a", "1");
        expect_delivery(&peer, 1, 1, false, "1");
        ASK(&peer, 1, queue_delete_ok, queue_delete, .queue = TEXT("a"));
        if (capable) {
            struct method m = expect(&peer, 1, METHOD_basic_cancel);
            assert_true(slice_is(m.basic_cancel.consumer_tag, "t") && m.basic_cancel.no_wait);
        }
        expect_nothing(&peer);
        /* what it had may still be settled */
        SAY(&peer, 1, basic_ack, .delivery_tag = 1);
        SAY(&peer, 1, basic_cancel_ok, .consumer_tag = TEXT("t"));
        expect_nothing(&peer);
        end(&peer);
    }
}

/* The queue goes while its consumer is being made: the client hears that it consumes, and then that
 * it does not; or that there is no such queue. */
static void test_deleted_meanwhile(const struct ways *ways)
{
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct ways way = {
            .seed = seed, .pending_percent = ways->pending_percent, .step = ways->step};
        struct peer peer;
        struct frame frame;
        struct method m;
        struct failure failure;
        uint32_t expected = 0;
        begin(&peer, &way);
        ASK_EMPTY(&peer, 2, channel_open_ok, channel_open);
        declare(&peer, 1, "a");
        fake_put(&worker, "a", TEXT("m"));
        struct method consume = {.id = METHOD_basic_consume, .basic_consume.queue = TEXT("a")};
        peer_send_method(&peer, 1, &consume);
        SAY(&peer, 2, queue_delete, .queue = TEXT("a"));
        while (peer_frame(&peer, &frame)) {
            if (frame.channel == 2 || frame.type != FRAME_METHOD)
                continue;
            assert_int_equal(amqp091_method_decode(frame.payload, &m, &failure), 0);
            if (m.id == METHOD_basic_deliver)
                continue;
            if (expected)
                assert_int_equal(m.id, expected);
            else
                assert_true(m.id == METHOD_channel_close || m.id == METHOD_basic_consume_ok);
            expected = m.id == METHOD_basic_consume_ok ? METHOD_basic_cancel : 1;
        }
        assert_int_equal(expected, 1);
        end(&peer);
    }
}

static void test_prefetch(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    for (int i = 0; i < 10; i++)
        fake_put(&worker, "a", TEXT("m"));
    ASK(&peer, 1, basic_qos_ok, basic_qos, .prefetch_count = 3);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    for (uint64_t tag = 1; tag <= 3; tag++)
        expect_delivery(&peer, 1, tag, false, "m");
    expect_nothing(&peer);
    SAY(&peer, 1, basic_ack, .delivery_tag = 2);
    expect_delivery(&peer, 1, 4, false, "m");
    expect_nothing(&peer);
    SAY(&peer, 1, basic_ack, .delivery_tag = 4, .multiple = true);
    for (uint64_t tag = 5; tag <= 7; tag++)
        expect_delivery(&peer, 1, tag, false, "m");
    expect_nothing(&peer);
    SAY(&peer, 1, basic_qos, .prefetch_size = 1);
    expect_connection_close(&peer, 540, "NOT_IMPLEMENTED - prefetch_size!=0 (1)", METHOD_basic_qos);
    end(&peer);
}

/* Two consumers share the channel's limit. */
static void test_global_prefetch(const struct ways *ways)
{
    struct peer peer;
    struct frame frame;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    declare(&peer, 1, "b");
    for (int i = 0; i < 10; i++) {
        fake_put(&worker, "a", TEXT("m"));
        fake_put(&worker, "b", TEXT("m"));
    }
    ASK(&peer, 1, basic_qos_ok, basic_qos, .prefetch_count = 5, .global = true);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    for (uint64_t tag = 1; tag <= 5; tag++)
        expect_delivery(&peer, 1, tag, false, "m");
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("b"));
    expect_nothing(&peer);
    uint64_t acked = 0;
    for (uint64_t tag = 6; tag <= 20; tag++) {
        SAY(&peer, 1, basic_ack, .delivery_tag = ++acked);
        expect_delivery(&peer, 1, tag, false, "m");
        expect_nothing(&peer);
    }
    assert_true(fake_ready(fake_queue(&worker, "a")) + fake_ready(fake_queue(&worker, "b")) == 0);
    SAY(&peer, 1, basic_nack, .multiple = true, .requeue = true);
    for (uint64_t tag = 21; tag <= 25; tag++)
        expect_delivery(&peer, 1, tag, true, "m");
    /* without a limit again */
    for (int i = 0; i < 10; i++)
        fake_put(&worker, "a", TEXT("m"));
    peer_run(&peer);
    expect_nothing(&peer);
    ASK(&peer, 1, basic_qos_ok, basic_qos, .global = true);
    for (int i = 0; i < 30; i++)
        assert_true(peer_frame(&peer, &frame));
    expect_nothing(&peer);
    end(&peer);
}

static void test_settling(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    for (int i = 0; i < 6; i++)
        fake_put(&worker, "a", TEXT("m"));
    ASK(&peer, 1, basic_qos_ok, basic_qos, .prefetch_count = 6);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("t"));
    for (uint64_t tag = 1; tag <= 6; tag++)
        expect_delivery(&peer, 1, tag, false, "m");
    ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = TEXT("t"));
    SAY(&peer, 1, basic_ack, .delivery_tag = 1);
    SAY(&peer, 1, basic_reject, .delivery_tag = 2);
    SAY(&peer, 1, basic_reject, .delivery_tag = 3, .requeue = true);
    SAY(&peer, 1, basic_nack, .delivery_tag = 4, .requeue = true);
    SAY(&peer, 1, basic_nack, .delivery_tag = 5);
    expect_nothing(&peer);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 1);
    assert_true(worker.settled[OUTCOME_REJECT] == 2);
    assert_true(worker.settled[OUTCOME_RETURN_COUNTED] == 1);
    assert_true(worker.settled[OUTCOME_RETURN] == 1);
    ASK(&peer, 1, basic_recover_ok, basic_recover, .requeue = true);
    assert_true(worker.settled[OUTCOME_RETURN] == 2);
    SAY(&peer, 1, basic_recover_async, .requeue = true);
    expect_nothing(&peer);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 3);
    struct method m = ASK(&peer, 1, basic_get_ok, basic_get, .queue = TEXT("a"));
    assert_true(m.basic_get_ok.redelivered && m.basic_get_ok.message_count == 2);
    expect_content(&peer, 1, slice_of(NULL, 0), TEXT("m"));
    SAY(&peer, 1, basic_ack, .delivery_tag = 6);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - unknown delivery tag 6",
                         METHOD_basic_ack);
    SAY(&peer, 1, basic_ack, .delivery_tag = 0);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - unknown delivery tag 0",
                         METHOD_basic_ack);
    SAY(&peer, 1, basic_nack, .delivery_tag = 5, .multiple = true);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - unknown delivery tag 5",
                         METHOD_basic_nack);
    SAY(&peer, 1, basic_reject, .delivery_tag = 5);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - unknown delivery tag 5",
                         METHOD_basic_reject);
    SAY(&peer, 1, basic_ack, .delivery_tag = 0, .multiple = true);
    expect_nothing(&peer);
    SAY(&peer, 1, basic_recover, .requeue = false);
    expect_connection_close(&peer, 540, "NOT_IMPLEMENTED - requeue=false", METHOD_basic_recover);
    end(&peer);
}

/* A socket that takes nothing: deliveries stop at the high water mark, and go on after. */
static void test_slow_socket(const struct ways *ways)
{
    static char body[5000];

    for (int no_ack = 0; no_ack < 2; no_ack++) {
        struct peer peer;
        begin(&peer, ways);
        declare(&peer, 1, "a");
        for (int i = 0; i < 1000; i++)
            fake_put(&worker, "a", slice_of(body, sizeof body));
        peer.keep_output = true;
        SAY(&peer, 1, basic_consume, .queue = TEXT("a"), .no_ack = no_ack);
        size_t held = output_pending(&peer.wire.output);
        /* what a message costs in memory is a little more than its bytes on the wire */
        assert_true(held > OUTPUT_HIGH_WATER * 9 / 10 && held < OUTPUT_HIGH_WATER + 6000);
        assert_true(fake_ready(fake_queue(&worker, "a")) > 700);
        peer.keep_output = false;
        peer_run(&peer);
        assert_true(fake_ready(fake_queue(&worker, "a")) == 0);
        expect(&peer, 1, METHOD_basic_consume_ok);
        for (uint64_t tag = 1; tag <= 1000; tag++) {
            struct method m = expect(&peer, 1, METHOD_basic_deliver);
            assert_true(m.basic_deliver.delivery_tag == tag);
            expect_content(&peer, 1, slice_of(NULL, 0), slice_of(body, sizeof body));
        }
        expect_nothing(&peer);
        end(&peer);
    }
}

/* A client that asks to close while its output stands: what drains then resumes nobody. */
static void test_slow_socket_closes(const struct ways *ways)
{
    static const char *const queues[] = {"a", "b"}; /* one has not the credit to fill the output */
    static char body[5000];
    struct peer peer;

    begin(&peer, ways);
    for (int q = 0; q < 2; q++) {
        declare(&peer, 1, queues[q]);
        for (int i = 0; i < 1000; i++)
            fake_put(&worker, queues[q], slice_of(body, sizeof body));
    }
    peer.keep_output = true;
    for (int q = 0; q < 2; q++)
        SAY(&peer, 1, basic_consume, .queue = slice_text(queues[q]));
    SAY(&peer, 0, connection_close, .reply_code = 200);
    peer.keep_output = false;
    peer_run(&peer);
    for (int q = 0; q < 2; q++)
        assert_true(fake_ready(fake_queue(&worker, queues[q])) == 1000);
    end(&peer);
}

/* An output that is never quite empty because of another consumer, and never high: credit for bytes
 * comes back all the same. */
static void test_busy_socket(const struct ways *ways)
{
    static char body[5000];
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    declare(&peer, 1, "b");
    for (int i = 0; i < 2000; i++)
        fake_put(&worker, "a", slice_of(body, sizeof body));
    for (int i = 0; i < 800; i++)
        fake_put(&worker, "b", slice_of(body, sizeof body));
    ASK_EMPTY(&peer, 2, channel_open_ok, channel_open);
    ASK(&peer, 2, basic_qos_ok, basic_qos, .prefetch_count = 1);
    peer.leave = OUTPUT_LOW_WATER + 1000;
    SAY(&peer, 1, basic_consume, .queue = TEXT("a"), .no_ack = true);
    SAY(&peer, 2, basic_consume, .queue = TEXT("b"));
    struct catalog_queue *a = fake_queue(&worker, "a");
    uint64_t before = fake_ready(a);
    assert_true(before > 800 && before < 2000);
    for (uint64_t tag = 1; tag <= 720; tag++) {
        SAY(&peer, 2, basic_ack, .delivery_tag = tag);
        if (tag % 80 == 0) {
            assert_true(fake_ready(a) < before || before == 0);
            before = fake_ready(a);
        }
    }
    assert_true(before == 0);
    end(&peer);
}

/* 100,000 unacknowledged: given back, settled and recovered in slices. */
#define MANY 100000u

static void fill_unacked(struct peer *peer)
{
    declare(peer, 1, "a");
    for (unsigned i = 0; i < MANY; i++)
        fake_put(&worker, "a", TEXT("m"));
    SAY(peer, 1, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("t"));
    SAY(peer, 1, basic_cancel, .consumer_tag = TEXT("t"), .no_wait = true);
    peer->out_at = peer->out_size;
    assert_true(fake_leased(fake_queue(&worker, "a")) == MANY);
}

static void test_slices(const struct ways *ways)
{
    struct peer peer;
    struct method m;

    if (ways->step == 1)
        return; /* the way the input comes means nothing here */
    begin(&peer, ways);
    fill_unacked(&peer);
    /* one turn settles a slice; what is behind it waits, another channel does not */
    ASK_EMPTY(&peer, 2, channel_open_ok, channel_open);
    peer_send_method(&peer, 1,
                     &(struct method){.id = METHOD_basic_ack,
                                      .basic_ack = {.delivery_tag = 50000, .multiple = true}});
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_confirm_select});
    peer_send_method(&peer, 2, &(struct method){.id = METHOD_confirm_select});
    size_t size = peer.in_size;
    ssize_t used = amqp091_protocol.input(peer.session, slice_of(peer.in, size));
    assert_int_equal(used, size);
    peer.in_size = 0;
    assert_true(worker.settled[OUTCOME_ACCEPT] > 0 && worker.settled[OUTCOME_ACCEPT] <= 8192);
    assert_true(peer.wire.again);
    peer_run(&peer);
    expect(&peer, 2, METHOD_confirm_select_ok);
    expect(&peer, 1, METHOD_confirm_select_ok);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 50000);
    m = ASK(&peer, 1, basic_recover_ok, basic_recover, .requeue = true);
    (void)m;
    assert_true(worker.settled[OUTCOME_RETURN] == 50000);
    end(&peer);

    /* a transaction over all of them, rolled back, then committed */
    begin(&peer, ways);
    fill_unacked(&peer);
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    peer_send_method(&peer, 1,
                     &(struct method){.id = METHOD_basic_ack, .basic_ack.multiple = true});
    SAY_EMPTY(&peer, 1, tx_rollback);
    expect(&peer, 1, METHOD_tx_rollback_ok);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 0);
    peer_send_method(&peer, 1,
                     &(struct method){.id = METHOD_basic_ack,
                                      .basic_ack = {.delivery_tag = MANY, .multiple = true}});
    SAY_EMPTY(&peer, 1, tx_commit);
    expect(&peer, 1, METHOD_tx_commit_ok);
    assert_true(worker.settled[OUTCOME_ACCEPT] == MANY);
    end(&peer);

    /* the end in the middle of that */
    begin(&peer, ways);
    fill_unacked(&peer);
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    peer_send_method(&peer, 1,
                     &(struct method){.id = METHOD_basic_ack, .basic_ack.multiple = true});
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_tx_rollback});
    used = amqp091_protocol.input(peer.session, slice_of(peer.in, peer.in_size));
    assert_int_equal(used, peer.in_size);
    for (int i = 0; i < 26; i++)
        amqp091_protocol.input(peer.session, slice_of(NULL, 0));
    end(&peer);

    /* the end of a session: each call gives back a slice */
    begin(&peer, ways);
    fill_unacked(&peer);
    int calls = 1;
    uint64_t before = 0;
    while (!amqp091_protocol.close(peer.session, CLOSE_PEER)) {
        assert_true(worker.settled[OUTCOME_RETURN_COUNTED] - before <= 8192);
        before = worker.settled[OUTCOME_RETURN_COUNTED];
        calls++;
    }
    assert_true(calls > 10);
    assert_true(worker.settled[OUTCOME_RETURN_COUNTED] == MANY);
    end(&peer);

    /* channel.close, with the next channel.open behind it */
    begin(&peer, ways);
    fill_unacked(&peer);
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_channel_close});
    SAY_EMPTY(&peer, 1, channel_open);
    expect(&peer, 1, METHOD_channel_close_ok);
    expect(&peer, 1, METHOD_channel_open_ok);
    assert_true(fake_ready(fake_queue(&worker, "a")) == MANY);
    end(&peer);

    /* an error of the channel; the client answers before all is given back, and opens again */
    begin(&peer, ways);
    fill_unacked(&peer);
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_basic_ack});
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_channel_close_ok});
    SAY_EMPTY(&peer, 1, channel_open);
    expect(&peer, 1, METHOD_channel_close);
    expect(&peer, 1, METHOD_channel_open_ok);
    assert_true(fake_ready(fake_queue(&worker, "a")) == MANY);
    end(&peer);

    /* connection.close: close-ok when all is given back */
    begin(&peer, ways);
    fill_unacked(&peer);
    ASK_EMPTY(&peer, 0, connection_close_ok, connection_close);
    assert_true(fake_ready(fake_queue(&worker, "a")) == MANY);
    end(&peer);
}

/* While one channel waits, another goes on; what waits comes in order; what is too much is not
 * read. */
static void test_parking(const struct ways *ways)
{
    struct peer peer;
    char name[32];
    struct method m;

    begin(&peer, ways);
    ASK_EMPTY(&peer, 2, channel_open_ok, channel_open);
    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "q%d", i);
        struct method declare_it = {.id = METHOD_queue_declare};
        declare_it.queue_declare.queue = TEXT(name);
        peer_send_method(&peer, 1, &declare_it);
        peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT(name)},
                     slice_of(NULL, 0), TEXT("behind its declare"), 5);
        peer_send_method(&peer, 2, &(struct method){.id = METHOD_basic_qos});
    }
    struct method get = {.id = METHOD_basic_get, .basic_get.no_ack = true};
    peer_send_method(&peer, 1, &get);
    peer_run(&peer);
    int declared = 0, qos = 0;
    struct frame frame;
    while (declared < 50 || qos < 50) {
        struct failure failure;
        assert_true(peer_frame(&peer, &frame));
        assert_int_equal(amqp091_method_decode(frame.payload, &m, &failure), 0);
        if (frame.channel == 2) {
            assert_int_equal(m.id, METHOD_basic_qos_ok);
            qos++;
        } else {
            assert_int_equal(m.id, METHOD_queue_declare_ok);
            snprintf(name, sizeof name, "q%d", declared++);
            assert_true(slice_is(m.queue_declare_ok.queue, name));
        }
    }
    expect(&peer, 1, METHOD_basic_get_ok);
    expect_content(&peer, 1, slice_of(NULL, 0), TEXT("behind its declare"));
    expect_nothing(&peer);
    end(&peer);
}

static void test_parking_bound(const struct ways *ways)
{
    struct peer peer;
    static char body[60000];

    if (ways->pending_percent != 100 || ways->step == 1)
        return;
    begin(&peer, ways);
    peer_send_method(
        &peer, 1, &(struct method){.id = METHOD_queue_declare, .queue_declare.queue = TEXT("a")});
    for (int i = 0; i < 100; i++)
        peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")}, slice_of(NULL, 0),
                     slice_of(body, sizeof body), 0);
    size_t sent = peer.in_size;
    ssize_t used = amqp091_protocol.input(peer.session, slice_of(peer.in, sent));
    assert_true(used > 0 && (size_t)used < 1200000);
    assert_true(peer.wire.paused);
    memmove(peer.in, peer.in + used, sent - (size_t)used);
    peer.in_size -= (size_t)used;
    peer_run(&peer);
    expect(&peer, 1, METHOD_queue_declare_ok);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 100);
    assert_false(peer.wire.paused);
    end(&peer);
}

/* ---- direct reply-to ---- */

static void test_direct_reply_to(const struct ways *ways)
{
    struct peer peer;
    static const char properties[] = "\x02\x00\x15"
                                     "amq.rabbitmq.reply-to";

    begin(&peer, ways);
    declare(&peer, 1, "rpc");
    SAY(&peer, 1, basic_consume, .queue = TEXT("amq.rabbitmq.reply-to"));
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - reply consumer cannot acknowledge",
                         METHOD_basic_consume);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("amq.rabbitmq.reply-to"),
        .no_ack = true, .consumer_tag = TEXT("replies"));
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("rpc")},
                 slice_of(properties, 24), TEXT("question"), 0);
    peer_run(&peer);
    expect_nothing(&peer);

    /* the server answers on its own channel to the address it finds */
    ASK_EMPTY(&peer, 2, channel_open_ok, channel_open);
    SAY(&peer, 2, basic_get, .queue = TEXT("rpc"), .no_ack = true);
    expect(&peer, 2, METHOD_basic_get_ok);
    struct frame frame;
    struct content_header header;
    struct amqp091_properties got;
    char address[256];
    assert_true(peer_frame(&peer, &frame));
    assert_int_equal(amqp091_content_header_decode(frame.payload, &header), 0);
    assert_int_equal(amqp091_properties_parse(header.properties, &got), 0);
    assert_true(slice_starts(got.reply_to, "amq.rabbitmq.reply-to."));
    snprintf(address, sizeof address, "%.*s", SLICE_ARGS(got.reply_to));
    assert_true(peer_frame(&peer, &frame));
    struct method m = ASK(&peer, 2, queue_declare_ok, queue_declare, .queue = TEXT(address));
    assert_int_equal(m.queue_declare_ok.consumer_count, 1);
    publish(&peer, 2, "", address, "answer");
    m = expect(&peer, 1, METHOD_basic_deliver);
    assert_true(slice_is(m.basic_deliver.consumer_tag, "replies"));
    expect_content(&peer, 1, slice_of(NULL, 0), TEXT("answer"));

    SAY(&peer, 1, basic_consume, .queue = TEXT("amq.rabbitmq.reply-to"), .no_ack = true);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - reply consumer already set",
                         METHOD_basic_consume);
    assert_null(fake_queue(&worker, address));
    char text[300];
    snprintf(text, sizeof text, "NOT_FOUND - no queue '%s' in vhost '/'", address);
    SAY(&peer, 2, queue_declare, .queue = TEXT(address));
    expect_channel_close(&peer, 2, 404, text, METHOD_queue_declare);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("amq.rabbitmq.reply-to"),
        .no_ack = true, .consumer_tag = TEXT("replies"));
    ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = TEXT("replies"));
    assert_true(list_empty(&worker.queues) || list_first(&worker.queues)->next == &worker.queues);
    end(&peer);
}

/* A client that goes away at any moment leaves nothing behind. */
static void test_sudden_end(const struct ways *ways)
{
    for (int turns = 0; turns < 6; turns++) {
        struct peer peer;
        begin(&peer, ways);
        for (int i = 0; i < 3; i++)
            fake_run(&worker);
        declare(&peer, 1, "a");
        for (int i = 0; i < 10; i++)
            fake_put(&worker, "a", TEXT("m"));
        ASK_EMPTY(&peer, 2, channel_open_ok, channel_open);
        ASK_EMPTY(&peer, 2, tx_select_ok, tx_select);
        ASK_EMPTY(&peer, 3, channel_open_ok, channel_open);
        SAY(&peer, 2, basic_get, .queue = TEXT("a"));
        SAY(&peer, 2, basic_ack, .delivery_tag = 1);
        publish(&peer, 2, "", "a", "in the transaction");
        peer_send_method(&peer, 2, &(struct method){.id = METHOD_tx_commit});
        peer_send_method(
            &peer, 1,
            &(struct method){.id = METHOD_basic_consume, .basic_consume.queue = TEXT("a")});
        peer_send_method(&peer, 3,
                         &(struct method){.id = METHOD_basic_get, .basic_get.queue = TEXT("a")});
        peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")}, slice_of(NULL, 0),
                     TEXT("half of it"), 5);
        ssize_t used = amqp091_protocol.input(peer.session, slice_of(peer.in, peer.in_size - 3));
        assert_true(used > 0);
        for (int i = 0; i < turns; i++)
            fake_run(&worker);
        end(&peer);
    }
}

/* A cancelled consumer, whose last delivery is settled by a commit that nobody waits for. */
static void test_closed_while_committing(const struct ways *ways)
{
    struct peer peer;
    uint8_t memory[64];
    struct writer writer = writer_of(memory, sizeof memory);

    begin(&peer, ways);
    declare(&peer, 1, "a");
    fake_put(&worker, "a", TEXT("m"));
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    SAY(&peer, 1, basic_consume, .queue = TEXT("a"), .consumer_tag = TEXT("c"));
    expect(&peer, 1, METHOD_basic_consume_ok);
    expect_delivery(&peer, 1, 1, false, "m");
    ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = TEXT("c"));
    SAY(&peer, 1, basic_ack, .delivery_tag = 1);
    amqp091_method_write(&writer, 1, &(struct method){.id = METHOD_tx_commit});
    struct slice commit = slice_of(memory, writer_size(&writer));
    assert_int_equal(amqp091_protocol.input(peer.session, commit), commit.size);
    end(&peer);
}

int main(void)
{
    static const struct scenario scenarios[] = {
        {"consume", test_consume},
        {"closed_while_committing", test_closed_while_committing},
        {"consume_errors", test_consume_errors},
        {"cancel_notification", test_cancel_notification},
        {"deleted_meanwhile", test_deleted_meanwhile},
        {"prefetch", test_prefetch},
        {"global_prefetch", test_global_prefetch},
        {"settling", test_settling},
        {"slow_socket", test_slow_socket},
        {"slow_socket_closes", test_slow_socket_closes},
        {"busy_socket", test_busy_socket},
        {"slices", test_slices},
        {"parking", test_parking},
        {"parking_bound", test_parking_bound},
        {"direct_reply_to", test_direct_reply_to},
        {"sudden_end", test_sudden_end},
    };
    return run_scenarios(scenarios, sizeof scenarios / sizeof scenarios[0]);
}
