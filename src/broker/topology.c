/* Exchanges, queues and bindings: declaring, deleting, finding. */
#include "broker/broker_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int catalog_record(struct worker *worker, const struct writer *event, struct failure *failure)
{
    struct slice bytes = slice_of(event->start, writer_size(event));

    if (event->failed)
        return fail(failure, E_LIMIT, "names and arguments are larger than %u bytes",
                    EVENT_BYTES_MAX);
    int result = log_append_catalog(worker->log, bytes);
    if (result != 0)
        return fail(failure, result, "%s",
                    result == E_FULL
                        ? "the disk is full: nothing durable can be declared or deleted"
                        : "storage has failed: nothing durable can be declared or deleted");
    result = catalog_apply(&worker->catalog, bytes);
    ASSERT(result == 0);
    return 0;
}

static bool is_reserved(struct slice name)
{
    return slice_starts(name, "amq.");
}

static int refuse_reserved(const char *kind, struct slice name, struct failure *failure)
{
    return fail(failure, E_DENIED, "%s name '%.*s' contains reserved prefix 'amq.*'", kind,
                SLICE_ARGS(name));
}

static int refuse_name(const char *kind, struct slice name, struct failure *failure)
{
    return fail(failure, E_INVALID, "%s name '%.*s' has a byte 0 or more than %u bytes", kind,
                SLICE_ARGS(name), NAME_MAX_BYTES);
}

static int no_exchange(const struct client *client, struct slice name, struct failure *failure)
{
    return fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '%s'", SLICE_ARGS(name),
                client->vhost->name);
}

static int mismatch(struct failure *failure, const char *property, const char *kind,
                    const char *name, const struct vhost *vhost, const char *received,
                    const char *current)
{
    return fail(
        failure, E_MISMATCH,
        "inequivalent arg '%s' for %s '%s' in vhost '%s': received '%s' but current is '%s'",
        property, kind, name, vhost->name, received, current);
}

static const char *truth(bool value)
{
    return value ? "true" : "false";
}

/* ---- auto-deletion of exchanges that lost their last binding ---- */

/* Exchanges to look at: collected while bindings go, deleted after. Deleting one may add others, so
 * it is a loop over the worker's list of ids, not a recursion. */
struct losses {
    uint64_t *ids;
    size_t count, capacity;
};

static void lost(void *context, uint64_t exchange_id)
{
    struct losses *losses = context;

    if (losses->count == losses->capacity) {
        losses->capacity = losses->capacity ? 2 * losses->capacity : 16;
        losses->ids = memory_resize(losses->ids, losses->capacity, sizeof *losses->ids);
    }
    losses->ids[losses->count++] = exchange_id;
}

static void log_drop(struct worker *worker, enum catalog_event kind, uint64_t id)
{
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_drop(&w, kind, id);
    if (log_append_catalog(worker->log, slice_of(bytes, writer_size(&w))) != 0)
        log_error(worker->logger, "catalog",
                  "the deletion of object %" PRIu64 " could not be logged: it will be back "
                  "after a restart",
                  id);
}

static void drop_exchange(struct worker *worker, struct catalog_exchange *exchange,
                          struct losses *losses)
{
    if (exchange->flags & CATALOG_DURABLE)
        log_drop(worker, CATALOG_EXCHANGE_DROP, exchange->id);
    catalog_drop_exchange(&worker->catalog, exchange, lost, losses);
}

static void drop_unbound(struct worker *worker, struct losses *losses)
{
    for (size_t i = 0; i < losses->count; i++) {
        struct catalog_exchange *e =
            map_get_number(&worker->catalog.exchanges_by_id, losses->ids[i]);
        if (e && (e->flags & CATALOG_AUTO_DELETE) && e->had_bindings &&
            route_binding_count(e->route) == 0)
            drop_exchange(worker, e, losses);
    }
    free(losses->ids);
}

static void delete_exchange(struct worker *worker, struct catalog_exchange *exchange)
{
    struct losses losses = {0};

    drop_exchange(worker, exchange, &losses);
    drop_unbound(worker, &losses);
}

/* ---- exchanges ---- */

