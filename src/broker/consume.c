/* Consuming: subscriptions, single gets, settling, purging. */
#include "broker/move.h"
#include "broker/peer.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- subscriptions ---- */

static struct subscription *subscription_of(struct consumer *consumer)
{
    return CONTAINER_OF(consumer, struct subscription, consumer);
}

struct subscription *subscription_new(struct client *client, const struct subscribe_spec *spec,
                                      int64_t priority)
{
    struct subscription *subscription = memory_new(sizeof *subscription);
    struct consumer *consumer = &subscription->consumer;

    subscription->client = client;
    subscription->cookie = spec->cookie;
    subscription->tag = memory_text(spec->tag);
    subscription->exclusive = spec->exclusive;
    list_init(&consumer->link);
    list_init(&subscription->queue_link);
    list_init(&subscription->cancel_link);
    list_init(&subscription->held);
    task_init(&subscription->resume, peer_resume_run);
    list_append(&client->subscriptions, &subscription->client_link);
    consumer->owner = subscription;
    consumer->priority = priority > INT32_MAX   ? INT32_MAX
                         : priority < INT32_MIN ? INT32_MIN
                                                : (int32_t)priority;
    consumer->credit_messages = spec->credit_messages;
    consumer->credit_bytes =
        spec->credit_bytes > INT64_MAX / 4 ? INT64_MAX / 4 : (int64_t)spec->credit_bytes;
    consumer->settles_itself = spec->settles_itself;
    return subscription;
}

static int no_queue(const struct catalog_queue *named, struct failure *failure)
{
    return fail(failure, E_NOT_FOUND, "no queue '%s' in vhost '%s'", named->name,
                named->vhost->name);
}

static void attach(struct hosted *hosted, struct subscription *subscription)
{
    list_append(&hosted->subscriptions, &subscription->queue_link);
    subscription->consumer.queue = &hosted->queue;
    if (subscription->exclusive)
        hosted->exclusive_consumer = &subscription->consumer;
    hosted_used(hosted);
    consumer_add(&subscription->consumer);
}

int subscribe_here(struct hosted *hosted, struct subscription *subscription,
                   struct failure *failure)
{
    const struct catalog_queue *named = hosted->named;

    if (hosted->queue.closed || hosted->has_expired)
        return no_queue(named, failure);
    if (hosted->exclusive_consumer || hosted->returning_exclusive ||
        (subscription->exclusive && (named->settings.single_active_consumer ||
                                     hosted->queue.consumers + hosted->returning > 0)))
        return fail(failure, E_DENIED, "queue '%s' in vhost '%s' in exclusive use", named->name,
                    named->vhost->name);
    attach(hosted, subscription);
    return 0;
}

static int may_subscribe(struct client *client, const struct subscribe_spec *spec,
                         struct catalog_queue **queue, struct consumer_settings *settings,
                         struct failure *failure)
{
    int result = client_find_queue(client, spec->queue, queue, failure);
    if (result == 0 && !((*queue)->flags & CATALOG_HIDDEN))
        result = client_may(client, ACCESS_READ, "queue", spec->queue, failure);
    if (result == 0)
        result = consumer_arguments_check(spec->arguments, (*queue)->settings.type, (*queue)->name,
                                          (*queue)->vhost->name, settings, failure);
    return result;
}

/* A subscription that waits until its queue has come to its place. */
struct subscribing {
    struct subscription *subscription;
    uint64_t queue;
};

static int subscribe_again(struct request *request);

static int subscribe(struct request *request, struct catalog_queue *queue,
                     struct subscription *subscription)
{
    if (queue->move) {
        struct subscribing *subscribing = memory_new(sizeof *subscribing);
        *subscribing = (struct subscribing){subscription, queue->id};
        request->internal = subscribing;
        move_wait(request, queue, subscribe_again);
        return DONE;
    }
    if (!queue->hosted)
        return peer_subscribe(request, queue, subscription);
    if (subscribe_here(queue->hosted, subscription, &request->failure) == 0)
        request->result.consumer = &subscription->consumer;
    else
        subscription_free(subscription);
    return DONE;
}

static int deleted_meanwhile(struct request *request)
{
    fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    return DONE;
}

