/* The connection: handshake, errors of frames, heartbeats, the end. */
#include "protocols/amqp091/scenario.h"

#include <stdio.h>
#include <string.h>

/* ---- connection ---- */

static void test_handshake(const struct ways *ways)
{
    struct peer peer;
    struct field field;
    struct slice text;
    bool flag = false;

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    peer.step = ways->step;
    send_header(&peer);
    peer_run(&peer);
    struct method m = expect(&peer, 0, METHOD_connection_start);
    struct slice properties = m.connection_start.server_properties;
    assert_int_equal(m.connection_start.version_minor, 9);
    assert_true(slice_is(m.connection_start.mechanisms, "PLAIN AMQPLAIN"));
    assert_true(fields_text(properties, "product", &text) && slice_is(text, "RabbitMQ"));
    assert_true(fields_text(properties, "version", &text) && slice_starts(text, "4.3."));
    assert_true(fields_text(properties, "cluster_name", &text) && slice_is(text, "fake"));
    assert_true(fields_find(properties, TEXT("capabilities"), &field) && field.type == 'F');
    assert_true(fields_boolean(field.value.bytes, "direct_reply_to", &flag) && flag);
    assert_true(fields_boolean(field.value.bytes, "per_consumer_qos", &flag) && flag);

    uint8_t table[64];
    struct writer w = writer_of(table, sizeof table);
    fields_put_text(&w, "LOGIN", TEXT("guest"));
    fields_put_text(&w, "PASSWORD", TEXT("guest"));
    m = ASK(&peer, 0, connection_tune, connection_start_ok, .mechanism = TEXT("AMQPLAIN"),
            .response = slice_of(table, writer_size(&w)), .locale = TEXT("en_US"));
    assert_int_equal(m.connection_tune.channel_max, 2047);
    assert_int_equal(m.connection_tune.frame_max, 131072);
    assert_int_equal(m.connection_tune.heartbeat, 60);
    assert_false(peer.wire.is_established);
    SAY(&peer, 0, connection_tune_ok, .channel_max = 10, .frame_max = 4096, .heartbeat = 10);
    /* open and what follows may come together */
    peer_send_method(
        &peer, 0,
        &(struct method){.id = METHOD_connection_open, .connection_open.virtual_host = TEXT("/")});
    SAY_EMPTY(&peer, 1, channel_open);
    expect(&peer, 0, METHOD_connection_open_ok);
    expect(&peer, 1, METHOD_channel_open_ok);
    assert_true(peer.wire.is_established);
    ASK(&peer, 0, connection_close_ok, connection_close, .reply_code = 200);
    assert_true(peer.wire.finished);
    end(&peer);
}

static void test_bad_header(const struct ways *ways)
{
    static const char *const headers[] = {"AMQP\x00\x01\x00\x00", "GET / HT",
                                          "AMQP\x01\x01\x08\x00"};

    for (size_t i = 0; i < 3; i++) {
        struct peer peer;
        fake_init(&worker, ways->seed, ways->pending_percent);
        assert_int_equal(peer_open(&peer, &worker), 0);
        peer.step = ways->step;
        peer_send(&peer, headers[i], 8);
        peer_run(&peer);
        assert_int_equal(peer.out_size, 8);
        assert_memory_equal(peer.out, "AMQP\0\0\x09\x01", 8);
        assert_true(peer.wire.finished);
        end(&peer);
    }
}

static void refuse_login(const struct ways *ways, bool capable)
{
    struct peer peer;
    uint8_t table[200];
    size_t size = capabilities(table, sizeof table, capable);

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    peer.step = ways->step;
    send_header(&peer);
    peer_run(&peer);
    expect(&peer, 0, METHOD_connection_start);
    SAY(&peer, 0, connection_start_ok, .client_properties = slice_of(table, size),
        .mechanism = TEXT("PLAIN"), .response = slice_of("\0guest\0wrong", 12),
        .locale = TEXT("en_US"));
    if (capable) {
        expect_connection_close(
            &peer, 403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details "
            "see the broker logfile.",
            0);
        close_ok(&peer);
    } else {
        expect_nothing(&peer);
        assert_true(peer.wire.finished);
    }
    end(&peer);
}

