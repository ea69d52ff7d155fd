/* Moving a queue, on each worker: who must wait while it is on its way, and goes on when it has
 * come. */
#include "broker/move.h"

#include "broker/peer.h"

#include <stdlib.h>

/* A publish to a queue on its way. */
struct held_publish {
    struct list link;  /* move.held, then onward.sent */
    struct list order; /* onward.order, if somebody wants to know */
    struct message *message;
    uint64_t number;   /* in the onward line; 0: nobody wants to know */
    uint64_t sequence; /* of the onward publisher, once it has gone on */
    bool is_confirmed;
    size_t bytes;
};

/* ---- the onward place ---- */

/* The line has come up to where the first is that is not confirmed. */
static void onward_advance(struct worker *worker)
{
    struct onward *onward = &worker->onward;

    for (struct list *link; (link = list_first(&onward->order));) {
        struct held_publish *held = CONTAINER_OF(link, struct held_publish, order);
        if (!held->is_confirmed)
            break;
        list_remove(link);
        free(held);
    }
    const struct list *first = list_first(&onward->order);
    line_advance(&onward->place.line,
                 first ? CONTAINER_OF(first, struct held_publish, order)->number - 1
                       : onward->last);
}

static void held_is_confirmed(struct worker *worker, struct held_publish *held, bool accepted)
{
    held->is_confirmed = true;
    if (!accepted)
        publishers_refuse(worker, &worker->onward.place.line, held->number, held->number);
}

static void onward_confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct worker *worker = session;

    (void)cookie;
    for (struct list *link; (link = list_first(&worker->onward.sent));) {
        struct held_publish *held = CONTAINER_OF(link, struct held_publish, link);
        if (held->sequence > last)
            break;
        list_remove(link);
        held_is_confirmed(worker, held, accepted);
    }
    onward_advance(worker);
}

static const struct client_events onward_events = {.confirmed = onward_confirmed};

void moves_new(struct worker *worker)
{
    struct onward *onward = &worker->onward;

    list_init(&worker->moves);
    list_init(&worker->leavings);
    list_init(&onward->order);
    list_init(&onward->sent);
    onward->place.worker = worker;
    onward->place.is_onward = true;
    line_init(&onward->place.line);
    onward->client = client_new_proxy(worker, &onward_events, worker);
    onward->publisher = publisher_open(onward->client, NULL);
}

static void held_free(struct held_publish *held)
{
    list_remove(&held->link);
    list_remove(&held->order);
    if (held->message)
        message_unref(held->message);
    free(held);
}

static void move_free(struct move *move)
{
    timer_stop(&move->tick);
    list_remove(&move->link);
    list_remove(&move->arrived.link);
    list_remove(&move->flip.link);
    list_remove(&move->over.going);
    if (move->queue->move == move) {
        move->queue->move = NULL;
        move->queue->place = move->queue->home;
    }
    catalog_queue_unref(move->queue);
    free(move);
}

static void move_abandon(struct move *move)
{
    struct list *link;

    while ((link = list_first(&move->held)))
        held_free(CONTAINER_OF(link, struct held_publish, link));
    while ((link = list_take_first(&move->over.requests)))
        free(CONTAINER_OF(link, struct request, link)->internal);
    while (list_take_first(&move->adrift))
        ;
    if (move->arriving)
        hosted_abandon(move->arriving);
    move_free(move);
}

void moves_abandon(struct worker *worker)
{
    client_abandon(worker->onward.client);
}

void moves_free(struct worker *worker)
{
    struct onward *onward = &worker->onward;
    struct list *link;

    rebalance_free(worker);
    while ((link = list_first(&worker->leavings)))
        leaving_free(CONTAINER_OF(link, struct leaving, link));
    while ((link = list_first(&worker->moves)))
        move_abandon(CONTAINER_OF(link, struct move, link));
    while ((link = list_first(&onward->sent)))
        held_free(CONTAINER_OF(link, struct held_publish, link));
    while ((link = list_first(&onward->order)))
        held_free(CONTAINER_OF(link, struct held_publish, order));
    free(onward->place.batch);
}

bool moves_are_over(const struct worker *worker)
{
    LIST_EACH (&worker->moves, link) {
        if (!CONTAINER_OF(link, struct move, link)->is_stranded)
            return false;
    }
    return list_empty(&worker->leavings) && list_empty(&worker->onward.order) && !worker->rebalance;
}

/* ---- waiting ---- */

void move_wait(struct request *request, const struct catalog_queue *queue,
               int (*next)(struct request *request))
{
    request->next = next;
    request_wait(request, &queue->move->over, 1);
}

static void hold(struct move *move, struct message *message, uint64_t number)
{
    struct held_publish *held = memory_new(sizeof *held);
    struct onward *onward = &move->worker->onward;

    held->message = message_ref(message);
    held->number = number;
    held->bytes = message_footprint(message);
    list_init(&held->order);
    list_append(&move->held, &held->link);
    if (number)
        list_append(&onward->order, &held->order);
    onward->bytes += held->bytes;
}

