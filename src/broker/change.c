/*
 * Changes of the catalog. The worker that hosts shard 1 decides: it gets *orders*, its own and by
 * mail, looks whether they can still be done, gives new objects their ids, logs what is durable,
 * applies, and tells every other worker. An order is answered when its event is settled: on disk,
 * if it is to be, and applied by all.
 *
 *   order   flags u8 (ORDER_IF_UNUSED), then an event (catalog.h), with id 0 for what is new
 */
#include "broker/change.h"

#include "broker/peer.h"

#include <inttypes.h>
#include <stdlib.h>

/* Logged events that are not durable yet. */
struct pending_event {
    uint64_t version, block;
};

struct changes {
    struct worker *worker;
    struct pending_event *pending; /* in the ring */
    struct ring ring;

    uint8_t *room; /* for the event at hand: EVENT_BYTES_MAX, made once */

    /* Exchanges that lost a binding while the order at hand was done. */
    uint64_t *losses;
    size_t losses_count, losses_capacity;
};

struct changes *changes_new(struct worker *worker)
{
    struct changes *changes = memory_new(sizeof *changes);

    changes->worker = worker;
    changes->room = memory_new(EVENT_BYTES_MAX);
    return changes;
}

void changes_free(struct changes *changes)
{
    free(changes->pending);
    free(changes->room);
    free(changes->losses);
    free(changes);
}

void change_binding_lost(void *context, uint64_t exchange_id)
{
    struct changes *changes = ((struct worker *)context)->changes;

    if (changes->losses_count == changes->losses_capacity) {
        changes->losses_capacity = changes->losses_capacity ? 2 * changes->losses_capacity : 16;
        changes->losses =
            memory_resize(changes->losses, changes->losses_capacity, sizeof *changes->losses);
    }
    changes->losses[changes->losses_count++] = exchange_id;
}

/* ---- which events are settled ---- */

static void pending_add(struct changes *changes, uint64_t version, uint64_t block)
{
    changes->pending = ring_reserve(&changes->ring, changes->pending, sizeof *changes->pending);
    changes->pending[ring_add(&changes->ring)] = (struct pending_event){version, block};
}

static uint64_t settled_now(const struct worker *worker)
{
    const struct changes *changes = worker->changes;
    uint64_t settled = worker->catalog.events;

    if (changes->ring.count > 0)
        settled = changes->pending[changes->ring.head].version - 1;
    for (unsigned i = 0; i < worker->count; i++) {
        if (worker->peers[i] && worker->peers[i]->applied < settled)
            settled = worker->peers[i]->applied;
    }
    return settled;
}

void changes_settle(struct worker *worker)
{
    struct changes *changes = worker->changes;
    uint64_t durable = log_block_durable(catalog_log(worker));

    while (changes->ring.count > 0 && changes->pending[changes->ring.head].block <= durable)
        ring_drop_first(&changes->ring);
    uint64_t settled = settled_now(worker);
    if (settled > worker->catalog_settled.done) {
        peers_tell_settled(worker, settled);
        line_advance(&worker->catalog_settled, settled);
        hosted_settled(worker);
    }
}

void changes_failed(struct worker *worker)
{
    line_fail(&worker->catalog_settled);
    peers_tell_settled(worker, worker->catalog_settled.done);
}

void change_wait(struct request *request, uint64_t version, bool logged)
{
    struct line *settled = &request->client->worker->catalog_settled;

    if (logged || !settled->failed)
        request_wait(request, settled, version);
}

/* ---- making a change ---- */

int change_make(struct worker *worker, const struct writer *event, bool logged,
                struct failure *failure)
{
    struct changes *changes = worker->changes;
    struct slice bytes = slice_of(event->start, writer_size(event));

    if (event->failed)
        return fail(failure, E_LIMIT, "names and arguments are larger than %u bytes",
                    EVENT_BYTES_MAX);
    int result = logged ? log_append_catalog(catalog_log(worker), bytes) : 0;
    if (result != 0)
        return fail(failure, result, "%s",
                    result == E_FULL
                        ? "the disk is full: nothing durable can be declared or deleted"
                        : "storage has failed: nothing durable can be declared or deleted");
    bool quiet = worker->catalog_settled.done == worker->catalog.events &&
                 changes->ring.count == 0 && !logged && worker->count == 1;
    result = catalog_apply(&worker->catalog, bytes);
    ASSERT(result == 0);
    if (logged)
        pending_add(changes, worker->catalog.events, log_block_last(catalog_log(worker)));
    peers_tell_event(worker, bytes);
    if (quiet) /* and nobody can be waiting */
        worker->catalog_settled.done = worker->catalog.events;
    return 0;
}

