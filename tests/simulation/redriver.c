/*
 * A redriver: a client with two queues of its own. What is rejected in the first one dies into the
 * second; from there it comes back by redrives, at any time, all or some of it, while queues move
 * and everything crashes. It also looks at both without touching them.
 *
 * A message is in one of the two places until it was accepted: never in both, never in none, and
 * its history has no death that nobody asked for.
 */
#include "world.h"

#include "broker/places.h"
#include "message/fields.h"

#include <stdlib.h>

#define REDRIVEN_MAX 1500u
#define HELD_MAX     24u

static const char *const names[] = {"redriven-work", "redriven-dead"};
enum { WORK, DEAD, BOTH };

/* One message. */
struct redriven {
    bool persistent, confirmed, leased;
    bool may_be_gone;                /* it was accepted, ever */
    bool accepted, accepted_durable; /* not undone by a crash since */
    bool present_at_end, browsed_at_end;
    uint32_t rejections; /* asked for */
    uint32_t deaths;     /* as it said last, */
    uint32_t life;       /* in this life */
};

struct redriver {
    struct world *world;
    uint64_t random_state; /* its own dice: the rest of the world is as without */
    unsigned worker;
    struct client *client; /* NULL: it is not there */
    struct publisher *publisher;
    struct request request;
    enum {
        RE_LOGIN,
        RE_ENTER,
        RE_DECLARE,
        RE_GET,
        RE_MOVE,
        RE_REDRIVE,
        RE_LIST,
        RE_STOP,
        RE_BROWSE
    } ask;
    bool busy, ready, leaving, is_there[BOTH];
    enum flow flow;
    unsigned asked_queue;
    uint8_t bytes[256];
    struct lease leases[HELD_MAX];
    uint64_t held_ids[HELD_MAX];
    unsigned held_in[HELD_MAX];
    size_t held;
    uint64_t sequence, confirmed;
    uint64_t window[REDRIVEN_MAX + 1];
    struct redrives *redrives;
    struct browsing *browsing;
    bool is_draining;
    uint64_t browsed; /* sequence of the last one seen */
    uint64_t count;
    struct redriven messages[REDRIVEN_MAX + 1];
};

static uint64_t redriver_dice(struct redriver *r, uint64_t sides)
{
    r->random_state ^= r->random_state << 13;
    r->random_state ^= r->random_state >> 7;
    r->random_state ^= r->random_state << 17;
    return r->random_state % sides;
}

struct redriver *redriver_new(struct world *w)
{
    struct redriver *r = memory_new(sizeof *r);

    r->world = w;
    r->random_state = w->seed * 0x9e6c63d0876a9a47ull + 3;
    for (unsigned i = 0; i < 4; i++)
        redriver_dice(r, 2);
    return r;
}

static const struct catalog_queue *look_up(const struct redriver *r, unsigned worker,
                                           unsigned queue)
{
    const struct vhost *vhost =
        catalog_vhost(worker_catalog(r->world->members[worker].worker), slice_text("/"));

    return vhost_queue(vhost, slice_text(names[queue]));
}

/* ---- what is seen ---- */

static uint64_t id_of(const struct redriver *r, const struct message *message)
{
    struct slice body = message_body(message);
    uint64_t id = body.size == 24 ? load_le64(body.data) : 0;

    CHECK(r->world,
          id > 0 && id <= r->count && load_le64(body.data + 8) == ~id &&
              load_le64(body.data + 16) == r->world->seed,
          "a message that the redriver has not published: %" PRIu64, id);
    return id;
}

/* Of all reasons and queues. */
static uint32_t deaths_of(const struct redriver *r, uint64_t id, const struct message *message)
{
    struct field deaths, each;
    struct slice queue, reason;
    int64_t count = 0;

    if (!message_format(message)->header(message, slice_text("x-death"), &deaths))
        return 0;
    struct reader reader = reader_of(deaths.value.bytes);
    CHECK(r->world,
          fields_next_value(&reader, &each) && fields_integer(each.value.bytes, "count", &count) &&
              fields_text(each.value.bytes, "queue", &queue) && slice_is(queue, names[WORK]) &&
              fields_text(each.value.bytes, "reason", &reason) && slice_is(reason, "rejected"),
          "redriven %" PRIu64 " has died of something else", id);
    CHECK(r->world, !fields_next_value(&reader, &each), "redriven %" PRIu64 " has two deaths", id);
    return (uint32_t)count;
}