int move_hold(struct client *client, struct publish *publish, struct catalog_queue **queues,
              size_t count, struct mark *mark)
{
    struct onward *onward = &client->worker->onward;

    *mark = (struct mark){0};
    for (size_t i = 0; i < count; i++) {
        if (queues[i]->move->is_stranded)
            return storage_failure(E_FAILED, &publish->failure);
    }
    uint64_t number = publish->publisher ? ++onward->last : 0;
    if (number)
        *mark = (struct mark){&onward->place.line, number};
    for (size_t i = 0; i < count; i++)
        hold(queues[i]->move, publish->message, number);
    client->is_held_back = client->is_held_back || !onward_has_room(client->worker);
    return 0;
}

/* ---- going on ---- */

static void tick_after(struct move *move, uint64_t ns)
{
    timer_set(&move->tick, loop_now_ns(move->worker->loop) + ns);
}

void move_go_on(struct move *move)
{
    tick_after(move, 0);
}

/* Out of its move's list: on, or, since the queue is gone, nowhere. */
static void held_go_on(struct move *move, struct held_publish *held)
{
    struct worker *worker = move->worker;
    struct onward *onward = &worker->onward;
    struct publish publish = {.message = held->message,
                              .publisher = held->number ? onward->publisher : NULL};

    list_remove(&held->link);
    onward->bytes -= held->bytes;
    if (publish_onward(worker, &publish, move->queue->dropped ? NULL : move->queue) != 0)
        log_debug(worker->logger, "queue", "a message is lost: %s", publish.failure.text);
    message_unref(held->message);
    held->message = NULL;
    if (!held->number) {
        free(held);
        return;
    }
    held->sequence = ++onward->sent_last;
    list_append(&onward->sent, &held->link);
}

static bool may_go_on(const struct move *move)
{
    struct place *home = move->queue->home;

    return move->queue->dropped || home->is_here || peer_has_credit(peer_of(home));
}

/* Consumers first, then publishes; false: there is more. */
static bool go_on(struct move *move, uint64_t until_ns)
{
    struct loop *loop = move->worker->loop;
    struct list *link;

    while ((link = list_take_first(&move->adrift))) {
        subscription_return(CONTAINER_OF(link, struct subscription, queue_link));
        if (loop_precise_ns(loop) > until_ns)
            return false;
    }
    if (move->gone > 0 && !move->queue->dropped) {
        uint32_t gone = move->gone;
        move->gone = 0;
        move_consumers_gone(move->worker, move->queue->id, gone);
    }
    while ((link = list_first(&move->held))) {
        if (!may_go_on(move))
            return false;
        held_go_on(move, CONTAINER_OF(link, struct held_publish, link));
        if (loop_precise_ns(loop) > until_ns)
            return false;
    }
    return true;
}

/* Those who have waited go on in their own time. */
static void end(struct move *move)
{
    if (list_empty(&move->over.requests) && !list_linked(&move->over.going))
        move_free(move);
    else
        tick_after(move, 0);
}

static void over(struct move *move)
{
    struct worker *worker = move->worker;
    struct catalog_queue *queue = move->queue;

    queue->move = NULL;
    queue->place = queue->home;
    if (queue->hosted && !queue->hosted->queue.closed) {
        queue_rest(&queue->hosted->queue, false);
        hosted_bury(queue->hosted);
    }
    line_advance(&move->over, 1);
    move_answer(move);
    move->is_ending = true;
    tick_after(move, 0);
    worker->flow_may_have_changed = true;
    if (!list_empty(&worker->flow_waiters) && !worker->stopping)
        timer_set(&worker->watch, loop_now_ns(worker->loop));
}

/* ---- ticks: nothing is done from inside an event of the catalog ---- */

static void tell_quiet(struct move *move)
{
    struct worker *worker = move->worker;
    unsigned home = worker_of_shard(worker, move->queue->shard);

    move->is_quiet = true;
    if (home == worker->index)
        move_quiet(worker, move->queue->id, move->number);
    else
        peer_tell_quiet(worker, home, move->queue->id, move->number);
}

/* What it holds is refused, what waits here fails. */
static void stranded(struct move *move)
{
    struct worker *worker = move->worker;

    for (struct list *link; (link = list_first(&move->held));) {
        struct held_publish *held = CONTAINER_OF(link, struct held_publish, link);
        list_remove(link);
        worker->onward.bytes -= held->bytes;
        message_unref(held->message);
        held->message = NULL;
        if (held->number)
            held_is_confirmed(worker, held, false);
        else
            free(held);
    }
    onward_advance(worker);
    line_fail(&move->over);
    move_answer(move);
}

