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
        .next = begin->standing.next,
        .fresh = begin->standing.fresh,
        .mark = begin->standing.mark,
        .returning = begin->returning,
        .returning_exclusive = begin->returning_exclusive,
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
    letter->is_logged = traveller->is_logged;
    letter->is_leased = traveller->is_leased;
    letter->is_returned = traveller->is_returned;
    message_lend(&letter->message, traveller->message);
    peer->sent_bytes += message_footprint(traveller->message);
}

void peer_tell_settle(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                      uint64_t sequence, enum outcome outcome)
{
    struct letter_move_settle *letter =
        peer_write(worker->peers[to], LETTER_MOVE_SETTLE, sizeof *letter);

    *letter = (struct letter_move_settle){{queue, number}, sequence, outcome};
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

static void begin(struct worker *worker, const struct letter_move_begin *letter)
{
    struct move_begin begin = {
        .queue = letter->move.queue,
        .number = letter->move.number,
        .standing = {letter->next, letter->fresh, letter->mark},
        .returning = letter->returning,
        .returning_exclusive = letter->returning_exclusive,
    };

    arriving_begin(worker, &begin);
}

static void message(struct peer *peer, struct letter_move_message *letter)
{
    struct worker *worker = peer->place.worker;
    struct message *lent = message_lent(&letter->message, &worker->messages);
    struct queue_traveller traveller = {
        .message = message_ref(lent),
        .sequence = letter->sequence,
        .is_logged = letter->is_logged,
        .is_leased = letter->is_leased,
        .is_returned = letter->is_returned,
        .count = letter->count,
    };

    ASSERT(traveller.message); /* without limit */
    message_lent_end(lent);
    peer->received_bytes += message_footprint(traveller.message);
    arriving_message(worker, letter->move.queue, letter->move.number, &traveller);
    message_unref(traveller.message);
}

static void move_asked(struct peer *peer, const struct letter_ask_move *letter)
{
    struct request *request = asked_begin(peer, &letter->ask);

    if (move_decide(peer->place.worker, letter->ask.queue, letter->shard, request,
                    &request->failure) != 0)
        asked_end(request, DONE);
}

void peer_move_received(struct peer *peer, unsigned kind, struct slice bytes)
{
    struct worker *worker = peer->place.worker;
    void *data = (void *)(uintptr_t)bytes.data; /* the reader's to write into */
    const struct letter_move *move = data;
    const struct letter_move_settle *settle = data;
    const struct letter_move_result *result = data;
    const struct letter_consumers_gone *gone = data;

    switch (kind) {
    case LETTER_ASK_MOVE:
        move_asked(peer, data);
        break;
    case LETTER_ASK_REBALANCE:
        rebalance_begin(worker);
        asked_end(asked_begin(peer, data), DONE);
        break;
    case LETTER_QUIET:
        move_quiet(worker, move->queue, move->number);
        break;
    case LETTER_MOVE_BEGIN:
        begin(worker, data);
        break;
    case LETTER_MOVE_MESSAGE:
        message(peer, data);
        break;
    case LETTER_MOVE_SETTLE:
        arriving_settle(worker, move->queue, move->number, settle->sequence,
                        (enum outcome)settle->outcome);
        break;
    case LETTER_MOVE_END:
        arriving_end(worker, move->queue, move->number);
        break;
    case LETTER_MOVE_RESULT:
        move_result(worker, move->queue, move->number, result->result);
        break;
    case LETTER_CONSUMERS_GONE:
        move_consumers_gone(worker, gone->queue, gone->count);
        break;
    default:
        ASSERT(false); /* peer.c's table says whose a letter is */
    }
}