static int exchange_matches(const struct catalog_exchange *e, const struct exchange_spec *spec,
                            enum exchange_type type, struct failure *failure)
{
    bool durable = e->flags & CATALOG_DURABLE, auto_delete = e->flags & CATALOG_AUTO_DELETE,
         internal = e->flags & CATALOG_INTERNAL;

    if (type != e->type)
        return mismatch(failure, "type", "exchange", e->name, e->vhost, exchange_type_name(type),
                        exchange_type_name(e->type));
    if (spec->durable != durable)
        return mismatch(failure, "durable", "exchange", e->name, e->vhost, truth(spec->durable),
                        truth(durable));
    if (spec->auto_delete != auto_delete)
        return mismatch(failure, "auto_delete", "exchange", e->name, e->vhost,
                        truth(spec->auto_delete), truth(auto_delete));
    if (spec->internal != internal)
        return mismatch(failure, "internal", "exchange", e->name, e->vhost, truth(spec->internal),
                        truth(internal));
    return exchange_arguments_equivalent(exchange_arguments(e), spec->arguments, e->name,
                                         e->vhost->name, failure);
}

static int create_exchange(struct client *client, struct request *request,
                           const struct exchange_spec *spec, enum exchange_type type)
{
    struct worker *worker = client->worker;
    struct slice alternate;
    struct failure *failure = &request->failure;

    if (!catalog_name_is_valid(spec->name))
        return refuse_name("exchange", spec->name, failure);
    if (is_reserved(spec->name))
        return refuse_reserved("exchange", spec->name, failure);
    char *name = memory_text(spec->name);
    int result = exchange_arguments_check(spec->arguments, name, client->vhost->name, failure);
    free(name);
    if (result != 0)
        return result;
    if (fields_text(spec->arguments, "alternate-exchange", &alternate) &&
        (client_may(client, ACCESS_READ, "exchange", spec->name, failure) != 0 ||
         client_may(client, ACCESS_WRITE, "exchange", alternate, failure) != 0))
        return failure->code;

    uint64_t id = worker->catalog.next_id++;
    uint8_t flags = (uint8_t)((spec->durable ? CATALOG_DURABLE : 0) |
                              (spec->auto_delete ? CATALOG_AUTO_DELETE : 0) |
                              (spec->internal ? CATALOG_INTERNAL : 0));
    if (!spec->durable) {
        catalog_put_exchange(&worker->catalog, client->vhost, id, flags, type, spec->name,
                             spec->arguments);
        return 0;
    }
    uint8_t *bytes = memory_new(EVENT_BYTES_MAX);
    struct writer w = writer_of(bytes, EVENT_BYTES_MAX);
    catalog_encode_exchange(&w, id, client->vhost->id, flags, type, spec->name, spec->arguments);
    result = catalog_record(worker, &w, failure);
    free(bytes);
    if (result == 0)
        vhost_exchange(client->vhost, spec->name)->block = log_block_last(worker->log);
    return result;
}

int broker_declare_exchange(struct client *client, struct request *request,
                            const struct exchange_spec *spec)
{
    struct catalog_exchange *exchange = vhost_exchange(client->vhost, spec->name);
    struct failure *failure = &request->failure;
    enum exchange_type type;

    request_begin(client, request);
    if (spec->passive) {
        if (!exchange)
            no_exchange(client, spec->name, failure);
        return request_end(request);
    }
    if (spec->name.size == 0) {
        fail(failure, E_DENIED, "operation not permitted on the default exchange");
        return request_end(request);
    }
    if (!exchange_type_parse(spec->type, &type))
        fail(failure, E_UNSUPPORTED, "invalid exchange type '%.*s'", SLICE_ARGS(spec->type));
    else if (client_may(client, ACCESS_CONFIGURE, "exchange", spec->name, failure) != 0)
        ;
    else if (exchange)
        failure->code = exchange_matches(exchange, spec, type, failure);
    else
        failure->code = create_exchange(client, request, spec, type);
    exchange = vhost_exchange(client->vhost, spec->name);
    if (failure->code == 0)
        request->wait_block = exchange->block;
    return request_end(request);
}

