/* Moving a queue: how it leaves one shard and arrives in another. */
#include "broker/move.h"
#include "broker/peer.h"

#include <stdlib.h>

/* ---- settling ---- */

static bool goes_elsewhere(const struct leaving *leaving)
{
    return leaving->target != leaving->worker->index;
}

/* What has been told already has to be told of. */
static void leaving_settled(struct leaving *leaving, uint64_t first, uint64_t last,
                            enum outcome outcome)
{
    struct worker *worker = leaving->worker;
    uint64_t id = leaving->hosted->queue.id;

    if (!leaving->has_begun || first >= leaving->walk.at)
        return;
    if (last >= leaving->walk.at)
        last = leaving->walk.at - 1;
    if (goes_elsewhere(leaving))
        peer_tell_settle(worker, leaving->target, id, leaving->number, first, last, outcome);
    else
        arriving_settle(worker, id, leaving->number, first, last, outcome);
}

/* Who dies of it is told at the end, with all who are dead (tell_dead). */
static void settle_leaving(struct hosted *hosted, uint64_t sequence, enum outcome outcome)
{
    uint32_t dead = queue_dead_count(&hosted->queue);

    settle_here(&hosted->queue, sequence, sequence, outcome);
    if (hosted->leaving->is_over || queue_dead_count(&hosted->queue) == dead)
        leaving_settled(hosted->leaving, sequence, sequence, outcome);
}

static void hosted_settle(struct hosted *hosted, uint64_t first, uint64_t last,
                          enum outcome outcome)
{
    if (!hosted->leaving) {
        settle_here(&hosted->queue, first, last, outcome);
        return;
    }
    for (uint64_t sequence = first; sequence <= last; sequence++)
        settle_leaving(hosted, sequence, outcome);
}

void settle_leases(const struct catalog_queue *queue, uint64_t first, uint64_t last,
                   enum outcome outcome)
{
    if (queue->hosted)
        hosted_settle(queue->hosted, first, last, outcome);
    else if (!queue->home->is_here)
        peer_settle(peer_of(queue->home), queue->id, first, last, outcome);
}

void settle_anywhere(struct worker *worker, uint64_t id, uint64_t first, uint64_t last,
                     enum outcome outcome)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);

    if (queue)
        settle_leases(queue, first, last, outcome);
}

/* ---- leaving ---- */

static void leaving_ready(struct queue_walk *walk)
{
    struct leaving *leaving = CONTAINER_OF(walk, struct leaving, walk);

    if (!leaving->hosted)
        leaving_free(leaving);
    else if (leaving_go_on(leaving))
        move_go_on(leaving->hosted->named->move);
}

static void leaving_begin(struct move *move)
{
    struct worker *worker = move->worker;
    struct leaving *leaving = memory_new(sizeof *leaving);
    struct hosted *hosted = move->queue->hosted;

    leaving->worker = worker;
    leaving->hosted = hosted;
    leaving->number = move->number;
    leaving->target = worker_of_shard(worker, move->target);
    leaving->since_ns = loop_now_ns(worker->loop);
    leaving->walk.queue = &hosted->queue;
    leaving->walk.ready = leaving_ready;
    queue_ref(&hosted->queue);
    queue_rest(&hosted->queue, true);
    list_append(&worker->leavings, &leaving->link);
    hosted->leaving = leaving;
    getters_look_again(hosted);
    move_go_on(move);
}

void move_quiet(struct worker *worker, uint64_t id, uint64_t number)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    struct move *move = queue ? queue->move : NULL;

    if (!move || move->number != number || move->is_over || !queue->hosted)
        return; /* it is over already */
    if (++move->quiets == worker->count)
        leaving_begin(move);
}

void leaving_free(struct leaving *leaving)
{
    list_remove(&leaving->link);
    if (!leaving->walk.is_reading) /* else its log is gone, and what it has read */
        queue_walk_fini(&leaving->walk);
    free(leaving);
}

void leaving_end(struct leaving *leaving)
{
    struct hosted *hosted = leaving->hosted;

    hosted->leaving = NULL;
    leaving->hosted = NULL;
    if (!leaving->walk.is_reading)
        leaving_free(leaving);
    hosted_release(hosted);
}

static void leaving_failed(struct leaving *leaving, int why)
{
    leaving->is_over = true;
    move_tell_result(leaving->worker, leaving->hosted->queue.id, leaving->number, why);
}

