/* Exchanges, queues and bindings: declaring, deleting, finding. */
#include "broker/change.h"
#include "broker/move.h"
#include "broker/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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

/* ---- exchanges ---- */

/* Each exchange delays messages, so this one is what its argument says, under another name. */
#define DELAYED_TYPE "x-delayed-message"

static const char *type_name(enum exchange_type type, bool is_delayed)
{
    return is_delayed ? DELAYED_TYPE : exchange_type_name(type);
}

static int exchange_matches(const struct catalog_exchange *e, const struct exchange_spec *spec,
                            enum exchange_type type, bool is_delayed, struct failure *failure)
{
    bool was_delayed = e->flags & CATALOG_DELAYED;
    bool durable = e->flags & CATALOG_DURABLE, auto_delete = e->flags & CATALOG_AUTO_DELETE,
         internal = e->flags & CATALOG_INTERNAL;

    if (is_delayed != was_delayed || (!is_delayed && type != e->type))
        return mismatch(failure, "type", "exchange", e->name, e->vhost, type_name(type, is_delayed),
                        type_name(e->type, was_delayed));
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

static int may_create_exchange(struct client *client, const struct exchange_spec *spec,
                               struct failure *failure)
{
    struct slice alternate;

    if (!catalog_name_is_valid(spec->name))
        return refuse_name("exchange", spec->name, failure);
    if (is_reserved(spec->name))
        return refuse_reserved("exchange", spec->name, failure);
    char *name = memory_text(spec->name);
    int result = exchange_arguments_check(spec->arguments, name, client->vhost->name, failure);
    free(name);
    if (result == 0 && fields_text(spec->arguments, "alternate-exchange", &alternate)) {
        result = client_may(client, ACCESS_READ, "exchange", spec->name, failure);
        if (result == 0)
            result = client_may(client, ACCESS_WRITE, "exchange", alternate, failure);
    }
    return result;
}

/* What was asked for, kept for looking again when somebody else was faster. */
struct exchange_declaration {
    struct exchange_spec spec;
    enum exchange_type type; /* of one that is delayed: if it is to be made */
    bool is_delayed;
};

static int declare_exchange(struct request *request, const struct exchange_declaration *asked);

static int exchange_declared(struct request *request)
{
    struct exchange_declaration *asked = request->internal;
    int outcome = DONE;

    request->internal = NULL;
    if (request->failure.code == E_AGAIN) {
        request->failure.code = 0;
        outcome = declare_exchange(request, asked);
    }
    free(asked);
    return outcome;
}

static int create_exchange(struct request *request, const struct exchange_declaration *asked)
{
    const struct exchange_spec *spec = &asked->spec;
    uint8_t *bytes = memory_new(ORDER_BYTES_MAX);
    struct writer w = writer_of(bytes, ORDER_BYTES_MAX);

    write_u8(&w, 0);
    catalog_encode_exchange(
        &w,
        &(struct exchange_event){.vhost = request->client->vhost->id,
                                 .flags = (uint8_t)((spec->durable ? CATALOG_DURABLE : 0) |
                                                    (spec->auto_delete ? CATALOG_AUTO_DELETE : 0) |
                                                    (spec->internal ? CATALOG_INTERNAL : 0) |
                                                    (asked->is_delayed ? CATALOG_DELAYED : 0)),
                                 .type = asked->type,
                                 .name = spec->name,
                                 .arguments = spec->arguments});
    struct exchange_declaration *copy = memory_new(sizeof *copy);
    *copy = *asked;
    request->internal = copy;
    request->next = exchange_declared;
    int outcome = change_order(request, &w);
    free(bytes);
    return outcome;
}

static int unknown_type(struct slice type, struct failure *failure)
{
    return fail(failure, E_UNSUPPORTED, "invalid exchange type '%.*s'", SLICE_ARGS(type));
}

/* As which one that delays messages routes them. */
static int find_delayed_type(struct exchange_declaration *asked, struct failure *failure)
{
    struct slice type;

    if (!asked->is_delayed)
        return 0;
    if (!fields_text(asked->spec.arguments, "x-delayed-type", &type))
        return fail(failure, E_INVALID,
                    "Invalid argument, 'x-delayed-type' must be an existing exchange type");
    if (slice_is(type, DELAYED_TYPE))
        return fail(failure, E_INVALID,
                    "Invalid argument, '" DELAYED_TYPE "' can't be used for 'x-delayed-type'");
    return exchange_type_parse(type, &asked->type) ? 0 : unknown_type(type, failure);
}

/* To be called in place of request_end(), or from `next`. */
static int declare_exchange(struct request *request, const struct exchange_declaration *asked)
{
    struct client *client = request->client;
    const struct catalog_exchange *exchange = vhost_exchange(client->vhost, asked->spec.name);
    struct exchange_declaration to_make = *asked;
    struct failure *failure = &request->failure;

    if (client_may(client, ACCESS_CONFIGURE, "exchange", asked->spec.name, failure) != 0)
        ;
    else if (exchange)
        failure->code =
            exchange_matches(exchange, &asked->spec, asked->type, asked->is_delayed, failure);
    else if (may_create_exchange(client, &asked->spec, failure) == 0 &&
             find_delayed_type(&to_make, failure) == 0)
        return create_exchange(request, &to_make);
    if (failure->code == 0)
        change_wait(request, exchange->version, exchange->flags & CATALOG_DURABLE);
    return DONE;
}

int broker_declare_exchange(struct client *client, struct request *request,
                            const struct exchange_spec *spec)
{
    struct failure *failure = &request->failure;
    struct exchange_declaration asked = {.spec = *spec,
                                         .is_delayed = slice_is(spec->type, DELAYED_TYPE)};

    request_begin(client, request);
    if (spec->passive) {
        if (!vhost_exchange(client->vhost, spec->name))
            no_exchange(client, spec->name, failure);
    } else if (spec->name.size == 0) {
        fail(failure, E_DENIED, "operation not permitted on the default exchange");
    } else if (!asked.is_delayed && !exchange_type_parse(spec->type, &asked.type)) {
        unknown_type(spec->type, failure);
    } else if (declare_exchange(request, &asked) == PENDING) {
        return PENDING;
    }
    return request_end(request);
}

int broker_delete_exchange(struct client *client, struct request *request, struct slice name,
                           bool if_unused)
{
    const struct catalog_exchange *exchange = vhost_exchange(client->vhost, name);
    struct failure *failure = &request->failure;
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);

