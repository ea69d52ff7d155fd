/*
 * The broker behind broker.h, in virtual time, by seed: clients that declare, publish with
 * confirms, consume, settle, return, get and commit transactions over a disk that loses, tears,
 * fails, fills up and turns bits; lives that end in a crash or a clean stop; and a model that knows
 * what each answer promised.
 *
 *   simulate [--seed FIRST] [--count N] [--verbose] [--fault forget-syncs]
 *
 * What is checked (docs/testing.md says more):
 *   - what was confirmed and not acknowledged comes back after any crash; what was acknowledged
 * durably never does
 *   - nothing is delivered that was not published there, twice at a time, or with other bytes
 *   - what may have been seen before says so (redelivered)
 *   - order: what one client published to one queue is first seen in that order, in each life
 *   - transactions happen whole or not at all
 *   - corruption is reported before anything may be missing
 *   - invariants of all structures after each life; no memory, lease or request is left over
 */
#include "base/memory.h"
#include "broker/worker.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define QUEUES     3u
#define ACTORS     3u
#define IDS_MAX    20000u
#define LEASES_MAX 512u
#define LIVES_MAX  4u

struct world;

#define CHECK(world, condition, ...)                                                               \
    do {                                                                                           \
        if (!(condition))                                                                          \
            failed(world, __VA_ARGS__);                                                            \
    } while (0)

/* ---- the model: one entry a message and queue ---- */

struct known {
    bool exists, persistent;
    uint8_t queue, actor;
    bool confirmed;   /* it was told that it is safe */
    bool may_be_gone; /* its queue was purged, or what became of its settlement is not known */
    bool settled;     /* by a client, or purged, or delivered to a consumer that settles itself */
    bool settle_durable; /* so that it must never come back */
    bool delivered_ever, leased;
    unsigned born;    /* the life in which it was published */
    bool was_there;   /* in a later life, so it was on disk */
    bool may_be_done; /* given out in the life it was published in, perhaps before it was on disk */
    unsigned delivered_life; /* the last life in which it was delivered */
    bool present_at_end;
    uint32_t transaction; /* 0: none */
    uint64_t settle_stamp;
};

struct transaction {
    bool asked, committed;
    uint64_t first, count; /* ids */
    unsigned seen;
};

struct actor {
    struct world *world;
    unsigned index;
    struct client *client;
    struct publisher *publisher;
    struct request request;
    bool busy; /* the request is pending */
    enum { ASK_LOGIN, ASK_ENTER, ASK_DECLARE, ASK_SUBSCRIBE, ASK_GET, ASK_PURGE, ASK_TRANSACT } ask;
    bool ready, no_flow;
    unsigned declared, asked_queue;
    struct consumer *consumer;
    unsigned consumer_queue;
    bool consumer_settles;
    struct lease leases[LEASES_MAX];
    uint64_t lease_ids[LEASES_MAX];
    size_t lease_count;
    uint64_t *window; /* publisher's sequence -> id */
    uint64_t sequence, confirmed;
    struct settlement settlements[8];
    uint64_t settlement_ids[8];
    size_t settlement_count;
    struct publish publishes[4];
    struct message *messages[4];
    size_t publish_count;
    uint32_t transaction;
    uint64_t last_seen[QUEUES][ACTORS];
};

struct world {
    const char *program;
    uint64_t seed;
    bool verbose;
    const char *fault;
    unsigned life;
    struct loop *loop;
    struct simulated_disk *disk;
    struct store *store;
    struct worker *worker;
    struct logger logger;
    bool started, stopped, corruption_reported, storage_failed;
    int start_result;
    struct actor actors[ACTORS];
    struct known known[IDS_MAX];
    uint64_t ids;
    struct transaction transactions[IDS_MAX / 4];
    uint32_t transaction_count;
    uint64_t random_state;
    bool draining;
    uint64_t deliveries, crashes, confirms, passed;
};

static void failed(const struct world *w, const char *format, ...) PRINTF_LIKE(2, 3)
    __attribute__((noreturn));

static void failed(const struct world *w, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "seed %" PRIu64 ", life %u: ", w->seed, w->life);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nagain: %s --seed %" PRIu64 " --count 1 --verbose%s%s\n", w->program, w->seed,
            w->fault ? " --fault " : "", w->fault ? w->fault : "");
    printf("%" PRIu64 " passed, 1 failed\n", w->passed);
    exit(1);
}

