/* Actors: clients of the broker, on any worker, and what they do with queues that stay. */
#include "world.h"

#define ALL_THAT_STAY ((1u << QUEUES_STAY) - 1)

static void next_ask(struct actor *actor);

/* ---- leases ---- */

static void lease_add(struct actor *actor, uint64_t id, struct lease lease)
{
    actor->world->known[id].leased = true;
    actor->lease_ids[actor->lease_count] = id;
    actor->leases[actor->lease_count++] = lease;
}

static struct lease lease_take(struct actor *actor, size_t index)
{
    struct lease lease = actor->leases[index];

    actor->world->known[actor->lease_ids[index]].leased = false;
    actor->leases[index] = actor->leases[--actor->lease_count];
    actor->lease_ids[index] = actor->lease_ids[actor->lease_count];
    return lease;
}

void actor_settle(struct actor *actor, size_t index, enum outcome outcome)
{
    uint64_t id = actor->lease_ids[index];
    struct lease lease = lease_take(actor, index);
    unsigned shard = lease.queue->shard;

    trace(actor->world, "actor %u settles %" PRIu64 " (%d)", actor->index, id, outcome);
    if (outcome == OUTCOME_ACCEPT || outcome == OUTCOME_REJECT)
        model_settled(actor, id, shard);
    broker_settle(actor->client, &lease, 1, outcome);
}

/* ---- events ---- */

static int on_deliver(void *session, void *cookie, const struct delivery *delivery)
{
    struct actor *actor = session;
    struct world *w = actor->world;

    (void)cookie;
    if (!actor->consumer_settles && actor->lease_count == LEASES_MAX)
        return E_ROOM;
    if (!w->resting && dice(w, 50) == 0)
        return E_ROOM;
    uint64_t id = model_delivered(actor, actor->consumer_queue, delivery, true);
    if (actor->consumer_settles)
        model_settled(actor, id, delivery->lease.queue->shard);
    else
        lease_add(actor, id, delivery->lease);
    return 0;
}

static void on_confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct actor *actor = session;
    struct world *w = actor->world;

    (void)cookie;
    CHECK(w, last <= actor->sequence && last > actor->confirmed,
          "confirm of %" PRIu64 " after %" PRIu64, last, actor->confirmed);
    trace(w, "actor %u: up to %" PRIu64 " %s", actor->index, actor->window[last],
          accepted ? "confirmed" : "refused");
    for (uint64_t s = actor->confirmed + 1; s <= last; s++)
        model_confirmed(actor, actor->window[s], accepted);
    actor->confirmed = last;
}

static void on_cancelled(void *session, void *cookie)
{
    struct actor *actor = session;
    (void)cookie;
    CHECK(actor->world,
          !actor->consumer_of ||
              standing_must(actor->world, actor->consumer_queue) != actor->consumer_of,
          "the consumer of %s is cancelled", queue_names[actor->consumer_queue]);
    actor->consumer = NULL;
    actor->consumer_of = 0;
}

static void on_flow(void *session, enum flow flow)
{
    struct actor *actor = session;
    CHECK(actor->world, flow != actor->flow, "actor %u is told flow %d twice", actor->index,
          (int)flow);
    actor->world->alarms += flow == FLOW_OPEN && actor->flow != FLOW_BUSY;
    actor->flow = flow;
}

static void on_kick(void *session, const char *reason)
{
    (void)session;
    (void)reason;
}

/* ---- requests and their answers ---- */

static void release_messages(struct actor *actor)
{
    for (size_t i = 0; i < actor->publish_count; i++)
        message_unref(actor->messages[i]);
    actor->publish_count = 0;
}

static void answer_transact(struct actor *actor)
{
    bool done = actor->request.failure.code == 0;

    trace(actor->world, "actor %u: transaction %u %s", actor->index, actor->transaction,
          done ? "committed" : actor->request.failure.text);
    model_transacted(actor->world, actor->transaction, done);
    release_messages(actor);
}