static void test_login_refused(const struct ways *ways)
{
    refuse_login(ways, true);
    refuse_login(ways, false);
}

/* What is wrong before somebody has logged in ends the connection without a word, with a line. */
static void test_handshake_broken(const struct ways *ways)
{
    struct method methods[] = {
        {.id = METHOD_connection_start_ok,
         .connection_start_ok = {.mechanism = TEXT("EXTERNAL"), .locale = TEXT("en_US")}},
        {.id = METHOD_connection_start_ok,
         .connection_start_ok = {.mechanism = TEXT("PLAIN"), .response = TEXT("guest")}},
        {.id = METHOD_connection_start_ok,
         .connection_start_ok = {.mechanism = TEXT("AMQPLAIN"), .response = TEXT("?")}},
        {.id = METHOD_connection_open, .connection_open.virtual_host = TEXT("/")},
    };
    static const char *const lines[] = {
        "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'",
        "SYNTAX_ERROR - PLAIN response invalid",
        "SYNTAX_ERROR - AMQPLAIN response invalid",
        "CHANNEL_ERROR - unexpected method in connection state starting",
    };
    for (size_t i = 0; i < 4; i++) {
        struct peer peer;
        fake_init(&worker, ways->seed, ways->pending_percent);
        assert_int_equal(peer_open(&peer, &worker), 0);
        peer.step = ways->step;
        send_header(&peer);
        peer_run(&peer);
        expect(&peer, 0, METHOD_connection_start);
        say(&peer, 0, &methods[i]);
        expect_nothing(&peer);
        assert_true(peer.wire.finished);
        assert_non_null(strstr(worker.last_line, lines[i]));
        end(&peer);
    }
}

static void refuse_tune(const struct ways *ways, struct connection_tune_ok ok, const char *text)
{
    struct peer peer;

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    peer.step = ways->step;
    log_in(&peer, true);
    say(&peer, 0, &(struct method){.id = METHOD_connection_tune_ok, .connection_tune_ok = ok});
    expect_connection_close(&peer, 530, text, METHOD_connection_tune);
    close_ok(&peer);
    end(&peer);
}

static void test_tune(const struct ways *ways)
{
    refuse_tune(ways, (struct connection_tune_ok){2047, 4095, 60},
                "NOT_ALLOWED - negotiated frame_max = 4095 is lower than the minimum allowed value "
                "(4096)");
    refuse_tune(ways, (struct connection_tune_ok){2047, 131073, 60},
                "NOT_ALLOWED - negotiated frame_max = 131073 is higher than the maximum allowed "
                "value (131072)");
    refuse_tune(ways, (struct connection_tune_ok){2047, 0, 60},
                "NOT_ALLOWED - negotiated frame_max = 0 is higher than the maximum allowed value "
                "(131072)");
    refuse_tune(ways, (struct connection_tune_ok){0, 131072, 60},
                "NOT_ALLOWED - negotiated channel_max = 0 (no limit) is higher than the maximum "
                "allowed value (2047)");
}

static void test_unknown_vhost(const struct ways *ways)
{
    struct peer peer;

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    log_in(&peer, true);
    SAY(&peer, 0, connection_tune_ok, .channel_max = 2047, .frame_max = 131072);
    SAY(&peer, 0, connection_open, .virtual_host = TEXT("nowhere"));
    expect_connection_close(&peer, 530, "NOT_ALLOWED - vhost nowhere not found",
                            METHOD_connection_open);
    close_ok(&peer);
    end(&peer);
}

static void test_connection_limit(const struct ways *ways)
{
    struct peer peer;

    fake_init(&worker, ways->seed, ways->pending_percent);
    worker.refuse_clients = true;
    assert_int_equal(peer_open(&peer, &worker), E_LIMIT);
    assert_non_null(strstr(worker.last_line, "connection limit is reached"));
    output_fini(&peer.wire.output);
    fake_fini(&worker);
}

static void break_frames(const struct ways *ways, const void *bytes, size_t size, uint16_t code,
                         const char *text, uint32_t method_id)
{
    struct peer peer;

    begin(&peer, ways);
    peer_send(&peer, bytes, size);
    peer_run(&peer);
    expect_connection_close(&peer, code, text, method_id);
    end(&peer);
}