int broker_delete_exchange(struct client *client, struct request *request, struct slice name,
                           bool if_unused)
{
    struct worker *worker = client->worker;
    struct catalog_exchange *exchange = vhost_exchange(client->vhost, name);
    struct failure *failure = &request->failure;

    request_begin(client, request);
    if (name.size == 0)
        fail(failure, E_DENIED, "operation not permitted on the default exchange");
    else if (is_reserved(name) && exchange && (exchange->flags & CATALOG_PREDECLARED))
        refuse_reserved("exchange", name, failure);
    else if (client_may(client, ACCESS_CONFIGURE, "exchange", name, failure) != 0 || !exchange)
        ;
    else if (if_unused && route_binding_count(exchange->route) > 0)
        fail(failure, E_IN_USE, "exchange '%s' in vhost '%s' in use", exchange->name,
             client->vhost->name);
    else {
        bool durable = exchange->flags & CATALOG_DURABLE;
        delete_exchange(worker, exchange);
        request->wait_block = durable ? log_block_last(worker->log) : 0;
    }
    return request_end(request);
}

/* ---- finding queues ---- */

static int locked(const struct catalog_queue *queue, struct failure *failure)
{
    return fail(failure, E_LOCKED,
                "cannot obtain exclusive access to locked queue '%s' in vhost '%s'. It could be "
                "originally declared on "
                "another connection or the exclusive property value does not match that of the "
                "original declaration.",
                queue->name, queue->vhost->name);
}

int client_find_queue(struct client *client, struct slice name, struct catalog_queue **queue,
                      struct failure *failure)
{
    *queue = vhost_queue(client->vhost, name);
    if (!*queue)
        return fail(failure, E_NOT_FOUND, "no queue '%.*s' in vhost '%s'", SLICE_ARGS(name),
                    client->vhost->name);
    if ((*queue)->owner && (*queue)->owner != client)
        return locked(*queue, failure);
    return 0;
}

static void fill_counts(const struct catalog_queue *queue, struct request *request)
{
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
    request->result.queue.counts = (struct queue_counts){
        .ready = queue->queue.ready,
        .leased = queue->queue.leased,
        .consumers = queue->queue.consumers,
    };
}

/* ---- expiry of unused queues ---- */

void queue_used(struct catalog_queue *queue)
{
    queue->used_ns = loop_now_ns(queue->expiry.loop);
    if (queue->settings.expires_ms && !timer_is_set(&queue->expiry))
        timer_set(&queue->expiry, queue->used_ns + queue->settings.expires_ms * NANOSECONDS_PER_MS);
}

static void queue_expired(struct timer *timer)
{
    struct catalog_queue *queue = CONTAINER_OF(timer, struct catalog_queue, expiry);
    struct worker *worker = queue->queue.host->context;
    uint64_t at_ns = queue->used_ns + queue->settings.expires_ms * NANOSECONDS_PER_MS;

    if (queue->queue.consumers > 0 || !list_empty(&queue->getters))
        at_ns = loop_now_ns(worker->loop) + queue->settings.expires_ms * NANOSECONDS_PER_MS;
    if (at_ns > loop_now_ns(worker->loop)) {
        timer_set(timer, at_ns);
        return;
    }
    log_debug(worker->logger, "queue", "queue '%s' in vhost '%s' has expired", queue->name,
              queue->vhost->name);
    worker_delete_queue(worker, queue);
}

void queue_added(void *context, struct catalog_queue *queue)
{
    struct worker *worker = context;

    timer_init(&queue->expiry, worker->loop, queue_expired);
    queue_used(queue);
}

/* ---- queues ---- */

static int queue_matches(const struct catalog_queue *queue, const struct queue_spec *spec,
                         struct failure *failure)
{
    bool durable = queue->flags & CATALOG_DURABLE, auto_delete = queue->flags & CATALOG_AUTO_DELETE;

    if (spec->exclusive != (bool)(queue->flags & CATALOG_EXCLUSIVE))
        return locked(queue, failure);
    if (spec->durable != durable)
        return mismatch(failure, "durable", "queue", queue->name, queue->vhost,
                        truth(spec->durable), truth(durable));
    if (spec->auto_delete != auto_delete)
        return mismatch(failure, "auto_delete", "queue", queue->name, queue->vhost,
                        truth(spec->auto_delete), truth(auto_delete));
    return queue_arguments_equivalent(queue_arguments(queue), spec->arguments, queue->name,
                                      queue->vhost->name, failure);
}