/* A deletion cannot be refused for want of room: then the object is back after a restart. Where the
 * log has failed it is never settled, so that a queue is back with all that was done to it. */
static void make_drop(struct worker *worker, enum catalog_event kind, uint64_t id, bool logged)
{
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct failure failure;

    catalog_encode_drop(&w, kind, id);
    if (change_make(worker, &w, logged, &failure) == 0)
        return;
    log_error(worker->logger, "catalog",
              "the deletion of object %" PRIu64 " could not be logged: it will be back after a "
              "restart",
              id);
    if (log_is_failed(catalog_log(worker)))
        pending_add(worker->changes, worker->catalog.events + 1, UINT64_MAX);
    int result = change_make(worker, &w, false, &failure);
    ASSERT(result == 0);
}

static void drop_exchange(struct worker *worker, const struct catalog_exchange *exchange)
{
    make_drop(worker, CATALOG_EXCHANGE_DROP, exchange->id, exchange->flags & CATALOG_DURABLE);
}

/* Auto-deletion of exchanges that lost their last binding. Deleting one may add others, so it is a
 * loop over ids, not a recursion. */
static void drop_unbound(struct worker *worker)
{
    struct changes *changes = worker->changes;

    for (size_t i = 0; i < changes->losses_count; i++) {
        const struct catalog_exchange *e =
            map_get_number(&worker->catalog.exchanges_by_id, changes->losses[i]);
        if (e && (e->flags & CATALOG_AUTO_DELETE) && e->had_bindings &&
            route_binding_count(e->route) == 0)
            drop_exchange(worker, e);
    }
    changes->losses_count = 0;
}

/* ---- orders ---- */

static int taken(struct failure *failure)
{
    return fail(failure, E_AGAIN, "the name is taken by now");
}

static int gone(struct failure *failure, const char *what)
{
    return fail(failure, E_NOT_FOUND, "%s is gone by now", what);
}

static int make_exchange(struct worker *worker, struct slice bytes, struct failure *failure)
{
    struct exchange_event event;
    struct writer w = writer_of(worker->changes->room, EVENT_BYTES_MAX);
    int result = catalog_decode_exchange(bytes, &event);
    ASSERT(result == 0); /* it comes from ourselves */
    const struct vhost *vhost = map_get_number(&worker->catalog.vhosts_by_id, event.vhost);

    if (!vhost) {
        result = gone(failure, "the virtual host");
    } else if (vhost_exchange(vhost, event.name)) {
        result = taken(failure);
    } else {
        event.id = worker->catalog.next_id;
        catalog_encode_exchange(&w, &event);
        result = change_make(worker, &w, event.flags & CATALOG_DURABLE, failure);
    }
    return result;
}

static int make_queue(struct worker *worker, struct slice bytes, struct failure *failure)
{
    struct queue_event event;
    struct writer w = writer_of(worker->changes->room, EVENT_BYTES_MAX);
    int result = catalog_decode_queue(bytes, &event);
    ASSERT(result == 0);
    const struct vhost *vhost = map_get_number(&worker->catalog.vhosts_by_id, event.vhost);

    if (!vhost) {
        result = gone(failure, "the virtual host");
    } else if (vhost_queue(vhost, event.name)) {
        result = taken(failure);
    } else {
        event.id = worker->catalog.next_id;
        catalog_encode_queue(&w, &event);
        result = change_make(worker, &w, catalog_is_logged(event.flags), failure);
    }
    return result;
}

/* In place of the one of its name, whose id it takes. */
static int make_policy(struct worker *worker, struct slice bytes, struct failure *failure)
{
    struct policy_event event;
    struct writer w = writer_of(worker->changes->room, EVENT_BYTES_MAX);
    int result = catalog_decode_policy(bytes, &event);
    ASSERT(result == 0);
    const struct vhost *vhost = map_get_number(&worker->catalog.vhosts_by_id, event.vhost);

    if (!vhost)
        return gone(failure, "the virtual host");
    const struct policy *before = vhost_policy(vhost, event.kind, event.name);
    if (!before && vhost->policy_count[event.kind] >= POLICIES_MAX)
        return fail(failure, E_LIMIT, "vhost '%s' has %u policies, and may have no more",
                    vhost->name, POLICIES_MAX);
    event.id = before ? before->id : worker->catalog.next_id;
    catalog_encode_policy(&w, &event);
    return change_make(worker, &w, true, failure);
}

