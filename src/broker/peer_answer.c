/* Peers, the answering side: a proxy, in whose name is done what the peer's letters ask for. */
#include "broker/change.h"
#include "broker/move.h"
#include "broker/peer.h"

#include <stdlib.h>

/* What the peer has asked for. */
struct asked {
    struct request request;
    struct list link; /* peer.pending */
    struct peer *peer;
    uint64_t token;
    bool has_counts;
    bool is_report; /* the answer is: */
    struct worker_report report;
};

/* A consumer of the peer's, in a queue that is hosted here. */
struct remote_consumer {
    uint64_t number;
    struct subscription *subscription;
};

/* ---- the proxy's events ---- */

/* A get's message, which goes by mail: the lease is the peer's from here. */
static void answer_message(struct letter_answer *letter, const struct request *request)
{
    const struct delivery *delivery = &request->result.get.delivery;

    letter->has_message = true;
    letter->redelivered = delivery->redelivered;
    letter->count = delivery->count;
    letter->sequence = delivery->lease.sequence;
    message_lend(&letter->message, delivery->message);
    message_unref(delivery->message);
    if (!request->settles_itself)
        catalog_queue_unref(delivery->lease.queue);
}

static void answer(struct asked *asked)
{
    const struct request *request = &asked->request;
    const struct failure *failure = &request->failure;
    bool is_done = failure->code == 0;
    const struct message *message =
        request->is_get && is_done ? request->result.get.delivery.message : NULL;
    size_t text_size = is_done ? 0 : strlen(failure->text);
    struct letter_answer *letter = peer_write(
        asked->peer, LETTER_ANSWER, sizeof *letter + (message ? message->bytes_size : text_size));

    *letter = (struct letter_answer){
        .token = asked->token, .code = failure->code, .text_size = (uint32_t)text_size};
    memcpy(letter + 1, failure->text, text_size);
    if (asked->has_counts && is_done) {
        const struct queue_counts *counts = &request->result.queue.counts;
        letter->has_counts = true;
        letter->ready = counts->ready;
        letter->leased = counts->leased;
        letter->delayed = counts->delayed;
        letter->consumers = counts->consumers;
    }
    if (request->is_get && is_done)
        letter->ready = request->result.get.ready;
    if (message)
        answer_message(letter, request);
    list_remove(&asked->link);
    free(asked);
}

static void answer_report(struct asked *asked)
{
    struct letter_report *letter = peer_write(asked->peer, LETTER_REPORT, sizeof *letter);

    *letter = (struct letter_report){asked->token, asked->report};
    list_remove(&asked->link);
    free(asked);
}

static void completed(void *session, struct request *request)
{
    struct asked *asked = CONTAINER_OF(request, struct asked, request);

    (void)session;
    if (asked->is_report)
        answer_report(asked);
    else
        answer(asked);
}

static int deliver(void *session, void *cookie, const struct delivery *delivery)
{
    struct peer *peer = session;
    const struct remote_consumer *consumer = cookie;
    struct letter_deliver *letter =
        peer_add(peer, LETTER_DELIVER, sizeof *letter + delivery->message->bytes_size);

    letter->number = consumer->number;
    letter->queue = delivery->lease.queue->id;
    letter->sequence = delivery->lease.sequence;
    letter->count = delivery->count;
    letter->redelivered = delivery->redelivered;
    message_lend(&letter->message, delivery->message);
    return 0;
}

static void confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct peer *peer = session;
    struct letter_confirm *letter = peer_last(peer, LETTER_CONFIRM);

    (void)cookie;
    if (!letter || letter->accepted != accepted)
        letter = peer_write(peer, LETTER_CONFIRM, sizeof *letter);
    letter->last = last;
    letter->accepted = accepted;
}

static void cancelled(void *session, void *cookie)
{
    struct peer *peer = session;
    struct remote_consumer *consumer = cookie;
    struct letter_number *letter = peer_write(peer, LETTER_CANCELLED, sizeof *letter);

    letter->number = consumer->number;
    map_remove_number(&peer->consumers, consumer->number);
    free(consumer);
}

static void flow(void *session, enum flow now)
{
    (void)session;
    (void)now;
}

static void kick(void *session, const char *reason)
{
    (void)session;
    (void)reason;
}

static const struct client_events proxy_events = {
    .completed = completed,
    .deliver = deliver,
    .confirmed = confirmed,
    .cancelled = cancelled,
    .flow = flow,
    .kick = kick,
};

/* ---- what is asked for ---- */

static struct asked *begin(struct peer *peer, const struct letter_ask *letter)
{
    struct asked *asked = memory_new(sizeof *asked);

    asked->peer = peer;
    asked->token = letter->token;
    list_append(&peer->pending, &asked->link);
    request_begin(peer->proxy, &asked->request);
    memset(&asked->request.result, 0, sizeof asked->request.result);
    return asked;
}

static void end(struct asked *asked, int outcome)
{
    if (outcome == DONE && request_end(&asked->request) == DONE)
        answer(asked);
}

struct request *asked_begin(struct peer *peer, const struct letter_ask *letter)
{
    return &begin(peer, letter)->request;
}

