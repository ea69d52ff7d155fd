/*
 * The session over a broker made for it. Every scenario runs with all requests answered at once,
 * all PENDING, and mixed by seed; with its input in one piece, byte by byte, and in odd pieces.
 */
#include "protocols/amqp091/session.h"

#include "base/assert.h"
#include "base/memory.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "message/amqp091_properties.h"
#include "protocols/amqp091/test_peer.h"

struct ways {
    uint64_t seed;
    unsigned pending_percent;
    size_t step;
};

static struct worker worker;

/* ---- talking ---- */

static struct method next(struct peer *peer, uint16_t channel)
{
    struct frame frame;
    struct method method = {0};
    struct failure failure;

    assert_true(peer_frame(peer, &frame));
    assert_int_equal(frame.type, FRAME_METHOD);
    assert_int_equal(frame.channel, channel);
    assert_int_equal(amqp091_method_decode(frame.payload, &method, &failure), 0);
    return method;
}

static struct method expect(struct peer *peer, uint16_t channel, uint32_t id)
{
    struct method method = next(peer, channel);

    if (method.id != id) {
        print_error("wanted %s, got %s\n", amqp091_method_name(id), amqp091_method_name(method.id));
        if (method.id == METHOD_channel_close)
            print_error("%.*s\n", SLICE_ARGS(method.channel_close.reply_text));
        if (method.id == METHOD_connection_close)
            print_error("%.*s\n", SLICE_ARGS(method.connection_close.reply_text));
    }
    assert_int_equal(method.id, id);
    return method;
}

static void expect_nothing(struct peer *peer)
{
    struct frame frame;
    assert_false(peer_frame(peer, &frame));
}

/* Sends and runs. */
static void say(struct peer *peer, uint16_t channel, const struct method *method)
{
    peer_send_method(peer, channel, method);
    peer_run(peer);
}

