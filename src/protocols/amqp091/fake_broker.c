#include "protocols/amqp091/fake_broker.h"

#include "base/assert.h"
#include "base/memory.h"
#include "net/output.h"

#include <stdio.h>
#include <stdlib.h>

struct client {
    struct list link;
    struct worker *worker;
    struct client_options options;
    struct account account;
    struct list requests; /* pending */
    struct list publishers;
    char user[NAME_MAX_BYTES + 1];
    bool logged_in, entered, closed, has_published;
};

struct stored {
    struct list link;
    struct message *message;
    uint64_t sequence;
    bool is_leased, redelivered;
};

struct catalog_queue {
    struct list link;
    struct worker *worker;
    char name[NAME_MAX_BYTES + 1];
    bool durable, auto_delete, hidden, exclusive;
    struct client *owner;
    struct list messages; /* by sequence */
    struct list *cursor;  /* nothing before it is ready */
    struct map by_sequence;
    uint64_t next_sequence, ready, leased;
    struct list consumers;
};

struct exchange {
    struct list link;
    char name[NAME_MAX_BYTES + 1], type[16];
    bool durable, auto_delete, internal;
};

struct binding {
    struct list link;
    char source[NAME_MAX_BYTES + 1], destination[NAME_MAX_BYTES + 1], key[NAME_MAX_BYTES + 1];
    bool to_exchange;
};

struct consumer {
    struct list link;
    struct client *client;
    struct catalog_queue *queue;
    void *cookie;
    bool settles_itself, exclusive, is_refused, is_over;
    uint32_t credit;
    int64_t credit_bytes; /* one delivery may take it below 0 */
};

struct publisher {
    struct list link;
    void *cookie;
    uint64_t published, told;
};

/* ---- loop ---- */

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

uint64_t loop_wall_ms(const struct loop *loop)
{
    return 1700000000000 + loop->now_ns / NANOSECONDS_PER_MS;
}

uint64_t loop_random(struct loop *loop)
{
    loop->random ^= loop->random << 13;
    loop->random ^= loop->random >> 7;
    loop->random ^= loop->random << 17;
    return loop->random;
}

void loop_random_bytes(struct loop *loop, void *memory, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)memory)[i] = (uint8_t)(loop_random(loop) >> 24);
}

/* ---- worker ---- */

static void keep_line(void *context, enum log_level level, const char *category, const char *text)
{
    struct worker *worker = context;
    (void)level;
    (void)category;
    snprintf(worker->last_line, sizeof worker->last_line, "%s", text);
}

static void add_exchange(struct worker *worker, struct slice name, struct slice type)
{
    struct exchange *exchange = memory_new(sizeof *exchange);
    snprintf(exchange->name, sizeof exchange->name, "%.*s", SLICE_ARGS(name));
    snprintf(exchange->type, sizeof exchange->type, "%.*s", SLICE_ARGS(type));
    exchange->durable = true;
    list_append(&worker->exchanges, &exchange->link);
}

void fake_init(struct worker *worker, uint64_t seed, unsigned pending_percent)
{
    *worker = (struct worker){
        .loop = {.now_ns = 1000000000, .random = seed * 2654435761u + 88172645463325252u},
        .pending_percent = pending_percent,
        .settings = {.frame_max = 131072,
                     .channel_max = 2047,
                     .heartbeat_s = 60,
                     .handshake_ms = 10000,
                     .message_size_max = 16777216,
                     .product_name = "RabbitMQ",
                     .product_version = "4.3.0",
                     .cluster_name = "fake",
                     .node_name = "fake@test",
                     .default_vhost = "/"},
    };
    worker->logger = (struct logger){.descriptor = -1, .line = keep_line, .context = worker};
    account_init(&worker->account, NULL, 0);
    account_init(&worker->message_account, NULL, 0);
    list_init(&worker->clients);
    list_init(&worker->queues);
    list_init(&worker->graveyard);
    list_init(&worker->exchanges);
    list_init(&worker->bindings);
    add_exchange(worker, slice_text("amq.direct"), slice_text("direct"));
    add_exchange(worker, slice_text("amq.fanout"), slice_text("fanout"));
}

static void drop(struct catalog_queue *queue, struct stored *stored)
{
    if (queue->cursor == &stored->link)
        queue->cursor = stored->link.next;
    list_remove(&stored->link);
    map_remove_number(&queue->by_sequence, stored->sequence);
    if (stored->is_leased)
        queue->leased--;
    else
        queue->ready--;
    message_unref(stored->message);
    free(stored);
}

