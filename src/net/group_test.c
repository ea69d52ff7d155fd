#include "net/group.h"

#include "base/assert.h"
#include "loop/real.h"
#include "loop/simulated.h"
#include "net/server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEMBERS 4
#define PORT    5672

/* ---- a protocol that answers everything with the number of the worker ---- */

struct worker {
    struct loop *loop;
    struct server *server;
    unsigned index;
    unsigned opened, freed;

    /* For threads. */
    pthread_t thread;
    struct post stop;
    struct timer gone;
};

struct session {
    struct worker *worker;
    struct wire *wire;
};

static enum sniff who_sniff(struct slice start)
{
    (void)start;
    return SNIFF_YES;
}

static int who_open(void *context, struct wire *wire, void **to)
{
    struct session *session = malloc(sizeof *session);

    assert_non_null(session);
    *session = (struct session){context, wire};
    session->worker->opened++;
    *to = session;
    return 0;
}

static ssize_t who_input(void *from, struct slice bytes)
{
    struct session *session = from;
    char name = (char)('0' + session->worker->index);

    for (size_t i = 0; i < bytes.size; i++)
        output_append(&session->wire->output, slice_of(&name, 1));
    return (ssize_t)bytes.size;
}

static size_t who_input_max(void *from)
{
    (void)from;
    return 1;
}

static void who_drained(void *from)
{
    (void)from;
}

static uint64_t who_tick(void *from, uint64_t now_ns)
{
    (void)from;
    (void)now_ns;
    return TICK_NEVER;
}

static void who_drain(void *from, const char *reason)
{
    struct session *session = from;

    (void)reason;
    session->wire->finished = true;
}

static bool who_close(void *from, enum close_reason reason)
{
    (void)from;
    (void)reason;
    return true;
}

static bool who_idle(void *from)
{
    (void)from;
    return true;
}

static void who_free(void *from)
{
    struct session *session = from;

    session->worker->freed++;
    free(session);
}

static void who_abandon(void *context)
{
    (void)context; /* nothing is held */
}

static const struct protocol who_protocol = {"who",         who_sniff,   who_open, who_input,
                                             who_input_max, who_drained, who_tick, who_drain,
                                             who_close,     who_idle,    who_free, who_abandon};

static const struct logger quiet = {.descriptor = -1};

static void worker_open(struct worker *worker, struct server_group *group, unsigned index,
                        uint16_t port, unsigned connections_max)
{
    struct server_protocol protocol = {&who_protocol, worker};
    struct server_options options = {
        .loop = worker->loop,
        .logger = &quiet,
        .listen = {.host = "127.0.0.1", .port = port},
        .group = group,
        .member = index,
        .protocols = &protocol,
        .protocol_count = 1,
        .connections_max = connections_max,
    };
    struct failure failure;

    worker->index = index;
    assert_int_equal(server_open(&options, &worker->server, &failure), 0);
}

/* ---- in simulation ---- */

struct scene {
    struct loop *client;
    struct server_group *group;
    struct worker workers[MEMBERS];
};

static void scene_begin(struct scene *s, uint64_t seed, enum server_spread spread,
                        unsigned connections_max)
{
    *s = (struct scene){.client = loop_new_simulated(seed)};
    s->group = server_group_new(MEMBERS, spread);
    for (unsigned i = 0; i < MEMBERS; i++) {
        s->workers[i].loop = loop_new_simulated_beside(s->client);
        worker_open(&s->workers[i], s->group, i, 0, connections_max);
        assert_int_equal(server_port(s->workers[i].server), server_port(s->workers[0].server));
        assert_int_not_equal(server_port(s->workers[i].server), 0);
    }
}

static void scene_connect(struct scene *s, struct stream **streams, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(
            simulated_connect(s->client, server_port(s->workers[0].server), &streams[i]), 0);
    assert_true(simulated_run_for(s->client, 10 * NANOSECONDS_PER_MS));
}