static void answer_subscribe(struct actor *actor)
{
    const struct catalog_queue *named =
        standing_look(actor->world, actor->worker, actor->consumer_queue);

    actor->consumer = actor->request.result.consumer;
    actor->consumer_of = named ? named->id : 0;
}

static void answer_get(struct actor *actor)
{
    struct delivery *d = &actor->request.result.get.delivery;

    if (actor->request.failure.code != 0 || !d->message)
        return;
    uint64_t id = model_delivered(actor, actor->asked_queue, d, false);
    message_unref(d->message);
    lease_add(actor, id, d->lease);
}

/* A queue that stays is there, once any worker has answered its declaration. */
static void check_there(struct actor *actor, bool used)
{
    const struct world *w = actor->world;

    if (actor->asked_queue < QUEUES)
        standing_answered(actor, used);

    CHECK(w,
          actor->request.failure.code != E_NOT_FOUND || actor->asked_queue >= QUEUES_STAY ||
              !(w->queues_there & 1u << actor->asked_queue) || w->corruption_reported,
          "actor %u, request %d: %s", actor->index, (int)actor->ask, actor->request.failure.text);
}

static void answered(struct actor *actor)
{
    struct world *w = actor->world;
    struct request *r = &actor->request;
    bool done = r->failure.code == 0;

    actor->busy = false;
    if (!done)
        trace(w, "actor %u, request %d: %s", actor->index, (int)actor->ask, r->failure.text);
    CHECK(w, r->failure.code != E_AGAIN, "an answer says: %s", r->failure.text);
    switch (actor->ask) {
    case ASK_LOGIN:
    case ASK_ENTER:
        CHECK(w, done, "login: %s", r->failure.text);
        actor->ready = actor->ask == ASK_ENTER;
        break;
    case ASK_DECLARE:
        if (done)
            actor->declared |= 1u << actor->asked_queue;
        if (done)
            w->queues_there |= 1u << actor->asked_queue;
        standing_answered(actor, true);
        break;
    case ASK_BIND:
        check_there(actor, false);
        if (done)
            actor->bound |= 1u << actor->asked_queue;
        if (done)
            w->queues_bound |= 1u << actor->asked_queue;
        break;
    case ASK_SUBSCRIBE:
        check_there(actor, true);
        if (done)
            answer_subscribe(actor);
        break;
    case ASK_GET:
        check_there(actor, true);
        answer_get(actor);
        break;
    case ASK_PURGE:
        check_there(actor, false);
        w->purges[actor->asked_queue]--;
        break;
    case ASK_TRANSACT:
        answer_transact(actor);
        break;
    case ASK_MOVE:
        mover_answered(actor);
        break;
    case ASK_DELETE:
    case ASK_RESTLESS_QUEUE:
    case ASK_RESTLESS:
        restless_answered(actor);
        break;
    case ASK_LOOK:
        looker_answered(actor);
        break;
    }
    if (!actor->ready || w->draining)
        next_ask(actor);
}

static void on_completed(void *session, struct request *request)
{
    struct actor *actor = session;
    CHECK(actor->world, request == &actor->request && actor->busy, "an answer to nothing");
    answered(actor);
}

void actor_asked(struct actor *actor, enum ask ask, int outcome)
{
    actor->ask = ask;
    actor->busy = outcome == PENDING;
    if (outcome == DONE)
        answered(actor);
}

static const struct client_events actor_events = {
    .completed = on_completed,
    .deliver = on_deliver,
    .confirmed = on_confirmed,
    .cancelled = on_cancelled,
    .flow = on_flow,
    .kick = on_kick,
};

/* Log in, enter: one after the other. */
static void next_ask(struct actor *actor)
{
    if (actor->busy || actor->leaving)
        return;
    if (!client_user(actor->client).size)
        actor_asked(actor, ASK_LOGIN,
                    broker_login(actor->client, &actor->request, slice_text("guest"),
                                 slice_text(PASSWORD)));
    else if (!actor->ready)
        actor_asked(actor, ASK_ENTER,
                    broker_enter(actor->client, &actor->request, slice_text("/")));
}