static void free_queues(struct list *queues)
{
    for (struct list *link; (link = list_take_first(queues));) {
        struct catalog_queue *queue = CONTAINER_OF(link, struct catalog_queue, link);
        ASSERT(queue->leased == 0); /* every lease was settled */
        for (struct list *m; (m = list_first(&queue->messages));)
            drop(queue, CONTAINER_OF(m, struct stored, link));
        map_fini(&queue->by_sequence);
        free(queue);
    }
}

void fake_fini(struct worker *worker)
{
    ASSERT(list_empty(&worker->clients));
    free_queues(&worker->queues);
    free_queues(&worker->graveyard);
    for (struct list *link; (link = list_take_first(&worker->exchanges));)
        free(CONTAINER_OF(link, struct exchange, link));
    for (struct list *link; (link = list_take_first(&worker->bindings));)
        free(CONTAINER_OF(link, struct binding, link));
    account_fini(&worker->message_account);
    account_fini(&worker->account);
}

struct loop *worker_loop(const struct worker *worker)
{
    return &((struct worker *)(uintptr_t)worker)->loop;
}

const struct logger *worker_logger(const struct worker *worker)
{
    return &worker->logger;
}

const struct broker_settings *worker_settings(const struct worker *worker)
{
    return &worker->settings;
}

/* ---- clients ---- */

struct client *client_open(struct worker *worker, const struct client_options *options,
                           struct failure *failure)
{
    if (worker->refuse_clients) {
        fail(failure, E_LIMIT, "connection limit is reached");
        return NULL;
    }
    struct client *client = memory_new(sizeof *client);
    client->worker = worker;
    client->options = *options;
    account_init(&client->account, &worker->account, 0);
    list_init(&client->requests);
    list_init(&client->publishers);
    list_append(&worker->clients, &client->link);
    return client;
}

static void end_queue(struct catalog_queue *queue);

void client_close(struct client *client)
{
    struct worker *worker = client->worker;

    if (client->closed)
        return;
    client->closed = true;
    LIST_EACH (&worker->queues, link) {
        struct catalog_queue *queue = CONTAINER_OF(link, struct catalog_queue, link);
        LIST_EACH (&queue->consumers, entry) {
            struct consumer *consumer = CONTAINER_OF(entry, struct consumer, link);
            if (consumer->client == client)
                broker_unsubscribe(consumer);
        }
    }
    for (bool again = true; again;) {
        again = false;
        LIST_EACH (&worker->queues, link) {
            struct catalog_queue *queue = CONTAINER_OF(link, struct catalog_queue, link);
            if (queue->owner == client) {
                end_queue(queue);
                again = true;
                break;
            }
        }
    }
    for (struct list *link; (link = list_take_first(&client->publishers));)
        free(CONTAINER_OF(link, struct publisher, link));
}

bool client_idle(const struct client *client)
{
    return client->closed && list_empty(&client->requests);
}

void client_free(struct client *client)
{
    ASSERT(client_idle(client));
    account_fini(&client->account);
    list_remove(&client->link);
    free(client);
}

/* What the fake worker still knows of it goes, too. */
void client_abandon(struct client *client)
{
    client_close(client);
    fake_run(client->worker);
    client_free(client);
}

struct slice client_user(const struct client *client)
{
    return slice_text(client->user);
}

bool client_may_impersonate(const struct client *client)
{
    return client->worker->impersonate;
}

struct account *client_account(struct client *client)
{
    return &client->account;
}

struct account *broker_message_account(struct client *client)
{
    return &client->worker->message_account;
}

struct worker *client_worker(const struct client *client)
{
    return client->worker;
}

/* ---- requests: the work is a closure, done now or later ---- */

enum ask {
    ASK_LOGIN,
    ASK_ENTER,
    ASK_DECLARE_EXCHANGE,
    ASK_DELETE_EXCHANGE,
    ASK_DECLARE_QUEUE,
    ASK_DELETE_QUEUE,
    ASK_PURGE_QUEUE,
    ASK_BIND,
    ASK_UNBIND,
    ASK_SUBSCRIBE,
    ASK_GET,
    ASK_TRANSACT,
};

