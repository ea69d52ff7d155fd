/* Channels, exchanges and queues: every method, its answer and its errors. */
#include "protocols/amqp091/scenario.h"

#include <stdio.h>
#include <string.h>

/* ---- channel ---- */

static void test_channel(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    struct method m = ASK(&peer, 1, channel_flow_ok, channel_flow, .active = true);
    assert_true(m.channel_flow_ok.active);
    m = ASK(&peer, 1, access_request_ok, access_request, .realm = TEXT("/data"));
    assert_int_equal(m.access_request_ok.ticket, 1);
    ASK(&peer, 1, channel_close_ok, channel_close, .reply_code = 200, .reply_text = TEXT("bye"));
    ASK_EMPTY(&peer, 1, channel_open_ok, channel_open);
    /* close and open again in one go */
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_channel_close});
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_channel_open});
    SAY(&peer, 1, queue_declare, .queue = TEXT("a"));
    expect(&peer, 1, METHOD_channel_close_ok);
    expect(&peer, 1, METHOD_channel_open_ok);
    expect(&peer, 1, METHOD_queue_declare_ok);
    SAY(&peer, 1, channel_flow, .active = false);
    expect_connection_close(&peer, 540, "NOT_IMPLEMENTED - active=false", METHOD_channel_flow);
    end(&peer);
}

/* After our close and before close-ok the client closes, too. */
static void test_crossing_closes(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    SAY(&peer, 1, queue_declare, .queue = TEXT("amq.mine"));
    expect(&peer, 1, METHOD_channel_close);
    ASK(&peer, 1, channel_close_ok, channel_close, .reply_code = 200);
    SAY_EMPTY(&peer, 1, channel_close_ok);
    expect_nothing(&peer);
    ASK_EMPTY(&peer, 1, channel_open_ok, channel_open);
    end(&peer);
}

/* ---- exchange and queue ---- */

static void test_exchange(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    ASK(&peer, 1, exchange_declare_ok, exchange_declare, .exchange = TEXT("x"),
        .type = TEXT("fanout"));
    ASK(&peer, 1, exchange_declare_ok, exchange_declare, .exchange = TEXT("x\r\n"),
        .type = TEXT("fanout"), .durable = true);
    ASK(&peer, 1, exchange_declare_ok, exchange_declare, .exchange = TEXT("x"), .passive = true);
    SAY(&peer, 1, exchange_declare, .exchange = TEXT("y"), .type = TEXT("direct"), .no_wait = true);
    expect_nothing(&peer);
    ASK(&peer, 1, exchange_bind_ok, exchange_bind, .destination = TEXT("y"), .source = TEXT("x"),
        .routing_key = TEXT("k"));
    SAY(&peer, 1, exchange_bind, .destination = TEXT("y"), .source = TEXT("x"), .no_wait = true);
    expect_nothing(&peer);
    ASK(&peer, 1, exchange_unbind_ok, exchange_unbind, .destination = TEXT("y"),
        .source = TEXT("x"), .routing_key = TEXT("k"));
    SAY(&peer, 1, exchange_unbind, .destination = TEXT("y"), .source = TEXT("x"), .no_wait = true);
    expect_nothing(&peer);
    ASK(&peer, 1, exchange_delete_ok, exchange_delete, .exchange = TEXT("y"));
    ASK(&peer, 1, exchange_delete_ok, exchange_delete, .exchange = TEXT("y"));
    SAY(&peer, 1, exchange_delete, .exchange = TEXT("z"), .no_wait = true);
    expect_nothing(&peer);

    SAY(&peer, 1, exchange_declare, .exchange = TEXT("x"), .type = TEXT("direct"));
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost "
                         "'/': received 'direct' but current is 'fanout'",
                         METHOD_exchange_declare);
    SAY(&peer, 1, exchange_declare, .exchange = TEXT("n"), .type = TEXT("direct"), .passive = true);
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no exchange 'n' in vhost '/'",
                         METHOD_exchange_declare);
    SAY(&peer, 1, exchange_declare, .exchange = TEXT("n"), .type = TEXT("none"));
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - invalid exchange type 'none'",
                         METHOD_exchange_declare);
    SAY(&peer, 1, exchange_declare, .exchange = TEXT("amq.n"), .type = TEXT("direct"));
    expect_channel_close(&peer, 1, 403,
                         "ACCESS_REFUSED - exchange name 'amq.n' contains reserved prefix 'amq.*'",
                         METHOD_exchange_declare);
    SAY(&peer, 1, exchange_declare, .exchange = TEXT(""), .type = TEXT("direct"));
    expect_channel_close(&peer, 1, 403,
                         "ACCESS_REFUSED - operation not permitted on the default exchange",
                         METHOD_exchange_declare);
    SAY(&peer, 1, exchange_delete, .exchange = TEXT(""));
    expect_channel_close(&peer, 1, 403,
                         "ACCESS_REFUSED - operation not permitted on the default exchange",
                         METHOD_exchange_delete);
    SAY(&peer, 1, exchange_delete, .exchange = TEXT("x"), .if_unused = true);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use",
                         METHOD_exchange_delete);
    SAY(&peer, 1, exchange_bind, .destination = TEXT(""), .source = TEXT("x"));
    expect_channel_close(&peer, 1, 403,
                         "ACCESS_REFUSED - operation not permitted on the default exchange",
                         METHOD_exchange_bind);
    SAY(&peer, 1, exchange_unbind, .destination = TEXT("x"), .source = TEXT("none"));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no exchange 'none' in vhost '/'",
                         METHOD_exchange_unbind);
    end(&peer);
}

