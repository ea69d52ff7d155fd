/* The model: what was promised about each message, and what became of it. */
#include "world.h"

const char *const queue_names[QUEUES] = {"durable-0",  "durable-1",  "durable-2",  "restless-0",
                                         "restless-1", "restless-2", "restless-3", "restless-4"};

/* ---- bodies tell their id and check themselves ---- */

/* In some seeds so many are large that workers run out of credit with each other. */
static size_t body_size(const struct world *w, uint64_t id)
{
    if (id % (w->seed % 16 == 7 ? 3 : 97) == 0)
        return 300000 + id % 1000; /* more than a part of the log */
    return 16 + (id * 7919) % (id % 13 == 0 ? 20000 : 300);
}

/* A body is its id, and then a part of the room's bytes, at a place that depends on the id. They
 * are random and never repeat: what is of another message, or from elsewhere in this one, differs.
 */
struct room *room_new(void)
{
    struct room *room = memory_new(sizeof *room);
    uint64_t random = 0x9e3779b97f4a7c15ull;

    for (size_t i = 0; i < sizeof room->bodies; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        room->bodies[i] = (uint8_t)(random >> 32);
    }
    return room;
}

static const uint8_t *body_of(const struct world *w, uint64_t id)
{
    return w->room->bodies + id * 2654435761 % BODY_PLACES;
}

static void body_fill(const struct world *w, uint8_t *bytes, size_t size, uint64_t id)
{
    store_le64(bytes, id);
    memcpy(bytes + 8, body_of(w, id) + 8, size - 8);
}

#define BODY_STRIDE 4096u /* of those that are large, this part is looked at in so many bytes: */
#define BODY_SAMPLE 64u

static void check_bytes(const struct world *w, uint64_t id, const uint8_t *bytes, size_t first,
                        size_t end)
{
    const uint8_t *expected = body_of(w, id);

    if (memcmp(bytes + first, expected + first, end - first) == 0)
        return;
    while (bytes[first] == expected[first])
        first++;
    failed(w, "message %" PRIu64 " has a wrong byte at %zu", id, first);
}

/* The first and the last bytes, and some of each chunk, sector and part in between; each sixteenth
 * message whole. */
static void check_body(const struct world *w, uint64_t id, struct slice body)
{
    if (body.size <= BODY_STRIDE || id % 16 == 0) {
        check_bytes(w, id, body.data, 8, body.size);
        return;
    }
    check_bytes(w, id, body.data, 8, BODY_SAMPLE);
    for (size_t at = BODY_STRIDE + id % BODY_STRIDE; at + BODY_SAMPLE <= body.size;
         at += BODY_STRIDE)
        check_bytes(w, id, body.data, at, at + BODY_SAMPLE);
    check_bytes(w, id, body.data, body.size - BODY_SAMPLE, body.size);
}

size_t model_body(const struct world *w, uint64_t id, uint8_t *bytes)
{
    if (bytes)
        body_fill(w, bytes, body_size(w, id), id);
    return body_size(w, id);
}

uint64_t model_body_id(const struct world *w, struct slice body)
{
    CHECK(w, body.size >= 16, "a body of %zu bytes", body.size);
    uint64_t id = load_le64(body.data);
    CHECK(w, id > 0 && id <= w->ids, "a message that nobody published: %" PRIu64, id);
    CHECK(w, body.size == body_size(w, id), "message %" PRIu64 " has %zu bytes instead of %zu", id,
          body.size, body_size(w, id));
    check_body(w, id, body);
    return id;
}

struct message *model_message(struct actor *actor, uint64_t id, const char *exchange,
                              const char *key)
{
    const struct world *w = actor->world;
    struct buffer *buffer = buffer_new(body_size(w, id));
    body_fill(w, buffer->data, body_size(w, id), id);
    buffer->size = (uint32_t)body_size(w, id);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = w->known[id].persistent ? MESSAGE_PERSISTENT : 0,
        .exchange = slice_text(exchange),
        .key = slice_text(key),
        .properties = slice_of("\0\0", 2),
        .body = slice_of(buffer->data, buffer->size),
        .body_buffer = buffer->size > MESSAGE_INLINE_MAX ? buffer : NULL,
    };
    struct message *message = message_new(broker_message_account(actor->client), &parts);
    buffer_unref(buffer);
    CHECK(w, message, "no message");
    return message;
}

static struct known entry(const struct actor *actor, unsigned queue, bool persistent)
{
    const struct world *w = actor->world;
    const struct catalog_queue *named =
        queue == NOWHERE ? NULL : standing_look(w, actor->worker, queue);