    request_begin(client, request);
    if (name.size == 0)
        fail(failure, E_DENIED, "operation not permitted on the default exchange");
    else if (is_reserved(name) && exchange && (exchange->flags & CATALOG_PREDECLARED))
        refuse_reserved("exchange", name, failure);
    else if (client_may(client, ACCESS_CONFIGURE, "exchange", name, failure) == 0 && exchange) {
        write_u8(&w, if_unused ? ORDER_IF_UNUSED : 0);
        catalog_encode_drop(&w, CATALOG_EXCHANGE_DROP, exchange->id);
        if (change_order(request, &w) == PENDING)
            return PENDING;
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

static bool is_anothers(const struct catalog_queue *queue, const struct client *client)
{
    return queue->owner.client != 0 &&
           (queue->owner.client != client->id || queue->owner.worker != client->worker->index);
}

int client_find_queue(struct client *client, struct slice name, struct catalog_queue **queue,
                      struct failure *failure)
{
    *queue = vhost_queue(client->vhost, name);
    if (!*queue)
        return fail(failure, E_NOT_FOUND, "no queue '%.*s' in vhost '%s'", SLICE_ARGS(name),
                    client->vhost->name);
    return is_anothers(*queue, client) ? locked(*queue, failure) : 0;
}

static void deleted_meanwhile(struct request *request, const char *name)
{
    fail(&request->failure, E_NOT_FOUND, "queue '%s' has been deleted meanwhile", name);
}

int counts_here(struct request *request, struct hosted *hosted)
{
    hosted_used(hosted);
    request->result.queue.counts = hosted_counts(hosted);
    if (hosted->has_expired)
        deleted_meanwhile(request, hosted->named->name);
    return DONE;
}

/* ---- what the catalog tells ---- */

void queue_added(void *context, struct catalog_queue *queue)
{
    struct worker *worker = context;

    queue->place = queue->home = worker_place(worker, queue->shard);
    if (!queue->place)
        return; /* the shard is missing; it may have moved since, else the start fails */
    if (queue->place->is_here && shard_of(queue->place)->log)
        hosted_new(shard_of(queue->place), queue);
    if (queue->owner.client == 0 || queue->owner.worker != worker->index)
        return;
    struct client *owner = worker_client(worker, queue->owner.client);
    if (owner)
        list_append(&owner->queues, &queue->owner_link);
    else /* it has closed while others decided about its queue */
        worker_delete_queue(worker, queue);
}

void queue_dropped(void *context, struct catalog_queue *queue)
{
    (void)context;
    list_remove(&queue->owner_link);
    if (queue->move)
        move_dropped(queue->move);
    if (queue->hosted)
        hosted_drop(queue->hosted);
}

/* ---- queues ---- */

static int queue_matches(const struct catalog_queue *queue, const struct queue_spec *spec,
                         struct failure *failure)
{
    bool durable = queue->flags & CATALOG_DURABLE, auto_delete = queue->flags & CATALOG_AUTO_DELETE;

    if (spec->exclusive != ((queue->flags & CATALOG_EXCLUSIVE) != 0))
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
static void choose_name(struct client *client, char *name, size_t size)
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

static int may_create_queue(struct client *client, const struct queue_spec *spec, struct slice name,
                            struct failure *failure)
{
    struct queue_settings settings;

    if (!catalog_name_is_valid(name))
        return refuse_name("queue", name, failure);
    if (is_reserved(name) && spec->name.size > 0 && !spec->hidden)
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
    return result;
}

static void count_next(struct request *request, const struct catalog_queue *queue);
static int declare_queue(struct request *request, const struct queue_spec *spec);

static int queue_declared(struct request *request)
{
    struct client *client = request->client;
    struct queue_spec *spec = request->internal;
    int outcome = DONE;

    request->internal = NULL;
    if (request->failure.code == E_AGAIN) {
        request->failure.code = 0;
        outcome = declare_queue(request, spec);
    } else if (request->failure.code == 0 && !client->closed) {
        const struct catalog_queue *queue =
            vhost_queue(client->vhost, slice_text(request->result.queue.name));
        if (queue)
            count_next(request, queue);
        else
            deleted_meanwhile(request, request->result.queue.name);
    }
    free(spec);
    return outcome;
}

static int create_queue(struct request *request, const struct queue_spec *spec)
{
    struct client *client = request->client;
    char *name = request->result.queue.name;

    if (spec->name.size == 0)
        choose_name(client, name, sizeof request->result.queue.name);
    if (may_create_queue(client, spec, spec->name.size == 0 ? slice_text(name) : spec->name,
                         &request->failure) != 0)
        return DONE;
    if (spec->name.size > 0)
        snprintf(name, sizeof request->result.queue.name, "%.*s", SLICE_ARGS(spec->name));
    struct queue_event event = {
        .vhost = client->vhost->id,
        .shard = worker_new_queue_shard(client->worker, spec->exclusive),
        .flags = (uint8_t)((spec->durable ? CATALOG_DURABLE : 0) |
                           (spec->auto_delete ? CATALOG_AUTO_DELETE : 0) |
                           (spec->exclusive ? CATALOG_EXCLUSIVE : 0) |
                           (spec->hidden ? CATALOG_HIDDEN : 0)),
        .name = slice_text(name),
        .arguments = spec->arguments,
    };
    if (spec->exclusive)
        event.owner = client_identity(client);
    struct queue_spec *copy = memory_new(sizeof *copy);
    *copy = *spec;
    request->internal = copy;
    request->next = queue_declared;
    uint8_t *bytes = memory_new(ORDER_BYTES_MAX);
    struct writer w = writer_of(bytes, ORDER_BYTES_MAX);
    write_u8(&w, 0);
    catalog_encode_queue(&w, &event);
    int outcome = change_order(request, &w);
    free(bytes);
    return outcome;
}

static int count_queue(struct request *request)
{
    const struct client *client = request->client;

    if (request->failure.code != 0 || client->closed)
        return DONE;
    struct catalog_queue *queue =
        vhost_queue(client->vhost, slice_text(request->result.queue.name));
    if (!queue) {
        deleted_meanwhile(request, request->result.queue.name);
        return DONE;
    }
    if (queue->move) {
        move_wait(request, queue, count_queue);
        return DONE;
    }
    return queue->hosted ? counts_here(request, queue->hosted) : peer_counts(request, queue);
}

/* The request wants the queue's counts, as soon as all workers know the queue. */
static void count_next(struct request *request, const struct catalog_queue *queue)
{
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
    change_wait(request, queue->version, catalog_is_logged(queue->flags));
    request->next = count_queue;
}

static int declare_queue(struct request *request, const struct queue_spec *spec)
{
    struct client *client = request->client;
    struct failure *failure = &request->failure;
    struct catalog_queue *queue = vhost_queue(client->vhost, spec->name);

    if (spec->passive) {
        failure->code = client_find_queue(client, spec->name, &queue, failure);
    } else if (!queue) {
        return create_queue(request, spec);
    } else if (client_may(client, ACCESS_CONFIGURE, "queue", spec->name, failure) == 0) {
        if (is_anothers(queue, client))
            locked(queue, failure);
        else
            queue_matches(queue, spec, failure);
    }
    if (failure->code == 0)
        count_next(request, queue);
    return DONE;
}

int broker_declare_queue(struct client *client, struct request *request,
                         const struct queue_spec *spec)
{
    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    return declare_queue(request, spec) == DONE ? request_end(request) : PENDING;
}

int delete_here(struct request *request, struct hosted *hosted, bool if_unused, bool if_empty)
{
    const struct catalog_queue *named = hosted->named;
    struct failure *failure = &request->failure;
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);

    request->result.queue.counts = hosted_counts(hosted);
    if (if_unused && hosted->queue.consumers + hosted->returning > 0)
        fail(failure, E_IN_USE, "queue '%s' in vhost '%s' in use", named->name, named->vhost->name);
    else if (if_empty && hosted->queue.ready + hosted->queue.delayed > 0)
        fail(failure, E_IN_USE, "queue '%s' in vhost '%s' not empty", named->name,
             named->vhost->name);
    if (failure->code != 0)
        return DONE;
    write_u8(&w, 0);
    catalog_encode_drop(&w, CATALOG_QUEUE_DROP, named->id);
    return change_order(request, &w);
}

struct deletion {
    uint64_t queue;
    bool if_unused, if_empty;
};

static int delete_again(struct request *request);

static int delete_queue(struct request *request, struct catalog_queue *queue, bool if_unused,
                        bool if_empty)
{
    if (queue->move) {
        struct deletion *deletion = memory_new(sizeof *deletion);
        *deletion = (struct deletion){queue->id, if_unused, if_empty};
        request->internal = deletion;
        move_wait(request, queue, delete_again);
        return DONE;
    }
    return queue->hosted ? delete_here(request, queue->hosted, if_unused, if_empty)
                         : peer_delete(request, queue, if_unused, if_empty);
}

static int delete_again(struct request *request)
{
    const struct client *client = request->client;
    struct deletion deletion = *(struct deletion *)request->internal;
    struct catalog_queue *queue = catalog_queue_by_id(&client->worker->catalog, deletion.queue);

    free(request->internal);
    request->internal = NULL;
    if (request->failure.code != 0 || client->closed || !queue)
        return DONE; /* deleting what is not there is done */
    return delete_queue(request, queue, deletion.if_unused, deletion.if_empty);
}

int broker_delete_queue(struct client *client, struct request *request, struct slice name,
                        bool if_unused, bool if_empty)
{
    struct failure *failure = &request->failure;
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    if (!vhost_queue(client->vhost, name))
        return request_end(request); /* deleting what is not there is done */
    if (client_find_queue(client, name, &queue, failure) != 0 ||
        (!(queue->flags & CATALOG_HIDDEN) &&
         client_may(client, ACCESS_CONFIGURE, "queue", name, failure) != 0))
        return request_end(request);
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
    return delete_queue(request, queue, if_unused, if_empty) == DONE ? request_end(request)
                                                                     : PENDING;
}

/* ---- bindings ---- */

static int find_binding_ends(struct client *client, const struct binding_spec *spec,
                             struct catalog_exchange **source, uint64_t *target,
                             struct failure *failure)
{
    *source = vhost_exchange(client->vhost, spec->source);
    if (!*source)
        return no_exchange(client, spec->source, failure);
    if (spec->to_exchange) {
        const struct catalog_exchange *exchange = vhost_exchange(client->vhost, spec->destination);
        if (!exchange)
            return no_exchange(client, spec->destination, failure);
        *target = exchange->id;
    } else {
        struct catalog_queue *queue;
        int result = client_find_queue(client, spec->destination, &queue, failure);
        if (result != 0)
            return result;
        *target = queue->id;
    }
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

static int change_binding(struct request *request, enum catalog_event kind, uint64_t source,
                          uint64_t target, const struct binding_spec *spec)
{
    uint8_t *bytes = memory_new(ORDER_BYTES_MAX);
    struct writer w = writer_of(bytes, ORDER_BYTES_MAX);

    write_u8(&w, 0);
    catalog_encode_binding(&w, kind, source, target, spec->key, spec->arguments);
    int outcome = change_order(request, &w);
    free(bytes);
    return outcome;
}

int broker_bind(struct client *client, struct request *request, const struct binding_spec *spec)
{
    struct failure *failure = &request->failure;
    struct catalog_exchange *source;
    uint64_t target;

    request_begin(client, request);
    if (may_bind(client, spec, failure) == 0 &&
        find_binding_ends(client, spec, &source, &target, failure) == 0 &&
        route_check(source->type, spec->key, spec->arguments, failure) == 0 &&
        change_binding(request, CATALOG_BINDING, source->id, target, spec) == PENDING)
        return PENDING;
    return request_end(request);
}

/* RabbitMQ: what is not there need not be unbound. */
static int unbound(struct request *request)
{
    if (request->failure.code == E_NOT_FOUND)
        request->failure.code = 0;
    return DONE;
}

int broker_unbind(struct client *client, struct request *request, const struct binding_spec *spec)
{
    struct failure *failure = &request->failure;
    struct catalog_exchange *source;
    uint64_t target;

    request_begin(client, request);
    if (may_bind(client, spec, failure) != 0)
        return request_end(request);
    request->next = unbound;
    if (find_binding_ends(client, spec, &source, &target, failure) == 0 &&
        change_binding(request, CATALOG_BINDING_DROP, source->id, target, spec) == PENDING)
        return PENDING;
    return request_end(request);
}

/* ---- virtual hosts ---- */

static int create_exchange_predeclared(struct worker *worker, struct vhost *vhost, const char *name,
                                       enum exchange_type type, uint8_t flags,
                                       struct failure *failure)
{
    uint8_t bytes[512];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_exchange(
        &w,
        &(struct exchange_event){.id = worker->catalog.next_id,
                                 .vhost = vhost->id,
                                 .flags = (uint8_t)(flags | CATALOG_DURABLE | CATALOG_PREDECLARED),
                                 .type = type,
                                 .name = slice_text(name)});
    return change_make(worker, &w, true, failure);
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

    catalog_encode_vhost(&w, worker->catalog.next_id, name);
    int result = change_make(worker, &w, true, failure);
    struct vhost *vhost = catalog_vhost(&worker->catalog, name);
    for (size_t i = 0; result == 0 && i < sizeof predeclared / sizeof predeclared[0]; i++)
        result = create_exchange_predeclared(worker, vhost, predeclared[i].name,
                                             predeclared[i].type, predeclared[i].flags, failure);
    return result;
}