static void check_message(struct redriver *r, uint64_t id, unsigned queue,
                          const struct message *message)
{
    const struct world *w = r->world;
    const struct redriven *m = &r->messages[id];
    uint32_t deaths = deaths_of(r, id, message);

    CHECK(w, deaths <= m->rejections,
          "redriven %" PRIu64 " died %u times, and was rejected %u times", id, deaths,
          m->rejections);
    CHECK(w, queue == WORK || deaths > 0, "redriven %" PRIu64 " is dead, and never died", id);
    CHECK(w, slice_is(message_key(message), names[queue]),
          "redriven %" PRIu64 " in %s has the key %.*s", id, names[queue],
          SLICE_ARGS(message_key(message)));
    CHECK(w, !m->accepted_durable || w->corruption_reported,
          "redriven %" PRIu64 " came back after it was accepted, durably", id);
}

static void check_given(struct redriver *r, uint64_t id, const struct message *message)
{
    const struct world *w = r->world;
    struct redriven *m = &r->messages[id];
    uint32_t deaths = deaths_of(r, id, message);

    CHECK(w, !m->leased || w->corruption_reported,
          "redriven %" PRIu64 " was given out twice at a time", id);
    CHECK(w, !m->accepted || w->corruption_reported,
          "redriven %" PRIu64 " came back after it was accepted", id);
    CHECK(w,
          m->life != w->life + 1 || deaths >= m->deaths || w->failed_shards != 0 ||
              w->corruption_reported,
          "redriven %" PRIu64 " had died %u times, and now %u", id, m->deaths, deaths);
    m->deaths = deaths;
    m->life = w->life + 1;
}

static void got(struct redriver *r)
{
    struct delivery *delivery = &r->request.result.get.delivery;

    if (r->request.failure.code != 0 || !delivery->message)
        return;
    uint64_t id = id_of(r, delivery->message);
    trace(r->world, "redriver gets %" PRIu64 " of %s", id, names[r->asked_queue]);
    check_message(r, id, r->asked_queue, delivery->message);
    check_given(r, id, delivery->message);
    r->messages[id].leased = true;
    r->leases[r->held] = delivery->lease;
    r->held_in[r->held] = r->asked_queue;
    r->held_ids[r->held++] = id;
    message_unref(delivery->message);
}

static void settle(struct redriver *r, size_t at, enum outcome outcome)
{
    struct lease lease = r->leases[at];
    struct redriven *m = &r->messages[r->held_ids[at]];
    size_t last = --r->held;

    trace(r->world, "redriver settles %" PRIu64 " (%d)", r->held_ids[at], (int)outcome);
    m->leased = false;
    m->rejections += outcome == OUTCOME_REJECT;
    m->may_be_gone |=
        outcome == OUTCOME_ACCEPT || (outcome == OUTCOME_REJECT && r->held_in[at] == DEAD);
    m->accepted = outcome == OUTCOME_ACCEPT;
    r->leases[at] = r->leases[last];
    r->held_ids[at] = r->held_ids[last];
    r->held_in[at] = r->held_in[last];
    broker_settle(r->client, &lease, 1, outcome);
}

static void see_page(struct redriver *r)
{
    const struct world *w = r->world;

    for (size_t i = 0; r->request.failure.code == 0 && i < browsing_count(r->browsing); i++) {
        const struct browsed *found = browsing_message(r->browsing, i);
        CHECK(w, found->sequence > r->browsed, "a page goes back from %" PRIu64 " to %" PRIu64,
              r->browsed, found->sequence);
        r->browsed = found->sequence;
        uint64_t id = id_of(r, found->message);
        check_message(r, id, r->asked_queue, found->message);
        CHECK(w, !r->is_draining || !r->messages[id].browsed_at_end || w->corruption_reported,
              "redriven %" PRIu64 " stands there twice", id);
        r->messages[id].browsed_at_end = r->is_draining;
    }
    if (r->request.failure.code != 0 || browsing_is_over(r->browsing)) {
        browsing_close(r->browsing);
        r->browsing = NULL;
    }
}

