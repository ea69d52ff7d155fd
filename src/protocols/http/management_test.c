/* The management API and the metrics, over brokers of several workers. */
#include "protocols/http/test_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#define GUEST "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n" /* guest:guest */

/* The body of an answer, whose chunks are put together in place. */
static char *body_of(struct http_peer *peer)
{
    char *body = strstr(peer->answer, "\r\n\r\n");

    assert_non_null(body);
    body += 4;
    if (!strstr(peer->answer, "transfer-encoding: chunked"))
        return body;
    char *to = body, *from = body;
    for (;;) {
        char *end;
        unsigned long size = strtoul(from, &end, 16);
        assert_true(end > from && end[0] == '\r' && end[1] == '\n');
        if (size == 0)
            break;
        memmove(to, end + 2, size);
        to += size;
        from = end + 2 + size;
        assert_memory_equal(from, "\r\n", 2);
        from += 2;
    }
    *to = 0;
    return body;
}

/* Of worker `index`; waits until the answer is complete: the request says that it is the last. */
static json_t *get(struct world *world, unsigned index, const char *path)
{
    struct http_peer peer;
    char request[300];
    json_error_t error;

    http_peer_open(&peer, world, (uint16_t)(PORT_MANAGEMENT + index));
    int size = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nConnection: close\r\n" GUEST "\r\n", path);
    http_peer_send(&peer, request, (size_t)size);
    for (int i = 0; i < 1000 && !peer.is_ended; i++)
        world_run(world, 100);
    assert_true(peer.is_ended);
    json_t *value = json_loads(body_of(&peer), 0, &error);
    if (!value)
        fail_msg("%s: %s", error.text, peer.answer);
    http_peer_close(&peer);
    return value;
}

static json_int_t integer(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* The queue of that name in a list; NULL: it is not there. */
static const json_t *find(const json_t *list, const char *name)
{
    const json_t *found = NULL, *queue;
    size_t i;

    json_array_foreach(list, i, queue)
    {
        if (strcmp(json_string_value(json_object_get(queue, "name")), name) != 0)
            continue;
        assert_null(found); /* once */
        found = queue;
    }
    return found;
}

static void test_queues_of_all_workers(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 6; seed++) {
        struct world world;
        struct actor actors[3];
        char name[32];
        world_init(&world, 3, seed, seed % 2 ? 300000 : 0);
        for (unsigned i = 0; i < 3; i++)
            actor_open(&actors[i], &world, i);
        for (unsigned i = 0; i < 150; i++) {
            snprintf(name, sizeof name, "q/%u", i);
            actor_declare(&actors[i % 3], &world, name, i % 2);
        }
        for (unsigned i = 0; i < 12; i++)
            actor_publish(&actors[(i + 1) % 3], &world, i % 2 ? "q/4" : "q/5");
        for (unsigned w = 0; w < 3; w++) {
            json_t *list = get(&world, w, "/api/queues");
            assert_int_equal(json_array_size(list), 150);
            for (unsigned i = 0; i < 150; i++) {
                snprintf(name, sizeof name, "q/%u", i);
                const json_t *queue = find(list, name);
                assert_non_null(queue);
                assert_int_equal(integer(queue, "worker"), i % 3);
                assert_int_equal(integer(queue, "shard"), i % 3 + 1);
                assert_int_equal(integer(queue, "messages"), i == 4 || i == 5 ? 6 : 0);
                assert_int_equal(json_is_true(json_object_get(queue, "durable")), i % 2);
            }
            json_decref(list);
            json_t *one = get(&world, w, "/api/queues/%2f/q%2F4");
            assert_int_equal(integer(one, "messages_ready"), 6);
            assert_int_equal(integer(one, "messages_unacknowledged"), 0);
            assert_string_equal(json_string_value(json_object_get(one, "vhost")), "/");
            json_decref(one);
        }
        json_t *none = get(&world, 1, "/api/queues/%2f/q4");
        assert_string_equal(json_string_value(json_object_get(none, "reason")),
                            "no queue 'q4' in vhost '/'");
        json_decref(none);
        for (unsigned i = 0; i < 3; i++)
            actor_close(&actors[i], &world);
        world_fini(&world);
    }
}