static void scene_end(struct scene *s)
{
    for (unsigned i = 0; i < MEMBERS; i++)
        server_drain(s->workers[i].server, "end", loop_now_ns(s->client) + 1);
    assert_true(simulated_run_for(s->client, 20000 * NANOSECONDS_PER_MS));
    assert_int_equal(group_connections(s->group), 0);
    for (unsigned i = 0; i < MEMBERS; i++) {
        assert_int_equal(s->workers[i].opened, s->workers[i].freed);
        server_free(s->workers[i].server);
    }
    for (unsigned i = 0; i < MEMBERS; i++)
        loop_free(s->workers[i].loop);
    loop_free(s->client);
    server_group_free(s->group);
}

static unsigned connections_of(const struct scene *s, unsigned worker)
{
    return server_connection_count(s->workers[worker].server);
}

static void few_connections_are_spread_evenly(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct scene s;
        struct stream *streams[3 * MEMBERS];
        scene_begin(&s, seed, SPREAD_COUNTED, 0);
        scene_connect(&s, streams, MEMBERS);
        for (unsigned i = 0; i < MEMBERS; i++)
            assert_int_equal(connections_of(&s, i), 1);
        scene_connect(&s, streams + MEMBERS, 2 * MEMBERS);
        for (unsigned i = 0; i < MEMBERS; i++)
            assert_int_equal(connections_of(&s, i), 3);
        scene_end(&s);
    }
}

/* The worker's number; x: the connection is closed. */
static char ask(struct scene *s, struct stream *stream)
{
    char answer = '?';

    if (stream_write(stream, &(struct iovec){&answer, 1}, 1) != 1)
        return 'x';
    assert_true(simulated_run_for(s->client, NANOSECONDS_PER_MS));
    return stream_read(stream, &answer, 1) == 1 ? answer : 'x';
}

static void who_has_fewest_gets_the_next(void **state)
{
    struct scene s;
    struct stream *streams[8];
    struct stream *more[2];
    unsigned closed = 0;

    (void)state;
    scene_begin(&s, 3, SPREAD_COUNTED, 0);
    scene_connect(&s, streams, 8);
    for (unsigned i = 0; i < 8; i++) {
        if (ask(&s, streams[i]) == '2') {
            stream_close(streams[i]);
            closed++;
        }
    }
    assert_int_equal(closed, 2);
    assert_true(simulated_run_for(s.client, 10000 * NANOSECONDS_PER_MS));
    assert_int_equal(connections_of(&s, 2), 0);
    scene_connect(&s, more, 2);
    assert_int_equal(ask(&s, more[0]), '2');
    assert_int_equal(ask(&s, more[1]), '2');
    scene_end(&s);
}

static void the_limit_is_the_groups(void **state)
{
    (void)state;
    for (int spread = 0; spread < 2; spread++) {
        struct scene s;
        struct stream *streams[10];
        unsigned refused = 0;
        scene_begin(&s, 4, (enum server_spread)spread, 6);
        scene_connect(&s, streams, 10);
        assert_int_equal(group_connections(s.group), 6);
        for (unsigned i = 0; i < 10; i++)
            refused += ask(&s, streams[i]) == 'x';
        assert_int_equal(refused, 4);
        for (unsigned i = 0; i < MEMBERS; i++)
            refused -= (unsigned)server_statistics(s.workers[i].server)->refused;
        assert_int_equal(refused, 0);
        scene_end(&s);
    }
}

static void who_drains_gets_no_more(void **state)
{
    struct scene s;
    struct stream *streams[6];

    (void)state;
    scene_begin(&s, 5, SPREAD_COUNTED, 0);
    server_drain(s.workers[1].server, "rest", loop_now_ns(s.workers[1].loop) + 1);
    assert_true(simulated_run_for(s.client, NANOSECONDS_PER_MS));
    scene_connect(&s, streams, 6);
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_int_equal(connections_of(&s, i), i == 1 ? 0 : 2);
    scene_end(&s);
}

