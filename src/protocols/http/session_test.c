/* The session over a broker in virtual time: what comes back for what is sent. */
#include "protocols/http/test_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#define GUEST  "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n" /* guest:guest */
#define WHOAMI "GET /api/whoami HTTP/1.1\r\nHost: x\r\n" GUEST "\r\n"

static unsigned count_of(const char *text, const char *word)
{
    unsigned count = 0;

    for (const char *at = text; (at = strstr(at, word)); at++)
        count++;
    return count;
}

/* Sends the bytes, part by part, and waits until all that comes has come. */
static void exchange_bytes(struct http_peer *peer, const char *bytes, size_t size, size_t part)
{
    for (size_t at = 0; at < size; at += part)
        http_peer_send(peer, bytes + at, size - at < part ? size - at : part);
    world_run(peer->world, 500);
}

static void ask(struct http_peer *peer, const char *text)
{
    peer->size = 0;
    peer->answer[0] = 0;
    exchange_bytes(peer, text, strlen(text), strlen(text));
}

#define assert_has(peer, text)                                                                     \
    do {                                                                                           \
        if (!strstr((peer)->answer, text))                                                         \
            fail_msg("no '%s' in: %s", text, (peer)->answer);                                      \
    } while (0)

/* One request on a connection of its own: the answer must have that status. */
static void expect(struct world *world, const char *request, const char *status, bool closes)
{
    struct http_peer peer;

    http_peer_open(&peer, world, PORT_MANAGEMENT);
    ask(&peer, request);
    if (strncmp(peer.answer, "HTTP/1.1 ", 9) != 0 || strncmp(peer.answer + 9, status, 3) != 0)
        fail_msg("not %s: '%s' for '%.200s'", status, peer.answer, request);
    if (peer.is_ended != closes)
        fail_msg("%s: '%s' for '%.200s'", closes ? "open" : "closed", peer.answer, request);
    if (!closes) { /* and the next request is understood */
        ask(&peer, WHOAMI);
        assert_has(&peer, "\"name\":\"guest\"");
    }
    http_peer_close(&peer);
}

/* ---- one after the other ---- */

static void test_bytes_may_come_in_any_parts(void **state)
{
    static const char text[] =
        WHOAMI "GET /api/nothing HTTP/1.1\r\n\r\n"
               "POST /api/whoami HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
               "5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n" WHOAMI;
    static const size_t parts[] = {1, 2, 3, 7, 64, sizeof text};

    (void)state;
    for (unsigned seed = 1; seed <= 12; seed++) {
        struct world world;
        struct http_peer peer;
        world_init(&world, 1, seed, seed % 2 ? 0 : 500000);
        http_peer_open(&peer, &world, PORT_MANAGEMENT);
        exchange_bytes(&peer, text, sizeof text - 1, parts[seed % 6]);
        assert_int_equal(count_of(peer.answer, "HTTP/1.1 "), 4);
        assert_int_equal(count_of(peer.answer, "200 OK"), 2);
        char *unknown = strstr(peer.answer, "404 Not Found"),
             *method = strstr(peer.answer, "405 Method Not Allowed");
        assert_true(unknown && method && unknown < method);
        assert_int_equal(count_of(method, "\"name\":\"guest\""), 1);
        assert_false(peer.is_ended);
        http_peer_close(&peer);
        world_fini(&world);
    }
}

static void test_many_at_once(void **state)
{
    struct world world;
    struct http_peer peer;

    (void)state;
    world_init(&world, 2, 5, 300000);
    http_peer_open(&peer, &world, PORT_MANAGEMENT + 1);
    for (int i = 0; i < 300; i++)
        http_peer_send(&peer, WHOAMI, sizeof WHOAMI - 1);
    world_run(&world, 5000);
    assert_int_equal(count_of(peer.answer, "200 OK"), 300);
    http_peer_close(&peer);
    world_fini(&world);
}

static void test_connections_that_are_kept(void **state)
{
    struct world world;

    (void)state;
    world_init(&world, 1, 1, 0);
    expect(&world, WHOAMI, "200", false);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nConnection: close\r\n" GUEST "\r\n", "200", true);
    expect(&world, "GET /api/whoami HTTP/1.0\r\n" GUEST "\r\n", "200", true);
    expect(&world, "GET /api/whoami HTTP/1.0\r\nConnection: keep-alive\r\n" GUEST "\r\n", "200",
           false);
    expect(&world, "GET http://host:1/api/whoami HTTP/1.1\r\n" GUEST "\r\n", "200", false);
    expect(&world, "\r\n\r\nGET /api/whoami/?x=1&y HTTP/1.1\r\n" GUEST "\r\n", "200", false);
    /* an offer that is not taken */
    expect(&world,
           "GET /api/whoami HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" GUEST "\r\n",
           "200", false);
    world_fini(&world);
}

/* ---- who may ---- */