/* "amq.gen-" and 22 random letters. */
static struct slice choose_name(struct client *client, char *name, size_t size)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[22];

    do {
        int at = snprintf(name, size, "amq.gen-");
        loop_random_bytes(client->worker->loop, random, sizeof random);
        for (size_t i = 0; i < sizeof random; i++)
            name[at++] = letters[random[i] & 63];
        name[at] = 0;
    } while (vhost_queue(client->vhost, slice_text(name)));
    return slice_text(name);
}

static int may_dead_letter(struct client *client, struct slice name, struct slice arguments,
                           struct failure *failure)
{
    struct slice target;

    if (!fields_text(arguments, "x-dead-letter-exchange", &target))
        return 0;
    int result = client_may(client, ACCESS_READ, "queue", name, failure);
    return result != 0 ? result : client_may(client, ACCESS_WRITE, "exchange", target, failure);
}

static int put_queue(struct client *client, const struct queue_spec *spec, struct slice name,
                     struct failure *failure)
{
    struct worker *worker = client->worker;
    uint64_t id = worker->catalog.next_id++;
    uint8_t flags = (uint8_t)((spec->durable ? CATALOG_DURABLE : 0) |
                              (spec->auto_delete ? CATALOG_AUTO_DELETE : 0) |
                              (spec->exclusive ? CATALOG_EXCLUSIVE : 0));

    if (!spec->durable || spec->exclusive) {
        catalog_put_queue(&worker->catalog, client->vhost, id, flags, name, spec->arguments);
        return 0;
    }
    uint8_t *bytes = memory_new(EVENT_BYTES_MAX);
    struct writer w = writer_of(bytes, EVENT_BYTES_MAX);
    catalog_encode_queue(&w, id, client->vhost->id, flags, name, spec->arguments);
    int result = catalog_record(worker, &w, failure);
    free(bytes);
    if (result == 0)
        vhost_queue(client->vhost, name)->block = log_block_last(worker->log);
    return result;
}

static int create_queue(struct client *client, const struct queue_spec *spec,
                        struct catalog_queue **queue, struct failure *failure)
{
    char chosen[64];
    struct slice name = spec->name;
    struct queue_settings settings;

    if (name.size == 0)
        name = choose_name(client, chosen, sizeof chosen);
    else if (!catalog_name_is_valid(name))
        return refuse_name("queue", name, failure);
    else if (is_reserved(name) && !spec->hidden)
        return refuse_reserved("queue", name, failure);
    char *text = memory_text(name);
    int result =
        queue_arguments_check(spec->arguments, text, client->vhost->name, &settings, failure);
    if (result == 0)
        result = queue_properties_check(settings.type, spec->durable, spec->exclusive,
                                        spec->auto_delete, text, client->vhost->name, failure);
    free(text);
    if (result == 0 && !spec->hidden)
        result = client_may(client, ACCESS_CONFIGURE, "queue", name, failure);
    if (result == 0 && !spec->hidden)
        result = may_dead_letter(client, name, spec->arguments, failure);
    if (result == 0)
        result = put_queue(client, spec, name, failure);
    if (result != 0)
        return result;
    *queue = vhost_queue(client->vhost, name);
    (*queue)->hidden = spec->hidden;
    if (spec->exclusive) {
        (*queue)->owner = client;
        list_append(&client->queues, &(*queue)->owner_link);
    }
    return 0;
}

static int declare_queue(struct client *client, const struct queue_spec *spec,
                         struct catalog_queue **queue, struct failure *failure)
{
    if (spec->passive)
        return client_find_queue(client, spec->name, queue, failure);
    *queue = vhost_queue(client->vhost, spec->name);
    if (!*queue)
        return create_queue(client, spec, queue, failure);
    int result = client_may(client, ACCESS_CONFIGURE, "queue", spec->name, failure);
    if (result == 0 && (*queue)->owner && (*queue)->owner != client)
        result = locked(*queue, failure);
    return result != 0 ? result : queue_matches(*queue, spec, failure);
}

