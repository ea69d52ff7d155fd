/*
 * Servers and connections over the simulated loop, with a small protocol: an item is a size of two
 * bytes and so many bytes; each is answered with itself. Some items are commands.
 */
#include "net/server.h"

#include "base/assert.h"
#include "loop/simulated.h"
#include "net/connection.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#define PORT 7000
#define BIG  (3u << 20)

/* ---- the protocol ---- */

struct service {
    struct loop *loop;
    bool one_at_a_time; /* each input() takes one item and asks for `again` */
    bool stuck;         /* takes nothing and does not say why */
    bool refuse_open;
    bool no_logins; /* those who connect now never log in */
    size_t input_max;
    unsigned close_slices;
    uint64_t idle_at_ns;
    uint64_t tick_ns; /* 0: never; expires at the first after open */
    unsigned drain_answers;

    /* what happened */
    struct session *session; /* the newest */
    unsigned opened, closed, freed, drained, ticks, drains;
    enum close_reason reason;
    unsigned lent, given_back;
    uint64_t inputs;
    size_t pending_peak;
};

struct session {
    struct service *service;
    struct wire *wire;
    unsigned slices_left;
    bool is_closed;
};

static uint8_t big[BIG];

static int echo_open(void *context, struct wire *wire, void **to)
{
    struct service *service = context;

    if (service->refuse_open)
        return E_LIMIT;
    struct session *session = calloc(1, sizeof *session);
    session->service = service;
    session->wire = wire;
    wire->is_established = !service->no_logins;
    session->slices_left = service->close_slices;
    service->opened++;
    service->session = session;
    *to = session;
    return 0;
}

static enum sniff echo_sniff(struct slice start)
{
    return start.size == 0 ? SNIFF_MORE : start.data[0] < 0x20 ? SNIFF_YES : SNIFF_NO;
}

static enum sniff text_sniff(struct slice start)
{
    if (start.size < 4)
        return memcmp(start.data, "TEXT", start.size) == 0 ? SNIFF_MORE : SNIFF_NO;
    return slice_starts(start, "TEXT") ? SNIFF_YES : SNIFF_NO;
}

static void give_back(void *object)
{
    struct service *service = object;
    service->given_back++;
}

static void answer(struct session *session, struct slice item)
{
    struct output *output = &session->wire->output;

    if (slice_is(item, "big")) {
        session->service->lent++;
        output_borrow(output, slice_of(big, BIG),
                      (struct output_owner){give_back, session->service});
        return;
    }
    store_be16(output_take(output, 2), (uint16_t)item.size);
    output_append(output, item);
    if (slice_is(item, "pause"))
        session->wire->paused = true;
    if (slice_is(item, "bye"))
        session->wire->finished = true;
}

static ssize_t echo_input(void *from, struct slice bytes)
{
    struct session *session = from;
    struct reader reader = reader_of(bytes);
    size_t consumed = 0;

    assert_false(session->is_closed);
    session->service->inputs++;
    if (session->service->stuck)
        return 0;
    for (;;) {
        struct slice item = read_bytes(&reader, read_be16(&reader));
        if (reader.failed)
            return (ssize_t)consumed;
        consumed = bytes.size - reader_left(&reader);
        answer(session, item);
        if (slice_is(item, "bad"))
            return E_FRAME;
        if (session->wire->paused || session->wire->finished)
            return (ssize_t)consumed;
        if (session->service->one_at_a_time) {
            session->wire->again = true;
            return (ssize_t)consumed;
        }
    }
}

static size_t echo_input_max(void *from)
{
    struct session *session = from;
    return session->service->input_max;
}

static void echo_drained(void *from)
{
    struct session *session = from;
    session->service->drained++;
}

static uint64_t echo_tick(void *from, uint64_t now_ns)
{
    struct session *session = from;
    struct service *service = session->service;

    service->ticks++;
    if (service->tick_ns == 0)
        return TICK_NEVER;
    return service->ticks > 1 ? TICK_EXPIRED : now_ns + service->tick_ns;
}

static void echo_drain(void *from, const char *reason)
{
    struct session *session = from;

    session->service->drains++;
    if (session->service->drain_answers) {
        answer(session, slice_text(reason));
        session->wire->finished = true;
    }
}

