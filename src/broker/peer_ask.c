/* Peers, the asking side: letters for what clients of this worker want over there. */
#include "broker/move.h"
#include "broker/peer.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- requests ---- */

void *peer_ask(struct peer *peer, enum letter kind, size_t size, struct request *request,
               uint64_t queue)
{
    struct letter_ask *letter = peer_write(peer, kind, size);

    letter->token = ++peer->token_last;
    letter->queue = queue;
    map_put_number(&peer->asked, letter->token, request);
    return letter;
}

/* Room that a failure's text takes in an answer is bounded by struct failure. */
static void take_failure(struct failure *failure, const struct letter_answer *answer,
                         const char *text)
{
    failure->code = answer->code;
    if (answer->code != 0)
        snprintf(failure->text, sizeof failure->text, "%.*s", (int)answer->text_size, text);
}

/* A copy of the message that is in the letter. */
static struct message *take_message(struct peer *peer, struct message *in_letter)
{
    struct message *lent = message_lent(in_letter, &peer->place.worker->messages);
    struct message *message = message_ref(lent);

    message_lent_end(lent);
    return message;
}

static void take_delivery(struct peer *peer, struct request *request, struct letter_answer *answer)
{
    struct worker *worker = peer->place.worker;
    struct delivery *delivery = &request->result.get.delivery;
    struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, request->number);

    delivery->message = take_message(peer, &answer->message);
    delivery->redelivered = answer->redelivered;
    delivery->tells_count = queue && catalog_queue_tells_count(queue);
    delivery->count = answer->count;
    if (delivery->message && (queue || request->settles_itself)) {
        delivery->lease.sequence = answer->sequence;
        delivery->lease.queue = queue;
        worker->delivered++;
        if (!request->settles_itself)
            catalog_queue_ref(queue);
        return;
    }
    if (!delivery->message)
        fail(&request->failure, E_MEMORY, "out of memory");
    else /* the queue has been deleted since, and the message with it */
        message_unref(delivery->message);
    delivery->message = NULL;
    if (!request->settles_itself)
        settle_anywhere(worker, request->number, answer->sequence, answer->sequence,
                        OUTCOME_RETURN_UNSEEN);
}

static void answer_came(struct peer *peer, struct slice bytes)
{
    struct letter_answer *answer = letter_at(bytes);
    struct request *request = map_remove_number(&peer->asked, answer->token);

    ASSERT(request);
    take_failure(&request->failure, answer, (const char *)(answer + 1));
    if (request->is_get) {
        memset(&request->result.get, 0, sizeof request->result.get);
        request->result.get.ready = answer->ready;
        if (answer->has_message)
            take_delivery(peer, request, answer);
    } else if (answer->has_counts) {
        request->result.queue.counts = (struct queue_counts){answer->ready, answer->leased,
                                                             answer->consumers, answer->delayed};
    }
    request_go_on(request);
}

int peer_get(struct request *request, struct catalog_queue *queue)
{
    struct letter_ask_get *letter =
        peer_ask(peer_of(queue->place), LETTER_ASK_GET, sizeof *letter, request, queue->id);

    letter->settles_itself = request->settles_itself;
    return PENDING;
}

int peer_purge(struct request *request, struct catalog_queue *queue)
{
    peer_ask(peer_of(queue->place), LETTER_ASK_PURGE, sizeof(struct letter_ask), request,
             queue->id);
    return PENDING;
}

int peer_counts(struct request *request, struct catalog_queue *queue)
{
    peer_ask(peer_of(queue->place), LETTER_ASK_COUNTS, sizeof(struct letter_ask), request,
             queue->id);
    return PENDING;
}

int peer_delete(struct request *request, struct catalog_queue *queue, bool if_unused, bool if_empty)
{
    struct letter_ask_delete *letter =
        peer_ask(peer_of(queue->place), LETTER_ASK_DELETE, sizeof *letter, request, queue->id);

    letter->if_unused = if_unused;
    letter->if_empty = if_empty;
    return PENDING;
}

int peer_change(struct request *request, struct slice order)
{
    struct peer *peer = request->client->worker->peers[0];
    struct letter_ask *letter =
        peer_ask(peer, LETTER_ASK_CHANGE, sizeof *letter + order.size, request, 0);

    memcpy(letter + 1, order.data, order.size);
    return PENDING;
}

