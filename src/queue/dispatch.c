/* Giving messages out: consumers in turn, single gets, the delivered mark. */
#include "queue/queue_private.h"

/* Deliveries of one queue before the next queue has its turn. */
#define DISPATCH_BURST 128u

static void dispatch_soon(struct queue *queue)
{
    if (list_linked(&queue->ready_link))
        return;
    list_append(&queue->host->ready, &queue->ready_link);
    loop_defer(queue->host->loop, &queue->host->dispatch, LOOP_DISPATCH);
}

void queue_activate(struct queue *queue)
{
    if (queue->waits_for_mark)
        return;
    if (queue->closed || (list_empty(&queue->active) && !queue->getters_wait))
        return;
    dispatch_soon(queue);
}

/* ---- the mark (see queue.h, invariant 5) ---- */

static void mark_write(struct queue *queue, struct queue_lane *lane, uint64_t sequence)
{
    lane->mark_logged = sequence + QUEUE_MARK_STRIDE;
    log_append_delivered(queue->log, queue->id, lane->mark_logged);
    queue->mark_block = log_block_last(queue->log);
    queue_touch(queue);
    if (!list_linked(&queue->mark_link))
        list_append(&queue->host->awaiting_mark, &queue->mark_link);
}

bool queue_mark_allows(struct queue *queue, const struct queue_place *place)
{
    struct queue_lane *lane = place->lane;
    uint64_t sequence = place->sequence;

    if (!queue->log || queue->host->has_failed || !place->page->positions[sequence % QUEUE_PAGE])
        return true;
    if (sequence < lane->mark_durable) {
        /* half a stride ahead, so that nobody waits */
        if (sequence + QUEUE_MARK_STRIDE / 2 > lane->mark_logged)
            mark_write(queue, lane, sequence);
        return true;
    }
    if (sequence >= lane->mark_logged)
        mark_write(queue, lane, sequence);
    if (!queue->waits_for_mark) {
        queue->waits_for_mark = true;
        log_commit(queue->log);
    }
    return false;
}

void queue_host_durable(struct queue_host *host, uint64_t block)
{
    LIST_EACH (&host->awaiting_mark, link) {
        struct queue *queue = CONTAINER_OF(link, struct queue, mark_link);
        struct queue_lane *lane;
        if (queue->mark_block > block)
            continue;
        list_remove(link);
        LANES_EACH (queue, lane, number)
            lane->mark_durable = lane->mark_logged;
        queue->waits_for_mark = false;
        queue_activate(queue);
    }
}

void queue_host_failed(struct queue_host *host)
{
    host->has_failed = true;
    queue_host_durable(host, UINT64_MAX);
}

/* ---- giving out ---- */

static struct queue_item item_at(const struct queue_place *place)
{
    const struct queue_page *page = place->page;
    unsigned index = place->sequence % QUEUE_PAGE;

    return (struct queue_item){
        .message = page->messages[index],
        .sequence = place->sequence,
        .redelivered = page->returned & page_bit(place->sequence),
        .count = page->counts ? page->counts[index] : 0,
    };
}

int queue_take(struct queue *queue, struct queue_item *item)
{
    if (queue->closed || queue->ready == 0)
        return E_NOT_FOUND;
    struct queue_place head = queue_head(queue);
    if (!queue_is_hot(queue, &head) || !queue_mark_allows(queue, &head))
        return E_AGAIN;
    if (upkeep_head_is_over(queue, &head)) {
        dispatch_soon(queue); /* at the next one, for the getter that will wait */
        return queue->ready > 0 ? E_AGAIN : E_NOT_FOUND;
    }
    *item = item_at(&head);
    message_ref(item->message);
    queue_lease(queue, &head);
    if (queue->upkeep)
        upkeep_took(queue);
    return 0;
}

/* Behind all of the same or a higher priority. Where all have the same, that is the end. */
static void insert_active(struct consumer *consumer)
{
    struct list *active = &consumer->queue->active;
    struct list *behind = active->previous;

    while (behind != active &&
           CONTAINER_OF(behind, struct consumer, link)->priority < consumer->priority)
        behind = behind->previous;
    list_insert_before(behind->next, &consumer->link);
}

/* Those that are not chosen stand in line for it, in the order in which they came. */
static bool stands_in_line(const struct consumer *consumer)
{
    return queue_chooses(consumer->queue) && consumer->queue->upkeep->chosen != consumer;
}

static void consumer_place(struct consumer *consumer)
{
    bool can = consumer->credit_messages > 0 && consumer->credit_bytes > 0 && !consumer->parked;

    if (stands_in_line(consumer)) {
        if (!list_linked(&consumer->link))
            list_append(&consumer->queue->idle, &consumer->link);
        return;
    }
    list_remove(&consumer->link);
    if (!can) {
        list_append(&consumer->queue->idle, &consumer->link);
        return;
    }
    insert_active(consumer);
    queue_activate(consumer->queue);
}

static void charge(struct consumer *consumer, const struct queue_item *item)
{
    if (consumer->credit_messages != CONSUMER_UNLIMITED)
        consumer->credit_messages--;
    consumer->credit_bytes -= (int64_t)message_footprint(item->message);
    consumer->delivered++;
}

