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
#include "message/amqp091_properties.h"
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
    unsigned clients, listings, browsings, leases;
    struct account messages;
};

struct client {
    struct worker *worker;
    struct client_options options;
    struct account account;
    struct request *pending;
    bool gets; /* pending is one that may bring a message */
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

/* ---- messages ---- */

struct worker *client_worker(const struct client *client)
{
    return client->worker;
}

bool client_may_impersonate(const struct client *client)
{
    (void)client;
    return false;
}

struct account *broker_message_account(struct client *client)
{
    return &client->worker->messages;
}

enum flow broker_flow(struct client *client)
{
    return (enum flow)(chance(&client->worker->loop, 8)
                           ? FLOW_OPEN
                           : FLOW_BUSY + chance(&client->worker->loop, 3));
}

static struct message *some_message(struct worker *worker)
{
    static const char *const bodies[] = {"", "text", "\xff\xfe", "\"quoted\\"};
    static const uint8_t headers[] = "\x01nl\0\0\0\0\0\0\0\x07";
    struct amqp091_properties properties = {
        .flags = AMQP091_HEADERS | AMQP091_TIMESTAMP | AMQP091_MESSAGE_ID,
        .headers = slice_of(headers, 11),
        .timestamp = 1700000000,
        .message_id = slice_text("\xc3"),
    };
    uint8_t bytes[128];
    struct writer writer = writer_of(bytes, sizeof bytes);

    amqp091_properties_write(&writer, &properties);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .exchange = slice_text("e"),
        .key = slice_text("\xe9"),
        .properties = slice_of(bytes, writer_size(&writer)),
        .body = slice_text(bodies[chance(&worker->loop, 4)]),
        .published_at_ms = 1700000000000,
        .expires_at_ms = chance(&worker->loop, 2),
    };
    struct message *message = message_new(&worker->messages, &parts);
    ASSERT(message);
    return message;
}

int broker_get(struct client *client, struct request *request, struct slice queue,
               bool settles_itself)
{
    struct worker *worker = client->worker;
    struct delivery *delivery = &request->result.get.delivery;

    ASSERT(client->has_login);
    memset(&request->result, 0, sizeof request->result);
    request->failure.code = 0;
    request->settles_itself = settles_itself;
    if (!slice_is(queue, "a")) {
        fail(&request->failure, E_NOT_FOUND, "no queue '%.*s'", SLICE_ARGS(queue));
    } else if (chance(&worker->loop, 30) == 0) {
        fail(&request->failure, E_FAILED, "no");
    } else if (chance(&worker->loop, 30) > 0) {
        delivery->message = some_message(worker);
        worker->leases += !settles_itself;
    }
    client->gets = end(client, request) == PENDING;
    return client->gets ? PENDING : DONE;
}

static void give_back(struct client *client, struct request *request)
{
    if (request->failure.code != 0 || !request->result.get.delivery.message)
        return;
    message_unref(request->result.get.delivery.message);
    client->worker->leases -= !request->settles_itself;
}

void broker_settle(struct client *client, const struct lease *leases, size_t count,
                   enum outcome outcome)
{
    (void)leases;
    (void)outcome;
    ASSERT(!client->is_closed && count <= SETTLE_SLICE && client->worker->leases >= count);
    client->worker->leases -= (unsigned)count;
}

int broker_check_publish(struct client *client, const struct message *message,
                         struct failure *failure)
{
    struct failure why;

    ASSERT(client->has_login);
    ASSERT(fields_check(message_format(message)->headers(message), &why) == 0);
    return slice_is(message_exchange(message), "none")
               ? fail(failure, E_NOT_FOUND, "no exchange 'none'")
               : 0;
}

int broker_transact(struct client *client, struct request *request, struct publish *publishes,
                    size_t publish_count, const struct settlement *settlements,
                    size_t settlement_count)
{
    (void)settlements;
    ASSERT(client->has_login && publish_count == 1 && settlement_count == 0);
    request->failure.code = 0;
    publishes->queues = chance(&client->worker->loop, 2);
    return end(client, request);
}

struct browsing {
    struct client *client;
    size_t count;
    struct browsed page[BROWSE_PAGE];
    uint64_t at;
};