static bool echo_close(void *from, enum close_reason reason)
{
    struct session *session = from;

    if (session->slices_left > 0) {
        session->slices_left--;
        return false;
    }
    assert_false(session->is_closed);
    session->is_closed = true;
    session->service->closed++;
    session->service->reason = reason;
    return true;
}

static bool echo_idle(void *from)
{
    struct session *session = from;
    return loop_now_ns(session->service->loop) >= session->service->idle_at_ns;
}

static void echo_free(void *from)
{
    struct session *session = from;

    assert_true(session->is_closed);
    session->service->freed++;
    free(session);
}

static void echo_abandon(void *context)
{
    struct session *session = context;

    session->is_closed = true;
}

static const struct protocol echo_protocol = {
    "echo",    echo_sniff, echo_open,  echo_input, echo_input_max, echo_drained,
    echo_tick, echo_drain, echo_close, echo_idle,  echo_free,      echo_abandon};
static const struct protocol text_protocol = {
    "text",    text_sniff, echo_open,  echo_input, echo_input_max, echo_drained,
    echo_tick, echo_drain, echo_close, echo_idle,  echo_free,      echo_abandon};

/* ---- the client ---- */

struct client {
    struct stream *stream;
    const uint8_t *to_send;
    size_t to_send_size, sent;
    uint8_t *received;
    size_t received_size, received_capacity;
    size_t read_max; /* of one read; 0: does not read */
    bool ended, reset, shuts;
};

static void client_want(struct client *c)
{
    unsigned wants = 0;

    if (c->read_max > 0 && !c->ended && !c->reset)
        wants |= STREAM_READABLE;
    if (c->sent < c->to_send_size && !c->reset)
        wants |= STREAM_WRITABLE;
    stream_want(c->stream, wants);
}

static void client_ready(void *context, unsigned events)
{
    struct client *c = context;

    if (events & STREAM_READABLE && c->read_max > 0) {
        if (c->received_size + c->read_max > c->received_capacity) {
            c->received_capacity = 2 * c->received_capacity + c->read_max;
            c->received = realloc(c->received, c->received_capacity);
        }
        ssize_t size = stream_read(c->stream, c->received + c->received_size, c->read_max);
        c->received_size += size > 0 ? (size_t)size : 0;
        c->ended |= size == 0;
        c->reset |= size < 0 && size != E_AGAIN;
    }
    if (events & STREAM_WRITABLE && c->sent < c->to_send_size && !c->reset) {
        struct iovec slice = {(void *)(uintptr_t)(c->to_send + c->sent), c->to_send_size - c->sent};
        ssize_t size = stream_write(c->stream, &slice, 1);
        c->sent += size > 0 ? (size_t)size : 0;
        c->reset |= size < 0 && size != E_AGAIN;
        if (c->sent == c->to_send_size && c->shuts)
            stream_shutdown(c->stream);
    }
    client_want(c);
}

static void client_connect(struct client *c, struct loop *loop, const void *bytes, size_t size)
{
    *c = (struct client){.to_send = bytes, .to_send_size = size, .read_max = 5000};
    assert_int_equal(simulated_connect(loop, PORT, &c->stream), 0);
    stream_start(c->stream, client_ready, c);
    client_want(c);
}

static void client_send(struct client *c, const void *bytes, size_t size)
{
    assert_int_equal(c->sent, c->to_send_size);
    c->to_send = bytes;
    c->to_send_size = size;
    c->sent = 0;
    client_want(c);
}

static void client_close(struct client *c)
{
    stream_close(c->stream);
    c->stream = NULL;
    free(c->received);
    c->received = NULL;
}

/* ---- the scene ---- */

struct scene {
    struct loop *loop;
    struct server *server;
    struct service service;
    struct account account;
    char logged[2048];
};

static void scene_log(void *context, enum log_level level, const char *category, const char *text)
{
    struct scene *scene = context;
    size_t size = strlen(scene->logged);

    (void)level;
    snprintf(scene->logged + size, sizeof scene->logged - size, "%s: %s\n", category, text);
}