int broker_declare_queue(struct client *client, struct request *request,
                         const struct queue_spec *spec)
{
    struct catalog_queue *queue = NULL;

    request_begin(client, request);
    request->failure.code = declare_queue(client, spec, &queue, &request->failure);
    if (request->failure.code == 0) {
        queue_used(queue);
        fill_counts(queue, request);
        request->wait_block = queue->block;
    }
    return request_end(request);
}

void queue_release(struct queue *queue)
{
    if (queue_unref(queue))
        catalog_free_queue(catalog_queue_of(queue));
}

void queue_dropped(void *context, struct catalog_queue *queue)
{
    struct worker *worker = context;

    LIST_EACH (&queue->subscriptions, link)
        subscription_end(CONTAINER_OF(link, struct subscription, queue_link));
    getters_fail(queue);
    list_remove(&queue->owner_link);
    queue->owner = NULL;
    queue_close(&queue->queue);
    list_append(&worker->discards, &queue->discard_link);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
}

bool worker_discard_slice(struct worker *worker)
{
    struct list *link = list_first(&worker->discards);

    if (!link)
        return true;
    struct catalog_queue *queue = CONTAINER_OF(link, struct catalog_queue, discard_link);
    list_remove(link);
    if (queue_discard(&queue->queue))
        queue_release(&queue->queue);
    else
        list_append(&worker->discards, link);
    return list_empty(&worker->discards);
}

void worker_delete_queue(struct worker *worker, struct catalog_queue *queue)
{
    struct losses losses = {0};

    if (queue->queue.log)
        log_drop(worker, CATALOG_QUEUE_DROP, queue->queue.id);
    catalog_drop_queue(&worker->catalog, queue, lost, &losses);
    drop_unbound(worker, &losses);
}

int broker_delete_queue(struct client *client, struct request *request, struct slice name,
                        bool if_unused, bool if_empty)
{
    struct worker *worker = client->worker;
    struct failure *failure = &request->failure;
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    if (!vhost_queue(client->vhost, name))
        return request_end(request); /* deleting what is not there is done */
    if (client_find_queue(client, name, &queue, failure) != 0 ||
        (!queue->hidden && client_may(client, ACCESS_CONFIGURE, "queue", name, failure) != 0))
        return request_end(request);
    if (if_unused && queue->queue.consumers > 0) {
        fail(failure, E_IN_USE, "queue '%s' in vhost '%s' in use", queue->name, queue->vhost->name);
    } else if (if_empty && queue->queue.ready > 0) {
        fail(failure, E_IN_USE, "queue '%s' in vhost '%s' not empty", queue->name,
             queue->vhost->name);
    } else {
        bool logged = queue->queue.log;
        fill_counts(queue, request);
        worker_delete_queue(worker, queue);
        request->wait_block = logged ? log_block_last(worker->log) : 0;
    }
    return request_end(request);
}

/* ---- bindings ---- */

static int find_binding_ends(struct client *client, const struct binding_spec *spec,
                             struct catalog_exchange **source, struct route_target *target,
                             bool *durable, struct failure *failure)
{
    *source = vhost_exchange(client->vhost, spec->source);
    if (spec->to_exchange) {
        struct catalog_exchange *exchange = vhost_exchange(client->vhost, spec->destination);
        if (!exchange)
            return no_exchange(client, spec->destination, failure);
        *target = (struct route_target){exchange->id, exchange->route, NULL};
        *durable = exchange->flags & CATALOG_DURABLE;
    } else {
        struct catalog_queue *queue;
        int result = client_find_queue(client, spec->destination, &queue, failure);
        if (result != 0)
            return result;
        *target = (struct route_target){queue->queue.id, NULL, queue};
        *durable = queue->queue.log != NULL;
    }
    if (!*source)
        return no_exchange(client, spec->source, failure);
    *durable = *durable && ((*source)->flags & CATALOG_DURABLE);
    return 0;
}

static int may_bind(struct client *client, const struct binding_spec *spec, struct failure *failure)
{
    const char *kind = spec->to_exchange ? "exchange" : "queue";

    if (spec->source.size == 0 || (spec->to_exchange && spec->destination.size == 0))
        return fail(failure, E_DENIED, "operation not permitted on the default exchange");
    int result = client_may(client, ACCESS_WRITE, kind, spec->destination, failure);
    return result != 0 ? result
                       : client_may(client, ACCESS_READ, "exchange", spec->source, failure);
}