#define SAY(peer, channel, name, ...)                                                              \
    say(peer, channel, &(struct method){.id = METHOD_##name, .name = {__VA_ARGS__}})
#define SAY_EMPTY(peer, channel, name) say(peer, channel, &(struct method){.id = METHOD_##name})
#define TEXT(text)                     slice_text(text)

static struct method ask(struct peer *peer, uint16_t channel, const struct method *method,
                         uint32_t answer)
{
    say(peer, channel, method);
    return expect(peer, channel, answer);
}

#define ASK(peer, channel, answer, name, ...)                                                      \
    ask(peer, channel, &(struct method){.id = METHOD_##name, .name = {__VA_ARGS__}},               \
        METHOD_##answer)
#define ASK_EMPTY(peer, channel, answer, name)                                                     \
    ask(peer, channel, &(struct method){.id = METHOD_##name}, METHOD_##answer)

static void check_close(uint16_t code, struct slice text, uint16_t class_id, uint16_t method_id,
                        uint16_t wanted_code, const char *wanted_text, uint32_t wanted_method)
{
    if (code != wanted_code || !slice_is(text, wanted_text))
        print_error("closed with %u %.*s\n", code, SLICE_ARGS(text));
    assert_int_equal(code, wanted_code);
    assert_true(slice_is(text, wanted_text));
    assert_int_equal(METHOD_ID(class_id, method_id), wanted_method);
}

/* The channel is closed so; it is used again afterwards, which shows that it is free. */
static void expect_channel_close(struct peer *peer, uint16_t channel, uint16_t code,
                                 const char *text, uint32_t method_id)
{
    struct method m = expect(peer, channel, METHOD_channel_close);
    check_close(m.channel_close.reply_code, m.channel_close.reply_text, m.channel_close.class_id,
                m.channel_close.method_id, code, text, method_id);
    expect_nothing(peer);
    /* what still comes for it is ignored */
    SAY(peer, channel, queue_declare, .queue = TEXT("ignored"));
    SAY(peer, channel, basic_ack, .delivery_tag = 999);
    expect_nothing(peer);
    SAY_EMPTY(peer, channel, channel_close_ok);
    expect_nothing(peer);
    ASK_EMPTY(peer, channel, channel_open_ok, channel_open);
}

static void expect_connection_close(struct peer *peer, uint16_t code, const char *text,
                                    uint32_t method_id)
{
    struct method m = expect(peer, 0, METHOD_connection_close);
    check_close(m.connection_close.reply_code, m.connection_close.reply_text,
                m.connection_close.class_id, m.connection_close.method_id, code, text, method_id);
    expect_nothing(peer);
}

static void close_ok(struct peer *peer)
{
    SAY_EMPTY(peer, 0, connection_close_ok);
    assert_true(peer->wire.finished);
}

/* ---- opening ---- */

static void send_header(struct peer *peer)
{
    peer_send(peer, "AMQP\0\0\x09\x01", 8);
}

static size_t capabilities(uint8_t *memory, size_t size, bool value)
{
    struct writer w = writer_of(memory, size);
    size_t mark = fields_begin(&w, "capabilities", 'F');
    fields_put_boolean(&w, "authentication_failure_close", value);
    fields_put_boolean(&w, "connection.blocked", value);
    fields_put_boolean(&w, "consumer_cancel_notify", value);
    fields_end(&w, mark);
    assert_false(w.failed);
    return writer_size(&w);
}

static void log_in(struct peer *peer, bool capable)
{
    uint8_t table[200];
    size_t size = capabilities(table, sizeof table, capable);

    send_header(peer);
    peer_run(peer);
    expect(peer, 0, METHOD_connection_start);
    ASK(peer, 0, connection_tune, connection_start_ok, .client_properties = slice_of(table, size),
        .mechanism = TEXT("PLAIN"), .response = slice_of("\0guest\0guest", 12),
        .locale = TEXT("en_US"));
}

static void open_connection(struct peer *peer, const struct ways *ways, bool capable)
{
    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(peer, &worker), 0);
    peer->step = ways->step;
    log_in(peer, capable);
    SAY(peer, 0, connection_tune_ok, .channel_max = 2047, .frame_max = 131072, .heartbeat = 60);
    ASK(peer, 0, connection_open_ok, connection_open, .virtual_host = TEXT("/"));
}

static void begin(struct peer *peer, const struct ways *ways)
{
    open_connection(peer, ways, true);
    ASK_EMPTY(peer, 1, channel_open_ok, channel_open);
}

static void end(struct peer *peer)
{
    peer_close(peer);
    fake_fini(&worker);
}

static void declare(struct peer *peer, uint16_t channel, const char *name)
{
    ASK(peer, channel, queue_declare_ok, queue_declare, .queue = TEXT(name));
}

static void publish(struct peer *peer, uint16_t channel, const char *exchange, const char *key,
                    const char *body)
{
    peer_publish(peer, channel,
                 &(struct basic_publish){.exchange = TEXT(exchange), .routing_key = TEXT(key)},
                 slice_of(NULL, 0), TEXT(body), 0);
    peer_run(peer);
}

/* Header and body of a content. */
static void expect_content(struct peer *peer, uint16_t channel, struct slice properties,
                           struct slice body)
{
    struct frame frame;
    struct content_header header;
    size_t at = 0;

    assert_true(peer_frame(peer, &frame));
    assert_int_equal(frame.type, FRAME_HEADER);
    assert_int_equal(frame.channel, channel);
    assert_int_equal(amqp091_content_header_decode(frame.payload, &header), 0);
    assert_int_equal(header.class_id, 60);
    assert_true(header.body_size == body.size);
    if (properties.size)
        assert_true(slice_equal(header.properties, properties));
    while (at < body.size) {
        assert_true(peer_frame(peer, &frame));
        assert_int_equal(frame.type, FRAME_BODY);
        assert_int_equal(frame.channel, channel);
        assert_true(frame.size <= 131072 - FRAME_OVERHEAD && frame.size <= body.size - at);
        assert_memory_equal(frame.payload.data, body.data + at, frame.size);
        at += frame.size;
    }
}

static void expect_delivery(struct peer *peer, uint16_t channel, uint64_t tag, bool redelivered,
                            const char *body)
{
    struct method m = expect(peer, channel, METHOD_basic_deliver);
    assert_true(m.basic_deliver.delivery_tag == tag);
    assert_int_equal(m.basic_deliver.redelivered, redelivered);
    expect_content(peer, channel, slice_of(NULL, 0), TEXT(body));
}

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
    SAY(&peer, 0, connection_tune_ok, .channel_max = 10, .frame_max = 4096, .heartbeat = 10);
    /* open and what follows may come together */
    peer_send_method(
        &peer, 0,
        &(struct method){.id = METHOD_connection_open, .connection_open.virtual_host = TEXT("/")});
    SAY_EMPTY(&peer, 1, channel_open);
    expect(&peer, 0, METHOD_connection_open_ok);
    expect(&peer, 1, METHOD_channel_open_ok);
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
    m = ASK(&peer, 1, queue_declare_ok, queue_declare, .passive = true);
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

/* ---- publishing ---- */

static void test_publish(const struct ways *ways)
{
    struct peer peer;
    static char body[20000];
    size_t parts[] = {0, 1000, 4096, 1};

    begin(&peer, ways);
    memset(body, 'b', sizeof body - 1);
    declare(&peer, 1, "a");
    uint64_t tag = 0;
    for (size_t i = 0; i < 4; i++) {
        size_t sizes[] = {0, 1, 16, 4096, 4097, parts[i] == 1 ? 100 : sizeof body - 1};
        for (size_t k = 0; k < 6; k++) {
            static const uint8_t properties[] = {0x90, 0, 4, 't', 'e', 'x', 't', 2};
            peer_publish(
                &peer, 1, &(struct basic_publish){.exchange = TEXT(""), .routing_key = TEXT("a")},
                slice_of(properties, sizeof properties), slice_of(body, sizes[k]), parts[i]);
            peer_run(&peer);
            struct method m =
                ASK(&peer, 1, basic_get_ok, basic_get, .queue = TEXT("a"), .no_ack = i % 2);
            assert_true(m.basic_get_ok.delivery_tag == ++tag);
            assert_true(slice_is(m.basic_get_ok.routing_key, "a"));
            expect_content(&peer, 1, slice_of(properties, sizeof properties),
                           slice_of(body, sizes[k]));
            expect_nothing(&peer);
        }
    }
    SAY(&peer, 1, basic_ack, .multiple = true);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 12);
    ASK(&peer, 1, basic_get_empty, basic_get, .queue = TEXT("a"));
    end(&peer);
}

static void refuse_publish(struct peer *peer, const char *exchange, struct slice properties,
                           uint16_t code, const char *text)
{
    peer_publish(peer, 1, &(struct basic_publish){.exchange = TEXT(exchange)}, properties,
                 TEXT("body"), 0);
    peer_run(peer);
    expect_channel_close(peer, 1, code, text, METHOD_basic_publish);
}

static void test_publish_refused(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    worker.settings.message_size_max = 100;
    refuse_publish(&peer, "none", slice_of(NULL, 0), 404,
                   "NOT_FOUND - no exchange 'none' in vhost '/'");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x03"
                            "abc",
                            6),
                   406, "PRECONDITION_FAILED - invalid expiration 'abc': no_integer");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x03"
                            "12a",
                            6),
                   406, "PRECONDITION_FAILED - invalid expiration '12a': {leftover_string,\"a\"}");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x02"
                            "-1",
                            5),
                   406, "PRECONDITION_FAILED - invalid expiration '-1': {value_negative,-1}");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x01\x00\x0c"
                            "315360000001",
                            15),
                   406,
                   "PRECONDITION_FAILED - invalid expiration '315360000001': "
                   "{value_too_large,315360000001}");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x00\x10\x03"
                            "bob",
                            6),
                   406,
                   "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user "
                   "was 'guest'");
    refuse_publish(&peer, "amq.fanout",
                   slice_of("\x02\x00\x15"
                            "amq.rabbitmq.reply-to",
                            24),
                   406, "PRECONDITION_FAILED - fast reply consumer does not exist");
    /* too large is refused when it is announced */
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of(NULL, 0), slice_of(worker.last_line, 101), 50);
    peer_run(&peer);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - message size 101 is larger than configured max "
                         "size 100",
                         METHOD_basic_publish);
    /* what is allowed */
    static const char *const good[] = {"\x01\x00\x01"
                                       "0",
                                       "\x00\x10\x05"
                                       "guest"};
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of(good[0], 4), TEXT(""), 0);
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of(good[1], 8), TEXT(""), 0);
    worker.impersonate = true;
    peer_publish(&peer, 1, &(struct basic_publish){.exchange = TEXT("amq.fanout")},
                 slice_of("\x00\x10\x03"
                          "bob",
                          6),
                 TEXT(""), 0);
    peer_run(&peer);
    expect_nothing(&peer);
    peer_publish(&peer, 1, &(struct basic_publish){.immediate = true}, slice_of(NULL, 0), TEXT(""),
                 0);
    peer_run(&peer);
    expect_connection_close(&peer, 540, "NOT_IMPLEMENTED - immediate=true", METHOD_basic_publish);
    end(&peer);
}