struct question {
    enum ask ask;
    bool is_done_early; /* done, and told a turn later: events may come between */
    bool has_waited;
    struct slice a, b;
    bool flag, other_flag;
    struct exchange_spec exchange;
    struct queue_spec queue;
    struct binding_spec binding;
    struct subscribe_spec subscribe;
    struct publish *publishes;
    size_t publish_count;
    const struct settlement *settlements;
    size_t settlement_count;
};

static void do_now(struct client *client, struct request *request, const struct question *q);

static int ask(struct client *client, struct request *request, const struct question *q)
{
    struct worker *worker = client->worker;

    ASSERT(!client->closed && !request->internal);
    ASSERT(client->entered || q->ask <= ASK_ENTER);
    request->client = client;
    request->failure = (struct failure){0};
    if (loop_random(&worker->loop) % 100 >= worker->pending_percent) {
        do_now(client, request, q);
        return DONE;
    }
    struct question *copy = memory_new(sizeof *copy);
    *copy = *q;
    if (q->ask == ASK_SUBSCRIBE && loop_random(&worker->loop) % 2) {
        copy->is_done_early = true;
        do_now(client, request, q);
    }
    request->internal = copy;
    list_init(&request->link);
    list_append(&client->requests, &request->link);
    return PENDING;
}

int broker_login(struct client *client, struct request *request, struct slice user,
                 struct slice password)
{
    struct question q = {.ask = ASK_LOGIN, .a = user, .b = password};
    return ask(client, request, &q);
}

int broker_enter(struct client *client, struct request *request, struct slice vhost)
{
    struct question q = {.ask = ASK_ENTER, .a = vhost};
    return ask(client, request, &q);
}

int broker_declare_exchange(struct client *client, struct request *request,
                            const struct exchange_spec *spec)
{
    struct question q = {.ask = ASK_DECLARE_EXCHANGE, .exchange = *spec};
    return ask(client, request, &q);
}

int broker_delete_exchange(struct client *client, struct request *request, struct slice name,
                           bool if_unused)
{
    struct question q = {.ask = ASK_DELETE_EXCHANGE, .a = name, .flag = if_unused};
    return ask(client, request, &q);
}

int broker_declare_queue(struct client *client, struct request *request,
                         const struct queue_spec *spec)
{
    struct question q = {.ask = ASK_DECLARE_QUEUE, .queue = *spec};
    return ask(client, request, &q);
}

int broker_delete_queue(struct client *client, struct request *request, struct slice name,
                        bool if_unused, bool if_empty)
{
    struct question q = {
        .ask = ASK_DELETE_QUEUE, .a = name, .flag = if_unused, .other_flag = if_empty};
    return ask(client, request, &q);
}

int broker_purge_queue(struct client *client, struct request *request, struct slice name)
{
    struct question q = {.ask = ASK_PURGE_QUEUE, .a = name};
    return ask(client, request, &q);
}

int broker_bind(struct client *client, struct request *request, const struct binding_spec *spec)
{
    struct question q = {.ask = ASK_BIND, .binding = *spec};
    return ask(client, request, &q);
}

int broker_unbind(struct client *client, struct request *request, const struct binding_spec *spec)
{
    struct question q = {.ask = ASK_UNBIND, .binding = *spec};
    return ask(client, request, &q);
}

int broker_subscribe(struct client *client, struct request *request,
                     const struct subscribe_spec *spec)
{
    struct question q = {.ask = ASK_SUBSCRIBE, .subscribe = *spec};
    return ask(client, request, &q);
}

int broker_get(struct client *client, struct request *request, struct slice queue,
               bool settles_itself)
{
    struct question q = {.ask = ASK_GET, .a = queue, .flag = settles_itself};
    return ask(client, request, &q);
}

int broker_transact(struct client *client, struct request *request, struct publish *publishes,
                    size_t publish_count, const struct settlement *settlements,
                    size_t settlement_count)
{
    struct question q = {.ask = ASK_TRANSACT,
                         .publishes = publishes,
                         .publish_count = publish_count,
                         .settlements = settlements,
                         .settlement_count = settlement_count};
    return ask(client, request, &q);
}

/* ---- objects ---- */

static struct catalog_queue *find_queue(struct worker *worker, struct slice name)
{
    LIST_EACH (&worker->queues, link) {
        struct catalog_queue *queue = CONTAINER_OF(link, struct catalog_queue, link);
        if (slice_is(name, queue->name))
            return queue;
    }
    return NULL;
}