static int record_binding(struct worker *worker, enum catalog_event kind,
                          const struct catalog_exchange *source, const struct route_target *target,
                          const struct binding_spec *spec, struct failure *failure)
{
    uint8_t *bytes = memory_new(EVENT_BYTES_MAX);
    struct writer w = writer_of(bytes, EVENT_BYTES_MAX);

    catalog_encode_binding(&w, kind, source->id, target->id, spec->key, spec->arguments);
    int result = catalog_record(worker, &w, failure);
    free(bytes);
    return result;
}

int broker_bind(struct client *client, struct request *request, const struct binding_spec *spec)
{
    struct worker *worker = client->worker;
    struct failure *failure = &request->failure;
    struct catalog_exchange *source;
    struct route_target target;
    bool durable = false;

    request_begin(client, request);
    if (may_bind(client, spec, failure) != 0 ||
        find_binding_ends(client, spec, &source, &target, &durable, failure) != 0 ||
        route_check(source->type, spec->key, spec->arguments, failure) != 0)
        return request_end(request);
    if (durable)
        failure->code = record_binding(worker, CATALOG_BINDING, source, &target, spec, failure);
    else
        catalog_bind(&worker->catalog, source, target, spec->key, spec->arguments);
    request->wait_block = durable ? log_block_last(worker->log) : 0;
    return request_end(request);
}

int broker_unbind(struct client *client, struct request *request, const struct binding_spec *spec)
{
    struct worker *worker = client->worker;
    struct failure *failure = &request->failure;
    struct catalog_exchange *source;
    struct route_target target;
    struct losses losses = {0};
    bool durable = false;

    request_begin(client, request);
    if (may_bind(client, spec, failure) != 0)
        return request_end(request);
    if (find_binding_ends(client, spec, &source, &target, &durable, failure) != 0) {
        /* RabbitMQ: what is not there need not be unbound */
        if (failure->code == E_NOT_FOUND)
            failure->code = 0;
        return request_end(request);
    }
    if (durable)
        failure->code =
            record_binding(worker, CATALOG_BINDING_DROP, source, &target, spec, failure);
    else
        catalog_unbind(&worker->catalog, source, target, spec->key, spec->arguments);
    request->wait_block = durable ? log_block_last(worker->log) : 0;
    lost(&losses, source->id);
    drop_unbound(worker, &losses);
    return request_end(request);
}

/* ---- virtual hosts ---- */

static int create_exchange_predeclared(struct worker *worker, struct vhost *vhost, const char *name,
                                       enum exchange_type type, uint8_t flags,
                                       struct failure *failure)
{
    uint8_t bytes[512];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_exchange(&w, worker->catalog.next_id++, vhost->id,
                            (uint8_t)(flags | CATALOG_DURABLE | CATALOG_PREDECLARED), type,
                            slice_text(name), slice_of(NULL, 0));
    return catalog_record(worker, &w, failure);
}

int worker_create_vhost(struct worker *worker, struct slice name, struct failure *failure)
{
    static const struct {
        const char *name;
        enum exchange_type type;
        uint8_t flags;
    } predeclared[] = {
        {"", EXCHANGE_DIRECT, 0},
        {"amq.direct", EXCHANGE_DIRECT, 0},
        {"amq.fanout", EXCHANGE_FANOUT, 0},
        {"amq.topic", EXCHANGE_TOPIC, 0},
        {"amq.headers", EXCHANGE_HEADERS, 0},
        {"amq.match", EXCHANGE_HEADERS, 0},
        {"amq.rabbitmq.trace", EXCHANGE_TOPIC, CATALOG_INTERNAL},
    };
    uint8_t bytes[512];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_vhost(&w, worker->catalog.next_id++, name);
    int result = catalog_record(worker, &w, failure);
    struct vhost *vhost = catalog_vhost(&worker->catalog, name);
    for (size_t i = 0; result == 0 && i < sizeof predeclared / sizeof predeclared[0]; i++)
        result = create_exchange_predeclared(worker, vhost, predeclared[i].name,
                                             predeclared[i].type, predeclared[i].flags, failure);
    return result;
}