static void check_facts(const struct redriver *r, const struct redrive_facts *facts)
{
    CHECK(r->world,
          facts->moved + facts->refused <= facts->matched &&
              facts->matched + facts->skipped <= facts->looked,
          "redrive %" PRIu64 " has looked at %" PRIu64 ", moved %" PRIu64, facts->id, facts->looked,
          facts->moved);
    CHECK(r->world, !facts->is_preview || facts->moved == 0, "a preview has moved %" PRIu64,
          facts->moved);
    CHECK(r->world,
          facts->state == REDRIVE_RUNS || !facts->ended_ms || facts->is_preview ||
              facts->moved + facts->refused == facts->matched,
          "redrive %" PRIu64 " is over, and %" PRIu64 " of %" PRIu64 " have no end", facts->id,
          facts->moved + facts->refused, facts->matched);
}

/* ---- requests and their answers ---- */

static void next_ask(struct redriver *r);

static void check_answer(const struct redriver *r)
{
    const struct failure *failure = &r->request.failure;
    bool is_free = r->ask == RE_MOVE || r->ask == RE_REDRIVE || r->ask == RE_STOP;

    switch (failure->code) {
    case 0:
    case E_FULL:
    case E_FAILED:
        return;
    case E_NOT_FOUND:
        if (r->world->corruption_reported || r->ask == RE_STOP || !r->is_there[WORK] ||
            !r->is_there[DEAD])
            return;
        break;
    case E_IN_USE:
    case E_CLOSED:
    case E_LIMIT:
        if (is_free)
            return;
        break;
    case E_IO:
        if (r->ask == RE_BROWSE)
            return;
        break;
    default:
        break;
    }
    failed(r->world, "redriver, request %d: %s (%s)", (int)r->ask, failure->text,
           error_name(failure->code));
}

static void forget(struct redriver *r)
{
    if (r->redrives)
        redrives_close(r->redrives);
    if (r->browsing)
        browsing_close(r->browsing);
    r->redrives = NULL;
    r->browsing = NULL;
}

static void answered(struct redriver *r)
{
    struct world *w = r->world;
    bool done = r->request.failure.code == 0;

    r->busy = false;
    check_answer(r);
    switch (r->ask) {
    case RE_LOGIN:
    case RE_ENTER:
        CHECK(w, done, "login: %s", r->request.failure.text);
        r->ready = r->ask == RE_ENTER;
        break;
    case RE_DECLARE:
        if (done && !(w->failed_shards & 1u << 1))
            r->is_there[r->asked_queue] = true;
        break;
    case RE_GET:
        got(r);
        break;
    case RE_MOVE:
        w->moved += done;
        break;
    case RE_REDRIVE:
        w->redrives += done;
        break;
    case RE_LIST:
        for (size_t i = 0; i < redrives_count(r->redrives); i++)
            check_facts(r, redrives_at(r->redrives, i));
        break;
    case RE_STOP:
        break;
    case RE_BROWSE:
        see_page(r);
        break;
    }
    if (!r->ready)
        next_ask(r);
}

static void on_completed(void *session, struct request *request)
{
    struct redriver *r = session;

    CHECK(r->world, request == &r->request && r->busy, "an answer to nothing");
    answered(r);
}

static void on_confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct redriver *r = session;

    (void)cookie;
    while (r->confirmed < last)
        r->messages[r->window[++r->confirmed]].confirmed = accepted;
}

static void on_flow(void *session, enum flow flow)
{
    ((struct redriver *)session)->flow = flow;
}

static void on_kick(void *session, const char *reason)
{
    (void)session;
    (void)reason;
}

