/* Peers, queues on their way: both sides. */
#include "broker/move.h"
#include "broker/peer.h"

/* ---- writing ---- */

void peer_tell_quiet(struct worker *worker, unsigned to, uint64_t queue, uint64_t number)
{
    struct letter_move *letter = peer_write(worker->peers[to], LETTER_QUIET, sizeof *letter);

    *letter = (struct letter_move){queue, number};
}

void peer_tell_begin(struct worker *worker, unsigned to, const struct move_begin *begin)
{
    struct letter_move_begin *letter =
        peer_write(worker->peers[to], LETTER_MOVE_BEGIN, sizeof *letter);

    *letter = (struct letter_move_begin){
        .move = {begin->queue, begin->number},
        .returning = begin->returning,
        .returning_exclusive = begin->returning_exclusive,
    };
}

void peer_tell_lane(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                    const struct queue_standing *standing)
{
    struct letter_move_lane *letter =
        peer_write(worker->peers[to], LETTER_MOVE_LANE, sizeof *letter);

    *letter = (struct letter_move_lane){
        .move = {queue, number},
        .next = standing->next,
        .fresh = standing->fresh,
        .mark = standing->mark,
        .set_aside = standing->set_aside,
    };
}

void peer_tell_message(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                       const struct queue_traveller *traveller)
{
    struct peer *peer = worker->peers[to];
    struct letter_move_message *letter = peer_write(peer, LETTER_MOVE_MESSAGE,
                                                    offsetof(struct letter_move_message, message) +
                                                        message_room_size(traveller->message));

    letter->move = (struct letter_move){queue, number};
    letter->sequence = traveller->sequence;
    letter->count = traveller->count;
    letter->due_ms = traveller->due_ms;
    letter->is_logged = traveller->is_logged;
    letter->is_leased = traveller->is_leased;
    letter->is_returned = traveller->is_returned;
    message_lend(&letter->message, traveller->message);
    peer->sent_bytes += message_footprint(traveller->message);
}

void peer_tell_settle(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                      uint64_t first, uint64_t last, enum outcome outcome)
{
    struct letter_move_settle *letter =
        peer_write(worker->peers[to], LETTER_MOVE_SETTLE, sizeof *letter);

    *letter = (struct letter_move_settle){{queue, number}, first, last, outcome};
}

void peer_tell_end(struct worker *worker, unsigned to, uint64_t queue, uint64_t number)
{
    struct letter_move *letter = peer_write(worker->peers[to], LETTER_MOVE_END, sizeof *letter);

    *letter = (struct letter_move){queue, number};
}

void peer_tell_result(struct worker *worker, uint64_t queue, uint64_t number, int result)
{
    struct letter_move_result *letter =
        peer_write(worker->peers[0], LETTER_MOVE_RESULT, sizeof *letter);

    *letter = (struct letter_move_result){{queue, number}, result};
}

void peer_tell_gone(struct worker *worker, unsigned to, uint64_t queue, uint32_t count)
{
    struct letter_consumers_gone *letter =
        peer_write(worker->peers[to], LETTER_CONSUMERS_GONE, sizeof *letter);

    *letter = (struct letter_consumers_gone){queue, count};
}

int peer_ask_move(struct request *request, uint64_t queue, uint32_t shard)
{
    struct letter_ask_move *letter = peer_ask(request->client->worker->peers[0], LETTER_ASK_MOVE,
                                              sizeof *letter, request, queue);

    letter->shard = shard;
    return PENDING;
}

int peer_ask_rebalance(struct request *request)
{
    peer_ask(request->client->worker->peers[0], LETTER_ASK_REBALANCE, sizeof(struct letter_ask),
             request, 0);
    return PENDING;
}

/* ---- reading ---- */

static void begin(struct peer *peer, struct slice bytes)
{
    const struct letter_move_begin *letter = letter_at(bytes);
    struct move_begin begin = {
        .queue = letter->move.queue,
        .number = letter->move.number,
        .returning = letter->returning,
        .returning_exclusive = letter->returning_exclusive,
    };

    arriving_begin(peer->place.worker, &begin);
}

static void lane(struct peer *peer, struct slice bytes)
{
    const struct letter_move_lane *letter = letter_at(bytes);
    struct queue_standing standing = {letter->next, letter->fresh, letter->mark, letter->set_aside};

    arriving_lane(peer->place.worker, letter->move.queue, letter->move.number, &standing);
}

static void message(struct peer *peer, struct slice bytes)
{
    struct letter_move_message *letter = letter_at(bytes);
    struct worker *worker = peer->place.worker;
    struct message *lent = message_lent(&letter->message, &worker->messages);
    struct queue_traveller traveller = {
        .message = message_ref(lent),
        .sequence = letter->sequence,
        .is_logged = letter->is_logged,
        .is_leased = letter->is_leased,
        .is_returned = letter->is_returned,
        .count = letter->count,
        .due_ms = letter->due_ms,
    };

    ASSERT(traveller.message); /* without limit */
    message_lent_end(lent);
    peer->received_bytes += message_footprint(traveller.message);
    arriving_message(worker, letter->move.queue, letter->move.number, &traveller);
    message_unref(traveller.message);
}

static void move_asked(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_move *letter = letter_at(bytes);
    struct request *request = asked_begin(peer, &letter->ask);

    if (move_decide(peer->place.worker, letter->ask.queue, letter->shard, request,
                    &request->failure) != 0)
        asked_end(request, DONE);
}

static void rebalance_asked(struct peer *peer, struct slice bytes)
{
    rebalance_begin(peer->place.worker);
    asked_end(asked_begin(peer, letter_at(bytes)), DONE);
}

static void quiet(struct peer *peer, struct slice bytes)
{
    const struct letter_move *letter = letter_at(bytes);

    move_quiet(peer->place.worker, letter->queue, letter->number);
}

static void settle(struct peer *peer, struct slice bytes)
{
    const struct letter_move_settle *letter = letter_at(bytes);

    arriving_settle(peer->place.worker, letter->move.queue, letter->move.number, letter->first,
                    letter->last, (enum outcome)letter->outcome);
}

static void end(struct peer *peer, struct slice bytes)
{
    const struct letter_move *letter = letter_at(bytes);

    arriving_end(peer->place.worker, letter->queue, letter->number);
}

static void result(struct peer *peer, struct slice bytes)
{
    const struct letter_move_result *letter = letter_at(bytes);

    move_result(peer->place.worker, letter->move.queue, letter->move.number, letter->result);
}

static void gone(struct peer *peer, struct slice bytes)
{
    const struct letter_consumers_gone *letter = letter_at(bytes);

    move_consumers_gone(peer->place.worker, letter->queue, letter->count);
}

letter_reader *const peer_move_readers[LETTERS] = {
    [LETTER_ASK_MOVE] = move_asked, [LETTER_ASK_REBALANCE] = rebalance_asked,
    [LETTER_QUIET] = quiet,         [LETTER_MOVE_BEGIN] = begin,
    [LETTER_MOVE_LANE] = lane,      [LETTER_MOVE_MESSAGE] = message,
    [LETTER_MOVE_SETTLE] = settle,  [LETTER_MOVE_END] = end,
    [LETTER_MOVE_RESULT] = result,  [LETTER_CONSUMERS_GONE] = gone,
};