static void scene_begin(struct scene *s, uint64_t seed, struct logger *logger,
                        const struct server_options *more)
{
    struct server_options options = more ? *more : (struct server_options){.handshake_ms = 10000};
    struct server_protocol protocols[] = {{&echo_protocol, &s->service},
                                          {&text_protocol, &s->service}};
    struct failure failure;

    *s = (struct scene){.loop = loop_new_simulated(seed)};
    *logger = (struct logger){.descriptor = -1, .line = scene_log, .context = s};
    account_init(&s->account, NULL, 0);
    s->service.loop = s->loop;
    s->service.input_max = 70000;
    options.loop = s->loop;
    options.logger = logger;
    options.account = &s->account;
    options.listen.port = PORT;
    options.protocols = protocols;
    options.protocol_count = 2;
    assert_int_equal(server_open(&options, &s->server, &failure), 0);
    assert_int_equal(server_port(s->server), PORT);
}

static void scene_end(struct scene *s)
{
    if (server_connection_count(s->server) > 0) {
        server_drain(s->server, "end", loop_now_ns(s->loop) + 1);
        simulated_run_for(s->loop, 20000 * NANOSECONDS_PER_MS);
    }
    assert_int_equal(server_connection_count(s->server), 0);
    assert_int_equal(s->service.opened, s->service.freed);
    assert_int_equal(s->service.lent, s->service.given_back);
    server_free(s->server);
    assert_int_equal(s->account.used, 0);
    loop_free(s->loop);
}

static void run_ms(struct scene *s, uint64_t ms)
{
    simulated_run_for(s->loop, ms * NANOSECONDS_PER_MS);
}

/* Items of random sizes up to `largest`, at least `size` bytes in all; the size in *size. */
static uint8_t *random_items(struct loop *loop, size_t largest, size_t *size)
{
    uint8_t *bytes = malloc(*size + largest + 2);
    size_t at = 0;

    while (at < *size) {
        size_t item = loop_random(loop) % (largest + 1);
        store_be16(bytes + at, (uint16_t)item);
        loop_random_bytes(loop, bytes + at + 2, item);
        at += 2 + item;
    }
    bytes[0] &= 0x1f; /* so that echo knows it */
    *size = at;
    return bytes;
}

/* ---- the tests ---- */

static void items_come_back(void **state)
{
    static const size_t largest[] = {10, 1000, 0x1f00};

    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct scene s;
        struct logger logger;
        struct client c;
        size_t size = 400000;
        scene_begin(&s, seed, &logger, NULL);
        simulated_options(s.loop)->short_ppm = seed % 2 ? 900000 : 10000;
        s.service.one_at_a_time = seed % 5 == 0;
        size = s.service.one_at_a_time ? 50000 : size;
        uint8_t *bytes = random_items(s.loop, largest[seed % 3], &size);
        client_connect(&c, s.loop, bytes, size);
        run_ms(&s, 5000);
        assert_int_equal(c.received_size, size);
        assert_memory_equal(c.received, bytes, size);
        assert_int_equal(server_statistics(s.server)->bytes_received, size);
        assert_int_equal(server_statistics(s.server)->bytes_sent, size);
        assert_int_equal(s.account.used, 0); /* a quiet connection holds no input */
        assert_true(s.service.drained > 0);
        client_close(&c);
        run_ms(&s, 100);
        assert_int_equal(s.service.reason, CLOSE_PEER);
        assert_int_equal(server_connection_count(s.server), 0);
        scene_end(&s);
        free(bytes);
    }
}

static void large_items_are_read_on_in_place(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;
    uint8_t *bytes = malloc(4 * 65537);

    (void)state;
    scene_begin(&s, 5, &logger, NULL);
    s.service.input_max = 65537;
    for (int i = 0; i < 4; i++) {
        store_be16(bytes + i * 65537, 65535);
        memset(bytes + i * 65537 + 2, 'a' + i, 65535);
    }
    client_connect(&c, s.loop, "\0\3abc", 5); /* known before the size that looks like text */
    run_ms(&s, 50);
    client_send(&c, bytes, 4 * 65537 - 1);
    run_ms(&s, 1000);
    assert_int_equal(c.received_size, 5 + 3 * 65537);
    assert_true(s.account.used >= 65536 && s.account.used <= 65537 + INPUT_SIZE);
    client_send(&c, bytes + 4 * 65537 - 1, 1);
    run_ms(&s, 1000);
    assert_int_equal(c.received_size, 5 + 4 * 65537);
    assert_memory_equal(c.received + 5, bytes, 4 * 65537);
    assert_int_equal(s.account.used, 0);
    client_close(&c);
    scene_end(&s);
    free(bytes);
}