    return (struct known){
        .exists = true,
        .persistent = persistent,
        .queue = (uint8_t)queue,
        .queue_id = named ? named->id : 0,
        .shard = named ? (uint8_t)named->shard : 0,
        .publisher = actor->number,
        .may_be_gone = !named || w->purges[queue] > 0,
        .in_move = named && w->moves[queue] > 0,
        .moves = queue < QUEUES ? w->moves_ever[queue] : 0,
        .born = w->life,
    };
}

uint64_t model_new(struct actor *actor, const unsigned *queues, unsigned count, bool persistent)
{
    struct world *w = actor->world;
    uint64_t id = w->ids + 1;

    for (unsigned i = 0; i < count; i++)
        w->known[++w->ids] = entry(actor, queues[i], persistent);
    if (count == 0)
        w->known[++w->ids] = entry(actor, NOWHERE, persistent);
    w->known[id].copies = (uint8_t)(w->ids + 1 - id);
    return id;
}

/* ---- deliveries ---- */

/* Entries of one client's publishes to one queue in one life, of which both were seen. */
static bool are_comparable(const struct known *one, const struct known *other)
{
    return other->sequence > 0 && one->queue_id == other->queue_id &&
           one->publisher == other->publisher;
}

/* What one client published to one queue in one life stands there in that order: with the nearest
 * on each side that was seen, too. */
static void check_place(const struct world *w, uint64_t id)
{
    const struct known *k = &w->known[id];
    uint64_t before = id - 1, after = id + 1;

    while (before > 0 && w->known[before].born == k->born && !are_comparable(k, &w->known[before]))
        before--;
    CHECK(w,
          before == 0 || w->known[before].born != k->born ||
              w->known[before].sequence < k->sequence,
          "message %" PRIu64 " is number %" PRIu64 " of its queue, and %" PRIu64
          ", which is older, is number %" PRIu64,
          id, k->sequence, before, w->known[before].sequence);
    while (after <= w->ids && w->known[after].born == k->born &&
           !are_comparable(k, &w->known[after]))
        after++;
    CHECK(w,
          after > w->ids || w->known[after].born != k->born ||
              w->known[after].sequence > k->sequence,
          "message %" PRIu64 " is number %" PRIu64 " of its queue, and %" PRIu64
          ", which is newer, is number %" PRIu64,
          id, k->sequence, after, w->known[after].sequence);
}

/* A consumer gets what nobody has seen yet in the order of the queue, but for what was on its way
 * to a consumer that left. A single get is leased when it is asked and told later. */
static void check_order(struct actor *actor, const struct known *k, uint64_t id)
{
    struct world *w = actor->world;

    if (actor->consumer_queue_id == k->queue_id && k->delivered_life != w->life + 1) {
        CHECK(w, k->sequence > actor->consumer_last || w->unseen[k->queue] > 0,
              "message %" PRIu64 ", number %" PRIu64 ", first seen after number %" PRIu64, id,
              k->sequence, actor->consumer_last);
        actor->consumer_last = k->sequence;
    }
    if (actor->consumer_queue_id != k->queue_id)
        actor->consumer_last = 0;
    actor->consumer_queue_id = k->queue_id;
}

static void check_place_known(const struct world *w, uint64_t id, const struct sight *sight)
{
    const struct known *k = &w->known[id];

    CHECK(w, k->queue_id == 0 || k->queue_id == sight->queue_id,
          "message %" PRIu64 " came from a queue that was declared later", id);
    CHECK(w, k->sequence == 0 || k->sequence == sight->sequence,
          "message %" PRIu64 " was number %" PRIu64 ", and is number %" PRIu64, id, k->sequence,
          sight->sequence);
}

static void check_seen(struct world *w, uint64_t id, const struct sight *sight)
{
    struct known *k = &w->known[id];

    CHECK(w, !k->leased, "message %" PRIu64 " was given out twice at a time", id);
    CHECK(w, !(k->settled && k->delivered_life == w->life + 1),
          "message %" PRIu64 " came back after its settlement", id);
    CHECK(w, !k->settle_durable || w->corruption_reported,
          "message %" PRIu64 " came back after its settlement was durable", id);
    if (k->delivered_ever)
        CHECK(w, sight->redelivered || w->corruption_reported,
              "message %" PRIu64 " was seen before, and does not say so", id);
    if (sight->sequence)
        check_place_known(w, id, sight);
    if (k->settled_in) {
        CHECK(w, !w->transactions[k->settled_in].committed || w->corruption_reported,
              "message %" PRIu64 " was settled in transaction %u and is back", id, k->settled_in);
        if (k->queue < QUEUES_STAY)
            w->transactions[k->settled_in].came_back = id;
        k->settled_in = 0;
    }
}

