/* Publishing: routing with a cache, the log, the queues; confirms; flow. */
#include "broker/broker_private.h"

#include <stdlib.h>
#include <xxhash.h>

/* ---- the cache of routes: by exchange and key, good while the catalog's version stays ---- */

#define ROUTE_SLOTS      64u /* power of 2 */
#define ROUTE_QUEUES_MAX 64u

struct route_slot {
    uint64_t hash, version;
    struct catalog_exchange *exchange;
    uint8_t exchange_size, key_size;
    uint16_t count;
    uint8_t *names; /* exchange, key */
    struct catalog_queue **queues;
};

struct route_cache {
    struct route_slot slots[ROUTE_SLOTS];
};

void route_cache_free(struct route_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < ROUTE_SLOTS; i++) {
        free(cache->slots[i].names);
        free(cache->slots[i].queues);
    }
    free(cache);
}

static bool slot_is(const struct route_slot *slot, uint64_t hash, uint64_t version,
                    const struct message *message)
{
    return slot->version == version && slot->hash == hash &&
           slot->exchange_size == message->exchange_size && slot->key_size == message->key_size &&
           memcmp(slot->names, message->bytes, (size_t)slot->exchange_size + slot->key_size) == 0;
}

static void slot_fill(struct route_slot *slot, uint64_t hash, uint64_t version,
                      const struct message *message, const struct route_result *result)
{
    size_t names_size = (size_t)message->exchange_size + message->key_size;

    slot->hash = hash;
    slot->version = version;
    slot->exchange_size = message->exchange_size;
    slot->key_size = message->key_size;
    slot->names = memory_resize(slot->names, names_size + 1, 1);
    memcpy(slot->names, message->bytes, names_size);
    slot->queues = memory_resize(slot->queues, result->count + 1, sizeof *slot->queues);
    if (result->count)
        memcpy(slot->queues, result->queues, result->count * sizeof *slot->queues);
    slot->count = (uint16_t)result->count;
}

static int find_exchange(struct client *client, const struct message *message,
                         struct catalog_exchange **exchange, struct failure *failure)
{
    struct slice name = message_exchange(message);

    *exchange = vhost_exchange(client->vhost, name);
    if (!*exchange)
        return fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '%s'", SLICE_ARGS(name),
                    client->vhost->name);
    int result = client_may(client, ACCESS_WRITE, "exchange", name, failure);
    if (result != 0)
        return result;
    if ((*exchange)->flags & CATALOG_INTERNAL)
        return fail(failure, E_DENIED, "cannot publish to internal exchange '%s' in vhost '%s'",
                    (*exchange)->name, client->vhost->name);
    return 0;
}

static void route_keys(struct worker *worker, struct catalog_exchange *exchange,
                       const struct slice *keys, size_t count, struct slice headers)
{
    if (exchange != exchange->vhost->default_exchange) {
        route_match_keys(worker->catalog.routes, exchange->route, keys, count, headers,
                         &worker->routed);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct catalog_queue *queue = vhost_queue(exchange->vhost, keys[i]);
        if (queue)
            route_result_add(&worker->routed, queue);
    }
}

static int route_fully(struct client *client, const struct publish *publish,
                       struct failure *failure)
{
    struct worker *worker = client->worker;
    const struct message *message = publish->message;
    struct catalog_exchange *exchange;
    struct slice headers = slice_of(NULL, 0);

    int result = find_exchange(client, message, &exchange, failure);
    if (result != 0)
        return result;
    if (client->vhost->headers_bindings > 0)
        headers = message_format(message)->headers(message);
    route_result_clear(&worker->routed);
    struct slice key = message_key(message);
    if (publish->more_keys_count == 0) {
        route_keys(worker, exchange, &key, 1, headers);
        return 0;
    }
    struct slice *keys = memory_new((1 + publish->more_keys_count) * sizeof *keys);
    keys[0] = key;
    memcpy(keys + 1, publish->more_keys, publish->more_keys_count * sizeof *keys);
    route_keys(worker, exchange, keys, 1 + publish->more_keys_count, headers);
    free(keys);
    return 0;
}

/* The queues that a publish goes to, in an array that is good until the next call. */
static int route(struct client *client, const struct publish *publish,
                 struct catalog_queue ***queues, size_t *count, struct failure *failure)
{
    struct worker *worker = client->worker;
    const struct message *message = publish->message;
    uint64_t version = worker->catalog.version;