static void a_paused_session_is_not_read(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;
    size_t size = 1000000;

    (void)state;
    scene_begin(&s, 5, &logger, NULL);
    uint8_t *bytes = random_items(s.loop, 1000, &size);
    client_connect(&c, s.loop, "\0\5pause\0\5after", 14);
    run_ms(&s, 100);
    assert_int_equal(c.received_size, 7);
    client_send(&c, bytes, size);
    run_ms(&s, 1000);
    assert_true(c.sent <= 65536 + INPUT_SIZE); /* what the pipe holds */
    assert_int_equal(c.received_size, 7);
    uint64_t inputs = s.service.inputs;
    run_ms(&s, 1000);
    assert_int_equal(s.service.inputs, inputs);

    s.service.session->wire->paused = false; /* what was left comes without new bytes, too */
    wire_touch(s.service.session->wire);
    run_ms(&s, 5000);
    assert_int_equal(c.received_size, 14 + size);
    assert_memory_equal(c.received + 7, "\0\5after", 7);
    assert_memory_equal(c.received + 14, bytes, size);
    client_close(&c);
    scene_end(&s);
    free(bytes);
}

static void a_finished_session_writes_and_closes(void **state)
{
    static const uint8_t big_and_bye[10] = {0, 3, 'b', 'i', 'g', 0, 3, 'b', 'y', 'e'};

    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct scene s;
        struct logger logger;
        struct client c;
        size_t size = 30000;
        scene_begin(&s, seed, &logger, NULL);
        uint8_t *after = random_items(s.loop, 100, &size);
        uint8_t *bytes = malloc(10 + size);
        memcpy(bytes, big_and_bye, sizeof big_and_bye);
        memcpy(bytes + 10, after, size); /* unread input must not reset what is written */
        client_connect(&c, s.loop, bytes, 10 + size);
        run_ms(&s, 4000);
        assert_int_equal(c.received_size, BIG + 5);
        assert_memory_equal(c.received + BIG, "\0\3bye", 5);
        assert_true(c.ended && !c.reset);
        assert_int_equal(s.service.reason, CLOSE_PROTOCOL);
        assert_int_equal(s.service.given_back, 1);
        client_close(&c);
        run_ms(&s, 100);
        assert_int_equal(server_connection_count(s.server), 0);
        scene_end(&s);
        free(after);
        free(bytes);
    }
}

static void a_fatal_error_writes_its_answer(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct scene s;
        struct logger logger;
        struct client c;
        size_t size = 50000;
        scene_begin(&s, seed, &logger, NULL);
        s.service.close_slices = (unsigned)seed % 4;
        uint8_t *bytes = random_items(s.loop, 100, &size);
        client_connect(&c, s.loop, "\0\3bad", 5);
        run_ms(&s, 1);
        if (c.sent == 5)
            client_send(&c, bytes, size);
        run_ms(&s, 500);
        assert_int_equal(c.received_size, 5);
        assert_memory_equal(c.received, "\0\3bad", 5);
        assert_true(c.ended);
        assert_int_equal(s.service.reason, CLOSE_PROTOCOL);
        run_ms(&s, LINGER_NS / NANOSECONDS_PER_MS); /* the client does not close: bounded */
        assert_int_equal(server_connection_count(s.server), 0);
        client_close(&c);
        scene_end(&s);
        free(bytes);
    }
}

static void a_half_closed_client_gets_its_answers(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct scene s;
        struct logger logger;
        struct client c;
        scene_begin(&s, seed, &logger, NULL);
        client_connect(&c, s.loop, "\0\3big\0\5hello", 12);
        c.shuts = true;
        run_ms(&s, 4000);
        assert_int_equal(c.received_size, BIG + 7);
        assert_true(c.ended);
        assert_int_equal(s.service.reason, CLOSE_PEER);
        assert_int_equal(server_connection_count(s.server), 0);
        client_close(&c);
        scene_end(&s);
    }
}

