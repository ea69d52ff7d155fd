/* Queues that do something by themselves, and mourners, who publish to them and take from them. */
#include "mortal.h"

#include "broker/places.h"
#include "message/fields.h"

#define ALL_OF_THEM ((1u << MORTAL_QUEUES) - 1)
#define REST_MS     500u /* what lives no longer is gone at rest */
#define WAITS_MS    800u /* nobody waits longer */
#define LATE_MS_MAX 10u  /* of a queue that can */

const char *const mortal_names[MORTAL_QUEUES] = {"mortal-0", "mortal-1", "mortal-2", "mortal-3",
                                                 "mortal-4"};

uint64_t mortal_dice(struct mortals *m, uint64_t sides)
{
    m->random_state ^= m->random_state << 13;
    m->random_state ^= m->random_state >> 7;
    m->random_state ^= m->random_state << 17;
    return m->random_state % sides;
}

const struct catalog_queue *mortal_look(const struct mortals *m, unsigned worker, unsigned queue)
{
    const struct vhost *vhost =
        catalog_vhost(worker_catalog(m->world->members[worker].worker), slice_text("/"));

    return vhost_queue(vhost, slice_text(mortal_names[queue]));
}

struct mortals *mortals_new(struct world *w)
{
    struct mortals *m = memory_new(sizeof *m);

    m->world = w;
    m->random_state = w->seed * 0xd1342543de82ef95ull + 7;
    for (unsigned i = 0; i < 4; i++)
        mortal_dice(m, 2);
    m->has_policies = mortal_dice(m, 2);
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        rules_choose(m, q);
    for (unsigned i = 0; i < MOURNERS; i++) {
        m->mourners[i] = (struct mourner){.world = w, .index = i, .window = m->windows[i]};
    }
    return m;
}

bool mortal_is_alone(const struct mourner *mourner, unsigned queue)
{
    const struct mortals *m = mourner->world->mortals;

    for (unsigned i = 0; i < MOURNERS; i++) {
        const struct mourner *other = &m->mourners[i];
        bool subscribes = other->busy && other->ask == MOURN_SUBSCRIBE;
        bool gets = other->busy && (other->ask == MOURN_GET || other->ask == MOURN_TRANSACT);
        if (gets ||
            (other != mourner && other->is_open &&
             (other->leaving || subscribes || (other->consumer && other->consumer_queue == queue))))
            return false;
    }
    return true;
}

/* ---- leases ---- */

static void hold(struct mourner *mourner, uint64_t id, uint32_t step, struct lease lease)
{
    struct mortals *m = mourner->world->mortals;

    m->fates[id].leased = true;
    m->fates[id].leased_before = m->count;
    mourner->ids[mourner->held] = id;
    mourner->steps[mourner->held] = step;
    mourner->leases[mourner->held++] = lease;
}

static struct lease take_held(struct mourner *mourner, size_t index)
{
    struct lease lease = mourner->leases[index];
    size_t last = --mourner->held;

    mourner->leases[index] = mourner->leases[last];
    mourner->ids[index] = mourner->ids[last];
    mourner->steps[index] = mourner->steps[last];
    return lease;
}

static void settle(struct mourner *mourner, size_t index, enum outcome outcome)
{
    uint64_t id = mourner->ids[index];
    uint32_t step = mourner->steps[index];
    struct lease lease = take_held(mourner, index);

    trace(mourner->world, "mourner %u settles %" PRIu64 " (%d)", mourner->index, id, (int)outcome);
    fate_settled(mourner, id, step, lease.queue->shard, outcome);
    fate_returned(mourner, id, lease.queue->name, outcome);
    broker_settle(mourner->client, &lease, 1, outcome);
}

static uint64_t seen(struct mourner *mourner, unsigned queue, const struct delivery *delivery,
                     bool to_consumer)
{
    struct fate_sight sight = {
        .message = delivery->message,
        .queue = queue,
        .shard = delivery->lease.queue->shard,
        .sequence = delivery->lease.sequence,
        .count = delivery->count,
        .redelivered = delivery->redelivered,
        .is_at_home = to_consumer && delivery->lease.queue->hosted,
        .to_consumer = to_consumer,
    };
    uint64_t id = fate_seen(mourner, &sight);

    hold(mourner, id, sight.step, delivery->lease);
    return id;
}