/* ---- publishing ---- */

uint64_t peer_publish(struct peer *peer, const struct message *message,
                      struct catalog_queue **queues, size_t count, bool wants_ticket)
{
    ASSERT(count <= PEER_QUEUES_MAX);
    struct letter_publish *letter =
        peer_add(peer, LETTER_PUBLISH,
                 sizeof *letter + count * sizeof *letter->ids + message_room_size(message));

    letter->ticket = wants_ticket ? ++peer->ticket_last : 0;
    letter->queues = (uint32_t)count;
    for (size_t i = 0; i < count; i++)
        letter->ids[i] = queues[i]->id;
    message_lend(letter_message(letter->ids + count), message);
    peer->sent_bytes += message_footprint(message);
    return letter->ticket;
}

static void confirm_came(struct peer *peer, struct slice bytes)
{
    const struct letter_confirm *letter = letter_at(bytes);
    struct line *line = &peer->place.line;

    if (!letter->accepted)
        publishers_refuse(peer->place.worker, line, line->done + 1, letter->last);
    line_advance(line, letter->last);
}

/* ---- settling ---- */

static void __attribute__((noinline))
settle_anew(struct peer *peer, uint64_t queue, uint64_t first, uint64_t last, enum outcome outcome)
{
    struct letter_settle *letter = peer_write(peer, LETTER_SETTLE, sizeof *letter);

    *letter = (struct letter_settle){queue, first, last, outcome};
}

void peer_settle(struct peer *peer, uint64_t queue, uint64_t first, uint64_t last,
                 enum outcome outcome)
{
    struct letter_settle *letter = peer_last(peer, LETTER_SETTLE);

    if (letter && letter->queue == queue && letter->outcome == outcome && letter->last + 1 == first)
        letter->last = last;
    else
        settle_anew(peer, queue, first, last, outcome);
}

/* ---- consuming ---- */

/* A delivery for which the session has no room yet, or which came before the answer. */
struct held {
    struct list link;
    struct message *message; /* a reference */
    uint64_t sequence;
    bool redelivered;
    uint32_t count;
};

/* The peer may know it no more, since its queue has moved. */
static struct subscription *find_asked(const struct request *request)
{
    LIST_EACH (&request->client->subscriptions, link) {
        struct subscription *subscription = CONTAINER_OF(link, struct subscription, client_link);
        if (subscription->is_adrift && subscription->is_asked &&
            subscription->asked_of == request->peer && subscription->number == request->number)
            return subscription;
    }
    return NULL;
}

static int subscribed(struct request *request)
{
    struct worker *worker = request->client->worker;
    struct peer *peer = worker->peers[request->peer];
    struct subscription *subscription = map_get_number(&peer->subscriptions, request->number);

    if (!subscription)
        subscription = find_asked(request);
    if (!subscription)
        return DONE; /* its client has closed */
    subscription->is_asked = false;
    if (request->failure.code == 0) {
        request->result.consumer = &subscription->consumer;
        /* the session is told first, then gets what has come already */
        loop_defer(worker->loop, &worker->tell, LOOP_DISPATCH);
        loop_defer(worker->loop, &subscription->resume, LOOP_DISPATCH);
        return DONE;
    }
    peer_forget(subscription);
    subscription_free(subscription);
    return DONE;
}

/* The peer will know it by its number. */
static void with_peer(struct subscription *subscription, struct peer *peer)
{
    subscription->peer = peer;
    subscription->number = ++peer->subscription_last;
    map_put_number(&peer->subscriptions, subscription->number, subscription);
}

void peer_subscribe_again(struct subscription *subscription, const struct catalog_queue *queue)
{
    const struct consumer *consumer = &subscription->consumer;
    struct peer *peer = peer_of(queue->home);
    struct letter_subscribe_again *letter =
        peer_write(peer, LETTER_SUBSCRIBE_AGAIN, sizeof *letter);

    with_peer(subscription, peer);
    *letter = (struct letter_subscribe_again){
        .queue = queue->id,
        .number = subscription->number,
        .credit_bytes = consumer->credit_bytes,
        .credit_messages = consumer->credit_messages,
        .priority = consumer->priority,
        .exclusive = subscription->exclusive,
    };
}