static void a_reset_gives_everything_back(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct scene s;
        struct logger logger;
        struct client c;
        scene_begin(&s, seed, &logger, NULL);
        s.service.close_slices = 3;
        client_connect(&c, s.loop, "\0\3big\0\3big\0\3big", 15);
        if (seed % 2)
            simulated_options(s.loop)->reset_ppm = 20000;
        simulated_run_for(s.loop, loop_random(s.loop) % (20 * NANOSECONDS_PER_MS));
        if (seed % 2 == 0)
            simulated_reset(c.stream);
        client_close(&c);
        run_ms(&s, 100);
        assert_int_equal(server_connection_count(s.server), 0);
        assert_int_equal(s.service.freed, s.service.opened);
        assert_int_equal(s.service.given_back, s.service.lent);
        scene_end(&s);
    }
}

static void a_slow_reader_is_waited_for(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    client_connect(&c, s.loop, "\0\3big", 5);
    c.read_max = 0;
    client_want(&c);
    run_ms(&s, 1000);
    assert_int_equal(s.service.drained, 0);
    assert_true(output_pending(&s.service.session->wire->output) >= BIG - 65536);
    uint64_t turns = loop_statistics(s.loop)->turns;
    run_ms(&s, 1000);
    assert_true(loop_statistics(s.loop)->turns - turns < 5); /* and nothing spins */
    c.read_max = 20000;
    client_want(&c);
    while (output_pending(&s.service.session->wire->output) >= OUTPUT_LOW_WATER)
        simulated_run_turns(s.loop, 1);
    assert_int_equal(s.service.drained, 1); /* below the low mark */
    run_ms(&s, 1000);
    assert_int_equal(s.service.drained, 2); /* and when empty */
    assert_int_equal(c.received_size, BIG);
    client_close(&c);
    scene_end(&s);
}

static void who_never_reads_is_closed_in_time(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    client_connect(&c, s.loop, "\0\3big\0\3bye", 10);
    c.read_max = 0;
    client_want(&c);
    run_ms(&s, LINGER_NS / NANOSECONDS_PER_MS - 500);
    assert_int_equal(server_connection_count(s.server), 1);
    run_ms(&s, 1000);
    assert_int_equal(server_connection_count(s.server), 0);
    client_close(&c);
    scene_end(&s);
}

static void protocols_are_told_apart(void **state)
{
    struct {
        const char *bytes;
        size_t size;
        const char *protocol;
    } cases[] = {
        {"\0\1x", 3, "echo"}, {"TEXT", 4, "text"}, {"TEX", 3, NULL},
        {"TEYT", 4, "echo"},  {"\xff", 1, "echo"}, /* nobody's: the first has to answer */
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct scene s;
        struct logger logger;
        struct client c;
        scene_begin(&s, i, &logger, NULL);
        simulated_options(s.loop)->short_ppm = 800000;
        client_connect(&c, s.loop, cases[i].bytes, cases[i].size);
        run_ms(&s, 100);
        assert_int_equal(s.service.opened, cases[i].protocol ? 1 : 0);
        if (cases[i].protocol)
            assert_string_equal(s.service.session->wire->protocol, cases[i].protocol);
        client_close(&c);
        scene_end(&s);
    }
}

static void who_says_nothing_is_closed(void **state)
{
    struct scene s;
    struct logger logger;
    struct client silent, slow;
    struct server_options options = {.handshake_ms = 300};

    (void)state;
    scene_begin(&s, 1, &logger, &options);
    client_connect(&silent, s.loop, "", 0);
    client_connect(&slow, s.loop, "TE", 2);
    run_ms(&s, 250);
    assert_false(silent.ended || slow.ended);
    run_ms(&s, 100);
    assert_true(silent.ended && slow.ended);
    assert_int_equal(server_statistics(s.server)->silent, 2);
    assert_non_null(strstr(s.logged, "handshake_timeout, 2 bytes came in 300 ms"));
    run_ms(&s, 2000);
    assert_int_equal(server_connection_count(s.server), 0);
    client_close(&silent);
    client_close(&slow);
    scene_end(&s);
}