/* A list that is read slowly, while queues come and go. */
static void test_a_list_while_queues_come_and_go(void **state)
{
    struct world world;
    struct actor actor;
    struct http_peer peer;
    char name[200];

    (void)state;
    world_init(&world, 2, 3, 100000);
    actor_open(&actor, &world, 1);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "q-%u-%0150d", i, 0);
        actor_declare(&actor, &world, name, false);
    }
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    http_peer_read(&peer, false);
    static const char request[] =
        "GET /api/queues/%2F HTTP/1.1\r\nConnection: close\r\n" GUEST "\r\n";
    http_peer_send(&peer, request, sizeof request - 1);
    world_run(&world, 1000);
    for (unsigned i = 2000; i < 3000; i++) { /* not listed yet: the client has to read first */
        snprintf(name, sizeof name, "q-%u-%0150d", i, 0);
        if (i % 2)
            actor_delete(&actor, &world, name);
    }
    actor_declare(&actor, &world, "new", false);
    http_peer_read(&peer, true);
    for (int i = 0; i < 1000 && !peer.is_ended; i++)
        world_run(&world, 100);
    assert_true(peer.is_ended);
    json_t *list = json_loads(body_of(&peer), 0, NULL);
    assert_non_null(list);
    assert_int_equal(json_array_size(list), 2500);
    assert_null(find(list, "new"));
    json_decref(list);
    http_peer_close(&peer);
    /* and one whose client goes in the middle */
    http_peer_open(&peer, &world, PORT_MANAGEMENT);
    http_peer_send(&peer, request, sizeof request - 1);
    http_peer_close(&peer);
    world_run(&world, 1000);
    actor_close(&actor, &world);
    world_fini(&world);
}

static void test_overview(void **state)
{
    struct world world;
    struct actor actor;

    (void)state;
    world_init(&world, 3, 8, 0);
    actor_open(&actor, &world, 2);
    actor_declare(&actor, &world, "a", true);
    actor_publish(&actor, &world, "a");
    for (unsigned w = 0; w < 3; w++) {
        json_t *answer = get(&world, w, "/api/overview");
        const json_t *objects = json_object_get(answer, "object_totals"),
                     *messages = json_object_get(answer, "queue_totals");
        assert_int_equal(integer(objects, "connections"), 1); /* who looks is none */
        assert_int_equal(integer(objects, "queues"), 1);
        assert_int_equal(integer(messages, "messages"), 1);
        assert_int_equal(integer(json_object_get(answer, "message_stats"), "publish"), 1);
        assert_int_equal(integer(answer, "workers"), 3);
        json_decref(answer);
    }
    actor_close(&actor, &world);
    world_fini(&world);
}

static void test_metrics(void **state)
{
    struct world world;
    struct http_peer peer;
    struct actor actor;
    static const char request[] = "GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n";

    (void)state;
    world_init(&world, 3, 9, 0);
    actor_open(&actor, &world, 1);
    actor_declare(&actor, &world, "a", true);
    actor_publish(&actor, &world, "a");
    http_peer_open(&peer, &world, PORT_METRICS + 2);
    http_peer_send(&peer, request, sizeof request - 1);
    world_run(&world, 1000);
    assert_true(peer.is_ended);
    static const char *const lines[] = {
        "\nrabbitmq_connections 1\n",
        "\nrabbitmq_queues 1\n",
        "\nrabbitmq_queue_messages_ready 1\n",
        "\nrabbitmq_queue_messages_unacked 0\n",
        "\nsluice_queues{worker=\"0\"} 0\n",
        "\nsluice_queues{worker=\"1\"} 1\n",
        "\nsluice_log_shards{worker=\"2\"} 1\n",
        "\nsluice_turns_long_total{worker=\"2\"} ",
        "\nrabbitmq_build_info{rabbitmq_version=\"4.3.0\"",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (!strstr(peer.answer, lines[i]))
            fail_msg("no '%s' in %s", lines[i], peer.answer);
    }
    http_peer_close(&peer);
    actor_close(&actor, &world);
    world_fini(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queues_of_all_workers),
        cmocka_unit_test(test_a_list_while_queues_come_and_go),
        cmocka_unit_test(test_overview),
        cmocka_unit_test(test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