/* A connection that is on its way to a member which begins to drain, or ends, is closed. */
static void connections_on_their_way_are_closed(void **state)
{
    unsigned seen = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct scene s;
        struct stream *streams[MEMBERS];
        scene_begin(&s, seed, SPREAD_COUNTED, 0);
        for (unsigned i = 0; i < MEMBERS; i++)
            assert_int_equal(
                simulated_connect(s.client, server_port(s.workers[0].server), &streams[i]), 0);
        simulated_run_turns(s.client, seed % 20);
        unsigned opened = 0;
        for (unsigned i = 0; i < MEMBERS; i++)
            opened += connections_of(&s, i);
        seen += group_connections(s.group) > opened;
        if (seed % 2 == 0) { /* the others go on, until nothing more is on its way */
            for (unsigned i = 1; i < MEMBERS; i++)
                server_drain(s.workers[i].server, "end", loop_now_ns(s.client) + 1);
            assert_true(simulated_run_for(s.client, 20000 * NANOSECONDS_PER_MS));
            for (unsigned i = 1; i < MEMBERS; i++)
                assert_int_equal(connections_of(&s, i), 0);
            assert_int_equal(group_connections(s.group), connections_of(&s, 0));
            scene_end(&s);
            continue;
        }
        if (opened > 0) {
            scene_end(&s);
            continue;
        }
        for (unsigned i = 0; i < MEMBERS; i++) /* it stops at once */
            server_free(s.workers[i].server);
        for (unsigned i = 0; i < MEMBERS; i++)
            loop_free(s.workers[i].loop);
        char byte;
        for (unsigned i = 0; i < MEMBERS; i++) {
            ssize_t size = stream_read(streams[i], &byte, 1);
            assert_true(size == 0 || size == E_CLOSED);
        }
        loop_free(s.client);
        server_group_free(s.group);
    }
    assert_true(seen > 10);
}

static void the_system_may_choose(void **state)
{
    struct scene s;
    struct stream *streams[64];
    unsigned connections = 0;

    (void)state;
    scene_begin(&s, 6, SPREAD_HASHED, 0);
    scene_connect(&s, streams, 64);
    for (unsigned i = 0; i < MEMBERS; i++) {
        assert_true(connections_of(&s, i) > 4);
        connections += connections_of(&s, i);
    }
    assert_int_equal(connections, 64);
    scene_end(&s);
}

static void the_port_may_be_taken(void **state)
{
    struct loop *loop = loop_new_simulated(7);
    struct server_group *group = server_group_new(2, SPREAD_COUNTED);
    struct listen_options listen = {.port = PORT};
    struct server_protocol protocol = {&who_protocol, NULL};
    struct server_options options = {.loop = loop,
                                     .logger = &quiet,
                                     .listen = listen,
                                     .group = group,
                                     .protocols = &protocol,
                                     .protocol_count = 1};
    struct listener *other;
    struct server *server;
    struct failure failure;

    (void)state;
    assert_int_equal(loop_listen(loop, &listen, NULL, NULL, &other, &failure), 0);
    assert_int_equal(server_open(&options, &server, &failure), E_HELD);
    listener_close(other);
    loop_free(loop);
    server_group_free(group);
}

/* ---- with threads and sockets ---- */

static void look_whether_gone(struct timer *timer)
{
    struct worker *worker = CONTAINER_OF(timer, struct worker, gone);

    if (server_connection_count(worker->server) == 0)
        loop_stop(worker->loop);
    else
        timer_set(timer, loop_now_ns(worker->loop) + NANOSECONDS_PER_MS);
}

static void stop_run(struct post *post)
{
    struct worker *worker = CONTAINER_OF(post, struct worker, stop);

    server_drain(worker->server, "end", loop_now_ns(worker->loop) + 1000 * NANOSECONDS_PER_MS);
    timer_set(&worker->gone, loop_now_ns(worker->loop));
}