struct browsing *browsing_open(struct client *client, const struct browse_spec *spec,
                               struct failure *failure)
{
    ASSERT(client->has_login);
    if (filter_check(spec->filter.conditions, failure) != 0)
        return NULL;
    struct browsing *browsing = memory_new(sizeof *browsing);
    browsing->client = client;
    browsing->at = spec->from;
    client->worker->browsings++;
    return browsing;
}

static void turn_page(struct browsing *browsing)
{
    while (browsing->count > 0)
        message_unref(browsing->page[--browsing->count].message);
}

void browsing_close(struct browsing *browsing)
{
    ASSERT(!browsing->client->pending);
    turn_page(browsing);
    browsing->client->worker->browsings--;
    free(browsing);
}

int browsing_next(struct browsing *browsing, struct request *request, uint32_t limit)
{
    struct worker *worker = browsing->client->worker;
    size_t count = chance(&worker->loop, BROWSE_PAGE + 1);

    turn_page(browsing);
    ASSERT(limit > 0);
    request->failure.code = 0;
    if (chance(&worker->loop, 10) == 0)
        fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    for (count = count < limit ? count : limit; browsing->count < count;)
        browsing->page[browsing->count++] =
            (struct browsed){.message = some_message(worker), .sequence = ++browsing->at};
    return end(browsing->client, request);
}

size_t browsing_count(const struct browsing *browsing)
{
    return browsing->count;
}

const struct browsed *browsing_message(const struct browsing *browsing, size_t index)
{
    ASSERT(index < browsing->count);
    return &browsing->page[index];
}

uint64_t browsing_cursor(const struct browsing *browsing)
{
    return browsing->at;
}

uint64_t browsing_unreadable(const struct browsing *browsing)
{
    (void)browsing;
    return 0;
}

bool browsing_is_over(const struct browsing *browsing)
{
    return browsing->count % 7 == 0;
}

int broker_redrive(struct client *client, struct request *request, const struct redrive_spec *spec)
{
    ASSERT(client->has_login);
    ASSERT(!spec->target.size || !memchr(spec->target.data, 0, spec->target.size));
    ASSERT(!spec->key.size || !memchr(spec->key.data, 0, spec->key.size));
    request->failure.code = 0;
    if (filter_check(spec->filter.conditions, &request->failure) == 0 &&
        !slice_is(spec->queue, "a"))
        fail(&request->failure, E_NOT_FOUND, "no queue '%.*s'", SLICE_ARGS(spec->queue));
    request->result.redrive = spec->rate + spec->limit;
    return end(client, request);
}

int broker_redrive_stop(struct client *client, struct request *request,
                        const struct redrive_facts *facts)
{
    ASSERT(client->has_login && facts->worker < WORKERS);
    request->failure.code = 0;
    if (chance(&client->worker->loop, 2))
        fail(&request->failure, E_NOT_FOUND, "no redrive");
    return end(client, request);
}

struct redrives {
    struct client *client;
    size_t count;
    struct redrive_facts facts[3];
};

struct redrives *redrives_open(struct client *client)
{
    struct redrives *redrives = memory_new(sizeof *redrives);

    ASSERT(client->has_login);
    redrives->client = client;
    client->worker->browsings++;
    return redrives;
}

void redrives_close(struct redrives *redrives)
{
    redrives->client->worker->browsings--;
    free(redrives);
}

int redrives_ask(struct redrives *redrives, struct request *request)
{
    struct loop *loop = &redrives->client->worker->loop;

    request->failure.code = 0;
    redrives->count = chance(loop, 4);
    for (size_t i = 0; i < redrives->count; i++)
        redrives->facts[i] = (struct redrive_facts){
            .id = i,
            .to = (enum redrive_to)chance(loop, 3),
            .vhost = "/",
            .queue = "\xff",
            .target = "\"",
            .has_key = chance(loop, 2),
            .state = (enum redrive_state)chance(loop, 4),
            .ended_ms = chance(loop, 2),
            .total = UINT64_MAX,
            .problem = "why",
            .target_count = (uint32_t)chance(loop, REDRIVE_TARGETS_MAX + 1),
        };
    return end(redrives->client, request);
}

size_t redrives_count(const struct redrives *redrives)
{
    return redrives->count;
}

