/*
 * A session of the management API, or of the metrics, over a broker made for this: it is sent
 * whatever the input says, in parts, by a client that reads or not; answers of the broker are there
 * at once or later; time passes; it is drained, or the client leaves in the middle. At the end all
 * must have been given back. (The session over the real broker: src/protocols/http/session_test.c.)
 *
 * The first byte is the seed. The second says how: 1 metrics, 2 some bytes are put in the place of
 * "@": a header with a user and a password, 4 it leaves without waiting, 8 it reads little; the
 * upper three bits: the size of the parts.
 */
#include "base/assert.h"
#include "base/memory.h"
#include "protocols/http/management.h"
#include "protocols/http/metrics.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a broker ---- */

#define WORKERS 2u
#define QUEUES  90u

struct loop {
    uint64_t now_ns;
    uint64_t random;
};

struct worker {
    struct loop loop;
    struct broker_settings settings;
    unsigned clients, listings;
};

struct client {
    struct worker *worker;
    struct client_options options;
    struct account account;
    struct request *pending;
    bool has_login, is_closed;
};

struct listing {
    struct client *client;
    unsigned at, left, count;
};

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

uint64_t loop_wall_ms(const struct loop *loop)
{
    return 1700000000000 + loop->now_ns / NANOSECONDS_PER_MS;
}

static uint64_t chance(struct loop *loop, uint64_t sides)
{
    loop->random = loop->random * 6364136223846793005u + 1442695040888963407u;
    return (loop->random >> 33) % sides;
}

struct loop *worker_loop(const struct worker *worker)
{
    return (struct loop *)(uintptr_t)&worker->loop;
}

const struct broker_settings *worker_settings(const struct worker *worker)
{
    return &worker->settings;
}

unsigned worker_of_how_many(const struct worker *worker)
{
    (void)worker;
    return WORKERS;
}

struct client *client_open(struct worker *worker, const struct client_options *options,
                           struct failure *failure)
{
    (void)failure;
    struct client *client = memory_new(sizeof *client);

    client->worker = worker;
    client->options = *options;
    account_init(&client->account, NULL, 200000);
    worker->clients++;
    return client;
}

void client_close(struct client *client)
{
    client->is_closed = true;
}

bool client_idle(const struct client *client)
{
    return !client->pending;
}

void client_free(struct client *client)
{
    ASSERT(client->is_closed && !client->pending);
    account_fini(&client->account);
    client->worker->clients--;
    free(client);
}

struct account *client_account(struct client *client)
{
    return &client->account;
}

struct slice client_user(const struct client *client)
{
    return slice_text(client->has_login ? "guest" : "");
}

const char *client_tags(const struct client *client)
{
    return client->has_login ? "administrator,other" : "";
}

bool client_has_tag(const struct client *client, const char *tag)
{
    return client->has_login && strcmp(tag, "administrator") == 0;
}

/* DONE, or PENDING until run(). */
static int end(struct client *client, struct request *request)
{
    ASSERT(!client->pending && !client->is_closed);
    if (chance(&client->worker->loop, 2) == 0)
        return DONE;
    client->pending = request;
    return PENDING;
}

static bool run(struct client *client)
{
    struct request *request = client->pending;

    client->pending = NULL;
    if (request && !client->is_closed)
        client->options.events->completed(client->options.session, request);
    return request != NULL;
}

int broker_login(struct client *client, struct request *request, struct slice user,
                 struct slice password)
{
    request->failure.code = 0;
    client->has_login = slice_is(user, "guest") && slice_is(password, "guest");
    if (!client->has_login)
        fail(&request->failure, E_LOGIN, "no");
    return end(client, request);
}

int broker_enter(struct client *client, struct request *request, struct slice vhost)
{
    ASSERT(client->has_login);
    request->failure.code = 0;
    if (!slice_is(vhost, "/"))
        fail(&request->failure, E_NOT_FOUND, "no vhost '%.*s'", SLICE_ARGS(vhost));
    return end(client, request);
}

int broker_move_queue(struct client *client, struct request *request, struct slice name,
                      uint32_t shard)
{
    static const int codes[] = {0, E_NOT_FOUND, E_IN_USE, E_FULL, E_TIMEOUT};

    ASSERT(client->has_login);
    request->failure.code = 0;
    if (shard < 5 && codes[shard] != 0)
        fail(&request->failure, codes[shard], "'%.*s' stays", SLICE_ARGS(name));
    return end(client, request);
}