    if (!client->routes)
        client->routes = memory_new(sizeof *client->routes);
    uint64_t hash = XXH3_64bits_withSeed(
        message->bytes, (size_t)message->exchange_size + message->key_size, message->exchange_size);
    struct route_slot *slot = &client->routes->slots[hash & (ROUTE_SLOTS - 1)];
    bool may_cache = publish->more_keys_count == 0 && client->vhost->headers_bindings == 0;
    if (may_cache && slot_is(slot, hash, version, message)) {
        *queues = slot->queues;
        *count = slot->count;
        return 0;
    }
    int result = route_fully(client, publish, failure);
    if (result != 0)
        return result;
    *queues = (struct catalog_queue **)(void *)worker->routed.queues;
    *count = worker->routed.count;
    if (may_cache && *count <= ROUTE_QUEUES_MAX)
        slot_fill(slot, hash, version, message, &worker->routed);
    return 0;
}

int broker_check_publish(struct client *client, const struct message *message,
                         struct failure *failure)
{
    struct catalog_exchange *exchange;
    return find_exchange(client, message, &exchange, failure);
}

/* ---- into log and queues ---- */

static int storage_failure(int result, struct failure *failure)
{
    return fail(failure, result, "%s",
                result == E_FULL ? "the disk is full: the message cannot be stored"
                                 : "storage has failed: the message cannot be stored");
}

/* Logs the message for those queues that keep it, and gives it to all. *logged: somebody keeps it.
 */
static int enqueue(struct worker *worker, struct message *message, struct catalog_queue **queues,
                   size_t count, bool *logged, struct failure *failure)
{
    uint64_t position = 0;
    size_t targets = 0;

    if (message->flags & MESSAGE_PERSISTENT) {
        if (count > worker->targets_capacity) {
            worker->targets_capacity = count;
            worker->targets = memory_resize(worker->targets, count, sizeof *worker->targets);
        }
        for (size_t i = 0; i < count; i++) {
            const struct queue *queue = &queues[i]->queue;
            if (queue->log)
                worker->targets[targets++] =
                    (struct log_target){queue->id, queue_sequence(queue), 0};
        }
        if (targets > LOG_TARGETS_MAX)
            return fail(failure, E_LIMIT, "the message goes to more than %u durable queues",
                        LOG_TARGETS_MAX);
        int result =
            targets ? log_append_message(worker->log, message, worker->targets, targets, &position)
                    : 0;
        if (result != 0)
            return storage_failure(result, failure);
    }
    for (size_t i = 0; i < count; i++)
        queue_push(&queues[i]->queue, message, queues[i]->queue.log ? position : 0);
    *logged = targets > 0;
    worker->published++;
    return 0;
}

/* ---- confirms ---- */

/* All publishes up to `last` (after those of the run before) wait for this block. */
struct confirm_run {
    uint64_t block, last;
    bool accepted;
};

struct publisher {
    struct list client_link; /* first: client_close() finds the publisher by it */
    struct list link;        /* publishers_waiting or publishers_ready */
    struct client *client;
    void *cookie;
    uint64_t sequence;
    struct confirm_run *runs; /* ring; blocks grow */
    uint32_t head, count, capacity;
};

_Static_assert(offsetof(struct publisher, client_link) == 0, "see client_close()");

struct publisher *publisher_open(struct client *client, void *cookie)
{
    struct publisher *publisher = memory_new(sizeof *publisher);

    publisher->client = client;
    publisher->cookie = cookie;
    list_init(&publisher->link);
    list_append(&client->publishers, &publisher->client_link);
    return publisher;
}

void publisher_free(struct publisher *publisher)
{
    list_remove(&publisher->client_link);
    list_remove(&publisher->link);
    free(publisher->runs);
    free(publisher);
}

void publisher_close(struct publisher *publisher)
{
    publisher_free(publisher);
}

static struct confirm_run *run_at(struct publisher *publisher, uint32_t index)
{
    return &publisher->runs[(publisher->head + index) & (publisher->capacity - 1)];
}

static void runs_grow(struct publisher *publisher)
{
    uint32_t capacity = publisher->capacity ? 2 * publisher->capacity : 4;
    struct confirm_run *runs = memory_new(capacity * sizeof *runs);

    for (uint32_t i = 0; i < publisher->count; i++)
        runs[i] = *run_at(publisher, i);
    free(publisher->runs);
    publisher->runs = runs;
    publisher->capacity = capacity;
    publisher->head = 0;
}

/* The publisher's next sequence waits for this block (0: for what is before it). */
static void publisher_add(struct publisher *publisher, uint64_t block, bool accepted)
{
    struct worker *worker = publisher->client->worker;
    struct confirm_run *last = publisher->count ? run_at(publisher, publisher->count - 1) : NULL;

    publisher->sequence++;
    if (last && (block == 0 || block < last->block))
        block = last->block;
    if (last && last->block == block && last->accepted == accepted) {
        last->last = publisher->sequence;
    } else {
        if (publisher->count == publisher->capacity)
            runs_grow(publisher);
        *run_at(publisher, publisher->count++) =
            (struct confirm_run){block, publisher->sequence, accepted};
    }
    if (list_linked(&publisher->link))
        return;
    if (run_at(publisher, 0)->block <= log_block_durable(worker->log)) {
        list_append(&worker->publishers_ready, &publisher->link);
        loop_defer(worker->loop, &worker->confirm, LOOP_COMMIT);
    } else {
        list_append(&worker->publishers_waiting, &publisher->link);
    }
}

