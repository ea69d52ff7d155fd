/* Peers, parts of transactions: both sides. */
#include "broker/part.h"
#include "broker/peer.h"

#include <stdlib.h>

/* ---- writing ---- */

void peer_part_publish(struct peer *peer, const struct letter_part *part,
                       const struct message *message, struct catalog_queue **queues, size_t count,
                       size_t wanted)
{
    struct letter_part_publish *letter =
        peer_write(peer, LETTER_PART_PUBLISH,
                   sizeof *letter + count * sizeof *letter->ids + message_room_size(message));

    letter->part = *part;
    letter->queues = (uint32_t)count;
    letter->wanted = (uint32_t)wanted;
    for (size_t i = 0; i < count; i++)
        letter->ids[i] = queues[i]->id;
    message_lend(letter_message(letter->ids + count), message);
    peer->sent_bytes += message_footprint(message);
}

static bool same_part(const struct letter_part *a, const struct letter_part *b)
{
    return a->id.start == b->id.start && a->id.number == b->id.number && a->shard == b->shard;
}

void peer_part_settle(struct peer *peer, const struct letter_part *part, const struct lease *lease,
                      enum outcome outcome)
{
    struct letter_part_settle *letter = peer_last(peer, LETTER_PART_SETTLE);

    if (letter && same_part(&letter->part, part) && letter->queue == lease->queue->id &&
        letter->outcome == outcome && letter->last + 1 == lease->sequence) {
        letter->last++;
        return;
    }
    letter = peer_write(peer, LETTER_PART_SETTLE, sizeof *letter);
    *letter = (struct letter_part_settle){*part, outcome, lease->queue->id, lease->sequence,
                                          lease->sequence};
}

void peer_part_drop(struct peer *peer, const struct letter_part *part)
{
    *(struct letter_part *)peer_write(peer, LETTER_PART_DROP, sizeof *part) = *part;
}

void peer_part_ask(struct request *request, struct peer *peer, const struct letter_part *part,
                   bool alone, uint32_t decider)
{
    struct letter_ask_part *letter = peer_ask(peer, LETTER_ASK_PART, sizeof *letter, request, 0);

    letter->part = *part;
    letter->alone = alone;
    letter->decider = decider;
}

void peer_decide(struct request *request, struct peer *peer, const struct letter_part *decider,
                 const uint32_t *shards, size_t count)
{
    struct letter_ask_decision *letter =
        peer_ask(peer, LETTER_ASK_DECISION, sizeof *letter + count * sizeof *shards, request, 0);

    letter->part = *decider;
    letter->count = (uint32_t)count;
    memcpy(letter + 1, shards, count * sizeof *shards);
}

void peer_ask_end(struct request *request, struct peer *peer, const struct letter_part *part,
                  uint32_t decider, bool commit)
{
    struct letter_ask_end *letter = peer_ask(peer, LETTER_ASK_END, sizeof *letter, request, 0);

    letter->end = (struct letter_part_end){*part, decider, commit};
}

void peer_part_end(struct peer *peer, struct transaction_id id, uint32_t shard, uint32_t decider,
                   bool commit)
{
    struct letter_part_end *letter = peer_write(peer, LETTER_PART_END, sizeof *letter);

    *letter = (struct letter_part_end){{id, shard}, decider, commit};
}

static void tell_decider(struct peer *peer, enum letter kind, struct transaction_id id,
                         uint32_t decider, uint32_t participant)
{
    struct letter_part_about *letter = peer_write(peer, kind, sizeof *letter);

    *letter = (struct letter_part_about){{id, decider}, participant};
}

void peer_tell_applied(struct peer *peer, struct transaction_id id, uint32_t decider,
                       uint32_t participant)
{
    tell_decider(peer, LETTER_PART_APPLIED, id, decider, participant);
}

void peer_ask_decision(struct peer *peer, struct transaction_id id, uint32_t decider,
                       uint32_t participant)
{
    tell_decider(peer, LETTER_PART_DOUBT, id, decider, participant);
}

/* ---- reading ---- */

/* NULL: it is not here, since directories of shards were taken away; then nobody can know. */
static struct shard *shard_here(const struct peer *peer, uint32_t number)
{
    struct place *place = worker_place(peer->place.worker, number);

    return place && place->is_here ? shard_of(place) : NULL;
}

static void publish(struct peer *peer, struct slice bytes)
{
    const struct letter_part_publish *letter = letter_at(bytes);
    struct worker *worker = peer->place.worker;
    struct message *lent =
        message_lent(letter_message(letter->ids + letter->queues), &worker->messages);
    struct message *message = message_ref(lent);
    struct catalog_queue **queues = memory_new((letter->queues + 1) * sizeof(void *));
    struct part *part = part_collect(shard_here(peer, letter->part.shard), letter->part.id);
    size_t count = 0;

    ASSERT(message && part); /* without limit; from ourselves */
    peer->received_bytes += message_footprint(lent);
    message_lent_end(lent);
    for (uint32_t i = 0; i < letter->queues; i++) {
        struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, letter->ids[i]);
        if (queue && queue->hosted)
            queues[count++] = queue;
    }
    if (count < letter->queues)
        part_wait_settled(part, worker->catalog.events);
    part_publish(part, message, queues, count, letter->wanted);
    free(queues);
    message_unref(message);
}