static struct exchange *find_exchange(struct worker *worker, struct slice name)
{
    LIST_EACH (&worker->exchanges, link) {
        struct exchange *exchange = CONTAINER_OF(link, struct exchange, link);
        if (slice_is(name, exchange->name))
            return exchange;
    }
    return NULL;
}

/* The queue, if it is there and this client may use it. */
static struct catalog_queue *usable_queue(struct client *client, struct slice name,
                                          struct failure *failure)
{
    struct catalog_queue *queue = find_queue(client->worker, name);

    if (!queue)
        fail(failure, E_NOT_FOUND, "no queue '%.*s' in vhost '/'", SLICE_ARGS(name));
    else if (queue->owner && queue->owner != client)
        fail(failure, E_LOCKED,
             "cannot obtain exclusive access to locked queue '%.*s' in vhost '/'",
             SLICE_ARGS(name));
    else
        return queue;
    return NULL;
}

static void end_queue(struct catalog_queue *queue)
{
    struct worker *worker = queue->worker;

    for (struct list *link = queue->messages.next, *next; link != &queue->messages; link = next) {
        struct stored *stored = CONTAINER_OF(link, struct stored, link);
        next = link->next;
        if (!stored->is_leased)
            drop(queue, stored);
    }
    LIST_EACH (&queue->consumers, link)
        CONTAINER_OF(link, struct consumer, link)->is_over = true;
    LIST_EACH (&worker->bindings, link) {
        struct binding *binding = CONTAINER_OF(link, struct binding, link);
        if (!binding->to_exchange && strcmp(binding->destination, queue->name) == 0) {
            list_remove(&binding->link);
            free(binding);
        }
    }
    list_remove(&queue->link);
    list_append(&worker->graveyard, &queue->link);
}

static void declare_exchange(struct client *client, struct failure *failure,
                             const struct exchange_spec *spec)
{
    struct exchange *exchange = find_exchange(client->worker, spec->name);

    if (spec->passive) {
        if (!exchange)
            fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '/'", SLICE_ARGS(spec->name));
    } else if (!slice_is(spec->type, "direct") && !slice_is(spec->type, "fanout")) {
        fail(failure, E_UNSUPPORTED, "invalid exchange type '%.*s'", SLICE_ARGS(spec->type));
    } else if (exchange && !slice_is(spec->type, exchange->type)) {
        fail(failure, E_MISMATCH,
             "inequivalent arg 'type' for exchange '%.*s' in vhost '/': received '%.*s' but "
             "current is '%s'",
             SLICE_ARGS(spec->name), SLICE_ARGS(spec->type), exchange->type);
    } else if (!exchange && slice_starts(spec->name, "amq.")) {
        fail(failure, E_DENIED, "exchange name '%.*s' contains reserved prefix 'amq.*'",
             SLICE_ARGS(spec->name));
    } else if (!exchange) {
        add_exchange(client->worker, spec->name, spec->type);
    }
}

static void new_queue(struct client *client, struct request *request, const struct queue_spec *spec)
{
    struct worker *worker = client->worker;
    struct catalog_queue *queue = memory_new(sizeof *queue);

    if (spec->name.size == 0)
        snprintf(queue->name, sizeof queue->name, "amq.gen-%llu",
                 (unsigned long long)++worker->names);
    else
        snprintf(queue->name, sizeof queue->name, "%.*s", SLICE_ARGS(spec->name));
    queue->worker = worker;
    queue->durable = spec->durable;
    queue->auto_delete = spec->auto_delete;
    queue->hidden = spec->hidden;
    queue->owner = spec->exclusive ? client : NULL;
    queue->next_sequence = 1;
    list_init(&queue->messages);
    list_init(&queue->consumers);
    queue->cursor = queue->messages.next;
    map_init_numbers(&queue->by_sequence, loop_random(&worker->loop));
    list_append(&worker->queues, &queue->link);
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
}

static void declare_queue(struct client *client, struct request *request,
                          const struct queue_spec *spec)
{
    struct catalog_queue *queue = find_queue(client->worker, spec->name);

    memset(&request->result, 0, sizeof request->result);
    if (!queue && !spec->passive && !spec->hidden && slice_starts(spec->name, "amq.")) {
        fail(&request->failure, E_DENIED, "queue name '%.*s' contains reserved prefix 'amq.*'",
             SLICE_ARGS(spec->name));
        return;
    }
    if (!queue && !spec->passive) {
        new_queue(client, request, spec);
        return;
    }
    queue = usable_queue(client, spec->name, &request->failure);
    if (!queue)
        return;
    if (!spec->passive && queue->durable != spec->durable) {
        fail(&request->failure, E_MISMATCH,
             "inequivalent arg 'durable' for queue '%s' in vhost '/': received '%s' but current "
             "is '%s'",
             queue->name, spec->durable ? "true" : "false", queue->durable ? "true" : "false");
        return;
    }
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
    request->result.queue.counts.ready = queue->ready;
    LIST_EACH (&queue->consumers, link)
        request->result.queue.counts.consumers++;
}