static void *worker_run(void *argument)
{
    loop_run(((struct worker *)argument)->loop);
    return NULL;
}

static int dial(uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger linger = {1, 0}; /* leaves no port behind that waits */
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(descriptor >= 0);
    assert_int_equal(connect(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    return descriptor;
}

static unsigned dial_and_ask(uint16_t port, int *descriptor)
{
    char answer = '?';

    *descriptor = dial(port);
    assert_int_equal(write(*descriptor, &answer, 1), 1);
    assert_int_equal(read(*descriptor, &answer, 1), 1);
    assert_in_range(answer, '0', '0' + MEMBERS - 1);
    return (unsigned)(answer - '0');
}

static void workers_start(struct worker *workers, struct server_group *group)
{
    struct failure failure;

    for (unsigned i = 0; i < MEMBERS; i++) {
        struct worker *worker = &workers[i];
        *worker = (struct worker){.loop = loop_new_real(&failure), .stop = {.run = stop_run}};
        assert_non_null(worker->loop);
        worker_open(worker, group, i, 0, 0);
        timer_init(&worker->gone, worker->loop, look_whether_gone);
    }
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
}

static void workers_stop(struct worker *workers, struct server_group *group)
{
    for (unsigned i = 0; i < MEMBERS; i++)
        loop_post(workers[i].loop, &workers[i].stop);
    for (unsigned i = 0; i < MEMBERS; i++)
        pthread_join(workers[i].thread, NULL);
    for (unsigned i = 0; i < MEMBERS; i++) {
        assert_int_equal(workers[i].opened, workers[i].freed);
        server_free(workers[i].server);
    }
    for (unsigned i = 0; i < MEMBERS; i++)
        loop_free(workers[i].loop);
    server_group_free(group);
}

static void sockets_come_to_all_workers(enum server_spread spread)
{
    struct server_group *group = server_group_new(MEMBERS, spread);
    struct worker workers[MEMBERS];
    unsigned count[MEMBERS] = {0};
    int descriptors[100];

    workers_start(workers, group);
    uint16_t port = server_port(workers[0].server);
    uint64_t start_ns = loop_precise_ns(workers[0].loop);
    for (unsigned i = 0; i < 100; i++) {
        count[dial_and_ask(port, &descriptors[i])]++;
        for (unsigned member = 0; spread == SPREAD_COUNTED && member < MEMBERS; member++)
            assert_in_range(count[member], (i + 1) / MEMBERS, i / MEMBERS + 1);
    }
    for (unsigned i = 0; i < 100; i++)
        close(descriptors[i]);
    for (unsigned member = 0; member < MEMBERS; member++)
        assert_true(count[member] > 0);
    for (unsigned i = 0; i < 1000; i++) {
        (void)dial_and_ask(port, &descriptors[0]);
        close(descriptors[0]);
    }
    uint64_t spent_ns = loop_precise_ns(workers[0].loop) - start_ns;
    print_message("1100 connections, each asked once: %.1f us each\n", (double)spent_ns / 1.1e6);
    int last = dial(port); /* perhaps on its way when they stop */
    workers_stop(workers, group);
    close(last);
}

static void sockets_are_handed_over(void **state)
{
    (void)state;
    sockets_come_to_all_workers(SPREAD_COUNTED);
}

static void sockets_are_hashed(void **state)
{
    (void)state;
    sockets_come_to_all_workers(SPREAD_HASHED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_connections_are_spread_evenly),
        cmocka_unit_test(who_has_fewest_gets_the_next),
        cmocka_unit_test(the_limit_is_the_groups),
        cmocka_unit_test(who_drains_gets_no_more),
        cmocka_unit_test(connections_on_their_way_are_closed),
        cmocka_unit_test(the_system_may_choose),
        cmocka_unit_test(the_port_may_be_taken),
        cmocka_unit_test(sockets_are_handed_over),
        cmocka_unit_test(sockets_are_hashed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