/* All consumers, as far as the slice goes; false: there are more. */
static bool let_consumers_go(struct hosted *hosted, uint64_t until_ns)
{
    struct worker *worker = hosted->shard->place.worker;

    for (struct list *link; (link = list_first(&hosted->subscriptions));) {
        struct subscription *subscription = CONTAINER_OF(link, struct subscription, queue_link);
        subscription_leave(subscription);
        if (subscription->client->is_proxy)
            peer_consumer_moved(subscription);
        else
            move_adrift(subscription);
        if (loop_precise_ns(worker->loop) > until_ns)
            return false;
    }
    return true;
}

static void tell_begin(struct leaving *leaving)
{
    struct hosted *hosted = leaving->hosted;
    struct move_begin begin = {
        .queue = hosted->queue.id,
        .number = leaving->number,
        .returning = hosted->returning,
        .returning_exclusive = hosted->returning_exclusive,
    };

    leaving->has_begun = true;
    queue_dead_return(&hosted->queue);
    if (goes_elsewhere(leaving))
        peer_tell_begin(leaving->worker, leaving->target, &begin);
    else
        arriving_begin(leaving->worker, &begin);
    struct queue_standing standing;
    for (unsigned lane = 0; queue_standing(&hosted->queue, &lane, &standing); lane++) {
        if (goes_elsewhere(leaving))
            peer_tell_lane(leaving->worker, leaving->target, begin.queue, begin.number, &standing);
        else
            arriving_lane(leaving->worker, begin.queue, begin.number, &standing);
    }
}

static void tell_message(struct leaving *leaving, const struct queue_traveller *traveller)
{
    uint64_t id = leaving->hosted->queue.id;

    if (goes_elsewhere(leaving))
        peer_tell_message(leaving->worker, leaving->target, id, leaving->number, traveller);
    else
        arriving_message(leaving->worker, id, leaving->number, traveller);
    message_unref(traveller->message);
}

/* The rejected and those who came back too often die there, too; all others who are dead are as
 * well at the head or over the limit there. */
static void tell_dead(struct leaving *leaving)
{
    const struct queue *queue = &leaving->hosted->queue;

    for (uint32_t i = 0; i < queue_dead_count(queue); i++) {
        struct queue_dead dead = queue_dead_at(queue, i);
        leaving_settled(leaving, dead.sequence, dead.sequence,
                        dead.why == SETTLE_RETURNED ? OUTCOME_RETURN_COUNTED : OUTCOME_REJECT);
    }
}

static void tell_end(struct leaving *leaving)
{
    uint64_t id = leaving->hosted->queue.id;

    tell_dead(leaving);
    leaving->is_over = true;
    if (goes_elsewhere(leaving))
        peer_tell_end(leaving->worker, leaving->target, id, leaving->number);
    else
        arriving_end(leaving->worker, id, leaving->number);
}

/* Over there, or here, is room for more. */
static bool target_has_room(const struct leaving *leaving)
{
    const struct worker *worker = leaving->worker;

    return goes_elsewhere(leaving) ? peer_has_credit(worker->peers[leaving->target])
                                   : worker_flow_here(worker) != FLOW_BUSY;
}

static bool tell_messages(struct leaving *leaving, uint64_t until_ns)
{
    struct queue_traveller traveller;
    int result = 1;

    while (result == 1 && target_has_room(leaving)) {
        if (loop_precise_ns(leaving->worker->loop) >= until_ns)
            return true;
        result = queue_walk_next(&leaving->walk, &traveller);
        if (result == 1)
            tell_message(leaving, &traveller);
    }
    if (result == 0)
        tell_end(leaving);
    else if (result < 0 && result != E_AGAIN)
        leaving_failed(leaving, E_FAILED);
    return false;
}

/* All that was done to it at home, so that a crash cannot undo there what the target keeps: a
 * transaction that did something else, too, has it in the same block. */
static bool is_durable(struct leaving *leaving)
{
    const struct line *line = &leaving->hosted->shard->place.line;
    struct log *log = leaving->hosted->queue.log;

    if (!log)
        return true;
    if (line->failed) {
        leaving_failed(leaving, E_FAILED);
        return false;
    }
    if (leaving->block == 0) {
        leaving->block = log_block_last(log);
        log_commit(log);
    }
    return line->done >= leaving->block;
}