/* A content header's payload: class, weight, size, flags. */
static void break_content(const struct ways *ways, const void *bytes, size_t size, uint16_t code,
                          const char *text)
{
    struct peer peer;

    begin(&peer, ways);
    peer_send_method(&peer, 1, &(struct method){.id = METHOD_basic_publish});
    peer_send(&peer, bytes, size);
    peer_run(&peer);
    expect_connection_close(&peer, code, text, METHOD_basic_publish);
    end(&peer);
}

static void test_content_errors(const struct ways *ways)
{
#define HEADER(class_id, body_size)                                                                \
    "\x02\0\x01\0\0\0\x0e\0" class_id "\0\0\0\0\0\0\0\0\0" body_size "\0\0\xce"
    break_content(ways, "\x03\0\x01\0\0\0\0\xce", 8, 505,
                  "UNEXPECTED_FRAME - expected content header for class 60, got non content "
                  "header frame instead");
    break_content(ways, HEADER("\x32", "\x01"), 22, 505,
                  "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 "
                  "instead");
    break_content(ways, HEADER("\x3c", "\x01") HEADER("\x3c", "\x01"), 44, 505,
                  "UNEXPECTED_FRAME - expected content body, got non content body frame instead");
    break_content(ways,
                  HEADER("\x3c", "\x01") "\x03\0\x01\0\0\0\x02"
                                         "ab\xce",
                  32, 501, "FRAME_ERROR - content body frame exceeds remaining content size");
    break_content(ways, "\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\x20\0\0\x01\0\0\xce", 22, 501,
                  "FRAME_ERROR - content body size 536870913 exceeds maximum allowed size "
                  "536870912");
    break_content(ways, "\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\x80\0\xce", 22, 501,
                  "FRAME_ERROR - cannot decode the 2 bytes of a content header's properties");
}