void asked_end(struct request *request, int outcome)
{
    end(CONTAINER_OF(request, struct asked, request), outcome);
}

/* The queue, as far as it is there still. */
static struct hosted *hosted(struct asked *asked, uint64_t id)
{
    struct catalog_queue *queue = catalog_queue_by_id(&asked->peer->place.worker->catalog, id);

    if (queue && queue->hosted)
        return queue->hosted;
    fail(&asked->request.failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    return NULL;
}

static void subscribe(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_subscribe *letter = letter_at(bytes);
    struct asked *asked = begin(peer, &letter->ask);
    struct hosted *queue = hosted(asked, letter->ask.queue);

    if (queue) {
        struct remote_consumer *consumer = memory_new(sizeof *consumer);
        struct subscribe_spec spec = {
            .cookie = consumer,
            .exclusive = letter->exclusive,
            .credit_messages = letter->credit_messages,
            .credit_bytes = letter->credit_bytes,
        };
        consumer->number = letter->number;
        consumer->subscription = subscription_new(peer->proxy, &spec, letter->priority);
        consumer->subscription->queue_id = letter->ask.queue;
        if (subscribe_here(queue, consumer->subscription, &asked->request.failure) == 0) {
            map_put_number(&peer->consumers, consumer->number, consumer);
        } else {
            subscription_free(consumer->subscription);
            free(consumer);
        }
    }
    end(asked, DONE);
}

static void subscribe_again(struct peer *peer, struct slice bytes)
{
    const struct letter_subscribe_again *letter = letter_at(bytes);
    const struct catalog_queue *queue =
        catalog_queue_by_id(&peer->place.worker->catalog, letter->queue);

    if (!queue || !queue->hosted) { /* deleted */
        struct letter_number *back = peer_write(peer, LETTER_CANCELLED, sizeof *back);
        back->number = letter->number;
        return;
    }
    struct remote_consumer *consumer = memory_new(sizeof *consumer);
    struct subscribe_spec spec = {
        .cookie = consumer,
        .exclusive = letter->exclusive,
        .credit_messages = letter->credit_messages,
    };
    consumer->number = letter->number;
    consumer->subscription = subscription_new(peer->proxy, &spec, letter->priority);
    consumer->subscription->queue_id = letter->queue;
    consumer->subscription->consumer.credit_bytes = letter->credit_bytes; /* perhaps below 0 */
    map_put_number(&peer->consumers, consumer->number, consumer);
    subscription_return_here(queue->hosted, consumer->subscription);
}

void peer_consumer_moved(struct subscription *subscription)
{
    struct peer *peer = subscription->client->options.session;
    struct remote_consumer *consumer = subscription->cookie;
    struct letter_consumer_moved *letter = peer_write(peer, LETTER_CONSUMER_MOVED, sizeof *letter);

    *letter = (struct letter_consumer_moved){consumer->number, subscription->queue_id};
    map_remove_number(&peer->consumers, consumer->number);
    free(consumer);
    subscription_free(subscription);
}

static void get(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_get *letter = letter_at(bytes);
    struct asked *asked = begin(peer, &letter->ask);
    struct hosted *queue = hosted(asked, letter->ask.queue);

    asked->request.is_get = true;
    asked->request.settles_itself = letter->settles_itself;
    end(asked, queue ? get_here(&asked->request, queue) : DONE);
}

static void purge(struct peer *peer, struct slice bytes)
{
    const struct letter_ask *letter = letter_at(bytes);
    struct asked *asked = begin(peer, letter);
    struct hosted *queue = hosted(asked, letter->queue);

    asked->has_counts = true;
    end(asked, queue ? purge_here(&asked->request, queue) : DONE);
}

static void count(struct peer *peer, struct slice bytes)
{
    const struct letter_ask *letter = letter_at(bytes);
    struct asked *asked = begin(peer, letter);
    struct hosted *queue = hosted(asked, letter->queue);

    asked->has_counts = true;
    end(asked, queue ? counts_here(&asked->request, queue) : DONE);
}

static void delete (struct peer *peer, struct slice bytes)
{
    const struct letter_ask_delete *letter = letter_at(bytes);
    struct asked *asked = begin(peer, &letter->ask);
    struct hosted *queue = hosted(asked, letter->ask.queue);

    asked->has_counts = true;
    end(asked,
        queue ? delete_here(&asked->request, queue, letter->if_unused, letter->if_empty) : DONE);
}

static void report(struct peer *peer, struct slice bytes)
{
    const struct letter_ask *letter = letter_at(bytes);
    struct asked *asked = begin(peer, letter);

    asked->is_report = true;
    report_work(&asked->request, &asked->report);
}

static void policies(struct peer *peer, struct slice bytes)
{
    policies_work(&begin(peer, letter_at(bytes))->request);
}

static void change(struct peer *peer, struct slice bytes)
{
    const struct letter_ask *letter = letter_at(bytes);
    struct asked *asked = begin(peer, letter);
    struct worker *worker = peer->place.worker;
    struct slice order = slice_of((const uint8_t *)(letter + 1), bytes.size - sizeof *letter);

    if (change_execute(worker, order, &asked->request.failure) == 0)
        change_wait(&asked->request, worker->catalog.events, false);
    end(asked, DONE);
}

/* ---- the rest ---- */

/* The queues of these ids, into peer->targets, as far as they are there still. */
static size_t find_queues(struct peer *peer, const uint64_t *ids, uint32_t count)
{
    const struct catalog *catalog = &peer->place.worker->catalog;
    size_t found = 0;

    if (count > peer->targets_capacity) {
        peer->targets_capacity = count;
        peer->targets = memory_resize(peer->targets, count, sizeof *peer->targets);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct catalog_queue *queue = catalog_queue_by_id(catalog, ids[i]);
        if (queue && queue->hosted)
            peer->targets[found++] = queue;
    }
    return found;
}

/* *publish: room, used again for each of a run. */
static void publish_one(struct peer *peer, const struct letter_publish *letter,
                        struct message *lent, struct publish *publish)
{
    publish->queues = find_queues(peer, letter->ids, letter->queues);
    publish->publisher = letter->ticket ? peer->publisher : NULL;
    /* some are deleted; a crash before that is durable brings them back */
    if (publish->queues < letter->queues && publish->publisher)
        publisher_wait_settled(publish->publisher, peer->place.worker->catalog.events);
    publish->message = message_copy(message_lent(lent, &peer->place.worker->messages));
    ASSERT(publish->message); /* without limit */
    peer->received_bytes += message_footprint(lent);
    message_lent_end(lent);
    if (publish_by_mail(peer->proxy, publish, peer->targets) != 0)
        log_debug(peer->place.worker->logger, "queue", "a message is lost: %s",
                  publish->failure.text);
    message_unref(publish->message);
}

static void publish(struct peer *peer, struct slice bytes)
{
    struct publish publish = {0};
    const uint8_t *end = bytes.data + bytes.size;

    for (const void *at = bytes.data; (const uint8_t *)at < end;) {
        const struct letter_publish *letter = at;
        struct message *lent = letter_message(letter->ids + letter->queues);
        at = letter_next(lent);
        publish_one(peer, letter, lent, &publish);
    }
}

static void settle(struct peer *peer, struct slice bytes)
{
    const struct letter_settle *letter = letter_at(bytes);

    /* it may be on its way, or have gone elsewhere meanwhile */
    settle_anywhere(peer->place.worker, letter->queue, letter->first, letter->last,
                    (enum outcome)letter->outcome);
}

static void unsubscribe(struct peer *peer, struct slice bytes)
{
    const struct letter_number *letter = letter_at(bytes);
    struct remote_consumer *consumer = map_remove_number(&peer->consumers, letter->number);

    if (!consumer)
        return; /* it was cancelled at the same time */
    broker_unsubscribe(&consumer->subscription->consumer);
    free(consumer);
}

static void credit(struct peer *peer, struct slice bytes)
{
    const struct letter_consumer_credit *letter = letter_at(bytes);
    struct remote_consumer *consumer = map_get_number(&peer->consumers, letter->number);

    if (consumer)
        broker_credit(&consumer->subscription->consumer, letter->messages, letter->bytes);
}

letter_reader *const peer_answer_readers[LETTERS] = {
    [LETTER_ASK_SUBSCRIBE] = subscribe, [LETTER_ASK_GET] = get,
    [LETTER_ASK_PURGE] = purge,         [LETTER_ASK_COUNTS] = count,
    [LETTER_ASK_DELETE] = delete,       [LETTER_ASK_CHANGE] = change,
    [LETTER_ASK_REPORT] = report,       [LETTER_ASK_POLICIES] = policies,
    [LETTER_PUBLISH] = publish,         [LETTER_SETTLE] = settle,
    [LETTER_UNSUBSCRIBE] = unsubscribe, [LETTER_SUBSCRIBE_AGAIN] = subscribe_again,
    [LETTER_CONSUMER_CREDIT] = credit,
};

/* ---- the proxy ---- */

void peer_answer_init(struct peer *peer)
{
    struct worker *worker = peer->place.worker;

    list_init(&peer->pending);
    map_init_numbers(&peer->consumers, loop_random(worker->loop));
    peer->proxy = client_new_proxy(worker, &proxy_events, peer);
    peer->publisher = publisher_open(peer->proxy, NULL);
}

static void consumers_free(struct peer *peer)
{
    struct map_cursor cursor = {0};

    for (struct remote_consumer *consumer; (consumer = map_next(&peer->consumers, &cursor));)
        free(consumer);
    map_fini(&peer->consumers);
}

void peer_answer_free(struct peer *peer)
{
    if (!peer->proxy)
        return;
    for (struct list *link; (link = list_take_first(&peer->pending));) {
        struct asked *asked = CONTAINER_OF(link, struct asked, link);
        list_remove(&asked->request.link);
        if (asked->request.is_get && asked->request.result.get.delivery.message)
            message_unref(asked->request.result.get.delivery.message);
        free(asked->request.internal);
        free(asked);
    }
    client_abandon(peer->proxy);
    peer->proxy = NULL;
    consumers_free(peer);
    free(peer->targets);
}