static void trace(const struct world *w, const char *format, ...) PRINTF_LIKE(2, 3);

/* With --verbose: what happened, in order. */
static void trace(const struct world *w, const char *format, ...)
{
    va_list arguments;

    if (!w->verbose)
        return;
    fprintf(stderr, "%u:%" PRIu64 " ", w->life, w->loop ? loop_now_ns(w->loop) / 1000 : 0);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static uint64_t dice(struct world *w, uint64_t sides)
{
    w->random_state ^= w->random_state << 13;
    w->random_state ^= w->random_state >> 7;
    w->random_state ^= w->random_state << 17;
    return w->random_state % sides;
}

static const char *const queue_names[QUEUES] = {"durable-0", "durable-1", "durable-2"};

/* ---- bodies tell their id and check themselves ---- */

static size_t body_size(uint64_t id)
{
    if (id % 97 == 0)
        return 300000 + id % 1000; /* more than a part of the log */
    return 16 + (id * 7919) % (id % 13 == 0 ? 20000 : 300);
}

static void body_fill(uint8_t *bytes, size_t size, uint64_t id)
{
    store_le64(bytes, id);
    for (size_t i = 8; i < size; i++)
        bytes[i] = (uint8_t)((id + i) * 31);
}

static uint64_t body_id(struct world *w, const struct message *message)
{
    struct slice body = message_body(message);
    CHECK(w, body.size >= 16, "a body of %zu bytes", body.size);
    uint64_t id = load_le64(body.data);
    CHECK(w, id > 0 && id <= w->ids, "a message that nobody published: %" PRIu64, id);
    CHECK(w, body.size == body_size(id), "message %" PRIu64 " has %zu bytes instead of %zu", id,
          body.size, body_size(id));
    for (size_t i = 8; i < body.size; i++)
        CHECK(w, body.data[i] == (uint8_t)((id + i) * 31),
              "message %" PRIu64 " has a wrong byte at %zu", id, i);
    return id;
}

static struct message *make_message(struct actor *actor, uint64_t id, const char *queue,
                                    bool persistent)
{
    struct buffer *buffer = buffer_new(body_size(id));
    body_fill(buffer->data, body_size(id), id);
    buffer->size = (uint32_t)body_size(id);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = persistent ? MESSAGE_PERSISTENT : 0,
        .key = slice_text(queue),
        .properties = slice_of("\0\0", 2),
        .body = slice_of(buffer->data, buffer->size),
        .body_buffer = buffer->size > MESSAGE_INLINE_MAX ? buffer : NULL,
    };
    struct message *message = message_new(broker_message_account(actor->client), &parts);
    buffer_unref(buffer);
    CHECK(actor->world, message, "no message");
    return message;
}

static uint64_t new_id(struct actor *actor, unsigned queue, bool persistent)
{
    struct world *w = actor->world;
    uint64_t id = ++w->ids;

    w->known[id] = (struct known){.exists = true,
                                  .persistent = persistent,
                                  .queue = (uint8_t)queue,
                                  .actor = (uint8_t)actor->index,
                                  .born = w->life};
    return id;
}

/* ---- deliveries ---- */

static uint64_t check_delivery(struct actor *actor, unsigned queue, const struct delivery *delivery,
                               bool in_order)
{
    struct world *w = actor->world;
    uint64_t id = body_id(w, delivery->message);
    struct known *k = &w->known[id];

    w->deliveries++;
    trace(w, "actor %u gets %" PRIu64 " of queue %u as %" PRIu64 "%s", actor->index, id, queue,
          delivery->lease.sequence, delivery->redelivered ? ", redelivered" : "");
    CHECK(w, k->queue == queue, "message %" PRIu64 " in another queue", id);
    CHECK(w, !k->leased, "message %" PRIu64 " was given out twice at a time", id);
    CHECK(w, !(k->settled && k->delivered_life == w->life + 1),
          "message %" PRIu64 " came back after its settlement", id);
    CHECK(w, !k->settle_durable || w->corruption_reported,
          "message %" PRIu64 " came back after its settlement was durable", id);
    if (k->delivered_ever)
        CHECK(w, delivery->redelivered || w->corruption_reported,
              "message %" PRIu64 " was seen before, and does not say so", id);
    /* a single get is leased when it is asked and told later, so it says nothing of the order */
    if (in_order && k->delivered_life != w->life + 1) {
        uint64_t *last = &actor->world->actors[0].last_seen[queue][k->actor];
        CHECK(w, id > *last, "message %" PRIu64 " first seen after %" PRIu64, id, *last);
        *last = id;
    }
    /* a log that has failed cannot keep the mark any more */
    k->delivered_ever = k->delivered_ever || !w->storage_failed;
    k->delivered_life = w->life + 1;
    k->settled = false;
    k->settle_stamp = 0;
    if (k->born == w->life)
        k->may_be_done = true;
    else
        k->was_there = true;
    return id;
}