int broker_rebalance(struct client *client, struct request *request)
{
    ASSERT(client->has_login);
    request->failure.code = 0;
    return end(client, request);
}

struct listing *listing_open(struct client *client, struct slice vhost, struct failure *failure)
{
    ASSERT(client->has_login);
    if (vhost.size > 0 && !slice_is(vhost, "/")) {
        fail(failure, E_NOT_FOUND, "vhost '%.*s' not found", SLICE_ARGS(vhost));
        return NULL;
    }
    struct listing *listing = memory_new(sizeof *listing);
    listing->client = client;
    listing->left = QUEUES;
    client->worker->listings++;
    return listing;
}

struct listing *listing_open_queue(struct client *client, struct slice vhost, struct slice name,
                                   struct failure *failure)
{
    if (!slice_is(name, "a")) {
        fail(failure, E_NOT_FOUND, "no queue '%.*s'", SLICE_ARGS(name));
        return NULL;
    }
    struct listing *listing = listing_open(client, vhost, failure);
    if (listing)
        listing->left = 1;
    return listing;
}

void listing_close(struct listing *listing)
{
    listing->client->worker->listings--;
    free(listing);
}

int listing_next(struct listing *listing, struct request *request)
{
    request->failure.code = 0;
    listing->at += listing->count;
    listing->count = (unsigned)chance(&listing->client->worker->loop, LISTING_PAGE + 1);
    if (listing->count > listing->left || listing->left == 1)
        listing->count = listing->left;
    listing->left -= listing->count;
    return end(listing->client, request);
}

size_t listing_count(const struct listing *listing)
{
    return listing->count;
}

bool listing_queue(const struct listing *listing, size_t index, struct queue_facts *facts)
{
    static const char *const names[] = {"a", "b/c", "\xff\"\\", ""};
    size_t at = listing->at + index;

    ASSERT(index < listing->count);
    *facts = (struct queue_facts){.name = slice_text(names[at % 4]),
                                  .vhost = slice_text("/"),
                                  .arguments = slice_of("\x01nl\0\0\0\0\0\0\0\x07", 11),
                                  .type = "classic",
                                  .shard = 1,
                                  .has_counts = at % 3,
                                  .counts = {at, UINT64_MAX / 4, 1}};
    return at % 7 != 6;
}

bool listing_is_over(const struct listing *listing)
{
    return listing->left == 0;
}

int broker_report(struct client *client, struct request *request, struct worker_report *reports)
{
    request->failure.code = 0;
    memset(reports, (int)chance(&client->worker->loop, 256), WORKERS * sizeof *reports);
    return end(client, request);
}

void broker_catalog_counts(const struct client *client, struct catalog_counts *counts)
{
    (void)client;
    *counts = (struct catalog_counts){.vhosts = 1};
}

/* ---- the connection, and the client behind it ---- */

struct scene {
    struct worker worker;
    struct wire wire;
    void *session;
    struct client *client; /* the session's */
    uint8_t *rest;
    size_t rest_size;
    size_t reads; /* at once */
    size_t came;
    bool is_over;
};

static void touched(struct wire *wire)
{
    (void)wire; /* everything is looked at in each turn here */
}

/* In memory of exactly its size, so that what is kept of it shows. */
static void give_input(struct scene *scene)
{
    uint8_t *copy = memory_new(scene->rest_size + 1);
    uint8_t *exact = copy + 1; /* its end is the end of the allocation */

    if (scene->rest_size)
        memcpy(exact, scene->rest, scene->rest_size);
    ssize_t used = http_protocol.input(scene->session, slice_of(exact, scene->rest_size));
    free(copy);
    ASSERT(used >= 0 && (size_t)used <= scene->rest_size);
    scene->rest_size -= (size_t)used;
    memmove(scene->rest, scene->rest + used, scene->rest_size);
}

static bool read_output(struct scene *scene)
{
    struct output *output = &scene->wire.output;
    struct iovec slices[4];
    size_t pending = output_pending(output), taken = 0;

    int count = output_slices(output, slices, 4);
    for (int i = 0; i < count && taken < scene->reads; i++) {
        if (scene->came + taken < 9 && i == 0)
            ASSERT(memcmp(slices[0].iov_base, &"HTTP/1.1 "[scene->came],
                          slices[0].iov_len < 9 - scene->came ? slices[0].iov_len
                                                              : 9 - scene->came) == 0);
        taken += slices[i].iov_len;
    }
    taken = taken < scene->reads ? taken : scene->reads;
    output_consume(output, taken);
    scene->came += taken;
    scene->wire.bytes_sent += taken;
    if (pending > 0 && taken == pending)
        http_protocol.drained(scene->session);
    return taken > 0;
}