int peer_subscribe(struct request *request, struct catalog_queue *queue,
                   struct subscription *subscription)
{
    const struct consumer *consumer = &subscription->consumer;
    struct peer *peer = peer_of(queue->place);
    struct letter_ask_subscribe *letter =
        peer_ask(peer, LETTER_ASK_SUBSCRIBE, sizeof *letter, request, queue->id);

    with_peer(subscription, peer);
    subscription->is_asked = true;
    subscription->asked_of = peer->index;
    letter->number = subscription->number;
    letter->credit_bytes = (uint64_t)consumer->credit_bytes;
    letter->credit_messages = consumer->credit_messages;
    letter->priority = consumer->priority;
    letter->exclusive = subscription->exclusive;
    request->peer = peer->index;
    request->number = subscription->number;
    request->next = subscribed;
    return PENDING;
}

static void held_free(struct held *held)
{
    message_unref(held->message);
    free(held);
}

/* The peer knows it no more. */
static void without_peer(struct subscription *subscription)
{
    struct peer *peer = subscription->peer;

    map_remove_number(&peer->subscriptions, subscription->number);
    if (peer->latest == subscription)
        peer->latest = NULL;
    subscription->peer = NULL;
}

void peer_forget(struct subscription *subscription)
{
    struct list *link;

    if (subscription->peer)
        without_peer(subscription);
    else if (!subscription->is_adrift)
        return;
    while ((link = list_take_first(&subscription->held)))
        held_free(CONTAINER_OF(link, struct held, link));
    task_cancel(&subscription->resume);
}

void peer_unsubscribe(struct subscription *subscription)
{
    struct worker *worker = subscription->client->worker;

    LIST_EACH (&subscription->held, link) {
        uint64_t sequence = CONTAINER_OF(link, struct held, link)->sequence;
        settle_anywhere(worker, subscription->queue_id, sequence, sequence, OUTCOME_RETURN_UNSEEN);
    }
    if (subscription->is_adrift) {
        move_consumers_gone(worker, subscription->queue_id, 1);
    } else if (!subscription->ended) {
        struct letter_number *letter =
            peer_write(subscription->peer, LETTER_UNSUBSCRIBE, sizeof *letter);
        letter->number = subscription->number;
    }
    peer_forget(subscription);
}

void peer_credit(struct subscription *subscription, uint32_t messages, uint64_t bytes)
{
    struct letter_consumer_credit *letter = peer_last(subscription->peer, LETTER_CONSUMER_CREDIT);

    if (!letter || letter->number != subscription->number) {
        letter = peer_write(subscription->peer, LETTER_CONSUMER_CREDIT, sizeof *letter);
        *letter = (struct letter_consumer_credit){.number = subscription->number};
    }
    letter->bytes += bytes;
    letter->messages = messages == CREDIT_UNLIMITED || letter->messages == CREDIT_UNLIMITED
                           ? CREDIT_UNLIMITED
                           : letter->messages + messages;
}

/* To the session; E_ROOM: not now. */
static int deliver(struct subscription *subscription, struct message *message, uint64_t sequence,
                   bool redelivered, uint32_t count)
{
    struct client *client = subscription->client;
    struct worker *worker = client->worker;
    struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, subscription->queue_id);
    struct delivery delivery = {
        .message = message,
        .lease = {queue, sequence},
        .redelivered = redelivered,
        .count = count,
    };

    if (!queue) /* deleted since; the consumer is about to be told */
        return 0;
    delivery.tells_count = catalog_queue_tells_count(queue);
    int result =
        client->options.events->deliver(client->options.session, subscription->cookie, &delivery);
    subscription->is_refused = result != 0;
    if (result != 0)
        return result;
    worker->delivered++;
    if (subscription->consumer.settles_itself)
        settle_leases(queue, sequence, sequence, OUTCOME_ACCEPT);
    else
        catalog_queue_ref(queue);
    return 0;
}