/* ---- what they do ---- */

static void declare(struct actor *actor, unsigned queue)
{
    struct queue_spec spec = {.name = slice_text(queue_names[queue]), .durable = true};

    trace(actor->world, "actor %u declares %s", actor->index, queue_names[queue]);
    standing_asked(actor, queue);
    actor_asked(actor, ASK_DECLARE, broker_declare_queue(actor->client, &actor->request, &spec));
}

/* The exchange for all queues that stay, then its bindings. */
static void bind_next(struct actor *actor)
{
    struct exchange_spec exchange = {
        .name = slice_text(FANOUT_NAME), .type = slice_text("fanout"), .durable = true};

    trace(actor->world, "actor %u binds, has %u", actor->index, actor->bound);
    if (!(actor->bound & 1u << QUEUES)) {
        actor->asked_queue = QUEUES; /* that is the exchange's bit */
        actor_asked(actor, ASK_BIND,
                    broker_declare_exchange(actor->client, &actor->request, &exchange));
        return;
    }
    standing_asked(actor, (unsigned)__builtin_ctz(~actor->bound));
    struct binding_spec binding = {.source = slice_text(FANOUT_NAME),
                                   .destination = slice_text(queue_names[actor->asked_queue])};
    actor_asked(actor, ASK_BIND, broker_bind(actor->client, &actor->request, &binding));
}

/* Where a message is to go, and does, if things are as the worker knows them. */
struct way {
    const char *exchange, *key;
    unsigned queues[QUEUES], count;
    bool exists; /* the exchange */
};

/* To all queues that stay, to an exchange that comes and goes, or to one queue. */
static void choose_way(struct actor *actor, struct way *way)
{
    static const char *const keys[] = {"a", "b", "a.b", "c"};
    struct world *w = actor->world;

    *way = (struct way){.exchange = "", .key = "", .exists = true};
    if (dice(w, 6) == 0 && actor->bound == (ALL_THAT_STAY | 1u << QUEUES)) {
        way->exchange = FANOUT_NAME;
        for (; way->count < QUEUES_STAY; way->count++)
            way->queues[way->count] = way->count;
    } else if (dice(w, 10) == 0) {
        unsigned exchange = (unsigned)dice(w, EXCHANGES);
        way->exchange = restless_exchanges[exchange];
        way->key = keys[dice(w, 4)];
        way->exists =
            restless_route(actor, exchange, slice_text(way->key), way->queues, &way->count);
    } else { /* as soon as the worker knows it */
        way->queues[0] = (unsigned)dice(w, dice(w, 5) ? QUEUES_STAY : QUEUES);
        way->key = queue_names[way->queues[0]];
        way->count = standing_look(w, actor->worker, way->queues[0]) != NULL;
    }
}

/* What must be there is: a message to it is not returned. */
static void check_way(const struct actor *actor, const struct way *way)
{
    const struct world *w = actor->world;

    if (*way->exchange)
        return;
    const struct catalog_queue *named = standing_look(w, actor->worker, way->queues[0]);
    uint64_t must = standing_must(w, way->queues[0]);
    CHECK(w, !must || (named && named->id == must),
          "%s must be queue %" PRIu64 ", and is %" PRIu64 " to worker %u",
          queue_names[way->queues[0]], must, named ? named->id : 0, actor->worker);
}

static void publish(struct actor *actor)
{
    struct world *w = actor->world;
    bool persistent = dice(w, 8) > 0;
    struct way way;

    choose_way(actor, &way);
    if (actor->flow != FLOW_OPEN || w->ids + QUEUES >= IDS_MAX)
        return;
    check_way(actor, &way);
    uint64_t id = model_new(actor, way.queues, way.count, persistent);
    struct message *message = model_message(actor, id, way.exchange, way.key);
    struct publish p = {.message = message, .publisher = actor->publisher};
    actor->window[++actor->sequence] = id;
    int result = broker_publish(actor->client, &p);
    message_unref(message);
    trace(w, "actor %u publishes %" PRIu64 " to '%s', '%s' in shard %u%s", actor->index, id,
          way.exchange, way.key, w->known[id].shard, persistent ? ", persistent" : "");
    CHECK(w, result == (way.exists ? 0 : E_NOT_FOUND), "publish: %s", p.failure.text);
    CHECK(w, p.queues == way.count || !way.exists,
          "message %" PRIu64 " went to %zu queues instead of %u", id, p.queues, way.count);
    if (!way.exists)
        actor->sequence--;
    actor->flow = broker_flow(actor->client);
}

