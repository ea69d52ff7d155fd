/* Consuming: subscriptions, single gets, settling, purging. */
#include "broker/broker_private.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- subscriptions ---- */

static struct subscription *subscription_of(struct consumer *consumer)
{
    return CONTAINER_OF(consumer, struct subscription, consumer);
}

static int may_subscribe(struct client *client, const struct subscribe_spec *spec,
                         struct catalog_queue **queue, struct consumer_settings *settings,
                         struct failure *failure)
{
    int result = client_find_queue(client, spec->queue, queue, failure);
    if (result == 0 && !(*queue)->hidden)
        result = client_may(client, ACCESS_READ, "queue", spec->queue, failure);
    if (result == 0)
        result = consumer_arguments_check(spec->arguments, (*queue)->settings.type, (*queue)->name,
                                          (*queue)->vhost->name, settings, failure);
    if (result != 0)
        return result;
    if ((*queue)->exclusive_consumer || (spec->exclusive && (*queue)->queue.consumers > 0))
        return fail(failure, E_DENIED, "queue '%s' in vhost '%s' in exclusive use", (*queue)->name,
                    (*queue)->vhost->name);
    return 0;
}

int broker_subscribe(struct client *client, struct request *request,
                     const struct subscribe_spec *spec)
{
    struct catalog_queue *queue;
    struct consumer_settings settings;

    request_begin(client, request);
    if (may_subscribe(client, spec, &queue, &settings, &request->failure) != 0)
        return request_end(request);
    struct subscription *subscription = memory_new(sizeof *subscription);
    subscription->client = client;
    subscription->cookie = spec->cookie;
    subscription->tag = memory_text(spec->tag);
    subscription->exclusive = spec->exclusive;
    list_init(&subscription->cancel_link);
    list_append(&client->subscriptions, &subscription->client_link);
    list_append(&queue->subscriptions, &subscription->queue_link);
    subscription->consumer.queue = &queue->queue;
    subscription->consumer.owner = subscription;
    subscription->consumer.priority = settings.priority > INT32_MAX   ? INT32_MAX
                                      : settings.priority < INT32_MIN ? INT32_MIN
                                                                      : (int32_t)settings.priority;
    subscription->consumer.credit_messages = spec->credit_messages;
    subscription->consumer.credit_bytes =
        spec->credit_bytes > INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)spec->credit_bytes;
    subscription->consumer.settles_itself = spec->settles_itself;
    if (spec->exclusive)
        queue->exclusive_consumer = &subscription->consumer;
    queue->had_consumers = true;
    queue_used(queue);
    consumer_add(&subscription->consumer);
    request->result.consumer = &subscription->consumer;
    return request_end(request);
}

/* Out of the queue. Leaves the subscription in its client's list. */
static void detach(struct subscription *subscription)
{
    struct queue *queue = subscription->consumer.queue;
    struct catalog_queue *named = catalog_queue_of(queue);

    list_remove(&subscription->queue_link);
    if (named->exclusive_consumer == &subscription->consumer)
        named->exclusive_consumer = NULL;
    queue_used(named);
    if (consumer_remove(&subscription->consumer))
        catalog_free_queue(named);
    subscription->consumer.queue = NULL;
}

void subscription_end(struct subscription *subscription)
{
    struct worker *worker = subscription->client->worker;

    detach(subscription);
    subscription->ended = true;
    list_append(&worker->cancellations, &subscription->cancel_link);
    loop_defer(worker->loop, &worker->tell, LOOP_DISPATCH);
}

void subscription_free(struct subscription *subscription)
{
    struct worker *worker = subscription->client->worker;
    struct catalog_queue *unused = NULL;

    if (!subscription->ended) {
        struct catalog_queue *queue = catalog_queue_of(subscription->consumer.queue);
        detach(subscription);
        if ((queue->flags & CATALOG_AUTO_DELETE) && queue->queue.consumers == 0)
            unused = queue;
    }
    list_remove(&subscription->client_link);
    list_remove(&subscription->cancel_link);
    free(subscription->tag);
    free(subscription);
    if (unused)
        worker_delete_queue(worker, unused);
}

void subscription_abandon(struct subscription *subscription)
{
    list_remove(&subscription->client_link);
    free(subscription->tag);
    free(subscription);
}

void broker_unsubscribe(struct consumer *consumer)
{
    subscription_free(subscription_of(consumer));
}

void broker_credit(struct consumer *consumer, uint32_t messages, uint64_t bytes)
{
    if (!subscription_of(consumer)->ended)
        consumer_credit(consumer, messages, bytes);
}

void broker_resume(struct consumer *consumer)
{
    if (!subscription_of(consumer)->ended)
        consumer_resume(consumer);
}

/* ---- deliveries ---- */

static int deliver(void *context, struct consumer *consumer, const struct queue_item *item)
{
    struct worker *worker = context;
    struct subscription *subscription = subscription_of(consumer);
    struct client *client = subscription->client;
    struct delivery delivery = {
        .message = item->message,
        .lease = {consumer->queue, item->sequence},
        .redelivered = item->redelivered,
        .count = item->count,
    };

    int result =
        client->options.events->deliver(client->options.session, subscription->cookie, &delivery);
    if (result == 0) {
        worker->delivered++;
        if (!consumer->settles_itself)
            queue_ref(consumer->queue);
    }
    return result;
}