static void test_queue(const struct ways *ways)
{
    struct peer peer;
    struct method m;

    begin(&peer, ways);
    m = ASK(&peer, 1, queue_declare_ok, queue_declare, .queue = TEXT(""));
    assert_true(slice_starts(m.queue_declare_ok.queue, "amq.gen-"));
    ASK(&peer, 1, queue_bind_ok, queue_bind, .exchange = TEXT("amq.direct"));
    publish(&peer, 1, "amq.direct", "amq.gen-1", "by its own name");
    m = ASK(&peer, 1, queue_declare_ok, queue_declare, .queue = TEXT("amq.gen-1"), .passive = true);
    assert_true(slice_is(m.queue_declare_ok.queue, "amq.gen-1"));
    assert_int_equal(m.queue_declare_ok.message_count, 1);
    m = ASK(&peer, 1, queue_purge_ok, queue_purge, .queue = TEXT(""));
    assert_int_equal(m.queue_purge_ok.message_count, 1);
    ASK(&peer, 1, queue_unbind_ok, queue_unbind, .exchange = TEXT("amq.direct"));
    m = ASK(&peer, 1, queue_declare_ok, queue_declare, .queue = TEXT("a\nb"));
    assert_true(slice_is(m.queue_declare_ok.queue, "ab"));
    SAY(&peer, 1, queue_declare, .queue = TEXT("c"), .no_wait = true);
    SAY(&peer, 1, queue_bind, .queue = TEXT("c"), .exchange = TEXT("amq.fanout"), .no_wait = true);
    SAY(&peer, 1, queue_purge, .queue = TEXT("c"), .no_wait = true);
    expect_nothing(&peer);
    publish(&peer, 1, "amq.fanout", "", "1");
    m = ASK(&peer, 1, queue_delete_ok, queue_delete, .queue = TEXT(""));
    assert_int_equal(m.queue_delete_ok.message_count, 1);
    m = ASK(&peer, 1, queue_delete_ok, queue_delete, .queue = TEXT("c"));
    assert_int_equal(m.queue_delete_ok.message_count, 0);
    SAY(&peer, 1, queue_delete, .queue = TEXT("ab"), .no_wait = true);
    expect_nothing(&peer);
    assert_null(fake_queue(&worker, "ab"));
    m = ASK(&peer, 1, queue_declare_ok, queue_declare, .queue = TEXT("amq.rabbitmq.reply-to"));
    assert_int_equal(m.queue_declare_ok.consumer_count, 1);

    SAY(&peer, 1, queue_declare, .queue = TEXT("amq.c"));
    expect_channel_close(&peer, 1, 403,
                         "ACCESS_REFUSED - queue name 'amq.c' contains reserved prefix 'amq.*'",
                         METHOD_queue_declare);
    /* the empty name stands for the last queue with other methods only */
    declare(&peer, 1, "d");
    SAY(&peer, 1, queue_declare, .passive = true);
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no queue '' in vhost '/'",
                         METHOD_queue_declare);
    SAY(&peer, 1, queue_declare, .queue = TEXT("none"), .passive = true);
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no queue 'none' in vhost '/'",
                         METHOD_queue_declare);
    declare(&peer, 1, "d");
    SAY(&peer, 1, queue_declare, .queue = TEXT("d"), .durable = true);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'd' in vhost "
                         "'/': received 'true' but current is 'false'",
                         METHOD_queue_declare);
    publish(&peer, 1, "", "d", "1");
    SAY(&peer, 1, queue_delete, .queue = TEXT("d"), .if_empty = true);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - queue 'd' in vhost '/' not empty",
                         METHOD_queue_delete);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("d"));
    expect_delivery(&peer, 1, 1, false, "1");
    SAY(&peer, 1, queue_delete, .queue = TEXT("d"), .if_unused = true);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - queue 'd' in vhost '/' in use",
                         METHOD_queue_delete);
    SAY(&peer, 1, queue_purge, .queue = TEXT("none"));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no queue 'none' in vhost '/'",
                         METHOD_queue_purge);
    SAY(&peer, 1, queue_bind, .queue = TEXT("none"), .exchange = TEXT("amq.direct"));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no queue 'none' in vhost '/'",
                         METHOD_queue_bind);
    SAY(&peer, 1, queue_bind, .queue = TEXT("d"), .exchange = TEXT(""));
    expect_channel_close(&peer, 1, 403,
                         "ACCESS_REFUSED - operation not permitted on the default exchange",
                         METHOD_queue_bind);
    SAY(&peer, 1, queue_bind, .queue = TEXT("amq.rabbitmq.reply-to.x"),
        .exchange = TEXT("amq.direct"));
    expect_channel_close(
        &peer, 1, 403,
        "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue",
        METHOD_queue_bind);
    SAY(&peer, 1, queue_unbind, .queue = TEXT("d"), .exchange = TEXT("none"));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no exchange 'none' in vhost '/'",
                         METHOD_queue_unbind);
    /* nothing was declared on this channel */
    SAY(&peer, 1, queue_purge, .queue = TEXT(""));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no previously declared queue",
                         METHOD_queue_purge);
    SAY(&peer, 1, basic_get, .queue = TEXT(""));
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no previously declared queue",
                         METHOD_basic_get);
    end(&peer);
}