const struct redrive_facts *redrives_at(const struct redrives *redrives, size_t index)
{
    ASSERT(index < redrives->count);
    return &redrives->facts[index];
}

/* ---- what completes ---- */

static bool run(struct client *client)
{
    struct request *request = client->pending;

    client->pending = NULL;
    if (request && client->is_closed && client->gets)
        give_back(client, request);
    client->gets = false;
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

bool listing_queue(struct listing *listing, size_t index, struct queue_facts *facts)
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
                                  .counts = {at, UINT64_MAX / 4, 1, at}};
    return at % 7 != 6;
}

bool listing_is_over(const struct listing *listing)
{
    return listing->left == 0;
}

/* ---- policies: two of them ---- */

struct policy_list {
    struct client *client;
    unsigned left;
};

static void a_policy(struct policy_facts *facts)
{
    *facts = (struct policy_facts){.vhost = slice_text("/"),
                                   .name = slice_text("\xff\"\\"),
                                   .pattern = slice_text("^\\."),
                                   .definition = slice_of("\x01nl\0\0\0\0\0\0\0\x07", 11),
                                   .apply_to = "all",
                                   .priority = INT64_MIN};
}

int broker_set_policy(struct client *client, struct request *request,
                      const struct policy_spec *spec)
{
    ASSERT(client->has_login);
    ASSERT(fields_check(spec->definition, &request->failure) == 0);
    request->failure.code = 0;
    request->result.policy.was_there = spec->priority & 1;
    if (slice_is(spec->name, "no"))
        fail(&request->failure, E_INVALID, "'%.*s'", SLICE_ARGS(spec->pattern));
    return end(client, request);
}

int broker_clear_policy(struct client *client, struct request *request, struct slice vhost,
                        bool is_operator, struct slice name)
{
    ASSERT(client->has_login);
    request->failure.code = 0;
    if (is_operator || slice_is(name, "no"))
        fail(&request->failure, E_NOT_FOUND, "no '%.*s'", SLICE_ARGS(vhost));
    return end(client, request);
}

int broker_find_policy(struct client *client, struct slice vhost, bool is_operator,
                       struct slice name, struct policy_facts *facts, struct failure *failure)
{
    ASSERT(client->has_login);
    a_policy(facts);
    return is_operator || slice_is(name, "no")
               ? fail(failure, E_NOT_FOUND, "no '%.*s'", SLICE_ARGS(vhost))
               : 0;
}

struct policy_list *policy_list_open(struct client *client, struct slice vhost, bool is_operator,
                                     struct failure *failure)
{
    ASSERT(client->has_login);
    if (vhost.size > 0 && !slice_is(vhost, "/")) {
        fail(failure, E_NOT_FOUND, "vhost '%.*s' not found", SLICE_ARGS(vhost));
        return NULL;
    }
    struct policy_list *list = memory_new(sizeof *list);
    list->client = client;
    list->left = is_operator ? 0 : 100;
    client->worker->listings++;
    return list;
}

bool policy_list_next(struct policy_list *list, struct policy_facts *facts)
{
    a_policy(facts);
    return list->left && list->left--;
}

void policy_list_close(struct policy_list *list)
{
    list->client->worker->listings--;
    free(list);
}

int broker_report(struct client *client, struct request *request, struct worker_report *reports)
{
    request->failure.code = 0;
    memset(reports, (int)chance(&client->worker->loop, 256), WORKERS * sizeof *reports);
    for (unsigned i = 0; i < WORKERS; i++)
        reports[i].log.keys_needed_count %= REPORT_KEYS_MAX + 1;
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
    ASSERT(scene->worker.browsings == 0 && scene->worker.leases == 0);
    account_fini(&scene->worker.messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t parts[] = {1, 3, 17, 64, 200, 1000, 5000, 60000};
    struct reader reader = reader_of(slice_of(data, size));
    uint8_t seed = read_u8(&reader), how = read_u8(&reader);
    struct scene scene = {
        .worker = {.loop = {1000000000, seed},
                   .settings = {.product_name = "RabbitMQ",
                                .product_version = "4.3.0",
                                .frame_max = 4096,
                                .message_size_max = 100000}},
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
    account_init(&scene.worker.messages, NULL, 0);
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