/* ---- events ---- */

static int on_deliver(void *session, void *cookie, const struct delivery *delivery)
{
    struct mourner *mourner = session;

    (void)cookie;
    if (mourner->held == HELDS_MAX || mortal_dice(mourner->world->mortals, 50) == 0)
        return E_ROOM;
    seen(mourner, mourner->consumer_queue, delivery, true);
    return 0;
}

static void on_confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct mourner *mourner = session;
    struct world *w = mourner->world;

    (void)cookie;
    CHECK(w, last <= mourner->sequence && last > mourner->confirmed,
          "mourner %u: confirm of %" PRIu64 " after %" PRIu64, mourner->index, last,
          mourner->confirmed);
    while (mourner->confirmed < last) {
        uint64_t id = mourner->window[++mourner->confirmed];
        trace(w, "mourner %u: %" PRIu64 " %s", mourner->index, id,
              accepted ? "confirmed" : "refused");
        fate_confirmed(mourner, id, accepted);
    }
}

static void on_cancelled(void *session, void *cookie)
{
    struct mourner *mourner = session;

    (void)cookie;
    CHECK(mourner->world, mourner->world->corruption_reported, "the consumer of %s is cancelled",
          mortal_names[mourner->consumer_queue]);
    mourner->consumer = NULL;
}

static void on_flow(void *session, enum flow flow)
{
    ((struct mourner *)session)->flow = flow;
}

static void on_kick(void *session, const char *reason)
{
    (void)session;
    (void)reason;
}

/* ---- requests and their answers ---- */

static void release_messages(struct mourner *mourner)
{
    for (size_t i = 0; i < mourner->publish_count; i++)
        message_unref(mourner->messages[i]);
    mourner->publish_count = 0;
}

static void answer_transact(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;
    bool done = mourner->request.failure.code == 0;

    trace(m->world, "mourner %u: transaction %s", mourner->index,
          done ? "committed" : mourner->request.failure.text);
    for (uint64_t i = 0; done && i < mourner->publish_count; i++)
        m->fates[mourner->first + i].confirmed = true;
    for (size_t i = 0; done && i < mourner->settled_count; i++)
        fate_done(m, mourner->settled[i], mourner->settled_steps[i],
                  mourner->settlements[i].outcome);
    mourner->settled_count = 0;
    release_messages(mourner);
}

static void answer_get(struct mourner *mourner)
{
    struct delivery *delivery = &mourner->request.result.get.delivery;

    if (mourner->request.failure.code != 0 || !delivery->message)
        return;
    seen(mourner, mourner->asked_queue, delivery, false);
    message_unref(delivery->message);
}

static void check_answer(const struct mourner *mourner)
{
    const struct failure *failure = &mourner->request.failure;
    const struct world *w = mourner->world;

    switch (failure->code) {
    case 0:
    case E_FULL:
    case E_FAILED:
        return;
    case E_NOT_FOUND: /* not declared yet */
        if (w->corruption_reported ||
            !w->mortals->queues[mourner->asked_queue % MORTAL_QUEUES].is_there)
            return;
        break;
    case E_IN_USE:
    case E_CLOSED:
        if (mourner->ask == MOURN_MOVE)
            return;
        break;
    case E_DENIED: /* an exclusive consumer; there is none */
    default:
        break;
    }
    failed(w, "mourner %u, request %d: %s (%s)", mourner->index, (int)mourner->ask, failure->text,
           error_name(failure->code));
}

static void next_ask(struct mourner *mourner);