bool leaving_go_on(struct leaving *leaving)
{
    struct hosted *hosted = leaving->hosted;
    struct worker *worker = leaving->worker;
    uint64_t until_ns = loop_precise_ns(worker->loop) + JOB_SLICE_NS;

    if (!leaving->has_begun && !leaving->is_over && hosted->has_expired)
        leaving_failed(leaving, E_IN_USE); /* it is about to be deleted */
    if (leaving->is_over)
        return false;
    if (!let_consumers_go(hosted, until_ns))
        return true;
    if (!leaving->has_begun && hosted->queue.references > 2) { /* the catalog's and this */
        if (loop_now_ns(worker->loop) - leaving->since_ns > MOVE_IN_USE_NS)
            leaving_failed(leaving, E_IN_USE);
        return false;
    }
    if (!leaving->has_begun && !is_durable(leaving))
        return false;
    if (!leaving->has_begun)
        tell_begin(leaving);
    return tell_messages(leaving, until_ns);
}

/* ---- arriving ---- */

static struct move *move_of(const struct worker *worker, uint64_t id, uint64_t number)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    struct move *move = queue ? queue->move : NULL;

    return move && move->number == number && !move->is_over && !move->is_stranded ? move : NULL;
}

struct hosted *hosted_in(const struct catalog_queue *named, const struct shard *shard)
{
    if (named->hosted && named->hosted->shard == shard)
        return named->hosted;
    struct hosted *arriving = named->move ? named->move->arriving : NULL;
    return arriving && arriving->shard == shard ? arriving : NULL;
}

static void arriving_failed(struct move *move, int why)
{
    move->has_failed = true;
    move_tell_result(move->worker, move->queue->id, move->number, why);
}

void arriving_begin(struct worker *worker, const struct move_begin *begin)
{
    struct move *move = move_of(worker, begin->queue, begin->number);

    if (!move)
        return;
    struct shard *shard = shard_of(worker_place(worker, move->target));
    struct hosted *hosted = hosted_new_apart(shard, move->queue);
    queue_rest(&hosted->queue, true);
    hosted->returning = begin->returning;
    hosted->returning_exclusive = begin->returning_exclusive;
    hosted->arrived_by = move->number;
    move->arriving = hosted;
}

void arriving_lane(struct worker *worker, uint64_t id, uint64_t number,
                   const struct queue_standing *standing)
{
    struct move *move = move_of(worker, id, number);

    if (!move || move->has_failed)
        return;
    ASSERT(move->arriving);
    queue_arrive_lane(&move->arriving->queue, standing);
}

void arriving_message(struct worker *worker, uint64_t id, uint64_t number,
                      const struct queue_traveller *traveller)
{
    struct move *move = move_of(worker, id, number);
    uint64_t position = 0;

    if (!move || move->has_failed)
        return;
    ASSERT(move->arriving);
    struct queue *queue = &move->arriving->queue;
    if (traveller->is_logged) {
        struct log_target target = queue_arrival_target(queue, traveller);
        int result = log_append_message(queue->log, traveller->message, &target, 1, &position);
        if (result != 0) {
            arriving_failed(move, result);
            return;
        }
        if (!log_has_room(queue->log))
            worker->flow_may_have_changed = true;
    }
    queue_arrive(queue, traveller, position);
}

void arriving_settle(struct worker *worker, uint64_t id, uint64_t number, uint64_t first,
                     uint64_t last, enum outcome outcome)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    const struct move *move = queue ? queue->move : NULL;

    if (!queue)
        return;
    if (move && move->arriving && move->number == number) {
        if (!move->has_failed)
            settle_here(&move->arriving->queue, first, last, outcome);
    } else if (queue->hosted && queue->hosted->arrived_by == number) {
        hosted_settle(queue->hosted, first, last, outcome);
    }
}

static int arrived(struct request *request)
{
    struct move *move = CONTAINER_OF(request, struct move, arrived);

    move_tell_result(move->worker, move->queue->id, move->number, request->failure.code);
    return PENDING;
}

void arriving_end(struct worker *worker, uint64_t id, uint64_t number)
{
    struct move *move = move_of(worker, id, number);

    if (!move || move->has_failed)
        return;
    struct queue *queue = &move->arriving->queue;
    struct request *request = &move->arrived;
    memset(request, 0, sizeof *request);
    list_init(&request->link);
    request->client = worker->onward.client;
    request->next = arrived;
    if (queue->log) {
        queue_write_state(queue, false);
        request_wait(request, &move->arriving->shard->place.line, log_block_last(queue->log));
    }
    request_go_on(request);
}
