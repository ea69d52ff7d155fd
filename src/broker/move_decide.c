/* Moving a queue: the worker with the catalog decides. */
#include "broker/change.h"
#include "broker/move.h"

#include <inttypes.h>

/* An event of a move, which is in the log already, if it is to be. */
static void tell_all(struct move *move, enum catalog_event kind, uint32_t what)
{
    uint8_t bytes[32];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct failure failure;

    catalog_encode_move(&w, kind, move->queue->id, what);
    int result = change_make(move->worker, &w, false, &failure);
    ASSERT(result == 0);
}

static void stays(struct move *move, int why)
{
    log_warning(move->worker->logger, "queue", "queue '%s' in vhost '%s' stays in shard %u (%s)",
                move->queue->name, move->queue->vhost->name, move->queue->shard, error_name(why));
    tell_all(move, CATALOG_QUEUE_STAYS, (uint32_t)-why);
}

int move_decide(struct worker *worker, uint64_t id, uint32_t shard, struct request *request,
                struct failure *failure)
{
    struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);

    ASSERT(worker_has_catalog(worker));
    if (!queue)
        return fail(failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    if (shard == 0 || shard > worker->options.shard_count)
        return fail(failure, E_NOT_FOUND, "there is no shard %u", shard);
    if (queue->flags & (CATALOG_EXCLUSIVE | CATALOG_HIDDEN))
        return fail(failure, E_UNSUPPORTED,
                    "queue '%s' in vhost '%s' belongs to a connection and does not move",
                    queue->name, queue->vhost->name);
    if (queue->move)
        return fail(failure, E_IN_USE, "queue '%s' in vhost '%s' is moving already", queue->name,
                    queue->vhost->name);
    if (worker->stopping)
        return fail(failure, E_CLOSED, "the broker is stopping");
    if (queue->shard == shard) {
        if (request)
            request_go_on(request);
        return 0;
    }
    uint8_t bytes[32];
    struct writer w = writer_of(bytes, sizeof bytes);
    catalog_encode_move(&w, CATALOG_QUEUE_MOVING, id, shard);
    int result = change_make(worker, &w, false, failure);
    ASSERT(result == 0);
    queue->move->request = request;
    queue->move->deadline_ns = loop_now_ns(worker->loop) + MOVE_DEADLINE_NS;
    return 0;
}

/* ---- the flip ---- */

/* The log has MOVED; or it has failed, and nobody knows. */
static int flipped(struct request *request)
{
    struct move *move = CONTAINER_OF(request, struct move, flip);

    if (request->failure.code == 0)
        tell_all(move, CATALOG_QUEUE_MOVED, move->target);
    else
        tell_all(move, CATALOG_QUEUE_STRANDED, 0);
    return PENDING;
}

static int log_moved(const struct move *move)
{
    uint8_t bytes[32];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_move(&w, CATALOG_QUEUE_MOVED, move->queue->id, move->target);
    return log_append_catalog(catalog_log(move->worker), slice_of(bytes, writer_size(&w)));
}

static void decide(struct move *move)
{
    struct worker *worker = move->worker;
    struct request *request = &move->flip;
    bool is_logged = catalog_is_logged(move->queue->flags);

    int result = is_logged ? log_moved(move) : 0;
    if (result != 0) {
        stays(move, result);
        return;
    }
    move->is_decided = true;
    memset(request, 0, sizeof *request);
    list_init(&request->link);
    request->client = worker->onward.client;
    request->next = flipped;
    if (is_logged) {
        move->queue->shard_logged = move->target; /* for a snapshot meanwhile */
        request_wait(request, &worker->shards[0]->place.line, log_block_last(catalog_log(worker)));
    }
    request_go_on(request);
}

void move_result(struct worker *worker, uint64_t id, uint64_t number, int result)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    struct move *move = queue ? queue->move : NULL;

    if (!move || move->number != number || move->is_over || move->is_decided)
        return;
    if (result == 0)
        decide(move);
    else
        stays(move, result);
}

void move_tell_result(struct worker *worker, uint64_t id, uint64_t number, int result)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    struct move *move = queue ? queue->move : NULL;

    if (!worker_has_catalog(worker)) {
        peer_tell_result(worker, id, number, result);
    } else if (move && move->number == number && !move->has_result) {
        move->has_result = true;
        move->result = result;
        timer_set(&move->tick, loop_now_ns(worker->loop));
    }
}

/* ---- its end ---- */

static void explain(struct failure *failure, const struct catalog_queue *queue, int why)
{
    static const struct {
        int code;
        const char *text;
    } reasons[] = {
        {E_IN_USE, "a transaction or a purge holds on to it"},
        {E_FULL, "the disk is full"},
        {E_TIMEOUT, "it took too long"},
    };

    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if (reasons[i].code == why) {
            fail(failure, why, "queue '%s' in vhost '%s' stays where it is: %s", queue->name,
                 queue->vhost->name, reasons[i].text);
            return;
        }
    }
    fail(failure, E_FAILED, "queue '%s' in vhost '%s' could not be moved: storage has failed",
         queue->name, queue->vhost->name);
}

void move_answer(struct move *move)
{
    struct worker *worker = move->worker;
    struct request *request = move->request;

    move->request = NULL;
    if (!request)
        return;
    if (move->why != 0)
        explain(&request->failure, move->queue, move->why);
    else if (!move->has_moved)
        fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    else
        change_wait(request, worker->catalog.events, false);
    request_go_on(request);
}

void move_watch(struct move *move)
{
    if (move->has_result) {
        move->has_result = false;
        move_result(move->worker, move->queue->id, move->number, move->result);
    }
    bool waits = !move->is_over && !move->is_stranded && !move->is_decided;

    if (waits && worker_has_catalog(move->worker) &&
        loop_now_ns(move->worker->loop) > move->deadline_ns)
        stays(move, E_TIMEOUT);
}

/* ---- asking for it ---- */

int broker_move_queue(struct client *client, struct request *request, struct slice name,
                      uint32_t shard)
{
    struct worker *worker = client->worker;
    struct failure *failure = &request->failure;
    const struct catalog_queue *queue = vhost_queue(client->vhost, name);

    request_begin(client, request);
    if (!client_has_tag(client, "administrator"))
        fail(failure, E_DENIED, "user '%s' is no administrator", client->user);
    else if (!queue)
        fail(failure, E_NOT_FOUND, "no queue '%.*s' in vhost '%s'", SLICE_ARGS(name),
             client->vhost->name);
    else if (!worker_has_catalog(worker))
        return peer_ask_move(request, queue->id, shard);
    else if (move_decide(worker, queue->id, shard, request, failure) == 0)
        return PENDING;
    return request_end(request);
}