static void answered(struct mourner *mourner)
{
    struct world *w = mourner->world;
    bool done = mourner->request.failure.code == 0;

    mourner->busy = false;
    if (!done)
        trace(w, "mourner %u, request %d: %s", mourner->index, (int)mourner->ask,
              mourner->request.failure.text);
    check_answer(mourner);
    switch (mourner->ask) {
    case MOURN_LOGIN:
    case MOURN_ENTER:
        CHECK(w, done, "login: %s", mourner->request.failure.text);
        mourner->ready = mourner->ask == MOURN_ENTER;
        break;
    case MOURN_DECLARE:
        if (done)
            mourner->declared |= 1u << mourner->asked_queue;
        if (done && !(w->failed_shards & 1u << 1))
            w->mortals->queues[mourner->asked_queue].is_there = true;
        break;
    case MOURN_SUBSCRIBE:
        mourner->consumer = done ? mourner->request.result.consumer : NULL;
        break;
    case MOURN_GET:
        answer_get(mourner);
        break;
    case MOURN_TRANSACT:
        answer_transact(mourner);
        break;
    case MOURN_MOVE:
        w->moved += done;
        break;
    case MOURN_POLICY:
        rules_changed(mourner, mourner->asked_queue);
        break;
    }
    if (!mourner->ready)
        next_ask(mourner);
}

static void on_completed(void *session, struct request *request)
{
    struct mourner *mourner = session;

    CHECK(mourner->world, request == &mourner->request && mourner->busy, "an answer to nothing");
    answered(mourner);
}

static const struct client_events mourner_events = {
    .completed = on_completed,
    .deliver = on_deliver,
    .confirmed = on_confirmed,
    .cancelled = on_cancelled,
    .flow = on_flow,
    .kick = on_kick,
};

static void asked(struct mourner *mourner, unsigned ask, int outcome)
{
    mourner->ask = ask;
    mourner->busy = outcome == PENDING;
    if (outcome == DONE)
        answered(mourner);
}

static void next_ask(struct mourner *mourner)
{
    if (mourner->busy || mourner->leaving)
        return;
    if (!client_user(mourner->client).size)
        asked(mourner, MOURN_LOGIN,
              broker_login(mourner->client, &mourner->request, slice_text("guest"),
                           slice_text(PASSWORD)));
    else
        asked(mourner, MOURN_ENTER,
              broker_enter(mourner->client, &mourner->request, slice_text("/")));
}

/* ---- what they do ---- */

static void declare(struct mourner *mourner, unsigned queue)
{
    struct queue_spec spec = {.name = slice_text(mortal_names[queue]),
                              .durable = true,
                              .arguments = rules_arguments(mourner, queue)};

    trace(mourner->world, "mourner %u declares %s", mourner->index, mortal_names[queue]);
    mourner->asked_queue = queue;
    asked(mourner, MOURN_DECLARE, broker_declare_queue(mourner->client, &mourner->request, &spec));
}

static uint64_t new_message(struct mourner *mourner, unsigned *queue)
{
    struct mortals *m = mourner->world->mortals;
    uint64_t lives_ms = mortal_dice(m, 6)   ? UNLIMITED
                        : mortal_dice(m, 2) ? mortal_dice(m, 200)
                                            : 3600000;

    *queue = (unsigned)mortal_dice(m, MORTAL_QUEUES);
    bool persistent = mortal_dice(m, 8) > 0;
    uint64_t waits_ms = mortal_dice(m, 5) ? 0 : mortal_dice(m, mortal_dice(m, 2) ? 50 : WAITS_MS);
    uint64_t id = fate_new(mourner, *queue, persistent, lives_ms, waits_ms);
    m->fates[id].priority = mortal_dice(m, 2) ? (int)mortal_dice(m, 12) : NO_PRIORITY;
    return id;
}

static void publish(struct mourner *mourner)
{
    struct world *w = mourner->world;
    unsigned queue;

    if (mourner->flow != FLOW_OPEN || w->mortals->count + 4 > FATES_MAX)
        return;
    uint64_t id = new_message(mourner, &queue);
    struct message *message = fate_message(mourner, id);
    struct publish p = {.message = message, .publisher = mourner->publisher};
    mourner->window[++mourner->sequence] = id;
    int result = broker_publish(mourner->client, &p);
    message_unref(message);
    trace(w, "mourner %u publishes %" PRIu64 " to %s%s", mourner->index, id, mortal_names[queue],
          w->mortals->fates[id].persistent ? ", persistent" : "");
    CHECK(w, result == 0, "publish: %s", p.failure.text);
    CHECK(w, p.queues == 1 || w->corruption_reported, "%s is not there", mortal_names[queue]);
    mourner->flow = broker_flow(mourner->client);
}

static void publish_some(struct mourner *mourner)
{
    for (uint64_t n = mortal_dice(mourner->world->mortals, 10); n > 0; n--)
        publish(mourner);
}