/* ---- single gets ---- */

/* Fills in the result of a get; false when it has to wait. */
static bool get_now(struct request *request, struct catalog_queue *queue)
{
    struct worker *worker = request->client->worker;
    bool settles_itself = request->internal != NULL;
    struct queue_item item;

    int result = queue_take(&queue->queue, &item);
    if (result == E_AGAIN)
        return false;
    memset(&request->result, 0, sizeof request->result);
    if (result == 0) {
        request->result.get.delivery = (struct delivery){
            .message = item.message,
            .lease = {&queue->queue, item.sequence},
            .redelivered = item.redelivered,
            .count = item.count,
        };
        worker->delivered++;
        if (settles_itself)
            queue_settle(&queue->queue, item.sequence, SETTLE_DELIVERED);
        else
            queue_ref(&queue->queue);
    }
    request->result.get.ready = queue->queue.ready;
    return true;
}

void get_give_back(struct request *request)
{
    struct delivery *delivery = &request->result.get.delivery;

    if (request->failure.code != 0 || !delivery->message)
        return;
    message_unref(delivery->message);
    if (request->internal) /* settled itself */
        return;
    queue_return(delivery->lease.queue, delivery->lease.sequence, false, false);
    queue_release(delivery->lease.queue);
}

int broker_get(struct client *client, struct request *request, struct slice name,
               bool settles_itself)
{
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    request->is_get = true;
    request->internal = settles_itself ? client : NULL;
    if (client_find_queue(client, name, &queue, &request->failure) != 0 ||
        client_may(client, ACCESS_READ, "queue", name, &request->failure) != 0)
        return request_end(request);
    queue_used(queue);
    if (list_empty(&queue->getters) && get_now(request, queue))
        return request_end(request);
    list_append(&queue->getters, &request->link);
    queue->queue.getters_wait = true;
    return request_park(request);
}

static void get(void *context, struct queue *queue)
{
    struct catalog_queue *named = catalog_queue_of(queue);

    (void)context;
    for (struct list *link; (link = list_first(&named->getters));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        if (!get_now(request, named)) {
            queue->getters_wait = true;
            return;
        }
        request_complete(request);
    }
}

void getters_fail(struct catalog_queue *queue)
{
    for (struct list *link; (link = list_first(&queue->getters));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        fail(&request->failure, E_NOT_FOUND, "no queue '%s' in vhost '%s'", queue->name,
             queue->vhost->name);
        request_complete(request);
    }
}

const struct queue_events worker_queue_events = {.deliver = deliver, .get = get};

/* ---- settling ---- */

static void settle_one(struct queue *queue, uint64_t sequence, enum outcome outcome)
{
    switch (outcome) {
    case OUTCOME_ACCEPT:
        queue_settle(queue, sequence, SETTLE_ACCEPTED);
        break;
    case OUTCOME_REJECT:
        queue_settle(queue, sequence, SETTLE_REJECTED);
        break;
    case OUTCOME_RETURN:
        queue_return(queue, sequence, true, false);
        break;
    case OUTCOME_RETURN_COUNTED:
        queue_return(queue, sequence, true, true);
        break;
    case OUTCOME_RETURN_UNSEEN:
        queue_return(queue, sequence, false, false);
        break;
    }
}

void broker_settle(struct client *client, const struct lease *leases, size_t count,
                   enum outcome outcome)
{
    (void)client;
    ASSERT(count <= SETTLE_SLICE);
    for (size_t i = 0; i < count; i++) {
        settle_one(leases[i].queue, leases[i].sequence, outcome);
        queue_release(leases[i].queue);
    }
}

/* ---- purging ---- */

struct purge {
    struct queue *queue;
    uint64_t end, position, removed;
};

bool purge_slice(struct request *request)
{
    struct purge *purge = request->internal;
    struct worker *worker = request->client->worker;

    purge->removed += queue_purge(purge->queue, purge->end, &purge->position, SETTLE_PURGED);
    if (!purge->queue->closed && purge->position < purge->end)
        return false;
    request->result.queue.counts.ready = purge->removed;
    if (purge->queue->log)
        log_commit(worker->log);
    queue_release(purge->queue);
    free(purge);
    request->internal = NULL;
    return true;
}

void purge_abandon(struct request *request)
{
    free(request->internal);
}

int broker_purge_queue(struct client *client, struct request *request, struct slice name)
{
    struct worker *worker = client->worker;
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    if (client_find_queue(client, name, &queue, &request->failure) != 0 ||
        client_may(client, ACCESS_READ, "queue", name, &request->failure) != 0)
        return request_end(request);
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
    struct purge *purge = memory_new(sizeof *purge);
    purge->queue = &queue->queue;
    purge->end = queue->queue.next;
    queue_ref(&queue->queue);
    request->internal = purge;
    if (purge_slice(request))
        return request_end(request);
    list_append(&worker->jobs, &request->link);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
    return request_park(request);
}