static void test_mandatory(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    for (int i = 0; i < 2; i++) {
        peer_publish(&peer, 1,
                     &(struct basic_publish){.exchange = TEXT("amq.direct"),
                                             .routing_key = TEXT("k"),
                                             .mandatory = true},
                     slice_of(NULL, 0), TEXT("unroutable"), 3);
        peer_run(&peer);
        struct method m = expect(&peer, 1, METHOD_basic_return);
        assert_int_equal(m.basic_return.reply_code, 312);
        assert_true(slice_is(m.basic_return.reply_text, "NO_ROUTE"));
        assert_true(slice_is(m.basic_return.exchange, "amq.direct"));
        assert_true(slice_is(m.basic_return.routing_key, "k"));
        expect_content(&peer, 1, slice_of(NULL, 0), TEXT("unroutable"));
        if (i == 1) {
            /* the return comes before the confirm */
            m = expect(&peer, 1, METHOD_basic_ack);
            assert_true(m.basic_ack.delivery_tag == 1);
        }
        expect_nothing(&peer);
        if (i == 0)
            ASK_EMPTY(&peer, 1, confirm_select_ok, confirm_select);
    }
    end(&peer);
}

static void test_confirms(const struct ways *ways)
{
    struct peer peer;
    struct method m;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    SAY(&peer, 1, confirm_select, .no_wait = true);
    expect_nothing(&peer);
    ASK_EMPTY(&peer, 1, confirm_select_ok, confirm_select);
    publish(&peer, 1, "", "a", "1");
    m = expect(&peer, 1, METHOD_basic_ack);
    assert_true(m.basic_ack.delivery_tag == 1 && !m.basic_ack.multiple);
    worker.confirms_held = 1;
    for (int i = 0; i < 5; i++)
        publish(&peer, 1, "", "a", "more");
    worker.confirms_held = 0;
    peer_run(&peer);
    m = expect(&peer, 1, METHOD_basic_ack);
    assert_true(m.basic_ack.delivery_tag == 6 && m.basic_ack.multiple);
    worker.is_reject_publishes = true;
    publish(&peer, 1, "", "a", "7");
    m = expect(&peer, 1, METHOD_basic_nack);
    assert_true(m.basic_nack.delivery_tag == 7 && !m.basic_nack.multiple);
    SAY_EMPTY(&peer, 1, tx_select);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - cannot switch from confirm to tx mode",
                         METHOD_tx_select);
    end(&peer);
}