static void delete_queue(struct client *client, struct request *request, const struct question *q)
{
    struct catalog_queue *queue = find_queue(client->worker, q->a);

    memset(&request->result, 0, sizeof request->result);
    if (!queue)
        return;
    queue = usable_queue(client, q->a, &request->failure);
    if (!queue)
        return;
    if (q->flag && !list_empty(&queue->consumers)) {
        fail(&request->failure, E_IN_USE, "queue '%s' in vhost '/' in use", queue->name);
    } else if (q->other_flag && queue->ready > 0) {
        fail(&request->failure, E_IN_USE, "queue '%s' in vhost '/' not empty", queue->name);
    } else {
        request->result.queue.counts.ready = queue->ready;
        end_queue(queue);
    }
}

static void purge_queue(struct client *client, struct request *request, struct slice name)
{
    struct catalog_queue *queue = usable_queue(client, name, &request->failure);

    memset(&request->result, 0, sizeof request->result);
    if (!queue)
        return;
    request->result.queue.counts.ready = queue->ready;
    for (struct list *link = queue->messages.next, *next; link != &queue->messages; link = next) {
        struct stored *stored = CONTAINER_OF(link, struct stored, link);
        next = link->next;
        if (!stored->is_leased)
            drop(queue, stored);
    }
}

static void bind(struct client *client, struct failure *failure, const struct binding_spec *spec,
                 bool is_unbind)
{
    struct worker *worker = client->worker;

    if (!find_exchange(worker, spec->source)) {
        fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '/'", SLICE_ARGS(spec->source));
        return;
    }
    if (spec->to_exchange ? !find_exchange(worker, spec->destination)
                          : !usable_queue(client, spec->destination, failure)) {
        if (!failure->code)
            fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '/'",
                 SLICE_ARGS(spec->destination));
        return;
    }
    LIST_EACH (&worker->bindings, link) {
        struct binding *b = CONTAINER_OF(link, struct binding, link);
        if (slice_is(spec->source, b->source) && slice_is(spec->destination, b->destination) &&
            slice_is(spec->key, b->key) && b->to_exchange == spec->to_exchange) {
            if (!is_unbind)
                return;
            list_remove(&b->link);
            free(b);
            return;
        }
    }
    if (is_unbind)
        return;
    struct binding *b = memory_new(sizeof *b);
    snprintf(b->source, sizeof b->source, "%.*s", SLICE_ARGS(spec->source));
    snprintf(b->destination, sizeof b->destination, "%.*s", SLICE_ARGS(spec->destination));
    snprintf(b->key, sizeof b->key, "%.*s", SLICE_ARGS(spec->key));
    b->to_exchange = spec->to_exchange;
    list_append(&worker->bindings, &b->link);
}

/* ---- messages ---- */

static void store(struct catalog_queue *queue, struct message *message)
{
    struct stored *stored = memory_new(sizeof *stored);

    stored->message = message_ref(message);
    stored->sequence = queue->next_sequence++;
    list_append(&queue->messages, &stored->link);
    if (queue->cursor == &queue->messages)
        queue->cursor = &stored->link;
    map_put_number(&queue->by_sequence, stored->sequence, stored);
    queue->ready++;
}

static struct stored *first_ready(struct catalog_queue *queue)
{
    for (; queue->cursor != &queue->messages; queue->cursor = queue->cursor->next) {
        struct stored *stored = CONTAINER_OF(queue->cursor, struct stored, link);
        if (!stored->is_leased)
            return stored;
    }
    return NULL;
}

#define HIT_MAX 64u

static void add_hit(struct catalog_queue **hits, size_t *count, struct catalog_queue *queue)
{
    for (size_t i = 0; i < *count; i++)
        if (hits[i] == queue)
            return;
    if (queue && *count < HIT_MAX)
        hits[(*count)++] = queue;
}