static void test_logins(void **state)
{
    struct world world;

    (void)state;
    world_init(&world, 2, 3, 300000);
    expect(&world, "GET /api/whoami HTTP/1.1\r\n\r\n", "401", false);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nAuthorization: Basic\r\n\r\n", "401", false);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nAuthorization: Basic !!!!\r\n\r\n", "401", false);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n", "401", false);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nAuthorization: Basic Z3Vlc3Q=\r\n\r\n", "401",
           false); /* no colon */
    expect(&world, "GET /api/whoami HTTP/1.1\r\nAuthorization: Basic Z3Vlc3Q6eA==\r\n\r\n", "401",
           false); /* guest:x */
    expect(&world, "GET /api/whoami HTTP/1.1\r\n" GUEST GUEST "\r\n", "401", false);
    world_fini(&world);
}

static void test_who_logged_in_before_is_forgotten(void **state)
{
    struct world world;
    struct http_peer peer;

    (void)state;
    world_init(&world, 1, 4, 0);
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    ask(&peer, WHOAMI);
    assert_has(&peer, "200 OK");
    ask(&peer, "GET /api/whoami HTTP/1.1\r\n\r\n");
    assert_has(&peer, "401 Unauthorized");
    assert_has(&peer, "www-authenticate: Basic realm=\"RabbitMQ Management\"");
    ask(&peer, "GET /api/whoami HTTP/1.1\r\nAuthorization: Basic Z3Vlc3Q6eA==\r\n\r\n");
    assert_has(&peer, "{\"error\":\"not_authorised\",\"reason\":\"Login failed\"}");
    http_peer_close(&peer);
    world_fini(&world);
}

/* ---- bodies ---- */