/* One message to the consumer whose turn it is. False when this queue cannot go on now. */
static bool deliver_one(struct queue *queue)
{
    struct consumer *consumer = CONTAINER_OF(list_first(&queue->active), struct consumer, link);
    struct queue_place head = queue_head(queue);

    if (!queue_is_hot(queue, &head) || !queue_mark_allows(queue, &head))
        return false;
    if (upkeep_head_is_over(queue, &head))
        return true;
    struct queue_item item = item_at(&head);
    if (queue->host->events->deliver(queue->host->context, consumer, &item) != 0) {
        consumer->parked = true;
        consumer_place(consumer);
        return true;
    }
    charge(consumer, &item);
    queue_lease(queue, &head);
    if (consumer->settles_itself)
        queue_settle(queue, head.sequence, SETTLE_DELIVERED);
    consumer_place(consumer);
    return true;
}

/* Returns true when it has more to give and could go on. */
static bool dispatch_queue(struct queue *queue)
{
    if (queue->getters_wait) {
        queue->getters_wait = false;
        queue->host->events->get(queue->host->context, queue);
    }
    if (queue->upkeep)
        upkeep_look(queue);
    for (unsigned i = 0; i < DISPATCH_BURST; i++) {
        if (queue->ready == 0 || list_empty(&queue->active) || queue->closed)
            return false;
        if (!deliver_one(queue))
            return false;
    }
    return true;
}

static void dispatch_run(struct task *task)
{
    struct queue_host *host = CONTAINER_OF(task, struct queue_host, dispatch);
    uint64_t since_ns = loop_precise_ns(host->loop);

    while (!list_empty(&host->ready)) {
        struct queue *queue = CONTAINER_OF(list_take_first(&host->ready), struct queue, ready_link);
        queue_ref(queue);
        if (dispatch_queue(queue) && !list_linked(&queue->ready_link))
            list_append(&host->ready, &queue->ready_link);
        /* the owner frees what it has closed in a later turn, so this is never the last reference
         */
        bool last = queue_unref(queue);
        ASSERT(!last);
        if (loop_precise_ns(host->loop) - since_ns > TURN_SLICE_NS)
            break;
    }
    if (!list_empty(&host->ready))
        loop_defer(host->loop, &host->dispatch, LOOP_DISPATCH);
}

void queue_host_init(struct queue_host *host)
{
    task_init(&host->dispatch, dispatch_run);
    list_init(&host->ready);
    list_init(&host->awaiting_mark);
    list_init(&host->closed_dirty);
    list_init(&host->upkeep);
    task_init(&host->upkeep_task, upkeep_task_run);
    list_init(&host->delays);
    task_init(&host->delay_task, delay_task_run);
    host->quarantined = 0;
    host->has_failed = false;
    host->has_begun = false;
}

void queue_host_fini(struct queue_host *host)
{
    ASSERT(list_empty(&host->ready) && list_empty(&host->upkeep) && list_empty(&host->delays));
    task_cancel(&host->dispatch);
    task_cancel(&host->upkeep_task);
    task_cancel(&host->delay_task);
}

/* ---- consumers ---- */

void consumer_add(struct consumer *consumer)
{
    queue_ref(consumer->queue);
    consumer->queue->consumers++;
    consumer->parked = false;
    consumer->delivered = 0;
    list_init(&consumer->link);
    if (queue_chooses(consumer->queue) && !consumer->queue->upkeep->chosen)
        consumer->queue->upkeep->chosen = consumer;
    consumer_place(consumer);
}

/* The first of those with the highest priority. */
static void choose(struct queue *queue)
{
    struct consumer *best = NULL;

    LIST_EACH (&queue->idle, link) {
        struct consumer *consumer = CONTAINER_OF(link, struct consumer, link);
        if (!best || consumer->priority > best->priority)
            best = consumer;
    }
    queue->upkeep->chosen = best;
    if (best)
        consumer_place(best);
}

bool consumer_remove(struct consumer *consumer)
{
    struct queue *queue = consumer->queue;

    list_remove(&consumer->link);
    if (queue_chooses(queue) && queue->upkeep->chosen == consumer)
        choose(queue);
    if (queue->upkeep)
        upkeep_look(queue); /* which waited for its turn */
    ASSERT(queue->consumers > 0);
    queue->consumers--;
    return queue_unref(queue);
}

void consumer_credit(struct consumer *consumer, uint32_t messages, uint64_t bytes)
{
    bool waited = list_linked(&consumer->link) &&
                  (consumer->credit_messages == 0 || consumer->credit_bytes <= 0);

    if (consumer->credit_messages != CONSUMER_UNLIMITED) {
        uint32_t room = CONSUMER_UNLIMITED - 1 - consumer->credit_messages;
        consumer->credit_messages += messages < room ? messages : room;
    }
    if (bytes > INT64_MAX / 4)
        bytes = INT64_MAX / 4;
    if (consumer->credit_bytes < INT64_MAX / 4)
        consumer->credit_bytes += (int64_t)bytes;
    if (waited)
        consumer_place(consumer);
}

void consumer_resume(struct consumer *consumer)
{
    if (consumer->parked) {
        consumer->parked = false;
        consumer_place(consumer);
    }
}
