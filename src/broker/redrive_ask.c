/* Redrives, the client's side: begun where the queue lives, told by all workers, stopped. */
#include "broker/move.h"
#include "broker/peer.h"
#include "broker/redrive.h"

#include <stdlib.h>

/* ---- beginning ---- */

/* What waits until the queue has come to its place. */
struct asked_redrive {
    uint64_t queue;
    struct redrive_order order;
    size_t conditions_size;
    uint8_t conditions[];
};

static int check_target(struct client *client, const struct redrive_spec *spec,
                        struct failure *failure)
{
    struct catalog_queue *queue;

    if (spec->target.size > NAME_MAX_BYTES || spec->key.size > NAME_MAX_BYTES)
        return fail(failure, E_INVALID, "names and keys have up to %u bytes", NAME_MAX_BYTES);
    if (spec->to == REDRIVE_TO_EXCHANGE) {
        if (!vhost_exchange(client->vhost, spec->target))
            return fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '%s'",
                        SLICE_ARGS(spec->target), client->vhost->name);
        return client_may(client, ACCESS_WRITE, "exchange", spec->target, failure);
    }
    if (spec->to == REDRIVE_TO_QUEUE) {
        int result = client_find_queue(client, spec->target, &queue, failure);
        if (result != 0)
            return result;
        if (slice_equal(spec->target, spec->queue))
            return fail(failure, E_INVALID, "a queue is not redriven into itself");
    }
    /* what it publishes to queues goes there as if through the default exchange */
    return client_may(client, ACCESS_WRITE, "exchange", slice_text(""), failure);
}

static int check_spec(struct client *client, const struct redrive_spec *spec,
                      struct catalog_queue **queue, struct failure *failure)
{
    int result = client_find_queue(client, spec->queue, queue, failure);

    if (result == 0)
        result = client_may(client, ACCESS_READ, "queue", spec->queue, failure);
    if (result == 0)
        result = check_target(client, spec, failure);
    return result == 0 ? filter_check(spec->filter.conditions, failure) : result;
}

static int redrive_again(struct request *request);

static int redrive_from(struct request *request, struct catalog_queue *queue)
{
    struct asked_redrive *asked = request->internal;
    struct slice conditions = slice_of(asked->conditions, asked->conditions_size);

    if (queue->move) {
        move_wait(request, queue, redrive_again);
        return DONE;
    }
    request->result.redrive = asked->order.id;
    int outcome = DONE;
    if (queue->hosted)
        (void)!redrive_begin(request->client->worker, queue, &asked->order, conditions,
                             &request->failure);
    else
        outcome = peer_redrive(request, queue, &asked->order, conditions);
    free(request->internal);
    request->internal = NULL;
    return outcome;
}

static int redrive_again(struct request *request)
{
    struct client *client = request->client;
    const struct asked_redrive *asked = request->internal;
    struct catalog_queue *queue = catalog_queue_by_id(&client->worker->catalog, asked->queue);

    if (request->failure.code == 0 && !client->closed && queue)
        return redrive_from(request, queue);
    if (request->failure.code == 0 && !client->closed)
        fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    free(request->internal);
    request->internal = NULL;
    return DONE;
}

static void take_text(char text[NAME_MAX_BYTES + 1], struct slice from)
{
    if (from.size > 0)
        memcpy(text, from.data, from.size);
    text[from.size] = 0;
}

int broker_redrive(struct client *client, struct request *request, const struct redrive_spec *spec)
{
    struct worker *worker = client->worker;
    struct slice conditions = spec->filter.conditions;
    struct catalog_queue *queue;

    request_begin(client, request);
    memset(&request->result, 0, sizeof request->result);
    if (check_spec(client, spec, &queue, &request->failure) != 0)
        return request_end(request);
    struct asked_redrive *asked = memory_new(sizeof *asked + conditions.size);
    asked->queue = queue->id;
    asked->order = (struct redrive_order){
        .id = ++worker->redrive_last * worker->count + worker->index,
        .to = spec->to,
        .has_key = spec->key.data != NULL,
        .is_preview = spec->is_preview,
        .rate = spec->rate,
        .limit = spec->limit,
        .since_ms = spec->filter.since_ms,
        .until_ms = spec->filter.until_ms,
    };
    take_text(asked->order.target, spec->target);
    take_text(asked->order.key, spec->key);
    asked->conditions_size = conditions.size;
    if (conditions.size > 0)
        memcpy(asked->conditions, conditions.data, conditions.size);
    request->internal = asked;
    return redrive_from(request, queue) == DONE ? request_end(request) : PENDING;
}