static void settled(struct world *w, uint64_t id)
{
    w->known[id].settled = true;
    w->known[id].leased = false;
    w->known[id].settle_stamp = w->ids + 1; /* durable with the first that is published after it */
}

static int on_deliver(void *session, void *cookie, const struct delivery *delivery)
{
    struct actor *actor = session;

    (void)cookie;
    if (!actor->consumer_settles && actor->lease_count == LEASES_MAX)
        return E_ROOM;
    if (dice(actor->world, 50) == 0)
        return E_ROOM;
    uint64_t id = check_delivery(actor, actor->consumer_queue, delivery, true);
    if (actor->consumer_settles) {
        settled(actor->world, id);
        return 0;
    }
    actor->world->known[id].leased = true;
    actor->lease_ids[actor->lease_count] = id;
    actor->leases[actor->lease_count++] = delivery->lease;
    return 0;
}

/* What was settled before something that is durable now, by this client, is durable, too: one log,
 * one order. */
static void settlements_durable(struct world *w, uint64_t stamp)
{
    for (uint64_t id = 1; id <= w->ids; id++) {
        struct known *k = &w->known[id];
        if (k->settled && k->persistent && k->settle_stamp && k->settle_stamp <= stamp)
            k->settle_durable = true;
    }
}

static void on_confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct actor *actor = session;
    struct world *w = actor->world;

    (void)cookie;
    trace(w, "actor %u: up to %" PRIu64 " %s", actor->index, actor->window[last],
          accepted ? "confirmed" : "refused");
    CHECK(w, last <= actor->sequence && last > actor->confirmed,
          "confirm of %" PRIu64 " after %" PRIu64, last, actor->confirmed);
    for (uint64_t s = actor->confirmed + 1; s <= last; s++) {
        struct known *k = &w->known[actor->window[s]];
        if (accepted) {
            k->confirmed = true;
            w->confirms++;
        }
    }
    if (accepted && w->known[actor->window[last]].persistent)
        settlements_durable(w, actor->window[last]);
    actor->confirmed = last;
}

static void settle_lease(struct actor *actor, size_t index, enum outcome outcome)
{
    struct world *w = actor->world;
    uint64_t id = actor->lease_ids[index];
    struct lease lease = actor->leases[index];

    actor->leases[index] = actor->leases[--actor->lease_count];
    actor->lease_ids[index] = actor->lease_ids[actor->lease_count];
    trace(w, "actor %u settles %" PRIu64 " (%d)", actor->index, id, outcome);
    broker_settle(actor->client, &lease, 1, outcome);
    w->known[id].leased = false;
    if (outcome == OUTCOME_ACCEPT || outcome == OUTCOME_REJECT)
        settled(w, id);
}

/* ---- requests and their answers ---- */

static void next_ask(struct actor *actor);

static void answer_transact(struct actor *actor)
{
    struct world *w = actor->world;
    struct transaction *t = &w->transactions[actor->transaction];
    bool done = actor->request.failure.code == 0;

    trace(w, "actor %u: transaction %u %s", actor->index, actor->transaction,
          done ? "committed" : actor->request.failure.text);
    t->committed = done;
    for (size_t i = 0; i < actor->publish_count; i++) {
        struct known *k = &w->known[t->first + i];
        k->confirmed = done;
        message_unref(actor->messages[i]);
    }
    for (size_t i = 0; i < actor->settlement_count; i++) {
        struct known *k = &w->known[actor->settlement_ids[i]];
        k->settled = k->settled || done;
        k->settle_durable = k->settle_durable || (done && k->persistent);
    }
}