static void test_frame_errors(const struct ways *ways)
{
    break_frames(ways,
                 "\x05\0\0\0\0\0\x01"
                 "A\xce",
                 9, 501, "FRAME_ERROR - type 5, all octets = <<65>>: unknown_frame", 0);
    break_frames(ways, "\x05\0\x01\0\0\0\0\xce", 8, 501,
                 "FRAME_ERROR - type 5, all octets = <<>>: unknown_frame", 0);
    break_frames(ways,
                 "\x01\0\x01\0\0\0\x04\0\x14\0\x28"
                 "A",
                 12, 501,
                 "FRAME_ERROR - type 1, all octets = <<0,20,0,40>>: {invalid_frame_end_marker,65}",
                 0);
    break_frames(ways, "\x03\0\x01\0\x02\0\x01", 7, 501,
                 "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,131073,131064}", 0);
    break_frames(ways, "\x08\0\x01\0\0\0\0\xce", 8, 505,
                 "UNEXPECTED_FRAME - type 8, all octets = <<>>", 0);
    break_frames(ways, "\x03\0\0\0\0\0\0\xce", 8, 505,
                 "UNEXPECTED_FRAME - type 3, all octets = <<>>", 0);
    break_frames(ways, "\x03\0\x01\0\0\0\0\xce", 8, 505,
                 "UNEXPECTED_FRAME - expected method frame, got non method frame instead", 0);
    break_frames(ways, "\x01\0\x01\0\0\0\x04\0\x3c\0\x29\xce", 12, 503,
                 "COMMAND_INVALID - unknown method 41 of class 60", METHOD_ID(60, 41));
    break_frames(ways, "\x01\0\0\0\0\0\x04\0\x3c\0\x29\xce", 12, 503,
                 "COMMAND_INVALID - unknown method 41 of class 60", METHOD_ID(60, 41));
    break_frames(ways, "\x01\0\x01\0\0\0\x05\0\x3c\0\x50\x01\xce", 13, 501,
                 "FRAME_ERROR - the arguments of basic.ack end early", METHOD_basic_ack);
    break_frames(ways, "\x01\0\x01\0\0\0\x04\0\x3c\0\x28\xce", 12, 501,
                 "FRAME_ERROR - the arguments of basic.publish end early", METHOD_basic_publish);
}

/* A frame may be a little too large, as RabbitMQ has it. */
static void test_frame_max(const struct ways *ways)
{
    struct peer peer;
    static uint8_t body[131072];

    begin(&peer, ways);
    if (ways->step)
        peer.step = 4096;
    declare(&peer, 1, "a");
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")}, slice_of(NULL, 0),
                 slice_of(body, sizeof body), 0);
    peer_run(&peer);
    expect_nothing(&peer);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 1);
    end(&peer);
}

static void test_wrong_order(const struct ways *ways)
{
    struct peer peer;

    open_connection(&peer, ways, true);
    SAY(&peer, 1, queue_declare, .queue = TEXT("a"));
    expect_connection_close(&peer, 504, "CHANNEL_ERROR - expected 'channel.open'",
                            METHOD_queue_declare);
    /* deaf to all but close */
    SAY_EMPTY(&peer, 1, channel_open);
    expect_nothing(&peer);
    ASK(&peer, 0, connection_close_ok, connection_close, .reply_code = 200);
    close_ok(&peer);
    end(&peer);

    open_connection(&peer, ways, true);
    SAY_EMPTY(&peer, 0, channel_open);
    expect_connection_close(&peer, 504,
                            "CHANNEL_ERROR - unexpected method in connection state running",
                            METHOD_channel_open);
    end(&peer);

    begin(&peer, ways);
    SAY_EMPTY(&peer, 1, channel_open);
    expect_connection_close(&peer, 504, "CHANNEL_ERROR - second 'channel.open' seen",
                            METHOD_channel_open);
    end(&peer);

    begin(&peer, ways);
    SAY(&peer, 1, basic_deliver, .delivery_tag = 1);
    expect_connection_close(&peer, 503, "COMMAND_INVALID - unimplemented method",
                            METHOD_basic_deliver);
    end(&peer);
}