static void note_seen(struct world *w, struct known *k, const struct sight *sight)
{
    /* a log that has failed cannot keep the mark any more */
    k->delivered_ever = k->delivered_ever || !(w->failed_shards & 1u << sight->shard);
    k->delivered_life = w->life + 1;
    k->seen++;
    k->settled = false;
    k->settle_stamp = 0;
    if (k->born == w->life)
        k->may_be_done = true;
    else
        k->was_there = true;
}

uint64_t model_seen(struct actor *actor, struct sight *sight)
{
    struct world *w = actor->world;
    uint64_t id = model_body_id(w, sight->body), copies = w->known[id].copies;

    CHECK(w, copies > 0, "message %" PRIu64 " is none", id);
    for (uint64_t i = 1; i < copies && w->known[id].queue != sight->queue; i++)
        id++;
    struct known *k = &w->known[id];
    w->deliveries++;
    w->far_deliveries += sight->shard > 0 && (sight->shard - 1) % w->workers != actor->worker;
    trace(w, "actor %u gets %" PRIu64 " of queue %u as %" PRIu64 "%s%s", actor->index, id,
          sight->queue, sight->sequence, sight->redelivered ? ", redelivered" : "",
          sight->is_stale ? ", stale" : "");
    CHECK(w, k->queue == sight->queue, "message %" PRIu64 " in another queue", id);
    sight->is_stale |= sight->is_doubtful && k->delivered_life == w->life + 1;
    if (sight->is_stale)
        return id;
    check_seen(w, id, sight);
    sight->is_first = k->delivered_life != w->life + 1;
    if (sight->sequence) {
        k->queue_id = sight->queue_id;
        k->sequence = sight->sequence;
        check_place(w, id);
    }
    if (sight->to_consumer && !k->in_transaction) /* those stand in their place and wait */
        check_order(actor, k, id);
    note_seen(w, k, sight);
    return id;
}

uint64_t model_delivered(struct actor *actor, unsigned queue, const struct delivery *delivery,
                         bool to_consumer)
{
    struct sight sight = {
        .body = message_body(delivery->message),
        .queue = queue,
        .shard = delivery->lease.queue->shard,
        .queue_id = delivery->lease.queue->id,
        .sequence = delivery->lease.sequence,
        .redelivered = delivery->redelivered,
        .to_consumer = to_consumer,
    };

    return model_seen(actor, &sight);
}

/* ---- settlements and confirms ---- */

void model_settled(struct actor *actor, uint64_t id, unsigned shard)
{
    struct world *w = actor->world;
    struct known *k = &w->known[id];

    k->settled = true;
    k->leased = false;
    k->settle_stamp = w->ids + 1;
    k->settle_worker = (uint8_t)actor->worker;
    k->shard = (uint8_t)shard;
    if (k->persistent && w->moves[k->queue] == 0 && w->settling_count < IDS_MAX)
        w->settling[w->settling_count++] = id;
}

/* What is settled in a queue that is being deleted may not get there; and if the power goes before
 * the deletion is on disk, it is back as it was. A transaction waits until it is. */
static bool can_keep(const struct world *w, const struct known *k)
{
    return k->persistent && (k->queue < QUEUES_STAY || standing_must(w, k->queue) == k->queue_id);
}

/* What a worker's clients settled in a shard, before what they published there and what is durable
 * now, is durable, too: one way there, one log, one order. */
static void settlements_durable(struct world *w, unsigned worker, unsigned shard, uint64_t stamp)
{
    uint64_t left = 0;

    for (uint64_t i = 0; i < w->settling_count; i++) {
        struct known *k = &w->known[w->settling[i]];
        bool ours = k->settle_worker == worker && k->shard == shard;
        if (!k->settled || !k->settle_stamp)
            continue;
        if (ours && k->settle_stamp <= stamp)
            k->settle_durable = can_keep(w, k);
        else
            w->settling[left++] = w->settling[i];
    }
    w->settling_count = left;
}

void model_confirmed(struct actor *actor, uint64_t id, bool accepted)
{
    struct world *w = actor->world;

    if (!accepted)
        return;
    for (unsigned i = 0; i < w->known[id].copies; i++) {
        struct known *k = &w->known[id + i];
        k->confirmed = true;
        if (k->persistent && k->queue < QUEUES_STAY && !k->in_move)
            settlements_durable(w, actor->worker, k->shard, id);
    }
    w->confirms++;
}