static void answered(struct actor *actor)
{
    struct world *w = actor->world;
    struct request *r = &actor->request;

    actor->busy = false;
    switch (actor->ask) {
    case ASK_LOGIN:
    case ASK_ENTER:
        CHECK(w, r->failure.code == 0, "login: %s", r->failure.text);
        actor->ready = actor->ask == ASK_ENTER;
        break;
    case ASK_DECLARE:
        if (r->failure.code == 0)
            actor->declared |= 1u << actor->asked_queue;
        break;
    case ASK_SUBSCRIBE:
        if (r->failure.code == 0)
            actor->consumer = r->result.consumer;
        break;
    case ASK_GET: {
        struct delivery *d = &r->result.get.delivery;
        if (r->failure.code != 0 || !d->message)
            break;
        uint64_t id = check_delivery(actor, actor->asked_queue, d, false);
        message_unref(d->message);
        w->known[id].leased = true;
        actor->lease_ids[actor->lease_count] = id;
        actor->leases[actor->lease_count++] = d->lease;
        break;
    }
    case ASK_PURGE:
        break;
    case ASK_TRANSACT:
        answer_transact(actor);
        break;
    }
    if (!actor->ready || w->draining)
        next_ask(actor);
}

static void on_completed(void *session, struct request *request)
{
    (void)request;
    answered(session);
}

static void asked(struct actor *actor, int outcome)
{
    actor->busy = outcome == PENDING;
    if (outcome == DONE)
        answered(actor);
}

static void on_cancelled(void *session, void *cookie)
{
    struct actor *actor = session;
    (void)cookie;
    actor->consumer = NULL;
}

static void on_flow(void *session, enum flow flow)
{
    struct actor *actor = session;
    actor->no_flow = flow != FLOW_OPEN;
}

static void on_kick(void *session, const char *reason)
{
    (void)session;
    (void)reason;
}

static const struct client_events actor_events = {
    .completed = on_completed,
    .deliver = on_deliver,
    .confirmed = on_confirmed,
    .cancelled = on_cancelled,
    .flow = on_flow,
    .kick = on_kick,
};

/* Log in, enter, declare all queues: one after the other. */
static void next_ask(struct actor *actor)
{
    if (actor->busy)
        return;
    if (!client_user(actor->client).size) {
        actor->ask = ASK_LOGIN;
        actor->busy = true;
        asked(actor, broker_login(actor->client, &actor->request, slice_text("guest"),
                                  slice_text("guest")));
    } else if (!actor->ready) {
        actor->ask = ASK_ENTER;
        actor->busy = true;
        asked(actor, broker_enter(actor->client, &actor->request, slice_text("/")));
    }
}

static void declare(struct actor *actor, unsigned queue)
{
    struct queue_spec spec = {.name = slice_text(queue_names[queue]), .durable = true};

    actor->ask = ASK_DECLARE;
    actor->asked_queue = queue;
    asked(actor, broker_declare_queue(actor->client, &actor->request, &spec));
}

static void publish(struct actor *actor)
{
    struct world *w = actor->world;
    unsigned queue = (unsigned)dice(w, QUEUES);
    bool persistent = dice(w, 8) > 0;

    if (actor->no_flow || w->ids + 1 >= IDS_MAX || !(actor->declared & 1u << queue))
        return;
    uint64_t id = new_id(actor, queue, persistent);
    struct message *message = make_message(actor, id, queue_names[queue], persistent);
    struct publish p = {.message = message, .publisher = actor->publisher};
    actor->window[++actor->sequence] = id;
    int result = broker_publish(actor->client, &p);
    message_unref(message);
    trace(w, "actor %u publishes %" PRIu64 " to queue %u%s", actor->index, id, queue,
          persistent ? ", persistent" : "");
    CHECK(w, result == 0, "publish: %s", p.failure.text);
    CHECK(w, p.queues == 1, "message %" PRIu64 " went to %zu queues", id, p.queues);
    actor->no_flow = broker_flow(actor->client) != FLOW_OPEN;
}

static void subscribe(struct actor *actor)
{
    struct world *w = actor->world;

    if (actor->consumer) {
        if (dice(w, 4) == 0) {
            broker_unsubscribe(actor->consumer);
            actor->consumer = NULL;
        } else {
            broker_credit(actor->consumer, (uint32_t)dice(w, 30), 100000);
            broker_resume(actor->consumer);
        }
        return;
    }
    actor->consumer_queue = (unsigned)dice(w, QUEUES);
    actor->consumer_settles = dice(w, 6) == 0;
    if (!(actor->declared & 1u << actor->consumer_queue))
        return;
    struct subscribe_spec spec = {
        .queue = slice_text(queue_names[actor->consumer_queue]),
        .tag = slice_text("c"),
        .settles_itself = actor->consumer_settles,
        .credit_messages = (uint32_t)dice(w, 20),
        .credit_bytes = 1 << 20,
    };
    actor->ask = ASK_SUBSCRIBE;
    asked(actor, broker_subscribe(actor->client, &actor->request, &spec));
}