static void test_channel_max(const struct ways *ways)
{
    struct peer peer;

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    log_in(&peer, true);
    SAY(&peer, 0, connection_tune_ok, .channel_max = 2, .frame_max = 131072);
    ASK(&peer, 0, connection_open_ok, connection_open, .virtual_host = TEXT("/"));
    /* numbers above the maximum are fine, their count is what is limited */
    ASK_EMPTY(&peer, 1, channel_open_ok, channel_open);
    ASK_EMPTY(&peer, 65535, channel_open_ok, channel_open);
    ASK(&peer, 1, channel_close_ok, channel_close, .reply_code = 200);
    ASK_EMPTY(&peer, 7, channel_open_ok, channel_open);
    SAY_EMPTY(&peer, 8, channel_open);
    expect_connection_close(
        &peer, 530,
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)",
        0);
    end(&peer);
}

static void test_heartbeat(const struct ways *ways)
{
    struct peer peer;
    struct frame frame;
    uint64_t now_ns;

    begin(&peer, ways);
    uint64_t second_ns = 1000 * NANOSECONDS_PER_MS;
    now_ns = worker.loop.now_ns;
    amqp091_protocol.tick(peer.session, now_ns);
    int heartbeats = 0;
    for (int i = 0; i < 119; i++) {
        now_ns += second_ns;
        worker.loop.now_ns = now_ns;
        uint64_t again_ns = amqp091_protocol.tick(peer.session, now_ns);
        assert_true(again_ns > now_ns && again_ns <= now_ns + 30 * second_ns);
        peer_run(&peer);
        while (peer_frame(&peer, &frame)) {
            assert_int_equal(frame.type, FRAME_HEARTBEAT);
            heartbeats++;
        }
    }
    assert_int_equal(heartbeats, 3);
    /* something comes: it lives on */
    peer_send(&peer, "\x08\0\0\0\0\0\0\xce", 8);
    peer_run(&peer);
    now_ns += 30 * second_ns;
    assert_true(amqp091_protocol.tick(peer.session, now_ns) > now_ns);
    now_ns += 121 * second_ns;
    assert_true(amqp091_protocol.tick(peer.session, now_ns) == TICK_EXPIRED);
    assert_non_null(strstr(worker.last_line, "missed heartbeats"));
    end(&peer);
}

static void test_handshake_timeout(const struct ways *ways)
{
    struct peer peer;

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    uint64_t now_ns = worker.loop.now_ns;
    assert_true(amqp091_protocol.tick(peer.session, now_ns) > now_ns);
    assert_true(amqp091_protocol.tick(peer.session, now_ns + 9999 * NANOSECONDS_PER_MS) > now_ns);
    assert_true(amqp091_protocol.tick(peer.session, now_ns + 10000 * NANOSECONDS_PER_MS) ==
                TICK_EXPIRED);
    end(&peer);
}

static void test_blocked(const struct ways *ways)
{
    for (int capable = 0; capable < 2; capable++) {
        struct peer peer;
        open_connection(&peer, ways, capable);
        ASK_EMPTY(&peer, 1, channel_open_ok, channel_open);
        declare(&peer, 1, "a");
        worker.flow = FLOW_MEMORY;
        /* asked only after a publish */
        declare(&peer, 1, "b");
        publish(&peer, 1, "", "a", "1");
        if (capable) {
            struct method m = expect(&peer, 0, METHOD_connection_blocked);
            assert_true(slice_is(m.connection_blocked.reason, "low on memory"));
        }
        expect_nothing(&peer);
        assert_true(peer.wire.paused);
        publish(&peer, 1, "", "a", "2"); /* not read */
        assert_true(fake_ready(fake_queue(&worker, "a")) == 1);
        /* who is not read is not to blame for silence */
        uint64_t now_ns = worker.loop.now_ns + 500000 * NANOSECONDS_PER_MS;
        worker.loop.now_ns = now_ns;
        assert_true(amqp091_protocol.tick(peer.session, now_ns) != TICK_EXPIRED);
        fake_set_flow(&worker, FLOW_OPEN);
        peer_run(&peer);
        if (capable)
            expect(&peer, 0, METHOD_connection_unblocked);
        struct frame frame;
        while (peer_frame(&peer, &frame))
            assert_int_equal(frame.type, FRAME_HEARTBEAT);
        assert_false(peer.wire.paused);
        assert_true(fake_ready(fake_queue(&worker, "a")) == 2);
        end(&peer);
    }
}