static void route(struct worker *worker, struct slice exchange, struct slice key,
                  struct catalog_queue **hits, size_t *count, unsigned depth)
{
    if (exchange.size == 0) {
        add_hit(hits, count, find_queue(worker, key));
        return;
    }
    struct exchange *source = find_exchange(worker, exchange);
    if (!source || depth == 0)
        return;
    LIST_EACH (&worker->bindings, link) {
        struct binding *b = CONTAINER_OF(link, struct binding, link);
        if (!slice_is(exchange, b->source) ||
            (strcmp(source->type, "fanout") != 0 && !slice_is(key, b->key)))
            continue;
        if (b->to_exchange)
            route(worker, slice_text(b->destination), key, hits, count, depth - 1);
        else
            add_hit(hits, count, find_queue(worker, slice_text(b->destination)));
    }
}

int broker_check_publish(struct client *client, const struct message *message,
                         struct failure *failure)
{
    struct slice exchange = message_exchange(message);

    if (exchange.size > 0 && !find_exchange(client->worker, exchange))
        return fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '/'", SLICE_ARGS(exchange));
    if (slice_is(exchange, "amq.fanout") && slice_is(message_key(message), "forbidden"))
        return fail(failure, E_DENIED, "write access to exchange 'amq.fanout' refused");
    return 0;
}

int broker_publish(struct client *client, struct publish *publish)
{
    struct worker *worker = client->worker;
    struct catalog_queue *hits[HIT_MAX];
    size_t count = 0;

    ASSERT(!client->closed && client->entered && message_body(publish->message).size < SIZE_MAX);
    client->has_published = true;
    int error = broker_check_publish(client, publish->message, &publish->failure);
    if (error)
        return error;
    route(worker, message_exchange(publish->message), message_key(publish->message), hits, &count,
          4);
    for (size_t i = 0; i < publish->more_keys_count; i++)
        route(worker, message_exchange(publish->message), publish->more_keys[i], hits, &count, 4);
    for (size_t i = 0; i < count; i++)
        store(hits[i], publish->message);
    publish->queues = count;
    if (publish->publisher)
        publish->publisher->published++;
    worker->publishes++;
    return 0;
}

enum flow broker_flow(struct client *client)
{
    return client->worker->flow;
}

struct publisher *publisher_open(struct client *client, void *cookie)
{
    struct publisher *publisher = memory_new(sizeof *publisher);
    publisher->cookie = cookie;
    list_append(&client->publishers, &publisher->link);
    return publisher;
}

void publisher_close(struct publisher *publisher)
{
    list_remove(&publisher->link);
    free(publisher);
}

static void subscribe(struct client *client, struct request *request,
                      const struct subscribe_spec *spec)
{
    struct catalog_queue *queue = usable_queue(client, spec->queue, &request->failure);

    if (!queue)
        return;
    LIST_EACH (&queue->consumers, link) {
        struct consumer *other = CONTAINER_OF(link, struct consumer, link);
        if (other->exclusive || spec->exclusive) {
            fail(&request->failure, E_DENIED, "queue '%s' in vhost '/' in exclusive use",
                 queue->name);
            return;
        }
    }
    struct consumer *consumer = memory_new(sizeof *consumer);
    consumer->client = client;
    consumer->queue = queue;
    consumer->cookie = spec->cookie;
    consumer->settles_itself = spec->settles_itself;
    consumer->exclusive = spec->exclusive;
    consumer->credit = spec->credit_messages;
    consumer->credit_bytes = (int64_t)spec->credit_bytes;
    list_append(&queue->consumers, &consumer->link);
    request->result.consumer = consumer;
}

void broker_unsubscribe(struct consumer *consumer)
{
    list_remove(&consumer->link);
    free(consumer);
}

void broker_credit(struct consumer *consumer, uint32_t messages, uint64_t bytes)
{
    consumer->credit_bytes += (int64_t)bytes;
    ASSERT(consumer->credit_bytes <= (int64_t)OUTPUT_HIGH_WATER); /* never more than it was */
    if (consumer->credit != CREDIT_UNLIMITED)
        consumer->credit += messages;
}

void broker_resume(struct consumer *consumer)
{
    consumer->is_refused = false;
}

static struct stored *lease_of(const struct lease *lease)
{
    struct stored *stored = map_get_number(&lease->queue->by_sequence, lease->sequence);
    ASSERT(stored && stored->is_leased); /* it is out, and not settled yet */
    return stored;
}