static void unsubscribe(struct mourner *mourner)
{
    if (!mourner->consumer)
        return;
    trace(mourner->world, "mourner %u leaves %s", mourner->index,
          mortal_names[mourner->consumer_queue]);
    mourner->world->mortals->queues[mourner->consumer_queue].unseen++;
    broker_unsubscribe(mourner->consumer);
    mourner->consumer = NULL;
}

static void subscribe(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;

    if (mourner->consumer) {
        if (mortal_dice(m, 5) == 0) {
            unsubscribe(mourner);
        } else {
            broker_credit(mourner->consumer, (uint32_t)mortal_dice(m, 12), 100000);
            broker_resume(mourner->consumer);
        }
        return;
    }
    mourner->consumer_queue = mourner->asked_queue = (unsigned)mortal_dice(m, MORTAL_QUEUES);
    memset(mourner->consumer_last, 0, sizeof mourner->consumer_last);
    struct subscribe_spec spec = {
        .queue = slice_text(mortal_names[mourner->consumer_queue]),
        .tag = slice_text("m"),
        .credit_messages = (uint32_t)mortal_dice(m, 12),
        .credit_bytes = 1 << 20,
    };
    trace(m->world, "mourner %u subscribes to %s", mourner->index,
          mortal_names[mourner->consumer_queue]);
    asked(mourner, MOURN_SUBSCRIBE, broker_subscribe(mourner->client, &mourner->request, &spec));
}

static void get(struct mourner *mourner, unsigned queue)
{
    if (mourner->held == HELDS_MAX)
        return;
    trace(mourner->world, "mourner %u asks for one of %s", mourner->index, mortal_names[queue]);
    mourner->asked_queue = queue;
    asked(mourner, MOURN_GET,
          broker_get(mourner->client, &mourner->request, slice_text(mortal_names[queue]), false));
}

static enum outcome some_outcome(struct mortals *m)
{
    uint64_t kind = mortal_dice(m, 10);

    return kind < 3   ? OUTCOME_ACCEPT
           : kind < 7 ? OUTCOME_REJECT
           : kind < 9 ? OUTCOME_RETURN_COUNTED
                      : OUTCOME_RETURN;
}

static void settle_some(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;

    for (uint64_t n = mortal_dice(m, 12); n > 0 && mourner->held > 0; n--)
        settle(mourner, mortal_dice(m, mourner->held), some_outcome(m));
}

static void transact(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;
    unsigned queue;

    if (m->count + 4 > FATES_MAX)
        return;
    mourner->first = m->count + 1;
    uint32_t number = mourner->number;
    mourner->number = ++m->world->clients; /* these stand in an order of their own */
    for (uint64_t n = mortal_dice(m, 4); n > 0; n--) {
        uint64_t id = new_message(mourner, &queue);
        m->fates[id].in_transaction = true;
        mourner->messages[mourner->publish_count] = fate_message(mourner, id);
        mourner->publishes[mourner->publish_count] =
            (struct publish){.message = mourner->messages[mourner->publish_count]};
        mourner->publish_count++;
    }
    mourner->number = number;
    while (mourner->settled_count < IN_TX_MAX && mourner->held > 0 && mortal_dice(m, 4) > 0) {
        size_t at = mortal_dice(m, mourner->held), i = mourner->settled_count++;
        enum outcome outcome = mortal_dice(m, 2) ? OUTCOME_ACCEPT : OUTCOME_REJECT;
        mourner->settled[i] = mourner->ids[at];
        mourner->settled_steps[i] = mourner->steps[at];
        mourner->settlements[i] = (struct settlement){take_held(mourner, at), outcome};
        fate_may_settle(mourner, mourner->settled[i], mourner->settled_steps[i], outcome);
        trace(m->world, "mourner %u settles %" PRIu64 " (%d) in its transaction", mourner->index,
              mourner->settled[i], (int)outcome);
    }
    trace(m->world, "mourner %u asks for a transaction: publishes %" PRIu64 " to %" PRIu64,
          mourner->index, mourner->first, m->count);
    asked(mourner, MOURN_TRANSACT,
          broker_transact(mourner->client, &mourner->request, mourner->publishes,
                          mourner->publish_count, mourner->settlements, mourner->settled_count));
}