static void test_update_secret(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    ASK(&peer, 0, connection_update_secret_ok, connection_update_secret,
        .new_secret = TEXT("guest"), .reason = TEXT("it was time"));
    SAY(&peer, 0, connection_update_secret, .new_secret = TEXT("wrong"));
    expect_connection_close(&peer, 530,
                            "NOT_ALLOWED - New secret was refused by one of the backends",
                            METHOD_connection_update_secret);
    end(&peer);
}

static void test_kick_and_drain(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    fake_kick(&worker, "Closed via management plugin");
    peer_run(&peer);
    expect_connection_close(&peer, 320, "CONNECTION_FORCED - Closed via management plugin", 0);
    close_ok(&peer);
    end(&peer);

    begin(&peer, ways);
    amqp091_protocol.drain(peer.session, "broker is shutting down");
    peer_run(&peer);
    expect_connection_close(&peer, 320, "CONNECTION_FORCED - broker is shutting down", 0);
    /* the client says nothing more: it ends all the same */
    uint64_t now_ns = worker.loop.now_ns + 31000 * NANOSECONDS_PER_MS;
    assert_true(amqp091_protocol.tick(peer.session, now_ns) == TICK_EXPIRED);
    end(&peer);

    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    amqp091_protocol.drain(peer.session, "broker is shutting down");
    assert_true(peer.wire.finished);
    end(&peer);
}

static void test_sniff(const struct ways *ways)
{
    (void)ways;
    assert_int_equal(amqp091_protocol.sniff(slice_of("AMQP\0\0\x09\x01", 8)), SNIFF_YES);
    assert_int_equal(amqp091_protocol.sniff(slice_of("AMQP\x01\x01\0\x09", 8)), SNIFF_YES);
    assert_int_equal(amqp091_protocol.sniff(slice_of("AMQP\0\0\x09\x01more", 12)), SNIFF_YES);
    assert_int_equal(amqp091_protocol.sniff(slice_of("AMQP\x03\x01\0\0", 8)), SNIFF_NO);
    assert_int_equal(amqp091_protocol.sniff(slice_of("AMQ", 3)), SNIFF_MORE);
    assert_int_equal(amqp091_protocol.sniff(slice_of("GET ", 4)), SNIFF_NO);
}

/* Each of the client's wishes that needs memory is refused when its account is at its limit, with a
 * reason, and whatever the limit is, nothing is lost or left. */
static void test_limited_memory(const struct ways *ways)
{
    static const uint8_t large[9000];

    if (ways->step == 1)
        return;
    for (uint64_t limit = 500; limit < 60000; limit += 487) {
        struct peer peer;
        struct frame frame;
        fake_init(&worker, ways->seed, ways->pending_percent);
        worker.account.limit = limit;
        worker.message_account.limit = limit % 3 == 0 ? limit : 0;
        assert_int_equal(peer_open(&peer, &worker), 0);
        peer.step = ways->step;
        send_header(&peer);
        SAY(&peer, 0, connection_start_ok, .mechanism = TEXT("PLAIN"),
            .response = slice_of("\0guest\0guest", 12), .locale = TEXT("en_US"));
        SAY(&peer, 0, connection_tune_ok, .channel_max = 2047, .frame_max = 4096);
        SAY(&peer, 0, connection_open, .virtual_host = TEXT("/"));
        for (uint16_t channel = 1; channel <= 3; channel++) {
            SAY_EMPTY(&peer, channel, channel_open);
            SAY(&peer, channel, queue_declare, .queue = TEXT("a"));
            if (channel == 3)
                SAY_EMPTY(&peer, channel, tx_select);
            for (int i = 0; i < 40; i++)
                peer_publish(&peer, channel, &(struct basic_publish){.routing_key = TEXT("a")},
                             slice_of(NULL, 0), slice_of(large, i % 10 ? 10 : sizeof large), 4000);
            SAY_EMPTY(&peer, channel, tx_commit); /* an error on the first two */
            if (channel < 3) {
                SAY_EMPTY(&peer, channel, channel_close_ok);
                SAY_EMPTY(&peer, channel, channel_open);
            }
            for (int i = 0; i < 3; i++)
                SAY(&peer, channel, basic_consume, .queue = TEXT("a"));
            SAY(&peer, channel, basic_get, .queue = TEXT("a"));
        }
        while (peer_frame(&peer, &frame))
            if (frame.channel == 0 && load_be32(frame.payload.data) == METHOD_connection_close)
                assert_int_equal(load_be16(frame.payload.data + 4), 506);
        assert_true(worker.account.peak <= limit);
        end(&peer);
    }
}

