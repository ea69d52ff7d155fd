#include "protocols/amqp091/scenario.h"

#include "base/assert.h"

struct worker worker;

struct method next(struct peer *peer, uint16_t channel)
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

struct method expect(struct peer *peer, uint16_t channel, uint32_t id)
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

void expect_nothing(struct peer *peer)
{
    struct frame frame;
    assert_false(peer_frame(peer, &frame));
}

/* Sends and runs. */
void say(struct peer *peer, uint16_t channel, const struct method *method)
{
    peer_send_method(peer, channel, method);
    peer_run(peer);
}

struct method ask(struct peer *peer, uint16_t channel, const struct method *method, uint32_t answer)
{
    say(peer, channel, method);
    return expect(peer, channel, answer);
}

void check_close(uint16_t code, struct slice text, uint16_t class_id, uint16_t method_id,
                 uint16_t wanted_code, const char *wanted_text, uint32_t wanted_method)
{
    if (code != wanted_code || !slice_is(text, wanted_text))
        print_error("closed with %u %.*s\n", code, SLICE_ARGS(text));
    assert_int_equal(code, wanted_code);
    assert_true(slice_is(text, wanted_text));
    assert_int_equal(METHOD_ID(class_id, method_id), wanted_method);
}

/* The channel is closed so; it is used again afterwards, which shows that it is free. */
void expect_channel_close(struct peer *peer, uint16_t channel, uint16_t code, const char *text,
                          uint32_t method_id)
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

void expect_connection_close(struct peer *peer, uint16_t code, const char *text, uint32_t method_id)
{
    struct method m = expect(peer, 0, METHOD_connection_close);
    check_close(m.connection_close.reply_code, m.connection_close.reply_text,
                m.connection_close.class_id, m.connection_close.method_id, code, text, method_id);
    expect_nothing(peer);
}

void close_ok(struct peer *peer)
{
    SAY_EMPTY(peer, 0, connection_close_ok);
    assert_true(peer->wire.finished);
}

void send_header(struct peer *peer)
{
    peer_send(peer, "AMQP\0\0\x09\x01", 8);
}

size_t capabilities(uint8_t *memory, size_t size, bool value)
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

void log_in(struct peer *peer, bool capable)
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

void open_connection(struct peer *peer, const struct ways *ways, bool capable)
{
    fake_init(&worker, ways->seed, ways->pending_percent);
    assert_int_equal(peer_open(peer, &worker), 0);
    peer->step = ways->step;
    log_in(peer, capable);
    SAY(peer, 0, connection_tune_ok, .channel_max = 2047, .frame_max = 131072, .heartbeat = 60);
    ASK(peer, 0, connection_open_ok, connection_open, .virtual_host = TEXT("/"));
}

void begin(struct peer *peer, const struct ways *ways)
{
    open_connection(peer, ways, true);
    ASK_EMPTY(peer, 1, channel_open_ok, channel_open);
}

void end(struct peer *peer)
{
    peer_close(peer);
    fake_fini(&worker);
}

void declare(struct peer *peer, uint16_t channel, const char *name)
{
    ASK(peer, channel, queue_declare_ok, queue_declare, .queue = TEXT(name));
}

void publish(struct peer *peer, uint16_t channel, const char *exchange, const char *key,
             const char *body)
{
    peer_publish(peer, channel,
                 &(struct basic_publish){.exchange = TEXT(exchange), .routing_key = TEXT(key)},
                 slice_of(NULL, 0), TEXT(body), 0);
    peer_run(peer);
}

/* Header and body of a content. */
void expect_content(struct peer *peer, uint16_t channel, struct slice properties, struct slice body)
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

void expect_delivery(struct peer *peer, uint16_t channel, uint64_t tag, bool redelivered,
                     const char *body)
{
    struct method m = expect(peer, channel, METHOD_basic_deliver);
    assert_true(m.basic_deliver.delivery_tag == tag);
    assert_int_equal(m.basic_deliver.redelivered, redelivered);
    expect_content(peer, channel, slice_of(NULL, 0), TEXT(body));
}

static void run_scenario(void **state)
{
    static const unsigned percents[] = {0, 100, 50, 50, 20};
    static const size_t steps[] = {0, 1, 13};
    const struct scenario *scenario = *state;

    for (size_t p = 0; p < sizeof percents / sizeof percents[0]; p++)
        for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
            struct ways ways = {
                .seed = p * 10 + s + 1, .pending_percent = percents[p], .step = steps[s]};
            scenario->run(&ways);
        }
}

int run_scenarios(const struct scenario *scenarios, size_t count)
{
    struct CMUnitTest tests[SCENARIOS_MAX];

    ASSERT(count <= SCENARIOS_MAX);
    for (size_t i = 0; i < count; i++)
        tests[i] = (struct CMUnitTest){.name = scenarios[i].name,
                                       .test_func = run_scenario,
                                       .initial_state = (void *)(uintptr_t)&scenarios[i]};
    return _cmocka_run_group_tests("amqp091", tests, count, NULL, NULL);
}