/* ---- telling ---- */

struct redrives {
    struct client *client;
    size_t count;
    struct redrive_facts *facts;
};

struct redrives *redrives_open(struct client *client)
{
    struct redrives *redrives = memory_new(sizeof *redrives);

    redrives->client = client;
    return redrives;
}

void redrives_close(struct redrives *redrives)
{
    free(redrives->facts);
    free(redrives);
}

static bool may_see(const struct client *client, const struct redrive_facts *facts)
{
    const struct catalog *catalog = &client->worker->catalog;
    const struct vhost *vhost = catalog_vhost(catalog, slice_text(facts->vhost));

    return client_has_tag(client, "administrator") || client_has_tag(client, "monitoring") ||
           (vhost && catalog_permission(catalog, slice_text(client->user), vhost));
}

static int by_id(const void *a, const void *b)
{
    const struct redrive_facts *one = a, *other = b;

    return one->id < other->id ? -1 : one->id > other->id;
}

static void add(struct redrives *redrives, const struct redrive_facts *facts, size_t count)
{
    redrives->facts =
        memory_resize(redrives->facts, redrives->count + count + 1, sizeof *redrives->facts);
    for (size_t i = 0; i < count; i++) {
        if (may_see(redrives->client, &facts[i]))
            redrives->facts[redrives->count++] = facts[i];
    }
    qsort(redrives->facts, redrives->count, sizeof *redrives->facts, by_id);
}

void redrives_came(struct request *request, const struct redrive_facts *facts, size_t count)
{
    add(request->target, facts, count);
    if (--request->awaited == 0)
        request_go_on(request);
}

int redrives_ask(struct redrives *redrives, struct request *request)
{
    struct worker *worker = redrives->client->worker;
    struct redrive_facts *own = memory_new((REDRIVES_MAX + REDRIVES_KEPT) * sizeof *own);

    request_begin(redrives->client, request);
    request->target = redrives;
    request->awaited = 0;
    redrives->count = 0;
    add(redrives, own, redrives_tell(worker, own));
    free(own);
    for (unsigned i = 0; i < worker->count; i++) {
        if (worker->peers[i])
            peer_ask_redrives(request, worker->peers[i]);
    }
    return request->awaited > 0 ? PENDING : request_end(request);
}

size_t redrives_count(const struct redrives *redrives)
{
    return redrives->count;
}

const struct redrive_facts *redrives_at(const struct redrives *redrives, size_t index)
{
    ASSERT(index < redrives->count);
    return &redrives->facts[index];
}

/* ---- stopping ---- */

int broker_redrive_stop(struct client *client, struct request *request,
                        const struct redrive_facts *facts)
{
    struct worker *worker = client->worker;

    request_begin(client, request);
    ASSERT(facts->worker < worker->count);
    if (!slice_is(slice_text(client->vhost->name), facts->vhost))
        fail(&request->failure, E_NOT_FOUND, "no redrive %llu in vhost '%s'",
             (unsigned long long)facts->id, client->vhost->name);
    else
        (void)!client_may(client, ACCESS_READ, "queue", slice_text(facts->queue),
                          &request->failure);
    if (request->failure.code != 0)
        return request_end(request);
    if (facts->worker != worker->index) {
        peer_redrive_stop(request, worker->peers[facts->worker], facts->id);
        return PENDING;
    }
    (void)!redrive_stop(worker, facts->id, &request->failure);
    return request_end(request);
}