static const struct client_events redriver_events = {
    .completed = on_completed,
    .confirmed = on_confirmed,
    .flow = on_flow,
    .kick = on_kick,
};

static void asked(struct redriver *r, unsigned ask, int outcome)
{
    r->ask = ask;
    r->busy = true;
    if (outcome == DONE)
        answered(r);
}

static void next_ask(struct redriver *r)
{
    if (!client_user(r->client).size)
        asked(r, RE_LOGIN,
              broker_login(r->client, &r->request, slice_text("guest"), slice_text(PASSWORD)));
    else
        asked(r, RE_ENTER, broker_enter(r->client, &r->request, slice_text("/")));
}

/* ---- what it does ---- */

static void declare(struct redriver *r, unsigned queue)
{
    struct writer w = writer_of(r->bytes, sizeof r->bytes);

    if (queue == WORK) {
        fields_put_text(&w, "x-dead-letter-exchange", slice_text(""));
        fields_put_text(&w, "x-dead-letter-routing-key", slice_text(names[DEAD]));
        if (r->world->seed % 3 == 0)
            fields_put_text(&w, "x-queue-type", slice_text("quorum"));
    }
    struct queue_spec spec = {.name = slice_text(names[queue]),
                              .durable = true,
                              .arguments = slice_of(r->bytes, writer_size(&w))};
    r->asked_queue = queue;
    asked(r, RE_DECLARE, broker_declare_queue(r->client, &r->request, &spec));
}

static void publish(struct redriver *r)
{
    uint8_t body[24];

    if (r->flow != FLOW_OPEN || r->count == REDRIVEN_MAX)
        return;
    uint64_t id = ++r->count;
    bool persistent = redriver_dice(r, 10) > 0;
    r->messages[id] = (struct redriven){.persistent = persistent};
    store_le64(body, id);
    store_le64(body + 8, ~id);
    store_le64(body + 16, r->world->seed);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = persistent ? MESSAGE_PERSISTENT : 0,
        .key = slice_text(names[WORK]),
        .properties = slice_of("\0\0", 2),
        .body = slice_of(body, sizeof body),
        .published_at_ms = loop_wall_ms(r->world->members[r->worker].loop),
    };
    struct message *message = message_new(broker_message_account(r->client), &parts);
    struct publish p = {.message = message, .publisher = r->publisher};
    r->window[++r->sequence] = id;
    int result = broker_publish(r->client, &p);
    message_unref(message);
    CHECK(r->world, result == 0, "publish: %s", p.failure.text);
    r->flow = broker_flow(r->client);
}

static void get(struct redriver *r, unsigned queue)
{
    if (r->held == HELD_MAX)
        return;
    r->asked_queue = queue;
    asked(r, RE_GET, broker_get(r->client, &r->request, slice_text(names[queue]), false));
}

static void settle_some(struct redriver *r)
{
    for (uint64_t n = redriver_dice(r, 10); n > 0 && r->held > 0; n--) {
        size_t at = redriver_dice(r, r->held);
        uint64_t kind = redriver_dice(r, 10);
        enum outcome outcome = r->held_in[at] == WORK && kind < 7 ? OUTCOME_REJECT
                               : kind < 8                         ? OUTCOME_RETURN
                                                                  : OUTCOME_ACCEPT;
        settle(r, at, outcome);
    }
}

static void redrive(struct redriver *r)
{
    struct writer w = writer_of(r->bytes, sizeof r->bytes);
    bool is_filtered = redriver_dice(r, 4) == 0, to_queue = redriver_dice(r, 4) == 0;

    if (is_filtered)
        fields_put_text(&w, "death.queue",
                        slice_text(names[redriver_dice(r, 5) > 0 ? WORK : DEAD]));
    struct redrive_spec spec = {
        .queue = slice_text(names[redriver_dice(r, 12) ? DEAD : WORK]),
        .filter.conditions = slice_of(r->bytes, writer_size(&w)),
        .limit = redriver_dice(r, 3) ? 0 : redriver_dice(r, 10),
        .rate = redriver_dice(r, 3) ? 0 : 500,
        .is_preview = redriver_dice(r, 6) == 0,
    };
    if (to_queue && slice_is(spec.queue, names[DEAD])) {
        spec.to = REDRIVE_TO_QUEUE;
        spec.target = slice_text(names[WORK]);
    }
    trace(r->world, "redriver asks for a redrive of %.*s", SLICE_ARGS(spec.queue));
    asked(r, RE_REDRIVE, broker_redrive(r->client, &r->request, &spec));
}