static void unsubscribe(struct actor *actor)
{
    actor->world->unseen[actor->consumer_queue]++;
    trace(actor->world, "actor %u leaves queue %u", actor->index, actor->consumer_queue);
    standing_unsubscribed(actor);
    broker_unsubscribe(actor->consumer);
    actor->consumer = NULL;
}

static void subscribe(struct actor *actor)
{
    struct world *w = actor->world;

    if (actor->consumer) {
        if (dice(w, 6) == 0) {
            unsubscribe(actor);
        } else {
            broker_credit(actor->consumer, (uint32_t)dice(w, 30), 100000);
            broker_resume(actor->consumer);
        }
        return;
    }
    actor->consumer_queue = (unsigned)dice(w, dice(w, 3) ? QUEUES_STAY : QUEUES);
    actor->consumer_settles = dice(w, 6) == 0;
    actor->consumer_queue_id = actor->consumer_last = 0;
    struct subscribe_spec spec = {
        .queue = slice_text(queue_names[actor->consumer_queue]),
        .tag = slice_text("c"),
        .settles_itself = actor->consumer_settles,
        .exclusive = dice(w, 20) == 0,
        .credit_messages = (uint32_t)dice(w, 20),
        .credit_bytes = 1 << 20,
    };
    trace(w, "actor %u subscribes to queue %u", actor->index, actor->consumer_queue);
    standing_asked(actor, actor->consumer_queue);
    actor_asked(actor, ASK_SUBSCRIBE, broker_subscribe(actor->client, &actor->request, &spec));
}

void actor_get(struct actor *actor, unsigned queue)
{
    if (actor->lease_count == LEASES_MAX)
        return;
    trace(actor->world, "actor %u asks for one of queue %u", actor->index, queue);
    standing_asked(actor, queue);
    actor_asked(actor, ASK_GET,
                broker_get(actor->client, &actor->request, slice_text(queue_names[queue]), false));
}

static void settle_some(struct actor *actor)
{
    struct world *w = actor->world;

    for (uint64_t n = dice(w, 20); n > 0 && actor->lease_count > 0; n--) {
        size_t index = dice(w, 3) ? 0 : dice(w, actor->lease_count);
        uint64_t kind = dice(w, 10);
        actor_settle(actor, index,
                     kind < 7   ? OUTCOME_ACCEPT
                     : kind < 8 ? OUTCOME_REJECT
                     : kind < 9 ? OUTCOME_RETURN
                                : OUTCOME_RETURN_COUNTED);
    }
}

void actor_purge(struct actor *actor, unsigned queue)
{
    struct world *w = actor->world;

    trace(w, "actor %u purges queue %u", actor->index, queue);
    standing_asked(actor, queue);
    model_purge_asked(w, queue);
    actor_asked(actor, ASK_PURGE,
                broker_purge_queue(actor->client, &actor->request, slice_text(queue_names[queue])));
}

/* ---- transactions, over whatever shards the queues are in ---- */

static void transact_publishes(struct actor *actor, struct transaction *t)
{
    struct world *w = actor->world;

    t->first = w->ids + 1;
    uint32_t publisher = ++w->clients;
    t->count = dice(w, 5);
    actor->publish_count = t->count;
    for (size_t i = 0; i < actor->publish_count; i++) {
        unsigned queue = (unsigned)dice(w, dice(w, 8) ? QUEUES_STAY : QUEUES);
        uint64_t id = model_new(actor, &queue, 1, dice(w, 8) > 0);
        struct known *k = &w->known[id];
        k->in_transaction = true;
        k->publisher = publisher;
        k->may_be_gone = k->may_be_gone || !k->persistent || queue >= QUEUES_STAY;
        k->queue_id = 0; /* that of the name when it is looked up */
        actor->messages[i] = model_message(actor, id, "", queue_names[queue]);
        actor->publishes[i] = (struct publish){.message = actor->messages[i]};
    }
}