static void hold(struct subscription *subscription, struct message *message,
                 const struct letter_deliver *letter)
{
    struct held *held = memory_new(sizeof *held);

    *held = (struct held){.message = message,
                          .sequence = letter->sequence,
                          .redelivered = letter->redelivered,
                          .count = letter->count};
    list_append(&subscription->held, &held->link);
}

/* Deliveries come in bursts for the same. */
static struct subscription *subscription_by(struct peer *peer, uint64_t number)
{
    if (!peer->latest || peer->latest->number != number)
        peer->latest = map_get_number(&peer->subscriptions, number);
    return peer->latest;
}

/* Almost always the session takes it at once, out of the letter. */
static bool deliver_at_once(struct subscription *subscription, struct message *lent,
                            const struct letter_deliver *letter)
{
    return !subscription->is_asked && list_empty(&subscription->held) &&
           deliver(subscription, lent, letter->sequence, letter->redelivered, letter->count) == 0;
}

/* The copy of the consumer's credit: what it subscribes with again, should its queue move. */
static void charge(struct subscription *subscription, const struct message *message)
{
    struct consumer *consumer = &subscription->consumer;

    if (consumer->credit_messages != CONSUMER_UNLIMITED)
        consumer->credit_messages--;
    consumer->credit_bytes -= (int64_t)message_footprint(message);
}

static void deliver_one(struct peer *peer, struct letter_deliver *letter)
{
    struct subscription *subscription = subscription_by(peer, letter->number);
    struct message *lent = message_lent(&letter->message, &peer->place.worker->messages);

    if (subscription)
        charge(subscription, lent);
    if (!subscription || !deliver_at_once(subscription, lent, letter)) {
        struct message *message = subscription ? message_ref(lent) : NULL;
        if (message)
            hold(subscription, message, letter);
        else /* cancelled since; or out of memory */
            settle_anywhere(peer->place.worker, letter->queue, letter->sequence, letter->sequence,
                            OUTCOME_RETURN_UNSEEN);
    }
    message_lent_end(lent);
}

static void deliver_came(struct peer *peer, struct slice bytes)
{
    const uint8_t *end = bytes.data + bytes.size;

    for (void *at = letter_at(bytes); (const uint8_t *)at < end;) {
        struct letter_deliver *letter = at;
        at = letter_next(&letter->message);
        deliver_one(peer, letter);
    }
}

/* What was held goes out, as far as the session takes it. */
void peer_resume_run(struct task *task)
{
    struct subscription *subscription = CONTAINER_OF(task, struct subscription, resume);

    if (subscription->is_asked)
        return;
    for (struct list *link; !subscription->ended && (link = list_first(&subscription->held));) {
        struct held *held = CONTAINER_OF(link, struct held, link);
        if (deliver(subscription, held->message, held->sequence, held->redelivered, held->count))
            return;
        list_remove(link);
        held_free(held);
    }
    if (subscription->is_adrift && !list_linked(&subscription->queue_link))
        subscription_return(subscription);
}

void peer_resume(struct subscription *subscription)
{
    subscription->is_refused = false;
    loop_defer(subscription->client->worker->loop, &subscription->resume, LOOP_DISPATCH);
}

static void cancelled_came(struct peer *peer, struct slice bytes)
{
    const struct letter_number *letter = letter_at(bytes);
    struct subscription *subscription = map_get_number(&peer->subscriptions, letter->number);

    if (!subscription)
        return;
    peer_forget(subscription);
    subscription_end(subscription);
}

/* Its queue moves: it has left, and comes back. One that has ended here meanwhile does not. */
static void consumer_moved_came(struct peer *peer, struct slice bytes)
{
    const struct letter_consumer_moved *letter = letter_at(bytes);
    struct subscription *subscription = map_get_number(&peer->subscriptions, letter->number);

    if (!subscription) {
        move_consumers_gone(peer->place.worker, letter->queue, 1);
        return;
    }
    without_peer(subscription);
    move_adrift(subscription);
}

letter_reader *const peer_ask_readers[LETTERS] = {
    [LETTER_ANSWER] = answer_came,
    [LETTER_CONFIRM] = confirm_came,
    [LETTER_DELIVER] = deliver_came,
    [LETTER_CANCELLED] = cancelled_came,
    [LETTER_CONSUMER_MOVED] = consumer_moved_came,
};