static int subscribe_again(struct request *request)
{
    struct client *client = request->client;
    struct subscribing subscribing = *(struct subscribing *)request->internal;
    struct catalog_queue *queue = catalog_queue_by_id(&client->worker->catalog, subscribing.queue);

    free(request->internal);
    request->internal = NULL;
    if (client->closed)
        return DONE; /* and so is the subscription */
    if (request->failure.code == 0 && queue)
        return subscribe(request, queue, subscribing.subscription);
    subscription_free(subscribing.subscription);
    return request->failure.code == 0 ? deleted_meanwhile(request) : DONE;
}

int broker_subscribe(struct client *client, struct request *request,
                     const struct subscribe_spec *spec)
{
    struct catalog_queue *queue;
    struct consumer_settings settings;

    request_begin(client, request);
    if (may_subscribe(client, spec, &queue, &settings, &request->failure) != 0)
        return request_end(request);
    struct subscription *subscription = subscription_new(client, spec, settings.priority);
    subscription->queue_id = queue->id;
    return subscribe(request, queue, subscription) == DONE ? request_end(request) : PENDING;
}

/* Out of the queue. Leaves the subscription in its client's list. */
static void detach(struct subscription *subscription)
{
    struct hosted *hosted = hosted_of(subscription->consumer.queue);

    list_remove(&subscription->queue_link);
    if (hosted->exclusive_consumer == &subscription->consumer)
        hosted->exclusive_consumer = NULL;
    hosted_used(hosted);
    bool last = consumer_remove(&subscription->consumer);
    ASSERT(!last || hosted->queue.closed);
    subscription->consumer.queue = NULL;
    if (last)
        hosted_free(hosted);
}

void subscription_leave(struct subscription *subscription)
{
    struct hosted *hosted = hosted_of(subscription->consumer.queue);

    hosted->returning++;
    if (subscription->exclusive)
        hosted->returning_exclusive = true;
    detach(subscription);
}

void subscription_return_here(struct hosted *hosted, struct subscription *subscription)
{
    ASSERT(hosted->returning > 0);
    hosted->returning--;
    hosted_used(hosted);
    if (subscription->exclusive || hosted->returning == 0)
        hosted->returning_exclusive = false;
    attach(hosted, subscription);
}

void subscription_return(struct subscription *subscription)
{
    struct worker *worker = subscription->client->worker;
    struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, subscription->queue_id);

    if (subscription->is_asked || !list_empty(&subscription->held))
        return; /* first what has come: then it does so again */
    if (queue && queue->move && !queue->move->is_over) {
        list_append(&queue->move->adrift, &subscription->queue_link);
        return;
    }
    subscription->is_adrift = false;
    if (!queue)
        subscription_end(subscription);
    else if (queue->hosted)
        subscription_return_here(queue->hosted, subscription);
    else
        peer_subscribe_again(subscription, queue);
}

void subscription_end(struct subscription *subscription)
{
    struct worker *worker = subscription->client->worker;

    if (subscription->consumer.queue)
        detach(subscription);
    subscription->ended = true;
    list_append(&worker->cancellations, &subscription->cancel_link);
    loop_defer(worker->loop, &worker->tell, LOOP_DISPATCH);
}

void subscription_free(struct subscription *subscription)
{
    struct hosted *hosted = NULL;

    if (subscription->consumer.queue) {
        hosted = hosted_of(subscription->consumer.queue);
        queue_ref(&hosted->queue);
        detach(subscription);
    } else if (subscription->peer || subscription->is_adrift) {
        peer_unsubscribe(subscription);
    }
    list_remove(&subscription->queue_link);
    list_remove(&subscription->client_link);
    list_remove(&subscription->cancel_link);
    free(subscription->tag);
    free(subscription);
    if (hosted) {
        hosted_check_unused(hosted);
        hosted_release(hosted);
    }
}

void subscription_abandon(struct subscription *subscription)
{
    peer_forget(subscription);
    list_remove(&subscription->queue_link);
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
    struct subscription *subscription = subscription_of(consumer);

    consumer_credit(consumer, messages, bytes);
    if (subscription->peer && !subscription->ended)
        peer_credit(subscription, messages, bytes);
}

void broker_resume(struct consumer *consumer)
{
    struct subscription *subscription = subscription_of(consumer);

    if (consumer->queue)
        consumer_resume(consumer);
    else if ((subscription->peer || subscription->is_adrift) && !subscription->ended)
        peer_resume(subscription);
}

/* ---- deliveries ---- */