static void transact_settlements(struct actor *actor, struct transaction *t)
{
    struct world *w = actor->world;

    while (t->settled_count < SETTLEMENTS_MAX && actor->lease_count > 0 && dice(w, 5) > 0) {
        size_t at = dice(w, actor->lease_count);
        uint64_t id = actor->lease_ids[at];
        t->settled[t->settled_count] = id;
        actor->settlements[t->settled_count++] =
            (struct settlement){lease_take(actor, at), OUTCOME_ACCEPT};
        w->known[id].settled_in = actor->transaction;
        trace(w, "actor %u settles %" PRIu64 " in transaction %u", actor->index, id,
              actor->transaction);
    }
}

static void transact(struct actor *actor)
{
    struct world *w = actor->world;

    if (w->ids + 5 >= IDS_MAX || w->transaction_count + 1 >= IDS_MAX / 4)
        return;
    actor->transaction = ++w->transaction_count;
    struct transaction *t = &w->transactions[actor->transaction];
    *t = (struct transaction){0};
    transact_publishes(actor, t);
    transact_settlements(actor, t);
    trace(w, "actor %u asks for transaction %u: publishes %" PRIu64 " to %" PRIu64 ", settles %zu",
          actor->index, actor->transaction, t->first, t->first + t->count - 1, t->settled_count);
    actor_asked(actor, ASK_TRANSACT,
                broker_transact(actor->client, &actor->request, actor->publishes,
                                actor->publish_count, actor->settlements, t->settled_count));
}

/* ---- acting ---- */

static void publish_some(struct actor *actor)
{
    for (uint64_t n = dice(actor->world, 12); n > 0; n--)
        publish(actor);
}

/* What needs no answer goes on while one is awaited. */
static void act_meanwhile(struct actor *actor)
{
    struct world *w = actor->world;

    if (dice(w, 2))
        publish_some(actor);
    else if (dice(w, 2))
        settle_some(actor);
    else if (actor->consumer)
        subscribe(actor);
}

static void act_freely(struct actor *actor)
{
    struct world *w = actor->world;

    if (actor->look || dice(w, 30) == 0) {
        looker_act(actor);
        return;
    }
    if (w->shards > 1 && dice(w, 12) == 0) {
        mover_act(actor);
        return;
    }
    switch (dice(w, 14)) {
    case 0:
    case 1:
    case 2:
    case 3:
        publish_some(actor);
        break;
    case 4:
    case 5:
        subscribe(actor);
        break;
    case 6:
        actor_get(actor, (unsigned)dice(w, dice(w, 3) ? QUEUES_STAY : QUEUES));
        break;
    case 7:
    case 8:
    case 9:
        settle_some(actor);
        break;
    case 10:
        if (dice(w, 30) == 0)
            actor_purge(actor, (unsigned)dice(w, QUEUES_STAY));
        break;
    case 11:
    case 12:
        restless_act(actor);
        break;
    default:
        transact(actor);
    }
}

void actor_act(struct actor *actor)
{
    struct world *w = actor->world;

    if (actor->leaving) {
        if (actor_is_idle(actor)) {
            actor_free(actor);
            actor_open(w, actor->index);
        }
        return;
    }
    if (dice(w, 60) == 0) { /* with its requests pending, if there are any */
        actor_close(actor);
        return;
    }
    if (!actor->ready)
        next_ask(actor);
    else if (actor->busy)
        act_meanwhile(actor);
    else if (actor->declared != ALL_THAT_STAY && dice(w, 3) == 0)
        publish_some(actor);
    else if (actor->declared != ALL_THAT_STAY)
        declare(actor, (unsigned)__builtin_ctz(~actor->declared));
    else if (actor->bound != (ALL_THAT_STAY | 1u << QUEUES))
        bind_next(actor);
    else
        act_freely(actor);
}