static void test_exclusive_queue(const struct ways *ways)
{
    struct peer one, two;

    begin(&one, ways);
    assert_int_equal(peer_open(&two, &worker), 0);
    log_in(&two, true);
    SAY(&two, 0, connection_tune_ok, .channel_max = 2047, .frame_max = 131072);
    ASK(&two, 0, connection_open_ok, connection_open, .virtual_host = TEXT("/"));
    ASK_EMPTY(&two, 1, channel_open_ok, channel_open);
    ASK(&one, 1, queue_declare_ok, queue_declare, .queue = TEXT("mine"), .exclusive = true);
    SAY(&two, 1, queue_declare, .queue = TEXT("mine"), .exclusive = true);
    expect_channel_close(&two, 1, 405,
                         "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' "
                         "in vhost '/'",
                         METHOD_queue_declare);
    /* it is gone before close-ok is sent */
    ASK(&one, 0, connection_close_ok, connection_close, .reply_code = 200);
    assert_null(fake_queue(&worker, "mine"));
    peer_close(&one);
    ASK(&two, 1, queue_declare_ok, queue_declare, .queue = TEXT("mine"), .exclusive = true);
    end(&two);
}

int main(void)
{
    static const struct scenario scenarios[] = {
        {"channel", test_channel},
        {"crossing_closes", test_crossing_closes},
        {"exchange", test_exchange},
        {"queue", test_queue},
        {"exclusive_queue", test_exclusive_queue},
    };
    return run_scenarios(scenarios, sizeof scenarios / sizeof scenarios[0]);
}