static int deliver(void *context, struct consumer *consumer, const struct queue_item *item)
{
    struct worker *worker = ((struct shard *)context)->place.worker;
    struct subscription *subscription = subscription_of(consumer);
    struct client *client = subscription->client;
    struct catalog_queue *named = hosted_of(consumer->queue)->named;
    struct delivery delivery = {
        .message = item->message,
        .lease = {named, item->sequence},
        .redelivered = item->redelivered,
        .tells_count = catalog_queue_tells_count(named),
        .count = item->count,
    };

    int result =
        client->options.events->deliver(client->options.session, subscription->cookie, &delivery);
    if (result == 0 && !client->is_proxy) { /* what a proxy took is counted where it goes */
        worker->delivered++;
        if (!consumer->settles_itself)
            catalog_queue_ref(named);
    }
    return result;
}

/* ---- single gets ---- */

/* Fills in the result of a get; false when it has to wait. */
static bool get_now(struct request *request, struct hosted *hosted)
{
    struct worker *worker = request->client->worker;
    struct queue *queue = &hosted->queue;
    struct queue_item item;

    int result = queue_take(queue, &item);
    if (result == E_AGAIN)
        return false;
    memset(&request->result, 0, sizeof request->result);
    if (result == 0) {
        request->result.get.delivery = (struct delivery){
            .message = item.message,
            .lease = {hosted->named, item.sequence},
            .redelivered = item.redelivered,
            .tells_count = catalog_queue_tells_count(hosted->named),
            .count = item.count,
        };
        worker->delivered += !request->client->is_proxy;
        if (request->settles_itself)
            queue_settle(queue, item.sequence, SETTLE_DELIVERED);
        else
            catalog_queue_ref(hosted->named);
    }
    request->result.get.ready = queue->ready;
    return true;
}

void get_give_back(struct request *request)
{
    struct delivery *delivery = &request->result.get.delivery;

    if (request->failure.code != 0 || !delivery->message)
        return;
    message_unref(delivery->message);
    delivery->message = NULL;
    if (!request->settles_itself)
        broker_settle(request->client, &delivery->lease, 1, OUTCOME_RETURN_UNSEEN);
}

int get_here(struct request *request, struct hosted *hosted)
{
    hosted_used(hosted);
    if (hosted->has_expired) {
        no_queue(hosted->named, &request->failure);
        return DONE;
    }
    if (list_empty(&hosted->getters) && get_now(request, hosted))
        return DONE;
    list_append(&hosted->getters, &request->link);
    hosted->queue.getters_wait = true;
    return PENDING;
}

static int get_again(struct request *request);

/* Its answer may be that the queue has begun to move. */
static int got(struct request *request)
{
    if (request->failure.code != E_AGAIN)
        return DONE;
    request->failure.code = 0;
    request->failure.text[0] = 0;
    return get_again(request);
}

static int get_from(struct request *request, struct catalog_queue *queue)
{
    request->number = queue->id;
    if (queue->move) {
        move_wait(request, queue, get_again);
        return DONE;
    }
    request->next = got;
    return queue->hosted ? get_here(request, queue->hosted) : peer_get(request, queue);
}

static int get_again(struct request *request)
{
    struct client *client = request->client;
    struct catalog_queue *queue = catalog_queue_by_id(&client->worker->catalog, request->number);

    if (request->failure.code != 0 || client->closed)
        return DONE;
    return queue ? get_from(request, queue) : deleted_meanwhile(request);
}

int broker_get(struct client *client, struct request *request, struct slice name,
               bool settles_itself)
{
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    request->is_get = true;
    request->settles_itself = settles_itself;
    if (client_find_queue(client, name, &queue, &request->failure) != 0 ||
        client_may(client, ACCESS_READ, "queue", name, &request->failure) != 0)
        return request_end(request);
    return get_from(request, queue) == DONE ? request_end(request) : PENDING;
}

static void get(void *context, struct queue *queue)
{
    struct hosted *hosted = hosted_of(queue);

    (void)context;
    for (struct list *link; (link = list_first(&hosted->getters));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        if (!get_now(request, hosted)) {
            queue->getters_wait = true;
            return;
        }
        request_complete(request);
    }
}

void getters_fail(struct hosted *hosted)
{
    for (struct list *link; (link = list_first(&hosted->getters));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        no_queue(hosted->named, &request->failure);
        request_complete(request);
    }
}

