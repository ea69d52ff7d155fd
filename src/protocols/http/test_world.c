#include "protocols/http/test_world.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/mail.h"
#include "loop/simulated.h"
#include "protocols/http/management.h"
#include "protocols/http/metrics.h"
#include "store/simulated/simulated.h"

#include <stdio.h>
#include <stdlib.h>

#define RUN_UNTIL(world, condition)                                                                \
    do {                                                                                           \
        for (unsigned turn_ = 0; turn_ < 1000000 && !(condition); turn_++)                         \
            simulated_run_turns((world)->loops[0], 1);                                             \
        ASSERT(condition);                                                                         \
    } while (0)

/* ---- workers ---- */

static void on_started(void *context, const struct worker_started *what)
{
    struct world *world = context;

    world->started++;
    world->result = world->result ? world->result : what->result;
}

static void on_stopped(void *context)
{
    ((struct world *)context)->stopped++;
}

static void ignore_line(void *context, enum log_level level, const char *category, const char *text)
{
    (void)context;
    (void)level;
    (void)category;
    (void)text;
}

static void begin_worker(struct world *world, unsigned index, uint32_t pending_ppm)
{
    struct worker_options options;
    struct failure failure;

    world->disks[index] = simulated_disk_new(index + 1);
    int result = store_simulated_open(world->loops[index], world->disks[index],
                                      &world->stores[index], &failure);
    ASSERT(result == 0);
    worker_options_default(&options);
    options.loop = world->loops[index];
    options.index = index;
    options.count = options.shard_count = world->workers;
    options.office = world->office;
    options.stores = &world->stores[index];
    options.store_count = 1;
    options.logger = &world->logger;
    options.password_cost = (struct password_cost){8, 1};
    options.log.segment_bytes_min = options.log.segment_bytes_max = 1u << 20;
    options.log.disk_reserve_bytes = 2u << 20;
    options.pending_ppm = pending_ppm;
    world->worker[index] = worker_start(&options, on_started, world);
}

static void begin_server(struct world *world, unsigned index, unsigned which)
{
    struct http_site *site = &world->sites[index][which];
    struct server_protocol protocols[] = {{&http_protocol, site}};
    struct server_options options = {
        .loop = world->loops[index],
        .logger = &world->logger,
        .listen = {.port = (uint16_t)((which ? PORT_METRICS : PORT_MANAGEMENT) + index)},
        .protocols = protocols,
        .protocol_count = 1,
        .handshake_ms = 10000,
    };
    struct failure failure;

    *site = (struct http_site){.worker = world->worker[index],
                               .realm = "RabbitMQ Management",
                               .idle_timeout_ms = 60000,
                               .request_timeout_ms = 5000,
                               .started_ns = loop_now_ns(world->loops[0])};
    site->routes =
        which ? metrics_routes(&site->route_count) : management_routes(&site->route_count);
    int result = server_open(&options, &world->servers[index][which], &failure);
    ASSERT(result == 0);
}

void world_init(struct world *world, unsigned workers, uint64_t seed, uint32_t pending_ppm)
{
    memset(world, 0, sizeof *world);
    world->workers = workers;
    world->logger = (struct logger){.level = LOG_NONE, .descriptor = -1, .line = ignore_line};
    world->loops[0] = loop_new_simulated(seed);
    for (unsigned i = 1; i <= workers; i++)
        world->loops[i] = loop_new_simulated_beside(world->loops[0]);
    world->office = workers > 1 ? office_new(workers) : NULL;
    for (unsigned i = 0; i < workers; i++)
        begin_worker(world, i, pending_ppm);
    RUN_UNTIL(world, world->started == workers);
    ASSERT(world->result == 0);
    for (unsigned i = 0; i < workers; i++) {
        begin_server(world, i, 0);
        begin_server(world, i, 1);
    }
}

void world_run(struct world *world, uint64_t for_ms)
{
    simulated_run_for(world->loops[0], for_ms * NANOSECONDS_PER_MS);
}

static bool are_gone(const struct world *world)
{
    for (unsigned i = 0; i < world->workers; i++) {
        if (server_connection_count(world->servers[i][0]) > 0 ||
            server_connection_count(world->servers[i][1]) > 0 ||
            worker_client_count(world->worker[i]) > 0)
            return false;
    }
    return true;
}

void world_fini(struct world *world)
{
    for (unsigned i = 0; i < world->workers; i++) {
        uint64_t deadline_ns = loop_now_ns(world->loops[i]) + 1000 * NANOSECONDS_PER_MS;
        server_drain(world->servers[i][0], "end", deadline_ns);
        server_drain(world->servers[i][1], "end", deadline_ns);
    }
    RUN_UNTIL(world, are_gone(world));
    for (unsigned i = 0; i < world->workers; i++) {
        worker_check(world->worker[i]);
        worker_stop(world->worker[i], on_stopped, world);
    }
    RUN_UNTIL(world, world->stopped == world->workers);
    for (unsigned i = 0; i < world->workers; i++) {
        server_free(world->servers[i][0]);
        server_free(world->servers[i][1]);
        worker_free(world->worker[i]);
    }
    for (unsigned i = 0; i < world->workers; i++) {
        store_free(world->stores[i]);
        simulated_disk_free(world->disks[i]);
    }
    for (unsigned i = world->workers + 1; i-- > 0;)
        loop_free(world->loops[i]);
    if (world->office)
        office_free(world->office);
}