static void move(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;
    uint32_t shard = 1 + (uint32_t)mortal_dice(m, m->world->shards);

    mourner->asked_queue = (unsigned)mortal_dice(m, MORTAL_QUEUES);
    m->has_moved = true;
    trace(m->world, "mourner %u moves %s to shard %u", mourner->index,
          mortal_names[mourner->asked_queue], shard);
    asked(mourner, MOURN_MOVE,
          broker_move_queue(mourner->client, &mourner->request,
                            slice_text(mortal_names[mourner->asked_queue]), shard));
}

static void change(struct mourner *mourner)
{
    int outcome;

    mourner->asked_queue = (unsigned)mortal_dice(mourner->world->mortals, MORTAL_QUEUES);
    if (rules_change(mourner, mourner->asked_queue, &outcome))
        asked(mourner, MOURN_POLICY, outcome);
}

/* Somebody was answered for each of them. */
static bool all_are_there(const struct mortals *m)
{
    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        if (!m->queues[q].is_there)
            return false;
    }
    return true;
}

static void act_freely(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;

    switch (mortal_dice(m, m->has_policies ? 14 : 12)) {
    case 0:
    case 1:
    case 2:
        publish_some(mourner);
        break;
    case 3:
    case 4:
        subscribe(mourner);
        break;
    case 5:
        get(mourner, (unsigned)mortal_dice(m, MORTAL_QUEUES));
        break;
    case 6:
    case 7:
    case 8:
        settle_some(mourner);
        break;
    case 9:
        if (m->world->shards > 1 && mortal_dice(m, 3) == 0)
            move(mourner);
        break;
    case 10:
        if (mortal_dice(m, 5) == 0)
            declare(mourner, (unsigned)mortal_dice(m, MORTAL_QUEUES));
        break;
    case 11:
        transact(mourner);
        break;
    default:
        change(mourner);
    }
}

static void act_meanwhile(struct mourner *mourner)
{
    if (!all_are_there(mourner->world->mortals))
        return;
    if (mortal_dice(mourner->world->mortals, 2))
        publish_some(mourner);
    else
        settle_some(mourner);
}

/* ---- coming and going ---- */

static void come(struct mourner *mourner)
{
    struct world *w = mourner->world;
    uint64_t *window = mourner->window;
    unsigned index = mourner->index, worker = (unsigned)mortal_dice(w->mortals, w->workers);
    struct failure failure;

    if (w->members[worker].stopping)
        return;
    *mourner = (struct mourner){.world = w,
                                .index = index,
                                .worker = worker,
                                .window = window,
                                .number = ++w->clients,
                                .is_open = true};
    trace(w, "mourner %u comes to worker %u", index, worker);
    mourner->client = client_open(w->members[worker].worker,
                                  &(struct client_options){.events = &mourner_events,
                                                           .session = mourner,
                                                           .protocol = "test",
                                                           .peer_is_loopback = true},
                                  &failure);
    CHECK(w, mourner->client, "no client: %s", failure.text);
    mourner->publisher = publisher_open(mourner->client, mourner);
    next_ask(mourner);
}

static void leave(struct mourner *mourner)
{
    struct mortals *m = mourner->world->mortals;

    if (mourner->leaving)
        return;
    trace(m->world, "mourner %u goes", mourner->index);
    while (mourner->held > 0)
        settle(mourner, mourner->held - 1, OUTCOME_RETURN);
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        m->queues[q].unseen++; /* a get or a subscription may be pending */
    mourner->leaving = true;
    client_close(mourner->client);
}

static void end(struct mourner *mourner)
{
    release_messages(mourner);
    client_free(mourner->client);
    mourner->is_open = false;
}

/* The worker on which a queue can let messages go when they are due; NULL: there is none now. */
static const struct member *host_of(const struct mortals *m, unsigned index,
                                    const struct queue **queue)
{
    for (unsigned i = 0; i < m->world->workers; i++) {
        const struct member *member = &m->world->members[i];
        const struct catalog_queue *named = mortal_look(m, i, index);
        if (!named || !named->hosted)
            continue;
        *queue = &named->hosted->queue;
        return named->move || member->stopping || !(*queue)->host->has_begun ? NULL : member;
    }
    return NULL;
}