static void settle(struct peer *peer, struct slice bytes)
{
    const struct letter_part_settle *letter = letter_at(bytes);
    const struct catalog *catalog = &peer->place.worker->catalog;
    const struct catalog_queue *queue = catalog_queue_by_id(catalog, letter->queue);
    struct part *part = part_collect(shard_here(peer, letter->part.shard), letter->part.id);

    ASSERT(part);
    if (!queue || !queue->hosted) {
        part_wait_settled(part, catalog->events);
        return;
    }
    for (uint64_t sequence = letter->first; sequence <= letter->last; sequence++)
        part_settle(part, queue->hosted, sequence, (enum outcome)letter->outcome);
}

/* A part that has to wait before it is done alone. */
struct waiting {
    struct shard *shard;
    struct transaction_id id;
};

static int waited(struct request *request)
{
    const struct waiting *waiting = request->internal;

    if (request->failure.code == 0)
        part_do_alone(part_collect(waiting->shard, waiting->id), request);
    else
        part_drop(waiting->shard, waiting->id);
    free(request->internal);
    request->internal = NULL;
    return DONE;
}

static void wait_alone(struct shard *shard, const struct part *part, struct transaction_id id,
                       struct request *request)
{
    struct waiting *waiting = memory_new(sizeof *waiting);

    *waiting = (struct waiting){shard, id};
    request->internal = waiting;
    request->next = waited;
    request_wait(request, &shard->place.worker->catalog_settled, part_waits_for(part));
}

static void begin(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_part *letter = letter_at(bytes);
    struct request *request = asked_begin(peer, &letter->ask);
    struct shard *shard = shard_here(peer, letter->part.shard);
    struct part *part = part_collect(shard, letter->part.id);

    ASSERT(part);
    if (!letter->alone) {
        part_prepare(part, letter->decider, request);
        return;
    }
    if (part_waits_for(part))
        wait_alone(shard, part, letter->part.id, request);
    else
        part_do_alone(part, request);
    asked_end(request, DONE);
}

/* Where waiting for it has failed, the decision may be on disk, or not. */
static int decided(struct request *request)
{
    if (request->failure.code != 0)
        request->failure.code = E_TIMEOUT;
    return DONE;
}

static void decide(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_decision *letter = letter_at(bytes);
    struct request *request = asked_begin(peer, &letter->ask);
    struct shard *shard = shard_here(peer, letter->part.shard);

    int result = decision_make(shard, letter->part.id, (const uint32_t *)(letter + 1),
                               letter->count, request);
    if (result == 0)
        request->next = decided;
    asked_end(request, DONE);
}

static void end(struct peer *peer, struct slice bytes)
{
    const struct letter_part_end *letter = letter_at(bytes);
    struct shard *shard = shard_here(peer, letter->part.shard);

    if (shard && !peer->place.worker->is_closing) /* the next start goes on with it */
        part_end(shard, letter->part.id, letter->decider, letter->commit, NULL);
}

static void ask_end(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_end *letter = letter_at(bytes);
    const struct letter_part_end *what = &letter->end;
    struct request *request = asked_begin(peer, &letter->ask);

    part_end(shard_here(peer, what->part.shard), what->part.id, what->decider, what->commit,
             request);
}

static void drop(struct peer *peer, struct slice bytes)
{
    const struct letter_part *letter = letter_at(bytes);

    part_drop(shard_here(peer, letter->shard), letter->id);
}

/* The decider that a letter is about; NULL also when this worker closes: the next start goes on
 * with it. */
static struct shard *decider_here(const struct peer *peer, const struct letter_part_about *letter)
{
    return peer->place.worker->is_closing ? NULL : shard_here(peer, letter->decider.shard);
}

static void applied(struct peer *peer, struct slice bytes)
{
    const struct letter_part_about *letter = letter_at(bytes);
    struct shard *shard = decider_here(peer, letter);

    if (shard)
        decision_applied(shard, letter->decider.id, letter->participant);
}

static void doubt(struct peer *peer, struct slice bytes)
{
    const struct letter_part_about *letter = letter_at(bytes);
    struct shard *shard = decider_here(peer, letter);

    if (shard)
        ledger_answer(shard, letter->decider.id, letter->participant);
}

letter_reader *const peer_part_readers[LETTERS] = {
    [LETTER_PART_PUBLISH] = publish, [LETTER_PART_SETTLE] = settle,   [LETTER_PART_DROP] = drop,
    [LETTER_ASK_PART] = begin,       [LETTER_ASK_DECISION] = decide,  [LETTER_ASK_END] = ask_end,
    [LETTER_PART_END] = end,         [LETTER_PART_APPLIED] = applied, [LETTER_PART_DOUBT] = doubt,
};