void getters_look_again(struct hosted *hosted)
{
    for (struct list *link; (link = list_first(&hosted->getters));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        fail(&request->failure, E_AGAIN, "the queue is moving");
        request_go_on(request);
    }
    hosted->queue.getters_wait = false;
}

static void died(void *context, struct queue *queue)
{
    (void)context;
    hosted_bury(hosted_of(queue));
}

const struct queue_events worker_queue_events = {.deliver = deliver, .get = get, .died = died};

/* ---- settling ---- */

static void return_here(struct queue *queue, uint64_t first, uint64_t last, bool seen, bool counted)
{
    for (uint64_t sequence = first; sequence <= last; sequence++)
        queue_return(queue, sequence, seen, counted);
}

void settle_here(struct queue *queue, uint64_t first, uint64_t last, enum outcome outcome)
{
    switch (outcome) {
    case OUTCOME_ACCEPT:
        queue_settle_range(queue, first, last, SETTLE_ACCEPTED);
        break;
    case OUTCOME_REJECT:
        queue_settle_range(queue, first, last, SETTLE_REJECTED);
        break;
    case OUTCOME_RETURN:
        return_here(queue, first, last, true, false);
        break;
    case OUTCOME_RETURN_COUNTED:
        return_here(queue, first, last, true, true);
        break;
    case OUTCOME_RETURN_UNSEEN:
        return_here(queue, first, last, false, false);
        break;
    case OUTCOME_BURIED:
        queue_settle_range(queue, first, last, SETTLE_BURIED);
        break;
    }
}

/* How many leases from the first on are of one queue and follow each other there. */
static size_t neighbours_at(const struct lease *leases, size_t count)
{
    size_t n = 1;

    while (n < count && leases[n].queue == leases->queue &&
           leases[n].sequence == leases->sequence + n)
        n++;
    return n;
}

void broker_settle(struct client *client, const struct lease *leases, size_t count,
                   enum outcome outcome)
{
    (void)client;
    ASSERT(count <= SETTLE_SLICE);
    for (size_t i = 0; i < count;) {
        size_t neighbours = neighbours_at(leases + i, count - i);
        struct catalog_queue *queue = leases[i].queue;
        uint64_t first = leases[i].sequence;
        settle_leases(queue, first, first + neighbours - 1, outcome);
        for (size_t end = i + neighbours; i < end; i++)
            catalog_queue_unref(queue);
    }
}

/* ---- purging ---- */

struct purge {
    struct hosted *hosted; /* a reference on its queue */
    struct queue_purge_job job;
};

static bool purge_slice(struct request *request)
{
    struct purge *purge = request->internal;
    struct queue *queue = &purge->hosted->queue;

    if (!queue_purge(&purge->job, queue, SETTLE_PURGED))
        return false;
    request->result.queue.counts.ready = purge->job.removed;
    queue_purge_fini(&purge->job);
    if (queue->log)
        log_commit(queue->log);
    hosted_release(purge->hosted);
    free(purge);
    request->internal = NULL;
    return true;
}

int purge_here(struct request *request, struct hosted *hosted)
{
    struct purge *purge = memory_new(sizeof *purge);

    purge->hosted = hosted;
    queue_purge_begin(&purge->job, &hosted->queue);
    queue_ref(&hosted->queue);
    request->internal = purge;
    if (purge_slice(request))
        return DONE;
    request->slice = purge_slice;
    request_work(request);
    return PENDING;
}

static int purge_again(struct request *request);

static int purge(struct request *request, struct catalog_queue *queue)
{
    request->number = queue->id;
    if (queue->move) {
        move_wait(request, queue, purge_again);
        return DONE;
    }
    return queue->hosted ? purge_here(request, queue->hosted) : peer_purge(request, queue);
}

static int purge_again(struct request *request)
{
    struct client *client = request->client;
    struct catalog_queue *queue = catalog_queue_by_id(&client->worker->catalog, request->number);

    if (request->failure.code != 0 || client->closed)
        return DONE;
    return queue ? purge(request, queue) : deleted_meanwhile(request);
}

int broker_purge_queue(struct client *client, struct request *request, struct slice name)
{
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    if (client_find_queue(client, name, &queue, &request->failure) != 0 ||
        client_may(client, ACCESS_READ, "queue", name, &request->failure) != 0)
        return request_end(request);
    snprintf(request->result.queue.name, sizeof request->result.queue.name, "%s", queue->name);
    return purge(request, queue) == DONE ? request_end(request) : PENDING;
}
