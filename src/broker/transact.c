/*
 * Transactions: publishes and settlements that happen together or not at all, in whatever shards
 * the queues are. Here is the client's side, which keeps nothing on disk; part.h has the shards'.
 *
 *   collect   every publish is routed; what concerns a shard goes to its part there
 *   alone     there is one part, and it is small: it does all at once
 *   prepare   otherwise each part prepares; if one cannot, all are undone
 *   decide    one of the shards logs that the transaction happens; from then on it does
 *   end       all parts are told, and answer when everybody can see it; then the client is told
 *
 * So the client finds its own writes, wherever it looks. It does not wait for the parts' END to be
 * durable: the decision is.
 */
#include "broker/move.h"
#include "broker/part.h"
#include "broker/peer.h"

#include <stdlib.h>

#define ALONE_MAX       256u         /* publishes and settlements that are done in one turn */
#define ALONE_BYTES_MAX (256u << 10) /* and bytes of log */
#define CLOCK_ITEMS     32u

/* What it has to do in one shard. */
struct share {
    struct transaction *transaction;
    struct place *place;
    struct letter_part part; /* its name */
    struct part *here;       /* where the shard is here, while it is collected */
    bool is_logged;
    size_t log_bytes;
    struct catalog_queue **batch; /* of the publish at hand */
    size_t batch_count, batch_capacity;
    struct request request; /* nobody's: to prepare, to decide */
};

struct transaction {
    struct list link; /* worker.transactions */
    struct client *client;
    struct request *request; /* the client's */
    struct transaction_id id;
    struct publish *publishes;
    size_t publish_count, publish_at;
    const struct settlement *settlements;
    size_t settlement_count, settlement_at;
    uint64_t version;  /* of the catalog, that its queues need */
    uint64_t deletion; /* the latest of a queue that has what it is to settle; 0: none */
    size_t waiting;    /* for answers of shares */
    bool may_be_decided;
    struct peer *exhausted; /* of its credit: the next publish has to wait */
    struct share *decider;  /* NULL: nothing of it is durable */
    struct share **shares;  /* by shard; NULL: nothing to do there */
    size_t shard_count, share_count;
};

#define EACH_SHARE(transaction, share)                                                             \
    for (size_t i_ = 0; i_ < (transaction)->shard_count; i_++)                                     \
        for (struct share *share = (transaction)->shares[i_]; share; share = NULL)

/* ---- making and giving up ---- */

static struct transaction *transaction_new(struct client *client, struct request *request)
{
    struct worker *worker = client->worker;
    struct transaction *t = memory_new(sizeof *t);

    t->client = client;
    t->request = request;
    t->id.start = worker->start_number;
    t->id.number = ++worker->transaction_last * worker->count + worker->index;
    t->shard_count = worker->options.shard_count;
    t->shares = memory_new(t->shard_count * sizeof(void *));
    list_append(&worker->transactions, &t->link);
    return t;
}

static void transaction_free(struct transaction *t)
{
    EACH_SHARE(t, share)
    {
        free(share->batch);
        free(share);
    }
    list_remove(&t->link);
    free(t->shares);
    free(t);
}

void transactions_free(struct worker *worker)
{
    for (struct list *link; (link = list_first(&worker->transactions));)
        transaction_free(CONTAINER_OF(link, struct transaction, link));
}

static struct share *share_of(struct transaction *t, const struct catalog_queue *queue)
{
    ASSERT(queue->shard > 0 && queue->shard <= t->shard_count);
    struct share *share = t->shares[queue->shard - 1];

    if (share)
        return share;
    share = t->shares[queue->shard - 1] = memory_new(sizeof *share);
    share->transaction = t;
    share->place = queue->home;
    share->part = (struct letter_part){t->id, queue->shard};
    if (share->place->is_here)
        share->here = part_collect(shard_of(share->place), t->id);
    t->share_count++;
    return share;
}

/* ---- queues on their way ---- */

/* A queue that moves and that the transaction needs, or may need: of a large one that is not looked
 * at. NULL: it can begin. */
