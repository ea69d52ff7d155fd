/* Moving queues, one after the other, from the shards with most to those with fewest. Where the
 * catalog is decided. */
#include "broker/move.h"

#include <inttypes.h>
#include <stdlib.h>

/* A queue that may move; the next one of the same shard behind it. */
struct movable {
    uint64_t id;
    uint32_t next; /* index + 1; 0: none */
};

struct rebalance {
    struct worker *worker;
    struct timer timer;
    struct catalog_walk walk;
    bool has_counted;
    bool is_moving;
    struct request request; /* nobody's: the move at hand */
    struct movable *movables;
    size_t count, capacity;
    uint32_t *first;  /* by shard: index + 1 */
    uint64_t *queues; /* by shard: how many there are now */
    uint32_t from, to;
    uint64_t moved, failed;
};

static size_t table_bytes(const struct rebalance *r)
{
    return r->worker->options.shard_count * (sizeof *r->first + sizeof *r->queues) +
           r->capacity * sizeof *r->movables;
}

void rebalance_free(struct worker *worker)
{
    struct rebalance *r = worker->rebalance;

    if (!r)
        return;
    timer_stop(&r->timer);
    list_remove(&r->request.link);
    if (!r->has_counted)
        catalog_walk_end(&r->walk);
    account_release(&worker->memory, table_bytes(r));
    free(r->movables);
    free(r->first);
    free(r->queues);
    free(r);
    worker->rebalance = NULL;
}

static void over(struct rebalance *r)
{
    log_info(r->worker->logger, "queue",
             "queues are balanced over %u shards: %" PRIu64 " have moved, %" PRIu64 " could not",
             r->worker->options.shard_count, r->moved, r->failed);
    rebalance_free(r->worker);
}

/* ---- counting ---- */

static void add(struct rebalance *r, const struct catalog_queue *queue)
{
    uint32_t shard = queue->shard - 1;

    if (queue->flags & (CATALOG_EXCLUSIVE | CATALOG_HIDDEN))
        return; /* it stays with its connection's worker */
    r->queues[shard]++;
    if (r->count == r->capacity) {
        size_t more = r->capacity ? r->capacity : 64;
        account_add(&r->worker->memory, more * sizeof *r->movables);
        r->capacity += more;
        r->movables = memory_resize(r->movables, r->capacity, sizeof *r->movables);
    }
    r->movables[r->count++] = (struct movable){queue->id, r->first[shard]};
    r->first[shard] = (uint32_t)r->count;
}

/* For a slice; false: there are more. */
static bool count_slice(struct rebalance *r)
{
    struct worker *worker = r->worker;
    uint64_t since_ns = loop_precise_ns(worker->loop);
    const struct catalog_queue *queue;

    for (unsigned i = 1; (queue = catalog_walk_next(&worker->catalog, &r->walk)); i++) {
        add(r, queue);
        if (i % 16 == 0 && loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    catalog_walk_end(&r->walk);
    r->has_counted = true;
    return true;
}

/* ---- moving ---- */

static int moved(struct request *request)
{
    struct rebalance *r = CONTAINER_OF(request, struct rebalance, request);

    r->is_moving = false;
    if (request->failure.code == 0) {
        r->moved++;
        r->queues[r->from]--;
        r->queues[r->to]++;
    } else {
        r->failed++;
    }
    timer_set(&r->timer, loop_now_ns(r->worker->loop));
    return PENDING;
}

/* From the shard with most to the one with fewest; false: there is no more to do. A queue that
 * could not move is not tried again. */
static bool choose(struct rebalance *r, uint64_t *id)
{
    r->from = r->to = 0;
    for (uint32_t i = 0; i < r->worker->options.shard_count; i++) {
        if (r->queues[i] > r->queues[r->from])
            r->from = i;
        if (r->queues[i] < r->queues[r->to])
            r->to = i;
    }
    uint32_t first = r->first[r->from];
    if (r->queues[r->from] - r->queues[r->to] < 2 || first == 0)
        return false;
    *id = r->movables[first - 1].id;
    r->first[r->from] = r->movables[first - 1].next;
    return true;
}

/* One that has gone or gone elsewhere since does not count any more. */
static bool is_still_there(struct rebalance *r, uint64_t id)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&r->worker->catalog, id);
    bool is_there = queue && queue->shard == r->from + 1;

    if (!is_there)
        r->queues[r->from]--;
    return is_there;
}

static void move_next(struct rebalance *r)
{
    struct request *request = &r->request;
    uint64_t id;

    memset(request, 0, sizeof *request);
    list_init(&request->link);
    request->client = r->worker->onward.client;
    request->next = moved;
    if (r->worker->stopping || !choose(r, &id)) {
        over(r);
        return;
    }
    r->is_moving = is_still_there(r, id);
    if (r->is_moving && move_decide(r->worker, id, r->to + 1, request, &request->failure) != 0)
        moved(request);
    else if (!r->is_moving)
        timer_set(&r->timer, loop_now_ns(r->worker->loop));
}

static void tick(struct timer *timer)
{
    struct rebalance *r = CONTAINER_OF(timer, struct rebalance, timer);

    if (!r->has_counted && !count_slice(r))
        timer_set(&r->timer, loop_now_ns(r->worker->loop));
    else
        move_next(r);
}

void rebalance_begin(struct worker *worker)
{
    struct rebalance *r;

    ASSERT(worker_has_catalog(worker));
    if (worker->rebalance || worker->stopping)
        return; /* it is at it; or it will not be */
    r = worker->rebalance = memory_new(sizeof *r);
    r->worker = worker;
    r->first = memory_new(worker->options.shard_count * sizeof *r->first);
    r->queues = memory_new(worker->options.shard_count * sizeof *r->queues);
    account_add(&worker->memory, table_bytes(r));
    list_init(&r->request.link);
    catalog_walk_begin(&worker->catalog, &r->walk);
    timer_init(&r->timer, worker->loop, tick);
    timer_set(&r->timer, loop_now_ns(worker->loop));
}

int broker_rebalance(struct client *client, struct request *request)
{
    struct worker *worker = client->worker;

    request_begin(client, request);
    if (!client_has_tag(client, "administrator"))
        fail(&request->failure, E_DENIED, "user '%s' is no administrator", client->user);
    else if (!worker_has_catalog(worker))
        return peer_ask_rebalance(request);
    else
        rebalance_begin(worker);
    return request_end(request);
}