/* Nothing is seen to be due for longer than it need be: its worker may stand still for a while. */
static void check_late(struct mortals *m)
{
    for (unsigned index = 0; index < MORTAL_QUEUES; index++) {
        struct mortal_queue *q = &m->queues[index];
        const struct queue *queue;
        const struct member *member = host_of(m, index, &queue);
        uint64_t due_ms = member ? queue_next_due_ms(queue) : UINT64_MAX;
        uint64_t now_ms = member ? loop_wall_ms(member->loop) : 0;
        if (!member || due_ms > now_ms || due_ms != q->late_ms) {
            q->late_ms = due_ms <= now_ms ? due_ms : UINT64_MAX;
            q->late_since_ms = now_ms;
            continue;
        }
        uint64_t stood_until_ms = simulated_stood_until_ms(member->loop);
        uint64_t since_ms = q->late_since_ms > stood_until_ms ? q->late_since_ms : stood_until_ms;
        CHECK(m->world, now_ms <= since_ms + LATE_MS_MAX,
              "%s has messages that were due %" PRIu64 " ms ago", mortal_names[index],
              now_ms - due_ms);
    }
}

void mortals_act(struct world *w)
{
    struct mortals *m = w->mortals;
    struct mourner *mourner = &m->mourners[mortal_dice(m, MOURNERS)];

    check_late(m);
    if (mourner->is_open && w->members[mourner->worker].stopping)
        return;
    if (!mourner->is_open)
        come(mourner);
    else if (mourner->leaving && client_idle(mourner->client))
        end(mourner);
    else if (mourner->leaving)
        return;
    else if (mortal_dice(m, 80) == 0)
        leave(mourner);
    else if (!mourner->ready)
        next_ask(mourner);
    else if (mourner->busy)
        act_meanwhile(mourner);
    else if (!all_are_there(m) && mourner->declared != ALL_OF_THEM)
        declare(mourner, (unsigned)__builtin_ctz(~mourner->declared));
    else if (all_are_there(m))
        act_freely(mourner);
}

bool mortals_leave(struct world *w, unsigned worker)
{
    bool are_gone = true;

    for (unsigned i = 0; w->mortals && i < MOURNERS; i++) {
        struct mourner *mourner = &w->mortals->mourners[i];
        if (!mourner->is_open || mourner->worker != worker)
            continue;
        leave(mourner);
        if (client_idle(mourner->client))
            end(mourner);
        else
            are_gone = false;
    }
    return are_gone;
}

void mortals_abandon(struct world *w)
{
    for (unsigned i = 0; w->mortals && i < MOURNERS; i++) {
        struct mourner *mourner = &w->mortals->mourners[i];
        if (!mourner->is_open)
            continue;
        release_messages(mourner);
        if (mourner->busy && mourner->ask == MOURN_GET && !client_idle(mourner->client) &&
            mourner->request.result.get.delivery.message)
            message_unref(mourner->request.result.get.delivery.message);
        if (mourner->leaving)
            client_abandon(mourner->client);
        mourner->is_open = false;
    }
}

void mortals_may_move(struct world *w)
{
    if (w->mortals)
        w->mortals->has_moved = true;
}

/* ---- at rest ---- */

void mortals_rest(struct world *w)
{
    for (unsigned i = 0; w->mortals && i < MOURNERS; i++) {
        struct mourner *mourner = &w->mortals->mourners[i];
        if (!mourner->is_open || mourner->leaving)
            continue;
        while (mourner->held > HELDS_MAX / 2)
            settle(mourner, 0, OUTCOME_ACCEPT);
        if (mourner->consumer)
            broker_resume(mourner->consumer);
    }
}