static const struct catalog_queue *must_wait_for(struct transaction *t)
{
    struct worker *worker = t->client->worker;
    struct catalog_queue **queues;
    struct failure failure;

    if (list_empty(&worker->moves) || t->request->failure.code != 0)
        return NULL;
    if (t->publish_count + t->settlement_count > ALONE_MAX) {
        LIST_EACH (&worker->moves, link) {
            const struct move *move = CONTAINER_OF(link, struct move, link);
            if (!move->is_stranded && !move->is_ending)
                return move->queue;
        }
    }
    for (size_t i = 0; i < t->settlement_count; i++) {
        const struct catalog_queue *queue = t->settlements[i].lease.queue;
        if (queue->move && !queue->dropped)
            return queue;
    }
    for (size_t i = 0; i < t->publish_count; i++) {
        struct publish *publish = &t->publishes[i];
        publish->queues = 0;
        if (client_route(t->client, publish, &queues, &publish->queues, &failure) != 0)
            continue; /* found again, and told, when it is collected */
        for (size_t q = 0; q < publish->queues; q++) {
            if (queues[q]->move)
                return queues[q];
        }
    }
    return NULL;
}

/* ---- collecting ---- */

static int share_charge(struct share *share, size_t bytes, struct failure *failure)
{
    share->is_logged = true;
    share->log_bytes += bytes;
    if (share->log_bytes <= LOG_GROUP_BYTES_MAX)
        return 0;
    return fail(failure, E_LIMIT, "the transaction is larger than %u bytes", LOG_GROUP_BYTES_MAX);
}

/* What a shard has to log of a publish: whether that can be is looked at before anything is. */
static int charge_publish(struct share *share, const struct message *message,
                          struct failure *failure)
{
    size_t logged = 0;

    for (size_t i = 0; i < share->batch_count; i++)
        logged += catalog_is_logged(share->batch[i]->flags);
    if (logged == 0 || !(message->flags & MESSAGE_PERSISTENT))
        return 0;
    if (logged > LOG_TARGETS_MAX)
        return fail(failure, E_LIMIT, "the message goes to more than %u durable queues",
                    LOG_TARGETS_MAX);
    return share_charge(share, log_message_bytes(message, logged), failure);
}

static void write_publish(struct share *share, const struct message *message, size_t wanted)
{
    struct peer *peer = peer_of(share->place);

    peer_part_publish(peer, &share->part, message, share->batch, share->batch_count, wanted);
    if (!peer_has_credit(peer))
        share->transaction->exhausted = peer;
}

static int share_publish(struct share *share, const struct publish *publish,
                         struct failure *failure)
{
    struct message *message = publish->message;
    size_t wanted = publish->must_be_taken ? share->batch_count : 0;
    int result = charge_publish(share, message, failure);

    if (result == 0 && share->here)
        part_publish(share->here, message, share->batch, share->batch_count, wanted);
    else if (result == 0)
        write_publish(share, message, wanted);
    share->batch_count = 0;
    return result;
}

static int collect_publish(struct transaction *t, struct publish *publish, struct failure *failure)
{
    struct catalog_queue **queues;

    publish->queues = 0;
    int result = client_route(t->client, publish, &queues, &publish->queues, failure);
    if (result == 0 && publish->queues == 0 && publish->must_be_taken)
        result = fail(failure, E_NOT_FOUND, "no queue wants it");
    for (size_t i = 0; i < publish->queues && result == 0; i++) {
        struct share *share = share_of(t, queues[i]);
        if (share->batch_count == share->batch_capacity) {
            share->batch_capacity = share->batch_count ? 2 * share->batch_count : 8;
            share->batch = memory_resize(share->batch, share->batch_capacity, sizeof *share->batch);
        }
        share->batch[share->batch_count++] = queues[i];
        t->version = queues[i]->version > t->version ? queues[i]->version : t->version;
    }
    if (result != 0 || publish->queues == 0)
        return result;
    t->client->worker->published++;
    EACH_SHARE(t, share)
    {
        if (share->batch_count > 0 && result == 0)
            result = share_publish(share, publish, failure);
    }
    return result;
}

/* The lease becomes the part's. */
static int collect_settlement(struct transaction *t, const struct settlement *settlement,
                              struct failure *failure)
{
    const struct lease *lease = &settlement->lease;
    struct catalog_queue *queue = lease->queue;
    int result = 0;

    if (queue->dropped) {
        t->deletion = queue->version > t->deletion ? queue->version : t->deletion;
    } else {
        struct share *share = share_of(t, queue);
        if (share->here)
            part_settle(share->here, queue->hosted, lease->sequence, settlement->outcome);
        else
            peer_part_settle(peer_of(share->place), &share->part, lease, settlement->outcome);
        if (catalog_is_logged(queue->flags))
            result = share_charge(share, PART_SETTLE_BYTES_MAX, failure);
    }
    catalog_queue_unref(queue);
    return result;
}