void broker_settle(struct client *client, const struct lease *leases, size_t count,
                   enum outcome outcome)
{
    struct worker *worker = client->worker;

    ASSERT(!client->closed && count > 0 && count <= SETTLE_SLICE);
    for (size_t i = 0; i < count; i++) {
        struct catalog_queue *queue = leases[i].queue;
        struct stored *stored = lease_of(&leases[i]);
        bool is_gone = find_queue(worker, slice_text(queue->name)) != queue;
        worker->settled[outcome]++;
        if (outcome == OUTCOME_ACCEPT || outcome == OUTCOME_REJECT || is_gone) {
            drop(queue, stored);
            continue;
        }
        stored->is_leased = false;
        stored->redelivered |= outcome != OUTCOME_RETURN_UNSEEN;
        queue->leased--;
        queue->ready++;
        queue->cursor = queue->messages.next;
    }
}

static void give(struct catalog_queue *queue, struct stored *stored, bool settles_itself,
                 struct delivery *delivery)
{
    *delivery = (struct delivery){.message = stored->message,
                                  .lease = {queue, stored->sequence},
                                  .redelivered = stored->redelivered};
    if (!settles_itself) {
        stored->is_leased = true;
        queue->leased++;
        queue->ready--;
    }
}

static void get(struct client *client, struct request *request, struct slice name,
                bool settles_itself)
{
    struct catalog_queue *queue = usable_queue(client, name, &request->failure);

    memset(&request->result, 0, sizeof request->result);
    if (!queue)
        return;
    struct stored *stored = first_ready(queue);
    if (!stored)
        return;
    give(queue, stored, settles_itself, &request->result.get.delivery);
    message_ref(stored->message);
    if (settles_itself)
        drop(queue, stored);
    request->result.get.ready = queue->ready;
}

static void transact(struct client *client, struct request *request, const struct question *q)
{
    for (size_t i = 0; i < q->publish_count; i++)
        if (broker_publish(client, &q->publishes[i]))
            request->failure = q->publishes[i].failure;
    for (size_t i = 0; i < q->settlement_count; i++)
        broker_settle(client, &q->settlements[i].lease, 1, q->settlements[i].outcome);
}

static void do_now(struct client *client, struct request *request, const struct question *q)
{
    struct failure *failure = &request->failure;

    switch (q->ask) {
    case ASK_LOGIN:
        snprintf(client->user, sizeof client->user, "%.*s", SLICE_ARGS(q->a));
        client->logged_in = slice_is(q->b, "guest");
        if (!client->logged_in)
            fail(failure, E_LOGIN, "user '%s' - invalid credentials", client->user);
        break;
    case ASK_ENTER:
        client->entered = slice_is(q->a, "/");
        if (!client->entered)
            fail(failure, E_NOT_FOUND, "vhost %.*s not found", SLICE_ARGS(q->a));
        break;
    case ASK_DECLARE_EXCHANGE:
        declare_exchange(client, failure, &q->exchange);
        break;
    case ASK_DELETE_EXCHANGE: {
        struct exchange *exchange = find_exchange(client->worker, q->a);
        if (exchange && q->flag)
            fail(failure, E_IN_USE, "exchange '%s' in vhost '/' in use", exchange->name);
        else if (exchange) {
            list_remove(&exchange->link);
            free(exchange);
        }
        break;
    }
    case ASK_DECLARE_QUEUE:
        declare_queue(client, request, &q->queue);
        break;
    case ASK_DELETE_QUEUE:
        delete_queue(client, request, q);
        break;
    case ASK_PURGE_QUEUE:
        purge_queue(client, request, q->a);
        break;
    case ASK_BIND:
        bind(client, failure, &q->binding, false);
        break;
    case ASK_UNBIND:
        bind(client, failure, &q->binding, true);
        break;
    case ASK_SUBSCRIBE:
        subscribe(client, request, &q->subscribe);
        break;
    case ASK_GET:
        get(client, request, q->a, q->flag);
        break;
    case ASK_TRANSACT:
        transact(client, request, q);
        break;
    }
}

/* ---- turns ---- */