static void a_tick_that_expires_closes(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    s.service.tick_ns = 500 * NANOSECONDS_PER_MS;
    client_connect(&c, s.loop, "\0\1x", 3);
    run_ms(&s, 450);
    assert_int_equal(s.service.closed, 0);
    run_ms(&s, 100);
    assert_int_equal(s.service.ticks, 2);
    assert_int_equal(s.service.reason, CLOSE_TIMEOUT);
    client_close(&c);
    scene_end(&s);
}

static void too_many_connections_are_refused(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c[5];
    struct server_options options = {.connections_max = 3};

    (void)state;
    scene_begin(&s, 1, &logger, &options);
    for (int i = 0; i < 5; i++)
        client_connect(&c[i], s.loop, "\0\1x", 3);
    run_ms(&s, 100);
    assert_int_equal(server_connection_count(s.server), 3);
    assert_int_equal(server_statistics(s.server)->refused, 2);
    assert_non_null(strstr(s.logged, "more than 3 connections"));
    unsigned served = 0;
    for (int i = 0; i < 5; i++) {
        served += c[i].received_size == 3;
        client_close(&c[i]);
    }
    assert_int_equal(served, 3);
    scene_end(&s);
}

static void no_descriptors_are_reported(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    simulated_options(s.loop)->accept_failures = 15;
    client_connect(&c, s.loop, "\0\1x", 3);
    run_ms(&s, 1900);
    assert_int_equal(server_statistics(s.server)->accept_errors, 2);
    assert_non_null(strstr(s.logged, "port 7000: cannot accept connections: no file descriptors"));
    assert_int_equal(c.received_size, 3);
    client_close(&c);
    scene_end(&s);
}

static void draining_asks_and_then_closes(void **state)
{
    (void)state;
    for (unsigned answers = 0; answers < 2; answers++) {
        struct scene s;
        struct logger logger;
        struct client c[50];
        struct client sniffing;
        struct stream *late;
        scene_begin(&s, answers, &logger, NULL);
        s.service.drain_answers = answers;
        for (int i = 0; i < 50; i++)
            client_connect(&c[i], s.loop, "\0\1x", 3);
        client_connect(&sniffing, s.loop, "", 0);
        run_ms(&s, 100);
        assert_int_equal(server_connection_count(s.server), 51);
        server_drain(s.server, "stop", loop_now_ns(s.loop) + 3000 * NANOSECONDS_PER_MS);
        assert_int_equal(simulated_connect(s.loop, PORT, &late), E_CLOSED);
        run_ms(&s, 2000);
        assert_int_equal(s.service.drains, 50);
        assert_int_equal(server_connection_count(s.server), answers ? 0 : 50);
        if (answers)
            assert_memory_equal(c[7].received, "\0\1x\0\4stop", 9);
        run_ms(&s, 1100);
        assert_int_equal(server_connection_count(s.server), 0);
        assert_int_equal(s.service.reason, answers ? CLOSE_PROTOCOL : CLOSE_STOP);
        for (int i = 0; i < 50; i++)
            client_close(&c[i]);
        client_close(&sniffing);
        scene_end(&s);
    }
}

static void a_session_is_freed_when_it_is_idle(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    s.service.close_slices = 5;
    s.service.idle_at_ns = loop_now_ns(s.loop) + 500 * NANOSECONDS_PER_MS;
    client_connect(&c, s.loop, "\0\1x", 3);
    run_ms(&s, 100);
    client_close(&c);
    run_ms(&s, 300);
    assert_int_equal(s.service.closed, 1);
    assert_int_equal(s.service.freed, 0);
    assert_int_equal(server_connection_count(s.server), 1);
    run_ms(&s, 150);
    assert_int_equal(s.service.freed, 1);
    assert_int_equal(server_connection_count(s.server), 0);
    scene_end(&s);
}

static void a_session_that_cannot_open_closes(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    s.service.refuse_open = true;
    client_connect(&c, s.loop, "\0\1x", 3);
    run_ms(&s, 100);
    assert_true(c.ended);
    client_close(&c);
    run_ms(&s, 100);
    assert_int_equal(server_connection_count(s.server), 0);
    scene_end(&s);
}