/* Answered: it has happened; or, where it could not be made durable, nobody knows. */
void model_transacted(struct world *w, uint32_t number, bool done)
{
    struct transaction *t = &w->transactions[number];

    t->committed = done;
    for (uint64_t i = 0; done && i < t->count; i++)
        w->known[t->first + i].confirmed = true;
    for (size_t i = 0; done && i < t->settled_count; i++) {
        struct known *k = &w->known[t->settled[i]];
        CHECK(w, k->settled_in == number,
              "transaction %u is answered, but message %" PRIu64 ", which it settled, came back",
              number, t->settled[i]);
        k->settled_in = 0;
        k->settled = true;
        k->settle_durable = k->persistent && standing_is_durable(k->queue);
    }
}

/* While it moves, settlements and publishes take ways of their own: nothing follows from their
 * order. */
void model_move_asked(struct world *w, unsigned queue)
{
    w->moves[queue]++;
    w->moves_ever[queue]++;
    for (uint64_t i = 0; i < w->settling_count; i++) {
        struct known *k = &w->known[w->settling[i]];
        if (k->queue == queue)
            k->settle_stamp = 0;
    }
}

/* Nothing that is in the queue, or on its way there, is promised any more. */
void model_purge_asked(struct world *w, unsigned queue)
{
    w->purges[queue]++;
    for (uint64_t id = 1; id <= w->ids; id++) {
        if (w->known[id].queue == queue)
            w->known[id].may_be_gone = true;
    }
}

/* What a crash undoes: leases end, settlements that were not durable may not have happened, and
 * queues that nobody keeps on disk are gone. */
void model_life_over(struct world *w)
{
    for (uint64_t id = 1; id <= w->ids; id++) {
        struct known *k = &w->known[id];
        k->leased = false;
        k->settle_stamp = 0;
        k->may_be_gone = k->may_be_gone || !standing_is_durable(k->queue);
    }
    w->settling_count = 0;
    memset(w->purges, 0, sizeof w->purges);
    memset(w->moves, 0, sizeof w->moves);
    memset(w->unseen, 0, sizeof w->unseen);
}

/* ---- the end ---- */

/* Of what was confirmed. One whose queue had expired when it was looked at, went with it. */
static bool is_promised(const struct world *w, const struct known *k)
{
    bool expired =
        standing_expires_ms(w, k->queue) != 0 && k->queue_id != w->standings[k->queue].drained_id;

    return k->persistent && k->confirmed && !k->may_be_gone && !expired;
}

/* What the transaction settled is gone, if it happened, and there, if it did not. */
static void judge_settlements(struct world *w, uint32_t number, bool happened, bool may_miss)
{
    const struct transaction *t = &w->transactions[number];

    CHECK(w, !happened || !t->came_back || may_miss,
          "transaction %u happened, but message %" PRIu64 ", which it settled, came back", number,
          t->came_back);
    for (size_t i = 0; i < t->settled_count; i++) {
        const struct known *k = &w->known[t->settled[i]];
        bool must = is_promised(w, k) && k->settled_in == number;
        CHECK(w, happened || !must || k->present_at_end || may_miss,
              "transaction %u did not happen, but message %" PRIu64 ", which it settled, is gone",
              number, t->settled[i]);
    }
}

static void judge_transaction(struct world *w, uint32_t number, bool may_miss)
{
    const struct transaction *t = &w->transactions[number];
    uint64_t there = 0, missing = 0;

    for (uint64_t i = 0; i < t->count; i++) {
        const struct known *k = &w->known[t->first + i];
        if (k->was_there || k->present_at_end)
            there++;
        else if (!k->may_be_done && !k->may_be_gone)
            missing++;
    }
    CHECK(w, there == 0 || missing == 0 || may_miss,
          "transaction %u happened in part: %" PRIu64 " are there, %" PRIu64 " are not", number,
          there, missing);
    CHECK(w, !t->committed || missing == 0 || may_miss,
          "transaction %u was committed and did not happen", number);
    if (there > 0 || missing > 0)
        judge_settlements(w, number, there > 0, may_miss);
}

void model_deleted(struct world *w, uint64_t queue_id)
{
    for (uint64_t id = 1; id <= w->ids; id++) {
        if (w->known[id].queue_id == queue_id)
            w->known[id].may_be_gone = true;
    }
}

void model_judge(struct world *w)
{
    bool may_miss = world_flipped(w) && w->corruption_reported;

    for (uint64_t id = 1; id <= w->ids; id++) {
        const struct known *k = &w->known[id];
        bool must = is_promised(w, k) && !k->settled && !k->settled_in;
        if (must && !k->present_at_end)
            CHECK(w, may_miss, "message %" PRIu64 " of %s was confirmed and is lost", id,
                  queue_names[k->queue]);
    }
    for (uint32_t t = 1; t <= w->transaction_count; t++)
        judge_transaction(w, t, may_miss);
}