/* ---- opening and closing ---- */

void actor_open(struct world *w, unsigned index)
{
    struct actor *actor = &w->actors[index];
    uint64_t *window = actor->window;
    struct failure failure;

    memset(actor, 0, sizeof *actor);
    actor->world = w;
    actor->index = index;
    actor->number = ++w->clients;
    actor->window = window;
    do {
        actor->worker = (unsigned)dice(w, w->workers);
    } while (w->members[actor->worker].stopping);
    if (dice(w, 4) && !w->corruption_reported) { /* somebody was answered, so it is there */
        actor->declared = w->queues_there;
        actor->bound = w->queues_bound;
    }
    trace(w, "actor %u comes to worker %u", index, actor->worker);
    actor->client = client_open(w->members[actor->worker].worker,
                                &(struct client_options){.events = &actor_events,
                                                         .session = actor,
                                                         .protocol = "test",
                                                         .peer_is_loopback = true},
                                &failure);
    CHECK(w, actor->client, "no client: %s", failure.text);
    actor->publisher = publisher_open(actor->client, actor);
    next_ask(actor);
}

void actor_close(struct actor *actor)
{
    if (actor->leaving)
        return;
    trace(actor->world, "actor %u goes", actor->index);
    while (actor->lease_count > 0)
        actor_settle(actor, actor->lease_count - 1, OUTCOME_RETURN);
    for (unsigned queue = 0; queue < QUEUES; queue++)
        actor->world->unseen[queue]++; /* a get or a subscription may be pending */
    standing_unsubscribed(actor);
    actor->leaving = true;
    client_close(actor->client);
}

void actor_rest(struct actor *actor)
{
    if (actor->leaving)
        return;
    while (actor->lease_count > LEASES_MAX / 2)
        actor_settle(actor, 0, OUTCOME_ACCEPT);
    if (actor->consumer)
        broker_resume(actor->consumer);
}

void actor_check_rest(struct actor *actor)
{
    const struct world *w = actor->world;

    CHECK(w, !actor->busy || actor_is_idle(actor), "request %d of actor %u is never answered",
          (int)actor->ask, actor->index);
    if (actor->leaving)
        return;
    CHECK(w, actor->confirmed == actor->sequence,
          "actor %u waits for confirms of %" PRIu64 " to %" PRIu64, actor->index,
          actor->confirmed + 1, actor->sequence);
    CHECK(w, actor->flow == FLOW_OPEN || actor->flow == world_flow(w),
          "actor %u was told flow %d, and it is %d", actor->index, (int)actor->flow,
          (int)world_flow(w));
    actor->flow = broker_flow(actor->client);
    CHECK(w, actor->flow == world_flow(w), "actor %u: flow is %d instead of %d", actor->index,
          (int)actor->flow, (int)world_flow(w));
}

bool actor_is_idle(const struct actor *actor)
{
    return client_idle(actor->client);
}

void actor_free(struct actor *actor)
{
    if (actor->busy && actor->ask == ASK_PURGE)
        actor->world->purges[actor->asked_queue]--;
    if (actor->busy && actor->ask == ASK_DELETE)
        standing_delete_answered(actor, E_FAILED); /* or not */
    release_messages(actor);
    looker_forget(actor);
    client_free(actor->client);
    actor->client = NULL;
}

void actor_abandon(struct actor *actor)
{
    if (!actor->client)
        return;
    if (actor->busy && actor->ask == ASK_DELETE)
        standing_delete_answered(actor, E_FAILED); /* or not */
    release_messages(actor);
    looker_forget(actor);
    /* complete, and neither told nor, after it has closed, given back */
    if (actor->busy && actor->ask == ASK_GET && !actor_is_idle(actor) &&
        actor->request.result.get.delivery.message)
        message_unref(actor->request.result.get.delivery.message);
    if (actor->leaving)
        client_abandon(actor->client);
    actor->client = NULL;
}