/* Tells what is confirmed by this block; true when the publisher waits for nothing more. */
static bool publisher_tell(struct publisher *publisher, uint64_t block)
{
    struct client *client = publisher->client;

    while (publisher->count > 0 && run_at(publisher, 0)->block <= block) {
        struct confirm_run run = *run_at(publisher, 0);
        publisher->head = (publisher->head + 1) & (publisher->capacity - 1);
        publisher->count--;
        /* runs of the same kind that are durable, too, are told together */
        while (publisher->count > 0 && run_at(publisher, 0)->block <= block &&
               run_at(publisher, 0)->accepted == run.accepted) {
            run.last = run_at(publisher, 0)->last;
            publisher->head = (publisher->head + 1) & (publisher->capacity - 1);
            publisher->count--;
        }
        client->options.events->confirmed(client->options.session, publisher->cookie, run.last,
                                          run.accepted);
    }
    return publisher->count == 0;
}

void publishers_durable(struct worker *worker, uint64_t block)
{
    struct list waiting;

    list_init(&waiting);
    list_move_all(&waiting, &worker->publishers_waiting);
    for (struct list *link; (link = list_take_first(&waiting));) {
        struct publisher *publisher = CONTAINER_OF(link, struct publisher, link);
        if (!publisher_tell(publisher, block))
            list_append(&worker->publishers_waiting, link);
    }
}

void publishers_confirm(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, confirm);
    struct list ready;

    list_init(&ready);
    list_move_all(&ready, &worker->publishers_ready);
    for (struct list *link; (link = list_take_first(&ready));) {
        struct publisher *publisher = CONTAINER_OF(link, struct publisher, link);
        if (!publisher_tell(publisher, log_block_durable(worker->log)))
            list_append(&worker->publishers_waiting, link);
    }
}

void publishers_failed(struct worker *worker)
{
    LIST_EACH (&worker->publishers_waiting, link) {
        struct publisher *publisher = CONTAINER_OF(link, struct publisher, link);
        for (uint32_t i = 0; i < publisher->count; i++)
            run_at(publisher, i)->accepted = false;
    }
    publishers_durable(worker, UINT64_MAX);
}

/* ---- publishing ---- */

int broker_publish(struct client *client, struct publish *publish)
{
    struct worker *worker = client->worker;
    struct catalog_queue **queues;
    bool logged = false;

    int result = route(client, publish, &queues, &publish->queues, &publish->failure);
    if (result != 0)
        return result;
    if (publish->queues > 0)
        result =
            enqueue(worker, publish->message, queues, publish->queues, &logged, &publish->failure);
    if (publish->publisher) {
        publisher_add(publish->publisher, logged ? log_block_last(worker->log) : 0, result == 0);
        if (logged)
            log_commit(worker->log);
        return 0;
    }
    return result;
}

/* ---- transactions ---- */

/* The queues of all publishes, found first, so that nothing can fail half way. */
struct transaction {
    struct catalog_queue **queues;
    size_t queues_count, queues_capacity;
    size_t log_bytes;
};

static int transaction_route(struct client *client, struct transaction *transaction,
                             struct publish *publish, struct failure *failure)
{
    struct catalog_queue **queues;

    int result = route(client, publish, &queues, &publish->queues, failure);
    if (result != 0)
        return result;
    size_t needed = transaction->queues_count + publish->queues;
    if (needed > transaction->queues_capacity) {
        transaction->queues_capacity = 2 * needed;
        transaction->queues =
            memory_resize(transaction->queues, transaction->queues_capacity, sizeof(void *));
    }
    if (publish->queues)
        memcpy(transaction->queues + transaction->queues_count, queues,
               publish->queues * sizeof *queues);
    transaction->queues_count = needed;
    if (publish->message->flags & MESSAGE_PERSISTENT)
        transaction->log_bytes += log_message_bytes(publish->message, publish->queues);
    return 0;
}

/* Room in the log for a settlement or a count, at the most. */
#define SETTLE_BYTES_MAX 48u

static void transaction_settle(struct client *client, const struct settlement *settlements,
                               size_t count)
{
    for (size_t i = 0; i < count; i++)
        broker_settle(client, &settlements[i].lease, 1, settlements[i].outcome);
}