static void test_carbon_copies(const struct ways *ways)
{
    struct peer peer;
    uint8_t headers[200], properties[220];

    begin(&peer, ways);
    declare(&peer, 1, "a");
    declare(&peer, 1, "b");
    declare(&peer, 1, "c");
    struct writer w = writer_of(headers, sizeof headers);
    struct field key = {.type = 'S'};
    size_t mark = fields_begin(&w, "CC", 'A');
    key.value.bytes = TEXT("b");
    fields_put_value(&w, &key);
    fields_end(&w, mark);
    size_t without_bcc = writer_size(&w);
    mark = fields_begin(&w, "BCC", 'A');
    key.value.bytes = TEXT("c");
    fields_put_value(&w, &key);
    fields_end(&w, mark);
    struct writer p = writer_of(properties, sizeof properties);
    write_be16(&p, AMQP091_HEADERS);
    write_be32(&p, (uint32_t)writer_size(&w));
    write_bytes(&p, slice_of(headers, writer_size(&w)));
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")},
                 slice_of(properties, writer_size(&p)), TEXT("copied"), 0);
    peer_run(&peer);
    p = writer_of(properties, sizeof properties);
    write_be16(&p, AMQP091_HEADERS);
    write_be32(&p, (uint32_t)without_bcc);
    write_bytes(&p, slice_of(headers, without_bcc));
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < 3; i++) {
        ASK(&peer, 1, basic_get_ok, basic_get, .queue = TEXT(names[i]), .no_ack = true);
        expect_content(&peer, 1, slice_of(properties, writer_size(&p)), TEXT("copied"));
    }
    /* the wrong type */
    w = writer_of(headers, sizeof headers);
    fields_put_text(&w, "CC", TEXT("b"));
    p = writer_of(properties, sizeof properties);
    write_be16(&p, AMQP091_HEADERS);
    write_be32(&p, (uint32_t)writer_size(&w));
    write_bytes(&p, slice_of(headers, writer_size(&w)));
    peer_publish(&peer, 1, &(struct basic_publish){.routing_key = TEXT("a")},
                 slice_of(properties, writer_size(&p)), TEXT("copied"), 0);
    peer_run(&peer);
    struct method m = expect(&peer, 1, METHOD_channel_close);
    assert_int_equal(m.channel_close.reply_code, 406);
    end(&peer);
}

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
        assert_true(held >= OUTPUT_HIGH_WATER && held < OUTPUT_HIGH_WATER + 6000);
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

/* ---- transactions ---- */