/* One of those that it publishes to has no credit left. */
static struct peer *exhausted_peer(const struct transaction *t)
{
    EACH_SHARE(t, share)
    {
        if (!share->place->is_here && !peer_has_credit(peer_of(share->place)))
            return peer_of(share->place);
    }
    return NULL;
}

/* True when all is collected, or has failed and all leases are with parts or given back; else the
 * turn is over, or the credit of a peer. */
static bool collect(struct transaction *t, struct failure *failure)
{
    struct loop *loop = t->client->worker->loop;
    uint64_t until_ns = loop_precise_ns(loop) + TURN_SLICE_NS;
    unsigned done = 0;

    t->exhausted = exhausted_peer(t);
    while (t->publish_at < t->publish_count && failure->code == 0) {
        if (t->exhausted)
            return false;
        failure->code = collect_publish(t, &t->publishes[t->publish_at++], failure);
        if (++done % CLOCK_ITEMS == 0 && loop_precise_ns(loop) > until_ns)
            return false;
    }
    while (t->settlement_at < t->settlement_count) {
        const struct settlement *settlement = &t->settlements[t->settlement_at++];
        if (failure->code == 0)
            failure->code = collect_settlement(t, settlement, failure);
        else
            broker_settle(t->client, &settlement->lease, 1, OUTCOME_RETURN);
        if (++done % CLOCK_ITEMS == 0 && loop_precise_ns(loop) > until_ns)
            return false;
    }
    return true;
}

/* ---- ending ---- */

/* The client's request has all it needs to go on. */
static void over(struct transaction *t)
{
    struct request *request = t->request;

    if (t->version)
        request_wait(request, &t->client->worker->catalog_settled, t->version);
    transaction_free(t);
}

static void request_of_share(struct share *share, int (*next)(struct request *request))
{
    struct request *request = &share->request;

    request->failure.code = 0;
    request->client = share->transaction->client;
    request->waits[0] = request->waits[1] = (struct mark){0};
    request->next = next;
    list_init(&request->link);
}

static void ended_one(struct transaction *t)
{
    struct request *request = t->request;

    if (--t->waiting > 0)
        return;
    over(t);
    request_go_on(request);
}

static int ended(struct request *request)
{
    ended_one(CONTAINER_OF(request, struct share, request)->transaction);
    return PENDING;
}

/* All is told: to commit, if the request has no failure. */
static void end(struct transaction *t)
{
    uint32_t decider = t->decider ? t->decider->part.shard : 0;
    bool commit = t->request->failure.code == 0;

    t->waiting = t->share_count + 1;
    EACH_SHARE(t, share)
    {
        request_of_share(share, ended);
        if (share->place->is_here)
            part_end(shard_of(share->place), t->id, decider, commit, &share->request);
        else
            peer_ask_end(&share->request, peer_of(share->place), &share->part, decider, commit);
    }
    ended_one(t);
}

/* ---- deciding ---- */

/* The first failure is the transaction's. */
static void take_failure(struct transaction *t, const struct failure *failure)
{
    if (t->request->failure.code == 0)
        t->request->failure = *failure;
}

static int decided(struct request *request)
{
    struct transaction *t = CONTAINER_OF(request, struct share, request)->transaction;
    struct request *asked = t->request;

    if (request->failure.code == 0 || (!t->may_be_decided && request->failure.code != E_TIMEOUT)) {
        take_failure(t, &request->failure);
        end(t);
        return PENDING;
    }
    /* parts stay as they are: the next start knows */
    fail(&asked->failure, E_FAILED,
         "storage has failed: whether the transaction happens is found out at the next start");
    over(t);
    request_go_on(asked);
    return PENDING;
}

static void decide(struct transaction *t)
{
    struct share *decider = t->decider;
    struct request *request = &decider->request;
    uint32_t *shards = memory_new(t->share_count * sizeof *shards);
    size_t count = 0;

    EACH_SHARE(t, share)
    {
        if (share->is_logged)
            shards[count++] = share->part.shard;
    }
    request_of_share(decider, decided);
    if (decider->place->is_here) {
        t->may_be_decided =
            decision_make(shard_of(decider->place), t->id, shards, count, request) == 0;
        request_go_on(request);
    } else {
        peer_decide(request, peer_of(decider->place), &decider->part, shards, count);
    }
    free(shards);
}

/* ---- preparing ---- */