static int drop_policy(struct worker *worker, uint64_t id, struct failure *failure)
{
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);

    if (!map_get_number(&worker->catalog.policies_by_id, id))
        return gone(failure, "the policy");
    catalog_encode_drop(&w, CATALOG_POLICY_DROP, id);
    return change_make(worker, &w, true, failure);
}

static int drop(struct worker *worker, struct slice bytes, bool if_unused, struct failure *failure)
{
    struct reader r = reader_of(bytes);
    uint8_t kind = read_u8(&r);
    uint64_t id = read_varint(&r);

    if (kind == CATALOG_POLICY_DROP)
        return drop_policy(worker, id, failure);
    if (kind == CATALOG_EXCHANGE_DROP) {
        const struct catalog_exchange *e = map_get_number(&worker->catalog.exchanges_by_id, id);
        if (e && if_unused && route_binding_count(e->route) > 0)
            return fail(failure, E_IN_USE, "exchange '%s' in vhost '%s' in use", e->name,
                        e->vhost->name);
        if (e)
            drop_exchange(worker, e);
        return 0;
    }
    const struct catalog_queue *q = catalog_queue_by_id(&worker->catalog, id);
    if (q)
        make_drop(worker, CATALOG_QUEUE_DROP, id, catalog_is_logged(q->flags));
    return 0;
}

static int change_binding(struct worker *worker, struct slice bytes, struct failure *failure)
{
    struct reader r = reader_of(bytes);
    struct writer w = writer_of((uint8_t *)(uintptr_t)bytes.data, bytes.size);

    read_u8(&r);
    uint64_t source_id = read_varint(&r), target_id = read_varint(&r);
    const struct catalog_exchange *source =
        map_get_number(&worker->catalog.exchanges_by_id, source_id);
    const struct catalog_exchange *exchange =
        map_get_number(&worker->catalog.exchanges_by_id, target_id);
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, target_id);
    if (!source || (!exchange && !queue))
        return gone(failure, "the exchange or the queue");
    bool logged = (source->flags & CATALOG_DURABLE) &&
                  (exchange ? exchange->flags & CATALOG_DURABLE : catalog_is_logged(queue->flags));
    w.at = w.start + bytes.size;
    return change_make(worker, &w, logged, failure);
}

int change_execute(struct worker *worker, struct slice order, struct failure *failure)
{
    ASSERT(worker_has_catalog(worker) && order.size >= 2);
    bool if_unused = order.data[0] & ORDER_IF_UNUSED;
    struct slice event = slice_of(order.data + 1, order.size - 1);
    int result = 0;

    switch (event.data[0]) {
    case CATALOG_EXCHANGE:
        result = make_exchange(worker, event, failure);
        break;
    case CATALOG_QUEUE:
        result = make_queue(worker, event, failure);
        break;
    case CATALOG_POLICY:
        result = make_policy(worker, event, failure);
        break;
    case CATALOG_EXCHANGE_DROP:
    case CATALOG_QUEUE_DROP:
    case CATALOG_POLICY_DROP:
        result = drop(worker, event, if_unused, failure);
        break;
    case CATALOG_BINDING:
    case CATALOG_BINDING_DROP:
        result = change_binding(worker, event, failure);
        break;
    default:
        ASSERT(false); /* an order that nobody gives */
    }
    drop_unbound(worker);
    return result;
}

int change_order(struct request *request, const struct writer *order)
{
    struct worker *worker = request->client->worker;
    struct slice bytes = slice_of(order->start, writer_size(order));

    if (order->failed) {
        fail(&request->failure, E_LIMIT, "names and arguments are larger than %u bytes",
             EVENT_BYTES_MAX);
        return DONE;
    }
    if (!worker_has_catalog(worker))
        return peer_change(request, bytes);
    if (change_execute(worker, bytes, &request->failure) == 0)
        change_wait(request, worker->catalog.events, false);
    return DONE;
}

void worker_delete_queue(struct worker *worker, struct catalog_queue *queue)
{
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct failure failure = {0};

    write_u8(&w, 0);
    catalog_encode_drop(&w, CATALOG_QUEUE_DROP, queue->id);
    struct slice order = slice_of(bytes, writer_size(&w));
    if (!worker_has_catalog(worker)) {
        peer_tell_change(worker, order);
        return;
    }
    int result = change_execute(worker, order, &failure);
    ASSERT(result == 0);
}