static void get(struct actor *actor, unsigned queue)
{
    if (actor->lease_count == LEASES_MAX || !(actor->declared & 1u << queue))
        return;
    actor->ask = ASK_GET;
    actor->asked_queue = queue;
    asked(actor, broker_get(actor->client, &actor->request, slice_text(queue_names[queue]), false));
}

static void settle_some(struct actor *actor)
{
    struct world *w = actor->world;

    for (uint64_t n = dice(w, 20); n > 0 && actor->lease_count > 0; n--) {
        size_t index = dice(w, actor->lease_count);
        uint64_t kind = dice(w, 10);
        settle_lease(actor, index,
                     kind < 7   ? OUTCOME_ACCEPT
                     : kind < 8 ? OUTCOME_REJECT
                     : kind < 9 ? OUTCOME_RETURN
                                : OUTCOME_RETURN_COUNTED);
    }
}

static void purge(struct actor *actor)
{
    struct world *w = actor->world;
    unsigned queue = (unsigned)dice(w, QUEUES);

    if (!(actor->declared & 1u << queue))
        return;
    trace(w, "actor %u purges queue %u", actor->index, queue);
    actor->ask = ASK_PURGE;
    actor->asked_queue = queue;
    /* from now on nothing of it is promised */
    for (uint64_t id = 1; id <= w->ids; id++) {
        if (w->known[id].queue == queue)
            w->known[id].may_be_gone = true;
    }
    asked(actor,
          broker_purge_queue(actor->client, &actor->request, slice_text(queue_names[queue])));
}

static void transact(struct actor *actor)
{
    struct world *w = actor->world;

    if (w->ids + 5 >= IDS_MAX || actor->declared != (1u << QUEUES) - 1 ||
        w->transaction_count + 1 >= IDS_MAX / 4)
        return;
    actor->transaction = ++w->transaction_count;
    struct transaction *t = &w->transactions[actor->transaction];
    *t = (struct transaction){.asked = true, .first = w->ids + 1};
    actor->publish_count = t->count = 1 + dice(w, 4);
    for (size_t i = 0; i < actor->publish_count; i++) {
        unsigned queue = (unsigned)dice(w, QUEUES);
        uint64_t id = new_id(actor, queue, true);
        w->known[id].transaction = actor->transaction;
        actor->messages[i] = make_message(actor, id, queue_names[queue], true);
        actor->publishes[i] = (struct publish){.message = actor->messages[i]};
    }
    actor->settlement_count = 0;
    while (actor->settlement_count < 8 && actor->lease_count > 0) {
        size_t index = actor->lease_count - 1;
        uint64_t id = actor->lease_ids[index];
        actor->settlement_ids[actor->settlement_count] = id;
        actor->settlements[actor->settlement_count++] =
            (struct settlement){actor->leases[index], OUTCOME_ACCEPT};
        actor->lease_count--;
        w->known[id].leased = false;
        w->known[id].may_be_gone = true; /* until it is answered */
        trace(w, "actor %u settles %" PRIu64 " in transaction %u", actor->index, id,
              actor->transaction);
    }
    trace(w, "actor %u asks for transaction %u: publishes %" PRIu64 " to %" PRIu64 ", settles %zu",
          actor->index, actor->transaction, t->first, t->first + t->count - 1,
          actor->settlement_count);
    actor->ask = ASK_TRANSACT;
    asked(actor,
          broker_transact(actor->client, &actor->request, actor->publishes, actor->publish_count,
                          actor->settlements, actor->settlement_count));
}