static void test_bodies(void **state)
{
    struct world world;
    char long_body[70000];

    (void)state;
    world_init(&world, 1, 6, 0);
    expect(&world, "GET /api/whoami HTTP/1.1\r\n" GUEST "Content-Length: 5\r\n\r\nhello", "200",
           false);
    expect(&world,
           "GET /api/whoami HTTP/1.1\r\n" GUEST "Transfer-Encoding: chunked\r\n\r\n"
           "3\r\nabc\r\n0\r\n\r\n",
           "200", false);
    /* read and thrown away */
    expect(&world, "GET /api/whoami HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "401", false);
    /* too large: announced, and found out */
    expect(&world, "GET /api/whoami HTTP/1.1\r\n" GUEST "Content-Length: 9999999\r\n\r\n", "413",
           true);
    int at = snprintf(long_body, sizeof long_body,
                      "GET /api/whoami HTTP/1.1\r\n" GUEST "Transfer-Encoding: chunked\r\n\r\n"
                      "10000\r\n");
    memset(long_body + at, 'b', sizeof long_body - (size_t)at - 1);
    long_body[sizeof long_body - 1] = 0;
    expect(&world, long_body, "413", true);
    /* of somebody who may not: too much to be thrown away */
    expect(&world, "GET /api/whoami HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n", "401", true);
    world_fini(&world);
}

static void test_a_long_body_that_nobody_wants(void **state)
{
    struct world world;
    struct http_peer peer;
    static char part[1 << 16];

    (void)state;
    world_init(&world, 1, 7, 0);
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    ask(&peer, "POST /api/nothing HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_has(&peer, "404 Not Found");
    assert_false(peer.is_ended);
    for (int i = 0; i < 3; i++) {
        http_peer_send(&peer, "10000\r\n", 7);
        memset(part, 'x', sizeof part);
        http_peer_send(&peer, part, sizeof part);
        http_peer_send(&peer, "\r\n", 2);
    }
    world_run(&world, 2000);
    assert_true(peer.is_ended);
    assert_int_equal(count_of(peer.answer, "HTTP/1.1 "), 1);
    http_peer_close(&peer);
    world_fini(&world);
}

static void test_expect_continue(void **state)
{
    struct world world;
    struct http_peer peer;

    (void)state;
    world_init(&world, 1, 8, 0);
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    ask(&peer,
        "GET /api/whoami HTTP/1.1\r\n" GUEST "Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n");
    assert_string_equal(peer.answer, "HTTP/1.1 100 Continue\r\n\r\n");
    ask(&peer, "hello");
    assert_has(&peer, "HTTP/1.1 200 OK\r\n");
    http_peer_close(&peer);
    /* refused before: it may come or not, so that the connection ends */
    expect(&world, "GET /api/whoami HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
           "401", true);
    expect(&world, "GET /api/whoami HTTP/1.1\r\n" GUEST "Expect: wonders\r\n\r\n", "417", false);
    world_fini(&world);
}

/* ---- bad input ---- */

static void test_malformed(void **state)
{
    struct world world;

    (void)state;
    world_init(&world, 1, 9, 0);
    expect(&world, "AMQP\r\n\r\n", "400", true);
    expect(&world, "GET /api/whoami HTTP/3.7\r\n\r\n", "505", true);
    expect(&world, "GET /api/whoami HTTP/2.0\r\n\r\n", "505", true);
    expect(&world, "GET nothing HTTP/1.1\r\n\r\n", "400", true);
    expect(&world, "GET /api/queues/%zz HTTP/1.1\r\n" GUEST "\r\n", "400", false);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nbad header\r\n\r\n", "400", true);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400", true);
    expect(&world, "GET /api/whoami HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400", true);
    /* where the body ends must be told in one way */
    expect(&world,
           "POST /api/whoami HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
           "400", true);
    expect(&world, "POST /api/whoami HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
           "400", true);
    expect(&world, "GET /api/whoami HTTP/1.1\r\n" GUEST "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
           "400", true);
    expect(&world, "BREW /api/whoami HTTP/1.1\r\n\r\n", "400", true);
    expect(&world, "CONNECT host:80 HTTP/1.1\r\n\r\n", "400", true);
    expect(&world, "DELETE /api/whoami HTTP/1.1\r\n\r\n", "405", false);
    expect(&world, "OPTIONS /api/whoami HTTP/1.1\r\n\r\n", "200", false);
    expect(&world, "GET / HTTP/1.1\r\n\r\n", "404", false);
    expect(&world, "GET /api/../../etc/passwd HTTP/1.1\r\n\r\n", "404", false);
    world_fini(&world);
}

/* `start`, then `count` times `filling`, then `end`. */
static char *long_text(const char *start, const char *filling, size_t count, const char *end)
{
    size_t size = strlen(start) + count * strlen(filling) + strlen(end);
    char *text = malloc(size + 1), *at = text;

    assert_non_null(text);
    at = stpcpy(at, start);
    while (count-- > 0)
        at = stpcpy(at, filling);
    stpcpy(at, end);
    return text;
}

static void test_heads_are_bounded(void **state)
{
    static const struct {
        const char *start, *filling;
        size_t count;
        const char *end, *status;
        bool closes;
    } cases[] = {
        /* one header, or many; nothing but line ends; a path; all that there may be */
        {"GET /api/whoami HTTP/1.1\r\nX: ", "x", 2 * HTTP_HEAD_MAX, "", "431", true},
        {"GET /api/whoami HTTP/1.1\r\n", "X: y\r\n", HTTP_HEAD_MAX / 2, "", "431", true},
        {"", "\r\n", HTTP_HEAD_MAX, "", "431", true},
        {"GET /", "p", HTTP_PATH_MAX, " HTTP/1.1\r\n\r\n", "414", false},
        {"GET /", "p", HTTP_PATH_MAX - 1, " HTTP/1.1\r\n\r\n", "404", false},
        {"GET /api/whoami HTTP/1.1\r\n" GUEST "X: ", "x", HTTP_HEAD_MAX - 100, "\r\n\r\n", "200",
         false},
    };
    struct world world;

    (void)state;
    world_init(&world, 1, 10, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *text = long_text(cases[i].start, cases[i].filling, cases[i].count, cases[i].end);
        expect(&world, text, cases[i].status, cases[i].closes);
        free(text);
    }
    world_fini(&world);
}

/* ---- time ---- */

static void test_slow_heads(void **state)
{
    struct world world;
    struct http_peer peer;

    (void)state;
    world_init(&world, 1, 11, 0);
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    for (int i = 0; i < 20 && !peer.is_ended; i++) {
        http_peer_send(&peer, &"GET /api/whoami HTTP"[i], 1);
        world_run(&world, 1000);
    }
    assert_has(&peer, "408 Request Timeout");
    assert_true(peer.is_ended);
    http_peer_close(&peer);
    world_fini(&world);
}

static void test_silence(void **state)
{
    struct world world;
    struct http_peer peer;

    (void)state;
    world_init(&world, 1, 12, 0);
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    ask(&peer, WHOAMI);
    world_run(&world, 50000);
    assert_false(peer.is_ended);
    world_run(&world, 15000);
    assert_true(peer.is_ended);
    http_peer_close(&peer);
    /* in the middle of a body */
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    ask(&peer, "GET /api/whoami HTTP/1.1\r\n" GUEST "Content-Length: 5\r\n\r\nhe");
    world_run(&world, 70000);
    assert_true(peer.is_ended && peer.size == 0);
    http_peer_close(&peer);
    world_fini(&world);
}

static void test_drain(void **state)
{
    struct world world;
    struct http_peer idle, busy;

    (void)state;
    world_init(&world, 1, 13, 0);
    http_peer_open(&idle, &world, PORT_MANAGEMENT);
    ask(&idle, WHOAMI);
    http_peer_open(&busy, &world, PORT_MANAGEMENT);
    ask(&busy, "GET /api/whoami HTTP/1.1\r\n" GUEST "Content-Length: 5\r\n\r\n");
    server_drain(world.servers[0][0], "end",
                 loop_now_ns(world.loops[0]) + 3000 * NANOSECONDS_PER_MS);
    world_run(&world, 100);
    assert_true(idle.is_ended && !busy.is_ended);
    ask(&busy, "hello");
    assert_has(&busy, "connection: close");
    assert_true(busy.is_ended);
    http_peer_close(&idle);
    http_peer_close(&busy);
    world_fini(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_may_come_in_any_parts),
        cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_connections_that_are_kept),
        cmocka_unit_test(test_logins),
        cmocka_unit_test(test_who_logged_in_before_is_forgotten),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_a_long_body_that_nobody_wants),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_heads_are_bounded),
        cmocka_unit_test(test_slow_heads),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