static void test_odd_frames(const struct ways *ways)
{
    struct peer peer;
    uint8_t table[64];

    /* a channel's frame before the connection is open */
    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    peer.step = ways->step;
    log_in(&peer, true);
    SAY(&peer, 0, connection_tune_ok, .channel_max = 2047, .frame_max = 131072);
    SAY_EMPTY(&peer, 1, channel_open);
    expect_connection_close(&peer, 505, "UNEXPECTED_FRAME - type 1, all octets = <<0,20,0,10,0>>",
                            0);
    end(&peer);

    /* a table that breaks, in arguments and in headers */
    begin(&peer, ways);
    SAY(&peer, 1, queue_declare, .arguments = TEXT("\x01xZ"));
    struct method m = expect(&peer, 0, METHOD_connection_close);
    assert_int_equal(m.connection_close.reply_code, 502);
    end(&peer);
    begin(&peer, ways);
    struct writer w = writer_of(table, sizeof table);
    write_be16(&w, AMQP091_HEADERS);
    write_be32(&w, 3);
    write_bytes(&w, TEXT("\x01xZ"));
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")},
                 slice_of(table, writer_size(&w)), TEXT("body"), 0);
    peer_run(&peer);
    m = expect(&peer, 0, METHOD_connection_close);
    assert_int_equal(m.connection_close.reply_code, 502);
    end(&peer);

    /* names that are no UTF-8 */
    begin(&peer, ways);
    SAY(&peer, 1, basic_cancel, .consumer_tag = TEXT("\xff"));
    expect_connection_close(&peer, 501, "FRAME_ERROR - Malformed UTF-8 in shortstr",
                            METHOD_basic_cancel);
    end(&peer);
    begin(&peer, ways);
    SAY(&peer, 1, basic_publish, .routing_key = TEXT("\xff"));
    expect_connection_close(&peer, 501, "FRAME_ERROR - Malformed UTF-8 in shortstr",
                            METHOD_basic_publish);
    end(&peer);

    /* a client that names itself is found in the log by that name */
    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(&peer, &worker), 0);
    send_header(&peer);
    w = writer_of(table, sizeof table);
    fields_put_text(&w, "connection_name", TEXT("meter reader"));
    SAY(&peer, 0, connection_start_ok, .client_properties = slice_of(table, writer_size(&w)),
        .mechanism = TEXT("PLAIN"), .response = slice_of("\0guest\0guest", 12));
    assert_non_null(strstr(worker.last_line, "client-provided name: meter reader"));
    end(&peer);
}

int main(void)
{
    static const struct scenario scenarios[] = {
        {"handshake", test_handshake},
        {"bad_header", test_bad_header},
        {"login_refused", test_login_refused},
        {"handshake_broken", test_handshake_broken},
        {"tune", test_tune},
        {"unknown_vhost", test_unknown_vhost},
        {"connection_limit", test_connection_limit},
        {"frame_errors", test_frame_errors},
        {"frame_max", test_frame_max},
        {"wrong_order", test_wrong_order},
        {"channel_max", test_channel_max},
        {"heartbeat", test_heartbeat},
        {"handshake_timeout", test_handshake_timeout},
        {"blocked", test_blocked},
        {"update_secret", test_update_secret},
        {"kick_and_drain", test_kick_and_drain},
        {"sniff", test_sniff},
        {"limited_memory", test_limited_memory},
        {"odd_frames", test_odd_frames},
    };
    return run_scenarios(scenarios, sizeof scenarios / sizeof scenarios[0]);
}