static void act(struct actor *actor)
{
    struct world *w = actor->world;

    if (actor->busy || !actor->ready) {
        next_ask(actor);
        return;
    }
    if (actor->declared != (1u << QUEUES) - 1) {
        declare(actor, (unsigned)__builtin_ctz(~actor->declared));
        return;
    }
    switch (dice(w, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        for (uint64_t n = dice(w, 12); n > 0; n--)
            publish(actor);
        break;
    case 4:
    case 5:
        subscribe(actor);
        break;
    case 6:
        get(actor, (unsigned)dice(w, QUEUES));
        break;
    case 7:
    case 8:
    case 9:
        settle_some(actor);
        break;
    case 10:
        if (dice(w, 30) == 0)
            purge(actor);
        break;
    default:
        if (dice(w, 4) == 0)
            transact(actor);
    }
}

/* ---- lives ---- */

static void on_line(void *context, enum log_level level, const char *category, const char *text)
{
    struct world *w = context;

    if (level >= LOG_ERROR &&
        (strstr(text, "corrupt") || strstr(text, "cannot be read") || strstr(text, "has lost")))
        w->corruption_reported = true;
    if (strcmp(category, "storage") == 0)
        w->storage_failed = true;
    if (w->verbose)
        fprintf(stderr, "[%s] %s\n", category, text);
}

static void on_started(void *context, const struct worker_started *what)
{
    struct world *w = context;

    w->started = true;
    w->start_result = what->result;
    if (what->log.corrupt_blocks > 0)
        w->corruption_reported = true;
    /* a bit that turned in the last blocks, which no later one vouches for yet, looks like a torn
     * tail: that it was cut is all that can be told */
    if (what->log.torn_bytes > 0 && simulated_disk_flips(w->disk) > 0)
        w->corruption_reported = true;
    if (what->result != 0 && w->verbose)
        fprintf(stderr, "start failed: %s\n", what->failure.text);
}

static void on_stopped(void *context)
{
    struct world *w = context;
    w->stopped = true;
}

static void actor_open(struct world *w, unsigned index)
{
    struct actor *actor = &w->actors[index];
    uint64_t *window = actor->window;
    struct failure failure;

    memset(actor, 0, sizeof *actor);
    actor->world = w;
    actor->index = index;
    actor->window = window;
    actor->client = client_open(w->worker,
                                &(struct client_options){.events = &actor_events,
                                                         .session = actor,
                                                         .protocol = "test",
                                                         .peer_is_loopback = true},
                                &failure);
    CHECK(w, actor->client, "no client: %s", failure.text);
    actor->publisher = publisher_open(actor->client, actor);
    next_ask(actor);
}

/* Gives everything back and closes. */
static void actor_close(struct actor *actor)
{
    while (actor->lease_count > 0)
        settle_lease(actor, actor->lease_count - 1, OUTCOME_RETURN);
    client_close(actor->client);
}

static bool begin_life(struct world *w)
{
    struct worker_options options;
    struct failure failure;

    w->loop = loop_new_simulated(w->seed * 64 + w->life);
    CHECK(w, store_simulated_open(w->loop, w->disk, &w->store, &failure) == 0, "store: %s",
          failure.text);
    worker_options_default(&options);
    options.loop = w->loop;
    options.stores = &w->store;
    options.store_count = 1;
    options.logger = &w->logger;
    options.password_cost = (struct password_cost){8, 1};
    options.pending_ppm = 200000;
    options.hot_bytes_max = w->seed % 3 ? 20000 : 64u << 20;
    /* small, so that segments fill, are checkpointed and go within a short life */
    options.log.segment_bytes_min = (uint32_t)(8192u << dice(w, 5));
    options.log.segment_bytes_max = options.log.segment_bytes_min << dice(w, 3);
    options.log.checkpoint_bytes = (uint32_t)(5000 + dice(w, 100000));
    options.log.disk_reserve_bytes = 2u << 20;
    w->started = w->stopped = w->storage_failed = false;
    w->worker = worker_start(&options, on_started, w);
    for (unsigned i = 0; i < 1000 && !w->started; i++)
        simulated_run_for(w->loop, 10 * NANOSECONDS_PER_MS);
    CHECK(w, w->started, "the worker does not start");
    return w->start_result == 0;
}

static void end_crash(struct world *w)
{
    trace(w, "crash");
    simulated_disk_crash(w->disk);
    for (unsigned i = 0; i < ACTORS; i++) {
        struct actor *a = &w->actors[i];
        if (a->client) {
            if (a->busy && a->ask == ASK_TRANSACT) {
                for (size_t m = 0; m < a->publish_count; m++)
                    message_unref(a->messages[m]);
            }
            if (a->busy && a->ask == ASK_GET && a->request.result.get.delivery.message)
                message_unref(a->request.result.get.delivery.message);
        }
    }
    worker_abandon(w->worker);
    for (unsigned i = 0; i < ACTORS; i++)
        w->actors[i].client = NULL;
    w->worker = NULL;
    loop_free(w->loop);
    w->loop = NULL;
    w->crashes++;
}

static void end_clean(struct world *w)
{
    for (unsigned i = 0; i < ACTORS; i++)
        actor_close(&w->actors[i]);
    for (unsigned turn = 0; turn < 10000; turn++) {
        bool idle = true;
        for (unsigned i = 0; i < ACTORS; i++)
            idle = idle && client_idle(w->actors[i].client);
        if (idle)
            break;
        simulated_run_for(w->loop, 10 * NANOSECONDS_PER_MS);
    }
    for (unsigned i = 0; i < ACTORS; i++) {
        struct actor *a = &w->actors[i];
        CHECK(w, client_idle(a->client), "a request never completes");
        if (a->busy && a->ask == ASK_TRANSACT) {
            for (size_t m = 0; m < a->publish_count; m++)
                message_unref(a->messages[m]);
        }
        client_free(a->client);
        a->client = NULL;
    }
    worker_check(w->worker);
    worker_stop(w->worker, on_stopped, w);
    for (unsigned i = 0; i < 10000 && !w->stopped; i++)
        simulated_run_for(w->loop, 10 * NANOSECONDS_PER_MS);
    CHECK(w, w->stopped, "the worker does not stop");
    worker_free(w->worker);
    w->worker = NULL;
    store_free(w->store);
    loop_free(w->loop);
    w->loop = NULL;
}

/* What a crash undoes: leases end, settlements that were not durable may not have happened. */
static void life_over(struct world *w)
{
    for (uint64_t id = 1; id <= w->ids; id++) {
        struct known *k = &w->known[id];
        k->leased = false;
        k->settle_stamp = 0; /* what was not durable may not have happened */
    }
    memset(w->actors[0].last_seen, 0, sizeof w->actors[0].last_seen);
    w->life++;
}

static uint64_t segments_removed(const struct world *w)
{
    struct worker_statistics statistics;

    worker_statistics(w->worker, &statistics);
    return statistics.log.segments_removed;
}

/* Some lives end when the log has just given up something, where a crash shows whether it could. */
static void live(struct world *w)
{
    uint64_t steps = 20 + dice(w, 200);
    uint64_t until = dice(w, 2) ? 0 : segments_removed(w) + 1 + dice(w, 2);

    for (unsigned i = 0; i < ACTORS; i++)
        actor_open(w, i);
    for (uint64_t i = 0; i < steps; i++) {
        act(&w->actors[dice(w, ACTORS)]);
        for (unsigned turn = dice(w, 3) ? 0 : dice(w, 5) ? 2 : 200; turn > 0; turn--) {
            simulated_run_for(w->loop, 100000);
            if (until && segments_removed(w) >= until)
                return;
        }
    }
    worker_check(w->worker);
}

/* The last life: no faults; everything that is there is taken out. */
static void drain(struct world *w)
{
    struct actor *actor = &w->actors[0];

    for (unsigned i = 0; i < ACTORS; i++)
        actor_open(w, i);
    for (unsigned i = 0; i < 2000 && !actor->ready; i++)
        simulated_run_for(w->loop, NANOSECONDS_PER_MS);
    CHECK(w, actor->ready, "no login");
    for (unsigned q = 0; q < QUEUES; q++) {
        actor->declared |= 1u << q;
        for (;;) {
            size_t before = actor->lease_count;
            get(actor, q);
            for (unsigned i = 0; i < 100000 && actor->busy; i++)
                simulated_run_for(w->loop, 100000);
            CHECK(w, !actor->busy, "a get never completes");
            if (actor->lease_count == before)
                break;
            w->known[actor->lease_ids[before]].present_at_end = true;
            if (actor->lease_count > LEASES_MAX / 2) {
                while (actor->lease_count > 0)
                    settle_lease(actor, actor->lease_count - 1, OUTCOME_ACCEPT);
            }
        }
    }
}

static void judge(struct world *w)
{
    bool may_miss = simulated_disk_flips(w->disk) > 0 && w->corruption_reported;

    for (uint64_t id = 1; id <= w->ids; id++) {
        struct known *k = &w->known[id];
        bool must = k->persistent && k->confirmed && !k->settled && !k->may_be_gone;
        if (must && !k->present_at_end)
            CHECK(w, may_miss, "message %" PRIu64 " of %s was confirmed and is lost", id,
                  queue_names[k->queue]);
    }
    for (uint32_t t = 1; t <= w->transaction_count; t++) {
        struct transaction *x = &w->transactions[t];
        uint64_t there = 0, missing = 0;
        for (uint64_t i = 0; i < x->count; i++) {
            struct known *k = &w->known[x->first + i];
            if (k->was_there || k->present_at_end)
                there++;
            else if (!k->may_be_done && !k->may_be_gone)
                missing++;
        }
        CHECK(w, there == 0 || missing == 0 || may_miss,
              "transaction %u happened in part: %" PRIu64 " are there, %" PRIu64 " are not", t,
              there, missing);
        CHECK(w, !x->committed || missing == 0 || may_miss,
              "transaction %u was committed and did not happen", t);
    }
}

static void set_faults(struct world *w)
{
    struct simulated_faults *f = simulated_disk_faults(w->disk);

    *f = (struct simulated_faults){.latency_max_ns = 1 + dice(w, 5) * NANOSECONDS_PER_MS};
    switch (w->seed % 8) {
    case 1:
        f->write_fails_ppm = 20000;
        break;
    case 2:
        f->sync_fails_ppm = 20000;
        break;
    case 3:
        f->read_fails_ppm = 20000;
        break;
    case 4:
        f->flip_ppm = 20000;
        break;
    case 5:
        f->capacity = 12u << 20;
        break;
    default:
        break;
    }
    if (w->fault && strcmp(w->fault, "forget-syncs") == 0)
        f->forget_syncs = true;
}

static void run_seed(struct world *w)
{
    w->random_state = w->seed * 0x9e3779b97f4a7c15ull + 1;
    w->disk = simulated_disk_new(w->seed);
    w->logger =
        (struct logger){.level = LOG_DEBUG, .descriptor = -1, .line = on_line, .context = w};
    for (unsigned i = 0; i < ACTORS; i++)
        w->actors[i].window = memory_new(IDS_MAX * sizeof(uint64_t));
    uint64_t lives = 1 + dice(w, LIVES_MAX);
    while (w->life < lives) {
        set_faults(w);
        if (begin_life(w)) {
            live(w);
            if (dice(w, 4) == 0)
                end_clean(w);
            else
                end_crash(w);
        } else {
            end_crash(w);
        }
        life_over(w);
    }
    bool lying = simulated_disk_faults(w->disk)->forget_syncs;
    *simulated_disk_faults(w->disk) =
        (struct simulated_faults){.latency_max_ns = 1000, .forget_syncs = lying};
    w->draining = true;
    if (begin_life(w)) {
        drain(w);
        judge(w);
        end_clean(w);
    } else {
        CHECK(w, simulated_disk_flips(w->disk) > 0, "the worker does not start without any fault");
        end_crash(w);
    }
    simulated_disk_free(w->disk);
    for (unsigned i = 0; i < ACTORS; i++)
        free(w->actors[i].window);
}

struct options {
    uint64_t first, count;
    bool verbose;
    const char *fault;
};

static bool parse_options(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--verbose") == 0)
            options->verbose = true;
        else if (strcmp(argv[i], "--seed") == 0 && has_value)
            options->first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0 && has_value)
            options->count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--fault") == 0 && has_value)
            options->fault = argv[++i];
        else
            return false;
    }
    return options->first > 0 && options->count > 0;
}

int main(int argc, char **argv)
{
    struct options options = {.first = 1, .count = 200};
    uint64_t deliveries = 0, crashes = 0, confirms = 0;

    if (!parse_options(&options, argc, argv)) {
        fprintf(stderr, "usage: %s [--seed FIRST] [--count N] [--verbose] [--fault forget-syncs]\n",
                argv[0]);
        return 2;
    }
    for (uint64_t i = 0; i < options.count; i++) {
        struct world *w = memory_new(sizeof *w);
        w->program = argv[0];
        w->seed = options.first + i;
        w->verbose = options.verbose;
        w->fault = options.fault;
        w->passed = i;
        run_seed(w);
        deliveries += w->deliveries;
        crashes += w->crashes;
        confirms += w->confirms;
        free(w);
    }
    printf("%" PRIu64 " seeds: %" PRIu64 " crashes, %" PRIu64 " confirms, %" PRIu64 " deliveries\n",
           options.count, crashes, confirms, deliveries);
    printf("%" PRIu64 " passed, 0 failed\n", options.count);
    return 0;
}