/* Lists them, or stops one of the list. */
static void list(struct redriver *r)
{
    if (r->redrives && redrives_count(r->redrives) > 0 && redriver_dice(r, 3) == 0) {
        size_t at = redriver_dice(r, redrives_count(r->redrives));
        asked(r, RE_STOP,
              broker_redrive_stop(r->client, &r->request, redrives_at(r->redrives, at)));
        return;
    }
    if (!r->redrives)
        r->redrives = redrives_open(r->client);
    asked(r, RE_LIST, redrives_ask(r->redrives, &r->request));
}

static void browse(struct redriver *r, unsigned queue)
{
    struct failure failure;

    if (!r->browsing) {
        r->asked_queue = queue;
        struct browse_spec spec = {.queue = slice_text(names[r->asked_queue]),
                                   .ready = true,
                                   .leased = redriver_dice(r, 2)};
        r->browsed = 0;
        r->browsing = browsing_open(r->client, &spec, &failure);
        if (!r->browsing)
            return;
    }
    asked(r, RE_BROWSE,
          browsing_next(r->browsing, &r->request, 1 + (uint32_t)redriver_dice(r, 100)));
}

static void move(struct redriver *r)
{
    uint32_t shard = 1 + (uint32_t)redriver_dice(r, r->world->shards);

    asked(r, RE_MOVE,
          broker_move_queue(r->client, &r->request, slice_text(names[redriver_dice(r, BOTH)]),
                            shard));
}

static void act_freely(struct redriver *r)
{
    if (r->browsing) {
        browse(r, r->asked_queue);
        return;
    }
    switch (redriver_dice(r, 14)) {
    case 0:
    case 1:
        for (uint64_t n = redriver_dice(r, 8); n > 0; n--)
            publish(r);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
        get(r, redriver_dice(r, 5) ? WORK : DEAD);
        break;
    case 7:
    case 8:
        settle_some(r);
        break;
    case 9:
    case 10:
        redrive(r);
        break;
    case 11:
        list(r);
        break;
    case 12:
        browse(r, (unsigned)redriver_dice(r, BOTH));
        break;
    default:
        if (r->world->shards > 1 && redriver_dice(r, 3) == 0)
            move(r);
    }
}

/* ---- coming and going ---- */

static void come(struct redriver *r)
{
    struct world *w = r->world;
    struct failure failure;

    r->worker = (unsigned)redriver_dice(r, w->workers);
    if (w->members[r->worker].stopping)
        return;
    r->sequence = r->confirmed = 0;
    r->ready = r->leaving = r->busy = false;
    r->flow = FLOW_OPEN;
    trace(w, "the redriver comes to worker %u", r->worker);
    r->client = client_open(
        w->members[r->worker].worker,
        &(struct client_options){
            .events = &redriver_events, .session = r, .protocol = "test", .peer_is_loopback = true},
        &failure);
    CHECK(w, r->client, "no client: %s", failure.text);
    r->publisher = publisher_open(r->client, r);
    next_ask(r);
}

static void leave(struct redriver *r)
{
    if (r->leaving)
        return;
    while (r->held > 0)
        settle(r, r->held - 1, OUTCOME_RETURN);
    r->leaving = true;
    client_close(r->client);
}

static void end(struct redriver *r)
{
    forget(r);
    client_free(r->client);
    r->client = NULL;
}

bool redriver_wants_to_act(struct world *w)
{
    return w->redriver && redriver_dice(w->redriver, 5) == 0;
}