/* Requests of a closed client complete into nothing: what they would hold is not made. */
static bool run_requests(struct client *client)
{
    struct list *link = list_first(&client->requests);

    if (!link)
        return false;
    struct request *request = CONTAINER_OF(link, struct request, link);
    struct question *q = request->internal;
    if (q->is_done_early && !q->has_waited) {
        q->has_waited = true;
        return true;
    }
    list_remove(link);
    request->internal = NULL;
    if (!client->closed) {
        if (!q->is_done_early)
            do_now(client, request, q);
        client->options.events->completed(client->options.session, request);
    } else if (q->ask == ASK_TRANSACT) {
        client->closed = false; /* its leases were taken: they are settled all the same */
        transact(client, request, q);
        client->closed = true;
    }
    free(q);
    return true;
}

static bool run_consumer(struct catalog_queue *queue, struct consumer *consumer)
{
    const struct client_options *options = &consumer->client->options;
    struct stored *stored = first_ready(queue);
    struct delivery delivery;

    if (!stored || consumer->is_refused || consumer->credit == 0 || consumer->credit_bytes <= 0)
        return false;
    give(queue, stored, consumer->settles_itself, &delivery);
    if (options->events->deliver(options->session, consumer->cookie, &delivery)) {
        if (!consumer->settles_itself) {
            stored->is_leased = false;
            queue->leased--;
            queue->ready++;
        }
        consumer->is_refused = true;
        return false;
    }
    stored->redelivered = true;
    consumer->credit_bytes -= (int64_t)message_footprint(stored->message);
    if (consumer->settles_itself)
        drop(queue, stored);
    if (consumer->credit != CREDIT_UNLIMITED)
        consumer->credit--;
    return true;
}

static bool run_queue(struct catalog_queue *queue)
{
    bool done = false;

    LIST_EACH (&queue->consumers, link) {
        struct consumer *consumer = CONTAINER_OF(link, struct consumer, link);
        if (consumer->is_over) {
            const struct client_options *options = &consumer->client->options;
            void *cookie = consumer->cookie;
            broker_unsubscribe(consumer);
            options->events->cancelled(options->session, cookie);
            done = true;
        } else {
            for (int i = 0; i < 100 && run_consumer(queue, consumer); i++)
                done = true;
        }
    }
    return done;
}

static bool run_publishers(struct client *client)
{
    bool done = false;

    if (client->worker->confirms_held)
        return false;
    LIST_EACH (&client->publishers, link) {
        struct publisher *publisher = CONTAINER_OF(link, struct publisher, link);
        if (publisher->told == publisher->published)
            continue;
        publisher->told = publisher->published;
        client->options.events->confirmed(client->options.session, publisher->cookie,
                                          publisher->told, !client->worker->is_reject_publishes);
        done = true;
    }
    return done;
}

bool fake_run(struct worker *worker)
{
    bool done = false;

    worker->loop.now_ns += 1000;
    LIST_EACH (&worker->clients, link) {
        struct client *client = CONTAINER_OF(link, struct client, link);
        done |= run_requests(client);
        done |= run_publishers(client);
    }
    LIST_EACH (&worker->graveyard, link)
        done |= run_queue(CONTAINER_OF(link, struct catalog_queue, link));
    LIST_EACH (&worker->queues, link)
        done |= run_queue(CONTAINER_OF(link, struct catalog_queue, link));
    return done;
}

void fake_set_flow(struct worker *worker, enum flow flow)
{
    worker->flow = flow;
    LIST_EACH (&worker->clients, link) {
        struct client *client = CONTAINER_OF(link, struct client, link);
        if (client->has_published && !client->closed)
            client->options.events->flow(client->options.session, flow);
    }
}

void fake_kick(struct worker *worker, const char *reason)
{
    LIST_EACH (&worker->clients, link) {
        struct client *client = CONTAINER_OF(link, struct client, link);
        if (!client->closed)
            client->options.events->kick(client->options.session, reason);
    }
}

struct catalog_queue *fake_queue(struct worker *worker, const char *name)
{
    return find_queue(worker, slice_text(name));
}

uint64_t fake_ready(const struct catalog_queue *queue)
{
    return queue->ready;
}

uint64_t fake_leased(const struct catalog_queue *queue)
{
    return queue->leased;
}

void fake_put(struct worker *worker, const char *queue, struct slice body)
{
    struct message_parts parts = {.format = FORMAT_AMQP091,
                                  .key = slice_text(queue),
                                  .properties = slice_of("\0\0", 2),
                                  .body = body};
    struct message *message = message_new(&worker->message_account, &parts);
    struct catalog_queue *q = find_queue(worker, slice_text(queue));

    ASSERT(message && q);
    store(q, message);
    message_unref(message);
}