/* ---- a client ---- */

static void peer_ready(void *context, unsigned events)
{
    struct http_peer *peer = context;

    (void)events;
    if (peer->capacity - peer->size < 65536) {
        peer->capacity = peer->capacity * 2 + 131072;
        peer->answer = memory_resize(peer->answer, peer->capacity, 1);
    }
    ssize_t size =
        stream_read(peer->stream, peer->answer + peer->size, peer->capacity - peer->size - 1);
    if (size > 0)
        peer->size += (size_t)size;
    peer->answer[peer->size] = 0;
    if (size == 0 || (size < 0 && size != E_AGAIN)) {
        peer->is_ended = true;
        stream_want(peer->stream, 0);
    }
}

void http_peer_open(struct http_peer *peer, struct world *world, uint16_t port)
{
    *peer = (struct http_peer){.world = world, .answer = memory_new(1), .capacity = 1};
    int result =
        simulated_connect_from(world->loops[world->workers], "127.0.0.1", port, &peer->stream);
    ASSERT(result == 0);
    stream_start(peer->stream, peer_ready, peer);
    stream_want(peer->stream, STREAM_READABLE);
}

void http_peer_close(struct http_peer *peer)
{
    if (peer->stream)
        stream_close(peer->stream);
    peer->stream = NULL;
    free(peer->answer);
    peer->answer = NULL;
}

void http_peer_read(struct http_peer *peer, bool reads)
{
    if (!peer->is_ended)
        stream_want(peer->stream, reads ? STREAM_READABLE : 0);
}

void http_peer_send(struct http_peer *peer, const char *bytes, size_t size)
{
    for (unsigned turns = 0; size > 0 && !peer->is_ended && turns < 100000; turns++) {
        struct iovec slice = {(void *)(uintptr_t)bytes, size};
        ssize_t written = stream_write(peer->stream, &slice, 1);
        if (written < 0 && written != E_AGAIN)
            return;
        if (written > 0) {
            bytes += written;
            size -= (size_t)written;
        }
        simulated_run_turns(peer->world->loops[0], 1);
    }
}

/* ---- a client of the broker's ---- */

static void on_completed(void *session, struct request *request)
{
    (void)request;
    ((struct actor *)session)->is_done = true;
}

static void on_flow(void *session, enum flow flow)
{
    (void)session;
    (void)flow;
}

static const struct client_events events = {.completed = on_completed, .flow = on_flow};

static void finish(struct actor *actor, struct world *world, int outcome)
{
    if (outcome == PENDING)
        RUN_UNTIL(world, actor->is_done);
    actor->is_done = false;
    ASSERT(actor->request.failure.code == 0);
}

void actor_open(struct actor *actor, struct world *world, unsigned worker)
{
    struct client_options options = {.events = &events,
                                     .session = actor,
                                     .protocol = "test",
                                     .peer_host = "127.0.0.1",
                                     .peer_is_loopback = true};
    struct failure failure;

    *actor = (struct actor){0};
    actor->client = client_open(world->worker[worker], &options, &failure);
    ASSERT(actor->client);
    finish(actor, world,
           broker_login(actor->client, &actor->request, slice_text("guest"), slice_text("guest")));
    finish(actor, world, broker_enter(actor->client, &actor->request, slice_text("/")));
}

void actor_close(struct actor *actor, struct world *world)
{
    client_close(actor->client);
    RUN_UNTIL(world, client_idle(actor->client));
    client_free(actor->client);
}

void actor_declare(struct actor *actor, struct world *world, const char *name, bool durable)
{
    struct queue_spec spec = {.name = slice_text(name), .durable = durable};

    finish(actor, world, broker_declare_queue(actor->client, &actor->request, &spec));
}

void actor_delete(struct actor *actor, struct world *world, const char *name)
{
    finish(actor, world,
           broker_delete_queue(actor->client, &actor->request, slice_text(name), false, false));
}

void actor_publish(struct actor *actor, struct world *world, const char *queue)
{
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .exchange = slice_text(""),
        .key = slice_text(queue),
        .properties = slice_of("\0\0", 2),
        .body = slice_text("hello"),
    };
    struct message *message = message_new(broker_message_account(actor->client), &parts);
    struct publish publish = {.message = message};

    ASSERT(message);
    int result = broker_publish(actor->client, &publish);
    ASSERT(result == 0 && publish.queues == 1);
    message_unref(message);
    world_run(world, 50);
}