static int transaction_publish(struct worker *worker, struct transaction *transaction,
                               struct publish *publishes, size_t count, struct failure *failure)
{
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        bool logged;
        if (publishes[i].queues == 0)
            continue;
        int result = enqueue(worker, publishes[i].message, transaction->queues + at,
                             publishes[i].queues, &logged, failure);
        if (result != 0)
            return result;
        at += publishes[i].queues;
    }
    return 0;
}

int broker_transact(struct client *client, struct request *request, struct publish *publishes,
                    size_t publish_count, const struct settlement *settlements,
                    size_t settlement_count)
{
    struct worker *worker = client->worker;
    struct transaction transaction = {.log_bytes = settlement_count * SETTLE_BYTES_MAX};
    struct failure *failure = &request->failure;

    request_begin(client, request);
    for (size_t i = 0; i < publish_count && failure->code == 0; i++)
        failure->code = transaction_route(client, &transaction, &publishes[i], failure);
    bool grouped = false;
    if (failure->code == 0 && transaction.log_bytes > 0) {
        failure->code = log_group_begin(worker->log, transaction.log_bytes);
        grouped = failure->code == 0;
        if (failure->code == E_LIMIT)
            fail(failure, E_LIMIT, "the transaction is larger than %u bytes", LOG_GROUP_BYTES_MAX);
        else if (failure->code != 0)
            storage_failure(failure->code, failure);
    }
    if (failure->code == 0)
        failure->code =
            transaction_publish(worker, &transaction, publishes, publish_count, failure);
    if (failure->code == 0) {
        transaction_settle(client, settlements, settlement_count);
    } else {
        /* nothing happened: what was to be settled stays with the client, which gives it back */
        for (size_t i = 0; i < settlement_count; i++)
            broker_settle(client, &settlements[i].lease, 1, OUTCOME_RETURN);
    }
    if (grouped) {
        log_group_end(worker->log);
        request->wait_block = log_block_last(worker->log);
    }
    free(transaction.queues);
    return request_end(request);
}

/* ---- flow ---- */

#define WATCH_NS (100 * NANOSECONDS_PER_MS)

static enum flow flow_now(struct worker *worker)
{
    if (worker->storage_failed || worker->disk_is_low)
        return FLOW_DISK;
    if (worker->options.memory_high_bytes &&
        worker->memory.used >= worker->options.memory_high_bytes)
        return FLOW_MEMORY;
    return log_has_room(worker->log) ? FLOW_OPEN : FLOW_BUSY;
}

enum flow broker_flow(struct client *client)
{
    struct worker *worker = client->worker;
    enum flow flow = flow_now(worker);

    if (flow == FLOW_OPEN)
        return flow;
    client->flow_told = flow;
    if (!list_linked(&client->flow_link))
        list_append(&worker->flow_waiters, &client->flow_link);
    if (flow == FLOW_MEMORY && worker->flow != FLOW_MEMORY)
        worker_flow_changed(worker);
    return flow;
}

static const char *const flow_words[] = {
    [FLOW_OPEN] = "open",
    [FLOW_BUSY] = "busy",
    [FLOW_MEMORY] = "the memory watermark is passed: publishers are blocked",
    [FLOW_DISK] = "the disk watermark is passed or storage has failed: publishers are blocked",
};

/* Logs the change, once. Waiters are told by the watch, or when the log has room. */
void worker_flow_changed(struct worker *worker)
{
    enum flow flow = flow_now(worker);
    enum flow before = worker->flow;

    worker->flow = flow;
    if (flow >= FLOW_MEMORY && flow != before)
        log_warning(worker->logger, "alarm", "%s", flow_words[flow]);
    else if (before >= FLOW_MEMORY && flow < FLOW_MEMORY)
        log_info(worker->logger, "alarm", "publishers go on");
}

static void tell_flow(struct worker *worker)
{
    struct list waiters;

    list_init(&waiters);
    list_move_all(&waiters, &worker->flow_waiters);
    for (struct list *link; (link = list_take_first(&waiters));) {
        struct client *client = CONTAINER_OF(link, struct client, flow_link);
        enum flow flow = flow_now(worker);
        bool changed = flow != client->flow_told;
        client->flow_told = flow;
        if (flow != FLOW_OPEN)
            list_append(&worker->flow_waiters, link);
        if (changed)
            client->options.events->flow(client->options.session, flow);
    }
}

/* Every 100 ms, and when the log has room again. */
void worker_watch(struct timer *timer)
{
    struct worker *worker = CONTAINER_OF(timer, struct worker, watch);

    worker->disk_is_low = worker->options.disk_low_bytes &&
                          store_bytes_free(worker->options.store) < worker->options.disk_low_bytes;
    worker_flow_changed(worker);
    if (worker->messages.used > worker->options.hot_bytes_max)
        cooling_begin(worker);
    if (!list_empty(&worker->flow_waiters))
        tell_flow(worker);
    timer_set(timer, loop_now_ns(worker->loop) + WATCH_NS);
}