/* Keeps to its limits, and has nothing that is too old. */
static void check_queue(const struct world *w, unsigned queue, const struct hosted *hosted)
{
    const struct rules *q = rules_now(w->mortals, queue);
    const struct queue *there = &hosted->queue;

    if (!q || w->failed_shards != 0 || w->corruption_reported ||
        (w->seed % 8 >= 3 && w->seed % 8 <= 5))
        return;
    CHECK(w,
          q->overflow != OVERFLOW_DROP ||
              (there->ready <= q->length_max && there->ready_bytes <= q->bytes_max),
          "%s has %" PRIu64 " messages, %" PRIu64 " bytes: more than its limit",
          mortal_names[queue], there->ready, there->ready_bytes);
    CHECK(w, there->delayed == 0, "%s has %" PRIu64 " messages that wait for nothing",
          mortal_names[queue], there->delayed);
    CHECK(w, q->lives_ms > REST_MS || there->ready == 0,
          "%s has %" PRIu64 " messages that are too old", mortal_names[queue], there->ready);
}

void mortals_check_rest(struct world *w)
{
    for (unsigned i = 0; w->mortals && i < MOURNERS; i++) {
        const struct mourner *mourner = &w->mortals->mourners[i];
        if (!mourner->is_open)
            continue;
        CHECK(w, !mourner->busy || client_idle(mourner->client),
              "request %d of mourner %u is never answered", (int)mourner->ask, i);
        CHECK(w, mourner->leaving || mourner->confirmed == mourner->sequence,
              "mourner %u waits for confirms", i);
    }
    for (unsigned q = 0; w->mortals && q < MORTAL_QUEUES; q++) {
        for (unsigned i = 0; i < w->workers; i++) {
            const struct catalog_queue *named = mortal_look(w->mortals, i, q);
            if (named && named->hosted)
                check_queue(w, q, named->hosted);
        }
    }
}

/* ---- lives and the end ---- */

void mortals_life_over(struct world *w, bool clean)
{
    struct mortals *m = w->mortals;

    if (!m)
        return;
    fates_life_over(m, clean);
    rules_life_over(m);
    m->has_moved = false;
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        m->queues[q].unseen = 0;
}

void mortals_note_time(struct world *w)
{
    for (unsigned i = 0; w->mortals && i < w->workers; i++) {
        const struct loop *loop = w->members[i].loop;
        if (loop && loop_wall_ms(loop) > w->mortals->latest_ms)
            w->mortals->latest_ms = loop_wall_ms(loop);
    }
}

uint64_t mortals_count(const struct world *w)
{
    return w->mortals ? w->mortals->count : 0;
}

uint64_t mortals_wall_ms(const struct world *w)
{
    return w->mortals ? w->mortals->latest_ms : 0;
}

/* How many are in all queues. */
static uint64_t count_all(const struct world *w)
{
    uint64_t sum = 0;

    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        for (unsigned i = 0; i < w->workers; i++) {
            const struct catalog_queue *named = mortal_look(w->mortals, i, q);
            if (named && named->hosted)
                sum += named->hosted->queue.ready + named->hosted->queue.leased +
                       named->hosted->queue.delayed;
        }
    }
    return sum;
}

static void wait_for(struct world *w, const struct mourner *mourner)
{
    for (unsigned i = 0; i < 100000 && (mourner->busy || !mourner->ready); i++)
        world_run(w, 100000);
    CHECK(w, mourner->ready && !mourner->busy, "request %d is never answered", (int)mourner->ask);
}

/* Takes all that is there now. */
static void drain_one(struct mourner *mourner, unsigned queue)
{
    struct world *w = mourner->world;

    while (mourner->held == 0) {
        get(mourner, queue);
        wait_for(w, mourner);
        if (mourner->held == 0)
            return;
        w->mortals->fates[mourner->ids[0]].present_at_end = true;
        settle(mourner, 0, OUTCOME_ACCEPT);
    }
}

void mortals_drain(struct world *w)
{
    struct mortals *m = w->mortals;

    if (!m)
        return;
    struct mourner *mourner = &m->mourners[0];
    come(mourner);
    wait_for(w, mourner);
    for (unsigned pass = 0; pass < 20; pass++) {
        for (unsigned i = 0; i < MORTAL_QUEUES; i++)
            drain_one(mourner, (i + pass) % MORTAL_QUEUES);
        world_run(w, 100 * NANOSECONDS_PER_MS);
        if (pass > 0 && count_all(w) == 0)
            break;
    }
    CHECK(w, count_all(w) == 0 || w->corruption_reported, "%" PRIu64 " mortals come to no end",
          count_all(w));
    mortals_note_time(w);
    fates_judge(m);
}