static void test_transactions(const struct ways *ways)
{
    struct peer peer;

    begin(&peer, ways);
    declare(&peer, 1, "a");
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    ASK_EMPTY(&peer, 1, tx_commit_ok, tx_commit);
    publish(&peer, 1, "", "a", "1");
    publish(&peer, 1, "", "a", "2");
    assert_true(fake_ready(fake_queue(&worker, "a")) == 0);
    ASK_EMPTY(&peer, 1, tx_rollback_ok, tx_rollback);
    publish(&peer, 1, "", "a", "3");
    peer_publish(&peer, 1,
                 &(struct basic_publish){.exchange = TEXT("amq.direct"), .mandatory = true},
                 slice_of(NULL, 0), TEXT("nobody"), 0);
    for (int i = 0; i < 40; i++)
        publish(&peer, 1, "", "a", "more");
    expect_nothing(&peer);
    SAY_EMPTY(&peer, 1, tx_commit);
    expect(&peer, 1, METHOD_basic_return);
    expect_content(&peer, 1, slice_of(NULL, 0), TEXT("nobody"));
    expect(&peer, 1, METHOD_tx_commit_ok);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 41);

    ASK(&peer, 1, basic_qos_ok, basic_qos, .prefetch_count = 3);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("a"));
    expect_delivery(&peer, 1, 1, false, "3");
    expect_delivery(&peer, 1, 2, false, "more");
    expect_delivery(&peer, 1, 3, false, "more");
    SAY(&peer, 1, basic_ack, .delivery_tag = 2, .multiple = true);
    SAY(&peer, 1, basic_nack, .delivery_tag = 3, .requeue = true);
    expect_nothing(&peer); /* credit comes back with the commit */
    assert_true(worker.settled[OUTCOME_ACCEPT] == 0);
    ASK_EMPTY(&peer, 1, tx_rollback_ok, tx_rollback);
    SAY(&peer, 1, basic_ack, .delivery_tag = 1);
    SAY(&peer, 1, basic_reject, .delivery_tag = 2);
    ASK_EMPTY(&peer, 1, tx_commit_ok, tx_commit);
    assert_true(worker.settled[OUTCOME_ACCEPT] == 1 && worker.settled[OUTCOME_REJECT] == 1);
    expect_delivery(&peer, 1, 4, false, "more");
    expect_delivery(&peer, 1, 5, false, "more");
    expect_nothing(&peer);
    SAY(&peer, 1, basic_ack, .delivery_tag = 2);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - unknown delivery tag 2",
                         METHOD_basic_ack);

    /* a channel that ends in the middle gives back what it would have settled */
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    SAY(&peer, 1, basic_get, .queue = TEXT("a"));
    expect(&peer, 1, METHOD_basic_get_ok);
    expect_content(&peer, 1, slice_of(NULL, 0), slice_of("more", 4));
    SAY(&peer, 1, basic_ack, .delivery_tag = 1);
    publish(&peer, 1, "", "a", "never");
    publish(&peer, 1, "none", "a", "refused at once");
    expect_channel_close(&peer, 1, 404, "NOT_FOUND - no exchange 'none' in vhost '/'",
                         METHOD_basic_publish);
    assert_true(fake_ready(fake_queue(&worker, "a")) == 39);
    assert_true(fake_leased(fake_queue(&worker, "a")) == 0);

    SAY_EMPTY(&peer, 1, tx_commit);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - channel is not transactional",
                         METHOD_tx_commit);
    SAY_EMPTY(&peer, 1, tx_rollback);
    expect_channel_close(&peer, 1, 406, "PRECONDITION_FAILED - channel is not transactional",
                         METHOD_tx_rollback);
    ASK_EMPTY(&peer, 1, tx_select_ok, tx_select);
    SAY_EMPTY(&peer, 1, confirm_select);
    expect_channel_close(&peer, 1, 406,
                         "PRECONDITION_FAILED - cannot switch from tx to confirm mode",
                         METHOD_confirm_select);
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
    SAY(&peer, 2, queue_declare, .queue = TEXT(address));
    expect_channel_close(&peer, 2, 404,
                         "NOT_FOUND - no queue 'amq.rabbitmq.reply-to.1' in vhost '/'",
                         METHOD_queue_declare);
    ASK(&peer, 1, basic_consume_ok, basic_consume, .queue = TEXT("amq.rabbitmq.reply-to"),
        .no_ack = true, .consumer_tag = TEXT("replies"));
    ASK(&peer, 1, basic_cancel_ok, basic_cancel, .consumer_tag = TEXT("replies"));
    assert_null(fake_queue(&worker, "amq.rabbitmq.reply-to.2"));
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

/* ---- all ways ---- */

typedef void scenario(const struct ways *ways);

static const struct {
    const char *name;
    scenario *run;
} scenarios[] = {
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
    {"channel", test_channel},
    {"crossing_closes", test_crossing_closes},
    {"exchange", test_exchange},
    {"queue", test_queue},
    {"exclusive_queue", test_exclusive_queue},
    {"publish", test_publish},
    {"publish_refused", test_publish_refused},
    {"content_errors", test_content_errors},
    {"mandatory", test_mandatory},
    {"confirms", test_confirms},
    {"carbon_copies", test_carbon_copies},
    {"consume", test_consume},
    {"consume_errors", test_consume_errors},
    {"cancel_notification", test_cancel_notification},
    {"prefetch", test_prefetch},
    {"global_prefetch", test_global_prefetch},
    {"settling", test_settling},
    {"slow_socket", test_slow_socket},
    {"slices", test_slices},
    {"parking", test_parking},
    {"parking_bound", test_parking_bound},
    {"transactions", test_transactions},
    {"direct_reply_to", test_direct_reply_to},
    {"sudden_end", test_sudden_end},
};

#define SCENARIOS (sizeof scenarios / sizeof scenarios[0])

static void run_scenario(void **state)
{
    static const unsigned percents[] = {0, 100, 50, 50, 20};
    static const size_t steps[] = {0, 1, 13};
    scenario *run = scenarios[(uintptr_t)*state].run;

    for (size_t p = 0; p < sizeof percents / sizeof percents[0]; p++)
        for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
            struct ways ways = {
                .seed = p * 10 + s + 1, .pending_percent = percents[p], .step = steps[s]};
            run(&ways);
        }
}

int main(void)
{
    struct CMUnitTest tests[SCENARIOS];

    for (size_t i = 0; i < SCENARIOS; i++)
        tests[i] = (struct CMUnitTest){
            .name = scenarios[i].name, .test_func = run_scenario, .initial_state = (void *)i};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