void redriver_act(struct world *w)
{
    struct redriver *r = w->redriver;

    if (r->client && w->members[r->worker].stopping)
        return;
    if (!r->client)
        come(r);
    else if (r->leaving && client_idle(r->client))
        end(r);
    else if (r->leaving)
        return;
    else if (redriver_dice(r, 100) == 0)
        leave(r);
    else if (r->busy)
        settle_some(r);
    else if (!r->is_there[DEAD])
        declare(r, DEAD);
    else if (!r->is_there[WORK])
        declare(r, WORK);
    else
        act_freely(r);
}

bool redriver_leave(struct world *w, unsigned worker)
{
    struct redriver *r = w->redriver;

    if (!r || !r->client || r->worker != worker)
        return true;
    leave(r);
    if (!client_idle(r->client))
        return false;
    end(r);
    return true;
}

void redriver_abandon(struct world *w)
{
    struct redriver *r = w->redriver;

    if (!r || !r->client)
        return;
    forget(r);
    if (r->busy && r->ask == RE_GET && !client_idle(r->client) &&
        r->request.result.get.delivery.message)
        message_unref(r->request.result.get.delivery.message);
    if (r->leaving)
        client_abandon(r->client);
    r->client = NULL;
    r->held = 0;
}

void redriver_life_over(struct world *w, bool clean)
{
    struct redriver *r = w->redriver;
    bool all = clean && w->failed_shards == 0 && !w->corruption_reported;

    for (uint64_t id = 1; r && id <= r->count; id++) {
        struct redriven *m = &r->messages[id];
        m->leased = false;
        m->accepted_durable |= all && m->accepted;
        m->accepted = m->accepted_durable;
    }
    if (r)
        r->held = 0;
}

uint64_t redriver_count(const struct world *w)
{
    return w->redriver ? w->redriver->count : 0;
}

/* ---- the end ---- */

static void wait_for(struct redriver *r)
{
    for (unsigned i = 0; i < 100000 && (r->busy || !r->ready); i++)
        world_run(r->world, 100000);
    CHECK(r->world, r->ready && !r->busy, "request %d of the redriver is never answered",
          (int)r->ask);
}

/* All that stands there. */
static void browse_all(struct redriver *r, unsigned queue)
{
    do {
        browse(r, queue);
        wait_for(r);
    } while (r->browsing);
}

static void drain_one(struct redriver *r, unsigned queue)
{
    for (;;) {
        get(r, queue);
        wait_for(r);
        if (r->held == 0)
            return;
        struct redriven *m = &r->messages[r->held_ids[0]];
        CHECK(r->world, !m->present_at_end || r->world->corruption_reported,
              "redriven %" PRIu64 " is there twice", r->held_ids[0]);
        m->present_at_end = true;
        settle(r, 0, OUTCOME_ACCEPT);
    }
}

void redriver_drain(struct world *w)
{
    struct redriver *r = w->redriver;

    if (!r || !look_up(r, 0, WORK) || !look_up(r, 0, DEAD)) {
        CHECK(w, !r || !r->is_there[WORK] || w->corruption_reported, "the redriver has no queues");
        return;
    }
    while (!r->client)
        come(r);
    wait_for(r);
    r->is_draining = true;
    browse_all(r, WORK);
    browse_all(r, DEAD);
    r->is_draining = false;
    for (unsigned pass = 0; pass < 3; pass++) {
        drain_one(r, pass % 2 ? DEAD : WORK);
        world_run(w, 100 * NANOSECONDS_PER_MS);
    }
    bool may_miss = world_flipped(w) && w->corruption_reported;
    for (uint64_t id = 1; id <= r->count && !may_miss; id++) {
        const struct redriven *m = &r->messages[id];
        CHECK(w, m->browsed_at_end == m->present_at_end, "redriven %" PRIu64 " was %s, and is %s",
              id, m->browsed_at_end ? "seen by who looked" : "not seen by who looked",
              m->present_at_end ? "there" : "not there");
        CHECK(w, !m->confirmed || !m->persistent || m->may_be_gone || m->present_at_end,
              "redriven %" PRIu64 " was confirmed and is lost", id);
    }
}