static void input_without_memory_or_progress_closes(void **state)
{
    uint8_t *bytes = calloc(1, 200000);

    (void)state;
    bytes[0] = 0x1f; /* an item that does not end soon */
    for (int stuck = 0; stuck < 2; stuck++) {
        struct scene s;
        struct logger logger;
        struct client c;
        scene_begin(&s, 1, &logger, NULL);
        s.service.stuck = stuck;
        if (!stuck)
            s.account.limit = 100;
        client_connect(&c, s.loop, bytes, stuck ? 200000 : 3000);
        run_ms(&s, 1000);
        assert_true(c.ended || c.reset);
        assert_int_equal(s.service.reason, CLOSE_PROTOCOL);
        assert_non_null(strstr(s.logged, stuck ? "bytes of input are no echo" : "no memory for"));
        assert_true(s.account.peak <= (stuck ? 70000 + INPUT_SIZE : 100));
        client_close(&c);
        scene_end(&s);
    }
    free(bytes);
}

static void one_connection_cannot_hog_a_turn(void **state)
{
    struct scene s;
    struct logger logger;
    struct client c;
    size_t size = 3000000;

    (void)state;
    scene_begin(&s, 1, &logger, NULL);
    simulated_options(s.loop)->pipe_size = 4u << 20;
    simulated_options(s.loop)->short_ppm = 0;
    uint8_t *bytes = random_items(s.loop, 100, &size);
    client_connect(&c, s.loop, bytes, size);
    uint64_t before = 0;
    while (before < size) {
        assert_true(simulated_run_turns(s.loop, 1));
        uint64_t now = server_statistics(s.server)->bytes_received;
        assert_true(now - before <= INPUT_TURN_MAX);
        before = now;
    }
    run_ms(&s, 1000);
    assert_int_equal(c.received_size, size);
    client_close(&c);
    scene_end(&s);
    free(bytes);
}

#define MANY 40

/* Time runs out in nearly each turn; still each gets its share, and nobody is forgotten. */
static void many_connections_share_the_turns(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct scene s;
        struct logger logger;
        struct client c[MANY];
        size_t size = 400000;
        scene_begin(&s, seed, &logger, NULL);
        s.service.one_at_a_time = seed % 2;
        size = seed % 2 ? 20000 : size;
        uint8_t *bytes = random_items(s.loop, 500, &size);
        for (int i = 0; i < MANY; i++)
            client_connect(&c[i], s.loop, "\0\1x", 3);
        run_ms(&s, 50);
        assert_int_equal(server_connection_count(s.server), MANY);
        simulated_options(s.loop)->jump_ppm = 700000;
        for (int i = 0; i < MANY; i++)
            client_send(&c[i], bytes, size);
        bool is_half = false;
        while (!is_half) {
            assert_true(simulated_run_turns(s.loop, 10));
            for (int i = 0; i < MANY; i++)
                is_half |= c[i].received_size > size / 2;
        }
        for (int i = 0; i < MANY; i++)
            assert_true(c[i].received_size > size / 50);
        run_ms(&s, 60000);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(c[i].received_size, 3 + size);
            assert_memory_equal(c[i].received + 3, bytes, size);
            client_close(&c[i]);
        }
        scene_end(&s);
        free(bytes);
    }
}

/* Each look at the clock takes time, so that of those who go on one or two have their turn. */
static void who_goes_on_holds_nobody_up(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct scene s;
        struct logger logger;
        struct client c[MANY], late;
        size_t size = 20000;
        unsigned turns = 0;
        scene_begin(&s, seed, &logger, NULL);
        uint8_t *bytes = random_items(s.loop, 50, &size);
        client_connect(&late, s.loop, "\0\1x", 3);
        run_ms(&s, 50);
        s.service.one_at_a_time = true;
        simulated_options(s.loop)->short_ppm = 0;
        for (int i = 0; i < MANY; i++)
            client_connect(&c[i], s.loop, bytes, size);
        run_ms(&s, 2);
        simulated_options(s.loop)->jump_ppm = 1000000;
        simulated_run_turns(s.loop, 20);
        client_send(&late, "\0\1y", 3);
        for (; late.received_size < 6; turns++)
            assert_true(simulated_run_turns(s.loop, 1));
        assert_in_range(turns, 1, 30); /* and not one for each of those who go on */
        simulated_options(s.loop)->jump_ppm = 0;
        run_ms(&s, 60000);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(c[i].received_size, size);
            client_close(&c[i]);
        }
        client_close(&late);
        scene_end(&s);
        free(bytes);
    }
}