static void prepared_one(struct transaction *t)
{
    if (--t->waiting > 0)
        return;
    if (t->request->failure.code == 0 && t->decider)
        decide(t);
    else
        end(t);
}

static int prepared(struct request *request)
{
    struct transaction *t = CONTAINER_OF(request, struct share, request)->transaction;

    take_failure(t, &request->failure);
    prepared_one(t);
    return PENDING;
}

/* A shard of this worker, if it can be: then nobody else need be asked. */
static void choose_decider(struct transaction *t)
{
    EACH_SHARE(t, share)
    {
        if (share->is_logged && (!t->decider || (share->here && !t->decider->here)))
            t->decider = share;
    }
}

static void prepare(struct transaction *t)
{
    choose_decider(t);
    uint32_t decider = t->decider ? t->decider->part.shard : 0;
    t->waiting = t->share_count + 1;
    EACH_SHARE(t, share)
    {
        request_of_share(share, prepared);
        if (share->here)
            part_prepare(share->here, decider, &share->request);
        else
            peer_part_ask(&share->request, peer_of(share->place), &share->part, false, decider);
    }
    prepared_one(t);
}

/* ---- the whole ---- */

static struct share *only_share(struct transaction *t)
{
    EACH_SHARE(t, share)
    return share;
    return NULL;
}

/* DONE: the request may end. PENDING: it goes on by itself. */
static int all_at_once(struct transaction *t)
{
    struct request *request = t->request;
    struct share *share = only_share(t);

    if (share->here) {
        part_do_alone(share->here, request);
        over(t);
        return DONE;
    }
    peer_part_ask(request, peer_of(share->place), &share->part, true, 0);
    over(t);
    return PENDING;
}

/* Nothing has happened yet, and nothing will. */
static void drop(struct transaction *t)
{
    EACH_SHARE(t, share)
    {
        if (share->here)
            part_drop(shard_of(share->place), t->id);
        else
            peer_part_drop(peer_of(share->place), &share->part);
    }
    over(t);
}

static int proceed(struct request *request)
{
    struct transaction *t = request->transaction;

    if (request->failure.code != 0) {
        drop(t);
        return DONE;
    }
    if (t->share_count == 0) {
        over(t);
        return DONE;
    }
    if (t->share_count == 1 && t->publish_count + t->settlement_count <= ALONE_MAX &&
        only_share(t)->log_bytes <= ALONE_BYTES_MAX)
        return all_at_once(t);
    prepare(t);
    return PENDING;
}

/* What it settles in a queue that is deleted goes with the queue; so first the deletion has to be
 * durable, else a crash would bring back a part of what the transaction did. */
static int collected(struct transaction *t)
{
    struct worker *worker = t->client->worker;

    worker->collecting--;
    if (!t->deletion)
        return proceed(t->request);
    request_wait(t->request, &worker->catalog_settled, t->deletion);
    t->request->next = proceed;
    return DONE;
}

static int collect_more(struct request *request);

/* Some of it is collected. DONE: it goes on when there is credit. PENDING: in the next turn. */
static int collect_later(struct transaction *t)
{
    struct request *request = t->request;

    if (!t->exhausted) {
        request_work(request);
        return PENDING;
    }
    peer_wait_for_credit(t->exhausted, request);
    request->next = collect_more;
    return DONE;
}

static int collect_more(struct request *request)
{
    struct transaction *t = request->transaction;

    return collect(t, &request->failure) ? collected(t) : collect_later(t);
}

static bool slice(struct request *request)
{
    list_remove(&request->link);
    return collect_more(request) == DONE;
}

/* It looks at its queues from here on: none of them will be quiet before it has collected all. */
static int begin(struct request *request)
{
    struct transaction *t = request->transaction;
    const struct catalog_queue *queue = must_wait_for(t);

    if (queue) {
        move_wait(request, queue, begin);
        return DONE;
    }
    t->client->worker->collecting++;
    request->slice = slice;
    return collect_more(request);
}

int broker_transact(struct client *client, struct request *request, struct publish *publishes,
                    size_t publish_count, const struct settlement *settlements,
                    size_t settlement_count)
{
    request_begin(client, request);
    struct transaction *t = transaction_new(client, request);
    t->publishes = publishes;
    t->publish_count = publish_count;
    t->settlements = settlements;
    t->settlement_count = settlement_count;
    request->transaction = t;
    return begin(request) == DONE ? request_end(request) : PENDING;
}