static void tick(struct timer *timer)
{
    struct move *move = CONTAINER_OF(timer, struct move, tick);
    struct worker *worker = move->worker;

    if (move->is_ending) {
        end(move);
        return;
    }
    move_watch(move);
    if (move->is_stranded) {
        stranded(move);
        return;
    }
    if (move->is_over) {
        if (go_on(move, loop_precise_ns(worker->loop) + JOB_SLICE_NS))
            over(move);
        else
            tick_after(move, may_go_on(move) ? 0 : MOVE_POLL_NS);
        return;
    }
    if (!move->is_quiet && worker->collecting == 0)
        tell_quiet(move);
    struct leaving *leaving = move->queue->hosted ? move->queue->hosted->leaving : NULL;
    bool has_more = leaving && leaving_go_on(leaving);
    if (!move->is_over && !timer_is_set(&move->tick))
        tick_after(move, has_more ? 0 : MOVE_POLL_NS);
}

/* ---- the catalog's callbacks ---- */

static struct move *move_new(struct worker *worker, struct catalog_queue *queue)
{
    struct move *move = memory_new(sizeof *move);

    move->worker = worker;
    move->queue = queue;
    catalog_queue_ref(queue);
    line_init(&move->over);
    list_init(&move->held);
    list_init(&move->adrift);
    list_init(&move->arrived.link);
    list_init(&move->flip.link);
    timer_init(&move->tick, worker->loop, tick);
    list_append(&worker->moves, &move->link);
    queue->move = move;
    queue->place = &worker->onward.place;
    return move;
}

/* A worker may still be busy with what waited for the move before: that waits on. */
void queue_moving(void *context, struct catalog_queue *queue, uint32_t shard)
{
    struct worker *worker = context;
    struct move *move = queue->move ? queue->move : move_new(worker, queue);

    ASSERT(!move->arriving && (move->is_over || move->number == 0));
    move->number = worker->catalog.events;
    move->target = shard;
    move->is_over = move->is_quiet = move->has_failed = move->has_moved = false;
    move->quiets = 0;
    tick_after(move, 0);
}

static void known_again(struct move *move)
{
    if (move->queue->hosted && move->queue->hosted->leaving)
        leaving_end(move->queue->hosted->leaving);
    list_remove(&move->arrived.link);
    move->is_over = true;
    tick_after(move, 0);
}

/* In recovery, before any log has told of messages. */
static void moved_before(struct worker *worker, struct catalog_queue *queue)
{
    if (queue->hosted)
        hosted_abandon(queue->hosted);
    queue->place = queue->home = worker_place(worker, queue->shard);
    if (queue->home && queue->home->is_here && shard_of(queue->home)->log)
        hosted_new(shard_of(queue->home), queue);
}

void queue_moved(void *context, struct catalog_queue *queue)
{
    struct worker *worker = context;
    struct move *move = queue->move;

    if (!move) {
        moved_before(worker, queue);
        return;
    }
    known_again(move);
    move->has_moved = true;
    struct hosted *before = queue->hosted;
    queue->home = worker_place(worker, queue->shard);
    queue->hosted = move->arriving;
    move->arriving = NULL;
    if (queue->hosted)
        hosted_used(queue->hosted);
    if (before)
        hosted_leave(before);
}

void queue_stays(void *context, struct catalog_queue *queue, int why)
{
    struct move *move = queue->move;

    (void)context;
    if (!move)
        return;
    known_again(move);
    move->why = why;
    if (move->arriving)
        hosted_leave(move->arriving);
    move->arriving = NULL;
}

void queue_stranded(void *context, struct catalog_queue *queue)
{
    struct move *move = queue->move;

    (void)context;
    if (!move)
        return;
    if (queue->hosted && queue->hosted->leaving)
        leaving_end(queue->hosted->leaving);
    list_remove(&move->arrived.link);
    move->is_stranded = true;
    move->why = E_FAILED;
    tick_after(move, 0);
}

void move_dropped(struct move *move)
{
    known_again(move);
    move->is_stranded = false;
    if (move->arriving) /* where it would be, should the deletion not come to the disk */
        hosted_drop(move->arriving);
    move->arriving = NULL;
}

/* ---- consumers ---- */

void move_adrift(struct subscription *subscription)
{
    struct worker *worker = subscription->client->worker;
    const struct catalog_queue *queue =
        catalog_queue_by_id(&worker->catalog, subscription->queue_id);

    subscription->is_adrift = true;
    if (!queue || !queue->move) {
        subscription_return(subscription);
        return;
    }
    list_append(&queue->move->adrift, &subscription->queue_link);
    if (queue->move->is_over)
        tick_after(queue->move, 0);
}

void move_consumers_gone(struct worker *worker, uint64_t id, uint32_t count)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);

    if (!queue)
        return;
    if (queue->move) {
        queue->move->gone += count;
        if (!queue->move->is_over)
            return;
        count = queue->move->gone;
        queue->move->gone = 0;
    }
    if (!queue->hosted) {
        peer_tell_gone(worker, worker_of_shard(worker, queue->shard), id, count);
        return;
    }
    ASSERT(queue->hosted->returning >= count);
    queue->hosted->returning -= count;
    hosted_used(queue->hosted); /* as when a consumer leaves */
    if (queue->hosted->returning == 0)
        queue->hosted->returning_exclusive = false;
    hosted_check_unused(queue->hosted);
}