/* The same with those who have not logged in, of whom one or two a turn are read and written to. */
static void strangers_hold_nobody_up(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct scene s;
        struct logger logger;
        struct client c[MANY], known;
        unsigned turns = 0;
        scene_begin(&s, seed, &logger, NULL);
        simulated_options(s.loop)->short_ppm = 0;
        client_connect(&known, s.loop, "\0\1x", 3);
        run_ms(&s, 50);
        s.service.no_logins = true;
        for (int i = 0; i < MANY; i++)
            client_connect(&c[i], s.loop, "\0\1x", 3);
        run_ms(&s, 50);
        simulated_options(s.loop)->jump_ppm = 1000000;
        for (int i = 0; i < MANY; i++)
            client_send(&c[i], "\0\1y", 3);
        client_send(&known, "\0\1y", 3);
        for (; known.received_size < 6; turns++)
            assert_true(simulated_run_turns(s.loop, 1));
        assert_in_range(turns, 1, 60); /* and not one for each of the others */
        simulated_options(s.loop)->jump_ppm = 0;
        run_ms(&s, 60000);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(c[i].received_size, 6);
            client_close(&c[i]);
        }
        client_close(&known);
        scene_end(&s);
    }
}

/* At any moment, with connections in every state. */
static void a_crash_leaves_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct scene s;
        struct logger logger;
        struct client c[4];
        size_t size = 400000;
        scene_begin(&s, seed, &logger, NULL);
        uint8_t *bytes = random_items(s.loop, 50000, &size);
        client_connect(&c[0], s.loop, "", 0); /* says nothing */
        for (int i = 1; i < 4; i++)
            client_connect(&c[i], s.loop, "\0\1x", 3);
        run_ms(&s, 50);
        for (int i = 1; i < 4; i++)
            client_send(&c[i], bytes, size);
        c[1].read_max = 0;
        assert_true(simulated_run_turns(s.loop, seed * 4));
        client_close(&c[2]);
        assert_true(simulated_run_turns(s.loop, seed % 5));
        server_abandon(s.server);
        assert_int_equal(s.service.lent, s.service.given_back);
        server_free(s.server);
        assert_int_equal(s.service.opened, s.service.freed);
        account_fini(&s.account);
        for (int i = 0; i < 4; i++) {
            if (i != 2)
                client_close(&c[i]);
        }
        loop_free(s.loop);
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crash_leaves_nothing),
        cmocka_unit_test(items_come_back),
        cmocka_unit_test(large_items_are_read_on_in_place),
        cmocka_unit_test(a_paused_session_is_not_read),
        cmocka_unit_test(a_finished_session_writes_and_closes),
        cmocka_unit_test(a_fatal_error_writes_its_answer),
        cmocka_unit_test(a_half_closed_client_gets_its_answers),
        cmocka_unit_test(a_reset_gives_everything_back),
        cmocka_unit_test(a_slow_reader_is_waited_for),
        cmocka_unit_test(who_never_reads_is_closed_in_time),
        cmocka_unit_test(protocols_are_told_apart),
        cmocka_unit_test(who_says_nothing_is_closed),
        cmocka_unit_test(a_tick_that_expires_closes),
        cmocka_unit_test(too_many_connections_are_refused),
        cmocka_unit_test(no_descriptors_are_reported),
        cmocka_unit_test(draining_asks_and_then_closes),
        cmocka_unit_test(a_session_is_freed_when_it_is_idle),
        cmocka_unit_test(a_session_that_cannot_open_closes),
        cmocka_unit_test(input_without_memory_or_progress_closes),
        cmocka_unit_test(one_connection_cannot_hog_a_turn),
        cmocka_unit_test(many_connections_share_the_turns),
        cmocka_unit_test(who_goes_on_holds_nobody_up),
        cmocka_unit_test(strangers_hold_nobody_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