/* Until nothing moves any more. */
static void settle(struct scene *scene)
{
    bool moves = true;

    for (unsigned turns = 0; moves && !scene->is_over; turns++) {
        ASSERT(turns < 100000);
        moves = run(scene->client);
        if (scene->wire.again || (!scene->wire.paused && scene->rest_size > 0)) {
            size_t before = scene->rest_size;
            moves = moves || scene->wire.again;
            scene->wire.again = false;
            give_input(scene);
            moves = moves || scene->rest_size != before;
        }
        moves = read_output(scene) || moves;
        scene->is_over = scene->wire.finished;
    }
}

static void pass_time(struct scene *scene, uint64_t ms)
{
    scene->worker.loop.now_ns += ms * NANOSECONDS_PER_MS;
    if (!scene->is_over &&
        http_protocol.tick(scene->session, scene->worker.loop.now_ns) == TICK_EXPIRED)
        scene->is_over = true;
    settle(scene);
}

static void send_bytes(struct scene *scene, struct slice bytes)
{
    if (scene->is_over || scene->rest_size + bytes.size > http_protocol.input_max(scene->session))
        return;
    scene->rest = memory_resize(scene->rest, scene->rest_size + bytes.size + 1, 1);
    if (bytes.size)
        memcpy(scene->rest + scene->rest_size, bytes.data, bytes.size);
    scene->rest_size += bytes.size;
    scene->wire.bytes_received += bytes.size;
    settle(scene);
}

/* "@" stands for the header of one who may, if the input says so. */
static void send_part(struct scene *scene, struct slice part, bool replaces)
{
    static const char header[] = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n";

    while (part.size > 0) {
        const uint8_t *at = replaces ? memchr(part.data, '@', part.size) : NULL;
        size_t size = at ? (size_t)(at - part.data) : part.size;
        send_bytes(scene, slice_of(part.data, size));
        if (at)
            send_bytes(scene, slice_of(header, sizeof header - 1));
        part = slice_of(part.data + size + (at != NULL), part.size - size - (at != NULL));
    }
}

static void leave(struct scene *scene)
{
    ASSERT(http_protocol.close(scene->session, CLOSE_PEER));
    ASSERT(http_protocol.close(scene->session, CLOSE_PEER)); /* twice is fine */
    while (!http_protocol.idle(scene->session))
        run(scene->client);
    http_protocol.free(scene->session);
    output_fini(&scene->wire.output);
    free(scene->rest);
    ASSERT(scene->worker.clients == 0 && scene->worker.listings == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t parts[] = {1, 3, 17, 64, 200, 1000, 5000, 60000};
    struct reader reader = reader_of(slice_of(data, size));
    uint8_t seed = read_u8(&reader), how = read_u8(&reader);
    struct scene scene = {
        .worker = {.loop = {1000000000, seed},
                   .settings = {.product_name = "RabbitMQ", .product_version = "4.3.0"}},
        .wire = {.touched = touched},
        .reads = how & 8 ? 50 : SIZE_MAX,
    };
    struct http_site site = {.worker = &scene.worker,
                             .realm = "test",
                             .idle_timeout_ms = 60000,
                             .request_timeout_ms = 5000};

    site.routes =
        how & 1 ? metrics_routes(&site.route_count) : management_routes(&site.route_count);
    output_init(&scene.wire.output);
    int result = http_protocol.open(&site, &scene.wire, &scene.session);
    ASSERT(result == 0);
    scene.client = ((struct exchange *)scene.session)->client; /* it begins with its exchange */
    while (reader_left(&reader) > 0) {
        size_t most = parts[how >> 5];
        send_part(&scene,
                  read_bytes(&reader, reader_left(&reader) < most ? reader_left(&reader) : most),
                  how & 2);
        if (seed % 5 == 0)
            pass_time(&scene, 700);
    }
    if (!(how & 4)) {
        pass_time(&scene, 6000);
        if (seed % 3 == 0 && !scene.is_over)
            http_protocol.drain(scene.session, "end");
        settle(&scene);
        pass_time(&scene, 61000);
        pass_time(&scene, 61000);
        ASSERT(scene.is_over);
    }
    leave(&scene);
    return 0;
}
